//! Cases about identities: certificate chains and JWT-SVIDs (policy semantics section 10).

use std::path::Path;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use serde_json::{Value, json};

use crate::cli::cases::expect::{Judged, show};
use crate::cli::cases::harness::{Harness, NOW_UNIX_S};
use crate::cli::cases::json::{Broken, integer_or, member, object, text, text_or, texts};
use crate::identity::pem;
use crate::identity::verify::{Usage, verify_svid};
use crate::jwt::svid;
use crate::vocab::spiffe::TrustDomain;

/// `cert`: whether a chain authenticates its holder, and as whom.
pub(super) fn chain(case: &Value, harness: &Harness, path: &Path) -> Judged {
    run_chain(case, harness, path).into()
}

fn run_chain(case: &Value, harness: &Harness, path: &Path) -> Broken<Judged> {
    let bundles = harness.bundles(path)?;
    let seconds = u64::try_from(integer_or(case, "now", NOW_UNIX_S)?).map_err(|e| e.to_string())?;
    let now = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
    let usage = match text_or(case, "role", "client")? {
        "client" => Usage::Client,
        "server" => Usage::Server,
        other => return Err(format!("`{}` is no role", other.escape_debug())),
    };
    let mut chain = Vec::new();
    for certificate in texts(case, "chain")? {
        match pem::certificates(certificate.as_bytes()) {
            Ok(found) => chain.extend(found),
            // A peer that sends what is no certificate authenticates nobody.
            Err(error) => {
                let why = Some(error.to_string());
                return Ok(Judged::compare(case, "accept", json!(false), why));
            }
        }
    }
    let found = verify_svid(&chain, &bundles, now, usage);
    let why = found.as_ref().err().map(ToString::to_string);
    let judged = Judged::compare(case, "accept", json!(found.is_ok()), why);
    let wrong = found.ok().and_then(|id| {
        let want = member(case, "identity")?;
        (*want != json!(id.as_str())).then(|| format!("identity {id}, expected {}", show(want)))
    });
    Ok(judged.and(wrong))
}

/// `jwt-svid`: whether a JWT-SVID with these header fields and claims is accepted; `signature` says whether it fits.
pub(super) fn jwt_svid(case: &Value, harness: &Harness, path: &Path) -> Judged {
    run_jwt_svid(case, harness, path).into()
}

fn run_jwt_svid(case: &Value, harness: &Harness, path: &Path) -> Broken<Judged> {
    let bundles = harness.bundles(path)?;
    let known: Vec<TrustDomain> = bundles
        .trust_domains()
        .map(|name| TrustDomain::parse(name).map_err(|e| format!("`{name}`: {e}")))
        .collect::<Broken<_>>()?;
    let part = |key| object(case, key)?.ok_or_else(|| format!("`{key}` is missing"));
    let now = integer_or(case, "now", NOW_UNIX_S)?;
    let audience = text(case, "audience")?;
    let found = svid::check(part("header")?, part("claims")?, audience, now, &known);
    let (accepted, why) = match (text_or(case, "signature", "valid")?, found) {
        ("valid", Ok(_)) => (true, None),
        (_, Ok(_)) => (false, Some("signature does not fit".to_owned())),
        (_, Err(error)) => (false, Some(error.to_string())),
    };
    Ok(Judged::compare(case, "accept", json!(accepted), why))
}
