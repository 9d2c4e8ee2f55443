//! The two-way slate between an order at work and the link: how far it came, and whether to stop.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::wire::agent::TaskProgress;

/// Cheap to clone and to write from any thread; only the newest value is kept.
#[derive(Clone, Debug)]
pub struct Progress(Arc<Slate>);

#[derive(Debug)]
struct Slate {
    latest: Mutex<TaskProgress>,
    cancelled: AtomicBool,
    wake: Notify,
}

impl Default for Progress {
    fn default() -> Self {
        let latest = Mutex::new(TaskProgress { phase: "start".into(), done: 0, total: 0 });
        Self(Arc::new(Slate { latest, cancelled: AtomicBool::new(false), wake: Notify::new() }))
    }
}

impl Progress {
    /// Notes how far the order came. `phase` is one of the words of [`TaskProgress::phase`].
    pub fn report(&self, phase: &str, done: u64, total: u64) {
        let mut latest = self.0.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.phase != phase {
            latest.phase = phase.to_owned();
        }
        latest.done = done;
        latest.total = total;
    }

    pub fn latest(&self) -> TaskProgress {
        self.0.latest.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the order to stop at its next safe point.
    pub fn cancel(&self) {
        self.0.cancelled.store(true, Ordering::Relaxed);
        self.0.wake.notify_waiters();
    }

    /// Whether the task was withdrawn. Orders look here between two pieces of work.
    pub fn is_cancelled(&self) -> bool {
        self.0.cancelled.load(Ordering::Relaxed)
    }

    /// Returns once the task was withdrawn.
    pub async fn cancelled(&self) {
        loop {
            let woken = self.0.wake.notified();
            if self.is_cancelled() {
                return;
            }
            woken.await;
        }
    }
}
