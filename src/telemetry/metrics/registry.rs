//! Sums the series of all cores and writes them as OpenMetrics text.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use tokio::sync::mpsc;

use super::labels::{Labels, Reporter};
use super::meters::Series;

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

#[derive(Debug, Default)]
struct Group {
    live: Vec<Arc<Series>>,
    /// Of series that their cores have forgotten, so that the sum never falls while another core still counts.
    gone: Sum,
}

/// All series of the process. Owned by the side that answers the scraper.
#[derive(Debug)]
pub struct Registry {
    news: mpsc::Receiver<Arc<Series>>,
    groups: BTreeMap<Labels, Group>,
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
    pub fn new(news: mpsc::Receiver<Arc<Series>>) -> Self {
        Self {
            news,
            groups: BTreeMap::new(),
        }
    }

    /// Takes in what is new and forgets what no core counts any more.
    fn refresh(&mut self) {
        while let Ok(series) = self.news.try_recv() {
            let group = self.groups.entry(series.labels.clone()).or_default();
            group.live.push(series);
        }
        self.groups.retain(|_labels, group| {
            let gone = &mut group.gone;
            // Only we hold it: its core has forgotten it, and nothing open counts in it.
            group.live.retain(|series| {
                let kept = Arc::strong_count(series) > 1;
                if !kept {
                    gone.add(series);
                }
                kept
            });
            !group.live.is_empty()
        });
    }

    /// All metrics as OpenMetrics text, `own` after those of connections.
    ///
    /// # Errors
    /// The encoder's.
    pub fn encode(&mut self, own: Vec<Own>) -> Result<String, fmt::Error> {
        self.refresh();
        let sums = self.groups.iter().map(|(labels, group)| {
            let mut sum = group.gone;
            group.live.iter().for_each(|series| sum.add(series));
            (labels.pairs(), labels.reporter, sum)
        });
        let mut registry = prometheus_client::registry::Registry::default();
        registry.register_collector(Box::new(Tcp(sums.collect())));
        registry.register_collector(Box::new(Process(own)));
        let mut out = String::new();
        text::encode(&mut out, &registry)?;
        Ok(out)
    }
}

/// `istio_tcp_*`.
#[derive(Debug)]
struct Tcp(Vec<(Pairs, Reporter, Sum)>);

/// Names and values of labels.
type Pairs = Vec<(&'static str, String)>;

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
                    counter.encode(family.encode_family(labels)?)?;
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
                own.value(*value, family.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}
