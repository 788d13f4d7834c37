//! What the process and its supervisor tell each other, by systemd's protocol (sd_notify(3), sd_listen_fds(3)): states, the
//! watchdog, listening sockets that outlive the process, and which process is the main one after an upgrade. Without a
//! supervisor (`NOTIFY_SOCKET` is not set) nothing of it happens.

use std::collections::BTreeSet;
use std::env;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use socket2::{SockRef, Type};
use tokio::process::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::control::admin::Status;
use crate::control::launcher::{self, Upgrade};
use crate::control::phase::Phase;
use crate::control::signals;

/// Whose sockets are named so in the store are ours.
const OURS: &str = "ringgate.";
/// In one watchdog time each core shows this many times that it moves, and it is looked at half as often.
const BEATS: u32 = 6;
/// What systemd takes of a status, in bytes; the rest would only be cut there.
const STATUS: usize = 400;
/// What is told of an upgrade from the signal on until it has ended, one way or the other.
const UNDER_WAY: &str = "an upgrade is under way: a new process starts and has not taken over yet";
/// Whether there is a supervisor that listens.
#[must_use]
pub fn is_there() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some()
}

/// Tells the supervisor; does nothing without one.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, states) {
        tracing::warn!(%error, "the supervisor cannot be told");
    }
}

/// Tells that a reload begins, once the process serves: before that its start is under way.
pub(super) fn reloading(status: &Status) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) if is_there() && status.ready => tell(&[NotifyState::Reloading, now]),
        Ok(_) | Err(_) => {}
    }
}

/// Tells that a reload has ended, well or not.
pub(super) fn reloaded(status: &Status) {
    if is_there() && status.ready {
        tell(&[NotifyState::Ready, NotifyState::Status(&words(status))]);
    }
}

/// Tells that `pid`, which this process has started, is the main process from now on.
pub(super) fn main_is(pid: i32) {
    if let Ok(pid) = u32::try_from(pid) {
        tell(&[NotifyState::MainPid(pid)]);
    }
}

/// What asks for a new process. It is heard from here on; what came before has waited.
///
/// # Errors
/// As `sigaction(2)`.
pub fn renewal_asked() -> io::Result<Signal> {
    let asked = signal(SignalKind::user_defined2())?;
    signals::let_through(&[signals::RENEW]);
    Ok(asked)
}

/// What goes on between this process and its supervisor once it serves; never ends.
pub async fn accompany(
    (renewal, asked): (io::Result<Renewal>, io::Result<Signal>),
    beats: Option<Arc<Beats>>,
    (sender, phase): (watch::Sender<Status>, watch::Receiver<Phase>),
) {
    let mut status = sender.subscribe();
    // Before that a start is under way, which has its own time.
    if status.wait_for(|status| status.ready).await.is_ok() {
        let ending = phase.clone();
        let watched = async {
            if let Some(beats) = beats {
                watch(beats, ending).await;
            }
        };
        let renewed = async {
            match (renewal, asked) {
                (Ok(renewal), Ok(asked)) => renewal.on_signal(asked, sender).await,
                (Err(error), _) | (_, Err(error)) => {
                    tracing::warn!(%error, "no upgrade by SIGUSR2");
                }
            }
        };
        tokio::join!(follow(status, phase), watched, renewed);
    }
    std::future::pending::<()>().await;
}

/// Tells what the process is doing, until it stops.
async fn follow(mut status: watch::Receiver<Status>, mut phase: watch::Receiver<Phase>) {
    let text = words(&status.borrow_and_update());
    tell(&[NotifyState::Ready, NotifyState::Status(&text)]);
    loop {
        tokio::select! {
            biased;
            over = phase.wait_for(|phase| phase.stops()) => {
                // After a hand-over another process is the main one.
                if over.is_ok_and(|phase| *phase != Phase::HandedOver) {
                    let text = "drains: nothing new is accepted, what is open may end";
                    tell(&[NotifyState::Stopping, NotifyState::Status(text)]);
                }
                return;
            }
            changed = status.changed() => if changed.is_err() { return },
        }
        // Also where it is the same: another text may have been told meanwhile.
        let text = words(&status.borrow_and_update());
        tell(&[NotifyState::Status(&text)]);
    }
}

fn words(status: &Status) -> String {
    let mut text = format!(
        "serves generation {}, {} identities",
        status.generation, status.identities
    );
    if let Some(problem) = status.problems.first() {
        let more = status.problems.len().saturating_sub(1);
        text.push_str("; the last reload was refused: ");
        text.push_str(problem);
        if more > 0 {
            text.push_str(&format!(" (and {more} more)"));
        }
    }
    if let Some(lost) = status.lost {
        text = format!("{lost}; {text}");
    }
    // A line break would be the end of the assignment.
    text = text.replace(char::is_control, " ");
    let fits = |end: &usize| text.is_char_boundary(*end);
    let end = (0..=STATUS.min(text.len())).rev().find(fits).unwrap_or(0);
    text.truncate(end);
    text
}

/// Where a socket of the store belongs: its kind and address. A colon would end the name.
fn name(socket: &OwnedFd) -> Option<String> {
    let socket = SockRef::from(socket);
    let address = socket.local_addr().ok()?.as_socket()?;
    let kind = if socket.r#type().ok()? == Type::STREAM {
        "tcp"
    } else {
        "udp"
    };
    Some(format!("{OURS}{kind}.{address}").replace(':', "_"))
}

/// Leaves the listening sockets with the supervisor, so that they stay open, with what waits in their queues, while this
/// process is restarted or has crashed. Those of `given` (names) that are not among them are closed there.
///
/// Neither sockets at a path are left nor locks: both are told apart by who holds them.
pub fn store(sockets: &[Arc<OwnedFd>], given: &BTreeSet<String>) {
    if !is_there() {
        return;
    }
    let mut kept = BTreeSet::new();
    for socket in sockets {
        let Some(name) = name(socket) else { continue };
        let states = [NotifyState::FdStore, NotifyState::FdName(&name)];
        if let Err(error) = sd_notify::notify_with_fds(false, &states, &[socket.as_fd()]) {
            tracing::warn!(%error, "a listening socket will not outlive this process");
            return;
        }
        kept.insert(name);
    }
    for name in given.difference(&kept).filter(|n| n.starts_with(OURS)) {
        tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
    }
}

/// Lets go of what was left with the supervisor: another process leaves its own there.
pub(super) fn forget(sockets: &[Arc<OwnedFd>]) {
    let names: BTreeSet<String> = sockets.iter().filter_map(|s| name(s)).collect();
    for name in names {
        tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]);
    }
}

/// How often each core has shown that it moves.
#[derive(Debug)]
pub struct Beats {
    cores: Vec<AtomicU64>,
    period: Duration,
}

impl Beats {
    /// For this many cores, if the supervisor asks for it.
    ///
    /// # Errors
    /// What the environment says is no time.
    pub fn asked_for(cores: usize) -> io::Result<Option<Arc<Self>>> {
        let of = env::var_os("WATCHDOG_PID");
        let own = std::process::id().to_string();
        let Some(time) = env::var_os("WATCHDOG_USEC") else {
            return Ok(None);
        };
        if of.is_some_and(|pid| pid != *own) || !is_there() {
            return Ok(None);
        }
        let usec = time.to_str().and_then(|t| t.parse::<u64>().ok());
        let usec = usec.filter(|usec| *usec > 0);
        let time = usec.ok_or_else(|| io::Error::other("WATCHDOG_USEC is no number"))?;
        let period = Duration::from_micros(time) / BEATS;
        Ok(Some(Arc::new(Self::every(
            period.max(Duration::from_millis(1)),
            cores,
        ))))
    }

    fn every(period: Duration, cores: usize) -> Self {
        let mut counts = Vec::new();
        counts.resize_with(cores, AtomicU64::default);
        Self {
            cores: counts,
            period,
        }
    }

    /// Between two beats of a core, in milliseconds.
    #[must_use]
    pub fn period_ms(&self) -> u64 {
        u64::try_from(self.period.as_millis()).unwrap_or(u64::MAX)
    }

    /// Core `index` moves.
    pub fn beat(&self, index: usize) {
        if let Some(core) = self.cores.get(index) {
            core.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The cores that have not moved since `last`, which is brought up to date.
    fn still(&self, last: &mut Vec<u64>) -> Vec<usize> {
        let now: Vec<u64> = self
            .cores
            .iter()
            .map(|c| c.load(Ordering::Relaxed))
            .collect();
        let still = now
            .iter()
            .zip(last.iter())
            .enumerate()
            .filter(|(_, (now, last))| now == last);
        let still = still.map(|(index, _)| index).collect();
        *last = now;
        still
    }
}

/// Lets the supervisor know that all cores move, as long as they do; it ends a process that is silent for too long.
async fn watch(beats: Arc<Beats>, phase: watch::Receiver<Phase>) {
    // What no core has counted yet differs from every count.
    let mut last = vec![u64::MAX; beats.cores.len()];
    loop {
        tokio::time::sleep(beats.period.saturating_mul(2)).await;
        let still = beats.still(&mut last);
        // At the end each core goes when it has nothing left; how long that takes is bounded elsewhere.
        if still.is_empty() || phase.borrow().stops() {
            tell(&[NotifyState::Watchdog]);
        } else {
            tracing::error!(cores = ?still, "cores do not move; the watchdog is not told");
        }
    }
}

/// What is done when SIGUSR2 asks for a new process.
#[derive(Debug)]
pub struct Renewal {
    upgrade: Upgrade,
    handover: Option<PathBuf>,
}

/// The program that stands where this one was started from, with the same arguments: by the path that it was called by,
/// which may be a link that leads elsewhere by then. To be read at the start: once the file is replaced, the kernel
/// names the old one.
///
/// # Errors
/// As `readlink(2)` of `/proc/self/exe`.
pub fn this_program() -> io::Result<Upgrade> {
    let mut arguments = env::args_os();
    let called = arguments.next().map(PathBuf::from);
    let program = match called.filter(|path| path.is_absolute()) {
        Some(program) => program,
        None => env::current_exe()?,
    };
    Ok(Upgrade {
        program,
        arguments: arguments.collect(),
    })
}

impl Renewal {
    /// Of what [`this_program`] has told.
    #[must_use]
    pub fn new(upgrade: Upgrade, handover: Option<PathBuf>) -> Self {
        Self { upgrade, handover }
    }

    /// Starts a new process and waits for its end: by the launcher, where this process may start none.
    async fn once(&self) -> io::Result<String> {
        if self.handover.is_none() {
            let text = "`handover` is not set in [process], and so no process can take over";
            return Err(io::Error::other(text));
        }
        let program = self.upgrade.program.display();
        let told = |pid: Option<u32>| {
            tracing::info!(%program, pid, "a new process starts and will take over");
        };
        if let Some(launcher) = launcher::launcher() {
            let (pid, renewed) = launcher.renew().await?;
            told(Some(pid));
            return renewed.ended().await;
        }
        let mut new = Command::from(self.upgrade.command()).spawn()?;
        told(new.id());
        new.wait().await.map(|status| status.to_string())
    }

    /// Starts a new process at each SIGUSR2, one at a time, which takes over when it serves. One that fails changes nothing.
    /// A signal that comes meanwhile may be of a program that was mended: it is answered once that one has failed.
    async fn on_signal(self, mut asked: Signal, status: watch::Sender<Status>) {
        let mut once_more = false;
        while std::mem::take(&mut once_more) || asked.recv().await.is_some() {
            show(&status, UNDER_WAY);
            let mut once = std::pin::pin!(self.once());
            let ended = loop {
                tokio::select! {
                    biased;
                    ended = &mut once => break ended,
                    Some(()) = asked.recv() => {
                        once_more = true;
                        let text = format!("{UNDER_WAY}; another SIGUSR2 waits for its end");
                        tracing::warn!("{text}");
                        show(&status, &text);
                        tell_status(&text);
                    }
                }
            };
            tell_end(&ended, &status);
        }
    }
}

/// A process that takes over ends after this one, so that one which ends has failed.
fn tell_end(ended: &io::Result<String>, status: &watch::Sender<Status>) {
    let text = match ended {
        Ok(status) => format!("the new process has ended ({status}), this one goes on"),
        Err(error) => format!("no new process: {error}; this one goes on"),
    };
    tracing::error!("{text}");
    show(status, &text);
    tell_status(&text);
}

fn tell_status(text: &str) {
    if is_there() {
        tell(&[NotifyState::Status(text)]);
    }
}

/// For `ringgate status`. Nobody is woken: the supervisor is told in its own words, which stay until there are others.
fn show(status: &watch::Sender<Status>, text: &str) {
    status.send_if_modified(|status| {
        status.upgrade = Some(text.to_owned());
        false
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_that_does_not_move_is_named() {
        let beats = Beats::every(Duration::from_secs(1), 3);
        let mut last = vec![u64::MAX; 3];
        assert_eq!(beats.still(&mut last), [0_usize; 0]);
        beats.beat(0);
        beats.beat(2);
        assert_eq!(beats.still(&mut last), [1]);
        for core in 0..9 {
            beats.beat(core);
        }
        assert_eq!(beats.still(&mut last), [0_usize; 0]);
        assert_eq!(beats.still(&mut last), [0, 1, 2]);
    }

    #[test]
    fn a_status_is_one_short_line() {
        let mut status = Status {
            generation: 7,
            identities: 2,
            ..Status::default()
        };
        assert_eq!(words(&status), "serves generation 7, 2 identities");
        status.problems = vec!["mesh.toml:3: a\nREADY=1".to_owned(), "b".to_owned()];
        assert_eq!(
            words(&status),
            "serves generation 7, 2 identities; the last reload was refused: mesh.toml:3: a READY=1 (and 1 more)"
        );
        status.problems = vec!["ü".repeat(999)];
        assert!(words(&status).len() <= STATUS);
    }

    #[tokio::test]
    async fn one_upgrade_at_a_time_and_another_signal_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let (starts, end) = (dir.path().join("starts"), dir.path().join("end"));
        let script = "echo >>\"$0\"; i=0; until [ -e \"$1\" ] || [ $i = 9999 ]; do sleep 0.01; i=$((i + 1)); done; exit 3";
        let upgrade = Upgrade {
            program: "/bin/sh".into(),
            arguments: vec![
                "-c".into(),
                script.into(),
                starts.clone().into(),
                end.clone().into(),
            ],
        };
        let renewal = Renewal::new(upgrade, Some(dir.path().join("socket")));
        let status = watch::Sender::new(Status::default());
        // One that ends nobody, and means nothing to other tests of this process.
        let asked = signal(SignalKind::window_change()).unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(renewal.on_signal(asked, status.clone()));
        let asks = || nix::sys::signal::raise(nix::sys::signal::Signal::SIGWINCH).unwrap();
        let told = async |text: &str| {
            let waited = async {
                while !status
                    .borrow()
                    .upgrade
                    .as_ref()
                    .is_some_and(|t| t.contains(text))
                {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let waited = tokio::time::timeout(Duration::from_secs(60), waited).await;
            assert!(waited.is_ok(), "{text}: {:?}", status.borrow().upgrade);
        };
        let count = || starts.metadata().map_or(0, |file| file.len());
        let started = async |wanted: u64| {
            let waited = async {
                while count() < wanted {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            let waited = tokio::time::timeout(Duration::from_secs(60), waited).await;
            assert!(waited.is_ok() && count() == wanted, "{} starts", count());
        };
        asks();
        told("an upgrade is under way").await;
        started(1).await;
        asks();
        asks();
        told("another SIGUSR2 waits for its end").await;
        assert_eq!(count(), 1, "one at a time");
        std::fs::write(&end, "").unwrap();
        started(2).await;
        told("has ended (exit status: 3), this one goes on").await;
        // The next one is another upgrade.
        std::fs::remove_file(&end).unwrap();
        asks();
        started(3).await;
        std::fs::write(&end, "").unwrap();
        told("has ended").await;
        assert_eq!(count(), 3);
    }

    #[test]
    fn a_stored_socket_is_named_by_where_it_listens() {
        let socket = socket2::Socket::new(socket2::Domain::IPV6, Type::STREAM, None).unwrap();
        let loopback = std::net::SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, 0));
        socket.bind(&loopback.into()).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        let named = name(&OwnedFd::from(socket)).unwrap();
        assert_eq!(named, format!("ringgate.tcp.[__1]_{port}"));
        let (one, _other) = std::os::unix::net::UnixDatagram::pair().unwrap();
        assert_eq!(name(&OwnedFd::from(one)), None);
    }
}
