//! `baggage` as Istio's data planes exchange it: who the workload at one end of a tunnel is, for telemetry.
//!
//! The peer says it of itself and nothing proves it, so no policy ever reads it. Values are as they stand, without
//! percent-encoding (ztunnel neither encodes nor decodes).

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::vocab::limits;

/// `baggage` (W3C Baggage).
pub const BAGGAGE: HeaderName = HeaderName::from_static("baggage");

/// What kind of workload the platform calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkloadKind {
    /// `k8s.deployment.name`
    Deployment,
    /// `k8s.cronjob.name`
    CronJob,
    /// `k8s.pod.name`
    Pod,
    /// `k8s.job.name`
    Job,
}

const KINDS: [(WorkloadKind, &str); 4] = [
    (WorkloadKind::Deployment, "k8s.deployment.name"),
    (WorkloadKind::CronJob, "k8s.cronjob.name"),
    (WorkloadKind::Pod, "k8s.pod.name"),
    (WorkloadKind::Job, "k8s.job.name"),
];

/// The members that Istio's data planes use; what is empty is not sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Baggage {
    /// `k8s.cluster.name`
    pub cluster: Option<Box<str>>,
    /// `k8s.namespace.name`
    pub namespace: Option<Box<str>>,
    /// Name of the workload and what kind it is.
    pub workload: Option<(WorkloadKind, Box<str>)>,
    /// `service.name`: the canonical service.
    pub service: Option<Box<str>>,
    /// `service.version`: its canonical revision.
    pub version: Option<Box<str>>,
    /// `cloud.region`
    pub region: Option<Box<str>>,
    /// `cloud.availability_zone`
    pub zone: Option<Box<str>>,
}

/// A value that stands in the list without being taken apart.
fn is_plain(value: &str) -> bool {
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b',' | b';' | b'=' | b'"' | b'\\');
    !value.is_empty() && value.len() <= limits::BAGGAGE_VALUE_BYTES && value.bytes().all(plain)
}

impl Baggage {
    /// The header field's value; `None` if there is nothing to say. Values that cannot stand in it are left out.
    #[must_use]
    pub fn to_value(&self) -> Option<HeaderValue> {
        let kind = |kind: WorkloadKind| KINDS.iter().find(|(k, _)| *k == kind).map(|(_, key)| *key);
        let workload = self.workload.as_ref();
        let members = [
            (Some("k8s.cluster.name"), self.cluster.as_deref()),
            (Some("k8s.namespace.name"), self.namespace.as_deref()),
            (
                workload.and_then(|w| kind(w.0)),
                workload.map(|w| w.1.as_ref()),
            ),
            (Some("service.name"), self.service.as_deref()),
            (Some("service.version"), self.version.as_deref()),
            (Some("cloud.region"), self.region.as_deref()),
            (Some("cloud.availability_zone"), self.zone.as_deref()),
        ];
        let written: Vec<String> = members
            .into_iter()
            .filter_map(|(key, value)| Some((key?, value.filter(|v| is_plain(v))?)))
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let text = written.join(",");
        HeaderValue::try_from(text).ok().filter(|v| !v.is_empty())
    }

    /// Reads what a peer says; unknown members, properties and values that are not plain are passed over. `None` if
    /// nothing is left.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let fields = headers.get_all(&BAGGAGE).iter();
        Self::read(fields.filter_map(|v| v.to_str().ok()))
    }

    /// Reads the values of the header fields.
    pub fn read<'a>(values: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut this = Self::default();
        let members = values.flat_map(|v| v.split(','));
        for member in members.take(limits::BAGGAGE_MEMBERS) {
            let member = member.split(';').next().unwrap_or_default();
            let Some((key, value)) = member.split_once('=') else {
                continue;
            };
            let value = value.trim();
            if is_plain(value) {
                this.put(key.trim(), value);
            }
        }
        (this != Self::default()).then_some(this)
    }

    fn put(&mut self, key: &str, value: &str) {
        let place = match key {
            "k8s.cluster.name" => &mut self.cluster,
            "k8s.namespace.name" => &mut self.namespace,
            "service.name" => &mut self.service,
            "service.version" => &mut self.version,
            "cloud.region" => &mut self.region,
            "cloud.availability_zone" => &mut self.zone,
            other => {
                if let Some((kind, _)) = KINDS.iter().find(|(_, key)| *key == other) {
                    self.workload = Some((*kind, value.into()));
                }
                return;
            }
        };
        *place = Some(value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[&str]) -> Option<Baggage> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(BAGGAGE, HeaderValue::from_str(field).unwrap());
        }
        Baggage::of(&headers)
    }

    #[test]
    fn writes_what_ztunnel_reads_and_reads_it() {
        let text = "k8s.cluster.name=c1,k8s.namespace.name=default,k8s.deployment.name=web,\
                    service.name=web,service.version=v1,cloud.region=r,cloud.availability_zone=z";
        let read_back = read(&[text]).unwrap();
        assert_eq!(read_back.to_value().unwrap(), text);
        assert_eq!(
            read_back.workload,
            Some((WorkloadKind::Deployment, "web".into()))
        );
        for key in ["cronjob", "pod", "job"] {
            let text = format!("k8s.{key}.name=x");
            assert_eq!(read(&[&text]).unwrap().to_value().unwrap(), text);
        }
    }

    #[test]
    fn passes_over_what_it_cannot_use() {
        let long = format!("service.name={}", "x".repeat(300));
        for nothing in [
            "",
            ",,,",
            "service.name",
            "service.name=",
            "other=x",
            "service.name=a b",
            &long,
        ] {
            assert_eq!(read(&[nothing]), None, "{nothing}");
        }
        let found = read(&[" service.name = a ;p=1, x=y", "service.version=2"]).unwrap();
        assert_eq!(found.service.as_deref(), Some("a"));
        assert_eq!(found.version.as_deref(), Some("2"));
        let many = vec!["a=b"; limits::BAGGAGE_MEMBERS].join(",");
        assert_eq!(read(&[&many, "service.name=late"]), None);
    }

    #[test]
    fn leaves_out_what_would_be_read_differently() {
        let with = |service: &str| Baggage {
            service: Some(service.into()),
            ..Baggage::default()
        };
        assert_eq!(with("a,k8s.namespace.name=b").to_value(), None);
        assert_eq!(with("").to_value(), None);
        assert_eq!(with("a\r\nb").to_value(), None);
        assert_eq!(with("a").to_value().unwrap(), "service.name=a");
    }
}
