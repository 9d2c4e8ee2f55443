//! Who may speak for a machine: the boot was given to it, and nothing that is known about its address says otherwise.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use hostler::app::intake::{Intake, IntakeError};
use hostler::clock;
use hostler::decide::boot::Loader;
use hostler::domain::id::{Mac, MachineId};
use hostler::domain::inventory::Inventory;
use hostler::domain::lease::DhcpLease;
use hostler::domain::machine::{BootIntent, Lifecycle};
use hostler::netboot::boot_files::BootFiles;
use hostler::netboot::desk::{Desk, DeskSettings, ScriptQuery};
use hostler::netboot::peers::Peers;
use hostler::store::Store;
use hostler::store::events::EventFilter;
use hostler::wire::agent::{Hello, PROTOCOL};

use crate::lifecycle::{HERE, MAC, Site, inventory};
use crate::support::engines::both;

const OTHER_MAC: Mac = Mac([0x52, 0x54, 0, 0x77, 0, 0x66]);
const OURS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));
const THEIRS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 66));

/// An accepted machine that is led into the ramdisk, and the desk and intake that serve it.
struct Gate {
    store: Store,
    desk: Desk,
    intake: Intake,
    id: MachineId,
    _dir: tempfile::TempDir,
}

/// `neighbours`: the lines of the kernel's table.
async fn gate(store: &Store, neighbours: &[(IpAddr, Mac)], gives_addresses: bool) -> Gate {
    let (id, _) = Site::on(store).boot(&clock::fresh_token(), inventory()).await.unwrap();
    let mut m = store.machine(id).await.unwrap().unwrap();
    m.lifecycle = Lifecycle::Releasing;
    m.boot_intent = Some(BootIntent::Ramdisk);
    let mut tx = store.begin().await.unwrap();
    tx.update_machine(&m, None).await.unwrap();
    tx.commit().await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let table = dir.path().join("arp");
    let lines: Vec<String> = neighbours.iter().map(|(ip, mac)| format!("{ip} 0x1 0x2 {mac} * eth0\n")).collect();
    std::fs::write(&table, format!("IP address HW type Flags HW address Mask Device\n{}", lines.concat())).unwrap();
    let peers = Peers::new(store.clone(), gives_addresses).reading(table);
    let files = BootFiles::from_loaders(Loader::ALL.map(|l| (l, Bytes::new())));
    let settings = DeskSettings::new("http://10.0.0.1:8081".parse().unwrap());
    let desk = Desk::new(store.clone(), settings, files, peers.clone());
    Gate { store: store.clone(), desk, intake: Intake::new(store.clone(), peers), id, _dir: dir }
}

impl Gate {
    /// The one-time word in the script that `peer` gets for our machine's card, if it is led into the ramdisk.
    async fn word(&self, peer: IpAddr) -> Option<String> {
        let query = ScriptQuery { mac: MAC, uuid: None, serial: None, platform: "efi".into(), arch: "x86_64".into() };
        let script = self.desk.script(&query, peer).await.unwrap();
        script.split_once("hostler.nonce=").and_then(|(_, rest)| rest.split(' ').next()).map(str::to_owned)
    }

    async fn hello(&self, nonce: &str, inventory: Inventory, peer: IpAddr) -> Result<MachineId, IntakeError> {
        let hello = Hello { protocol: PROTOCOL, nonce: nonce.to_owned(), session: clock::fresh_uuid(), inventory };
        self.intake.hello(hello, peer).await.map(|w| w.machine)
    }

    async fn lease(&self, address: IpAddr, mac: Mac, lasts: i64) {
        let IpAddr::V4(address) = address else { panic!("v4") };
        let now = clock::now();
        let until = if lasts >= 0 { now.plus(Duration::from_secs(600)) } else { now.minus(Duration::from_secs(600)) };
        self.store.put_dhcp_leases(&[DhcpLease { address, mac, until, declined: false, hostname: None }]).await.unwrap();
    }

    async fn events(&self, kind: &str) -> usize {
        let all = self.store.events(EventFilter { machine: Some(self.id), ..Default::default() }, 100).await.unwrap();
        all.iter().filter(|e| e.kind == kind).count()
    }
}

#[tokio::test]
async fn an_accepted_machine_is_not_spoken_for_with_the_boot_of_another_card() {
    for on in both().await {
        let g = gate(&on.store, &[], true).await;
        // The boot was given to an unknown card; the inventory names that card and the serial of our machine.
        let site = Site::on(&on.store);
        let mut forged = inventory();
        forged.nics[0].mac = OTHER_MAC;
        site.nonce("unknown", OTHER_MAC, None).await;
        assert!(matches!(g.hello("unknown", forged.clone(), HERE).await, Err(IntakeError::Refused(_))), "{}", on.name);
        // Or to another machine.
        site.nonce("others", OTHER_MAC, Some(MachineId(clock::fresh_uuid()))).await;
        assert!(matches!(g.hello("others", forged, HERE).await, Err(IntakeError::Refused(_))), "{}", on.name);
        assert_eq!(g.events("machine.hello_refused").await, 1, "{}: said once, not at each try", on.name);
        assert_eq!(on.store.machine(g.id).await.unwrap().unwrap().macs, vec![MAC], "{}: nothing of it was noted", on.name);
        // Its own boot is good.
        let word = g.word(HERE).await.expect("a ramdisk");
        assert_eq!(g.hello(&word, inventory(), HERE).await.unwrap(), g.id, "{}", on.name);
    }
}

#[tokio::test]
async fn a_boot_is_not_given_to_an_address_that_another_card_is_known_behind() {
    for on in both().await {
        let g = gate(&on.store, &[(THEIRS, OTHER_MAC), (OURS, MAC)], false).await;
        assert_eq!(g.word(THEIRS).await, None, "{}", on.name);
        assert_eq!(g.word(THEIRS).await, None, "{}", on.name);
        assert_eq!(g.events("machine.boot_refused").await, 1, "{}", on.name);
        assert!(g.word(OURS).await.is_some(), "{}", on.name);
    }
}

#[tokio::test]
async fn a_boot_is_not_given_to_an_address_other_than_the_leased_one() {
    for on in both().await {
        let g = gate(&on.store, &[], true).await;
        g.lease(OURS, MAC, 1).await;
        assert_eq!(g.word(THEIRS).await, None, "{}", on.name);
        assert!(g.word(OURS).await.is_some(), "{}", on.name);
        g.lease(OURS, OTHER_MAC, 1).await;
        assert_eq!(g.word(OURS).await, None, "{}: the address is another's now", on.name);
    }
}

#[tokio::test]
async fn a_hello_from_another_address_than_the_machines_is_refused() {
    for on in both().await {
        let g = gate(&on.store, &[], true).await;
        g.lease(OURS, MAC, 1).await;
        let word = g.word(OURS).await.expect("a ramdisk");
        // Someone read the word on the wire.
        assert!(matches!(g.hello(&word, inventory(), THEIRS).await, Err(IntakeError::Refused(_))), "{}", on.name);
        assert_eq!(g.events("machine.hello_refused").await, 1, "{}", on.name);
        assert_eq!(g.hello(&word, inventory(), OURS).await.unwrap(), g.id, "{}: the word was not used up", on.name);
    }
}

#[tokio::test]
async fn where_nothing_is_known_the_boot_is_given() {
    for on in both().await {
        let g = gate(&on.store, &[], true).await;
        let word = g.word(OURS).await.expect("routed: neither lease nor neighbour");
        assert_eq!(g.hello(&word, inventory(), OURS).await.unwrap(), g.id, "{}", on.name);
        g.lease(THEIRS, MAC, -1).await;
        assert!(g.word(OURS).await.is_some(), "{}: a lease that ran out says nothing", on.name);
        let beside = gate(&on.store, &[(OURS, MAC)], false).await;
        beside.lease(THEIRS, MAC, 1).await;
        assert!(beside.word(OURS).await.is_some(), "{}: beside another DHCP server our old leases say nothing", on.name);
    }
}
