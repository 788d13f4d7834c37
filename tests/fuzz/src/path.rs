//! Request targets: one canonical form, in which nothing is left that another reader could take apart differently.

use ringgate::vocab::limits;
use ringgate::vocab::path::{CanonicalPath, PathNormalization};

const MODES: [PathNormalization; 4] = [
    PathNormalization::None,
    PathNormalization::Base,
    PathNormalization::MergeSlashes,
    PathNormalization::DecodeAndMergeSlashes,
];

/// A target as text.
pub fn run(data: &[u8]) {
    let Ok(target) = std::str::from_utf8(data) else {
        return;
    };
    for mode in MODES {
        let Ok(path) = CanonicalPath::parse(mode, target) else {
            continue;
        };
        let text = path.as_str();
        assert_eq!(
            CanonicalPath::parse(mode, text).as_ref(),
            Ok(&path),
            "not idempotent"
        );
        assert!(text.len() <= limits::TARGET_BYTES, "longer than a target");
        assert!(
            text.bytes().all(|b| (0x21..=0x7e).contains(&b)),
            "not printable"
        );
        let sent = target.split('#').next();
        let query = sent.and_then(|t| t.split_once('?')).map(|(_, query)| query);
        assert_eq!(path.query(), query, "the query was touched");
        canonical(mode, path.path());
    }
}

fn canonical(mode: PathNormalization, path: &str) {
    assert!(path.starts_with('/') && !path.contains(['?', '#']));
    if mode == PathNormalization::None {
        return;
    }
    let name = |segment: &'_ str| segment.split(';').next().map(str::to_owned);
    let dots = |segment: &str| matches!(name(segment).as_deref(), Some("." | ".."));
    assert!(!path.split('/').any(dots), "a dot segment is left");
    assert!(!path.contains(['\\', '"', '<', '>', '`', '{', '|', '}', '^']));
    let lower = path.to_ascii_lowercase();
    assert!(!lower.contains("%00"), "a NUL is left");
    assert!(!lower.contains("%2e"), "an escaped dot is left");
    let merges = mode != PathNormalization::Base;
    assert!(!(merges && path.contains("//")), "a double slash is left");
    let decodes = mode == PathNormalization::DecodeAndMergeSlashes;
    let escaped = lower.contains("%2f") || lower.contains("%5c");
    assert!(!(decodes && escaped), "an escaped slash is left");
}
