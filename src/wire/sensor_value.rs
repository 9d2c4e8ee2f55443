//! From a sensor's raw byte to a number: conversion factors, linearisation, units and thresholds (IPMI v2.0, rev. 1.1: 36.3,
//! 43.1, 43.17, 35.9).

use crate::domain::sensor::{Thresholds, Unit};
use crate::wire::sdr::{BadRecord, byte};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Analog {
    pub units: Units,
    pub curve: Curve,
    pub factors: Factors,
    pub limits: Limits,
    pub hysteresis_raw: Option<u8>,
    /// Lowest and highest raw value the sensor can give.
    pub range_raw: (u8, u8),
}

/// Threshold values of a record and whether they may be believed or must be read (43.1, bytes 12 and 19).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub access: Access,
    /// Lower non-critical, lower critical, lower non-recoverable, then the upper three, as Get Sensor Thresholds counts them.
    pub raw: [Option<u8>; 6],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    None,
    /// Get Sensor Thresholds gives them.
    Readable,
    /// Fixed: only the record tells.
    Fixed,
}

/// Raw format (43.1, byte 21, bits 7:6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Unsigned,
    OnesComplement,
    TwosComplement,
}

/// From a raw value to a number (36.3): `y = curve((M·x + B·10^Bexp) · 10^Rexp)`. Tolerance and accuracy are left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factors {
    pub format: Format,
    pub m: i16,
    pub b: i16,
    pub b_exponent: i8,
    pub r_exponent: i8,
}

/// Linearisation (43.1, byte 24).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    Linear,
    Ln,
    Log10,
    Log2,
    Exp,
    Exp10,
    Exp2,
    Inverse,
    Square,
    Cube,
    SquareRoot,
    CubeRoot,
    /// 70h: the factors differ from reading to reading and must be asked for (35.5).
    NonLinear,
}

/// The unit we show and how a value in the record's unit becomes one in it: `value * scale + offset`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Units {
    pub unit: Unit,
    scale: f64,
    offset: f64,
}

/// Signed value of the low `bits` bits.
fn signed(value: u16, bits: u32) -> i16 {
    let shift = 16 - bits;
    ((value << shift) as i16) >> shift
}

impl Curve {
    fn read(code: u8) -> Result<Self, BadRecord> {
        Ok(match code & 0x7f {
            0 => Self::Linear,
            1 => Self::Ln,
            2 => Self::Log10,
            3 => Self::Log2,
            4 => Self::Exp,
            5 => Self::Exp10,
            6 => Self::Exp2,
            7 => Self::Inverse,
            8 => Self::Square,
            9 => Self::Cube,
            10 => Self::SquareRoot,
            11 => Self::CubeRoot,
            0x70 => Self::NonLinear,
            other => return Err(BadRecord::Linearisation(other)),
        })
    }

    /// The code of [`Curve::read`].
    pub fn code(self) -> u8 {
        match self {
            Self::Linear => 0,
            Self::Ln => 1,
            Self::Log10 => 2,
            Self::Log2 => 3,
            Self::Exp => 4,
            Self::Exp10 => 5,
            Self::Exp2 => 6,
            Self::Inverse => 7,
            Self::Square => 8,
            Self::Cube => 9,
            Self::SquareRoot => 10,
            Self::CubeRoot => 11,
            Self::NonLinear => 0x70,
        }
    }

    fn apply(self, v: f64) -> f64 {
        match self {
            // The factors of a non-linear sensor hold for one reading and are linear there (36.2).
            Self::Linear | Self::NonLinear => v,
            Self::Ln => v.ln(),
            Self::Log10 => v.log10(),
            Self::Log2 => v.log2(),
            Self::Exp => v.exp(),
            Self::Exp10 => 10f64.powf(v),
            Self::Exp2 => v.exp2(),
            Self::Inverse => 1.0 / v,
            Self::Square => v * v,
            Self::Cube => v * v * v,
            Self::SquareRoot => v.sqrt(),
            Self::CubeRoot => v.cbrt(),
        }
    }
}

/// `value · 10^exponent`; division keeps decimal fractions as short as they were meant (121 · 10^-1 is 12.1).
fn scaled(value: f64, exponent: i8) -> f64 {
    let power = 10f64.powi(i32::from(exponent).abs());
    if exponent < 0 { value / power } else { value * power }
}

impl Factors {
    /// Bytes 25 to 30 of a full record, or 2 to 7 of the answer to Get Sensor Reading Factors (35.5): M and B are ten bits
    /// with their upper two in the next byte, the exponents four bits, all signed.
    pub fn read(format: Format, [m, m_high, b, b_high, _accuracy, exponents]: &[u8; 6]) -> Self {
        let ten = |low: u8, high: u8| signed(u16::from(low) | u16::from(high & 0xc0) << 2, 10);
        Self {
            format,
            m: ten(*m, *m_high),
            b: ten(*b, *b_high),
            // Four bits fit.
            r_exponent: signed(u16::from(exponents >> 4), 4) as i8,
            b_exponent: signed(u16::from(exponents & 0x0f), 4) as i8,
        }
    }

    /// The other way.
    pub fn write(self) -> [u8; 6] {
        let ten = |v: i16| [v as u8, ((v as u16 >> 2) & 0xc0) as u8];
        let ([m, m_high], [b, b_high]) = (ten(self.m), ten(self.b));
        [m, m_high, b, b_high, 0, ((self.r_exponent as u8) << 4) | (self.b_exponent as u8 & 0x0f)]
    }

    fn raw(self, raw: u8) -> f64 {
        f64::from(match self.format {
            Format::Unsigned => i16::from(raw),
            Format::TwosComplement => i16::from(raw as i8),
            // Negative numbers are the inverted positive ones; 0xff is -0.
            Format::OnesComplement if raw & 0x80 != 0 => -i16::from(!raw),
            Format::OnesComplement => i16::from(raw),
        })
    }
}

impl Analog {
    /// From a full record (43.1).
    pub fn read(b: &[u8]) -> Result<Self, BadRecord> {
        let format = match byte(b, 20)? >> 6 {
            0b00 => Format::Unsigned,
            0b01 => Format::OnesComplement,
            0b10 => Format::TwosComplement,
            _ => return Err(BadRecord::NotAnalog),
        };
        let curve = Curve::read(byte(b, 23)?)?;
        let factors = Factors::read(format, &[byte(b, 24)?, byte(b, 25)?, byte(b, 26)?, byte(b, 27)?, byte(b, 28)?, byte(b, 29)?]);
        if factors.m == 0 && curve != Curve::NonLinear {
            return Err(BadRecord::NoSlope);
        }
        let capabilities = byte(b, 11)?;
        let access = match capabilities >> 2 & 3 {
            0b00 => Access::None,
            0b11 => Access::Fixed,
            _ => Access::Readable,
        };
        // Byte 19: which thresholds there are, lower non-critical in bit 0. Values stand in the other order (37 to 42).
        let mask = byte(b, 18)?;
        let mut raw = [None; 6];
        for (n, slot) in raw.iter_mut().enumerate() {
            let at = [41, 40, 39, 38, 37, 36][n];
            if access != Access::None && mask >> n & 1 == 1 {
                *slot = Some(byte(b, at)?);
            }
        }
        let hysteresis_raw = match (capabilities >> 4 & 3, byte(b, 42)?) {
            (0, _) | (_, 0 | 0xff) => None,
            (_, raw) => Some(raw),
        };
        Ok(Self {
            units: Units::read(byte(b, 20)?, byte(b, 21)?, byte(b, 22)?),
            curve,
            factors,
            limits: Limits { access, raw },
            hysteresis_raw,
            range_raw: (byte(b, 35)?, byte(b, 34)?),
        })
    }

    /// The value of a raw reading in [`Units::unit`]; `None` when the formula gives no number (logarithm of nothing).
    pub fn value(&self, raw: u8) -> Option<f64> {
        self.value_by(&self.factors, raw)
    }

    /// The same with factors that hold for this reading only.
    pub fn value_by(&self, factors: &Factors, raw: u8) -> Option<f64> {
        if factors.m == 0 {
            return None;
        }
        let line = f64::from(factors.m) * factors.raw(raw) + scaled(f64::from(factors.b), factors.b_exponent);
        let value = self.units.convert(self.curve.apply(scaled(line, factors.r_exponent)));
        value.is_finite().then_some(value)
    }

    pub fn hysteresis(&self) -> Option<f64> {
        let raw = self.hysteresis_raw.filter(|_| self.curve == Curve::Linear)?;
        // A difference of raw values: the slope alone counts (36.3).
        Some((scaled(f64::from(self.factors.m) * f64::from(raw), self.factors.r_exponent) * self.units.scale).abs())
    }

    /// What the sensor can give, lowest first; `None` where the record leaves it at one point or the curve is unknown.
    pub fn range(&self) -> (Option<f64>, Option<f64>) {
        let (low, high) = self.range_raw;
        match (self.curve, self.value(low), self.value(high)) {
            (Curve::NonLinear, _, _) => (None, None),
            (_, Some(a), Some(b)) if a < b => (Some(a), Some(b)),
            (_, Some(a), Some(b)) if a > b => (Some(b), Some(a)),
            _ => (None, None),
        }
    }

    /// Raw thresholds in the order of Get Sensor Thresholds as values.
    pub fn thresholds(&self, raw: &[Option<u8>; 6]) -> Thresholds {
        let [lower_caution, lower_critical, lower_fatal, upper_caution, upper_critical, upper_fatal] =
            raw.map(|t| t.filter(|_| self.curve != Curve::NonLinear).and_then(|t| self.value(t)));
        Thresholds { lower_caution, lower_critical, lower_fatal, upper_caution, upper_critical, upper_fatal }
    }
}

/// Get Sensor Thresholds (35.9): a mask of the readable ones, then six values.
pub fn read_thresholds(data: &[u8]) -> Option<[Option<u8>; 6]> {
    let [mask, values @ ..] = data.first_chunk::<7>()?;
    let mut out = [None; 6];
    for (n, (slot, value)) in out.iter_mut().zip(values).enumerate() {
        *slot = (mask >> n & 1 == 1).then_some(*value);
    }
    Some(out)
}

impl Units {
    /// Bytes 21 to 23 of a full record (43.17, table 43-15): percentage and rate, base unit, modifier unit.
    pub fn read(flags: u8, base: u8, modifier: u8) -> Self {
        let plain = |unit| Self { unit, scale: 1.0, offset: 0.0 };
        let times = |unit, scale| Self { unit, scale, offset: 0.0 };
        let (percent, combined, rate) = (flags & 1 == 1, flags >> 1 & 3, flags >> 3 & 7);
        match (percent, combined, rate, base) {
            (true, _, _, _) => plain(Unit::Percent),
            // Litres per minute, by rate unit or by modifier (minutes are unit 23).
            (false, 0, 4, 37) => plain(Unit::LitrePerMinute),
            (false, 1, 0, 37) if modifier == 23 => plain(Unit::LitrePerMinute),
            (false, 1.., _, _) | (false, _, 1.., _) => plain(Unit::None),
            (false, 0, 0, 1) => plain(Unit::Celsius),
            (false, 0, 0, 2) => Self { unit: Unit::Celsius, scale: 5.0 / 9.0, offset: -160.0 / 9.0 },
            (false, 0, 0, 3) => Self { unit: Unit::Celsius, scale: 1.0, offset: -273.15 },
            (false, 0, 0, 4) => plain(Unit::Volt),
            (false, 0, 0, 5) => plain(Unit::Ampere),
            (false, 0, 0, 6) => plain(Unit::Watt),
            (false, 0, 0, 7) => plain(Unit::Joule),
            (false, 0, 0, 14) => times(Unit::Pascal, 1000.0),
            // Cubic feet per minute.
            (false, 0, 0, 17) => times(Unit::LitrePerMinute, 28.316_846_592),
            (false, 0, 0, 18) => plain(Unit::Rpm),
            (false, 0, 0, 19) => plain(Unit::Hertz),
            (false, 0, 0, 20) => times(Unit::Second, 1e-6),
            (false, 0, 0, 21) => times(Unit::Second, 1e-3),
            (false, 0, 0, 22) => plain(Unit::Second),
            (false, 0, 0, _) => plain(Unit::None),
        }
    }

    /// Bytes 21 to 23 for a unit, as our simulated BMC writes them.
    pub fn write(unit: Unit) -> [u8; 3] {
        let base = |code| [0, code, 0];
        match unit {
            Unit::Celsius => base(1),
            Unit::Volt => base(4),
            Unit::Ampere => base(5),
            Unit::Watt => base(6),
            Unit::Joule => base(7),
            Unit::Rpm => base(18),
            Unit::Hertz => base(19),
            Unit::Second => base(22),
            Unit::Percent => [1, 0, 0],
            Unit::LitrePerMinute => [4 << 3, 37, 0],
            Unit::Pascal | Unit::None => base(0),
        }
    }

    fn convert(self, value: f64) -> f64 {
        value * self.scale + self.offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn analog(curve: Curve, factors: Factors) -> Analog {
        Analog {
            units: Units { unit: Unit::Volt, scale: 1.0, offset: 0.0 },
            curve,
            factors,
            limits: Limits { access: Access::None, raw: [None; 6] },
            hysteresis_raw: Some(2),
            range_raw: (0, 255),
        }
    }

    fn factors(format: Format, m: i16, b: i16, b_exponent: i8, r_exponent: i8) -> Factors {
        Factors { format, m, b, b_exponent, r_exponent }
    }

    /// 36.3 by hand: (M·x + B·10^Bexp)·10^Rexp.
    #[test]
    fn the_formula_is_that_of_the_specification() {
        for (format, m, b, be, re, raw, want) in [
            (Format::Unsigned, 1, 0, 0, 0, 45, 45.0),
            (Format::Unsigned, 60, 0, 0, 0, 90, 5400.0),
            (Format::Unsigned, 1, 0, 0, -1, 121, 12.1),
            // Supermicro's 12V: 63·x·10^-3.
            (Format::Unsigned, 63, 0, 0, -3, 192, 12.096),
            (Format::Unsigned, 2, 5, 2, -1, 10, 52.0),
            (Format::Unsigned, 1, -64, 0, 0, 100, 36.0),
            (Format::TwosComplement, 1, 0, 0, 0, 0xf6, -10.0),
            (Format::OnesComplement, 1, 0, 0, 0, 0xf5, -10.0),
            (Format::OnesComplement, 1, 0, 0, 0, 0xff, 0.0),
            (Format::TwosComplement, -3, 7, 1, 1, 0x80, 4540.0),
        ] {
            assert_eq!(analog(Curve::Linear, factors(format, m, b, be, re)).value(raw), Some(want), "{m} {b} {be} {re} {raw}");
        }
    }

    #[test]
    fn every_curve_bends_as_table_43_says() {
        let f = factors(Format::Unsigned, 1, 0, 0, 0);
        for (curve, raw, want) in [
            (Curve::Ln, 1, 0.0),
            (Curve::Log10, 100, 2.0),
            (Curve::Log2, 8, 3.0),
            (Curve::Exp, 0, 1.0),
            (Curve::Exp10, 2, 100.0),
            (Curve::Exp2, 5, 32.0),
            (Curve::Inverse, 4, 0.25),
            // The SQR sensor that `ipmi-rs-core` reads as 3 and ipmitool as 9.
            (Curve::Square, 3, 9.0),
            (Curve::Cube, 3, 27.0),
            (Curve::SquareRoot, 81, 9.0),
            (Curve::CubeRoot, 27, 3.0),
            (Curve::NonLinear, 7, 7.0),
        ] {
            assert!((analog(curve, f).value(raw).unwrap() - want).abs() < 1e-9, "{curve:?}");
        }
        assert_eq!([Curve::Ln, Curve::Log10, Curve::Log2, Curve::Inverse].map(|c| analog(c, f).value(0)), [None; 4]);
        assert_eq!(analog(Curve::Exp10, factors(Format::Unsigned, 511, 511, 7, 7)).value(255), None, "infinite is no reading");
        for code in [12, 0x6f, 0x71, 0x7f] {
            assert_eq!(Curve::read(code), Err(BadRecord::Linearisation(code)));
        }
    }

    #[test]
    fn ten_bit_factors_and_four_bit_exponents_keep_their_sign() {
        for m in [-512, -1, 0, 1, 255, 256, 511] {
            for exponent in [-8, -1, 0, 7] {
                let f = factors(Format::Unsigned, m, -m - 1, exponent, -1 - exponent);
                assert_eq!(Factors::read(Format::Unsigned, &f.write()), f);
            }
        }
        // 43.1: M = 0x3ff is -1, the upper two bits sit in bits 7:6 of byte 26.
        assert_eq!(Factors::read(Format::Unsigned, &[0xff, 0xc0, 0, 0, 0, 0xf2]), factors(Format::Unsigned, -1, 0, 2, -1));
    }

    #[test]
    fn a_slope_of_zero_gives_no_number_whatever_the_rest() {
        assert_eq!(analog(Curve::Linear, factors(Format::Unsigned, 0, 5, 0, 0)).value(1), None);
    }

    #[test]
    fn hysteresis_is_a_difference_and_the_range_runs_upwards() {
        let a = analog(Curve::Linear, factors(Format::Unsigned, -2, 100, 0, 0));
        assert_eq!((a.hysteresis(), a.range()), (Some(4.0), (Some(-410.0), Some(100.0))));
        assert_eq!(analog(Curve::Square, factors(Format::Unsigned, 1, 0, 0, 0)).hysteresis(), None);
    }

    #[test]
    fn only_thresholds_that_the_mask_names_are_values() {
        // 35.9: lower non-critical, lower critical, lower non-recoverable, upper three.
        let raw = read_thresholds(&[0b01_1010, 1, 2, 3, 4, 5, 6]).unwrap();
        assert_eq!(raw, [None, Some(2), None, Some(4), Some(5), None]);
        let t = analog(Curve::Linear, factors(Format::Unsigned, 1, 0, 0, 0)).thresholds(&raw);
        assert_eq!((t.lower_caution, t.lower_critical, t.lower_fatal), (None, Some(2.0), None));
        assert_eq!((t.upper_caution, t.upper_critical, t.upper_fatal), (Some(4.0), Some(5.0), None));
        assert_eq!(read_thresholds(&[0x3f, 1, 2, 3, 4, 5]), None);
    }

    #[test]
    fn units_become_ours_and_unknown_ones_stay_unnamed() {
        let at = |flags, base, modifier, value: f64| {
            let u = Units::read(flags, base, modifier);
            (u.unit, (u.convert(value) * 1000.0).round() / 1000.0)
        };
        assert_eq!(at(0, 2, 0, 212.0), (Unit::Celsius, 100.0));
        assert_eq!(at(0, 3, 0, 0.0), (Unit::Celsius, -273.15));
        assert_eq!(at(0, 17, 0, 10.0), (Unit::LitrePerMinute, 283.168));
        assert_eq!(at(1, 6, 0, 40.0), (Unit::Percent, 40.0));
        assert_eq!(at(4 << 3, 37, 0, 3.0), (Unit::LitrePerMinute, 3.0));
        assert_eq!(at(3 << 3, 7, 0, 3.0), (Unit::None, 3.0), "joules per second are not joules");
        assert_eq!(at(0, 89, 0, 3.0), (Unit::None, 3.0));
        for unit in [Unit::Celsius, Unit::Volt, Unit::Rpm, Unit::Percent, Unit::LitrePerMinute, Unit::Watt] {
            let [flags, base, modifier] = Units::write(unit);
            assert_eq!(Units::read(flags, base, modifier).unit, unit);
        }
    }
}
