//! What a BMC said last, as documents read whole; how much it was asked; locator LEDs that are lit.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::domain::id::MachineId;
use crate::domain::power::text_form;
use crate::domain::time::Timestamp;
use crate::store::{Result, Store, Tx, from_json, in_pool, in_tx, parse, to_json};

/// Which document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sheet {
    /// `Vec<KnownSensor>`.
    Sensors,
    /// `Vec<Latest>`.
    Readings,
    /// `Vec<FirmwareItem>`.
    Firmware,
    /// `Vec<BiosAttribute>`.
    Bios,
    /// `Vec<Support>`.
    Capabilities,
    /// `Vec<Oddity>`: what the driver saw and could not read, of all walks.
    Oddities,
}
text_form!(Sheet {
    Sensors = "sensors",
    Readings = "readings",
    Firmware = "firmware",
    Bios = "bios",
    Capabilities = "capabilities",
    Oddities = "oddities",
});

/// What one hour of asking a BMC came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// HTTP requests.
    pub requests: u64,
    /// IPMI commands.
    pub commands: u64,
    /// Polls, and those of them that failed.
    pub polls: u64,
    pub failures: u64,
}

/// A locator LED that Hostler lit.
#[derive(Clone, Debug, PartialEq)]
pub struct LitLed {
    pub machine: MachineId,
    pub lit_at: Timestamp,
    pub off_at: Timestamp,
    pub actor: String,
    pub tries: u32,
}

type LedRow = (String, i64, i64, String, i64);

fn led((machine, lit_at, off_at, actor, tries): LedRow) -> Result<LitLed> {
    Ok(LitLed {
        machine: parse("locator_leds", &machine, &machine)?,
        lit_at: Timestamp(lit_at),
        off_at: Timestamp(off_at),
        actor,
        tries: u32::try_from(tries).unwrap_or(u32::MAX),
    })
}

/// Whole hours since 1970.
pub fn hour_of(at: Timestamp) -> i64 {
    at.unix_secs().div_euclid(3600)
}

impl Store {
    /// One document with the time of the answer it is from.
    pub async fn sheet<D: DeserializeOwned>(&self, machine: MachineId, sheet: Sheet) -> Result<Option<(D, Timestamp)>> {
        let id = machine.to_string();
        let row: Option<(String, i64)> = in_pool!(self, p => sqlx::query_as("SELECT doc, at FROM bmc_sheets WHERE machine_id = $1 AND kind = $2")
            .bind(&id).bind(sheet.to_string()).fetch_optional(p).await)?;
        row.map(|(doc, at)| Ok((from_json("bmc_sheets", &id, &doc)?, Timestamp(at)))).transpose()
    }

    /// One document of every machine that has it.
    pub async fn sheets<D: DeserializeOwned>(&self, sheet: Sheet) -> Result<Vec<(MachineId, D, Timestamp)>> {
        let rows: Vec<(String, String, i64)> = in_pool!(self, p => sqlx::query_as("SELECT machine_id, doc, at FROM bmc_sheets WHERE kind = $1")
            .bind(sheet.to_string()).fetch_all(p).await)?;
        rows.into_iter()
            .map(|(id, doc, at)| Ok((parse("bmc_sheets", &id, &id)?, from_json("bmc_sheets", &id, &doc)?, Timestamp(at))))
            .collect()
    }

    /// A BMC's traffic by hour, oldest first.
    pub async fn traffic(&self, machine: MachineId, from_hour: i64) -> Result<Vec<(i64, Traffic)>> {
        let rows: Vec<(i64, i64, i64, i64, i64)> = in_pool!(self, p => sqlx::query_as(
            "SELECT hour, requests, commands, polls, failures FROM bmc_traffic WHERE machine_id = $1 AND hour >= $2 ORDER BY hour")
            .bind(machine.to_string()).bind(from_hour).fetch_all(p).await)?;
        Ok(rows.into_iter().map(|(hour, r, c, p, f)| (hour, traffic(r, c, p, f))).collect())
    }

    /// The traffic of every BMC in one hour.
    pub async fn traffic_in(&self, hour: i64) -> Result<Vec<(MachineId, Traffic)>> {
        let rows: Vec<(String, i64, i64, i64, i64)> = in_pool!(self, p => sqlx::query_as(
            "SELECT machine_id, requests, commands, polls, failures FROM bmc_traffic WHERE hour = $1").bind(hour).fetch_all(p).await)?;
        rows.into_iter().map(|(id, r, c, p, f)| Ok((parse("bmc_traffic", &id, &id)?, traffic(r, c, p, f)))).collect()
    }

    pub async fn lit_led(&self, machine: MachineId) -> Result<Option<LitLed>> {
        let row: Option<LedRow> = in_pool!(self, p => sqlx::query_as("SELECT machine_id, lit_at, off_at, actor, tries FROM locator_leds WHERE machine_id = $1")
            .bind(machine.to_string()).fetch_optional(p).await)?;
        row.map(led).transpose()
    }

    /// Takes LEDs that are to go out now: each is put off by `again`, so that no other replica does the same and a failure is
    /// tried again.
    pub async fn take_due_leds(&self, now: Timestamp, again: Duration, limit: u32) -> Result<Vec<LitLed>> {
        let mut tx = self.begin().await?;
        let rows: Vec<LedRow> = in_tx!(tx, c => sqlx::query_as(
            "UPDATE locator_leds SET off_at = $2, tries = tries + 1
             WHERE machine_id IN (SELECT machine_id FROM locator_leds WHERE off_at <= $1 ORDER BY off_at LIMIT $3) AND off_at <= $1
             RETURNING machine_id, lit_at, off_at, actor, tries")
            .bind(now.0).bind(now.plus(again).0).bind(i64::from(limit)).fetch_all(c).await)?;
        tx.commit().await?;
        rows.into_iter().map(led).collect()
    }
}

fn traffic(requests: i64, commands: i64, polls: i64, failures: i64) -> Traffic {
    let count = |n: i64| u64::try_from(n).unwrap_or(0);
    Traffic { requests: count(requests), commands: count(commands), polls: count(polls), failures: count(failures) }
}

impl Tx {
    /// Writes a document that an answer at `at` gave.
    pub async fn put_sheet<D: Serialize>(&mut self, machine: MachineId, sheet: Sheet, at: Timestamp, value: &D) -> Result<()> {
        let doc = to_json(value)?;
        in_tx!(self, c => sqlx::query(
            "INSERT INTO bmc_sheets (machine_id, kind, at, doc) VALUES ($1, $2, $3, $4)
             ON CONFLICT (machine_id, kind) DO UPDATE SET at = excluded.at, doc = excluded.doc")
            .bind(machine.to_string()).bind(sheet.to_string()).bind(at.0).bind(&doc)
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Adds to the hour's count.
    pub async fn add_traffic(&mut self, machine: MachineId, hour: i64, more: Traffic) -> Result<()> {
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        in_tx!(self, c => sqlx::query(
            "INSERT INTO bmc_traffic (machine_id, hour, requests, commands, polls, failures) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (machine_id, hour) DO UPDATE SET requests = bmc_traffic.requests + excluded.requests,
                commands = bmc_traffic.commands + excluded.commands, polls = bmc_traffic.polls + excluded.polls,
                failures = bmc_traffic.failures + excluded.failures")
            .bind(machine.to_string()).bind(hour)
            .bind(count(more.requests)).bind(count(more.commands)).bind(count(more.polls)).bind(count(more.failures))
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Notes that a locator LED is lit until `off_at`; a later time replaces an earlier one.
    pub async fn put_lit_led(&mut self, machine: MachineId, lit_at: Timestamp, off_at: Timestamp, actor: &str) -> Result<()> {
        self.touch(Some(machine));
        in_tx!(self, c => sqlx::query(
            "INSERT INTO locator_leds (machine_id, lit_at, off_at, actor, tries) VALUES ($1, $2, $3, $4, 0)
             ON CONFLICT (machine_id) DO UPDATE SET lit_at = excluded.lit_at, off_at = excluded.off_at, actor = excluded.actor, tries = 0")
            .bind(machine.to_string()).bind(lit_at.0).bind(off_at.0).bind(actor)
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// The LED is out.
    pub async fn delete_lit_led(&mut self, machine: MachineId) -> Result<()> {
        self.touch(Some(machine));
        in_tx!(self, c => sqlx::query("DELETE FROM locator_leds WHERE machine_id = $1").bind(machine.to_string()).execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Drops up to `limit` rows of traffic before an hour; returns how many.
    pub async fn prune_traffic(&mut self, before_hour: i64, limit: u32) -> Result<u64> {
        let gone = in_tx!(self, c => sqlx::query(
            "DELETE FROM bmc_traffic WHERE (machine_id, hour) IN (SELECT machine_id, hour FROM bmc_traffic WHERE hour < $1 LIMIT $2)")
            .bind(before_hour).bind(i64::from(limit)).execute(c).await.map(|r| r.rows_affected()))?;
        Ok(gone)
    }
}
