//! The kinds of findings, by the names that users silence them with.

use std::fmt;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Probably a mistake.
    Warning,
    /// Worth knowing.
    Note,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Warning => "warning",
            Self::Note => "note",
        })
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $severity:ident;)*) => {
        /// The kind of a finding. Its name is stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Code {
            $($(#[$doc])* $variant,)*
        }

        impl Code {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// How bad it is.
            #[must_use]
            pub fn severity(self) -> Severity {
                match self {
                    $(Self::$variant => Severity::$severity,)*
                }
            }
        }
    };
}

codes! {
    /// A value that no request can have.
    ValueNeverMatches = "value-never-matches", Warning;
    /// A `*` in the middle of a value, which is an ordinary character.
    LiteralStar = "literal-star", Warning;
    /// A rule, or one of its sources or operations, that no request can match.
    NeverMatches = "never-matches", Warning;
    /// A port that nothing listens on where the policy applies.
    UnknownPort = "unknown-port", Warning;
    /// An address that no connection is for where the policy applies.
    UnknownAddress = "unknown-address", Warning;
    /// Token attributes where no RequestAuthentication applies.
    NoRequestAuthentication = "no-request-authentication", Warning;
    /// An issuer that no RequestAuthentication accepts where the policy applies.
    UnknownIssuer = "unknown-issuer", Warning;
    /// A principal, service account, namespace or trust domain that nothing in the mesh has.
    UnknownPrincipal = "unknown-principal", Warning;
    /// HTTP attributes where HTTP is not read.
    HttpAtL4 = "http-at-l4", Warning;
    /// An ALLOW rule that allows everyone, or every identity, everything.
    WideOpen = "wide-open", Warning;
    /// An ALLOW source of `not..` fields alone.
    NegativeOnly = "negative-only", Warning;
    /// A DENY on the token, which a request without one escapes.
    DenyAnonymous = "deny-anonymous", Warning;
    /// A DENY on paths under a normalization that leaves other spellings of them.
    DenyPathSpelling = "deny-path-spelling", Warning;
    /// A host without its `:*` twin.
    HostWithoutPort = "host-without-port", Warning;
    /// A condition on a header field that a second field of that name gets round.
    HeaderRepeats = "header-repeats", Warning;
    /// A rule that another of the same action covers.
    ShadowedRule = "shadowed-rule", Warning;
    /// An ALLOW rule that a DENY rule covers.
    AllowWithoutEffect = "allow-without-effect", Warning;
    /// A DENY rule that denies only what no ALLOW rule allows.
    DenyWithoutEffect = "deny-without-effect", Warning;
    /// An ALLOW and a DENY rule that cut across each other.
    Overlap = "overlap", Warning;
    /// A DENY rule that takes a part out of an ALLOW rule.
    DenyInsideAllow = "deny-inside-allow", Note;
    /// Workloads that no ALLOW policy covers, in a mesh where others are covered.
    Uncovered = "uncovered", Note;
    /// Plaintext is let in somewhere, in a mesh that is STRICT.
    PlaintextException = "plaintext-exception", Note;
    /// There were too many pairs of rules to compare them all.
    NotAllCompared = "not-all-compared", Note;
}

impl Code {
    /// The code of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.name() == name)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for code in Code::ALL {
            assert_eq!(Code::parse(code.name()), Some(*code));
            assert!(
                code.name()
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            );
        }
        assert_eq!(Code::parse("shadowed"), None);
    }
}
