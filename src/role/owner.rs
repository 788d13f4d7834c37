//! Which workload of the node a local connection belongs to, by what the kernel says about its socket.

use std::cmp::Reverse;

use crate::config::checked::NodeWorkload;
use crate::config::checked::capture::OwnerMatch;
use crate::vocab::unit;

/// What the kernel says about the socket of a local connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalSocket<'a> {
    /// User that made it.
    pub uid: u32,
    /// `SO_MARK`; the kernel tells it to those who may set it.
    pub mark: Option<u32>,
    /// Class of the `net_cls` controller.
    pub class_id: Option<u32>,
    /// Control group (version 2) in which it was made, from the root.
    pub cgroup: Option<&'a str>,
}

/// How narrow a match is, widest first: mark, then the depth of unit or control group, class, user.
type Rank = (bool, usize, bool, bool);

/// Index of the workload; of several the one whose match is the narrowest.
#[must_use]
pub fn workload(workloads: &[NodeWorkload], socket: &LocalSocket<'_>) -> Option<usize> {
    let ranked = workloads
        .iter()
        .enumerate()
        .filter_map(|(at, w)| Some((rank(w.owner.as_ref()?, socket)?, Reverse(at))));
    ranked.max().map(|(_rank, Reverse(at))| at)
}

/// Whether control groups have to be known to tell the workloads apart.
#[must_use]
pub fn needs_cgroup(workloads: &[NodeWorkload]) -> bool {
    let needs = |m: &OwnerMatch| m.unit.is_some() || m.cgroup.is_some();
    workloads.iter().filter_map(|w| w.owner.as_ref()).any(needs)
}

/// `None`: it does not match.
fn rank(owner: &OwnerMatch, socket: &LocalSocket<'_>) -> Option<Rank> {
    let same = |wanted: Option<u32>, found: Option<u32>| wanted.is_none() || wanted == found;
    let all = same(owner.uid, Some(socket.uid))
        && same(owner.mark, socket.mark)
        && same(owner.class_id, socket.class_id);
    if !all {
        return None;
    }
    let mut depth = 0;
    if let Some(wanted) = &owner.cgroup {
        let rest = socket.cgroup?.strip_prefix(wanted.as_str())?;
        if !rest.is_empty() && !rest.starts_with('/') {
            return None;
        }
        depth = levels(wanted);
    }
    if let Some(wanted) = &owner.unit {
        let (unit, level) = unit::of_path(socket.cgroup?)?;
        if unit != wanted {
            return None;
        }
        depth = depth.max(level);
    }
    Some((
        owner.mark.is_some(),
        depth,
        owner.class_id.is_some(),
        owner.uid.is_some(),
    ))
}

/// Number of levels of a control group below the root.
#[must_use]
pub fn levels(cgroup: &str) -> usize {
    cgroup.split('/').filter(|part| !part.is_empty()).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::resource::ResourceName;

    fn hosted(name: &str, owner: OwnerMatch) -> NodeWorkload {
        NodeWorkload {
            workload: ResourceName::new("default", name),
            hbone: None,
            owner: Some(owner),
            outbound: None,
            dns: None,
            socks: None,
            app: std::collections::BTreeMap::new(),
            limits: crate::config::checked::life::Limits::default(),
        }
    }

    fn by(change: impl FnOnce(&mut OwnerMatch)) -> OwnerMatch {
        let mut owner = OwnerMatch::default();
        change(&mut owner);
        owner
    }

    #[test]
    fn the_narrowest_match_wins() {
        let all = [
            hosted("uid", by(|m| m.uid = Some(1001))),
            hosted("slice", by(|m| m.cgroup = Some("/apps.slice".into()))),
            hosted(
                "below",
                by(|m| m.cgroup = Some("/apps.slice/reviews.service".into())),
            ),
            hosted("unit", by(|m| m.unit = Some("reviews.service".into()))),
            hosted("mark", by(|m| m.mark = Some(7))),
            hosted("class", by(|m| m.class_id = Some(0x1_0005))),
            hosted(
                "both",
                by(|m| {
                    m.uid = Some(1001);
                    m.cgroup = Some("/apps.slice".into());
                }),
            ),
        ];
        let socket = |uid, mark, class_id, cgroup| LocalSocket {
            uid,
            mark,
            class_id,
            cgroup,
        };
        for (found, want) in [
            (socket(1001, None, None, None), Some(0)),
            (socket(0, None, None, None), None),
            (socket(0, Some(0), Some(0), Some("/")), None),
            (
                socket(5, None, None, Some("/apps.slice/other.service")),
                Some(1),
            ),
            (
                socket(1001, None, None, Some("/apps.slice/other.service")),
                Some(6),
            ),
            (socket(5, None, None, Some("/apps.slice2/x.service")), None),
            (
                socket(5, None, None, Some("/apps.slice/reviews.service")),
                Some(2),
            ),
            (
                socket(5, None, None, Some("/apps.slice/reviews.service/sub")),
                Some(2),
            ),
            (
                socket(5, None, None, Some("/system.slice/reviews.service")),
                Some(3),
            ),
            (
                socket(5, Some(7), None, Some("/apps.slice/reviews.service")),
                Some(4),
            ),
            (socket(1001, None, Some(0x1_0005), None), Some(5)),
            (socket(1001, None, Some(0x1_0006), None), Some(0)),
        ] {
            assert_eq!(workload(&all, &found), want, "{found:?}");
        }
    }
}
