//! What arrives at a workload outside of tunnels: plaintext, or mTLS with the workload itself.

use std::net::SocketAddr;
use std::rc::Rc;

use crate::config::checked::Node;
use crate::control::snapshot::MeshTls;
use crate::exchange::close::CloseReason;
use crate::io::clock;
use crate::io::listener::original_destination;
use crate::io::rt::{self, Tcp};
use crate::io::stream::Stream;
use crate::policy::Connection;
use crate::role::plan::{self, SitePoint};
use crate::telemetry::record::Kind;
use crate::vocab::addr::OriginalDst;
use crate::vocab::limits;
use crate::worker::core::Core;
use crate::worker::judge;
use crate::worker::node::{admit, app_of, count_inbound, dialled, direct, hosted, site_of};
use crate::worker::relaying::{First, Rest};
use crate::worker::site::{Site, Story};

/// First byte of a TLS record that carries a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// Takes a place among the connections from others to the workload of a site, for the first that is permitted there: who may
/// not call takes none from those who may.
///
/// # Errors
/// All are taken, which is counted; in words.
pub(super) fn take(core: &Core, site: &Site) -> Result<(), String> {
    let SitePoint::Workload { workload, .. } = &site.point else {
        return Ok(());
    };
    if site.held.taken.get().is_some() {
        return Ok(());
    }
    let peer = site.connection.principal.as_ref();
    let taken = core.places.take_inbound(workload, peer);
    let taken = taken.map_err(|full| full.to_string())?;
    taken.map(|taken| site.held.taken.set(taken));
    Ok(())
}

/// A plaintext or direct mTLS connection to a workload of this node.
pub async fn connection(core: Rc<Core>, tcp: Tcp, node: Rc<Node>) -> Rest {
    let Ok(captured) = original_destination(&tcp) else {
        return Rest::NONE;
    };
    arrived(core, tcp, node, captured.address()).await
}

/// A connection to `dst` that came without a tunnel.
pub(super) async fn arrived(core: Rc<Core>, tcp: Tcp, node: Rc<Node>, dst: OriginalDst) -> Rest {
    let snapshot = core.snapshot();
    let Ok(peer) = tcp.peer() else {
        return Rest::NONE;
    };
    let mut story = Story::about(
        &core,
        ("node", &node.name),
        peer,
        Kind::Connection,
        snapshot.generation,
    );
    let plain = plaintext(peer, dst);
    story.edit(|r| r.connection = Some(plain.clone()));
    let found = hosted(&snapshot, &node, dst);
    let app =
        found.and_then(|(hosted, at)| app_of(&core.process, &snapshot, hosted, at, dst.port()));
    let (Some((hosted, at)), Some(app)) = (found, app) else {
        tcp.reset_on_close();
        story.end(CloseReason::NoRoute);
        return Rest::NONE;
    };
    let Some(workload) = snapshot.mesh.workloads.get(at) else {
        story.end(CloseReason::NoRoute);
        return Rest::NONE;
    };
    story.edit(|r| r.workload = Some(workload.name.joined().into()));
    let site = site_of(&node, hosted, plain.clone(), peer, app);
    let denied = plan::refused_plaintext(&snapshot.mesh, workload, &plain);
    let refused = denied.is_some() && !snapshot.mesh.dry_run;
    let wait = match refused {
        true => limits::RESET_WAIT_MS,
        false => limits::FIRST_BYTE_MS,
    };
    let first = rt::timeout(wait, tcp.peek_first()).await;
    let tls = snapshot.identities.get(&workload.id).cloned();
    if matches!(first, Ok(Ok(Some(TLS_HANDSHAKE)))) {
        story.forget();
        return Box::pin(direct(core, site, tcp.into(), tls, None)).await;
    }
    if let Some(denied) = denied {
        let mut story = story;
        count_inbound(&mut story, &snapshot, &site, Some(at), None);
        if refused {
            // Measured: only readable, then LINGER 0, then close shows the client a reset every time.
            tcp.reset_on_close();
            story.judged(&denied.judged);
            story.end(CloseReason::PlaintextRefused);
            return Rest::NONE;
        }
        let mut would = story.fork();
        would.judged(&denied.judged.unenforced());
        would.end(CloseReason::Done);
        story.forget();
    } else {
        story.forget();
    }
    match first {
        Ok(_said) => admit(core, site, tcp.into(), false).await,
        Err(rt::Elapsed) => Box::pin(silent(core, site, tcp, tls)).await,
    }
}

/// What is known of a connection before anybody has proved anything.
fn plaintext(peer: SocketAddr, dst: OriginalDst) -> Connection {
    Connection {
        principal: None,
        peer: peer.ip().to_canonical(),
        remote: peer.ip().to_canonical(),
        destination: dst.ip(),
        port: dst.port(),
        sni: None,
        time: clock::unix_s(),
    }
}

/// A client that has said nothing yet: the server may be the one to speak first. It is dialled, and whoever speaks first
/// tells what it is, so that the ClientHello of a slow client is still known.
async fn silent(core: Rc<Core>, site: Site, tcp: Tcp, tls: Option<MeshTls>) -> Rest {
    let snapshot = core.snapshot();
    let plan = judge::plan(&snapshot, &site, None, 0);
    let wait = match &plan {
        // In HTTP the client speaks first.
        Ok(plan) if plan.needs_http(false) => Some(limits::HEAD_MS),
        Ok(plan) if plan.judge(&site.connection, None).is_ok() => None,
        // Without an identity it is refused: it has time to show that it has one.
        Ok(_) | Err(_) => Some(limits::RESET_WAIT_MS),
    };
    drop(plan);
    if let Some(wait) = wait {
        let first = core.within(wait, tcp.peek_first()).await;
        if matches!(first, Ok(Ok(Some(TLS_HANDSHAKE)))) {
            return Box::pin(direct(core, site, tcp.into(), tls, None)).await;
        }
        return admit(core, site, tcp.into(), false).await;
    }
    let mut going = match dialled(&core, site.clone(), &snapshot).await {
        Ok(going) => going,
        Err(_close) => {
            Stream::from(tcp).abort();
            return Rest::NONE;
        }
    };
    match going.first_word(&tcp).await {
        First::Client(TLS_HANDSHAKE) => {
            going.forget();
            Box::pin(direct(core, site, tcp.into(), tls, None)).await
        }
        First::Client(_) | First::Server => Rest::relay(going, tcp.into()),
    }
}
