//! The engine from hello to active and back, on both engines of the store, with an agent played by the test through the
//! same intake that the HTTP routes use. No BMC: the machine is switched by hand.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hostler::app::intake::{Intake, IntakeError};
use hostler::bmc::{BmcSettings, Bmcs};
use hostler::clock;
use hostler::domain::boot::Arch;
use hostler::domain::id::{Mac, MachineId, RunId, Sha256};
use hostler::domain::image::{Image, ImageFormat};
use hostler::domain::inventory::{Disk, DiskRef, Inventory, Nic};
use hostler::domain::machine::{DeploySpec, Lifecycle, Want};
use hostler::domain::notice::{NoticeKind, Subject};
use hostler::domain::power::FirmwareKind;
use hostler::domain::secret::Secret;
use hostler::domain::work::StepKind;
use hostler::engine::{Engine, EngineSettings};
use hostler::netboot::peers::Peers;
use hostler::secret::Sealer;
use hostler::store::Store;
use hostler::store::agent::AgentSession;
use hostler::wire::agent::{Hello, Order, PROTOCOL, Task, TaskResult, WipeEvidence, WipedDisk};

use crate::support::engines::both;

/// Loopback: nothing is known about it.
pub(crate) const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub(crate) const MAC: Mac = Mac([0x52, 0x54, 0, 0x77, 0, 1]);

pub(crate) struct Site {
    pub store: Store,
    pub engine: Engine,
    pub intake: Intake,
}

impl Site {
    pub fn on(store: &Store) -> Self {
        let intake = Intake::new(store.clone(), Peers::new(store.clone(), true));
        Self { store: store.clone(), engine: engine(store), intake }
    }

    /// Lets the engine work until nothing is due right now.
    pub async fn work(&self) {
        for _ in 0..50 {
            let worked = self.engine.tick().await.unwrap();
            self.engine.settle().await;
            if !worked {
                return;
            }
        }
        panic!("the engine never rests");
    }

    /// A boot of the machine with this serial, as the desk would have led it here.
    pub async fn boot(&self, nonce: &str, inventory: Inventory) -> Result<(MachineId, AgentSession), IntakeError> {
        let known = self.store.machines_by_evidence(None, inventory.system.serial.as_ref(), &[], None).await.unwrap();
        self.nonce(nonce, inventory.nics[0].mac, known.first().map(|m| m.id)).await;
        let hello = Hello { protocol: PROTOCOL, nonce: nonce.to_owned(), session: clock::fresh_uuid(), inventory };
        let welcome = self.intake.hello(hello, HERE).await?;
        let session = self.intake.session(&welcome.token).await?;
        Ok((welcome.machine, session))
    }

    pub async fn nonce(&self, nonce: &str, mac: Mac, machine: Option<MachineId>) {
        let mut tx = self.store.begin().await.unwrap();
        tx.insert_boot_nonce(nonce, mac, machine, clock::now()).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub async fn lifecycle(&self, id: MachineId) -> Lifecycle {
        self.store.machine(id).await.unwrap().unwrap().lifecycle
    }

    pub async fn want(&self, id: MachineId, want: Want) {
        let mut m = self.store.machine(id).await.unwrap().unwrap();
        m.want = want;
        let mut tx = self.store.begin().await.unwrap();
        tx.update_machine(&m, Some(clock::now())).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub async fn task(&self, session: &AgentSession) -> Task {
        self.work().await;
        self.intake.next_task(session, Duration::ZERO).await.unwrap().expect("an order")
    }

    pub async fn done(&self, session: &AgentSession, task: &Task) {
        let evidence = match &task.order {
            Order::WipeDisks(wipe) => wiped(&wipe.disks),
            Order::Inventory | Order::WriteImage(_) | Order::RebootToDisk { .. } | Order::Reboot | Order::PowerOff => {
                serde_json::json!({ "test": true })
            }
        };
        self.done_with(session, task, evidence).await;
    }

    pub async fn done_with(&self, session: &AgentSession, task: &Task, evidence: serde_json::Value) {
        self.intake.result(session, task.id, TaskResult::Ok { evidence }).await.unwrap();
        self.work().await;
    }

    pub async fn run(&self, id: MachineId) -> RunId {
        self.store.machine(id).await.unwrap().unwrap().current_run.unwrap()
    }
}

/// What the agent tells after it read all of these back.
pub(crate) fn wiped(disks: &[DiskRef]) -> serde_json::Value {
    let told = disks.iter().map(|d| WipedDisk {
        serial: d.serial.clone(),
        wwn: d.wwn.clone(),
        size_bytes: d.size_bytes,
        bytes_read_back: d.size_bytes,
        ..WipedDisk::default()
    });
    serde_json::to_value(WipeEvidence { disks: told.collect() }).unwrap()
}

fn engine(store: &Store) -> Engine {
    let settings =
        EngineSettings { owner: clock::fresh_uuid().to_string(), netboot_url: "http://127.0.0.1:1".to_owned(), power_off_ready: true };
    Engine::new(store.clone(), Bmcs::new(BmcSettings::default()), Sealer::from_key(&Secret::new([7; 32])), settings)
}

pub(crate) fn inventory() -> Inventory {
    let mut inv = Inventory {
        arch: Some(Arch::X86_64),
        memory_bytes: 1 << 30,
        disks: vec![Disk {
            name: "vda".into(),
            serial: Some("DISK1".parse().unwrap()),
            size_bytes: 4 << 30,
            transport: "virtio".into(),
            ..Disk::default()
        }],
        nics: vec![Nic { name: "eth0".into(), mac: MAC, speed_mbps: None, carrier: true, driver: None, pci_address: None, lldp: None }],
        ..Inventory::default()
    };
    inv.system.serial = Some("LAB0001".parse().unwrap());
    inv.firmware.kind = Some(FirmwareKind::Uefi);
    inv
}

fn image() -> Image {
    Image {
        name: "debian-12".parse().unwrap(),
        arch: Arch::X86_64,
        format: ImageFormat::RawZst,
        size_bytes: 1000,
        sha256: Sha256([1; 32]),
        raw_size_bytes: 1 << 30,
        raw_sha256: Sha256([2; 32]),
        boots_on: vec![FirmwareKind::Bios, FirmwareKind::Uefi],
        default_user: "debian".to_owned(),
        imported_at: clock::now(),
    }
}

pub(crate) fn deploy() -> Want {
    Want::Deploy(Box::new(DeploySpec {
        image: "debian-12".parse().unwrap(),
        hostname: Some("web-1".parse().unwrap()),
        ssh_keys: vec!["ssh-ed25519 AAAA kim".to_owned()],
        user_data: None,
        network_config: None,
        disk: None,
    }))
}

/// Discovered, accepted, enrolled.
pub(crate) async fn ready(site: &Site) -> (MachineId, AgentSession) {
    let (id, session) = site.boot("n1", inventory()).await.unwrap();
    site.work().await;
    assert_eq!(site.lifecycle(id).await, Lifecycle::Discovered);
    assert_eq!(site.intake.next_task(&session, Duration::ZERO).await.unwrap(), None, "nothing is ordered before acceptance");
    site.want(id, Want::Enroll).await;
    let task = site.task(&session).await;
    assert_eq!(task.order, Order::Inventory);
    site.intake.inventory(&session, inventory()).await.unwrap();
    site.done(&session, &task).await;
    assert_eq!(site.lifecycle(id).await, Lifecycle::Ready);
    (id, session)
}

pub(crate) async fn with_image(site: &Site) {
    let mut tx = site.store.begin().await.unwrap();
    tx.put_image(&image()).await.unwrap();
    tx.commit().await.unwrap();
}

pub(crate) fn phone_token(task: &Task) -> String {
    let Order::WriteImage(write) = &task.order else { panic!("{:?}", task.order) };
    let vendor = &write.seed.as_ref().unwrap().vendor_data;
    vendor.split("/phone-home/").nth(1).unwrap().chars().take_while(char::is_ascii_hexdigit).collect()
}

#[tokio::test]
async fn a_machine_goes_from_hello_to_active_and_back_to_ready() {
    for on in both().await {
        let site = Site::on(&on.store);
        let (id, session) = ready(&site).await;
        with_image(&site).await;
        site.want(id, deploy()).await;
        let task = site.task(&session).await;
        let Order::WriteImage(write) = &task.order else { panic!("{}: {:?}", on.name, task.order) };
        assert_eq!(write.disk.serial.as_ref().unwrap().as_str(), "DISK1");
        assert!(write.seed.as_ref().unwrap().meta_data.contains("local-hostname: \"web-1\""));
        assert_eq!(
            site.store.machine(id).await.unwrap().unwrap().written_disks,
            vec![write.disk.clone()],
            "counts as ours before the first byte"
        );
        site.done(&session, &task).await;
        let reboot = site.task(&session).await;
        assert!(matches!(reboot.order, Order::RebootToDisk { .. }));
        site.done(&session, &reboot).await;
        assert_eq!(site.lifecycle(id).await, Lifecycle::Deploying);
        assert!(site.intake.phone_home(&phone_token(&task), "hostname=web-1").await.unwrap());
        assert!(!site.intake.phone_home(&phone_token(&task), "hostname=evil").await.unwrap(), "once");
        site.work().await;
        assert_eq!(site.lifecycle(id).await, Lifecycle::Active);

        site.want(id, Want::Release).await;
        site.work().await;
        let (again, session) = site.boot("n2", inventory()).await.unwrap();
        assert_eq!(again, id);
        let wipe = site.task(&session).await;
        let Order::WipeDisks(order) = &wipe.order else { panic!("{:?}", wipe.order) };
        assert_eq!(order.disks.len(), 1);
        site.done(&session, &wipe).await;
        let m = site.store.machine(id).await.unwrap().unwrap();
        assert_eq!((m.lifecycle, m.image, m.written_disks), (Lifecycle::Ready, None, vec![]), "{}", on.name);
    }
}

/// A machine whose system was written, in its release, its agent there.
async fn releasing(site: &Site, inventory: Inventory) -> (MachineId, AgentSession) {
    let (id, _) = ready(site).await;
    let mut m = site.store.machine(id).await.unwrap().unwrap();
    m.lifecycle = Lifecycle::Active;
    m.written_disks = inventory.disks.iter().take(1).filter_map(DiskRef::to).collect();
    m.want = Want::Release;
    let mut tx = site.store.begin().await.unwrap();
    tx.update_machine(&m, Some(clock::now())).await.unwrap();
    tx.commit().await.unwrap();
    site.work().await;
    site.boot("n2", inventory).await.unwrap()
}

#[tokio::test]
async fn a_wipe_that_is_not_proven_makes_no_machine_ready() {
    for evidence in [serde_json::json!({ "test": true }), wiped(&[])] {
        for on in both().await {
            let site = Site::on(&on.store);
            let (id, session) = releasing(&site, inventory()).await;
            let wipe = site.task(&session).await;
            site.done_with(&session, &wipe, evidence.clone()).await;
            let m = site.store.machine(id).await.unwrap().unwrap();
            let fault = m.fault.expect("a fault");
            assert_eq!((m.lifecycle, fault.code.as_str()), (Lifecycle::Releasing, "wipe_not_proven"), "{}", on.name);
            assert!(fault.what.contains("DISK1"), "{}", fault.what);
            assert_eq!(m.written_disks.len(), 1, "it still counts as holding data");
        }
    }
}

#[tokio::test]
async fn a_disk_that_became_read_only_stops_the_release() {
    for on in both().await {
        let site = Site::on(&on.store);
        let mut worn = inventory();
        worn.disks[0].read_only = true;
        let (id, session) = releasing(&site, worn).await;
        site.work().await;
        assert_eq!(site.intake.next_task(&session, Duration::ZERO).await.unwrap(), None, "nothing is ordered");
        let m = site.store.machine(id).await.unwrap().unwrap();
        let fault = m.fault.expect("a fault");
        assert_eq!((m.lifecycle, fault.code.as_str()), (Lifecycle::Releasing, "disk_not_wipeable"), "{}", on.name);
        assert!(fault.remedy.contains("take the disk out"), "{}", fault.remedy);
        assert_eq!(m.written_disks.len(), 1);
    }
}

#[tokio::test]
async fn a_restarted_service_follows_the_same_order_and_gives_no_second_one() {
    for on in both().await {
        let site = Site::on(&on.store);
        let (id, session) = ready(&site).await;
        with_image(&site).await;
        site.want(id, deploy()).await;
        let task = site.task(&session).await;
        for _ in 0..3 {
            // Another process takes over once the claims of the one before ran out; nothing of it is left but the rows.
            let site = Site::on(&on.store);
            site.work().await;
            assert_eq!(site.intake.next_task(&session, Duration::ZERO).await.unwrap(), Some(task.clone()), "{}", on.name);
        }
        let run = site.run(id).await;
        let step = site.store.run(run).await.unwrap().unwrap().steps.into_iter().find(|s| s.kind == StepKind::WriteImage).unwrap();
        assert_eq!(site.store.attempts(step.id).await.unwrap().len(), 1, "{}", on.name);
    }
}

#[tokio::test]
async fn a_failed_write_stops_with_a_fault_that_says_what_to_do() {
    for on in both().await {
        let site = Site::on(&on.store);
        let (id, session) = ready(&site).await;
        with_image(&site).await;
        site.want(id, deploy()).await;
        let task = site.task(&session).await;
        let failed =
            TaskResult::Failed { code: "hash_mismatch".into(), message: "the image is not what was promised".into(), retry: false };
        site.intake.result(&session, task.id, failed).await.unwrap();
        site.work().await;
        let m = site.store.machine(id).await.unwrap().unwrap();
        let told = site.store.notices_of(Subject::Run(m.current_run.unwrap())).await.unwrap();
        assert_eq!(told.iter().map(|n| (n.notice.kind, n.notice.event.as_str())).collect::<Vec<_>>(), [(NoticeKind::Opened, "run.failed")]);
        let fault = m.fault.unwrap();
        assert_eq!((m.lifecycle, fault.code.as_str()), (Lifecycle::Deploying, "hash_mismatch"), "{}", on.name);
        assert!(!fault.remedy.is_empty());
        assert_eq!(site.intake.next_task(&session, Duration::ZERO).await.unwrap(), None, "nothing more is ordered");
    }
}

#[tokio::test]
async fn an_agent_of_another_machine_cannot_use_a_boot_that_was_not_its_own() {
    for on in both().await {
        let site = Site::on(&on.store);
        site.nonce("stolen", Mac([2, 2, 2, 2, 2, 2]), None).await;
        let hello = Hello { protocol: PROTOCOL, nonce: "stolen".to_owned(), session: clock::fresh_uuid(), inventory: inventory() };
        assert!(matches!(site.intake.hello(hello, HERE).await, Err(IntakeError::Refused(_))), "{}", on.name);
        assert!(site.store.machines().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_machine_that_never_was_accepted_is_never_ordered_to_write() {
    for on in both().await {
        let site = Site::on(&on.store);
        let (id, session) = site.boot("n1", inventory()).await.unwrap();
        with_image(&site).await;
        for want in [deploy(), Want::Release] {
            site.want(id, want).await;
            site.work().await;
            assert_eq!(site.intake.next_task(&session, Duration::ZERO).await.unwrap(), None, "{}", on.name);
            assert_eq!(site.lifecycle(id).await, Lifecycle::Discovered);
        }
    }
}

#[tokio::test]
async fn an_active_machine_that_booted_the_ramdisk_is_sent_to_its_disk() {
    for on in both().await {
        let site = Site::on(&on.store);
        let (id, _) = site.boot("n1", inventory()).await.unwrap();
        let mut m = site.store.machine(id).await.unwrap().unwrap();
        m.lifecycle = Lifecycle::Active;
        let mut tx = site.store.begin().await.unwrap();
        tx.update_machine(&m, None).await.unwrap();
        tx.commit().await.unwrap();
        let (_, session) = site.boot("n2", inventory()).await.unwrap();
        let task = site.intake.next_task(&session, Duration::ZERO).await.unwrap().unwrap();
        assert!(matches!(task.order, Order::RebootToDisk { .. }), "{}: {:?}", on.name, task.order);
    }
}

#[tokio::test]
async fn a_swapped_network_card_is_an_event_and_two_machines_with_one_uuid_stay_two() {
    for on in both().await {
        let site = Site::on(&on.store);
        let mut first = inventory();
        first.system.uuid = Some("11223344-5566-4788-9900-525400770001".parse().unwrap());
        let (id, _) = site.boot("n1", first.clone()).await.unwrap();
        let mut swapped = first.clone();
        swapped.nics[0].mac = Mac([2, 0, 0, 0, 0, 8]);
        let (same, _) = site.boot("n2", swapped).await.unwrap();
        assert_eq!(same, id, "{}", on.name);
        let events = site.store.events(hostler::store::events::EventFilter { machine: Some(id), ..Default::default() }, 100).await.unwrap();
        assert!(events.iter().any(|e| e.kind == "machine.nic_swapped"), "{events:?}");
        assert_eq!(site.store.machine(id).await.unwrap().unwrap().macs, vec![Mac([2, 0, 0, 0, 0, 8])]);

        let mut twin = first;
        twin.system.serial = Some("LAB0002".parse().unwrap());
        twin.nics[0].mac = Mac([2, 0, 0, 0, 0, 9]);
        let (other, _) = site.boot("n3", twin).await.unwrap();
        assert_ne!(other, id, "{}", on.name);
    }
}
