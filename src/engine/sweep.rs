//! Housekeeping: drops what can no longer be used.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::store::{Store, StoreError};

/// Nonces live 20 minutes and logs are capped per machine: now and then is often enough.
const EVERY: Duration = Duration::from_secs(600);

/// Sweeps until `stop`.
pub async fn run(store: Store, stop: CancellationToken) {
    loop {
        if let Err(e) = sweep(&store).await {
            tracing::warn!(error = %e, "housekeeping failed; it is tried again in {} s", EVERY.as_secs());
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

async fn sweep(store: &Store) -> Result<(), StoreError> {
    let machines = store.machines().await?;
    let mut tx = store.begin().await?;
    tx.prune_boot_nonces(clock::now()).await?;
    tx.commit().await?;
    for machine in machines {
        let mut tx = store.begin().await?;
        tx.prune_agent_log(machine.id).await?;
        tx.commit().await?;
    }
    Ok(())
}
