//! `[[peerAuthentication]]` and `[[requestAuthentication]]`.

use crate::config::place::At;
use crate::config::raw::mesh::Labels;
use crate::config::raw::policy::{Selector, TargetRef};
use crate::config::read::{AnyText, Map, MaybeEmpty, Millis, table, words};
use crate::policy::model::MtlsMode;

words!(MtlsMode, "one of STRICT, PERMISSIVE, DISABLE, UNSET",
    "STRICT" => Self::Strict, "PERMISSIVE" => Self::Permissive, "DISABLE" => Self::Disable, "UNSET" => Self::Unset);

table! {
    /// `[[peerAuthentication]]`
    PeerAuthentication {
        name: At<String> = "name",
        namespace: Option<At<String>> = "namespace",
        selector: Option<At<Selector>> = "selector",
        mtls: Option<Mtls> = "mtls",
        port_level_mtls: Option<At<Map<Mtls>>> = "portLevelMtls",
    }
    unused { "labels": Labels, "annotations": Labels }
}

table! {
    /// `mtls`
    Mtls {
        mode: Option<MtlsMode> = "mode",
    }
}

table! {
    /// `[[requestAuthentication]]`
    RequestAuthentication {
        name: At<String> = "name",
        namespace: Option<At<String>> = "namespace",
        annotations: Option<Labels> = "annotations",
        selector: Option<At<Selector>> = "selector",
        target_ref: Option<At<TargetRef>> = "targetRef",
        target_refs: Option<At<Vec<TargetRef>>> = "targetRefs",
        jwt_rules: Option<MaybeEmpty<JwtRule>> = "jwtRules",
    }
    unused { "labels": Labels }
}

table! {
    /// `jwtRules[]`
    JwtRule {
        issuer: Option<At<String>> = "issuer",
        audiences: Option<Vec<At<String>>> = "audiences",
        jwks_uri: Option<At<String>> = "jwksUri",
        jwks: Option<At<AnyText>> = "jwks",
        from_headers: Option<Vec<TokenHeader>> = "fromHeaders",
        from_params: Option<Vec<At<String>>> = "fromParams",
        from_cookies: Option<Vec<At<String>>> = "fromCookies",
        forward_original_token: Option<bool> = "forwardOriginalToken",
        output_payload_to_header: Option<At<String>> = "outputPayloadToHeader",
        output_claim_to_headers: Option<Vec<ClaimToHeader>> = "outputClaimToHeaders",
        timeout: Option<At<Millis>> = "timeout",
        space_delimited_claims: Option<Vec<String>> = "spaceDelimitedClaims",
        require_expiration: Option<bool> = "requireExpiration",
    }
}

table! {
    /// `jwtRules[].fromHeaders[]`
    TokenHeader {
        name: At<String> = "name",
        prefix: Option<AnyText> = "prefix",
    }
}

table! {
    /// `jwtRules[].outputClaimToHeaders[]`
    ClaimToHeader {
        header: At<String> = "header",
        claim: At<String> = "claim",
    }
}
