//! How much a service has to do at a time, and how much it may have (`connectionPool`): what would be more is refused at
//! once. Nothing waits in a queue but for a connection that is being made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use thiserror::Error;

/// `trafficPolicy.connectionPool`; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// Connections in use, of bytes or of one request at a time (`tcp.maxConnections`).
    pub max_connections: Option<u32>,
    /// Requests (`http.http2MaxRequests`).
    pub max_requests: Option<u32>,
    /// Requests that wait for a connection to be made (`http.http1MaxPendingRequests`).
    pub max_pending: Option<u32>,
    /// Requests that were sent more than once (`http.maxRetries`).
    pub max_retries: Option<u32>,
    /// How long it may take to make a connection, in milliseconds (`tcp.connectTimeout`).
    pub connect_ms: Option<u64>,
    /// How long nothing may move on a connection of bytes, in milliseconds (`tcp.idleTimeout`).
    pub bytes_idle_ms: Option<u64>,
    /// How connections that carry requests are used again.
    pub reuse: Reuse,
}

impl Pool {
    /// Whether anything has to be counted.
    #[must_use]
    pub const fn counts(&self) -> bool {
        self.max_connections.is_some()
            || self.max_requests.is_some()
            || self.max_pending.is_some()
            || self.max_retries.is_some()
    }
}

/// How connections that carry requests are used again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reuse {
    /// How long one without a request is kept, in milliseconds (`http.idleTimeout`).
    pub idle_ms: Option<u64>,
    /// How many requests one carries at most (`http.maxRequestsPerConnection`).
    pub requests: Option<u32>,
}

impl Reuse {
    /// Whether a connection that has carried so many requests takes another one.
    #[must_use]
    pub fn takes_more(&self, carried: u32) -> bool {
        self.requests.is_none_or(|most| carried < most)
    }
}

/// Which limit is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Overflow {
    /// `tcp.maxConnections`.
    #[error("`maxConnections`")]
    Connections,
    /// `http.http2MaxRequests`.
    #[error("`http2MaxRequests`")]
    Requests,
    /// `http.http1MaxPendingRequests`.
    #[error("`http1MaxPendingRequests`")]
    Pending,
}

/// What comes to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A connection of bytes.
    Bytes,
    /// A request that has a connection for itself (HTTP/1).
    Alone,
    /// A request that shares one (HTTP/2).
    Shared,
}

/// What a port of a service has to do, on all cores. The counts are atomics, and never pass their limits: what comes at the
/// same moment for the last place may all be refused.
#[derive(Debug, Default)]
pub struct Load {
    connections: AtomicU32,
    requests: AtomicU32,
    pending: AtomicU32,
    retried: AtomicU32,
}

/// A request that waits for a connection, until it is dropped.
#[derive(Debug)]
pub struct Waiting(Arc<Load>);

/// A request that is sent once more, until it is dropped.
#[derive(Debug)]
pub struct Retried(Arc<Load>);

/// How many requests of a service may be sent more than once at a time.
#[derive(Clone, Debug)]
pub struct MaxRetries {
    /// Counts them.
    pub load: Arc<Load>,
    /// `http.maxRetries`.
    pub most: u32,
}

impl MaxRetries {
    /// One more; `None` where there are enough.
    #[must_use]
    pub fn take(&self) -> Option<Retried> {
        enter(&self.load.retried, Some(self.most), Overflow::Requests).ok()?;
        Some(Retried(Arc::clone(&self.load)))
    }
}

/// A place that is taken until it is dropped.
#[derive(Debug)]
pub struct Place {
    load: Arc<Load>,
    connection: bool,
    request: bool,
}

impl Load {
    /// Takes what a connection or request needs.
    ///
    /// # Errors
    /// The limit that is reached.
    pub fn take(load: &Arc<Self>, pool: &Pool, kind: Kind) -> Result<Place, Overflow> {
        let mut place = Place {
            load: Arc::clone(load),
            connection: false,
            request: false,
        };
        if kind != Kind::Shared {
            enter(
                &load.connections,
                pool.max_connections,
                Overflow::Connections,
            )?;
            place.connection = true;
        }
        if kind != Kind::Bytes {
            // What was taken before goes with the place.
            enter(&load.requests, pool.max_requests, Overflow::Requests)?;
            place.request = true;
        }
        Ok(place)
    }

    /// A request begins to wait for a connection.
    ///
    /// # Errors
    /// `Overflow::Pending`.
    pub fn wait(load: &Arc<Self>, pool: &Pool) -> Result<Waiting, Overflow> {
        enter(&load.pending, pool.max_pending, Overflow::Pending)?;
        Ok(Waiting(Arc::clone(load)))
    }

    /// Connections and requests that it has now.
    #[must_use]
    pub fn now(&self) -> (u32, u32) {
        let read = |count: &AtomicU32| count.load(Ordering::Relaxed);
        (read(&self.connections), read(&self.requests))
    }
}

fn enter(count: &AtomicU32, most: Option<u32>, full: Overflow) -> Result<(), Overflow> {
    let before = count.fetch_add(1, Ordering::Relaxed);
    if most.is_some_and(|most| before >= most) {
        count.fetch_sub(1, Ordering::Relaxed);
        return Err(full);
    }
    Ok(())
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Retried {
    fn drop(&mut self) {
        self.0.retried.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for (taken, count) in [
            (self.connection, &self.load.connections),
            (self.request, &self.load.requests),
        ] {
            if taken {
                count.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POOL: Pool = Pool {
        max_connections: Some(2),
        max_requests: Some(3),
        max_pending: Some(1),
        max_retries: Some(1),
        connect_ms: None,
        bytes_idle_ms: None,
        reuse: Reuse {
            idle_ms: None,
            requests: Some(2),
        },
    };

    #[test]
    fn who_waits_and_who_is_sent_again() {
        let load = Arc::<Load>::default();
        let waits = Load::wait(&load, &POOL).unwrap();
        assert_eq!(Load::wait(&load, &POOL).unwrap_err(), Overflow::Pending);
        drop(waits);
        assert!(Load::wait(&load, &POOL).is_ok());
        let retries = MaxRetries { load, most: 1 };
        let first = retries.take().unwrap();
        assert!(retries.take().is_none());
        drop(first);
        assert!(retries.take().is_some());
        assert!(POOL.reuse.takes_more(1) && !POOL.reuse.takes_more(2));
        assert!(Reuse::default().takes_more(u32::MAX));
    }

    #[test]
    fn what_each_kind_needs() {
        let load = Arc::<Load>::default();
        let bytes = Load::take(&load, &POOL, Kind::Bytes).unwrap();
        let alone = Load::take(&load, &POOL, Kind::Alone).unwrap();
        assert_eq!(load.now(), (2, 1));
        for kind in [Kind::Bytes, Kind::Alone] {
            assert_eq!(
                Load::take(&load, &POOL, kind).unwrap_err(),
                Overflow::Connections
            );
        }
        let shared = [Kind::Shared; 2].map(|kind| Load::take(&load, &POOL, kind).unwrap());
        drop(bytes);
        // The connection that was taken for it is given back.
        for kind in [Kind::Shared, Kind::Alone] {
            assert_eq!(
                Load::take(&load, &POOL, kind).unwrap_err(),
                Overflow::Requests
            );
        }
        assert_eq!(load.now(), (1, 3));
        drop((alone, shared));
        assert_eq!(load.now(), (0, 0));
        let none = Pool::default();
        let many: Vec<_> = (0..1000)
            .map(|_| Load::take(&load, &none, Kind::Alone))
            .collect();
        assert!(many.iter().all(Result::is_ok));
    }

    proptest! {
        #[test]
        fn never_more_than_may_be_and_nothing_is_lost(
            steps in proptest::collection::vec((0u8..4, any::<proptest::sample::Index>()), 0..200),
        ) {
            let load = Arc::<Load>::default();
            let mut held = Vec::new();
            for (step, which) in steps {
                let kind = match step {
                    0 => Kind::Bytes,
                    1 => Kind::Alone,
                    2 => Kind::Shared,
                    _ => {
                        if !held.is_empty() {
                            held.swap_remove(which.index(held.len()));
                        }
                        continue;
                    }
                };
                if let Ok(place) = Load::take(&load, &POOL, kind) {
                    held.push(place);
                }
                let (connections, requests) = load.now();
                prop_assert!(connections <= 2 && requests <= 3);
            }
            drop(held);
            prop_assert_eq!(load.now(), (0, 0));
        }
    }
}
