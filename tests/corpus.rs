//! The fuzz targets over their corpora, and over many small changes of what is there: always the same ones.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::print_stdout,
    unreachable_pub,
    reason = "a test program: it reports by panicking, and shares the targets with the fuzzer's crate"
)]

#[path = "fuzz/src/lib.rs"]
mod targets;

use std::path::{Path, PathBuf};

use targets::Target;

/// The inputs of a target, by name of their files.
fn corpus(target: Target) -> Vec<(PathBuf, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/corpus");
    let mut files: Vec<_> = std::fs::read_dir(root.join(target.name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.clone(), std::fs::read(&path).unwrap()))
        .collect();
    files.sort();
    assert!(files.len() >= 5, "{} has no corpus", target.name);
    files
}

/// Runs one input; says which it was if the target panics.
fn run(target: Target, name: &str, data: &[u8]) {
    let outcome = std::panic::catch_unwind(|| (target.run)(data));
    assert!(
        outcome.is_ok(),
        "{} fails on {name}: {:?}",
        target.name,
        String::from_utf8_lossy(data)
    );
}

/// A seeded xorshift generator.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(n.max(1)).unwrap()).unwrap()
    }

    /// A part of `data`.
    fn part<'d>(&mut self, data: &'d [u8]) -> &'d [u8] {
        let start = self.below(data.len() + 1);
        let len = self.below((data.len() - start).min(16) + 1);
        &data[start..start + len]
    }

    /// `data` with one to four small changes, `other` lending parts.
    fn change(&mut self, data: &[u8], other: &[u8]) -> Vec<u8> {
        const TOKENS: &[&[u8]] = &[
            b"/",
            b"..",
            b"%2e",
            b"%2F",
            b"\\",
            b"?",
            b"#",
            b"&",
            b"=",
            b"+",
            b"%",
            b"%00",
            b"\0",
            b"\r\n",
            b"\n",
            b":",
            b".",
            b"*",
            b"{*}",
            b"{**}",
            b"[",
            b"]",
            b"\"",
            b"'",
            b",",
            b" ",
            b"\xff",
            b"\xc3\xa9",
            b"0",
            b"65536",
            b"-1",
        ];
        let mut out = data.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(out.len() + 1);
            match self.below(6) {
                0 if at < out.len() => out[at] ^= 1 << self.below(8),
                1 => {
                    let end = at + self.below((out.len() - at).min(16) + 1);
                    out.drain(at..end);
                }
                2 => out.truncate(at),
                3 => {
                    let part = self.part(data).to_vec();
                    out.splice(at..at, part);
                }
                4 => {
                    let part = self.part(other).to_vec();
                    out.splice(at..at, part);
                }
                _ => {
                    let token = TOKENS[self.below(TOKENS.len())];
                    out.splice(at..at, token.iter().copied());
                }
            }
        }
        out
    }
}

fn replay(name: &str) {
    let target = *targets::ALL.iter().find(|t| t.name == name).unwrap();
    let files = corpus(target);
    for (path, data) in &files {
        run(target, &path.to_string_lossy(), data);
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..target.changed {
        let (path, data) = &files[random.below(files.len())];
        let (_, other) = &files[random.below(files.len())];
        let changed = random.change(data, other);
        run(target, &format!("a change of {}", path.display()), &changed);
    }
    println!(
        "{name}: {} inputs, {} changed ones",
        files.len(),
        target.changed
    );
}

macro_rules! replays {
    ($($name:ident),+ $(,)?) => {
        $(
            #[test]
            fn $name() {
                replay(stringify!($name));
            }
        )+

        /// No target is left out here.
        #[test]
        fn every_target_is_replayed() {
            let names: Vec<&str> = targets::ALL.iter().map(|t| t.name).collect();
            assert_eq!(names, [$(stringify!($name)),+]);
        }
    };
}

replays!(
    path,
    host,
    query,
    spiffe,
    certificate,
    token,
    head,
    record,
    config,
    diag,
    yaml,
    json,
    hbone,
    hpack,
    h2,
    dns
);
