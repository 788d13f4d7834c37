//! From a configuration file to running cores, and down again.

mod error;
mod told;

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use crate::config;
use crate::config::checked::{self, IoDriver, Process, life};
use crate::control::authority::Authority;
use crate::control::capture;
use crate::control::dns_server::DnsServer;
use crate::control::handover::{self, Face, Inherited};
use crate::control::launcher::{self, Upgrade};
use crate::control::named_file;
use crate::control::phase::Phase;
use crate::control::plane::{Plane, Published, Shared};
use crate::control::sandbox::{self, Sandbox, SandboxError, never_binds};
use crate::control::status::About;
use crate::control::supervisor::{self, Beats, Renewal};
use crate::control::tenure::Tenure;
use crate::io::clock;
use crate::io::listen_fds;
use crate::io::listener::raise_open_files;
use crate::io::memory::{self, Text};
use crate::io::rt::{self, Want};
use crate::io::tcp_options::{self, TcpOptions};
use crate::io::wiping;
use crate::policy::lint::Severity;
use crate::telemetry::metrics::Meters;
use crate::telemetry::writer::{Sender, Writer};
use crate::worker::balance::Balance;
pub use crate::worker::boot::error::BootError;
use crate::worker::check;
use crate::worker::core::Core;
use crate::worker::listen;
use crate::worker::places::Places;
use crate::worker::sockets::{self, Sockets};
use crate::worker::upkeep;

fn os(what: &'static str) -> impl Fn(std::io::Error) -> BootError {
    move |source| BootError::Os { what, source }
}

/// A process that is about to start.
#[derive(Debug)]
pub struct Prepared {
    main: PathBuf,
    config: config::Config,
    about: Arc<About>,
    /// Names of what the supervisor has passed, and the descriptors.
    passed: (BTreeSet<String>, Vec<OwnedFd>),
    sandbox: Sandbox,
    upgrade: std::io::Result<Upgrade>,
}

impl Prepared {
    /// The configuration that it starts with.
    #[must_use]
    pub fn config(&self) -> &config::Config {
        &self.config
    }
}

/// Reads a configuration and becomes the process that it wants: its user, its capabilities, the files that it may open.
/// To be called while there is no other thread, which would go on as it was.
///
/// # Errors
/// `BootError`; the process is of no use for anything else then.
pub fn prepare(main: &Path) -> Result<Prepared, BootError> {
    read(main, true)
}

/// As `prepare`, for the only process of a machine: it has nobody to protect from itself, and switches the machine off.
///
/// # Errors
/// `BootError`.
pub fn prepare_alone(main: &Path) -> Result<Prepared, BootError> {
    read(main, false)
}

fn read(main: &Path, enclosed: bool) -> Result<Prepared, BootError> {
    if let Err(error) = memory::small_pages() {
        tracing::warn!(%error, "huge pages stay on");
    }
    let config = config::load(main).map_err(BootError::Config)?;
    let about = About::new(&config, cores(&config.process));
    tracing::info!("{}", about.first_line(main));
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
    for warning in named_file::exposed(&config.files) {
        tracing::warn!("{warning}");
    }
    let process = &config.process;
    capture::refuse_own_capture(process)?;
    let passed = passed()?;
    let upgrade = supervisor::this_program();
    if enclosed && sandbox::starts_programs(process) {
        let upgrade = upgrade.as_ref().map_err(|e| BootError::Os {
            what: "path of this program",
            source: e.kind().into(),
        })?;
        launcher::split_off(upgrade, capture::capturing(process).is_some())
            .map_err(os("launcher"))?;
    }
    let sandbox = if enclosed {
        Sandbox::begin(main, &config)?
    } else if process.sandbox == checked::Sandbox::Required {
        return Err(BootError::Sandbox(SandboxError::Required {
            measure: "a sandbox",
            why: "this is the only process of the machine".to_owned(),
        }));
    } else {
        Sandbox::none("this is the only process of the machine")
    };
    Ok(Prepared {
        main: main.to_owned(),
        config,
        about,
        passed,
        sandbox,
        upgrade,
    })
}

/// Runs a process until `phase` says to stop; then what is open has `process.drain` to end. `ready` is called once
/// all listeners serve.
///
/// # Errors
/// `BootError`; nothing serves any more then.
pub fn run(
    prepared: Prepared,
    phase: &watch::Sender<Phase>,
    ready: impl FnOnce(&Process),
) -> Result<(), BootError> {
    let Prepared {
        main,
        config,
        about,
        passed: (names, passed),
        sandbox,
        upgrade,
    } = prepared;
    let process = Arc::new(config.process.clone());
    let inherited = match &process.handover {
        Some(path) => handover::take(path)?,
        None => None,
    };
    // Who takes over from a process has its sockets, which are those of the supervisor, too.
    let inherited = inherited.or_else(|| handover::passed(passed));
    let is_alone = inherited.as_ref().is_none_or(|i| !i.is_served());
    let mut before = Before {
        alone: watch::Sender::new(is_alone),
        inherited,
        names,
        beats: Beats::asked_for(cores(&process)).map_err(os("watchdog"))?,
        phase,
        halt: watch::Sender::new(false),
        go: watch::Sender::new(false),
        offer: None,
        about,
        forbids: sandbox.forbids(),
    };
    let renewal = upgrade.map(|upgrade| Renewal::new(upgrade, process.handover.clone()));
    let (control, published) = start_control((main, config), renewal, &mut before)?;
    let halt = before.halt.clone();
    let served = serve(&process, published, (before, sandbox), ready);
    // The control thread ends after the cores: a login that drains still needs it.
    halt.send_replace(true);
    join(control, "control thread");
    served
}

/// What the supervisor has passed: names and descriptors.
fn passed() -> Result<(BTreeSet<String>, Vec<OwnedFd>), BootError> {
    let passed = listen_fds::take().map_err(os("sockets of the supervisor"))?;
    Ok(passed.into_iter().unzip())
}

/// How many cores there are.
fn cores(process: &Process) -> usize {
    match process.cores {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    }
}

/// Whether its sockets may go on without this process.
fn keeps(process: &Process) -> bool {
    process.handover.is_some() || supervisor::is_there()
}

/// What all threads of the process share from its start on.
struct Before<'p> {
    /// What another process has handed over.
    inherited: Option<Inherited>,
    /// Names of what the supervisor has passed.
    names: BTreeSet<String>,
    /// What shows the supervisor that the cores move.
    beats: Option<Arc<Beats>>,
    phase: &'p watch::Sender<Phase>,
    /// Set once no other process serves.
    alone: watch::Sender<bool>,
    /// Ends all of it.
    halt: watch::Sender<bool>,
    /// Set once everything is bound: nothing is accepted before, for a start that fails must lose nothing.
    go: watch::Sender<bool>,
    /// What is told the control thread of the sockets, to be handed over in turn.
    offer: Option<oneshot::Sender<Vec<Arc<OwnedFd>>>>,
    /// What is told of the process.
    about: Arc<About>,
    /// Threads give up what they needed for the start.
    forbids: bool,
}

/// Runs the cores to their end.
fn serve(
    process: &Arc<Process>,
    mut published: Published,
    (mut before, mut sandbox): (Before<'_>, Sandbox),
    ready: impl FnOnce(&Process),
) -> Result<(), BootError> {
    let count = cores(process);
    let mut kept = std::mem::take(&mut published.kept);
    let dns = start_dns(process, &published, &mut before, &mut kept)?;
    let (writer, senders) = Writer::start(
        (&process.records, process.recorded_query),
        count,
        Arc::clone(&published.reports.lost_records),
        (never_binds, clock::now),
    )
    .map_err(os("decision records"))?;
    let (cores, started) = start_cores(process, &published, &mut before, senders);
    let mut failed = None;
    let bound = started.and_then(|own| {
        // Before another process goes for this one.
        sandbox.finish()?;
        take_over(before.inherited.as_mut(), before.phase)?;
        Ok(own)
    });
    match bound {
        Ok(own) => {
            before.inherited = None;
            sandbox.tell();
            // Nobody else sets it.
            drop(before.about.sandbox.set(sandbox));
            kept.extend(own.into_iter().map(Arc::new));
            before.alone.send_replace(true);
            before.go.send_replace(true);
            published.status.send_modify(|s| s.ready = true);
            if let Some(offer) = before.offer.take() {
                // A control thread that is gone hands nothing over.
                drop(offer.send(kept));
            }
            ready(process);
        }
        Err(error) => {
            failed = Some(error);
            // Cores that are bound must not serve beside one that is not.
            before.halt.send_replace(true);
        }
    }
    for core in cores {
        if !join(core, "a core") {
            failed = failed.or(Some(BootError::Ended("a core")));
        }
    }
    writer.finish();
    if let Some(dns) = dns {
        // It has nothing to drain, and answers as long as anything of this process does.
        before.halt.send_replace(true);
        join(dns, "DNS");
    }
    failed.map_or(Ok(()), Err)
}

/// Has the other process go, unless this one has been told to stop: then that one serves on, and nobody would for both.
fn take_over(
    inherited: Option<&mut Inherited>,
    phase: &watch::Sender<Phase>,
) -> Result<(), BootError> {
    if phase.borrow().stops() {
        return Err(BootError::Told);
    }
    inherited.map_or(Ok(()), |other| Ok(other.commit()?))
}

/// Starts a core for each of `senders` and waits until all have bound their listeners: their threads, and what a process
/// that takes over gets of them.
fn start_cores(
    process: &Arc<Process>,
    published: &Published,
    before: &mut Before<'_>,
    senders: Vec<Sender>,
) -> (Vec<JoinHandle<()>>, Result<Vec<OwnedFd>, BootError>) {
    let count = senders.len();
    let text = Text::find().unwrap_or_else(|error| {
        tracing::debug!(%error, "text that is not used stays resident");
        Text::default()
    });
    let text = Arc::new(text);
    let (tell, told) = std_mpsc::channel();
    let tally = Arc::clone(&published.reports.tally);
    let places = Arc::new(Places::new(process, count, tally));
    let inherited = before.inherited.as_mut();
    let mut dealt = inherited.map_or_else(Vec::new, |i| i.deal(count));
    dealt.resize_with(count, sockets::Own::new);
    if let Err(error) = sockets::first_of_each(&process.traffic_listeners(), &mut dealt) {
        return (Vec::new(), Err(error.into()));
    }
    let mut dealt = dealt.into_iter();
    let mut cores = Vec::new();
    let parts = senders.into_iter().zip(Balance::between(count));
    for (index, (records, balance)) in parts.enumerate() {
        let own = dealt.next().unwrap_or_default();
        let seat = Seat {
            process: Arc::clone(process),
            text: Arc::clone(&text),
            published: published.clone(),
            records,
            balance,
            stop: before.phase.subscribe(),
            halt: before.halt.clone(),
            go: before.go.subscribe(),
            tell: tell.clone(),
            places: Arc::clone(&places),
            sockets: Sockets::new(own, keeps(process)),
            index,
            beats: before.beats.clone(),
            about: Arc::clone(&before.about),
        };
        match thread(&format!("core-{index}"), move || core(seat)) {
            Ok(core) => cores.push(core),
            Err(error) => return (cores, Err(error)),
        }
    }
    drop(tell);
    let mut kept = Vec::new();
    for _ in 0..count {
        match told.recv() {
            Ok(Ok(own)) => kept.extend(own),
            Ok(Err(error)) => return (cores, Err(error)),
            Err(_gone) => return (cores, Err(BootError::Ended("a core"))),
        }
    }
    (cores, Ok(kept))
}

/// Binds the DNS listeners and serves them on a thread of their own.
fn start_dns(
    process: &Arc<Process>,
    published: &Published,
    before: &mut Before<'_>,
    kept: &mut Vec<Arc<OwnedFd>>,
) -> Result<Option<JoinHandle<()>>, BootError> {
    let Some(server) = DnsServer::bind(process, before.inherited.as_mut())? else {
        return Ok(None);
    };
    if keeps(process) {
        let own = server.descriptors().map_err(os("DNS"))?;
        kept.extend(own.into_iter().map(Arc::new));
    }
    let (snapshot, halted) = (Arc::clone(&published.snapshot), before.halt.subscribe());
    let (mut go, mut phase) = (before.go.subscribe(), before.phase.subscribe());
    let mut failed = before.halt.subscribe();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(os("DNS"))?;
    let dns = thread("dns", move || {
        let _last_words = OnPanic(|| {
            tracing::error!("DNS has panicked: names are not resolved before a restart");
        });
        never_binds();
        runtime.block_on(async {
            tokio::select! {
                went = go.wait_for(|go| *go) => if went.is_err() { return },
                // A start that fails goes nowhere.
                _ = failed.wait_for(|halt| *halt) => return,
            }
            tokio::select! {
                () = server.run(snapshot, halted) => {}
                _ = phase.wait_for(|phase| *phase == Phase::HandedOver) => {}
            }
        });
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
    (main, config): (PathBuf, config::Config),
    renewal: std::io::Result<Renewal>,
    before: &mut Before<'_>,
) -> Result<(JoinHandle<()>, Published), BootError> {
    let (first, started) = std_mpsc::channel();
    let (offer, offered) = oneshot::channel();
    before.offer = Some(offer);
    let face = before.inherited.as_mut();
    let mut taken = face.map_or_else(Face::default, |i| i.face(&config.process));
    if before.forbids {
        taken.bind(&config.process);
    }
    let wheel = Wheel {
        taken,
        phase: before.phase.clone(),
        alone: before.alone.subscribe(),
        halted: before.halt.subscribe(),
        go: before.go.subscribe(),
        offered,
        names: std::mem::take(&mut before.names),
        beats: before.beats.clone(),
        about: Arc::clone(&before.about),
        renewal,
        first,
    };
    let control = thread("control", move || {
        let _last_words = OnPanic(|| {
            tracing::error!(
                "the control thread has panicked: the cores go on judging by the last snapshot, \
                 and nothing of it is renewed or reloaded before a restart"
            );
        });
        wheel.about.has_bound();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => {
                let local = tokio::task::LocalSet::new();
                runtime.block_on(local.run_until(control(main, config, wheel)));
            }
            Err(source) => drop(wheel.first.send(Err(os("control thread")(source)))),
        }
    })?;
    match started.recv() {
        Ok(Ok(published)) => Ok((control, published)),
        Ok(Err(error)) => Err(error),
        Err(_gone) => Err(BootError::Ended("control thread")),
    }
}

/// What the control thread takes with it.
struct Wheel {
    taken: Face,
    phase: watch::Sender<Phase>,
    alone: watch::Receiver<bool>,
    halted: watch::Receiver<bool>,
    go: watch::Receiver<bool>,
    offered: oneshot::Receiver<Vec<Arc<OwnedFd>>>,
    names: BTreeSet<String>,
    beats: Option<Arc<Beats>>,
    about: Arc<About>,
    renewal: std::io::Result<Renewal>,
    first: std_mpsc::Sender<Result<Published, BootError>>,
}

/// The control thread's whole life.
async fn control(main: PathBuf, config: config::Config, wheel: Wheel) {
    let Wheel {
        taken,
        phase,
        alone,
        mut halted,
        mut go,
        offered,
        names,
        beats,
        about,
        renewal,
        first,
    } = wheel;
    let process = Arc::new(config.process.clone());
    let renewal = (renewal, supervisor::renewal_asked());
    let (mut stop, tenure) = (phase.subscribe(), Tenure::new(alone, phase.subscribe()));
    let shared = Shared {
        taken,
        keeps: keeps(&process),
        kept: Vec::new(),
        phase: phase.subscribe(),
        tenure: tenure.clone(),
        about,
    };
    let started = tokio::select! {
        started = Plane::start(main, config, shared) => started.map_err(BootError::Plane),
        _ = stop.wait_for(|phase| phase.stops()) => Err(BootError::Told),
    };
    let (plane, published) = match started {
        Ok(started) => started,
        Err(error) => return drop(first.send(Err(error))),
    };
    let (status, stopped) = (published.status.clone(), stop.clone());
    let snapshot = Arc::clone(&published.snapshot);
    let told = (published.status.clone(), phase.subscribe());
    let supervised = supervisor::accompany(renewal, beats, told);
    let launches = told::end_of_launcher(Arc::clone(&process), status.clone(), stop.clone());
    let offer = offer(
        (process.handover.clone(), plane.authority()),
        (offered, names),
        (phase, tenure),
    );
    let keeper = async move {
        // Until then another process may serve, by its own rules; a start that fails must not have touched them.
        if go.wait_for(|go| *go).await.is_ok() {
            capture::keep(process, snapshot, stopped).await;
        }
        std::future::pending::<()>().await;
    };
    if first.send(Ok(published)).is_err() {
        return;
    }
    tokio::select! {
        () = plane.run() => {}
        () = told::unready(stop, status) => {}
        () = keeper => {}
        () = offer => {}
        () = supervised => {}
        () = launches => {}
        _ = halted.wait_for(|halt| *halt) => {}
    }
}

/// Offers the sockets of the process to another one, and leaves them with the supervisor, once they are all there; never
/// ends.
async fn offer(
    (path, authority): (Option<PathBuf>, Option<Arc<Authority>>),
    (offered, names): (oneshot::Receiver<Vec<Arc<OwnedFd>>>, BTreeSet<String>),
    phase: (watch::Sender<Phase>, Tenure),
) {
    if let Ok(sockets) = offered.await {
        supervisor::store(&sockets, &names);
        if let Some(path) = path {
            handover::serve(path, sockets, phase, authority).await;
        }
    }
    std::future::pending::<()>().await;
}

/// What a core's thread takes with it.
struct Seat {
    process: Arc<Process>,
    text: Arc<Text>,
    published: Published,
    records: Sender,
    balance: Balance,
    stop: watch::Receiver<Phase>,
    halt: watch::Sender<bool>,
    /// Dropped once it was told whether the core serves.
    tell: std_mpsc::Sender<Result<Vec<OwnedFd>, BootError>>,
    go: watch::Receiver<bool>,
    places: Arc<Places>,
    sockets: Sockets,
    /// Which of the cores it is.
    index: usize,
    /// Where this core shows that it moves.
    beats: Option<Arc<Beats>>,
    about: Arc<About>,
}

fn wanted(driver: IoDriver) -> Want {
    match driver {
        IoDriver::Auto => Want::Auto,
        IoDriver::IoUring => Want::IoUring,
        IoDriver::Epoll => Want::Epoll,
    }
}

/// One core's whole life.
fn core(seat: Seat) {
    wiping::exempt();
    let Seat {
        process,
        text,
        published,
        records,
        balance,
        mut stop,
        halt,
        tell,
        mut go,
        places,
        sockets,
        index,
        beats,
        about,
    } = seat;
    let mut halted = halt.subscribe();
    // A process with a core less would serve some clients and not others.
    let _last_words = OnPanic(|| {
        tracing::error!("a core has panicked: the process ends");
        halt.send_replace(true);
    });
    let mut runtime = match rt::Core::build(wanted(process.io)) {
        Ok(runtime) => runtime,
        Err(source) => return drop(tell.send(Err(os("cannot build the I/O driver")(source)))),
    };
    tcp_options::set(tcp_options(&process.tcp));
    tracing::info!(driver = runtime.driver().label(), "core runs");
    // The first core to come tells it.
    about.driver.get_or_init(|| runtime.driver().label());
    runtime.run(async move {
        let requests = process.counts_requests();
        let core = Rc::new(Core::new(
            process,
            published.snapshot,
            published.asks,
            records,
            Meters::new(published.reports.series, requests),
            places,
        ));
        let mut bound = match listen::bind(&core, balance, sockets) {
            Ok(bound) => bound,
            Err(error) => return drop(tell.send(Err(error.into()))),
        };
        let told = tell.send(Ok(bound.kept()));
        drop(tell);
        if told.is_err() {
            return;
        }
        tokio::select! {
            biased;
            _ = halted.wait_for(|halt| *halt) => return,
            all_bound = go.wait_for(|go| *go) => if all_bound.is_err() { return },
        }
        about.has_bound();
        bound.serve();
        check::spawn(&core, index, &published.changed);
        upkeep::start(&core, text, published.changed, published.reports.cores);
        if let Some(beats) = beats {
            rt::spawn(upkeep::beat(index, beats));
        }
        // A sender that is gone means to end as well.
        tokio::select! {
            _ = stop.wait_for(|phase| phase.stops()) => {}
            _ = halted.wait_for(|halt| *halt) => {}
        }
        let is_replaced = *stop.borrow() == Phase::HandedOver;
        let at_once = async {
            drop(stop.wait_for(|phase| *phase == Phase::End).await);
        };
        core.end(is_replaced, at_once).await;
    });
}

fn tcp_options(settings: &life::TcpOptions) -> TcpOptions {
    let seconds = |s: u32| Duration::from_secs(s.into());
    let user_timeout = Duration::from_millis(settings.user_timeout_ms.into());
    TcpOptions {
        keepalive: seconds(settings.keepalive_s),
        interval: seconds(settings.interval_s),
        probes: settings.probes,
        user_timeout: (!user_timeout.is_zero()).then_some(user_timeout),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// The words that a process which serves hears from one that comes in this phase, after it has given all it has.
    #[expect(
        clippy::disallowed_methods,
        reason = "the other process of a test is a thread"
    )]
    fn told(phase: Phase) -> (Result<(), BootError>, Vec<u8>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let serving = std::thread::spawn(move || {
            let (mut link, _) = listener.accept().unwrap();
            let mut hello = [0; 64];
            assert!(link.read(&mut hello).unwrap() > 0);
            link.write_all(&0_u32.to_le_bytes()).unwrap();
            let mut word = [0];
            let length = link.read(&mut word).unwrap();
            word[..length].to_vec()
        });
        let mut inherited = handover::take(&path).unwrap();
        let taken = take_over(inherited.as_mut(), &watch::Sender::new(phase));
        drop(inherited);
        (taken, serving.join().unwrap())
    }

    #[test]
    fn one_that_is_told_to_stop_does_not_take_over() {
        let (taken, word) = told(Phase::Drain);
        assert!(matches!(taken, Err(BootError::Told)), "{taken:?}");
        assert!(word.is_empty(), "{word:?}");
        let (taken, word) = told(Phase::Serve);
        assert!(taken.is_ok(), "{taken:?}");
        assert_eq!(word.len(), 1);
    }
}
