//! Signature algorithms: the allow-list, and the kind of key that each needs.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
};

/// An algorithm that a token may be signed with: the asymmetric ones of RFC 7518 section 3.1 and Ed25519 of RFC 8037.
/// `none`, `HS*` and `ES256K` have no value here, so no key can be used with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// `RS256`
    Rs256,
    /// `RS384`
    Rs384,
    /// `RS512`
    Rs512,
    /// `PS256`; the salt is as long as the hash, as in the other two.
    Ps256,
    /// `PS384`
    Ps384,
    /// `PS512`
    Ps512,
    /// `ES256`
    Es256,
    /// `ES384`
    Es384,
    /// `ES512`
    Es512,
    /// `EdDSA` with Ed25519
    EdDsa,
}

/// The kind of a key (`kty` and `crv`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Rsa,
    P256,
    P384,
    P521,
    Ed25519,
}

impl Algorithm {
    /// By the name in `alg`, which is case-sensitive (RFC 7515 section 4.1.1); `None` if it is not allowed.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "RS384" => Some(Self::Rs384),
            "RS512" => Some(Self::Rs512),
            "PS256" => Some(Self::Ps256),
            "PS384" => Some(Self::Ps384),
            "PS512" => Some(Self::Ps512),
            "ES256" => Some(Self::Es256),
            "ES384" => Some(Self::Es384),
            "ES512" => Some(Self::Es512),
            "EdDSA" => Some(Self::EdDsa),
            _ => None,
        }
    }

    /// The kind of key that it needs.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Rs256 | Self::Rs384 | Self::Rs512 | Self::Ps256 | Self::Ps384 | Self::Ps512 => {
                Kind::Rsa
            }
            Self::Es256 => Kind::P256,
            Self::Es384 => Kind::P384,
            Self::Es512 => Kind::P521,
            Self::EdDsa => Kind::Ed25519,
        }
    }

    /// How an RSA key is used with it; `None` for the others.
    pub(crate) fn rsa(self) -> Option<&'static RsaParameters> {
        match self {
            Self::Rs256 => Some(&RSA_PKCS1_2048_8192_SHA256),
            Self::Rs384 => Some(&RSA_PKCS1_2048_8192_SHA384),
            Self::Rs512 => Some(&RSA_PKCS1_2048_8192_SHA512),
            Self::Ps256 => Some(&RSA_PSS_2048_8192_SHA256),
            Self::Ps384 => Some(&RSA_PSS_2048_8192_SHA384),
            Self::Ps512 => Some(&RSA_PSS_2048_8192_SHA512),
            Self::Es256 | Self::Es384 | Self::Es512 | Self::EdDsa => None,
        }
    }

    /// The hash that goes with it (OpenID Connect Core section 3.1.3.6 on `at_hash`).
    pub(crate) fn hash(self) -> &'static digest::Algorithm {
        match self {
            Self::Rs256 | Self::Ps256 | Self::Es256 => &digest::SHA256,
            Self::Rs384 | Self::Ps384 | Self::Es384 => &digest::SHA384,
            Self::Rs512 | Self::Ps512 | Self::Es512 | Self::EdDsa => &digest::SHA512,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_exact() {
        for name in [
            "none", "None", "NONE", "", "HS256", "HS384", "HS512", "ES256K", "rs256", "RS256 ",
            "RS1", "Ed25519", "Ed448", "EDDSA", "RSA-OAEP", "A128KW", "dir",
        ] {
            assert_eq!(Algorithm::parse(name), None, "{name:?}");
        }
    }
}
