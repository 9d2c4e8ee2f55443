//! The router at the other end of a virtual machine's cable: all the network it has.
//!
//! ```text
//!  guest  10.12.0.x  ==frames==  10.12.0.1  router  127.13.0.n  --sockets--  the service on loopback
//!                     ARP, TCP 8081 (smoltcp) -> HTTP
//!                     UDP 67  -> DHCP, as its relay agent
//!                     UDP 69  -> TFTP
//!                     router solicitation -> "nothing here"
//! ```
//!
//! It needs no rights: no tap, no namespace, no port below 1024. Nothing else of the host can be reached through it, and
//! machines do not see each other.

use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::time::Instant as StackTime;
use smoltcp::wire::{HardwareAddress, IpCidr, Ipv4Cidr};
use tokio::net::UnixDatagram;
use tokio::time::{Instant, Sleep};

use crate::clock;
use crate::domain::id::Mac;
use crate::sim::vm::cable::Cable;
use crate::sim::vm::frame::{self, FRAME_BYTES, Inbound, Lan};
use crate::sim::vm::tcp::Doors;
use crate::sim::vm::udp::Datagrams;

/// Rounds of moving bytes before other tasks have their turn, and frames in one round.
const ROUNDS: usize = 32;
const FRAMES: usize = 32;
/// Without a timer of the stack's.
const LONG: Duration = Duration::from_secs(3600);

/// The service's side.
#[derive(Clone, Copy, Debug)]
pub struct Outside {
    /// The router's own address, of the loopback network.
    pub address: Ipv4Addr,
    pub dhcp: SocketAddrV4,
    pub tftp: SocketAddrV4,
    pub http: SocketAddrV4,
}

pub struct Router {
    lan: Lan,
    cable: Cable,
    stack: Interface,
    sockets: SocketSet<'static>,
    doors: Doors,
    datagrams: Datagrams,
    began: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Router {
    /// Plugs the cable of `machine` in.
    ///
    /// # Errors
    /// When no socket can be had.
    pub fn new(lan: Lan, machine: Mac, outside: Outside, cable: UnixDatagram) -> io::Result<Self> {
        let mut cable = Cable::new(cable);
        let mut config = Config::new(HardwareAddress::Ethernet(frame::ethernet(lan.router_mac)));
        config.random_seed = u64::from_le_bytes(clock::random());
        let mut stack = Interface::new(config, &mut cable, StackTime::ZERO);
        let own = IpCidr::Ipv4(Ipv4Cidr::new(lan.router, lan.prefix));
        stack.update_ip_addrs(|addresses| addresses.push(own).unwrap_or_else(|_| unreachable!("a new stack has room for an address")));
        let mut sockets = SocketSet::new(Vec::new());
        let doors = Doors::open(outside, &mut sockets);
        let datagrams = Datagrams::open(lan, machine, outside)?;
        let (began, timer) = (Instant::now(), Box::pin(tokio::time::sleep(LONG)));
        Ok(Self { lan, cable, stack, sockets, doors, datagrams, began, timer })
    }

    /// Routes until the other end of the cable is gone; returns why.
    pub async fn run(mut self) -> io::Error {
        poll_fn(|cx| self.poll(cx)).await
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        for _ in 0..ROUNDS {
            match self.round(cx) {
                Ok(true) => {}
                Ok(false) => return self.rest(cx),
                Err(e) => return Poll::Ready(e),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Moves what can be moved, once. Returns whether anything did.
    fn round(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut moved = self.cable.flush(cx)?;
        moved |= self.take_frames(cx)?;
        moved |= self.datagrams.to_machine(cx, &mut self.cable);
        self.stack.poll(self.now(), &mut self.cable, &mut self.sockets);
        moved |= self.doors.step(cx, &mut self.sockets);
        self.stack.poll(self.now(), &mut self.cable, &mut self.sockets);
        Ok(self.cable.flush(cx)? || moved)
    }

    fn take_frames(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        let mut buffer = [0; FRAME_BYTES + 1];
        for taken in 0..FRAMES {
            if !self.cable.has_room_inward() {
                return Ok(taken > 0);
            }
            let Poll::Ready(frame) = self.cable.poll_frame(cx, &mut buffer) else { return Ok(taken > 0) };
            let frame = frame?;
            match frame::sort(frame, &self.lan) {
                Some(Inbound::Stack) => self.cable.give_stack(frame),
                Some(Inbound::Udp { from, port, payload }) => self.datagrams.from_machine(from, port, payload),
                Some(Inbound::RouterSolicitation) => self.cable.send(frame::router_advertisement(&self.lan)),
                None => {}
            }
        }
        Ok(true)
    }

    /// Nothing moves: sleeps until something does or the stack wants to repeat itself.
    fn rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let now = self.now();
        let wait = self.stack.poll_delay(now, &self.sockets).map_or(LONG, Duration::from);
        // A stack that wants to speak at once and finds no room on the cable must not spin.
        const LEAST: Duration = Duration::from_millis(1);
        self.timer.as_mut().reset(Instant::now() + wait.max(LEAST));
        if self.timer.as_mut().poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    fn now(&self) -> StackTime {
        StackTime::from_micros(i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX))
    }
}
