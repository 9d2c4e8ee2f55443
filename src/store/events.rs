//! The event log and the audit log.

use crate::domain::access::Actor;
use crate::domain::event::{Event, NewEvent};
use crate::domain::id::{EventId, MachineId, RunId};
use crate::domain::time::Timestamp;
use crate::store::{Result, Store, Tx, in_pool, in_tx, parse, parse_opt};

#[derive(sqlx::FromRow)]
struct EventRow {
    id: String,
    at: i64,
    machine_id: Option<String>,
    run_id: Option<String>,
    kind: String,
    severity: String,
    line: String,
    actor: String,
}

impl EventRow {
    fn into_event(self) -> Result<Event> {
        Ok(Event {
            id: parse::<EventId>("events", &self.id, &self.id)?,
            at: Timestamp(self.at),
            machine: parse_opt("events", &self.id, self.machine_id.as_ref())?,
            run: parse_opt("events", &self.id, self.run_id.as_ref())?,
            severity: parse("events", &self.id, &self.severity)?,
            kind: self.kind,
            text: self.line,
            actor: self.actor,
        })
    }
}

impl Tx {
    /// Appends an event; its id orders it.
    pub async fn insert_event(&mut self, id: EventId, at: Timestamp, event: &NewEvent) -> Result<()> {
        self.touch(event.machine);
        in_tx!(self, c => sqlx::query(
            "INSERT INTO events (id, at, machine_id, run_id, kind, severity, line, actor) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)")
            .bind(id.to_string())
            .bind(at.0)
            .bind(event.machine.map(|m| m.to_string()))
            .bind(event.run.map(|r| r.to_string()))
            .bind(event.kind)
            .bind(event.severity.to_string())
            .bind(event.text.chars().take(1000).collect::<String>())
            .bind(&event.actor)
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Records who did what, beside the change itself.
    pub async fn insert_audit(
        &mut self,
        id: uuid::Uuid,
        at: Timestamp,
        actor: &Actor,
        action: &str,
        object: &str,
        detail: &serde_json::Value,
    ) -> Result<()> {
        in_tx!(self, c => sqlx::query("INSERT INTO audit (id, at, actor, via, action, object, detail) VALUES ($1, $2, $3, $4, $5, $6, $7)")
            .bind(id.to_string())
            .bind(at.0)
            .bind(&actor.name)
            .bind(actor.via.to_string())
            .bind(action)
            .bind(object)
            .bind(detail.to_string())
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }
}

/// Which events to read.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventFilter {
    pub machine: Option<MachineId>,
    pub run: Option<RunId>,
    /// Only events after this one.
    pub after: Option<EventId>,
}

impl Store {
    /// The newest `limit` events that fit, oldest first.
    pub async fn events(&self, filter: EventFilter, limit: u32) -> Result<Vec<Event>> {
        let mut rows: Vec<EventRow> = in_pool!(self, p => sqlx::query_as(
            "SELECT id, at, machine_id, run_id, kind, severity, line, actor FROM events
             WHERE ($1 IS NULL OR machine_id = $1) AND ($2 IS NULL OR run_id = $2) AND ($3 IS NULL OR id > $3)
             ORDER BY id DESC LIMIT $4")
            .bind(filter.machine.map(|m| m.to_string()))
            .bind(filter.run.map(|r| r.to_string()))
            .bind(filter.after.map(|e| e.to_string()))
            .bind(i64::from(limit))
            .fetch_all(p).await)?;
        rows.reverse();
        rows.into_iter().map(EventRow::into_event).collect()
    }

    /// The oldest `limit` events after `after`, in order: for a reader that catches up.
    pub async fn events_after(&self, after: EventId, limit: u32) -> Result<Vec<Event>> {
        let rows: Vec<EventRow> = in_pool!(self, p => sqlx::query_as(
            "SELECT id, at, machine_id, run_id, kind, severity, line, actor FROM events WHERE id > $1 ORDER BY id LIMIT $2")
            .bind(after.to_string()).bind(i64::from(limit)).fetch_all(p).await)?;
        rows.into_iter().map(EventRow::into_event).collect()
    }
}
