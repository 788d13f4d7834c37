//! SPIFFE identity: bundles, the checks of an X509-SVID, the rotation timetable, and the rustls glue that uses them.
//!
//! Everything here is pure: the time is an argument, and rustls passes it to the verifiers.

pub mod bundle;
pub mod client_hello;
pub mod leaf;
pub mod names;
pub mod outside;
pub mod own;
pub mod pem;
pub mod revocation;
pub mod rotation;
pub mod svid;
pub mod tls;
mod verified;
pub mod verify;
