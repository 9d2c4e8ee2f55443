//! The DHCP server: beside another one (proxyDHCP) or as the one that gives addresses.
//!
//! ```text
//!  proxy          DISCOVER of a boot client -> OFFER with boot file, no address       (port 67)
//!                 REQUEST to the boot server -> ACK with boot file                    (port 4011)
//!  authoritative  DISCOVER -> OFFER, REQUEST -> lease stored -> ACK                   (port 67)
//! ```
//!
//! One task reads the socket. A boot client's question goes to the desk in a task of its own; plain address requests
//! are answered at once. Leases are stored in groups before their ACKs leave: one commit for all that wait for it.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock;
use crate::decide::boot::{BootAnswer, BootRequest, Give, Loader};
use crate::domain::boot::{BootStage, ClientArch};
use crate::domain::id::Mac;
use crate::domain::lease::DhcpLease;
use crate::domain::time::Timestamp;
use crate::netboot::leases::{Granted, LeaseTable, Subnet, SubnetError};
use crate::netboot::socket::{self, Interface};
use crate::netboot::{Asker, Sign};
use crate::wire::dhcp::{Address, BootFile, DhcpReply, DhcpRequest, ReplyKind, RequestKind, Speaker, VendorClass};
use crate::wire::ipxe::ServerUrl;

/// Leases in one commit, and replies that may wait for one. At 4,000 commits a second the last one waits half a second;
/// a longer queue would only hold answers that their clients no longer wait for.
const GROUP: usize = 512;
const WAITING: usize = 2048;
/// Boot questions at the desk at once; further ones are dropped and repeated by the client.
const QUESTIONS: usize = 256;
/// RFC 951 section 7.3: a packet with more hops is going in circles.
const MAX_HOPS: u8 = 16;
/// A full pool is told to the log this often.
const FULL_EVERY: Duration = Duration::from_secs(10);

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DhcpMode {
    /// Another server gives the addresses; we add the boot file.
    Proxy,
    /// We give the addresses, in these subnets, with these reservations.
    Authoritative { subnets: Vec<Subnet>, reservations: Vec<(Mac, Ipv4Addr)> },
}

#[derive(Clone, Debug)]
pub struct DhcpConfig {
    pub interface: Interface,
    /// What machines know this server by: option 54, and where the boot files are. The interface's address unless machines reach
    /// it under another one, as behind address translation.
    pub server: Ipv4Addr,
    pub mode: DhcpMode,
    /// 67; clients behind a relay reach any other port too.
    pub server_port: u16,
    /// 68.
    pub client_port: u16,
    /// 4011, in proxy mode.
    pub pxe_port: u16,
    /// Where scripts and HTTP boot files are fetched.
    pub http: ServerUrl,
}

impl DhcpConfig {
    /// The standard ports on one interface.
    pub fn new(interface: Interface, mode: DhcpMode, http: ServerUrl) -> Self {
        Self { server: interface.address, interface, mode, server_port: 67, client_port: 68, pxe_port: 4011, http }
    }
}

/// Answers boot questions, keeps leases, hears what was seen.
pub trait DhcpDesk: Send + Sync + 'static {
    fn boot(&self, who: Asker, request: BootRequest) -> impl Future<Output = Result<BootAnswer, String>> + Send;
    /// Returns when the leases are durable.
    fn keep_leases(&self, leases: Vec<DhcpLease>) -> impl Future<Output = Result<(), String>> + Send;
    /// Must not block.
    fn sign(&self, sign: Sign);
    /// This address belongs to this machine now. Must not block.
    fn learn(&self, address: Ipv4Addr, mac: Mac);
}

#[derive(Debug, thiserror::Error)]
pub enum DhcpStartError {
    #[error("cannot open the DHCP port {port} on {interface}")]
    Socket {
        port: u16,
        interface: String,
        #[source]
        source: io::Error,
    },
    #[error("the DHCP configuration does not fit")]
    Subnets(#[from] SubnetError),
}

/// A bound DHCP server.
pub struct DhcpServer<D> {
    shared: Arc<Shared<D>>,
    commits: mpsc::Receiver<Commit>,
}

struct Shared<D> {
    desk: Arc<D>,
    config: DhcpConfig,
    table: Option<Mutex<LeaseTable>>,
    main: UdpSocket,
    pxe: Option<UdpSocket>,
    commits: mpsc::Sender<Commit>,
    questions: Arc<Semaphore>,
    full_told: Mutex<Timestamp>,
}

/// A lease to store, and what to send when it is stored.
struct Commit {
    lease: DhcpLease,
    ack: Option<(Vec<u8>, SocketAddrV4)>,
}

impl<D: DhcpDesk> DhcpServer<D> {
    /// Opens the ports. `leases` are those stored before.
    pub fn bind(config: DhcpConfig, desk: Arc<D>, leases: Vec<DhcpLease>) -> Result<Self, DhcpStartError> {
        let interface = &config.interface;
        // On loopback there are no broadcasts: the interface's address alone, so that others may use the port too.
        let listen = if interface.loopback { interface.address } else { Ipv4Addr::UNSPECIFIED };
        let open = |port| {
            socket::server(SocketAddrV4::new(listen, port), interface.device()).map_err(|source| DhcpStartError::Socket {
                port,
                interface: interface.name.clone(),
                source,
            })
        };
        let (table, pxe) = match &config.mode {
            DhcpMode::Proxy => {
                if !interface.loopback && std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, config.server_port)).is_err() {
                    tracing::warn!(
                        port = config.server_port,
                        "another DHCP server runs on this host; the kernel hands unicast packets to the last one started, so its clients' renewals may be lost: run one of the two elsewhere"
                    );
                }
                (None, Some(open(config.pxe_port)?))
            }
            DhcpMode::Authoritative { subnets, reservations } => {
                let mut table = LeaseTable::new(subnets.clone(), reservations, interface.address)?;
                table.load(leases);
                (Some(Mutex::new(table)), None)
            }
        };
        let main = open(config.server_port)?;
        let (commits, receiver) = mpsc::channel(WAITING);
        let questions = Arc::new(Semaphore::new(QUESTIONS));
        let shared = Shared { desk, config, table, main, pxe, commits, questions, full_told: Mutex::new(Timestamp(0)) };
        Ok(Self { shared: Arc::new(shared), commits: receiver })
    }

    pub fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
        self.shared.main.local_addr()
    }

    /// The port-4011 socket's address, in proxy mode.
    pub fn pxe_addr(&self) -> Option<std::net::SocketAddr> {
        self.shared.pxe.as_ref().and_then(|s| s.local_addr().ok())
    }

    /// Serves until `stop`; leases in the queue are still stored and acknowledged.
    pub async fn run(self, stop: CancellationToken) {
        let Self { shared, commits } = self;
        let tasks = TaskTracker::new();
        let committer = tokio::spawn(commit(Arc::clone(&shared), commits, stop.clone()));
        tokio::join!(shared.listen(&shared.main, Port::Main, &tasks, &stop), async {
            if let Some(pxe) = &shared.pxe {
                shared.listen(pxe, Port::Pxe, &tasks, &stop).await;
            }
        });
        tasks.close();
        tasks.wait().await;
        if let Err(e) = committer.await {
            tracing::error!(error = %e, "the DHCP lease writer ended badly");
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Port {
    Main,
    Pxe,
}

/// Stores leases in groups and sends their ACKs. A lease that could not be stored is not acknowledged: the client asks
/// again.
async fn commit<D: DhcpDesk>(shared: Arc<Shared<D>>, mut queue: mpsc::Receiver<Commit>, stop: CancellationToken) {
    let mut group = Vec::with_capacity(GROUP);
    loop {
        tokio::select! {
            biased;
            got = queue.recv_many(&mut group, GROUP) => if got == 0 { return },
            () = stop.cancelled() => return,
        }
        let leases = group.iter().map(|c| c.lease.clone()).collect();
        match shared.desk.keep_leases(leases).await {
            Ok(()) => {
                for Commit { lease, ack } in group.drain(..) {
                    shared.desk.learn(lease.address, lease.mac);
                    if let Some((bytes, to)) = ack {
                        shared.send(Port::Main, &bytes, to).await;
                    }
                }
            }
            Err(why) => {
                tracing::error!(leases = group.len(), error = %why, "DHCP leases could not be stored; their requests stay unanswered and will be repeated");
                group.clear();
            }
        }
    }
}

impl<D: DhcpDesk> Shared<D> {
    async fn listen(self: &Arc<Self>, socket: &UdpSocket, port: Port, tasks: &TaskTracker, stop: &CancellationToken) {
        let mut buffer = vec![0; 4096];
        loop {
            let got = tokio::select! {
                () = stop.cancelled() => return,
                got = socket::receive(socket, &mut buffer) => got,
            };
            match got {
                Ok(got) => self.packet(&buffer[..got.len], got.from, port, tasks).await,
                // ICMP errors of earlier replies show up here; they are not about a request.
                Err(e) => {
                    tracing::debug!(error = %e, "receiving on a DHCP port");
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            }
        }
    }

    async fn packet(self: &Arc<Self>, bytes: &[u8], from: SocketAddrV4, port: Port, tasks: &TaskTracker) {
        let request = match DhcpRequest::parse(bytes) {
            Ok(request) if request.hops <= MAX_HOPS => request,
            Ok(_) => return,
            Err(e) => {
                tracing::debug!(%from, error = %e, "not a DHCP request");
                return;
            }
        };
        self.notice(&request);
        let asks_for_boot = matches!(request.kind, RequestKind::Discover | RequestKind::Request | RequestKind::Inform);
        let Some(client) = request.boot_client().filter(|_| asks_for_boot) else {
            if port == Port::Main {
                self.reply(&request, from, port, None).await;
            }
            return;
        };
        let Ok(permit) = Arc::clone(&self.questions).try_acquire_owned() else {
            tracing::warn!(mac = %request.mac, limit = QUESTIONS, "too many boot questions at once; the client will repeat its own");
            return;
        };
        let shared = Arc::clone(self);
        tasks.spawn(async move {
            let _permit = permit;
            let question = match request.speaker {
                Speaker::Firmware => BootRequest::Firmware(client),
                Speaker::Ipxe => BootRequest::Ipxe(client),
            };
            let who = Asker { mac: request.mac, uuid: request.system_uuid() };
            match shared.desk.boot(who, question).await {
                Ok(answer) => shared.reply(&request, from, port, Some((client, answer))).await,
                // No reply at all: half an answer would send the machine to the wrong place, and it asks again.
                Err(why) => {
                    tracing::error!(mac = %request.mac, error = %why, "a boot question could not be answered; the machine will repeat it")
                }
            }
        });
    }

    /// Notes what a packet tells by itself, whatever the answer.
    fn notice(&self, request: &DhcpRequest) {
        if let Some(address) = request.ciaddr {
            self.desk.learn(address, request.mac);
        }
        let chosen = request.server_id.filter(|s| *s != self.config.server);
        match (request.kind, chosen, &self.table) {
            (RequestKind::Discover, ..) => self.sign(request, BootStage::DhcpDiscover, describe(request)),
            (RequestKind::Request, Some(other), None) => {
                // Proxy mode: this is how it should be, and it tells which address the machine gets.
                if let Some(address) = request.requested {
                    self.desk.learn(address, request.mac);
                    self.sign(request, BootStage::DhcpRequest, format!("{address} from {other}"));
                }
            }
            (RequestKind::Request, Some(other), Some(table)) => {
                lock(table).withdraw(request.mac, clock::now());
                self.sign(request, BootStage::DhcpOther, other.to_string());
            }
            (RequestKind::Request, None, _) => self.sign(request, BootStage::DhcpRequest, String::new()),
            (RequestKind::Decline | RequestKind::Release | RequestKind::Inform, ..) => {}
        }
    }

    fn sign(&self, request: &DhcpRequest, stage: BootStage, note: String) {
        if request.is_boot() {
            self.desk.sign(Sign { mac: request.mac, client: request.boot_client(), stage, note });
        }
    }

    async fn reply(&self, request: &DhcpRequest, from: SocketAddrV4, port: Port, boot: Option<(ClientArch, BootAnswer)>) {
        let boot = boot.as_ref();
        match (&self.table, port) {
            (None, Port::Main) => self.proxy_offer(request, from, boot).await,
            (_, Port::Pxe) => self.proxy_ack(request, from, boot).await,
            (Some(table), Port::Main) => match request.kind {
                RequestKind::Discover => self.offer(table, request, from, boot).await,
                RequestKind::Request => self.grant(table, request, from, boot).await,
                RequestKind::Inform => self.inform(table, request, from, boot).await,
                RequestKind::Release | RequestKind::Decline => self.take_back(table, request).await,
            },
        }
    }

    async fn proxy_offer(&self, request: &DhcpRequest, from: SocketAddrV4, boot: Option<&(ClientArch, BootAnswer)>) {
        let Some((client, answer)) = boot.filter(|_| request.kind == RequestKind::Discover) else { return };
        if answer.give == Give::Nothing {
            return self.sign(request, BootStage::LocalDisk, answer.why.clone());
        }
        let mut reply = DhcpReply::to(request, ReplyKind::Offer, self.config.server);
        self.add_boot(&mut reply, request, *client, answer, Port::Main);
        reply.pxe_direct = reply.vendor_class == VendorClass::Pxe;
        self.sign(request, BootStage::DhcpOffer, offered(&reply, answer));
        self.send(Port::Main, &reply.encode(), self.destination(request, &reply, from)).await;
    }

    async fn proxy_ack(&self, request: &DhcpRequest, from: SocketAddrV4, boot: Option<&(ClientArch, BootAnswer)>) {
        let Some((client, answer)) = boot.filter(|_| request.kind != RequestKind::Discover) else { return };
        if answer.give == Give::Nothing {
            return self.sign(request, BootStage::LocalDisk, answer.why.clone());
        }
        let mut reply = DhcpReply::to(request, ReplyKind::Ack, self.config.server);
        self.add_boot(&mut reply, request, *client, answer, Port::Pxe);
        self.sign(request, BootStage::DhcpAck, offered(&reply, answer));
        // EDK2 asks from port 4011 and listens there, iPXE from 68: the answer goes where the question came from.
        self.send(Port::Pxe, &reply.encode(), from).await;
    }

    async fn offer(&self, table: &Mutex<LeaseTable>, request: &DhcpRequest, from: SocketAddrV4, boot: Option<&(ClientArch, BootAnswer)>) {
        let hint = self.hint(request);
        let (offered_address, subnet) = {
            let mut table = lock(table);
            let now = clock::now();
            let Some(offer) = table.offer(hint, request.mac, request.requested, now) else {
                drop(table);
                return self.no_subnet(request, hint);
            };
            (offer, table.subnet_at(hint).cloned())
        };
        let (address, subnet) = match (offered_address, subnet) {
            (Ok(address), Some(subnet)) => (address, subnet),
            (Err(full), _) => {
                self.sign(request, BootStage::DhcpDiscover, full.to_string());
                return self.tell_full(&full.to_string());
            }
            (Ok(_), None) => return,
        };
        let mut reply = DhcpReply::to(request, ReplyKind::Offer, self.config.server);
        reply.address = Some(in_subnet(&subnet, Some(address)));
        self.add_boot_or_disk(&mut reply, request, boot);
        let note = boot.map_or_else(|| address.to_string(), |(_, answer)| offered(&reply, answer));
        self.sign(request, BootStage::DhcpOffer, note);
        self.send(Port::Main, &reply.encode(), self.destination(request, &reply, from)).await;
    }

    async fn grant(&self, table: &Mutex<LeaseTable>, request: &DhcpRequest, from: SocketAddrV4, boot: Option<&(ClientArch, BootAnswer)>) {
        if request.server_id.is_some_and(|s| s != self.config.server) {
            return; // chose another server
        }
        let hint = self.hint(request);
        // SELECTING and INIT-REBOOT name the address in option 50, RENEWING and REBINDING in ciaddr (RFC 2131 4.3.2).
        let Some(wanted) = request.requested.or(request.ciaddr) else { return };
        let (granted, subnet) = {
            let mut table = lock(table);
            let granted = table.grant(hint, request.mac, wanted, request.hostname.clone(), clock::now());
            (granted, table.subnet_at(hint).cloned())
        };
        let (Some(granted), Some(subnet)) = (granted, subnet) else { return self.no_subnet(request, hint) };
        match granted {
            Granted::No(why) => {
                tracing::info!(mac = %request.mac, %wanted, why, "DHCP address refused");
                let mut reply = DhcpReply::to(request, ReplyKind::Nak, self.config.server);
                reply.message = Some(why);
                self.send(Port::Main, &reply.encode(), self.destination(request, &reply, from)).await;
            }
            Granted::Lease(lease) => {
                let mut reply = DhcpReply::to(request, ReplyKind::Ack, self.config.server);
                reply.address = Some(in_subnet(&subnet, Some(lease.address)));
                self.add_boot_or_disk(&mut reply, request, boot);
                let note = boot.map_or_else(|| lease.address.to_string(), |(_, answer)| offered(&reply, answer));
                self.sign(request, BootStage::DhcpAck, note);
                let ack = Some((reply.encode(), self.destination(request, &reply, from)));
                self.store(Commit { lease, ack });
            }
        }
    }

    async fn inform(&self, table: &Mutex<LeaseTable>, request: &DhcpRequest, from: SocketAddrV4, boot: Option<&(ClientArch, BootAnswer)>) {
        let hint = self.hint(request);
        let Some(subnet) = lock(table).subnet_at(hint).cloned() else { return self.no_subnet(request, hint) };
        let mut reply = DhcpReply::to(request, ReplyKind::Ack, self.config.server);
        reply.address = Some(Address { lease_secs: None, ..in_subnet(&subnet, None) });
        self.add_boot_or_disk(&mut reply, request, boot);
        self.send(Port::Main, &reply.encode(), self.destination(request, &reply, from)).await;
    }

    async fn take_back(&self, table: &Mutex<LeaseTable>, request: &DhcpRequest) {
        let now = clock::now();
        let ended = match request.kind {
            RequestKind::Release => request.ciaddr.and_then(|a| lock(table).release(request.mac, a, now)),
            RequestKind::Decline => {
                let address = request.requested;
                if let Some(address) = address {
                    tracing::warn!(mac = %request.mac, %address, "a machine found its DHCP address in use by another; the address is left alone for 10 minutes");
                }
                address.and_then(|a| lock(table).decline(request.mac, a, now))
            }
            RequestKind::Discover | RequestKind::Request | RequestKind::Inform => None,
        };
        if let Some(lease) = ended {
            self.store(Commit { lease, ack: None });
        }
    }

    fn store(&self, commit: Commit) {
        if self.commits.try_send(commit).is_err() {
            tracing::warn!(waiting = WAITING, "too many DHCP leases wait for the store; a request is dropped and will be repeated");
        }
    }

    /// The address that tells the client's subnet: the relay's, or ours.
    fn hint(&self, request: &DhcpRequest) -> Ipv4Addr {
        let link = request.relay.as_ref().and_then(|r| r.link);
        link.or(request.giaddr).unwrap_or(self.config.interface.address)
    }

    fn no_subnet(&self, request: &DhcpRequest, hint: Ipv4Addr) {
        tracing::info!(mac = %request.mac, at = %hint, "a DHCP request from a network without a configured subnet is not answered");
        self.sign(request, BootStage::DhcpDiscover, format!("no DHCP subnet is configured for {hint}"));
    }

    fn tell_full(&self, full: &str) {
        let now = clock::now();
        let mut told = self.full_told.lock().unwrap_or_else(PoisonError::into_inner);
        if now.since(*told) >= FULL_EVERY {
            *told = now;
            tracing::error!("{full}");
        }
    }

    fn add_boot_or_disk(&self, reply: &mut DhcpReply, request: &DhcpRequest, boot: Option<&(ClientArch, BootAnswer)>) {
        let Some((client, answer)) = boot else { return };
        if answer.give == Give::Nothing {
            self.sign(request, BootStage::LocalDisk, answer.why.clone());
        } else {
            self.add_boot(reply, request, *client, answer, Port::Main);
        }
    }

    /// Puts the boot answer into a reply.
    fn add_boot(&self, reply: &mut DhcpReply, request: &DhcpRequest, client: ClientArch, answer: &BootAnswer, port: Port) {
        let http = &self.config.http;
        let folder = mac_folder(request.mac);
        let file = match answer.give {
            Give::Loader(loader) if client.is_http() => format!("{http}/boot/file/{folder}/{}", loader.file_name()),
            // The folder tells TFTP which machine asks, also behind a relay or NAT.
            Give::Loader(loader) => format!("{folder}/{}", loader.file_name()),
            Give::ScriptUrl => format!("{http}/boot/file/autoexec.ipxe"),
            Give::Nothing | Give::Script(_) => return,
        };
        if answer.give == Give::Loader(Loader::DiskX64) {
            self.sign(request, BootStage::LocalDisk, answer.why.clone());
        }
        reply.boot = Some(BootFile { server: self.config.server, file });
        let proxy = self.table.is_none() || port == Port::Pxe;
        if client.is_http() {
            reply.vendor_class = VendorClass::Http;
        } else if proxy {
            reply.vendor_class = VendorClass::Pxe;
        } else {
            // With addresses from us there is no proxy to wait for; and no option 60, which would send PXE clients to
            // port 4011.
            reply.ipxe_no_proxy = request.speaker == Speaker::Ipxe;
        }
    }

    /// RFC 2131 section 4.1, RFC 8357; broadcast instead of unicast to an address the client does not have yet.
    fn destination(&self, request: &DhcpRequest, reply: &DhcpReply, from: SocketAddrV4) -> SocketAddrV4 {
        if let Some(relay) = request.giaddr {
            let own_port = request.relay.as_ref().is_some_and(|r| r.source_port);
            return SocketAddrV4::new(relay, if own_port { from.port() } else { self.config.server_port });
        }
        match request.ciaddr.filter(|_| reply.kind != ReplyKind::Nak) {
            Some(address) => SocketAddrV4::new(address, self.config.client_port),
            None => SocketAddrV4::new(Ipv4Addr::BROADCAST, self.config.client_port),
        }
    }

    async fn send(&self, port: Port, bytes: &[u8], to: SocketAddrV4) {
        let socket = match port {
            Port::Pxe => self.pxe.as_ref().unwrap_or(&self.main),
            Port::Main => &self.main,
        };
        let interface = &self.config.interface;
        if let Err(e) = socket::send(socket, bytes, interface.address, interface.index, to).await {
            tracing::warn!(%to, error = %e, "a DHCP reply could not be sent");
        }
    }
}

fn lock(table: &Mutex<LeaseTable>) -> std::sync::MutexGuard<'_, LeaseTable> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

fn in_subnet(subnet: &Subnet, yiaddr: Option<Ipv4Addr>) -> Address {
    Address {
        yiaddr,
        lease_secs: Some(u32::try_from(subnet.lease.as_secs()).unwrap_or(u32::MAX)),
        subnet_mask: subnet.mask(),
        routers: subnet.routers.clone(),
        dns: subnet.dns.clone(),
        domain: subnet.domain.clone(),
    }
}

/// A MAC as a folder of boot file names: `52-54-00-77-00-01`.
pub fn mac_folder(mac: Mac) -> String {
    mac.to_string().replace(':', "-")
}

fn describe(request: &DhcpRequest) -> String {
    let who = match request.speaker {
        Speaker::Firmware => "firmware",
        Speaker::Ipxe => "iPXE",
    };
    match request.boot_client() {
        Some(client) => format!("{who}, {client}"),
        None => format!("{who}, unknown architecture {:?}", request.archs),
    }
}

fn offered(reply: &DhcpReply, answer: &BootAnswer) -> String {
    let address = reply.address.as_ref().and_then(|a| a.yiaddr).map(|a| format!("{a}, ")).unwrap_or_default();
    match &reply.boot {
        Some(boot) => format!("{address}{}. {}", boot.file, answer.why),
        None => format!("{address}no boot file. {}", answer.why),
    }
}
