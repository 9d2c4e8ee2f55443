//! The collector: asks every known BMC for power, sensors, logs, parts and the rest, when each is due.
//!
//! Due times and claims are rows, as for machines and steps; a claim is one lane of one BMC, and serves one kind of poll.
//! `ask` makes the exchange and lets `decide` judge the answer, `record` writes many outcomes in one commit, `upkeep` seals and
//! prunes samples and puts out locator LEDs. A failed poll writes why it failed and touches no value: silence is never health,
//! values only age.

mod ask;
pub mod count;
mod record;
mod upkeep;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::decide::polling::PollSettings;
use crate::domain::time::Timestamp;
use crate::engine::Engine;
use crate::engine::collect::record::Polled;
use crate::store::StoreError;
use crate::store::polls::PollClaim;

/// One poll of one kind; beyond this it has failed. A call of a driver is bounded by 120 s, logs take several.
const POLL_LIMIT: Duration = Duration::from_secs(240);
/// Longer than a poll and its record, so that no other replica asks meanwhile.
const LEASE: Duration = Duration::from_secs(300);
/// Lanes claimed in one go.
const CLAIM_BATCH: usize = 128;
/// New machines taken in one go, and how often they are looked for.
const NEW_BATCH: u32 = 500;
const LOOK_FOR_NEW: Duration = Duration::from_secs(2);
/// First polls of new machines are spread over this.
const FIRST_WITHIN: Duration = Duration::from_secs(5);
/// The longest sleep: what another replica made due is seen by then.
const IDLE: Duration = Duration::from_secs(1);
/// Outcomes waiting to be written. When it is full polls wait, and ask no more.
const QUEUE: usize = 512;

/// How the fleet is polled, and how long what comes of it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct CollectSettings {
    pub polls: PollSettings,
    /// Polls under way at the same time in this process.
    pub at_once: usize,
    pub keep_samples: Duration,
    pub keep_rollups: Duration,
}

impl Default for CollectSettings {
    fn default() -> Self {
        Self {
            polls: PollSettings::default(),
            at_once: 192,
            keep_samples: Duration::from_secs(7 * 86_400),
            keep_rollups: Duration::from_secs(90 * 86_400),
        }
    }
}

/// The collector. Cheap to clone.
#[derive(Clone)]
pub struct Collector {
    engine: Engine,
    settings: Arc<CollectSettings>,
    places: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Collector {
    pub fn new(engine: Engine, settings: CollectSettings) -> Self {
        let places = Arc::new(Semaphore::new(settings.at_once.max(1)));
        Self { engine, settings: Arc::new(settings), places, tasks: TaskTracker::new() }
    }

    /// Polls until `stop`. Exchanges that are out then are cut off: they change nothing, and their claims are dropped at the
    /// next start.
    pub async fn run(self, stop: CancellationToken) {
        let (outcomes, queue) = mpsc::channel(QUEUE);
        let writer = tokio::spawn(self.clone().write_outcomes(queue));
        let upkeep = tokio::spawn(self.clone().upkeep(stop.clone()));
        let mut looked: Option<tokio::time::Instant> = None;
        while !stop.is_cancelled() {
            if looked.is_none_or(|at| at.elapsed() >= LOOK_FOR_NEW) {
                looked = Some(tokio::time::Instant::now());
                if let Err(e) = self.take_new_machines(clock::now()).await {
                    tracing::error!(error = &e as &dyn std::error::Error, "new BMCs could not be looked for; trying again");
                }
            }
            let worked = match self.start_due(clock::now(), &outcomes, &stop).await {
                Ok(started) => started > 0,
                Err(e) => {
                    tracing::error!(error = &e as &dyn std::error::Error, "due polls could not be claimed; trying again");
                    false
                }
            };
            let nap = if worked { Duration::from_millis(20) } else { self.nap().await };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(nap) => {}
            }
        }
        self.tasks.close();
        self.tasks.wait().await;
        // The queue ends when its last sender is gone; what is in it is written.
        drop(outcomes);
        for task in [writer, upkeep] {
            if let Err(e) = task.await {
                tracing::error!(error = &e as &dyn std::error::Error, "a part of the collector failed");
            }
        }
    }

    /// Takes in new machines, polls what is due now and records it: for tests that drive the collector themselves. Returns
    /// how many polls there were.
    ///
    /// # Errors
    /// The store's.
    pub async fn tick(&self, now: Timestamp) -> Result<usize, StoreError> {
        self.take_new_machines(now).await?;
        let (outcomes, mut queue) = mpsc::channel(QUEUE);
        let started = self.start_due(now, &outcomes, &CancellationToken::new()).await?;
        drop(outcomes);
        while let Some(polled) = queue.recv().await {
            self.write_batch(std::slice::from_ref(&polled)).await?;
        }
        Ok(started)
    }

    async fn nap(&self) -> Duration {
        match self.engine.store.next_poll_due().await {
            Ok(due) => due.map_or(IDLE, |at| at.since(clock::now()).min(IDLE)).max(Duration::from_millis(20)),
            Err(e) => {
                tracing::error!(error = &e as &dyn std::error::Error, "due polls could not be asked for; trying again");
                IDLE
            }
        }
    }

    async fn take_new_machines(&self, now: Timestamp) -> Result<(), StoreError> {
        let new = self.engine.store.unpolled_machines(NEW_BATCH).await?;
        if new.is_empty() {
            return Ok(());
        }
        // A handful is asked at once, a whole hall is spread.
        let spread = if new.len() > 32 { FIRST_WITHIN } else { Duration::ZERO };
        let mut tx = self.engine.store.begin().await?;
        for machine in new {
            tx.insert_polls(machine, now.plus(spread.mul_f64(jitter()))).await?;
        }
        tx.commit().await
    }

    async fn start_due(&self, now: Timestamp, outcomes: &mpsc::Sender<Polled>, stop: &CancellationToken) -> Result<usize, StoreError> {
        let free = self.places.available_permits().min(CLAIM_BATCH);
        if free == 0 {
            return Ok(0);
        }
        let limit = u32::try_from(free).unwrap_or(u32::MAX);
        let claims = self.engine.store.claim_due_polls(&self.engine.settings.owner, now, LEASE, limit).await?;
        let count = claims.len();
        for claim in claims {
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { break };
            let (collector, outcomes, stop) = (self.clone(), outcomes.clone(), stop.clone());
            self.tasks.spawn(async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = collector.serve(claim, outcomes) => {}
                }
                drop(place);
            });
        }
        Ok(count)
    }

    /// One claim: ask, judge, hand over for writing.
    async fn serve(&self, claim: PollClaim, outcomes: mpsc::Sender<Polled>) {
        match self.ask(claim).await {
            Ok(Some(polled)) => {
                // The writer is gone only when the service stops; then the claim is dropped at the next start.
                drop(outcomes.send(polled).await);
            }
            Ok(None) => {}
            Err(e) => {
                tracing::error!(machine = %claim.machine, error = &e as &dyn std::error::Error, "a poll could not be prepared; its claim runs out and it is tried again");
            }
        }
    }
}

/// Between 0 and 1.
fn jitter() -> f64 {
    f64::from(u32::from_le_bytes(clock::random::<4>())) / f64::from(u32::MAX)
}
