//! The permit and the warrant: values that cannot be copied, stored or made elsewhere.

use std::time::Duration;

use crate::decide::gate::{Identity, KillSwitches, checks};
use crate::domain::id::{MachineId, Sha256};
use crate::domain::permit::{Action, Check, PermitRecord, Refusal};
use crate::domain::time::Timestamp;

/// A permit is good for this long. A BMC call begins within seconds; what waits longer asks anew.
pub const LIFE: Duration = Duration::from_secs(120);

/// The right to one action on one machine, once.
///
/// It cannot be made outside the gate, and not be copied:
///
/// ```compile_fail
/// use hostler::decide::gate::Permit;
/// fn twice(p: &Permit) -> Permit {
///     p.clone()
/// }
/// ```
///
/// ```compile_fail
/// use hostler::decide::gate::Permit;
/// fn spend(p: Permit) -> (Permit, Permit) {
///     (p, p)
/// }
/// ```
///
/// ```compile_fail
/// use hostler::decide::gate::Permit;
/// use hostler::domain::permit::PermitRecord;
/// fn forge(record: PermitRecord) -> Permit {
///     Permit { record }
/// }
/// ```
///
/// ```compile_fail
/// fn revive(text: &str) -> hostler::decide::gate::Permit {
///     serde_json::from_str(text).unwrap()
/// }
/// ```
///
/// What can be done with one is to read it and to redeem it:
///
/// ```
/// use hostler::decide::gate::Permit;
/// fn read(p: &Permit) -> uuid::Uuid {
///     p.record().nonce
/// }
/// ```
#[derive(Debug)]
#[must_use = "a permit that is dropped is an action that was allowed and not done"]
pub struct Permit {
    record: PermitRecord,
}

/// What is looked at again right before the BMC call: checks 1, 3, 5, 6 and the permit's own life and binding.
#[derive(Clone, Debug)]
pub struct Recheck {
    pub now: Timestamp,
    pub machine: MachineId,
    pub kill: KillSwitches,
    pub identity: Identity,
    pub human_lock: Option<String>,
    pub is_held: bool,
    pub evidence: Sha256,
    pub policy_version: u64,
    /// The nonce was found among those used before.
    pub nonce_used: bool,
}

/// Proof that a permit was redeemed. The executor's acting functions take it by value.
///
/// ```compile_fail
/// fn twice(w: &hostler::decide::gate::Warrant) -> hostler::decide::gate::Warrant {
///     w.clone()
/// }
/// ```
#[derive(Debug)]
#[must_use = "a warrant that is dropped is an action that was allowed and not done"]
pub struct Warrant {
    action: Action,
    nonce: uuid::Uuid,
}

impl Warrant {
    pub fn action(&self) -> Action {
        self.action
    }

    pub fn nonce(&self) -> uuid::Uuid {
        self.nonce
    }
}

impl Permit {
    pub(super) fn new(action: Action, evidence: Sha256, policy_version: u64, now: Timestamp, nonce: uuid::Uuid) -> Self {
        Self { record: PermitRecord { action, evidence, policy_version, made_at: now, expires_at: now.plus(LIFE), nonce } }
    }

    /// What is stored of it. It cannot be turned back.
    pub fn record(&self) -> &PermitRecord {
        &self.record
    }

    /// Spends the permit.
    ///
    /// # Errors
    /// What changed since it was given. The permit is gone either way.
    pub fn redeem(self, seen: &Recheck) -> Result<Warrant, Refusal> {
        let r = self.record;
        let no = |check, why: String| Err(Refusal { check, why, again_at: None });
        if let Err(n) = checks::switches(seen.kill) {
            return no(Check::KillSwitch, n.why);
        }
        if seen.machine != r.action.machine {
            return no(Check::Identity, "the permit is for another machine".to_owned());
        }
        if let Err(n) = checks::identity(&seen.identity, r.action.rung.tier(), seen.now) {
            return no(Check::Identity, n.why);
        }
        if let Some(who) = &seen.human_lock {
            return no(Check::HumanLock, format!("{who} works on the machine"));
        }
        if seen.is_held {
            return no(Check::DomainHold, "a domain of the machine is on hold since the permit was given".to_owned());
        }
        if seen.now >= r.expires_at || seen.now < r.made_at {
            return no(Check::Leadership, format!("the permit was good until {}, and it is {}", r.expires_at, seen.now));
        }
        if seen.evidence != r.evidence {
            return no(Check::Evidence, "the evidence is not that of the permit any more".to_owned());
        }
        if seen.policy_version != r.policy_version {
            return no(Check::Evidence, "another policy version is active since".to_owned());
        }
        if seen.nonce_used {
            return no(Check::Conflict, "the permit was used before".to_owned());
        }
        Ok(Warrant { action: r.action, nonce: r.nonce })
    }
}
