//! The DHCP server over real sockets. The client acts as a relay agent on another port (RFC 8357), so no test needs
//! root, port 67 or a broadcast.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hostler::decide::boot::{BootAnswer, BootFacts, BootMachine, BootRequest, answer};
use hostler::domain::boot::BootStage;
use hostler::domain::id::{Mac, MachineId};
use hostler::domain::lease::DhcpLease;
use hostler::domain::machine::Lifecycle;
use hostler::domain::time::Timestamp;
use hostler::netboot::dhcp::{DhcpConfig, DhcpDesk, DhcpMode, DhcpServer};
use hostler::netboot::leases::Subnet;
use hostler::netboot::socket::Interface;
use hostler::netboot::{Asker, Sign};
use hostler::wire::dhcp::{DhcpReply, DhcpRequest, Relay, ReplyKind, RequestKind, Speaker, VendorClass};
use tokio::net::UdpSocket;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(10);
const US: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Long enough for a reply on loopback that would be wrong; nothing waits for it when all is well.
const SILENCE: Duration = Duration::from_millis(300);

#[derive(Default)]
struct Desk {
    signs: Mutex<Vec<Sign>>,
    kept: Mutex<Vec<DhcpLease>>,
    learned: Mutex<HashMap<Ipv4Addr, Mac>>,
    active: Mutex<Vec<Mac>>,
    store_fails: Mutex<bool>,
}

impl DhcpDesk for Desk {
    async fn boot(&self, who: Asker, request: BootRequest) -> Result<BootAnswer, String> {
        let active = self.active.lock().expect("lock").contains(&who.mac);
        let machine = active.then(|| BootMachine {
            id: MachineId(uuid::Uuid::from_u128(1)),
            lifecycle: Lifecycle::Active,
            boot_intent: None,
            expected_only: false,
        });
        Ok(answer(&BootFacts { machine, discover: true }, &request))
    }

    async fn keep_leases(&self, leases: Vec<DhcpLease>) -> Result<(), String> {
        if *self.store_fails.lock().expect("lock") {
            return Err("the disk is full".into());
        }
        self.kept.lock().expect("lock").extend(leases);
        Ok(())
    }

    fn sign(&self, sign: Sign) {
        self.signs.lock().expect("lock").push(sign);
    }

    fn learn(&self, address: Ipv4Addr, mac: Mac) {
        self.learned.lock().expect("lock").insert(address, mac);
    }
}

struct Rig {
    desk: Arc<Desk>,
    main: SocketAddr,
    pxe: Option<SocketAddr>,
    client: UdpSocket,
    stop: CancellationToken,
}

impl Rig {
    async fn start(mode: DhcpMode, leases: Vec<DhcpLease>) -> Self {
        let desk = Arc::new(Desk::default());
        let http = "http://127.0.0.1:8081".parse().expect("url");
        let mut config = DhcpConfig::new(Interface::find("127.0.0.1").expect("loopback"), mode, http);
        (config.server_port, config.client_port, config.pxe_port) = (0, 0, 0);
        let server = DhcpServer::bind(config, Arc::clone(&desk), leases).expect("bind");
        let (main, pxe) = (server.local_addr().expect("address"), server.pxe_addr());
        let stop = CancellationToken::new();
        tokio::spawn(server.run(stop.clone()));
        let client = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
        Self { desk, main, pxe, client, stop }
    }

    async fn proxy() -> Self {
        Self::start(DhcpMode::Proxy, vec![]).await
    }

    async fn authoritative() -> Self {
        Self::start(pool(), vec![]).await
    }

    async fn ask_at(&self, to: SocketAddr, request: &DhcpRequest) -> Option<DhcpReply> {
        self.client.send_to(&request.encode(), to).await.expect("send");
        self.heard(PATIENCE, request.xid).await
    }

    async fn ask(&self, request: &DhcpRequest) -> DhcpReply {
        self.ask_at(self.main, request).await.expect("a reply in time")
    }

    /// Sends a request that must stay unanswered.
    async fn silent(&self, request: &DhcpRequest) {
        self.client.send_to(&request.encode(), self.main).await.expect("send");
        assert_eq!(self.heard(SILENCE, request.xid).await, None);
    }

    async fn heard(&self, patience: Duration, xid: u32) -> Option<DhcpReply> {
        let mut buffer = [0; 2000];
        loop {
            let (len, _) = timeout(patience, self.client.recv_from(&mut buffer)).await.ok()?.expect("receive");
            let reply = DhcpReply::parse(&buffer[..len]).expect("a DHCP reply");
            if reply.xid == xid {
                return Some(reply);
            }
        }
    }

    fn stages(&self, mac: Mac) -> Vec<BootStage> {
        self.desk.signs.lock().expect("lock").iter().filter(|s| s.mac == mac).map(|s| s.stage).collect()
    }

    fn note(&self, stage: BootStage) -> String {
        let signs = self.desk.signs.lock().expect("lock");
        signs.iter().rev().find(|s| s.stage == stage).map(|s| s.note.clone()).unwrap_or_default()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn pool() -> DhcpMode {
    pool_of(10, 12)
}

fn pool_of(first: u8, last: u8) -> DhcpMode {
    let subnet = Subnet {
        network: Ipv4Addr::new(127, 0, 0, 0),
        prefix: 8,
        pool: Ipv4Addr::new(127, 64, 0, first)..=Ipv4Addr::new(127, 64, 0, last),
        routers: vec![US],
        dns: vec![Ipv4Addr::new(127, 0, 0, 53)],
        domain: Some("rack.test".into()),
        lease: Duration::from_secs(600),
    };
    DhcpMode::Authoritative { subnets: vec![subnet], reservations: vec![(mac(99), Ipv4Addr::new(127, 64, 0, 99))] }
}

fn mac(n: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0x77, 0, n])
}

/// A client behind a relay on a port of its own, with a new transaction each time.
fn client(n: u8) -> DhcpRequest {
    DhcpRequest { giaddr: Some(US), hops: 1, relay: Some(Relay::with_source_port()), ..DhcpRequest::discover(mac(n), rand::random()) }
}

fn edk2(n: u8) -> DhcpRequest {
    DhcpRequest {
        vendor_class: VendorClass::Pxe,
        archs: vec![7],
        undi: Some([1, 3, 0]),
        client_uuid: Some(vec![0; 17]),
        broadcast: true,
        ..client(n)
    }
}

fn bios(n: u8) -> DhcpRequest {
    DhcpRequest { archs: vec![0], undi: Some([1, 2, 1]), ..edk2(n) }
}

fn ipxe(n: u8) -> DhcpRequest {
    DhcpRequest { speaker: Speaker::Ipxe, undi: Some([1, 3, 10]), ..edk2(n) }
}

fn http_boot(n: u8) -> DhcpRequest {
    DhcpRequest { vendor_class: VendorClass::Http, archs: vec![16], ..edk2(n) }
}

fn request(of: &DhcpRequest, offer: &DhcpReply) -> DhcpRequest {
    DhcpRequest {
        kind: RequestKind::Request,
        xid: rand::random(),
        requested: offer.address.as_ref().and_then(|a| a.yiaddr),
        server_id: Some(offer.server_id),
        ..of.clone()
    }
}

fn address(reply: &DhcpReply) -> Ipv4Addr {
    reply.address.as_ref().and_then(|a| a.yiaddr).expect("an address")
}

fn file(reply: &DhcpReply) -> &str {
    reply.boot.as_ref().map_or("", |b| b.file.as_str())
}

#[tokio::test]
async fn a_proxy_offer_has_what_edk2_needs_and_no_address() {
    let rig = Rig::proxy().await;
    let offer = rig.ask(&edk2(1)).await;
    assert_eq!((offer.kind, &offer.address, offer.server_id), (ReplyKind::Offer, &None, US));
    assert_eq!((offer.vendor_class.clone(), offer.pxe_direct), (VendorClass::Pxe, true));
    assert_eq!((file(&offer), offer.boot.as_ref().map(|b| b.server)), ("52-54-00-77-00-01/snponly.efi", Some(US)));
    assert_eq!(offer.client_uuid, Some(vec![0; 17]));
    assert_eq!(rig.stages(mac(1)), [BootStage::DhcpDiscover, BootStage::DhcpOffer]);
    assert!(rig.note(BootStage::DhcpOffer).contains("snponly.efi. An unknown machine"));
}

#[tokio::test]
async fn each_client_is_offered_its_loader() {
    let rig = Rig::proxy().await;
    assert_eq!(file(&rig.ask(&bios(1)).await), "52-54-00-77-00-01/undionly.kpxe");
    assert_eq!(file(&rig.ask(&DhcpRequest { archs: vec![9], ..edk2(2) }).await), "52-54-00-77-00-02/snponly.efi");
    let http = rig.ask(&http_boot(3)).await;
    assert_eq!(file(&http), "http://127.0.0.1:8081/boot/file/52-54-00-77-00-03/ipxe.efi");
    assert_eq!((http.vendor_class, http.pxe_direct, http.address), (VendorClass::Http, false, None));
}

#[tokio::test]
async fn ipxe_gets_the_script_so_no_loop_forms() {
    for rig in [Rig::proxy().await, Rig::authoritative().await] {
        let offer = rig.ask(&ipxe(1)).await;
        assert_eq!(file(&offer), "http://127.0.0.1:8081/boot/file/autoexec.ipxe");
        assert_eq!(offer.ipxe_no_proxy, rig.pxe.is_none(), "with addresses from us there is no proxy to wait for");
    }
}

#[tokio::test]
async fn port_4011_answers_where_the_question_came_from() {
    let rig = Rig::proxy().await;
    let pxe = rig.pxe.expect("proxy mode");
    let ask = DhcpRequest { kind: RequestKind::Request, ciaddr: Some(Ipv4Addr::new(127, 0, 0, 9)), giaddr: None, relay: None, ..edk2(1) };
    let ack = rig.ask_at(pxe, &ask).await.expect("an ACK");
    assert_eq!((ack.kind, ack.vendor_class.clone(), file(&ack)), (ReplyKind::Ack, VendorClass::Pxe, "52-54-00-77-00-01/snponly.efi"));
    let ack = rig.ask_at(pxe, &DhcpRequest { server_id: Some(US), xid: 5, speaker: Speaker::Ipxe, ..ask }).await.expect("an ACK");
    assert_eq!(file(&ack), "http://127.0.0.1:8081/boot/file/autoexec.ipxe");
    assert_eq!(rig.desk.learned.lock().expect("lock").get(&Ipv4Addr::new(127, 0, 0, 9)), Some(&mac(1)));
}

#[tokio::test]
async fn a_proxy_is_silent_to_operating_systems_and_sends_known_machines_to_their_disk() {
    let rig = Rig::proxy().await;
    rig.desk.active.lock().expect("lock").push(mac(1));
    rig.silent(&client(2)).await;
    assert_eq!(rig.stages(mac(2)), []);
    assert_eq!(file(&rig.ask(&edk2(1)).await), "52-54-00-77-00-01/local-x64.efi", "UEFI goes to its disk through GRUB");
    assert_eq!(rig.stages(mac(1)), [BootStage::DhcpDiscover, BootStage::LocalDisk, BootStage::DhcpOffer]);
    assert_eq!(file(&rig.ask(&bios(1)).await), "52-54-00-77-00-01/undionly.kpxe", "BIOS goes to its disk through iPXE");
}

#[tokio::test]
async fn a_proxy_learns_addresses_from_the_requests_to_the_other_server() {
    let rig = Rig::proxy().await;
    let other = Ipv4Addr::new(127, 0, 0, 2);
    let ask = DhcpRequest { kind: RequestKind::Request, requested: Some(Ipv4Addr::new(127, 9, 9, 9)), server_id: Some(other), ..edk2(1) };
    rig.silent(&ask).await;
    assert_eq!(rig.desk.learned.lock().expect("lock").get(&Ipv4Addr::new(127, 9, 9, 9)), Some(&mac(1)));
    assert_eq!(rig.note(BootStage::DhcpRequest), "127.9.9.9 from 127.0.0.2");
}

#[tokio::test]
async fn an_address_is_acknowledged_only_when_its_lease_is_stored() {
    let rig = Rig::authoritative().await;
    let discover = edk2(1);
    let offer = rig.ask(&discover).await;
    assert_eq!(
        (offer.kind, address(&offer), offer.vendor_class.clone()),
        (ReplyKind::Offer, Ipv4Addr::new(127, 64, 0, 10), VendorClass::Other)
    );
    *rig.desk.store_fails.lock().expect("lock") = true;
    rig.silent(&request(&discover, &offer)).await;
    *rig.desk.store_fails.lock().expect("lock") = false;
    let ack = rig.ask(&request(&discover, &offer)).await;
    assert_eq!((ack.kind, address(&ack)), (ReplyKind::Ack, address(&offer)));
    let a = ack.address.as_ref().expect("address");
    assert_eq!(
        (a.lease_secs, a.subnet_mask, &a.routers, a.domain.as_deref()),
        (Some(600), Ipv4Addr::new(255, 0, 0, 0), &vec![US], Some("rack.test"))
    );
    assert_eq!(file(&ack), "52-54-00-77-00-01/snponly.efi");
    let kept = rig.desk.kept.lock().expect("lock").clone();
    assert_eq!(kept.iter().map(|l| (l.address, l.mac, l.declined)).collect::<Vec<_>>(), [(address(&offer), mac(1), false)]);
    assert_eq!(rig.stages(mac(1))[..3], [BootStage::DhcpDiscover, BootStage::DhcpOffer, BootStage::DhcpRequest]);
}

#[tokio::test]
async fn a_uefi_machine_that_boots_its_disk_gets_an_address_and_the_disk_loader() {
    let rig = Rig::authoritative().await;
    rig.desk.active.lock().expect("lock").push(mac(1));
    let offer = rig.ask(&edk2(1)).await;
    assert_eq!((file(&offer), address(&offer)), ("52-54-00-77-00-01/local-x64.efi", Ipv4Addr::new(127, 64, 0, 10)));
    assert!(rig.note(BootStage::LocalDisk).contains("boots its disk"));
}

#[tokio::test]
async fn renewals_are_unicast_requests_with_ciaddr() {
    let rig = Rig::authoritative().await;
    let renew = DhcpRequest { kind: RequestKind::Request, ciaddr: Some(Ipv4Addr::new(127, 64, 0, 11)), ..client(1) };
    let ack = rig.ask(&renew).await;
    assert_eq!((ack.kind, address(&ack), ack.ciaddr), (ReplyKind::Ack, Ipv4Addr::new(127, 64, 0, 11), renew.ciaddr));
}

#[tokio::test]
async fn a_wrong_address_is_refused_with_a_reason() {
    let rig = Rig::authoritative().await;
    let ask = DhcpRequest { kind: RequestKind::Request, requested: Some(Ipv4Addr::new(192, 168, 1, 5)), ..client(1) };
    let nak = rig.ask(&ask).await;
    assert_eq!((nak.kind, nak.broadcast), (ReplyKind::Nak, true));
    assert!(nak.message.is_some_and(|m| m.contains("192.168.1.5 is not an address of 127.0.0.0/8")));
}

#[tokio::test]
async fn a_reserved_address_is_given_to_its_machine() {
    let rig = Rig::authoritative().await;
    assert_eq!(address(&rig.ask(&client(99)).await), Ipv4Addr::new(127, 64, 0, 99));
}

#[tokio::test]
async fn declined_and_released_addresses_are_stored_as_such() {
    let rig = Rig::authoritative().await;
    let offer = rig.ask(&client(1)).await;
    rig.ask(&request(&client(1), &offer)).await;
    let decline = DhcpRequest { kind: RequestKind::Decline, requested: Some(address(&offer)), server_id: Some(US), ..client(1) };
    rig.client.send_to(&decline.encode(), rig.main).await.expect("send");
    let second = rig.ask(&client(1)).await;
    assert_eq!(address(&second), Ipv4Addr::new(127, 64, 0, 11));
    rig.ask(&request(&client(1), &second)).await;
    let release = DhcpRequest { kind: RequestKind::Release, ciaddr: Some(address(&second)), ..client(1) };
    rig.client.send_to(&release.encode(), rig.main).await.expect("send");
    let third = rig.ask(&client(2)).await;
    rig.ask(&request(&client(2), &third)).await;
    let kept = rig.desk.kept.lock().expect("lock").clone();
    let ends: Vec<_> = kept.iter().map(|l| (l.address.octets()[3], l.declined)).collect();
    assert_eq!(ends, [(10, false), (10, true), (11, false), (11, false), (12, false)]);
}

#[tokio::test]
async fn a_full_pool_is_said_in_the_boot_timeline() {
    let rig = Rig::start(pool_of(10, 10), vec![]).await;
    let offer = rig.ask(&edk2(1)).await;
    rig.ask(&request(&edk2(1), &offer)).await;
    rig.silent(&edk2(2)).await;
    assert!(rig.note(BootStage::DhcpDiscover).starts_with("the DHCP pool 127.64.0.10-127.64.0.10 is full: 1 addresses are leased"));
}

#[tokio::test]
async fn a_client_that_chose_another_server_is_noted_with_its_address() {
    let rig = Rig::start(pool_of(10, 10), vec![]).await;
    let offer = rig.ask(&edk2(1)).await;
    rig.silent(&DhcpRequest { server_id: Some(Ipv4Addr::new(10, 0, 0, 1)), ..request(&edk2(1), &offer) }).await;
    assert_eq!(rig.note(BootStage::DhcpOther), "10.0.0.1");
    assert!(rig.desk.kept.lock().expect("lock").is_empty());
    assert_eq!(address(&rig.ask(&client(2)).await), address(&offer), "its offer was withdrawn");
}

#[tokio::test]
async fn stored_leases_are_respected_after_a_restart() {
    let until = Timestamp(i64::MAX / 2);
    let lease = |n: u8, m: u8| DhcpLease { address: Ipv4Addr::new(127, 64, 0, n), mac: mac(m), until, declined: false, hostname: None };
    let rig = Rig::start(pool(), vec![lease(10, 7), lease(12, 1)]).await;
    assert_eq!(address(&rig.ask(&client(1)).await), Ipv4Addr::new(127, 64, 0, 12));
    assert_eq!(address(&rig.ask(&client(2)).await), Ipv4Addr::new(127, 64, 0, 11));
}

#[tokio::test]
async fn inform_is_answered_without_an_address() {
    let rig = Rig::authoritative().await;
    let inform = DhcpRequest { kind: RequestKind::Inform, ciaddr: Some(Ipv4Addr::new(127, 0, 0, 9)), ..client(1) };
    let ack = rig.ask(&inform).await;
    let a = ack.address.expect("options");
    assert_eq!((ack.kind, a.yiaddr, a.lease_secs, a.routers), (ReplyKind::Ack, None, None, vec![US]));
}

#[tokio::test]
async fn a_client_behind_an_unknown_relay_is_not_answered() {
    let rig = Rig::authoritative().await;
    let mut far = edk2(1);
    far.relay = Some(Relay { raw: vec![5, 4, 10, 44, 0, 0, 19, 0], link: Some(Ipv4Addr::new(10, 44, 0, 0)), source_port: true });
    rig.silent(&far).await;
    assert_eq!(rig.note(BootStage::DhcpDiscover), "no DHCP subnet is configured for 10.44.0.0");
}
