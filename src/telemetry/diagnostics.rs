//! Diagnostics of the process itself, on standard error.

use std::env;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::sync::OnceLock;

use tracing::{Level, Metadata};
use tracing_subscriber::fmt;
use tracing_subscriber::fmt::MakeWriter;

/// Starts to print them. A second call changes nothing.
pub fn start() {
    let plain = fmt().with_max_level(Level::INFO).with_target(false);
    let set = if is_journal() {
        // It has a time of its own for each line.
        let subscriber = plain.without_time().with_writer(Journal).finish();
        tracing::subscriber::set_global_default(subscriber)
    } else {
        let subscriber = plain.with_writer(io::stderr).finish();
        tracing::subscriber::set_global_default(subscriber)
    };
    if set.is_err() {
        tracing::debug!("diagnostics are on already");
    }
}

/// Whether standard error is a stream of the journal, which takes a priority at the beginning of each line (sd-daemon(3),
/// `JOURNAL_STREAM` of systemd.exec(5)). The variable alone says nothing: it is inherited by what writes elsewhere.
#[must_use]
pub fn is_journal() -> bool {
    static IS_JOURNAL: OnceLock<bool> = OnceLock::new();
    *IS_JOURNAL.get_or_init(|| {
        let told = env::var_os("JOURNAL_STREAM").unwrap_or_default();
        let own = rustix::fs::fstat(io::stderr().as_fd());
        own.is_ok_and(|own| *told == *format!("{}:{}", own.st_dev, own.st_ino))
    })
}

/// `text` as the journal takes it, if standard error is that: each line begins with the priority of an error, 3.
#[must_use]
pub fn as_error(text: &str) -> String {
    if is_journal() {
        prefixed(text, priority(Level::ERROR))
    } else {
        text.to_owned()
    }
}

/// As syslog(3) has them.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// What has several lines is several entries of the journal: the priority stands before each.
fn prefixed(text: &str, priority: u8) -> String {
    let lines = text.split_inclusive('\n');
    lines.map(|line| format!("<{priority}>{line}")).collect()
}

/// Writes to the journal.
struct Journal;

/// Of one event, which comes in one piece.
struct Entry(u8);

impl<'a> MakeWriter<'a> for Journal {
    type Writer = Entry;

    fn make_writer(&'a self) -> Entry {
        Entry(priority(Level::INFO))
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Entry {
        Entry(priority(*meta.level()))
    }
}

impl Write for Entry {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = prefixed(&String::from_utf8_lossy(bytes), self.0);
        io::stderr().lock().write_all(text.as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().lock().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_an_event_has_its_priority() {
        assert_eq!(prefixed("a\n", 3), "<3>a\n");
        assert_eq!(prefixed("a\nb", 4), "<4>a\n<4>b");
        assert_eq!(prefixed("", 4), "");
    }
}
