//! Which record a machine gets, and what it may not take from another: hellos and inventories against the real intake, both
//! engines of the store.

use std::time::Duration;

use futures_util::future::join_all;
use hostler::app::intake::{Intake, IntakeError};
use hostler::clock;
use hostler::domain::boot::BootStage;
use hostler::domain::event::{NewEvent, Severity};
use hostler::domain::id::{EventId, Mac, MachineId, RunId, Sha256, SystemUuid, TaskId};
use hostler::domain::image::ImageFormat;
use hostler::domain::inventory::{Disk, DiskRef, Inventory, Nic};
use hostler::domain::power::FirmwareKind;
use hostler::domain::work::{Run, RunKind, RunState};
use hostler::engine::sweep::sweep;
use hostler::netboot::peers::Peers;
use hostler::store::events::EventFilter;
use hostler::store::facts::{BootMarkFact, Fact};
use hostler::store::retention::Keep;
use hostler::store::{Store, StoreError};
use hostler::wire::agent::{Hello, Order, PROTOCOL, Seed, TaskResult, Welcome, WriteImage};

use crate::lifecycle::HERE;
use crate::support::engines::both;

fn mac(n: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0x78, 0, n])
}

fn nic(n: u8) -> Nic {
    Nic { name: format!("eth{n}"), mac: mac(n), speed_mbps: None, carrier: true, driver: None, pci_address: None, lldp: None }
}

/// A server with its own serial, UUID, disk and card.
fn inventory(n: u8) -> Inventory {
    let mut inventory = Inventory { nics: vec![nic(n)], ..Inventory::default() };
    inventory.system.serial = Some(format!("SN{n:04}").parse().unwrap());
    inventory.system.uuid = Some(SystemUuid(uuid::Uuid::from_u128(0x1122_3344_5566_4788_9900_5254_0078_0000 + u128::from(n))));
    let serial = format!("DISK{n:04}").parse().unwrap();
    inventory.disks = vec![Disk { name: "sda".into(), serial: Some(serial), size_bytes: 1 << 40, ..Disk::default() }];
    inventory
}

async fn nonce(store: &Store, card: Mac) -> String {
    let nonce = clock::fresh_token();
    let mut tx = store.begin().await.unwrap();
    tx.insert_boot_nonce(&nonce, card, None, clock::now()).await.unwrap();
    tx.commit().await.unwrap();
    nonce
}

async fn hello(store: &Store, inventory: Inventory) -> Result<Welcome, IntakeError> {
    let nonce = nonce(store, inventory.nics[0].mac).await;
    say_hello(store, Hello { protocol: PROTOCOL, nonce, session: clock::fresh_uuid(), inventory }).await
}

fn intake(store: &Store) -> Intake {
    Intake::new(store.clone(), Peers::new(store.clone(), true))
}

async fn say_hello(store: &Store, hello: Hello) -> Result<Welcome, IntakeError> {
    intake(store).hello(hello, HERE).await
}

async fn macs(store: &Store, id: MachineId) -> Vec<Mac> {
    store.machine(id).await.unwrap().unwrap().macs
}

async fn events(store: &Store, id: MachineId, kind: &str) -> usize {
    let all = store.events(EventFilter { machine: Some(id), ..EventFilter::default() }, 100).await.unwrap();
    all.iter().filter(|e| e.kind == kind).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn forty_machines_that_say_hello_at_once_are_all_answered() {
    for on in both().await {
        let hellos = join_all((0..40).map(|n| {
            let store = on.store.clone();
            tokio::spawn(async move { hello(&store, inventory(n)).await })
        }));
        // A pool that waits for itself gives up after 30 s.
        let answers = tokio::time::timeout(Duration::from_secs(20), hellos).await.expect(on.name);
        for answer in answers {
            answer.unwrap().unwrap_or_else(|e| panic!("{}: {e}", on.name));
        }
        assert_eq!(on.store.machines().await.unwrap().len(), 40, "{}", on.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hello_sent_twice_at_once_makes_one_record() {
    for on in both().await {
        for n in 0..10 {
            let one = inventory(n);
            let nonce = nonce(&on.store, mac(n)).await;
            let session = clock::fresh_uuid();
            let answers = join_all((0..4).map(|_| {
                let (store, inventory, nonce) = (on.store.clone(), one.clone(), nonce.clone());
                tokio::spawn(async move { say_hello(&store, Hello { protocol: PROTOCOL, nonce, session, inventory }).await })
            }))
            .await;
            let ids: Vec<MachineId> = answers.into_iter().map(|a| a.unwrap().unwrap().machine).collect();
            assert!(ids.iter().all(|id| *id == ids[0]), "{}: {ids:?}", on.name);
            assert_eq!(on.store.machines().await.unwrap().len(), usize::from(n) + 1, "{}", on.name);
        }
    }
}

#[tokio::test]
async fn an_agent_with_one_field_of_a_known_machine_is_refused() {
    for on in both().await {
        let known = hello(&on.store, inventory(1)).await.unwrap().machine;
        let mut imposter = inventory(2);
        imposter.system.uuid = None;
        imposter.system.serial = inventory(1).system.serial;
        assert!(matches!(hello(&on.store, imposter).await, Err(IntakeError::Refused(_))), "{}", on.name);
        assert_eq!(macs(&on.store, known).await, [mac(1)], "{}", on.name);
        assert_eq!(on.store.machines().await.unwrap().len(), 1, "{}", on.name);
    }
}

#[tokio::test]
async fn a_swapped_card_is_told_and_a_moved_one_is_told_where_it_came_from() {
    for on in both().await {
        let one = hello(&on.store, inventory(1)).await.unwrap().machine;
        let mut two = inventory(2);
        two.nics.push(nic(3));
        let two = hello(&on.store, two).await.unwrap().machine;
        let before = on.store.machine(two).await.unwrap().unwrap();
        // Card 3 moves from the second machine to the first, whose own card is gone.
        let mut swapped = inventory(1);
        swapped.nics = vec![nic(3)];
        assert_eq!(hello(&on.store, swapped).await.unwrap().machine, one, "{}", on.name);
        assert_eq!((macs(&on.store, one).await, macs(&on.store, two).await), (vec![mac(3)], vec![mac(2)]), "{}", on.name);
        assert_eq!((events(&on.store, one, "machine.nic_swapped").await, events(&on.store, two, "machine.nic_moved").await), (1, 1));
        let mut tx = on.store.begin().await.unwrap();
        let late = tx.update_machine(&before, None).await;
        assert!(matches!(late, Err(StoreError::Conflict)), "{}: it would write the card it lost", on.name);
    }
}

#[tokio::test]
async fn an_inventory_is_taken_only_from_the_machine_of_the_session() {
    for on in both().await {
        let victim = hello(&on.store, inventory(1)).await.unwrap().machine;
        let welcome = hello(&on.store, inventory(2)).await.unwrap();
        let intake = intake(&on.store);
        let session = intake.session(&welcome.token).await.unwrap();
        let mut thief = inventory(2);
        thief.nics.push(nic(1));
        let mut renamed = inventory(2);
        renamed.system = inventory(3).system;
        for hostile in [inventory(1), inventory(9), thief, renamed, Inventory::default()] {
            let answer = intake.inventory(&session, hostile).await;
            assert!(matches!(answer, Err(IntakeError::Refused(_))), "{}: {answer:?}", on.name);
        }
        assert_eq!((macs(&on.store, victim).await, macs(&on.store, welcome.machine).await), (vec![mac(1)], vec![mac(2)]), "{}", on.name);
        let mut more = inventory(2);
        more.nics.push(nic(4));
        intake.inventory(&session, more).await.unwrap();
        assert_eq!(macs(&on.store, welcome.machine).await, [mac(2), mac(4)], "{}", on.name);
    }
}

#[tokio::test]
async fn one_fact_that_cannot_be_stored_takes_no_other_down() {
    for on in both().await {
        let machine = hello(&on.store, inventory(1)).await.unwrap().machine;
        let at = clock::now();
        let tasks: Vec<TaskId> = (0..3).map(|_| TaskId(clock::fresh_uuid())).collect();
        for task in &tasks {
            let mut tx = on.store.begin().await.unwrap();
            tx.insert_task(*task, machine, None, &Order::Inventory, at).await.unwrap();
            tx.commit().await.unwrap();
        }
        let phases = ["before", "nul\0", "after"];
        let facts = tasks.iter().zip(phases).map(|(task, phase)| {
            on.store.facts().commit(Fact::TaskProgress { task: *task, machine, at, phase: phase.to_owned(), done: 1, total: 2 })
        });
        // Polled together they wait in the queue together, and the writer takes them as one batch.
        drop(join_all(facts).await);
        for (task, phase) in tasks.iter().zip(phases).filter(|(_, phase)| !phase.contains('\0')) {
            assert_eq!(on.store.task(*task).await.unwrap().unwrap().phase.as_deref(), Some(phase), "{}", on.name);
        }
    }
}

#[tokio::test]
async fn a_packet_fills_the_firmware_kind_only_where_nobody_told_it() {
    for on in both().await {
        let id = hello(&on.store, inventory(1)).await.unwrap().machine;
        let firmware = async |kind| {
            let seen = Fact::Seen { machine: id, at: clock::now(), firmware: Some(kind), arch: None };
            on.store.facts().commit(seen).await.unwrap();
            on.store.machine(id).await.unwrap().unwrap().firmware
        };
        assert_eq!(firmware(FirmwareKind::Uefi).await, Some(FirmwareKind::Uefi), "{}", on.name);
        assert_eq!(firmware(FirmwareKind::Bios).await, Some(FirmwareKind::Uefi), "{}", on.name);
        let mut told = inventory(1);
        told.firmware.kind = Some(FirmwareKind::Bios);
        hello(&on.store, told).await.unwrap();
        assert_eq!(on.store.machine(id).await.unwrap().unwrap().firmware, Some(FirmwareKind::Bios), "the agent knows better");
    }
}

#[tokio::test]
async fn serials_are_found_in_either_case() {
    for on in both().await {
        let id = hello(&on.store, inventory(1)).await.unwrap().machine;
        for text in ["SN0001", "sn0001", "Sn0001"] {
            let found = on.store.find_machines(text).await.unwrap();
            assert_eq!(found.iter().map(|m| m.id).collect::<Vec<_>>(), [id], "{}: {text}", on.name);
            let by = on.store.machines_by_evidence(None, Some(&text.parse().unwrap()), &[], None).await.unwrap();
            assert_eq!(by.len(), 1, "{}: {text}", on.name);
        }
        let mut lower = inventory(1);
        lower.system.serial = Some("sn0001".parse().unwrap());
        assert_eq!(hello(&on.store, lower).await.unwrap().machine, id, "{}", on.name);
    }
}

#[tokio::test]
async fn the_late_answer_of_an_old_bmc_says_nothing_about_the_new_one() {
    for on in both().await {
        let id = hello(&on.store, inventory(1)).await.unwrap().machine;
        let put = async |address: &str| {
            let mut tx = on.store.begin().await.unwrap();
            tx.put_bmc(id, &address.parse().unwrap(), "admin", "sealed").await.unwrap();
            tx.commit().await.unwrap();
            on.store.machine(id).await.unwrap().unwrap().bmc.unwrap()
        };
        let mut old = put("10.0.0.1").await;
        let new = put("10.0.0.2").await;
        old.tls_pin = Some("ab".repeat(32).parse().unwrap());
        old.power = Some(hostler::domain::power::PowerState::On);
        let mut tx = on.store.begin().await.unwrap();
        tx.update_bmc(id, &old).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(on.store.machine(id).await.unwrap().unwrap().bmc, Some(new), "{}", on.name);
    }
}

#[tokio::test]
async fn old_rows_go_and_those_of_a_current_run_stay() {
    const DAY: Duration = Duration::from_secs(86_400);
    for on in both().await {
        let id = hello(&on.store, inventory(1)).await.unwrap().machine;
        let long_ago = clock::now().minus(DAY * 4000);
        let run = |n: u128| Run {
            id: RunId(uuid::Uuid::from_u128(n)),
            machine: id,
            kind: RunKind::Enroll,
            state: RunState::Failed,
            started_at: long_ago,
            ended_at: Some(long_ago),
            actor: "test".into(),
            steps: vec![],
        };
        let mut m = on.store.machine(id).await.unwrap().unwrap();
        m.current_run = Some(run(2).id);
        let mut tx = on.store.begin().await.unwrap();
        for n in [1, 2] {
            tx.insert_run(&run(n)).await.unwrap();
            tx.end_run(run(n).id, id, RunState::Failed, long_ago).await.unwrap();
            tx.insert_phone_home(&format!("token {n}"), id, run(n).id, long_ago).await.unwrap();
        }
        tx.update_machine(&m, None).await.unwrap();
        let event = NewEvent {
            machine: Some(id),
            run: None,
            kind: "test.old",
            severity: Severity::Info,
            text: "long ago".into(),
            actor: "test".into(),
        };
        tx.insert_event(EventId(uuid::Uuid::from_u128(1)), long_ago, &event).await.unwrap();
        tx.commit().await.unwrap();
        for n in 0..30_u8 {
            let mark = BootMarkFact {
                mac: Mac([2, 0, 0, 0, 9, n]),
                machine: None,
                client: None,
                stage: BootStage::DhcpDiscover,
                at: clock::now(),
                note: String::new(),
                fresh: clock::fresh_uuid(),
            };
            on.store.facts().commit(Fact::BootMark(mark)).await.unwrap();
        }
        let keep = Keep { stray_boots: 20, ..Keep::default() };
        sweep(&on.store, &keep).await.unwrap();
        assert!(on.store.run(run(1).id).await.unwrap().is_none(), "{}", on.name);
        assert!(on.store.run(run(2).id).await.unwrap().is_some(), "{}: the machine stands there", on.name);
        assert_eq!(events(&on.store, id, "test.old").await, 0, "{}", on.name);
        assert_eq!(events(&on.store, id, "machine.discovered").await, 1, "{}", on.name);
        assert_eq!(on.store.stray_boots(100).await.unwrap().len(), 20, "{}", on.name);
    }
}

#[tokio::test]
async fn a_finished_order_keeps_no_user_data() {
    for on in both().await {
        let id = hello(&on.store, inventory(1)).await.unwrap().machine;
        let disk = DiskRef { serial: Some("DISK0001".parse().unwrap()), wwn: None, size_bytes: 1 << 40, name_hint: "sda".into() };
        let seed = Seed { meta_data: "m".into(), user_data: "canary".into(), vendor_data: "v".into(), network_config: None };
        let write = WriteImage {
            path: "/boot/image/x".into(),
            format: ImageFormat::Raw,
            size_bytes: 1,
            sha256: Sha256([1; 32]),
            raw_size_bytes: 1,
            raw_sha256: Sha256([1; 32]),
            disk,
            grow: false,
            seed: Some(seed),
            firmware: None,
        };
        let (open, done) = (TaskId(clock::fresh_uuid()), TaskId(clock::fresh_uuid()));
        let mut tx = on.store.begin().await.unwrap();
        for task in [open, done] {
            tx.insert_task(task, id, None, &Order::WriteImage(Box::new(write.clone())), clock::now()).await.unwrap();
        }
        tx.finish_task(done, id, &TaskResult::Ok { evidence: serde_json::json!({}) }, clock::now()).await.unwrap();
        tx.commit().await.unwrap();
        sweep(&on.store, &Keep::default()).await.unwrap();
        let told = async |task| format!("{:?}", on.store.task(task).await.unwrap().unwrap().order).contains("canary");
        assert_eq!((told(open).await, told(done).await), (true, false), "{}", on.name);
    }
}
