//! Which workloads a local process is.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::config::checked::Config;
use crate::config::checked::workload_api::PeerSelector;
use crate::io::peer::{Facts, FileId, Peer};
use crate::vocab::spiffe::SpiffeId;
use crate::vocab::unit;

/// One entry of the configuration, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Identity of its workload.
    pub id: SpiffeId,
    /// `hint`.
    pub hint: String,
    /// `match`.
    pub selector: PeerSelector,
}

/// An identity that a peer has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entitled {
    /// The SPIFFE ID.
    pub id: SpiffeId,
    /// Told with it.
    pub hint: String,
}

/// The entries of a configuration, in their order.
#[must_use]
pub fn entries(config: &Config) -> Vec<Entry> {
    let written = config.process.workload_api.iter().flat_map(|w| &w.entries);
    let resolved = written.filter_map(|entry| {
        let mut workloads = config.mesh.workloads.iter();
        let workload = workloads.find(|w| w.name == entry.workload)?;
        Some(Entry {
            id: workload.id.clone(),
            hint: entry.hint.clone(),
            selector: entry.selector.clone(),
        })
    });
    resolved.collect()
}

/// What the peer is entitled to, in the order of the entries; each identity and each hint once.
#[must_use]
pub fn entitled(entries: &[Entry], peer: &Peer, facts: &Facts) -> Vec<Entitled> {
    let mut found: Vec<Entitled> = Vec::new();
    let mut hints = BTreeSet::new();
    for entry in entries {
        if found.iter().any(|known| known.id == entry.id) {
            continue;
        }
        if !holds(&entry.selector, (peer.uid, peer.gid), facts, &|path| {
            FileId::of(path).ok()
        }) {
            continue;
        }
        // The first one keeps the hint (SPIFFE Workload API, section 5.2).
        let hint = if hints.insert(entry.hint.as_str()) {
            entry.hint.clone()
        } else {
            String::new()
        };
        found.push(Entitled {
            id: entry.id.clone(),
            hint,
        });
    }
    found
}

/// Whether all that the selector gives holds of the process that connected as `ids`. `file` finds a file by its path
/// here: the name that the process itself has for its program may be its own invention.
fn holds(
    selector: &PeerSelector,
    ids: (u32, u32),
    facts: &Facts,
    file: &dyn Fn(&std::path::Path) -> Option<FileId>,
) -> bool {
    let PeerSelector {
        uid,
        gid,
        exe,
        unit,
        cgroup,
    } = selector;
    let group = facts.cgroups.as_deref().and_then(control_group);
    let within = |wanted: &String| {
        let rest = group.and_then(|group| group.strip_prefix(wanted.as_str()));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let runs = |path: &std::path::PathBuf| facts.exe.is_some() && facts.exe == file(path);
    // A selector without a condition would be everybody.
    let any = uid.is_some() || gid.is_some() || exe.is_some() || unit.is_some() || cgroup.is_some();
    any && uid.is_none_or(|uid| uid == ids.0)
        && gid.is_none_or(|gid| gid == ids.1)
        && exe.as_ref().is_none_or(runs)
        && unit
            .as_deref()
            .is_none_or(|unit| group.and_then(system_unit) == Some(unit))
        && cgroup.as_ref().is_none_or(within)
}

/// Whether the process is what it was when it connected. Its control group may change, which is judged each time.
#[must_use]
pub fn unchanged(peer: &Peer, first: &Facts, now: &Facts) -> bool {
    let same_ids = now.ids.is_none_or(|ids| ids == (peer.uid, peer.gid));
    same_ids && first.ids == now.ids && first.exe == now.exe
}

/// The path of `/proc/<pid>/cgroup` by which systemd knows the process: that of its own hierarchy where there is one
/// (cgroup v1 and hybrid), else the unified one.
fn control_group(text: &str) -> Option<&str> {
    let path = |line: &'static str| {
        text.lines().find_map(|l| {
            let (_number, rest) = l.split_once(':')?;
            let (controllers, path) = rest.split_once(':')?;
            (controllers == line).then_some(path)
        })
    };
    path("name=systemd").or_else(|| path(""))
}

/// The system unit of a control group.
fn system_unit(group: &str) -> Option<&str> {
    unit::of_path(group).map(|(unit, _level)| unit)
}

/// What a record says of a peer.
#[must_use]
pub fn describe(peer: &Peer, facts: Option<&Facts>) -> Map<String, Value> {
    let group = facts.and_then(|f| f.cgroups.as_deref().and_then(control_group));
    let exe = facts.and_then(|f| {
        f.exe_name
            .as_deref()
            .map(|p| p.to_string_lossy().into_owned())
    });
    let value = json!({
        "pid": peer.pid,
        "uid": peer.uid,
        "gid": peer.gid,
        "exe": exe,
        "cgroup": group,
        "unit": group.and_then(system_unit),
    });
    match value {
        Value::Object(map) => map,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Map::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn facts(cgroups: &str) -> Facts {
        Facts {
            ids: Some((1000, 100)),
            exe: FileId::of(Path::new("/proc/self/exe")).ok(),
            exe_name: Some("/usr/bin/lie".into()),
            cgroups: Some(cgroups.to_owned()),
        }
    }

    fn check(selector: &PeerSelector, cgroups: &str) -> bool {
        holds(selector, (1000, 100), &facts(cgroups), &|path| {
            FileId::of(path).ok()
        })
    }

    type Change = fn(&mut PeerSelector);

    #[test]
    fn groups_and_units() {
        for (text, group, unit) in [
            (
                "0::/system.slice/reviews.service\n",
                Some("/system.slice/reviews.service"),
                Some("reviews.service"),
            ),
            (
                "9:name=systemd:/system.slice/a.service/b\n1:cpu:/x\n0::/\n",
                Some("/system.slice/a.service/b"),
                Some("a.service"),
            ),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/reviews.service\n",
                Some("/user.slice/user-1000.slice/user@1000.service/app.slice/reviews.service"),
                Some("user@1000.service"),
            ),
            (
                "0::/a.slice/a-b.slice/x.scope/reviews.service\n",
                Some("/a.slice/a-b.slice/x.scope/reviews.service"),
                Some("x.scope"),
            ),
            (
                "0::/docker/reviews.service\n",
                Some("/docker/reviews.service"),
                None,
            ),
            ("0::/init.scope\n", Some("/init.scope"), Some("init.scope")),
            (
                "0::/system.slice/_cpu.service\n",
                Some("/system.slice/_cpu.service"),
                Some("cpu.service"),
            ),
            ("0::/\n", Some("/"), None),
            ("0::/system.slice\n", Some("/system.slice"), None),
            ("1:cpu:/system.slice/reviews.service\n", None, None),
            ("0::/a:b/c\n", Some("/a:b/c"), None),
            ("", None, None),
        ] {
            assert_eq!(control_group(text), group, "{text}");
            assert_eq!(group.and_then(system_unit), unit, "{text}");
        }
    }

    #[test]
    fn all_that_is_given_must_hold() {
        const GROUP: &str = "0::/system.slice/reviews.service/x\n";
        let own = std::env::current_exe().unwrap();
        let all = PeerSelector {
            uid: Some(1000),
            gid: Some(100),
            exe: Some(own),
            unit: Some("reviews.service".to_owned()),
            cgroup: Some("/system.slice/reviews.service".to_owned()),
        };
        assert!(check(&all, GROUP));
        let broken: [(&str, Change); 9] = [
            ("uid", |s| s.uid = Some(1001)),
            ("gid", |s| s.gid = Some(101)),
            ("the name that the process gives", |s| {
                s.exe = Some("/usr/bin/lie".into());
            }),
            ("another file", |s| s.exe = Some("/bin/sh".into())),
            ("no file", |s| s.exe = Some("/nonexistent".into())),
            ("unit", |s| s.unit = Some("x".to_owned())),
            ("half a name", |s| {
                s.cgroup = Some("/system.slice/reviews".to_owned());
            }),
            ("deeper", |s| {
                s.cgroup = Some("/system.slice/reviews.service/x/y".to_owned());
            }),
            ("nothing", |s| *s = PeerSelector::default()),
        ];
        for (what, change) in broken {
            let mut selector = all.clone();
            change(&mut selector);
            assert!(!check(&selector, GROUP), "{what}");
        }
    }

    #[test]
    fn what_cannot_be_read_does_not_match() {
        let unknown = Facts {
            ids: None,
            exe: None,
            exe_name: None,
            cgroups: None,
        };
        let ask = |selector: &PeerSelector| holds(selector, (7, 8), &unknown, &|_path| None);
        let by = |change: fn(&mut PeerSelector)| {
            let mut selector = PeerSelector::default();
            change(&mut selector);
            selector
        };
        assert!(ask(&by(|s| s.uid = Some(7))));
        assert!(!ask(&by(|s| s.exe = Some("/nonexistent".into()))));
        assert!(!ask(&by(|s| s.unit = Some("a.service".to_owned()))));
        assert!(!ask(&by(|s| s.cgroup = Some("/a".to_owned()))));
    }
}
