//! One RMCP+ session over UDP: set-up (IPMI v2.0, 13.14 to 13.24), exchanges with retransmission, and its end.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout_at};

use crate::domain::secret::Secret;
use crate::wire::ipmi::{self, Command, Request, Response};
use crate::wire::rmcp::{
    self, BadPacket, DATAGRAM_CAP, Exchange, Keys, OpenRequest, OpenResponse, Packet, Payload, Rakp1, Rakp2, RakpCode, Suite, Window,
    status,
};
use crate::wire::sol::SolPacket;

/// Waits for an answer after the first sending and after each repetition. Sum: 7.5 s.
const RESEND: [Duration; 4] = [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];
/// The same for a session that was idle before: BMCs drop idle sessions without a word, and then a new one helps, not more
/// waiting. Sum: 1.5 s.
const RESEND_REUSED: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(1)];
/// For a request that must not run twice: sent once, waited for as long as the others.
const SEND_ONCE: [Duration; 1] = [Duration::from_millis(7500)];
/// Rounds of the key exchange: a lost RAKP 4 leaves the BMC in a session we cannot use, so a second begins anew.
const SET_UP_ROUNDS: u8 = 2;
/// Requested privilege levels (6.8), with name-only lookup (13.20, bit 4).
const NAME_ONLY: u8 = 0x10;
const ADMINISTRATOR: u8 = 4;
const OPERATOR: u8 = 3;
/// The channel the request came in on (6.3).
const THIS_CHANNEL: u8 = 0x0e;

/// Whether a request may be sent again when no answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    Yes,
    /// Yes, but soon give up this session and let the caller open another.
    Briefly,
    No,
}

#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("wrong user or password")]
    Unauthorized,
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("{0}")]
    Unreachable(String),
    #[error("{0}")]
    Unsupported(String),
    #[error("{0}")]
    Busy(String),
    #[error("{0}")]
    Nonsense(String),
    #[error("{0}")]
    Refused(String),
}

impl From<BadPacket> for SessionError {
    fn from(bad: BadPacket) -> Self {
        Self::Nonsense(bad.to_string())
    }
}

pub struct Login<'a> {
    pub user: &'a str,
    pub password: &'a Secret<String>,
}

/// An open session. Requests go one after the other.
pub struct Session {
    link: Link,
    keys: Keys,
    console_session: u32,
    bmc_session: u32,
    sequence: u32,
    /// What the BMC sent in this session: an answer that comes twice is not the answer to a later request (6.12.13).
    window: Window,
    request: u8,
}

/// A UDP socket that talks to one BMC only.
struct Link {
    socket: UdpSocket,
    buffer: Box<[u8; DATAGRAM_CAP]>,
}

impl Link {
    async fn open(host: &str, port: u16) -> Result<Self, SessionError> {
        let unreachable = |e: std::io::Error| SessionError::Unreachable(e.to_string());
        let target: SocketAddr = tokio::net::lookup_host((host, port))
            .await
            .map_err(unreachable)?
            .next()
            .ok_or_else(|| SessionError::Unreachable("the name has no address".into()))?;
        let any: SocketAddr = if target.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
        let socket = UdpSocket::bind(any).await.map_err(unreachable)?;
        socket.connect(target).await.map_err(unreachable)?;
        Ok(Self { socket, buffer: Box::new([0; DATAGRAM_CAP]) })
    }

    /// Sends what `packet` makes and waits for something `accept` takes, again and again as `waits` says.
    async fn exchange<T>(
        &mut self,
        waits: &[Duration],
        mut packet: impl FnMut() -> Vec<u8>,
        mut accept: impl FnMut(&[u8]) -> Option<T>,
    ) -> Result<T, SessionError> {
        let mut refused = false;
        for wait in waits {
            match self.socket.send(&packet()).await {
                Ok(_) => refused = false,
                // The ICMP answer to an earlier packet shows up here.
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => refused = true,
                Err(e) => return Err(SessionError::Unreachable(e.to_string())),
            }
            let end = Instant::now() + *wait;
            loop {
                match timeout_at(end, self.socket.recv(self.buffer.as_mut_slice())).await {
                    Err(_) => break,
                    Ok(Ok(length)) => {
                        // Whatever does not fit (late, doubled, forged) is passed over.
                        if let Some(answer) = accept(self.buffer.get(..length).unwrap_or_default()) {
                            return Ok(answer);
                        }
                    }
                    Ok(Err(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                        refused = true;
                        tokio::time::sleep_until(end).await;
                        break;
                    }
                    Ok(Err(e)) => return Err(SessionError::Unreachable(e.to_string())),
                }
            }
        }
        if refused {
            return Err(SessionError::Unreachable(
                "nothing listens on its IPMI port (UDP): IPMI over LAN is off, or another program owns the address".into(),
            ));
        }
        Err(SessionError::Timeout(waits.iter().sum()))
    }

    /// A command outside a session (13.6, IPMI 1.5 format).
    async fn plain(&mut self, command: Command, data: Vec<u8>, sequence: u8) -> Result<Response, SessionError> {
        let request = Request { netfn: command.netfn, lun: 0, command: command.number, sequence, data };
        let bytes = Packet::plain15(&request.write());
        self.exchange(
            &RESEND,
            || bytes.clone(),
            |b| match Packet::read(b) {
                Ok(Packet::Plain15(payload) | Packet::Plain20(Payload::Ipmi, payload)) => answer_to(&request, payload),
                Ok(Packet::Plain20(..) | Packet::Session { .. } | Packet::Ping { .. }) | Err(_) => None,
            },
        )
        .await
    }

    /// A set-up message and its answer, recognised by payload type and message tag.
    async fn set_up<T>(
        &mut self,
        send: Payload,
        body: Vec<u8>,
        expect: Payload,
        read: impl Fn(&[u8]) -> Result<T, BadPacket>,
    ) -> Result<T, SessionError> {
        let tag = body.first().copied();
        let bytes = Packet::plain20(send, &body);
        let answer = self
            .exchange(
                &RESEND,
                || bytes.clone(),
                |b| match Packet::read(b) {
                    Ok(Packet::Plain20(kind, payload)) if kind == expect && payload.first().copied() == tag => Some(payload.to_vec()),
                    Ok(Packet::Plain15(_) | Packet::Plain20(..) | Packet::Session { .. } | Packet::Ping { .. }) | Err(_) => None,
                },
            )
            .await?;
        Ok(read(&answer)?)
    }
}

fn answer_to(request: &Request, payload: &[u8]) -> Option<Response> {
    let response = Response::read(payload).ok()?;
    (response.netfn == request.netfn && response.command == request.command && response.sequence == request.sequence).then_some(response)
}

/// A failed set-up step: the status and whether another try in another way makes sense.
enum SetUp {
    Failed(SessionError),
    OtherSuite(u8),
    LowerRole,
    Again(SessionError),
}

impl From<SessionError> for SetUp {
    fn from(e: SessionError) -> Self {
        Self::Failed(e)
    }
}

impl Session {
    /// Logs in with the best suite the BMC offers (17 before 3), as administrator or, where the account has less, as
    /// operator. A wrong password is tried once.
    pub async fn open(host: &str, port: u16, login: &Login<'_>) -> Result<Self, SessionError> {
        if login.user.len() > rmcp::USER_BYTES || login.password.expose().len() > rmcp::PASSWORD_BYTES {
            return Err(SessionError::Unsupported(format!(
                "users of more than {} or passwords of more than {} bytes over IPMI",
                rmcp::USER_BYTES,
                rmcp::PASSWORD_BYTES
            )));
        }
        let mut link = Link::open(host, port).await?;
        let mut suites = offered_suites(&mut link).await?;
        let mut role = ADMINISTRATOR;
        let mut rounds = SET_UP_ROUNDS;
        loop {
            let Some(suite) = suites.first().copied() else {
                return Err(SessionError::Unsupported("a cipher suite we accept (17 or 3)".into()));
            };
            match set_up(&mut link, login, suite, role).await {
                Ok((keys, console_session, bmc_session)) => {
                    let mut session = Self { link, keys, console_session, bmc_session, sequence: 0, window: Window::default(), request: 0 };
                    session.raise_privilege(role).await?;
                    return Ok(session);
                }
                Err(SetUp::OtherSuite(why)) if suites.len() > 1 => {
                    tracing::debug!(
                        host,
                        suite = suite.id(),
                        status = status::sentence(why),
                        "The BMC offers a cipher suite and then refuses it"
                    );
                    suites.remove(0);
                }
                Err(SetUp::OtherSuite(why)) => {
                    return Err(SessionError::Unsupported(format!("cipher suite {} ({})", suite.id(), status::sentence(why))));
                }
                Err(SetUp::LowerRole) if role == ADMINISTRATOR => role = OPERATOR,
                Err(SetUp::LowerRole) => {
                    return Err(SessionError::Refused(
                        "the user has neither administrator nor operator privilege on its LAN channel".into(),
                    ));
                }
                Err(SetUp::Again(e)) => {
                    rounds -= 1;
                    if rounds == 0 {
                        return Err(e);
                    }
                }
                Err(SetUp::Failed(e)) => return Err(e),
            }
        }
    }

    /// Sessions begin as "user" (6.8): boot options and power control need more.
    async fn raise_privilege(&mut self, role: u8) -> Result<(), SessionError> {
        let answer = self.call(0, ipmi::SET_PRIVILEGE, &[role], Repeat::Yes).await?;
        match answer.completion {
            ipmi::completion::OK => Ok(()),
            // 22.18: above the channel's or the user's limit.
            0x80..=0x82 if role == ADMINISTRATOR => {
                let answer = self.call(0, ipmi::SET_PRIVILEGE, &[OPERATOR], Repeat::Yes).await?;
                if answer.completion == ipmi::completion::OK {
                    Ok(())
                } else {
                    Err(SessionError::Refused("it does not let the user become operator".into()))
                }
            }
            code => Err(SessionError::Refused(format!("it does not raise the session's privilege (completion code {code:#04x})"))),
        }
    }

    /// One command and its answer, whatever its completion code.
    ///
    /// Every sending has its own session sequence number (6.12.8) and the same rqSeq, by which the answer is known.
    pub async fn call(&mut self, lun: u8, command: Command, data: &[u8], repeat: Repeat) -> Result<Response, SessionError> {
        self.request = (self.request + 1) & 0x3f;
        let request = Request { netfn: command.netfn, lun, command: command.number, sequence: self.request, data: data.to_vec() };
        let body = request.write();
        let waits: &[Duration] = match repeat {
            Repeat::Yes => &RESEND,
            Repeat::Briefly => &RESEND_REUSED,
            Repeat::No => &SEND_ONCE,
        };
        let Self { link, keys, console_session, bmc_session, sequence, window, .. } = self;
        link.exchange(
            waits,
            || {
                // 0 is "outside a session".
                *sequence = sequence.checked_add(1).unwrap_or(1);
                keys.seal(*bmc_session, *sequence, Payload::Ipmi, &body, crate::clock::random())
            },
            |b| match Packet::read(b) {
                Ok(Packet::Session { id, sequence, payload: Payload::Ipmi, packet }) if id == *console_session => {
                    let payload = keys.open(packet).ok()?;
                    window.takes(sequence).then(|| answer_to(&request, &payload))?
                }
                Ok(Packet::Session { .. } | Packet::Plain15(_) | Packet::Plain20(..) | Packet::Ping { .. }) | Err(_) => None,
            },
        )
        .await
    }

    /// Sends characters or an acknowledgement of serial over LAN, once.
    pub async fn send_sol(&mut self, packet: &SolPacket) -> Result<(), SessionError> {
        self.sequence = self.sequence.checked_add(1).unwrap_or(1);
        let bytes = self.keys.seal(self.bmc_session, self.sequence, Payload::Sol, &packet.write(), crate::clock::random());
        match self.link.socket.send(&bytes).await {
            Ok(_) => Ok(()),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => Ok(()),
            Err(e) => Err(SessionError::Unreachable(e.to_string())),
        }
    }

    /// The next packet of serial over LAN. Dropping the future loses nothing.
    pub async fn receive_sol(&mut self) -> Result<SolPacket, SessionError> {
        loop {
            let length = match self.link.socket.recv(self.link.buffer.as_mut_slice()).await {
                Ok(length) => length,
                Err(e) => return Err(SessionError::Unreachable(e.to_string())),
            };
            let bytes = self.link.buffer.get(..length).unwrap_or_default();
            if let Ok(Packet::Session { id, sequence, payload: Payload::Sol, packet }) = Packet::read(bytes)
                && id == self.console_session
                && let Ok(payload) = self.keys.open(packet)
                && self.window.takes(sequence)
                && let Ok(packet) = SolPacket::read(&payload)
            {
                return Ok(packet);
            }
        }
    }

    /// Close Session (22.19). A lost answer costs the BMC a slot until its 60 s timeout (6.12.15).
    pub async fn close(mut self) {
        let id = self.bmc_session.to_le_bytes();
        if let Err(error) = self.call(0, ipmi::CLOSE_SESSION, &id, Repeat::No).await {
            tracing::debug!(%error, "An IPMI session was left to time out");
        }
    }
}

/// Suites we speak that the BMC offers, best first (Get Channel Cipher Suites, 22.15).
async fn offered_suites(link: &mut Link) -> Result<Vec<Suite>, SessionError> {
    let mut records = Vec::new();
    // The index counts 16-byte pieces; suites we know are within the first few.
    for index in 0..16u8 {
        let answer = link.plain(ipmi::GET_CIPHER_SUITES, vec![THIS_CHANNEL, 0x00, 0x80 | index], index).await?;
        if answer.completion != ipmi::completion::OK {
            break;
        }
        // The first byte is the channel number.
        let piece = answer.data.get(1..).unwrap_or_default();
        records.extend_from_slice(piece);
        if piece.len() < 16 {
            break;
        }
    }
    let ids = ipmi::cipher_suites(&records);
    let both = [Suite::Sha256, Suite::Sha1];
    if ids.is_empty() {
        // Older firmware lacks the command; suite 3 is mandatory (22.15.2), so it comes first there.
        return Ok(vec![Suite::Sha1, Suite::Sha256]);
    }
    let known: Vec<Suite> = both.into_iter().filter(|s| ids.contains(&s.id())).collect();
    if known.is_empty() {
        let ids = ids.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        return Err(SessionError::Unsupported(format!("a cipher suite we accept: it offers {ids}; enable 17 or 3")));
    }
    Ok(known)
}

/// Open Session and RAKP 1 to 4. Returns the keys and both session ids.
async fn set_up(link: &mut Link, login: &Login<'_>, suite: Suite, role: u8) -> Result<(Keys, u32, u32), SetUp> {
    let [tag, rest @ ..]: [u8; 5] = crate::clock::random();
    let console_session = u32::from_le_bytes(rest).max(1);
    let open = OpenRequest { tag, privilege: role, console_session, algorithms: suite.algorithms() };
    let opened = link.set_up(Payload::OpenRequest, open.write(), Payload::OpenResponse, OpenResponse::read).await?;
    match opened.status {
        status::OK => {}
        status::NO_RESOURCES | status::NO_RESOURCES_FOR_ROLE => {
            return Err(SessionError::Busy(status::sentence(opened.status).into()).into());
        }
        code @ (0x03..=0x07 | 0x10 | status::NO_MATCHING_SUITE) => return Err(SetUp::OtherSuite(code)),
        status::BAD_ROLE | status::ROLE_NOT_ALLOWED => return Err(SetUp::LowerRole),
        code => return Err(SessionError::Refused(format!("it opens no session: {}", status::sentence(code))).into()),
    }
    if opened.console_session != console_session || opened.algorithms != suite.algorithms() || opened.bmc_session == 0 {
        return Err(SessionError::Nonsense("an open session answer for something we did not ask".into()).into());
    }
    let mut exchange = Exchange {
        suite,
        console_session,
        bmc_session: opened.bmc_session,
        console_random: crate::clock::random(),
        bmc_random: [0; 16],
        bmc_guid: [0; 16],
        role: NAME_ONLY | role,
        user: login.user.as_bytes().to_vec(),
    };
    let tag = tag.wrapping_add(1);
    let one = Rakp1 {
        tag,
        bmc_session: exchange.bmc_session,
        console_random: exchange.console_random,
        role: exchange.role,
        user: exchange.user.clone(),
    };
    let two = link.set_up(Payload::Rakp1, one.write(), Payload::Rakp2, Rakp2::read).await?;
    match two.status {
        status::OK => {}
        status::UNKNOWN_NAME | status::BAD_NAME_LENGTH | status::BAD_CODE => return Err(SessionError::Unauthorized.into()),
        status::ROLE_NOT_ALLOWED | status::BAD_ROLE => return Err(SetUp::LowerRole),
        status::NO_RESOURCES | status::NO_RESOURCES_FOR_ROLE => return Err(SessionError::Busy(status::sentence(two.status).into()).into()),
        code => return Err(SessionError::Refused(format!("it refuses the login: {}", status::sentence(code))).into()),
    }
    if two.console_session != console_session {
        return Err(SessionError::Nonsense("a RAKP 2 for another session".into()).into());
    }
    exchange.bmc_random = two.bmc_random;
    exchange.bmc_guid = two.bmc_guid;
    let key = rmcp::password_key(login.password.expose().as_bytes());
    let tag = tag.wrapping_add(1);
    let mut three = RakpCode { tag, status: status::OK, session: exchange.bmc_session, code: Vec::new() };
    if !rmcp::same_code(&exchange.rakp2_code(&key), &two.code) {
        // The BMC signed with another password than ours. Say so (13.22), to free its half-open session.
        three.status = status::BAD_CODE;
        if let Err(e) = link.socket.send(&Packet::plain20(Payload::Rakp3, &three.write())).await {
            tracing::debug!(error = %e, "A half-open IPMI session was left to time out");
        }
        return Err(SessionError::Unauthorized.into());
    }
    three.code = exchange.rakp3_code(&key);
    let four = match link.set_up(Payload::Rakp3, three.write(), Payload::Rakp4, RakpCode::read).await {
        Err(e @ SessionError::Timeout(_)) => return Err(SetUp::Again(e)),
        other => other?,
    };
    match four.status {
        status::OK => {}
        status::BAD_CODE | status::UNKNOWN_NAME => return Err(SessionError::Unauthorized.into()),
        // Our RAKP 3 came twice because its answer was lost.
        code @ (status::BAD_SESSION | 0x08) => {
            return Err(SetUp::Again(SessionError::Refused(format!(
                "it forgot the session it had just opened: {}",
                status::sentence(code)
            ))));
        }
        status::ROLE_NOT_ALLOWED | status::BAD_ROLE => return Err(SetUp::LowerRole),
        code => return Err(SessionError::Refused(format!("it refuses the login: {}", status::sentence(code))).into()),
    }
    if four.session != console_session || !rmcp::same_code(&exchange.rakp4_code(&key), &four.code) {
        return Err(SessionError::Nonsense("a RAKP 4 with a wrong check value".into()).into());
    }
    Ok((exchange.keys(&key), console_session, exchange.bmc_session))
}
