//! Puts the provisioning side together: boot files, desk, DHCP, TFTP, and the HTTP listener for machines.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;

use crate::app::boot::Desk;
use crate::app::intake::Intake;
use crate::http;
use crate::http::boot::BootRoutes;
use crate::netboot::boot_files::{self, BootFiles, BootFilesError};
use crate::netboot::desk::DeskSettings;
use crate::netboot::dhcp::{DhcpConfig, DhcpMode, DhcpServer, DhcpStartError};
use crate::netboot::leases::Subnet;
use crate::netboot::peers::Peers;
use crate::netboot::socket::{Interface, InterfaceError};
use crate::netboot::tftp::{TftpConfig, TftpServer};
use crate::server::config::{Config, DEFAULT_NETBOOT_PORT, DhcpMode as Wanted, NetbootConfig, RelayedSubnet};
use crate::server::shutdown::Tasks;
use crate::store::{Store, StoreError};
use crate::wire::ipxe::ServerUrl;

#[derive(Debug, thiserror::Error)]
pub enum NetbootError {
    #[error(transparent)]
    Interface(#[from] InterfaceError),
    #[error(transparent)]
    BootFiles(#[from] BootFilesError),
    #[error(transparent)]
    Dhcp(#[from] DhcpStartError),
    #[error("cannot open the TFTP port {port}: {source}; ports below 1024 need root or CAP_NET_BIND_SERVICE")]
    Tftp { port: u16, source: std::io::Error },
    #[error("cannot listen on {address} for machines that boot: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("{0}")]
    Url(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Where machines reach us, known before anything is opened: deployed systems are told to call there.
pub struct Place {
    pub listen: SocketAddr,
    pub url: ServerUrl,
    interface: Option<Interface>,
}

impl Place {
    /// `None` when no provisioning network is configured.
    ///
    /// # Errors
    /// An interface that is not there; a listener without an address machines could use.
    pub fn of(config: &NetbootConfig) -> Result<Option<Self>, NetbootError> {
        let interface = config.interface.as_deref().map(Interface::find).transpose()?;
        let listen = match (config.listen, &interface) {
            (Some(listen), _) => listen,
            (None, Some(interface)) => SocketAddr::from((interface.address, DEFAULT_NETBOOT_PORT)),
            (None, None) => return Ok(None),
        };
        let url = match (&config.url, &interface) {
            (Some(url), _) => url.clone(),
            (None, Some(interface)) if listen.ip().is_unspecified() => {
                format!("http://{}", SocketAddrV4::new(interface.address, listen.port()))
            }
            (None, None) if listen.ip().is_unspecified() => {
                return Err(NetbootError::Url(format!(
                    "netboot.listen is {listen}, which no machine can fetch from; name netboot.interface or netboot.url"
                )));
            }
            (None, _) => format!("http://{listen}"),
        };
        let url = url.parse::<ServerUrl>().map_err(|e| NetbootError::Url(e.to_string()))?;
        Ok(Some(Self { listen, url, interface }))
    }
}

/// Starts the listener for machines, TFTP and DHCP, as far as they are configured. Returns the listener's address.
pub async fn start(config: &Config, place: &Place, store: &Store, tasks: &mut Tasks) -> Result<SocketAddr, NetbootError> {
    let boot_dir = config.state.join("boot");
    let files = boot_files(&boot_dir)?;
    let settings = DeskSettings { discover: config.netboot.discover, ..DeskSettings::new(place.url.clone()) };
    let peers = Peers::new(store.clone(), config.netboot.dhcp == Wanted::Authoritative);
    let desk = Desk::new(store.clone(), settings, files, peers.clone());
    let routes = BootRoutes { desk: desk.clone(), boot_dir: Arc::new(boot_dir), artifact_dir: Arc::new(config.state.join("artifacts")) };
    let router = http::machine_router(Intake::new(store.clone(), peers), routes);
    let address = listen(place.listen, router, tasks).await?;
    if let Some(interface) = &place.interface {
        let desk = Arc::new(desk);
        start_tftp(config, interface, Arc::clone(&desk), tasks)?;
        start_dhcp(config, place, interface, desk, store, tasks).await?;
    }
    tracing::info!(url = %place.url, dhcp = ?config.netboot.dhcp, "machines boot from here");
    Ok(address)
}

async fn listen(address: SocketAddr, router: Router, tasks: &mut Tasks) -> Result<SocketAddr, NetbootError> {
    let listener = TcpListener::bind(address).await.map_err(|source| NetbootError::Listen { address, source })?;
    let bound = listener.local_addr().map_err(|source| NetbootError::Listen { address, source })?;
    tasks.spawn("netboot http", http::listen::run(listener, router, tasks.stop()));
    Ok(bound)
}

/// The boot files as recorded; set up now when they never were.
fn boot_files(boot_dir: &Path) -> Result<BootFiles, NetbootError> {
    let files = match boot_files::load(boot_dir) {
        Err(BootFilesError::NotSetUp { .. }) => {
            for file in boot_files::set_up(boot_dir, Path::new(boot_files::IPXE_DIR), None)? {
                tracing::info!(file = file.name, bytes = file.size, sha256 = %file.sha256, "boot file set up");
            }
            boot_files::load(boot_dir)?
        }
        other => other?,
    };
    if !boot_files::has_ramdisk(boot_dir) {
        tracing::warn!(
            "there is no ramdisk yet, so machines come no further than iPXE; make it: pxe/build OUT, then hostler netboot setup --pxe OUT"
        );
    }
    Ok(files)
}

fn start_tftp(config: &Config, interface: &Interface, desk: Arc<Desk>, tasks: &mut Tasks) -> Result<(), NetbootError> {
    let port = config.netboot.tftp_port;
    let listen =
        if interface.loopback { SocketAddrV4::new(interface.address, port) } else { SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port) };
    let tftp = TftpConfig { listen, device: interface.device().map(str::to_owned), ..TftpConfig::default() };
    let server = TftpServer::bind(tftp).map_err(|source| NetbootError::Tftp { port, source })?;
    let stop = tasks.stop();
    tasks.spawn("tftp", async move {
        if let Err(e) = server.run(desk, stop).await {
            tracing::error!(error = %e, "the TFTP server failed");
        }
    });
    Ok(())
}

async fn start_dhcp(
    config: &Config,
    place: &Place,
    interface: &Interface,
    desk: Arc<Desk>,
    store: &Store,
    tasks: &mut Tasks,
) -> Result<(), NetbootError> {
    let net = &config.netboot;
    let mode = match net.dhcp {
        Wanted::Off => return Ok(()),
        Wanted::Proxy => DhcpMode::Proxy,
        Wanted::Authoritative => {
            let (Some(first), Some(last)) = (net.range_start, net.range_end) else {
                return Err(NetbootError::Url("authoritative DHCP needs netboot.range_start and netboot.range_end".to_owned()));
            };
            let mask = u32::from(interface.mask);
            let own = RelayedSubnet {
                network: Ipv4Addr::from(u32::from(interface.address) & mask),
                prefix: u8::try_from(mask.leading_ones()).unwrap_or(24),
                range_start: first,
                range_end: last,
                router: net.router,
            };
            let subnets = [own].iter().chain(&net.subnets).map(|s| subnet(s, net)).collect();
            let reservations = net.reservations.iter().map(|r| (r.mac, r.address)).collect();
            DhcpMode::Authoritative { subnets, reservations }
        }
    };
    let leases = store.dhcp_leases().await?;
    let dhcp = DhcpConfig {
        server: net.server_address.unwrap_or(interface.address),
        server_port: net.dhcp_port,
        pxe_port: net.pxe_port,
        ..DhcpConfig::new(interface.clone(), mode, place.url.clone())
    };
    let server = DhcpServer::bind(dhcp, desk, leases)?;
    tasks.spawn("dhcp", server.run(tasks.stop()));
    Ok(())
}

fn subnet(of: &RelayedSubnet, net: &NetbootConfig) -> Subnet {
    Subnet {
        network: of.network,
        prefix: of.prefix,
        pool: of.range_start..=of.range_end,
        routers: of.router.into_iter().collect(),
        dns: net.dns.clone(),
        domain: None,
        lease: Duration::from_secs(u64::from(net.lease_secs)),
    }
}
