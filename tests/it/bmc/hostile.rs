//! Bad input: each resource that is wrong costs itself, is named, and nothing of it is taken for health.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hostler::bmc::{BmcAccess, BmcError};
use hostler::domain::hardware_log::LogCursor;
use hostler::domain::part::PartKind;
use serde_json::{Value, json};

use super::kit::{access, bmcs, machine};
use super::recorded::{Letters, Recorded};

/// A name and what is answered under it.
type Bad = (&'static str, fn() -> Response);

async fn serve(answer: impl Fn(String) -> Response + Clone + Send + Sync + 'static) -> BmcAccess {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let access = access(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap(), "", "");
    let app = axum::Router::new().fallback(move |uri: Uri| {
        let answer = answer.clone();
        async move { answer(uri.path().trim_end_matches('/').to_owned()) }
    });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    access
}

fn dimm(serial: &str) -> Value {
    json!({"@odata.id": "/x", "Name": "DIMM", "SerialNumber": serial, "CapacityMiB": 16384, "Status": {"State": "Enabled", "Health": "OK"}})
}

/// A machine whose memory slots are the bad bodies, after one that is good.
async fn with_dimms(bad: &'static [Bad], links: &'static [&'static str]) -> BmcAccess {
    serve(move |path| {
        let below = path.strip_prefix("/redfish/v1").unwrap_or("/");
        let mut members = vec![json!({"@odata.id": "/redfish/v1/Systems/1/Memory/good"})];
        members.extend(bad.iter().map(|(name, _)| json!({"@odata.id": format!("/redfish/v1/Systems/1/Memory/{name}")})));
        members.extend(links.iter().map(|l| json!({"@odata.id": l})));
        let body = match below {
            "" => json!({"Systems": {"@odata.id": "/redfish/v1/Systems"}}),
            "/Systems" => json!({"Members": [{"@odata.id": "/redfish/v1/Systems/1"}]}),
            "/Systems/1" => json!({"Name": "s", "PowerState": "On", "Memory": {"@odata.id": "/redfish/v1/Systems/1/Memory"}}),
            "/Systems/1/Memory" => json!({"Members": members}),
            "/Systems/1/Memory/good" => dimm("GOOD1"),
            other => match bad.iter().find(|(name, _)| other.ends_with(name)) {
                Some((_, answer)) => return answer(),
                None => return StatusCode::NOT_FOUND.into_response(),
            },
        };
        axum::Json(body).into_response()
    })
    .await
}

fn with_type(body: impl Into<Body>) -> Response {
    ([("content-type", "application/json")], body.into()).into_response()
}

#[tokio::test]
async fn each_bad_resource_costs_itself_and_is_named() {
    let bad: &[Bad] = &[
        ("truncated", || with_type("{\"Name\": \"DIMM\", \"SerialNu")),
        ("html", || "<html><body>Login</body></html>".into_response()),
        ("deep", || with_type(format!("{{\"a\":{}1{}}}", "[".repeat(100), "]".repeat(100)))),
        ("deepest", || with_type("[".repeat(200_000))),
        ("big", || with_type(vec![b' '; 9 << 20])),
        ("list", || with_type("[]")),
        ("text", || with_type("\"OK\"")),
        ("empty", || with_type("")),
        ("error", || axum::Json(json!({"error": {"code": "Base.1.0.GeneralError", "message": "Not now."}})).into_response()),
        ("forbidden", || StatusCode::FORBIDDEN.into_response()),
        ("broken", || StatusCode::INTERNAL_SERVER_ERROR.into_response()),
        ("away", || (StatusCode::TEMPORARY_REDIRECT, [("location", "http://192.0.2.1/x")]).into_response()),
    ];
    let links = [
        "http://192.0.2.1/redfish/v1/Memory/1",
        "//192.0.2.1/m",
        "ftp://h/x",
        "/redfish/v1/Systems/1/Memory/gone",
        "/redfish/v1/Systems/1/Memory/good#/Nothing",
    ];
    let access = with_dimms(bad, Box::leak(Box::new(links))).await;
    let found = bmcs().parts(machine(), &access).await.unwrap().value;
    let dimms: Vec<_> = found.items.iter().filter(|p| p.kind == PartKind::Dimm).collect();
    assert_eq!(dimms.len(), 1, "{dimms:?}");
    assert_eq!(dimms[0].serial.as_ref().unwrap().as_str(), "GOOD1");
    for (name, _) in bad {
        assert!(found.unread.iter().any(|u| u.source.ends_with(name)), "{name} is not named: {:?}", found.unread);
    }
    let why = |name: &str| found.unread.iter().find(|u| u.source.contains(name)).map(|u| u.what.as_str()).unwrap_or_default();
    assert!(why("html").contains("web page") && why("deep").contains("deeper") && why("error").contains("Not now"), "{:?}", found.unread);
    assert!(why("http://192.0.2.1").contains("another place") && why("away").contains("another place") && why("gone").contains("404"));
    assert_eq!(found.unread.len(), bad.len() + links.len());
}

#[tokio::test]
async fn wrong_types_cost_one_field_each() {
    let bad: &[Bad] = &[("odd", || {
        axum::Json(json!({"Name": ["DIMM"], "SerialNumber": 1234567, "CapacityMiB": "many", "OperatingSpeedMhz": null, "Manufacturer": {},
            "Status": "OK", "Location": [null, 3], "Metrics": "none", "MemoryLocation": {"Slot": -1}}))
        .into_response()
    })];
    let access = with_dimms(bad, &[]).await;
    let found = bmcs().parts(machine(), &access).await.unwrap().value;
    let odd = found.items.iter().find(|p| p.source.ends_with("/odd")).unwrap();
    assert_eq!(
        (odd.serial.as_ref().unwrap().as_str(), odd.facts.capacity_bytes, odd.health),
        ("1234567", None, Some(hostler::domain::sensor::Health::Ok))
    );
    let whats: Vec<&str> = found.not_understood.iter().map(|o| o.what.as_str()).collect();
    for field in ["Name", "CapacityMiB", "Manufacturer", "Slot"] {
        assert!(whats.iter().any(|w| w.starts_with(field)), "{field}: {whats:?}");
    }
}

#[tokio::test]
async fn control_characters_and_markup_are_text_and_nothing_else() {
    let bad: &[Bad] = &[("odd", || {
        axum::Json(json!({"Name": "\u{1b}[31m<script>alert(1)</script>\u{0}\r\n", "SerialNumber": "S\u{7}N\u{1b}1", "PartNumber": "p".repeat(5000)})).into_response()
    })];
    let access = with_dimms(bad, &[]).await;
    let found = bmcs().parts(machine(), &access).await.unwrap().value;
    let odd = found.items.iter().find(|p| p.source.ends_with("/odd")).unwrap();
    assert_eq!((odd.name.as_str(), odd.serial.as_ref().unwrap().as_str()), ("[31m<script>alert(1)</script>", "SN1"));
    assert_eq!(odd.part_number.as_ref().unwrap().len(), 256);
}

#[tokio::test]
async fn pages_in_a_circle_end_and_are_reported() {
    let access = serve(|path| {
        let body = match path.as_str() {
            "/redfish/v1" => json!({"Systems": {"@odata.id": "/redfish/v1/Systems"}}),
            "/redfish/v1/Systems" => json!({"Members": [{"@odata.id": "/redfish/v1/Systems/1"}]}),
            "/redfish/v1/Systems/1" => json!({"Name": "s", "Memory": {"@odata.id": "/redfish/v1/Systems/1/Memory"}}),
            _ => json!({"Members": [{"@odata.id": "/m/1", "Id": "1", "SerialNumber": "AB12"}], "Members@odata.nextLink": "/redfish/v1/Systems/1/Memory"}),
        };
        axum::Json(body).into_response()
    })
    .await;
    let found = bmcs().parts(machine(), &access).await.unwrap().value;
    assert_eq!(found.items.iter().filter(|p| p.kind == PartKind::Dimm).count(), 1);
    assert!(found.unread.iter().any(|u| u.what.contains("circle")), "{:?}", found.unread);
}

#[tokio::test]
async fn a_log_that_cannot_be_read_is_not_an_empty_log() {
    let access = serve(|path| match path.as_str() {
        "/redfish/v1" => axum::Json(json!({"Systems": {"@odata.id": "/redfish/v1/Systems"}})).into_response(),
        "/redfish/v1/L" => axum::Json(json!({"Entries": {"@odata.id": "/redfish/v1/L/E"}})).into_response(),
        _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    })
    .await;
    let error = bmcs().log_news(machine(), &access, "/redfish/v1/L", &LogCursor::default()).await.unwrap_err();
    assert!(matches!(error, BmcError::Nonsense { .. }), "{error}");
}

#[tokio::test]
async fn a_bmc_that_stays_busy_is_busy_and_not_empty() {
    let access = serve(|path| match path.as_str() {
        "/redfish/v1" => {
            axum::Json(json!({"Systems": {"@odata.id": "/redfish/v1/Systems"}, "Chassis": {"@odata.id": "/redfish/v1/Chassis"}}))
                .into_response()
        }
        "/redfish/v1/Systems" => axum::Json(json!({"Members": [{"@odata.id": "/redfish/v1/Systems/1"}]})).into_response(),
        "/redfish/v1/Systems/1" => {
            let many: Vec<_> = (0..9).map(|i| json!({"@odata.id": format!("/redfish/v1/P/{i}")})).collect();
            axum::Json(json!({"Name": "s", "PCIeDevices": many})).into_response()
        }
        // No pause is asked for beyond what a call would wait.
        _ => (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "60")]).into_response(),
    })
    .await;
    let error = bmcs().parts(machine(), &access).await.unwrap_err();
    assert!(matches!(error, BmcError::Busy { .. }), "{error}");
}

/// C1: a failed fetch leaves the sensor out and the alert heals. Here it is told as unread, with its source.
#[tokio::test]
async fn c1_a_sensor_source_that_fails_is_unread_and_not_gone() {
    let (_, access) = Recorded::serve_changed("hpe-proliant-dl360-ilo5", Letters::Any, |tree| {
        tree.insert("/redfish/v1/Chassis/1/Thermal".into(), json!({"error": {"code": "iLO.2.25.SensorFailure", "message": "x"}}));
    })
    .await;
    let found = bmcs().sensors(machine(), &access).await.unwrap().value;
    assert!(found.items.iter().all(|s| !s.source.contains("Thermal")) && !found.items.is_empty());
    assert_eq!(found.unread[0].source, "/redfish/v1/Chassis/1/Thermal");
}

/// C2 and C3: a sensor without a health keeps its limits, and the range of a sensor is not a limit.
#[tokio::test]
async fn c2_c3_limits_stay_without_health_and_a_range_is_no_limit() {
    let sensor = json!({"Id": "T", "Name": "T", "@odata.type": "#Sensor.v1_3_0.Sensor", "ReadingType": "Power", "ReadingUnits": "W", "Reading": 0,
        "ReadingRangeMin": 0, "ReadingRangeMax": 2400, "Thresholds": {"LowerCaution": {"Reading": 1.5}, "LowerCritical": {"Reading": 2.5}, "LowerFatal": {"Reading": 3.5},
        "UpperCaution": {"Reading": 4.5}, "UpperCritical": {"Reading": 5.5}, "UpperFatal": {"Reading": 6.5, "HysteresisReading": 0.5}}});
    let access = one_sensor(sensor).await;
    let sensors = bmcs().sensors(machine(), &access).await.unwrap().value.items;
    let s = &sensors[0];
    let t = &s.thresholds;
    assert_eq!(
        [t.lower_caution, t.lower_critical, t.lower_fatal, t.upper_caution, t.upper_critical, t.upper_fatal],
        [Some(1.5), Some(2.5), Some(3.5), Some(4.5), Some(5.5), Some(6.5)]
    );
    assert_eq!((s.range, s.health, s.hysteresis, s.reading.number()), ((Some(0.0), Some(2400.0)), None, Some(0.5), Some(0.0)));
    let idle = json!({"Id": "T", "Name": "T", "ReadingType": "Power", "ReadingUnits": "W", "Reading": 0, "ReadingRangeMin": 0});
    let sensors = bmcs().sensors(machine(), &one_sensor(idle).await).await.unwrap().value.items;
    assert_eq!((sensors[0].thresholds.lower_fatal, sensors[0].range.0), (None, Some(0.0)));
}

async fn one_sensor(sensor: Value) -> BmcAccess {
    let link = |p: &str| json!({"@odata.id": p});
    let tree = BTreeMap::from([
        ("/redfish/v1".to_owned(), json!({"Systems": link("/redfish/v1/Systems"), "Chassis": link("/redfish/v1/Chassis")})),
        ("/redfish/v1/Systems".to_owned(), json!({"Members": [link("/redfish/v1/Systems/1")]})),
        ("/redfish/v1/Systems/1".to_owned(), json!({"Name": "s"})),
        ("/redfish/v1/Chassis".to_owned(), json!({"Members": [link("/redfish/v1/Chassis/1")]})),
        ("/redfish/v1/Chassis/1".to_owned(), json!({"Name": "c", "Sensors": link("/redfish/v1/Chassis/1/Sensors")})),
        ("/redfish/v1/Chassis/1/Sensors".to_owned(), json!({"Members": [link("/redfish/v1/Chassis/1/Sensors/T")]})),
        ("/redfish/v1/Chassis/1/Sensors/T".to_owned(), sensor),
    ]);
    Recorded::serve_tree(tree, Letters::Exact).await.1
}

/// Every value of a real tree in another type: nothing panics, and what is read is not health.
#[tokio::test]
async fn a_tree_with_every_type_wrong_is_read_to_its_end() {
    for wrong in
        [|_: &Value| Value::Null, |_: &Value| json!("x"), |_: &Value| json!(-1e300), |_: &Value| json!([[]]), |_: &Value| json!({"a": {}})]
    {
        let (_, access) = Recorded::serve_changed("supermicro-x10sdv-ast2400", Letters::Exact, |tree| {
            tree.values_mut().for_each(|body| spoil(body, &wrong));
        })
        .await;
        let bmcs = bmcs();
        let parts = bmcs.parts(machine(), &access).await.unwrap().value;
        assert!(parts.items.iter().all(|p| p.health.is_none()), "{:?}", parts.items);
        let sensors = bmcs.sensors(machine(), &access).await.unwrap().value;
        assert!(sensors.items.iter().all(|s| s.health.is_none()));
        for log in bmcs.logs(machine(), &access).await.unwrap().value {
            bmcs.log_news(machine(), &access, &log, &LogCursor::default()).await.unwrap();
        }
        drop((
            bmcs.firmware(machine(), &access).await,
            bmcs.accounts(machine(), &access).await,
            bmcs.supports(machine(), &access).await.unwrap(),
        ));
    }
}

/// Replaces every leaf but links, keeping lists and objects that hold links.
fn spoil(value: &mut Value, wrong: &impl Fn(&Value) -> Value) {
    match value {
        Value::Object(fields) => fields.iter_mut().filter(|(name, _)| *name != "@odata.id").for_each(|(_, v)| spoil(v, wrong)),
        Value::Array(items) => items.iter_mut().for_each(|v| spoil(v, wrong)),
        leaf => *leaf = wrong(leaf),
    }
}
