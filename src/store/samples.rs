//! Sensor samples and rollups in packed blocks (`wire::series`): an hour of all sensors of a machine is one row, written
//! again with each poll until the hour is over; then it is sealed, and its five-minute rollups go into the day's row.

use std::collections::BTreeMap;

use crate::domain::id::MachineId;
use crate::domain::reading::{Point, Rollup, Sample};
use crate::domain::time::Timestamp;
use crate::store::sheets::hour_of;
use crate::store::{Result, Store, StoreError, Tx, in_pool, in_tx};
use crate::wire::series::{Rollups, Samples};

const HOUR_SECS: i64 = 3600;
const BUCKET_SECS: i64 = 300;
const HOURS_PER_DAY: i64 = 24;
const BUCKETS_PER_HOUR: i64 = HOUR_SECS / BUCKET_SECS;

fn bad(table: &'static str, machine: &str, e: &crate::wire::series::BadSeries) -> StoreError {
    StoreError::BadRow { table, id: machine.to_owned(), why: e.to_string() }
}

/// The bucket of the day in which `secs` into `hour` lies.
fn bucket(hour: i64, secs: u32) -> u16 {
    let at = hour.rem_euclid(HOURS_PER_DAY) * BUCKETS_PER_HOUR + (i64::from(secs) / BUCKET_SECS).min(BUCKETS_PER_HOUR - 1);
    u16::try_from(at).unwrap_or(0)
}

impl Store {
    /// Samples of every sensor of a machine in a span of time, oldest first.
    pub async fn samples(&self, machine: MachineId, from: Timestamp, to: Timestamp) -> Result<BTreeMap<u32, Vec<Sample>>> {
        let id = machine.to_string();
        let rows: Vec<(i64, Vec<u8>)> = in_pool!(self, p => sqlx::query_as(
            "SELECT hour, body FROM sample_blocks WHERE machine_id = $1 AND hour >= $2 AND hour <= $3 ORDER BY hour")
            .bind(&id).bind(hour_of(from)).bind(hour_of(to)).fetch_all(p).await)?;
        let mut out: BTreeMap<u32, Vec<Sample>> = BTreeMap::new();
        for (hour, body) in rows {
            let block = Samples::read(&body).map_err(|e| bad("sample_blocks", &id, &e))?;
            for number in block.columns.keys() {
                let column = out.entry(*number).or_default();
                column.extend(
                    block
                        .column(*number)
                        .map(|(secs, point)| Sample { at: Timestamp((hour * HOUR_SECS + i64::from(secs)) * 1_000_000), point })
                        .filter(|s| s.at >= from && s.at <= to),
                );
            }
        }
        Ok(out)
    }

    /// Five-minute rollups of one sensor in a span of time, oldest first, the hours that are not sealed yet included.
    pub async fn rollups(&self, machine: MachineId, number: u32, from: Timestamp, to: Timestamp) -> Result<Vec<(Timestamp, Rollup)>> {
        let id = machine.to_string();
        let day = |at: Timestamp| hour_of(at).div_euclid(HOURS_PER_DAY);
        let rows: Vec<(i64, Vec<u8>)> = in_pool!(self, p => sqlx::query_as(
            "SELECT day, body FROM rollup_blocks WHERE machine_id = $1 AND day >= $2 AND day <= $3 ORDER BY day")
            .bind(&id).bind(day(from)).bind(day(to)).fetch_all(p).await)?;
        let open: Vec<(i64, Vec<u8>)> = in_pool!(self, p => sqlx::query_as(
            "SELECT hour, body FROM sample_blocks WHERE machine_id = $1 AND hour >= $2 AND hour <= $3 AND sealed = $4 ORDER BY hour")
            .bind(&id).bind(hour_of(from)).bind(hour_of(to)).bind(false).fetch_all(p).await)?;
        let mut out = BTreeMap::new();
        let mut put = |day: i64, rollups: Rollups| {
            for (bucket, rollup) in rollups.columns.get(&number).into_iter().flatten() {
                let secs = day * HOURS_PER_DAY * HOUR_SECS + i64::from(*bucket) * BUCKET_SECS;
                out.insert(Timestamp(secs * 1_000_000), *rollup);
            }
        };
        for (day, body) in rows {
            put(day, Rollups::read(&body).map_err(|e| bad("rollup_blocks", &id, &e))?);
        }
        for (hour, body) in open {
            let block = Samples::read(&body).map_err(|e| bad("sample_blocks", &id, &e))?;
            put(hour.div_euclid(HOURS_PER_DAY), block.rollups(|secs| bucket(hour, secs)));
        }
        Ok(out.into_iter().filter(|(at, _)| *at >= from && *at <= to).collect())
    }

    /// Seals up to `limit` blocks of hours that are over, each in a transaction of its own; returns how many.
    pub async fn seal_samples(&self, before_hour: i64, limit: u32) -> Result<u64> {
        let rows: Vec<(String, i64)> = in_pool!(self, p => sqlx::query_as(
            "SELECT machine_id, hour FROM sample_blocks WHERE sealed = $1 AND hour < $2 ORDER BY hour LIMIT $3")
            .bind(false).bind(before_hour).bind(i64::from(limit)).fetch_all(p).await)?;
        let mut sealed = 0;
        for (machine, hour) in rows {
            let mut tx = self.begin().await?;
            tx.seal(&machine, hour).await?;
            tx.commit().await?;
            sealed += 1;
        }
        Ok(sealed)
    }

    /// What samples and rollups take on disk: rows and bytes of both.
    pub async fn sample_bytes(&self) -> Result<(u64, u64)> {
        // COALESCE on a sum of BIGINTs is NUMERIC in PostgreSQL.
        let (samples, rollups): (i64, i64) = in_pool!(self, p => sqlx::query_as(
            "SELECT CAST((SELECT COALESCE(SUM(LENGTH(body)), 0) FROM sample_blocks) AS BIGINT),
                    CAST((SELECT COALESCE(SUM(LENGTH(body)), 0) FROM rollup_blocks) AS BIGINT)").fetch_one(p).await)?;
        Ok((u64::try_from(samples).unwrap_or(0), u64::try_from(rollups).unwrap_or(0)))
    }
}

impl Tx {
    /// Adds one poll's points to the hour's block. A sealed hour takes no more (a clock that stepped back).
    pub async fn add_samples(&mut self, machine: MachineId, at: Timestamp, points: &[(u32, Point)]) -> Result<()> {
        if points.is_empty() {
            return Ok(());
        }
        let (id, hour) = (machine.to_string(), hour_of(at));
        let row: Option<(Vec<u8>, bool)> = in_tx!(self, c => sqlx::query_as("SELECT body, sealed FROM sample_blocks WHERE machine_id = $1 AND hour = $2")
            .bind(&id).bind(hour).fetch_optional(c).await)?;
        let mut block = match row {
            None => Samples::default(),
            Some((_, true)) => return Ok(()),
            Some((body, false)) => Samples::read(&body).unwrap_or_else(|e| {
                // One hour of samples is lost; polling goes on.
                tracing::error!(machine = %id, hour, error = %e, "the samples of this hour cannot be read and are begun anew");
                Samples::default()
            }),
        };
        let secs = u32::try_from(at.unix_secs() - hour * HOUR_SECS).unwrap_or(0);
        if !block.push(secs, points) {
            return Ok(());
        }
        let body = block.write(false);
        in_tx!(self, c => sqlx::query(
            "INSERT INTO sample_blocks (machine_id, hour, sealed, body) VALUES ($1, $2, $3, $4)
             ON CONFLICT (machine_id, hour) DO UPDATE SET body = excluded.body")
            .bind(&id).bind(hour).bind(false).bind(&body)
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    async fn seal(&mut self, machine: &str, hour: i64) -> Result<()> {
        let row: Option<(Vec<u8>,)> = in_tx!(self, c => sqlx::query_as("SELECT body FROM sample_blocks WHERE machine_id = $1 AND hour = $2 AND sealed = $3")
            .bind(machine).bind(hour).bind(false).fetch_optional(c).await)?;
        let Some((body,)) = row else { return Ok(()) };
        // A block that cannot be read is sealed as it is, so that it is not tried for ever.
        let (body, rolled) = match Samples::read(&body) {
            Ok(block) => (block.write(true), block.rollups(|secs| bucket(hour, secs))),
            Err(e) => {
                tracing::error!(machine, hour, error = %e, "the samples of this hour cannot be read; they get no rollups");
                (body, Rollups::default())
            }
        };
        let day = hour.div_euclid(HOURS_PER_DAY);
        let row: Option<(Vec<u8>,)> = in_tx!(self, c => sqlx::query_as("SELECT body FROM rollup_blocks WHERE machine_id = $1 AND day = $2")
            .bind(machine).bind(day).fetch_optional(c).await)?;
        let mut whole = match row {
            Some((body,)) => Rollups::read(&body).map_err(|e| bad("rollup_blocks", machine, &e))?,
            None => Rollups::default(),
        };
        whole.merge(rolled);
        let whole = whole.write();
        in_tx!(self, c => sqlx::query(
            "INSERT INTO rollup_blocks (machine_id, day, body) VALUES ($1, $2, $3) ON CONFLICT (machine_id, day) DO UPDATE SET body = excluded.body")
            .bind(machine).bind(day).bind(&whole)
            .execute(c).await.map(|_| ()))?;
        in_tx!(self, c => sqlx::query("UPDATE sample_blocks SET sealed = $3, body = $4 WHERE machine_id = $1 AND hour = $2")
            .bind(machine).bind(hour).bind(true).bind(&body)
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Drops up to `limit` blocks of samples of hours before this one; returns how many.
    pub async fn prune_samples(&mut self, before_hour: i64, limit: u32) -> Result<u64> {
        let gone = in_tx!(self, c => sqlx::query(
            "DELETE FROM sample_blocks WHERE (machine_id, hour) IN (SELECT machine_id, hour FROM sample_blocks WHERE sealed = $1 AND hour < $2 LIMIT $3)")
            .bind(true).bind(before_hour).bind(i64::from(limit)).execute(c).await.map(|r| r.rows_affected()))?;
        Ok(gone)
    }

    /// Drops up to `limit` blocks of rollups of days before this one; returns how many.
    pub async fn prune_rollups(&mut self, before_day: i64, limit: u32) -> Result<u64> {
        let gone = in_tx!(self, c => sqlx::query(
            "DELETE FROM rollup_blocks WHERE (machine_id, day) IN (SELECT machine_id, day FROM rollup_blocks WHERE day < $1 LIMIT $2)")
            .bind(before_day).bind(i64::from(limit)).execute(c).await.map(|r| r.rows_affected()))?;
        Ok(gone)
    }
}
