//! The Debian package under a real systemd, which runs as process 1 of a container: install, start, reload, restart, crash,
//! upgrade of program and package, watchdog, socket activation, remove, purge. It needs root, mmdebstrap and
//! systemd-nspawn, and fails where one is missing. What happens inside is `run.sh`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test ends by panicking, blocks and is not a data core"
)]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringgate");
const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What the container has besides a minimal Debian.
const PACKAGES: &str =
    "systemd,systemd-sysv,dbus,iproute2,curl,procps,nginx-light,openssl,ca-certificates,nftables";

/// The one unit that is its own: it ends the container with the exit code of the script.
const UNIT: &str = "[Unit]\nDescription=test\n[Service]\nType=oneshot\n\
                    ExecStart=/bin/sh -c 'sh /test/run.sh >/test/out 2>&1; systemctl exit $? --force'\n";

fn run(command: &mut Command) {
    let status = command.status();
    assert!(
        status.as_ref().is_ok_and(std::process::ExitStatus::success),
        "{command:?}: {status:?}"
    );
}

/// The distribution of this machine, whose C library the program is linked against.
fn suite() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap();
    let name = text
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    name.expect("a Debian has a code name").to_owned()
}

/// A system that is made once.
fn system() -> PathBuf {
    let suite = suite();
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("package-{suite}"));
    if root.is_dir() {
        return root;
    }
    let new = root.with_extension("new");
    if new.is_dir() {
        fs::remove_dir_all(&new).unwrap();
    }
    run(Command::new("mmdebstrap")
        .args(["-q", "--variant=minbase"])
        .arg(format!("--include={PACKAGES}"))
        .args(["doc", "man", "locale"].map(|d| format!("--dpkgopt=path-exclude=/usr/share/{d}/*")))
        .arg(&suite)
        .arg(&new));
    let units = new.join("etc/systemd/system");
    fs::write(units.join("ringgate-test.service"), UNIT).unwrap();
    let wants = units.join("multi-user.target.wants");
    fs::create_dir_all(&wants).unwrap();
    // It would take the port of the app.
    run(Command::new("rm")
        .arg("-f")
        .arg(wants.join("nginx.service")));
    symlink(
        "../ringgate-test.service",
        wants.join("ringgate-test.service"),
    )
    .unwrap();
    fs::rename(&new, &root).unwrap();
    root
}

fn certificate(dir: &Path) {
    let name = "app.example.test";
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new([name.to_owned()]).unwrap();
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, name);
    let certificate = params.self_signed(&key).unwrap();
    fs::write(dir.join("cert.pem"), certificate.pem()).unwrap();
    fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
    fs::set_permissions(dir.join("key.pem"), fs::Permissions::from_mode(0o400)).unwrap();
}

/// Two packages of this program, the second newer than the first.
fn packages(at: &Path) {
    let program = at.join("ringgate");
    run(Command::new("strip").arg("-o").arg(&program).arg(PROGRAM));
    for (directory, revision) in [("first", "1"), ("second", "2")] {
        run(Command::new("cargo")
            .current_dir(ROOT)
            .args(["xtask", "package", "--any-size", "--only", "deb"])
            .args(["--revision", revision, "--program"])
            .arg(&program)
            .arg("--out")
            .arg(at.join(directory)));
    }
}

/// The README's way to install, but for the building.
fn install() -> String {
    let page = fs::read_to_string(Path::new(ROOT).join("README.md")).unwrap();
    let (_, rest) = page.split_once("<!-- install -->\n```sh\n").unwrap();
    let (block, _) = rest.split_once("```\n<!-- /install -->").unwrap();
    let (first, rest) = block.split_once('\n').unwrap();
    assert!(first.ends_with("cargo xtask package"), "{first}");
    rest.to_owned()
}

#[test]
fn the_service_under_systemd() {
    let system = system();
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    certificate(at);
    for file in ["run.sh", "ringgate.toml"] {
        let from = Path::new(ROOT).join("tests/systemd").join(file);
        fs::copy(from, at.join(file)).unwrap();
    }
    packages(at);
    fs::write(at.join("install.sh"), install()).unwrap();
    let status = Command::new("timeout")
        .args(["-k", "10", "600", "systemd-nspawn", "-q", "--boot"])
        .args(["--volatile=overlay", "--private-network", "--register=no"])
        .args(["--keep-unit", "--console=pipe"])
        .arg(format!("--machine=ringgate-{}", std::process::id()))
        .arg("-D")
        .arg(&system)
        .arg(format!("--bind={}:/test", at.display()))
        .output();
    let status = status.expect("systemd-nspawn of the package systemd-container can be started");
    let out = fs::read_to_string(at.join("out")).unwrap_or_default();
    println!("{out}");
    assert_eq!(
        status.status.code(),
        Some(0),
        "{out}\n{}",
        String::from_utf8_lossy(&status.stdout)
    );
    // A script that ended early has not shown anything.
    assert!(
        out.contains("\nok what is in the README is installed and serves\n"),
        "{out}"
    );
    assert!(!out.contains("\nnot ok"), "{out}");
}
