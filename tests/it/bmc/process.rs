//! Programs we did not write: found, started, waited for, ended.

use std::net::{TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::support::skipped;

/// A child that ends with the test.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(e) = self.0.kill().and_then(|()| self.0.wait()) {
            eprintln!("could not end child {}: {e}", self.0.id());
        }
    }
}

/// The program, or `None` after saying that the test is skipped.
pub fn program(name: &str) -> Option<PathBuf> {
    let folders = std::env::var("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).chain(["/usr/sbin".into(), "/sbin".into()]).map(|dir| dir.join(name)).find(|p| p.is_file());
    if found.is_none() {
        skipped(&format!("{name} is not installed (tests/setup installs it)"));
    }
    found
}

/// A program of the Python environment of the tests.
pub fn venv(name: &str) -> Option<PathBuf> {
    let venv =
        std::env::var_os("HOSTLER_VENV").map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("target/lab/venv"), PathBuf::from);
    let found = Some(venv.join("bin").join(name)).filter(|p| p.is_file());
    if found.is_none() {
        skipped(&format!("{name} is not in {} (tests/setup makes it; HOSTLER_VENV names another)", venv.display()));
    }
    found
}

pub fn free_tcp_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn free_udp_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn spawn(command: &mut Command, log: &Path) -> Running {
    let out = std::fs::File::create(log).unwrap();
    let err = out.try_clone().unwrap();
    Running(command.stdin(Stdio::null()).stdout(out).stderr(err).spawn().unwrap())
}

/// Waits until a TCP port accepts, 60 s at most (Python starts slowly on a loaded machine).
pub fn wait_for_tcp(port: u16, log: &Path) {
    wait_for(|| TcpStream::connect(("127.0.0.1", port)).is_ok(), log);
}

pub fn wait_for(ready: impl Fn() -> bool, log: &Path) {
    let end = Instant::now() + Duration::from_secs(60);
    while !ready() {
        assert!(Instant::now() < end, "it did not start: {}", std::fs::read_to_string(log).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
