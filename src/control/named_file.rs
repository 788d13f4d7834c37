//! What is wrong with a file that the configuration names, and how bad that is before a start.

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::config::checked::{NamedFile, Secret, Subject};
use crate::config::load::unread;
use crate::config::problem::Problem;
use crate::config::secret::SecretError;

/// Why a file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is not there, and neither is its directory: this is not the machine that has it.
    Elsewhere(String),
    /// A secret that cannot be read: whoever checks need not be allowed to.
    Withheld(String),
    /// It is not there, cannot be read, or does not hold what it has to.
    Unusable(String),
}

/// A file that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileProblem {
    /// Which.
    pub subject: Subject,
    /// Why.
    pub fault: Fault,
}

impl FileProblem {
    /// A file that does not hold what it has to; `what` goes on after its name.
    #[must_use]
    pub fn unusable(subject: Subject, what: impl fmt::Display) -> Self {
        Self {
            subject,
            fault: Fault::Unusable(what.to_string()),
        }
    }

    /// A file that cannot be read.
    #[must_use]
    pub fn unread(path: &Path, error: &io::Error) -> Self {
        let told = unread(path, error);
        let no_directory = error.kind() == io::ErrorKind::NotFound
            && path.parent().is_some_and(|dir| {
                !dir.as_os_str().is_empty() && matches!(dir.try_exists(), Ok(false))
            });
        Self {
            subject: Subject::Path(path.to_owned()),
            fault: if no_directory {
                Fault::Elsewhere(told)
            } else {
                Fault::Unusable(told)
            },
        }
    }

    /// A secret that cannot be read.
    #[must_use]
    pub fn of_secret(secret: &Secret, error: &SecretError) -> Self {
        let fault = match error {
            SecretError::File { path, source } => Fault::Withheld(unread(path, source)),
            SecretError::Env(_) => Fault::Withheld("is not set".to_owned()),
            SecretError::NoCredentials(_) => {
                Fault::Withheld("cannot be read: $CREDENTIALS_DIRECTORY is not set".to_owned())
            }
            SecretError::TooLarge(_) => Fault::Unusable("is larger than 1 MiB".to_owned()),
            SecretError::Empty(_) => Fault::Unusable("is empty".to_owned()),
            SecretError::NotText(_) => Fault::Unusable("is not text".to_owned()),
        };
        Self {
            subject: Subject::Secret(secret.clone()),
            fault,
        }
    }

    /// With the place where the file is named.
    #[must_use]
    pub fn placed(&self, files: &[NamedFile]) -> Problem {
        placed(&self.subject, &self.to_string(), files)
    }

    /// Whether it is known that a start would fail, wherever that is.
    #[must_use]
    pub fn is_error(&self) -> bool {
        matches!(self.fault, Fault::Unusable(_))
    }
}

impl fmt::Display for FileProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Fault::Elsewhere(what) | Fault::Withheld(what) | Fault::Unusable(what)) = &self.fault;
        write!(f, "`{}` {what}", self.subject)
    }
}

/// Bits of a mode by which who is neither owner nor in the group reads a file, and gets through a directory.
const OTHERS_READ: u32 = 0o004;
const OTHERS_PASS: u32 = 0o001;

/// Secrets in files that everybody on this machine may read, each at the place where it is named.
#[must_use]
pub fn exposed(files: &[NamedFile]) -> Vec<Problem> {
    let found = files.iter().filter_map(|named| {
        let Subject::Secret(Secret::File(path)) = &named.subject else {
            return None;
        };
        let mode = mode_for_all(path)?;
        let message = format!(
            "`{}` has mode {mode:03o}, by which everybody on this machine may read the secret; expected 640, or less",
            named.subject
        );
        Some(Problem {
            message,
            ..named.place.clone()
        })
    });
    found.collect()
}

/// The mode of a file that everybody may read: no directory above it keeps them out.
fn mode_for_all(path: &Path) -> Option<u32> {
    let real = path.canonicalize().ok()?;
    let mode = |path: &Path| Some(path.metadata().ok()?.permissions().mode());
    let own = mode(&real)?;
    let passes = |above: &Path| mode(above).is_some_and(|mode| mode & OTHERS_PASS != 0);
    let reached = real.ancestors().skip(1).all(passes);
    (own & OTHERS_READ != 0 && reached).then_some(own & 0o7777)
}

/// A problem at the place where its file is named; at the file itself where the configuration does not name it.
#[must_use]
pub fn placed(subject: &Subject, message: &str, files: &[NamedFile]) -> Problem {
    let named = files.iter().find(|file| file.subject == *subject);
    let place = match (named, subject) {
        (Some(named), _) => named.place.clone(),
        (None, subject) => Problem {
            file: PathBuf::from(subject.to_string()),
            position: None,
            key: String::new(),
            message: String::new(),
        },
    };
    Problem {
        message: message.to_owned(),
        ..place
    }
}
