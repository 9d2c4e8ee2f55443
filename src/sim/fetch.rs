//! Downloads of a simulated machine's firmware and iPXE: TFTP as EDK2 and option ROMs ask, HTTP as EDK2 and iPXE do.
//!
//! Files are read to their last byte and thrown away but for the head: a kernel is not run here.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::agent::link::chain;
use crate::sim::dhcp::Uplink;
use crate::sim::hardware::Rom;
use crate::sim::ipxe::Download;
use crate::wire::tftp::{DEFAULT_BLKSIZE, ErrorCode, TftpOptions, TftpPacket, TftpRequest, unwrap_block};

/// Scripts are smaller; of kernels and loaders only the head is looked at.
const HEAD_BYTES: usize = 64 << 10;
/// Larger than any kernel, ramdisk or loader: a server that never ends is not downloaded from for ever.
const MAX_BYTES: u64 = 2 << 30;
/// EDK2 asks 6 times in all (PXE_MTFTP_RETRIES) before PXE-E12.
const TFTP_TRIES: u32 = 6;
const TFTP_WAIT: Duration = Duration::from_secs(1);
/// Without one byte from an HTTP server.
const HTTP_SILENCE: Duration = Duration::from_secs(20);

/// Collects a download: counts all, keeps the head.
struct Sink {
    download: Download,
}

impl Sink {
    fn new(uri: &str) -> Self {
        Self { download: Download { uri: uri.to_owned(), size_bytes: 0, head: Vec::new() } }
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        let room = HEAD_BYTES - self.download.head.len();
        self.download.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.download.size_bytes += bytes.len() as u64;
        if self.download.size_bytes > MAX_BYTES {
            return Err(format!("the file has more than {MAX_BYTES} bytes"));
        }
        Ok(())
    }
}

/// Reads a file by TFTP from `server`, from the address `local`, with the options and habits of `rom`.
///
/// # Errors
/// The sentence that the ROM prints.
pub async fn tftp(server: SocketAddr, local: Ipv4Addr, name: &str, rom: Rom) -> Result<Download, String> {
    let options = match rom {
        Rom::EfiPxe | Rom::EfiHttp => {
            probe(server, local, name).await?;
            TftpOptions { blksize: Some(1468), windowsize: Some(4), ..TftpOptions::default() }
        }
        Rom::BiosPxe => TftpOptions { blksize: Some(1456), ..TftpOptions::default() },
        Rom::BiosIpxe => TftpOptions { blksize: Some(1432), tsize: Some(0), ..TftpOptions::default() },
    };
    Transfer::open(server, local).await?.read(name, options).await
}

/// EDK2's first request: how large is it? The transfer is then refused with error 8.
async fn probe(server: SocketAddr, local: Ipv4Addr, name: &str) -> Result<(), String> {
    let transfer = Transfer::open(server, local).await?;
    let options = TftpOptions { tsize: Some(0), blksize: Some(1468), windowsize: Some(4), timeout_secs: None };
    let mut buffer = [0; 1024];
    let request = TftpRequest::encode_read(name, &options);
    let (len, peer) = transfer.ask(&request, transfer.server, &mut buffer).await?;
    match TftpPacket::parse(&buffer[..len]).map_err(|e| e.to_string())? {
        TftpPacket::OptionAck(granted) if granted.tsize.is_some() => {
            let enough = TftpPacket::Error { code: ErrorCode::Options, message: "User aborted the transfer".into() };
            transfer.send(&enough.encode(), peer).await
        }
        TftpPacket::Error { message, .. } => Err(format!("PXE-E23: Client received TFTP error from server: {message}")),
        TftpPacket::OptionAck(_) | TftpPacket::Data { .. } | TftpPacket::Ack { .. } => {
            Err("PXE-E09: the TFTP server does not tell file sizes (tsize)".into())
        }
    }
}

struct Transfer {
    socket: UdpSocket,
    server: SocketAddr,
}

impl Transfer {
    async fn open(server: SocketAddr, local: Ipv4Addr) -> Result<Self, String> {
        let socket = UdpSocket::bind((local, 0)).await.map_err(|e| format!("no socket at {local}: {e}"))?;
        Ok(Self { socket, server })
    }

    async fn send(&self, packet: &[u8], to: SocketAddr) -> Result<(), String> {
        match self.socket.send_to(packet, to).await {
            Err(e) if e.kind() != std::io::ErrorKind::ConnectionRefused => Err(format!("cannot send: {e}")),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Sends until something comes back.
    async fn ask(&self, packet: &[u8], to: SocketAddr, buffer: &mut [u8]) -> Result<(usize, SocketAddr), String> {
        for _ in 0..TFTP_TRIES {
            self.send(packet, to).await?;
            match timeout(TFTP_WAIT, self.socket.recv_from(buffer)).await {
                Ok(Ok((len, peer))) if peer.ip() == to.ip() => return Ok((len, peer)),
                // A closed port is as good as silence; the pause keeps the tries apart.
                Ok(Err(_)) => tokio::time::sleep(TFTP_WAIT).await,
                Ok(Ok(_)) | Err(_) => {}
            }
        }
        Err(format!("PXE-E12: Could not detect network connection: {} is silent", self.server))
    }

    async fn read(&self, name: &str, asked: TftpOptions) -> Result<Download, String> {
        let mut buffer = vec![0; usize::from(asked.blksize.unwrap_or(DEFAULT_BLKSIZE)) + 64];
        let (mut len, peer) = self.ask(&TftpRequest::encode_read(name, &asked), self.server, &mut buffer).await?;
        let mut sink = Sink::new(name);
        let mut blksize = usize::from(DEFAULT_BLKSIZE);
        let mut windowsize = 1;
        let mut tsize = None;
        // The last block received in order, and the last one acknowledged.
        let (mut have, mut acked) = (0u64, 0u64);
        loop {
            let mut answer = None;
            match TftpPacket::parse(&buffer[..len]).map_err(|e| e.to_string())? {
                TftpPacket::OptionAck(granted) => {
                    blksize = usize::from(granted.blksize.unwrap_or(DEFAULT_BLKSIZE));
                    windowsize = u64::from(granted.windowsize.unwrap_or(1));
                    tsize = granted.tsize;
                    answer = Some(0);
                }
                TftpPacket::Data { block, data } if unwrap_block(block, have + 1) == Some(have + 1) => {
                    have += 1;
                    sink.take(data)?;
                    let last = data.len() < blksize;
                    if last || have - acked >= windowsize {
                        answer = Some(have);
                    }
                    if last {
                        self.send(&ack(have), peer).await?;
                        break;
                    }
                }
                // Out of order: a repeat, or a hole in the window. The last good block is acknowledged (RFC 7440).
                TftpPacket::Data { .. } => answer = Some(have),
                TftpPacket::Error { message, .. } => return Err(format!("PXE-E23: Client received TFTP error from server: {message}")),
                TftpPacket::Ack { .. } => return Err("PXE-E98: the server acknowledges instead of sending".into()),
            }
            if let Some(block) = answer {
                acked = block;
            }
            len = match answer {
                Some(block) => self.ask(&ack(block), peer, &mut buffer).await?.0,
                None => match timeout(TFTP_WAIT, self.socket.recv_from(&mut buffer)).await {
                    Ok(Ok((len, from))) if from == peer => len,
                    // The rest of the window is missing.
                    Ok(_) | Err(_) => {
                        acked = have;
                        self.ask(&ack(have), peer, &mut buffer).await?.0
                    }
                },
            };
        }
        match tsize {
            Some(size) if size != sink.download.size_bytes => Err(format!("{name} has {size} bytes and {} came", sink.download.size_bytes)),
            Some(_) | None => Ok(sink.download),
        }
    }
}

fn ack(block: u64) -> Vec<u8> {
    TftpPacket::Ack { block: (block & 0xffff) as u16 }.encode()
}

/// HTTP from one address of the machine.
#[derive(Clone, Debug)]
pub struct Http {
    client: reqwest::Client,
}

impl Http {
    /// `local` is the machine's address: the server knows its boots by it.
    ///
    /// # Errors
    /// If the client cannot be set up.
    pub fn from(local: Ipv4Addr, uplink: &Uplink, user_agent: &str) -> Result<Self, String> {
        let client = uplink
            .reach(reqwest::Client::builder())
            .local_address(std::net::IpAddr::V4(local))
            .user_agent(user_agent)
            // Debian's iPXE has no HTTPS, and a system's certificates take 10 ms and 1 MB to load.
            .tls_certs_only(Vec::new())
            .redirect(reqwest::redirect::Policy::limited(3))
            .connect_timeout(Duration::from_secs(5))
            .build();
        client.map(|client| Self { client }).map_err(|e| chain(&e))
    }

    /// # Errors
    /// The sentence that iPXE prints.
    pub async fn head(&self, uri: &str) -> Result<(), String> {
        self.answer(self.client.head(uri), uri).await.map(drop)
    }

    /// # Errors
    /// The sentence that iPXE prints.
    pub async fn get(&self, uri: &str) -> Result<Download, String> {
        let mut response = self.answer(self.client.get(uri), uri).await?;
        let promised = response.content_length();
        let mut sink = Sink::new(uri);
        loop {
            match timeout(HTTP_SILENCE, response.chunk()).await {
                Ok(Ok(Some(bytes))) => sink.take(&bytes)?,
                Ok(Ok(None)) => break,
                Ok(Err(e)) => return Err(format!("Connection reset: {}", chain(&e))),
                Err(_) => return Err("Connection timed out (http://ipxe.org/4c0a6035)".into()),
            }
        }
        match promised {
            Some(size) if size != sink.download.size_bytes => {
                Err(format!("{size} bytes were promised and {} came", sink.download.size_bytes))
            }
            Some(_) | None => Ok(sink.download),
        }
    }

    async fn answer(&self, request: reqwest::RequestBuilder, uri: &str) -> Result<reqwest::Response, String> {
        if uri.starts_with("https:") {
            return Err("Operation not supported (http://ipxe.org/3c092083)".into());
        }
        let response = match timeout(HTTP_SILENCE, request.send()).await {
            Ok(response) => response.map_err(|e| chain(&e))?,
            Err(_) => return Err("Connection timed out (http://ipxe.org/4c0a6035)".into()),
        };
        match response.status() {
            status if status.is_success() => Ok(response),
            reqwest::StatusCode::NOT_FOUND => Err("No such file or directory (http://ipxe.org/2d0c613b)".into()),
            reqwest::StatusCode::FORBIDDEN | reqwest::StatusCode::UNAUTHORIZED => {
                Err("Permission denied (http://ipxe.org/0216eb8f)".into())
            }
            status => Err(format!("Input/output error: HTTP {status} (http://ipxe.org/1d0c6139)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TFTP server for one file that loses the packets `lose` names, each once.
    async fn serve(file: Vec<u8>, lose: &'static [u64]) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let listen = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listen.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut lose = lose.to_vec();
            let mut buffer = [0; 1024];
            loop {
                let (len, peer) = listen.recv_from(&mut buffer).await.unwrap();
                let Ok(TftpRequest::Read { options, .. }) = TftpRequest::parse(&buffer[..len]) else { continue };
                let limits = crate::wire::tftp::TftpLimits { max_blksize: 1468, max_windowsize: 64, timeout: TFTP_WAIT };
                let (granted, params) = options.negotiate(file.len() as u64, &limits);
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
                let blocks: Vec<&[u8]> = {
                    let mut blocks: Vec<&[u8]> = file.chunks(params.blksize.into()).collect();
                    if file.len().is_multiple_of(usize::from(params.blksize)) {
                        blocks.push(&[]);
                    }
                    blocks
                };
                socket.send_to(&TftpPacket::OptionAck(granted).encode(), peer).await.unwrap();
                loop {
                    let Ok(Ok((len, _))) = timeout(Duration::from_secs(3), socket.recv_from(&mut buffer)).await else { break };
                    let Ok(TftpPacket::Ack { block }) = TftpPacket::parse(&buffer[..len]) else { break };
                    let from = unwrap_block(block, 0).unwrap();
                    if from >= blocks.len() as u64 {
                        break;
                    }
                    for n in from..(from + u64::from(params.windowsize)).min(blocks.len() as u64) {
                        if let Some(at) = lose.iter().position(|l| *l == n + 1) {
                            lose.remove(at);
                            continue;
                        }
                        let data = TftpPacket::Data { block: (n + 1) as u16, data: blocks[n as usize] };
                        socket.send_to(&data.encode(), peer).await.unwrap();
                    }
                }
            }
        });
        (address, task)
    }

    #[tokio::test]
    async fn every_rom_reads_a_file_whole() {
        for rom in [Rom::EfiPxe, Rom::BiosPxe, Rom::BiosIpxe] {
            // 1468 * 6 ends exactly on a block and on a window's border.
            for size in [0, 1, 1468 * 6, 30_000] {
                let file: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
                let (server, task) = serve(file.clone(), &[]).await;
                let download = tftp(server, Ipv4Addr::LOCALHOST, "a.efi", rom).await.unwrap();
                assert_eq!((download.size_bytes, download.head), (size, file), "{rom:?}");
                task.abort();
            }
        }
    }

    #[tokio::test]
    async fn lost_packets_are_asked_for_again() {
        let file: Vec<u8> = (0..20_000u32).map(|n| (n % 251) as u8).collect();
        let (server, task) = serve(file.clone(), &[2, 4, 14]).await;
        let download = tftp(server, Ipv4Addr::LOCALHOST, "a.efi", Rom::EfiPxe).await.unwrap();
        assert_eq!(download.head, file);
        task.abort();
    }
}
