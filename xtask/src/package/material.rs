//! What all formats are made of: the program, what it prints of itself, the files of the repository, the commit and its date.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::notices;
use super::program::{Architecture, Scratch};
use super::sbom::Components;

/// All of it, in memory.
#[derive(Debug)]
pub(crate) struct Material {
    pub(crate) version: String,
    /// The second number of the Debian version.
    pub(crate) revision: u32,
    /// For a trial: made quickly, not small.
    pub(crate) quick: bool,
    /// Hash of the commit, or `unknown`.
    pub(crate) commit: String,
    /// Seconds since 1970 that everything is dated with.
    pub(crate) time: u64,
    pub(crate) architecture: Architecture,
    pub(crate) program: Vec<u8>,
    /// Completions: shell and text.
    pub(crate) completions: Vec<(&'static str, String)>,
    /// Manual pages: `man1/ringgate.1` and its text.
    pub(crate) pages: Vec<(String, Vec<u8>)>,
    /// Licences of what is linked in.
    pub(crate) notices: String,
    /// CycloneDX.
    pub(crate) sbom: Vec<u8>,
    root: PathBuf,
}

impl Material {
    /// Runs the program for what it prints, and reads the repository.
    pub(crate) fn gather(
        root: &Path,
        program: &Path,
        architecture: Architecture,
        revision: u32,
    ) -> Result<Self> {
        let program = program.canonicalize()?;
        let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let components = Components::of(root, &target)?;
        let own = components.0.first().context("no components")?;
        let version = own.version.clone();
        let told = said(Command::new(&program).arg("--version"))?;
        ensure!(
            told.trim() == format!("ringgate {version}"),
            "`{}` says `{}`, expected `ringgate {version}`: it is of another source",
            program.display(),
            told.trim()
        );
        let commit = commit(root, &program)?;
        let time = time(root, &commit)?;
        let completions = ["bash", "zsh", "fish"].map(|shell| {
            let text = said(Command::new(&program).args(["completions", shell]))?;
            Ok((shell, text))
        });
        Ok(Self {
            version,
            revision,
            quick: false,
            time,
            architecture,
            completions: completions.into_iter().collect::<Result<_>>()?,
            pages: pages(&program)?,
            notices: notices::notices(&components)?,
            sbom: components.cyclonedx(&commit, time)?,
            program: fs::read(&program)?,
            commit,
            root: root.to_owned(),
        })
    }

    /// A file of the repository.
    pub(crate) fn file(&self, path: &str) -> Result<Vec<u8>> {
        let path = self.root.join(path);
        fs::read(&path).with_context(|| format!("`{}` cannot be read", path.display()))
    }

    /// A text of the repository.
    pub(crate) fn text(&self, path: &str) -> Result<String> {
        Ok(String::from_utf8(self.file(path)?)?)
    }

    /// Files of a directory of the repository by the end of their name: name and content, sorted.
    pub(crate) fn files(&self, directory: &str, end: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(self.root.join(directory))? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name.ends_with(end) {
                found.push((name.clone(), self.file(&format!("{directory}/{name}"))?));
            }
        }
        found.sort();
        Ok(found)
    }

    /// Beginning of the names of what is made.
    pub(crate) fn stem(&self) -> String {
        format!("ringgate-{}-linux-{}", self.version, self.architecture.name)
    }

    /// Version of the Debian package.
    pub(crate) fn deb_version(&self) -> String {
        format!("{}-{}", self.version, self.revision)
    }

    /// File name of the Debian package.
    pub(crate) fn deb_name(&self) -> String {
        format!(
            "ringgate_{}_{}.deb",
            self.deb_version(),
            self.architecture.name
        )
    }
}

fn pages(program: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    let directory = Scratch::new()?;
    said(Command::new(program).arg("man").arg(&directory.0))?;
    let mut pages = Vec::new();
    for section in ["man1", "man5"] {
        for entry in fs::read_dir(directory.0.join(section))? {
            let path = entry?.path();
            let name = path.file_name().context("a file has a name")?;
            let name = format!("{section}/{}", name.to_string_lossy());
            pages.push((name, fs::read(&path)?));
        }
    }
    pages.sort();
    Ok(pages)
}

/// What the name of a commit ends with if the sources were not those of it (`build.rs`).
pub(crate) const CHANGED: &str = "-dirty";

/// Whether this is the hash of a commit.
pub(crate) fn is_hash(text: &str) -> bool {
    text.len() >= 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What a command prints; it must succeed.
pub(crate) fn said(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("{command:?} cannot be started"))?;
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// What the program says it is built from, or, of a debug build, which does not say it, what is checked out.
fn commit(root: &Path, program: &Path) -> Result<String> {
    let told = said(Command::new(program).args(["version", "--output", "json"]))?;
    let told: serde_json::Value = serde_json::from_str(&told)?;
    let field = |name: &str| told.get(name).and_then(serde_json::Value::as_str);
    let named = field("commit").context("the program tells no commit")?;
    if is_hash(named.strip_suffix(CHANGED).unwrap_or(named)) {
        return Ok(named.to_owned());
    }
    ensure!(
        field("profile") == Some("debug"),
        "`{}` is of commit `{named}`, expected one in git: what is checked out may be another; RINGGATE_COMMIT in the \
         environment of its build names it",
        program.display()
    );
    let mut git = Command::new("git");
    git.args(["rev-parse", "HEAD"]).current_dir(root);
    let here = said(&mut git).map(|hash| hash.trim().to_owned());
    Ok(here.unwrap_or_else(|_| "unknown".to_owned()))
}

/// `SOURCE_DATE_EPOCH` (reproducible-builds.org), or the date of the commit.
fn time(root: &Path, commit: &str) -> Result<u64> {
    if let Ok(given) = std::env::var("SOURCE_DATE_EPOCH") {
        return given
            .parse()
            .context("SOURCE_DATE_EPOCH is no number of seconds");
    }
    let mut git = Command::new("git");
    let hash = commit.strip_suffix(CHANGED).unwrap_or(commit);
    git.args(["log", "-1", "--format=%ct", hash]);
    let told = said(git.current_dir(root));
    let told = told.context("no git here that tells a date: set SOURCE_DATE_EPOCH")?;
    Ok(told.trim().parse()?)
}

/// As RFC 3339 writes it, of seconds since 1970.
pub(crate) fn rfc3339(time: u64) -> String {
    let (year, month, day) = date(time / 86_400);
    let (hour, minute, second) = (time / 3600 % 24, time / 60 % 60, time % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// As RFC 5322 writes it, for changelogs.
pub(crate) fn rfc5322(time: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let days = time / 86_400;
    let (year, month, day) = date(days);
    let pick = |names: &[&'static str], index: u64| {
        let index = usize::try_from(index).unwrap_or_default();
        names.get(index).copied().unwrap_or_default()
    };
    let (weekday, month) = (pick(&DAYS, days % 7), pick(&MONTHS, month - 1));
    let (hour, minute, second) = (time / 3600 % 24, time / 60 % 60, time % 60);
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} +0000")
}

/// Year, month and day of the days since 1970 (Gregorian).
fn date(days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut year, mut left) = (1970, days);
    loop {
        let length = if leap(year) { 366 } else { 365 };
        if left < length {
            break;
        }
        left -= length;
        year += 1;
    }
    let february = if leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_of_the_commit_that_its_program_tells() {
        let scratch = Scratch::new().expect("a directory");
        let program = scratch.0.join("ringgate");
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let of = |named: &str, profile: &str| {
            let script =
                format!("#!/bin/sh\necho '{{\"commit\":\"{named}\",\"profile\":\"{profile}\"}}'\n");
            fs::write(&program, script).expect("written");
            crate::package::program::make_executable(&program).expect("mode");
            commit(root, &program)
        };
        let hash = "0123456789abcdef0123456789abcdef01234567";
        let changed = format!("{hash}{CHANGED}");
        for profile in ["debug", "release"] {
            assert_eq!(of(hash, profile).expect("a commit"), hash);
            assert_eq!(of(&changed, profile).expect("a commit"), changed);
        }
        assert!(of("debug build", "debug").is_ok());
        for named in ["unknown, built without git", "v1", ""] {
            let error = of(named, "release").expect_err("no commit").to_string();
            assert!(error.contains("RINGGATE_COMMIT"), "{error}");
        }
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        // What `date -u` of coreutils says.
        let check = |time: u64| {
            let at = format!("@{time}");
            let date = |format: &str| {
                let mut date = Command::new("date");
                date.env("LC_ALL", "C").args(["-u", "-d", &at, format]);
                said(&mut date).expect("date").trim().to_owned()
            };
            assert_eq!(rfc3339(time), date("+%Y-%m-%dT%H:%M:%SZ"));
            assert_eq!(rfc5322(time), date("+%a, %d %b %Y %H:%M:%S +0000"));
        };
        for time in [
            0,
            951_782_399,
            951_782_400,
            951_868_800,
            1_709_164_800,
            4_107_542_399,
        ] {
            check(time);
        }
        check(u64::from(u32::MAX));
    }
}
