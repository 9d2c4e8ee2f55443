//! The controls of a simulated rack: who has the control file can break its machines, nobody else can.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use hostler::sim::control::{self, Access};
use hostler::sim::dhcp::Uplink;
use hostler::sim::fleet::{Fleet, Plan};

/// Machines that stay off, so that nothing need answer them.
async fn rack() -> Arc<Fleet> {
    let dhcp = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9);
    let uplink = Uplink { dhcp, pxe: None, tftp_port: 9, relay: Ipv4Addr::new(127, 12, 0, 1), door: None };
    let plan = Plan { machines: 4, seed: 2, pace: "100".parse().unwrap(), uplink, odd: false };
    Arc::new(Fleet::start(&plan).await.unwrap())
}

async fn hostler(args: &[&str], control: &Path) -> (bool, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hostler"));
    command.arg("sim").args(&args[..1]).arg("--control").arg(control).args(&args[1..]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    (output.status.success(), format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

fn now(fleet: &Fleet, id: &str) -> String {
    fleet.bmc("r12-u01").unwrap().breakables().into_iter().find(|b| b.id == id).unwrap().now
}

#[tokio::test]
async fn a_fault_said_on_the_command_line_happens_to_the_machine_it_names() {
    let (fleet, dir) = (rack().await, tempfile::tempdir().unwrap());
    let file = dir.path().join(control::FILE);
    let _controls = control::start(Arc::clone(&fleet), &file).await.unwrap();

    let (good, said) = hostler(&["list"], &file).await;
    assert!(good && said.contains("r12-u01") && said.contains("r12-u04"), "{said}");
    let (good, said) = hostler(&["parts", "r12-u01"], &file).await;
    assert!(good && said.contains("Fan1") && said.contains("InletTemp"), "{said}");
    let (good, said) = hostler(&["fault", "r12-u01", "part-failed", "Fan1"], &file).await;
    assert!(good, "{said}");
    assert_eq!(now(&fleet, "Fan1"), "Critical");
    let (good, said) = hostler(&["fault", "r12-u01", "drift", "InletTemp", "-20"], &file).await;
    assert!(good, "{said}");
    assert_eq!(now(&fleet, "InletTemp"), "-20");
    let (good, _) = hostler(&["fault", "R12-U01", "mend"], &file).await;
    assert!(good);
    assert_eq!(now(&fleet, "Fan1"), "OK");
    for wrong in [["fault", "r12-u01", "part-failed", "Fan99"], ["fault", "r12-u99", "part-failed", "Fan1"]] {
        let (good, said) = hostler(&wrong, &file).await;
        assert!(!good && said.contains("99"), "{said}");
    }
}

#[tokio::test]
async fn without_the_token_nothing_can_be_seen_or_broken() {
    let (fleet, dir) = (rack().await, tempfile::tempdir().unwrap());
    let file = dir.path().join(control::FILE);
    let _controls = control::start(Arc::clone(&fleet), &file).await.unwrap();
    let access: Access = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let fault = serde_json::json!({"fault": "part_failed", "part": "Fan1"});
    for token in ["", "guess"] {
        assert_eq!(http.get(format!("{}/machines", access.url)).bearer_auth(token).send().await.unwrap().status(), 401);
        let post = http.post(format!("{}/machines/r12-u01/faults", access.url)).bearer_auth(token).json(&fault);
        assert_eq!(post.send().await.unwrap().status(), 401);
    }
    assert_eq!(now(&fleet, "Fan1"), "OK");
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}
