//! Tables of the SPIFFE Workload API that this process serves.

use crate::config::place::At;
use crate::config::read::{Millis, table};

table! {
    /// `[workloadApi]`
    WorkloadApi {
        socket: At<String> = "socket",
        /// Octal, as chmod takes it.
        socket_mode: Option<At<String>> = "socketMode",
        socket_uid: Option<u32> = "socketUid",
        socket_gid: Option<u32> = "socketGid",
        jwt_svid_ttl: Option<At<Millis>> = "jwtSvidTtl",
        entry: Vec<Entry> = "entry",
    }
}

table! {
    /// `[[workloadApi.entry]]`
    Entry {
        /// `namespace/name` of a workload entry.
        workload: At<String> = "workload",
        hint: Option<At<String>> = "hint",
        selector: Match = "match",
    }
}

table! {
    /// `workloadApi.entry[].match`; all that is given must hold.
    Match {
        uid: Option<At<u32>> = "uid",
        gid: Option<At<u32>> = "gid",
        exe: Option<At<String>> = "exe",
        unit: Option<At<String>> = "unit",
        cgroup: Option<At<String>> = "cgroup",
    }
}
