//! `[[extensionProvider]]` of the kinds that ask an external authorizer.

use crate::config::place::At;
use crate::config::raw::mesh::Labels;
use crate::config::read::{MaybeEmpty, Millis, Port, Status, table};

table! {
    /// `extensionProvider.envoyExtAuthzHttp`
    EnvoyExtAuthzHttp {
        service: At<String> = "service",
        port: At<Port> = "port",
        timeout: Option<At<Millis>> = "timeout",
        path_prefix: Option<At<String>> = "pathPrefix",
        fail_open: Option<At<bool>> = "failOpen",
        status_on_error: Option<At<Status>> = "statusOnError",
        request_headers: Option<MaybeEmpty<At<String>>> = "includeRequestHeadersInCheck",
        additional_headers: Option<Labels> = "includeAdditionalHeadersInCheck",
        body: Option<BodyCheck> = "includeRequestBodyInCheck",
        to_upstream: Option<MaybeEmpty<At<String>>> = "headersToUpstreamOnAllow",
        to_downstream_on_allow: Option<MaybeEmpty<At<String>>> = "headersToDownstreamOnAllow",
        to_downstream_on_deny: Option<Vec<At<String>>> = "headersToDownstreamOnDeny",
        clear_route_cache: Option<At<bool>> = "clearRouteCache",
    }
    later ["includeHeadersInCheck"]
}

table! {
    /// `extensionProvider.envoyExtAuthzGrpc`
    EnvoyExtAuthzGrpc {
        service: At<String> = "service",
        port: At<Port> = "port",
        timeout: Option<At<Millis>> = "timeout",
        fail_open: Option<At<bool>> = "failOpen",
        status_on_error: Option<At<Status>> = "statusOnError",
        body: Option<BodyCheck> = "includeRequestBodyInCheck",
        clear_route_cache: Option<At<bool>> = "clearRouteCache",
    }
}

table! {
    /// `includeRequestBodyInCheck`
    BodyCheck {
        max_request_bytes: At<u32> = "maxRequestBytes",
        allow_partial_message: Option<bool> = "allowPartialMessage",
        pack_as_bytes: Option<bool> = "packAsBytes",
    }
}
