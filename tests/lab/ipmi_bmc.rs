//! A server behind OpenIPMI's `ipmi_sim`: RMCP+ on its own address, KCS into the server, and chassis control.
//!
//! ipmi_sim calls a program for each chassis command. That program is this test binary (`lab chassis SOCKET get power`);
//! it hands the words to the test over a socket, since the server's process belongs to the test.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::Res;
use crate::net::{SERVER, World};
use crate::proc::{Proc, output, wait_for};
use crate::vm::{BootFrom, Qemu, Spec};

pub const ADDRESS: &str = "10.77.1.2";
pub const USER: &str = "admin";
pub const PASSWORD: &str = "password";
/// ipmi_sim's port for the server's KCS interface (its "VM" protocol over TCP, only in this world).
const KCS_PORT: u16 = 9201;

pub struct IpmiBmc {
    // Dropped in this order.
    sim: Proc,
    stop: Arc<AtomicBool>,
    chassis: Option<JoinHandle<()>>,
    socket: PathBuf,
}

impl IpmiBmc {
    /// Plugs the server in: its BMC runs, the server itself is off.
    pub fn start(world: &Arc<World>, spec: &Spec) -> Res<Self> {
        world.bmc_address(ADDRESS)?;
        world.tap("tap0")?;
        let socket = world.sockets.join("chassis");
        let listener = UnixListener::bind(&socket).map_err(|e| format!("{}: {e}", socket.display()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let server = Chassis { world: Arc::clone(world), spec: spec.clone(), qemu: None, boot_once: None };
        let told = Arc::clone(&stop);
        let chassis = std::thread::spawn(move || server.serve(&listener, &told));

        let dir = world.dir.join("ipmi");
        fs::create_dir_all(dir.join("state/ipmi_sim").join(spec.name)).map_err(|e| format!("{}: {e}", dir.display()))?;
        let write = |name: &str, bytes: &[u8]| fs::write(dir.join(name), bytes).map_err(|e| format!("{}: {e}", dir.display()));
        write("fru", &fru(spec.serial))?;
        // 0x9f: the functions of a BMC; maker and product are Dell's PowerEdge (as in OpenIPMI's example).
        let commands = format!(
            "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02\nsel_enable 0x20 1000 0x0a\n\
             mc_add_fru_data 0x20 0 512 file 0 \"{}\"\nmc_enable 0x20\n",
            dir.join("fru").display()
        );
        write("commands", commands.as_bytes())?;
        // A link of our own: a build while the test runs must not change the hook.
        let own = std::env::current_exe().map_err(|e| format!("own path: {e}"))?;
        let hook = dir.join("hook");
        fs::hard_link(&own, &hook).or_else(|_| fs::copy(&own, &hook).map(drop)).map_err(|e| format!("{}: {e}", own.display()))?;
        let hook = hook.display();
        let auth = "md2 md5 straight";
        let conf = format!(
            "name \"{name}\"\nset_working_mc 0x20\n startlan 1\n  addr {ADDRESS} 623\n  priv_limit admin\n\
             \x20 allowed_auths_callback none {auth}\n  allowed_auths_user none {auth}\n  allowed_auths_operator none {auth}\n\
             \x20 allowed_auths_admin none {auth}\n  guid {guid}\n  lan_config_program \"{hook} chassis lan\"\n endlan\n\
             chassis_control \"{hook} chassis {socket}\"\nserial 15 127.0.0.1 {KCS_PORT} codec VM\nstartnow false\n\
             user 1 true \"\" \"test\" user 10 none {auth}\nuser 2 true \"{USER}\" \"{PASSWORD}\" admin 10 none {auth}\n",
            name = spec.name,
            guid = spec.uuid.replace('-', ""),
            socket = socket.display(),
        );
        write("lan.conf", conf.as_bytes())?;
        let mut command = world.command("ipmi_sim");
        command.arg("-c").arg(dir.join("lan.conf")).arg("-f").arg(dir.join("commands")).arg("-s").arg(dir.join("state")).arg("-n");
        let sim = Proc::start("ipmi_sim", &mut command, &world.out.join("bmc.log"))?;
        let mut bmc = Self { sim, stop, chassis: Some(chassis), socket };
        wait_for("ipmi_sim to answer ipmitool", Duration::from_secs(30), || {
            bmc.sim.check()?;
            Ok(bmc.tool(world, &["chassis", "power", "status"]).ok())
        })?;
        Ok(bmc)
    }

    /// What `ipmitool` says: the second opinion on what Hostler did.
    pub fn tool(&self, world: &World, args: &[&str]) -> Res<String> {
        let mut command = world.command("ipmitool");
        command.args(["-I", "lanplus", "-H", ADDRESS, "-U", USER, "-P", PASSWORD, "-C", "3", "-N", "2", "-R", "2"]).args(args);
        output(&mut command)
    }
}

impl Drop for IpmiBmc {
    fn drop(&mut self) {
        self.sim.kill();
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the accepting thread; the server is killed when that thread's `Chassis` goes.
        UnixStream::connect(&self.socket).map(drop).ok();
        if let Some(chassis) = self.chassis.take() {
            chassis.join().ok();
        }
    }
}

/// The server as its BMC sees it.
struct Chassis {
    world: Arc<World>,
    spec: Spec,
    qemu: Option<Qemu>,
    /// Boot override, used up by the next start or reset.
    boot_once: Option<BootFrom>,
}

impl Chassis {
    fn serve(mut self, listener: &UnixListener, stop: &AtomicBool) {
        for stream in listener.incoming() {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let Ok(mut stream) = stream else { return };
            let mut words = String::new();
            if stream.read_to_string(&mut words).is_err() {
                continue;
            }
            let answer = self.obey(&words).unwrap_or_else(|e| format!("error: {e}\n"));
            let log = self.world.out.join("chassis.log");
            let line = format!("{} -> {}\n", words.trim(), answer.trim().replace('\n', " "));
            if let Ok(mut log) = fs::File::options().create(true).append(true).open(log) {
                log.write_all(line.as_bytes()).ok();
            }
            stream.write_all(answer.as_bytes()).ok();
        }
    }

    /// ipmi_sim(5), "chassis_control": `get WORD...` or `set WORD VALUE...`; one line `WORD:VALUE` for each that is read.
    fn obey(&mut self, words: &str) -> Res<String> {
        let words: Vec<&str> = words.split_whitespace().collect();
        match words.as_slice() {
            ["get", names @ ..] => names.iter().map(|n| self.read(n)).collect(),
            ["set", rest @ ..] => {
                for pair in rest.chunks(2) {
                    match pair {
                        ["identify", ..] => break,
                        [name, value] => self.change(name, value)?,
                        _ => return Err(format!("odd words: {words:?}")),
                    }
                }
                Ok(String::new())
            }
            _ => Err(format!("not understood: {words:?}")),
        }
    }

    fn read(&mut self, name: &str) -> Res<String> {
        match name {
            "power" => Ok(format!("power:{}\n", u8::from(self.is_on()))),
            "boot" => Ok(format!(
                "boot:{}\n",
                match self.boot_once {
                    None => "none",
                    Some(BootFrom::Network) => "pxe",
                    Some(BootFrom::Disk) => "default",
                }
            )),
            "identify" => Ok("identify:0\n".to_owned()),
            other => Err(format!("unknown word: {other}")),
        }
    }

    fn change(&mut self, name: &str, value: &str) -> Res<()> {
        match (name, value) {
            ("power", "1") if !self.is_on() => self.switch_on(),
            ("power", "1") => Ok(()),
            ("power", _) => {
                self.qemu = None;
                Ok(())
            }
            ("reset", _) if self.is_on() => {
                self.qemu = None;
                self.switch_on()
            }
            ("shutdown", "1") if self.is_on() => self.qemu.as_ref().map_or(Ok(()), Qemu::press_power),
            ("reset" | "shutdown", _) => Ok(()),
            ("boot", "pxe") => {
                self.boot_once = Some(BootFrom::Network);
                Ok(())
            }
            ("boot", "none") => {
                self.boot_once = None;
                Ok(())
            }
            // `default` is IPMI's "default hard disk".
            ("boot", "default") => {
                self.boot_once = Some(BootFrom::Disk);
                Ok(())
            }
            (other, value) => Err(format!("unknown word: {other} {value}")),
        }
    }

    fn is_on(&mut self) -> bool {
        self.qemu.as_mut().is_some_and(Qemu::is_running)
    }

    fn switch_on(&mut self) -> Res<()> {
        let from = self.boot_once.take().unwrap_or(BootFrom::Network);
        self.qemu = Some(Qemu::start(&self.world, &self.spec, from, Some(KCS_PORT))?);
        Ok(())
    }
}

/// The other end: `lab chassis SOCKET WORD...`, and `lab chassis lan WORD...` for the BMC's own network settings, which
/// the agent reads over KCS.
pub fn chassis_hook(args: &[String]) -> ExitCode {
    match args {
        [socket, words @ ..] if socket == "lan" => lan_settings(words),
        [socket, words @ ..] => match ask(socket, &words.join(" ")) {
            Ok(answer) if answer.starts_with("error") => {
                eprint!("{answer}");
                ExitCode::FAILURE
            }
            Ok(answer) => {
                print!("{answer}");
                ExitCode::SUCCESS
            }
            Err(e) => {
                eprintln!("{socket}: {e}");
                ExitCode::FAILURE
            }
        },
        [] => ExitCode::from(2),
    }
}

fn ask(socket: &str, words: &str) -> std::io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(words.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn lan_settings(words: &[String]) -> ExitCode {
    let Some(("get", names)) = words.split_first().map(|(first, rest)| (first.as_str(), rest)) else {
        return ExitCode::SUCCESS;
    };
    for name in names {
        let value = match name.as_str() {
            "ip_addr" => ADDRESS,
            "ip_addr_src" => "static",
            "mac_addr" => "02:77:b0:00:00:02",
            "subnet_mask" => "255.255.255.0",
            "default_gw_ip_addr" | "backup_gw_ip_addr" => SERVER,
            "default_gw_mac_addr" | "backup_gw_mac_addr" => "02:77:00:00:00:01",
            _ => {
                println!("Invalid parameter: {name}");
                return ExitCode::FAILURE;
            }
        };
        println!("{name}:{value}");
    }
    ExitCode::SUCCESS
}

/// A FRU (IPMI Platform Management FRU Information Storage Definition 1.3): a board and a product area with the serial.
fn fru(serial: &str) -> Vec<u8> {
    // Type 3 (8-bit text) in the two upper bits, the length below (section 13).
    let text = |s: &str| [&[0xC0 | s.len() as u8], s.as_bytes()].concat();
    let area = |head: &[u8], fields: &[&str]| {
        let mut bytes = [&[1, 0], head].concat();
        fields.iter().for_each(|f| bytes.extend(text(f)));
        bytes.push(0xC1); // no more fields
        bytes.resize((bytes.len() + 1).next_multiple_of(8) - 1, 0);
        bytes[1] = (bytes.len() / 8 + 1) as u8;
        let sum = bytes.iter().fold(0_u8, |sum, b| sum.wrapping_add(*b));
        bytes.push(sum.wrapping_neg());
        bytes
    };
    let board = area(&[25, 0, 0, 0], &["LabCorp", "LabBoard", "BOARD-1", "LB-100", "fru-1"]);
    let product = area(&[25], &["LabCorp", "LabServer-1", "LS-1", "1.0", serial, "", "fru-1"]);
    let mut bytes = vec![1, 0, 0, 1, (1 + board.len() / 8) as u8, 0, 0];
    bytes.push(bytes.iter().fold(0_u8, |sum, b| sum.wrapping_add(*b)).wrapping_neg());
    let mut bytes = [bytes, board, product].concat();
    bytes.resize(512, 0xFF);
    bytes
}
