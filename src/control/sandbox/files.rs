//! Which files the process may open: those of its configuration's directories (Landlock, landlock(7)).
//!
//! Rules hold below directories, so that a file may be replaced, and one may be renewed beside it. What is a directory at
//! the start stays the one that is meant: another one that is put in its place later is outside, unless it is below one
//! of the others.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access as _, AccessFs, BitFlags, CompatLevel, Compatible as _, LandlockStatus,
    PathBeneath, PathFd, RestrictionStatus, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _,
    RulesetStatus, Scope,
};

use rustix::io::Errno;

use super::{State, seen};
use crate::config::checked::{Config, IdentitySource, Process, RecordSink, Secret, Subject};
use crate::control::http_client::SYSTEM_ROOTS;
use crate::control::{capture, durable};
use crate::io::kernel;
use crate::io::listener::own_uid;

/// What this program knows to ask for: rights of files as of version 5, scopes of version 6 (Linux 6.12).
const VERSION: ABI = ABI::V6;

/// What every process reads: names, time zones, roots of certificates, and what the kernel says of the process and of
/// the control groups.
const READ: [&str; 6] = [
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/ssl/certs",
    "/usr/share/zoneinfo",
    "/proc/self",
    "/sys/fs/cgroup",
];
/// What else is read of the machine: memory, processors.
const READ_FILES: [&str; 3] = [
    "/proc/meminfo",
    "/sys/devices/system/cpu/online",
    "/dev/null",
];

/// A file that the configuration names where none may be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outside(String);

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Directories and files that may be opened.
#[derive(Debug, Default)]
pub(super) struct Places {
    read: BTreeSet<PathBuf>,
    write: BTreeSet<PathBuf>,
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    }
}

impl Places {
    /// The directory of a file, and that of what it is a link to.
    fn beside(&mut self, path: &Path) {
        self.below(parent(path));
        if let Ok(real) = path.canonicalize() {
            self.below(parent(&real));
        }
    }

    fn below(&mut self, path: &Path) {
        if let Ok(real) = path.canonicalize() {
            self.read.insert(real);
        }
    }

    /// Nameservers of the system may change, by a new file in the place of the old one: in the directory of the link, and in
    /// that of what it leads to, systemd-resolved's for one. Root alone would read secrets in /etc, and has of it the file of the
    /// start; `run` is everybody's, and of what lies in it itself the process has the file of the start as well.
    fn nameservers(&mut self, path: &Path, is_root: bool, run: &Path) {
        self.below(path);
        if !is_root {
            self.below(parent(path));
        }
        let real = path.canonicalize().ok();
        let elsewhere = real.filter(|real| ![parent(path), run].contains(&parent(real)));
        if let Some(real) = elsewhere {
            self.below(parent(&real));
        }
    }

    /// A directory that is written to; it is made, as whoever writes there would.
    fn written(&mut self, dir: &Path, private: bool) {
        let made = if private {
            durable::make_dir(dir)
        } else {
            std::fs::create_dir_all(dir)
        };
        if let Err(error) = made {
            // Whoever writes there says so in its own words.
            tracing::debug!(%error, dir = %dir.display(), "not there");
        }
        if let Ok(real) = dir.canonicalize() {
            self.write.insert(real);
        }
    }

    fn of(main: &Path, config: &Config) -> Self {
        let mut places = Self::default();
        for path in READ.iter().chain(&READ_FILES).map(Path::new) {
            places.below(path);
        }
        let nameservers = Path::new("/etc/resolv.conf");
        places.nameservers(nameservers, own_uid() == 0, Path::new("/run"));
        places.beside(Path::new(SYSTEM_ROOTS));
        for path in crate::config::load::load_files(main) {
            if path.is_dir() {
                places.below(&path);
            } else {
                places.beside(&path);
            }
        }
        for named in &config.files {
            if let Some(path) = path_of(&named.subject) {
                places.beside(&path);
            }
        }
        places.of_process(&config.process);
        places.tell_own(main);
        places
    }

    /// Warns where the process may write what it is told by.
    fn tell_own(&self, main: &Path) {
        let Ok(real) = main.canonicalize() else {
            return;
        };
        if let Some(place) = self.write.iter().find(|place| real.starts_with(place)) {
            tracing::warn!(
                configuration = %real.display(), directory = %place.display(),
                "the process may write its own configuration: records, state and sockets belong in directories of their own"
            );
        }
    }

    fn of_process(&mut self, process: &Process) {
        if let Some(dir) = std::env::var_os("CREDENTIALS_DIRECTORY") {
            self.below(Path::new(&dir));
        }
        if capture::capturing(process).is_some() {
            // Its control groups may be anywhere.
            if let Some(mount) = capture::group_mounts() {
                self.below(&mount);
            }
        }
        match &process.records {
            RecordSink::File(path) if path.exists() && !path.is_file() => {
                self.write.extend(path.canonicalize());
            }
            RecordSink::File(path) => self.written(parent(path), false),
            RecordSink::Stdout => {}
        }
        if let Some(path) = &process.handover {
            self.written(parent(path), false);
        }
        if let Some(api) = &process.workload_api {
            self.written(parent(&api.socket), false);
        }
        for files in &process.identity_files {
            self.written(&files.dir, true);
        }
        let state = match &process.identity {
            IdentitySource::Embedded(authority) => authority.state_dir.as_ref(),
            IdentitySource::Remote(remote) => remote.state_dir.as_ref(),
            IdentitySource::Files(dirs) => {
                for dir in dirs {
                    self.beside(dir);
                    self.below(dir);
                }
                None
            }
            IdentitySource::WorkloadApi(_) => None,
        };
        if let Some(dir) = state {
            self.written(dir, true);
        }
    }

    /// Whether a path, or what it is a link to, may be opened.
    pub(super) fn holds(&self, path: &Path) -> bool {
        let real = path.canonicalize().or_else(|_| {
            // It is not there yet.
            let name = path.file_name().unwrap_or_default();
            parent(path).canonicalize().map(|parent| parent.join(name))
        });
        // What cannot be found at all is told of by whoever opens it.
        let Ok(real) = real else { return true };
        let mut all = self.read.iter().chain(&self.write);
        all.any(|place| real.starts_with(place))
    }

    /// Files that `config` names and that cannot be opened.
    pub(super) fn outside(&self, config: &Config) -> Vec<Outside> {
        let named = config.files.iter().filter_map(|named| {
            let path = path_of(&named.subject)?;
            let mut place = named.place.clone();
            place.message = format!(
                "`{}` is in a directory that this process may not read: it was not named when the process started, which \
                 `sandbox` in [process] holds it to; a restart takes it in",
                path.display()
            );
            (!self.holds(&path)).then(|| Outside(place.to_string()))
        });
        named.collect()
    }
}

fn path_of(subject: &Subject) -> Option<PathBuf> {
    match subject {
        Subject::Path(path) | Subject::Secret(Secret::File(path)) => Some(path.clone()),
        // A directory of their own.
        Subject::Secret(Secret::Env(_) | Secret::Credential(_)) => None,
        // What they say is named as a file or secret of its own.
        Subject::Key(..) | Subject::Hostname(..) => None,
    }
}

/// Takes away all files but those that the configuration has to do with, from this thread and those it starts.
pub(super) fn restrict(main: &Path, config: &Config) -> (State, Option<Places>) {
    if config.process.workload_api.is_some() {
        let why = "[workloadApi] looks at programs of other processes, which the kernel shows to none that is restricted so";
        return (State::Missing(why.to_owned()), None);
    }
    let places = Places::of(main, config);
    match enforce(&places) {
        Ok(status) => {
            let state = described(&status, &places);
            let is_there = state.is_active();
            (state, is_there.then_some(places))
        }
        Err(error) => (State::Missing(error.to_string()), None),
    }
}

fn described(status: &RestrictionStatus, places: &Places) -> State {
    let abi = match status.landlock {
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => {
            let error = kernel::landlock().err();
            return State::Missing(without(error.as_ref(), seen::is_filtered()));
        }
        LandlockStatus::Available { effective_abi, .. } => effective_abi as i32,
    };
    let version = format!("ABI {abi}");
    let places = format!(
        "reads below {}; writes below {}",
        list(&places.read),
        list(&places.write)
    );
    let missing = missing(abi);
    match status.ruleset {
        RulesetStatus::NotEnforced => State::Missing(version),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced if missing.is_empty() => {
            State::Active(format!("{version}; {places}"))
        }
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => State::Partial(format!(
            "{version}, which bounds neither {}; {places}",
            missing.join(" nor ")
        )),
    }
}

/// Why there is none, by the answer to landlock_create_ruleset(2) and whether a filter of system calls was in force then.
fn without(error: Option<&io::Error>, is_filtered: bool) -> String {
    match error.and_then(Errno::from_io_error) {
        Some(Errno::OPNOTSUPP) => {
            "the kernel has it, and it was not enabled at boot (EOPNOTSUPP): `landlock` is not in its `lsm=`"
        }
        Some(Errno::NOSYS) if is_filtered => {
            "the kernel has none, or the filter of system calls that this process was started under, of a container for one, \
             answers as if it had none (ENOSYS)"
        }
        Some(Errno::NOSYS) => "the kernel has none (ENOSYS): it is older than Linux 5.13, or built without it",
        Some(Errno::PERM | Errno::ACCESS) => {
            "landlock_create_ruleset is refused (EPERM) by the filter of system calls that this process was started under, of \
             a container or a unit; the kernel may have it"
        }
        Some(_) | None => {
            return match error {
                Some(error) => format!("landlock_create_ruleset fails: {error}"),
                None => "the kernel does not let this process use it".to_owned(),
            };
        }
    }
    .to_owned()
}

/// What a kernel's version of Landlock does not bound (landlock(7), "Versions"), though this program asks for it.
fn missing(abi: i32) -> Vec<&'static str> {
    let since = [
        (3, "which files are cut short"),
        (5, "what devices are asked for"),
        (6, "signals to other processes"),
        (6, "abstract unix sockets"),
    ];
    let missing = since.into_iter().filter(|(version, _)| abi < *version);
    missing.map(|(_, what)| what).collect()
}

fn list(paths: &BTreeSet<PathBuf>) -> String {
    let paths: Vec<String> = paths.iter().map(|p| p.display().to_string()).collect();
    if paths.is_empty() {
        return "nothing".to_owned();
    }
    paths.join(", ")
}

fn enforce(places: &Places) -> Result<RestrictionStatus, landlock::RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    // Programs are started nowhere, and no devices are made.
    let none = AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::IoctlDev;
    let write = AccessFs::from_all(VERSION) & !none;
    let mut scope = Scope::from_all(VERSION);
    if notifies_by_name() {
        // The supervisor could not be told.
        scope.remove(Scope::AbstractUnixSocket);
    }
    let mut rules = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(VERSION))?
        .scope(scope)?
        .create()?;
    for (paths, access) in [(&places.read, read), (&places.write, write)] {
        for path in paths {
            rules = add(rules, path, access)?;
        }
    }
    rules = add(rules, Path::new("/dev/null"), read | AccessFs::WriteFile)?;
    rules.restrict_self()
}

fn add(
    rules: landlock::RulesetCreated,
    path: &Path,
    access: BitFlags<AccessFs>,
) -> Result<landlock::RulesetCreated, landlock::RulesetError> {
    match PathFd::new(path) {
        Ok(opened) if path.is_dir() => rules.add_rule(PathBeneath::new(opened, access)),
        Ok(opened) => {
            let access = access & AccessFs::from_file(VERSION);
            rules.add_rule(PathBeneath::new(opened, access))
        }
        // Nobody opens what is not there.
        Err(error) => {
            tracing::debug!(%error, path = %path.display(), "no rule");
            Ok(rules)
        }
    }
}

/// Whether the supervisor's socket has a name that is no path (unix(7), abstract).
fn notifies_by_name() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some_and(|at| at.as_encoded_bytes().starts_with(b"@"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_there_is_none_is_told_by_the_errno() {
        let told = |errno: Errno, is_filtered| {
            let error = io::Error::from_raw_os_error(errno.raw_os_error());
            without(Some(&error), is_filtered)
        };
        assert!(told(Errno::NOSYS, false).starts_with("the kernel has none (ENOSYS)"));
        let either = told(Errno::NOSYS, true);
        assert!(either.contains("or the filter of system calls"), "{either}");
        assert!(told(Errno::OPNOTSUPP, true).contains("not enabled at boot"));
        for errno in [Errno::PERM, Errno::ACCESS] {
            let refused = told(errno, true);
            assert!(refused.contains("is refused") && !refused.contains("has none"));
        }
        assert!(told(Errno::NOMEM, false).contains("landlock_create_ruleset fails: "));
    }

    #[test]
    fn what_an_old_kernel_lacks_is_named() {
        assert_eq!(missing(VERSION as i32), [""; 0]);
        assert_eq!(
            missing(5),
            ["signals to other processes", "abstract unix sockets"]
        );
        // Of Debian 12, Linux 6.1.
        assert_eq!(missing(2).len(), 4);
    }

    /// A node that captures.
    const CAPTURES: &str = r#"
[authority]
stateDir = "state"
[[node]]
name = "here"
inbound = ["[::]:15006"]
outbound = "[::]:15001"
hbone = "[::]:15008"
[node.capture]
[[node.workload]]
name = "edge/app"
match = { uid = 12345 }
[[workloadEntry]]
name = "app"
namespace = "edge"
serviceAccount = "app"
address = "10.0.0.2"
"#;

    #[test]
    fn what_captures_reads_no_more_of_etc() {
        let dir = tempfile::tempdir().expect("a directory");
        let main = dir.path().join("main.toml");
        std::fs::write(&main, CAPTURES).expect("a file");
        let config = crate::config::load(&main).expect("a configuration");
        assert!(capture::capturing(&config.process).is_some());
        // What root would have of its nameservers is another test's.
        let mut places = Places::default();
        places.of_process(&config.process);
        let etc: Vec<&PathBuf> = places
            .read
            .iter()
            .filter(|place| place.starts_with("/etc"))
            .collect();
        assert!(etc.is_empty(), "{etc:?}");
        if own_uid() == 0 {
            assert!(!Places::of(&main, &config).read.contains(Path::new("/etc")));
        }
    }

    #[test]
    fn nameservers_that_are_replaced_are_read() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = dir.path().canonicalize().expect("a path");
        let (etc, all) = (dir.join("etc"), dir.join("run"));
        let run = all.join("resolve");
        for made in [&etc, &run] {
            std::fs::create_dir_all(made).expect("a directory");
        }
        let path = etc.join("resolv.conf");
        let places = |is_root| {
            let mut places = Places::default();
            places.nameservers(&path, is_root, &all);
            places
        };
        // A link, as of systemd-resolved.
        std::fs::write(run.join("stub"), "").expect("a file");
        std::os::unix::fs::symlink(run.join("stub"), &path).expect("a link");
        for is_root in [true, false] {
            let places = places(is_root);
            std::fs::write(run.join("new"), "").expect("a file");
            std::fs::rename(run.join("new"), run.join("stub")).expect("a rename");
            assert!(places.read.contains(&run), "{places:?}");
            assert_eq!(places.read.contains(&etc), !is_root);
        }
        // A link to a file of /run itself.
        let file = all.join("resolv.conf");
        std::fs::remove_file(&path).expect("a link");
        std::fs::write(&file, "").expect("a file");
        std::os::unix::fs::symlink(&file, &path).expect("a link");
        assert_eq!(places(true).read, BTreeSet::from([file.clone()]));
        assert_eq!(places(false).read, BTreeSet::from([etc.clone(), file]));
        // A file of /etc itself.
        std::fs::remove_file(&path).expect("a link");
        std::fs::write(&path, "").expect("a file");
        assert_eq!(places(true).read, BTreeSet::from([path.clone()]));
        assert_eq!(places(false).read, BTreeSet::from([etc, path]));
    }
}
