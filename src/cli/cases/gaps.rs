//! Cases that are known to fail, each with its reason.

use serde::Deserialize;
use std::collections::BTreeMap;

use crate::cli::cases::report::{Report, Status};

/// A list of known gaps: a case on it that fails does not fail the run, one that passes does.
#[derive(Clone, Debug, Default)]
pub struct Gaps {
    reasons: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    gap: Vec<Gap>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Gap {
    /// Name of a case or, with an asterisk at its end, the beginning of names.
    cases: String,
    reason: String,
}

impl Gaps {
    /// Reads `[[gap]]` tables with `cases` and `reason`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let list: List = toml::from_str(text).map_err(|error| error.to_string())?;
        let mut reasons = BTreeMap::new();
        for Gap { cases, reason } in list.gap {
            if reason.trim().is_empty() {
                return Err(format!("gap `{cases}` has no reason"));
            }
            if reasons.insert(cases.clone(), reason).is_some() {
                return Err(format!("gap `{cases}` is listed twice"));
            }
        }
        Ok(Self { reasons })
    }

    fn of(&self, name: &str) -> Option<(&String, &String)> {
        let listed = |gap: &str| match gap.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => gap == name,
        };
        self.reasons.iter().find(|(gap, _)| listed(gap))
    }

    /// Marks listed failures as known, and fails what is listed and passes; what is listed and not there is noted.
    pub(super) fn apply(&self, report: &mut Report) {
        report.with_gaps = true;
        let mut met: BTreeMap<&String, usize> = self.reasons.keys().map(|gap| (gap, 0)).collect();
        for case in &mut report.cases {
            let Some((gap, reason)) = self.of(&case.name) else {
                continue;
            };
            *met.entry(gap).or_default() += 1;
            match case.status {
                Status::Failed => case.status = Status::Known,
                Status::Passed => {
                    case.status = Status::Failed;
                    case.reason = Some(format!("passes, but is listed as a known gap: {reason}"));
                }
                Status::Known => {}
            }
        }
        let unmet = met.into_iter().filter(|(_, met)| *met == 0);
        report
            .notes
            .extend(unmet.map(|(gap, _)| format!("no case for known gap `{gap}`")));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::cli::cases::expect::Judged;
    use crate::cli::cases::report::CaseResult;

    fn run(gaps: &str, cases: &[(&str, bool)]) -> (String, Vec<String>) {
        let mut report = Report::default();
        for (name, passed) in cases {
            let judged = Judged {
                expected: "a".to_owned(),
                got: "b".to_owned(),
                reason: None,
                passed: *passed,
            };
            let kind = "match".to_owned();
            let name = (*name).to_owned();
            let case = CaseResult::of(Path::new("f"), 1, name, kind, judged);
            report.cases.push(case);
        }
        Gaps::parse(gaps).unwrap().apply(&mut report);
        (report.summary(), report.failures().collect())
    }

    #[test]
    fn a_gap_excuses_failure_and_nothing_else() {
        let gap = "[[gap]]\ncases = \"a/*\"\nreason = \"r\"\n";
        assert_eq!(
            run(gap, &[("a/1", false), ("b", true)]).0,
            "1 passed, 0 failed, 1 known gaps"
        );
        assert_eq!(
            run(gap, &[("a/1", false), ("b", false)]).0,
            "0 passed, 1 failed, 1 known gaps"
        );
        let (summary, failures) = run(gap, &[("a/1", true)]);
        assert_eq!(summary, "0 passed, 1 failed, 0 known gaps");
        assert!(
            failures.iter().any(|f| f.contains("known gap: r")),
            "{failures:?}"
        );
        assert_eq!(
            run(gap, &[("b", true)]).0,
            "1 passed, 0 failed, 0 known gaps"
        );
    }

    #[test]
    fn lists_are_strict() {
        for bad in [
            "[[gap]]\ncases = \"a\"\n",
            "[[gap]]\ncases = \"a\"\nreason = \" \"\n",
            "[[gap]]\ncases = \"a\"\nreason = \"r\"\n[[gap]]\ncases = \"a\"\nreason = \"r\"\n",
            "[[gap]]\ncase = \"a\"\nreason = \"r\"\n",
        ] {
            assert!(Gaps::parse(bad).is_err(), "{bad}");
        }
    }
}
