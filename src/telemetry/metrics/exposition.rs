//! Metrics of requests as OpenMetrics text, piece by piece: a series has some fifty lines, so that the text of many is larger
//! than what they are counted in.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use super::histogram::{DURATION_BOUNDS_MS, DURATION_BUCKETS, SIZE_BOUNDS, SIZE_BUCKETS, Total};
use super::labels::Labels;
use super::outcome::Outcome;
use super::requests::RequestSeries;

/// A piece is complete once it is so long.
const PIECE_BYTES: usize = 64 << 10;

/// What the cores have counted for one set of labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Totals {
    durations: Total<DURATION_BUCKETS>,
    received: Total<SIZE_BUCKETS>,
    sent: Total<SIZE_BUCKETS>,
}

impl Totals {
    pub(super) fn add(&mut self, series: &RequestSeries) {
        series.durations.add_to(&mut self.durations);
        series.received.add_to(&mut self.received);
        series.sent.add_to(&mut self.sent);
    }
}

/// One set of labels, with what was counted for it.
pub(super) type Sample = ((Arc<Labels>, Outcome), Totals);

/// The metrics, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Requests,
    Durations,
    Received,
    Sent,
}

impl Family {
    const fn next(self) -> Option<Self> {
        match self {
            Self::Requests => Some(Self::Durations),
            Self::Durations => Some(Self::Received),
            Self::Received => Some(Self::Sent),
            Self::Sent => None,
        }
    }

    /// Name without suffix, type, and what it says.
    const fn head(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Requests => (
                "istio_requests",
                "counter",
                "The total number of requests that have ended",
            ),
            Self::Durations => (
                "istio_request_duration_milliseconds",
                "histogram",
                "From the head of a request to the end of its answer",
            ),
            Self::Received => (
                "istio_request_bytes",
                "histogram",
                "The size of the bodies of requests",
            ),
            Self::Sent => (
                "istio_response_bytes",
                "histogram",
                "The size of the bodies of answers",
            ),
        }
    }
}

/// The text of all metrics, in pieces.
#[derive(Debug)]
pub struct Exposition {
    /// Of all but requests.
    others: Option<String>,
    samples: Vec<Sample>,
    /// What comes next.
    at: Option<(Family, usize)>,
    is_over: bool,
}

impl Exposition {
    pub(super) fn new(others: String, samples: Vec<Sample>) -> Self {
        Self {
            others: Some(others),
            samples,
            at: Some((Family::Requests, 0)),
            is_over: false,
        }
    }
}

impl Iterator for Exposition {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        if self.is_over {
            return None;
        }
        let mut out = self.others.take().unwrap_or_default();
        while let Some((family, at)) = self.at {
            if out.len() >= PIECE_BYTES {
                return Some(out);
            }
            let (name, kind, help) = family.head();
            if at == 0 {
                // To a String nothing fails.
                let _ok = write!(out, "# HELP {name} {help}.\n# TYPE {name} {kind}\n");
            }
            self.at = match self.samples.get(at) {
                Some(((labels, outcome), totals)) => {
                    put(&mut out, family, &rendered(labels, *outcome), totals);
                    Some((family, at.saturating_add(1)))
                }
                None => family.next().map(|family| (family, 0)),
            };
        }
        self.is_over = true;
        out.push_str("# EOF\n");
        Some(out)
    }
}

fn put(out: &mut String, family: Family, labels: &str, totals: &Totals) {
    let (name, ..) = family.head();
    match family {
        Family::Requests => {
            let count = totals.durations.counted();
            let _ok = writeln!(out, "{name}_total{{{labels}}} {count}");
        }
        Family::Durations => {
            let (ms, us) = (totals.durations.sum / 1000, totals.durations.sum % 1000);
            let sum = format_args!("{ms}.{us:03}").to_string();
            let buckets = (&totals.durations.buckets, &DURATION_BOUNDS_MS);
            histogram(out, (name, labels), buckets, &sum);
        }
        Family::Received => sizes(out, (name, labels), &totals.received),
        Family::Sent => sizes(out, (name, labels), &totals.sent),
    }
}

fn sizes(out: &mut String, what: (&str, &str), total: &Total<SIZE_BUCKETS>) {
    let buckets = (&total.buckets, &SIZE_BOUNDS);
    histogram(out, what, buckets, &total.sum.to_string());
}

fn histogram<const BUCKETS: usize, const BOUNDS: usize>(
    out: &mut String,
    (name, labels): (&str, &str),
    (buckets, bounds): (&[u64; BUCKETS], &[&str; BOUNDS]),
    sum: &str,
) {
    let mut count = 0_u64;
    let bounds = bounds.iter().copied().chain(std::iter::once("+Inf"));
    for (bucket, bound) in buckets.iter().zip(bounds) {
        count = count.wrapping_add(*bucket);
        let _ok = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
    }
    let _ok = writeln!(
        out,
        "{name}_count{{{labels}}} {count}\n{name}_sum{{{labels}}} {sum}"
    );
}

/// Labels as they stand between braces.
fn rendered(labels: &Labels, outcome: Outcome) -> String {
    let mut out = String::with_capacity(1024);
    for (at, (name, value)) in labels.pairs_of(outcome).into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        out.push_str(name);
        out.push_str("=\"");
        out.push_str(&escape(&value));
        out.push('"');
    }
    out
}

/// The value of a label as it stands between quotes (OpenMetrics, "ABNF": `escaped-string`).
pub(super) fn escape(value: &str) -> Cow<'_, str> {
    if !value.contains(['\\', '"', '\n']) {
        return Cow::Borrowed(value);
    }
    let mut out = String::with_capacity(value.len().saturating_add(8));
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
    Cow::Owned(out)
}
