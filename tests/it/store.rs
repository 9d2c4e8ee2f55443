//! The store, every test on both engines.

use std::collections::HashSet;
use std::time::Duration;

use hostler::app::intake::blank_machine;
use hostler::clock;
use hostler::decide::discovery::{Evidence, Source};
use hostler::domain::boot::{BootStage, ClientArch};
use hostler::domain::id::{Mac, MachineId, RunId, Serial, StepId};
use hostler::domain::machine::{Lifecycle, Machine};
use hostler::domain::time::Timestamp;
use hostler::domain::work::{Run, RunKind, RunState, Step, StepKind, StepState};
use hostler::store::facts::{BootMarkFact, Fact};
use hostler::store::{Store, StoreConfig, StoreError};

use crate::support::engines::both;

fn machine(n: u8) -> Machine {
    let serial: Serial = format!("LAB{n:04}").parse().unwrap();
    let evidence = Evidence { uuid: None, serial: Some(serial), macs: vec![Mac([2, 0, 0, 0, 1, n])], parts: vec![], source: Source::Agent };
    blank_machine(MachineId(clock::fresh_uuid()), format!("lab{n:04}").parse().unwrap(), &evidence, clock::now())
}

async fn insert(store: &Store, m: &Machine) {
    let mut tx = store.begin().await.unwrap();
    tx.insert_machine(m).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_machine_comes_back_as_it_was_written() {
    for on in both().await {
        let mut m = machine(1);
        m.lifecycle = Lifecycle::Ready;
        m.place = Some("r12".parse().map(|rack| hostler::domain::place::Place { rack, u: Some(7) }).unwrap());
        m.why = "Ünïcode ✓ 'quote' \"double\"".to_owned();
        insert(&on.store, &m).await;
        assert_eq!(on.store.machine(m.id).await.unwrap(), Some(m.clone()), "{}", on.name);
        assert_eq!(on.store.find_machines("LAB0001").await.unwrap(), vec![m.clone()]);
        assert_eq!(on.store.find_machines("02-00-00-00-01-01").await.unwrap(), vec![m]);
        assert_eq!(on.store.find_machines("").await.unwrap(), vec![]);
    }
}

#[tokio::test]
async fn work_made_due_while_a_decision_is_being_made_is_not_lost() {
    for on in both().await {
        let m = machine(1);
        insert(&on.store, &m).await;
        // A decision read the machine; then a step ended; then the decision is written, to sleep for an hour.
        let read = on.store.machine(m.id).await.unwrap().unwrap();
        let now = clock::now();
        let mut tx = on.store.begin().await.unwrap();
        tx.make_due(m.id, now).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = on.store.begin().await.unwrap();
        let late = tx.update_machine(&read, Some(now.plus(Duration::from_secs(3600)))).await;
        assert!(matches!(late, Err(StoreError::Conflict)), "{}", on.name);
        drop(tx);
        assert!(on.store.next_due().await.unwrap().is_some_and(|due| due <= now), "{}", on.name);
    }
}

#[tokio::test]
async fn a_write_over_a_newer_revision_is_refused() {
    for on in both().await {
        let m = machine(1);
        insert(&on.store, &m).await;
        let mut first = on.store.machine(m.id).await.unwrap().unwrap();
        let mut second = first.clone();
        first.why = "first".to_owned();
        second.why = "second".to_owned();
        let mut tx = on.store.begin().await.unwrap();
        tx.update_machine(&first, None).await.unwrap();
        tx.commit().await.unwrap();
        let mut tx = on.store.begin().await.unwrap();
        assert!(matches!(tx.update_machine(&second, None).await, Err(StoreError::Conflict)), "{}", on.name);
        drop(tx);
        assert_eq!(on.store.machine(m.id).await.unwrap().unwrap().why, "first");
    }
}

#[tokio::test]
async fn evidence_finds_the_machines_that_share_it_and_no_evidence_finds_none() {
    for on in both().await {
        for n in 1..4 {
            insert(&on.store, &machine(n)).await;
        }
        let by_mac = on.store.machines_by_evidence(None, None, &[Mac([2, 0, 0, 0, 1, 2])], None).await.unwrap();
        assert_eq!(by_mac.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(), ["lab0002"], "{}", on.name);
        assert_eq!(on.store.machines_by_evidence(None, None, &[], None).await.unwrap(), vec![], "{}", on.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_claimants_never_get_the_same_machine() {
    for on in both().await {
        const MACHINES: u8 = 60;
        for n in 0..MACHINES {
            insert(&on.store, &machine(n)).await;
        }
        let now = clock::now().plus(Duration::from_secs(1));
        let claimants: Vec<_> = (0..8)
            .map(|n| {
                let store = on.store.clone();
                tokio::spawn(async move {
                    let mut got = Vec::new();
                    for _ in 0..30 {
                        got.extend(store.claim_due_machines(&format!("owner{n}"), now, Duration::from_secs(60), 3).await.unwrap());
                    }
                    got
                })
            })
            .collect();
        let mut seen = HashSet::new();
        for claimant in claimants {
            for claim in claimant.await.unwrap() {
                assert!(seen.insert(claim.id), "{}: claimed twice", on.name);
                assert_eq!(claim.fence, 1);
            }
        }
        assert_eq!(seen.len(), usize::from(MACHINES), "{}", on.name);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_claimants_never_get_the_same_step() {
    for on in both().await {
        const STEPS: u8 = 60;
        let m = machine(1);
        insert(&on.store, &m).await;
        let now = clock::now();
        let run = RunId(clock::fresh_uuid());
        let step = |index: u8| Step {
            id: StepId(clock::fresh_uuid()),
            run,
            machine: m.id,
            index: index.into(),
            kind: StepKind::WaitAgent,
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
        };
        let steps: Vec<Step> = (0..STEPS).map(step).collect();
        let row = Run {
            id: run,
            machine: m.id,
            kind: RunKind::Enroll,
            state: RunState::Running,
            started_at: now,
            ended_at: None,
            actor: "test".into(),
            steps: steps.clone(),
        };
        let mut tx = on.store.begin().await.unwrap();
        tx.insert_run(&row).await.unwrap();
        for step in &steps {
            tx.start_step(step.id, m.id, now, now.plus(Duration::from_secs(600)), "").await.unwrap();
        }
        tx.commit().await.unwrap();
        let claimants: Vec<_> = (0..8)
            .map(|n| {
                let store = on.store.clone();
                tokio::spawn(async move {
                    let mut got = Vec::new();
                    for _ in 0..30 {
                        let at = now.plus(Duration::from_secs(1));
                        got.extend(store.claim_due_steps(&format!("owner{n}"), at, Duration::from_secs(60), 3).await.unwrap());
                    }
                    got
                })
            })
            .collect();
        let mut seen = HashSet::new();
        for claimant in claimants {
            for claim in claimant.await.unwrap() {
                assert!(seen.insert(claim.id), "{}: claimed twice", on.name);
                assert_eq!(claim.fence, 1);
            }
        }
        assert_eq!(seen.len(), usize::from(STEPS), "{}", on.name);
    }
}

#[tokio::test]
async fn a_lease_that_ran_out_is_taken_over_with_a_higher_fence() {
    for on in both().await {
        insert(&on.store, &machine(1)).await;
        let now = clock::now().plus(Duration::from_secs(1));
        let lease = Duration::from_secs(30);
        let first = on.store.claim_due_machines("a", now, lease, 10).await.unwrap();
        assert_eq!(first.len(), 1, "{}", on.name);
        assert!(on.store.claim_due_machines("b", now.plus(Duration::from_secs(29)), lease, 10).await.unwrap().is_empty());
        let second = on.store.claim_due_machines("b", now.plus(Duration::from_secs(30)), lease, 10).await.unwrap();
        assert!(second.len() == 1 && second[0].fence > first[0].fence, "{}", on.name);
    }
}

#[tokio::test]
async fn a_restarted_replica_drops_its_own_claims_and_no_others() {
    for on in both().await {
        insert(&on.store, &machine(1)).await;
        insert(&on.store, &machine(2)).await;
        let now = clock::now().plus(Duration::from_secs(1));
        let lease = Duration::from_secs(30);
        let ours = on.store.claim_due_machines("us/start-1", now, lease, 1).await.unwrap();
        let theirs = on.store.claim_due_machines("them/start-1", now, lease, 1).await.unwrap();
        assert_eq!((ours.len(), theirs.len()), (1, 1), "{}", on.name);
        assert_eq!(on.store.drop_leases_of("us").await.unwrap(), 1, "{}", on.name);
        let again = on.store.claim_due_machines("us/start-2", now, lease, 10).await.unwrap();
        assert_eq!(again.iter().map(|c| c.id).collect::<Vec<_>>(), [ours[0].id], "{}", on.name);
        assert!(again[0].fence > ours[0].fence, "{}", on.name);
    }
}

#[tokio::test]
async fn a_claimed_machine_is_next_due_when_its_claim_runs_out() {
    for on in both().await {
        assert_eq!(on.store.next_due().await.unwrap(), None, "{}", on.name);
        let m = machine(1);
        insert(&on.store, &m).await;
        assert_eq!(on.store.next_due().await.unwrap(), Some(m.created_at), "{}", on.name);
        let now = m.created_at.plus(Duration::from_secs(1));
        let claim = on.store.claim_due_machines("a", now, Duration::from_secs(30), 10).await.unwrap().remove(0);
        assert_eq!(on.store.next_due().await.unwrap(), Some(claim.until), "{}", on.name);
    }
}

#[tokio::test]
async fn facts_are_durable_when_their_commit_returns() {
    for on in both().await {
        let m = machine(1);
        insert(&on.store, &m).await;
        let at = Timestamp(1_000_000_000);
        for n in 0..3 {
            let mark = BootMarkFact {
                mac: m.macs[0],
                machine: Some(m.id),
                client: Some(ClientArch::UefiX64),
                stage: BootStage::DhcpDiscover,
                at: at.plus(Duration::from_secs(n)),
                note: String::new(),
                fresh: clock::fresh_uuid(),
            };
            on.store.facts().commit(Fact::BootMark(mark)).await.unwrap();
        }
        let boots = on.store.boots(m.id, 10).await.unwrap();
        assert_eq!(boots.len(), 1, "{}: repeats of one packet are one boot", on.name);
        assert_eq!(boots[0].marks.len(), 1);
        assert_eq!(boots[0].marks[0].count, 3);
    }
}

#[tokio::test]
async fn a_discover_after_the_script_is_a_new_boot() {
    for on in both().await {
        let m = machine(1);
        insert(&on.store, &m).await;
        for (n, stage) in
            [BootStage::DhcpDiscover, BootStage::DhcpOffer, BootStage::Script, BootStage::DhcpDiscover].into_iter().enumerate()
        {
            let at = Timestamp(1_000_000_000).plus(Duration::from_secs(n as u64));
            let mark = BootMarkFact {
                mac: m.macs[0],
                machine: Some(m.id),
                client: None,
                stage,
                at,
                note: String::new(),
                fresh: clock::fresh_uuid(),
            };
            on.store.facts().commit(Fact::BootMark(mark)).await.unwrap();
        }
        let stages: Vec<usize> = on.store.boots(m.id, 10).await.unwrap().iter().map(|b| b.marks.len()).collect();
        assert_eq!(stages, [1, 3], "{}", on.name);
    }
}

#[tokio::test]
async fn a_boot_nonce_is_good_for_one_session_and_not_for_long() {
    for on in both().await {
        let (mac, now) = (Mac([2, 0, 0, 0, 0, 9]), clock::now());
        let (one, two) = (clock::fresh_uuid(), clock::fresh_uuid());
        let mut tx = on.store.begin().await.unwrap();
        tx.insert_boot_nonce("good", mac, None, now).await.unwrap();
        tx.insert_boot_nonce("old", mac, None, now.minus(Duration::from_secs(21 * 60))).await.unwrap();
        assert!(tx.use_boot_nonce("good", one, now).await.unwrap().is_some(), "{}", on.name);
        assert!(tx.use_boot_nonce("good", one, now).await.unwrap().is_some(), "a repeated hello of the same session");
        assert!(tx.use_boot_nonce("good", two, now).await.unwrap().is_none(), "another session");
        assert!(tx.use_boot_nonce("old", one, now).await.unwrap().is_none(), "too old");
        assert!(tx.use_boot_nonce("never", one, now).await.unwrap().is_none(), "unknown");
    }
}

#[tokio::test]
async fn a_forgotten_machine_leaves_nothing_but_its_events() {
    for on in both().await {
        let (gone, stays) = (machine(1), machine(2));
        insert(&on.store, &gone).await;
        insert(&on.store, &stays).await;
        let mut tx = on.store.begin().await.unwrap();
        tx.put_bmc(gone.id, &"10.0.0.5".parse().unwrap(), "admin", "v1:x").await.unwrap();
        tx.delete_machine(gone.id).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(on.store.machine(gone.id).await.unwrap(), None, "{}", on.name);
        assert_eq!(on.store.bmc_sealed_password(gone.id).await.unwrap(), None);
        assert_eq!(on.store.machines().await.unwrap(), vec![stays]);
    }
}

#[tokio::test]
async fn reopening_keeps_everything() {
    for on in both().await {
        let m = machine(1);
        insert(&on.store, &m).await;
        on.store.close().await;
        let again = Store::open(&on.config).await.unwrap();
        assert_eq!(again.machine(m.id).await.unwrap(), Some(m), "{}", on.name);
        again.close().await;
    }
}

#[tokio::test]
async fn a_file_that_is_not_a_database_is_refused_and_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hostler.db");
    std::fs::write(&path, "these are holiday photos, not a database").unwrap();
    let error = Store::open(&StoreConfig::Sqlite { path: path.clone() }).await.err().unwrap();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "these are holiday photos, not a database");
}

#[tokio::test]
async fn a_damaged_database_is_refused_and_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hostler.db");
    let config = StoreConfig::Sqlite { path: path.clone() };
    let store = Store::open(&config).await.unwrap();
    for n in 0..50 {
        insert(&store, &machine(n)).await;
    }
    store.close().await;
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 3;
    for b in &mut bytes[middle..middle + 20_000] {
        *b = 0xa5;
    }
    std::fs::write(&path, &bytes).unwrap();
    let error = Store::open(&config).await.err().unwrap();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[tokio::test]
async fn a_newer_database_is_refused_and_left_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hostler.db");
    let config = StoreConfig::Sqlite { path: path.clone() };
    Store::open(&config).await.unwrap().close().await;
    let url = format!("sqlite://{}", path.display());
    let pool = sqlx::SqlitePool::connect(&url).await.unwrap();
    sqlx::query("INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time) VALUES (9999, 'future', '2030-01-01', TRUE, x'00', 0)")
        .execute(&pool)
        .await
        .unwrap();
    sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(&pool).await.unwrap();
    pool.close().await;
    let before = std::fs::read(&path).unwrap();
    let error = Store::open(&config).await.err().unwrap();
    assert!(matches!(error, StoreError::Newer { theirs: 9999, .. }), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[tokio::test]
async fn a_locked_database_says_it_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hostler.db");
    let config = StoreConfig::Sqlite { path: path.clone() };
    Store::open(&config).await.unwrap().close().await;
    let url = format!("sqlite://{}", path.display());
    let other = sqlx::SqlitePool::connect(&url).await.unwrap();
    let mut held = other.acquire().await.unwrap();
    sqlx::query("PRAGMA locking_mode = EXCLUSIVE").execute(&mut *held).await.unwrap();
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut *held).await.unwrap();
    sqlx::query("CREATE TABLE held (x BIGINT)").execute(&mut *held).await.unwrap();
    let error = Store::open(&config).await.err().unwrap();
    assert!(matches!(error, StoreError::Busy { .. }), "{error}");
}

#[tokio::test]
async fn a_full_disk_is_said_and_what_was_there_stays() {
    let Some(disk) = small_disk() else { return };
    let config = StoreConfig::Sqlite { path: disk.path.join("hostler.db") };
    let store = Store::open(&config).await.unwrap();
    let kept = machine(1);
    insert(&store, &kept).await;
    let mut big = machine(2);
    big.why = "x".repeat(8_000_000);
    let outcome = async {
        let mut tx = store.begin().await?;
        tx.insert_machine(&big).await?;
        tx.commit().await
    }
    .await;
    let error = outcome.err().unwrap();
    assert!(matches!(error, StoreError::Full), "{error}: {:?}", std::error::Error::source(&error));
    assert_eq!(store.machines().await.unwrap(), vec![kept.clone()]);
    store.close().await;
    let again = Store::open(&config).await.unwrap();
    assert_eq!(again.machines().await.unwrap(), vec![kept]);
    again.close().await;
}

/// A 4 MiB tmpfs, unmounted at the end.
struct SmallDisk {
    path: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _status = std::process::Command::new("umount").arg("-l").arg(&self.path).status();
    }
}

fn small_disk() -> Option<SmallDisk> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"])
        .arg(&path)
        .output()
        .is_ok_and(|o| o.status.success());
    if !mounted {
        println!("skipped: a small file system cannot be mounted here (needs root)");
        return None;
    }
    Some(SmallDisk { path, _dir: dir })
}
