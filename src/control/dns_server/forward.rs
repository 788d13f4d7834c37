//! Questions that are not the mesh's, to the nameservers of the process or of the system, byte for byte.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use socket2::SockRef;
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::timeout;

use crate::config::checked::Process;
use crate::control::dns_server::message::{Transport, belongs, cut, takes};
use crate::control::dns_server::{read, write};
use crate::control::nameservers;
use crate::io::clock;
use crate::vocab::limits;

/// Nameservers that are asked for one question, as resolvers do.
const SERVERS: usize = 3;
/// How old what was read of `/etc/resolv.conf` may be.
const FRESH: Duration = Duration::from_secs(5);

/// Asks nameservers.
#[derive(Debug)]
pub struct Forwarder {
    process: Arc<Process>,
    mark: Option<u32>,
    system: ArcSwapOption<System>,
}

/// `/etc/resolv.conf` as it was read.
#[derive(Debug)]
struct System {
    read: Instant,
    servers: Vec<SocketAddr>,
    search: Arc<Vec<String>>,
}

impl Forwarder {
    /// Asks `process.nameservers`, or those of the system. `mark`: of its sockets, so that capture lets them pass.
    #[must_use]
    pub fn new(process: Arc<Process>, mark: Option<u32>) -> Self {
        Self {
            process,
            mark,
            system: ArcSwapOption::empty(),
        }
    }

    /// The search domains of the system.
    #[must_use]
    pub fn search(&self) -> Arc<Vec<String>> {
        Arc::clone(&self.system().search)
    }

    fn system(&self) -> Arc<System> {
        if let Some(known) = self.system.load_full().filter(|s| s.read.elapsed() < FRESH) {
            return known;
        }
        let (mut servers, mut search) = (Vec::new(), Vec::new());
        match nameservers::of_system() {
            Ok((config, _options)) => {
                for server in config.name_servers() {
                    let port = server.connections.first().map_or(53, |c| c.port);
                    let address = SocketAddr::new(server.ip, port);
                    if !servers.contains(&address) {
                        servers.push(address);
                    }
                }
                let names = config.search().iter().map(|name| {
                    let name = name.to_ascii().to_ascii_lowercase();
                    name.trim_end_matches('.').to_owned()
                });
                search.extend(names.filter(|name| !name.is_empty()));
            }
            Err(error) => tracing::debug!(%error, "the system's nameservers cannot be read"),
        }
        let system = Arc::new(System {
            read: clock::now(),
            servers,
            search: Arc::new(search),
        });
        self.system.store(Some(Arc::clone(&system)));
        system
    }

    fn servers(&self) -> Vec<SocketAddr> {
        let all = if self.process.nameservers.is_empty() {
            self.system().servers.clone()
        } else {
            self.process.nameservers.clone()
        };
        // A question to ourselves would come back for ever.
        let own = |at: &SocketAddr| self.process.listens_on(*at);
        all.into_iter()
            .filter(|at| !own(at))
            .take(SERVERS)
            .collect()
    }

    /// The answer of the first nameserver that has one. By UDP first; where no nameserver answers by UDP, by TCP.
    pub async fn ask(&self, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let servers = self.servers();
        if transport == Transport::Udp {
            for server in &servers {
                match in_time(self.by_udp(*server, question)).await {
                    Ok(answer) => return Some(answer),
                    Err(error) => tracing::debug!(%server, %error, "nameserver by UDP"),
                }
            }
        }
        for server in &servers {
            match in_time(self.by_tcp(*server, question)).await {
                Ok(answer) if transport == Transport::Udp && answer.len() > takes(question) => {
                    return cut(&answer);
                }
                Ok(answer) => return Some(answer),
                Err(error) => tracing::debug!(%server, %error, "nameserver by TCP"),
            }
        }
        None
    }

    /// A socket of its own for each question, so that an answer has to guess its port, too.
    async fn by_udp(&self, server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        self.marked(&SockRef::from(&socket))?;
        socket.connect(server).await?;
        socket.send(question).await?;
        loop {
            // Who waits holds no buffer.
            socket.readable().await?;
            let mut answer = vec![0; limits::DNS_MESSAGE_BYTES];
            match socket.try_recv(&mut answer) {
                Ok(len) => answer.truncate(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            }
            if belongs(question, &answer) {
                return Ok(answer);
            }
        }
    }

    async fn by_tcp(&self, server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
        let socket = match server {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        self.marked(&SockRef::from(&socket))?;
        let mut stream = socket.connect(server).await?;
        write(&mut stream, question).await?;
        match read(&mut stream).await? {
            Some(answer) if belongs(question, &answer) => Ok(answer),
            Some(_other) => Err(io::ErrorKind::InvalidData.into()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn marked(&self, socket: &SockRef<'_>) -> io::Result<()> {
        match self.mark {
            Some(mark) => socket.set_mark(mark),
            None => Ok(()),
        }
    }
}

async fn in_time<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let limit = Duration::from_millis(limits::DNS_ANSWER_MS);
    match timeout(limit, work).await {
        Ok(done) => done,
        Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
    }
}
