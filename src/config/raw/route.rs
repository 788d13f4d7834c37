//! `[[httpRoute]]`, by the names of Gateway API's HTTPRoute.

use crate::config::place::At;
use crate::config::raw::mesh::Labels;
use crate::config::read::{AnyText, Count, Millis, Port, table, words};

table! {
    /// `[[httpRoute]]`
    HttpRoute {
        name: At<String> = "name",
        namespace: Option<At<String>> = "namespace",
        parent_refs: Vec<ParentRef> = "parentRefs",
        hostnames: Option<Vec<At<String>>> = "hostnames",
        rules: Vec<RouteRule> = "rules",
    }
    unused { "labels": Labels, "annotations": Labels }
}

table! {
    /// `httpRoute.parentRefs[]`
    ParentRef {
        group: Option<At<AnyText>> = "group",
        kind: Option<At<String>> = "kind",
        namespace: Option<At<String>> = "namespace",
        name: At<String> = "name",
        port: Option<At<Port>> = "port",
    }
    later ["sectionName"]
}

table! {
    /// `httpRoute.rules[]`
    RouteRule {
        name: Option<At<String>> = "name",
        matches: Option<Vec<RouteMatch>> = "matches",
        filters: Option<Vec<Filter>> = "filters",
        backend_refs: Option<At<Vec<BackendRef>>> = "backendRefs",
        timeouts: Option<Timeouts> = "timeouts",
        retry: Option<Retry> = "retry",
    }
    later ["sessionPersistence"]
}

table! {
    /// `httpRoute.rules[].matches[]`
    RouteMatch {
        path: Option<RoutePath> = "path",
        headers: Option<Vec<FieldMatch>> = "headers",
        query: Option<Vec<FieldMatch>> = "queryParams",
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
        kind: Option<RoutePathType> = "type",
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
        kind: Option<FieldType> = "type",
        name: At<String> = "name",
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
        kind: At<FilterType> = "type",
        request_headers: Option<At<HeaderFilter>> = "requestHeaderModifier",
        response_headers: Option<At<HeaderFilter>> = "responseHeaderModifier",
        redirect: Option<At<Redirect>> = "requestRedirect",
        rewrite: Option<At<UrlRewrite>> = "urlRewrite",
        mirror: Option<At<Mirror>> = "requestMirror",
    }
    later ["extensionRef", "cors", "externalAuth"]
}

table! {
    /// `requestHeaderModifier`, `responseHeaderModifier`
    HeaderFilter {
        set: Option<Vec<HeaderEdit>> = "set",
        add: Option<Vec<HeaderEdit>> = "add",
        remove: Option<Vec<At<String>>> = "remove",
    }
}

table! {
    /// `set[]`, `add[]`
    HeaderEdit {
        name: At<String> = "name",
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
        scheme: Option<Scheme> = "scheme",
        hostname: Option<At<String>> = "hostname",
        path: Option<PathModifier> = "path",
        port: Option<Port> = "port",
        status_code: Option<At<u32>> = "statusCode",
    }
}

table! {
    /// `urlRewrite`
    UrlRewrite {
        hostname: Option<At<String>> = "hostname",
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
        kind: At<PathModifierType> = "type",
        full: Option<At<AnyText>> = "replaceFullPath",
        prefix: Option<At<AnyText>> = "replacePrefixMatch",
    }
}

table! {
    /// `requestMirror`
    Mirror {
        backend_ref: BackendRef = "backendRef",
        percent: Option<At<Count>> = "percent",
        fraction: Option<Fraction> = "fraction",
    }
}

table! {
    /// `requestMirror.fraction`
    Fraction {
        numerator: At<u32> = "numerator",
        denominator: Option<At<u32>> = "denominator",
    }
}

table! {
    /// `httpRoute.rules[].backendRefs[]`
    BackendRef {
        group: Option<At<AnyText>> = "group",
        kind: Option<At<String>> = "kind",
        namespace: Option<At<String>> = "namespace",
        name: At<String> = "name",
        port: At<Port> = "port",
        weight: Option<At<u32>> = "weight",
    }
    later ["filters"]
}

table! {
    /// `httpRoute.rules[].timeouts`
    Timeouts {
        request: Option<At<Millis>> = "request",
        backend_request: Option<At<Millis>> = "backendRequest",
        /// Ours: how long nothing may move.
        idle: Option<At<Millis>> = "idle",
        /// Ours: how long an exchange may take, also one whose answer goes on.
        stream: Option<At<Millis>> = "stream",
    }
}

table! {
    /// `httpRoute.rules[].retry` (GEP-1731)
    Retry {
        codes: Option<Vec<At<u32>>> = "codes",
        attempts: Option<At<Count>> = "attempts",
        backoff: Option<At<Millis>> = "backoff",
        /// Ours: also requests that may not be repeated by their method.
        any_method: Option<At<bool>> = "dangerous_anyMethod",
    }
}
