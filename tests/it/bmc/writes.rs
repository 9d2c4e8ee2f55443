//! What the Redfish driver changes, against a small tree that can be given the habits of real BMCs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hostler::bmc::{BmcAccess, BmcError};
use hostler::domain::bmc_features::{FirmwareSource, LedState, TaskState};
use hostler::domain::hardware_log::LogCursor;
use hostler::domain::power::ResetType;
use hostler::domain::secret::Secret;
use serde_json::{Value, json};

use super::kit::{access, bmcs, machine};

type Tree = BTreeMap<String, Value>;
/// A habit: answers a request itself, or leaves it to the usual way.
type Habit = Box<dyn Fn(&Asked, &mut Tree) -> Option<Response> + Send + Sync>;

struct Asked {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Value,
    raw: Bytes,
}

struct Server {
    tree: Mutex<Tree>,
    habit: Habit,
    writes: Mutex<Vec<String>>,
}

impl Server {
    fn writes(&self) -> Vec<String> {
        self.writes.lock().unwrap().clone()
    }

    fn shows(&self, path: &str) -> Value {
        self.tree.lock().unwrap().get(path).cloned().unwrap_or(Value::Null)
    }
}

async fn answer(State(server): State<Arc<Server>>, method: Method, uri: Uri, headers: HeaderMap, raw: Bytes) -> Response {
    let body = serde_json::from_slice(&raw).unwrap_or(Value::Null);
    let asked = Asked { method, path: uri.path().trim_end_matches('/').to_owned(), headers, body, raw };
    let mut tree = server.tree.lock().unwrap();
    if asked.method != Method::GET {
        server.writes.lock().unwrap().push(format!("{} {} {}", asked.method, asked.path, asked.body));
    }
    if let Some(response) = (server.habit)(&asked, &mut tree) {
        return response;
    }
    let Some(resource) = tree.get_mut(&asked.path) else {
        let is_action = asked.method == Method::POST && asked.path.contains("/Actions/");
        return if is_action { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }.into_response();
    };
    match asked.method {
        Method::GET => axum::Json(resource.clone()).into_response(),
        Method::PATCH => {
            merge(resource, &asked.body);
            StatusCode::NO_CONTENT.into_response()
        }
        Method::DELETE => {
            tree.remove(&asked.path);
            StatusCode::NO_CONTENT.into_response()
        }
        _ => StatusCode::METHOD_NOT_ALLOWED.into_response(),
    }
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => from.iter().for_each(|(k, v)| merge(into.entry(k).or_insert(Value::Null), v)),
        (into, from) => *into = from.clone(),
    }
}

fn link(path: &str) -> Value {
    json!({"@odata.id": path})
}

fn members(paths: &[&str]) -> Value {
    json!({"Members": paths.iter().map(|p| link(p)).collect::<Vec<_>>()})
}

/// One machine with everything that can be written.
fn tree() -> Tree {
    let reset =
        json!({"target": "/redfish/v1/Systems/1/Actions/ComputerSystem.Reset", "@Redfish.ActionInfo": "/redfish/v1/Systems/1/ResetInfo"});
    let list = [
        (
            "",
            json!({"@odata.id": "/redfish/v1", "Systems": link("/redfish/v1/Systems"), "Managers": link("/redfish/v1/Managers"),
            "Chassis": link("/redfish/v1/Chassis"), "UpdateService": link("/redfish/v1/UpdateService"), "AccountService": link("/redfish/v1/AccountService")}),
        ),
        ("/Systems", members(&["/redfish/v1/Systems/1"])),
        (
            "/Systems/1",
            json!({"@odata.id": "/redfish/v1/Systems/1", "PowerState": "On", "IndicatorLED": "Off",
            "Boot": {"BootSourceOverrideTarget": "None", "BootOrder": ["Boot0001", "Boot0002"]},
            "Bios": link("/redfish/v1/Systems/1/Bios"), "Links": {"ManagedBy": [link("/redfish/v1/Managers/1")]},
            "Actions": {"#ComputerSystem.Reset": reset}}),
        ),
        ("/Systems/1/ResetInfo", json!({"Parameters": [{"Name": "ResetType", "AllowableValues": ["On", "ForceOff", "Nmi"]}]})),
        (
            "/Systems/1/Bios",
            json!({"Attributes": {"BootMode": "Uefi", "Cores": 8, "Turbo": true},
            "@Redfish.Settings": {"SettingsObject": link("/redfish/v1/Systems/1/Bios/SD"), "SupportedApplyTimes": ["OnReset"]}}),
        ),
        ("/Systems/1/Bios/SD", json!({"@odata.etag": "\"7\"", "Attributes": {}})),
        ("/Chassis", members(&["/redfish/v1/Chassis/1"])),
        ("/Chassis/1", json!({"@odata.id": "/redfish/v1/Chassis/1"})),
        ("/Managers", members(&["/redfish/v1/Managers/1"])),
        (
            "/Managers/1",
            json!({"@odata.id": "/redfish/v1/Managers/1", "LogServices": link("/redfish/v1/Managers/1/LogServices"),
            "VirtualMedia": link("/redfish/v1/Managers/1/VirtualMedia"),
            "Actions": {"#Manager.Reset": {"target": "/redfish/v1/Managers/1/Actions/Manager.Reset"}}}),
        ),
        ("/Managers/1/VirtualMedia", members(&["/redfish/v1/Managers/1/VirtualMedia/Cd"])),
        (
            "/Managers/1/VirtualMedia/Cd",
            json!({"Id": "Cd", "Name": "Cd", "Inserted": true, "Image": "http://old/a.iso", "Actions": {
            "#VirtualMedia.InsertMedia": {"target": "/redfish/v1/Managers/1/VirtualMedia/Cd/Actions/VirtualMedia.InsertMedia"},
            "#VirtualMedia.EjectMedia": {"target": "/redfish/v1/Managers/1/VirtualMedia/Cd/Actions/VirtualMedia.EjectMedia"}}}),
        ),
        ("/Managers/1/LogServices", members(&[LOG])),
        (
            "/Managers/1/LogServices/Log",
            json!({"@odata.type": "#LogService.v1_3_0.LogService", "Entries": link("/redfish/v1/Managers/1/LogServices/Log/Entries"),
            "MaxNumberOfRecords": 100, "Actions": {"#LogService.ClearLog": {"target": "/redfish/v1/Managers/1/LogServices/Log/Actions/LogService.ClearLog"}}}),
        ),
        ("/Managers/1/LogServices/Log/Entries", entries(3)),
        ("/AccountService", json!({"Accounts": link("/redfish/v1/AccountService/Accounts")})),
        (
            "/AccountService/Accounts",
            members(&[
                "/redfish/v1/AccountService/Accounts/1",
                "/redfish/v1/AccountService/Accounts/2",
                "/redfish/v1/AccountService/Accounts/3",
            ]),
        ),
        (
            "/AccountService/Accounts/1",
            json!({"@odata.id": "/redfish/v1/AccountService/Accounts/1", "Id": "1", "UserName": "", "Enabled": false}),
        ),
        (
            "/AccountService/Accounts/2",
            json!({"@odata.id": "/redfish/v1/AccountService/Accounts/2", "Id": "2", "UserName": "root", "Enabled": true}),
        ),
        (
            "/AccountService/Accounts/3",
            json!({"@odata.id": "/redfish/v1/AccountService/Accounts/3", "Id": "3", "UserName": "", "Enabled": false}),
        ),
        (
            "/UpdateService",
            json!({"MultipartHttpPushUri": "/redfish/v1/UpdateService/push", "Actions": {"#UpdateService.SimpleUpdate":
            {"target": "/redfish/v1/UpdateService/Actions/UpdateService.SimpleUpdate", "TransferProtocol@Redfish.AllowableValues": ["HTTP", "HTTPS"]}}}),
        ),
    ];
    list.into_iter().map(|(path, body)| (format!("/redfish/v1{path}"), body)).collect()
}

const LOG: &str = "/redfish/v1/Managers/1/LogServices/Log";
const CD: &str = "/redfish/v1/Managers/1/VirtualMedia/Cd";

fn entries(n: usize) -> Value {
    let list: Vec<Value> = (1..=n)
        .map(|i| json!({"@odata.id": format!("{LOG}/Entries/{i}"), "Id": i.to_string(), "Created": format!("2026-01-01T00:00:{i:02}Z"), "Message": format!("m{i}")}))
        .collect();
    json!({"@odata.etag": format!("\"{n}\""), "Members@odata.count": n, "Members": list})
}

async fn serve(habit: impl Fn(&Asked, &mut Tree) -> Option<Response> + Send + Sync + 'static) -> (Arc<Server>, BmcAccess) {
    let server = Arc::new(Server { tree: Mutex::new(tree()), habit: Box::new(habit), writes: Mutex::default() });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let access = access(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap(), "", "");
    let app = axum::Router::new().fallback(answer).with_state(Arc::clone(&server));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (server, access)
}

fn refusal(status: StatusCode, id: &str, message: &str) -> Option<Response> {
    let body = json!({"error": {"code": id, "@Message.ExtendedInfo": [{"MessageId": format!("Base.1.8.{id}"), "Message": message}]}});
    Some((status, axum::Json(body)).into_response())
}

#[tokio::test]
async fn only_an_offered_reset_type_is_sent() {
    let (server, access) = serve(|_, _| None).await;
    let bmcs = bmcs();
    let error = bmcs.power_reset(machine(), &access, ResetType::PowerCycle).await.unwrap_err();
    assert!(matches!(&error, BmcError::Unsupported { what, .. } if what.contains("it allows On, ForceOff, Nmi")), "{error}");
    assert!(server.writes().is_empty());
    bmcs.power_reset(machine(), &access, ResetType::Nmi).await.unwrap();
    assert_eq!(server.writes(), ["POST /redfish/v1/Systems/1/Actions/ComputerSystem.Reset {\"ResetType\":\"Nmi\"}"]);
}

#[tokio::test]
async fn a_refused_reset_succeeds_when_the_machine_is_there_already() {
    let (_, access) =
        serve(
            |asked, _| {
                if asked.method == Method::POST { refusal(StatusCode::CONFLICT, "ResourceInUse", "The host is powered on.") } else { None }
            },
        )
        .await;
    bmcs().power_reset(machine(), &access, ResetType::On).await.unwrap();
    let error = bmcs().power_reset(machine(), &access, ResetType::ForceOff).await.unwrap_err();
    assert!(error.to_string().contains("The host is powered on"), "{error}");
}

#[tokio::test]
async fn a_boot_order_is_read_back_and_holds_only_known_options() {
    let (server, access) = serve(|_, _| None).await;
    let order = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let error = bmcs().set_boot_order(machine(), &access, &order(&["Boot0009"])).await.unwrap_err();
    assert!(matches!(&error, BmcError::Refused { reason, .. } if reason.contains("Boot0009")), "{error}");
    bmcs().set_boot_order(machine(), &access, &order(&["Boot0002", "Boot0001"])).await.unwrap();
    assert_eq!(server.shows("/redfish/v1/Systems/1")["Boot"]["BootOrder"], json!(["Boot0002", "Boot0001"]));
    let (_, forgetful) = serve(|asked, _| (asked.method == Method::PATCH).then(|| StatusCode::OK.into_response())).await;
    let error = bmcs().set_boot_order(machine(), &forgetful, &order(&["Boot0002", "Boot0001"])).await.unwrap_err();
    assert!(matches!(error, BmcError::NotEffective { .. }), "{error}");
}

#[tokio::test]
async fn bios_settings_go_to_the_advertised_place_in_their_own_type() {
    // An ETag is demanded there, and a stale one refused.
    let (server, access) = serve(|asked, _| {
        let is_settings = asked.method == Method::PATCH && asked.path.ends_with("/Bios/SD");
        (is_settings && asked.headers.get("if-match").is_none_or(|m| m != "\"7\"")).then(|| StatusCode::PRECONDITION_FAILED.into_response())
    })
    .await;
    let set = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
    bmcs().set_bios(machine(), &access, &set("Cores", "4")).await.unwrap();
    let settings = server.shows("/redfish/v1/Systems/1/Bios/SD");
    assert_eq!((&settings["Attributes"]["Cores"], &settings["@Redfish.SettingsApplyTime"]["ApplyTime"]), (&json!(4), &json!("OnReset")));
    let bios = bmcs().bios(machine(), &access).await.unwrap().value.items;
    let cores = bios.iter().find(|b| b.name == "Cores").unwrap();
    assert_eq!((cores.value.as_deref(), cores.pending.as_deref()), (Some("8"), Some("4")));
    for (name, value) in [("Turbo", "maybe"), ("Cores", "four"), ("Nonsuch", "1")] {
        let error = bmcs().set_bios(machine(), &access, &set(name, value)).await.unwrap_err();
        assert!(matches!(error, BmcError::Refused { .. }), "{error}");
    }
    assert_eq!(server.writes().len(), 1, "a wrong value never reaches the BMC");
}

#[tokio::test]
async fn settings_that_are_accepted_and_not_kept_are_reported() {
    let (_, access) = serve(|asked, _| (asked.method == Method::PATCH).then(|| StatusCode::OK.into_response())).await;
    let error = bmcs().set_bios(machine(), &access, &[("BootMode".into(), "Bios".into())]).await.unwrap_err();
    assert!(matches!(&error, BmcError::NotEffective { evidence, .. } if evidence.contains("BootMode")), "{error}");
}

#[tokio::test]
async fn firmware_is_fetched_by_an_allowed_protocol_and_followed_over_a_reset() {
    let (server, access) = serve(|asked, tree| match (asked.method.as_str(), asked.path.as_str()) {
        ("POST", p) if p.ends_with("SimpleUpdate") => {
            tree.insert("/redfish/v1/TaskService/Tasks/5".into(), json!({"TaskState": "Running", "PercentComplete": 10}));
            Some((StatusCode::ACCEPTED, [("location", "/redfish/v1/TaskService/Tasks/5")], "{}").into_response())
        }
        _ => None,
    })
    .await;
    let bmcs = bmcs();
    let error = bmcs.start_firmware_update(machine(), &access, &FirmwareSource::Url("tftp://h/f".into()), &[]).await.unwrap_err();
    assert!(matches!(&error, BmcError::Unsupported { what, .. } if what.contains("TFTP")), "{error}");
    let targets = ["/redfish/v1/UpdateService/FirmwareInventory/BMC".to_owned()];
    let begun =
        bmcs.start_firmware_update(machine(), &access, &FirmwareSource::Url("https://h/f.bin".into()), &targets).await.unwrap().value;
    let task = begun.task.unwrap();
    assert!(server.writes()[0].contains("\"TransferProtocol\":\"HTTPS\"") && server.writes()[0].contains("FirmwareInventory/BMC"));
    let state = || async { bmcs.task(machine(), &access, &task).await.unwrap().value };
    assert_eq!(state().await, TaskState::Running { percent: Some(10), note: String::new() });
    server
        .tree
        .lock()
        .unwrap()
        .insert(task.clone(), json!({"TaskState": "Exception", "Messages": [{"Message": "The image is for another board."}]}));
    assert_eq!(state().await, TaskState::Failed { reason: "The image is for another board.".into() });
    server.tree.lock().unwrap().insert(task.clone(), json!({"TaskState": "Completed", "TaskStatus": "OK"}));
    assert!(matches!(state().await, TaskState::Done { .. }));
    // Its own update restarted the BMC: only the version can tell now.
    server.tree.lock().unwrap().remove(&task);
    assert_eq!(state().await, TaskState::Lost);
}

#[tokio::test]
async fn firmware_is_pushed_in_the_parts_of_the_standard() {
    let seen = Arc::new(Mutex::new(Vec::<u8>::new()));
    let keep = Arc::clone(&seen);
    let (_, access) = serve(move |asked, _| {
        (asked.path.ends_with("/push")).then(|| {
            *keep.lock().unwrap() = asked.raw.to_vec();
            (StatusCode::ACCEPTED, axum::Json(json!({"@odata.id": "/redfish/v1/TaskService/Tasks/9"}))).into_response()
        })
    })
    .await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), vec![b'F'; 300_000]).unwrap();
    let source = FirmwareSource::File { path: file.path().to_owned(), name: "bmc.bin".into() };
    let begun = bmcs().start_firmware_update(machine(), &access, &source, &[]).await.unwrap().value;
    assert_eq!(begun.task.as_deref(), Some("/redfish/v1/TaskService/Tasks/9"));
    let body = seen.lock().unwrap().clone();
    let text = String::from_utf8_lossy(&body);
    assert!(text.contains("name=\"UpdateParameters\"") && text.contains("application/json") && text.contains("{\"Targets\":[]}"));
    assert!(text.contains("name=\"UpdateFile\"; filename=\"bmc.bin\"") && body.iter().filter(|b| **b == b'F').count() >= 300_000);
    let gone = FirmwareSource::File { path: "/nonexistent/f.bin".into(), name: "f.bin".into() };
    assert!(bmcs().start_firmware_update(machine(), &access, &gone, &[]).await.unwrap_err().to_string().contains("cannot be read"));
}

#[tokio::test]
async fn an_account_is_added_or_put_in_an_empty_slot_and_removed_once() {
    let password = Secret::new("pw-1".to_owned());
    // Fixed slots: adding is not allowed.
    let (server, access) = serve(|asked, _| (asked.method == Method::DELETE).then(|| StatusCode::METHOD_NOT_ALLOWED.into_response())).await;
    let made = bmcs().put_account(machine(), &access, "hostler", &password, true).await.unwrap().value;
    assert_eq!((made.source.as_str(), made.enabled), ("/redfish/v1/AccountService/Accounts/3", Some(true)), "slot 1 is not for users");
    let again = bmcs().put_account(machine(), &access, "hostler", &Secret::new("pw-2".to_owned()), true).await.unwrap().value;
    assert_eq!(again.source, made.source, "the account that is there is brought to the wanted state");
    assert_eq!(server.shows(&made.source)["Password"], "pw-2");
    bmcs().set_account_password(machine(), &access, &made.source, &password).await.unwrap();
    assert_eq!(server.shows(&made.source)["Password"], "pw-1");
    bmcs().delete_account(machine(), &access, &made.source).await.unwrap();
    assert_eq!(server.shows(&made.source)["UserName"], "");

    let (_, access) = serve(|asked, tree| {
        (asked.method == Method::POST).then(|| {
            let path = "/redfish/v1/AccountService/Accounts/4";
            tree.insert(path.into(), json!({"@odata.id": path, "UserName": asked.body["UserName"], "Enabled": asked.body["Enabled"], "RoleId": asked.body["RoleId"]}));
            (StatusCode::CREATED, [("location", path)], "").into_response()
        })
    })
    .await;
    let made = bmcs().put_account(machine(), &access, "hostler", &password, true).await.unwrap().value;
    assert_eq!((made.name.as_deref(), made.role.as_deref()), (Some("hostler"), Some("Administrator")));
    bmcs().delete_account(machine(), &access, &made.source).await.unwrap();
    bmcs().delete_account(machine(), &access, &made.source).await.unwrap();
}

#[tokio::test]
async fn media_is_ejected_first_inserted_and_read_back() {
    let (server, access) = serve(|asked, tree| {
        let name = asked.path.rsplit('.').next().unwrap_or_default();
        match (asked.method.as_str(), name) {
            ("POST", "EjectMedia") => merge(tree.get_mut(CD).unwrap(), &json!({"Inserted": false, "Image": null})),
            ("POST", "InsertMedia") if tree[CD]["Inserted"] == true => {
                return refusal(StatusCode::BAD_REQUEST, "ResourceInUse", "Media is inserted.");
            }
            // This one insists on the parameters that the standard made optional.
            ("POST", "InsertMedia") if asked.body["Inserted"] != true => {
                return refusal(StatusCode::BAD_REQUEST, "ActionParameterMissing", "Inserted is missing.");
            }
            ("POST", "InsertMedia") => merge(tree.get_mut(CD).unwrap(), &json!({"Inserted": true, "Image": asked.body["Image"]})),
            _ => return None,
        }
        Some(StatusCode::NO_CONTENT.into_response())
    })
    .await;
    bmcs().insert_media(machine(), &access, CD, "http://new/b.iso").await.unwrap();
    assert_eq!(server.shows(CD)["Image"], "http://new/b.iso");
    assert!(server.writes()[0].contains("EjectMedia"));
    bmcs().eject_media(machine(), &access, CD).await.unwrap();
    let before = server.writes().len();
    bmcs().eject_media(machine(), &access, CD).await.unwrap();
    assert_eq!(server.writes().len(), before, "an empty drive is left alone");

    // Says yes and keeps the old image: the machine would boot something else.
    let (_, access) = serve(|asked, _| (asked.method == Method::POST).then(|| StatusCode::NO_CONTENT.into_response())).await;
    let error = bmcs().insert_media(machine(), &access, CD, "http://new/b.iso").await.unwrap_err();
    assert!(matches!(&error, BmcError::NotEffective { evidence, .. } if evidence.contains("http://old/a.iso")), "{error}");
}

#[tokio::test]
async fn the_led_is_set_and_read_back() {
    let (server, access) = serve(|_, _| None).await;
    bmcs().set_locator_led(machine(), &access, LedState::Blinking, None).await.unwrap();
    assert_eq!(server.shows("/redfish/v1/Systems/1")["IndicatorLED"], "Blinking");
    assert_eq!(bmcs().locator_led(machine(), &access).await.unwrap().value, LedState::Blinking);
    let (_, deaf) = serve(|asked, _| (asked.method == Method::PATCH).then(|| StatusCode::NO_CONTENT.into_response())).await;
    let error = bmcs().set_locator_led(machine(), &deaf, LedState::On, None).await.unwrap_err();
    assert!(matches!(error, BmcError::NotEffective { .. }), "{error}");
}

#[tokio::test]
async fn a_bmc_is_restarted_in_the_words_it_takes() {
    let (server, access) = serve(|asked, _| {
        let is_reset = asked.path.ends_with("Manager.Reset") && asked.body.get("ResetType").is_some();
        if is_reset { refusal(StatusCode::BAD_REQUEST, "ActionParameterNotSupported", "ResetType is not supported.") } else { None }
    })
    .await;
    bmcs().reset_bmc(machine(), &access).await.unwrap();
    assert_eq!(server.writes().last().unwrap(), "POST /redfish/v1/Managers/1/Actions/Manager.Reset {}");
}

/// C7: a log is read, then cleared, and what came in between is gone.
#[tokio::test]
async fn c7_a_log_with_unread_entries_is_not_cleared() {
    let (server, access) = serve(|_, _| None).await;
    let bmcs = bmcs();
    let never = bmcs.clear_log(machine(), &access, LOG, &LogCursor::default()).await.unwrap_err();
    assert!(matches!(never, BmcError::Busy { .. }), "{never}");
    let news = bmcs.log_news(machine(), &access, LOG, &LogCursor::default()).await.unwrap().value;
    assert_eq!((news.entries.len(), news.fill), (3, Some((3, 100))));
    server.tree.lock().unwrap().insert(format!("{LOG}/Entries"), entries(4));
    let error = bmcs.clear_log(machine(), &access, LOG, &news.cursor).await.unwrap_err();
    assert!(matches!(&error, BmcError::Busy { reason, .. } if reason.contains("1 entries")), "{error}");
    assert!(server.writes().is_empty());
    let news = bmcs.log_news(machine(), &access, LOG, &news.cursor).await.unwrap().value;
    assert_eq!(news.entries.len(), 1);
    bmcs.clear_log(machine(), &access, LOG, &news.cursor).await.unwrap();
    assert!(server.writes()[0].contains("{\"LogEntriesETag\":\"\\\"4\\\"\"}"), "the BMC compares once more: {:?}", server.writes());
}
