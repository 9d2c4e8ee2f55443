//! When BMCs are asked next: due times, claims, and how asking went.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::domain::bmc::{BmcAddress, BmcProtocol};
use crate::domain::id::{MachineId, Sha256};
use crate::domain::poll::{Lane, PollKind, PollState};
use crate::domain::power::PowerState;
use crate::domain::time::Timestamp;
use crate::store::{Result, Store, Tx, from_json, in_pool, in_tx, parse, to_json};

const T: &str = "polls";

/// The right to ask one BMC in one lane until `until`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PollClaim {
    pub machine: MachineId,
    pub lane: Lane,
    pub fence: i64,
    pub until: Timestamp,
}

/// What a good answer of a BMC shows beside what was asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Contact {
    /// The address that answered: if another was entered meanwhile, the answer does not count.
    pub address: BmcAddress,
    pub at: Timestamp,
    pub protocol: BmcProtocol,
    pub tls_pin: Option<Sha256>,
    pub power: Option<PowerState>,
}

type States = BTreeMap<PollKind, PollState>;

impl Store {
    /// How each kind of poll goes for one machine; a kind that was never due is absent.
    pub async fn polls(&self, machine: MachineId) -> Result<States> {
        let id = machine.to_string();
        let rows: Vec<(String,)> =
            in_pool!(self, p => sqlx::query_as("SELECT doc FROM polls WHERE machine_id = $1").bind(&id).fetch_all(p).await)?;
        let mut out = States::new();
        for (doc,) in rows {
            out.extend(from_json::<States>(T, &id, &doc)?);
        }
        Ok(out)
    }

    /// How each kind of poll goes, for the whole fleet.
    pub async fn all_polls(&self) -> Result<HashMap<MachineId, States>> {
        let rows: Vec<(String, String)> = in_pool!(self, p => sqlx::query_as("SELECT machine_id, doc FROM polls").fetch_all(p).await)?;
        let mut out: HashMap<MachineId, States> = HashMap::new();
        for (id, doc) in rows {
            out.entry(parse(T, &id, &id)?).or_default().extend(from_json::<States>(T, &id, &doc)?);
        }
        Ok(out)
    }

    /// Accepted machines whose BMC is known and that are not polled yet. Until a machine is accepted nobody has confirmed that
    /// this BMC is its own.
    pub async fn unpolled_machines(&self, limit: u32) -> Result<Vec<MachineId>> {
        let rows: Vec<(String,)> = in_pool!(self, p => sqlx::query_as(
            "SELECT machine_id FROM bmcs WHERE NOT EXISTS (SELECT 1 FROM polls WHERE polls.machine_id = bmcs.machine_id)
                AND EXISTS (SELECT 1 FROM machines WHERE machines.id = bmcs.machine_id AND machines.accepted_at IS NOT NULL) LIMIT $1")
            .bind(i64::from(limit)).fetch_all(p).await)?;
        rows.into_iter().map(|(id,)| parse("bmcs", &id, &id)).collect()
    }

    /// Claims up to `limit` due lanes. As with machines, the condition is repeated outside of the sub-select.
    pub async fn claim_due_polls(&self, owner: &str, now: Timestamp, lease: Duration, limit: u32) -> Result<Vec<PollClaim>> {
        let until = now.plus(lease);
        let mut tx = self.begin().await?;
        let rows: Vec<(String, String, i64)> = in_tx!(tx, c => sqlx::query_as(
            "UPDATE polls SET lease_owner = $1, lease_until = $2, fence = fence + 1
             WHERE (machine_id, lane) IN (SELECT machine_id, lane FROM polls WHERE due_at <= $3 AND (lease_until IS NULL OR lease_until <= $3)
                ORDER BY due_at LIMIT $4)
               AND due_at <= $3 AND (lease_until IS NULL OR lease_until <= $3)
             RETURNING machine_id, lane, fence")
            .bind(owner).bind(until.0).bind(now.0).bind(i64::from(limit))
            .fetch_all(c).await)?;
        tx.commit().await?;
        rows.into_iter()
            .map(|(machine, lane, fence)| {
                Ok(PollClaim { machine: parse(T, &machine, &machine)?, lane: parse(T, &machine, &lane)?, fence, until })
            })
            .collect()
    }

    /// The earliest moment at which a lane can be claimed.
    pub async fn next_poll_due(&self) -> Result<Option<Timestamp>> {
        let (at,): (Option<i64>,) = in_pool!(self, p => sqlx::query_as(
            "SELECT MIN(CASE WHEN lease_until > due_at THEN lease_until ELSE due_at END) FROM polls").fetch_one(p).await)?;
        Ok(at.map(Timestamp))
    }
}

impl Tx {
    /// Begins to poll a machine. Nothing when it is polled already.
    pub async fn insert_polls(&mut self, machine: MachineId, due: Timestamp) -> Result<()> {
        for lane in Lane::ALL {
            in_tx!(self, c => sqlx::query(
                "INSERT INTO polls (machine_id, lane, due_at, fence, doc) VALUES ($1, $2, $3, 0, '{}') ON CONFLICT (machine_id, lane) DO NOTHING")
                .bind(machine.to_string()).bind(lane.to_string()).bind(due.0)
                .execute(c).await.map(|_| ()))?;
        }
        Ok(())
    }

    /// Writes a poll's end and gives the claim back. `false` when the claim was taken over meanwhile: then the poll's answer
    /// must not be written either.
    pub async fn finish_poll(&mut self, claim: &PollClaim, due: Timestamp, states: &States) -> Result<bool> {
        let doc = to_json(states)?;
        let changed = in_tx!(self, c => sqlx::query(
            "UPDATE polls SET due_at = $4, doc = $5, lease_owner = NULL, lease_until = NULL WHERE machine_id = $1 AND lane = $2 AND fence = $3")
            .bind(claim.machine.to_string()).bind(claim.lane.to_string()).bind(claim.fence).bind(due.0).bind(&doc)
            .execute(c).await.map(|r| r.rows_affected()))?;
        Ok(changed == 1)
    }

    /// Asks everything anew at `due`: another address or login was entered. Answers that are under way no longer count.
    pub async fn reset_polls(&mut self, machine: MachineId, due: Timestamp) -> Result<()> {
        in_tx!(self, c => sqlx::query(
            "UPDATE polls SET due_at = $2, doc = '{}', fence = fence + 1, lease_owner = NULL, lease_until = NULL WHERE machine_id = $1")
            .bind(machine.to_string()).bind(due.0)
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Makes one lane due, keeping what is known of it: something is to be looked at now.
    pub async fn hasten_poll(&mut self, machine: MachineId, lane: Lane, due: Timestamp) -> Result<()> {
        in_tx!(self, c => sqlx::query("UPDATE polls SET due_at = $3 WHERE machine_id = $1 AND lane = $2 AND due_at > $3")
            .bind(machine.to_string()).bind(lane.to_string()).bind(due.0)
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Ends polling of a machine whose BMC is not known any more.
    pub async fn delete_polls(&mut self, machine: MachineId) -> Result<()> {
        in_tx!(self, c => sqlx::query("DELETE FROM polls WHERE machine_id = $1").bind(machine.to_string()).execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Writes that the BMC answered. Touches only what an answer shows, so that it cannot undo what another exchange wrote.
    pub async fn note_contact(&mut self, machine: MachineId, contact: &Contact) -> Result<()> {
        in_tx!(self, c => sqlx::query(
            "UPDATE bmcs SET protocol = $3, tls_pin = COALESCE(tls_pin, $4), last_ok_at = $5, fault = NULL, auth_failures = 0, paused_until = NULL,
                power = COALESCE($6, power), power_seen_at = CASE WHEN $6 IS NULL THEN power_seen_at ELSE $5 END
             WHERE machine_id = $1 AND address = $2")
            .bind(machine.to_string())
            .bind(contact.address.to_string())
            .bind(contact.protocol.to_string())
            .bind(contact.tls_pin.map(|p| p.to_string()))
            .bind(contact.at.0)
            .bind(contact.power.map(|p| p.to_string()))
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Writes why the BMC gave no answer.
    pub async fn note_no_contact(
        &mut self,
        machine: MachineId,
        address: &BmcAddress,
        fault: &str,
        auth_failures: u32,
        paused_until: Option<Timestamp>,
    ) -> Result<()> {
        in_tx!(self, c => sqlx::query(
            "UPDATE bmcs SET fault = $3, auth_failures = $4, paused_until = $5 WHERE machine_id = $1 AND address = $2")
            .bind(machine.to_string())
            .bind(address.to_string())
            .bind(fault)
            .bind(i64::from(auth_failures))
            .bind(paused_until.map(|t| t.0))
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }
}
