//! `[[rateLimit]]`: attached and matched as an authorization policy, with Envoy's token bucket.

use crate::config::place::At;
use crate::config::raw::mesh::Labels;
use crate::config::raw::policy::{Rule, Selector, TargetRef};
use crate::config::read::{Millis, table};

table! {
    /// `[[rateLimit]]`
    RateLimit {
        name: At<String> = "name",
        namespace: Option<At<String>> = "namespace",
        selector: Option<At<Selector>> = "selector",
        target_ref: Option<At<TargetRef>> = "targetRef",
        target_refs: Option<At<Vec<TargetRef>>> = "targetRefs",
        rules: Option<Vec<Rule>> = "rules",
        by: Option<Vec<At<String>>> = "by",
        token_bucket: TokenBucket = "tokenBucket",
    }
    unused { "labels": Labels, "annotations": Labels }
}

table! {
    /// `rateLimit.tokenBucket`
    TokenBucket {
        max_tokens: At<u32> = "maxTokens",
        tokens_per_fill: Option<At<u32>> = "tokensPerFill",
        fill_interval: At<Millis> = "fillInterval",
    }
}
