//! `egress` cases: which service of the registry a host and port mean.

use serde_json::{Value, json};

use crate::cli::cases::attached::MeshSettings;
use crate::cli::cases::expect::Judged;

/// `egress`: the name of a service entry, `blocked` or `passthrough`.
pub(super) fn judge(case: &Value) -> Judged {
    let judge = || {
        let mesh = MeshSettings::read(case)?;
        let got = if mesh.allow_any { "passthrough" } else { "blocked" };
        Ok(Judged::compare(case, "expect", json!(got), None))
    };
    judge().into()
}
