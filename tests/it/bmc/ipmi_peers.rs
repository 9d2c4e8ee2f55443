//! IPMI against programs we did not write: our client against OpenIPMI's `ipmi_sim`, `ipmitool` and FreeIPMI against our
//! simulated BMC, and both ends over a bad network.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use hostler::bmc::{BmcError, BootSet};
use hostler::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState};
use hostler::sim::bmc::{BootOverride, Chassis};
use tokio::net::UdpSocket;

use super::kit::{Still, UUID, access, bmcs, machine, setup, start};
use super::openipmi::{ipmi_sim, tool};
use super::process::{program, said};

#[tokio::test]
async fn openipmi_is_identified_switched_and_told_what_to_boot() {
    let Some(sim) = tokio::task::spawn_blocking(ipmi_sim).await.unwrap() else { return };
    let (bmcs, access) = (bmcs(), sim.access());
    let id = bmcs.identity(machine(), &access).await.unwrap().value;
    assert_eq!((id.bmc_firmware.as_deref(), id.uuid.as_deref()), (Some("9.08"), Some(UUID)));
    assert_eq!(bmcs.power(machine(), &access).await.unwrap().value, PowerState::Off);
    bmcs.set_power(machine(), &access, PowerAction::On).await.unwrap();
    assert_eq!(std::fs::read_to_string(sim.dir.path().join("power")).unwrap().trim(), "1");
    let set = bmcs.set_boot_once(machine(), &access, BootDevice::Network, FirmwareKind::Bios).await.unwrap();
    assert_eq!(set.value, BootSet::Unconfirmed, "ipmi_sim reads back the device without the valid bit");
    assert_eq!(std::fs::read_to_string(sim.dir.path().join("boot")).unwrap().trim(), "pxe");
    bmcs.set_power(machine(), &access, PowerAction::Off).await.unwrap();
    assert_eq!(bmcs.power(machine(), &access).await.unwrap().value, PowerState::Off);
    bmcs.close_all().await;
}

#[tokio::test]
async fn openipmi_with_wrong_credentials_is_unauthorized_and_an_operator_is_enough() {
    let Some(sim) = tokio::task::spawn_blocking(ipmi_sim).await.unwrap() else { return };
    let address = format!("ipmi://127.0.0.1:{}", sim.port);
    for (user, password) in [("admin", "guess"), ("nobody", "secret")] {
        let error = bmcs().power(machine(), &access(address.parse().unwrap(), user, password)).await.unwrap_err();
        assert!(matches!(error, BmcError::Unauthorized { .. }), "{error}");
    }
    bmcs().set_power(machine(), &access(address.parse().unwrap(), "op", "oppass"), PowerAction::On).await.unwrap();
    assert_eq!(std::fs::read_to_string(sim.dir.path().join("power")).unwrap().trim(), "1");
}

#[tokio::test]
async fn ipmitool_drives_the_simulated_bmc_with_suites_3_and_17() {
    let Some(ipmitool) = program("ipmitool") else { return };
    for suite in [3, 17] {
        let (bmc, still) = start(PowerState::Off, setup()).await;
        let port = bmc.ipmi_address().unwrap().port.unwrap();
        let ipmitool = ipmitool.clone();
        let check = {
            let still: Arc<Still> = Arc::clone(&still);
            move || {
                let run = |args: &[&str]| {
                    let output = tool(&ipmitool, port, suite, "secret", args);
                    assert!(output.status.success(), "suite {suite}, {args:?}: {}", said(&output));
                    said(&output)
                };
                assert!(run(&["chassis", "power", "status"]).contains("Chassis Power is off"));
                run(&["chassis", "power", "on"]);
                assert_eq!(still.power(), PowerState::On);
                run(&["chassis", "bootdev", "pxe", "options=efiboot"]);
                assert_eq!(
                    still.boot_override(),
                    Some(BootOverride { device: BootDevice::Network, firmware: FirmwareKind::Uefi, once: true })
                );
                assert!(run(&["chassis", "bootparam", "get", "5"]).contains("Force PXE"));
                assert!(run(&["mc", "info"]).contains("2.14"));
                assert!(run(&["mc", "guid"]).to_lowercase().contains(UUID));
                let fru = run(&["fru", "print", "0"]);
                assert!(fru.contains("SN00042") && fru.contains("LabCorp") && fru.contains("LabServer-1"), "{fru}");
                run(&["chassis", "power", "off"]);
                assert_eq!(still.power(), PowerState::Off);
                let wrong = tool(&ipmitool, port, suite, "guess", &["chassis", "power", "status"]);
                assert!(!wrong.status.success());
            }
        };
        tokio::task::spawn_blocking(check).await.unwrap();
        assert_eq!(bmc.counts().open_sessions, 0, "ipmitool closes its sessions");
    }
}

#[tokio::test]
async fn freeipmi_drives_the_simulated_bmc_with_suites_3_and_17() {
    let (Some(power), Some(info)) = (program("ipmipower"), program("bmc-info")) else { return };
    for suite in ["3", "17"] {
        let (bmc, still) = start(PowerState::On, setup()).await;
        let host = format!("127.0.0.1:{}", bmc.ipmi_address().unwrap().port.unwrap());
        let (power, info) = (power.clone(), info.clone());
        let (state, who) = tokio::task::spawn_blocking(move || {
            let run = |program: &std::path::Path, last: &[&str]| {
                Command::new(program)
                    .args(["-D", "LAN_2_0", "-h", &host, "-u", "admin", "-p", "secret", "-I", suite, "-l", "ADMIN"])
                    .args(last)
                    .output()
                    .unwrap()
            };
            let state = run(&power, &["--stat"]);
            run(&power, &["--off"]);
            (state, run(&info, &[]))
        })
        .await
        .unwrap();
        assert!(said(&state).contains(": on"), "suite {suite}: {}", said(&state));
        assert_eq!(still.power(), PowerState::Off, "suite {suite}");
        assert!(said(&who).contains("2.14"), "suite {suite}: {}", said(&who));
    }
}

/// Forwards datagrams, loses every `lose`th and doubles every `double`th, both ways.
async fn bad_network(to: u16, lose: u32, double: u32) -> u16 {
    let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let port = front.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut count, mut buffer) = (0u32, [0; 1500]);
        let mut backs = std::collections::HashMap::<std::net::SocketAddr, Arc<UdpSocket>>::new();
        loop {
            let (length, client) = front.recv_from(&mut buffer).await.unwrap();
            let back = match backs.get(&client) {
                Some(back) => Arc::clone(back),
                None => {
                    let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                    back.connect(("127.0.0.1", to)).await.unwrap();
                    backs.insert(client, Arc::clone(&back));
                    tokio::spawn(answers(Arc::clone(&back), Arc::clone(&front), client, lose, double));
                    back
                }
            };
            count += 1;
            for _ in 0..copies(count, lose, double) {
                back.send(&buffer[..length]).await.unwrap();
            }
        }
    });
    port
}

async fn answers(back: Arc<UdpSocket>, front: Arc<UdpSocket>, client: std::net::SocketAddr, lose: u32, double: u32) {
    let (mut count, mut buffer) = (3u32, [0; 1500]);
    while let Ok(length) = back.recv(&mut buffer).await {
        count += 1;
        for _ in 0..copies(count, lose, double) {
            front.send_to(&buffer[..length], client).await.unwrap();
        }
    }
}

fn copies(count: u32, lose: u32, double: u32) -> u32 {
    if count.is_multiple_of(lose) {
        0
    } else if count.is_multiple_of(double) {
        2
    } else {
        1
    }
}

#[tokio::test]
async fn a_network_that_loses_and_doubles_packets_costs_time_but_nothing_else() {
    let (bmc, still) = start(PowerState::Off, setup()).await;
    let port = bad_network(bmc.ipmi_address().unwrap().port.unwrap(), 5, 3).await;
    let (bmcs, access) = (bmcs(), access(format!("ipmi://127.0.0.1:{port}").parse().unwrap(), "admin", "secret"));
    for _ in 0..3 {
        assert_eq!(bmcs.identity(machine(), &access).await.unwrap().value.serial.as_deref(), Some("SN00042"));
    }
    bmcs.set_power(machine(), &access, PowerAction::On).await.unwrap();
    bmcs.set_boot_once(machine(), &access, BootDevice::Disk, FirmwareKind::Uefi).await.unwrap();
    assert_eq!(still.actions(), [PowerAction::On], "a doubled packet is not a second command");
    assert_eq!(bmc.counts().refused_logins, 0);
}

#[tokio::test]
async fn a_full_session_table_is_busy_not_broken() {
    let (bmc, _) = start(PowerState::On, hostler::sim::bmc::Setup { session_cap: 1, ..setup() }).await;
    let access = access(bmc.ipmi_address().unwrap(), "admin", "secret");
    let (first, second) = (bmcs(), bmcs());
    first.power(machine(), &access).await.unwrap();
    let error = second.power(machine(), &access).await.unwrap_err();
    assert!(matches!(&error, BmcError::Busy { reason, .. } if reason.contains("session table is full")), "{error}");
    first.close_all().await;
    second.power(machine(), &access).await.unwrap();
}

#[tokio::test]
async fn two_hundred_bmcs_are_asked_at_once_by_one_process() {
    const BMCS: usize = 200;
    let mut sims = Vec::new();
    for _ in 0..BMCS {
        sims.push(start(PowerState::On, hostler::sim::bmc::Setup { redfish: None, ..setup() }).await);
    }
    let bmcs = bmcs();
    let accesses: Vec<_> = sims.iter().map(|(bmc, _)| access(bmc.ipmi_address().unwrap(), "admin", "secret")).collect();
    let began = std::time::Instant::now();
    let answers = futures_util::future::join_all(accesses.iter().map(|a| bmcs.power(machine(), a))).await;
    assert!(answers.iter().all(|a| a.as_ref().is_ok_and(|a| a.value == PowerState::On)));
    println!("{BMCS} BMCs logged into and read in {:?}", began.elapsed());
    assert!(began.elapsed() < Duration::from_secs(30));
}
