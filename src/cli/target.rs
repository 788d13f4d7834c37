//! A system under drill: how to call as each workload, what to count, and where decisions are written.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::curl::Caller;
use super::layout::{Layout, host};
use super::material::PARTNER;
use super::os;

/// A system under drill. The steps know nothing of it but this.
#[derive(Clone, Debug)]
pub struct Target {
    /// Calls as frontend-service, through its node.
    pub frontend: Caller,
    /// Calls as reviews-service, through its node.
    pub reviews: Caller,
    /// Calls as reviews-service from the node that customer-api is on.
    pub same_node: Caller,
    /// Calls from where reviews-service is, past its node: the attacker's own curl.
    pub attacker: Caller,
    /// Calls from where frontend-service is, past its node.
    pub frontend_host: Caller,
    /// Calls from outside.
    pub outsider: Caller,
    /// The three apps without ringgate: name, caller, URL of something they serve.
    pub moat: Vec<(&'static str, Caller, String)>,
    /// `host:port` of customer-api's plaintext port.
    pub workload: String,
    /// `host:port` of direct mTLS at customer-api's node.
    pub workload_tls: String,
    /// `host:port` of direct mTLS at the waypoint.
    pub waypoint_tls: String,
    /// Address of the ingress.
    pub ingress: String,
    /// Address of the egress gateway.
    pub egress: String,
    /// Path and curl arguments of a download from customer-api that does not end by itself.
    pub endless: (&'static str, Vec<String>),
    /// Identity files, one directory for each workload.
    pub stolen: PathBuf,
    /// CA of the ingress certificate.
    pub edge_ca: PathBuf,
    /// Key of end-user tokens.
    pub user_key: PathBuf,
    /// Requests that reached customer-api.
    pub customer_hits: Hits,
    /// Requests that reached the partner.
    pub partner_hits: Hits,
    /// Decision records.
    pub records: Records,
    /// Admin endpoints of all processes: caller and base URL.
    pub admins: Vec<(Caller, String)>,
    /// The file that holds the authorization policies.
    pub policy: PathBuf,
}

/// Where an app's own count of requests is.
#[derive(Clone, Debug)]
pub enum Hits {
    /// The app tells it.
    Url(Caller, String),
    /// Lines of the app's own access log that hold this text.
    Log(PathBuf, &'static str),
}

impl Hits {
    /// Requests so far.
    ///
    /// # Errors
    /// If the counter cannot be read.
    pub fn read(&self) -> anyhow::Result<usize> {
        match self {
            Self::Url(caller, url) => {
                let answer = caller.call(url)?;
                answer
                    .body
                    .trim()
                    .parse()
                    .with_context(|| format!("no hit counter at {url}: {}", answer.seen()))
            }
            Self::Log(path, mark) => Ok(os::read_text(path)?
                .lines()
                .filter(|line| line.contains(mark))
                .count()),
        }
    }
}

/// Decision records of all processes, JSON lines.
#[derive(Clone, Debug)]
pub struct Records(pub Vec<PathBuf>);

/// A place in the decision records: what is written later is new.
#[derive(Clone, Debug)]
pub struct Mark(Vec<u64>);

impl Records {
    /// The end of the records as they are now.
    #[must_use]
    pub fn mark(&self) -> Mark {
        let length = |path: &PathBuf| path.metadata().map_or(0, |file| file.len());
        Mark(self.0.iter().map(length).collect())
    }

    /// Records that were written after `mark`. An unfinished last line is left for later.
    #[must_use]
    pub fn since(&self, mark: &Mark) -> Vec<Value> {
        let mut records = Vec::new();
        for (path, &start) in self.0.iter().zip(&mark.0) {
            let text = tail(path, start).unwrap_or_default();
            let lines = text
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            records.extend(lines.filter_map(|line| serde_json::from_str::<Value>(line).ok()));
        }
        records
    }

    /// Waits until `count` records after `mark` are `wanted`; those that were found.
    #[must_use]
    pub fn await_some(
        &self,
        mark: &Mark,
        count: usize,
        wanted: impl Fn(&Value) -> bool,
    ) -> Vec<Value> {
        let mut found = Vec::new();
        os::wait_until(Duration::from_secs(15), || {
            found = self.since(mark);
            found.retain(&wanted);
            found.len() >= count
        });
        found
    }
}

impl Records {
    /// The newest `wanted` exchange that is open still: a tunnel is recorded when it opens and when it closes, and
    /// carries many requests in between.
    #[must_use]
    pub fn open(&self, wanted: impl Fn(&Value) -> bool) -> Option<Value> {
        let everything = Mark(vec![0; self.0.len()]);
        let mut open: Vec<Value> = Vec::new();
        for record in self.since(&everything) {
            let source = field(&record, "/source/address");
            if field(&record, "/event") == "close" {
                open.retain(|known| field(known, "/source/address") != source);
            } else if wanted(&record) {
                open.push(record);
            }
        }
        open.pop()
    }
}

fn tail(path: &Path, start: u64) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// A string field of a record, such as `/source/principal`; empty if absent.
#[must_use]
pub fn field<'a>(record: &'a Value, pointer: &str) -> &'a str {
    record
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Whether the workload of a record's source runs as this service account.
#[must_use]
pub fn is_from(record: &Value, service_account: &str) -> bool {
    field(record, "/source/principal")
        .rsplit_once("/sa/")
        .is_some_and(|(_, account)| account == service_account)
}

impl Target {
    /// The loopback system of a demo directory.
    #[must_use]
    pub fn loopback(layout: &Layout) -> Self {
        let socks = |host| Caller {
            prefix: Vec::new(),
            args: vec!["--socks5-hostname".into(), layout.at(host, 15080)],
        };
        let own = |host| Caller {
            prefix: Vec::new(),
            args: vec!["--interface".into(), layout.ip(host)],
        };
        let private = |host| format!("http://{}", layout.at(host, 18080));
        let customer = private(host::CUSTOMER_API);
        let frontend = private(host::FRONTEND);
        let reviews = private(host::REVIEWS);
        let partner = layout.at(host::PARTNER, 8443);
        let partner_caller = Caller::default().with(&[
            "--cacert",
            &layout.file("state/partner/ca.pem").to_string_lossy(),
            "--connect-to",
            &format!("{PARTNER}:8443:{partner}"),
            "-H",
            &format!("Host: {partner}"),
        ]);
        Self {
            frontend: socks(host::FRONTEND),
            reviews: socks(host::REVIEWS),
            same_node: socks(host::REVIEWS_2),
            attacker: own(host::REVIEWS),
            frontend_host: own(host::FRONTEND),
            outsider: Caller::default(),
            moat: vec![
                (
                    "frontend-service",
                    own(host::REVIEWS),
                    format!("{frontend}/"),
                ),
                (
                    "reviews-service",
                    own(host::FRONTEND),
                    format!("{reviews}/"),
                ),
                (
                    "customer-api",
                    own(host::REVIEWS),
                    format!("{customer}/api/v1/users/export"),
                ),
            ],
            workload: layout.at(host::CUSTOMER_API, 8080),
            workload_tls: layout.at(host::CUSTOMER_API, 8443),
            waypoint_tls: layout.at(host::WAYPOINT, 8443),
            ingress: layout.ip(host::INGRESS),
            egress: layout.ip(host::EGRESS),
            endless: ("/stream", Vec::new()),
            stolen: layout.file("stolen"),
            edge_ca: layout.file("state/ingress/ca.pem"),
            user_key: layout.file("state/idp/key.pem"),
            customer_hits: Hits::Url(Caller::default(), format!("{customer}/-/hits")),
            partner_hits: Hits::Url(partner_caller, format!("https://{PARTNER}:8443/-/hits")),
            records: Records(vec![layout.file("log/decisions.jsonl")]),
            admins: vec![(
                Caller::default(),
                format!("http://{}", layout.at(host::CONTROL, 15000)),
            )],
            policy: layout.config(),
        }
    }

    /// Waits until every process serves.
    ///
    /// # Errors
    /// If one does not within `limit`, or `alive` gives a reason why it never will.
    pub fn await_ready(
        &self,
        limit: Duration,
        mut alive: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        for (caller, base) in &self.admins {
            let url = format!("{base}/readyz");
            let mut last = Ok(());
            let mut seen = String::new();
            let up = os::wait_until(limit, || {
                last = alive();
                let answer = caller.call(&url).unwrap_or_default();
                seen = answer.seen();
                answer.status == 200 || last.is_err()
            });
            last?;
            anyhow::ensure!(up, "{url} does not answer 200 within {limit:?}: {seen}");
        }
        Ok(())
    }

    /// Generation of every process.
    ///
    /// # Errors
    /// If an admin endpoint does not tell it.
    pub fn generations(&self) -> anyhow::Result<Vec<u64>> {
        let read = |(caller, base): &(Caller, String)| {
            let answer = caller.call(&format!("{base}/generation"))?;
            let text = answer.body.trim();
            text.parse()
                .with_context(|| format!("{base}/generation: {}", answer.seen()))
        };
        self.admins.iter().map(read).collect()
    }

    /// Problems of the last reload, of all processes.
    ///
    /// # Errors
    /// If an admin endpoint does not tell them.
    pub fn problems(&self) -> anyhow::Result<Vec<Vec<String>>> {
        let read = |(caller, base): &(Caller, String)| {
            let answer = caller.call(&format!("{base}/config/problems"))?;
            serde_json::from_str(&answer.body)
                .with_context(|| format!("{base}/config/problems: {}", answer.seen()))
        };
        self.admins.iter().map(read).collect()
    }

    /// Arguments that make curl present the identity files of a workload.
    #[must_use]
    pub fn identity_args(&self, workload: &str) -> Vec<String> {
        let file = |name: &str| {
            let path = self.stolen.join(workload).join("istio").join(name);
            path.to_string_lossy().into_owned()
        };
        vec![
            "--cacert".into(),
            file("root-ca.crt"),
            "--cert".into(),
            file("cert-chain.pem"),
            "--key".into(),
            file("key.pem"),
        ]
    }
}
