//! `[[rateLimit]]`: what it is attached to, which requests it counts, and its bucket.

use crate::config::check::Context;
use crate::config::check::condition::key_hint;
use crate::config::check::locate::Locator;
use crate::config::check::policy::refused;
use crate::config::check::target::{Attachment, target};
use crate::config::check::values::Reader;
use crate::config::checked::Mesh;
use crate::config::place::At;
use crate::config::raw::File;
use crate::config::raw::rate_limit as raw;
use crate::config::read::Table as _;
use crate::policy::limit::{Key, RateLimit, TokenBucket};
use crate::vocab::limits;

/// Every `[[rateLimit]]`.
pub(crate) fn rate_limits(files: &[File], mesh: &mut Mesh, cx: &mut Context<'_>) {
    let all = files.iter().flat_map(|f| f.rate_limit.iter().flatten());
    for (nth, raw) in all.enumerate() {
        if nth == limits::RATE_LIMITS {
            let most = limits::RATE_LIMITS;
            let message = format!("more than {most} rate limits, each of which has a table");
            cx.out.error(&raw.name.place, message);
        }
        let limit = rate_limit(raw, mesh, cx);
        mesh.rate_limits.push(limit);
    }
}

fn rate_limit(raw: &raw::RateLimit, mesh: &Mesh, cx: &mut Context<'_>) -> RateLimit {
    let name = cx.resource(&raw.name, raw.namespace.as_ref());
    let attachment = Attachment {
        selector: raw.selector.as_ref(),
        target_ref: raw.target_ref.as_ref(),
        target_refs: raw.target_refs.as_ref(),
        name: &raw.name.place,
    };
    let target = target(&attachment, &name, mesh, cx);
    let mut reader = Reader {
        locator: Locator::default(),
    };
    reader.locator.add("rules", &raw.name.place, raw.whole());
    let rules = raw.rules.iter().flatten().enumerate();
    let rules = rules
        .map(|(i, rule)| reader.rule(rule, &format!("rules[{i}]")))
        .collect();
    let by = raw.by.iter().flatten();
    let by = by.filter_map(|at| key(at, cx)).collect();
    let limit = RateLimit {
        name,
        target,
        rules,
        by,
        bucket: bucket(&raw.token_bucket, cx),
    };
    if !limit.rules.is_empty() {
        refused(&limit.as_policy(), &reader.locator, cx);
    }
    limit
}

fn key(at: &At<String>, cx: &mut Context<'_>) -> Option<Key> {
    match Key::parse(at) {
        Ok(key) => Some(key),
        Err(why) => {
            let text = at.escape_debug();
            let near = key_hint(at);
            cx.out.error(&at.place, format!("`{text}`: {why}{near}"));
            None
        }
    }
}

fn bucket(raw: &raw::TokenBucket, cx: &mut Context<'_>) -> TokenBucket {
    let mut tokens = |at: &At<u32>| {
        let most = limits::RATE_LIMIT_TOKENS;
        if !(1..=most).contains(&at.value) {
            let why = format!("out of range, expected 1 to {most}");
            cx.out.error(&at.place, why);
        }
        at.value
    };
    let max_tokens = tokens(&raw.max_tokens);
    let tokens_per_fill = raw.tokens_per_fill.as_ref().map_or(1, tokens);
    let interval = &raw.fill_interval;
    let fill_interval_ms = interval.value.0;
    if !(1..=limits::RATE_LIMIT_INTERVAL_MS).contains(&fill_interval_ms) {
        let why = "out of range, expected 1ms to 24h";
        cx.out.error(&interval.place, why);
    }
    TokenBucket {
        max_tokens,
        tokens_per_fill,
        fill_interval_ms,
    }
}
