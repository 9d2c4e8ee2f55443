//! A small rack in a store, every kind of state once, through the real store. Two machines carry hostile texts.

use std::time::Duration;

use hostler::clock;
use hostler::domain::bmc::{BmcIdentity, BmcProtocol, BmcStatus};
use hostler::domain::boot::{Arch, BootStage, ClientArch};
use hostler::domain::event::{NewEvent, Severity};
use hostler::domain::id::{EventId, Mac, MachineId, RunId, StepId, SystemUuid};
use hostler::domain::image::{Image, ImageFormat};
use hostler::domain::inventory::{Cpu, Dimm, Disk, FirmwareInfo, Inventory, LldpNeighbour, Nic, PciDevice, Smart, SystemInfo};
use hostler::domain::machine::{Fault, Hardware, Lifecycle, Machine, Want};
use hostler::domain::place::Place;
use hostler::domain::power::{FirmwareKind, PowerState};
use hostler::domain::time::Timestamp;
use hostler::domain::work::{Progress, Run, RunKind, RunState, Step, StepKind, StepState};
use hostler::store::Store;
use hostler::store::facts::{BootMarkFact, Fact};

/// Script tags, attribute breaks, a reordering mark, an SSE field, htmx attributes: what must stay text everywhere.
pub const HOSTILE: &str =
    "\"><script>alert(1)</script><img src=x onerror=alert(1)>\u{202e}txt.exe'\nid: 7\n<div hx-get=/evil hx-trigger=load>";

pub struct Rack {
    pub store: Store,
    pub now: Timestamp,
    pub machines: Vec<Machine>,
}

fn name(u: u8) -> String {
    format!("r12-u{u:02}")
}

pub fn machine(u: u8, lifecycle: Lifecycle, now: Timestamp, ago: u64) -> Machine {
    let at = now.minus(Duration::from_secs(ago));
    let mac = Mac([0x52, 0x54, 0, 0x12, 0, u]);
    Machine {
        id: MachineId(clock::fresh_uuid()),
        rev: 1,
        name: name(u).parse().unwrap(),
        lifecycle,
        lifecycle_since: at,
        want: Want::Nothing,
        serial: Some(format!("HST7K{u:02}Q").parse().unwrap()),
        uuid: Some(SystemUuid(clock::fresh_uuid())),
        macs: vec![mac, Mac([0x52, 0x54, 0, 0x13, 0, u])],
        arch: Some(Arch::X86_64),
        firmware: Some(if u.is_multiple_of(3) { FirmwareKind::Bios } else { FirmwareKind::Uefi }),
        place: Some(Place { rack: "r12".parse().unwrap(), u: Some(u) }),
        boot_intent: None,
        hardware: None,
        image: None,
        written_disks: Vec::new(),
        fault: None,
        hold: None,
        bmc: None,
        current_run: None,
        created_at: now.minus(Duration::from_secs(ago + 7200)),
        first_seen_at: Some(at),
        last_seen_at: Some(now.minus(Duration::from_secs(u64::from(u) * 3))),
        accepted_at: None,
        why: "Seeded.".to_owned(),
    }
}

pub fn inventory(u: u8, text: &str) -> Inventory {
    Inventory {
        system: SystemInfo {
            manufacturer: Some("Example Systems".into()),
            product: Some(format!("ES-R650 {text}").trim().to_owned()),
            asset_tag: Some(format!("0087{u}")),
            ..SystemInfo::default()
        },
        firmware: FirmwareInfo {
            kind: Some(FirmwareKind::Uefi),
            vendor: Some("Example BIOS".into()),
            version: Some("2.19.1".into()),
            date: Some("03/14/2026".into()),
            secure_boot: Some(false),
        },
        arch: Some(Arch::X86_64),
        cpus: (0..2).map(|i| Cpu { socket: format!("CPU{i}"), model: "Xeon Gold 6338 2.00GHz".into(), cores: 32, threads: 64 }).collect(),
        memory_bytes: 16 << 34,
        dimms: (1..=8)
            .map(|i| Dimm {
                slot: format!("DIMM_{}{}", if i <= 4 { 'A' } else { 'B' }, (i - 1) % 4 + 1),
                size_bytes: 32 << 30,
                serial: Some(format!("80CE{u:02}{i}F1").parse().unwrap()),
                part_number: Some("M393A4K40EB3".into()),
                manufacturer: Some("Samsung".into()),
                speed_mts: Some(3200),
            })
            .collect(),
        disks: vec![
            Disk {
                name: "nvme0n1".into(),
                model: Some(format!("PM9A3 {text}").trim().to_owned()),
                serial: Some(format!("S64GNE{u:02}01").parse().unwrap()),
                wwn: Some("eui.36344730".into()),
                size_bytes: 1_920_383_410_176,
                logical_block_bytes: 512,
                rotational: false,
                removable: false,
                read_only: false,
                transport: "nvme".into(),
                smart: Some(Smart {
                    healthy: Some(true),
                    temperature_celsius: Some(34),
                    power_on_hours: Some(8123),
                    percent_used: Some(3),
                    media_errors: Some(0),
                }),
            },
            Disk {
                name: "sda".into(),
                model: Some("ST8000NM".into()),
                size_bytes: 8_001_563_222_016,
                logical_block_bytes: 512,
                rotational: true,
                transport: "sata".into(),
                serial: Some(format!("ZR15{u:02}").parse().unwrap()),
                ..Disk::default()
            },
        ],
        nics: vec![
            Nic {
                name: "eth0".into(),
                mac: Mac([0x52, 0x54, 0, 0x12, 0, u]),
                speed_mbps: Some(25_000),
                carrier: true,
                driver: Some("mlx5_core".into()),
                pci_address: Some("0000:3b:00.0".into()),
                lldp: Some(LldpNeighbour {
                    chassis_id: "aa:bb".into(),
                    port_id: format!("Eth1/{u}"),
                    system_name: Some(format!("sw12a {text}").trim().to_owned()),
                    port_description: None,
                }),
            },
            Nic {
                name: "eth1".into(),
                mac: Mac([0x52, 0x54, 0, 0x13, 0, u]),
                speed_mbps: None,
                carrier: false,
                driver: Some("mlx5_core".into()),
                pci_address: None,
                lldp: None,
            },
        ],
        pci: vec![PciDevice::default(); 41],
        bmc: None,
        kernel: "6.1.0-30-amd64".into(),
        agent_version: "0.1.0".into(),
    }
}

fn steps(kind: RunKind) -> &'static [StepKind] {
    match kind {
        RunKind::Enroll => &[StepKind::ContactBmc, StepKind::BootRamdisk, StepKind::WaitAgent, StepKind::Inventory, StepKind::PowerOff],
        RunKind::Deploy => &[
            StepKind::CheckTarget,
            StepKind::BootRamdisk,
            StepKind::WaitAgent,
            StepKind::WriteImage,
            StepKind::BootDisk,
            StepKind::WaitSystem,
        ],
        RunKind::Release => &[StepKind::BootRamdisk, StepKind::WaitAgent, StepKind::WipeDisks, StepKind::PowerOff],
    }
}

impl Rack {
    /// Writes a run of which `done` steps are over and the next one runs or failed.
    pub async fn run(&self, m: &Machine, kind: RunKind, state: RunState, done: usize, progress: Option<Progress>, note: &str) -> RunId {
        let now = self.now;
        let id = RunId(clock::fresh_uuid());
        let blank = |i: usize, k: StepKind| Step {
            id: StepId(clock::fresh_uuid()),
            run: id,
            machine: m.id,
            index: u32::try_from(i).unwrap(),
            kind: k,
            state: StepState::Pending,
            attempts: 0,
            checkpoint: serde_json::Value::Null,
            evidence: serde_json::Value::Null,
            note: String::new(),
            progress: None,
            started_at: None,
            ended_at: None,
            deadline_at: None,
            due_at: now,
            fence: 0,
        };
        let run = Run {
            id,
            machine: m.id,
            kind,
            state,
            started_at: now.minus(Duration::from_secs(300)),
            ended_at: None,
            actor: "admin".into(),
            steps: steps(kind).iter().enumerate().map(|(i, k)| blank(i, *k)).collect(),
        };
        let mut tx = self.store.begin().await.unwrap();
        tx.insert_run(&run).await.unwrap();
        let mut at = run.started_at;
        for (i, step) in run.steps.iter().enumerate().take(done + 1) {
            if i == done && state == RunState::Done {
                break;
            }
            tx.start_step(step.id, m.id, at, at.plus(step.kind.deadline()), if i == done { note } else { "" }).await.unwrap();
            let mut step = step.clone();
            step.started_at = Some(at);
            step.deadline_at = Some(at.plus(step.kind.deadline()));
            step.attempts = 1;
            if i < done {
                at = at.plus(Duration::from_secs(17 + 29 * i as u64));
                step.state = StepState::Done;
                step.ended_at = Some(at);
                step.evidence = serde_json::json!({ "seen": "power on" });
            } else {
                step.note = note.to_owned();
                step.progress = progress;
                step.state = if state == RunState::Failed { StepState::Failed } else { StepState::Running };
                step.attempts = if state == RunState::Failed { 2 } else { 1 };
                if state == RunState::Failed {
                    step.ended_at = Some(now);
                    step.evidence = serde_json::json!({ "code": "hash_mismatch", "message": note });
                }
            }
            tx.update_step(&step, None).await.unwrap();
        }
        tx.set_run_state(id, m.id, state).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    pub async fn mark(&self, m: Option<&Machine>, mac: Mac, client: ClientArch, stage: BootStage, ago_millis: u64, note: &str) {
        let at = self.now.minus(Duration::from_millis(ago_millis));
        let fact = BootMarkFact {
            mac,
            machine: m.map(|m| m.id),
            client: Some(client),
            stage,
            at,
            note: note.to_owned(),
            fresh: clock::fresh_uuid(),
        };
        self.store.facts().commit(Fact::BootMark(fact)).await.unwrap();
    }

    pub async fn event(&self, m: &Machine, severity: Severity, text: &str, ago: u64) {
        let mut tx = self.store.begin().await.unwrap();
        tx.insert_event(
            EventId(clock::fresh_uuid()),
            self.now.minus(Duration::from_secs(ago)),
            &NewEvent::system(m.id, "machine.seeded", severity, text),
        )
        .await
        .unwrap();
        tx.commit().await.unwrap();
    }

    pub async fn put(&mut self, mut m: Machine, with: impl FnOnce(&mut Machine)) -> Machine {
        with(&mut m);
        let mut tx = self.store.begin().await.unwrap();
        tx.insert_machine(&m).await.unwrap();
        tx.commit().await.unwrap();
        self.machines.push(m.clone());
        m
    }

    pub async fn bmc(&self, m: &Machine, power: PowerState, fault: Option<&str>) {
        let address: hostler::domain::bmc::BmcAddress =
            format!("10.12.0.{}", m.place.as_ref().and_then(|p| p.u).unwrap_or(200)).parse().unwrap();
        let status = BmcStatus {
            address: address.clone(),
            user: "hostler".into(),
            protocol: Some(BmcProtocol::Redfish),
            identity: BmcIdentity {
                manufacturer: Some("Example Systems".into()),
                model: Some("ES-R650".into()),
                bmc_firmware: Some("7.10.30".into()),
                bios_version: Some("2.19.1".into()),
                ..BmcIdentity::default()
            },
            power: Some(power),
            power_seen_at: Some(self.now.minus(Duration::from_secs(12))),
            last_ok_at: Some(self.now.minus(Duration::from_secs(12))),
            fault: fault.map(str::to_owned),
            auth_failures: 0,
            paused_until: None,
            tls_pin: None,
        };
        let mut tx = self.store.begin().await.unwrap();
        tx.put_bmc(m.id, &address, "hostler", "sealed").await.unwrap();
        tx.update_bmc(m.id, &status).await.unwrap();
        tx.commit().await.unwrap();
    }

    pub async fn inventory(&self, m: &Machine, inv: &Inventory) {
        let mut tx = self.store.begin().await.unwrap();
        tx.put_inventory(m.id, self.now, inv).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Reads the machine anew, changes it, writes it.
    pub async fn change(&self, id: MachineId, with: impl FnOnce(&mut Machine)) {
        let mut m = self.store.machine(id).await.unwrap().unwrap();
        with(&mut m);
        let mut tx = self.store.begin().await.unwrap();
        tx.update_machine(&m, None).await.unwrap();
        tx.commit().await.unwrap();
    }
}

pub fn image(name: &str, now: Timestamp) -> Image {
    use sha2::Digest;
    let digest = |what: &str| hostler::domain::id::Sha256(sha2::Sha256::digest(format!("{name} {what}")).into());
    Image {
        name: name.parse().unwrap(),
        arch: Arch::X86_64,
        format: ImageFormat::RawZst,
        size_bytes: 296_415_232,
        sha256: digest("file"),
        raw_size_bytes: 3_221_225_472,
        raw_sha256: digest("raw"),
        boots_on: vec![FirmwareKind::Bios, FirmwareKind::Uefi],
        default_user: "debian".into(),
        imported_at: now.minus(Duration::from_secs(86_400)),
    }
}

/// Fills a store with one rack.
pub async fn rack(store: Store) -> Rack {
    let now = clock::now();
    let mut r = Rack { store, now, machines: Vec::new() };
    let mut tx = r.store.begin().await.unwrap();
    tx.put_image(&image("debian-12", now)).await.unwrap();
    tx.put_image(&image("tiny-test", now)).await.unwrap();
    tx.commit().await.unwrap();
    for u in 1..=24_u8 {
        let base = |l, ago| machine(u, l, now, ago);
        let gist = Hardware::of(&inventory(u, ""), now);
        let m = match u {
            1..=4 => {
                r.put(base(Lifecycle::Active, 86_400 * u64::from(u)), |m| {
                    m.image = Some("debian-12".parse().unwrap());
                    m.hardware = Some(gist);
                })
                .await
            }
            5..=11 => r.put(base(Lifecycle::Ready, 5_000 + u64::from(u) * 60), |m| m.hardware = Some(gist)).await,
            12 | 13 => r.put(base(Lifecycle::Discovered, 60), |m| m.hardware = Some(gist)).await,
            14..=16 => {
                r.put(base(Lifecycle::Discovered, 4000), |m| {
                    m.first_seen_at = None;
                    m.last_seen_at = None;
                    m.arch = None;
                    m.firmware = None;
                })
                .await
            }
            17 | 18 => r.put(base(Lifecycle::Enrolling, 120), |_| {}).await,
            19..=21 => r.put(base(Lifecycle::Deploying, 300), |m| m.hardware = Some(gist)).await,
            22 => r.put(base(Lifecycle::Releasing, 300), |m| m.hardware = Some(gist)).await,
            _ => r.put(base(Lifecycle::Ready, 9000), |m| m.hardware = Some(gist)).await,
        };
        let power = match u {
            1..=4 | 12 | 13 | 17..=22 => PowerState::On,
            _ => PowerState::Off,
        };
        if !(14..=16).contains(&u) {
            r.bmc(&m, power, (u == 23).then_some("The BMC does not answer: connection refused; is its network cable in?")).await;
            r.inventory(&m, &inventory(u, "")).await;
        }
        let run = match u {
            17 => Some(r.run(&m, RunKind::Enroll, RunState::Running, 2, None, "the ramdisk was fetched 40 s ago").await),
            18 => Some(r.run(&m, RunKind::Enroll, RunState::Running, 1, None, "the BMC reports power on").await),
            19 => Some(
                r.run(
                    &m,
                    RunKind::Deploy,
                    RunState::Running,
                    3,
                    Some(Progress { done: 1_964_947_537, total: 3_221_225_472 }),
                    "writing nvme0n1 (S64GNE1901)",
                )
                .await,
            ),
            20 => Some(r.run(&m, RunKind::Deploy, RunState::Running, 5, None, "the system was started from disk 3 min ago").await),
            21 => Some(
                r.run(&m, RunKind::Deploy, RunState::Failed, 3, None, "the bytes on the disk do not have the sha256 of the image").await,
            ),
            22 => Some(r.run(&m, RunKind::Release, RunState::Running, 2, Some(Progress { done: 1, total: 2 }), "reading sda back").await),
            _ => None,
        };
        if let Some(run) = run {
            r.change(m.id, |m| {
                m.current_run = Some(run);
                if m.lifecycle == Lifecycle::Deploying {
                    m.written_disks = inventory(u, "").fixed_disks().take(1).filter_map(hostler::domain::inventory::DiskRef::to).collect();
                }
                if u == 21 {
                    m.fault = Some(Fault {
                        code: "hash_mismatch".into(),
                        what: format!("{} has other bytes on its disk than the image debian-12", name(u)),
                        remedy: "Retry it; if it fails again, check the disk S64GNE2101 and import the image anew.".into(),
                        at: now.minus(Duration::from_secs(95)),
                        run: Some(run),
                    });
                }
            })
            .await;
        }
    }
    let m = r.machines[18].clone();
    for (i, (stage, note)) in [
        (BootStage::DhcpDiscover, "PXEClient, arch 7"),
        (BootStage::DhcpOffer, "10.12.0.119"),
        (BootStage::DhcpRequest, ""),
        (BootStage::DhcpAck, "snponly.efi"),
        (BootStage::LoaderStart, "snponly.efi"),
        (BootStage::LoaderDone, "snponly.efi, 196 kB"),
        (BootStage::Script, "ramdisk"),
        (BootStage::Kernel, "8.1 MB"),
        (BootStage::Ramdisk, "24.3 MB"),
        (BootStage::Agent, "agent 0.1.0"),
    ]
    .into_iter()
    .enumerate()
    {
        r.mark(Some(&m), m.macs[0], ClientArch::UefiX64, stage, 280_000 - i as u64 * 2300, note).await;
    }
    for (severity, text, ago) in [
        (Severity::Info, "r12-u19 was discovered: DHCP from 52:54:00:12:00:13.", 7000),
        (Severity::Info, "admin accepted r12-u19; its inventory is taken next.", 6900),
        (Severity::Info, "The enroll run of r12-u19 is done: ready.", 6700),
        (Severity::Warning, "The NIC eth1 of r12-u19 has another MAC than before: 52:54:00:13:00:13.", 3200),
        (Severity::Info, "admin asked for debian-12 on r12-u19.", 300),
    ] {
        r.event(&m, severity, text, ago).await;
    }
    let mut tx = r.store.begin().await.unwrap();
    for (i, line) in [
        "hello accepted, machine r12-u19",
        "link up on eth0 25 Gbit/s",
        "task write_image: nvme0n1 S64GNE1901 found",
        "downloading /boot/image (296 MB)",
        "retrying after a short read at 120 MB",
        "written 1.9 GB, 214 MB/s",
    ]
    .into_iter()
    .enumerate()
    {
        let level = if i == 4 { "warn" } else { "info" };
        tx.insert_agent_log(clock::fresh_uuid(), m.id, now, 11.5 + 3.25 * i as f64, level, line).await.unwrap();
    }
    tx.commit().await.unwrap();
    // Strays: one that another DHCP server took, one on its way.
    let stray = Mac([0x3c, 0xec, 0xef, 0x10, 0x20, 0x30]);
    r.mark(None, stray, ClientArch::Bios, BootStage::DhcpDiscover, 95_000, "PXEClient, arch 0").await;
    r.mark(None, stray, ClientArch::Bios, BootStage::DhcpOffer, 94_900, "10.12.0.140").await;
    r.mark(None, stray, ClientArch::Bios, BootStage::DhcpOffer, 90_900, "10.12.0.140").await;
    r.mark(None, stray, ClientArch::Bios, BootStage::DhcpOther, 90_000, "10.0.0.1").await;
    r
}

/// Adds a machine whose every text is hostile. Its name is not: the store holds only DNS labels.
pub async fn hostile(r: &mut Rack) -> Machine {
    let m = r
        .put(machine(40, Lifecycle::Ready, r.now, 30), |m| {
            m.serial = Some("\"><script>alert(2)</script>".parse().unwrap());
            m.place = Some(Place { rack: "<b onmouseover=alert(3)>r".parse().unwrap(), u: Some(40) });
            m.fault = Some(Fault { code: HOSTILE.into(), what: HOSTILE.into(), remedy: HOSTILE.into(), at: m.created_at, run: None });
            m.hardware = Some(Hardware::of(&inventory(40, HOSTILE), m.created_at));
            m.why = HOSTILE.into();
        })
        .await;
    r.bmc(&m, PowerState::On, Some(HOSTILE)).await;
    r.inventory(&m, &inventory(40, HOSTILE)).await;
    let run = r.run(&m, RunKind::Deploy, RunState::Failed, 3, None, HOSTILE).await;
    r.change(m.id, |m| m.current_run = Some(run)).await;
    r.event(&m, Severity::Error, HOSTILE, 5).await;
    r.mark(Some(&m), m.macs[0], ClientArch::UefiX64, BootStage::LoaderStalled, 5000, HOSTILE).await;
    let mut tx = r.store.begin().await.unwrap();
    tx.insert_agent_log(clock::fresh_uuid(), m.id, r.now, 1.0, "info", HOSTILE).await.unwrap();
    tx.commit().await.unwrap();
    m
}
