//! Compiles the values of one field, collecting what is wrong with each.

use crate::policy::attribute::Attribute;
use crate::policy::intern::Interner;
use crate::policy::matcher::{Blocks, Matcher};
use crate::policy::pattern::{Pattern, RequestPrincipal, Star, Template, TextSet};
use crate::policy::trust::{expand_principals, expand_trust_domains};
use crate::policy::window::Window;
use crate::vocab::cidr::Cidr;
use crate::vocab::field;
use crate::vocab::spiffe::TrustDomain;

/// Most values of `serviceAccounts` (Istio's validation).
const ACCOUNTS: usize = 16;
/// Longest value of `serviceAccounts`, in characters (Istio's validation).
const ACCOUNT_CHARS: usize = 320;

/// The compiler of one field.
pub(super) struct Values<'a> {
    /// Namespace of the policy, for service accounts without one.
    pub(super) namespace: &'a str,
    /// Our trust domains, own first.
    pub(super) trust_domains: &'a [TrustDomain],
    /// Texts and regexes of the mesh.
    pub(super) interner: &'a mut Interner,
    /// Index of the value (`None`: the whole field) and what is wrong.
    pub(super) faults: Vec<(Option<usize>, String)>,
}

impl Values<'_> {
    /// Compiles values for an attribute. Bad ones are left out and stand in `faults`.
    pub(super) fn matcher(&mut self, attribute: &Attribute, values: &[String]) -> Matcher {
        for (i, _value) in values.iter().enumerate().filter(|(_, v)| v.is_empty()) {
            self.faults.push((Some(i), "empty value".to_owned()));
        }
        match attribute {
            Attribute::Principal => {
                self.refuse(
                    values,
                    |v| v.starts_with("spiffe://"),
                    "principals are written without `spiffe://`",
                );
                let expanded = expand_principals(values, self.trust_domains);
                self.text(&expanded, Star::NotEmpty)
            }
            Attribute::TrustDomain => {
                self.refuse(values, |v| v.contains('/'), "a trust domain holds no `/`");
                let expanded = expand_trust_domains(values, self.trust_domains);
                self.text(&expanded, Star::NotEmpty)
            }
            Attribute::ServiceAccount => self.accounts(values),
            Attribute::SourceIp | Attribute::RemoteIp | Attribute::DestinationIp => {
                self.blocks(values)
            }
            Attribute::DestinationPort => self.ports(values),
            Attribute::RequestPrincipal => Matcher::RequestPrincipals(
                values.iter().map(|v| RequestPrincipal::new(v)).collect(),
            ),
            Attribute::Host | Attribute::Sni => {
                self.refuse(
                    values,
                    |v| v == "*.",
                    "the dot after a name is ignored, so this would be every name: write `*`",
                );
                let folded: Vec<String> = values.iter().map(|v| fold_host(v)).collect();
                self.text(&folded, Star::NotEmpty)
            }
            // Names of protocols and of codings have no case (RFC 9110 sections 7.8, 10.1.4), and are judged in lower case.
            Attribute::Header(name) if field::is_caseless(name.as_str()) => {
                let folded: Vec<String> = values.iter().map(|v| v.to_ascii_lowercase()).collect();
                self.text(&folded, Star::Present)
            }
            Attribute::Path => self.paths(values),
            Attribute::Time => self.windows(values),
            Attribute::Namespace | Attribute::Claim(_) | Attribute::Method => {
                self.text(values, Star::NotEmpty)
            }
            Attribute::Target | Attribute::Header(_) | Attribute::Query(_) => {
                self.text(values, Star::Present)
            }
        }
    }

    fn text(&mut self, values: &[impl AsRef<str>], star: Star) -> Matcher {
        Matcher::Text(self.text_set(values, star))
    }

    fn text_set(&mut self, values: &[impl AsRef<str>], star: Star) -> TextSet {
        let patterns = values.iter().map(|v| self.interner.text(v.as_ref()));
        TextSet::new(patterns.map(|text| Pattern::new(text, star)).collect())
    }

    /// Compiles regular expressions.
    pub(super) fn regexes(&mut self, patterns: &[String]) -> Matcher {
        let mut regexes = Vec::new();
        for (i, pattern) in patterns.iter().enumerate() {
            if pattern.is_empty() {
                self.faults.push((Some(i), "empty value".to_owned()));
                continue;
            }
            match self.interner.regexes.whole(pattern) {
                Ok(regex) => regexes.push(regex),
                Err(why) => self.faults.push((Some(i), why)),
            }
        }
        Matcher::Regexes(regexes.into())
    }

    fn refuse(&mut self, values: &[String], bad: impl Fn(&str) -> bool, why: &str) {
        for (i, value) in values.iter().enumerate().filter(|(_, v)| bad(v)) {
            self.faults.push((Some(i), format!("`{value}`: {why}")));
        }
    }

    fn accounts(&mut self, values: &[String]) -> Matcher {
        if values.len() > ACCOUNTS {
            self.faults
                .push((None, format!("more than {ACCOUNTS} service accounts")));
        }
        let bad = |v: &str| {
            let empty_part = v.split('/').any(str::is_empty);
            v.contains('*') || v.matches('/').count() > 1 || (empty_part && !v.is_empty())
        };
        self.refuse(
            values,
            bad,
            "a service account is `name` or `namespace/name`, compared exactly",
        );
        self.refuse(
            values,
            |v| v.chars().count() > ACCOUNT_CHARS,
            "longer than 320 characters",
        );
        let paths: Vec<String> = values
            .iter()
            .map(|v| v.split_once('/').unwrap_or((self.namespace, v)))
            .map(|(namespace, account)| format!("/ns/{namespace}/sa/{account}"))
            .collect();
        self.text(&paths, Star::NotEmpty)
    }

    fn blocks(&mut self, values: &[String]) -> Matcher {
        let mut blocks = Vec::new();
        for (i, value) in values.iter().enumerate().filter(|(_, v)| !v.is_empty()) {
            match Cidr::parse(value) {
                Ok(block) => blocks.push(block),
                Err(why) => self.faults.push((Some(i), format!("`{value}`: {why}"))),
            }
        }
        Matcher::Blocks(Box::new(Blocks::new(blocks)))
    }

    fn ports(&mut self, values: &[String]) -> Matcher {
        let mut ports = Vec::new();
        for (i, value) in values.iter().enumerate().filter(|(_, v)| !v.is_empty()) {
            match value.parse() {
                Ok(port) if value.bytes().all(|b| b.is_ascii_digit()) => ports.push(port),
                _ => self
                    .faults
                    .push((Some(i), format!("`{value}`: not a port from 0 to 65535"))),
            }
        }
        ports.sort_unstable();
        Matcher::Ports(ports.into())
    }

    fn windows(&mut self, values: &[String]) -> Matcher {
        let mut windows = Vec::new();
        for (i, value) in values.iter().enumerate().filter(|(_, v)| !v.is_empty()) {
            match Window::parse(value) {
                Ok(window) => windows.push(window),
                Err(why) => self.faults.push((Some(i), format!("`{value}`: {why}"))),
            }
        }
        Matcher::Windows(windows.into())
    }

    fn paths(&mut self, values: &[String]) -> Matcher {
        let (mut plain, mut templates) = (Vec::new(), Vec::new());
        for (i, value) in values.iter().enumerate() {
            if !Template::is_one(value) {
                plain.push(value.as_str());
                continue;
            }
            match Template::parse(value) {
                Ok(template) => templates.push(template),
                Err(why) => self.faults.push((Some(i), format!("`{value}`: {why}"))),
            }
        }
        let text = self.text_set(&plain, Star::NotEmpty);
        if templates.is_empty() {
            Matcher::Text(text)
        } else {
            Matcher::Paths(Box::new((text, templates)))
        }
    }
}

/// A host value as hosts are compared: lower case, without the trailing dot of the name.
fn fold_host(value: &str) -> String {
    let lower = value.to_ascii_lowercase();
    match lower.split_once(".:") {
        Some((name, port)) => format!("{name}:{port}"),
        None => lower
            .strip_suffix('.')
            .map_or_else(|| lower.clone(), str::to_owned),
    }
}
