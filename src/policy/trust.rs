//! Trust domain expansion of principals (Istio's trust domain aliases).

use crate::policy::pattern::text_matches;
use crate::vocab::spiffe::TrustDomain;

/// Always means "our own trust domain".
pub const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";

/// Expands `principals` values over our trust domains (own first): a value of one of ours, or of
/// `cluster.local`, becomes one value per trust domain of ours, in order and without duplicates; every other
/// value stays as it is.
#[must_use]
pub fn expand_principals(principals: &[String], trust_domains: &[TrustDomain]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for principal in principals {
        match ours(principal, trust_domains) {
            Some((domain, path)) => {
                for own in trust_domains {
                    let kept = domain.starts_with('*') && text_matches(domain, own.as_str());
                    let value = if kept {
                        principal.clone()
                    } else {
                        format!("{own}/{path}")
                    };
                    if !out.contains(&value) {
                        out.push(value);
                    }
                }
            }
            None if !out.contains(principal) => out.push(principal.clone()),
            None => {}
        }
    }
    out
}

/// Trust domain part and the rest of a value that names one of our trust domains.
fn ours<'p>(principal: &'p str, trust_domains: &[TrustDomain]) -> Option<(&'p str, &'p str)> {
    let (domain, path) = principal.split_once('/')?;
    let named = domain == DEFAULT_TRUST_DOMAIN
        || trust_domains
            .iter()
            .any(|own| text_matches(domain, own.as_str()));
    (domain != "*" && path.split('/').count() == 4 && named && !trust_domains.is_empty())
        .then_some((domain, path))
}

/// Expands `trustDomains` values: one of ours, or `cluster.local`, means all of ours and no other.
#[must_use]
pub fn expand_trust_domains(values: &[String], trust_domains: &[TrustDomain]) -> Vec<String> {
    let own = |value: &&String| {
        *value == DEFAULT_TRUST_DOMAIN || trust_domains.iter().any(|own| own.as_str() == *value)
    };
    let mut out: Vec<String> = values.iter().filter(|v| !own(v)).cloned().collect();
    if values.iter().any(|v| own(&v)) {
        out.extend(trust_domains.iter().map(|own| own.as_str().to_owned()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(own: &[&str], principal: &str, want: &[&str]) {
        let own: Vec<TrustDomain> = own
            .iter()
            .map(|td| TrustDomain::parse(td).unwrap())
            .collect();
        assert_eq!(
            expand_principals(&[principal.to_owned()], &own),
            want,
            "{principal}"
        );
    }

    #[test]
    fn expands() {
        check(
            &["td1", "td2"],
            "td2/ns/a/sa/b",
            &["td1/ns/a/sa/b", "td2/ns/a/sa/b"],
        );
        check(&["td1"], "cluster.local/ns/a/sa/b", &["td1/ns/a/sa/b"]);
        check(&["td1"], "other/ns/a/sa/b", &["other/ns/a/sa/b"]);
        check(
            &["td1", "x-td"],
            "*-td/ns/a/sa/b",
            &["td1/ns/a/sa/b", "*-td/ns/a/sa/b"],
        );
        for kept in ["*", "td1/x", "td1/*", "*/ns/a/sa/b", "td1/ns/a/sa/b/c"] {
            check(&["td1", "td2"], kept, &[kept]);
        }
    }

    /// A foreign domain that is called `cluster.local` is not ours because a policy says `cluster.local`.
    #[test]
    fn trust_domains() {
        let own = [TrustDomain::parse("td1").unwrap()];
        let expand = |value: &str| expand_trust_domains(&[value.to_owned()], &own);
        assert_eq!(expand("cluster.local"), ["td1"]);
        assert_eq!(expand("td1"), ["td1"]);
        assert_eq!(expand("other"), ["other"]);
        assert_eq!(expand("td*"), ["td*"]);
    }
}
