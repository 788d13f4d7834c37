//! The rules as nftables reads them.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

use crate::config::checked::capture::{CaptureMode, CaptureScope, OnFailure, UdpMode};
use crate::role::capture::{Rules, Selector};
use crate::vocab::capture::{IN_MARK, LEFT_MARK, MARK_MASK, OUT_MARK, OWN_MARK, PASSED_MARK};

/// The one table that is ours.
pub const TABLE: &str = "ringgate";

/// Port of DNS.
const DNS: u16 = 53;
/// The highest user; the number above it means none.
const LAST_UID: u32 = u32::MAX - 1;

/// A script that replaces what is loaded by `rules`, whole or not at all, whether or not anything was loaded.
#[must_use]
pub fn script(rules: &Rules<'_>) -> String {
    let mut out = Script::default();
    out.0.push_str(&teardown());
    out.line(0, format_args!("table inet {TABLE} {{"));
    out.line(
        1,
        format_args!("comment \"capture of node {}\"", quoted(rules.node)),
    );
    sets(rules, &mut out);
    guards(rules, &mut out);
    match rules.capture.mode {
        CaptureMode::Tproxy => tproxy(rules, &mut out),
        CaptureMode::Redirect => redirect(rules, &mut out),
    }
    names(rules, &mut out);
    datagrams(rules, &mut out);
    out.line(0, format_args!("}}"));
    out.0
}

/// A script that removes the table, also where there is none.
#[must_use]
pub fn teardown() -> String {
    // Without the first line the second would fail where nothing is loaded.
    format!("table inet {TABLE}\ndelete table inet {TABLE}\n")
}

#[derive(Default)]
struct Script(String);

impl Script {
    fn line(&mut self, depth: usize, text: std::fmt::Arguments<'_>) {
        let indent = " ".repeat(depth.saturating_mul(2));
        self.0.push_str(&format!("{indent}{text}\n"));
    }

    fn rule(&mut self, text: impl Display) {
        self.line(2, format_args!("{text}"));
    }

    fn chain(&mut self, name: &str, base: &str, body: impl FnOnce(&mut Self)) {
        self.line(1, format_args!("chain {name} {{"));
        if !base.is_empty() {
            self.rule(format_args!("type {base}; policy accept;"));
        }
        body(self);
        self.line(1, format_args!("}}"));
    }

    fn set(&mut self, name: &str, kind: &str, elements: &[String]) {
        self.line(1, format_args!("set {name} {{"));
        self.rule(format_args!("type {kind}"));
        if !elements.is_empty() {
            self.rule(format_args!("elements = {{ {} }}", elements.join(", ")));
        }
        self.line(1, format_args!("}}"));
    }
}

/// What cannot end a quoted word of nftables.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "-_./@: ".contains(c);
    let kept: String = text.chars().filter(|c| plain(*c)).collect();
    // The kernel keeps 128 bytes of a comment.
    kept.chars().take(64).collect()
}

const INTERVAL: &str = "; flags interval; auto-merge";

fn sets(rules: &Rules<'_>, out: &mut Script) {
    let capture = rules.capture;
    let families = |name: &str, all: &[(IpAddr, String)], more: &str, out: &mut Script| {
        for (suffix, kind, v4) in [("4", "ipv4_addr", true), ("6", "ipv6_addr", false)] {
            let of = all.iter().filter(|(ip, _)| ip.is_ipv4() == v4);
            let texts: Vec<String> = of.map(|(_, text)| text.clone()).collect();
            out.set(&format!("{name}{suffix}"), &format!("{kind}{more}"), &texts);
        }
    };
    let ranges = |ranges: &[crate::vocab::cidr::Cidr]| -> Vec<(IpAddr, String)> {
        ranges.iter().map(|r| (r.first(), r.to_string())).collect()
    };
    let addresses: Vec<_> = rules
        .addresses
        .iter()
        .map(|ip| (*ip, ip.to_string()))
        .collect();
    families("workloads", &addresses, "", out);
    families(
        "outside",
        &ranges(&capture.exclude_outbound_ranges),
        INTERVAL,
        out,
    );
    families(
        "clients",
        &ranges(&capture.exclude_inbound_ranges),
        INTERVAL,
        out,
    );
    let pair = |a: &SocketAddr| (a.ip(), format!("{} . {}", a.ip(), a.port()));
    let udp: Vec<_> = rules.udp.iter().map(pair).collect();
    families("datagrams", &udp, " . inet_service", out);
    let own = rules.listeners.iter().filter(|a| !a.ip().is_unspecified());
    let own: Vec<_> = own.map(pair).collect();
    families("listeners", &own, " . inet_service", out);
    let words = |all: &[u16]| -> Vec<String> { all.iter().map(ToString::to_string).collect() };
    out.set(
        "ports_out",
        "inet_service",
        &words(&capture.exclude_outbound_ports),
    );
    let mut inbound = capture.exclude_inbound_ports.clone();
    let every = rules.listeners.iter().filter(|a| a.ip().is_unspecified());
    inbound.extend(every.map(SocketAddr::port));
    inbound.sort_unstable();
    inbound.dedup();
    out.set("ports_in", "inet_service", &words(&inbound));
    let uids: Vec<String> = capture
        .exclude_uids
        .iter()
        .map(ToString::to_string)
        .collect();
    out.set("exempt", "uid", &uids);
    let running = |key: &str| rules.running.map(|r| format!("{key} timeout {}s", r.for_s));
    let own = rules
        .running
        .and_then(|r| r.uid)
        .and_then(|uid| running(&uid.to_string()));
    out.set("own", "uid; flags timeout", own.as_slice());
    if capture.on_failure == OnFailure::Open {
        let alive: Vec<String> = ["ipv4", "ipv6"].into_iter().filter_map(running).collect();
        out.set("alive", "nf_proto; flags timeout", &alive);
    }
}

fn set_mark(what: &str, mark: u32) -> String {
    format!("{what} set {what} & {:#010x} | {mark:#x}", !MARK_MASK)
}

fn is_mark(what: &str, mark: u32) -> String {
    format!("{what} & {MARK_MASK:#x} == {mark:#x}")
}

/// Chains that both modes share: answers to a client whose address the node took on go back to the node.
fn guards(rules: &Rules<'_>, out: &mut Script) {
    if rules.original_source {
        out.chain("answers", "", |out| {
            out.rule(format_args!(
                "{} {}",
                is_mark("ct mark", OUT_MARK),
                set_mark("meta mark", OUT_MARK)
            ));
        });
    }
}

/// Rules before which nothing of the node itself is captured, nor anything while it is down and that is meant; `verdict`
/// on what users that are left alone send.
fn exempt(rules: &Rules<'_>, verdict: &str, out: &mut Script) {
    if rules.capture.on_failure == OnFailure::Open {
        out.rule("meta nfproto != @alive return");
    }
    out.rule(format_args!("meta skuid @own {verdict}"));
    out.rule(format_args!("meta skuid @exempt {verdict}"));
}

fn leaving(rules: &Rules<'_>, exempted: &str, out: &mut Script) {
    exempt(rules, exempted, out);
    out.rule("meta l4proto != tcp return");
    out.rule("ip daddr 127.0.0.0/8 return");
    out.rule("ip6 daddr ::1 return");
    out.rule("ip daddr @outside4 goto past");
    out.rule("ip6 daddr @outside6 goto past");
    out.rule("tcp dport @ports_out goto past");
    selected(rules, "goto leave", out);
    out.rule("goto past");
}

/// Whatever does not leave through the node but calls a workload's own address comes in like anybody else: exclusions of
/// outbound traffic open no workload of this machine.
fn past(out: &mut Script) {
    out.chain("past", "", |out| {
        out.rule(own_returns());
        out.rule("oifname \"lo\" ip daddr @workloads4 goto enter");
        out.rule("oifname \"lo\" ip6 daddr @workloads6 goto enter");
    });
}

fn own_returns() -> String {
    format!("{} return", is_mark("meta mark", OWN_MARK))
}

/// The node's own mark counts for those alone who are no workload: CAP_NET_RAW is enough to set it, and the node itself is
/// never selected.
fn selected(rules: &Rules<'_>, verdict: &str, out: &mut Script) {
    for Selector {
        uid,
        cgroups,
        mark,
        class_id,
    } in &rules.selectors
    {
        let mut words = Vec::new();
        words.extend(uid.map(|uid| format!("meta skuid {uid}")));
        words.extend(
            cgroups
                .iter()
                .map(|c| format!("socket cgroupv2 level {} \"{}\"", c.level, c.path)),
        );
        words.extend(mark.map(|mark| format!("meta mark {mark:#x}")));
        words.extend(class_id.map(|class| format!("meta cgroup {class}")));
        out.rule(format_args!("{} {verdict}", words.join(" ")));
    }
    if rules.capture.outbound == CaptureScope::All {
        out.rule(own_returns());
        out.rule(verdict);
    }
}

/// What has a listener of its own in this process, or is to be left alone.
fn unneeded(out: &mut Script) {
    out.rule("tcp dport @ports_in return");
    out.rule("ip daddr . tcp dport @listeners4 return");
    out.rule("ip6 daddr . tcp dport @listeners6 return");
}

/// From the network: connections to this machine.
fn entering(rules: &Rules<'_>, verdict: &str, out: &mut Script) {
    out.rule("iifname \"lo\" return");
    if rules.capture.on_failure == OnFailure::Open {
        out.rule("meta nfproto != @alive return");
    }
    out.rule("fib daddr type != local return");
    unneeded(out);
    out.rule("ip saddr @clients4 return");
    out.rule("ip6 saddr @clients6 return");
    out.rule(verdict);
}

/// The answering direction is never captured: a workload answers those whom it was asked by.
fn answering(rules: &Rules<'_>, out: &mut Script) {
    if rules.original_source {
        out.rule("ct direction reply goto answers");
    } else {
        out.rule("ct direction reply return");
    }
}

/// What the node sends as the client, towards an app, is remembered by its connection.
fn remembered(rules: &Rules<'_>, out: &mut Script) {
    if rules.original_source {
        out.rule(format_args!(
            "{} ct direction original {}",
            is_mark("meta mark", OWN_MARK),
            set_mark("ct mark", OUT_MARK)
        ));
    }
}

fn tproxy(rules: &Rules<'_>, out: &mut Script) {
    out.chain("leave", "", |out| {
        if rules.dns.is_some() {
            out.rule(format_args!("tcp dport {DNS} return"));
        }
        out.rule(set_mark("ct mark", LEFT_MARK));
        out.rule(format_args!("counter {}", set_mark("meta mark", OUT_MARK)));
    });
    out.chain("enter", "", |out| {
        unneeded(out);
        out.rule(format_args!("counter {}", set_mark("meta mark", IN_MARK)));
    });
    past(out);
    out.chain("passed", "", |out| {
        out.rule(set_mark("ct mark", PASSED_MARK));
    });
    out.chain("orphan", "", |out| {
        out.rule(format_args!("meta skuid 0-{LAST_UID} return"));
        out.rule("accept");
    });
    out.chain("to_outbound", "", |out| divert(rules.outbound, out));
    out.chain("to_inbound", "", |out| divert(rules.inbound, out));
    out.chain("output", "route hook output priority mangle", |out| {
        // What a closed socket has yet to send has no user any more, so that who it was is remembered by the connection:
        // decided packet by packet, the end of a stream would leave in plaintext, past the node.
        out.rule(format_args!(
            "ct direction original {} {} return",
            is_mark("ct mark", LEFT_MARK),
            set_mark("meta mark", OUT_MARK)
        ));
        out.rule(format_args!(
            "{} ct state != new return",
            is_mark("meta mark", OWN_MARK)
        ));
        answering(rules, out);
        out.rule(format_args!(
            "{} jump orphan",
            is_mark("ct mark", PASSED_MARK)
        ));
        leaving(rules, "goto passed", out);
    });
    out.chain(
        "prerouting",
        "filter hook prerouting priority mangle",
        |out| {
            remembered(rules, out);
            out.rule(own_returns());
            answering(rules, out);
            out.rule("meta l4proto != tcp return");
            let diverted =
                |mark, chain| format!("iifname \"lo\" {} goto {chain}", is_mark("meta mark", mark));
            out.rule(diverted(OUT_MARK, "to_outbound"));
            out.rule(diverted(IN_MARK, "to_inbound"));
            entering(rules, "goto to_inbound", out);
        },
    );
}

/// Without a listener the first rule does not match, and what came for the node must reach nobody else.
fn divert(port: u16, out: &mut Script) {
    out.rule(format_args!(
        "meta l4proto tcp tproxy to :{port} counter accept"
    ));
    out.rule("meta l4proto tcp counter reject with tcp reset");
}

fn redirect(rules: &Rules<'_>, out: &mut Script) {
    let turn = |port: u16| format!("meta l4proto tcp counter redirect to :{port}");
    out.chain("leave", "", |out| out.rule(turn(rules.outbound)));
    out.chain("enter", "", |out| {
        unneeded(out);
        out.rule(turn(rules.inbound));
    });
    past(out);
    out.chain("to_inbound", "", |out| out.rule(turn(rules.inbound)));
    // Translation is by connection: only the first packet comes here.
    out.chain("output", "nat hook output priority -100", |out| {
        leaving(rules, "return", out);
    });
    out.chain("prerouting", "nat hook prerouting priority dstnat", |out| {
        out.rule("meta l4proto != tcp return");
        entering(rules, "goto to_inbound", out);
    });
    if rules.original_source {
        out.chain("answers_out", "route hook output priority mangle", |out| {
            out.rule(own_returns());
            answering(rules, out);
        });
        out.chain(
            "answers_in",
            "filter hook prerouting priority mangle",
            |out| {
                remembered(rules, out);
                answering(rules, out);
            },
        );
    }
}

/// Questions of captured workloads to any nameserver, one on loopback included, go to the node's own.
fn names(rules: &Rules<'_>, out: &mut Script) {
    let Some(port) = rules.dns else { return };
    out.chain("ask", "", |out| {
        for protocol in ["udp", "tcp"] {
            out.rule(format_args!(
                "{protocol} dport {DNS} counter redirect to :{port}"
            ));
        }
    });
    // Before REDIRECT's own chain: the first translation counts.
    out.chain("names", "nat hook output priority -101", |out| {
        exempt(rules, "return", out);
        selected(rules, "goto ask", out);
    });
}

/// What is neither TCP nor ICMP cannot be judged, so that it does not leave a captured workload.
fn datagrams(rules: &Rules<'_>, out: &mut Script) {
    if rules.capture.udp == UdpMode::Pass {
        return;
    }
    out.chain("refuse", "", |out| {
        out.rule("counter reject with icmpx admin-prohibited");
    });
    out.chain("unjudged", "filter hook output priority filter", |out| {
        out.rule("meta l4proto { tcp, icmp, ipv6-icmp } return");
        exempt(rules, "return", out);
        out.rule("ip daddr 127.0.0.0/8 return");
        out.rule("ip6 daddr ::1 return");
        out.rule("ip daddr . udp dport @datagrams4 return");
        out.rule("ip6 daddr . udp dport @datagrams6 return");
        selected(rules, "goto refuse", out);
    });
}

#[cfg(test)]
mod tests;
