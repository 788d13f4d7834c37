//! What stands beside the cases: the key that signs their tokens, key sets and trust bundles.

use std::path::{Path, PathBuf};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::cli::cases::json::Broken;
use crate::cli::os;
use crate::identity::bundle::TrustBundles;
use crate::identity::pem;
use crate::jwt::KeySet;
use crate::vocab::spiffe::TrustDomain;

/// File names that are looked for beside a test file.
const KEY_SET_FILE: &str = "jwks.json";
const BUNDLES_FILE: &str = "spiffe_bundle.json";

/// The time of cases that name none, in seconds since 1970.
pub(super) const NOW_UNIX_S: i64 = 1_763_800_000;

/// One run's key and files.
#[derive(Debug)]
pub(super) struct Harness {
    key: EcdsaKeyPair,
    random: SystemRandom,
    trusted: KeySet,
    jwks: Companion,
    bundles: Companion,
}

/// A file that cases refer to.
#[derive(Debug)]
struct Companion {
    /// Named by an option: it alone counts.
    option: Option<PathBuf>,
    /// Found among the files that were given.
    given: Option<PathBuf>,
    beside: &'static str,
    /// The option that names it.
    by: &'static str,
}

impl Companion {
    fn read(&self, test_file: &Path) -> Broken<Value> {
        let beside = test_file.with_file_name(self.beside);
        let path = match (&self.option, &self.given) {
            (Some(path), _) => path,
            (None, _) if beside.is_file() => &beside,
            (None, Some(path)) => path,
            (None, None) => {
                let (beside, by) = (beside.display(), self.by);
                return Err(format!("there is no `{beside}`; name the file by `{by}`"));
            }
        };
        let text = os::read_text(path).map_err(|error| format!("{error:#}"))?;
        serde_json::from_str(&text).map_err(|error| format!("`{}`: {error}", path.display()))
    }
}

impl Harness {
    /// Makes a key that lives as long as the run.
    pub(super) fn new(
        jwks: Option<PathBuf>,
        bundle: Option<PathBuf>,
        given_jwks: Option<PathBuf>,
        given_bundle: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|error| anyhow::anyhow!("no key: {error}"))?;
        // 0x04, then both coordinates (SEC 1 section 2.3.3).
        let coordinates = key.public_key().as_ref().get(1..).unwrap_or_default();
        let (x, y) = coordinates.split_at(coordinates.len() / 2);
        let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let set = json!({ "keys": [{ "kty": "EC", "crv": "P-256", "alg": "ES256", "x": encode(x), "y": encode(y) }] });
        Ok(Self {
            trusted: KeySet::parse(&set.to_string())?,
            key,
            random: SystemRandom::new(),
            jwks: Companion {
                option: jwks,
                given: given_jwks,
                beside: KEY_SET_FILE,
                by: "--jwks",
            },
            bundles: Companion {
                option: bundle,
                given: given_bundle,
                beside: BUNDLES_FILE,
                by: "--bundle",
            },
        })
    }

    /// The key set that verifies what `sign` signs.
    pub(super) fn trusted(&self) -> &KeySet {
        &self.trusted
    }

    /// A signed token with this payload; with a signature that does not fit unless `valid`.
    pub(super) fn sign(&self, payload: &Value, valid: bool) -> Broken<String> {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!(
            "{}.{}",
            part(&json!({ "alg": "ES256", "typ": "JWT" })),
            part(payload)
        );
        let signature = self
            .key
            .sign(&self.random, signed.as_bytes())
            .map_err(|error| format!("token cannot be signed: {error}"))?;
        let mut signature = signature.as_ref().to_vec();
        if !valid && let Some(first) = signature.first_mut() {
            *first ^= 1;
        }
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// The key set of these names. A document with a list of keys knows them by `kid`.
    pub(super) fn key_set(&self, names: &[String], test_file: &Path) -> Broken<KeySet> {
        let document = self.jwks.read(test_file)?;
        let named = |name: &String| {
            let found = match document.get("keys") {
                Some(Value::Object(by_name)) => by_name.get(name),
                Some(Value::Array(list)) => list
                    .iter()
                    .find(|key| key.get("kid").and_then(Value::as_str) == Some(name)),
                Some(_) | None => None,
            };
            found
                .cloned()
                .ok_or_else(|| format!("key `{}` is not in the key set", name.escape_debug()))
        };
        let keys: Vec<Value> = names.iter().map(named).collect::<Result<_, _>>()?;
        KeySet::parse(&json!({ "keys": keys }).to_string()).map_err(|error| error.to_string())
    }

    /// The roots of every trust domain.
    pub(super) fn bundles(&self, test_file: &Path) -> Broken<TrustBundles> {
        let document = self.bundles.read(test_file)?;
        let mut bundles = TrustBundles::new();
        for (name, roots) in document.as_object().into_iter().flatten() {
            let domain = TrustDomain::parse(name).map_err(|error| format!("`{name}`: {error}"))?;
            for root in roots.as_array().into_iter().flatten() {
                let text = root.as_str().unwrap_or_default();
                let fail = |why: String| format!("bundle of `{name}`: {why}");
                let ders = pem::certificates(text.as_bytes()).map_err(|e| fail(e.to_string()))?;
                for der in ders {
                    bundles
                        .add(&domain, &der)
                        .map_err(|e| fail(e.to_string()))?;
                }
            }
        }
        Ok(bundles)
    }
}
