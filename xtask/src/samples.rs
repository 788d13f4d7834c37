//! What a bench has measured: figures of peers in cases, over several runs.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::{Value, json};

/// The figures of one sample.
pub(crate) type Sample<M> = Vec<(M, f64)>;

/// Samples by case and peer.
#[derive(Debug)]
pub(crate) struct Samples<P, M>(BTreeMap<(&'static str, P), Vec<Sample<M>>>);

impl<P, M> Default for Samples<P, M> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// Median, lowest and highest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    /// Median.
    pub(crate) median: f64,
    /// Lowest.
    pub(crate) low: f64,
    /// Highest.
    pub(crate) high: f64,
}

impl Spread {
    /// `None` of nothing.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        Some(Self {
            median: *values.get(values.len() / 2)?,
            low: *values.first()?,
            high: *values.last()?,
        })
    }

    /// `median (lowest–highest)`.
    pub(crate) fn text(self, digits: usize) -> String {
        let Self { median, low, high } = self;
        format!("{median:.digits$} ({low:.digits$}–{high:.digits$})")
    }
}

impl<P: Copy + Ord, M: Copy + PartialEq> Samples<P, M> {
    /// Adds one sample.
    pub(crate) fn add(&mut self, case: &'static str, peer: P, sample: Sample<M>) {
        self.0.entry((case, peer)).or_default().push(sample);
    }

    /// A figure over all runs.
    pub(crate) fn spread(&self, case: &'static str, peer: P, metric: M) -> Option<Spread> {
        let samples = self.0.get(&(case, peer))?;
        let of = |sample: &Sample<M>| {
            let found = sample.iter().find(|(name, _)| *name == metric);
            found.map(|(_, value)| *value)
        };
        Spread::of(samples.iter().filter_map(of).collect())
    }

    /// Of the medians of two peers.
    pub(crate) fn ratio(&self, case: &'static str, peer: P, to: P, metric: M) -> Option<f64> {
        let median = |peer| self.spread(case, peer, metric).map(|spread| spread.median);
        Some(median(peer)? / median(to)?)
    }

    /// The figures of a case, in the order in which they were added.
    fn metrics(&self, case: &'static str, peers: &[P]) -> Vec<M> {
        let mut metrics = Vec::new();
        for peer in peers {
            let samples = self.0.get(&(case, *peer)).into_iter().flatten();
            for (metric, _) in samples.flatten() {
                if !metrics.contains(metric) {
                    metrics.push(*metric);
                }
            }
        }
        metrics
    }

    /// A case in Markdown: a row for each peer, a column for each figure, whose text `cell` makes.
    pub(crate) fn table(
        &self,
        case: &'static str,
        peers: &[P],
        name: fn(P) -> &'static str,
        heading: fn(M) -> &'static str,
        cell: impl Fn(P, M) -> String,
    ) -> String {
        let metrics = self.metrics(case, peers);
        let mut text = "| |".to_owned();
        for metric in &metrics {
            text.push_str(&format!(" {} |", heading(*metric)));
        }
        text.push_str(&format!("\n|---|{}\n", "---|".repeat(metrics.len())));
        for peer in peers {
            text.push_str(&format!("| {} |", name(*peer)));
            for metric in &metrics {
                text.push_str(&format!(" {} |", cell(*peer, *metric)));
            }
            text.push('\n');
        }
        text.push('\n');
        text
    }

    /// Every sample.
    pub(crate) fn json(
        &self,
        name: fn(P) -> &'static str,
        key: fn(M) -> &'static str,
    ) -> Vec<Value> {
        let one = |((case, peer), samples): (&(&str, P), &Vec<Sample<M>>)| {
            let runs = samples.iter().map(|sample| {
                let figures = sample.iter().map(|(metric, value)| (key(*metric), *value));
                figures.collect::<BTreeMap<_, _>>()
            });
            json!({"case": case, "peer": name(*peer), "runs": runs.collect::<Vec<_>>()})
        };
        self.0.iter().map(one).collect()
    }
}

/// Those of `all` that one of `names`, joined by commas, means by `means`, in their own order.
///
/// # Errors
/// A name that means none.
pub(crate) fn chosen<T: Copy>(
    kind: &str,
    names: &str,
    all: &[T],
    name: fn(&T) -> &'static str,
    means: fn(&str, &str) -> bool,
) -> Result<Vec<T>> {
    let names: Vec<&str> = names.split(',').collect();
    let meant = |asked: &&str| all.iter().any(|one| means(asked, name(one)));
    if let Some(unknown) = names.iter().find(|asked| !meant(asked)) {
        let all: Vec<_> = all.iter().map(name).collect();
        bail!("no {kind} `{unknown}`: {}", all.join(", "));
    }
    let wanted = |one: &&T| names.iter().any(|asked| means(asked, name(one)));
    Ok(all.iter().filter(wanted).copied().collect())
}

/// Exact below 2^53, far above any count here.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of one bench run are far below 2^53"
)]
pub(crate) fn number(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let spread = Spread::of(vec![3.0, 1.0, 20.0]).expect("of something");
        assert_eq!(spread.text(1), "3.0 (1.0–20.0)");
        assert_eq!(Spread::of(Vec::new()), None);
    }

    #[test]
    fn what_is_chosen_keeps_its_order() {
        let all = ["one", "two", "three"];
        let choose = |names| {
            chosen(
                "word",
                names,
                &all,
                |word| word,
                |asked, word| asked == word,
            )
        };
        assert_eq!(choose("three,one").expect("known"), ["one", "three"]);
        let error = choose("one,four").expect_err("unknown").to_string();
        assert_eq!(error, "no word `four`: one, two, three");
    }
}
