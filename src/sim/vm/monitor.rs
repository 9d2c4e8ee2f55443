//! QEMU's monitor (QMP: one JSON object to a line): presses the power button, and hears why the machine stopped.

use std::io;

use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// QEMU's events and answers are a few hundred bytes.
const LINE_BYTES: usize = 64 << 10;

/// Why a machine stopped by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The guest restarts: QEMU is started with `-no-reboot`, so that the next boot begins as the BMC was told.
    Restart,
    PowerOff,
    /// QEMU ended without saying why.
    Unknown,
}

#[derive(Deserialize)]
struct Line {
    event: Option<String>,
    data: Option<Data>,
}

#[derive(Deserialize)]
struct Data {
    reason: Option<String>,
}

/// Speaks with QEMU until it ends. Each message on `button` is one press of the power button.
///
/// # Errors
/// When the monitor cannot be written to, or says more than a monitor does.
pub async fn follow(mut socket: UnixStream, button: &mut mpsc::Receiver<()>) -> io::Result<Stopped> {
    socket.write_all(b"{\"execute\":\"qmp_capabilities\"}\n").await?;
    let mut stopped = Stopped::Unknown;
    let mut line = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        tokio::select! {
            len = socket.read(&mut buffer) => {
                let len = match len {
                    Ok(0) => return Ok(stopped),
                    Ok(len) => len,
                    // QEMU is gone with something unread.
                    Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Ok(stopped),
                    Err(e) => return Err(e),
                };
                for byte in &buffer[..len] {
                    match byte {
                        b'\n' => {
                            stopped = reason(&line).unwrap_or(stopped);
                            line.clear();
                        }
                        _ if line.len() >= LINE_BYTES => return Err(io::Error::other("QEMU's monitor does not end its line")),
                        byte => line.push(*byte),
                    }
                }
            }
            Some(()) = button.recv() => socket.write_all(b"{\"execute\":\"system_powerdown\"}\n").await?,
        }
    }
}

/// What a line says about the end; `None` if it is about something else.
fn reason(line: &[u8]) -> Option<Stopped> {
    let line: Line = serde_json::from_slice(line).ok()?;
    if line.event.as_deref() != Some("SHUTDOWN") {
        return None;
    }
    match line.data?.reason?.as_str() {
        "guest-reset" => Some(Stopped::Restart),
        "guest-shutdown" => Some(Stopped::PowerOff),
        _ => Some(Stopped::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Recorded from QEMU 7.2.
    const RESET: &str = r#"{"timestamp": {"seconds": 1795540452, "microseconds": 850346}, "event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-reset"}}"#;

    #[test]
    fn a_restart_is_told_from_a_power_off() {
        assert_eq!(reason(RESET.as_bytes()), Some(Stopped::Restart));
        assert_eq!(reason(RESET.replace("guest-reset", "guest-shutdown").as_bytes()), Some(Stopped::PowerOff));
        assert_eq!(reason(RESET.replace("guest-reset", "host-signal").as_bytes()), Some(Stopped::Unknown));
        for other in [r#"{"return": {}}"#, r#"{"event": "RESET", "data": {"reason": "guest-reset"}}"#, "{", ""] {
            assert_eq!(reason(other.as_bytes()), None);
        }
    }

    #[tokio::test]
    async fn the_button_is_passed_on_and_the_reason_is_kept_until_the_end() {
        let (ours, mut qemu) = UnixStream::pair().unwrap();
        let (press, mut button) = mpsc::channel(1);
        press.send(()).await.unwrap();
        let following = tokio::spawn(async move { follow(ours, &mut button).await });
        let mut said = Vec::new();
        while !said.windows(16).any(|w| w == b"system_powerdown") {
            assert!(qemu.read_buf(&mut said).await.unwrap() > 0);
        }
        qemu.write_all(format!("{RESET}\r\n{{\"return\": {{}}}}\r\n").as_bytes()).await.unwrap();
        drop(qemu);
        assert_eq!(following.await.unwrap().unwrap(), Stopped::Restart);
    }

    #[tokio::test]
    async fn a_line_without_end_is_refused() {
        let (ours, mut qemu) = UnixStream::pair().unwrap();
        let (_press, mut button) = mpsc::channel(1);
        let following = tokio::spawn(async move { follow(ours, &mut button).await });
        // The reader may hang up in the middle.
        while qemu.write_all(&[b'x'; 4096]).await.is_ok() {}
        assert!(following.await.unwrap().is_err());
    }
}
