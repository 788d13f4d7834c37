//! Workload tokens: the ES256 key, its key set, and the JWTs that it signs.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::KeyPair;
use rustls::pki_types::UnixTime;
use serde::Serialize;
use zeroize::Zeroizing;

use super::{IssueError, ca};
use crate::identity::pem;
use crate::vocab::spiffe::{SpiffeId, TrustDomain};

/// A P-256 coordinate.
const COORDINATE_BYTES: usize = 32;

/// The key that signs workload tokens.
pub(super) struct TokenKey {
    der: Zeroizing<Vec<u8>>,
    signing: EncodingKey,
    kid: String,
    x: String,
    y: String,
}

#[derive(Serialize)]
struct Claims<'a> {
    iss: String,
    sub: &'a str,
    aud: Audience<'a>,
    iat: u64,
    exp: u64,
}

/// One audience is a string, as Kubernetes and Istio write it; several are a list (RFC 7519 section 4.1.3).
#[derive(Serialize)]
#[serde(untagged)]
enum Audience<'a> {
    One(&'a str),
    Several(&'a [String]),
}

impl TokenKey {
    pub(super) fn generate() -> Result<Self, IssueError> {
        let pair = KeyPair::generate().map_err(IssueError::Certificate)?;
        Self::new(&pair).ok_or(IssueError::Certificate(rcgen::Error::CouldNotParseKeyPair))
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        Self::new(&ca::key_block(text.as_bytes())?)
    }

    fn new(pair: &KeyPair) -> Option<Self> {
        use rcgen::PublicKeyData as _;
        // An uncompressed point: 4, x, y (SEC 1 section 2.3.3).
        let (&form, point) = pair.der_bytes().split_first()?;
        let (x, y) = point.split_at_checked(COORDINATE_BYTES)?;
        if form != 4 || y.len() != COORDINATE_BYTES {
            return None;
        }
        let (x, y) = (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y));
        // JWK thumbprint (RFC 7638 section 3): the members in this order, without spaces.
        let thumbprint = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, thumbprint.as_bytes());
        let der = Zeroizing::new(pair.serialize_der());
        Some(Self {
            signing: EncodingKey::from_ec_der(&der),
            der,
            kid: URL_SAFE_NO_PAD.encode(digest),
            x,
            y,
        })
    }

    pub(super) fn key_pem(&self) -> Zeroizing<String> {
        pem::encode_key(&self.der)
    }

    pub(super) fn sign(
        &self,
        trust_domain: &TrustDomain,
        id: &SpiffeId,
        audiences: &[String],
        ttl: Duration,
        now: UnixTime,
    ) -> Result<String, IssueError> {
        let mut header = Header::new(Algorithm::ES256);
        header.kid = Some(self.kid.clone());
        let claims = Claims {
            iss: format!("https://{trust_domain}"),
            sub: id.as_str(),
            aud: match audiences {
                [one] => Audience::One(one),
                several => Audience::Several(several),
            },
            iat: now.as_secs(),
            exp: now.as_secs().saturating_add(ttl.as_secs()),
        };
        jsonwebtoken::encode(&header, &claims, &self.signing).map_err(IssueError::Token)
    }

    pub(super) fn jwks(&self) -> String {
        let Self { kid, x, y, .. } = self;
        serde_json::json!({"keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": kid, "x": x, "y": y,
        }]})
        .to_string()
    }
}
