//! Every check, in the order in which it is cheapest to hear of a failure. A step that cannot run on this machine fails
//! and says what it needs. One thing alone is left out, and said in a line: the tests with a real ztunnel as peer, which
//! run where `RINGGATE_ZTUNNEL` names its binary.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::golang;
use crate::l4::envoy;
use crate::l7;
use crate::package::{self, trial::DEFAULT_PROFILE};
use crate::profile;
use crate::python;
use crate::steps::{self, Ahead, Step, command};

const STEPS: &[Step] = &[
    Step {
        name: "tools",
        about: "install what the tests need and this machine has not",
        ahead: None,
        run: tools,
    },
    Step {
        name: "fmt",
        about: "formatting",
        ahead: None,
        run: |root| command(root, "cargo", &["fmt", "--all", "--check"]),
    },
    Step {
        name: "unit-file",
        about: "systemd unit: the settings we rely on, and its exposure score",
        ahead: None,
        run: unit_file,
    },
    Step {
        name: "clippy",
        about: "lints, all targets, warnings are errors",
        ahead: None,
        run: clippy,
    },
    Step {
        name: "compile",
        about: "the tests, to run later",
        ahead: None,
        run: |root| {
            command(
                root,
                "cargo",
                &["test", "--workspace", "--locked", "--tests", "--no-run"],
            )
        },
    },
    Step {
        name: "build",
        about: "release build",
        ahead: Some(Ahead {
            with: "clippy",
            nice: 0,
        }),
        run: build,
    },
    Step {
        name: "package",
        about: "what is released: lintian, skopeo, and the image run by runc",
        ahead: None,
        run: |root| need_root().and_then(|()| package::trial::run(root)),
    },
    Step {
        name: "tests",
        about: "unit and integration tests",
        ahead: None,
        run: tests,
    },
    Step {
        name: "interop",
        about: "Envoy and ztunnel as peers, in network namespaces",
        ahead: None,
        run: interop,
    },
    Step {
        name: "systemd",
        about: "the service under a real systemd, in a container",
        ahead: None,
        run: systemd,
    },
    Step {
        name: "appliance",
        about: "images for virtual machines, and what they do when they boot",
        ahead: None,
        run: crate::image::check,
    },
    Step {
        name: "soak",
        about: "full load with a reload every second, 20 seconds of it",
        ahead: None,
        run: |root| l7::soak::run(root, &["--seconds", "20"]).map(drop),
    },
    Step {
        name: "drill-uring",
        about: "the drill on loopback, io_uring",
        ahead: None,
        run: |root| drill(root, None, "io_uring"),
    },
    Step {
        name: "drill-epoll",
        about: "the drill on loopback, epoll",
        ahead: None,
        run: |root| drill(root, None, "epoll"),
    },
    Step {
        name: "netns-uring",
        about: "the drill in network namespaces, io_uring",
        ahead: None,
        run: |root| drill(root, Some("netns"), "io_uring"),
    },
    Step {
        name: "netns-epoll",
        about: "the drill in network namespaces, epoll",
        ahead: None,
        run: |root| drill(root, Some("netns"), "epoll"),
    },
    Step {
        name: "kill",
        about: "capture, and the loss of any one process of the mesh",
        ahead: None,
        run: kill,
    },
    Step {
        name: "reproduce",
        about: "the release program once more, in another directory: the same bytes",
        ahead: Some(Ahead {
            with: "tests",
            nice: 19,
        }),
        run: |root| crate::reproduce::of_this_commit(root).map(drop),
    },
];

/// `(program, Debian package)`; what is no program's name `present` knows. gcc and libc6-dev are there already: without them this program had not been linked.
/// cmake is not needed: aws-lc-sys compiles its C with the C compiler alone.
const TOOLS: &[(&str, &str)] = &[
    ("curl", "curl"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("/usr/bin/python3", "python3"), // the labs' unmodified app; a python3 elsewhere may be closed to other users
    ("setpriv", "util-linux"),
    ("systemd-analyze", "systemd"),
    ("node", "nodejs"),
    ("npm", "npm"),
    ("nsenter", "util-linux"),
    ("nginx", "nginx-light"),
    ("psql", "postgresql-client"), // the netns tests have it talk through the mesh, to
    (INITDB, "postgresql"),
    (PIP, "python3-pip"),
    (VENV, "python3-venv"),
    ("openssl", "openssl"),   // a peer of the record layer
    ("faketime", "faketime"), // a clock that jumps, for processes of the tests alone
    ("zsh", "zsh"),           // completions are tried in the shells themselves
    ("fish", "fish"),
    ("man", "man-db"),                       // manual pages are formatted, and
    ("mandoc", "mandoc"),                    // checked by another formatter
    ("mmdebstrap", "mmdebstrap"),            // a system to boot
    ("systemd-nspawn", "systemd-container"), // in a container
    ("lintian", "lintian"),                  // packages and images: who checks them,
    ("skopeo", "skopeo"),
    ("umoci", "umoci"),
    ("runc", "runc"),                                     // runs them,
    (DEFAULT_PROFILE, "golang-github-containers-common"), // with this
    (CA_BUNDLE, "ca-certificates"),
    ("dnsmasq", "dnsmasq-base"),                 // a DHCP server
    ("qemu-system-x86_64", "qemu-system-x86"),   // a machine to boot, with
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "ovmf"), // its firmware
];

/// Debian has the server's programs in a directory of its version.
const INITDB: &str = "initdb";
/// Roots of the web: the image has those of the package.
const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Modules of Python: a `pip3` may be another Python's.
const PIP: &str = "python3 -m pip";
pub(crate) const VENV: &str = "python3 -m venv";

/// Node.js for machines whose own is too old for the tests' OpenID provider (Debian 12 has 18): the
/// registry's package of the plain binary, in this version.
const NODE_VERSION: &str = "22.23.3";

/// The peer of the interoperability tests that is built by whoever wants it, by environment variable.
const ZTUNNEL: &str = "RINGGATE_ZTUNNEL";

/// Prints the names of the steps.
pub(crate) fn list() -> Result<bool> {
    for step in STEPS {
        println!("{:<12} {}", step.name, step.about);
    }
    Ok(true)
}

/// Runs all steps, or those in `only` (names joined by commas). `Ok(false)` if one failed.
pub(crate) fn run(root: &Path, only: Option<&str>) -> Result<bool> {
    let Some(only) = only else {
        let all: Vec<&Step> = STEPS.iter().collect();
        return Ok(steps::run_all(&all, root));
    };
    let mut chosen = Vec::new();
    for name in only.split(',') {
        let step = STEPS.iter().find(|step| step.name == name);
        chosen.push(step.with_context(|| format!("no step `{name}`; see cargo xtask ci --list"))?);
    }
    Ok(steps::run_all(&chosen, root))
}

fn tools(root: &Path) -> Result<()> {
    for (component, probe) in [("rustfmt", "fmt"), ("clippy", "clippy")] {
        if !succeeds("cargo", &[probe, "--version"]) {
            command(root, "rustup", &["component", "add", component]).with_context(|| {
                format!("`cargo {probe}` is missing and rustup could not add it")
            })?;
        }
    }
    have(root, TOOLS)?;
    if !node_suffices(root) {
        install_node(root)?;
    }
    let envoy = python::have_envoy(root)?;
    println!("Envoy: {}", envoy.display());
    let oidc = root.join("tests/oidc");
    ensure!(
        oidc.join("package-lock.json").is_file(),
        "tests/oidc/package-lock.json is missing"
    );
    python::have_spiffe(root)?;
    python::have_http_peers(root)?;
    python::have_schema(root)?;
    golang::have_go_spiffe(root)?;
    let mut install = Command::new("npm");
    install
        .args(["ci", "--no-audit", "--no-fund"])
        .current_dir(oidc)
        .env("PATH", steps::path(root));
    steps::finish(&mut install)
}

/// Installs those `(program, Debian package)` that are not there.
pub(crate) fn have(root: &Path, tools: &[(&str, &str)]) -> Result<()> {
    let missing = tools.iter().filter(|(program, _)| !present(program));
    let packages: Vec<&str> = missing.map(|(_, package)| *package).collect();
    if !packages.is_empty() {
        apt_install(root, &packages)?;
    }
    for (program, package) in tools {
        ensure!(
            present(program),
            "`{program}` is missing; Debian's package `{package}` has it"
        );
    }
    Ok(())
}

fn apt_install(root: &Path, packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    ensure!(
        find("apt-get").is_some(),
        "missing: {list}; install them, this is no Debian system"
    );
    ensure!(
        is_root()?,
        "missing: {list}; as root: apt-get install {list}"
    );
    command(root, "apt-get", &["update", "-q"])?;
    let mut install = Command::new("apt-get");
    install
        .args(["install", "-y", "-q", "--no-install-recommends"])
        .args(packages)
        .env("DEBIAN_FRONTEND", "noninteractive");
    steps::finish(&mut install)
}

fn clippy(root: &Path) -> Result<()> {
    command(
        root,
        "cargo",
        &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ],
    )
}

/// All targets but `netns`, `interop` and `systemd`, which have their own steps. Some of these need root, too: they start programs as
/// other users. In the dev profile: what clippy has
/// compiled of build scripts and C code is used again, and debug assertions are on.
fn tests(root: &Path) -> Result<()> {
    need_root()?;
    let mut arguments = vec!["test", "--workspace", "--locked", "--lib", "--bins"];
    let targets = test_targets(root)?;
    ensure!(
        targets.iter().any(|name| name == "tidy"),
        "tests/tidy.rs is not among {targets:?}"
    );
    for target in targets
        .iter()
        .filter(|name| !["netns", "interop", "systemd"].contains(&name.as_str()))
    {
        arguments.extend(["--test", target]);
    }
    // Most of them wait most of the time.
    arguments.extend(["--", "--test-threads=6"]);
    command(root, "cargo", &arguments)
}

/// Names of the integration test targets: `tests/NAME.rs` and `tests/NAME/main.rs`.
fn test_targets(root: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(root.join("tests"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            || path.join("main.rs").is_file()
        {
            let name = path.file_stem().context("a file has a name")?;
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

fn build(root: &Path) -> Result<()> {
    command(
        root,
        "cargo",
        &["build", "--release", "--locked", "--workspace"],
    )?;
    let program = std::fs::read(steps::released(root, "ringgate"))?;
    profile::check(root, &program)
}

/// Settings that must stay in the unit: with a line gone or misspelt, systemd starts the service all the same.
fn unit_file(root: &Path) -> Result<()> {
    for (unit, own) in [("ringgate.service", ""), ("ringgate@.service", "-%i")] {
        check_unit(root, unit, own)?;
    }
    Ok(())
}

/// `own`: what tells the directories of one instance from those of another.
fn check_unit(root: &Path, unit: &str, own: &str) -> Result<()> {
    let path = format!("systemd/{unit}");
    let text = std::fs::read_to_string(root.join(&path))?;
    for directory in ["Runtime", "State", "Logs"] {
        let line = format!("{directory}Directory=ringgate{own}");
        ensure!(
            text.lines().any(|have| have == line),
            "{path} has no line `{line}`"
        );
    }
    // Else all instances would be the one user that the package makes, who may read the state of each.
    let user = format!("User=ringgate{own}");
    ensure!(
        own.is_empty() || text.lines().any(|have| have == user),
        "{path} has no line `{user}`"
    );
    for line in [
        "Type=notify",
        "FileDescriptorStoreMax=4096",
        "WatchdogSec=30s",
        "KillMode=mixed",
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "DynamicUser=yes",
        "LimitMEMLOCK=infinity",
        "Restart=always",
    ] {
        ensure!(
            text.lines().any(|have| have == line),
            "{path} has no line `{line}`"
        );
    }
    let instance = if own.is_empty() { "ringgate" } else { "%i" };
    let check =
        format!("ExecReload=/usr/bin/ringgate check --config /etc/ringgate/{instance}.toml");
    let mut reloads = text.lines().filter(|line| line.starts_with("ExecReload="));
    ensure!(
        reloads.next() == Some(check.as_str()),
        "{path} does not begin a reload with `{check}`: a bad file would be no failure"
    );
    let reload = check.replace(" check ", " reload ") + " --pid $MAINPID";
    ensure!(
        reloads.next() == Some(reload.as_str()),
        "{path} does not end a reload with `{reload}`: what the process alone refuses would be no failure"
    );
    ensure!(
        !text.contains("~@resources"),
        "~@resources refuses sched_setaffinity: no core could be pinned"
    );
    let arguments = [
        "security",
        "--offline=true",
        "--no-pager",
        "--threshold=20",
        &path,
    ];
    let output = Command::new("systemd-analyze")
        .args(arguments)
        .current_dir(root)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "systemd-analyze {}:\n{text}",
        arguments.join(" ")
    );
    println!("{}", text.trim_end().lines().last().unwrap_or_default());
    Ok(())
}

fn drill(root: &Path, lab: Option<&str>, io: &str) -> Result<()> {
    let mut arguments = vec!["drill", "--io", io];
    if let Some(lab) = lab {
        need_root()?;
        arguments.extend(["--lab", lab]);
    }
    command(root, &binary(root)?, &arguments)
}

/// The tests of `tests/netns` but for the drill, which has its own steps. A filter by name could come to
/// match nothing and pass; what is left out by name runs again if it is renamed.
fn kill(root: &Path) -> Result<()> {
    need_root()?;
    let arguments = [
        "test",
        "--locked",
        "--test",
        "netns",
        "--",
        "--test-threads=1",
        "--skip",
        "the_drill_passes",
    ];
    command(root, "cargo", &arguments)
}

fn systemd(root: &Path) -> Result<()> {
    need_root()?;
    let arguments = ["test", "--locked", "--test", "systemd"];
    command(root, "cargo", &arguments)
}

/// The tests of `tests/interop`. What is not shown is said.
fn interop(root: &Path) -> Result<()> {
    need_root()?;
    let binary = python::find_envoy(root)?
        .with_context(|| format!("no Envoy: set {}, or run the step `tools`", envoy::BINARY))?;
    let ztunnel = std::env::var_os(ZTUNNEL);
    match &ztunnel {
        Some(path) => println!("ztunnel: {}", Path::new(path).display()),
        None => println!("ztunnel: NOT RUN, {ZTUNNEL} names no binary; its tests are ignored"),
    }
    // Each test starts processes of its own, and has time limits.
    let mut tests = Command::new("cargo");
    tests
        .args([
            "test",
            "--locked",
            "--test",
            "interop",
            "--",
            "--test-threads=4",
        ])
        .current_dir(root)
        .env("PATH", steps::path(root))
        .env(envoy::BINARY, binary);
    if ztunnel.is_some() {
        tests.arg("--include-ignored");
    }
    steps::finish(&mut tests)
}

fn need_root() -> Result<()> {
    ensure!(
        is_root()?,
        "network namespaces and programs of other users need root: run `cargo xtask ci` as root"
    );
    Ok(())
}

/// The release binary, as the step `build` leaves it.
pub(crate) fn binary(root: &Path) -> Result<String> {
    let path = steps::released(root, "ringgate");
    ensure!(
        path.is_file(),
        "{} is missing: cargo build --release",
        path.display()
    );
    Ok(path.to_string_lossy().into_owned())
}

/// Whether this is the superuser.
pub(crate) fn is_root() -> Result<bool> {
    let status = std::fs::read_to_string("/proc/self/status").context("/proc is not mounted")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Uid:"))
        .context("no Uid in /proc/self/status")?;
    Ok(line.split_whitespace().nth(1) == Some("0")) // the effective user
}

/// Whether `node` has what the provider calls; version numbers do not tell, for it was backported.
fn node_suffices(root: &Path) -> bool {
    let probe = "process.exit(typeof URL.parse === 'function' ? 0 : 1)";
    let mut node = Command::new("node");
    node.args(["-e", probe]).env("PATH", steps::path(root));
    node.output().is_ok_and(|output| output.status.success())
}

/// Puts a newer Node.js where `steps::path` looks first. Nothing outside the target directory changes.
fn install_node(root: &Path) -> Result<()> {
    let package = format!("{}@{NODE_VERSION}", steps::node_package()?);
    let prefix = steps::target(root).join("node");
    std::fs::create_dir_all(&prefix)?;
    let prefix = prefix.to_string_lossy();
    let arguments = [
        "install",
        "--prefix",
        &prefix,
        "--no-save",
        "--no-audit",
        "--no-fund",
        &package,
    ];
    command(root, "npm", &arguments)?;
    ensure!(
        node_suffices(root),
        "Node.js {NODE_VERSION} is installed in {prefix} and does not run"
    );
    Ok(())
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Whether one of `TOOLS` is there.
fn present(tool: &str) -> bool {
    match tool {
        INITDB => {
            let versions = std::fs::read_dir("/usr/lib/postgresql")
                .into_iter()
                .flatten();
            let mut found = versions
                .flatten()
                .map(|v| v.path().join("bin").join(INITDB));
            found.any(|program| program.is_file())
        }
        PIP => succeeds(python::TESTS, &["-m", "pip", "--version"]),
        VENV => succeeds(python::SYSTEM, &["-c", "import ensurepip, venv"]),
        program => find(program).is_some(),
    }
}

/// Where `program` is: in PATH, or among the tools for root that a user's PATH leaves out.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program)) // an absolute `program` replaces the directory
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_where_they_are() {
        assert!(find("sh").is_some());
        assert_eq!(find("/bin/sh"), Some(PathBuf::from("/bin/sh")));
        assert_eq!(find("no-such-program-anywhere"), None);
        assert!(present("sh") && !present("no-such-program-anywhere"));
    }

    #[test]
    fn steps_have_names_of_their_own() {
        let mut names: Vec<_> = STEPS.iter().map(|step| step.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), STEPS.len());
        for (turn, step) in STEPS.iter().enumerate() {
            let before = |ahead: &Ahead| STEPS.iter().position(|one| one.name == ahead.with);
            let begun = step.ahead.as_ref().map_or(Some(0), before);
            assert!(begun.is_some_and(|begun| begun <= turn), "{}", step.name);
        }
        assert!(run(Path::new("/"), Some("no-such-step")).is_err());
    }

    #[test]
    fn tidy_is_among_the_tests() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        assert!(
            test_targets(&root)
                .expect("tests/")
                .contains(&"tidy".to_owned())
        );
    }
}
