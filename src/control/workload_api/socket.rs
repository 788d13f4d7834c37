//! The socket file: who may connect, what a crash left, and what is taken away at the end.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use socket2::Socket;
use thiserror::Error;
use tokio::net::{UnixListener, UnixSocket};

use crate::config::checked::workload_api::WorkloadApi;
use crate::control::tenure::Tenure;
use crate::io::listener::unix_path;
use crate::io::peer::{BootTime, FileId};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// Why there is no socket.
#[derive(Debug, Error)]
pub enum SocketError {
    /// What stands there is no socket, and is left alone.
    #[error("`{}` is there and is not a socket", .0.display())]
    NotSocket(PathBuf),
    /// Another process serves it.
    #[error("another process serves `{}`", .0.display())]
    Taken(PathBuf),
    /// The operating system refused.
    #[error("cannot listen at `{}`", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

/// A listener; its file goes with it, unless another process has it.
#[derive(Debug)]
pub struct Listening {
    /// Accepts.
    pub listener: UnixListener,
    /// A moment before anybody could connect.
    pub quiet: BootTime,
    /// When it is this process's.
    pub tenure: Tenure,
    path: PathBuf,
    id: Option<FileId>,
}

impl Listening {
    /// Makes the socket with its mode and owner before anybody can connect. A socket that nobody serves any more is
    /// replaced. `taken` is what another process has handed over instead: mode and owner stay.
    ///
    /// # Errors
    /// `SocketError`.
    pub fn open(
        settings: &WorkloadApi,
        taken: Option<Socket>,
        tenure: Tenure,
    ) -> Result<Self, SocketError> {
        let path = settings.socket.as_path();
        let failed = |source| SocketError::Io {
            path: path.to_owned(),
            source,
        };
        if let Some(socket) = taken {
            return Ok(Self {
                listener: UnixListener::from_std(socket.into()).map_err(failed)?,
                // Who waits there may have connected at any time.
                quiet: BootTime::default(),
                tenure,
                id: FileId::of(path).ok(),
                path: path.to_owned(),
            });
        }
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        remove_stale(path)?;
        let socket = UnixSocket::new_stream().map_err(failed)?;
        socket.bind(unix_path(path)).map_err(failed)?;
        if settings.socket_uid.is_some() || settings.socket_gid.is_some() {
            chown(path, settings.socket_uid, settings.socket_gid).map_err(failed)?;
        }
        let mode = fs::Permissions::from_mode(settings.socket_mode);
        fs::set_permissions(path, mode).map_err(failed)?;
        let quiet = BootTime::now().map_err(failed)?;
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        Ok(Self {
            listener,
            quiet,
            tenure,
            id: FileId::of(path).ok(),
            path: path.to_owned(),
        })
    }

    /// The socket once more, for a process that takes over.
    ///
    /// # Errors
    /// `SocketError::Io`.
    pub fn descriptor(&self) -> Result<OwnedFd, SocketError> {
        let second = self.listener.as_fd().try_clone_to_owned();
        second.map_err(|source| SocketError::Io {
            path: self.path.clone(),
            source,
        })
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // Another process may have put its own there meanwhile.
        if self.tenure.is_now()
            && self.id.is_some()
            && FileId::of(&self.path).ok() == self.id
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "socket not removed");
        }
    }
}

fn remove_stale(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Io {
        path: path.to_owned(),
        source,
    };
    match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {}
        Ok(_other) => return Err(SocketError::NotSocket(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    match try_connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(failed)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // Its queue is full: somebody listens.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(SocketError::Taken(path.to_owned()))
        }
        Ok(()) => Err(SocketError::Taken(path.to_owned())),
        Err(error) => Err(failed(error)),
    }
}

fn try_connect(path: &Path) -> io::Result<()> {
    let socket = Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&socket2::SockAddr::unix(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(socket: PathBuf) -> WorkloadApi {
        WorkloadApi {
            socket,
            socket_mode: 0o620,
            socket_uid: None,
            socket_gid: None,
            jwt_svid_ttl_s: 300,
            entries: Vec::new(),
        }
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/workload.sock");
        let settings = settings(path.clone());
        let first = Listening::open(&settings, None, Tenure::whole_life()).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o620
        );
        assert!(matches!(
            Listening::open(&settings, None, Tenure::whole_life()),
            Err(SocketError::Taken(_))
        ));
        drop(first);
        assert!(!path.exists(), "the file goes with the listener");

        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "as a crash leaves it");
        let second = Listening::open(&settings, None, Tenure::whole_life()).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "precious").unwrap();
        drop(second);
        assert!(path.exists(), "a file of another's stays");
        assert!(matches!(
            Listening::open(&settings, None, Tenure::whole_life()),
            Err(SocketError::NotSocket(_))
        ));
    }
}
