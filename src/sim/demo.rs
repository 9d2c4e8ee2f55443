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
use crate::server::config::{CollectConfig, Config, DhcpMode, KeepConfig, LogConfig, NetbootConfig, default_state};
use crate::server::shutdown::Ended;
use crate::server::state::local_token;
use crate::server::telemetry;
use crate::sim::boot_files::{self, BootFiles};
use crate::sim::control::{self, ControlError};
use crate::sim::dhcp::{Door, Uplink};
use crate::sim::fleet::{Fleet, FleetError, Plan};
use crate::sim::image;
use crate::sim::operator::{DEPLOYED, Operator, OperatorError, Survey, Wish};
use crate::sim::pace::Pace;
use crate::sim::vm::needs::{Found, Places};
use crate::sim::vm::{self, Vms};

/// The relay agent of the simulated network, and the addresses its machines get. All of 127.0.0.0/8 is loopback.
const RELAY: Ipv4Addr = Ipv4Addr::new(127, 12, 0, 1);
const POOL: (Ipv4Addr, Ipv4Addr) = (Ipv4Addr::new(127, 12, 1, 1), Ipv4Addr::new(127, 12, 250, 254));
/// A refused power command is part of the show, not an error of the service.
const DEFAULT_LOG: &str = "error,hostler::http=off";
const IMAGE: &str = "demo-image";

#[derive(Args)]
#[command(
    after_help = "Examples:\n  hostler demo\n  hostler demo --machines 100 --speed 30\n  hostler demo --vms 2 --pxe target/pxe\n  hostler demo --headless --until deployed | jq .machines"
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
    /// With --until: give up after this long [default: 120, with --vms 900]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Real virtual machines beside the simulated ones: QEMU with real firmware, without root
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=16), value_name = "N")]
    vms: Option<u16>,
    /// Kernel and ramdisk for them, as pxe/build makes them [default: those of hostler netboot setup, else target/pxe]
    #[arg(long, requires = "vms", value_name = "DIR")]
    pxe: Option<PathBuf>,
    /// Disk image for them [default: target/images/tiny.raw.zst, else debian-12.raw.zst there]
    #[arg(long, requires = "vms", value_name = "FILE")]
    vm_image: Option<PathBuf>,
}

impl DemoArgs {
    fn deadline(&self) -> Option<Duration> {
        let usual = if self.vms.is_some() { 900 } else { 120 };
        self.until.map(|_| Duration::from_secs(self.timeout.unwrap_or(usual)))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Until {
    /// Four simulated machines and all virtual ones run the system they were given
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
    Control(#[from] ControlError),
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
    let for_vms = args.vms.map(|_| for_vms(args)).transpose()?;
    let state = Scratch::make()?;
    let built = for_vms.as_ref().map_or_else(|| default_state().join("boot"), |f| f.found.ramdisk_dir.clone());
    let files = boot_files::put(&state.path.join("boot"), &built).map_err(io("put the boot files in place"))?;
    let ports = Ports::free().map_err(io("find free ports on 127.0.0.1"))?;
    let service = start(args, &state.path, &ports).await?;
    let uplink = Uplink {
        dhcp: at(ports.dhcp),
        pxe: Some(at(ports.pxe)),
        tftp_port: ports.tftp,
        relay: RELAY,
        // Virtual machines cannot use an address of the loopback network, so all machines know the service by another.
        door: for_vms.as_ref().map(|_| Door { known_as: vm::LAN.router, http: at(ports.http) }),
    };
    let plan = Plan { machines: usize::from(args.machines), seed: args.seed, pace: args.speed, uplink, odd: true };
    let fleet = Arc::new(Fleet::start(&plan).await?);
    let _control = control::start(Arc::clone(&fleet), &state.path.join(control::FILE)).await?;
    let mut rack = Rack { fleet, vms: None, vm_image: Err(String::new()) };
    if let (Some(machines), Some(ForVms { found, image })) = (args.vms, for_vms) {
        let (dhcp, tftp, http) = (at(ports.dhcp), at(ports.tftp), at(ports.http));
        let plan = vm::Plan { machines, tools: found.tools, dir: state.path.join("vms"), dhcp, tftp, http };
        rack.vms = Some(Vms::start(&plan).await.map_err(io("make the virtual machines"))?);
        rack.vm_image = image;
    }
    let rack = Arc::new(rack);
    let say = if args.headless { |_: &str| {} } else { |line: &str| println!("{line}") };
    if !args.headless {
        greet(args, &service, &state.path, &files, &rack);
    }
    let token = local_token(&state.path).ok_or_else(|| DemoError::Other("the service left no token in its state directory".to_owned()))?;
    let mut operator = Operator::new(http_client()?, service.url.clone(), token, Box::new(say));
    operator.step_down().await?;

    let done = CancellationToken::new();
    let work = tokio::spawn(work(operator, rack.clone(), args.deadline(), done.clone()));
    let ended = service.run(done.cancelled()).await;
    let finished = if done.is_cancelled() {
        work.await.ok()
    } else {
        work.abort();
        None
    };
    if let Some(vms) = &rack.vms {
        vms.stop().await;
    }
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
async fn work(operator: Operator, rack: Arc<Rack>, deadline: Option<Duration>, done: CancellationToken) -> (Option<String>, Survey) {
    let plot = plot(&operator, &rack, deadline.is_none());
    let outcome = match deadline {
        Some(deadline) => tokio::time::timeout(deadline, plot).await.unwrap_or_else(|_| {
            Err(DemoError::Other(format!(
                "fewer than {DEPLOYED} machines were active after {} s{}; {}",
                deadline.as_secs(),
                if rack.vms.is_some() { ", or not all virtual ones" } else { "" },
                rack.consoles()
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

async fn plot(operator: &Operator, rack: &Rack, go_on: bool) -> Result<(), DemoError> {
    let image: Name = IMAGE.parse().map_err(|e| DemoError::Other(format!("{e}")))?;
    operator.import_packing_list(rack.packing_list()).await?;
    let bytes = image::raw_zst().await.map_err(io("make the demo image"))?;
    operator.import_image(&image, bytes).await?;
    let simulated = |name: &Name| rack.vms.as_ref().is_none_or(|vms| !vms.has(name));
    let virtual_ = |name: &Name| !simulated(name);
    let mut wishes = vec![Wish { image: &image, wanted: DEPLOYED, may_take: &simulated }];
    let vm_image = rack.vm_image.as_ref().ok().map(|file| (file, image_name(file)));
    if let (Some(vms), Some((file, name))) = (&rack.vms, &vm_image) {
        let file = tokio::fs::File::open(file).await.map_err(io("open the virtual machines' image"))?;
        operator.import_image(name, file).await?;
        wishes.push(Wish { image: name, wanted: vms.iter().count(), may_take: &virtual_ });
    }
    let (powered, deployed) = tokio::join!(operator.power_up(), operator.accept_and_deploy(&wishes));
    powered?;
    deployed?;
    if go_on { Ok(operator.go_on_accepting().await?) } else { Ok(()) }
}

/// `debian-12` of `target/images/debian-12.raw.zst`.
fn image_name(file: &Path) -> Name {
    let stem = file.file_name().and_then(|n| n.to_str()).and_then(|n| n.split('.').next()).unwrap_or_default();
    Name::nearest(&format!("vm-{stem}")).unwrap_or_else(|| unreachable!("it begins with vm"))
}

/// The machines: simulated ones, and virtual ones beside them.
struct Rack {
    fleet: Arc<Fleet>,
    vms: Option<Vms>,
    /// What the virtual ones get, or the sentence that says how to have one.
    vm_image: Result<PathBuf, String>,
}

impl Rack {
    fn packing_list(&self) -> String {
        let lines = self.vms.as_ref().map(Vms::packing_lines).unwrap_or_default();
        self.fleet.packing_list() + &lines
    }

    /// What the consoles show, most frequent first: the reason when a rack does not come up.
    fn consoles(&self) -> String {
        let mut lines = std::collections::BTreeMap::<String, usize>::new();
        for (_, _, line) in self.fleet.consoles() {
            *lines.entry(line).or_default() += 1;
        }
        let mut lines: Vec<_> = lines.into_iter().collect();
        lines.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let simulated = lines.iter().take(6).map(|(line, count)| format!("{count} x {line:?}"));
        let virtual_ = self.vms.iter().flat_map(Vms::iter).map(|vm| format!("{} {:?}", vm.spec.name, vm.console().last_line()));
        format!("the consoles show {}", simulated.chain(virtual_).collect::<Vec<_>>().join(", "))
    }
}

struct ForVms {
    found: Found,
    image: Result<PathBuf, String>,
}

/// Looks for what virtual machines need. Without an image they are still discovered and enrolled, unless a script waits for more.
fn for_vms(args: &DemoArgs) -> Result<ForVms, DemoError> {
    let places = Places::real();
    let found = places.look(args.pxe.as_deref());
    let image = places.image(args.vm_image.as_deref());
    let mut missing = found.as_ref().err().cloned().unwrap_or_default();
    if let Err(why) = &image
        && (args.until.is_some() || args.vm_image.is_some())
    {
        missing.push(why.clone());
    }
    match found {
        Ok(found) if missing.is_empty() => Ok(ForVms { found, image }),
        Ok(_) | Err(_) => Err(DemoError::Other(format!("--vms cannot be done here. {}", missing.join(" ")))),
    }
}

fn at(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)
}

fn greet(args: &DemoArgs, service: &Service, state: &Path, files: &BootFiles, rack: &Rack) {
    println!("Hostler demo: {} simulated machines, {} times faster than real ones.", args.machines, args.speed);
    println!();
    println!("  Page      {}/", service.url);
    if let Some(password) = &service.first_password {
        println!("  Log in    admin  {}", password.expose());
    }
    println!("  Terminal  HOSTLER__STATE={} hostler machine list", state.display());
    println!("  Break it  HOSTLER__STATE={} hostler sim fault r12-u03 part-failed Fan2", state.display());
    println!();
    if !files.placeholders.is_empty() {
        println!(
            "  This computer has no real {}: placeholders stand in, the simulated machines do not mind.",
            files.placeholders.join(", ")
        );
    }
    if let Some(vms) = &rack.vms {
        for vm in vms.iter() {
            println!("  {}      {} virtual machine, console in {}", vm.spec.name, vm.spec.firmware, vm.console().path().display());
        }
        if let Err(why) = &rack.vm_image {
            println!("  {why} Until then virtual machines are only enrolled.");
        }
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
        keep: KeepConfig::default(),
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
            url: args.vms.map(|_| vm::url()),
            server_address: args.vms.map(|_| vm::LAN.router),
            subnets: args.vms.iter().map(|_| vm::SUBNET).collect(),
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
