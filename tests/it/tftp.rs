//! The TFTP server over real sockets: with curl as a client we did not write, and with a client that can misbehave.

use std::collections::HashMap;
use std::net::{SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hostler::netboot::tftp::{TftpConfig, TftpEvent, TftpFiles, TftpProgress, TftpRefusal, TftpServer};
use hostler::wire::tftp::{ErrorCode, TftpLimits, TftpOptions, TftpPacket, TftpRequest};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(20);

struct Shelf {
    files: HashMap<String, Bytes>,
    asked: Mutex<Vec<String>>,
    events: mpsc::UnboundedSender<TftpEvent>,
}

impl TftpFiles for Shelf {
    async fn open(&self, _peer: SocketAddrV4, name: &str) -> Result<Bytes, TftpRefusal> {
        self.asked.lock().expect("lock").push(name.to_owned());
        self.files.get(name).cloned().ok_or(TftpRefusal::NotFound)
    }

    fn note(&self, event: TftpEvent) {
        self.events.send(event).expect("a test listens");
    }
}

struct Server {
    at: SocketAddr,
    shelf: Arc<Shelf>,
    events: mpsc::UnboundedReceiver<TftpEvent>,
    stop: CancellationToken,
}

impl Server {
    fn start(files: &[(&str, Bytes)]) -> Self {
        Self::start_with(files, |_| {})
    }

    fn start_with(files: &[(&str, Bytes)], change: impl FnOnce(&mut TftpConfig)) -> Self {
        let (send, events) = mpsc::unbounded_channel();
        let files = files.iter().map(|(n, b)| ((*n).to_owned(), b.clone())).collect();
        let shelf = Arc::new(Shelf { files, asked: Mutex::default(), events: send });
        let mut config = TftpConfig { listen: "127.0.0.1:0".parse().expect("address"), ..TftpConfig::default() };
        config.limits.timeout = Duration::from_millis(50);
        change(&mut config);
        let server = TftpServer::bind(config).expect("bind");
        let at = server.local_addr().expect("address");
        let stop = CancellationToken::new();
        tokio::spawn(server.run(Arc::clone(&shelf), stop.clone()));
        Self { at, shelf, events, stop }
    }

    async fn outcome(&mut self) -> TftpProgress {
        loop {
            let event = timeout(PATIENCE, self.events.recv()).await.expect("an event in time").expect("server lives");
            if !matches!(event.what, TftpProgress::Started { .. }) {
                return event.what;
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn bytes(len: usize) -> Bytes {
    let mut x: u32 = 2_463_534_242;
    let next = |_| {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x.to_le_bytes()[0]
    };
    (0..len).map(next).collect::<Vec<u8>>().into()
}

/// A client that can lose packets on purpose: `lose(n)` says whether the n-th DATA packet is dropped.
async fn fetch(at: SocketAddr, name: &str, options: TftpOptions, lose: impl Fn(u64) -> bool) -> Result<Vec<u8>, String> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    let request = TftpRequest::encode_read(name, &options);
    socket.send_to(&request, at).await.expect("send");
    let (mut out, mut buffer, mut seen, mut last) = (Vec::new(), vec![0; 65_600], 0u64, 0u64);
    let (mut blksize, mut window) = (512usize, 1u64);
    let mut in_window = 0;
    let mut peer = None;
    loop {
        let Ok(got) = timeout(Duration::from_millis(700), socket.recv_from(&mut buffer)).await else {
            let (again, to) = match peer {
                Some(peer) => (TftpPacket::Ack { block: (last & 0xffff) as u16 }.encode(), peer),
                None => (request.clone(), at),
            };
            socket.send_to(&again, to).await.expect("send");
            continue;
        };
        let (len, from) = got.expect("receive");
        assert!(peer.is_none_or(|p| p == from), "one transfer, one port");
        peer = Some(from);
        match TftpPacket::parse(&buffer[..len]).expect("a TFTP packet") {
            TftpPacket::OptionAck(granted) => {
                blksize = granted.blksize.map_or(512, usize::from);
                window = granted.windowsize.map_or(1, u64::from);
                socket.send_to(&TftpPacket::Ack { block: 0 }.encode(), from).await.expect("send");
            }
            TftpPacket::Error { message, .. } => return Err(message),
            TftpPacket::Ack { .. } => return Err("a server sends no ACK".into()),
            TftpPacket::Data { block, data } => {
                seen += 1;
                if lose(seen) {
                    continue;
                }
                let wanted = ((last + 1) & 0xffff) as u16;
                if block == wanted {
                    last += 1;
                    in_window += 1;
                    out.extend_from_slice(data);
                    let end = data.len() < blksize;
                    if end || in_window == window {
                        in_window = 0;
                        socket.send_to(&TftpPacket::Ack { block }.encode(), from).await.expect("send");
                    }
                    if end {
                        return Ok(out);
                    }
                } else if block > wanted {
                    // RFC 7440 section 4: tell the last block in order.
                    in_window = 0;
                    socket.send_to(&TftpPacket::Ack { block: (last & 0xffff) as u16 }.encode(), from).await.expect("send");
                }
            }
        }
    }
}

fn with(blksize: u16, windowsize: u16) -> TftpOptions {
    TftpOptions { blksize: Some(blksize), tsize: Some(0), timeout_secs: None, windowsize: Some(windowsize) }
}

async fn curl(args: &[&str], url: &str) -> (bool, Vec<u8>) {
    let out = tokio::process::Command::new("curl").args(["-s", "--max-time", "20"]).args(args).arg(url).output().await.expect("curl runs");
    (out.status.success(), out.stdout)
}

#[tokio::test]
async fn curl_gets_the_same_bytes_at_every_edge_size() {
    for len in [1, 511, 512, 513, 1468, 1468 * 16, 100_003] {
        let file = bytes(len);
        let mut server = Server::start(&[("a/ipxe.efi", file.clone())]);
        for args in [&[][..], &["--tftp-blksize", "1468"], &["--tftp-no-options"]] {
            let (ok, got) = curl(args, &format!("tftp://{}/a/ipxe.efi", server.at)).await;
            assert!(ok && got == file, "{len} {args:?}: {} bytes", got.len());
            assert!(matches!(server.outcome().await, TftpProgress::Done { size, .. } if size == len as u64));
        }
    }
}

#[tokio::test]
async fn an_empty_file_is_one_empty_block() {
    // curl takes a size of 0 in the option acknowledgement for an error, so it is asked without options.
    let mut server = Server::start(&[("empty", Bytes::new())]);
    assert_eq!(curl(&["--tftp-no-options"], &format!("tftp://{}/empty", server.at)).await, (true, Vec::new()));
    assert!(matches!(server.outcome().await, TftpProgress::Done { size: 0, .. }));
    assert_eq!(fetch(server.at, "empty", with(1468, 16), |_| false).await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_missing_file_is_refused_at_once() {
    let mut server = Server::start(&[]);
    let (ok, _) = curl(&[], &format!("tftp://{}/revocations_sku.efi", server.at)).await;
    assert!(!ok);
    assert_eq!(server.outcome().await, TftpProgress::Refused { why: "no such file".into() });
}

#[tokio::test]
async fn writing_is_refused() {
    let server = Server::start(&[]);
    let (ok, _) = curl(&["-T", "/etc/hostname"], &format!("tftp://{}/x", server.at)).await;
    assert!(!ok);
    assert!(server.shelf.asked.lock().expect("lock").is_empty());
}

#[tokio::test]
async fn names_reach_only_the_shelf_never_the_file_system() {
    let mut server = Server::start(&[("x", bytes(10))]);
    for name in ["../../etc/passwd", "/etc/passwd", "..\\..\\etc\\passwd"] {
        assert_eq!(fetch(server.at, name, TftpOptions::default(), |_| false).await, Err("no such file".into()));
        assert!(matches!(server.outcome().await, TftpProgress::Refused { .. }));
    }
}

#[tokio::test]
async fn windows_of_every_size_arrive_whole() {
    let file = bytes(300_001);
    let mut server = Server::start(&[("f", file.clone())]);
    for (blksize, window) in [(512, 1), (1468, 4), (1468, 16), (1468, 64), (1024, 7), (9000, 8), (8, 64)] {
        let got = fetch(server.at, "f", with(blksize, window), |_| false).await;
        assert!(got.is_ok_and(|g| g == file), "{blksize} {window}");
        assert!(matches!(server.outcome().await, TftpProgress::Done { .. }));
    }
}

#[tokio::test]
async fn lost_packets_are_sent_again() {
    let file = bytes(200_000);
    let mut server = Server::start(&[("f", file.clone())]);
    for window in [1, 4, 16] {
        let got = fetch(server.at, "f", with(1468, window), |n| n % 29 == 0).await;
        assert!(got.is_ok_and(|g| g == file), "window {window}");
        assert!(matches!(server.outcome().await, TftpProgress::Done { .. }));
    }
}

#[tokio::test]
async fn block_numbers_wrap_around() {
    let file = bytes(8 * 70_000 + 3);
    let mut server = Server::start(&[("f", file.clone())]);
    let got = fetch(server.at, "f", with(8, 64), |_| false).await;
    assert!(got.is_ok_and(|g| g == file));
    assert!(matches!(server.outcome().await, TftpProgress::Done { .. }));
}

#[tokio::test]
async fn larger_blocks_than_the_limit_are_not_granted() {
    let server = Server::start(&[("f", bytes(10))]);
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    socket.send_to(&TftpRequest::encode_read("f", &with(8192, 500)), server.at).await.expect("send");
    let mut buffer = [0; 600];
    let (len, _) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.expect("in time").expect("receive");
    let want = TftpOptions { blksize: Some(1468), tsize: Some(10), timeout_secs: None, windowsize: Some(64) };
    assert_eq!(TftpPacket::parse(&buffer[..len]), Ok(TftpPacket::OptionAck(want)));
}

#[tokio::test]
async fn edk2s_size_probe_ends_the_transfer_at_once() {
    let mut server = Server::start(&[("snponly.efi", bytes(100_000))]);
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    socket.send_to(&TftpRequest::encode_read("snponly.efi", &with(1468, 4)), server.at).await.expect("send");
    let mut buffer = [0; 2000];
    let (_, peer) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.expect("in time").expect("receive");
    let error = TftpPacket::Error { code: ErrorCode::Options, message: "User aborted the operation".into() };
    socket.send_to(&error.encode(), peer).await.expect("send");
    assert_eq!(server.outcome().await, TftpProgress::Probed);
    let more = timeout(Duration::from_millis(300), socket.recv_from(&mut buffer)).await;
    // One resend may have crossed the error; after it nothing comes.
    if more.is_ok() {
        assert!(timeout(Duration::from_millis(300), socket.recv_from(&mut buffer)).await.is_err(), "still sending after ERROR");
    }
}

#[tokio::test]
async fn the_first_answer_does_not_wait_for_a_timeout() {
    let server = Server::start_with(&[("f", bytes(100))], |c| c.limits.timeout = PATIENCE * 2);
    let got = timeout(PATIENCE, fetch(server.at, "f", with(1468, 4), |_| false)).await;
    assert_eq!(got.map(|r| r.map(|b| b.len())), Ok(Ok(100)));
}

#[tokio::test]
async fn the_option_acknowledgement_is_repeated_and_a_repeated_request_opens_no_second_transfer() {
    let server = Server::start(&[("f", bytes(10))]);
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    let request = TftpRequest::encode_read("f", &with(1468, 4));
    let mut buffer = [0; 600];
    let mut ports = Vec::new();
    for _ in 0..3 {
        socket.send_to(&request, server.at).await.expect("send");
        let (len, peer) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.expect("in time").expect("receive");
        assert!(matches!(TftpPacket::parse(&buffer[..len]), Ok(TftpPacket::OptionAck(_))));
        ports.push(peer.port());
    }
    assert!(ports.iter().all(|p| *p == ports[0]), "{ports:?}");
    assert_eq!(server.shelf.asked.lock().expect("lock").len(), 1);
}

#[tokio::test]
async fn a_client_that_falls_silent_is_reported_with_the_block_it_stopped_at() {
    let mut server = Server::start_with(&[("f", bytes(100_000))], |c| c.limits.timeout = Duration::from_millis(5));
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    socket.send_to(&TftpRequest::encode_read("f", &with(1000, 1)), server.at).await.expect("send");
    let mut buffer = [0; 2000];
    let (_, peer) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.expect("in time").expect("receive");
    socket.send_to(&TftpPacket::Ack { block: 0 }.encode(), peer).await.expect("send");
    assert_eq!(server.outcome().await, TftpProgress::Stalled { block: 1, of: 101, blksize: 1000 });
}

#[tokio::test]
async fn the_answer_comes_from_the_address_that_was_asked() {
    let server = Server::start_with(&[("f", bytes(10))], |c| c.listen = "0.0.0.0:0".parse().expect("address"));
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    let asked = SocketAddr::from(([127, 0, 0, 5], server.at.port()));
    socket.send_to(&TftpRequest::encode_read("f", &TftpOptions::default()), asked).await.expect("send");
    let mut buffer = [0; 600];
    let (_, from) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.expect("in time").expect("receive");
    assert_eq!(from.ip(), asked.ip());
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_clients_at_once_all_get_the_same_file() {
    let file = bytes(173_792);
    let server = Server::start_with(&[("snponly.efi", file.clone())], |c| c.limits.timeout = Duration::from_secs(1));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..300 {
        let at = server.at;
        clients.spawn(async move { fetch(at, "snponly.efi", with(1468, 4), |_| false).await });
    }
    while let Some(got) = clients.join_next().await {
        assert!(got.expect("joins").is_ok_and(|g| g == file));
    }
}

#[tokio::test]
async fn requests_over_the_limit_are_dropped_and_served_when_repeated() {
    let mut server = Server::start_with(&[("f", bytes(10))], |c| {
        c.max_transfers = 1;
        c.limits = TftpLimits { timeout: Duration::from_millis(5), ..c.limits.clone() };
    });
    let first = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    first.send_to(&TftpRequest::encode_read("f", &with(512, 1)), server.at).await.expect("send");
    let mut buffer = [0; 600];
    timeout(PATIENCE, first.recv_from(&mut buffer)).await.expect("in time").expect("receive");
    let second = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
    let request = TftpRequest::encode_read("f", &TftpOptions::default());
    second.send_to(&request, server.at).await.expect("send");
    assert!(matches!(server.outcome().await, TftpProgress::Stalled { .. }), "the first one never answers");
    second.send_to(&request, server.at).await.expect("send");
    let (len, _) = timeout(PATIENCE, second.recv_from(&mut buffer)).await.expect("in time").expect("receive");
    assert_eq!(len, 14);
}
