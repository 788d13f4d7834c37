//! The listeners of one core and what each does with a connection.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::mpsc;

use crate::config::checked::Node;
use crate::config::checked::capture::CaptureMode;
use crate::io::clock;
use crate::io::listener::{ListenOptions, bind, bind_with, is_passing};
use crate::io::rt::{self, Acceptor, Tcp};
use crate::vocab::addr::ListenAddr;
use crate::worker::balance::{Balance, Carried, Handed};
use crate::worker::core::Core;
use crate::worker::gateway::{self, At};
use crate::worker::relaying::{Rest, Setup};
use crate::worker::{edge, node, owner};

/// A listener that cannot be had.
#[derive(Debug, Error)]
#[error("cannot listen on `{address}` for {what}")]
pub struct ListenError {
    /// Address.
    pub address: SocketAddr,
    /// What for.
    pub what: &'static str,
    /// Cause.
    #[source]
    pub source: io::Error,
}

/// Binds every listener of the process on this core and serves them.
///
/// # Errors
/// The first that cannot be bound; none is served then.
pub fn start(core: &Rc<Core>, mut balance: Balance) -> Result<(), ListenError> {
    let handed = balance.take_handed();
    let mut starts = Starts {
        balance: Rc::new(balance),
        accepting: Vec::new(),
        spread: Vec::new(),
    };
    nodes(core, &mut starts)?;
    gateways(core, &mut starts)?;
    if let Some(handed) = handed {
        rt::spawn(taking(Rc::clone(core), handed, starts.spread));
    }
    for start in starts.accepting {
        start();
    }
    Ok(())
}

type Serve = Rc<dyn Fn(Rc<Core>, Tcp) -> Setup>;

/// What begins once all listeners are bound.
struct Starts {
    balance: Rc<Balance>,
    accepting: Vec<Box<dyn FnOnce()>>,
    /// The listeners whose connections are spread over the cores, in the same order on each.
    spread: Vec<Serve>,
}

impl Starts {
    fn push(&mut self, start: Box<dyn FnOnce()>) {
        self.accepting.push(start);
    }
}

fn nodes(core: &Rc<Core>, starts: &mut Starts) -> Result<(), ListenError> {
    for node in &core.process.nodes {
        let node = Rc::new(node.clone());
        for address in &node.inbound {
            let (n, to) = (Rc::clone(&node), captured(&node, *address, "inbound")?);
            starts.push(accepting(core, to, move |core, tcp| {
                let node = Rc::clone(&n);
                Box::pin(node::inbound(core, tcp, node))
            }));
        }
        if let Some(address) = node.outbound {
            let (n, to) = (Rc::clone(&node), captured(&node, address, "outbound")?);
            starts.push(accepting(core, to, move |core, tcp| {
                Box::pin(owner::outbound(core, tcp, Rc::clone(&n)))
            }));
        }
        if let Some(address) = node.hbone {
            tunnels(core, starts, address, &At::Node(Rc::clone(&node)))?;
        }
        for (at, workload) in node.workloads.iter().enumerate() {
            if let Some(address) = workload.hbone {
                tunnels(core, starts, address, &At::Node(Rc::clone(&node)))?;
            }
            if let Some(address) = workload.outbound {
                let (n, to) = (Rc::clone(&node), open(address, "outbound")?);
                starts.push(accepting(core, to, move |core, tcp| {
                    Box::pin(node::outbound(core, tcp, Rc::clone(&n), at))
                }));
            }
            if let Some(address) = workload.socks {
                let (n, to) = (Rc::clone(&node), open(address, "SOCKS5")?);
                starts.push(accepting(core, to, move |core, tcp| {
                    Box::pin(node::socks(core, tcp, Rc::clone(&n), at))
                }));
            }
        }
    }
    Ok(())
}

fn gateways(core: &Rc<Core>, starts: &mut Starts) -> Result<(), ListenError> {
    for waypoint in &core.process.waypoints {
        let at = At::Waypoint(waypoint.gateway.clone());
        tunnels(core, starts, waypoint.hbone, &at)?;
        if let Some(address) = waypoint.mtls {
            let to = open(address, "direct mTLS")?;
            starts.push(accepting(core, to, move |core, tcp| {
                to_its_end(gateway::listener(core, tcp, at.clone()))
            }));
        }
    }
    for egress in &core.process.egresses {
        let at = At::Egress(egress.gateway.clone(), egress.proxy.map(|a| a.port()));
        tunnels(core, starts, egress.hbone, &at)?;
        if let Some(address) = egress.proxy {
            let to = open(address, "proxy")?;
            starts.push(accepting(core, to, move |core, tcp| {
                to_its_end(gateway::listener(core, tcp, at.clone()))
            }));
        }
    }
    for (at, ingress) in core.process.ingresses.iter().enumerate() {
        for (nth, listener) in ingress.listeners.iter().enumerate() {
            let (name, to) = (ingress.gateway.clone(), open(listener.address, "ingress")?);
            starts.push(accepting(core, to, move |core, tcp| {
                to_its_end(edge::connection(core, tcp, name.clone(), (at, nth)))
            }));
        }
    }
    Ok(())
}

fn tunnels(
    core: &Rc<Core>,
    starts: &mut Starts,
    address: SocketAddr,
    at: &At,
) -> Result<(), ListenError> {
    let (at, to) = (at.clone(), open(address, "HBONE")?);
    let serve: Serve =
        Rc::new(move |core, tcp| to_its_end(gateway::tunnels(core, tcp, at.clone())));
    let (balance, listener) = (Rc::clone(&starts.balance), starts.spread.len());
    starts.spread.push(Rc::clone(&serve));
    starts.push(accepting(core, to, move |core, tcp| {
        spread(&balance, listener, core, tcp, &serve)
    }));
    Ok(())
}

/// Serves a connection that will last where the fewest are.
fn spread(balance: &Balance, listener: usize, core: Rc<Core>, tcp: Tcp, serve: &Serve) -> Setup {
    let place = balance.place();
    if balance.is_here(&place) {
        return carrying(serve(core, tcp), place);
    }
    let handed = tcp.duplicate().ok().map(|socket| {
        balance.hand(Handed {
            listener,
            socket,
            carried: place,
        })
    });
    match handed {
        Some(Ok(())) => to_its_end(std::future::ready(())),
        Some(Err(_)) | None => carrying(serve(core, tcp), balance.stay()),
    }
}

/// Takes what other cores have accepted.
async fn taking(core: Rc<Core>, mut handed: mpsc::Receiver<Handed>, listeners: Vec<Serve>) {
    let mut draining = pin!(core.draining());
    loop {
        let next = tokio::select! {
            biased;
            () = &mut draining => return,
            next = handed.recv() => next,
        };
        let Some(Handed {
            listener,
            socket,
            carried,
        }) = next
        else {
            return;
        };
        let Some(serve) = listeners.get(listener) else {
            return;
        };
        match Tcp::adopt(socket) {
            Ok(tcp) => core.spawn_connection(carrying(serve(Rc::clone(&core), tcp), carried)),
            Err(error) => tracing::warn!(%error, "a connection from another core is lost"),
        }
    }
}

fn carrying(setup: Setup, carried: Carried) -> Setup {
    Box::pin(async move {
        let rest = setup.await;
        drop(carried);
        rest
    })
}

/// A listener that capture leads to.
fn captured(node: &Node, address: SocketAddr, what: &'static str) -> Result<Acceptor, ListenError> {
    let options = match &node.capture {
        Some(capture) => ListenOptions {
            transparent: capture.mode == CaptureMode::Tproxy,
            mark: node.mark,
        },
        None => ListenOptions::default(),
    };
    bind_with(ListenAddr(address), options).map_err(|source| ListenError {
        address,
        what,
        source,
    })
}

fn open(address: SocketAddr, what: &'static str) -> Result<Acceptor, ListenError> {
    bind(ListenAddr(address)).map_err(|source| ListenError {
        address,
        what,
        source,
    })
}

/// A connection that leaves nothing to do.
fn to_its_end(serve: impl Future<Output = ()> + 'static) -> Setup {
    Box::pin(async move {
        serve.await;
        Rest::NONE
    })
}

/// How long an accept loop waits after an error such as too many open files, in milliseconds.
const ACCEPT_PAUSE_MS: u64 = 50;
/// Between two lines about such errors.
const ACCEPT_QUIET: Duration = Duration::from_secs(10);

fn accepting(
    core: &Rc<Core>,
    acceptor: Acceptor,
    serve: impl Fn(Rc<Core>, Tcp) -> Setup + 'static,
) -> Box<dyn FnOnce()> {
    let core = Rc::clone(core);
    Box::new(move || {
        rt::spawn(async move {
            let mut draining = pin!(core.draining());
            let mut said: Option<Instant> = None;
            loop {
                let accepted = tokio::select! {
                    biased;
                    () = &mut draining => return,
                    accepted = acceptor.accept() => accepted,
                };
                match accepted {
                    Ok(tcp) => core.spawn_connection(serve(Rc::clone(&core), tcp)),
                    Err(error) if is_passing(&error) => rt::yield_turn().await,
                    Err(error) => {
                        if said.is_none_or(|at| at.elapsed() > ACCEPT_QUIET) {
                            tracing::warn!(%error, "cannot accept");
                            said = Some(clock::now());
                        }
                        rt::sleep(ACCEPT_PAUSE_MS).await;
                    }
                }
            }
        });
    })
}
