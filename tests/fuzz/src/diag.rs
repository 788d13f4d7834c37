//! Answers of the kernel about sockets: nobody owns a connection by an answer that is about another, or about none.

use ringgate::io::sock_diag::{QUERY_BYTES, decode, encode};

/// A netlink message with its header.
pub fn run(data: &[u8]) {
    let sequence = data.get(8..).and_then(|rest| rest.first_chunk().copied());
    let sequence = sequence.map_or(0, u32::from_ne_bytes);
    let answer = decode(data, sequence);
    assert!(
        decode(data, sequence.wrapping_add(1)).is_none(),
        "an answer to another question"
    );
    let Some(Ok(found)) = answer else {
        return;
    };
    assert!(data.len() >= 88, "shorter than what it tells");
    assert_eq!(
        encode(sequence, found.local, found.remote).len(),
        QUERY_BYTES
    );
    match found.owned(found.local, found.remote) {
        Ok(owned) => assert!(
            owned.inode != 0 && owned.state != 10,
            "nobody owns {owned:?}"
        ),
        Err(_none) => assert!(
            found.inode == 0 || found.state != 1,
            "somebody owns {found:?}"
        ),
    }
    if found.local != found.remote {
        assert!(found.owned(found.remote, found.local).is_err());
    }
}
