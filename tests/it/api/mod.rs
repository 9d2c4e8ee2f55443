//! The API over real sockets, and the command line as a real process.

mod access;
mod cli;
mod firmware;
mod hostile;
pub mod kit;
mod machines;
