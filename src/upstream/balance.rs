//! The choice among the endpoints of a service: by health, by nearness, by weight.
//!
//! Nothing is kept between choices but a counter of the core. The counter is spread over the weights by a Weyl sequence
//! (multiples of the golden ratio), so that each endpoint is chosen as often as its share says in every stretch of
//! choices, also where a core serves several services in turn.

use crate::upstream::health::OutlierDetection;

/// What a choice looks at in one endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// `weight`; 0 takes part as 1.
    pub weight: u32,
    /// How far it is: 0 is nearest.
    pub distance: u32,
    /// Left out because of failed connects.
    pub ejected: bool,
    /// Tried for this connection already.
    pub tried: bool,
}

/// 2^64 divided by the golden ratio, odd.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

/// Chooses one that was not tried yet: of those in health the nearest, by weight. Where too many are ejected, health is
/// not looked at; where all in health were tried, ejected ones are the last resort. `None`: every one was tried, or
/// there is none.
#[must_use]
pub fn choose<I>(candidates: I, rule: &OutlierDetection, turn: usize) -> Option<usize>
where
    I: Iterator<Item = Candidate> + Clone,
{
    let (mut all, mut ejected) = (0_u64, 0_u64);
    for candidate in candidates.clone() {
        all = all.saturating_add(1);
        ejected = ejected.saturating_add(u64::from(candidate.ejected));
    }
    let healthy = all.saturating_sub(ejected);
    let percent = |share: u32| all.saturating_mul(u64::from(share));
    let panic = healthy == 0
        || ejected.saturating_mul(100) > percent(rule.max_ejection_percent)
        || healthy.saturating_mul(100) < percent(rule.min_health_percent);
    let open = |c: &Candidate| !c.tried;
    if !panic {
        let fit = |c: &Candidate| open(c) && !c.ejected;
        if let Some(found) = nearest(candidates.clone(), fit, turn) {
            return Some(found);
        }
    }
    nearest(candidates, open, turn)
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
    let mut mixed = wide(turn).wrapping_add(wide(tried).wrapping_mul(STEP));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^= mixed >> 31;
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

    const PLAIN: Candidate = Candidate {
        weight: 1,
        distance: 0,
        ejected: false,
        tried: false,
    };

    fn rule(max_ejection: u32, min_health: u32) -> OutlierDetection {
        OutlierDetection {
            max_ejection_percent: max_ejection,
            min_health_percent: min_health,
            ..OutlierDetection::default()
        }
    }

    fn check(candidates: &[Candidate], rule: &OutlierDetection, want: &[usize]) {
        let mut seen: Vec<usize> = (0..64)
            .filter_map(|turn| choose(candidates.iter().copied(), rule, turn))
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
    fn health_comes_first_and_nobody_is_left_without() {
        let usual = rule(100, 0);
        check(&[], &usual, &[]);
        check(&flagged("hhh"), &usual, &[0, 1, 2]);
        check(&flagged("heh"), &usual, &[0, 2]);
        check(&flagged("eee"), &usual, &[0, 1, 2]);
        check(&flagged("tet"), &usual, &[1]);
        check(&flagged("ttt"), &usual, &[]);
        // More ejected than may be: all take part.
        check(&flagged("heeh"), &rule(49, 0), &[0, 1, 2, 3]);
        check(&flagged("heeh"), &rule(50, 0), &[0, 3]);
        // Below the panic threshold as well.
        check(&flagged("heeh"), &rule(100, 51), &[0, 1, 2, 3]);
        check(&flagged("heeh"), &rule(100, 50), &[0, 3]);
    }

    #[test]
    fn the_nearest_in_health_are_chosen() {
        let at = |distance, ejected| Candidate {
            distance,
            ejected,
            ..PLAIN
        };
        let usual = rule(100, 0);
        check(&[at(2, false), at(1, false), at(1, false)], &usual, &[1, 2]);
        check(&[at(2, false), at(1, true), at(1, true)], &usual, &[0]);
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
            let rule = OutlierDetection::default();
            if choose(all(None).into_iter(), &rule, turn) == Some(2) {
                let next = choose(all(Some(2)).into_iter(), &rule, after(turn, 1));
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
                let at = choose(candidates.iter().copied(), &OutlierDetection::default(), turn);
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
                let at = choose(candidates.iter().copied(), &OutlierDetection::default(), (turn as usize).wrapping_add(n));
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
                    Candidate { weight, distance, ejected, tried: false }), 0..12),
            turn in any::<u32>(),
        ) {
            let mut order = Vec::new();
            while let Some(at) = choose(candidates.iter().copied(), &OutlierDetection::default(), turn as usize) {
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
