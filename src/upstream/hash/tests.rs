//! What consistent hashing promises.

use proptest::prelude::*;

use super::*;

fn members(weights: &[u32]) -> Vec<Member> {
    let member = |(at, weight): (usize, &u32)| Member {
        address: IpAddr::from([
            10,
            0,
            u8::try_from(at / 250).unwrap(),
            u8::try_from(at % 250).unwrap(),
        ]),
        weight: *weight,
    };
    weights.iter().enumerate().map(member).collect()
}

fn owner(table: &Table, key: u64) -> IpAddr {
    let at = table.walk(key).next().unwrap();
    table.members[at].address
}

fn key(n: u64) -> u64 {
    hash([n.to_string().as_bytes()].into_iter())
}

const KEYS: u64 = 4000;

/// How many of the keys go to whom.
fn shares(table: &Table) -> Vec<usize> {
    let mut seen = vec![0; table.members.len()];
    for n in 0..KEYS {
        seen[table.walk(key(n)).next().unwrap()] += 1;
    }
    seen
}

#[test]
fn hashes_are_the_same_everywhere() {
    // What another process has hashed, and an older version: a change here moves every key of every operator.
    assert_eq!(
        hash([b"user-1".as_slice()].into_iter()),
        0x89e8_3712_c3aa_c3c8
    );
    let (ab, a_b) = ([b"ab".as_slice()], [b"a".as_slice(), b"b"]);
    assert_ne!(hash(ab.into_iter()), hash(a_b.into_iter()));
    let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
    assert_eq!(hash_of(mapped), hash_of([10, 0, 0, 1].into()));
}

#[test]
fn primes() {
    let found: Vec<usize> = (0..30).filter(|n| is_prime(*n)).collect();
    assert_eq!(found, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]);
    assert!(is_prime(65_537) && !is_prime(65_535));
}

#[test]
fn nobody_and_one() {
    for shape in [Shape::Ring(1024), Shape::Maglev(251)] {
        let none = Table::of(shape, Vec::new(), None);
        assert!(none.is_empty() && none.walk(7).next().is_none());
        let one = Table::of(shape, members(&[3]), None);
        assert!((0..100).all(|n| one.walk(key(n)).next() == Some(0)));
    }
}

#[test]
fn a_table_stays_where_nothing_has_changed() {
    let shape = Shape::Maglev(251);
    let first = Table::of(shape, members(&[1, 2]), None);
    let same = Table::of(shape, members(&[1, 2]), Some(&first));
    assert!(std::sync::Arc::ptr_eq(&first, &same));
    for other in [
        Table::of(shape, members(&[1, 3]), Some(&first)),
        Table::of(Shape::Ring(256), members(&[1, 2]), Some(&first)),
    ] {
        assert!(!std::sync::Arc::ptr_eq(&first, &other));
    }
}

#[test]
fn many_endpoints_have_slots_enough() {
    let table = Table::of(Shape::Ring(16), members(&[1; 100]), None);
    assert_eq!(table.len(), 2048);
    assert!(shares(&table).iter().all(|n| *n > 0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Keys are spread by weight.
    #[test]
    fn shares_follow_weights(weights in proptest::collection::vec(1u32..6, 1..9), maglev in any::<bool>()) {
        let shape = if maglev { Shape::Maglev(4099) } else { Shape::Ring(8192) };
        let table = Table::of(shape, members(&weights), None);
        let total: u32 = weights.iter().sum();
        for (got, weight) in shares(&table).iter().zip(&weights) {
            let want = f64::from(*weight) / f64::from(total) * KEYS as f64;
            prop_assert!((*got as f64 - want).abs() < want.mul_add(0.15, 60.0), "{got} for {want}");
        }
    }

    /// An endpoint that goes moves its own keys: none of the others' in a ring, few in Maglev's table. One that comes back
    /// gets them again.
    #[test]
    fn one_that_goes_moves_only_its_share(
        weights in proptest::collection::vec(1u32..6, 2..12), gone in any::<proptest::sample::Index>(), maglev in any::<bool>(),
    ) {
        let shape = if maglev { Shape::Maglev(4099) } else { Shape::Ring(1024) };
        let all = members(&weights);
        let gone = gone.index(all.len());
        let mut rest = all.clone();
        let lost = rest.remove(gone).address;
        let (before, after) = (Table::of(shape, all.clone(), None), Table::of(shape, rest, None));
        let (mut own, mut others) = (0_u64, 0_u64);
        for n in 0..KEYS {
            let (was, is) = (owner(&before, key(n)), owner(&after, key(n)));
            own += u64::from(was == lost);
            others += u64::from(was != lost && was != is);
        }
        prop_assert!(own > 0);
        if maglev {
            prop_assert!(others * 100 < (KEYS - own) * 25, "{others} of {}", KEYS - own);
        } else {
            prop_assert_eq!(others, 0);
        }
        prop_assert_eq!(&Table::of(shape, all, None), &before);
    }

    /// Where an endpoint is only left out, the table stays, and the next slots take its keys: all of the others' stay.
    #[test]
    fn one_that_is_left_out_leaves_the_others_theirs(
        weights in proptest::collection::vec(1u32..6, 2..12), out in any::<proptest::sample::Index>(), maglev in any::<bool>(),
    ) {
        let shape = if maglev { Shape::Maglev(4099) } else { Shape::Ring(1024) };
        let table = Table::of(shape, members(&weights), None);
        let out = out.index(weights.len());
        let mut heirs = std::collections::BTreeSet::new();
        for n in 0..KEYS {
            let first = table.walk(key(n)).next().unwrap();
            let fit = table.walk(key(n)).find(|at| *at != out).unwrap();
            prop_assert!(first == out || first == fit);
            if first == out {
                heirs.insert(fit);
            }
        }
        // And nobody gets all of them.
        prop_assert!(heirs.len() > 1 || weights.len() == 2);
    }
}
