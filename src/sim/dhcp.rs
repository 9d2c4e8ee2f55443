//! The DHCP client of a simulated machine's firmware and of its iPXE.
//!
//! A real client broadcasts from port 68. Ours stands behind a relay agent on loopback that is not on port 67: every
//! request carries giaddr and option 82 with sub-option 19 (RFC 8357), so the server answers the port it came from.
//! What is in the packets was recorded from real clients (tests/fixtures/pcaps).

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::time::Instant;

use crate::domain::id::Mac;
use crate::sim::hardware::{Hardware, Rom};
use crate::sim::pace::Pace;
use crate::wire::dhcp::{Address, BootFile, DhcpReply, DhcpRequest, Relay, ReplyKind, RequestKind, Speaker, VendorClass};

/// Where the machines' network leads.
#[derive(Clone, Copy, Debug)]
pub struct Uplink {
    /// The DHCP server.
    pub dhcp: SocketAddrV4,
    /// Where UEFI asks for boot information when a proxy offer names no file (port 4011 on a real network).
    pub pxe: Option<SocketAddrV4>,
    /// TFTP port at the boot server's address (69 on a real network).
    pub tftp_port: u16,
    /// The relay agent's address, on the loopback network.
    pub relay: Ipv4Addr,
    /// Set where the machines know the service by another address than its own.
    pub door: Option<Door>,
}

/// Address translation between the machines and the service: what they send to `known_as` goes to its sockets.
#[derive(Clone, Copy, Debug)]
pub struct Door {
    pub known_as: Ipv4Addr,
    pub http: SocketAddrV4,
}

impl Uplink {
    /// Where the TFTP server that machines know as `server` really answers.
    pub fn tftp(&self, server: Ipv4Addr) -> SocketAddr {
        let translated = self.door.filter(|door| door.known_as == server);
        SocketAddr::from((translated.map_or(server, |door| *door.http.ip()), self.tftp_port))
    }

    /// An HTTP client for machines: the door is to it as a proxy, so that URLs stay what the machines were told.
    pub fn reach(&self, client: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
        let client = client.no_proxy();
        let Some(door) = self.door else { return client };
        let (known_as, through) = (door.known_as.to_string(), format!("http://{}", door.http));
        client.proxy(reqwest::Proxy::custom(move |url| (url.host_str() == Some(known_as.as_str())).then(|| through.clone())))
    }
}

/// Another DHCP server in the same network that nobody told Hostler about. It is faster, and gives addresses only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignServer {
    pub server: Ipv4Addr,
    pub gives: Ipv4Addr,
}

/// What the exchange ended with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub address: Ipv4Addr,
    pub server: Ipv4Addr,
    pub boot: Option<BootFile>,
    /// UEFI HTTP boot: the file is a URL.
    pub vendor_class: VendorClass,
}

/// Why there is no lease, as the ROM prints it.
#[derive(Debug, thiserror::Error)]
pub enum NoLease {
    #[error("PXE-E51: No DHCP or proxyDHCP offers were received")]
    NoOffers,
    #[error("PXE-E18: the DHCP server offered an address and then did not acknowledge it")]
    NoAck,
    #[error("PXE-E16: No valid offer received")]
    ProxySilent,
    #[error("cannot use the network: {0}")]
    Socket(#[from] std::io::Error),
}

/// Seconds that EDK2 listens after each DISCOVER (seen: it collects offers for about 4 s even when the first is good).
const FIRMWARE_WAITS: [u64; 4] = [4, 8, 16, 32];
/// iPXE's DHCP_DISC_START_TIMEOUT_SEC and doubling, up to 10.
const IPXE_WAITS: [u64; 4] = [1, 2, 4, 8];

/// One client in one stage of a boot.
pub struct Client<'a> {
    pub hardware: &'a Hardware,
    pub uplink: &'a Uplink,
    pub pace: Pace,
    pub speaker: Speaker,
    pub foreign: Option<ForeignServer>,
    /// Differs between exchanges.
    pub xid: u32,
}

impl Client<'_> {
    /// DISCOVER to ACK, and port 4011 where a proxy offer leads there.
    ///
    /// # Errors
    /// [`NoLease`].
    pub async fn exchange(&self) -> Result<Lease, NoLease> {
        let socket = UdpSocket::bind((self.uplink.relay, 0)).await?;
        let waits = match self.speaker {
            Speaker::Firmware => FIRMWARE_WAITS,
            Speaker::Ipxe => IPXE_WAITS,
        };
        let mut secs = 0u16;
        let mut offered = false;
        for wait in waits {
            let discover = self.message(RequestKind::Discover, secs);
            send(&socket, self.uplink.dhcp, &discover).await?;
            let offers = self.offers(&socket, Duration::from_secs(wait)).await?;
            secs = secs.saturating_add(u16::try_from(wait).unwrap_or(u16::MAX));
            let Some((address, offer)) = offers.iter().find_map(|o| Some((yiaddr(o)?, o))) else { continue };
            offered = true;
            let proxy = offers.iter().find(|o| yiaddr(o).is_none() && o.vendor_class != VendorClass::Other);
            let Some(ack) = self.request(&socket, offer, address, secs).await? else { continue };
            let mut lease = Lease { address, server: ack.server_id, boot: ack.boot, vendor_class: ack.vendor_class };
            if let (None, Some(proxy)) = (&lease.boot, proxy) {
                self.take_proxy(proxy, &mut lease).await?;
            }
            return Ok(lease);
        }
        Err(if offered { NoLease::NoAck } else { NoLease::NoOffers })
    }

    fn message(&self, kind: RequestKind, secs: u16) -> DhcpRequest {
        let hardware = self.hardware;
        let mac = hardware.boot_mac;
        let (arch, undi, class) = match hardware.rom {
            Rom::EfiPxe => (7, [1, 3, 0], VendorClass::Pxe),
            Rom::EfiHttp => (16, [1, 3, 0], VendorClass::Http),
            Rom::BiosPxe | Rom::BiosIpxe => (0, [1, 2, 1], VendorClass::Pxe),
        };
        // The type byte, then the UUID in SMBIOS byte order: its first three fields are little-endian.
        let uuid = [&[0][..], &hardware.uuid.0.to_bytes_le()].concat();
        let common = DhcpRequest {
            kind,
            secs,
            hops: 1,
            giaddr: Some(self.uplink.relay),
            relay: Some(Relay::with_source_port()),
            client_uuid: Some(uuid),
            max_size: Some(1472),
            ..DhcpRequest::discover(mac, self.xid)
        };
        match self.speaker {
            // iPXE names the architecture it was built for: on UEFI 7 with its own UNDI version, also after HTTP boot.
            Speaker::Ipxe => DhcpRequest {
                speaker: Speaker::Ipxe,
                vendor_class: VendorClass::Pxe,
                archs: vec![if arch == 0 { 0 } else { 7 }],
                undi: Some(if arch == 0 { undi } else { [1, 3, 10] }),
                client_id: Some([&[1][..], &mac.0].concat()),
                ..common
            },
            Speaker::Firmware => {
                let mut wanted = common.wanted.clone();
                if class == VendorClass::Http {
                    wanted.push(235);
                }
                // EDK2 asks for broadcast and, in its REQUEST, announces the largest datagram there is.
                let efi = arch != 0;
                let max_size = if efi && kind == RequestKind::Request { 65280 } else { 1472 };
                let vendor_rom = hardware.rom == Rom::BiosPxe;
                DhcpRequest {
                    speaker: if hardware.rom == Rom::BiosIpxe { Speaker::Ipxe } else { Speaker::Firmware },
                    vendor_class: class,
                    archs: vec![arch],
                    undi: Some(undi),
                    broadcast: efi || vendor_rom,
                    max_size: Some(max_size),
                    wanted,
                    ..common
                }
            }
        }
    }

    /// What was offered until the wait is over; an iPXE takes the first offer that has everything.
    async fn offers(&self, socket: &UdpSocket, wait: Duration) -> Result<Vec<DhcpReply>, NoLease> {
        let mut offers = Vec::new();
        if let Some(foreign) = self.foreign {
            offers.push(foreign.reply(&self.message(RequestKind::Discover, 0), ReplyKind::Offer));
        }
        let start = Instant::now();
        let mut until = start + self.pace.patience(wait);
        while let Some(reply) = self.receive(socket, until).await? {
            if reply.kind != ReplyKind::Offer {
                continue;
            }
            let complete = yiaddr(&reply).is_some() && (reply.boot.is_some() || reply.ipxe_no_proxy);
            offers.push(reply);
            if complete && self.speaker == Speaker::Ipxe {
                break;
            }
            // The rest of the collecting time is machine time: nothing more is needed from the server.
            until = until.min(start + self.pace.real(wait).max(Duration::from_millis(50)));
        }
        Ok(offers)
    }

    /// REQUEST until ACK; `None` after a NAK or silence: start again. The REQUEST is broadcast: every server reads which
    /// one was chosen.
    async fn request(&self, socket: &UdpSocket, offer: &DhcpReply, address: Ipv4Addr, secs: u16) -> Result<Option<DhcpReply>, NoLease> {
        let request =
            DhcpRequest { requested: Some(address), server_id: Some(offer.server_id), ..self.message(RequestKind::Request, secs) };
        for wait in [4, 4, 4] {
            send(socket, self.uplink.dhcp, &request).await?;
            if let Some(foreign) = self.foreign.filter(|f| f.server == offer.server_id) {
                return Ok(Some(foreign.reply(&request, ReplyKind::Ack)));
            }
            let until = Instant::now() + self.pace.patience(Duration::from_secs(wait));
            while let Some(reply) = self.receive(socket, until).await? {
                match reply.kind {
                    ReplyKind::Ack => return Ok(Some(reply)),
                    ReplyKind::Nak => return Ok(None),
                    ReplyKind::Offer => {} // a late one
                }
            }
        }
        Ok(None)
    }

    /// Uses a proxy offer beside an address-only lease, or asks its server on port 4011 as EDK2 and iPXE do when the
    /// offer has no file or does not say "use this, ask nobody" (option 43 06 01 08).
    async fn take_proxy(&self, proxy: &DhcpReply, lease: &mut Lease) -> Result<(), NoLease> {
        lease.vendor_class = proxy.vendor_class.clone();
        let ask = match self.speaker {
            Speaker::Firmware => proxy.vendor_class == VendorClass::Pxe && !(proxy.pxe_direct && proxy.boot.is_some()),
            Speaker::Ipxe => proxy.boot.is_none(),
        };
        if !ask {
            lease.boot = proxy.boot.clone();
            return Ok(());
        }
        let Some(pxe) = self.uplink.pxe else { return Err(NoLease::ProxySilent) };
        // Asked from the new address itself: no relay on this path.
        let socket = UdpSocket::bind((lease.address, 0)).await?;
        let request = DhcpRequest {
            ciaddr: Some(lease.address),
            server_id: Some(proxy.server_id),
            giaddr: None,
            relay: None,
            hops: 0,
            ..self.message(RequestKind::Request, 0)
        };
        for wait in [1, 2, 3, 4] {
            send(&socket, pxe, &request).await?;
            let until = Instant::now() + self.pace.patience(Duration::from_secs(wait));
            while let Some(reply) = self.receive(&socket, until).await? {
                if reply.kind == ReplyKind::Ack && reply.boot.is_some() {
                    lease.boot = reply.boot;
                    return Ok(());
                }
            }
        }
        Err(NoLease::ProxySilent)
    }

    /// The next answer meant for us, or `None` when the time is over.
    async fn receive(&self, socket: &UdpSocket, until: Instant) -> Result<Option<DhcpReply>, NoLease> {
        let mut buffer = [0; 2048];
        loop {
            let Ok(received) = tokio::time::timeout_at(until, socket.recv_from(&mut buffer)).await else { return Ok(None) };
            let len = match received {
                Ok((len, _)) => len,
                // The server's port is closed (ICMP): like silence, but do not spin.
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                    tokio::time::sleep_until(until).await;
                    return Ok(None);
                }
                Err(e) => return Err(e.into()),
            };
            if let Ok(reply) = DhcpReply::parse(&buffer[..len])
                && (reply.xid, reply.mac) == (self.xid, self.hardware.boot_mac)
            {
                return Ok(Some(reply));
            }
        }
    }
}

impl ForeignServer {
    fn reply(self, to: &DhcpRequest, kind: ReplyKind) -> DhcpReply {
        DhcpReply {
            address: Some(Address {
                yiaddr: Some(self.gives),
                lease_secs: Some(86_400),
                subnet_mask: Ipv4Addr::new(255, 255, 255, 0),
                routers: vec![self.server],
                dns: Vec::new(),
                domain: None,
            }),
            ..DhcpReply::to(to, kind, self.server)
        }
    }
}

async fn send(socket: &UdpSocket, to: SocketAddrV4, message: &DhcpRequest) -> Result<(), NoLease> {
    match socket.send_to(&message.encode(), SocketAddr::V4(to)).await {
        // An earlier packet met a closed port: the wire itself is fine.
        Err(e) if e.kind() != std::io::ErrorKind::ConnectionRefused => Err(e.into()),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn yiaddr(reply: &DhcpReply) -> Option<Ipv4Addr> {
    reply.address.as_ref().and_then(|a| a.yiaddr)
}

/// A transaction id: the client's MAC is in it, as iPXE does, and a count so that boots differ.
pub fn xid(mac: Mac, count: u32) -> u32 {
    let [.., c, d, e, f] = mac.0;
    u32::from_be_bytes([c, d, e, f]).wrapping_add(count.wrapping_mul(0x9e37_79b9))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers each packet by `answer` and notes what it got.
    async fn serve(
        answer: fn(&DhcpRequest) -> Vec<DhcpReply>,
    ) -> (SocketAddrV4, tokio::task::JoinHandle<()>, std::sync::Arc<std::sync::Mutex<Vec<DhcpRequest>>>) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let SocketAddr::V4(address) = socket.local_addr().unwrap() else { panic!("v4") };
        let got = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
        let notes = got.clone();
        let task = tokio::spawn(async move {
            let mut buffer = [0; 2048];
            loop {
                let (len, from) = socket.recv_from(&mut buffer).await.unwrap();
                let request = DhcpRequest::parse(&buffer[..len]).unwrap();
                // As RFC 8357 says: to giaddr, at the port the request came from.
                let to = SocketAddr::from((request.giaddr.or(request.ciaddr).unwrap(), from.port()));
                for reply in answer(&request) {
                    socket.send_to(&reply.encode(), to).await.unwrap();
                }
                notes.lock().unwrap().push(request);
            }
        });
        (address, task, got)
    }

    const SERVER: Ipv4Addr = Ipv4Addr::LOCALHOST;

    fn reply(request: &DhcpRequest, with_address: bool, boot: Option<&str>) -> DhcpReply {
        let kind = if request.kind == RequestKind::Discover { ReplyKind::Offer } else { ReplyKind::Ack };
        let address = Address {
            yiaddr: Some(Ipv4Addr::new(127, 12, 1, 5)),
            lease_secs: Some(60),
            subnet_mask: Ipv4Addr::new(255, 255, 0, 0),
            routers: vec![],
            dns: vec![],
            domain: None,
        };
        DhcpReply {
            address: with_address.then_some(address),
            boot: boot.map(|f| BootFile { server: SERVER, file: f.into() }),
            vendor_class: if with_address { VendorClass::Other } else { VendorClass::Pxe },
            ..DhcpReply::to(request, kind, SERVER)
        }
    }

    fn hardware(rom: Rom) -> Hardware {
        (1..9).map(|n| Hardware::draw(1, n)).find(|h| h.rom == rom).unwrap()
    }

    async fn exchange(rom: Rom, uplink: Uplink, foreign: Option<ForeignServer>) -> Result<Lease, NoLease> {
        let hardware = hardware(rom);
        let client =
            Client { hardware: &hardware, uplink: &uplink, pace: "1000".parse().unwrap(), speaker: Speaker::Firmware, foreign, xid: 77 };
        client.exchange().await
    }

    fn uplink(dhcp: SocketAddrV4) -> Uplink {
        Uplink { dhcp, pxe: None, tftp_port: 69, relay: Ipv4Addr::new(127, 12, 0, 1), door: None }
    }

    #[tokio::test]
    async fn edk2_gets_address_and_file_and_says_who_it_is() {
        let (address, task, got) = serve(|r| vec![reply(r, true, Some("snponly.efi"))]).await;
        let lease = exchange(Rom::EfiPxe, uplink(address), None).await.unwrap();
        assert_eq!(lease.boot.unwrap().file, "snponly.efi");
        let got = got.lock().unwrap();
        let kinds: Vec<_> = got.iter().map(|r| (r.kind, r.max_size, r.broadcast)).collect();
        assert_eq!(kinds, [(RequestKind::Discover, Some(1472), true), (RequestKind::Request, Some(65280), true)]);
        assert_eq!(got[0].system_uuid(), Some(hardware(Rom::EfiPxe).uuid));
        assert_eq!(got[0].boot_client(), Some(crate::domain::boot::ClientArch::UefiX64));
        task.abort();
    }

    #[tokio::test]
    async fn a_bios_machine_with_ipxe_in_its_rom_says_so_at_once() {
        let (address, task, got) = serve(|r| vec![reply(r, true, Some("http://x/s"))]).await;
        exchange(Rom::BiosIpxe, uplink(address), None).await.unwrap();
        assert_eq!(got.lock().unwrap()[0].speaker, Speaker::Ipxe);
        task.abort();
    }

    #[tokio::test]
    async fn the_other_servers_offer_is_taken_and_ours_sees_whose() {
        let (address, task, got) =
            serve(|r| if r.kind == RequestKind::Discover { vec![reply(r, true, Some("snponly.efi"))] } else { vec![] }).await;
        let foreign = ForeignServer { server: Ipv4Addr::new(127, 12, 255, 254), gives: Ipv4Addr::new(127, 12, 255, 7) };
        let lease = exchange(Rom::EfiPxe, uplink(address), Some(foreign)).await.unwrap();
        assert_eq!((lease.boot, lease.address), (None, foreign.gives));
        // The packet may still be on its way to the server's notes.
        let seen = tokio::time::timeout(Duration::from_secs(5), async {
            loop {
                if let Some(r) = got.lock().unwrap().iter().find(|r| r.kind == RequestKind::Request) {
                    return r.server_id;
                }
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(seen.await.unwrap(), Some(foreign.server));
        task.abort();
    }

    #[tokio::test]
    async fn edk2_asks_port_4011_when_the_proxy_offer_is_not_enough() {
        let (address, address_task, _) = serve(|r| match r.kind {
            RequestKind::Discover => vec![reply(r, true, None), reply(r, false, Some("snponly.efi"))],
            _ => vec![reply(r, true, None)],
        })
        .await;
        assert!(matches!(exchange(Rom::EfiPxe, uplink(address), None).await, Err(NoLease::ProxySilent)));
        let (pxe, pxe_task, got) = serve(|r| vec![reply(r, false, Some("snponly.efi"))]).await;
        let lease = exchange(Rom::EfiPxe, Uplink { pxe: Some(pxe), ..uplink(address) }, None).await.unwrap();
        assert_eq!(lease.boot.unwrap().file, "snponly.efi");
        assert_eq!(got.lock().unwrap()[0].ciaddr, Some(Ipv4Addr::new(127, 12, 1, 5)));
        address_task.abort();
        pxe_task.abort();
    }

    #[tokio::test]
    async fn silence_is_told_as_the_rom_tells_it() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let SocketAddr::V4(address) = socket.local_addr().unwrap() else { panic!("v4") };
        let error = exchange(Rom::EfiPxe, uplink(address), None).await.unwrap_err();
        assert!(error.to_string().starts_with("PXE-E51"), "{error}");
    }
}
