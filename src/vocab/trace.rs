//! The trace that a tunnel or request belongs to, as `traceparent` tells it (W3C Trace Context, level 1).

use std::fmt;

const TRACE_BYTES: usize = 16;
const PARENT_BYTES: usize = 8;
/// Random bytes that a new trace and its first span take.
pub const RANDOM_BYTES: usize = TRACE_BYTES + PARENT_BYTES;
/// `00-` trace `-` parent `-` flags.
const TEXT_BYTES: usize = 55;

/// A trace: 16 bytes, not all zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId([u8; TRACE_BYTES]);

/// `traceparent`: the trace, the span that called, and its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// Trace.
    pub trace: TraceId,
    parent: [u8; PARENT_BYTES],
    flags: u8,
}

impl TraceParent {
    /// A span of `trace`, of a new trace if there is none, from random bytes; not sampled. `None` if the bytes are all
    /// zero where an identifier is needed.
    #[must_use]
    pub fn new(trace: Option<TraceId>, random: [u8; RANDOM_BYTES]) -> Option<Self> {
        let (id, parent) = random.split_first_chunk::<TRACE_BYTES>()?;
        let parent = *parent.first_chunk::<PARENT_BYTES>()?;
        if parent == [0; PARENT_BYTES] {
            return None;
        }
        let trace = match trace {
            Some(trace) => trace,
            None => TraceId::new(*id)?,
        };
        Some(Self {
            trace,
            parent,
            flags: 0,
        })
    }

    /// Parses the value of the header field. Versions after 00 may have more behind the four parts.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (head, rest) = text.split_at_checked(TEXT_BYTES)?;
        let mut parts = head.split('-');
        let [version] = hex(parts.next()?)?;
        let trace = TraceId::new(hex(parts.next()?)?)?;
        let parent = hex(parts.next()?)?;
        let [flags] = hex(parts.next()?)?;
        let more = rest.is_empty() || (version > 0 && rest.starts_with('-'));
        let valid =
            version != 0xff && parent != [0; PARENT_BYTES] && parts.next().is_none() && more;
        valid.then_some(Self {
            trace,
            parent,
            flags,
        })
    }
}

impl TraceId {
    fn new(bytes: [u8; TRACE_BYTES]) -> Option<Self> {
        (bytes != [0; TRACE_BYTES]).then_some(Self(bytes))
    }
}

/// Lower-case hexadecimal of exactly `N` bytes.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b.wrapping_sub(b'0')),
        b'a'..=b'f' => Some(b.wrapping_sub(b'a').wrapping_add(10)),
        _ => None,
    };
    if text.len() != N.saturating_mul(2) {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(out)
}

fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-", self.trace)?;
        write_hex(f, &self.parent)?;
        write!(f, "-{:02x}", self.flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn parses_and_prints() {
        let parsed = TraceParent::parse(TEXT).unwrap();
        assert_eq!(parsed.to_string(), TEXT);
        assert_eq!(parsed.trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        let later = TEXT.replacen("00", "cc", 1) + "-what-comes";
        assert_eq!(TraceParent::parse(&later).unwrap().trace, parsed.trace);
    }

    #[test]
    fn refuses() {
        for text in [
            "",
            "00",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
            "00-0af7651916cd43dd8448eb211c80319-cb7ad6b7169203331-01",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c8031\u{e9}-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceParent::parse(text), None, "{text}");
        }
    }

    #[test]
    fn makes_new_ones() {
        let made = TraceParent::new(None, [7; RANDOM_BYTES]).unwrap();
        assert_eq!(TraceParent::parse(&made.to_string()), Some(made));
        let kept = TraceParent::new(Some(made.trace), [9; RANDOM_BYTES]).unwrap();
        assert_eq!(kept.trace, made.trace);
        assert_ne!(kept.to_string(), made.to_string());
        assert_eq!(TraceParent::new(None, [0; RANDOM_BYTES]), None);
    }
}
