//! Certificates: no bytes prove an identity that no authority has signed.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::Duration;

use ringgate::identity::bundle::TrustBundles;
use ringgate::identity::verify::{Usage, verify_svid};
use ringgate::identity::{leaf, pem};
use ringgate::vocab::spiffe::TrustDomain;
use rustls::pki_types::{CertificateDer, UnixTime};
use serde_json::Value;

const BUNDLE: &str = include_str!("../../data/conformance/spiffe_bundle.json");
const CHAINS: &str = include_str!("../../data/conformance/spiffe_cert.jsonl");
/// When the test certificates are valid.
const NOW: u64 = 1_763_800_000;

struct Known {
    bundles: TrustBundles,
    /// What the authorities have signed.
    identities: BTreeSet<String>,
    /// The intermediates of those chains.
    issuers: Vec<CertificateDer<'static>>,
}

fn known() -> &'static Known {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let mut bundles = TrustBundles::new();
        let roots: Value = serde_json::from_str(BUNDLE).expect("the bundle is JSON");
        for (name, roots) in roots.as_object().expect("of trust domains") {
            let Ok(domain) = TrustDomain::parse(name) else {
                continue;
            };
            for root in certificates(roots) {
                bundles.add(&domain, &root).expect("a root");
            }
        }
        let (mut identities, mut issuers) = (BTreeSet::new(), Vec::new());
        for line in CHAINS.lines() {
            let case: Value = serde_json::from_str(line).expect("a case is JSON");
            let chain = certificates(&case["chain"]);
            let leaf = chain.first().and_then(|leaf| leaf::id(leaf).ok());
            identities.extend(leaf.map(|id| id.as_str().to_owned()));
            for issuer in chain.into_iter().skip(1) {
                if !issuers.contains(&issuer) && issuers.len() < 4 {
                    issuers.push(issuer);
                }
            }
        }
        assert!(!identities.is_empty() && !issuers.is_empty());
        Known {
            bundles,
            identities,
            issuers,
        }
    })
}

fn certificates(value: &Value) -> Vec<CertificateDer<'static>> {
    let one = value.as_str().into_iter();
    let several = value.as_array().into_iter().flatten();
    let texts: Vec<&str> = one.chain(several.filter_map(Value::as_str)).collect();
    let parsed = texts
        .iter()
        .filter_map(|t| pem::certificates(t.as_bytes()).ok());
    parsed.flatten().collect()
}

/// A leaf in DER.
pub fn run(data: &[u8]) {
    let der = CertificateDer::from(data);
    let found = leaf::check(&der);
    assert_eq!(found, leaf::check(&der), "two answers");
    let Ok(found) = found else {
        return;
    };
    assert_eq!(leaf::id(&der).as_ref(), Ok(&found.id));
    assert!(!found.id.path().is_empty());
    let known = known();
    let chain: Vec<_> = std::iter::once(der)
        .chain(known.issuers.iter().cloned())
        .collect();
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW));
    if let Ok(id) = verify_svid(&chain, &known.bundles, now, Usage::Client) {
        assert!(
            known.identities.contains(id.as_str()),
            "{id} was never signed"
        );
    }
    let nobody = verify_svid(&chain, &TrustBundles::new(), now, Usage::Client);
    assert!(nobody.is_err(), "verified without a root");
}
