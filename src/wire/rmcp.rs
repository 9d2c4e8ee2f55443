//! RMCP and RMCP+ (IPMI 2.0): packets, session set-up and the keys of a session. Sections are those of the IPMI
//! specification, second generation v2.0, revision 1.1. Both ends are here: the client and the simulated BMC use it.
//!
//! Only cipher suites with authentication, integrity and encryption are spoken: 17 and 3. Suite 0 and `none` are refused.

use aes::cipher::{BlockModeDecrypt, BlockModeEncrypt, KeyIvInit};
use hmac::{Hmac, KeyInit, Mac};
use subtle::ConstantTimeEq;

/// RMCP header of an IPMI message: version 6, no sequence (no RMCP ACK), class 7 (13.1.3).
const RMCP_IPMI: [u8; 4] = [0x06, 0x00, 0xff, 0x07];
/// Authentication type / format byte of RMCP+ packets (13.6).
const FORMAT_RMCP_PLUS: u8 = 0x06;
/// Longest datagram taken. Answers to LAN commands stay far below one Ethernet frame.
pub const DATAGRAM_CAP: usize = 1500;
/// User names and passwords (13.31, 22.30: 20 bytes with IPMI 2.0).
pub const PASSWORD_BYTES: usize = 20;
pub const USER_BYTES: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPacket {
    #[error("a packet that is too short")]
    Short,
    #[error("a packet of another protocol")]
    NotIpmi,
    #[error("a packet whose lengths do not add up")]
    Lengths,
    #[error("a packet with a wrong integrity code")]
    Integrity,
    #[error("a packet with wrong padding")]
    Padding,
}

/// Cipher suites we speak (22.15.2, table 22-20).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// 3: RAKP-HMAC-SHA1, HMAC-SHA1-96, AES-CBC-128. Mandatory in IPMI 2.0.
    Sha1,
    /// 17: RAKP-HMAC-SHA256, HMAC-SHA256-128, AES-CBC-128.
    Sha256,
}

impl Suite {
    pub fn from_id(id: u8) -> Option<Self> {
        match id {
            3 => Some(Self::Sha1),
            17 => Some(Self::Sha256),
            _ => None,
        }
    }

    pub fn id(self) -> u8 {
        match self {
            Self::Sha1 => 3,
            Self::Sha256 => 17,
        }
    }

    /// Authentication, integrity and confidentiality algorithm numbers (13.28).
    pub fn algorithms(self) -> [u8; 3] {
        match self {
            Self::Sha1 => [1, 1, 1],
            Self::Sha256 => [3, 4, 1],
        }
    }

    pub fn from_algorithms(algorithms: [u8; 3]) -> Option<Self> {
        [Self::Sha1, Self::Sha256].into_iter().find(|s| s.algorithms() == algorithms)
    }

    fn hmac(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        fn run<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
            // HMAC takes keys of every length (RFC 2104), so the empty code below is never used; it would match nothing.
            <M as KeyInit>::new_from_slice(key)
                .map(|m| parts.iter().fold(m, |m, p| m.chain_update(p)).finalize().into_bytes().to_vec())
                .unwrap_or_default()
        }
        match self {
            Self::Sha1 => run::<Hmac<sha1::Sha1>>(key, parts),
            Self::Sha256 => run::<Hmac<sha2::Sha256>>(key, parts),
        }
    }

    /// Bytes of a whole digest: the key exchange codes of RAKP 2 and 3.
    pub fn digest_bytes(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// Bytes of a packet's integrity code and of the RAKP 4 check value (13.28.4).
    pub fn code_bytes(self) -> usize {
        match self {
            Self::Sha1 => 12,
            Self::Sha256 => 16,
        }
    }
}

/// Payload types (13.27.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payload {
    Ipmi,
    /// Serial over LAN.
    Sol,
    OpenRequest,
    OpenResponse,
    Rakp1,
    Rakp2,
    Rakp3,
    Rakp4,
}

impl Payload {
    fn number(self) -> u8 {
        match self {
            Self::Ipmi => 0x00,
            Self::Sol => 0x01,
            Self::OpenRequest => 0x10,
            Self::OpenResponse => 0x11,
            Self::Rakp1 => 0x12,
            Self::Rakp2 => 0x13,
            Self::Rakp3 => 0x14,
            Self::Rakp4 => 0x15,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Ipmi, Self::Sol, Self::OpenRequest, Self::OpenResponse, Self::Rakp1, Self::Rakp2, Self::Rakp3, Self::Rakp4]
            .into_iter()
            .find(|p| p.number() == number)
    }
}

/// A packet as it came, before its session's keys are applied.
#[derive(Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// IPMI 1.5 format without a session (13.6): commands allowed before login.
    Plain15(&'a [u8]),
    /// RMCP+ format without a session.
    Plain20(Payload, &'a [u8]),
    /// RMCP+ within a session, protected: open it with [`Keys::open`].
    Session { id: u32, sequence: u32, payload: Payload, packet: &'a [u8] },
    /// ASF presence ping (13.2.3) with its tag.
    Ping { tag: u8 },
}

fn take<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], BadPacket> {
    bytes.get(at..at + N).and_then(|s| s.try_into().ok()).ok_or(BadPacket::Short)
}

fn byte(bytes: &[u8], at: usize) -> Result<u8, BadPacket> {
    bytes.get(at).copied().ok_or(BadPacket::Short)
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, BadPacket> {
    take::<4>(bytes, at).map(u32::from_le_bytes)
}

/// Offset of the payload in an RMCP+ packet: RMCP 4, format 1, payload type 1, session id 4, sequence 4, length 2.
const PAYLOAD_AT: usize = 16;

impl<'a> Packet<'a> {
    pub fn read(bytes: &'a [u8]) -> Result<Self, BadPacket> {
        let header = take::<4>(bytes, 0)?;
        // 13.2.3: RMCP class 6 (ASF), IANA 4542, type 0x80 presence ping.
        if header[0] == 0x06 && header[3] == 0x06 && bytes.get(4..9) == Some(&[0, 0, 0x11, 0xbe, 0x80]) {
            return Ok(Self::Ping { tag: byte(bytes, 9)? });
        }
        if header[0] != 0x06 || header[3] & 0x1f != 0x07 {
            return Err(BadPacket::NotIpmi);
        }
        match byte(bytes, 4)? {
            // Authentication type none: sequence 4, session id 4, length 1, no code.
            0 => {
                let length = usize::from(byte(bytes, 13)?);
                let payload = bytes.get(14..14 + length).ok_or(BadPacket::Lengths)?;
                if u32_at(bytes, 9)? == 0 { Ok(Self::Plain15(payload)) } else { Err(BadPacket::NotIpmi) }
            }
            FORMAT_RMCP_PLUS => {
                let kind = byte(bytes, 5)?;
                let payload = Payload::from_number(kind & 0x3f).ok_or(BadPacket::NotIpmi)?;
                let (id, sequence) = (u32_at(bytes, 6)?, u32_at(bytes, 10)?);
                let length = usize::from(u16::from_le_bytes(take::<2>(bytes, 14)?));
                let body = bytes.get(PAYLOAD_AT..PAYLOAD_AT + length).ok_or(BadPacket::Lengths)?;
                match kind & 0xc0 {
                    0xc0 if id != 0 => Ok(Self::Session { id, sequence, payload, packet: bytes }),
                    0 if id == 0 => Ok(Self::Plain20(payload, body)),
                    // Half-protected packets belong to suites we do not speak.
                    _ => Err(BadPacket::NotIpmi),
                }
            }
            _ => Err(BadPacket::NotIpmi),
        }
    }

    /// An IPMI 1.5 packet outside any session.
    pub fn plain15(payload: &[u8]) -> Vec<u8> {
        let mut out = RMCP_IPMI.to_vec();
        out.extend_from_slice(&[0; 9]);
        out.push(u8::try_from(payload.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(payload);
        out
    }

    /// An RMCP+ packet outside any session.
    pub fn plain20(kind: Payload, payload: &[u8]) -> Vec<u8> {
        let mut out = RMCP_IPMI.to_vec();
        out.extend_from_slice(&[FORMAT_RMCP_PLUS, kind.number()]);
        out.extend_from_slice(&[0; 8]);
        out.extend_from_slice(&u16::try_from(payload.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(payload);
        out
    }

    /// The answer to a presence ping: IPMI is supported (13.2.4).
    pub fn pong(tag: u8) -> Vec<u8> {
        let mut out = vec![0x06, 0x00, 0xff, 0x06, 0, 0, 0x11, 0xbe, 0x40, tag, 0, 16];
        out.extend_from_slice(&[0, 0, 0x11, 0xbe, 0, 0, 0, 0, 0x81, 0, 0, 0, 0, 0, 0, 0]);
        out
    }
}

/// What both ends know after RAKP 2, in the order the codes take it (13.31).
#[derive(Clone, Debug)]
pub struct Exchange {
    pub suite: Suite,
    pub console_session: u32,
    pub bmc_session: u32,
    pub console_random: [u8; 16],
    pub bmc_random: [u8; 16],
    pub bmc_guid: [u8; 16],
    /// Requested privilege, bit 4 set for name-only lookup (13.20).
    pub role: u8,
    pub user: Vec<u8>,
}

/// A password as key: 20 bytes, zero-padded (13.31).
pub fn password_key(password: &[u8]) -> [u8; PASSWORD_BYTES] {
    let mut key = [0; PASSWORD_BYTES];
    for (to, from) in key.iter_mut().zip(password) {
        *to = *from;
    }
    key
}

impl Exchange {
    fn name(&self) -> [&[u8]; 1] {
        [&self.user]
    }

    fn name_length(&self) -> u8 {
        u8::try_from(self.user.len()).unwrap_or(u8::MAX)
    }

    /// RAKP 2's key exchange authentication code (13.21), by which the BMC shows that it knows the password.
    pub fn rakp2_code(&self, key: &[u8; PASSWORD_BYTES]) -> Vec<u8> {
        let [name] = self.name();
        let role = [self.role, self.name_length()];
        self.suite.hmac(
            key,
            &[
                &self.console_session.to_le_bytes(),
                &self.bmc_session.to_le_bytes(),
                &self.console_random,
                &self.bmc_random,
                &self.bmc_guid,
                &role,
                name,
            ],
        )
    }

    /// RAKP 3's code (13.22), by which the console shows the same.
    pub fn rakp3_code(&self, key: &[u8; PASSWORD_BYTES]) -> Vec<u8> {
        let [name] = self.name();
        self.suite.hmac(key, &[&self.bmc_random, &self.console_session.to_le_bytes(), &[self.role, self.name_length()], name])
    }

    fn sik(&self, key: &[u8; PASSWORD_BYTES]) -> Vec<u8> {
        // No K_G: the user key takes its place (13.31).
        let [name] = self.name();
        self.suite.hmac(key, &[&self.console_random, &self.bmc_random, &[self.role, self.name_length()], name])
    }

    /// RAKP 4's integrity check value (13.23).
    pub fn rakp4_code(&self, key: &[u8; PASSWORD_BYTES]) -> Vec<u8> {
        let mut code = self.suite.hmac(&self.sik(key), &[&self.console_random, &self.bmc_session.to_le_bytes(), &self.bmc_guid]);
        code.truncate(self.suite.code_bytes());
        code
    }

    pub fn keys(&self, key: &[u8; PASSWORD_BYTES]) -> Keys {
        let sik = self.sik(key);
        // 13.32: the constants are 20 bytes for SHA-256 too; with 32 only a real client notices.
        let k1 = self.suite.hmac(&sik, &[&[0x01; 20]]);
        let k2 = self.suite.hmac(&sik, &[&[0x02; 20]]);
        let mut aes = [0; 16];
        for (to, from) in aes.iter_mut().zip(k2) {
            *to = from;
        }
        Keys { suite: self.suite, k1, aes }
    }
}

/// Constant-time comparison of codes.
pub fn same_code(a: &[u8], b: &[u8]) -> bool {
    !a.is_empty() && a.ct_eq(b).into()
}

/// The keys of one session: K1 signs packets, the first 16 bytes of K2 encrypt (13.32).
#[derive(Clone)]
pub struct Keys {
    suite: Suite,
    k1: Vec<u8>,
    aes: [u8; 16],
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({:?})", self.suite)
    }
}

impl Keys {
    /// An authenticated and encrypted packet (13.6, 13.28.4, 13.29). `iv` must be fresh random bytes.
    pub fn seal(&self, session: u32, sequence: u32, kind: Payload, payload: &[u8], iv: [u8; 16]) -> Vec<u8> {
        let encrypted = self.encrypt(payload, iv);
        let mut out = RMCP_IPMI.to_vec();
        out.extend_from_slice(&[FORMAT_RMCP_PLUS, 0xc0 | kind.number()]);
        out.extend_from_slice(&session.to_le_bytes());
        out.extend_from_slice(&sequence.to_le_bytes());
        out.extend_from_slice(&u16::try_from(encrypted.len()).unwrap_or(u16::MAX).to_le_bytes());
        out.extend_from_slice(&encrypted);
        // The signed part (from the format byte to the next header) is padded to a multiple of 4.
        let pad = (4 - (out.len() - RMCP_IPMI.len() + 2) % 4) % 4;
        out.resize(out.len() + pad, 0xff);
        out.extend_from_slice(&[u8::try_from(pad).unwrap_or(0), 0x07]);
        let code = self.code(&out);
        out.extend_from_slice(&code);
        out
    }

    fn code(&self, packet: &[u8]) -> Vec<u8> {
        let mut code = self.suite.hmac(&self.k1, &[packet.get(RMCP_IPMI.len()..).unwrap_or_default()]);
        code.truncate(self.suite.code_bytes());
        code
    }

    /// Checks the code, then decrypts.
    pub fn open(&self, packet: &[u8]) -> Result<Vec<u8>, BadPacket> {
        let end = packet.len().checked_sub(self.suite.code_bytes()).ok_or(BadPacket::Short)?;
        let (signed, code) = packet.split_at_checked(end).ok_or(BadPacket::Short)?;
        if !same_code(&self.code(signed), code) {
            return Err(BadPacket::Integrity);
        }
        let length = usize::from(u16::from_le_bytes(take::<2>(signed, 14)?));
        let payload = signed.get(PAYLOAD_AT..PAYLOAD_AT + length).ok_or(BadPacket::Lengths)?;
        let trailer = signed.get(PAYLOAD_AT + length..).ok_or(BadPacket::Lengths)?;
        let [padding @ .., pad, _next_header] = trailer else { return Err(BadPacket::Lengths) };
        if padding.len() != usize::from(*pad) {
            return Err(BadPacket::Lengths);
        }
        self.decrypt(payload)
    }

    fn encrypt(&self, payload: &[u8], iv: [u8; 16]) -> Vec<u8> {
        // 13.29: pad bytes 1, 2, 3, .. and their number, to a multiple of 16.
        let pad = (16 - (payload.len() + 1) % 16) % 16;
        let mut text = payload.to_vec();
        text.extend((1..=pad).map(|n| n as u8));
        text.push(pad as u8);
        let mut cipher = cbc::Encryptor::<aes::Aes128>::new(&self.aes.into(), &iv.into());
        for block in text.as_chunks_mut::<16>().0 {
            cipher.encrypt_block(block.into());
        }
        [iv.as_slice(), &text].concat()
    }

    fn decrypt(&self, payload: &[u8]) -> Result<Vec<u8>, BadPacket> {
        let (iv, text) = payload.split_first_chunk::<16>().ok_or(BadPacket::Short)?;
        let mut text = text.to_vec();
        let (blocks, rest) = text.as_chunks_mut::<16>();
        if blocks.is_empty() || !rest.is_empty() {
            return Err(BadPacket::Lengths);
        }
        let mut cipher = cbc::Decryptor::<aes::Aes128>::new(&self.aes.into(), iv.into());
        for block in blocks {
            cipher.decrypt_block(block.into());
        }
        let pad = usize::from(text.pop().ok_or(BadPacket::Padding)?);
        let length = text.len().checked_sub(pad).ok_or(BadPacket::Padding)?;
        if pad > 15 {
            return Err(BadPacket::Padding);
        }
        text.truncate(length);
        Ok(text)
    }
}

/// Sequence numbers at or below the highest seen that may still be new (6.12.13: 15 below).
const WINDOW: u32 = 16;

/// The sequence numbers that came in one direction of a session (6.12.13). A number that came before or is too old is a
/// repetition. One far ahead is taken: a network that lost a burst must not end the session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    highest: u32,
    /// Bit n: `highest - n` was seen.
    seen: u32,
}

impl Window {
    /// Whether a packet with this number is new; it is seen from then on. Only for packets whose integrity was checked.
    pub fn takes(&mut self, sequence: u32) -> bool {
        // 0 is "outside a session".
        if sequence == 0 {
            return false;
        }
        if sequence > self.highest {
            let step = sequence - self.highest;
            self.seen = if step < WINDOW { self.seen << step } else { 0 } | 1;
            self.highest = sequence;
            return true;
        }
        let back = self.highest - sequence;
        let fresh = back < WINDOW && self.seen >> back & 1 == 0;
        if fresh {
            self.seen |= 1 << back;
        }
        fresh
    }
}

/// Status of an answer during session set-up (13.24, table 13-15).
pub mod status {
    pub const OK: u8 = 0x00;
    pub const NO_RESOURCES: u8 = 0x01;
    pub const BAD_SESSION: u8 = 0x02;
    pub const BAD_ROLE: u8 = 0x09;
    pub const ROLE_NOT_ALLOWED: u8 = 0x0a;
    pub const NO_RESOURCES_FOR_ROLE: u8 = 0x0b;
    pub const BAD_NAME_LENGTH: u8 = 0x0c;
    pub const UNKNOWN_NAME: u8 = 0x0d;
    pub const UNKNOWN_GUID: u8 = 0x0e;
    pub const BAD_CODE: u8 = 0x0f;
    pub const NO_MATCHING_SUITE: u8 = 0x11;
    pub const ILLEGAL_PARAMETER: u8 = 0x12;

    /// Table 13-15 in words.
    pub fn sentence(status: u8) -> &'static str {
        match status {
            OK => "no error",
            NO_RESOURCES => "its session table is full",
            BAD_SESSION => "invalid session id",
            0x03 => "invalid payload type",
            0x04 => "it does not know the authentication algorithm",
            0x05 => "it does not know the integrity algorithm",
            0x06 | 0x07 => "no matching payload",
            0x08 => "inactive session id",
            BAD_ROLE => "invalid role",
            ROLE_NOT_ALLOWED => "the user may not have the privilege asked for",
            NO_RESOURCES_FOR_ROLE => "no session is free for this role",
            BAD_NAME_LENGTH => "invalid length of the user name",
            UNKNOWN_NAME => "it does not know the user",
            UNKNOWN_GUID => "it does not know the GUID",
            BAD_CODE => "wrong integrity check value",
            0x10 => "it does not know the confidentiality algorithm",
            NO_MATCHING_SUITE => "it does not allow the cipher suite",
            ILLEGAL_PARAMETER => "illegal parameter",
            _ => "an unknown status",
        }
    }
}

/// RMCP+ Open Session Request (13.17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenRequest {
    pub tag: u8,
    /// Highest privilege asked for; 0 leaves it to the BMC.
    pub privilege: u8,
    pub console_session: u32,
    pub algorithms: [u8; 3],
}

impl OpenRequest {
    pub fn write(&self) -> Vec<u8> {
        let mut out = vec![self.tag, self.privilege, 0, 0];
        out.extend_from_slice(&self.console_session.to_le_bytes());
        for (kind, algorithm) in (0u8..).zip(self.algorithms) {
            out.extend_from_slice(&[kind, 0, 0, 8, algorithm, 0, 0, 0]);
        }
        out
    }

    pub fn read(b: &[u8]) -> Result<Self, BadPacket> {
        Ok(Self {
            tag: byte(b, 0)?,
            privilege: byte(b, 1)? & 0x0f,
            console_session: u32_at(b, 4)?,
            algorithms: [byte(b, 12)?, byte(b, 20)?, byte(b, 28)?].map(|a| a & 0x3f),
        })
    }
}

/// RMCP+ Open Session Response (13.18). Refusals end after the console's session id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenResponse {
    pub tag: u8,
    pub status: u8,
    pub privilege: u8,
    pub console_session: u32,
    pub bmc_session: u32,
    pub algorithms: [u8; 3],
}

impl OpenResponse {
    pub fn write(&self) -> Vec<u8> {
        let mut out = vec![self.tag, self.status, self.privilege, 0];
        out.extend_from_slice(&self.console_session.to_le_bytes());
        if self.status == status::OK {
            out.extend_from_slice(&self.bmc_session.to_le_bytes());
            for (kind, algorithm) in (0u8..).zip(self.algorithms) {
                out.extend_from_slice(&[kind, 0, 0, 8, algorithm, 0, 0, 0]);
            }
        }
        out
    }

    pub fn read(b: &[u8]) -> Result<Self, BadPacket> {
        let mut out = Self { tag: byte(b, 0)?, status: byte(b, 1)?, privilege: 0, console_session: 0, bmc_session: 0, algorithms: [0; 3] };
        if out.status == status::OK {
            out.privilege = byte(b, 2)?;
            out.console_session = u32_at(b, 4)?;
            out.bmc_session = u32_at(b, 8)?;
            out.algorithms = [byte(b, 16)?, byte(b, 24)?, byte(b, 32)?].map(|a| a & 0x3f);
        }
        Ok(out)
    }
}

/// RAKP message 1 (13.20).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rakp1 {
    pub tag: u8,
    pub bmc_session: u32,
    pub console_random: [u8; 16],
    pub role: u8,
    pub user: Vec<u8>,
}

impl Rakp1 {
    pub fn write(&self) -> Vec<u8> {
        let mut out = vec![self.tag, 0, 0, 0];
        out.extend_from_slice(&self.bmc_session.to_le_bytes());
        out.extend_from_slice(&self.console_random);
        out.extend_from_slice(&[self.role, 0, 0, u8::try_from(self.user.len()).unwrap_or(u8::MAX)]);
        out.extend_from_slice(&self.user);
        out
    }

    pub fn read(b: &[u8]) -> Result<Self, BadPacket> {
        let length = usize::from(byte(b, 27)?);
        let user = b.get(28..28 + length).filter(|u| u.len() <= USER_BYTES).ok_or(BadPacket::Lengths)?.to_vec();
        Ok(Self { tag: byte(b, 0)?, bmc_session: u32_at(b, 4)?, console_random: take(b, 8)?, role: byte(b, 24)?, user })
    }
}

/// RAKP message 2 (13.21).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rakp2 {
    pub tag: u8,
    pub status: u8,
    pub console_session: u32,
    pub bmc_random: [u8; 16],
    pub bmc_guid: [u8; 16],
    pub code: Vec<u8>,
}

impl Rakp2 {
    pub fn write(&self) -> Vec<u8> {
        let mut out = vec![self.tag, self.status, 0, 0];
        out.extend_from_slice(&self.console_session.to_le_bytes());
        if self.status == status::OK {
            out.extend_from_slice(&self.bmc_random);
            out.extend_from_slice(&self.bmc_guid);
            out.extend_from_slice(&self.code);
        }
        out
    }

    pub fn read(b: &[u8]) -> Result<Self, BadPacket> {
        let mut out =
            Self { tag: byte(b, 0)?, status: byte(b, 1)?, console_session: 0, bmc_random: [0; 16], bmc_guid: [0; 16], code: Vec::new() };
        if out.status == status::OK {
            out.console_session = u32_at(b, 4)?;
            out.bmc_random = take(b, 8)?;
            out.bmc_guid = take(b, 24)?;
            out.code = b.get(40..).ok_or(BadPacket::Short)?.to_vec();
        }
        Ok(out)
    }
}

/// RAKP messages 3 and 4 (13.22, 13.23): the other side's session id and a code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RakpCode {
    pub tag: u8,
    pub status: u8,
    pub session: u32,
    pub code: Vec<u8>,
}

impl RakpCode {
    pub fn write(&self) -> Vec<u8> {
        let mut out = vec![self.tag, self.status, 0, 0];
        out.extend_from_slice(&self.session.to_le_bytes());
        out.extend_from_slice(&self.code);
        out
    }

    pub fn read(b: &[u8]) -> Result<Self, BadPacket> {
        let mut out = Self { tag: byte(b, 0)?, status: byte(b, 1)?, session: 0, code: Vec::new() };
        // A BMC that refuses may stop here.
        if out.status == status::OK || b.len() >= 8 {
            out.session = u32_at(b, 4)?;
            out.code = b.get(8..).unwrap_or_default().to_vec();
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn exchange(suite: Suite) -> Exchange {
        Exchange {
            suite,
            console_session: 0x0a0b_0c0d,
            bmc_session: 0x0102_0304,
            console_random: [1; 16],
            bmc_random: [2; 16],
            bmc_guid: [3; 16],
            role: 0x14,
            user: b"admin".to_vec(),
        }
    }

    #[test]
    fn a_sealed_packet_opens_only_unchanged_and_with_its_keys() {
        for suite in [Suite::Sha1, Suite::Sha256] {
            let keys = exchange(suite).keys(&password_key(b"secret"));
            for length in 0..40 {
                let text: Vec<u8> = (0..length).collect();
                let packet = keys.seal(7, 1, Payload::Ipmi, &text, [9; 16]);
                assert!(matches!(Packet::read(&packet), Ok(Packet::Session { id: 7, sequence: 1, payload: Payload::Ipmi, .. })));
                assert_eq!(keys.open(&packet).unwrap(), text);
                assert_eq!((packet.len() - 4 - suite.code_bytes()) % 4, 0, "the signed part is a multiple of 4 (13.28.4)");
            }
            let packet = keys.seal(7, 1, Payload::Ipmi, b"data", [9; 16]);
            for at in 4..packet.len() {
                let mut changed = packet.clone();
                changed[at] ^= 1;
                assert!(keys.open(&changed).is_err(), "{at}");
            }
            assert_eq!(exchange(suite).keys(&password_key(b"other")).open(&packet), Err(BadPacket::Integrity));
        }
    }

    #[test]
    fn set_up_messages_read_back_as_written() {
        let open = OpenRequest { tag: 5, privilege: 4, console_session: 77, algorithms: Suite::Sha256.algorithms() };
        assert_eq!(open.write().len(), 32);
        assert_eq!(OpenRequest::read(&open.write()), Ok(open));
        let opened =
            OpenResponse { tag: 5, status: 0, privilege: 4, console_session: 77, bmc_session: 88, algorithms: Suite::Sha1.algorithms() };
        assert_eq!(opened.write().len(), 36);
        assert_eq!(OpenResponse::read(&opened.write()), Ok(opened));
        assert_eq!(OpenResponse::read(&[5, 0x11, 0, 0, 77, 0, 0, 0]).unwrap().status, status::NO_MATCHING_SUITE);
        let one = Rakp1 { tag: 1, bmc_session: 88, console_random: [7; 16], role: 0x14, user: b"root".to_vec() };
        assert_eq!(Rakp1::read(&one.write()), Ok(one));
        let two = Rakp2 { tag: 1, status: 0, console_session: 77, bmc_random: [8; 16], bmc_guid: [9; 16], code: vec![1; 32] };
        assert_eq!(Rakp2::read(&two.write()), Ok(two));
        let four = RakpCode { tag: 1, status: 0, session: 77, code: vec![2; 16] };
        assert_eq!(RakpCode::read(&four.write()), Ok(four));
        let ping = [0x06, 0, 0xff, 0x06, 0, 0, 0x11, 0xbe, 0x80, 42, 0, 0];
        assert_eq!(Packet::read(&ping), Ok(Packet::Ping { tag: 42 }));
    }

    #[test]
    fn a_repeated_or_old_sequence_number_is_dropped_and_a_leap_is_taken() {
        let mut window = Window::default();
        assert!(window.takes(1) && window.takes(3) && window.takes(2));
        assert!(!window.takes(2) && !window.takes(3) && !window.takes(0));
        assert!(window.takes(100) && window.takes(90) && !window.takes(80) && !window.takes(100));
        assert!(window.takes(u32::MAX) && !window.takes(u32::MAX) && window.takes(u32::MAX - 15) && !window.takes(u32::MAX - 16));
    }

    proptest! {
        #[test]
        fn no_datagram_makes_the_readers_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120), kind in 0u8..8) {
            let keys = exchange(Suite::Sha256).keys(&password_key(b"x"));
            let mut shaped = vec![0x06, 0, 0xff, 0x07, 0x06, 0xc0 | kind];
            shaped.extend_from_slice(&bytes);
            for b in [&bytes, &shaped] {
                drop((Packet::read(b), keys.open(b), OpenRequest::read(b), OpenResponse::read(b), Rakp1::read(b), Rakp2::read(b), RakpCode::read(b)));
            }
        }

        #[test]
        fn a_packet_cut_anywhere_or_with_any_byte_changed_opens_nothing(at in 0usize..64, flip in 1u8..=255, sha256: bool) {
            let keys = exchange(if sha256 { Suite::Sha256 } else { Suite::Sha1 }).keys(&password_key(b"x"));
            let good = keys.seal(7, 1, Payload::Ipmi, b"an answer", [9; 16]);
            let cut = &good[..at.min(good.len() - 1)];
            prop_assert!(keys.open(cut).is_err());
            drop(Packet::read(cut));
            let mut bad = good.clone();
            let at = 4 + at % (good.len() - 4);
            bad[at] ^= flip;
            prop_assert!(keys.open(&bad).is_err());
            drop(Packet::read(&bad));
        }

        #[test]
        fn a_signed_packet_of_any_shape_does_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let keys = exchange(Suite::Sha1).keys(&password_key(b"x"));
            let mut packet = RMCP_IPMI.to_vec();
            packet.extend_from_slice(&bytes);
            let code = keys.code(&packet);
            packet.extend_from_slice(&code);
            drop(keys.open(&packet));
        }
    }
}
