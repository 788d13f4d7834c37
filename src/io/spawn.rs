//! Programs are started with no signal kept from them, whatever the process itself holds back for now.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::signal::SigSet;

/// Has what `command` starts begin with an empty mask of signals. The mask of this thread stays as it is: were it emptied
/// for the start, what waits would come here, where nobody may have a handler for it.
pub fn without_mask(command: &mut Command) -> &mut Command {
    let empty = SigSet::empty();
    #[expect(unsafe_code, reason = "nothing else runs in the child alone")]
    // SAFETY: the child makes one system call, pthread_sigmask, which is safe there (signal-safety(7)): it allocates nothing,
    // takes no lock and uses no memory but the set that was made before.
    unsafe {
        command.pre_exec(move || empty.thread_set_mask().map_err(io::Error::from))
    }
}
