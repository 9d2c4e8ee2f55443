//! A machine whose BMC has said a lot, as the collector would have stored it.

use std::collections::BTreeMap;
use std::time::Duration;

use hostler::clock;
use hostler::decide::parts::{Walk, compare};
use hostler::decide::quality::take;
use hostler::domain::bmc::BmcProtocol;
use hostler::domain::bmc_features::{BiosAttribute, Capability, FirmwareItem, Oddity, Support};
use hostler::domain::hardware_log::{LogCursor, LogDirection, LogEntry, LogNews, LogSeverity};
use hostler::domain::id::{MachineId, Sha256, uuid_v7};
use hostler::domain::part::{Part, PartFacts, PartKind, PartState};
use hostler::domain::poll::{Lane, PollKind, PollState};
use hostler::domain::power::PowerState;
use hostler::domain::sensor::{Health, Reading, Sensor, SensorKind, Thresholds, Unit};
use hostler::domain::time::Timestamp;
use hostler::store::Store;
use hostler::store::polls::Contact;
use hostler::store::sheets::{Sheet, Traffic, hour_of};

/// A text that would do something if it were not made harmless.
pub const HOSTILE: &str = "<script>alert(1)</script>\u{202e}\u{1b}[31m";

fn sensor(id: &str, kind: SensorKind, unit: Unit, value: f64, thresholds: Thresholds) -> Sensor {
    Sensor {
        id: format!("/redfish/v1/Chassis/1/Sensors/{id}"),
        name: id.to_owned(),
        kind,
        unit,
        reading: Reading::Number { value },
        thresholds,
        range: (None, None),
        context: (kind == SensorKind::Temperature).then(|| "SystemBoard".to_owned()),
        health: None,
        hysteresis: None,
        source: format!("/redfish/v1/Chassis/1/Sensors/{id}"),
    }
}

/// What the BMC says at minute `n` of two hours.
fn sensors(n: i64) -> Vec<Sensor> {
    let wave = |amplitude: f64, period: f64| ((n as f64 / period).sin() * amplitude * 10.0).round() / 10.0;
    let heat = |caution, critical| Thresholds { upper_caution: Some(caution), upper_critical: Some(critical), ..Thresholds::default() };
    let slow = Thresholds { lower_caution: Some(1200.0), lower_critical: Some(900.0), ..Thresholds::default() };
    let rail = Thresholds { lower_critical: Some(11.4), upper_critical: Some(12.6), ..Thresholds::default() };
    let mut all = vec![
        sensor("Inlet Temp", SensorKind::Temperature, Unit::Celsius, 24.0 + wave(1.0, 20.0), heat(38.0, 42.0)),
        sensor("CPU 1 Temp", SensorKind::Temperature, Unit::Celsius, 61.0 + wave(6.0, 9.0), heat(85.0, 95.0)),
        sensor("CPU 2 Temp", SensorKind::Temperature, Unit::Celsius, 80.0 + n as f64 / 15.0, heat(85.0, 95.0)),
        sensor("DIMM A1 Temp", SensorKind::Temperature, Unit::Celsius, 43.0, heat(80.0, 90.0)),
        sensor("Fan 1", SensorKind::Fan, Unit::Rpm, 5400.0 + (wave(3.0, 7.0) * 120.0).round(), slow),
        sensor("Fan 2", SensorKind::Fan, Unit::Rpm, if n > 100 { 480.0 } else { 5520.0 }, slow),
        sensor("12V rail", SensorKind::Voltage, Unit::Volt, 12.06 + (n % 3) as f64 / 100.0, rail),
        sensor("System power", SensorKind::Power, Unit::Watt, 318.0 + wave(40.0, 5.0).round(), Thresholds::default()),
        sensor(HOSTILE, SensorKind::Temperature, Unit::Celsius, 30.0, Thresholds::default()),
    ];
    let psu = sensor("PSU 2 status", SensorKind::Discrete, Unit::None, 0.0, Thresholds::default());
    all.push(Sensor {
        reading: Reading::States { words: vec!["presence detected".to_owned(), "input lost".to_owned()], offsets: 9 },
        ..psu
    });
    let gone = sensor("PCIe Temp", SensorKind::Temperature, Unit::Celsius, 50.0, Thresholds::default());
    if n < 60 {
        all.push(gone);
    } else {
        all.push(Sensor { reading: Reading::Unavailable { why: "scanning is off".to_owned() }, ..gone });
    }
    // Left out of every answer after the first hour.
    if n < 60 {
        all.push(sensor("Exhaust Temp", SensorKind::Temperature, Unit::Celsius, 41.0, heat(70.0, 75.0)));
    }
    all
}

fn part(kind: PartKind, n: u32, place: &str, serial: Option<&str>, model: &str) -> Part {
    Part {
        kind,
        source: format!("/redfish/v1/Systems/1/{kind}/{n}"),
        name: format!("{kind} {n}"),
        place: Some(place.to_owned()),
        manufacturer: Some("Samsung".to_owned()),
        model: Some(model.to_owned()),
        part_number: Some("M393A4K40DB3-CWE".to_owned()),
        serial: serial.map(|s| s.parse().unwrap()),
        firmware: None,
        state: if serial.is_some() { PartState::Present } else { PartState::Absent },
        health: serial.map(|_| Health::Ok),
        facts: PartFacts { capacity_bytes: Some(32 << 30), speed_mhz: Some(3200), ..PartFacts::default() },
    }
}

fn parts(swapped: bool) -> Vec<Part> {
    let mut all = vec![
        part(PartKind::Dimm, 1, "PROC 1 DIMM 1", Some(if swapped { "F0A1C2D4" } else { "F0A1C2D3" }), "DDR4-3200 RDIMM"),
        part(PartKind::Dimm, 2, "PROC 1 DIMM 2", Some("F0A1C2E9"), "DDR4-3200 RDIMM"),
        part(PartKind::Dimm, 3, "PROC 1 DIMM 3", None, ""),
    ];
    let drive = part(PartKind::Drive, 1, "Bay 4", Some("S5G9NX0R"), HOSTILE);
    all.push(Part {
        health: Some(Health::Critical),
        facts: PartFacts {
            capacity_bytes: Some(3_840_755_982_336),
            media: Some("SSD".to_owned()),
            protocol: Some("NVMe".to_owned()),
            failure_predicted: Some(true),
            life_left_percent: Some(7.0),
            ..PartFacts::default()
        },
        ..drive
    });
    let psu = part(PartKind::PowerSupply, 2, "PSU 2", Some("5WBXK0A1"), "865408-B21");
    all.push(Part { health: Some(Health::Warning), facts: PartFacts { capacity_watts: Some(800.0), ..PartFacts::default() }, ..psu });
    all
}

fn entry(id: &str, at: Timestamp, severity: LogSeverity, message: &str) -> LogEntry {
    let mut content = [0; 32];
    for (to, from) in content.iter_mut().zip(message.bytes()) {
        *to = from;
    }
    LogEntry {
        log: "/redfish/v1/Systems/1/LogServices/IML".to_owned(),
        id: id.to_owned(),
        at: Some(at),
        severity,
        direction: LogDirection::Said,
        message: message.to_owned(),
        message_id: Some("iLOEvents.3.0.PowerSupplyInputLost".to_owned()),
        message_args: vec![],
        ipmi: None,
        origin: Some("PSU 2".to_owned()),
        content: Sha256(content),
        source: "/redfish/v1/Systems/1/LogServices/IML/Entries".to_owned(),
    }
}

/// Stores two hours of answers up to now for a machine whose BMC is known.
pub async fn observed(store: &Store, id: MachineId) {
    let now = clock::now();
    let status = store.machine(id).await.unwrap().unwrap().bmc.unwrap();
    let (mut known, mut latest) = (Vec::new(), Vec::new());
    let mut tx = store.begin().await.unwrap();
    for n in 0..=120 {
        let at = now.minus(Duration::from_secs(u64::try_from(120 - n).unwrap() * 60));
        let taken = take(&known, &latest, sensors(n), at);
        tx.add_samples(id, at, &taken.points).await.unwrap();
        (known, latest) = (taken.known, taken.latest);
    }
    tx.put_sheet(id, Sheet::Sensors, now, &known).await.unwrap();
    tx.put_sheet(id, Sheet::Readings, now, &latest).await.unwrap();

    let before = compare(&[], parts(false), Walk::Whole, now.minus(Duration::from_secs(90_000)));
    tx.put_parts(id, &[], &before.known).await.unwrap();
    let after = compare(&before.known, parts(true), Walk::Whole, now.minus(Duration::from_secs(4000)));
    tx.put_parts(id, &before.known, &after.known).await.unwrap();
    for change in &after.changes {
        let at = now.minus(Duration::from_secs(4000));
        let evidence = tx.put_evidence(change.part(), at).await.unwrap();
        tx.insert_part_event(uuid_v7(at, clock::random()), id, change, evidence, at).await.unwrap();
    }
    let odd = Oddity { source: "/redfish/v1/Chassis/1/Oem".to_owned(), what: "a member without a name".to_owned() };
    tx.put_sheet(id, Sheet::Oddities, now, &vec![odd]).await.unwrap();

    let hour = |n: u64| now.minus(Duration::from_secs(n * 3600));
    let entries = [
        entry("11", hour(9000), LogSeverity::Critical, "Uncorrectable memory error, from before Hostler"),
        entry("12", hour(30), LogSeverity::Info, "Power on by the button"),
        entry("13", hour(3), LogSeverity::Warning, "Fan 2 runs slow"),
        entry("14", hour(2), LogSeverity::Critical, "Power supply 2 lost its input"),
        entry("15", hour(1), LogSeverity::Warning, HOSTILE),
    ];
    let old = hour(8000);
    let number = |n: usize| uuid_v7(now.plus(Duration::from_millis(n as u64)), clock::random());
    tx.take_log_entries(id, 1, &entries, |e| e.at.is_some_and(|at| at < old), now, number).await.unwrap();
    let news = LogNews {
        entries: vec![],
        cursor: LogCursor::default(),
        new_epoch: false,
        may_have_lost: false,
        fill: Some((487, 512)),
        not_understood: vec![],
    };
    tx.put_log_mark(id, &entries[0].log, 1, &news, now).await.unwrap();

    let firmware = |name: &str, version: &str, updateable| FirmwareItem {
        source: format!("/redfish/v1/UpdateService/FirmwareInventory/{name}"),
        name: name.to_owned(),
        version: Some(version.to_owned()),
        updateable: Some(updateable),
        software_id: None,
        related: vec![],
        health: None,
        in_use: None,
    };
    let items = vec![
        firmware("iLO 5", "2.72 Sep 04 2022", true),
        firmware("System ROM", "U30 v2.68 (07/14/2022)", true),
        firmware("TPM", "1.258", false),
    ];
    tx.put_sheet(id, Sheet::Firmware, now, &items).await.unwrap();
    let bios = |name: &str, value: &str, pending: Option<&str>| BiosAttribute {
        name: name.to_owned(),
        value: Some(value.to_owned()),
        pending: pending.map(str::to_owned),
        display_name: None,
        kind: None,
        allowed: vec![],
        read_only: None,
        source: "/redfish/v1/Systems/1/Bios".to_owned(),
    };
    let items =
        vec![bios("WorkloadProfile", "GeneralPowerEfficientCompute", None), bios("ProcHyperthreading", "Enabled", Some("Disabled"))];
    tx.put_sheet(id, Sheet::Bios, now, &items).await.unwrap();
    let support = |capability, offered, evidence: &str| Support { capability, offered, evidence: evidence.to_owned() };
    let items = vec![
        support(Capability::Sensors, true, "/redfish/v1/Chassis/1/Sensors lists 12 members"),
        support(Capability::LocatorLed, true, "/redfish/v1/Chassis/1 has LocationIndicatorActive"),
        support(Capability::VirtualMedia, false, "/redfish/v1/Managers/1 links no VirtualMedia collection"),
        support(Capability::BootOrder, false, HOSTILE),
    ];
    tx.put_sheet(id, Sheet::Capabilities, now, &items).await.unwrap();
    tx.add_traffic(id, hour_of(now) - 1, Traffic { requests: 174, commands: 0, polls: 121, failures: 1 }).await.unwrap();
    tx.add_traffic(id, hour_of(now), Traffic { requests: 41, commands: 0, polls: 30, failures: 0 }).await.unwrap();

    tx.insert_polls(id, now.plus(Duration::from_secs(86_400))).await.unwrap();
    let contact = Contact { address: status.address, at: now, protocol: BmcProtocol::Redfish, tls_pin: None, power: Some(PowerState::On) };
    tx.note_contact(id, &contact).await.unwrap();
    tx.commit().await.unwrap();
    set_polls(store, id, now).await;
}

/// All polls of a machine went well at `ok_at`, the next ones are far away.
pub async fn set_polls(store: &Store, id: MachineId, ok_at: Timestamp) {
    let far = ok_at.plus(Duration::from_secs(86_400));
    let due = clock::now().plus(Duration::from_secs(200_000));
    let claims = store.claim_due_polls("seed", due, Duration::from_secs(1), 1000).await.unwrap();
    let mut tx = store.begin().await.unwrap();
    for claim in claims.iter().filter(|c| c.machine == id) {
        let kinds = PollKind::ALL.into_iter().filter(|k| k.lane() == claim.lane);
        let states: BTreeMap<PollKind, PollState> = kinds
            .map(|k| {
                let interval_secs = if k.lane() == Lane::Quick { 60 } else { 300 };
                (k, PollState { due_at: far, interval_secs, last_try_at: Some(ok_at), last_ok_at: Some(ok_at), ..PollState::default() })
            })
            .collect();
        assert!(tx.finish_poll(claim, far, &states).await.unwrap());
    }
    tx.commit().await.unwrap();
}
