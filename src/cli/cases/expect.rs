//! What a case expects and what it got.

use serde_json::Value;

/// The answer to one case.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    /// What the case wants, for the report.
    pub(super) expected: String,
    /// What came out, for the report.
    pub(super) got: String,
    /// Why it came out so, or what else is wrong.
    pub(super) reason: Option<String>,
    /// Whether they agree.
    pub(super) passed: bool,
}

impl Judged {
    /// A case that cannot be judged: it fails.
    pub(super) fn broken(why: impl Into<String>) -> Self {
        Self {
            expected: String::new(),
            got: String::new(),
            reason: Some(why.into()),
            passed: false,
        }
    }

    /// Compares with member `key` of the case, and with `also_ok`, one or a list.
    pub(super) fn compare(
        case: &Value,
        key: &str,
        got: impl Into<Value>,
        reason: Option<String>,
    ) -> Self {
        let got = got.into();
        let Some(want) = case.get(key) else {
            return Self::broken(format!("`{key}` is missing"));
        };
        let passed = got == *want || one_of(case.get("also_ok"), &got);
        Self {
            expected: show(want),
            got: show(&got),
            reason,
            passed,
        }
    }

    /// The same, but something beside the answer is wrong.
    pub(super) fn and(mut self, wrong: Option<String>) -> Self {
        if let Some(wrong) = wrong {
            self.passed = false;
            self.reason = Some(match self.reason {
                Some(reason) => format!("{wrong}; {reason}"),
                None => wrong,
            });
        }
        self
    }
}

impl From<Result<Self, String>> for Judged {
    fn from(result: Result<Self, String>) -> Self {
        result.unwrap_or_else(Self::broken)
    }
}

/// Whether `value` is `allowed`, or one of its elements.
pub(super) fn one_of(allowed: Option<&Value>, value: &Value) -> bool {
    match allowed {
        Some(Value::Array(all)) => all.contains(value),
        Some(one) => one == value,
        None => false,
    }
}

/// A value as the report shows it.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.escape_debug().to_string(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            value.to_string()
        }
    }
}
