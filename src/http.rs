//! HTTP heads and framing, pure: bytes in, decisions out (RFC 9110, 9112, 9113).

pub mod baggage;
pub mod canonical;
pub mod connect;
pub mod forward;
pub mod grpc;
pub mod h1;
pub mod keep_alive;
pub mod marks;
pub mod reply;
pub mod request_id;
pub mod upgrade;
