//! What the admin, metrics and readiness endpoints ask: metrics, and what is open on the cores.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::pki_types::UnixTime;
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc, oneshot};

use crate::control::admin::Status;
use crate::control::serving::Served;
use crate::control::{endpoints, identities};
use crate::io::clock;
use crate::telemetry::live::Live;
use crate::telemetry::metrics::exposition::Exposition;
use crate::telemetry::metrics::registry::Own;
use crate::telemetry::metrics::{News, Registry};
use crate::telemetry::tally::Tally;
use crate::vocab::limits;

/// Asks a core what is open; it answers with the oldest first, at most `limits::LIVE_ROWS`.
pub type LiveAsk = oneshot::Sender<Vec<Live>>;

/// How long a core may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Questions of what is open that may wait at one core.
pub const LIVE_ASKS: usize = 4;
/// Cores that may announce themselves at a time.
const CORES: usize = 1024;

/// The cores' ends of the channels.
#[derive(Clone, Debug)]
pub struct Reports {
    /// New series of metrics.
    pub series: mpsc::Sender<News>,
    /// A core that has started, by the line on which it can be asked.
    pub cores: mpsc::Sender<mpsc::Sender<LiveAsk>>,
    /// Decision records that were lost because the writer could not keep up.
    pub lost_records: Arc<AtomicU64>,
    /// Connections that are open or were refused.
    pub tally: Arc<Tally>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    started: mpsc::Receiver<mpsc::Sender<LiveAsk>>,
    cores: Vec<mpsc::Sender<LiveAsk>>,
    lost_records: Arc<AtomicU64>,
    tally: Arc<Tally>,
}

/// What can be observed of this process.
#[derive(Clone, Debug)]
pub struct Observed(Arc<Mutex<Inner>>);

impl Observed {
    /// Nothing yet, and the ends that the cores get.
    #[must_use]
    pub fn new() -> (Self, Reports) {
        let (series, news) = mpsc::channel(limits::SERIES_WAITING);
        let (cores, started) = mpsc::channel(CORES);
        let inner = Inner {
            registry: Registry::new(news),
            started,
            cores: Vec::new(),
            lost_records: Arc::default(),
            tally: Arc::default(),
        };
        let reports = Reports {
            series,
            cores,
            lost_records: Arc::clone(&inner.lost_records),
            tally: Arc::clone(&inner.tally),
        };
        (Self(Arc::new(Mutex::new(inner))), reports)
    }

    /// All metrics, as OpenMetrics text.
    ///
    /// # Errors
    /// The encoder's.
    pub async fn metrics(&self, status: &Status) -> Result<Exposition, std::fmt::Error> {
        let mut inner = self.0.lock().await;
        let lost = inner.lost_records.load(Ordering::Relaxed);
        let mut all = own(status, lost);
        all.extend(connections(&inner.tally));
        if let Some((mesh, known)) = &status.upstreams {
            all.extend(endpoints::metrics(mesh, known, clock::millis()));
        }
        inner.registry.encode(all)
    }

    /// Connections and tunnels: that are served now, and that a limit has refused.
    pub async fn counts(&self) -> (usize, u64) {
        let inner = self.0.lock().await;
        (inner.tally.open(), inner.tally.refused())
    }

    /// What is open, as JSON. `complete` is false where there is more than is told or a core did not answer in time.
    pub async fn connections(&self) -> Value {
        let cores = {
            let mut inner = self.0.lock().await;
            while let Ok(core) = inner.started.try_recv() {
                inner.cores.push(core);
            }
            inner.cores.clone()
        };
        let mut complete = true;
        let mut rows = Vec::new();
        for (number, core) in cores.iter().enumerate() {
            let (ask, answer) = oneshot::channel();
            let asked = core.try_send(ask).is_ok();
            match tokio::time::timeout(ANSWER, answer).await {
                Ok(Ok(live)) if asked => {
                    complete &= live.len() < limits::LIVE_ROWS;
                    rows.extend(live.iter().map(|row| row.to_json(number)));
                }
                Ok(_) | Err(_) => complete = false,
            }
        }
        json!({ "complete": complete, "connections": rows })
    }
}

fn connections(tally: &Tally) -> [Own; 2] {
    [
        Own::gauge(
            "ringgate_connections",
            "Connections and tunnels that are served",
            u64::try_from(tally.open()).unwrap_or(u64::MAX),
        ),
        Own {
            name: "ringgate_connections_refused",
            help: "Connections and tunnels that a limit has refused",
            counts: true,
            values: vec![(Vec::new(), tally.refused())],
        },
    ]
}

/// One value for each certificate of each listener.
fn certificates(status: &Status) -> Own {
    let now = UnixTime::now();
    let value = |served: &Served| {
        let labels = vec![
            ("gateway", served.gateway.to_string()),
            ("listener", served.listener.to_string()),
            ("certificate", served.certificate.display().to_string()),
        ];
        (labels, served.seconds_left(now))
    };
    Own {
        name: "ringgate_certificate_seconds_left",
        help: "Seconds until a certificate that an ingress listener serves expires; 0 if it has",
        counts: false,
        values: status.serving.all().map(value).collect(),
    }
}

fn own(status: &Status, lost_records: u64) -> Vec<Own> {
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    let build = vec![
        ("component", "ringgate".to_owned()),
        ("tag", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    vec![
        Own {
            name: "istio_build",
            help: "Istio component build info",
            counts: false,
            values: vec![(build, 1)],
        },
        Own {
            name: "ringgate_records_lost",
            help: "Decision records lost because the writer could not keep up",
            counts: true,
            values: vec![(Vec::new(), lost_records)],
        },
        Own::gauge(
            "ringgate_config_generation",
            "Number of the configuration that judges",
            status.generation,
        ),
        Own::gauge(
            "ringgate_config_problems",
            "Problems of the last reload, and files that cannot be used; 0 if all is good",
            count(status.problems.len() + status.files.len()),
        ),
        certificates(status),
        Own::gauge(
            "ringgate_key_sets_missing",
            "Key sets of token rules that were never obtained; their tokens are refused",
            count(status.key_sets_missing),
        ),
        Own::gauge(
            "ringgate_identities",
            "Identities that are valid now",
            count(status.identities),
        ),
        Own::gauge(
            "ringgate_identity_seconds_left",
            "Seconds until the first identity expires; 0 if there is none",
            identities::seconds_left(&status.svids, UnixTime::now()),
        ),
        Own::gauge(
            "ringgate_revocations",
            "Revocations in force",
            count(status.revocations),
        ),
        Own::gauge(
            "ringgate_ready",
            "1 while all listeners serve and capture, if any, is kept",
            status.is_ready().into(),
        ),
    ]
}
