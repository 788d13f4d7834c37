//! Consistent hashing: one key goes to one endpoint as long as that is there, and an endpoint that goes moves its own keys.
//!
//! A table of slots is made with the snapshot; a look-up is one division and one read, and where the endpoint of a slot
//! cannot be had, the next slots say who takes its keys. Names and keys are hashed by a fixed function, so that all
//! processes with the same endpoints agree.

use std::net::IpAddr;

use http::HeaderName;

use crate::vocab::limits;

/// What a request is known by (`loadBalancer.consistentHash`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// `httpHeaderName`: all values of a header field.
    Header(HeaderName),
    /// `httpCookie`.
    Cookie(Cookie),
    /// `httpQueryParameterName`: the first value of a query parameter.
    Query(String),
    /// `useSourceIp`: the client's address.
    SourceIp,
}

/// `consistentHash.httpCookie`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// `name`.
    pub name: String,
    /// `path`.
    pub path: Option<String>,
    /// `ttl` in seconds: a request without the cookie is given one that lives so long, 0 for as long as the browser runs.
    /// `None`: it is given none.
    pub ttl_s: Option<u64>,
}

/// How the table is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `ringHash`: at least so many slots (`minimumRingSize`), each given to an endpoint by rendezvous, so that nobody
    /// else's keys move when one goes.
    Ring(usize),
    /// `maglev`: so many slots (`tableSize`, a prime), which are as even as can be; a few keys of others move.
    Maglev(usize),
}

/// `loadBalancer.consistentHash`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistentHash {
    /// What is hashed.
    pub key: HashKey,
    /// How the table is made.
    pub shape: Shape,
}

/// An endpoint as the table knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its address.
    pub address: IpAddr,
    /// `weight`; 0 takes part as 1.
    pub weight: u32,
}

/// Whom keys go to.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    shape: Shape,
    members: Vec<Member>,
    /// Indices of members.
    slots: Box<[u32]>,
}

/// Slots for each endpoint that a ring has at least.
const SLOTS_EACH: usize = 16;
/// FNV-1a.
const BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const PRIME: u64 = 0x0000_0100_0000_01b3;
/// Seeds, so that a member's place and its step have nothing to do with each other.
const PLACE: u64 = 0x7065_6172_6c73;
const STEP: u64 = 0x7374_6570_7321;

/// The hash of some parts, each of which counts by where it ends as well.
#[must_use]
pub fn hash<'p>(parts: impl Iterator<Item = &'p [u8]>) -> u64 {
    let mut state = BASIS;
    for part in parts {
        for byte in part {
            state = (state ^ u64::from(*byte)).wrapping_mul(PRIME);
        }
        // No byte of text.
        state = (state ^ 0xff).wrapping_mul(PRIME);
    }
    mix(state)
}

/// The hash of an address.
#[must_use]
pub fn hash_of(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(v4) => hash(std::iter::once(v4.octets().as_slice())),
        IpAddr::V6(v6) => hash(std::iter::once(v6.octets().as_slice())),
    }
}

/// The finish of splitmix64: every bit counts in every bit.
#[must_use]
pub fn mix(mut state: u64) -> u64 {
    state = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    state ^ (state >> 31)
}

/// `hash` modulo `size`.
fn within(hash: u64, size: usize) -> usize {
    let wide = u64::try_from(size).unwrap_or(u64::MAX);
    let at = hash.checked_rem(wide).unwrap_or(0);
    usize::try_from(at).unwrap_or(0)
}

impl Table {
    /// The table for these endpoints; `last`, if it is the same.
    #[must_use]
    pub fn of(
        shape: Shape,
        members: Vec<Member>,
        last: Option<&std::sync::Arc<Self>>,
    ) -> std::sync::Arc<Self> {
        if let Some(last) = last.filter(|l| l.shape == shape && l.members == members) {
            return std::sync::Arc::clone(last);
        }
        let slots = match shape {
            Shape::Ring(least) => ring(&members, least),
            Shape::Maglev(size) => maglev(&members, size),
        };
        std::sync::Arc::new(Self {
            shape,
            members,
            slots: slots.into_boxed_slice(),
        })
    }

    /// Those who may take a key, in the order in which they are asked. An endpoint may come more than once; the walk is
    /// bounded.
    pub fn walk(&self, key: u64) -> impl Iterator<Item = usize> {
        let begin = within(key, self.slots.len());
        let (before, from) = self.slots.split_at_checked(begin).unwrap_or_default();
        let slots = from.iter().chain(before).take(limits::HASH_WALK);
        slots.filter_map(|at| usize::try_from(*at).ok())
    }

    /// How many slots there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// There is nobody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// Each slot to the member that wins it (rendezvous hashing, weighted: the least of `-ln(u) / weight` for a `u` by slot and
/// member). A member that goes leaves all other slots as they are.
fn ring(members: &[Member], least: usize) -> Vec<u32> {
    let size = least
        .max(members.len().saturating_mul(SLOTS_EACH))
        .min(limits::HASH_SLOTS.saturating_sub(1))
        .next_power_of_two();
    let seeds: Vec<(u64, f64)> = members
        .iter()
        .map(|m| (hash_of(m.address) ^ PLACE, f64::from(m.weight.max(1))))
        .collect();
    let wins = |slot: usize| {
        let slot = mix(u64::try_from(slot).unwrap_or(0).wrapping_mul(PRIME));
        let arrival = |(at, (seed, weight)): (usize, &(u64, f64))| {
            let drawn = u32::try_from(mix(slot ^ seed) >> 32).unwrap_or(0);
            let share = (f64::from(drawn) + 0.5) / (f64::from(u32::MAX) + 1.0);
            (-share.ln() / weight, at)
        };
        let first = seeds.iter().enumerate().map(arrival);
        let first = first.min_by(|a, b| a.0.total_cmp(&b.0));
        first.and_then(|(_, at)| u32::try_from(at).ok())
    };
    if members.is_empty() {
        return Vec::new();
    }
    (0..size).filter_map(wins).collect()
}

/// Members take the next free slot of their own permutation in turn, as often as their weight says (Maglev, section 3.4).
fn maglev(members: &[Member], size: usize) -> Vec<u32> {
    let free = u32::MAX;
    let mut slots = vec![free; size];
    let heaviest = members.iter().map(|m| m.weight.max(1)).max().unwrap_or(1);
    let mut turns: Vec<Turn> = members.iter().map(|m| Turn::of(*m, size)).collect();
    let mut left = if members.is_empty() { 0 } else { size };
    while left > 0 {
        for (at, turn) in (0_u32..).zip(&mut turns) {
            turn.credit = turn.credit.saturating_add(turn.weight);
            if turn.credit < heaviest {
                continue;
            }
            turn.credit = turn.credit.saturating_sub(heaviest);
            while let Some(slot) = slots.get_mut(turn.place) {
                turn.place = within(wide(turn.place).wrapping_add(turn.step), size);
                if *slot == free {
                    *slot = at;
                    left = left.saturating_sub(1);
                    break;
                }
            }
            if left == 0 {
                break;
            }
        }
    }
    slots.retain(|at| *at != free);
    slots
}

/// Where a member stands in its permutation.
struct Turn {
    place: usize,
    step: u64,
    weight: u32,
    credit: u32,
}

impl Turn {
    fn of(member: Member, size: usize) -> Self {
        let seed = hash_of(member.address);
        let steps = size.saturating_sub(1);
        Self {
            place: within(mix(seed ^ PLACE), size),
            step: wide(within(mix(seed ^ STEP), steps)).saturating_add(1),
            weight: member.weight.max(1),
            credit: 0,
        }
    }
}

fn wide(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

/// Whether a number has no divisors: every step of a permutation of so many slots then comes to all of them.
#[must_use]
pub fn is_prime(n: usize) -> bool {
    let no_divisor = |d: &usize| n.checked_rem(*d) == Some(0);
    let mut small =
        (2..).take_while(|d: &usize| d.checked_mul(*d).is_some_and(|square| square <= n));
    n >= 2 && !small.any(|d| no_divisor(&d))
}

#[cfg(test)]
mod tests;
