//! Step 9: the policy file is edited while the mesh runs.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;

use super::report::Step;
use super::steps::{EXPORT, attempt, check_denied};
use crate::cli::curl::Download;
use crate::cli::os;
use crate::cli::target::Target;

const RELOAD: Duration = Duration::from_secs(10);
const POLICY: &str = "name = \"customer-api-lockdown\"";
const RULE: &str =
    "from = [{ source.principals = [\"cluster.local/ns/default/sa/frontend-service\"] }]";
/// Another workload in frontend-service's place.
const OTHER: &str =
    "from = [{ source.principals = [\"cluster.local/ns/default/sa/somebody-else\"] }]";
/// A key that does not exist.
const BROKEN: &str =
    "from = [{ source.principal = [\"cluster.local/ns/default/sa/frontend-service\"] }]";

/// Takes frontend-service out of the rule, breaks the file, puts everything back.
pub(super) fn reload(target: &Target, step: &mut Step) -> anyhow::Result<()> {
    let original = os::read_text(&target.policy)?;
    let scratch = std::env::temp_dir().join(format!("ringgate-{}", os::hex(&os::random::<6>()?)));
    // The client may be another user, and the directory for temporary files closed to it.
    std::fs::create_dir(&scratch)
        .with_context(|| format!("`{}` cannot be made", scratch.display()))?;
    std::fs::set_permissions(&scratch, std::fs::Permissions::from_mode(0o1777))?;
    let result = edited(target, step, &original, &scratch.join("download"));
    os::ignore(std::fs::remove_dir_all(&scratch));
    // Whatever happened: the file that the user wrote is put back.
    os::write(&target.policy, original.as_bytes(), 0o644)?;
    result
}

fn edited(target: &Target, step: &mut Step, original: &str, scratch: &Path) -> anyhow::Result<()> {
    let url = format!("http://customer-api{EXPORT}");
    let before = target.generations()?;
    let (mut download, opened) = start_download(target, step, scratch)?;

    write(target, original, OTHER)?;
    let (generations, seen) = await_generation(target, &before)?;
    step.check(
        "edit: frontend-service is taken out of the rule",
        "a new generation everywhere",
        seen,
        generations > before,
    );
    let tried = attempt(target, &target.frontend, &url)?;
    check_denied(target, step, "the next call", &tried, "frontend-service");
    let ended = download.ended(RELOAD).filter(|_| opened);
    let seen = ended.as_ref().map_or_else(
        || {
            if opened {
                "still open"
            } else {
                "it was never open"
            }
            .to_owned()
        },
        |(code, text)| format!("exit {code}, {text}"),
    );
    step.check(
        "the open download",
        "is closed",
        seen,
        ended.is_some_and(|(code, _)| code != 0),
    );

    broken(target, step, original, &generations)?;
    let tried = attempt(target, &target.frontend, &url)?;
    check_denied(
        target,
        step,
        "the last good policy still judges",
        &tried,
        "frontend-service",
    );

    os::write(&target.policy, original.as_bytes(), 0o644)?;
    let (restored, seen) = await_generation(target, &generations)?;
    step.check(
        "edit: the rule is put back",
        "a new generation everywhere, no problems",
        seen,
        restored > generations && target.problems()?.iter().all(Vec::is_empty),
    );
    let tried = attempt(target, &target.frontend, &url)?;
    step.check(
        "the next call",
        "200",
        tried.answer.seen(),
        tried.answer.status == 200 && tried.hits == 1,
    );
    Ok(())
}

/// A broken edit changes nothing and says file, line and key.
fn broken(
    target: &Target,
    step: &mut Step,
    original: &str,
    generations: &[u64],
) -> anyhow::Result<()> {
    let text = write(target, original, BROKEN)?;
    let line = text
        .lines()
        .position(|line| line.contains(BROKEN))
        .context("the broken line is not in the file")?
        + 1;
    let file = target
        .policy
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    let place = format!("{file}:{line}:");
    let mut problems = Vec::new();
    os::wait_until(RELOAD, || {
        problems = target.problems().unwrap_or_default();
        !problems.is_empty() && problems.iter().all(|process| !process.is_empty())
    });
    let named = |problem: &String| problem.contains(&place) && problem.contains("principal");
    let all = !problems.is_empty() && problems.iter().all(|process| process.iter().any(named));
    let seen = problems
        .iter()
        .flatten()
        .next()
        .map_or("no problem told", String::as_str);
    step.check(
        "edit: a key that does not exist",
        format!("a problem at `{place}` that names the key `principal`"),
        seen,
        all,
    );
    let now = target.generations()?;
    step.check(
        "generation after the broken edit",
        format!("{generations:?}"),
        format!("{now:?}"),
        now == generations,
    );
    Ok(())
}

/// The file with the lockdown rule replaced, written.
fn write(target: &Target, original: &str, rule: &str) -> anyhow::Result<String> {
    let (head, tail) = original
        .split_once(POLICY)
        .filter(|(_, tail)| tail.contains(RULE))
        .with_context(|| {
            format!(
                "`{}` has no `{POLICY}` with `{RULE}`",
                target.policy.display()
            )
        })?;
    let text = format!("{head}{POLICY}{}", tail.replacen(RULE, rule, 1));
    os::write(&target.policy, text.as_bytes(), 0o644)?;
    Ok(text)
}

/// The download, and whether it brought bytes and is open.
fn start_download(
    target: &Target,
    step: &mut Step,
    scratch: &Path,
) -> anyhow::Result<(Download, bool)> {
    let (path, args) = &target.endless;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let caller = target.frontend.with(&args);
    let mut download = caller.download(&format!("http://customer-api{path}"), scratch)?;
    let size = || scratch.metadata().map_or(0, |file| file.len());
    os::wait_until(RELOAD, || size() > 0);
    let early = download.ended(Duration::ZERO);
    let opened = early.is_none() && size() > 0;
    step.check(
        format!("an endless download of {path} as frontend-service"),
        "is open and brings bytes",
        early.as_ref().map_or_else(
            || format!("{} bytes", size()),
            |(code, text)| format!("ended: exit {code}, {text}"),
        ),
        opened,
    );
    Ok((download, opened))
}

/// Waits until every process has a higher generation than `before`.
fn await_generation(target: &Target, before: &[u64]) -> anyhow::Result<(Vec<u64>, String)> {
    let mut now = Vec::new();
    os::wait_until(RELOAD, || {
        now = target.generations().unwrap_or_default();
        now.len() == before.len() && now.iter().zip(before).all(|(now, before)| now > before)
    });
    let moved =
        now.len() == before.len() && now.iter().zip(before).all(|(now, before)| now > before);
    let seen = format!(
        "generation {before:?} -> {now:?}, problems {:?}",
        target.problems()?
    );
    // What has not moved everywhere is told as unchanged, so that a comparison fails.
    Ok((if moved { now } else { before.to_vec() }, seen))
}
