//! The programs that the bench starts.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use super::options::Options;
use super::peer::Peer;
use super::ztunnel;
use crate::python::{have_envoy, named};
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
    /// `process.sandbox` of ringgate.
    pub(crate) sandbox: &'static str,
}

impl Tools {
    /// Builds ringgate and the load, finds the peers' programs, installs what can be installed.
    pub(crate) fn find(root: &Path, options: &Options) -> Result<Self> {
        let peers = &options.peers;
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
        // The load is this program in a release build.
        let mut build = vec!["build", "--release", "--locked"];
        build.extend(match &options.ringgate {
            Some(_) => ["--package", "xtask"].as_slice(),
            None => &["--workspace"],
        });
        command(root, "cargo", &build)?;
        let load = steps::released(root, "xtask");
        let directory = load.with_file_name("bench-l4");
        let given = options.ringgate.clone();
        let ringgate = given.unwrap_or_else(|| steps::released(root, "ringgate"));
        ensure!(ringgate.is_file(), "`{}` is no file", ringgate.display());
        let wants = |one: &[Peer]| peers.iter().any(|peer| one.contains(peer));
        let envoy = wants(&[Peer::EnvoyHbone, Peer::EnvoyTcp])
            .then(|| have_envoy(root))
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
            sandbox: options.sandbox,
        })
    }
}

/// Whether a ztunnel was named.
pub(crate) fn has_ztunnel() -> Result<bool> {
    Ok(named(ztunnel::BINARY)?.is_some())
}
