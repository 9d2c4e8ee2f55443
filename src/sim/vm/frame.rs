//! Ethernet frames of a virtual machine: what comes is sorted, what goes back is built. All bytes come from a guest, so
//! everything is read by smoltcp's checked parsers and what does not fit is dropped.

use std::net::{Ipv4Addr, SocketAddrV4};

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::time::Duration;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr, Icmpv6Message, Icmpv6Packet, Icmpv6Repr, IpAddress, IpProtocol,
    Ipv4Packet, Ipv4Repr, Ipv6Address, Ipv6Packet, Ipv6Repr, NdiscRepr, NdiscRouterFlags, UdpPacket, UdpRepr,
};

use crate::domain::id::Mac;

/// Ethernet header and 1500 bytes, no checksum: what QEMU hands over without offloading.
pub const FRAME_BYTES: usize = 1514;
/// Of a UDP datagram in one frame.
const PAYLOAD_BYTES: usize = 1500 - 20 - 8;
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP: usize = 8;
/// RFC 4861 section 6.1: neighbour discovery is refused with any other.
const ND_HOPS: u8 = 255;

/// The network at the other end of a machine's cable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lan {
    pub router: Ipv4Addr,
    pub prefix: u8,
    pub router_mac: Mac,
}

impl Lan {
    fn has(&self, address: Ipv4Addr) -> bool {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix.min(32))).unwrap_or(0);
        u32::from(address) & mask == u32::from(self.router) & mask
    }

    /// Whether a machine may call itself that.
    fn is_guest(&self, address: Ipv4Addr) -> bool {
        self.has(address) && address != self.router
    }
}

/// A frame from the machine, by who deals with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inbound<'f> {
    /// ARP, and TCP to the router.
    Stack,
    Udp {
        from: SocketAddrV4,
        /// Of the router, or of everybody.
        port: u16,
        payload: &'f [u8],
    },
    /// IPv6: is there a router? iPXE waits 16 s for the answer.
    RouterSolicitation,
}

/// Sorts a frame; `None` for what is broken or for nobody here.
pub fn sort<'f>(frame: &'f [u8], lan: &Lan) -> Option<Inbound<'f>> {
    if frame.len() > FRAME_BYTES {
        return None;
    }
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    match ethernet.ethertype() {
        EthernetProtocol::Arp => Some(Inbound::Stack),
        EthernetProtocol::Ipv4 => ipv4(ethernet.payload(), lan),
        EthernetProtocol::Ipv6 => {
            let packet = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
            let repr = Ipv6Repr::parse(&packet).ok()?;
            let asks = repr.next_header == IpProtocol::Icmpv6
                && repr.hop_limit == ND_HOPS
                && Icmpv6Packet::new_checked(packet.payload()).ok()?.msg_type() == Icmpv6Message::RouterSolicit;
            asks.then_some(Inbound::RouterSolicitation)
        }
        EthernetProtocol::Unknown(_) => None,
    }
}

fn ipv4<'f>(bytes: &'f [u8], lan: &Lan) -> Option<Inbound<'f>> {
    let packet = Ipv4Packet::new_checked(bytes).ok()?;
    let repr = Ipv4Repr::parse(&packet, &ChecksumCapabilities::default()).ok()?;
    // No client here sends fragments: TFTP and DHCP fit a frame.
    if packet.more_frags() || packet.frag_offset() != 0 {
        return None;
    }
    let payload = packet.payload();
    match repr.next_header {
        IpProtocol::Tcp => (repr.dst_addr == lan.router && lan.is_guest(repr.src_addr)).then_some(Inbound::Stack),
        IpProtocol::Udp => {
            let ours = repr.dst_addr == lan.router || repr.dst_addr == Ipv4Addr::BROADCAST;
            // Without an address yet: DHCP.
            let theirs = lan.is_guest(repr.src_addr) || repr.src_addr.is_unspecified();
            if !ours || !theirs {
                return None;
            }
            let udp = UdpPacket::new_checked(payload).ok()?;
            let (src, dst) = (IpAddress::Ipv4(repr.src_addr), IpAddress::Ipv4(repr.dst_addr));
            let ports = UdpRepr::parse(&udp, &src, &dst, &ChecksumCapabilities::default()).ok()?;
            let from = SocketAddrV4::new(repr.src_addr, ports.src_port);
            Some(Inbound::Udp { from, port: ports.dst_port, payload: udp.payload() })
        }
        _ => None,
    }
}

/// A datagram from the router to the machine, to everybody where `to` is the broadcast address. `None` if it does not fit
/// a frame.
pub fn udp(lan: &Lan, machine: Mac, from_port: u16, to: SocketAddrV4, payload: &[u8]) -> Option<Vec<u8>> {
    if payload.len() > PAYLOAD_BYTES {
        return None;
    }
    let checksums = ChecksumCapabilities::default();
    let mut frame = vec![0; ETHERNET + IPV4 + UDP + payload.len()];
    let to_mac = if to.ip().is_broadcast() { EthernetAddress::BROADCAST } else { ethernet(machine) };
    header(&mut frame, lan, to_mac, EthernetProtocol::Ipv4);
    let packet = Ipv4Repr {
        src_addr: lan.router,
        dst_addr: *to.ip(),
        next_header: IpProtocol::Udp,
        payload_len: UDP + payload.len(),
        hop_limit: 64,
    };
    packet.emit(&mut Ipv4Packet::new_unchecked(&mut frame[ETHERNET..]), &checksums);
    let ports = UdpRepr { src_port: from_port, dst_port: to.port() };
    ports.emit(
        &mut UdpPacket::new_unchecked(&mut frame[ETHERNET + IPV4..]),
        &IpAddress::Ipv4(lan.router),
        &IpAddress::Ipv4(*to.ip()),
        payload.len(),
        |space| space.copy_from_slice(payload),
        &checksums,
    );
    Some(frame)
}

/// "There is a router, and nothing to reach through it": who asked need not wait.
pub fn router_advertisement(lan: &Lan) -> Vec<u8> {
    let [a, b, c, d, e, f] = lan.router_mac.0;
    // RFC 4291 appendix A: the MAC with bit 1 flipped and fffe in its middle.
    let own = Ipv6Address::new(
        0xfe80,
        0,
        0,
        0,
        u16::from_be_bytes([a ^ 2, b]),
        u16::from_be_bytes([c, 0xff]),
        u16::from_be_bytes([0xfe, d]),
        u16::from_be_bytes([e, f]),
    );
    let everybody = Ipv6Address::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let advert = Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert {
        hop_limit: 64,
        flags: NdiscRouterFlags::empty(),
        router_lifetime: Duration::ZERO,
        reachable_time: Duration::ZERO,
        retrans_time: Duration::ZERO,
        lladdr: None,
        mtu: None,
        prefix_info: None,
    });
    let mut frame = vec![0; ETHERNET + IPV6 + advert.buffer_len()];
    header(&mut frame, lan, EthernetAddress([0x33, 0x33, 0, 0, 0, 1]), EthernetProtocol::Ipv6);
    let packet = Ipv6Repr {
        src_addr: own,
        dst_addr: everybody,
        next_header: IpProtocol::Icmpv6,
        payload_len: advert.buffer_len(),
        hop_limit: ND_HOPS,
    };
    packet.emit(&mut Ipv6Packet::new_unchecked(&mut frame[ETHERNET..]));
    let mut icmp = Icmpv6Packet::new_unchecked(&mut frame[ETHERNET + IPV6..]);
    advert.emit(&own, &everybody, &mut icmp, &ChecksumCapabilities::default());
    frame
}

pub fn ethernet(mac: Mac) -> EthernetAddress {
    EthernetAddress(mac.0)
}

fn header(frame: &mut [u8], lan: &Lan, to: EthernetAddress, ethertype: EthernetProtocol) {
    let repr = EthernetRepr { src_addr: ethernet(lan.router_mac), dst_addr: to, ethertype };
    repr.emit(&mut EthernetFrame::new_unchecked(frame));
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use proptest::prelude::*;

    pub const LAN: Lan = Lan { router: Ipv4Addr::new(10, 12, 0, 1), prefix: 24, router_mac: Mac([2, 0, 0, 0, 0, 1]) };
    pub const GUEST: Mac = Mac([0x52, 0x54, 0, 0xd0, 0, 1]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 12, 0, 100);

    /// A frame as the machine would send it: the same writer, the other way round.
    pub fn from_guest(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
        let mirrored = Lan { router: *from.ip(), router_mac: GUEST, ..LAN };
        udp(&mirrored, LAN.router_mac, from.port(), to, payload).expect("it fits")
    }

    fn at(ip: Ipv4Addr, port: u16) -> SocketAddrV4 {
        SocketAddrV4::new(ip, port)
    }

    #[test]
    fn a_datagram_to_the_router_or_to_everybody_is_read_back_as_it_was_sent() {
        for to in [LAN.router, Ipv4Addr::BROADCAST] {
            let frame = from_guest(at(ADDRESS, 2070), at(to, 69), b"hello");
            assert_eq!(sort(&frame, &LAN), Some(Inbound::Udp { from: at(ADDRESS, 2070), port: 69, payload: b"hello" }));
        }
        let frame = from_guest(at(Ipv4Addr::UNSPECIFIED, 68), at(Ipv4Addr::BROADCAST, 67), &[7; 1472]);
        assert!(matches!(sort(&frame, &LAN), Some(Inbound::Udp { payload, .. }) if payload == [7; 1472]));
    }

    #[test]
    fn what_is_not_for_the_router_or_not_from_this_network_is_dropped() {
        for (from, to) in [
            (ADDRESS, Ipv4Addr::new(8, 8, 8, 8)),
            (ADDRESS, Ipv4Addr::LOCALHOST),
            (Ipv4Addr::LOCALHOST, LAN.router),
            (LAN.router, LAN.router),
            (Ipv4Addr::new(10, 13, 0, 1), LAN.router),
        ] {
            assert_eq!(sort(&from_guest(at(from, 1), at(to, 69), b"x"), &LAN), None, "{from} {to}");
        }
    }

    #[test]
    fn a_wrong_checksum_a_fragment_and_a_giant_are_dropped() {
        let good = from_guest(at(ADDRESS, 2070), at(LAN.router, 69), b"hello");
        let broken = |byte: usize| {
            let mut frame = good.clone();
            frame[byte] ^= 1;
            frame
        };
        assert_eq!(sort(&broken(ETHERNET + 12), &LAN), None);
        assert_eq!(sort(&broken(good.len() - 1), &LAN), None);
        let mut fragment = good.clone();
        let mut packet = Ipv4Packet::new_unchecked(&mut fragment[ETHERNET..]);
        packet.set_more_frags(true);
        packet.fill_checksum();
        assert_eq!(sort(&fragment, &LAN), None);
        assert_eq!(sort(&[good, vec![0; FRAME_BYTES]].concat(), &LAN), None);
    }

    #[test]
    fn a_payload_larger_than_a_frame_is_not_sent() {
        assert_eq!(udp(&LAN, GUEST, 69, at(ADDRESS, 1), &[0; 1472]).map(|f| f.len()), Some(FRAME_BYTES));
        assert_eq!(udp(&LAN, GUEST, 69, at(ADDRESS, 1), &[0; 1473]), None);
    }

    /// Recorded from Debian 12's iPXE under QEMU.
    const SOLICITATION: &str =
        "333300000002525400d0000186dd6000000000103afffe80000000000000505400fffed00001ff0200000000000000000000000000028500";

    #[test]
    fn a_router_solicitation_is_told_from_other_ipv6() {
        let mut frame = hex::decode(SOLICITATION).expect("hex");
        frame.resize(14 + 40 + 16, 0);
        assert_eq!(sort(&frame, &LAN), Some(Inbound::RouterSolicitation));
        frame[ETHERNET + IPV6] = 135; // a neighbour solicitation
        assert_eq!(sort(&frame, &LAN), None);
    }

    #[test]
    fn the_router_advertisement_is_one_that_a_receiver_takes() {
        let frame = router_advertisement(&LAN);
        let ethernet = EthernetFrame::new_checked(&frame[..]).expect("ethernet");
        let packet = Ipv6Packet::new_checked(ethernet.payload()).expect("ipv6");
        let repr = Ipv6Repr::parse(&packet).expect("ipv6");
        let icmp = Icmpv6Packet::new_checked(packet.payload()).expect("icmp");
        let parsed = Icmpv6Repr::parse(&repr.src_addr, &repr.dst_addr, &icmp, &ChecksumCapabilities::default());
        assert!(matches!(parsed, Ok(Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert { .. }))), "{parsed:?}");
        assert_eq!((repr.hop_limit, repr.src_addr.segments()[0]), (255, 0xfe80));
    }

    proptest! {
        #[test]
        fn any_bytes_are_sorted_or_dropped(bytes in proptest::collection::vec(any::<u8>(), 0..1600), kind in 0u8..4) {
            let mut frame = bytes;
            if frame.len() > 16 {
                let ethertype: [u8; 2] = [[0x08, 0x00], [0x08, 0x06], [0x86, 0xdd], [0x12, 0x34]][usize::from(kind)];
                frame[12..14].copy_from_slice(&ethertype);
            }
            sort(&frame, &LAN);
        }

        #[test]
        fn a_damaged_frame_is_sorted_or_dropped(at_byte in 0usize..60, value in any::<u8>(), cut in 0usize..100) {
            let mut frame = from_guest(at(ADDRESS, 2070), at(LAN.router, 69), &[9; 40]);
            frame[at_byte] = value;
            frame.truncate(frame.len().saturating_sub(cut).max(1));
            if let Some(Inbound::Udp { payload, .. }) = sort(&frame, &LAN) {
                prop_assert!(payload.len() <= 40);
            }
        }
    }
}
