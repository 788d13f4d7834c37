//! Rules as the configuration writes them.

use crate::policy::model::Rule;
use crate::role::remedy::fields::{Fields, condition_lists};

/// A TOML string.
pub(super) fn text(value: &str) -> String {
    toml::Value::String(value.to_owned()).to_string()
}

/// A TOML list of strings.
pub(super) fn list(values: &[String]) -> String {
    let all: Vec<String> = values.iter().map(|v| text(v)).collect();
    format!("[{}]", all.join(", "))
}

/// A rule: its keys, a line each; none for the rule that holds always.
#[must_use]
pub fn rule(rule: &Rule) -> String {
    let mut out = String::new();
    let sources: Vec<String> = rule.from.iter().map(|s| clause("source", s)).collect();
    let operations: Vec<String> = rule.to.iter().map(|o| clause("operation", o)).collect();
    let conditions: Vec<String> = rule
        .when
        .iter()
        .map(|condition| {
            let mut keys = format!("key = {}", text(&condition.key));
            for (name, values) in condition_lists(condition) {
                if !values.is_empty() {
                    keys.push_str(&format!(", {name} = {}", list(values)));
                }
            }
            format!("{{ {keys} }}")
        })
        .collect();
    for (name, clauses) in [("from", sources), ("to", operations), ("when", conditions)] {
        if !clauses.is_empty() {
            out.push_str(&format!("{name} = [{}]\n", clauses.join(", ")));
        }
    }
    out
}

fn clause<F: Fields>(name: &str, of: &F) -> String {
    let fields = of.fields();
    let written: Vec<String> = fields
        .into_iter()
        .filter(|(_, values)| !values.is_empty())
        .map(|(field, values)| format!("{field} = {}", list(values)))
        .collect();
    format!("{{ {name} = {{ {} }} }}", written.join(", "))
}
