//! `hostler machine`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use reqwest::Method;

use crate::app::bmc::{PowerReading, PowerResult};
use crate::app::view::{BmcView, BootView, LogLineView, MachineDetail, MachineView, StepView};
use crate::cli::client::Client;
use crate::cli::hardware::{self, HardwareVerb};
use crate::cli::wait::{self, Goal};
use crate::cli::{CliError, Result, output};
use crate::domain::bmc::BmcAddress;
use crate::domain::id::Name;
use crate::domain::machine::Lifecycle;
use crate::domain::time::{Timestamp, spoken};
use crate::domain::work::{RunKind, StepState};
use crate::http::api::List;
use crate::http::api::machines::DeployBody;

/// Machines a verb is for: at least one, each by id, name, serial or MAC.
#[derive(Args)]
pub(super) struct Targets {
    /// Id, name, serial or MAC; several are done one after the other
    #[arg(required = true, value_name = "MACHINE")]
    machines: Vec<String>,
}

#[derive(Args)]
pub(super) struct Wait {
    /// Wait until it is done, at most this long [default when given without a time: 30m]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "30m", value_parser = output::parse_duration, value_name = "TIME")]
    wait: Option<Duration>,
}

#[derive(Subcommand)]
pub(super) enum Verb {
    /// List machines
    List(ListArgs),
    /// Everything about one machine
    #[command(visible_alias = "describe")]
    Show { machine: String },
    /// What a machine does or waits for, and what may be asked of it
    Why { machine: String },
    /// Take discovered machines in: they are inventoried and become ready
    Accept {
        #[command(flatten)]
        targets: Targets,
        #[command(flatten)]
        wait: Wait,
    },
    /// Write an image on ready machines and boot it
    Deploy(DeployArgs),
    /// Wipe the disks of machines and make them ready again
    Release {
        #[command(flatten)]
        targets: Targets,
        #[command(flatten)]
        wait: Wait,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Let a failed run go on
    Retry {
        #[command(flatten)]
        targets: Targets,
        #[command(flatten)]
        wait: Wait,
    },
    /// Give up the current run
    Abort {
        #[command(flatten)]
        targets: Targets,
    },
    /// Drop the record; touches nothing on the machine
    Forget {
        #[command(flatten)]
        targets: Targets,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Power through the BMC: on, off, soft, cycle, reset, or status
    Power {
        machine: String,
        #[arg(value_parser = ["on", "off", "soft", "cycle", "reset", "status"])]
        action: String,
    },
    /// Set or change the BMC of a machine
    Bmc(BmcArgs),
    /// The newest boots with their timelines
    Boots { machine: String },
    /// The agent's log
    Log {
        machine: String,
        /// How many of the newest lines
        #[arg(long, default_value_t = 200)]
        lines: u32,
    },
    #[command(flatten)]
    Hardware(HardwareVerb),
}

#[derive(Args)]
pub(super) struct BmcArgs {
    machine: String,
    /// 10.0.0.5, https://10.0.0.5:8000/redfish/v1/Systems/ID or ipmi://10.0.0.5:623
    #[arg(long)]
    address: Option<BmcAddress>,
    #[arg(long)]
    user: Option<String>,
    /// File with the password; - reads it from stdin
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Forget the pinned certificate; the next contact pins what it sees
    #[arg(long)]
    repin: bool,
}

#[derive(Args)]
pub(super) struct ListArgs {
    /// Lifecycle states, comma-separated: ready,active
    #[arg(long)]
    state_is: Option<String>,
    #[arg(long)]
    rack: Option<String>,
    #[arg(long)]
    image: Option<String>,
    /// Part of a name, serial, MAC or BMC address
    #[arg(short = 'q', long = "query")]
    q: Option<String>,
    /// Only machines with a fault or out of use
    #[arg(long)]
    faulty: bool,
    /// More columns
    #[arg(long)]
    wide: bool,
}

#[derive(Args)]
#[command(after_help = "Example:\n  hostler machine deploy r12-u17 --image debian-12 --ssh-key ~/.ssh/id_ed25519.pub --wait")]
pub(super) struct DeployArgs {
    #[command(flatten)]
    targets: Targets,
    /// Image to write (hostler image list)
    #[arg(long)]
    image: Name,
    /// Hostname; for one machine only
    #[arg(long)]
    hostname: Option<Name>,
    /// File with public SSH keys for the image's user; may be given more than once
    #[arg(long = "ssh-key", alias = "ssh-key-file", value_name = "FILE")]
    ssh_keys: Vec<PathBuf>,
    /// File with cloud-init user data
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,
    /// File with a cloud-init network config
    #[arg(long, value_name = "FILE")]
    network_config: Option<PathBuf>,
    #[command(flatten)]
    wait: Wait,
}

pub(super) async fn run(client: &Client, verb: Verb) -> Result<()> {
    match verb {
        Verb::List(args) => list(client, &args).await,
        Verb::Show { machine } => show(client, &machine).await,
        Verb::Why { machine } => why(client, &machine).await,
        Verb::Accept { targets, wait } => act(client, &targets, "accept", None, &wait, Goal::State(Lifecycle::Ready)).await,
        Verb::Deploy(args) => {
            let body = deploy_body(&args)?;
            act(client, &args.targets, "deploy", Some(&body), &args.wait, Goal::State(Lifecycle::Active)).await
        }
        Verb::Release { targets, wait, yes } => {
            output::confirm(yes, &format!("Release {}? All data on their disks is wiped.", targets.machines.join(", ")))?;
            act(client, &targets, "release", None, &wait, Goal::State(Lifecycle::Ready)).await
        }
        Verb::Retry { targets, wait } => act(client, &targets, "retry", None, &wait, Goal::Run).await,
        Verb::Abort { targets } => act(client, &targets, "abort", None, &Wait { wait: None }, Goal::Run).await,
        Verb::Forget { targets, yes } => {
            output::confirm(
                yes,
                &format!("Forget {}? Their history goes; nothing on the machines is touched.", targets.machines.join(", ")),
            )?;
            each(&targets.machines, async |machine| client.tell(Method::DELETE, &["machines", machine], None::<&()>).await).await.map(drop)
        }
        Verb::Power { machine, action } => power(client, &machine, &action).await,
        Verb::Bmc(args) => bmc(client, &args).await,
        Verb::Boots { machine } => boots(client, &machine).await,
        Verb::Log { machine, lines } => log(client, &machine, lines).await,
        Verb::Hardware(verb) => hardware::run(client, verb).await,
    }
}

/// Does one thing for each target. All are tried; one failure among several is a partial one.
async fn each<T>(targets: &[String], mut act: impl AsyncFnMut(&str) -> Result<T>) -> Result<Vec<T>> {
    let mut done = Vec::new();
    let mut failed = 0;
    for target in targets {
        match act(target).await {
            Ok(value) => done.push(value),
            Err(e) if targets.len() == 1 => return Err(e),
            Err(e) => {
                failed += 1;
                eprintln!("{}:", output::plain(target));
                e.print();
            }
        }
    }
    match failed {
        0 => Ok(done),
        _ => Err(CliError::Partial { failed, all: targets.len() }),
    }
}

async fn act(client: &Client, targets: &Targets, verb: &str, body: Option<&DeployBody>, wait: &Wait, goal: Goal) -> Result<()> {
    let acted = each(&targets.machines, async |machine| {
        let view: MachineView = client.post(&["machines", machine, verb], body).await?;
        if wait.wait.is_none() && !client.json {
            eprintln!("{}: {}", view.name, output::plain(&view.state.sentence));
        }
        Ok(view)
    })
    .await?;
    if let Some(limit) = wait.wait {
        let rows = wait::until(client, &acted, goal, limit).await?;
        if client.json {
            output::json(&rows);
        }
    } else if client.json {
        output::json(&acted);
    }
    Ok(())
}

fn deploy_body(args: &DeployArgs) -> Result<DeployBody> {
    if args.hostname.is_some() && args.targets.machines.len() > 1 {
        return Err(CliError::Usage {
            what: "--hostname is for one machine".to_owned(),
            hint: "leave it out: each machine gets its own name".to_owned(),
        });
    }
    let read = |path: &PathBuf| {
        std::fs::read_to_string(path)
            .map_err(|e| CliError::Usage { what: format!("cannot read {}: {e}", path.display()), hint: String::new() })
    };
    let mut ssh_keys = Vec::new();
    for file in &args.ssh_keys {
        ssh_keys.extend(read(file)?.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(str::to_owned));
    }
    Ok(DeployBody {
        image: args.image.clone(),
        hostname: args.hostname.clone(),
        ssh_keys,
        user_data: args.user_data.as_ref().map(read).transpose()?,
        network_config: args.network_config.as_ref().map(read).transpose()?,
        disk: None,
    })
}

/// All pages of the list.
async fn all_machines(client: &Client, query: &[(&str, String)]) -> Result<List<MachineView>> {
    let mut all: Option<List<MachineView>> = None;
    let mut cursor = None;
    loop {
        let mut query = query.to_vec();
        query.push(("limit", "1000".to_owned()));
        if let Some(cursor) = cursor {
            query.push(("cursor", cursor));
        }
        let page: List<MachineView> = client.get(&["machines"], &query).await?;
        cursor = page.next.clone();
        match &mut all {
            None => all = Some(page),
            Some(all) => all.items.extend(page.items),
        }
        if cursor.is_none() {
            break;
        }
    }
    let mut all = all.unwrap_or(List { items: Vec::new(), next: None, total: 0 });
    all.next = None;
    Ok(all)
}

async fn list(client: &Client, args: &ListArgs) -> Result<()> {
    let mut query = Vec::new();
    for (key, value) in [("state", &args.state_is), ("rack", &args.rack), ("image", &args.image), ("q", &args.q)] {
        if let Some(value) = value {
            query.push((key, value.clone()));
        }
    }
    if args.faulty {
        query.push(("faulty", "true".to_owned()));
    }
    let list = all_machines(client, &query).await?;
    if client.json {
        output::json(&list);
        return Ok(());
    }
    let mut heads = vec!["name", "state", "power", "place", "image", "doing"];
    if args.wide {
        heads.extend(["serial", "mac", "bmc", "firmware", "hardware", "id"]);
    }
    let rows = list
        .items
        .iter()
        .map(|m| {
            let mut row = vec![
                m.name.to_string(),
                m.lifecycle.to_string(),
                output::or_dash(m.power),
                output::or_dash(m.place.as_ref()),
                output::or_dash(m.image.as_ref()),
                doing(m),
            ];
            if args.wide {
                row.extend([
                    output::or_dash(m.serial.as_ref()),
                    output::or_dash(m.macs.first()),
                    output::or_dash(m.bmc_address.as_ref()),
                    output::or_dash(m.firmware),
                    gist(m),
                    m.id.to_string(),
                ]);
            }
            row
        })
        .collect();
    output::table(&heads, rows);
    Ok(())
}

/// One short phrase: the step of the run, the fault, or that it has not turned up.
fn doing(m: &MachineView) -> String {
    if let Some(fault) = &m.fault {
        return format!("stopped: {}", fault.code);
    }
    if let Some(run) = &m.run
        && let Some(step) = run.step
    {
        let eta = run.eta_secs.map(|s| format!(", {} left", spoken(Duration::from_secs(s)))).unwrap_or_default();
        return format!("{} {}/{} {step} {}%{eta}", run.kind, run.step_number, run.steps, run.percent);
    }
    if m.expected_only {
        return "announced, not seen yet".to_owned();
    }
    match m.want.as_str() {
        "nothing" => "-".to_owned(),
        want => format!("{want} asked for"),
    }
}

fn gist(m: &MachineView) -> String {
    m.hardware.as_ref().map_or_else(
        || "-".to_owned(),
        |h| format!("{} threads, {}, {} disks {}", h.threads, output::bytes(h.memory_bytes), h.disks, output::bytes(h.disk_bytes)),
    )
}

async fn show(client: &Client, machine: &str) -> Result<()> {
    let detail: MachineDetail = client.get(&["machines", machine], &[]).await?;
    if client.json {
        output::json(&detail);
        return Ok(());
    }
    let m = &detail.machine;
    output::facts(&[
        ("machine", m.name.to_string()),
        ("id", m.id.to_string()),
        ("state", format!("{} since {}", m.lifecycle, output::ago(m.lifecycle_since))),
        ("now", m.state.sentence.clone()),
        ("next", m.state.next.clone()),
        ("place", output::or_dash(m.place.as_ref())),
        ("serial", output::or_dash(m.serial.as_ref())),
        ("uuid", output::or_dash(m.uuid)),
        ("macs", m.macs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        ("firmware", format!("{} {}", output::or_dash(m.firmware), output::or_dash(m.arch))),
        ("hardware", gist(m)),
        ("image", output::or_dash(m.image.as_ref())),
        ("last seen", m.last_seen_at.map_or("never".to_owned(), output::ago)),
    ]);
    if let Some(bmc) = &detail.bmc {
        let power = output::or_dash(bmc.power);
        let seen = bmc.power_seen_at.map(|t| format!(", seen {}", output::ago(t))).unwrap_or_default();
        output::facts(&[
            ("BMC", format!("{} as {} ({})", bmc.address, bmc.user, output::or_dash(bmc.protocol))),
            ("power", format!("{power}{seen}")),
            ("BMC fault", bmc.fault.clone().unwrap_or_default()),
        ]);
    }
    if let Some(fault) = &m.fault {
        output::facts(&[("fault", fault.what.clone()), ("to do", fault.remedy.clone())]);
    }
    if let Some(run) = &detail.current_run {
        output::line("");
        output::line(&format!(
            "Run {} ({}), {}%, started {} by {}",
            run.kind,
            run.state,
            run.percent,
            output::ago(run.started_at),
            output::plain(&run.actor)
        ));
        output::table(&["step", "state", "took", "usually", "note"], run.steps.iter().map(step_row).collect());
    }
    if !detail.events.is_empty() {
        output::line("");
        let newest = detail.events.len().saturating_sub(10);
        output::table(
            &["when", "event", "what happened"],
            detail.events[newest..].iter().map(|e| vec![output::ago(e.at), e.kind.clone(), e.text.clone()]).collect(),
        );
    }
    Ok(())
}

fn step_row(s: &StepView) -> Vec<String> {
    let took = match (s.started_at, s.ended_at) {
        (Some(began), Some(ended)) => spoken(ended.since(began)),
        (Some(began), None) if s.state == StepState::Running => spoken(crate::clock::now().since(began)),
        _ => "-".to_owned(),
    };
    let progress = s.progress.map(|p| format!("{}% of {}. ", p.percent, output::bytes(p.total))).unwrap_or_default();
    vec![
        s.kind.to_string(),
        s.state.to_string(),
        took,
        s.usual_secs.map_or("-".to_owned(), |u| spoken(Duration::from_secs(u))),
        format!("{progress}{}", s.note),
    ]
}

async fn why(client: &Client, machine: &str) -> Result<()> {
    let detail: MachineDetail = client.get(&["machines", machine], &[]).await?;
    let m = &detail.machine;
    if client.json {
        output::json(m);
        return Ok(());
    }
    output::facts(&[
        ("machine", format!("{}, {}", m.name, m.lifecycle)),
        ("now", m.state.sentence.clone()),
        ("since", output::ago(m.state.since)),
        ("usually", m.state.usual_secs.map(|s| spoken(Duration::from_secs(s))).unwrap_or_default()),
        ("gives up", m.state.gives_up_at.map(until).unwrap_or_default()),
        ("next", m.state.next.clone()),
        ("decided", m.why.clone()),
        ("fault", m.fault.as_ref().map(|f| f.what.clone()).unwrap_or_default()),
        ("to do", m.fault.as_ref().map(|f| f.remedy.clone()).unwrap_or_default()),
    ]);
    output::line("");
    let rows = m.verbs.iter().map(|v| {
        let allowed = if v.allowed { "yes" } else { "no" };
        let reason = [v.reason.as_deref(), v.hint.as_deref()].into_iter().flatten().collect::<Vec<_>>().join("; ");
        vec![v.verb.to_string(), allowed.to_owned(), reason]
    });
    output::table(&["verb", "possible", "why not"], rows.collect());
    Ok(())
}

fn until(at: Timestamp) -> String {
    format!("in {}", spoken(at.since(crate::clock::now())))
}

async fn power(client: &Client, machine: &str, action: &str) -> Result<()> {
    if action == "status" {
        let reading: PowerReading = client.get(&["machines", machine, "power"], &[]).await?;
        if client.json {
            output::json(&reading);
        } else {
            output::line(&reading.power.to_string());
        }
        return Ok(());
    }
    let result: PowerResult = client.post(&["machines", machine, "power"], Some(&serde_json::json!({ "action": action }))).await?;
    if client.json {
        output::json(&result);
    } else {
        eprintln!("{}: {}", output::plain(machine), output::plain(&result.evidence));
    }
    Ok(())
}

async fn bmc(client: &Client, args: &BmcArgs) -> Result<()> {
    let password = match &args.password_file {
        None => None,
        Some(file) if file.as_os_str() == "-" => Some(crate::cli::token::ask_password("BMC password: ")?),
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .map_err(|e| CliError::Usage { what: format!("cannot read {}: {e}", file.display()), hint: String::new() })?;
            Some(text.trim_end_matches(['\r', '\n']).to_owned())
        }
    };
    let mut body = serde_json::json!({ "repin": args.repin });
    if let Some(address) = &args.address {
        body["address"] = address.to_string().into();
    }
    if let Some(user) = &args.user {
        body["user"] = user.as_str().into();
    }
    if let Some(password) = password {
        body["password"] = password.into();
    }
    let view: BmcView = client.put(&["machines", &args.machine, "bmc"], &body).await?;
    if client.json {
        output::json(&view);
    } else {
        eprintln!("{}: BMC {} as {}.", output::plain(&args.machine), view.address, output::plain(&view.user));
    }
    Ok(())
}

async fn boots(client: &Client, machine: &str) -> Result<()> {
    let boots: Vec<BootView> = client.get(&["machines", machine, "boots"], &[("limit", "10".to_owned())]).await?;
    if client.json {
        output::json(&boots);
        return Ok(());
    }
    for (i, boot) in boots.iter().enumerate() {
        if i > 0 {
            output::line("");
        }
        output::line(&format!("Boot of {} ({}), {}", boot.mac, output::or_dash(boot.client), output::ago(boot.started_at)));
        let rows = boot.marks.iter().map(|m| {
            let millis = m.first_at.since(boot.started_at).as_millis();
            vec![format!("+{}.{:03} s", millis / 1000, millis % 1000), m.stage.to_string(), format!("{}x", m.count), m.note.clone()]
        });
        output::table(&["at", "stage", "times", "note"], rows.collect());
    }
    Ok(())
}

async fn log(client: &Client, machine: &str, lines: u32) -> Result<()> {
    let log: Vec<LogLineView> = client.get(&["machines", machine, "log"], &[("limit", lines.to_string())]).await?;
    if client.json {
        output::json(&log);
        return Ok(());
    }
    for l in &log {
        output::line(&format!("{:10.3} {:5} {}", l.uptime_secs, output::plain(&l.level), output::plain(&l.text)));
    }
    Ok(())
}

/// Where a run of this kind ends.
pub(super) fn end_of(kind: RunKind) -> Lifecycle {
    match kind {
        RunKind::Enroll | RunKind::Release => Lifecycle::Ready,
        RunKind::Deploy => Lifecycle::Active,
    }
}
