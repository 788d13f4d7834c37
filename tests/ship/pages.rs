//! Manual pages: complete, and without a warning of what formats them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{output, ringgate, told};

fn pages(directory: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for section in ["man1", "man5"] {
        for entry in std::fs::read_dir(directory.join(section)).unwrap() {
            all.push(entry.unwrap().path());
        }
    }
    all.sort();
    all
}

/// A page as it is read, without the emphasis of a terminal.
fn rendered(page: &Path) -> String {
    let mut man = Command::new("man");
    man.args(["--warnings=all", "-E", "UTF-8", "-P", "cat", "-l"]);
    man.arg(page)
        .env("MANWIDTH", "100")
        .env("LC_ALL", "C.UTF-8");
    let out = man.output().expect("man, of Debian's package man-db");
    assert!(out.status.success(), "{}: {}", page.display(), told(&out));
    assert!(out.stderr.is_empty(), "{}: {}", page.display(), told(&out));
    // Lines are filled by more spaces between words.
    let text = String::from_utf8(out.stdout).unwrap();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn they_render_without_a_warning() {
    let directory = tempfile::tempdir().unwrap();
    ringgate(&["man", &directory.path().to_string_lossy()]);
    let pages = pages(directory.path());
    assert!(pages.len() > 20, "{pages:?}");
    for page in &pages {
        let text = rendered(page);
        assert!(text.contains("NAME") && text.contains("SEE ALSO"), "{text}");
        let mut lint = Command::new("mandoc");
        output(lint.args(["-T", "lint", "-W", "error"]).arg(page));
    }
    let of = |name: &str| rendered(&directory.path().join(name));
    let check = of("man1/ringgate-check.1");
    for want in [
        "EXIT STATUS",
        "0 good, 1 any problem",
        "EXAMPLES",
        "ringgate check --config ringgate.toml #",
        "/etc/ringgate/ringgate.toml",
        "ringgate.toml(5)",
    ] {
        assert!(check.contains(want), "{want}: {check}");
    }
    for (page, synopsis) in [
        (
            "ringgate-status",
            "SYNOPSIS ringgate status [--config FILE] [--admin URL] [--output OUTPUT] DESCRIPTION",
        ),
        (
            "ringgate-authority-token-create",
            "ringgate authority token create --node NAME",
        ),
        (
            "ringgate-policy",
            "SYNOPSIS ringgate policy [--config FILE] COMMAND DESCRIPTION",
        ),
        ("ringgate-policy-test", " FILE... DESCRIPTION"),
        ("ringgate-check", " [FILE]... DESCRIPTION"),
        ("ringgate-init", "[--role ROLE]... [--all-in-one]"),
        ("ringgate-man", "ringgate man DIRECTORY DESCRIPTION"),
    ] {
        let text = of(&format!("man1/{page}.1"));
        assert!(text.contains(synopsis), "{synopsis}: {text}");
    }
    assert!(of("man1/ringgate-authority-token-create.1").contains("--ttl"));
    let settings = of("man5/ringgate.toml.5");
    for want in ["[process]", "drain", "[[node.workload]]", "default \"5s\""] {
        assert!(settings.contains(want), "{want}");
    }
}

/// Each command has a page, and each page is of a command.
#[test]
fn every_command_has_one() {
    let directory = tempfile::tempdir().unwrap();
    ringgate(&["man", &directory.path().to_string_lossy()]);
    let help = ringgate(&["--help"]);
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let (commands, _) = commands.split_once("\n\n").unwrap();
    let mut names: Vec<&str> = commands
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    names.sort_unstable();
    assert!(names.len() > 10, "{names:?}");
    let mut found: Vec<String> = pages(directory.path())
        .iter()
        .filter_map(|page| {
            page.file_stem()?
                .to_str()?
                .strip_prefix("ringgate-")
                .map(str::to_owned)
        })
        .filter(|name| names.contains(&name.as_str()))
        .collect();
    found.sort();
    assert_eq!(found, names);
}
