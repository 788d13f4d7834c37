//! Diagnostics of the process itself, on standard error.

use tracing::Level;
use tracing_subscriber::fmt;

/// Starts to print them. A second call changes nothing.
pub fn start() {
    let subscriber = fmt()
        .with_max_level(Level::INFO)
        .with_target(false)
        .with_writer(std::io::stderr)
        .finish();
    if tracing::subscriber::set_global_default(subscriber).is_err() {
        tracing::debug!("diagnostics are on already");
    }
}
