//! The tokio side of the process: identities are issued, kept fresh and handed to the data cores here.

pub mod authority;
pub mod files;
pub mod grpc;
pub mod svid;
