//! HTTP/1 heads and bodies: read the same whatever arrives with them or in which pieces, and sent as they were judged.

use bytes::BytesMut;
use ringgate::http::canonical::{Form, from_h1};
use ringgate::http::h1::{
    BodyDecoder, Chunk, Decoded, Framing, may_decide, parse_request, request_framing, write_fields,
};
use ringgate::policy::Request;
use ringgate::vocab::path::PathNormalization;

/// When the head was read.
const NOW: i64 = 1_763_800_000;

/// A head, perhaps with a body and the next head behind it.
pub fn run(data: &[u8]) {
    let first = parse_request(data);
    let decided = !matches!(first, Ok(None));
    assert!(
        may_decide(data, 0) || !decided,
        "a head would be overlooked"
    );
    let Ok(Some((raw, len))) = first else {
        return;
    };
    let (head, rest) = data.split_at(len);
    assert!(head.ends_with(b"\r\n\r\n"));
    let alone = parse_request(head);
    assert!(
        matches!(&alone, Ok(Some((again, n))) if *n == len && again.target == raw.target
            && again.headers() == raw.headers() && again.method == raw.method),
        "what follows changes the head"
    );
    assert!(
        matches!(parse_request(&head[..len - 1]), Ok(None) | Err(_)),
        "a head without its end"
    );
    let clean = |b: &u8| !matches!(b, b'\r' | b'\n' | 0);
    assert!(
        raw.headers()
            .values()
            .all(|v| v.as_bytes().iter().all(clean))
    );
    if let Ok(framing) = request_framing(&raw) {
        let both = raw.headers().contains_key("content-length")
            && raw.headers().contains_key("transfer-encoding");
        assert!(!both, "two lengths of one body");
        body(framing, rest);
    }
    if let Ok((request, form)) = from_h1(raw, PathNormalization::Base, NOW) {
        sent_as_judged(&request, form);
    }
}

/// What the upstream would read is what policy reads.
fn sent_as_judged(request: &Request, form: Form) {
    assert_eq!(request.path.is_none(), form == Form::Authority);
    let target = request
        .path
        .as_ref()
        .map_or(request.host.as_str(), |p| p.as_str());
    let mut out = BytesMut::new();
    out.extend_from_slice(format!("{} {target} HTTP/1.1\r\n", request.method).as_bytes());
    out.extend_from_slice(format!("host: {}\r\n", request.host).as_bytes());
    let mut fields = request.headers.clone();
    // The hop's own, written anew by whoever sends.
    fields.remove("te");
    fields.remove("upgrade");
    write_fields(&mut out, &fields);
    if !out.ends_with(b"\r\n\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    match parse_request(&out) {
        Ok(Some((raw, len))) => {
            assert_eq!(len, out.len(), "the head ends early");
            let again = from_h1(raw, PathNormalization::Base, NOW);
            let again = again.map(|(r, _)| (r.method, r.host, r.path, r.headers));
            let want = (
                request.method.clone(),
                request.host.clone(),
                request.path.clone(),
                fields,
            );
            assert_eq!(again, Ok(want), "sent is not what was judged");
        }
        Ok(None) => panic!("the head that is sent has no end"),
        // The host may stand there once more than before, and escapes may make the target longer.
        Err(_) => assert!(out.len() > 8192 || request.headers.len() >= 99),
    }
}

/// A body reads the same in one piece and byte by byte.
fn body(framing: Framing, bytes: &[u8]) {
    let whole = read(framing, std::iter::once(bytes));
    let pieces = read(framing, bytes.chunks(1));
    assert_eq!(whole, pieces, "the pieces in which a body comes change it");
}

/// Content, trailers, and how it ended: whether an error, whether complete.
fn read<'b>(
    framing: Framing,
    pieces: impl Iterator<Item = &'b [u8]>,
) -> (Vec<u8>, usize, bool, bool) {
    let mut decoder = BodyDecoder::new(framing);
    let (mut buf, mut content, mut trailers) = (BytesMut::new(), Vec::new(), 0);
    for piece in pieces {
        buf.extend_from_slice(piece);
        loop {
            match decoder.decode(&mut buf) {
                Ok(Decoded::Chunk(Chunk::Data(data))) => content.extend_from_slice(&data),
                Ok(Decoded::Chunk(Chunk::Trailers(fields))) => trailers += fields.len(),
                Ok(Decoded::More) => break,
                Ok(Decoded::End) => return (content, trailers, false, true),
                Err(_) => return (content, trailers, true, false),
            }
        }
    }
    (content, trailers, false, decoder.is_done())
}
