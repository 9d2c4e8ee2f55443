//! The simulated BMCs before DMTF's validators and before clients that we did not write: sushy and redfishtool.
//!
//! The service validator reads DMTF's schema files from target/peers/schemas (tests/setup lays them out), since it may not
//! fetch them here.

use std::path::{Path, PathBuf};
use std::process::Command;

use hostler::sim::bmc::{Setup, Strike};

use super::bench::{Rig, rig_with};
use super::process::{said, venv};

async fn validated(maker: &str) -> Rig {
    rig_with(maker, Setup { session_cap: 16, pace: "10".parse().unwrap(), ..Setup::new("admin", "secret-1") }).await
}

/// Runs a program of the Python environment against the BMC; gives whether it succeeded and what it said.
async fn run(program: PathBuf, args: Vec<String>) -> (bool, String) {
    let command = move || {
        let mut command = Command::new(program);
        // These would make `requests` check the self-signed certificate although it is told not to.
        command.args(args).env_remove("REQUESTS_CA_BUNDLE").env_remove("CURL_CA_BUNDLE");
        let output = command.output().unwrap();
        (output.status.success(), said(&output))
    };
    tokio::task::spawn_blocking(command).await.unwrap()
}

fn words(list: &[&str]) -> Vec<String> {
    list.iter().map(|w| (*w).to_owned()).collect()
}

/// DMTF's service validator over every resource.
async fn is_schema_correct(rig: &Rig, what: &str) {
    let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/schemas");
    let Some(program) = venv("rf_service_validator") else { return };
    if !schemas.is_dir() {
        println!("skipped: {} is not there (tests/setup makes it)", schemas.display());
        return;
    }
    let logs = tempfile::tempdir().unwrap();
    let (schemas, logdir) = (schemas.display().to_string(), logs.path().display().to_string());
    let url = rig.url("");
    let args = ["-r", &url, "-u", "admin", "-p", "secret-1", "--skipschema", "--schema_directory", &schemas, "--logdir", &logdir];
    let (good, said) = run(program, words(&args)).await;
    // Its verdict is its exit code; a run that saw next to nothing would be good too.
    let resources = said.matches("Validating /redfish/v1").count();
    let failures: Vec<&str> = said.lines().filter(|l| l.contains("FAIL") || l.contains("Error")).collect();
    assert!(good, "{what}: {failures:#?}\n{}", said.lines().rev().take(30).collect::<Vec<_>>().join("\n"));
    assert!(resources > 60, "{what}: only {resources} resources were looked at");
    println!("{what}: {resources} resources, no failure");
}

async fn keeps_the_protocol(maker: &str) {
    let Some(program) = venv("rf_protocol_validator") else { return };
    let rig = validated(maker).await;
    let reports = tempfile::tempdir().unwrap();
    let dir = reports.path().display().to_string();
    let url = rig.url("");
    let args = [
        "-r",
        &url,
        "-u",
        "admin",
        "-p",
        "secret-1",
        "--no-cert-check",
        "--avoid-http-redirect",
        "--report-dir",
        &dir,
        "--report-type",
        "tsv",
    ];
    let (good, said) = run(program, words(&args)).await;
    let report =
        std::fs::read_dir(reports.path()).unwrap().map(|f| std::fs::read_to_string(f.unwrap().path()).unwrap()).collect::<String>();
    let failures: Vec<&str> = report.lines().filter(|l| l.contains("\tFAIL\t")).collect();
    assert!(good && failures.is_empty(), "{failures:#?}\n{said}");
    let passed = report.lines().filter(|l| l.contains("\tPASS\t")).count();
    assert!(passed > 300, "only {passed} assertions were tested: {said}");
}

#[tokio::test]
async fn a_modern_bmc_keeps_dmtfs_protocol() {
    keeps_the_protocol("Dell Inc.").await;
}

#[tokio::test]
async fn an_old_bmc_keeps_dmtfs_protocol() {
    keeps_the_protocol("Supermicro").await;
}

#[tokio::test]
async fn a_dell_is_correct_by_dmtfs_schemas() {
    is_schema_correct(&validated("Dell Inc.").await, "Dell").await;
}

#[tokio::test]
async fn an_hpe_is_correct_by_dmtfs_schemas() {
    is_schema_correct(&validated("HPE").await, "HPE").await;
}

#[tokio::test]
async fn a_lenovo_is_correct_by_dmtfs_schemas() {
    is_schema_correct(&validated("Lenovo").await, "Lenovo").await;
}

#[tokio::test]
async fn a_supermicro_is_correct_by_dmtfs_schemas() {
    is_schema_correct(&validated("Supermicro").await, "Supermicro").await;
}

#[tokio::test]
async fn a_troubled_machine_is_still_correct_by_dmtfs_schemas() {
    for maker in ["HPE", "Supermicro"] {
        let rig = validated(maker).await;
        let parts = rig.bmc.breakables();
        let first = |kind: &str| parts.iter().find(|p| p.kind == kind).unwrap().id.clone();
        rig.strike(Strike::PartRemoved { part: first("dimm") });
        rig.strike(Strike::PartRemoved { part: first("cpu") });
        rig.strike(Strike::PartRemoved { part: "PSU2".into() });
        rig.strike(Strike::PartRemoved { part: first("drive") });
        rig.strike(Strike::PartFailed { part: "Fan1".into() });
        rig.strike(Strike::PartFailed { part: first("network_port") });
        rig.strike(Strike::Drift { sensor: "InletTemp".into(), to: Some(50.0), secs: 0 });
        rig.strike(Strike::Clock { at: 0 });
        let task = "/redfish/v1/UpdateService/Actions/UpdateService.SimpleUpdate";
        let body = serde_json::json!({"ImageURI": "http://127.0.0.1:9/none.bin"});
        assert_eq!(rig.send(reqwest::Method::POST, task, body).await.0, 202);
        is_schema_correct(&rig, &format!("{maker} in trouble")).await;
    }
}

const SUSHY: &str = r#"
import sys, sushy
conn = sushy.Sushy(sys.argv[1], 'admin', 'secret-1', verify=False)
system = conn.get_system()
assert system.power_state == sushy.PowerState.OFF
system.reset_system(sushy.ResetType.ON)
system.refresh()
assert system.power_state == sushy.PowerState.ON
system.set_system_boot_options(sushy.BootSource.PXE, enabled=sushy.BootSourceOverrideEnabled.ONCE)
system.refresh()
assert (system.boot.target, system.boot.enabled) == (sushy.BootSource.PXE, sushy.BootSourceOverrideEnabled.ONCE)
assert system.processors.summary.count > 0 and system.ethernet_interfaces.summary
assert any(drive.name for storage in system.storage.get_members() for drive in storage.drives)
system.bios.set_attribute('LogicalProc', 'Disabled')
assert system.bios.pending_attributes == {'LogicalProc': 'Disabled'}
manager = conn.get_manager_collection().get_members()[0] if hasattr(conn, 'get_manager_collection') else system.managers[0]
assert manager.firmware_version
old = 'Thermal' in system.chassis[0].json
media = (manager if old else system).virtual_media.get_members()[0]
media.insert_media('http://127.0.0.1/x.iso')
media.refresh()
assert media.inserted and media.image == 'http://127.0.0.1/x.iso'
media.eject_media()
assert {item.identity for item in conn.get_update_service().firmware_inventory.get_members()} >= {'BIOS', 'BMC'}
if old:
    assert system.chassis[0].thermal.temperatures and system.chassis[0].power.power_supplies
print('sushy is content')
"#;

#[tokio::test]
async fn sushy_drives_old_and_new_trees() {
    let Some(python) = venv("python") else { return };
    for maker in ["Dell Inc.", "Supermicro"] {
        let rig = validated(maker).await;
        let (good, said) = run(python.clone(), words(&["-W", "ignore", "-c", SUSHY, &rig.url("")])).await;
        if said.contains("No module named 'sushy'") {
            println!("skipped: the Python environment has no sushy (tests/setup installs it)");
            return;
        }
        assert!(good && said.contains("sushy is content"), "{maker}: {said}");
    }
}

#[tokio::test]
async fn redfishtool_lists_switches_and_makes_accounts() {
    let Some(program) = venv("redfishtool") else { return };
    for maker in ["HPE", "Supermicro"] {
        let rig = validated(maker).await;
        let host = rig.url("").trim_start_matches("https://").to_owned();
        let tool = async |login: &str, rest: &[&str]| {
            let args = [["-r", host.as_str(), "-u", "admin", "-p", "secret-1", "-S", "Always", "-A", login].as_slice(), rest].concat();
            let (good, said) = run(program.clone(), words(&args)).await;
            assert!(good, "{maker} {rest:?}: {said}");
            said
        };
        assert!(tool("Basic", &["Systems", "-F", "list"]).await.contains("/redfish/v1/Systems/1"));
        tool("Session", &["Systems", "-I", "1", "reset", "On"]).await;
        assert!(tool("Session", &["Systems", "-F", "get", "-P", "PowerState"]).await.contains("On"));
        tool("Session", &["AccountService", "adduser", "tester", "Secret.12345", "Operator"]).await;
        assert_eq!(rig.get("/redfish/v1/AccountService/Accounts").await["Members@odata.count"], 2);
    }
}
