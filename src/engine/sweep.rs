//! Housekeeping: drops what can no longer be used, and what is older than it is kept.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::store::retention::Keep;
use crate::store::{Store, StoreError};

/// Nonces live 20 minutes and logs are capped per machine: now and then is often enough.
const EVERY: Duration = Duration::from_secs(600);
/// Rows of a table that one statement drops: some milliseconds of the write lock.
const AT_ONCE: u32 = 500;
/// Statements of a sweep, so that years of rows do not go in one night: 50,000 rows of a table each time.
const ROUNDS: u32 = 100;

/// Sweeps until `stop`.
pub async fn run(store: Store, keep: Keep, stop: CancellationToken) {
    loop {
        if let Err(e) = sweep(&store, &keep).await {
            tracing::warn!(error = %e, "housekeeping failed; it is tried again in {} s", EVERY.as_secs());
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// One sweep.
///
/// # Errors
/// The store's; what was dropped before stays dropped.
pub async fn sweep(store: &Store, keep: &Keep) -> Result<(), StoreError> {
    let now = clock::now();
    let mut tx = store.begin().await?;
    tx.prune_boot_nonces(now).await?;
    tx.commit().await?;
    for machine in store.machines().await? {
        let mut tx = store.begin().await?;
        tx.prune_agent_log(machine.id).await?;
        tx.prune_boots(machine.id, keep).await?;
        tx.commit().await?;
    }
    for _ in 0..ROUNDS {
        let dropped = store.drop_old(keep, now, AT_ONCE).await?;
        let blanked = store.blank_finished_orders(AT_ONCE).await?;
        if dropped + blanked == 0 {
            break;
        }
    }
    Ok(())
}
