//! SOCKS5 (RFC 1928), CONNECT without authentication: for clients on a host without capture.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::exchange::close::CloseReason;
use crate::io::stream::Stream;
use crate::role::outbound::Wanted;
use crate::vocab::host::Host;

/// REP field of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Succeeded.
    Granted = 0,
    /// General failure.
    Failed = 1,
    /// Not allowed by the ruleset.
    NotAllowed = 2,
    /// Host unreachable.
    Unreachable = 4,
    /// Connection refused.
    Refused = 5,
    /// Command not supported.
    NoCommand = 7,
    /// Address type not supported.
    NoAddressType = 8,
}

impl Answer {
    /// What a client is told of a connection that could not be had.
    #[must_use]
    pub fn of(close: CloseReason) -> Self {
        match close {
            CloseReason::Denied
            | CloseReason::SelfCall
            | CloseReason::PolicyChanged
            | CloseReason::Revoked => Self::NotAllowed,
            CloseReason::NoRoute | CloseReason::UpstreamTimeout => Self::Unreachable,
            CloseReason::UpstreamConnect => Self::Refused,
            CloseReason::Done
            | CloseReason::PlaintextRefused
            | CloseReason::Handshake
            | CloseReason::BadRequest
            | CloseReason::Token
            | CloseReason::Login
            | CloseReason::UpstreamReset
            | CloseReason::DownstreamReset
            | CloseReason::Timeout
            | CloseReason::Limit
            | CloseReason::BodyTooLarge
            | CloseReason::Overload
            | CloseReason::Overflow
            | CloseReason::Misdirected
            | CloseReason::Drain => Self::Failed,
        }
    }
}

/// Reads what the client wants.
///
/// # Errors
/// It does not speak SOCKS5 or asks for what is not there.
pub async fn wanted(stream: &mut Stream) -> io::Result<(Wanted, u16)> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let version = stream.read_u8().await?;
    let methods = stream.read_u8().await?;
    let mut offered = vec![0; usize::from(methods)];
    stream.read_exact(&mut offered).await?;
    if version != 5 || !offered.contains(&0) {
        stream.write_all(&[5, 0xff]).await?;
        return Err(bad("no SOCKS5 without authentication offered"));
    }
    stream.write_all(&[5, 0]).await?;
    stream.flush().await?;
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let [version, command, _reserved, kind] = head;
    if version != 5 || command != 1 {
        answer(stream, Answer::NoCommand).await?;
        return Err(bad("only CONNECT is served"));
    }
    let wanted = match kind {
        1 => Wanted::Address(IpAddr::V4(Ipv4Addr::from(stream.read_u32().await?))),
        4 => Wanted::Address(IpAddr::V6(Ipv6Addr::from(stream.read_u128().await?)).to_canonical()),
        3 => {
            let len = stream.read_u8().await?;
            let mut name = vec![0; usize::from(len)];
            stream.read_exact(&mut name).await?;
            let name = String::from_utf8(name).map_err(|_e| bad("host is not text"))?;
            let host = Host::parse(&name).map_err(|_e| bad("host is malformed"))?;
            match host.ip() {
                _ if host.port().is_some() => return Err(bad("host holds a port")),
                Some(ip) => Wanted::Address(ip.to_canonical()),
                None => Wanted::Name(host.name().to_owned()),
            }
        }
        _ => {
            answer(stream, Answer::NoAddressType).await?;
            return Err(bad("unknown address type"));
        }
    };
    Ok((wanted, stream.read_u16().await?))
}

/// Answers the request.
///
/// # Errors
/// The client is gone.
pub async fn answer(stream: &mut Stream, answer: Answer) -> io::Result<()> {
    let code = match answer {
        Answer::Granted => 0,
        Answer::Failed => 1,
        Answer::NotAllowed => 2,
        Answer::Unreachable => 4,
        Answer::Refused => 5,
        Answer::NoCommand => 7,
        Answer::NoAddressType => 8,
    };
    stream.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    stream.flush().await
}
