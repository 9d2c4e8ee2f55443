//! `hostler machine sensors|parts|logs|firmware|bios|led|bmc-reset|raw`: what BMCs say, and acts on the BMC itself.

use std::time::Duration;

use clap::{Args, Subcommand};

use crate::app::bmc_acts::{ActResult, RawAnswer};
use crate::app::observe::{BiosView, CapabilitiesView, FirmwareView, LedView, LogsView, PartsView, PollView, SensorView, SensorsView};
use crate::cli::client::Client;
use crate::cli::{Result, output};
use crate::domain::reading::Quality;
use crate::domain::sensor::Thresholds;
use crate::http::api::observe::{LedBody, RawBody};

#[derive(Subcommand)]
pub(super) enum HardwareVerb {
    /// Sensors with their latest readings, quality and age
    Sensors {
        machine: String,
        /// Only what is outside its limits, or cannot be believed
        #[arg(long)]
        odd: bool,
    },
    /// Parts with serials and places, and what happened to them
    Parts { machine: String },
    /// The BMC's own logs, newest first (the agent's log is: machine log)
    Logs(LogsArgs),
    /// Firmware by component
    Firmware { machine: String },
    /// BIOS settings with what waits for the next boot
    Bios {
        machine: String,
        /// Part of a setting's name
        #[arg(short = 'q', long = "query")]
        q: Option<String>,
    },
    /// What the BMC can do and why not, and how much it is asked
    Capabilities { machine: String },
    /// The locator LED: on (goes out by itself), off, or status
    Led {
        machine: String,
        #[arg(value_parser = ["on", "off", "status"])]
        action: String,
        /// When it goes out by itself [default: 15m]
        #[arg(long = "for", value_parser = output::parse_duration, value_name = "TIME")]
        lasting: Option<Duration>,
    },
    /// Restart the BMC itself; the machine runs on
    BmcReset {
        machine: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Ask the BMC something raw: a path below /redfish/v1, or an IPMI command in hex
    #[command(after_help = "Examples:\n  hostler machine raw r12-u17 /redfish/v1/Chassis\n  hostler machine raw r12-u17 06 01")]
    Raw {
        machine: String,
        #[arg(required = true, num_args = 1..=64, value_name = "PATH or HEX")]
        ask: Vec<String>,
    },
}

#[derive(Args)]
pub(super) struct LogsArgs {
    machine: String,
    /// This severity or a worse one
    #[arg(long, value_parser = ["info", "warning", "critical"])]
    severity: Option<String>,
    /// Part of a message, message id, origin or log name
    #[arg(short = 'q', long = "query")]
    q: Option<String>,
    /// How many of the newest entries
    #[arg(long, default_value_t = 50)]
    lines: u32,
}

pub(super) async fn run(client: &Client, verb: HardwareVerb) -> Result<()> {
    match verb {
        HardwareVerb::Sensors { machine, odd } => sensors(client, &machine, odd).await,
        HardwareVerb::Parts { machine } => parts(client, &machine).await,
        HardwareVerb::Logs(args) => logs(client, &args).await,
        HardwareVerb::Firmware { machine } => firmware(client, &machine).await,
        HardwareVerb::Bios { machine, q } => bios(client, &machine, q.as_deref()).await,
        HardwareVerb::Capabilities { machine } => capabilities(client, &machine).await,
        HardwareVerb::Led { machine, action, lasting } => led(client, &machine, &action, lasting).await,
        HardwareVerb::BmcReset { machine, yes } => {
            output::confirm(yes, &format!("Restart the BMC of {machine}? It is away for some minutes; the machine runs on."))?;
            let result: ActResult = client.post(&["machines", &machine, "bmc", "reset"], None::<&()>).await?;
            act(client, &machine, &result);
            Ok(())
        }
        HardwareVerb::Raw { machine, ask } => {
            let answer: RawAnswer = client.post(&["machines", &machine, "bmc", "raw"], Some(&RawBody { ask: ask.join(" ") })).await?;
            if client.json {
                output::json(&answer);
            } else {
                // JSON keeps its line ends; everything else that acts on a terminal is taken out.
                answer.answer.lines().for_each(|l| output::line(&output::plain(l)));
            }
            Ok(())
        }
    }
}

fn act(client: &Client, machine: &str, result: &ActResult) {
    if client.json {
        output::json(result);
    } else {
        eprintln!("{}: {}", output::plain(machine), output::plain(&result.evidence));
    }
}

/// Says on stderr when what follows is old, or why there is nothing.
fn freshness(poll: &PollView, empty: bool) {
    let why = poll.fault.as_deref().map(|f| format!(": {f}")).unwrap_or_default();
    if poll.unsupported {
        eprintln!("The BMC offers nothing about {}.", poll.kind.noun());
    } else if poll.stale {
        let heard = poll.last_ok_at.map_or("never".to_owned(), output::ago);
        eprintln!("{}", output::plain(&format!("Old: the last answer about {} was {heard}{why}", poll.kind.noun())));
    } else if empty && poll.last_ok_at.is_none() {
        eprintln!("Nothing was read about {} yet.", poll.kind.noun());
    }
}

fn value(s: &SensorView) -> String {
    match s.value {
        Some(value) => format!("{value}{}", s.unit.symbol()),
        None if !s.words.is_empty() => s.words.join(", "),
        None => "-".to_owned(),
    }
}

/// `3..38 / 42.5`: lower caution to upper caution, then the critical limits.
fn limits(t: &Thresholds) -> String {
    let pair = |low: Option<f64>, high: Option<f64>| match (low, high) {
        (None, None) => String::new(),
        (low, high) => format!("{}..{}", output::or_dash(low), output::or_dash(high)),
    };
    let all = [pair(t.lower_caution, t.upper_caution), pair(t.lower_critical, t.upper_critical), pair(t.lower_fatal, t.upper_fatal)];
    all.into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(" / ")
}

async fn sensors(client: &Client, machine: &str, odd: bool) -> Result<()> {
    let mut view: SensorsView = client.get(&["machines", machine, "sensors"], &[]).await?;
    if odd {
        view.items.retain(|s| s.quality != Quality::Good || s.level.is_some_and(|l| l > crate::app::observe::Level::Normal));
    }
    if client.json {
        output::json(&view);
        return Ok(());
    }
    freshness(&view.poll, view.items.is_empty());
    let rows = view.items.iter().map(|s| {
        vec![
            s.number.to_string(),
            s.name.clone(),
            s.kind.to_string(),
            value(s),
            s.level.map_or_else(|| "-".to_owned(), |l| l.to_string()),
            s.quality.to_string(),
            limits(&s.thresholds),
            s.at.map_or("never".to_owned(), output::ago),
            s.why.clone().unwrap_or_default(),
        ]
    });
    output::table(&["no", "sensor", "kind", "value", "level", "quality", "limits", "read", "why"], rows.collect());
    Ok(())
}

async fn parts(client: &Client, machine: &str) -> Result<()> {
    let view: PartsView = client.get(&["machines", machine, "parts"], &[]).await?;
    if client.json {
        output::json(&view);
        return Ok(());
    }
    freshness(&view.poll, view.items.is_empty());
    let rows = view.items.iter().map(|p| {
        vec![
            p.kind.to_string(),
            p.place.clone().unwrap_or_else(|| p.name.clone()),
            p.gone_at.map_or_else(|| p.state.clone(), |at| format!("gone {}", output::ago(at))),
            output::or_dash(p.health),
            output::or_dash(p.serial.as_ref()),
            [&p.manufacturer, &p.model].into_iter().flatten().cloned().collect::<Vec<_>>().join(" "),
            p.part_number.clone().unwrap_or_default(),
            p.firmware.clone().unwrap_or_default(),
        ]
    });
    output::table(&["kind", "place", "state", "health", "serial", "model", "part number", "firmware"], rows.collect());
    if !view.history.is_empty() {
        output::line("");
        let rows = view.history.iter().map(|e| vec![output::ago(e.at), e.text.clone()]);
        output::table(&["when", "what happened"], rows.collect());
    }
    for odd in &view.not_understood {
        eprintln!("not understood: {} {}", output::plain(&odd.source), output::plain(&odd.what));
    }
    Ok(())
}

async fn logs(client: &Client, args: &LogsArgs) -> Result<()> {
    let mut query = vec![("limit", args.lines.to_string())];
    query.extend(args.severity.clone().map(|s| ("severity", s)));
    query.extend(args.q.clone().map(|q| ("q", q)));
    let view: LogsView = client.get(&["machines", &args.machine, "logs"], &query).await?;
    if client.json {
        output::json(&view);
        return Ok(());
    }
    freshness(&view.poll, view.items.is_empty());
    let rows = view.items.iter().map(|e| {
        vec![
            e.at.map_or("-".to_owned(), |at| at.to_string()),
            if e.historical { format!("{} (historical)", e.severity) } else { e.severity.to_string() },
            e.log.rsplit('/').next().unwrap_or(&e.log).to_owned(),
            e.entry.clone(),
            e.message.clone(),
            e.origin.clone().unwrap_or_default(),
        ]
    });
    output::table(&["bmc time", "severity", "log", "id", "message", "about"], rows.collect());
    Ok(())
}

async fn firmware(client: &Client, machine: &str) -> Result<()> {
    let view: FirmwareView = client.get(&["machines", machine, "firmware"], &[]).await?;
    if client.json {
        output::json(&view);
        return Ok(());
    }
    freshness(&view.poll, view.items.is_empty());
    let rows = view.items.iter().map(|f| {
        let updateable = f.updateable.map(|u| if u { "yes" } else { "no" });
        vec![f.name.clone(), output::or_dash(f.version.as_ref()), output::or_dash(updateable), output::or_dash(f.health)]
    });
    output::table(&["component", "version", "updateable", "health"], rows.collect());
    Ok(())
}

async fn bios(client: &Client, machine: &str, q: Option<&str>) -> Result<()> {
    let mut view: BiosView = client.get(&["machines", machine, "bios"], &[]).await?;
    if let Some(q) = q {
        let q = q.to_lowercase();
        view.items.retain(|b| b.name.to_lowercase().contains(&q) || b.display_name.as_ref().is_some_and(|d| d.to_lowercase().contains(&q)));
    }
    if client.json {
        output::json(&view);
        return Ok(());
    }
    freshness(&view.poll, view.items.is_empty());
    let rows = view.items.iter().map(|b| {
        let pending = b.pending.clone().filter(|p| Some(p) != b.value.as_ref()).unwrap_or_default();
        vec![b.name.clone(), output::or_dash(b.value.as_ref()), pending, b.allowed.join(" ")]
    });
    output::table(&["setting", "value", "next boot", "allowed"], rows.collect());
    Ok(())
}

async fn capabilities(client: &Client, machine: &str) -> Result<()> {
    let view: CapabilitiesView = client.get(&["machines", machine, "capabilities"], &[]).await?;
    if client.json {
        output::json(&view);
        return Ok(());
    }
    freshness(&view.poll, view.items.is_empty());
    let rows =
        view.items.iter().map(|s| vec![s.capability.to_string(), if s.offered { "yes" } else { "no" }.to_owned(), s.evidence.clone()]);
    output::table(&["capability", "offered", "evidence"], rows.collect());
    output::line("");
    let rows = view.polls.iter().map(|p| {
        vec![
            p.kind.to_string(),
            p.last_ok_at.map_or("never".to_owned(), output::ago),
            format!("{} s", p.interval_secs),
            p.failures.to_string(),
            p.fault.clone().unwrap_or_default(),
        ]
    });
    output::table(&["asked about", "answered", "every", "failures", "why"], rows.collect());
    if let Some(hour) = view.traffic.last() {
        output::line("");
        output::line(&format!(
            "This hour: {} requests, {} IPMI commands, {} polls, {} failed.",
            hour.requests, hour.commands, hour.polls, hour.failures
        ));
    }
    Ok(())
}

async fn led(client: &Client, machine: &str, action: &str, lasting: Option<Duration>) -> Result<()> {
    let path = ["machines", machine, "led"];
    match action {
        "on" => {
            let view: LedView = client.post(&path, Some(&LedBody { for_secs: lasting.map(|l| l.as_secs()) })).await?;
            if client.json {
                output::json(&view);
            } else {
                let left = crate::domain::time::spoken(view.off_at.since(view.lit_at));
                eprintln!("{}: the locator LED blinks and goes out by itself after {left}.", output::plain(machine));
            }
        }
        "off" => {
            let result: ActResult = client.delete(&path).await?;
            act(client, machine, &result);
        }
        _ => {
            let view: Option<LedView> = client.get(&path, &[]).await?;
            match (&view, client.json) {
                (_, true) => output::json(&view),
                (Some(lit), false) => output::line(&format!("on, lit by {}", output::plain(&lit.actor))),
                (None, false) => output::line("not lit through Hostler"),
            }
        }
    }
    Ok(())
}
