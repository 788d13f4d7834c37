//! `ringgate check`: every problem of a configuration, and everything in it that is probably not meant.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use rustls::pki_types::UnixTime;
use serde_json::{Value, json};

use crate::cli::{CheckArgs, os, resources};
use crate::config::{Config, ConfigErrors, Lint, Problem, Resources};
use crate::control::{identity_source, named_file, origination, plane, serving};
use crate::policy::lint::Severity;

/// How to tell what is found.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Exit with 1 if there is any warning; notes do not count.
    #[arg(long)]
    pub deny_warnings: bool,
    /// How to print what is found.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// How to print what is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// One line each: errors, warnings, notes, and a count.
    Text,
    /// One JSON object.
    Json,
}

/// What was found.
#[derive(Debug, Default)]
struct Report {
    /// `configuration is` or `resources are`, good.
    subject: &'static str,
    /// Where each resource holds, if that was asked for.
    attached: Vec<String>,
    errors: Vec<Problem>,
    /// An error that is in no place of a file.
    refused: Option<String>,
    warnings: Vec<Problem>,
    /// A start here would fail, by one of the warnings.
    starts_not: bool,
    lints: Vec<Lint>,
}

/// Checks and prints; the exit code is 1 if a start would fail, or for a warning where those are denied.
///
/// # Errors
/// The first file cannot be read.
pub fn run(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let files = &args.resources;
    if files.dialect.is_some() {
        return Ok(resources::convert(files));
    }
    let main = files.main()?;
    let report = if files.files.is_empty() || main.is_some() {
        let more = files.files.get(1..).unwrap_or_default();
        let config = main.unwrap_or(&args.config.config);
        let loaded = crate::config::load_with(config, more, files.options());
        Report::of(loaded, main.is_some())
    } else {
        anyhow::ensure!(
            !crate::config::read_files(&files.files)?.is_empty(),
            "nothing to check: no *.toml, *.yaml, *.yml or *.json in what was given"
        );
        Report::of_resources(resources::read(files))
    };
    match args.report.output {
        Output::Text => report.print(),
        Output::Json => os::say(&report.json().to_string()),
    }
    let warned = args.report.deny_warnings && report.count(Severity::Warning) > 0;
    Ok(if report.failed() || warned {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

impl Report {
    fn of(loaded: Result<Config, ConfigErrors>, attached: bool) -> Self {
        let mut report = Self {
            subject: "configuration is",
            ..Self::default()
        };
        let config = match loaded {
            Ok(config) => config,
            Err(errors) => {
                report.errors = errors.problems().to_vec();
                return report;
            }
        };
        report.warnings.clone_from(&config.warnings);
        report.lints.clone_from(&config.lints);
        if attached {
            report.attached = resources::where_attached(&config.mesh);
        }
        report.look(&config);
        if let Err(error) = plane::verify(&config) {
            report.refused = Some(error.to_string());
        }
        report
    }

    /// Looks at the files that the configuration names. A secret need not be on the machine that checks, and neither need
    /// what is in a directory that it does not have.
    fn look(&mut self, config: &Config) {
        let serving::Found {
            mut problems,
            remarks,
            hosts,
        } = serving::inspect(config, UnixTime::now());
        self.warnings.extend(hosts);
        problems.extend(origination::inspect(&config.mesh));
        let identities = identity_source::inspect(&config.process);
        for problem in problems {
            let placed = problem.placed(&config.files);
            if problem.is_error() {
                self.errors.push(placed);
            } else {
                self.warn_of_start(placed);
            }
        }
        // They come from another machine, or are made once the authority runs: a check before that is no failure.
        for problem in identities {
            self.warn_of_start(problem.placed(&config.files));
        }
        self.warnings.extend(named_file::exposed(&config.files));
        for (subject, remark) in remarks {
            let message = format!("`{subject}` {remark}");
            self.warnings
                .push(named_file::placed(&subject, &message, &config.files));
        }
    }

    /// A warning of what the configuration is not to blame for, but has a start as this user on this machine fail.
    fn warn_of_start(&mut self, problem: Problem) {
        let message = format!("{}; a start here would fail", problem.message);
        self.warnings.push(Problem { message, ..problem });
        self.starts_not = true;
    }

    fn of_resources(read: Result<(Resources, Vec<String>), ConfigErrors>) -> Self {
        let mut report = Self {
            subject: "resources are",
            ..Self::default()
        };
        match read {
            Ok((read, attached)) => {
                report.warnings = read.warnings;
                report.lints = read.lints;
                report.attached = attached;
            }
            Err(errors) => report.errors = errors.problems().to_vec(),
        }
        report
    }

    fn failed(&self) -> bool {
        !self.errors.is_empty() || self.refused.is_some()
    }

    fn count(&self, severity: Severity) -> usize {
        let lints = self.lints.iter().filter(|l| l.severity == severity).count();
        match severity {
            Severity::Warning => lints + self.warnings.len(),
            Severity::Note => lints,
        }
    }

    fn of_severity(&self, severity: Severity) -> impl Iterator<Item = &Lint> {
        self.lints.iter().filter(move |l| l.severity == severity)
    }

    fn print(&self) {
        for error in &self.errors {
            os::complain(&error.to_string());
        }
        if let Some(error) = &self.refused {
            os::complain(&format!("ringgate: {error}"));
        }
        for warning in &self.warnings {
            os::say(&format!("warning: {warning}"));
        }
        for severity in [Severity::Warning, Severity::Note] {
            for lint in self.of_severity(severity) {
                os::say(&format!("{severity}: {lint}"));
            }
        }
        let (warnings, notes) = (self.count(Severity::Warning), self.count(Severity::Note));
        if warnings + notes > 0 {
            let (warnings, notes) = (counted(warnings, "warning"), counted(notes, "note"));
            let errors = match self.errors.len() + usize::from(self.refused.is_some()) {
                0 => String::new(),
                errors => format!("{}, ", counted(errors, "error")),
            };
            os::say(&format!("{errors}{warnings}, {notes}"));
        }
        for line in &self.attached {
            os::say(line);
        }
        if self.starts_not && !self.failed() {
            os::say(&format!(
                "no errors, but a start here, as uid {}, would fail: see the warnings above",
                rustix::process::geteuid()
            ));
        } else if !self.failed() {
            os::say(&format!("{} good", self.subject));
        }
    }

    fn json(&self) -> Value {
        let errors = self.errors.iter().map(placed);
        let refused = self
            .refused
            .iter()
            .map(|message| json!({ "message": message }));
        let warnings = self.warnings.iter().map(placed);
        let of = |severity| self.of_severity(severity).map(linted);
        json!({
            "good": !self.failed(),
            "startsHere": !self.failed() && !self.starts_not,
            "attached": self.attached,
            "errors": errors.chain(refused).collect::<Vec<_>>(),
            "warnings": warnings.chain(of(Severity::Warning)).collect::<Vec<_>>(),
            "notes": of(Severity::Note).collect::<Vec<_>>(),
        })
    }
}

fn counted(count: usize, what: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {what}{plural}")
}

fn placed(problem: &Problem) -> Value {
    let mut out = place(problem);
    if let Some(object) = out.as_object_mut() {
        object.insert("message".to_owned(), json!(problem.message));
    }
    out
}

fn linted(lint: &Lint) -> Value {
    let mut out = placed(&lint.problem);
    if let Some(object) = out.as_object_mut() {
        object.insert("code".to_owned(), json!(lint.code.name()));
        if let Some(other) = &lint.other {
            object.insert("other".to_owned(), place(other));
        }
    }
    out
}

fn place(problem: &Problem) -> Value {
    json!({
        "file": problem.file.display().to_string(),
        "line": problem.position.map(|(line, _)| line),
        "column": problem.position.map(|(_, column)| column),
        "key": problem.key,
    })
}
