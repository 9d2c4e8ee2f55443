//! The simulated rack against the real engine, intake, netboot desk, DHCP and TFTP servers, over sockets; only the HTTP
//! routes are the test's own.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use hostler::app::intake::{Intake, IntakeError, blank_machine};
use hostler::bmc::{BmcSettings, Bmcs};
use hostler::clock;
use hostler::decide::boot::Loader;
use hostler::decide::discovery::{Evidence, Source};
use hostler::domain::boot::{Arch, BootStage};
use hostler::domain::id::{MachineId, Name, Sha256};
use hostler::domain::image::{Image, ImageFormat};
use hostler::domain::machine::{DeploySpec, Lifecycle, Machine, Want};
use hostler::domain::power::FirmwareKind;
use hostler::domain::secret::Secret;
use hostler::engine::{Engine, EngineSettings};
use hostler::netboot::boot_files::BootFiles;
use hostler::netboot::desk::{Desk, DeskSettings, ScriptQuery};
use hostler::netboot::dhcp::{DhcpConfig, DhcpMode, DhcpServer};
use hostler::netboot::leases::Subnet;
use hostler::netboot::peers::Peers;
use hostler::netboot::socket::Interface;
use hostler::netboot::tftp::{TftpConfig, TftpServer};
use hostler::secret::{Place, Sealer};
use hostler::sim::dhcp::Uplink;
use hostler::sim::fleet::{Fleet, Plan};
use hostler::store::{Store, StoreConfig};
use hostler::wire::agent::{Hello, LogBatch, TaskProgress, TaskResult};
use hostler::wire::ipxe::ServerUrl;

#[derive(Clone)]
struct Site {
    store: Store,
    intake: Intake,
    desk: Desk,
    image: Bytes,
}

fn refuse(e: IntakeError) -> Response {
    let status = match &e {
        IntakeError::Refused(_) => StatusCode::FORBIDDEN,
        IntakeError::Unauthorized => StatusCode::UNAUTHORIZED,
        IntakeError::Gone => StatusCode::GONE,
        IntakeError::Store(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, axum::Json(serde_json::json!({ "error": e.to_string() }))).into_response()
}

fn bearer(headers: &HeaderMap) -> String {
    let value = headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.trim_start_matches("Bearer ").to_owned()
}

async fn hello(State(site): State<Site>, body: axum::Json<Hello>) -> Response {
    site.intake.hello(body.0, Ipv4Addr::LOCALHOST.into()).await.map_or_else(refuse, |w| axum::Json(w).into_response())
}

async fn task(State(site): State<Site>, headers: HeaderMap) -> Response {
    let next = async {
        let session = site.intake.session(&bearer(&headers)).await?;
        site.intake.next_task(&session, Duration::from_secs(5)).await
    };
    match next.await {
        Ok(Some(task)) => axum::Json(task).into_response(),
        Ok(None) => StatusCode::NO_CONTENT.into_response(),
        Err(e) => refuse(e),
    }
}

async fn progress(State(site): State<Site>, headers: HeaderMap, Path(id): Path<String>, body: axum::Json<TaskProgress>) -> Response {
    let reply = async {
        let session = site.intake.session(&bearer(&headers)).await?;
        site.intake.progress(&session, id.parse().unwrap(), body.0).await
    };
    reply.await.map_or_else(refuse, |r| axum::Json(r).into_response())
}

async fn result(State(site): State<Site>, headers: HeaderMap, Path(id): Path<String>, body: axum::Json<TaskResult>) -> Response {
    let stored = async {
        let session = site.intake.session(&bearer(&headers)).await?;
        site.intake.result(&session, id.parse().unwrap(), body.0).await
    };
    stored.await.map_or_else(refuse, |()| StatusCode::NO_CONTENT.into_response())
}

async fn log(State(site): State<Site>, headers: HeaderMap, body: axum::Json<LogBatch>) -> Response {
    match site.intake.session(&bearer(&headers)).await {
        Ok(session) => {
            site.intake.log(&session, body.0);
            StatusCode::NO_CONTENT.into_response()
        }
        Err(e) => refuse(e),
    }
}

async fn home(State(site): State<Site>, Path(token): Path<String>, body: String) -> StatusCode {
    if site.intake.phone_home(&token, &body).await.unwrap() { StatusCode::OK } else { StatusCode::NOT_FOUND }
}

#[derive(serde::Deserialize)]
struct Script {
    mac: String,
    uuid: String,
    serial: String,
    platform: String,
    arch: String,
}

async fn script(State(site): State<Site>, Query(q): Query<Script>) -> String {
    let query = ScriptQuery {
        mac: q.mac.parse().unwrap(),
        uuid: q.uuid.parse().ok(),
        serial: q.serial.parse().ok(),
        platform: q.platform,
        arch: q.arch,
    };
    site.desk.script(&query, Ipv4Addr::LOCALHOST.into()).await.unwrap()
}

#[derive(serde::Deserialize)]
struct Who {
    mac: String,
}

async fn kernel(State(site): State<Site>, Query(who): Query<Who>) -> &'static [u8] {
    site.desk.fetched(who.mac.parse().unwrap(), BootStage::Kernel, String::new());
    b"kernel"
}

async fn ramdisk(State(site): State<Site>, Query(who): Query<Who>) -> &'static [u8] {
    site.desk.fetched(who.mac.parse().unwrap(), BootStage::Ramdisk, String::new());
    b"ramdisk"
}

async fn file(State(site): State<Site>, Path(path): Path<String>) -> Response {
    let (folder, name) = path.split_once('/').unwrap_or(("", &path));
    match site.desk.file(None, folder.parse().ok(), name) {
        Some(bytes) => bytes.into_response(),
        None => match site.desk.file(None, None, &path) {
            Some(bytes) => bytes.into_response(),
            None => StatusCode::NOT_FOUND.into_response(),
        },
    }
}

async fn image(State(site): State<Site>) -> Bytes {
    site.image
}

struct Rack {
    site: Site,
    fleet: Fleet,
    tasks: JoinSet<()>,
    _dir: tempfile::TempDir,
}

async fn rack(machines: usize) -> Rack {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&StoreConfig::Sqlite { path: dir.path().join("hostler.db") }).await.unwrap();
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let SocketAddr::V4(http) = listener.local_addr().unwrap() else { panic!("v4") };
    let url = ServerUrl::from(http);
    let files = BootFiles::from_loaders(Loader::ALL.map(|l| (l, Bytes::from(vec![1; 30_000]))));
    let peers = Peers::new(store.clone(), true);
    let desk = Desk::new(store.clone(), DeskSettings::new(url.clone()), files, peers.clone());
    let image_bytes = Bytes::from(hostler::sim::image::raw_zst().await.unwrap());
    let site = Site { store: store.clone(), intake: Intake::new(store.clone(), peers), desk: desk.clone(), image: image_bytes };
    let mut tasks = JoinSet::new();
    let app = Router::new()
        .route("/agent/v1/hello", post(hello))
        .route("/agent/v1/task", get(task))
        .route("/agent/v1/task/{id}/progress", post(progress))
        .route("/agent/v1/task/{id}/result", post(result))
        .route("/agent/v1/log", post(log))
        .route("/phone-home/{token}", post(home))
        .route("/boot/script.ipxe", get(script))
        .route("/boot/kernel", get(kernel))
        .route("/boot/ramdisk", get(ramdisk))
        .route("/boot/image/{sha}", get(image))
        .route("/boot/file/{*path}", get(file))
        .route("/boot/{*path}", get(file))
        .with_state(site.clone());
    tasks.spawn(async move { axum::serve(listener, app).await.unwrap() });

    let interface = Interface::find("127.0.0.1").unwrap();
    let subnet = Subnet {
        network: Ipv4Addr::new(127, 0, 0, 0),
        prefix: 8,
        pool: Ipv4Addr::new(127, 12, 1, 1)..=Ipv4Addr::new(127, 12, 4, 250),
        routers: vec![],
        dns: vec![],
        domain: None,
        lease: Duration::from_secs(600),
    };
    let mode = DhcpMode::Authoritative { subnets: vec![subnet], reservations: vec![] };
    let config = DhcpConfig { server_port: 0, ..DhcpConfig::new(interface, mode, url.clone()) };
    let dhcp = DhcpServer::bind(config, Arc::new(desk.clone()), vec![]).unwrap();
    let SocketAddr::V4(dhcp_at) = dhcp.local_addr().unwrap() else { panic!("v4") };
    tasks.spawn(async move { dhcp.run(CancellationToken::new()).await });
    let tftp = TftpServer::bind(TftpConfig { listen: SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0), ..TftpConfig::default() }).unwrap();
    let tftp_port = tftp.local_addr().unwrap().port();
    tasks.spawn(async move { tftp.run(Arc::new(desk), CancellationToken::new()).await.unwrap() });

    let uplink = Uplink { dhcp: dhcp_at, pxe: None, tftp_port, relay: Ipv4Addr::new(127, 12, 0, 1), door: None };
    let plan = Plan { machines, seed: 5, pace: "100".parse().unwrap(), uplink, odd: true };
    let fleet = Fleet::start(&plan).await.unwrap();

    let sealer = Sealer::from_key(&Secret::new([7; 32]));
    for listing in fleet.listings() {
        let id = MachineId(clock::fresh_uuid());
        let evidence =
            Evidence { uuid: None, serial: Some(listing.serial.clone()), macs: vec![listing.mac], parts: vec![], source: Source::Agent };
        let name: Name = format!("r12-u{:02}", listing.number).parse().unwrap();
        let machine = blank_machine(id, name, &evidence, clock::now());
        let row = id.to_string();
        let sealed = sealer.seal(&Secret::new(listing.password.clone()), Place { table: "bmcs", row: &row, column: "password" }).unwrap();
        let mut tx = store.begin().await.unwrap();
        tx.insert_machine(&machine).await.unwrap();
        tx.put_bmc(id, &listing.bmc.parse().unwrap(), &listing.user, &sealed).await.unwrap();
        tx.commit().await.unwrap();
    }
    let settings = EngineSettings { owner: clock::fresh_uuid().to_string(), netboot_url: url.to_string(), power_off_ready: true };
    let engine = Engine::new(store.clone(), Bmcs::new(BmcSettings::default()), sealer, settings);
    tasks.spawn(async move { engine.run(CancellationToken::new()).await.unwrap() });
    Rack { site, fleet, tasks, _dir: dir }
}

impl Rack {
    async fn machines(&self) -> Vec<Machine> {
        self.site.store.machines().await.unwrap()
    }

    /// Waits until `ready` holds; tells every console when it never does.
    async fn until(&mut self, what: &str, ready: impl Fn(&[Machine]) -> bool) {
        let mut changes = self.site.store.changes();
        let deadline = tokio::time::Instant::now() + Duration::from_secs(90);
        loop {
            let machines = self.machines().await;
            if ready(&machines) {
                return;
            }
            if tokio::time::Instant::now() > deadline {
                for (m, (_, power, console)) in machines.iter().zip(self.fleet.consoles()) {
                    let notes = match m.current_run {
                        Some(run) => self
                            .site
                            .store
                            .run(run)
                            .await
                            .unwrap()
                            .and_then(|r| r.current_step().map(|s| format!("{} {} {}", s.kind, s.state, s.note))),
                        None => None,
                    };
                    eprintln!("{} {} {power} {console:?} why {:?} step {notes:?} fault {:?}", m.name, m.lifecycle, m.why, m.fault);
                }
                panic!("never: {what}");
            }
            assert!(self.tasks.try_join_next().is_none(), "a server ended");
            drop(tokio::time::timeout(Duration::from_millis(200), changes.recv()).await);
        }
    }

    async fn want(&self, id: MachineId, want: Want) {
        for _ in 0..20 {
            let mut m = self.site.store.machine(id).await.unwrap().unwrap();
            m.want = want.clone();
            m.accepted_at = Some(clock::now());
            let mut tx = self.site.store.begin().await.unwrap();
            if tx.update_machine(&m, Some(clock::now())).await.is_ok() {
                tx.commit().await.unwrap();
                return;
            }
        }
        panic!("never written");
    }
}

fn count(machines: &[Machine], lifecycle: Lifecycle) -> usize {
    machines.iter().filter(|m| m.lifecycle == lifecycle).count()
}

#[tokio::test]
async fn a_rack_is_discovered_enrolled_deployed_and_released_over_the_wire() {
    let mut rack = rack(8).await;
    rack.fleet.power_on_all();
    // Of 8, one never turns up and one is led astray by another DHCP server; the wrong BMC password is no hindrance yet.
    rack.until("6 machines show their hardware", |all| all.iter().filter(|m| m.hardware.is_some()).count() == 6).await;
    let here: Vec<_> = rack.machines().await.into_iter().filter(|m| m.hardware.is_some()).collect();
    for m in &here {
        rack.want(m.id, Want::Enroll).await;
    }
    // The one with the wrong password cannot be contacted.
    rack.until("5 machines are ready", |all| count(all, Lifecycle::Ready) == 5).await;

    use sha2::Digest;
    let file = rack.site.image.clone();
    let mut raw = Vec::new();
    std::io::Read::read_to_end(&mut zstd::stream::read::Decoder::new(&file[..]).unwrap(), &mut raw).unwrap();
    let image = Image {
        name: "demo".parse().unwrap(),
        arch: Arch::X86_64,
        format: ImageFormat::RawZst,
        size_bytes: file.len() as u64,
        sha256: Sha256(sha2::Sha256::digest(&file).into()),
        raw_size_bytes: raw.len() as u64,
        raw_sha256: Sha256(sha2::Sha256::digest(&raw).into()),
        boots_on: vec![FirmwareKind::Bios, FirmwareKind::Uefi],
        default_user: "demo".into(),
        imported_at: clock::now(),
    };
    let mut tx = rack.site.store.begin().await.unwrap();
    tx.put_image(&image).await.unwrap();
    tx.commit().await.unwrap();
    let spec =
        DeploySpec { image: image.name.clone(), hostname: None, ssh_keys: vec![], user_data: None, network_config: None, disk: None };
    for m in rack.machines().await.iter().filter(|m| m.lifecycle == Lifecycle::Ready) {
        rack.want(m.id, Want::Deploy(Box::new(spec.clone()))).await;
    }
    rack.until("5 machines run their system", |all| count(all, Lifecycle::Active) == 5).await;

    for m in rack.machines().await.iter().filter(|m| m.lifecycle == Lifecycle::Active) {
        rack.want(m.id, Want::Release).await;
    }
    rack.until("5 machines are ready again", |all| count(all, Lifecycle::Ready) == 5).await;
    assert!(rack.machines().await.iter().all(|m| m.lifecycle != Lifecycle::Ready || m.written_disks.is_empty()));
}
