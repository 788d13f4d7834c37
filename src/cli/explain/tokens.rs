//! Tokens of a call: verified by the code of the data path, with the keys that are at hand.

use std::sync::Arc;

use anyhow::{Context, bail};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Map, Value, json};

use super::CallArgs;
use crate::cli::os;
use crate::config::checked::Mesh;
use crate::jwt::model::KeySource;
use crate::jwt::{
    HeaderEdits, KeyLookup, KeySet, TokenError, TokenOutcome, TokenRules, authenticate,
};
use crate::policy::Request;
use crate::vocab::claims::Claims;

/// A P-256 coordinate.
const COORDINATE_BYTES: usize = 32;
/// What replaces the key sources of all rules where claims stand for a verified token.
const ASSUMED: &str = "https://assumed.invalid/jwks.json";

/// Verifies the tokens of a call.
#[derive(Debug)]
pub(super) struct Verifier {
    keys: Keys,
    /// The token to send.
    token: Option<String>,
    /// Keys that a rule asked for and that are not here.
    missing: Vec<String>,
    now: i64,
}

#[derive(Debug)]
struct Keys(Option<KeySet>);

impl KeyLookup for Keys {
    fn key_set(&self, _source: &KeySource) -> Option<&KeySet> {
        self.0.as_ref()
    }

    fn generation(&self) -> u64 {
        0
    }
}

impl Verifier {
    /// Reads the keys. Claims become a token of a key made now, which every rule of `mesh` is made to believe.
    pub(super) fn new(args: &CallArgs, mesh: &mut Arc<Mesh>) -> anyhow::Result<Self> {
        let now = super::question::time(args)?;
        let mut this = Self {
            keys: Keys(None),
            token: args.token.clone(),
            missing: Vec::new(),
            now,
        };
        if let Some(path) = &args.jwks {
            let text = os::read_text(path)?;
            let set = KeySet::parse(&text);
            this.keys.0 = Some(set.with_context(|| format!("`{}` is no key set", path.display()))?);
        }
        if let Some(text) = &args.claims {
            if args.jwks.is_some() {
                bail!("`--claims` stands for a token that verifies; `--jwks` is for `--token`");
            }
            let (token, keys) = mint(text)?;
            this.keys.0 = Some(keys);
            this.token = Some(token);
            believe(Arc::make_mut(mesh));
        }
        Ok(this)
    }

    /// The token that the request carries.
    pub(super) fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Verifies the request's tokens; `known` are claims that were verified when a record was made.
    pub(super) fn verify(
        &mut self,
        rules: &TokenRules,
        request: &Request,
        known: Option<&Claims>,
    ) -> TokenOutcome {
        if let Some(claims) = known {
            return TokenOutcome::Valid {
                claims: claims.clone(),
                edits: HeaderEdits::default(),
            };
        }
        let path = request.path.as_ref();
        let outcome = authenticate(rules, &self.keys, &request.headers, path, self.now);
        if let TokenOutcome::Invalid {
            error: TokenError::KeysUnavailable,
            ..
        } = &outcome
        {
            for source in rules.key_sources() {
                if let KeySource::Uri(uri) | KeySource::Discovery(uri) = source
                    && !self.missing.contains(uri)
                {
                    self.missing.push(uri.clone());
                }
            }
        }
        outcome
    }

    /// What the answer depends on.
    pub(super) fn notes(&self) -> Vec<String> {
        let note = |uri: &String| {
            format!("the keys of {uri} are not here; give them with --jwks FILE, or give --claims")
        };
        self.missing.iter().map(note).collect()
    }
}

/// A token with these claims, and the key set that verifies it.
fn mint(text: &str) -> anyhow::Result<(String, KeySet)> {
    let claims: Map<String, Value> =
        serde_json::from_str(text).context("`--claims` is not a JSON object")?;
    let pair = KeyPair::generate()?;
    // An uncompressed point: 4, x, y (SEC 1 section 2.3.3).
    let (x, y) = pair
        .der_bytes()
        .get(1..)
        .and_then(|point| point.split_at_checked(COORDINATE_BYTES))
        .context("the key made is no point")?;
    let keys = json!({"keys": [{
        "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig",
        "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
    }]});
    let signing = EncodingKey::from_ec_der(&pair.serialize_der());
    let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &signing)?;
    Ok((token, KeySet::parse(&keys.to_string())?))
}

/// Every rule takes its keys from one place, and looks for tokens where they are by default.
fn believe(mesh: &mut Mesh) {
    for rule in mesh
        .request_authentications
        .iter_mut()
        .flat_map(|r| &mut r.rules)
    {
        rule.keys = KeySource::Uri(ASSUMED.to_owned());
        rule.from_headers.clear();
        rule.from_params.clear();
        rule.from_cookies.clear();
    }
}
