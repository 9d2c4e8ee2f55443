//! The boards of simulated machines over IPMI: `ipmitool` as the client that we did not write, then our own driver.

use std::time::Duration;

use hostler::bmc::BmcError;
use hostler::domain::bmc_features::{Capability, LedState};
use hostler::domain::hardware_log::LogCursor;
use hostler::domain::part::{PartKind, PartState};
use hostler::domain::power::PowerState;
use hostler::domain::secret::Secret;
use hostler::domain::sensor::{Health, Reading, SensorKind};
use hostler::sim::bmc::Strike;

use super::kit::{access, bmcs, machine, setup, start};
use super::openipmi::tool;
use super::process::{program, said};

#[tokio::test]
async fn ipmitool_reads_sensors_log_inventory_users_lan_and_power_of_a_simulated_board() {
    let Some(ipmitool) = program("ipmitool") else { return };
    let (bmc, _) = start(PowerState::On, setup()).await;
    bmc.strike(&Strike::Drift { sensor: "InletTemp".into(), to: Some(40.0), secs: 0 }).unwrap();
    let psu = bmc.board(|b| b.of_kind(PartKind::PowerSupply).next().unwrap().clone());
    bmc.strike(&Strike::PartFailed { part: psu.id.clone() }).unwrap();
    let port = bmc.ipmi_address().unwrap().port.unwrap();
    let sensors = bmc.board(|b| b.sensors.len());
    tokio::task::spawn_blocking(move || {
        let run = |args: &[&str]| {
            let output = tool(&ipmitool, port, 17, "secret", args);
            assert!(output.status.success(), "{args:?}: {}", said(&output));
            said(&output)
        };
        let sdr = run(&["sdr", "elist"]);
        let inlet = sdr.lines().find(|l| l.starts_with("Inlet Temp")).unwrap_or_else(|| panic!("{sdr}"));
        assert!(inlet.contains("nc |") && inlet.ends_with("40 degrees C"), "{inlet}");
        assert!(sdr.lines().count() > sensors, "numbers and states: {sdr}");
        assert!(sdr.contains("Presence detected, Failure detected"), "{sdr}");
        let limits = run(&["sensor", "list"]);
        let inlet = limits.lines().find(|l| l.starts_with("Inlet Temp")).unwrap_or_else(|| panic!("{limits}"));
        assert!(["40.000", "-7.000", "3.000", "38.000", "42.000"].iter().all(|n| inlet.contains(n)), "{inlet}");
        let log = run(&["sel", "elist"]);
        assert!(log.contains("Inlet Temp") && log.contains("Upper Non-critical going high"), "{log}");
        let fru = run(&["fru", "print"]);
        assert!(fru.contains("SN00042") && fru.contains(&psu.serial), "{fru}");
        let users = run(&["user", "list", "1"]);
        assert!(users.lines().any(|l| l.contains("admin") && l.contains("ADMINISTRATOR")), "{users}");
        assert!(run(&["lan", "print", "1"]).lines().any(|l| l.starts_with("IP Address  ") && l.ends_with("127.0.0.1")));
        assert!(run(&["dcmi", "power", "reading"]).contains("Watts"));
        assert!(run(&["chassis", "status"]).contains("System Power         : on"));
        run(&["chassis", "identify", "force"]);
        run(&["sel", "clear"]);
        assert!(run(&["mc", "info"]).contains("SDR Repository Device"));
    })
    .await
    .unwrap();
    assert!(bmc.board(|b| b.led), "lit");
    assert!(bmc.board(|b| b.host_log.len()) <= 1, "cleared, with the entry that says so");
    assert_eq!(bmc.counts().open_sessions, 0);
}

#[tokio::test]
async fn our_driver_sees_the_same_board_over_ipmi_as_its_owner() {
    let (bmc, _) = start(PowerState::On, setup()).await;
    let (bmcs, access) = (bmcs(), access(bmc.ipmi_address().unwrap(), "admin", "secret"));
    let found = bmcs.sensors(machine(), &access).await.unwrap().value;
    assert_eq!((found.not_understood, found.unread), (vec![], vec![]));
    let numeric: Vec<_> = found.items.iter().filter(|s| s.id.starts_with("sdr:") && s.kind != SensorKind::Discrete).collect();
    assert_eq!(numeric.len(), bmc.board(|b| b.sensors.len()));
    for sensor in &numeric {
        let number = u8::from_str_radix(sensor.id.rsplit(':').next().unwrap(), 16).unwrap();
        let (kind, limit) =
            bmc.board(|b| b.sensors.iter().find(|s| s.number == number).map(|s| (s.kind, s.thresholds.upper_critical)).unwrap());
        assert!(sensor.reading.number().is_some(), "{}: {:?}", sensor.name, sensor.reading);
        assert_eq!((sensor.kind, sensor.thresholds.upper_critical.is_some()), (kind, limit.is_some()), "{}", sensor.name);
        if let (Some(ours), Some(limit)) = (sensor.thresholds.upper_critical, limit) {
            assert!((ours - limit).abs() <= limit.abs() * 0.02 + 0.5, "{}: {ours} for {limit}", sensor.name);
        }
    }
    assert!(found.items.iter().any(|s| s.id == "dcmi:power" && s.reading.number().is_some()));

    // A second look costs one request for each sensor and a few more: the records are kept.
    let before = bmc.counts().requests;
    bmcs.sensors(machine(), &access).await.unwrap();
    let asked = bmc.counts().requests - before;
    assert!(asked <= found.items.len() as u64 + 2, "{asked} requests for {} sensors", found.items.len());

    let parts = bmcs.parts(machine(), &access).await.unwrap().value;
    assert_eq!((parts.not_understood, parts.unread), (vec![], vec![]));
    for kind in [PartKind::PowerSupply, PartKind::Cpu, PartKind::Dimm, PartKind::Drive] {
        let (ours, theirs) = (parts.items.iter().filter(|p| p.kind == kind).count(), bmc.board(|b| b.of_kind(kind).count()));
        assert_eq!(ours, theirs, "{kind}: {:?}", parts.items.iter().filter(|p| p.kind == kind).collect::<Vec<_>>());
    }
    let serial = bmc.board(|b| b.of_kind(PartKind::PowerSupply).next().unwrap().serial.clone());
    let supply = parts.items.iter().find(|p| p.serial.as_ref().is_some_and(|s| s.as_str() == serial)).unwrap();
    assert_eq!((&supply.state, supply.health), (&PartState::Present, Some(Health::Ok)));
    let sheet = bmcs.supports(machine(), &access).await.unwrap().value;
    for there in [Capability::Sensors, Capability::Logs, Capability::PowerReading, Capability::LocatorLed, Capability::SerialConsole] {
        assert!(sheet.iter().any(|s| s.capability == there && s.offered), "{there}: {sheet:?}");
    }
    bmcs.close_all().await;
}

#[tokio::test]
async fn c1_a_sensor_without_a_value_stays_listed_and_is_not_healthy() {
    let (bmc, _) = start(PowerState::Off, setup()).await;
    let (bmcs, access) = (bmcs(), access(bmc.ipmi_address().unwrap(), "admin", "secret"));
    let off = bmcs.sensors(machine(), &access).await.unwrap().value.items;
    let fans: Vec<_> = off.iter().filter(|s| s.kind == SensorKind::Fan).collect();
    assert_eq!(fans.len(), 6);
    assert!(fans.iter().all(|s| matches!(s.reading, Reading::Unavailable { .. }) && s.health.is_none()), "{fans:?}");
    bmcs.close_all().await;
}

#[tokio::test]
async fn the_simulated_log_is_followed_through_a_crossing_a_clear_and_a_refill() {
    let (bmc, _) = start(PowerState::On, setup()).await;
    let (bmcs, access) = (bmcs(), access(bmc.ipmi_address().unwrap(), "admin", "secret"));
    let news = async |cursor: &LogCursor| bmcs.log_news(machine(), &access, "sel", cursor).await.unwrap().value;
    let first = news(&LogCursor::default()).await;
    bmc.strike(&Strike::Drift { sensor: "InletTemp".into(), to: Some(45.0), secs: 0 }).unwrap();
    let crossed = news(&first.cursor).await;
    let words: Vec<_> = crossed.entries.iter().map(|e| e.message.as_str()).collect();
    assert_eq!(words.len(), 2, "{words:?}");
    assert!(words[0].starts_with("Inlet Temp: Upper Non-critical - going high") && words[1].contains("Upper Critical"), "{words:?}");
    // Defect C7: an entry that came after the read keeps the log from being cleared.
    let stale = bmcs.clear_log(machine(), &access, "sel", &first.cursor).await.unwrap_err();
    assert!(matches!(stale, BmcError::Busy { .. }), "{stale}");
    bmcs.clear_log(machine(), &access, "sel", &crossed.cursor).await.unwrap();
    let after = news(&crossed.cursor).await;
    assert!(after.new_epoch && !after.may_have_lost, "{after:?}");
    bmc.strike(&Strike::LogCleared).unwrap();
    bmc.strike(&Strike::LogFull).unwrap();
    let full = news(&after.cursor).await;
    let (used, total) = full.fill.unwrap();
    assert_eq!(used, total, "full: blindness (BMC-3)");
    // Cleared twice within a second, its first entry is the one that we know.
    assert!(full.entries.len() as u32 + 1 >= used, "{} of {used}", full.entries.len());
    assert!(news(&full.cursor).await.entries.is_empty());
    bmcs.close_all().await;
}

#[tokio::test]
async fn accounts_led_clock_and_console_of_a_simulated_board() {
    let (bmc, _) = start(PowerState::On, setup()).await;
    let (bmcs, admin) = (bmcs(), access(bmc.ipmi_address().unwrap(), "admin", "secret"));
    let secret = |s: &str| Secret::new(s.to_owned());
    let account = bmcs.put_account(machine(), &admin, "spare", &secret("a-password-of-20-byt"), true).await.unwrap().value;
    let spare = access(admin.address.clone(), "spare", "a-password-of-20-byt");
    super::kit::bmcs().power(machine(), &spare).await.unwrap();
    bmcs.set_account_password(machine(), &admin, &account.source, &secret("short")).await.unwrap();
    let old = super::kit::bmcs().power(machine(), &spare).await.unwrap_err();
    assert!(matches!(old, BmcError::Unauthorized { .. }), "{old}");
    bmcs.delete_account(machine(), &admin, &account.source).await.unwrap();
    let left = bmcs.accounts(machine(), &admin).await.unwrap().value.items;
    assert_eq!(left.iter().filter_map(|a| a.name.as_deref()).collect::<Vec<_>>(), ["admin"]);

    bmcs.set_locator_led(machine(), &admin, LedState::On, None).await.unwrap();
    assert_eq!(bmcs.locator_led(machine(), &admin).await.unwrap().value, LedState::On);
    bmcs.set_locator_led(machine(), &admin, LedState::Off, None).await.unwrap();
    assert_eq!(bmcs.locator_led(machine(), &admin).await.unwrap().value, LedState::Off);
    bmcs.set_locator_led(machine(), &admin, LedState::On, Some(Duration::from_secs(1))).await.unwrap();
    let end = std::time::Instant::now() + Duration::from_secs(10);
    while bmcs.locator_led(machine(), &admin).await.unwrap().value != LedState::Off {
        assert!(std::time::Instant::now() < end, "its own timer puts it out");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(bmcs.clock_offset(machine(), &admin).await.unwrap().value.unwrap().abs() <= 2);

    let mut console = bmcs.serial_console(machine(), &admin).await.unwrap().value;
    let mut seen = String::new();
    console.write(b"root\r").await.unwrap();
    while seen.matches("SN00042 login: ").count() < 2 {
        let text = tokio::time::timeout(Duration::from_secs(10), console.read()).await.unwrap_or_else(|_| panic!("only {seen:?}"));
        seen.push_str(&String::from_utf8_lossy(&text.unwrap()));
    }
    assert!(seen.contains("login: root\r\n"), "{seen:?}");
    assert!(matches!(bmcs.serial_console(machine(), &admin).await, Err(BmcError::Busy { .. })));
    console.close().await.unwrap();
    bmcs.close_all().await;
}
