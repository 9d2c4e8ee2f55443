//! Child processes that end with their owner, and waiting with a bound.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::Res;

/// A process we started. Killed by its id and reaped when dropped; the kernel kills it if this test dies first
/// (`setpriv --pdeathsig`, see [`crate::net::World::command`]).
pub struct Proc {
    child: Child,
    what: String,
}

impl Proc {
    /// Starts `command` with both outputs appended to `log`.
    pub fn start(what: &str, command: &mut Command, log: &Path) -> Res<Self> {
        let out = File::options().create(true).append(true).open(log).map_err(|e| format!("{}: {e}", log.display()))?;
        let err = out.try_clone().map_err(|e| format!("{}: {e}", log.display()))?;
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.map_err(|e| format!("cannot start {what}: {e}"))?;
        Ok(Self { child, what: what.to_owned() })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// `Some` once the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// An error if the process has ended; for use inside waits.
    pub fn check(&mut self) -> Res<()> {
        match self.ended() {
            None => Ok(()),
            Some(status) => Err(format!("{} ended by itself: {status}", self.what)),
        }
    }

    /// SIGKILL, and wait for it to be gone.
    pub fn kill(&mut self) {
        // An error means that it is gone already, which is what we want.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asks `probe` every 200 ms until it gives a value, an error, or `limit` is over.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Res<Option<T>>) -> Res<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(value) = probe().map_err(|e| format!("while waiting for {what}: {e}"))? {
            return Ok(value);
        }
        if Instant::now() > end {
            return Err(format!("waited {} s for {what} in vain", limit.as_secs()));
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// Runs a command to its end; its output, or an error with what it said.
pub fn output(command: &mut Command) -> Res<String> {
    let shown = format!("{command:?}");
    let out = command.stdin(Stdio::null()).output().map_err(|e| format!("{shown}: {e}"))?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    if out.status.success() {
        return Ok(text);
    }
    Err(format!("{shown}: {}\n{text}{}", out.status, String::from_utf8_lossy(&out.stderr)))
}
