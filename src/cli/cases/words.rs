//! Cases about one word each: paths, patterns, principals, SPIFFE IDs.

use serde_json::{Value, json};

use crate::cli::cases::expect::Judged;
use crate::cli::cases::harness::NOW_UNIX_S;
use crate::cli::cases::json::{Broken, text, text_or, texts};
use crate::cli::cases::request;
use crate::policy::{pattern, trust};
use crate::vocab::path::PathNormalization;
use crate::vocab::spiffe::{SpiffeId, TrustDomain};

/// `mesh.pathNormalization` by its word.
pub(super) fn normalization(mode: &str) -> Broken<PathNormalization> {
    match mode {
        "NONE" => Ok(PathNormalization::None),
        "BASE" | "DEFAULT" => Ok(PathNormalization::Base),
        "MERGE_SLASHES" => Ok(PathNormalization::MergeSlashes),
        "DECODE_AND_MERGE_SLASHES" => Ok(PathNormalization::DecodeAndMergeSlashes),
        other => Err(format!(
            "`{}` is not a path normalization",
            other.escape_debug()
        )),
    }
}

/// `normalize`: a target as sent, to path and query as forwarded.
pub(super) fn normalize(case: &Value) -> Judged {
    let judge = || {
        let mode = normalization(text(case, "mode")?)?;
        let target = text(case, "in")?;
        // A target in absolute form says the host itself.
        let host = if target.contains("://") {
            None
        } else {
            Some("localhost")
        };
        let (got, why) = match request::canonical("GET", host, target, &[], mode, NOW_UNIX_S) {
            Ok(request) => {
                let path = request.path.as_ref().map(|p| p.as_str().to_owned());
                (json!(path), None)
            }
            Err(refused) => (json!(refused.status), Some(refused.why)),
        };
        Ok(Judged::compare(case, "expect", got, why))
    };
    judge().into()
}

/// `td_expand`: values of `principals` over our trust domains, our own first.
pub(super) fn td_expand(case: &Value) -> Judged {
    let judge = || {
        let domains = texts(case, "trustDomains")?;
        let domains: Vec<TrustDomain> = domains
            .iter()
            .map(|name| TrustDomain::parse(name).map_err(|e| format!("`{name}`: {e}")))
            .collect::<Result<_, _>>()?;
        let expanded = trust::expand_principals(&texts(case, "principals")?, &domains);
        Ok(Judged::compare(case, "expect", json!(expanded), None))
    };
    judge().into()
}

/// `match`: one value against one pattern.
pub(super) fn text_match(case: &Value) -> Judged {
    let judge = || {
        match text_or(case, "as", "string")? {
            "string" => {}
            other => return Err(format!("`{}` is no way to match", other.escape_debug())),
        }
        let matches = pattern::text_matches(text(case, "pattern")?, text(case, "value")?);
        Ok(Judged::compare(case, "expect", json!(matches), None))
    };
    judge().into()
}

/// `id`: whether a string is a SPIFFE ID, and its parts.
pub(super) fn spiffe_id(case: &Value) -> Judged {
    let judge = || {
        let parsed = SpiffeId::parse(text(case, "id")?);
        let why = parsed.as_ref().err().map(ToString::to_string);
        let judged = Judged::compare(case, "valid", json!(parsed.is_ok()), why);
        let wrong = parsed.ok().and_then(|id| wrong_part(case, &id));
        Ok(judged.and(wrong))
    };
    judge().into()
}

/// The first part that is not as the case states it.
fn wrong_part(case: &Value, id: &SpiffeId) -> Option<String> {
    let k8s = id.k8s().map_or(
        Value::Null,
        |(namespace, account)| json!({ "namespace": namespace, "service_account": account }),
    );
    let parts = [
        ("trust_domain", json!(id.trust_domain())),
        ("path", json!(id.path())),
        ("k8s", k8s),
    ];
    let wrong = |(name, got): &(&str, Value)| case.get(*name).is_some_and(|want| want != got);
    let (name, got) = parts.into_iter().find(wrong)?;
    Some(format!("{name} is {got}"))
}
