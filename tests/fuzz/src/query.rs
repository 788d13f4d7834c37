//! Queries: decoded once, each piece by itself, so that writing out what was read gives the same reading.

use ringgate::vocab::path::{CanonicalPath, PathNormalization};

/// What stands after the `?`.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let Some(pairs) = read(text) else {
        return;
    };
    let query = text.split('#').next().unwrap_or_default();
    let pieces = query.split('&').filter(|piece| !piece.is_empty()).count();
    assert_eq!(pairs.len(), pieces, "a piece was lost or cut");
    let size: usize = pairs.iter().map(|(n, v)| n.len() + v.len()).sum();
    assert!(size <= query.len(), "decoding made it longer");
    let escaped: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{}={}", escape(name), escape(value)))
        .collect();
    let escaped = escaped.join("&");
    // Three bytes for one: what is too long now says nothing.
    if let Some(again) = read(&escaped) {
        assert_eq!(again, pairs, "decoded more than once, or not at all");
    } else {
        assert!(escaped.len() > 4096);
    }
}

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn read(query: &str) -> Option<Pairs> {
    let path = CanonicalPath::parse(PathNormalization::Base, &format!("/?{query}")).ok()?;
    let pairs = path.query_pairs();
    Some(
        pairs
            .map(|(n, v)| (n.into_owned(), v.into_owned()))
            .collect(),
    )
}

fn escape(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("%{b:02x}")).collect()
}
