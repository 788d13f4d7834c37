//! What a data core may ask of the control thread: rare, bounded, never on the path of an allowed call.

use std::net::IpAddr;

use tokio::sync::{mpsc, oneshot};

use crate::jwt::model::KeySource;
use crate::oidc;

/// Questions that may wait at a time; one more is refused, never queued without bound.
pub const WAITING: usize = 256;

/// A question.
#[derive(Debug)]
pub enum Ask {
    /// A token names a key that the set of this source does not have.
    UnknownKey(KeySource),
    /// End a login at the provider of this name: redeem the code, verify what comes back.
    Redeem {
        /// Provider.
        provider: String,
        /// Address of the client, as the trusted proxies tell it.
        client: IpAddr,
        /// What the login state machine needs redeemed.
        exchange: Box<oidc::Exchange>,
        /// Where the answer goes.
        answer: oneshot::Sender<oidc::Respond>,
    },
    /// The path of the control group of this number, from the root of version 2.
    Cgroup {
        /// Number that the kernel tells of a connection.
        id: u64,
        /// Where the answer goes; `None` if there is no such group.
        answer: oneshot::Sender<Option<String>>,
    },
}

/// A core's end of the channel.
pub type Asker = mpsc::Sender<Ask>;
