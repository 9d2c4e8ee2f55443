//! A report for people: what matters first, then everything in tables.

use crate::cli::bmc::probe::Report;
use crate::cli::output::{self, or_dash};
use crate::domain::part::{Part, PartState};
use crate::domain::sensor::{Reading, Sensor};
use crate::domain::time::spoken;

pub fn print(report: &Report) {
    summary(report);
    capabilities(report);
    parts(report);
    sensors(report);
    firmware(report);
    logs(report);
    boot(report);
    bios(report);
    accounts(report);
    rest(report);
}

fn section(title: &str, count: usize) {
    output::line("");
    let head = format!("{title} ({count})");
    output::line(&head);
    output::line(&"─".repeat(head.chars().count()));
}

fn summary(report: &Report) {
    let id = &report.identity;
    let model = [id.manufacturer.as_deref(), id.model.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" ");
    let clock = report.clock_offset_secs.map(|s| match s {
        0 => "right".to_owned(),
        s => format!("{} {}", spoken(std::time::Duration::from_secs(s.unsigned_abs())), if s > 0 { "ahead" } else { "behind" }),
    });
    output::facts(&[
        ("BMC", report.address.clone()),
        ("protocol", report.protocol.to_string()),
        ("TLS key", report.tls_pin.map(|p| p.to_string()).unwrap_or_default()),
        ("machine", model),
        ("serial", id.serial.clone().unwrap_or_default()),
        ("UUID", id.uuid.clone().unwrap_or_default()),
        ("asset tag", id.asset_tag.clone().unwrap_or_default()),
        ("BMC firmware", id.bmc_firmware.clone().unwrap_or_default()),
        ("BIOS", id.bios_version.clone().unwrap_or_default()),
        ("power", report.power.map(|p| p.to_string()).unwrap_or_default()),
        ("boot progress", report.boot_progress.as_ref().map(|b| b.state.clone()).unwrap_or_default()),
        ("locator LED", report.locator_led.map(|l| l.to_string()).unwrap_or_default()),
        ("clock", clock.unwrap_or_default()),
        ("read in", format!("{:.1} s", report.took_secs)),
    ]);
    section("What is wrong", report.problems.len());
    if report.problems.is_empty() {
        output::line("Nothing that it says.");
    } else {
        let rows = report.problems.iter().map(|p| vec![p.severity.to_string(), p.what.clone(), or_dash(p.source.as_ref())]).collect();
        output::table(&["severity", "what", "source"], rows);
    }
}

fn capabilities(report: &Report) {
    section("What it can do", report.capabilities.iter().filter(|c| c.offered).count());
    let mark = |offered: bool| if offered { "yes" } else { "no" }.to_owned();
    let rows = report.capabilities.iter().map(|c| vec![c.capability.to_string(), mark(c.offered), c.evidence.clone()]).collect();
    output::table(&["capability", "offered", "evidence"], rows);
}

fn parts(report: &Report) {
    section("Parts", report.parts.len());
    let mut parts: Vec<&Part> = report.parts.iter().collect();
    parts.sort_by_key(|p| p.kind);
    let rows = parts
        .into_iter()
        .map(|p| {
            let serial = p.serial.as_ref().map(|s| s.as_str());
            vec![
                p.kind.to_string(),
                p.place.clone().unwrap_or_else(|| p.name.clone()),
                [p.manufacturer.as_deref(), p.model.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(" "),
                or_dash(serial),
                state(p),
                details(p),
                p.source.clone(),
            ]
        })
        .collect();
    output::table(&["kind", "place", "model", "serial", "state", "details", "source"], rows);
}

fn state(part: &Part) -> String {
    let state = match &part.state {
        PartState::Present => "present".to_owned(),
        PartState::Absent => "empty".to_owned(),
        PartState::Idle(word) | PartState::Unavailable(word) => word.clone(),
        PartState::NotSaid => "-".to_owned(),
    };
    match part.health {
        Some(health) => format!("{state}, {health}"),
        None => state,
    }
}

fn details(part: &Part) -> String {
    let f = &part.facts;
    let words = [
        f.capacity_bytes.map(output::bytes),
        f.capacity_watts.map(|w| format!("{w} W")),
        f.media.clone(),
        f.protocol.clone(),
        f.cores.map(|c| format!("{c} cores")),
        f.speed_mhz.map(|s| format!("{s} MHz")),
        f.link.clone(),
        f.speed_mbps.map(|s| format!("{s} Mbit/s")),
        f.mac.map(|m| m.to_string()),
        f.lanes_in_use.map(|l| format!("x{l} of x{}", or_dash(f.lanes_max))),
        f.pcie_gen.clone(),
        f.volume.clone(),
        f.life_left_percent.map(|l| format!("{l} % life left")),
        f.correctable_errors.map(|n| format!("{n} corrected errors")),
        f.uncorrectable_errors.map(|n| format!("{n} uncorrected errors")),
        part.firmware.as_ref().map(|v| format!("firmware {v}")),
    ];
    words.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn sensors(report: &Report) {
    section("Sensors", report.sensors.len());
    let rows = report.sensors.iter().map(sensor_row).collect();
    output::table(&["sensor", "kind", "reading", "low", "high", "health", "context", "source"], rows);
}

fn sensor_row(s: &Sensor) -> Vec<String> {
    let unit = s.unit.symbol();
    let reading = match &s.reading {
        Reading::Number { value } => format!("{}{unit}", tidy(*value)),
        Reading::States { words, .. } if words.is_empty() => "nothing asserted".to_owned(),
        Reading::States { words, .. } => words.join(", "),
        Reading::Unavailable { why } => format!("({why})"),
    };
    let limits = |limits: [Option<f64>; 3]| {
        let words: Vec<String> = limits.iter().map(|l| l.map_or_else(|| "-".to_owned(), tidy)).collect();
        if limits.iter().all(Option::is_none) { "-".to_owned() } else { words.join("/") }
    };
    let t = &s.thresholds;
    vec![
        s.name.clone(),
        s.kind.to_string(),
        reading,
        limits([t.lower_fatal, t.lower_critical, t.lower_caution]),
        limits([t.upper_caution, t.upper_critical, t.upper_fatal]),
        or_dash(s.health),
        or_dash(s.context.as_ref()),
        s.source.clone(),
    ]
}

/// At most three digits after the point.
fn tidy(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn firmware(report: &Report) {
    section("Firmware", report.firmware.len());
    let rows = report.firmware.iter().map(|f| {
        let use_of = match f.in_use {
            Some(true) => "runs",
            Some(false) => "kept",
            None => "-",
        };
        let update = match f.updateable {
            Some(true) => "yes",
            Some(false) => "no",
            None => "-",
        };
        vec![f.name.clone(), or_dash(f.version.as_ref()), use_of.to_owned(), update.to_owned(), f.source.clone()]
    });
    output::table(&["component", "version", "use", "updateable", "source"], rows.collect());
}

fn logs(report: &Report) {
    for log in &report.logs {
        section(&format!("Log {}", log.source), log.entries.len());
        if log.is_cut {
            output::line("Older entries are kept by the BMC and were not read.");
        }
        let rows = log
            .entries
            .iter()
            .map(|e| vec![or_dash(e.at), e.severity.to_string(), e.message.clone(), or_dash(e.message_id.as_ref()), e.source.clone()])
            .collect();
        output::table(&["time", "severity", "message", "message id", "source"], rows);
    }
}

fn boot(report: &Report) {
    section("Boot order", report.boot_order.len());
    let rows = report.boot_order.iter().map(|b| {
        let enabled = b.enabled.map(|e| if e { "yes" } else { "no" });
        vec![b.reference.clone(), or_dash(b.name.as_ref()), or_dash(enabled), or_dash(b.path.as_ref()), b.source.clone()]
    });
    output::table(&["option", "name", "enabled", "path", "source"], rows.collect());
}

fn bios(report: &Report) {
    section("BIOS settings", report.bios.len());
    let rows = report
        .bios
        .iter()
        .map(|a| {
            vec![a.name.clone(), or_dash(a.value.as_ref()), or_dash(a.pending.as_ref()), or_dash(a.display_name.as_ref()), a.source.clone()]
        })
        .collect();
    output::table(&["setting", "value", "pending", "meaning", "source"], rows);
}

fn accounts(report: &Report) {
    section("Accounts", report.accounts.len());
    let word = |flag: Option<bool>| or_dash(flag.map(|f| if f { "yes" } else { "no" }));
    let rows = report
        .accounts
        .iter()
        .map(|a| vec![or_dash(a.name.as_ref()), or_dash(a.role.as_ref()), word(a.enabled), word(a.locked), a.source.clone()])
        .collect();
    output::table(&["name", "role", "enabled", "locked", "source"], rows);
}

fn rest(report: &Report) {
    section("Virtual media", report.media.len());
    let rows = report.media.iter().map(|m| vec![m.name.clone(), m.kinds.join(", "), or_dash(m.image.as_ref()), m.source.clone()]);
    output::table(&["drive", "kinds", "image", "source"], rows.collect());
    section("BMC network", report.network.len());
    let rows = report.network.iter().map(|n| {
        vec![
            n.name.clone(),
            or_dash(n.mac),
            or_dash(n.address.as_ref()),
            or_dash(n.gateway.as_ref()),
            or_dash(n.origin.as_ref()),
            n.source.clone(),
        ]
    });
    output::table(&["interface", "mac", "address", "gateway", "origin", "source"], rows.collect());
    let lists = [
        ("Not understood", &report.not_understood),
        ("Linked and not readable", &report.unread),
        ("Outside the standard, not followed", &report.oem_links),
    ];
    for (title, list) in lists {
        section(title, list.len());
        let rows = list.iter().map(|n| vec![n.area.to_owned(), n.oddity.what.clone(), n.oddity.source.clone()]).collect();
        output::table(&["area", "what", "source"], rows);
    }
    section("Not offered or failed", report.not_offered.len() + report.failed.len());
    let rows = report.failed.iter().chain(&report.not_offered).map(|f| vec![f.area.to_owned(), f.code.to_owned(), f.why.clone()]);
    output::table(&["area", "code", "why"], rows.collect());
}
