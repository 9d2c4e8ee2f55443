//! Trees as the standard allows them and no recording here shows them, written for these tests: one thing by two addresses, copies
//! of readings, arrays of links, other letters, several machines behind one front. Read by `hostler bmc probe --json`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::probe::{json_of, probe};
use super::recorded::{Letters, Recorded};

const V1: &str = "/redfish/v1";

fn link(path: &str) -> Value {
    json!({"@odata.id": format!("{V1}{path}")})
}

/// A tree from resources by their paths below `/redfish/v1`.
struct Tree(BTreeMap<String, Value>);

impl Tree {
    fn new(root: Value) -> Self {
        Self(BTreeMap::from([(V1.to_owned(), root)]))
    }

    fn put(mut self, path: &str, body: Value) -> Self {
        let mut body = body;
        let id = path.rsplit('/').next().unwrap_or_default();
        let fields = body.as_object_mut().unwrap();
        fields.entry("@odata.id").or_insert_with(|| format!("{V1}{path}").into());
        fields.entry("Id").or_insert_with(|| id.into());
        fields.entry("Name").or_insert_with(|| id.into());
        self.0.insert(format!("{V1}{path}"), body);
        self
    }

    fn list(mut self, path: &str, members: &[&str]) -> Self {
        let links: Vec<Value> = members.iter().map(|m| link(m)).collect();
        self.0.insert(
            format!("{V1}{path}"),
            json!({"@odata.id": format!("{V1}{path}"), "Members": links, "Members@odata.count": members.len()}),
        );
        self
    }

    async fn read(self) -> Value {
        let (_, access) = Recorded::serve_tree(self.0, Letters::Exact).await;
        json_of(&[&access.address.to_string()]).await
    }
}

fn one_machine() -> Tree {
    Tree::new(json!({"Systems": link("/Systems"), "Chassis": link("/Chassis"), "Managers": link("/Managers")}))
        .list("/Systems", &["/Systems/1"])
        .list("/Chassis", &["/Chassis/1"])
        .list("/Managers", &[])
}

fn parts<'a>(report: &'a Value, kind: &str) -> Vec<&'a Value> {
    report["parts"].as_array().unwrap().iter().filter(|p| p["kind"] == kind).collect()
}

fn understood(report: &Value) {
    assert_eq!(report["not_understood"], json!([]));
    assert_eq!(report["failed"], json!([]));
}

#[tokio::test]
async fn a_drive_with_two_addresses_is_one_and_the_older_list_of_drives_counts_only_alone() {
    let tree = |storage: bool| {
        let mut system = json!({"PowerState": "On", "SimpleStorage": link("/Systems/1/SimpleStorage")});
        if storage {
            system["Storage"] = link("/Systems/1/Storage");
        }
        one_machine()
            .put("/Systems/1", system)
            .put("/Chassis/1", json!({"Drives": if storage { link("/Chassis/1/Drives") } else { Value::Null }}))
            .list("/Systems/1/Storage", &["/Systems/1/Storage/R"])
            .put("/Systems/1/Storage/R", json!({"Drives": [link("/Systems/1/Storage/R/Drives/0")], "StorageControllers": [link("/Systems/1/Storage/R/Controllers/0")]}))
            .put("/Systems/1/Storage/R/Controllers/0", json!({"SerialNumber": "C1", "Model": "X"}))
            .put("/Systems/1/Storage/R/Drives/0", json!({"SerialNumber": "S1", "CapacityBytes": "480103981056", "Status": {"State": "enabled", "Health": "ok"}}))
            .list("/Chassis/1/Drives", &["/Chassis/1/Drives/A", "/Chassis/1/Drives/B"])
            .put("/Chassis/1/Drives/A", json!({"SerialNumber": "S1", "CapacityBytes": 480103981056u64}))
            .put("/Chassis/1/Drives/B", json!({"SerialNumber": null, "Status": {"State": "ABSENT", "Health": null}}))
            .list("/Systems/1/SimpleStorage", &["/Systems/1/SimpleStorage/1"])
            .put("/Systems/1/SimpleStorage/1", json!({"Devices": [{"Name": "Bay 0", "Model": "X", "CapacityBytes": 1000}, {"Name": "Bay 1"}]}))
    };
    let report = tree(true).read().await;
    understood(&report);
    let drives = parts(&report, "drive");
    assert_eq!(
        drives.iter().map(|d| d["source"].as_str().unwrap()).collect::<Vec<_>>(),
        ["/redfish/v1/Systems/1/Storage/R/Drives/0", "/redfish/v1/Chassis/1/Drives/B"]
    );
    assert_eq!((&drives[0]["facts"]["capacity_bytes"], &drives[0]["health"]), (&json!(480_103_981_056u64), &json!("ok")));
    assert_eq!((&drives[1]["state"], &drives[1]["health"]), (&json!("absent"), &Value::Null));
    assert_eq!(parts(&report, "storage_controller")[0]["source"], "/redfish/v1/Systems/1/Storage/R/Controllers/0");
    let older = tree(false).read().await;
    assert_eq!(parts(&older, "drive").len(), 2);
    assert_eq!(parts(&older, "drive")[0]["source"], "/redfish/v1/Systems/1/SimpleStorage/1#/Devices/0");
}

#[tokio::test]
async fn a_reading_and_its_copies_are_one_sensor() {
    let sensor = |name: &str, reading: Value| {
        json!({"Name": name, "ReadingType": "Temperature", "ReadingUnits": "Cel", "Reading": reading, "Status": {"State": "Enabled", "Health": "OK"},
            "Thresholds": {"UpperCaution": {"Reading": 40}, "UpperCritical": {"Reading": "45"}, "LowerCritical": null}})
    };
    let report = one_machine()
        .put("/Systems/1", json!({"PowerState": "Off"}))
        .put(
            "/Chassis/1",
            json!({"Sensors": link("/Chassis/1/Sensors"), "Thermal": link("/Chassis/1/Thermal"), "ThermalSubsystem": link("/Chassis/1/ThermalSubsystem"),
                "EnvironmentMetrics": link("/Chassis/1/EnvironmentMetrics")}),
        )
        .list("/Chassis/1/Sensors", &["/Chassis/1/Sensors/inlet", "/Chassis/1/Sensors/pwm", "/Chassis/1/Sensors/gone"])
        .put("/Chassis/1/Sensors/inlet", sensor("Inlet Temp", json!(21.5)))
        .put("/Chassis/1/Sensors/gone", sensor("Outlet", Value::Null))
        .put("/Chassis/1/Sensors/pwm", json!({"Name": "Pwm 1", "ReadingType": "Percent", "Reading": 30}))
        .put(
            "/Chassis/1/Thermal",
            json!({"Temperatures": [{"Name": "Front", "ReadingCelsius": 21.5, "DataSourceUri": format!("{V1}/Chassis/1/Sensors/inlet")},
                {"Name": "Only here", "ReadingCelsius": "33", "UpperThresholdCritical": "90", "UpperThresholdFatal": "N/A", "LowerThresholdNonCritical": 5}],
                "Fans": [{"Name": "Pwm_1", "Reading": 30, "ReadingUnits": "PERCENT"}, {"FanName": "Fan 2", "Reading": 4200, "ReadingUnits": "rpm"}]}),
        )
        .put("/Chassis/1/ThermalSubsystem", json!({"ThermalMetrics": link("/Chassis/1/ThermalSubsystem/ThermalMetrics"), "Fans": link("/Chassis/1/ThermalSubsystem/Fans")}))
        .list("/Chassis/1/ThermalSubsystem/Fans", &[])
        .put("/Chassis/1/ThermalSubsystem/ThermalMetrics", json!({"TemperatureReadingsCelsius": [{"Reading": 21.5, "DataSourceUri": format!("{V1}/Chassis/1/Sensors/inlet")}]}))
        .put("/Chassis/1/EnvironmentMetrics", json!({"TemperatureCelsius": {"Reading": 21.5}}))
        .read()
        .await;
    understood(&report);
    let sensors = report["sensors"].as_array().unwrap();
    let mut names: Vec<&str> = sensors.iter().map(|s| s["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["Fan 2", "Inlet Temp", "Only here", "Outlet", "Pwm_1"]);
    let of = |name: &str| sensors.iter().find(|s| s["name"] == name).unwrap();
    assert_eq!(
        (&of("Inlet Temp")["thresholds"]["upper_caution"], &of("Inlet Temp")["thresholds"]["upper_critical"]),
        (&json!(40.0), &json!(45.0))
    );
    let old = of("Only here");
    assert_eq!((&old["thresholds"]["upper_critical"], &old["thresholds"]["upper_fatal"]), (&json!(90.0), &Value::Null));
    assert_eq!((&old["thresholds"]["lower_caution"], &old["reading"]["value"]), (&json!(5.0), &json!(33.0)));
    assert_eq!(of("Outlet")["reading"]["is"], "unavailable");
    assert_eq!(of("Fan 2")["unit"], "rpm");
}

#[tokio::test]
async fn ports_are_found_by_every_way_and_listed_once() {
    let report = one_machine()
        .put("/Systems/1", json!({"PowerState": "On", "NetworkInterfaces": link("/Systems/1/NetworkInterfaces"), "EthernetInterfaces": link("/Systems/1/EthernetInterfaces")}))
        .put("/Chassis/1", json!({}))
        .list("/Systems/1/NetworkInterfaces", &["/Systems/1/NetworkInterfaces/A"])
        .put("/Systems/1/NetworkInterfaces/A", json!({"Links": {"NetworkAdapter": link("/Chassis/1/NetworkAdapters/A")}}))
        .put("/Chassis/1/NetworkAdapters/A", json!({"NetworkPorts": link("/Chassis/1/NetworkAdapters/A/NetworkPorts"), "NetworkDeviceFunctions": link("/Chassis/1/NetworkAdapters/A/NetworkDeviceFunctions")}))
        .list("/Chassis/1/NetworkAdapters/A/NetworkPorts", &["/Chassis/1/NetworkAdapters/A/NetworkPorts/1"])
        .put("/Chassis/1/NetworkAdapters/A/NetworkPorts/1", json!({"LinkStatus": "Up"}))
        .list("/Chassis/1/NetworkAdapters/A/NetworkDeviceFunctions", &["/Chassis/1/NetworkAdapters/A/NetworkDeviceFunctions/1"])
        .put("/Chassis/1/NetworkAdapters/A/NetworkDeviceFunctions/1", json!({"Ethernet": {"MACAddress": "52:54:00:00:00:01"}, "Links": {"PhysicalPortAssignment": link("/Chassis/1/NetworkAdapters/A/NetworkPorts/1")}}))
        .list("/Systems/1/EthernetInterfaces", &["/Systems/1/EthernetInterfaces/1", "/Systems/1/EthernetInterfaces/2"])
        .put("/Systems/1/EthernetInterfaces/1", json!({"MACAddress": "52:54:00:00:00:01"}))
        .put("/Systems/1/EthernetInterfaces/2", json!({"MACAddress": "52:54:00:00:00:02", "SpeedMbps": "1000"}))
        .read()
        .await;
    understood(&report);
    let shown: Vec<(&str, &str)> =
        parts(&report, "network_port").iter().map(|p| (p["source"].as_str().unwrap(), p["facts"]["mac"].as_str().unwrap())).collect();
    assert_eq!(
        shown,
        [
            ("/redfish/v1/Chassis/1/NetworkAdapters/A/NetworkPorts/1", "52:54:00:00:00:01"),
            ("/redfish/v1/Systems/1/EthernetInterfaces/2", "52:54:00:00:00:02"),
        ]
    );
    assert_eq!(parts(&report, "network_adapter").len(), 1);
}

#[tokio::test]
async fn blades_behind_one_front_are_all_read_and_the_report_says_so() {
    let blade = |n: u32| json!({"PowerState": "On", "SerialNumber": format!("B{n}"), "Memory": link(&format!("/Systems/{n}/Memory"))});
    let slot =
        |serial: Value, state: &str| json!({"SerialNumber": serial, "CapacityMiB": null, "Status": {"State": state, "Health": "OK"}});
    let report = Tree::new(json!({"Systems": link("/Systems"), "Chassis": link("/Chassis")}))
        .list("/Systems", &["/Systems/1", "/Systems/2"])
        .list("/Chassis", &["/Chassis/E", "/Chassis/1"])
        .put("/Systems/1", blade(1))
        .put("/Systems/2", blade(2))
        .list("/Systems/1/Memory", &["/Systems/1/Memory/1"])
        .list("/Systems/2/Memory", &["/Systems/2/Memory/1"])
        .put("/Systems/1/Memory/1", slot(json!("M1"), "Enabled"))
        .put("/Systems/2/Memory/1", slot(Value::Null, "Absent"))
        .put("/Chassis/E", json!({"ChassisType": "Enclosure", "Power": link("/Chassis/E/Power")}))
        .put("/Chassis/1", json!({"ChassisType": "Blade", "Power": link("/Chassis/E/Power")}))
        .put("/Chassis/E/Power", json!({"PowerSupplies": [{"MemberId": "0", "SerialNumber": "P1"}]}))
        .read()
        .await;
    understood(&report);
    assert_eq!((&report["identity"]["serial"], &report["identity"]["source"]), (&json!("B1"), &json!("/redfish/v1/Systems/1")));
    assert_eq!((parts(&report, "system").len(), parts(&report, "chassis").len(), parts(&report, "power_supply").len()), (2, 2, 1));
    assert_eq!(parts(&report, "dimm").iter().map(|d| d["state"].as_str().unwrap()).collect::<Vec<_>>(), ["present", "absent"]);
    assert!(report["problems"].as_array().unwrap().iter().any(|p| p["what"].as_str().unwrap().starts_with("it serves 2 systems (1, 2)")));
}

#[tokio::test]
async fn logs_that_are_off_are_read_over_their_pages_and_vendors_links_are_named() {
    let report = one_machine()
        .put("/Systems/1", json!({"PowerState": "On", "LogServices": link("/Systems/1/LogServices"), "Oem": {"Acme": {"Boards": link("/Systems/1/Boards"), "Links": {"Fans": [link("/Systems/1/Oem/Fans")]}}}}))
        .put("/Chassis/1", json!({}))
        .list("/Systems/1/LogServices", &["/Systems/1/LogServices/SEL"])
        .put("/Systems/1/LogServices/SEL", json!({"ServiceEnabled": false, "Entries": link("/Systems/1/LogServices/SEL/Entries")}))
        .put("/Systems/1/LogServices/SEL/Entries", json!({"Members": [{"@odata.id": "/redfish/v1/Systems/1/LogServices/SEL/Entries/1", "Id": "1", "Created": "2024/06/11 05:13:00", "Severity": "Information", "Message": "on"}],
            "Members@odata.count": 2, "Members@odata.nextLink": "/redfish/v1/Systems/1/LogServices/SEL/More"}))
        .put("/Systems/1/LogServices/SEL/More", json!({"Members": [{"@odata.id": "/redfish/v1/Systems/1/LogServices/SEL/Entries/2", "Id": "2", "Created": "2024-06-11T06:13:00Z", "Severity": "MAJOR", "Message": "lost"}]}))
        .read()
        .await;
    understood(&report);
    let log = &report["logs"][0];
    let read: Vec<(&str, &str)> =
        log["entries"].as_array().unwrap().iter().map(|e| (e["at"].as_str().unwrap(), e["severity"].as_str().unwrap())).collect();
    assert_eq!(read.len(), 2, "{log}");
    assert_eq!((read[0].1, read[1].1, log["is_cut"].as_bool()), ("info", "critical", Some(false)));
    let named: Vec<&str> = report["oem_links"].as_array().unwrap().iter().map(|o| o["what"].as_str().unwrap()).collect();
    assert_eq!(
        named,
        ["Oem.Acme.Boards links to /redfish/v1/Systems/1/Boards", "Oem.Acme.Links.Fans links to /redfish/v1/Systems/1/Oem/Fans"]
    );
}

/// Serves the same hostile answer below a good root and system.
async fn hostile(rest: impl Fn(String) -> Response + Clone + Send + Sync + 'static) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let app = axum::Router::new().fallback(move |uri: Uri| {
        let rest = rest.clone();
        async move {
            match uri.path().trim_end_matches('/') {
                V1 => axum::Json(json!({"Systems": link("/Systems"), "Chassis": link("/C"), "Managers": link("/M"), "UpdateService": link("/U"), "AccountService": link("/A")})).into_response(),
                "/redfish/v1/Systems" => axum::Json(json!({"Members": [link("/Systems/1")]})).into_response(),
                "/redfish/v1/Systems/1" => axum::Json(json!({"PowerState": "On", "Memory": link("/D"), "LogServices": link("/L"), "Storage": link("/S")})).into_response(),
                _ => rest(uri.to_string()),
            }
        }
    });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

#[tokio::test]
async fn a_hostile_tree_is_read_in_bounded_time_and_said_to_be_so() {
    let begun = Instant::now();
    let html = hostile(|_| "<html>Please log in</html>".into_response()).await;
    let circle = hostile(|uri| axum::Json(json!({"@odata.id": uri, "Members": [{"@odata.id": uri}], "Members@odata.nextLink": uri, "Entries": {"@odata.id": uri}, "FirmwareInventory": {"@odata.id": uri}, "Accounts": {"@odata.id": uri}, "Sensors": {"@odata.id": uri}})).into_response()).await;
    let cut = hostile(|_| "{\"Members\": [{\"@odata.id\": \"/redf".into_response()).await;
    let huge = hostile(|_| format!("{{\"Members\": [{}0]}}", "0,".repeat(1 << 20)).into_response()).await;
    // Every resource has 150 others behind it.
    let wide = hostile(|uri| {
        let members: Vec<Value> = (0..150).map(|n| json!({"@odata.id": format!("{uri}/{n}")})).collect();
        axum::Json(json!({"Id": "x", "Members": members, "Entries": {"@odata.id": format!("{uri}/E")}})).into_response()
    })
    .await;
    for (name, address) in [("html", html), ("circle", circle), ("cut", cut), ("huge", huge), ("wide", wide)] {
        let output = probe(&[&address, "--json"]).await;
        let code = output.status.code();
        assert!(matches!(code, Some(0 | 1 | 6)), "{name}: {code:?} {}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{name}: {e}"));
        let said = report["unread"].as_array().unwrap().len()
            + report["failed"].as_array().unwrap().len()
            + report["not_understood"].as_array().unwrap().len();
        assert!(said > 0, "{name}");
        assert!(parts(&report, "dimm").iter().all(|d| d["health"].is_null()), "{name}: nothing is healthy there");
    }
    assert!(begun.elapsed() < Duration::from_secs(150), "{:?}", begun.elapsed());
}
