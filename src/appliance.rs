//! The appliance: this program as the first and only process of a virtual machine.
//!
//! The kernel starts it as `/init` of an initramfs that holds nothing else to run. It mounts what it needs, loads the
//! modules that came along, brings the network up, finds its configuration, makes the root read-only and runs the roles in
//! this same process, until the power button is pressed. Whatever fails is said on the console, and the machine goes off.
//! There is no shell, and nothing that could start one.

pub mod address;
pub mod arguments;
pub mod dhcp;
pub mod lease;
pub mod modules;
pub mod mounts;
pub mod network;
pub mod os;
pub mod power;
pub mod source;
pub mod tar;
pub mod witness;

use std::panic::{self, AssertUnwindSafe};
use std::path::Path;

use anyhow::Context as _;
use tokio::sync::watch;

use crate::appliance::arguments::{Arguments, End};
use crate::appliance::source::Places;
use crate::control::phase::Phase;
use crate::io::clock;

/// What tells of the image: `key=value` lines.
const IMAGE: &str = "/etc/ringgate-image";
/// No clock that is right says less: the start of 2025.
const EARLIEST_NOW_S: u64 = 1_735_689_600;
/// Largest such file, and largest command line, in bytes.
const TEXT_BYTES: u64 = 64 * 1024;

/// Whether the kernel has started this process as init: the first process, by the name `/init`.
///
/// A container has a first process, too; it has that name only where an image gives it.
#[must_use]
pub fn is_init() -> bool {
    std::process::id() == 1
        && std::env::args_os()
            .next()
            .is_some_and(|name| name == "/init")
}

/// The life of the machine. `phase` is what signals change.
pub fn run(phase: &watch::Sender<Phase>) -> ! {
    crate::telemetry::diagnostics::start();
    let mut arguments = Arguments::default();
    // The end of the first process is a panic of the kernel, which says nothing of why.
    let ended = panic::catch_unwind(AssertUnwindSafe(|| live(phase, &mut arguments)));
    match ended {
        Ok(Ok(())) => power::off(arguments.stop),
        Ok(Err(error)) => {
            tracing::error!("the appliance does not run: {error:#}");
            power::fail(arguments.failure)
        }
        Err(_told_by_the_hook) => {
            tracing::error!("the appliance has panicked");
            power::fail(arguments.failure)
        }
    }
}

fn live(phase: &watch::Sender<Phase>, arguments: &mut Arguments) -> anyhow::Result<()> {
    mounts::base()?;
    power::prepare()?;
    let line = os::read_text(Path::new("/proc/cmdline"), TEXT_BYTES)?;
    // Before anything of it is refused: a failure shall be treated as it asks.
    arguments.failure = Arguments::failure_of(&line).unwrap_or(End::PowerOff);
    *arguments = Arguments::parse(&line)?;
    let image = os::read_text(Path::new(IMAGE), TEXT_BYTES).unwrap_or_default();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        kernel = %os::kernel_release(),
        "appliance starts"
    );
    check_clock(&image);
    modules::load_all(Path::new("/lib/modules"));
    power::watch_button(phase.clone());
    let host = network::up(arguments)?;
    let name = arguments.hostname.clone().or(host);
    os::set_hostname(name.as_deref().unwrap_or("ringgate"));
    let config = source::find(&Places::default(), arguments.config.as_ref())?;
    tracing::info!(source = %config.source, path = %config.main.display(), "configuration found");
    mounts::seal()?;
    let prepared = crate::worker::prepare_alone(&config.main)?;
    crate::worker::run(prepared, phase, |_process| witness::tell())
        .context("the roles of the configuration")?;
    tracing::info!("the roles have ended");
    Ok(())
}

/// Says so if the clock cannot be right: certificates are judged by it.
fn check_clock(image: &str) {
    let (now, built) = (clock::unix().as_secs(), built(image).unwrap_or(0));
    if now < built.max(EARLIEST_NOW_S) {
        tracing::error!(
            now,
            built,
            "the clock is before the build of this image (seconds since 1970): certificates and tokens are judged by \
             it; give the machine a real-time clock that is right"
        );
    }
}

/// `built=` of the image: seconds since 1970.
fn built(image: &str) -> Option<u64> {
    let value = image.lines().find_map(|line| line.strip_prefix("built="))?;
    value.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_tell_when_they_were_built() {
        assert_eq!(built("kernel=6.1\nbuilt=1764000000\n"), Some(1_764_000_000));
        assert_eq!(built("built=soon\n"), None);
        assert_eq!(built(""), None);
    }

    #[test]
    fn a_test_is_not_init() {
        assert!(!is_init());
    }
}
