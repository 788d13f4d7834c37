//! Which certificate of a listener a server name gets (RFC 6066 section 3), and whether a request came to that one.

use std::sync::Arc;

use rustls::ServerConfig;

use crate::config::checked::serving::{IngressListener, ListenerCertificate, UnknownServerName};
use crate::control::serving::Served;
use crate::vocab::hosts::Hosts;

/// Which certificate stands for which names: place in the order of the listener.
#[derive(Debug, Default)]
pub(super) struct Names(Hosts<usize>);

impl Names {
    /// By the `hostnames` of each, and for those without by the names of their certificates, which come behind. What two
    /// certificates are for, the first gets.
    pub(super) fn new<'c>(listener: &IngressListener, own: impl Fn(usize) -> &'c [String]) -> Self {
        let mut hosts = Hosts::default();
        for (nth, one) in listener.certificates.iter().enumerate() {
            for name in one.hostnames.iter().flatten() {
                hosts.get_or_insert(name, nth);
            }
        }
        for (nth, one) in listener.certificates.iter().enumerate() {
            for name in own(nth).iter().filter(|_| one.hostnames.is_none()) {
                hosts.get_or_insert(name, nth);
            }
        }
        Self(hosts)
    }

    /// The certificate for a host, in lower case and without a dot at its end.
    pub(super) fn find(&self, host: &str) -> Option<usize> {
        self.0.matching(host).next()
    }

    /// The certificate that stands for a pattern itself.
    pub(super) fn of_pattern(&self, pattern: &str) -> Option<usize> {
        self.0.of_pattern(pattern)
    }
}

/// The certificate that a connection got, of a listener that has others. It holds neither that nor its key.
#[derive(Clone, Debug)]
pub struct Shown {
    names: Arc<Names>,
    nth: usize,
}

impl Shown {
    /// Whether a request for `host` belongs on another connection: another certificate is for that host (RFC 9110 section
    /// 15.5.20). A host that none is for may be asked for on any.
    #[must_use]
    pub fn misdirects(&self, host: &str) -> bool {
        self.names.find(host).is_some_and(|nth| nth != self.nth)
    }
}

/// What a listener serves.
#[derive(Debug)]
pub struct Listener {
    certificates: Vec<Arc<Served>>,
    /// What each of them is served for.
    served: Vec<Vec<String>>,
    names: Arc<Names>,
    unknown: UnknownServerName,
}

impl Listener {
    pub(super) fn new(listener: &IngressListener, certificates: Vec<Arc<Served>>) -> Self {
        let own = |nth: usize| -> &[String] {
            let served = certificates.get(nth);
            served.map_or(&[], |served| &served.own_names)
        };
        let names = Arc::new(Names::new(listener, own));
        let served = |(nth, one): (usize, &ListenerCertificate)| {
            let all = one.hostnames.as_deref().unwrap_or_else(|| own(nth)).iter();
            let gets = |name: &&String| names.of_pattern(name) == Some(nth);
            all.filter(gets).cloned().collect()
        };
        let certificates_of = listener.certificates.iter().enumerate();
        Self {
            served: certificates_of.map(served).collect(),
            names,
            unknown: listener.unknown,
            certificates,
        }
    }

    pub(super) fn certificates(&self) -> &[Arc<Served>] {
        &self.certificates
    }

    /// Each certificate with the names that it is served for, and whether those get it that no certificate is for.
    pub fn served(&self) -> impl Iterator<Item = (&Served, &[String], bool)> {
        let all = self.certificates.iter().zip(&self.served).enumerate();
        let serves_first = self.unknown == UnknownServerName::ServeFirst;
        all.map(move |(nth, (one, names))| {
            (one.as_ref(), names.as_slice(), serves_first && nth == 0)
        })
    }

    /// What a client gets that asks for `name`, in lower case and without a dot at its end; `None`: an alert. What it got is
    /// to be remembered where there is anything else.
    #[must_use]
    pub fn choose(&self, name: Option<&str>) -> Option<(Arc<ServerConfig>, Option<Shown>)> {
        let known = name.and_then(|name| self.names.find(name));
        let nth = match (known, self.unknown) {
            (Some(nth), _) => nth,
            (None, UnknownServerName::ServeFirst) => 0,
            (None, UnknownServerName::Refuse) => return None,
        };
        let served = self.certificates.get(nth)?;
        let shown = (self.certificates.len() > 1).then(|| Shown {
            names: Arc::clone(&self.names),
            nth,
        });
        Some((Arc::clone(&served.config), shown))
    }
}
