//! Network namespaces without names: a thread of the test has one, a process that sleeps holds another. They go with
//! their last process, however the test ends. Root is needed.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::process::{Child, Command, Stdio};

/// Runs `work` in a thread with a namespace of its own, in which `lo` is up.
pub(crate) fn isolated<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let inside = std::thread::spawn(|| {
        // SAFETY: the call takes no pointer; it moves the calling thread alone.
        #[expect(unsafe_code, reason = "std knows no namespaces")]
        let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        let error = std::io::Error::last_os_error();
        assert_eq!(done, 0, "network namespaces need root: {error}");
        ip("link set lo up");
        work()
    });
    match inside.join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Runs `ip` in the namespace of the calling thread.
pub(crate) fn ip(arguments: &str) {
    run("ip", &arguments.split(' ').collect::<Vec<_>>());
}

/// Runs a command that must succeed in the namespace of the calling thread.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
}

/// Another machine: a namespace that is joined to the calling thread's by a veth pair, `here` at our end and `there` at
/// its.
#[derive(Debug)]
pub(crate) struct Machine {
    holder: Child,
}

impl Machine {
    /// Makes it. It has no address yet.
    pub(crate) fn joined() -> Self {
        let holder = Command::new("unshare")
            .args(["--net", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare starts");
        let this = Self { holder };
        let ours = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        // It is the holder's own once `unshare` has run.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while std::fs::read_link(this.path()).is_ok_and(|theirs| theirs == ours) {
            assert!(std::time::Instant::now() < until, "no namespace");
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let pid = this.holder.id();
        ip(&format!(
            "link add here type veth peer name there netns {pid}"
        ));
        ip("link set here up");
        this.inside(|| {
            ip("link set lo up");
            ip("link set there up");
        });
        this
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// What runs a command there.
    pub(crate) fn enter(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net={}", self.path())]
    }

    /// Runs `work` in a thread there.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.path()).expect("the holder lives");
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                // SAFETY: the descriptor is open and of a network namespace; the call moves this thread alone.
                #[expect(unsafe_code, reason = "std knows no namespaces")]
                let done = unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) };
                assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
                work()
            });
            match inside.join() {
                Ok(done) => done,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}
