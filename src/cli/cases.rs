//! Policy tests: cases in JSON lines and tests in TOML, judged by the code that judges traffic.
//!
//! A JSON case holds all that it needs: mesh, policies, request, expected answer. A TOML test is about a
//! configuration and judges what its data path would judge for the destination.

mod attached;
mod authz;
mod certificates;
mod configured;
mod egress;
mod expect;
mod file;
mod gaps;
mod harness;
mod json;
mod names;
mod present;
mod report;
mod request;
mod resources;
mod token;
mod trial;
mod words;
mod written;

use std::path::{Path, PathBuf};

use serde_json::Value;

pub use gaps::Gaps;
pub use report::{CaseResult, Report, Status};

use crate::cli::cases::expect::Judged;
use crate::cli::cases::file::{Line, TestFile};
use crate::cli::cases::harness::Harness;
use crate::cli::os;
use crate::config::nearest::hint;

/// What the cases are judged with, beside what they hold themselves.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Configuration that TOML tests are about, unless they name one.
    pub config: Option<PathBuf>,
    /// Key set that names of keys are looked up in; `jwks.json` beside the test file if absent.
    pub jwks: Option<PathBuf>,
    /// Trust bundles by trust domain; `spiffe_bundle.json` beside the test file if absent.
    pub bundle: Option<PathBuf>,
}

/// Runs every case of `files`.
///
/// # Errors
/// A file that cannot be read. What is wrong inside a file is a failed case of the report.
pub fn run(files: &[PathBuf], options: &Options, gaps: Option<&Gaps>) -> anyhow::Result<Report> {
    let mut report = Report::default();
    let mut read = Vec::with_capacity(files.len());
    for path in files {
        read.push((path, file::read(path)?));
    }
    let given = |wanted: fn(&TestFile) -> bool| {
        let found = read.iter().find(|(_, content)| wanted(content));
        found.map(|(path, _)| path.to_path_buf())
    };
    let harness = Harness::new(
        options.jwks.clone(),
        options.bundle.clone(),
        given(|f| matches!(f, TestFile::KeySet)),
        given(|f| matches!(f, TestFile::Bundles)),
    )?;
    for (path, content) in &read {
        let before = report.cases.len();
        match content {
            TestFile::KeySet | TestFile::Bundles => continue,
            TestFile::Other(why) => {
                report.notes.push(format!("{}: {why}", path.display()));
                continue;
            }
            TestFile::Toml(text) => {
                let config = options.config.as_deref();
                report
                    .cases
                    .extend(configured::run(path, text, config, &harness));
            }
            TestFile::Lines(lines) => {
                for line in lines {
                    report.cases.push(case(path, line, &harness));
                }
            }
        }
        if report.cases.len() == before {
            report.cases.push(CaseResult::no_cases(path));
        }
    }
    if report.cases.is_empty() {
        for (path, _) in &read {
            report.cases.push(CaseResult::no_cases(path));
        }
    }
    if let Some(gaps) = gaps {
        gaps.apply(&mut report);
    }
    Ok(report)
}

fn case(path: &Path, line: &Line, harness: &Harness) -> CaseResult {
    match &line.case {
        Ok(case) => {
            let (kind, judged) = judge(case, harness, path);
            CaseResult::of(path, line.number, json::name(case), kind, judged)
        }
        Err(why) => CaseResult::broken(path, line.number, why),
    }
}

/// What `kind` may be.
const KINDS: [&str; 13] = [
    "authz",
    "normalize",
    "td_expand",
    "match",
    "id",
    "attach",
    "peerauthn",
    "validate",
    "egress",
    "san",
    "jwt",
    "cert",
    "jwt-svid",
];

/// Keys of an `authz` case, and of its request, that are read. One that is nearly one of these is a misspelling, and
/// would leave the case without what it is about; any other is a remark.
const AUTHZ_KEYS: [&str; 10] = [
    "id", "kind", "level", "dialect", "mesh", "workload", "policies", "request", "expect",
    "also_ok",
];
const REQUEST_KEYS: [&str; 10] = [
    "source", "dest", "method", "host", "path", "headers", "tls", "now", "tokens", "custom",
];
/// Remarks that cases carry.
const REMARKS: [&str; 13] = [
    "origin",
    "basis",
    "features",
    "confirmed_by",
    "peer",
    "note",
    "warning",
    "spec",
    "oracle",
    "why",
    "expect_shadow",
    "expect_audit",
    "expect_upstream",
];

/// The first key of an `authz` case that looks like a misspelling.
fn misspelt(case: &Value) -> Option<String> {
    let near = |object: Option<&Value>, keys: &[&str]| {
        let written = object.and_then(Value::as_object)?.keys();
        let mut unknown =
            written.filter(|k| !keys.contains(&k.as_str()) && !REMARKS.contains(&k.as_str()));
        unknown.find_map(|key| {
            let near = hint(key, keys.iter().copied());
            let key = key.escape_debug();
            (!near.is_empty()).then(|| format!("`{key}`: unknown key{near}"))
        })
    };
    near(Some(case), &AUTHZ_KEYS).or_else(|| near(case.get("request"), &REQUEST_KEYS))
}

/// Judges one case by its kind, which its content tells.
fn judge(case: &Value, harness: &Harness, path: &Path) -> (String, Judged) {
    let kind = match case.get("kind").and_then(Value::as_str) {
        Some(kind) => kind,
        None if case.get("rule").is_some() && case.get("keys").is_some() => "jwt",
        None => "",
    };
    let judged = match kind {
        "authz" => match misspelt(case) {
            Some(why) => Judged::broken(why),
            None => authz::judge(case, harness),
        },
        "normalize" => words::normalize(case),
        "td_expand" => words::td_expand(case),
        "match" => words::text_match(case),
        "id" => words::spiffe_id(case),
        "attach" => attached::attach(case),
        "peerauthn" => attached::peerauthn(case),
        "validate" => attached::validate(case),
        "egress" => egress::judge(case),
        "san" => names::judge(case),
        "jwt" => token::judge(case, harness, path),
        "cert" => certificates::chain(case, harness, path),
        "jwt-svid" => certificates::jwt_svid(case, harness, path),
        "" => Judged::broken("no kind: expected `kind`, or `rule` and `keys`"),
        other => {
            let near = hint(other, KINDS);
            Judged::broken(format!(
                "`{}` is not a kind of case{near}",
                other.escape_debug()
            ))
        }
    };
    (kind.to_owned(), judged)
}

/// Reads a file of known gaps.
///
/// # Errors
/// A file that cannot be read, and one that is no list of gaps.
pub fn read_gaps(path: &Path) -> anyhow::Result<Gaps> {
    Gaps::parse(&os::read_text(path)?).map_err(|why| anyhow::anyhow!("`{}`: {why}", path.display()))
}
