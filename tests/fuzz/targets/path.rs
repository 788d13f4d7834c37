//! Request targets.

pub fn path(data: &[u8]) { if let Ok(text) = std::str::from_utf8(data) { let _ = ringgate::vocab::path::CanonicalPath::parse(ringgate::vocab::path::PathNormalization::Base, text); } }
