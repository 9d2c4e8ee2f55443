//! Our clients against our simulated BMC: both dialects, every fault.

use std::time::{Duration, Instant};

use hostler::bmc::{BmcError, BmcSettings, Bmcs, BootSet};
use hostler::domain::bmc::{BmcAddress, BmcProtocol};
use hostler::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState};
use hostler::sim::bmc::{BootOverride, Chassis, Faults, Reach, RedfishFront, SimBmc};

use super::kit::{UUID, access, bmcs, machine, settings, setup, start};
use super::process::{free_tcp_port, program, said, spawn, wait_for_tcp};

fn both(bmc: &SimBmc) -> [BmcAddress; 2] {
    [bmc.redfish_address().unwrap(), bmc.ipmi_address().unwrap()]
}

/// The last word of a failed IPMI login is not answered, so the BMC may count it a moment later.
async fn refused_logins_reach(bmc: &SimBmc, want: u64) {
    let end = Instant::now() + Duration::from_secs(5);
    while bmc.counts().refused_logins < want && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(bmc.counts().refused_logins, want);
}

#[tokio::test]
async fn a_machine_is_known_switched_and_told_what_to_boot_in_both_dialects() {
    for dialect in 0..2 {
        let (bmc, still) = start(PowerState::Off, setup()).await;
        let (bmcs, access) = (bmcs(), access(both(&bmc)[dialect].clone(), "admin", "secret"));
        let id = bmcs.identity(machine(), &access).await.unwrap().value;
        assert_eq!((id.serial.as_deref(), id.uuid.as_deref()), (Some("SN00042"), Some(UUID)));
        assert_eq!(
            (id.manufacturer.as_deref(), id.model.as_deref(), id.asset_tag.as_deref()),
            (Some("LabCorp"), Some("LabServer-1"), Some("A-17"))
        );
        assert_eq!(id.bmc_firmware.as_deref(), Some("2.14"));
        assert_eq!(bmcs.power(machine(), &access).await.unwrap().value, PowerState::Off);

        for (device, firmware) in
            [(BootDevice::Network, FirmwareKind::Uefi), (BootDevice::Disk, FirmwareKind::Bios), (BootDevice::Disk, FirmwareKind::Uefi)]
        {
            let set = bmcs.set_boot_once(machine(), &access, device, firmware).await.unwrap();
            assert_eq!(set.value, BootSet::Once);
            assert_eq!(still.boot_override(), Some(BootOverride { device, firmware, once: true }));
        }
        for action in [
            PowerAction::On,
            PowerAction::Reset,
            PowerAction::Cycle,
            PowerAction::Soft,
            PowerAction::Soft,
            PowerAction::Cycle,
            PowerAction::Off,
        ] {
            bmcs.set_power(machine(), &access, action).await.unwrap();
        }
        // Soft when off is already there; a cycle when off is power on.
        assert_eq!(
            still.actions(),
            [PowerAction::On, PowerAction::Reset, PowerAction::Cycle, PowerAction::Soft, PowerAction::On, PowerAction::Off]
        );
        let refused = bmcs.set_power(machine(), &access, PowerAction::Reset).await.unwrap_err();
        assert!(matches!(refused, BmcError::Refused { .. }), "{refused}");

        assert_eq!((bmc.counts().logins, bmc.counts().open_sessions), (1, 1), "one session serves all");
        bmcs.close_all().await;
        assert_eq!(bmc.counts().open_sessions, 0);
    }
}

#[tokio::test]
async fn wrong_credentials_are_tried_twice_and_never_lock_the_account() {
    for dialect in 0..2 {
        let (bmc, _) = start(PowerState::On, setup()).await;
        let (bmcs, address) = (bmcs(), both(&bmc)[dialect].clone());
        let wrong = access(address.clone(), "admin", "guess");
        for _ in 0..2 {
            let error = bmcs.power(machine(), &wrong).await.unwrap_err();
            assert!(matches!(error, BmcError::Unauthorized { .. }), "{error}");
        }
        let calls = (0..8).map(|_| bmcs.power(machine(), &wrong));
        for answer in futures_util::future::join_all(calls).await {
            let error = answer.unwrap_err();
            assert!(matches!(error, BmcError::Paused { failures: 2, .. }), "{error}");
        }
        refused_logins_reach(&bmc, 2).await;
        assert!(!bmc.counts().locked);
        assert_eq!(bmcs.login_failures(&address).0, 2);

        // Corrected credentials need not wait.
        bmcs.power(machine(), &access(address.clone(), "admin", "secret")).await.unwrap();
        assert_eq!(bmcs.login_failures(&address), (0, None));
    }
}

#[tokio::test]
async fn calls_at_the_same_time_cannot_spend_more_than_two_logins() {
    let (bmc, _) = start(PowerState::On, setup()).await;
    for address in both(&bmc) {
        let (bmcs, wrong) = (bmcs(), access(address, "admin", "guess"));
        let before = bmc.counts().refused_logins;
        let spent = before + 2;
        let answers = futures_util::future::join_all((0..20).map(|_| bmcs.power(machine(), &wrong))).await;
        assert!(answers.iter().all(Result::is_err));
        refused_logins_reach(&bmc, spent).await;
    }
}

#[tokio::test]
async fn a_pause_is_taken_up_again_after_a_restart_of_the_service() {
    let (bmc, _) = start(PowerState::On, setup()).await;
    let wrong = access(bmc.redfish_address().unwrap(), "admin", "guess");
    let first = bmcs();
    for _ in 0..2 {
        drop(first.power(machine(), &wrong).await);
    }
    let (failures, until) = first.login_failures(&wrong.address);
    let second = bmcs();
    second.restore_login_failures(&wrong, failures, until);
    assert!(matches!(second.power(machine(), &wrong).await, Err(BmcError::Paused { .. })));
    assert_eq!(bmc.counts().refused_logins, 2);
}

#[tokio::test]
async fn a_refused_login_is_not_tried_again_in_the_other_dialect() {
    let (bmc, _) = start(PowerState::On, setup()).await;
    let (redfish, ipmi) = (bmc.redfish_address().unwrap(), bmc.ipmi_address().unwrap());
    let bmcs = Bmcs::new(BmcSettings { ipmi_port: ipmi.port.unwrap(), ..settings() });
    let open = BmcAddress { protocol: None, ..redfish };
    assert!(matches!(bmcs.power(machine(), &access(open.clone(), "admin", "guess")).await, Err(BmcError::Unauthorized { .. })));
    assert_eq!(bmc.counts().refused_logins, 1);
    let answer = bmcs.power(machine(), &access(open, "admin", "secret")).await.unwrap();
    assert_eq!(answer.protocol, BmcProtocol::Redfish);
}

#[tokio::test]
async fn a_bmc_without_redfish_is_driven_by_ipmi_and_asked_so_first_from_then_on() {
    let (bmc, still) = start(PowerState::Off, hostler::sim::bmc::Setup { redfish: None, ..setup() }).await;
    // A port where nothing listens stands for a missing web server.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let bmcs = Bmcs::new(BmcSettings { ipmi_port: bmc.ipmi_address().unwrap().port.unwrap(), ..settings() });
    let open = access(
        BmcAddress { protocol: None, tls: true, host: "127.0.0.1".into(), port: Some(closed), system_path: None },
        "admin",
        "secret",
    );
    let answer = bmcs.set_power(machine(), &open, PowerAction::On).await.unwrap();
    assert_eq!((answer.protocol, still.power()), (BmcProtocol::Ipmi, PowerState::On));
    let began = Instant::now();
    bmcs.power(machine(), &open).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(1), "Redfish is not waited for again");
}

#[tokio::test]
async fn an_absent_bmc_is_unreachable_and_says_so_within_its_bound() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for text in [format!("https://{closed}"), format!("ipmi://{closed}")] {
        let error = bmcs().power(machine(), &access(text.parse().unwrap(), "admin", "secret")).await.unwrap_err();
        assert!(matches!(error, BmcError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("cannot be reached"), "{error}");
    }
}

/// RSA key exchange without forward secrecy, as iDRAC 7 and iLO 3 offer: rustls does not speak it.
#[tokio::test]
async fn tls_we_do_not_speak_is_named_and_left_to_ipmi() {
    let Some(openssl) = program("openssl") else { return };
    let (bmc, _) = start(PowerState::On, setup()).await;
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let key = std::process::Command::new(&openssl)
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=old-bmc", "-keyout"])
        .arg(at.join("key"))
        .arg("-out")
        .arg(at.join("cert"))
        .output()
        .unwrap();
    assert!(key.status.success(), "{}", said(&key));
    let port = free_tcp_port();
    let log = at.join("log");
    let _server = spawn(
        std::process::Command::new(&openssl)
            .args(["s_server", "-accept", &format!("127.0.0.1:{port}"), "-tls1_2", "-cipher", "AES256-SHA", "-www", "-key"])
            .arg(at.join("key"))
            .arg("-cert")
            .arg(at.join("cert")),
        &log,
    );
    wait_for_tcp(port, &log);
    let old = access(format!("https://127.0.0.1:{port}").parse().unwrap(), "admin", "secret");
    let error = bmcs().power(machine(), &old).await.unwrap_err();
    assert!(matches!(&error, BmcError::Unreachable { why, .. } if why.contains("its TLS is not one we speak")), "{error}");
    let bmcs = Bmcs::new(BmcSettings { ipmi_port: bmc.ipmi_address().unwrap().port.unwrap(), ..settings() });
    let open = hostler::bmc::BmcAccess { address: BmcAddress { protocol: None, ..old.address.clone() }, ..old };
    assert_eq!(bmcs.power(machine(), &open).await.unwrap().protocol, BmcProtocol::Ipmi);
}

#[tokio::test]
async fn a_silent_bmc_is_a_timeout() {
    let (bmc, _) = start(PowerState::On, setup()).await;
    bmc.set_faults(Faults { reach: Reach::Silent, ..Faults::default() });
    let calls = both(&bmc).map(|address| {
        let mut settings = settings();
        settings.timing.request = Duration::from_millis(500);
        async move { Bmcs::new(settings).power(machine(), &access(address, "admin", "secret")).await.unwrap_err() }
    });
    for error in futures_util::future::join_all(calls).await {
        assert!(matches!(error, BmcError::Timeout { .. }), "{error}");
    }
}

#[tokio::test]
async fn nonsense_is_named_and_believed_in_no_dialect() {
    let (bmc, _) = start(PowerState::On, setup()).await;
    let bmcs = bmcs();
    for address in both(&bmc) {
        let access = access(address, "admin", "secret");
        bmcs.power(machine(), &access).await.unwrap();
        bmc.set_faults(Faults { nonsense: true, ..Faults::default() });
        let error = bmcs.power(machine(), &access).await.unwrap_err();
        assert!(matches!(error, BmcError::Nonsense { .. }), "{error}");
        bmc.set_faults(Faults::default());
        bmcs.power(machine(), &access).await.unwrap();
    }
}

#[tokio::test]
async fn accepted_is_not_happened() {
    let (bmc, still) = start(PowerState::Off, setup()).await;
    bmc.set_faults(Faults { accepts_and_does_nothing: true, ..Faults::default() });
    let bmcs = bmcs();
    for address in both(&bmc) {
        let access = access(address, "admin", "secret");
        let power = bmcs.set_power(machine(), &access, PowerAction::On).await.unwrap_err();
        assert!(matches!(&power, BmcError::NotEffective { evidence, .. } if evidence.contains("still off")), "{power}");
        let boot = bmcs.set_boot_once(machine(), &access, BootDevice::Network, FirmwareKind::Uefi).await.unwrap_err();
        assert!(matches!(boot, BmcError::NotEffective { .. }), "{boot}");
    }
    assert_eq!(still.power(), PowerState::Off);
}

#[tokio::test]
async fn a_busy_bmc_is_asked_again_for_reads_but_not_for_writes() {
    let (bmc, still) = start(PowerState::Off, setup()).await;
    let (bmcs, access) = (bmcs(), access(bmc.redfish_address().unwrap(), "admin", "secret"));
    bmcs.power(machine(), &access).await.unwrap();
    bmc.set_faults(Faults { busy_answers: 2, ..Faults::default() });
    assert_eq!(bmcs.power(machine(), &access).await.unwrap().value, PowerState::Off);
    bmc.set_faults(Faults { busy_answers: 3, ..Faults::default() });
    let error = bmcs.power(machine(), &access).await.unwrap_err();
    assert!(matches!(&error, BmcError::Busy { reason, .. } if reason.contains("temporarily unavailable")), "{error}");
    assert!(still.actions().is_empty());
}

#[tokio::test]
async fn a_changed_certificate_ends_the_call_before_any_password_is_sent() {
    let (bmc, _) = start(PowerState::On, setup()).await;
    let address = bmc.redfish_address().unwrap();
    let first = bmcs().power(machine(), &access(address.clone(), "admin", "secret")).await.unwrap();
    let pin = first.tls_pin.unwrap();
    bmc.change_certificate().unwrap();
    let before = bmc.counts();
    let pinned = hostler::bmc::BmcAccess { tls_pin: Some(pin), ..access(address.clone(), "admin", "secret") };
    let bmcs = bmcs();
    let error = bmcs.power(machine(), &pinned).await.unwrap_err();
    assert!(matches!(&error, BmcError::CertificateChanged { pinned, seen, .. } if *pinned == pin && *seen != pin), "{error}");
    assert_eq!(bmc.counts(), before, "not one request reached it");
    // The operator dropped the pin: what answers now is pinned.
    let again = bmcs.power(machine(), &access(address, "admin", "secret")).await.unwrap();
    assert!(again.tls_pin.is_some_and(|p| p != pin));
}

#[tokio::test]
async fn a_certificate_that_changes_while_we_are_connected_is_noticed_too() {
    let (bmc, _) = start(PowerState::On, setup()).await;
    let address = bmc.redfish_address().unwrap();
    let bmcs = bmcs();
    let pin = bmcs.power(machine(), &access(address.clone(), "admin", "secret")).await.unwrap().tls_pin;
    let pinned = hostler::bmc::BmcAccess { tls_pin: pin, ..access(address, "admin", "secret") };
    bmcs.power(machine(), &pinned).await.unwrap();
    assert_eq!(bmc.counts().logins, 1, "the session of the first contact goes on");
    bmc.change_certificate().unwrap();
    assert!(matches!(bmcs.power(machine(), &pinned).await, Err(BmcError::CertificateChanged { .. })));
}

#[tokio::test]
async fn a_bmc_that_restarts_or_forgets_our_session_is_logged_into_again() {
    let (bmc, _) = start(PowerState::On, setup()).await;
    let bmcs = bmcs();
    for address in both(&bmc) {
        let access = access(address, "admin", "secret");
        bmcs.power(machine(), &access).await.unwrap();
        bmc.restart();
        bmcs.power(machine(), &access).await.unwrap();
    }
    let redfish = access(bmc.redfish_address().unwrap(), "admin", "secret");
    bmcs.power(machine(), &redfish).await.unwrap();
    bmc.set_faults(Faults { forgets_session: 1, ..Faults::default() });
    bmcs.power(machine(), &redfish).await.unwrap();
    assert_eq!(bmc.counts().refused_logins, 0);
}

#[tokio::test]
async fn basic_authentication_serves_where_there_are_no_sessions() {
    for (front, cap) in [(RedfishFront::HttpsBasicOnly, 8), (RedfishFront::Https, 0), (RedfishFront::Http, 8)] {
        let (bmc, _) = start(PowerState::Off, hostler::sim::bmc::Setup { redfish: Some(front), session_cap: cap, ..setup() }).await;
        let (bmcs, address) = (bmcs(), bmc.redfish_address().unwrap());
        let answer = bmcs.set_power(machine(), &access(address, "admin", "secret"), PowerAction::On).await.unwrap();
        assert_eq!(answer.tls_pin.is_some(), front != RedfishFront::Http);
    }
}

#[tokio::test]
async fn etags_are_sent_where_demanded_and_a_lasting_override_is_reported() {
    let (bmc, _) = start(PowerState::Off, setup()).await;
    let (bmcs, access) = (bmcs(), access(bmc.redfish_address().unwrap(), "admin", "secret"));
    bmc.set_faults(Faults { demands_etag: true, boot_stays: true, ..Faults::default() });
    let set = bmcs.set_boot_once(machine(), &access, BootDevice::Network, FirmwareKind::Bios).await.unwrap();
    assert_eq!(set.value, BootSet::Continuous);
}

#[tokio::test]
async fn no_more_than_two_requests_are_in_flight_at_one_bmc() {
    let (bmc, _) = start(PowerState::On, setup()).await;
    let (bmcs, access) = (bmcs(), access(bmc.redfish_address().unwrap(), "admin", "secret"));
    bmc.set_faults(Faults { delay: Duration::from_millis(20), ..Faults::default() });
    let answers = futures_util::future::join_all((0..20).map(|_| bmcs.power(machine(), &access))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!((bmc.counts().most_at_once, bmc.counts().logins), (2, 1));
}
