//! What a BMC said, on the machine's page and on the page of its log.

use axum::http::StatusCode;

use super::{Site, csrf};
use crate::collect::seed;

#[tokio::test]
async fn a_machine_page_shows_sensors_parts_log_firmware_and_capabilities() {
    let site = Site::new().await;
    seed::observed(&site.rack.store, site.rack.machines[6].id).await;
    let mut jar = site.logged_in().await;
    let page = site.get(&mut jar, &format!("/machines/{}", site.id(7))).await.text;
    for shown in [
        "CPU 2 Temp",
        "88 °C",
        "caution",
        "below 85, critical at 95 °C",
        "to 88 °C",
        "class=\"spark\"",
        "Exhaust Temp",
        ">old<",
        "F0A1C2D4",
        "PROC 1 DIMM 1",
        "was swapped",
        "1 empty",
        "failure predicted",
        "Power supply 2 lost its input",
        "historical",
        "nearly full: 487 of 512",
        "2.72 Sep 04 2022",
        "next boot: <bdi>Disabled",
        "links no VirtualMedia collection",
        "41 requests this hour",
        "Blink",
    ] {
        assert!(page.contains(shown), "{shown}");
    }
    assert!(!page.contains("<script>alert") && !page.contains('\u{202e}') && !page.contains('\u{1b}'), "hostile texts are harmless");
    assert!(page.contains("&#60;script&#62;alert(1)"), "and shown");
    assert!(!page.contains(" style="), "the policy forbids inline styles");
}

#[tokio::test]
async fn a_machine_without_a_bmc_shows_none_of_it() {
    let site = Site::new().await;
    let mut jar = site.logged_in().await;
    let all = site.rack.store.machines().await.unwrap();
    let (without, with) = (all.iter().find(|m| m.bmc.is_none()).unwrap(), all.iter().find(|m| m.bmc.is_some()).unwrap());
    for (m, hidden) in [(without, true), (with, false)] {
        let page = site.get(&mut jar, &format!("/machines/{}", m.id)).await.text;
        assert_eq!(page.contains("<section id=\"sec-sensors\" hidden>"), hidden, "{}", m.name);
    }
}

#[tokio::test]
async fn the_log_is_filtered_without_javascript_and_its_evidence_is_one_click_away() {
    let site = Site::new().await;
    seed::observed(&site.rack.store, site.rack.machines[6].id).await;
    let mut jar = site.logged_in().await;
    let base = format!("/machines/{}/logs", site.id(7));
    let all = site.get(&mut jar, &base).await.text;
    assert!(all.contains("Power on by the button") && all.contains("Fan 2 runs slow"));
    let found = site.get(&mut jar, &format!("{base}?q=FAN+2&severity=warning")).await.text;
    assert!(found.contains("Fan 2 runs slow") && !found.contains("Power on by the button"));
    assert!(found.contains("value=\"FAN 2\"") && found.contains("<option value=\"warning\" selected>"));
    assert!(site.get(&mut jar, &format!("{base}?q=nothing+of+this")).await.text.contains("Nothing in the log fits"));
    let hostile = site.get(&mut jar, &format!("{base}?q=%22%3E%3Cscript%3E&severity=zzz&before=zzz")).await;
    assert!(hostile.status == StatusCode::OK && !hostile.text.contains("\"><script>"));
    let link = found.split("/evidence/").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let evidence = site.get(&mut jar, &format!("/machines/{}/evidence/{link}", site.id(7))).await;
    let entry: serde_json::Value = serde_json::from_str(&evidence.text).unwrap();
    assert_eq!(entry["id"], "13");
    assert_eq!(site.get(&mut jar, &format!("/machines/{}/evidence/zzz", site.id(7))).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_leds_button_needs_the_sessions_token() {
    let site = Site::new().await;
    seed::observed(&site.rack.store, site.rack.machines[6].id).await;
    let mut jar = site.logged_in().await;
    let path = format!("/machines/{}/led", site.id(7));
    assert_eq!(site.post(&mut jar, &path, &[("csrf", "wrong"), ("action", "on")]).await.status, StatusCode::FORBIDDEN);
    let page = site.get(&mut jar, &format!("/machines/{}", site.id(7))).await;
    // The rack's BMCs do not exist: the page says so, and nothing counts as lit.
    let answer = site.post(&mut jar, &path, &[("csrf", &csrf(&page.text)), ("action", "on")]).await;
    assert!(answer.status.is_server_error() || answer.status.is_client_error(), "{}", answer.status);
    assert_eq!(site.rack.store.lit_led(site.rack.machines[6].id).await.unwrap(), None);
}
