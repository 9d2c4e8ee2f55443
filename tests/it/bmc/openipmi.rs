//! OpenIPMI's `ipmi_sim` as a BMC that we did not write: a chassis of two files, nine sensors whose values are files, a FRU, a
//! log, a LAN, serial over LAN onto a TCP port.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use hostler::bmc::BmcAccess;

use super::kit::access;
use super::process::{Running, free_tcp_port, free_udp_port, program, said, spawn, wait_for};

pub struct IpmiSim {
    pub port: u16,
    pub dir: tempfile::TempDir,
    /// Where the machine's serial port is served to `ipmi_sim`.
    _serial: std::net::TcpListener,
    console: u16,
    ipmitool: PathBuf,
    _running: Running,
}

/// `None`, said, where OpenIPMI is not installed.
pub fn ipmi_sim() -> Option<IpmiSim> {
    let (sim, ipmitool, sdrcomp) = (program("ipmi_sim")?, program("ipmitool")?, program("sdrcomp")?);
    let dir = tempfile::tempdir().unwrap();
    let (at, port, console) = (dir.path(), free_udp_port(), free_tcp_port());
    let serial = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let fixture = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ipmi").join(name);
    script(
        &at.join("chassis"),
        "op=$1; shift\nif [ $op = get ]; then for p in \"$@\"; do case $p in\n\
         power) echo power:$(cat power);; boot) echo boot:$(cat boot);; identify) echo identify:0;; *) exit 1;; esac; done; exit 0; fi\n\
         while [ $# -gt 1 ]; do case $1 in power) echo $2 > power;; boot) echo $2 > boot;; identify) echo \"$@\" > identify; exit 0;;\n\
         reset) echo reset >> log;; shutdown) echo 0 > power;; *) exit 1;; esac; shift 2; done\n",
    );
    script(
        &at.join("lan"),
        "[ $1 = get ] || exit 0; shift\nfor n in \"$@\"; do case $n in\n\
         ip_addr) v=10.77.1.5;; ip_addr_src) v=static;; mac_addr) v=02:77:b0:00:00:02;; subnet_mask) v=255.255.255.0;;\n\
         default_gw_ip_addr) v=10.77.1.1;; backup_gw_ip_addr) v=0.0.0.0;; *_mac_addr) v=02:77:00:00:00:01;; *) exit 1;; esac; echo $n:$v; done\n",
    );
    for (name, value) in [("power", "0"), ("boot", "none"), ("s1", "45"), ("s2", "24"), ("s3", "90"), ("s4", "91"), ("s5", "121")] {
        std::fs::write(at.join(name), format!("{value}\n")).unwrap();
    }
    let state = at.join("state/ipmi_sim/sim1");
    std::fs::create_dir_all(&state).unwrap();
    // Without -8, names of four letters and less are packed in six bits, which ipmitool prints as garbage.
    let compiled = Command::new(sdrcomp).args(["-8", "-o"]).arg(state.join("sdr.20.main")).arg(fixture("sensors.sdrs")).output().unwrap();
    assert!(compiled.status.success(), "{}", said(&compiled));
    let auth = "none md2 md5 straight";
    std::fs::write(
        at.join("lan.conf"),
        format!(
            "name \"sim1\"\nset_working_mc 0x20\n  startlan 1\n    addr 127.0.0.1 {port}\n    priv_limit admin\n    allowed_auths_callback {auth}\n    \
             allowed_auths_user {auth}\n    allowed_auths_operator {auth}\n    allowed_auths_admin {auth}\n    \
             guid 11223344556647889900525400770001\n    lan_config_program \"{here}/lan\"\n  endlan\n  chassis_control \"{here}/chassis\"\n  \
             sol \"tcp:127.0.0.1:{serial}\" 115200 history=4000\n  user 2 true \"admin\" \"secret\" admin 10 {auth}\n  \
             user 3 true \"op\" \"oppass\" operator 10 {auth}\nconsole 127.0.0.1 {console}\n",
            here = at.display(),
            serial = serial.local_addr().unwrap().port(),
        ),
    )
    .unwrap();
    let sensors = std::fs::read_to_string(fixture("sensors.emu")).unwrap().replace("SDIR", &at.display().to_string());
    std::fs::write(
        at.join("bmc.emu"),
        format!(
            "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nsel_enable 0x20 100 0x0a\n\
             mc_add_fru_data 0x20 0 512 file 0 \"{}\"\n{sensors}mc_enable 0x20\n",
            fixture("fru.bin").display()
        ),
    )
    .unwrap();
    let log = at.join("sim.log");
    let running = spawn(
        Command::new(sim).arg("-c").arg(at.join("lan.conf")).arg("-f").arg(at.join("bmc.emu")).arg("-s").arg(at.join("state")).arg("-n"),
        &log,
    );
    wait_for(|| tool(&ipmitool, port, 3, "secret", &["mc", "info"]).status.success(), &log);
    Some(IpmiSim { port, dir, _serial: serial, console, ipmitool, _running: running })
}

fn script(path: &Path, body: &str) {
    std::fs::write(path, format!("#!/bin/sh\ncd \"$(dirname \"$0\")\" || exit 1\n{body}")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

impl IpmiSim {
    pub fn access(&self) -> BmcAccess {
        access(format!("ipmi://127.0.0.1:{}", self.port).parse().unwrap(), "admin", "secret")
    }

    /// A file of its chassis.
    pub fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(name)).unwrap_or_default().trim().to_owned()
    }

    /// The raw value of sensor `number`, read again by `ipmi_sim` every half second.
    pub fn set_sensor(&self, number: u8, raw: u8) {
        let path = self.dir.path().join(format!("s{number}"));
        // Renamed, so that it never reads half a file.
        let fresh = path.with_extension("new");
        std::fs::write(&fresh, format!("{raw}\n")).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    /// A line typed at its console.
    pub fn command(&self, line: &str) {
        let mut console = TcpStream::connect(("127.0.0.1", self.console)).unwrap();
        console.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        console.write_all(format!("{line}\n").as_bytes()).unwrap();
        // It is done when the prompt is there again.
        let (mut said, mut byte) = (String::new(), [0; 1]);
        while said.matches('>').count() < 2 {
            console.read_exact(&mut byte).unwrap_or_else(|e| panic!("{line}: {e} after {said:?}"));
            said.push(char::from(byte[0]));
        }
        assert!(!said.contains("rror"), "{line}: {said}");
    }

    /// What `ipmitool` says, the second opinion.
    pub fn tool(&self, args: &[&str]) -> String {
        let output = tool(&self.ipmitool, self.port, 3, "secret", args);
        assert!(output.status.success(), "{args:?}: {}", said(&output));
        said(&output)
    }
}

pub fn tool(ipmitool: &Path, port: u16, suite: u8, password: &str, args: &[&str]) -> Output {
    let (port, suite) = (port.to_string(), suite.to_string());
    Command::new(ipmitool)
        .args(["-I", "lanplus", "-H", "127.0.0.1", "-p", &port, "-U", "admin", "-P", password, "-C", &suite, "-N", "2", "-R", "2"])
        .args(args)
        .output()
        .unwrap()
}
