//! Histograms that one core counts in: where a value goes takes a few comparisons, and what there is of it a few additions.

use crate::vocab::counter::Counter;

/// Upper bounds of durations in microseconds, each included: Envoy's default for histograms, which Istio's metrics have.
pub const DURATIONS_US: [u64; 19] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// Upper bounds of sizes in bytes, each included: powers of four from 256 to 64 Mi.
pub const SIZES: [u64; 10] = [
    1 << 8,
    1 << 10,
    1 << 12,
    1 << 14,
    1 << 16,
    1 << 18,
    1 << 20,
    1 << 22,
    1 << 24,
    1 << 26,
];

/// The bounds of durations in milliseconds, as OpenMetrics writes numbers.
pub const DURATION_BOUNDS_MS: [&str; DURATIONS_US.len()] = [
    "0.5", "1.0", "5.0", "10.0", "25.0", "50.0", "100.0", "250.0", "500.0", "1000.0", "2500.0",
    "5000.0", "10000.0", "30000.0", "60000.0", "300000.0", "600000.0", "1.8e+06", "3.6e+06",
];

/// The bounds of sizes in bytes, as OpenMetrics writes numbers.
pub const SIZE_BOUNDS: [&str; SIZES.len()] = [
    "256.0",
    "1024.0",
    "4096.0",
    "16384.0",
    "65536.0",
    "262144.0",
    "1.048576e+06",
    "4.194304e+06",
    "1.6777216e+07",
    "6.7108864e+07",
];

/// Buckets of a duration, with the one that has no bound.
pub const DURATION_BUCKETS: usize = DURATIONS_US.len() + 1;
/// Buckets of a size, with the one that has no bound.
pub const SIZE_BUCKETS: usize = SIZES.len() + 1;

/// How often a value was in each bucket, and the sum of all.
#[derive(Debug)]
pub struct Histogram<const BUCKETS: usize> {
    buckets: [Counter; BUCKETS],
    sum: Counter,
}

impl<const BUCKETS: usize> Default for Histogram<BUCKETS> {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| Counter::default()),
            sum: Counter::default(),
        }
    }
}

impl<const BUCKETS: usize> Histogram<BUCKETS> {
    fn count(&self, bucket: usize, value: u64) {
        if let Some(bucket) = self.buckets.get(bucket) {
            bucket.add(1);
        }
        self.sum.add(value);
    }

    /// Adds what was counted here.
    pub fn add_to(&self, total: &mut Total<BUCKETS>) {
        let all = total.buckets.iter_mut().zip(&self.buckets);
        all.for_each(|(total, bucket)| *total = total.wrapping_add(bucket.get()));
        total.sum = total.sum.wrapping_add(self.sum.get());
    }
}

impl Histogram<DURATION_BUCKETS> {
    /// Counts a duration in microseconds.
    pub fn duration(&self, us: u64) {
        self.count(DURATIONS_US.partition_point(|bound| *bound < us), us);
    }
}

impl Histogram<SIZE_BUCKETS> {
    /// Counts a size in bytes.
    pub fn size(&self, bytes: u64) {
        self.count(size_bucket(bytes), bytes);
    }
}

/// The first bucket whose bound is not below `bytes`.
fn size_bucket(bytes: u64) -> usize {
    // Each bound has two bits more than the one before.
    let bits = u64::BITS.saturating_sub(bytes.saturating_sub(1).leading_zeros());
    let bucket = bits.saturating_sub(7) / 2;
    (bucket as usize).min(SIZES.len())
}

/// The sum of histograms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Total<const BUCKETS: usize> {
    /// Of each bucket by itself.
    pub buckets: [u64; BUCKETS],
    /// Of all values.
    pub sum: u64,
}

impl<const BUCKETS: usize> Default for Total<BUCKETS> {
    fn default() -> Self {
        Self {
            buckets: [0; BUCKETS],
            sum: 0,
        }
    }
}

impl<const BUCKETS: usize> Total<BUCKETS> {
    /// How many values there were.
    #[must_use]
    pub fn counted(&self) -> u64 {
        let buckets = self.buckets.iter();
        buckets.fold(0, |sum, bucket| sum.wrapping_add(*bucket))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bucket of a value by the definition: the first whose bound is at least the value.
    fn by_definition(bounds: &[u64], value: u64) -> usize {
        let found = bounds.iter().position(|bound| value <= *bound);
        found.unwrap_or(bounds.len())
    }

    /// Bounds, what is just below and above each, and the ends.
    fn around(bounds: &[u64]) -> Vec<u64> {
        let near = bounds.iter().flat_map(|b| [b - 1, *b, b + 1, 2 * b]);
        near.chain([0, 1, 2, u64::MAX - 1, u64::MAX]).collect()
    }

    #[test]
    fn a_value_is_in_the_first_bucket_that_takes_it() {
        for us in around(&DURATIONS_US) {
            let histogram = Histogram::<DURATION_BUCKETS>::default();
            histogram.duration(us);
            let mut total = Total::default();
            histogram.add_to(&mut total);
            let mut want = [0; DURATION_BUCKETS];
            want[by_definition(&DURATIONS_US, us)] = 1;
            assert_eq!((total.buckets, total.sum), (want, us), "{us} us");
            assert_eq!(total.counted(), 1);
        }
        for bytes in around(&SIZES) {
            let want = by_definition(&SIZES, bytes);
            assert_eq!(size_bucket(bytes), want, "{bytes} bytes");
        }
    }

    #[test]
    #[expect(clippy::cast_precision_loss, reason = "they are small")]
    fn bounds_are_written_as_they_are() {
        let durations = DURATIONS_US.iter().map(|us| *us as f64 / 1000.0);
        let sizes = SIZES.iter().map(|bytes| *bytes as f64);
        let written = DURATION_BOUNDS_MS.iter().chain(&SIZE_BOUNDS);
        for (bound, text) in durations.chain(sizes).zip(written) {
            let read: f64 = text.parse().unwrap();
            assert!((read - bound).abs() < f64::EPSILON, "{text} is not {bound}");
        }
    }

    #[test]
    fn histograms_are_summed_by_bucket() {
        let (one, two) = (Histogram::default(), Histogram::default());
        [0, 256, 257].iter().for_each(|n| one.size(*n));
        [300, 1 << 30].iter().for_each(|n| two.size(*n));
        let mut total = Total::<SIZE_BUCKETS>::default();
        one.add_to(&mut total);
        two.add_to(&mut total);
        assert_eq!(total.buckets, [2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert_eq!(total.sum, 256 + 257 + 300 + (1 << 30));
        assert_eq!(total.counted(), 5);
    }
}
