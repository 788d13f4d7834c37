//! go-spiffe, as Debian 13 has it, with the compiler of the same release: a peer of the Workload API. The packages are fetched
//! by an apt of its own (lists, status and cache below the target directory) and unpacked there, so that it is the same on
//! every release of Debian; nothing outside changes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::steps::{self, finish};

const RELEASE: &str = "trixie";
/// What is asked for; apt adds what these need.
const PACKAGES: &[&str] = &["golang-1.24-go", "golang-github-spiffe-go-spiffe-dev"];
/// Whose signature the release must have.
const KEYRINGS: &[&str] = &[
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
];
/// Written last: without it the directory is half of something.
const STAMP: &str = "installed.txt";

/// go-spiffe and its compiler below `target/go`, and what the tests build of it built once: they find it compiled.
pub(crate) fn have_go_spiffe(root: &Path) -> Result<()> {
    let directory = steps::target(root).join("go");
    let wanted = format!("{RELEASE}\n{}\n", PACKAGES.join("\n"));
    let have = std::fs::read_to_string(directory.join(STAMP));
    if have.is_ok_and(|have| have == wanted) {
        return Ok(());
    }
    if directory.exists() {
        std::fs::remove_dir_all(&directory)?;
    }
    fetch(&directory)?;
    build(root, &directory)?;
    std::fs::write(directory.join(STAMP), wanted)?;
    Ok(())
}

/// Fetches and unpacks the packages.
fn fetch(directory: &Path) -> Result<()> {
    let config = apt_config(directory)?;
    let apt = |arguments: &[&str]| {
        let mut apt = Command::new("apt-get");
        apt.arg("-q").args(arguments).env("APT_CONFIG", &config);
        finish(&mut apt)
    };
    apt(&["update"])?;
    let mut install = vec![
        "install",
        "-y",
        "--no-install-recommends",
        "--download-only",
    ];
    install.extend(PACKAGES);
    apt(&install)?;
    let mut unpacked = 0;
    for entry in std::fs::read_dir(directory.join("apt/cache/archives"))? {
        let package = entry?.path();
        if package.extension().is_none_or(|e| e != "deb") {
            continue;
        }
        let mut unpack = Command::new("dpkg-deb");
        unpack.arg("-x").arg(&package).arg(directory.join("root"));
        finish(&mut unpack)?;
        unpacked += 1;
    }
    ensure!(unpacked > 0, "apt has fetched no package");
    std::fs::remove_dir_all(directory.join("apt"))?;
    Ok(())
}

/// An apt that knows one release, and no package that is installed.
fn apt_config(directory: &Path) -> Result<PathBuf> {
    let apt = directory.join("apt");
    for name in [
        "etc/apt.conf.d",
        "etc/preferences.d",
        "etc/trusted.gpg.d",
        "state/lists/partial",
        "cache/archives/partial",
    ] {
        std::fs::create_dir_all(apt.join(name))?;
    }
    let keyring = KEYRINGS.iter().find(|path| Path::new(path).is_file());
    let keyring = keyring.context("Debian's package `debian-archive-keyring` is missing")?;
    let source = format!("deb [signed-by={keyring}] {} {RELEASE} main\n", mirror()?);
    std::fs::write(apt.join("etc/sources.list"), source)?;
    std::fs::write(apt.join("state/status"), "")?;
    let path = |name: &str| apt.join(name).display().to_string();
    let text = format!(
        "Dir::Etc \"{}\";\nDir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"-\";\nDir::State \"{}\";\n\
         Dir::State::status \"{}\";\nDir::Cache \"{}\";\n",
        path("etc"),
        path("etc/sources.list"),
        path("state"),
        path("state/status"),
        path("cache"),
    );
    let config = apt.join("apt.conf");
    std::fs::write(&config, text)?;
    Ok(config)
}

/// The mirror of Debian that this machine uses.
fn mirror() -> Result<String> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI)"])
        .args(["Label: Debian", "Created-By: Packages"])
        .output()
        .context("cannot start apt-get: this is no Debian system")?;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    let Some(first) = told.lines().next() else {
        bail!("apt knows no mirror of Debian; `apt-get update` first");
    };
    Ok(first.to_owned())
}

/// Compiles the tests' program, which fills the compiler's cache; the tests do it again, of what the source is then.
fn build(root: &Path, directory: &Path) -> Result<()> {
    let unpacked = directory.join("root/usr");
    let goroot = unpacked.join("lib/go-1.24");
    let mut build = Command::new(goroot.join("bin/go"));
    build
        .args(["build", "-o"])
        .arg(directory.join("client"))
        .arg("tests/workload_api/go/client.go")
        .current_dir(root)
        .env("GOROOT", goroot)
        .env("GOPATH", unpacked.join("share/gocode"))
        .env("GOCACHE", std::path::absolute(directory.join("cache"))?)
        .env("GO111MODULE", "off")
        .env("GOTOOLCHAIN", "local")
        .env("CGO_ENABLED", "0");
    finish(&mut build)
}
