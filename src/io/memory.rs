//! What the process keeps resident.

use std::io;

/// Turns transparent huge pages off for this process, also where the kernel gives them unasked. A process at rest would
/// hold 2 MiB for each place where a few kilobytes are in use; bulk throughput is the same without.
///
/// # Errors
/// The kernel refuses.
pub fn small_pages() -> io::Result<()> {
    // SAFETY: this option of prctl takes numbers only.
    #[expect(unsafe_code, reason = "std has no prctl")]
    let set = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Gives back the pages of the program's own text. What is used again comes back from the page cache; most of what
/// starting took does not.
///
/// # Errors
/// `/proc` is not mounted, or the kernel refuses.
pub fn release_text() -> io::Result<()> {
    let program = std::env::current_exe()?;
    let maps = about_self("maps")?;
    let own = maps.lines().filter_map(|line| text_of(line, &program));
    for (start, length) in own {
        let pages = std::ptr::with_exposed_provenance_mut(start);
        // SAFETY: the range is a private mapping of a file that nothing can have written to, neither through the mapping,
        // which is not writable, nor to the file, which is being executed: what is dropped is read again as it was.
        #[expect(unsafe_code, reason = "std has no madvise")]
        let released = unsafe { libc::madvise(pages, length, libc::MADV_DONTNEED) };
        if released != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// What the kernel says of this process in a file of `/proc/self`.
#[expect(
    clippy::disallowed_methods,
    reason = "from memory, and by no core that serves"
)]
fn about_self(file: &str) -> io::Result<String> {
    std::fs::read_to_string(format!("/proc/self/{file}"))
}

/// Start and length of the mapping that a line of `/proc/PID/maps` describes, if it is text of `program` (proc(5)).
fn text_of(line: &str, program: &std::path::Path) -> Option<(usize, usize)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let own = words.next()? == "r-xp" && std::path::Path::new(words.nth(3)?) == program;
    let at = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (at(start)?, at(end)?);
    own.then_some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(name: &str) -> Option<u64> {
        let text = about_self("status").expect("/proc");
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse().ok()
    }

    #[test]
    fn huge_pages_are_off() {
        small_pages().expect("prctl");
        assert_eq!(status("THP_enabled:"), Some(0));
    }

    #[test]
    fn text_is_given_back_and_used_again() {
        let before = status("RssFile:").expect("RssFile");
        release_text().expect("madvise");
        let after = status("RssFile:").expect("RssFile");
        assert!(after < before, "{before} kB before, {after} kB after");
    }

    #[test]
    fn only_the_programs_own_text_is_meant() {
        let program = std::path::Path::new("/usr/bin/ringgate");
        let line =
            |perms, path| format!("55f0c0000000-55f0c0003000 {perms} 00001000 fe:00 12  {path}");
        let of = |perms, path| text_of(&line(perms, path), program);
        assert_eq!(
            of("r-xp", "/usr/bin/ringgate"),
            Some((0x55f0_c000_0000, 0x3000))
        );
        assert_eq!(of("r--p", "/usr/bin/ringgate"), None);
        assert_eq!(of("rw-p", "/usr/bin/ringgate"), None);
        assert_eq!(of("r-xp", "/usr/lib/libc.so.6"), None);
        assert_eq!(of("r-xp", ""), None);
    }
}
