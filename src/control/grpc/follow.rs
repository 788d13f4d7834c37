//! Following an authority: its roots and revocations, as soon as they change, and the file of roots.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use tokio::time::{sleep, timeout};
use tonic::{Code, Request};

use super::channel::Channel;
use super::client::{RemoteAuthority, RemoteError};
use super::node::Told;
use super::{NEWS_PATH, NewsRequest, NewsResponse};
use crate::control::authority::ledger::RevocationEntry;
use crate::control::file_watch::FileWatch;
use crate::control::svid::{Clock, Jitter};
use crate::identity::pem;
use crate::identity::revocation::Revocations;
use crate::identity::rotation::backoff;
use crate::vocab::limits;

/// How long one connection is used: the next one proves anew who asks.
const SESSION: Duration = Duration::from_secs(600);
/// After an authority that tells nothing, such as istiod.
const MUTE: Duration = Duration::from_secs(600);

impl RemoteAuthority {
    /// Takes the roots and revocations that were kept, unless the operator has written the file of roots since.
    ///
    /// # Errors
    /// `RemoteError`.
    pub fn recall(&self, root_file: &[u8]) -> Result<(), RemoteError> {
        let state = self.node.as_ref().and_then(|node| node.state.as_ref());
        let Some(told) = state
            .map_or(Ok(None), |s| s.told())
            .map_err(RemoteError::Node)?
        else {
            return Ok(());
        };
        if told.file == hash(root_file) {
            let roots = pem::certificates(told.roots.as_bytes()).map_err(RemoteError::Pem)?;
            self.set_roots(&roots)?;
        }
        self.set_revocations(revocations(&told.revocations)?);
        Ok(())
    }

    fn set_revocations(&self, revocations: Revocations) {
        self.revocations.send_if_modified(|last| {
            let differs = **last != revocations;
            if differs {
                *last = Arc::new(revocations);
            }
            differs
        });
    }

    /// Asks until something is wrong, or for as long as a session lasts.
    async fn session(
        &self,
        version: &mut String,
        root_file: &[u8],
        clock: &Clock,
    ) -> Result<(), RemoteError> {
        let node = self.own_svid((clock)()).await?;
        let connect =
            async { Channel::connect(&self.address, self.client_tls(node.as_deref())?).await };
        let channel = timeout(super::client::REQUEST, connect)
            .await
            .map_err(|_elapsed| RemoteError::Timeout)??;
        let wait =
            Duration::from_millis(limits::NEWS_WAIT_MS).saturating_add(super::client::REQUEST);
        let until = tokio::time::Instant::now() + SESSION;
        while tokio::time::Instant::now() < until {
            let mut request = Request::new(NewsRequest {
                version: version.clone(),
            });
            self.present(request.metadata_mut(), node.as_deref())?;
            let call = channel.call(NEWS_PATH, request, limits::NEWS_MESSAGE_BYTES);
            let answer: NewsResponse = timeout(wait, call)
                .await
                .map_err(|_elapsed| RemoteError::Timeout)??;
            if answer.version != *version {
                self.take(&answer, root_file)?;
                version.clone_from(&answer.version);
            }
        }
        Ok(())
    }

    fn take(&self, news: &NewsResponse, root_file: &[u8]) -> Result<(), RemoteError> {
        if news.roots.is_empty() || news.roots.len() > limits::ROOTS {
            return Err(RemoteError::News("roots"));
        }
        let roots: Vec<CertificateDer<'static>> = news
            .roots
            .iter()
            .map(|der| CertificateDer::from(der.clone()))
            .collect();
        let entries: Vec<RevocationEntry> = news
            .revocations
            .iter()
            .map(|r| RevocationEntry {
                kind: r.kind.clone(),
                value: r.value.clone(),
                reason: r.reason.clone(),
                time: 0,
            })
            .collect();
        let revoked = revocations(&entries)?;
        self.set_roots(&roots)?;
        self.set_revocations(revoked);
        let state = self.node.as_ref().and_then(|node| node.state.as_ref());
        let told = Told {
            file: hash(root_file),
            roots: pem::encode_certificates(&roots),
            revocations: entries,
        };
        if let Some(Err(error)) = state.map(|state| state.keep_told(&told)) {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "roots and revocations not kept: a restart takes the file of roots"
            );
        }
        Ok(())
    }
}

fn revocations(entries: &[RevocationEntry]) -> Result<Revocations, RemoteError> {
    let mut all = Revocations::default();
    for entry in entries {
        let target = entry
            .target()
            .map_err(|_e| RemoteError::News("revocations"))?;
        all.add(target, &entry.reason)
            .map_err(|_e| RemoteError::News("revocations"))?;
    }
    Ok(all)
}

fn hash(content: &[u8]) -> String {
    digest(&SHA256, content)
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Follows the authority and the file of roots, which was read as `content`, until the future is dropped.
pub async fn follow(
    remote: Arc<RemoteAuthority>,
    root_file: std::path::PathBuf,
    content: Vec<u8>,
    clock: Clock,
    jitter: Jitter,
) {
    let content = tokio::sync::watch::Sender::new(content);
    let mut seen = content.subscribe();
    let file = watch_roots(&remote, &root_file, &content);
    let news = async {
        let (mut version, mut failures) = (String::new(), 0_u32);
        loop {
            let now_file = seen.borrow_and_update().clone();
            let ended = tokio::select! {
                ended = remote.session(&mut version, &now_file, &clock) => ended,
                // The operator's word is newer: the next session says whether the authority agrees.
                Ok(()) = seen.changed() => {
                    version.clear();
                    continue;
                }
            };
            let wait = match ended {
                Ok(()) => {
                    failures = 0;
                    continue;
                }
                Err(RemoteError::Refused(status)) if status.code() == Code::Unimplemented => {
                    tracing::debug!("authority does not tell roots and revocations");
                    MUTE
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    if failures.is_power_of_two() {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(failures, error, "roots and revocations are not followed");
                    }
                    backoff(failures, (jitter)()).min(FOLLOW_WAIT_MAX)
                }
            };
            sleep(wait).await;
        }
    };
    tokio::join!(file, news);
}

/// Longest wait before an authority that was lost is asked again what is revoked.
const FOLLOW_WAIT_MAX: Duration = Duration::from_secs(5);

/// Takes the file of roots whenever its content is new and good.
async fn watch_roots(
    remote: &RemoteAuthority,
    path: &Path,
    content: &tokio::sync::watch::Sender<Vec<u8>>,
) {
    let mut watch = FileWatch::start(&[path.to_owned()]);
    let mut last = None;
    loop {
        watch.changed().await;
        let found = crate::control::durable::read(path, 1 << 20).unwrap_or_default();
        // What was looked at already was told of already.
        if *content.borrow() == found || last.as_ref() == Some(&found) {
            continue;
        }
        last = Some(found.clone());
        let roots = pem::certificates(&found).map_err(RemoteError::Pem);
        match roots.and_then(|roots| remote.set_roots(&roots)) {
            Ok(()) => drop(content.send_replace(found)),
            Err(error) => tracing::error!(
                path = %path.display(), error = &error as &dyn std::error::Error,
                "file of roots is not taken, the last good roots stay"
            ),
        }
    }
}
