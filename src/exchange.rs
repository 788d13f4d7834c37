//! One request or tunnel from accept to close: why it ended.

pub mod close;
