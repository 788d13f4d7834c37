//! Rules and values that no request can match.

use std::net::IpAddr;

use crate::policy::PointKind;
use crate::policy::attribute::Attribute;
use crate::policy::compile::L4Deny;
use crate::policy::lint::build::{Written, written};
use crate::policy::lint::clause::{Never, RuleForm};
use crate::policy::lint::form::{Form, token};
use crate::policy::lint::{Code, Finding, RuleId, Site, Spot, Subject, Work};
use crate::policy::model::Action;
use crate::vocab::cidr::Cidr;

/// Every such finding of one policy.
pub(super) fn policy(work: &Work<'_>, at: usize, out: &mut Vec<Finding>) {
    let Some(policy) = work.known.policies.get(at) else {
        return;
    };
    for (index, rule) in policy.rules.iter().enumerate() {
        let id = RuleId {
            policy: at,
            rule: index,
        };
        for list in written(index, rule) {
            values(work, id, &list, out);
            ports(work, id, &list, out);
            addresses(work, id, &list, out);
            tokens(work, id, &list, out);
        }
        let Some(form) = work.rule(id) else { continue };
        clauses(id, form, out);
        bare(work, id, form, out);
    }
}

fn spot(id: RuleId, field: String) -> Spot {
    Spot {
        subject: Subject::Policy(id.policy),
        field,
    }
}

/// Values that never match, each on its own.
fn values(work: &Work<'_>, id: RuleId, list: &Written<'_>, out: &mut Vec<Finding>) {
    if list.regex {
        return;
    }
    let namespace = work.policy(id).map(|p| p.name.namespace.as_str());
    for (i, value) in list.values.iter().enumerate() {
        let text = value.escape_debug();
        if mid_star(value, &list.attribute) {
            let message = format!("`{text}`: a `*` in the middle is an ordinary character");
            out.push(Finding::new(
                Code::LiteralStar,
                spot(id, list.value(i)),
                message,
            ));
            continue;
        }
        let of_token = list.attribute == Attribute::RequestPrincipal;
        let trap = request_principal(value).filter(|_| of_token);
        let own = std::slice::from_ref(value);
        let forms = work
            .reading
            .forms(namespace.unwrap_or_default(), &list.attribute, own);
        let never = forms.iter().find_map(Form::never);
        if let Some(why) = trap
            .or(never)
            .or_else(|| whole_value(value, &list.attribute))
        {
            let message = format!("`{text}` never matches: {why}");
            out.push(Finding::new(
                Code::ValueNeverMatches,
                spot(id, list.value(i)),
                message,
            ));
        }
    }
}

/// Values of attributes that are cut or trimmed before they are compared.
fn whole_value(value: &str, attribute: &Attribute) -> Option<&'static str> {
    let blank = |c: char| matches!(c, ' ' | '\t');
    let exact = !value.starts_with('*') && !value.ends_with('*');
    if let Attribute::Header(_) = attribute {
        let trimmed = value.trim_matches(blank) == value;
        return (exact && !trimmed)
            .then_some("field values are compared without the spaces around them");
    }
    if let Attribute::Claim(names) = attribute {
        let split = matches!(&**names, [name] if name == "scope" || name == "permission");
        return (exact && split && value.contains(' '))
            .then_some("the claim is cut at its spaces, and each part is compared on its own");
    }
    None
}

/// Issuer and subject are cut at the last slash and matched apart (policy semantics 2.7).
fn request_principal(text: &str) -> Option<&'static str> {
    let Some((issuer, subject)) = text.rsplit_once('/') else {
        let wildcard = text.starts_with('*') || text.ends_with('*');
        return (!wildcard).then_some("expected `issuer/subject`");
    };
    if (issuer, subject) == ("*", "*") {
        return Some("write `*` for any token");
    }
    if issuer.ends_with(['/', ':']) {
        return Some("it is cut at its last `/`, inside the issuer's URL; write `issuer/*`");
    }
    if issuer.len() > 1 && issuer.ends_with('*') {
        return Some("the issuer may be a suffix (`*x`), not a prefix, before a `/`");
    }
    subject
        .is_empty()
        .then_some("the subject after the last `/` is empty")
}

/// A `*` that is neither the first nor the last character of a value where it could be meant as a wildcard.
fn mid_star(text: &str, attribute: &Attribute) -> bool {
    // These have forms of their own, or none.
    let other = matches!(
        attribute,
        Attribute::RequestPrincipal | Attribute::ServiceAccount | Attribute::Method
    );
    let template = *attribute == Attribute::Path && text.contains('{');
    let wildcards = attribute.is_text() && !other && !template;
    let inner = match text.strip_prefix('*') {
        // A suffix: every further star is literal.
        Some(rest) => rest,
        None => text.strip_suffix('*').unwrap_or(text),
    };
    wildcards && inner.contains('*')
}

/// Ports that nothing listens on where the policy applies.
fn ports(work: &Work<'_>, id: RuleId, list: &Written<'_>, out: &mut Vec<Finding>) {
    if list.attribute != Attribute::DestinationPort {
        return;
    }
    let mut known: Vec<u16> = Vec::new();
    for site in work.sites_of(id.policy) {
        match &site.ports {
            Some(ports) => known.extend(ports),
            None => return,
        }
    }
    known.sort_unstable();
    known.dedup();
    for (i, value) in list.values.iter().enumerate() {
        let unknown = value.parse().is_ok_and(|port: u16| !known.contains(&port));
        if unknown && !known.is_empty() {
            let listed: Vec<String> = known.iter().take(8).map(u16::to_string).collect();
            let message = format!(
                "nothing listens on port `{value}` where this policy applies, only on {}",
                listed.join(", ")
            );
            out.push(Finding::new(
                Code::UnknownPort,
                spot(id, list.value(i)),
                message,
            ));
        }
    }
}

/// Addresses that nothing is for where the policy applies.
fn addresses(work: &Work<'_>, id: RuleId, list: &Written<'_>, out: &mut Vec<Finding>) {
    if list.attribute != Attribute::DestinationIp {
        return;
    }
    let mut known: Vec<IpAddr> = Vec::new();
    for site in work.sites_of(id.policy) {
        match &site.addresses {
            Some(addresses) => known.extend(addresses),
            None => return,
        }
    }
    known.sort_unstable();
    known.dedup();
    for (i, value) in list.values.iter().enumerate() {
        let holds = |block: Cidr| known.iter().any(|ip| block.contains(*ip));
        if known.is_empty() || Cidr::parse(value).map_or(true, holds) {
            continue;
        }
        let listed: Vec<String> = known.iter().take(8).map(IpAddr::to_string).collect();
        let message = format!(
            "nothing is for address `{value}` where this policy applies, only for {}; a name is judged before it is resolved",
            listed.join(", ")
        );
        out.push(Finding::new(
            Code::UnknownAddress,
            spot(id, list.value(i)),
            message,
        ));
    }
}

/// Token attributes without anything that verifies such tokens.
fn tokens(work: &Work<'_>, id: RuleId, list: &Written<'_>, out: &mut Vec<Finding>) {
    let of_token = matches!(
        list.attribute,
        Attribute::RequestPrincipal | Attribute::Claim(_)
    );
    let sites: Vec<&Site> = work.sites_of(id.policy).collect();
    if !of_token || list.not || sites.is_empty() {
        return;
    }
    if sites.iter().all(|s| s.issuers.is_empty()) {
        let message = "no RequestAuthentication applies where this policy does: no request has a token here, and this never matches";
        out.push(Finding::new(
            Code::NoRequestAuthentication,
            spot(id, list.field()),
            message,
        ));
        return;
    }
    let issuers = || sites.iter().flat_map(|s| &s.issuers);
    if list.regex
        || list.attribute != Attribute::RequestPrincipal
        || issuers().any(String::is_empty)
    {
        return;
    }
    for (i, value) in list.values.iter().enumerate() {
        let Form::Token(halves) = token(value) else {
            continue;
        };
        let told = request_principal(value).is_some();
        if !told && issuers().all(|issuer| halves.0.takes(issuer) == Some(false)) {
            let written = value
                .rsplit_once('/')
                .map_or(value.as_str(), |(issuer, _)| issuer);
            let all: Vec<&str> = issuers().map(String::as_str).collect();
            let near = (work.known.nearest)(written, &all);
            let text = value.escape_debug();
            let message = format!(
                "`{text}`: no RequestAuthentication that applies where this policy does accepts such an issuer{near}"
            );
            out.push(Finding::new(
                Code::UnknownIssuer,
                spot(id, list.value(i)),
                message,
            ));
        }
    }
}

/// Sources, operations and conditions that leave nothing.
fn clauses(id: RuleId, rule: &RuleForm, out: &mut Vec<Finding>) {
    let (from, to) = (rule.from.len(), rule.to.len());
    let Some(all) = rule.clauses() else { return };
    let never: Vec<Option<Never>> = all.iter().map(|c| c.never()).collect();
    let rows = to.max(1);
    // Whether all pairs of these leave nothing, and the fields of the first; values that never match are reported one
    // by one.
    let fields = |pairs: &mut dyn Iterator<Item = usize>| -> Option<(String, String)> {
        let mut first = None;
        for pair in pairs {
            let why = never.get(pair)?.as_ref()?;
            if let (None, Never::Fields(a, b)) = (&first, why) {
                first = Some((a.clone(), b.clone()));
            }
        }
        first
    };
    let at = format!("rules[{}]", id.rule);
    if let Some(why) = fields(&mut (0..never.len())) {
        report(id, at, "rule", &why, out);
        return;
    }
    for f in 0..from {
        if let Some(why) = fields(&mut (f * rows..(f + 1) * rows)) {
            report(id, format!("{at}.from[{f}].source"), "source", &why, out);
        }
    }
    for t in 0..to {
        if let Some(why) = fields(&mut (0..from.max(1)).map(|f| f * rows + t)) {
            report(
                id,
                format!("{at}.to[{t}].operation"),
                "operation",
                &why,
                out,
            );
        }
    }
}

fn report(
    id: RuleId,
    field: String,
    what: &str,
    (a, b): &(String, String),
    out: &mut Vec<Finding>,
) {
    let message = if a == b {
        format!("no request matches this {what}: its {a} leave nothing")
    } else {
        format!("no request matches this {what}: {a} and {b} leave nothing")
    };
    out.push(Finding::new(Code::NeverMatches, spot(id, field), message));
}

/// HTTP attributes where HTTP is not read (policy semantics section 5).
fn bare(work: &Work<'_>, id: RuleId, rule: &RuleForm, out: &mut Vec<Finding>) {
    let Some(policy) = work.policy(id) else {
        return;
    };
    let http = rule.tests().find(|t| t.attribute.needs_http());
    let (Some(test), Some(site)) = (http, work.sites_of(id.policy).find(|s| s.bare)) else {
        return;
    };
    let what = match (policy.action, work.known.l4_deny) {
        (Action::Allow, _) => "this rule allows nothing there",
        (Action::Deny, L4Deny::Ztunnel) => "nothing is denied for it there",
        (Action::Deny, L4Deny::Api) => {
            "what is left of this rule without it is denied there, whatever is requested"
        }
        (Action::Audit | Action::Custom, _) => "it does not count there",
    };
    // What is outside may be asked for by a CONNECT, too, which is a request.
    let but = match site.point.kind {
        PointKind::Egress => ", but for the CONNECT of a forward proxy",
        PointKind::Workload | PointKind::Waypoint | PointKind::Gateway => "",
    };
    let message = format!(
        "HTTP is not read at {}{but}, so that {} is not known: {what}",
        site.name,
        test.name()
    );
    out.push(Finding::new(Code::HttpAtL4, id.spot(), message));
}
