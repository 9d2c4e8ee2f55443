//! Due times, readings, samples, logs and parts in the store, every test on both engines.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use hostler::app::intake::blank_machine;
use hostler::clock;
use hostler::decide::discovery::{Evidence, Source};
use hostler::decide::parts::{KnownPart, PartChange, Walk, compare};
use hostler::domain::hardware_log::{LogCursor, LogDirection, LogEntry, LogNews, LogSeverity};
use hostler::domain::id::{MachineId, Serial, Sha256, uuid_v7};
use hostler::domain::part::{Part, PartFacts, PartKind, PartState};
use hostler::domain::poll::{Lane, PollKind, PollState};
use hostler::domain::reading::{Latest, Point, Quality};
use hostler::domain::time::Timestamp;
use hostler::store::hardware_log::LogFilter;
use hostler::store::sheets::{Sheet, Traffic, hour_of};
use hostler::store::{Store, Tx};

use crate::support::engines::both;

fn at(secs: i64) -> Timestamp {
    Timestamp(1_800_000_000_000_000 + secs * 1_000_000)
}

async fn machine(store: &Store, n: u8) -> MachineId {
    let serial: Serial = format!("LAB{n:04}").parse().unwrap();
    let evidence = Evidence { uuid: None, serial: Some(serial), macs: vec![], parts: vec![], source: Source::Agent };
    let mut m = blank_machine(MachineId(clock::fresh_uuid()), format!("lab{n:04}").parse().unwrap(), &evidence, clock::now());
    m.accepted_at = Some(clock::now());
    let mut tx = store.begin().await.unwrap();
    tx.insert_machine(&m).await.unwrap();
    tx.put_bmc(m.id, &format!("10.0.0.{n}").parse().unwrap(), "root", "sealed").await.unwrap();
    tx.commit().await.unwrap();
    m.id
}

async fn write<T>(store: &Store, act: impl AsyncFnOnce(&mut Tx) -> T) -> T {
    let mut tx = store.begin().await.unwrap();
    let out = act(&mut tx).await;
    tx.commit().await.unwrap();
    out
}

#[tokio::test]
async fn a_machine_is_polled_once_its_bmc_is_known_and_claims_are_exclusive() {
    for on in both().await {
        let store = &on.store;
        let id = machine(store, 1).await;
        assert_eq!(store.unpolled_machines(10).await.unwrap(), [id], "{}", on.name);
        write(store, async |tx| tx.insert_polls(id, at(0)).await.unwrap()).await;
        assert!(store.unpolled_machines(10).await.unwrap().is_empty());
        assert_eq!(store.next_poll_due().await.unwrap(), Some(at(0)));
        let lease = Duration::from_secs(60);
        let claims = store.claim_due_polls("a", at(1), lease, 10).await.unwrap();
        assert_eq!(claims.iter().map(|c| c.lane).collect::<HashSet<_>>(), HashSet::from(Lane::ALL), "{}", on.name);
        assert!(store.claim_due_polls("b", at(2), lease, 10).await.unwrap().is_empty(), "{}", on.name);
        assert_eq!(store.next_poll_due().await.unwrap(), Some(at(61)));
        // The lease runs out; the first owner's late answer does not count.
        let taken = store.claim_due_polls("b", at(61), lease, 10).await.unwrap();
        assert_eq!(taken.len(), 2);
        let states = BTreeMap::from([(PollKind::Power, PollState { failures: 3, ..PollState::default() })]);
        let late = claims.iter().find(|c| c.lane == Lane::Quick).unwrap();
        assert!(!write(store, async |tx| tx.finish_poll(late, at(100), &states).await.unwrap()).await, "{}", on.name);
        let ours = taken.iter().find(|c| c.lane == Lane::Quick).unwrap();
        assert!(write(store, async |tx| tx.finish_poll(ours, at(100), &states).await.unwrap()).await);
        assert_eq!(store.polls(id).await.unwrap()[&PollKind::Power].failures, 3);
        write(store, async |tx| tx.reset_polls(id, at(70)).await.unwrap()).await;
        assert!(store.polls(id).await.unwrap().is_empty(), "another login is another story");
        write(store, async |tx| tx.delete_machine(id).await.unwrap()).await;
        assert_eq!(store.next_poll_due().await.unwrap(), None, "{}", on.name);
    }
}

#[tokio::test]
async fn samples_and_rollups_come_back_over_the_edges_of_hours() {
    for on in both().await {
        let store = &on.store;
        let id = machine(store, 1).await;
        let start = hour_of(at(0)) * 3600;
        let when = |minute: i64| Timestamp((start + minute * 60) * 1_000_000);
        for minute in 0..150 {
            let points =
                [(1, Point::Good(20.0 + (minute % 5) as f64)), (2, if minute % 2 == 0 { Point::Absent } else { Point::Good(0.5) })];
            write(store, async |tx| tx.add_samples(id, when(minute), &points).await.unwrap()).await;
        }
        let read = |store: Store| async move { store.samples(id, when(50), when(70)).await.unwrap() };
        let open = read(store.clone()).await;
        assert_eq!(open[&1].len(), 21, "{}", on.name);
        let rolled = store.rollups(id, 1, when(0), when(149)).await.unwrap();
        assert_eq!((rolled.len(), rolled[0].1.min, rolled[0].1.mean, rolled[0].1.max, rolled[0].1.count), (30, 20.0, 22.0, 24.0, 5));
        // Two hours are over; sealing changes nothing that is read.
        assert_eq!(store.seal_samples(hour_of(when(149)), 100).await.unwrap(), 2, "{}", on.name);
        assert_eq!(store.seal_samples(hour_of(when(149)), 100).await.unwrap(), 0, "once is enough");
        assert_eq!(read(store.clone()).await, open, "{}", on.name);
        assert_eq!(store.rollups(id, 1, when(0), when(149)).await.unwrap(), rolled, "{}", on.name);
        // A sealed hour takes no more.
        write(store, async |tx| tx.add_samples(id, when(30), &[(1, Point::Good(99.0))]).await.unwrap()).await;
        assert_eq!(store.rollups(id, 1, when(0), when(149)).await.unwrap(), rolled);
    }
}

#[tokio::test]
async fn pruning_drops_what_is_old_within_its_bound_and_nothing_else() {
    for on in both().await {
        let store = &on.store;
        let (id, hour) = (machine(store, 1).await, hour_of(at(0)));
        for n in 0..5 {
            let when = Timestamp((hour + n) * 3_600_000_000);
            write(store, async |tx| {
                tx.add_samples(id, when, &[(1, Point::Good(1.0))]).await.unwrap();
                tx.add_traffic(id, hour + n, Traffic { requests: 1, commands: 2, polls: 1, failures: 0 }).await.unwrap();
            })
            .await;
        }
        store.seal_samples(hour + 5, 100).await.unwrap();
        let prune = async |before: i64, limit| write(store, async |tx| tx.prune_samples(before, limit).await.unwrap()).await;
        assert_eq!(prune(hour, 100).await, 0, "{}: nothing is older", on.name);
        assert_eq!(prune(hour + 3, 2).await, 2, "{}", on.name);
        assert_eq!(prune(hour + 3, 2).await, 1, "{}", on.name);
        assert_eq!(store.samples(id, Timestamp(0), at(1_000_000)).await.unwrap()[&1].len(), 2);
        assert_eq!(write(store, async |tx| tx.prune_traffic(hour + 1, 100).await.unwrap()).await, 1);
        let left = store.traffic(id, 0).await.unwrap();
        assert_eq!((left.len(), left[0].1.commands), (4, 2), "{}", on.name);
        let day = hour.div_euclid(24);
        assert_eq!(write(store, async |tx| tx.prune_rollups(day, 100).await.unwrap()).await, 0);
        assert!(write(store, async |tx| tx.prune_rollups(day + 2, 100).await.unwrap()).await >= 1);
    }
}

#[tokio::test]
async fn documents_and_traffic_add_up() {
    for on in both().await {
        let store = &on.store;
        let id = machine(store, 1).await;
        assert_eq!(store.sheet::<Vec<Latest>>(id, Sheet::Readings).await.unwrap(), None);
        let latest = Latest {
            number: 1,
            value: Some(21.5),
            words: vec![],
            offsets: None,
            at: Some(at(0)),
            named_at: at(0),
            quality: Quality::Good,
            health: None,
            why: None,
        };
        write(store, async |tx| {
            tx.put_sheet(id, Sheet::Readings, at(0), &vec![latest.clone()]).await.unwrap();
            let some = Traffic { requests: 3, commands: 0, polls: 1, failures: 1 };
            tx.add_traffic(id, 7, some).await.unwrap();
            tx.add_traffic(id, 7, some).await.unwrap();
        })
        .await;
        assert_eq!(store.sheet::<Vec<Latest>>(id, Sheet::Readings).await.unwrap(), Some((vec![latest], at(0))), "{}", on.name);
        assert_eq!(store.traffic(id, 7).await.unwrap(), [(7, Traffic { requests: 6, commands: 0, polls: 2, failures: 2 })]);
        assert_eq!(store.traffic_in(7).await.unwrap().len(), 1, "{}", on.name);
    }
}

fn entry(id: &str, message: &str, secs: i64, severity: LogSeverity) -> LogEntry {
    let mut content = [0; 32];
    for (to, from) in content.iter_mut().zip(format!("{message}{secs}").bytes()) {
        *to = from;
    }
    LogEntry {
        log: "sel".to_owned(),
        id: id.to_owned(),
        at: Some(at(secs)),
        severity,
        direction: LogDirection::Asserted,
        message: message.to_owned(),
        message_id: None,
        message_args: vec![],
        ipmi: None,
        origin: Some("PSU 2".to_owned()),
        content: Sha256(content),
        source: "sel".to_owned(),
    }
}

async fn take(store: &Store, id: MachineId, epoch: u64, entries: &[LogEntry]) -> Vec<String> {
    let taken = write(store, async |tx| {
        tx.take_log_entries(
            id,
            epoch,
            entries,
            |_| false,
            at(0),
            |n| uuid_v7(at(epoch as i64).plus(Duration::from_millis(n as u64)), clock::random()),
        )
        .await
        .unwrap()
    })
    .await;
    taken.into_iter().map(|k| k.entry.message).collect()
}

#[tokio::test]
async fn c4_a_log_is_taken_once_and_a_cleared_one_loses_nothing_and_repeats_nothing() {
    for on in both().await {
        let store = &on.store;
        let id = machine(store, 1).await;
        let first = [entry("1", "fan failed", 1, LogSeverity::Critical), entry("2", "fan back", 2, LogSeverity::Info)];
        assert_eq!(take(store, id, 1, &first).await, ["fan failed", "fan back"], "{}", on.name);
        assert!(take(store, id, 1, &first).await.is_empty(), "{}: read again after a crash", on.name);
        // Cleared: ids start again with other content. Wrapped: an old entry comes under a new id.
        let second = [
            entry("1", "log cleared", 10, LogSeverity::Info),
            entry("2", "fan failed", 11, LogSeverity::Critical),
            entry("3", "fan back", 2, LogSeverity::Info),
        ];
        assert_eq!(take(store, id, 2, &second).await, ["log cleared", "fan failed"], "{}", on.name);
        let all = store.hardware_log(id, &LogFilter::default(), 10).await.unwrap();
        assert_eq!(all.iter().map(|k| (k.epoch, k.entry.id.as_str())).collect::<Vec<_>>(), [(2, "2"), (2, "1"), (1, "2"), (1, "1")]);
    }
}

#[tokio::test]
async fn a_log_is_searched_by_words_and_severity_and_its_evidence_is_kept() {
    for on in both().await {
        let store = &on.store;
        let id = machine(store, 1).await;
        let entries = [
            entry("1", "Fan 3 at 100% speed", 1, LogSeverity::Warning),
            entry("2", "Power Supply input lost", 2, LogSeverity::Critical),
            entry("3", "Login by root", 3, LogSeverity::Info),
        ];
        take(store, id, 1, &entries).await;
        let found = async |filter: LogFilter| -> Vec<String> {
            store.hardware_log(id, &filter, 10).await.unwrap().into_iter().map(|k| k.entry.id).collect()
        };
        let text = |t: &str| LogFilter { text: Some(t.to_owned()), ..LogFilter::default() };
        assert_eq!(found(text("power supply")).await, ["2"], "{}", on.name);
        assert_eq!(found(text("100%")).await, ["1"], "{}", on.name);
        assert_eq!(found(text("1%0")).await, Vec::<String>::new(), "{}: a percent sign is itself", on.name);
        assert_eq!(found(text("psu 2")).await.len(), 3);
        assert_eq!(found(LogFilter { at_least: Some(LogSeverity::Warning), ..LogFilter::default() }).await, ["2", "1"]);
        assert_eq!(found(LogFilter { at_least: Some(LogSeverity::Critical), ..LogFilter::default() }).await, ["2"]);
        let one = store.hardware_log(id, &text("power supply"), 1).await.unwrap().remove(0);
        let evidence = store.evidence(one.evidence).await.unwrap().unwrap();
        assert_eq!(serde_json::from_str::<LogEntry>(&evidence).unwrap(), entries[1], "{}", on.name);
        let prune = async |before| write(store, async |tx| tx.prune_evidence(before, 100).await.unwrap()).await;
        assert_eq!(prune(at(1000)).await, 0, "{}: the log refers to it", on.name);
        write(store, async |tx| tx.delete_machine(id).await.unwrap()).await;
        assert_eq!(prune(at(0)).await, 0, "{}: too young", on.name);
        assert_eq!(prune(at(1000)).await, 3, "{}", on.name);
    }
}

#[tokio::test]
async fn how_far_a_log_was_read_is_kept() {
    for on in both().await {
        let store = &on.store;
        let id = machine(store, 1).await;
        let cursor = LogCursor { epoch: "2026".to_owned(), seen: vec![Sha256([7; 32])], last_id: "12".to_owned() };
        let news = LogNews {
            entries: vec![],
            cursor: cursor.clone(),
            new_epoch: false,
            may_have_lost: false,
            fill: Some((12, 512)),
            not_understood: vec![],
        };
        write(store, async |tx| tx.put_log_mark(id, "sel", 3, &news, at(5)).await.unwrap()).await;
        let marks = store.log_marks(id).await.unwrap();
        assert_eq!((marks.len(), &marks[0].cursor, marks[0].epoch, marks[0].fill), (1, &cursor, 3, Some((12, 512))), "{}", on.name);
    }
}

fn dimm(serial: &str) -> Part {
    Part {
        kind: PartKind::Dimm,
        source: "/redfish/v1/Systems/1/Memory/1".to_owned(),
        name: "DIMM 1".to_owned(),
        place: Some("A1".to_owned()),
        manufacturer: None,
        model: None,
        part_number: None,
        serial: Some(serial.parse().unwrap()),
        firmware: None,
        state: PartState::Present,
        health: None,
        facts: PartFacts::default(),
    }
}

#[tokio::test]
async fn parts_keep_their_serial_history_and_an_empty_answer_deletes_nothing() {
    for on in both().await {
        let store = &on.store;
        let id = machine(store, 1).await;
        let mut known: Vec<KnownPart> = Vec::new();
        for (secs, serial) in [(0, "AAA1"), (300, "BBB2")] {
            let compared = compare(&known, vec![dimm(serial)], Walk::Whole, at(secs));
            write(store, async |tx| {
                tx.put_parts(id, &known, &compared.known).await.unwrap();
                for change in &compared.changes {
                    let evidence = tx.put_evidence(&dimm(serial), at(secs)).await.unwrap();
                    tx.insert_part_event(clock::fresh_uuid(), id, change, evidence, at(secs)).await.unwrap();
                }
            })
            .await;
            known = store.parts(id).await.unwrap();
        }
        assert_eq!((known.len(), known[0].since), (1, at(300)), "{}", on.name);
        let history = store.part_history(id, 10).await.unwrap();
        assert_eq!((history.len(), history[0].kind.as_str()), (1, "part.swapped"), "{}", on.name);
        assert_eq!(store.machines_with_part(&"BBB2".parse().unwrap()).await.unwrap(), [id]);
        assert!(store.machines_with_part(&"AAA1".parse().unwrap()).await.unwrap().is_empty());
        let nothing = compare(&known, vec![], Walk::Whole, at(600));
        write(store, async |tx| tx.put_parts(id, &known, &nothing.known).await.unwrap()).await;
        assert!(nothing.changes.iter().all(|c| !matches!(c, PartChange::Gone { .. })));
        assert_eq!(store.parts(id).await.unwrap().len(), 1, "{}", on.name);
        write(store, async |tx| tx.put_parts(id, &known, &[]).await.unwrap()).await;
        assert_eq!(store.parts(id).await.unwrap().len(), 1, "{}: nothing to write is nothing to delete", on.name);
    }
}

#[tokio::test]
async fn a_lit_led_is_put_out_by_one_and_tried_again_when_that_fails() {
    for on in both().await {
        let store = &on.store;
        let id = machine(store, 1).await;
        write(store, async |tx| tx.put_lit_led(id, at(0), at(60), "kim").await.unwrap()).await;
        let again = Duration::from_secs(30);
        assert!(store.take_due_leds(at(59), again, 10).await.unwrap().is_empty(), "{}", on.name);
        assert_eq!(store.take_due_leds(at(60), again, 10).await.unwrap().len(), 1, "{}", on.name);
        assert!(store.take_due_leds(at(61), again, 10).await.unwrap().is_empty(), "{}", on.name);
        assert_eq!(store.take_due_leds(at(90), again, 10).await.unwrap()[0].tries, 2, "{}", on.name);
        write(store, async |tx| tx.delete_lit_led(id).await.unwrap()).await;
        assert_eq!(store.lit_led(id).await.unwrap(), None);
    }
}
