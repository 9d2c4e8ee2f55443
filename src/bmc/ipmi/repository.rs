//! The SDR repository (IPMI v2.0, section 33) or, where there is none, the device SDRs (section 35): read once, kept until the
//! BMC says that it changed, so that a poll of the sensors is one small request for each of them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::bmc::BmcError;
use crate::bmc::ipmi::Ipmi;
use crate::bmc::ipmi::session::Repeat;
use crate::domain::bmc_features::Oddity;
use crate::wire::ipmi::{self, Command, completion};
use crate::wire::sdr::{self, Content, FruLocator, HEADER_BYTES, Record, SensorKey, SensorRecord};
use crate::wire::sensor_value::{Access, read_thresholds};

/// Records of one repository; large servers have a few hundred.
const RECORDS_CAP: usize = 2048;
/// An administrator may change thresholds, and the repository does not tell.
const LIMITS_AGE_CAP: Duration = Duration::from_secs(3600);
/// A repository that changes all the time is read this often before we give up.
const RESERVATIONS_CAP: u8 = 8;
/// Count in a Get SDR that asks for all of a record (33.12).
const WHOLE: u8 = 0xff;
/// Pieces tried where a BMC cannot give a whole record (0xca, and what others say instead), one after the other.
const PIECES: [u8; 4] = [32, 16, 8, 4];

/// What the BMC keeps about its sensors and FRUs.
pub struct Repository {
    stamp: Stamp,
    /// Readable ones of every controller; those of the BMC itself can be asked.
    pub sensors: Vec<SensorRecord>,
    pub frus: Vec<FruLocator>,
    pub not_understood: Vec<Oddity>,
    /// Raw thresholds by sensor, as Get Sensor Thresholds gave them or, where it does not, as the record has them.
    pub limits: HashMap<SensorKey, [Option<u8>; 6]>,
    limits_at: Instant,
}

/// What changes when the records change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stamp {
    /// Get SDR Repository Info (33.9): count, last addition, last erase.
    Repository { count: u16, added: u32, erased: u32 },
    /// Get Device SDR Info (35.2): count and population change indicator.
    Device { count: u8, change: Option<u32> },
}

impl Stamp {
    fn commands(self) -> (Command, Command) {
        match self {
            Self::Repository { .. } => (ipmi::RESERVE_SDR_REPOSITORY, ipmi::GET_SDR),
            Self::Device { .. } => (ipmi::RESERVE_DEVICE_SDRS, ipmi::GET_DEVICE_SDR),
        }
    }
}

/// One record as it was asked for.
struct Fetched {
    asked: u16,
    next: u16,
    bytes: Vec<u8>,
}

/// Why a piece of a record did not come.
enum Piece {
    Got {
        next: u16,
        data: Vec<u8>,
    },
    /// Another writer changed the repository (0xc5): the reservation is gone.
    ReservationLost,
    TooMuch,
    NoSuchRecord,
}

impl Ipmi {
    /// The records, from memory where the BMC's stamp is the same.
    pub(super) async fn repository(&self) -> Result<Arc<Repository>, BmcError> {
        let stamp = self.stamp().await?;
        let kept = self.repository.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(kept) = kept.filter(|r| r.stamp == stamp && r.limits_at.elapsed() < LIMITS_AGE_CAP) {
            return Ok(kept);
        }
        let fresh = Arc::new(self.read_repository(stamp).await?);
        *self.repository.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&fresh));
        Ok(fresh)
    }

    async fn stamp(&self) -> Result<Stamp, BmcError> {
        let (code, data) = self.raw(ipmi::SDR_REPOSITORY_INFO, &[], Repeat::Yes).await?;
        if code == completion::OK
            && let Some([_version, c0, c1, _, _, a0, a1, a2, a3, e0, e1, e2, e3]) = data.first_chunk::<13>()
        {
            return Ok(Stamp::Repository {
                count: u16::from_le_bytes([*c0, *c1]),
                added: u32::from_le_bytes([*a0, *a1, *a2, *a3]),
                erased: u32::from_le_bytes([*e0, *e1, *e2, *e3]),
            });
        }
        if code == completion::OK {
            return Err(self.nonsense("SDR repository information that ends early"));
        }
        // Small controllers keep no repository and give their sensors themselves.
        let (device, data) = self.raw(ipmi::DEVICE_SDR_INFO, &[], Repeat::Yes).await?;
        match (device, data.as_slice()) {
            (completion::OK, [count, _flags, rest @ ..]) => {
                Ok(Stamp::Device { count: *count, change: rest.first_chunk::<4>().map(|c| u32::from_le_bytes(*c)) })
            }
            _ => Err(match self.judge(ipmi::SDR_REPOSITORY_INFO, code) {
                Err(BmcError::Unsupported { .. }) | Ok(()) => self.unsupported("sensor data records".to_owned()),
                Err(other) => other,
            }),
        }
    }

    async fn read_repository(&self, stamp: Stamp) -> Result<Repository, BmcError> {
        let mut repository = Repository {
            stamp,
            sensors: Vec::new(),
            frus: Vec::new(),
            not_understood: Vec::new(),
            limits: HashMap::new(),
            limits_at: Instant::now(),
        };
        let (records, odd) = self.walk(stamp).await?;
        repository.not_understood.extend(odd);
        let mut keys = HashSet::new();
        for Fetched { asked, bytes, .. } in records {
            let source = format!("sdr record {asked:#06x}");
            match Record::read(&bytes) {
                Ok(Record::Sensors(sensors)) => {
                    for sensor in sensors {
                        if let Content::Broken(why) = &sensor.content {
                            let what = format!("the record of {:?} has {why}", sensor.name);
                            repository.not_understood.push(Oddity { source: source.clone(), what });
                        }
                        if keys.insert(sensor.key) {
                            repository.sensors.push(sensor);
                        } else {
                            let what = format!("a second record for sensor {}", sensor.key);
                            repository.not_understood.push(Oddity { source: source.clone(), what });
                        }
                    }
                }
                Ok(Record::Fru(locator)) => repository.frus.push(locator),
                Ok(Record::Mc(_) | Record::Other { .. }) => {}
                Err(why) => repository.not_understood.push(Oddity { source, what: why.to_string() }),
            }
        }
        for sensor in &repository.sensors {
            if let Some(limits) = self.limits_of(sensor).await? {
                repository.limits.insert(sensor.key, limits);
            }
        }
        Ok(repository)
    }

    /// Thresholds in force now: the BMC's where it gives them, the record's where it does not.
    async fn limits_of(&self, sensor: &SensorRecord) -> Result<Option<[Option<u8>; 6]>, BmcError> {
        let Content::Analog(analog) = &sensor.content else { return Ok(None) };
        match analog.limits.access {
            Access::None => Ok(None),
            Access::Fixed => Ok(Some(analog.limits.raw)),
            Access::Readable if sensor.key.owner != sdr::BMC => Ok(Some(analog.limits.raw)),
            Access::Readable => {
                let (code, data) = self.raw_at(sensor.key.lun, ipmi::SENSOR_THRESHOLDS, &[sensor.key.number], Repeat::Yes).await?;
                let told = if code == completion::OK { read_thresholds(&data) } else { None };
                Ok(Some(told.unwrap_or(analog.limits.raw)))
            }
        }
    }

    /// Every record, in the order of the BMC's chain of ids. A chain that runs in a circle ends where it does.
    async fn walk(&self, stamp: Stamp) -> Result<(Vec<Fetched>, Vec<Oddity>), BmcError> {
        let (reserve, get) = stamp.commands();
        let mut reader = Reader { ipmi: self, reserve, get, reservation: 0, left: RESERVATIONS_CAP, whole: true, piece: 0 };
        reader.reserve().await?;
        let (mut records, mut odd, mut visited) = (Vec::new(), Vec::new(), HashSet::new());
        let mut id = sdr::FIRST;
        loop {
            visited.insert(id);
            let Some(record) = reader.record(id).await? else { break };
            let next = record.next;
            records.push(record);
            if next == sdr::LAST {
                break;
            }
            if visited.contains(&next) {
                odd.push(Oddity { source: format!("sdr record {id:#06x}"), what: format!("its successor {next:#06x} was there before") });
                break;
            }
            if records.len() >= RECORDS_CAP {
                odd.push(Oddity { source: "sdr".to_owned(), what: format!("more than {RECORDS_CAP} records; the rest was left out") });
                break;
            }
            id = next;
        }
        Ok((records, odd))
    }
}

/// A walk through one repository: its reservation, and how much the BMC gives at a time.
struct Reader<'a> {
    ipmi: &'a Ipmi,
    reserve: Command,
    get: Command,
    reservation: u16,
    left: u8,
    whole: bool,
    /// Index into [`PIECES`].
    piece: usize,
}

impl Reader<'_> {
    /// Partial reads need a reservation (33.11); BMCs without the command take 0.
    async fn reserve(&mut self) -> Result<(), BmcError> {
        if self.left == 0 {
            return Err(BmcError::Busy {
                address: self.ipmi.address.clone(),
                reason: "its sensor records change faster than they can be read".to_owned(),
            });
        }
        self.left -= 1;
        let (code, data) = self.ipmi.raw(self.reserve, &[], Repeat::Yes).await?;
        self.reservation = match (code, data.first_chunk::<2>()) {
            (completion::OK, Some(id)) => u16::from_le_bytes(*id),
            _ => 0,
        };
        Ok(())
    }

    /// One record; `None` when the BMC does not have it (an empty repository has no first one).
    async fn record(&mut self, id: u16) -> Result<Option<Fetched>, BmcError> {
        loop {
            let piece = if self.whole { self.ask(id, 0, WHOLE).await? } else { self.in_pieces(id).await? };
            match piece {
                Piece::Got { next, data } => {
                    let length = data.get(4).map(|l| HEADER_BYTES + usize::from(*l));
                    match (length, self.whole) {
                        (Some(length), _) if data.len() >= length => return Ok(Some(Fetched { asked: id, next, bytes: data })),
                        // It took the count for less than all.
                        (_, true) => self.whole = false,
                        (_, false) => return Ok(Some(Fetched { asked: id, next, bytes: data })),
                    }
                }
                Piece::ReservationLost => self.reserve().await?,
                Piece::NoSuchRecord => return Ok(None),
                Piece::TooMuch if self.whole => self.whole = false,
                Piece::TooMuch if self.piece + 1 < PIECES.len() => self.piece += 1,
                Piece::TooMuch => return Err(self.ipmi.nonsense("no sensor record, in pieces of no size")),
            }
        }
    }

    async fn in_pieces(&self, id: u16) -> Result<Piece, BmcError> {
        let size = PIECES.get(self.piece).copied().unwrap_or(4);
        let (mut record, mut length) = (Vec::new(), HEADER_BYTES);
        loop {
            let count = if record.is_empty() { HEADER_BYTES } else { (length - record.len()).min(usize::from(size)) };
            let offset = u8::try_from(record.len()).unwrap_or(u8::MAX);
            match self.ask(id, offset, u8::try_from(count).unwrap_or(u8::MAX)).await? {
                Piece::Got { data, .. } if data.is_empty() => return Ok(Piece::TooMuch),
                Piece::Got { next, data } => {
                    record.extend(data.into_iter().take(count));
                    if record.len() >= HEADER_BYTES {
                        length = HEADER_BYTES + usize::from(record.get(4).copied().unwrap_or(0));
                    }
                    // The offset is one byte.
                    if record.len() >= length || record.len() > usize::from(u8::MAX) {
                        return Ok(Piece::Got { next, data: record });
                    }
                }
                other => return Ok(other),
            }
        }
    }

    async fn ask(&self, id: u16, offset: u8, count: u8) -> Result<Piece, BmcError> {
        let ([r0, r1], [i0, i1]) = (self.reservation.to_le_bytes(), id.to_le_bytes());
        let (code, data) = self.ipmi.raw(self.get, &[r0, r1, i0, i1, offset, count], Repeat::Yes).await?;
        match (code, data.as_slice()) {
            (completion::OK, [n0, n1, data @ ..]) => Ok(Piece::Got { next: u16::from_le_bytes([*n0, *n1]), data: data.to_vec() }),
            (completion::OK, _) => Err(self.ipmi.nonsense("a sensor record without a successor")),
            (completion::RESERVATION, _) => Ok(Piece::ReservationLost),
            (completion::NOT_PRESENT, _) => Ok(Piece::NoSuchRecord),
            (
                completion::CANNOT_RETURN
                | completion::TOO_LONG
                | completion::LENGTH_INVALID
                | completion::OUT_OF_RANGE
                | completion::INVALID_FIELD
                | completion::UNSPECIFIED,
                _,
            ) => Ok(Piece::TooMuch),
            (code, _) => Err(self.ipmi.judge(self.get, code).err().unwrap_or_else(|| self.ipmi.nonsense("a sensor record that is none"))),
        }
    }
}
