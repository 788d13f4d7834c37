//! What a run found, and how it is told.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::cases::expect::Judged;

/// How a case ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// As expected.
    Passed,
    /// Not as expected.
    Failed,
    /// Not as expected, and listed as a known gap.
    Known,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Known => "known",
        }
    }
}

/// One case.
#[derive(Clone, Debug)]
pub struct CaseResult {
    /// File it stands in.
    pub file: PathBuf,
    /// Line, from 1; 0 for the whole file.
    pub line: usize,
    /// Its name.
    pub name: String,
    /// Kind of case.
    pub kind: String,
    /// How it ended.
    pub status: Status,
    /// What it wants.
    pub expected: String,
    /// What came out.
    pub got: String,
    /// Why.
    pub reason: Option<String>,
}

impl CaseResult {
    pub(super) fn of(file: &Path, line: usize, name: String, kind: String, judged: Judged) -> Self {
        let Judged {
            expected,
            got,
            reason,
            passed,
        } = judged;
        Self {
            file: file.to_owned(),
            line,
            name,
            kind,
            status: if passed {
                Status::Passed
            } else {
                Status::Failed
            },
            expected,
            got,
            reason,
        }
    }

    pub(super) fn broken(file: &Path, line: usize, why: &str) -> Self {
        let kind = String::new();
        Self::of(file, line, "unnamed".to_owned(), kind, Judged::broken(why))
    }

    pub(super) fn no_cases(file: &Path) -> Self {
        let judged = Judged {
            expected: "at least one case".to_owned(),
            got: "no cases".to_owned(),
            reason: None,
            passed: false,
        };
        Self::of(file, 0, "file".to_owned(), String::new(), judged)
    }

    /// One line, whatever is told in it.
    fn line(&self) -> String {
        self.told().replace('\n', "; ")
    }

    fn told(&self) -> String {
        // A case that cannot be judged expects nothing.
        if self.expected.is_empty() {
            let why = self.reason.as_deref().unwrap_or_default();
            return format!("{}: {}: {why}", self.place(), self.name);
        }
        let reason = self
            .reason
            .as_ref()
            .map_or_else(String::new, |why| format!(" ({why})"));
        let Self {
            name,
            expected,
            got,
            ..
        } = self;
        format!(
            "{}: {name}: expected {expected}, got {got}{reason}",
            self.place()
        )
    }

    fn place(&self) -> String {
        if self.line == 0 {
            self.file.display().to_string()
        } else {
            format!("{}:{}", self.file.display(), self.line)
        }
    }

    fn json(&self) -> Value {
        json!({
            "file": self.file.display().to_string(),
            "line": self.line,
            "name": self.name,
            "kind": self.kind,
            "result": self.status.word(),
            "expected": written(&self.expected),
            "got": written(&self.got),
            "reason": self.reason,
        })
    }
}

/// `null` for a case that cannot be judged.
fn written(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

/// All cases of a run, in the order of the files.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Cases.
    pub cases: Vec<CaseResult>,
    /// What was passed over, and why.
    pub notes: Vec<String>,
    /// A list of known gaps was given.
    pub with_gaps: bool,
}

impl Report {
    /// Cases that ended so.
    #[must_use]
    pub fn count(&self, status: Status) -> usize {
        self.cases.iter().filter(|c| c.status == status).count()
    }

    /// Whether nothing failed.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.count(Status::Failed) == 0
    }

    /// One line per failure.
    pub fn failures(&self) -> impl Iterator<Item = String> + '_ {
        let failed = self.cases.iter().filter(|c| c.status == Status::Failed);
        failed.map(CaseResult::line)
    }

    /// One JSON object per case.
    pub fn json_lines(&self) -> impl Iterator<Item = String> + '_ {
        self.cases.iter().map(|case| case.json().to_string())
    }

    /// `N passed, M failed`, and the known gaps if a list of them was given.
    #[must_use]
    pub fn summary(&self) -> String {
        let known = if self.with_gaps {
            format!(", {} known gaps", self.count(Status::Known))
        } else {
            String::new()
        };
        format!(
            "{} passed, {} failed{known}",
            self.count(Status::Passed),
            self.count(Status::Failed)
        )
    }
}
