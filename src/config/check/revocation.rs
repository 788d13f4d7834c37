//! `[[revocation]]`: what is revoked without an authority that tells it.

use crate::config::check::Context;
use crate::config::place::At;
use crate::config::raw::File;
use crate::config::raw::revocation::Revocation;
use crate::config::read::Table;
use crate::identity::revocation::{NodeName, Revocations, Serial, Target};
use crate::vocab::limits;
use crate::vocab::spiffe::SpiffeId;

/// Every `[[revocation]]`.
pub(crate) fn revocations(files: &[File], cx: &mut Context<'_>) -> Revocations {
    let mut all = Revocations::default();
    for raw in files.iter().flat_map(|f| f.revocation.iter().flatten()) {
        let Some(target) = target(raw, cx) else {
            continue;
        };
        if all.has(&target) {
            cx.out
                .error(raw.place(), format!("{target} is revoked twice"));
        }
        let reason = raw.reason.as_ref();
        if let Some(long) = reason.filter(|at| at.len() > limits::REASON_BYTES) {
            let most = limits::REASON_BYTES;
            cx.out
                .error(&long.place, format!("a reason has at most {most} bytes"));
        }
        if let Err(error) = all.add(target, reason.map_or("", |at| at.value.as_str())) {
            cx.out.error(raw.place(), error.to_string());
        }
    }
    all
}

fn target(raw: &Revocation, cx: &mut Context<'_>) -> Option<Target> {
    let written = [
        ("serial", &raw.serial),
        ("id", &raw.id),
        ("node", &raw.node),
    ];
    let mut written = written
        .into_iter()
        .filter_map(|(key, at)| Some((key, at.as_ref()?)));
    let first = written.next();
    if let Some((key, second)) = written.next() {
        let message = format!("`{key}` beside another key, expected one of serial, id, node");
        cx.out.error(&second.place, message);
        return None;
    }
    let Some((key, at)) = first else {
        if raw.whole() {
            cx.out
                .error(raw.place(), "expected one of serial, id, node");
        }
        return None;
    };
    let read = match key {
        "serial" => Serial::parse(at)
            .map(Target::Serial)
            .map_err(|e| e.to_string()),
        "node" => NodeName::parse(at)
            .map(Target::Node)
            .map_err(|e| e.to_string()),
        _ => id(at),
    };
    read.map_err(|message| {
        let text = at.escape_debug();
        cx.out.error(&at.place, format!("`{text}`: {message}"));
    })
    .ok()
}

fn id(at: &At<String>) -> Result<Target, String> {
    let id = SpiffeId::parse(at).map_err(|e| e.to_string())?;
    if id.path().is_empty() {
        return Err("a whole trust domain is not revoked, its root is taken away".to_owned());
    }
    Ok(Target::Id(id))
}
