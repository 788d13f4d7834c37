//! Boots what was made, in QEMU: once for each way in which a machine starts or gets its configuration. Each time a request
//! that policy allows and one that it does not go through the machine, and the power button ends it.
//!
//! QEMU computes each instruction of the guest here (TCG), which takes longer than a machine would and works everywhere.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::guest::{self, ALLOWED, Guest, PORT};
use super::{Image, disk};

/// Firmware for UEFI, and where it keeps its variables.
pub(crate) const FIRMWARE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
const VARIABLES: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";
/// How long a machine may take to serve, and to end.
const SERVES: Duration = Duration::from_secs(180);
const ENDS: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);
/// Memory of the machine, in MiB; firmware needs more than the kernel alone.
const MEMORY: u32 = 128;
const FIRMWARE_MEMORY: u32 = 512;

/// Boots everything.
pub(crate) fn all(root: &Path, image: &Image) -> Result<()> {
    guest::tools(root)?;
    let directory = image
        .kernel
        .parent()
        .context("an image is in a directory")?;
    for part in image.parts() {
        ensure!(
            part.is_file(),
            "{} is missing: cargo xtask image microvm",
            part.display()
        );
    }
    let work = directory.join("boot");
    std::fs::create_dir_all(&work)?;
    let guest = Guest::new(&work)?;
    let archive = guest.archive.to_string_lossy().into_owned();
    serve(
        &work,
        &guest,
        "fw_cfg, DHCP",
        &by_fw_cfg(image, &guest),
        MEMORY,
    )?;

    let fixed = "ringgate.net=10.0.2.15/24,gw=10.0.2.2,dns=10.0.2.3 ringgate.hostname=edge-1";
    let on_disk = drive("config", &archive);
    let with_disk = [self::direct(image, fixed), on_disk].concat();
    serve(&work, &guest, "disk, static address", &with_disk, MEMORY)?;

    let uefi = firmware(image, &guest, &work)?;
    serve(&work, &guest, "UEFI, partition", &uefi, FIRMWARE_MEMORY)?;

    let (key, argument) = Guest::broken();
    refuse(&work, key, &self::direct(image, &argument))
}

/// Boots kernel and initramfs with each of these sizes of memory, in MiB, and tells which of them served.
pub(crate) fn sizes(root: &Path, image: &Image, sizes: &[u32]) -> Result<()> {
    guest::tools(root)?;
    let directory = image.kernel.parent().context("a directory")?;
    let work = directory.join("boot");
    std::fs::create_dir_all(&work)?;
    let guest = Guest::new(&work)?;
    let words = by_fw_cfg(image, &guest);
    let mut served = Vec::new();
    for size in sizes {
        match serve(&work, &guest, "fw_cfg, DHCP", &words, *size) {
            Ok(()) => served.push(*size),
            Err(error) => {
                let text = format!("{error:#}");
                let lines: Vec<&str> = text.lines().collect();
                let last = lines
                    .get(lines.len().saturating_sub(6)..)
                    .unwrap_or_default();
                println!(
                    "  {size} MiB does not serve: {}\n  {}",
                    text.lines().next().unwrap_or_default(),
                    last.join("\n  ")
                );
            }
        }
    }
    let smallest = served.iter().min();
    let smallest = smallest.context("with none of these sizes it serves")?;
    println!("the smallest of these that serves: {smallest} MiB");
    Ok(())
}

/// With a configuration by fw_cfg.
fn by_fw_cfg(image: &Image, guest: &Guest) -> Vec<String> {
    let mut words = direct(image, "");
    words.push("-fw_cfg".to_owned());
    let archive = guest.archive.display();
    words.push(format!("name=opt/ringgate/config,file={archive}"));
    words
}

/// Kernel and initramfs without a boot loader.
fn direct(image: &Image, more: &str) -> Vec<String> {
    let path = |path: &Path| path.to_string_lossy().into_owned();
    let line = format!("console=ttyS0 quiet panic=-1 {more}");
    let words = [
        "-kernel",
        &path(&image.kernel),
        "-initrd",
        &path(&image.initramfs),
        "-append",
        &line,
    ];
    words.map(str::to_owned).to_vec()
}

fn drive(id: &str, file: &str) -> Vec<String> {
    let words = [
        "-drive".to_owned(),
        format!("id={id},file={file},format=raw,if=none,readonly=on"),
        "-device".to_owned(),
        format!("virtio-blk-pci,drive={id}"),
    ];
    words.to_vec()
}

/// The disk with a configuration in its partition, and firmware to start it.
fn firmware(image: &Image, guest: &Guest, work: &Path) -> Result<Vec<String>> {
    let copy = work.join("disk.raw");
    std::fs::copy(&image.disk, &copy)?;
    let mut file = File::options().write(true).open(&copy)?;
    file.seek(SeekFrom::Start(disk::CONFIG_SECTOR * 512))?;
    file.write_all(&std::fs::read(&guest.archive)?)?;
    let variables = work.join("variables.fd");
    std::fs::copy(VARIABLES, &variables)?;
    let mut words = vec![
        "-drive".to_owned(),
        format!("if=pflash,format=raw,unit=0,readonly=on,file={FIRMWARE}"),
        "-drive".to_owned(),
        format!("if=pflash,format=raw,unit=1,file={}", variables.display()),
    ];
    words.extend(drive("system", &copy.to_string_lossy()));
    Ok(words)
}

/// A machine that runs; it ends with this value.
struct Machine {
    qemu: Child,
    began: Instant,
    /// Port of this host that leads to the listener.
    port: u16,
    console: PathBuf,
    control: PathBuf,
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It is gone already if all went well.
        self.qemu.kill().ok();
        self.qemu.wait().ok();
    }
}

impl Machine {
    fn start(work: &Path, words: &[String], memory: u32) -> Result<Self> {
        let (console, control) = (work.join("console.log"), work.join("control"));
        for old in [&console, &control] {
            if old.exists() {
                std::fs::remove_file(old)?;
            }
        }
        let port = guest::free_port()?;
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args([
                "-accel",
                "tcg,thread=multi",
                "-machine",
                "q35",
                "-cpu",
                "max",
                "-smp",
                "1",
            ])
            .args([
                "-display",
                "none",
                "-nodefaults",
                "-no-user-config",
                "-no-reboot",
            ])
            .args(["-m", &memory.to_string()])
            .args(["-serial", &format!("file:{}", console.display())])
            .args([
                "-qmp",
                &format!("unix:{},server=on,wait=off", control.display()),
            ])
            .args([
                "-netdev",
                &format!("user,id=n0,hostfwd=tcp:127.0.0.1:{port}-:{PORT}"),
            ])
            .args([
                "-device",
                "virtio-net-pci,netdev=n0",
                "-device",
                "virtio-rng-pci",
            ])
            .args(words)
            .stdin(Stdio::null());
        let began = Instant::now();
        let qemu = command.spawn().context("qemu-system-x86_64")?;
        Ok(Self {
            qemu,
            began,
            port,
            console,
            control,
        })
    }

    fn console(&self) -> String {
        let bytes = std::fs::read(&self.console).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Looks until `done` gives something.
    fn wait<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let until = Instant::now() + limit;
        loop {
            if let Some(found) = done(self)? {
                return Ok(found);
            }
            ensure!(
                Instant::now() < until,
                "not within {limit:?}: {what}; the console says\n{}",
                self.console()
            );
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until it has ended by itself.
    fn ended(&mut self) -> Result<()> {
        let status = self.wait("the machine ends", ENDS, |m| Ok(m.qemu.try_wait()?))?;
        ensure!(
            status.success(),
            "QEMU ended with {status}:\n{}",
            self.console()
        );
        Ok(())
    }

    /// Fails unless the console says so.
    fn says(&self, wanted: &str) -> Result<()> {
        let text = self.console();
        ensure!(
            text.contains(wanted),
            "the console does not say `{wanted}`:\n{text}"
        );
        Ok(())
    }

    /// Presses the power button, by QEMU's own protocol.
    fn press(&self) -> Result<()> {
        let mut stream = UnixStream::connect(&self.control).context("QEMU's control socket")?;
        stream.set_read_timeout(Some(ENDS))?;
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        lines.next().context("QEMU does not greet")??;
        for command in ["qmp_capabilities", "system_powerdown"] {
            writeln!(stream, "{{\"execute\":\"{command}\"}}")?;
            loop {
                let line = lines.next().context("QEMU does not answer")??;
                ensure!(!line.contains("\"error\""), "QEMU: {line}");
                if line.contains("\"return\"") {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// One boot that serves.
fn serve(work: &Path, guest: &Guest, name: &str, words: &[String], memory: u32) -> Result<()> {
    println!("boot: {name}");
    let mut machine = Machine::start(work, words, memory)?;
    let first = machine.wait("an answer", SERVES, |machine| {
        if let Some(status) = machine.qemu.try_wait()? {
            bail!(
                "the machine has ended ({status}), the console says\n{}",
                machine.console()
            );
        }
        let answer = guest.get(machine.port, ALLOWED)?;
        Ok(answer.map(|_| machine.began.elapsed()))
    })?;
    guest.try_policy(machine.port)?;
    let line = machine.wait("what the machine says of itself", SERVES, |machine| {
        let text = machine.console();
        let line = text.lines().find(|line| line.contains("appliance serves"));
        Ok(line.map(str::to_owned))
    })?;
    let told = |key: &str| field(&line, key).with_context(|| format!("no `{key}` in `{line}`"));
    ensure!(
        told("processes")? == "1" && told("are")? == "\"1:init\"",
        "another process runs there: {line}"
    );
    ensure!(
        told("root")? == "\"read-only\"",
        "the root can be written: {line}"
    );
    machine.wait("both decisions on the console", SERVES, |machine| {
        let text = machine.console();
        let has = |verdict: &str| text.contains(&format!("\"verdict\":\"{verdict}\""));
        Ok((has("allow") && has("deny")).then_some(()))
    })?;
    let resident = resident(machine.qemu.id())?;
    let pressed = Instant::now();
    machine.press()?;
    machine.ended()?;
    machine.says("the power button was pressed")?;
    machine.says("appliance ends")?;
    let mut report = String::new();
    write!(report, "  first byte after {:.2} s", first.as_secs_f64())?;
    write!(
        report,
        ", off {:.2} s after the button\n  ",
        pressed.elapsed().as_secs_f64()
    )?;
    write!(
        report,
        "memory of the machine {memory} MiB: {} KiB usable, ",
        told("memory_kib")?
    )?;
    write!(report, "{} KiB available, ", told("available_kib")?)?;
    write!(
        report,
        "program {} KiB resident, QEMU {resident} KiB",
        told("resident_kib")?
    )?;
    println!("{report}");
    Ok(())
}

/// One boot with a configuration that is refused: the reason is on the console, and the machine goes off by itself.
fn refuse(work: &Path, key: &str, words: &[String]) -> Result<()> {
    println!("boot: a configuration that is refused");
    let mut machine = Machine::start(work, words, MEMORY)?;
    machine.ended()?;
    for wanted in [
        "the appliance does not run",
        key,
        "appliance ends, it has failed",
    ] {
        machine.says(wanted)?;
    }
    println!("  off after {:.2} s", machine.began.elapsed().as_secs_f64());
    Ok(())
}

/// The value of `key=` in a line of the console.
fn field(line: &str, key: &str) -> Option<String> {
    let mut words = line.split(' ');
    words.find_map(|word| {
        let value = word.strip_prefix(key)?.strip_prefix('=')?;
        Some(value.trim().to_owned())
    })
}

/// What a process of this host takes, in KiB.
fn resident(id: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let value = line.and_then(|line| line.split_whitespace().next());
    Ok(value.context("no VmRSS")?.parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found() {
        let line = "2025 INFO appliance serves processes=1 are=\"1:init\" uptime_s=\"2.50\"\r";
        assert_eq!(field(line, "processes").as_deref(), Some("1"));
        assert_eq!(field(line, "uptime_s").as_deref(), Some("\"2.50\""));
        assert_eq!(field(line, "process"), None);
    }
}
