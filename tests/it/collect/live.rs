//! The collector against simulated BMCs, on both engines.

use std::time::Duration;

use hostler::app::intake::blank_machine;
use hostler::bmc::{BmcSettings, Bmcs};
use hostler::clock;
use hostler::decide::discovery::{Evidence, Source};
use hostler::decide::polling::PollSettings;
use hostler::domain::bmc::BmcAddress;
use hostler::domain::event::Severity;
use hostler::domain::id::{MachineId, Serial};
use hostler::domain::poll::{PollKind, PollState};
use hostler::domain::power::{PowerAction, PowerState};
use hostler::domain::secret::Secret;
use hostler::domain::time::Timestamp;
use hostler::engine::collect::{CollectSettings, Collector};
use hostler::engine::{Engine, EngineSettings};
use hostler::secret::{Place, Sealer};
use hostler::sim::bmc::{Chassis, Faults, Reach};
use hostler::store::Store;
use hostler::store::events::EventFilter;
use hostler::store::sheets::hour_of;

use crate::bmc::kit::{settings, setup, start};
use crate::support::engines::both;

pub struct Site {
    pub store: Store,
    pub collector: Collector,
    sealer: Sealer,
}

impl Site {
    pub fn new(store: &Store, bmcs: BmcSettings) -> Self {
        drop(rustls::crypto::ring::default_provider().install_default());
        let sealer = Sealer::from_key(&Secret::new([7; 32]));
        let bmcs = Bmcs::new(bmcs);
        let engine = EngineSettings { owner: "test".into(), netboot_url: "http://127.0.0.1:1".into(), power_off_ready: true };
        let engine = Engine::new(store.clone(), bmcs, sealer.clone(), engine);
        // Everything is due again at once: these tests tick when they want a poll.
        let soon = Duration::from_millis(1);
        let polls = PollSettings { power: soon, sensors: soon, logs: soon, parts: soon, sheet: soon, budget_per_minute: 1e9 };
        let collector = Collector::new(engine, CollectSettings { polls, ..CollectSettings::default() });
        Self { store: store.clone(), collector, sealer }
    }

    pub async fn machine(&self, n: u8, address: &BmcAddress, password: &str) -> MachineId {
        let serial: Serial = format!("LAB{n:04}").parse().unwrap();
        let evidence = Evidence { uuid: None, serial: Some(serial), macs: vec![], parts: vec![], source: Source::Agent };
        let mut m = blank_machine(MachineId(clock::fresh_uuid()), format!("lab{n:04}").parse().unwrap(), &evidence, clock::now());
        m.accepted_at = Some(clock::now());
        let row = m.id.to_string();
        let sealed = self.sealer.seal(&Secret::new(password.to_owned()), Place { table: "bmcs", row: &row, column: "password" }).unwrap();
        let mut tx = self.store.begin().await.unwrap();
        tx.insert_machine(&m).await.unwrap();
        tx.put_bmc(m.id, address, "admin", &sealed).await.unwrap();
        tx.commit().await.unwrap();
        m.id
    }

    /// Polls until `kind` was asked `times` more, and returns how it stands.
    pub async fn poll(&self, id: MachineId, kind: PollKind, times: u32) -> PollState {
        let mut last = self.store.polls(id).await.unwrap().get(&kind).and_then(|s| s.last_try_at);
        let mut left = times;
        for _ in 0..400 {
            // Back-off is not waited for: the test's clock stands a day ahead of what is due.
            self.collector.tick(clock::now().plus(Duration::from_secs(86_400 * 2))).await.unwrap();
            let state = self.store.polls(id).await.unwrap().remove(&kind).unwrap_or_default();
            if state.last_try_at != last {
                last = state.last_try_at;
                left -= 1;
                if left == 0 {
                    return state;
                }
            }
        }
        panic!("{kind} was not polled");
    }

    async fn events(&self, id: MachineId, kind: &str) -> Vec<String> {
        let events = self.store.events(EventFilter { machine: Some(id), ..EventFilter::default() }, 100).await.unwrap();
        events.into_iter().filter(|e| e.kind == kind).map(|e| e.text).collect()
    }
}

#[tokio::test]
async fn power_is_polled_and_a_change_by_hand_is_told() {
    for on in both().await {
        let site = Site::new(&on.store, settings());
        let (bmc, _) = start(PowerState::On, setup()).await;
        let id = site.machine(1, &bmc.redfish_address().unwrap(), "secret").await;
        let state = site.poll(id, PollKind::Power, 1).await;
        let status = site.store.machine(id).await.unwrap().unwrap().bmc.unwrap();
        assert_eq!((status.power, status.fault, state.failures), (Some(PowerState::On), None, 0), "{}", on.name);
        assert!(status.power_seen_at.is_some() && status.tls_pin.is_some() && state.cost.is_some_and(|c| c >= 1.0), "{}", on.name);
        let hour = site.store.traffic(id, hour_of(clock::now()) - 1).await.unwrap();
        assert!(hour.iter().map(|(_, t)| t.requests).sum::<u64>() >= 1, "{}: {hour:?}", on.name);
        assert_eq!(bmc.counts().writes, 0, "collecting changes nothing");
    }
}

#[tokio::test]
async fn c9_power_that_a_person_changed_is_told_and_never_enforced() {
    for on in both().await {
        let site = Site::new(&on.store, settings());
        let (bmc, still) = start(PowerState::On, setup()).await;
        let id = site.machine(1, &bmc.redfish_address().unwrap(), "secret").await;
        site.poll(id, PollKind::Power, 1).await;
        still.set_power(PowerAction::Off).unwrap();
        site.poll(id, PollKind::Power, 3).await;
        let said = site.events(id, "power.changed").await;
        assert_eq!(said.len(), 1, "{}: {said:?}", on.name);
        assert!(said[0].contains("from on to off") && said[0].contains("left as it is"), "{}", said[0]);
        assert_eq!((still.power(), bmc.counts().writes), (PowerState::Off, 0), "{}: nobody switched it on again", on.name);
        assert_eq!(still.actions(), [PowerAction::Off], "the person's own");
    }
}

#[tokio::test]
async fn c1_a_bmc_that_falls_silent_keeps_its_last_values_and_says_how_old_they_are() {
    for on in both().await {
        let site = Site::new(&on.store, settings());
        let (bmc, _) = start(PowerState::On, setup()).await;
        let id = site.machine(1, &bmc.redfish_address().unwrap(), "secret").await;
        site.poll(id, PollKind::Power, 1).await;
        let before = site.store.machine(id).await.unwrap().unwrap().bmc.unwrap();
        bmc.set_faults(Faults { reach: Reach::Dropped, ..Faults::default() });
        let state = site.poll(id, PollKind::Power, 1).await;
        let after = site.store.machine(id).await.unwrap().unwrap().bmc.unwrap();
        assert_eq!((after.power, after.power_seen_at), (before.power, before.power_seen_at), "{}", on.name);
        assert!(after.fault.as_deref().is_some_and(|f| f.contains("cannot be reached")), "{}: {:?}", on.name, after.fault);
        assert_eq!((state.failures, state.last_ok_at), (1, before.power_seen_at));
        assert!(state.due_at > clock::now().plus(Duration::from_secs(5)), "{}: it backs off", on.name);
        bmc.set_faults(Faults::default());
        let state = site.poll(id, PollKind::Power, 1).await;
        assert_eq!((state.failures, state.fault), (0, None));
        assert_eq!(site.store.machine(id).await.unwrap().unwrap().bmc.unwrap().fault, None, "{}", on.name);
    }
}

#[tokio::test]
async fn c11_silence_of_three_intervals_is_an_event_and_so_is_its_end() {
    for on in both().await {
        let site = Site::new(&on.store, settings());
        let (bmc, _) = start(PowerState::On, setup()).await;
        let id = site.machine(1, &bmc.redfish_address().unwrap(), "secret").await;
        site.poll(id, PollKind::Power, 1).await;
        bmc.set_faults(Faults { reach: Reach::Dropped, ..Faults::default() });
        // An interval of a millisecond is stored as a second, and three of them must pass.
        tokio::time::timeout(Duration::from_secs(30), async {
            while site.events(id, "bmc.silent").await.is_empty() {
                site.poll(id, PollKind::Power, 1).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        })
        .await
        .expect("silence is said");
        site.poll(id, PollKind::Power, 2).await;
        let said = site.events(id, "bmc.silent").await;
        assert_eq!(said.len(), 1, "{}: said once: {said:?}", on.name);
        assert!(said[0].contains("its power state") && said[0].contains("is old"), "{}", said[0]);
        bmc.set_faults(Faults::default());
        site.poll(id, PollKind::Power, 1).await;
        assert_eq!(site.events(id, "bmc.heard").await.len(), 1, "{}", on.name);
    }
}

#[tokio::test]
async fn a_refused_login_is_not_repeated_by_the_collector() {
    for on in both().await {
        let site = Site::new(&on.store, settings());
        let (bmc, _) = start(PowerState::On, setup()).await;
        let id = site.machine(1, &bmc.redfish_address().unwrap(), "wrong").await;
        site.collector.tick(clock::now()).await.unwrap();
        let states = site.store.polls(id).await.unwrap();
        let due = states[&PollKind::Power].due_at;
        assert!(due > clock::now().plus(Duration::from_secs(600)), "{}: a person must act first", on.name);
        assert!(bmc.counts().refused_logins <= 2 && !bmc.counts().locked, "{}: {:?}", on.name, bmc.counts());
        let status = site.store.machine(id).await.unwrap().unwrap().bmc.unwrap();
        assert!(status.fault.is_some_and(|f| f.contains("refused")), "{}", on.name);
    }
}

#[tokio::test]
async fn a_machine_that_nobody_accepted_is_not_polled() {
    for on in both().await {
        let site = Site::new(&on.store, settings());
        let (bmc, _) = start(PowerState::On, setup()).await;
        let id = site.machine(1, &bmc.redfish_address().unwrap(), "secret").await;
        let mut m = site.store.machine(id).await.unwrap().unwrap();
        m.accepted_at = None;
        let mut tx = site.store.begin().await.unwrap();
        tx.update_machine(&m, None).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(site.collector.tick(clock::now().plus(Duration::from_secs(60))).await.unwrap(), 0, "{}", on.name);
        assert_eq!(bmc.counts().requests, 0, "{}", on.name);
    }
}

#[tokio::test]
async fn what_a_bmc_does_not_offer_is_no_fault() {
    for on in both().await {
        let site = Site::new(&on.store, settings());
        let (bmc, _) = start(PowerState::On, hostler::sim::bmc::Setup { redfish: None, ..setup() }).await;
        let id = site.machine(1, &bmc.ipmi_address().unwrap(), "secret").await;
        // IPMI has no BIOS settings.
        let state = site.poll(id, PollKind::Bios, 1).await;
        assert!(state.unsupported && state.fault.is_none() && state.failures == 0, "{}: {state:?}", on.name);
        site.poll(id, PollKind::Power, 1).await;
        let status = site.store.machine(id).await.unwrap().unwrap().bmc.unwrap();
        assert_eq!(status.fault, None, "{}", on.name);
        assert_eq!(Timestamp::default(), PollState::default().due_at);
        let warnings = site.store.events(EventFilter::default(), 100).await.unwrap();
        assert!(warnings.iter().all(|e| e.severity == Severity::Info), "{}: {warnings:?}", on.name);
    }
}
