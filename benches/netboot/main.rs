//! Server and load side of the netboot benches: our TFTP and DHCP servers without the rest of the service, and the TFTP
//! load client that is used against every server alike. Driven by `benches/run`.
//!
//! ```text
//! netboot serve-tftp ADDRESS:PORT FILE...          until SIGTERM or end of standard input
//! netboot serve-dhcp INTERFACE NETWORK/PREFIX FIRST-LAST STATE-DIR
//! netboot load-tftp ADDRESS:PORT FILE --clients N --fetches N --blksize N --windowsize N
//! ```

mod load;

use std::collections::HashMap;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hostler::decide::boot::Loader;
use hostler::netboot::boot_files::BootFiles;
use hostler::netboot::desk::{Desk, DeskSettings};
use hostler::netboot::dhcp::{DhcpConfig, DhcpMode, DhcpServer};
use hostler::netboot::leases::Subnet;
use hostler::netboot::peers::Peers;
use hostler::netboot::socket::Interface;
use hostler::netboot::tftp::{TftpConfig, TftpEvent, TftpFiles, TftpRefusal, TftpServer};
use hostler::store::{Store, StoreConfig};
use tokio_util::sync::CancellationToken;

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Outcome {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["serve-tftp", listen, files @ ..] => run(serve_tftp(listen.parse()?, files)),
        ["serve-dhcp", interface, network, pool, state] => run(serve_dhcp(interface, network, pool, Path::new(state))),
        ["load-tftp", at, file, options @ ..] => load::run(at.parse()?, Path::new(file), options),
        _ => Err("see the head of benches/netboot/main.rs for the commands".into()),
    }
}

fn run(work: impl Future<Output = Outcome>) -> Outcome {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(work)
}

/// Ends when the bench script closes our standard input or dies.
fn stop_with_stdin() -> CancellationToken {
    let stop = CancellationToken::new();
    let theirs = stop.clone();
    std::thread::spawn(move || {
        let mut nothing = [0; 64];
        while std::io::stdin().read(&mut nothing).is_ok_and(|n| n > 0) {}
        theirs.cancel();
    });
    stop
}

struct Shelf(HashMap<String, Bytes>);

impl TftpFiles for Shelf {
    async fn open(&self, _peer: SocketAddrV4, name: &str) -> Result<Bytes, TftpRefusal> {
        self.0.get(name).cloned().ok_or(TftpRefusal::NotFound)
    }

    fn note(&self, _event: TftpEvent) {}
}

async fn serve_tftp(listen: SocketAddrV4, files: &[&str]) -> Outcome {
    let mut shelf = HashMap::new();
    for file in files {
        let name = Path::new(file).file_name().and_then(|n| n.to_str()).ok_or("a file without a name")?;
        shelf.insert(name.to_owned(), Bytes::from(std::fs::read(file)?));
    }
    let server = TftpServer::bind(TftpConfig { listen, ..TftpConfig::default() })?;
    println!("ready {}", server.local_addr()?);
    server.run(Arc::new(Shelf(shelf)), stop_with_stdin()).await?;
    Ok(())
}

async fn serve_dhcp(interface: &str, network: &str, pool: &str, state: &Path) -> Outcome {
    let (network, prefix) = network.split_once('/').ok_or("write the network as ADDRESS/PREFIX")?;
    let (first, last) = pool.split_once('-').ok_or("write the pool as FIRST-LAST")?;
    let interface = Interface::find(interface)?;
    let store = Store::open(&StoreConfig::Sqlite { path: state.join("hostler.db") }).await?;
    let http: hostler::wire::ipxe::ServerUrl = SocketAddrV4::new(interface.address, 8081).into();
    let files = BootFiles::from_loaders(Loader::ALL.map(|l| (l, Bytes::new())));
    let desk = Desk::new(store.clone(), DeskSettings::new(http.clone()), files, Peers::new(store.clone(), true));
    let subnet = Subnet {
        network: network.parse::<Ipv4Addr>()?,
        prefix: prefix.parse()?,
        pool: first.parse()?..=last.parse()?,
        routers: vec![],
        dns: vec![],
        domain: None,
        lease: Duration::from_secs(12 * 3600),
    };
    let mode = DhcpMode::Authoritative { subnets: vec![subnet], reservations: vec![] };
    let server = DhcpServer::bind(DhcpConfig::new(interface, mode, http), Arc::new(desk), store.dhcp_leases().await?)?;
    println!("ready {}", server.local_addr()?);
    server.run(stop_with_stdin()).await;
    println!("leases {}", store.dhcp_leases().await?.len());
    store.close().await;
    Ok(())
}
