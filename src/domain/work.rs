//! Runs and steps: long work as rows, never as tasks in memory.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::id::{MachineId, RunId, StepId};
use crate::domain::power::text_form;
use crate::domain::time::Timestamp;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    Enroll,
    Deploy,
    Release,
}
text_form!(RunKind { Enroll = "enroll", Deploy = "deploy", Release = "release" });

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    Running,
    /// A step failed for good; waits for retry, abort or forget.
    Failed,
    Done,
    Aborted,
}
text_form!(RunState { Running = "running", Failed = "failed", Done = "done", Aborted = "aborted" });

/// What a step does. A new procedure adds kinds here, never lifecycle states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepKind {
    /// Talk to the BMC: identity, power state, pin its certificate. Passed over when no BMC is known.
    ContactBmc,
    /// Image, disk and firmware fit each other.
    CheckTarget,
    /// Have the machine boot the ramdisk: boot-once network and power by BMC, or wait for a person to do it.
    BootRamdisk,
    /// The agent of that boot says hello.
    WaitAgent,
    /// A fresh inventory from the agent.
    Inventory,
    /// The agent writes image and seed to the disk.
    WriteImage,
    /// Next boot from disk: BMC boot device, agent's UEFI boot entry; then restart.
    BootDisk,
    /// The deployed system reports in.
    WaitSystem,
    /// The agent wipes every disk and reads it back.
    WipeDisks,
    /// Power off by BMC, or leave the agent idle when there is none.
    PowerOff,
}
text_form!(StepKind {
    ContactBmc = "contact_bmc", CheckTarget = "check_target", BootRamdisk = "boot_ramdisk", WaitAgent = "wait_agent",
    Inventory = "inventory", WriteImage = "write_image", BootDisk = "boot_disk", WaitSystem = "wait_system",
    WipeDisks = "wipe_disks", PowerOff = "power_off",
});

/// What may happen when a step that was cut off is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hazard {
    /// Runs again.
    Repeatable,
    /// Looks for signs of what it did first; acts again only if there are none.
    Once,
    /// The same order is followed by its id; if that is gone, the run parks.
    Destructive,
}

impl StepKind {
    pub fn hazard(self) -> Hazard {
        match self {
            Self::ContactBmc | Self::CheckTarget | Self::WaitAgent | Self::Inventory | Self::WaitSystem => Hazard::Repeatable,
            Self::BootRamdisk | Self::BootDisk | Self::PowerOff => Hazard::Once,
            Self::WriteImage | Self::WipeDisks => Hazard::Destructive,
        }
    }

    /// From the step's start to its failure for good, all attempts included.
    ///
    /// POST of large servers takes 3 to 15 minutes; a slow disk writes about 100 MB/s.
    pub fn deadline(self) -> Duration {
        Duration::from_secs(match self {
            Self::ContactBmc => 5 * 60,
            Self::CheckTarget => 60,
            Self::BootRamdisk => 5 * 60,
            Self::WaitAgent => 20 * 60,
            Self::Inventory => 5 * 60,
            Self::WriteImage => 60 * 60,
            Self::BootDisk => 5 * 60,
            Self::WaitSystem => 30 * 60,
            Self::WipeDisks => 20 * 3600,
            Self::PowerOff => 5 * 60,
        })
    }

    /// How often a step may fail and be tried again by itself. Backoff 2, 4, 8 … s, capped at 60 s.
    pub fn max_attempts(self) -> u32 {
        match self {
            Self::ContactBmc | Self::BootRamdisk | Self::BootDisk | Self::PowerOff => 5,
            Self::CheckTarget => 1,
            Self::WaitAgent | Self::WaitSystem => 1,
            Self::Inventory => 3,
            Self::WriteImage => 2,
            Self::WipeDisks => 2,
        }
    }

    /// What the step waits for or does, as the middle of a sentence: "Waiting for …".
    pub fn waits_for(self) -> &'static str {
        match self {
            Self::ContactBmc => "an answer from the BMC",
            Self::CheckTarget => "the check of image, disk and firmware",
            Self::BootRamdisk => "the machine to start its network boot",
            Self::WaitAgent => "the agent in the ramdisk to say hello",
            Self::Inventory => "the agent's inventory",
            Self::WriteImage => "the agent to write the image",
            Self::BootDisk => "the restart from disk",
            Self::WaitSystem => "the deployed system to report in",
            Self::WipeDisks => "the agent to wipe the disks and read them back",
            Self::PowerOff => "the machine to power off",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    Pending,
    Running,
    Done,
    Failed,
    /// Not needed here (no BMC, already true).
    Skipped,
}
text_form!(StepState { Pending = "pending", Running = "running", Done = "done", Failed = "failed", Skipped = "skipped" });

/// How far a step came, for people: bytes or a count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub done: u64,
    pub total: u64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    pub id: RunId,
    pub machine: MachineId,
    pub kind: RunKind,
    pub state: RunState,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    /// Who asked for it.
    pub actor: String,
    pub steps: Vec<Step>,
}

impl Run {
    /// The step that runs, failed, or comes next.
    pub fn current_step(&self) -> Option<&Step> {
        self.steps.iter().find(|s| !matches!(s.state, StepState::Done | StepState::Skipped))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub id: StepId,
    pub run: RunId,
    pub machine: MachineId,
    pub index: u32,
    pub kind: StepKind,
    pub state: StepState,
    /// Attempts begun.
    pub attempts: u32,
    /// What the step needs to know when it is called again. Opaque to all but the step.
    pub checkpoint: serde_json::Value,
    /// What proved it done, or the error.
    pub evidence: serde_json::Value,
    /// The sentence shown while it runs.
    pub note: String,
    pub progress: Option<Progress>,
    pub started_at: Option<Timestamp>,
    pub ended_at: Option<Timestamp>,
    pub deadline_at: Option<Timestamp>,
    pub due_at: Timestamp,
    /// Growing number of the claim under which the step works.
    pub fence: i64,
}

/// What one bounded exchange of a step led to.
#[derive(Clone, Debug, PartialEq)]
pub enum StepOutcome {
    Done { evidence: serde_json::Value, note: String },
    Again { checkpoint: serde_json::Value, after: Duration, note: String },
    Skipped { note: String },
}
