//! Units of the system's service manager, by the control groups that it makes for them (`systemd.unit(5)`).

/// The kinds of unit whose processes are programs.
const KINDS: [&str; 3] = [".service", ".scope", ".socket"];
/// Longest name of a unit, in bytes.
const NAME_BYTES: usize = 255;

/// Whether programs run in units of this name: its kind is one of processes, and it is no template, which is a unit by
/// its instances alone.
#[must_use]
pub fn has_processes(name: &str) -> bool {
    let stem = KINDS.iter().find_map(|kind| name.strip_suffix(kind));
    let known = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    name.len() <= NAME_BYTES
        && name.chars().all(known)
        && stem
            .is_some_and(|stem| !stem.is_empty() && !stem.starts_with('@') && !stem.ends_with('@'))
}

/// The unit that a control group of this name, its own alone, was made for.
#[must_use]
pub fn of_name(group: &str) -> &str {
    // It stands before names that the kernel wants for itself, and before names that begin with it.
    group.strip_prefix('_').unwrap_or(group)
}

/// The unit that a control group belongs to and the level of the unit's own group: slices, then the unit. What stands
/// below it a user may have made and named, and says nothing.
#[must_use]
pub fn of_path(cgroup: &str) -> Option<(&str, usize)> {
    let mut parts = cgroup.split('/').filter(|part| !part.is_empty());
    let (above, group) = parts
        .by_ref()
        .enumerate()
        .find(|(_above, part)| !part.ends_with(".slice"))?;
    let unit = of_name(group);
    has_processes(unit).then_some((unit, above.saturating_add(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_becomes_a_unit_by_naming_a_group_like_it() {
        for (cgroup, want) in [
            (
                "/system.slice/reviews.service",
                Some(("reviews.service", 2)),
            ),
            (
                "/system.slice/a-b.slice/x.service/deep/er",
                Some(("x.service", 3)),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/reviews.service",
                Some(("user@1000.service", 3)),
            ),
            (
                "/user.slice/user-0.slice/session-1.scope",
                Some(("session-1.scope", 3)),
            ),
            ("/init.scope", Some(("init.scope", 1))),
            ("/system.slice/_cpu.service", Some(("cpu.service", 2))),
            ("/system.slice/__x.service", Some(("_x.service", 2))),
            ("/docker/reviews.service", None),
            ("/system.slice", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(of_path(cgroup), want, "{cgroup}");
        }
    }

    #[test]
    fn names_that_processes_can_have() {
        for good in [
            "a.service",
            "run-u1.scope",
            "getty@tty1.service",
            r"dev-disk\x2d1.service",
            "_x.service",
            "api.socket",
        ] {
            assert!(has_processes(good), "{good}");
        }
        let long = format!("{}.service", "a".repeat(NAME_BYTES));
        for bad in [
            "a",
            ".service",
            "system.slice",
            "a.timer",
            "getty@.service",
            "@x.service",
            "a/b.service",
            "a b.service",
            "a\".service",
            "",
            &long,
        ] {
            assert!(!has_processes(bad), "{bad}");
        }
    }
}
