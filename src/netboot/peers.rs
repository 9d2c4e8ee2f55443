//! Who is really behind an address? What a machine says about itself in a query proves nothing; what we know about the
//! address it speaks from can contradict it.
//!
//! | known | says |
//! |---|---|
//! | our lease of that card, alive | the card has this address, and no other |
//! | our lease of that address, alive | this card is behind it |
//! | the kernel's neighbour table | on our wire, this card is behind it |
//!
//! Where nothing is known (routed, another server's addresses) nothing is contradicted. Loopback is this computer: the
//! simulated rack, whose agents all speak from one address.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::clock;
use crate::domain::event::{NewEvent, Severity};
use crate::domain::id::{EventId, Mac, MachineId};
use crate::domain::lease::DhcpLease;
use crate::domain::time::Timestamp;
use crate::store::{Store, StoreError};

/// The same trouble of the same machine is an event once in this time: who is refused asks again every few seconds.
const TOLD_EVERY: Duration = Duration::from_secs(10 * 60);
/// Machines whose last event is remembered; when full the memory is emptied, which costs a repeated event.
const REMEMBERED: usize = 20_000;

/// Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    store: Store,
    gives_addresses: bool,
    neighbours: PathBuf,
    told: Arc<Mutex<HashMap<MachineId, Timestamp>>>,
}

impl Peers {
    /// `gives_addresses`: whether our DHCP server does. Beside another one our old leases say nothing.
    pub fn new(store: Store, gives_addresses: bool) -> Self {
        Self { store, gives_addresses, neighbours: PathBuf::from("/proc/net/arp"), told: Arc::default() }
    }

    /// Reads the neighbour table from another file.
    pub fn reading(self, neighbours: PathBuf) -> Self {
        Self { neighbours, ..self }
    }

    /// What is known about an address, and about the addresses of these cards.
    ///
    /// # Errors
    /// When the leases cannot be read: then nobody knows.
    pub async fn look(&self, peer: IpAddr, macs: &[Mac]) -> Result<Sight, StoreError> {
        let peer = peer.to_canonical();
        if peer.is_loopback() {
            return Ok(Sight { peer, leases: Vec::new(), neighbour: None });
        }
        let leases = if self.gives_addresses { self.store.live_dhcp_leases(peer, macs, clock::now()).await? } else { Vec::new() };
        let neighbour = match peer {
            IpAddr::V4(v4) => self.neighbour(v4).await,
            IpAddr::V6(_) => None,
        };
        Ok(Sight { peer, leases, neighbour })
    }

    /// The card behind an address on our wire.
    pub async fn neighbour(&self, peer: Ipv4Addr) -> Option<Mac> {
        let table = tokio::fs::read_to_string(&self.neighbours).await.ok()?;
        mac_in_arp(&table, peer)
    }

    /// Notes in the machine's history that something claimed to be it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn tell(&self, machine: MachineId, kind: &'static str, text: String) -> Result<(), StoreError> {
        let now = clock::now();
        {
            let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
            if told.get(&machine).is_some_and(|at| now.since(*at) < TOLD_EVERY) {
                return Ok(());
            }
            if told.len() >= REMEMBERED {
                told.clear();
            }
            told.insert(machine, now);
        }
        let event = NewEvent { machine: Some(machine), run: None, kind, severity: Severity::Warning, text, actor: "system".to_owned() };
        let mut tx = self.store.begin().await?;
        tx.insert_event(EventId(clock::fresh_uuid()), now, &event).await?;
        tx.commit().await
    }
}

/// What is known about one peer.
#[derive(Clone, Debug)]
pub struct Sight {
    peer: IpAddr,
    /// Alive: of the peer's address, and of the cards looked for.
    leases: Vec<DhcpLease>,
    neighbour: Option<Mac>,
}

impl Sight {
    /// Why the peer cannot be a machine with these network cards: half a sentence, or `None` when nothing says so.
    pub fn contradiction(&self, macs: &[Mac]) -> Option<String> {
        let Self { peer, leases, neighbour } = self;
        let at_peer = leases.iter().find(|l| IpAddr::V4(l.address) == *peer);
        if let Some(other) = at_peer.filter(|l| !macs.contains(&l.mac)) {
            return Some(format!("{peer} is leased to {}", other.mac));
        }
        if let Some(other) = neighbour.filter(|mac| !macs.contains(mac)) {
            return Some(format!("behind {peer} is {other}"));
        }
        let elsewhere = leases.iter().find(|l| macs.contains(&l.mac)).filter(|_| at_peer.is_none());
        elsewhere.map(|l| format!("{} has the address {}, not {peer}", l.mac, l.address))
    }
}

/// `/proc/net/arp`: a heading, then `IP address  HW type  Flags  HW address  Mask  Device`.
fn mac_in_arp(table: &str, peer: Ipv4Addr) -> Option<Mac> {
    table.lines().skip(1).find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let address: Ipv4Addr = words.next()?.parse().ok()?;
        let mac = words.nth(2)?;
        (address == peer).then(|| mac.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: Mac = Mac([0x52, 0x54, 0, 0x77, 0, 1]);
    const OTHER: Mac = Mac([0x52, 0x54, 0, 0x77, 0, 2]);
    const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 7);
    const THERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 8);

    fn lease(address: Ipv4Addr, mac: Mac) -> DhcpLease {
        DhcpLease { address, mac, until: Timestamp(1), declined: false, hostname: None }
    }

    fn contradicted(leases: &[DhcpLease], neighbour: Option<Mac>) -> bool {
        Sight { peer: HERE.into(), leases: leases.to_vec(), neighbour }.contradiction(&[OURS]).is_some()
    }

    #[test]
    fn where_nothing_is_known_nothing_is_contradicted() {
        assert!(!contradicted(&[], None));
    }

    #[test]
    fn the_own_lease_and_the_own_card_agree() {
        assert!(!contradicted(&[lease(HERE, OURS)], None));
        assert!(!contradicted(&[], Some(OURS)));
        assert!(!contradicted(&[lease(HERE, OURS), lease(THERE, OURS)], Some(OURS)), "two cards of one machine");
    }

    #[test]
    fn a_lease_elsewhere_a_lease_of_another_and_another_card_contradict() {
        assert!(contradicted(&[lease(THERE, OURS)], None));
        assert!(contradicted(&[lease(HERE, OTHER)], None));
        assert!(contradicted(&[], Some(OTHER)));
        assert!(contradicted(&[lease(HERE, OURS)], Some(OTHER)), "it took our address on the wire");
        assert!(contradicted(&[lease(THERE, OURS)], Some(OURS)), "an address that nobody gave it");
    }

    #[test]
    fn the_neighbour_table_tells_who_is_behind_an_address() {
        let table = "IP address       HW type     Flags       HW address            Mask     Device\n\
                     10.0.0.9         0x1         0x0         00:00:00:00:00:00     *        eth0\n\
                     10.0.0.7         0x1         0x2         52:54:00:77:00:01     *        eth0\n";
        assert_eq!(mac_in_arp(table, HERE), Some(OURS));
        assert_eq!(mac_in_arp(table, Ipv4Addr::new(10, 0, 0, 9)), None);
        assert_eq!(mac_in_arp(table, THERE), None);
    }
}
