//! `hostler sim`: a simulated rack alone, for a service in another process: load runs, training, memory measurements.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use crate::sim::control::{self, ControlError};
use crate::sim::dhcp::Uplink;
use crate::sim::fleet::{Fleet, FleetError, Plan};
use crate::sim::pace::Pace;

#[derive(Args)]
#[command(
    after_help = "The service's netboot.interface must be a loopback address, with DHCP on these ports. Example:\n  hostler sim --machines 100 --dhcp 127.0.0.1:6767 --tftp-port 6969 --list rack.csv\n  hostler racks import rack.csv"
)]
pub struct SimArgs {
    /// Simulated machines
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u16).range(1..=5000), value_name = "N")]
    machines: u16,
    /// How many times faster than real machines the simulated ones are
    #[arg(long, default_value = "10", value_name = "X")]
    speed: Pace,
    /// Another seed is another rack
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// The service's DHCP server
    #[arg(long, value_name = "ADDRESS:PORT")]
    dhcp: SocketAddrV4,
    /// The service's second proxyDHCP port, when it runs beside another DHCP server
    #[arg(long, value_name = "ADDRESS:PORT")]
    pxe: Option<SocketAddrV4>,
    /// The service's TFTP port
    #[arg(long, default_value_t = 69, value_name = "PORT")]
    tftp_port: u16,
    /// Address of the machines' relay agent, in the loopback network and in the DHCP server's subnet
    #[arg(long, default_value = "127.12.0.1", value_name = "ADDRESS")]
    relay: Ipv4Addr,
    /// Where to write the packing list with the BMCs' addresses and passwords
    #[arg(long, value_name = "FILE")]
    list: PathBuf,
    /// Where to write how `hostler sim fault` reaches this rack
    #[arg(long, value_name = "FILE")]
    control: Option<PathBuf>,
    /// Power every machine on now, as by hand
    #[arg(long)]
    power_on: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum SimError {
    #[error(transparent)]
    Control(#[from] ControlError),
    #[error(transparent)]
    Fleet(#[from] FleetError),
    #[error("cannot write the packing list {}: {source}", path.display())]
    List { path: PathBuf, source: io::Error },
    #[error("cannot wait for Ctrl-C: {0}")]
    Signal(io::Error),
}

/// Runs the rack until Ctrl-C.
///
/// # Errors
/// When a BMC's port cannot be opened or the list cannot be written.
pub async fn run(args: &SimArgs) -> Result<(), SimError> {
    let uplink = Uplink { dhcp: args.dhcp, pxe: args.pxe, tftp_port: args.tftp_port, relay: args.relay, door: None };
    let plan = Plan { machines: usize::from(args.machines), seed: args.seed, pace: args.speed, uplink, odd: false };
    let fleet = Arc::new(Fleet::start(&plan).await?);
    write_private(&args.list, &fleet.packing_list()).map_err(|source| SimError::List { path: args.list.clone(), source })?;
    let _control = match &args.control {
        Some(file) => Some(control::start(Arc::clone(&fleet), file).await?),
        None => None,
    };
    if args.power_on {
        fleet.power_on_all();
    }
    println!("{} machines, packing list in {}; Ctrl-C ends it.", args.machines, args.list.display());
    tokio::signal::ctrl_c().await.map_err(SimError::Signal)
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())
}
