//! Each shell reads its completions, and completes a command, a command below it, an option and a word with them.

use std::path::Path;
use std::process::Command;

use crate::{output, ringgate};

/// What is typed, and what must be among the answers.
const TYPED: &[(&str, &str)] = &[
    ("ringgate comp", "completions"),
    ("ringgate authority token cr", "create"),
    ("ringgate check --conf", "--config"),
    ("ringgate drill --io ep", "epoll"),
];

fn written(shell: &str, directory: &Path, name: &str) -> String {
    let file = directory.join(name);
    std::fs::write(&file, ringgate(&["completions", shell])).unwrap();
    file.to_string_lossy().into_owned()
}

#[test]
fn bash() {
    let directory = tempfile::tempdir().unwrap();
    let file = written("bash", directory.path(), "ringgate");
    output(Command::new("bash").args(["-n", &file]));
    let script = r#"
        source "$1"
        read -ra COMP_WORDS <<< "$2"
        COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))
        COMP_LINE=$2 COMP_POINT=${#2}
        function=$(complete -p ringgate | sed 's/.*-F \([^ ]*\) .*/\1/')
        "$function" ringgate "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    for (typed, want) in TYPED {
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-c", script, "bash", &file, typed]);
        let answers = output(&mut bash);
        assert!(
            answers.lines().any(|line| line == *want),
            "{typed}: {answers}"
        );
    }
}

#[test]
fn fish() {
    let directory = tempfile::tempdir().unwrap();
    let file = written("fish", directory.path(), "ringgate.fish");
    output(Command::new("fish").args(["--no-execute", &file]));
    for (typed, want) in TYPED {
        let mut fish = Command::new("fish");
        fish.args(["--no-config", "-c", "source $argv[1]; complete -C $argv[2]"]);
        fish.args([&file, *typed]).env("HOME", directory.path());
        let answers = output(&mut fish);
        let words = || answers.lines().filter_map(|line| line.split('\t').next());
        assert!(words().any(|word| word == *want), "{typed}: {answers}");
    }
}

/// zsh completes at a terminal alone: one is made for it, and a tab is pressed there.
#[test]
fn zsh() {
    let directory = tempfile::tempdir().unwrap();
    let file = written("zsh", directory.path(), "_ringgate");
    output(Command::new("zsh").args(["-f", "-n", &file]));
    for (typed, want) in TYPED {
        let mut zsh = Command::new("timeout");
        zsh.args(["60", "zsh", "-f", "-c", PRESS, "zsh"]);
        zsh.arg(directory.path())
            .arg(typed)
            .env("HOME", directory.path());
        let line = output(&mut zsh);
        // An option with a value is completed with its sign.
        let last = line
            .split_whitespace()
            .last()
            .map(|word| word.trim_end_matches('='));
        assert_eq!(last, Some(*want), "{typed}: {line}");
    }
}

/// After the tab the whole line is handed to a widget, which prints it between marks.
const PRESS: &str = r#"
    zmodload zsh/zpty
    zpty z zsh -f -i
    zpty -w z "fpath=($1 \$fpath); autoload -Uz compinit; compinit -u -D"
    zpty -w z 'show() { print -r -- "<<$BUFFER>>"; BUFFER= }; zle -N show; bindkey "^X" show; print re""ady'
    zpty -r z seen '*ready*'
    zpty -n -w z "$2"$'\t'$'\x18'
    zpty -r z seen '*<<*>>*'
    zpty -d z
    seen=${seen##*<<}
    print -r -- ${seen%%>>*}
"#;
