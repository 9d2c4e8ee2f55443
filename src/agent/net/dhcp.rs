//! A DHCP client (RFC 2131) for one interface: DISCOVER, REQUEST, and renewal while the agent lives.
//!
//! It asks for broadcast answers (flag 8000h), which reach a socket bound to an interface without an address.

use std::ffi::OsString;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};

use crate::clock;
use crate::domain::id::Mac;

const CLIENT_PORT: u16 = 68;
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::BROADCAST, 67);
const MAGIC: [u8; 4] = [99, 130, 83, 99];

/// What the network gave us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub router: Option<Ipv4Addr>,
    pub server: Ipv4Addr,
    pub secs: u32,
}

#[derive(Debug, thiserror::Error)]
pub enum DhcpError {
    #[error("no DHCP server answered within {} s", .0.as_secs())]
    Silence(Duration),
    #[error("DHCP cannot be spoken there: {0}")]
    Socket(#[from] io::Error),
}

/// DISCOVER, OFFER, REQUEST, ACK on `interface`, within `limit`.
///
/// # Errors
/// `Silence`, `Socket`.
pub fn acquire(interface: &str, mac: Mac, limit: Duration) -> Result<Lease, DhcpError> {
    let socket = open(interface)?;
    let began = Instant::now();
    let until = began + limit;
    let mut pause = Duration::from_secs(1);
    while Instant::now() < until {
        let xid = u32::from_be_bytes(clock::random());
        let secs = u16::try_from(began.elapsed().as_secs()).unwrap_or(u16::MAX);
        let ask = Message { kind: DISCOVER, xid, secs, mac, current: None, wanted: None, server: None };
        socket.send_to(&ask.bytes(), SERVER)?;
        let wait = (Instant::now() + pause).min(until);
        pause *= 2;
        // An offer without an address is a proxyDHCP's, for boot firmware only.
        let Some(offer) = hear(&socket, xid, mac, wait, |kind, lease| kind == OFFER && !lease.address.is_unspecified())? else {
            continue;
        };
        let request = Message { kind: REQUEST, wanted: Some(offer.address), server: Some(offer.server), ..ask };
        for _ in 0..3 {
            socket.send_to(&request.bytes(), SERVER)?;
            let wait = Instant::now() + Duration::from_secs(2);
            if let Some(lease) = hear(&socket, xid, mac, wait, |kind, lease| kind == ACK && !lease.address.is_unspecified())? {
                return Ok(lease);
            }
        }
    }
    Err(DhcpError::Silence(limit))
}

/// Renews a lease at half its time, for as long as the agent runs. A renewal that fails is tried again every minute; the
/// address is kept even beyond its end, since giving it up would only lose the server.
pub fn keep(interface: String, mac: Mac, mut lease: Lease) {
    std::thread::spawn(move || {
        loop {
            // 0xffffffff is for ever; less than two minutes is not worth following exactly.
            std::thread::sleep(Duration::from_secs(u64::from(lease.secs / 2).max(60)));
            match renew(&interface, mac, &lease) {
                Ok(Some(renewed)) => lease = renewed,
                Ok(None) | Err(_) => lease.secs = 120,
            }
        }
    });
}

fn renew(interface: &str, mac: Mac, lease: &Lease) -> io::Result<Option<Lease>> {
    let socket = open(interface)?;
    let xid = u32::from_be_bytes(clock::random());
    let ask = Message { kind: REQUEST, xid, secs: 0, mac, current: Some(lease.address), wanted: None, server: None };
    socket.send_to(&ask.bytes(), SERVER)?;
    hear(&socket, xid, mac, Instant::now() + Duration::from_secs(5), |kind, renewed| kind == ACK && renewed.address == lease.address)
}

/// A socket that hears port 68 on one interface only.
fn open(interface: &str) -> io::Result<UdpSocket> {
    let fd = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::BindToDevice, &OsString::from(interface))?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    setsockopt(&fd, sockopt::Broadcast, &true)?;
    bind(fd.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, CLIENT_PORT))?;
    Ok(UdpSocket::from(fd))
}

/// Waits for an answer to `xid` that `fits`.
fn hear(socket: &UdpSocket, xid: u32, mac: Mac, until: Instant, fits: impl Fn(u8, &Lease) -> bool) -> io::Result<Option<Lease>> {
    let mut packet = [0; 2048];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut packet) {
            Ok(n) => {
                if let Some((kind, lease)) = parse(&packet[..n], xid, mac)
                    && fits(kind, &lease)
                {
                    return Ok(Some(lease));
                }
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted) => {}
            Err(e) => return Err(e),
        }
    }
}

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;

struct Message {
    kind: u8,
    xid: u32,
    secs: u16,
    mac: Mac,
    current: Option<Ipv4Addr>,
    wanted: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
}

impl Message {
    fn bytes(&self) -> Vec<u8> {
        let mut out = vec![1, 1, 6, 0]; // BOOTREQUEST, Ethernet, 6 bytes, no hops
        out.extend(self.xid.to_be_bytes());
        out.extend(self.secs.to_be_bytes());
        out.extend(0x8000_u16.to_be_bytes());
        out.extend(self.current.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        out.extend([0; 12]); // yiaddr, siaddr, giaddr
        out.extend(self.mac.0);
        out.extend([0; 10 + 64 + 128]); // rest of chaddr, sname, file
        out.extend(MAGIC);
        out.extend([53, 1, self.kind]);
        out.extend([61, 7, 1]);
        out.extend(self.mac.0);
        out.extend([60, 13]);
        out.extend(b"hostler-agent");
        out.extend([57, 2, 5, 0xc0]); // up to 1472 bytes
        out.extend([55, 4, 1, 3, 51, 54]); // mask, router, lease time, server
        for (code, address) in [(50, self.wanted), (54, self.server)] {
            if let Some(address) = address {
                out.extend([code, 4]);
                out.extend(address.octets());
            }
        }
        out.push(255);
        // Some relays drop what is shorter than BOOTP's 300 bytes.
        out.resize(out.len().max(300), 0);
        out
    }
}

/// Message type and lease of an answer to us; `None` for anything else.
fn parse(packet: &[u8], xid: u32, mac: Mac) -> Option<(u8, Lease)> {
    let address = |at: usize| packet.get(at..at + 4).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(Ipv4Addr::from);
    if packet.first() != Some(&2)
        || packet.get(4..8)? != xid.to_be_bytes()
        || packet.get(28..34)? != mac.0
        || packet.get(236..240)? != MAGIC
    {
        return None;
    }
    let (mut kind, mut mask, mut router, mut server, mut secs) = (None, None, None, None, None);
    let mut rest = packet.get(240..)?;
    while let [code, after @ ..] = rest {
        match code {
            0 => rest = after,
            255 => break,
            code => {
                let (len, after) = after.split_first()?;
                let value = after.get(..usize::from(*len))?;
                rest = &after[usize::from(*len)..];
                let four = || value.get(..4).and_then(|b| <[u8; 4]>::try_from(b).ok());
                match code {
                    53 => kind = value.first().copied(),
                    1 => mask = four().map(u32::from_be_bytes),
                    3 => router = four().map(Ipv4Addr::from),
                    54 => server = four().map(Ipv4Addr::from),
                    51 => secs = four().map(u32::from_be_bytes),
                    _ => {}
                }
            }
        }
    }
    let prefix = mask.map_or(24, |mask: u32| u8::try_from(mask.leading_ones()).unwrap_or(32));
    let server = server.or_else(|| address(20)).unwrap_or(Ipv4Addr::UNSPECIFIED);
    Some((kind?, Lease { address: address(16)?, prefix, router, server, secs: secs.unwrap_or(3600) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0x77, 0, 1]);

    fn answer(kind: u8, address: [u8; 4]) -> Vec<u8> {
        let ask = Message { kind, xid: 7, secs: 0, mac: MAC, current: None, wanted: None, server: Some([10, 0, 0, 1].into()) };
        let mut bytes = ask.bytes();
        bytes[0] = 2;
        bytes[16..20].copy_from_slice(&address);
        let end = bytes.iter().rposition(|b| *b == 255).unwrap();
        bytes.truncate(end);
        bytes.extend([1, 4, 255, 255, 254, 0, 3, 4, 10, 0, 0, 254, 51, 4, 0, 0, 2, 88, 255]);
        bytes
    }

    #[test]
    fn an_acknowledgement_gives_address_mask_router_and_time() {
        let want = Lease {
            address: [10, 0, 0, 9].into(),
            prefix: 23,
            router: Some([10, 0, 0, 254].into()),
            server: [10, 0, 0, 1].into(),
            secs: 600,
        };
        assert_eq!(parse(&answer(ACK, [10, 0, 0, 9]), 7, MAC), Some((ACK, want)));
    }

    #[test]
    fn an_answer_to_another_machine_or_question_is_not_ours() {
        let bytes = answer(ACK, [10, 0, 0, 9]);
        assert_eq!(parse(&bytes, 8, MAC), None);
        assert_eq!(parse(&bytes, 7, Mac([2; 6])), None);
        for end in 0..bytes.len() {
            // Never a panic; an answer cut in its options may still be read.
            assert!(parse(&bytes[..end], 7, MAC).is_none_or(|(kind, _)| kind == ACK));
        }
    }

    #[test]
    fn a_request_is_at_least_300_bytes_and_asks_for_broadcast() {
        let ask = Message { kind: DISCOVER, xid: 7, secs: 0, mac: MAC, current: None, wanted: None, server: None };
        let bytes = ask.bytes();
        assert!(bytes.len() >= 300);
        assert_eq!(bytes[10..12], [0x80, 0]);
        assert_eq!(bytes[240..243], [53, 1, 1]);
    }
}
