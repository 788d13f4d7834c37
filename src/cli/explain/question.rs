//! From arguments to a call.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, anyhow, bail};
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};

use super::CallArgs;
use super::tokens::Verifier;
use crate::cli::{named, os};
use crate::config::checked::Mesh;
use crate::config::nearest::hint;
use crate::http::canonical::{self, BadRequest};
use crate::http::h1::RawRequest;
use crate::policy::{Connection, Request};
use crate::role::enforcement::Enforcements;
use crate::role::plan::SitePoint;
use crate::role::walk::{Call, Place, To};
use crate::vocab::claims::Claims;
use crate::vocab::resource::ResourceName;
use crate::vocab::spiffe::SpiffeId;

/// What is to be explained.
#[derive(Clone, Debug)]
pub(super) enum Asked {
    /// A call and its way.
    Call {
        /// The call.
        call: Call,
        /// As it was asked for.
        title: String,
    },
    /// A request that is answered 400 before anything judges it.
    Bad {
        /// Why.
        error: BadRequest,
        /// As it was asked for.
        title: String,
    },
    /// A recorded request that came in the clear and was led to https: nothing judged it.
    Redirected {
        /// As the record has it.
        title: String,
    },
    /// One enforcement point of a record.
    Point {
        /// Where.
        place: Place,
        /// What stands there.
        point: SitePoint,
        /// Connection.
        connection: Connection,
        /// Request.
        request: Option<Request>,
        /// Claims that were verified then.
        claims: Option<Claims>,
        /// As the record has it.
        title: String,
    },
    /// A recorded connection that left a workload: its own node alone.
    Departure {
        /// The call.
        call: Call,
    },
}

impl Asked {
    /// Claims that were verified when a record was made.
    pub(super) fn claims(&self) -> Option<&Claims> {
        match self {
            Self::Point { claims, .. } => claims.as_ref(),
            Self::Call { .. }
            | Self::Bad { .. }
            | Self::Redirected { .. }
            | Self::Departure { .. } => None,
        }
    }

    /// One line.
    pub(super) fn title(&self) -> String {
        match self {
            Self::Call { title, .. }
            | Self::Bad { title, .. }
            | Self::Redirected { title }
            | Self::Point { title, .. } => title.clone(),
            Self::Departure { call } => {
                let to = match &call.to {
                    To::Name(name) => name.clone(),
                    To::Address(ip) => ip.to_string(),
                    To::Workload(_) | To::Gateway(_) => String::new(),
                };
                let who = who(call.from.as_ref());
                format!("a connection to {to} port {}, as {who}", call.port)
            }
        }
    }
}

/// The caller in words.
pub(super) fn who(from: Option<&SpiffeId>) -> &str {
    from.map_or("anonymous", SpiffeId::principal)
}

/// The moment that counts.
pub(super) fn time(args: &CallArgs) -> anyhow::Result<i64> {
    match &args.time {
        None => Ok(i64::try_from(os::unix_s()).unwrap_or(i64::MAX)),
        Some(text) => moment(text).map_err(|_malformed| {
            let expected = "expected seconds since 1970, or a time such as 2025-11-22T08:26:40Z";
            anyhow!("`--time {text}`: {expected}")
        }),
    }
}

/// RFC 3339, or seconds since 1970.
pub(super) fn moment(text: &str) -> anyhow::Result<i64> {
    if let Ok(seconds) = text.parse::<i64>() {
        return Ok(seconds);
    }
    Ok(text.parse::<jiff::Timestamp>()?.as_second())
}

/// The providers that say no.
pub(super) fn refusing(mesh: &Mesh, answers: &[String]) -> anyhow::Result<Vec<String>> {
    let mut refusing = Vec::new();
    for answer in answers {
        let (name, denies) = match answer.split_once('=') {
            Some((name, "deny")) => (name, true),
            Some((name, "allow")) => (name, false),
            Some(_) | None => bail!("`--custom {answer}`: expected NAME=allow or NAME=deny"),
        };
        named::provider(mesh, name).map_err(|why| anyhow!("`--custom {answer}`: {why}"))?;
        if denies {
            refusing.push(name.to_owned());
        }
    }
    Ok(refusing)
}

/// The call that the arguments describe.
pub(super) fn of(
    rules: &Enforcements,
    args: &CallArgs,
    verifier: &Verifier,
) -> anyhow::Result<Asked> {
    let mesh = &rules.mesh;
    let from = args.from.as_deref().unwrap_or_default();
    let from = named::caller(mesh, from).map_err(|why| anyhow!("`--from {from}`: {why}"))?;
    let written = args.to.as_deref().unwrap_or_default();
    let to = destination(rules, written, from.as_ref())?;
    let port = args
        .port
        .unwrap_or_else(|| named::port(rules, &to, from.as_ref()));
    let source = args
        .source_ip
        .map(|ip| ip.to_canonical())
        .or_else(|| address_of(mesh, from.as_ref()))
        .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let who = who(from.as_ref());
    let title = if args.no_http {
        format!("bytes to {written} port {port}, as {who}")
    } else {
        let (method, path) = (&args.method, &args.path);
        format!("{method} {path} to {written} port {port}, as {who}")
    };
    let request = if args.no_http {
        None
    } else {
        let host = host(mesh, args, &to, port)?;
        let raw = raw(args, &host, verifier.token())?;
        match canonical::from_h1(raw, mesh.path_normalization, time(args)?) {
            Ok((request, _form)) => Some(request),
            Err(error) => return Ok(Asked::Bad { error, title }),
        }
    };
    let call = Call {
        from,
        source,
        to,
        port,
        request,
        sni: args
            .sni
            .as_ref()
            .map(|name| name.to_ascii_lowercase().into()),
        time: time(args)?,
    };
    if call.from.is_none() && matches!(call.to, To::Name(_) | To::Address(_)) {
        known_to_strangers(rules, &call.to, written)?;
    }
    Ok(Asked::Call { call, title })
}

/// A caller outside the mesh meets the mesh only at addresses of the mesh.
fn known_to_strangers(rules: &Enforcements, to: &To, written: &str) -> anyhow::Result<()> {
    let directory = &rules.directory;
    let service = match to {
        To::Name(name) => directory.service_by_host(name),
        To::Address(ip) if directory.workload_by_address(*ip).is_some() => return Ok(()),
        To::Address(ip) => directory.service_by_address(*ip),
        To::Workload(_) | To::Gateway(_) => return Ok(()),
    };
    let workloads = service.and_then(|at| rules.mesh.services.get(at));
    if workloads.is_some_and(|s| !s.workloads.is_empty()) {
        return Ok(());
    }
    bail!("an anonymous caller does not pass this mesh on its way to `{written}`")
}

/// The address of the first workload or gateway with this identity.
pub(super) fn address_of(mesh: &Mesh, id: Option<&SpiffeId>) -> Option<IpAddr> {
    let id = id?;
    let workload = mesh.workloads.iter().find(|w| w.id == *id);
    let gateway = || mesh.gateways.iter().find(|g| g.id == *id);
    workload
        .map(|w| w.address)
        .or_else(|| gateway().map(|g| g.hbone.ip()))
}

fn destination(rules: &Enforcements, text: &str, from: Option<&SpiffeId>) -> anyhow::Result<To> {
    let directory = &rules.directory;
    let (kind, rest) = match text.split_once(':') {
        Some((kind @ ("workload" | "service" | "gateway"), rest)) => (kind, rest),
        Some(_) | None => ("", text),
    };
    if let Some(name) = ResourceName::parse(rest) {
        let is = |wanted: &str| kind.is_empty() || kind == wanted;
        if let Some(at) = directory.workload(&name).filter(|_| is("workload")) {
            return Ok(To::Workload(at));
        }
        if let Some(at) = directory.service(&name).filter(|_| is("service")) {
            let hosts = rules.mesh.services.get(at).map(|s| s.hosts.iter());
            let mut hosts = hosts.into_iter().flatten();
            let exact = hosts.find(|host| !host.starts_with('*'));
            let exact = exact.with_context(|| {
                format!("`--to {text}` has wildcard hosts alone; name the host that is called")
            })?;
            return Ok(To::Name(exact.clone()));
        }
        if let Some(at) = directory.gateway(&name).filter(|_| is("gateway")) {
            return Ok(To::Gateway(at));
        }
        let mesh = &rules.mesh;
        let names = mesh.workloads.iter().map(|w| &w.name);
        let names = names.chain(mesh.services.iter().map(|s| &s.name));
        let names = names.chain(mesh.gateways.iter().map(|g| &g.name));
        let names: Vec<String> = names.map(ToString::to_string).collect();
        let near = hint(rest, names.iter().map(String::as_str));
        bail!("`--to {text}`: no workload, service or gateway of this name{near}");
    }
    if !kind.is_empty() {
        bail!("`--to {text}`: expected NAMESPACE/NAME after `{kind}:`");
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(To::Address(ip.to_canonical()));
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    match crate::vocab::host::Host::parse(&name) {
        Ok(host) if host.port().is_none() => {
            let near = named::nearest_host(&rules.mesh, &name);
            let one_word = !name.contains('.') && !near.is_empty();
            if one_word && named::service(rules, &name, from).is_none() {
                bail!("`--to {text}`: no service has this host{near}");
            }
            Ok(To::Name(name))
        }
        Ok(_) => bail!("`--to {text}`: the port goes with `--port`"),
        Err(_malformed) => {
            bail!("`--to {text}`: expected a host name, an address or NAMESPACE/NAME")
        }
    }
}

/// The host that a client would send.
fn host(mesh: &Mesh, args: &CallArgs, to: &To, port: u16) -> anyhow::Result<String> {
    if let Some(host) = &args.host {
        return Ok(host.clone());
    }
    let name = match to {
        To::Name(name) => name.clone(),
        To::Address(ip) => literal(*ip),
        To::Workload(at) => literal(
            mesh.workloads
                .get(*at)
                .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |w| w.address),
        ),
        To::Gateway(_) => bail!("`--host` is needed: a gateway serves more than one"),
    };
    Ok(match port {
        80 | 443 => name,
        port => format!("{name}:{port}"),
    })
}

fn literal(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

/// The request as it would be sent.
fn raw(args: &CallArgs, host: &str, token: Option<&str>) -> anyhow::Result<RawRequest> {
    let method = Method::from_bytes(args.method.as_bytes())
        .map_err(|_invalid| anyhow!("`--method {}` is no method", args.method))?;
    let mut headers = HeaderMap::new();
    let value = |text: &str| {
        HeaderValue::from_str(text).map_err(|_invalid| anyhow!("`{text}` is no field value"))
    };
    headers.append(header::HOST, value(host)?);
    for field in &args.headers {
        let (name, text) = field
            .split_once(':')
            .with_context(|| format!("`--header {field}`: expected `name: value`"))?;
        let name = HeaderName::try_from(name)
            .map_err(|_invalid| anyhow!("`--header {field}`: `{name}` is no field name"))?;
        headers.append(name, value(text.trim_matches([' ', '\t']))?);
    }
    if let Some(token) = token {
        headers.append(header::AUTHORIZATION, value(&format!("Bearer {token}"))?);
    }
    let target = if method == Method::CONNECT {
        host.to_owned()
    } else {
        args.path.clone()
    };
    Ok(RawRequest::new(method, target, headers))
}
