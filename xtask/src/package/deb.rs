//! The Debian package, by `dpkg-deb` alone. Its scripts are in `packaging/`.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::archive::{self, Tree};
use super::contents;
use super::material::{Material, rfc5322, said};
use super::program::Scratch;

const MAINTAINER: &str = "ringgate maintainers <maintainers@ringgate.example>";

/// Builds it.
pub(crate) fn build(material: &Material) -> Result<Vec<u8>> {
    let mut tree = installed(material)?;
    let bytes: usize = tree
        .0
        .values()
        .flat_map(|entry| &entry.content)
        .map(Vec::len)
        .sum();
    let control = control(material, bytes.div_ceil(1024));
    let scratch = Scratch::new()?;
    let top = scratch.0.join("tree");
    write(&top, &tree)?;
    let sums = sums(&top, &tree)?;
    tree.0.clear();
    tree.file("DEBIAN/control", control);
    tree.file("DEBIAN/md5sums", sums);
    tree.file("DEBIAN/conffiles", "/etc/ringgate/ringgate.toml\n");
    for script in ["postinst", "prerm", "postrm"] {
        let text = material.file(&format!("packaging/{script}"))?;
        tree.program(format!("DEBIAN/{script}"), text);
    }
    write(&top, &tree)?;
    let made = scratch.0.join("made.deb");
    let mut dpkg = Command::new("dpkg-deb");
    let packing = if material.quick {
        ["-Zgzip", "-z1"]
    } else {
        ["-Zxz", "-z6"]
    };
    dpkg.args(packing);
    // One thread: the same blocks everywhere.
    dpkg.args(["--root-owner-group", "--threads-max=1", "--build"]);
    dpkg.arg(&top).arg(&made);
    dpkg.env("SOURCE_DATE_EPOCH", material.time.to_string());
    said(&mut dpkg).context("dpkg-deb, of Debian's package dpkg")?;
    Ok(fs::read(made)?)
}

/// What it installs.
fn installed(material: &Material) -> Result<Tree> {
    let mut tree = Tree::default();
    tree.program("usr/bin/ringgate", material.program.clone());
    tree.file(
        "etc/ringgate/ringgate.toml",
        material.file("packaging/ringgate.toml")?,
    );
    for unit in contents::UNITS {
        tree.file(
            format!("{UNITS}/{unit}"),
            material.file(&format!("systemd/{unit}"))?,
        );
    }
    let group = material.file("packaging/instance-group.conf")?;
    tree.file(format!("{UNITS}/ringgate@.service.d/10-group.conf"), group);
    tree.file(
        "usr/lib/sysusers.d/ringgate.conf",
        material.file("packaging/sysusers.conf")?,
    );
    tree.file(
        "usr/lib/tmpfiles.d/ringgate.conf",
        material.file("packaging/tmpfiles.conf")?,
    );
    tree.program("usr/lib/ringgate/units", material.file("packaging/units")?);
    contents::completions(material, &mut tree, "usr/share");
    for (name, page) in &material.pages {
        tree.file(format!("usr/share/man/{name}.gz"), archive::gzip(page)?);
    }
    let doc = "usr/share/doc/ringgate";
    contents::documents(material, &mut tree, doc)?;
    contents::examples(material, &mut tree, &format!("{doc}/examples"))?;
    tree.file(
        format!("{doc}/copyright"),
        material.file("packaging/copyright")?,
    );
    let changes = archive::gzip(&material.file("CHANGELOG.md")?)?;
    tree.file(format!("{doc}/changelog.gz"), changes);
    let changes = archive::gzip(changelog(material).as_bytes())?;
    tree.file(format!("{doc}/changelog.Debian.gz"), changes);
    let notices = archive::gzip(material.notices.as_bytes())?;
    tree.file(format!("{doc}/third-party-licenses.txt.gz"), notices);
    let overrides = material.file("packaging/lintian-overrides")?;
    tree.file("usr/share/lintian/overrides/ringgate", overrides);
    Ok(tree)
}

/// Where units are.
const UNITS: &str = "lib/systemd/system";

fn control(material: &Material, kilobytes: usize) -> String {
    let mut text = String::new();
    let description = "zero trust from the edge to the outside, in one program\n \
        ringgate carries API calls between machines: an ingress with public TLS and\n \
        logins, a node that gives every workload a SPIFFE identity and an mTLS tunnel,\n \
        a waypoint that authorizes each request, an egress gateway, and an authority\n \
        that issues the identities. Policies are those of Istio.\n \
        .\n \
        The program is static. Nothing is started before there is a configuration.";
    for (name, value) in [
        ("Package", "ringgate".to_owned()),
        ("Version", material.deb_version()),
        ("Section", "net".to_owned()),
        ("Priority", "optional".to_owned()),
        ("Architecture", material.architecture.name.to_owned()),
        ("Maintainer", MAINTAINER.to_owned()),
        ("Installed-Size", kilobytes.to_string()),
        // Users and directories; traffic is captured by nftables, and outside servers have their roots there.
        (
            "Depends",
            "systemd | systemd-sysusers, systemd | systemd-tmpfiles".to_owned(),
        ),
        ("Recommends", "ca-certificates, nftables".to_owned()),
        ("Description", description.to_owned()),
    ] {
        // Writing to a String does not fail.
        writeln!(text, "{name}: {value}").unwrap_or_default();
    }
    text
}

fn changelog(material: &Material) -> String {
    format!(
        "ringgate ({}) unstable; urgency=medium\n\n  * Version {}, commit {}.\n    \
         What has changed is in changelog.gz.\n\n -- {MAINTAINER}  {}\n",
        material.deb_version(),
        material.version,
        material.commit.get(..12).unwrap_or(&material.commit),
        rfc5322(material.time)
    )
}

/// As `md5sum` prints them: dpkg compares what is installed with it.
fn sums(top: &Path, tree: &Tree) -> Result<String> {
    let files = tree.0.iter().filter(|(path, entry)| {
        entry.content.is_some() && !path.starts_with("etc/") // which may be edited
    });
    let mut md5sum = Command::new("md5sum");
    md5sum.current_dir(top).args(files.map(|(path, _)| path));
    said(&mut md5sum)
}

/// Puts a tree into a directory.
pub(crate) fn write(top: &Path, tree: &Tree) -> Result<()> {
    fs::create_dir_all(top)?;
    for (path, entry) in &tree.0 {
        let path = top.join(path);
        match &entry.content {
            Some(content) => fs::write(&path, content)?,
            None => fs::create_dir_all(&path)?,
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(entry.mode))?;
    }
    Ok(())
}
