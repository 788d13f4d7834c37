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

/// The extension `time`: `[days] HH:MM-HH:MM [zone]`, or an interval of the year 2026 with `..` for an open end.
pub(crate) fn in_window(window: &str, unix_s: i64) -> bool {
    let interval = window.starts_with("2026") || window.starts_with("..");
    if let Some((from, to)) = window.split_once('/').filter(|_| interval) {
        return (from == ".." || second_of_2026(from) <= unix_s)
            && (to == ".." || unix_s < second_of_2026(to));
    }
    let mut words: Vec<&str> = window.split(' ').collect();
    let days = if words[0].contains(':') {
        "Mon-Sun"
    } else {
        words.remove(0)
    };
    let (from, to) = words[0].split_once('-').unwrap();
    let local = unix_s + offset(words.get(1).unwrap_or(&"UTC"), unix_s);
    let (from, to) = (minutes(from), minutes(to));
    let minute = local.rem_euclid(86_400) / 60;
    let today = (local.div_euclid(86_400) + 3).rem_euclid(7); // the epoch was a Thursday; Monday is 0
    let yesterday = (today + 6) % 7;
    if from < to {
        on(days, today) && from <= minute && minute < to
    } else {
        (on(days, today) && from <= minute) || (on(days, yesterday) && minute < to)
    }
}

fn minutes(clock: &str) -> i64 {
    let (hour, minute) = clock.split_once(':').unwrap();
    hour.parse::<i64>().unwrap() * 60 + minute.parse::<i64>().unwrap()
}

fn on(days: &str, day: i64) -> bool {
    let number =
        |name: &str| i64::try_from("MonTueWedThuFriSatSun".find(name).unwrap() / 3).unwrap();
    days.split(',').any(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first), number(last));
        (day - first).rem_euclid(7) <= (last - first).rem_euclid(7)
    })
}

/// Seconds east of Greenwich.
fn offset(zone: &str, unix_s: i64) -> i64 {
    // Summer time of 2026: from 29 March to 25 October, 01:00 UTC.
    let summer = (1_774_746_000..1_792_890_000).contains(&unix_s);
    match (zone, zone.strip_prefix('-'), zone.strip_prefix('+')) {
        ("UTC", ..) => 0,
        ("Europe/Berlin", ..) => 3600 * (1 + i64::from(summer)),
        (_, Some(west), _) => -60 * minutes(west),
        (_, _, Some(east)) => 60 * minutes(east),
        _ => panic!("zone {zone}"),
    }
}

/// `2026-MM-DDTHH:MM:SSZ`.
fn second_of_2026(text: &str) -> i64 {
    const BEFORE: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let number = |at: usize| text[at..at + 2].parse::<i64>().unwrap();
    let month = usize::try_from(number(5)).unwrap();
    let day = BEFORE[month - 1] + number(8) - 1;
    1_767_225_600 + day * 86_400 + number(11) * 3600 + number(14) * 60 + number(17)
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
