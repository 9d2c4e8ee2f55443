//! Every fault of a simulated BMC as a client sees it.

use std::time::{Duration, Instant};

use hostler::domain::power::PowerState;
use hostler::sim::bmc::{Chassis, Setup, Strike};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::bench::{Rig, rig, rig_with};
use super::kit::{access, bmcs, machine};

const SYSTEM: &str = "/redfish/v1/Systems/1";
const SEL: &str = "/redfish/v1/Systems/1/LogServices/IML";
const RESET: &str = "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset";
const SESSIONS: &str = "/redfish/v1/SessionService/Sessions";

async fn switch_on(rig: &Rig) {
    assert_eq!(rig.send(Method::POST, RESET, json!({"ResetType": "On"})).await.0, StatusCode::NO_CONTENT);
}

#[tokio::test]
async fn a_slow_bmc_answers_late_and_a_busy_one_says_so() {
    let rig = rig("HPE").await;
    rig.strike(Strike::Slow { millis: 300 });
    let asked = Instant::now();
    rig.get("/redfish/v1").await;
    assert!(asked.elapsed() >= Duration::from_millis(300));
    rig.strike(Strike::Mend);
    rig.strike(Strike::Busy { answers: 2 });
    for _ in 0..2 {
        let answer = rig.raw(SYSTEM).await.unwrap();
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(answer.headers().contains_key("retry-after"));
    }
    rig.get(SYSTEM).await;
}

#[tokio::test]
async fn broken_bodies_are_wrong_json_half_an_answer_or_a_web_page() {
    let rig = rig("HPE").await;
    rig.strike(Strike::WrongJson);
    assert_eq!(rig.get(SYSTEM).await["PowerState"], json!(7));
    rig.strike(Strike::Mend);
    rig.strike(Strike::CutAnswers { answers: 1 });
    assert!(rig.raw(SYSTEM).await.unwrap().bytes().await.is_err(), "the body ends in the middle");
    rig.strike(Strike::WebPages { answers: 1 });
    let page = rig.raw(SYSTEM).await.unwrap();
    assert_eq!((page.status(), page.headers()["content-type"].to_str().unwrap()), (StatusCode::OK, "text/html"));
    assert_eq!(rig.get(SYSTEM).await["PowerState"], json!("Off"));
}

#[tokio::test]
async fn a_full_session_table_leaves_basic_authentication() {
    let login = json!({"UserName": "admin", "Password": "secret"});
    let rig = rig_with("HPE", Setup { session_cap: 2, ..Setup::new("admin", "secret") }).await;
    assert_eq!(rig.send(Method::POST, SESSIONS, login.clone()).await.0, StatusCode::CREATED);
    rig.strike(Strike::SessionsFull);
    let (status, body) = rig.send(Method::POST, SESSIONS, login.clone()).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(body.to_string().contains("SessionLimitExceeded"), "{body}");
    rig.get(SYSTEM).await;
    rig.strike(Strike::Mend);
    assert_eq!(rig.send(Method::POST, SESSIONS, login.clone()).await.0, StatusCode::CREATED);
    assert_eq!(rig.send(Method::POST, SESSIONS, login).await.0, StatusCode::SERVICE_UNAVAILABLE, "the table has two places");
}

#[tokio::test]
async fn a_restart_takes_the_bmc_away_and_its_sessions_with_it() {
    let rig = rig("HPE").await;
    let login = rig.request(Method::POST, SESSIONS).json(&json!({"UserName": "admin", "Password": "secret"})).send().await.unwrap();
    let token = login.headers()["x-auth-token"].to_str().unwrap().to_owned();
    let before = rig.get("/redfish/v1/Managers/1").await["LastResetTime"].clone();
    // 2000 s of the machine are 2 s here.
    rig.strike(Strike::BmcReset { secs: 2000 });
    assert!(rig.raw(SYSTEM).await.is_err(), "nobody is there");
    rig.until("/redfish/v1/Managers/1", "a later start", |m| m["LastResetTime"].is_string() && m["LastResetTime"] != before).await;
    let stale = rig.http.get(rig.url(SYSTEM)).header("x-auth-token", token).send().await.unwrap();
    assert_eq!(stale.status(), StatusCode::UNAUTHORIZED);
    // As a client asks for it.
    let reset = "/redfish/v1/Managers/1/Actions/Manager.Reset";
    assert_eq!(rig.send(Method::POST, reset, json!({"ResetType": "GracefulRestart"})).await.0, StatusCode::NO_CONTENT);
    let end = Instant::now() + Duration::from_secs(10);
    while rig.raw("/redfish/v1").await.is_ok() {
        assert!(Instant::now() < end, "it never went away");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    rig.until(SYSTEM, "an answer", |s| s["PowerState"] == "Off").await;
}

#[tokio::test]
async fn a_command_can_be_accepted_and_do_nothing() {
    let rig = rig("HPE").await;
    rig.strike(Strike::AcceptsAndDoesNothing);
    switch_on(&rig).await;
    assert_eq!(rig.get(SYSTEM).await["PowerState"], json!("Off"));
}

#[tokio::test]
async fn a_new_password_counts_at_once_over_both_protocols() {
    let mut rig = rig("HPE").await;
    let ipmi = rig.bmc.ipmi_address().unwrap();
    let power = async |password: &str| bmcs().power(machine(), &access(ipmi.clone(), "admin", password)).await;
    assert_eq!(power("secret").await.unwrap().value, PowerState::Off);
    rig.strike(Strike::Password { password: "changed".into() });
    assert_eq!(rig.raw(SYSTEM).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    assert!(power("secret").await.is_err());
    rig.password = "changed".into();
    rig.get(SYSTEM).await;
    assert_eq!(power("changed").await.unwrap().value, PowerState::Off);
    // As a client changes it.
    let account = rig.get("/redfish/v1/AccountService/Accounts").await["Members"][0]["@odata.id"].as_str().unwrap().to_owned();
    assert_eq!(rig.send(Method::PATCH, &account, json!({"Password": "again"})).await.0, StatusCode::OK);
    assert_eq!(rig.raw(SYSTEM).await.unwrap().status(), StatusCode::UNAUTHORIZED);
    rig.password = "again".into();
    rig.get(SYSTEM).await;
}

#[tokio::test]
async fn a_cleared_log_numbers_from_one_again_and_a_full_one_takes_nothing_more() {
    let rig = rig("HPE").await;
    rig.strike(Strike::PartFailed { part: "PSU1".into() });
    assert!(rig.log(SEL).await.len() > 1);
    rig.strike(Strike::LogCleared);
    let entries = rig.get(&format!("{SEL}/Entries")).await;
    assert_eq!(entries["Members@odata.count"], json!(1));
    assert_eq!((&entries["Members"][0]["Id"], &entries["Members"][0]["Message"]), (&json!("1"), &json!("Event logging was cleared.")));
    rig.strike(Strike::LogFull);
    let full = rig.log(SEL).await;
    assert_eq!(full.len() as u64, rig.get(SEL).await["MaxNumberOfRecords"].as_u64().unwrap());
    assert_eq!(full.last().map(String::as_str), Some("Event logging: the log is full."));
    rig.strike(Strike::PartFailed { part: "PSU2".into() });
    assert_eq!(rig.log(SEL).await, full, "a full SEL is blind");
    let page = rig.get(&format!("{SEL}/Entries")).await;
    assert!(page["Members@odata.nextLink"].is_string());
    assert_eq!(rig.send(Method::POST, &format!("{SEL}/Actions/LogService.ClearLog"), json!({})).await.0, StatusCode::NO_CONTENT);
    assert_eq!(rig.log(SEL).await.len(), 1);
}

#[tokio::test]
async fn a_clock_at_1970_stamps_what_it_logs() {
    let rig = rig("HPE").await;
    rig.strike(Strike::Clock { at: 0 });
    let year = |v: &Value| v.as_str().unwrap()[..4].to_owned();
    assert_eq!(year(&rig.get("/redfish/v1/Managers/1").await["DateTime"]), "1970");
    rig.strike(Strike::PartFailed { part: "PSU1".into() });
    let entries = rig.get(&format!("{SEL}/Entries")).await;
    assert_eq!(year(&entries["Members"].as_array().unwrap().last().unwrap()["Created"]), "1970");
    let now = "2026-11-24T12:00:00Z";
    assert_eq!(rig.send(Method::PATCH, "/redfish/v1/Managers/1", json!({"DateTime": now})).await.0, StatusCode::OK);
    assert_eq!(year(&rig.get("/redfish/v1/Managers/1").await["DateTime"]), "2026");
}

#[tokio::test]
async fn a_drifting_sensor_crosses_its_thresholds_one_entry_each_and_back() {
    for (maker, sel) in [("HPE", SEL), ("Supermicro", "/redfish/v1/Systems/1/LogServices/Log1")] {
        let rig = rig(maker).await;
        let before = rig.log(sel).await.len();
        // Over 2 s of real time, so that the way is seen, not only its end.
        rig.strike(Strike::Drift { sensor: "InletTemp".into(), to: Some(45.0), secs: 2000 });
        let reading = async |rig: &Rig| match maker {
            "HPE" => {
                let sensor = rig.get("/redfish/v1/Chassis/1/Sensors/InletTemp").await;
                (sensor["Reading"].as_f64().unwrap(), sensor["Status"]["Health"].as_str().unwrap().to_owned())
            }
            _ => {
                let thermal = rig.get("/redfish/v1/Chassis/1/Thermal").await;
                let sensor = &thermal["Temperatures"][0];
                (sensor["ReadingCelsius"].as_f64().unwrap(), sensor["Status"]["Health"].as_str().unwrap().to_owned())
            }
        };
        let mut seen = Vec::new();
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let now = reading(&rig).await;
            seen.push(now.0);
            if now.1 == "Critical" && now.0 >= 45.0 {
                break;
            }
            assert!(Instant::now() < end, "{seen:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(seen.windows(2).all(|w| w[0] <= w[1]) && seen.len() > 3, "it climbs: {seen:?}");
        rig.strike(Strike::Drift { sensor: "InletTemp".into(), to: None, secs: 0 });
        let log = rig.log(sel).await.split_off(before);
        let words: Vec<&str> = log.iter().map(|m| if m.contains("above") { "above" } else { "below" }).collect();
        assert_eq!(words, ["above", "above", "below", "below"], "{log:?}");
        let entries = rig.get(&format!("{sel}/Entries")).await;
        let tail: Vec<_> = entries["Members"]
            .as_array()
            .unwrap()
            .iter()
            .rev()
            .take(4)
            .rev()
            .map(|e| (e["EntryCode"].clone(), e["MessageId"].clone()))
            .collect();
        assert_eq!(
            tail,
            [
                (json!("Assert"), json!("SensorEvent.1.0.ReadingAboveUpperCautionThreshold")),
                (json!("Assert"), json!("SensorEvent.1.0.ReadingAboveUpperCriticalThreshold")),
                (json!("Deassert"), json!("SensorEvent.1.0.ReadingBelowUpperCriticalThreshold")),
                (json!("Deassert"), json!("SensorEvent.1.0.ReadingBelowUpperCautionThreshold")),
            ]
        );
    }
}

#[tokio::test]
async fn parts_fail_go_and_come_back_as_others() {
    let rig = rig("HPE").await;
    switch_on(&rig).await;
    let memory = rig.get(&format!("{SYSTEM}/Memory")).await;
    let dimm = memory["Members"][0]["@odata.id"].as_str().unwrap().to_owned();
    let id = dimm.rsplit('/').next().unwrap().to_owned();
    let serial = rig.get(&dimm).await["SerialNumber"].clone();
    rig.strike(Strike::PartRemoved { part: id.clone() });
    let gone = rig.get(&dimm).await;
    assert_eq!((&gone["Status"]["State"], gone.get("SerialNumber")), (&json!("Absent"), None));
    rig.strike(Strike::PartSwapped { part: id.clone() });
    let new = rig.get(&dimm).await;
    assert_eq!(new["Status"], json!({"State": "Enabled", "Health": "OK"}));
    assert!(new["SerialNumber"].is_string() && new["SerialNumber"] != serial);

    rig.strike(Strike::MemoryErrors { part: id.clone(), correctable: 40, uncorrectable: 0 });
    let metrics = rig.get(&format!("{dimm}/MemoryMetrics")).await;
    assert_eq!(metrics["LifeTime"]["CorrectableECCErrorCount"], json!(40));
    assert_eq!(
        (&metrics["HealthData"]["AlarmTrips"]["CorrectableECCError"], rig.get(&dimm).await["Status"]["Health"].clone()),
        (&json!(true), json!("Warning"))
    );
    rig.strike(Strike::MemoryErrors { part: id, correctable: 0, uncorrectable: 1 });
    assert_eq!(rig.get(&dimm).await["Status"]["Health"], json!("Critical"));
    assert_eq!(rig.get(SYSTEM).await["Status"]["HealthRollup"], json!("Critical"));

    rig.strike(Strike::PartFailed { part: "Fan2".into() });
    let fan = rig.get("/redfish/v1/Chassis/1/ThermalSubsystem/Fans/Fan2").await;
    assert_eq!((&fan["SpeedPercent"]["SpeedRPM"], &fan["Status"]["Health"]), (&json!(0.0), &json!("Critical")));
    rig.strike(Strike::PartFailed { part: "PSU1".into() });
    let power = rig.get("/redfish/v1/Chassis/1/PowerSubsystem").await;
    assert_eq!(power["PowerSupplyRedundancy"][0]["Status"]["Health"], json!("Warning"));
    let drive = rig.bmc.breakables().into_iter().find(|b| b.kind == "drive").unwrap().id;
    rig.strike(Strike::PartFailing { part: drive.clone() });
    let subsystem = drive.split('.').next().unwrap();
    assert_eq!(rig.get(&format!("{SYSTEM}/Storage/{subsystem}/Drives/{drive}")).await["FailurePredicted"], json!(true));

    let log = rig.log(SEL).await.join("\n");
    for line in [
        "was removed",
        "was inserted",
        "correctable ECC error",
        "limit of correctable",
        "uncorrectable",
        "Fan 2 failed",
        "Power Supply 1 failed",
        "a failure is predicted",
        "below the lower critical",
    ] {
        assert!(log.contains(line), "no {line:?} in {log}");
    }
    rig.strike(Strike::Mend);
    assert_eq!(rig.get(SYSTEM).await["Status"]["HealthRollup"], json!("OK"));
    assert!(rig.bmc.strike(&Strike::PartFailed { part: "Fan99".into() }).unwrap_err().contains("Fan99"));
}

#[tokio::test]
async fn after_a_loss_of_power_the_machine_comes_back_as_its_bios_says() {
    let rig = rig("HPE").await;
    switch_on(&rig).await;
    rig.strike(Strike::PowerLost { secs: 1000 });
    assert_eq!(rig.machine.power(), PowerState::Off);
    assert!(rig.raw(SYSTEM).await.is_err(), "the BMC has no power either");
    rig.until(SYSTEM, "on again", |s| s["PowerState"] == "On").await;
    assert!(rig.log(SEL).await.contains(&"Power unit: AC lost.".to_owned()));

    let settings = format!("{SYSTEM}/Bios/Settings");
    assert_eq!(rig.send(Method::PATCH, &settings, json!({"Attributes": {"AcPwrRcvry": "Off"}})).await.0, StatusCode::OK);
    assert_eq!(rig.send(Method::POST, RESET, json!({"ResetType": "ForceRestart"})).await.0, StatusCode::NO_CONTENT);
    rig.get(&format!("{SYSTEM}/Bios")).await;
    rig.strike(Strike::PowerLost { secs: 100 });
    rig.until(SYSTEM, "an answer", |s| s["PowerState"].is_string()).await;
    assert_eq!(rig.machine.power(), PowerState::Off);
}

#[tokio::test]
async fn a_hung_system_heeds_only_a_reset() {
    let rig = rig("HPE").await;
    switch_on(&rig).await;
    rig.strike(Strike::Hang);
    assert_eq!(rig.get(SYSTEM).await["BootProgress"]["LastState"], json!("OSBootStarted"));
    rig.send(Method::POST, RESET, json!({"ResetType": "GracefulShutdown"})).await;
    assert_eq!(rig.get(SYSTEM).await["PowerState"], json!("On"));
    rig.send(Method::POST, RESET, json!({"ResetType": "ForceRestart"})).await;
    assert_eq!(rig.get(SYSTEM).await["BootProgress"]["LastState"], json!("OSRunning"));
    rig.send(Method::POST, RESET, json!({"ResetType": "GracefulShutdown"})).await;
    assert_eq!(rig.get(SYSTEM).await["PowerState"], json!("Off"));
}

#[tokio::test]
async fn a_stream_of_events_tells_what_the_log_gets() {
    let rig = rig("Dell Inc.").await;
    let mut stream = rig.raw("/redfish/v1/EventService/SSE").await.unwrap();
    assert_eq!(stream.headers()["content-type"].to_str().unwrap(), "text/event-stream");
    let subscriptions = "/redfish/v1/EventService/Subscriptions";
    assert_eq!(rig.get(subscriptions).await["Members@odata.count"], json!(1));
    rig.strike(Strike::Drift { sensor: "InletTemp".into(), to: Some(60.0), secs: 0 });
    let mut text = String::new();
    while !text.contains("UpperCriticalThreshold") {
        let chunk = tokio::time::timeout(Duration::from_secs(10), stream.chunk()).await.expect("an event within 10 s").unwrap();
        text.push_str(&String::from_utf8_lossy(&chunk.expect("the stream is open")));
    }
    assert!(text.contains("id: 1\ndata: {") && text.contains("ReadingAboveUpperCautionThreshold"), "{text}");
    drop(stream);
    rig.until(subscriptions, "no destination", |s| s["Members@odata.count"] == 0).await;
}

#[tokio::test]
async fn a_subscriber_is_posted_to_and_forgotten_by_a_restart() {
    let rig = rig("Supermicro").await;
    let (seen, mut events) = tokio::sync::mpsc::unbounded_channel();
    let take = move |body: axum::Json<Value>| {
        let seen = seen.clone();
        async move { seen.send(body.0).unwrap() }
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let destination = format!("http://{}/events", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, axum::Router::new().route("/events", axum::routing::post(take))).await.unwrap() });
    let subscriptions = "/redfish/v1/EventService/Subscriptions";
    let wanted = json!({"Destination": destination, "Protocol": "Redfish", "Context": "ours", "EventTypes": ["Alert"]});
    assert_eq!(rig.send(Method::POST, subscriptions, wanted).await.0, StatusCode::CREATED);
    // Deliveries begin a moment after the subscription.
    let event = loop {
        rig.send(Method::POST, "/redfish/v1/EventService/Actions/EventService.SubmitTestEvent", json!({})).await;
        if let Ok(event) = tokio::time::timeout(Duration::from_millis(300), events.recv()).await {
            break event.unwrap();
        }
    };
    assert_eq!((&event["Context"], &event["Events"][0]["Message"]), (&json!("ours"), &json!("This is a test event.")));
    rig.strike(Strike::BmcReset { secs: 100 });
    let after = rig.until(subscriptions, "an answer", |s| s["Members@odata.count"].is_number()).await;
    assert_eq!(after["Members@odata.count"], json!(0));
}
