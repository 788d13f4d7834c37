//! Token buckets of one limit on one core: so many, and one more that all others share.
//!
//! A bucket is full again after a while, and then it is as one that never was; its place is taken by whoever needs one. A
//! key has few places where its bucket may be. While those hold the unfinished buckets of others, it shares one bucket with
//! all that have no place either: what the table cannot tell apart gets less, not more.

use crate::vocab::limits;

/// `tokenBucket`, by Envoy's names: it holds so many tokens, and so many come per interval, evenly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    /// `maxTokens`.
    pub max_tokens: u32,
    /// `tokensPerFill`.
    pub tokens_per_fill: u32,
    /// `fillInterval`, in milliseconds.
    pub fill_interval_ms: u64,
}

impl TokenBucket {
    /// How long an empty one takes to be full, in milliseconds.
    #[must_use]
    pub fn window_ms(&self) -> u64 {
        let whole = u64::from(self.max_tokens).saturating_mul(self.fill_interval_ms);
        whole.div_ceil(u64::from(self.tokens_per_fill).max(1))
    }
}

/// There is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Empty {
    /// When there is one, in milliseconds from now.
    pub wait_ms: u64,
}

/// The buckets of one limit on one core. Counted in parts of a token, of which `tokensPerFill` come in a millisecond, so that
/// everything is whole.
#[derive(Debug)]
pub struct Buckets {
    /// `limits::RATE_LIMIT_WAYS` in a row are the places of a key; none where the limit tells nobody apart.
    places: Box<[Bucket]>,
    shared: Bucket,
    size: Size,
}

#[derive(Clone, Copy, Debug)]
struct Size {
    /// What a full one holds.
    full: u64,
    /// What a request costs.
    cost: u64,
    /// What comes in a millisecond.
    fill: u64,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    key: u128,
    holds: u64,
    at_ms: u64,
}

impl Bucket {
    const fn new(key: u128, size: Size, now_ms: u64) -> Self {
        Self {
            key,
            holds: size.full,
            at_ms: now_ms,
        }
    }

    fn holds(&self, size: Size, now_ms: u64) -> u64 {
        let came = now_ms.saturating_sub(self.at_ms).saturating_mul(size.fill);
        self.holds.saturating_add(came).min(size.full)
    }
}

impl Buckets {
    /// Full ones of one of so many cores: each has its share, and a token at least. `apart`: the limit tells callers apart.
    #[must_use]
    pub fn new(bucket: &TokenBucket, cores: u64, apart: bool) -> Self {
        let interval = bucket.fill_interval_ms.max(1);
        let cost = interval.saturating_mul(cores.max(1));
        let size = Size {
            full: u64::from(bucket.max_tokens)
                .saturating_mul(interval)
                .max(cost),
            cost,
            fill: u64::from(bucket.tokens_per_fill).max(1),
        };
        let empty = Bucket::new(0, size, 0);
        let places = match apart {
            true => limits::RATE_LIMIT_BUCKETS,
            false => 0,
        };
        Self {
            places: vec![empty; places].into(),
            shared: empty,
            size,
        }
    }

    /// The bucket of a key, filled until now.
    fn bucket(&mut self, key: u128, now_ms: u64) -> &mut Bucket {
        let size = self.size;
        let rows = self.places.len() / limits::RATE_LIMIT_WAYS;
        let row = usize::try_from(key >> 96)
            .ok()
            .and_then(|hash| hash.checked_rem(rows));
        let start = row.unwrap_or(0).saturating_mul(limits::RATE_LIMIT_WAYS);
        let end = start.saturating_add(limits::RATE_LIMIT_WAYS);
        let row = self.places.get_mut(start..end).unwrap_or_default();
        let found = row.iter().position(|b| b.key == key);
        let found = found.or_else(|| {
            let free = row
                .iter()
                .position(|b| b.holds(size, now_ms) == size.full)?;
            *row.get_mut(free)? = Bucket::new(key, size, now_ms);
            Some(free)
        });
        let bucket = match found.and_then(|nth| row.get_mut(nth)) {
            Some(bucket) => bucket,
            None => &mut self.shared,
        };
        bucket.holds = bucket.holds(size, now_ms);
        bucket.at_ms = bucket.at_ms.max(now_ms);
        bucket
    }

    /// Whether there is a token for a key, which stays there.
    ///
    /// # Errors
    /// There is none.
    pub fn look(&mut self, key: u128, now_ms: u64) -> Result<(), Empty> {
        let Size { cost, fill, .. } = self.size;
        let missing = cost.saturating_sub(self.bucket(key, now_ms).holds);
        match missing {
            0 => Ok(()),
            missing => Err(Empty {
                wait_ms: missing.div_ceil(fill),
            }),
        }
    }

    /// Takes a token of a key that has one.
    pub fn take(&mut self, key: u128, now_ms: u64) {
        let cost = self.size.cost;
        let bucket = self.bucket(key, now_ms);
        bucket.holds = bucket.holds.saturating_sub(cost);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: TokenBucket = TokenBucket {
        max_tokens: 6,
        tokens_per_fill: 6,
        fill_interval_ms: 60_000,
    };

    fn passes(buckets: &mut Buckets, key: u128, now_ms: u64) -> bool {
        let is_ok = buckets.look(key, now_ms).is_ok();
        if is_ok {
            buckets.take(key, now_ms);
        }
        is_ok
    }

    /// A key of row `row`.
    fn key(row: u128, n: u128) -> u128 {
        row << 96 | n
    }

    #[test]
    fn so_many_pass_and_then_one_for_each_that_comes() {
        let mut all = Buckets::new(&MINUTE, 1, true);
        for _ in 0..6 {
            assert!(passes(&mut all, key(1, 1), 1000));
        }
        assert_eq!(all.look(key(1, 1), 1000), Err(Empty { wait_ms: 10_000 }));
        assert_eq!(all.look(key(1, 1), 10_999), Err(Empty { wait_ms: 1 }));
        assert!(passes(&mut all, key(1, 1), 11_000));
        assert!(!passes(&mut all, key(1, 1), 11_000));
        // Another one is not touched by that.
        assert!(passes(&mut all, key(1, 2), 11_000));
    }

    #[test]
    fn cores_share() {
        for (cores, most) in [(2, 3), (4, 1), (100, 1)] {
            let mut share = Buckets::new(&MINUTE, cores, false);
            let passed = (0..10).filter(|_| passes(&mut share, 0, 0)).count();
            assert_eq!(passed, most, "{cores}");
        }
        let mut share = Buckets::new(&MINUTE, 4, false);
        assert!(passes(&mut share, 7, 0));
        assert_eq!(
            share.look(7, 0),
            Err(Empty { wait_ms: 20_000 }),
            "1.5 come in a minute, and half a one is left"
        );
    }

    #[test]
    fn those_without_a_place_share_one_until_there_is_one() {
        let mut all = Buckets::new(&MINUTE, 1, true);
        let ways = u128::try_from(limits::RATE_LIMIT_WAYS).unwrap();
        for n in 1..=ways {
            assert!(passes(&mut all, key(3, n), 0));
        }
        let others = ways + 1..ways + 100;
        let passed = others.clone().filter(|n| passes(&mut all, key(3, *n), 0));
        assert_eq!(passed.count(), 6, "one bucket for all of them");
        // Those with a place keep theirs.
        assert!(passes(&mut all, key(3, 1), 0));
        // Full again, they are as if they had never been.
        let passed = others.filter(|n| passes(&mut all, key(3, *n), 120_000));
        assert!(passed.count() > 6);
    }

    proptest! {
        /// Whatever comes when: a key never gets more than its bucket and what came since, and a key that is alone gets all
        /// of that.
        #[test]
        fn as_a_bucket_that_is_counted_by_hand(
            max in 1_u32..20, per in 1_u32..20, interval in 1_u64..5000, cores in 1_u64..5,
            steps in prop::collection::vec(0_u64..3000, 1..60)
        ) {
            let bucket = TokenBucket { max_tokens: max, tokens_per_fill: per, fill_interval_ms: interval };
            let mut all = Buckets::new(&bucket, cores, true);
            // In tokens of a core, exactly: numerators over `interval * cores`.
            let whole = interval * cores;
            let full = (u64::from(max) * interval).max(whole);
            let (mut now, mut holds) = (0, full);
            for step in steps {
                now += step;
                holds = (holds + step * u64::from(per)).min(full);
                let passed = passes(&mut all, key(9, 9), now);
                prop_assert_eq!(passed, holds >= whole);
                if passed {
                    holds -= whole;
                }
                let wait = all.look(key(9, 9), now).err();
                if let Some(Empty { wait_ms }) = wait {
                    let after = |ms: u64| holds + ms * u64::from(per);
                    prop_assert!(after(wait_ms) >= whole && after(wait_ms - 1) < whole);
                }
            }
        }

        /// However many keys there are, no more pass at once than the places and the shared bucket hold.
        #[test]
        fn what_passes_is_bounded(keys in prop::collection::vec(any::<u64>(), 1..400)) {
            let one = TokenBucket { max_tokens: 1, ..MINUTE };
            let mut all = Buckets::new(&one, 1, true);
            let rows = 2_u128;
            let passed = keys.iter().filter(|k| passes(&mut all, key(u128::from(*k % 2), u128::from(**k) + 1), 5)).count();
            let most = usize::try_from(rows).unwrap() * limits::RATE_LIMIT_WAYS + 1;
            prop_assert!(passed <= most);
        }
    }
}
