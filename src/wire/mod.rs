//! Bytes to types and back. No sockets.

pub mod agent;
