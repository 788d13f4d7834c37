//! What `ringgate check` says of the certificates that a process would serve.

use std::collections::BTreeSet;

use rustls::pki_types::{CertificateDer, UnixTime};

use super::choice::Names;
use super::{chain, read, subject};
use crate::config::Problem;
use crate::config::checked::route::RouteParent;
use crate::config::checked::serving::{Ingress, IngressListener, UnknownServerName};
use crate::config::checked::{Config, NamedHost, Subject};
use crate::control::named_file::FileProblem;
use crate::identity::leaf::validity;
use crate::identity::names::{covers, dns_names};
use crate::vocab::resource::ResourceName;

/// A certificate with less than this of its life left will soon expire, in seconds: 14 days.
const SOON_S: u64 = 14 * 86_400;
/// One that lives for a short time only is near its end in the last fifth of it.
const LAST_PART: u64 = 5;

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// Every problem of the files.
    pub problems: Vec<FileProblem>,
    /// What is to be said of those that can be used.
    pub remarks: Vec<(Subject, String)>,
    /// Hosts of routes that no certificate is for.
    pub hosts: Vec<Problem>,
}

/// Looks at every file that a process serves, at `now`.
#[must_use]
pub fn inspect(config: &Config, now: UnixTime) -> Found {
    let mut found = Found::default();
    for ingress in &config.process.ingresses {
        let mut listeners = Vec::new();
        for listener in &ingress.listeners {
            let looked = look(&ingress.gateway, listener, now, &mut found);
            listeners.extend(looked);
        }
        // Of what cannot be read nothing is known.
        if listeners.len() == ingress.listeners.len() {
            let uncovered = hosts(config, ingress)
                .filter(|named| !listeners.iter().any(|l| l.covers(&named.host)));
            found.hosts.extend(uncovered.map(|named| Problem {
                message: format!(
                    "no certificate at the listeners of `{}` is for `{}`: clients refuse what they are shown",
                    ingress.gateway, named.host
                ),
                ..named.place.clone()
            }));
        }
    }
    found
}

/// Hosts of the routes of an ingress.
fn hosts<'c>(config: &'c Config, ingress: &Ingress) -> impl Iterator<Item = &'c NamedHost> {
    let mesh = &config.mesh;
    let own = mesh.gateways.iter().position(|g| g.name == ingress.gateway);
    let is_own =
        |p: &RouteParent| matches!((p, own), (RouteParent::Gateway(at), Some(own)) if *at == own);
    let routes = mesh.routes.iter().filter(|r| r.parents.iter().any(is_own));
    let routes: BTreeSet<&ResourceName> = routes.map(|route| &route.name).collect();
    let named = config.hosts.iter();
    named.filter(move |named| routes.contains(&named.route))
}

/// The certificates of a listener without their keys.
struct Looked<'c> {
    listener: &'c IngressListener,
    leaves: Vec<CertificateDer<'static>>,
    own: Vec<Vec<String>>,
    names: Names,
}

/// Looks at the files of a listener; `None` if one of its certificates cannot be read.
fn look<'c>(
    gateway: &ResourceName,
    listener: &'c IngressListener,
    now: UnixTime,
    found: &mut Found,
) -> Option<Looked<'c>> {
    let (mut leaves, mut own) = (Vec::new(), Vec::new());
    for one in &listener.certificates {
        if let Err(problems) = read(gateway, listener.address, one, None) {
            found.problems.extend(problems);
        }
        // Whoever may not read the key can still be told that the certificate expires.
        let Ok((_, chain)) = chain(one) else {
            continue;
        };
        let Some(leaf) = chain.into_iter().next() else {
            continue;
        };
        if let Some((from, to)) = validity(&leaf)
            && let Some(remark) = remark(from, to, now)
        {
            found.remarks.push((subject(one), remark));
        }
        own.push(dns_names(&leaf));
        leaves.push(leaf);
    }
    if leaves.len() != listener.certificates.len() {
        return None;
    }
    let own_names = |nth: usize| own.get(nth).map_or(&[][..], Vec::as_slice);
    let looked = Looked {
        names: Names::new(listener, own_names),
        listener,
        leaves,
        own,
    };
    looked.contested(found);
    Some(looked)
}

impl Looked<'_> {
    /// Says of each certificate which of its names another one has taken, and whether there is any left.
    fn contested(&self, found: &mut Found) {
        let all = self.listener.certificates.iter().zip(&self.own);
        for (nth, (one, own)) in all.enumerate() {
            let names = one.hostnames.as_ref().unwrap_or(own);
            let holder = |name: &String| self.names.of_pattern(name).filter(|at| *at != nth);
            for name in names {
                let Some(other) = holder(name).and_then(|at| self.listener.certificates.get(at))
                else {
                    continue;
                };
                // Whoever wrote `hostnames` has chosen.
                if other.hostnames.is_none() {
                    let other = other.certificate.display();
                    let remark = format!(
                        "is for `{name}` as well as `{other}`, which stands before it and is served; `hostnames` chooses"
                    );
                    found.remarks.push((subject(one), remark));
                }
            }
            let unserved = names.iter().all(|name| holder(name).is_some());
            let by_default = nth == 0 && self.listener.unknown == UnknownServerName::ServeFirst;
            if unserved && !by_default {
                let remark = "is served for no server name; `hostnames` gives it some";
                found.remarks.push((subject(one), remark.to_owned()));
            }
        }
    }

    /// Whether a client that asks for a host of a route takes what it is shown; of `*.suffix`, for any name of it.
    fn covers(&self, host: &str) -> bool {
        if let Some(suffix) = host.strip_prefix('*') {
            let mut all = self.own.iter().flatten();
            return all.any(|name| name.ends_with(suffix));
        }
        let nth = match (self.names.find(host), self.listener.unknown) {
            (Some(nth), _) => nth,
            (None, UnknownServerName::ServeFirst) => 0,
            (None, UnknownServerName::Refuse) => return false,
        };
        let leaf = self.leaves.get(nth);
        leaf.is_some_and(|leaf| covers(leaf, host))
    }
}

/// What is to be said of a certificate at `now`.
pub(super) fn remark(from: UnixTime, to: UnixTime, now: UnixTime) -> Option<String> {
    let (from, to, now) = (from.as_secs(), to.as_secs(), now.as_secs());
    let left = to.saturating_sub(now);
    if now > to {
        let ago = (now - to) / 86_400;
        return Some(format!("holds a certificate that expired {ago} days ago"));
    }
    if now < from {
        let ahead = (from - now).div_ceil(86_400);
        return Some(format!(
            "holds a certificate that is not valid yet, for {ahead} days"
        ));
    }
    let soon = SOON_S.min(to.saturating_sub(from) / LAST_PART);
    let (days, hours) = (left / 86_400, left % 86_400 / 3600);
    (left < soon).then(|| format!("holds a certificate that expires in {days} days {hours} hours"))
}
