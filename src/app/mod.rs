//! Use cases: authorise, validate, write the intent with its audit line and event in one transaction. The work itself is
//! done by the engine, which reads the intent; nothing here waits for a machine, except `power`, which is one bounded
//! exchange with a BMC.

pub mod access;
pub mod bmc;
pub mod bmc_acts;
pub mod boot;
pub mod campaigns;
pub mod error;
pub mod events;
pub mod images;
pub mod intake;
pub mod login;
pub mod machines;
pub mod metrics;
pub mod observe;
pub mod racks;
pub mod schema;
pub mod view;

use std::sync::Arc;

use tokio::sync::broadcast;

use crate::artifact::Artifacts;
use crate::clock;
use crate::domain::access::{Actor, Role};
use crate::domain::event::{NewEvent, Severity};
use crate::domain::id::{EventId, MachineId, RunId};
use crate::domain::time::Timestamp;
use crate::engine::Engine;
use crate::secret::Sealer;
use crate::store::{Store, Tx};

pub use crate::store::Change;
pub use error::{AppError, Result};

/// What the use cases need to know of the configuration.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Hash of the API token in `STATE/admin.token`: whoever holds it can read the state directory, so is local.
    pub local_token_hash: Option<String>,
    /// How often BMCs are asked: what is older than three times that is stale.
    pub polls: crate::decide::polling::PollSettings,
}

/// The handle that everything above the engine holds. Cheap to clone.
#[derive(Clone)]
pub struct App {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    sealer: Sealer,
    engine: Engine,
    artifacts: Artifacts,
    settings: Settings,
    logins: login::Limiter,
    usual: view::UsualCache,
    token_uses: access::TokenUses,
}

/// What an [`App`] is made of.
pub struct Parts {
    pub store: Store,
    pub sealer: Sealer,
    /// For its dealings with BMCs.
    pub engine: Engine,
    pub artifacts: Artifacts,
    pub settings: Settings,
}

impl App {
    pub fn new(parts: Parts) -> Self {
        Self {
            inner: Arc::new(Inner {
                store: parts.store,
                sealer: parts.sealer,
                engine: parts.engine,
                artifacts: parts.artifacts,
                settings: parts.settings,
                logins: login::Limiter::default(),
                usual: view::UsualCache::default(),
                token_uses: access::TokenUses::default(),
            }),
        }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(crate) fn sealer(&self) -> &Sealer {
        &self.inner.sealer
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Hints that something changed, for live pages and long polls. A slow receiver loses hints and reads anew.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.inner.store.changes()
    }

    /// The newest database migration this program carries.
    pub fn newest_migration() -> i64 {
        crate::store::open::newest_migration()
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// The store's.
    pub async fn ping(&self) -> Result<()> {
        Ok(self.inner.store.ping().await?)
    }
}

/// Refuses an actor whose role is below `needed`.
///
/// # Errors
/// `Forbidden`.
pub fn need(actor: &Actor, needed: Role) -> Result<()> {
    if actor.role >= needed { Ok(()) } else { Err(AppError::Forbidden { needed, has: actor.role }) }
}

/// What is written beside every change: who did it, and the sentence for the event log.
pub(crate) struct Deed<'a> {
    pub actor: &'a Actor,
    pub at: Timestamp,
    /// Dotted word, the same for audit and event: `machine.accepted`.
    pub kind: &'static str,
    pub machine: Option<MachineId>,
    pub run: Option<RunId>,
    /// What was acted on, for the audit log.
    pub object: String,
    pub detail: serde_json::Value,
    /// A whole sentence that reads alone.
    pub text: String,
}

impl Deed<'_> {
    pub(crate) async fn record(&self, tx: &mut Tx) -> Result<()> {
        tx.insert_audit(clock::fresh_uuid(), self.at, self.actor, self.kind, &self.object, &self.detail).await?;
        let event = NewEvent {
            machine: self.machine,
            run: self.run,
            kind: self.kind,
            severity: Severity::Info,
            text: self.text.clone(),
            actor: self.actor.name.clone(),
        };
        tx.insert_event(EventId(clock::fresh_uuid()), self.at, &event).await?;
        Ok(())
    }
}
