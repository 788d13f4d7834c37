//! Hosts: what is accepted has one spelling, and is no more than a name and a port.

use ringgate::vocab::host::Host;
use ringgate::vocab::limits;

/// A host as text.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Ok(host) = Host::parse(text) else {
        return;
    };
    let canonical = host.as_str();
    assert_eq!(Host::parse(canonical).as_ref(), Ok(&host), "not idempotent");
    assert_eq!(
        Host::parse(&text.to_ascii_uppercase()).as_ref(),
        Ok(&host),
        "case counts"
    );
    assert_eq!(canonical, canonical.to_ascii_lowercase());
    assert!(!host.name().is_empty() && !host.name().ends_with('.'));
    assert!(host.name().len() <= limits::HOST_BYTES);
    let whole = match host.port() {
        Some(port) => format!("{}:{port}", host.name()),
        None => host.name().to_owned(),
    };
    assert_eq!(canonical, whole);
    let bad = |b: u8| b <= b' ' || b >= 0x7f || b"/\\@?#%\"<>^`{|}".contains(&b);
    assert!(!canonical.bytes().any(bad), "holds what no host can hold");
    if host.name().starts_with('[') {
        assert!(host.ip().is_some_and(|ip| ip.is_ipv6()));
    } else {
        assert!(!host.name().contains([':', '[', ']']));
    }
}
