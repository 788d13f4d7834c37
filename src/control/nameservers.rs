//! `/etc/resolv.conf`, read anew for each use, so that a change counts without a restart. One that cannot be read leaves those
//! nameservers that were read last: a process that is root and opens no other files of /etc does not see what replaces it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;
use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use hickory_resolver::net::NetError;
use hickory_resolver::system_conf::read_system_conf;

type System = (ResolverConfig, ResolverOpts);

/// What was read last.
#[derive(Debug)]
struct Last {
    read: ArcSwapOption<System>,
    /// That it cannot be read any more was told.
    told: AtomicBool,
}

static LAST: Last = Last {
    read: ArcSwapOption::const_empty(),
    told: AtomicBool::new(false),
};

/// The nameservers of the system, and how they are asked.
///
/// # Errors
/// The file cannot be read, and never could.
pub fn of_system() -> Result<System, NetError> {
    LAST.or(read_system_conf())
}

/// To be called before the process gives up files.
pub fn remember() {
    if let Err(error) = of_system() {
        tracing::debug!(%error, "no nameservers of the system yet");
    }
}

impl Last {
    fn or(&self, read: Result<System, NetError>) -> Result<System, NetError> {
        match read {
            Ok(system) => {
                self.told.store(false, Ordering::Release);
                self.read.store(Some(Arc::new(system.clone())));
                Ok(system)
            }
            Err(error) => {
                let Some(last) = self.read.load_full() else {
                    return Err(error);
                };
                if !self.told.swap(true, Ordering::AcqRel) {
                    tracing::warn!(
                        %error,
                        "/etc/resolv.conf cannot be read any more: the nameservers that were in it are asked; set `nameservers` or \
                         `user` in [process], or restart when they change"
                    );
                }
                Ok(System::clone(&last))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_that_could_be_read_stay() {
        let last = Last {
            read: ArcSwapOption::const_empty(),
            told: AtomicBool::new(false),
        };
        let failed = || Err(NetError::from("forbidden"));
        let system = |domain: &str| {
            let name = hickory_resolver::proto::rr::Name::from_ascii(domain).unwrap();
            let config = ResolverConfig::from_parts(Some(name), Vec::new(), Vec::new());
            (config, ResolverOpts::default())
        };
        let domain = |read: Result<System, NetError>| {
            let (config, _) = last.or(read).ok()?;
            config.domain().map(ToString::to_string)
        };
        assert_eq!(domain(failed()), None);
        assert_eq!(domain(Ok(system("one."))).as_deref(), Some("one."));
        assert_eq!(domain(failed()).as_deref(), Some("one."));
        assert!(last.told.load(Ordering::Acquire));
        assert_eq!(domain(Ok(system("two."))).as_deref(), Some("two."));
        assert!(!last.told.load(Ordering::Acquire));
        assert_eq!(domain(failed()).as_deref(), Some("two."));
    }
}
