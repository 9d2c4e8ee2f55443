//! `hostler demo --vms` as any user of a computer would run it: no root, no capability, no namespace, no device.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::cases::pxe;
use crate::proc::{Proc, wait_for};
use crate::{Res, lab_dir};

const BUILT: &str = env!("CARGO_BIN_EXE_hostler");
/// nobody and nogroup.
const USER: &str = "65534";
/// Generous: under TCG on a busy computer each of the four boots of a machine may take minutes.
const A_DEMO: Duration = Duration::from_secs(1200);
const SOON: Duration = Duration::from_secs(120);
const MACHINES: [&str; 2] = ["vm-1", "vm-2"];

/// A directory that the user without rights can read and write, gone at the end.
struct Place {
    dir: PathBuf,
    out: PathBuf,
}

impl Place {
    fn make(name: &str, image: &Path) -> Res<Self> {
        let place =
            Self { dir: std::env::temp_dir().join(format!("hl-{}-{name}", std::process::id())), out: lab_dir().join("out").join(name) };
        let fail = |e: std::io::Error| format!("{}: {e}", place.dir.display());
        for dir in [&place.dir, &place.out] {
            if dir.exists() {
                fs::remove_dir_all(dir).map_err(fail)?;
            }
        }
        fs::create_dir_all(&place.out).map_err(fail)?;
        for dir in [place.dir.join("pxe"), place.dir.join("tmp")] {
            fs::create_dir_all(dir).map_err(fail)?;
        }
        std::os::unix::fs::chown(place.dir.join("tmp"), USER.parse().ok(), USER.parse().ok()).map_err(fail)?;
        // The user cannot look into a clone in somebody's home.
        let mut wanted = vec![(PathBuf::from(BUILT), "hostler".to_owned()), (image.to_owned(), "image.raw.zst".to_owned())];
        wanted.extend(["vmlinuz", "ramdisk.zst", "local-x64.efi"].map(|name| (pxe().join(name), format!("pxe/{name}"))));
        for (from, name) in wanted {
            let to = place.dir.join(name);
            fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop)).map_err(|e| format!("{}: {e}", from.display()))?;
        }
        fs::set_permissions(&place.dir, fs::Permissions::from_mode(0o755)).map_err(fail)?;
        Ok(place)
    }

    /// The demo as the user without rights.
    fn demo(&self, args: &[&str], log: &str) -> Res<Proc> {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", USER, "--regid", USER, "--clear-groups", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"]);
        // Last: a change of credentials clears it.
        command.args(["--pdeathsig", "KILL", "--"]).arg(self.dir.join("hostler")).arg("demo").args(args);
        command.args(["--machines", "4", "--speed", "20", "--listen", "127.0.0.1:0"]);
        command.arg("--pxe").arg(self.dir.join("pxe")).arg("--vm-image").arg(self.dir.join("image.raw.zst"));
        command.current_dir(&self.dir).env("TMPDIR", self.dir.join("tmp")).env("HOME", "/nonexistent").env_remove("HOSTLER__STATE");
        Proc::start("hostler demo", &mut command, &self.out.join(log))
    }

    /// What a machine's console shows, kept as test output.
    fn console(&self, machine: &str) -> String {
        let states = fs::read_dir(self.dir.join("tmp")).into_iter().flatten().flatten();
        let text = states.filter_map(|state| fs::read(state.path().join("vms").join(machine).join("console.log")).ok()).last();
        let Some(text) = text else { return String::new() };
        fs::write(self.out.join(format!("{machine}.console")), &text).ok();
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if std::env::var_os("HOSTLER_LAB_KEEP").is_none() {
            fs::remove_dir_all(&self.dir).ok();
        }
    }
}

pub fn run(name: &str, image: &Path) -> Res<()> {
    let place = Place::make(name, image)?;
    deployed(name, &place)?;
    killed(name, &place)
}

fn deployed(name: &str, place: &Place) -> Res<()> {
    let mut demo = place.demo(&["--headless", "--until", "deployed", "--vms", "2", "--timeout", "1100"], "deployed.log")?;
    for right in ["Uid:\t65534\t65534\t65534", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"] {
        // setpriv itself may still be on its way.
        wait_for("the demo to have no rights", SOON, || {
            demo.check()?;
            let status = fs::read_to_string(format!("/proc/{}/status", demo.id())).unwrap_or_default();
            Ok(status.contains(right).then_some(()))
        })?;
    }
    let mut booted = [false; MACHINES.len()];
    let ended = wait_for("the demo to end", A_DEMO, || {
        for (machine, booted) in MACHINES.iter().zip(&mut booted) {
            // The deployed system's own words.
            *booted |= place.console(machine).contains(&format!("tiny: up host={machine}"));
        }
        Ok(demo.ended())
    })?;
    let log = fs::read_to_string(place.out.join("deployed.log")).map_err(|e| format!("the demo's output: {e}"))?;
    if !ended.success() {
        return Err(format!("the demo ended with {ended}: {log}"));
    }
    // Errors are logged to the same file.
    let summary: Value = serde_json::from_str(&log[log.find('{').unwrap_or(0)..]).map_err(|e| format!("{e}: {log}"))?;
    if summary["machines"]["active"] != 6 || summary["placeholders"] != serde_json::json!([]) {
        return Err(format!("not four simulated and two virtual machines are active: {summary:#}"));
    }
    if booted != [true; MACHINES.len()] {
        return Err(format!("not every machine's own system spoke on its console: {booted:?}"));
    }
    println!("lab {name}:   a UEFI and a BIOS machine run the image, {} s after the start", summary["total_secs"]);
    match fs::read_dir(place.dir.join("tmp")).map_err(|e| e.to_string())?.count() {
        0 => Ok(()),
        left => Err(format!("{left} files or directories were left in the temporary directory")),
    }
}

/// SIGKILL leaves the demo no time to end what it started.
fn killed(name: &str, place: &Place) -> Res<()> {
    let mut demo = place.demo(&["--vms", "2"], "killed.log")?;
    let qemus = wait_for("two machines that have power", SOON, || {
        demo.check()?;
        let qemus: Vec<u32> = children(demo.id()).into_iter().filter(|pid| is_qemu(*pid)).collect();
        Ok((qemus.len() == MACHINES.len()).then_some(qemus))
    })?;
    demo.kill();
    wait_for("the machines to end with the demo", SOON, || Ok(qemus.iter().all(|pid| !is_qemu(*pid)).then_some(())))?;
    println!("lab {name}:   demo killed with SIGKILL; its {} QEMUs are gone", qemus.len());
    Ok(())
}

/// The children of all threads of a process.
fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|p| p.parse().ok()).collect::<Vec<u32>>()).collect()
}

/// Whether this process is a QEMU that still runs, also while setpriv is about to become it; one that only waits to be reaped has no memory and no command line.
fn is_qemu(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| String::from_utf8_lossy(&line).contains("qemu-system"))
}
