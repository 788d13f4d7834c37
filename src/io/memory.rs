//! What the process keeps resident.

use std::io;

use libmimalloc_sys as _; // linked for `mi_collect`

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

/// The program's own text and constants in memory: start and length of each mapping.
#[derive(Debug, Default)]
pub struct Text(Vec<(usize, usize)>);

impl Text {
    /// Finds it.
    ///
    /// # Errors
    /// `/proc` is not mounted.
    pub fn find() -> io::Result<Self> {
        let program = std::env::current_exe()?;
        let maps = about_self("maps")?;
        let own = maps.lines().filter_map(|line| unwritten(line, &program));
        Ok(Self(own.collect()))
    }

    /// Gives its pages back. What is used again comes back from the page cache; most of what starting, reloading or a burst
    /// of connections took does not.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn release(&self) -> io::Result<()> {
        self.0.iter().try_for_each(|mapping| release(*mapping))
    }
}

fn release((start, length): (usize, usize)) -> io::Result<()> {
    let pages = std::ptr::with_exposed_provenance_mut(start);
    // SAFETY: the range is a private mapping of a file that nothing can have written to, neither through the mapping, which
    // is not writable and never was, nor to the file, which is being executed: what is dropped is read again as it was.
    #[expect(unsafe_code, reason = "std has no madvise")]
    let released = unsafe { libc::madvise(pages, length, libc::MADV_DONTNEED) };
    if released == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Has the allocator give back what this thread has freed, or others have freed of what it allocated: it learns of the
/// latter only when it allocates, which a thread at rest does not.
pub fn collect() {
    // SAFETY: the call may be made on any thread at any time; what is allocated stays.
    #[expect(unsafe_code, reason = "the allocator's crate does not wrap it")]
    unsafe {
        mi_collect(true);
    }
}

#[expect(
    unsafe_code,
    reason = "a declaration of the allocator's header mimalloc.h"
)]
unsafe extern "C" {
    fn mi_collect(force: bool);
}

/// What the kernel says of this process in a file of `/proc/self`.
#[expect(
    clippy::disallowed_methods,
    reason = "from memory, before the cores serve"
)]
fn about_self(file: &str) -> io::Result<String> {
    std::fs::read_to_string(format!("/proc/self/{file}"))
}

/// Start and length of the mapping that a line of `/proc/PID/maps` describes, if it is of `program` and no loader writes to
/// it (proc(5)): text, or the constants at the beginning of the file. What is relocated (RELRO) is read-only too, and has
/// been written to.
fn unwritten(line: &str, program: &std::path::Path) -> Option<(usize, usize)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let kind = (words.next()?, words.next()?);
    let own = matches!(kind, ("r-xp", _) | ("r--p", "00000000"));
    let own = own && std::path::Path::new(words.nth(2)?) == program;
    let at = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (at(start)?, at(end)?);
    own.then_some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use std::alloc::{GlobalAlloc as _, Layout};

    use mimalloc::MiMalloc;

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

    /// Other tests of this process take memory at the same time, so that one look may tell nothing.
    fn again_and_again(given_back: impl Fn() -> bool) -> bool {
        (0..20).any(|_nth| given_back())
    }

    #[test]
    fn text_is_given_back_and_used_again() {
        let given_back = || {
            let before = status("RssFile:").expect("RssFile");
            Text::find().expect("maps").release().expect("madvise");
            status("RssFile:").expect("RssFile") < before
        };
        assert!(again_and_again(given_back));
    }

    #[test]
    fn what_others_have_freed_is_given_back() {
        const BLOCKS: usize = 20_000;
        let layout = Layout::array::<u8>(1000).expect("layout");
        let block = |_n| {
            // SAFETY: the layout has a size.
            #[expect(unsafe_code, reason = "the tests' own allocator is another one")]
            let block = unsafe { MiMalloc.alloc_zeroed(layout) };
            block.expose_provenance()
        };
        let given_back = || {
            let blocks: Vec<usize> = (0..BLOCKS).map(block).collect();
            let used = status("RssAnon:").expect("RssAnon");
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    for block in blocks {
                        let block = std::ptr::with_exposed_provenance_mut(block);
                        // SAFETY: it was allocated with this layout, and nobody has it any more.
                        #[expect(unsafe_code, reason = "the tests' own allocator is another one")]
                        unsafe {
                            MiMalloc.dealloc(block, layout);
                        };
                    }
                });
            });
            collect();
            status("RssAnon:").expect("RssAnon") + 10_000 < used
        };
        assert!(again_and_again(given_back));
    }

    #[test]
    fn only_the_programs_own_text_is_meant() {
        let program = std::path::Path::new("/usr/bin/ringgate");
        let line = |perms, path| format!("55f0c0000000-55f0c0003000 {perms} fe:00 12  {path}");
        let of = |perms, path| unwritten(&line(perms, path), program);
        let own = Some((0x55f0_c000_0000, 0x3000));
        assert_eq!(of("r-xp 00001000", "/usr/bin/ringgate"), own);
        assert_eq!(of("r--p 00000000", "/usr/bin/ringgate"), own);
        assert_eq!(of("r--p 00001000", "/usr/bin/ringgate"), None);
        assert_eq!(of("rw-p 00001000", "/usr/bin/ringgate"), None);
        assert_eq!(of("r-xp 00001000", "/usr/lib/libc.so.6"), None);
        assert_eq!(of("r-xp 00001000", ""), None);
    }
}
