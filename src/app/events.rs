//! The event log as people and programs read it.

use std::collections::HashSet;
use std::time::Duration;

use crate::app::view::EventView;
use crate::app::{App, Result, need};
use crate::clock;
use crate::domain::access::{Actor, Role};
use crate::domain::id::{EventId, MachineId, RunId, uuid_v7};
use crate::domain::time::Timestamp;
use crate::store::events::EventFilter;

/// Ids are made before their transaction commits, so a later commit may carry a smaller id. A follower looks back this
/// far; no transaction of ours stays open longer.
const LATE_BY: Duration = Duration::from_secs(5);
/// Events read in one go by a follower.
const FOLLOW_BATCH: u32 = 500;

/// Follows the event log: every event once, in the order of ids as far as they are known.
pub struct Follower {
    app: App,
    after: EventId,
    seen: HashSet<EventId>,
    recent: Vec<EventId>,
}

impl App {
    /// The newest events, oldest first.
    ///
    /// # Errors
    /// `Forbidden`, the store's.
    pub async fn events(
        &self,
        actor: &Actor,
        machine: Option<MachineId>,
        run: Option<RunId>,
        after: Option<EventId>,
        limit: u32,
    ) -> Result<Vec<EventView>> {
        need(actor, Role::Viewer)?;
        let events = self.store().events(EventFilter { machine, run, after }, limit).await?;
        Ok(events.into_iter().map(EventView::from).collect())
    }

    /// A follower from after `after` on, or from now on.
    ///
    /// # Errors
    /// `Forbidden`.
    pub fn follow_events(&self, actor: &Actor, after: Option<EventId>) -> Result<Follower> {
        need(actor, Role::Viewer)?;
        let after = after.unwrap_or_else(|| floor(clock::now()));
        Ok(Follower { app: self.clone(), after, seen: HashSet::new(), recent: Vec::new() })
    }
}

/// The smallest id of a moment.
fn floor(at: Timestamp) -> EventId {
    EventId(uuid_v7(at, [0; 10]))
}

impl Follower {
    /// What is new since the last call; empty when nothing is.
    ///
    /// # Errors
    /// The store's.
    pub async fn next(&mut self) -> Result<Vec<EventView>> {
        let events = self.app.store().events_after(self.after, FOLLOW_BATCH).await?;
        let caught_up = events.len() < FOLLOW_BATCH as usize;
        let last = events.last().map(|e| e.id);
        let mut fresh = Vec::new();
        for event in events {
            if self.seen.insert(event.id) {
                self.recent.push(event.id);
                fresh.push(EventView::from(event));
            }
        }
        // Behind: go on from the last one read. Caught up: keep looking back over what may still be committed.
        let horizon = floor(clock::now().minus(LATE_BY));
        self.after = match last {
            Some(last) if !caught_up => last,
            Some(_) | None => self.after.max(horizon),
        };
        let after = self.after;
        self.recent.retain(|id| *id > after);
        if self.seen.len() > 4 * FOLLOW_BATCH as usize {
            self.seen = self.recent.iter().copied().collect();
        }
        Ok(fresh)
    }
}
