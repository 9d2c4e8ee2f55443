//! The event log: what happened, in order, for the timeline, the live pages and (later) webhooks.

use serde::{Deserialize, Serialize};

use crate::domain::id::{EventId, MachineId, RunId};
use crate::domain::power::text_form;
use crate::domain::time::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Info,
    Warning,
    Error,
}
text_form!(Severity { Info = "info", Warning = "warning", Error = "error" });

/// One thing that happened. `text` is a whole sentence that reads alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub id: EventId,
    pub at: Timestamp,
    pub machine: Option<MachineId>,
    pub run: Option<RunId>,
    /// Stable dotted word for programs: `machine.discovered`, `run.failed`, `machine.nic_swapped` ...
    pub kind: String,
    pub severity: Severity,
    pub text: String,
    /// `system`, `agent`, or the actor's name.
    pub actor: String,
}

/// An event not yet stored: the store gives it its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    pub machine: Option<MachineId>,
    pub run: Option<RunId>,
    pub kind: &'static str,
    pub severity: Severity,
    pub text: String,
    pub actor: String,
}

impl NewEvent {
    /// An event of the system itself about one machine.
    pub fn system(machine: MachineId, kind: &'static str, severity: Severity, text: impl Into<String>) -> Self {
        Self { machine: Some(machine), run: None, kind, severity, text: text.into(), actor: "system".to_owned() }
    }
}
