//! The router of the demo's virtual machines, from the machine's end of the cable: a guest with a TCP stack of its own, and
//! guests that send what no stack would.

use std::collections::HashSet;
use std::future::poll_fn;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::task::Poll;
use std::time::Duration;

use hostler::domain::id::Mac;
use hostler::sim::vm::LAN;
use hostler::sim::vm::cable::Cable;
use hostler::sim::vm::frame::{self, FRAME_BYTES, Inbound, Lan};
use hostler::sim::vm::router::{Outside, Router};
use hostler::sim::vm::tcp::PORT;
use hostler::wire::dhcp::{Address, DhcpReply, DhcpRequest, Relay, ReplyKind};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::tcp::{Socket, SocketBuffer, State};
use smoltcp::time::Instant as StackTime;
use smoltcp::wire::{EthernetFrame, HardwareAddress, IpAddress, IpCidr, Ipv4Packet, TcpPacket};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket, UnixDatagram};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

const GUEST: Mac = Mac([0x52, 0x54, 0, 0xd0, 0, 9]);
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 12, 0, 100);
/// Generous: other tests share the processors.
const SOON: Duration = Duration::from_secs(30);

fn v4(address: SocketAddr) -> SocketAddrV4 {
    let SocketAddr::V4(address) = address else { panic!("not IPv4: {address}") };
    address
}

/// The service as far as a router is concerned, and the router with its cable's other end.
struct World {
    http: TcpListener,
    dhcp: UdpSocket,
    tftp: UdpSocket,
    outside: Outside,
    router: JoinHandle<std::io::Error>,
}

/// `number` keeps the routers of tests that run at once apart, as machines are.
async fn world(number: u8) -> (World, UnixDatagram) {
    let http = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let dhcp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let tftp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let outside = Outside {
        address: Ipv4Addr::new(127, 13, 1, number),
        dhcp: v4(dhcp.local_addr().unwrap()),
        tftp: v4(tftp.local_addr().unwrap()),
        http: v4(http.local_addr().unwrap()),
    };
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let router = tokio::spawn(Router::new(LAN, GUEST, outside, theirs).unwrap().run());
    (World { http, dhcp, tftp, outside, router }, ours)
}

/// A datagram as the guest sends it: the router's writer, the other way round.
fn datagram(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let mirrored = Lan { router: *from.ip(), router_mac: GUEST, ..LAN };
    frame::udp(&mirrored, LAN.router_mac, from.port(), to, payload).unwrap()
}

/// What a datagram from the router says: its port there, the port here, the payload.
fn heard(bytes: &[u8]) -> Option<(u16, Vec<u8>)> {
    let mirrored = Lan { router: ADDRESS, ..LAN };
    match frame::sort(bytes, &mirrored)? {
        Inbound::Udp { from, payload, .. } => Some((from.port(), payload.to_vec())),
        Inbound::Stack | Inbound::RouterSolicitation => None,
    }
}

async fn next_datagram(cable: &UnixDatagram) -> (u16, Vec<u8>) {
    let mut buffer = [0; 2048];
    loop {
        let len = timeout(SOON, cable.recv(&mut buffer)).await.expect("a frame").unwrap();
        if let Some(heard) = heard(&buffer[..len]) {
            return heard;
        }
    }
}

fn guest_port(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(ADDRESS, port)
}

fn router_port(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(LAN.router, port)
}

#[tokio::test]
async fn dhcp_goes_through_a_relay_agent_and_comes_back_to_everybody() {
    let (world, cable) = world(1).await;
    let request = DhcpRequest::discover(GUEST, 77);
    let from = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 68);
    cable.send(&datagram(from, SocketAddrV4::new(Ipv4Addr::BROADCAST, 67), &request.encode())).await.unwrap();
    let mut buffer = [0; 2048];
    let (len, relay) = timeout(SOON, world.dhcp.recv_from(&mut buffer)).await.unwrap().unwrap();
    let seen = DhcpRequest::parse(&buffer[..len]).unwrap();
    assert_eq!((seen.giaddr, seen.relay.clone()), (Some(world.outside.address), Some(Relay::for_link(LAN.router))));
    let offer = DhcpReply {
        address: Some(Address {
            yiaddr: Some(ADDRESS),
            lease_secs: Some(60),
            subnet_mask: Ipv4Addr::new(255, 255, 255, 0),
            routers: vec![],
            dns: vec![],
            domain: None,
        }),
        ..DhcpReply::to(&seen, ReplyKind::Offer, LAN.router)
    };
    // Not an answer: someone else's words on the relay's port.
    world.dhcp.send_to(b"noise", relay).await.unwrap();
    world.dhcp.send_to(&offer.encode(), relay).await.unwrap();
    let (port, payload) = next_datagram(&cable).await;
    let got = DhcpReply::parse(&payload).unwrap();
    assert_eq!((port, got.xid, got.address.unwrap().yiaddr), (67, 77, Some(ADDRESS)));
}

#[tokio::test]
async fn tftp_finds_the_server_and_then_the_port_that_answered_and_no_other_port_of_the_host() {
    let (world, cable) = world(2).await;
    cable.send(&datagram(guest_port(2070), router_port(69), b"RRQ")).await.unwrap();
    let mut buffer = [0; 2048];
    let (len, client) = timeout(SOON, world.tftp.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!((&buffer[..len], client.ip()), (&b"RRQ"[..], world.outside.address.into()));

    // A port that has not spoken to this client: what is sent there goes nowhere.
    let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let other_port = other.local_addr().unwrap().port();
    cable.send(&datagram(guest_port(2070), router_port(other_port), b"knock")).await.unwrap();

    let transfer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = transfer.local_addr().unwrap().port();
    transfer.send_to(b"DATA", client).await.unwrap();
    assert_eq!(next_datagram(&cable).await, (port, b"DATA".to_vec()));
    cable.send(&datagram(guest_port(2070), router_port(port), b"ACK")).await.unwrap();
    let (len, from) = timeout(SOON, transfer.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!((&buffer[..len], from), (&b"ACK"[..], client));
    // Another client of the same machine cannot use the port either.
    cable.send(&datagram(guest_port(2071), router_port(port), b"steal")).await.unwrap();
    cable.send(&datagram(guest_port(2070), router_port(69), b"again")).await.unwrap();
    timeout(SOON, world.tftp.recv_from(&mut buffer)).await.unwrap().unwrap();
    // Frames are taken in order, so what was sent before had its chance.
    assert!(other.try_recv_from(&mut buffer).is_err());
    assert!(transfer.try_recv_from(&mut buffer).is_err());
}

#[tokio::test]
async fn a_client_that_opens_port_after_port_holds_a_few_at_most() {
    let (world, cable) = world(3).await;
    let mut outside = HashSet::new();
    let mut buffer = [0; 2048];
    for port in 3000..3200 {
        cable.send(&datagram(guest_port(port), router_port(69), b"RRQ")).await.unwrap();
        let (_, client) = timeout(SOON, world.tftp.recv_from(&mut buffer)).await.unwrap().unwrap();
        outside.insert(client.port());
    }
    let table = std::fs::read_to_string("/proc/net/udp").unwrap();
    // Addresses there are in the host's byte order: 127.13.1.3.
    let open = table.lines().filter(|line| line.contains(": 03010D7F:")).count();
    assert!(outside.len() > 100 && open <= 17, "{open} sockets, one of them for DHCP");
}

/// A guest with a stack of its own.
struct Guest {
    cable: Cable,
    stack: Interface,
    sockets: SocketSet<'static>,
    began: Instant,
    next_port: u16,
}

impl Guest {
    fn new(cable: UnixDatagram) -> Self {
        let mut cable = Cable::new(cable);
        let config = Config::new(HardwareAddress::Ethernet(frame::ethernet(GUEST)));
        let mut stack = Interface::new(config, &mut cable, StackTime::ZERO);
        stack.update_ip_addrs(|a| a.push(IpCidr::new(IpAddress::Ipv4(ADDRESS), 24)).unwrap());
        Self { cable, stack, sockets: SocketSet::new(Vec::new()), began: Instant::now(), next_port: 40_000 }
    }

    fn connect(&mut self) -> SocketHandle {
        let mut socket = Socket::new(SocketBuffer::new(vec![0; 64 << 10]), SocketBuffer::new(vec![0; 64 << 10]));
        self.next_port += 1;
        socket.connect(self.stack.context(), (IpAddress::Ipv4(LAN.router), PORT), self.next_port).unwrap();
        self.sockets.add(socket)
    }

    fn socket(&mut self, handle: SocketHandle) -> &mut Socket<'static> {
        self.sockets.get_mut(handle)
    }

    /// Lets the stack work until `done` gives a value.
    async fn until<T>(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let mut tick = tokio::time::interval(Duration::from_millis(2));
        let work = poll_fn(|cx| {
            loop {
                let mut moved = self.cable.flush(cx).unwrap();
                let mut buffer = [0; FRAME_BYTES + 1];
                if self.cable.has_room_inward()
                    && let Poll::Ready(frame) = self.cable.poll_frame(cx, &mut buffer)
                {
                    self.cable.give_stack(frame.unwrap());
                    moved = true;
                }
                let now = StackTime::from_micros(i64::try_from(self.began.elapsed().as_micros()).unwrap());
                self.stack.poll(now, &mut self.cable, &mut self.sockets);
                if let Some(value) = done(self) {
                    // What it had to say about that, the router should hear.
                    self.cable.flush(cx).unwrap();
                    return Poll::Ready(value);
                }
                if !moved && tick.poll_tick(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        });
        timeout(SOON, work).await.unwrap_or_else(|_| panic!("waited for {what} in vain"))
    }
}

#[tokio::test]
async fn bytes_pass_both_ways_and_each_side_hears_the_others_end() {
    let (world, cable) = world(4).await;
    let mut guest = Guest::new(cable);
    let (up, down): (Vec<u8>, Vec<u8>) =
        ((0..200_000u32).map(|n| (n % 251) as u8).collect(), (0..3_000_000u32).map(|n| (n % 241) as u8).collect());
    let (sent, answer) = (up.clone(), down.clone());
    let outside = world.outside.address;
    let service = tokio::spawn(async move {
        let (mut stream, peer) = world.http.accept().await.unwrap();
        assert_eq!(peer.ip(), outside);
        let mut got = Vec::new();
        // To the end: the guest has closed its half.
        stream.read_to_end(&mut got).await.unwrap();
        stream.write_all(&answer).await.unwrap();
        got
    });
    let connection = guest.connect();
    let (mut written, mut read) = (0, Vec::new());
    guest
        .until("the whole exchange", |guest| {
            let socket = guest.socket(connection);
            if written < sent.len() && socket.can_send() {
                written += socket.send_slice(&sent[written..]).unwrap();
                if written == sent.len() {
                    socket.close();
                }
            }
            let mut chunk = [0; 4096];
            while socket.can_recv() {
                let n = socket.recv_slice(&mut chunk).unwrap();
                read.extend_from_slice(&chunk[..n]);
            }
            (written == sent.len() && matches!(socket.state(), State::Closed | State::TimeWait)).then_some(())
        })
        .await;
    assert!(read == down, "{} of {} bytes came down", read.len(), down.len());
    assert!(service.await.unwrap() == up);
}

#[tokio::test]
async fn no_more_connections_than_doors_and_a_door_opens_again() {
    let (world, cable) = world(5).await;
    let mut guest = Guest::new(cable);
    let mut streams = Vec::new();
    let mut connections = Vec::new();
    for _ in 0..16 {
        let connection = guest.connect();
        guest.until("a connection", |g| (g.socket(connection).state() == State::Established).then_some(())).await;
        streams.push(timeout(SOON, world.http.accept()).await.unwrap().unwrap().0);
        connections.push(connection);
    }
    let refused = guest.connect();
    guest.until("a refusal", |g| (g.socket(refused).state() == State::Closed).then_some(())).await;
    // The service ends one, then there is room for another.
    streams.pop();
    let last = connections.pop().unwrap();
    guest.until("the end", |g| (g.socket(last).state() == State::CloseWait).then_some(())).await;
    guest.socket(last).close();
    guest.until("both ends", |g| (g.socket(last).state() == State::Closed).then_some(())).await;
    let again = guest.connect();
    guest.until("room", |g| (g.socket(again).state() == State::Established).then_some(())).await;
}

#[tokio::test]
async fn a_service_that_does_not_listen_is_a_reset() {
    let (world, cable) = world(6).await;
    drop(world.http);
    let mut guest = Guest::new(cable);
    let connection = guest.connect();
    guest.until("a reset", |g| (g.socket(connection).state() == State::Closed).then_some(())).await;
}

/// Asks whether there is a router.
const SOLICITATION: &str = "333300000002525400d0000986dd6000000000103afffe80000000000000505400fffed00009ff0200000000000000000000000000028500000000000000000000000000000000000000";

/// Sends what is there and throws away what comes, until the router says that it is there.
async fn is_alive(cable: &UnixDatagram) -> bool {
    let mut solicitation = hex::decode(SOLICITATION).unwrap();
    solicitation.truncate(14 + 40 + 16);
    let mut buffer = [0; 2048];
    timeout(SOON, async {
        cable.send(&solicitation).await.unwrap();
        loop {
            let len = cable.recv(&mut buffer).await.unwrap();
            if buffer[..len].starts_with(&[0x33, 0x33, 0, 0, 0, 1]) {
                return;
            }
        }
    })
    .await
    .is_ok()
}

#[tokio::test]
async fn frames_of_any_bytes_do_not_stop_the_router() {
    let (world, cable) = world(7).await;
    let rng = &mut StdRng::seed_from_u64(1);
    let mut buffer = [0; 2048];
    for _ in 0..20_000 {
        let len = if rng.random_bool(0.02) { rng.random_range(1..3000) } else { rng.random_range(1..120) };
        let mut bytes: Vec<u8> = (0..len).map(|_| rng.random()).collect();
        if bytes.len() > 40 {
            let kind = [[0x08, 0x00], [0x08, 0x06], [0x86, 0xdd]][rng.random_range(0..3)];
            bytes[..6].copy_from_slice(&LAN.router_mac.0);
            bytes[12..14].copy_from_slice(&kind);
            if rng.random_bool(0.5) {
                bytes[14] = if kind == [0x86, 0xdd] { 0x60 } else { 0x45 };
                bytes[23] = [6, 17, 1, 58][rng.random_range(0..4)];
            }
        }
        cable.send(&bytes).await.unwrap();
        while cable.try_recv(&mut buffer).is_ok() {}
    }
    assert!(is_alive(&cable).await);
    assert!(!world.router.is_finished());
}

/// One byte of a segment changed and all checksums made right: what a hostile stack sends, not a bad cable.
fn hostile(good: &[u8], rng: &mut StdRng) -> Option<Vec<u8>> {
    let mut frame = good.to_vec();
    let ethernet = EthernetFrame::new_checked(good).ok()?;
    if good.len() < 14 + 20 + 20 || u16::from(ethernet.ethertype()) != 0x0800 || good[23] != 6 {
        return None;
    }
    for _ in 0..rng.random_range(1..4) {
        // Anywhere behind the addresses: ports, numbers, flags, options, data.
        let at = rng.random_range(34..frame.len());
        frame[at] = [0, 1, 0x7f, 0x80, 0xff, rng.random()][rng.random_range(0..6)];
    }
    // The header's length is kept inside the segment, else it is dropped at once.
    let most = (frame.len() - 34) / 4;
    if usize::from(frame[46] >> 4) > most || frame[46] >> 4 < 5 {
        frame[46] = 0x50;
    }
    let (src, dst) = (IpAddress::Ipv4(ADDRESS), IpAddress::Ipv4(LAN.router));
    TcpPacket::new_unchecked(&mut frame[34..]).fill_checksum(&src, &dst);
    Ipv4Packet::new_unchecked(&mut frame[14..]).fill_checksum();
    Some(frame)
}

#[tokio::test]
async fn hostile_segments_do_not_stop_the_router() {
    let (world, outer) = world(8).await;
    let echo = tokio::spawn(async move {
        loop {
            let (mut stream, _) = world.http.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                // The guest's connections end in every way there is.
                tokio::io::copy(&mut read, &mut write).await.ok();
            });
        }
    });
    // Between guest and router sits someone who sends damaged copies of what the guest sends.
    let (inner, guest_end) = UnixDatagram::pair().unwrap();
    let (enough, mut stop) = tokio::sync::oneshot::channel();
    let middle = tokio::spawn(async move {
        let rng = &mut StdRng::seed_from_u64(2);
        let (mut up, mut down, mut sent) = ([0; 2048], [0; 2048], 0_u32);
        loop {
            tokio::select! {
                _ = &mut stop => return (outer, sent),
                len = inner.recv(&mut up) => {
                    let good = &up[..len.unwrap()];
                    for bad in (0..8).filter_map(|_| hostile(good, rng)) {
                        outer.send(&bad).await.unwrap();
                        sent += 1;
                    }
                    outer.send(good).await.unwrap();
                }
                len = outer.recv(&mut down) => {
                    inner.send(&down[..len.unwrap()]).await.unwrap();
                }
            }
        }
    });
    let mut guest = Guest::new(guest_end);
    for round in 0..40 {
        let connection = guest.connect();
        let mut sends = 0;
        // How far it comes does not matter; damaged copies may reset it.
        let until = Instant::now() + Duration::from_millis(100);
        guest
            .until("the end of a round", |g| {
                let socket = g.socket(connection);
                if sends < 20 && socket.can_send() {
                    socket.send_slice(&[round; 600]).unwrap();
                    sends += 1;
                }
                if sends == 20 {
                    socket.close();
                }
                let mut chunk = [0; 4096];
                if socket.can_recv() {
                    socket.recv_slice(&mut chunk).unwrap();
                }
                (Instant::now() > until).then_some(())
            })
            .await;
        guest.socket(connection).abort();
    }
    enough.send(()).unwrap();
    let (outer, sent) = middle.await.unwrap();
    echo.abort();
    assert!(sent > 1000, "{sent}");
    assert!(is_alive(&outer).await);
    assert!(!world.router.is_finished());
}
