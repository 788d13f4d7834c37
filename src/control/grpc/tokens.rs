//! JWT-SVIDs of another process's authority, and the keys that verify them.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::{Code, Request};

use super::channel::Channel;
use super::client::{REQUEST, RemoteAuthority, RemoteError};
use super::{TOKEN_PATH, TokenRequest, TokenResponse};
use crate::control::svid::{Clock, Jitter};
use crate::identity::rotation::backoff;
use crate::vocab::limits;
use crate::vocab::spiffe::{SpiffeId, TrustDomain};

/// Between two looks at the keys; every token brings them as well.
const LOOK: Duration = Duration::from_secs(300);
/// After an authority that signs no tokens, such as istiod.
const MUTE: Duration = Duration::from_secs(3600);

/// Another's authority as a signer of tokens.
pub struct RemoteSigner {
    remote: Arc<RemoteAuthority>,
    keys: watch::Sender<Option<String>>,
}

impl std::fmt::Debug for RemoteSigner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RemoteSigner").field(&self.remote).finish()
    }
}

impl RemoteSigner {
    /// A signer that has asked nothing yet.
    #[must_use]
    pub fn new(remote: Arc<RemoteAuthority>) -> Self {
        Self {
            remote,
            keys: watch::Sender::new(None),
        }
    }

    /// The trust domain that it signs for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.remote.domain
    }

    /// The key set (RFC 7517) as it was told last.
    #[must_use]
    pub fn key_set(&self) -> Option<String> {
        self.keys.borrow().clone()
    }

    /// A JWT-SVID for an identity that this process is granted.
    ///
    /// # Errors
    /// `RemoteError`.
    pub async fn sign(
        &self,
        id: &SpiffeId,
        audiences: &[String],
        ttl: Duration,
        now: UnixTime,
    ) -> Result<String, RemoteError> {
        let request = TokenRequest {
            spiffe_id: id.to_string(),
            audience: audiences.to_vec(),
            ttl_s: ttl.as_secs(),
        };
        self.ask(request, now).await
    }

    async fn ask(&self, request: TokenRequest, now: UnixTime) -> Result<String, RemoteError> {
        let answer = timeout(REQUEST, self.remote.token(request, now))
            .await
            .map_err(|_elapsed| RemoteError::Timeout)??;
        self.keys.send_replace(Some(answer.key_set));
        Ok(answer.svid)
    }

    /// Keeps the keys fresh until the future is dropped.
    pub async fn follow_keys(self: Arc<Self>, clock: Clock, jitter: Jitter) {
        let mut failures = 0_u32;
        loop {
            let wait = match self.ask(TokenRequest::default(), (clock)()).await {
                Ok(_none) => {
                    failures = 0;
                    LOOK
                }
                Err(RemoteError::Refused(status)) if status.code() == Code::Unimplemented => {
                    tracing::warn!("the authority signs no JWT-SVIDs");
                    MUTE
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(failures, error, "keys of JWT-SVIDs not told");
                    backoff(failures, (jitter)())
                }
            };
            sleep(wait).await;
        }
    }
}

impl RemoteAuthority {
    async fn token(
        &self,
        message: TokenRequest,
        now: UnixTime,
    ) -> Result<TokenResponse, RemoteError> {
        let node = self.own_svid(now).await?;
        let mut request = Request::new(message);
        self.present(request.metadata_mut(), node.as_deref())?;
        let tls = self.client_tls(node.as_deref())?;
        let channel = Channel::connect(&self.address, tls).await?;
        channel
            .call(TOKEN_PATH, request, limits::TOKEN_MESSAGE_BYTES)
            .await
    }
}
