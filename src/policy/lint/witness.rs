//! An example of a request that two rules both match, found by trying values that they name.

use std::fmt;
use std::net::IpAddr;

use crate::policy::attribute::Attribute;
use crate::policy::lint::Work;
use crate::policy::lint::clause::{Clause, Part, Test, holds_of, of_identity};
use crate::policy::lint::form::Form;
use crate::vocab::host::Host;
use crate::vocab::path::CanonicalPath;
use crate::vocab::spiffe::SpiffeId;

/// Identities of the mesh that are tried.
const IDENTITIES: usize = 64;

/// A request.
#[derive(Clone, Debug)]
pub(super) struct Example {
    pub(super) principal: Option<SpiffeId>,
    /// Addresses and port; `None` where any will do.
    pub(super) source: Option<IpAddr>,
    pub(super) remote: Option<IpAddr>,
    pub(super) destination: Option<IpAddr>,
    pub(super) port: Option<u16>,
    pub(super) sni: Option<String>,
    pub(super) method: String,
    /// `None` where any will do.
    pub(super) host: Option<String>,
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) query: Vec<(String, String)>,
    /// Issuer and subject.
    pub(super) token: Option<(String, String)>,
    /// Claims by the names that lead to them.
    pub(super) claims: Vec<(Vec<String>, String)>,
}

impl fmt::Display for Example {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{} {}", self.method, self.path)?;
        for (i, (name, value)) in self.query.iter().enumerate() {
            let mark = if i == 0 { '?' } else { '&' };
            write!(f, "{mark}{}={}", name.escape_debug(), value.escape_debug())?;
        }
        f.write_str("`")?;
        if let Some(host) = &self.host {
            write!(f, " to `{host}`")?;
        }
        match &self.principal {
            Some(id) => write!(f, " from `{}`", id.principal())?,
            None => f.write_str(" without an identity")?,
        }
        if let Some((issuer, subject)) = &self.token {
            write!(
                f,
                " with a token of `{}/{}`",
                issuer.escape_debug(),
                subject.escape_debug()
            )?;
        }
        for (names, value) in &self.claims {
            write!(
                f,
                ", claim `{}` `{}`",
                names.join("."),
                value.escape_debug()
            )?;
        }
        for (name, value) in &self.headers {
            write!(f, ", `{name}: {}`", value.escape_debug())?;
        }
        for (what, address) in [
            ("source", self.source),
            ("client", self.remote),
            ("destination", self.destination),
        ] {
            if let Some(address) = address {
                write!(f, ", {what} address {address}")?;
            }
        }
        if let Some(port) = self.port {
            write!(f, ", port {port}")?;
        }
        match &self.sni {
            Some(sni) => write!(f, ", server name `{}`", sni.escape_debug()),
            None => Ok(()),
        }
    }
}

/// A request that both clauses match; `None` if none was found.
pub(super) fn example(work: &Work<'_>, a: &Clause<'_>, b: &Clause<'_>) -> Option<Example> {
    let tests: Vec<&Test> = a.tests.iter().chain(&b.tests).copied().collect();
    let search = Search { work, tests };
    let (token, claims) = search.token()?;
    Some(Example {
        principal: search.principal()?,
        source: search.address(&Attribute::SourceIp)?,
        remote: search.address(&Attribute::RemoteIp)?,
        destination: search.address(&Attribute::DestinationIp)?,
        port: search.port()?,
        sni: search.sni()?,
        method: search.text(
            &Attribute::Method,
            &["GET", "POST", "PUT", "DELETE", "HEAD"],
            |_| true,
        )?,
        host: search.host()?,
        path: search.path()?,
        headers: search.headers()?,
        query: search.query()?,
        token,
        claims,
    })
}

struct Search<'a> {
    work: &'a Work<'a>,
    tests: Vec<&'a Test>,
}

impl Search<'_> {
    fn of<'s>(&'s self, attribute: &'s Attribute) -> impl Iterator<Item = &'s Test> {
        let of_it = move |t: &&&Test| t.attribute == *attribute;
        self.tests.iter().filter(of_it).copied()
    }

    /// Values that tests of an attribute name.
    fn named(&self, attribute: &Attribute) -> Vec<String> {
        let mut out = Vec::new();
        let (mut heads, mut tails) = (Vec::new(), Vec::new());
        for form in self
            .of(attribute)
            .flat_map(|t| &t.parts)
            .filter(|p| !p.not)
            .flat_map(|p| &p.forms)
        {
            form.samples(attribute, &mut out);
            if let Form::Prefix(text) = form {
                heads.push(text);
            }
            if let Form::Suffix(text) = form {
                tails.push(text);
            }
        }
        for (head, tail) in heads.iter().flat_map(|h| tails.iter().map(move |t| (h, t))) {
            out.push(format!("{head}{tail}"));
            out.push(format!("{head}/{tail}"));
            out.push(format!("{}{tail}", head.trim_end_matches('/')));
        }
        out
    }

    /// A value of an attribute that always has one.
    fn text(
        &self,
        attribute: &Attribute,
        more: &[&str],
        valid: impl Fn(&str) -> bool,
    ) -> Option<String> {
        let mut tried = self.named(attribute);
        tried.extend(more.iter().map(|m| (*m).to_owned()));
        let fits = |v: &String| {
            !v.is_empty()
                && valid(v)
                && self
                    .of(attribute)
                    .flat_map(|t| &t.parts)
                    .all(|p| holds(p, v))
        };
        tried.into_iter().find(fits)
    }

    /// `Some(None)` if any host will do.
    fn host(&self) -> Option<Option<String>> {
        if self.of(&Attribute::Host).next().is_none() {
            return Some(None);
        }
        let valid = |h: &str| Host::parse(h).is_ok_and(|host| host.as_str() == h);
        self.text(&Attribute::Host, &["a.example"], valid).map(Some)
    }

    fn path(&self) -> Option<String> {
        if self.of(&Attribute::Target).next().is_some() {
            return None;
        }
        let mode = self.work.known.paths;
        self.text(&Attribute::Path, &["/", "/x", "/x/y"], |p| {
            !p.contains('?') && CanonicalPath::parse(mode, p).is_ok_and(|c| c.as_str() == p)
        })
    }

    /// An identity, or `Some(None)` if only a caller without one fits.
    fn principal(&self) -> Option<Option<SpiffeId>> {
        let tests: Vec<&&Test> = self
            .tests
            .iter()
            .filter(|t| of_identity(&t.attribute))
            .collect();
        let fits = |id: &SpiffeId| tests.iter().all(|t| holds_of(t, id) == Some(true));
        let known = self.work.known.identities.iter();
        if let Some(id) = known.clone().take(IDENTITIES).find(|id| fits(id)) {
            return Some(Some(id.clone()));
        }
        let mut named = self.named(&Attribute::Principal);
        for namespace in self.named(&Attribute::Namespace) {
            let domain = self
                .work
                .known
                .trust_domains
                .first()
                .map(ToString::to_string);
            named.push(format!(
                "{}/ns/{namespace}/sa/x",
                domain.unwrap_or_default()
            ));
        }
        let ids = named
            .iter()
            .filter_map(|p| SpiffeId::parse(&format!("spiffe://{p}")).ok());
        if let Some(id) = ids.into_iter().find(|id| fits(id)) {
            return Some(Some(id));
        }
        if let Some(id) = known.skip(IDENTITIES).find(|id| fits(id)) {
            return Some(Some(id.clone()));
        }
        tests.iter().all(|t| !t.positive()).then_some(None)
    }

    /// `Some(None)` if any address will do.
    fn address(&self, attribute: &Attribute) -> Option<Option<IpAddr>> {
        if self.of(attribute).next().is_none() {
            return Some(None);
        }
        let parts = || self.of(attribute).flat_map(|t| &t.parts);
        let mut tried: Vec<IpAddr> = parts()
            .filter(|p| !p.not)
            .flat_map(|p| &p.forms)
            .filter_map(Form::first_address)
            .collect();
        tried.extend([IpAddr::from([192, 0, 2, 1]), IpAddr::from([10, 0, 0, 1])]);
        let inside = |p: &Part, ip: IpAddr| {
            let mut blocks = p.forms.iter();
            blocks.any(|f| matches!(f, Form::Block(block) if block.contains(ip)))
        };
        tried
            .into_iter()
            .find(|ip| parts().all(|p| inside(p, *ip) != p.not))
            .map(Some)
    }

    /// `Some(None)` if any port will do.
    fn port(&self) -> Option<Option<u16>> {
        if self.of(&Attribute::DestinationPort).next().is_none() {
            return Some(None);
        }
        let parts = || self.of(&Attribute::DestinationPort).flat_map(|t| &t.parts);
        let mut tried: Vec<u16> = parts()
            .flat_map(|p| &p.forms)
            .filter_map(Form::port)
            .collect();
        tried.extend([80, 8080, 443]);
        let fits = |port: &u16| {
            let listed = |p: &Part| p.forms.iter().filter_map(Form::port).any(|n| n == *port);
            parts().all(|p| listed(p) != p.not)
        };
        tried.into_iter().find(fits).map(Some)
    }

    fn sni(&self) -> Option<Option<String>> {
        if self.of(&Attribute::Sni).all(|t| !t.positive()) {
            return Some(None);
        }
        self.text(&Attribute::Sni, &["a.example"], |_| true)
            .map(Some)
    }

    /// One field for each name whose presence is asked for.
    fn headers(&self) -> Option<Vec<(String, String)>> {
        let mut out: Vec<(String, String)> = Vec::new();
        for test in &self.tests {
            let Attribute::Header(name) = &test.attribute else {
                continue;
            };
            let wanted = self.of(&test.attribute).any(Test::positive);
            if wanted && out.iter().all(|(n, _)| n != name.as_str()) {
                let valid = |v: &str| v.bytes().all(|b| (0x21..0x7f).contains(&b));
                let value = self.text(&test.attribute, &["x"], valid)?;
                out.push((name.as_str().to_owned(), value));
            }
        }
        Some(out)
    }

    /// One occurrence of each parameter whose presence is asked for.
    fn query(&self) -> Option<Vec<(String, String)>> {
        let mut out: Vec<(String, String)> = Vec::new();
        for test in &self.tests {
            let Attribute::Query(name) = &test.attribute else {
                continue;
            };
            let wanted = self.of(&test.attribute).any(Test::positive);
            if wanted && out.iter().all(|(n, _)| **n != **name) {
                let plain = |v: &str| v.bytes().all(|b| b.is_ascii_alphanumeric());
                let value = self.text(&test.attribute, &["x"], plain)?;
                if !plain(name) {
                    return None;
                }
                out.push((name.to_string(), value));
            }
        }
        Some(out)
    }

    /// A token with its claims, or none.
    #[expect(clippy::type_complexity, reason = "two values that are found together")]
    fn token(&self) -> Option<(Option<(String, String)>, Vec<(Vec<String>, String)>)> {
        let mut claims: Vec<(Vec<String>, String)> = Vec::new();
        for test in &self.tests {
            // What is compared by its meaning has no example.
            let opaque = |p: &Part| p.forms.iter().any(|f| matches!(f, Form::Opaque(_)));
            if test.parts.iter().any(opaque) {
                return None;
            }
            let Attribute::Claim(names) = &test.attribute else {
                continue;
            };
            if matches!(&**names, [one] if one == "iss" || one == "sub") || names.len() > 1 {
                return None;
            }
            let wanted = self.of(&test.attribute).any(Test::positive);
            if wanted && claims.iter().all(|(n, _)| **n != **names) {
                let value = self.text(&test.attribute, &["x"], |v| !v.contains(' '))?;
                claims.push((names.to_vec(), value));
            }
        }
        let parts: Vec<&Part> = self
            .of(&Attribute::RequestPrincipal)
            .flat_map(|t| &t.parts)
            .collect();
        if parts.iter().all(|p| p.not) && claims.is_empty() {
            return Some((None, claims));
        }
        let (mut issuers, mut subjects) =
            (vec!["https://a.example".to_owned()], vec!["x".to_owned()]);
        for form in parts.iter().flat_map(|p| &p.forms) {
            if let Form::Token(halves) = form {
                halves.0.samples(&Attribute::RequestPrincipal, &mut issuers);
                halves
                    .1
                    .samples(&Attribute::RequestPrincipal, &mut subjects);
            }
        }
        let matches = |p: &Part, issuer: &str, subject: &str| {
            let mut forms = p.forms.iter();
            forms.any(|f| {
                matches!(f, Form::Token(h) if h.0.takes(issuer) == Some(true) && h.1.takes(subject) == Some(true))
            })
        };
        let mut pairs = issuers
            .iter()
            .flat_map(|i| subjects.iter().map(move |s| (i, s)));
        let (issuer, subject) =
            pairs.find(|(i, s)| parts.iter().all(|p| matches(p, i, s) != p.not))?;
        Some((Some((issuer.clone(), subject.clone())), claims))
    }
}

fn holds(part: &Part, value: &str) -> bool {
    part.holds(value) == Some(true)
}
