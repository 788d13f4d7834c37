//! Properties of the source itself: layers, purity, size, dependencies, the README's commands. Std only.
//!
//! Each rule names what to do instead. A file listed in `RATCHET` may be longer than the limit,
//! never longer than its number; when it shrinks, the test asks for the number to be lowered.
#![allow(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::let_underscore_must_use,
    clippy::panic,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test reports by panicking and reads files"
)]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Non-test lines a file may have.
const FILE_LINES_MAX: usize = 800;

/// `(file, lines)`: files over the limit. May only shrink.
const RATCHET: &[(&str, usize)] = &[];

/// `(module, pure, modules it may use)`, lowest layer first. `module::part` allows that part alone.
const LAYERS: &[(&str, bool, &[&str])] = &[
    ("vocab", true, &[]),
    ("policy", true, &["vocab"]),
    ("identity", true, &["vocab"]),
    ("http", true, &["vocab", "policy::facts"]),
    ("jwt", true, &["vocab", "policy::model"]),
    ("oidc", true, &["vocab", "jwt"]),
    ("extauthz", true, &["vocab", "http", "policy::facts"]),
    ("upstream", true, &["vocab"]),
    ("record", true, &["vocab"]),
    ("h2", true, &["vocab"]),
    ("hbone", true, &["vocab", "h2"]),
    ("config", true, L1),
    ("exchange", true, L1),
    ("role", true, L2),
    ("io", false, L3),
    ("telemetry", false, L3),
    ("control", false, L4),
    ("worker", false, L5),
    ("appliance", false, L6),
    ("cli", false, L7),
];

const L1: &[&str] = &[
    "vocab", "policy", "identity", "http", "jwt", "oidc", "extauthz", "upstream", "record", "h2",
    "hbone",
];
const L2: &[&str] = &[
    "vocab", "policy", "identity", "http", "jwt", "oidc", "extauthz", "upstream", "record", "h2",
    "hbone", "config", "exchange",
];
const L3: &[&str] = &[
    "vocab", "policy", "identity", "http", "jwt", "oidc", "extauthz", "upstream", "record", "h2",
    "hbone", "config", "exchange", "role",
];
const L4: &[&str] = &[
    "vocab",
    "policy",
    "identity",
    "http",
    "jwt",
    "oidc",
    "extauthz",
    "upstream",
    "record",
    "h2",
    "hbone",
    "config",
    "exchange",
    "role",
    "io",
    "telemetry",
];
/// The worker starts the control thread; the control thread knows no worker.
const L5: &[&str] = &[
    "vocab",
    "policy",
    "identity",
    "http",
    "jwt",
    "oidc",
    "extauthz",
    "upstream",
    "record",
    "h2",
    "hbone",
    "config",
    "exchange",
    "role",
    "io",
    "telemetry",
    "control",
];
const L6: &[&str] = &[
    "vocab",
    "policy",
    "identity",
    "http",
    "jwt",
    "oidc",
    "extauthz",
    "upstream",
    "record",
    "h2",
    "hbone",
    "config",
    "exchange",
    "role",
    "io",
    "telemetry",
    "control",
    "worker",
];
const L7: &[&str] = &[
    "vocab",
    "policy",
    "identity",
    "http",
    "jwt",
    "oidc",
    "extauthz",
    "upstream",
    "record",
    "h2",
    "hbone",
    "config",
    "exchange",
    "role",
    "io",
    "telemetry",
    "control",
    "worker",
    "appliance",
];

/// What a pure module may not name.
const IMPURE: &[&str] = &[
    "monoio",
    "io_uring::",
    "quinn::",
    "tokio",
    "std::env",
    "std::fs",
    "std::net::Tcp",
    "std::net::Udp",
    "std::os::fd",
    "std::process",
    "std::thread",
    "Instant::now",
    "SystemTime::now",
    "rand::",
    "getrandom",
    "async fn",
    "async move",
    ".await",
];

/// Files outside `src/io/` that may be unsafe: this one, the allocator that tests and benches count with, what moves
/// a test's thread into a network namespace, and what tries the system calls that a process forbids itself.
const UNSAFE_ALLOWED: &[&str] = &[
    "tests/tidy.rs",
    "tests/support/allocations.rs",
    "tests/support/netns.rs",
    "tests/sandbox/forbidden.rs",
];

/// `(file, words)`: what a file of a pure layer may name all the same.
const IMPURE_ALLOWED: &[(&str, &[&str])] = &[
    ("config/load.rs", &["std::fs", "std::env"]), // the TOML files
    ("config/secret.rs", &["std::fs", "std::env"]), // the secrets they name
];

/// What no source file may hold.
const BANNED: &[(&str, &str)] = &[
    (
        concat!("FIX", "ME"),
        "fix it before the merge, or file an issue",
    ),
    (
        concat!("#[ig", "nore]"),
        "a reason: #[ignore = \"why\"], or better no ignored test",
    ),
];

/// Words that belong to the place where the code was written, not to the product. Split so that
/// this file does not hold them.
const FOREIGN: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/tmp/", "bin"),
    concat!(".py", "env"),
    concat!("registry.", "npmjs"),
    concat!("static.", "crates.io"),
    concat!("index.", "crates.io"),
    concat!("deb.", "debian.org"),
];

/// `(crate, lowest version)` with every RustSec advisory we know of fixed; each version in the lock file must reach it.
const FLOORS: &[(&str, &str)] = &[
    ("bytes", "1.11.1"),              // integer overflow in reserve
    ("h2", "0.4.16"),                 // floods, 2024 to 2026
    ("hickory-proto", "0.26.0"),      // the versions before have open advisories
    ("idna", "1.0.0"),                // punycode that decodes to ASCII
    ("quinn-proto", "0.11.15"),       // not a dependency today
    ("ring", "0.17.12"),              // panic in overflow checks
    ("rustls", "0.23.18"),            // panic in the acceptor
    ("rustls-webpki", "0.103.13"),    // name constraints of URI names
    ("time", "0.3.47"),               // stack exhaustion in parsing
    ("tracing-subscriber", "0.3.20"), // terminal escapes in logs
];

/// Crates the lock file may not hold.
const FORBIDDEN_CRATES: &[(&str, &str)] = &[
    ("rustls-pemfile", "rustls::pki_types::pem"),
    ("monoio-rustls", "tokio-rustls over io::rt"),
    ("openssl-sys", "rustls"),
];

/// The README's set-up section, in full.
const SETUP: &[&str] = &["cargo run --release -- demo", "cargo xtask ci"];

#[test]
fn source() {
    let mut out = String::new();
    for (name, text) in files("src", Some("rs")) {
        check_file(name.strip_prefix("src/").unwrap(), &text, &mut out);
    }
    for dir in ["tests", "benches", "xtask"] {
        for (name, text) in files(dir, Some("rs")) {
            check_any_rust(&name, &text, &mut out);
        }
    }
    assert!(out.is_empty(), "\n{out}");
}

#[test]
fn dependencies() {
    let mut out = String::new();
    for manifest in ["Cargo.toml", "xtask/Cargo.toml"] {
        check_manifest(manifest, &read(manifest), &mut out);
    }
    check_lock(&read("Cargo.lock"), &mut out);
    assert!(out.is_empty(), "\n{out}");
}

#[test]
fn words() {
    let mut out = String::new();
    for (name, text) in files(".", None) {
        check_words(&name, &text, &mut out);
    }
    assert!(out.is_empty(), "\n{out}");
}

#[test]
fn readme_has_two_setup_commands() {
    assert_eq!(setup_commands(&read("README.md")), SETUP);
}

/// ARCHITECTURE.md names only files that exist, and every top module of `src/`.
#[test]
fn architecture_is_current() {
    let mut out = String::new();
    check_architecture(&read("ARCHITECTURE.md"), &mut out);
    assert!(out.is_empty(), "\n{out}");
}

/// A check that cannot fail is none: each rule is shown a text that breaks it.
#[test]
fn checks_catch() {
    let file = |name: &str, text: &str, want: &str| {
        let mut out = String::new();
        check_file(name, text, &mut out);
        assert!(out.contains(want), "want {want:?}, got {out:?}");
    };
    file("policy.rs", "use std::fmt;\n", "starts with no //!");
    file(
        "policy.rs",
        "//! p\nuse crate::config::C;\n",
        "may not use crate::config",
    );
    file(
        "policy.rs",
        "//! p\nuse crate::{config::C, vocab};\n",
        "may not use crate::config",
    );
    file(
        "policy.rs",
        "//! p\nuse crate::{vocab, config::C};\n",
        "may not use crate::config",
    );
    file(
        "policy/a.rs",
        "//! p\nuse super::super::config::C;\n",
        "may not use crate::config",
    );
    file(
        "policy.rs",
        "//! p\nuse super::jwt::model::R;\n",
        "may not use crate::jwt",
    );
    file(
        "jwt/a.rs",
        "//! j\nuse crate::policy::decide;\n",
        "may not use crate::policy::decide",
    );
    file(
        "control/a.rs",
        "//! c\nuse crate::worker::boot;\n",
        "may not use crate::worker",
    );
    file("http/one.rs", "//! h\nlet t = Instant::now();\n", "is pure");
    file("config/check.rs", "//! c\nstd::fs::read(p);\n", "is pure");
    file(
        "vocab/a.rs",
        concat!("//! v\n// FIX", "ME later\n"),
        "fix it before",
    );
    file(
        "role.rs",
        &format!("//! r\n{}", "//\n".repeat(FILE_LINES_MAX)),
        "lines",
    );
    file("stray.rs", "//! s\n", "in no layer");
    file("policy/mod.rs", "//! p\n", "never mod.rs");
    file(
        "worker/a.rs",
        "//! w\nlet x = unsafe { f() };\n",
        "unsafe belongs below src/io",
    );
}

#[test]
fn checks_let_good_code_pass() {
    let clean = |name: &str, text: &str| {
        let mut out = String::new();
        check_file(name, text, &mut out);
        assert_eq!(out, "", "{name} should pass");
    };
    clean("jwt/a.rs", "//! j\nuse crate::policy::model::Target;\n");
    clean("worker/a.rs", "//! w\nuse crate::control::start;\n");
    clean("config/load.rs", "//! c\nstd::fs::read_to_string(p);\n");
    clean(
        "policy/a.rs",
        "//! p\nuse super::model::Rule;\n#[cfg(test)]\nmod tests {\n use crate::config::C;\n}\n",
    );
    clean("io/sock.rs", "//! i\nlet x = unsafe { f() };\n");
}

#[test]
fn other_checks_catch() {
    let mut out = String::new();
    check_architecture("see `io/nowhere.rs`", &mut out);
    assert!(out.contains("src/io/nowhere.rs, which does not"), "{out}");
    assert!(out.contains("says nothing about `policy`"), "{out}");

    let mut out = String::new();
    check_manifest(
        "Cargo.toml",
        "[dependencies]\na = \"1\" # why: x\nb = \"1\"\n[lints]\nc = 1\n",
        &mut out,
    );
    assert_eq!(out, "Cargo.toml: `b` has no `# why`\n");

    let mut out = String::new();
    let lock = "[[package]]\nname = \"h2\"\nversion = \"0.4.9\"\n\n[[package]]\nname = \"rustls-pemfile\"\nversion = \"2.0.0\"\n";
    check_lock(lock, &mut out);
    assert!(out.contains("h2 0.4.9 is below 0.4.16"), "{out}");
    assert!(out.contains("rustls-pemfile"), "{out}");
    assert!(out.contains("rustls is not in Cargo.lock"), "{out}");

    let mut out = String::new();
    check_words("a.md", concat!("see /wo", "rk/x"), &mut out);
    assert!(out.contains("a.md:1"), "{out}");

    assert_eq!(
        setup_commands("## Set up\n```\na\n```\n```\nb\n```\n## Next\n```\nc\n```\n"),
        ["a", "b"]
    );
}

fn check_architecture(text: &str, out: &mut String) {
    for word in text.split('`') {
        let layer = word.split(['/', '.']).next().unwrap();
        if word.ends_with(".rs")
            && LAYERS.iter().any(|(module, ..)| *module == layer)
            && !root().join("src").join(word).is_file()
        {
            writeln!(
                out,
                "ARCHITECTURE.md names src/{word}, which does not exist"
            )
            .unwrap();
        }
    }
    for (module, ..) in LAYERS {
        if !text.contains(&format!("| `{module}` |")) {
            writeln!(out, "ARCHITECTURE.md says nothing about `{module}`").unwrap();
        }
    }
}

fn check_any_rust(path: &str, text: &str, out: &mut String) {
    if !text.starts_with("//!") {
        writeln!(
            out,
            "{path}: starts with no //! line that says what it is for"
        )
        .unwrap();
    }
    if path.ends_with("/mod.rs") {
        writeln!(out, "{path}: foo.rs + foo/, never mod.rs").unwrap();
    }
    for (word, instead) in BANNED {
        if text.contains(word) {
            writeln!(out, "{path}: {word} - instead: {instead}").unwrap();
        }
    }
    if path.starts_with("src/io/") || path == "src/io.rs" || UNSAFE_ALLOWED.contains(&path) {
        return;
    }
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap();
        if [
            "unsafe {",
            "unsafe fn",
            "unsafe impl",
            "unsafe extern",
            "unsafe(",
        ]
        .iter()
        .any(|word| code.contains(word))
        {
            writeln!(out, "{path}:{}: unsafe belongs below src/io", number + 1).unwrap();
        }
    }
}

/// `name` is relative to `src/`.
fn check_file(name: &str, text: &str, out: &mut String) {
    check_any_rust(&format!("src/{name}"), text, out);
    if name.ends_with("/tests.rs") || name.contains("/tests/") {
        return;
    }
    let prod = production(text);
    check_length(name, prod.lines().count(), out);
    check_layer(name, prod, out);
}

/// The text before the unit tests.
fn production(text: &str) -> &str {
    for (at, mark) in text.match_indices("#[cfg(test)]") {
        let after = text[at + mark.len()..]
            .lines()
            .map(str::trim_start)
            .find(|line| !line.is_empty() && !line.starts_with('#') && !line.starts_with("//"));
        if after.is_some_and(|line| line.starts_with("mod ") && line.ends_with('{')) {
            return &text[..at];
        }
    }
    text
}

fn check_length(name: &str, lines: usize, out: &mut String) {
    match RATCHET.iter().find(|(file, _)| *file == name) {
        Some((_, cap)) if lines > *cap => {
            writeln!(
                out,
                "src/{name}: {lines} lines, ratchet {cap}: split it, don't raise the number"
            )
            .unwrap();
        }
        Some((_, cap)) if lines + 50 < *cap => {
            writeln!(
                out,
                "src/{name}: {lines} lines: lower its ratchet from {cap}"
            )
            .unwrap();
        }
        None if lines > FILE_LINES_MAX => {
            writeln!(
                out,
                "src/{name}: {lines} lines, limit {FILE_LINES_MAX}: split by responsibility"
            )
            .unwrap();
        }
        _ => {}
    }
}

fn check_layer(name: &str, prod: &str, out: &mut String) {
    let own = name.split(['/', '.']).next().unwrap();
    if matches!(own, "lib" | "main") {
        return;
    }
    let Some((_, pure, may_use)) = LAYERS.iter().find(|(module, ..)| *module == own) else {
        writeln!(
            out,
            "src/{name}: in no layer; add it to LAYERS and to ARCHITECTURE.md"
        )
        .unwrap();
        return;
    };
    let excused: &[&str] = IMPURE_ALLOWED
        .iter()
        .find(|(file, _)| *file == name)
        .map_or(&[], |(_, words)| words);
    for (number, line) in prod.lines().enumerate() {
        let code = line.split("//").next().unwrap();
        for used in crate_uses(code, name.split('/').count()) {
            let top = used.split("::").next().unwrap();
            let known = LAYERS.iter().any(|(module, ..)| *module == top);
            let allowed = may_use.iter().any(|may| {
                used.strip_prefix(may)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
            });
            if known && top != own && !allowed {
                writeln!(
                    out,
                    "src/{name}:{}: {own} may not use crate::{used}",
                    number + 1
                )
                .unwrap();
            }
        }
        for word in IMPURE.iter().filter(|word| *pure && code.contains(**word)) {
            if !excused.contains(word) {
                writeln!(
                    out,
                    "src/{name}:{}: {own} is pure; {word} belongs to io/",
                    number + 1
                )
                .unwrap();
            }
        }
    }
}

/// Paths below the crate's root that one line names, two segments at most: `crate::a::b::C`,
/// `crate::{a::b, c}`, and `super::` chains that climb to the root from a file `depth` levels down.
fn crate_uses(code: &str, depth: usize) -> Vec<String> {
    let climb = "super::".repeat(depth);
    let mut found = Vec::new();
    for prefix in ["crate::", climb.as_str()] {
        for (at, _) in code.match_indices(prefix) {
            let rest = &code[at + prefix.len()..];
            let list = rest.strip_prefix('{').unwrap_or(rest);
            let braces = list.len() != rest.len();
            for part in list.split(|c| braces && (c == ',' || c == '}')) {
                let path: Vec<&str> = part
                    .trim()
                    .split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':')
                    .next()
                    .unwrap()
                    .split("::")
                    .filter(|segment| !segment.is_empty())
                    .take(2)
                    .collect();
                if !path.is_empty() {
                    found.push(path.join("::"));
                }
                if !braces {
                    break;
                }
            }
        }
    }
    found
}

fn check_manifest(name: &str, text: &str, out: &mut String) {
    let mut in_dependencies = false;
    for line in text.lines() {
        if line.starts_with('[') {
            in_dependencies = line.trim_end_matches(']').ends_with("dependencies");
        } else if in_dependencies
            && line.contains('=')
            && line.starts_with(char::is_alphabetic)
            && !line.contains("# why")
        {
            let dependency = line.split('=').next().unwrap().trim();
            writeln!(out, "{name}: `{dependency}` has no `# why`").unwrap();
        }
    }
}

fn check_lock(text: &str, out: &mut String) {
    let field = |package: &str, key: &str| -> Option<String> {
        let line = package.lines().find(|line| line.starts_with(key))?;
        Some(line.split('"').nth(1)?.to_owned())
    };
    let packages: Vec<(String, String)> = text
        .split("[[package]]")
        .filter_map(|package| Some((field(package, "name = ")?, field(package, "version = ")?)))
        .collect();
    for (name, version) in &packages {
        for (_, floor) in FLOORS.iter().filter(|(floored, _)| floored == name) {
            if numbers(version) < numbers(floor) {
                writeln!(
                    out,
                    "Cargo.lock: {name} {version} is below {floor}: cargo update -p {name}"
                )
                .unwrap();
            }
        }
        for (_, instead) in FORBIDDEN_CRATES.iter().filter(|(banned, _)| banned == name) {
            writeln!(out, "Cargo.lock: {name} - instead: {instead}").unwrap();
        }
    }
    for name in ["h2", "rustls", "rustls-webpki", "tracing-subscriber"] {
        if !packages.iter().any(|(present, _)| present == name) {
            writeln!(
                out,
                "{name} is not in Cargo.lock: is the list of floors still right?"
            )
            .unwrap();
        }
    }
}

/// `1.2.3-rc.1+x` as `[1, 2, 3]`.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split(['-', '+'])
        .next()
        .unwrap()
        .split('.')
        .map(|part| part.parse().unwrap())
        .collect()
}

fn check_words(name: &str, text: &str, out: &mut String) {
    for (number, line) in text.lines().enumerate() {
        for word in FOREIGN.iter().filter(|word| line.contains(**word)) {
            writeln!(
                out,
                "{name}:{}: {word} is no word of the product",
                number + 1
            )
            .unwrap();
        }
    }
}

/// Lines inside the code blocks of the section `## Set up`.
fn setup_commands(readme: &str) -> Vec<&str> {
    let section = readme
        .split("\n## ")
        .find_map(|part| part.trim_start_matches("## ").strip_prefix("Set up\n"));
    section
        .unwrap_or_default()
        .split("```")
        .skip(1)
        .step_by(2)
        .flat_map(|block| block.lines().skip(1))
        .filter(|line| !line.is_empty())
        .collect()
}

/// Read at run time: with a target directory shared by two checkouts, `env!()` names the other one.
fn root() -> PathBuf {
    PathBuf::from(std::env::var("CARGO_MANIFEST_DIR").unwrap())
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// `(path from the root, text)` of the UTF-8 files below `dir`, sorted; what .gitignore names is left out.
fn files(dir: &str, extension: Option<&str>) -> Vec<(String, String)> {
    let ignored: Vec<String> = read(".gitignore")
        .lines()
        .map(|line| line.trim_matches('/').to_owned())
        .filter(|line| !line.is_empty())
        .collect();
    let mut found = Vec::new();
    let mut todo = vec![root().join(dir)];
    while let Some(next) = todo.pop() {
        let Ok(entries) = fs::read_dir(&next) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root()).unwrap_or(&path);
            let name = name.to_str().unwrap().trim_start_matches("./").to_owned();
            let last = name.rsplit('/').next().unwrap();
            if last == ".git" || ignored.iter().any(|skip| *skip == name || skip == last) {
                continue;
            }
            if path.is_dir() {
                todo.push(path);
            } else if extension
                .is_none_or(|want| Path::new(&name).extension().is_some_and(|e| e == want))
                && let Ok(text) = fs::read_to_string(&path)
            {
                found.push((name, text));
            }
        }
    }
    found.sort();
    found
}
