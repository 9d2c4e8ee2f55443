//! DHCP leases. The DHCP server works in memory; this is what it wakes up with.

use std::net::IpAddr;

use crate::domain::id::Mac;
use crate::domain::lease::DhcpLease;
use crate::domain::time::Timestamp;
use crate::store::machines::placeholders;
use crate::store::{Result, Store, Tx, in_pool, in_tx, parse};

/// Rows of one statement, largest first: few different statements, so that both engines keep them prepared. Five binds a
/// row stay well below their limits (SQLite 32,766, PostgreSQL 65,535).
const ROWS: [usize; 4] = [256, 64, 8, 1];
/// Of a client's own name for itself.
const MAX_HOSTNAME: usize = 100;

#[derive(sqlx::FromRow)]
struct LeaseRow {
    address: String,
    mac: String,
    ends_at: i64,
    declined: bool,
    hostname: Option<String>,
}

impl LeaseRow {
    fn into_lease(self) -> Result<DhcpLease> {
        Ok(DhcpLease {
            address: parse("dhcp_leases", &self.address, &self.address)?,
            mac: parse("dhcp_leases", &self.address, &self.mac)?,
            until: Timestamp(self.ends_at),
            declined: self.declined,
            hostname: self.hostname,
        })
    }
}

impl Store {
    /// All leases, lapsed ones too: a machine that comes back gets its address again.
    pub async fn dhcp_leases(&self) -> Result<Vec<DhcpLease>> {
        let rows: Vec<LeaseRow> =
            in_pool!(self, p => sqlx::query_as("SELECT address, mac, ends_at, declined, hostname FROM dhcp_leases").fetch_all(p).await)?;
        rows.into_iter().map(LeaseRow::into_lease).collect()
    }

    /// Leases that hold at `now`: of this address, and of these MACs.
    pub async fn live_dhcp_leases(&self, address: IpAddr, macs: &[Mac], now: Timestamp) -> Result<Vec<DhcpLease>> {
        let sql = sqlx::AssertSqlSafe(format!(
            "SELECT address, mac, ends_at, declined, hostname FROM dhcp_leases
             WHERE ends_at > $1 AND NOT declined AND (address = $2 OR mac IN ({}))",
            placeholders(3, macs.len())
        ));
        let rows: Vec<LeaseRow> = in_pool!(self, p => {
            let mut q = sqlx::query_as(sql).bind(now.0).bind(address.to_string());
            for mac in macs {
                q = q.bind(mac.to_string());
            }
            q.fetch_all(p).await
        })?;
        rows.into_iter().map(LeaseRow::into_lease).collect()
    }

    /// Stores leases in one commit. Of several for one address the last one counts.
    pub async fn put_dhcp_leases(&self, leases: &[DhcpLease]) -> Result<()> {
        let mut tx = self.begin().await?;
        tx.put_dhcp_leases(leases).await?;
        tx.commit().await
    }
}

impl Tx {
    async fn put_dhcp_leases(&mut self, leases: &[DhcpLease]) -> Result<()> {
        // PostgreSQL refuses to change one row twice in one statement.
        let mut last: Vec<&DhcpLease> = Vec::with_capacity(leases.len());
        let mut seen = std::collections::HashSet::new();
        for lease in leases.iter().rev() {
            if seen.insert(lease.address) {
                last.push(lease);
            }
        }
        let mut rest = last.as_slice();
        while let Some(n) = ROWS.into_iter().find(|n| *n <= rest.len()) {
            let (rows, after) = rest.split_at(n);
            rest = after;
            let values: Vec<String> = (0..rows.len())
                .map(|i| {
                    let n = i * 5;
                    format!("(${}, ${}, ${}, ${}, ${})", n + 1, n + 2, n + 3, n + 4, n + 5)
                })
                .collect();
            let sql = sqlx::AssertSqlSafe(format!(
                "INSERT INTO dhcp_leases (address, mac, ends_at, declined, hostname) VALUES {}
                 ON CONFLICT (address) DO UPDATE SET mac = excluded.mac, ends_at = excluded.ends_at, declined = excluded.declined,
                 hostname = excluded.hostname",
                values.join(", ")
            ));
            in_tx!(self, c => {
                let mut q = sqlx::query(sql);
                for lease in rows {
                    let hostname: Option<String> = lease.hostname.as_ref().map(|h| h.chars().filter(|c| !c.is_control()).take(MAX_HOSTNAME).collect());
                    q = q.bind(lease.address.to_string()).bind(lease.mac.to_string()).bind(lease.until.0).bind(lease.declined).bind(hostname);
                }
                q.execute(c).await.map(|_| ())
            })?;
        }
        Ok(())
    }
}
