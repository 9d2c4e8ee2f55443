//! The gate: fifteen checks between a decision and an action. All must pass, in this order; the first refusal is recorded
//! and later checks are not made.
//!
//! A [`Permit`] is the right to one action on one machine, once, within two minutes. Only [`ask`] makes one.

pub mod breaker;
pub mod budget;
mod checks;
mod permit;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::decide::gate::breaker::Breaker;
use crate::decide::gate::budget::Usage;
pub use crate::decide::gate::permit::{Permit, Recheck, Warrant};
use crate::domain::case::{Case, Domain, Evidence};
use crate::domain::decision::digest_of;
use crate::domain::id::{CaseId, MachineId, Serial, Sha256, SystemUuid};
use crate::domain::observation::{Family, Quality, Witness};
use crate::domain::permit::{Action, Passed, Refusal, Tier};
use crate::domain::policy::{DrainRule, Mode, PoolPolicy, Requires, Rung, When};
use crate::domain::time::Timestamp;

/// What is asked: one rung on one machine, for one case, on this evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub action: Action,
    pub case: CaseId,
    pub family: Family,
    pub proof: Proof,
    pub policy_version: u64,
    pub drain: DrainRule,
    pub when: When,
    pub requires: Option<Requires>,
}

impl Request {
    pub fn tier(&self) -> Tier {
        self.action.rung.tier()
    }
}

/// What the gate needs of a case's evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// Binds permit and approval to exactly this evidence.
    pub digest: Sha256,
    /// When each independent witness last said so.
    pub witnesses: Vec<(Witness, Timestamp)>,
    /// A hardware report that names the failed component, and when it was last seen or read again.
    pub positive_fatal: Option<Timestamp>,
    /// First bad sample.
    pub first_bad: Timestamp,
    /// A restart (R3 to R5) was tried for this case and its success test failed.
    pub restart_failed: bool,
    /// A person asked for it.
    pub human_intent: bool,
    pub disputed: bool,
}

impl Proof {
    /// From a case and what supports it from elsewhere (what the BMC says of the power of a silent machine). `verified`: who
    /// was asked again whether the fault is still there, said yes, and when.
    pub fn of(case: &Case, support: &[Evidence], verified: Option<(Witness, Timestamp)>, disputed: bool) -> Self {
        let mut witnesses: Vec<(Witness, Timestamp)> = Vec::new();
        let good = case.evidence.iter().chain(support).filter(|e| matches!(e.quality, Quality::Good));
        for (w, seen) in good.map(|e| (e.source.witness(), e.at)).chain(verified) {
            match witnesses.iter_mut().find(|(known, _)| *known == w) {
                Some((_, at)) => *at = (*at).max(seen),
                None => witnesses.push((w, seen)),
            }
        }
        let restart_failed = case.a_restart_failed();
        // What moves with every sample (times, counts of reads) is left out, so that an approval outlives the next poll;
        // what is claimed, of which component, on whose word and after which attempts is in.
        let claims: BTreeSet<(&str, Witness)> =
            case.evidence.iter().map(|e| (e.code.as_deref().unwrap_or(e.read_at.as_str()), e.source.witness())).collect();
        let tried: Vec<(Rung, Option<Timestamp>)> = case.attempts.iter().map(|a| (a.rung, a.ended_at)).collect();
        let digest = digest_of(&(case.id, case.machine, &case.rule, case.component.key(), claims, tried, case.since));
        Self {
            digest,
            witnesses,
            positive_fatal: case.positive_fatal.then_some(case.last_bad_at.max(verified.map_or(case.last_bad_at, |(_, at)| at))),
            first_bad: case.since,
            restart_failed,
            human_intent: false,
            disputed,
        }
    }
}

/// One of three switches: off, on, or not readable, which counts as on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    Off,
    On,
    Unreadable,
}

/// The kill switches that cover a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KillSwitches {
    pub fleet: Switch,
    pub pool: Switch,
    pub rung: Switch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leadership {
    /// Until when this replica holds the machine's lease.
    pub lease_until: Option<Timestamp>,
    /// Difference between our clock and that of the database or the other replicas.
    pub clock_error: Option<Duration>,
}

/// What different parties say of who the machine is. `None`: not said, which is not agreement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub inventory_serial: Option<Serial>,
    pub bmc_serial: Option<Serial>,
    pub system_serial: Option<Serial>,
    pub inventory_uuid: Option<SystemUuid>,
    pub bmc_uuid: Option<SystemUuid>,
    /// Expected and seen address of the BMC's network port.
    pub bmc_mac: Option<(crate::domain::id::Mac, crate::domain::id::Mac)>,
    /// Other records carry the same serial or UUID.
    pub has_twin: bool,
    /// When the BMC was last asked who it is.
    pub read_at: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protection {
    No,
    /// Nothing that loses data, from any source.
    Protected {
        reason: String,
    },
    /// It runs Hostler or its database: nothing at all.
    Controller,
    /// Nobody said what it is for: protected until someone does.
    RoleUnknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Drained {
    /// The workload said so.
    Confirmed,
    /// Asked, not yet answered; the deadline.
    Asked(Timestamp),
    /// Nobody was asked.
    NotAsked,
    /// The system is down: there is nothing to drain.
    Down,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    pub evidence: Sha256,
    pub rung: Rung,
    /// Different people who approved.
    pub people: u8,
    pub at: Timestamp,
    pub used: bool,
}

/// Everything the gate looks at, read in one go just before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    pub now: Timestamp,
    pub kill: KillSwitches,
    pub leadership: Leadership,
    /// What was asked for must be one machine; this is the machine whose facts these are.
    pub machine: MachineId,
    pub identity: Identity,
    pub protection: Protection,
    /// The system on it was given to somebody whose consent covers this class of action.
    pub consent: bool,
    pub human_lock: Option<String>,
    /// Open holds of domains it is in, and whether the whole fleet is held.
    pub domain_holds: Vec<Domain>,
    /// Its BMC or system is not heard, so that what is known may be old.
    pub unknown: bool,
    /// When the fault was last read again and found to be there.
    pub reverified_at: Option<Timestamp>,
    pub drained: Drained,
    /// Other work on it: an upgrade, a rebuild, a backup, a legal hold.
    pub conflicts: Vec<String>,
    /// Start of the next window, if it is closed now.
    pub window_closed_until: Option<Timestamp>,
    pub in_window: bool,
    pub usage: Usage,
    pub breaker: Breaker,
    pub pool: PoolPolicy,
    pub approval: Option<Approval>,
    /// More than this machine is retired by the same plan: two people must have approved.
    pub is_campaign: bool,
}

/// What came of asking.
pub struct Answer {
    pub passed: Vec<Passed>,
    pub result: Result<Permit, Refusal>,
}

/// Asks for a permit. `nonce` is fresh and random.
pub fn ask(request: &Request, facts: &Facts, nonce: uuid::Uuid) -> Answer {
    let mut passed = Vec::with_capacity(15);
    for (check, run) in checks::IN_ORDER {
        match run(request, facts) {
            Ok(detail) => passed.push(Passed { check, detail }),
            Err(checks::No { why, again_at }) => {
                return Answer { passed, result: Err(Refusal { check, why, again_at }) };
            }
        }
    }
    let permit = Permit::new(request.action, request.proof.digest, request.policy_version, facts.now, nonce);
    Answer { passed, result: Ok(permit) }
}

/// Mode that holds for a rung in a pool: a reimage has its own, and never more than the pool's.
pub fn mode_for(pool: &PoolPolicy, rung: Rung) -> Mode {
    match rung {
        Rung::Reimage if !pool.stateless => pool.mode.min(pool.reimage).min(Mode::Recommend),
        Rung::Reimage => pool.mode.min(pool.reimage),
        // Nothing is retired without people, whatever a pool says.
        Rung::Retire => pool.mode.min(Mode::Recommend),
        Rung::Observe
        | Rung::Ticket
        | Rung::Cordon
        | Rung::BmcReset
        | Rung::SoftFix
        | Rung::GracefulReboot
        | Rung::ForceRestart
        | Rung::PowerCycle
        | Rung::PowerOff
        | Rung::FirmwareFix
        | Rung::Diagnose
        | Rung::NeedsHands
        | Rung::Quarantine => pool.mode,
    }
}

#[cfg(test)]
pub(crate) mod tests;
