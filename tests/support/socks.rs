//! What a client of SOCKS5 sends (RFC 1928).

use std::net::IpAddr;

/// The greeting: no authentication.
pub(crate) const GREETING: [u8; 3] = [5, 1, 0];

/// CONNECT to an address or a name.
pub(crate) fn connect(host: &str, port: u16) -> Vec<u8> {
    let mut request = vec![5, 1, 0];
    match host.parse::<IpAddr>() {
        Ok(IpAddr::V4(ip)) => {
            request.push(1);
            request.extend(ip.octets());
        }
        Ok(IpAddr::V6(ip)) => {
            request.push(4);
            request.extend(ip.octets());
        }
        Err(_name) => {
            request.extend([3, u8::try_from(host.len()).unwrap()]);
            request.extend(host.bytes());
        }
    }
    request.extend(port.to_be_bytes());
    request
}
