//! A raw client of HTTP/2: frames as given, answers read by a decoder that is not ours.

use loona_hpack::Decoder;

use crate::client::Conn;
use crate::frames::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE, RST_STREAM, SETTINGS,
    WINDOW_UPDATE, block, frame, read,
};
use crate::system::{Place, System};

/// How a stream ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It has not.
    #[default]
    Open,
    /// As it should.
    Whole,
    /// By RST_STREAM, with this code.
    Reset(u32),
    /// With its connection: by GOAWAY with this code, or without a word.
    Connection(Option<u32>),
}

/// What came on a stream.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    /// Of the last head; 0 if there was none.
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) ended: Ended,
}

impl Answer {
    /// All values of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(n, _)| n == name);
        named.map(|(_, value)| value.as_str()).collect()
    }
}

/// A connection.
pub(crate) struct Streams {
    pub(crate) conn: Conn,
    decoder: Decoder<'static>,
    /// What each settings frame has said.
    pub(crate) settings: Vec<(u16, u32)>,
}

impl Streams {
    /// A connection whose preface was sent.
    pub(crate) fn open(system: &System, place: Place) -> Self {
        let mut conn = system.try_connect(place, "h2").expect("connects");
        conn.send(PREFACE);
        // No window is ever full but where a test wants it to be.
        conn.send(&frame(WINDOW_UPDATE, 0, 0, &0x3fff_0000_u32.to_be_bytes()));
        Self {
            conn,
            decoder: Decoder::new(),
            settings: Vec::new(),
        }
    }

    /// Sends a head.
    pub(crate) fn head(&mut self, stream: u32, fields: &[(&[u8], &[u8])], end: bool) {
        let flags = END_HEADERS | if end { END_STREAM } else { 0 };
        self.conn
            .send(&frame(HEADERS, flags, stream, &block(fields)));
    }

    /// Sends a head and content of one frame, which ends the stream, at once.
    pub(crate) fn message(&mut self, stream: u32, fields: &[(&[u8], &[u8])], body: &[u8]) {
        let head = frame(HEADERS, END_HEADERS, stream, &block(fields));
        let body = frame(DATA, END_STREAM, stream, body);
        self.conn.send(&[head, body].concat());
    }

    /// Sends a head that ends the stream, in as many frames as it takes.
    pub(crate) fn long_head(&mut self, stream: u32, fields: &[(&[u8], &[u8])]) {
        let block = block(fields);
        let mut pieces = block.chunks(16_384).peekable();
        let (mut kind, mut flags) = (HEADERS, END_STREAM);
        while let Some(piece) = pieces.next() {
            if pieces.peek().is_none() {
                flags |= END_HEADERS;
            }
            self.conn.send(&frame(kind, flags, stream, piece));
            (kind, flags) = (CONTINUATION, 0);
        }
    }

    /// Sends content.
    pub(crate) fn data(&mut self, stream: u32, bytes: &[u8], end: bool) -> bool {
        let mut pieces = bytes.chunks(16_384).peekable();
        let mut sent = true;
        while let Some(piece) = pieces.next() {
            let flags = if end && pieces.peek().is_none() {
                END_STREAM
            } else {
                0
            };
            sent &= self.conn.send(&frame(DATA, flags, stream, piece));
        }
        sent
    }

    /// Ends our side of a stream.
    pub(crate) fn end(&mut self, stream: u32) {
        self.conn.send(&frame(DATA, END_STREAM, stream, b""));
    }

    /// Resets a stream.
    pub(crate) fn reset(&mut self, stream: u32) {
        self.conn
            .send(&frame(RST_STREAM, 0, stream, b"\x00\x00\x00\x08"));
    }

    /// Takes what comes on a stream until `enough`, or its end.
    pub(crate) fn until(
        &mut self,
        stream: u32,
        answer: &mut Answer,
        enough: impl Fn(&Answer) -> bool,
    ) {
        let word = |p: &[u8]| u32::from_be_bytes(p[..4].try_into().unwrap());
        while answer.ended == Ended::Open && !enough(answer) {
            let Some((kind, flags, id, payload)) = read(&mut self.conn) else {
                answer.ended = Ended::Connection(None);
                return;
            };
            match kind {
                SETTINGS if flags == 0 => {
                    for one in payload.chunks(6) {
                        let id = u16::from_be_bytes([one[0], one[1]]);
                        self.settings.push((id, word(&one[2..])));
                    }
                }
                HEADERS => {
                    assert_eq!(flags & END_HEADERS, END_HEADERS, "a long head");
                    let fields = self.decoder.decode(&payload).expect("a header block");
                    if id == stream {
                        answer.fields = fields
                            .iter()
                            .map(|(n, v)| {
                                let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
                                (text(n), text(v))
                            })
                            .collect();
                        let status = answer.all(":status").first().and_then(|s| s.parse().ok());
                        answer.status = status.unwrap_or(answer.status);
                    }
                }
                DATA if id == stream => {
                    answer.body.extend_from_slice(&payload);
                    let more = (payload.len() as u32).to_be_bytes();
                    if !payload.is_empty() {
                        self.conn.send(&frame(WINDOW_UPDATE, 0, stream, &more));
                    }
                }
                RST_STREAM if id == stream => answer.ended = Ended::Reset(word(&payload)),
                GOAWAY if word(&payload[4..]) != 0 => {
                    answer.ended = Ended::Connection(Some(word(&payload[4..])));
                }
                _ => {}
            }
            if matches!(kind, HEADERS | DATA) && id == stream && flags & END_STREAM != 0 {
                answer.ended = Ended::Whole;
            }
        }
    }

    /// All that comes on a stream.
    pub(crate) fn answer(&mut self, stream: u32) -> Answer {
        let mut answer = Answer::default();
        self.until(stream, &mut answer, |_| false);
        answer
    }

    /// The head of an answer.
    pub(crate) fn begun(&mut self, stream: u32) -> Answer {
        let mut answer = Answer::default();
        self.until(stream, &mut answer, |a| a.status >= 200);
        answer
    }
}
