//! TFTP packets (RFC 1350) with options (RFC 2347), blksize (2348), timeout and tsize (2349), windowsize (7440).

use std::time::Duration;

/// RFC 1350: without the option.
pub const DEFAULT_BLKSIZE: u16 = 512;
/// RFC 2348 section 2.
pub const MIN_BLKSIZE: u16 = 8;
pub const MAX_BLKSIZE: u16 = 65464;
/// The longest time between two sends of the same block that a client may ask for.
const MAX_TIMEOUT_SECS: u8 = 8;
/// Opcode and block number before the data.
pub const DATA_HEADER: usize = 4;
/// The longest file name we look at; ROMs send at most 127 bytes (the BOOTP file field).
const MAX_NAME: usize = 255;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TftpError {
    #[error("the packet is too short or cut off")]
    Short,
    #[error("opcode {0} is not one we take")]
    Opcode(u16),
    #[error("the request's file name or mode is not ended by a zero byte, too long, or not text")]
    Text,
    #[error("transfer mode {0:?}; only octet is served")]
    Mode(String),
}

/// Error codes of RFC 1350 section 5 and RFC 2347.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    Other,
    NotFound,
    Access,
    Full,
    Illegal,
    UnknownTransfer,
    Exists,
    NoUser,
    /// The options are not what the client wants; EDK2 and others end their tsize probe with it.
    Options,
}

impl ErrorCode {
    fn number(self) -> u16 {
        match self {
            Self::Other => 0,
            Self::NotFound => 1,
            Self::Access => 2,
            Self::Full => 3,
            Self::Illegal => 4,
            Self::UnknownTransfer => 5,
            Self::Exists => 6,
            Self::NoUser => 7,
            Self::Options => 8,
        }
    }

    fn from_number(n: u16) -> Self {
        match n {
            1 => Self::NotFound,
            2 => Self::Access,
            3 => Self::Full,
            4 => Self::Illegal,
            5 => Self::UnknownTransfer,
            6 => Self::Exists,
            7 => Self::NoUser,
            8 => Self::Options,
            0 | 9.. => Self::Other,
        }
    }
}

/// Options as asked for or as granted. Values out of range were dropped, as if not asked (RFC 2347).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TftpOptions {
    pub blksize: Option<u16>,
    /// Asked as 0, answered with the size.
    pub tsize: Option<u64>,
    pub timeout_secs: Option<u8>,
    pub windowsize: Option<u16>,
}

impl TftpOptions {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// What we grant of what was asked, and what then holds for the transfer.
    pub fn negotiate(&self, size: u64, limits: &TftpLimits) -> (TftpOptions, TftpParams) {
        let granted = TftpOptions {
            blksize: self.blksize.map(|b| b.min(limits.max_blksize.max(MIN_BLKSIZE))),
            tsize: self.tsize.map(|_| size),
            // The server repeats the value or leaves it out (RFC 2349); longer ones would let a client hold its place for hours.
            timeout_secs: self.timeout_secs.filter(|s| *s <= MAX_TIMEOUT_SECS),
            windowsize: self.windowsize.map(|w| w.min(limits.max_windowsize.max(1))),
        };
        let params = TftpParams {
            blksize: granted.blksize.unwrap_or(DEFAULT_BLKSIZE),
            windowsize: granted.windowsize.unwrap_or(1),
            timeout: granted.timeout_secs.map_or(limits.timeout, |s| Duration::from_secs(u64::from(s))),
        };
        (granted, params)
    }

    fn write(&self, out: &mut Vec<u8>) {
        let mut put = |name: &str, value: u64| {
            out.extend_from_slice(name.as_bytes());
            out.push(0);
            out.extend_from_slice(value.to_string().as_bytes());
            out.push(0);
        };
        if let Some(n) = self.tsize {
            put("tsize", n);
        }
        if let Some(n) = self.blksize {
            put("blksize", n.into());
        }
        if let Some(n) = self.timeout_secs {
            put("timeout", n.into());
        }
        if let Some(n) = self.windowsize {
            put("windowsize", n.into());
        }
    }

    fn read(mut bytes: &[u8]) -> Self {
        let mut out = Self::default();
        // A cut-off last option counts as not sent.
        while let Some((name, rest)) = text(bytes) {
            let Some((value, rest)) = text(rest) else { break };
            bytes = rest;
            match name.to_ascii_lowercase().as_str() {
                // Too large is answered with our largest (RFC 2348), too small cannot be.
                "blksize" => {
                    out.blksize = number(value).filter(|n| *n >= u64::from(MIN_BLKSIZE)).map(|n| clamp(n).min(MAX_BLKSIZE));
                }
                "tsize" => out.tsize = number(value),
                "timeout" => out.timeout_secs = number(value).and_then(|n| u8::try_from(n).ok()).filter(|n| *n > 0),
                "windowsize" => out.windowsize = number(value).filter(|n| *n > 0).map(clamp),
                _unknown_options_are_left_unanswered => {}
            }
        }
        out
    }
}

/// What a server grants at most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TftpLimits {
    pub max_blksize: u16,
    pub max_windowsize: u16,
    /// Wait before a window is sent again, when the client named none.
    pub timeout: Duration,
}

/// What holds for one transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TftpParams {
    pub blksize: u16,
    pub windowsize: u16,
    pub timeout: Duration,
}

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TftpRequest {
    Read {
        name: String,
        options: TftpOptions,
    },
    /// Someone wants to write: always refused.
    Write,
}

impl TftpRequest {
    /// Reads a packet that came in on the server port.
    pub fn parse(bytes: &[u8]) -> Result<Self, TftpError> {
        let (opcode, rest) = split_u16(bytes)?;
        match opcode {
            1 => {}
            2 => return Ok(Self::Write),
            other => return Err(TftpError::Opcode(other)),
        }
        let (name, rest) = text(rest).ok_or(TftpError::Text)?;
        let (mode, rest) = text(rest).ok_or(TftpError::Text)?;
        // netascii is asked for by some old ROMs and by people's clients; the bytes of a boot file are octets.
        if !mode.eq_ignore_ascii_case("octet") && !mode.eq_ignore_ascii_case("netascii") {
            return Err(TftpError::Mode(mode.chars().take(20).collect()));
        }
        if name.is_empty() || name.len() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(TftpError::Text);
        }
        Ok(Self::Read { name: name.to_owned(), options: TftpOptions::read(rest) })
    }

    pub fn encode_read(name: &str, options: &TftpOptions) -> Vec<u8> {
        let mut out = vec![0, 1];
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b"\0octet\0");
        options.write(&mut out);
        out
    }
}

/// A packet of a running transfer, either way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TftpPacket<'a> {
    Data { block: u16, data: &'a [u8] },
    Ack { block: u16 },
    Error { code: ErrorCode, message: String },
    OptionAck(TftpOptions),
}

impl<'a> TftpPacket<'a> {
    pub fn parse(bytes: &'a [u8]) -> Result<Self, TftpError> {
        let (opcode, rest) = split_u16(bytes)?;
        match opcode {
            3 => split_u16(rest).map(|(block, data)| Self::Data { block, data }),
            4 => split_u16(rest).map(|(block, _)| Self::Ack { block }),
            5 => {
                let (code, rest) = split_u16(rest)?;
                let message = String::from_utf8_lossy(rest.split(|b| *b == 0).next().unwrap_or_default());
                Ok(Self::Error {
                    code: ErrorCode::from_number(code),
                    message: message.chars().filter(|c| !c.is_control()).take(200).collect(),
                })
            }
            6 => Ok(Self::OptionAck(TftpOptions::read(rest))),
            other => Err(TftpError::Opcode(other)),
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        match self {
            Self::Data { block, data } => {
                out.extend_from_slice(&data_header(*block));
                out.extend_from_slice(data);
            }
            Self::Ack { block } => {
                out.extend([0, 4]);
                out.extend(block.to_be_bytes());
            }
            Self::Error { code, message } => {
                out.extend([0, 5]);
                out.extend(code.number().to_be_bytes());
                out.extend(message.bytes().filter(|b| *b != 0));
                out.push(0);
            }
            Self::OptionAck(options) => {
                out.extend([0, 6]);
                options.write(&mut out);
            }
        }
        out
    }
}

/// The first four bytes of a DATA packet; servers gather them with the file's bytes.
pub fn data_header(block: u16) -> [u8; DATA_HEADER] {
    let [high, low] = block.to_be_bytes();
    [0, 3, high, low]
}

/// The full block number that a 16-bit one means: the one nearest to `near`. Block numbers wrap around to 0.
pub fn unwrap_block(wire: u16, near: u64) -> Option<u64> {
    let ahead = i64::from(wire.wrapping_sub((near & 0xffff) as u16) as i16);
    near.checked_add_signed(ahead)
}

fn split_u16(bytes: &[u8]) -> Result<(u16, &[u8]), TftpError> {
    let (head, rest) = bytes.split_first_chunk::<2>().ok_or(TftpError::Short)?;
    Ok((u16::from_be_bytes(*head), rest))
}

/// A zero-terminated text and what follows it.
fn text(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|b| *b == 0)?;
    Some((std::str::from_utf8(&bytes[..end]).ok()?, &bytes[end + 1..]))
}

fn number(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn clamp(n: u64) -> u16 {
    u16::try_from(n).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: TftpLimits = TftpLimits { max_blksize: 1468, max_windowsize: 64, timeout: Duration::from_secs(1) };

    fn options(r: Result<TftpRequest, TftpError>) -> TftpOptions {
        match r {
            Ok(TftpRequest::Read { options, .. }) => options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_requests_of_real_clients_are_read() {
        // EDK2: the size probe, then the read (recorded, tests/fixtures/pcaps/b-uefi-edk2pxe.pcap).
        let probe = TftpRequest::parse(b"\0\x01ipxe.efi\0octet\0tsize\x000\0blksize\x001468\0windowsize\x004\0");
        assert_eq!(options(probe), TftpOptions { blksize: Some(1468), tsize: Some(0), timeout_secs: None, windowsize: Some(4) });
        // iPXE's own client.
        let ipxe = TftpRequest::parse(b"\0\x01undionly.kpxe\0octet\0blksize\x001432\0tsize\x000\0");
        assert_eq!(options(ipxe), TftpOptions { blksize: Some(1432), tsize: Some(0), ..Default::default() });
        // RFC 1350 only.
        assert_eq!(options(TftpRequest::parse(b"\0\x01pxelinux.0\0OCTET\0")), TftpOptions::default());
    }

    #[test]
    fn we_grant_no_more_than_our_limits_and_nothing_unasked() {
        let asked = TftpOptions { blksize: Some(8192), tsize: Some(0), timeout_secs: Some(3), windowsize: Some(500) };
        let (granted, params) = asked.negotiate(77, &LIMITS);
        assert_eq!(granted, TftpOptions { blksize: Some(1468), tsize: Some(77), timeout_secs: Some(3), windowsize: Some(64) });
        assert_eq!(params, TftpParams { blksize: 1468, windowsize: 64, timeout: Duration::from_secs(3) });
        let (granted, params) = TftpOptions::default().negotiate(77, &LIMITS);
        assert!(granted.is_empty());
        assert_eq!(params, TftpParams { blksize: 512, windowsize: 1, timeout: Duration::from_secs(1) });
        let (granted, params) = TftpOptions { timeout_secs: Some(255), ..TftpOptions::default() }.negotiate(77, &LIMITS);
        assert_eq!((granted.timeout_secs, params.timeout), (None, Duration::from_secs(1)), "left out, not changed (RFC 2349)");
    }

    #[test]
    fn option_values_out_of_range_count_as_not_asked() {
        let o = options(TftpRequest::parse(b"\0\x01a\0octet\0blksize\x007\0timeout\x00300\0windowsize\x000\0tsize\0-1\0"));
        assert_eq!(o, TftpOptions::default());
        let o = options(TftpRequest::parse(b"\0\x01a\0octet\0BLKSIZE\x0099999\0multicast\0\0timeout\x002"));
        assert_eq!(o, TftpOptions { blksize: Some(MAX_BLKSIZE), ..Default::default() });
    }

    #[test]
    fn writes_and_odd_requests_are_told_apart() {
        assert_eq!(TftpRequest::parse(b"\0\x02a\0octet\0"), Ok(TftpRequest::Write));
        assert_eq!(TftpRequest::parse(b"\0\x01a\0mail\0"), Err(TftpError::Mode("mail".into())));
        assert_eq!(TftpRequest::parse(b"\0\x01a\nb\0octet\0"), Err(TftpError::Text));
        assert_eq!(TftpRequest::parse(b"\0\x01a\0octet"), Err(TftpError::Text));
        assert_eq!(TftpRequest::parse(b"\0\x04\0\0"), Err(TftpError::Opcode(4)));
        assert_eq!(TftpRequest::parse(b""), Err(TftpError::Short));
    }

    #[test]
    fn block_numbers_go_on_after_65535() {
        assert_eq!(unwrap_block(0, 65535), Some(65536));
        assert_eq!(unwrap_block(65535, 65536), Some(65535));
        assert_eq!(unwrap_block(16, 16), Some(16));
        assert_eq!(unwrap_block(5, 131_072), Some(131_077));
        assert_eq!(unwrap_block(65535, 3), None);
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), opcode in 0u8..8) {
            let mut bytes = bytes;
            if bytes.len() > 1 { bytes[0] = 0; bytes[1] = opcode; }
            let _outcome = (TftpRequest::parse(&bytes).is_ok(), TftpPacket::parse(&bytes).is_ok());
        }

        #[test]
        fn packets_survive_the_wire(block: u16, data in proptest::collection::vec(any::<u8>(), 0..600), tsize: Option<u64>, blksize in proptest::option::of(8u16..=65464), window in proptest::option::of(1u16..)) {
            let options = TftpOptions { blksize, tsize, timeout_secs: Some(2), windowsize: window };
            for packet in [
                TftpPacket::Data { block, data: &data },
                TftpPacket::Ack { block },
                TftpPacket::Error { code: ErrorCode::Options, message: "User aborted".into() },
                TftpPacket::OptionAck(options),
            ] {
                let bytes = packet.encode();
                prop_assert_eq!(TftpPacket::parse(&bytes), Ok(packet));
            }
            let read = TftpRequest::encode_read("a/b", &options);
            prop_assert_eq!(TftpRequest::parse(&read), Ok(TftpRequest::Read { name: "a/b".into(), options }));
        }
    }
}
