//! The TFTP load client: one thread a client, plain receives, every byte compared with the file. The same for every
//! server, so it is the floor under all of them.

use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use hostler::wire::tftp::{TftpOptions, TftpPacket, TftpRequest};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// As in the recorded peer figures: 1 s of silence, then once more, 20 times.
const SILENCE: Duration = Duration::from_secs(1);
const TRIES: u32 = 20;

struct Plan {
    at: SocketAddr,
    name: String,
    file: Vec<u8>,
    fetches: usize,
    options: TftpOptions,
}

/// Fetches `file` by its base name `fetches` times in each of `clients` threads, and prints
/// `mb_per_s=… files_per_s=… p99_ms=… repeats=… files=…`.
pub fn run(at: SocketAddr, file: &Path, options: &[&str]) -> Result<(), Failure> {
    let option =
        |name: &str| options.iter().position(|o| *o == name).and_then(|i| options.get(i + 1)).ok_or_else(|| format!("{name} is missing"));
    let clients: usize = option("--clients")?.parse()?;
    let plan = Arc::new(Plan {
        at,
        name: file.file_name().and_then(|n| n.to_str()).ok_or("a file without a name")?.to_owned(),
        file: std::fs::read(file)?,
        fetches: option("--fetches")?.parse()?,
        options: TftpOptions {
            blksize: Some(option("--blksize")?.parse()?),
            windowsize: Some(option("--windowsize")?.parse()?).filter(|w| *w > 1),
            ..TftpOptions::default()
        },
    });
    let gate = Arc::new(Barrier::new(clients + 1));
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            let (plan, gate) = (Arc::clone(&plan), Arc::clone(&gate));
            std::thread::spawn(move || {
                gate.wait();
                (0..plan.fetches).map(|_| fetch(&plan)).collect::<Result<Vec<_>, Failure>>()
            })
        })
        .collect();
    gate.wait();
    let began = Instant::now();
    let (mut times, mut repeats) = (Vec::new(), 0);
    for thread in threads {
        for (took, again) in thread.join().map_err(|_| "a client thread panicked")?? {
            times.push(took);
            repeats += again;
        }
    }
    let secs = began.elapsed().as_secs_f64();
    times.sort();
    let p99 = times[(times.len() * 99 / 100).min(times.len() - 1)].as_secs_f64() * 1000.0;
    let files = times.len();
    let mb = files as f64 * plan.file.len() as f64 / 1e6 / secs;
    println!("mb_per_s={mb:.1} files_per_s={:.1} p99_ms={p99:.1} repeats={repeats} files={files}", files as f64 / secs);
    Ok(())
}

fn fetch(plan: &Plan) -> Result<(Duration, u32), Failure> {
    let began = Instant::now();
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.set_read_timeout(Some(SILENCE))?;
    let request = TftpRequest::encode_read(&plan.name, &plan.options);
    socket.send_to(&request, plan.at)?;
    let mut buffer = vec![0; 65_600];
    let (mut peer, mut blksize, mut window) = (None, 512, 1);
    let (mut block, mut in_window, mut at, mut repeats, mut silent) = (0u16, 0, 0, 0, 0);
    // One complaint for each gap: every stray packet of the window would call for the whole window again.
    let mut complained = false;
    loop {
        let (len, from) = match socket.recv_from(&mut buffer) {
            Ok(got) => got,
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                (silent, repeats, in_window, complained) = (silent + 1, repeats + 1, 0, false);
                if silent > TRIES {
                    return Err(format!("{} is silent at byte {at}", plan.at).into());
                }
                match peer {
                    Some(peer) => socket.send_to(&TftpPacket::Ack { block }.encode(), peer)?,
                    None => socket.send_to(&request, plan.at)?,
                };
                continue;
            }
            Err(e) => return Err(e.into()),
        };
        if *peer.get_or_insert(from) != from {
            continue;
        }
        silent = 0;
        match TftpPacket::parse(&buffer[..len])? {
            TftpPacket::OptionAck(granted) => {
                blksize = granted.blksize.map_or(512, usize::from);
                window = granted.windowsize.unwrap_or(1);
                socket.send_to(&TftpPacket::Ack { block: 0 }.encode(), from)?;
            }
            TftpPacket::Data { block: got, data } if got == block.wrapping_add(1) => {
                if plan.file.get(at..at + data.len()) != Some(data) {
                    return Err(format!("{} sent other bytes at {at}", plan.at).into());
                }
                (block, at, in_window, complained) = (got, at + data.len(), in_window + 1, false);
                let end = data.len() < blksize;
                if end || in_window >= window {
                    in_window = 0;
                    socket.send_to(&TftpPacket::Ack { block }.encode(), from)?;
                }
                if end {
                    return if at == plan.file.len() { Ok((began.elapsed(), repeats)) } else { Err("the file is cut off".into()) };
                }
            }
            TftpPacket::Data { block: got, .. } => {
                // Ahead of us: something was lost. Behind us: an echo, only the lock-step client must answer it.
                if !complained && got.wrapping_sub(block) < 0x8000 {
                    (in_window, complained, repeats) = (0, true, repeats + 1);
                    socket.send_to(&TftpPacket::Ack { block }.encode(), from)?;
                }
            }
            TftpPacket::Error { message, .. } => return Err(format!("{}: {message}", plan.at).into()),
            TftpPacket::Ack { .. } => return Err("a server sent an ACK".into()),
        }
    }
}
