//! The shell around the pure parts: sockets, TLS, tunnels, HTTP framing on monoio.
//!
//! Everything above sees the runtime only through `rt`.

pub mod body;
pub mod buffers;
pub mod call;
pub mod clock;
pub mod copy;
pub mod early;
pub mod h1;
pub mod h2;
pub mod hbone;
pub mod kernel;
pub mod listen_fds;
pub mod listener;
pub mod memory;
pub mod mux;
pub mod netlink;
pub mod nft_turn;
pub mod pace;
pub mod peer;
pub mod random;
pub mod records;
pub mod relay;
pub mod rt;
pub mod slots;
pub mod sock_diag;
pub mod spawn;
pub mod stream;
pub mod tcp_options;
pub mod tls;
pub mod tunnel;
pub mod upstream;
pub mod wiping;
