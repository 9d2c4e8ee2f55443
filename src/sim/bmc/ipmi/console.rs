//! The simulated machine's serial port over LAN (IPMI v2.0, section 15): it greets, echoes what is typed, and greets again after
//! each line.

use crate::wire::sol::{SolPacket, Stream};

/// Payload bytes each way (24.1): what ipmitool takes without complaint.
const SIZE: u16 = 200;
/// Characters in one packet.
const CHUNK: usize = 64;
/// The primary RMCP port, which clients that came in elsewhere pass over.
const PORT: u16 = 623;

pub struct Console {
    stream: Stream,
    serial: String,
    /// What the machine printed and the client has not.
    printed: Vec<u8>,
}

/// The answer to Activate Payload (24.1): auxiliary data, sizes in and out, port, no VLAN.
pub fn activated() -> Vec<u8> {
    let mut out = vec![0; 4];
    for number in [SIZE, SIZE, PORT, 0xffff] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out
}

impl Console {
    /// The console and its first packet.
    pub fn open(serial: &str) -> (Self, Vec<u8>) {
        let mut console = Self { stream: Stream::default(), serial: serial.to_owned(), printed: Vec::new() };
        console.prompt();
        let first = console.next().unwrap_or_default().write();
        (console, first)
    }

    fn prompt(&mut self) {
        self.printed.extend_from_slice(format!("\r\n{} login: ", self.serial).as_bytes());
    }

    fn next(&mut self) -> Option<SolPacket> {
        if !self.stream.may_send() {
            return self.stream.again().cloned();
        }
        if self.printed.is_empty() {
            return None;
        }
        let rest = self.printed.split_off(CHUNK.min(self.printed.len()));
        let now = std::mem::replace(&mut self.printed, rest);
        Some(self.stream.send(&now))
    }

    /// Takes a packet; what goes back, if anything.
    pub fn receive(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        let received = self.stream.receive(SolPacket::read(body).ok()?);
        for key in received.data {
            match key {
                b'\r' => self.prompt(),
                key => self.printed.push(key),
            }
        }
        let text = self.next();
        // One packet carries both an acknowledgement and text (15.9).
        match (received.answer, text) {
            (Some(answer), Some(text)) => Some(SolPacket { acks: answer.acks, accepted: answer.accepted, ..text }.write()),
            (Some(only), None) | (None, Some(only)) => Some(only.write()),
            (None, None) => None,
        }
    }
}
