//! The one desk behind DHCP, TFTP and HTTP: loads what is known of a machine, asks `decide::boot`, and notes what was
//! seen for the boot timeline. A packet starts nothing; it is a fact.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::clock;
use crate::decide::boot::{BootAnswer, BootFacts, BootMachine, BootRequest, BootTo, Give, Loader, Script, answer};
use crate::decide::discovery::{Evidence, Join, Source, join};
use crate::domain::boot::{BootStage, ClientArch};
use crate::domain::id::{Mac, MachineId, Serial, SystemUuid};
use crate::domain::lease::DhcpLease;
use crate::domain::machine::Machine;
use crate::domain::time::Timestamp;
use crate::netboot::boot_files::BootFiles;
use crate::netboot::dhcp::DhcpDesk;
use crate::netboot::peers::Peers;
use crate::netboot::tftp::{TftpEvent, TftpFiles, TftpProgress, TftpRefusal};
use crate::netboot::{Asker, Sign};
use crate::store::facts::{BootMarkFact, Fact};
use crate::store::{Store, StoreError};
use crate::wire::ipxe::{self, Notice, ServerUrl};

/// The name of the first script, in TFTP and HTTP alike.
pub const AUTOEXEC: &str = "autoexec.ipxe";
/// The same sign of the same machine within this time is noted once: a flood of packets must not become a flood of rows.
const SAME_SIGN: Duration = Duration::from_millis(500);
/// A known machine's last sign of life is stored this often.
const SEEN_EVERY: Duration = Duration::from_secs(10);
/// Entries of each memory below; when full it is emptied, which costs a repeated row or look-up.
const REMEMBERED: usize = 20_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeskSettings {
    /// Where machines fetch scripts, kernel and ramdisk.
    pub http: ServerUrl,
    /// Whether unknown machines are led into the ramdisk.
    pub discover: bool,
    /// `console=` words for the ramdisk's kernel.
    pub console: String,
}

impl DeskSettings {
    pub fn new(http: ServerUrl) -> Self {
        Self { http, discover: true, console: "console=tty0 console=ttyS0,115200".to_owned() }
    }
}

/// What iPXE tells when it asks for its script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptQuery {
    pub mac: Mac,
    pub uuid: Option<SystemUuid>,
    pub serial: Option<Serial>,
    /// `${platform}`: `pcbios` or `efi`.
    pub platform: String,
    /// `${buildarch}`: `i386`, `x86_64`, `arm64`.
    pub arch: String,
}

impl ScriptQuery {
    /// iPXE's own words for where it runs. A BIOS build is 32-bit code on any processor.
    fn client(&self) -> Option<ClientArch> {
        match (self.platform.as_str(), self.arch.as_str()) {
            ("pcbios", _) => Some(ClientArch::Bios),
            ("efi", "x86_64") => Some(ClientArch::UefiX64),
            ("efi", "arm64") => Some(ClientArch::UefiArm64),
            _ => None,
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum DeskError {
    #[error("no ramdisk runs on {platform:?} with {arch:?}; 64-bit UEFI and BIOS on x86 are served")]
    Platform { platform: String, arch: String },
    #[error("the boot answer could not be made")]
    Store(#[from] StoreError),
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Desk {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    settings: DeskSettings,
    files: BootFiles,
    peers: Peers,
    memory: Mutex<Memory>,
}

/// Short-term memory; losing it costs nothing but a repeated row or a look-up.
#[derive(Default)]
struct Memory {
    /// Which machine an address belongs to, from DHCP.
    addresses: HashMap<Ipv4Addr, Mac>,
    /// The record a MAC led to last.
    machines: HashMap<Mac, Option<MachineId>>,
    signs: HashMap<(Mac, BootStage, String), Timestamp>,
    seen: HashMap<MachineId, Timestamp>,
    strays: Strays,
    words: Words,
}

/// Whoever invents addresses must not make rows without end: this many cards that belong to no machine are noted in a
/// [`WINDOW`], and this many get a word for a hello. A hall of new machines powered on together is less.
const NEW_STRAYS: usize = 2000;
/// Words for one card in a [`WINDOW`]: a machine that restarts as fast as it can asks for about ten.
const WORDS_PER_CARD: u32 = 20;
const WINDOW: Duration = Duration::from_secs(600);

/// Cards without a record that were noted in this window.
#[derive(Default)]
struct Strays {
    since: Option<Timestamp>,
    macs: HashSet<Mac>,
}

impl Strays {
    fn admit(&mut self, mac: Mac, now: Timestamp) -> bool {
        if self.since.is_none_or(|since| now.since(since) >= WINDOW) {
            self.since = Some(now);
            self.macs.clear();
        }
        self.macs.contains(&mac) || (self.macs.len() < NEW_STRAYS && self.macs.insert(mac))
    }
}

/// Words given in this window.
#[derive(Default)]
struct Words {
    strays: Strays,
    given: HashMap<Mac, u32>,
}

impl Words {
    /// Whether this card gets another word. `known`: it belongs to a machine, whose kind the network cannot multiply.
    fn give(&mut self, mac: Mac, known: bool, now: Timestamp) -> bool {
        let before = self.strays.since;
        if !self.strays.admit(mac, now) && !known {
            return false;
        }
        if self.strays.since != before {
            self.given.clear();
        }
        let given = self.given.entry(mac).or_default();
        *given = given.saturating_add(1);
        *given <= WORDS_PER_CARD
    }
}

fn remember<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>, key: K, value: V) -> Option<V> {
    if map.len() >= REMEMBERED {
        map.clear();
    }
    map.insert(key, value)
}

impl Desk {
    pub fn new(store: Store, settings: DeskSettings, files: BootFiles, peers: Peers) -> Self {
        Self { inner: Arc::new(Inner { store, settings, files, peers, memory: Mutex::default() }) }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.inner.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine that asks and the answer it gets.
    async fn decide(&self, evidence: &Evidence, mac: Mac, request: BootRequest) -> Result<(Option<Machine>, BootAnswer), StoreError> {
        let candidates = self.inner.store.machines_by_evidence(evidence.uuid, evidence.serial.as_ref(), &evidence.macs, None).await?;
        let machine = match join(evidence, &candidates) {
            Join::Same { machine, .. } => candidates.into_iter().find(|m| m.id == machine),
            Join::New { .. } | Join::Unclear { .. } => None,
        };
        let facts = BootFacts {
            machine: machine.as_ref().map(|m| BootMachine {
                id: m.id,
                lifecycle: m.lifecycle,
                boot_intent: m.boot_intent,
                expected_only: m.is_expected_only(),
            }),
            discover: self.inner.settings.discover,
        };
        remember(&mut self.memory().machines, mac, machine.as_ref().map(|m| m.id));
        if let Some(m) = &machine {
            self.note_seen(m.id, request.client());
        }
        Ok((machine, answer(&facts, &request)))
    }

    /// The script for a machine's iPXE, which asked from `peer`. A ramdisk script carries a one-time word that lets its agent
    /// say hello as that machine: it is not given to an address that another machine is known to be behind.
    ///
    /// # Errors
    /// `Platform` if nothing of ours runs there; `Store` if the answer could not be made: the client asks again.
    pub async fn script(&self, query: &ScriptQuery, peer: IpAddr) -> Result<String, DeskError> {
        let client = query.client().ok_or_else(|| DeskError::Platform {
            platform: query.platform.chars().take(20).collect(),
            arch: query.arch.chars().take(20).collect(),
        })?;
        let evidence = Evidence {
            uuid: query.uuid.filter(|u| u.is_usable()),
            serial: query.serial.clone(),
            macs: vec![query.mac],
            parts: Vec::new(),
            source: Source::Packet,
        };
        let (machine, mut answer) = self.decide(&evidence, query.mac, BootRequest::Script(client)).await?;
        let ramdisk = answer.give == Give::Script(Script::Ramdisk);
        if ramdisk && !self.memory().words.give(query.mac, machine.is_some(), clock::now()) {
            let why = "Too many ramdisk boots were asked for in ten minutes; it is told to try again.".to_owned();
            tracing::warn!(mac = %query.mac, "no boot word is given: too many were asked for");
            answer = BootAnswer { give: Give::Script(Script::Restart), to: BootTo::Nowhere, why };
        } else if ramdisk && let Some(why) = self.inner.peers.look(peer, &[query.mac]).await?.contradiction(&[query.mac]) {
            let why = format!("It asked for the boot of {} and is not that machine: {why}. No ramdisk is given.", query.mac);
            answer = BootAnswer { give: Give::Script(Script::Restart), to: BootTo::Nowhere, why: why.clone() };
            if let Some(m) = &machine {
                self.inner.peers.tell(m.id, "machine.boot_refused", format!("{}: {why}", m.name)).await?;
            }
        }
        let name = machine.as_ref().map_or_else(|| format!("unknown machine {}", query.mac), |m| m.name.to_string());
        let notice = Notice { machine: &name, why: &answer.why };
        let script = match answer.give {
            Give::Script(Script::Ramdisk) => {
                let nonce = clock::fresh_token();
                let mut tx = self.inner.store.begin().await?;
                tx.insert_boot_nonce(&nonce, query.mac, machine.as_ref().map(|m| m.id), clock::now()).await?;
                tx.commit().await?;
                ipxe::ramdisk(&self.inner.settings.http, notice, query.mac, &nonce, &self.inner.settings.console)
            }
            Give::Script(Script::LocalDisk) => ipxe::disk(notice),
            Give::Script(Script::LocalDiskUefi) => ipxe::disk_uefi(&self.inner.settings.http, Loader::DiskX64.file_name(), notice),
            Give::Script(Script::Restart) | Give::Nothing | Give::Loader(_) | Give::ScriptUrl => ipxe::restart(notice),
        };
        let stage = |stage| Sign { mac: query.mac, client: Some(client), stage, note: answer.why.clone() };
        self.note(stage(BootStage::Script));
        if answer.to == BootTo::Disk {
            self.note(stage(BootStage::LocalDisk));
        }
        Ok(script)
    }

    /// A small boot file by name: a loader, or the first script. For HTTP; `mac` is the folder of its path, if any.
    /// A loader counts as transferred when it is handed out.
    pub fn file(&self, peer: Option<Ipv4Addr>, mac: Option<Mac>, name: &str) -> Option<Bytes> {
        let bytes = self.open_file(name)?;
        let mac = mac.or_else(|| peer.and_then(|p| self.memory().addresses.get(&p).copied()));
        if let Some(mac) = mac.filter(|_| name != AUTOEXEC) {
            for stage in [BootStage::LoaderStart, BootStage::LoaderDone] {
                self.note(Sign { mac, client: None, stage, note: format!("{name} by HTTP, {} bytes", bytes.len()) });
            }
        }
        Some(bytes)
    }

    /// Notes that kernel or ramdisk was fetched.
    pub fn fetched(&self, mac: Mac, stage: BootStage, note: String) {
        self.note(Sign { mac, client: None, stage, note });
    }

    fn open_file(&self, name: &str) -> Option<Bytes> {
        if name == AUTOEXEC {
            return Some(ipxe::autoexec(&self.inner.settings.http).into());
        }
        self.inner.files.loader(name)
    }

    /// Queues a mark for the machine's boot timeline.
    fn note(&self, sign: Sign) {
        let now = clock::now();
        let machine = {
            let mut memory = self.memory();
            let before = remember(&mut memory.signs, (sign.mac, sign.stage, sign.note.clone()), now);
            if before.is_some_and(|b| now.since(b) < SAME_SIGN) {
                return;
            }
            let machine = memory.machines.get(&sign.mac).copied().flatten();
            if machine.is_none() && !memory.strays.admit(sign.mac, now) {
                return;
            }
            machine
        };
        let Sign { mac, client, stage, note } = sign;
        let fact = BootMarkFact { mac, machine, client, stage, at: now, note, fresh: clock::fresh_uuid() };
        if !self.inner.store.facts().offer(Fact::BootMark(fact)) {
            tracing::warn!(%mac, %stage, "a boot mark was dropped: the store is behind");
        }
    }

    fn note_seen(&self, machine: MachineId, client: ClientArch) {
        let at = clock::now();
        if remember(&mut self.memory().seen, machine, at).is_some_and(|b| at.since(b) < SEEN_EVERY) {
            return;
        }
        let seen = Fact::Seen { machine, at, firmware: Some(client.firmware()), arch: Some(client.arch()) };
        if !self.inner.store.facts().offer(seen) {
            tracing::warn!(%machine, "a sighting was dropped: the store is behind");
        }
    }

    /// Who is behind an address: what DHCP told, or the kernel's neighbour table for machines on our wire.
    async fn mac_behind(&self, peer: Ipv4Addr) -> Option<Mac> {
        let known = self.memory().addresses.get(&peer).copied();
        if known.is_some() || peer.is_loopback() {
            return known;
        }
        self.inner.peers.neighbour(peer).await
    }
}

/// Splits a boot file name into the machine's folder and the file: `52-54-00-77-00-01/snponly.efi`. Anything else in
/// front of the file is not ours.
fn split_name(name: &str) -> (Option<Mac>, &str) {
    let name = name.trim_start_matches(['/', '\\']);
    match name.split_once(['/', '\\']) {
        Some((folder, file)) if folder.len() == 17 => match folder.parse() {
            Ok(mac) => (Some(mac), file.trim_start_matches(['/', '\\'])),
            Err(_) => (None, name),
        },
        Some(_) | None => (None, name),
    }
}

impl DhcpDesk for Desk {
    async fn boot(&self, who: Asker, request: BootRequest) -> Result<BootAnswer, String> {
        let evidence = Evidence { uuid: who.uuid, serial: None, macs: vec![who.mac], parts: Vec::new(), source: Source::Packet };
        self.decide(&evidence, who.mac, request).await.map(|(_, answer)| answer).map_err(|e| chain(&e))
    }

    async fn keep_leases(&self, leases: Vec<DhcpLease>) -> Result<(), String> {
        self.inner.store.put_dhcp_leases(&leases).await.map_err(|e| chain(&e))
    }

    fn sign(&self, sign: Sign) {
        self.note(sign);
    }

    fn learn(&self, address: Ipv4Addr, mac: Mac) {
        remember(&mut self.memory().addresses, address, mac);
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut out = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        out.push_str(": ");
        out.push_str(&e.to_string());
        cause = e.source();
    }
    out
}

impl TftpFiles for Desk {
    async fn open(&self, peer: SocketAddrV4, name: &str) -> Result<Bytes, TftpRefusal> {
        let (mac, file) = split_name(name);
        let bytes = self.open_file(file).ok_or(TftpRefusal::NotFound)?;
        let mac = match mac {
            Some(mac) => Some(mac),
            None => self.mac_behind(*peer.ip()).await,
        };
        if let Some(mac) = mac {
            self.learn(*peer.ip(), mac);
        }
        Ok(bytes)
    }

    fn note(&self, event: TftpEvent) {
        let (folder, file) = split_name(&event.file);
        let Some(mac) = folder.or_else(|| self.memory().addresses.get(event.peer.ip()).copied()) else { return };
        let sign = |stage, note| Desk::note(self, Sign { mac, client: None, stage, note });
        if file == AUTOEXEC {
            return;
        }
        match event.what {
            TftpProgress::Started { size } => sign(BootStage::LoaderStart, format!("{file} by TFTP, {size} bytes")),
            TftpProgress::Done { took, .. } => sign(BootStage::LoaderDone, format!("{file} by TFTP in {:.1} s", took.as_secs_f64())),
            TftpProgress::Stalled { block, of, blksize } => {
                sign(BootStage::LoaderStalled, format!("block {block} of {of} of {file}, {blksize} bytes a block"));
            }
            TftpProgress::Aborted { block, of, message } => {
                sign(BootStage::LoaderStalled, format!("block {block} of {of} of {file}: the machine stopped it, saying {message:?}"));
            }
            TftpProgress::Probed => {}
            // Newer iPXE and shim ask for files that need not be there.
            TftpProgress::Refused { why } => tracing::debug!(%mac, file, why, "a TFTP file was refused"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invented_addresses_are_noted_up_to_a_number_and_known_machines_always() {
        let mac = |n: usize| Mac([2, 0, 0, 0, u8::try_from(n / 256).unwrap(), u8::try_from(n % 256).unwrap()]);
        let (mut strays, mut words) = (Strays::default(), Words::default());
        let noted = (0..3000).filter(|n| strays.admit(mac(*n), Timestamp(0))).count();
        let given = (0..3000).filter(|n| words.give(mac(*n), false, Timestamp(0))).count();
        assert_eq!((noted, given), (NEW_STRAYS, NEW_STRAYS));
        assert!(strays.admit(mac(7), Timestamp(1)), "a card that is noted already goes on");
        assert!(words.give(mac(2999), true, Timestamp(1)));
        let again = (0..100).filter(|_| words.give(mac(2999), true, Timestamp(1))).count();
        assert_eq!(again, usize::try_from(WORDS_PER_CARD).unwrap() - 1);
        let later = Timestamp(0).plus(WINDOW);
        assert!(strays.admit(mac(2999), later) && words.give(mac(2999), false, later));
    }

    #[test]
    fn the_folder_of_a_boot_file_names_its_machine() {
        let mac = Mac([0x52, 0x54, 0, 0x77, 0, 1]);
        assert_eq!(split_name("52-54-00-77-00-01/snponly.efi"), (Some(mac), "snponly.efi"));
        assert_eq!(split_name("/52-54-00-77-00-01//grubx64.efi"), (Some(mac), "grubx64.efi"));
        assert_eq!(split_name("snponly.efi"), (None, "snponly.efi"));
        for hostile in ["../../etc/passwd", "a/b/c", "00-00-00-00-00-00/x", "", "/"] {
            assert_eq!(split_name(hostile).0, None, "{hostile}");
        }
    }
}
