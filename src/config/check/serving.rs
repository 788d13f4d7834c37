//! The certificates of an ingress listener, and the names that they are for.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::config::check::Context;
use crate::config::checked::Subject;
use crate::config::checked::serving::{IngressListener, ListenerCertificate};
use crate::config::place::{At, Place};
use crate::config::raw::process as raw;
use crate::config::read::Table as _;
use crate::vocab::limits;

/// A certificate, wherever it is written.
struct Written<'r> {
    certificate: &'r At<String>,
    key: &'r At<String>,
    hostnames: Option<&'r [At<String>]>,
}

/// A listener at `address`. `None` after a problem that leaves nothing to serve.
pub(super) fn listener(
    raw: &raw::IngressListener,
    address: SocketAddr,
    cx: &mut Context<'_>,
) -> Option<IngressListener> {
    let first = first(raw, cx);
    let more = raw.certificates.iter().flatten().map(|more| Written {
        certificate: &more.certificate,
        key: &more.key,
        hostnames: more.hostnames.as_deref(),
    });
    let written: Vec<Written<'_>> = first.into_iter().chain(more).collect();
    if let Some(beyond) = written.get(limits::LISTENER_CERTIFICATES) {
        let most = limits::LISTENER_CERTIFICATES;
        let message = format!("more than {most} certificates at one listener");
        cx.out.error(&beyond.certificate.place, message);
        return None;
    }
    unique(&written, cx);
    let mut certificates = Vec::new();
    for one in &written {
        let certificate = cx.file(one.certificate);
        let key = cx.secret(one.key);
        if let Some(key) = &key {
            let (file, key) = (certificate.clone(), key.clone());
            let subject = Subject::Key(address, file, key);
            cx.out.name_file(&one.key.place, subject);
        }
        let hostnames = one.hostnames.map(|names| hostnames(names, address, cx));
        certificates.extend(key.map(|key| ListenerCertificate {
            certificate,
            key,
            hostnames,
        }));
    }
    (!certificates.is_empty()).then(|| IngressListener {
        address,
        certificates,
        unknown: raw.unknown_server_name.unwrap_or_default(),
    })
}

/// The certificate that the listener itself names.
fn first<'r>(raw: &'r raw::IngressListener, cx: &mut Context<'_>) -> Option<Written<'r>> {
    let place = |key: &str| raw.place().key(key, raw.place().offset);
    let lacks = |key: &str, cx: &mut Context<'_>| {
        cx.out.error(&place(key), "missing, expected a string");
    };
    match (&raw.certificate, &raw.key) {
        (Some(certificate), Some(key)) => {
            return Some(Written {
                certificate,
                key,
                hostnames: raw.hostnames.as_deref(),
            });
        }
        (Some(_), None) if raw.whole() => lacks("key", cx),
        (None, Some(_)) if raw.whole() => lacks("certificate", cx),
        (None, None) if raw.whole() => {
            if let Some(name) = raw.hostnames.iter().flatten().next() {
                let why = "is for the `certificate` of the listener, and there is none";
                cx.out.error(&name.place, why);
            } else if raw.certificates.as_ref().is_none_or(Vec::is_empty) {
                lacks("certificate", cx);
                lacks("key", cx);
            }
        }
        _ => {}
    }
    None
}

/// No file is served twice, and no name is for two certificates.
fn unique(written: &[Written<'_>], cx: &mut Context<'_>) {
    let mut files: BTreeMap<PathBuf, &Place> = BTreeMap::new();
    // The certificate of each, and where the name is written.
    let mut names: BTreeMap<String, (&Place, &Place)> = BTreeMap::new();
    for one in written {
        let place = &one.certificate.place;
        match files.entry(cx.path(one.certificate)) {
            Entry::Occupied(first) => {
                let text = one.certificate.escape_debug();
                let message = format!("`{text}` is served at this listener already");
                cx.out.clash(place, message, first.get());
            }
            Entry::Vacant(free) => {
                free.insert(place);
            }
        }
        for name in one.hostnames.into_iter().flatten() {
            match names.entry(name.to_ascii_lowercase()) {
                Entry::Occupied(first) => {
                    let (of, first) = *first.get();
                    let text = name.escape_debug();
                    let message = if std::ptr::eq(of, place) {
                        format!("`{text}` is written twice")
                    } else {
                        format!("a second certificate for `{text}` at this listener")
                    };
                    cx.out.clash(&name.place, message, first);
                }
                Entry::Vacant(free) => {
                    free.insert((place, &name.place));
                }
            }
        }
    }
}

fn hostnames(names: &[At<String>], address: SocketAddr, cx: &mut Context<'_>) -> Vec<String> {
    let mut all = Vec::new();
    for name in names {
        let Some(host) = cx.host(name, true) else {
            continue;
        };
        if host.parse::<IpAddr>().is_ok() {
            let why = "is an address, which no client tells as a server name (RFC 6066 section 3): who calls it gets what \
                `unknownServerName` says";
            cx.out.error(&name.place, why);
            continue;
        }
        let subject = Subject::Hostname(address, host.clone());
        cx.out.name_file(&name.place, subject);
        all.push(host);
    }
    all
}
