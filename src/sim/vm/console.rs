//! A virtual machine's serial console: a file for whoever wants to read along, and its last line for everybody. What QEMU
//! itself complains about comes here too.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

/// A guest that babbles must not fill the disk.
const FILE_CAP: u64 = 8 << 20;
const LINE_CHARS: usize = 160;

pub struct Console {
    path: PathBuf,
    screen: Mutex<Screen>,
}

impl Console {
    pub fn new(path: PathBuf) -> Self {
        Self { path, screen: Mutex::default() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last line with something on it.
    pub fn last_line(&self) -> String {
        self.lock().last_line().to_owned()
    }

    /// A line that is not the guest's.
    pub fn say(&self, line: &str) {
        self.lock().show(format!("\n{line}\n").as_bytes());
    }

    /// Follows `output` to its end. A file that cannot be written stops growing; QEMU would stand still if nobody read on.
    pub async fn follow(&self, mut output: impl AsyncRead + Unpin) {
        let mut file = match self.open().await {
            Ok(opened) => Some(opened),
            Err(e) => {
                tracing::warn!(file = %self.path.display(), error = %e, "a virtual machine's console is not recorded");
                None
            }
        };
        let mut buffer = [0; 4096];
        loop {
            let len = match output.read(&mut buffer).await {
                Ok(len) if len > 0 => len,
                Ok(_) | Err(_) => return,
            };
            self.lock().show(&buffer[..len]);
            if let Some((opened, room)) = &mut file {
                let kept = usize::try_from(*room).unwrap_or(usize::MAX).min(len);
                *room -= kept as u64;
                if let Err(e) = append(opened, &buffer[..kept]).await {
                    tracing::warn!(file = %self.path.display(), error = %e, "a virtual machine's console is recorded no further");
                    file = None;
                }
            }
        }
    }

    async fn open(&self) -> io::Result<(File, u64)> {
        let file = tokio::fs::OpenOptions::new().create(true).append(true).open(&self.path).await?;
        let room = FILE_CAP.saturating_sub(file.metadata().await?.len());
        Ok((file, room))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Screen> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn append(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    file.write_all(bytes).await?;
    file.flush().await
}

/// Enough of a terminal to know its last line: control sequences (ECMA-48) are left out, each `\r` and `\n` ends a line.
#[derive(Debug, Default)]
struct Screen {
    whole: String,
    growing: String,
    sequence: Sequence,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sequence {
    #[default]
    None,
    /// After ESC.
    Begun,
    /// After ESC [: parameters until a final byte from @ to ~.
    Control,
}

impl Screen {
    fn show(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.sequence = match (self.sequence, byte) {
                (Sequence::None, 0x1b) => Sequence::Begun,
                (Sequence::None, b'\r' | b'\n') => {
                    if !self.growing.trim().is_empty() {
                        self.whole = std::mem::take(&mut self.growing);
                    }
                    self.growing.clear();
                    Sequence::None
                }
                // A guest's bytes go to the operator's terminal: nothing but plain characters.
                (Sequence::None, b' '..=b'~') => {
                    if self.growing.len() < LINE_CHARS {
                        self.growing.push(char::from(*byte));
                    }
                    Sequence::None
                }
                (Sequence::None, _) => Sequence::None,
                (Sequence::Begun, b'[') => Sequence::Control,
                (Sequence::Begun, _) | (Sequence::Control, b'@'..=b'~') => Sequence::None,
                (Sequence::Control, _) => Sequence::Control,
            };
        }
    }

    fn last_line(&self) -> &str {
        let growing = self.growing.trim();
        if growing.is_empty() { self.whole.trim() } else { growing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn screen(bytes: &[u8]) -> Screen {
        let mut screen = Screen::default();
        screen.show(bytes);
        screen
    }

    #[test]
    fn the_last_line_is_the_last_one_with_something_on_it() {
        assert_eq!(screen(b"one\r\n\x1b[0;1mtwo\x1b[0m\r\n   \r\n").last_line(), "two");
        assert_eq!(screen(b"one\r\nConfiguring (net0)...").last_line(), "Configuring (net0)...");
    }

    #[test]
    fn a_guest_cannot_reach_the_operators_terminal() {
        let line = screen(b"\x1b]0;title\x07\x9b31mred\xff\x00 \x1b[").last_line().to_owned();
        assert!(line.chars().all(|c| (' '..='~').contains(&c)), "{line:?}");
        assert!(screen(&[b'x'; 100_000]).last_line().len() <= LINE_CHARS);
    }

    #[tokio::test]
    async fn the_file_ends_at_its_cap_and_the_line_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        let console = Console::new(dir.path().join("console.log"));
        let long = [vec![b'a'; usize::try_from(FILE_CAP).unwrap()], b"\nthe end\n".to_vec()].concat();
        console.follow(&long[..]).await;
        assert_eq!(std::fs::metadata(console.path()).unwrap().len(), FILE_CAP);
        assert_eq!(console.last_line(), "the end");
    }
}
