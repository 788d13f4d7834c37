//! `[[peerAuthentication]]` and `[[requestAuthentication]]` (policy semantics sections 6, 7.1 and 11).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::config::check::Context;
use crate::config::check::target::{Attachment, selector, target};
use crate::config::check::url::UrlRules;
use crate::config::checked::Mesh;
use crate::config::place::{At, Place};
use crate::config::raw::File;
use crate::config::raw::authn as raw;
use crate::config::read::{AnyText, Map, Table};
use crate::jwt::KeySet;
use crate::jwt::model::{JwtRule, KeySource, Reach, RequestAuthentication, TokenHeader};
use crate::policy::model::{MtlsMode, PeerAuthentication};
use crate::vocab::field::is_reserved;
use crate::vocab::limits;

/// Fetch timeout of a key set where it is not written (Istio's value), in milliseconds.
const TIMEOUT_MS: u64 = 5000;
const DRY_RUN: &str = "istio.io/dry-run";

/// Every `[[peerAuthentication]]`, the older ones first: of two in one scope the first holds.
pub(crate) fn peer_authentications(files: &[File], mesh: &mut Mesh, cx: &mut Context<'_>) {
    let all = files
        .iter()
        .flat_map(|f| f.peer_authentication.iter().flatten());
    let mut read: Vec<_> = all
        .map(|raw| (raw, peer_authentication(raw, mesh, cx)))
        .collect();
    // Those without a time are refused below where the order would matter. A tie is broken as Istio breaks it.
    read.sort_by(|(a, x), (b, y)| {
        let name = |p: &PeerAuthentication| (p.name.name.clone(), p.name.namespace.clone());
        match (&a.created, &b.created) {
            (Some(older), Some(newer)) => older.cmp(newer).then_with(|| name(x).cmp(&name(y))),
            (older, newer) => newer.is_some().cmp(&older.is_some()),
        }
    });
    for (i, (raw, peer)) in read.iter().enumerate() {
        let mut before = read.iter().take(i);
        let Some((other, first)) = before.find(|(_, other)| same_scope(other, peer, mesh)) else {
            continue;
        };
        let name = &first.name;
        if first.name == peer.name {
            continue; // a problem of its own
        }
        if raw.created.is_some() && other.created.is_some() {
            cx.out.warn(
                &raw.name.place,
                format!("peerAuthentication `{name}` has the same scope and is older; this one is ignored there"),
            );
        } else {
            cx.out.error(
                &raw.name.place,
                format!("peerAuthentication `{name}` has the same scope; only one can hold"),
            );
        }
    }
    mesh.peer_authentications
        .extend(read.into_iter().map(|(_, peer)| peer));
}

fn peer_authentication(
    raw: &raw::PeerAuthentication,
    mesh: &Mesh,
    cx: &mut Context<'_>,
) -> PeerAuthentication {
    let name = cx.resource(&raw.name, raw.namespace.as_ref());
    let labels = selector(raw.selector.as_ref(), cx);
    if let Some(at) = raw.selector.as_ref().filter(|_| labels.is_some()) {
        let selects = |w: &crate::config::checked::Workload| {
            w.name.namespace == name.namespace
                && labels
                    .iter()
                    .flatten()
                    .all(|(k, v)| w.labels.get(k) == Some(v))
        };
        if name.namespace == mesh.root_namespace {
            cx.out.warn(
                &at.place,
                "in the root namespace a peerAuthentication with a selector is ignored",
            );
        } else if !cx.partial && !mesh.workloads.iter().any(selects) {
            cx.out.warn(
                &at.place,
                "attaches to nothing: no workload has these labels",
            );
        }
    }
    if let Some(at) = raw.port_level_mtls.as_ref().filter(|_| labels.is_none()) {
        cx.out.error(
            &at.place,
            "ports belong to workloads; `portLevelMtls` needs a `selector`",
        );
    }
    PeerAuthentication {
        name,
        selector: labels,
        mode: raw.mtls.as_ref().and_then(|m| m.mode).unwrap_or_default(),
        ports: raw
            .port_level_mtls
            .as_ref()
            .map(|at| ports(at, cx))
            .unwrap_or_default(),
    }
}

fn ports(raw: &At<Map<raw::Mtls>>, cx: &mut Context<'_>) -> BTreeMap<u16, MtlsMode> {
    if raw.0.is_empty() {
        cx.out.error(
            &raw.place,
            "an empty table; write at least one port or leave the key out",
        );
    }
    let mut ports = BTreeMap::new();
    for (key, mtls) in &raw.0 {
        let Some(port) = cx.port_key(key) else {
            continue;
        };
        ports.insert(port, mtls.mode.unwrap_or_default());
    }
    ports
}

impl Context<'_> {
    /// A port as the key of a table.
    pub(crate) fn port_key(&mut self, key: &At<String>) -> Option<u16> {
        let plain = !key.starts_with('0') && key.bytes().all(|b| b.is_ascii_digit());
        let port = key.parse::<u16>().ok().filter(|_| plain);
        if port.is_none() {
            self.out.error(
                &key.place,
                format!(
                    "`{}` is not a port, expected 1 to 65535",
                    key.escape_debug()
                ),
            );
        }
        port
    }
}

/// Whether two hold for the same namespace or for one workload; there are no timestamps that could break the tie.
fn same_scope(a: &PeerAuthentication, b: &PeerAuthentication, mesh: &Mesh) -> bool {
    if a.name.namespace != b.name.namespace {
        return false;
    }
    match (&a.selector, &b.selector) {
        (None, None) => true,
        (Some(x), Some(y)) => {
            let both = |w: &crate::config::checked::Workload| {
                w.name.namespace == a.name.namespace
                    && x.iter().chain(y).all(|(k, v)| w.labels.get(k) == Some(v))
            };
            a.name.namespace != mesh.root_namespace && (x == y || mesh.workloads.iter().any(both))
        }
        (None, Some(_)) | (Some(_), None) => false,
    }
}

/// Every `[[requestAuthentication]]`.
pub(crate) fn request_authentications(files: &[File], mesh: &mut Mesh, cx: &mut Context<'_>) {
    for raw in files
        .iter()
        .flat_map(|f| f.request_authentication.iter().flatten())
    {
        let name = cx.resource(&raw.name, raw.namespace.as_ref());
        let attachment = Attachment {
            selector: raw.selector.as_ref(),
            target_ref: raw.target_ref.as_ref(),
            target_refs: raw.target_refs.as_ref(),
            name: &raw.name.place,
        };
        let target = target(&attachment, &name, mesh, cx);
        for (key, _) in raw
            .annotations
            .iter()
            .flat_map(|l| &l.0)
            .filter(|(key, _)| key.value == DRY_RUN)
        {
            cx.out
                .error(&key.place, "a requestAuthentication has no dry run");
        }
        let written = raw.jwt_rules.iter().flat_map(|r| &r.0);
        let rules = written.filter_map(|r| jwt_rule(r, cx)).collect();
        mesh.request_authentications.push(RequestAuthentication {
            name,
            target,
            rules,
        });
    }
}

fn jwt_rule(raw: &raw::JwtRule, cx: &mut Context<'_>) -> Option<JwtRule> {
    let keys = keys(raw, cx);
    for at in raw.from_params.iter().chain(&raw.from_cookies).flatten() {
        if at
            .bytes()
            .any(|b| !(0x21..0x7f).contains(&b) || b"&=;".contains(&b))
        {
            cx.out.error(
                &at.place,
                format!(
                    "`{}` is not a name that a request can carry",
                    at.escape_debug()
                ),
            );
        }
    }
    let header = |h: &raw::TokenHeader, cx: &mut Context<'_>| TokenHeader {
        name: cx.header_name(&h.name),
        prefix: h.prefix.as_ref().map_or_else(String::new, |p| p.0.clone()),
    };
    let from_headers = raw
        .from_headers
        .iter()
        .flatten()
        .map(|h| header(h, cx))
        .collect();
    let claims = raw.output_claim_to_headers.iter().flatten();
    let output_claim_to_headers = claims
        .map(|c| (cx.output_header(&c.header), c.claim.value.clone()))
        .collect();
    if let Some(at) = raw.timeout.as_ref().filter(|at| at.0 == 0) {
        cx.out.error(&at.place, "expected at least 1ms");
    }
    let texts =
        |list: &Option<Vec<At<String>>>| list.iter().flatten().map(|at| at.value.clone()).collect();
    Some(JwtRule {
        issuer: issuer(raw).map_or_else(String::new, |at| at.0.clone()),
        audiences: texts(&raw.audiences),
        keys: keys?,
        from_headers,
        from_params: texts(&raw.from_params),
        from_cookies: texts(&raw.from_cookies),
        forward_original_token: raw.forward_original_token.unwrap_or(false),
        output_payload_to_header: raw
            .output_payload_to_header
            .as_ref()
            .map(|at| cx.output_header(at)),
        output_claim_to_headers,
        space_delimited_claims: raw.space_delimited_claims.clone().unwrap_or_default(),
        require_expiration: raw.require_expiration.unwrap_or(false),
        timeout_ms: raw.timeout.as_ref().map_or(TIMEOUT_MS, |at| at.0),
        reach: reach(raw),
    })
}

/// The issuer; an empty one is none.
fn issuer(raw: &raw::JwtRule) -> Option<&At<AnyText>> {
    raw.issuer.as_ref().filter(|at| !at.0.is_empty())
}

fn reach(raw: &raw::JwtRule) -> Reach {
    Reach {
        http: raw.allow_http.unwrap_or(false),
        private: raw.allow_private.unwrap_or(false),
    }
}

fn keys(raw: &raw::JwtRule, cx: &mut Context<'_>) -> Option<KeySource> {
    if issuer(raw).is_none() && raw.jwks_uri.is_none() {
        if raw.whole() {
            cx.out.error(raw.place(), "expected `issuer` or `jwksUri`");
        }
        return None;
    }
    match (&raw.jwks_uri, &raw.jwks, issuer(raw)) {
        (Some(_), Some(at), _) => {
            cx.out
                .error(&at.place, "`jwksUri` and `jwks` exclude each other");
            None
        }
        (Some(at), None, _) => cx
            .fetched_url(&at.place, at, UrlRules::keys(reach(raw)))
            .then(|| KeySource::Uri(at.value.clone())),
        (None, Some(at), _) => {
            inline_keys(&at.place, &at.0, cx).then(|| KeySource::Inline(at.0.clone()))
        }
        (None, None, Some(at)) if cx.partial && !at.0.contains("://") => {
            let text = at.0.escape_debug();
            cx.out.warn(
                &at.place,
                format!(
                    "`{text}` is not a URL at which keys could be found: every token is refused"
                ),
            );
            Some(KeySource::Discovery(at.0.clone()))
        }
        (None, None, Some(at)) => cx
            .fetched_url(&at.place, &at.0, UrlRules::keys(reach(raw)))
            .then(|| KeySource::Discovery(at.0.clone())),
        (None, None, None) => None,
    }
}

/// A JWK or a JWK set (RFC 7517). serde_json bounds the depth.
fn inline_keys(place: &Place, text: &str, cx: &mut Context<'_>) -> bool {
    if text.len() > limits::DISCOVERY_BYTES {
        cx.out.error(
            place,
            format!("longer than {} bytes", limits::DISCOVERY_BYTES),
        );
        return false;
    }
    let parsed: Option<Value> = serde_json::from_str(text).ok();
    let keys: Option<Vec<&Value>> = match &parsed {
        Some(Value::Object(map)) => match map.get("keys") {
            Some(Value::Array(keys)) => Some(keys.iter().collect()),
            Some(_) => None,
            None => parsed
                .as_ref()
                .filter(|_| map.contains_key("kty"))
                .map(|key| vec![key]),
        },
        Some(_) | None => None,
    };
    let Some(keys) = keys.filter(|keys| {
        keys.iter()
            .all(|k| k.get("kty").is_some_and(Value::is_string))
    }) else {
        cx.out.error(
            place,
            "not a JWK or JWK set, expected `{\"keys\":[{\"kty\":..}, ..]}`",
        );
        return false;
    };
    if let Err(error) = KeySet::parse(text) {
        cx.out.error(place, format!("{error}"));
        return false;
    }
    if keys.is_empty() {
        cx.out.warn(place, "no keys: every token is refused");
    }
    if keys
        .iter()
        .any(|k| k.get("d").is_some() || k.get("k").is_some())
    {
        cx.out.warn(
            place,
            "holds a private or symmetric key, which has no place here",
        );
    }
    true
}

impl Context<'_> {
    /// The name of a header that a token's content is written to, lower case.
    fn output_header(&mut self, written: &At<String>) -> String {
        let name = self.header_name(written);
        if is_reserved(&name) {
            self.out.error(
                &written.place,
                format!(
                    "`{}` frames or vouches for a request, which no token may",
                    written.escape_debug()
                ),
            );
        }
        name
    }

    /// A header name, lower case.
    fn header_name(&mut self, written: &At<String>) -> String {
        if !written
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        {
            let text = written.escape_debug();
            self.out.error(
                &written.place,
                format!("`{text}` is not a header name: letters, digits, `-` and `_`"),
            );
        }
        written.to_ascii_lowercase()
    }
}
