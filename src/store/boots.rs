//! Network boots: the facts a boot answer needs, boot timelines, one-time nonces.

use std::time::Duration;

use crate::domain::boot::{Boot, BootMark, BootStage, ClientArch};
use crate::domain::id::{BootId, Mac, MachineId};
use crate::domain::time::Timestamp;
use crate::store::facts::BootMarkFact;
use crate::store::{Result, Store, Tx, from_json, in_pool, in_tx, parse, parse_opt, to_json, token_hash};

/// A first DHCP packet this long after the last mark begins a new boot. Firmware repeats its DISCOVER for up to 64 s
/// (PXE 2.1 section 2.2.3: 4, 8, 16, 32 s), and a POST is longer than this.
const NEW_BOOT_AFTER: Duration = Duration::from_secs(90);
/// Lines of one timeline; further ones are counted on the last.
const MAX_MARKS: usize = 100;
const MAX_NOTE: usize = 200;
/// A nonce is good for one hello within this time: kernel and ramdisk load in seconds, drivers of big servers in minutes.
pub const NONCE_LIFE: Duration = Duration::from_secs(20 * 60);

#[derive(sqlx::FromRow)]
struct BootRow {
    id: String,
    machine_id: Option<String>,
    mac: String,
    client: Option<String>,
    started_at: i64,
    last_at: i64,
    marks: String,
}

impl BootRow {
    fn into_boot(self) -> Result<Boot> {
        const T: &str = "boots";
        Ok(Boot {
            id: parse::<BootId>(T, &self.id, &self.id)?,
            machine: parse_opt(T, &self.id, self.machine_id.as_ref())?,
            mac: parse(T, &self.id, &self.mac)?,
            client: parse_opt::<ClientArch>(T, &self.id, self.client.as_ref())?,
            started_at: Timestamp(self.started_at),
            last_at: Timestamp(self.last_at),
            marks: from_json(T, &self.id, &self.marks)?,
        })
    }
}

/// What a used nonce proves: which boot asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NonceUse {
    pub mac: Mac,
    pub machine: Option<MachineId>,
}

impl Store {
    /// The newest boots of a machine, newest first.
    pub async fn boots(&self, machine: MachineId, limit: u32) -> Result<Vec<Boot>> {
        let rows: Vec<BootRow> = in_pool!(self, p => sqlx::query_as(
            "SELECT id, machine_id, mac, client, started_at, last_at, marks FROM boots WHERE machine_id = $1 ORDER BY started_at DESC LIMIT $2")
            .bind(machine.to_string()).bind(i64::from(limit)).fetch_all(p).await)?;
        rows.into_iter().map(BootRow::into_boot).collect()
    }

    /// Boots of MACs that belong to no machine yet, newest first: packets without an agent behind them.
    pub async fn stray_boots(&self, limit: u32) -> Result<Vec<Boot>> {
        let rows: Vec<BootRow> = in_pool!(self, p => sqlx::query_as(
            "SELECT id, machine_id, mac, client, started_at, last_at, marks FROM boots WHERE machine_id IS NULL ORDER BY started_at DESC LIMIT $1")
            .bind(i64::from(limit)).fetch_all(p).await)?;
        rows.into_iter().map(BootRow::into_boot).collect()
    }
}

impl Tx {
    /// Adds a mark to the MAC's current boot, or opens a new one.
    pub async fn note_boot_mark(&mut self, fact: &BootMarkFact) -> Result<()> {
        let row: Option<BootRow> = in_tx!(self, c => sqlx::query_as(
            "SELECT id, machine_id, mac, client, started_at, last_at, marks FROM boots WHERE mac = $1 ORDER BY started_at DESC LIMIT 1")
            .bind(fact.mac.to_string()).fetch_optional(c).await)?;
        let last = row.map(BootRow::into_boot).transpose()?;
        let note: String = fact.note.chars().take(MAX_NOTE).collect();
        self.touch(fact.machine);
        match last.filter(|b| continues(b, fact)) {
            Some(mut boot) => {
                add_mark(&mut boot, fact.stage, fact.at, note);
                in_tx!(self, c => sqlx::query(
                    "UPDATE boots SET machine_id = COALESCE($2, machine_id), client = COALESCE(client, $3), last_at = $4, marks = $5 WHERE id = $1")
                    .bind(boot.id.to_string())
                    .bind(fact.machine.map(|m| m.to_string()))
                    .bind(fact.client.map(|a| a.to_string()))
                    .bind(fact.at.0)
                    .bind(to_json(&boot.marks)?)
                    .execute(c).await.map(|_| ()))?;
            }
            None => {
                let marks = vec![BootMark { stage: fact.stage, first_at: fact.at, last_at: fact.at, count: 1, note }];
                in_tx!(self, c => sqlx::query(
                    "INSERT INTO boots (id, machine_id, mac, client, started_at, last_at, marks) VALUES ($1, $2, $3, $4, $5, $5, $6)")
                    .bind(fact.fresh.to_string())
                    .bind(fact.machine.map(|m| m.to_string()))
                    .bind(fact.mac.to_string())
                    .bind(fact.client.map(|a| a.to_string()))
                    .bind(fact.at.0)
                    .bind(to_json(&marks)?)
                    .execute(c).await.map(|_| ()))?;
            }
        }
        Ok(())
    }

    /// Gives the boots of a MAC to the machine it turned out to belong to.
    pub async fn adopt_boots(&mut self, mac: Mac, machine: MachineId) -> Result<()> {
        in_tx!(self, c => sqlx::query("UPDATE boots SET machine_id = $2 WHERE mac = $1 AND machine_id IS NULL")
            .bind(mac.to_string()).bind(machine.to_string()).execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Stores a nonce that was put into a boot script. `nonce` itself is not stored.
    pub async fn insert_boot_nonce(&mut self, nonce: &str, mac: Mac, machine: Option<MachineId>, at: Timestamp) -> Result<()> {
        in_tx!(self, c => sqlx::query("INSERT INTO boot_nonces (nonce_hash, mac, machine_id, created_at) VALUES ($1, $2, $3, $4)")
            .bind(token_hash(nonce)).bind(mac.to_string()).bind(machine.map(|m| m.to_string())).bind(at.0)
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Uses a nonce up for one agent session. The same session may repeat its hello (its answer was lost); any other
    /// session, an unknown nonce or one older than [`NONCE_LIFE`] gets `None`.
    pub async fn use_boot_nonce(&mut self, nonce: &str, session: uuid::Uuid, now: Timestamp) -> Result<Option<NonceUse>> {
        let row: Option<(String, Option<String>)> = in_tx!(self, c => sqlx::query_as(
            "UPDATE boot_nonces SET used_by = $2 WHERE nonce_hash = $1 AND (used_by IS NULL OR used_by = $2) AND created_at >= $3
             RETURNING mac, machine_id")
            .bind(token_hash(nonce)).bind(session.to_string()).bind(now.minus(NONCE_LIFE).0)
            .fetch_optional(c).await)?;
        row.map(|(mac, machine)| {
            Ok(NonceUse { mac: parse("boot_nonces", "", &mac)?, machine: parse_opt("boot_nonces", "", machine.as_ref())? })
        })
        .transpose()
    }

    /// Drops nonces that can no longer be used.
    pub async fn prune_boot_nonces(&mut self, now: Timestamp) -> Result<()> {
        in_tx!(self, c => sqlx::query("DELETE FROM boot_nonces WHERE created_at < $1").bind(now.minus(NONCE_LIFE).0).execute(c).await.map(|_| ()))?;
        Ok(())
    }
}

/// Whether a mark belongs to the boot before it. A DISCOVER after a script ran, or after a long silence, is a new boot;
/// everything else goes on.
fn continues(boot: &Boot, fact: &BootMarkFact) -> bool {
    let quiet = fact.at.since(boot.last_at) > NEW_BOOT_AFTER;
    // LocalDisk does not count: firmware that is offered nothing repeats its DISCOVER four times before it goes there.
    let ran = |s: BootStage| matches!(s, BootStage::Script | BootStage::Kernel | BootStage::Ramdisk | BootStage::Agent | BootStage::System);
    match fact.stage {
        BootStage::DhcpDiscover => !quiet && !boot.marks.iter().any(|m| ran(m.stage)),
        BootStage::DhcpOffer
        | BootStage::DhcpOther
        | BootStage::DhcpRequest
        | BootStage::DhcpAck
        | BootStage::LoaderStart
        | BootStage::LoaderDone
        | BootStage::LoaderStalled
        | BootStage::Script
        | BootStage::Kernel
        | BootStage::Ramdisk
        | BootStage::Agent
        | BootStage::LocalDisk
        | BootStage::System => true,
    }
}

fn add_mark(boot: &mut Boot, stage: BootStage, at: Timestamp, note: String) {
    if let Some(same) = boot.marks.iter_mut().rev().find(|m| m.stage == stage && m.note == note) {
        same.last_at = at;
        same.count = same.count.saturating_add(1);
    } else if boot.marks.len() < MAX_MARKS {
        boot.marks.push(BootMark { stage, first_at: at, last_at: at, count: 1, note });
    } else if let Some(last) = boot.marks.last_mut() {
        last.last_at = at;
        last.count = last.count.saturating_add(1);
    }
}
