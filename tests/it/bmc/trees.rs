//! Our Redfish client against recorded trees of real servers (tests/fixtures/redfish), served by a small file server that
//! remembers what was posted.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hostler::bmc::{BmcAccess, BmcError};
use hostler::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState};
use serde_json::{Value, json};

use super::kit::{access, bmcs, machine};

/// A recorded tree whose system answers to power and boot commands.
struct Tree {
    files: PathBuf,
    system: &'static str,
    /// Laid over the recorded system.
    changes: Mutex<Value>,
    asked: Mutex<Vec<String>>,
}

async fn answer(State(tree): State<Arc<Tree>>, method: Method, uri: Uri, body: String) -> Response {
    let path = uri.path().trim_end_matches('/').to_owned();
    let body: Value = serde_json::from_str(&body).unwrap_or(Value::Null);
    tree.asked.lock().unwrap().push(format!("{method} {path} {body}"));
    if method == Method::POST && path.ends_with("/Sessions") {
        return (StatusCode::CREATED, [("x-auth-token", "t"), ("location", "/redfish/v1/SessionService/Sessions/7")], "{}").into_response();
    }
    if method == Method::POST {
        let state = match body["ResetType"].as_str() {
            Some("ForceOff" | "GracefulShutdown") => "Off",
            _ => "On",
        };
        tree.changes.lock().unwrap()["PowerState"] = state.into();
        return StatusCode::NO_CONTENT.into_response();
    }
    if method == Method::PATCH {
        merge(&mut tree.changes.lock().unwrap(), &body);
        return (StatusCode::OK, "{}").into_response();
    }
    if method == Method::DELETE {
        return StatusCode::NO_CONTENT.into_response();
    }
    let file = tree.files.join(path.trim_start_matches('/')).join("index.json");
    let Ok(text) = std::fs::read_to_string(file) else { return StatusCode::NOT_FOUND.into_response() };
    let mut value: Value = serde_json::from_str(&text).unwrap();
    if path == tree.system {
        merge(&mut value, &tree.changes.lock().unwrap());
    }
    axum::Json(value).into_response()
}

fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => from.iter().for_each(|(k, v)| merge(into.entry(k).or_insert(Value::Null), v)),
        (into, from) => *into = from.clone(),
    }
}

async fn serve(vendor: &str, system: &'static str) -> (Arc<Tree>, BmcAccess) {
    let files = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/redfish").join(vendor);
    let tree = Arc::new(Tree { files, system, changes: Mutex::new(json!({})), asked: Mutex::default() });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let access = access(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap(), "root", "calvin");
    let app = axum::Router::new().fallback(answer).with_state(Arc::clone(&tree));
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (tree, access)
}

impl Tree {
    fn asked(&self, what: &str) -> bool {
        self.asked.lock().unwrap().iter().any(|a| a.contains(what))
    }
}

#[tokio::test]
async fn a_dell_is_known_by_its_service_tag_and_cycles_by_power_cycle() {
    let (tree, access) = serve("dell-poweredge-r750", "/redfish/v1/Systems/System.Embedded.1").await;
    let bmcs = bmcs();
    let id = bmcs.identity(machine(), &access).await.unwrap().value;
    assert_eq!(id.serial.as_deref(), Some("F54P1G3"), "SMBIOS shows the service tag, not the board's serial");
    assert_eq!((id.model.as_deref(), id.uuid.as_deref()), (Some("PowerEdge R750"), Some("4c4c4544-0035-3410-8050-c6c04f314733")));
    assert_eq!(
        (id.bmc_firmware.as_deref(), id.bios_version.as_deref(), id.asset_tag.as_deref()),
        (Some("6.00.30.00"), Some("1.8.2"), None)
    );
    assert_eq!(bmcs.power(machine(), &access).await.unwrap().value, PowerState::On);
    bmcs.set_power(machine(), &access, PowerAction::Cycle).await.unwrap();
    assert!(tree.asked("POST /redfish/v1/Systems/System.Embedded.1/Actions/ComputerSystem.Reset {\"ResetType\":\"PowerCycle\"}"));
    bmcs.set_boot_once(machine(), &access, BootDevice::Network, FirmwareKind::Uefi).await.unwrap();
    assert!(!tree.asked("BootSourceOverrideMode"), "UEFI is what it has; writing the mode is refused by some firmware");
    bmcs.close_all().await;
    assert!(tree.asked("DELETE /redfish/v1/SessionService/Sessions/7"));
}

#[tokio::test]
async fn an_hpe_without_power_cycle_is_switched_off_and_on() {
    let (tree, access) = serve("hpe-proliant-dl360", "/redfish/v1/Systems/1").await;
    let bmcs = bmcs();
    let id = bmcs.identity(machine(), &access).await.unwrap().value;
    assert_eq!((id.manufacturer.as_deref(), id.serial.as_deref()), (Some("HPE"), Some("MXQ2390RHW")));
    assert_eq!(id.bmc_firmware.as_deref(), Some("iLO 5 v3.11"));
    bmcs.set_power(machine(), &access, PowerAction::Cycle).await.unwrap();
    assert!(tree.asked("{\"ResetType\":\"ForceOff\"}") && tree.asked("{\"ResetType\":\"On\"}") && !tree.asked("PowerCycle"));
    bmcs.set_boot_once(machine(), &access, BootDevice::Disk, FirmwareKind::Bios).await.unwrap();
    assert!(tree.asked("\"BootSourceOverrideMode\":\"Legacy\""));
}

#[tokio::test]
async fn a_thin_supermicro_tree_is_enough() {
    let (tree, access) = serve("supermicro-x10sdv", "/redfish/v1/Systems/1").await;
    let bmcs = bmcs();
    let id = bmcs.identity(machine(), &access).await.unwrap().value;
    assert_eq!((id.manufacturer.as_deref(), id.serial.as_deref(), id.bmc_firmware.as_deref()), (Some("Supermicro"), None, Some("4.0")));
    bmcs.set_boot_once(machine(), &access, BootDevice::Disk, FirmwareKind::Uefi).await.unwrap();
    assert!(tree.asked("\"BootSourceOverrideTarget\":\"UefiHdd\""));
    bmcs.set_power(machine(), &access, PowerAction::Soft).await.unwrap();
    assert!(tree.asked("GracefulShutdown"));
}

/// One answer to everything, but for the root.
async fn serve_fixed(root: Value, rest: impl Fn(String) -> Response + Clone + Send + Sync + 'static) -> BmcAccess {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let access = access(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap(), "root", "calvin");
    let app = axum::Router::new().fallback(move |uri: Uri| {
        let (root, rest) = (root.clone(), rest.clone());
        async move { if uri.path() == "/redfish/v1/" { axum::Json(root).into_response() } else { rest(uri.to_string()) } }
    });
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    access
}

fn root() -> Value {
    json!({"@odata.id": "/redfish/v1/", "Systems": {"@odata.id": "/redfish/v1/Systems"}})
}

#[tokio::test]
async fn our_login_follows_no_link_to_another_place() {
    let elsewhere = json!({"@odata.id": "/redfish/v1/", "Systems": {"@odata.id": "http://192.0.2.1/redfish/v1/Systems"}});
    let access = serve_fixed(elsewhere, |_| StatusCode::NOT_FOUND.into_response()).await;
    let error = bmcs().power(machine(), &access).await.unwrap_err();
    assert!(matches!(&error, BmcError::Nonsense { what, .. } if what.contains("another place")), "{error}");
    for to in ["http://192.0.2.1/x", "//192.0.2.1/x", "http://user@127.0.0.1/x", "file:///etc/passwd"] {
        let access = serve_fixed(root(), move |_| (StatusCode::TEMPORARY_REDIRECT, [("location", to)]).into_response()).await;
        let error = bmcs().power(machine(), &access).await.unwrap_err();
        assert!(matches!(&error, BmcError::Nonsense { .. }), "{to}: {error}");
    }
    let access = serve_fixed(root(), |uri| (StatusCode::TEMPORARY_REDIRECT, [("location", uri + "x")]).into_response()).await;
    let error = bmcs().power(machine(), &access).await.unwrap_err();
    assert!(matches!(&error, BmcError::Nonsense { what, .. } if what.contains("without end")), "{error}");
}

#[tokio::test]
async fn a_collection_that_links_to_itself_ends() {
    let page = |uri: String| {
        axum::Json(json!({"Members": [{"@odata.id": "/a"}, {"@odata.id": "/b"}], "Members@odata.nextLink": uri})).into_response()
    };
    let error = bmcs().power(machine(), &serve_fixed(root(), page).await).await.unwrap_err();
    assert!(matches!(&error, BmcError::Refused { reason, .. } if reason.contains("2 systems (/a, /b)")), "{error}");
    let endless = |uri: String| axum::Json(json!({"Members": [], "Members@odata.nextLink": format!("{uri}x")})).into_response();
    let error = bmcs().power(machine(), &serve_fixed(root(), endless).await).await.unwrap_err();
    assert!(matches!(error, BmcError::Unsupported { .. }), "{error}");
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let access = serve_fixed(root(), |_| {
        let chunk = axum::body::Bytes::from(vec![b' '; 1 << 20]);
        let body = futures_util::stream::repeat_with(move || Ok::<_, std::io::Error>(chunk.clone()));
        axum::body::Body::from_stream(body).into_response()
    })
    .await;
    let error = bmcs().power(machine(), &access).await.unwrap_err();
    assert!(matches!(&error, BmcError::Nonsense { what, .. } if what.contains("8 MiB")), "{error}");
}

#[tokio::test]
async fn a_web_page_or_broken_json_is_nonsense() {
    for body in ["<html>Login</html>", "{\"Members\": [", "[1,2"] {
        let error = bmcs().power(machine(), &serve_fixed(root(), move |_| body.into_response()).await).await.unwrap_err();
        assert!(matches!(error, BmcError::Nonsense { .. }), "{body}: {error}");
    }
    // No Redfish at all is something else: IPMI may do.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, axum::Router::new()).await.unwrap() });
    let error = bmcs().power(machine(), &access(address.parse().unwrap(), "u", "p")).await.unwrap_err();
    assert!(matches!(error, BmcError::Unsupported { .. }), "{error}");
}
