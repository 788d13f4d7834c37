//! Sums the series of all cores and writes them as OpenMetrics text.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::mpsc;

use super::exposition::{Exposition, Sample, Totals, escape};
use super::labels::{Labels, Reporter};
use super::meters::{News, Series};
use super::outcome::Outcome;
use super::requests::RequestSeries;

/// What one set of labels has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    opened: u64,
    closed: u64,
    failed: u64,
    received: u64,
    sent: u64,
}

impl Sum {
    fn add(&mut self, series: &Series) {
        self.opened = self.opened.wrapping_add(series.opened.get());
        self.closed = self.closed.wrapping_add(series.closed.get());
        self.failed = self.failed.wrapping_add(series.failed.get());
        self.received = self.received.wrapping_add(series.traffic.received.get());
        self.sent = self.sent.wrapping_add(series.traffic.sent.get());
    }
}

impl Adds<Series> for Sum {
    fn add(&mut self, series: &Series) {
        Self::add(self, series);
    }
}

impl Adds<RequestSeries> for Totals {
    fn add(&mut self, series: &RequestSeries) {
        Self::add(self, series);
    }
}

/// What series of one kind add up to.
trait Adds<S>: Copy {
    fn add(&mut self, series: &S);
}

#[derive(Debug)]
struct Group<S, T> {
    live: Vec<Arc<S>>,
    /// Of series that their cores have forgotten, so that the sum never falls while another core still counts.
    gone: T,
}

impl<S, T: Default> Default for Group<S, T> {
    fn default() -> Self {
        Self {
            live: Vec::new(),
            gone: T::default(),
        }
    }
}

impl<S, T: Adds<S>> Group<S, T> {
    /// Forgets what no core counts any more; whether anything is left.
    fn refresh(&mut self) -> bool {
        let gone = &mut self.gone;
        // Only we hold it: its core has forgotten it, and nothing open counts in it.
        self.live.retain(|series| {
            let kept = Arc::strong_count(series) > 1;
            if !kept {
                gone.add(series);
            }
            kept
        });
        !self.live.is_empty()
    }

    fn sum(&self) -> T {
        let mut sum = self.gone;
        self.live.iter().for_each(|series| sum.add(series));
        sum
    }
}

/// All series of the process. Owned by the side that answers the scraper.
#[derive(Debug)]
pub struct Registry {
    news: mpsc::Receiver<News>,
    groups: BTreeMap<Labels, Group<Series, Sum>>,
    requests: BTreeMap<(Arc<Labels>, Outcome), Group<RequestSeries, Totals>>,
}

/// A gauge or counter of the process itself.
#[derive(Clone, Debug)]
pub struct Own {
    /// Name without suffix.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// Whether it only counts up.
    pub counts: bool,
    /// Label sets and values.
    pub values: Vec<(Pairs, u64)>,
}

impl Own {
    /// One value without labels.
    #[must_use]
    pub fn gauge(name: &'static str, help: &'static str, value: u64) -> Self {
        Self {
            name,
            help,
            counts: false,
            values: vec![(Vec::new(), value)],
        }
    }
}

impl Own {
    fn value(&self, value: u64, into: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        if self.counts {
            return ConstCounter::new(value).encode(into);
        }
        ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(into)
    }
}

impl Registry {
    /// Takes the series that cores announce on `news`.
    #[must_use]
    pub fn new(news: mpsc::Receiver<News>) -> Self {
        Self {
            news,
            groups: BTreeMap::new(),
            requests: BTreeMap::new(),
        }
    }

    /// Takes in what is new and forgets what no core counts any more.
    fn refresh(&mut self) {
        while let Ok(news) = self.news.try_recv() {
            match news {
                News::Connections(series) => {
                    let group = self.groups.entry(series.labels.clone()).or_default();
                    group.live.push(series);
                }
                News::Requests(series) => {
                    let labels = (Arc::clone(&series.labels), series.outcome);
                    self.requests.entry(labels).or_default().live.push(series);
                }
            }
        }
        self.groups.retain(|_labels, group| group.refresh());
        self.requests.retain(|_labels, group| group.refresh());
    }

    /// All metrics as OpenMetrics text: those of connections, `own`, those of requests.
    ///
    /// # Errors
    /// The encoder's.
    pub fn encode(&mut self, own: Vec<Own>) -> Result<Exposition, fmt::Error> {
        self.refresh();
        let sums = self.groups.iter();
        let sums = sums.map(|(labels, group)| (labels.pairs(), labels.reporter, group.sum()));
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(Tcp(sums.collect())));
        registry.register_collector(Box::new(Process(own)));
        let mut others = String::new();
        text::encode_registry(&mut others, &registry)?;
        let requests = self.requests.iter();
        let samples = requests.map(|((labels, outcome), group)| -> Sample {
            ((Arc::clone(labels), *outcome), group.sum())
        });
        Ok(Exposition::new(others, samples.collect()))
    }
}

/// `istio_tcp_*`.
#[derive(Debug)]
struct Tcp(Vec<(Pairs, Reporter, Sum)>);

/// Names and values of labels.
type Pairs = Vec<(&'static str, String)>;

/// The same as they stand between quotes: the encoder writes values as they are.
fn escaped(labels: &Pairs) -> Vec<(&'static str, Cow<'_, str>)> {
    let each = labels.iter();
    each.map(|(name, value)| (*name, escape(value))).collect()
}

type Read = fn(&Sum) -> u64;

impl Collector for Tcp {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let counters: [(&str, &str, Read); 5] = [
            (
                "istio_tcp_connections_opened",
                "The total number of TCP connections opened",
                |s| s.opened,
            ),
            (
                "istio_tcp_connections_closed",
                "The total number of TCP connections closed",
                |s| s.closed,
            ),
            (
                "istio_tcp_connections_failed",
                "The total number of TCP connections that never opened",
                |s| s.failed,
            ),
            (
                "istio_tcp_received_bytes",
                "The size of total bytes received in case of a TCP connection",
                |s| s.received,
            ),
            (
                "istio_tcp_sent_bytes",
                "The size of total bytes sent in case of a TCP connection",
                |s| s.sent,
            ),
        ];
        for (name, help, read) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, _reporter, sum) in &self.0 {
                let value = read(sum);
                if value > 0 {
                    let counter = ConstCounter::new(value);
                    counter.encode(family.encode_family(&escaped(labels))?)?;
                }
            }
        }
        let mut open: BTreeMap<Reporter, (u64, u64)> = BTreeMap::new();
        for (_labels, reporter, sum) in &self.0 {
            let (opened, closed) = open.entry(*reporter).or_default();
            *opened = opened.wrapping_add(sum.opened);
            *closed = closed.wrapping_add(sum.closed);
        }
        let mut family = encoder.encode_descriptor(
            "istio_tcp_sockets_open",
            "The number of TCP connections that are open",
            None,
            MetricType::Gauge,
        )?;
        for (reporter, (opened, closed)) in open {
            let now = i64::try_from(opened.saturating_sub(closed)).unwrap_or(i64::MAX);
            let labels = [("reporter", reporter.label())];
            ConstGauge::new(now).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Metrics of the process.
#[derive(Debug)]
struct Process(Vec<Own>);

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for own in &self.0 {
            let kind = if own.counts {
                MetricType::Counter
            } else {
                MetricType::Gauge
            };
            let mut family = encoder.encode_descriptor(own.name, own.help, None, kind)?;
            for (labels, value) in &own.values {
                if labels.is_empty() {
                    own.value(*value, family)?;
                    break;
                }
                own.value(*value, family.encode_family(&escaped(labels))?)?;
            }
        }
        Ok(())
    }
}
