//! Header fields that the gateway owns: removed from what comes in, set from what was verified.

use std::cell::{OnceCell, RefCell};
use std::io::Write as _;
use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use smallvec::SmallVec;

use crate::vocab::field;

/// Bytes of the longest address as text.
const LONGEST_IP: usize = 45;

/// `x-forwarded-client-cert`.
pub const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// `x-forwarded-for`.
pub const XFF: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `x-forwarded-proto`.
pub const XFP: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Whether a field, by its name in lower case, is what proxies say about the hops before them.
fn is_of_earlier_hops(name: &str) -> bool {
    name.starts_with("x-forwarded-") || matches!(name, "forwarded" | "x-real-ip")
}

/// What becomes of the `x-forwarded-client-cert` that a request brings (Istio's `forwardClientCertDetails`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ForwardClientCert {
    /// `SANITIZE`: removed, and nothing is set.
    Sanitize,
    /// `FORWARD_ONLY`: goes on as it is if its sender has shown a certificate.
    ForwardOnly,
    /// `APPEND_FORWARD`: goes on if its sender has shown a certificate, with what was verified behind it.
    AppendForward,
    /// `SANITIZE_SET`: replaced by what was verified.
    #[default]
    SanitizeSet,
    /// `ALWAYS_FORWARD_ONLY`: goes on as it is, whoever sent it.
    AlwaysForwardOnly,
}

impl ForwardClientCert {
    /// The field that goes on: of `told`, which the request brought, and `verified`, what its sender has shown.
    #[must_use]
    pub fn field(self, told: &[HeaderValue], verified: Option<HeaderValue>) -> Option<HeaderValue> {
        let told = || {
            let parts: Vec<&[u8]> = told.iter().map(HeaderValue::as_bytes).collect();
            (!parts.is_empty()).then(|| parts.join(&b","[..]))
        };
        let value = |bytes: Vec<u8>| HeaderValue::from_bytes(&bytes).ok();
        match (self, verified) {
            (Self::Sanitize, _)
            | (Self::ForwardOnly | Self::AppendForward | Self::SanitizeSet, None) => None,
            (Self::SanitizeSet, Some(verified)) => Some(verified),
            (Self::ForwardOnly, Some(_)) | (Self::AlwaysForwardOnly, _) => told().and_then(value),
            (Self::AppendForward, Some(verified)) => match told() {
                None => Some(verified),
                Some(told) => value([&told, &b","[..], verified.as_bytes()].concat()),
            },
        }
    }
}

/// Removes what only a proxy of ours may say.
///
/// `outside`: the peer is not a member of the mesh, so what it says about earlier hops is not believed
/// unless `trusted_proxies` stand before it.
pub fn strip(headers: &mut HeaderMap, outside: bool, trusted_proxies: usize) {
    let believed = !outside || trusted_proxies > 0;
    field::remove_owned(headers, |name| {
        name == XFCC.as_str()
            || name.starts_with("x-envoy-")
            || name.starts_with("x-istio-")
            || (!believed && is_of_earlier_hops(name))
    });
}

/// The scheme that the client spoke, as `x-forwarded-proto` tells; the last value is of the nearest proxy.
#[must_use]
pub fn told_scheme(headers: &HeaderMap) -> Option<&'static str> {
    let told = headers.get_all(&XFP).iter().next_back()?.as_bytes();
    let last = told.rsplit(|byte| *byte == b',').next()?.trim_ascii();
    ["http", "https"]
        .into_iter()
        .find(|scheme| last.eq_ignore_ascii_case(scheme.as_bytes()))
}

/// Client address: entry `trusted_proxies` of `x-forwarded-for` from the right, else the peer.
#[must_use]
pub fn client_address(headers: &HeaderMap, peer: IpAddr, trusted_proxies: usize) -> IpAddr {
    let Some(nth) = trusted_proxies.checked_sub(1) else {
        return peer;
    };
    // A proxy writes behind what its client has told, whatever bytes that is: they hide no entry after them.
    let values = headers.get_all(&XFF).iter().rev();
    let mut entries = values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','));
    let entry = entries.nth(nth);
    let text = entry.and_then(|entry| std::str::from_utf8(entry.trim_ascii()).ok());
    text.and_then(|text| text.parse::<IpAddr>().ok())
        .map_or(peer, |ip| ip.to_canonical())
}

/// Header fields of our own, which replace those of a request by the same names. There are three, mostly, which are kept
/// without memory of their own.
#[derive(Debug, Default)]
pub struct Own {
    fields: SmallVec<[(HeaderName, HeaderValue); 3]>,
    /// What proxies say of the hops before stays here.
    mute: bool,
}

impl Own {
    /// None, and what a request says of the hops before goes no further: for whom it is not meant for.
    #[must_use]
    pub fn mute() -> Self {
        Self {
            mute: true,
            ..Self::default()
        }
    }

    /// Whether a field of a request goes no further.
    fn hides(&self, name: &HeaderName) -> bool {
        self.contains(name) || (self.mute && is_of_earlier_hops(name.as_str()))
    }

    /// What the request says of the hops before, which ours is added to.
    #[must_use]
    pub fn after(request: &HeaderMap) -> Self {
        let mut own = Self::default();
        for value in request.get_all(&XFF) {
            own.append(XFF, value.clone());
        }
        if let Some(proto) = request.get(&XFP) {
            own.insert(XFP, proto.clone());
        }
        own
    }

    /// Puts them in the place of those of the same names.
    pub fn put_into(self, headers: &mut HeaderMap) {
        for (name, _) in self.iter() {
            headers.remove(name);
        }
        for (name, value) in self.fields {
            headers.append(name, value);
        }
    }

    /// Whether there is a field of this name.
    #[must_use]
    pub fn contains(&self, name: &HeaderName) -> bool {
        self.fields.iter().any(|(known, _)| known == name)
    }

    /// The first value of this name.
    #[must_use]
    pub fn get(&self, name: &HeaderName) -> Option<&HeaderValue> {
        let mut all = self.fields.iter();
        all.find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// One value more.
    pub fn append(&mut self, name: HeaderName, value: HeaderValue) {
        self.fields.push((name, value));
    }

    /// This value alone.
    pub fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        match self.fields.iter().position(|(known, _)| *known == name) {
            Some(first) => {
                // In its place, as a header map has it.
                let mut at = 0_usize;
                self.fields.retain(|(known, _)| {
                    let keep = at <= first || *known != name;
                    at = at.saturating_add(1);
                    keep
                });
                if let Some(slot) = self.fields.get_mut(first) {
                    slot.1 = value;
                }
            }
            None => self.fields.push((name, value)),
        }
    }

    /// No value of this name.
    pub fn remove(&mut self, name: &HeaderName) {
        self.fields.retain(|(known, _)| known != name);
    }

    fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.fields.iter().map(|(name, value)| (name, value))
    }
}

/// What is told of one peer with each of its requests, made once.
#[derive(Debug, Default)]
pub struct Said {
    address: OnceCell<HeaderValue>,
    /// By the identity that it calls.
    identity: RefCell<Option<(Box<str>, HeaderValue)>>,
}

impl Said {
    fn address(&self, peer: IpAddr) -> Option<HeaderValue> {
        if let Some(known) = self.address.get() {
            return Some(known.clone());
        }
        let value = HeaderValue::try_from(peer.to_string()).ok()?;
        Some(self.address.get_or_init(|| value).clone())
    }

    fn identity(&self, principal: &str, own: &str) -> Option<HeaderValue> {
        let mut known = self.identity.borrow_mut();
        if let Some((_own, value)) = known.as_ref().filter(|(known, _)| **known == *own) {
            return Some(value.clone());
        }
        let value = HeaderValue::try_from(format!("By={own};URI={principal}")).ok()?;
        *known = Some((own.into(), value.clone()));
        Some(value)
    }
}

/// `x-forwarded-for` that `peer` adds itself to.
fn chain(own_fields: &Own, peer: IpAddr) -> Option<HeaderValue> {
    let mut chain = Vec::with_capacity(LONGEST_IP);
    let earlier = own_fields.iter().filter(|(name, _)| **name == XFF);
    for (at, (_, earlier)) in earlier.enumerate() {
        if at > 0 {
            chain.extend_from_slice(b", ");
        }
        chain.extend_from_slice(earlier.as_bytes());
    }
    if !chain.is_empty() {
        chain.extend_from_slice(b", ");
    }
    // Writing into memory does not fail.
    write!(chain, "{peer}").ok()?;
    HeaderValue::try_from(chain).ok()
}

/// Sets what was verified: who calls, from where, over what. `said` is of this peer and principal.
pub fn set(
    own_fields: &mut Own,
    (peer, principal): (IpAddr, Option<&str>),
    own: &str,
    scheme: &'static str,
    (said, details, told): (&Said, ForwardClientCert, &[HeaderValue]),
) {
    let address = match own_fields.contains(&XFF) {
        true => chain(own_fields, peer),
        false => said.address(peer),
    };
    if let Some(address) = address {
        own_fields.insert(XFF, address);
    }
    if !own_fields.contains(&XFP) {
        own_fields.insert(XFP, HeaderValue::from_static(scheme));
    }
    let verified = principal.and_then(|principal| said.identity(principal, own));
    if let Some(value) = details.field(told, verified) {
        own_fields.insert(XFCC, value);
    }
}

/// The fields that go upstream, but for those that whoever writes the head writes: those of the request that we neither set ourselves nor hide and that are not of the hop, then
/// our own.
pub fn outgoing<'h>(
    request: &'h HeaderMap,
    own: &'h Own,
) -> impl Iterator<Item = (&'h HeaderName, &'h HeaderValue)> {
    let theirs = request.iter().filter(move |(name, _)| {
        let written = [header::CONTENT_LENGTH, header::EXPECT, header::UPGRADE];
        !own.hides(name) && !written.contains(name)
    });
    theirs.chain(own.iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_from_the_right() {
        let mut headers = HeaderMap::new();
        headers.append(XFF, HeaderValue::from_static("1.1.1.1, 2.2.2.2"));
        headers.append(XFF, HeaderValue::from_static("3.3.3.3"));
        let peer: IpAddr = "9.9.9.9".parse().unwrap();
        for (n, want) in [
            (0, "9.9.9.9"),
            (1, "3.3.3.3"),
            (2, "2.2.2.2"),
            (3, "1.1.1.1"),
            (4, "9.9.9.9"),
        ] {
            assert_eq!(client_address(&headers, peer, n).to_string(), want);
        }
        // What is no text hides nothing behind it.
        for told in [&b"\xe9, 6.6.6.6"[..], b"1.1.1.1, \xff\xfe,6.6.6.6"] {
            headers.insert(XFF, HeaderValue::from_bytes(told).unwrap());
            assert_eq!(client_address(&headers, peer, 1).to_string(), "6.6.6.6");
            let own = Own::after(&headers);
            let all = chain(&own, peer).unwrap();
            assert_eq!(all.as_bytes(), [told, b", 9.9.9.9"].concat());
        }
    }

    #[test]
    fn what_is_told_of_a_peer_follows_whom_it_calls() {
        let said = Said::default();
        let (peer, id) = ("9.9.9.9".parse().unwrap(), Some("spiffe://td/a"));
        for (earlier, own, want) in [
            (None, "spiffe://td/b", "9.9.9.9"),
            (Some("1.1.1.1"), "spiffe://td/b", "1.1.1.1, 9.9.9.9"),
            (None, "spiffe://td/c", "9.9.9.9"),
            (None, "spiffe://td/b", "9.9.9.9"),
        ] {
            let mut headers = Own::default();
            if let Some(earlier) = earlier {
                headers.insert(XFF, HeaderValue::from_static(earlier));
            }
            set(
                &mut headers,
                (peer, id),
                own,
                "https",
                (&said, ForwardClientCert::default(), &[]),
            );
            assert_eq!(headers.get(&XFF).unwrap(), want);
            let told = format!("By={own};URI=spiffe://td/a");
            assert_eq!(headers.get(&XFCC).unwrap(), told.as_str());
            assert_eq!(headers.get(&XFP).unwrap(), "https");
        }
    }

    #[test]
    fn what_becomes_of_the_certificate_that_is_told() {
        let told = ["By=a;URI=b", "By=c"].map(HeaderValue::from_static);
        let verified = || Some(HeaderValue::from_static("By=x;URI=y"));
        let text = |value: Option<HeaderValue>| value.map(|v| v.to_str().unwrap().to_owned());
        for (details, with, without) in [
            (ForwardClientCert::Sanitize, None, None),
            (ForwardClientCert::SanitizeSet, Some("By=x;URI=y"), None),
            (
                ForwardClientCert::ForwardOnly,
                Some("By=a;URI=b,By=c"),
                None,
            ),
            (
                ForwardClientCert::AppendForward,
                Some("By=a;URI=b,By=c,By=x;URI=y"),
                None,
            ),
            (
                ForwardClientCert::AlwaysForwardOnly,
                Some("By=a;URI=b,By=c"),
                Some("By=a;URI=b,By=c"),
            ),
        ] {
            assert_eq!(
                text(details.field(&told, verified())).as_deref(),
                with,
                "{details:?}"
            );
            assert_eq!(
                text(details.field(&told, None)).as_deref(),
                without,
                "{details:?}"
            );
        }
        let appended = ForwardClientCert::AppendForward.field(&[], verified());
        assert_eq!(text(appended).as_deref(), Some("By=x;URI=y"));
        assert_eq!(
            ForwardClientCert::AlwaysForwardOnly.field(&[], verified()),
            None
        );
    }

    #[test]
    fn spoofed_fields_go() {
        let mut headers = HeaderMap::new();
        for name in [
            "x-forwarded-client-cert",
            "x-envoy-original-path",
            "x-istio-attributes",
            "x-forwarded-for",
            "x-forwarded-uri",
            "x_real_ip",
            "x_forwarded_client_cert",
            "x-forwarded_for",
            "x_envoy_internal",
            "x-ok",
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("v"));
        }
        strip(&mut headers, true, 0);
        assert_eq!(
            headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["x-ok"]
        );
    }
}
