//! What is wrong with a configuration, said so that it can be mended without reading code.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

use crate::policy::lint::{Code, Severity};

/// One problem or warning: `FILE:LINE:COL: KEY: message`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// File as it was named.
    pub file: PathBuf,
    /// Line and column, both from 1, the column in characters; `None` if it concerns the file as a whole.
    pub position: Option<(usize, usize)>,
    /// Key path such as `authorizationPolicy[1].rules[0].from[0].source.principals`; empty if there is none.
    pub key: String,
    /// What was expected, and the nearest valid word if there is one.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some((line, column)) = self.position {
            write!(f, "{line}:{column}:")?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        write!(f, " {}", self.message)
    }
}

/// Something valid that is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lint {
    /// What kind it is; `ringgate.dev/lint-ignore` silences it by this name.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// Where, and what.
    pub problem: Problem,
    /// The place of the other rule or policy, `FILE:LINE:COL: KEY`.
    pub other: Option<Problem>,
}

impl fmt::Display for Lint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.problem, self.code)?;
        let Some(other) = &self.other else {
            return Ok(());
        };
        write!(f, " (see {}", other.file.display())?;
        if let Some((line, column)) = other.position {
            write!(f, ":{line}:{column}")?;
        }
        f.write_str(")")
    }
}

/// Every problem of a configuration, one a line; never empty.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct ConfigErrors {
    problems: Vec<Problem>,
}

impl ConfigErrors {
    /// From problems in the order in which they are to be read.
    #[must_use]
    pub fn new(problems: Vec<Problem>) -> Self {
        Self { problems }
    }

    /// The problems.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}
