//! `cargo xtask image microvm`: the program as a machine. Kernel and initramfs to boot directly, the same as one file for
//! UEFI, and a disk with that file. `cargo xtask image boot` boots all of it.
//!
//! The same program, kernel package and tools give the same bytes. Nothing of it is kept in the repository.

mod boot;
mod cpio;
mod disk;
mod guest;
mod kernel;
mod uki;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use aws_lc_rs::digest;

use crate::ci;
use crate::steps;
use cpio::Archive;
use kernel::Kernel;

/// Drivers: those of QEMU, Firecracker and Cloud Hypervisor, with what they need in turn.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_mmio",
    "virtio_net",
    "virtio_blk",
    "virtio_rng",
    "qemu_fw_cfg",
    "button",
];

/// What the file for UEFI tells the kernel. The last console is the one that the program writes to.
const CMDLINE: &str = "console=tty0 console=ttyS0 quiet panic=-1";

/// The first time that FAT knows, in seconds since 1970.
const DISK_TIME: &str = "315532800";

/// Directories to mount something on, and of things that are written at the start.
const DIRECTORIES: &[&str] = &[
    "dev",
    "etc",
    "lib",
    "proc",
    "run",
    "run/ringgate-config",
    "sys",
    "tmp",
    "var",
    "var/lib",
    "var/lib/ringgate",
    "var/log",
    "var/log/ringgate",
];

/// `(program, Debian package)` for making an image.
const MAKERS: &[(&str, &str)] = &[
    ("apt-get", "apt"),
    ("dpkg-deb", "dpkg"),
    ("depmod", "kmod"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
    ("sgdisk", "gdisk"),
    ("mkfs.vfat", "dosfstools"),
    ("mcopy", "mtools"),
    (uki::STUB, "systemd-boot-efi"),
];

/// Where the parts of an image are.
#[derive(Debug)]
pub(crate) struct Image {
    /// The kernel as it is in its package.
    kernel: PathBuf,
    /// The initramfs, zstd.
    initramfs: PathBuf,
    /// Both in one file for UEFI.
    uki: PathBuf,
    /// A disk with that file, and room for a configuration.
    disk: PathBuf,
}

impl Image {
    fn at(directory: &Path) -> Self {
        let at = |name: &str| directory.join(name);
        Self {
            kernel: at("vmlinuz"),
            initramfs: at("initramfs.zst"),
            uki: at("ringgate.efi"),
            disk: at("disk.raw"),
        }
    }

    fn parts(&self) -> [&Path; 4] {
        [&self.kernel, &self.initramfs, &self.uki, &self.disk]
    }
}

/// What is to be made.
#[derive(Debug)]
struct Options {
    /// The program; the release build if none is named.
    program: Option<PathBuf>,
    /// Where the parts go.
    out: PathBuf,
    /// A package of a kernel; Debian's for clouds if none is named.
    kernel: Option<PathBuf>,
    /// Files for `/etc/ringgate` of the image.
    config: Option<PathBuf>,
    /// PEM of the roots by which outside servers are trusted; none if none is named.
    roots: Option<PathBuf>,
    /// Command line of the file for UEFI.
    cmdline: String,
    /// More modules.
    modules: Vec<String>,
}

impl Options {
    fn parse(root: &Path, words: &[&str]) -> Result<Self> {
        let mut options = Self {
            program: None,
            out: steps::target(root).join("image"),
            kernel: None,
            config: None,
            roots: None,
            cmdline: CMDLINE.to_owned(),
            modules: MODULES.iter().map(|name| (*name).to_owned()).collect(),
        };
        for pair in words.chunks(2) {
            let [name, value] = pair else {
                bail!("`{}` has no value", pair.join(" "));
            };
            match *name {
                "--program" => options.program = Some(PathBuf::from(value)),
                "--out" => options.out = PathBuf::from(value),
                "--kernel" => options.kernel = Some(PathBuf::from(value)),
                "--config" => options.config = Some(PathBuf::from(value)),
                "--roots" => options.roots = Some(PathBuf::from(value)),
                "--cmdline" => options.cmdline = (*value).to_owned(),
                "--module" => options.modules.push((*value).to_owned()),
                other => bail!(
                    "no option `{other}`; there are --program, --out, --kernel, --config, --roots, --cmdline, --module"
                ),
            }
        }
        Ok(options)
    }
}

/// `image microvm ..`
pub(crate) fn microvm(root: &Path, words: &[&str]) -> Result<bool> {
    let options = Options::parse(root, words)?;
    let image = make(root, &options)?;
    for part in image.parts() {
        println!("{}", part.display());
    }
    Ok(true)
}

/// `image boot ..`: boots what `image microvm` has made; with sizes of memory in MiB, kernel and initramfs with each of them.
pub(crate) fn boot(root: &Path, words: &[&str]) -> Result<bool> {
    let (directory, sizes) = boot_options(root, words)?;
    let image = Image::at(&directory);
    if sizes.is_empty() {
        boot::all(root, &image)?;
    } else {
        boot::sizes(root, &image, &sizes)?;
    }
    Ok(true)
}

fn boot_options(root: &Path, words: &[&str]) -> Result<(PathBuf, Vec<u32>)> {
    let (mut directory, mut sizes) = (steps::target(root).join("image"), Vec::new());
    for pair in words.chunks(2) {
        match pair {
            ["--out", given] => directory = PathBuf::from(given),
            ["--memory", list] => {
                for size in list.split(',') {
                    let size = size
                        .parse()
                        .with_context(|| format!("--memory takes MiB, not `{size}`"))?;
                    sizes.push(size);
                }
            }
            _ => bail!("image boot takes --out DIRECTORY and --memory MIB[,MIB..]"),
        }
    }
    Ok((directory, sizes))
}

/// The step of `cargo xtask ci`: makes the image twice, which must give the same bytes, and boots it.
pub(crate) fn check(root: &Path) -> Result<()> {
    let options = Options::parse(root, &[])?;
    let image = make(root, &options)?;
    let again = Options {
        out: steps::target(root).join("image-again"),
        ..options
    };
    let second = make(root, &again)?;
    for (one, other) in image.parts().into_iter().zip(second.parts()) {
        ensure!(
            std::fs::read(one)? == std::fs::read(other)?,
            "{} and {} differ, though made of the same",
            one.display(),
            other.display()
        );
    }
    std::fs::remove_dir_all(&again.out)?;
    boot::all(root, &image)
}

fn make(root: &Path, options: &Options) -> Result<Image> {
    ensure!(
        std::env::consts::ARCH == "x86_64",
        "images are made for x86_64 alone, on such a machine"
    );
    ci::have(root, MAKERS)?;
    let program = match &options.program {
        Some(path) => path.clone(),
        None => ci::binary(root)?.into(),
    };
    let bytes = std::fs::read(&program).with_context(|| program.display().to_string())?;
    ensure!(
        !has_interpreter(&bytes).with_context(|| format!("{} is no ELF", program.display()))?,
        "{} is linked dynamically: an image has no libraries",
        program.display()
    );
    let out = &options.out;
    std::fs::create_dir_all(out)?;
    let work = out.join("work");
    let kernel = kernel::get(root, options.kernel.as_deref(), &work)?;
    let modules = kernel.modules(&options.modules)?;
    let built = built(root);
    let mut archive = Archive::new(built);
    fill(&mut archive, &bytes, &kernel, built)?;
    for (path, content) in &modules.files {
        archive.file(path, 0o444, content)?;
    }
    let dep = format!("lib/modules/{}/modules.dep", kernel.version);
    archive.file(&dep, 0o444, modules.dep.as_bytes())?;
    if let Some(roots) = &options.roots {
        let pem = std::fs::read(roots).with_context(|| roots.display().to_string())?;
        archive.file("etc/ssl/certs/ca-certificates.crt", 0o444, &pem)?;
    }
    if let Some(directory) = &options.config {
        add_config(&mut archive, directory)?;
    }
    let image = Image::at(out);
    std::fs::write(&image.kernel, &kernel.image)?;
    let initramfs = piped(&["zstd", "-q", "-19", "-T1", "-c"], &archive.finish())?;
    std::fs::write(&image.initramfs, &initramfs)?;
    let release = format!(
        "ID=ringgate\nNAME=ringgate\nVERSION_ID={}\n",
        version(root)?
    );
    let sections = [
        (".osrel", release.as_bytes()),
        (".cmdline", options.cmdline.as_bytes()),
        (".linux", kernel.image.as_slice()),
        (".initrd", initramfs.as_slice()),
    ];
    let stub = std::fs::read(uki::STUB).context(uki::STUB)?;
    std::fs::write(&image.uki, uki::append(&stub, &sections)?)?;
    disk::make(&image.uki, &image.disk, &work)?;
    std::fs::write(out.join("SHA256SUMS"), sums(&image)?)?;
    for part in image.parts() {
        let size = std::fs::metadata(part)?.len();
        println!("{:<16} {:>9} KiB", file_name(part), size / 1024);
    }
    Ok(image)
}

fn fill(archive: &mut Archive, program: &[u8], kernel: &Kernel, built: u64) -> Result<()> {
    for directory in DIRECTORIES {
        archive.directory(directory)?;
    }
    archive.file("init", 0o555, program)?;
    archive.device("dev/console", 5, 1)?;
    archive.file("etc/hosts", 0o444, b"127.0.0.1 localhost\n::1 localhost\n")?;
    archive.link("etc/resolv.conf", "/run/resolv.conf")?;
    let told = format!("built={built}\nkernel={}\n", kernel.version);
    archive.file("etc/ringgate-image", 0o444, told.as_bytes())
}

/// Files of a directory, and of those in it.
fn add_config(archive: &mut Archive, directory: &Path) -> Result<()> {
    let mut todo = vec![(directory.to_owned(), "etc/ringgate".to_owned())];
    let mut files = Vec::new();
    while let Some((directory, name)) = todo.pop() {
        let entries = std::fs::read_dir(&directory);
        for entry in entries.with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            let name = format!("{name}/{}", file_name(&path));
            if path.is_dir() {
                todo.push((path, name));
            } else {
                files.push((name, path));
            }
        }
    }
    files.sort();
    for (name, path) in files {
        archive.file(&name, 0o400, &std::fs::read(path)?)?;
    }
    Ok(())
}

pub(crate) fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

/// Seconds since 1970 that stand for the time of the build: those that the environment says, else of the last commit.
fn built(root: &Path) -> u64 {
    let said = std::env::var("SOURCE_DATE_EPOCH").ok();
    let said = said.and_then(|text| text.parse().ok());
    said.unwrap_or_else(|| {
        let commit = ["log", "-1", "--format=%ct"];
        let told = Command::new("git").args(commit).current_dir(root).output();
        let told = told
            .ok()
            .and_then(|told| String::from_utf8(told.stdout).ok());
        told.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    })
}

fn version(root: &Path) -> Result<String> {
    let manifest = std::fs::read_to_string(root.join("Cargo.toml"))?;
    let line = manifest.lines().find_map(|l| l.strip_prefix("version = "));
    Ok(line
        .context("Cargo.toml has no version")?
        .trim_matches('"')
        .to_owned())
}

/// Whether a 64-bit ELF file asks for a dynamic linker (`PT_INTERP`).
fn has_interpreter(elf: &[u8]) -> Option<bool> {
    let word = |at: usize| Some(u64::from_le_bytes(*elf.get(at..)?.first_chunk()?));
    let half = |at: usize| Some(u16::from_le_bytes(*elf.get(at..)?.first_chunk()?));
    if elf.get(..5)? != b"\x7fELF\x02" {
        return None;
    }
    let table = usize::try_from(word(32)?).ok()?;
    let (size, count) = (usize::from(half(54)?), usize::from(half(56)?));
    for header in 0..count {
        let at = table.checked_add(size.checked_mul(header)?)?;
        let kind = u32::from_le_bytes(*elf.get(at..)?.first_chunk()?);
        if kind == 3 {
            return Some(true);
        }
    }
    Some(false)
}

fn sums(image: &Image) -> Result<String> {
    let mut text = String::new();
    for part in image.parts() {
        let sum = digest::digest(&digest::SHA256, &std::fs::read(part)?);
        for byte in sum.as_ref() {
            write!(text, "{byte:02x}")?;
        }
        writeln!(text, "  {}", file_name(part))?;
    }
    Ok(text)
}

/// What a program makes of its standard input.
fn piped(words: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    let [program, arguments @ ..] = words else {
        bail!("no program");
    };
    let mut command = Command::new(ci::find(program).with_context(|| format!("no `{program}`"))?);
    command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("`{program}`"))?;
    let mut stdin = child.stdin.take().context("its standard input")?;
    let output = std::thread::scope(|scope| {
        // It writes before it has read everything.
        let writer = scope.spawn(move || std::io::Write::write_all(&mut stdin, input));
        let output = child.wait_with_output();
        match writer.join() {
            Ok(written) => written.and(output),
            Err(_panicked) => output,
        }
    })?;
    ensure!(
        output.status.success(),
        "`{}`: {}",
        words.join(" "),
        output.status
    );
    Ok(output.stdout)
}

/// Runs a program of the tools for root, too, and shows what it says only if it fails.
fn quiet(words: &[&str]) -> Result<String> {
    let [program, arguments @ ..] = words else {
        bail!("no program");
    };
    let mut command = Command::new(ci::find(program).with_context(|| format!("no `{program}`"))?);
    let output = command
        .args(arguments)
        .env("MTOOLS_SKIP_CHECK", "1")
        .env("SOURCE_DATE_EPOCH", DISK_TIME) // of files and directories on the disk
        .env("TZ", "UTC")
        .output()
        .with_context(|| format!("`{program}`"))?;
    ensure!(
        output.status.success(),
        "`{}` ended with {}:\n{}{}",
        words.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_to_boot_with_are_read_or_refused() {
        let root = Path::new("/project");
        let words = ["--memory", "96,128", "--out", "/elsewhere"];
        let (out, sizes) = boot_options(root, &words).expect("good");
        assert_eq!((out, sizes), (PathBuf::from("/elsewhere"), vec![96, 128]));
        for bad in [&["--memory"][..], &["--memory", "few"], &["--size", "1"]] {
            assert!(boot_options(root, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_dynamic_program_is_told_from_a_static_one() {
        let dynamic = ["/bin/sh", "/usr/bin/sh"].map(Path::new);
        let shell = dynamic.iter().find_map(|path| std::fs::read(path).ok());
        assert_eq!(has_interpreter(&shell.expect("a shell")), Some(true));
        let own = std::env::current_exe().expect("this test");
        assert_eq!(
            has_interpreter(&std::fs::read(own).expect("it")),
            Some(false)
        );
        assert_eq!(has_interpreter(b"#!/bin/sh\n"), None);
        assert_eq!(has_interpreter(b"\x7fELF\x02"), None);
    }

    #[test]
    fn options_are_pairs() {
        let root = Path::new("/");
        let options = Options::parse(root, &["--module", "ena", "--out", "/x"]).expect("good");
        assert!(options.modules.contains(&"ena".to_owned()));
        assert_eq!(options.out, Path::new("/x"));
        assert!(Options::parse(root, &["--out"]).is_err());
        assert!(Options::parse(root, &["--shell", "yes"]).is_err());
    }
}
