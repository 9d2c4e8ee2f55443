//! A server: QEMU with real firmware, one network card on the bridge, one disk, a serial console that is recorded.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::Res;
use crate::net::World;
use crate::proc::{Proc, output};

pub const SEABIOS: &str = "/usr/share/seabios/bios-256k.bin";
pub const OVMF_CODE: &str = "/usr/share/OVMF/OVMF_CODE_4M.fd";
pub const OVMF_VARS: &str = "/usr/share/OVMF/OVMF_VARS_4M.fd";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    Bios,
    /// UEFI that boots by its own PXE stack.
    Uefi,
    /// UEFI whose PXE is switched off, so that "network" means HTTP boot.
    UefiHttp,
}

/// What identifies a server, and what it is made of.
#[derive(Clone, Debug)]
pub struct Spec {
    pub name: &'static str,
    pub serial: &'static str,
    pub mac: &'static str,
    pub uuid: &'static str,
    pub firmware: Firmware,
    pub disk_gib: u64,
}

impl Spec {
    pub const MEMORY_MIB: u32 = 1024;
    pub const VCPUS: u32 = 2;
    pub const DISK_SERIAL: &'static str = "LABDISK1";

    pub fn disk(&self, world: &World) -> PathBuf {
        world.dir.join(format!("{}.raw", self.name))
    }

    /// The raw serial output, appended to over all starts of the server.
    pub fn serial_log(&self, world: &World) -> PathBuf {
        world.out.join("console.raw")
    }

    /// A new disk. The first and last 8 MiB, and 4 KiB in each 4 MiB between, are `0xA5`: data of the previous owner, which
    /// neither an image nor a wipe may let show through.
    pub fn make_disk(&self, world: &World) -> Res<()> {
        let path = self.disk(world);
        let fail = |e| format!("{}: {e}", path.display());
        let file = File::create(&path).map_err(fail)?;
        let size = self.disk_gib << 30;
        file.set_len(size).map_err(fail)?;
        for at in (0..size).step_by(BLOCK).filter(|at| is_old(*at, size)) {
            std::os::unix::fs::FileExt::write_all_at(&file, &OLD_BLOCK, at).map_err(fail)?;
        }
        Ok(())
    }

    /// Whether every byte of the disk is as [`Spec::make_disk`] left it.
    pub fn is_untouched(&self, world: &World) -> Res<bool> {
        let size = self.disk_gib << 30;
        let mut untouched = true;
        self.read_disk(world, |at, chunk| {
            untouched = chunk.chunks(BLOCK).zip((at..).step_by(BLOCK)).all(|(block, at)| {
                let expected = if is_old(at, size) { &OLD_BLOCK } else { &ZERO_BLOCK };
                *block == expected[..block.len()]
            });
            untouched
        })?;
        Ok(untouched)
    }

    /// The first block within an image of `image_bytes` that still holds the previous owner's data: images have holes, and what
    /// lay there before must not show through them.
    pub fn old_data_in_image(&self, world: &World, image_bytes: u64) -> Res<Option<u64>> {
        let mut found = None;
        self.read_disk(world, |at, chunk| {
            let blocks = chunk.chunks(BLOCK).zip((at..image_bytes).step_by(BLOCK));
            found = blocks.into_iter().find(|(block, _)| **block == OLD_BLOCK[..block.len()]).map(|(_, at)| at);
            found.is_none() && at < image_bytes
        })?;
        Ok(found)
    }

    /// Reads the disk from outside; the offset of the first byte that is not zero.
    pub fn first_data_on_disk(&self, world: &World) -> Res<Option<u64>> {
        let mut first = None;
        self.read_disk(world, |at, chunk| {
            let data = chunk.chunks(BLOCK).zip((at..).step_by(BLOCK)).find(|(block, _)| *block != &ZERO_BLOCK[..block.len()]);
            first = data.and_then(|(block, at)| block.iter().position(|b| *b != 0).map(|i| at + i as u64));
            first.is_none()
        })?;
        Ok(first)
    }

    /// Reads the disk file in pieces until its end, or until `go_on` says no.
    fn read_disk(&self, world: &World, mut go_on: impl FnMut(u64, &[u8]) -> bool) -> Res<()> {
        let path = self.disk(world);
        let fail = |e| format!("{}: {e}", path.display());
        let mut file = File::open(&path).map_err(fail)?;
        let mut chunk = vec![0_u8; 4 << 20];
        let mut at = 0_u64;
        loop {
            let mut len = 0;
            while len < chunk.len() {
                match file.read(&mut chunk[len..]).map_err(fail)? {
                    0 => break,
                    n => len += n,
                }
            }
            if len == 0 || !go_on(at, &chunk[..len]) {
                return Ok(());
            }
            at += len as u64;
        }
    }
}

/// What a previous owner left behind.
const OLD: u8 = 0xA5;
/// Compared block by block: byte by byte, an unoptimised test would take minutes for a disk.
const BLOCK: usize = 4096;
static OLD_BLOCK: [u8; BLOCK] = [OLD; BLOCK];
static ZERO_BLOCK: [u8; BLOCK] = [0; BLOCK];

/// Whether the previous owner's data lies in the block at `at` of a disk of `size` bytes.
fn is_old(at: u64, size: u64) -> bool {
    at < 8 << 20 || at >= size - (8 << 20) || at.is_multiple_of(4 << 20)
}

/// Where the server boots from when it is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootFrom {
    /// Network first, then the disk: also how our servers are set up in their firmware.
    Network,
    Disk,
}

/// QEMU without libvirt, for the servers behind ipmi_sim.
pub struct Qemu {
    proc: Proc,
    qmp: PathBuf,
}

impl Qemu {
    pub fn start(world: &World, spec: &Spec, from: BootFrom, ipmi_port: Option<u16>) -> Res<Self> {
        let qmp = world.sockets.join("qmp");
        let vars = world.dir.join(format!("{}.vars.fd", spec.name));
        if qmp.exists() {
            fs::remove_file(&qmp).map_err(|e| format!("{}: {e}", qmp.display()))?;
        }
        let (net, disk) = match from {
            BootFrom::Network => (1, 2),
            BootFrom::Disk => (2, 1),
        };
        let mut q = world.command("qemu-system-x86_64");
        q.args(["-name", spec.name, "-uuid", spec.uuid, "-display", "none", "-vga", "none", "-no-user-config", "-nodefaults"]);
        q.args(["-m", &Spec::MEMORY_MIB.to_string(), "-smp", &Spec::VCPUS.to_string(), "-accel", "tcg,thread=multi"]);
        q.args(["-smbios", &format!("type=1,manufacturer=LabCorp,product=LabServer-1,serial={}", spec.serial)]);
        let log = format!("file,id=ser0,path={},append=on", spec.serial_log(world).display());
        q.args(["-chardev", &log, "-serial", "chardev:ser0", "-device", "virtio-rng-pci"]);
        q.args(["-qmp", &format!("unix:{},server=on,wait=off", qmp.display())]);
        q.args(["-netdev", "tap,id=n0,ifname=tap0,script=no,downscript=no"]);
        let card = format!("virtio-net-pci,netdev=n0,mac={},bootindex={net}", spec.mac);
        match spec.firmware {
            // graphics=off: SeaBIOS copies its screen to the serial port. Its PXE is the card's option ROM (iPXE).
            Firmware::Bios => q.args(["-machine", "q35,graphics=off", "-device", &card]),
            // Without the option ROM, so that the client is the firmware's own network stack, as in servers.
            Firmware::Uefi | Firmware::UefiHttp => {
                if !vars.exists() {
                    fs::copy(OVMF_VARS, &vars).map_err(|e| format!("{OVMF_VARS}: {e}"))?;
                }
                q.args(["-machine", "q35", "-device", &format!("{card},romfile=")]);
                q.args(["-drive", &format!("if=pflash,unit=0,format=raw,readonly=on,file={OVMF_CODE}")]);
                q.args(["-drive", &format!("if=pflash,unit=1,format=raw,file={}", vars.display())])
            }
        };
        if spec.firmware == Firmware::UefiHttp {
            q.args(["-fw_cfg", "name=opt/org.tianocore/IPv4PXESupport,string=n"]);
            q.args(["-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n"]);
        }
        let file = spec.disk(world);
        q.args(["-drive", &format!("if=none,id=d0,format=raw,file={},cache=unsafe,discard=unmap,detect-zeroes=unmap", file.display())]);
        q.args(["-device", &format!("virtio-blk-pci,drive=d0,serial={},bootindex={disk}", Spec::DISK_SERIAL)]);
        if let Some(port) = ipmi_port {
            q.args(["-chardev", &format!("socket,id=ipmi0,host=127.0.0.1,port={port},reconnect=10")]);
            q.args(["-device", "ipmi-bmc-extern,id=bmc0,chardev=ipmi0", "-device", "isa-ipmi-kcs,bmc=bmc0"]);
        }
        let proc = Proc::start("qemu", &mut q, &world.out.join("qemu.log"))?;
        Ok(Self { proc, qmp })
    }

    pub fn is_running(&mut self) -> bool {
        self.proc.ended().is_none()
    }

    /// Presses the power button.
    pub fn press_power(&self) -> Res<()> {
        self.order("system_powerdown")
    }

    fn order(&self, execute: &str) -> Res<()> {
        let fail = |e: std::io::Error| format!("QMP {execute}: {e}");
        let mut socket = UnixStream::connect(&self.qmp).map_err(fail)?;
        socket.set_read_timeout(Some(Duration::from_secs(5))).map_err(fail)?;
        let mut lines = BufReader::new(socket.try_clone().map_err(fail)?).lines();
        for command in ["qmp_capabilities", execute] {
            writeln!(socket, "{{\"execute\":\"{command}\"}}").map_err(fail)?;
            // The greeting, events and answers come one to a line; an answer has "return" or "error".
            for line in lines.by_ref() {
                let line = line.map_err(fail)?;
                if line.contains("\"error\"") {
                    return Err(format!("QMP {execute}: {line}"));
                }
                if line.contains("\"return\"") {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Follows a raw serial log and writes `console.log`: one line each, without escape codes, with the seconds since the
/// test began.
pub struct Console {
    stop: Arc<AtomicBool>,
    follower: Option<JoinHandle<()>>,
}

impl Console {
    pub fn follow(raw: PathBuf, clean: &Path) -> Res<Self> {
        let mut out = File::create(clean).map_err(|e| format!("{}: {e}", clean.display()))?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let follower = std::thread::spawn(move || {
            let began = Instant::now();
            let (mut read, mut rest, mut quiet) = (0_usize, Vec::new(), 0_u32);
            loop {
                let last = told.load(Ordering::Relaxed);
                let bytes = fs::read(&raw).unwrap_or_default();
                let new = bytes.get(read..).unwrap_or_default();
                quiet = if new.is_empty() { quiet + 1 } else { 0 };
                rest.extend_from_slice(new);
                read = read.max(bytes.len());
                // Firmware seldom ends its lines: after a second of silence what stands there is shown, too.
                let ended = rest.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
                let keep = if last || quiet >= 4 { rest.len() } else { ended };
                let whole: Vec<u8> = rest.drain(..keep).collect();
                for line in without_escapes(&whole).split(['\r', '\n']).filter(|l| !l.trim().is_empty()) {
                    if writeln!(out, "{:8.2} {line}", began.elapsed().as_secs_f64()).is_err() {
                        return;
                    }
                }
                if last {
                    return;
                }
                std::thread::sleep(Duration::from_millis(250));
            }
        });
        Ok(Self { stop, follower: Some(follower) })
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(follower) = self.follower.take() {
            follower.join().ok();
        }
    }
}

/// OVMF and GRUB paint with ECMA-48 control sequences between the characters of a word.
fn without_escapes(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\x1b' {
            if !c.is_control() || c == '\n' || c == '\r' {
                out.push(c);
            }
            continue;
        }
        if chars.next() == Some('[') {
            // Parameters and intermediates, then one final byte in @ to ~.
            chars.by_ref().find(|c| ('@'..='~').contains(c));
        }
    }
    out
}

/// The version of a tool, or `None` if it is not there.
pub fn has_tool(name: &str) -> bool {
    output(Command::new("sh").args(["-c", &format!("PATH=$PATH:/usr/sbin:/sbin; command -v {name}")])).is_ok()
}
