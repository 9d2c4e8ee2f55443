//! Orders and commands of runs: what is in flight when a run is given up, which orders an agent takes, and that nothing is
//! sent twice blindly. On both engines of the store.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use hostler::agent::link::{Ending, Hands, Link, Progress};
use hostler::app::intake::blank_machine;
use hostler::bmc::Bmcs;
use hostler::clock;
use hostler::decide::discovery::{Evidence, Source};
use hostler::domain::boot::BootStage;
use hostler::domain::id::{MachineId, RunId, StepId, TaskId};
use hostler::domain::inventory::{DiskRef, Inventory};
use hostler::domain::machine::{Lifecycle, Want};
use hostler::domain::power::{PowerAction, PowerState};
use hostler::domain::secret::Secret;
use hostler::domain::time::Timestamp;
use hostler::domain::work::{Run, RunKind, RunState, Step, StepKind, StepState};
use hostler::engine::{Engine, EngineSettings};
use hostler::http;
use hostler::secret::{Place, Sealer};
use hostler::sim::bmc::{Faults, Reach, SimBmc};
use hostler::store::facts::{BootMarkFact, Fact};
use hostler::store::{Store, StoreError};
use hostler::wire::agent::{Order, TaskResult};
use tokio_util::sync::CancellationToken;

use crate::bmc::kit::{Still, settings, setup, start};
use crate::lifecycle::{MAC, Site, deploy, inventory, ready, with_image};
use crate::support::engines::both;

const LEASE: Duration = Duration::from_secs(60);

/// A machine that was never heard of since it was put on a list.
async fn machine(store: &Store) -> MachineId {
    let id = MachineId(clock::fresh_uuid());
    let evidence = Evidence { uuid: None, serial: "SN00042".parse().ok(), macs: vec![MAC], parts: vec![], source: Source::PackingList };
    let m = blank_machine(id, "lab0001".parse().unwrap(), &evidence, clock::now());
    let mut tx = store.begin().await.unwrap();
    tx.insert_machine(&m).await.unwrap();
    tx.commit().await.unwrap();
    id
}

/// Puts a machine into a run at `kind`, everything before it done, the step due now.
async fn at_step(store: &Store, id: MachineId, run_kind: RunKind, lifecycle: Lifecycle, kind: StepKind) -> (RunId, StepId) {
    let run = RunId(clock::fresh_uuid());
    let now = clock::now();
    let steps: Vec<Step> = hostler::decide::workflow::recipe(run_kind)
        .iter()
        .zip(0..)
        .map(|(kind, index)| Step {
            id: StepId(clock::fresh_uuid()),
            run,
            machine: id,
            index,
            kind: *kind,
            state: StepState::Pending,
            attempts: 0,
            checkpoint: serde_json::Value::Null,
            evidence: serde_json::Value::Null,
            note: String::new(),
            progress: None,
            started_at: None,
            ended_at: None,
            deadline_at: None,
            due_at: now,
            fence: 0,
        })
        .collect();
    let row =
        Run { id: run, machine: id, kind: run_kind, state: RunState::Running, started_at: now, ended_at: None, actor: "t".into(), steps };
    let mut m = store.machine(id).await.unwrap().unwrap();
    m.lifecycle = lifecycle;
    m.current_run = Some(run);
    let mut tx = store.begin().await.unwrap();
    tx.insert_run(&row).await.unwrap();
    tx.update_machine(&m, None).await.unwrap();
    let at = row.steps.iter().find(|s| s.kind == kind).unwrap();
    for before in row.steps.iter().take_while(|s| s.id != at.id) {
        tx.start_step(before.id, id, now, now.plus(LEASE), "").await.unwrap();
        tx.update_step(&Step { state: StepState::Done, ..before.clone() }, None).await.unwrap();
    }
    tx.start_step(at.id, id, now, now.plus(Duration::from_secs(600)), "").await.unwrap();
    tx.commit().await.unwrap();
    (run, at.id)
}

async fn abort(store: &Store, id: MachineId, run: RunId) {
    let now = clock::now();
    let mut tx = store.begin().await.unwrap();
    tx.end_run(run, id, RunState::Aborted, now).await.unwrap();
    tx.withdraw_tasks(id, now).await.unwrap();
    tx.commit().await.unwrap();
    let mut m = store.machine(id).await.unwrap().unwrap();
    m.current_run = None;
    let mut tx = store.begin().await.unwrap();
    tx.update_machine(&m, None).await.unwrap();
    tx.commit().await.unwrap();
}

/// A machine with a BMC that obeys at once, and the engine that reaches it.
struct Powered {
    engine: Engine,
    id: MachineId,
    bmc: SimBmc,
    still: Arc<Still>,
}

async fn powered(store: &Store) -> Powered {
    // The first call installs it; all tests of the binary share the process.
    drop(rustls::crypto::ring::default_provider().install_default());
    let id = machine(store).await;
    let (bmc, still) = start(PowerState::On, setup()).await;
    let sealer = Sealer::from_key(&Secret::new([7; 32]));
    let row = id.to_string();
    let sealed = sealer.seal(&Secret::new("secret".to_owned()), Place { table: "bmcs", row: &row, column: "password" }).unwrap();
    let mut tx = store.begin().await.unwrap();
    tx.put_bmc(id, &bmc.redfish_address().unwrap(), "admin", &sealed).await.unwrap();
    tx.commit().await.unwrap();
    let engine_settings = EngineSettings { owner: "t/1".into(), netboot_url: "http://127.0.0.1:1".into(), power_off_ready: true };
    Powered { engine: Engine::new(store.clone(), Bmcs::new(settings()), sealer, engine_settings), id, bmc, still }
}

impl Powered {
    async fn turn(&self) {
        self.engine.tick().await.unwrap();
        self.engine.settle().await;
    }
}

#[tokio::test]
async fn a_run_that_was_ended_lets_nobody_begin_go_on_or_record() {
    for on in both().await {
        let store = &on.store;
        let id = machine(store).await;
        let (run, step) = at_step(store, id, RunKind::Deploy, Lifecycle::Deploying, StepKind::WriteImage).await;
        let claim = store.claim_due_steps("t/1", clock::now(), LEASE, 10).await.unwrap().remove(0);
        assert_eq!(claim.id, step);
        let claimed = store.step(step).await.unwrap().unwrap();
        let mut tx = store.begin().await.unwrap();
        tx.begin_attempt(&claimed, clock::now()).await.unwrap();
        tx.commit().await.unwrap();

        abort(store, id, run).await;
        let mut tx = store.begin().await.unwrap();
        assert!(matches!(tx.begin_attempt(&claimed, clock::now()).await, Err(StoreError::Conflict)), "{}", on.name);
        assert!(matches!(tx.keep_step(&claimed).await, Err(StoreError::Conflict)), "{}", on.name);
        assert!(matches!(tx.update_step(&claimed, None).await, Err(StoreError::Conflict)), "{}", on.name);
        drop(tx);
        let ended = store.run(run).await.unwrap().unwrap();
        assert!(ended.steps.iter().all(|s| !matches!(s.state, StepState::Running | StepState::Pending)), "{}: {ended:?}", on.name);
        assert!(store.attempts(step).await.unwrap()[0].outcome.as_ref().is_some_and(|o| o.starts_with("cut off")));
        let later = clock::now().plus(Duration::from_secs(3600));
        assert_eq!(store.claim_due_steps("t/2", later, LEASE, 10).await.unwrap(), vec![], "{}: nothing is due", on.name);
    }
}

#[tokio::test]
async fn a_run_that_only_its_row_calls_ended_begins_nothing_and_its_step_comes_to_rest() {
    for on in both().await {
        let store = &on.store;
        let site = Site::on(store);
        let (id, session) = site.boot("n0", inventory()).await.unwrap();
        let (run, step) = at_step(store, id, RunKind::Enroll, Lifecycle::Enrolling, StepKind::Inventory).await;
        let claimed = store.step(step).await.unwrap().unwrap();
        let mut tx = store.begin().await.unwrap();
        tx.set_run_state(run, id, RunState::Aborted).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = store.begin().await.unwrap();
        assert!(matches!(tx.begin_attempt(&claimed, clock::now()).await, Err(StoreError::Conflict)), "{}", on.name);
        drop(tx);
        site.engine.tick().await.unwrap();
        site.engine.settle().await;
        assert_eq!(site.intake.next_task(&session, Duration::ZERO).await.unwrap(), None, "{}", on.name);
        let later = clock::now().plus(Duration::from_secs(3600));
        assert_eq!(store.claim_due_steps("t/2", later, LEASE, 10).await.unwrap(), vec![], "{}", on.name);
    }
}

#[tokio::test]
async fn an_abort_during_a_boot_lets_no_power_command_out() {
    for on in both().await {
        let p = powered(&on.store).await;
        let (run, _) = at_step(&on.store, p.id, RunKind::Enroll, Lifecycle::Enrolling, StepKind::BootRamdisk).await;
        p.bmc.set_faults(Faults { delay: Duration::from_millis(200), ..Faults::default() });
        p.engine.tick().await.unwrap();
        let told = async {
            while p.bmc.counts().writes == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), told).await.expect("the boot device is set");
        abort(&on.store, p.id, run).await;
        p.engine.settle().await;
        assert_eq!(p.still.actions(), vec![], "{}", on.name);
        assert_eq!(on.store.run(run).await.unwrap().unwrap().state, RunState::Aborted);
    }
}

#[tokio::test]
async fn without_an_abort_the_same_boot_cycles_the_power_once() {
    for on in both().await {
        let p = powered(&on.store).await;
        at_step(&on.store, p.id, RunKind::Enroll, Lifecycle::Enrolling, StepKind::BootRamdisk).await;
        p.turn().await;
        assert_eq!(p.still.actions(), vec![PowerAction::Cycle], "{}", on.name);
    }
}

/// Leaves the step as a process that died right after it sent the power command.
async fn died_after_power(store: &Store, step: StepId, begun: Timestamp) {
    let claim = store.claim_due_steps("dead/1", clock::now(), Duration::ZERO, 10).await.unwrap().remove(0);
    let mut step = Step { fence: claim.fence, attempts: 1, ..store.step(step).await.unwrap().unwrap() };
    let mut tx = store.begin().await.unwrap();
    tx.begin_attempt(&step, begun).await.unwrap();
    step.checkpoint = serde_json::json!({ "failures": 0, "data": { "begun_at": begun } });
    tx.keep_step(&step).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_restart_from_disk_that_may_have_gone_out_is_looked_for_before_it_is_sent_again() {
    for on in both().await {
        let p = powered(&on.store).await;
        let (run, step) = at_step(&on.store, p.id, RunKind::Deploy, Lifecycle::Deploying, StepKind::BootDisk).await;
        died_after_power(&on.store, step, clock::now().minus(Duration::from_secs(5))).await;
        p.turn().await;
        let state = async || on.store.step(step).await.unwrap().unwrap();
        assert_eq!((p.still.actions(), state().await.state), (vec![], StepState::Running), "{}", on.name);
        let mark = BootMarkFact {
            mac: MAC,
            machine: Some(p.id),
            client: None,
            stage: BootStage::DhcpDiscover,
            at: clock::now(),
            note: String::new(),
            fresh: clock::fresh_uuid(),
        };
        on.store.facts().commit(Fact::BootMark(mark)).await.unwrap();
        let mut tx = on.store.begin().await.unwrap();
        tx.wake_step(step, clock::now()).await.unwrap();
        tx.commit().await.unwrap();
        p.turn().await;
        assert_eq!((p.still.actions(), state().await.state), (vec![], StepState::Done), "{}", on.name);
        assert_eq!(on.store.run(run).await.unwrap().unwrap().state, RunState::Running);
    }
}

#[tokio::test]
async fn a_restart_from_disk_without_a_sign_for_a_minute_is_sent_again() {
    for on in both().await {
        let p = powered(&on.store).await;
        let (_, step) = at_step(&on.store, p.id, RunKind::Deploy, Lifecycle::Deploying, StepKind::BootDisk).await;
        died_after_power(&on.store, step, clock::now().minus(Duration::from_secs(61))).await;
        p.turn().await;
        assert_eq!(p.still.actions(), vec![PowerAction::Cycle], "{}", on.name);
    }
}

#[tokio::test]
async fn the_attempt_of_a_restart_from_disk_is_written_before_the_bmc_is_told_anything() {
    for on in both().await {
        let p = powered(&on.store).await;
        let (_, step) = at_step(&on.store, p.id, RunKind::Deploy, Lifecycle::Deploying, StepKind::BootDisk).await;
        // Whose it is was asked before.
        let mut known = on.store.machine(p.id).await.unwrap().unwrap().bmc.unwrap();
        known.identity.serial = Some("SN00042".to_owned());
        let mut tx = on.store.begin().await.unwrap();
        tx.update_bmc(p.id, &known).await.unwrap();
        tx.commit().await.unwrap();
        p.bmc.set_faults(Faults { reach: Reach::Dropped, ..Faults::default() });
        p.turn().await;
        assert_eq!(on.store.attempts(step).await.unwrap().len(), 1, "{}", on.name);
        assert_eq!(p.still.actions(), vec![]);
    }
}

/// Hands whose first write of an image meets a bad network.
struct Unlucky {
    done: Vec<&'static str>,
}

impl Hands for Unlucky {
    async fn inventory(&mut self) -> Inventory {
        inventory()
    }

    async fn execute(&mut self, order: &Order, _progress: Progress) -> TaskResult {
        let word = match order {
            Order::WriteImage(_) => "write",
            Order::RebootToDisk { .. } => "restart",
            Order::Inventory | Order::WipeDisks(_) | Order::Reboot | Order::PowerOff => "other",
        };
        self.done.push(word);
        if self.done == ["write"] {
            return TaskResult::Failed { code: "download".into(), message: "the connection broke".into(), retry: true };
        }
        TaskResult::Ok { evidence: serde_json::json!({}) }
    }
}

#[tokio::test]
async fn the_restart_after_a_write_that_needed_two_tries_is_taken_by_the_agent() {
    for on in both().await {
        let site = Site::on(&on.store);
        let (id, _) = ready(&site).await;
        with_image(&site).await;
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let stop = CancellationToken::new();
        let server = tokio::spawn(http::listen::run(listener, http::agent::router(site.intake.clone()), stop.clone()));
        let engine = tokio::spawn(site.engine.clone().run(stop.clone()));
        site.nonce("n2", MAC, Some(id)).await;
        site.want(id, deploy()).await;
        let mut hands = Unlucky { done: Vec::new() };
        let link = Link::new(&url, "n2", hostler::agent::link::Pace::default()).unwrap();
        let ending = tokio::time::timeout(Duration::from_secs(60), link.run(&mut hands)).await;
        stop.cancel();
        engine.await.unwrap().unwrap();
        server.await.unwrap();
        let m = site.store.machine(id).await.unwrap().unwrap();
        assert!(matches!(ending, Ok(Ok(Ending::Reboot))), "{}: {ending:?} {:?} {:?}", on.name, hands.done, m.fault);
        assert_eq!((hands.done, m.fault), (vec!["write", "write", "restart"], None), "{}", on.name);
    }
}

#[tokio::test]
async fn orders_of_one_machine_are_numbered_upwards_whatever_step_gives_them() {
    for on in both().await {
        let site = Site::on(&on.store);
        let (id, session) = site.boot("n0", inventory()).await.unwrap();
        let mut last = 0;
        for _ in 0..3 {
            let now = clock::now();
            let mut tx = on.store.begin().await.unwrap();
            tx.withdraw_tasks(id, now).await.unwrap();
            tx.insert_task(TaskId(clock::fresh_uuid()), id, None, &Order::Inventory, now).await.unwrap();
            tx.commit().await.unwrap();
            let fence = site.intake.next_task(&session, Duration::ZERO).await.unwrap().unwrap().fence;
            assert!(fence > last, "{}: {fence} after {last}", on.name);
            last = fence;
        }
        let mut tx = on.store.begin().await.unwrap();
        let nobody = MachineId(clock::fresh_uuid());
        let forgotten = tx.insert_task(TaskId(clock::fresh_uuid()), nobody, None, &Order::Inventory, clock::now()).await;
        assert!(matches!(forgotten, Err(StoreError::Conflict)), "{}", on.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn noting_a_written_disk_never_fails_for_other_writers() {
    for on in both().await {
        let id = machine(&on.store).await;
        let writers: Vec<_> = (0..12u64)
            .map(|n| {
                let store = on.store.clone();
                tokio::spawn(async move {
                    let disk = DiskRef { serial: format!("D{n}").parse().ok(), wwn: None, size_bytes: n, name_hint: "sda".into() };
                    for _ in 0..10 {
                        let mut tx = store.begin().await.unwrap();
                        tx.add_written_disk(id, &disk).await.unwrap();
                        tx.commit().await.unwrap();
                        let mut tx = store.begin().await.unwrap();
                        tx.make_due(id, clock::now()).await.unwrap();
                        tx.commit().await.unwrap();
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
        assert_eq!(on.store.machine(id).await.unwrap().unwrap().written_disks.len(), 12, "{}", on.name);
    }
}

#[tokio::test]
async fn an_order_to_write_that_is_gone_parks_the_run_and_is_not_given_again() {
    for on in both().await {
        let site = Site::on(&on.store);
        let (id, session) = ready(&site).await;
        with_image(&site).await;
        site.want(id, deploy()).await;
        let task = site.task(&session).await;
        assert!(matches!(task.order, Order::WriteImage(_)));
        let now = clock::now();
        let mut tx = on.store.begin().await.unwrap();
        tx.withdraw_tasks(id, now).await.unwrap();
        tx.wake_machine_step(id, now).await.unwrap();
        tx.commit().await.unwrap();
        site.work().await;
        assert_eq!(site.intake.next_task(&session, Duration::ZERO).await.unwrap(), None, "{}", on.name);
        let fault = on.store.machine(id).await.unwrap().unwrap().fault.expect("a fault");
        assert_eq!(fault.code, "order_lost", "{}", on.name);
    }
}

#[tokio::test]
async fn an_order_of_no_run_is_withdrawn_by_the_next_boot_and_by_the_next_run() {
    for on in both().await {
        let site = Site::on(&on.store);
        let (id, _) = site.boot("n1", inventory()).await.unwrap();
        let mut m = on.store.machine(id).await.unwrap().unwrap();
        m.lifecycle = Lifecycle::Active;
        let mut tx = on.store.begin().await.unwrap();
        tx.update_machine(&m, None).await.unwrap();
        tx.commit().await.unwrap();
        let (_, session) = site.boot("n2", inventory()).await.unwrap();
        let first = site.intake.next_task(&session, Duration::ZERO).await.unwrap().unwrap();
        let (_, session) = site.boot("n3", inventory()).await.unwrap();
        let second = site.intake.next_task(&session, Duration::ZERO).await.unwrap().unwrap();
        assert_ne!(first.id, second.id, "{}: the first was for the boot before", on.name);

        site.want(id, Want::Release).await;
        let wipe = site.task(&session).await;
        assert!(matches!(wipe.order, Order::WipeDisks(_)), "{}: {:?}", on.name, wipe.order);
    }
}
