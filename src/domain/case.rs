//! A case: the record of one cause on one component, or of one cause outside many machines.

use serde::{Deserialize, Serialize};

use crate::domain::id::{CaseId, IncidentId, MachineId, Sha256};
use crate::domain::observation::{Component, Family, Observation, Quality, Source, Value};
use crate::domain::policy::Rung;
use crate::domain::power::text_form;
use crate::domain::time::Timestamp;

/// Stored form of [`Case`]. A reader of another number parks the case instead of guessing.
pub const CASE_VERSION: u8 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Info,
    Warning,
    Critical,
    Fatal,
}
text_form!(Severity { Info = "info", Warning = "warning", Critical = "critical", Fatal = "fatal" });

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Clears by itself, no part involved.
    Transient,
    /// Visibility lost.
    Unknown,
    /// The cause is outside the machine.
    Domain,
    /// Redundancy or margin lost, the workload is fine.
    Degraded,
    /// Predicted to fail.
    Failing,
    /// Somebody opened it.
    Security,
    /// The component is lost.
    Failed,
    /// Only a person can mend it.
    NeedsHands,
}
text_form!(Class {
    Transient = "transient", Unknown = "unknown", Domain = "domain", Degraded = "degraded", Failing = "failing",
    Security = "security", Failed = "failed", NeedsHands = "needs_hands",
});

/// Why a case may not act for now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "by")]
pub enum HeldBy {
    /// The cause is in a domain: what was queued is cancelled.
    Domain { incident: IncidentId, name: String },
    /// A person works on the machine.
    Person { who: String, why: String },
    /// Threshold logic and the BMC's own judgement disagree.
    Dispute,
    /// The family flapped: three times suspect and well again within a day.
    Flapping,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum CaseState {
    /// Bad once; not yet believed.
    Suspect,
    /// Believed; the ladder has begun.
    Confirmed,
    Held(HeldBy),
    /// A rung was begun and has until then to show success.
    Acting {
        rung: Rung,
        until: Timestamp,
    },
    /// Well again, and watched until then.
    Probation {
        until: Timestamp,
    },
    /// Waits for a person.
    NeedsHands,
    Closed {
        how: Closed,
    },
}

impl CaseState {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Suspect => "suspect",
            Self::Confirmed => "confirmed",
            Self::Held(_) => "held",
            Self::Acting { .. } => "acting",
            Self::Probation { .. } => "probation",
            Self::NeedsHands => "needs_hands",
            Self::Closed { .. } => "closed",
        }
    }

    pub fn is_open(&self) -> bool {
        !matches!(self, Self::Closed { .. })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Closed {
    /// Never believed: gone before it was confirmed.
    NeverConfirmed,
    /// Gone by itself before anything was done.
    ByItself,
    /// A rung mended it and probation passed.
    Repaired,
    /// A person mended it and probation passed.
    ByPerson,
    /// One of many effects of a cause outside the machine, which ended.
    WithDomain,
}
text_form!(Closed {
    NeverConfirmed = "never_confirmed", ByItself = "by_itself", Repaired = "repaired", ByPerson = "by_person", WithDomain = "with_domain",
});

/// One observation that counts for or against a component, as a case keeps it. Never changed once written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// What was seen, as the middle of a sentence.
    pub what: String,
    pub source: Source,
    pub quality: Quality,
    pub at: Timestamp,
    /// SHA-256 of the bytes it was read from, and where.
    pub bytes: Sha256,
    pub read_at: String,
    /// The code, if it is an event.
    #[serde(default)]
    pub code: Option<String>,
}

impl Evidence {
    pub fn of(o: &Observation) -> Self {
        let code = match &o.value {
            Value::Event(e) => Some(e.code.clone()),
            Value::Gauge(_) | Value::Counter { .. } | Value::State { .. } | Value::Beat | Value::Missing { .. } => None,
        };
        Self {
            what: o.told(),
            source: o.source,
            quality: o.quality,
            at: o.received_at,
            bytes: o.evidence,
            read_at: o.read_at.clone(),
            code,
        }
    }
}

/// One try of one rung.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    pub step: usize,
    pub rung: Rung,
    pub started_at: Timestamp,
    pub ended_at: Option<Timestamp>,
    pub result: AttemptResult,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptResult {
    Running,
    /// Its success test passed.
    Passed,
    Failed,
    /// A hold came between.
    Cancelled,
}
text_form!(AttemptResult { Running = "running", Passed = "passed", Failed = "failed", Cancelled = "cancelled" });

/// One cause on one component of one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    pub version: u8,
    pub id: CaseId,
    pub machine: MachineId,
    pub family: Family,
    pub component: Component,
    /// The gravest rule that raised it; its ladder is climbed.
    pub rule: String,
    /// Every rule that raised it, in order.
    pub rules: Vec<String>,
    pub class: Class,
    pub severity: Severity,
    pub positive_fatal: bool,
    pub ladder: String,
    pub step: usize,
    pub state: CaseState,
    /// When it was first bad. Kept here and never moved, whatever later reports say.
    pub since: Timestamp,
    pub confirmed_at: Option<Timestamp>,
    /// When the present step of the ladder was reached.
    pub step_since: Timestamp,
    pub last_bad_at: Timestamp,
    /// Its signals are not heard; it stays as it was.
    pub unknown_since: Option<Timestamp>,
    pub attempts: Vec<Attempt>,
    /// Newest last, at most [`MAX_EVIDENCE`].
    pub evidence: Vec<Evidence>,
    /// What the last asking of the gate came to, in a sentence.
    #[serde(default)]
    pub last_refusal: Option<String>,
    /// Times it went from well to suspect within the last day.
    #[serde(default)]
    pub flaps: Vec<Timestamp>,
}

/// Evidence kept in a case; older lines stay in the decisions that used them.
pub const MAX_EVIDENCE: usize = 16;

impl Case {
    /// A restart (R3 to R5) was tried and its success test failed.
    pub fn a_restart_failed(&self) -> bool {
        self.attempts.iter().any(|a| a.rung.is_restart() && a.result == AttemptResult::Failed)
    }

    /// Attempts of the present step.
    pub fn tries(&self) -> usize {
        self.attempts.iter().filter(|a| a.step == self.step && a.result != AttemptResult::Cancelled).count()
    }

    pub fn add_evidence(&mut self, line: Evidence) {
        self.evidence.push(line);
        if self.evidence.len() > MAX_EVIDENCE {
            self.evidence.remove(0);
        }
    }
}

/// What machines can share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DomainKind {
    Rack,
    Feed,
    Pdu,
    Switch,
    ManagementSwitch,
    ManagementSubnet,
    Cooling,
    BmcFirmware,
    Bios,
    Model,
    Image,
    PolicyVersion,
    /// The replica of Hostler that watches the machine.
    Replica,
    /// Everything.
    Fleet,
}
text_form!(DomainKind {
    Rack = "rack", Feed = "feed", Pdu = "pdu", Switch = "switch", ManagementSwitch = "management_switch",
    ManagementSubnet = "management_subnet", Cooling = "cooling", BmcFirmware = "bmc_firmware", Bios = "bios", Model = "model",
    Image = "image", PolicyVersion = "policy_version", Replica = "replica", Fleet = "fleet",
});

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Domain {
    pub kind: DomainKind,
    pub name: String,
}

impl std::fmt::Display for Domain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            DomainKind::Fleet => f.write_str("the whole fleet"),
            DomainKind::Rack
            | DomainKind::Feed
            | DomainKind::Pdu
            | DomainKind::Switch
            | DomainKind::ManagementSwitch
            | DomainKind::ManagementSubnet
            | DomainKind::Cooling
            | DomainKind::BmcFirmware
            | DomainKind::Bios
            | DomainKind::Model
            | DomainKind::Image
            | DomainKind::PolicyVersion
            | DomainKind::Replica => write!(f, "{} {}", self.kind.to_string().replace('_', " "), self.name),
        }
    }
}

/// How a machine looks ill, as far as a common cause is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Symptom {
    /// Its BMC does not answer.
    BmcSilent,
    /// Its system does not answer.
    SystemSilent,
    /// Power was lost at an input.
    InputLost,
    Hot,
    Wet,
    /// It does not get through its boot.
    NoBoot,
    /// A part of it reports a fault.
    Part,
}
text_form!(Symptom {
    BmcSilent = "bmc_silent", SystemSilent = "system_silent", InputLost = "input_lost", Hot = "hot", Wet = "wet",
    NoBoot = "no_boot", Part = "part",
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_of_a_state_is_pinned() {
        let text = serde_json::to_string(&CaseState::Acting { rung: Rung::ForceRestart, until: Timestamp(0) }).unwrap();
        assert_eq!(text, r#"{"is":"acting","rung":"force_restart","until":"1970-01-01T00:00:00Z"}"#);
        let held = CaseState::Held(HeldBy::Person { who: "kim".into(), why: "fan".into() });
        let text = serde_json::to_string(&held).unwrap();
        assert_eq!(text, r#"{"is":"held","by":"person","who":"kim","why":"fan"}"#);
        assert_eq!(serde_json::from_str::<CaseState>(&text).unwrap(), held);
    }
}
