//! `[[httpRoute]]`, by the names of Gateway API's HTTPRoute.

use crate::config::place::At;
use crate::config::raw::mesh::Labels;
use crate::config::read::{AnyText, Count, Millis, Port, table, words};

table! {
    /// `[[httpRoute]]`
    HttpRoute {
        /// Name, one of its kind and namespace.
        /// Example: `"ledger"`
        name: At<String> = "name",
        /// Namespace.
        /// Default: `"default"`
        namespace: Option<At<String>> = "namespace",
        /// Where it holds: a gateway or a service.
        parent_refs: Vec<ParentRef> = "parentRefs",
        /// Hosts that it is for.
        /// Default: all of its parents
        /// Example: `["portal.example.com"]`
        hostnames: Option<Vec<At<String>>> = "hostnames",
        /// A rule; the most specific match wins.
        rules: Vec<RouteRule> = "rules",
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
    /// `httpRoute.parentRefs[]`
    ParentRef {
        /// Group of the kind.
        /// Default: that of the kind
        /// Example: `"gateway.networking.k8s.io"`
        group: Option<At<AnyText>> = "group",
        /// Gateway, Service or ServiceEntry.
        /// Default: `"Gateway"`
        kind: Option<At<String>> = "kind",
        /// Namespace.
        /// Default: the route's
        /// Example: `"default"`
        namespace: Option<At<String>> = "namespace",
        /// Name.
        /// Example: `"public"`
        name: At<String> = "name",
        /// Port of the service.
        /// Default: all
        /// Example: `80`
        port: Option<At<Port>> = "port",
    }
    later ["sectionName"]
}

table! {
    /// `httpRoute.rules[]`
    RouteRule {
        /// Name, which stands in records.
        /// Example: `"export"`
        name: Option<At<String>> = "name",
        /// What it is for; one is enough, and everything without.
        matches: Option<Vec<RouteMatch>> = "matches",
        /// What is done to requests and answers.
        filters: Option<Vec<Filter>> = "filters",
        /// A service that requests go to, by weight.
        backend_refs: Option<At<Vec<BackendRef>>> = "backendRefs",
        /// How long requests may take.
        timeouts: Option<Timeouts> = "timeouts",
        /// Which requests are sent once more.
        retry: Option<Retry> = "retry",
    }
    later ["sessionPersistence"]
}

table! {
    /// `httpRoute.rules[].matches[]`
    RouteMatch {
        /// The path.
        path: Option<RoutePath> = "path",
        /// A header field.
        headers: Option<Vec<FieldMatch>> = "headers",
        /// A query parameter.
        query: Option<Vec<FieldMatch>> = "queryParams",
        /// The method.
        /// Example: `"GET"`
        method: Option<At<String>> = "method",
    }
}

/// `matches[].path.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoutePathType {
    Exact,
    PathPrefix,
    RegularExpression,
}

words!(RoutePathType, "one of Exact, PathPrefix, RegularExpression", "Exact" => Self::Exact,
    "PathPrefix" => Self::PathPrefix, "RegularExpression" => Self::RegularExpression);

table! {
    /// `httpRoute.rules[].matches[].path`
    RoutePath {
        /// How it is compared.
        /// Default: `"PathPrefix"`
        kind: Option<RoutePathType> = "type",
        /// Path or expression.
        /// Default: `"/"`
        /// Example: `"/v1"`
        value: Option<At<String>> = "value",
    }
}

/// `headers[].type`, `queryParams[].type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldType {
    Exact,
    RegularExpression,
}

words!(FieldType, "one of Exact, RegularExpression", "Exact" => Self::Exact,
    "RegularExpression" => Self::RegularExpression);

table! {
    /// `matches[].headers[]`, `matches[].queryParams[]`
    FieldMatch {
        /// How it is compared.
        /// Default: `"Exact"`
        kind: Option<FieldType> = "type",
        /// Name of the field.
        /// Example: `"x-tier"`
        name: At<String> = "name",
        /// Value or expression.
        /// Example: `"gold"`
        value: At<AnyText> = "value",
    }
}

/// `filters[].type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FilterType {
    RequestHeaderModifier,
    ResponseHeaderModifier,
    RequestRedirect,
    UrlRewrite,
    RequestMirror,
}

words!(FilterType, "one of RequestHeaderModifier, ResponseHeaderModifier, RequestRedirect, URLRewrite, RequestMirror",
    "RequestHeaderModifier" => Self::RequestHeaderModifier, "ResponseHeaderModifier" => Self::ResponseHeaderModifier,
    "RequestRedirect" => Self::RequestRedirect, "URLRewrite" => Self::UrlRewrite,
    "RequestMirror" => Self::RequestMirror);

table! {
    /// `httpRoute.rules[].filters[]`
    Filter {
        /// What is done; the key of that name says how.
        /// Example: `"RequestHeaderModifier"`
        kind: At<FilterType> = "type",
        /// Changes header fields of the request.
        request_headers: Option<At<HeaderFilter>> = "requestHeaderModifier",
        /// Changes header fields of the answer.
        response_headers: Option<At<HeaderFilter>> = "responseHeaderModifier",
        /// Answers with a redirect.
        redirect: Option<At<Redirect>> = "requestRedirect",
        /// Changes host or path of the request.
        rewrite: Option<At<UrlRewrite>> = "urlRewrite",
        /// Sends a copy elsewhere.
        mirror: Option<At<Mirror>> = "requestMirror",
    }
    later ["extensionRef", "cors", "externalAuth"]
}

table! {
    /// `requestHeaderModifier`, `responseHeaderModifier`
    HeaderFilter {
        /// Sets a field in place of what is there.
        set: Option<Vec<HeaderEdit>> = "set",
        /// Adds a value to a field.
        add: Option<Vec<HeaderEdit>> = "add",
        /// Fields that are removed, before the others are set.
        /// Example: `["x-internal"]`
        remove: Option<Vec<At<String>>> = "remove",
    }
}

table! {
    /// `set[]`, `add[]`
    HeaderEdit {
        /// Name of the field.
        /// Example: `"x-env"`
        name: At<String> = "name",
        /// Its value.
        /// Example: `"production"`
        value: At<AnyText> = "value",
    }
}

/// `requestRedirect.scheme`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

words!(Scheme, "one of http, https", "http" => Self::Http, "https" => Self::Https);

table! {
    /// `requestRedirect`
    Redirect {
        /// Scheme of the new URL.
        /// Default: that of the request
        /// Example: `"https"`
        scheme: Option<Scheme> = "scheme",
        /// Host of the new URL.
        /// Default: that of the request
        /// Example: `"www.example.com"`
        hostname: Option<At<String>> = "hostname",
        /// Path of the new URL.
        path: Option<PathModifier> = "path",
        /// Port of the new URL.
        /// Default: that of the request, or of the scheme
        /// Example: `8443`
        port: Option<Port> = "port",
        /// 301, 302, 303, 307 or 308.
        /// Default: `302`
        status_code: Option<At<u32>> = "statusCode",
    }
}

table! {
    /// `urlRewrite`
    UrlRewrite {
        /// Host that is sent on.
        /// Example: `"ledger.internal"`
        hostname: Option<At<String>> = "hostname",
        /// Path that is sent on.
        path: Option<PathModifier> = "path",
    }
}

/// `path.type` of `urlRewrite` and `requestRedirect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PathModifierType {
    Full,
    Prefix,
}

words!(PathModifierType, "one of ReplaceFullPath, ReplacePrefixMatch", "ReplaceFullPath" => Self::Full,
    "ReplacePrefixMatch" => Self::Prefix);

table! {
    /// `path` of `urlRewrite` and `requestRedirect`
    PathModifier {
        /// Whether the whole path is replaced or the prefix that matched.
        /// Example: `"ReplaceFullPath"`
        kind: At<PathModifierType> = "type",
        /// The new path.
        /// Example: `"/v2"`
        full: Option<At<AnyText>> = "replaceFullPath",
        /// What stands in place of the prefix.
        /// Example: `"/"`
        prefix: Option<At<AnyText>> = "replacePrefixMatch",
    }
}

table! {
    /// `requestMirror`
    Mirror {
        /// The service that gets the copy.
        backend_ref: BackendRef = "backendRef",
        /// Share of the requests, 0 to 100.
        /// Default: `100`
        percent: Option<At<Count>> = "percent",
        /// The same as a fraction; excludes `percent`.
        fraction: Option<Fraction> = "fraction",
    }
}

table! {
    /// `requestMirror.fraction`
    Fraction {
        /// So many of `denominator`.
        /// Example: `5`
        numerator: At<u32> = "numerator",
        /// Of how many requests.
        /// Default: `100`
        denominator: Option<At<u32>> = "denominator",
    }
}

table! {
    /// `httpRoute.rules[].backendRefs[]`
    BackendRef {
        /// Group of the kind.
        /// Default: that of the kind
        /// Example: `"networking.istio.io"`
        group: Option<At<AnyText>> = "group",
        /// Service or ServiceEntry.
        /// Default: `"Service"`
        kind: Option<At<String>> = "kind",
        /// Namespace.
        /// Default: the route's
        /// Example: `"default"`
        namespace: Option<At<String>> = "namespace",
        /// Name of the service entry.
        /// Example: `"ledger"`
        name: At<String> = "name",
        /// Its port.
        /// Example: `80`
        port: At<Port> = "port",
        /// Share of the requests.
        /// Default: `1`
        weight: Option<At<u32>> = "weight",
    }
    later ["filters"]
}

table! {
    /// `httpRoute.rules[].timeouts`
    Timeouts {
        /// From the decision to the end of the answer, all attempts together.
        /// Default: no limit
        /// Example: `"10s"`
        request: Option<At<Millis>> = "request",
        /// One attempt, once it is connected.
        /// Default: no limit
        /// Example: `"3s"`
        backend_request: Option<At<Millis>> = "backendRequest",
        /// How long nothing may move.
        /// Default: no limit
        /// Example: `"1m"`
        idle: Option<At<Millis>> = "idle",
        /// How long an exchange may take, also one whose answer goes on.
        /// Default: no limit
        /// Example: `"1h"`
        stream: Option<At<Millis>> = "stream",
    }
}

table! {
    /// `httpRoute.rules[].retry` (GEP-1731)
    Retry {
        /// Statuses after which a request is sent once more.
        /// Default: none, connects that failed alone
        /// Example: `[503]`
        codes: Option<Vec<At<u32>>> = "codes",
        /// How often.
        /// Default: `1`
        attempts: Option<At<Count>> = "attempts",
        /// How long it waits at first, at most 10s.
        /// Default: `"25ms"`
        backoff: Option<At<Millis>> = "backoff",
        /// Also requests that may not be repeated by their method.
        /// Default: `false`
        any_method: Option<At<bool>> = "dangerous_anyMethod",
    }
}
