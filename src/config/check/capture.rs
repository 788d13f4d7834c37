//! Capture: what may be captured, by whom, and that no node captures itself.

use std::net::SocketAddr;

use crate::config::check::Context;
use crate::config::checked::capture::{Capture, CaptureScope, OwnerMatch};
use crate::config::checked::{Node, NodeWorkload};
use crate::config::place::At;
use crate::config::raw::capture as raw;
use crate::config::raw::process::Node as RawNode;
use crate::config::read::{Port, Table};
use crate::vocab::capture::{OWN_MARK, own_bits};
use crate::vocab::cidr::Cidr;
use crate::vocab::unit;

/// The secure shell, by which the operator reaches the machine.
const SSH: u16 = 22;
/// Table of the diverting route that Istio uses as well.
const ROUTE_TABLE: u32 = 100;
/// Tables of the kernel itself.
const KERNEL_TABLES: std::ops::RangeInclusive<u32> = 253..=255;

/// `[node.capture]`.
pub(crate) fn capture(raw: &raw::Capture, cx: &mut Context<'_>) -> Capture {
    let ports = |ports: &[Port]| -> Vec<u16> { ports.iter().map(|port| port.0).collect() };
    let outbound = raw.exclude_outbound_ports.as_deref();
    let exclude_outbound_ports = ports(outbound.unwrap_or_default());
    let inbound = raw.exclude_inbound_ports.as_ref();
    let exclude_inbound_ports = inbound.map_or_else(|| vec![SSH], |list| ports(&list.0));
    let exclude_outbound_ranges = ranges(raw.exclude_outbound_ranges.as_deref(), cx);
    let exclude_inbound_ranges = ranges(raw.exclude_inbound_ranges.as_deref(), cx);
    let route_table = raw.route_table.as_ref();
    if let Some(at) = route_table.filter(|t| t.value == 0 || KERNEL_TABLES.contains(&t.value)) {
        cx.out.error(
            &at.place,
            format!("`{}` is a table of the kernel, expected another", at.value),
        );
    }
    let destinations = raw.udp_destinations.iter().flatten();
    let canonical = |at: &At<SocketAddr>| SocketAddr::new(at.ip().to_canonical(), at.port());
    Capture {
        mode: raw.mode.unwrap_or_default(),
        on_failure: raw.on_failure.unwrap_or_default(),
        outbound: raw.outbound.unwrap_or_default(),
        udp: raw.udp.unwrap_or_default(),
        udp_destinations: destinations.map(canonical).collect(),
        exclude_outbound_ports,
        exclude_outbound_ranges,
        exclude_inbound_ports,
        exclude_inbound_ranges,
        exclude_uids: raw
            .exclude_uids
            .iter()
            .flatten()
            .map(|at| at.value)
            .collect(),
        route_table: route_table.map_or(ROUTE_TABLE, |at| at.value),
    }
}

fn ranges(written: Option<&[At<String>]>, cx: &mut Context<'_>) -> Vec<Cidr> {
    let mut all = Vec::new();
    for at in written.unwrap_or_default() {
        match Cidr::parse(at) {
            Ok(range) => all.push(range),
            Err(error) => cx
                .out
                .error(&at.place, format!("`{}` is {error}", at.escape_debug())),
        }
    }
    all
}

/// `match`.
pub(crate) fn owner(raw: &raw::OwnerMatch, cx: &mut Context<'_>) -> OwnerMatch {
    if let Some(at) = &raw.unit
        && !unit::has_processes(at)
    {
        let text = at.escape_debug();
        cx.out.error(
            &at.place,
            format!("`{text}` is not a unit with control group, such as `reviews.service`"),
        );
    }
    if let Some(at) = &raw.cgroup {
        let whole = at
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(is_component));
        if !whole {
            let text = at.escape_debug();
            cx.out.error(
                &at.place,
                format!("`{text}` is not a control group, such as `/apps.slice/reviews`"),
            );
        }
    }
    if let Some(at) = raw
        .mark
        .as_ref()
        .filter(|m| m.value == 0 || own_bits(m.value) == own_bits(OWN_MARK))
    {
        cx.out.error(
            &at.place,
            format!("mark `{}` is not a workload's: 0 is none, and {OWN_MARK} in the lower 12 bits is the node's", at.value),
        );
    }
    let found = OwnerMatch {
        unit: raw.unit.as_ref().map(|at| at.value.clone()),
        uid: raw.uid.as_ref().map(|at| at.value),
        cgroup: raw.cgroup.as_ref().map(|at| at.value.clone()),
        mark: raw.mark.as_ref().map(|at| at.value),
        class_id: raw.class_id.map(|class| class.0),
    };
    if found == OwnerMatch::default() && raw.whole() {
        cx.out.error(
            raw.place(),
            "matches every process, expected one of unit, uid, cgroup, mark, classId",
        );
    }
    found
}

/// A name within a path that leads nowhere else, and needs no quotes that it could break.
fn is_component(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '"'])
}

/// What must hold between the keys of a node.
pub(crate) fn node(raw: &RawNode, node: &Node, captures: &mut usize, cx: &mut Context<'_>) {
    owners(raw, node, cx);
    let Some(written) = &raw.capture else { return };
    let Some(capture) = &node.capture else { return };
    *captures = captures.saturating_add(1);
    if *captures > 1 {
        cx.out.error(
            written.place(),
            "a second capture: a network namespace has one, so that only one node of a process captures",
        );
    }
    let any = |address: Option<SocketAddr>| address.is_some_and(|a| a.ip().is_unspecified());
    if !any(node.outbound) {
        cx.out.error(
            written.place(),
            "capture needs `outbound` of the node, expected such as \"[::]:15001\"",
        );
    }
    if !node.inbound.iter().any(|a| any(Some(*a))) {
        cx.out.error(
            written.place(),
            "capture needs `inbound` of the node, expected such as [\"[::]:15006\"]",
        );
    }
    let other = |at: &&At<u32>| own_bits(at.value) != own_bits(OWN_MARK);
    if let Some(at) = raw.mark.as_ref().filter(other) {
        cx.out.error(
            &at.place,
            format!(
                "`{}` is not what the rules let pass, expected {OWN_MARK}",
                at.value
            ),
        );
    }
    if capture.outbound == CaptureScope::Workloads && raw.workload.iter().all(|w| w.owner.is_none())
    {
        cx.out.error(
            written.place(),
            "no outbound traffic is captured: expected `match` at a workload, or `outbound = \"ALL\"`",
        );
    }
}

/// Which connection is which workload's must be decided in one way only.
fn owners(raw: &RawNode, node: &Node, cx: &mut Context<'_>) {
    let several = node.workloads.len() > 1;
    for (nth, workload) in raw.workload.iter().enumerate() {
        let found = node
            .workloads
            .iter()
            .find(|w| w.workload.to_string() == workload.name.value);
        let Some(found) = found else { continue };
        if several && node.outbound.is_some() && found.owner.is_none() && found.outbound.is_none() {
            cx.out.warn(
                &workload.name.place,
                "no outbound connection is this workload's: several share the node, and it has no `match`",
            );
        }
        let same = |other: &NodeWorkload| found.owner.is_some() && other.owner == found.owner;
        let before = raw.workload.iter().take(nth).any(|earlier| {
            node.workloads
                .iter()
                .any(|w| w.workload.to_string() == earlier.name.value && same(w))
        });
        if before {
            cx.out.error(
                &workload.name.place,
                "another workload of this node has the same `match`",
            );
        }
    }
}
