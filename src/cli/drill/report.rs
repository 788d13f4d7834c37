//! What a drill found, as a table, JSON or JUnit XML.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::cli::os;

/// One thing that was tried.
#[derive(Clone, Debug)]
pub struct Check {
    /// What was tried.
    pub name: String,
    /// What must be.
    pub expected: String,
    /// What was seen.
    pub seen: String,
    /// Whether it is what must be.
    pub pass: bool,
}

/// One step of the drill.
#[derive(Clone, Debug)]
pub struct Step {
    /// Number in the story, from 1.
    pub number: u8,
    /// What it shows.
    pub title: &'static str,
    /// Everything that was tried.
    pub checks: Vec<Check>,
    /// How long it took.
    pub duration_ms: u128,
}

impl Step {
    /// A step without checks: it has not passed.
    #[must_use]
    pub fn new(number: u8, title: &'static str) -> Self {
        Self {
            number,
            title,
            checks: Vec::new(),
            duration_ms: 0,
        }
    }

    /// Notes one check.
    pub fn check(
        &mut self,
        name: impl Into<String>,
        expected: impl Into<String>,
        seen: impl Into<String>,
        pass: bool,
    ) {
        self.checks.push(Check {
            name: name.into(),
            expected: expected.into(),
            seen: seen.into(),
            pass,
        });
    }

    /// Something was checked and every check held.
    #[must_use]
    pub fn passed(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.pass)
    }
}

/// Form of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people; printed as the drill goes.
    Table,
    /// One JSON object.
    Json,
    /// JUnit XML.
    Junit,
}

fn word(pass: bool) -> &'static str {
    if pass { "PASS" } else { "FAIL" }
}

/// One step for people.
#[must_use]
pub fn table(step: &Step) -> String {
    let mut text = format!("{} {}. {}", word(step.passed()), step.number, step.title);
    for check in &step.checks {
        os::ignore(write!(
            text,
            "\n     {} {}: {}",
            if check.pass { "ok  " } else { "FAIL" },
            check.name,
            check.seen
        ));
        if !check.pass {
            os::ignore(write!(text, "\n          expected: {}", check.expected));
        }
    }
    text
}

/// The whole drill as JSON: `{result, steps: [{step, title, result, duration_ms, checks: [{name, result,
/// expected, seen}]}]}`.
#[must_use]
pub fn to_json(steps: &[Step]) -> Value {
    let check = |check: &Check| {
        json!({"name": check.name, "result": word(check.pass),
            "expected": check.expected, "seen": check.seen})
    };
    let step = |step: &Step| {
        json!({"step": step.number, "title": step.title, "result": word(step.passed()),
            "duration_ms": u64::try_from(step.duration_ms).unwrap_or(u64::MAX),
            "checks": step.checks.iter().map(check).collect::<Vec<_>>()})
    };
    json!({"result": word(steps.iter().all(Step::passed)),
        "steps": steps.iter().map(step).collect::<Vec<_>>()})
}

/// The whole drill as JUnit XML, one test case for each step.
#[must_use]
pub fn junit(steps: &[Step]) -> String {
    let failures = steps.iter().filter(|step| !step.passed()).count();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"ringgate drill\" tests=\"{}\" failures=\"{failures}\">\n",
        steps.len()
    );
    for step in steps {
        let name = escape(&format!("{}. {}", step.number, step.title));
        let seconds = format!("{}.{:03}", step.duration_ms / 1000, step.duration_ms % 1000);
        os::ignore(writeln!(
            xml,
            "  <testcase classname=\"drill\" name=\"{name}\" time=\"{seconds}\">"
        ));
        if step.checks.is_empty() {
            xml.push_str("    <failure message=\"nothing was checked\"/>\n");
        }
        for check in step.checks.iter().filter(|check| !check.pass) {
            os::ignore(writeln!(
                xml,
                "    <failure message=\"{}\">expected: {}\nseen: {}</failure>",
                escape(&check.name),
                escape(&check.expected),
                escape(&check.seen)
            ));
        }
        xml.push_str("  </testcase>\n");
    }
    xml.push_str("</testsuite>\n");
    xml
}

/// Text for an XML attribute or element; characters that XML 1.0 forbids become `?`.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<Step> {
        let mut good = Step::new(1, "good");
        good.check("a", "b", "b", true);
        let mut bad = Step::new(2, "bad & <worse>");
        bad.check("x", "200", "\u{1}\"403\"", false);
        vec![good, bad]
    }

    #[test]
    fn one_failed_check_fails_the_step_and_the_drill() {
        let steps = sample();
        assert!(!Step::new(3, "empty").passed());
        let value = to_json(&steps);
        assert_eq!(value["result"], "FAIL");
        assert_eq!(value["steps"][0]["result"], "PASS");
        assert_eq!(value["steps"][1]["checks"][0]["expected"], "200");
        assert_eq!(to_json(&steps[..1])["result"], "PASS");
    }

    #[test]
    fn xml_is_escaped() {
        let xml = junit(&sample());
        assert!(xml.contains("failures=\"1\""));
        assert!(xml.contains("bad &amp; &lt;worse&gt;"));
        assert!(xml.contains("seen: ?&quot;403&quot;"));
    }

    #[test]
    fn the_table_says_what_was_expected_only_on_failure() {
        let steps = sample();
        assert!(!table(&steps[0]).contains("expected"));
        assert!(table(&steps[1]).contains("expected: 200"));
    }
}
