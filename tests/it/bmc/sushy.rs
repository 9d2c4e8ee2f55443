//! Our Redfish client against sushy-tools' emulator (OpenStack): HTTPS, self-signed, basic authentication, no sessions, no
//! ETags, two systems behind one endpoint, power changes that take seconds.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hostler::bmc::{BmcAccess, BmcError, BmcSettings, Bmcs, BootSet, Timing};
use hostler::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState};

use super::kit::{access, machine};
use super::process::{Running, free_tcp_port, program, said, spawn, venv, wait_for_tcp};

const ONE: &str = "11111111-2222-4333-8444-555555555501";
const TWO: &str = "11111111-2222-4333-8444-555555555502";

struct Emulator {
    port: u16,
    _running: Running,
    _dir: tempfile::TempDir,
}

fn certificate(dir: &Path) {
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(dir.join("tls.pem"), made.cert.pem()).unwrap();
    std::fs::write(dir.join("tls.key"), made.signing_key.serialize_pem()).unwrap();
}

fn start() -> Option<Emulator> {
    let (emulator, python) = (venv("sushy-emulator")?, venv("python")?);
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    certificate(at);
    let hash = Command::new(python)
        .args(["-c", "import bcrypt; print('admin:' + bcrypt.hashpw(b'password', bcrypt.gensalt(4)).decode())"])
        .output()
        .unwrap();
    assert!(hash.status.success(), "{}", said(&hash));
    std::fs::write(at.join("htpasswd"), hash.stdout).unwrap();
    std::fs::create_dir(at.join("state")).unwrap();
    let port = free_tcp_port();
    let dir_text = at.display();
    let config = format!(
        "SUSHY_EMULATOR_LISTEN_IP = '127.0.0.1'\nSUSHY_EMULATOR_LISTEN_PORT = {port}\nSUSHY_EMULATOR_SSL_CERT = '{dir_text}/tls.pem'\n\
         SUSHY_EMULATOR_SSL_KEY = '{dir_text}/tls.key'\nSUSHY_EMULATOR_AUTH_FILE = '{dir_text}/htpasswd'\nSUSHY_EMULATOR_STATE_DIR = '{dir_text}/state'\n\
         SUSHY_EMULATOR_FAKE_DRIVER = True\nSUSHY_EMULATOR_FAKE_SYSTEMS = [\n \
         {{'uuid': '{ONE}', 'name': 'fake1', 'power_state': 'Off', 'nics': []}},\n {{'uuid': '{TWO}', 'name': 'fake2', 'power_state': 'Off', 'nics': []}}]\n"
    );
    std::fs::write(at.join("emulator.conf"), config).unwrap();
    let log = at.join("log");
    let running = spawn(Command::new(emulator).arg("--config").arg(at.join("emulator.conf")), &log);
    wait_for_tcp(port, &log);
    Some(Emulator { port, _running: running, _dir: dir })
}

impl Emulator {
    fn access(&self, path: &str, password: &str) -> BmcAccess {
        access(format!("https://127.0.0.1:{}{path}", self.port).parse().unwrap(), "admin", password)
    }

    fn one(&self) -> BmcAccess {
        self.access(&format!("/redfish/v1/Systems/{ONE}"), "password")
    }
}

fn patient() -> Bmcs {
    let timing = Timing { settle: Duration::from_secs(40), poll: Duration::from_millis(200), ..Timing::default() };
    Bmcs::new(BmcSettings { timing, ..BmcSettings::default() })
}

#[tokio::test]
async fn sushy_is_identified_switched_and_told_what_to_boot() {
    let Some(emulator) = start() else { return };
    let (bmcs, access) = (patient(), emulator.one());
    let id = bmcs.identity(machine(), &access).await.unwrap();
    assert_eq!((id.value.uuid.as_deref(), id.value.manufacturer.as_deref()), (Some(ONE), Some("Sushy Emulator")));
    assert!(id.tls_pin.is_some());
    let pinned = BmcAccess { tls_pin: id.tls_pin, ..access };

    let set = bmcs.set_boot_once(machine(), &pinned, BootDevice::Network, FirmwareKind::Uefi).await.unwrap();
    assert_eq!(set.value, BootSet::Continuous, "sushy-tools accepts Once and keeps it");
    bmcs.set_power(machine(), &pinned, PowerAction::On).await.unwrap();
    assert_eq!(bmcs.power(machine(), &pinned).await.unwrap().value, PowerState::On);
    // It does not offer PowerCycle and would answer 204 to it: off and on again it is.
    bmcs.set_power(machine(), &pinned, PowerAction::Cycle).await.unwrap();
    bmcs.set_power(machine(), &pinned, PowerAction::Off).await.unwrap();
    assert_eq!(bmcs.power(machine(), &pinned).await.unwrap().value, PowerState::Off);
    bmcs.close_all().await;
}

#[tokio::test]
async fn sushy_with_two_systems_needs_to_be_told_which() {
    let Some(emulator) = start() else { return };
    let bmcs = patient();
    let error = bmcs.power(machine(), &emulator.access("", "password")).await.unwrap_err();
    assert!(matches!(&error, BmcError::Refused { reason, .. } if reason.contains("2 systems") && reason.contains(ONE)), "{error}");
    let wrong = bmcs.power(machine(), &emulator.access("/redfish/v1/Systems/nobody", "password")).await.unwrap_err();
    assert!(matches!(wrong, BmcError::Nonsense { .. }), "{wrong}");
    // A name is redirected to the UUID (307, same origin).
    assert_eq!(bmcs.power(machine(), &emulator.access("/redfish/v1/Systems/fake2", "password")).await.unwrap().value, PowerState::Off);
}

#[tokio::test]
async fn sushy_with_a_wrong_password_is_asked_twice() {
    let Some(emulator) = start() else { return };
    let (bmcs, wrong) = (patient(), emulator.access(&format!("/redfish/v1/Systems/{ONE}"), "guess"));
    for _ in 0..2 {
        assert!(matches!(bmcs.power(machine(), &wrong).await, Err(BmcError::Unauthorized { .. })));
    }
    assert!(matches!(bmcs.power(machine(), &wrong).await, Err(BmcError::Paused { .. })));
    bmcs.power(machine(), &emulator.one()).await.unwrap();
}

/// A client we did not write agrees about what the simulated front serves.
#[tokio::test]
async fn curl_reads_the_simulated_redfish_front() {
    let Some(curl) = program("curl") else { return };
    let (bmc, _) = super::kit::start(PowerState::On, super::kit::setup()).await;
    let url = format!("{}/redfish/v1/Systems/1", bmc.redfish_address().unwrap());
    let run = move |password: &'static str| Command::new(&curl).args(["-sk", "-u", &format!("admin:{password}"), &url]).output().unwrap();
    let (good, bad) = tokio::task::spawn_blocking(move || (run("secret"), run("guess"))).await.unwrap();
    assert!(said(&good).contains("\"PowerState\":\"On\""), "{}", said(&good));
    assert!(said(&bad).contains("ResourceAtUriUnauthorized"), "{}", said(&bad));
}
