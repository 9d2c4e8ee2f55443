//! Group commit for high-rate facts: sightings, boot marks, agent logs and progress, DHCP leases.
//!
//! A durable commit of one row costs SQLite over a millisecond (703/s were measured with synchronous=FULL); a few hundred
//! rows in one commit cost hardly more. Writers queue facts and are told when the commit that holds theirs is done.

use std::sync::Mutex;

use tokio::sync::{mpsc, oneshot};

use crate::domain::boot::{Arch, BootStage, ClientArch};
use crate::domain::id::{Mac, MachineId, TaskId};
use crate::domain::power::FirmwareKind;
use crate::domain::time::Timestamp;
use crate::store::{Result, Store, StoreError, Tx};

/// Facts waiting for their commit; when full, writers wait (backpressure, not loss).
const QUEUE: usize = 8192;
/// Facts in one commit. Keeps a commit under about 20 ms.
const BATCH: usize = 512;

/// Something observed. Carries nothing into a decision but what it writes.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// A machine showed a sign of life.
    Seen { machine: MachineId, at: Timestamp, firmware: Option<FirmwareKind>, arch: Option<Arch> },
    /// One step of a network boot.
    BootMark(BootMarkFact),
    /// A line of the agent's log.
    AgentLog { machine: MachineId, at: Timestamp, uptime_secs: f64, level: String, line: String, id: uuid::Uuid },
    /// How far an agent's task came.
    TaskProgress { task: TaskId, machine: MachineId, at: Timestamp, phase: String, done: u64, total: u64 },
    /// An agent's session was used.
    AgentSeen { token_hash: String, machine: MachineId, at: Timestamp },
}

/// A mark on a boot timeline. `starts` opens a new boot when the last one of this MAC has passed that point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootMarkFact {
    pub mac: Mac,
    pub machine: Option<MachineId>,
    pub client: Option<ClientArch>,
    pub stage: BootStage,
    pub at: Timestamp,
    /// Untrusted text, cut to 200 characters.
    pub note: String,
    /// Id for the boot if this mark opens one.
    pub fresh: uuid::Uuid,
}

type Queued = (Fact, Option<oneshot::Sender<std::result::Result<(), String>>>);

/// The queue's sending side. Cheap to clone.
#[derive(Clone)]
pub struct FactSink {
    queue: mpsc::Sender<Queued>,
    writer: std::sync::Arc<Mutex<Option<tokio::task::JoinHandle<()>>>>,
}

impl FactSink {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Queued>) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        (Self { queue, writer: std::sync::Arc::default() }, receiver)
    }

    /// Queues a fact and returns when it is durable.
    pub async fn commit(&self, fact: Fact) -> Result<()> {
        let (done, wait) = oneshot::channel();
        self.queue.send((fact, Some(done))).await.map_err(|_| StoreError::Closed)?;
        match wait.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(StoreError::BadRow { table: "facts", id: String::new(), why }),
            Err(_) => Err(StoreError::Closed),
        }
    }

    /// Queues a fact without waiting for the disk. When the queue is full the fact is dropped and `false` returned:
    /// for sightings and logs, where the next one says the same.
    pub fn offer(&self, fact: Fact) -> bool {
        self.queue.try_send((fact, None)).is_ok()
    }

    /// Waits until all that was queued before is written.
    pub(crate) async fn close(&self) {
        let writer = self.writer.lock().ok().and_then(|mut w| w.take());
        if let Some(writer) = writer {
            // An empty marker: the writer ends after the batch that holds it.
            let (done, wait) = oneshot::channel();
            let marker = Fact::AgentSeen { token_hash: String::new(), machine: MachineId(uuid::Uuid::nil()), at: Timestamp(0) };
            if self.queue.send((marker, Some(done))).await.is_ok() {
                drop(wait.await);
            }
            writer.abort();
        }
    }
}

pub(crate) fn spawn_writer(store: &Store, queue: mpsc::Receiver<Queued>) {
    let sink = store.facts().clone();
    // The writer must not keep the store alive: it holds a weak reference.
    let inner = std::sync::Arc::downgrade(&store.inner);
    let task = tokio::spawn(run_writer(inner, queue));
    if let Ok(mut slot) = sink.writer.lock() {
        *slot = Some(task);
    }
}

async fn run_writer(store: std::sync::Weak<crate::store::Inner>, mut queue: mpsc::Receiver<Queued>) {
    let mut batch = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let Some(inner) = store.upgrade() else { return };
        let store = Store { inner };
        let outcome = write_batch(&store, batch.iter().map(|(f, _)| f)).await;
        let outcomes = match outcome {
            Ok(()) => batch.iter().map(|_| Ok(())).collect(),
            Err(e) => {
                tracing::warn!(
                    error = &e as &dyn std::error::Error,
                    facts = batch.len(),
                    "a batch of facts could not be stored; each is tried for itself"
                );
                one_by_one(&store, &batch).await
            }
        };
        for ((_, done), outcome) in batch.drain(..).zip(outcomes) {
            if let Some(done) = done {
                // A caller that went away does not mind.
                drop(done.send(outcome));
            }
        }
    }
}

/// One fact that the database does not take must not take the others down with it.
async fn one_by_one(store: &Store, batch: &[Queued]) -> Vec<std::result::Result<(), String>> {
    let mut outcomes: Vec<std::result::Result<(), String>> = Vec::with_capacity(batch.len());
    for (fact, _) in batch {
        let mut tx = match store.begin().await {
            Ok(tx) => tx,
            Err(e) => {
                // Not this fact's fault: the others would wait as long and fail the same way.
                let rest = batch.len() - outcomes.len();
                tracing::error!(error = &e as &dyn std::error::Error, facts = rest, "facts were lost: the database takes no writes");
                outcomes.extend(std::iter::repeat_n(Err(e.to_string()), rest));
                return outcomes;
            }
        };
        let written = match write(&mut tx, fact).await {
            Ok(()) => tx.commit().await,
            Err(e) => Err(e),
        };
        if let Err(e) = &written {
            tracing::error!(error = e as &dyn std::error::Error, "a fact was lost");
        }
        outcomes.push(written.map_err(|e| e.to_string()));
    }
    outcomes
}

async fn write_batch(store: &Store, facts: impl Iterator<Item = &Fact>) -> Result<()> {
    let mut tx = store.begin().await?;
    for fact in facts {
        write(&mut tx, fact).await?;
    }
    tx.commit().await
}

async fn write(tx: &mut Tx, fact: &Fact) -> Result<()> {
    match fact {
        Fact::Seen { machine, at, firmware, arch } => tx.note_seen(*machine, *at, *firmware, *arch).await,
        Fact::BootMark(mark) => tx.note_boot_mark(mark).await,
        Fact::AgentLog { machine, at, uptime_secs, level, line, id } => {
            tx.insert_agent_log(*id, *machine, *at, *uptime_secs, level, line).await
        }
        Fact::TaskProgress { task, machine, at, phase, done, total } => {
            tx.note_task_progress(*task, *machine, *at, phase, *done, *total).await
        }
        Fact::AgentSeen { token_hash, machine, at } => tx.note_agent_seen(token_hash, *machine, *at).await,
    }
}
