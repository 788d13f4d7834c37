//! HTTP heads and framing, pure: bytes in, decisions out (RFC 9110, 9112, 9113).

pub mod canonical;
pub mod forward;
pub mod h1;
pub mod reply;
