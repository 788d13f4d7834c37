//! The table, as text and as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::case::{Case, Job, Metric, Sample};
use super::options::Options;
use super::peer::{Peer, Recorded};
use crate::samples::{Samples, Spread};

/// All samples of a bench.
#[derive(Debug, Default)]
pub(crate) struct Results {
    samples: Samples<Peer, Metric>,
    /// Answers and lost records, over all runs.
    records: BTreeMap<(Job, Peer), (u64, u64)>,
}

/// What a figure of ringgate has to be.
struct Goal {
    case: &'static str,
    metric: Metric,
    bound: f64,
    /// To whose figure in the same run `bound` is the ratio; `None`: it is the figure itself.
    of: Option<Peer>,
}

const fn part(case: &'static str, metric: Metric, bound: f64, of: Peer) -> Goal {
    Goal {
        case,
        metric,
        bound,
        of: Some(of),
    }
}

const fn at_most(case: &'static str, metric: Metric, bound: f64) -> Goal {
    Goal {
        case,
        metric,
        bound,
        of: None,
    }
}

const CPU: Metric = Metric::CpuPer100k;

const GOALS: [Goal; 21] = [
    part("w-h1", CPU, 0.2, Peer::Envoy),
    part("w-h1", CPU, 0.4, Peer::Haproxy),
    part("w-h1", CPU, 1.0, Peer::Nginx),
    part("w-h1-es256", CPU, 0.2, Peer::Envoy),
    part("w-h1-denied", CPU, 1.0 / 6.0, Peer::Envoy),
    part("w-h2", CPU, 0.25, Peer::Envoy),
    part("w-bulk", CPU, 0.5, Peer::Envoy),
    part("wh-h1", CPU, 0.25, Peer::Envoy),
    part("e-h1", CPU, 0.4, Peer::Envoy),
    part("e-h1-denied", CPU, 0.4, Peer::Envoy),
    part("i-h1", CPU, 0.2, Peer::Envoy),
    part("i-h2", CPU, 0.2, Peer::Envoy),
    part("i-bulk", CPU, 0.5, Peer::Envoy),
    at_most("w-handshake", Metric::CpuPerConnection, 0.4),
    at_most("idle", Metric::PerConnection, 10.0),
    at_most("idle", Metric::Resident, 12.0),
    at_most("start", Metric::Start, 15.0),
    at_most("start", Metric::Binary, 20.0),
    at_most("change", Metric::ChangeOpen, 10.0),
    at_most("change", Metric::ChangeNew, 10.0),
    part("change", Metric::ChangeOpen, 1.0, Peer::Envoy),
];

/// Whom the others are compared with, and the sign of that ratio.
pub(crate) const COMPARED: [(Peer, &str); 3] = [
    (Peer::Envoy, "×e"),
    (Peer::Haproxy, "×h"),
    (Peer::Nginx, "×n"),
];

/// Whose part a figure of ringgate has to be, and how large it may be.
pub(crate) fn parts(case: &str, metric: Metric) -> impl Iterator<Item = (Peer, f64)> {
    let of_case = GOALS
        .iter()
        .filter(move |goal| goal.case == case && goal.metric == metric);
    of_case.filter_map(|goal| Some((goal.of?, goal.bound)))
}

fn sign(peer: Peer) -> &'static str {
    let found = COMPARED.iter().find(|(to, _)| *to == peer);
    found.map_or("×", |(_, sign)| sign)
}

impl Results {
    /// Adds one sample.
    pub(crate) fn add(&mut self, case: &Case, peer: Peer, sample: Sample) {
        self.samples.add(case.name, peer, sample);
    }

    /// Adds what has become of records.
    pub(crate) fn recorded(&mut self, job: Job, peer: Peer, recorded: Recorded) {
        let (answers, lost) = self.records.entry((job, peer)).or_default();
        *answers += recorded.answers;
        *lost += recorded.lost;
    }

    /// A line for each peer that has lost records.
    fn lost(&self) -> String {
        let lossy = self.records.iter().filter(|(_, (_, lost))| *lost > 0);
        let lines = lossy.map(|((job, peer), (answers, lost))| {
            let (peer, job) = (peer.name(), job.name());
            format!("Records lost by {peer}, job {job}: {lost} of {answers}.\n")
        });
        lines.collect()
    }

    /// A figure over all runs.
    pub(crate) fn spread(&self, case: &'static str, peer: Peer, metric: Metric) -> Option<Spread> {
        self.samples.spread(case, peer, metric)
    }

    /// The whole table, in Markdown.
    pub(crate) fn table(&self, options: &Options) -> String {
        let mut text = String::new();
        for case in &options.cases {
            text.push_str(&self.case(case, options));
        }
        text.push_str(&self.goals());
        text.push('\n');
        text.push_str(&self.lost());
        text.push_str(&format!(
            "Median (lowest–highest) of {} interleaved runs of {} s; ×e, ×h and ×n: ringgate's median as a part of \
             Envoy's, HAProxy's and nginx's. CPU is that of the proxy alone, which has {} threads or workers; load, proxies \
             and upstream share {} cores. {} idle connections.\n",
            options.runs,
            options.seconds,
            options.cores,
            std::thread::available_parallelism().map_or(0, usize::from),
            options.idle,
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
        let Some(spread) = self.spread(case, peer, metric) else {
            return "–".to_owned();
        };
        let mut text = spread.text(metric.digits());
        if !matches!(peer, Peer::Ringgate | Peer::RinggateEpoll) || metric == Metric::Binary {
            return text;
        }
        for (to, sign) in COMPARED {
            if let Some(ratio) = self.samples.ratio(case, peer, to, metric) {
                text.push_str(&format!(" {ratio:.2}{sign}"));
            }
        }
        text
    }

    fn goals(&self) -> String {
        let mut text = String::new();
        for goal in &GOALS {
            let Goal {
                case,
                metric,
                bound,
                of,
            } = goal;
            let found = match of {
                Some(peer) => self.samples.ratio(case, Peer::Ringgate, *peer, *metric),
                None => {
                    let spread = self.spread(case, Peer::Ringgate, *metric);
                    spread.map(|spread| spread.median)
                }
            };
            let Some(found) = found else {
                continue;
            };
            let sign = of.map_or("", sign);
            let met = if found <= *bound { "yes" } else { "no" };
            text.push_str(&format!(
                "| {case} | {} | at most {bound:.2}{sign} | {found:.2}{sign} | {met} |\n",
                metric.heading(),
            ));
        }
        if text.is_empty() {
            return text;
        }
        format!("| case | figure | wanted | got | met |\n|---|---|---|---|---|\n{text}")
    }

    /// Every sample.
    pub(crate) fn json(&self, options: &Options) -> Value {
        json!({
            "seconds": options.seconds,
            "idle_connections": options.idle,
            "proxy_cores": options.cores,
            "cores": std::thread::available_parallelism().map_or(0, usize::from),
            "samples": self.samples.json(Peer::name, Metric::key),
            "records_lost": self.lost(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured() -> (Options, Results) {
        let words = ["--cases", "w-h1,idle", "--peers", "ringgate,envoy,nginx"];
        let options = Options::parse(&words).expect("valid");
        let mut results = Results::default();
        let [idle, w] = options.cases.as_slice() else {
            panic!("two cases");
        };
        for (peer, values) in [
            (Peer::Ringgate, [2.0, 20.0, 1.0]),
            (Peer::Envoy, [10.0, 11.0, 9.0]),
            (Peer::Nginx, [4.0, 4.0, 4.0]),
        ] {
            for value in values {
                results.add(w, peer, vec![(CPU, value)]);
            }
        }
        results.add(idle, Peer::Ringgate, vec![(Metric::Resident, 13.0)]);
        (options, results)
    }

    #[test]
    fn ratios_are_of_medians() {
        let (options, mut results) = measured();
        let table = results.table(&options);
        for line in [
            "| ringgate | 2.00 (1.00–20.00) 0.20×e 0.50×n |",
            "| envoy | 10.00 (9.00–11.00) |",
            "| w-h1 | CPU s/100k | at most 0.20×e | 0.20×e | yes |",
            "| idle | RSS MB | at most 12.00 | 13.00 | no |",
        ] {
            assert!(table.contains(line), "{line}\n{table}");
        }
        assert!(!table.contains("×h |"), "{table}");
        assert!(!table.contains("lost"), "{table}");
        let recorded = |answers, lost| Recorded { answers, lost };
        for lost in [0, 7] {
            results.recorded(Job::Waypoint, Peer::Ringgate, recorded(100, lost));
        }
        let table = results.table(&options);
        let line = "Records lost by ringgate, job w: 7 of 200.";
        assert!(table.contains(line), "{table}");
        let json = results.json(&options);
        let samples = json.get("samples").and_then(Value::as_array);
        assert_eq!(samples.map(Vec::len), Some(4));
    }

    #[test]
    fn goals_are_of_cases_that_exist() {
        for goal in &GOALS {
            let found = super::super::case::ALL
                .iter()
                .find(|case| case.name == goal.case);
            let peer = goal.of.unwrap_or(Peer::Ringgate);
            assert!(found.is_some_and(|case| case.holds(peer)), "{}", goal.case);
        }
    }
}
