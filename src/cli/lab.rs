//! The laboratory in network namespaces.

use std::process::Child;
use std::time::Duration;

use super::os;

/// Ends a child process: SIGTERM, and SIGKILL if it has not ended after five seconds.
pub fn end(child: &mut Child) {
    if matches!(child.try_wait(), Ok(Some(_))) {
        return;
    }
    let pid = child.id().to_string();
    os::ignore(
        std::process::Command::new("kill")
            .args(["-TERM", &pid])
            .status(),
    );
    let ended = os::wait_until(Duration::from_secs(5), || {
        matches!(child.try_wait(), Ok(Some(_)))
    });
    if !ended {
        os::ignore(child.kill());
        os::ignore(child.wait());
    }
}

#[derive(Debug)]
pub struct Lab;
impl Lab {
    pub fn set_up(_d: &std::path::Path, _io: super::demo::Io) -> anyhow::Result<Self> {
        anyhow::bail!("not yet")
    }
    pub fn target(&self) -> super::target::Target {
        unimplemented!()
    }
    pub fn raise_mesh(&mut self) -> anyhow::Result<()> {
        anyhow::bail!("not yet")
    }
}
