//! What a revocation finds in the pool, on both drivers.

use http::{Method, Response};
use rustls::{ClientConfig, RootCertStore};

use super::*;
use crate::identity::revocation::Serial;
use crate::io::mux::ServerConnection;
use crate::io::rt::testing::{on_both, sockets};
use crate::policy::{OutboundTarget, decide_outbound};

fn peer(name: &str) -> Arc<PeerLeaf> {
    Arc::new(PeerLeaf {
        id: SpiffeId::parse(&format!("spiffe://td/{name}")).unwrap(),
        serial: Serial::of_bytes(name.as_bytes()),
        node: None,
    })
}

fn revoked(name: &str) -> Arc<Revocations> {
    let mut all = Revocations::default();
    all.add(Target::Id(peer(name).id.clone()), "test").unwrap();
    Arc::new(all)
}

/// A connection to a far end that takes every tunnel, and a word when that far end has seen its end.
async fn connected(name: &str) -> (Pooled, Rc<Notify>) {
    let (up, down) = sockets().await;
    let mut far = ServerConnection::new(down.into());
    let over = Rc::new(Notify::new());
    let told = Rc::clone(&over);
    rt::spawn(async move {
        let mut open = Vec::new();
        // The other end may be gone before that.
        if far.handshake().await.is_ok() {
            while let Ok(Some((request, mut respond))) = far.accept().await {
                respond.send_response(&Response::new(()), false).unwrap();
                open.push(request.into_body());
            }
        }
        told.notify_one();
    });
    (begun(up.into(), peer(name)), over)
}

/// A tunnel through a pooled connection.
async fn tunnel(mux: &Mux) -> Stream {
    let mut request = Request::new(());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = "10.0.0.1:80".parse().unwrap();
    let (response, tunnel) = mux.open(&request, None).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    tunnel.into()
}

/// Where nobody listens.
fn far() -> Far {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    Far {
        address: "127.83.77.1:15008".parse().unwrap(),
        expected: peer("b").id.clone(),
        also: None,
        source: peer("caller").id.clone(),
        tls: Arc::new(tls),
        head: Head {
            authority: "10.0.0.1:80".to_owned(),
            client: None,
            service: None,
            baggage: None,
            trace: None,
        },
        options: ConnectOptions::default(),
    }
}

/// The pool with one slot, and that slot.
fn pool() -> (Pool, Rc<Slot>) {
    let (pool, slot) = (Pool::default(), Rc::new(Slot::default()));
    let key = far().key();
    pool.by_key.borrow_mut().insert(key, Rc::clone(&slot));
    (pool, slot)
}

/// Somebody dials one more and gets no answer: that must not save the connections that are there.
#[test]
fn a_revocation_ends_connections_while_another_one_is_dialled() {
    on_both(|| {
        Box::pin(async {
            let (pool, slot) = pool();
            let (stays, _) = connected("a").await;
            let (goes, over) = connected("b").await;
            let to: SocketAddr = "127.83.77.1:15008".parse().unwrap();
            pool.admit(stays, &slot, to).unwrap();
            let (mux, _leaf) = pool.admit(goes, &slot, to).unwrap();
            let _tunnel = tunnel(&mux).await;
            let _dialling = slot.connecting.lock().await;
            assert_eq!(pool.cut(&revoked("c")), 0);
            assert_eq!(pool.cut(&revoked("b")), 1);
            over.notified().await;
            let left = slot.with_room();
            assert_eq!(left.map(|(_mux, leaf)| leaf), Some(peer("a")));
        })
    });
}

/// The handshake was before the revocation, the connection is there after it.
#[test]
fn a_connection_that_comes_after_its_revocation_is_not_used() {
    on_both(|| {
        Box::pin(async {
            let (pool, slot) = pool();
            let (fresh, over) = connected("b").await;
            assert_eq!(pool.cut(&revoked("b")), 0);
            let to: SocketAddr = "127.83.77.1:15008".parse().unwrap();
            let refused = pool.admit(fresh, &slot, to).map(|_pooled| ());
            assert!(
                matches!(refused, Err(HboneError::Revoked { .. })),
                "{refused:?}"
            );
            over.notified().await;
            // It is undone: the next one is used.
            assert_eq!(pool.cut(&Arc::default()), 0);
            let (again, _over) = connected("b").await;
            assert!(pool.admit(again, &slot, to).is_ok());
        })
    });
}

/// A slot in which somebody dials is not forgotten, an empty one is.
#[test]
fn sweeping_leaves_a_slot_that_is_used() {
    on_both(|| {
        Box::pin(async {
            let (pool, slot) = pool();
            let dialling = slot.connecting.lock().await;
            pool.sweep();
            assert_eq!(pool.by_key.borrow().len(), 1);
            drop(dialling);
            pool.sweep();
            assert!(pool.by_key.borrow().is_empty());
        })
    });
}

/// A process that ends forgets its pool again and again; what still goes on there is not to lose the way that it waits for.
#[test]
fn who_waits_for_a_connection_has_it_although_the_pool_is_cleared() {
    on_both(|| {
        Box::pin(async {
            let (pool, far) = (Pool::default(), far());
            let permit = decide_outbound(OutboundTarget::Known, false).permit();
            let permit = permit.unwrap();
            let dialled = async {
                let slot = Rc::clone(pool.by_key.borrow_mut().entry(far.key()).or_default());
                let dialling = slot.connecting.lock().await;
                // The other one comes, and waits.
                rt::sleep(20).await;
                pool.clear();
                let (fresh, over) = connected("b").await;
                pool.admit(fresh, &slot, far.address).unwrap();
                drop(dialling);
                over
            };
            let (over, opened) = tokio::join!(dialled, pool.open(&permit, &far, None));
            let (tunnel, leaf) = opened.unwrap();
            assert_eq!(leaf, peer("b"));
            // It is the last: nothing else keeps the connection.
            drop(tunnel);
            over.notified().await;
        })
    });
}
