//! Configuration files: every problem has a place that exists, and what is accepted can be enforced.

use std::path::{Path, PathBuf};

use ringgate::config::{Problem, is_main, parse};
use ringgate::policy::validate;

const MAIN: &str = include_str!("../../data/config/base.toml");

/// A file in TOML: a main file if it has tables of one, else a mesh file beside a good main file.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if is_main(Path::new("fuzz.toml"), text) {
        check(&[("fuzz.toml", text)]);
    } else {
        check(&[("main.toml", MAIN), ("fuzz.toml", text)]);
    }
}

fn check(files: &[(&str, &str)]) {
    let owned = |(name, text): &(&str, &str)| (PathBuf::from(name), (*text).to_owned());
    let files: Vec<(PathBuf, String)> = files.iter().map(owned).collect();
    let base = Path::new("/nowhere");
    match (parse(&files, base), parse(&files, base)) {
        (Ok(config), Ok(again)) => {
            assert_eq!(config.warnings, again.warnings, "two answers");
            places(&config.warnings, &files);
            for policy in &config.mesh.authorization_policies {
                assert_eq!(validate(policy), [], "accepted, but cannot be enforced");
            }
        }
        (Err(errors), Err(again)) => {
            assert_eq!(errors, again, "two answers");
            assert!(!errors.problems().is_empty(), "refused without a reason");
            places(errors.problems(), &files);
        }
        (Ok(_), Err(_)) | (Err(_), Ok(_)) => panic!("two answers"),
    }
}

/// Each problem names one of the files, and a place in it.
pub(crate) fn places(problems: &[Problem], files: &[(PathBuf, String)]) {
    for problem in problems {
        let file = files.iter().find(|(path, _)| *path == problem.file);
        let (_, text) = file.expect("a file that was read");
        assert!(!problem.message.is_empty());
        assert!(!problem.message.contains('\n'), "{problem}");
        if let Some((line, column)) = problem.position {
            let line = text.split('\n').nth(line - 1).expect("a line of the file");
            assert!(
                column >= 1 && column <= line.chars().count() + 1,
                "{problem}"
            );
        }
    }
}
