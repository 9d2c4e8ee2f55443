//! What people see: sentences on every console of the kernel, and the same lines in the log to the server.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::libc;

use crate::agent::link::Outbox;
use crate::agent::probe::disk::short_text;

/// Cheap to clone; writes whole lines.
#[derive(Clone)]
pub struct Console(Arc<Mutex<State>>);

struct State {
    ttys: Vec<File>,
    outbox: Option<Outbox>,
    /// Lines said before there was a server to tell.
    early: Vec<(f64, String)>,
}

impl Console {
    /// Opens every active console (`/sys/class/tty/console/active`: for example `tty0 ttyS0`), or `/dev/console`.
    pub fn open(sys: &Path, dev: &Path) -> Self {
        let active = short_text(&sys.join("class/tty/console/active")).unwrap_or_default();
        let open = |name: &str| {
            // A serial port without carrier must not block us.
            OpenOptions::new().write(true).custom_flags(libc::O_NOCTTY | libc::O_NONBLOCK).open(dev.join(name)).ok()
        };
        let mut ttys: Vec<File> = active.split_whitespace().filter_map(open).collect();
        if ttys.is_empty() {
            ttys.extend(open("console"));
        }
        Self(Arc::new(Mutex::new(State { ttys, outbox: None, early: Vec::new() })))
    }

    /// From now on lines also go to the server, beginning with those already said.
    pub fn attach(&self, outbox: Outbox) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (at, line) in state.early.drain(..) {
            outbox.log(at, "info", &line);
        }
        state.outbox = Some(outbox);
    }

    /// Shows a sentence and logs it.
    pub fn say(&self, text: &str) {
        self.line("info", text);
    }

    /// As [`Console::say`], for what went wrong.
    pub fn complain(&self, text: &str) {
        self.line("error", text);
    }

    /// Shows a line without logging it: progress, which the server knows better.
    pub fn show(&self, text: &str) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        write_line(&mut state.ttys, text);
    }

    fn line(&self, level: &str, text: &str) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        write_line(&mut state.ttys, text);
        let at = uptime_secs();
        match &state.outbox {
            Some(outbox) => outbox.log(at, level, text),
            None => state.early.push((at, text.to_owned())),
        }
    }
}

fn write_line(ttys: &mut [File], text: &str) {
    // Text from the network must not steer a terminal.
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let line = format!("hostler [{:7.1}] {text}\n", uptime_secs());
    for tty in ttys {
        let mut rest = line.as_bytes();
        // A full serial buffer drains at 115200 baud in a few ms; a dead one must not stop the work.
        for _ in 0..100 {
            match tty.write(rest) {
                Ok(n) if n == rest.len() => break,
                Ok(n) => rest = &rest[n..],
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

/// Seconds since the kernel started.
pub fn uptime_secs() -> f64 {
    let text = short_text(Path::new("/proc/uptime")).unwrap_or_default();
    text.split_whitespace().next().and_then(|secs| secs.parse().ok()).unwrap_or(0.0)
}

/// Sends kernel messages of severity err and worse to the server, for as long as the machine runs.
pub fn follow_kernel_log(dev: &Path, outbox: Outbox) {
    let Ok(mut kmsg) = File::open(dev.join("kmsg")) else {
        return;
    };
    std::thread::spawn(move || {
        let mut record = [0; 8192];
        loop {
            match kmsg.read(&mut record) {
                Ok(0) => return,
                Ok(n) => {
                    if let Some((at, level, text)) = parse_kmsg(&String::from_utf8_lossy(&record[..n])) {
                        outbox.log(at, level, &format!("kernel: {text}"));
                    }
                }
                // EPIPE: messages were overwritten before we read them; the next read goes on.
                Err(e) if e.raw_os_error() == Some(libc::EPIPE) => {}
                Err(_) => return,
            }
        }
    });
}

/// `3,339,5140900,-;NET: text`: priority, sequence, microseconds, flags (Documentation/ABI/testing/dev-kmsg).
fn parse_kmsg(record: &str) -> Option<(f64, &'static str, &str)> {
    let (head, text) = record.split_once(';')?;
    let mut fields = head.split(',');
    let severity = fields.next()?.parse::<u32>().ok()? & 7;
    let micros: f64 = fields.nth(1)?.parse().ok()?;
    let text = text.lines().next().unwrap_or_default();
    (severity <= 3).then_some((micros / 1e6, "error", text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kernel_errors_are_taken_from_the_log() {
        let line = "3,339,5140900,-;ata1.00: exception Emask 0x0\n SUBSYSTEM=scsi\n";
        assert_eq!(parse_kmsg(line), Some((5.1409, "error", "ata1.00: exception Emask 0x0")));
        assert_eq!(parse_kmsg("6,1,2,-;Linux version 6.1"), None);
        assert_eq!(parse_kmsg("garbage"), None);
    }
}
