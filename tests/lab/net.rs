//! The world of one test: a network namespace with a bridge, mounts and process ids of its own, and beside it the site's
//! other network equipment (a second namespace with a dnsmasq that gives addresses or router advertisements).
//!
//! The namespaces have no names: they exist as long as their first process, and that one dies with this test
//! (`setpriv --pdeathsig`), whatever happens to the test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::proc::{Proc, output, wait_for};
use crate::{Res, lab_dir};

/// Hostler's address on the bridge. Each world has its own network, so all worlds can use the same addresses.
pub const SERVER: &str = "10.77.0.1";
pub const BRIDGE: &str = "br0";

pub struct World {
    // Dropped in this order: the neighbour's dnsmasq, then the first processes of the namespaces.
    neighbour: Option<Neighbour>,
    first: Proc,
    /// Process id of the world's first process, seen from outside.
    pid: u32,
    /// Private files; under `target/lab/run/`, made empty at the start.
    pub dir: PathBuf,
    /// What is kept as test output: `target/lab/out/NAME/`.
    pub out: PathBuf,
    /// For Unix sockets, whose paths must stay below 108 bytes (unix(7)).
    pub sockets: PathBuf,
}

struct Neighbour {
    _dnsmasq: Proc,
    _first: Proc,
}

/// What the other equipment of the site does on the provisioning network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// A router that only advertises IPv6; Hostler gives the addresses. Without it each start of iPXE waits 16 s.
    Router,
    /// A DHCP server that only gives addresses and knows nothing of netboot; Hostler answers as proxyDHCP.
    DhcpServer,
}

impl World {
    pub fn start(name: &str, site: Site) -> Res<Self> {
        let dir = lab_dir().join("run").join(format!("{name}-{}", std::process::id()));
        let out = lab_dir().join("out").join(name);
        let sockets = std::env::temp_dir().join(format!("hl-{}-{name}", std::process::id()));
        for d in [&dir, &out, &sockets] {
            if d.exists() {
                fs::remove_dir_all(d).map_err(|e| format!("{}: {e}", d.display()))?;
            }
            fs::create_dir_all(d).map_err(|e| format!("{}: {e}", d.display()))?;
        }
        let (first, pid) = first_process(&["--net", "--mount", "--pid", "--fork", "--kill-child"], &dir)?;
        let mut world = Self { neighbour: None, first, pid, dir, out, sockets };
        // sysfs shows the devices of the namespace it was mounted in.
        // libvirtd and others keep their process ids in /run, where those of another world would meet them.
        world.sh("umount -l /sys && mount -t sysfs sysfs /sys && mount -t tmpfs tmpfs /run && ip link set lo up")?;
        world.sh(&format!(
            "ip link add {BRIDGE} address 02:77:00:00:00:01 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
             ip addr add {SERVER}/24 dev {BRIDGE} && ip -6 addr add fd77::1/64 dev {BRIDGE} nodad && ip link set {BRIDGE} up"
        ))?;
        world.neighbour = Some(world.start_neighbour(site)?);
        Ok(world)
    }

    /// A command in this world's network and mounts. It is the child itself (no shell, no fork between): its id can be
    /// killed, and it dies with the thread that started it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid.to_string(), "--net", "--mount", "--", "setpriv", "--pdeathsig", "KILL"]);
        command.arg(program);
        command
    }

    /// A command that also lives in the world's process ids, so that what it leaves behind ends with the world.
    pub fn inner_command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid.to_string(), "--net", "--mount", "--pid", "--", program]);
        command
    }

    pub fn sh(&self, script: &str) -> Res<String> {
        output(self.command("sh").args(["-euc", script]))
    }

    /// Makes `path` (an absolute directory of the machine we run on) private to this world.
    pub fn private_dir(&self, path: &str) -> Res<PathBuf> {
        let own = self.dir.join("private").join(path.trim_start_matches('/'));
        fs::create_dir_all(&own).map_err(|e| format!("{}: {e}", own.display()))?;
        self.sh(&format!("mkdir -p {path} && mount --bind {} {path}", own.display()))?;
        Ok(own)
    }

    /// A tap device on the bridge.
    pub fn tap(&self, name: &str) -> Res<()> {
        self.sh(&format!("ip tuntap add dev {name} mode tap && ip link set {name} master {BRIDGE} up")).map(drop)
    }

    /// An address of its own for a BMC, on the world's loopback device: reachable only from within the world.
    pub fn bmc_address(&self, address: &str) -> Res<()> {
        self.sh(&format!("ip addr add {address}/32 dev lo")).map(drop)
    }

    /// The IPv4 address that a network card used last, from the kernel's neighbour table.
    pub fn address_of(&self, mac: &str) -> Res<Option<String>> {
        let table = self.sh(&format!("ip -4 neigh show dev {BRIDGE}"))?;
        let line = table.lines().rfind(|l| l.contains(mac) && !l.contains("FAILED"));
        Ok(line.and_then(|l| l.split_whitespace().next()).map(str::to_owned))
    }

    fn start_neighbour(&self, site: Site) -> Res<Neighbour> {
        let (first, pid) = first_process(&["--net", "--pid", "--fork", "--kill-child"], &self.dir)?;
        // Without the world's mounts: `ip` finds the other namespace in our /proc.
        let ip = |args: &str| {
            let mut command = Command::new("nsenter");
            command.args(["-t", &self.pid.to_string(), "--net", "ip"]).args(args.split(' '));
            output(&mut command)
        };
        ip(&format!("link add veth-site type veth peer name eth0 netns {pid}"))?;
        ip(&format!("link set veth-site master {BRIDGE} up"))?;
        let inside = |args: &[&str]| {
            let mut command = Command::new("nsenter");
            // In its process ids, too: dnsmasq changes its credentials, which clears a death signal (prctl(2)).
            command.args(["-t", &pid.to_string(), "--net", "--pid", "--"]).args(args);
            command
        };
        let set_up = "ip link set lo up; ip addr add 10.77.0.2/24 dev eth0; ip -6 addr add fd77::2/64 dev eth0 nodad; ip link set eth0 up";
        output(&mut inside(&["sh", "-euc", set_up]))?;
        let role = match site {
            Site::Router => "dhcp-range=fd77::,ra-only,64,10m\nenable-ra\n".to_owned(),
            Site::DhcpServer => {
                format!("dhcp-authoritative\ndhcp-range=10.77.0.100,10.77.0.199,255.255.255.0,10m\ndhcp-option=option:router,{SERVER}\n")
            }
        };
        let conf = format!(
            "user=root\nport=0\nbind-interfaces\ninterface=eth0\nexcept-interface=lo\nlog-dhcp\nlog-facility=-\nno-ping\ndhcp-leasefile={}\npid-file=\n{role}",
            self.dir.join("site.leases").display()
        );
        let path = self.dir.join("site.conf");
        fs::write(&path, conf).map_err(|e| format!("{}: {e}", path.display()))?;
        let conf = format!("--conf-file={}", path.display());
        let mut dnsmasq = Proc::start("dnsmasq", &mut inside(&["dnsmasq", "--keep-in-foreground", &conf]), &self.out.join("site.log"))?;
        wait_for("the site's dnsmasq", Duration::from_secs(10), || {
            dnsmasq.check()?;
            Ok(log_has(&self.out.join("site.log"), "started").then_some(()))
        })?;
        Ok(Neighbour { _dnsmasq: dnsmasq, _first: first })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.neighbour = None;
        self.first.kill();
        fs::remove_dir_all(&self.sockets).ok();
        if std::env::var_os("HOSTLER_LAB_KEEP").is_none() {
            fs::remove_dir_all(&self.dir).ok();
        }
    }
}

pub fn log_has(log: &Path, text: &str) -> bool {
    fs::read(log).is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(text))
}

/// Starts new namespaces with a first process that does nothing but reap orphans (bash collects every child it is given).
/// The result is `unshare`, whose end ends all that lives inside, and the first process's id.
fn first_process(unshare: &[&str], dir: &Path) -> Res<(Proc, u32)> {
    let idle = "while :; do sleep 3600 & wait; done";
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare"]).args(unshare).args(["bash", "-c", idle]).stdin(Stdio::null());
    let mut first = Proc::start("unshare", &mut command, &dir.join("unshare.log"))?;
    let children = format!("/proc/{0}/task/{0}/children", first.id());
    let pid = wait_for("new namespaces (are we root?)", Duration::from_secs(10), || {
        first.check()?;
        let text = fs::read_to_string(&children).unwrap_or_default();
        Ok(text.split_whitespace().next().and_then(|p| p.parse::<u32>().ok()))
    })?;
    // `unshare` forks before it mounts /proc and executes bash: wait for bash.
    wait_for("the first process", Duration::from_secs(10), || {
        first.check()?;
        Ok(fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|c| c.trim() == "bash").then_some(()))
    })?;
    Ok((first, pid))
}
