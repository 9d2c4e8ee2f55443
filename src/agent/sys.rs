//! The system calls that have no safe wrapper: device ioctls and the link-layer socket. Nothing else is unsafe here.
//!
//! Structures and numbers are from the Linux headers named beside them; each function checks what it was given, fills
//! the structure itself and hands back plain bytes.

#![expect(unsafe_code, reason = "ioctls on block, NVMe, SCSI and IPMI devices and AF_PACKET have no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use nix::libc;

nix::ioctl_none!(blkrrpart, 0x12, 95); // linux/fs.h BLKRRPART
nix::ioctl_write_ptr!(ext4_resize_fs, b'f', 16, u64); // fs/ext4/ext4.h EXT4_IOC_RESIZE_FS
nix::ioctl_readwrite!(nvme_admin_cmd, b'N', 0x41, NvmeCommand); // linux/nvme_ioctl.h NVME_IOCTL_ADMIN_CMD
nix::ioctl_readwrite_bad!(sg_io, 0x2285, SgHeader); // scsi/sg.h SG_IO
nix::ioctl_read!(ipmi_send, b'i', 13, IpmiRequest); // linux/ipmi.h IPMICTL_SEND_COMMAND
nix::ioctl_readwrite!(ipmi_receive, b'i', 11, IpmiReceive); // linux/ipmi.h IPMICTL_RECEIVE_MSG_TRUNC

nix::ioctl_write_ptr_bad!(rnd_add_entropy, nix::request_code_write!(b'R', 3, 8), RandomPool); // linux/random.h RNDADDENTROPY

#[repr(C)]
pub struct RandomPool {
    entropy_bits: libc::c_int,
    size: libc::c_int,
    bytes: [u8; 32],
}

/// Gives the kernel's random generator a seed and lets it count as full.
///
/// # Errors
/// As the kernel says.
pub fn seed_random(device: &File, bytes: [u8; 32]) -> io::Result<()> {
    let pool = RandomPool { entropy_bits: 256, size: 32, bytes };
    // SAFETY: the structure is struct rand_pool_info with 32 bytes of buffer, alive during the call.
    unsafe { rnd_add_entropy(device.as_raw_fd(), &raw const pool) }?;
    Ok(())
}

/// Makes the kernel read the partition table of a whole disk again.
///
/// # Errors
/// `EBUSY` while a partition of it is in use.
pub fn reread_partitions(disk: &File) -> io::Result<()> {
    // SAFETY: BLKRRPART takes no argument.
    unsafe { blkrrpart(disk.as_raw_fd()) }?;
    Ok(())
}

/// Grows a mounted ext4 to `blocks` of its own block size.
///
/// # Errors
/// As the kernel says, for example `EPERM` if the image forbids resizing.
pub fn grow_ext4(mount_point: &File, blocks: u64) -> io::Result<()> {
    // SAFETY: the argument is a pointer to one u64, alive during the call.
    unsafe { ext4_resize_fs(mount_point.as_raw_fd(), &raw const blocks) }?;
    Ok(())
}

#[repr(C)]
#[derive(Default)]
pub struct NvmeCommand {
    opcode: u8,
    flags: u8,
    rsvd1: u16,
    nsid: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    addr: u64,
    metadata_len: u32,
    data_len: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout_ms: u32,
    result: u32,
}

/// The NVMe SMART / Health Information log (NVM Express Base 2.0, Get Log Page 02h), of the whole controller.
///
/// # Errors
/// As the kernel says; a command status of the device becomes `Other`.
pub fn nvme_smart_log(device: &File) -> io::Result<[u8; 512]> {
    let mut log = [0_u8; 512];
    let dwords = 512 / 4 - 1; // zero-based count in bits 31:16
    let mut command = NvmeCommand {
        opcode: 0x02,
        nsid: 0xffff_ffff,
        addr: log.as_mut_ptr() as u64,
        data_len: 512,
        cdw10: 0x02 | dwords << 16,
        timeout_ms: 5000,
        ..NvmeCommand::default()
    };
    // SAFETY: `addr` and `data_len` describe `log`, which outlives the call; the command only reads from the device.
    let status = unsafe { nvme_admin_cmd(device.as_raw_fd(), &raw mut command) }?;
    if status == 0 { Ok(log) } else { Err(io::Error::other(format!("NVMe status {status:#x}"))) }
}

#[repr(C)]
pub struct SgHeader {
    interface_id: libc::c_int,
    dxfer_direction: libc::c_int,
    cmd_len: u8,
    mx_sb_len: u8,
    iovec_count: u16,
    dxfer_len: u32,
    dxferp: *mut libc::c_void,
    cmdp: *const u8,
    sbp: *mut u8,
    timeout_ms: u32,
    flags: u32,
    pack_id: libc::c_int,
    usr_ptr: *mut libc::c_void,
    status: u8,
    masked_status: u8,
    msg_status: u8,
    sb_len_wr: u8,
    host_status: u16,
    driver_status: u16,
    resid: libc::c_int,
    duration: u32,
    info: u32,
}

/// What a SCSI command that reads gave back.
pub struct ScsiAnswer {
    pub status: u8,
    pub data: [u8; 512],
    pub sense: [u8; 32],
}

/// Sends one SCSI command that reads at most 512 bytes, or none if `with_data` is [`Data::None`].
///
/// # Errors
/// As the kernel says; a bus error becomes `Other`. A check condition is not an error: see `status` and `sense`.
pub fn scsi_read(device: &File, command: [u8; 16], with_data: Data) -> io::Result<ScsiAnswer> {
    let mut answer = ScsiAnswer { status: 0, data: [0; 512], sense: [0; 32] };
    let (direction, length) = match with_data {
        Data::None => (-1, 0),      // SG_DXFER_NONE
        Data::Read512 => (-3, 512), // SG_DXFER_FROM_DEV
    };
    let mut header = SgHeader {
        interface_id: libc::c_int::from(b'S'),
        dxfer_direction: direction,
        cmd_len: 16,
        mx_sb_len: 32,
        iovec_count: 0,
        dxfer_len: length,
        dxferp: answer.data.as_mut_ptr().cast(),
        cmdp: command.as_ptr(),
        sbp: answer.sense.as_mut_ptr(),
        timeout_ms: 5000,
        flags: 0,
        pack_id: 0,
        usr_ptr: std::ptr::null_mut(),
        status: 0,
        masked_status: 0,
        msg_status: 0,
        sb_len_wr: 0,
        host_status: 0,
        driver_status: 0,
        resid: 0,
        duration: 0,
        info: 0,
    };
    // SAFETY: the header points to buffers of the lengths it names, all alive during the call.
    unsafe { sg_io(device.as_raw_fd(), &raw mut header) }?;
    if header.host_status != 0 {
        return Err(io::Error::other(format!("SCSI host status {:#x}", header.host_status)));
    }
    answer.status = header.status;
    Ok(answer)
}

/// Whether a SCSI command reads data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    None,
    Read512,
}

#[repr(C)]
struct IpmiSystemAddress {
    addr_type: libc::c_int,
    channel: libc::c_short,
    lun: u8,
}

#[repr(C)]
struct IpmiMessage {
    netfn: u8,
    cmd: u8,
    data_len: u16,
    data: *mut u8,
}

#[repr(C)]
pub struct IpmiRequest {
    addr: *mut u8,
    addr_len: u32,
    msgid: libc::c_long,
    msg: IpmiMessage,
}

#[repr(C)]
pub struct IpmiReceive {
    recv_type: libc::c_int,
    addr: *mut u8,
    addr_len: u32,
    msgid: libc::c_long,
    msg: IpmiMessage,
}

/// One IPMI command to the machine's own BMC; returns the answer with its completion code in front.
///
/// # Errors
/// As the kernel says; `TimedOut` after `limit` without an answer.
pub fn ipmi(device: &File, netfn: u8, cmd: u8, request: &[u8], limit: Duration) -> io::Result<Vec<u8>> {
    let mut data = request.to_vec();
    let data_len = u16::try_from(data.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    // IPMI_SYSTEM_INTERFACE_ADDR_TYPE, IPMI_BMC_CHANNEL (linux/ipmi.h)
    let mut address = IpmiSystemAddress { addr_type: 0x0c, channel: 0xf, lun: 0 };
    let addr_len = size_of::<IpmiSystemAddress>() as u32;
    let mut send = IpmiRequest {
        addr: (&raw mut address).cast(),
        addr_len,
        msgid: 1,
        msg: IpmiMessage { netfn, cmd, data_len, data: data.as_mut_ptr() },
    };
    // SAFETY: address and data outlive the call and have the lengths named; the kernel only reads them.
    unsafe { ipmi_send(device.as_raw_fd(), &raw mut send) }?;

    let mut wait = libc::pollfd { fd: device.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    let millis = libc::c_int::try_from(limit.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: one valid pollfd.
    let ready = unsafe { libc::poll(&raw mut wait, 1, millis) };
    if ready < 0 {
        return Err(io::Error::last_os_error());
    }
    if ready == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let mut from = [0_u8; 64];
    let mut answer = vec![0_u8; 272];
    let mut receive = IpmiReceive {
        recv_type: 0,
        addr: from.as_mut_ptr(),
        addr_len: 64,
        msgid: 0,
        msg: IpmiMessage { netfn: 0, cmd: 0, data_len: 272, data: answer.as_mut_ptr() },
    };
    // SAFETY: both buffers have the lengths named and outlive the call; the kernel cuts what is longer.
    unsafe { ipmi_receive(device.as_raw_fd(), &raw mut receive) }?;
    answer.truncate(usize::from(receive.msg.data_len));
    Ok(answer)
}

/// A socket that hears the frames of one EtherType sent to one multicast address on one interface.
///
/// # Errors
/// As the kernel says; it needs CAP_NET_RAW.
pub fn multicast_listener(interface_index: u32, ethertype: u16, group: [u8; 6], limit: Duration) -> io::Result<OwnedFd> {
    let index = libc::c_int::try_from(interface_index).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: socket(2) takes no pointers; the descriptor is owned at once.
    let socket = unsafe {
        let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::c_int::from(ethertype.to_be()));
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(fd)
    };
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ethertype.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let mut membership = libc::packet_mreq { mr_ifindex: index, mr_type: libc::PACKET_MR_MULTICAST as u16, mr_alen: 6, mr_address: [0; 8] };
    membership.mr_address[..6].copy_from_slice(&group);
    // SAFETY: both structures are valid for the sizes given and only read.
    let failed = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as u32) < 0
            || libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                (&raw const membership).cast(),
                size_of::<libc::packet_mreq>() as u32,
            ) < 0
    };
    if failed {
        return Err(io::Error::last_os_error());
    }
    let timeout = nix::sys::time::TimeVal::new(i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), i64::from(limit.subsec_micros()));
    nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::ReceiveTimeout, &timeout)?;
    Ok(socket)
}
