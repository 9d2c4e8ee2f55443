//! The tests: what a person does with a new server, from unpacking to giving it back, and what must be true at each point.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::Res;
use crate::demo;
use crate::hostler::Hostler;
use crate::ipmi_bmc::{self, IpmiBmc};
use crate::net::{Site, World};
use crate::proc::{output, wait_for};
use crate::redfish_bmc::{self, RedfishBmc};
use crate::vm::{Console, Firmware, OVMF_CODE, OVMF_VARS, SEABIOS, Spec, has_tool};

pub struct Case {
    pub name: &'static str,
    pub story: &'static str,
    /// The server and its surroundings; `None` where the program under test brings its own.
    server: Option<Server>,
    image: Image,
    pub run: fn(&'static Case) -> Res<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Server {
    bmc: Protocol,
    firmware: Firmware,
    site: Site,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Redfish,
    Ipmi,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Image {
    Debian12,
    Tiny,
}

impl Image {
    fn name(self) -> &'static str {
        match self {
            Self::Debian12 => "debian-12",
            Self::Tiny => "tiny",
        }
    }

    fn file(self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("target/images").join(format!("{}.raw.zst", self.name()))
    }
}

pub const ALL: &[Case] = &[
    Case {
        name: "uefi-redfish",
        story: "a UEFI server behind sushy-tools' Redfish gets Debian 12, runs it, and is given back",
        server: Some(Server { bmc: Protocol::Redfish, firmware: Firmware::Uefi, site: Site::Router }),
        image: Image::Debian12,
        run: whole_life,
    },
    Case {
        name: "bios-ipmi",
        story: "a BIOS server behind ipmi_sim gets Debian 12, runs it, and is given back",
        server: Some(Server { bmc: Protocol::Ipmi, firmware: Firmware::Bios, site: Site::Router }),
        image: Image::Debian12,
        run: whole_life,
    },
    Case {
        name: "uefi-proxydhcp",
        story: "the same for a UEFI server where another DHCP server gives the addresses",
        server: Some(Server { bmc: Protocol::Redfish, firmware: Firmware::Uefi, site: Site::DhcpServer }),
        image: Image::Debian12,
        run: whole_life,
    },
    Case {
        name: "uefi-http",
        story: "the same for a UEFI server that boots by HTTP only",
        server: Some(Server { bmc: Protocol::Ipmi, firmware: Firmware::UefiHttp, site: Site::Router }),
        image: Image::Debian12,
        run: whole_life,
    },
    Case {
        name: "killed",
        story: "the service is killed with SIGKILL six times, once in the middle of the image write, and all ends well",
        server: Some(Server { bmc: Protocol::Ipmi, firmware: Firmware::Bios, site: Site::Router }),
        image: Image::Tiny,
        run: killed_six_times,
    },
    Case {
        name: "demo-vms",
        story: "hostler demo --vms 2 as a user without rights: a UEFI and a BIOS machine run a real system, and none outlives the demo",
        server: None,
        image: Image::Tiny,
        run: |case| demo::run(case.name, &case.image.file()),
    },
];

/// Generous: other tests and compilers share the processors, and TCG is slow.
const SOON: Duration = Duration::from_secs(120);
const A_BOOT: Duration = Duration::from_secs(600);
const A_DEPLOY: Duration = Duration::from_secs(1500);

/// The first thing that a case needs and that is not there.
pub fn missing_for(case: &Case) -> Option<String> {
    let mut tools = vec!["setpriv", "qemu-system-x86_64"];
    let mut files = vec![SEABIOS.into(), OVMF_CODE.into(), OVMF_VARS.into(), case.image.file(), pxe()];
    if case.server.is_some() {
        tools.extend(["ip", "nsenter", "unshare", "dnsmasq", "ssh", "ssh-keygen", "tc"]);
        files.push(PathBuf::from("/dev/net/tun"));
    }
    match case.server.map(|s| s.bmc) {
        Some(Protocol::Redfish) => {
            tools.extend(["libvirtd", "virsh", "openssl", "curl"]);
            files.push(redfish_bmc::venv().join("bin/sushy-emulator"));
        }
        Some(Protocol::Ipmi) => tools.extend(["ipmi_sim", "ipmitool"]),
        None => {}
    }
    let tool = tools.into_iter().find(|t| !has_tool(t)).map(|t| format!("the program {t} is not installed (tests/setup)"));
    tool.or_else(|| files.into_iter().find(|f| !f.exists()).map(|f| format!("{} is not there (tests/run makes it)", f.display())))
}

/// Where `tests/run` puts kernel and ramdisk.
pub fn pxe() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/pxe")
}

/// The stage of a test: one server with its BMC, and the service. Taken down in this order.
struct Stage {
    name: &'static str,
    site: Site,
    _console: Console,
    bmc: Bmc,
    key: PathBuf,
    spec: Spec,
    world: Arc<World>,
}

enum Bmc {
    Redfish(RedfishBmc),
    Ipmi(IpmiBmc),
}

impl Stage {
    fn set_up(case: &Case) -> Res<Self> {
        let server = case.server.ok_or("the case has no server")?;
        let world = Arc::new(World::start(case.name, server.site)?);
        let spec = Spec {
            name: "n1",
            serial: "LAB0001",
            mac: "52:54:00:77:00:01",
            uuid: "11223344-5566-4788-9900-525400770001",
            firmware: server.firmware,
            disk_gib: match case.image {
                Image::Debian12 => 4,
                Image::Tiny => 1,
            },
        };
        spec.make_disk(&world)?;
        let key = world.dir.join("ssh");
        output(std::process::Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f"]).arg(&key))?;
        let console = Console::follow(spec.serial_log(&world), &world.out.join("console.log"))?;
        let bmc = match server.bmc {
            Protocol::Redfish => Bmc::Redfish(RedfishBmc::start(&world, &spec)?),
            Protocol::Ipmi => Bmc::Ipmi(IpmiBmc::start(&world, &spec)?),
        };
        Ok(Self { name: case.name, site: server.site, _console: console, bmc, key, spec, world })
    }

    /// The packing list that comes with the server.
    fn packing_list(&self) -> Res<PathBuf> {
        let (address, user, password) = match self.bmc {
            Bmc::Redfish(_) => (redfish_bmc::ADDRESS, redfish_bmc::USER, redfish_bmc::PASSWORD),
            Bmc::Ipmi(_) => (ipmi_bmc::ADDRESS, ipmi_bmc::USER, ipmi_bmc::PASSWORD),
        };
        let path = self.world.dir.join("packing-list.csv");
        let text = format!(
            "serial,mac,bmc_address,bmc_user,bmc_password,rack,u\n{},{},{address},{user},{password},r1,7\n",
            self.spec.serial, self.spec.mac
        );
        fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(path)
    }

    /// What the BMC emulator itself says to another client.
    fn is_on(&self) -> Res<bool> {
        match &self.bmc {
            Bmc::Redfish(bmc) => {
                let text = bmc.get(&self.world, &format!("/redfish/v1/Systems/{}", self.spec.uuid))?;
                let system: Value = serde_json::from_str(&text).map_err(|e| format!("{e}: {text}"))?;
                Ok(system["PowerState"] == "On")
            }
            Bmc::Ipmi(bmc) => Ok(bmc.tool(&self.world, &["chassis", "power", "status"])?.contains("is on")),
        }
    }

    /// A command in the deployed system, over SSH with the key it was deployed with.
    fn ssh(&self, command: &str) -> Res<String> {
        let address = self.world.address_of(self.spec.mac)?.ok_or("the deployed system has no address")?;
        let mut ssh = self.world.command("ssh");
        ssh.args([
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=20",
        ]);
        ssh.args(["-o", "LogLevel=ERROR", "-F", "none", "-i"]).arg(&self.key).args([&format!("debian@{address}"), command]);
        output(&mut ssh)
    }
}

/// Says what is true now, with the time, as the test's own log.
fn say(stage: &Stage, text: &str) {
    println!("lab {}:   {text}", stage.name);
    if let Ok(mut log) = fs::File::options().create(true).append(true).open(stage.world.out.join("test.log")) {
        std::io::Write::write_all(&mut log, format!("{text}\n").as_bytes()).ok();
    }
}

fn lifecycle(machine: &Value) -> &str {
    machine["lifecycle"].as_str().unwrap_or_default()
}

/// Until the machine rests in `goal`. A run that failed for good is an error at once.
fn wait_state(hostler: &mut Hostler<'_>, name: &str, goal: &str, limit: Duration) -> Res<()> {
    hostler.wait_machine(name, &format!("{name} to be {goal}"), limit, |m| {
        if !m["fault"].is_null() {
            return Err(format!("the run failed: {}", m["fault"]));
        }
        Ok((lifecycle(m) == goal).then_some(()))
    })
}

/// From the packing list to a discovered machine; the machine's name.
fn arrive(stage: &Stage, hostler: &mut Hostler<'_>) -> Res<String> {
    hostler.cli(&["racks", "import", &stage.packing_list()?.display().to_string()])?;
    let list = hostler.cli(&["machine", "list"])?;
    let expected = list["items"].get(0).cloned().ok_or_else(|| format!("the packing list made no machine: {list}"))?;
    let name = expected["name"].as_str().unwrap_or_default().to_owned();
    if expected["expected_only"] != true {
        return Err(format!("a machine that never came is not shown as expected: {expected}"));
    }
    if stage.is_on()? {
        return Err("the server is on before anyone switched it on".to_owned());
    }
    hostler.cli(&["machine", "power", &name, "on"])?;
    wait_for("the BMC to say that the server is on", SOON, || Ok(stage.is_on()?.then_some(())))?;
    say(stage, &format!("{name}: announced, powered on by its BMC"));
    hostler.wait_machine(&name, "the agent of a discovery boot", A_BOOT, |m| {
        let seen = m["boots"].as_array().is_some_and(|boots| {
            boots.iter().any(|b| b["marks"].as_array().is_some_and(|marks| marks.iter().any(|k| k["stage"] == "agent")))
        });
        Ok((seen && m["expected_only"] == false).then_some(()))
    })?;
    let machines = hostler.cli(&["machine", "list"])?;
    if machines["items"].as_array().map(Vec::len) != Some(1) {
        return Err(format!("one server became several machines: {machines}"));
    }
    if !stage.spec.is_untouched(&stage.world)? {
        return Err("discovery wrote to the disk".to_owned());
    }
    say(stage, &format!("{name}: discovered; its disk is untouched"));
    Ok(name)
}

fn import(hostler: &Hostler<'_>, image: Image) -> Res<()> {
    hostler.cli(&["image", "import", &image.file().display().to_string(), "--name", image.name()]).map(drop)
}

/// (a) to (d): the whole life of a server.
fn whole_life(case: &'static Case) -> Res<()> {
    let stage = Stage::set_up(case)?;
    let mut hostler = Hostler::start(&stage.world, stage.site)?;
    import(&hostler, case.image)?;
    say(&stage, "service up, image imported");
    let name = arrive(&stage, &mut hostler)?;

    hostler.cli(&["machine", "accept", &name])?;
    wait_state(&mut hostler, &name, "ready", A_BOOT)?;
    if !stage.spec.is_untouched(&stage.world)? {
        return Err("enrolling wrote to the disk".to_owned());
    }
    say(&stage, &format!("{name}: enrolled"));

    let key = stage.key.with_extension("pub").display().to_string();
    hostler.cli(&["machine", "deploy", &name, "--image", case.image.name(), "--hostname", "web-1", "--ssh-key", &key])?;
    wait_state(&mut hostler, &name, "active", A_DEPLOY)?;
    let images = hostler.cli(&["image", "list"])?;
    let image_bytes = images[0]["raw_size_bytes"].as_u64().ok_or_else(|| format!("the image has no size: {images}"))?;
    if let Some(at) = stage.spec.old_data_in_image(&stage.world, image_bytes)? {
        return Err(format!("data of the disk's previous owner shows through the image at byte {at}"));
    }
    say(&stage, &format!("{name}: active: its system reported in"));
    let told = wait_for("an SSH login with the deployed key", SOON, || Ok(stage.ssh("hostname; df -BM --output=size / | tail -1").ok()))?;
    let mut lines = told.lines();
    if lines.next() != Some("web-1") {
        return Err(format!("the deployed system has another name: {told}"));
    }
    let root_mib: u64 = lines.next().and_then(|l| l.trim().trim_end_matches('M').parse().ok()).unwrap_or(0);
    if root_mib < 3000 {
        return Err(format!("the root file system did not grow to the 4 GiB disk: {told}"));
    }
    say(&stage, &format!("{name}: ssh works, hostname web-1, root file system {root_mib} MiB"));

    give_back(&stage, &mut hostler, &name)
}

/// Release, and the disk as somebody with a screwdriver would see it.
fn give_back(stage: &Stage, hostler: &mut Hostler<'_>, name: &str) -> Res<()> {
    hostler.cli(&["machine", "release", name, "--yes"])?;
    wait_state(hostler, name, "ready", A_DEPLOY)?;
    wait_for("the BMC to say that the server is off", SOON, || Ok((!stage.is_on()?).then_some(())))?;
    match stage.spec.first_data_on_disk(&stage.world)? {
        None => say(stage, &format!("{name}: released, off, every byte of its disk is zero")),
        Some(at) => return Err(format!("released, but its disk still has data at byte {at}")),
    }
    let machine = hostler.machine(name)?;
    hostler.keep(&machine);
    Ok(())
}

/// (e): SIGKILL at the steps that can least bear it.
fn killed_six_times(case: &'static Case) -> Res<()> {
    let stage = Stage::set_up(case)?;
    let mut hostler = Hostler::start(&stage.world, stage.site)?;
    import(&hostler, case.image)?;
    let name = arrive(&stage, &mut hostler)?;

    hostler.cli(&["machine", "accept", &name])?;
    hostler.kill_and_restart()?;
    say(&stage, &format!("{name}: service killed as soon as the machine was accepted, and started again"));
    wait_state(&mut hostler, &name, "ready", A_BOOT)?;
    say(&stage, &format!("{name}: enrolled"));

    hostler.cli(&["machine", "deploy", &name, "--image", case.image.name()])?;
    hostler.kill_and_restart()?;
    say(&stage, &format!("{name}: service killed as soon as the deploy was asked for, and started again"));
    kill_in(&stage, &mut hostler, &name, "wait_agent", |_| true)?;
    // A slow network, so that there is a middle of the image write to be killed in.
    stage.world.sh("tc qdisc replace dev tap0 root tbf rate 16mbit burst 64kb latency 400ms")?;
    kill_in(&stage, &mut hostler, &name, "write_image", |step| {
        let percent = step["progress"]["percent"].as_u64().unwrap_or(0);
        (1..100).contains(&percent)
    })?;
    stage.world.sh("tc qdisc del dev tap0 root")?;
    kill_in(&stage, &mut hostler, &name, "wait_system", |_| true)?;
    wait_state(&mut hostler, &name, "active", A_DEPLOY)?;
    say(&stage, &format!("{name}: active"));

    hostler.cli(&["machine", "release", &name, "--yes"])?;
    kill_in(&stage, &mut hostler, &name, "wipe_disks", |_| true)?;
    wait_state(&mut hostler, &name, "ready", A_DEPLOY)?;
    match stage.spec.first_data_on_disk(&stage.world)? {
        None => say(&stage, &format!("{name}: released, every byte of its disk is zero")),
        Some(at) => return Err(format!("released, but its disk still has data at byte {at}")),
    }
    Ok(())
}

/// Waits until the machine's run is in step `kind` and `now` agrees, then kills the service and starts it again.
fn kill_in(stage: &Stage, hostler: &mut Hostler<'_>, name: &str, kind: &str, mut now: impl FnMut(&Value) -> bool) -> Res<()> {
    hostler.wait_machine(name, &format!("step {kind} to kill the service in"), A_DEPLOY, |m| {
        if !m["fault"].is_null() {
            return Err(format!("the run failed: {}", m["fault"]));
        }
        let steps = m["current_run"]["steps"].as_array().cloned().unwrap_or_default();
        let Some(step) = steps.iter().find(|s| s["kind"] == kind) else { return Ok(None) };
        match step["state"].as_str() {
            Some("running") if now(step) => Ok(Some(())),
            Some("done" | "skipped" | "failed") => Err(format!("the step was over before it could be killed in: {step}")),
            _ => Ok(None),
        }
    })?;
    hostler.kill_and_restart()?;
    say(stage, &format!("{name}: service killed in {kind} and started again"));
    Ok(())
}
