//! Serial over LAN: packets and the rules of acknowledgement (IPMI v2.0, rev. 1.1, section 15). Both ends are here: the client
//! and the simulated BMC use it.

use crate::wire::rmcp::BadPacket;

/// Sequence numbers are four bits, and 0 means that nothing needs an acknowledgement (15.9).
const SEQUENCE_MASK: u8 = 0x0f;
/// Operation and status bits of byte 4 that we send or act on (15.9): both ways the first, from the BMC the others.
pub const NACK: u8 = 0x40;
pub const UNAVAILABLE: u8 = 0x20;
pub const DEACTIVATING: u8 = 0x10;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SolPacket {
    pub sequence: u8,
    /// Sequence number of the packet that this one acknowledges; 0 for none.
    pub acks: u8,
    /// Characters of it that were taken.
    pub accepted: u8,
    pub flags: u8,
    pub data: Vec<u8>,
}

impl SolPacket {
    pub fn write(&self) -> Vec<u8> {
        [&[self.sequence & SEQUENCE_MASK, self.acks & SEQUENCE_MASK, self.accepted, self.flags], self.data.as_slice()].concat()
    }

    pub fn read(b: &[u8]) -> Result<Self, BadPacket> {
        let [sequence, acks, accepted, flags, data @ ..] = b else { return Err(BadPacket::Short) };
        Ok(Self { sequence: sequence & SEQUENCE_MASK, acks: acks & SEQUENCE_MASK, accepted: *accepted, flags: *flags, data: data.to_vec() })
    }
}

/// One end of a stream: what it sent and still waits for, and what it took last.
#[derive(Debug, Default)]
pub struct Stream {
    sent: u8,
    waiting: Option<SolPacket>,
    taken: u8,
}

/// What a packet from the other end brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// New characters; empty for a repetition.
    pub data: Vec<u8>,
    /// The acknowledgement to send.
    pub answer: Option<SolPacket>,
    /// Characters of ours that were not taken and must be sent anew.
    pub left_over: Vec<u8>,
    /// The other end ends the stream.
    pub over: bool,
}

impl Stream {
    /// Whether the last packet was acknowledged: one is under way at a time (15.11).
    pub fn may_send(&self) -> bool {
        self.waiting.is_none()
    }

    /// A packet with characters. It is kept until it is acknowledged.
    pub fn send(&mut self, data: &[u8]) -> SolPacket {
        self.sent = self.sent % SEQUENCE_MASK + 1;
        let packet = SolPacket { sequence: self.sent, data: data.to_vec(), ..SolPacket::default() };
        self.waiting = Some(packet.clone());
        packet
    }

    /// The packet that was not acknowledged in time.
    pub fn again(&self) -> Option<&SolPacket> {
        self.waiting.as_ref()
    }

    pub fn receive(&mut self, packet: SolPacket) -> Received {
        let mut out = Received { over: packet.flags & DEACTIVATING != 0, ..Received::default() };
        if packet.acks != 0
            && let Some(waiting) = self.waiting.take_if(|w| w.sequence == packet.acks)
        {
            let taken = usize::from(packet.accepted).min(waiting.data.len());
            if packet.flags & NACK != 0 || taken < waiting.data.len() {
                out.left_over = waiting.data.get(taken..).unwrap_or_default().to_vec();
            }
        }
        if packet.sequence != 0 {
            out.answer = Some(SolPacket {
                acks: packet.sequence,
                accepted: u8::try_from(packet.data.len()).unwrap_or(u8::MAX),
                ..SolPacket::default()
            });
            if packet.sequence != self.taken {
                self.taken = packet.sequence;
                out.data = packet.data;
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn packets_read_back_as_written() {
        let packet = SolPacket { sequence: 3, acks: 15, accepted: 7, flags: NACK, data: b"ls\r".to_vec() };
        assert_eq!(packet.write(), [3, 15, 7, 0x40, b'l', b's', b'\r']);
        assert_eq!(SolPacket::read(&packet.write()), Ok(packet));
        assert_eq!(SolPacket::read(&[1, 2, 3]), Err(BadPacket::Short));
    }

    #[test]
    fn a_repeated_packet_is_acknowledged_again_and_its_text_taken_once() {
        let (mut console, mut bmc) = (Stream::default(), Stream::default());
        let packet = bmc.send(b"login: ");
        let first = console.receive(packet.clone());
        let second = console.receive(packet);
        assert_eq!((first.data.as_slice(), second.data.as_slice()), (b"login: ".as_slice(), b"".as_slice()));
        assert_eq!(first.answer, second.answer);
        assert!(!bmc.may_send());
        assert_eq!(bmc.again().map(|p| p.sequence), Some(1));
        bmc.receive(first.answer.unwrap());
        assert!(bmc.may_send() && bmc.again().is_none());
    }

    #[test]
    fn what_was_not_taken_is_handed_back() {
        let mut console = Stream::default();
        let packet = console.send(b"abcdef");
        let partly = console.receive(SolPacket { acks: packet.sequence, accepted: 2, ..SolPacket::default() });
        assert_eq!(partly.left_over, b"cdef");
        let packet = console.send(b"cdef");
        let refused = console.receive(SolPacket { acks: packet.sequence, accepted: 0, flags: NACK | UNAVAILABLE, ..SolPacket::default() });
        assert_eq!(refused.left_over, b"cdef");
        let stray = console.receive(SolPacket { acks: 9, accepted: 4, ..SolPacket::default() });
        assert_eq!(stray, Received::default());
        assert!(console.receive(SolPacket { flags: DEACTIVATING, ..SolPacket::default() }).over);
    }

    #[test]
    fn sequence_numbers_run_from_1_to_15_and_again() {
        let mut stream = Stream::default();
        let numbers: Vec<u8> = (0..17).map(|_| stream.send(b"x").sequence).collect();
        assert_eq!((numbers[0], numbers[14], numbers[15], numbers[16]), (1, 15, 1, 2));
    }

    proptest! {
        #[test]
        fn no_packets_make_a_stream_panic(packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..12), 0..20)) {
            let mut stream = Stream::default();
            for bytes in packets {
                if let Ok(packet) = SolPacket::read(&bytes) {
                    let received = stream.receive(packet);
                    prop_assert!(received.data.len() <= bytes.len());
                }
                if stream.may_send() {
                    stream.send(b"key");
                }
            }
        }
    }
}
