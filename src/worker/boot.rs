//! From a configuration file to running cores, and down again.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;

use thiserror::Error;
use tokio::sync::watch;

use crate::config::checked::{IoDriver, Process};
use crate::config::{self, ConfigErrors};
use crate::control::plane::{Plane, PlaneError, Published};
use crate::io::rt::{self, Want};
use crate::telemetry::writer::{Sender, Writer};
use crate::worker::core::Core;
use crate::worker::listen::{self, ListenError};

/// Why the process does not run.
#[derive(Debug, Error)]
pub enum BootError {
    /// The configuration is refused.
    #[error("{0}")]
    Config(ConfigErrors),
    /// The control plane cannot start.
    #[error("cannot start")]
    Plane(#[source] PlaneError),
    /// A listener cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
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

/// Runs a configuration until `stop` is set. `ready` is called once all listeners serve.
///
/// # Errors
/// `BootError`; nothing serves then.
pub fn run(
    main: &Path,
    stop: &watch::Receiver<bool>,
    ready: impl FnOnce(&Process),
) -> Result<(), BootError> {
    let config = config::load(main).map_err(BootError::Config)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let process = Arc::new(config.process.clone());
    let (first, started) = std_mpsc::channel();
    let main = main.to_owned();
    let control_stop = stop.clone();
    let control = thread("control", move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        match runtime {
            Ok(runtime) => {
                let local = tokio::task::LocalSet::new();
                runtime.block_on(local.run_until(control(main, config, &first, control_stop)));
            }
            Err(source) => drop(first.send(Err(BootError::Os {
                what: "control thread",
                source,
            }))),
        }
    })?;
    let published = started
        .recv()
        .map_err(|_gone| BootError::Ended("control thread"))??;
    let count = match process.cores {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let (writer, senders) =
        Writer::start(&process.records, count).map_err(os("decision records"))?;
    let mut cores = Vec::new();
    let (tell, told) = std_mpsc::channel();
    for (index, sender) in senders.into_iter().enumerate() {
        let (process, published, stop, tell) = (
            Arc::clone(&process),
            published.clone(),
            stop.clone(),
            tell.clone(),
        );
        cores.push(thread(&format!("core-{index}"), move || {
            core(process, published, sender, stop, &tell)
        })?);
    }
    drop(tell);
    let mut failed = None;
    for _ in 0..count {
        match told.recv() {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failed = Some(error),
            Err(_gone) => failed = failed.or(Some(BootError::Ended("a core"))),
        }
    }
    if failed.is_none() {
        published.status.send_modify(|s| s.ready = true);
        ready(&process);
    } else {
        // Cores that serve already must not go on beside one that does not.
        published.status.send_modify(|s| s.ready = false);
    }
    if let Some(error) = failed {
        return Err(error);
    }
    for core in cores {
        join(core, "a core");
    }
    published.status.send_modify(|s| s.ready = false);
    join(control, "control thread");
    writer.finish();
    Ok(())
}

fn join(thread: JoinHandle<()>, what: &str) {
    if thread.join().is_err() {
        tracing::error!("{what} panicked");
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, BootError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map_err(os("thread"))
}

/// The control thread's whole life.
async fn control(
    main: std::path::PathBuf,
    config: config::Config,
    first: &std_mpsc::Sender<Result<Published, BootError>>,
    mut stop: watch::Receiver<bool>,
) {
    let started = tokio::select! {
        started = Plane::start(main, config) => started.map_err(BootError::Plane),
        _ = stop.wait_for(|stop| *stop) => Err(BootError::Ended("start, by a signal,")),
    };
    let (plane, published) = match started {
        Ok(started) => started,
        Err(error) => return drop(first.send(Err(error))),
    };
    if first.send(Ok(published)).is_err() {
        return;
    }
    tokio::select! {
        () = plane.run() => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

/// One core's whole life.
fn core(
    process: Arc<Process>,
    published: Published,
    records: Sender,
    stop: watch::Receiver<bool>,
    tell: &std_mpsc::Sender<Result<(), BootError>>,
) {
    let want = match process.io {
        IoDriver::Auto => Want::Auto,
        IoDriver::IoUring => Want::IoUring,
        IoDriver::Epoll => Want::Epoll,
    };
    let mut runtime = match rt::Core::build(want) {
        Ok(runtime) => runtime,
        Err(source) => {
            return drop(tell.send(Err(BootError::Os {
                what: "cannot build the I/O driver",
                source,
            })));
        }
    };
    tracing::info!(driver = runtime.driver().label(), "core runs");
    runtime.run(async move {
        let core = Rc::new(Core::new(
            process,
            published.snapshot,
            published.asks,
            records,
        ));
        if let Err(error) = listen::start(&core) {
            return drop(tell.send(Err(error.into())));
        }
        if tell.send(Ok(())).is_err() {
            return;
        }
        rt::spawn(rejudge(Rc::clone(&core), published.changed));
        rt::spawn(sweep(Rc::clone(&core)));
        let mut stop = stop;
        // The sender lives in the main thread until the cores are joined.
        drop(stop.wait_for(|stop| *stop).await);
    });
}

/// Judges what is open by every new snapshot.
async fn rejudge(core: Rc<Core>, mut changed: watch::Receiver<u64>) {
    while changed.changed().await.is_ok() {
        let ended = core.open.rejudge(&core.snapshot());
        if ended > 0 {
            tracing::info!(ended, "policy change ends what it forbids");
        }
    }
}

async fn sweep(core: Rc<Core>) {
    loop {
        rt::sleep(SWEEP_MS).await;
        core.upstreams.sweep();
    }
}
