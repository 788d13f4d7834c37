//! `[[authorizationPolicy]]` and what policies share: selectors and target references.

use crate::config::place::At;
use crate::config::raw::mesh::Labels;
use crate::config::read::{AnyText, MaybeEmpty, PolicyPort, table, words};
use crate::policy::model::Action;

table! {
    /// `selector`
    Selector {
        /// All of these labels; an empty table is everything.
        /// Example: `{ app = "web" }`
        match_labels: Option<At<Labels>> = "matchLabels",
    }
}

table! {
    /// `targetRefs[]`
    TargetRef {
        /// Group of the kind.
        /// Default: the core group
        /// Example: `"gateway.networking.k8s.io"`
        group: Option<At<AnyText>> = "group",
        /// Gateway, Service, ServiceEntry or GatewayClass.
        /// Example: `"Gateway"`
        kind: At<String> = "kind",
        /// Name of the resource.
        /// Example: `"waypoint"`
        name: At<String> = "name",
        /// Its namespace, which must be the policy's own.
        /// Example: `"default"`
        namespace: Option<At<AnyText>> = "namespace",
    }
}

words!(Action, "one of ALLOW, DENY, AUDIT, CUSTOM",
    "ALLOW" => Self::Allow, "DENY" => Self::Deny, "AUDIT" => Self::Audit, "CUSTOM" => Self::Custom);

table! {
    /// `[[authorizationPolicy]]`
    AuthorizationPolicy {
        /// Name, one of its kind and namespace.
        /// Example: `"ledger"`
        name: At<String> = "name",
        /// Namespace.
        /// Default: `"default"`
        namespace: Option<At<String>> = "namespace",
        /// Annotations; `istio.io/dry-run` is read.
        /// Example: `{ "istio.io/dry-run" = "true" }`
        annotations: Option<Labels> = "annotations",
        /// Holds at workloads and gateways with these labels.
        selector: Option<At<Selector>> = "selector",
        /// Holds at this gateway or service.
        target_ref: Option<At<TargetRef>> = "targetRef",
        /// Holds at each of these.
        target_refs: Option<At<Vec<TargetRef>>> = "targetRefs",
        /// What matching means; CUSTOM and DENY come before ALLOW.
        /// Default: `"ALLOW"`
        action: Option<At<Action>> = "action",
        /// Which external authorizer is asked (CUSTOM).
        provider: Option<Provider> = "provider",
        /// A rule; one that matches is enough. Without rules an ALLOW policy allows nothing.
        rules: Option<MaybeEmpty<Rule>> = "rules",
        /// Judges and records, and changes nothing.
        /// Default: `false`
        dry_run: Option<At<bool>> = "dryRun",
    }
    unused {
        /// Labels of the resource; read by no check, as Kubernetes writes them.
        /// Example: `{ team = "shop" }`
        "labels": Labels,
    }
}

table! {
    /// `provider`
    Provider {
        /// Name of an extension provider.
        /// Example: `"opa"`
        name: At<String> = "name",
    }
}

table! {
    /// `rules[]`
    Rule {
        /// Who calls; one is enough, and all callers without.
        from: Option<Vec<RuleFrom>> = "from",
        /// What is called; one is enough, and everything without.
        to: Option<Vec<RuleTo>> = "to",
        /// Further conditions; all must hold.
        when: Option<Vec<Condition>> = "when",
    }
}

table! {
    /// `from[]`
    RuleFrom {
        /// Fields of the caller; all that are given must hold.
        source: Source = "source",
    }
}

table! {
    /// `to[]`
    RuleTo {
        /// Fields of the call; all that are given must hold.
        operation: Operation = "operation",
    }
}

/// The values of one field.
pub(crate) type Values = Option<At<Vec<At<String>>>>;

table! {
    /// `from[].source`
    Source {
        /// Identity of the peer: `TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT`; `*` at either end matches any text.
        /// Example: `["cluster.local/ns/shop/sa/web"]`
        principals: Values = "principals",
        /// As `principals`, none of these.
        /// Example: `["cluster.local/ns/shop/sa/batch"]`
        not_principals: Values = "notPrincipals",
        /// Identity of the token: `ISSUER/SUBJECT`.
        /// Example: `["https://auth.example.com/*"]`
        request_principals: Values = "requestPrincipals",
        /// As `requestPrincipals`, none of these.
        /// Example: `["https://auth.example.com/guest"]`
        not_request_principals: Values = "notRequestPrincipals",
        /// Namespace of the peer.
        /// Example: `["shop"]`
        namespaces: Values = "namespaces",
        /// As `namespaces`, none of these.
        /// Example: `["sandbox"]`
        not_namespaces: Values = "notNamespaces",
        /// Service account of the peer: `ACCOUNT` or `NAMESPACE/ACCOUNT`.
        /// Example: `["shop/web"]`
        service_accounts: Values = "serviceAccounts",
        /// As `serviceAccounts`, none of these.
        /// Example: `["shop/batch"]`
        not_service_accounts: Values = "notServiceAccounts",
        /// Trust domain of the peer.
        /// Example: `["cluster.local"]`
        trust_domains: Values = "trustDomains",
        /// As `trustDomains`, none of these.
        /// Example: `["partner.example"]`
        not_trust_domains: Values = "notTrustDomains",
        /// Address of the connection.
        /// Example: `["10.0.0.0/8"]`
        ip_blocks: Values = "ipBlocks",
        /// As `ipBlocks`, none of these.
        /// Example: `["10.9.0.0/16"]`
        not_ip_blocks: Values = "notIpBlocks",
        /// Address of the client, which trusted proxies tell.
        /// Example: `["203.0.113.0/24"]`
        remote_ip_blocks: Values = "remoteIpBlocks",
        /// As `remoteIpBlocks`, none of these.
        /// Example: `["203.0.113.7"]`
        not_remote_ip_blocks: Values = "notRemoteIpBlocks",
    }
}

table! {
    /// `to[].operation`
    Operation {
        /// Host of the request; `*` at either end matches any text.
        /// Example: `["api.example.com"]`
        hosts: Values = "hosts",
        /// As `hosts`, none of these.
        /// Example: `["admin.example.com"]`
        not_hosts: Values = "notHosts",
        /// Port of the destination.
        /// Example: `["80"]`
        ports: Option<Vec<PolicyPort>> = "ports",
        /// As `ports`, none of these.
        /// Example: `["9090"]`
        not_ports: Option<Vec<PolicyPort>> = "notPorts",
        /// Method of the request.
        /// Example: `["GET"]`
        methods: Values = "methods",
        /// As `methods`, none of these.
        /// Example: `["DELETE"]`
        not_methods: Values = "notMethods",
        /// Path of the request; `{*}` is one segment, `{**}` any number.
        /// Example: `["/v1/users/{*}"]`
        paths: Values = "paths",
        /// As `paths`, none of these.
        /// Example: `["/admin/*"]`
        not_paths: Values = "notPaths",
        /// Regular expressions for the whole path.
        /// Example: `['/v1/[a-z]+']`
        path_regexes: Values = "pathRegexes",
        /// As `pathRegexes`, none of these.
        /// Example: `['/v1/internal.*']`
        not_path_regexes: Values = "notPathRegexes",
    }
}

table! {
    /// `when[]`
    Condition {
        /// What is looked at, such as `request.headers[name]` or `request.auth.claims[name]`; docs/policy.md has all.
        /// Example: `"request.headers[x-tier]"`
        key: At<String> = "key",
        /// One of these.
        /// Example: `["gold"]`
        values: Values = "values",
        /// None of these.
        /// Example: `["trial"]`
        not_values: Values = "notValues",
        /// One of these regular expressions, for the whole value.
        /// Example: `['g.*']`
        regexes: Values = "regexes",
        /// None of these regular expressions.
        /// Example: `['t.*']`
        not_regexes: Values = "notRegexes",
    }
}
