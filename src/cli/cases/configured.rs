//! Tests about a configuration: each call goes the way that it would go through the mesh, past all that judges it there.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use crate::cli::cases::expect::Judged;
use crate::cli::cases::harness::{Harness, NOW_UNIX_S};
use crate::cli::cases::json::Broken;
use crate::cli::cases::report::CaseResult;
use crate::cli::cases::request;
use crate::cli::cases::written::{self, Answer, Expect, File, Signature, Test, Tests, Token};
use crate::cli::named;
use crate::config::nearest::hint;
use crate::jwt::model::KeySource;
use crate::jwt::{KeyLookup, KeySet, TokenRules, authenticate};
use crate::policy::{Decision, Request};
use crate::role::enforcement::Enforcements;
use crate::role::walk::{self, Assumed, Call, Hop, Stop, To};
use crate::vocab::host::Host;
use crate::vocab::resource::ResourceName;
use crate::vocab::spiffe::SpiffeId;

/// Kind of these cases in reports.
const KIND: &str = "test";

/// Runs the tests of one file. `config` goes before the configuration that the file names.
pub(super) fn run(
    path: &Path,
    text: &str,
    config: Option<&Path>,
    harness: &Harness,
) -> Vec<CaseResult> {
    let whole = |line: usize, name: &str, why: String| {
        let (name, kind) = (name.to_owned(), KIND.to_owned());
        CaseResult::of(path, line, name, kind, Judged::broken(why))
    };
    if crate::config::is_main(path, text) {
        let why = "a configuration, and no tests of one; name it by `--config`, or by `config` in a file of tests";
        return vec![whole(0, "file", why.to_owned())];
    }
    let Tests { file, lines } = match written::read(path, text) {
        Ok(tests) => tests,
        Err(problems) => {
            let told = |p: &crate::config::Problem| {
                whole(
                    p.position.map_or(0, |(line, _)| line),
                    &p.key,
                    p.message.clone(),
                )
            };
            return problems.iter().map(told).collect();
        }
    };
    let rules = match rules(path, &file, config) {
        Ok(rules) => rules,
        Err(problems) => {
            let told = problems.into_iter().map(|why| whole(0, "config", why));
            return told.collect();
        }
    };
    let tests = file.test.iter().zip(lines);
    tests
        .map(|(test, line)| {
            let judged = Scene {
                rules: &rules,
                harness,
                time: test.time.or(file.time).map_or(NOW_UNIX_S, |t| t.0),
            }
            .judge(test);
            CaseResult::of(path, line, test.name.value.clone(), KIND.to_owned(), judged)
        })
        .collect()
}

fn rules(path: &Path, file: &File, config: Option<&Path>) -> Result<Enforcements, Vec<String>> {
    let named = || {
        let written = file.config.as_ref()?;
        let dir = path.parent().unwrap_or_else(|| Path::new(""));
        Some(dir.join(&written.value))
    };
    let main: PathBuf = config
        .map(Path::to_path_buf)
        .or_else(named)
        .ok_or("no configuration: expected `config` in the file, or `--config`")
        .map_err(|why| vec![why.to_owned()])?;
    let config = crate::config::load(&main).map_err(|errors| {
        errors
            .problems()
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    })?;
    Enforcements::build(config.mesh).map_err(|error| vec![error.to_string()])
}

/// Every key set that a rule would fetch is the harness's.
struct Trusting<'a>(&'a KeySet);

impl KeyLookup for Trusting<'_> {
    fn key_set(&self, _source: &KeySource) -> Option<&KeySet> {
        Some(self.0)
    }

    fn generation(&self) -> u64 {
        0
    }
}

/// What the tests of a file are judged by.
struct Scene<'a> {
    rules: &'a Enforcements,
    harness: &'a Harness,
    /// Seconds since 1970.
    time: i64,
}

/// The answer to a call.
struct Answered {
    /// What it may be expected as.
    is: Vec<Expect>,
    reason: String,
    /// Policies that decided: of a denial the one, of an allowance one for each enforcement point.
    policies: Vec<String>,
    audit: bool,
}

impl Scene<'_> {
    fn judge(&self, test: &Test) -> Judged {
        self.answer(test)
            .map(|answered| compare(test, answered))
            .into()
    }

    fn answer(&self, test: &Test) -> Broken<Answered> {
        let mesh = &self.rules.mesh;
        let written = &test.from.value;
        let from = named::caller(mesh, written)
            .map_err(|why| format!("`from`: `{}`: {why}", written.escape_debug()))?;
        for (name, _) in test.custom.iter().flat_map(|map| &map.0) {
            named::provider(mesh, &name.value).map_err(|why| format!("`custom`: {why}"))?;
        }
        let to = self.destination(test, from.as_ref())?;
        let port = test
            .port
            .map_or_else(|| named::port(self.rules, &to, from.as_ref()), |p| p.0);
        let request = if test.http == Some(false) {
            None
        } else {
            match self.request(test, &to, port)? {
                Ok(request) => Some(request),
                Err(refused) => return refused_head(&refused),
            }
        };
        let own_address = from.as_ref().and_then(|id| {
            let workload = mesh.workloads.iter().find(|w| w.id == *id);
            let gateway = || mesh.gateways.iter().find(|g| g.id == *id);
            workload
                .map(|w| w.address)
                .or_else(|| gateway().map(|g| g.hbone.ip()))
        });
        let call = Call {
            from,
            source: test
                .source_ip
                .or(own_address)
                .unwrap_or_else(|| Ipv4Addr::UNSPECIFIED.into()),
            to,
            port,
            request,
            sni: test
                .sni
                .as_ref()
                .map(|name| name.to_ascii_lowercase().into()),
            time: self.time,
        };
        self.walk(test, &call)
    }

    fn walk(&self, test: &Test, call: &Call) -> Broken<Answered> {
        let keys = Trusting(self.harness.trusted());
        let mut verify = |rules: &TokenRules, request: &Request| {
            let path = request.path.as_ref();
            authenticate(rules, &keys, &request.headers, path, self.time)
        };
        let answers = test.custom.iter().flat_map(|map| &map.0);
        let no = answers.filter(|(_, answer)| *answer == Answer::Deny);
        let refusing: Vec<String> = no.map(|(name, _)| name.value.clone()).collect();
        let mut assumed = Assumed {
            verify: &mut verify,
            refusing: &refusing,
        };
        let hops = walk::walk(self.rules, call, &mut assumed);
        let last = hops
            .iter()
            .find(|hop| !hop.allows())
            .or_else(|| hops.last());
        let hop =
            last.ok_or("nothing of the mesh is on the way of this call, so nothing judges it")?;
        let audit = hops
            .iter()
            .flat_map(|hop| &hop.said)
            .any(|s| s.judged.audit);
        Ok(answered(&hops, hop, audit))
    }

    fn destination(&self, test: &Test, from: Option<&SpiffeId>) -> Broken<To> {
        let mesh = &self.rules.mesh;
        if let Some(name) = &test.workload {
            let names = mesh.workloads.iter().map(|w| &w.name);
            return find("workload", name, names).map(To::Workload);
        }
        if let Some(name) = &test.gateway {
            let names = mesh.gateways.iter().map(|g| &g.name);
            return find("gateway", name, names).map(To::Gateway);
        }
        let to = test.to.as_ref().map_or("", |at| at.value.as_str());
        if to.contains('/') {
            let at = find("service", to, mesh.services.iter().map(|s| &s.name))?;
            let hosts = mesh.services.get(at).map(|s| s.hosts.as_slice());
            let exact = hosts
                .unwrap_or_default()
                .iter()
                .find(|h| !h.starts_with('*'));
            return exact
                .cloned()
                .map(To::Name)
                .ok_or_else(|| format!("service `{to}` has wildcards alone; write the host"));
        }
        let host =
            Host::parse(to).map_err(|error| format!("`to`: `{}`: {error}", to.escape_debug()))?;
        match host.ip() {
            Some(ip) => Ok(To::Address(ip.to_canonical())),
            None if host.port().is_some() => Err("`to` has no port; write `port`".to_owned()),
            None => {
                let name = host.name().to_owned();
                if named::service(self.rules, &name, from).is_none() && !name.contains('.') {
                    let near = named::nearest_host(mesh, &name);
                    return Err(format!("`to`: no service has host `{name}`{near}"));
                }
                Ok(To::Name(name))
            }
        }
    }

    /// The request as a client sends it, or why it is answered at its head.
    fn request(
        &self,
        test: &Test,
        to: &To,
        port: u16,
    ) -> Broken<Result<Request, request::Refused>> {
        let host = match &test.host {
            Some(host) => host.0.clone(),
            None => self.host(to, port)?,
        };
        let mut fields: Vec<(String, String)> = Vec::new();
        for (name, values) in test.headers.iter().flat_map(|map| &map.0) {
            fields.extend(values.0.iter().map(|v| (name.value.clone(), v.clone())));
        }
        let token = match &test.token {
            Some(Token::Claims(claims)) => {
                let valid = test.signature != Some(Signature::Invalid);
                Some(self.harness.sign(claims, valid)?)
            }
            Some(Token::Raw(text)) => Some(text.clone()),
            None => None,
        };
        fields.extend(token.map(|t| ("authorization".to_owned(), format!("Bearer {t}"))));
        let fields: Vec<(&str, &str)> = fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        Ok(request::canonical(
            test.method.as_deref().unwrap_or("GET"),
            Some(&host),
            test.path.as_ref().map_or("/", |path| path.0.as_str()),
            &fields,
            self.rules.mesh.path_normalization,
            self.time,
        ))
    }

    fn host(&self, to: &To, port: u16) -> Broken<String> {
        let literal = |ip: std::net::IpAddr| match ip {
            std::net::IpAddr::V4(ip) => ip.to_string(),
            std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let name = match to {
            To::Name(name) => name.clone(),
            To::Address(ip) => literal(*ip),
            To::Workload(at) => {
                let workload = self.rules.mesh.workloads.get(*at);
                workload.map_or_else(String::new, |w| literal(w.address))
            }
            To::Gateway(_) => return Err("a gateway serves many hosts; write `host`".to_owned()),
        };
        Ok(match port {
            80 | 443 => name,
            port => format!("{name}:{port}"),
        })
    }
}

fn find<'m>(
    what: &str,
    written: &str,
    names: impl Iterator<Item = &'m ResourceName> + Clone,
) -> Broken<usize> {
    let wanted = ResourceName::parse(written);
    let found = names.clone().position(|name| wanted.as_ref() == Some(name));
    found.ok_or_else(|| {
        let names: Vec<String> = names.map(ToString::to_string).collect();
        let near = hint(written, names.iter().map(String::as_str));
        format!("no {what} `{}`{near}", written.escape_debug())
    })
}

fn refused_head(refused: &request::Refused) -> Broken<Answered> {
    let status = refused
        .status
        .parse()
        .map_err(|_e| "a status that is no number")?;
    Ok(Answered {
        is: vec![Expect::Status(status)],
        reason: refused.why.clone(),
        policies: Vec::new(),
        audit: false,
    })
}

/// What the deciding hop says.
fn answered(hops: &[Hop], hop: &Hop, audit: bool) -> Answered {
    let denial = if hop.request.is_some() {
        vec![Expect::Deny, Expect::Status(403)]
    } else {
        vec![Expect::Deny]
    };
    let (is, reason) = match &hop.stop {
        Some(Stop::Token(invalid)) => {
            let status = vec![Expect::Status(invalid.status.as_u16())];
            (status, format!("token: {}", invalid.error))
        }
        Some(Stop::Provider(no)) => {
            let why = format!("provider `{}` does not say yes", no.provider);
            match (no.never, &hop.request) {
                (Some((_, status)), Some(_)) => {
                    (vec![Expect::Deny, Expect::Status(status.as_u16())], why)
                }
                _ => (denial, why),
            }
        }
        Some(Stop::Close(close, why)) => {
            let status = vec![Expect::Status(close.status().as_u16())];
            (status, why.clone())
        }
        None => {
            let redirect = hops.iter().find_map(|hop| hop.redirect);
            let is = if hop.allows() {
                let status = redirect.map(|status| Expect::Status(status.as_u16()));
                std::iter::once(Expect::Allow).chain(status).collect()
            } else {
                denial
            };
            let said = hop.deciding().map(|said| {
                let request = hop.request.as_ref();
                said.judged.reason.text(&hop.connection, request)
            });
            (is, said.unwrap_or_default())
        }
    };
    let named = |hop: &Hop| match &hop.stop {
        Some(Stop::Provider(no)) => Some(no.policy.to_string()),
        Some(Stop::Close(..) | Stop::Token(_)) => None,
        None => hop
            .deciding()?
            .judged
            .policy
            .as_ref()
            .map(ToString::to_string),
    };
    let policies = if is.contains(&Expect::Allow) {
        let said = hops.iter().flat_map(|hop| &hop.said);
        said.filter(|said| said.judged.decision == Decision::Allow)
            .filter_map(|said| said.judged.policy.as_ref().map(ToString::to_string))
            .collect()
    } else {
        named(hop).into_iter().collect()
    };
    Answered {
        is,
        reason,
        policies,
        audit,
    }
}

fn compare(test: &Test, answered: Answered) -> Judged {
    let Answered {
        is,
        reason,
        policies,
        audit,
    } = answered;
    let wrong_policy = || {
        let want = test
            .policy
            .as_ref()
            .filter(|want| !policies.contains(want))?;
        let got = if policies.is_empty() {
            "no policy".to_owned()
        } else {
            format!("`{}`", policies.join(", "))
        };
        Some(format!("decided by {got}, expected policy `{want}`"))
    };
    let wrong_reason = || {
        let want = test
            .reason
            .as_ref()
            .filter(|want| !reason.contains(want.as_str()))?;
        Some(format!("expected a reason with `{want}`"))
    };
    let wrong_audit = || {
        let want = test.audit.filter(|want| *want != audit)?;
        Some(format!("audit is {audit}, expected {want}"))
    };
    let wrong = wrong_policy().or_else(wrong_reason).or_else(wrong_audit);
    let decided = policies.first().filter(|_| policies.len() == 1);
    let told = decided.map_or_else(|| reason.clone(), |policy| format!("{policy}: {reason}"));
    Judged {
        expected: word(test.expect),
        got: is.first().copied().map_or_else(String::new, word),
        passed: is.contains(&test.expect),
        reason: Some(told),
    }
    .and(wrong)
}

fn word(expect: Expect) -> String {
    match expect {
        Expect::Allow => "allow".to_owned(),
        Expect::Deny => "deny".to_owned(),
        Expect::Status(status) => status.to_string(),
    }
}
