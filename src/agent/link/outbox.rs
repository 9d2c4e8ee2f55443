//! Log lines and late inventories on their way to the server. Bounded: the oldest lines go first, and their number is told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::domain::inventory::Inventory;
use crate::wire::agent::{LogBatch, LogLine};

const MAX_LINES: usize = 2000;
const BATCH_LINES: usize = 200;
const MAX_LINE_CHARS: usize = 1000;

/// Cheap to clone; any thread may put things in.
#[derive(Clone, Default)]
pub struct Outbox(Arc<Shared>);

#[derive(Default)]
struct Shared {
    content: Mutex<Content>,
    filled: Notify,
}

#[derive(Default)]
struct Content {
    lines: VecDeque<LogLine>,
    /// Lines ever taken off the front, sent or dropped: tells which of a sent batch are still there.
    gone: u64,
    batch_from: u64,
    dropped: u64,
    inventory: Option<Inventory>,
}

impl Outbox {
    /// Adds a log line. `level` is `error`, `warn`, `info` or `debug`.
    pub fn log(&self, uptime_secs: f64, level: &str, text: &str) {
        let mut content = self.lock();
        if content.lines.len() == MAX_LINES {
            content.lines.pop_front();
            content.gone += 1;
            content.dropped += 1;
        }
        content.lines.push_back(LogLine { uptime_secs, level: level.to_owned(), text: text.chars().take(MAX_LINE_CHARS).collect() });
        drop(content);
        self.0.filled.notify_one();
    }

    /// Posts an inventory that came after hello, for example because the switch spoke late. The newest one wins.
    pub fn inventory(&self, inventory: Inventory) {
        self.lock().inventory = Some(inventory);
        self.0.filled.notify_one();
    }

    pub(super) async fn filled(&self) {
        loop {
            let woken = self.0.filled.notified();
            {
                let content = self.lock();
                if content.inventory.is_some() || !content.lines.is_empty() {
                    return;
                }
            }
            woken.await;
        }
    }

    pub(super) fn take_inventory(&self) -> Option<Inventory> {
        self.lock().inventory.take()
    }

    pub(super) fn put_inventory_back(&self, inventory: Inventory) {
        self.lock().inventory.get_or_insert(inventory);
    }

    /// The next lines to send; they stay until [`Outbox::sent`].
    pub(super) fn batch(&self) -> Option<LogBatch> {
        let mut content = self.lock();
        if content.dropped > 0 {
            let text = format!("{} older log lines were dropped: the server did not take them in time", content.dropped);
            let uptime_secs = content.lines.front().map_or(0.0, |line| line.uptime_secs);
            // In the place of the oldest line, so that the bound holds.
            if let Some(front) = content.lines.front_mut() {
                *front = LogLine { uptime_secs, level: "warn".into(), text };
            }
            content.dropped = 0;
        }
        content.batch_from = content.gone;
        let lines: Vec<_> = content.lines.iter().take(BATCH_LINES).cloned().collect();
        if lines.is_empty() { None } else { Some(LogBatch { lines }) }
    }

    pub(super) fn sent(&self, batch: &LogBatch) {
        let mut content = self.lock();
        let until = content.batch_from + batch.lines.len() as u64;
        while content.gone < until && content.lines.pop_front().is_some() {
            content.gone += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Content> {
        self.0.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_outbox_drops_the_oldest_and_says_how_many() {
        let outbox = Outbox::default();
        for n in 0..MAX_LINES + 5 {
            outbox.log(n as f64, "info", &format!("line {n}"));
        }
        let batch = outbox.batch().unwrap();
        assert!(batch.lines[0].text.starts_with("5 older log lines were dropped"), "{}", batch.lines[0].text);
        assert_eq!(batch.lines[1].text, "line 6");
        assert_eq!(batch.lines.len(), BATCH_LINES);
    }

    #[test]
    fn lines_that_fell_out_while_a_batch_was_under_way_are_not_removed_twice() {
        let outbox = Outbox::default();
        for n in 0..MAX_LINES {
            outbox.log(0.0, "info", &n.to_string());
        }
        let batch = outbox.batch().unwrap();
        for n in 0..10 {
            outbox.log(0.0, "info", &format!("new {n}"));
        }
        outbox.sent(&batch);
        // 200 sent, of which 10 had already fallen out: the next is line 200 (its place taken by the note of the loss).
        assert_eq!(outbox.batch().unwrap().lines[1].text, "201");
    }
}
