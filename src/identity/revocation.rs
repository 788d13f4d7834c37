//! What is revoked: single certificates by serial, identities, and all that was issued to a node.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use thiserror::Error;

use crate::vocab::limits;
use crate::vocab::spiffe::{SpiffeId, TrustDomain};

/// Path below which the authority puts the identities of nodes.
const NODE_PATH: &str = "/ringgate/node/";

/// Serial number of a certificate: its bytes without leading zeros (RFC 5280 section 4.1.2.2: at most 20 of them).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Serial(Box<[u8]>);

/// Name of a node: 1 to 63 of `A-Z a-z 0-9 . - _`, a path segment of its SPIFFE ID.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeName(Arc<str>);

/// Why a text does not say what is revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RevocationError {
    /// Neither hexadecimal digits nor pairs of them with colons, or more than 20 bytes.
    #[error("a serial number is hexadecimal, at most 20 bytes")]
    Serial,
    /// Not a path segment, or too long.
    #[error("a node's name is 1 to 63 of A-Z a-z 0-9 . - _")]
    Node,
    /// More than [`limits::REVOCATIONS`].
    #[error("there are {} revocations already", limits::REVOCATIONS)]
    Full,
}

/// What one revocation is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// One certificate.
    Serial(Serial),
    /// An identity, whatever certificate proves it.
    Id(SpiffeId),
    /// A node: its own identity and every certificate that was issued to it.
    Node(NodeName),
}

/// What a certificate says that a revocation may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerLeaf {
    /// The identity.
    pub id: SpiffeId,
    /// Its serial number.
    pub serial: Serial,
    /// The node that it was issued to, if the authority wrote that into it.
    pub node: Option<NodeName>,
}

/// All revocations, each with its reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    serials: BTreeMap<Serial, Arc<str>>,
    ids: BTreeMap<SpiffeId, Arc<str>>,
    nodes: BTreeMap<NodeName, Arc<str>>,
}

impl Serial {
    /// From the bytes of a certificate.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let zeros = bytes.iter().take_while(|&&b| b == 0).count();
        Self(bytes.get(zeros..).unwrap_or_default().into())
    }

    /// Reads hexadecimal digits; colons between pairs are allowed, as `openssl x509 -text` prints them.
    ///
    /// # Errors
    /// `RevocationError::Serial`.
    pub fn parse(text: &str) -> Result<Self, RevocationError> {
        let digits: String = text.chars().filter(|&c| c != ':').collect();
        let digits = if digits.len() % 2 == 1 {
            format!("0{digits}")
        } else {
            digits
        };
        let pair = |pair: &[u8]| {
            let text = std::str::from_utf8(pair).ok()?;
            let hex = text.bytes().all(|b| b.is_ascii_hexdigit());
            hex.then(|| u8::from_str_radix(text, 16).ok()).flatten()
        };
        let bytes: Option<Vec<u8>> = digits.as_bytes().chunks(2).map(pair).collect();
        let serial = Self::of_bytes(&bytes.ok_or(RevocationError::Serial)?);
        if (1..=limits::SERIAL_BYTES).contains(&serial.0.len()) {
            Ok(serial)
        } else {
            Err(RevocationError::Serial)
        }
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl NodeName {
    /// Checks a name.
    ///
    /// # Errors
    /// `RevocationError::Node`.
    pub fn parse(text: &str) -> Result<Self, RevocationError> {
        let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let dots = text == "." || text == "..";
        if (1..=limits::NODE_NAME_BYTES).contains(&text.len()) && text.bytes().all(valid) && !dots {
            Ok(Self(text.into()))
        } else {
            Err(RevocationError::Node)
        }
    }

    /// The node's own identity: `spiffe://<trust domain>/ringgate/node/<name>`.
    #[must_use]
    pub fn id(&self, trust_domain: &TrustDomain) -> Option<SpiffeId> {
        SpiffeId::parse(&format!("spiffe://{trust_domain}{NODE_PATH}{self}")).ok()
    }

    /// The node that `id` is the own identity of.
    #[must_use]
    pub fn of(id: &SpiffeId) -> Option<Self> {
        Self::parse(id.path().strip_prefix(NODE_PATH)?).ok()
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial(serial) => write!(f, "serial {serial}"),
            Self::Id(id) => write!(f, "{id}"),
            Self::Node(node) => write!(f, "node {node}"),
        }
    }
}

impl Revocations {
    /// Adds one; a target that is there gets the new reason.
    ///
    /// # Errors
    /// `RevocationError::Full`.
    pub fn add(&mut self, target: Target, reason: &str) -> Result<(), RevocationError> {
        if self.len() >= limits::REVOCATIONS && !self.has(&target) {
            return Err(RevocationError::Full);
        }
        drop(match target {
            Target::Serial(serial) => self.serials.insert(serial, reason.into()),
            Target::Id(id) => self.ids.insert(id, reason.into()),
            Target::Node(node) => self.nodes.insert(node, reason.into()),
        });
        Ok(())
    }

    /// Takes one back; whether it was there.
    pub fn remove(&mut self, target: &Target) -> bool {
        match target {
            Target::Serial(serial) => self.serials.remove(serial),
            Target::Id(id) => self.ids.remove(id),
            Target::Node(node) => self.nodes.remove(node),
        }
        .is_some()
    }

    /// Whether this very target is revoked.
    #[must_use]
    pub fn has(&self, target: &Target) -> bool {
        match target {
            Target::Serial(serial) => self.serials.contains_key(serial),
            Target::Id(id) => self.ids.contains_key(id),
            Target::Node(node) => self.nodes.contains_key(node),
        }
    }

    /// Why a certificate is not accepted; `None` if it is.
    #[must_use]
    pub fn of(&self, leaf: &PeerLeaf) -> Option<Target> {
        if self.is_empty() {
            return None;
        }
        if self.serials.contains_key(&leaf.serial) {
            return Some(Target::Serial(leaf.serial.clone()));
        }
        self.of_identity(&leaf.id, leaf.node.as_ref())
    }

    /// Why an identity, issued to `node`, is not accepted and not issued again.
    #[must_use]
    pub fn of_identity(&self, id: &SpiffeId, node: Option<&NodeName>) -> Option<Target> {
        if self.ids.contains_key(id) {
            return Some(Target::Id(id.clone()));
        }
        let own = NodeName::of(id);
        [own.as_ref(), node]
            .into_iter()
            .flatten()
            .find(|node| self.nodes.contains_key(*node))
            .map(|node| Target::Node(node.clone()))
    }

    /// Whether the certificate itself is revoked by its serial number.
    #[must_use]
    pub fn has_serial(&self, serial: &Serial) -> bool {
        self.serials.contains_key(serial)
    }

    /// These and those of `other`.
    #[must_use]
    pub fn merged(&self, other: &Self) -> Self {
        let mut all = self.clone();
        all.serials.extend(other.serials.clone());
        all.ids.extend(other.ids.clone());
        all.nodes.extend(other.nodes.clone());
        all
    }

    /// All targets with their reasons, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Target, &str)> {
        let serials = self
            .serials
            .iter()
            .map(|(s, r)| (Target::Serial(s.clone()), r.as_ref()));
        let ids = self
            .ids
            .iter()
            .map(|(i, r)| (Target::Id(i.clone()), r.as_ref()));
        let nodes = self
            .nodes
            .iter()
            .map(|(n, r)| (Target::Node(n.clone()), r.as_ref()));
        serials.chain(ids).chain(nodes)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.serials
            .len()
            .saturating_add(self.ids.len())
            .saturating_add(self.nodes.len())
    }

    /// Whether nothing is revoked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.serials.is_empty() && self.ids.is_empty() && self.nodes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> SpiffeId {
        SpiffeId::parse(text).unwrap()
    }

    fn leaf(id_text: &str, serial: &str, node: Option<&str>) -> PeerLeaf {
        PeerLeaf {
            id: id(id_text),
            serial: Serial::parse(serial).unwrap(),
            node: node.map(|n| NodeName::parse(n).unwrap()),
        }
    }

    #[test]
    fn each_target_covers_what_it_names_and_no_more() {
        let (a, b) = ("spiffe://td/ns/x/sa/a", "spiffe://td/ns/x/sa/b");
        let first = leaf(a, "0a", Some("one"));
        let second = leaf(b, "0b", Some("two"));
        let plain = leaf(a, "0c", None);
        let own = leaf("spiffe://td/ringgate/node/one", "0d", None);
        let cases = [
            (
                Target::Serial(Serial::parse("0A").unwrap()),
                [true, false, false, false],
            ),
            (Target::Id(id(a)), [true, false, true, false]),
            (
                Target::Node(NodeName::parse("one").unwrap()),
                [true, false, false, true],
            ),
        ];
        for (target, want) in cases {
            let mut all = Revocations::default();
            all.add(target.clone(), "leaked").unwrap();
            let got = [&first, &second, &plain, &own].map(|l| all.of(l) == Some(target.clone()));
            assert_eq!(got, want, "{target}");
            assert!(all.remove(&target) && !all.remove(&target));
            assert!(all.is_empty() && all.of(&first).is_none());
        }
    }

    #[test]
    fn serials_are_compared_as_numbers() {
        let plain = Serial::parse("4fa0").unwrap();
        assert_eq!(Serial::parse("00:4F:A0"), Ok(plain.clone()));
        assert_eq!(Serial::of_bytes(&[0, 0x4f, 0xa0]), plain);
        assert_eq!(plain.to_string(), "4fa0");
        assert_eq!(Serial::parse("fa0").unwrap().to_string(), "0fa0");
        for bad in ["", "00", "xy", "4f a0", "+4f0", "é", &"ab".repeat(21)] {
            assert_eq!(Serial::parse(bad), Err(RevocationError::Serial), "{bad}");
        }
    }

    #[test]
    fn names_of_nodes() {
        let domain = TrustDomain::parse("td").unwrap();
        let node = NodeName::parse("vm-1.example").unwrap();
        assert_eq!(NodeName::of(&node.id(&domain).unwrap()), Some(node));
        for bad in ["", ".", "..", "a/b", "a b", "é", &"a".repeat(64)] {
            assert_eq!(NodeName::parse(bad), Err(RevocationError::Node), "{bad}");
        }
        assert_eq!(NodeName::of(&id("spiffe://td/ringgate/node/a/b")), None);
        assert_eq!(NodeName::of(&id("spiffe://td/ns/a/sa/b")), None);
    }

    #[test]
    fn bounded() {
        let mut all = Revocations::default();
        for n in 0..limits::REVOCATIONS {
            let serial = Serial::of_bytes(&(n + 1).to_be_bytes());
            all.add(Target::Serial(serial), "x").unwrap();
        }
        let more = Target::Id(id("spiffe://td/a"));
        assert_eq!(all.add(more, "x"), Err(RevocationError::Full));
        let known = Target::Serial(Serial::of_bytes(&[1]));
        assert_eq!(all.add(known, "y"), Ok(()));
    }
}
