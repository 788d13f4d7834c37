//! The L4 decision with ten thousand policies, by the micro bench that has it.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};

/// Runs `benches/policy.rs`, in the profile that everything else is built in, and keeps the lines of the L4 decision.
pub(crate) fn run(root: &Path) -> Result<Vec<String>> {
    let output = Command::new("cargo")
        .args(["bench", "--profile", "release", "--locked"])
        .args(["--bench", "policy", "--", "l4-.*/10-rules/10000"])
        .current_dir(root)
        .output()?;
    ensure!(
        output.status.success(),
        "cargo bench: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = estimates(&text);
    ensure!(
        !lines.is_empty(),
        "the micro bench printed no estimate:\n{text}"
    );
    let mut table = vec![
        "**L4 decision, 10,000 policies of ten rules** (`decision`)\n".to_owned(),
        "| case | time |\n|---|---|".to_owned(),
    ];
    table.extend(lines);
    Ok(table)
}

/// Criterion's `NAME time: [low middle high]`, the name possibly on a line of its own.
fn estimates(text: &str) -> Vec<String> {
    let mut name = "";
    let mut rows = Vec::new();
    for line in text.lines() {
        let before = line.split("time:").next().unwrap_or_default().trim();
        if before.starts_with("l4-") {
            name = before;
        }
        let Some((_, interval)) = line.split_once("time:") else {
            continue;
        };
        let words: Vec<&str> = interval
            .split_whitespace()
            .map(|word| word.trim_matches(['[', ']']))
            .collect();
        if let [low, low_unit, middle, unit, high, high_unit] = words.as_slice() {
            rows.push(format!(
                "| {name} | {middle} {unit} ({low} {low_unit}–{high} {high_unit}) |"
            ));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::estimates;

    #[test]
    fn estimates_are_found_on_one_line_and_on_two() {
        let text = "noise\nl4-allow/hit/10-rules/10000\n    time:   [900.1 ns 901.2 ns 902.3 ns]\n\
                    l4-deny/miss/10 time: [1.0 us 1.1 us 1.2 us]\nchange: [1 2 3]\n";
        assert_eq!(
            estimates(text),
            [
                "| l4-allow/hit/10-rules/10000 | 901.2 ns (900.1 ns–902.3 ns) |",
                "| l4-deny/miss/10 | 1.1 us (1.0 us–1.2 us) |"
            ]
        );
    }
}
