//! The kernel's rules and routes, through the programs that every machine has for them: `nft` and `ip`.

use std::time::Duration;

use crate::control::capture::keep::ALIVE_S;
use crate::control::capture::{CaptureError, Wanted};
use crate::control::launcher;
use crate::io::clock;
use crate::io::nft_turn::{self, Turn};
use crate::role::capture::{Running, TABLE, teardown};
use crate::vocab::capture::{MARK_MASK, OUT_MARK};

/// Place of our rule among the rules of routing, and its name there: no second one is added.
const PREFERENCE: &str = "15001";
const FAMILIES: [&str; 2] = ["-4", "-6"];

/// How long the rules wait for somebody else who is loading them.
const TURN: Duration = Duration::from_secs(5);
const TURN_LOOK: Duration = Duration::from_millis(5);

/// The turn's name, which no table of rules has.
const TURN_NAME: &str = "ringgate-turn";

/// Held while looking at the machine and loading what follows from it: the commands and a running node of one network
/// namespace take turns. Nobody waits longer than `TURN`, whoever holds it.
#[expect(
    clippy::disallowed_methods,
    reason = "programs are run and waited for here, never on a core"
)]
pub(super) fn turn() -> Option<Turn> {
    let begun = clock::now();
    loop {
        match nft_turn::take(TURN_NAME) {
            Ok(Some(turn)) => return Some(turn),
            Ok(None) if begun.elapsed() > TURN => {
                tracing::warn!("somebody else has been loading capture rules for long");
                return None;
            }
            Ok(None) => std::thread::sleep(TURN_LOOK),
            Err(error) => {
                tracing::warn!(%error, "capture rules are loaded without a turn");
                return None;
            }
        }
    }
}

/// Loads what is wanted; what was loaded before is replaced in one transaction.
///
/// # Errors
/// `CaptureError`; the rules that were there still are.
pub(super) fn set_up(wanted: &Wanted) -> Result<(), CaptureError> {
    // Routes first: rules without them would lead to nowhere.
    match wanted.route_table {
        Some(table) => {
            for family in families() {
                route(family, table)?;
            }
        }
        None => remove_routes()?,
    }
    nft(&wanted.script)
}

/// Takes away all that `set_up` may have loaded; no error if there is nothing.
///
/// # Errors
/// `CaptureError`.
pub fn remove() -> Result<(), CaptureError> {
    let _turn = turn();
    nft(&teardown())?;
    remove_routes()
}

/// What differs between what is loaded and what is wanted; empty if nothing does.
///
/// # Errors
/// `CaptureError` if they cannot be compared.
pub fn status(wanted: &Wanted) -> Result<Vec<String>, CaptureError> {
    let mut differences = Vec::new();
    match listing()? {
        None => differences.push(format!("table inet {TABLE} is not loaded")),
        Some(loaded) => {
            let expected = expected(&wanted.script)?;
            differences.extend(difference(&settled(&loaded), &settled(&expected)));
        }
    }
    for family in families() {
        let (rule, route) = (
            rule_words(family)?,
            route_is_there(family, wanted.route_table)?,
        );
        let want = wanted.route_table.map(rule_text);
        if rule != want {
            differences.push(format!(
                "ip {family} rule: loaded `{}`, wanted `{}`",
                rule.unwrap_or_default(),
                want.unwrap_or_default()
            ));
        }
        if !route {
            differences.push(format!("ip {family} route: no diverting route"));
        }
    }
    Ok(differences)
}

/// Whether the table is there.
pub(super) fn is_loaded() -> Result<bool, CaptureError> {
    listing().map(|listing| listing.is_some())
}

/// The node that runs, as far as the loaded table tells.
pub(super) fn running() -> Result<Option<Running>, CaptureError> {
    Ok(listing()?.as_deref().and_then(signs))
}

/// The signs of life in a listing.
fn signs(listing: &str) -> Option<Running> {
    let first = |set: &str| {
        let start = format!("set {set} {{");
        let lines = listing.lines().map(str::trim);
        let mut lines = lines
            .skip_while(|line| *line != start)
            .take_while(|line| *line != "}");
        let elements = lines.find_map(|line| line.strip_prefix("elements = {"));
        elements?.split_whitespace().next()
    };
    let uid = first("own").and_then(|uid| uid.parse().ok());
    (uid.is_some() || first("alive").is_some()).then_some(Running {
        uid,
        for_s: ALIVE_S,
    })
}

/// The table as it is loaded, without counters.
fn listing() -> Result<Option<String>, CaptureError> {
    let tables = run("nft", "nftables", &["list", "tables"], "")?;
    let ours = format!("table inet {TABLE}");
    if !tables.lines().any(|line| line.trim() == ours) {
        return Ok(None);
    }
    run(
        "nft",
        "nftables",
        &["-s", "list", "table", "inet", TABLE],
        "",
    )
    .map(Some)
}

/// As the kernel would list the script: it is loaded into a network namespace that ends with the question.
fn expected(script: &str) -> Result<String, CaptureError> {
    let list = format!("nft -f - && nft -s list table inet {TABLE}");
    run(
        "unshare",
        "util-linux",
        &["--net", "sh", "-c", &list],
        script,
    )
}

/// Lines without what a running node writes into its sets.
fn settled(listing: &str) -> Vec<&str> {
    let passing = |line: &str| line.contains(" timeout ") && line.contains("elements");
    listing
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !passing(line))
        .collect()
}

/// The first line in which they differ.
fn difference(loaded: &[&str], wanted: &[&str]) -> Option<String> {
    let longest = loaded.len().max(wanted.len());
    (0..longest).find_map(|at| {
        let (loaded, wanted) = (loaded.get(at), wanted.get(at));
        let show = |line: Option<&&str>| line.map_or("nothing", |line| *line).to_owned();
        (loaded != wanted).then(|| {
            format!(
                "table inet {TABLE}: loaded `{}`, wanted `{}`",
                show(loaded),
                show(wanted)
            )
        })
    })
}

/// IPv6 is left out where the kernel has none.
fn families() -> impl Iterator<Item = &'static str> {
    let v6 = std::path::Path::new("/proc/sys/net/ipv6").exists();
    FAMILIES.into_iter().filter(move |f| v6 || *f != "-6")
}

fn ip(words: &[&str]) -> Result<String, CaptureError> {
    run("ip", "iproute2", words, "")
}

fn rule_text(table: u32) -> String {
    format!("from all fwmark {OUT_MARK:#x}/{MARK_MASK:#x} lookup {table}")
}

/// Our rule as it is.
fn rule_words(family: &str) -> Result<Option<String>, CaptureError> {
    let shown = ip(&[family, "rule", "show", "pref", PREFERENCE])?;
    let rules: Vec<&str> = shown
        .lines()
        .filter_map(|line| Some(line.split_once(':')?.1.trim()))
        .collect();
    Ok((!rules.is_empty()).then(|| rules.join("; ")))
}

fn route_is_there(family: &str, table: Option<u32>) -> Result<bool, CaptureError> {
    let Some(table) = table else { return Ok(true) };
    let table = table.to_string();
    // A table that nobody has used yet is an error to `ip`.
    let shown = ip(&[family, "route", "show", "table", &table]).unwrap_or_default();
    Ok(shown
        .lines()
        .any(|line| line.starts_with("local default dev lo")))
}

fn route(family: &str, table: u32) -> Result<(), CaptureError> {
    if rule_words(family)? != Some(rule_text(table)) {
        remove_rules(family)?;
        let mark = format!("{OUT_MARK:#x}/{MARK_MASK:#x}");
        let table = table.to_string();
        ip(&[
            family, "rule", "add", "fwmark", &mark, "lookup", &table, "pref", PREFERENCE,
        ])?;
    }
    let table = table.to_string();
    ip(&[
        family, "route", "replace", "local", "default", "dev", "lo", "table", &table,
    ])
    .map(drop)
}

fn remove_routes() -> Result<(), CaptureError> {
    for family in families() {
        let rule = rule_words(family)?;
        let tables = rule.iter().flat_map(|words| words.split(' '));
        let tables: Vec<&str> = tables
            .zip(rule.iter().flat_map(|words| words.split(' ').skip(1)))
            .filter(|(word, _)| *word == "lookup")
            .map(|(_, table)| table.trim_end_matches(';'))
            .collect();
        for table in tables {
            if route_is_there(family, table.parse().ok())? {
                ip(&[
                    family, "route", "del", "local", "default", "dev", "lo", "table", table,
                ])?;
            }
        }
        remove_rules(family)?;
    }
    Ok(())
}

fn remove_rules(family: &str) -> Result<(), CaptureError> {
    let shown = ip(&[family, "rule", "show", "pref", PREFERENCE])?;
    for _ in shown.lines() {
        ip(&[family, "rule", "del", "pref", PREFERENCE])?;
    }
    Ok(())
}

/// Runs a script, whole or not at all.
pub(super) fn nft(script: &str) -> Result<(), CaptureError> {
    run("nft", "nftables", &["-f", "-"], script).map(drop)
}

/// Runs a program to its end; its output.
fn run(
    program: &'static str,
    package: &'static str,
    words: &[&str],
    input: &str,
) -> Result<String, CaptureError> {
    let start = |source| CaptureError::Start {
        program,
        package,
        source,
    };
    // A node that serves may start nothing itself.
    let asked = launcher::launcher().and_then(|launcher| launcher.run(program, words, input));
    let done = asked.unwrap_or_else(|| launcher::run(program, words, input));
    let output = done.map_err(start)?;
    if output.success {
        return Ok(output.out);
    }
    let said = output.err.trim().to_owned();
    Err(CaptureError::Refused {
        program: format!("{program} {}", words.join(" ")),
        said,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_node_is_seen_by_its_signs() {
        let listing = |own: &str, alive: &str| {
            format!(
                "table inet ringgate {{\n\tset exempt {{\n\t\ttype uid\n\t\telements = {{ 9 }}\n\t}}\n\n\tset own {{\n\t\ttype uid\n\t\tflags timeout\n{own}\t}}\n\n\tset alive {{\n\t\ttype nf_proto\n{alive}\t}}\n}}\n"
            )
        };
        let own = "\t\telements = { 990 timeout 3s expires 2s992ms }\n";
        let alive = "\t\telements = { ipv4 timeout 3s expires 2s,\n\t\t\t     ipv6 timeout 3s expires 2s }\n";
        let signs = |own, alive| signs(&listing(own, alive)).map(|r| r.uid);
        assert_eq!(signs("", ""), None);
        assert_eq!(signs(own, ""), Some(Some(990)));
        assert_eq!(signs("", alive), Some(None));
        assert_eq!(signs(own, alive), Some(Some(990)));
    }

    #[test]
    fn the_first_difference_is_told() {
        let loaded = "table inet ringgate {\n\tset own {\n\t\telements = { 5 timeout 3s expires 2s }\n\t}\n}\n";
        let wanted = "table inet ringgate {\n\tset own {\n\t}\n}\n";
        assert_eq!(difference(&settled(loaded), &settled(wanted)), None);
        let other = "table inet ringgate {\n\tset x {\n\t}\n}\n";
        let told = difference(&settled(loaded), &settled(other)).unwrap();
        assert!(
            told.contains("loaded `set own {`, wanted `set x {`"),
            "{told}"
        );
        assert!(difference(&settled(loaded), &[]).is_some());
    }
}
