//! The address pool in memory: who has which address, and what a request for one is answered with. No sockets, no store.
//!
//! A machine is known by its MAC alone. Firmware, iPXE and the operating system of one machine send three different
//! client identifiers (option 61: none, `01`+MAC, a DUID); by RFC 2131 they would be three clients and take three
//! addresses in one boot.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::domain::id::Mac;
use crate::domain::lease::DhcpLease;
use crate::domain::time::Timestamp;

/// An offer is kept for its client this long. EDK2 collects offers for 4 s, iPXE for 3 s, and both repeat.
const OFFER_KEPT: Duration = Duration::from_secs(60);
/// An address that someone else answered on is left alone this long.
const DECLINED_FOR: Duration = Duration::from_secs(10 * 60);

/// One subnet we give addresses in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet {
    pub network: Ipv4Addr,
    pub prefix: u8,
    /// First and last address given away by itself.
    pub pool: RangeInclusive<Ipv4Addr>,
    pub routers: Vec<Ipv4Addr>,
    pub dns: Vec<Ipv4Addr>,
    pub domain: Option<String>,
    pub lease: Duration,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SubnetError {
    #[error("the prefix length {0} of a DHCP subnet is not between 1 and 30")]
    Prefix(u8),
    #[error("the DHCP pool {first}-{last} does not lie inside {network}/{prefix}")]
    Pool { first: Ipv4Addr, last: Ipv4Addr, network: Ipv4Addr, prefix: u8 },
    #[error("the DHCP subnets {0} and {1} overlap")]
    Overlap(String, String),
    #[error("the reserved address {address} of {mac} lies in no DHCP subnet, or is our own or a router's")]
    Reservation { mac: Mac, address: Ipv4Addr },
    #[error("the address {0} is reserved twice")]
    ReservedTwice(Ipv4Addr),
}

impl Subnet {
    pub fn mask(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0))
    }

    pub fn contains(&self, address: Ipv4Addr) -> bool {
        let mask = u32::from(self.mask());
        u32::from(address) & mask == u32::from(self.network) & mask
    }

    fn is_host(&self, address: Ipv4Addr) -> bool {
        let host = u32::from(address) & !u32::from(self.mask());
        self.contains(address) && host != 0 && host != !u32::from(self.mask())
    }

    fn check(&self) -> Result<(), SubnetError> {
        if !(1..=30).contains(&self.prefix) {
            return Err(SubnetError::Prefix(self.prefix));
        }
        let (first, last) = (*self.pool.start(), *self.pool.end());
        if first > last || !self.is_host(first) || !self.is_host(last) {
            return Err(SubnetError::Pool { first, last, network: self.network, prefix: self.prefix });
        }
        Ok(())
    }
}

impl std::fmt::Display for Subnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// What a REQUEST is answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Granted {
    /// To be stored, then acknowledged.
    Lease(DhcpLease),
    /// The client must begin anew: a sentence for it and the log.
    No(String),
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the DHCP pool {first}-{last} is full: {leased} addresses are leased, the next one is free in {next_free_secs} s; make the pool larger or the lease time shorter"
)]
pub struct PoolFull {
    pub first: Ipv4Addr,
    pub last: Ipv4Addr,
    pub leased: usize,
    pub next_free_secs: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holding {
    Offered,
    Leased,
    Declined,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    mac: Mac,
    until: Timestamp,
    holding: Holding,
}

struct Pool {
    subnet: Subnet,
    /// The next address never given out yet.
    fresh: u32,
    /// Pool addresses by the time they become free: the longest unused one is given away first.
    by_end: BTreeSet<(Timestamp, Ipv4Addr)>,
}

/// All pools.
pub struct LeaseTable {
    pools: Vec<Pool>,
    entries: HashMap<Ipv4Addr, Entry>,
    by_mac: HashMap<Mac, Ipv4Addr>,
    reserved: HashMap<Mac, Ipv4Addr>,
    reserved_for: HashMap<Ipv4Addr, Mac>,
    /// Ours: never given away.
    own: Ipv4Addr,
}

impl LeaseTable {
    pub fn new(subnets: Vec<Subnet>, reservations: &[(Mac, Ipv4Addr)], own: Ipv4Addr) -> Result<Self, SubnetError> {
        for (i, subnet) in subnets.iter().enumerate() {
            subnet.check()?;
            if let Some(other) = subnets[..i].iter().find(|o| o.contains(subnet.network) || subnet.contains(o.network)) {
                return Err(SubnetError::Overlap(other.to_string(), subnet.to_string()));
            }
        }
        let mut reserved_for = HashMap::new();
        for &(mac, address) in reservations {
            let free = |s: &Subnet| s.is_host(address) && address != own && !s.routers.contains(&address);
            if !subnets.iter().any(free) {
                return Err(SubnetError::Reservation { mac, address });
            }
            if reserved_for.insert(address, mac).is_some() {
                return Err(SubnetError::ReservedTwice(address));
            }
        }
        let pool = |subnet: Subnet| Pool { fresh: u32::from(*subnet.pool.start()), by_end: BTreeSet::new(), subnet };
        Ok(Self {
            pools: subnets.into_iter().map(pool).collect(),
            entries: HashMap::new(),
            by_mac: HashMap::new(),
            reserved: reservations.iter().copied().collect(),
            reserved_for,
            own,
        })
    }

    /// Takes over stored leases at start. Those outside all subnets are left out.
    pub fn load(&mut self, leases: impl IntoIterator<Item = DhcpLease>) {
        for lease in leases {
            if let Some(pool) = self.pool_of(lease.address) {
                let holding = if lease.declined { Holding::Declined } else { Holding::Leased };
                self.put(pool, lease.address, Entry { mac: lease.mac, until: lease.until, holding });
            }
        }
    }

    /// The subnet of a client: `hint` is the relay's address, or our own for a client on our wire.
    pub fn subnet_at(&self, hint: Ipv4Addr) -> Option<&Subnet> {
        self.pool_of(hint).map(|i| &self.pools[i].subnet)
    }

    /// Chooses an address for a DISCOVER and keeps it for the client: its reserved one, the one it has or had, the one
    /// it asks for, a fresh one, the one unused for longest. `None`: no subnet at `hint`.
    pub fn offer(&mut self, hint: Ipv4Addr, mac: Mac, asked: Option<Ipv4Addr>, now: Timestamp) -> Option<Result<Ipv4Addr, PoolFull>> {
        let pool = self.pool_of(hint)?;
        let Some(address) = self.choose(pool, mac, asked, now) else { return Some(Err(self.full(pool, now))) };
        let lasting = self.entries.get(&address).is_some_and(|e| e.mac == mac && e.holding == Holding::Leased && e.until > now);
        if !lasting {
            self.put(pool, address, Entry { mac, until: now.plus(OFFER_KEPT), holding: Holding::Offered });
        }
        Some(Ok(address))
    }

    /// Answers a REQUEST for `wanted`. `None`: no subnet at `hint`, it is not ours to answer.
    pub fn grant(&mut self, hint: Ipv4Addr, mac: Mac, wanted: Ipv4Addr, hostname: Option<String>, now: Timestamp) -> Option<Granted> {
        let pool = self.pool_of(hint)?;
        let subnet = &self.pools[pool].subnet;
        if !subnet.is_host(wanted) {
            return Some(Granted::No(format!("{wanted} is not an address of {subnet}, the network this machine is on")));
        }
        if let Some(own) = self.reserved_now(pool, mac, now).filter(|own| *own != wanted) {
            return Some(Granted::No(format!("{own} is reserved for this machine, it asked for {wanted}")));
        }
        if !self.may_have(pool, mac, wanted, now) {
            return Some(Granted::No(format!("{wanted} belongs to another machine or is not given away here")));
        }
        let until = now.plus(subnet.lease);
        self.put(pool, wanted, Entry { mac, until, holding: Holding::Leased });
        Some(Granted::Lease(DhcpLease { address: wanted, mac, until, declined: false, hostname }))
    }

    /// The client gives its address back. `None`: it did not have it.
    pub fn release(&mut self, mac: Mac, address: Ipv4Addr, now: Timestamp) -> Option<DhcpLease> {
        self.end(mac, address, now, Holding::Leased)
    }

    /// The client found the address in use by someone else.
    pub fn decline(&mut self, mac: Mac, address: Ipv4Addr, now: Timestamp) -> Option<DhcpLease> {
        self.end(mac, address, now.plus(DECLINED_FOR), Holding::Declined)
    }

    /// Forgets an offer the client did not take: it chose another server.
    pub fn withdraw(&mut self, mac: Mac, now: Timestamp) {
        if let Some(address) = self.by_mac.get(&mac).copied()
            && self.entries.get(&address).is_some_and(|e| e.mac == mac && e.holding == Holding::Offered)
            && let Some(pool) = self.pool_of(address)
        {
            self.put(pool, address, Entry { mac, until: now, holding: Holding::Offered });
        }
    }

    /// The address a machine holds now.
    pub fn address_of(&self, mac: Mac, now: Timestamp) -> Option<Ipv4Addr> {
        let address = self.by_mac.get(&mac)?;
        self.entries.get(address).filter(|e| e.mac == mac && e.until > now).map(|_| *address)
    }

    fn end(&mut self, mac: Mac, address: Ipv4Addr, until: Timestamp, holding: Holding) -> Option<DhcpLease> {
        let pool = self.pool_of(address)?;
        self.entries.get(&address).filter(|e| e.mac == mac && e.holding != Holding::Declined)?;
        self.put(pool, address, Entry { mac, until, holding });
        Some(DhcpLease { address, mac, until, declined: holding == Holding::Declined, hostname: None })
    }

    fn pool_of(&self, address: Ipv4Addr) -> Option<usize> {
        self.pools.iter().position(|p| p.subnet.contains(address))
    }

    fn choose(&mut self, pool: usize, mac: Mac, asked: Option<Ipv4Addr>, now: Timestamp) -> Option<Ipv4Addr> {
        if let Some(own) = self.reserved_now(pool, mac, now) {
            return Some(own);
        }
        let had = self.by_mac.get(&mac).copied();
        if let Some(address) = [had, asked].into_iter().flatten().find(|a| self.may_have(pool, mac, *a, now)) {
            return Some(address);
        }
        let last = u32::from(*self.pools[pool].subnet.pool.end());
        while self.pools[pool].fresh <= last {
            let address = Ipv4Addr::from(self.pools[pool].fresh);
            self.pools[pool].fresh += 1;
            if self.may_have(pool, mac, address, now) {
                return Some(address);
            }
        }
        let oldest = self.pools[pool].by_end.iter().take_while(|(until, _)| *until <= now);
        oldest.map(|(_, address)| *address).find(|a| self.may_have(pool, mac, *a, now))
    }

    /// The address reserved for this machine here, unless another machine still holds it (the reservation is newer than its
    /// lease) or someone was found to use it: then the machine gets one of the pool until it is free.
    fn reserved_now(&self, pool: usize, mac: Mac, now: Timestamp) -> Option<Ipv4Addr> {
        self.reserved.get(&mac).copied().filter(|own| self.may_have(pool, mac, *own, now))
    }

    /// Whether the address can go to this machine: given away here, reserved for nobody else, in use by nobody else.
    fn may_have(&self, pool: usize, mac: Mac, address: Ipv4Addr, now: Timestamp) -> bool {
        let subnet = &self.pools[pool].subnet;
        let reserved_for = self.reserved_for.get(&address);
        let given = subnet.pool.contains(&address) || reserved_for == Some(&mac);
        let free = match self.entries.get(&address) {
            None => true,
            Some(e) if e.until <= now => true,
            Some(Entry { holding: Holding::Declined, .. }) => false,
            Some(e) => e.mac == mac,
        };
        given
            && free
            && subnet.is_host(address)
            && reserved_for.is_none_or(|m| *m == mac)
            && address != self.own
            && !subnet.routers.contains(&address)
    }

    fn put(&mut self, pool: usize, address: Ipv4Addr, entry: Entry) {
        let by_end = &mut self.pools[pool].by_end;
        if let Some(old) = self.entries.insert(address, entry) {
            by_end.remove(&(old.until, address));
            if old.mac != entry.mac && self.by_mac.get(&old.mac) == Some(&address) {
                self.by_mac.remove(&old.mac);
            }
        }
        by_end.insert((entry.until, address));
        match entry.holding {
            Holding::Offered | Holding::Leased => {
                self.by_mac.insert(entry.mac, address);
            }
            Holding::Declined => {
                self.by_mac.remove(&entry.mac);
            }
        }
    }

    fn full(&self, pool: usize, now: Timestamp) -> PoolFull {
        let Pool { subnet, by_end, .. } = &self.pools[pool];
        let next = by_end.iter().find(|(_, a)| subnet.pool.contains(a) && !self.reserved_for.contains_key(a));
        PoolFull {
            first: *subnet.pool.start(),
            last: *subnet.pool.end(),
            leased: self.entries.iter().filter(|(a, e)| subnet.pool.contains(*a) && e.until > now).count(),
            next_free_secs: next.map_or(0, |(until, _)| until.since(now).as_secs()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_000_000_000_000);
    const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    fn mac(n: u8) -> Mac {
        Mac([2, 0, 0, 0, 0, n])
    }

    fn ip(n: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, n)
    }

    fn later(secs: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(secs))
    }

    fn subnet(first: u8, last: u8) -> Subnet {
        Subnet {
            network: ip(0),
            prefix: 24,
            pool: ip(first)..=ip(last),
            routers: vec![HERE],
            dns: vec![],
            domain: None,
            lease: Duration::from_secs(600),
        }
    }

    fn table(first: u8, last: u8) -> LeaseTable {
        LeaseTable::new(vec![subnet(first, last)], &[(mac(200), ip(50))], HERE).expect("a good subnet")
    }

    fn offer(t: &mut LeaseTable, n: u8, now: Timestamp) -> Result<Ipv4Addr, PoolFull> {
        t.offer(HERE, mac(n), None, now).expect("our subnet")
    }

    fn grant(t: &mut LeaseTable, n: u8, address: Ipv4Addr, now: Timestamp) -> Option<Ipv4Addr> {
        match t.grant(HERE, mac(n), address, None, now).expect("our subnet") {
            Granted::Lease(l) => Some(l.address),
            Granted::No(_) => None,
        }
    }

    #[test]
    fn a_machine_keeps_its_address_through_all_stages_of_a_boot() {
        let mut t = table(10, 20);
        let first = offer(&mut t, 1, NOW).expect("free");
        assert_eq!(grant(&mut t, 1, first, NOW), Some(first));
        assert_eq!(offer(&mut t, 2, NOW).expect("free"), ip(11));
        assert_eq!(offer(&mut t, 1, later(30)), Ok(first), "iPXE asks with another client id");
        assert_eq!(grant(&mut t, 1, first, later(300)), Some(first), "renewal");
        assert_eq!(offer(&mut t, 1, later(100_000)), Ok(first), "long expired, still free");
    }

    #[test]
    fn an_offered_address_is_not_offered_to_another_until_it_lapses() {
        let mut t = table(10, 10);
        assert_eq!(offer(&mut t, 1, NOW), Ok(ip(10)));
        assert!(offer(&mut t, 2, NOW).is_err());
        assert_eq!(offer(&mut t, 2, later(61)), Ok(ip(10)));
        assert_eq!(grant(&mut t, 1, ip(10), later(62)), None);
    }

    #[test]
    fn a_full_pool_says_so_with_numbers() {
        let mut t = table(10, 11);
        for n in 1..=2 {
            let address = offer(&mut t, n, NOW).expect("free");
            grant(&mut t, n, address, NOW);
        }
        let full = offer(&mut t, 3, later(100)).expect_err("full");
        assert_eq!(full, PoolFull { first: ip(10), last: ip(11), leased: 2, next_free_secs: 500 });
        assert!(full.to_string().contains("10.0.0.10-10.0.0.11 is full"));
        assert_eq!(offer(&mut t, 3, later(600)), Ok(ip(10)), "the oldest lease ran out");
    }

    #[test]
    fn the_longest_unused_address_is_given_away_first() {
        let mut t = table(10, 12);
        for (n, at) in [(1, 20), (2, 0), (3, 10)] {
            let address = offer(&mut t, n, later(at)).expect("free");
            grant(&mut t, n, address, later(at));
        }
        assert_eq!(offer(&mut t, 9, later(10_000)), Ok(ip(11)));
    }

    #[test]
    fn a_reserved_address_goes_to_its_machine_and_to_no_other() {
        let mut t = table(10, 60);
        assert_eq!(offer(&mut t, 200, NOW), Ok(ip(50)));
        assert_eq!(t.offer(HERE, mac(1), Some(ip(50)), NOW), Some(Ok(ip(10))));
        assert_eq!(grant(&mut t, 1, ip(50), NOW), None);
        assert_eq!(grant(&mut t, 200, ip(11), NOW), None, "it must take its reserved address");
        assert_eq!(grant(&mut t, 200, ip(50), NOW), Some(ip(50)));
    }

    #[test]
    fn a_reserved_address_that_another_machine_holds_is_given_only_when_that_lease_ended() {
        let mut t = table(10, 60);
        t.load([DhcpLease { address: ip(50), mac: mac(1), until: later(600), declined: false, hostname: None }]);
        assert_eq!(offer(&mut t, 200, NOW), Ok(ip(10)), "the reservation is newer than the lease");
        assert_eq!(grant(&mut t, 200, ip(50), NOW), None);
        assert_eq!(grant(&mut t, 200, ip(10), NOW), Some(ip(10)), "meanwhile an address of the pool");
        assert_eq!(grant(&mut t, 1, ip(50), later(300)), None, "not renewed: it is another's by now");
        assert_eq!(offer(&mut t, 200, later(601)), Ok(ip(50)));
        assert_eq!(grant(&mut t, 200, ip(50), later(601)), Some(ip(50)));
        assert!(t.decline(mac(200), ip(50), later(602)).is_some());
        assert_eq!(offer(&mut t, 200, later(603)), Ok(ip(11)), "found in use: not offered again at once");
    }

    #[test]
    fn our_own_address_or_a_routers_cannot_be_reserved() {
        assert!(LeaseTable::new(vec![subnet(10, 60)], &[(mac(1), HERE)], HERE).is_err());
    }

    #[test]
    fn our_own_address_and_the_routers_are_never_given_away() {
        let mut t = LeaseTable::new(vec![subnet(1, 2)], &[], HERE).expect("a good subnet");
        assert_eq!(offer(&mut t, 1, NOW), Ok(ip(2)));
        assert!(offer(&mut t, 2, NOW).is_err());
    }

    #[test]
    fn a_declined_address_rests_and_then_returns() {
        let mut t = table(10, 10);
        assert_eq!(offer(&mut t, 1, NOW), Ok(ip(10)));
        assert!(t.decline(mac(2), ip(10), NOW).is_none(), "only its holder can decline it");
        assert!(t.decline(mac(1), ip(10), NOW).is_some_and(|l| l.declined));
        assert!(offer(&mut t, 1, later(1)).is_err());
        assert_eq!(offer(&mut t, 1, later(601)), Ok(ip(10)));
    }

    #[test]
    fn a_released_address_is_free_at_once() {
        let mut t = table(10, 10);
        grant(&mut t, 1, ip(10), NOW);
        assert!(t.release(mac(2), ip(10), NOW).is_none());
        assert!(t.release(mac(1), ip(10), NOW).is_some());
        assert_eq!(offer(&mut t, 2, NOW), Ok(ip(10)));
    }

    #[test]
    fn an_address_of_another_network_is_refused() {
        let mut t = table(10, 20);
        assert_eq!(grant(&mut t, 1, Ipv4Addr::new(192, 168, 0, 5), NOW), None);
        assert_eq!(grant(&mut t, 1, ip(255), NOW), None);
        assert_eq!(grant(&mut t, 1, ip(99), NOW), None, "in the subnet, outside the pool");
    }

    #[test]
    fn leases_survive_a_restart() {
        let mut t = table(10, 20);
        let Some(Granted::Lease(lease)) = t.grant(HERE, mac(1), ip(15), None, NOW) else { panic!("free") };
        let declined = DhcpLease { address: ip(10), mac: mac(7), until: later(500), declined: true, hostname: None };
        let stray = DhcpLease { address: Ipv4Addr::new(192, 168, 0, 5), ..lease.clone() };
        let mut after = table(10, 20);
        after.load([lease, declined, stray]);
        assert_eq!(offer(&mut after, 1, later(10)), Ok(ip(15)));
        assert_eq!(offer(&mut after, 2, later(10)), Ok(ip(11)));
        assert_eq!(after.address_of(mac(1), later(10)), Some(ip(15)));
    }

    #[test]
    fn relays_choose_the_subnet() {
        let far = Subnet {
            network: Ipv4Addr::new(10, 9, 0, 0),
            prefix: 16,
            pool: Ipv4Addr::new(10, 9, 1, 1)..=Ipv4Addr::new(10, 9, 1, 9),
            ..subnet(10, 20)
        };
        let mut t = LeaseTable::new(vec![subnet(10, 20), far], &[], HERE).expect("good subnets");
        assert_eq!(t.offer(Ipv4Addr::new(10, 9, 255, 1), mac(1), None, NOW), Some(Ok(Ipv4Addr::new(10, 9, 1, 1))));
        assert_eq!(offer(&mut t, 1, NOW), Ok(ip(10)), "the machine moved to the other network");
        assert_eq!(t.offer(Ipv4Addr::new(172, 16, 0, 1), mac(1), None, NOW), None);
    }

    #[test]
    fn a_wrong_configuration_is_named() {
        let bad = |s: Subnet| LeaseTable::new(vec![s], &[], HERE).err().map(|e| e.to_string());
        assert!(bad(Subnet { prefix: 31, ..subnet(1, 2) }).is_some());
        assert!(bad(Subnet { pool: ip(20)..=ip(10), ..subnet(1, 2) }).is_some());
        assert!(bad(subnet(0, 2)).is_some_and(|e| e.contains("10.0.0.0-10.0.0.2")));
        assert!(LeaseTable::new(vec![subnet(1, 2), subnet(3, 4)], &[], HERE).is_err());
        assert!(LeaseTable::new(vec![subnet(1, 2)], &[(mac(1), Ipv4Addr::new(9, 9, 9, 9))], HERE).is_err());
    }

    proptest! {
        /// Whatever machines do, no address is held by two of them at once.
        #[test]
        fn no_address_is_ever_held_twice(steps in proptest::collection::vec((0u8..12, 0u8..5, 9u8..16, 0u64..400), 1..200)) {
            let mut t = table(10, 14);
            let mut now = NOW;
            let mut held: HashMap<Ipv4Addr, (Mac, Timestamp)> = HashMap::new();
            for (m, act, address, wait) in steps {
                now = now.plus(Duration::from_secs(wait));
                let (m, address) = (mac(m), ip(address));
                match act {
                    0 | 1 => { t.offer(HERE, m, Some(address), now); }
                    2 | 3 => {
                        if let Some(Granted::Lease(l)) = t.grant(HERE, m, address, None, now)
                            && let Some((holder, until)) = held.insert(l.address, (m, l.until))
                        {
                            prop_assert!(holder == m || until <= now, "{address} of {holder} given to {m}");
                        }
                    }
                    _ => if let Some(l) = t.release(m, address, now) { held.remove(&l.address); },
                }
            }
        }
    }
}
