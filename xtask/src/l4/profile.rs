//! Where the proxies' CPU time goes, by `perf`.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::steps;

/// A recording; ended by [`Recording::end`].
#[derive(Debug)]
pub(crate) struct Recording {
    perf: Child,
    data: String,
}

/// Symbols that are listed.
const SYMBOLS: usize = 25;

impl Recording {
    /// Samples processes by the CPU clock, which every machine has.
    pub(crate) fn start(ids: &[u32], directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let data = directory.join("perf.data").to_string_lossy().into_owned();
        let pids: Vec<String> = ids.iter().map(u32::to_string).collect();
        let perf = Command::new("perf")
            .args(["record", "-q", "-e", "cpu-clock", "-F", "997", "-o", &data])
            .args(["-p", &pids.join(",")])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start perf (Debian package linux-perf)")?;
        Ok(Self { perf, data })
    }

    /// Writes the list of symbols to `file`.
    pub(crate) fn end(mut self, file: &Path) -> Result<()> {
        // perf writes the rest of its file when it is interrupted.
        steps::signal("INT", self.perf.id())?;
        self.perf.wait()?;
        let report = Command::new("perf")
            .args(["report", "-q", "--stdio", "--no-children", "-i", &self.data])
            .args(["--sort", "symbol"])
            .stdin(Stdio::null())
            .output()?;
        let said = String::from_utf8_lossy(&report.stderr);
        ensure!(report.status.success(), "perf report: {said}");
        let text = String::from_utf8_lossy(&report.stdout);
        let lines = text
            .lines()
            .map(|line| line.trim_end_matches([' ', '-']).trim_start()) // columns without numbers
            .filter(|line| !line.is_empty());
        let top: Vec<&str> = lines.take(SYMBOLS).collect();
        std::fs::write(file, top.join("\n") + "\n")?;
        Ok(())
    }
}
