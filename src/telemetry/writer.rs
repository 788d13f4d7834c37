//! From the cores to the file: one ring a core, one thread that writes.
//!
//! A core makes the text of its records: what a record is made of is at hand there and was allocated there, and a buffer
//! that was written comes back to be filled again. A core never waits for the writer. A full ring, by records or by bytes, loses
//! records and counts them; the count is written as a line of its own, so that a gap is seen.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::config::checked::{RecordSink, RecordedQuery};
use crate::telemetry::json::{Object, key};
use crate::telemetry::record::Record;
use crate::telemetry::sink;
use crate::vocab::limits;

/// Between two attempts to write to a sink that takes nothing.
const RETRY: Duration = Duration::from_secs(1);

/// How long records gather after some were written: to be woken for each costs more than to write it.
const GATHER: Duration = Duration::from_millis(5);

/// How long it sleeps at most when there are none.
const IDLE: Duration = Duration::from_millis(500);

/// Buffers that wait to be filled again, per core.
const SPARE: usize = 1024;
/// A longer buffer is not kept.
const SPARE_BYTES: usize = 4096;
/// What one round takes of each ring.
const ROUND_BYTES: usize = 1 << 20;

/// How often the writer looks what it holds and does not need: so many records as waited while it got no turn, or the sink was
/// slow, need not wait again.
const LOOK: Duration = Duration::from_secs(10);
/// So many spare buffers that lay there all the time are not worth giving back.
const FEW: usize = 64;

/// A core's end.
#[derive(Debug)]
pub struct Sender {
    ring: rtrb::Producer<Vec<u8>>,
    /// Buffers whose text was written.
    spare: rtrb::Consumer<Vec<u8>>,
    /// Bytes of the buffers in the ring.
    waiting: Arc<AtomicUsize>,
    /// Of the next record, and how far it is to the one after it: no two cores give the same.
    number: u64,
    step: u64,
    query: RecordedQuery,
    writer: Thread,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// The writer sleeps and must be woken.
    asleep: AtomicBool,
    /// Records lost to full rings since the last line about it.
    lost: AtomicU64,
    /// Records lost since the start, as told in the records.
    total: Arc<AtomicU64>,
    /// No more records will come.
    ended: AtomicBool,
}

impl Sender {
    /// Hands a record over, or loses and counts it.
    pub fn send(&mut self, record: &Record) {
        let waiting = self.waiting.load(Ordering::Relaxed);
        if self.ring.is_full() || waiting >= limits::RECORD_RING_BYTES {
            self.shared.lost.fetch_add(1, Ordering::Relaxed);
        } else {
            let mut text = self.spare.pop().unwrap_or_default();
            record.write_json(self.number, self.query, &mut text);
            text.push(b'\n');
            self.number = self.number.wrapping_add(self.step);
            let bytes = text.capacity();
            // First: the writer may take it at once.
            self.waiting.fetch_add(bytes, Ordering::Relaxed);
            if self.ring.push(text).is_err() {
                self.waiting.fetch_sub(bytes, Ordering::Relaxed);
                self.shared.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
        // Pairs with the writer's fence: either it sees the record, or we see it asleep.
        fence(Ordering::SeqCst);
        if self.shared.asleep.load(Ordering::Relaxed)
            && self.shared.asleep.swap(false, Ordering::Relaxed)
        {
            self.writer.unpark();
        }
    }
}

impl Sender {
    /// Frees the buffers that wait to be filled again, of a core that is at rest.
    pub fn rest(&mut self) {
        while self.spare.pop().is_ok() {}
    }
}

/// The writer's thread.
#[derive(Debug)]
pub struct Writer {
    thread: JoinHandle<()>,
    shared: Arc<Shared>,
}

impl Writer {
    /// Opens the sink and starts the thread, in which `begin` is called first, with one sender for each core. `total` counts
    /// what is lost, `now` is a monotonic clock.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn start(
        (sink, query): (&RecordSink, RecordedQuery),
        cores: usize,
        total: Arc<AtomicU64>,
        (begin, now): (fn(), fn() -> Instant),
    ) -> io::Result<(Self, Vec<Sender>)> {
        let out = sink::open(sink)?;
        let shared = Arc::new(Shared {
            total,
            ..Shared::default()
        });
        let (producers, rings): (Vec<_>, Vec<_>) = (0..cores)
            .map(|_| {
                let (ring, texts) = rtrb::RingBuffer::new(limits::RECORDS_PER_CORE);
                let (spares, spare) = rtrb::RingBuffer::new(SPARE);
                let waiting = Arc::<AtomicUsize>::default();
                let theirs = Ring::new(texts, spares, Arc::clone(&waiting));
                ((ring, spare, waiting), theirs)
            })
            .unzip();
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("records".to_owned())
            .spawn(move || {
                begin();
                write_all(rings, out, &theirs, (RETRY, now));
            })?;
        let step = u64::try_from(cores).unwrap_or(1);
        let sender = |(number, (ring, spare, waiting))| Sender {
            ring,
            spare,
            waiting,
            number,
            step,
            query,
            writer: thread.thread().clone(),
            shared: Arc::clone(&shared),
        };
        let senders = (0..).zip(producers).map(sender).collect();
        Ok((Self { thread, shared }, senders))
    }

    /// Waits until all that was sent is written.
    pub fn finish(self) {
        self.shared.ended.store(true, Ordering::Release);
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            tracing::error!("record writer panicked");
        }
    }
}

/// The writer's end of a core's ring.
struct Ring {
    texts: rtrb::Consumer<Vec<u8>>,
    spares: rtrb::Producer<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
    /// The fewest buffers that have lain there to be filled again since the last look.
    idle: usize,
    /// So many further buffers are freed once they are written.
    old: usize,
}

impl Ring {
    fn new(
        texts: rtrb::Consumer<Vec<u8>>,
        spares: rtrb::Producer<Vec<u8>>,
        waiting: Arc<AtomicUsize>,
    ) -> Self {
        Self {
            texts,
            spares,
            waiting,
            idle: 0,
            old: 0,
        }
    }

    /// Buffers that lie there to be filled again.
    fn spare(&self) -> usize {
        SPARE.saturating_sub(self.spares.slots())
    }

    /// If many buffers lay there all the time, all are freed as they come by, and the core makes as many as it needs. To free
    /// the superfluous alone would give little back: those that stay lie scattered among them, and each holds a page of the
    /// allocator.
    fn look(&mut self) {
        let spare = self.spare();
        if self.idle.min(spare) > FEW {
            self.old = spare.saturating_add(self.texts.slots());
        }
        self.idle = spare;
    }

    /// Appends what waits to `text`, up to `most` bytes and the rest of a line.
    fn drain(&mut self, text: &mut Vec<u8>, most: usize) {
        let enough = text.len().saturating_add(most);
        self.idle = self.idle.min(self.spare());
        while let Ok(mut line) = self.texts.pop() {
            self.waiting.fetch_sub(line.capacity(), Ordering::Relaxed);
            text.extend_from_slice(&line);
            line.clear();
            if self.old > 0 {
                self.old -= 1;
            } else if line.capacity() <= SPARE_BYTES {
                // What finds no room is freed.
                drop(self.spares.push(line));
            }
            if text.len() >= enough {
                break;
            }
        }
    }
}

/// What is written at once.
struct Round {
    text: Vec<u8>,
    /// The longest text since the last look.
    longest: usize,
    looked: Instant,
}

impl Round {
    fn new(now: Instant) -> Self {
        Self {
            text: Vec::new(),
            longest: 0,
            looked: now,
        }
    }

    /// Has what waits in the rings as its text. From time to time it gives back what was not needed.
    fn next(&mut self, now: Instant, rings: &mut [Ring]) -> &mut Vec<u8> {
        self.longest = self.text.len().max(self.longest);
        self.text.clear();
        if now.saturating_duration_since(self.looked) >= LOOK {
            rings.iter_mut().for_each(Ring::look);
            if self.text.capacity() / 2 > self.longest {
                self.text = Vec::with_capacity(self.longest);
            }
            (self.looked, self.longest) = (now, 0);
        }
        for ring in rings {
            ring.drain(&mut self.text, ROUND_BYTES);
        }
        &mut self.text
    }
}

fn write_all(
    mut rings: Vec<Ring>,
    mut out: Box<dyn Write + Send>,
    shared: &Shared,
    (retry, now): (Duration, fn() -> Instant),
) {
    let mut round = Round::new(now());
    loop {
        let ended = shared.ended.load(Ordering::Acquire);
        let text = round.next(now(), &mut rings);
        let lost = shared.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            shared.total.fetch_add(lost, Ordering::Relaxed);
            let mut gap = Object::new(text);
            gap.plain(key!("kind"), "lost");
            gap.number(key!("records"), lost);
            gap.end();
            text.push(b'\n');
        }
        if !text.is_empty() {
            put(&mut out, text, shared, retry);
            if !ended {
                std::thread::park_timeout(GATHER); // `finish` wakes it, a sender does not
            }
            continue;
        }
        if ended {
            return;
        }
        // Announce the sleep, then look once more: a record that came in between is not left lying.
        shared.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if rings.iter().all(|ring| ring.texts.is_empty()) && !shared.ended.load(Ordering::Acquire) {
            std::thread::park_timeout(IDLE);
        }
        if shared.asleep.swap(false, Ordering::Relaxed) {
            // Nobody woke it: nothing was recorded meanwhile.
            round.text = Vec::new();
        }
    }
}

/// Writes all of it. A sink that takes nothing (a full disk, a pipe that nobody reads) is tried again until the process
/// ends; meanwhile the rings fill and what does not fit is counted.
fn put(out: &mut dyn Write, mut text: &[u8], shared: &Shared, retry: Duration) {
    let mut failures = 0_u64;
    while !text.is_empty() {
        let written = match out.write(text) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                // A line that was begun goes on where it stopped: no torn line is left.
                text = text.get(n..).unwrap_or_default();
                continue;
            }
            Err(error) => Err::<(), io::Error>(error),
        };
        if let Err(error) = written {
            failures = failures.saturating_add(1);
            if failures.is_power_of_two() {
                tracing::error!(%error, failures, "decision records cannot be written and wait");
            }
            if shared.ended.load(Ordering::Acquire) && failures > 1 {
                let lines = text.iter().filter(|byte| **byte == b'\n').count();
                return tracing::error!(lines, "the process ends, decision records are lost");
            }
            std::thread::park_timeout(retry);
        }
    }
    if let Err(error) = out.flush() {
        tracing::error!(%error, "decision records cannot be flushed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::record::Kind;

    /// Takes a few bytes at a time, and nothing at every third call.
    struct Hesitant {
        calls: usize,
        taken: Vec<u8>,
    }

    impl Write for Hesitant {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.calls += 1;
            if self.calls.is_multiple_of(3) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let n = bytes.len().min(7);
            self.taken.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn ring(lines: usize) -> (Ring, Sender) {
        let (texts, spares) = (rtrb::RingBuffer::new(lines), rtrb::RingBuffer::new(SPARE));
        let waiting = Arc::<AtomicUsize>::default();
        let theirs = Ring::new(texts.1, spares.0, Arc::clone(&waiting));
        let sender = Sender {
            ring: texts.0,
            spare: spares.1,
            waiting,
            number: 0,
            step: 1,
            query: RecordedQuery::Keep,
            writer: std::thread::current(),
            shared: Arc::default(),
        };
        (theirs, sender)
    }

    /// As many buffers as records waited at once are kept, and no longer than they are needed.
    #[test]
    fn what_a_slow_writer_took_is_given_back() {
        const MANY: usize = 900;
        const USUAL: usize = 100;
        let (theirs, mut sender) = ring(limits::RECORDS_PER_CORE);
        let mut rings = [theirs];
        let record = long(100);
        #[expect(clippy::disallowed_methods, reason = "a starting point, to add to")]
        let begun = Instant::now();
        let mut round = Round::new(begun);
        let mut written = |at: Duration, records: usize, sender: &mut Sender| {
            for _ in 0..records {
                sender.send(&record);
            }
            let text = round.next(begun + at, &mut rings);
            let lines = text.iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(lines, records);
            (round.text.capacity(), rings[0].spare())
        };
        let (most, spare) = written(Duration::ZERO, MANY, &mut sender);
        assert_eq!(spare, MANY);
        let rounds = |from: Duration| (0..30).map(move |n| from + LOOK * n / 10);
        for at in rounds(Duration::ZERO) {
            written(at, USUAL, &mut sender);
        }
        let (text, spare) = written(LOOK * 3, USUAL, &mut sender);
        assert_eq!(spare, USUAL);
        assert!(text < most / 4, "{text} of {most}");
        // What is in use is kept.
        let kept = sender.spare.peek().map(|buffer| buffer.as_ptr());
        for at in rounds(LOOK * 3) {
            written(at, USUAL, &mut sender);
        }
        let kept_now = sender.spare.peek().map(|buffer| buffer.as_ptr());
        assert_eq!(kept_now, kept);
        sender.rest();
        assert_eq!(written(LOOK * 6, 0, &mut sender).1, 0);
    }

    #[test]
    fn a_ring_that_is_full_keeps_no_other_one_waiting() {
        let mut text = Vec::new();
        let mut rings = [ring(8), ring(8)];
        for (_ring, sender) in &mut rings {
            for _ in 0..8 {
                let line = vec![b'x'; 100];
                let bytes = line.capacity();
                sender.waiting.fetch_add(bytes, Ordering::Relaxed);
                sender.ring.push(line).unwrap();
            }
        }
        for (ring, sender) in &mut rings {
            ring.drain(&mut text, 300);
            assert_eq!(ring.texts.slots(), 5);
            assert_eq!(sender.waiting.load(Ordering::Relaxed), 500);
        }
        assert_eq!(text.len(), 600);
    }

    fn long(bytes: usize) -> Record {
        Record {
            time: Duration::ZERO,
            generation: 1,
            role: "node",
            instance: "shop/web".into(),
            kind: Kind::Request,
            connection: None,
            peer: ([127, 0, 0, 1], 1).into(),
            trace: None,
            told: None,
            service: None,
            workload: None,
            endpoint: None,
            route: None,
            request: None,
            attempts: None,
            renamed: None,
            mirror: false,
            health_check: None,
            asked: Vec::new(),
            judged: None,
            detail: Some("x".repeat(bytes)),
            would: None,
            status: None,
            grpc_status: None,
            close: None,
            received: 0,
            sent: 0,
            duration: Duration::ZERO,
        }
    }

    #[test]
    fn records_that_wait_are_bounded_in_bytes() {
        let (mut theirs, mut sender) = ring(limits::RECORDS_PER_CORE);
        let (waiting, shared) = (Arc::clone(&sender.waiting), Arc::clone(&sender.shared));
        let record = long(64 << 10);
        let sent = limits::RECORD_RING_BYTES / (64 << 10) + 10;
        for _ in 0..sent {
            sender.send(&record);
        }
        let lost = usize::try_from(shared.lost.load(Ordering::Relaxed)).unwrap();
        assert!(lost >= 10, "{lost}");
        assert_eq!(theirs.texts.slots() + lost, sent);
        // One record may be beyond it.
        let held = waiting.load(Ordering::Relaxed);
        assert!(held < limits::RECORD_RING_BYTES + (256 << 10), "{held}");
        let mut text = Vec::new();
        theirs.drain(&mut text, usize::MAX);
        assert_eq!(waiting.load(Ordering::Relaxed), 0);
        sender.send(&record);
        assert_eq!(theirs.texts.slots(), 1, "there is room again");
    }

    #[test]
    fn a_full_disk_loses_and_tears_nothing() {
        let mut sink = Hesitant {
            calls: 0,
            taken: Vec::new(),
        };
        let text: Vec<u8> = (0..100)
            .flat_map(|n| format!("record {n}\n").into_bytes())
            .collect();
        put(
            &mut sink,
            &text,
            &Shared::default(),
            Duration::from_millis(1),
        );
        assert_eq!(sink.taken, text);
    }

    #[test]
    fn a_sink_that_never_takes_does_not_hold_up_the_end() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let shared = Shared::default();
        shared.ended.store(true, Ordering::Release);
        put(&mut Full, b"record\n", &shared, Duration::from_millis(1));
    }
}
