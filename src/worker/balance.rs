//! Connections that carry tunnels, spread over the cores.
//!
//! `SO_REUSEPORT` deals connections out by hash. Of many short ones each core gets its share; of the few long ones between
//! two nodes one core may get all, and then does all their work. So the core that accepts such a connection hands it to
//! the core that carries the fewest, unless it is that itself. Nothing else is shared, and nothing of it later on.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

/// Connections on their way to one core.
const HANDED: usize = 64;

/// A connection for another core.
#[derive(Debug)]
pub struct Handed {
    /// Which listener accepted it, in the order in which every core starts them.
    pub listener: usize,
    /// Its socket.
    pub socket: OwnedFd,
    /// Its place among those of the core.
    pub carried: Carried,
}

#[derive(Debug)]
struct Seat {
    carried: AtomicUsize,
    line: mpsc::Sender<Handed>,
}

/// The cores of the process.
#[derive(Debug)]
struct Seats(Vec<Seat>);

/// A connection that counts as carried until this is dropped.
#[derive(Debug)]
pub struct Carried {
    seats: Arc<Seats>,
    core: usize,
}

impl Drop for Carried {
    fn drop(&mut self) {
        if let Some(seat) = self.seats.0.get(self.core) {
            seat.carried.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// One core's part.
#[derive(Debug)]
pub struct Balance {
    seats: Arc<Seats>,
    core: usize,
    /// What others hand to it; taken once.
    handed: Option<mpsc::Receiver<Handed>>,
}

impl Balance {
    /// For each of `cores` cores.
    #[must_use]
    pub fn between(cores: usize) -> Vec<Self> {
        let (lines, ears): (Vec<_>, Vec<_>) = (0..cores).map(|_| mpsc::channel(HANDED)).unzip();
        let seat = |line| Seat {
            carried: AtomicUsize::new(0),
            line,
        };
        let seats = Arc::new(Seats(lines.into_iter().map(seat).collect()));
        let part = |(core, handed)| Self {
            seats: Arc::clone(&seats),
            core,
            handed: Some(handed),
        };
        ears.into_iter().enumerate().map(part).collect()
    }

    /// Takes the end that the other cores hand connections to.
    pub fn take_handed(&mut self) -> Option<mpsc::Receiver<Handed>> {
        self.handed.take()
    }

    /// A place for one more connection, at the core that carries the fewest; here if that is as good.
    #[must_use]
    pub fn place(&self) -> Carried {
        let seats = &self.seats.0;
        let count = |core: usize| {
            let seat = seats.get(core);
            seat.map_or(usize::MAX, |s| s.carried.load(Ordering::Relaxed))
        };
        let here = (count(self.core), self.core);
        let others = (0..seats.len()).map(|core| (count(core), core));
        let least = others.fold(here, |a, b| if b.0 < a.0 { b } else { a });
        if let Some(seat) = seats.get(least.1) {
            seat.carried.fetch_add(1, Ordering::Relaxed);
        }
        Carried {
            seats: Arc::clone(&self.seats),
            core: least.1,
        }
    }

    /// A place here, however many there are.
    #[must_use]
    pub fn stay(&self) -> Carried {
        if let Some(seat) = self.seats.0.get(self.core) {
            seat.carried.fetch_add(1, Ordering::Relaxed);
        }
        Carried {
            seats: Arc::clone(&self.seats),
            core: self.core,
        }
    }

    /// Whether a place is here.
    #[must_use]
    pub fn is_here(&self, carried: &Carried) -> bool {
        carried.core == self.core
    }

    /// Hands a connection to the core where its place is.
    ///
    /// # Errors
    /// That core takes none now: it ends, or many are on their way.
    pub fn hand(&self, handed: Handed) -> Result<(), Handed> {
        let Some(seat) = self.seats.0.get(handed.carried.core) else {
            return Err(handed);
        };
        seat.line.try_send(handed).map_err(|error| match error {
            mpsc::error::TrySendError::Full(back) | mpsc::error::TrySendError::Closed(back) => back,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_core_with_the_fewest_gets_the_next() {
        let cores = Balance::between(3);
        let at = |place: &Carried| place.core;
        // All are accepted by core 1.
        let places: Vec<Carried> = (0..7).map(|_| cores[1].place()).collect();
        assert_eq!(
            places.iter().map(at).collect::<Vec<_>>(),
            [1, 0, 2, 1, 0, 2, 1]
        );
        assert!(cores[1].is_here(&places[0]) && !cores[1].is_here(&places[1]));
        let (ended, _others): (Vec<_>, Vec<_>) = places.into_iter().partition(|p| p.core == 2);
        drop(ended);
        assert_eq!(
            [0, 1].map(|_| at(&std::mem::ManuallyDrop::new(cores[0].place()))),
            [2, 2]
        );
        let alone = Balance::between(1);
        assert!((0..5).all(|_| alone[0].is_here(&alone[0].place())));
    }

    #[test]
    fn a_core_that_ends_takes_none() {
        let mut cores = Balance::between(2);
        let first = cores[0].place();
        assert!(cores[0].is_here(&first));
        drop(cores[1].take_handed());
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let carried = cores[0].place();
        let handed = Handed {
            listener: 0,
            socket: socket.into(),
            carried,
        };
        assert!(cores[0].hand(handed).is_err());
    }
}
