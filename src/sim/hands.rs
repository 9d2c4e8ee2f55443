//! The agent's hands of a simulated machine: disks that remember what was written to them, and no bytes of it.
//!
//! An image is really downloaded, unpacked and checked against both digests, like the real agent does; only the writing
//! is missing. Codes and evidence follow `agent::task`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_compression::tokio::bufread::{GzipDecoder, ZstdDecoder};
use bytes::Bytes;
use futures_util::stream::try_unfold;
use serde_json::json;
use sha2::Digest;
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use tokio::time::Instant;
use tokio_util::io::StreamReader;

use crate::agent::link::{Hands, Progress, chain};
use crate::domain::id::Sha256;
use crate::domain::image::ImageFormat;
use crate::domain::inventory::{Disk, DiskRef, Inventory};
use crate::domain::power::FirmwareKind;
use crate::sim::hardware::Tempo;
use crate::sim::pace::Pace;
use crate::wire::agent::{Order, Seed, TaskResult, WipeDisks, WipeEvidence, WipedDisk, WriteImage};

/// A connection may break this often during one download; each time it goes on where it stopped (Range).
const DOWNLOAD_TRIES: u32 = 5;
const DOWNLOAD_SILENCE: Duration = Duration::from_secs(30);
/// Where a GPT header lies with 512-byte blocks (UEFI 2.10, section 5.3.2).
const GPT_AT: usize = 512;

/// The disks of one machine, and what the firmware was told. Outlives boots.
#[derive(Debug)]
pub struct Disks {
    disks: Vec<(Disk, Option<System>)>,
    /// UEFI BootNext or BootOrder, as the agent set it.
    boot_disk_next: bool,
}

/// A system on a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    pub raw_sha256: Sha256,
    pub seed: Option<Seed>,
    /// cloud-init did what it does once per instance.
    pub initialised: bool,
}

pub type SharedDisks = Arc<Mutex<Disks>>;

impl Disks {
    pub fn of(inventory: &Inventory) -> SharedDisks {
        let disks = inventory.disks.iter().map(|d| (d.clone(), None)).collect();
        Arc::new(Mutex::new(Self { disks, boot_disk_next: false }))
    }

    /// The first disk with a system, in the firmware's order.
    pub fn system(&self) -> Option<&System> {
        self.disks.iter().find_map(|(_, system)| system.as_ref())
    }

    /// Notes that cloud-init is through.
    pub fn initialised(&mut self) {
        if let Some(system) = self.disks.iter_mut().find_map(|(_, system)| system.as_mut()) {
            system.initialised = true;
        }
    }

    /// Whether the next boot was set to be from disk; true once.
    pub fn take_boot_disk_next(&mut self) -> bool {
        std::mem::take(&mut self.boot_disk_next)
    }

    fn find(&mut self, meant: &DiskRef) -> Result<&mut (Disk, Option<System>), Failure> {
        let named = self
            .disks
            .iter_mut()
            .find(|(d, _)| meant.serial.is_some() && d.serial == meant.serial || meant.wwn.is_some() && d.wwn == meant.wwn);
        match named {
            Some(found) if meant.matches(&found.0) => Ok(found),
            Some((disk, _)) => Err(Failure::for_good(
                "disk_mismatch",
                format!("{meant} was meant, and {} with {} bytes is here; nothing was written", disk.name, disk.size_bytes),
            )),
            None => Err(Failure::for_good("disk_not_found", format!("{meant} is not in this machine; nothing was written"))),
        }
    }
}

pub fn lock(disks: &SharedDisks) -> std::sync::MutexGuard<'_, Disks> {
    disks.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Failure {
    code: &'static str,
    message: String,
    retry: bool,
}

impl Failure {
    fn for_good(code: &'static str, message: String) -> Self {
        Self { code, message, retry: false }
    }

    fn for_now(code: &'static str, message: String) -> Self {
        Self { code, message, retry: true }
    }

    fn cancelled() -> Self {
        Self::for_good("cancelled", "the task was withdrawn; it stopped before its end".into())
    }
}

/// One boot's hands.
pub struct SimulatedHands {
    pub inventory: Inventory,
    pub disks: SharedDisks,
    pub firmware: FirmwareKind,
    pub tempo: Tempo,
    pub pace: Pace,
    pub http: reqwest::Client,
    /// The server the machine was booted from; images come from nowhere else.
    pub origin: String,
    /// What the console shows.
    pub say: Box<dyn Fn(&str) + Send + Sync>,
}

impl Hands for SimulatedHands {
    async fn inventory(&mut self) -> Inventory {
        self.pace.pass(self.tempo.probe).await;
        self.inventory.clone()
    }

    async fn execute(&mut self, order: &Order, progress: Progress) -> TaskResult {
        let done = match order {
            Order::Inventory => {
                self.pace.pass(self.tempo.probe).await;
                Ok(serde_json::to_value(&self.inventory).unwrap_or_default())
            }
            Order::WriteImage(order) => self.write(order, &progress).await,
            Order::WipeDisks(order) => self.wipe(order, &progress).await,
            Order::RebootToDisk { disk } => self.boot_next(disk.as_ref()),
            Order::Reboot | Order::PowerOff => Ok(json!({})),
        };
        match done {
            Ok(evidence) => TaskResult::Ok { evidence },
            Err(Failure { code, message, retry }) => TaskResult::Failed { code: code.into(), message, retry },
        }
    }

    fn say(&mut self, text: &str) {
        (self.say)(text);
    }
}

impl SimulatedHands {
    fn boot_next(&mut self, disk: Option<&DiskRef>) -> Result<serde_json::Value, Failure> {
        let mut disks = lock(&self.disks);
        if let Some(disk) = disk {
            disks.find(disk)?;
        }
        // A BIOS has no entry that an agent could set: its boot order or its BMC decides.
        disks.boot_disk_next = self.firmware == FirmwareKind::Uefi;
        Ok(json!({ "boot_entry": disks.boot_disk_next }))
    }

    async fn write(&mut self, order: &WriteImage, progress: &Progress) -> Result<serde_json::Value, Failure> {
        if !order.path.starts_with('/') || order.path.contains("..") {
            return Err(Failure::for_good("refused", format!("{:?} is not a path on the server; nothing was written", order.path)));
        }
        if let Some(wanted) = order.firmware.filter(|wanted| *wanted != self.firmware) {
            return Err(Failure::for_good(
                "refused",
                format!("the order is for {wanted} firmware, this machine was booted by {}; nothing was written", self.firmware),
            ));
        }
        let disk = {
            let mut disks = lock(&self.disks);
            let (disk, system) = disks.find(&order.disk)?;
            if disk.size_bytes < order.raw_size_bytes {
                let message =
                    format!("the image needs {} bytes, {} has {}; nothing was written", order.raw_size_bytes, disk.name, disk.size_bytes);
                return Err(Failure::for_good("disk_too_small", message));
            }
            // From here on the old system is gone, whatever happens.
            *system = None;
            disk.clone()
        };
        let began = Instant::now();
        let head = self.stream(order, progress).await?;
        let write_secs = began.elapsed().as_secs_f64();
        if order.grow && head.get(GPT_AT..GPT_AT + 8) != Some(b"EFI PART") {
            return Err(Failure::for_good("grow", "the image has no GUID partition table to grow".into()));
        }
        for phase in ["grow", "seed"] {
            progress.report(phase, 0, 1);
            self.pace.pass(Duration::from_secs(2)).await;
        }
        progress.report("seed", 1, 1);
        if progress.is_cancelled() {
            return Err(Failure::cancelled());
        }
        let mut disks = lock(&self.disks);
        let (_, system) = disks.find(&order.disk)?;
        *system = Some(System { raw_sha256: order.raw_sha256, seed: order.seed.clone(), initialised: false });
        Ok(json!({
            "disk": disk.name, "serial": disk.serial, "wwn": disk.wwn, "size_bytes": disk.size_bytes,
            "sha256": order.sha256, "raw_sha256": order.raw_sha256, "simulated": true,
            "written": { "raw_bytes": order.raw_size_bytes },
            "write_secs": write_secs, "total_secs": began.elapsed().as_secs_f64(),
            "root": { "seeded": order.seed.is_some(), "grown": order.grow },
        }))
    }

    /// Downloads, unpacks and checks the image at the pace of this machine's disk; returns its first bytes.
    async fn stream(&self, order: &WriteImage, progress: &Progress) -> Result<Vec<u8>, Failure> {
        let received = Arc::new(Mutex::new(Received { sha: sha2::Sha256::new(), bytes: 0, trouble: None }));
        let source = StreamReader::new(download(self.http.clone(), format!("{}{}", self.origin, order.path), received.clone()));
        let source = BufReader::with_capacity(256 << 10, Box::pin(source));
        let mut unpacked: Box<dyn AsyncRead + Send + Unpin> = match order.format {
            ImageFormat::Raw => Box::new(source),
            ImageFormat::RawZst => {
                let mut decoder = ZstdDecoder::new(source);
                decoder.multiple_members(true);
                Box::new(decoder)
            }
            ImageFormat::RawGz => {
                let mut decoder = GzipDecoder::new(source);
                decoder.multiple_members(true);
                Box::new(decoder)
            }
        };
        let took = self.pace.real(self.tempo.write);
        let began = Instant::now();
        let (mut sha, mut raw_bytes, mut head) = (sha2::Sha256::new(), 0u64, Vec::new());
        let mut buffer = vec![0; 1 << 20];
        loop {
            let len = match unpacked.read(&mut buffer).await {
                Ok(0) => break,
                Ok(len) => len,
                Err(e) => {
                    let trouble = lock_received(&received).trouble.take();
                    return Err(trouble.unwrap_or_else(|| {
                        Failure::for_good("decompress", format!("the image cannot be unpacked after {raw_bytes} bytes: {e}"))
                    }));
                }
            };
            if progress.is_cancelled() {
                return Err(Failure::cancelled());
            }
            sha.update(&buffer[..len]);
            head.extend_from_slice(&buffer[..len.min(4096_usize.saturating_sub(head.len()))]);
            raw_bytes += len as u64;
            if raw_bytes > order.raw_size_bytes {
                return Err(Failure::for_good(
                    "hash_mismatch",
                    format!("the image unpacks to more than the {} bytes it should have", order.raw_size_bytes),
                ));
            }
            progress.report("write", raw_bytes, order.raw_size_bytes);
            tokio::time::sleep_until(began + took.mul_f64(raw_bytes as f64 / order.raw_size_bytes as f64)).await;
        }
        let (bytes, file_sha) = {
            let received = lock_received(&received);
            (received.bytes, Sha256(received.sha.clone().finalize().into()))
        };
        if bytes < order.size_bytes || raw_bytes < order.raw_size_bytes {
            let message =
                format!("{bytes} of {} bytes came, and they unpack to {raw_bytes} of {} bytes", order.size_bytes, order.raw_size_bytes);
            return Err(Failure::for_good("truncated", message));
        }
        for (what, is, should) in [("file", file_sha, order.sha256), ("unpacked image", Sha256(sha.finalize().into()), order.raw_sha256)] {
            if is != should {
                return Err(Failure::for_good("hash_mismatch", format!("the {what} has sha256 {is}, it should have {should}")));
            }
        }
        Ok(head)
    }

    async fn wipe(&mut self, order: &WipeDisks, progress: &Progress) -> Result<serde_json::Value, Failure> {
        if order.disks.is_empty() {
            return Err(Failure::for_good("refused", "the order names no disk; nothing was wiped".into()));
        }
        let mut opened = Vec::new();
        for meant in &order.disks {
            let disk = lock(&self.disks).find(meant)?.0.clone();
            if opened.iter().any(|other: &Disk| other.name == disk.name) {
                return Err(Failure::for_good("refused", format!("the order names {meant} twice; nothing was wiped")));
            }
            opened.push(disk);
        }
        let total: u64 = opened.iter().map(|d| d.size_bytes).sum();
        const PARTS: u32 = 40;
        for (phase, offset) in [("wipe", 0), ("read_back", total)] {
            for part in 1..=PARTS {
                self.pace.pass(self.tempo.write / 2 / PARTS).await;
                progress.report(phase, offset + (u128::from(total) * u128::from(part) / u128::from(PARTS)) as u64, total * 2);
                if progress.is_cancelled() {
                    return Err(Failure::cancelled());
                }
            }
        }
        let mut evidence = Vec::new();
        let mut disks = lock(&self.disks);
        for meant in &order.disks {
            let (disk, system) = disks.find(meant)?;
            *system = None;
            evidence.push(WipedDisk {
                disk: disk.name.clone(),
                serial: disk.serial.clone(),
                wwn: disk.wwn.clone(),
                size_bytes: disk.size_bytes,
                method: "simulated".to_owned(),
                bytes_zeroed: disk.size_bytes,
                bytes_read_back: disk.size_bytes,
                ..WipedDisk::default()
            });
        }
        Ok(json!(WipeEvidence { disks: evidence }))
    }
}

struct Received {
    sha: sha2::Sha256,
    bytes: u64,
    trouble: Option<Failure>,
}

fn lock_received(received: &Arc<Mutex<Received>>) -> std::sync::MutexGuard<'_, Received> {
    received.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file's bytes, hashed as they come; a broken connection is taken up again where it stopped.
fn download(
    http: reqwest::Client,
    url: String,
    received: Arc<Mutex<Received>>,
) -> impl futures_util::Stream<Item = std::io::Result<Bytes>> {
    struct State {
        response: Option<reqwest::Response>,
        tries: u32,
    }
    try_unfold(State { response: None, tries: 0 }, move |mut state| {
        let (http, url, received) = (http.clone(), url.clone(), received.clone());
        async move {
            loop {
                let offset = lock_received(&received).bytes;
                let why = match state.response.as_mut() {
                    None => match open(&http, &url, offset).await {
                        Ok(response) => {
                            state.response = Some(response);
                            continue;
                        }
                        Err(failure) if !failure.retry => return Err(give_up(&received, failure)),
                        Err(failure) => failure.message,
                    },
                    Some(response) => match tokio::time::timeout(DOWNLOAD_SILENCE, response.chunk()).await {
                        Ok(Ok(None)) => return Ok(None),
                        Ok(Ok(Some(bytes))) => {
                            let mut received = lock_received(&received);
                            received.sha.update(&bytes);
                            received.bytes += bytes.len() as u64;
                            drop(received);
                            return Ok(Some((bytes, state)));
                        }
                        Ok(Err(e)) => chain(&e),
                        Err(_) => format!("not one byte for {} s", DOWNLOAD_SILENCE.as_secs()),
                    },
                };
                state.response = None;
                state.tries += 1;
                if state.tries >= DOWNLOAD_TRIES {
                    let message = format!("the download broke off {DOWNLOAD_TRIES} times, the last time after {offset} bytes: {why}");
                    return Err(give_up(&received, Failure::for_now("download", message)));
                }
                tokio::time::sleep(Duration::from_millis(500) * state.tries).await;
            }
        }
    })
}

fn give_up(received: &Arc<Mutex<Received>>, failure: Failure) -> std::io::Error {
    let error = std::io::Error::other(failure.message.clone());
    lock_received(received).trouble = Some(failure);
    error
}

async fn open(http: &reqwest::Client, url: &str, offset: u64) -> Result<reqwest::Response, Failure> {
    let mut request = http.get(url);
    if offset > 0 {
        request = request.header("Range", format!("bytes={offset}-"));
    }
    let response = match tokio::time::timeout(DOWNLOAD_SILENCE, request.send()).await {
        Ok(response) => response.map_err(|e| Failure::for_now("download", chain(&e)))?,
        Err(_) => return Err(Failure::for_now("download", format!("no answer for {} s", DOWNLOAD_SILENCE.as_secs()))),
    };
    match response.status().as_u16() {
        200 if offset == 0 => Ok(response),
        206 if offset > 0 => Ok(response),
        status @ 400..500 => Err(Failure::for_good("download", format!("the server answered {status} to {url}"))),
        status => Err(Failure::for_now("download", format!("the server answered {status} to {url}"))),
    }
}
