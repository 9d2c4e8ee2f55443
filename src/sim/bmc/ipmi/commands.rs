//! What the simulated BMC answers inside a session, beside chassis and boot: the board, its log, accounts, LAN, power by DCMI.

use std::net::IpAddr;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock;
use crate::domain::power::PowerState;
use crate::sim::bmc::accounts::{ACCOUNTS_CAP, Account, Role};
use crate::sim::bmc::ipmi::{Server, hardware};
use crate::wire::ipmi::{self, Command, GROUP_DCMI, completion};
use crate::wire::rmcp::USER_BYTES;
use crate::wire::{sdr, sel};

/// Bytes of a record in one answer: compact records come whole, full ones in pieces (0xca), as on boards with small buffers.
const RECORD_PIECE: usize = 48;
/// The only LAN channel.
const LAN_CHANNEL: u8 = 1;
/// Time between Cold Reset and silence: the answer must get out.
const LAST_WORDS: Duration = Duration::from_millis(50);
/// How long the BMC is away then, in the machine's time.
const RESTART: Duration = Duration::from_secs(60);

/// What the front itself remembers.
#[derive(Default)]
pub struct Notes {
    sdr_reservation: u16,
    sel_reservation: Option<SelReservation>,
    led_until: Option<Instant>,
}

/// Given up when the log changes (31.4).
#[derive(Clone, Copy, PartialEq, Eq)]
struct SelReservation {
    id: u16,
    last: u32,
    entries: usize,
}

type Answer = (u8, Vec<u8>);

fn refuse(code: u8) -> Answer {
    (code, Vec::new())
}

/// The bytes from `from` on, at most `count`.
fn piece(bytes: &[u8], from: usize, count: usize) -> Option<&[u8]> {
    let rest = bytes.get(from..).filter(|r| !r.is_empty())?;
    rest.get(..count.min(rest.len()))
}

fn privilege_of(role: Role) -> u8 {
    match role {
        Role::Administrator => 4,
        Role::Operator => 3,
        Role::ReadOnly => 2,
    }
}

pub fn limit_of(account: &Account) -> u8 {
    privilege_of(account.role)
}

/// Appendix G: the least privilege for commands that need more than user.
pub fn needs(command: Command) -> u8 {
    match command {
        ipmi::SET_USER_ACCESS
        | ipmi::GET_USER_ACCESS
        | ipmi::SET_USER_NAME
        | ipmi::SET_USER_PASSWORD
        | ipmi::COLD_RESET
        | ipmi::WARM_RESET => 4,
        ipmi::CHASSIS_CONTROL
        | ipmi::CHASSIS_IDENTIFY
        | ipmi::SET_BOOT_OPTIONS
        | ipmi::GET_BOOT_OPTIONS
        | ipmi::ADD_SEL_ENTRY
        | ipmi::CLEAR_SEL
        | ipmi::SET_SEL_TIME
        | ipmi::GET_LAN
        | ipmi::GET_USER_NAME => 3,
        _ => 2,
    }
}

impl Server {
    /// Get Chassis Status (28.2): power in bit 0, restore policy unknown; the identify state is told (bit 6) and on for good (2) or off.
    pub(super) fn chassis_status(&self) -> Answer {
        self.end_identify();
        let power = u8::from(self.shared.chassis.power() == PowerState::On);
        let led = if self.shared.board().led { 2 << 4 } else { 0 };
        (completion::OK, vec![0x60 | power, 0, 0x40 | led])
    }

    pub(super) fn board_command(&self, command: Command, data: &[u8]) -> Answer {
        match command {
            ipmi::SDR_REPOSITORY_INFO | ipmi::RESERVE_SDR_REPOSITORY | ipmi::GET_SDR => self.sdr_command(command, data),
            ipmi::SENSOR_READING | ipmi::SENSOR_THRESHOLDS => self.sensor_command(command, data),
            ipmi::SEL_INFO
            | ipmi::RESERVE_SEL
            | ipmi::GET_SEL_ENTRY
            | ipmi::ADD_SEL_ENTRY
            | ipmi::CLEAR_SEL
            | ipmi::GET_SEL_TIME
            | ipmi::SET_SEL_TIME => self.sel_command(command, data),
            ipmi::FRU_AREA | ipmi::READ_FRU => self.fru_command(command, data),
            ipmi::GET_USER_ACCESS | ipmi::SET_USER_ACCESS | ipmi::GET_USER_NAME | ipmi::SET_USER_NAME | ipmi::SET_USER_PASSWORD => {
                self.user_command(command, data)
            }
            ipmi::CHASSIS_IDENTIFY => self.identify(data),
            ipmi::COLD_RESET => self.cold_reset(),
            ipmi::GET_CHANNEL_INFO => match data {
                // 22.24: 802.3 LAN, IPMB protocol, multi-session; the vendor is IPMI's own number.
                [0x0e | LAN_CHANNEL] => (completion::OK, vec![LAN_CHANNEL, 4, 1, 0x80, 0xf2, 0x1b, 0, 0, 0]),
                [_] => refuse(completion::INVALID_FIELD),
                _ => refuse(completion::LENGTH_INVALID),
            },
            ipmi::GET_LAN => self.lan(data),
            // 26.3, parameter 1: serial over LAN is enabled.
            ipmi::GET_SOL => match data {
                [_, 1, ..] => (completion::OK, vec![0x11, 1]),
                [_, _, ..] => refuse(completion::PARAMETER_NOT_SUPPORTED),
                _ => refuse(completion::LENGTH_INVALID),
            },
            // 27.7: stopped, no action, never expired.
            ipmi::GET_WATCHDOG => (completion::OK, vec![0x04, 0, 0, 0, 0, 0, 0, 0]),
            ipmi::DCMI_CAPABILITIES => match data {
                // DCMI 1.5, 6.1.1: version, parameter revision; power management and in-band access.
                [GROUP_DCMI, 1] => (completion::OK, vec![GROUP_DCMI, 1, 5, 2, 0, 1, 1]),
                [GROUP_DCMI, _] => refuse(completion::INVALID_FIELD),
                _ => refuse(completion::INVALID_COMMAND),
            },
            ipmi::DCMI_POWER => self.power_reading(data),
            _ => refuse(completion::INVALID_COMMAND),
        }
    }

    fn notes(&self) -> std::sync::MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sdr_command(&self, command: Command, data: &[u8]) -> Answer {
        let records = hardware::records(&self.shared.board());
        if command == ipmi::SDR_REPOSITORY_INFO {
            let mut out = vec![0x51];
            out.extend_from_slice(&u16::try_from(records.len()).unwrap_or(u16::MAX).to_le_bytes());
            // 33.9: free space unspecified, last addition and erase; reservations are offered.
            out.extend_from_slice(&[0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0x02]);
            return (completion::OK, out);
        }
        let mut notes = self.notes();
        if command == ipmi::RESERVE_SDR_REPOSITORY {
            notes.sdr_reservation = notes.sdr_reservation.wrapping_add(1).max(1);
            return (completion::OK, notes.sdr_reservation.to_le_bytes().to_vec());
        }
        let [r0, r1, i0, i1, offset, count] = data else { return refuse(completion::LENGTH_INVALID) };
        // Only partial reads need one (33.11).
        if *offset != 0 && u16::from_le_bytes([*r0, *r1]) != notes.sdr_reservation {
            return refuse(completion::RESERVATION);
        }
        let place = match u16::from_le_bytes([*i0, *i1]) {
            sdr::FIRST => 0,
            sdr::LAST => records.len().saturating_sub(1),
            id => usize::from(id) - 1,
        };
        let Some(record) = records.get(place) else { return refuse(completion::NOT_PRESENT) };
        let from = usize::from(*offset);
        let wanted = if *count == 0xff { record.len().saturating_sub(from) } else { usize::from(*count) };
        if wanted > RECORD_PIECE {
            return refuse(completion::CANNOT_RETURN);
        }
        let next = if place + 1 < records.len() { u16::try_from(place + 2).unwrap_or(sdr::LAST) } else { sdr::LAST };
        match piece(record, from, wanted) {
            Some(piece) => (completion::OK, [next.to_le_bytes().as_slice(), piece].concat()),
            None => refuse(completion::OUT_OF_RANGE),
        }
    }

    fn sensor_command(&self, command: Command, data: &[u8]) -> Answer {
        let [number] = data else { return refuse(completion::LENGTH_INVALID) };
        let host = self.shared.host();
        let board = self.shared.board();
        let answer = if command == ipmi::SENSOR_READING {
            hardware::reading(&board, *number, clock::now(), &host)
        } else {
            hardware::thresholds(&board, *number)
        };
        answer.map_or_else(|| refuse(completion::NOT_PRESENT), |answer| (completion::OK, answer))
    }

    fn sel_command(&self, command: Command, data: &[u8]) -> Answer {
        let now = clock::now();
        let mut board = self.shared.board();
        let state =
            |id| SelReservation { id, last: board.host_log.records().next_back().map_or(0, |r| r.id), entries: board.host_log.len() };
        match (command, data) {
            (ipmi::SEL_INFO, _) => (completion::OK, hardware::sel_info(&board).write()),
            (ipmi::RESERVE_SEL, _) => {
                let mut notes = self.notes();
                let id = notes.sel_reservation.map_or(1, |r| r.id.wrapping_add(1).max(1));
                notes.sel_reservation = Some(state(id));
                (completion::OK, id.to_le_bytes().to_vec())
            }
            (ipmi::GET_SEL_ENTRY, [_, _, i0, i1, offset, count]) => {
                match hardware::sel_entry(&board, u16::from_le_bytes([*i0, *i1])) {
                    // The next id, then the piece of the record that was asked for.
                    Some(entry) => match (entry.get(..2), entry.get(2..).and_then(|r| piece(r, usize::from(*offset), usize::from(*count))))
                    {
                        (Some(next), Some(piece)) => (completion::OK, [next, piece].concat()),
                        _ => refuse(completion::OUT_OF_RANGE),
                    },
                    None => refuse(completion::NOT_PRESENT),
                }
            }
            (ipmi::ADD_SEL_ENTRY, record) => match hardware::add_sel_entry(&mut board, record, now) {
                Some(id) => (completion::OK, id.to_le_bytes().to_vec()),
                None if record.len() < sel::RECORD_BYTES => refuse(completion::LENGTH_INVALID),
                // 0xc4: out of space (table 5-2).
                None => refuse(0xc4),
            },
            (ipmi::CLEAR_SEL, [r0, r1, b'C', b'L', b'R', action]) => {
                let id = u16::from_le_bytes([*r0, *r1]);
                let held = self.notes().sel_reservation;
                match action {
                    0xaa if held == Some(state(id)) => {
                        board.clear_host_log(now);
                        // Erased at once (31.9: 1 is complete); the log's own entry about it does not cost the reservation.
                        let after = SelReservation {
                            id,
                            last: board.host_log.records().next_back().map_or(0, |r| r.id),
                            entries: board.host_log.len(),
                        };
                        self.notes().sel_reservation = Some(after);
                        (completion::OK, vec![1])
                    }
                    0xaa => refuse(completion::RESERVATION),
                    0x00 if held.is_some_and(|h| h.id == id) => (completion::OK, vec![1]),
                    0x00 => refuse(completion::RESERVATION),
                    _ => refuse(completion::INVALID_FIELD),
                }
            }
            (ipmi::GET_SEL_TIME, _) => {
                let secs = u32::try_from(board.clock(now).unix_secs()).unwrap_or(0);
                (completion::OK, secs.to_le_bytes().to_vec())
            }
            (ipmi::SET_SEL_TIME, [t0, t1, t2, t3]) => {
                let secs = i64::from(u32::from_le_bytes([*t0, *t1, *t2, *t3]));
                board.set_clock(now, crate::domain::time::Timestamp(secs * 1_000_000));
                refuse(completion::OK)
            }
            _ => refuse(completion::LENGTH_INVALID),
        }
    }

    fn fru_command(&self, command: Command, data: &[u8]) -> Answer {
        let Some(id) = data.first() else { return refuse(completion::LENGTH_INVALID) };
        let Some(fru) = hardware::fru(&self.shared.board(), &self.shared.chassis.identity(), *id) else {
            return refuse(completion::NOT_PRESENT);
        };
        match (command, data) {
            // 34.1: size, accessed by bytes.
            (ipmi::FRU_AREA, [_]) => {
                let [low, high] = u16::try_from(fru.len()).unwrap_or(u16::MAX).to_le_bytes();
                (completion::OK, vec![low, high, 0])
            }
            (ipmi::READ_FRU, [_, low, high, count]) => {
                match piece(&fru, usize::from(u16::from_le_bytes([*low, *high])), usize::from(*count)) {
                    Some(piece) => (completion::OK, [&[u8::try_from(piece.len()).unwrap_or(u8::MAX)], piece].concat()),
                    None => refuse(completion::OUT_OF_RANGE),
                }
            }
            _ => refuse(completion::LENGTH_INVALID),
        }
    }

    fn user_command(&self, command: Command, data: &[u8]) -> Answer {
        let mut accounts = self.shared.accounts();
        let most = ACCOUNTS_CAP as u8;
        let in_range = |id: &u8| (1..=most).contains(&(id & 0x3f));
        match (command, data) {
            (ipmi::GET_USER_ACCESS, [_, id]) if in_range(id) => {
                let enabled = accounts.list.iter().filter(|a| a.enabled).count() as u8;
                let account = accounts.list.iter().find(|a| a.id == u32::from(id & 0x3f));
                let state = if account.is_some_and(|a| a.enabled) { 0x40 } else { 0x80 };
                // No access for ids that are free.
                let access = account.map_or(0x0f, |a| 0x10 | privilege_of(a.role));
                (completion::OK, vec![most, state | enabled, 0, access])
            }
            (ipmi::SET_USER_ACCESS, [_, id, privilege, ..]) if in_range(id) => {
                if let Some(account) = accounts.list.iter_mut().find(|a| a.id == u32::from(id & 0x3f)) {
                    match privilege & 0x0f {
                        4 => account.role = Role::Administrator,
                        3 => account.role = Role::Operator,
                        1 | 2 => account.role = Role::ReadOnly,
                        _ => account.enabled = false,
                    }
                }
                refuse(completion::OK)
            }
            (ipmi::GET_USER_NAME, [id]) if in_range(id) => {
                let name = accounts.list.iter().find(|a| a.id == u32::from(id & 0x3f)).map(|a| a.name.as_bytes().to_vec());
                let mut name = name.unwrap_or_default();
                name.resize(USER_BYTES, 0);
                (completion::OK, name)
            }
            (ipmi::SET_USER_NAME, [id, name @ ..]) if in_range(id) && name.len() == USER_BYTES => {
                let name: Vec<u8> = name.iter().copied().take_while(|b| *b != 0).collect();
                let Ok(name) = String::from_utf8(name) else { return refuse(completion::INVALID_FIELD) };
                accounts.name(u32::from(id & 0x3f), &name);
                refuse(completion::OK)
            }
            (ipmi::SET_USER_PASSWORD, [id, operation, password @ ..]) if in_range(id) => {
                let Some(account) = accounts.list.iter_mut().find(|a| a.id == u32::from(id & 0x3f)) else {
                    return refuse(completion::INVALID_FIELD);
                };
                let text: Vec<u8> = password.iter().copied().take_while(|b| *b != 0).collect();
                let size = if id & 0x80 != 0 { 20 } else { 16 };
                match operation & 3 {
                    0 => account.enabled = false,
                    1 => account.enabled = true,
                    _ if password.len() != size => return refuse(completion::LENGTH_INVALID),
                    2 => account.password = String::from_utf8_lossy(&text).into_owned(),
                    // 22.30: 80h is a wrong password, 81h one of the other length.
                    _ if account.password.len() > 16 && size == 16 => return refuse(0x81),
                    _ if account.password.as_bytes() != text => return refuse(0x80),
                    _ => {}
                }
                refuse(completion::OK)
            }
            _ => refuse(completion::INVALID_FIELD),
        }
    }

    /// Chassis Identify (28.5): seconds, 15 unless said; the second byte forces it on.
    fn identify(&self, data: &[u8]) -> Answer {
        let forced = data.get(1).is_some_and(|force| force & 1 == 1);
        let secs = data.first().copied().unwrap_or(15);
        self.notes().led_until = (!forced && secs > 0).then(|| Instant::now() + Duration::from_secs(u64::from(secs)));
        self.shared.board().led = forced || secs > 0;
        refuse(completion::OK)
    }

    /// The LED goes off by itself when its time is over.
    fn end_identify(&self) {
        let over = self.notes().led_until.take_if(|until| *until <= Instant::now()).is_some();
        if over {
            self.shared.board().led = false;
        }
    }

    fn cold_reset(&self) -> Answer {
        let (shared, away) = (std::sync::Arc::clone(&self.shared), self.shared.setup.pace.real(RESTART));
        tokio::spawn(async move {
            tokio::time::sleep(LAST_WORDS).await;
            shared.go_away(away);
        });
        refuse(completion::OK)
    }

    /// Get LAN Configuration Parameters (23.2).
    fn lan(&self, data: &[u8]) -> Answer {
        let [channel, parameter, ..] = data else { return refuse(completion::LENGTH_INVALID) };
        if !matches!(channel & 0x0f, 0x0e | LAN_CHANNEL) {
            return refuse(completion::INVALID_FIELD);
        }
        let address = match self.shared.setup.listen {
            IpAddr::V4(v4) => v4.octets(),
            IpAddr::V6(_) => [0; 4],
        };
        // The MAC is made from the machine's UUID, locally administered.
        let [a, b, c, d, e, ..] = *self.shared.chassis.identity().uuid.0.as_bytes();
        let value: Vec<u8> = match parameter {
            // Set complete; authentication types offered and enabled (none: IPMI 2.0 has its own).
            0 => vec![0],
            1 => vec![0],
            2 => vec![0; 5],
            3 => address.to_vec(),
            // Static.
            4 => vec![1],
            5 => vec![0x02, a, b, c, d, e],
            6 => vec![255, 255, 255, 0],
            12 => [address.get(..3).unwrap_or_default(), &[254]].concat(),
            20 => vec![0, 0],
            _ => return refuse(completion::PARAMETER_NOT_SUPPORTED),
        };
        // Parameter revision 1.1.
        (completion::OK, [&[0x11], value.as_slice()].concat())
    }

    /// Get Power Reading (DCMI 1.5, 6.6.1): now, least, most, average, time, period, active.
    fn power_reading(&self, data: &[u8]) -> Answer {
        if data.first() != Some(&GROUP_DCMI) {
            return refuse(completion::INVALID_COMMAND);
        }
        let (now, host) = (clock::now(), self.shared.host());
        let board = self.shared.board();
        let Some(watts) = hardware::watts(&board, now, &host) else { return refuse(completion::NOT_PRESENT) };
        let mut out = vec![GROUP_DCMI];
        for _ in 0..4 {
            out.extend_from_slice(&watts.to_le_bytes());
        }
        out.extend_from_slice(&u32::try_from(board.clock(now).unix_secs()).unwrap_or(0).to_le_bytes());
        out.extend_from_slice(&1000u32.to_le_bytes());
        out.push(0x40);
        (completion::OK, out)
    }
}
