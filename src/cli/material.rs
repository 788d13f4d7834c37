//! Files that a demo system needs and no mesh makes: the public certificate of the ingress, the partner's
//! private PKI, the end-user token key of the identity provider, and the configuration itself.

use anyhow::Context;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use serde_json::json;

use super::layout::Layout;
use super::os;

/// Name that the ingress answers to.
pub const PORTAL: &str = "portal.example.test";
/// Name of the partner.
pub const PARTNER: &str = "partner.example.test";
/// Issuer of end-user tokens.
pub const USER_ISSUER: &str = "https://auth.example.test";
/// Key id of the identity provider's key.
pub const USER_KEY_ID: &str = "idp-1";

const DAY_S: i64 = 86_400;

/// Writes what is missing; keeps what is there, so that the user's edits survive.
///
/// # Errors
/// If a file cannot be written or a key cannot be made.
pub fn write(layout: &Layout, io: &str) -> anyhow::Result<()> {
    write_keys(layout)?;
    os::make_dir(&layout.file("log"), 0o755)?;
    let tokens = layout.file("state/join-tokens");
    if !tokens.exists() {
        // No identity stands behind the token: it lets nobody join until the user adds one.
        let token = os::hex(&os::random::<32>()?);
        os::write(&tokens, format!("{token}\n").as_bytes(), 0o600)?;
    }
    let config = layout.config();
    if config.exists() {
        return Ok(());
    }
    os::write(&config, layout.render(io).as_bytes(), 0o644)
}

/// Certificates and keys alone.
///
/// # Errors
/// If a file cannot be written or a key cannot be made.
pub fn write_keys(layout: &Layout) -> anyhow::Result<()> {
    os::make_dir(&layout.dir, 0o755)?;
    os::make_dir(&layout.file("state"), 0o700)?;
    server_pki(layout, "state/ingress", "ringgate demo public CA", PORTAL)?;
    server_pki(layout, "state/partner", "partner private CA", PARTNER)?;
    user_key(layout)
}

/// A CA and one server certificate below `dir`: `ca.pem`, `cert.pem`, `key.pem`.
fn server_pki(layout: &Layout, dir: &str, ca_name: &str, server: &str) -> anyhow::Result<()> {
    if layout.file(dir).join("cert.pem").exists() {
        return Ok(());
    }
    os::make_dir(&layout.file(dir), 0o700)?;
    let mut ca = CertificateParams::default();
    validity(&mut ca, 3650)?;
    ca.distinguished_name.push(DnType::CommonName, ca_name);
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let ca_key = KeyPair::generate()?;
    let ca_cert = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);

    let mut leaf = CertificateParams::new([server.to_owned()])?;
    validity(&mut leaf, 397)?;
    leaf.distinguished_name.push(DnType::CommonName, server);
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let cert = leaf.signed_by(&key, &issuer)?;

    let at = |name: &str| layout.file(dir).join(name);
    os::write(&at("ca.pem"), ca_cert.pem().as_bytes(), 0o644)?;
    os::write(&at("key.pem"), key.serialize_pem().as_bytes(), 0o600)?;
    os::write(&at("cert.pem"), cert.pem().as_bytes(), 0o644)
}

fn validity(params: &mut CertificateParams, days: i64) -> anyhow::Result<()> {
    let now = i64::try_from(os::unix_s()).context("the clock is out of range")?;
    params.not_before = time::OffsetDateTime::from_unix_timestamp(now - DAY_S)?;
    params.not_after = time::OffsetDateTime::from_unix_timestamp(now + days * DAY_S)?;
    Ok(())
}

/// The identity provider's ES256 key and its JWK Set (RFC 7517).
fn user_key(layout: &Layout) -> anyhow::Result<()> {
    let path = layout.file("state/idp/key.pem");
    if path.exists() {
        return Ok(());
    }
    os::make_dir(&layout.file("state/idp"), 0o700)?;
    let key = KeyPair::generate()?;
    os::write(
        &layout.file("state/idp/jwks.json"),
        jwks(&key)?.as_bytes(),
        0o644,
    )?;
    os::write(&path, key.serialize_pem().as_bytes(), 0o600)
}

fn jwks(key: &KeyPair) -> anyhow::Result<String> {
    // An uncompressed P-256 point (SEC 1 section 2.3.3): 4, x, y.
    let Some((4, point)) = key.public_key_raw().split_first() else {
        anyhow::bail!("the key is no uncompressed P-256 point");
    };
    let (x, y) = point
        .split_at_checked(32)
        .filter(|(_, y)| y.len() == 32)
        .context("the key is no P-256 point")?;
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let set = json!({"keys": [{
        "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256",
        "kid": USER_KEY_ID, "x": encode(x), "y": encode(y),
    }]});
    Ok(set.to_string())
}
