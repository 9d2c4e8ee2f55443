//! Firmware campaigns over simulated BMCs, with the worker driven by the test.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hostler::app::intake::blank_machine;
use hostler::artifact::Artifacts;
use hostler::bmc::Bmcs;
use hostler::clock;
use hostler::decide::campaign::waves;
use hostler::decide::discovery::{Evidence, Source};
use hostler::domain::campaign::{Baseline, Campaign, CampaignState, Gate, Target, TargetState};
use hostler::domain::id::{CampaignId, MachineId, Sha256};
use hostler::domain::power::PowerState;
use hostler::domain::secret::Secret;
use hostler::domain::time::Timestamp;
use hostler::engine::campaign::{Campaigner, Rhythm};
use hostler::engine::{Engine, EngineSettings};
use hostler::secret::{Place, Sealer};
use hostler::sim::bmc::board::firmware::FirmwareFile;
use hostler::sim::bmc::{Setup, SimBmc, Strike};
use hostler::store::Store;
use sha2::Digest;

use crate::bmc::kit::{settings, setup, start};
use crate::support::engines::both;

const RHYTHM: Rhythm = Rhythm { look: Duration::from_millis(30), idle: Duration::from_millis(20), lost_after: Duration::from_millis(1500) };
const GATE: Gate = Gate { ring_failures: 0, soak_secs: 0, within_secs: 120 };

struct Lab {
    store: Store,
    artifacts: Artifacts,
    dir: tempfile::TempDir,
    bmcs: Vec<SimBmc>,
    machines: Vec<MachineId>,
    sealer: Sealer,
    /// Days by which the clock of the present worker is ahead: the leases of those before it have run out.
    days: AtomicU64,
}

impl Lab {
    async fn new(store: &Store, count: usize) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let dir = tempfile::tempdir().unwrap();
        let artifacts = Artifacts::open(&dir.path().join("artifacts")).unwrap();
        let sealer = Sealer::from_key(&Secret::new([7; 32]));
        let mut lab =
            Self { store: store.clone(), artifacts, dir, bmcs: Vec::new(), machines: Vec::new(), sealer, days: AtomicU64::new(0) };
        for n in 0..count {
            let (bmc, _) = start(PowerState::On, Setup { ipmi: false, pace: "100".parse().unwrap(), ..setup() }).await;
            lab.add(n, bmc).await;
        }
        lab
    }

    async fn add(&mut self, n: usize, bmc: SimBmc) {
        // Simulated BMCs of these tests show one serial number; the records have none, so a BMC is believed.
        let evidence = Evidence { uuid: None, serial: None, macs: vec![], parts: vec![], source: Source::PackingList };
        let mut m = blank_machine(MachineId(clock::fresh_uuid()), format!("m{n:03}").parse().unwrap(), &evidence, clock::now());
        m.accepted_at = Some(clock::now());
        let row = m.id.to_string();
        let sealed = self.sealer.seal(&Secret::new("secret".to_owned()), Place { table: "bmcs", row: &row, column: "password" }).unwrap();
        let mut tx = self.store.begin().await.unwrap();
        tx.insert_machine(&m).await.unwrap();
        tx.put_bmc(m.id, &bmc.redfish_address().unwrap(), "admin", &sealed).await.unwrap();
        tx.commit().await.unwrap();
        self.machines.push(m.id);
        self.bmcs.push(bmc);
    }

    /// A worker as a fresh process would have it.
    fn worker(&self) -> Campaigner {
        self.days.fetch_add(1, Ordering::Relaxed);
        let engine = EngineSettings {
            owner: format!("test/{}", clock::fresh_uuid()),
            netboot_url: "http://127.0.0.1:1".into(),
            power_off_ready: true,
        };
        let engine = Engine::new(self.store.clone(), Bmcs::new(settings()), self.sealer.clone(), engine);
        Campaigner::new(engine, self.artifacts.clone(), RHYTHM)
    }

    async fn file(&self, model: &str) -> Sha256 {
        let bytes = FirmwareFile { component: "BMC".into(), model: model.into(), version: "9.9".into() }.bytes(20_000);
        let sha256 = Sha256(sha2::Sha256::digest(&bytes).into());
        let path = self.dir.path().join("file.bin");
        std::fs::write(&path, &bytes).unwrap();
        self.artifacts.take_file(&path, &sha256).await.unwrap();
        sha256
    }

    async fn campaign(&self, model: &str, component: &str, sha256: Sha256) -> CampaignId {
        let now = clock::now();
        let baseline = Baseline {
            model: model.into(),
            component: component.into(),
            version: "9.9".into(),
            sha256,
            file_name: "bmc.bin".into(),
            size_bytes: 20_000,
            set_by: "ann".into(),
            set_at: now,
        };
        let campaign = Campaign {
            id: CampaignId(clock::fresh_uuid()),
            state: CampaignState::Running,
            baseline,
            gate: GATE,
            window: None,
            why: String::new(),
            created_by: "ann".into(),
            created_at: now,
            accepted_failures: 0,
        };
        let targets: Vec<Target> = waves(&self.machines, 2).into_iter().map(|(machine, wave)| Target::new(machine, wave)).collect();
        let mut tx = self.store.begin().await.unwrap();
        tx.insert_campaign(&campaign, &targets).await.unwrap();
        tx.commit().await.unwrap();
        campaign.id
    }

    async fn state(&self, id: CampaignId) -> Campaign {
        self.store.campaign(id).await.unwrap().unwrap()
    }

    /// Lets a worker work until `is_so`, or panics with how all stands.
    async fn work(&self, worker: &Campaigner, id: CampaignId, is_so: impl Fn(&Campaign, &[Target]) -> bool) -> Vec<Target> {
        let end = std::time::Instant::now() + Duration::from_secs(150);
        loop {
            worker.tick(self.now()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            let (campaign, targets) = (self.state(id).await, self.store.campaign_targets(id).await.unwrap());
            if is_so(&campaign, &targets) {
                worker.settle().await;
                return self.store.campaign_targets(id).await.unwrap();
            }
            assert!(std::time::Instant::now() < end, "{campaign:?} {targets:#?}");
        }
    }

    /// Every machine that waits is due on this clock.
    fn now(&self) -> Timestamp {
        clock::now().plus(Duration::from_secs(86_400 * self.days.load(Ordering::Relaxed)))
    }

    /// How often each BMC was given a file.
    fn flashed(&self) -> Vec<usize> {
        self.bmcs.iter().map(|b| b.board(|b| b.updates.len())).collect()
    }

    fn version(&self, n: usize) -> String {
        self.bmcs[n].board(|b| b.components.iter().find(|c| c.id == "BMC").unwrap().version.clone())
    }
}

fn ended(campaign: &Campaign, _: &[Target]) -> bool {
    campaign.state != CampaignState::Running
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_machine_of_forty_halts_the_campaign_at_the_canary() {
    let engine = both().await.remove(0);
    let lab = Lab::new(&engine.store, 40).await;
    lab.bmcs[1].strike(&Strike::UpdateFails).unwrap();
    let id = lab.campaign("LabServer-1", "BMC", lab.file("LabServer-1").await).await;
    let targets = lab.work(&lab.worker(), id, ended).await;
    let campaign = lab.state(id).await;
    assert_eq!(campaign.state, CampaignState::Halted);
    assert!(campaign.why.starts_with("Halted at the canary: 1 failed, 0 may (the BMC gave up"), "{}", campaign.why);
    assert_eq!(lab.flashed().iter().sum::<usize>(), 2, "nobody beside the canary was given the file");
    assert_eq!(targets.iter().filter(|t| t.state == TargetState::Waiting).count(), 38);
    let bad = targets.iter().find(|t| t.machine == lab.machines[1]).unwrap();
    assert_eq!(bad.state, TargetState::Failed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_good_machines_are_brought_to_it_by_workers_that_are_killed_in_the_middle_and_none_is_flashed_twice() {
    let engine = both().await.remove(0);
    let lab = Lab::new(&engine.store, 40).await;
    let id = lab.campaign("LabServer-1", "BMC", lab.file("LabServer-1").await).await;
    for least in [1, 5, 20] {
        let worker = lab.worker();
        // Its own runtime, so that what is out with a BMC ends where it is, between any two lines.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (doomed, ahead) = (worker.clone(), lab.now().since(clock::now()));
        runtime.spawn(async move {
            loop {
                doomed.tick(clock::now().plus(ahead)).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let end = std::time::Instant::now() + Duration::from_secs(100);
        while lab.flashed().iter().sum::<usize>() < least {
            assert!(std::time::Instant::now() < end, "{:?}", lab.store.campaign_targets(id).await.unwrap());
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        runtime.shutdown_background();
    }
    let targets = lab.work(&lab.worker(), id, ended).await;
    let campaign = lab.state(id).await;
    assert_eq!(campaign.state, CampaignState::Done, "{} {targets:#?}", campaign.why);
    assert_eq!(lab.flashed(), vec![1; 40], "each was given the file once");
    assert!((0..40).all(|n| lab.version(n) == "9.9"));
    assert!(targets.iter().all(|t| t.state == TargetState::Done), "{targets:#?}");
    assert!(targets.iter().all(|t| t.version_before.as_deref() == Some("2.14")));
}

#[tokio::test]
async fn a_wrong_file_is_refused_before_a_bmc_sees_it() {
    for engine in both().await {
        let lab = Lab::new(&engine.store, 1).await;
        let file = lab.file("LabServer-1").await;
        let worker = lab.worker();
        let of_another = lab.campaign("LabServer-2", "BMC", file).await;
        let not_there = lab.campaign("LabServer-1", "TPM", file).await;
        for (id, says) in
            [(of_another, "the file is for LabServer-2 and this is LabServer-1: it was not sent"), (not_there, "lists no component TPM")]
        {
            let targets = lab.work(&worker, id, ended).await;
            assert!(targets[0].note.contains(says), "{}: {}", engine.name, targets[0].note);
            assert_eq!((targets[0].state.clone(), lab.state(id).await.state), (TargetState::Failed, CampaignState::Halted));
        }
        // Changed on the disk after it was taken in.
        std::fs::write(lab.artifacts.path_of(&file), b"other bytes").unwrap();
        let changed = lab.campaign("LabServer-1", "BMC", file).await;
        let targets = lab.work(&worker, changed, ended).await;
        assert!(targets[0].note.starts_with("the file was not sent: artifact"), "{}", targets[0].note);
        assert_eq!(lab.flashed(), [0], "{}: no BMC saw a byte", engine.name);
        assert!(lab.artifacts.take_file(Path::new("/dev/null"), &file).await.is_err(), "and other bytes are not taken in under its name");
    }
}

#[tokio::test]
async fn a_file_whose_sending_was_cut_off_is_sent_again_only_when_the_bmc_proves_that_it_never_came() {
    for engine in both().await {
        let lab = Lab::new(&engine.store, 1).await;
        let id = lab.campaign("LabServer-1", "BMC", lab.file("LabServer-1").await).await;
        // A process wrote that it begins, and died before a byte was sent.
        let mut target = lab.store.campaign_targets(id).await.unwrap().remove(0);
        target.state = TargetState::Begun;
        target.begun_at = Some(clock::now());
        let mut tx = lab.store.begin().await.unwrap();
        tx.begin_target(id, &target, clock::now()).await.unwrap();
        tx.commit().await.unwrap();
        let worker = lab.worker();
        let seen = lab.work(&worker, id, |_, t| t[0].note.contains("looking for its task")).await;
        assert_eq!((seen[0].state.clone(), lab.flashed()), (TargetState::Begun, vec![0]), "{}: not at once", engine.name);
        let done = lab.work(&worker, id, ended).await;
        assert_eq!((done[0].state.clone(), done[0].tries, lab.flashed()), (TargetState::Done, 1, vec![1]), "{}", engine.name);
    }
}

#[tokio::test]
async fn a_paused_campaign_begins_nothing_and_a_machine_that_fits_is_skipped() {
    let engine = both().await.remove(0);
    let lab = Lab::new(&engine.store, 3).await;
    let file = lab.file("LabServer-1").await;
    let id = lab.campaign("LabServer-1", "BMC", file).await;
    let worker = lab.worker();
    let mut campaign = lab.state(id).await;
    campaign.state = CampaignState::Paused;
    let mut tx = lab.store.begin().await.unwrap();
    tx.update_campaign(&campaign, CampaignState::Running).await.unwrap();
    tx.commit().await.unwrap();
    for _ in 0..5 {
        worker.tick(clock::now()).await.unwrap();
        worker.settle().await;
    }
    assert_eq!(lab.flashed(), [0, 0, 0]);
    campaign.state = CampaignState::Running;
    let mut tx = lab.store.begin().await.unwrap();
    tx.update_campaign(&campaign, CampaignState::Paused).await.unwrap();
    tx.commit().await.unwrap();
    lab.work(&worker, id, ended).await;
    assert_eq!(lab.flashed(), [1, 1, 1]);
    let again = lab.campaign("LabServer-1", "BMC", file).await;
    let targets = lab.work(&worker, again, ended).await;
    assert!(targets.iter().all(|t| t.state == TargetState::Skipped && t.note == "it runs that version already"), "{targets:?}");
    assert_eq!(lab.flashed(), [1, 1, 1]);
}
