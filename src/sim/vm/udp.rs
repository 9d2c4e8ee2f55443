//! The router's UDP: a DHCP relay agent, and address translation for TFTP. A machine reaches these two servers and
//! nothing else; a TFTP transfer's own port only after that port has spoken to the machine.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::ReadBuf;
use tokio::net::UdpSocket;
use tokio::time::Instant;

use crate::domain::id::Mac;
use crate::sim::vm::cable::Cable;
use crate::sim::vm::frame::{self, Lan};
use crate::sim::vm::router::Outside;
use crate::wire::dhcp::{Relay, relay};

pub const DHCP_SERVER: u16 = 67;
const DHCP_CLIENT: u16 = 68;
pub const TFTP: u16 = 69;
/// TFTP clients at once; EDK2 opens a port for each try, the oldest makes room.
const FLOWS: usize = 16;
/// Ports of one client's transfers.
const TRANSFERS: usize = 4;
/// Longer than the server's last resend.
const IDLE: Duration = Duration::from_secs(60);
/// Datagrams taken from one socket before others have their turn.
const TURN: usize = 16;

pub struct Datagrams {
    lan: Lan,
    machine: Mac,
    outside: Outside,
    dhcp: UdpSocket,
    flows: VecDeque<Flow>,
}

/// One TFTP client port.
struct Flow {
    client: SocketAddrV4,
    socket: UdpSocket,
    /// The server's ports that answered.
    transfers: VecDeque<u16>,
    last: Instant,
}

impl Datagrams {
    /// # Errors
    /// When no socket can be had.
    pub fn open(lan: Lan, machine: Mac, outside: Outside) -> io::Result<Self> {
        Ok(Self { lan, machine, outside, dhcp: bind(outside.address)?, flows: VecDeque::new() })
    }

    /// A datagram from the machine to `port` of the router.
    pub fn from_machine(&mut self, from: SocketAddrV4, port: u16, payload: &[u8]) {
        if port == DHCP_SERVER && from.port() == DHCP_CLIENT {
            match relay::to_server(payload, self.outside.address, &Relay::for_link(self.lan.router)) {
                Ok(packet) => send(&self.dhcp, &packet, self.outside.dhcp),
                Err(e) => tracing::debug!(error = %e, "a virtual machine's DHCP packet was not relayed"),
            }
            return;
        }
        // Port 0 is nobody: an answer could not be sent.
        if from.ip().is_unspecified() || from.port() == 0 {
            return;
        }
        let known = self.flows.iter().position(|f| f.client == from);
        if port == TFTP {
            let at = match known {
                Some(at) => at,
                None => match self.new_flow(from) {
                    Ok(()) => self.flows.len() - 1,
                    Err(e) => return tracing::debug!(error = %e, "no socket for a virtual machine's TFTP"),
                },
            };
            self.flows[at].pass(payload, self.outside.tftp);
        } else if let Some(flow) = known.map(|at| &mut self.flows[at]).filter(|f| f.transfers.contains(&port)) {
            flow.pass(payload, SocketAddrV4::new(*self.outside.tftp.ip(), port));
        }
    }

    fn new_flow(&mut self, client: SocketAddrV4) -> io::Result<()> {
        self.flows.retain(|f| f.last.elapsed() < IDLE);
        if self.flows.len() >= FLOWS {
            self.flows.pop_front();
        }
        self.flows.push_back(Flow { client, socket: bind(self.outside.address)?, transfers: VecDeque::new(), last: Instant::now() });
        Ok(())
    }

    /// Passes on what the servers sent. Returns whether anything came.
    pub fn to_machine(&mut self, cx: &mut Context<'_>, cable: &mut Cable) -> bool {
        let mut moved = false;
        let mut buffer = [0; 2048];
        for _ in 0..TURN {
            let Some((len, _)) = receive(&self.dhcp, cx, &mut buffer) else { break };
            moved = true;
            // To everybody: the client may have no address yet, and there is but one machine on this cable.
            let to = SocketAddrV4::new(Ipv4Addr::BROADCAST, DHCP_CLIENT);
            let packet = relay::to_client(&buffer[..len], self.outside.address).ok();
            if let Some(frame) = packet.and_then(|p| frame::udp(&self.lan, self.machine, DHCP_SERVER, to, &p)) {
                cable.send(frame);
            }
        }
        for flow in &mut self.flows {
            for _ in 0..TURN {
                let Some((len, from)) = receive(&flow.socket, cx, &mut buffer) else { break };
                moved = true;
                if from.ip() != self.outside.tftp.ip() {
                    continue;
                }
                let port = if from == self.outside.tftp { TFTP } else { from.port() };
                flow.heard(port);
                if let Some(frame) = frame::udp(&self.lan, self.machine, port, flow.client, &buffer[..len]) {
                    cable.send(frame);
                }
            }
        }
        moved
    }
}

impl Flow {
    fn pass(&mut self, payload: &[u8], to: SocketAddrV4) {
        self.last = Instant::now();
        send(&self.socket, payload, to);
    }

    fn heard(&mut self, port: u16) {
        if port != TFTP && !self.transfers.contains(&port) {
            if self.transfers.len() >= TRANSFERS {
                self.transfers.pop_front();
            }
            self.transfers.push_back(port);
        }
    }
}

fn bind(address: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind((address, 0))?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// UDP may be lost: what cannot be sent now is. Past tokio, which takes a socket for unwritable until it has heard of it: the
/// first datagram of each client would be lost.
fn send(socket: &UdpSocket, payload: &[u8], to: SocketAddrV4) {
    if let Err(e) = SockRef::from(socket).send_to(payload, &to.into()) {
        tracing::debug!(%to, error = %e, "a virtual machine's datagram was dropped");
    }
}

/// Errors are ICMP answers to earlier datagrams; they take a turn and are no datagram.
fn receive(socket: &UdpSocket, cx: &mut Context<'_>, buffer: &mut [u8]) -> Option<(usize, SocketAddrV4)> {
    for _ in 0..TURN {
        let mut space = ReadBuf::new(buffer);
        match socket.poll_recv_from(cx, &mut space) {
            Poll::Ready(Ok(SocketAddr::V4(from))) => return Some((space.filled().len(), from)),
            Poll::Ready(Ok(SocketAddr::V6(_)) | Err(_)) => {}
            Poll::Pending => return None,
        }
    }
    cx.waker().wake_by_ref();
    None
}
