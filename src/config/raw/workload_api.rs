//! Tables of the SPIFFE Workload API that this process serves.

use crate::config::place::At;
use crate::config::read::{Millis, table};

table! {
    /// `[workloadApi]`
    WorkloadApi {
        /// Unix socket that is served.
        /// Example: `"/run/ringgate/workload-api.sock"`
        socket: At<String> = "socket",
        /// Its permissions, octal, as chmod takes them.
        /// Default: `"0666"`
        socket_mode: Option<At<String>> = "socketMode",
        /// Its owner.
        /// Default: the user of the process
        /// Example: `0`
        socket_uid: Option<u32> = "socketUid",
        /// Its group.
        /// Default: the group of the process
        /// Example: `0`
        socket_gid: Option<u32> = "socketGid",
        /// Life of a JWT-SVID, 1s to 24h.
        /// Default: `"5m"`
        jwt_svid_ttl: Option<At<Millis>> = "jwtSvidTtl",
        /// Which processes are which workload.
        entry: Vec<Entry> = "entry",
    }
}

table! {
    /// `[[workloadApi.entry]]`
    Entry {
        /// Workload entry `namespace/name`.
        /// Example: `"default/web"`
        workload: At<String> = "workload",
        /// Tells the identities of one process apart.
        /// Example: `"internal"`
        hint: Option<At<String>> = "hint",
        /// Which processes; all keys that are given must hold.
        selector: Match = "match",
    }
}

table! {
    /// `workloadApi.entry[].match`; all that is given must hold.
    Match {
        /// Effective user.
        /// Example: `1001`
        uid: Option<At<u32>> = "uid",
        /// Effective group.
        /// Example: `1001`
        gid: Option<At<u32>> = "gid",
        /// The very file that it runs; needs another key beside it.
        /// Example: `"/usr/bin/web"`
        exe: Option<At<String>> = "exe",
        /// Unit of the system's service manager, by control group.
        /// Example: `"web.service"`
        unit: Option<At<String>> = "unit",
        /// Control group, or one above it.
        /// Example: `"/apps.slice/web"`
        cgroup: Option<At<String>> = "cgroup",
    }
}
