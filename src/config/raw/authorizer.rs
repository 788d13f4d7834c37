//! `[[extensionProvider]]` of the kinds that ask an external authorizer.

use crate::config::place::At;
use crate::config::raw::mesh::Labels;
use crate::config::read::{MaybeEmpty, Millis, Port, Status, table};

table! {
    /// `extensionProvider.envoyExtAuthzHttp`
    EnvoyExtAuthzHttp {
        /// `[namespace/]host` of a service entry.
        /// Example: `"opa.example.test"`
        service: At<String> = "service",
        /// One of its ports.
        /// Example: `9191`
        port: At<Port> = "port",
        /// Time for connecting, asking and the answer, at most 10m.
        /// Default: `"600s"`
        timeout: Option<At<Millis>> = "timeout",
        /// Put before the path of the question.
        /// Example: `"/check"`
        path_prefix: Option<At<String>> = "pathPrefix",
        /// Whether requests go on when it cannot be asked.
        /// Default: `false`
        fail_open: Option<At<bool>> = "failOpen",
        /// What the client gets when it cannot be asked.
        /// Default: `"403"`
        status_on_error: Option<At<Status>> = "statusOnError",
        /// Header fields that are sent: `x-a`, `x-*`, `*-a`.
        /// Default: `authorization` alone
        /// Example: `["cookie"]`
        request_headers: Option<MaybeEmpty<At<String>>> = "includeRequestHeadersInCheck",
        /// Fixed fields that are sent.
        /// Example: `{ x-gateway = "edge" }`
        additional_headers: Option<Labels> = "includeAdditionalHeadersInCheck",
        /// Sends the body along.
        body: Option<BodyCheck> = "includeRequestBodyInCheck",
        /// Fields of a yes that the request gets.
        /// Example: `["x-user"]`
        to_upstream: Option<MaybeEmpty<At<String>>> = "headersToUpstreamOnAllow",
        /// Fields of a yes that the client gets.
        /// Example: `["set-cookie"]`
        to_downstream_on_allow: Option<MaybeEmpty<At<String>>> = "headersToDownstreamOnAllow",
        /// Fields of a no that the client gets.
        /// Default: all
        /// Example: `["set-cookie"]`
        to_downstream_on_deny: Option<Vec<At<String>>> = "headersToDownstreamOnDeny",
        /// Has no effect: no authorizer changes a route.
        /// Default: `false`
        clear_route_cache: Option<At<bool>> = "clearRouteCache",
    }
    later ["includeHeadersInCheck"]
}

table! {
    /// `extensionProvider.envoyExtAuthzGrpc`
    EnvoyExtAuthzGrpc {
        /// `[namespace/]host` of a service entry.
        /// Example: `"opa.example.test"`
        service: At<String> = "service",
        /// One of its ports.
        /// Example: `9191`
        port: At<Port> = "port",
        /// Time for connecting, asking and the answer, at most 10m.
        /// Default: `"600s"`
        timeout: Option<At<Millis>> = "timeout",
        /// Whether requests go on when it cannot be asked.
        /// Default: `false`
        fail_open: Option<At<bool>> = "failOpen",
        /// What the client gets when it cannot be asked.
        /// Default: `"403"`
        status_on_error: Option<At<Status>> = "statusOnError",
        /// Sends the body along.
        body: Option<BodyCheck> = "includeRequestBodyInCheck",
        /// Has no effect: no authorizer changes a route.
        /// Default: `false`
        clear_route_cache: Option<At<bool>> = "clearRouteCache",
    }
}

table! {
    /// `includeRequestBodyInCheck`
    BodyCheck {
        /// Bytes that are sent, at most 1048576.
        /// Example: `8192`
        max_request_bytes: At<u32> = "maxRequestBytes",
        /// Sends the beginning of a longer body, which otherwise is answered 413.
        /// Default: `false`
        allow_partial_message: Option<bool> = "allowPartialMessage",
        /// Sends bytes instead of text (gRPC).
        /// Default: `false`
        pack_as_bytes: Option<bool> = "packAsBytes",
    }
}
