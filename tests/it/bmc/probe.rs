//! `hostler bmc probe` as a person or a program runs it.

use std::process::Output;

use hostler::domain::power::PowerState;
use serde_json::Value;

use super::kit::{setup, start};
use super::recorded::{Letters, Recorded};

pub(super) async fn probe(args: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_hostler"));
    command.args(["bmc", "probe"]).args(args).output().await.unwrap()
}

pub(super) async fn json_of(args: &[&str]) -> Value {
    let output = probe(&[args, &["--json"]].concat()).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn the_document_has_everything_with_its_source() {
    let (_, access) = Recorded::serve("hpe-proliant-dl360-ilo5", Letters::Any).await;
    let report = json_of(&[&access.address.to_string()]).await;
    assert_eq!(report["schema"], "hostler.bmc-probe.v1");
    assert_eq!(
        (&report["identity"]["serial"], &report["power"], &report["protocol"]),
        (&"MXQ2390RHW".into(), &"on".into(), &"redfish".into())
    );
    for (area, least) in
        [("parts", 60), ("sensors", 60), ("firmware", 23), ("bios", 276), ("accounts", 2), ("boot_order", 12), ("media", 2), ("network", 3)]
    {
        let list = report[area].as_array().unwrap();
        assert!(list.len() >= least, "{area}: {}", list.len());
        assert!(list.iter().all(|item| item["source"].as_str().is_some_and(|s| s.starts_with("/redfish/v1/"))), "{area} without a source");
    }
    let entries: Vec<&Value> = report["logs"].as_array().unwrap().iter().flat_map(|l| l["entries"].as_array().unwrap()).collect();
    assert_eq!(entries.len(), 142 + 156 + 228 + 269);
    assert!(entries.iter().all(|e| e["source"].is_string()));
    assert_eq!(report["capabilities"].as_array().unwrap().len(), 22);
    assert_eq!(report["not_understood"].as_array().unwrap().len(), 0);
    let problems = report["problems"].as_array().unwrap();
    assert!(problems.iter().any(|p| p["what"].as_str().unwrap().contains("clock is")), "{problems:?}");
}

#[tokio::test]
async fn the_text_is_for_people() {
    let (_, access) = Recorded::serve("supermicro-x10sdv-ast2400", Letters::Exact).await;
    let output = probe(&[&access.address.to_string()]).await;
    let text = String::from_utf8(output.stdout).unwrap();
    for head in ["What is wrong", "What it can do", "Parts", "Sensors (21)", "Firmware (2)", "Accounts (1)", "Linked and not readable (2)"]
    {
        assert!(text.contains(head), "{head}");
    }
    assert!(text.contains("16E1FD76") && text.contains("Correctable ECC @DIMMB1"));
    assert!(!text.chars().any(|c| c.is_control() && c != '\n'));
}

#[tokio::test]
async fn a_simulated_bmc_is_probed_in_both_protocols_with_its_password() {
    let (bmc, _) = start(PowerState::On, setup()).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "secret\n").unwrap();
    let password = file.path().to_str().unwrap();
    for (address, protocol) in [(bmc.redfish_address().unwrap(), "redfish"), (bmc.ipmi_address().unwrap(), "ipmi")] {
        let report = json_of(&[&address.to_string(), "--user", "admin", "--password-file", password]).await;
        assert_eq!((&report["protocol"], &report["identity"]["serial"]), (&protocol.into(), &"SN00042".into()));
        assert_eq!(report["tls_pin"].is_string(), protocol == "redfish");
    }
    assert_eq!(bmc.counts().open_sessions, 0, "its sessions are closed");
}

#[tokio::test]
async fn exit_codes_tell_what_stands_in_the_way() {
    let (bmc, _) = start(PowerState::On, setup()).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "guess").unwrap();
    let (address, password) = (bmc.redfish_address().unwrap().to_string(), file.path().to_str().unwrap().to_owned());
    let code = |output: Output| output.status.code().unwrap();
    assert_eq!(code(probe(&[&address, "--user", "admin", "--password-file", &password]).await), 4);
    assert_eq!(code(probe(&[&address, "--user", "admin", "--password-file", &password, "--pin", &"0".repeat(64)]).await), 4, "another key");
    assert_eq!(code(probe(&[&address, "--user", "admin"]).await), 2);
    assert_eq!(code(probe(&["not an address"]).await), 2);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    assert_eq!(code(probe(&[&format!("http://127.0.0.1:{free}")]).await), 8);
}
