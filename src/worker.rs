//! The process: boot, the cores' loops, what each listener does with a connection.

pub mod attempt;
pub mod balance;
pub mod boot;
mod both_ways;
pub mod connect;
pub mod core;
pub mod custom;
mod deadline;
pub mod edge;
pub mod exchange;
pub mod forward;
pub mod gateway;
pub mod inbound;
pub mod judge;
mod leave;
pub mod limited;
pub mod listen;
pub mod node;
pub mod open;
pub mod origin;
pub mod owner;
mod peers;
pub mod places;
pub mod relaying;
pub mod respond;
pub mod retry;
mod routed;
mod same_node;
pub mod serve;
pub mod site;
pub mod sockets;
pub mod socks;
pub mod sources;
pub mod streams;
pub mod upgrade;

pub use boot::{prepare, run};
