//! Parts as the BMC lists them, and the history of serials in their places.

use crate::decide::parts::{KnownPart, PartChange};
use crate::domain::id::{MachineId, Serial, Sha256};
use crate::domain::time::Timestamp;
use crate::store::{Result, Store, Tx, from_json, in_pool, in_tx, parse, parse_opt, to_json};

/// Something that happened to a part, as kept.
#[derive(Clone, Debug, PartialEq)]
pub struct PartEvent {
    pub id: uuid::Uuid,
    pub machine: MachineId,
    pub source: String,
    pub serial: Option<Serial>,
    pub at: Timestamp,
    pub kind: String,
    pub line: String,
    pub evidence: Sha256,
}

type Row = (String, String, String, Option<String>, i64, String, String, String);

fn part_event((id, machine, source, serial, at, kind, line, evidence): Row) -> Result<PartEvent> {
    const T: &str = "part_history";
    Ok(PartEvent {
        machine: parse(T, &id, &machine)?,
        serial: parse_opt(T, &id, serial.as_ref())?,
        at: Timestamp(at),
        evidence: parse(T, &id, &evidence)?,
        id: parse(T, &id, &id)?,
        source,
        kind,
        line,
    })
}

impl Store {
    /// All parts of a machine, those that are gone included.
    pub async fn parts(&self, machine: MachineId) -> Result<Vec<KnownPart>> {
        let rows: Vec<(String, String)> = in_pool!(self, p => sqlx::query_as("SELECT source, doc FROM parts WHERE machine_id = $1 ORDER BY kind, source")
            .bind(machine.to_string()).fetch_all(p).await)?;
        rows.into_iter().map(|(source, doc)| from_json("parts", &source, &doc)).collect()
    }

    /// What happened to the parts of a machine, newest first.
    pub async fn part_history(&self, machine: MachineId, limit: u32) -> Result<Vec<PartEvent>> {
        let rows: Vec<Row> = in_pool!(self, p => sqlx::query_as(
            "SELECT id, machine_id, source, serial, at, kind, line, evidence FROM part_history WHERE machine_id = $1 ORDER BY id DESC LIMIT $2")
            .bind(machine.to_string()).bind(i64::from(limit)).fetch_all(p).await)?;
        rows.into_iter().map(part_event).collect()
    }

    /// Machines that have a part of this serial now.
    pub async fn machines_with_part(&self, serial: &Serial) -> Result<Vec<MachineId>> {
        let rows: Vec<(String,)> = in_pool!(self, p => sqlx::query_as("SELECT DISTINCT machine_id FROM parts WHERE serial = $1")
            .bind(serial.as_str()).fetch_all(p).await)?;
        rows.into_iter().map(|(id,)| parse("parts", &id, &id)).collect()
    }
}

impl Tx {
    /// Writes the parts that differ from what is kept. Nothing is deleted: a part that is gone says so itself.
    pub async fn put_parts(&mut self, machine: MachineId, before: &[KnownPart], now: &[KnownPart]) -> Result<()> {
        let id = machine.to_string();
        for part in now {
            // That it was seen again is no reason to write it: the time of the last answer is the poll's.
            let same = before.iter().any(|b| b.part == part.part && b.missed == part.missed && b.gone_at == part.gone_at);
            if same {
                continue;
            }
            let doc = to_json(part)?;
            in_tx!(self, c => sqlx::query(
                "INSERT INTO parts (machine_id, source, kind, serial, doc) VALUES ($1, $2, $3, $4, $5)
                 ON CONFLICT (machine_id, source) DO UPDATE SET kind = excluded.kind, serial = excluded.serial, doc = excluded.doc")
                .bind(&id).bind(&part.part.source).bind(part.part.kind.to_string())
                .bind(part.part.serial.as_ref().filter(|_| part.gone_at.is_none()).map(Serial::as_str)).bind(&doc)
                .execute(c).await.map(|_| ()))?;
        }
        Ok(())
    }

    pub async fn insert_part_event(
        &mut self,
        id: uuid::Uuid,
        machine: MachineId,
        change: &PartChange,
        evidence: Sha256,
        at: Timestamp,
    ) -> Result<()> {
        let part = change.part();
        in_tx!(self, c => sqlx::query(
            "INSERT INTO part_history (id, machine_id, source, serial, at, kind, line, evidence) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)")
            .bind(id.to_string()).bind(machine.to_string()).bind(&part.source).bind(part.serial.as_ref().map(Serial::as_str))
            .bind(at.0).bind(change.kind()).bind(change.sentence().chars().take(1000).collect::<String>()).bind(evidence.to_string())
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }
}
