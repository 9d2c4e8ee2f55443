//! `hostler sim`: a simulated rack, single BMCs, recorded trees, and what can be made to happen to them.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use crate::cli::{CliError, Global, Result, output, serve};
use crate::server::config::default_state;
use crate::sim::bench::Bench;
use crate::sim::bmc::board::firmware::FirmwareFile;
use crate::sim::bmc::{RedfishFront, Setup, SimBmc, Strike};
use crate::sim::control::{Access, Breakable, FILE, MachineLine};
use crate::sim::pace::Pace;
use crate::sim::replay::{self, ReplayArgs};
use crate::sim::standalone::{self, SimArgs};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(super) struct SimCommand {
    #[command(subcommand)]
    verb: Option<SimVerb>,
    #[command(flatten)]
    rack: Option<SimArgs>,
}

#[derive(Subcommand)]
enum SimVerb {
    /// Serve a recorded Redfish tree as a machine
    Replay(ReplayArgs),
    /// Serve one simulated BMC alone, to try a client on
    Bmc(BmcArgs),
    /// List the machines of a running rack
    List(ControlArgs),
    /// List what can be broken in a machine
    Parts {
        #[command(flatten)]
        control: ControlArgs,
        /// Name, serial, MAC or number
        machine: String,
    },
    /// Make something happen to a machine of a running rack
    #[command(
        after_help = "Examples:\n  hostler sim fault r12-u03 drift InletTemp 44 --secs 60\n  hostler sim fault r12-u03 part-failed PSU1\n  hostler sim fault r12-u03 bmc-reset 120\n  hostler sim fault r12-u03 mend"
    )]
    Fault {
        #[command(flatten)]
        control: ControlArgs,
        /// Name, serial, MAC or number
        machine: String,
        #[command(subcommand)]
        strike: Strike,
    },
    /// Write an update package that simulated machines take
    FirmwareFile {
        file: PathBuf,
        /// As the BMC tells it, for example "PowerEdge R650"
        #[arg(long)]
        model: String,
        /// Id in the firmware inventory, for example BIOS or BMC
        #[arg(long)]
        component: String,
        /// The version that the file brings
        #[arg(long)]
        new_version: String,
        #[arg(long, default_value_t = 1 << 20, value_name = "BYTES")]
        size: usize,
    },
}

#[derive(Args)]
struct ControlArgs {
    /// Control file of the rack [default: sim.json in the state directory of a demo]
    #[arg(long, value_name = "FILE")]
    control: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Maker {
    Dell,
    Hpe,
    Lenovo,
    /// An old tree: Thermal, Power, SimpleStorage
    Supermicro,
}

#[derive(Args)]
struct BmcArgs {
    #[arg(long, value_enum, default_value = "dell")]
    maker: Maker,
    /// Another seed is another machine
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    #[arg(long, default_value = "admin")]
    user: String,
    #[arg(long, default_value = "password")]
    password: String,
    /// How many times faster than real ones its updates and restarts are
    #[arg(long, default_value = "10", value_name = "X")]
    speed: Pace,
    /// HTTP instead of HTTPS with a self-signed certificate
    #[arg(long)]
    http: bool,
}

pub(super) fn run(global: &Global, command: SimCommand) -> Result<()> {
    let runtime = serve::runtime()?;
    match (command.verb, command.rack) {
        (None, Some(rack)) => runtime.block_on(standalone::run(&rack)).map_err(|e| serve::failed(&e)),
        (None, None) => Err(CliError::Usage { what: "say what to simulate".to_owned(), hint: "hostler sim --help".to_owned() }),
        (Some(SimVerb::Replay(args)), _) => runtime.block_on(replay::run(&args)).map_err(|e| serve::failed(&e)),
        (Some(SimVerb::Bmc(args)), _) => runtime.block_on(bmc(&args)),
        (Some(SimVerb::List(control)), _) => runtime.block_on(list(global, &control)),
        (Some(SimVerb::Parts { control, machine }), _) => runtime.block_on(parts(global, &control, &machine)),
        (Some(SimVerb::Fault { control, machine, strike }), _) => runtime.block_on(fault(global, &control, &machine, &strike)),
        (Some(SimVerb::FirmwareFile { file, model, component, new_version: version, size }), _) => {
            let bytes = FirmwareFile { component, model, version }.bytes(size);
            std::fs::write(&file, bytes)
                .map_err(|e| CliError::Failed { what: format!("cannot write {}: {e}", file.display()), hint: String::new() })
        }
    }
}

async fn bmc(args: &BmcArgs) -> Result<()> {
    let maker = match args.maker {
        Maker::Dell => "Dell Inc.",
        Maker::Hpe => "HPE",
        Maker::Lenovo => "Lenovo",
        Maker::Supermicro => "Supermicro",
    };
    let failed = |what: String| CliError::Failed { what, hint: String::new() };
    let bench = Bench::of(maker, args.seed).ok_or_else(|| failed(format!("no machine of {maker} with the seed {}", args.seed)))?;
    let redfish = Some(if args.http { RedfishFront::Http } else { RedfishFront::Https });
    let setup = Setup { redfish, pace: args.speed, session_cap: 16, ..Setup::new(&args.user, &args.password) };
    let product = bench.hardware().product().to_owned();
    let bmc = SimBmc::start(bench, setup).await.map_err(|e| failed(format!("cannot open the BMC: {e}")))?;
    for address in [bmc.redfish_address(), bmc.ipmi_address()].into_iter().flatten() {
        output::line(&format!("{product} at {address}"));
    }
    output::line(&format!("user {}, password {}; Ctrl-C ends it.", args.user, args.password));
    tokio::signal::ctrl_c().await.map_err(|e| failed(format!("cannot wait for Ctrl-C: {e}")))
}

/// The controls of the rack, as its control file says.
struct Controls {
    access: Access,
    http: reqwest::Client,
}

impl Controls {
    fn open(global: &Global, args: &ControlArgs) -> Result<Self> {
        let file = args.control.clone().unwrap_or_else(|| global.state.clone().unwrap_or_else(default_state).join(FILE));
        let unreadable = |why: String| CliError::Usage {
            what: format!("cannot read the rack's control file {}: {why}", file.display()),
            hint: "a demo shows its state directory when it starts; hostler sim --control FILE writes one".to_owned(),
        };
        let text = std::fs::read_to_string(&file).map_err(|e| unreadable(e.to_string()))?;
        let access = serde_json::from_str(&text).map_err(|e| unreadable(e.to_string()))?;
        let http = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).build();
        let http = http.map_err(|e| CliError::Failed { what: format!("cannot set up the HTTP client: {e}"), hint: String::new() })?;
        Ok(Self { access, http })
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response> {
        let url = &self.access.url;
        let unreachable = |e: reqwest::Error| CliError::Unreachable { url: url.clone(), why: e.to_string() };
        let response = request.bearer_auth(&self.access.token).send().await.map_err(unreachable)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let why = response.text().await.unwrap_or_default();
        Err(CliError::Failed {
            what: output::plain(&why),
            hint: "hostler sim list and hostler sim parts MACHINE say what there is".to_owned(),
        })
    }

    async fn get<T: serde::de::DeserializeOwned>(&self, path: &[&str]) -> Result<T> {
        let response = self.send(self.http.get(self.url(path)?)).await?;
        response.json().await.map_err(|e| CliError::Failed { what: format!("the rack answered nonsense: {e}"), hint: String::new() })
    }

    fn url(&self, path: &[&str]) -> Result<reqwest::Url> {
        let bad = || CliError::Usage { what: format!("{:?} in the control file is no URL", self.access.url), hint: String::new() };
        let mut url = reqwest::Url::parse(&self.access.url).map_err(|_| bad())?;
        url.path_segments_mut().map_err(|()| bad())?.extend(path);
        Ok(url)
    }
}

async fn list(global: &Global, control: &ControlArgs) -> Result<()> {
    let machines: Vec<MachineLine> = Controls::open(global, control)?.get(&["machines"]).await?;
    if global.json {
        output::json(&machines);
        return Ok(());
    }
    let row = |m: &MachineLine| {
        let power = format!("{:?}", m.power).to_lowercase();
        vec![m.name.clone(), m.serial.clone(), m.bmc.clone(), power, output::plain(&m.console)]
    };
    output::table(&["name", "serial", "bmc", "power", "console"], machines.iter().map(row).collect());
    Ok(())
}

async fn parts(global: &Global, control: &ControlArgs, machine: &str) -> Result<()> {
    let parts: Vec<Breakable> = Controls::open(global, control)?.get(&["machines", machine, "parts"]).await?;
    if global.json {
        output::json(&parts);
        return Ok(());
    }
    output::table(&["id", "name", "kind", "now"], parts.into_iter().map(|p| vec![p.id, p.name, p.kind, p.now]).collect());
    Ok(())
}

async fn fault(global: &Global, control: &ControlArgs, machine: &str, strike: &Strike) -> Result<()> {
    let controls = Controls::open(global, control)?;
    let url = controls.url(&["machines", machine, "faults"])?;
    controls.send(controls.http.post(url).json(strike)).await.map(drop)
}
