//! How the process is, in one answer: for `ringgate status` and the admin endpoint.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::pki_types::UnixTime;
use serde_json::{Value, json};

use crate::config::checked::{Config, IdentitySource, Process};
use crate::control::admin::Status;
use crate::control::identities;
use crate::control::sandbox::{self, Sandbox};
use crate::control::serving::{Listener, Serving};
use crate::io::clock;

/// Most listeners of traffic that the first line of the log names.
const LISTENERS: usize = 8;

fn listed<T: AsRef<str>>(words: &[T]) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    if words.is_empty() {
        return "nothing".to_owned();
    }
    words.join(", ")
}

/// What listeners serve, and for which server names.
fn certificates(serving: &Serving, now: UnixTime) -> Vec<Value> {
    let listeners = serving.listeners().flat_map(Listener::served);
    let told = listeners.map(|(served, names, others)| {
        json!({
            "gateway": served.gateway.to_string(),
            "listener": served.listener.to_string(),
            "certificate": served.certificate.display().to_string(),
            "hostnames": names,
            "otherNames": others,
            "secondsLeft": served.seconds_left(now),
        })
    });
    told.collect()
}

/// What the process is from its start on.
#[derive(Debug)]
pub struct About {
    process: Arc<Process>,
    cores: usize,
    /// On the monotonic clock, in milliseconds.
    begun_ms: u64,
    /// `io_uring` or `epoll`, once a core has chosen.
    pub driver: OnceLock<&'static str>,
    /// Once all of it is in force.
    pub sandbox: OnceLock<Sandbox>,
}

impl About {
    /// Of a process that starts with this configuration on so many cores.
    #[must_use]
    pub fn new(config: &Config, cores: usize) -> Arc<Self> {
        Arc::new(Self {
            process: Arc::new(config.process.clone()),
            cores,
            begun_ms: clock::millis(),
            driver: OnceLock::new(),
            sandbox: OnceLock::new(),
        })
    }

    /// In each thread that has bound its addresses.
    pub fn has_bound(&self) {
        if sandbox::forbids(&self.process) {
            sandbox::never_binds();
        }
    }

    /// Files that a configuration names and that this process may not open any more, as problems.
    #[must_use]
    pub fn outside(&self, config: &Config) -> Vec<String> {
        let sandbox = self.sandbox.get();
        let outside = sandbox.map_or_else(Vec::new, |sandbox| sandbox.outside(config));
        outside.iter().map(ToString::to_string).collect()
    }

    fn roles(&self) -> Vec<&'static str> {
        let process = &self.process;
        let is_authority = matches!(process.identity, IdentitySource::Embedded(_));
        let all = [
            ("ingress", !process.ingresses.is_empty()),
            ("node", !process.nodes.is_empty()),
            ("waypoint", !process.waypoints.is_empty()),
            ("egress", !process.egresses.is_empty()),
            ("authority", is_authority),
            ("workload-api", process.workload_api.is_some()),
        ];
        all.into_iter()
            .filter_map(|(name, is_there)| is_there.then_some(name))
            .collect()
    }

    fn listeners(&self) -> Vec<Value> {
        let all = self.process.traffic_listeners().into_iter();
        let all = all.chain(self.own_listeners());
        all.map(|(address, what)| json!({ "address": address.to_string(), "what": what }))
            .collect()
    }

    /// Those that carry no traffic of the mesh.
    fn own_listeners(&self) -> Vec<(SocketAddr, &'static str)> {
        let process = &self.process;
        let authority = match &process.identity {
            IdentitySource::Embedded(authority) => authority.listen,
            IdentitySource::Remote(_)
            | IdentitySource::Files(_)
            | IdentitySource::WorkloadApi(_) => None,
        };
        let nodes = process.nodes.iter();
        let names = nodes.flat_map(|n| n.workloads.iter().map(|w| w.dns).chain([n.dns]));
        let own = [
            (process.admin, "admin"),
            (process.metrics, "metrics"),
            (process.readiness, "readiness"),
            (authority, "authority"),
        ];
        let own = own.into_iter().chain(names.map(|dns| (dns, "DNS")));
        own.filter_map(|(address, what)| Some((address?, what)))
            .collect()
    }

    /// What begins here, for the first line of the log: version, configuration, and which role serves where.
    #[must_use]
    pub fn first_line(&self, main: &Path) -> String {
        let listeners = self.process.traffic_listeners();
        let mut at: Vec<String> = listeners
            .iter()
            .take(LISTENERS)
            .map(|(address, what)| format!("{what} {address}"))
            .collect();
        let more = listeners.len().saturating_sub(LISTENERS);
        if more > 0 {
            at.push(format!("{more} more"));
        }
        let own = self.own_listeners().into_iter();
        at.extend(own.map(|(address, what)| format!("{what} {address}")));
        let main = std::path::absolute(main).unwrap_or_else(|_| main.to_owned());
        format!(
            "ringgate {} ({}), configuration {}: {} serves as {} at {}",
            env!("CARGO_PKG_VERSION"),
            env!("RINGGATE_BUILD_COMMIT"),
            main.display(),
            self.process.name,
            listed(&self.roles()),
            listed(&at),
        )
    }

    /// All of it. `open` and `refused` are connections and tunnels: that are served now, and that a limit has refused. Times
    /// are Unix seconds.
    #[must_use]
    pub fn to_json(&self, status: &Status, (open, refused): (usize, u64)) -> Value {
        let now = UnixTime::now();
        let lost = status.lost.map(|lost| lost.to_string());
        let problems = status.problems.iter().chain(&status.files).chain(&lost);
        let problems: Vec<&String> = problems.collect();
        let reload: Vec<&String> = status.problems.iter().chain(&status.files).collect();
        let up_ms = clock::millis().saturating_sub(self.begun_ms);
        json!({
            "name": self.process.name,
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "uptimeSeconds": up_ms / 1000,
            "ready": status.is_ready(),
            "roles": self.roles(),
            "driver": self.driver.get(),
            "cores": self.cores,
            "generation": status.generation,
            "loadedAt": status.loaded_at,
            "refusedAt": status.refused_at,
            "problems": problems,
            "upgrade": status.upgrade,
            "reload": {
                "heard": status.hangups.heard,
                "answered": status.hangups.answered,
                "problems": reload,
            },
            "keySetsMissing": status.key_sets_missing,
            "revocations": status.revocations,
            "listeners": self.listeners(),
            "certificates": certificates(&status.serving, now),
            "identities": identities::to_json(&status.svids, status.source, now),
            "connections": { "open": open, "refused": refused },
            "sandbox": self.sandbox.get().map(Sandbox::to_json),
        })
    }
}
