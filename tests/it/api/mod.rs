//! The API over real sockets, and the command line as a real process.

mod access;
mod cli;
mod hostile;
pub mod kit;
mod machines;
