//! The authority on a disk that is full: what cannot be kept is refused with a reason, and all else goes on.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use ringgate::cli::drill::Scratch;
use ringgate::cli::layout::free_subnet;
use ringgate::cli::os;

/// An authority in a mount namespace of its own, whose state is on a small disk.
struct Authority {
    child: Child,
    dir: Scratch,
}

impl Authority {
    fn start() -> Self {
        let dir = Scratch::new(false).unwrap();
        os::make_dir(&dir.path.join("disk"), 0o700).unwrap();
        let listen = format!("{}.9:15012", free_subnet().unwrap());
        let config = format!("[authority]\nstateDir = \"disk\"\nlisten = \"{listen}\"\n");
        os::write(&dir.path.join("authority.toml"), config.as_bytes(), 0o600).unwrap();
        let script = "mount -t tmpfs -o size=512k,mode=0700 tmpfs \"$0/disk\" && \
                      exec \"$1\" run --config \"$0/authority.toml\"";
        let child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .args([dir.path.as_path(), Path::new(crate::PROGRAM)])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, dir }
    }

    /// Runs a command where the disk is.
    fn inside(&self, args: &[&str]) -> Output {
        Command::new("nsenter")
            .args(["--mount", "--target", &self.child.id().to_string()])
            .args(args)
            .output()
            .unwrap()
    }

    fn ask(&self, args: &[&str]) -> Result<String, String> {
        let config = self.dir.path.join("authority.toml");
        let command = [
            crate::PROGRAM,
            "authority",
            "--config",
            config.to_str().unwrap(),
        ];
        let output = self.inside(&[&command, args].concat());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        os::ignore(self.child.kill());
        os::ignore(self.child.wait());
    }
}

#[test]
fn a_full_disk_is_a_reason_and_no_end() {
    let mut authority = Authority::start();
    // While it does not run, the command would start to make a state of its own.
    let socket = authority.dir.path.join("disk/control.sock");
    let up = || {
        authority
            .inside(&["test", "-S", socket.to_str().unwrap()])
            .status
            .success()
    };
    assert!(
        os::wait_until(Duration::from_secs(30), up),
        "it does not start"
    );
    let create = [
        "token",
        "create",
        "--node",
        "vm-1",
        "--id",
        "spiffe://cluster.local/ns/a/sa/b",
    ];
    authority.ask(&create).unwrap();
    let before = authority.ask(&["token", "list"]).unwrap();
    let fill = authority.dir.path.join("disk/fill");
    let fill = fill.to_str().unwrap();
    let filled = authority.inside(&["dd", "if=/dev/zero", &format!("of={fill}"), "bs=1k"]);
    assert!(!filled.status.success(), "the disk is not full");
    for refused in [
        create.as_slice(),
        &["revoke", "--node", "vm-1"],
        &["rotate-root"],
    ] {
        let why = authority.ask(refused).unwrap_err();
        assert!(
            why.contains("No space left on device"),
            "{refused:?}: {why}"
        );
    }
    assert_eq!(authority.ask(&["token", "list"]).unwrap(), before);
    assert_eq!(authority.ask(&["revocations"]).unwrap(), "");
    assert!(
        authority.child.try_wait().unwrap().is_none(),
        "it has ended"
    );
    assert!(authority.inside(&["rm", fill]).status.success());
    authority.ask(&["revoke", "--node", "vm-1"]).unwrap();
    authority.ask(&["rotate-root"]).unwrap();
    assert!(authority.ask(&["revocations"]).unwrap().contains("vm-1"));
}
