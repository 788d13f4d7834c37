//! `[[rateLimit]]`: attached and matched as an authorization policy, with Envoy's token bucket.

use crate::config::place::At;
use crate::config::raw::mesh::Labels;
use crate::config::raw::policy::{Rule, Selector, TargetRef};
use crate::config::read::{Millis, table};

table! {
    /// `[[rateLimit]]`
    RateLimit {
        /// Name, one of its kind and namespace.
        /// Example: `"search"`
        name: At<String> = "name",
        /// Namespace.
        /// Default: `"default"`
        namespace: Option<At<String>> = "namespace",
        /// Holds at workloads and gateways with these labels.
        selector: Option<At<Selector>> = "selector",
        /// Holds at this gateway or service.
        target_ref: Option<At<TargetRef>> = "targetRef",
        /// Holds at each of these.
        target_refs: Option<At<Vec<TargetRef>>> = "targetRefs",
        /// Which requests are counted.
        /// Default: all
        rules: Option<Vec<Rule>> = "rules",
        /// Whose tokens they take: keys as of `when`, and `request.path`, `request.method`, `request.host`.
        /// Default: one bucket for all
        /// Example: `["source.principal"]`
        by: Option<Vec<At<String>>> = "by",
        /// How many there are.
        token_bucket: TokenBucket = "tokenBucket",
    }
    unused {
        /// Labels of the resource; read by no check, as Kubernetes writes them.
        /// Example: `{ team = "shop" }`
        "labels": Labels,
        /// Annotations of the resource; nothing reads them, Kubernetes writes them.
        /// Example: `{ owner = "shop" }`
        "annotations": Labels,
    }
}

table! {
    /// `rateLimit.tokenBucket`
    TokenBucket {
        /// What a bucket holds, at most 1000000.
        /// Example: `100`
        max_tokens: At<u32> = "maxTokens",
        /// How many come per interval.
        /// Default: `1`
        tokens_per_fill: Option<At<u32>> = "tokensPerFill",
        /// The interval, 1ms to 24h.
        /// Example: `"1s"`
        fill_interval: At<Millis> = "fillInterval",
    }
}
