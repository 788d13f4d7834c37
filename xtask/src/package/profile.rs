//! Profiles of system calls in the form of container engines (containers/common, moby), resolved to the form of runtimes
//! (runtime-spec, `linux.seccomp`) as an engine does it for a container without capabilities.

#![expect(
    clippy::indexing_slicing,
    reason = "what a JSON value does not have is null"
)]

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

/// What a runtime is given.
pub(crate) fn for_runtime(profile: &Value) -> Result<Value> {
    let (own, name) = match std::env::consts::ARCH {
        "x86_64" => ("SCMP_ARCH_X86_64", "amd64"),
        "aarch64" => ("SCMP_ARCH_AARCH64", "arm64"),
        other => anyhow::bail!("no profile for {other}"),
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let map = list(&profile["archMap"]);
    let architecture = map.iter().find(|entry| entry["architecture"] == own);
    let architecture = architecture.context("the profile is of another architecture")?;
    let mut architectures = vec![Value::from(own)];
    architectures.extend(list(&architecture["subArchitectures"]));
    let rules = list(&profile["syscalls"]).into_iter().filter(|rule| {
        let (includes, excludes) = (&rule["includes"], &rule["excludes"]);
        let arches = list(&includes["arches"]);
        let here = arches.is_empty() || arches.iter().any(|arch| arch == name);
        let not = list(&excludes["arches"]).iter().any(|arch| arch == name);
        here && !not && list(&includes["caps"]).is_empty()
    });
    let rules: Vec<Value> = rules.map(|rule| resolved(&rule)).collect();
    Ok(json!({
        "defaultAction": profile["defaultAction"],
        "defaultErrnoRet": profile["defaultErrnoRet"],
        "architectures": architectures,
        "syscalls": rules,
    }))
}

fn resolved(rule: &Value) -> Value {
    let mut out = json!({ "names": rule["names"], "action": rule["action"] });
    if rule["errnoRet"].is_number() {
        out["errnoRet"] = rule["errnoRet"].clone();
    }
    if rule["args"].as_array().is_some_and(|args| !args.is_empty()) {
        out["args"] = rule["args"].clone();
    }
    out
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn ours() -> Value {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let text = std::fs::read(root.join("images/seccomp.json")).expect("the profile");
        serde_json::from_slice(&text).expect("JSON")
    }

    fn allowed(profile: &Value) -> BTreeSet<String> {
        let rules = profile["syscalls"].as_array().expect("rules").iter();
        let allowing = rules.filter(|rule| rule["action"] == "SCMP_ACT_ALLOW");
        let names = allowing.flat_map(|rule| rule["names"].as_array().expect("names").clone());
        names
            .map(|name| name.as_str().expect("text").to_owned())
            .collect()
    }

    #[test]
    fn what_is_for_capabilities_is_left_out() {
        let profile = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "defaultErrnoRet": 1,
            "archMap": [
                { "architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"] },
                { "architecture": "SCMP_ARCH_AARCH64", "subArchitectures": [] },
            ],
            "syscalls": [
                { "names": ["read"], "action": "SCMP_ACT_ALLOW", "args": null },
                { "names": ["bpf"], "action": "SCMP_ACT_ALLOW", "includes": { "caps": ["CAP_BPF"] } },
                { "names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "excludes": { "caps": ["CAP_BPF"] } },
                { "names": ["s390"], "action": "SCMP_ACT_ALLOW", "includes": { "arches": ["s390x"] } },
            ],
        });
        let resolved = for_runtime(&profile).expect("good");
        let rules = json!([
            { "names": ["read"], "action": "SCMP_ACT_ALLOW" },
            { "names": ["bpf"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 },
        ]);
        assert_eq!(resolved["syscalls"], rules);
    }

    #[test]
    fn ours_lets_io_uring_through_and_nothing_that_leaves_a_container() {
        let profile = for_runtime(&ours()).expect("good");
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
        let allowed = allowed(&profile);
        for needed in [
            "io_uring_setup",
            "io_uring_enter",
            "io_uring_register",
            "epoll_wait",
            "sched_setaffinity",
        ] {
            assert!(allowed.contains(needed), "{needed}");
        }
        for refused in [
            "add_key",
            "bpf",
            "chroot",
            "init_module",
            "kexec_load",
            "keyctl",
            "mount",
            "open_by_handle_at",
            "perf_event_open",
            "pivot_root",
            "process_vm_writev",
            "ptrace",
            "reboot",
            "setns",
            "umount2",
            "unshare",
            "userfaultfd",
        ] {
            assert!(!allowed.contains(refused), "{refused}");
        }
    }
}
