//! The tokio side: identities, key sets, reloads, the admin endpoint. It makes snapshots; the cores read them.

pub mod admin;
pub mod ask;
pub mod authority;
pub mod files;
pub mod grpc;
pub mod plane;
pub mod snapshot;
pub mod svid;
