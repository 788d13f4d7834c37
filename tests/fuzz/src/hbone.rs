//! Connections of tunnels: what a peer sends means the same in any pieces, and what we send back is the same, too, and
//! made of whole frames. Header blocks: read as another decoder reads them.

use ringgate::h2::frame::PREFACE;
use ringgate::h2::hpack::{Decoder, HpackError};
use ringgate::hbone::head::Fields;
use ringgate::hbone::{CLIENT, ConnectHead, Event, ResponseHead, SERVER, Session};

use super::connection::{drive, same_in_pieces};

/// Frames of a client behind its preface, and the same bytes as a server's.
pub fn run(data: &[u8]) {
    let begun = [PREFACE, data].concat();
    same_in_pieces("server", |pieces| {
        let session = Session::new(SERVER);
        drive(session, &begun, pieces, |session, event, _| {
            if let Event::Request { id, head, .. } = event {
                assert!(!head.connect || !head.authority.contains(['\r', '\n', '\0']));
                let status = if head.connect { 200 } else { 400 };
                session.respond(*id, &ResponseHead::new(status), !head.connect);
                session.data_head(*id, 10, false);
            }
        })
    });
    same_in_pieces("client", |pieces| {
        let mut session = Session::new(CLIENT);
        let fields = Fields::default();
        let head = ConnectHead {
            authority: "a:1",
            fields: &fields,
        };
        for _ in 0..3 {
            session.open(&head).expect("a new connection takes streams");
        }
        drive(session, data, pieces, |_, _, _| {})
    });
}

type Block = Vec<(Vec<u8>, Vec<u8>)>;

/// Two header blocks, the first byte being the length of the first.
pub fn hpack(data: &[u8]) {
    let Some((first, rest)) = data.split_first() else {
        return;
    };
    let (one, two) = rest.split_at(usize::from(*first).min(rest.len()));
    let (mut ours, mut other) = (Decoder::default(), loona_hpack::Decoder::new());
    other.set_max_allowed_table_size(4096);
    for block in [one, two] {
        let mut fields = Block::new();
        let got = ours.decode(block, |n, v| fields.push((n.to_vec(), v.to_vec())));
        let want = other.decode(block);
        match (got, want) {
            (Ok(()), Ok(want)) => assert_eq!(fields, want),
            // It wants a field behind a change of the size; the standard only wants the change before fields.
            (Ok(()), Err(loona_hpack::decoder::DecoderError::SizeUpdateAtEnd)) => {
                assert!(fields.is_empty());
            }
            (Ok(()), Err(want)) => panic!("it is refused elsewhere: {want}"),
            // It takes a change of the size behind fields.
            (Err(HpackError::Size), _) => return,
            (Err(_), Err(_)) => return,
            (Err(got), Ok(want)) => panic!("{got}, but elsewhere {want:?}"),
        }
    }
}
