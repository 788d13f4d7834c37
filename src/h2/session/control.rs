//! What the peer says of the connection and of windows: SETTINGS, PING, GOAWAY, WINDOW_UPDATE.

use crate::h2::frame::{
    self, Code, FrameHead, MAX_MAX_FRAME, MAX_WINDOW, MIN_MAX_FRAME, flag, kind, setting,
};
use crate::h2::heads::Heads;
use crate::h2::session::receive::{Outcome, error, protocol, word};
use crate::h2::session::{ALIVE_PING, DRAIN_PING, Event, Going, Session, Side};
use crate::vocab::limits;

impl<H: Heads> Session<H> {
    pub(super) fn settings(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        sink: &mut impl FnMut(Event<H>),
    ) -> Outcome {
        self.spend(1)?;
        if head.has(flag::ACK) {
            return Ok(());
        }
        let mut wider = false;
        for one in payload.chunks_exact(6) {
            let &[i0, i1, v0, v1, v2, v3] = one else {
                continue;
            };
            let value = u32::from_be_bytes([v0, v1, v2, v3]);
            wider |= self.set(u16::from_be_bytes([i0, i1]), value)?;
        }
        if !std::mem::replace(&mut self.settled, true)
            && !payload.chunks_exact(6).any(is_max_streams)
        {
            self.peer_max_streams = u32::MAX;
        }
        frame::put(&mut self.out, kind::SETTINGS, flag::ACK, 0, &[]);
        if wider {
            sink(Event::Room { id: 0 });
        }
        Ok(())
    }

    /// Applies a setting of the peer; `true` if more may be sent now.
    fn set(&mut self, id: u16, value: u32) -> Outcome<bool> {
        match id {
            setting::HEADER_TABLE_SIZE => {
                let ours = u32::try_from(limits::HPACK_TABLE_BYTES).unwrap_or(u32::MAX);
                self.shrink |= value < ours;
            }
            setting::ENABLE_PUSH => {
                let most = u32::from(self.own.side == Side::Server);
                if value > most {
                    return protocol("ENABLE_PUSH has a value that it cannot have");
                }
            }
            setting::MAX_CONCURRENT_STREAMS => self.peer_max_streams = value,
            setting::INITIAL_WINDOW_SIZE => {
                if i64::from(value) > MAX_WINDOW {
                    return error(Code::FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE is too large");
                }
                let change = i64::from(value).saturating_sub(i64::from(self.peer_window));
                self.peer_window = value;
                for (_id, entry) in self.streams.iter_mut() {
                    if !entry.widen(change) {
                        return error(
                            Code::FLOW_CONTROL_ERROR,
                            "INITIAL_WINDOW_SIZE makes a window too large",
                        );
                    }
                }
                return Ok(change > 0);
            }
            setting::MAX_FRAME_SIZE => {
                if !(MIN_MAX_FRAME..=MAX_MAX_FRAME).contains(&value) {
                    return protocol("MAX_FRAME_SIZE has a value that it cannot have");
                }
                self.peer_max_frame = value;
            }
            // Once offered it is not taken back (RFC 8441 section 3).
            setting::ENABLE_CONNECT_PROTOCOL => match (value, self.peer_extended) {
                (1, _) => self.peer_extended = true,
                (0, false) => {}
                _ => return protocol("ENABLE_CONNECT_PROTOCOL has a value that it cannot have"),
            },
            // MAX_HEADER_LIST_SIZE is advice; what we do not know is ignored.
            _ => {}
        }
        Ok(false)
    }

    pub(super) fn pinged(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        sink: &mut impl FnMut(Event<H>),
    ) -> Outcome {
        if !head.has(flag::ACK) {
            frame::put(&mut self.out, kind::PING, flag::ACK, 0, payload);
            return self.spend(1);
        }
        if payload == DRAIN_PING && self.going == Going::Announced {
            let last = self.last_peer;
            self.put_go_away(Going::Final(last), last, Code::NO_ERROR);
        } else if self.pinged && payload == ALIVE_PING {
            self.pinged = false;
            sink(Event::Pong);
        } else {
            self.spend(1)?;
        }
        Ok(())
    }

    pub(super) fn peer_goes(&mut self, payload: &[u8], sink: &mut impl FnMut(Event<H>)) -> Outcome {
        self.spend(1)?;
        let last = word(payload) & frame::MAX_STREAM;
        let code = Code(word(payload.get(4..).unwrap_or_default()));
        if self.peer_going.is_some_and(|before| last > before) {
            return protocol("GOAWAY takes back what an earlier one said");
        }
        self.peer_going = Some(last);
        sink(Event::GoAway { last, code });
        if self.own.side == Side::Client {
            let mut open = self.open;
            for (id, entry) in self.streams.iter_mut() {
                if id > last && !entry.is_reset() {
                    open = open.saturating_sub(u32::from(entry.is_open()));
                    entry.reset();
                    sink(Event::Reset {
                        id,
                        code: Code::REFUSED_STREAM,
                        ours: false,
                    });
                }
            }
            self.open = open;
        }
        Ok(())
    }

    pub(super) fn update(
        &mut self,
        id: u32,
        more: u32,
        sink: &mut impl FnMut(Event<H>),
    ) -> Outcome {
        let more = more & frame::MAX_STREAM;
        if more < limits::H2_SMALL_UPDATE_BYTES {
            self.spend(1)?;
        }
        if id == 0 {
            if more == 0 {
                return protocol("WINDOW_UPDATE of nothing");
            }
            if !self.send.add(i64::from(more)) {
                return error(
                    Code::FLOW_CONTROL_ERROR,
                    "window of the connection is too large",
                );
            }
            sink(Event::Room { id });
            return Ok(());
        }
        if self.is_idle(id) && !self.is_late(id) {
            return protocol("WINDOW_UPDATE on a stream that is not open");
        }
        let Some(entry) = self.streams.find_mut(id) else {
            return self.spend(1);
        };
        if entry.is_reset() {
            return self.spend(1);
        }
        if more == 0 {
            return self.stream_error(id, Code::PROTOCOL_ERROR, sink);
        }
        if !entry.widen(i64::from(more)) {
            return self.stream_error(id, Code::FLOW_CONTROL_ERROR, sink);
        }
        sink(Event::Room { id });
        Ok(())
    }
}

/// Whether a setting is MAX_CONCURRENT_STREAMS, which has no limit where it is not sent (RFC 9113 section 6.5.2).
fn is_max_streams(setting: &[u8]) -> bool {
    setting.starts_with(&setting::MAX_CONCURRENT_STREAMS.to_be_bytes())
}
