//! Signals that come before anybody can take them: they wait.
//!
//! A process that has no handler for it yet is ended by a SIGHUP, and as the first process of a container it never sees a SIGTERM. So
//! they are blocked from the first moment on, in the thread that all others are started by. What comes stays pending, once
//! each, until the thread that takes it lets it through.

use nix::sys::signal::{SigSet, Signal};

/// What an operator sends a process that serves. Nobody takes SIGUSR1: it waits for ever, instead of ending the process.
const HELD: [Signal; 5] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Asks for a new process.
pub(super) const RENEW: Signal = Signal::SIGUSR2;

/// Has them wait, in this thread and those that it starts.
pub fn hold() {
    let held: SigSet = HELD.into_iter().collect();
    if let Err(error) = held.thread_block() {
        tracing::warn!(%error, "signals do not wait");
    }
}

/// To be called in the thread that takes them, once there is a handler.
pub fn let_through(signals: &[Signal]) {
    let set: SigSet = signals.iter().copied().collect();
    if let Err(error) = set.thread_unblock() {
        tracing::warn!(%error, "signals are not let through");
    }
}
