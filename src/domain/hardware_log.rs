//! The logs that a BMC keeps: Redfish LogServices and the IPMI SEL.

use serde::{Deserialize, Serialize};

use crate::domain::power::text_form;
use crate::domain::time::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogSeverity {
    Info,
    Warning,
    Critical,
}
text_form!(LogSeverity { Info = "info", Warning = "warning", Critical = "critical" });

/// Whether the entry says that something began or that it ended. Log text without a direction is `Said`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogDirection {
    Asserted,
    Deasserted,
    Said,
}

/// One entry as the BMC keeps it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogEntry {
    /// The log it stands in: the URI of the LogService, or `sel`.
    pub log: String,
    /// The BMC's own id. A string: some are not numbers, and ids start again after a clear (defect C4).
    pub id: String,
    /// By the BMC's clock; `None` where it gives none or it cannot be read.
    pub at: Option<Timestamp>,
    pub severity: LogSeverity,
    pub direction: LogDirection,
    /// A sentence for people. Untrusted, capped.
    pub message: String,
    /// Redfish `MessageId` with its registry prefix, for example `MEM0001` or `iLOEvents.3.0.FanFailed`.
    #[serde(default)]
    pub message_id: Option<String>,
    #[serde(default)]
    pub message_args: Vec<String>,
    /// IPMI sensor type, sensor number, event/reading type and offset (42-3), from the SEL record or from Redfish's SEL fields.
    #[serde(default)]
    pub ipmi: Option<IpmiEvent>,
    /// What the entry is about: Redfish `OriginOfCondition`, or the sensor's name from its SDR.
    #[serde(default)]
    pub origin: Option<String>,
    /// SHA-256 of the entry's content without its id, for telling a repeated entry from a new one (defect C4).
    pub content: crate::domain::id::Sha256,
    /// Where it was read.
    pub source: String,
}

/// The machine-readable half of an IPMI event (IPMI v2.0, 32.1 and table 42-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IpmiEvent {
    pub sensor_type: u8,
    pub sensor_number: u8,
    /// Bits 6:0 of the event direction byte: 01h threshold, 02h-0Ch generic, 6Fh sensor-specific.
    pub event_type: u8,
    pub offset: u8,
    pub data2: u8,
    pub data3: u8,
}

/// Where reading of one log stopped. Opaque to everyone but the driver; stored beside the log's name.
///
/// An epoch is one life of a log from one clear to the next. It changes when the log was cleared or wrapped past us, so
/// that entries with ids seen before are new (defect C4), and never merely because the BMC restarted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogCursor {
    /// SEL: erase timestamp. Redfish: content of the oldest entry kept.
    pub epoch: String,
    /// Content hashes of the newest entries already taken, newest first, at most 64.
    pub seen: Vec<crate::domain::id::Sha256>,
    pub last_id: String,
}

/// What is new in one log since a cursor.
#[derive(Clone, Debug, PartialEq)]
pub struct LogNews {
    /// Oldest first.
    pub entries: Vec<LogEntry>,
    pub cursor: LogCursor,
    /// The log began a new life since the cursor was made (cleared, or wrapped further than we had read).
    pub new_epoch: bool,
    /// Entries may have been lost between the cursor and the oldest entry kept.
    pub may_have_lost: bool,
    /// Used and total entries, where the BMC says: a full SEL is blindness (BMC-3).
    pub fill: Option<(u32, u32)>,
    /// Entries, or fields of them, that were seen and not understood.
    pub not_understood: Vec<crate::domain::bmc_features::Oddity>,
}
