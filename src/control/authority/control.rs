//! What the operator tells the authority: by a unix socket in its state directory while it runs, or directly.
//!
//! One JSON object per line each way. The socket is mode 600 in a directory of mode 700, and a peer must be root or the
//! user that the authority runs as.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::UnixTime;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::hold::{self, Hold};
use super::ledger::{self, LedgerError};
use super::{Authority, RotateError};
use crate::control::svid::Clock;
use crate::identity::pem;
use crate::identity::revocation::{NodeName, RevocationError};
use crate::io::listener::{own_uid, unix_path};
use crate::vocab::limits;
use crate::vocab::text::{chain, hex};

/// Commands under way at a time.
const CONNECTIONS: usize = 8;
/// How long a command may take to arrive.
const COMMAND: Duration = Duration::from_secs(10);

/// What to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "command", deny_unknown_fields, rename_all = "camelCase")]
pub enum Command {
    /// Makes a join token.
    #[serde(rename_all = "camelCase")]
    TokenCreate {
        /// Name of the node.
        node: String,
        /// SPIFFE IDs and `dns:` names.
        grant: Vec<String>,
        /// Seconds.
        ttl: u64,
    },
    /// Lists join tokens.
    TokenList,
    /// Makes a join token useless.
    TokenRevoke {
        /// As listed.
        token: String,
    },
    /// Lists nodes.
    NodeList,
    /// Replaces what a node may ask for.
    NodeGrant {
        /// Name of the node.
        node: String,
        /// SPIFFE IDs and `dns:` names.
        grant: Vec<String>,
    },
    /// Forgets a node.
    NodeRemove {
        /// Name of the node.
        node: String,
    },
    /// Revokes.
    Revoke {
        /// `serial`, `id` or `node`.
        kind: String,
        /// Which.
        value: String,
        /// Why.
        reason: String,
    },
    /// Undoes a revocation.
    Unrevoke {
        /// `serial`, `id` or `node`.
        kind: String,
        /// Which.
        value: String,
    },
    /// Lists revocations.
    Revocations,
    /// Starts to replace the root.
    RotateRoot {
        /// Seconds of each half.
        overlap: u64,
    },
    /// The trusted roots as PEM, for the `rootCa` of others.
    Roots,
    /// Tells roots, rotation, and which nodes are behind.
    Status,
}

/// Why a command was not done.
#[derive(Debug, Error)]
pub enum ControlError {
    /// The ledger says no.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// A name says no.
    #[error(transparent)]
    Name(#[from] RevocationError),
    /// The rotation says no.
    #[error(transparent)]
    Rotate(#[from] RotateError),
}

/// Does what is asked; the answer is what the operator is shown.
///
/// # Errors
/// `ControlError`; nothing has changed then.
pub fn perform(
    authority: &Authority,
    command: &Command,
    now: UnixTime,
) -> Result<Value, ControlError> {
    match command {
        Command::TokenCreate { node, grant, ttl } => {
            let node = NodeName::parse(node)?;
            let ttl = Duration::from_secs(*ttl);
            let (name, token) = authority.create_token(&node, grant.clone(), ttl, now)?;
            Ok(json!({"name": name, "token": token}))
        }
        Command::TokenList => Ok(json!(authority.ledger.data().tokens)),
        Command::TokenRevoke { token } => done(authority.revoke_token(token, now)),
        Command::NodeList => Ok(json!(authority.ledger.data().nodes)),
        Command::NodeGrant { node, grant } => {
            done(authority.grant_node(&NodeName::parse(node)?, grant.clone()))
        }
        Command::NodeRemove { node } => done(authority.remove_node(&NodeName::parse(node)?)),
        Command::Revoke {
            kind,
            value,
            reason,
        } => done(authority.revoke(&ledger::target(kind, value)?, reason, now)),
        Command::Unrevoke { kind, value } => {
            done(authority.unrevoke(&ledger::target(kind, value)?))
        }
        Command::Revocations => Ok(json!(authority.ledger.data().revocations)),
        Command::RotateRoot { overlap } => {
            let rotation = authority.rotate_root(Duration::from_secs(*overlap), now)?;
            Ok(json!(rotation))
        }
        Command::Roots => Ok(pem::encode_certificates(&authority.roots()).into()),
        Command::Status => Ok(status(authority)),
    }
}

fn done(outcome: Result<(), LedgerError>) -> Result<Value, ControlError> {
    outcome?;
    Ok(Value::Null)
}

fn status(authority: &Authority) -> Value {
    let data = authority.ledger.data();
    let roots: Vec<Value> = authority
        .roots
        .load()
        .known
        .values()
        .map(|root| {
            let digests: Vec<String> = root
                .trusted()
                .iter()
                .map(|der| {
                    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der);
                    hex(digest.as_ref())
                })
                .collect();
            json!({"number": root.number, "signs": root.number == data.active, "sha256": digests})
        })
        .collect();
    json!({
        "trustDomain": authority.trust_domain.as_str(),
        "roots": roots,
        "rotation": data.rotation,
        "nodes": data.nodes.len(),
        "revocations": data.revocations.len(),
        "nodesBehind": authority.not_told(),
    })
}

/// Makes the socket; what a crash left of an older one is replaced. Only the holder of the state's lock does this.
///
/// # Errors
/// The operating system's; a path of more than 107 bytes cannot be a socket.
pub fn bind(path: &Path) -> io::Result<UnixListener> {
    crate::control::durable::remove(path)?;
    let listener = UnixListener::bind(unix_path(path))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// The listener that another process has handed over, or a new one.
///
/// # Errors
/// As [`bind`].
pub fn listen(path: &Path, taken: Option<socket2::Socket>) -> io::Result<UnixListener> {
    match taken {
        Some(socket) => UnixListener::from_std(socket.into()),
        None => bind(path),
    }
}

/// Serves the socket while this process holds the state, until the future is dropped. What waits before is served then, and
/// what waits after that by another process.
pub async fn serve(listener: UnixListener, authority: Arc<Authority>, clock: Clock) {
    let mut hold = authority.holds();
    hold::held(&mut hold).await;
    tokio::select! {
        () = accept(listener, authority, clock) => {}
        () = hold::gone(&mut hold) => std::future::pending().await,
    }
}

async fn accept(listener: UnixListener, authority: Arc<Authority>, clock: Clock) {
    let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _address)) => stream,
            Err(error) => {
                tracing::warn!(%error, "control socket");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let (authority, clock) = (Arc::clone(&authority), Arc::clone(&clock));
        tokio::spawn(async move {
            let served = tokio::time::timeout(COMMAND, one(stream, &authority, &clock)).await;
            if let Ok(Err(error)) = served {
                tracing::warn!(%error, "control socket");
            }
            drop(place);
        });
    }
}

async fn one(stream: UnixStream, authority: &Authority, clock: &Clock) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if peer != 0 && peer != own_uid() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    (&mut stream)
        .take(limits::CONTROL_LINE_BYTES)
        .read_until(b'\n', &mut line)
        .await?;
    let answer = match serde_json::from_slice::<Command>(&line) {
        Ok(_) if *authority.holds().borrow() == Hold::Gone => {
            json!({"error": "another process takes over", "again": true})
        }
        Ok(command) => match perform(authority, &command, (clock)()) {
            Ok(value) => json!({"done": value}),
            Err(error) => json!({"error": chain(&error)}),
        },
        Err(error) => json!({"error": format!("not a command: {error}")}),
    };
    let mut text = answer.to_string();
    text.push('\n');
    stream.get_mut().write_all(text.as_bytes()).await?;
    stream.get_mut().shutdown().await
}

/// Does the steps of a root rotation when they are due, until the future is dropped.
pub async fn keep_rotating(authority: Arc<Authority>, clock: Clock) {
    /// A machine that was suspended, or whose clock was set, is late by at most this.
    const LOOK: Duration = Duration::from_secs(30);
    const RETRY: Duration = Duration::from_secs(5);
    let mut changes = authority.changes();
    loop {
        changes.mark_unchanged();
        let now = (clock)();
        let wait = match authority.step_rotation(now) {
            Ok(None) => LOOK,
            Ok(Some(next)) => {
                Duration::from_secs(next.as_secs().saturating_sub(now.as_secs())).min(LOOK)
            }
            Err(error) => {
                tracing::error!(
                    error = chain(&error),
                    "a step of the root rotation could not be done"
                );
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}
