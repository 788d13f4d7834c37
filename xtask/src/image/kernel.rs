//! The kernel: Debian's for clouds as it is, signature and all, and of its modules those that are wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::{piped, quiet};
use crate::steps;

/// The package that names the newest one.
const META: &str = "linux-image-cloud-amd64";

/// An unpacked kernel.
pub(crate) struct Kernel {
    /// As `uname -r` says it.
    pub(crate) version: String,
    /// `vmlinuz`.
    pub(crate) image: Vec<u8>,
    /// The directory of its modules.
    base: PathBuf,
}

/// Modules with all they need.
pub(crate) struct Modules {
    /// Path in the image and content.
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// `modules.dep` for these alone.
    pub(crate) dep: String,
}

/// Unpacks `given`, or the newest kernel of Debian, below `work`.
pub(crate) fn get(root: &Path, given: Option<&Path>, work: &Path) -> Result<Kernel> {
    let package = match given {
        Some(package) => package.to_owned(),
        None => download(root)?,
    };
    let tree = work.join("kernel");
    if tree.exists() {
        std::fs::remove_dir_all(&tree)?;
    }
    std::fs::create_dir_all(&tree)?;
    let (from, to) = (package.to_string_lossy(), tree.to_string_lossy());
    quiet(&["dpkg-deb", "-x", &from, &to])?;
    if !tree.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", tree.join("lib"))?;
    }
    let modules = tree.join("lib/modules");
    let version = only(&modules, "")?;
    let image = tree.join("boot").join(format!("vmlinuz-{version}"));
    let image = std::fs::read(&image).with_context(|| image.display().to_string())?;
    quiet(&["depmod", "-b", &to, &version])?;
    println!("kernel {version}, {}", super::file_name(&package));
    let base = modules.join(&version);
    Ok(Kernel {
        version,
        image,
        base,
    })
}

/// The package that is current; what was downloaded before is used again.
fn download(root: &Path) -> Result<PathBuf> {
    let name = match current() {
        Ok(name) => name,
        Err(_lists_are_missing) => {
            steps::command(root, "apt-get", &["update", "-q"])?;
            current()?
        }
    };
    let directory = steps::target(root).join("kernel").join(&name);
    std::fs::create_dir_all(&directory)?;
    if let Ok(file) = only(&directory, ".deb") {
        return Ok(directory.join(file));
    }
    let mut download = Command::new("apt-get");
    download
        .args(["download", "-q", &name])
        .current_dir(&directory);
    steps::finish(&mut download)?;
    Ok(directory.join(only(&directory, ".deb")?))
}

/// What the meta package depends on.
fn current() -> Result<String> {
    let told = quiet(&["apt-cache", "depends", META])?;
    let name = told
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
        .with_context(|| format!("apt-cache knows no kernel for `{META}`"))?;
    Ok(format!("linux-image-{name}"))
}

/// The one entry of a directory that ends so.
fn only(directory: &Path, ending: &str) -> Result<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let name = super::file_name(&entry?.path());
        names.extend(Some(name).filter(|name| name.ends_with(ending)));
    }
    match names.as_slice() {
        [one] => Ok(one.clone()),
        _ => bail!(
            "{}: one entry expected, there are {names:?}",
            directory.display()
        ),
    }
}

impl Kernel {
    /// Those that are wanted and what they need; one that is built in is there already.
    pub(crate) fn modules(&self, wanted: &[String]) -> Result<Modules> {
        let read = |name: &str| {
            let path = self.base.join(name);
            std::fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        let chosen = choose(&read("modules.dep")?, &read("modules.builtin")?, wanted)?;
        let mut files = Vec::new();
        let mut dep = String::new();
        for (module, needs) in chosen {
            let content = plain(&self.base.join(&module))?;
            let path = format!("lib/modules/{}/{}", self.version, uncompressed(&module));
            files.push((path, content));
            let needs: Vec<_> = needs.iter().map(|need| uncompressed(need)).collect();
            dep.push_str(&format!("{}: {}\n", uncompressed(&module), needs.join(" ")));
        }
        Ok(Modules { files, dep })
    }
}

/// The module without compression, which the initramfs has once for everything.
fn plain(path: &Path) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    match path.extension().and_then(|e| e.to_str()) {
        Some("xz") => piped(&["xz", "-dc"], &bytes),
        Some("zst") => piped(&["zstd", "-q", "-dc"], &bytes),
        _ => Ok(bytes),
    }
}

fn uncompressed(path: &str) -> &str {
    path.trim_end_matches(".xz").trim_end_matches(".zst")
}

/// Name of a module as the kernel knows it.
fn name_of(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// Lines of `modules.dep` of what is wanted.
fn choose(dep: &str, builtin: &str, wanted: &[String]) -> Result<BTreeMap<String, Vec<String>>> {
    let lines: BTreeMap<&str, Vec<&str>> = dep
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(module, needs)| (module, needs.split_whitespace().collect()))
        .collect();
    let builtin: BTreeSet<String> = builtin.lines().map(name_of).collect();
    let mut chosen = BTreeMap::new();
    for name in wanted {
        let name = name.replace('-', "_");
        let found = lines.keys().find(|path| name_of(path) == name);
        let Some(found) = found else {
            ensure!(builtin.contains(&name), "the kernel has no module `{name}`");
            continue;
        };
        let mut todo = vec![*found];
        while let Some(path) = todo.pop() {
            let needs = lines
                .get(path)
                .with_context(|| format!("modules.dep: no `{path}`"))?;
            if !chosen.contains_key(path) {
                todo.extend(needs);
                let needs = needs.iter().map(|need| (*need).to_owned()).collect();
                chosen.insert(path.to_owned(), needs);
            }
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEP: &str = "k/virtio_net.ko.xz: k/failover.ko.xz k/virtio.ko.xz\nk/failover.ko.xz:\n\
        k/virtio.ko.xz:\nk/char/virtio-rng.ko.xz: k/virtio.ko.xz\nk/ena.ko.xz:\n";

    #[test]
    fn modules_come_with_what_they_need() {
        let choose = |wanted: &[&str]| {
            let wanted: Vec<_> = wanted.iter().map(|name| (*name).to_owned()).collect();
            choose(DEP, "kernel/drivers/virtio-pci.ko\n", &wanted)
        };
        let chosen = choose(&["virtio_net", "virtio_rng", "virtio_pci"]).expect("all there");
        let names: Vec<_> = chosen.keys().map(|path| name_of(path)).collect();
        assert_eq!(names, ["virtio_rng", "failover", "virtio", "virtio_net"]);
        assert!(choose(&["e1000"]).is_err());
        assert_eq!(uncompressed("k/ena.ko.xz"), "k/ena.ko");
    }
}
