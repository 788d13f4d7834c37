//! What the process forbids itself, so that a hole in it is worth little: it becomes another user, gives up capabilities,
//! leaves no core dumps, opens no files but those that its configuration has to do with (Landlock), and makes no system
//! calls that it has no use for (seccomp).
//!
//! All of it but seccomp begins before the process has a second thread, for what one thread has given up its threads to come
//! have not; what takes the calls away comes when the listeners are bound, to all threads at once. Programs are started by
//! a process that was split off before ([`launcher`](super::launcher)).

mod calls;
mod files;
mod privileges;
mod seen;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use thiserror::Error;

use crate::config::checked::{self, Config, Process};

pub use files::Outside;
pub use privileges::never_binds;

/// Why the process does not start.
#[derive(Debug, Error)]
pub enum SandboxError {
    /// No such user.
    #[error("`user` in [process]: no user `{0}` in /etc/passwd")]
    NoUser(String),
    /// Only root becomes somebody else.
    #[error("`user` in [process] is `{0}`, which only a process that root has started can become")]
    NotRoot(String),
    /// What was to be given up is still there.
    #[error("{what}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// `sandbox = "required"`.
    #[error(
        "`sandbox` in [process] is `required`, and {measure} cannot be had: {why}; expected a kernel and a container that \
         have it, or `on`"
    )]
    Required {
        /// Which measure.
        measure: &'static str,
        /// Why not.
        why: String,
    },
}

pub(super) fn os(what: &'static str) -> impl Fn(std::io::Error) -> SandboxError {
    move |source| SandboxError::Os { what, source }
}

/// Whether a measure is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is, as the text says.
    Active(String),
    /// A part of it is, as the text says: the kernel does not know all of it.
    Partial(String),
    /// The configuration leaves no place for it, as the text says.
    Unused(String),
    /// It is not, for this reason.
    Missing(String),
}

impl State {
    fn text(&self) -> &str {
        match self {
            Self::Active(text) | Self::Partial(text) | Self::Unused(text) | Self::Missing(text) => {
                text
            }
        }
    }

    fn is_active(&self) -> bool {
        matches!(self, Self::Active(_) | Self::Partial(_))
    }
}

/// The sandbox of this process.
#[derive(Debug)]
pub struct Sandbox {
    mode: checked::Sandbox,
    user: State,
    dumps: State,
    privileges: State,
    files: State,
    calls: State,
    /// Where files may be; `None`: anywhere.
    places: Option<files::Places>,
    /// Threads that were there before it began.
    before: Vec<u32>,
}

impl Sandbox {
    /// None at all, for this reason.
    pub fn none(why: &str) -> Self {
        let off = || State::Missing(why.to_owned());
        Self {
            mode: checked::Sandbox::Off,
            user: off(),
            dumps: off(),
            privileges: off(),
            files: off(),
            calls: off(),
            places: None,
            before: seen::others(),
        }
    }

    /// Begins it, in the thread that all others are started by. Nothing of the configuration's files but itself was opened.
    ///
    /// # Errors
    /// `SandboxError`; the process must not go on.
    pub fn begin(main: &Path, config: &Config) -> Result<Self, SandboxError> {
        let process = &config.process;
        let mode = process.sandbox;
        let off = |why: &str| State::Missing(why.to_owned());
        let mut sandbox = Self {
            mode,
            user: privileges::become_user(process.user.as_deref())?,
            ..Self::none("`sandbox` is `off`")
        };
        match mode {
            checked::Sandbox::Off => return Ok(sandbox),
            checked::Sandbox::Log => {
                sandbox.dumps = privileges::leave_no_dumps()?;
                sandbox.privileges = off("`sandbox` is `log`");
                sandbox.files = off("`sandbox` is `log`");
                return Ok(sandbox);
            }
            checked::Sandbox::On | checked::Sandbox::Required => {}
        }
        sandbox.dumps = privileges::leave_no_dumps()?;
        sandbox.privileges = privileges::give_up(process)?;
        sandbox.must_have("capabilities", &sandbox.privileges)?;
        super::nameservers::remember();
        (sandbox.files, sandbox.places) = files::restrict(main, config);
        sandbox.must_have("landlock", &sandbox.files)?;
        Ok(sandbox)
    }

    /// Goes on with it once all listeners are bound and all rings are there: takes calls away from every thread.
    ///
    /// # Errors
    /// `SandboxError::Required`.
    pub fn finish(&mut self) -> Result<(), SandboxError> {
        self.calls = match self.mode {
            checked::Sandbox::Off => return Ok(()),
            checked::Sandbox::Log => calls::take(true),
            checked::Sandbox::On | checked::Sandbox::Required => calls::take(false),
        };
        self.must_have("seccomp", &self.calls)?;
        if self.forbids() {
            never_binds();
        }
        Ok(())
    }

    /// Whether anything is forbidden.
    #[must_use]
    pub fn forbids(&self) -> bool {
        matches!(self.mode, checked::Sandbox::On | checked::Sandbox::Required)
    }

    fn must_have(&self, measure: &'static str, state: &State) -> Result<(), SandboxError> {
        match (state, self.mode) {
            (State::Missing(why), checked::Sandbox::Required) => Err(SandboxError::Required {
                measure,
                why: why.clone(),
            }),
            (State::Active(_) | State::Partial(_) | State::Unused(_) | State::Missing(_), _) => {
                Ok(())
            }
        }
    }

    /// What of this configuration, read anew, cannot be opened any more: files elsewhere than at the start.
    #[must_use]
    pub fn outside(&self, config: &Config) -> Vec<Outside> {
        let places = self.places.as_ref();
        places.map_or_else(Vec::new, |places| places.outside(config))
    }

    /// As [`outside`](Self::outside), of paths.
    #[must_use]
    pub fn outside_of(&self, paths: &[PathBuf]) -> Vec<PathBuf> {
        let outside = |path: &&PathBuf| self.places.as_ref().is_some_and(|p| !p.holds(path));
        paths.iter().filter(outside).cloned().collect()
    }

    /// Says in one line what is in force, and in one what the kernel lacks.
    pub fn tell(&self) {
        let all = self.measures();
        let of = |wanted: fn(&State) -> bool| {
            let some = all.iter().filter(|(_, state)| wanted(state));
            some.map(|(name, state)| (*name, state.text()))
                .collect::<Vec<_>>()
        };
        let active = of(State::is_active);
        let names: Vec<&str> = active.iter().map(|(name, _)| *name).collect();
        tracing::info!(active = names.join(" "), "sandbox");
        if self.forbids() {
            for (measure, why) in of(|state| matches!(state, State::Missing(_))) {
                tracing::warn!(measure, why, "a measure of the sandbox is not in force");
            }
            for (measure, what) in of(|state| matches!(state, State::Partial(_))) {
                tracing::warn!(
                    measure,
                    what,
                    "a measure of the sandbox is in force in part"
                );
            }
        }
    }

    fn measures(&self) -> [(&'static str, State); 5] {
        [
            ("user", self.user.clone()),
            ("core-dumps", self.dumps.clone()),
            ("capabilities", self.privileges.clone()),
            ("landlock", self.files.clone()),
            ("seccomp", self.calls.clone()),
        ]
    }

    /// As the operator is shown it: what was done, and what the kernel says of the threads as they are now.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let measures = self.measures().into_iter().map(|(name, state)| {
            json!({
                "name": name,
                "active": state.is_active(),
                "partial": matches!(state, State::Partial(_)),
                "detail": state.text(),
            })
        });
        json!({
            "mode": match self.mode {
                checked::Sandbox::On => "on",
                checked::Sandbox::Required => "required",
                checked::Sandbox::Log => "log",
                checked::Sandbox::Off => "off",
            },
            "measures": measures.collect::<Vec<_>>(),
            "threads": seen::threads(&self.before),
        })
    }
}

/// Whether a process forbids itself anything.
#[must_use]
pub fn forbids(process: &Process) -> bool {
    matches!(
        process.sandbox,
        checked::Sandbox::On | checked::Sandbox::Required
    )
}

/// Whether the process starts programs later on, by which it needs somebody who still may: for an upgrade, or for the
/// rules of capture.
#[must_use]
pub fn starts_programs(process: &Process) -> bool {
    // Whom `log` takes nothing away leaves it to a successor all the same (`no_new_privs`).
    process.sandbox != checked::Sandbox::Off
        && (process.handover.is_some() || super::capture::capturing(process).is_some())
        || process.user.is_some() && process.handover.is_some()
}
