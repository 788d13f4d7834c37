//! The values of policies and their places. What is refused is the policy engine's to say (`policy::validate`), and so
//! is what is probably not meant (`policy::lint`).

use crate::config::check::locate::Locator;
use crate::config::raw::policy::Values;

/// What is needed to read the values of one policy.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) locator: Locator,
}

impl Reader {
    /// The values of a field; empty if it is absent. `field` is its name for the policy engine.
    pub(crate) fn values(&mut self, raw: &Values, field: &str) -> Vec<String> {
        let Some(raw) = raw else { return Vec::new() };
        self.locator.add(field, &raw.place, true);
        for (i, at) in raw.iter().enumerate() {
            self.locator.add(&format!("{field}[{i}]"), &at.place, true);
        }
        raw.iter().map(|at| at.value.clone()).collect()
    }
}
