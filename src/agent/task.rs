//! Orders that change disks. Each is a plain function of its order and of devices named by path, so that tests run it on
//! files and loop devices.

pub mod disk;
pub mod download;
pub mod efi;
pub mod grow;
pub mod pipeline;
pub mod seed;
pub mod target;
pub mod wipe;
pub mod write_image;

use crate::wire::agent::TaskResult;

/// Why an order failed: a stable word, a sentence, and whether trying again may help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct TaskError {
    pub code: &'static str,
    pub message: String,
    pub retry: bool,
}

impl TaskError {
    /// Trying again will not help.
    pub fn for_good(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry: false }
    }

    /// Trying again may help.
    pub fn for_now(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), retry: true }
    }

    pub fn cancelled() -> Self {
        Self::for_good("cancelled", "the task was withdrawn; it stopped before its end")
    }
}

impl From<TaskError> for TaskResult {
    fn from(e: TaskError) -> Self {
        Self::Failed { code: e.code.to_owned(), message: e.message, retry: e.retry }
    }
}
