//! The IPMI front: RMCP+ with cipher suites 3 and 17, the accounts of the BMC, chassis and boot options; the board behind it in
//! `hardware`, the rest of the commands in `commands`, serial over LAN in `console`. Sections are those of the IPMI specification
//! v2.0, revision 1.1.

mod commands;
mod console;
mod hardware;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::clock;
use crate::domain::power::{BootDevice, FirmwareKind};
use crate::sim::bmc::ipmi::commands::Notes;
use crate::sim::bmc::ipmi::console::Console;
use crate::sim::bmc::shared::Shared;
use crate::sim::bmc::{BootOverride, Reach};
use crate::wire::ipmi::{self, BootFlags, Command, Request, Response, completion};
use crate::wire::rmcp::{
    self, DATAGRAM_CAP, Exchange, Keys, OpenRequest, OpenResponse, Packet, Payload, Rakp1, Rakp2, RakpCode, Suite, Window, status,
};

/// An idle session ends after 60 s, plus or minus 3 (6.12.15).
const SESSION_IDLE_CAP: Duration = Duration::from_secs(60);
/// A login that does not go on is forgotten.
const HALF_OPEN_CAP: Duration = Duration::from_secs(10);

pub struct Front {
    pub addr: SocketAddr,
    sessions: Arc<Mutex<HashMap<u32, Session>>>,
}

enum Stage {
    Opened,
    Challenged(Exchange),
    Active(Box<Active>),
}

struct Active {
    keys: Keys,
    /// Privilege now, and the most it may be raised to (6.8).
    privilege: u8,
    limit: u8,
    window: Window,
    sent: u32,
    /// Serial over LAN, where this session has it.
    console: Option<Console>,
}

struct Session {
    console_session: u32,
    suite: Suite,
    stage: Stage,
    last: Instant,
}

impl Session {
    fn is_over(&self) -> bool {
        let cap = match self.stage {
            Stage::Opened | Stage::Challenged(_) => HALF_OPEN_CAP,
            Stage::Active(_) => SESSION_IDLE_CAP,
        };
        self.last.elapsed() > cap
    }
}

impl Active {
    fn seal(&mut self, console_session: u32, payload: Payload, body: &[u8]) -> Vec<u8> {
        self.sent = self.sent.checked_add(1).unwrap_or(1);
        self.keys.seal(console_session, self.sent, payload, body, clock::random())
    }
}

struct Server {
    notes: Mutex<Notes>,
    shared: Arc<Shared>,
    sessions: Arc<Mutex<HashMap<u32, Session>>>,
}

impl Front {
    pub async fn start(shared: Arc<Shared>, tasks: &mut JoinSet<()>) -> io::Result<Self> {
        let socket = UdpSocket::bind((shared.setup.listen, 0)).await?;
        let addr = socket.local_addr()?;
        let sessions = Arc::<Mutex<HashMap<u32, Session>>>::default();
        let server = Server { notes: Mutex::default(), shared, sessions: Arc::clone(&sessions) };
        tasks.spawn(run(socket, server));
        Ok(Self { addr, sessions })
    }

    pub fn open_sessions(&self) -> usize {
        self.sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .filter(|s| matches!(s.stage, Stage::Active(_)) && !s.is_over())
            .count()
    }

    pub fn forget_sessions(&self) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// One packet after the other, as a small controller does.
async fn run(socket: UdpSocket, server: Server) {
    let mut buffer = vec![0; DATAGRAM_CAP];
    loop {
        // Errors here are ICMP answers to earlier packets, whose senders are gone.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else { continue };
        let faults = server.shared.faults();
        if faults.reach != Reach::Normal {
            continue;
        }
        tokio::time::sleep(faults.delay).await;
        for answer in server.answer(buffer.get(..length).unwrap_or_default()) {
            if let Err(error) = socket.send_to(&answer, peer).await {
                tracing::debug!(%error, "A simulated BMC could not answer");
            }
        }
    }
}

impl Server {
    fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What goes back for a packet: an answer, and text of the serial console beside.
    fn answer(&self, packet: &[u8]) -> Vec<Vec<u8>> {
        match Packet::read(packet) {
            Ok(Packet::Session { id, sequence, payload, packet }) => self.inside(id, sequence, payload, packet).unwrap_or_default(),
            Ok(other) => self.before_login(other).into_iter().collect(),
            Err(_) => Vec::new(),
        }
    }

    fn before_login(&self, packet: Packet<'_>) -> Option<Vec<u8>> {
        match packet {
            Packet::Ping { tag } => Some(Packet::pong(tag)),
            Packet::Plain15(payload) => Some(Packet::plain15(&self.outside(payload)?)),
            Packet::Plain20(Payload::Ipmi, payload) => Some(Packet::plain20(Payload::Ipmi, &self.outside(payload)?)),
            Packet::Plain20(Payload::OpenRequest, body) => {
                Some(Packet::plain20(Payload::OpenResponse, &self.open(OpenRequest::read(body).ok()?).write()))
            }
            Packet::Plain20(Payload::Rakp1, body) => Some(Packet::plain20(Payload::Rakp2, &self.rakp1(&Rakp1::read(body).ok()?).write())),
            Packet::Plain20(Payload::Rakp3, body) => {
                Some(Packet::plain20(Payload::Rakp4, &self.rakp3(&RakpCode::read(body).ok()?)?.write()))
            }
            Packet::Plain20(Payload::Sol | Payload::OpenResponse | Payload::Rakp2 | Payload::Rakp4, _) => None,
            Packet::Session { .. } => None,
        }
    }

    /// Commands allowed without a session (appendix G, privilege "b").
    fn outside(&self, payload: &[u8]) -> Option<Vec<u8>> {
        let request = Request::read(payload).ok()?;
        let (completion, data) = match Command::find(request.netfn, request.command) {
            Some(ipmi::GET_CHANNEL_AUTH) => (completion::OK, auth_capabilities(&request.data)),
            Some(ipmi::GET_CIPHER_SUITES) => cipher_suites(&request.data),
            Some(ipmi::GET_SYSTEM_GUID) => (completion::OK, self.guid().to_vec()),
            Some(_) => (completion::PRIVILEGE, Vec::new()),
            None => (completion::INVALID_COMMAND, Vec::new()),
        };
        Some(Response { netfn: request.netfn, command: request.command, sequence: request.sequence, completion, data }.write())
    }

    fn guid(&self) -> [u8; 16] {
        self.shared.chassis.identity().uuid.0.to_bytes_le()
    }

    fn open(&self, request: OpenRequest) -> OpenResponse {
        let mut answer = OpenResponse {
            tag: request.tag,
            status: status::OK,
            privilege: 4,
            console_session: request.console_session,
            bmc_session: 0,
            algorithms: request.algorithms,
        };
        let mut sessions = self.sessions();
        sessions.retain(|_, s| !s.is_over());
        let active = sessions.values().filter(|s| matches!(s.stage, Stage::Active(_))).count();
        let Some(suite) = Suite::from_algorithms(request.algorithms) else {
            answer.status = status::NO_MATCHING_SUITE;
            return answer;
        };
        // Half-open logins get as much room again, so that nobody is shut out by them for good.
        if active >= self.shared.setup.session_cap || sessions.len() >= 2 * self.shared.setup.session_cap {
            answer.status = status::NO_RESOURCES;
            return answer;
        }
        answer.bmc_session = u32::from_le_bytes(clock::random()).max(1);
        sessions.insert(
            answer.bmc_session,
            Session { console_session: request.console_session, suite, stage: Stage::Opened, last: Instant::now() },
        );
        answer
    }

    fn rakp1(&self, one: &Rakp1) -> Rakp2 {
        let mut answer = Rakp2 {
            tag: one.tag,
            status: status::OK,
            console_session: 0,
            bmc_random: clock::random(),
            bmc_guid: self.guid(),
            code: Vec::new(),
        };
        let mut sessions = self.sessions();
        let Some(session) = sessions.get_mut(&one.bmc_session) else {
            answer.status = status::BAD_SESSION;
            return answer;
        };
        answer.console_session = session.console_session;
        let user = String::from_utf8_lossy(&one.user).into_owned();
        let account = self.shared.accounts().named(&user).filter(|a| a.enabled && !a.locked).cloned();
        let Some(account) = account else {
            self.shared.login_refused(&user);
            answer.status = status::UNKNOWN_NAME;
            return answer;
        };
        match one.role & 0x0f {
            1..=4 if one.role & 0x0f <= commands::limit_of(&account) => {}
            1..=4 => {
                answer.status = status::ROLE_NOT_ALLOWED;
                return answer;
            }
            _ => {
                answer.status = status::BAD_ROLE;
                return answer;
            }
        }
        // A repeated RAKP 1 (its answer was lost) gets the answer it got.
        let exchange = match &session.stage {
            Stage::Challenged(exchange) if exchange.console_random == one.console_random => exchange.clone(),
            Stage::Opened | Stage::Challenged(_) => Exchange {
                suite: session.suite,
                console_session: session.console_session,
                bmc_session: one.bmc_session,
                console_random: one.console_random,
                bmc_random: answer.bmc_random,
                bmc_guid: answer.bmc_guid,
                role: one.role,
                user: one.user.clone(),
            },
            Stage::Active(_) => {
                answer.status = status::BAD_SESSION;
                return answer;
            }
        };
        answer.bmc_random = exchange.bmc_random;
        answer.code = exchange.rakp2_code(&rmcp::password_key(account.password.as_bytes()));
        session.stage = Stage::Challenged(exchange);
        session.last = Instant::now();
        answer
    }

    fn rakp3(&self, three: &RakpCode) -> Option<RakpCode> {
        let mut answer = RakpCode { tag: three.tag, status: status::OK, session: 0, code: Vec::new() };
        let mut sessions = self.sessions();
        let Some(session) = sessions.get_mut(&three.session) else {
            answer.status = status::BAD_SESSION;
            return Some(answer);
        };
        answer.session = session.console_session;
        let Stage::Challenged(exchange) = &session.stage else {
            answer.status = status::BAD_SESSION;
            return Some(answer);
        };
        let user = String::from_utf8_lossy(&exchange.user).into_owned();
        let key = rmcp::password_key(self.shared.accounts().named(&user).map(|a| a.password.clone()).unwrap_or_default().as_bytes());
        if three.status != status::OK || !rmcp::same_code(&exchange.rakp3_code(&key), &three.code) {
            self.shared.login_refused(&user);
            answer.status = status::BAD_CODE;
            sessions.remove(&three.session);
            // 13.22: a console that gave up gets no answer.
            return (three.status == status::OK).then_some(answer);
        }
        self.shared.login_accepted(&user);
        answer.code = exchange.rakp4_code(&key);
        let keys = exchange.keys(&key);
        // Sessions begin as user (6.8).
        let (privilege, limit) = (2.min(exchange.role & 0x0f), exchange.role & 0x0f);
        session.stage = Stage::Active(Box::new(Active { keys, privilege, limit, window: Window::default(), sent: 0, console: None }));
        session.last = Instant::now();
        Some(answer)
    }

    fn inside(&self, id: u32, sequence: u32, payload: Payload, packet: &[u8]) -> Option<Vec<Vec<u8>>> {
        let _in_flight = self.shared.begin();
        let mut sessions = self.sessions();
        sessions.retain(|_, s| !s.is_over());
        let in_use = sessions.values().any(|s| matches!(&s.stage, Stage::Active(a) if a.console.is_some()));
        let session = sessions.get_mut(&id)?;
        let console_session = session.console_session;
        let Stage::Active(active) = &mut session.stage else { return None };
        let body = active.keys.open(packet).ok()?;
        if !active.window.takes(sequence) {
            return None;
        }
        session.last = Instant::now();
        if payload == Payload::Sol {
            let text = active.console.as_mut()?.receive(&body)?;
            return Some(vec![active.seal(console_session, Payload::Sol, &text)]);
        }
        let request = Request::read(&body).ok().filter(|_| payload == Payload::Ipmi)?;
        let command = Command::find(request.netfn, request.command);
        let mut text = None;
        let (completion, data) = match command {
            Some(ipmi::SET_PRIVILEGE) => set_privilege(active, &request.data),
            Some(ipmi::CLOSE_SESSION) => (completion::OK, Vec::new()),
            // 24.1: 80h, another session has it.
            Some(ipmi::ACTIVATE_PAYLOAD) if in_use => (0x80, Vec::new()),
            Some(ipmi::ACTIVATE_PAYLOAD) => {
                let (console, banner) = Console::open(&self.shared.chassis.identity().serial);
                (active.console, text) = (Some(console), Some(banner));
                (completion::OK, console::activated())
            }
            Some(ipmi::DEACTIVATE_PAYLOAD) => {
                active.console = None;
                (completion::OK, Vec::new())
            }
            Some(command) => self.run(command, active.privilege, &request.data),
            None => (completion::INVALID_COMMAND, Vec::new()),
        };
        let response = Response { netfn: request.netfn, command: request.command, sequence: request.sequence, completion, data };
        let mut answers = vec![active.seal(console_session, Payload::Ipmi, &response.write())];
        answers.extend(text.map(|text| active.seal(console_session, Payload::Sol, &text)));
        if command == Some(ipmi::CLOSE_SESSION) {
            sessions.remove(&id);
        }
        Some(answers)
    }

    fn run(&self, command: Command, privilege: u8, data: &[u8]) -> (u8, Vec<u8>) {
        if self.shared.spend(|f| &mut f.busy_answers) {
            return (completion::NODE_BUSY, Vec::new());
        }
        if self.shared.faults().nonsense {
            return (completion::OK, Vec::new());
        }
        if privilege < commands::needs(command) {
            return (completion::PRIVILEGE, Vec::new());
        }
        let chassis = &self.shared.chassis;
        match command {
            ipmi::GET_DEVICE_ID => (completion::OK, device_id(&chassis.identity().bmc_firmware)),
            ipmi::GET_SYSTEM_GUID => (completion::OK, self.guid().to_vec()),
            ipmi::GET_CHANNEL_AUTH => (completion::OK, auth_capabilities(data)),
            ipmi::GET_CIPHER_SUITES => cipher_suites(data),
            ipmi::CHASSIS_STATUS => self.chassis_status(),
            ipmi::CHASSIS_CONTROL => match data.first().copied().and_then(ipmi::chassis_action) {
                Some(action) if self.shared.set_power(action).is_ok() => (completion::OK, Vec::new()),
                Some(_) => (completion::NOT_IN_THIS_STATE, Vec::new()),
                None => (completion::INVALID_FIELD, Vec::new()),
            },
            ipmi::SET_BOOT_OPTIONS => (self.set_boot_option(data), Vec::new()),
            ipmi::GET_BOOT_OPTIONS => match data.first().map(|p| p & 0x7f) {
                // 28.13: version 1, parameter with its "valid" in bit 7 clear, data.
                Some(ipmi::PARAMETER_BOOT_FLAGS) => {
                    (completion::OK, [&[1, ipmi::PARAMETER_BOOT_FLAGS], flags(chassis.boot_override()).write().as_slice()].concat())
                }
                Some(_) => (completion::PARAMETER_NOT_SUPPORTED, Vec::new()),
                None => (completion::LENGTH_INVALID, Vec::new()),
            },
            command => self.board_command(command, data),
        }
    }

    fn set_boot_option(&self, data: &[u8]) -> u8 {
        match data {
            [] => completion::LENGTH_INVALID,
            [parameter, rest @ ..] => match parameter & 0x7f {
                // Set in progress, valid bit clearing, acknowledge: taken, nothing to do.
                0 | ipmi::PARAMETER_VALID_CLEARING | ipmi::PARAMETER_ACKNOWLEDGE => completion::OK,
                ipmi::PARAMETER_BOOT_FLAGS => match BootFlags::read(rest) {
                    Some(flags) => {
                        let device =
                            [BootDevice::Network, BootDevice::Disk].into_iter().find(|d| ipmi::device_selector(*d) == flags.device);
                        let firmware = if flags.efi { FirmwareKind::Uefi } else { FirmwareKind::Bios };
                        let boot = device.filter(|_| flags.valid).map(|device| BootOverride { device, firmware, once: !flags.persistent });
                        self.shared.set_boot(boot);
                        completion::OK
                    }
                    None => completion::LENGTH_INVALID,
                },
                _ => completion::PARAMETER_NOT_SUPPORTED,
            },
        }
    }
}

fn flags(boot: Option<BootOverride>) -> BootFlags {
    match boot {
        None => BootFlags { valid: false, persistent: false, efi: false, device: 0 },
        Some(b) => BootFlags { persistent: !b.once, ..BootFlags::once(b.device, b.firmware) },
    }
}

/// Set Session Privilege Level (22.18): 0 asks what it is.
fn set_privilege(active: &mut Active, data: &[u8]) -> (u8, Vec<u8>) {
    match data.first().map(|p| p & 0x0f) {
        Some(0) => (completion::OK, vec![active.privilege]),
        Some(wanted @ 2..=4) if wanted <= active.limit => {
            active.privilege = wanted;
            (completion::OK, vec![wanted])
        }
        // 0x80: not available for this user.
        Some(2..=4) => (0x80, Vec::new()),
        Some(_) => (completion::INVALID_FIELD, Vec::new()),
        None => (completion::LENGTH_INVALID, Vec::new()),
    }
}

/// Get Channel Authentication Capabilities (22.13): channel 1; IPMI 2.0 only, no 1.5 authentication; named users, no K_G.
fn auth_capabilities(data: &[u8]) -> Vec<u8> {
    let extended = data.first().is_some_and(|channel| channel & 0x80 != 0);
    vec![1, u8::from(extended) << 7, 0x04, if extended { 0x02 } else { 0 }, 0, 0, 0, 0]
}

/// Get Channel Cipher Suites (22.15): channel 1, then 16 bytes of records per index.
fn cipher_suites(data: &[u8]) -> (u8, Vec<u8>) {
    let [_, _, index, ..] = data else { return (completion::LENGTH_INVALID, Vec::new()) };
    let records: Vec<u8> = [Suite::Sha1, Suite::Sha256]
        .into_iter()
        .flat_map(|s| {
            // Table 22-18: algorithm numbers are tagged 00 authentication, 01 integrity, 10 confidentiality.
            let [authentication, integrity, confidentiality] = s.algorithms();
            [0xc0, s.id(), authentication, 0x40 | integrity, 0x80 | confidentiality]
        })
        .collect();
    let from = usize::from(index & 0x3f) * 16;
    let piece = records.get(from..records.len().min(from + 16)).unwrap_or_default();
    (completion::OK, [&[1], piece].concat())
}

/// Get Device ID (20.1): firmware revision from text like `2.14`, IPMI 2.0, a chassis with FRU, SEL, SDRs and sensors.
fn device_id(firmware: &str) -> Vec<u8> {
    let mut numbers = firmware.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u8>().ok());
    let (major, minor) = (numbers.next().unwrap_or(0) & 0x7f, numbers.next().unwrap_or(0) % 100);
    let minor_bcd = ((minor / 10) << 4) | (minor % 10);
    vec![0x20, 0x01, major, minor_bcd, 0x02, 0x8f, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_firmware_version_survives_the_device_id() {
        assert_eq!(ipmi::firmware_version(&device_id("2.14")).as_deref(), Some("2.14"));
        assert_eq!(ipmi::firmware_version(&device_id("iLO 5 v3.11")).as_deref(), Some("5.03"));
    }
}
