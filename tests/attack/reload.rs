//! A broken configuration under load changes nothing.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use crate::system::System;

crate::both!(broken_files_under_load);

fn broken_files_under_load(system: &System) {
    let path = system.layout.config();
    let good = std::fs::read_to_string(&path).unwrap();
    let mut generation = system.admin("/generation").unwrap().1;
    let (stop, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let load = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(system.call("frontend", "/load").0, 200);
                assert_eq!(system.call("frontend", "/admin/load").0, 403);
                served.fetch_add(1, Ordering::Relaxed);
            }
        });
        for broken in [
            String::new(),
            "\0".repeat(4096),
            good[..good.len() / 2].to_owned(),
            good.replace("action = \"DENY\"", "action = \"DNEY\""),
            good.replace("operation.paths", "operation.path"),
            good.clone()
                + "\n[[authorizationPolicy]]\nname = \"x\"\nnamespace = \"default\"\naction = \"DENY\"\n",
            good.clone() + "\n[[serviceEntry]]\nname = \"customer-api\"\nnamespace = \"default\"\n",
            format!("{good}\n# {}", "x".repeat(17 << 20)),
            good.clone() + &"[[x]]\n".repeat(200_000),
            format!("{good}\nx = {}{}", "[".repeat(50_000), "]".repeat(50_000)),
        ] {
            std::fs::write(&path, &broken).unwrap();
            let told = system.within(Duration::from_secs(20), || {
                system
                    .admin("/config/problems")
                    .is_some_and(|(_, body)| body != b"[]")
            });
            let start: String = broken
                .chars()
                .rev()
                .take(60)
                .collect::<String>()
                .chars()
                .rev()
                .collect();
            assert!(told, "no problem is told for ..{start:?}");
            assert_eq!(
                system.admin("/generation").unwrap().1,
                generation,
                "..{start:?} was taken"
            );
            std::fs::write(&path, &good).unwrap();
            let healed = system.within(Duration::from_secs(20), || {
                system
                    .admin("/config/problems")
                    .is_some_and(|(_, body)| body == b"[]")
            });
            assert!(healed, "the good file does not heal ..{start:?}");
            // The good file may count as a change; the next broken one must not.
            generation = system.admin("/generation").unwrap().1;
        }
        stop.store(true, Ordering::Relaxed);
        load.join().unwrap();
    });
    assert!(served.load(Ordering::Relaxed) > 10, "no load");
}
