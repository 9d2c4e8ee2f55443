//! One file per group of steps. Each call is check, act, verify: bounded, and safe to be called again after a crash.

mod agent;
mod power;
mod system;
mod target;

use std::time::Duration;

use crate::bmc::{Advice, BmcAccess, BmcError};
use crate::clock;
use crate::domain::bmc::{BmcAddress, BmcStatus};
use crate::domain::id::MachineId;
use crate::domain::time::Timestamp;
use crate::domain::work::{StepKind, StepOutcome};
use crate::engine::Engine;
use crate::engine::execute::Context;
use crate::secret::Place;
use crate::store::StoreError;
use crate::store::agent::AgentSession;

/// Code and remedy for a BMC that says it belongs to another machine: nothing is done through it.
pub const BMC_OF_ANOTHER: &str = "bmc_of_another_machine";
pub const BMC_OF_ANOTHER_REMEDY: &str = "correct the BMC address of this machine (packing list, cabling), then try again";

/// Why a step's exchange failed. Whether trying again may help is decided where it is known.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    #[error("{what}")]
    Fault { code: String, what: String, remedy: String, passing: bool },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl StepError {
    /// Trouble that may pass by itself.
    pub fn passing(code: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Fault { code: code.into(), what: what.into(), remedy: remedy.into(), passing: true }
    }

    /// Trouble that needs a person.
    pub fn lasting(code: impl Into<String>, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Fault { code: code.into(), what: what.into(), remedy: remedy.into(), passing: false }
    }
}

impl From<BmcError> for StepError {
    fn from(e: BmcError) -> Self {
        Self::Fault { code: e.code().to_owned(), what: e.to_string(), remedy: e.remedy().to_owned(), passing: e.advice() == Advice::Retry }
    }
}

/// An agent that was heard within this time is there: it polls every 30 s at most, and one poll may be lost.
pub const AGENT_ALIVE: Duration = Duration::from_secs(75);

/// Whether the agent of a machine is there right now.
pub fn is_alive(session: &AgentSession, now: Timestamp) -> bool {
    now.since(session.last_seen_at) < AGENT_ALIVE
}

/// Makes the exchange that the step calls for.
pub(crate) async fn perform(context: &mut Context) -> Result<StepOutcome, StepError> {
    match context.step.kind {
        StepKind::ContactBmc => power::contact_bmc(context).await,
        StepKind::CheckTarget => target::check_target(context).await,
        StepKind::BootRamdisk => power::boot_ramdisk(context).await,
        StepKind::WaitAgent => agent::wait_agent(context).await,
        StepKind::Inventory => agent::take_inventory(context).await,
        StepKind::WriteImage => agent::write_image(context).await,
        StepKind::BootDisk => system::boot_disk(context).await,
        StepKind::WaitSystem => system::wait_system(context).await,
        StepKind::WipeDisks => agent::wipe_disks(context).await,
        StepKind::PowerOff => power::power_off(context).await,
    }
}

impl Engine {
    /// What is needed to talk to a machine's BMC; `None` when none is known.
    pub async fn bmc_access(&self, machine: MachineId, status: &BmcStatus) -> Result<Option<BmcAccess>, StepError> {
        let Some(sealed) = self.store.bmc_sealed_password(machine).await? else { return Ok(None) };
        let row = machine.to_string();
        let password = self.sealer.unseal(&sealed, Place { table: "bmcs", row: &row, column: "password" }).map_err(|e| {
            StepError::lasting(
                "bmc_password_sealed",
                format!("the BMC password cannot be opened: {e}"),
                "enter the BMC's password again, then retry",
            )
        })?;
        let access = BmcAccess {
            address: status.address.clone(),
            user: status.user.clone(),
            password,
            tls_pin: status.tls_pin,
            prefer: status.protocol,
        };
        // A restart of the service is no new chance for a password that was refused twice.
        self.bmcs.restore_login_failures(&access, status.auth_failures, status.paused_until);
        Ok(Some(access))
    }

    /// Records what an exchange with the BMC at `asked` showed. When the machine has another BMC by now nothing is recorded:
    /// the late answer of the old one, its certificate included, says nothing about the new.
    pub async fn note_bmc(
        &self,
        machine: MachineId,
        asked: &BmcAddress,
        change: impl FnOnce(&mut BmcStatus, Timestamp),
    ) -> Result<(), StoreError> {
        let Some(mut status) = self.store.machine(machine).await?.and_then(|m| m.bmc).filter(|b| b.address == *asked) else {
            return Ok(());
        };
        change(&mut status, clock::now());
        let mut tx = self.store.begin().await?;
        tx.update_bmc(machine, &status).await?;
        tx.commit().await
    }

    /// Records a failed exchange, so that the page shows it while the step retries.
    pub async fn note_bmc_failure(&self, machine: MachineId, asked: &BmcAddress, e: &BmcError) -> Result<(), StoreError> {
        let text = e.to_string();
        self.note_bmc(machine, asked, |status, _| {
            let (failures, paused_until) = self.bmcs.login_failures(&status.address);
            status.auth_failures = failures;
            status.paused_until = paused_until;
            status.fault = Some(text);
        })
        .await
    }
}
