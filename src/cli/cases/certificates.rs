//! Cases about identities: certificate chains and JWT-SVIDs (policy semantics section 10).

use std::path::Path;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use serde_json::{Value, json};

use crate::cli::cases::expect::{Judged, show};
use crate::cli::cases::harness::{Harness, NOW_UNIX_S};
use crate::cli::cases::json::{Broken, integer_or, member, text_or, texts};
use crate::identity::pem;
use crate::identity::verify::{Usage, verify_svid};

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

/// `jwt-svid`: whether a JWT-SVID with these header fields and claims is accepted.
pub(super) fn jwt_svid(_case: &Value) -> Judged {
    Judged::broken("JWT-SVIDs are not verified yet")
}
