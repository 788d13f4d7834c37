//! How one value of a policy is compared with one text, by the tables of the policy semantics.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Section 2.2. `empty` is whether `*` alone takes the empty text (headers, query parameters).
pub(crate) fn text(value: &str, text: &[u8], empty: bool) -> bool {
    if value == "*" {
        empty || !text.is_empty()
    } else if let Some(end) = value.strip_prefix('*') {
        text.ends_with(end.as_bytes())
    } else if let Some(start) = value.strip_suffix('*') {
        text.starts_with(start.as_bytes())
    } else {
        text == value.as_bytes()
    }
}

/// Section 2.5, by trying every length of every operator.
pub(crate) fn template(template: &[u8], path: &[u8]) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()+,;:@*=".contains(&b);
    let (rest, least, slashes) = if let Some(rest) = template.strip_prefix(b"{**}") {
        (rest, 0, true)
    } else if let Some(rest) = template.strip_prefix(b"{*}") {
        (rest, 1, false)
    } else {
        return match (template.split_first(), path.split_first()) {
            (None, None) => true,
            (Some((t, template)), Some((p, path))) => t == p && self::template(template, path),
            _ => false,
        };
    };
    let fits = |part: &[u8]| part.iter().all(|b| allowed(*b) || (slashes && *b == b'/'));
    (least..=path.len()).any(|n| {
        let (part, path) = path.split_at(n);
        fits(part) && self::template(rest, path)
    })
}

/// Section 14.1: the whole text, byte by byte. Each byte becomes the character of its number, so that `.` is a byte.
pub(crate) fn regex(pattern: &str, text: &[u8]) -> bool {
    thread_local! {
        static COMPILED: RefCell<BTreeMap<String, regex::Regex>> = const { RefCell::new(BTreeMap::new()) };
    }
    let text: String = text.iter().map(|b| char::from(*b)).collect();
    COMPILED.with_borrow_mut(|compiled| {
        let whole = compiled.entry(pattern.to_owned());
        let whole =
            whole.or_insert_with(|| regex::Regex::new(&format!("(?s)^(?:{pattern})$")).unwrap());
        whole.is_match(&text)
    })
}

/// Section 2.3: an address or block, IPv4-mapped addresses being IPv4, the two families apart.
pub(crate) fn in_block(block: &str, ip: IpAddr) -> bool {
    let (base, length) = block.split_once('/').unwrap_or((block, ""));
    let base: IpAddr = base.parse().unwrap();
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => format!("4{:032b}", v4.to_bits()),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => format!("4{:032b}", v4.to_bits()),
            None => format!("6{:0128b}", v6.to_bits()),
        },
    };
    let base_bits = bits(base);
    let mapped = base.is_ipv6() && base_bits.len() == 33;
    let length: usize = match length.parse::<usize>() {
        Ok(length) if mapped => length - 96,
        Ok(length) => length,
        Err(_) => base_bits.len() - 1,
    };
    bits(ip).starts_with(&base_bits[..=length])
}

/// Namespace and account of a principal that is exactly `td/ns/<ns>/sa/<sa>` (section 2.3).
pub(crate) fn namespace_and_account(principal: &str) -> Option<(&str, &str)> {
    match principal.split('/').collect::<Vec<_>>()[..] {
        [_, "ns", namespace, "sa", account] => Some((namespace, account)),
        _ => None,
    }
}

/// Section 3.
pub(crate) fn principal_values(value: &str, own: &[String]) -> Vec<String> {
    let parts: Vec<&str> = value.split('/').collect();
    let domain = parts[0];
    let ours = domain == "cluster.local" || own.iter().any(|td| text(domain, td.as_bytes(), false));
    if parts.len() != 5 || domain == "*" || !ours {
        return vec![value.to_owned()];
    }
    let rest = parts[1..].join("/");
    let expanded = own.iter().map(|td| {
        if domain.starts_with('*') && text(domain, td.as_bytes(), false) {
            value.to_owned()
        } else {
            format!("{td}/{rest}")
        }
    });
    expanded.collect()
}

/// Section 2.3, `trustDomains`: one of ours means all of ours, and `cluster.local` is ours (section 3).
pub(crate) fn trust_domain_values(value: &str, own: &[String]) -> Vec<String> {
    if value == "cluster.local" || own.iter().any(|td| td == value) {
        own.to_vec()
    } else {
        vec![value.to_owned()]
    }
}

/// Section 2.7, the table of request principals.
pub(crate) fn request_principal(value: &str, issuer: &str, subject: &str) -> bool {
    match value.rsplit_once('/') {
        None if value == "*" => true,
        None => match (value.strip_prefix('*'), value.strip_suffix('*')) {
            (Some(end), _) => subject.ends_with(end),
            (None, Some(start)) => issuer.starts_with(start),
            (None, None) => false,
        },
        Some((iss, sub)) => match (iss.strip_prefix('*'), sub.strip_suffix('*')) {
            (Some(end), _) => issuer.ends_with(end) && subject == sub,
            (None, Some(start)) => issuer == iss && subject.starts_with(start),
            (None, None) => issuer == iss && subject == sub,
        },
    }
}

/// Section 14.1: names and values, each decoded once.
pub(crate) fn query(query: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
    let pieces = query.split('&').filter(|piece| !piece.is_empty());
    let decoded = pieces.map(|piece| match piece.find('=') {
        Some(at) => (decode(&piece[..at]), decode(&piece[at + 1..])),
        None => (decode(piece), Vec::new()),
    });
    decoded.collect()
}

fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let escape = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let escape = escape.filter(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
        match (escape, bytes[at]) {
            (Some(hex), _) => {
                out.push(u8::from_str_radix(hex, 16).unwrap());
                at += 3;
            }
            (None, b'+') => {
                out.push(b' ');
                at += 1;
            }
            (None, plain) => {
                out.push(plain);
                at += 1;
            }
        }
    }
    out
}
