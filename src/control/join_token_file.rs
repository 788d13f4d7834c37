//! The file of join tokens, followed: a token that is taken out is good for nothing any more.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

use crate::config::checked::Secret;
use crate::config::secret::SecretError;
use crate::control::authority::grant::JoinTokens;
use crate::control::file_watch::FileWatch;
use crate::control::plane::PlaneError;

/// Reads the tokens for a start.
///
/// # Errors
/// `PlaneError`: there is no such file, nothing is in it, or a line is bad.
pub fn read(secret: &Secret) -> Result<JoinTokens, PlaneError> {
    parse(secret, &secret.read_text().map_err(PlaneError::Secret)?)
}

fn parse(secret: &Secret, text: &str) -> Result<JoinTokens, PlaneError> {
    JoinTokens::parse(text).map_err(|e| PlaneError::Content {
        what: format!("{secret:?}"),
        problem: e.to_string(),
    })
}

/// Reads them again. A file that was emptied or taken away has no tokens; that is an error at a start alone.
///
/// # Errors
/// `PlaneError`: it cannot be read, or a line is bad.
pub fn read_again(secret: &Secret) -> Result<JoinTokens, PlaneError> {
    match secret.read_text() {
        Ok(text) => parse(secret, &text),
        Err(SecretError::Empty(_)) => Ok(JoinTokens::default()),
        Err(SecretError::File { source, .. }) if source.kind() == ErrorKind::NotFound => {
            Ok(JoinTokens::default())
        }
        Err(error) => Err(PlaneError::Secret(error)),
    }
}

/// Takes the tokens whenever the file is new and good, until the future is dropped. A bad file changes nothing.
pub(super) async fn follow(secret: Secret, path: &Path, tokens: watch::Sender<Arc<JoinTokens>>) {
    let mut watch = FileWatch::start(&[path.to_owned()]);
    let mut complained = None;
    loop {
        watch.changed().await;
        let problem = match read_again(&secret) {
            Ok(read) if read == **tokens.borrow() => None,
            Ok(read) => {
                tracing::info!(path = %path.display(), tokens = read.len(), "join tokens read again");
                tokens.send_replace(Arc::new(read));
                None
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|c| format!(": {c}"));
                Some(format!("{error}{}", cause.unwrap_or_default()))
            }
        };
        // It is looked at again and again.
        if problem != complained
            && let Some(problem) = &problem
        {
            tracing::error!(
                problem,
                "join tokens are not taken, the last good ones stay"
            );
        }
        complained = problem;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::time::Duration;

    use super::*;

    const FIRST: &str = "first-token-of-all spiffe://td/a\n";
    const OTHER: &str = "other-token-of-all spiffe://td/b\n";

    #[tokio::test]
    async fn a_token_that_is_taken_out_is_gone_and_a_bad_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tokens");
        let write = |text: &str| {
            fs::write(dir.path().join("new"), text).unwrap();
            fs::rename(dir.path().join("new"), &path).unwrap();
        };
        let secret = Secret::File(path.clone());
        assert!(matches!(read(&secret), Err(PlaneError::Secret(_))));
        write(&format!("{FIRST}{OTHER}"));
        let told = watch::Sender::new(Arc::new(read(&secret).unwrap()));
        let (mut seen, again) = (told.subscribe(), secret.clone());
        let mut tasks = tokio::task::JoinSet::new();
        let (watched, sender) = (path.clone(), told.clone());
        tasks.spawn(async move { follow(secret, &watched, sender).await });
        tokio::task::yield_now().await;
        let holds = |text: &str| told.borrow().grant(text).is_some();
        let mut changed = async || {
            let waited = tokio::time::timeout(Duration::from_secs(60), seen.changed()).await;
            waited.unwrap().unwrap();
        };
        write(OTHER);
        changed().await;
        assert!(!holds("first-token-of-all") && holds("other-token-of-all"));
        // A bad line, then a good file: what is told next is the good one.
        write(&format!("{FIRST}short\n"));
        assert!(matches!(
            read_again(&again),
            Err(PlaneError::Content { .. })
        ));
        write(FIRST);
        changed().await;
        assert!(holds("first-token-of-all") && !holds("other-token-of-all"));
        write("");
        changed().await;
        assert!(!holds("first-token-of-all"));
        write(FIRST);
        changed().await;
        fs::remove_file(&path).unwrap();
        changed().await;
        assert!(!holds("first-token-of-all"));
    }
}
