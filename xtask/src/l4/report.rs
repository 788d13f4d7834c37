//! The table, as text and as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::case::{Case, Metric, Sample};
use super::options::Options;
use super::peer::Peer;

/// All samples of a bench.
#[derive(Debug, Default)]
pub(crate) struct Results {
    samples: BTreeMap<(&'static str, Peer), Vec<Sample>>,
    /// Lines about the decision with many policies.
    pub(crate) decision: Vec<String>,
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

/// What a figure of ringgate has to be.
struct Goal {
    case: &'static str,
    metric: Metric,
    at_most: bool,
    bound: f64,
    /// Whether the bound is a ratio to ztunnel's figure in the same run.
    of_ztunnel: bool,
}

const fn at_most(case: &'static str, metric: Metric, bound: f64) -> Goal {
    Goal {
        case,
        metric,
        at_most: true,
        bound,
        of_ztunnel: true,
    }
}

const fn at_least(case: &'static str, metric: Metric, bound: f64) -> Goal {
    Goal {
        case,
        metric,
        at_most: false,
        bound,
        of_ztunnel: true,
    }
}

const fn itself(goal: Goal) -> Goal {
    Goal {
        of_ztunnel: false,
        ..goal
    }
}

const GOALS: [Goal; 17] = [
    at_most("bulk-up-1", Metric::CpuPerGb, 0.80),
    at_most("bulk-down-1", Metric::CpuPerGb, 0.80),
    at_most("bulk-up-8", Metric::CpuPerGb, 0.72),
    at_most("bulk-down-8", Metric::CpuPerGb, 0.72),
    at_least("bulk-up-8", Metric::Gbits, 1.4),
    at_least("bulk-down-8", Metric::Gbits, 1.4),
    at_most("connect-8", Metric::CpuPerOp, 0.45),
    at_most("rr-32", Metric::CpuPerOp, 0.70),
    at_most("rr-32", Metric::P99, 0.8),
    at_most("rr-1", Metric::P50, 0.75),
    at_most("http-32", Metric::CpuPerOp, 0.65),
    at_most("idle", Metric::HeldClient, 1.0),
    at_most("idle", Metric::HeldServer, 1.0),
    at_most("idle", Metric::IdleClient, 1.0),
    at_most("idle", Metric::IdleServer, 1.0),
    itself(at_most("idle", Metric::IdleClient, 12.0)),
    itself(at_most("idle", Metric::IdleServer, 12.0)),
];

impl Results {
    /// Adds one sample.
    pub(crate) fn add(&mut self, case: &Case, peer: Peer, sample: Sample) {
        self.samples
            .entry((case.name, peer))
            .or_default()
            .push(sample);
    }

    fn spread(&self, case: &'static str, peer: Peer, metric: Metric) -> Option<Spread> {
        let samples = self.samples.get(&(case, peer))?;
        let of = |sample: &Sample| {
            let found = sample.iter().find(|(name, _)| *name == metric);
            found.map(|(_, value)| *value)
        };
        Spread::of(samples.iter().filter_map(of).collect())
    }

    fn ratio(&self, case: &'static str, peer: Peer, to: Peer, metric: Metric) -> Option<f64> {
        let median = |peer| self.spread(case, peer, metric).map(|spread| spread.median);
        Some(median(peer)? / median(to)?)
    }

    /// The figures of a case, in the order in which they were added.
    fn metrics(&self, case: &'static str, peers: &[Peer]) -> Vec<Metric> {
        let mut metrics = Vec::new();
        for peer in peers {
            let samples = self.samples.get(&(case, *peer)).into_iter().flatten();
            for (metric, _) in samples.flatten() {
                if !metrics.contains(metric) {
                    metrics.push(*metric);
                }
            }
        }
        metrics
    }

    /// The whole table, in Markdown.
    pub(crate) fn table(&self, options: &Options) -> String {
        let mut text = String::new();
        for case in &options.cases {
            text.push_str(&self.case(case, options));
        }
        for line in &self.decision {
            text.push_str(&format!("{line}\n"));
        }
        text.push_str(&self.goals());
        text.push_str(&format!(
            "\nMedian (lowest–highest) of {} interleaved runs of {} s; ×z and ×d: ratio of the medians to ztunnel and to \
             direct. CPU is that of all proxies on the way. Load, apps and proxies share {} cores.\n",
            options.runs,
            options.seconds,
            std::thread::available_parallelism().map_or(0, usize::from),
        ));
        text
    }

    fn case(&self, case: &Case, options: &Options) -> String {
        let metrics = self.metrics(case.name, &options.peers);
        let mut text = format!("**{}** (`{}`)\n\n| |", case.about, case.name);
        for metric in &metrics {
            text.push_str(&format!(" {} |", metric.heading()));
        }
        text.push_str(&format!("\n|---|{}\n", "---|".repeat(metrics.len())));
        for peer in options.peers.iter().filter(|peer| case.holds(**peer)) {
            text.push_str(&format!("| {} |", peer.name()));
            for metric in &metrics {
                text.push_str(&format!(" {} |", self.cell(case.name, *peer, *metric)));
            }
            text.push('\n');
        }
        text.push('\n');
        text
    }

    fn cell(&self, case: &'static str, peer: Peer, metric: Metric) -> String {
        let Some(spread) = self.spread(case, peer, metric) else {
            return "–".to_owned();
        };
        let mut text = spread.text(metric.digits());
        for (to, sign) in [(Peer::Ztunnel, "×z"), (Peer::Direct, "×d")] {
            let ratio = self.ratio(case, peer, to, metric);
            if let Some(ratio) = ratio.filter(|_| peer != to && metric.compares()) {
                text.push_str(&format!(" {ratio:.2}{sign}"));
            }
        }
        text
    }

    fn goals(&self) -> String {
        let mut text = String::new();
        for goal in &GOALS {
            let (found, whose) = if goal.of_ztunnel {
                let to = Peer::Ztunnel;
                let ratio = self.ratio(goal.case, Peer::Ringgate, to, goal.metric);
                (ratio, "×z")
            } else {
                let spread = self.spread(goal.case, Peer::Ringgate, goal.metric);
                (spread.map(|spread| spread.median), "")
            };
            let Some(found) = found else {
                continue;
            };
            let (word, met) = if goal.at_most {
                ("at most", found <= goal.bound)
            } else {
                ("at least", found >= goal.bound)
            };
            text.push_str(&format!(
                "| {} | {} | {word} {:.2}{whose} | {found:.2}{whose} | {} |\n",
                goal.case,
                goal.metric.heading(),
                goal.bound,
                if met { "yes" } else { "no" }
            ));
        }
        if text.is_empty() {
            return text;
        }
        format!("\n| case | figure | wanted | got | met |\n|---|---|---|---|---|\n{text}")
    }

    /// Every sample.
    pub(crate) fn json(&self, options: &Options) -> Value {
        let samples: Vec<Value> = self
            .samples
            .iter()
            .map(|((case, peer), samples)| {
                let runs: Vec<BTreeMap<_, _>> = samples
                    .iter()
                    .map(|sample| sample.iter().map(|(m, v)| (m.key(), *v)).collect())
                    .collect();
                json!({"case": case, "peer": peer.name(), "runs": runs})
            })
            .collect();
        json!({
            "seconds": options.seconds,
            "idle_connections": options.idle,
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "samples": samples,
            "decision": self.decision,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_medians() {
        let options = Options::parse(&[
            "--cases",
            "rr-32,connect-8",
            "--peers",
            "direct,ringgate,ztunnel",
        ])
        .expect("valid");
        let mut results = Results::default();
        let [rr, connect] = options.cases.as_slice() else {
            panic!("two cases");
        };
        for (peer, values) in [
            (Peer::Direct, [2.0, 4.0, 3.0]),
            (Peer::Ringgate, [6.0, 60.0, 5.0]),
            (Peer::Ztunnel, [8.0, 9.0, 7.0]),
        ] {
            for value in values {
                results.add(rr, peer, vec![(Metric::CpuPerOp, value)]);
            }
        }
        results.add(connect, Peer::Ringgate, vec![(Metric::CpuPerOp, 5.0)]);
        results.add(connect, Peer::Ztunnel, vec![(Metric::CpuPerOp, 10.0)]);
        let table = results.table(&options);
        assert!(
            table.contains("| ringgate | 6.0 (5.0–60.0) 0.75×z 2.00×d |"),
            "{table}"
        );
        assert!(
            table.contains("| direct | 3.0 (2.0–4.0) 0.38×z |"),
            "{table}"
        );
        assert!(
            table.contains("| rr-32 | CPU µs/op | at most 0.70×z | 0.75×z | no |"),
            "{table}"
        );
        assert!(
            table.contains("| connect-8 | CPU µs/op | at most 0.45×z | 0.50×z | no |"),
            "{table}"
        );
        let json = results.json(&options);
        assert_eq!(
            json.get("samples").and_then(Value::as_array).map(Vec::len),
            Some(5)
        );
    }
}
