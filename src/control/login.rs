//! The login providers of the configuration: their secrets, their cookie keys, and the keeper that discovers them.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use crate::config::checked::{Mesh, OidcProvider};
use crate::control::http_client::HttpClient;
use crate::control::oidc_client::{LoginKeeper, Logins, Registration};
use crate::control::plane::PlaneError;
use crate::oidc::{CookieKeys, Settings};

/// How long the start waits for the first discovery; without it nobody can log in, nothing else.
const FIRST_DISCOVERY: Duration = Duration::from_secs(2);

/// The login providers of a configuration and what keeps them.
#[derive(Debug)]
pub(super) struct LoginPart {
    registered: Vec<(OidcProvider, Registration)>,
    pub(super) logins: watch::Receiver<Arc<Logins>>,
    task: Option<JoinHandle<()>>,
}

impl LoginPart {
    /// Reads the secrets and starts to discover. Providers that are as they were in `before` keep their keys, also those
    /// that were made up for this process's life, and are not without a login page until they are discovered again.
    pub(super) fn start(
        http: &HttpClient,
        mesh: &Mesh,
        before: Option<&Self>,
    ) -> Result<Self, PlaneError> {
        let mut registered = Vec::with_capacity(mesh.oidc_providers.len());
        let mut known = Logins::new();
        for provider in &mesh.oidc_providers {
            let kept = before.and_then(|part| {
                let kept = part
                    .registered
                    .iter()
                    .find(|(as_it_was, _)| as_it_was == provider)?;
                Some((kept, part.logins.borrow().get(&provider.name).cloned()))
            });
            match kept {
                Some((kept, login)) => {
                    registered.push(kept.clone());
                    known.extend(login.map(|login| (provider.name.clone(), login)));
                }
                None => registered.push((provider.clone(), registration(provider)?)),
            }
        }
        let all: Vec<_> = registered.iter().map(|(_, r)| r.clone()).collect();
        let idle = all.is_empty();
        let (logins, keeper) = LoginKeeper::new(http.clone(), all, known);
        let task = (!idle).then(|| tokio::spawn(keeper.run()));
        Ok(Self {
            registered,
            logins,
            task,
        })
    }

    /// Waits for the first discovery of every provider, but not for long.
    pub(super) async fn first(&mut self) {
        let names: Vec<String> = self
            .registered
            .iter()
            .map(|(p, _)| p.name.clone())
            .collect();
        let known = self
            .logins
            .wait_for(|logins| names.iter().all(|name| logins.contains_key(name)));
        if tokio::time::timeout(FIRST_DISCOVERY, known).await.is_err() {
            tracing::warn!(
                "not all login providers are there yet; nobody can log in until they are"
            );
        }
    }
}

impl Drop for LoginPart {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// Bytes of a key of session cookies.
const COOKIE_KEY_BYTES: usize = 32;
/// Longest session of a login, in seconds.
const SESSION_S: i64 = 8 * 3600;

fn registration(provider: &OidcProvider) -> Result<Registration, PlaneError> {
    let secret = provider
        .client_secret
        .as_ref()
        .map(|s| s.read_text())
        .transpose()
        .map_err(PlaneError::Secret)?;
    let cookie_keys = cookie_keys(provider)?;
    Ok(Registration {
        settings: Settings {
            name: provider.name.clone(),
            issuer: provider.issuer.clone(),
            client_id: provider.client_id.clone(),
            redirect_path: provider.redirect_path.clone(),
            logout_path: provider.logout_path.clone(),
            scopes: provider.scopes.clone(),
            session_max_s: SESSION_S,
            post_logout_path: None,
        },
        client_secret: secret,
        cookie_keys,
        allow_http_loopback: provider.allow_http_loopback,
    })
}

fn cookie_keys(provider: &OidcProvider) -> Result<CookieKeys, PlaneError> {
    let wrong = |problem: String| PlaneError::Content {
        what: format!("cookieKey of `{}`", provider.name),
        problem,
    };
    let keys = match &provider.cookie_key {
        Some(secret) => {
            let content = secret.read().map_err(PlaneError::Secret)?;
            cookie_key_bytes(&content).ok_or_else(|| {
                wrong("is neither 32 bytes nor lines of 32 bytes in base64".to_owned())
            })?
        }
        None => {
            let mut key = Zeroizing::new(vec![0_u8; COOKIE_KEY_BYTES]);
            aws_lc_rs::rand::fill(&mut key).map_err(|_e| wrong("no randomness".to_owned()))?;
            vec![key]
        }
    };
    let (current, previous) = keys
        .split_first()
        .ok_or_else(|| wrong("is empty".to_owned()))?;
    let previous: Vec<&[u8]> = previous.iter().map(|key| key.as_slice()).collect();
    CookieKeys::new(current, &previous).map_err(|e| wrong(e.to_string()))
}

/// 32 raw bytes, or base64 keys, one a line: the first seals, all open, so that a key is changed by putting the new one
/// before the old.
fn cookie_key_bytes(content: &[u8]) -> Option<Vec<Zeroizing<Vec<u8>>>> {
    if content.len() == COOKIE_KEY_BYTES {
        return Some(vec![content.to_vec().into()]);
    }
    let text = std::str::from_utf8(content).ok()?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let decode = |line: &str| {
        let line = line.trim_end_matches('=');
        STANDARD_NO_PAD
            .decode(line)
            .or_else(|_e| URL_SAFE_NO_PAD.decode(line))
            .ok()
            .map(Zeroizing::new)
            .filter(|key| key.len() == COOKIE_KEY_BYTES)
    };
    let keys = lines.map(decode).collect::<Option<Vec<_>>>()?;
    (!keys.is_empty()).then_some(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookie_keys_raw_and_base64() {
        let key = [0xfb_u8; 32];
        let line = "+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/v7+/s=";
        let url_safe = line.replace('+', "-").replace('/', "_");
        assert_eq!(cookie_key_bytes(&key), Some(vec![key.to_vec().into()]));
        for text in [
            line,
            &format!("{line}\n"),
            line.trim_end_matches('='),
            &url_safe,
        ] {
            assert_eq!(
                cookie_key_bytes(text.as_bytes()),
                Some(vec![key.to_vec().into()]),
                "{text}"
            );
        }
        let other = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let both = cookie_key_bytes(format!("{other}\n\n{line}\n").as_bytes());
        assert_eq!(both, Some(vec![vec![0; 32].into(), key.to_vec().into()]));
        for wrong in ["", "\n", "c2hvcnQ=", &format!("{line}\nx"), &"k".repeat(33)] {
            assert_eq!(cookie_key_bytes(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
