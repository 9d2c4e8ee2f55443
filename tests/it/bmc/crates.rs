//! The crates `redfish` and `ipmi-rs` against our simulated BMC (tests/peers; docs/adr/0004 and 0005): what they do for us, and
//! the shortcomings for which our clients are our own.

use std::path::Path;
use std::process::Command;

use hostler::domain::power::{PowerAction, PowerState};
use hostler::sim::bmc::{RedfishFront, Setup};

use super::kit::{setup, start};
use super::process::said;
use crate::support::skipped;

/// Runs tests/peers; `None` after saying that it is not built.
async fn peer(args: [String; 4]) -> Option<String> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/release/peers");
    if !program.is_file() {
        skipped(&format!("{} is not built (tests/setup builds it)", program.display()));
        return None;
    }
    let output = tokio::task::spawn_blocking(move || Command::new(program).args(args).output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{}", said(&output));
    Some(said(&output))
}

async fn redfish_peer(front: RedfishFront) -> Option<(String, Vec<PowerAction>)> {
    let (bmc, still) = start(PowerState::Off, Setup { redfish: Some(front), ..setup() }).await;
    let url = bmc.redfish_address().unwrap().to_string();
    let output = peer(["redfish".into(), url, "admin".into(), "secret".into()]).await?;
    Some((output, still.actions()))
}

async fn ipmi_peer() -> Option<String> {
    let (bmc, _) = start(PowerState::On, setup()).await;
    let address = format!("127.0.0.1:{}", bmc.ipmi_address().unwrap().port.unwrap());
    peer(["ipmi".into(), address, "admin".into(), "secret".into()]).await
}

#[tokio::test]
async fn the_redfish_crate_drives_the_simulated_bmc_over_http() {
    let Some((output, actions)) = redfish_peer(RedfishFront::Http).await else { return };
    for line in ["systems ok 1", "SN00042", "reset ok", "power ok Some(\"On\")"] {
        assert!(output.contains(line), "{line} is not in {output}");
    }
    assert_eq!(actions, [PowerAction::On]);
}

#[tokio::test]
async fn the_redfish_crate_cannot_talk_to_a_self_signed_bmc() {
    let Some((output, actions)) = redfish_peer(RedfishFront::Https).await else { return };
    assert!(output.contains("root failed") && output.contains("system failed"), "{output}");
    assert_eq!(actions, []);
}

#[tokio::test]
async fn the_ipmi_rs_crate_logs_into_the_simulated_bmc() {
    let Some(output) = ipmi_peer().await else { return };
    assert!(output.contains("session ok") && output.contains("device ok (2, 14)") && output.contains("status ok 0"), "{output}");
}

#[tokio::test]
async fn the_ipmi_rs_crate_may_not_set_boot_options() {
    let Some(output) = ipmi_peer().await else { return };
    // 0xd4: insufficient privilege, the session stays at "user".
    assert!(output.contains("boot-options ok 212"), "{output}");
}
