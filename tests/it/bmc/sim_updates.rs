//! Firmware updates and BIOS settings of simulated machines go the way of real ones.

use hostler::sim::bmc::board::firmware::FirmwareFile;
use hostler::sim::bmc::{Setup, Strike};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::bench::{Rig, rig, rig_with};

const SYSTEM: &str = "/redfish/v1/Systems/System.Embedded.1";
const RESET: &str = "/redfish/v1/Systems/System.Embedded.1/Actions/ComputerSystem.Reset";
const INVENTORY: &str = "/redfish/v1/UpdateService/FirmwareInventory";

fn package(component: &str, version: &str) -> Vec<u8> {
    FirmwareFile { component: component.into(), model: "PowerEdge R650".into(), version: version.into() }.bytes(30_000)
}

/// Pushes a package; gives the task's URI.
async fn push(rig: &Rig, package: Vec<u8>, apply: &str) -> (StatusCode, Value) {
    let parameters = json!({"Targets": [], "@Redfish.OperationApplyTime": apply}).to_string();
    let form = reqwest::multipart::Form::new()
        .part("UpdateParameters", reqwest::multipart::Part::text(parameters).mime_str("application/json").unwrap())
        .part("UpdateFile", reqwest::multipart::Part::bytes(package).file_name("package.bin"));
    let answer = rig.request(Method::POST, "/redfish/v1/UpdateService/update-multipart").multipart(form).send().await.unwrap();
    let (status, monitor) = (answer.status(), answer.headers().get("location").cloned());
    assert_eq!(status == StatusCode::ACCEPTED, monitor.is_some_and(|m| m.to_str().unwrap().contains("/TaskMonitors/")));
    (status, answer.json().await.unwrap())
}

async fn version(rig: &Rig, component: &str) -> String {
    rig.get(&format!("{INVENTORY}/{component}")).await["Version"].as_str().unwrap().to_owned()
}

async fn over(rig: &Rig, task: &Value) -> Value {
    let over = |t: &Value| t["TaskState"] == "Completed" || t["TaskState"] == "Exception";
    rig.until(task["@odata.id"].as_str().unwrap(), "its end", over).await
}

#[tokio::test]
async fn a_bios_waits_for_the_next_boot() {
    let rig = rig("Dell Inc.").await;
    let before = version(&rig, "BIOS").await;
    let (status, task) = push(&rig, package("BIOS", "9.9.9"), "Immediate").await;
    assert_eq!(status, StatusCode::ACCEPTED, "{task}");
    let path = task["@odata.id"].as_str().unwrap();
    rig.until(path, "waiting", |t| t["TaskState"] == "Pending").await;
    assert_eq!(version(&rig, "BIOS").await, before, "staged is not installed");
    assert_eq!(rig.send(Method::POST, RESET, json!({"ResetType": "On"})).await.0, StatusCode::NO_CONTENT);
    let done = over(&rig, &task).await;
    assert_eq!((&done["TaskState"], &done["PercentComplete"]), (&json!("Completed"), &json!(100)));
    assert_eq!(version(&rig, "BIOS").await, "9.9.9");
    assert_eq!(rig.get(SYSTEM).await["BiosVersion"], json!("9.9.9"));
}

#[tokio::test]
async fn a_new_bmc_firmware_takes_the_bmc_away_and_leaves_the_machine_on() {
    let rig = rig("Dell Inc.").await;
    rig.send(Method::POST, RESET, json!({"ResetType": "On"})).await;
    let started = rig.get("/redfish/v1/Managers/iDRAC.Embedded.1").await["LastResetTime"].clone();
    let (_, task) = push(&rig, package("BMC", "3.0.1"), "Immediate").await;
    let mut away = false;
    let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while std::time::Instant::now() < end {
        match rig.raw("/redfish/v1/Managers/iDRAC.Embedded.1").await {
            Err(_) => away = true,
            Ok(answer) if away => {
                let manager: Value = answer.json().await.unwrap();
                if manager["LastResetTime"] != started {
                    break;
                }
            }
            Ok(_) => {}
        }
    }
    assert!(away, "it never went away");
    assert_eq!(over(&rig, &task).await["TaskState"], json!("Completed"));
    assert_eq!(version(&rig, "BMC").await, "3.0.1");
    assert_eq!(rig.get(SYSTEM).await["PowerState"], json!("On"));
}

#[tokio::test]
async fn a_card_is_flashed_at_once_or_at_the_next_reset_as_asked() {
    let rig = rig("Dell Inc.").await;
    let (_, task) = push(&rig, package("NIC1", "30.1"), "Immediate").await;
    assert_eq!(over(&rig, &task).await["TaskState"], json!("Completed"));
    assert_eq!(version(&rig, "NIC1").await, "30.1");
    let (_, task) = push(&rig, package("NIC1", "30.2"), "OnReset").await;
    rig.until(task["@odata.id"].as_str().unwrap(), "waiting", |t| t["TaskState"] == "Pending").await;
    assert_eq!(version(&rig, "NIC1").await, "30.1");
    rig.send(Method::POST, RESET, json!({"ResetType": "On"})).await;
    over(&rig, &task).await;
    assert_eq!(version(&rig, "NIC1").await, "30.2");
}

#[tokio::test]
async fn a_wrong_cut_or_foreign_package_is_refused_by_its_task() {
    let rig = rig("Dell Inc.").await;
    let foreign = FirmwareFile { component: "BIOS".into(), model: "ProLiant DL360 Gen10".into(), version: "1".into() }.bytes(100);
    let mut cut = package("BIOS", "9.9.9");
    cut.truncate(10_000);
    for (package, says) in [
        (foreign, "is for ProLiant"),
        (cut, "signature"),
        (b"MZ".to_vec(), "not an update package"),
        (package("TPM", "1"), "no component TPM"),
    ] {
        let (status, task) = push(&rig, package, "Immediate").await;
        assert_eq!(status, StatusCode::ACCEPTED);
        let task = over(&rig, &task).await;
        assert_eq!((&task["TaskState"], &task["TaskStatus"]), (&json!("Exception"), &json!("Critical")));
        assert!(task["Messages"].to_string().contains(says), "{task}");
    }
}

#[tokio::test]
async fn an_update_can_break_off_in_the_middle_and_leaves_the_old_version() {
    let rig = rig("Dell Inc.").await;
    let before = version(&rig, "NIC1").await;
    rig.strike(Strike::UpdateFails);
    let (_, task) = push(&rig, package("NIC1", "30.1"), "Immediate").await;
    assert_eq!(over(&rig, &task).await["TaskState"], json!("Exception"));
    assert_eq!(version(&rig, "NIC1").await, before);
    let (_, task) = push(&rig, package("NIC1", "30.1"), "Immediate").await;
    assert_eq!(over(&rig, &task).await["TaskState"], json!("Completed"), "the next one goes through");
}

#[tokio::test]
async fn one_update_at_a_time_and_a_lost_task_is_404_while_the_work_goes_on() {
    let rig = rig_with("Dell Inc.", Setup { pace: "50".parse().unwrap(), ..Setup::new("admin", "secret") }).await;
    let (_, task) = push(&rig, package("NIC1", "30.1"), "Immediate").await;
    let (status, refusal) = push(&rig, package("NIC1", "30.2"), "Immediate").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{refusal}");
    rig.strike(Strike::TasksLost);
    let path = task["@odata.id"].as_str().unwrap();
    assert_eq!(rig.raw(path).await.unwrap().status(), StatusCode::NOT_FOUND);
    rig.until(&format!("{INVENTORY}/NIC1"), "the new version", |c| c["Version"] == "30.1").await;
}

#[tokio::test]
async fn power_lost_while_flashing_tears_the_component_until_the_next_update() {
    let rig = rig_with("Dell Inc.", Setup { pace: "100".parse().unwrap(), ..Setup::new("admin", "secret") }).await;
    let (_, task) = push(&rig, package("NIC1", "30.1"), "Immediate").await;
    let path = task["@odata.id"].as_str().unwrap().to_owned();
    rig.until(&path, "flashing", |t| t["PercentComplete"].as_u64().is_some_and(|p| p >= 10)).await;
    rig.strike(Strike::PowerLost { secs: 10 });
    let task = rig.until(&path, "broken off", |t| t["TaskState"] == "Exception").await;
    assert!(task["Messages"].to_string().contains("Power was lost"), "{task}");
    assert_eq!(rig.get(&format!("{INVENTORY}/NIC1")).await["Status"]["Health"], json!("Critical"));
    let (_, task) = push(&rig, package("NIC1", "30.1"), "Immediate").await;
    over(&rig, &task).await;
    assert_eq!(rig.get(&format!("{INVENTORY}/NIC1")).await["Status"]["Health"], json!("OK"));
}

#[tokio::test]
async fn a_bmc_fetches_a_package_itself() {
    let rig = rig("Dell Inc.").await;
    let bytes = package("NIC1", "31.0");
    let app = axum::Router::new().route("/nic.bin", axum::routing::get(move || async move { bytes }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let action = "/redfish/v1/UpdateService/Actions/UpdateService.SimpleUpdate";
    let (status, task) =
        rig.send(Method::POST, action, json!({"ImageURI": format!("http://{at}/nic.bin"), "TransferProtocol": "HTTP"})).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{task}");
    assert_eq!(over(&rig, &task).await["TaskState"], json!("Completed"));
    assert_eq!(version(&rig, "NIC1").await, "31.0");
    let (_, task) = rig.send(Method::POST, action, json!({"ImageURI": format!("http://{at}/gone.bin")})).await;
    assert_eq!(over(&rig, &task).await["TaskState"], json!("Exception"));
    assert_eq!(rig.send(Method::POST, action, json!({"ImageURI": "file:///etc/passwd"})).await.0, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn bios_settings_are_checked_staged_and_set_by_the_next_boot() {
    let rig = rig("Dell Inc.").await;
    let (bios, settings) = (format!("{SYSTEM}/Bios"), format!("{SYSTEM}/Bios/Settings"));
    for (attributes, says) in [
        (json!({"LogicalProc": "Maybe"}), "PropertyValueNotInList"),
        (json!({"BootRetryDelay": 9999}), "PropertyValueFormatError"),
        (json!({"SystemServiceTag": "X"}), "PropertyNotWritable"),
        (json!({"NoSuchThing": 1}), "PropertyUnknown"),
        (json!({"LogicalProc": 1}), "PropertyValueTypeError"),
    ] {
        let (status, body) = rig.send(Method::PATCH, &settings, json!({"Attributes": attributes})).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(body.to_string().contains(says), "{says}: {body}");
    }
    let wanted = json!({"Attributes": {"LogicalProc": "Disabled", "BootRetryDelay": 60}});
    assert_eq!(rig.send(Method::PATCH, &settings, wanted.clone()).await.0, StatusCode::OK);
    assert_eq!(rig.get(&settings).await["Attributes"], wanted["Attributes"]);
    assert_eq!(rig.get(&bios).await["Attributes"]["LogicalProc"], json!("Enabled"));
    rig.send(Method::POST, RESET, json!({"ResetType": "On"})).await;
    let now = rig.get(&bios).await;
    assert_eq!((&now["Attributes"]["LogicalProc"], &now["Attributes"]["BootRetryDelay"]), (&json!("Disabled"), &json!(60)));
    assert_eq!(rig.get(&settings).await["Attributes"], json!({}));
    rig.send(Method::POST, &format!("{bios}/Actions/Bios.ResetBios"), json!({})).await;
    rig.send(Method::POST, RESET, json!({"ResetType": "ForceRestart"})).await;
    assert_eq!(rig.get(&bios).await["Attributes"]["LogicalProc"], json!("Enabled"));
}
