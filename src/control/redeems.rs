//! Room for logins that are redeemed at their providers, and for those that wait for that: anyone may bring one back as often as
//! he likes. A provider that does not answer keeps no other one waiting, and one client alone takes no provider from the others.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::vocab::limits;

/// Who has a place.
#[derive(Clone, Debug, Default)]
pub(super) struct Redeems(Rc<RefCell<Held>>);

/// As long as a place is held, and no longer.
#[derive(Debug, Default)]
struct Held {
    providers: BTreeMap<String, Room>,
    clients: BTreeMap<IpAddr, usize>,
    refused: u64,
}

#[derive(Debug)]
struct Room {
    held: usize,
    turns: Arc<Semaphore>,
}

impl Default for Room {
    fn default() -> Self {
        Self {
            held: 0,
            turns: Arc::new(Semaphore::new(limits::REDEEMED)),
        }
    }
}

/// Room for one login, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    all: Redeems,
    provider: String,
    client: IpAddr,
    turns: Arc<Semaphore>,
}

impl Redeems {
    /// A place for a login at `provider`; `None`, and a line in the log now and then, if too many are held there or by `client`.
    pub(super) fn enter(&self, provider: &str, client: IpAddr) -> Option<Place> {
        let client = network(client);
        let mut held = self.0.borrow_mut();
        let of_provider = held.providers.get(provider).map_or(0, |room| room.held);
        let of_client = held.clients.get(&client).copied().unwrap_or(0);
        if of_provider >= limits::REDEEMED + limits::REDEEMS_WAITING
            || of_client >= limits::REDEEMS_PER_CLIENT
        {
            held.refused = held.refused.saturating_add(1);
            if held.refused.is_power_of_two() {
                let refused = held.refused;
                tracing::warn!(provider, of_provider, %client, of_client, refused, "too many logins come back at a time");
            }
            return None;
        }
        let room = held.providers.entry(provider.to_owned()).or_default();
        room.held = of_provider.saturating_add(1);
        let turns = Arc::clone(&room.turns);
        held.clients.insert(client, of_client.saturating_add(1));
        Some(Place {
            all: self.clone(),
            provider: provider.to_owned(),
            client,
            turns,
        })
    }
}

impl Place {
    /// Waits until the provider may be asked, for as long as what comes back is held.
    pub(super) async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        // It is never closed.
        Arc::clone(&self.turns).acquire_owned().await.ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.all.0.borrow_mut();
        if let Some(room) = held.providers.get_mut(&self.provider) {
            room.held = room.held.saturating_sub(1);
        }
        if let Some(count) = held.clients.get_mut(&self.client) {
            *count = count.saturating_sub(1);
        }
        held.providers.retain(|_name, room| room.held > 0);
        held.clients.retain(|_client, count| *count > 0);
    }
}

/// One client: of IPv6, a machine has all of a /64.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        ip @ IpAddr::V4(_) => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    const ALL: usize = limits::REDEEMED + limits::REDEEMS_WAITING;

    fn client(number: usize) -> IpAddr {
        Ipv4Addr::from_bits(0xc000_0200 + u32::try_from(number).unwrap()).into()
    }

    /// As many places as there are, of clients that have a few each.
    fn fill(all: &Redeems, provider: &str) -> Vec<Place> {
        (0..)
            .map_while(|number| all.enter(provider, client(100 + number / 4)))
            .collect()
    }

    fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => Some(value),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_provider_that_does_not_answer_keeps_no_other_waiting() {
        let all = Redeems::default();
        let mut dead = fill(&all, "dead");
        assert_eq!(dead.len(), ALL);
        let turns: Vec<_> = dead.iter().map_while(|place| ready(place.turn())).collect();
        assert_eq!(turns.len(), limits::REDEEMED);
        let alive = all.enter("alive", client(1)).unwrap();
        assert!(ready(alive.turn()).is_some());
        // What is given back is free again, and what nobody holds is not kept.
        dead.pop();
        assert!(all.enter("dead", client(1)).is_some());
        drop((dead, turns, alive));
        let held = all.0.borrow();
        assert!(held.providers.is_empty() && held.clients.is_empty());
    }

    #[test]
    fn one_client_takes_no_provider_from_the_others() {
        let all = Redeems::default();
        let addresses = |number: usize| -> [IpAddr; 2] {
            let host = u128::try_from(number).unwrap();
            let v6 = Ipv6Addr::from_bits(0x2001_0db8 << 96 | host);
            [v6.into(), client(1)]
        };
        for family in 0..2 {
            let address = |number| addresses(number)[family];
            let held: Vec<_> = (0..ALL)
                .map_while(|number| all.enter("idp", address(number)))
                .collect();
            assert_eq!(held.len(), limits::REDEEMS_PER_CLIENT);
            assert!(all.enter("other", address(ALL)).is_none());
            assert!(all.enter("idp", client(2)).is_some());
        }
        assert!(all.enter("idp", client(1)).is_some());
    }
}
