//! How a node becomes one: a single-use join token gives it its own SVID, and with that it asks for its workloads' and for
//! its next own one.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::{CertificateDer, UnixTime};
use thiserror::Error;

use super::ledger::{self, LedgerError, NodeEntry, Token, Use};
use super::{Authority, IssueError, ca};
use crate::identity::revocation::{NodeName, Target};
use crate::vocab::limits;
use crate::vocab::spiffe::SpiffeId;
use crate::vocab::text::hex;

/// Digits of a token's hash that name it.
const NAME_DIGITS: usize = 16;
/// Longest life of a join token.
const TOKEN_TTL_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// Random bytes of a join token.
const TOKEN_BYTES: usize = 32;

/// Why a node did not get a certificate.
#[derive(Debug, Error)]
pub enum JoinError {
    /// No such token.
    #[error("no known join token")]
    Unknown,
    /// It was used for another key.
    #[error("join token is used up")]
    Used,
    /// Its time is over.
    #[error("join token has expired")]
    Expired,
    /// It was revoked.
    #[error("join token is revoked")]
    Revoked,
    /// A token is good for the node's own identity alone.
    #[error("join token is for `{0}` alone; with that identity the node asks for its workloads")]
    OtherId(SpiffeId),
    /// The node, or what it asks for, is revoked.
    #[error("revoked: {0}")]
    Barred(Target),
    /// The node is not known, or was removed.
    #[error("node `{0}` has not joined")]
    NoNode(NodeName),
    /// The use of the token could not be kept.
    #[error("join token cannot be used now")]
    Ledger(#[source] LedgerError),
    /// The request cannot be signed.
    #[error(transparent)]
    Issue(#[from] IssueError),
}

/// What was signed: whose it is, and the chain with the leaf first.
pub type Signed = (SpiffeId, Vec<CertificateDer<'static>>);

/// Hexadecimal SHA-256.
fn hash(bytes: &[u8]) -> String {
    hex(digest(&SHA256, bytes).as_ref())
}

fn name_of(hash: &str) -> String {
    hash.chars().take(NAME_DIGITS).collect()
}

impl Authority {
    /// Makes a join token for `node`, which may ask for what `grant` names from then on. The token itself is told once,
    /// here; its name, under which it is listed and revoked, says nothing about it.
    ///
    /// # Errors
    /// `LedgerError`.
    pub fn create_token(
        &self,
        node: &NodeName,
        grant: Vec<String>,
        ttl: Duration,
        now: UnixTime,
    ) -> Result<(String, String), LedgerError> {
        ledger::grant(&grant)?;
        if ttl < Duration::from_secs(1) || ttl > TOKEN_TTL_MAX {
            return Err(LedgerError::Ttl);
        }
        let mut random = [0_u8; TOKEN_BYTES];
        aws_lc_rs::rand::fill(&mut random).map_err(|_e| LedgerError::Random)?;
        let text = URL_SAFE_NO_PAD.encode(random);
        let hash = hash(text.as_bytes());
        let name = name_of(&hash);
        let created = ledger::unix(now);
        let token = Token {
            hash,
            node: node.to_string(),
            grant,
            created,
            expires: created.saturating_add(ttl.as_secs()),
            used: None,
            revoked: None,
            refused: 0,
        };
        self.ledger.change(|data| {
            // What is over makes room; what was used stays listed as long as it could be tried again.
            data.tokens.retain(|_name, token| token.expires > created);
            if data.tokens.len() >= limits::NODES {
                return Err(LedgerError::Full {
                    what: "join tokens",
                    most: limits::NODES,
                });
            }
            data.tokens.insert(name.clone(), token);
            Ok(())
        })?;
        tracing::info!(token = %name, %node, "join token created");
        Ok((name, text))
    }

    /// Makes a token useless.
    ///
    /// # Errors
    /// `LedgerError`.
    pub fn revoke_token(&self, name: &str, now: UnixTime) -> Result<(), LedgerError> {
        self.ledger.change(|data| {
            let token = data.tokens.get_mut(name);
            let token = token.ok_or_else(|| LedgerError::NoToken(name.to_owned()))?;
            token.revoked.get_or_insert_with(|| ledger::unix(now));
            Ok(())
        })
    }

    /// Replaces what a node may ask for.
    ///
    /// # Errors
    /// `LedgerError`.
    pub fn grant_node(&self, node: &NodeName, grant: Vec<String>) -> Result<(), LedgerError> {
        ledger::grant(&grant)?;
        self.ledger.change(|data| {
            let entry = data.nodes.get_mut(node.as_str());
            entry
                .ok_or_else(|| LedgerError::NoNode(node.to_string()))?
                .grant = grant;
            Ok(())
        })
    }

    /// Forgets a node: it gets nothing any more, until it joins again.
    ///
    /// # Errors
    /// `LedgerError`.
    pub fn remove_node(&self, node: &NodeName) -> Result<(), LedgerError> {
        self.ledger.change(|data| {
            let gone = data.nodes.remove(node.as_str());
            gone.map(|_entry| ())
                .ok_or_else(|| LedgerError::NoNode(node.to_string()))
        })
    }

    /// Whether `text` is a join token of this authority, good or not.
    #[must_use]
    pub fn knows_token(&self, text: &str) -> bool {
        let hash = hash(text.as_bytes());
        let data = self.ledger.data();
        data.tokens
            .get(&name_of(&hash))
            .is_some_and(|t| t.hash == hash)
    }

    /// Signs a node's first request: for its own identity, and for one key only. The use is kept before anything is
    /// signed; an answer that got lost is given again to the same key until the token expires or the node is removed.
    ///
    /// # Errors
    /// `JoinError`.
    pub fn join(
        &self,
        token_text: &str,
        csr_pem: &str,
        ttl: Duration,
        now: UnixTime,
    ) -> Result<Signed, JoinError> {
        let hash = hash(token_text.as_bytes());
        let name = name_of(&hash);
        let data = self.ledger.data();
        let token = data.tokens.get(&name).filter(|token| token.hash == hash);
        let token = token.ok_or(JoinError::Unknown)?;
        let holds = data.nodes.get(&token.node);
        let holds = holds.is_some_and(|entry| entry.token == name);
        let joined = self.join_with((&name, holds), token, csr_pem, ttl, now);
        if let Err(error) = &joined {
            tracing::warn!(
                token = %name, node = %token.node, error = error as &dyn std::error::Error,
                "join token refused"
            );
            self.count_refusal(&name);
        }
        joined
    }

    /// `holds`: the node has joined by this token, was not removed, and has not joined by another since.
    fn join_with(
        &self,
        (name, holds): (&str, bool),
        token: &Token,
        csr_pem: &str,
        ttl: Duration,
        now: UnixTime,
    ) -> Result<Signed, JoinError> {
        let time = ledger::unix(now);
        if token.revoked.is_some() {
            return Err(JoinError::Revoked);
        }
        if time >= token.expires {
            return Err(JoinError::Expired);
        }
        let request = ca::Request::parse(csr_pem)?;
        let node = NodeName::parse(&token.node).map_err(|_e| JoinError::Unknown)?;
        let own = node
            .id(&self.trust_domain)
            .ok_or_else(|| JoinError::NoNode(node.clone()))?;
        if request.id != own || !request.dns_names.is_empty() {
            return Err(JoinError::OtherId(own));
        }
        self.barred(&own, Some(&node))?;
        let key = hash_of_key(&request);
        match &token.used {
            Some(used) if used.key != key || !holds => return Err(JoinError::Used),
            Some(_) => {}
            None => self.use_up(name, token, key, time)?,
        }
        Ok(self.sign_request(request, Some(&node), ttl, now)?)
    }

    fn use_up(&self, name: &str, token: &Token, key: String, time: u64) -> Result<(), JoinError> {
        let entry = NodeEntry {
            grant: token.grant.clone(),
            joined: time,
            token: name.to_owned(),
        };
        self.ledger
            .change(|data| {
                let full = data.nodes.len() >= limits::NODES;
                if full && !data.nodes.contains_key(&token.node) {
                    return Err(LedgerError::Full {
                        what: "nodes",
                        most: limits::NODES,
                    });
                }
                let known = data.tokens.get_mut(name);
                let known = known.ok_or_else(|| LedgerError::NoToken(name.to_owned()))?;
                known.used = Some(Use { time, key });
                data.nodes.insert(token.node.clone(), entry);
                Ok(())
            })
            .map_err(JoinError::Ledger)?;
        tracing::info!(token = %name, node = %token.node, "node joined");
        Ok(())
    }

    /// A used token that is tried again is worth knowing of, but not a write each time.
    fn count_refusal(&self, name: &str) {
        let count = self
            .refusals
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if !count.saturating_add(1).is_power_of_two() {
            return;
        }
        let kept = self.ledger.change(|data| {
            if let Some(token) = data.tokens.get_mut(name) {
                token.refused = token.refused.saturating_add(1);
            }
            Ok(())
        });
        if let Err(error) = kept {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "refusal of a join token not kept"
            );
        }
    }

    /// Signs a request of a node that has proved to be `node`: for its own identity, or one that it was granted. DNS names
    /// beyond the grant are left out.
    ///
    /// # Errors
    /// `JoinError`.
    pub fn sign_for_node(
        &self,
        node: &NodeName,
        csr_pem: &str,
        (ttl, node_ttl): (Duration, Duration),
        now: UnixTime,
    ) -> Result<Signed, JoinError> {
        let data = self.ledger.data();
        let entry = data.nodes.get(node.as_str());
        let entry = entry.ok_or_else(|| JoinError::NoNode(node.clone()))?;
        let mut request = ca::Request::parse(csr_pem)?;
        self.barred(&request.id, Some(node))?;
        if node.id(&self.trust_domain).as_ref() == Some(&request.id) {
            if let Some(name) = request.dns_names.first() {
                return Err(IssueError::NotGranted(name.clone()).into());
            }
            return Ok(self.sign_request(request, Some(node), node_ttl, now)?);
        }
        let grant = ledger::grant(&entry.grant).map_err(JoinError::Ledger)?;
        // A host that a reload brought to the node must not cost it the identity.
        request.dns_names.retain(|name| {
            let granted = grant.allows_dns(name);
            if !granted {
                tracing::warn!(%node, id = %request.id, name, "DNS name is not granted to the node, and left out");
            }
            granted
        });
        grant.check(&request)?;
        Ok(self.sign_request(request, Some(node), ttl, now)?)
    }

    /// A JWT-SVID for a node that has proved to be `node`, for an identity that it was granted.
    ///
    /// # Errors
    /// `JoinError`.
    pub fn token_for_node(
        &self,
        node: &NodeName,
        id: &SpiffeId,
        audiences: &[String],
        ttl: Duration,
        now: UnixTime,
    ) -> Result<String, JoinError> {
        let data = self.ledger.data();
        let entry = data.nodes.get(node.as_str());
        let entry = entry.ok_or_else(|| JoinError::NoNode(node.clone()))?;
        self.barred(id, Some(node))?;
        let grant = ledger::grant(&entry.grant).map_err(JoinError::Ledger)?;
        if !grant.allows_id(id) {
            return Err(IssueError::NotGranted(id.to_string()).into());
        }
        Ok(self.issue_jwt_svid(id, audiences, ttl, now)?)
    }

    /// Refuses what is revoked.
    pub(super) fn barred(&self, id: &SpiffeId, node: Option<&NodeName>) -> Result<(), JoinError> {
        match self.revocations().of_identity(id, node) {
            Some(target) => Err(JoinError::Barred(target)),
            None => Ok(()),
        }
    }
}

fn hash_of_key(request: &ca::Request) -> String {
    use rcgen::PublicKeyData as _;
    hash(&request.public_key.subject_public_key_info())
}
