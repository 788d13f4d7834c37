//! Local rate limits: which requests one counts, what it counts apart, and how many it lets pass.
//!
//! A limit is attached as a policy is, and its `rules` say which requests it counts as those of an ALLOW policy say whom it
//! allows. What cannot be evaluated counts.

mod buckets;

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash as _, Hasher};
use std::net::IpAddr;

use crate::policy::attach::{Point, PointKind, Scope};
use crate::policy::attribute::{Attribute, Facts};
use crate::policy::compile::{L4Deny, MeshPolicies, PolicyProblem, compile};
use crate::policy::decide::decide_looking_at;
use crate::policy::facts::{Connection, Request};
use crate::policy::model::{Action, AuthorizationPolicy, Rule, Target};
use crate::policy::set::PolicySet;
use crate::policy::verdict::{Decision, Reason};
use crate::vocab::claims::Claims;
use crate::vocab::resource::ResourceName;
use crate::vocab::spiffe::TrustDomain;

pub use buckets::{Buckets, Empty, TokenBucket};

/// `[[rateLimit]]`.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimit {
    /// Namespace and name.
    pub name: ResourceName,
    /// What it is attached to.
    pub target: Target,
    /// Which requests it counts; empty means all.
    pub rules: Vec<Rule>,
    /// What it counts apart; empty means all together.
    pub by: Vec<Key>,
    /// `tokenBucket`.
    pub bucket: TokenBucket,
}

impl RateLimit {
    /// Its rules as the policy that they are compiled as.
    #[must_use]
    pub fn as_policy(&self) -> AuthorizationPolicy {
        AuthorizationPolicy {
            name: self.name.clone(),
            target: Target::Namespace,
            action: Action::Allow,
            provider: None,
            dry_run: false,
            rules: self.rules.clone(),
        }
    }
}

/// One of `by`: a property of the caller or of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(Attribute);

impl Key {
    /// Reads a key as `when` of a policy writes it; `request.path`, `request.method` and `request.host` beside those.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let attribute = match text {
            "request.path" => Attribute::Path,
            "request.method" => Attribute::Method,
            "request.host" => Attribute::Host,
            text => Attribute::parse_key(text)?,
        };
        if attribute == Attribute::Time {
            return Err("tells nobody apart");
        }
        Ok(Self(attribute))
    }

    fn hash(&self, facts: Facts<'_>, into: &mut impl Hasher) {
        match &self.0 {
            Attribute::SourceIp => address(facts.conn.peer, into),
            Attribute::RemoteIp => address(facts.conn.remote, into),
            Attribute::DestinationIp => address(facts.conn.destination, into),
            Attribute::DestinationPort => into.write_u16(facts.conn.port),
            Attribute::RequestPrincipal => {
                let claims = facts.claims();
                claims.and_then(Claims::issuer).hash(into);
                claims.and_then(Claims::subject).hash(into);
            }
            Attribute::Principal
            | Attribute::Namespace
            | Attribute::ServiceAccount
            | Attribute::TrustDomain
            | Attribute::Sni
            | Attribute::Claim(_)
            | Attribute::Host
            | Attribute::Method
            | Attribute::Path
            | Attribute::Target
            | Attribute::Header(_)
            | Attribute::Query(_)
            | Attribute::Time => {
                // It says no to each, so that it sees all.
                self.0.any_text(facts, |value| {
                    into.write_u8(1);
                    value.hash(into);
                    false
                });
                into.write_u8(0);
            }
        }
    }
}

/// An IPv6 address is its /64, which one machine has all of.
fn address(ip: IpAddr, into: &mut impl Hasher) {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.hash(into),
        IpAddr::V6(ip) => (ip.to_bits() >> 64).hash(into),
    }
}

/// A limit, compiled.
#[derive(Debug)]
pub struct Limit {
    rule: RateLimit,
    /// `None`: every request.
    counts: Option<PolicySet>,
}

impl Limit {
    /// Compiles a limit; `trust_domains` as for policies.
    ///
    /// # Errors
    /// What is wrong with its rules.
    pub fn compile(
        rule: &RateLimit,
        trust_domains: &[TrustDomain],
        scope: Scope<'_>,
    ) -> Result<Self, Vec<PolicyProblem>> {
        let policies = [rule.as_policy()];
        let mesh = MeshPolicies {
            policies: &policies,
            trust_domains,
            scope,
            l4_deny: L4Deny::Api,
            dry_run: false,
        };
        // A point of the limit's own, where nothing else applies.
        let point = Point {
            kind: PointKind::Workload,
            namespace: rule.name.namespace.clone(),
            labels: BTreeMap::new(),
            gateway: None,
            services: Vec::new(),
            accounts: Vec::new(),
            default: Decision::Deny,
        };
        let counts = match rule.rules.is_empty() {
            true => None,
            false => Some(compile(&mesh, &point)?),
        };
        Ok(Self {
            rule: rule.clone(),
            counts,
        })
    }

    /// As it was written.
    #[must_use]
    pub fn rule(&self) -> &RateLimit {
        &self.rule
    }

    /// Whether it counts this request.
    #[must_use]
    pub fn counts(&self, connection: &Connection, request: &Request) -> bool {
        let Some(set) = &self.counts else {
            return true;
        };
        let verdict = decide_looking_at(set, connection, Some(request), 0);
        verdict.decision == Decision::Allow || !matches!(verdict.reason, Reason::NoRuleMatched(_))
    }

    /// Whose request it is, as far as this limit tells them apart. `keys` are this process's own, so that nobody can write
    /// requests that fall together.
    #[must_use]
    pub fn key<S: BuildHasher>(
        &self,
        keys: &[S; 2],
        connection: &Connection,
        request: &Request,
    ) -> u128 {
        let facts = Facts {
            conn: connection,
            request: Some(request),
        };
        let half = |key: &S| {
            let mut hasher = key.build_hasher();
            for by in &self.rule.by {
                by.hash(facts, &mut hasher);
            }
            u128::from(hasher.finish())
        };
        let [high, low] = keys;
        half(high) << 64 | half(low)
    }
}

#[cfg(test)]
mod tests;
