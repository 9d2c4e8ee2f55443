//! Baselines, compliance and campaigns over the API.

use hostler::app::intake::blank_machine;
use hostler::clock;
use hostler::decide::discovery::{Evidence, Source};
use hostler::domain::access::Role;
use hostler::domain::bmc_features::FirmwareItem;
use hostler::domain::id::MachineId;
use hostler::store::Store;
use hostler::store::sheets::Sheet;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Digest;

use super::kit::{Api, problem};
use crate::support::engines::both;

async fn machine(store: &Store, name: &str, model: &str, runs: Option<&str>) {
    let now = clock::now();
    let evidence = Evidence { uuid: None, serial: None, macs: vec![], parts: vec![], source: Source::PackingList };
    let mut m = blank_machine(MachineId(clock::fresh_uuid()), name.parse().unwrap(), &evidence, now);
    m.accepted_at = Some(now);
    let mut tx = store.begin().await.unwrap();
    tx.insert_machine(&m).await.unwrap();
    tx.put_bmc(m.id, &format!("bmc-{name}").parse().unwrap(), "admin", "sealed").await.unwrap();
    tx.commit().await.unwrap();
    let mut status = store.machine(m.id).await.unwrap().unwrap().bmc.unwrap();
    status.identity.model = Some(model.to_owned());
    let item = |version: &str| FirmwareItem {
        source: "/redfish/v1/UpdateService/FirmwareInventory/BMC".into(),
        name: "Management Controller".into(),
        version: Some(version.into()),
        updateable: None,
        software_id: None,
        related: vec![],
        health: None,
        in_use: None,
    };
    let mut tx = store.begin().await.unwrap();
    tx.update_bmc(m.id, &status).await.unwrap();
    if let Some(version) = runs {
        tx.put_sheet(m.id, Sheet::Firmware, now, &vec![item(version)]).await.unwrap();
    }
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn a_baseline_is_set_compliance_shown_and_a_campaign_begun_steered_and_ended() {
    for engine in both().await {
        let api = Api::on(&engine.store).await;
        let (viewer, operator, admin) = (api.token(Role::Viewer).await, api.token(Role::Operator).await, api.token(Role::Admin).await);
        machine(&engine.store, "a", "R1", Some("1.0")).await;
        machine(&engine.store, "b", "R1", Some("2.0")).await;
        machine(&engine.store, "c", "R1", None).await;
        machine(&engine.store, "d", "R2", Some("1.0")).await;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bmc.bin");
        std::fs::write(&path, b"firmware").unwrap();
        let digest = hex::encode(sha2::Sha256::digest(b"firmware"));
        let line = |sha256: &str| json!({"model": "R1", "component": "BMC", "version": "2.0", "path": path, "sha256": sha256});
        let put = async |token: &str, body: Value| {
            api.request(Method::PUT, "/api/v1/firmware/baselines", token).json(&body).send().await.unwrap()
        };
        problem(put(&operator, line(&digest)).await, 403, "forbidden").await;
        let wrong = put(&admin, line(&"0".repeat(64))).await;
        assert!(wrong.status().is_client_error(), "{}", wrong.status());
        let set: Value = put(&admin, line(&digest)).await.json().await.unwrap();
        assert_eq!((&set["file_name"], &set["size_bytes"]), (&json!("bmc.bin"), &json!(8)));

        let compliance: Vec<Value> = api.get("/api/v1/firmware/compliance", &viewer).await.json().await.unwrap();
        let mut shown: Vec<(&str, &str)> = compliance.iter().map(|c| (c["name"].as_str().unwrap(), c["is"].as_str().unwrap())).collect();
        shown.sort_unstable();
        assert_eq!(shown, [("a", "differs"), ("b", "fits"), ("c", "unknown")], "{}", engine.name);

        let wanted = json!({"model": "R1", "component": "BMC"});
        problem(api.post("/api/v1/firmware/campaigns", &viewer, &wanted).await, 403, "forbidden").await;
        problem(api.post("/api/v1/firmware/campaigns", &operator, &json!({"model": "R9", "component": "BMC"})).await, 404, "not_found")
            .await;
        let begun = api.post("/api/v1/firmware/campaigns", &operator, &wanted).await;
        assert_eq!(begun.status().as_u16(), 201);
        let campaign: Value = begun.json().await.unwrap();
        let waves: Vec<i64> = campaign["machines"].as_array().unwrap().iter().map(|m| m["wave"].as_i64().unwrap()).collect();
        assert_eq!(waves, [0, 1, 1]);
        problem(api.post("/api/v1/firmware/campaigns", &operator, &wanted).await, 409, "campaign_under_way").await;
        let at = |verb: &str| format!("/api/v1/firmware/campaigns/{}/{verb}", campaign["id"].as_str().unwrap());
        for (verb, state) in [("pause", "paused"), ("resume", "running"), ("abort", "aborted")] {
            let view: Value = api.post(&at(verb), &operator, &Value::Null).await.json().await.unwrap();
            assert_eq!(view["state"], state);
        }
        problem(api.post(&at("resume"), &operator, &Value::Null).await, 409, "campaign_state").await;
        let all: Vec<Value> = api.get("/api/v1/firmware/campaigns", &viewer).await.json().await.unwrap();
        assert_eq!(all.len(), 1);
    }
}
