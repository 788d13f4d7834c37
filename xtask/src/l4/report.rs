//! The table, as text and as JSON.

use serde_json::{Value, json};

use super::case::{Case, Metric, Sample};
use super::options::Options;
use super::peer::Peer;
use crate::samples::Samples;

/// All samples of a bench.
#[derive(Debug, Default)]
pub(crate) struct Results {
    samples: Samples<Peer, Metric>,
    /// Lines about the decision with many policies.
    pub(crate) decision: Vec<String>,
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
        self.samples.add(case.name, peer, sample);
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
        let mut peers = options.peers.clone();
        peers.retain(|peer| case.holds(*peer));
        let cell = |peer, metric| self.cell(case.name, peer, metric);
        let table = self
            .samples
            .table(case.name, &peers, Peer::name, Metric::heading, cell);
        format!("**{}** (`{}`)\n\n{table}", case.about, case.name)
    }

    fn cell(&self, case: &'static str, peer: Peer, metric: Metric) -> String {
        let Some(spread) = self.samples.spread(case, peer, metric) else {
            return "–".to_owned();
        };
        let mut text = spread.text(metric.digits());
        for (to, sign) in [(Peer::Ztunnel, "×z"), (Peer::Direct, "×d")] {
            let ratio = self.samples.ratio(case, peer, to, metric);
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
                let ratio = self
                    .samples
                    .ratio(goal.case, Peer::Ringgate, to, goal.metric);
                (ratio, "×z")
            } else {
                let spread = self.samples.spread(goal.case, Peer::Ringgate, goal.metric);
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
        json!({
            "seconds": options.seconds,
            "idle_connections": options.idle,
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "samples": self.samples.json(Peer::name, Metric::key),
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
