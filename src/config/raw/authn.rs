//! `[[peerAuthentication]]` and `[[requestAuthentication]]`.

use crate::config::document::Value;
use crate::config::place::{At, Place, Problems};
use crate::config::raw::mesh::Labels;
use crate::config::raw::policy::{Selector, TargetRef};
use crate::config::read::{AnyText, Map, MaybeEmpty, Millis, Read, mismatch, table, words};
use crate::config::shape::Shape;
use crate::policy::model::MtlsMode;

words!(MtlsMode, "one of STRICT, PERMISSIVE, DISABLE, UNSET",
    "STRICT" => Self::Strict, "PERMISSIVE" => Self::Permissive, "DISABLE" => Self::Disable, "UNSET" => Self::Unset);

table! {
    /// `[[peerAuthentication]]`
    PeerAuthentication {
        /// Name, one of its kind and namespace.
        /// Example: `"strict"`
        name: At<String> = "name",
        /// Namespace.
        /// Default: `"default"`
        namespace: Option<At<String>> = "namespace",
        /// Holds for workloads with these labels.
        selector: Option<At<Selector>> = "selector",
        /// What holds for all ports.
        mtls: Option<Mtls> = "mtls",
        /// What holds for a port, by its number.
        port_level_mtls: Option<At<Map<Mtls>>> = "portLevelMtls",
        /// Kubernetes writes it; of two for one scope the older one holds.
        created: Option<Created> = "creationTimestamp",
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
    fn shape() -> Shape {
        Shape::Text {
            pattern: Some("^[0-9]{4}(-[0-9]{2}){2}T[0-9]{2}(:[0-9]{2}){2}Z$"),
            sample: "2025-01-31T12:00:00Z",
        }
    }
}

table! {
    /// `mtls`
    Mtls {
        /// Whether plaintext is accepted; `UNSET` leaves it to the next wider scope.
        /// Default: `"UNSET"`
        mode: Option<MtlsMode> = "mode",
    }
}

table! {
    /// `[[requestAuthentication]]`
    RequestAuthentication {
        /// Name, one of its kind and namespace.
        /// Example: `"tokens"`
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
        /// An issuer whose tokens are valid.
        jwt_rules: Option<MaybeEmpty<JwtRule>> = "jwtRules",
    }
    unused {
        /// Labels of the resource; read by no check, as Kubernetes writes them.
        /// Example: `{ team = "shop" }`
        "labels": Labels,
    }
}

table! {
    /// `jwtRules[]`
    JwtRule {
        /// Claim `iss` of its tokens.
        /// Example: `"https://auth.example.com"`
        issuer: Option<At<AnyText>> = "issuer",
        /// Claim `aud` must have one of these.
        /// Default: any
        /// Example: `["portal"]`
        audiences: Option<Vec<At<String>>> = "audiences",
        /// Where the keys are.
        /// Default: by OpenID discovery
        /// Example: `"https://auth.example.com/keys"`
        jwks_uri: Option<At<String>> = "jwksUri",
        /// The keys themselves, JSON.
        /// Example: `'{"keys":[]}'`
        jwks: Option<At<AnyText>> = "jwks",
        /// A header field that has the token.
        from_headers: Option<Vec<TokenHeader>> = "fromHeaders",
        /// Query parameters that have the token.
        /// Example: `["access_token"]`
        from_params: Option<Vec<At<String>>> = "fromParams",
        /// Cookies that have the token.
        /// Example: `["session"]`
        from_cookies: Option<Vec<At<String>>> = "fromCookies",
        /// Whether the token is sent on.
        /// Default: `false`
        forward_original_token: Option<bool> = "forwardOriginalToken",
        /// Header field that the claims are sent on in, base64url.
        /// Example: `"x-jwt-payload"`
        output_payload_to_header: Option<At<String>> = "outputPayloadToHeader",
        /// Sends a claim on in a header field of its own.
        output_claim_to_headers: Option<Vec<ClaimToHeader>> = "outputClaimToHeaders",
        /// Time for fetching keys.
        /// Default: `"5s"`
        timeout: Option<At<Millis>> = "timeout",
        /// Claims that are lists separated by spaces, beside `scope` and `permission`.
        /// Example: `["roles"]`
        space_delimited_claims: Option<Vec<String>> = "spaceDelimitedClaims",
        /// Refuses tokens without `exp`.
        /// Default: `false`
        require_expiration: Option<bool> = "requireExpiration",
        /// Fetches keys without TLS.
        /// Default: `false`
        allow_http: Option<bool> = "dangerous_allowInsecure",
        /// Fetches keys from addresses of the inside.
        /// Default: `false`
        allow_private: Option<bool> = "dangerous_allowPrivateAddresses",
    }
}

table! {
    /// `jwtRules[].fromHeaders[]`
    TokenHeader {
        /// Name of the field.
        /// Example: `"x-token"`
        name: At<String> = "name",
        /// What stands before the token.
        /// Example: `"Bearer "`
        prefix: Option<AnyText> = "prefix",
    }
}

table! {
    /// `jwtRules[].outputClaimToHeaders[]`
    ClaimToHeader {
        /// Name of the field.
        /// Example: `"x-user"`
        header: At<String> = "header",
        /// Claim; nested ones by points.
        /// Example: `"sub"`
        claim: At<String> = "claim",
    }
}
