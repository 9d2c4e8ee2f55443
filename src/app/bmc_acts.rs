//! What people do to a BMC itself: light the locator LED, restart it, ask it something raw.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::app::observe::LedView;
use crate::app::{App, AppError, Result, need};
use crate::clock;
use crate::domain::access::{Actor, Role};
use crate::domain::bmc_features::LedState;
use crate::domain::id::MachineId;
use crate::domain::time::spoken;

/// A locator LED lit without a time goes out after this: nobody finds a rack where every LED blinks.
pub const LED_FOR: Duration = Duration::from_secs(15 * 60);
const LED_LONGEST: Duration = Duration::from_secs(24 * 3600);
/// The longest time that a BMC's own timer takes (IPMI v2.0, 28.5 Chassis Identify: one byte of seconds).
const OWN_TIMER: Duration = Duration::from_secs(255);
const MAX_RAW: usize = 1024;

/// What came of an act.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ActResult {
    /// In a sentence.
    pub evidence: String,
}

/// What the BMC answered to a raw question.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RawAnswer {
    /// JSON from Redfish, hex from IPMI.
    pub answer: String,
}

impl App {
    /// The locator LED, if Hostler lit it.
    ///
    /// # Errors
    /// The store's.
    pub async fn led(&self, id: MachineId) -> Result<Option<LedView>> {
        Ok(self.store().lit_led(id).await?.map(|l| LedView { lit_at: l.lit_at, off_at: l.off_at, actor: l.actor }))
    }

    /// Lights the locator LED for a time, after which it goes out by itself.
    ///
    /// # Errors
    /// `Invalid`, `Refused` without a BMC, `Bmc` when it does not do it.
    pub async fn led_on(&self, actor: &Actor, id: MachineId, lasting: Option<Duration>) -> Result<LedView> {
        need(actor, Role::Tech)?;
        let lasting = lasting.unwrap_or(LED_FOR);
        if lasting.is_zero() || lasting > LED_LONGEST {
            return Err(AppError::invalid("a locator LED is lit for 1 second to 24 hours", "give a shorter time"));
        }
        let machine = self.existing(id).await?;
        let access = self.bmc_access(&machine).await?;
        let now = clock::now();
        let off_at = now.plus(lasting);
        // Written before the command goes out: whatever happens now, the LED goes out again.
        let mut tx = self.store().begin().await?;
        tx.put_lit_led(id, now, off_at, &actor.name).await?;
        let text = format!("{} lit the locator LED of {} for {}.", actor.name, machine.name, spoken(lasting));
        let detail = serde_json::json!({ "lit_secs": lasting.as_secs() });
        self.machine_deed(actor, now, "machine.led_on", &machine, detail, text).record(&mut tx).await?;
        tx.commit().await?;
        let own_timer = Some(lasting).filter(|l| *l <= OWN_TIMER);
        let answer = self.inner.engine.bmcs.set_locator_led(id, &access, LedState::Blinking, own_timer).await;
        if let Err(e) = self.noted(id, &access, answer).await {
            let mut tx = self.store().begin().await?;
            tx.delete_lit_led(id).await?;
            tx.commit().await?;
            return Err(e);
        }
        Ok(LedView { lit_at: now, off_at, actor: actor.name.clone() })
    }

    /// Puts the locator LED out.
    ///
    /// # Errors
    /// `Refused` without a BMC, `Bmc` when it does not do it.
    pub async fn led_off(&self, actor: &Actor, id: MachineId) -> Result<ActResult> {
        need(actor, Role::Tech)?;
        let machine = self.existing(id).await?;
        let access = self.bmc_access(&machine).await?;
        let answer = self.inner.engine.bmcs.set_locator_led(id, &access, LedState::Off, None).await;
        self.noted(id, &access, answer).await?;
        let mut tx = self.store().begin().await?;
        tx.delete_lit_led(id).await?;
        let text = format!("{} put out the locator LED of {}.", actor.name, machine.name);
        self.machine_deed(actor, clock::now(), "machine.led_off", &machine, serde_json::Value::Null, text).record(&mut tx).await?;
        tx.commit().await?;
        Ok(ActResult { evidence: format!("the locator LED of {} is out", machine.name) })
    }

    /// Restarts the BMC itself. The machine runs on.
    ///
    /// # Errors
    /// `Refused` without a BMC, `Bmc` when it does not do it.
    pub async fn reset_bmc(&self, actor: &Actor, id: MachineId) -> Result<ActResult> {
        need(actor, Role::Operator)?;
        let machine = self.existing(id).await?;
        let access = self.bmc_access(&machine).await?;
        // Written before the command goes out: whoever reads the log later knows why the BMC was away.
        let mut tx = self.store().begin().await?;
        let text = format!("{} asked the BMC of {} to restart itself.", actor.name, machine.name);
        self.machine_deed(actor, clock::now(), "machine.bmc_reset", &machine, serde_json::Value::Null, text).record(&mut tx).await?;
        tx.commit().await?;
        let answer = self.inner.engine.bmcs.reset_bmc(id, &access).await;
        self.noted(id, &access, answer).await?;
        Ok(ActResult { evidence: format!("the BMC of {} accepted; it is away for some minutes, the machine runs on", machine.name) })
    }

    /// Asks the BMC something raw: a Redfish path to read, or an IPMI command in hex.
    ///
    /// # Errors
    /// `Forbidden` below administrator (an IPMI command can change anything), `Invalid`, `Bmc`.
    pub async fn ask_raw(&self, actor: &Actor, id: MachineId, what: &str) -> Result<RawAnswer> {
        need(actor, Role::Admin)?;
        let what = what.trim();
        let is_path = what.starts_with("/redfish/v1") && !what.contains("..") && !what.chars().any(|c| c.is_control() || c == ' ');
        let is_hex = !what.is_empty() && what.split_whitespace().all(|b| u8::from_str_radix(b.trim_start_matches("0x"), 16).is_ok());
        if what.len() > MAX_RAW || !(is_path || is_hex) {
            return Err(AppError::invalid(
                "a raw question is a path below /redfish/v1, or an IPMI command in hex",
                "for example /redfish/v1/Chassis, or \"06 01\" (Get Device ID)",
            ));
        }
        let machine = self.existing(id).await?;
        let access = self.bmc_access(&machine).await?;
        let mut tx = self.store().begin().await?;
        let text = format!("{} asked the BMC of {} something raw.", actor.name, machine.name);
        let detail = serde_json::json!({ "asked": what });
        self.machine_deed(actor, clock::now(), "machine.bmc_raw", &machine, detail, text).record(&mut tx).await?;
        tx.commit().await?;
        let answer = self.inner.engine.bmcs.read_raw(id, &access, what).await;
        Ok(RawAnswer { answer: self.noted(id, &access, answer).await? })
    }
}
