//! Machines, packing lists and events through the API, on both engines.

use std::time::Duration;

use hostler::clock;
use hostler::domain::access::Role;
use hostler::domain::boot::Arch;
use hostler::domain::id::{MachineId, RunId, Sha256, StepId};
use hostler::domain::image::{Image, ImageFormat};
use hostler::domain::machine::{Fault, Lifecycle, Machine};
use hostler::domain::notice::Subject;
use hostler::domain::power::{FirmwareKind, PowerState};
use hostler::domain::work::{Run, RunKind, RunState, Step, StepKind, StepState};
use hostler::sim::bmc::Chassis;
use hostler::store::{Store, StoreConfig};
use reqwest::Method;
use serde_json::{Value, json};

use super::kit::{Api, problem};
use crate::bmc::kit::{setup, start};
use crate::support::engines::both;

const LIST: &str = "serial,mac,bmc_address,bmc_user,bmc_password,rack,u\n\
    S1,52:54:00:00:00:01,10.0.0.1,root,canary-7f3a,R12,17\nS2,52:54:00:00:00:02,,,,R12,18\nS3,52:54:00:00:00:03,,,,,\n";

async fn import(api: &Api, token: &str, list: &str) -> reqwest::Response {
    api.request(Method::POST, "/api/v1/racks/import", token).header("content-type", "text/csv").body(list.to_owned()).send().await.unwrap()
}

async fn change(store: &Store, id: MachineId, edit: impl FnOnce(&mut Machine)) {
    let mut m = store.machine(id).await.unwrap().unwrap();
    edit(&mut m);
    let mut tx = store.begin().await.unwrap();
    tx.update_machine(&m, None).await.unwrap();
    tx.commit().await.unwrap();
}

fn step(run: RunId, machine: MachineId, index: u32, kind: StepKind) -> Step {
    Step {
        id: StepId(clock::fresh_uuid()),
        run,
        machine,
        index,
        kind,
        state: StepState::Pending,
        attempts: 0,
        checkpoint: Value::Null,
        evidence: Value::Null,
        note: String::new(),
        progress: None,
        started_at: None,
        ended_at: None,
        deadline_at: None,
        due_at: clock::now(),
        fence: 0,
    }
}

/// A machine in the middle of a run.
async fn running(store: &Store, id: MachineId, kind: RunKind, lifecycle: Lifecycle, state: RunState) -> RunId {
    let run = RunId(clock::fresh_uuid());
    let steps = vec![step(run, id, 0, StepKind::BootRamdisk), step(run, id, 1, StepKind::WaitAgent)];
    let row = Run { id: run, machine: id, kind, state, started_at: clock::now(), ended_at: None, actor: "system".into(), steps };
    let mut tx = store.begin().await.unwrap();
    tx.insert_run(&row).await.unwrap();
    tx.commit().await.unwrap();
    change(store, id, |m| {
        m.lifecycle = lifecycle;
        m.current_run = Some(run);
    })
    .await;
    run
}

#[tokio::test]
async fn a_packing_list_is_imported_once_and_shows_what_has_not_turned_up() {
    for on in both().await {
        let api = Api::on(&on.store).await;
        let token = api.token(Role::Operator).await;
        let first: Value = import(&api, &token, LIST).await.json().await.unwrap();
        assert_eq!(first["created"], json!(["s1", "s2", "s3"]), "{}", on.name);
        assert_eq!(first["not_turned_up"].as_array().unwrap().len(), 3);
        let again: Value = import(&api, &token, LIST).await.json().await.unwrap();
        assert_eq!(
            (again["created"].as_array().unwrap().len(), again["updated"].as_array().unwrap().len(), again["unchanged"].as_u64()),
            (0, 0, Some(3))
        );
        let moved = LIST.replace("R12,18", "R12,20").replace("canary-7f3a", "canary-7f3b");
        let admin = api.token(Role::Admin).await;
        let changed: Value = import(&api, &admin, &moved).await.json().await.unwrap();
        assert_eq!(changed["updated"], json!(["s1", "s2"]));

        let racks: Value = api.get("/api/v1/racks", &token).await.json().await.unwrap();
        assert_eq!((racks[0]["rack"].as_str(), racks[0]["not_turned_up"].as_u64()), (Some("R12"), Some(2)));
        assert_eq!(racks[0]["slots"][0]["u"], 20);
        assert_eq!(racks[1]["rack"], Value::Null);
    }
}

#[tokio::test]
async fn a_list_with_one_flaw_changes_nothing() {
    for on in both().await {
        let api = Api::on(&on.store).await;
        let token = api.token(Role::Operator).await;
        import(&api, &token, LIST).await;
        // S9 claims the BMC of s1; serial S2 comes with the MAC of s3.
        let bad = "serial,mac,bmc,user,password\nS9,52:54:00:00:00:09,10.0.0.1,root,x\nS2,52:54:00:00:00:03,,,\nS8,52:54:00:00:00:08,,,\n";
        let body = problem(import(&api, &token, bad).await, 422, "invalid").await;
        let lines: Vec<u64> = body["errors"].as_array().unwrap().iter().map(|e| e["line"].as_u64().unwrap()).collect();
        assert_eq!(lines, [2, 3], "{body}");
        assert_eq!(on.store.machines().await.unwrap().len(), 3, "{}", on.name);
    }
}

#[tokio::test]
async fn a_bmc_password_is_in_no_answer_and_not_in_the_database() {
    for on in both().await {
        let api = Api::on(&on.store).await;
        let token = api.token(Role::Admin).await;
        import(&api, &token, LIST).await;
        for path in ["/api/v1/machines", "/api/v1/machines/s1", "/api/v1/machines/s1/events", "/api/v1/racks", "/api/v1/tokens"] {
            let text = api.get(path, &token).await.text().await.unwrap();
            assert!(!text.contains("canary-7f3a") && !text.contains("sealed"), "{path}");
        }
        let id = api.app.find_machine("s1").await.unwrap();
        assert!(on.store.bmc_sealed_password(id).await.unwrap().unwrap().starts_with("v1:"));
    }
}

#[tokio::test]
async fn a_new_bmc_address_needs_the_password_again() {
    for on in both().await {
        let api = Api::on(&on.store).await;
        let token = api.token(Role::Admin).await;
        import(&api, &token, LIST).await;
        let put = async |machine: &str, body: Value| {
            api.request(Method::PUT, &format!("/api/v1/machines/{machine}/bmc"), &token).json(&body).send().await.unwrap()
        };
        let body = problem(put("s1", json!({"address": "10.0.0.66"})).await, 422, "invalid").await;
        assert!(body["detail"].as_str().unwrap().contains("password"), "{body}");
        problem(put("s2", json!({"address": "10.0.0.1", "user": "u", "password": "p"})).await, 409, "bmc_taken").await;
        problem(put("s2", json!({"address": "169.254.169.254", "user": "u", "password": "p"})).await, 422, "invalid").await;
        problem(put("s2", json!({"address": "10.0.0.2"})).await, 422, "invalid").await;
        assert_eq!(put("s1", json!({"address": "10.0.0.66", "password": "p"})).await.status(), 200);
        assert_eq!(put("s1", json!({"user": "ops"})).await.status(), 200);
        let shown: Value = api.get("/api/v1/machines/s1", &token).await.json().await.unwrap();
        assert_eq!((shown["bmc"]["address"].as_str(), shown["bmc"]["user"].as_str()), (Some("10.0.0.66"), Some("ops")));
    }
}

#[tokio::test]
async fn lists_are_filtered_and_paged_without_loss() {
    for on in both().await {
        let api = Api::on(&on.store).await;
        let token = api.token(Role::Operator).await;
        let mut list = String::from("serial,rack,u\n");
        for n in 0..45 {
            list.push_str(&format!("NODE-{n:02},R{},{}\n", n / 15, n % 15 + 1));
        }
        import(&api, &token, &list).await;
        let mut names = Vec::new();
        let mut cursor = String::new();
        loop {
            let page: Value = api.get(&format!("/api/v1/machines?limit=10{cursor}"), &token).await.json().await.unwrap();
            assert_eq!(page["total"], 45);
            names.extend(page["items"].as_array().unwrap().iter().map(|m| m["name"].as_str().unwrap().to_owned()));
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let want: Vec<String> = (0..45).map(|n| format!("node-{n:02}")).collect();
        assert_eq!(names, want, "{}", on.name);
        let total = async |query: &str| {
            api.get(&format!("/api/v1/machines?{query}"), &token).await.json::<Value>().await.unwrap()["total"].as_u64().unwrap()
        };
        assert_eq!(
            (total("rack=R1").await, total("q=de-4").await, total("state=ready").await, total("state=ready,discovered").await),
            (15, 5, 0, 45)
        );
    }
}

#[tokio::test]
async fn deploy_refuses_what_cannot_work_before_anything_is_written() {
    for on in both().await {
        let api = Api::on(&on.store).await;
        let token = api.token(Role::Operator).await;
        import(&api, &token, LIST).await;
        let id = api.app.find_machine("s1").await.unwrap();
        let image = |name: &str, arch: Arch, boots_on: FirmwareKind| Image {
            name: name.parse().unwrap(),
            arch,
            format: ImageFormat::Raw,
            size_bytes: 512,
            sha256: Sha256([1; 32]),
            raw_size_bytes: 512,
            raw_sha256: Sha256([1; 32]),
            boots_on: vec![boots_on],
            default_user: "debian".into(),
            imported_at: clock::now(),
        };
        let mut tx = on.store.begin().await.unwrap();
        for image in [
            image("good", Arch::X86_64, FirmwareKind::Uefi),
            image("arm", Arch::Aarch64, FirmwareKind::Uefi),
            image("bios-only", Arch::X86_64, FirmwareKind::Bios),
        ] {
            tx.put_image(&image).await.unwrap();
        }
        tx.commit().await.unwrap();
        let deploy = async |body: Value| api.post("/api/v1/machines/s1/deploy", &token, &body).await;
        problem(deploy(json!({"image": "good"})).await, 409, "not_now").await;
        change(&on.store, id, |m| {
            m.lifecycle = Lifecycle::Ready;
            m.arch = Some(Arch::X86_64);
            m.firmware = Some(FirmwareKind::Uefi);
        })
        .await;
        problem(deploy(json!({"image": "none"})).await, 404, "not_found").await;
        problem(deploy(json!({"image": "arm"})).await, 409, "image_wrong_arch").await;
        problem(deploy(json!({"image": "bios-only"})).await, 409, "image_wrong_firmware").await;
        problem(deploy(json!({"image": "good", "ssh_keys": ["-----BEGIN"]})).await, 422, "invalid").await;
        let disk = json!({"serial": "D1", "wwn": null, "size_bytes": 1, "name_hint": "sda"});
        problem(deploy(json!({"image": "good", "disk": disk})).await, 422, "invalid").await;
        assert_eq!(on.store.machine(id).await.unwrap().unwrap().why, "");

        let answer = deploy(json!({"image": "good", "hostname": "web1"})).await;
        assert_eq!(answer.status(), 202, "{}", on.name);
        assert_eq!(answer.json::<Value>().await.unwrap()["want"], "deploy");
        problem(api.request(Method::DELETE, "/api/v1/images/good", &token).send().await.unwrap(), 409, "image_in_use").await;
        assert_eq!(api.request(Method::DELETE, "/api/v1/images/arm", &token).send().await.unwrap().status(), 204);
    }
}

#[tokio::test]
async fn an_aborted_run_leaves_a_machine_ready_only_if_nothing_was_written() {
    for on in both().await {
        let api = Api::on(&on.store).await;
        let token = api.token(Role::Operator).await;
        import(&api, &token, LIST).await;
        for (name, written, want) in [("s1", false, "ready"), ("s2", true, "quarantined")] {
            let id = api.app.find_machine(name).await.unwrap();
            let run = running(&on.store, id, RunKind::Deploy, Lifecycle::Deploying, RunState::Running).await;
            if written {
                let disk = hostler::domain::inventory::DiskRef {
                    serial: Some("D1".parse().unwrap()),
                    wwn: None,
                    size_bytes: 1,
                    name_hint: "sda".into(),
                };
                change(&on.store, id, |m| m.written_disks = vec![disk]).await;
            }
            let answer: Value = api.post(&format!("/api/v1/machines/{name}/abort"), &token, &json!({})).await.json().await.unwrap();
            assert_eq!(answer["lifecycle"], want, "{name} on {}", on.name);
            assert_eq!(answer["fault"].is_null(), !written);
            let told = on.store.notices_of(Subject::Machine(id)).await.unwrap();
            assert_eq!(told.iter().any(|n| n.notice.event == "machine.quarantined"), written, "{name} on {}", on.name);
            assert_eq!(on.store.run(run).await.unwrap().unwrap().state, RunState::Aborted);
            problem(api.post(&format!("/api/v1/machines/{name}/abort"), &token, &json!({})).await, 409, "not_now").await;
        }
    }
}

#[tokio::test]
async fn a_failed_run_is_retried_from_the_boot_when_its_agent_is_gone() {
    for on in both().await {
        let api = Api::on(&on.store).await;
        let token = api.token(Role::Operator).await;
        import(&api, &token, LIST).await;
        let id = api.app.find_machine("s1").await.unwrap();
        let run = running(&on.store, id, RunKind::Enroll, Lifecycle::Enrolling, RunState::Failed).await;
        let fault = Fault { code: "x".into(), what: "it broke".into(), remedy: "mend it".into(), at: clock::now(), run: Some(run) };
        change(&on.store, id, |m| m.fault = Some(fault)).await;
        let answer = api.post("/api/v1/machines/s1/retry", &token, &json!({})).await;
        assert_eq!(answer.status(), 202);
        let view: Value = answer.json().await.unwrap();
        assert_eq!((view["fault"].clone(), view["run"]["state"].as_str()), (Value::Null, Some("running")), "{}", on.name);
        let steps = on.store.run(run).await.unwrap().unwrap().steps;
        assert!(steps.iter().all(|s| s.state == StepState::Pending));
    }
}

#[tokio::test]
async fn the_event_stream_replays_what_was_missed_and_then_follows() {
    for on in both().await {
        let api = Api::on(&on.store).await;
        let token = api.token(Role::Operator).await;
        let before = on.store.events(Default::default(), 1).await.unwrap()[0].id;
        import(&api, &token, LIST).await;
        let mut stream =
            api.request(Method::GET, "/api/v1/events", &token).header("last-event-id", before.to_string()).send().await.unwrap();
        assert_eq!(stream.headers()["content-type"], "text/event-stream");
        let mut text = String::new();
        let mut read_until = async |what: &str, text: &mut String| {
            while !text.contains(what) {
                let chunk = tokio::time::timeout(Duration::from_secs(10), stream.chunk())
                    .await
                    .expect("an event in time")
                    .unwrap()
                    .expect("no end");
                text.push_str(&String::from_utf8_lossy(&chunk));
            }
        };
        read_until("rack.imported", &mut text).await;
        let id = api.app.find_machine("s3").await.unwrap();
        api.app.accept(&api.admin, id).await.unwrap();
        read_until("machine.accepted", &mut text).await;
        for kind in ["machine.announced", "rack.imported", "machine.accepted"] {
            let times = text.matches(&format!("\"kind\":\"{kind}\"")).count();
            assert_eq!(times, if kind == "machine.announced" { 3 } else { 1 }, "{kind} on {}: {text}", on.name);
        }
        assert!(text.contains("id: ") && text.contains("event: event"));
    }
}

#[tokio::test]
async fn a_machine_that_a_run_works_on_is_not_forgotten_before_the_run_is_given_up() {
    for on in both().await {
        let api = Api::on(&on.store).await;
        let token = api.token(Role::Operator).await;
        import(&api, &token, LIST).await;
        let id = api.app.find_machine("s1").await.unwrap();
        running(&on.store, id, RunKind::Release, Lifecycle::Releasing, RunState::Running).await;
        let path = format!("/api/v1/machines/{id}");
        let view: Value = api.get(&path, &token).await.json().await.unwrap();
        let verbs = view["verbs"].as_array().or_else(|| view["machine"]["verbs"].as_array()).unwrap();
        let shown = verbs.iter().find(|v| v["verb"] == "forget").unwrap();
        assert_eq!(shown["allowed"], false, "{}: page and API say the same", on.name);
        let body = problem(api.request(Method::DELETE, &path, &token).send().await.unwrap(), 409, "not_now").await;
        assert!(body["hint"].as_str().unwrap().contains("hostler machine abort s1"), "{body}");
        assert_eq!(api.post(&format!("{path}/abort"), &token, &json!({})).await.status(), 202);
        assert_eq!(api.request(Method::DELETE, &path, &token).send().await.unwrap().status(), 204, "{}", on.name);
        assert_eq!(on.store.machine(id).await.unwrap(), None);
    }
}

#[tokio::test]
async fn an_uploaded_image_is_checked_and_replaced_and_its_bytes_go_with_its_last_name() {
    for on in both().await {
        let api = Api::on(&on.store).await;
        let token = api.token(Role::Operator).await;
        // An MBR disk of 1 MiB with boot code and one partition.
        let mut disk = vec![0u8; 1 << 20];
        disk[0] = 0xeb;
        disk[446 + 4] = 0x83;
        disk[446 + 8..446 + 12].copy_from_slice(&1u32.to_le_bytes());
        disk[446 + 12..446 + 16].copy_from_slice(&100u32.to_le_bytes());
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        let upload = async |name: &str, extra: &str, body: Vec<u8>| {
            api.request(Method::POST, &format!("/api/v1/images?name={name}{extra}"), &token).body(body).send().await.unwrap()
        };
        let wrong = format!("&sha256={}", "0".repeat(64));
        problem(upload("one", &wrong, disk.clone()).await, 422, "invalid").await;
        let answer = upload("one", "&boots_on=bios", disk.clone()).await;
        assert_eq!(answer.status(), 201, "{}", answer.text().await.unwrap());
        let view: Value = api.get("/api/v1/images/one", &token).await.json().await.unwrap();
        assert_eq!((view["raw_size_bytes"].as_u64(), view["boots_on"].clone()), (Some(1 << 20), json!(["bios"])), "{}", on.name);
        assert_eq!(upload("two", "&boots_on=bios", disk).await.status(), 201);
        for name in ["one", "two"] {
            assert_eq!(api.request(Method::DELETE, &format!("/api/v1/images/{name}"), &token).send().await.unwrap().status(), 204);
        }
        problem(api.request(Method::DELETE, "/api/v1/images/two", &token).send().await.unwrap(), 404, "not_found").await;
    }
}

#[tokio::test]
async fn an_operator_does_not_point_a_known_machine_at_another_bmc() {
    for on in both().await {
        let api = Api::on(&on.store).await;
        let (operator, admin) = (api.token(Role::Operator).await, api.token(Role::Admin).await);
        assert_eq!(import(&api, &operator, LIST).await.status(), 200, "{}: the first list names the BMCs", on.name);
        let address = async || {
            let found = on.store.find_machines("s1").await.unwrap();
            found[0].bmc.as_ref().unwrap().address.to_string()
        };
        for (from, to) in [("10.0.0.1", "10.0.0.99"), ("root", "other"), ("canary-7f3a", "canary-new")] {
            let body = problem(import(&api, &operator, &LIST.replace(from, to)).await, 422, "invalid").await;
            assert_eq!((body["errors"][0]["line"].as_u64(), body["errors"][0]["field"].as_str()), (Some(2), Some("bmc")), "{body}");
        }
        assert_eq!(address().await, "10.0.0.1", "{}", on.name);
        assert_eq!(import(&api, &admin, &LIST.replace("10.0.0.1", "10.0.0.99")).await.status(), 200, "{}", on.name);
        assert_eq!(address().await, "10.0.0.99", "{}", on.name);
        let sql = "SELECT detail FROM audit WHERE action = 'machine.list_changed'";
        let detail: String = match &on.config {
            StoreConfig::Sqlite { path } => {
                let options = sqlx::sqlite::SqliteConnectOptions::new().filename(path).read_only(true);
                sqlx::query_scalar(sql).fetch_one(&sqlx::SqlitePool::connect_with(options).await.unwrap()).await.unwrap()
            }
            StoreConfig::Postgres { url } => {
                sqlx::query_scalar(sql).fetch_one(&sqlx::PgPool::connect(url.expose()).await.unwrap()).await.unwrap()
            }
        };
        let told: Value = serde_json::from_str(&detail).unwrap();
        assert_eq!((&told["bmc"]["address"], &told["bmc"]["address_before"]), (&json!("10.0.0.99"), &json!("10.0.0.1")), "{detail}");
        assert_eq!(told["bmc"]["password_changed"], false, "{detail}");
        assert!(!detail.contains("canary"), "{detail}");
    }
}

#[tokio::test]
async fn no_power_command_goes_to_a_bmc_that_belongs_to_another_machine() {
    for on in both().await {
        let api = Api::on(&on.store).await;
        let (bmc, still) = start(PowerState::On, setup()).await;
        let token = api.token(Role::Admin).await;
        let list = "serial,mac\nOTHER1,52:54:00:00:00:01\nSN00042,52:54:00:00:00:02\n";
        assert_eq!(import(&api, &token, list).await.status(), 200);
        let set = async |name: &str| {
            let body = json!({ "address": bmc.redfish_address().unwrap(), "user": "admin", "password": "secret" });
            let response = api.request(Method::PUT, &format!("/api/v1/machines/{name}/bmc"), &token).json(&body).send().await.unwrap();
            assert_eq!(response.status(), 200, "{}", on.name);
            api.post(&format!("/api/v1/machines/{name}/power"), &token, &json!({ "action": "off" })).await
        };
        problem(set("other1").await, 502, "bmc_of_another_machine").await;
        assert_eq!((still.actions(), still.power()), (vec![], PowerState::On), "{}", on.name);
        let id = on.store.find_machines("other1").await.unwrap()[0].id;
        let mut tx = on.store.begin().await.unwrap();
        tx.delete_machine(id).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(set("sn00042").await.status(), 200, "{}", on.name);
        assert_eq!(still.power(), PowerState::Off, "{}", on.name);
    }
}
