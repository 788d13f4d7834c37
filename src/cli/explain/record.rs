//! From a decision record back to what was judged.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, anyhow, bail};
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Map, Value};

use super::ExplainArgs;
use super::question::{self, Asked};
use super::report::shown;
use crate::config::checked::Mesh;
use crate::config::checked::capture::OriginalSource;
use crate::http::forward;
use crate::http::request_id::REQUEST_ID;
use crate::policy::{Connection, Request};
use crate::role::enforcement::Enforcements;
use crate::role::plan::SitePoint;
use crate::role::walk::{Call, Place, To};
use crate::vocab::claims::Claims;
use crate::vocab::host::Host;
use crate::vocab::path::CanonicalPath;
use crate::vocab::resource::ResourceName;
use crate::vocab::spiffe::SpiffeId;

/// Longest record that is read, in bytes.
const RECORD_BYTES: u64 = 1 << 20;

/// A decision record.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    value: Value,
}

/// The record that the arguments name.
pub(super) fn of(args: &ExplainArgs) -> anyhow::Result<Option<Recorded>> {
    let text = match (&args.record, &args.log, &args.id) {
        (Some(text), _, _) if text == "-" => {
            let mut text = String::new();
            std::io::stdin()
                .take(RECORD_BYTES)
                .read_to_string(&mut text)
                .context("standard input")?;
            text
        }
        (Some(text), _, _) => text.clone(),
        (None, Some(log), Some(id)) => {
            let fail = || format!("`{}` cannot be read", log.display());
            let file = File::open(log).with_context(fail)?;
            let mut found = Found::default();
            for line in BufReader::new(file).lines() {
                let line = line.with_context(fail)?;
                // The text is looked at first: a log is long, and parsing all of it is not needed.
                if line.contains(id.as_str()) {
                    found.look(line, id);
                }
            }
            found.best().with_context(|| {
                format!(
                    "no record in `{}` has `{id}` as its `id` or `request.id`",
                    log.display()
                )
            })?
        }
        (None, _, _) => return Ok(None),
    };
    let value: Value = serde_json::from_str(text.trim()).context("the record is not JSON")?;
    if value.get("verdict").and_then(Value::as_str).is_none() {
        bail!("a decision record has a `verdict`; this has none");
    }
    Ok(Some(Recorded { value }))
}

/// Issuer and subject of a recorded end user. Both may hold slashes, so an issuer that is known here says where it ends.
fn halves<'p>(mesh: &Mesh, principal: &'p str) -> Option<(&'p str, &'p str)> {
    let rules = mesh.request_authentications.iter().flat_map(|r| &r.rules);
    let providers = mesh.oidc_providers.iter().map(|p| p.issuer.as_str());
    rules
        .map(|rule| rule.issuer.as_str())
        .chain(providers)
        .filter(|issuer| !issuer.is_empty())
        .filter_map(|issuer| {
            let subject = principal.strip_prefix(issuer)?.strip_prefix('/')?;
            principal.get(..issuer.len()).zip(Some(subject))
        })
        .max_by_key(|(issuer, _)| issuer.len())
        .or_else(|| principal.rsplit_once('/'))
}

/// Claims as the rules of their issuer read them.
fn as_verified(mesh: &Mesh, map: Map<String, Value>) -> Claims {
    let issuer = map.get("iss").and_then(Value::as_str);
    let rules = mesh.request_authentications.iter().flat_map(|r| &r.rules);
    let own = rules.filter(|r| r.issuer.is_empty() || Some(r.issuer.as_str()) == issuer);
    let split = own.flat_map(|r| &r.space_delimited_claims).cloned();
    let split = split.collect();
    Claims::new(map, split)
}

/// The lines of a log that an identifier may mean.
#[derive(Default)]
struct Found {
    /// The last record that has it as its own.
    own: Option<String>,
    /// The first denial of a request that has it as its `x-request-id`.
    denied: Option<String>,
    /// The last record of such a request.
    last: Option<String>,
}

impl Found {
    fn look(&mut self, line: String, id: &str) {
        let Ok(value) = serde_json::from_str::<Value>(&line) else {
            return;
        };
        let is = |path: &str| value.pointer(path).and_then(Value::as_str) == Some(id);
        let denied = value.get("verdict").and_then(Value::as_str) == Some("deny");
        if is("/id") {
            self.own = Some(line);
        } else if is("/request/id") {
            if denied && self.denied.is_none() {
                self.denied = Some(line);
            } else {
                self.last = Some(line);
            }
        }
    }

    fn best(self) -> Option<String> {
        self.own.or(self.denied).or(self.last)
    }
}

impl Recorded {
    fn get(&self, path: &[&str]) -> Option<&Value> {
        path.iter()
            .try_fold(&self.value, |value, key| value.get(*key))
            .filter(|value| !value.is_null())
    }

    pub(super) fn text(&self, path: &[&str]) -> Option<&str> {
        self.get(path)?.as_str()
    }

    pub(super) fn generation(&self) -> Option<u64> {
        self.get(&["generation"])?.as_u64()
    }

    /// What was judged, to be judged again.
    pub(super) fn asked(&self, rules: &Enforcements, args: &ExplainArgs) -> anyhow::Result<Asked> {
        if self.text(&["kind"]) == Some("outbound") {
            return Ok(Asked::Departure {
                call: self.departure(args)?,
            });
        }
        if self.is_redirected() {
            let text = |key| self.text(&["request", key]).unwrap_or_default();
            let title = format!(
                "recorded: {} {} to {} in the clear",
                text("method"),
                text("path"),
                text("host")
            );
            return Ok(Asked::Redirected { title });
        }
        let mesh = &rules.mesh;
        let (place, point) = self.point(rules)?;
        let connection = self.connection(args)?;
        let request = self.request(mesh, &connection)?;
        let claims = self.claims(mesh, args)?;
        let who = question::who(connection.principal.as_ref());
        let to = self.destination();
        let title = match &request {
            Some(request) => {
                let path = request.path.as_ref().map_or("", |p| p.as_str());
                format!("{} {path} to {to}, as {who}", request.method)
            }
            None => format!("a connection to {to} port {}, as {who}", connection.port),
        };
        Ok(Asked::Point {
            place,
            point,
            connection,
            request,
            claims,
            title: format!("recorded: {title}"),
        })
    }

    /// It came to `httpListen` of an ingress: no other plaintext is refused there.
    fn is_redirected(&self) -> bool {
        self.text(&["role"]) == Some("ingress")
            && self.text(&["close"]) == Some("plaintext_refused")
    }

    /// It came on a connection that is for other hosts.
    pub(super) fn is_misdirected(&self) -> bool {
        self.text(&["close"]) == Some("misdirected")
    }

    /// Why its token was refused, and the status that told so: policy was not asked.
    pub(super) fn refused_token(&self) -> Option<(u64, &str)> {
        let reason = self.text(&["reason"])?;
        let refused = self.text(&["close"]) == Some("token");
        let status = self.get(&["status"]).and_then(Value::as_u64);
        let why = reason.strip_prefix("token: ").unwrap_or(reason);
        refused.then(|| (status.unwrap_or(401), why))
    }

    /// The status, if it is that of an error, and why the exchange ended.
    pub(super) fn failed(&self) -> Option<(u64, String)> {
        let status = self.get(&["status"])?.as_u64()?;
        let close = shown(self.text(&["close"])?);
        (status >= 400).then_some((status, close))
    }

    fn query(&self) -> Option<&str> {
        let (_, query) = self.text(&["request", "path"])?.split_once('?')?;
        Some(query)
    }

    /// Whether it holds no query: there was none, or `records.query` has taken it away.
    pub(super) fn query_is_gone(&self) -> bool {
        self.query().is_none()
    }

    /// Whether `records.query` has left names alone.
    pub(super) fn query_is_veiled(&self) -> bool {
        let veiled = |parameter: &str| parameter == "*" || parameter.ends_with("=*");
        self.query()
            .is_some_and(|query| query.split('&').any(veiled))
    }

    fn destination(&self) -> &str {
        self.text(&["destination", "service"])
            .or_else(|| self.text(&["destination", "workload"]))
            .unwrap_or("unknown")
    }

    fn point(&self, rules: &Enforcements) -> anyhow::Result<(Place, SitePoint)> {
        let role = self.text(&["role"]).context("the record has no `role`")?;
        if role == "node" {
            let text = self
                .text(&["destination", "workload"])
                .context("the record names no workload: it ended before one was known")?;
            let workload =
                ResourceName::parse(text).with_context(|| format!("`{text}` is no workload"))?;
            let at = rules.directory.workload(&workload);
            let at =
                at.with_context(|| format!("workload `{text}` is not in the mesh any more"))?;
            let address = rules.mesh.workloads.get(at).map(|w| w.address);
            let address = address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            let point = SitePoint::Workload {
                workload,
                app: SocketAddr::new(address, self.port().unwrap_or_default()),
                mark: None,
                source: OriginalSource::Drop,
            };
            return Ok((Place::Node(at), point));
        }
        let text = self
            .text(&["instance"])
            .context("the record has no `instance`")?;
        let gateway =
            ResourceName::parse(text).with_context(|| format!("`{text}` is no gateway"))?;
        let at = rules.directory.gateway(&gateway);
        let at = at.with_context(|| format!("gateway `{text}` is not in the mesh any more"))?;
        let authority = self.authority(rules);
        let point = match role {
            "waypoint" => SitePoint::Waypoint { gateway, authority },
            "egress" => SitePoint::Egress { gateway, authority },
            "ingress" => SitePoint::Ingress { gateway },
            other => bail!("`{other}` is no role that decides"),
        };
        Ok((Place::Gateway(at), point))
    }

    /// The authority of the tunnel, which chose the service: its name and the port that was judged.
    fn authority(&self, rules: &Enforcements) -> Option<Host> {
        let service = ResourceName::parse(self.text(&["destination", "service"])?)?;
        let at = rules.directory.service(&service)?;
        let mut hosts = rules.mesh.services.get(at)?.hosts.iter();
        let host = hosts.find(|host| !host.starts_with('*'))?;
        Host::parse(&format!("{host}:{}", self.port()?)).ok()
    }

    fn port(&self) -> Option<u16> {
        let port = self.get(&["destination", "port"])?.as_u64()?;
        u16::try_from(port).ok()
    }

    fn connection(&self, args: &ExplainArgs) -> anyhow::Result<Connection> {
        let principal = match self.text(&["source", "principal"]) {
            None => None,
            Some(text) => {
                let id = SpiffeId::parse(&format!("spiffe://{text}"));
                Some(id.with_context(|| format!("principal `{text}` of the record"))?)
            }
        };
        let peer = self
            .text(&["source", "address"])
            .and_then(|text| text.parse::<SocketAddr>().ok())
            .context("the record has no `source.address`")?
            .ip()
            .to_canonical();
        let client = self.text(&["source", "client"]);
        let client = client.and_then(|text| text.parse::<IpAddr>().ok());
        let destination = self.text(&["destination", "address"]);
        let destination = destination
            .and_then(|text| text.parse::<IpAddr>().ok())
            .context("the record has no `destination.address`: it ended before it was judged")?;
        Ok(Connection {
            principal,
            peer,
            remote: client.unwrap_or(peer),
            destination,
            port: self
                .port()
                .context("the record has no `destination.port`")?,
            sni: self.text(&["destination", "sni"]).map(Into::into),
            time: self.time(args)?,
        })
    }

    /// `--time` if it is given: what would be decided then.
    fn time(&self, args: &ExplainArgs) -> anyhow::Result<i64> {
        match (&args.call.time, self.text(&["time"])) {
            (None, Some(text)) => question::moment(text).context("`time` of the record"),
            (Some(_), _) | (None, None) => question::time(&args.call),
        }
    }

    fn request(&self, mesh: &Mesh, connection: &Connection) -> anyhow::Result<Option<Request>> {
        let Some(method) = self.text(&["request", "method"]) else {
            return Ok(None);
        };
        let method = Method::from_bytes(method.as_bytes())
            .map_err(|_invalid| anyhow!("`{method}` is no method"))?;
        let host = self
            .text(&["request", "host"])
            .and_then(|text| Host::parse(text).ok())
            .context("the record has no `request.host`")?;
        let path = match self.text(&["request", "path"]) {
            None => None,
            Some(text) => {
                let path = CanonicalPath::parse(mesh.path_normalization, text);
                Some(path.with_context(|| format!("path `{text}` of the record"))?)
            }
        };
        let mut headers = HeaderMap::new();
        if let Some(name) = self.text(&["request", "id"]) {
            headers.insert(REQUEST_ID, HeaderValue::try_from(name)?);
        }
        // So that the client's address is read where it was read.
        if let Some(after) = mesh.num_trusted_proxies.checked_sub(1) {
            let peers = std::iter::repeat_n(connection.peer.to_string(), after);
            let chain: Vec<String> = std::iter::once(connection.remote.to_string())
                .chain(peers)
                .collect();
            headers.insert(forward::XFF, HeaderValue::try_from(chain.join(", "))?);
        }
        Ok(Some(Request {
            method,
            host,
            path,
            headers,
            claims: None,
            time: connection.time,
        }))
    }

    /// The claims that were verified: issuer and subject, which is what a record has, and those of `--claims`.
    fn claims(&self, mesh: &Mesh, args: &ExplainArgs) -> anyhow::Result<Option<Claims>> {
        let mut map = Map::new();
        let user = self.text(&["user", "principal"]);
        if let Some((issuer, subject)) = user.and_then(|principal| halves(mesh, principal)) {
            map.insert("iss".to_owned(), issuer.into());
            map.insert("sub".to_owned(), subject.into());
        }
        if let Some(text) = &args.call.claims {
            let given: Map<String, Value> =
                serde_json::from_str(text).context("`--claims` is not a JSON object")?;
            map.extend(given);
        } else if map.is_empty() {
            return Ok(None);
        }
        Ok(Some(as_verified(mesh, map)))
    }

    fn departure(&self, args: &ExplainArgs) -> anyhow::Result<Call> {
        let connection = self.connection(args)?;
        let wanted = self
            .text(&["destination", "service"])
            .and_then(|text| text.rsplit_once(':'))
            .map(|(host, _port)| host)
            .context("the record names no destination")?;
        let bare = wanted.trim_start_matches('[').trim_end_matches(']');
        let to = match bare.parse::<IpAddr>() {
            Ok(ip) => To::Address(ip),
            Err(_name) => To::Name(wanted.to_owned()),
        };
        Ok(Call {
            from: connection.principal,
            source: connection.peer,
            to,
            port: connection.port,
            request: None,
            sni: None,
            time: connection.time,
        })
    }
}
