//! Machines, their MACs, BMCs and inventories; finding a machine by evidence; claims.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::bmc::{BmcAddress, BmcIdentity, BmcProtocol, BmcStatus};
use crate::domain::boot::Arch;
use crate::domain::id::{Mac, MachineId, Name, Serial, SystemUuid};
use crate::domain::inventory::{DiskRef, Inventory};
use crate::domain::machine::{Fault, Hardware, Hold, Lifecycle, Machine, Want};
use crate::domain::place::{Place, RackName};
use crate::domain::power::{FirmwareKind, PowerState};
use crate::domain::time::Timestamp;
use crate::store::{Conn, Result, Store, StoreError, Tx, from_json, in_conn, in_pool, in_tx, parse, parse_opt, to_json};

/// The parts of a machine that we never filter on.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Doc {
    want: Want,
    hardware: Option<Hardware>,
    written_disks: Vec<DiskRef>,
    fault: Option<Fault>,
    hold: Option<Hold>,
    why: String,
}

#[derive(sqlx::FromRow)]
struct MachineRow {
    id: String,
    rev: i64,
    name: String,
    lifecycle: String,
    lifecycle_since: i64,
    serial: Option<String>,
    uuid: Option<String>,
    arch: Option<String>,
    firmware: Option<String>,
    rack: Option<String>,
    u: Option<i64>,
    boot_intent: Option<String>,
    image: Option<String>,
    current_run: Option<String>,
    doc: String,
    created_at: i64,
    first_seen_at: Option<i64>,
    last_seen_at: Option<i64>,
    accepted_at: Option<i64>,
}

const MACHINE_COLUMNS: &str = "id, rev, name, lifecycle, lifecycle_since, serial, uuid, arch, firmware, rack, u, boot_intent, \
     image, current_run, doc, created_at, first_seen_at, last_seen_at, accepted_at";

#[derive(sqlx::FromRow)]
struct MacRow {
    mac: String,
    machine_id: String,
}

#[derive(sqlx::FromRow)]
struct BmcRow {
    machine_id: String,
    address: String,
    login: String,
    protocol: Option<String>,
    identity: String,
    power: Option<String>,
    power_seen_at: Option<i64>,
    last_ok_at: Option<i64>,
    fault: Option<String>,
    auth_failures: i64,
    paused_until: Option<i64>,
    tls_pin: Option<String>,
}

const BMC_COLUMNS: &str =
    "machine_id, address, login, protocol, identity, power, power_seen_at, last_ok_at, fault, auth_failures, paused_until, tls_pin";

impl MachineRow {
    fn into_machine(self, macs: Vec<Mac>, bmc: Option<BmcStatus>) -> Result<Machine> {
        const T: &str = "machines";
        let doc: Doc = from_json(T, &self.id, &self.doc)?;
        let place = self
            .rack
            .as_ref()
            .map(|r| parse::<RackName>(T, &self.id, r))
            .transpose()?
            .map(|rack| Place { rack, u: self.u.and_then(|u| u8::try_from(u).ok()) });
        Ok(Machine {
            id: parse(T, &self.id, &self.id)?,
            rev: self.rev,
            name: parse(T, &self.id, &self.name)?,
            lifecycle: parse(T, &self.id, &self.lifecycle)?,
            lifecycle_since: Timestamp(self.lifecycle_since),
            want: doc.want,
            serial: parse_opt(T, &self.id, self.serial.as_ref())?,
            uuid: parse_opt(T, &self.id, self.uuid.as_ref())?,
            macs,
            arch: parse_opt(T, &self.id, self.arch.as_ref())?,
            firmware: parse_opt(T, &self.id, self.firmware.as_ref())?,
            place,
            boot_intent: parse_opt(T, &self.id, self.boot_intent.as_ref())?,
            hardware: doc.hardware,
            image: parse_opt(T, &self.id, self.image.as_ref())?,
            written_disks: doc.written_disks,
            fault: doc.fault,
            hold: doc.hold,
            bmc,
            current_run: parse_opt(T, &self.id, self.current_run.as_ref())?,
            created_at: Timestamp(self.created_at),
            first_seen_at: self.first_seen_at.map(Timestamp),
            last_seen_at: self.last_seen_at.map(Timestamp),
            accepted_at: self.accepted_at.map(Timestamp),
            why: doc.why,
        })
    }
}

impl BmcRow {
    fn into_status(self) -> Result<(MachineId, BmcStatus)> {
        const T: &str = "bmcs";
        let id = self.machine_id;
        let status = BmcStatus {
            address: parse::<BmcAddress>(T, &id, &self.address)?,
            user: self.login,
            protocol: parse_opt::<BmcProtocol>(T, &id, self.protocol.as_ref())?,
            identity: from_json::<BmcIdentity>(T, &id, &self.identity)?,
            power: parse_opt::<PowerState>(T, &id, self.power.as_ref())?,
            power_seen_at: self.power_seen_at.map(Timestamp),
            last_ok_at: self.last_ok_at.map(Timestamp),
            fault: self.fault,
            auth_failures: u32::try_from(self.auth_failures).unwrap_or(u32::MAX),
            paused_until: self.paused_until.map(Timestamp),
            tls_pin: parse_opt(T, &id, self.tls_pin.as_ref())?,
        };
        Ok((parse(T, &id, &id)?, status))
    }
}

/// A claim: the right to work on a row until `until`, under a growing number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim<Id> {
    pub id: Id,
    pub fence: i64,
    pub until: Timestamp,
}

#[derive(sqlx::FromRow)]
struct ClaimRow {
    id: String,
    fence: i64,
}

impl Store {
    /// One machine, whole.
    pub async fn machine(&self, id: MachineId) -> Result<Option<Machine>> {
        one(&mut self.reading().await?.conn(), id).await
    }

    /// All machines, by name.
    pub async fn machines(&self) -> Result<Vec<Machine>> {
        let sql = sqlx::AssertSqlSafe(format!("SELECT {MACHINE_COLUMNS} FROM machines ORDER BY name"));
        let mut reading = self.reading().await?;
        let mut conn = reading.conn();
        let rows: Vec<MachineRow> = in_conn!(&mut conn, c => sqlx::query_as(sql).fetch_all(c).await)?;
        complete(&mut conn, rows).await
    }

    /// Machines that a person may mean by `text`: id, name, serial, or a MAC in any spelling.
    pub async fn find_machines(&self, text: &str) -> Result<Vec<Machine>> {
        let mac = text.parse::<Mac>().map(|m| m.to_string()).unwrap_or_default();
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT {MACHINE_COLUMNS} FROM machines WHERE id = $1 OR name = $1 OR serial_folded = $1
             OR id IN (SELECT machine_id FROM machine_macs WHERE mac = $2) ORDER BY name"
        ));
        let mut reading = self.reading().await?;
        let mut conn = reading.conn();
        let rows: Vec<MachineRow> = in_conn!(&mut conn, c => sqlx::query_as(sql)
            .bind(text.trim().to_ascii_lowercase())
            .bind(&mac)
            .fetch_all(c).await)?;
        complete(&mut conn, rows).await
    }

    /// Machines that share a system UUID, a serial or a MAC with what was seen. The decision what that means is made
    /// in `decide::discovery`.
    pub async fn machines_by_evidence(
        &self,
        uuid: Option<SystemUuid>,
        serial: Option<&Serial>,
        macs: &[Mac],
        bmc: Option<&BmcAddress>,
    ) -> Result<Vec<Machine>> {
        by_evidence(&mut self.reading().await?.conn(), uuid, serial, macs, bmc).await
    }

    /// The names in use that are `wish`, or `wish` and a number behind it.
    pub async fn names_like(&self, wish: &str) -> Result<Vec<Name>> {
        // A name holds neither % nor _.
        let rows: Vec<(String,)> = in_pool!(self, p => sqlx::query_as("SELECT name FROM machines WHERE name = $1 OR name LIKE $2")
            .bind(wish).bind(format!("{wish}-%")).fetch_all(p).await)?;
        rows.into_iter().map(|(name,)| parse("machines", &name, &name)).collect()
    }

    /// The last inventory, whole.
    pub async fn inventory(&self, id: MachineId) -> Result<Option<(Inventory, Timestamp)>> {
        let row: Option<(i64, String)> = in_pool!(self, p => sqlx::query_as("SELECT at, doc FROM inventories WHERE machine_id = $1").bind(id.to_string()).fetch_optional(p).await)?;
        row.map(|(at, doc)| Ok((from_json("inventories", &id.to_string(), &doc)?, Timestamp(at)))).transpose()
    }

    /// The sealed password of a machine's BMC.
    pub async fn bmc_sealed_password(&self, id: MachineId) -> Result<Option<String>> {
        let row: Option<(String,)> = in_pool!(self, p => sqlx::query_as("SELECT sealed_password FROM bmcs WHERE machine_id = $1").bind(id.to_string()).fetch_optional(p).await)?;
        Ok(row.map(|r| r.0))
    }

    /// Claims up to `limit` machines whose decision is due. Two claimants never get the same one: the condition is
    /// repeated outside the sub-select, which PostgreSQL re-checks after it waited for the row lock.
    pub async fn claim_due_machines(&self, owner: &str, now: Timestamp, lease: Duration, limit: u32) -> Result<Vec<Claim<MachineId>>> {
        let until = now.plus(lease);
        let mut tx = self.begin().await?;
        let rows: Vec<ClaimRow> = in_tx!(tx, c => sqlx::query_as(
            "UPDATE machines SET lease_owner = $1, lease_until = $2, fence = fence + 1
             WHERE id IN (SELECT id FROM machines WHERE due_at <= $3 AND (lease_until IS NULL OR lease_until <= $3) ORDER BY due_at LIMIT $4)
               AND due_at <= $3 AND (lease_until IS NULL OR lease_until <= $3)
             RETURNING id, fence")
            .bind(owner).bind(until.0).bind(now.0).bind(i64::from(limit))
            .fetch_all(c).await)?;
        tx.commit().await?;
        rows.into_iter().map(|r| Ok(Claim { id: parse("machines", &r.id, &r.id)?, fence: r.fence, until })).collect()
    }

    /// Drops the claims that earlier processes of `replica` left behind (their owners are named `replica/...`). The caller
    /// knows that none of them runs any more. Returns how many there were.
    pub async fn drop_leases_of(&self, replica: &str) -> Result<u64> {
        let owners = format!("{replica}/%");
        let mut tx = self.begin().await?;
        let machines = in_tx!(tx, c => sqlx::query("UPDATE machines SET lease_owner = NULL, lease_until = NULL WHERE lease_owner LIKE $1")
            .bind(&owners).execute(c).await.map(|r| r.rows_affected()))?;
        let steps = in_tx!(tx, c => sqlx::query("UPDATE steps SET lease_owner = NULL, lease_until = NULL WHERE lease_owner LIKE $1")
            .bind(&owners).execute(c).await.map(|r| r.rows_affected()))?;
        let polls = in_tx!(tx, c => sqlx::query("UPDATE polls SET lease_owner = NULL, lease_until = NULL WHERE lease_owner LIKE $1")
            .bind(&owners).execute(c).await.map(|r| r.rows_affected()))?;
        let firmware = in_tx!(tx, c => sqlx::query("UPDATE campaign_targets SET lease_owner = NULL, lease_until = NULL WHERE lease_owner LIKE $1")
            .bind(&owners).execute(c).await.map(|r| r.rows_affected()))?;
        tx.commit().await?;
        Ok(machines + steps + polls + firmware)
    }

    /// The earliest moment at which a machine or step can be claimed: when it is due, or, while someone holds it, when that
    /// claim runs out. Work that is out with a BMC or an agent keeps its past due time and must not keep us awake.
    pub async fn next_due(&self) -> Result<Option<Timestamp>> {
        let (at,): (Option<i64>,) = in_pool!(self, p => sqlx::query_as(
            "SELECT MIN(at) FROM (
                SELECT MIN(CASE WHEN lease_until > due_at THEN lease_until ELSE due_at END) AS at FROM machines WHERE due_at IS NOT NULL
                UNION ALL
                SELECT MIN(CASE WHEN lease_until > due_at THEN lease_until ELSE due_at END) AS at FROM steps WHERE due_at IS NOT NULL
             ) AS dues")
            .fetch_one(p).await)?;
        Ok(at.map(Timestamp))
    }

    /// Machines by lifecycle, for summaries and metrics.
    pub async fn count_by_lifecycle(&self) -> Result<Vec<(Lifecycle, u64)>> {
        let rows: Vec<(String, i64)> = in_pool!(self, p => sqlx::query_as("SELECT lifecycle, COUNT(*) FROM machines GROUP BY lifecycle ORDER BY lifecycle").fetch_all(p).await)?;
        rows.into_iter().map(|(l, n)| Ok((parse("machines", &l, &l)?, u64::try_from(n).unwrap_or(0)))).collect()
    }
}

async fn one(conn: &mut Conn<'_>, id: MachineId) -> Result<Option<Machine>> {
    let sql = sqlx::AssertSqlSafe(format!("SELECT {MACHINE_COLUMNS} FROM machines WHERE id = $1"));
    let row: Option<MachineRow> = in_conn!(&mut *conn, c => sqlx::query_as(sql).bind(id.to_string()).fetch_optional(c).await)?;
    Ok(complete(conn, row.into_iter().collect()).await?.pop())
}

async fn by_evidence(
    conn: &mut Conn<'_>,
    uuid: Option<SystemUuid>,
    serial: Option<&Serial>,
    macs: &[Mac],
    bmc: Option<&BmcAddress>,
) -> Result<Vec<Machine>> {
    let macs: Vec<String> = macs.iter().map(Mac::to_string).collect();
    let sql = sqlx::AssertSqlSafe(format!(
        "SELECT {MACHINE_COLUMNS} FROM machines WHERE uuid = $1 OR serial_folded = $2
         OR id IN (SELECT machine_id FROM machine_macs WHERE mac IN ({}))
         OR id IN (SELECT machine_id FROM bmcs WHERE address = $3) ORDER BY created_at",
        placeholders(4, macs.len())
    ));
    let rows: Vec<MachineRow> = in_conn!(&mut *conn, c => {
        let mut q = sqlx::query_as(sql)
            .bind(uuid.map(|u| u.to_string()))
            .bind(serial.map(folded))
            .bind(bmc.map(ToString::to_string));
        for mac in &macs {
            q = q.bind(mac);
        }
        q.fetch_all(c).await
    })?;
    complete(conn, rows).await
}

/// A serial as it is compared: people and firmware write the same one in either case.
fn folded(serial: &Serial) -> String {
    serial.as_str().to_ascii_lowercase()
}

/// Machine rows with their MACs and BMCs.
async fn complete(conn: &mut Conn<'_>, rows: Vec<MachineRow>) -> Result<Vec<Machine>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    // A few machines: ask for theirs. Many: read all once, which is cheaper than a list of a thousand ids.
    let ids: Vec<String> = if rows.len() <= 50 { rows.iter().map(|r| r.id.clone()).collect() } else { Vec::new() };
    let narrow = if ids.is_empty() { String::new() } else { format!(" WHERE machine_id IN ({})", placeholders(1, ids.len())) };
    let mac_sql = sqlx::AssertSqlSafe(format!("SELECT mac, machine_id FROM machine_macs{narrow} ORDER BY first_seen_at, mac"));
    let bmc_sql = sqlx::AssertSqlSafe(format!("SELECT {BMC_COLUMNS} FROM bmcs{narrow}"));
    let mac_rows: Vec<MacRow> = in_conn!(&mut *conn, c => {
        let mut q = sqlx::query_as(mac_sql);
        for id in &ids {
            q = q.bind(id);
        }
        q.fetch_all(c).await
    })?;
    let bmc_rows: Vec<BmcRow> = in_conn!(&mut *conn, c => {
        let mut q = sqlx::query_as(bmc_sql);
        for id in &ids {
            q = q.bind(id);
        }
        q.fetch_all(c).await
    })?;
    let mut macs: HashMap<String, Vec<Mac>> = HashMap::new();
    for row in mac_rows {
        let mac = parse("machine_macs", &row.mac, &row.mac)?;
        macs.entry(row.machine_id).or_default().push(mac);
    }
    let mut bmcs: HashMap<MachineId, BmcStatus> = bmc_rows.into_iter().map(BmcRow::into_status).collect::<Result<_>>()?;
    rows.into_iter()
        .map(|row| {
            let id: MachineId = parse("machines", &row.id, &row.id)?;
            let macs = macs.remove(&row.id).unwrap_or_default();
            row.into_machine(macs, bmcs.remove(&id))
        })
        .collect()
}

/// `$4, $5, $6`, or `NULL` (matches nothing) for an empty list: an empty selection means nothing, never everything.
pub(crate) fn placeholders(from: usize, count: usize) -> String {
    if count == 0 {
        return "NULL".to_owned();
    }
    (from..from + count).map(|i| format!("${i}")).collect::<Vec<_>>().join(", ")
}

impl Tx {
    /// [`Store::machine`], as this transaction sees it.
    pub async fn machine(&mut self, id: MachineId) -> Result<Option<Machine>> {
        one(&mut self.conn(), id).await
    }

    /// [`Store::machines_by_evidence`], as this transaction sees them.
    pub async fn machines_by_evidence(&mut self, uuid: Option<SystemUuid>, serial: Option<&Serial>, macs: &[Mac]) -> Result<Vec<Machine>> {
        by_evidence(&mut self.conn(), uuid, serial, macs, None).await
    }

    pub async fn insert_machine(&mut self, m: &Machine) -> Result<()> {
        let doc = doc_of(m)?;
        self.touch(Some(m.id));
        in_tx!(self, c => sqlx::query(
            "INSERT INTO machines (id, rev, name, lifecycle, lifecycle_since, serial, uuid, arch, firmware, rack, u, boot_intent, image,
                current_run, doc, created_at, first_seen_at, last_seen_at, accepted_at, due_at, fence, serial_folded)
             VALUES ($1, 1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $15, 0, $19)")
            .bind(m.id.to_string())
            .bind(m.name.as_str())
            .bind(m.lifecycle.to_string())
            .bind(m.lifecycle_since.0)
            .bind(m.serial.as_ref().map(Serial::as_str))
            .bind(m.uuid.map(|u| u.to_string()))
            .bind(m.arch.map(|a| a.to_string()))
            .bind(m.firmware.map(|f| f.to_string()))
            .bind(m.place.as_ref().map(|p| p.rack.as_str().to_owned()))
            .bind(m.place.as_ref().and_then(|p| p.u).map(i64::from))
            .bind(m.boot_intent.map(|b| b.to_string()))
            .bind(m.image.as_ref().map(|i| i.as_str().to_owned()))
            .bind(m.current_run.map(|r| r.to_string()))
            .bind(&doc)
            .bind(m.created_at.0)
            .bind(m.first_seen_at.map(|t| t.0))
            .bind(m.last_seen_at.map(|t| t.0))
            .bind(m.accepted_at.map(|t| t.0))
            .bind(m.serial.as_ref().map(folded))
            .execute(c).await.map(|_| ()))?;
        self.put_macs(m.id, &m.macs, m.created_at).await
    }

    /// Writes a machine read at `m.rev`; raises the revision and makes its decision due at `due`.
    ///
    /// # Errors
    /// `Conflict` when someone changed it meanwhile.
    pub async fn update_machine(&mut self, m: &Machine, due: Option<Timestamp>) -> Result<()> {
        let doc = doc_of(m)?;
        self.touch(Some(m.id));
        let changed = in_tx!(self, c => sqlx::query(
            "UPDATE machines SET rev = rev + 1, name = $3, lifecycle = $4, lifecycle_since = $5, serial = $6, uuid = $7, arch = $8,
                firmware = $9, rack = $10, u = $11, boot_intent = $12, image = $13, current_run = $14, doc = $15, first_seen_at = $16,
                last_seen_at = $17, accepted_at = $18, due_at = $19, serial_folded = $20, lease_owner = NULL, lease_until = NULL
             WHERE id = $1 AND rev = $2")
            .bind(m.id.to_string())
            .bind(m.rev)
            .bind(m.name.as_str())
            .bind(m.lifecycle.to_string())
            .bind(m.lifecycle_since.0)
            .bind(m.serial.as_ref().map(Serial::as_str))
            .bind(m.uuid.map(|u| u.to_string()))
            .bind(m.arch.map(|a| a.to_string()))
            .bind(m.firmware.map(|f| f.to_string()))
            .bind(m.place.as_ref().map(|p| p.rack.as_str().to_owned()))
            .bind(m.place.as_ref().and_then(|p| p.u).map(i64::from))
            .bind(m.boot_intent.map(|b| b.to_string()))
            .bind(m.image.as_ref().map(|i| i.as_str().to_owned()))
            .bind(m.current_run.map(|r| r.to_string()))
            .bind(&doc)
            .bind(m.first_seen_at.map(|t| t.0))
            .bind(m.last_seen_at.map(|t| t.0))
            .bind(m.accepted_at.map(|t| t.0))
            .bind(due.map(|t| t.0))
            .bind(m.serial.as_ref().map(folded))
            .execute(c).await.map(|r| r.rows_affected()))?;
        if changed == 1 { Ok(()) } else { Err(StoreError::Conflict) }
    }

    /// Adds MACs to a machine. A MAC that another machine holds is not taken from it: see [`Tx::delete_mac`].
    ///
    /// # Errors
    /// `Conflict` when another machine holds one of them.
    pub async fn put_macs(&mut self, machine: MachineId, macs: &[Mac], at: Timestamp) -> Result<()> {
        for mac in macs {
            let written = in_tx!(self, c => sqlx::query(
                "INSERT INTO machine_macs (mac, machine_id, first_seen_at) VALUES ($1, $2, $3)
                 ON CONFLICT (mac) DO UPDATE SET machine_id = machine_macs.machine_id WHERE machine_macs.machine_id = excluded.machine_id")
                .bind(mac.to_string()).bind(machine.to_string()).bind(at.0)
                .execute(c).await.map(|r| r.rows_affected()))?;
            if written != 1 {
                return Err(StoreError::Conflict);
            }
        }
        self.touch(Some(machine));
        Ok(())
    }

    /// Takes a MAC away from a machine (its NIC is gone).
    pub async fn delete_mac(&mut self, machine: MachineId, mac: Mac) -> Result<()> {
        self.touch(Some(machine));
        in_tx!(self, c => sqlx::query("DELETE FROM machine_macs WHERE mac = $1 AND machine_id = $2")
            .bind(mac.to_string()).bind(machine.to_string()).execute(c).await.map(|_| ()))?;
        Ok(())
    }

    pub async fn put_inventory(&mut self, machine: MachineId, at: Timestamp, inventory: &Inventory) -> Result<()> {
        let doc = to_json(inventory)?;
        self.touch(Some(machine));
        in_tx!(self, c => sqlx::query(
            "INSERT INTO inventories (machine_id, at, doc) VALUES ($1, $2, $3)
             ON CONFLICT (machine_id) DO UPDATE SET at = excluded.at, doc = excluded.doc")
            .bind(machine.to_string()).bind(at.0).bind(&doc)
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Sets address, user and sealed password of a machine's BMC and forgets what was known of the old one, its
    /// certificate pin included: credentials belong to an address.
    pub async fn put_bmc(&mut self, machine: MachineId, address: &BmcAddress, user: &str, sealed_password: &str) -> Result<()> {
        self.touch(Some(machine));
        in_tx!(self, c => sqlx::query(
            "INSERT INTO bmcs (machine_id, address, login, sealed_password, identity, auth_failures) VALUES ($1, $2, $3, $4, '{}', 0)
             ON CONFLICT (machine_id) DO UPDATE SET address = excluded.address, login = excluded.login, sealed_password = excluded.sealed_password,
                identity = '{}', auth_failures = 0, paused_until = NULL, fault = NULL, protocol = NULL, power = NULL, power_seen_at = NULL,
                tls_pin = CASE WHEN bmcs.address = excluded.address THEN bmcs.tls_pin ELSE NULL END")
            .bind(machine.to_string()).bind(address.to_string()).bind(user).bind(sealed_password)
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Forgets the certificate that was pinned for a machine's BMC: the next contact pins what it sees.
    pub async fn forget_bmc_pin(&mut self, machine: MachineId) -> Result<()> {
        self.touch(Some(machine));
        in_tx!(self, c => sqlx::query("UPDATE bmcs SET tls_pin = NULL WHERE machine_id = $1")
            .bind(machine.to_string()).execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Writes what the last exchanges with the BMC at `status.address` showed. Address, user and password stay. Nothing is
    /// written when the machine has another BMC by now: the late answer of an old one says nothing about the new.
    pub async fn update_bmc(&mut self, machine: MachineId, status: &BmcStatus) -> Result<()> {
        let identity = to_json(&status.identity)?;
        self.touch(Some(machine));
        in_tx!(self, c => sqlx::query(
            "UPDATE bmcs SET protocol = $2, identity = $3, power = $4, power_seen_at = $5, last_ok_at = $6, fault = $7, auth_failures = $8,
                paused_until = $9, tls_pin = $10 WHERE machine_id = $1 AND address = $11")
            .bind(machine.to_string())
            .bind(status.protocol.map(|p| p.to_string()))
            .bind(&identity)
            .bind(status.power.map(|p| p.to_string()))
            .bind(status.power_seen_at.map(|t| t.0))
            .bind(status.last_ok_at.map(|t| t.0))
            .bind(status.fault.as_deref())
            .bind(i64::from(status.auth_failures))
            .bind(status.paused_until.map(|t| t.0))
            .bind(status.tls_pin.map(|p| p.to_string()))
            .bind(status.address.to_string())
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Notes that Hostler is about to write to this disk of the machine.
    ///
    /// # Errors
    /// `Conflict` when the machine was forgotten meanwhile.
    pub async fn add_written_disk(&mut self, machine: MachineId, disk: &DiskRef) -> Result<()> {
        self.touch(Some(machine));
        let id = machine.to_string();
        // Raising the revision first takes the row: whoever writes it at the same time comes before or after, and our write
        // cannot fail for it.
        let row: Option<(String,)> = in_tx!(self, c => sqlx::query_as("UPDATE machines SET rev = rev + 1 WHERE id = $1 RETURNING doc")
            .bind(&id).fetch_optional(c).await)?;
        let Some((text,)) = row else { return Err(StoreError::Conflict) };
        let mut doc: Doc = from_json("machines", &id, &text)?;
        if !doc.written_disks.contains(disk) {
            doc.written_disks.push(disk.clone());
        }
        let text = to_json(&doc)?;
        in_tx!(self, c => sqlx::query("UPDATE machines SET doc = $2 WHERE id = $1").bind(&id).bind(&text).execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Makes a machine's decision due. Raises the revision: a decision that is being made from older facts must fail with
    /// `Conflict`, or its own wake-up time would overwrite this one (seen: a run that stood still until its deadline).
    pub async fn make_due(&mut self, machine: MachineId, at: Timestamp) -> Result<()> {
        self.touch(Some(machine));
        in_tx!(self, c => sqlx::query("UPDATE machines SET rev = rev + 1, due_at = CASE WHEN due_at < $2 THEN due_at ELSE $2 END WHERE id = $1")
            .bind(machine.to_string()).bind(at.0).execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Notes a sign of life. Does not raise the revision: a packet must not make a person's edit fail. Its firmware kind and
    /// architecture fill what nobody told yet: anyone can send a packet, and a step boots and writes by them.
    pub async fn note_seen(&mut self, machine: MachineId, at: Timestamp, firmware: Option<FirmwareKind>, arch: Option<Arch>) -> Result<()> {
        self.touch(Some(machine));
        in_tx!(self, c => sqlx::query(
            "UPDATE machines SET last_seen_at = $2, first_seen_at = COALESCE(first_seen_at, $2), firmware = COALESCE(firmware, $3),
                arch = COALESCE(arch, $4) WHERE id = $1")
            .bind(machine.to_string()).bind(at.0)
            .bind(firmware.map(|f| f.to_string()))
            .bind(arch.map(|a| a.to_string()))
            .execute(c).await.map(|_| ()))?;
        Ok(())
    }

    /// Takes a machine's row for this transaction, as it was read at `rev`.
    ///
    /// # Errors
    /// `Conflict` when someone changed it meanwhile.
    pub async fn lock_machine(&mut self, machine: MachineId, rev: i64) -> Result<()> {
        let held = in_tx!(self, c => sqlx::query("UPDATE machines SET rev = rev + 1 WHERE id = $1 AND rev = $2")
            .bind(machine.to_string()).bind(rev).execute(c).await.map(|r| r.rows_affected()))?;
        if held == 1 { Ok(()) } else { Err(StoreError::Conflict) }
    }

    /// Drops every trace of a machine but its events.
    pub async fn delete_machine(&mut self, machine: MachineId) -> Result<()> {
        let id = machine.to_string();
        self.touch(Some(machine));
        in_tx!(self, c => {
            for sql in [
                "DELETE FROM attempts WHERE step_id IN (SELECT id FROM steps WHERE machine_id = $1)",
                "DELETE FROM steps WHERE machine_id = $1",
                "DELETE FROM runs WHERE machine_id = $1",
                "DELETE FROM agent_tasks WHERE machine_id = $1",
                "DELETE FROM agent_sessions WHERE machine_id = $1",
                "DELETE FROM agent_logs WHERE machine_id = $1",
                "DELETE FROM boot_nonces WHERE machine_id = $1",
                "DELETE FROM boots WHERE machine_id = $1",
                "DELETE FROM phone_homes WHERE machine_id = $1",
                "DELETE FROM inventories WHERE machine_id = $1",
                "DELETE FROM polls WHERE machine_id = $1",
                "DELETE FROM bmc_sheets WHERE machine_id = $1",
                "DELETE FROM sample_blocks WHERE machine_id = $1",
                "DELETE FROM rollup_blocks WHERE machine_id = $1",
                "DELETE FROM hardware_log WHERE machine_id = $1",
                "DELETE FROM log_cursors WHERE machine_id = $1",
                "DELETE FROM parts WHERE machine_id = $1",
                "DELETE FROM part_history WHERE machine_id = $1",
                "DELETE FROM bmc_traffic WHERE machine_id = $1",
                "DELETE FROM locator_leds WHERE machine_id = $1",
                "DELETE FROM bmcs WHERE machine_id = $1",
                "DELETE FROM machine_macs WHERE machine_id = $1",
                "DELETE FROM machines WHERE id = $1",
            ] {
                sqlx::query(sql).bind(&id).execute(&mut *c).await?;
            }
            Ok::<(), sqlx::Error>(())
        })?;
        Ok(())
    }
}

fn doc_of(m: &Machine) -> Result<String> {
    to_json(&Doc {
        want: m.want.clone(),
        hardware: m.hardware.clone(),
        written_disks: m.written_disks.clone(),
        fault: m.fault.clone(),
        hold: m.hold.clone(),
        why: m.why.clone(),
    })
}
