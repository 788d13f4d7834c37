//! Answers of HTTP/1.1, piece by piece.

use std::fmt;

use anyhow::{Context as _, Result, ensure};

/// Head of an answer, in bytes.
const HEAD_MAX: usize = 16 * 1024;
/// Fields of an answer.
const FIELDS_MAX: usize = 64;

/// What every answer has to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// Status.
    pub(super) status: u16,
    /// Bytes of the body.
    pub(super) length: usize,
}

impl Expected {
    /// Checks what came.
    pub(super) fn check(self, status: u16, length: usize) -> Result<(), Wrong> {
        let right = status == self.status && length == self.length;
        right.then_some(()).ok_or(Wrong {
            status,
            length,
            expected: self,
        })
    }
}

/// An answer, and not the right one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wrong {
    status: u16,
    length: usize,
    expected: Expected,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            status,
            length,
            expected,
        } = self;
        write!(
            f,
            "status {status} with {length} bytes, expected {} with {}",
            expected.status, expected.length
        )
    }
}

impl std::error::Error for Wrong {}

/// An answer that arrives.
#[derive(Debug, Default)]
pub(super) struct Answer {
    head: Vec<u8>,
    /// Of the body, once the head is complete.
    missing: Option<usize>,
}

impl Answer {
    /// Takes what has arrived. `true`: the answer is complete and as it has to be.
    pub(super) fn take(&mut self, bytes: &[u8], expected: Expected) -> Result<bool> {
        let missing = match self.missing {
            Some(missing) => missing
                .checked_sub(bytes.len())
                .context("more came than the body has")?,
            None => {
                let begun = !self.head.is_empty();
                if begun {
                    self.head.extend_from_slice(bytes);
                }
                let so_far = if begun { self.head.as_slice() } else { bytes };
                match body_missing(so_far, expected)? {
                    Some(missing) => missing,
                    None => {
                        ensure!(so_far.len() < HEAD_MAX, "the head has no end");
                        if !begun {
                            self.head = bytes.to_vec();
                        }
                        return Ok(false);
                    }
                }
            }
        };
        if missing == 0 {
            self.head.clear();
            self.missing = None;
            return Ok(true);
        }
        self.missing = Some(missing);
        Ok(false)
    }
}

/// Bytes of the body that `bytes` lack; `None` while the head is not complete.
fn body_missing(bytes: &[u8], expected: Expected) -> Result<Option<usize>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(head) = response.parse(bytes)? else {
        return Ok(None);
    };
    let status = response.code.unwrap_or_default();
    let length = response
        .headers
        .iter()
        .find(|field| field.name.eq_ignore_ascii_case("content-length"))
        .context("an answer without content-length")?;
    let length: usize = std::str::from_utf8(length.value)?.trim().parse()?;
    expected.check(status, length)?;
    let got = bytes.len() - head;
    let missing = length.checked_sub(got);
    Ok(Some(missing.context("more came than the answer has")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_pieces() {
        let whole = b"HTTP/1.1 200 OK\r\nserver: x\r\nContent-Length: 5\r\n\r\nhello";
        let expected = Expected {
            status: 200,
            length: 5,
        };
        for at in 0..whole.len() {
            let (one, other) = whole.split_at(at);
            let mut answer = Answer::default();
            if !one.is_empty() {
                assert!(!answer.take(one, expected).expect("a part"), "{at}");
            }
            assert!(answer.take(other, expected).expect("the rest"), "{at}");
            // And the next one.
            assert!(answer.take(whole, expected).expect("another"), "{at}");
        }
    }

    #[test]
    fn wrong_answers_are_errors() {
        let expected = Expected {
            status: 200,
            length: 5,
        };
        for wrong in [
            "HTTP/1.1 403 Forbidden\r\ncontent-length: 5\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nhell",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello!",
            "SSH-2.0-x\r\n\r\n",
        ] {
            let taken = Answer::default().take(wrong.as_bytes(), expected);
            assert!(taken.is_err(), "{wrong}");
        }
    }
}
