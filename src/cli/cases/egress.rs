//! `egress` cases: which service of the registry a host and port mean (policy semantics 9.1 and 9.3).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use toml::Table;

use crate::cli::cases::expect::Judged;
use crate::cli::cases::json::{Broken, integer_or, list, member, text, text_or, texts};
use crate::config;
use crate::config::checked::Mesh;
use crate::policy::Decision;
use crate::role::endpoints::Caller;
use crate::role::enforcement::Enforcements;
use crate::role::outbound::{self, Route, Wanted};
use crate::vocab::host::Host;

/// Where every service of a case stands; nothing is dialled.
const ENDPOINT: &str = "192.0.2.1";

/// `egress`: the name of a service entry, `blocked` or `passthrough`.
pub(super) fn judge(case: &Value) -> Judged {
    run(case).into()
}

fn run(case: &Value) -> Broken<Judged> {
    let rules = Enforcements::build(registry(case)?).map_err(|e| e.to_string())?;
    let request = case.get("request").ok_or("`request` is missing")?;
    let port = integer_or(request, "port", 80)?;
    let port = u16::try_from(port).map_err(|_e| format!("{port} is not a port"))?;
    let host = text(request, "host")?;
    let (got, why) = match Host::parse(host) {
        Ok(host) => choose(&rules, &host, port),
        Err(error) => ("blocked".to_owned(), Some(error.to_string())),
    };
    Ok(Judged::compare(case, "expect", json!(got), why))
}

/// What a node decides about a connection that leaves for the host.
fn choose(rules: &Enforcements, host: &Host, port: u16) -> (String, Option<String>) {
    let wanted = match host.ip() {
        Some(ip) => Wanted::Address(ip),
        None => Wanted::Name(host.name().to_owned()),
    };
    let (route, verdict) = outbound::judge(
        rules,
        &Caller::default(),
        (&wanted, host.port().unwrap_or(port)),
        0,
    );
    let why = Some(verdict.judged().reason.to_string());
    if verdict.judged().decision == Decision::Deny {
        return ("blocked".to_owned(), why);
    }
    match route {
        Route::Gateway {
            service: Some(service),
            ..
        }
        | Route::Outside { service, .. } => {
            let service = rules.mesh.services.get(service);
            let name = service.map_or_else(String::new, |s| s.name.name.clone());
            (name, why)
        }
        Route::Workload { .. } | Route::Gateway { service: None, .. } | Route::Unknown(_) => {
            ("passthrough".to_owned(), why)
        }
        Route::Unreachable { .. } => {
            let why = "the service does not have this port".to_owned();
            ("blocked".to_owned(), Some(why))
        }
    }
}

/// The services of a case, read as a configuration is.
fn registry(case: &Value) -> Broken<Arc<Mesh>> {
    let mut services = Vec::new();
    for service in list(case, "services")? {
        let mut ports = Vec::new();
        for port in list(service, "ports")? {
            let number = integer_or(port, "number", 0)?;
            let name = format!("port-{number}");
            let protocol = text_or(port, "protocol", "HTTP")?;
            let port = [
                ("number", number.into()),
                ("name", text_or(port, "name", &name)?.into()),
                ("protocol", protocol.into()),
            ];
            ports.push(table(port));
        }
        let hosts = texts(service, "hosts")?.into_iter().map(toml::Value::from);
        services.push(table([
            ("name", text(service, "name")?.into()),
            (
                "namespace",
                text_or(service, "namespace", "default")?.into(),
            ),
            ("hosts", hosts.collect::<Vec<_>>().into()),
            ("ports", ports.into()),
            ("location", "MESH_EXTERNAL".into()),
            ("resolution", "STATIC".into()),
            (
                "endpoints",
                vec![table([("address", ENDPOINT.into())])].into(),
            ),
        ]));
    }
    let none = Value::Object(Map::new());
    let mesh = member(case, "mesh").unwrap_or(&none);
    let outbound = text_or(mesh, "outboundTrafficPolicy", "REGISTRY_ONLY")?;
    let mut file = table([
        ("authority", table([]).into()),
        (
            "mesh",
            table([("outboundTrafficPolicy", outbound.into())]).into(),
        ),
    ]);
    // An empty list is no registry without services, it is a mistake.
    if !services.is_empty() {
        file.insert("serviceEntry".to_owned(), services.into());
    }
    let text = file.to_string();
    let read = config::parse(&[(PathBuf::from("case"), text)], Path::new(""));
    Ok(read.map_err(|errors| errors.to_string())?.mesh)
}

fn table<const N: usize>(entries: [(&str, toml::Value); N]) -> Table {
    let entries = entries.into_iter();
    entries
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}
