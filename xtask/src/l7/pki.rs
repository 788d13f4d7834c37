//! Certificates and tokens of the L7 bench: one root of the mesh with an issuing certificate below it, one root of the
//! outside; P-256 throughout. Tokens of RS256 and ES256.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use aws_lc_rs::encoding::{AsDer as _, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256,
};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, date_time_ymd,
};
use serde_json::{Value, json};

/// Who is allowed.
pub(crate) const CALLER: &str = "frontend-service";
/// Who is not.
pub(crate) const OTHER: &str = "reviews-service";
/// Identities of the mesh.
const ACCOUNTS: [&str; 5] = [
    CALLER,
    OTHER,
    "customer-api",
    "ingress-gateway",
    "egress-gateway",
];
/// Name of the server that browsers see.
pub(crate) const EDGE: &str = "api.example.test";
/// Name of the server outside.
pub(crate) const EXTERNAL: &str = "external.example.test";

const ISSUER: &str = "https://issuer.example.test";
/// End of validity: 2100, in seconds since 1970.
const FAR: u64 = 4_102_444_800;

/// What was written, and the tokens.
#[derive(Debug)]
pub(crate) struct Pki {
    /// `NAME/cert-chain.pem`, `key.pem`, `root-cert.pem`, `both.pem`; `mesh.pem`, `outside.pem`; `jwks.json`,
    /// `rs256.pem`, `es256.pem`.
    pub(crate) directory: PathBuf,
    /// The key set, on one line.
    pub(crate) jwks: String,
    /// Signed with RS256.
    pub(crate) rs256: String,
    /// Signed with ES256.
    pub(crate) es256: String,
}

/// SPIFFE ID of an account.
pub(crate) fn id(account: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
}

/// The URI name of an account's certificate as it stands in there (tag 6 of GeneralName, length, text), in hexadecimal.
pub(crate) fn id_der(account: &str) -> String {
    let id = id(account);
    let mut text = format!("86{:02X}", id.len());
    for byte in id.bytes() {
        let written = write!(text, "{byte:02X}");
        debug_assert!(written.is_ok(), "a String takes all");
    }
    text
}

impl Pki {
    /// Makes everything anew.
    pub(crate) fn write(directory: &Path) -> Result<Self> {
        let mesh = root("bench mesh root")?;
        let outside = root("bench outside root")?;
        let issuing = issuing(&mesh)?;
        for account in ACCOUNTS {
            let names = vec![SanType::URI(id(account).try_into()?)];
            leaf(directory, account, names, (&issuing, true), &mesh)?;
        }
        for (name, host) in [("edge", EDGE), ("external", EXTERNAL)] {
            let names = vec![SanType::DnsName(host.try_into()?)];
            leaf(directory, name, names, (&outside, false), &outside)?;
        }
        fs::write(directory.join("mesh.pem"), mesh.pem())?;
        fs::write(directory.join("outside.pem"), outside.pem())?;
        tokens(directory)
    }
}

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn params(name: &str, organisation: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2099, 1, 1);
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, organisation);
    if organisation == MESH {
        subject.push(DnType::OrganizationalUnitName, "default");
    }
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    params.use_authority_key_identifier_extension = true;
    params
}

const MESH: &str = "cluster.local";

fn ca(name: &str, organisation: &str) -> CertificateParams {
    let mut params = params(name, organisation);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn root(name: &str) -> Result<Issuer> {
    Ok(CertifiedIssuer::self_signed(
        ca(name, "bench"),
        KeyPair::generate()?,
    )?)
}

fn issuing(root: &Issuer) -> Result<Issuer> {
    let mut params = ca("bench issuing", "bench");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.subject_alt_names = vec![SanType::URI("spiffe://cluster.local".try_into()?)];
    Ok(CertifiedIssuer::signed_by(
        params,
        KeyPair::generate()?,
        root,
    )?)
}

/// Writes the files of one identity.
fn leaf(
    directory: &Path,
    name: &str,
    names: Vec<SanType>,
    (issuer, of_mesh): (&Issuer, bool),
    root: &Issuer,
) -> Result<()> {
    let organisation = if of_mesh { MESH } else { "bench" };
    let mut params = params(name, organisation);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.subject_alt_names = names;
    let key = KeyPair::generate()?;
    let mut chain = params.signed_by(&key, issuer)?.pem();
    if of_mesh {
        chain.push_str(&issuer.pem());
    }
    let directory = directory.join(name);
    fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
    let key = key.serialize_pem();
    fs::write(directory.join("both.pem"), format!("{chain}{key}"))?;
    fs::write(directory.join("cert-chain.pem"), chain)?;
    fs::write(directory.join("key.pem"), key)?;
    fs::write(directory.join("root-cert.pem"), root.pem())?;
    Ok(())
}

fn tokens(directory: &Path) -> Result<Pki> {
    let random = SystemRandom::new();
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048)?;
    let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
    let rs256 = {
        let signed = signing_input("RS256", "rs");
        let mut signature = vec![0; rsa.public_modulus_len()];
        rsa.sign(
            &RSA_PKCS1_SHA256,
            &random,
            signed.as_bytes(),
            &mut signature,
        )?;
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    let es256 = {
        let signed = signing_input("ES256", "es");
        let signature = ec.sign(&random, signed.as_bytes())?;
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    };
    let (n, e) = rsa_numbers(rsa.public_key().as_ref()).context("an RSA key")?;
    let number = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    // An uncompressed point: a byte of 4, then both coordinates.
    let point = ec.public_key().as_ref();
    let (x, y) = point
        .get(1..)
        .and_then(|both| both.split_at_checked(32))
        .context("a point of P-256")?;
    let jwks = json!({"keys": [
        {"kty": "RSA", "kid": "rs", "use": "sig", "alg": "RS256",
         "n": number(n), "e": number(e)},
        {"kty": "EC", "kid": "es", "use": "sig", "alg": "ES256", "crv": "P-256", "x": number(x), "y": number(y)},
    ]})
    .to_string();
    let der: PublicKeyX509Der<'_> = rsa.public_key().as_der()?;
    fs::write(directory.join("rs256.pem"), public_pem(der.as_ref()))?;
    let der: PublicKeyX509Der<'_> = ec.public_key().as_der()?;
    fs::write(directory.join("es256.pem"), public_pem(der.as_ref()))?;
    fs::write(directory.join("jwks.json"), &jwks)?;
    Ok(Pki {
        directory: directory.to_owned(),
        jwks,
        rs256,
        es256,
    })
}

/// Modulus and exponent of a `RSAPublicKey` (RFC 8017, A.1.1): a sequence of two integers.
fn rsa_numbers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (sequence, _) = value(der, 0x30)?;
    let (n, rest) = value(sequence, 0x02)?;
    let (e, _) = value(rest, 0x02)?;
    let unsigned = |number: &'_ [u8]| number.iter().position(|byte| *byte != 0);
    Some((n.get(unsigned(n)?..)?, e.get(unsigned(e)?..)?))
}

/// The content of the first DER value, which has this tag, and what follows it.
fn value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let [found, length, rest @ ..] = der else {
        return None;
    };
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        _ => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            let length = bytes
                .iter()
                .fold(0, |so_far, byte| so_far * 256 + usize::from(*byte));
            (length, rest)
        }
    };
    rest.split_at_checked(length).filter(|_| *found == tag)
}

/// Header and claims of a token, ready to be signed.
fn signing_input(algorithm: &str, key: &str) -> String {
    let header = json!({"alg": algorithm, "kid": key, "typ": "JWT"});
    let claims = json!({
        "iss": ISSUER,
        "aud": "customer-api",
        "sub": "user-1",
        "iat": 1_700_000_000,
        "exp": FAR,
        "groups": ["admins", "staff"],
        "scope": "orders:read orders:write",
        "email": "user1@example.test",
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(&header), part(&claims))
}

/// SubjectPublicKeyInfo as PEM (RFC 7468).
fn public_pem(der: &[u8]) -> String {
    let base64 = STANDARD.encode(der);
    let mut text = String::from("-----BEGIN PUBLIC KEY-----\n");
    for line in base64.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str("-----END PUBLIC KEY-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_and_tokens_are_written() {
        let directory =
            std::env::temp_dir().join(format!("ringgate-xtask-pki-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let pki = Pki::write(&directory).expect("a PKI");
        let read = |name: &str| fs::read_to_string(directory.join(name)).expect("a file");
        let certificates = |name: &str| read(name).matches("BEGIN CERTIFICATE").count();
        assert_eq!(certificates("customer-api/cert-chain.pem"), 2);
        assert_eq!(certificates("edge/cert-chain.pem"), 1);
        assert!(read("customer-api/both.pem").contains("PRIVATE KEY"));
        for token in [&pki.rs256, &pki.es256] {
            assert_eq!(token.split('.').count(), 3, "{token}");
        }
        let keys: Value = serde_json::from_str(&pki.jwks).expect("JSON");
        let keys = keys.get("keys").and_then(Value::as_array);
        assert_eq!(keys.map(Vec::len), Some(2));
        fs::remove_dir_all(&directory).expect("removed");
    }

    #[test]
    fn the_name_of_a_certificate_is_der() {
        let der = id_der("a");
        assert!(der.starts_with("86267370696666653A2F2F"), "{der}");
        assert_eq!(der.len(), 2 * (2 + id("a").len()));
    }
}
