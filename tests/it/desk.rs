//! The boot desk on a real store: what a machine is told, and what its timeline says afterwards.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bytes::Bytes;
use hostler::decide::boot::{BootRequest, Give, Loader};
use hostler::domain::boot::{Boot, BootStage, ClientArch};
use hostler::domain::id::Mac;
use hostler::domain::lease::DhcpLease;
use hostler::domain::time::Timestamp;
use hostler::netboot::boot_files::BootFiles;
use hostler::netboot::desk::{Desk, DeskSettings, ScriptQuery};
use hostler::netboot::dhcp::DhcpDesk;
use hostler::netboot::peers::Peers;
use hostler::netboot::tftp::{TftpEvent, TftpFiles, TftpProgress, TftpRefusal};
use hostler::netboot::{Asker, Sign};
use hostler::store::{Store, StoreConfig};

struct Rig {
    desk: Desk,
    store: Store,
    _dir: tempfile::TempDir,
}

async fn rig() -> Rig {
    let dir = tempfile::tempdir().expect("tempdir");
    let store = Store::open(&StoreConfig::Sqlite { path: dir.path().join("hostler.db") }).await.expect("store opens");
    let files = BootFiles::from_loaders(Loader::ALL.map(|l| (l, Bytes::from(l.file_name()))));
    let desk =
        Desk::new(store.clone(), DeskSettings::new("http://10.0.0.1:8081".parse().expect("url")), files, Peers::new(store.clone(), true));
    Rig { desk, store, _dir: dir }
}

/// Loopback: nothing is known about it.
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

fn mac(n: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0x77, 0, n])
}

fn query(n: u8, platform: &str, arch: &str) -> ScriptQuery {
    ScriptQuery { mac: mac(n), uuid: None, serial: None, platform: platform.into(), arch: arch.into() }
}

/// The stray boot of a MAC, once it has `stage`.
async fn boot_with(store: &Store, mac: Mac, stage: BootStage) -> Boot {
    for _ in 0..1000 {
        let boots = store.stray_boots(50).await.expect("boots");
        if let Some(boot) = boots.into_iter().find(|b| b.mac == mac && b.marks.iter().any(|m| m.stage == stage)) {
            return boot;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{mac} has no boot with {stage}");
}

#[tokio::test]
async fn an_unknown_machine_is_led_into_the_ramdisk_with_a_one_time_word() {
    let rig = rig().await;
    let who = Asker { mac: mac(1), uuid: None };
    let answer = rig.desk.boot(who, BootRequest::Firmware(ClientArch::UefiX64)).await.expect("answer");
    assert_eq!(answer.give, Give::Loader(Loader::Snponly));
    let script = rig.desk.script(&query(1, "efi", "x86_64"), PEER).await.expect("script");
    let nonce = script.split_once("hostler.nonce=").and_then(|(_, rest)| rest.split(' ').next()).expect("nonce");
    let mut tx = rig.store.begin().await.expect("tx");
    let used = tx.use_boot_nonce(nonce, uuid::Uuid::from_u128(1), hostler::clock::now()).await.expect("store");
    assert_eq!(used.map(|u| u.mac), Some(mac(1)));
    drop(tx);
    let again = rig.desk.script(&query(1, "efi", "x86_64"), PEER).await.expect("script");
    assert!(!again.contains(nonce), "each script has a word of its own");
}

#[tokio::test]
async fn a_platform_without_ramdisk_is_refused() {
    let rig = rig().await;
    assert!(rig.desk.script(&query(1, "efi", "i386"), PEER).await.is_err());
    assert!(rig.desk.script(&query(1, "efi", "arm64"), PEER).await.expect("script").contains("restarting"));
}

#[tokio::test]
async fn every_stage_of_a_boot_stands_in_its_timeline() {
    let rig = rig().await;
    let sign = |stage| Sign { mac: mac(1), client: Some(ClientArch::UefiX64), stage, note: String::new() };
    rig.desk.sign(sign(BootStage::DhcpDiscover));
    rig.desk.sign(sign(BootStage::DhcpOffer));
    let peer = "10.0.0.7:1077".parse().expect("address");
    assert_eq!(rig.desk.open(peer, "52-54-00-77-00-01/snponly.efi").await, Ok(Bytes::from("snponly.efi")));
    let event = |what| TftpEvent { peer, file: "52-54-00-77-00-01/snponly.efi".into(), what };
    TftpFiles::note(&rig.desk, event(TftpProgress::Started { size: 11 }));
    TftpFiles::note(&rig.desk, event(TftpProgress::Stalled { block: 1, of: 119, blksize: 1468 }));
    rig.desk.script(&query(1, "efi", "x86_64"), PEER).await.expect("script");
    rig.desk.fetched(mac(1), BootStage::Kernel, String::new());
    let boot = boot_with(&rig.store, mac(1), BootStage::Kernel).await;
    let stages: Vec<_> = boot.marks.iter().map(|m| m.stage).collect();
    use BootStage::{DhcpDiscover, DhcpOffer, Kernel, LoaderStalled, LoaderStart, Script};
    assert_eq!(stages, [DhcpDiscover, DhcpOffer, LoaderStart, LoaderStalled, Script, Kernel]);
    assert_eq!(boot.client, Some(ClientArch::UefiX64));
    assert_eq!(boot.marks[3].note, "block 1 of 119 of snponly.efi, 1468 bytes a block");
}

#[tokio::test]
async fn a_flood_of_the_same_packet_is_one_line() {
    let rig = rig().await;
    for _ in 0..5000 {
        rig.desk.sign(Sign { mac: mac(1), client: None, stage: BootStage::DhcpDiscover, note: String::new() });
    }
    rig.desk.sign(Sign { mac: mac(1), client: None, stage: BootStage::DhcpOffer, note: String::new() });
    let boot = boot_with(&rig.store, mac(1), BootStage::DhcpOffer).await;
    assert_eq!(boot.marks.len(), 2);
    assert!(boot.marks[0].count < 100, "{}", boot.marks[0].count);
}

#[tokio::test]
async fn tftp_gives_the_loaders_and_the_first_script_and_nothing_else() {
    let rig = rig().await;
    let peer = "127.0.0.1:1077".parse().expect("address");
    for name in ["undionly.kpxe", "/snponly.efi", "52-54-00-77-00-01/ipxe.efi"] {
        assert!(rig.desk.open(peer, name).await.is_ok(), "{name}");
    }
    let script = rig.desk.open(peer, "52-54-00-77-00-01/autoexec.ipxe").await.expect("script");
    assert!(script.starts_with(b"#!ipxe\n"));
    for name in ["", "key", "hostler.db", "../key", "SHA256SUMS", "vmlinuz", "52-54-00-77-00-01/../key", "revocations_sku.efi"] {
        assert_eq!(rig.desk.open(peer, name).await, Err(TftpRefusal::NotFound), "{name}");
    }
}

#[tokio::test]
async fn leases_are_read_back_as_they_were_stored_and_the_last_one_counts() {
    let rig = rig().await;
    let lease = |n: u8, m: u8, until: i64| DhcpLease {
        address: Ipv4Addr::new(10, 0, 0, n),
        mac: mac(m),
        until: Timestamp(until),
        declined: n == 9,
        hostname: (m == 2).then(|| "node".to_owned()),
    };
    rig.desk.keep_leases(vec![lease(8, 1, 10), lease(9, 2, 20), lease(8, 3, 30)]).await.expect("stored");
    rig.desk.keep_leases((0..200).map(|n| lease(n, 4, 40)).filter(|l| l.address.octets()[3] > 9).collect()).await.expect("stored");
    let mut all = rig.store.dhcp_leases().await.expect("leases");
    all.sort_by_key(|l| l.address);
    assert_eq!(all[..2], [lease(8, 3, 30), lease(9, 2, 20)]);
    assert_eq!(all.len(), 192);
}
