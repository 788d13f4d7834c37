//! The rules, chain by chain: what must come before what.

use super::*;
use crate::config::checked::capture::{Capture, CaptureMode, CaptureScope, OnFailure, UdpMode};
use crate::role::capture::{Cgroup, Running};

fn capture() -> Capture {
    Capture {
        mode: CaptureMode::Tproxy,
        on_failure: OnFailure::Closed,
        outbound: CaptureScope::Workloads,
        udp: UdpMode::Reject,
        udp_destinations: Vec::new(),
        exclude_outbound_ports: vec![25],
        exclude_outbound_ranges: vec!["10.9.0.0/16".parse().unwrap(), "fd09::/16".parse().unwrap()],
        exclude_inbound_ports: vec![22],
        exclude_inbound_ranges: Vec::new(),
        exclude_uids: vec![108],
        route_table: 100,
    }
}

fn rules(capture: &Capture) -> Rules<'_> {
    Rules {
        capture,
        node: "vm\" }\n1",
        outbound: 15001,
        inbound: 15006,
        listeners: vec![
            "0.0.0.0:15008".parse().unwrap(),
            "10.0.0.9:15012".parse().unwrap(),
        ],
        selectors: vec![
            Selector {
                uid: Some(1001),
                ..Selector::default()
            },
            Selector {
                uid: Some(1002),
                cgroups: vec![Cgroup {
                    path: "system.slice/a.service".into(),
                    level: 2,
                    id: 7,
                }],
                mark: Some(7),
                class_id: Some(0x1_0005),
            },
        ],
        addresses: vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
        dns: None,
        udp: vec!["10.0.0.53:53".parse().unwrap()],
        original_source: true,
        running: None,
    }
}

/// The rules of one chain, in order.
fn chain<'s>(script: &'s str, name: &str) -> Vec<&'s str> {
    let start = format!("  chain {name} {{");
    let lines = script.lines().skip_while(|line| *line != start).skip(1);
    lines
        .take_while(|line| *line != "  }")
        .map(str::trim)
        .collect()
}

fn position(chain: &[&str], rule: &str) -> usize {
    let at = chain.iter().position(|line| line.starts_with(rule));
    at.unwrap_or_else(|| panic!("no `{rule}` in {chain:#?}"))
}

#[test]
fn a_replacement_is_one_transaction_without_words_of_others() {
    let script = script(&rules(&capture()));
    let lines: Vec<&str> = script.lines().take(4).collect();
    let want = [
        "table inet ringgate",
        "delete table inet ringgate",
        "table inet ringgate {",
        "  comment \"capture of node vm 1\"",
    ];
    assert_eq!(lines, want);
    assert_eq!(script.matches("flush").count(), 0, "nobody else's rules");
}

#[test]
fn what_is_let_pass_comes_before_what_is_captured() {
    let script = script(&rules(&capture()));
    let output = chain(&script, "output");
    let captured = position(&output, "meta skuid 1001 goto leave");
    for passes in [
        "meta mark & 0xfff == 0x539 ct state != new return",
        "ct direction reply goto answers",
        "meta skuid @own goto passed",
        "meta skuid @exempt goto passed",
        "ip daddr 127.0.0.0/8 return",
        "ip6 daddr ::1 return",
        "ip daddr @outside4 goto past",
        "ip6 daddr @outside6 goto past",
        "tcp dport @ports_out goto past",
    ] {
        assert!(position(&output, passes) < captured, "{passes}");
    }
    let all = "meta skuid 1002 socket cgroupv2 level 2 \"system.slice/a.service\" meta mark 0x7 meta cgroup 65541 goto leave";
    assert!(position(&output, all) > captured);
    let prerouting = chain(&script, "prerouting");
    let enters = position(&prerouting, "goto to_inbound");
    for passes in [
        "iifname \"lo\" return",
        "fib daddr type != local return",
        "tcp dport @ports_in return",
        "ip daddr . tcp dport @listeners4 return",
        "ip saddr @clients4 return",
    ] {
        assert!(position(&prerouting, passes) < enters, "{passes}");
    }
    assert!(script.contains("elements = { 22, 15008 }"), "{script}");
    assert!(
        script.contains("elements = { 10.0.0.9 . 15012 }"),
        "{script}"
    );
}

#[test]
fn what_has_left_once_leaves_to_the_end() {
    for on_failure in [OnFailure::Closed, OnFailure::Open] {
        let capture = Capture {
            on_failure,
            ..capture()
        };
        let script = script(&rules(&capture));
        let left = "ct direction original ct mark & 0xfff == 0x113 meta mark set meta mark & 0xfffff000 | 0x111 return";
        assert_eq!(chain(&script, "output")[1], left);
        assert_eq!(
            chain(&script, "leave")[0],
            "ct mark set ct mark & 0xfffff000 | 0x113"
        );
        // Of those who are left alone a socket without a user, and no other.
        assert_eq!(
            chain(&script, "orphan"),
            ["meta skuid 0-4294967294 return", "accept"]
        );
    }
}

#[test]
fn exclusions_of_outbound_traffic_open_no_workload_here() {
    for mode in [CaptureMode::Tproxy, CaptureMode::Redirect] {
        let capture = Capture { mode, ..capture() };
        let script = script(&rules(&capture));
        let want = [
            "meta mark & 0xfff == 0x539 return",
            "oifname \"lo\" ip daddr @workloads4 goto enter",
            "oifname \"lo\" ip6 daddr @workloads6 goto enter",
        ];
        assert_eq!(chain(&script, "past"), want);
        assert_eq!(chain(&script, "output").last(), Some(&"goto past"));
    }
}

#[test]
fn a_workload_does_not_pass_by_the_nodes_mark() {
    for outbound in [CaptureScope::Workloads, CaptureScope::All] {
        let capture = Capture {
            outbound,
            ..capture()
        };
        let script = script(&Rules {
            dns: Some(15053),
            ..rules(&capture)
        });
        let own = "meta mark & 0xfff == 0x539 return";
        for (name, verdict) in [
            ("output", "goto leave"),
            ("names", "goto ask"),
            ("unjudged", "goto refuse"),
        ] {
            let chain = chain(&script, name);
            let selected = position(&chain, &format!("meta skuid 1001 {verdict}"));
            let passes = chain.iter().position(|rule| *rule == own);
            assert!(passes.is_none_or(|at| selected < at), "{name}: {chain:#?}");
            if outbound == CaptureScope::All {
                assert!(passes.unwrap() < position(&chain, verdict), "{name}");
            }
        }
    }
}

#[test]
fn without_a_listener_nothing_gets_past() {
    let script = script(&rules(&capture()));
    for (name, port) in [("to_outbound", 15001), ("to_inbound", 15006)] {
        let want = [
            format!("meta l4proto tcp tproxy to :{port} counter accept"),
            "meta l4proto tcp counter reject with tcp reset".to_owned(),
        ];
        assert_eq!(chain(&script, name), want);
    }
    assert!(!script.contains("@alive"));
}

#[test]
fn open_on_failure_looks_for_a_sign_of_life_before_everything_that_captures() {
    for mode in [CaptureMode::Tproxy, CaptureMode::Redirect] {
        let capture = Capture {
            mode,
            on_failure: OnFailure::Open,
            outbound: CaptureScope::All,
            ..capture()
        };
        let running = Some(Running {
            uid: Some(990),
            for_s: 3,
        });
        let script = script(&Rules {
            running,
            ..rules(&capture)
        });
        for (name, captures) in [
            ("output", "goto leave"),
            ("prerouting", "goto to_inbound"),
            ("unjudged", "goto refuse"),
        ] {
            let chain = chain(&script, name);
            let alive = position(&chain, "meta nfproto != @alive return");
            assert!(alive < position(&chain, captures), "{name}");
        }
        assert!(script.contains("elements = { ipv4 timeout 3s, ipv6 timeout 3s }"));
        assert!(script.contains("elements = { 990 timeout 3s }"));
    }
}

#[test]
fn names_are_asked_of_the_node() {
    let capture = capture();
    let text = script(&Rules {
        dns: Some(15053),
        ..rules(&capture)
    });
    let want = [
        "udp dport 53 counter redirect to :15053",
        "tcp dport 53 counter redirect to :15053",
    ];
    assert_eq!(chain(&text, "ask"), want);
    let names = chain(&text, "names");
    let asks = position(&names, "meta skuid 1001 goto ask");
    assert!(position(&names, "meta skuid @own return") < asks);
    assert_eq!(chain(&text, "leave")[0], "tcp dport 53 return");
    assert!(!script(&rules(&capture)).contains("dport 53"));
}

#[test]
fn datagrams_pass_only_where_they_may() {
    let strict = capture();
    let script_of = |capture: &Capture| script(&rules(capture));
    let text = script_of(&strict);
    let unjudged = chain(&text, "unjudged");
    let refuses = position(&unjudged, "meta skuid 1001 goto refuse");
    assert!(position(&unjudged, "meta l4proto { tcp, icmp, ipv6-icmp } return") < refuses);
    assert!(position(&unjudged, "ip daddr . udp dport @datagrams4 return") < refuses);
    let lenient = Capture {
        udp: UdpMode::Pass,
        ..strict
    };
    assert!(!script_of(&lenient).contains("unjudged"));
}
