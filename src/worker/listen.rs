//! The listeners of one core and what each does with a connection.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::mpsc;

use crate::config::checked::Node;
use crate::config::checked::capture::CaptureMode;
use crate::io::clock;
use crate::io::listener::{ListenOptions, is_passing};
use crate::io::rt::{self, Acceptor, Tcp};
use crate::worker::balance::{Balance, Carried, Handed};
use crate::worker::core::Core;
use crate::worker::gateway::{self, At};
use crate::worker::relaying::{Rest, Setup};
use crate::worker::sockets::Sockets;
use crate::worker::{edge, inbound, node, owner};

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

/// Binds every listener of the process on this core. What is returned serves them.
///
/// # Errors
/// The first that cannot be bound.
pub fn bind(core: &Rc<Core>, mut balance: Balance, sockets: Sockets) -> Result<Bound, ListenError> {
    let handed = balance.take_handed();
    let mut starts = Starts {
        sockets,
        balance: Rc::new(balance),
        accepting: Vec::new(),
        spread: Vec::new(),
    };
    nodes(core, &mut starts)?;
    gateways(core, &mut starts)?;
    let Starts {
        sockets,
        mut accepting,
        spread,
        ..
    } = starts;
    if let Some(handed) = handed {
        let core = Rc::clone(core);
        accepting.push(Box::new(move || rt::spawn(taking(core, handed, spread))));
    }
    Ok(Bound {
        kept: sockets.into_kept(),
        accepting,
    })
}

/// Begins to serve a listener.
type Start = Box<dyn FnOnce()>;

/// Listeners that are bound and not served yet.
pub struct Bound {
    kept: Vec<OwnedFd>,
    accepting: Vec<Start>,
}

impl std::fmt::Debug for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bound({})", self.accepting.len())
    }
}

impl Bound {
    /// Takes the second descriptors of the sockets, for a process that takes over.
    pub fn kept(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.kept)
    }

    /// Serves them.
    pub fn serve(self) {
        for start in self.accepting {
            start();
        }
    }
}

type Serve = Rc<dyn Fn(Rc<Core>, Tcp) -> Setup>;

/// What begins once all listeners are bound.
struct Starts {
    sockets: Sockets,
    balance: Rc<Balance>,
    accepting: Vec<Start>,
    /// The listeners whose connections are spread over the cores, in the same order on each.
    spread: Vec<(Who, Serve)>,
}

impl Starts {
    fn push(&mut self, start: Start) {
        self.accepting.push(start);
    }

    /// A listener that capture leads to.
    fn captured(
        &mut self,
        node: &Node,
        address: SocketAddr,
        what: &'static str,
    ) -> Result<Vec<Acceptor>, ListenError> {
        let options = match &node.capture {
            Some(capture) => ListenOptions {
                transparent: capture.mode == CaptureMode::Tproxy,
                mark: node.mark,
            },
            None => ListenOptions::default(),
        };
        self.listen(address, what, options)
    }

    fn open(
        &mut self,
        address: SocketAddr,
        what: &'static str,
    ) -> Result<Vec<Acceptor>, ListenError> {
        self.listen(address, what, ListenOptions::default())
    }

    fn listen(
        &mut self,
        address: SocketAddr,
        what: &'static str,
        options: ListenOptions,
    ) -> Result<Vec<Acceptor>, ListenError> {
        let listening = self.sockets.listen(address, options);
        listening.map_err(|source| ListenError {
            address,
            what,
            source,
        })
    }
}

const INGRESS: &str = "ingress";

/// Role and instance of a listener, for its records.
type Who = (&'static str, Rc<str>);

fn nodes(core: &Rc<Core>, starts: &mut Starts) -> Result<(), ListenError> {
    for node in &core.process.nodes {
        let node = Rc::new(node.clone());
        let who: Who = ("node", node.name.as_str().into());
        for address in &node.inbound {
            let (n, to) = (
                Rc::clone(&node),
                starts.captured(&node, *address, "inbound")?,
            );
            starts.push(accepting(core, to, who.clone(), move |core, tcp| {
                let node = Rc::clone(&n);
                Box::pin(inbound::connection(core, tcp, node))
            }));
        }
        if let Some(address) = node.outbound {
            let (n, to) = (
                Rc::clone(&node),
                starts.captured(&node, address, "outbound")?,
            );
            starts.push(accepting(core, to, who.clone(), move |core, tcp| {
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
                let (n, to) = (Rc::clone(&node), starts.open(address, "outbound")?);
                starts.push(accepting(core, to, who.clone(), move |core, tcp| {
                    Box::pin(node::outbound(core, tcp, Rc::clone(&n), at))
                }));
            }
            if let Some(address) = workload.socks {
                let (n, to) = (Rc::clone(&node), starts.open(address, "SOCKS5")?);
                starts.push(accepting(core, to, who.clone(), move |core, tcp| {
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
        let who = at.who();
        tunnels(core, starts, waypoint.hbone, &at)?;
        if let Some(address) = waypoint.mtls {
            let to = starts.open(address, "direct mTLS")?;
            starts.push(accepting(core, to, who, move |core, tcp| {
                Box::pin(gateway::listener(core, tcp, at.clone()))
            }));
        }
    }
    for egress in &core.process.egresses {
        let at = At::Egress(egress.gateway.clone(), egress.proxy.map(|a| a.port()));
        let who = at.who();
        tunnels(core, starts, egress.hbone, &at)?;
        if let Some(address) = egress.proxy {
            let to = starts.open(address, "proxy")?;
            starts.push(accepting(core, to, who, move |core, tcp| {
                Box::pin(gateway::listener(core, tcp, at.clone()))
            }));
        }
    }
    for (at, ingress) in core.process.ingresses.iter().enumerate() {
        let who: Who = (INGRESS, ingress.gateway.to_string().into());
        for (nth, listener) in ingress.listeners.iter().enumerate() {
            let (name, to) = (
                ingress.gateway.clone(),
                starts.open(listener.address, "ingress")?,
            );
            starts.push(accepting(core, to, who.clone(), move |core, tcp| {
                Box::pin(edge::connection(core, tcp, name.clone(), (at, nth)))
            }));
        }
        if let (Some(address), Some(first)) = (ingress.http, ingress.listeners.first()) {
            let own = first.address.port();
            let to_port = ingress.https_port.unwrap_or(own);
            let (name, to) = (ingress.gateway.clone(), starts.open(address, "redirect")?);
            starts.push(accepting(core, to, who, move |core, tcp| {
                Box::pin(edge::redirecting(core, tcp, name.clone(), to_port))
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
    let (at, who, to) = (at.clone(), at.who(), starts.open(address, "HBONE")?);
    let serve: Serve = Rc::new(move |core, tcp| Box::pin(gateway::tunnels(core, tcp, at.clone())));
    let (balance, listener) = (Rc::clone(&starts.balance), starts.spread.len());
    starts.spread.push((who.clone(), Rc::clone(&serve)));
    starts.push(accepting(core, to, who, move |core, tcp| {
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
        Some(Ok(())) => Box::pin(std::future::ready(Rest::NONE)),
        Some(Err(_)) | None => carrying(serve(core, tcp), balance.stay()),
    }
}

/// Takes what other cores have accepted, to the last one.
async fn taking(core: Rc<Core>, mut handed: mpsc::Receiver<Handed>, listeners: Vec<(Who, Serve)>) {
    let mut draining = pin!(core.draining());
    let mut ending = false;
    loop {
        let next = tokio::select! {
            biased;
            () = &mut draining, if !ending => {
                // What is under way was accepted, and is served.
                ending = true;
                handed.close();
                continue;
            }
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
        let Some(((role, instance), serve)) = listeners.get(listener) else {
            return;
        };
        let serve = |core, tcp| carrying(serve(core, tcp), carried);
        match Tcp::adopt(socket) {
            Ok(tcp) => core.spawn_connection(tcp, (*role, instance), serve),
            Err(error) => tracing::warn!(%error, "a connection from another core is lost"),
        }
    }
}

fn carrying(setup: Setup, carried: Carried) -> Setup {
    Box::pin(async move {
        let rest = setup.await;
        rest.holding(carried)
    })
}

/// How long an accept loop waits after an error such as too many open files, in milliseconds.
const ACCEPT_PAUSE_MS: u64 = 50;
/// Between two lines about such errors.
const ACCEPT_QUIET: Duration = Duration::from_secs(10);

fn accepting(
    core: &Rc<Core>,
    acceptors: Vec<Acceptor>,
    who: Who,
    serve: impl Fn(Rc<Core>, Tcp) -> Setup + 'static,
) -> Start {
    let (core, serve) = (Rc::clone(core), Rc::new(serve));
    Box::new(move || {
        for acceptor in acceptors {
            let (core, who, serve) = (Rc::clone(&core), who.clone(), Rc::clone(&serve));
            rt::spawn(accept_all(core, acceptor, who, serve));
        }
    })
}

async fn accept_all(
    core: Rc<Core>,
    acceptor: Acceptor,
    (role, instance): Who,
    serve: Rc<impl Fn(Rc<Core>, Tcp) -> Setup + 'static>,
) {
    // What comes in by the ingress is the last to need anything else here.
    let last = async {
        core.draining().await;
        if role != INGRESS {
            core.unneeded().await;
        }
    };
    let mut last = pin!(last);
    let mut said: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut last => return,
            accepted = acceptor.accept() => accepted,
        };
        match accepted {
            Ok(tcp) => core.spawn_connection(tcp, (role, &instance), &*serve),
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
}
