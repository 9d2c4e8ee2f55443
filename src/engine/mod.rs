//! The imperative shell: claims due machines and steps, asks `decide`, applies, executes. It has no opinions.
//!
//! Two loops share one clockwork. `reconcile` claims machines whose decision is due, loads the facts in one read, asks
//! `decide::workflow` and applies the answer in one transaction. `execute` claims due steps and makes one bounded exchange
//! with a BMC, an agent or a file for each. Between any two lines the process may die: what was claimed is claimed
//! again when its lease ran out (or at the next start on the same state directory), and the step's rows say how far it came.

pub mod alerts;
pub mod campaign;
pub mod collect;
pub mod execute;
pub mod reconcile;
pub mod steps;
pub mod sweep;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bmc::Bmcs;
use crate::clock;
use crate::domain::time::Timestamp;
use crate::secret::Sealer;
use crate::store::{Store, StoreError};

/// How long a claim on a step lasts. Longer than [`CALL_LIMIT`], so that no other replica starts while a call is out.
pub const STEP_LEASE: Duration = Duration::from_secs(180);
/// The longest one exchange of a step may take; then it counts as failed.
pub const CALL_LIMIT: Duration = Duration::from_secs(150);
/// A decision is pure and its application one transaction.
pub const MACHINE_LEASE: Duration = Duration::from_secs(30);
/// Steps executed at the same time by one process.
const STEPS_AT_ONCE: usize = 128;
/// Rows claimed in one go.
const CLAIM_BATCH: u32 = 64;
/// The longest sleep when nothing is due: catches what another replica made due.
const IDLE: Duration = Duration::from_secs(2);

/// What the engine needs to know of the site.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// Name of this process in leases, `replica/start`: unique per start, so that a restarted process does not trust its
    /// predecessor's claims, and with the replica's lasting name before it, so that it can drop them.
    pub owner: String,
    /// Where deployed systems reach us: `http://10.0.0.1:8081`.
    pub netboot_url: String,
    /// Power ready machines off (where a BMC can power them on again).
    pub power_off_ready: bool,
}

/// The engine. Cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(crate) store: Store,
    pub(crate) bmcs: Bmcs,
    pub(crate) sealer: Sealer,
    pub(crate) settings: Arc<EngineSettings>,
    /// What the collector asked.
    pub(crate) counters: Arc<collect::count::Counters>,
    at_once: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Engine {
    pub fn new(store: Store, bmcs: Bmcs, sealer: Sealer, settings: EngineSettings) -> Self {
        Self {
            store,
            bmcs,
            sealer,
            settings: Arc::new(settings),
            counters: Arc::default(),
            at_once: Arc::new(Semaphore::new(STEPS_AT_ONCE)),
            tasks: TaskTracker::new(),
        }
    }

    /// Works forever; after `stop` it finishes the exchanges that are out and returns.
    pub async fn run(self, stop: CancellationToken) -> Result<(), StoreError> {
        let mut changes = self.store.changes();
        while !stop.is_cancelled() {
            let worked = match self.tick().await {
                Ok(worked) => worked,
                Err(e) => {
                    tracing::error!(error = %e, cause = ?std::error::Error::source(&e), "the engine could not read or write the store; trying again");
                    false
                }
            };
            if worked {
                continue;
            }
            let due = match self.store.next_due().await {
                Ok(due) => due,
                Err(e) => {
                    tracing::error!(error = %e, "the engine could not ask for due work; trying again");
                    None
                }
            };
            let nap = due.map_or(IDLE, |at| at.since(clock::now()).min(IDLE)).max(Duration::from_millis(5));
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(nap) => {}
                // Any change may have made something due; a lagged receiver just looks.
                _ = changes.recv() => {}
            }
        }
        self.tasks.close();
        self.tasks.wait().await;
        Ok(())
    }

    /// Does what is due now: decides, and starts due steps. Returns whether there was anything.
    pub async fn tick(&self) -> Result<bool, StoreError> {
        let now = clock::now();
        let decided = self.reconcile_due(now).await?;
        let started = self.start_due_steps(now).await?;
        Ok(decided || started)
    }

    /// Waits until no exchange is out: for tests that drive [`Engine::tick`] themselves.
    pub async fn settle(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }

    async fn reconcile_due(&self, now: Timestamp) -> Result<bool, StoreError> {
        let claims = self.store.claim_due_machines(&self.settings.owner, now, MACHINE_LEASE, CLAIM_BATCH).await?;
        for claim in &claims {
            if let Err(e) = self.reconcile(claim.id).await {
                tracing::error!(machine = %claim.id, error = %e, cause = ?std::error::Error::source(&e), "a machine could not be decided on; its claim runs out and it is tried again");
            }
        }
        Ok(!claims.is_empty())
    }

    async fn start_due_steps(&self, now: Timestamp) -> Result<bool, StoreError> {
        let free = u32::try_from(self.at_once.available_permits()).unwrap_or(CLAIM_BATCH).min(CLAIM_BATCH);
        if free == 0 {
            return Ok(false);
        }
        let claims = self.store.claim_due_steps(&self.settings.owner, now, STEP_LEASE, free).await?;
        let any = !claims.is_empty();
        for claim in claims {
            let Ok(permit) = Arc::clone(&self.at_once).acquire_owned().await else { break };
            let engine = self.clone();
            self.tasks.spawn(async move {
                if let Err(e) = engine.execute(claim).await {
                    tracing::error!(step = %claim.id, error = %e, cause = ?std::error::Error::source(&e), "a step could not be recorded; its claim runs out and it is tried again");
                }
                drop(permit);
            });
        }
        Ok(any)
    }
}
