//! A report as lines for people.

use crate::cli::os;

use super::compare::Compared;
use super::report::{EditText, Point, Report, RuleText};

/// The lines.
pub(super) fn render(report: &Report) -> String {
    let mut out = format!("{}\n", report.question);
    let verdict = match (report.is_allowed(), report.would_deny) {
        (true, true) => "ALLOWED in dry run, would be denied",
        (true, false) => "ALLOWED",
        (false, _) => "DENIED",
    };
    let at = match &report.decided_at {
        Some(at) if !report.is_allowed() || report.would_deny => format!(" at {at}"),
        Some(_) | None => String::new(),
    };
    out.push_str(&format!("{verdict}{at}: {}\n", report.answer));
    if let Some(record) = &report.record {
        recorded(&mut out, record);
    }
    if !report.steps.is_empty() {
        out.push('\n');
        for (i, step) in report.steps.iter().enumerate() {
            out.push_str(&format!("{}. {step}\n", i + 1));
        }
    }
    if !report.way.is_empty() {
        out.push_str("\non the way\n");
        report.way.iter().for_each(|point| way(&mut out, point));
    }
    rule(&mut out, report);
    if let Some(rule) = &report.with_token {
        out.push_str("\nwith a token that fits it would pass\n");
        out.push_str(&format!("  {}\n", named(rule)));
    }
    for (i, edits) in report.edits.iter().enumerate() {
        out.push_str(match (i, report.edits.len()) {
            (0, _) if report.with_token.is_some() => "\nto allow it without a token\n",
            (0, 1) => "\nto allow it\n",
            (0, _) => "\nto allow it and as little else as can be\n",
            _ => "\nor, broader\n",
        });
        edits.iter().for_each(|one| edit(&mut out, one));
    }
    if !report.notes.is_empty() {
        out.push('\n');
        for note in &report.notes {
            out.push_str(&format!("note: {note}\n"));
        }
    }
    os::printable(&out)
}

/// What the record says, and whether that is so by this configuration.
fn recorded(out: &mut String, record: &Compared) {
    let generation = record.generation;
    let generation = generation.map_or_else(String::new, |g| format!(" at generation {g}"));
    let than = match (record.differs, record.uncertain) {
        (false, _) if record.unjudged => "no policy was asked",
        (false, _) => "this configuration decides the same",
        (true, false) if record.with_claims => {
            "with the claims given this configuration decides otherwise"
        }
        (true, false) => "this configuration decides OTHERWISE",
        (true, true) => {
            "this configuration decides otherwise, PERHAPS ONLY because its policies read header fields, claims or values of a query that the record does not hold"
        }
    };
    let failed = record
        .failed
        .as_ref()
        .map_or_else(String::new, |(status, close)| {
            format!(", and then {status} ({close})")
        });
    out.push_str(&format!(
        "recorded: {}{failed}{generation}, {}; {than}\n",
        record.verdict, record.reason
    ));
    if let Some(running) = record.running {
        let same = record.generation == Some(running);
        let word = if same { "the same" } else { "ANOTHER one" };
        out.push_str(&format!("the process runs generation {running}, {word}\n"));
    }
}

fn way(out: &mut String, point: &Point) {
    let verdict = match (point.verdict, point.would_deny) {
        ("allow", true) => "dry run",
        (verdict, _) => verdict,
    };
    let only = if point.hypothetical {
        " (if it came so far)"
    } else {
        ""
    };
    out.push_str(&format!(
        "  {verdict:<5} {}, {}: {}",
        point.at, point.by, point.reason
    ));
    if let Some(policy) = &point.policy {
        let rule = point
            .rule
            .map_or_else(String::new, |r| format!(" rule {r}"));
        out.push_str(&format!(" [{policy}{rule}]"));
    }
    out.push_str(only);
    out.push('\n');
    if point.audit {
        out.push_str("        an AUDIT policy matches\n");
    }
    for shadow in &point.dry_run {
        out.push_str(&format!("        {shadow}\n"));
    }
    // Who said no is in the line itself.
    if !point.asked.is_empty() && point.by != "CUSTOM" {
        let asked = point.asked.join(", ");
        out.push_str(&format!(
            "        asks {asked}: a yes, unless --custom says otherwise\n"
        ));
    }
}

fn rule(out: &mut String, report: &Report) {
    let Some(rule) = &report.rule else {
        return;
    };
    let title = if rule.nearest {
        "nearest rule"
    } else {
        "rule that decides"
    };
    out.push_str(&format!("\n{title}: {}\n", named(rule)));
    match rule.rule {
        Some(_) if rule.toml.is_empty() => out.push_str("  {} (anything)\n"),
        Some(_) => indent(out, &rule.toml),
        None => out.push_str("  it has no rules: it allows nothing\n"),
    }
    for miss in &report.misses {
        let got = if miss.got.is_empty() {
            "nothing".to_owned()
        } else {
            miss.got.join(", ")
        };
        out.push_str(&format!(
            "  misses {}: {}, got {got}\n",
            miss.key, miss.needs
        ));
    }
}

/// Policy, number and place of a rule.
fn named(rule: &RuleText) -> String {
    let number = rule
        .rule
        .map_or_else(String::new, |r| format!(", rule {r}"));
    let place = rule.place.as_ref();
    let place = place.map_or_else(String::new, |p| format!(", {p}"));
    format!("{} ({}){number}{place}", rule.policy, rule.action)
}

fn edit(out: &mut String, edit: &EditText) {
    out.push_str(&format!("  {}:\n", edit.edit));
    for line in edit.toml.lines() {
        let space = if line.is_empty() { "" } else { "      " };
        out.push_str(&format!("{space}{line}\n"));
    }
    let word = if edit.broader { "warning: " } else { "" };
    out.push_str(&format!("    {word}{}\n", edit.allows));
}

fn indent(out: &mut String, text: &str) {
    for line in text.lines() {
        out.push_str(&format!("  {line}\n"));
    }
}
