//! Flow control windows (RFC 9113 section 5.2), and what a peer may do that moves nothing.

use crate::h2::frame::MAX_WINDOW;
use crate::vocab::limits;

/// What may still be sent. It may be negative after a change of the settings (RFC 9113 section 6.9.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SendWindow(i64);

impl SendWindow {
    pub(super) fn new(bytes: u32) -> Self {
        Self(i64::from(bytes))
    }

    /// Adds an update or the change of a setting; `false` if the window is too large then.
    pub(super) fn add(&mut self, change: i64) -> bool {
        self.0 = self.0.saturating_add(change);
        self.0 <= MAX_WINDOW
    }

    pub(super) fn take(&mut self, bytes: u32) {
        self.0 = self.0.saturating_sub(i64::from(bytes));
    }

    /// Bytes that may be sent now.
    pub(super) fn room(self) -> u32 {
        u32::try_from(self.0.max(0)).unwrap_or(u32::MAX)
    }
}

/// What the peer may still send, and what the reader has freed of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReceiveWindow {
    /// Bytes that the peer may still send.
    left: u32,
    /// Bytes that the reader has freed and the peer does not know of.
    owed: u32,
    /// The whole window.
    size: u32,
}

impl ReceiveWindow {
    pub(super) fn new(size: u32) -> Self {
        Self {
            left: size,
            owed: 0,
            size,
        }
    }

    /// Counts what has come; `false` if it is more than was allowed.
    pub(super) fn take(&mut self, bytes: u32) -> bool {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    /// Counts what the reader has freed; the update that is due, once it is half of the window.
    pub(crate) fn free(&mut self, bytes: u32) -> Option<u32> {
        self.owed = self.owed.saturating_add(bytes);
        if self.owed < self.size / 2 {
            return None;
        }
        let update = std::mem::take(&mut self.owed);
        self.left = self.left.saturating_add(update);
        Some(update)
    }
}

/// A bucket of what a peer may do that brings nothing on: PING, SETTINGS, empty DATA, small updates, which time and traffic
/// fill; and streams that are reset before anything came of them, which time and answered streams fill.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    left: u32,
    /// Time of the last filling, in milliseconds.
    filled_ms: u64,
}

impl Default for Flood {
    fn default() -> Self {
        Self {
            left: limits::H2_IDLE_FRAMES,
            filled_ms: 0,
        }
    }
}

impl Flood {
    /// Fills it for the time since the last call.
    pub fn pass(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.filled_ms);
        self.filled_ms = self.filled_ms.max(now_ms);
        let more = passed.saturating_mul(limits::H2_IDLE_FRAMES_PER_S) / 1000;
        if more == 0 {
            // Not yet a whole token: the time counts with the next call.
            self.filled_ms = self.filled_ms.saturating_sub(passed);
            return;
        }
        self.fill(u32::try_from(more).unwrap_or(u32::MAX));
    }

    /// Fills it for a frame that moved something.
    pub(super) fn useful(&mut self) {
        self.fill(1);
    }

    /// Fills it for a stream that was answered: it pays for one that is not.
    pub(super) fn answered(&mut self) {
        self.fill(limits::H2_RESET_COST);
    }

    fn fill(&mut self, more: u32) {
        self.left = self.left.saturating_add(more).min(limits::H2_IDLE_FRAMES);
    }

    /// Takes out `cost`; `false` if there is not so much in it.
    pub(super) fn spend(&mut self, cost: u32) -> bool {
        match self.left.checked_sub(cost) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_send_window_may_be_negative() {
        let mut window = SendWindow::new(100);
        window.take(80);
        assert!(window.add(-60));
        assert_eq!(window.room(), 0);
        assert!(window.add(50));
        assert_eq!(window.room(), 10);
        assert!(!window.add(MAX_WINDOW));
    }

    #[test]
    fn updates_are_due_at_half() {
        let mut window = ReceiveWindow::new(100);
        assert!(window.take(60) && window.take(40) && !window.take(1));
        assert_eq!(window.free(49), None);
        assert!(!window.take(1), "what is owed is not told yet");
        assert_eq!(window.free(1), Some(50));
        assert!(window.take(50) && !window.take(1));
    }

    #[test]
    fn a_flood_runs_dry_and_time_fills_it() {
        let mut flood = Flood::default();
        flood.pass(1_000_000);
        assert!(flood.spend(limits::H2_IDLE_FRAMES));
        assert!(!flood.spend(1));
        // Many short times are as good as one long.
        let step_ms = 1000 / limits::H2_IDLE_FRAMES_PER_S / 2;
        for n in 1..=20_u64 {
            flood.pass(1_000_000 + n * step_ms.max(1));
        }
        assert!(flood.spend(5));
        flood.pass(u64::MAX);
        assert!(flood.spend(limits::H2_IDLE_FRAMES) && !flood.spend(1));
        flood.useful();
        assert!(flood.spend(1) && !flood.spend(1));
    }
}
