//! Where the configuration comes from. The first place that has one counts, and if that one is broken nothing else is tried:
//!
//! 1. `ringgate.config=` of the kernel command line: the text itself, or a file of the image;
//! 2. `opt/ringgate/config` of QEMU's fw_cfg;
//! 3. a disk or partition that begins with a tar archive, which holds `ringgate.toml`;
//! 4. `/etc/ringgate/ringgate.toml` of the image.
//!
//! An archive on a bare device takes no file system: no code of the kernel has to read what an outsider has made, and it can
//! be written by `tar` alone.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

use crate::appliance::arguments::ConfigArgument;
use crate::appliance::tar::{self, Entry};
use crate::appliance::{mounts, os};
use crate::vocab::limits;

/// Name of the main file.
const MAIN: &str = "ringgate.toml";
/// How much of a device says whether it is an archive.
const START_BYTES: u64 = 512;
/// Devices that are memory, or views of others.
const NOT_DISKS: [&str; 5] = ["loop", "ram", "zram", "dm-", "nbd"];

/// Where it is looked.
#[derive(Debug)]
pub struct Places {
    fw_cfg: PathBuf,
    /// A directory with an entry for each disk and partition.
    class: PathBuf,
    devices: PathBuf,
    image: PathBuf,
    /// Where files are laid that come from outside of the image.
    into: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            fw_cfg: "/sys/firmware/qemu_fw_cfg/by_name/opt/ringgate/config/raw".into(),
            class: "/sys/class/block".into(),
            devices: "/dev".into(),
            image: "/etc/ringgate/ringgate.toml".into(),
            into: mounts::CONFIG.into(),
        }
    }
}

/// A configuration, and where it was found.
#[derive(Debug, PartialEq, Eq)]
pub struct Found {
    /// Its main file.
    pub main: PathBuf,
    /// Where it was found.
    pub source: Source,
}

/// Where a configuration was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Kernel command line.
    CommandLine,
    /// fw_cfg.
    FwCfg,
    /// A device.
    Disk(PathBuf),
    /// The image.
    Image,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => f.write_str("kernel command line"),
            Self::FwCfg => f.write_str("fw_cfg"),
            Self::Disk(device) => write!(f, "archive on {}", device.display()),
            Self::Image => f.write_str("image"),
        }
    }
}

/// Finds the configuration, and lays its files down.
///
/// # Errors
/// There is none, two disks have one, or the one that counts cannot be read.
pub fn find(places: &Places, argument: Option<&ConfigArgument>) -> anyhow::Result<Found> {
    let (source, content) = match argument {
        Some(ConfigArgument::Path(path)) => return in_image(path, Source::CommandLine),
        Some(ConfigArgument::Text(text)) => (Source::CommandLine, text.clone()),
        None if places.fw_cfg.exists() => {
            let content = os::read(&places.fw_cfg, limits::APPLIANCE_CONFIG_BYTES);
            (Source::FwCfg, content.context("fw_cfg")?)
        }
        None => match disk(places)? {
            Some((device, content)) => (Source::Disk(device), content),
            None => return in_image(&places.image, Source::Image),
        },
    };
    let main = lay(&places.into, &content).with_context(|| source.to_string())?;
    Ok(Found { main, source })
}

fn in_image(path: &Path, source: Source) -> anyhow::Result<Found> {
    ensure!(
        path.is_file(),
        "no configuration: `{}` is not there, and neither is one on the kernel command line \
         (`ringgate.config=`), in fw_cfg (`opt/ringgate/config`) or on a disk (a tar archive with `{MAIN}`)",
        path.display()
    );
    let main = path.to_owned();
    Ok(Found { main, source })
}

/// The one device that begins with an archive.
fn disk(places: &Places) -> anyhow::Result<Option<(PathBuf, Vec<u8>)>> {
    let Ok(entries) = std::fs::read_dir(&places.class) else {
        return Ok(None);
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name());
    }
    names.sort();
    let mut found: Option<PathBuf> = None;
    for name in names {
        let text = name.to_string_lossy();
        if NOT_DISKS.iter().any(|other| text.starts_with(other)) {
            continue;
        }
        let device = places.devices.join(&name);
        match os::read_start(&device, START_BYTES) {
            Ok(start) if tar::is_tar(&start) => match &found {
                None => found = Some(device),
                Some(first) => bail!(
                    "`{}` and `{}` both begin with a tar archive: which has the configuration?",
                    first.display(),
                    device.display()
                ),
            },
            Ok(_) => {}
            // A drive without a medium.
            Err(error) => tracing::warn!(device = %device.display(), %error, "not looked at"),
        }
    }
    let Some(device) = found else {
        return Ok(None);
    };
    let content = os::read_start(&device, limits::APPLIANCE_CONFIG_BYTES)
        .with_context(|| format!("`{}` cannot be read", device.display()))?;
    Ok(Some((device, content)))
}

/// Lays an archive or a single file into a directory that is empty; the main file.
fn lay(into: &Path, content: &[u8]) -> anyhow::Result<PathBuf> {
    let main = into.join(MAIN);
    let entries = if tar::is_tar(content) {
        tar::read(content)?
    } else {
        let (name, content) = (MAIN.to_owned(), content.to_vec());
        vec![Entry { name, content }]
    };
    if !entries.iter().any(|entry| entry.name == MAIN) {
        let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
        bail!("no `{MAIN}` at its top, but [{}]", names.join(", "));
    }
    for entry in entries {
        let path = into.join(&entry.name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)
                .with_context(|| format!("`{}` cannot be made", parent.display()))?;
        }
        os::write_new(&path, &entry.content)?;
    }
    Ok(main)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test may block")]
mod tests {
    use super::*;
    use crate::appliance::tar::tests::archive;

    struct Machine {
        _dir: tempfile::TempDir,
        places: Places,
    }

    impl Machine {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let at = |name: &str| dir.path().join(name);
            for name in ["class", "dev", "into"] {
                std::fs::create_dir(at(name)).unwrap();
            }
            let places = Places {
                fw_cfg: at("fw_cfg"),
                class: at("class"),
                devices: at("dev"),
                image: at("image.toml"),
                into: at("into"),
            };
            Self { _dir: dir, places }
        }

        fn disk(&self, name: &str, content: &[u8]) {
            std::fs::write(self.places.class.join(name), "").unwrap();
            std::fs::write(self.places.devices.join(name), content).unwrap();
        }

        fn check(&self, argument: Option<&ConfigArgument>, source: &Source, text: &str) {
            let found = find(&self.places, argument).unwrap();
            assert_eq!(&found.source, source);
            assert_eq!(std::fs::read_to_string(&found.main).unwrap(), text);
            if found.main.starts_with(&self.places.into) {
                std::fs::remove_file(&found.main).unwrap();
            }
        }

        fn refused(&self, why: &str) {
            let error = format!("{:#}", find(&self.places, None).unwrap_err());
            assert!(error.contains(why), "{error}");
        }
    }

    fn tar_of(files: &[(u8, &str, &[u8])]) -> Vec<u8> {
        let mut out = archive(files);
        out.resize(out.len() + 10_240, 0);
        out
    }

    #[test]
    fn the_first_place_counts() {
        let machine = Machine::new();
        machine.refused("no configuration");
        std::fs::write(&machine.places.image, "image").unwrap();
        machine.check(None, &Source::Image, "image");
        machine.disk("vda", &[0; 4096]);
        machine.disk("ram0", &tar_of(&[(b'0', MAIN, b"ram")]));
        machine.check(None, &Source::Image, "image");
        machine.disk("vdb", &tar_of(&[(b'0', MAIN, b"disk")]));
        let device = machine.places.devices.join("vdb");
        machine.check(None, &Source::Disk(device), "disk");
        std::fs::write(&machine.places.fw_cfg, "fw").unwrap();
        machine.check(None, &Source::FwCfg, "fw");
        let text = ConfigArgument::Text(b"line".to_vec());
        machine.check(Some(&text), &Source::CommandLine, "line");
        let path = ConfigArgument::Path(machine.places.image.clone());
        machine.check(Some(&path), &Source::CommandLine, "image");
    }

    #[test]
    fn the_place_that_counts_is_not_passed_over_when_it_is_broken() {
        let machine = Machine::new();
        std::fs::write(&machine.places.image, "image").unwrap();
        machine.disk("vda", &tar_of(&[(b'0', "other.toml", b"x")]));
        machine.refused("no `ringgate.toml` at its top, but [other.toml]");
        machine.disk("vda", &tar_of(&[(b'2', MAIN, b"")]));
        machine.refused("of kind `2`");
        machine.disk("vda", &tar_of(&[(b'0', MAIN, b"a")]));
        machine.disk("vda1", &tar_of(&[(b'0', MAIN, b"b")]));
        machine.refused("both begin with a tar archive");
        let large = vec![b' '; usize::try_from(limits::APPLIANCE_CONFIG_BYTES).unwrap() + 1];
        std::fs::write(&machine.places.fw_cfg, large).unwrap();
        machine.refused("larger than");
    }

    #[test]
    fn keys_are_laid_for_this_process_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let machine = Machine::new();
        let bytes = tar_of(&[(b'0', MAIN, b"a"), (b'0', "keys/key.pem", b"k")]);
        std::fs::write(&machine.places.fw_cfg, bytes).unwrap();
        machine.check(None, &Source::FwCfg, "a");
        let key = machine.places.into.join("keys/key.pem");
        let mode = std::fs::metadata(&key).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read(key).unwrap(), b"k");
    }
}
