//! Firmware as wanted state: baselines, and campaigns that bring machines to them in waves.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::id::{CampaignId, MachineId, Sha256};
use crate::domain::power::text_form;
use crate::domain::time::Timestamp;

/// What one component of one model should run, and the file that brings it there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Baseline {
    /// As the BMC tells it (`ComputerSystem.Model`).
    pub model: String,
    /// The component's id in the firmware inventory (the last part of its path), or its name there.
    pub component: String,
    pub version: String,
    /// The file lies in the artifact store under this name.
    pub sha256: Sha256,
    /// The name it is pushed with: some BMCs look at its ending.
    pub file_name: String,
    pub size_bytes: u64,
    pub set_by: String,
    pub set_at: Timestamp,
}

/// How a machine stands to one line of its model's baseline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum Compliance {
    Fits,
    Differs {
        runs: String,
    },
    /// The BMC was not read yet, does not list the component, or gives it no version: not known, not fine.
    Unknown {
        why: String,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CampaignState {
    Running,
    /// By a person: what is under way ends, nothing new begins.
    Paused,
    /// By a gate. A person may resume it.
    Halted,
    Done,
    /// By a person, for good.
    Aborted,
}
text_form!(CampaignState { Running = "running", Paused = "paused", Halted = "halted", Done = "done", Aborted = "aborted" });

impl CampaignState {
    pub fn is_over(self) -> bool {
        match self {
            Self::Done | Self::Aborted => true,
            Self::Running | Self::Paused | Self::Halted => false,
        }
    }
}

/// What must hold before the next wave begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    /// Failed machines in a ring after which the campaign halts; in the canary wave one is enough.
    pub ring_failures: u32,
    /// Rest after a wave, in which late failures may show.
    pub soak_secs: u64,
    /// From the push to the proof; then the machine counts as failed.
    pub within_secs: u64,
}

impl Default for Gate {
    fn default() -> Self {
        Self { ring_failures: 0, soak_secs: 600, within_secs: 45 * 60 }
    }
}

/// Minutes of the UTC day in which machines are begun; over midnight where `from` is after `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    pub from_minute: u16,
    pub to_minute: u16,
}

impl Window {
    pub fn holds(self, now: Timestamp) -> bool {
        let minute = now.unix_secs().rem_euclid(86_400) / 60;
        let (from, to) = (i64::from(self.from_minute), i64::from(self.to_minute));
        if from <= to { (from..to).contains(&minute) } else { minute >= from || minute < to }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Campaign {
    pub id: CampaignId,
    pub state: CampaignState,
    /// As it was when the campaign began: a later change of the baseline does not change what is flashed.
    pub baseline: Baseline,
    pub gate: Gate,
    pub window: Option<Window>,
    /// The last decision about it, in a sentence.
    pub why: String,
    pub created_by: String,
    pub created_at: Timestamp,
    /// Failures that a person has seen and accepted by resuming after a halt.
    pub accepted_failures: u32,
}

/// How far one machine is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum TargetState {
    /// Its wave has not begun.
    Waiting,
    /// Looked at next: identity, component, version.
    Ready,
    /// Written before the file is sent. It is sent again only when the BMC's tasks and version prove that it never came.
    Begun,
    /// The BMC works on it.
    Following {
        task: String,
    },
    /// The BMC is done, or has forgotten the task: the version must show, in several readings in a row.
    Proving {
        good: u32,
    },
    Done,
    Failed,
    /// Not touched: held, given up, runs the version already.
    Skipped,
}

impl TargetState {
    pub fn is_over(&self) -> bool {
        match self {
            Self::Done | Self::Failed | Self::Skipped => true,
            Self::Waiting | Self::Ready | Self::Begun | Self::Following { .. } | Self::Proving { .. } => false,
        }
    }
}

/// One machine of a campaign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    pub machine: MachineId,
    /// 0 is the canary.
    pub wave: u32,
    pub state: TargetState,
    pub version_before: Option<String>,
    /// Tasks that its BMC kept before the file was sent: another one is ours.
    #[serde(default)]
    pub tasks_before: Vec<String>,
    /// Parts that were not well before: no more may be so afterwards.
    pub ill_before: u32,
    /// What it waits for or how it ended, in a sentence.
    pub note: String,
    /// Tries that failed before anything was sent.
    pub tries: u32,
    pub begun_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
}

impl Target {
    pub fn new(machine: MachineId, wave: u32) -> Self {
        Self {
            machine,
            wave,
            state: TargetState::Waiting,
            version_before: None,
            tasks_before: Vec::new(),
            ill_before: 0,
            note: "its wave has not begun".to_owned(),
            tries: 0,
            begun_at: None,
            ended_at: None,
        }
    }

    pub fn is_late(&self, gate: &Gate, now: Timestamp) -> bool {
        self.begun_at.is_some_and(|at| now.since(at) > Duration::from_secs(gate.within_secs))
    }
}
