//! How a machine's BMC is polled: what is asked, and how asking goes.

use serde::{Deserialize, Serialize};

use crate::domain::power::text_form;
use crate::domain::time::Timestamp;

/// What a poll asks for. Each has its own interval, due time and history of failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PollKind {
    Power,
    Sensors,
    Logs,
    Parts,
    Firmware,
    Bios,
    Capabilities,
}
text_form!(PollKind {
    Power = "power",
    Sensors = "sensors",
    Logs = "logs",
    Parts = "parts",
    Firmware = "firmware",
    Bios = "bios",
    Capabilities = "capabilities",
});

impl PollKind {
    pub const ALL: [Self; 7] = [Self::Power, Self::Sensors, Self::Logs, Self::Parts, Self::Firmware, Self::Bios, Self::Capabilities];

    /// The lane it runs in.
    pub fn lane(self) -> Lane {
        match self {
            Self::Power | Self::Sensors => Lane::Quick,
            Self::Logs | Self::Parts | Self::Firmware | Self::Bios | Self::Capabilities => Lane::Slow,
        }
    }

    /// In the middle of a sentence: "the last answer about its sensors".
    pub fn noun(self) -> &'static str {
        match self {
            Self::Power => "its power state",
            Self::Sensors => "its sensors",
            Self::Logs => "its logs",
            Self::Parts => "its parts",
            Self::Firmware => "its firmware",
            Self::Bios => "its BIOS settings",
            Self::Capabilities => "what it can do",
        }
    }
}

/// Polls of one lane of one BMC come one after the other. A walk over all parts may take minutes; the power state does not
/// wait for it, since it has a lane of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    Quick,
    Slow,
}
text_form!(Lane { Quick = "quick", Slow = "slow" });

impl Lane {
    pub const ALL: [Self; 2] = [Self::Quick, Self::Slow];
}

/// How asking one BMC for one thing goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PollState {
    /// The moment of the next try; the beginning of time before the first.
    pub due_at: Timestamp,
    /// Seconds between two tries while all goes well, as decided last: longer than configured where the BMC is slow or its
    /// answers take many requests.
    pub interval_secs: u64,
    pub last_try_at: Option<Timestamp>,
    pub last_ok_at: Option<Timestamp>,
    /// Failed tries in a row.
    pub failures: u32,
    /// Why the last try failed, as a sentence; cleared by the next success.
    pub fault: Option<String>,
    /// The BMC does not offer this: it is asked again once a day.
    pub unsupported: bool,
    /// Requests that one poll takes, smoothed. IPMI commands count as parts of one: see `decide::polling`.
    pub cost: Option<f64>,
    /// Milliseconds a request of the last polls took on average, newest last, at most [`PollState::TOOK_KEPT`].
    pub took_ms: Vec<u32>,
    /// That its values went stale was written to the event log.
    pub silence_said: bool,
}

impl PollState {
    pub const TOOK_KEPT: usize = 20;
}
