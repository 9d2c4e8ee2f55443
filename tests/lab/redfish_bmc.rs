//! A server behind sushy-tools' Redfish emulator: libvirt keeps the server, sushy-emulator is its BMC. Both run in the
//! test's world, with private copies of every directory in which libvirt keeps system-wide state.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::net::{BRIDGE, World};
use crate::proc::{Proc, output, wait_for};
use crate::vm::{Firmware, OVMF_CODE, OVMF_VARS, SEABIOS, Spec};
use crate::{Res, lab_dir};

pub const ADDRESS: &str = "10.77.1.1";
pub const USER: &str = "admin";
pub const PASSWORD: &str = "password";

pub struct RedfishBmc {
    _emulator: Proc,
    _libvirtd: Proc,
}

/// The Python environment with sushy-tools, libvirt-python and bcrypt (`tests/setup` makes it).
pub fn venv() -> PathBuf {
    std::env::var_os("HOSTLER_VENV").map_or_else(|| lab_dir().join("venv"), PathBuf::from)
}

impl RedfishBmc {
    /// Plugs the server in: its BMC answers, the server itself is off.
    pub fn start(world: &World, spec: &Spec) -> Res<Self> {
        let libvirtd = start_libvirtd(world)?;
        define(world, spec)?;
        let emulator = start_emulator(world, spec)?;
        Ok(Self { _emulator: emulator, _libvirtd: libvirtd })
    }

    /// What the emulator says to curl: the second opinion on what Hostler did.
    pub fn get(&self, world: &World, path: &str) -> Res<String> {
        output(&mut curl(world, path))
    }
}

fn curl(world: &World, path: &str) -> Command {
    let mut command = world.command("curl");
    command.args(["-fksS", "-m", "20", "-u", &format!("{USER}:{PASSWORD}"), &format!("https://{ADDRESS}{path}")]);
    command
}

fn virsh(world: &World, args: &[&str]) -> Res<String> {
    output(world.inner_command("virsh").args(["-q", "-c", "qemu:///system"]).args(args))
}

fn start_libvirtd(world: &World) -> Res<Proc> {
    for dir in ["/run/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt"] {
        world.private_dir(dir)?;
    }
    let etc = world.private_dir("/etc/libvirt")?;
    let put = |name: &str, text: &str| fs::write(etc.join(name), text).map_err(|e| format!("{name}: {e}"));
    // No privilege separation, cgroups or logging daemon inside the namespaces. max_core 0: raising the limit needs
    // CAP_SYS_RESOURCE, which containers lack.
    put(
        "qemu.conf",
        "user = \"root\"\ngroup = \"root\"\ndynamic_ownership = 0\nremember_owner = 0\nsecurity_driver = \"none\"\n\
         security_default_confined = 0\nnamespaces = [ ]\ncgroup_controllers = [ ]\nstdio_handler = \"file\"\nmax_core = 0\n",
    )?;
    put("libvirtd.conf", "auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\n")?;
    // libvirtd looks its servers' processes up in /proc, so it needs the /proc of the ids it sees.
    let mut command = world.inner_command("unshare");
    command.args(["--mount", "sh", "-c", "mount -t proc proc /proc && exec /usr/sbin/libvirtd"]);
    let mut libvirtd = Proc::start("libvirtd", &mut command, &world.out.join("libvirtd.log"))?;
    wait_for("libvirtd", Duration::from_secs(60), || {
        libvirtd.check()?;
        Ok(virsh(world, &["version"]).ok())
    })?;
    // sushy-tools wants a pool of this name.
    let images = world.dir.join("images");
    fs::create_dir_all(&images).map_err(|e| format!("{}: {e}", images.display()))?;
    virsh(world, &["pool-define-as", "default", "dir", "--target", &images.display().to_string()])?;
    virsh(world, &["pool-start", "default"])?;
    Ok(libvirtd)
}

fn define(world: &World, spec: &Spec) -> Res<()> {
    // Loader and variable store are named one by one: with firmware='efi' sushy-tools cannot switch Secure Boot, and
    // Debian has no firmware descriptor for SeaBIOS. The rom element is off for UEFI so that the firmware's own PXE runs.
    // Not the Secure Boot build of OVMF: its variables live in system management mode, where two processors that wait for
    // each other under TCG took three minutes to a warm reset.
    let (os, rom) = match spec.firmware {
        Firmware::Bios => (format!("<loader readonly='yes' type='rom'>{SEABIOS}</loader>"), ""),
        Firmware::Uefi | Firmware::UefiHttp => (
            format!(
                "<loader readonly='yes' type='pflash' secure='no'>{OVMF_CODE}</loader>\
                 <nvram template='{OVMF_VARS}'>{}</nvram>",
                world.dir.join("images").join(format!("{}.nosecboot.fd", spec.name)).display()
            ),
            "<rom enabled='no'/>",
        ),
    };
    let xml = format!(
        "<domain type='qemu'><name>{name}</name><uuid>{uuid}</uuid><memory unit='MiB'>{memory}</memory><vcpu>{vcpus}</vcpu>
 <sysinfo type='smbios'><system><entry name='manufacturer'>LabCorp</entry><entry name='product'>LabServer-1</entry><entry name='serial'>{serial}</entry></system></sysinfo>
 <os><type arch='x86_64' machine='q35'>hvm</type>{os}<boot dev='network'/><boot dev='hd'/><smbios mode='sysinfo'/></os>
 <features><acpi/><apic/></features><on_poweroff>destroy</on_poweroff><on_reboot>restart</on_reboot><on_crash>destroy</on_crash>
 <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
 <disk type='file' device='disk'><driver name='qemu' type='raw' cache='unsafe' discard='unmap' detect_zeroes='unmap'/><source file='{disk}'/><target dev='vda' bus='virtio'/><serial>{disk_serial}</serial></disk>
 <interface type='bridge'><source bridge='{BRIDGE}'/><mac address='{mac}'/><model type='virtio'/>{rom}</interface>
 <serial type='file'><source path='{console}' append='on'/><target port='0'/></serial>
 <rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
 <memballoon model='none'/></devices></domain>",
        name = spec.name,
        uuid = spec.uuid,
        memory = Spec::MEMORY_MIB,
        vcpus = Spec::VCPUS,
        serial = spec.serial,
        disk = spec.disk(world).display(),
        disk_serial = Spec::DISK_SERIAL,
        mac = spec.mac,
        console = spec.serial_log(world).display(),
    );
    let path = world.dir.join("server.xml");
    fs::write(&path, xml).map_err(|e| format!("{}: {e}", path.display()))?;
    virsh(world, &["define", &path.display().to_string()]).map(drop)
}

fn start_emulator(world: &World, spec: &Spec) -> Res<Proc> {
    world.bmc_address(ADDRESS)?;
    let dir = world.dir.join("sushy");
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let at = |name: &str| dir.join(name).display().to_string();
    output(Command::new("openssl").args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=bmc"]).args([
        "-addext",
        &format!("subjectAltName=IP:{ADDRESS}"),
        "-keyout",
        &at("tls.key"),
        "-out",
        &at("tls.pem"),
    ]))?;
    let hash = "import sys,bcrypt; print(bcrypt.hashpw(sys.argv[1].encode(), bcrypt.gensalt(4)).decode())";
    let hash = output(Command::new(venv().join("bin/python")).args(["-c", hash, PASSWORD]))?;
    fs::write(dir.join("users"), format!("{USER}:{hash}")).map_err(|e| format!("{}: {e}", dir.display()))?;
    let conf = format!(
        "SUSHY_EMULATOR_LISTEN_IP = '{ADDRESS}'\nSUSHY_EMULATOR_LISTEN_PORT = 443\nSUSHY_EMULATOR_SSL_CERT = '{cert}'\n\
         SUSHY_EMULATOR_SSL_KEY = '{key}'\nSUSHY_EMULATOR_AUTH_FILE = '{users}'\nSUSHY_EMULATOR_LIBVIRT_URI = 'qemu:///system'\n\
         SUSHY_EMULATOR_STATE_DIR = '{state}'\n\
         SUSHY_EMULATOR_BOOT_LOADER_MAP = {{'UEFI': {{'x86_64': '{OVMF_CODE}'}}, 'Legacy': {{'x86_64': '{SEABIOS}'}}}}\n\
         SUSHY_EMULATOR_SECURE_BOOT_DISABLED_NVRAM = '{OVMF_VARS}'\n",
        cert = at("tls.pem"),
        key = at("tls.key"),
        users = at("users"),
        state = at("state"),
    );
    fs::write(dir.join("emulator.conf"), conf).map_err(|e| format!("{}: {e}", dir.display()))?;
    let program = venv().join("bin/sushy-emulator").display().to_string();
    let mut command = world.inner_command(&program);
    command.args(["--config", &at("emulator.conf")]);
    let mut emulator = Proc::start("sushy-emulator", &mut command, &world.out.join("bmc.log"))?;
    wait_for("sushy-emulator to show the server", Duration::from_secs(60), || {
        emulator.check()?;
        Ok(output(&mut curl(world, &format!("/redfish/v1/Systems/{}", spec.uuid))).ok())
    })?;
    Ok(emulator)
}
