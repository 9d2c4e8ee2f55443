//! A log as a BMC keeps it: of bounded length, with ids that start again after a clear.

use std::collections::VecDeque;

use crate::domain::hardware_log::{IpmiEvent, LogDirection, LogSeverity};
use crate::domain::time::Timestamp;

/// One entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Starts again at 1 after a clear, as on real BMCs (defect C4).
    pub id: u32,
    /// By the BMC's clock.
    pub at: Timestamp,
    pub severity: LogSeverity,
    pub direction: LogDirection,
    pub message: String,
    /// Registry, version and key.
    pub message_id: String,
    pub message_args: Vec<String>,
    pub ipmi: Option<IpmiEvent>,
    /// URI of what it is about.
    pub origin: Option<String>,
}

/// What a full log does with a new entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Redfish logs drop the oldest.
    Wrap,
    /// The SEL of many boards takes no more: from then on the BMC is blind (BMC-3).
    Stop,
}

#[derive(Clone, Debug)]
pub struct Journal {
    records: VecDeque<Record>,
    next_id: u32,
    pub capacity: usize,
    pub when_full: WhenFull,
    /// When it was cleared last, by the BMC's clock.
    pub cleared_at: Option<Timestamp>,
    pub changed_at: Timestamp,
}

impl Journal {
    pub fn new(capacity: usize, when_full: WhenFull) -> Self {
        Self { records: VecDeque::new(), next_id: 1, capacity, when_full, cleared_at: None, changed_at: Timestamp(0) }
    }

    /// Takes the entry in, with an id; `None` when the log is full and stops.
    pub fn add(&mut self, mut record: Record) -> Option<&Record> {
        if self.is_full() {
            match self.when_full {
                WhenFull::Stop => return None,
                WhenFull::Wrap => drop(self.records.pop_front()),
            }
        }
        record.id = self.next_id;
        self.next_id += 1;
        self.changed_at = record.at;
        self.records.push_back(record);
        self.records.back()
    }

    pub fn clear(&mut self, at: Timestamp) {
        self.records.clear();
        self.next_id = 1;
        self.cleared_at = Some(at);
        self.changed_at = at;
    }

    pub fn is_full(&self) -> bool {
        self.records.len() >= self.capacity
    }

    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Oldest first.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = &Record> {
        self.records.iter()
    }

    pub fn find(&self, id: &str) -> Option<&Record> {
        let id: u32 = id.parse().ok()?;
        self.records.iter().find(|r| r.id == id)
    }
}
