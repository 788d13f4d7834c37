//! Two moments: the first answer of a proxy that starts, and the first denial after a change of its policy.

use std::io::Write as _;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use super::answer::Wrong;
use super::h1::Asker;
use super::tls::Dialer;
use super::{PATIENCE, Shot, ready, within};

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(1);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(1);

/// Nanoseconds since 1970: the starter's clock and the load's are the machine's.
pub(crate) fn unix_ns() -> Result<u128> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos())
}

/// Prints `ready`, then tries until the first right answer and prints when that was.
pub(super) async fn first(shot: &Shot) -> Result<()> {
    let dialer = Dialer::new(shot, "http/1.1")?;
    let request: Rc<[u8]> = shot.http1(false).into();
    // The first random bytes of a process may take long to get; they are not the proxy's.
    aws_lc_rs::rand::fill(&mut [0; 32]).map_err(|_unspecified| anyhow!("no randomness"))?;
    println!("ready");
    std::io::stdout().flush()?;
    let end = Instant::now() + shot.span;
    loop {
        let attempt = Asker::opened(&dialer, shot, &request);
        match tokio::time::timeout(ATTEMPT, attempt).await {
            Ok(Ok(_)) => break,
            Ok(Err(error)) if Instant::now() >= end => return Err(error),
            Err(late) if Instant::now() >= end => return Err(late.into()),
            Ok(Err(_)) | Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    println!("{}", unix_ns()?);
    Ok(())
}

/// When a change of policy was first seen, in nanoseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Changed {
    /// On the connection that was open and busy; `None` if it was still served at the end.
    pub(crate) open_ns: Option<u128>,
    /// On a new one.
    pub(crate) new_ns: Option<u128>,
}

impl Changed {
    /// As the load prints it.
    pub(super) fn line(self) -> String {
        let of = |ns: Option<u128>| ns.map_or_else(|| "never".to_owned(), |ns| ns.to_string());
        format!("{} {}", of(self.open_ns), of(self.new_ns))
    }

    /// What `line` printed.
    pub(crate) fn parse(line: &str) -> Result<Self> {
        let [open, new] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            bail!("the load printed `{line}`");
        };
        let read = |word: &str| match word {
            "never" => Ok(None),
            ns => ns.parse().map(Some).context("nanoseconds"),
        };
        Ok(Self {
            open_ns: read(open)?,
            new_ns: read(new)?,
        })
    }
}

/// Keeps one connection busy and opens new ones; prints `ready` when both are served, and what it saw once both are not.
pub(super) async fn change(shot: &Shot) -> Result<()> {
    let dialer = Dialer::new(shot, "http/1.1")?;
    let request: Rc<[u8]> = shot.http1(false).into();
    let mut open = within(Asker::opened(&dialer, shot, &request)).await?;
    for _ in 0..9 {
        within(open.ask()).await?;
    }
    // Its starter changes the policy once it has said so.
    ready()?;
    let end = Instant::now() + shot.span;
    let busy = async {
        while Instant::now() < end {
            if open.ask().await.is_err() {
                return unix_ns().map(Some);
            }
        }
        Ok(None)
    };
    let new = async {
        while Instant::now() < end {
            let Ok(stream) = dialer.connect().await else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let mut asker = Asker::new(stream, shot, &request);
            let asked = asker.ask().await;
            // One that a proxy on its way out does not take is no answer.
            if asked.is_err_and(|error| error.is::<Wrong>()) {
                return unix_ns().map(Some);
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(None)
    };
    let both = async { tokio::try_join!(busy, new) };
    let both = tokio::time::timeout(shot.span + PATIENCE, both).await;
    let (open_ns, new_ns) = both.context("an answer does not come")??;
    ensure!(
        new_ns.is_some(),
        "the change of policy was not seen on any connection"
    );
    println!("{}", Changed { open_ns, new_ns }.line());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Changed;

    #[test]
    fn what_was_seen_is_read_back() {
        for changed in [
            Changed {
                open_ns: Some(12),
                new_ns: Some(7),
            },
            Changed {
                open_ns: None,
                new_ns: Some(7),
            },
        ] {
            assert_eq!(Changed::parse(&changed.line()).expect("own line"), changed);
        }
        assert!(Changed::parse("1").is_err());
    }
}
