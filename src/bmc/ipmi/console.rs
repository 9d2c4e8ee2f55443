//! The machine's serial console by serial over LAN (IPMI v2.0, sections 15 and 24): a byte stream.
//!
//! A console has a session of its own, beside the one of all other calls, for as long as it is open; BMCs have 4 to 16.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::bmc::BmcError;
use crate::bmc::ipmi::Ipmi;
use crate::bmc::ipmi::session::{Repeat, Session, SessionError};
use crate::wire::ipmi::{self, completion};
use crate::wire::sol::Stream;

/// Payload type and instance of serial over LAN (13.27.3, 24.1).
const SOL_INSTANCE: [u8; 2] = [1, 1];
/// Encrypted and authenticated (24.1, auxiliary byte 1, bits 7 and 6).
const PROTECTED: u8 = 0xc0;
/// Characters in one packet, unless the BMC wants fewer.
const CHUNK: usize = 64;
/// Head of an SOL packet, which counts towards the BMC's size (15.9).
const SOL_HEAD: usize = 4;
/// Unacknowledged characters are sent again after this, at most [`RESENDS`] times (15.11).
const RESEND_AFTER: Duration = Duration::from_millis(500);
const RESENDS: u8 = 7;
/// A session without traffic ends after 60 s (6.12.15).
const KEEP_ALIVE: Duration = Duration::from_secs(25);
/// Pieces of text between us and the reader; a reader that does not read stops the stream, not the process.
const PIECES: usize = 64;

/// An open console. Dropping it ends the stream; the BMC notices by its own timeout. [`Console::close`] tells it.
pub struct Console {
    input: mpsc::Sender<Vec<u8>>,
    output: mpsc::Receiver<Vec<u8>>,
    pump: JoinHandle<Result<(), SessionError>>,
    address: String,
}

impl Console {
    /// What the machine printed next; `None` when the console ended: [`Console::close`] says why.
    pub async fn read(&mut self) -> Option<Vec<u8>> {
        self.output.recv().await
    }

    /// Keys for the machine. Returns when they are queued.
    ///
    /// # Errors
    /// `Unreachable` when the console has ended.
    pub async fn write(&self, keys: &[u8]) -> Result<(), BmcError> {
        let ended = || BmcError::Unreachable { address: self.address.clone(), why: "the console has ended".to_owned() };
        self.input.send(keys.to_vec()).await.map_err(|_| ended())
    }

    /// Ends the stream at the BMC and its session.
    ///
    /// # Errors
    /// Why the console ended by itself.
    pub async fn close(self) -> Result<(), BmcError> {
        let Self { input, mut output, pump, address } = self;
        drop(input);
        // What is still under way would hold the pump up.
        output.close();
        match pump.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(SessionError::Timeout(after))) => Err(BmcError::Timeout { address, after }),
            Ok(Err(other)) => Err(BmcError::Unreachable { address, why: format!("the console ended: {other}") }),
            Err(_) => Err(BmcError::Unreachable { address, why: "the console ended".to_owned() }),
        }
    }
}

impl Ipmi {
    /// Opens the console.
    ///
    /// # Errors
    /// `Busy` while another session has it, `Unsupported` where it is switched off, and all errors of a login.
    pub async fn console(&self) -> Result<Console, BmcError> {
        let mut session = self.open().await?;
        let activate = [SOL_INSTANCE.as_slice(), &[PROTECTED, 0, 0, 0]].concat();
        let answer = session.call(0, ipmi::ACTIVATE_PAYLOAD, &activate, Repeat::Yes).await.map_err(|e| self.error(e))?;
        // 24.1: auxiliary data 4, inbound and outbound size 2 each, port, VLAN.
        let inbound = match (answer.completion, answer.data.get(4..6)) {
            (completion::OK, Some([low, high])) => usize::from(u16::from_le_bytes([*low, *high])),
            (code, _) => {
                session.close().await;
                return Err(match code {
                    0x80 => self.busy("its serial console is in use by another session"),
                    0x81 => self.unsupported("a serial console (it is switched off)".to_owned()),
                    0x82 => self.busy("it has no serial console left to give"),
                    completion::OK => self.nonsense("an opened serial console that ends early"),
                    code => self.judge(ipmi::ACTIVATE_PAYLOAD, code).err().unwrap_or_else(|| self.nonsense("no serial console")),
                });
            }
        };
        let chunk = inbound.saturating_sub(SOL_HEAD).clamp(1, CHUNK);
        let ((input, keys), (text, output)) = (mpsc::channel(PIECES), mpsc::channel(PIECES));
        let pump = Pump { session, stream: Stream::default(), chunk, pending: Vec::new(), resends: 0, due: None };
        Ok(Console { input, output, pump: tokio::spawn(pump.run(keys, text)), address: self.address.clone() })
    }
}

/// Carries characters both ways until one side ends.
struct Pump {
    session: Session,
    stream: Stream,
    chunk: usize,
    /// Keys not sent yet.
    pending: Vec<u8>,
    resends: u8,
    /// When the packet under way is sent again.
    due: Option<Instant>,
}

impl Pump {
    async fn run(mut self, mut keys: mpsc::Receiver<Vec<u8>>, text: mpsc::Sender<Vec<u8>>) -> Result<(), SessionError> {
        let ended = self.carry(&mut keys, &text).await;
        if ended.is_ok() {
            let off = [SOL_INSTANCE.as_slice(), &[0; 4]].concat();
            if let Err(error) = self.session.call(0, ipmi::DEACTIVATE_PAYLOAD, &off, Repeat::Briefly).await {
                tracing::debug!(%error, "A serial console was left to time out");
            }
            self.session.close().await;
        }
        ended
    }

    async fn carry(&mut self, keys: &mut mpsc::Receiver<Vec<u8>>, text: &mpsc::Sender<Vec<u8>>) -> Result<(), SessionError> {
        let mut alive = Instant::now() + KEEP_ALIVE;
        loop {
            self.send_pending().await?;
            let wake = self.due.map_or(alive, |due| due.min(alive));
            tokio::select! {
                packet = self.session.receive_sol() => {
                    let received = self.stream.receive(packet?);
                    if !received.left_over.is_empty() {
                        // It has no room now: asking again at once would only keep it busy.
                        tokio::time::sleep(RESEND_AFTER).await;
                        self.pending.splice(0..0, received.left_over);
                    }
                    if self.stream.may_send() {
                        self.due = None;
                    }
                    if let Some(answer) = received.answer {
                        self.session.send_sol(&answer).await?;
                    }
                    // A reader that is gone ends the console.
                    if received.over || (!received.data.is_empty() && text.send(received.data).await.is_err()) {
                        return Ok(());
                    }
                    alive = Instant::now() + KEEP_ALIVE;
                }
                // Keys wait in their channel while there are enough here.
                typed = keys.recv(), if self.pending.len() < CHUNK => match typed {
                    Some(typed) => self.pending.extend(typed),
                    None => return Ok(()),
                },
                () = sleep_until(wake) => {
                    if self.due.is_some_and(|due| due <= Instant::now()) {
                        self.resend().await?;
                    } else {
                        self.session.call(0, ipmi::GET_DEVICE_ID, &[], Repeat::Yes).await?;
                        alive = Instant::now() + KEEP_ALIVE;
                    }
                }
            }
        }
    }

    async fn send_pending(&mut self) -> Result<(), SessionError> {
        if self.pending.is_empty() || !self.stream.may_send() {
            return Ok(());
        }
        let rest = self.pending.split_off(self.chunk.min(self.pending.len()));
        let now = std::mem::replace(&mut self.pending, rest);
        let packet = self.stream.send(&now);
        (self.resends, self.due) = (0, Some(Instant::now() + RESEND_AFTER));
        self.session.send_sol(&packet).await
    }

    async fn resend(&mut self) -> Result<(), SessionError> {
        self.resends += 1;
        if self.resends > RESENDS {
            return Err(SessionError::Timeout(RESEND_AFTER * u32::from(RESENDS)));
        }
        self.due = Some(Instant::now() + RESEND_AFTER);
        match self.stream.again().cloned() {
            Some(packet) => self.session.send_sol(&packet).await,
            None => Ok(()),
        }
    }
}
