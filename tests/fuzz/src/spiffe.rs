//! SPIFFE IDs: exactly the language of the standard, taken byte for byte.

use ringgate::vocab::spiffe::{SpiffeId, TrustDomain};

/// An ID as text.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let parsed = SpiffeId::parse(text);
    assert_eq!(parsed.is_ok(), valid(text), "not the standard's language");
    let Ok(id) = parsed else {
        return;
    };
    assert_eq!(id.as_str(), text);
    let domain = TrustDomain::parse(id.trust_domain()).expect("the ID has a trust domain");
    assert_eq!(format!("{domain}{}", id.path()), id.principal());
    if let Some((namespace, account)) = id.k8s() {
        let made = SpiffeId::service_account(&domain, namespace, account);
        assert_eq!(made.as_ref(), Ok(&id));
    }
}

/// SPIFFE-ID sections 2.1 to 2.4, read anew.
fn valid(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("spiffe://") else {
        return false;
    };
    let mut parts = rest.split('/');
    let domain = parts.next().unwrap_or_default();
    let of_domain = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_');
    let of_path = |c: char| of_domain(c) || c.is_ascii_uppercase();
    text.len() <= 2048
        && (1..=255).contains(&domain.len())
        && domain.chars().all(of_domain)
        && parts.all(|segment| !matches!(segment, "" | "." | "..") && segment.chars().all(of_path))
}
