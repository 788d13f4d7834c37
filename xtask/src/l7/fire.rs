//! The load of the L7 bench: HTTP/1.1 and HTTP/2 over TLS with a client certificate, HTTP/1.1 within HBONE, handshakes,
//! idle connections, the first answer of a proxy that starts, and how long a changed policy takes to hold.
//!
//! One thread, closed loop: each connection (or stream) sends its next request when the last answer is complete. What is
//! measured for rate and latency is open before the clock starts. An answer of another status or length ends the run: a
//! fast error page is no throughput.

mod answer;
mod h1;
mod h2;
mod hold;
mod probe;
mod shot;
mod tls;

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::task::{JoinHandle, LocalSet};

pub(crate) use self::probe::{Changed, unix_ns};
pub(crate) use self::shot::Shot;

/// What one run did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Outcome {
    /// Complete answers.
    pub(crate) operations: u64,
    /// Seconds from the first request to the last answer.
    pub(crate) seconds: f64,
    /// Median latency, microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile, microseconds.
    pub(crate) p99_us: f64,
}

/// `l7-load KIND name=value..`; prints what its starter reads.
pub(crate) fn run(words: &[&str]) -> Result<bool> {
    let [kind, words @ ..] = words else {
        bail!("l7-load KIND name=value..");
    };
    let shot = Shot::parse(words)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    LocalSet::new().block_on(&runtime, async {
        match *kind {
            "h1" => h1::keep_alive(&shot).await?,
            "h2" => h2::streams(&shot).await?,
            "hbone" => h2::tunnels(&shot).await?,
            "handshake" => h1::handshakes(&shot).await?,
            "hold" => hold::hold(&shot).await?,
            "first" => probe::first(&shot).await?,
            "change" => probe::change(&shot).await?,
            other => bail!("no load `{other}`"),
        }
        Ok(true)
    })
}

/// Latencies of what one task did, in nanoseconds.
type Latencies = Vec<u64>;
/// A task that asks, and gives back what it asked on.
type Asking<S> = JoinHandle<Result<(Latencies, S)>>;

/// How long a connection with its first answer may take, and an answer once the time is over.
const PATIENCE: Duration = Duration::from_secs(60);

/// Tells the starter that everything is open, and waits for its word.
fn ready() -> Result<()> {
    println!("ready");
    std::io::stdout().flush()?;
    Ok(std::io::stdin().read_exact(&mut [0])?)
}

/// What comes of `step`, if it does not take longer than it may.
async fn within<T>(step: impl Future<Output = Result<T>>) -> Result<T> {
    let step = tokio::time::timeout(PATIENCE, step).await;
    step.with_context(|| format!("a connection or an answer does not come in {PATIENCE:?}"))?
}

/// Waits for all tasks and prints the outcome; the first error is the run's, and so is an answer that does not come. What
/// they asked on is not closed before the starter has read what the proxy used.
async fn gather<S>(tasks: Vec<Asking<S>>, began: Instant, span: Duration) -> Result<()> {
    let late = began + span + PATIENCE;
    let (mut all, mut open) = (Vec::new(), Vec::new());
    for task in tasks {
        let task = tokio::time::timeout_at(late.into(), task).await;
        let task = task.with_context(|| format!("an answer does not come in {PATIENCE:?}"))?;
        let (latencies, asked_on) = task??;
        all.extend(latencies);
        open.push(asked_on);
    }
    println!("{}", Outcome::new(all, began.elapsed())?.line());
    std::io::stdout().flush()?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// Time since `start`, in nanoseconds.
fn nanoseconds(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

impl Outcome {
    fn new(mut latencies_ns: Latencies, took: Duration) -> Result<Self> {
        ensure!(!latencies_ns.is_empty(), "nothing came back");
        latencies_ns.sort_unstable();
        let at = |part: usize| {
            let index = latencies_ns.len() * part / 100;
            let nanoseconds = latencies_ns.get(index).copied().unwrap_or_default();
            Duration::from_nanos(nanoseconds).as_secs_f64() * 1e6
        };
        Ok(Self {
            operations: u64::try_from(latencies_ns.len())?,
            seconds: took.as_secs_f64(),
            p50_us: at(50),
            p99_us: at(99),
        })
    }

    fn line(&self) -> String {
        let Self {
            operations,
            seconds,
            p50_us,
            p99_us,
        } = self;
        format!("{operations} {seconds} {p50_us} {p99_us}")
    }

    /// What `line` printed.
    pub(crate) fn parse(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [operations, seconds, p50_us, p99_us] = words.as_slice() else {
            bail!("the load printed `{line}`");
        };
        Ok(Self {
            operations: operations.parse().context("operations")?,
            seconds: seconds.parse().context("seconds")?,
            p50_us: p50_us.parse().context("p50")?,
            p99_us: p99_us.parse().context("p99")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_come_ends_the_run() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        LocalSet::new().block_on(&runtime, async {
            let silent = std::future::pending::<Result<(Latencies, ())>>();
            let silent = tokio::task::spawn_local(silent);
            let began = Instant::now()
                .checked_sub(2 * PATIENCE)
                .expect("up so long");
            let gathered = gather(vec![silent], began, Duration::ZERO).await;
            let told = gathered.expect_err("no answer").to_string();
            assert_eq!(told, "an answer does not come in 60s");
        });
    }

    #[test]
    fn percentiles_are_of_sorted_latencies() {
        let latencies = (1..=100).rev().map(|ms| ms * 1_000_000).collect();
        let outcome = Outcome::new(latencies, Duration::from_secs(2)).expect("latencies");
        assert_eq!(outcome.operations, 100);
        assert!((outcome.p50_us - 51_000.0).abs() < 1e-6, "{outcome:?}");
        assert!((outcome.p99_us - 100_000.0).abs() < 1e-6, "{outcome:?}");
        assert_eq!(Outcome::parse(&outcome.line()).expect("own line"), outcome);
        assert!(Outcome::new(Vec::new(), Duration::from_secs(1)).is_err());
        assert!(Outcome::parse("1 2 3").is_err());
    }
}
