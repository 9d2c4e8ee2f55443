//! UDP sockets with the options DHCP and TFTP need.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;

use nix::libc::{in_addr, in_pktinfo};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Room for a burst: a rack that powers up sends a few hundred DISCOVERs within milliseconds.
const RECEIVE_BUFFER: usize = 4 << 20;

/// A network interface, as the operator named it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub index: u32,
    pub address: Ipv4Addr,
    pub mask: Ipv4Addr,
    pub loopback: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    #[error("cannot list the network interfaces")]
    List(#[source] io::Error),
    #[error("there is no network interface or local IPv4 address {wanted:?}; this machine has: {has}")]
    None { wanted: String, has: String },
}

impl Interface {
    /// Finds the interface by its name, or by one of its IPv4 addresses.
    pub fn find(wanted: &str) -> Result<Self, InterfaceError> {
        let all = Self::all().map_err(InterfaceError::List)?;
        if let Ok(address) = wanted.parse::<Ipv4Addr>() {
            // All of 127.0.0.0/8 is local, though only 127.0.0.1 is listed.
            let found = all.iter().find(|i| i.address == address).or_else(|| all.iter().find(|i| address.is_loopback() && i.loopback));
            if let Some(found) = found {
                return Ok(Self { address, ..found.clone() });
            }
        }
        all.iter().find(|i| i.name == wanted).cloned().ok_or_else(|| InterfaceError::None {
            wanted: wanted.to_owned(),
            has: all.iter().map(|i| format!("{} ({})", i.name, i.address)).collect::<Vec<_>>().join(", "),
        })
    }

    fn all() -> io::Result<Vec<Self>> {
        let mut out = Vec::new();
        for entry in nix::ifaddrs::getifaddrs()? {
            let address = entry.address.as_ref().and_then(|a| a.as_sockaddr_in()).map(SockaddrIn::ip);
            let mask = entry.netmask.as_ref().and_then(|a| a.as_sockaddr_in()).map(SockaddrIn::ip);
            if let (Some(address), Some(mask)) = (address, mask) {
                let index = nix::net::if_::if_nametoindex(entry.interface_name.as_str())?;
                let loopback = entry.flags.contains(nix::net::if_::InterfaceFlags::IFF_LOOPBACK);
                out.push(Self { name: entry.interface_name, index, address, mask, loopback });
            }
        }
        Ok(out)
    }

    /// The interface's name for SO_BINDTODEVICE; none on loopback, where addresses tell services apart.
    pub fn device(&self) -> Option<&str> {
        (!self.loopback).then_some(self.name.as_str())
    }
}

/// Binds a server socket that is told at which address each packet arrived.
pub fn server(listen: SocketAddrV4, device: Option<&str>) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // A second DHCP service on this host keeps working beside us: broadcasts reach both.
    socket.set_reuse_address(listen.port() != 0)?;
    socket.set_broadcast(true)?;
    if let Some(device) = device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    // The kernel caps it at net.core.rmem_max; less is no error.
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    setsockopt(&socket, sockopt::Ipv4PacketInfo, &true)?;
    socket.bind(&listen.into())?;
    UdpSocket::from_std(socket.into())
}

/// A socket for one transfer: from the address that was asked, to the one who asked.
pub fn connected(from: Ipv4Addr, device: Option<&str>, to: SocketAddrV4) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if let Some(device) = device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    socket.bind(&SocketAddrV4::new(from, 0).into())?;
    socket.connect(&to.into())?;
    UdpSocket::from_std(socket.into())
}

/// A received packet's length, sender, and the local address it was sent to.
pub struct Received {
    pub len: usize,
    pub from: SocketAddrV4,
    /// The local address to answer from: for a broadcast, that of the interface.
    pub to: Ipv4Addr,
}

/// Waits for a packet on a socket from [`server`].
pub async fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
    socket.async_io(Interest::READABLE, || try_receive(socket, buffer)).await
}

fn try_receive(socket: &UdpSocket, buffer: &mut [u8]) -> io::Result<Received> {
    let mut iov = [io::IoSliceMut::new(buffer)];
    let mut space = nix::cmsg_space!(in_pktinfo);
    let message = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::empty())?;
    let from = message.address.map(|a| SocketAddrV4::new(a.ip(), a.port()));
    let to = message.cmsgs().ok().into_iter().flatten().find_map(|c| match c {
        ControlMessageOwned::Ipv4PacketInfo(info) => Some(Ipv4Addr::from(u32::from_be(info.ipi_spec_dst.s_addr))),
        _other => None,
    });
    match (from, to) {
        (Some(from), Some(to)) => Ok(Received { len: message.bytes, from, to }),
        _ => Err(io::Error::other("the kernel did not tell a packet's addresses")),
    }
}

/// Sends a packet from `from`, out of interface `index` (0: by the routing table).
pub async fn send(socket: &UdpSocket, bytes: &[u8], from: Ipv4Addr, index: u32, to: SocketAddrV4) -> io::Result<()> {
    socket.async_io(Interest::WRITABLE, || try_send(socket, bytes, from, index, to)).await
}

fn try_send(socket: &UdpSocket, bytes: &[u8], from: Ipv4Addr, index: u32, to: SocketAddrV4) -> io::Result<()> {
    let info = in_pktinfo {
        ipi_ifindex: i32::try_from(index).unwrap_or(0),
        ipi_spec_dst: in_addr { s_addr: u32::from(from).to_be() },
        ipi_addr: in_addr { s_addr: 0 },
    };
    let iov = [io::IoSlice::new(bytes)];
    sendmsg(socket.as_raw_fd(), &iov, &[ControlMessage::Ipv4PacketInfo(&info)], MsgFlags::empty(), Some(&SockaddrIn::from(to)))?;
    Ok(())
}

/// Sends `parts` on a connected socket as one run of packets of `segment` bytes each (UDP GSO: one system call, cut up
/// by the kernel or the card; Linux 4.18 and up).
pub async fn send_segments(socket: &UdpSocket, parts: &[io::IoSlice<'_>], segment: u16) -> io::Result<()> {
    let once = || {
        sendmsg::<SockaddrIn>(socket.as_raw_fd(), parts, &[ControlMessage::UdpGsoSegments(&segment)], MsgFlags::empty(), None)?;
        Ok(())
    };
    socket.async_io(Interest::WRITABLE, once).await
}

/// Sends `parts` on a connected socket as one packet.
pub async fn send_gathered(socket: &UdpSocket, parts: &[io::IoSlice<'_>]) -> io::Result<()> {
    let once = || {
        sendmsg::<SockaddrIn>(socket.as_raw_fd(), parts, &[], MsgFlags::empty(), None)?;
        Ok(())
    };
    socket.async_io(Interest::WRITABLE, once).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_is_found_by_name_and_by_address() {
        let lo = Interface::find("lo").expect("loopback");
        assert_eq!((lo.address, lo.loopback, lo.device()), (Ipv4Addr::LOCALHOST, true, None));
        assert_eq!(Interface::find("127.0.0.9").expect("loopback").address, Ipv4Addr::new(127, 0, 0, 9));
    }

    #[test]
    fn a_missing_interface_names_those_that_are_there() {
        let error = Interface::find("eth99").expect_err("no such").to_string();
        assert!(error.contains("eth99") && error.contains("lo (127.0.0.1)"), "{error}");
    }

    #[tokio::test]
    async fn a_packet_tells_which_of_our_addresses_was_asked_and_the_answer_comes_from_it() {
        let server = server(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0), None).expect("bind");
        let port = server.local_addr().expect("address").port();
        let client = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
        client.send_to(b"hello", ("127.0.0.7", port)).await.expect("send");
        let mut buffer = [0; 100];
        let got = receive(&server, &mut buffer).await.expect("receive");
        assert_eq!((got.len, got.to), (5, Ipv4Addr::new(127, 0, 0, 7)));
        send(&server, b"there", got.to, 0, got.from).await.expect("send");
        let (_, from) = client.recv_from(&mut buffer).await.expect("receive");
        assert_eq!(from, format!("127.0.0.7:{port}").parse().expect("address"));
    }
}
