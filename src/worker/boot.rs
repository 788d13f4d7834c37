//! From a configuration file to running cores, and down again.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};

use crate::config::checked::{IoDriver, Process};
use crate::config::{self, ConfigErrors};
use crate::control::capture::{self, CaptureError};
use crate::control::dns_server::{DnsError, DnsServer};
use crate::control::observe::{LIVE_ASKS, LiveAsk};
use crate::control::plane::{Plane, PlaneError, Published};
use crate::io::clock;
use crate::io::listener::raise_open_files;
use crate::io::memory::{self, Text};
use crate::io::rt::{self, Want};
use crate::policy::lint::Severity;
use crate::telemetry::metrics::Meters;
use crate::telemetry::writer::{Sender, Writer};
use crate::vocab::limits;
use crate::worker::balance::Balance;
use crate::worker::core::Core;
use crate::worker::listen::{self, ListenError};

/// Why the process does not run.
#[derive(Debug, Error)]
pub enum BootError {
    /// The configuration is refused.
    #[error("{0}")]
    Config(ConfigErrors),
    /// The node would capture itself.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The control plane cannot start.
    #[error("cannot start")]
    Plane(#[source] PlaneError),
    /// A listener cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A DNS listener cannot be had.
    #[error(transparent)]
    Dns(#[from] DnsError),
    /// The operating system refuses.
    #[error("{what}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// A thread of the process ended before it was ready.
    #[error("{0} has ended")]
    Ended(&'static str),
}

fn os(what: &'static str) -> impl Fn(std::io::Error) -> BootError {
    move |source| BootError::Os { what, source }
}

/// How often a core tidies its pools, in milliseconds.
const SWEEP_MS: u64 = 10_000;
/// A core that has recorded nothing for so long, in milliseconds, and hardly worked, is at rest.
const REST_MS: u64 = 2500;
/// What a core at rest works in that time: it asks its peers whether they are there.
const REST_WORK: Duration = Duration::from_millis(5);
const MINUTE_MS: u128 = 60_000;

/// Runs a configuration until `stop` is set; then what is open has `limits::DRAIN_MS` to end. `ready` is called once all
/// listeners serve.
///
/// # Errors
/// `BootError`; nothing serves any more then.
pub fn run(
    main: &Path,
    stop: &watch::Receiver<bool>,
    ready: impl FnOnce(&Process),
) -> Result<(), BootError> {
    if let Err(error) = memory::small_pages() {
        tracing::warn!(%error, "huge pages stay on");
    }
    let config = config::load(main).map_err(BootError::Config)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    for lint in config
        .lints
        .iter()
        .filter(|l| l.severity == Severity::Warning)
    {
        tracing::warn!("{lint}");
    }
    if let Err(error) = raise_open_files() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let process = Arc::new(config.process.clone());
    capture::refuse_own_capture(&process)?;
    let halt = watch::Sender::new(false);
    let (control, published) = start_control(main.to_owned(), config, stop, &halt)?;
    let served = serve(&process, &published, stop, &halt, ready);
    // The control thread ends after the cores: a login that drains still needs it.
    halt.send_replace(true);
    join(control, "control thread");
    served
}

/// Runs the cores to their end.
fn serve(
    process: &Arc<Process>,
    published: &Published,
    stop: &watch::Receiver<bool>,
    halt: &watch::Sender<bool>,
    ready: impl FnOnce(&Process),
) -> Result<(), BootError> {
    let count = match process.cores {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let text = Text::find().unwrap_or_else(|error| {
        tracing::debug!(%error, "text that is not used stays resident");
        Text::default()
    });
    let text = Arc::new(text);
    let dns = start_dns(process, published, halt)?;
    let (writer, senders) = Writer::start(
        &process.records,
        count,
        Arc::clone(&published.reports.lost_records),
    )
    .map_err(os("decision records"))?;
    let (tell, told) = std_mpsc::channel();
    let mut cores = Vec::new();
    let mut failed = None;
    let parts = senders.into_iter().zip(Balance::between(count));
    for (index, (records, balance)) in parts.enumerate() {
        let seat = Seat {
            process: Arc::clone(process),
            text: Arc::clone(&text),
            published: published.clone(),
            records,
            balance,
            stop: stop.clone(),
            halt: halt.clone(),
            tell: tell.clone(),
        };
        match thread(&format!("core-{index}"), move || core(seat)) {
            Ok(core) => cores.push(core),
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    drop(tell);
    let mut serving = 0;
    while serving < count && failed.is_none() {
        match told.recv() {
            Ok(Ok(())) => serving = serving.saturating_add(1),
            Ok(Err(error)) => failed = Some(error),
            Err(_gone) => failed = Some(BootError::Ended("a core")),
        }
    }
    if failed.is_none() {
        published.status.send_modify(|s| s.ready = true);
        ready(process);
    } else {
        // Cores that serve already must not go on beside one that does not.
        halt.send_replace(true);
    }
    for core in cores {
        if !join(core, "a core") {
            failed = failed.or(Some(BootError::Ended("a core")));
        }
    }
    writer.finish();
    if let Some(dns) = dns {
        // It has nothing to drain, and answers as long as anything of this process does.
        halt.send_replace(true);
        join(dns, "DNS");
    }
    failed.map_or(Ok(()), Err)
}

/// Binds the DNS listeners and serves them on a thread of their own.
fn start_dns(
    process: &Arc<Process>,
    published: &Published,
    halt: &watch::Sender<bool>,
) -> Result<Option<JoinHandle<()>>, BootError> {
    let Some(server) = DnsServer::bind(process)? else {
        return Ok(None);
    };
    let (snapshot, halted) = (Arc::clone(&published.snapshot), halt.subscribe());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(os("DNS"))?;
    let dns = thread("dns", move || {
        let _last_words = OnPanic(|| {
            tracing::error!("DNS has panicked: names are not resolved before a restart");
        });
        runtime.block_on(server.run(snapshot, halted));
    })?;
    Ok(Some(dns))
}

/// Whether the thread ended without a panic.
fn join(thread: JoinHandle<()>, what: &str) -> bool {
    let ended = thread.join().is_ok();
    if !ended {
        tracing::error!("{what} has panicked");
    }
    ended
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, BootError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(os("thread"))
}

/// Runs `then` if the thread unwinds while it lives.
struct OnPanic<F: Fn()>(F);

impl<F: Fn()> Drop for OnPanic<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.0)();
        }
    }
}

/// Starts the control thread and waits for its first snapshot.
fn start_control(
    main: PathBuf,
    config: config::Config,
    stop: &watch::Receiver<bool>,
    halt: &watch::Sender<bool>,
) -> Result<(JoinHandle<()>, Published), BootError> {
    let (first, started) = std_mpsc::channel();
    let (stop, halted) = (stop.clone(), halt.subscribe());
    let control = thread("control", move || {
        let _last_words = OnPanic(|| {
            tracing::error!(
                "the control thread has panicked: the cores go on judging by the last snapshot, \
                 and nothing of it is renewed or reloaded before a restart"
            );
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => {
                let local = tokio::task::LocalSet::new();
                runtime.block_on(local.run_until(control(main, config, &first, stop, halted)));
            }
            Err(source) => drop(first.send(Err(os("control thread")(source)))),
        }
    })?;
    match started.recv() {
        Ok(Ok(published)) => Ok((control, published)),
        Ok(Err(error)) => Err(error),
        Err(_gone) => Err(BootError::Ended("control thread")),
    }
}

/// The control thread's whole life.
async fn control(
    main: PathBuf,
    config: config::Config,
    first: &std_mpsc::Sender<Result<Published, BootError>>,
    mut stop: watch::Receiver<bool>,
    mut halted: watch::Receiver<bool>,
) {
    let process = Arc::new(config.process.clone());
    let started = tokio::select! {
        started = Plane::start(main, config) => started.map_err(BootError::Plane),
        _ = stop.wait_for(|stop| *stop) => Err(BootError::Ended("start, by a signal,")),
    };
    let (plane, published) = match started {
        Ok(started) => started,
        Err(error) => return drop(first.send(Err(error))),
    };
    let status = published.status.clone();
    let snapshot = Arc::clone(&published.snapshot);
    let keeper = capture::keep(process, snapshot, stop.clone());
    if first.send(Ok(published)).is_err() {
        return;
    }
    let unready = async {
        drop(stop.wait_for(|stop| *stop).await);
        status.send_modify(|s| s.ready = false);
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = plane.run() => {}
        () = unready => {}
        () = keeper => {}
        _ = halted.wait_for(|halt| *halt) => {}
    }
}

/// What a core's thread takes with it.
struct Seat {
    process: Arc<Process>,
    text: Arc<Text>,
    published: Published,
    records: Sender,
    balance: Balance,
    stop: watch::Receiver<bool>,
    halt: watch::Sender<bool>,
    /// Dropped once it was told whether the core serves.
    tell: std_mpsc::Sender<Result<(), BootError>>,
}

/// One core's whole life.
fn core(seat: Seat) {
    let Seat {
        process,
        text,
        published,
        records,
        balance,
        mut stop,
        halt,
        tell,
    } = seat;
    let mut halted = halt.subscribe();
    // A process with a core less would serve some clients and not others.
    let _last_words = OnPanic(|| {
        tracing::error!("a core has panicked: the process ends");
        halt.send_replace(true);
    });
    let want = match process.io {
        IoDriver::Auto => Want::Auto,
        IoDriver::IoUring => Want::IoUring,
        IoDriver::Epoll => Want::Epoll,
    };
    let mut runtime = match rt::Core::build(want) {
        Ok(runtime) => runtime,
        Err(source) => return drop(tell.send(Err(os("cannot build the I/O driver")(source)))),
    };
    tracing::info!(driver = runtime.driver().label(), "core runs");
    runtime.run(async move {
        let core = Rc::new(Core::new(
            process,
            published.snapshot,
            published.asks,
            records,
            Meters::new(published.reports.series),
        ));
        if let Err(error) = listen::start(&core, balance) {
            return drop(tell.send(Err(error.into())));
        }
        let told = tell.send(Ok(()));
        drop(tell);
        if told.is_err() {
            return;
        }
        rt::spawn(rejudge(Rc::clone(&core), published.changed));
        rt::spawn(rejudge_by_time(Rc::clone(&core)));
        rt::spawn(sweep(Rc::clone(&core)));
        rt::spawn(rest(Rc::clone(&core), text));
        rt::spawn(tell_open(Rc::clone(&core), published.reports.cores));
        // A sender that is gone means to end as well.
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {}
            _ = halted.wait_for(|halt| *halt) => {}
        }
        core.end().await;
    });
}

/// Judges what is open by every new snapshot.
async fn rejudge(core: Rc<Core>, mut changed: watch::Receiver<u64>) {
    while changed.changed().await.is_ok() {
        let snapshot = core.snapshot();
        let ended = core.open.rejudge(&snapshot).await;
        let cut = core.upstreams.cut(&snapshot.revocations);
        if ended > 0 || cut > 0 {
            tracing::info!(
                ended,
                cut,
                "what policy forbids or whose peer is revoked has ended"
            );
        }
    }
}

/// Judges what is open at every full minute, where policies have time windows: none of them ends within a minute.
async fn rejudge_by_time(core: Rc<Core>) {
    loop {
        let into_minute = clock::unix().as_millis() % MINUTE_MS;
        rt::sleep(u64::try_from(MINUTE_MS - into_minute).unwrap_or(1)).await;
        let snapshot = core.snapshot();
        if snapshot.enforcements.timed {
            let ended = core.open.rejudge(&snapshot).await;
            if ended > 0 {
                tracing::info!(ended, "a time window ends what it no longer allows");
            }
        }
    }
}

/// Answers what is open here.
async fn tell_open(core: Rc<Core>, announce: mpsc::Sender<mpsc::Sender<LiveAsk>>) {
    let (line, mut asks) = mpsc::channel(LIVE_ASKS);
    match announce.try_send(line) {
        Ok(()) => {}
        // Nobody asks: the process has no admin endpoint.
        Err(TrySendError::Closed(_)) => return,
        Err(TrySendError::Full(_)) => {
            return tracing::warn!("what is open on this core cannot be told");
        }
    }
    drop(announce);
    while let Some(answer) = asks.recv().await {
        // Whoever asked may have given up.
        drop(answer.send(core.open.live(limits::LIVE_ROWS)));
    }
}

/// Gives back what a start or a burst of connections took, once they are over.
async fn rest(core: Rc<Core>, text: Arc<Text>) {
    let (mut seen, mut worked, mut collected) = (0, Duration::ZERO, None);
    loop {
        rt::sleep(REST_MS).await;
        let (recorded, work) = (core.recorded(), clock::thread_cpu());
        let quiet = recorded == std::mem::replace(&mut seen, recorded);
        let before = std::mem::replace(&mut worked, work);
        if !quiet || work.saturating_sub(before) > REST_WORK {
            continue;
        }
        if collected != Some(recorded) {
            collected = Some(recorded);
            memory::collect();
        }
        if let Err(error) = text.release() {
            return tracing::debug!(%error, "text that is not used stays resident");
        }
    }
}

async fn sweep(core: Rc<Core>) {
    loop {
        rt::sleep(SWEEP_MS).await;
        core.upstreams.sweep();
        core.meters.sweep(clock::now());
    }
}
