//! Reading a secret, at the edge. Neither an error nor a dump ever holds its content.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use thiserror::Error;
use zeroize::Zeroizing;

use crate::config::checked::Secret;

/// Largest secret, in bytes: a key, a token, a list of tokens.
const SECRET_BYTES: u64 = 1 << 20;
/// More than its announced length that a secret may have without being moved, in bytes.
const ROOM: usize = 64;

/// Why a secret cannot be read.
#[derive(Debug, Error)]
pub enum SecretError {
    /// The file cannot be read.
    #[error("cannot read secret `{}`", path.display())]
    File {
        /// File.
        path: PathBuf,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// Larger than 1 MiB.
    #[error("secret `{}` is larger than 1 MiB", .0.display())]
    TooLarge(PathBuf),
    /// Not set.
    #[error("environment variable `{0}` is not set")]
    Env(String),
    /// The process was not started with systemd credentials.
    #[error("credential `{0}` cannot be read: $CREDENTIALS_DIRECTORY is not set")]
    NoCredentials(String),
    /// Nothing in it.
    #[error("secret `{0:?}` is empty")]
    Empty(Secret),
    /// Bytes where text was expected.
    #[error("secret `{0:?}` is not text")]
    NotText(Secret),
}

impl Secret {
    /// The file that it is in; `None` for an environment variable, which does not change.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Self::File(path) => Some(path.clone()),
            Self::Env(_) => None,
            Self::Credential(name) => {
                Some(Path::new(&std::env::var_os("CREDENTIALS_DIRECTORY")?).join(name))
            }
        }
    }

    /// The content, byte for byte.
    ///
    /// # Errors
    /// `SecretError` says what could not be read; an empty secret is an error.
    pub fn read(&self) -> Result<Zeroizing<Vec<u8>>, SecretError> {
        let bytes = match self {
            Self::File(path) => read_file(path)?,
            Self::Env(name) => std::env::var_os(name)
                .ok_or_else(|| SecretError::Env(name.clone()))?
                .into_encoded_bytes()
                .into(),
            Self::Credential(name) => {
                let dir = std::env::var_os("CREDENTIALS_DIRECTORY")
                    .ok_or_else(|| SecretError::NoCredentials(name.clone()))?;
                read_file(&Path::new(&dir).join(name))?
            }
        };
        if bytes.is_empty() {
            Err(SecretError::Empty(self.clone()))
        } else {
            Ok(bytes)
        }
    }

    /// The content as text, without white space at either end: an editor's last line end is not part of a token.
    ///
    /// # Errors
    /// As `read`; and if it is not UTF-8 or holds nothing but white space.
    pub fn read_text(&self) -> Result<Zeroizing<String>, SecretError> {
        let bytes = self.read()?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|_not_repeated| SecretError::NotText(self.clone()))?
            .trim();
        if text.is_empty() {
            Err(SecretError::Empty(self.clone()))
        } else {
            Ok(Zeroizing::new(text.to_owned()))
        }
    }
}

/// One piece of memory holds it, which is wiped: a `Vec` that grows leaves what it was behind.
fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, SecretError> {
    let failed = |source| SecretError::File {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let announced = file.metadata().map_err(failed)?.len().min(SECRET_BYTES);
    // Room for the byte more that says there are more, and for a file that grows a little while it is read.
    let room = usize::try_from(announced).unwrap_or_default() + ROOM;
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    file.take(SECRET_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if u64::try_from(bytes.len()).is_ok_and(|n| n <= SECRET_BYTES) {
        return Ok(bytes);
    }
    Err(SecretError::TooLarge(path.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_never_tells() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        File::create(&path)
            .and_then(|mut f| std::io::Write::write_all(&mut f, b"hunter2\n"))
            .unwrap();
        let secret = Secret::File(path.clone());
        assert_eq!(secret.read().unwrap().as_slice(), b"hunter2\n");
        assert_eq!(secret.read_text().unwrap().as_str(), "hunter2");
        assert_eq!(format!("{secret:?}"), format!("file:{}", path.display()));

        File::create(&path)
            .and_then(|mut f| std::io::Write::write_all(&mut f, b"hunter2\xff"))
            .unwrap();
        let error = secret.read_text().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));

        File::create(&path).unwrap();
        assert!(matches!(secret.read(), Err(SecretError::Empty(_))));
        assert!(matches!(
            Secret::File(dir.path().join("none")).read(),
            Err(SecretError::File { .. })
        ));
        assert!(matches!(
            Secret::Env("RINGGATE_TEST_NOT_SET".into()).read(),
            Err(SecretError::Env(_))
        ));
    }
}
