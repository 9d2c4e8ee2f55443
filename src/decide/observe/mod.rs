//! From what a BMC said to observations: pure conversions, nothing judged.

pub mod log;
pub mod part;
pub mod sensor;

use crate::domain::id::{MachineId, Sha256};
use crate::domain::observation::{Component, Observation, Quality, Signal, Source, Value};
use crate::domain::time::Timestamp;

/// Where and when something was read.
#[derive(Clone, Copy, Debug)]
pub struct Read<'a> {
    pub machine: MachineId,
    pub source: Source,
    pub at: Timestamp,
    /// SHA-256 of the bytes that the reading stands in.
    pub evidence: Sha256,
    /// When we first heard of this machine: what its logs say from before is history.
    pub first_contact: Timestamp,
    /// Device clock minus ours, in seconds, where it was measured.
    pub clock_offset_secs: Option<i64>,
    /// The life of the log that entries stand in; empty elsewhere.
    pub epoch: &'a str,
}

impl Read<'_> {
    fn see(&self, component: &Component, signal: Signal, value: Value, read_at: &str) -> Observation {
        let quality = match &value {
            Value::Missing { .. } => Quality::Unavailable,
            Value::Gauge(_) | Value::Counter { .. } | Value::State { .. } | Value::Event(_) | Value::Beat => Quality::Good,
        };
        Observation {
            machine: self.machine,
            component: component.clone(),
            signal,
            value,
            source: self.source,
            observed_at: None,
            received_at: self.at,
            clock_offset_secs: self.clock_offset_secs,
            quality,
            evidence: self.evidence,
            read_at: read_at.to_owned(),
        }
    }
}

/// A state in one word, lower case.
fn word(text: &str) -> Value {
    Value::State { word: text.trim().to_lowercase() }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn read(at_secs: i64) -> Read<'static> {
        Read {
            machine: MachineId(uuid::Uuid::from_u128(1)),
            source: Source::RedfishPoll,
            at: Timestamp(at_secs * 1_000_000),
            evidence: Sha256([7; 32]),
            first_contact: Timestamp(1_000_000_000_000_000),
            clock_offset_secs: None,
            epoch: "e1",
        }
    }
}
