//! Which of the fields that decide how a head is read it has.

use http::{HeaderMap, HeaderName};

use crate::vocab::field;

/// Fields that decide how a head is read, as far as it has them. Most heads have few: to look for each in a map costs more
/// than to go once through the names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(u8);

impl Marks {
    /// `Connection`.
    pub const CONNECTION: Self = Self(1);
    /// `TE`.
    pub const TE: Self = Self(1 << 1);
    /// `Expect`.
    pub const EXPECT: Self = Self(1 << 2);
    /// `Transfer-Encoding` or `Content-Length`.
    pub const FRAMING: Self = Self(1 << 3);
    /// `Trailer`.
    pub const TRAILER: Self = Self(1 << 4);
    /// One that is the hop's own by its name.
    pub const HOP: Self = Self(1 << 5);

    /// Those of `headers`.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        headers.keys().fold(Self::default(), Self::with)
    }

    /// These, and that of one more field.
    #[must_use]
    pub(super) fn with(self, name: &HeaderName) -> Self {
        let name = name.as_str();
        let hop = if field::is_of_hop(name) {
            Self::HOP.0
        } else {
            0
        };
        let mark = match name {
            "connection" => Self::CONNECTION.0,
            "te" => Self::TE.0,
            "expect" => Self::EXPECT.0,
            "transfer-encoding" | "content-length" => Self::FRAMING.0,
            "trailer" => Self::TRAILER.0,
            _ => 0,
        };
        Self(self.0 | mark | hop)
    }

    /// Whether there is such a field.
    #[must_use]
    pub fn has(self, mark: Self) -> bool {
        self.0 & mark.0 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderValue, header};

    #[test]
    fn each_is_marked_however_it_is_written() {
        for (name, marks) in [
            ("Connection", &[Marks::CONNECTION, Marks::HOP][..]),
            ("TE", &[Marks::TE, Marks::HOP]),
            ("eXpect", &[Marks::EXPECT]),
            ("Transfer-Encoding", &[Marks::FRAMING, Marks::HOP]),
            ("content-length", &[Marks::FRAMING]),
            ("Trailer", &[Marks::TRAILER]),
            ("Keep-Alive", &[Marks::HOP]),
            ("Proxy-Connection", &[Marks::HOP]),
            ("Upgrade", &[Marks::HOP]),
            ("tea", &[]),
            ("host", &[]),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(header::ACCEPT, HeaderValue::from_static("*/*"));
            let name: HeaderName = name.parse().unwrap();
            headers.append(name.clone(), HeaderValue::from_static("1"));
            headers.append(header::VIA, HeaderValue::from_static("x"));
            let got = Marks::of(&headers);
            let all = [
                Marks::CONNECTION,
                Marks::TE,
                Marks::EXPECT,
                Marks::FRAMING,
                Marks::TRAILER,
                Marks::HOP,
            ];
            for mark in all {
                assert_eq!(got.has(mark), marks.contains(&mark), "{name} {mark:?}");
            }
        }
    }
}
