//! CI's trial of what is packaged: what Debian's checker and others' readers say of it, and the image run by a real runtime.

#![expect(
    clippy::indexing_slicing,
    reason = "what a JSON value does not have is null"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::container::Container;
use super::material::said;
use super::profile;
use super::program::Scratch;
use super::{Kind, Options, make};
use crate::steps::{finish, target};

/// The profile that Debian's podman runs containers with. It refuses io_uring.
pub(crate) const DEFAULT_PROFILE: &str = "/usr/share/containers/seccomp.json";

/// All of it, with the release program.
pub(crate) fn run(root: &Path) -> Result<()> {
    let options = Options::parse(root, &[])?;
    let made = make(root, &options)?;
    same_again(root, &made)?;
    let find = |end: &str| {
        let path = made
            .iter()
            .find(|path| path.to_string_lossy().ends_with(end));
        path.with_context(|| format!("no {end} was made"))
    };
    let mut sums = Command::new("sha256sum");
    finish(
        sums.args(["--check", "--strict", "SHA256SUMS"])
            .current_dir(&options.out),
    )?;
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on", "error,warning"]);
    finish(lintian.arg(find(".deb")?))?;
    archive(find(".tar.gz")?)?;

    let scratch = Scratch::new()?;
    let layout = scratch.0.join("layout");
    unpack(find(".oci.tar")?, &layout)?;
    let image = inspect(&layout, find(".docker.tar")?)?;
    let bundle = scratch.0.join("bundle");
    let mut umoci = Command::new("umoci");
    finish(umoci.args(["unpack", "--image", &image]).arg(&bundle))?;

    let default = fs::read(DEFAULT_PROFILE)
        .with_context(|| format!("no {DEFAULT_PROFILE}, of golang-github-containers-common"))?;
    in_a_container(&scratch, &bundle, &default, "epoll")?;
    let own = fs::read(root.join("images/seccomp.json"))?;
    in_a_container(&scratch, &bundle, &own, "io_uring")
}

/// Steps of the drill.
const STEPS: u64 = 9;

/// The whole drill inside, on the mesh that runs there; all of its steps must be told, and have passed.
fn drill(container: &Container) -> Result<()> {
    let config = "ringgate-demo/ringgate.toml"; // where the demo has written it
    let words = ["drill", "--config", config, "--output", "json"];
    let output = container.with_curl(&words)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    let report: Value = serde_json::from_str(&text)
        .with_context(|| format!("the drill inside has told: {text}{errors}"))?;
    passed(&report).with_context(|| format!("the drill inside: {report:#}{errors}"))?;
    ensure!(
        output.status.success(),
        "the drill inside: {}",
        output.status
    );
    println!("the drill inside: {STEPS} of {STEPS} steps PASS");
    Ok(())
}

/// Whether each of the steps is in a report, once and in order, was checked, and has passed.
fn passed(report: &Value) -> Result<()> {
    let steps = report["steps"].as_array().context("no steps")?;
    let numbers: Vec<u64> = steps
        .iter()
        .filter_map(|step| step["step"].as_u64())
        .collect();
    let expected: Vec<u64> = (1..=STEPS).collect();
    ensure!(
        numbers == expected,
        "steps {numbers:?}, expected {expected:?}"
    );
    for step in steps {
        let checks = step["checks"].as_array().map_or(0, Vec::len);
        ensure!(
            step["result"] == "PASS" && checks > 0,
            "step {}",
            step["step"]
        );
    }
    ensure!(report["result"] == "PASS", "{}", report["result"]);
    Ok(())
}

/// Package and image come out the same a second time.
fn same_again(root: &Path, made: &[PathBuf]) -> Result<()> {
    let mut options = Options::parse(root, &[])?;
    options.out = target(root).join("package-again");
    options.only = vec![Kind::Deb, Kind::Image, Kind::Tarball];
    for again in make(root, &options)? {
        let name = again.file_name().context("a file has a name")?;
        let Some(first) = made.iter().find(|path| path.file_name() == Some(name)) else {
            continue;
        };
        let differs = name != "SHA256SUMS" && fs::read(first)? != fs::read(&again)?;
        ensure!(
            !differs,
            "{} and {} differ",
            first.display(),
            again.display()
        );
    }
    println!("the same bytes a second time");
    Ok(())
}

/// The archive holds a program that runs, and what belongs to it.
fn archive(path: &Path) -> Result<()> {
    let scratch = Scratch::new()?;
    said(
        Command::new("tar")
            .arg("-xzf")
            .arg(path)
            .arg("-C")
            .arg(&scratch.0),
    )?;
    let mut inside = fs::read_dir(&scratch.0)?;
    let top = inside.next().context("the archive is empty")??.path();
    let text = said(Command::new(top.join("bin/ringgate")).args(["version", "--long"]))?;
    ensure!(text.contains("static"), "{text}");
    for file in [
        "lib/systemd/system/ringgate@.service",
        "share/man/man5/ringgate.toml.5",
        "share/zsh/vendor-completions/_ringgate",
        "share/doc/ringgate/LICENSE",
        "share/doc/ringgate/examples/demo.toml",
        "share/doc/ringgate/third-party-licenses.txt",
    ] {
        ensure!(top.join(file).is_file(), "the archive has no {file}");
    }
    Ok(())
}

fn unpack(archive: &Path, into: &Path) -> Result<()> {
    fs::create_dir(into)?;
    said(
        Command::new("tar")
            .arg("-xf")
            .arg(archive)
            .arg("-C")
            .arg(into),
    )?;
    Ok(())
}

/// What skopeo reads of both formats. Gives the name by which the OCI layout is called.
fn inspect(layout: &Path, docker: &Path) -> Result<String> {
    let skopeo = |arguments: &[&str]| -> Result<Value> {
        let text = said(Command::new("skopeo").arg("inspect").args(arguments))?;
        Ok(serde_json::from_str(&text)?)
    };
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
    let manifest = &index["manifests"][0];
    let tag = &manifest["annotations"]["org.opencontainers.image.ref.name"];
    let tag = tag.as_str().context("the layout has no tag")?;
    let image = format!("{}:{tag}", layout.display());
    let oci = format!("oci:{image}");
    let docker = format!("docker-archive:{}", docker.display());
    for (name, kind) in [
        (&oci, "application/vnd.oci.image.manifest.v1+json"),
        (
            &docker,
            "application/vnd.docker.distribution.manifest.v2+json",
        ),
    ] {
        let raw = skopeo(&["--raw", name])?;
        ensure!(
            raw["mediaType"] == kind,
            "{name} is {}, expected {kind}",
            raw["mediaType"]
        );
        let seen = skopeo(&[name])?;
        let labels = &seen["Labels"];
        let version = &labels["org.opencontainers.image.version"];
        ensure!(version == tag && seen["Os"] == "linux", "{name}: {seen}");
        let revision = &labels["org.opencontainers.image.revision"];
        ensure!(
            revision.as_str().is_some_and(|hash| !hash.is_empty()),
            "{name}: {seen}"
        );
        let config = skopeo(&["--config", name])?;
        ensure!(
            config["config"]["User"] == "65532:65532",
            "{name}: {config}"
        );
        println!("{name}: {kind}, {}", seen["Digest"]);
    }
    let seen = skopeo(&[&oci])?;
    ensure!(
        seen["Digest"] == manifest["digest"],
        "{seen}, the index has {manifest}"
    );
    Ok(image)
}

/// The demo in a container that has nothing besides, with clients from outside in the same network namespace; then the drill
/// inside, with a curl that is lent to it for that.
fn in_a_container(scratch: &Scratch, bundle: &Path, profile: &[u8], driver: &str) -> Result<()> {
    let profile = profile::for_runtime(&serde_json::from_slice(profile)?)?;
    let container = Container::start(scratch, bundle, &profile, &["demo"], driver)?;
    let users = |address: &str| {
        let socks = format!("{address}:15080");
        container.status(&[
            "--socks5-hostname",
            &socks,
            "http://customer-api/api/v1/users/7",
        ])
    };
    container.until("the mesh answers", || Ok(users("127.0.10.1")? == "200"))?;
    let denied = users("127.0.10.2")?;
    ensure!(
        denied == "403",
        "another workload is answered {denied}, expected 403"
    );

    drill(&container)?;

    let told: Value = serde_json::from_str(&container.inside(&["version", "--output", "json"])?)?;
    let kernel = &told["kernel"];
    ensure!(
        kernel["ioUring"]["driver"] == driver,
        "{kernel}, expected {driver}"
    );
    ensure!(kernel["seccomp"] == "filter", "{kernel}");
    ensure!(kernel["noNewPrivileges"] == true, "{kernel}");
    ensure!(
        kernel["capabilities"].as_array().is_some_and(Vec::is_empty),
        "{kernel}"
    );
    ensure!(told["static"] == true, "{told}");

    let log = container.stop()?;
    let refused = log
        .lines()
        .filter(|line| line.contains("io_uring is refused here"))
        .count();
    let expected = usize::from(driver == "epoll");
    ensure!(
        refused == expected,
        "{refused} lines about io_uring, expected {expected}:\n{log}"
    );
    ensure!(
        log.contains("D=/proc/$PID/root/var/lib/ringgate/ringgate-demo\n"),
        "the demo does not say how the machine reaches its files:\n{log}"
    );
    let cores = log.lines().filter(|line| line.contains("core runs"));
    let drivers: Vec<bool> = cores.map(|line| line.contains(driver)).collect();
    ensure!(
        !drivers.is_empty() && drivers.iter().all(|own| *own),
        "not all on {driver}:\n{log}"
    );
    println!(
        "the image serves, refuses and passes the drill as process 1 of a container, by {driver}"
    );
    for line in log
        .lines()
        .filter(|line| line.contains("io_uring is refused here"))
    {
        println!("  {line}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_report_counts_whole_and_passed_alone() {
        let check = json!({ "name": "a", "result": "PASS" });
        let step = |number: u64| json!({ "step": number, "result": "PASS", "checks": [check] });
        let whole: Vec<Value> = (1..=STEPS).map(step).collect();
        let report = |steps: &[Value]| json!({ "result": "PASS", "steps": steps });
        assert!(passed(&report(&whole)).is_ok());
        assert!(passed(&report(&whole[..8])).is_err(), "one is missing");
        let mut failed = whole.clone();
        failed[4]["result"] = json!("FAIL");
        assert!(passed(&report(&failed)).is_err());
        let mut empty = whole.clone();
        empty[4]["checks"] = json!([]);
        assert!(passed(&report(&empty)).is_err(), "nothing was checked");
        let mut twice = whole;
        twice[4]["step"] = json!(4);
        assert!(passed(&report(&twice)).is_err());
        assert!(passed(&json!({})).is_err());
    }
}
