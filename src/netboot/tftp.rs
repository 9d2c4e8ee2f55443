//! The TFTP server: read-only, from memory, many clients at once.
//!
//! ```text
//!  port 69:  RRQ -> open(peer, name) -> bytes | error          one task, never blocked by a transfer
//!  per transfer, on a socket of its own, bound to the address that was asked, connected to the client:
//!      [OACK -> ACK 0]  then  window of DATA -> ACK n  until the last block is acknowledged
//!      ACK inside the window: the client missed a block, go on behind it (RFC 7440 section 4)
//!      nothing heard: send again, 5 times;  ERROR: stop at once
//! ```
//!
//! A window goes out in one system call (UDP GSO). No name ever reaches the file system: [`TftpFiles::open`] decides.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::netboot::socket;
use crate::wire::tftp::{DATA_HEADER, ErrorCode, TftpLimits, TftpOptions, TftpPacket, TftpParams, TftpRequest, data_header, unwrap_block};

/// Waits before the window is sent again, as multiples of the transfer's timeout. 1+1+2+4+8 = 16 s by default; then
/// one last wait of 8 s before the transfer counts as stalled.
const RESENDS: [u32; 5] = [1, 1, 2, 4, 8];
const LAST_WAIT: u32 = 8;
/// A transfer may take this long and a second more for each `SLOWEST` bytes, ten times slower than the slowest serial-over-LAN
/// redirection seen: a client that acknowledges just often enough must not keep its place for ever.
const LONGEST: Duration = Duration::from_secs(120);
const SLOWEST: u64 = 4096;
/// The kernel cuts one send into at most 64 packets (UDP_MAX_SEGMENTS) of together less than 64 KiB.
const GSO_SEGMENTS: usize = 64;
const GSO_BYTES: usize = 65_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TftpConfig {
    /// Port 69 on all addresses, or on one.
    pub listen: SocketAddrV4,
    /// Only packets of this interface.
    pub device: Option<String>,
    pub limits: TftpLimits,
    /// Transfers at once; further requests are dropped, clients repeat them after some seconds.
    pub max_transfers: usize,
    /// Transfers at once to one address. Loopback is exempt: there, many simulated machines share one.
    pub max_per_client: usize,
}

impl Default for TftpConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 69),
            device: None,
            limits: TftpLimits {
                // An Ethernet frame of 1500 bytes less IP, UDP and TFTP headers: larger blocks would be fragmented,
                // and ROMs and firewalls drop fragments.
                max_blksize: 1468,
                max_windowsize: 64,
                timeout: Duration::from_secs(1),
            },
            max_transfers: 1000,
            // A machine boots on one card at a time; some ROMs leave old transfers hanging when they start anew.
            max_per_client: 16,
        }
    }
}

/// Why a file is not given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TftpRefusal {
    NotFound,
    /// Shown on the client's console.
    Other(String),
}

/// Decides what a client gets, and hears how it went.
pub trait TftpFiles: Send + Sync + 'static {
    fn open(&self, peer: SocketAddrV4, name: &str) -> impl Future<Output = Result<Bytes, TftpRefusal>> + Send;
    /// Must not block.
    fn note(&self, event: TftpEvent);
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TftpEvent {
    pub peer: SocketAddrV4,
    pub file: String,
    pub what: TftpProgress,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TftpProgress {
    /// The first data was acknowledged: the transfer is real, not EDK2's probe for the size.
    Started {
        size: u64,
    },
    Done {
        size: u64,
        took: Duration,
    },
    /// The client asked for the size only, then said so (error 8 or 0 before any data).
    Probed,
    /// The client stopped it: its words.
    Aborted {
        block: u64,
        of: u64,
        message: String,
    },
    /// Nothing was heard any more.
    Stalled {
        block: u64,
        of: u64,
        blksize: u16,
    },
    Refused {
        why: String,
    },
}

/// A bound TFTP server.
pub struct TftpServer {
    socket: UdpSocket,
    config: TftpConfig,
}

/// Running transfers by client: whether data flowed, and how to stop it.
type Running = Arc<Mutex<HashMap<SocketAddrV4, Transfer>>>;

#[derive(Clone)]
struct Transfer {
    moved: Arc<AtomicBool>,
    stop: CancellationToken,
}

impl TftpServer {
    pub fn bind(config: TftpConfig) -> io::Result<Self> {
        Ok(Self { socket: socket::server(config.listen, config.device.as_deref())?, config })
    }

    pub fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
        self.socket.local_addr()
    }

    /// Serves until `stop`; running transfers are cut off then.
    pub async fn run<F: TftpFiles>(self, files: Arc<F>, stop: CancellationToken) -> io::Result<()> {
        let tasks = TaskTracker::new();
        let running = Running::default();
        let slots = Arc::new(Semaphore::new(self.config.max_transfers));
        let config = Arc::new(self.config.clone());
        let mut buffer = vec![0; 2048];
        loop {
            let got = tokio::select! {
                () = stop.cancelled() => break,
                got = socket::receive(&self.socket, &mut buffer) => match got {
                    Ok(got) => got,
                    // ICMP errors of earlier answers show up here; they are not about this packet.
                    Err(e) => {
                        tracing::debug!(error = %e, "receiving on the TFTP port");
                        tokio::time::sleep(Duration::from_millis(1)).await;
                        continue;
                    }
                },
            };
            let (name, options) = match TftpRequest::parse(&buffer[..got.len]) {
                Ok(TftpRequest::Read { name, options }) => (name, options),
                Ok(TftpRequest::Write) => {
                    self.refuse(&got, ErrorCode::Access, "this server is read-only").await;
                    continue;
                }
                Err(e) => {
                    tracing::debug!(peer = %got.from, error = %e, "not a TFTP request");
                    continue;
                }
            };
            if let Some(old) = lock(&running).get(&got.from).cloned() {
                if !old.moved.load(Ordering::Relaxed) {
                    // The client repeats its request because our answer is late or lost; that transfer repeats it.
                    continue;
                }
                old.stop.cancel();
            }
            let of_client = lock(&running).keys().filter(|k| k.ip() == got.from.ip()).count();
            if of_client >= config.max_per_client && !got.from.ip().is_loopback() {
                tracing::warn!(peer = %got.from, transfers = of_client, "too many TFTP transfers to one client; the request is dropped");
                continue;
            }
            let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                tracing::warn!(peer = %got.from, limit = config.max_transfers, "too many TFTP transfers at once; the request is dropped and the client will repeat it");
                continue;
            };
            let transfer = Transfer { moved: Arc::default(), stop: stop.child_token() };
            lock(&running).insert(got.from, transfer.clone());
            let (files, running, config) = (Arc::clone(&files), Arc::clone(&running), Arc::clone(&config));
            tasks.spawn(async move {
                let (peer, stopped) = (got.from, transfer.stop.clone());
                tokio::select! {
                    () = stopped.cancelled() => {}
                    () = serve(files.as_ref(), &config, peer, got.to, &name, &options, &transfer.moved) => {}
                }
                let mut running = lock(&running);
                // A newer transfer to the same port may have taken the place.
                if running.get(&peer).is_some_and(|t| Arc::ptr_eq(&t.moved, &transfer.moved)) {
                    running.remove(&peer);
                }
                drop(slot);
            });
        }
        tasks.close();
        tasks.wait().await;
        Ok(())
    }

    async fn refuse(&self, got: &socket::Received, code: ErrorCode, message: &str) {
        let bytes = TftpPacket::Error { code, message: message.to_owned() }.encode();
        if let Err(e) = socket::send(&self.socket, &bytes, got.to, 0, got.from).await {
            tracing::debug!(peer = %got.from, error = %e, "sending a TFTP refusal");
        }
    }
}

fn lock(running: &Running) -> std::sync::MutexGuard<'_, HashMap<SocketAddrV4, Transfer>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve<F: TftpFiles>(
    files: &F,
    config: &TftpConfig,
    peer: SocketAddrV4,
    ours: Ipv4Addr,
    name: &str,
    options: &TftpOptions,
    moved: &AtomicBool,
) {
    let note = |what| files.note(TftpEvent { peer, file: name.to_owned(), what });
    let socket = match socket::connected(ours, config.device.as_deref(), peer) {
        Ok(socket) => socket,
        Err(e) => {
            tracing::error!(%peer, error = %e, "no socket for a TFTP transfer");
            return;
        }
    };
    let file = match files.open(peer, name).await {
        Ok(file) => file,
        Err(refusal) => {
            let (code, why) = match refusal {
                TftpRefusal::NotFound => (ErrorCode::NotFound, "no such file".to_owned()),
                TftpRefusal::Other(why) => (ErrorCode::Other, why),
            };
            if let Err(e) = socket.send(&TftpPacket::Error { code, message: why.clone() }.encode()).await {
                tracing::debug!(%peer, error = %e, "sending a TFTP refusal");
            }
            return note(TftpProgress::Refused { why });
        }
    };
    let size = file.len() as u64;
    let (granted, params) = options.negotiate(size, &config.limits);
    let started = Instant::now();
    let mut sender = Sender::new(&socket, file, params);
    let outcome = sender.run(granted, || {
        moved.store(true, Ordering::Relaxed);
        note(TftpProgress::Started { size });
    });
    note(match outcome.await {
        Ok(()) => TftpProgress::Done { size, took: started.elapsed() },
        Err(Cut::Client { message: _, code: ErrorCode::Options | ErrorCode::Other }) if sender.acked == 0 => TftpProgress::Probed,
        Err(Cut::Client { message, .. }) => TftpProgress::Aborted { block: sender.acked + 1, of: sender.total, message },
        Err(Cut::Silence) => TftpProgress::Stalled { block: sender.acked + 1, of: sender.total, blksize: params.blksize },
        Err(Cut::Io(e)) => {
            tracing::debug!(%peer, file = name, error = %e, "a TFTP transfer ended");
            TftpProgress::Stalled { block: sender.acked + 1, of: sender.total, blksize: params.blksize }
        }
    });
}

/// Why a transfer ended early.
enum Cut {
    Client { code: ErrorCode, message: String },
    Silence,
    Io(io::Error),
}

impl From<io::Error> for Cut {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

struct Sender<'s> {
    socket: &'s UdpSocket,
    file: Bytes,
    params: TftpParams,
    /// Blocks of the file; the last one is shorter than a full one, maybe empty.
    total: u64,
    /// The last block acknowledged; blocks count from 1.
    acked: u64,
    /// Whether the kernel cuts up our sends; false after the first refusal (a block larger than the MTU).
    gso: bool,
}

impl<'s> Sender<'s> {
    fn new(socket: &'s UdpSocket, file: Bytes, params: TftpParams) -> Self {
        let total = file.len() as u64 / u64::from(params.blksize) + 1;
        Self { socket, file, params, total, acked: 0, gso: true }
    }

    async fn run(&mut self, granted: TftpOptions, started: impl FnOnce()) -> Result<(), Cut> {
        if !granted.is_empty() {
            self.negotiate(&TftpPacket::OptionAck(granted).encode()).await?;
        }
        let mut started = Some(started);
        let until = Instant::now() + LONGEST + Duration::from_secs(self.file.len() as u64 / SLOWEST);
        while self.acked < self.total {
            if Instant::now() > until {
                return Err(Cut::Silence);
            }
            self.window().await?;
            if let Some(started) = started.take() {
                started();
            }
        }
        Ok(())
    }

    /// Sends the option acknowledgement until the client acknowledges it as block 0.
    async fn negotiate(&mut self, oack: &[u8]) -> Result<(), Cut> {
        for factor in RESENDS.into_iter().chain([LAST_WAIT]) {
            self.socket.send(oack).await?;
            if self.hear(0, factor).await?.is_some() {
                return Ok(());
            }
        }
        Err(Cut::Silence)
    }

    /// Sends one window and waits until some of it is acknowledged.
    async fn window(&mut self) -> Result<(), Cut> {
        let first = self.acked + 1;
        let last = self.total.min(self.acked + u64::from(self.params.windowsize));
        let mut resent_for_duplicate = false;
        let mut waits = RESENDS.into_iter().chain([LAST_WAIT]);
        let mut factor = waits.next().unwrap_or(1);
        self.send_blocks(first, last).await?;
        loop {
            match self.hear(last, factor).await? {
                Some(block) if block > self.acked => {
                    self.acked = block;
                    return Ok(());
                }
                // The block before the window again: with windows the client says that the first one is missing, once
                // per stray block; with single blocks it is an echo of our resend, and answering it would double
                // every packet from here on (RFC 1123 section 4.2.3.1).
                Some(_) if self.params.windowsize > 1 && !resent_for_duplicate => {
                    resent_for_duplicate = true;
                    self.send_blocks(first, last).await?;
                }
                Some(_) => {}
                None => {
                    let Some(next) = waits.next() else { return Err(Cut::Silence) };
                    factor = next;
                    self.send_blocks(first, last).await?;
                }
            }
        }
    }

    /// Waits for an acknowledgement of a block from the last acknowledged one to `last`. `None`: nothing came in time.
    async fn hear(&self, last: u64, factor: u32) -> Result<Option<u64>, Cut> {
        let until = Instant::now() + self.params.timeout * factor;
        let mut buffer = [0; 600];
        loop {
            let len = match self.socket.try_recv(&mut buffer) {
                Ok(len) => len,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    match tokio::time::timeout_at(until, self.socket.readable()).await {
                        Ok(ready) => ready?,
                        Err(_late) => return Ok(None),
                    }
                    continue;
                }
                Err(e) => return Err(e.into()),
            };
            match TftpPacket::parse(&buffer[..len]) {
                Ok(TftpPacket::Ack { block }) => {
                    let block = unwrap_block(block, self.acked).filter(|b| (self.acked..=last).contains(b));
                    if block.is_some() {
                        return Ok(block);
                    }
                }
                Ok(TftpPacket::Error { code, message }) => return Err(Cut::Client { code, message }),
                Ok(TftpPacket::Data { .. } | TftpPacket::OptionAck(_)) | Err(_) => {}
            }
            if Instant::now() >= until {
                return Ok(None);
            }
        }
    }

    async fn send_blocks(&mut self, first: u64, last: u64) -> io::Result<()> {
        let blksize = usize::from(self.params.blksize);
        let per_send = if self.gso { (GSO_BYTES / (blksize + DATA_HEADER)).clamp(1, GSO_SEGMENTS) } else { 1 };
        let mut next = first;
        while next <= last {
            let count = (last - next + 1).min(per_send as u64);
            match self.send_run(next, count).await {
                Ok(()) => next += count,
                // The card or the path cannot: larger than the MTU, or an old kernel.
                Err(e) if count > 1 && e.kind() != io::ErrorKind::ConnectionRefused => {
                    tracing::debug!(error = %e, "segmented sending refused, going on packet by packet");
                    self.gso = false;
                    for block in next..next + count {
                        self.send_run(block, 1).await?;
                    }
                    next += count;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    async fn send_run(&self, first: u64, count: u64) -> io::Result<()> {
        let blksize = usize::from(self.params.blksize);
        // Block numbers wrap around to 0 after 65535, as tftpd-hpa, EDK2 and iPXE do.
        let headers: Vec<[u8; DATA_HEADER]> = (first..first + count).map(|b| data_header((b & 0xffff) as u16)).collect();
        let from = usize::try_from(first - 1).unwrap_or(usize::MAX).saturating_mul(blksize).min(self.file.len());
        let to = from.saturating_add(blksize.saturating_mul(headers.len())).min(self.file.len());
        let mut blocks = self.file[from..to].chunks(blksize);
        let mut parts = Vec::with_capacity(headers.len() * 2);
        for header in &headers {
            parts.push(io::IoSlice::new(header));
            // The last block of a file that ends on a block's edge is empty.
            parts.push(io::IoSlice::new(blocks.next().unwrap_or_default()));
        }
        if count > 1 {
            socket::send_segments(self.socket, &parts, self.params.blksize.saturating_add(DATA_HEADER as u16)).await
        } else {
            socket::send_gathered(self.socket, &parts).await
        }
    }
}
