//! Records of what the control thread decides: who was given an identity, and who was not.
//!
//! They stand among the decision records of the data cores, in the same file. Each is written by one call to a file
//! that is appended to, so that lines of both writers stay whole.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::config::checked::RecordSink;
use crate::telemetry::record::rfc3339;
use crate::telemetry::sink;
use crate::vocab::limits;

/// Between two attempts to write to a sink that takes nothing.
const RETRY: Duration = Duration::from_secs(1);

/// One decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Decided {
    /// Since the Unix epoch.
    pub time: Duration,
    /// What decided, such as `workloadApi`.
    pub role: &'static str,
    /// What was asked for.
    pub request: &'static str,
    /// Who asked.
    pub source: Map<String, Value>,
    /// Identities that the answer is about.
    pub identities: Vec<String>,
    /// Whether it was given.
    pub allowed: bool,
    /// Why not, or why the answer came now.
    pub reason: String,
}

impl Decided {
    fn line(&self) -> Vec<u8> {
        let verdict = if self.allowed { "allow" } else { "deny" };
        let value = json!({
            "time": rfc3339(self.time),
            "role": self.role,
            "kind": "identity",
            "source": self.source,
            "request": self.request,
            "identities": self.identities,
            "verdict": verdict,
            "reason": self.reason,
        });
        let mut line = value.to_string().into_bytes();
        line.push(b'\n');
        line
    }
}

/// Where decisions go. Clones share one writer; what was sent is written before the last of them is gone.
#[derive(Clone, Debug)]
pub struct Audit(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// `None` only while it is dropped.
    send: Option<SyncSender<Decided>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Decisions lost to a full queue since the last line about it.
    lost: AtomicU64,
    /// No more decisions will come.
    ended: AtomicBool,
}

impl Audit {
    /// Opens the sink and starts the writer, in whose thread `begin` is called first.
    ///
    /// # Errors
    /// The file cannot be opened, or the thread not started.
    pub fn start(sink: &RecordSink, begin: fn()) -> io::Result<Self> {
        let out = sink::open(sink)?;
        Self::to(out, RETRY, begin)
    }

    fn to(out: Box<dyn Write + Send>, retry: Duration, begin: fn()) -> io::Result<Self> {
        let (send, decided) = sync_channel(limits::CONTROL_RECORDS);
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || {
                begin();
                write_all(&decided, out, &theirs, retry);
            })?;
        Ok(Self(Arc::new(Inner {
            send: Some(send),
            shared,
            thread: Some(thread),
        })))
    }

    /// Hands a decision over, or loses and counts it: the control thread does not wait for a disk.
    pub fn send(&self, decided: Decided) {
        let sent = match &self.0.send {
            Some(send) => send.try_send(decided).is_ok(),
            None => false,
        };
        if !sent {
            self.0.shared.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        drop(self.send.take());
        if let Some(thread) = self.thread.take() {
            // It may wait for a disk.
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("audit writer panicked");
            }
        }
    }
}

fn write_all(
    decided: &Receiver<Decided>,
    mut out: Box<dyn Write + Send>,
    shared: &Shared,
    retry: Duration,
) {
    while let Ok(decided) = decided.recv() {
        let mut text = decided.line();
        let lost = shared.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let line = json!({ "kind": "lost", "records": lost });
            text.extend(line.to_string().into_bytes());
            text.push(b'\n');
        }
        put(&mut out, &text, shared, retry);
    }
}

/// Writes all of it, as the writer of the data cores does: a sink that takes nothing is tried again until the process
/// ends, and goes on where it stopped.
fn put(out: &mut dyn Write, mut text: &[u8], shared: &Shared, retry: Duration) {
    let mut failures = 0_u64;
    while !text.is_empty() {
        match out.write(text) {
            Ok(n) if n > 0 => text = text.get(n..).unwrap_or_default(),
            failed => {
                failures = failures.saturating_add(1);
                if failures.is_power_of_two() {
                    tracing::error!(
                        ?failed,
                        failures,
                        "decision records cannot be written and wait"
                    );
                }
                if shared.ended.load(Ordering::Acquire) && failures > 1 {
                    return tracing::error!("the process ends, a decision record is lost");
                }
                std::thread::park_timeout(retry);
            }
        }
    }
    if let Err(error) = out.flush() {
        tracing::error!(%error, "decision records cannot be written");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// A sink that tells what it gets and then waits to be let go on.
    struct Slow(Sender<Vec<u8>>, Receiver<()>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _gone = self.0.send(bytes.to_vec());
            let _gone = self.1.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn decided(reason: &str) -> Decided {
        Decided {
            time: Duration::from_millis(1_764_000_000_123),
            role: "workloadApi",
            request: "FetchX509SVID",
            source: Map::from_iter([("pid".to_owned(), json!(7))]),
            identities: vec!["spiffe://td/a".to_owned()],
            allowed: false,
            reason: reason.to_owned(),
        }
    }

    #[test]
    fn a_full_queue_loses_and_counts_and_a_drop_writes_the_rest() {
        let (tell, told) = channel();
        let (let_go, wait) = channel();
        let audit = Audit::to(Box::new(Slow(tell, wait)), RETRY, || ()).unwrap();
        audit.send(decided("a \"quoted\"\nreason"));
        let first = told.recv().unwrap();
        let value: Value = serde_json::from_slice(&first).unwrap();
        assert_eq!(value["time"], "2025-11-24T16:00:00.123Z");
        assert_eq!(value["verdict"], "deny");
        assert_eq!(value["reason"], "a \"quoted\"\nreason");
        assert_eq!(first.iter().filter(|b| **b == b'\n').count(), 1);
        // The writer is busy: the queue takes what it has room for, and no more.
        for _ in 0..limits::CONTROL_RECORDS + 3 {
            audit.send(decided("x"));
        }
        drop(let_go);
        drop(audit);
        let text = told.iter().collect::<Vec<_>>().concat();
        let lines: Vec<Value> = text
            .split(|b| *b == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        let lost: Vec<_> = lines.iter().filter(|l| l["kind"] == "lost").collect();
        assert_eq!(lost, [&json!({"kind": "lost", "records": 3})]);
        assert_eq!(lines.len(), limits::CONTROL_RECORDS + 1);
    }

    /// Takes one byte, then nothing for two attempts, then all.
    struct Full(u32, Sender<Vec<u8>>);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 += 1;
            let taken = match self.0 {
                1 => 1,
                2 | 3 => return Err(io::ErrorKind::StorageFull.into()),
                _ => bytes.len(),
            };
            let _gone = self.1.send(bytes[..taken].to_vec());
            Ok(taken)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_waited_for_and_no_line_is_torn() {
        let (tell, told) = channel();
        let audit = Audit::to(Box::new(Full(0, tell)), Duration::from_millis(1), || ()).unwrap();
        audit.send(decided("one"));
        let mut text = Vec::new();
        while !text.ends_with(b"\n") {
            text.extend(told.recv().unwrap());
        }
        drop(audit);
        let value: Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(value["reason"], "one");
    }
}
