//! Randomness of a core.

/// Random bytes; `None` if the generator fails, which it does not while the process lives.
#[must_use]
pub fn bytes<const N: usize>() -> Option<[u8; N]> {
    let mut out = [0; N];
    aws_lc_rs::rand::fill(&mut out).ok().map(|()| out)
}
