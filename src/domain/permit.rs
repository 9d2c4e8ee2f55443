//! Words of the gate: what may be asked, how grave it is, and why it was refused. The permit itself can be made only by
//! `decide::gate`.

use serde::{Deserialize, Serialize};

use crate::domain::id::{MachineId, Sha256};
use crate::domain::policy::Rung;
use crate::domain::power::text_form;
use crate::domain::time::Timestamp;

/// How much an action can harm. Higher tiers need more and fresher evidence and have smaller budgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tier {
    /// Looking.
    T0,
    /// Disturbs nobody: tickets, lights, a BMC restart.
    T1,
    /// Interrupts the machine.
    T2,
    /// Loses what is on the system disk.
    T3,
    /// Cannot be undone.
    T4,
}
text_form!(Tier { T0 = "T0", T1 = "T1", T2 = "T2", T3 = "T3", T4 = "T4" });

/// One rung on one machine. There is no form of this for several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Action {
    pub machine: MachineId,
    pub rung: Rung,
}

/// The fifteen checks, in the order they are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    KillSwitch,
    Leadership,
    Identity,
    Protected,
    HumanLock,
    DomainHold,
    Evidence,
    Reverified,
    Drained,
    Conflict,
    Window,
    Budget,
    Breaker,
    Approval,
    DryRun,
}
text_form!(Check {
    KillSwitch = "kill_switch", Leadership = "leadership", Identity = "identity", Protected = "protected",
    HumanLock = "human_lock", DomainHold = "domain_hold", Evidence = "evidence", Reverified = "reverified",
    Drained = "drained", Conflict = "conflict", Window = "window", Budget = "budget", Breaker = "breaker",
    Approval = "approval", DryRun = "dry_run",
});

impl Check {
    pub const ALL: [Self; 15] = [
        Self::KillSwitch,
        Self::Leadership,
        Self::Identity,
        Self::Protected,
        Self::HumanLock,
        Self::DomainHold,
        Self::Evidence,
        Self::Reverified,
        Self::Drained,
        Self::Conflict,
        Self::Window,
        Self::Budget,
        Self::Breaker,
        Self::Approval,
        Self::DryRun,
    ];
}

/// A check that was made and passed, with what it saw.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Passed {
    pub check: Check,
    pub detail: String,
}

/// The first check that failed. Later ones were not made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub check: Check,
    /// A sentence: what stood in the way.
    pub why: String,
    /// Ask again at this moment; `None`: only a change of facts helps.
    pub again_at: Option<Timestamp>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "refused by check {} ({}): {}", self.check as u8 + 1, self.check, self.why)
    }
}

/// What is stored of a permit. It cannot be turned back into one: after a restart the gate is asked again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PermitRecord {
    pub action: Action,
    pub evidence: Sha256,
    pub policy_version: u64,
    pub made_at: Timestamp,
    pub expires_at: Timestamp,
    pub nonce: uuid::Uuid,
}
