//! `hostler demo`: the service and a simulated rack in one process, on loopback, with nothing else.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::agent::link::{LinkError, http_client};
use crate::clock;
use crate::domain::id::Name;
use crate::server::compose::{self, Service, StartError};
use crate::server::config::{CollectConfig, Config, DhcpMode, LogConfig, NetbootConfig, default_state};
use crate::server::shutdown::Ended;
use crate::server::state::local_token;
use crate::server::telemetry;
use crate::sim::boot_files::{self, BootFiles};
use crate::sim::dhcp::Uplink;
use crate::sim::fleet::{Fleet, FleetError, Plan};
use crate::sim::image;
use crate::sim::operator::{DEPLOYED, Operator, OperatorError, Survey};
use crate::sim::pace::Pace;

/// The relay agent of the simulated network, and the addresses its machines get. All of 127.0.0.0/8 is loopback.
const RELAY: Ipv4Addr = Ipv4Addr::new(127, 12, 0, 1);
const POOL: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(127, 12, 1, 1), Ipv4Addr::new(127, 12, 250, 254));
/// A refused power command is part of the show, not an error of the service.
const DEFAULT_LOG: &str = "error,hostler::http=off";
const IMAGE: &str = "demo-image";

#[derive(Args)]
#[command(
    after_help = "Examples:\n  hostler demo\n  hostler demo --machines 100 --speed 30\n  hostler demo --headless --until deployed | jq .machines"
)]
pub struct DemoArgs {
    /// Simulated machines in the rack
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u16).range(4..=2000), value_name = "N")]
    machines: u16,
    /// How many times faster than real machines the simulated ones are
    #[arg(long, default_value = "10", value_name = "X")]
    speed: Pace,
    /// Address and port of pages and API [default: 127.0.0.1:8080, or a free port when that is taken]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// Another seed is another rack
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// Print nothing but one JSON summary at the end
    #[arg(long, requires = "until")]
    headless: bool,
    /// When to stop; until Ctrl-C if absent
    #[arg(long, value_enum)]
    until: Option<Until>,
    /// With --until: give up after this long
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    timeout: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Until {
    /// Four machines run the system they were given
    Deployed,
}

#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error("cannot {doing}: {source}")]
    Io { doing: &'static str, source: io::Error },
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error(transparent)]
    Client(#[from] LinkError),
    #[error(transparent)]
    Operator(#[from] OperatorError),
    #[error("{0}")]
    Other(String),
}

fn io(doing: &'static str) -> impl FnOnce(io::Error) -> DemoError {
    move |source| DemoError::Io { doing, source }
}

/// What `--until` prints.
#[derive(Debug, Serialize, Deserialize)]
pub struct Summary {
    pub ok: bool,
    /// Why not.
    pub reason: Option<String>,
    pub total_secs: f64,
    pub speed: f64,
    pub seed: u64,
    /// Boot files that were placeholders because this computer has no real ones.
    pub placeholders: Vec<String>,
    #[serde(flatten)]
    pub survey: Survey,
}

/// Runs the demo to its end.
///
/// # Errors
/// When it cannot start, and when the rack does not get where `--until` says (the summary has the same reason).
pub async fn run(args: &DemoArgs) -> Result<(), DemoError> {
    let began = Instant::now();
    let level = std::env::var("HOSTLER__LOG__LEVEL").unwrap_or_else(|_| DEFAULT_LOG.to_owned());
    telemetry::start(&LogConfig { level: Some(level), ..LogConfig::default() }).map_err(DemoError::Other)?;
    let state = Scratch::make()?;
    let files = boot_files::put(&state.path.join("boot"), &default_state().join("boot")).map_err(io("put the boot files in place"))?;
    let ports = Ports::free().map_err(io("find free ports on 127.0.0.1"))?;
    let service = start(args, &state.path, &ports).await?;
    let uplink = Uplink {
        dhcp: SocketAddrV4::new(Ipv4Addr::LOCALHOST, ports.dhcp),
        pxe: Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, ports.pxe)),
        tftp_port: ports.tftp,
        relay: RELAY,
    };
    let plan = Plan { machines: usize::from(args.machines), seed: args.seed, pace: args.speed, uplink, odd: true };
    let fleet = Arc::new(Fleet::start(&plan).await?);
    let say = if args.headless { |_: &str| {} } else { |line: &str| println!("{line}") };
    if !args.headless {
        greet(args, &service, &state.path, &files);
    }
    let token = local_token(&state.path).ok_or_else(|| DemoError::Other("the service left no token in its state directory".to_owned()))?;
    let mut operator = Operator::new(http_client()?, service.url.clone(), token, Box::new(say));
    operator.step_down().await?;

    let done = CancellationToken::new();
    let deadline = args.until.map(|_| Duration::from_secs(args.timeout));
    let work = tokio::spawn(work(operator, fleet.clone(), deadline, done.clone()));
    let ended = service.run(done.cancelled()).await;
    let finished = if done.is_cancelled() {
        work.await.ok()
    } else {
        work.abort();
        None
    };
    let total_secs = (began.elapsed().as_secs_f64() * 1000.0).round() / 1000.0;
    let (reason, survey) = match (finished, ended) {
        (_, Ended::Badly(why)) => (Some(why), Survey::default()),
        (Some((reason, survey)), Ended::InOrder) => (reason, survey),
        (None, Ended::InOrder) => (args.until.map(|_| "it was interrupted".to_owned()), Survey::default()),
    };
    if args.until.is_some() {
        let placeholders = files.placeholders.iter().map(|name| (*name).to_owned()).collect();
        let summary = Summary {
            ok: reason.is_none(),
            reason: reason.clone(),
            total_secs,
            speed: args.speed.speed(),
            seed: args.seed,
            placeholders,
            survey,
        };
        let text = serde_json::to_string_pretty(&summary).map_err(|e| DemoError::Other(e.to_string()))?;
        println!("{text}");
    }
    reason.map_or(Ok(()), |reason| Err(DemoError::Other(reason)))
}

/// The demo's plot. With a deadline it ends with the rack deployed or the reason why not; else it goes on.
async fn work(operator: Operator, fleet: Arc<Fleet>, deadline: Option<Duration>, done: CancellationToken) -> (Option<String>, Survey) {
    let plot = plot(&operator, &fleet, deadline.is_none());
    let outcome = match deadline {
        Some(deadline) => tokio::time::timeout(deadline, plot).await.unwrap_or_else(|_| {
            Err(DemoError::Other(format!(
                "fewer than {DEPLOYED} machines were active after {} s; {}",
                deadline.as_secs(),
                consoles(&fleet)
            )))
        }),
        None => plot.await,
    };
    let (reason, survey) = match (outcome, operator.survey().await) {
        (outcome, Ok(survey)) => (outcome.err().map(|e| e.to_string()), survey),
        (Ok(()), Err(e)) | (Err(DemoError::Operator(e)), Err(_)) => (Some(e.to_string()), Survey::default()),
        (Err(e), Err(_)) => (Some(e.to_string()), Survey::default()),
    };
    done.cancel();
    (reason, survey)
}

async fn plot(operator: &Operator, fleet: &Fleet, go_on: bool) -> Result<(), DemoError> {
    let image: Name = IMAGE.parse().map_err(|e| DemoError::Other(format!("{e}")))?;
    operator.import_packing_list(fleet.packing_list()).await?;
    let bytes = image::raw_zst().await.map_err(io("make the demo image"))?;
    operator.import_image(&image, bytes).await?;
    let (powered, deployed) = tokio::join!(operator.power_up(), operator.accept_and_deploy(&image, DEPLOYED));
    powered?;
    deployed?;
    if go_on { Ok(operator.go_on_accepting().await?) } else { Ok(()) }
}

/// What the machines' consoles show, most frequent first: the reason when a rack does not come up.
fn consoles(fleet: &Fleet) -> String {
    let mut lines = std::collections::BTreeMap::<String, usize>::new();
    for (_, _, line) in fleet.consoles() {
        *lines.entry(line).or_default() += 1;
    }
    let mut lines: Vec<_> = lines.into_iter().collect();
    lines.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let shown: Vec<_> = lines.iter().take(6).map(|(line, count)| format!("{count} x {line:?}")).collect();
    format!("the consoles show {}", shown.join(", "))
}

fn greet(args: &DemoArgs, service: &Service, state: &Path, files: &BootFiles) {
    println!("Hostler demo: {} simulated machines, {} times faster than real ones.", args.machines, args.speed);
    println!();
    println!("  Page      {}/", service.url);
    if let Some(password) = &service.first_password {
        println!("  Log in    admin  {}", password.expose());
    }
    println!("  Terminal  HOSTLER__STATE={} hostler machine list", state.display());
    println!();
    if !files.placeholders.is_empty() {
        println!(
            "  This computer has no real {}: placeholders stand in, the simulated machines do not mind.",
            files.placeholders.join(", ")
        );
    }
    println!("  Everything runs on loopback and is gone after Ctrl-C.");
    println!();
}

/// Starts the service, on a free port when the usual one is taken and nobody asked for it.
async fn start(args: &DemoArgs, state: &Path, ports: &Ports) -> Result<Service, StartError> {
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
    match compose::start(&config(args, args.listen.unwrap_or(usual), state, ports)).await {
        Err(StartError::Listen { source, .. }) if args.listen.is_none() && source.kind() == io::ErrorKind::AddrInUse => {
            compose::start(&config(args, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), state, ports)).await
        }
        outcome => outcome,
    }
}

fn config(args: &DemoArgs, listen: SocketAddr, state: &Path, ports: &Ports) -> Config {
    // Simulated BMCs are not weak, and a visitor does not wait for a minute; a large rack is asked less often.
    let secs = (u32::from(args.machines) / 8).max(5);
    Config {
        collect: CollectConfig {
            power_secs: secs,
            sensors_secs: secs,
            logs_secs: secs * 2,
            parts_secs: secs * 4,
            sheet_secs: secs * 12,
            requests_per_minute: 600.0,
            ..CollectConfig::default()
        },
        listen,
        state: state.to_owned(),
        database: None,
        ready_power_off: true,
        log: LogConfig::default(),
        netboot: NetbootConfig {
            interface: Some(Ipv4Addr::LOCALHOST.to_string()),
            listen: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, ports.http))),
            dhcp: DhcpMode::Authoritative,
            range_start: Some(POOL.0),
            range_end: Some(POOL.1),
            dhcp_port: ports.dhcp,
            pxe_port: ports.pxe,
            tftp_port: ports.tftp,
            ..NetbootConfig::default()
        },
    }
}

/// Ports nobody uses now. Between here and their use another program could take one; then the start fails and says so.
struct Ports {
    http: u16,
    dhcp: u16,
    pxe: u16,
    tftp: u16,
}

impl Ports {
    fn free() -> io::Result<Self> {
        let http = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let udp = [(); 3].map(|()| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)));
        let [dhcp, pxe, tftp] = udp;
        let port = |socket: io::Result<UdpSocket>| socket.and_then(|s| s.local_addr().map(|a| (a.port(), s)));
        let (dhcp, pxe, tftp) = (port(dhcp)?, port(pxe)?, port(tftp)?);
        Ok(Self { http: http.local_addr()?.port(), dhcp: dhcp.0, pxe: pxe.0, tftp: tftp.0 })
    }
}

/// An empty private state directory that is gone with the demo.
struct Scratch {
    path: PathBuf,
}

impl Scratch {
    fn make() -> Result<Self, DemoError> {
        let path = std::env::temp_dir().join(format!("hostler-demo-{}", &clock::fresh_token()[..12]));
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(io("make a temporary state directory"))?;
        Ok(Self { path })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_dir_all(&self.path) {
            eprintln!("hostler: {} could not be removed: {e}", self.path.display());
        }
    }
}
