//! `hostler demo` as a process: the whole service and a simulated rack.

use std::process::{Command, Stdio};

use serde_json::Value;

fn demo(args: &[&str]) -> (Option<i32>, Value, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_hostler"))
        .args(["demo", "--headless", "--until", "deployed", "--listen", "127.0.0.1:0"])
        .args(args)
        .env_remove("HOSTLER__STATE")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let summary =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}\n{}\n{stderr}", String::from_utf8_lossy(&output.stdout)));
    (output.status.code(), summary, stderr)
}

#[test]
fn the_demo_deploys_four_machines_and_tells_what_is_wrong_with_the_odd_ones() {
    let (code, summary, stderr) = demo(&["--speed", "20", "--timeout", "180"]);
    assert_eq!(code, Some(0), "{summary:#}\n{stderr}");
    assert_eq!(summary["ok"], true);
    assert_eq!(summary["machines"]["active"], 4);
    let all: u64 = summary["machines"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(all, 24);
    let steps: Vec<_> = summary["steps"].as_array().unwrap().iter().filter_map(|s| s["step"].as_str()).collect();
    assert!(steps.contains(&"write_image") && steps.contains(&"wait_system"), "{steps:?}");
    let waiting = |name: &str| summary["waiting"].as_object().unwrap().iter().find(|(k, _)| k.contains(name)).map(|(_, v)| v.to_string());
    assert!(waiting("r12-u22").is_some_and(|w| w.contains("DHCP server")), "{summary:#}");
    assert!(waiting("r12-u23").is_some_and(|w| w.contains("refused")), "{summary:#}");
    assert!(waiting("r12-u24").is_some(), "{summary:#}");
    assert!(stderr.is_empty(), "{stderr}");
}

#[test]
fn a_demo_that_does_not_get_there_says_why_and_fails() {
    let (code, summary, stderr) = demo(&["--machines", "4", "--speed", "1", "--timeout", "3"]);
    assert_eq!(code, Some(1));
    assert_eq!(summary["ok"], false);
    assert!(summary["reason"].as_str().is_some_and(|r| r.contains("after 3 s") && r.contains("power-on self test")), "{summary:#}");
    assert!(stderr.contains("after 3 s"), "{stderr}");
}

#[test]
fn virtual_machines_without_a_ramdisk_are_refused_with_the_way_to_make_one() {
    let output = Command::new(env!("CARGO_BIN_EXE_hostler"))
        .args(["demo", "--headless", "--until", "deployed", "--vms", "1", "--pxe", "/nonexistent", "--vm-image", "/nonexistent/image"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("pxe/build target/pxe") && stderr.contains("There is no image /nonexistent/image."), "{stderr}");
}
