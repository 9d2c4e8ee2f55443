//! Simulated machines against small servers of the tests: a DHCP responder, the real TFTP server, and a few HTTP routes.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use hostler::agent::link::http_client;
use hostler::clock;
use hostler::domain::id::{Mac, MachineId, Sha256, TaskId};
use hostler::domain::image::ImageFormat;
use hostler::domain::inventory::{DiskRef, Inventory};
use hostler::domain::power::{BootDevice, FirmwareKind, PowerAction, PowerState};
use hostler::netboot::tftp::{TftpConfig, TftpEvent, TftpFiles, TftpProgress, TftpRefusal, TftpServer};
use hostler::sim::bmc::{BootOverride, Chassis};
use hostler::sim::dhcp::Uplink;
use hostler::sim::hardware::{Hardware, Rom};
use hostler::sim::machine::{Machine, Surroundings};
use hostler::wire::agent::{Hello, Order, Seed, Task, TaskResult, Welcome, WipeDisks, WriteImage};
use hostler::wire::dhcp::{Address, BootFile, DhcpReply, DhcpRequest, ReplyKind, RequestKind, Speaker, VendorClass};
use hostler::wire::ipxe::{self, Notice, ServerUrl};

const IMAGE: &[u8] = include_bytes!("../fixtures/pcaps/b-uefi-edk2pxe.pcap");

/// What the servers saw, in order, and what they will hand out.
#[derive(Default)]
struct Seen {
    log: Vec<String>,
    hello: Option<Inventory>,
    orders: VecDeque<Order>,
    results: Vec<TaskResult>,
    homes: Vec<String>,
}

struct World {
    seen: Mutex<Seen>,
    changed: Notify,
    http: Mutex<Option<ServerUrl>>,
}

impl World {
    fn note(&self, line: impl Into<String>) {
        self.seen.lock().unwrap().log.push(line.into());
        self.changed.notify_waiters();
    }

    fn order(&self, order: Order) {
        self.seen.lock().unwrap().orders.push_back(order);
        self.changed.notify_waiters();
    }

    /// Waits until `ready` finds what it looks for.
    async fn until<T>(&self, what: &str, ready: impl Fn(&Seen) -> Option<T>) -> T {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Some(found) = ready(&self.seen.lock().unwrap()) {
                    return found;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(Duration::from_secs(60), wait).await {
            Ok(found) => found,
            Err(_) => panic!("no {what} within 60 s; seen: {:#?}", self.seen.lock().unwrap().log),
        }
    }

    fn url(&self) -> ServerUrl {
        self.http.lock().unwrap().clone().expect("http is up")
    }
}

struct Files(Arc<World>);

impl TftpFiles for Files {
    async fn open(&self, _peer: SocketAddrV4, name: &str) -> Result<Bytes, TftpRefusal> {
        if name == "snponly.efi" || name == "undionly.kpxe" { Ok(vec![7; 20_000].into()) } else { Err(TftpRefusal::NotFound) }
    }

    fn note(&self, event: TftpEvent) {
        match event.what {
            TftpProgress::Done { size, .. } => self.0.note(format!("tftp {} {size}", event.file)),
            TftpProgress::Probed => self.0.note(format!("tftp probe {}", event.file)),
            _ => {}
        }
    }
}

async fn dhcp(world: Arc<World>, socket: UdpSocket) {
    let mut buffer = [0; 2048];
    loop {
        let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
        let request = DhcpRequest::parse(&buffer[..len]).unwrap();
        let http = request.vendor_class == VendorClass::Http && request.speaker == Speaker::Firmware;
        let file = match (request.speaker, request.boot_client().map(|c| c.firmware())) {
            (Speaker::Ipxe, _) => format!("{}/boot/autoexec.ipxe", world.url()),
            (Speaker::Firmware, Some(FirmwareKind::Bios)) => "undionly.kpxe".into(),
            (Speaker::Firmware, _) if http => format!("{}/boot/file/ipxe.efi", world.url()),
            (Speaker::Firmware, _) => "snponly.efi".into(),
        };
        let kind = if request.kind == RequestKind::Discover { ReplyKind::Offer } else { ReplyKind::Ack };
        let reply = DhcpReply {
            address: Some(Address {
                yiaddr: Some(Ipv4Addr::new(127, 12, 1, 9)),
                lease_secs: Some(600),
                subnet_mask: Ipv4Addr::new(255, 0, 0, 0),
                routers: vec![],
                dns: vec![],
                domain: None,
            }),
            boot: Some(BootFile { server: Ipv4Addr::LOCALHOST, file }),
            vendor_class: if http { VendorClass::Http } else { VendorClass::Other },
            ..DhcpReply::to(&request, kind, Ipv4Addr::LOCALHOST)
        };
        world.note(format!("dhcp {:?} {:?}", request.kind, request.speaker));
        socket.send_to(&reply.encode(), SocketAddr::from((request.giaddr.unwrap(), from.port()))).await.unwrap();
    }
}

async fn boot(State(world): State<Arc<World>>, request: Request) -> Response {
    let path = request.uri().path().to_owned();
    world.note(format!("http {} {path}", request.method()));
    let query = request.uri().query().unwrap_or_default();
    match path.as_str() {
        "/boot/autoexec.ipxe" => ipxe::autoexec(&world.url()).into_response(),
        "/boot/script.ipxe" => {
            let mac: Mac = query.split('&').find_map(|p| p.strip_prefix("mac=")).unwrap().parse().unwrap();
            let notice = Notice { machine: "r1-u01", why: "It is looked at." };
            ipxe::ramdisk(&world.url(), notice, mac, "00ff", "console=tty0").into_response()
        }
        "/boot/kernel" | "/boot/ramdisk" | "/boot/file/ipxe.efi" => vec![9u8; 300_000].into_response(),
        "/boot/image/one" => IMAGE.into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn hello(State(world): State<Arc<World>>, body: axum::Json<Hello>) -> axum::Json<Welcome> {
    let axum::Json(hello) = body;
    assert_eq!(hello.nonce, "00ff");
    world.seen.lock().unwrap().hello = Some(hello.inventory);
    world.note("hello");
    let welcome = Welcome { machine: MachineId(clock::fresh_uuid()), name: "r1-u01".parse().unwrap(), token: "t".into() };
    axum::Json(welcome)
}

async fn task(State(world): State<Arc<World>>) -> Response {
    let wait = async {
        loop {
            let changed = world.changed.notified();
            if let Some(order) = world.seen.lock().unwrap().orders.pop_front() {
                return order;
            }
            changed.await;
        }
    };
    match tokio::time::timeout(Duration::from_secs(2), wait).await {
        Ok(order) => axum::Json(Task { id: TaskId(clock::fresh_uuid()), fence: 1, order }).into_response(),
        Err(_) => StatusCode::NO_CONTENT.into_response(),
    }
}

async fn result(State(world): State<Arc<World>>, body: axum::Json<TaskResult>) -> StatusCode {
    world.seen.lock().unwrap().results.push(body.0);
    world.note("result");
    StatusCode::NO_CONTENT
}

async fn home(State(world): State<Arc<World>>, Path(token): Path<String>, body: String) -> StatusCode {
    world.seen.lock().unwrap().homes.push(format!("{token} {body}"));
    world.note("home");
    StatusCode::OK
}

/// Servers and one machine of this firmware, powered off.
async fn world(rom: Rom) -> (Arc<World>, Arc<Machine>, JoinSet<()>) {
    let world = Arc::new(World { seen: Mutex::default(), changed: Notify::new(), http: Mutex::default() });
    let mut tasks = JoinSet::new();
    let app = Router::new()
        .route("/agent/v1/hello", post(hello))
        .route("/agent/v1/task", get(task))
        .route("/agent/v1/task/{id}/result", post(result))
        .route("/agent/v1/task/{id}/progress", post(|| async { axum::Json(serde_json::json!({ "cancel": false })) }))
        .route("/agent/v1/log", post(|| async { StatusCode::NO_CONTENT }))
        .route("/phone-home/{token}", post(home))
        .fallback(boot)
        .with_state(world.clone());
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let SocketAddr::V4(address) = listener.local_addr().unwrap() else { panic!("v4") };
    *world.http.lock().unwrap() = Some(address.into());
    tasks.spawn(async move { axum::serve(listener, app).await.unwrap() });
    let config = TftpConfig { listen: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0), ..TftpConfig::default() };
    let tftp = TftpServer::bind(config).unwrap();
    let tftp_port = tftp.local_addr().unwrap().port();
    let files = Arc::new(Files(world.clone()));
    tasks.spawn(async move { tftp.run(files, CancellationToken::new()).await.unwrap() });
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let SocketAddr::V4(dhcp_at) = socket.local_addr().unwrap() else { panic!("v4") };
    tasks.spawn(dhcp(world.clone(), socket));

    let http = http_client().unwrap();
    let uplink = Uplink { dhcp: dhcp_at, pxe: None, tftp_port, relay: Ipv4Addr::new(127, 12, 0, 1), door: None };
    let hardware = (1..9).map(|n| Hardware::draw(3, n)).find(|h| h.rom == rom).unwrap();
    let machine = Arc::new(Machine::new(hardware, Surroundings { uplink, pace: "200".parse().unwrap(), http }, None));
    let running = machine.clone();
    tasks.spawn(async move { running.run().await });
    (world, machine, tasks)
}

fn disk_of(seen: &Seen) -> Option<DiskRef> {
    seen.hello.as_ref()?.disks.first().and_then(DiskRef::to)
}

fn sha(bytes: &[u8]) -> Sha256 {
    use sha2::Digest;
    Sha256(sha2::Sha256::digest(bytes).into())
}

fn write_order(disk: DiskRef, raw_sha256: Sha256, url: &ServerUrl) -> Order {
    Order::WriteImage(Box::new(WriteImage {
        path: "/boot/image/one".into(),
        format: ImageFormat::Raw,
        size_bytes: IMAGE.len() as u64,
        sha256: sha(IMAGE),
        raw_size_bytes: IMAGE.len() as u64,
        raw_sha256,
        disk,
        grow: false,
        seed: Some(Seed {
            meta_data: "instance-id: \"i-7\"\nlocal-hostname: \"r1-u01\"\n".into(),
            user_data: "#cloud-config\n{}\n".into(),
            vendor_data: format!("#cloud-config\nphone_home:\n  url: \"{url}/phone-home/secret\"\n  tries: 10\n"),
            network_config: None,
        }),
        firmware: None,
    }))
}

#[tokio::test]
async fn a_uefi_machine_boots_over_dhcp_tftp_and_http_into_its_agent() {
    let (world, machine, _tasks) = world(Rom::EfiPxe).await;
    assert_eq!(machine.power(), PowerState::Off);
    machine.set_power(PowerAction::On).unwrap();
    let serial = world.until("hello", |s| s.hello.as_ref().map(|h| h.system.serial.clone())).await;
    assert_eq!(serial.as_ref(), Some(&machine.hardware.serial));
    assert_eq!(
        world.seen.lock().unwrap().log,
        [
            "dhcp Discover Firmware",
            "dhcp Request Firmware",
            "tftp probe snponly.efi",
            "tftp snponly.efi 20000",
            "dhcp Discover Ipxe",
            "dhcp Request Ipxe",
            "http GET /boot/autoexec.ipxe",
            "http GET /boot/script.ipxe",
            "http GET /boot/kernel",
            "http GET /boot/ramdisk",
            "hello",
        ]
    );
}

#[tokio::test]
async fn a_uefi_http_boot_machine_asks_for_the_head_first_and_never_for_tftp() {
    let (world, machine, _tasks) = world(Rom::EfiHttp).await;
    machine.set_power(PowerAction::On).unwrap();
    world.until("hello", |s| s.hello.as_ref().map(|_| ())).await;
    let log = world.seen.lock().unwrap().log.clone();
    let loader: Vec<_> = log.iter().filter(|l| l.contains("ipxe.efi")).collect();
    assert_eq!(loader, ["http HEAD /boot/file/ipxe.efi", "http GET /boot/file/ipxe.efi"]);
    assert!(!log.iter().any(|l| l.starts_with("tftp")));
}

#[tokio::test]
async fn bios_machines_boot_with_either_kind_of_rom() {
    for (rom, tftp) in [(Rom::BiosPxe, true), (Rom::BiosIpxe, false)] {
        let (world, machine, _tasks) = world(rom).await;
        machine.set_power(PowerAction::On).unwrap();
        world.until("hello", |s| s.hello.as_ref().map(|_| ())).await;
        let log = world.seen.lock().unwrap().log.clone();
        assert_eq!(log.iter().any(|l| l.starts_with("tftp undionly.kpxe")), tftp, "{log:?}");
    }
}

#[tokio::test]
async fn a_deployed_machine_restarts_from_disk_and_phones_home_once() {
    let (world, machine, _tasks) = world(Rom::EfiPxe).await;
    machine.set_power(PowerAction::On).unwrap();
    let disk = world.until("hello", disk_of).await;
    world.order(write_order(disk.clone(), sha(IMAGE), &world.url()));
    let result = world.until("result", |s| s.results.first().cloned()).await;
    assert!(matches!(result, TaskResult::Ok { .. }), "{result:?}");
    world.order(Order::RebootToDisk { disk: Some(disk) });
    let home = world.until("call", |s| s.homes.first().cloned()).await;
    assert!(home.starts_with("secret ") && home.contains("hostname=r1-u01") && home.contains("instance_id=i-7"), "{home}");

    // Only a system that is up knows that it called: one that is cut off at its call would call again.
    let up = async {
        while machine.console() != "login:" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), up).await.expect("the system comes up");

    // A second boot of the same instance is not its first: it comes up without a call. It heeds the power button only
    // when it is up.
    machine.set_boot_override(Some(BootOverride { device: BootDevice::Disk, firmware: FirmwareKind::Uefi, once: true }));
    machine.set_power(PowerAction::Cycle).unwrap();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while machine.power() == PowerState::On && tokio::time::Instant::now() < deadline {
        machine.set_power(PowerAction::Soft).unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(machine.power(), PowerState::Off);
    assert_eq!(world.seen.lock().unwrap().homes.len(), 1);
}

#[tokio::test]
async fn a_machine_whose_image_had_the_wrong_hash_never_phones_home() {
    let (world, machine, _tasks) = world(Rom::EfiPxe).await;
    machine.set_power(PowerAction::On).unwrap();
    let disk = world.until("hello", disk_of).await;
    world.order(write_order(disk.clone(), sha(b"another"), &world.url()));
    let result = world.until("result", |s| s.results.first().cloned()).await;
    assert!(matches!(&result, TaskResult::Failed { code, retry: false, .. } if code == "hash_mismatch"), "{result:?}");
    // Even sent to its disk it finds nothing there, and comes back over the network.
    let before = world.seen.lock().unwrap().log.len();
    world.order(Order::RebootToDisk { disk: Some(disk) });
    world.until("second hello", |s| s.log[before..].iter().any(|l| l == "hello").then_some(())).await;
    assert!(world.seen.lock().unwrap().homes.is_empty());
}

#[tokio::test]
async fn a_disk_that_is_not_there_is_neither_written_nor_wiped() {
    let (world, machine, _tasks) = world(Rom::BiosIpxe).await;
    machine.set_power(PowerAction::On).unwrap();
    let disk = world.until("hello", disk_of).await;
    let other = DiskRef { serial: "NOT-HERE-1".parse().ok(), wwn: None, ..disk.clone() };
    let resized = DiskRef { size_bytes: disk.size_bytes - 512, ..disk };
    world.order(write_order(other.clone(), sha(IMAGE), &world.url()));
    world.order(Order::WipeDisks(WipeDisks { disks: vec![other] }));
    world.order(Order::WipeDisks(WipeDisks { disks: vec![resized] }));
    let results = world.until("three results", |s| (s.results.len() == 3).then(|| s.results.clone())).await;
    let codes: Vec<_> = results.iter().map(|r| if let TaskResult::Failed { code, .. } = r { code.as_str() } else { "ok" }).collect();
    assert_eq!(codes, ["disk_not_found", "disk_not_found", "disk_mismatch"]);
}

#[tokio::test]
async fn a_hung_machine_stands_still_until_it_is_reset_and_then_shows_its_new_parts() {
    let (world, machine, _tasks) = world(Rom::EfiPxe).await;
    machine.set_power(PowerAction::On).unwrap();
    world.until("hello", |s| s.hello.as_ref().map(|_| ())).await;
    machine.hang();
    let hangs = async {
        while machine.console() != "the system hangs" {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), hangs).await.expect("it hangs");
    machine.set_power(PowerAction::Soft).unwrap();
    assert_eq!(machine.power(), PowerState::On, "it does not heed its button");

    let mut inventory = machine.hardware.inventory.clone();
    inventory.dimms.remove(0);
    machine.refit(&inventory);
    machine.set_bios_version("9.9.9");
    let before = world.seen.lock().unwrap().log.len();
    machine.set_power(PowerAction::Reset).unwrap();
    world.until("second hello", |s| s.log[before..].iter().any(|l| l == "hello").then_some(())).await;
    assert_eq!(machine.boots(), Some(2));
    let hello = world.seen.lock().unwrap().hello.clone().unwrap();
    assert_eq!((hello.dimms.len(), hello.firmware.version.as_deref()), (inventory.dimms.len(), Some("9.9.9")));
}
