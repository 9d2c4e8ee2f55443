//! What machines say about themselves: agents' hellos, results, inventories and logs, and the calls of deployed systems.
//! Everything here comes from the provisioning network and is hostile until proven: capped, matched, never obeyed.

use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::broadcast::error::RecvError;

use crate::clock;
use crate::decide::discovery::{Evidence, Join, Source, join};
use crate::domain::boot::BootStage;
use crate::domain::event::{NewEvent, Severity};
use crate::domain::id::{EventId, Mac, MachineId, Name, RunId, TaskId};
use crate::domain::inventory::Inventory;
use crate::domain::machine::{BootIntent, Hardware, Lifecycle, Machine, Want, part_serials};
use crate::domain::time::Timestamp;
use crate::netboot::peers::{Peers, Sight};
pub use crate::store::agent::AgentSession as Session;
use crate::store::agent::TaskState;
use crate::store::boots::NonceUse;
use crate::store::facts::{BootMarkFact, Fact};
use crate::store::{Store, StoreError, Tx, token_hash};
use crate::wire::agent::{Hello, LogBatch, Order, PROTOCOL, ProgressReply, Task, TaskProgress, TaskResult, Welcome};

/// The longest a long-poll is held; the agent asks for at most this.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// Lines taken from one log batch, and characters from one line.
const MAX_LOG_LINES: usize = 500;
const MAX_LOG_TEXT: usize = 2000;
/// Tries when another writer changed the machine between our read and our write.
const TRIES: u32 = 5;

#[derive(Debug, thiserror::Error)]
pub enum IntakeError {
    /// Shown to the agent, and on its console.
    #[error("{0}")]
    Refused(String),
    /// The token is not (or no longer) good.
    #[error("this agent session is over; restart the machine")]
    Unauthorized,
    /// The order was withdrawn, or is not this machine's.
    #[error("the task was withdrawn")]
    Gone,
    #[error(transparent)]
    Store(#[from] StoreError),
}

type Result<T> = std::result::Result<T, IntakeError>;

/// Takes in what agents and deployed systems send. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    store: Store,
    peers: Peers,
}

impl Intake {
    pub fn new(store: Store, peers: Peers) -> Self {
        Self { store, peers }
    }

    /// An agent says hello from `peer`: finds or makes the machine's record, opens a session.
    pub async fn hello(&self, hello: Hello, peer: IpAddr) -> Result<Welcome> {
        if hello.protocol == 0 || hello.protocol > PROTOCOL {
            return Err(IntakeError::Refused(format!(
                "this agent speaks protocol {}, the service {PROTOCOL}; build the ramdisk again (pxe/build)",
                hello.protocol
            )));
        }
        let mut inventory = hello.inventory;
        let notes = inventory.cap();
        let token = clock::fresh_token();
        for _ in 0..TRIES {
            match self.try_hello(&hello.nonce, hello.session, &inventory, &notes, &token, peer).await {
                Err(IntakeError::Store(StoreError::Conflict)) => {}
                other => return other,
            }
        }
        Err(IntakeError::Store(StoreError::Conflict))
    }

    async fn try_hello(
        &self,
        nonce: &str,
        session: uuid::Uuid,
        inventory: &Inventory,
        notes: &[String],
        token: &str,
        peer: IpAddr,
    ) -> Result<Welcome> {
        let now = clock::now();
        let evidence = evidence_of(inventory);
        if evidence.macs.is_empty() {
            return Err(IntakeError::Refused("the agent reported no network card, so it cannot be told which machine this is".to_owned()));
        }
        let name = free_name(&self.store, &evidence).await?;
        // A first look, for what the network knows of this machine's cards: that is not asked with a transaction open.
        let seen = self.store.machines_by_evidence(evidence.uuid, evidence.serial.as_ref(), &evidence.macs, None).await?;
        let expected = record_of(&join(&evidence, &seen), &seen);
        let cards: Vec<Mac> = evidence.macs.iter().chain(expected.iter().flat_map(|m| &m.macs)).copied().collect();
        let sight = self.peers.look(peer, &cards).await?;
        let mut tx = self.store.begin().await?;
        // First of all the nonce: the same hello sent twice waits here for its twin and then finds the record that it made.
        let Some(used) = tx.use_boot_nonce(nonce, session, now).await? else {
            return Err(IntakeError::Refused(
                "this boot's one-time word is unknown, used or older than 20 minutes; restart the machine from the network".to_owned(),
            ));
        };
        if !evidence.macs.contains(&used.mac) {
            return Err(IntakeError::Refused(format!("this boot was given to {}, which is not a network card of this machine", used.mac)));
        }
        let candidates = tx.machines_by_evidence(evidence.uuid, evidence.serial.as_ref(), &evidence.macs).await?;
        let joined = join(&evidence, &candidates);
        let known = record_of(&joined, &candidates);
        if known.map(|m| m.id) != expected.map(|m| m.id) {
            // Someone was faster; look at the peer anew.
            return Err(IntakeError::Store(StoreError::Conflict));
        }
        if let Err(why) = entitled(&used, known, &evidence, &sight) {
            drop(tx);
            if let Some(m) = known {
                let text = format!("An agent at {peer} said hello as {} and was refused: {why}.", m.name);
                self.peers.tell(m.id, "machine.hello_refused", text).await?;
            }
            return Err(IntakeError::Refused(why));
        }
        let mut machine = match joined {
            Join::Same { machine, new_macs, lost_macs } => {
                let Some(mut m) = candidates.iter().find(|c| c.id == machine).cloned() else {
                    return Err(IntakeError::Store(StoreError::Conflict));
                };
                take_cards(&mut tx, &m, &candidates, &evidence.macs, now).await?;
                note_nics(&mut tx, &mut m, &new_macs, &lost_macs, now).await?;
                m
            }
            Join::New { twin_of } => {
                let m = blank_machine(MachineId(clock::fresh_uuid()), name, &evidence, now);
                take_cards(&mut tx, &m, &candidates, &evidence.macs, now).await?;
                tx.insert_machine(&m).await?;
                let text = format!("{} was discovered: its agent said hello from {}.", m.name, used.mac);
                say(&mut tx, &m, "machine.discovered", Severity::Info, text, now).await?;
                if let Some(twin) = twin_of.and_then(|t| candidates.iter().find(|c| c.id == t)) {
                    let text =
                        format!("{} has the system UUID or serial of {}, but is another machine: they are kept apart.", m.name, twin.name);
                    say(&mut tx, &m, "machine.twin", Severity::Warning, text, now).await?;
                }
                m
            }
            Join::Unclear { why } => {
                return Err(IntakeError::Refused(format!(
                    "this machine cannot be told from others: {why}; forget the record that is wrong and start again"
                )));
            }
        };
        tx.adopt_boots(used.mac, machine.id).await?;
        note_inventory(&mut tx, &mut machine, inventory, now).await?;
        for note in notes {
            say(&mut tx, &machine, "machine.inventory_cut", Severity::Warning, note.clone(), now).await?;
        }
        machine.first_seen_at = machine.first_seen_at.or(Some(now));
        machine.last_seen_at = Some(now);
        tx.insert_agent_session(token, nonce, machine.id, session, now).await?;
        if wants_its_disk(&machine) {
            // It should run its system, but came into the ramdisk (a changed card, a lost boot order): send it on.
            tx.insert_task(
                TaskId(clock::fresh_uuid()),
                machine.id,
                None,
                &Order::RebootToDisk { disk: machine.written_disks.first().cloned() },
                now,
            )
            .await?;
            say(
                &mut tx,
                &machine,
                "machine.sent_to_disk",
                Severity::Warning,
                format!("{} booted the ramdisk though it runs a system; it is restarted from its disk.", machine.name),
                now,
            )
            .await?;
        }
        tx.update_machine(&machine, Some(now)).await?;
        tx.wake_machine_step(machine.id, now).await?;
        tx.commit().await?;
        self.mark(used.mac, Some(machine.id), BootStage::Agent, "");
        Ok(Welcome { machine: machine.id, name: machine.name, token: token.to_owned() })
    }

    /// Who this agent is.
    pub async fn session(&self, token: &str) -> Result<Session> {
        let now = clock::now();
        let session = self.store.agent_session(token, now).await?.ok_or(IntakeError::Unauthorized)?;
        // A lost note of life costs nothing: the next request brings another.
        if now.since(session.last_seen_at) > Duration::from_secs(5) {
            self.store.facts().offer(Fact::AgentSeen { token_hash: token_hash(token), machine: session.machine, at: now });
        }
        Ok(session)
    }

    /// The next order, waiting up to `wait` for one.
    pub async fn next_task(&self, session: &Session, wait: Duration) -> Result<Option<Task>> {
        let mut changes = self.store.changes();
        let end = tokio::time::Instant::now() + wait.min(MAX_WAIT);
        loop {
            if let Some(task) = self.store.open_task(session.machine).await? {
                return Ok(Some(task));
            }
            // A hint for this machine, or a look every 2 s for what another replica wrote.
            let look = tokio::time::Instant::now() + Duration::from_secs(2);
            loop {
                let hint = tokio::time::timeout_at(look.min(end), changes.recv()).await;
                match hint {
                    Ok(Ok(change)) if change.machine == Some(session.machine) => break,
                    Ok(Ok(_)) => {}
                    Ok(Err(RecvError::Lagged(_))) => break,
                    Ok(Err(RecvError::Closed)) | Err(_) => break,
                }
            }
            if tokio::time::Instant::now() >= end {
                return Ok(None);
            }
        }
    }

    /// How far an order came; says whether to stop.
    pub async fn progress(&self, session: &Session, id: TaskId, progress: TaskProgress) -> Result<ProgressReply> {
        let task = self.store.task(id).await?.filter(|t| t.machine == session.machine).ok_or(IntakeError::Gone)?;
        if task.state == TaskState::Open {
            let phase = printable(&progress.phase, 40);
            let fact = Fact::TaskProgress {
                task: id,
                machine: session.machine,
                at: clock::now(),
                phase,
                done: progress.done,
                total: progress.total,
            };
            self.store.facts().offer(fact);
        }
        Ok(ProgressReply { cancel: task.state == TaskState::Withdrawn })
    }

    /// The result of an order. The same result again changes nothing.
    pub async fn result(&self, session: &Session, id: TaskId, result: TaskResult) -> Result<()> {
        let task = self.store.task(id).await?.filter(|t| t.machine == session.machine).ok_or(IntakeError::Gone)?;
        match task.state {
            TaskState::Open => {}
            TaskState::Done => return Ok(()),
            TaskState::Withdrawn => return Err(IntakeError::Gone),
        }
        let now = clock::now();
        let mut tx = self.store.begin().await?;
        if let Some(step) = tx.finish_task(id, session.machine, &cut(result), now).await? {
            tx.wake_step(step, now).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// A fresh inventory within a session. It must be that of the same machine: a session is no licence to become another,
    /// nor to take another's network cards.
    pub async fn inventory(&self, session: &Session, mut inventory: Inventory) -> Result<()> {
        let notes = inventory.cap();
        for _ in 0..TRIES {
            match self.try_inventory(session, &inventory, &notes).await {
                Err(IntakeError::Store(StoreError::Conflict)) => {}
                other => return other,
            }
        }
        Err(IntakeError::Store(StoreError::Conflict))
    }

    async fn try_inventory(&self, session: &Session, inventory: &Inventory, notes: &[String]) -> Result<()> {
        let now = clock::now();
        let evidence = evidence_of(inventory);
        let mut tx = self.store.begin().await?;
        let mut machine = tx.machine(session.machine).await?.ok_or(IntakeError::Unauthorized)?;
        let candidates = tx.machines_by_evidence(evidence.uuid, evidence.serial.as_ref(), &evidence.macs).await?;
        let not_it = |why: String| {
            IntakeError::Refused(format!("the inventory is not that of {}: {why}; restart the machine from the network", machine.name))
        };
        match join(&evidence, &candidates) {
            Join::Same { machine: same, .. } if same == machine.id => {}
            Join::Same { machine: other, .. } => {
                let other = candidates.iter().find(|c| c.id == other).map_or_else(|| other.to_string(), |m| m.name.to_string());
                return Err(not_it(format!("it is that of {other}")));
            }
            Join::New { .. } => return Err(not_it("it fits no known machine".to_owned())),
            Join::Unclear { why } => return Err(not_it(why)),
        }
        if let Some(other) = candidates.iter().find(|c| c.id != machine.id && c.macs.iter().any(|mac| evidence.macs.contains(mac))) {
            return Err(not_it(format!("it has a network card of {}", other.name)));
        }
        note_inventory(&mut tx, &mut machine, inventory, now).await?;
        for note in notes {
            say(&mut tx, &machine, "machine.inventory_cut", Severity::Warning, note.clone(), now).await?;
        }
        tx.update_machine(&machine, Some(now)).await?;
        Ok(tx.commit().await?)
    }

    /// Lines of an agent's log.
    pub fn log(&self, session: &Session, batch: LogBatch) {
        let at = clock::now();
        for line in batch.lines.into_iter().take(MAX_LOG_LINES) {
            let level = match line.level.as_str() {
                known @ ("error" | "warn" | "info" | "debug") => known.to_owned(),
                _ => "info".to_owned(),
            };
            let uptime_secs = if line.uptime_secs.is_finite() { line.uptime_secs } else { 0.0 };
            let fact = Fact::AgentLog {
                machine: session.machine,
                at,
                uptime_secs,
                level,
                line: printable(&line.text, MAX_LOG_TEXT),
                id: clock::fresh_uuid(),
            };
            if !self.store.facts().offer(fact) {
                tracing::warn!(machine = %session.machine, "agent log lines were dropped: the store is behind");
                return;
            }
        }
    }

    /// A deployed system calls home. Unknown and used tokens are told the same: nothing.
    pub async fn phone_home(&self, token: &str, body: &str) -> Result<bool> {
        let now = clock::now();
        let mut tx = self.store.begin().await?;
        let Some((machine, run)) = tx.note_phone_home(token, &printable(body, 4000), now).await? else { return Ok(false) };
        let record = tx.machine(machine).await?;
        let name = record.as_ref().map_or_else(|| machine.to_string(), |m| m.name.to_string());
        let event = NewEvent {
            machine: Some(machine),
            run: Some(run),
            kind: "machine.system_up",
            severity: Severity::Info,
            text: format!("The system on {name} reported in."),
            actor: "system".to_owned(),
        };
        tx.insert_event(EventId(clock::fresh_uuid()), now, &event).await?;
        tx.wake_machine_step(machine, now).await?;
        tx.commit().await?;
        if let Some(mac) = record.as_ref().and_then(|m| m.macs.first()) {
            self.mark(*mac, Some(machine), BootStage::System, "cloud-init called home");
        }
        Ok(true)
    }

    fn mark(&self, mac: Mac, machine: Option<MachineId>, stage: BootStage, note: &str) {
        let mark = BootMarkFact { mac, machine, client: None, stage, at: clock::now(), note: note.to_owned(), fresh: clock::fresh_uuid() };
        self.store.facts().offer(Fact::BootMark(mark));
    }
}

/// A machine that has a system of ours and nothing under way belongs on its disk.
fn wants_its_disk(m: &Machine) -> bool {
    let settled = m.lifecycle == Lifecycle::Active && m.want == Want::Nothing && m.current_run.is_none();
    let booting = m.lifecycle == Lifecycle::Deploying && m.boot_intent == Some(BootIntent::LocalDisk);
    settled || booting
}

/// Whether an agent may speak for the record its inventory leads to. Anyone on the provisioning network can say anything in
/// an inventory: for a machine past discovery the boot must have been given to that very machine, to a card of its record,
/// and nothing known about the peer's address may contradict it. `Err` is a sentence for the agent.
fn entitled(used: &NonceUse, known: Option<&Machine>, evidence: &Evidence, sight: &Sight) -> std::result::Result<(), String> {
    let accepted = known.filter(|m| m.lifecycle.is_accepted());
    if let Some(m) = accepted.filter(|m| used.machine != Some(m.id)) {
        return Err(format!(
            "this boot was not given to {}, which the inventory names; restart it from the network, and if that does not help forget {}              and accept it again",
            m.name, m.name
        ));
    }
    let cards = match accepted {
        Some(m) => m.macs.iter().copied().chain([used.mac]).collect(),
        None => evidence.macs.clone(),
    };
    match sight.contradiction(&cards) {
        Some(why) => Err(format!("this is not the machine that the boot was given to: {why}")),
        None => Ok(()),
    }
}

/// The record that a join leads to.
fn record_of<'a>(joined: &Join, candidates: &'a [Machine]) -> Option<&'a Machine> {
    match joined {
        Join::Same { machine, .. } => candidates.iter().find(|c| c.id == *machine),
        Join::New { .. } | Join::Unclear { .. } => None,
    }
}

fn evidence_of(inventory: &Inventory) -> Evidence {
    Evidence {
        uuid: inventory.system.uuid.filter(|u| u.is_usable()),
        serial: inventory.system.serial.clone(),
        macs: inventory.nics.iter().map(|n| n.mac).collect(),
        parts: part_serials(inventory),
        source: Source::Agent,
    }
}

/// A machine of which nothing but its evidence is known.
pub fn blank_machine(id: MachineId, name: Name, evidence: &Evidence, now: Timestamp) -> Machine {
    Machine {
        id,
        rev: 1,
        name,
        lifecycle: Lifecycle::Discovered,
        lifecycle_since: now,
        want: Want::Nothing,
        serial: evidence.serial.clone(),
        uuid: evidence.uuid,
        macs: evidence.macs.clone(),
        arch: None,
        firmware: None,
        place: None,
        boot_intent: None,
        hardware: None,
        image: None,
        written_disks: Vec::new(),
        fault: None,
        hold: None,
        bmc: None,
        current_run: None,
        created_at: now,
        first_seen_at: None,
        last_seen_at: None,
        accepted_at: None,
        why: String::new(),
    }
}

/// The serial as a hostname, or `m-` and the first MAC; with a number behind it when that name is taken. Someone may take it
/// before it is written, which then is a `Conflict`.
pub async fn free_name(store: &Store, evidence: &Evidence) -> Result<Name> {
    let mac = evidence.macs.first().map(|m| format!("m-{}", m.to_string().replace(':', "")));
    let wish = evidence
        .serial
        .as_ref()
        .and_then(|s| Name::nearest(s.as_str()))
        .map(|n| n.to_string())
        .or(mac)
        .unwrap_or_else(|| "machine".to_owned());
    let wish: String = wish.chars().take(55).collect();
    let taken = store.names_like(wish.trim_end_matches('-')).await?;
    for n in 1..10_000 {
        let text = if n == 1 { wish.clone() } else { format!("{}-{n}", wish.trim_end_matches('-')) };
        let Some(name) = Name::nearest(&text) else { continue };
        if !taken.contains(&name) {
            return Ok(name);
        }
    }
    Err(IntakeError::Refused(format!("no free name like {wish} was found")))
}

/// Puts what an inventory says into the machine's record; identity that changed is said as an event.
async fn note_inventory(tx: &mut Tx, m: &mut Machine, inventory: &Inventory, now: Timestamp) -> Result<()> {
    let system = &inventory.system;
    if let (Some(old), Some(new)) = (&m.serial, &system.serial)
        && !old.as_str().eq_ignore_ascii_case(new.as_str())
    {
        let text = format!("The serial of {} changed from {old} to {new}.", m.name);
        say(tx, m, "machine.serial_changed", Severity::Warning, text, now).await?;
    }
    let uuid = system.uuid.filter(|u| u.is_usable());
    if let (Some(old), Some(new)) = (m.uuid, uuid)
        && old != new
    {
        let text = format!("The system UUID of {} changed from {old} to {new}: its board was replaced.", m.name);
        say(tx, m, "machine.uuid_changed", Severity::Warning, text, now).await?;
    }
    m.serial = system.serial.clone().or_else(|| m.serial.clone());
    m.uuid = uuid.or(m.uuid);
    m.arch = inventory.arch.or(m.arch);
    m.firmware = inventory.firmware.kind.or(m.firmware);
    m.hardware = Some(Hardware::of(inventory, now));
    let macs: Vec<Mac> = inventory.nics.iter().map(|n| n.mac).collect();
    tx.put_macs(m.id, &macs, now).await?;
    tx.put_inventory(m.id, now, inventory).await?;
    Ok(())
}

/// Takes the cards that `m` has now from the records that held them, and says so there. The losers' revisions rise: who is
/// deciding or writing with their old cards must read again.
async fn take_cards(tx: &mut Tx, m: &Machine, candidates: &[Machine], macs: &[Mac], now: Timestamp) -> Result<()> {
    for other in candidates.iter().filter(|c| c.id != m.id) {
        let moved: Vec<Mac> = other.macs.iter().copied().filter(|mac| macs.contains(mac)).collect();
        if moved.is_empty() {
            continue;
        }
        for mac in &moved {
            tx.delete_mac(other.id, *mac).await?;
        }
        tx.make_due(other.id, now).await?;
        let text = format!("The network card {} moved from {} to {}.", list(&moved), other.name, m.name);
        say(tx, other, "machine.nic_moved", Severity::Warning, text, now).await?;
    }
    Ok(())
}

fn list(macs: &[Mac]) -> String {
    macs.iter().map(Mac::to_string).collect::<Vec<_>>().join(", ")
}

/// New and lost network cards of a known machine, as events.
async fn note_nics(tx: &mut Tx, m: &mut Machine, new: &[Mac], lost: &[Mac], now: Timestamp) -> Result<()> {
    for mac in lost {
        tx.delete_mac(m.id, *mac).await?;
    }
    // The first agent of a machine from a packing list brings its other cards: nothing to tell.
    let known_before = m.hardware.is_some();
    let text = match (new.is_empty(), lost.is_empty()) {
        (true, true) => return Ok(()),
        (false, false) => format!("{}: network card {} is gone, {} is new (swapped).", m.name, list(lost), list(new)),
        (false, true) => format!("{}: network card {} is new.", m.name, list(new)),
        (true, false) => format!("{}: network card {} is gone.", m.name, list(lost)),
    };
    m.macs.retain(|mac| !lost.contains(mac));
    m.macs.extend(new);
    if known_before {
        say(tx, m, "machine.nic_swapped", Severity::Warning, text, now).await?;
    }
    Ok(())
}

async fn say(tx: &mut Tx, m: &Machine, kind: &'static str, severity: Severity, text: String, now: Timestamp) -> Result<()> {
    let run: Option<RunId> = m.current_run;
    let event = NewEvent { machine: Some(m.id), run, kind, severity, text, actor: "agent".to_owned() };
    tx.insert_event(EventId(clock::fresh_uuid()), now, &event).await?;
    Ok(())
}

/// Control characters become spaces: a log line is one line, and no terminal obeys it.
fn printable(text: &str, max: usize) -> String {
    text.chars().take(max).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn cut(result: TaskResult) -> TaskResult {
    match result {
        TaskResult::Ok { evidence } => TaskResult::Ok { evidence },
        TaskResult::Failed { code, message, retry } => {
            TaskResult::Failed { code: printable(&code, 64), message: printable(&message, 1000), retry }
        }
    }
}
