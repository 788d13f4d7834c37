//! How the machine ends, and what ends it: the power button, Ctrl-Alt-Del, a failure.

use std::io;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, WaitOptions};
use rustix::system::RebootCommand;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::appliance::arguments::End;
use crate::appliance::os;
use crate::control::phase::Phase;
use crate::io::netlink::{self, Netlink};

/// How long the reason of a failure stands on the console.
const FAILURE_SHOWN: Duration = Duration::from_secs(10);
/// For the last line on a slow console.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Descriptors that the process may have open; the first process gets 4096 of the kernel.
const OPEN_FILES: u64 = 1 << 20;

/// Generic netlink: `GENL_ID_CTRL`, and what is asked of it.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_NAME: u16 = 2;
const GROUPS: u16 = 7;
const GROUP_ID: u16 = 2;
/// `struct genlmsghdr`.
const GENERIC_HEADER: usize = 4;
/// The family by which ACPI tells events, and the class of the one that is meant.
const ACPI: &[u8] = b"acpi_event\0";
const POWER_BUTTON: &[u8] = b"button/power";
const ACPI_EVENT: u16 = 1;

/// What the first process has to do once: take Ctrl-Alt-Del as SIGINT, reap what is left to it, have descriptors enough.
///
/// # Errors
/// The system's.
pub fn prepare() -> anyhow::Result<()> {
    rustix::system::reboot(RebootCommand::CadOff).context("Ctrl-Alt-Del")?;
    let most = Some(OPEN_FILES);
    let limit = Rlimit {
        current: most,
        maximum: most,
    };
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    // Whoever has the console must not be able to do what SysRq offers.
    if let Err(error) = os::write(std::path::Path::new("/proc/sys/kernel/sysrq"), b"0\n") {
        tracing::debug!("{error:#}");
    }
    os::thread("reaper", || {
        if let Err(error) = reap() {
            tracing::error!(%error, "nothing is reaped");
        }
    })
}

/// Takes the end of every process that was left to this one. Nothing here starts one; the kernel might.
fn reap() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut children = signal(SignalKind::child())?;
        while children.recv().await.is_some() {
            while let Ok(Some((id, _status))) = rustix::process::wait(WaitOptions::NOHANG) {
                tracing::warn!(
                    id = id.as_raw_nonzero(),
                    "a process that is not ours has ended"
                );
            }
        }
        Ok(())
    })
}

/// Has the power button end the roles as SIGTERM does: pressed once they drain, pressed again they end at once.
pub fn watch_button(phase: watch::Sender<Phase>) {
    let mut events = match acpi_events() {
        Ok(events) => events,
        Err(error) => {
            return tracing::warn!(%error, "this machine has no power button that is heard");
        }
    };
    let watched = os::thread("power", move || {
        loop {
            match events.wait() {
                Ok(messages) => {
                    if messages.iter().any(|m| is_power_button(&m.body)) {
                        tracing::info!("the power button was pressed");
                        phase.send_modify(|phase| *phase = phase.told_to_stop());
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return tracing::error!(%error, "the power button is not heard"),
            }
        }
    });
    if let Err(error) = watched {
        tracing::error!("the power button is not heard: {error:#}");
    }
}

fn acpi_events() -> io::Result<Netlink> {
    let mut kernel = Netlink::open(libc::NETLINK_GENERIC)?;
    let mut body = vec![GET_FAMILY, 1, 0, 0];
    netlink::attribute(&mut body, FAMILY_NAME, ACPI);
    let told = kernel.ask(CONTROL, 0, &body)?;
    let group = told.iter().find_map(|message| group(&message.body));
    kernel.join(group.ok_or(io::ErrorKind::NotFound)?)?;
    Ok(kernel)
}

/// The first multicast group of a family, of the controller's answer.
fn group(body: &[u8]) -> Option<u32> {
    let attributes = netlink::attributes(body.get(GENERIC_HEADER..)?);
    let (_, groups) = attributes.into_iter().find(|(kind, _)| *kind == GROUPS)?;
    let (_, first) = netlink::attributes(groups).into_iter().next()?;
    let parts = netlink::attributes(first);
    let (_, id) = parts.into_iter().find(|(kind, _)| *kind == GROUP_ID)?;
    Some(u32::from_ne_bytes(id.try_into().ok()?))
}

/// `struct acpi_genl_event` begins with the class of the device.
fn is_power_button(body: &[u8]) -> bool {
    let attributes = netlink::attributes(body.get(GENERIC_HEADER..).unwrap_or_default());
    attributes
        .iter()
        .any(|(kind, event)| *kind == ACPI_EVENT && event.starts_with(POWER_BUTTON))
}

/// Ends the machine after an orderly end.
pub fn off(how: End) -> ! {
    tracing::info!(how = label(how), "appliance ends");
    end(how)
}

/// Ends the machine after a failure, which was told; it stays readable for a moment.
pub fn fail(how: End) -> ! {
    tracing::error!(how = label(how), after = ?FAILURE_SHOWN, "appliance ends, it has failed");
    os::pause(FAILURE_SHOWN);
    end(how)
}

fn label(how: End) -> &'static str {
    match how {
        End::PowerOff => "poweroff",
        End::Reboot => "reboot",
        End::Halt => "halt",
    }
}

fn end(how: End) -> ! {
    os::pause(LAST_WORDS);
    rustix::fs::sync();
    let command = match how {
        End::PowerOff => Some(RebootCommand::PowerOff),
        End::Reboot => Some(RebootCommand::Restart),
        // Standing still is no call: after `reboot(HALT)` some hypervisors burn a core.
        End::Halt => None,
    };
    if let Some(Err(error)) = command.map(rustix::system::reboot) {
        tracing::error!(%error, "the machine cannot be ended");
    }
    // Not to return: the kernel would panic, and hide what stands on the console.
    loop {
        os::pause(Duration::from_secs(3600));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(class: &[u8], kind: u16) -> Vec<u8> {
        let mut event = class.to_vec();
        event.resize(44, 0);
        let mut body = vec![1, 1, 0, 0];
        netlink::attribute(&mut body, kind, &event);
        body
    }

    #[test]
    fn the_power_button_is_told_from_other_events() {
        assert!(is_power_button(&event(b"button/power", ACPI_EVENT)));
        assert!(!is_power_button(&event(b"button/lid", ACPI_EVENT)));
        assert!(!is_power_button(&event(b"button/power", 2)));
        let whole = event(b"button/power", ACPI_EVENT);
        for cut in 0..whole.len() {
            assert!(!is_power_button(&whole[..cut]), "{cut}");
        }
    }

    #[test]
    fn the_group_is_found() {
        let mut entry = Vec::new();
        netlink::attribute(&mut entry, 1, b"acpi_mc_group\0");
        netlink::attribute(&mut entry, GROUP_ID, &5_u32.to_ne_bytes());
        let mut groups = Vec::new();
        netlink::attribute(&mut groups, 1, &entry);
        let mut body = vec![1, 2, 0, 0];
        netlink::attribute(&mut body, FAMILY_NAME, ACPI);
        netlink::attribute(&mut body, GROUPS, &groups);
        assert_eq!(group(&body), Some(5));
        for cut in 0..body.len() {
            assert_eq!(group(&body[..cut]), None, "{cut}");
        }
    }

    /// The controller of generic netlink is in every kernel, and has a group.
    #[test]
    fn the_kernel_tells_groups() {
        let mut kernel = Netlink::open(libc::NETLINK_GENERIC).unwrap();
        let mut body = vec![GET_FAMILY, 1, 0, 0];
        netlink::attribute(&mut body, FAMILY_NAME, b"nlctrl\0");
        let told = kernel.ask(CONTROL, 0, &body).unwrap();
        let group = told.iter().find_map(|message| group(&message.body));
        assert_eq!(group, Some(16));
        kernel.join(16).unwrap();
        let refused = kernel.join(0).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EINVAL));
    }
}
