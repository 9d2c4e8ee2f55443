//! What the collector does beside polling: seals the hours that are over, drops what is older than it is kept, and puts out
//! locator LEDs when their time is up.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::domain::bmc_features::LedState;
use crate::domain::event::Severity;
use crate::domain::id::MachineId;
use crate::domain::time::Timestamp;
use crate::engine::collect::Collector;
use crate::engine::collect::record::event;
use crate::engine::steps::StepError;
use crate::store::StoreError;
use crate::store::sheets::{LitLed, hour_of};

/// LEDs are looked at this often, blocks every [`SEAL_EVERY`]th time.
const EVERY: Duration = Duration::from_secs(1);
const SEAL_EVERY: u32 = 10;
const PRUNE_EVERY: u32 = 300;
/// An hour is sealed this long after its end, when its last polls are surely written.
const SEAL_AFTER: Duration = Duration::from_secs(120);
/// Rows of one transaction.
const SEAL_BATCH: u32 = 200;
const PRUNE_BATCH: u32 = 500;
/// An LED that does not go out is tried again after this, so often.
const LED_AGAIN: Duration = Duration::from_secs(30);
const LED_TRIES: u32 = 20;
const LED_BATCH: u32 = 32;
/// Evidence that nothing refers to any more.
const KEEP_EVIDENCE: Duration = Duration::from_secs(90 * 86_400);

impl Collector {
    pub(super) async fn upkeep(self, stop: CancellationToken) {
        for round in 0_u32.. {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            let now = clock::now();
            if let Err(e) = self.put_out_leds(now).await {
                tracing::warn!(error = &e as &dyn std::error::Error, "locator LEDs could not be looked at; trying again");
            }
            if round % SEAL_EVERY == 0
                && let Err(e) = self.engine.store.seal_samples(hour_of(now.minus(SEAL_AFTER)), SEAL_BATCH).await
            {
                tracing::warn!(error = &e as &dyn std::error::Error, "samples could not be sealed; trying again");
            }
            if round % PRUNE_EVERY == 0
                && let Err(e) = self.prune(now).await
            {
                tracing::warn!(error = &e as &dyn std::error::Error, "old samples could not be dropped; trying again");
            }
        }
    }

    /// Drops what is older than it is kept, a bounded number of rows in each transaction, until nothing is left to drop.
    ///
    /// # Errors
    /// The store's.
    pub async fn prune(&self, now: Timestamp) -> Result<(), StoreError> {
        let store = &self.engine.store;
        let samples = hour_of(now.minus(self.settings.keep_samples));
        let rollup_hour = hour_of(now.minus(self.settings.keep_rollups));
        loop {
            let mut tx = store.begin().await?;
            let gone = tx.prune_samples(samples, PRUNE_BATCH).await?
                + tx.prune_rollups(rollup_hour.div_euclid(24), PRUNE_BATCH).await?
                + tx.prune_traffic(rollup_hour, PRUNE_BATCH).await?
                + tx.prune_evidence(now.minus(KEEP_EVIDENCE), PRUNE_BATCH).await?;
            tx.commit().await?;
            if gone == 0 {
                break;
            }
        }
        for machine in store.machines_with_long_logs().await? {
            let mut tx = store.begin().await?;
            tx.prune_hardware_log(machine, PRUNE_BATCH).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// Puts out the locator LEDs whose time is up.
    ///
    /// # Errors
    /// The store's.
    pub async fn put_out_leds(&self, now: Timestamp) -> Result<(), StoreError> {
        for lit in self.engine.store.take_due_leds(now, LED_AGAIN, LED_BATCH).await? {
            let failed = self.put_out(lit.machine).await.err();
            self.note_led(&lit, failed, now).await?;
        }
        Ok(())
    }

    /// `Err` says why it may still be lit.
    async fn put_out(&self, id: MachineId) -> Result<(), String> {
        let status = match self.engine.store.machine(id).await {
            Ok(machine) => machine.and_then(|m| m.bmc).ok_or("its BMC is not known any more")?,
            Err(e) => return Err(e.to_string()),
        };
        let access = match self.engine.bmc_access(id, &status).await {
            Ok(access) => access.ok_or("its BMC is not known any more")?,
            Err(StepError::Store(e)) => return Err(e.to_string()),
            Err(StepError::Fault { what, .. }) => return Err(what),
        };
        match self.engine.bmcs.set_locator_led(id, &access, LedState::Off, None).await {
            Ok(_) => Ok(()),
            Err(e) => Err(e.to_string()),
        }
    }

    async fn note_led(&self, lit: &LitLed, failed: Option<String>, now: Timestamp) -> Result<(), StoreError> {
        let given_up = failed.is_some() && lit.tries >= LED_TRIES;
        if failed.is_some() && !given_up {
            return Ok(());
        }
        let mut tx = self.engine.store.begin().await?;
        tx.delete_lit_led(lit.machine).await?;
        match failed {
            None => event(&mut tx, lit.machine, "led.off", Severity::Info, "The locator LED went out by itself.".to_owned(), now).await?,
            Some(why) => {
                let text = format!("The locator LED could not be put out and may still be lit: {why}");
                event(&mut tx, lit.machine, "led.stuck", Severity::Warning, text, now).await?;
            }
        }
        tx.commit().await
    }
}
