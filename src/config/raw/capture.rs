//! Tables that describe capture and who owns a local connection.

use std::net::SocketAddr;

use crate::config::checked::capture::{
    CaptureMode, CaptureScope, OnFailure, OriginalSource, UdpMode, Unowned,
};
use crate::config::document::{Kind, Value};
use crate::config::place::{At, Place, Problems};
use crate::config::read::{MaybeEmpty, Port, Read, mismatch, table, words};

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
}

table! {
    /// `[node.capture]`
    Capture {
        mode: Option<CaptureMode> = "mode",
        on_failure: Option<OnFailure> = "onFailure",
        outbound: Option<CaptureScope> = "outbound",
        udp: Option<UdpMode> = "udp",
        udp_destinations: Option<Vec<At<SocketAddr>>> = "udpDestinations",
        exclude_outbound_ports: Option<Vec<Port>> = "excludeOutboundPorts",
        exclude_outbound_ranges: Option<Vec<At<String>>> = "excludeOutboundIPRanges",
        /// 22 if absent; an empty list leaves none alone.
        exclude_inbound_ports: Option<MaybeEmpty<Port>> = "excludeInboundPorts",
        exclude_inbound_ranges: Option<Vec<At<String>>> = "excludeInboundIPRanges",
        exclude_uids: Option<Vec<At<u32>>> = "excludeUids",
        /// 100 if absent.
        route_table: Option<At<u32>> = "routeTable",
    }
}

table! {
    /// `match` of `[[node.workload]]`
    OwnerMatch {
        unit: Option<At<String>> = "unit",
        uid: Option<At<u32>> = "uid",
        cgroup: Option<At<String>> = "cgroup",
        mark: Option<At<u32>> = "mark",
        class_id: Option<ClassId> = "classId",
    }
}
