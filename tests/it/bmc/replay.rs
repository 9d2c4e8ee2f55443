//! Recorded trees served as machines, and hostile requests to them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use hostler::bmc::BootSet;
use hostler::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState};
use hostler::sim::replay::recording::Recording;
use hostler::sim::replay::{Replay, ReplaySetup};

use super::kit::{access, bmcs, machine};

fn setup(tls: bool) -> ReplaySetup {
    ReplaySetup { listen: SocketAddr::from(([127, 0, 0, 1], 0)), user: "admin".into(), password: "secret".into(), tls }
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/redfish").join(name)
}

#[tokio::test]
async fn recorded_machines_are_known_switched_and_told_what_to_boot() {
    for name in ["dell-poweredge-r750", "hpe-proliant-dl360", "supermicro-x10sdv"] {
        let recording = Recording::read(&fixture(name)).unwrap();
        let replay = Replay::start(recording, setup(true)).await.unwrap();
        let (bmcs, access) = (bmcs(), access(replay.url().parse().unwrap(), "admin", "secret"));
        let id = bmcs.identity(machine(), &access).await.unwrap().value;
        assert!(id.manufacturer.is_some() && id.model.is_some(), "{name}: {id:?}");
        for (action, after) in [(PowerAction::Off, PowerState::Off), (PowerAction::On, PowerState::On)] {
            bmcs.set_power(machine(), &access, action).await.unwrap();
            assert_eq!(bmcs.power(machine(), &access).await.unwrap().value, after, "{name}");
        }
        let set = bmcs.set_boot_once(machine(), &access, BootDevice::Network, FirmwareKind::Uefi).await.unwrap();
        assert_eq!(set.value, BootSet::Once, "{name}");
        bmcs.close_all().await;
    }
}

/// Sends bytes as they are; gives the status line.
fn ask(at: &str, head: &str) -> String {
    let mut stream = TcpStream::connect(at).unwrap();
    write!(stream, "{head} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic YWRtaW46c2VjcmV0\r\nConnection: close\r\n\r\n").unwrap();
    let mut out = String::new();
    // A connection that is cut counts as what was read.
    if let Err(e) = stream.read_to_string(&mut out) {
        out.push_str(&e.to_string());
    }
    out.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn no_path_leaves_the_recording_and_writes_that_it_cannot_do_are_501() {
    let replay = Replay::start(Recording::read(&fixture("hpe-proliant-dl360")).unwrap(), setup(false)).await.unwrap();
    let at = replay.url().trim_start_matches("http://").to_owned();
    let lines = tokio::task::spawn_blocking(move || {
        let good = ask(&at, "GET /redfish/v1/Systems/1/");
        let hostile = [
            "/../../../../etc/passwd",
            "/redfish/v1/../../../etc/passwd",
            "/redfish/v1/%2e%2e/%2e%2e/etc/passwd",
            "//etc/passwd",
            "/redfish/v1/Systems/..%2f..%2f1",
            "/redfish/v1/\\..\\x",
        ];
        let hostile: Vec<String> = hostile.iter().map(|path| ask(&at, &format!("GET {path}"))).collect();
        (good, hostile, ask(&at, "DELETE /redfish/v1/Systems/1"), ask(&at, "POST /redfish/v1/Managers/1/Actions/Manager.Reset"))
    });
    let (good, hostile, delete, action) = lines.await.unwrap();
    assert!(good.contains("200"), "{good}");
    assert!(hostile.iter().all(|line| line.contains("404") || line.contains("400")), "{hostile:?}");
    assert!(delete.contains("501") && action.contains("501"), "{delete} {action}");
}

#[tokio::test]
async fn only_the_root_is_open_and_nothing_is_expanded_that_was_not_offered() {
    let replay = Replay::start(Recording::read(&fixture("supermicro-x10sdv")).unwrap(), setup(false)).await.unwrap();
    let http = super::bench::http_client();
    let get = |path: &str| http.get(format!("{}{path}", replay.url()));
    assert_eq!(get("/redfish/v1/").send().await.unwrap().status(), 200);
    assert_eq!(get("/redfish/v1/Systems").send().await.unwrap().status(), 401);
    let signed = || get("/redfish/v1/Systems?$expand=.").basic_auth("admin", Some("secret"));
    let answer = signed().send().await.unwrap();
    let etag = answer.headers()["etag"].to_str().unwrap().to_owned();
    let body: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(body["Members"][0].as_object().map(serde_json::Map::len), Some(1), "a reference and no more");
    assert_eq!(signed().header("if-none-match", etag).send().await.unwrap().status(), 304);
}
