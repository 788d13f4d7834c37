//! A container of runc in a network namespace of its own.

#![expect(
    clippy::indexing_slicing,
    reason = "what a JSON value does not have is null"
)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::material::said;
use super::program::Scratch;
use crate::ci;

/// How long a state is waited for.
const LIMIT: Duration = Duration::from_secs(120);

/// It runs until it is stopped or dropped.
#[derive(Debug)]
pub(crate) struct Container {
    name: String,
    /// Where runc keeps what it knows of it.
    state: PathBuf,
    log: PathBuf,
    runc: Child,
}

impl Container {
    /// Runs `ringgate ARGUMENTS` in a bundle that `umoci unpack` has made: root is read-only, no capability, no new
    /// privileges, the system calls of `profile`.
    pub(crate) fn start(
        scratch: &Scratch,
        bundle: &Path,
        profile: &Value,
        arguments: &[&str],
        label: &str,
    ) -> Result<Self> {
        let name = format!("ringgate-{}-{label}", std::process::id());
        said(Command::new("ip").args(["netns", "add", &name]))?;
        let (state, log) = (
            scratch.0.join("runc"),
            scratch.0.join(format!("{label}.log")),
        );
        let curl = borrow_curl(&scratch.0.join("curl"))?;
        configure(bundle, &name, profile, arguments, &curl)?;
        let out = File::create(&log)?;
        let runc = Command::new("runc")
            .arg("--root")
            .arg(&state)
            .args(["run", "--bundle"])
            .arg(bundle)
            .arg(&name)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("runc cannot be started")?;
        let container = Self {
            name,
            state,
            log,
            runc,
        };
        let lo = ["-n", &container.name, "link", "set", "lo", "up"];
        said(Command::new("ip").args(lo))?;
        Ok(container)
    }

    /// Waits until something holds.
    pub(crate) fn until(&self, what: &str, holds: impl Fn() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !holds()? {
            if Instant::now() > deadline {
                bail!("{what}: not within {LIMIT:?}:\n{}", self.said()?);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    /// The status that curl is answered with beside it; `000` without an answer.
    pub(crate) fn status(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new("nsenter")
            .arg(format!("--net=/run/netns/{}", self.name))
            .args([
                "curl",
                "-s",
                "-m",
                "10",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
            ])
            .args(arguments)
            .output()
            .context("nsenter cannot be started")?;
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What `ringgate ARGUMENTS` prints inside.
    pub(crate) fn inside(&self, arguments: &[&str]) -> Result<String> {
        said(self.exec(&[]).args(arguments))
    }

    /// What `ringgate ARGUMENTS` prints inside, where it finds the borrowed curl, and with which code it ends.
    pub(crate) fn with_curl(&self, arguments: &[&str]) -> Result<Output> {
        let (path, libraries) = (
            format!("PATH={CURL}"),
            format!("LD_LIBRARY_PATH={CURL}/lib"),
        );
        // The root is read-only; the drill keeps a download for as long as it looks at it.
        let scratch = "TMPDIR=/var/lib/ringgate";
        let mut exec = self.exec(&["--env", &path, "--env", &libraries, "--env", scratch]);
        exec.args(arguments)
            .output()
            .context("runc cannot be started")
    }

    fn exec(&self, options: &[&str]) -> Command {
        let mut runc = self.runc();
        runc.arg("exec").args(options);
        runc.args([&self.name, "/usr/bin/ringgate"]);
        runc
    }

    /// Ends it by SIGTERM, which must end it in order. Gives what it said.
    pub(crate) fn stop(mut self) -> Result<String> {
        said(self.runc().args(["kill", &self.name, "TERM"]))?;
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = self.runc.try_wait()? {
                break status;
            }
            ensure!(
                Instant::now() < deadline,
                "SIGTERM has not ended process 1:\n{}",
                self.said()?
            );
            std::thread::sleep(Duration::from_millis(50));
        };
        let said = self.said()?;
        ensure!(status.success(), "process 1 ended with {status}:\n{said}");
        Ok(said)
    }

    fn runc(&self) -> Command {
        let mut runc = Command::new("runc");
        runc.arg("--root").arg(&self.state);
        runc
    }

    fn said(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&fs::read(&self.log)?).into_owned())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // What has ended already is not there any more, and so what these say does not matter.
        let mut delete = self.runc();
        delete.args(["delete", "--force", &self.name]);
        let mut netns = Command::new("ip");
        netns.args(["netns", "delete", &self.name]);
        for command in [&mut delete, &mut netns] {
            command.output().map(drop).unwrap_or_default();
        }
        self.runc.wait().map(drop).unwrap_or_default();
    }
}

/// Where the borrowed curl lies inside.
const CURL: &str = "/borrowed";

/// Copies this machine's curl and its libraries to `into`; the mounts, read-only, by which it runs in a container that has
/// no library: that directory, and the loader, which programs name by its path.
fn borrow_curl(into: &Path) -> Result<Vec<Value>> {
    let curl = ci::find("curl").context("no curl")?;
    let library = into.join("lib");
    fs::create_dir_all(&library)?;
    fs::copy(&curl, into.join("curl"))?;
    let told = said(Command::new("ldd").arg(&curl))?;
    let mut loader = None;
    for line in told.lines() {
        let (name, place) = match line.trim().split_once(" => ") {
            Some((name, place)) => (name, place),
            None => ("", line.trim()),
        };
        let place = Path::new(place.split(" (").next().unwrap_or_default());
        if !place.is_absolute() {
            continue; // the kernel's own has no file
        }
        if name.is_empty() {
            loader = Some(place.to_owned());
        } else {
            fs::copy(place, library.join(name)).with_context(|| format!("`{line}`"))?;
        }
    }
    let loader = loader.with_context(|| format!("ldd names no loader:\n{told}"))?;
    let mount = |from: &Path, to: &Path| {
        json!({
            "destination": to,
            "type": "bind",
            "source": from,
            "options": ["bind", "ro", "nosuid", "nodev"],
        })
    };
    let file = loader.canonicalize()?;
    Ok(vec![mount(into, Path::new(CURL)), mount(&file, &loader)])
}

fn configure(
    bundle: &Path,
    netns: &str,
    profile: &Value,
    arguments: &[&str],
    more: &[Value],
) -> Result<()> {
    let path = bundle.join("config.json");
    let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
    let process = &mut config["process"];
    let mut words = vec!["/usr/bin/ringgate"];
    words.extend(arguments);
    ensure!(
        process["args"][0] == "/usr/bin/ringgate",
        "the image starts {}",
        process["args"]
    );
    ensure!(
        process["user"]["uid"] == 65532,
        "the image runs as {}",
        process["user"]
    );
    process["args"] = json!(words);
    process["terminal"] = json!(false);
    process["noNewPrivileges"] = json!(true);
    process["capabilities"] = json!({});
    process["rlimits"] = json!([]); // those of this process, which it may not raise
    config["root"]["readonly"] = json!(true);
    config["linux"]["seccomp"] = profile.clone();
    let namespaces = config["linux"]["namespaces"].as_array_mut();
    let namespaces = namespaces.context("the bundle has no namespaces")?;
    namespaces.retain(|namespace| namespace["type"] != "network");
    namespaces.push(json!({ "type": "network", "path": format!("/run/netns/{netns}") }));
    let mounts = config["mounts"].as_array_mut();
    let mounts = mounts.context("the bundle has no mounts")?;
    let own: Vec<&Value> = more.iter().map(|mount| &mount["destination"]).collect();
    mounts.retain(|mount| {
        mount["destination"] != "/var/lib/ringgate" && !own.contains(&&mount["destination"])
    });
    mounts.extend(more.iter().cloned());
    mounts.push(json!({
        "destination": "/var/lib/ringgate",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "nodev", "noexec", "mode=0700", "uid=65532", "gid=65532"],
    }));
    fs::write(&path, serde_json::to_vec(&config)?)?;
    Ok(())
}
