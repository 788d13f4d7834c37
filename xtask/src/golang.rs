//! go-spiffe, as Debian 13 has it, with the compiler of the same release: a peer of the Workload API. The packages are fetched
//! by an apt of its own (lists, status and cache below the target directory) and unpacked there, so that it is the same on
//! every release of Debian; nothing outside changes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::ci;
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

/// go-spiffe and its compiler below `target/go`.
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
    let keyring = keyring.context(
        "Debian's archive keys are missing; as root: apt-get install debian-archive-keyring",
    )?;
    let source = format!("deb [signed-by={keyring}] {} {RELEASE} main\n", mirror()?);
    std::fs::write(apt.join("etc/sources.list"), source)?;
    std::fs::write(apt.join("state/status"), "")?;
    let mut dump = Command::new("apt-config");
    let config = apt.join("apt.conf");
    std::fs::write(
        &config,
        settings(&apt, &output(dump.args(["dump", "Acquire"]))?),
    )?;
    Ok(config)
}

/// Places of its own; proxy, authorities and credentials are the machine's, of which `acquire` is what apt told.
fn settings(apt: &Path, acquire: &str) -> String {
    let path = |name: &str| apt.join(name).display().to_string();
    format!(
        "Dir::Etc \"{}\";\nDir::Etc::sourcelist \"{}\";\nDir::Etc::sourceparts \"-\";\n\
         Dir::Etc::netrc \"/etc/apt/auth.conf\";\nDir::Etc::netrcparts \"/etc/apt/auth.conf.d\";\n\
         Dir::State \"{}\";\nDir::State::status \"{}\";\nDir::Cache \"{}\";\n{acquire}",
        path("etc"),
        path("etc/sources.list"),
        path("state"),
        path("state/status"),
        path("cache"),
    )
}

/// The mirror of Debian that this machine uses. One whose lists were never fetched knows none yet.
fn mirror() -> Result<String> {
    if let Some(known) = known_mirror()? {
        return Ok(known);
    }
    if ci::is_root()? {
        finish(Command::new("apt-get").args(["update", "-q"]))?;
        if let Some(known) = known_mirror()? {
            return Ok(known);
        }
    }
    bail!(
        "apt knows no mirror of Debian; add a source of Debian {RELEASE} to /etc/apt/sources.list.d, then, as root: \
         apt-get update"
    );
}

fn known_mirror() -> Result<Option<String>> {
    let mut targets = Command::new("apt-get");
    targets
        .args(["indextargets", "--format", "$(REPO_URI)"])
        .args(["Label: Debian", "Created-By: Packages"]);
    Ok(output(&mut targets)?.lines().next().map(str::to_owned))
}

/// What a program of apt prints.
fn output(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .context("cannot start apt: this is no Debian system")?;
    ensure!(
        output.status.success(),
        "apt: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// apt itself reads what was written.
    #[test]
    fn what_the_machine_says_of_fetching_is_kept() {
        let name = format!("ringgate-xtask-apt-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a directory");
        let machine =
            "Acquire::http::Proxy \"http://proxy.example:3128\";\nAcquire::Languages:: \"none\";\n";
        let config = directory.join("apt.conf");
        std::fs::write(&config, settings(&directory, machine)).expect("a file");
        let mut dump = Command::new("apt-config");
        let told = output(dump.arg("dump").env("APT_CONFIG", &config)).expect("apt-config");
        let here = directory.join("etc/sources.list");
        for line in [
            "Acquire::http::Proxy \"http://proxy.example:3128\";",
            "Acquire::Languages:: \"none\";",
            "Dir::Etc::netrc \"/etc/apt/auth.conf\";",
            "Dir::Etc::netrcparts \"/etc/apt/auth.conf.d\";",
            &format!("Dir::Etc::sourcelist \"{}\";", here.display()),
        ] {
            assert!(told.lines().any(|l| l == line), "{line}\n{told}");
        }
        std::fs::remove_dir_all(&directory).expect("removed");
    }
}
