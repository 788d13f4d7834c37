//! The tokio side: identities, key sets, reloads, the admin endpoint. It makes snapshots; the cores read them.

pub mod admin;
pub mod ask;
pub mod authority;
pub mod capture;
pub mod dns;
pub mod dns_server;
pub mod durable;
pub mod file_source;
pub mod file_watch;
pub mod files;
pub mod grpc;
pub mod http_client;
pub mod identities;
mod identity_source;
mod join_token_file;
pub mod jwks;
mod login;
pub mod observe;
pub mod oidc_client;
pub mod origination;
pub mod plane;
pub mod snapshot;
pub mod svid;
pub mod watch_files;
pub mod workload_api;
