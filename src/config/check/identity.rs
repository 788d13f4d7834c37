//! `[authority]` and `[identity]`: where the identities of the process come from.

use url::Url;

use crate::config::check::listeners::Listeners;
use crate::config::check::{Context, workload_api};
use crate::config::checked::{Authority, IdentitySource, IssuingCa, Mesh, RemoteAuthority};
use crate::config::place::At;
use crate::config::raw::process as raw;
use crate::config::read::{Millis, Table};
use crate::identity::revocation::NodeName;

/// Longest and shortest life of an SVID, in milliseconds.
const SVID_TTL_MAX_MS: u64 = 24 * 3600 * 1000;
const SVID_TTL_MIN_MS: u64 = 1000;
/// Longest life of the SVID of a node.
const NODE_TTL_MAX_MS: u64 = 30 * 24 * 3600 * 1000;

/// `[authority]`.
pub(crate) fn authority(
    raw: &raw::Authority,
    listeners: &mut Listeners,
    cx: &mut Context<'_>,
) -> Authority {
    let ttl = |at: &Option<At<Millis>>, most: u64, message, cx: &mut Context<'_>| {
        let ms = at.as_ref().map_or(SVID_TTL_MAX_MS, |at| at.0);
        if let Some(at) = at
            .as_ref()
            .filter(|_| !(SVID_TTL_MIN_MS..=most).contains(&ms))
        {
            cx.out.error(&at.place, message);
        }
        ms / 1000
    };
    let svid_ttl_s = ttl(
        &raw.svid_ttl,
        SVID_TTL_MAX_MS,
        "an SVID lives from 1s to 24h",
        cx,
    );
    let node_ttl_s = ttl(
        &raw.node_ttl,
        NODE_TTL_MAX_MS,
        "the SVID of a node lives from 1s to 720h",
        cx,
    );
    if let Some(at) = raw.join_tokens.as_ref().filter(|_| raw.listen.is_none()) {
        cx.out
            .error(&at.place, "join tokens are of no use without `listen`");
    }
    Authority {
        state_dir: raw.state_dir.as_ref().map(|at| cx.path(at)),
        svid_ttl_s,
        listen: raw.listen.as_ref().map(|at| listeners.add(at, cx)),
        join_tokens: raw.join_tokens.as_ref().and_then(|at| cx.secret(at)),
        node_ttl_s,
        issuing: issuing(raw, cx),
    }
}

/// An issuing CA from elsewhere: all three keys or none.
fn issuing(raw: &raw::Authority, cx: &mut Context<'_>) -> Option<IssuingCa> {
    let written = [&raw.issuing_chain, &raw.issuing_key, &raw.root_ca];
    let first = written.iter().copied().flatten().next()?;
    match (&raw.issuing_chain, &raw.issuing_key, &raw.root_ca) {
        (Some(chain), Some(key), Some(root_ca)) => Some(IssuingCa {
            chain: cx.file(chain),
            key: cx.secret(key)?,
            root_ca: cx.file(root_ca),
        }),
        _ => {
            let message = "an issuing CA from elsewhere needs issuingChain, issuingKey and rootCa";
            cx.out.error(&first.place, message);
            None
        }
    }
}

/// `[identity]`: an authority, directories or a Workload API.
pub(crate) fn elsewhere(
    raw: &raw::Identity,
    mesh: &Mesh,
    cx: &mut Context<'_>,
) -> Option<IdentitySource> {
    if let Some(socket) = &raw.workload_api {
        let unused = [
            ("address", raw.address.as_ref().map(|at| &at.place)),
            ("files", raw.files.as_ref().map(|at| &at.place)),
            ("rootCa", raw.root_ca.as_ref().map(|at| &at.place)),
            ("token", raw.token.as_ref().map(|at| &at.place)),
            ("node", raw.node.as_ref().map(|at| &at.place)),
            ("stateDir", raw.state_dir.as_ref().map(|at| &at.place)),
            ("clusterId", raw.cluster_id.as_ref().map(|at| &at.place)),
        ];
        for (key, place) in unused {
            if let Some(place) = place {
                let text = format!("`{key}` is of no use with `workloadApi`");
                cx.out.error(place, text);
            }
        }
        return workload_api::source(socket, raw, mesh, cx).map(IdentitySource::WorkloadApi);
    }
    if let Some(at) = raw.federates_with.iter().flatten().next() {
        cx.out.error(
            &at.place,
            "`federatesWith` is of no use without `workloadApi`",
        );
    }
    match (&raw.address, &raw.files) {
        (Some(_), Some(files)) => {
            cx.out
                .error(&files.place, "`address` and `files` exclude each other");
            None
        }
        (None, Some(files)) => {
            let unused = [
                ("rootCa", &raw.root_ca),
                ("token", &raw.token),
                ("node", &raw.node),
                ("stateDir", &raw.state_dir),
                ("clusterId", &raw.cluster_id),
            ];
            for (key, at) in unused {
                if let Some(at) = at {
                    cx.out
                        .error(&at.place, format!("`{key}` is of no use with `files`"));
                }
            }
            let dirs = files.value.iter().map(|dir| cx.path(dir)).collect();
            Some(IdentitySource::Files(dirs))
        }
        (Some(address), None) => remote(raw, address, cx).map(IdentitySource::Remote),
        (None, None) => {
            if raw.whole() {
                cx.out
                    .error(raw.place(), "expected `address`, `files` or `workloadApi`");
            }
            None
        }
    }
}

fn remote(
    raw: &raw::Identity,
    address: &At<String>,
    cx: &mut Context<'_>,
) -> Option<RemoteAuthority> {
    let valid = Url::parse(address).is_ok_and(|u| {
        u.scheme() == "https"
            && u.host().is_some()
            && u.port() != Some(0)
            && u.path() == "/"
            && u.query().is_none()
    });
    if !valid {
        let text = address.escape_debug();
        cx.out.error(
            &address.place,
            format!("`{text}` is not `https://HOST:PORT`"),
        );
    }
    let node = raw.node.as_ref().and_then(|at| match NodeName::parse(at) {
        Ok(name) => Some(name),
        Err(error) => {
            let text = at.escape_debug();
            cx.out.error(&at.place, format!("`{text}`: {error}"));
            None
        }
    });
    match (&raw.node, &raw.state_dir) {
        (None, Some(at)) => cx.out.error(
            &at.place,
            "`stateDir` keeps the identity of a node, expected `node` beside it",
        ),
        (Some(at), None) => cx.out.warn(
            &at.place,
            "without `stateDir` every start of this process needs a new join token",
        ),
        (Some(_), Some(_)) | (None, None) => {}
    }
    let joined = raw.node.is_some() && raw.state_dir.is_some();
    if raw.token.is_none() && !joined && raw.whole() {
        cx.out.error(
            raw.place(),
            "no `token`, which only a node with `stateDir` that has joined can do without",
        );
    }
    if raw.root_ca.is_none() && raw.whole() {
        cx.out
            .error(raw.place(), "no `rootCa`, expected a PEM file of roots");
    }
    let token = match &raw.token {
        Some(at) => Some(cx.secret(at)?),
        None => None,
    };
    Some(RemoteAuthority {
        address: address.value.clone(),
        root_ca: cx.file(raw.root_ca.as_ref()?),
        token,
        node,
        state_dir: raw.state_dir.as_ref().map(|at| cx.path(at)),
        cluster_id: raw.cluster_id.as_ref().map(|at| at.value.clone()),
    })
}
