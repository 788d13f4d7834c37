//! Control groups of this machine: where version 2 is mounted, which group is a unit's, whose number is which path.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::linux::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::role::capture::Cgroup;
use crate::role::owner::levels;
use crate::vocab::limits;
use crate::vocab::unit;

/// Where nftables looks for the groups that its rules name.
const NFT_ROOT: &str = "/sys/fs/cgroup";

/// The mount of control groups version 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its directory.
    pub root: PathBuf,
    /// The same below the directory that nftables starts at; `None` if it is not below.
    pub nft: Option<PathBuf>,
}

/// A kind of file system in the list of mounts.
fn mounted<'m>(mounts: &'m str, kind: &str) -> impl Iterator<Item = (&'m str, &'m str)> {
    mounts.lines().filter_map(move |line| {
        let mut words = line.split(' ').skip(1);
        let (at, found, options) = (words.next()?, words.next()?, words.next()?);
        (found == kind).then_some((at, options))
    })
}

impl Mount {
    /// Reads the list of mounts (`/proc/self/mounts`); of several the one that nftables sees.
    #[must_use]
    pub fn find(mounts: &str) -> Option<Self> {
        let all = mounted(mounts, "cgroup2").map(|(at, _options)| {
            let root = PathBuf::from(at);
            let nft = root.strip_prefix(NFT_ROOT).ok().map(Path::to_path_buf);
            Self { root, nft }
        });
        let mut all: Vec<Self> = all.collect();
        all.sort_by_key(|mount| mount.nft.is_none());
        all.into_iter().next()
    }

    /// The group at a path from the root, if it is there.
    #[must_use]
    pub fn group(&self, path: &str) -> Option<Cgroup> {
        let below = path.trim_matches('/');
        let meta = std::fs::metadata(self.root.join(below)).ok()?;
        let nft = self.nft.as_ref()?.join(below);
        meta.is_dir().then(|| Cgroup {
            path: nft.to_string_lossy().into_owned(),
            level: levels(path),
            id: meta.st_ino(),
        })
    }

    /// The group of a unit: below slices alone.
    #[must_use]
    pub fn unit(&self, unit: &str) -> Option<Cgroup> {
        let escaped = format!("_{unit}");
        let slices = self.slices();
        let names = [unit, escaped.as_str()];
        let names = names.into_iter().filter(|name| unit::of_name(name) == unit);
        let mut candidates =
            names.flat_map(|name| slices.iter().map(move |slice| slice.join(name)));
        let found = candidates.find(|path| path.is_dir())?;
        self.group(&found.strip_prefix(&self.root).ok()?.to_string_lossy())
    }

    /// The root and the slices, in which units are made.
    #[must_use]
    pub fn slices(&self) -> Vec<PathBuf> {
        let slice = |path: &Path| path.extension().is_some_and(|e| e == "slice");
        walk(&self.root, slice).collect()
    }
}

/// `root` and what is below it as far as `enter` says, at most `limits::CGROUPS` of them.
fn walk(root: &Path, enter: impl Fn(&Path) -> bool) -> impl Iterator<Item = PathBuf> {
    let mut waiting = VecDeque::from([root.to_owned()]);
    std::iter::from_fn(move || {
        let next = waiting.pop_front()?;
        let entries = std::fs::read_dir(&next).into_iter().flatten().flatten();
        let directories = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        waiting.extend(directories.map(|e| e.path()).filter(|path| enter(path)));
        Some(next)
    })
    .take(limits::CGROUPS)
}

/// Whether the `net_cls` controller is mounted, by the list of mounts.
#[must_use]
pub fn has_net_cls(mounts: &str) -> bool {
    let has = |options: &str| options.split(',').any(|option| option == "net_cls");
    mounted(mounts, "cgroup").any(|(_at, options)| has(options))
}

/// The list of mounts.
#[must_use]
pub fn mounts() -> String {
    super::text(Path::new("/proc/self/mounts")).unwrap_or_default()
}

/// The path of the group of this number, from the root.
#[must_use]
pub fn path_of(id: u64) -> Option<String> {
    paths_of(&BTreeSet::from([id])).remove(&id)
}

/// The paths of the groups of these numbers, from the root; one that is not there is left out.
#[must_use]
pub fn paths_of(ids: &BTreeSet<u64>) -> BTreeMap<u64, String> {
    let mut found = BTreeMap::new();
    let Some(root) = Mount::find(&mounts()).map(|mount| mount.root) else {
        return found;
    };
    for path in walk(&root, |_path| true) {
        if found.len() == ids.len() {
            break;
        }
        let id = std::fs::metadata(&path).map(|meta| meta.st_ino()).ok();
        let id = id.filter(|id| ids.contains(id));
        if let (Some(id), Ok(below)) = (id, path.strip_prefix(&root)) {
            found.insert(id, format!("/{}", below.to_string_lossy()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_told_apart() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0
cgroup /sys/fs/cgroup/net_cls cgroup rw,relatime,net_cls,net_prio 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
";
        let mount = Mount::find(hybrid).unwrap();
        assert_eq!(mount.nft, Some("unified".into()));
        assert!(has_net_cls(hybrid));
        let unified = "x /mnt cgroup2 rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n";
        let mount = Mount::find(unified).unwrap();
        assert_eq!((mount.root, mount.nft), (NFT_ROOT.into(), Some("".into())));
        assert!(!has_net_cls(unified));
        assert_eq!(Mount::find("proc /proc proc rw 0 0\n"), None);
    }

    #[test]
    fn a_unit_is_found_below_slices_alone() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for path in [
            "system.slice/system-x.slice/a.service/sub.slice",
            "user.slice/user-1.slice/user@1.service/app.slice/b.service",
            "apps.slice/_c.service",
        ] {
            std::fs::create_dir_all(root.join(path)).unwrap();
        }
        let mount = Mount {
            root: root.to_owned(),
            nft: Some("unified".into()),
        };
        let found = mount.unit("a.service").unwrap();
        assert_eq!(found.path, "unified/system.slice/system-x.slice/a.service");
        assert_eq!(found.level, 3);
        assert_eq!(
            mount.unit("c.service").unwrap().path,
            "unified/apps.slice/_c.service"
        );
        assert_eq!(mount.unit("b.service"), None);
        // That group is of `c.service`.
        assert_eq!(mount.unit("_c.service"), None);
        assert_eq!(mount.group("/apps.slice").unwrap().level, 1);
        assert_eq!(mount.group("/none"), None);
    }
}
