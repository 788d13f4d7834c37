//! The choice among the endpoints of a service: by health, by nearness, by weight.
//!
//! Nothing is kept between choices but a counter of the core. The counter is spread over the weights by a Weyl sequence
//! (multiples of the golden ratio), so that each endpoint is chosen as often as its share says in every stretch of
//! choices, also where a core serves several services in turn.

use crate::upstream::hash::{Table, mix};
use crate::upstream::health::OutlierDetection;

/// What a choice looks at in one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// `weight`; 0 takes part as 1.
    pub weight: u32,
    /// How far it is: 0 is nearest.
    pub distance: u32,
    /// Left out because of failed connects.
    pub ejected: bool,
    /// Tried for this connection already.
    pub tried: bool,
    /// Requests and connections that it has now; looked at by `LeastRequest` alone.
    pub active: u32,
}

/// `loadBalancer.simple`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Simple {
    /// `ROUND_ROBIN`: in turn, by weight.
    #[default]
    RoundRobin,
    /// `LEAST_REQUEST`: of two by chance the one with fewer requests for its weight.
    LeastRequest,
    /// `RANDOM`: by chance, by weight.
    Random,
}

/// By what a choice is made.
#[derive(Clone, Copy, Debug)]
pub struct How<'a> {
    /// When health is not looked at.
    pub outlier: &'a OutlierDetection,
    /// What decides between those that are alike otherwise.
    pub simple: Simple,
    /// A key and whom keys go to; before `simple`.
    pub keyed: Option<(&'a Table, u64)>,
}

/// Turns that are no neighbours of those that others choose by.
const FIRST: usize = 1;
const SECOND: usize = 2;

/// 2^64 divided by the golden ratio, odd.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Chooses one that was not tried yet: of those in health the nearest, by weight. Where too many are ejected, health is
/// not looked at (`minHealthPercent`); where all in health were tried, ejected ones are the last resort. `None`: every one was tried, or
/// there is none.
#[must_use]
pub fn choose(
    len: usize,
    one: impl Fn(usize) -> Candidate,
    how: How<'_>,
    turn: usize,
) -> Option<usize> {
    let candidates = Candidates { len, one: &one };
    let (mut all, mut ejected) = (0_u64, 0_u64);
    for candidate in candidates.each() {
        all = all.saturating_add(1);
        ejected = ejected.saturating_add(u64::from(candidate.ejected));
    }
    let healthy = all.saturating_sub(ejected);
    let percent = |share: u32| all.saturating_mul(u64::from(share));
    let panic =
        healthy == 0 || healthy.saturating_mul(100) < percent(how.outlier.min_health_percent);
    let open = |c: &Candidate| !c.tried;
    if !panic {
        let fit = |c: &Candidate| open(c) && !c.ejected;
        if let Some(found) = by(how, candidates, fit, turn) {
            return Some(found);
        }
    }
    by(how, candidates, open, turn)
}

/// Looked at one by one where keys decide, so that the rest of them costs nothing.
struct Candidates<'a, F> {
    len: usize,
    one: &'a F,
}

impl<F> Clone for Candidates<'_, F> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<F> Copy for Candidates<'_, F> {}

impl<'a, F: Fn(usize) -> Candidate> Candidates<'a, F> {
    fn each(self) -> impl Iterator<Item = Candidate> + Clone + use<'a, F> {
        (0..self.len).map(self.one)
    }

    fn get(self, at: usize) -> Option<Candidate> {
        (at < self.len).then(|| (self.one)(at))
    }
}

/// Of those that fit and are nearest one, by key or else by `simple`.
fn by<F: Fn(usize) -> Candidate>(
    how: How<'_>,
    candidates: Candidates<'_, F>,
    fit: impl Fn(&Candidate) -> bool,
    turn: usize,
) -> Option<usize> {
    if let Some((table, key)) = how.keyed
        && let Some(found) = by_key(table, key, candidates, &fit)
    {
        return Some(found);
    }
    let at = |turn| nearest(candidates.each(), &fit, turn);
    match how.simple {
        Simple::RoundRobin => at(turn),
        Simple::Random => at(after(turn, FIRST)),
        Simple::LeastRequest => {
            let (first, second) = (at(after(turn, FIRST))?, at(after(turn, SECOND))?);
            let load = |nth: usize| {
                let one = candidates.get(nth);
                one.map_or((0, 1), |c| {
                    (u64::from(c.active), u64::from(c.weight.max(1)))
                })
            };
            let ((a, of_a), (b, of_b)) = (load(first), load(second));
            // Fewer for its weight: `a / of_a > b / of_b`, without a division.
            let busier = a.saturating_mul(of_b) > b.saturating_mul(of_a);
            Some(if busier { second } else { first })
        }
    }
}

/// Of those that fit and are nearest the first that may take a key.
fn by_key<F: Fn(usize) -> Candidate>(
    table: &Table,
    key: u64,
    candidates: Candidates<'_, F>,
    fit: impl Fn(&Candidate) -> bool,
) -> Option<usize> {
    let distance = candidates.each().filter(&fit).map(|c| c.distance).min()?;
    let takes = |at: &usize| {
        let one = candidates.get(*at);
        one.is_some_and(|c| fit(&c) && c.distance == distance)
    };
    table.walk(key).find(takes)
}

/// One of so many weights, each as often as its share says; those of weight 0 never. `None` if there is no other.
#[must_use]
pub fn by_weight<I>(weights: I, turn: usize) -> Option<usize>
where
    I: Iterator<Item = u32> + Clone,
{
    let total: u128 = weights.clone().map(u128::from).sum();
    let point = point(total, turn);
    let mut passed = 0_u128;
    let mut shares = weights.enumerate();
    let chosen = shares.find(|(_, weight)| {
        passed = passed.saturating_add(u128::from(*weight));
        point < passed
    });
    chosen.map(|(at, _)| at)
}

/// Where a turn falls among so many shares.
fn point(total: u128, turn: usize) -> u128 {
    let turn = u64::try_from(turn).unwrap_or(0);
    u128::from(turn.wrapping_mul(STEP)).saturating_mul(total) >> 64
}

/// The turn of the next choice after `tried` endpoints have failed in this one. A turn that led to an endpoint says
/// something of where it lies, so that the others would not get their shares of it: it is mixed (the finish of splitmix64).
#[must_use]
pub fn after(turn: usize, tried: usize) -> usize {
    if tried == 0 {
        return turn;
    }
    let wide = |n: usize| u64::try_from(n).unwrap_or(0);
    let mixed = mix(wide(turn).wrapping_add(wide(tried).wrapping_mul(STEP)));
    usize::try_from(mixed).unwrap_or(turn)
}

/// Of those that fit the nearest, by weight.
fn nearest<I>(candidates: I, fit: impl Fn(&Candidate) -> bool, turn: usize) -> Option<usize>
where
    I: Iterator<Item = Candidate> + Clone,
{
    let fitting = candidates.clone().filter(&fit);
    let distance = fitting.map(|c| c.distance).min()?;
    let taken = |c: &Candidate| fit(c) && c.distance == distance;
    let weight = |c: &Candidate| u128::from(c.weight.max(1));
    let total: u128 = candidates.clone().filter(&taken).map(|c| weight(&c)).sum();
    let point = point(total, turn);
    let mut passed = 0_u128;
    for (at, candidate) in candidates.enumerate() {
        if !taken(&candidate) {
            continue;
        }
        passed = passed.saturating_add(weight(&candidate));
        if point < passed {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn choose(all: impl Iterator<Item = Candidate>, how: How<'_>, turn: usize) -> Option<usize> {
        let all: Vec<Candidate> = all.collect();
        super::choose(all.len(), |nth| all[nth], how, turn)
    }
    use crate::upstream::hash::{Member, Shape};

    const PLAIN: Candidate = Candidate {
        weight: 1,
        distance: 0,
        ejected: false,
        tried: false,
        active: 0,
    };

    const USUAL: OutlierDetection = OutlierDetection {
        consecutive_failures: 3,
        consecutive_5xx: 0,
        consecutive_gateway: 0,
        interval_ms: 0,
        base_ejection_ms: 5000,
        max_ejection_percent: 100,
        min_health_percent: 0,
    };

    fn how(simple: Simple) -> How<'static> {
        How {
            outlier: &USUAL,
            simple,
            keyed: None,
        }
    }

    fn turns() -> How<'static> {
        how(Simple::RoundRobin)
    }

    fn check(candidates: &[Candidate], min_health_percent: u32, want: &[usize]) {
        let outlier = &OutlierDetection {
            min_health_percent,
            ..USUAL
        };
        let how = How { outlier, ..turns() };
        let mut seen: Vec<usize> = (0..64)
            .filter_map(|turn| choose(candidates.iter().copied(), how, turn))
            .collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, want, "{candidates:?}");
    }

    fn flagged(word: &str) -> Vec<Candidate> {
        let one = |c: char| Candidate {
            ejected: c == 'e',
            tried: c == 't',
            ..PLAIN
        };
        word.chars().map(one).collect()
    }

    #[test]
    fn the_one_with_fewer_requests_for_its_weight() {
        let with = |weight, active| Candidate {
            weight,
            active,
            ..PLAIN
        };
        let chosen = |all: &[Candidate]| {
            let mut seen = vec![0_u32; all.len()];
            for turn in 0..9000 {
                let at = choose(all.iter().copied(), how(Simple::LeastRequest), turn);
                seen[at.unwrap()] += 1;
            }
            seen
        };
        // Of two by chance: the busy one is taken where both are it.
        let seen = chosen(&[with(1, 9), with(1, 0), with(1, 0)]);
        assert!((900..1100).contains(&seen[0]), "{seen:?}");
        // Three times the weight may have three times the requests.
        let seen = chosen(&[with(3, 3), with(1, 2)]);
        assert!(seen[0] > 8200, "{seen:?}");
        assert_eq!(chosen(&[with(1, 0)]), [9000]);
        // What is ejected is out, whatever it has to do.
        let out = Candidate {
            ejected: true,
            ..with(1, 0)
        };
        assert_eq!(chosen(&[out, with(1, 7)]), [0, 9000]);
    }

    #[test]
    fn chance_goes_by_weight_as_well() {
        let all = [3, 1].map(|weight| Candidate { weight, ..PLAIN });
        let first = |turn| choose(all.iter().copied(), how(Simple::Random), turn) == Some(0);
        let seen = (0..8000).filter(|turn| first(*turn)).count();
        assert!((5800..6200).contains(&seen), "{seen}");
        // Not in turn: of heads and tails a third of the neighbours would not be alike.
        let all = [PLAIN; 2];
        let at = |turn| choose(all.iter().copied(), how(Simple::Random), turn);
        let alike = (0..8000).filter(|turn| at(*turn) == at(turn + 1)).count();
        assert!((3700..4300).contains(&alike), "{alike}");
    }

    #[test]
    fn a_key_goes_to_one_and_to_the_next_where_that_cannot_be_had() {
        let member = |n| Member {
            address: [10, 0, 0, n].into(),
            weight: 1,
        };
        let members = (0..4).map(member).collect();
        let table = Table::of(Shape::Ring(64), members, None);
        let goes = |all: &[Candidate], key: u64, turn: usize| {
            let how = How {
                keyed: Some((&table, mix(key))),
                ..turns()
            };
            choose(all.iter().copied(), how, turn)
        };
        let mut all = [PLAIN; 4];
        for key in 0..100 {
            all = [PLAIN; 4];
            let first = goes(&all, key, 0).unwrap();
            assert!((1..9).all(|turn| goes(&all, key, turn) == Some(first)));
            all[first].ejected = true;
            let second = goes(&all, key, 0).unwrap();
            assert!(second != first && (1..9).all(|turn| goes(&all, key, turn) == Some(second)));
            // Nobody else's key moves.
            let others = (0..100).filter(|key| goes(&[PLAIN; 4], *key, 0) != Some(first));
            assert!(
                others
                    .into_iter()
                    .all(|key| goes(&all, key, 0) == goes(&[PLAIN; 4], key, 0))
            );
            // The nearest come before the key.
            all = [PLAIN; 4].map(|one| Candidate { distance: 1, ..one });
            all[3 - first].distance = 0;
            assert_eq!(goes(&all, key, 0), Some(3 - first));
        }
        for one in &mut all {
            one.tried = true;
        }
        assert_eq!(goes(&all, 7, 0), None);
    }

    #[test]
    fn health_comes_first_and_nobody_is_left_without() {
        check(&[], 0, &[]);
        check(&flagged("hhh"), 0, &[0, 1, 2]);
        check(&flagged("heh"), 0, &[0, 2]);
        check(&flagged("eee"), 0, &[0, 1, 2]);
        check(&flagged("tet"), 0, &[1]);
        check(&flagged("ttt"), 0, &[]);
        // Below the panic threshold all take part.
        check(&flagged("heeh"), 51, &[0, 1, 2, 3]);
        check(&flagged("heeh"), 50, &[0, 3]);
    }

    #[test]
    fn the_nearest_in_health_are_chosen() {
        let at = |distance, ejected| Candidate {
            distance,
            ejected,
            ..PLAIN
        };
        check(&[at(2, false), at(1, false), at(1, false)], 0, &[1, 2]);
        check(&[at(2, false), at(1, true), at(1, true)], 0, &[0]);
    }

    #[test]
    fn after_a_failure_the_others_get_their_shares() {
        let weights = [3, 1, 4];
        let mut seen = [0; 2];
        for turn in 0..8000 {
            let all = |tried| {
                let one = move |(at, weight): (usize, &u32)| Candidate {
                    weight: *weight,
                    tried: Some(at) == tried,
                    ..PLAIN
                };
                weights.iter().enumerate().map(one).collect::<Vec<_>>()
            };
            if choose(all(None).into_iter(), turns(), turn) == Some(2) {
                let next = choose(all(Some(2)).into_iter(), turns(), after(turn, 1));
                seen[next.unwrap()] += 1;
            }
        }
        let [a, b] = seen;
        assert!(
            (2900..3100).contains(&a) && (900..1100).contains(&b),
            "{seen:?}"
        );
    }

    proptest! {
        /// In every stretch of choices each endpoint gets its share, but for a handful.
        #[test]
        fn weights_are_respected(
            weights in proptest::collection::vec(1u32..50, 1..10), start in any::<u32>(), stride in 1usize..8,
        ) {
            let candidates: Vec<Candidate> =
                weights.iter().map(|w| Candidate { weight: *w, ..PLAIN }).collect();
            let total: u32 = weights.iter().sum();
            let rounds = 4000usize;
            let mut seen = vec![0usize; weights.len()];
            for n in 0..rounds {
                let turn = (start as usize).wrapping_add(n * stride);
                let at = choose(candidates.iter().copied(), turns(), turn);
                seen[at.unwrap()] += 1;
            }
            for (got, weight) in seen.iter().zip(&weights) {
                let want = f64::from(*weight) / f64::from(total) * rounds as f64;
                prop_assert!((*got as f64 - want).abs() < 40.0, "{seen:?} for {weights:?}");
            }
        }

        /// Whatever weights and places: who may be chosen is, within a bounded number of choices.
        #[test]
        fn no_endpoint_starves(
            weights in proptest::collection::vec(1u32..20, 1..8), ejected in any::<u8>(), turn in any::<u32>(),
        ) {
            let candidates: Vec<Candidate> = weights.iter().enumerate()
                .map(|(at, w)| Candidate { weight: *w, ejected: ejected >> at & 1 == 1, ..PLAIN }).collect();
            let all_ejected = candidates.iter().all(|c| c.ejected);
            let total: usize = weights.iter().map(|w| *w as usize).sum();
            let mut seen = vec![false; weights.len()];
            for n in 0..total * 4 {
                let at = choose(candidates.iter().copied(), turns(), (turn as usize).wrapping_add(n));
                seen[at.unwrap()] = true;
            }
            for (candidate, seen) in candidates.iter().zip(seen) {
                prop_assert_eq!(seen, all_ejected || !candidate.ejected);
            }
        }

        /// Trying again and again goes through all of them once, those in health before the others, and ends.
        #[test]
        fn every_one_is_tried_once(
            mut candidates in proptest::collection::vec(
                (1u32..9, 0u32..3, any::<bool>()).prop_map(|(weight, distance, ejected)|
                    Candidate { weight, distance, ejected, tried: false, active: 0 }), 0..12),
            turn in any::<u32>(),
        ) {
            let mut order = Vec::new();
            while let Some(at) = choose(candidates.iter().copied(), turns(), turn as usize) {
                prop_assert!(!candidates[at].tried);
                candidates[at].tried = true;
                order.push(candidates[at]);
            }
            prop_assert_eq!(order.len(), candidates.len());
            if order.iter().any(|c| !c.ejected) {
                prop_assert!(order.is_sorted_by_key(|c| (c.ejected, c.distance)));
            }
        }
    }
}
