//! The control thread's side: what is slow, rare, or better left to well-kept libraries.

pub mod http_client;
pub mod jwks;
pub mod oidc_client;
