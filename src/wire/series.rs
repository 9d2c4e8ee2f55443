//! Sensor samples and rollups as compact bytes: one block holds all sensors of one machine for one hour (samples) or one
//! day (five-minute rollups), column by column.
//!
//! Readings have few decimal digits and change little from one poll to the next. A column is therefore written as whole
//! numbers of its own decimal unit, each as the difference to the one before, in variable length (LEB128 of the zigzag
//! form, as protobuf has it). Values that are no short decimals are written as the XOR of their bits with those before.
//! A finished block is compressed with zstd on top. Reading never panics and is bounded in every length.

use std::collections::BTreeMap;

use crate::domain::reading::{Point, Rollup};

const VERSION: u8 = 1;
const PLAIN: u8 = 0;
const ZSTD: u8 = 1;
/// A block's polls: one a second for an hour, with room.
const MAX_ROWS: usize = 4096;
/// More sensors than any machine we know of has (a few hundred), by far.
const MAX_COLUMNS: usize = 4096;
/// Bytes of a block after decompression: 4096 polls of 256 sensors with 8 bytes each.
const MAX_PLAIN: usize = 8 << 20;
/// Decimal digits tried before a value counts as no short decimal.
const MAX_DIGITS: u8 = 6;
/// Whole numbers up to this are exact in an f64 (2^53).
const EXACT: f64 = 9_007_199_254_740_992.0;
/// The mean of a rollup keeps one digit more than its values.
const MEAN_FACTOR: f64 = 10.0;

/// Why stored bytes are no block.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadSeries {
    #[error("the block ends early")]
    Short,
    #[error("the block has version {0}, this program knows {VERSION}")]
    Version(u8),
    #[error("the block says {what} {count}, more than {most}")]
    TooMany { what: &'static str, count: u64, most: usize },
    #[error("the block cannot be decompressed")]
    Compression,
    #[error("the block holds {0}")]
    Nonsense(&'static str),
}

/// Samples of all sensors of one machine: a row for each poll, a column for each sensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples {
    /// Seconds since the block began, one for each poll, growing.
    pub times: Vec<u32>,
    /// By sensor number; as long as `times`, or shorter: missing rows at the end are absent.
    pub columns: BTreeMap<u32, Vec<Point>>,
}

impl Samples {
    /// Adds one poll. A time not after the last one is not taken (a clock that stepped back), nor one more than fits.
    pub fn push(&mut self, at: u32, points: &[(u32, Point)]) -> bool {
        if self.times.len() >= MAX_ROWS || self.times.last().is_some_and(|last| at <= *last) {
            return false;
        }
        let before = self.times.len();
        self.times.push(at);
        for (number, point) in points {
            if self.columns.len() >= MAX_COLUMNS && !self.columns.contains_key(number) {
                continue;
            }
            let column = self.columns.entry(*number).or_default();
            column.resize(before, Point::Absent);
            column.push(*point);
        }
        true
    }

    /// One sensor's points with their times, absent ones included.
    pub fn column(&self, number: u32) -> impl Iterator<Item = (u32, Point)> + '_ {
        let column = self.columns.get(&number).map_or(&[][..], Vec::as_slice);
        self.times.iter().copied().zip(column.iter().copied().chain(std::iter::repeat(Point::Absent)))
    }

    pub fn write(&self, compress: bool) -> Vec<u8> {
        let mut out = Writer::default();
        out.number(self.times.len() as u64);
        let mut last = 0;
        for time in &self.times {
            out.number(u64::from(time.saturating_sub(last)));
            last = *time;
        }
        out.number(self.columns.len() as u64);
        for (number, column) in &self.columns {
            out.number(u64::from(*number));
            out.number(column.len() as u64);
            out.runs(column.iter().map(|p| match p {
                Point::Absent => 0,
                Point::Good(_) => 1,
                Point::Implausible(_) => 2,
            }));
            let values: Vec<f64> = column
                .iter()
                .filter_map(|p| match p {
                    Point::Absent => None,
                    Point::Good(v) | Point::Implausible(v) => Some(*v),
                })
                .collect();
            out.values(&values);
        }
        out.seal(compress)
    }

    /// # Errors
    /// `BadSeries` for anything that [`Samples::write`] did not make.
    pub fn read(bytes: &[u8]) -> Result<Self, BadSeries> {
        let plain = unseal(bytes)?;
        let mut input = Reader(&plain);
        let rows = input.count("polls", MAX_ROWS)?;
        let mut times = Vec::with_capacity(rows);
        let mut last = 0_u32;
        for _ in 0..rows {
            let step = u32::try_from(input.number()?).map_err(|_| BadSeries::Nonsense("a time out of range"))?;
            last = last.checked_add(step).ok_or(BadSeries::Nonsense("a time out of range"))?;
            times.push(last);
        }
        let mut columns = BTreeMap::new();
        for _ in 0..input.count("sensors", MAX_COLUMNS)? {
            let number = u32::try_from(input.number()?).map_err(|_| BadSeries::Nonsense("a sensor number out of range"))?;
            let length = input.count("rows of a sensor", rows)?;
            let codes = input.runs(length)?;
            let mut values = input.values(codes.iter().filter(|c| **c != 0).count())?.into_iter();
            let mut next = || values.next().ok_or(BadSeries::Short);
            let column = codes
                .into_iter()
                .map(|code| match code {
                    0 => Ok(Point::Absent),
                    1 => Ok(Point::Good(next()?)),
                    2 => Ok(Point::Implausible(next()?)),
                    _ => Err(BadSeries::Nonsense("an unknown kind of point")),
                })
                .collect::<Result<_, _>>()?;
            columns.insert(number, column);
        }
        Ok(Self { times, columns })
    }

    /// The five-minute rollups of what is here. `bucket_of` names the bucket of a time; buckets without a good value have
    /// no rollup.
    pub fn rollups(&self, bucket_of: impl Fn(u32) -> u16) -> Rollups {
        let mut out = Rollups::default();
        for number in self.columns.keys() {
            let mut sums: BTreeMap<u16, (Rollup, f64)> = BTreeMap::new();
            for (at, point) in self.column(*number) {
                let Some(value) = point.good() else { continue };
                let (rollup, sum) = sums.entry(bucket_of(at)).or_insert((Rollup { min: value, mean: value, max: value, count: 0 }, 0.0));
                rollup.min = rollup.min.min(value);
                rollup.max = rollup.max.max(value);
                rollup.count += 1;
                *sum += value;
            }
            if !sums.is_empty() {
                let column = sums
                    .into_iter()
                    // A sum may round to just outside of what was summed.
                    .map(|(bucket, (r, sum))| (bucket, Rollup { mean: (sum / f64::from(r.count)).clamp(r.min, r.max), ..r }))
                    .collect();
                out.columns.insert(*number, column);
            }
        }
        out
    }
}

/// Rollups of all sensors of one machine for one day: by sensor number, then by five-minute bucket (0 to 287).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rollups {
    pub columns: BTreeMap<u32, BTreeMap<u16, Rollup>>,
}

/// Five-minute buckets of a day.
pub const BUCKETS: u16 = 288;

impl Rollups {
    /// Takes in the rollups of a part of the day. A bucket that is there already is replaced: it was made again from the
    /// whole samples.
    pub fn merge(&mut self, other: Self) {
        for (number, column) in other.columns {
            self.columns.entry(number).or_default().extend(column);
        }
    }

    pub fn write(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.number(self.columns.len() as u64);
        for (number, column) in &self.columns {
            out.number(u64::from(*number));
            out.number(column.len() as u64);
            let mut last = 0;
            for bucket in column.keys() {
                out.number(u64::from(bucket.saturating_sub(last)));
                last = *bucket;
            }
            for rollup in column.values() {
                out.number(u64::from(rollup.count));
            }
            let ends: Vec<f64> = column.values().flat_map(|r| [r.min, r.max]).collect();
            match digits_of(&ends) {
                Some(digits) => {
                    out.0.push(digits);
                    let unit = 10_f64.powi(i32::from(digits));
                    let mut last = 0_i64;
                    for r in column.values() {
                        let (min, max) = (whole(r.min * unit), whole(r.max * unit));
                        out.signed(min.wrapping_sub(last));
                        out.signed(max.wrapping_sub(min));
                        if max != min {
                            out.signed(whole((r.mean - r.min) * unit * MEAN_FACTOR));
                        }
                        last = min;
                    }
                }
                None => {
                    out.0.push(RAW);
                    for r in column.values() {
                        for value in [r.min, r.mean, r.max] {
                            out.0.extend_from_slice(&value.to_bits().to_le_bytes());
                        }
                    }
                }
            }
        }
        out.seal(true)
    }

    /// # Errors
    /// `BadSeries` for anything that [`Rollups::write`] did not make.
    pub fn read(bytes: &[u8]) -> Result<Self, BadSeries> {
        let plain = unseal(bytes)?;
        let mut input = Reader(&plain);
        let mut columns = BTreeMap::new();
        for _ in 0..input.count("sensors", MAX_COLUMNS)? {
            let number = u32::try_from(input.number()?).map_err(|_| BadSeries::Nonsense("a sensor number out of range"))?;
            let length = input.count("buckets", usize::from(BUCKETS))?;
            let mut buckets = Vec::with_capacity(length);
            let mut last = 0_u16;
            for _ in 0..length {
                let step = u16::try_from(input.number()?).map_err(|_| BadSeries::Nonsense("a bucket out of range"))?;
                last = last.checked_add(step).filter(|b| *b < BUCKETS).ok_or(BadSeries::Nonsense("a bucket out of range"))?;
                buckets.push(last);
            }
            let mut counts = Vec::with_capacity(length);
            for _ in 0..length {
                counts.push(u32::try_from(input.number()?).map_err(|_| BadSeries::Nonsense("a count out of range"))?);
            }
            let digits = input.byte()?;
            let mut column = BTreeMap::new();
            let mut last = 0_i64;
            for (bucket, count) in buckets.into_iter().zip(counts) {
                let rollup = if digits == RAW {
                    let (min, mean, max) = (input.float()?, input.float()?, input.float()?);
                    Rollup { min, mean, max, count }
                } else if digits <= MAX_DIGITS {
                    let unit = 10_f64.powi(i32::from(digits));
                    let min = last.wrapping_add(input.signed()?);
                    let width = input.signed()?;
                    let above = if width == 0 { 0 } else { input.signed()? };
                    last = min;
                    let (low, high) = (min as f64 / unit, min.wrapping_add(width) as f64 / unit);
                    Rollup { min: low, mean: low + above as f64 / (unit * MEAN_FACTOR), max: high, count }
                } else {
                    return Err(BadSeries::Nonsense("an unknown number of digits"));
                };
                column.insert(bucket, rollup);
            }
            columns.insert(number, column);
        }
        Ok(Self { columns })
    }
}

/// In the place of a number of digits: bits follow.
const RAW: u8 = 255;

/// The fewest decimal digits with which every value comes back exactly; `None` when there are none such.
fn digits_of(values: &[f64]) -> Option<u8> {
    let mut digits = 0;
    for value in values {
        // Minus zero has no whole number of its own.
        if !value.is_finite() || (*value == 0.0 && value.is_sign_negative()) {
            return None;
        }
        loop {
            let unit = 10_f64.powi(i32::from(digits));
            let scaled = (value * unit).round();
            if scaled.abs() < EXACT && (scaled / unit).to_bits() == value.to_bits() {
                break;
            }
            digits += 1;
            if digits > MAX_DIGITS {
                return None;
            }
        }
    }
    // A value that came back with fewer digits must also come back with the most that any of them needed.
    let unit = 10_f64.powi(i32::from(digits));
    let exact = |v: &f64| {
        let scaled = (v * unit).round();
        scaled.abs() < EXACT && (scaled / unit).to_bits() == v.to_bits()
    };
    values.iter().all(exact).then_some(digits)
}

fn whole(value: f64) -> i64 {
    // `as` saturates and turns NaN into 0; what comes here was checked by `digits_of` or is bounded by such values.
    value.round() as i64
}

#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    /// Unsigned LEB128.
    fn number(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push((n & 0x7f) as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    /// Zigzag: small numbers of either sign are short.
    fn signed(&mut self, n: i64) {
        self.number(((n << 1) ^ (n >> 63)) as u64);
    }

    /// Small numbers that come in runs.
    fn runs(&mut self, codes: impl Iterator<Item = u64>) {
        let mut run: Option<(u64, u64)> = None;
        for code in codes {
            run = match run {
                Some((same, length)) if same == code => Some((same, length + 1)),
                Some((other, length)) => {
                    self.number(other);
                    self.number(length);
                    Some((code, 1))
                }
                None => Some((code, 1)),
            };
        }
        if let Some((code, length)) = run {
            self.number(code);
            self.number(length);
        }
    }

    fn values(&mut self, values: &[f64]) {
        match digits_of(values) {
            Some(digits) => {
                self.0.push(digits);
                let unit = 10_f64.powi(i32::from(digits));
                let mut last = 0_i64;
                for value in values {
                    let n = whole(value * unit);
                    self.signed(n.wrapping_sub(last));
                    last = n;
                }
            }
            None => {
                self.0.push(RAW);
                let mut last = 0_u64;
                for value in values {
                    self.0.extend_from_slice(&(value.to_bits() ^ last).to_le_bytes());
                    last = value.to_bits();
                }
            }
        }
    }

    fn seal(self, compress: bool) -> Vec<u8> {
        // Compression in memory fails only for want of memory; the plain form is as good.
        let packed = if compress { zstd::bulk::compress(&self.0, 3).ok().filter(|p| p.len() < self.0.len()) } else { None };
        let mut out = Self(vec![VERSION]);
        match packed {
            Some(packed) => {
                out.0.push(ZSTD);
                out.number(self.0.len() as u64);
                out.0.extend(packed);
            }
            None => {
                out.0.push(PLAIN);
                out.0.extend(self.0);
            }
        }
        out.0
    }
}

fn unseal(bytes: &[u8]) -> Result<Vec<u8>, BadSeries> {
    match bytes {
        [VERSION, PLAIN, body @ ..] => Ok(body.to_vec()),
        [VERSION, ZSTD, body @ ..] => {
            let mut body = Reader(body);
            let length = body.count("bytes", MAX_PLAIN)?;
            zstd::bulk::decompress(body.0, length).map_err(|_| BadSeries::Compression)
        }
        [VERSION, _, ..] => Err(BadSeries::Nonsense("an unknown kind of block")),
        [version, _, ..] => Err(BadSeries::Version(*version)),
        _ => Err(BadSeries::Short),
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8, BadSeries> {
        let (first, rest) = self.0.split_first().ok_or(BadSeries::Short)?;
        self.0 = rest;
        Ok(*first)
    }

    fn number(&mut self) -> Result<u64, BadSeries> {
        let mut n = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(n);
            }
        }
        Err(BadSeries::Nonsense("a number without end"))
    }

    fn signed(&mut self) -> Result<i64, BadSeries> {
        let n = self.number()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    fn float(&mut self) -> Result<f64, BadSeries> {
        let (head, rest) = self.0.split_first_chunk::<8>().ok_or(BadSeries::Short)?;
        self.0 = rest;
        Ok(f64::from_bits(u64::from_le_bytes(*head)))
    }

    fn count(&mut self, what: &'static str, most: usize) -> Result<usize, BadSeries> {
        let count = self.number()?;
        usize::try_from(count).ok().filter(|n| *n <= most).ok_or(BadSeries::TooMany { what, count, most })
    }

    fn runs(&mut self, length: usize) -> Result<Vec<u64>, BadSeries> {
        let mut out = Vec::with_capacity(length);
        while out.len() < length {
            let code = self.number()?;
            let run = self.count("points in a run", length - out.len())?;
            if run == 0 {
                return Err(BadSeries::Nonsense("an empty run"));
            }
            out.extend(std::iter::repeat_n(code, run));
        }
        Ok(out)
    }

    fn values(&mut self, count: usize) -> Result<Vec<f64>, BadSeries> {
        let digits = self.byte()?;
        let mut out = Vec::with_capacity(count);
        if digits == RAW {
            let mut last = 0_u64;
            for _ in 0..count {
                last ^= self.float()?.to_bits();
                out.push(f64::from_bits(last));
            }
        } else if digits <= MAX_DIGITS {
            let unit = 10_f64.powi(i32::from(digits));
            let mut last = 0_i64;
            for _ in 0..count {
                last = last.wrapping_add(self.signed()?);
                out.push(last as f64 / unit);
            }
        } else {
            return Err(BadSeries::Nonsense("an unknown number of digits"));
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn point() -> impl Strategy<Value = Point> {
        prop_oneof![
            1 => Just(Point::Absent),
            6 => (-200_i32..20_000).prop_map(|n| Point::Good(f64::from(n) / 100.0)),
            2 => any::<f64>().prop_filter("equal to itself", |v| !v.is_nan()).prop_map(Point::Good),
            1 => any::<i16>().prop_map(|n| Point::Implausible(f64::from(n))),
        ]
    }

    fn samples() -> impl Strategy<Value = Samples> {
        proptest::collection::vec((1_u32..90, proptest::collection::btree_map(0_u32..40, point(), 0..12)), 0..40).prop_map(|polls| {
            let (mut out, mut at) = (Samples::default(), 0);
            for (step, points) in polls {
                at += step;
                assert!(out.push(at, &points.into_iter().collect::<Vec<_>>()));
            }
            out
        })
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(samples in samples(), compress: bool) {
            prop_assert_eq!(Samples::read(&samples.write(compress)).unwrap(), samples);
        }

        #[test]
        fn rollups_keep_minimum_and_maximum_and_nearly_the_mean(samples in samples()) {
            let rollups = samples.rollups(|at| u16::try_from(at / 300).unwrap());
            let back = Rollups::read(&rollups.write()).unwrap();
            prop_assert_eq!(back.columns.keys().collect::<Vec<_>>(), rollups.columns.keys().collect::<Vec<_>>());
            for (number, column) in &rollups.columns {
                for (bucket, ours) in column {
                    let theirs = back.columns[number][bucket];
                    prop_assert_eq!((theirs.min, theirs.max, theirs.count), (ours.min, ours.max, ours.count));
                    // A tenth of the last digit of the values, or exact; the last term is the rounding of f64 itself.
                    let last_digit = (theirs.mean - ours.mean).abs();
                    prop_assert!(last_digit <= 0.051 || last_digit <= ours.mean.abs() * 1e-12, "{} {}", theirs.mean, ours.mean);
                }
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0_u8..3) {
            let mut framed = vec![VERSION, kind];
            framed.extend(&bytes);
            for input in [&bytes, &framed] {
                if let Ok(samples) = Samples::read(input) {
                    prop_assert!(samples.times.len() <= MAX_ROWS);
                }
                if let Ok(rollups) = Rollups::read(input) {
                    prop_assert!(rollups.columns.len() <= MAX_COLUMNS);
                }
            }
        }

        #[test]
        fn a_block_cut_anywhere_is_refused(samples in samples(), cut in 0.0_f64..1.0) {
            let whole = samples.write(false);
            let cut = &whole[..((whole.len() as f64 * cut) as usize).min(whole.len() - 1)];
            prop_assert!(Samples::read(cut).is_err());
        }
    }

    #[test]
    fn a_clock_that_stepped_back_adds_no_row() {
        let mut s = Samples::default();
        assert!(s.push(60, &[(1, Point::Good(1.0))]));
        assert!(!s.push(60, &[(1, Point::Good(2.0))]));
        assert!(!s.push(30, &[(1, Point::Good(3.0))]));
        assert_eq!(s.column(1).collect::<Vec<_>>(), [(60, Point::Good(1.0))]);
    }

    #[test]
    fn a_sensor_that_comes_later_is_absent_before() {
        let mut s = Samples::default();
        s.push(1, &[(1, Point::Good(1.0))]);
        s.push(2, &[(2, Point::Good(5.5))]);
        let back = Samples::read(&s.write(true)).unwrap();
        assert_eq!(back.column(2).collect::<Vec<_>>(), [(1, Point::Absent), (2, Point::Good(5.5))]);
        assert_eq!(back.column(1).collect::<Vec<_>>(), [(1, Point::Good(1.0)), (2, Point::Absent)]);
    }

    /// The stored form of version 1. Never edit: add a version.
    #[test]
    fn the_stored_form_is_pinned() {
        let mut s = Samples::default();
        s.push(3, &[(7, Point::Good(21.5))]);
        s.push(63, &[(7, Point::Good(21.0))]);
        assert_eq!(s.write(false), [1, 0, 2, 3, 60, 1, 7, 2, 1, 2, 1, 0xae, 0x03, 9]);
        let rollups = s.rollups(|_| 4);
        let plain = unseal(&rollups.write()).unwrap();
        assert_eq!(plain, [1, 7, 1, 4, 2, 1, 0xa4, 0x03, 10, 50]);
    }

    /// Figures of a common server: 60 sensors polled each minute for a day.
    #[test]
    fn a_day_of_a_common_server_takes_few_bytes() {
        let mut noise = 1_u32;
        let mut random = || {
            noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            f64::from(noise >> 16) / 65_536.0
        };
        let (mut sample_bytes, mut rollups) = (0, Rollups::default());
        let mut walk = [0.0_f64; 60];
        for hour in 0..24_u16 {
            let mut block = Samples::default();
            for minute in 0..60 {
                let points: Vec<(u32, Point)> = (0..60_u32)
                    .map(|n| {
                        let at = &mut walk[n as usize];
                        let value = match n {
                            // Whole degrees that wander.
                            0..24 => {
                                *at = (*at + (random() - 0.5) * 0.9).clamp(-6.0, 6.0);
                                (45.0 + *at).round()
                            }
                            // Fans in steps of 120 RPM.
                            24..36 => {
                                *at = (*at + (random() - 0.5) * 90.0).clamp(-900.0, 900.0);
                                ((5400.0 + *at) / 120.0).round() * 120.0
                            }
                            // Rails in hundredths of a volt.
                            36..50 => ((12.06 + (random() - 0.5) * 0.06) * 100.0).round() / 100.0,
                            // Watts that never rest.
                            50..56 => (310.0 + (random() - 0.5) * 60.0).round(),
                            // States that do not change.
                            _ => 1.0,
                        };
                        (n, Point::Good(value))
                    })
                    .collect();
                block.push(minute * 60 + n_of(hour), &points);
            }
            sample_bytes += block.write(true).len();
            rollups.merge(block.rollups(|at| hour * 12 + u16::try_from(at / 300).unwrap().min(11)));
        }
        let (samples, rolled) = (sample_bytes as f64 / 60.0, rollups.write().len() as f64 / 60.0);
        println!("bytes per sensor-day: samples {samples:.0}, rollups {rolled:.0}");
        assert!(samples < 900.0 && rolled < 700.0, "{samples} {rolled}");
        assert_eq!(rollups.columns[&0].len(), usize::from(BUCKETS));
    }

    fn n_of(hour: u16) -> u32 {
        u32::from(hour % 7)
    }
}
