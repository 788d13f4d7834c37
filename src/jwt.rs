//! End-user tokens: which are looked at, how they are verified, what they prove.

pub mod model;
