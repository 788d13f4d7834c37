//! Who the process is, and what it may: user, capabilities (capabilities(7)), core dumps.

use std::io;
use std::path::Path;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, Gid, Uid, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_keep_capabilities, set_no_new_privs,
    set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::{SandboxError, State, os, seen};
use crate::config::checked::capture::OriginalSource;
use crate::config::checked::{Node, Process};
use crate::control::durable;
use crate::io::listener::own_uid;

/// `/etc/passwd`, `/etc/group` are not longer.
const FILE_BYTES: u64 = 16 << 20;

/// A user, his group and what other groups he is in.
#[derive(Debug, PartialEq, Eq)]
struct User {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl User {
    /// By name, `UID` or `UID:GID`, as `/etc/passwd` and `/etc/group` (passwd(5), group(5)) have it. A number needs no
    /// entry there.
    fn find(written: &str, passwd: &str, group: &str) -> Option<Self> {
        if let Some((uid, gid)) = written.split_once(':') {
            let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
            let groups = Vec::new();
            return Some(Self { uid, gid, groups });
        }
        let entry = passwd.lines().find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            let (uid, gid) = (fields.nth(1)?, fields.next()?);
            let found = (name, uid.parse().ok()?, gid.parse().ok()?);
            (name == written || uid == written).then_some(found)
        });
        let Some((name, uid, gid)) = entry else {
            let uid = written.parse().ok()?;
            let groups = Vec::new();
            let gid = uid;
            return Some(Self { uid, gid, groups });
        };
        let member = |line: &str| {
            let mut fields = line.split(':');
            let gid = fields.nth(2)?.parse().ok()?;
            let members = fields.next()?;
            members.split(',').any(|m| m == name).then_some(gid)
        };
        Some(Self {
            uid,
            gid,
            groups: group.lines().filter_map(member).collect(),
        })
    }
}

fn text(path: &str) -> String {
    let read = durable::read(Path::new(path), FILE_BYTES).unwrap_or_default();
    String::from_utf8_lossy(&read).into_owned()
}

/// Becomes the user of the configuration, if it names one. Capabilities stay: [`give_up`] takes those that are not needed.
pub(super) fn become_user(written: Option<&str>) -> Result<State, SandboxError> {
    let own = own_uid();
    let Some(written) = written else {
        return Ok(if own == 0 {
            State::Unused("the process is root: `user` in [process] is not set".to_owned())
        } else {
            State::Active(format!("uid {own}, as it was started"))
        });
    };
    let found = User::find(written, &text("/etc/passwd"), &text("/etc/group"));
    let user = found.ok_or_else(|| SandboxError::NoUser(written.to_owned()))?;
    if own == user.uid {
        return Ok(State::Active(format!("uid {own}, as it was started")));
    }
    if own != 0 {
        return Err(SandboxError::NotRoot(written.to_owned()));
    }
    if !seen::others().is_empty() {
        // They would stay root.
        let source = io::Error::other("there are other threads already");
        return Err(os("cannot become `user`")(source));
    }
    let failed = |errno: rustix::io::Errno| os("cannot become `user`")(errno.into());
    let (uid, gid) = (Uid::from_raw(user.uid), Gid::from_raw(user.gid));
    let groups: Vec<Gid> = user.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let may = capabilities(None).map_err(failed)?;
    set_keep_capabilities(true).map_err(failed)?;
    set_thread_groups(&groups).map_err(failed)?;
    set_thread_res_gid(gid, gid, gid).map_err(failed)?;
    set_thread_res_uid(uid, uid, uid).map_err(failed)?;
    set_keep_capabilities(false).map_err(failed)?;
    // A user who may not even bind a port of the system would not get as far as giving the rest up.
    let sets = CapabilitySets {
        effective: may.permitted,
        permitted: may.permitted,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(failed)?;
    Ok(State::Active(format!("uid {}, gid {}", user.uid, user.gid)))
}

/// No core dump holds a key, and no other process of the same user reads the memory (`PR_SET_DUMPABLE`).
pub(super) fn leave_no_dumps() -> Result<State, SandboxError> {
    let failed = |errno: rustix::io::Errno| os("core dumps cannot be turned off")(errno.into());
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    setrlimit(Resource::Core, none).map_err(failed)?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(failed)?;
    let text = "none, and no other process of this user may look into this one";
    Ok(State::Active(text.to_owned()))
}

/// Whether a node marks its connections, takes addresses that are not the machine's, or binds to such.
fn reroutes(node: &Node) -> bool {
    node.capture.is_some() || node.mark.is_some() || node.original_source == OriginalSource::Keep
}

/// The capabilities that this configuration has a use for.
fn needed(process: &Process, uid: u32) -> CapabilitySet {
    let mut needed = CapabilitySet::NET_BIND_SERVICE;
    if process.nodes.iter().any(reroutes) {
        needed |= CapabilitySet::NET_ADMIN;
    }
    if process.workload_api.is_some() {
        // Programs of other users' processes, and the owner of the socket.
        needed |= CapabilitySet::SYS_PTRACE | CapabilitySet::CHOWN;
    }
    if uid == 0 {
        // Root's files may be another user's, by their owner or their mode; Landlock bounds which are opened.
        needed |=
            CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH | CapabilitySet::CHOWN;
    }
    needed
}

fn names(set: CapabilitySet) -> String {
    let names: Vec<&str> = set.iter_names().map(|(name, _)| name).collect();
    if names.is_empty() {
        return "none".to_owned();
    }
    names.join(" ")
}

/// Gives up all capabilities but those that are needed, and the ways to new ones.
pub(super) fn give_up(process: &Process) -> Result<State, SandboxError> {
    let failed = |errno: rustix::io::Errno| os("capabilities cannot be given up")(errno.into());
    let may = capabilities(None).map_err(failed)?;
    let kept = may.permitted & needed(process, own_uid());
    for bit in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << bit);
        if !kept.contains(one) {
            // Where the process is not allowed to, `no_new_privs` does it.
            if remove_capability_from_bounding_set(one) == Err(rustix::io::Errno::INVAL) {
                // The kernel has no more of them.
                break;
            }
        }
    }
    if let Err(error) = clear_ambient_capability_set() {
        tracing::debug!(%error, "no ambient capabilities on this kernel");
    }
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    set_no_new_privs(true).map_err(failed)?;
    if let Err(error) = set_capabilities(None, sets) {
        let (there, error) = (names(may.permitted), io::Error::from(error));
        return Ok(State::Missing(format!(
            "{there} cannot be given up: {error}"
        )));
    }
    let stay = kept - CapabilitySet::NET_BIND_SERVICE;
    Ok(State::Active(format!(
        "kept: {}; no new ones (no_new_privs)",
        names(stay)
    )))
}

/// To be called in each thread once it binds no more addresses: it gives up the capability to bind ports below 1024.
pub fn never_binds() {
    let Ok(may) = capabilities(None) else { return };
    let bind = CapabilitySet::NET_BIND_SERVICE;
    if !may.permitted.contains(bind) {
        return;
    }
    let sets = CapabilitySets {
        effective: may.effective - bind,
        permitted: may.permitted - bind,
        inheritable: may.inheritable - bind,
    };
    if let Err(error) = set_capabilities(None, sets) {
        // That they cannot be given up is told once, for all.
        tracing::debug!(%error, "a thread keeps the capability to bind any port");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\n\
                          gate:x:990:991::/nonexistent:/usr/sbin/nologin\n";
    const GROUP: &str = "root:x:0:\nssl-cert:x:112:web,gate\nother:x:113:gates\n";

    #[test]
    fn a_user_is_found_by_name_and_number() {
        let find = |written: &str| User::find(written, PASSWD, GROUP);
        let gate = User {
            uid: 990,
            gid: 991,
            groups: vec![112],
        };
        assert_eq!(find("gate").as_ref(), Some(&gate));
        assert_eq!(find("990"), Some(gate));
        let plain = |uid, gid| {
            let groups = Vec::new();
            Some(User { uid, gid, groups })
        };
        assert_eq!(find("990:5"), plain(990, 5));
        assert_eq!(find("7"), plain(7, 7));
        assert_eq!(find("gat"), None);
        assert_eq!(find("broken"), None);
    }
}
