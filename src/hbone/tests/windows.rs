//! How much may be sent, and when there is room again.

use super::*;

#[test]
fn receive_windows() {
    let (mut tested, id) = Tested::client();
    let window = CLIENT.window;
    let piece = vec![0; 1 << 20];
    for _ in 0..4 {
        tested.take(&frame(kind::DATA, 0, id, &piece)).unwrap();
    }
    assert!(tested.sent().is_empty(), "nothing is released by itself");
    tested.session.release(id, window / 2 - 1);
    assert!(tested.sent().is_empty());
    tested.session.release(id, 1);
    let update = (window / 2).to_be_bytes().to_vec();
    assert_eq!(tested.sent(), [(kind::WINDOW_UPDATE, 0, id, update)]);
    // Half of it may come again, and no byte more.
    for _ in 0..2 {
        tested.take(&frame(kind::DATA, 0, id, &piece)).unwrap();
    }
    tested.take(&frame(kind::DATA, 0, id, b"x")).unwrap();
    assert_eq!(tested.resets(), [(id, Code::FLOW_CONTROL_ERROR)]);
}

#[test]
fn slow_streams_do_not_stop_the_others() {
    let mut tested = Tested::server();
    let many: Vec<_> = (0..21).map(|n| connect(n * 2 + 1)).collect();
    tested.take(&many.concat()).unwrap();
    tested.sent();
    let piece = vec![0; 1 << 20];
    let fill = |tested: &mut Tested, n: u32| {
        for _ in 0..4 {
            let taken = tested.take(&frame(kind::DATA, 0, n * 2 + 1, &piece));
            tested.data.clear();
            taken?;
        }
        Ok::<(), ConnectionError>(())
    };
    // Four full streams are as much as the whole window; what goes back lets the others go on.
    (0..4).for_each(|n| fill(&mut tested, n).unwrap());
    let updates: Vec<_> = tested.sent().into_iter().map(|f| (f.0, f.2)).collect();
    assert_eq!(updates, [(kind::WINDOW_UPDATE, 0)]);
    // Until they hold all that one connection may hold; there is no single stream to blame then.
    let failed = (4..21).find_map(|n| Some((n, fill(&mut tested, n).err()?)));
    let (full, error) = failed.unwrap();
    assert_eq!(error.code, Code::FLOW_CONTROL_ERROR);
    assert!((18..=20).contains(&full), "{full} streams");
    let least = full * SERVER.window;
    assert!(least <= 16 * (1 << 20) + limits::HBONE_ADVANCE_BYTES);
}

#[test]
fn what_slow_streams_had_in_advance_comes_back() {
    for (forgets, step) in [(false, 100_000), (false, 1 << 20), (true, 1)] {
        let (mut tested, id) = Tested::client();
        let all = 3 << 20;
        for _ in 0..3 {
            tested
                .take(&frame(kind::DATA, 0, id, &vec![0; 1 << 20]))
                .unwrap();
        }
        let advance = limits::HBONE_ADVANCE_BYTES;
        let given = all - limits::HBONE_CHARGED_BYTES;
        assert_eq!(tested.session.advance, advance - given);
        let mut left = all;
        while left > 0 {
            tested.session.release(id, step.min(left));
            left = left.saturating_sub(step);
            if forgets {
                tested.session.forget(id);
                break;
            }
        }
        assert_eq!(tested.session.advance, advance);
        // Every byte is back in the connection's window, and none twice.
        assert_eq!(tested.session.receive.free(8 << 20), Some((8 << 20) + all));
    }
}

#[test]
fn padding_counts_and_is_given_back() {
    let (mut tested, id) = Tested::client();
    let frame = frame(
        kind::DATA,
        flag::PADDED,
        id,
        &[&[255][..], &[0; 255]].concat(),
    );
    for _ in 0..8192 {
        tested.take(&frame).unwrap();
        tested.session.flood = Flood::default();
    }
    let updates: u32 = tested
        .sent()
        .iter()
        .filter(|f| f.2 == id)
        .map(|f| u32::from_be_bytes(f.3[..4].try_into().unwrap()))
        .sum();
    assert_eq!(updates, 2 << 20);
    assert!(tested.data.is_empty());
}

#[test]
fn send_windows() {
    let (mut tested, id) = Tested::client();
    assert_eq!(
        tested.session.room(id),
        Some(16_384),
        "the peer's longest frame"
    );
    tested.take(&settings(&[(5, 1 << 20)])).unwrap();
    assert_eq!(tested.session.room(id), Some(65_535));
    assert_eq!(tested.session.data_head(id, 65_536, false), None);
    assert_eq!(
        tested.session.data_head(id, 0, false),
        None,
        "moves nothing"
    );
    let head = tested.session.data_head(id, 65_000, false).unwrap();
    assert_eq!(FrameHead::parse(head).len, 65_000);
    // The setting takes back what is spent already: the window is negative.
    tested.take(&settings(&[(4, 1000)])).unwrap();
    assert_eq!(tested.session.room(id), Some(0));
    tested.take(&update(id, 64_500)).unwrap();
    assert_eq!(tested.session.room(id), Some(500));
    tested.take(&update(id, 100_000)).unwrap();
    assert_eq!(tested.session.room(id), Some(535), "the connection's");
    tested.take(&update(0, 1 << 20)).unwrap();
    assert_eq!(tested.session.room(id), Some(100_500));
    let rooms: Vec<_> = tested
        .events
        .iter()
        .filter(|e| matches!(e, Event::Room { .. }))
        .collect();
    assert_eq!(rooms.len(), 3, "{rooms:?}");
    // A new stream begins with the new window.
    let other = tested.open();
    assert_eq!(tested.session.room(other), Some(1000));
}
