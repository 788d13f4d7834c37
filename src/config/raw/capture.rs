//! Tables that describe capture and who owns a local connection.

use std::net::SocketAddr;

use crate::config::checked::capture::{
    CaptureMode, CaptureScope, OnFailure, OriginalSource, UdpMode, Unowned,
};
use crate::config::document::{Kind, Value};
use crate::config::place::{At, Place, Problems};
use crate::config::read::{MaybeEmpty, Port, Read, mismatch, table, words};
use crate::config::shape::Shape;

words!(CaptureMode, "one of TPROXY, REDIRECT",
    "TPROXY" => CaptureMode::Tproxy, "REDIRECT" => CaptureMode::Redirect);
words!(OnFailure, "one of CLOSED, OPEN", "CLOSED" => OnFailure::Closed, "OPEN" => OnFailure::Open);
words!(CaptureScope, "one of WORKLOADS, ALL",
    "WORKLOADS" => CaptureScope::Workloads, "ALL" => CaptureScope::All);
words!(UdpMode, "one of REJECT, PASS", "REJECT" => UdpMode::Reject, "PASS" => UdpMode::Pass);
words!(Unowned, "one of REFUSE, PASS", "REFUSE" => Unowned::Refuse, "PASS" => Unowned::Pass);

impl Read for OriginalSource {
    const EXPECTED: &'static str = "true, false or \"auto\"";
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        match (&value.kind, value.text()) {
            (Kind::Boolean(true), _) => Some(Self::Keep),
            (Kind::Boolean(false), _) => Some(Self::Drop),
            (_, Some("auto")) => Some(Self::Auto),
            (_, Some(text)) => {
                let text = text.escape_debug();
                out.error(place, format!("`{text}` is not {}", Self::EXPECTED));
                None
            }
            (_, None) => {
                mismatch::<Self>(value, place, out);
                None
            }
        }
    }
    fn shape() -> Shape {
        Shape::Either(vec![Shape::Words(vec!["auto"]), Shape::Boolean])
    }
}

/// A class of the `net_cls` controller: `"1:5"` in hexadecimal as `tc` writes it, or the number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClassId(pub(crate) u32);

impl Read for ClassId {
    const EXPECTED: &'static str = "a class such as \"1:5\" or 65541";
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        let part = |text: &str| {
            let digits = (1..=4).contains(&text.len());
            let hex = text.bytes().all(|b| b.is_ascii_hexdigit());
            (digits && hex).then(|| u32::from_str_radix(text, 16).ok())?
        };
        let class = match (&value.kind, value.text()) {
            (Kind::Integer(Some(n)), _) => u32::try_from(*n).ok(),
            (_, Some(text)) => text
                .split_once(':')
                .and_then(|(major, minor)| Some(part(major)?.checked_shl(16)? | part(minor)?)),
            (_, None) => {
                mismatch::<Self>(value, place, out);
                return None;
            }
        };
        // 0 is the class of everything that has none.
        let class = class.filter(|class| *class != 0).map(Self);
        if class.is_none() {
            out.error(place, format!("expected {}", Self::EXPECTED));
        }
        class
    }
    fn shape() -> Shape {
        Shape::Either(vec![
            Shape::Text {
                pattern: Some("^[0-9A-Fa-f]{1,4}:[0-9A-Fa-f]{1,4}$"),
                sample: "1:5",
            },
            Shape::Integer {
                min: 1,
                max: u32::MAX.into(),
            },
        ])
    }
}

table! {
    /// `[node.capture]`
    Capture {
        /// `TPROXY` diverts packets as they are, `REDIRECT` translates addresses.
        /// Default: `"TPROXY"`
        mode: Option<CaptureMode> = "mode",
        /// While no node lives: `CLOSED` refuses what is captured, `OPEN` captures nothing.
        /// Default: `"CLOSED"`
        on_failure: Option<OnFailure> = "onFailure",
        /// Whose connections: of processes that a `match` names, or of all.
        /// Default: `"WORKLOADS"`
        outbound: Option<CaptureScope> = "outbound",
        /// What happens to datagrams, which nobody can judge.
        /// Default: `"REJECT"`
        udp: Option<UdpMode> = "udp",
        /// Where datagrams may go all the same; nameservers always.
        /// Example: `["10.1.0.9:123"]`
        udp_destinations: Option<Vec<At<SocketAddr>>> = "udpDestinations",
        /// Destination ports that are left alone.
        /// Example: `[2049]`
        exclude_outbound_ports: Option<Vec<Port>> = "excludeOutboundPorts",
        /// Destinations that are left alone.
        /// Example: `["169.254.169.254/32"]`
        exclude_outbound_ranges: Option<Vec<At<String>>> = "excludeOutboundIPRanges",
        /// Ports of this machine that are left alone; an empty list leaves none alone.
        /// Default: `[22]`
        exclude_inbound_ports: Option<MaybeEmpty<Port>> = "excludeInboundPorts",
        /// Clients that are left alone, such as probes.
        /// Example: `["10.9.0.0/16"]`
        exclude_inbound_ranges: Option<Vec<At<String>>> = "excludeInboundIPRanges",
        /// Users that are left alone, in both directions.
        /// Example: `[998]`
        exclude_uids: Option<Vec<At<u32>>> = "excludeUids",
        /// Routing table that leads diverted packets to this machine.
        /// Default: `100`
        route_table: Option<At<u32>> = "routeTable",
    }
}

table! {
    /// `match` of `[[node.workload]]`
    OwnerMatch {
        /// Unit of the system's service manager, by control group.
        /// Example: `"web.service"`
        unit: Option<At<String>> = "unit",
        /// User.
        /// Example: `1001`
        uid: Option<At<u32>> = "uid",
        /// Control group (version 2), or one above it.
        /// Example: `"/apps.slice/web"`
        cgroup: Option<At<String>> = "cgroup",
        /// `SO_MARK` of its sockets.
        /// Example: `7`
        mark: Option<At<u32>> = "mark",
        /// Class of the `net_cls` controller (control groups version 1).
        /// Example: `"1:5"`
        class_id: Option<ClassId> = "classId",
    }
}
