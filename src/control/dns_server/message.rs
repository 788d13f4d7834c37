//! One DNS message: answered from the mesh, refused, or to be handed on as it came (RFC 1035, RFC 2308, RFC 6891).

use std::net::IpAddr;

use hickory_resolver::proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, SOA, SRV};
use hickory_resolver::proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::config::checked::{DnsUnknown, Location, Service};
use crate::role::lookup::{Found, View, lookup};
use crate::vocab::limits;

/// How long an answer holds, positive or negative, in seconds (ztunnel's value).
const TTL_S: u32 = 30;
/// Header of a message.
const HEADER_BYTES: usize = 12;
/// UDP answers without EDNS (RFC 1035 4.2.1).
const PLAIN_BYTES: u16 = 512;
/// UDP answers with EDNS: what passes every link without fragments.
const EDNS_BYTES: u16 = 1232;

/// How the question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// The answer has to fit into one datagram.
    Udp,
    /// It does not.
    Tcp,
}

/// What a message comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Not a question: no answer, so that two servers never talk to each other.
    Drop,
    /// The answer.
    Answer(Vec<u8>),
    /// The nameservers are asked, with the message as it came.
    Forward,
}

/// What becomes of a message. Everything that is no plain question for a name of the mesh is for the nameservers, whatever
/// its opcode.
#[must_use]
pub fn outcome(
    view: &View<'_>,
    unknown: DnsUnknown,
    bytes: &[u8],
    transport: Transport,
) -> Outcome {
    let Some(&[_, _, flags, ..]) = bytes.get(..HEADER_BYTES) else {
        return Outcome::Drop;
    };
    if flags & 0x80 != 0 {
        return Outcome::Drop;
    }
    let handed_on = match unknown {
        DnsUnknown::Forward => Outcome::Forward,
        DnsUnknown::Refuse => code(bytes, ResponseCode::NXDomain),
    };
    if flags >> 3 & 0x0f != 0 {
        return handed_on;
    }
    let Ok(question) = Message::from_vec(bytes) else {
        return code(bytes, ResponseCode::FormErr);
    };
    let [query] = question.queries.as_slice() else {
        return code(bytes, ResponseCode::FormErr);
    };
    if query.query_class() != DNSClass::IN {
        return handed_on;
    }
    let asked = query.name().to_ascii().to_ascii_lowercase();
    let asked = asked.strip_suffix('.').unwrap_or(&asked);
    let kind = query.query_type();
    if kind == RecordType::SRV
        && let Some(answer) = service_record(view, &question, query, asked)
    {
        return encode(&question, &answer, transport);
    }
    match lookup(view, asked) {
        Found::Nothing => handed_on,
        // It is in the mesh, so the nameservers may be asked for it.
        Found::Outside(_) => Outcome::Forward,
        Found::Service(service, addresses) => {
            if service.location == Location::External && !is_about_addresses(kind) {
                return Outcome::Forward;
            }
            encode(&question, &about(&question, query, &addresses), transport)
        }
    }
}

/// Types whose answers say where a name is: from outside they would lead past the mesh.
fn is_about_addresses(kind: RecordType) -> bool {
    matches!(
        kind,
        RecordType::A
            | RecordType::AAAA
            | RecordType::ANY
            | RecordType::HTTPS
            | RecordType::SVCB
            | RecordType::CNAME
    )
}

/// An answer with the addresses of the type that was asked for; if there is none, that there is none, so that a client of
/// both families does not wait for the other.
fn about(question: &Message, query: &Query, addresses: &[IpAddr]) -> Message {
    let mut answer = reply(question);
    let kind = query.query_type();
    for ip in addresses {
        let wanted = match ip {
            IpAddr::V4(_) => matches!(kind, RecordType::A | RecordType::ANY),
            IpAddr::V6(_) => matches!(kind, RecordType::AAAA | RecordType::ANY),
        };
        if wanted {
            answer.add_answer(address(query.name(), *ip));
        }
    }
    if answer.answers.is_empty() {
        answer.add_authority(nothing(query.name()));
    }
    answer
}

/// `_port._tcp.service`: the port by its name.
fn service_record(
    view: &View<'_>,
    question: &Message,
    query: &Query,
    asked: &str,
) -> Option<Message> {
    let (port, rest) = asked.strip_prefix('_')?.split_once('.')?;
    let host = rest.strip_prefix("_tcp.")?;
    let Found::Service(service, addresses) = lookup(view, host) else {
        return None;
    };
    if service.location == Location::External {
        return None;
    }
    let mut answer = reply(question);
    let named = |s: &Service| s.ports.iter().find(|p| p.name == port).map(|p| p.number);
    let target = Name::from_ascii(format!("{host}.")).ok()?;
    match named(service) {
        Some(number) => {
            let record = SRV::new(0, 0, number, target.clone());
            let record = Record::from_rdata(query.name().clone(), TTL_S, RData::SRV(record));
            answer.add_answer(record);
            for ip in addresses {
                answer.add_additional(address(&target, ip));
            }
        }
        None => {
            answer.add_authority(nothing(query.name()));
        }
    }
    Some(answer)
}

fn reply(question: &Message) -> Message {
    let mut answer = Message::response(question.metadata.id, OpCode::Query);
    answer.metadata.recursion_desired = question.metadata.recursion_desired;
    answer.metadata.recursion_available = true;
    answer.metadata.authoritative = true;
    answer.add_queries(question.queries.iter().cloned());
    if question.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(EDNS_BYTES);
        answer.set_edns(edns);
    }
    answer
}

fn address(name: &Name, ip: IpAddr) -> Record {
    let data = match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    };
    Record::from_rdata(name.clone(), TTL_S, data)
}

/// How long it holds that there is nothing (RFC 2308 section 5).
fn nothing(name: &Name) -> Record {
    let server = Name::root();
    let soa = SOA::new(server.clone(), server, 1, 3600, 600, 86_400, TTL_S);
    Record::from_rdata(name.clone(), TTL_S, RData::SOA(soa))
}

/// The bytes of an answer; without its records if they are more than the client takes by UDP, which sends it to TCP.
fn encode(question: &Message, answer: &Message, transport: Transport) -> Outcome {
    let most = match transport {
        Transport::Tcp => limits::DNS_MESSAGE_BYTES,
        Transport::Udp => usize::from(udp_bytes(question)),
    };
    let encoded = match answer.to_vec() {
        Ok(bytes) if bytes.len() <= most => Ok(bytes),
        Ok(_longer) => answer.truncate().to_vec(),
        Err(error) => Err(error),
    };
    match encoded {
        Ok(bytes) => Outcome::Answer(bytes),
        Err(error) => {
            tracing::debug!(%error, "DNS answer cannot be written");
            Outcome::Drop
        }
    }
}

fn udp_bytes(question: &Message) -> u16 {
    let edns = question.edns.as_ref();
    edns.map_or(PLAIN_BYTES, |e| {
        e.max_payload().clamp(PLAIN_BYTES, EDNS_BYTES)
    })
}

/// An answer that is a code alone, to a message of which no more than the header was understood.
fn code(bytes: &[u8], code: ResponseCode) -> Outcome {
    match headed(bytes, code) {
        Some(answer) => Outcome::Answer(answer),
        None => Outcome::Drop,
    }
}

/// That no nameserver could be asked.
#[must_use]
pub fn failure(question: &[u8]) -> Option<Vec<u8>> {
    headed(question, ResponseCode::ServFail)
}

/// The header of an answer to these bytes, with their question if it can be read.
fn headed(bytes: &[u8], code: ResponseCode) -> Option<Vec<u8>> {
    let head = bytes.get(..HEADER_BYTES)?;
    let id = u16::from_be_bytes([*head.first()?, *head.get(1)?]);
    let opcode = OpCode::from_u8(head.get(2)? >> 3 & 0x0f);
    let mut answer = Message::new(id, MessageType::Response, opcode);
    answer.metadata.response_code = code;
    answer.metadata.recursion_desired = head.get(2)? & 1 != 0;
    answer.metadata.recursion_available = true;
    if let Ok(question) = Message::from_vec(bytes) {
        answer.add_queries(question.queries.iter().take(1).cloned());
    }
    answer.to_vec().ok()
}

/// Whether `answer` belongs to `question`: id, that it is an answer, and the question itself.
#[must_use]
pub fn belongs(question: &[u8], answer: &[u8]) -> bool {
    let (Some(asked), Some(head)) = (question.get(..HEADER_BYTES), answer.get(..HEADER_BYTES))
    else {
        return false;
    };
    let is_answer = head.get(2).is_some_and(|flags| flags & 0x80 != 0);
    if asked.get(..2) != head.get(..2) || !is_answer {
        return false;
    }
    match (asked_of(question), asked_of(answer)) {
        (Some(asked), Some(answered)) => asked.eq_ignore_ascii_case(answered),
        // Some errors come without the question.
        (_, None) => true,
        (None, Some(_)) => false,
    }
}

/// The first question of a message; `None` if it has none or a malformed one.
fn asked_of(message: &[u8]) -> Option<&[u8]> {
    let count = message.get(4..6)?;
    if count == [0, 0] {
        return None;
    }
    let mut at = HEADER_BYTES;
    loop {
        let len = usize::from(*message.get(at)?);
        at = at.checked_add(1)?;
        match len {
            0 => break,
            1..=63 => at = at.checked_add(len)?,
            // A question comes first, so there is nothing to point back to.
            _ => return None,
        }
    }
    message.get(HEADER_BYTES..at.checked_add(4)?)
}

/// The answer without its records and with the mark that it is cut, for a client that has to ask by TCP.
#[must_use]
pub fn cut(answer: &[u8]) -> Option<Vec<u8>> {
    let message = Message::from_vec(answer).ok()?;
    message.truncate().to_vec().ok()
}

/// The longest answer by UDP that the asker of a message takes.
#[must_use]
pub fn takes(question: &[u8]) -> usize {
    let read = Message::from_vec(question);
    let payload = read.ok().and_then(|m| m.edns.map(|e| e.max_payload()));
    usize::from(payload.unwrap_or(PLAIN_BYTES).max(PLAIN_BYTES))
}
