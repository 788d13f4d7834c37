//! URLs that keys and providers are fetched from.

use std::net::IpAddr;

use url::{Host, Url};

use crate::config::check::Context;
use crate::config::place::Place;
use crate::jwt::model::Reach;
use crate::vocab::scope::{is_global, is_private};

/// What a URL that this process fetches may be, besides https to a name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UrlRules {
    /// http to a loopback address.
    http_loopback: bool,
    /// http to any host.
    http: bool,
    /// Addresses of the inside; loopback is written on purpose and needs no leave.
    private: bool,
}

impl UrlRules {
    /// The issuer of a login provider, which the operator of the process names.
    pub(crate) fn provider(http_loopback: bool) -> Self {
        Self {
            http_loopback,
            http: false,
            private: true,
        }
    }

    /// The keys of a token rule.
    pub(crate) fn keys(reach: Reach) -> Self {
        Self {
            http_loopback: true,
            http: reach.http,
            private: reach.private,
        }
    }
}

impl Context<'_> {
    /// A URL that this process fetches.
    pub(crate) fn fetched_url(&mut self, place: &Place, text: &str, rules: UrlRules) -> bool {
        let problem = url_problem(text, rules);
        if let Some(problem) = problem {
            self.out
                .error(place, format!("`{}`: {problem}", text.escape_debug()));
        }
        problem.is_none()
    }
}

fn url_problem(text: &str, rules: UrlRules) -> Option<&'static str> {
    let Ok(url) = Url::parse(text) else {
        return Some("not a URL");
    };
    let address = match url.host() {
        Some(Host::Ipv4(ip)) => Some(IpAddr::V4(ip)),
        Some(Host::Ipv6(ip)) => Some(IpAddr::V6(ip).to_canonical()),
        Some(Host::Domain(_)) | None => None,
    };
    let loopback = address.map_or_else(
        || url.host_str() == Some("localhost"),
        |address| address.is_loopback(),
    );
    match url.scheme() {
        "https" => {}
        "http" if rules.http || (rules.http_loopback && loopback) => {}
        "http" if rules.http_loopback => {
            return Some("expected https, or http to a loopback address");
        }
        "http" => return Some("expected https"),
        "file" if rules.http_loopback => {
            return Some(
                "a file is no URL that is fetched, expected https, or http to a loopback address; keys of your own go into `jwks`",
            );
        }
        _ if rules.http_loopback => {
            return Some("expected https, or http to a loopback address");
        }
        _ => return Some("expected an https URL"),
    }
    if url.host_str().is_none_or(str::is_empty) || url.port() == Some(0) {
        return Some("expected a host, and a port from 1 to 65535 if any");
    }
    match address.filter(|_| !loopback) {
        Some(ip) if is_private(ip) && !rules.private => {
            return Some(
                "an address of the inside, which needs `dangerous_allowPrivateAddresses = true`",
            );
        }
        Some(ip) if !is_private(ip) && !is_global(ip) => {
            return Some("an address where machines keep their metadata or nothing is, not keys");
        }
        Some(_) | None => {}
    }
    if !url.username().is_empty() || url.password().is_some() || url.fragment().is_some() {
        return Some("a user, a password or a fragment has no place here");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let mut rules = UrlRules::keys(Reach::default());
        for (text, http_loopback, valid) in [
            ("https://auth.example.com", false, true),
            ("https://auth.example.com:8443/keys?x=1", false, true),
            ("http://auth.example.com/keys", true, false),
            ("http://127.0.10.41:18081/jwks.json", true, true),
            ("http://127.0.10.41:18081/jwks.json", false, false),
            ("http://[::1]/x", true, true),
            ("http://[::ffff:127.0.0.1]/x", true, true),
            ("http://localhost/x", true, true),
            ("http://localhost.example.com/x", true, false),
            ("http://127.0.0.1@evil.example/x", true, false),
            ("https://user@auth.example.com", false, false),
            ("https://auth.example.com:0/", false, false),
            ("https://auth.example.com:99999/", false, false),
            ("https://169.254.169.254/latest", false, false),
            ("https://[::ffff:169.254.169.254]/latest", false, false),
            ("https://[fe80::1]/latest", false, false),
            ("https://0.0.0.0/", false, false),
            ("https://2852039166/latest", false, false),
            ("https://0xa9.0xfe.0xa9.0xfe/latest", false, false),
            ("https://10.0.0.1/keys", false, false),
            ("https://0x0a000001/keys", false, false),
            ("https://[fd00:ec2::254]/keys", false, false),
            ("https://100.100.100.200/keys", false, false),
            ("https://8.8.8.8/keys", false, true),
            ("https://127.0.0.1/keys", false, true),
            ("ftp://auth.example.com", false, false),
            ("auth.example.com", false, false),
            ("https://", false, false),
        ] {
            rules.http_loopback = http_loopback;
            assert_eq!(url_problem(text, rules).is_none(), valid, "{text}");
        }
        let (http, private) = (
            Reach {
                http: true,
                private: false,
            },
            Reach {
                http: false,
                private: true,
            },
        );
        for (text, reach, valid) in [
            ("http://auth.example.com/keys", http, true),
            ("http://auth.example.com/keys", private, false),
            ("http://10.0.0.1/keys", http, false),
            ("http://10.0.0.1/keys", private, false),
            ("http://10.0.0.1/keys", http.or(private), true),
            ("https://10.0.0.1/keys", private, true),
            ("https://[fd00::1]/keys", private, true),
            ("https://169.254.169.254/latest", http.or(private), false),
            ("ftp://auth.example.com/keys", http.or(private), false),
        ] {
            let found = url_problem(text, UrlRules::keys(reach));
            assert_eq!(found.is_none(), valid, "{text} {found:?}");
        }
        let inside = url_problem("https://10.0.0.1/", UrlRules::provider(false));
        assert_eq!(inside, None, "the operator's own provider");
    }
}
