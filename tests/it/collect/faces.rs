//! What BMCs said, through API and metrics, on both engines.

use std::time::Duration;

use hostler::clock;
use hostler::domain::access::Role;
use hostler::domain::bmc::BmcAddress;
use hostler::domain::id::MachineId;
use hostler::domain::power::PowerState;
use hostler::sim::bmc::SimBmc;
use hostler::store::Store;
use reqwest::Method;
use serde_json::{Value, json};

use super::live::Site;
use super::seed;
use crate::api::kit::{Api, problem};
use crate::bmc::kit::{settings, setup, start};
use crate::support::engines::both;

async fn seeded(store: &Store) -> (Api, MachineId, SimBmc) {
    let (bmc, _) = start(PowerState::On, setup()).await;
    let address: BmcAddress = bmc.redfish_address().unwrap();
    let id = Site::new(store, settings()).machine(1, &address, "secret").await;
    seed::observed(store, id).await;
    (Api::on(store).await, id, bmc)
}

fn named<'a>(view: &'a Value, name: &str) -> &'a Value {
    view["items"].as_array().unwrap().iter().find(|s| s["name"] == name).unwrap_or_else(|| panic!("{name} in {view:#}"))
}

#[tokio::test]
async fn sensors_come_with_value_quality_age_and_level() {
    for on in both().await {
        let (api, _, _bmc) = seeded(&on.store).await;
        let token = api.token(Role::Viewer).await;
        let view: Value = api.get("/api/v1/machines/lab0001/sensors", &token).await.json().await.unwrap();
        let hot = named(&view, "CPU 2 Temp");
        assert_eq!(
            (&hot["value"], &hot["level"], &hot["quality"], &hot["unit"]),
            (&json!(88.0), &json!("caution"), &json!("good"), &json!("celsius")),
            "{}",
            on.name
        );
        assert_eq!(hot["thresholds"]["upper_critical"], 95.0);
        let fan = named(&view, "Fan 2");
        assert_eq!((&fan["level"], &fan["health"]), (&json!("critical"), &Value::Null), "C2: by its limits alone");
        let off = named(&view, "PCIe Temp");
        assert_eq!((&off["quality"], &off["value"], &off["why"]), (&json!("unavailable"), &json!(50.0), &json!("scanning is off")));
        let left_out = named(&view, "Exhaust Temp");
        assert_eq!(
            (&left_out["quality"], &left_out["level"], &left_out["value"]),
            (&json!("stale"), &Value::Null, &json!(41.0)),
            "C1, C11"
        );
        assert_eq!(named(&view, "PSU 2 status")["words"], json!(["presence detected", "input lost"]));
        assert_eq!(view["poll"]["stale"], false);

        let number = hot["number"].as_u64().unwrap();
        let samples: Value = api.get(&format!("/api/v1/machines/lab0001/sensors/{number}/samples"), &token).await.json().await.unwrap();
        assert_eq!(samples.as_array().unwrap().len(), 121, "{}", on.name);
        let rolled: Value = api
            .get(&format!("/api/v1/machines/lab0001/sensors/{number}/samples?resolution=five_minutes"), &token)
            .await
            .json()
            .await
            .unwrap();
        assert!((24..=26).contains(&rolled.as_array().unwrap().len()), "{}", on.name);
        assert!(rolled[1]["min"].as_f64().unwrap() <= rolled[1]["value"].as_f64().unwrap());
        let long = format!("/api/v1/machines/lab0001/sensors/{number}/samples?from=2020-01-01T00:00:00Z");
        problem(api.get(&long, &token).await, 422, "invalid").await;
        problem(api.get("/api/v1/machines/lab0001/sensors/x/samples", &token).await, 400, "bad_path").await;
    }
}

#[tokio::test]
async fn parts_logs_firmware_bios_and_capabilities_are_served() {
    for on in both().await {
        let (api, _, _bmc) = seeded(&on.store).await;
        let token = api.token(Role::Viewer).await;
        let get = async |path: &str| -> Value { api.get(&format!("/api/v1/machines/lab0001/{path}"), &token).await.json().await.unwrap() };
        let parts = get("parts").await;
        assert_eq!(parts["items"].as_array().unwrap().len(), 5, "{}", on.name);
        assert!(parts["history"][0]["text"].as_str().unwrap().contains("F0A1C2D4 instead of serial F0A1C2D3"), "{parts:#}");
        let evidence = parts["history"][0]["evidence"].as_str().unwrap();
        let raw: Value = api.get(&format!("/api/v1/evidence/{evidence}"), &token).await.json().await.unwrap();
        assert_eq!(raw["serial"], "F0A1C2D4");
        problem(api.get(&format!("/api/v1/evidence/{}", "0".repeat(64)), &token).await, 404, "not_found").await;

        let ids = async |query: &str| -> Vec<String> {
            let logs = get(&format!("logs{query}")).await;
            logs["items"].as_array().unwrap().iter().map(|e| e["entry"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(ids("").await, ["15", "14", "13", "12", "11"], "{}", on.name);
        assert_eq!(ids("?severity=critical").await, ["14", "11"]);
        assert_eq!(ids("?q=lost+its+input").await, ["14"]);
        let page = get("logs?limit=2").await;
        assert_eq!(ids(&format!("?limit=2&before={}", page["next"].as_str().unwrap())).await, ["13", "12"], "{}", on.name);
        assert_eq!(get("logs").await["items"][4]["historical"], true);

        assert_eq!(get("firmware").await["items"][0]["version"], "2.72 Sep 04 2022");
        assert_eq!(get("bios").await["items"][1]["pending"], "Disabled");
        let sheet = get("capabilities").await;
        assert_eq!(
            sheet["items"][2],
            json!({ "capability": "virtual_media", "offered": false, "evidence": "/redfish/v1/Managers/1 links no VirtualMedia collection" })
        );
        assert_eq!((sheet["traffic"][0]["requests"].as_u64(), sheet["polls"].as_array().unwrap().len()), (Some(174), 7), "{}", on.name);
    }
}

#[tokio::test]
async fn metrics_follow_the_inventory_and_silence_is_not_a_value() {
    for on in both().await {
        let (api, id, _bmc) = seeded(&on.store).await;
        let token = api.token(Role::Viewer).await;
        problem(api.http.get(format!("{}/metrics/machines", api.url)).send().await.unwrap(), 401, "unauthenticated").await;
        let read = async |path: &str| api.get(path, &token).await.text().await.unwrap();
        let machines = read("/metrics/machines").await;
        let line = |text: &str, start: &str| -> String {
            text.lines().find(|l| l.starts_with(start)).unwrap_or_else(|| panic!("{start} in\n{text}")).to_owned()
        };
        let cpu = "hostler_hw_temperature_celsius{machine=\"lab0001\",sensor=\"CPU 2 Temp\"";
        assert!(line(&machines, cpu).ends_with(" 88"), "{}", on.name);
        assert!(line(&machines, "hostler_hw_temperature_celsius{machine=\"lab0001\",sensor=\"Exhaust Temp\"").ends_with(" NaN"), "C1");
        assert!(line(&machines, "hostler_hw_sensor_good{machine=\"lab0001\",sensor=\"Exhaust Temp\"").ends_with(" 0"));
        assert_eq!(line(&machines, "hostler_bmc_up"), "hostler_bmc_up{machine=\"lab0001\"} 1");
        assert_eq!(
            line(&machines, "hostler_bmc_requests_last_hour"),
            "hostler_bmc_requests_last_hour{machine=\"lab0001\",protocol=\"redfish\"} 174"
        );
        for l in machines.lines().filter(|l| !l.starts_with('#')) {
            let (_, value) = l.rsplit_once(' ').unwrap();
            assert!(value == "NaN" || value.parse::<f64>().is_ok(), "{l}");
        }
        assert!(!read("/metrics/machines?machine=other").await.contains("lab0001"));
        assert!(read("/metrics").await.contains("hostler_bmcs{state=\"answering\"} 1"), "{}", on.name);

        // An hour without an answer: every series is still there.
        seed::set_polls(&on.store, id, clock::now().minus(Duration::from_secs(3600))).await;
        let silent = read("/metrics/machines").await;
        assert_eq!(line(&silent, "hostler_bmc_up"), "hostler_bmc_up{machine=\"lab0001\"} 0", "{}", on.name);
        assert!(line(&silent, "hostler_machine_power_on").ends_with(" NaN"));
        assert_eq!(silent.lines().count(), machines.lines().count());
        let fleet = read("/metrics").await;
        assert!(
            fleet.contains("hostler_bmcs{state=\"silent\"} 1") && fleet.contains("hostler_bmc_stale{kind=\"sensors\"} 1"),
            "{}",
            on.name
        );
        for family in ["hostler_bmc_polls_total", "hostler_bmc_requests_total", "hostler_bmc_poll_duration_seconds"] {
            assert!(fleet.contains(&format!("# TYPE {family} ")), "{family}");
        }
    }
}

#[tokio::test]
async fn acts_on_a_bmc_need_their_role_and_say_what_it_does_not_offer() {
    for on in both().await {
        let (api, _, _bmc) = seeded(&on.store).await;
        let (viewer, tech, operator, admin) =
            (api.token(Role::Viewer).await, api.token(Role::Tech).await, api.token(Role::Operator).await, api.token(Role::Admin).await);
        let led = "/api/v1/machines/lab0001/led";
        problem(api.post(led, &viewer, &json!({})).await, 403, "forbidden").await;
        problem(api.post("/api/v1/machines/lab0001/bmc/reset", &tech, &Value::Null).await, 403, "forbidden").await;
        problem(api.post("/api/v1/machines/lab0001/bmc/raw", &operator, &json!({ "ask": "/redfish/v1" })).await, 403, "forbidden").await;
        problem(api.post(led, &tech, &json!({ "for_secs": 0 })).await, 422, "invalid").await;
        problem(api.post(led, &tech, &json!({ "for_secs": 100_000 })).await, 422, "invalid").await;
        for ask in ["", "/etc/passwd", "/redfish/v1/../x", "hello", "https://elsewhere/redfish/v1"] {
            problem(api.post("/api/v1/machines/lab0001/bmc/raw", &admin, &json!({ "ask": ask })).await, 422, "invalid").await;
        }
        let status: Value = api.get(led, &viewer).await.json().await.unwrap();
        assert_eq!(status, Value::Null, "{}", on.name);
        let off = api.request(Method::DELETE, led, &viewer).send().await.unwrap();
        problem(off, 403, "forbidden").await;
    }
}
