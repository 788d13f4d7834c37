//! The SPIFFE Workload API: who is served, and where this process is served itself.

use std::collections::BTreeSet;
use std::path::{Component, Path};

use crate::config::check::Context;
use crate::config::checked::Mesh;
use crate::config::checked::workload_api::{
    Endpoint, PeerSelector, WorkloadApi, WorkloadApiEntry, WorkloadApiSource,
};
use crate::config::place::At;
use crate::config::raw::File;
use crate::config::raw::process::Identity;
use crate::config::raw::workload_api as raw;
use crate::config::read::Table;
use crate::vocab::limits;
use crate::vocab::spiffe::TrustDomain;
use crate::vocab::unit;

/// Whoever may connect is told apart by attestation, not by file permissions.
const SOCKET_MODE: u32 = 0o666;
const JWT_SVID_TTL_MS: u64 = 300_000;
const JWT_SVID_TTL_MIN_MS: u64 = 1000;
const JWT_SVID_TTL_MAX_MS: u64 = 24 * 3600 * 1000;
/// What the kernel says of users of other user namespaces (`/proc/sys/kernel/overflowuid`).
const OVERFLOW_ID: u32 = 65534;
/// `sun_path`, its closing NUL included (unix(7)).
const SOCKET_PATH_BYTES: usize = 108;

/// `[workloadApi]`.
pub(super) fn serve(file: &File, cx: &mut Context<'_>) -> Option<WorkloadApi> {
    let raw = file.workload_api.as_ref()?;
    let socket = cx.path(&raw.socket);
    if socket.as_os_str().len() >= SOCKET_PATH_BYTES {
        cx.out.error(
            &raw.socket.place,
            format!(
                "longer than {} bytes, which no socket's path may be",
                SOCKET_PATH_BYTES - 1
            ),
        );
    }
    let ttl_ms = raw.jwt_svid_ttl.as_ref().map_or(JWT_SVID_TTL_MS, |at| at.0);
    if let Some(at) = raw
        .jwt_svid_ttl
        .as_ref()
        .filter(|_| !(JWT_SVID_TTL_MIN_MS..=JWT_SVID_TTL_MAX_MS).contains(&ttl_ms))
    {
        cx.out.error(&at.place, "a JWT-SVID lives from 1s to 24h");
    }
    let entries: Vec<WorkloadApiEntry> = raw.entry.iter().filter_map(|e| entry(e, cx)).collect();
    if raw.entry.len() > limits::WORKLOAD_API_ENTRIES {
        let most = limits::WORKLOAD_API_ENTRIES;
        cx.out
            .error(raw.place(), format!("more than {most} entries"));
    }
    duplicate_hints(raw, cx);
    Some(WorkloadApi {
        socket,
        socket_mode: mode(raw.socket_mode.as_ref(), cx),
        socket_uid: raw.socket_uid,
        socket_gid: raw.socket_gid,
        jwt_svid_ttl_s: ttl_ms / 1000,
        entries,
    })
}

fn mode(written: Option<&At<String>>, cx: &mut Context<'_>) -> u32 {
    let Some(at) = written else {
        return SOCKET_MODE;
    };
    let octal = u32::from_str_radix(at, 8).ok().filter(|mode| {
        *mode <= 0o777 && at.value.bytes().all(|b| b.is_ascii_digit()) && mode & 0o200 != 0
    });
    if octal.is_none() {
        cx.out.error(
            &at.place,
            format!(
                "`{}` is no mode of a socket, expected octal digits such as \"0660\"",
                at.escape_debug()
            ),
        );
    }
    octal.unwrap_or(SOCKET_MODE)
}

/// A client tells its identities apart by their hints (SPIFFE Workload API, section 5.2).
fn duplicate_hints(raw: &raw::WorkloadApi, cx: &mut Context<'_>) {
    let mut seen = BTreeSet::new();
    for hint in raw.entry.iter().filter_map(|e| e.hint.as_ref()) {
        if hint.len() > limits::WORKLOAD_API_HINT_BYTES {
            let most = limits::WORKLOAD_API_HINT_BYTES;
            cx.out
                .error(&hint.place, format!("a hint is at most {most} bytes long"));
        }
        if !seen.insert(hint.value.as_str()) {
            let text = hint.escape_debug();
            cx.out.warn(
                &hint.place,
                format!("a second entry with the hint `{text}`"),
            );
        }
    }
}

fn entry(raw: &raw::Entry, cx: &mut Context<'_>) -> Option<WorkloadApiEntry> {
    let selector = selector(&raw.selector, cx);
    let workload = cx.reference("workloadEntry", &raw.workload)?;
    Some(WorkloadApiEntry {
        workload,
        hint: raw
            .hint
            .as_ref()
            .map_or_else(String::new, |h| h.value.clone()),
        selector,
    })
}

fn selector(raw: &raw::Match, cx: &mut Context<'_>) -> PeerSelector {
    for at in [&raw.uid, &raw.gid].into_iter().flatten() {
        if at.value == OVERFLOW_ID || at.value == u32::MAX {
            cx.out.error(
                &at.place,
                format!("`{}` may be anybody of another user namespace", at.value),
            );
        }
    }
    let exe = raw.exe.as_ref();
    if let Some(at) = exe.filter(|at| !absolute(Path::new(&at.value))) {
        let text = at.escape_debug();
        cx.out.error(
            &at.place,
            format!("`{text}` is not the absolute path of a program"),
        );
    }
    if let Some(at) = &raw.unit
        && !unit::has_processes(at)
    {
        let text = at.escape_debug();
        cx.out.error(
            &at.place,
            format!("`{text}` is no unit of processes, expected a name such as `reviews.service`"),
        );
    }
    if let Some(at) = &raw.cgroup {
        let path = at.value.strip_suffix('/').unwrap_or(&at.value);
        if !absolute(Path::new(path)) || path.contains("//") {
            let text = at.escape_debug();
            cx.out.error(
                &at.place,
                format!("`{text}` is no control group, expected a path such as `/system.slice/reviews.service`"),
            );
        }
    }
    let others = [
        raw.uid.is_some(),
        raw.gid.is_some(),
        raw.unit.is_some(),
        raw.cgroup.is_some(),
    ];
    if !others.contains(&true) && raw.whole() {
        let message = match exe {
            Some(_) => {
                "any user can run a program in his own way, expected uid, gid, unit or cgroup beside exe"
            }
            None => "nothing to know the workload by, expected uid, gid, exe, unit or cgroup",
        };
        cx.out.error(raw.place(), message);
    }
    PeerSelector {
        uid: raw.uid.as_ref().map(|at| at.value),
        gid: raw.gid.as_ref().map(|at| at.value),
        exe: exe.map(|at| at.value.as_str().into()),
        unit: raw.unit.as_ref().map(|at| at.value.clone()),
        cgroup: raw
            .cgroup
            .as_ref()
            .map(|at| at.value.strip_suffix('/').unwrap_or(&at.value).to_owned()),
    }
}

/// Absolute, with a name in it, and without `.` and `..`.
fn absolute(path: &Path) -> bool {
    let mut parts = path.components();
    parts.next() == Some(Component::RootDir)
        && parts.clone().next().is_some()
        && parts.all(|part| matches!(part, Component::Normal(_)))
}

/// `[identity]` with `workloadApi`.
pub(super) fn source(
    written: &At<String>,
    raw: &Identity,
    mesh: &Mesh,
    cx: &mut Context<'_>,
) -> Option<WorkloadApiSource> {
    let endpoint = endpoint(written, cx);
    let mut federated = mesh.trust_domain_aliases.clone();
    for at in raw.federates_with.iter().flatten() {
        match TrustDomain::parse(at) {
            Ok(domain) if domain == mesh.trust_domain => {
                cx.out.error(
                    &at.place,
                    format!("`{domain}` is the mesh's own trust domain"),
                );
            }
            Ok(domain) => federated.push(domain),
            Err(error) => cx
                .out
                .error(&at.place, format!("`{}`: {error}", at.escape_debug())),
        }
    }
    federated.sort();
    federated.dedup();
    Some(WorkloadApiSource {
        endpoint: endpoint?,
        federated,
    })
}

fn endpoint(written: &At<String>, cx: &mut Context<'_>) -> Option<Endpoint> {
    let found = match written.strip_prefix("env:") {
        Some(name) if super::variable(name) => Some(Endpoint::Variable(name.to_owned())),
        Some(_) => None,
        None => Endpoint::path(written).map(Endpoint::Socket),
    };
    if found.is_none() {
        let text = written.escape_debug();
        cx.out.error(
            &written.place,
            format!(
                "`{text}` is no socket, expected `unix:///PATH` or `env:SPIFFE_ENDPOINT_SOCKET`"
            ),
        );
    }
    found
}
