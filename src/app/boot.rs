//! Network boot as the HTTP listeners need it: scripts and small boot files, and the notes that a fetch leaves.

pub use crate::netboot::desk::{Desk, DeskError, ScriptQuery};
