//! Connections over sockets: rustls's buffered streams are the peers, on the same core.

use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;
use crate::io::relay::{Broken, Meter, Passed, relay};
use crate::io::rt::testing::{on_both, sockets};
use crate::io::rt::{self, Tcp};
use crate::io::stream::Stream;
use crate::io::tls;

const NAME: &str = "peer.example";

fn configs() -> (Arc<ServerConfig>, Arc<ClientConfig>) {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    server.enable_secret_extraction = true;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).unwrap();
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.enable_secret_extraction = true;
    (Arc::new(server), Arc::new(client))
}

fn name() -> ServerName<'static> {
    ServerName::try_from(NAME).unwrap()
}

/// Our client end and rustls's server end.
async fn connected() -> (Stream, tokio_rustls::server::TlsStream<Tcp>) {
    let (server, client) = configs();
    let (connected, accepted) = sockets().await;
    let acceptor = TlsAcceptor::from(server);
    let (theirs, ours) = tokio::join!(
        acceptor.accept(accepted),
        tls::connect(connected.into(), client, name())
    );
    (ours.unwrap().0, theirs.unwrap())
}

fn pattern(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

#[test]
fn a_server_takes_its_configuration_by_name_and_reads_to_the_end() {
    on_both(async || {
        let (server, client) = configs();
        let (connected, accepted) = sockets().await;
        let connector = TlsConnector::from(client);
        let (theirs, ours) = tokio::join!(
            connector.connect(name(), connected),
            tls::accept(accepted.into(), |sni| {
                assert_eq!(sni, Some(NAME));
                Some(server)
            })
        );
        let (mut theirs, (mut ours, proof)) = (theirs.unwrap(), ours.unwrap());
        assert_eq!(proof.sni.as_deref(), Some(NAME));
        let sent = pattern(300_000);
        let mut got = Vec::new();
        let write = async {
            theirs.write_all(&sent).await.unwrap();
            theirs.shutdown().await.unwrap();
        };
        let (_, read) = tokio::join!(write, ours.read_to_end(&mut got));
        read.unwrap();
        assert!(got == sent);
        // The other direction is still open.
        ours.write_all(&sent).await.unwrap();
        let mut got = vec![0; sent.len()];
        theirs.read_exact(&mut got).await.unwrap();
        assert!(got == sent);
        ours.shutdown().await.unwrap();
        assert_eq!(theirs.read(&mut got).await.unwrap(), 0);
    });
}

#[test]
fn a_cut_stream_is_an_error() {
    on_both(async || {
        let (mut ours, mut theirs) = connected().await;
        theirs.write_all(b"not all").await.unwrap();
        theirs.flush().await.unwrap();
        theirs.get_ref().0.shutdown_both();
        let mut got = Vec::new();
        let error = ours.read_to_end(&mut got).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(got, b"not all");
    });
}

#[test]
fn a_forged_record_is_answered_by_an_alert() {
    on_both(async || {
        let (mut ours, theirs) = connected().await;
        let (mut socket, mut session) = theirs.into_inner();
        socket
            .write_all(&[&[23, 3, 3, 0, 64], [0_u8; 64].as_slice()].concat())
            .await
            .unwrap();
        let error = ours.read(&mut [0; 10]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        let mut wire = vec![0; 1000];
        let n = socket.read(&mut wire).await.unwrap();
        session.read_tls(&mut &wire[..n]).unwrap();
        let told = session.process_new_packets().unwrap_err();
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::BadRecordMac);
        assert_eq!(told, alert);
        // It stays broken.
        assert!(ours.read(&mut [0; 10]).await.is_err());
        assert!(ours.write_all(b"more").await.is_err());
    });
}

#[test]
fn an_idle_connection_holds_no_buffer() {
    on_both(async || {
        let (mut ours, mut theirs) = connected().await;
        for len in [1, 100, 200_000] {
            let sent = pattern(len);
            let mut got = vec![0; len];
            let write = theirs.write_all(&sent);
            let (written, read) = tokio::join!(write, ours.read_exact(&mut got));
            written.unwrap();
            read.unwrap();
            let write = ours.write_all(&sent);
            let (written, read) = tokio::join!(write, theirs.read_exact(&mut got));
            written.unwrap();
            read.unwrap();
            assert!(rt::timeout(20, ours.read(&mut [0; 1])).await.is_err());
            let tls = ours.tls().unwrap();
            assert_eq!(tls.inbox.capacity(), 0);
            assert!(tls.outgoing.is_none() && tls.rest.is_empty());
        }
        // Of a record that comes slowly no more than what came is held.
        let socket = &mut theirs.get_mut().0;
        socket.write_all(&[23, 3, 3, 64, 0, 1, 2, 3]).await.unwrap();
        assert!(rt::timeout(20, ours.read(&mut [0; 1])).await.is_err());
        let held = ours.tls().unwrap().inbox.capacity();
        assert!(held < 64, "{held} bytes");
    });
}

/// The beginning of a record behind many that came fast does not keep their buffer.
#[test]
fn a_record_that_stalls_holds_a_small_buffer() {
    on_both(async || {
        let (mut ours, mut theirs) = connected().await;
        let sent = pattern(400_000);
        theirs.write_all(&sent).await.unwrap();
        theirs.flush().await.unwrap();
        let mut part = vec![23, 3, 3, 64, 0];
        part.resize(2000, 1);
        theirs.get_mut().0.write_all(&part).await.unwrap();
        let mut got = vec![0; sent.len()];
        ours.read_exact(&mut got).await.unwrap();
        assert!(rt::timeout(20, ours.read(&mut [0; 1])).await.is_err());
        let tls = ours.tls().unwrap();
        assert_eq!(tls.inbox.len(), part.len());
        let held = tls.inbox.capacity();
        assert!(held <= Size::Small.bytes(), "{held} bytes");
    });
}

#[test]
fn keys_change_under_load_on_both_sides() {
    on_both(async || {
        let (mut ours, theirs) = connected().await;
        ours.tls().unwrap().records.update_after(3);
        let (mut read, mut write) = tokio::io::split(theirs);
        let (mut our_read, mut our_write) = ours.split();
        let sent = pattern(3_000_000);
        let (mut got, mut back) = (vec![0; sent.len()], vec![0; sent.len()]);
        let (a, b, c, d) = tokio::join!(
            our_write.write_all(&sent),
            read.read_exact(&mut got),
            write.write_all(&sent),
            our_read.read_exact(&mut back)
        );
        a.unwrap();
        b.unwrap();
        c.unwrap();
        d.unwrap();
        assert!(got == sent && back == sent);
    });
}

/// An app, the relay, and a TLS peer that answers after the end of what it got.
#[test]
fn the_relay_seals_and_opens_in_place() {
    on_both(async || {
        let (ours, theirs) = connected().await;
        let (app, down) = sockets().await;
        let meter = Meter::default();
        let relayed = relay(down.into(), ours, &meter);
        let sent = pattern(5_000_000);
        let answer = pattern(3_000_001);
        let mut app = Stream::from(app);
        let talk = async {
            app.write_all(&sent).await.unwrap();
            app.shutdown().await.unwrap();
            let mut got = Vec::new();
            app.read_to_end(&mut got).await.unwrap();
            got
        };
        let mut theirs = theirs;
        let serve = async {
            let mut got = Vec::new();
            theirs.read_to_end(&mut got).await.unwrap();
            assert!(got == sent);
            theirs.write_all(&answer).await.unwrap();
            theirs.shutdown().await.unwrap();
        };
        let (done, got, ()) = tokio::join!(relayed, talk, serve);
        done.unwrap();
        assert!(got == answer);
        let want = Passed {
            received: 5_000_000,
            sent: 3_000_001,
        };
        assert_eq!(meter.get(), want);
    });
}

/// A peer that asks for new keys while bytes of the other direction wait to be sealed gets them.
#[test]
fn the_relay_changes_keys_between_two_slots() {
    on_both(async || {
        let (ours, mut theirs) = connected().await;
        let (app, down) = sockets().await;
        let meter = Meter::default();
        let relayed = relay(down.into(), ours, &meter);
        let part = pattern(50_000);
        let (mut read, mut write) = Stream::from(app).split();
        let talk = async {
            // Nothing is read yet: the relay waits for room with a request for new keys open.
            for piece in part.chunks(500) {
                write.write_all(piece).await.unwrap();
                rt::sleep(1).await;
            }
            write.shutdown().await.unwrap();
            let mut got = Vec::new();
            read.read_to_end(&mut got).await.unwrap();
            got
        };
        let serve = async {
            for _ in 0..400 {
                theirs.write_all(&part).await.unwrap();
                theirs.get_mut().1.refresh_traffic_keys().unwrap();
            }
            let mut got = vec![0; part.len()];
            theirs.read_exact(&mut got).await.unwrap();
            assert!(got == part);
            theirs.shutdown().await.unwrap();
        };
        let (done, got, ()) = tokio::join!(relayed, talk, serve);
        done.unwrap();
        assert!(got == part.repeat(400));
    });
}

/// A TLS peer that vanishes without close_notify resets the app: what it has is not complete.
#[test]
fn the_relay_breaks_off_what_is_cut() {
    on_both(async || {
        let (ours, mut theirs) = connected().await;
        let (app, down) = sockets().await;
        let meter = Meter::default();
        theirs.write_all(b"half an answer").await.unwrap();
        theirs.flush().await.unwrap();
        theirs.get_ref().0.shutdown_both();
        let done = relay(down.into(), ours, &meter).await;
        // The side of the records was cut.
        assert!(
            matches!(&done, Err(Broken::Upstream(e)) if e.kind() == io::ErrorKind::UnexpectedEof),
            "{done:?}"
        );
        assert_eq!(meter.get().sent, 14);
        let mut app = Stream::from(app);
        let mut got = Vec::new();
        let end = app.read_to_end(&mut got).await.unwrap_err();
        assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
    });
}

/// Slots with room for a frame header, as a tunnel uses them.
#[test]
fn slots_carry_frames() {
    on_both(async || {
        let (mut ours, mut theirs) = connected().await;
        let (mut app, down) = sockets().await;
        let sent = pattern(2 * (PAYLOAD_BYTES - 9) + 100);
        app.write_all(&sent).await.unwrap();
        rt::sleep(20).await;
        let mut slots = Some(Slots::take(9, Size::Large));
        let n = std::future::poll_fn(|cx| {
            down.poll_read_vectored(cx, &mut slots.as_mut().unwrap().payloads(usize::MAX))
        })
        .await
        .unwrap();
        let mut frames = Vec::new();
        std::future::poll_fn(|cx| ours.tls().unwrap().poll_clear(cx))
            .await
            .unwrap();
        std::future::poll_fn(|cx| {
            let tls = ours.tls().unwrap();
            let mut slots = slots.take().unwrap();
            let framed = slots.frame(n, |head, len| {
                frames.push(len);
                head.copy_from_slice(&[b'H'; 9]);
                true
            });
            assert!(framed);
            Poll::Ready(tls.send_slots(cx, slots, n))
        })
        .await
        .unwrap();
        ours.flush().await.unwrap();
        assert_eq!(frames.iter().sum::<usize>(), n);
        let mut from = sent.as_slice();
        for len in frames {
            let mut got = vec![0; 9 + len];
            theirs.read_exact(&mut got).await.unwrap();
            let (payload, rest) = from.split_at(len);
            from = rest;
            assert!(got[..9] == [b'H'; 9] && got[9..] == *payload);
        }
    });
}
