//! DHCP messages as boot clients and servers send them (RFC 2131, 2132, 3046, 4578, 8357).
//!
//! The fixed header is dhcproto's. Its option decoder is not used: it keeps only the first architecture of option 93,
//! and some of its option parsers panic on short options. [`Options`] keeps raw values, joins split ones (RFC 3396)
//! and never fails: what cannot be read is absent.

pub mod relay;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use dhcproto::v4::{self, Encodable, borrowed};

use crate::domain::boot::ClientArch;
use crate::domain::id::{Mac, SystemUuid};

/// Option numbers used here (IANA "BOOTP Vendor Extensions and DHCP Options").
pub mod code {
    pub const SUBNET_MASK: u8 = 1;
    pub const ROUTER: u8 = 3;
    pub const DNS: u8 = 6;
    pub const HOSTNAME: u8 = 12;
    pub const DOMAIN: u8 = 15;
    pub const VENDOR: u8 = 43;
    pub const REQUESTED_ADDRESS: u8 = 50;
    pub const LEASE_SECS: u8 = 51;
    pub const OVERLOAD: u8 = 52;
    pub const KIND: u8 = 53;
    pub const SERVER_ID: u8 = 54;
    pub const WANTED: u8 = 55;
    pub const MESSAGE: u8 = 56;
    pub const MAX_SIZE: u8 = 57;
    pub const RENEWAL_SECS: u8 = 58;
    pub const REBINDING_SECS: u8 = 59;
    pub const VENDOR_CLASS: u8 = 60;
    pub const CLIENT_ID: u8 = 61;
    pub const TFTP_SERVER_NAME: u8 = 66;
    pub const BOOT_FILE: u8 = 67;
    pub const USER_CLASS: u8 = 77;
    pub const RELAY: u8 = 82;
    pub const CLIENT_ARCH: u8 = 93;
    pub const UNDI: u8 = 94;
    pub const CLIENT_UUID: u8 = 97;
    /// iPXE's own encapsulated options.
    pub const IPXE: u8 = 175;
}

/// Sub-options of 175 (iPXE source, `include/ipxe/dhcp.h` and `features.h`).
mod ipxe_code {
    /// The client can fetch by HTTP.
    pub const HTTP: u8 = 19;
    /// The server says: do not wait for a proxyDHCP offer.
    pub const NO_PXEDHCP: u8 = 176;
}

/// Ethernet frames of 1500 bytes less IP and UDP headers; RFC 2131 lets every client take 576 less headers.
const MIN_SIZE: usize = 300; // BOOTP's fixed size; some ROMs drop shorter replies

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DhcpError {
    #[error("the packet has {0} bytes; a DHCP message has at least 240")]
    Short(usize),
    #[error("the packet is no DHCP message (magic cookie missing)")]
    NoCookie,
    #[error("the packet goes the other way (operation {0})")]
    WrongDirection(u8),
    #[error("hardware type {htype} with {hlen} address bytes is not Ethernet")]
    NotEthernet { htype: u8, hlen: u8 },
    #[error("the hardware address is empty or all ones")]
    BadMac,
    #[error("message type {0:?} is not one of this direction")]
    BadKind(Option<u8>),
    #[error("the packet was relayed before, by {0}, or is not for this relay agent")]
    Relayed(Ipv4Addr),
}

/// Raw options by number. Values longer than 255 bytes are split again when written (RFC 3396).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options(BTreeMap<u8, Vec<u8>>);

impl Options {
    /// Reads an option field up to its end mark or the first option that is cut off.
    fn read(&mut self, mut bytes: &[u8]) {
        while let [code, rest @ ..] = bytes {
            match code {
                0 => bytes = rest,
                255 => return,
                code => {
                    let [len, rest @ ..] = rest else { return };
                    let Some((value, rest)) = rest.split_at_checked(usize::from(*len)) else { return };
                    self.0.entry(*code).or_default().extend_from_slice(value);
                    bytes = rest;
                }
            }
        }
    }

    pub fn get(&self, code: u8) -> Option<&[u8]> {
        self.0.get(&code).map(Vec::as_slice)
    }

    pub fn set(&mut self, code: u8, value: impl Into<Vec<u8>>) {
        self.0.insert(code, value.into());
    }

    fn address(&self, code: u8) -> Option<Ipv4Addr> {
        let bytes: [u8; 4] = self.get(code)?.try_into().ok()?;
        Some(Ipv4Addr::from(bytes))
    }

    fn addresses(&self, code: u8) -> Vec<Ipv4Addr> {
        let chunks = self.get(code).unwrap_or_default().chunks_exact(4);
        chunks.filter_map(|c| <[u8; 4]>::try_from(c).ok()).map(Ipv4Addr::from).collect()
    }

    fn number<const N: usize>(&self, code: u8) -> Option<[u8; N]> {
        self.get(code)?.try_into().ok()
    }

    fn text(&self, code: u8) -> Option<String> {
        let text = String::from_utf8_lossy(self.get(code)?);
        let text = text.trim_end_matches('\0');
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// Appends the options in ascending order, option 82 last (RFC 3046 section 2.1), then the end mark.
    fn write(&self, out: &mut Vec<u8>) {
        let last = self.0.get_key_value(&code::RELAY);
        for (code, value) in self.0.iter().filter(|(c, _)| **c != code::RELAY).chain(last) {
            if value.is_empty() {
                out.extend([*code, 0]);
            }
            for part in value.chunks(255) {
                out.push(*code);
                out.push(u8::try_from(part.len()).unwrap_or(255));
                out.extend_from_slice(part);
            }
        }
        out.push(255);
    }
}

/// The boot-relevant part of option 60.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VendorClass {
    /// `PXEClient…`
    Pxe,
    /// `HTTPClient…`: UEFI HTTP boot.
    Http,
    /// Anything else, or none: an operating system.
    Other,
}

/// Which program of the boot speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaker {
    /// The machine's own PXE or HTTP boot code.
    Firmware,
    /// iPXE that can fetch by HTTP: it gets a script, never the loader again.
    Ipxe,
}

/// A relay agent's option 82, echoed unread in the reply (RFC 3046).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Relay {
    pub raw: Vec<u8>,
    /// Sub-option 5 (RFC 3527): the subnet the client is in, when giaddr is not in it.
    pub link: Option<Ipv4Addr>,
    /// Sub-option 19 (RFC 8357): answer the UDP port the request came from.
    pub source_port: bool,
}

impl Relay {
    fn parse(raw: &[u8]) -> Self {
        let mut sub = Options::default();
        sub.read(raw);
        Self { raw: raw.to_vec(), link: sub.address(5), source_port: sub.get(19).is_some() }
    }

    /// What a relay that is not on port 67 sends (RFC 8357).
    pub fn with_source_port() -> Self {
        Self { raw: vec![19, 0], link: None, source_port: true }
    }

    /// As [`Relay::with_source_port`], for clients in a network that the relay's own address is not in.
    pub fn for_link(link: Ipv4Addr) -> Self {
        let [a, b, c, d] = link.octets();
        Self { raw: vec![5, 4, a, b, c, d, 19, 0], link: Some(link), source_port: true }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestKind {
    Discover,
    Request,
    Decline,
    Release,
    Inform,
}

impl RequestKind {
    fn number(self) -> u8 {
        match self {
            Self::Discover => 1,
            Self::Request => 3,
            Self::Decline => 4,
            Self::Release => 7,
            Self::Inform => 8,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplyKind {
    Offer,
    Ack,
    Nak,
}

impl ReplyKind {
    fn number(self) -> u8 {
        match self {
            Self::Offer => 2,
            Self::Ack => 5,
            Self::Nak => 6,
        }
    }
}

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpRequest {
    pub kind: RequestKind,
    pub mac: Mac,
    pub xid: u32,
    pub secs: u16,
    pub hops: u8,
    /// The client cannot take unicast before it has its address.
    pub broadcast: bool,
    /// The address the client has and uses.
    pub ciaddr: Option<Ipv4Addr>,
    /// The relay agent's address.
    pub giaddr: Option<Ipv4Addr>,
    /// Option 50.
    pub requested: Option<Ipv4Addr>,
    /// Option 54: the server the client chose.
    pub server_id: Option<Ipv4Addr>,
    pub hostname: Option<String>,
    /// Option 61, raw.
    pub client_id: Option<Vec<u8>>,
    /// Option 55.
    pub wanted: Vec<u8>,
    /// Option 57.
    pub max_size: Option<u16>,
    pub vendor_class: VendorClass,
    /// Option 93, all of them; from the vendor class's text when the option is missing.
    pub archs: Vec<u16>,
    /// Option 94: network interface type, major, minor.
    pub undi: Option<[u8; 3]>,
    /// Option 97, raw: a type byte, then 16 bytes.
    pub client_uuid: Option<Vec<u8>>,
    /// `iPXE` in option 77 or features in option 175.
    pub speaker: Speaker,
    pub relay: Option<Relay>,
}

impl DhcpRequest {
    /// A client's first packet, for simulated clients and tests.
    pub fn discover(mac: Mac, xid: u32) -> Self {
        Self {
            kind: RequestKind::Discover,
            mac,
            xid,
            secs: 0,
            hops: 0,
            broadcast: false,
            ciaddr: None,
            giaddr: None,
            requested: None,
            server_id: None,
            hostname: None,
            client_id: None,
            wanted: vec![
                code::SUBNET_MASK,
                code::ROUTER,
                code::DNS,
                code::VENDOR,
                code::VENDOR_CLASS,
                code::TFTP_SERVER_NAME,
                code::BOOT_FILE,
            ],
            max_size: None,
            vendor_class: VendorClass::Other,
            archs: Vec::new(),
            undi: None,
            client_uuid: None,
            speaker: Speaker::Firmware,
            relay: None,
        }
    }

    /// Reads a packet that came in on a server port.
    pub fn parse(bytes: &[u8]) -> Result<Self, DhcpError> {
        let (head, options) = read(bytes, v4::Opcode::BootRequest)?;
        let kind = match options.get(code::KIND) {
            Some([1]) => RequestKind::Discover,
            Some([3]) => RequestKind::Request,
            Some([4]) => RequestKind::Decline,
            Some([7]) => RequestKind::Release,
            Some([8]) => RequestKind::Inform,
            other => return Err(DhcpError::BadKind(other.and_then(|v| v.first().copied()))),
        };
        let class = options.get(code::VENDOR_CLASS).unwrap_or_default();
        let vendor_class = if class.starts_with(b"PXEClient") {
            VendorClass::Pxe
        } else if class.starts_with(b"HTTPClient") {
            VendorClass::Http
        } else {
            VendorClass::Other
        };
        let mut archs: Vec<u16> =
            options.get(code::CLIENT_ARCH).unwrap_or_default().chunks_exact(2).map(|c| u16::from_be_bytes([c[0], c[1]])).collect();
        if archs.is_empty() && vendor_class != VendorClass::Other {
            archs.extend(arch_in_class(class));
        }
        Ok(Self {
            kind,
            mac: mac_of(&head)?,
            xid: head.xid(),
            secs: head.secs(),
            hops: head.hops(),
            broadcast: head.flags().broadcast(),
            ciaddr: some(head.ciaddr()),
            giaddr: some(head.giaddr()),
            requested: options.address(code::REQUESTED_ADDRESS).and_then(some),
            server_id: options.address(code::SERVER_ID).and_then(some),
            hostname: options.text(code::HOSTNAME),
            client_id: options.get(code::CLIENT_ID).map(<[u8]>::to_vec),
            wanted: options.get(code::WANTED).unwrap_or_default().to_vec(),
            max_size: options.number(code::MAX_SIZE).map(u16::from_be_bytes),
            vendor_class,
            archs,
            undi: options.number(code::UNDI),
            client_uuid: options.get(code::CLIENT_UUID).map(<[u8]>::to_vec),
            speaker: speaker(&options),
            relay: options.get(code::RELAY).map(Relay::parse),
        })
    }

    /// The packet as a client or a relay agent sends it.
    pub fn encode(&self) -> Vec<u8> {
        let mut options = Options::default();
        options.set(code::KIND, [self.kind.number()]);
        let address = |a: Ipv4Addr| a.octets().to_vec();
        let class = match self.vendor_class {
            VendorClass::Pxe => Some("PXEClient"),
            VendorClass::Http => Some("HTTPClient"),
            VendorClass::Other => None,
        };
        let class = class.map(|c| match (self.archs.first(), self.undi) {
            (Some(arch), Some([_, major, minor])) => format!("{c}:Arch:{arch:05}:UNDI:{major:03}{minor:03}").into_bytes(),
            (Some(_) | None, _) => c.as_bytes().to_vec(),
        });
        let archs = self.archs.iter().flat_map(|a| a.to_be_bytes()).collect::<Vec<_>>();
        let fields = [
            (code::REQUESTED_ADDRESS, self.requested.map(address)),
            (code::SERVER_ID, self.server_id.map(address)),
            (code::HOSTNAME, self.hostname.clone().map(String::into_bytes)),
            (code::CLIENT_ID, self.client_id.clone()),
            (code::WANTED, (!self.wanted.is_empty()).then(|| self.wanted.clone())),
            (code::MAX_SIZE, self.max_size.map(|n| n.to_be_bytes().to_vec())),
            (code::VENDOR_CLASS, class),
            (code::CLIENT_ARCH, (!archs.is_empty()).then_some(archs)),
            (code::UNDI, self.undi.map(|u| u.to_vec())),
            (code::CLIENT_UUID, self.client_uuid.clone()),
            (code::RELAY, self.relay.as_ref().map(|r| r.raw.clone())),
        ];
        for (code, value) in fields {
            if let Some(value) = value {
                options.set(code, value);
            }
        }
        if self.speaker == Speaker::Ipxe {
            // As iPXE writes them: the user class raw, not length-prefixed (RFC 3004), the features it has.
            options.set(code::USER_CLASS, *b"iPXE");
            options.set(code::IPXE, [ipxe_code::HTTP, 1, 1]);
        }
        let mut head = v4::Message::new_with_id(
            self.xid,
            or_zero(self.ciaddr),
            Ipv4Addr::UNSPECIFIED,
            Ipv4Addr::UNSPECIFIED,
            or_zero(self.giaddr),
            &self.mac.0,
        );
        head.set_opcode(v4::Opcode::BootRequest).set_secs(self.secs).set_hops(self.hops).set_flags(flags(self.broadcast));
        write(&head, &options)
    }

    /// What kind of network boot this client wants; `None` for an operating system that only wants an address, and
    /// for architectures we do not know.
    ///
    /// The vendor class decides between PXE and HTTP boot, the numbers only name the processor.
    pub fn boot_client(&self) -> Option<ClientArch> {
        let arch = self.archs.iter().find_map(|code| ClientArch::from_option_93(*code))?;
        match (&self.vendor_class, arch) {
            (VendorClass::Other, _) => None,
            (VendorClass::Pxe | VendorClass::Http, ClientArch::Bios) => Some(ClientArch::Bios),
            (VendorClass::Pxe, ClientArch::UefiX64 | ClientArch::UefiX64Http) => Some(ClientArch::UefiX64),
            (VendorClass::Http, ClientArch::UefiX64 | ClientArch::UefiX64Http) => Some(ClientArch::UefiX64Http),
            (VendorClass::Pxe, ClientArch::UefiArm64 | ClientArch::UefiArm64Http) => Some(ClientArch::UefiArm64),
            (VendorClass::Http, ClientArch::UefiArm64 | ClientArch::UefiArm64Http) => Some(ClientArch::UefiArm64Http),
        }
    }

    /// Whether the client wants to boot from the network at all, of whatever architecture.
    pub fn is_boot(&self) -> bool {
        self.vendor_class != VendorClass::Other
    }

    /// Option 97 as the UUID that `dmidecode` prints; `None` if absent or a filler.
    pub fn system_uuid(&self) -> Option<SystemUuid> {
        let [0, bytes @ ..] = self.client_uuid.as_deref()? else { return None };
        let uuid = SystemUuid::from_smbios_bytes(bytes.try_into().ok()?);
        uuid.is_usable().then_some(uuid)
    }
}

/// The sender's processor from `PXEClient:Arch:00007:UNDI:003000`.
fn arch_in_class(class: &[u8]) -> Option<u16> {
    std::str::from_utf8(class).ok()?.split(':').nth(2)?.parse().ok()
}

/// iPXE without HTTP (some NIC vendors' builds) counts as firmware: it gets our own iPXE by TFTP, which has it.
fn speaker(options: &Options) -> Speaker {
    let user_class = options.get(code::USER_CLASS).unwrap_or_default();
    match options.get(code::IPXE) {
        Some(features) => {
            let mut sub = Options::default();
            sub.read(features);
            match sub.get(ipxe_code::HTTP) {
                Some([0]) | None => Speaker::Firmware,
                Some(_) => Speaker::Ipxe,
            }
        }
        // RFC 3004 would prefix the length; iPXE does not.
        None if user_class == b"iPXE" || user_class == b"\x04iPXE" => Speaker::Ipxe,
        None => Speaker::Firmware,
    }
}

/// Where a boot client finds its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootFile {
    /// TFTP server; also set for URLs, which some firmware wants.
    pub server: Ipv4Addr,
    /// A TFTP file name, or a URL for HTTP boot and iPXE. At most 127 bytes fit the fixed field; longer ones go into
    /// option 67.
    pub file: String,
}

/// The address part of a reply in authoritative mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// `None` in the answer to INFORM.
    pub yiaddr: Option<Ipv4Addr>,
    pub lease_secs: Option<u32>,
    pub subnet_mask: Ipv4Addr,
    pub routers: Vec<Ipv4Addr>,
    pub dns: Vec<Ipv4Addr>,
    pub domain: Option<String>,
}

/// What a server sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DhcpReply {
    pub kind: ReplyKind,
    pub mac: Mac,
    pub xid: u32,
    pub secs: u16,
    pub broadcast: bool,
    pub ciaddr: Option<Ipv4Addr>,
    pub giaddr: Option<Ipv4Addr>,
    pub server_id: Ipv4Addr,
    pub address: Option<Address>,
    pub boot: Option<BootFile>,
    /// Option 60 of the reply: `PXEClient` in proxy mode and on port 4011, `HTTPClient` for HTTP boot.
    pub vendor_class: VendorClass,
    /// Option 43 `06 01 08 ff`: PXE discovery control, "use this file, ask nobody" (PXE 2.1 section 2.2.3).
    pub pxe_direct: bool,
    /// iPXE's option 175.176: do not wait about 3 s for a proxyDHCP offer.
    pub ipxe_no_proxy: bool,
    /// Option 97 of the request, echoed raw.
    pub client_uuid: Option<Vec<u8>>,
    /// Option 82 of the request, echoed raw.
    pub relay: Option<Vec<u8>>,
    /// Option 56, for NAK.
    pub message: Option<String>,
}

impl DhcpReply {
    /// A reply to `request` with nothing in it yet.
    pub fn to(request: &DhcpRequest, kind: ReplyKind, server_id: Ipv4Addr) -> Self {
        Self {
            kind,
            mac: request.mac,
            xid: request.xid,
            secs: 0,
            // RFC 2131 section 4.3.2: a NAK through a relay is broadcast to the client.
            broadcast: request.broadcast || (kind == ReplyKind::Nak && request.giaddr.is_some()),
            ciaddr: if kind == ReplyKind::Ack { request.ciaddr } else { None },
            giaddr: request.giaddr,
            server_id,
            address: None,
            boot: None,
            vendor_class: VendorClass::Other,
            pxe_direct: false,
            ipxe_no_proxy: false,
            client_uuid: if request.is_boot() { request.client_uuid.clone() } else { None },
            relay: request.relay.as_ref().map(|r| r.raw.clone()),
            message: None,
        }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut options = Options::default();
        options.set(code::KIND, [self.kind.number()]);
        options.set(code::SERVER_ID, self.server_id.octets());
        let mut yiaddr = None;
        if let Some(a) = &self.address {
            yiaddr = a.yiaddr;
            options.set(code::SUBNET_MASK, a.subnet_mask.octets());
            let list = |l: &[Ipv4Addr]| l.iter().flat_map(|a| a.octets()).collect::<Vec<u8>>();
            if !a.routers.is_empty() {
                options.set(code::ROUTER, list(&a.routers));
            }
            if !a.dns.is_empty() {
                options.set(code::DNS, list(&a.dns));
            }
            if let Some(domain) = &a.domain {
                options.set(code::DOMAIN, domain.as_bytes());
            }
            if let Some(secs) = a.lease_secs {
                options.set(code::LEASE_SECS, secs.to_be_bytes());
                // RFC 2131 section 4.4.5: T1 at half, T2 at 7/8 of the lease.
                options.set(code::RENEWAL_SECS, (secs / 2).to_be_bytes());
                options.set(code::REBINDING_SECS, (secs - secs / 8).to_be_bytes());
            }
        }
        match self.vendor_class {
            VendorClass::Pxe => options.set(code::VENDOR_CLASS, *b"PXEClient"),
            VendorClass::Http => options.set(code::VENDOR_CLASS, *b"HTTPClient"),
            VendorClass::Other => {}
        }
        if self.pxe_direct {
            options.set(code::VENDOR, [6, 1, 8, 255]);
        }
        if self.ipxe_no_proxy {
            options.set(code::IPXE, [ipxe_code::NO_PXEDHCP, 1, 1]);
        }
        if let Some(uuid) = &self.client_uuid {
            options.set(code::CLIENT_UUID, uuid.clone());
        }
        if let Some(relay) = &self.relay {
            options.set(code::RELAY, relay.clone());
        }
        if let Some(message) = &self.message {
            options.set(code::MESSAGE, message.as_bytes().iter().copied().take(255).collect::<Vec<_>>());
        }
        let mut siaddr = Ipv4Addr::UNSPECIFIED;
        let mut file: &[u8] = &[];
        if let Some(boot) = &self.boot {
            siaddr = boot.server;
            // UEFI HTTP boot reads option 67 (UEFI 2.10 section 24.7.3.1); the fixed field serves everyone else.
            if self.vendor_class == VendorClass::Http || boot.file.len() > 127 {
                options.set(code::BOOT_FILE, boot.file.as_bytes());
            }
            if boot.file.len() <= 127 {
                file = boot.file.as_bytes();
            }
        }
        let mut head = v4::Message::new_with_id(self.xid, or_zero(self.ciaddr), or_zero(yiaddr), siaddr, or_zero(self.giaddr), &self.mac.0);
        head.set_opcode(v4::Opcode::BootReply).set_secs(self.secs).set_flags(flags(self.broadcast));
        if !file.is_empty() {
            head.set_fname(file);
        }
        write(&head, &options)
    }

    /// Reads a server's packet: simulated clients, tests, and the watch for other DHCP servers.
    pub fn parse(bytes: &[u8]) -> Result<Self, DhcpError> {
        let (head, options) = read(bytes, v4::Opcode::BootReply)?;
        let kind = match options.get(code::KIND) {
            Some([2]) => ReplyKind::Offer,
            Some([5]) => ReplyKind::Ack,
            Some([6]) => ReplyKind::Nak,
            other => return Err(DhcpError::BadKind(other.and_then(|v| v.first().copied()))),
        };
        let file = options.text(code::BOOT_FILE).unwrap_or_else(|| String::from_utf8_lossy(head.fname()).into_owned());
        let class = options.get(code::VENDOR_CLASS).unwrap_or_default();
        let mut ipxe = Options::default();
        ipxe.read(options.get(code::IPXE).unwrap_or_default());
        Ok(Self {
            kind,
            mac: mac_of(&head)?,
            xid: head.xid(),
            secs: head.secs(),
            broadcast: head.flags().broadcast(),
            ciaddr: some(head.ciaddr()),
            giaddr: some(head.giaddr()),
            server_id: options.address(code::SERVER_ID).unwrap_or_else(|| head.siaddr()),
            address: options.address(code::SUBNET_MASK).map(|subnet_mask| Address {
                yiaddr: some(head.yiaddr()),
                lease_secs: options.number(code::LEASE_SECS).map(u32::from_be_bytes),
                subnet_mask,
                routers: options.addresses(code::ROUTER),
                dns: options.addresses(code::DNS),
                domain: options.text(code::DOMAIN),
            }),
            boot: (!file.is_empty()).then(|| BootFile { server: head.siaddr(), file }),
            vendor_class: if class.starts_with(b"PXEClient") {
                VendorClass::Pxe
            } else if class.starts_with(b"HTTPClient") {
                VendorClass::Http
            } else {
                VendorClass::Other
            },
            pxe_direct: options.get(code::VENDOR).is_some_and(|v| v.starts_with(&[6, 1, 8])),
            ipxe_no_proxy: ipxe.get(ipxe_code::NO_PXEDHCP).is_some_and(|v| v != [0]),
            client_uuid: options.get(code::CLIENT_UUID).map(<[u8]>::to_vec),
            relay: options.get(code::RELAY).map(<[u8]>::to_vec),
            message: options.text(code::MESSAGE),
        })
    }
}

fn read(bytes: &[u8], direction: v4::Opcode) -> Result<(borrowed::Message<'_>, Options), DhcpError> {
    let head = borrowed::Message::new(bytes).map_err(|_| DhcpError::Short(bytes.len()))?;
    let Some((fixed, rest)) = bytes.split_at_checked(240) else { return Err(DhcpError::Short(bytes.len())) };
    if fixed[236..] != v4::MAGIC {
        return Err(DhcpError::NoCookie);
    }
    if head.opcode() != direction {
        return Err(DhcpError::WrongDirection(fixed[0]));
    }
    let mut options = Options::default();
    options.read(rest);
    // Option 52 (RFC 2132 section 9.3): the file and server name fields carry options too, in this order.
    let overload = options.number(code::OVERLOAD).map_or(0, |[n]| n);
    if overload & 1 != 0 {
        options.read(&fixed[108..236]);
    }
    if overload & 2 != 0 {
        options.read(&fixed[44..108]);
    }
    Ok((head, options))
}

fn write(head: &v4::Message, options: &Options) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    // Writing to a vector cannot fail and every field has its fixed size.
    if head.encode(&mut v4::Encoder::new(&mut out)).is_err() {
        return Vec::new();
    }
    options.write(&mut out);
    out.resize(out.len().max(MIN_SIZE), 0);
    out
}

fn mac_of(head: &borrowed::Message<'_>) -> Result<Mac, DhcpError> {
    let (htype, hlen) = (u8::from(head.htype()), head.hlen());
    // chaddr() slices by the sender's length: it must be checked first.
    if htype != 1 || hlen != 6 {
        return Err(DhcpError::NotEthernet { htype, hlen });
    }
    let mac: [u8; 6] = head.chaddr().try_into().map_err(|_| DhcpError::BadMac)?;
    // A group address is nobody's own.
    if mac == [0; 6] || mac[0] & 1 != 0 { Err(DhcpError::BadMac) } else { Ok(Mac(mac)) }
}

fn some(address: Ipv4Addr) -> Option<Ipv4Addr> {
    (!address.is_unspecified()).then_some(address)
}

fn or_zero(address: Option<Ipv4Addr>) -> Ipv4Addr {
    address.unwrap_or(Ipv4Addr::UNSPECIFIED)
}

fn flags(broadcast: bool) -> v4::Flags {
    let flags = v4::Flags::default();
    if broadcast { flags.set_broadcast() } else { flags }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// UDP payloads of an Ethernet capture that came from or went to one of `ports`, with source and destination port.
    fn payloads(name: &str) -> Vec<(u16, u16, Vec<u8>)> {
        let file = std::fs::read(format!("{}/tests/fixtures/pcaps/{name}.pcap", env!("CARGO_MANIFEST_DIR"))).expect(name);
        let mut rest = &file[24..];
        let mut out = Vec::new();
        while rest.len() >= 16 {
            let len = u32::from_le_bytes(rest[8..12].try_into().expect("4")) as usize;
            let frame = &rest[16..16 + len];
            rest = &rest[16 + len..];
            if frame.get(12..14) == Some(&[8, 0]) && frame.get(23) == Some(&17) {
                let udp = &frame[14 + usize::from(frame[14] & 15) * 4..];
                let port = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
                let end = usize::from(port(4)).clamp(8, udp.len());
                out.push((port(0), port(2), udp[8..end].to_vec()));
            }
        }
        out
    }

    fn requests(name: &str) -> Vec<DhcpRequest> {
        payloads(name)
            .into_iter()
            .filter(|(_, to, _)| matches!(to, 67 | 4011))
            .filter_map(|(_, _, bytes)| DhcpRequest::parse(&bytes).ok())
            .collect()
    }

    fn first(name: &str) -> DhcpRequest {
        requests(name).into_iter().next().expect("a request")
    }

    #[test]
    fn ipxe_on_bios_is_read_as_recorded() {
        for name in ["a-bios-e1000", "a-bios-virtio", "a-bios-undionly"] {
            let r = first(name);
            assert_eq!((r.kind, r.speaker, r.boot_client()), (RequestKind::Discover, Speaker::Ipxe, Some(ClientArch::Bios)), "{name}");
            assert_eq!((r.undi, r.max_size, r.broadcast), (Some([1, 2, 1]), Some(1472), false));
            assert_eq!(r.client_id.as_deref(), Some(&[1, 0x52, 0x54, 0, 0x77, 0, 0][..]));
            assert_eq!(r.mac.to_string(), "52:54:00:77:00:00");
        }
    }

    #[test]
    fn a_chained_ipxe_is_known_as_ipxe_so_no_loop_forms() {
        let all = requests("a-bios-undionly");
        let boots: Vec<_> = all.iter().filter(|r| r.is_boot()).collect();
        assert!(boots.len() >= 6 && boots.iter().all(|r| r.speaker == Speaker::Ipxe));
        let last = requests("b-uefi-edk2pxe").into_iter().rfind(DhcpRequest::is_boot).expect("iPXE after EDK2");
        assert_eq!((last.speaker, last.boot_client(), last.undi), (Speaker::Ipxe, Some(ClientArch::UefiX64), Some([1, 3, 10])));
    }

    #[test]
    fn edk2_pxe_is_read_as_recorded() {
        let all = requests("b-uefi-edk2pxe");
        let r = &all[0];
        assert_eq!((r.kind, r.speaker, r.boot_client()), (RequestKind::Discover, Speaker::Firmware, Some(ClientArch::UefiX64)));
        assert_eq!((r.undi, r.max_size, r.broadcast, &r.client_id), (Some([1, 3, 0]), Some(1472), true, &None));
        assert_eq!((all[1].kind, all[1].max_size), (RequestKind::Request, Some(65280)));
        assert_eq!(all[1].requested, Some(Ipv4Addr::new(10, 77, 0, 129)));
        assert_eq!(all[1].server_id, Some(Ipv4Addr::new(10, 77, 0, 1)));
    }

    #[test]
    fn edk2_http_boot_is_read_as_recorded() {
        let r = requests("proxy-httpclient").into_iter().find(|r| r.vendor_class == VendorClass::Http).expect("HTTPClient");
        assert_eq!((r.boot_client(), r.speaker, r.broadcast), (Some(ClientArch::UefiX64Http), Speaker::Firmware, true));
        assert_eq!(r.system_uuid().expect("option 97").to_string(), "11223344-5566-4788-9900-525400770000");
        assert!(r.wanted.contains(&235));
    }

    #[test]
    fn edk2_asks_port_4011_with_its_address_set() {
        let (from, to, bytes) = payloads("proxy-only4011-edk2").into_iter().find(|(_, to, b)| *to == 4011 && b[0] == 1).expect("4011");
        let r = DhcpRequest::parse(&bytes).expect("parses");
        assert_eq!((from, to, r.kind), (4011, 4011, RequestKind::Request));
        assert_eq!((r.ciaddr, r.server_id), (Some(Ipv4Addr::new(10, 77, 0, 129)), None));
    }

    #[test]
    fn ipxe_asks_port_4011_naming_the_proxy() {
        let (from, _, bytes) = payloads("proxy-only4011-biosipxe").into_iter().find(|(_, to, b)| *to == 4011 && b[0] == 1).expect("4011");
        let r = DhcpRequest::parse(&bytes).expect("parses");
        assert_eq!((from, r.speaker, r.server_id), (68, Speaker::Ipxe, Some(Ipv4Addr::new(10, 77, 0, 1))));
    }

    #[test]
    fn every_recorded_packet_of_every_client_is_read() {
        let dir = format!("{}/tests/fixtures/pcaps", env!("CARGO_MANIFEST_DIR"));
        let mut seen = 0;
        for entry in std::fs::read_dir(dir).expect("fixtures") {
            let path = entry.expect("entry").path();
            if path.extension().is_some_and(|e| e == "pcap") {
                let name = path.file_stem().and_then(|s| s.to_str()).expect("name");
                for (_, to, bytes) in payloads(name) {
                    if matches!(to, 67 | 4011) && bytes[0] == 1 {
                        DhcpRequest::parse(&bytes).expect(name);
                        seen += 1;
                    } else if matches!(to, 68 | 4011) {
                        DhcpReply::parse(&bytes).expect(name);
                    }
                }
            }
        }
        assert!(seen > 50, "{seen}");
    }

    #[test]
    fn an_operating_systems_request_is_no_boot_request() {
        let r = requests("a-bios-e1000").into_iter().rfind(|r| !r.is_boot()).expect("the ramdisk's client");
        assert_eq!(r.boot_client(), None);
    }

    #[test]
    fn ipxe_that_cannot_speak_http_counts_as_firmware() {
        let mut r = DhcpRequest { vendor_class: VendorClass::Pxe, archs: vec![0], ..DhcpRequest::discover(Mac([2, 0, 0, 0, 0, 1]), 7) };
        r.speaker = Speaker::Ipxe;
        let mut bytes = r.encode();
        assert_eq!(DhcpRequest::parse(&bytes).map(|r| r.speaker), Ok(Speaker::Ipxe));
        let at = bytes.windows(5).position(|w| w == [175, 3, 19, 1, 1]).expect("feature HTTP");
        bytes[at + 4] = 0;
        assert_eq!(DhcpRequest::parse(&bytes).map(|r| r.speaker), Ok(Speaker::Firmware));
    }

    #[test]
    fn all_architectures_of_option_93_are_kept_and_the_first_known_counts() {
        let r = DhcpRequest { vendor_class: VendorClass::Pxe, archs: vec![6, 7, 0], ..DhcpRequest::discover(Mac([2, 0, 0, 0, 0, 1]), 7) };
        let back = DhcpRequest::parse(&r.encode()).expect("parses");
        assert_eq!((back.archs.clone(), back.boot_client()), (vec![6, 7, 0], Some(ClientArch::UefiX64)));
    }

    #[test]
    fn the_relay_option_is_read_and_echoed_last() {
        let relay = Relay::parse(&[1, 2, 9, 9, 5, 4, 10, 1, 0, 0, 19, 0]);
        assert_eq!((relay.link, relay.source_port), (Some(Ipv4Addr::new(10, 1, 0, 0)), true));
        assert!(Relay::parse(&Relay::with_source_port().raw).source_port);
        let request = DhcpRequest {
            relay: Some(relay.clone()),
            giaddr: Some(Ipv4Addr::LOCALHOST),
            client_uuid: Some(vec![0; 17]),
            vendor_class: VendorClass::Pxe,
            ..DhcpRequest::discover(Mac([2, 0, 0, 0, 0, 1]), 7)
        };
        let bytes = DhcpReply::to(&request, ReplyKind::Offer, Ipv4Addr::LOCALHOST).encode();
        let at = bytes.windows(2).position(|w| w == [82, 12]).expect("option 82");
        assert_eq!(bytes[at + 14], 255, "option 82 is the last");
        assert_eq!(DhcpReply::parse(&bytes).expect("parses").relay, Some(relay.raw));
    }

    #[test]
    fn a_reply_has_the_bytes_a_rom_expects() {
        let request =
            DhcpRequest { vendor_class: VendorClass::Pxe, archs: vec![7], ..DhcpRequest::discover(Mac([2, 0, 0, 0, 0, 1]), 0x01020304) };
        let reply = DhcpReply {
            boot: Some(BootFile { server: Ipv4Addr::new(10, 0, 0, 1), file: "snponly.efi".into() }),
            vendor_class: VendorClass::Pxe,
            pxe_direct: true,
            ..DhcpReply::to(&request, ReplyKind::Offer, Ipv4Addr::new(10, 0, 0, 1))
        };
        let bytes = reply.encode();
        assert_eq!(bytes.len(), 300);
        assert_eq!(bytes[..12], [2, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0, 0]);
        assert_eq!(bytes[20..24], [10, 0, 0, 1]);
        assert_eq!(&bytes[108..120], b"snponly.efi\0");
        assert_eq!(bytes[236..], {
            let mut tail = vec![99, 130, 83, 99, 43, 4, 6, 1, 8, 255, 53, 1, 2, 54, 4, 10, 0, 0, 1, 60, 9];
            tail.extend(b"PXEClient\xff");
            tail.resize(64, 0);
            tail
        });
        assert_eq!(DhcpReply::parse(&bytes), Ok(reply));
    }

    #[test]
    fn a_long_url_goes_into_option_67() {
        let request = DhcpRequest::discover(Mac([2, 0, 0, 0, 0, 1]), 7);
        let file = format!("http://10.0.0.1/{}", "x".repeat(300));
        let reply = DhcpReply {
            boot: Some(BootFile { server: Ipv4Addr::LOCALHOST, file }),
            ..DhcpReply::to(&request, ReplyKind::Offer, Ipv4Addr::LOCALHOST)
        };
        assert_eq!(DhcpReply::parse(&reply.encode()), Ok(reply));
    }

    #[test]
    fn option_52_lets_the_name_fields_carry_options() {
        let mut bytes = DhcpRequest::discover(Mac([2, 0, 0, 0, 0, 1]), 7).encode();
        bytes.truncate(240);
        bytes.extend([53, 1, 1, 52, 1, 3, 255]);
        bytes[108..115].copy_from_slice(&[12, 4, b'n', b'a', b'm', b'e', 255]);
        bytes[44..50].copy_from_slice(&[57, 2, 5, 0xc0, 255, 0]);
        let r = DhcpRequest::parse(&bytes).expect("parses");
        assert_eq!((r.hostname.as_deref(), r.max_size), (Some("name"), Some(1472)));
    }

    #[test]
    fn a_packet_with_a_lying_hardware_length_is_refused() {
        let mut bytes = DhcpRequest::discover(Mac([2, 0, 0, 0, 0, 1]), 7).encode();
        bytes.truncate(241);
        bytes[2] = 255;
        bytes[240] = 255;
        assert_eq!(DhcpRequest::parse(&bytes), Err(DhcpError::BadKind(None)));
        bytes.truncate(240);
        bytes.extend([53, 1, 1]);
        assert_eq!(DhcpRequest::parse(&bytes), Err(DhcpError::NotEthernet { htype: 1, hlen: 255 }));
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _outcome = (DhcpRequest::parse(&bytes).is_ok(), DhcpReply::parse(&bytes).is_ok());
        }

        #[test]
        fn hostile_options_never_panic(head in proptest::array::uniform32(any::<u8>()), options in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut bytes = DhcpRequest::discover(Mac([2, 0, 0, 0, 0, 1]), 7).encode();
            bytes.truncate(240);
            bytes[2..34].copy_from_slice(&head);
            bytes.extend([53, 1, 1]);
            bytes.extend(options);
            if let Ok(request) = DhcpRequest::parse(&bytes) {
                let _outcome = (request.boot_client(), request.system_uuid());
                DhcpReply::to(&request, ReplyKind::Offer, Ipv4Addr::LOCALHOST).encode();
            }
        }

        #[test]
        fn a_request_survives_the_wire(
            mac in any::<[u8; 5]>(), xid: u32, secs: u16, broadcast: bool, arch in prop::sample::select(vec![0u16, 7, 9, 11, 16, 19]),
            http: bool, ipxe: bool, requested: Option<u32>, uuid: Option<[u8; 16]>,
        ) {
            let request = DhcpRequest {
                secs, broadcast,
                archs: vec![arch],
                undi: Some([1, 3, 10]),
                vendor_class: if http { VendorClass::Http } else { VendorClass::Pxe },
                speaker: if ipxe { Speaker::Ipxe } else { Speaker::Firmware },
                requested: requested.filter(|a| *a != 0).map(Ipv4Addr::from),
                client_uuid: uuid.map(|u| [&[0][..], &u].concat()),
                ..DhcpRequest::discover(Mac([2, mac[0], mac[1], mac[2], mac[3], mac[4]]), xid)
            };
            prop_assert_eq!(DhcpRequest::parse(&request.encode()), Ok(request));
        }
    }
}
