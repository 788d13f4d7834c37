//! `[[authorizationPolicy]]` and what policies share: selectors and target references.

use crate::config::place::At;
use crate::config::raw::mesh::Labels;
use crate::config::read::{AnyText, MaybeEmpty, PolicyPort, table, words};
use crate::policy::model::Action;

table! {
    /// `selector`
    Selector {
        match_labels: Option<At<Labels>> = "matchLabels",
    }
}

table! {
    /// `targetRefs[]`
    TargetRef {
        group: Option<At<AnyText>> = "group",
        kind: At<String> = "kind",
        name: At<String> = "name",
        namespace: Option<At<AnyText>> = "namespace",
    }
}

words!(Action, "one of ALLOW, DENY, AUDIT, CUSTOM",
    "ALLOW" => Self::Allow, "DENY" => Self::Deny, "AUDIT" => Self::Audit, "CUSTOM" => Self::Custom);

table! {
    /// `[[authorizationPolicy]]`
    AuthorizationPolicy {
        name: At<String> = "name",
        namespace: Option<At<String>> = "namespace",
        annotations: Option<Labels> = "annotations",
        selector: Option<At<Selector>> = "selector",
        target_ref: Option<At<TargetRef>> = "targetRef",
        target_refs: Option<At<Vec<TargetRef>>> = "targetRefs",
        action: Option<At<Action>> = "action",
        provider: Option<Provider> = "provider",
        rules: Option<MaybeEmpty<Rule>> = "rules",
        dry_run: Option<At<bool>> = "dryRun",
    }
    unused { "labels": Labels }
}

table! {
    /// `provider`
    Provider {
        name: At<String> = "name",
    }
}

table! {
    /// `rules[]`
    Rule {
        from: Option<Vec<RuleFrom>> = "from",
        to: Option<Vec<RuleTo>> = "to",
        when: Option<Vec<Condition>> = "when",
    }
}

table! {
    /// `from[]`
    RuleFrom {
        source: Source = "source",
    }
}

table! {
    /// `to[]`
    RuleTo {
        operation: Operation = "operation",
    }
}

/// The values of one field.
pub(crate) type Values = Option<At<Vec<At<String>>>>;

table! {
    /// `from[].source`
    Source {
        principals: Values = "principals",
        not_principals: Values = "notPrincipals",
        request_principals: Values = "requestPrincipals",
        not_request_principals: Values = "notRequestPrincipals",
        namespaces: Values = "namespaces",
        not_namespaces: Values = "notNamespaces",
        service_accounts: Values = "serviceAccounts",
        not_service_accounts: Values = "notServiceAccounts",
        trust_domains: Values = "trustDomains",
        not_trust_domains: Values = "notTrustDomains",
        ip_blocks: Values = "ipBlocks",
        not_ip_blocks: Values = "notIpBlocks",
        remote_ip_blocks: Values = "remoteIpBlocks",
        not_remote_ip_blocks: Values = "notRemoteIpBlocks",
    }
}

table! {
    /// `to[].operation`
    Operation {
        hosts: Values = "hosts",
        not_hosts: Values = "notHosts",
        ports: Option<Vec<PolicyPort>> = "ports",
        not_ports: Option<Vec<PolicyPort>> = "notPorts",
        methods: Values = "methods",
        not_methods: Values = "notMethods",
        paths: Values = "paths",
        not_paths: Values = "notPaths",
        path_regexes: Values = "pathRegexes",
        not_path_regexes: Values = "notPathRegexes",
    }
}

table! {
    /// `when[]`
    Condition {
        key: At<String> = "key",
        values: Values = "values",
        not_values: Values = "notValues",
        regexes: Values = "regexes",
        not_regexes: Values = "notRegexes",
    }
}
