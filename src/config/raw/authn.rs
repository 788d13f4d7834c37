//! `[[peerAuthentication]]` and `[[requestAuthentication]]`.

use crate::config::document::Value;
use crate::config::place::{At, Place, Problems};
use crate::config::raw::mesh::Labels;
use crate::config::raw::policy::{Selector, TargetRef};
use crate::config::read::{AnyText, Map, MaybeEmpty, Millis, Read, mismatch, table, words};
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
        /// Kubernetes writes it; between two of one scope the older one holds.
        created: Option<Created> = "creationTimestamp",
    }
    unused { "labels": Labels, "annotations": Labels }
}

/// `metadata.creationTimestamp` as the API server writes it; in this form the order of texts is the order of times.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Created(pub(crate) String);

impl Read for Created {
    const EXPECTED: &'static str = "a time in UTC such as \"2025-01-31T12:00:00Z\"";
    fn read(value: &Value, place: &Place, out: &mut Problems) -> Option<Self> {
        let Some(text) = value.text() else {
            mismatch::<Self>(value, place, out);
            return None;
        };
        let form = |(b, f): (u8, u8)| {
            if f == b'0' {
                b.is_ascii_digit()
            } else {
                b == f
            }
        };
        let shape = b"0000-00-00T00:00:00Z";
        if text.len() != shape.len() || !text.bytes().zip(*shape).all(form) {
            out.error(
                place,
                format!("`{}` is not {}", text.escape_debug(), Self::EXPECTED),
            );
            return None;
        }
        Some(Self(text.to_owned()))
    }
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
        issuer: Option<At<AnyText>> = "issuer",
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
        allow_http: Option<bool> = "dangerous_allowInsecure",
        allow_private: Option<bool> = "dangerous_allowPrivateAddresses",
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
