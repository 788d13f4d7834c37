//! External authorizers of CUSTOM policies: what they are asked and what their answers mean, in Envoy's two contracts
//! (`envoy.service.auth.v3.Authorization/Check`, and plain HTTP).
//!
//! Nothing here is sent: `worker/custom.rs` asks, `io/call.rs` carries it.

pub mod answer;
pub mod ask;
pub mod edits;
pub mod message;
pub mod model;

#[cfg(test)]
mod tests;

pub use answer::{Allowed, Refused, Said, grpc_answer, http_answer};
pub use ask::{Call, Held, Subject, grpc_call, http_call};
pub use edits::{Edits, is_protected};
pub use model::{Authorizer, BodyCheck, HttpSettings, Kind, Names};
