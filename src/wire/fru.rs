//! FRU inventory areas: chassis, board and product. Sections are those of the Platform Management FRU Information Storage
//! Definition v1.0, revision 1.3. Internal use and multirecord areas are passed over.

use std::time::Duration;

use crate::domain::time::Timestamp;
use crate::wire::ipmi::{checksum, text};

/// Fields after the named ones that a vendor may add; more are cut off.
const EXTRA_CAP: usize = 24;
/// Minutes are counted from 1996-01-01T00:00Z (11), which is this many seconds after 1970.
const MINUTES_SINCE_SECS: i64 = 820_454_400;

/// What one FRU says. A field is `None` when it is empty, not there, or not readable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fru {
    pub chassis: Option<Chassis>,
    pub board: Option<Board>,
    pub product: Option<Product>,
    /// What did not add up, in sentences: wrong checksums, areas that end early. The fields are read all the same.
    pub flaws: Vec<String>,
}

/// Section 10.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chassis {
    /// SMBIOS chassis type.
    pub kind: u8,
    pub part_number: Option<String>,
    pub serial: Option<String>,
    pub extra: Vec<String>,
}

/// Section 11.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Board {
    pub made_at: Option<Timestamp>,
    pub manufacturer: Option<String>,
    pub name: Option<String>,
    pub serial: Option<String>,
    pub part_number: Option<String>,
    pub extra: Vec<String>,
}

/// Section 12.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Product {
    pub manufacturer: Option<String>,
    pub name: Option<String>,
    pub part_number: Option<String>,
    pub version: Option<String>,
    pub serial: Option<String>,
    pub asset_tag: Option<String>,
    pub extra: Vec<String>,
}

impl Fru {
    /// The product's name or, where it has none, the board's.
    pub fn model(&self) -> Option<&String> {
        self.product.as_ref().and_then(|p| p.name.as_ref()).or_else(|| self.board.as_ref()?.name.as_ref())
    }

    pub fn manufacturer(&self) -> Option<&String> {
        self.product.as_ref().and_then(|p| p.manufacturer.as_ref()).or_else(|| self.board.as_ref()?.manufacturer.as_ref())
    }

    /// The machine's serial: the product's or, where it has none, the chassis'. The board's is another thing.
    pub fn system_serial(&self) -> Option<&String> {
        self.product.as_ref().and_then(|p| p.serial.as_ref()).or_else(|| self.chassis.as_ref()?.serial.as_ref())
    }

    pub fn asset_tag(&self) -> Option<&String> {
        self.product.as_ref()?.asset_tag.as_ref()
    }
}

/// Reads a FRU. `None` when it does not begin with a common header of format 1 (8), as blank EEPROMs do.
pub fn read(data: &[u8]) -> Option<Fru> {
    let header = data.first_chunk::<8>()?;
    let [version, _internal, chassis, board, product, ..] = *header;
    if version & 0x0f != 1 {
        return None;
    }
    let mut fru = Fru::default();
    if checksum(header) != 0 {
        fru.flaws.push("the common header has a wrong checksum".to_owned());
    }
    if let Some(area) = area(data, chassis, "chassis", &mut fru.flaws) {
        let mut fields = Fields::new(&area, 3, "chassis", &mut fru.flaws);
        fru.chassis = Some(Chassis {
            kind: area.get(2).copied().unwrap_or(0),
            part_number: fields.take(),
            serial: fields.take(),
            extra: fields.rest(),
        });
    }
    if let Some(area) = area(data, board, "board", &mut fru.flaws) {
        let mut fields = Fields::new(&area, 6, "board", &mut fru.flaws);
        let [manufacturer, name, serial, part_number, _file_id] = std::array::from_fn(|_| fields.take());
        fru.board = Some(Board { made_at: made_at(&area), manufacturer, name, serial, part_number, extra: fields.rest() });
    }
    if let Some(area) = area(data, product, "product", &mut fru.flaws) {
        let mut fields = Fields::new(&area, 3, "product", &mut fru.flaws);
        let [manufacturer, name, part_number, version, serial, asset_tag, _file_id] = std::array::from_fn(|_| fields.take());
        fru.product = Some(Product { manufacturer, name, part_number, version, serial, asset_tag, extra: fields.rest() });
    }
    Some(fru)
}

/// How many bytes must be read to have every area named in the header: the areas tell their own length (10 to 12) in their
/// second byte. `seen` is the beginning that was read so far.
pub fn wanted(seen: &[u8]) -> usize {
    let Some([_, _, areas @ ..]) = seen.first_chunk::<8>() else { return 8 };
    areas
        .iter()
        .take(3)
        .filter(|offset| **offset != 0)
        .map(|offset| {
            let at = usize::from(*offset) * 8;
            // Before the length byte itself was read, one more piece of 8 is wanted.
            at + seen.get(at + 1).map_or(8, |length| usize::from(*length) * 8)
        })
        .max()
        .unwrap_or(8)
}

/// One area, cut to its own length; `None` when the header has none.
fn area(data: &[u8], offset: u8, name: &str, flaws: &mut Vec<String>) -> Option<Vec<u8>> {
    if offset == 0 {
        return None;
    }
    let Some(rest) = data.get(usize::from(offset) * 8..).filter(|r| r.len() >= 3) else {
        flaws.push(format!("the {name} area lies beyond the end"));
        return None;
    };
    let length = rest.get(1).map_or(0, |l| usize::from(*l) * 8);
    let Some(area) = rest.get(..length).filter(|a| !a.is_empty()) else {
        flaws.push(format!("the {name} area says it has {length} bytes and there are {}", rest.len()));
        return Some(rest.to_vec());
    };
    if checksum(area) != 0 {
        flaws.push(format!("the {name} area has a wrong checksum"));
    }
    Some(area.to_vec())
}

/// Bytes 3 to 5 of the board area: minutes since 1996, 0 for unspecified.
fn made_at(area: &[u8]) -> Option<Timestamp> {
    let [low, middle, high] = *area.get(3..)?.first_chunk::<3>()?;
    let minutes = u32::from_le_bytes([low, middle, high, 0]);
    (minutes != 0).then(|| Timestamp(MINUTES_SINCE_SECS * 1_000_000).plus(Duration::from_secs(u64::from(minutes) * 60)))
}

/// The type/length fields of an area (13), until the end mark 0xc1.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn new(area: &'a [u8], at: usize, name: &str, flaws: &mut Vec<String>) -> Self {
        let rest = area.get(at..).unwrap_or_default();
        let mut walk = Self { rest };
        while walk.step().is_some() {}
        if walk.rest.first() != Some(&0xc1) {
            flaws.push(format!("the {name} area has no end mark"));
        }
        Self { rest }
    }

    /// The next field's kind and bytes.
    fn step(&mut self) -> Option<(u8, &'a [u8])> {
        let (kind, tail) = self.rest.split_first().filter(|(kind, _)| **kind != 0xc1)?;
        let (value, tail) = tail.split_at_checked(usize::from(kind & 0x3f))?;
        self.rest = tail;
        Some((kind >> 6, value))
    }

    fn take(&mut self) -> Option<String> {
        match self.step()? {
            // Binary: no text.
            (0, _) => None,
            (kind, value) => text(kind, value),
        }
    }

    fn rest(mut self) -> Vec<String> {
        let mut out = Vec::new();
        while let Some((kind, value)) = self.step() {
            if kind != 0 && out.len() < EXTRA_CAP {
                out.extend(text(kind, value));
            }
        }
        out
    }
}

/// Writes a FRU, as our simulated BMC shows it.
pub fn write(fru: &Fru) -> Vec<u8> {
    let mut areas: [Vec<u8>; 3] = Default::default();
    if let Some(c) = &fru.chassis {
        areas[0] = write_area(&[c.kind], &[&c.part_number, &c.serial], &c.extra);
    }
    if let Some(b) = &fru.board {
        let minutes = b.made_at.map_or(0, |t| (t.unix_secs() - MINUTES_SINCE_SECS).max(0) / 60);
        let [low, middle, high, ..] = u32::try_from(minutes).unwrap_or(0).to_le_bytes();
        areas[1] = write_area(&[25, low, middle, high], &[&b.manufacturer, &b.name, &b.serial, &b.part_number, &None], &b.extra);
    }
    if let Some(p) = &fru.product {
        let fields = [&p.manufacturer, &p.name, &p.part_number, &p.version, &p.serial, &p.asset_tag, &None];
        areas[2] = write_area(&[25], &fields, &p.extra);
    }
    let mut out = vec![1, 0];
    let mut at = 1;
    for area in &areas {
        out.push(if area.is_empty() { 0 } else { at });
        at += u8::try_from(area.len() / 8).unwrap_or(u8::MAX);
    }
    out.extend_from_slice(&[0, 0]);
    out.push(checksum(&out));
    out.extend(areas.concat());
    out
}

fn write_area(head: &[u8], fields: &[&Option<String>], extra: &[String]) -> Vec<u8> {
    let mut out = [&[1, 0], head].concat();
    for field in fields.iter().map(|f| f.as_deref().unwrap_or_default()).chain(extra.iter().map(String::as_str)) {
        let bytes = field.as_bytes();
        // A field of one byte would read as the end mark.
        let bytes = bytes.get(..bytes.len().min(63)).filter(|b| b.len() > 1).unwrap_or_default();
        out.push(0xc0 | u8::try_from(bytes.len()).unwrap_or(0));
        out.extend_from_slice(bytes);
    }
    out.push(0xc1);
    out.resize((out.len() + 1).next_multiple_of(8) - 1, 0);
    let eighths = u8::try_from((out.len() + 1) / 8).unwrap_or(u8::MAX);
    if let Some(length) = out.get_mut(1) {
        *length = eighths;
    }
    out.push(checksum(&out));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full() -> Fru {
        let some = |s: &str| Some(s.to_owned());
        Fru {
            chassis: Some(Chassis { kind: 23, part_number: some("CH-1"), serial: some("CHS1"), extra: vec!["rack".into()] }),
            board: Some(Board {
                // 14,000,000 minutes after 1996.
                made_at: Some(Timestamp((MINUTES_SINCE_SECS + 14_000_000 * 60) * 1_000_000)),
                manufacturer: some("LabCorp"),
                name: some("LabBoard"),
                serial: some("BRD42"),
                part_number: some("LB-100"),
                extra: vec![],
            }),
            product: Some(Product {
                manufacturer: some("LabCorp"),
                name: some("LabServer-1"),
                part_number: some("LS-1"),
                version: some("1.0"),
                serial: some("SN00042"),
                asset_tag: None,
                extra: vec!["one".into(), "two".into()],
            }),
            flaws: vec![],
        }
    }

    #[test]
    fn chassis_board_and_product_read_back_as_written() {
        let bytes = write(&full());
        assert_eq!(bytes.len() % 8, 0);
        assert_eq!(read(&bytes), Some(full()));
        assert_eq!(wanted(&bytes), bytes.len());
        assert_eq!(wanted(&bytes[..8]) % 8, 0);
        assert_eq!(full().board.unwrap().made_at.unwrap().to_string(), "2022-08-14T05:20:00Z");
    }

    /// Sections 8, 12 and 13 by hand: a product area of 24 bytes at 8, 6-bit, BCD and Latin-1 fields.
    #[test]
    fn a_fru_written_by_hand_is_read_in_every_encoding() {
        let mut product = vec![1, 3, 25, 0x83, 0x29, 0xdc, 0xa6, 0xc0, 0x42, 0x12, 0x34, 0xc2, b'v', b'2', 0xc0, 0xc0, 0xc0, 0xc1];
        product.resize(23, 0);
        product.push(checksum(&product));
        let header = [1, 0, 0, 0, 1, 0, 0, 0xfe];
        let fru = read(&[header.as_slice(), &product].concat()).unwrap();
        let read = fru.product.clone().unwrap();
        assert_eq!((read.manufacturer.as_deref(), read.name), (Some("IPMI"), None));
        assert_eq!((read.part_number.as_deref(), read.version.as_deref(), read.serial), (Some("1234"), Some("v2"), None));
        assert_eq!(fru.flaws, [""; 0]);
    }

    #[test]
    fn wrong_checksums_and_lengths_are_said_and_the_fields_are_read_all_the_same() {
        let good = write(&full());
        let mut bad = good.clone();
        bad[7] ^= 1;
        let last = bad.len() - 1;
        bad[last] ^= 1;
        let fru = read(&bad).unwrap();
        assert_eq!(fru.flaws, ["the common header has a wrong checksum", "the product area has a wrong checksum"]);
        assert_eq!(fru.product, full().product);
        let cut = read(&good[..good.len() - 20]).unwrap();
        assert!(cut.flaws.iter().any(|f| f.contains("product area says")), "{:?}", cut.flaws);
        assert_eq!(cut.product.unwrap().manufacturer.as_deref(), Some("LabCorp"));
        assert_eq!((read(&[0xff; 64]), read(&[]), read(&[1; 7])), (None, None, None));
    }

    #[test]
    fn the_machines_serial_is_the_products_then_the_chassis_never_the_boards() {
        let mut fru = full();
        assert_eq!(fru.system_serial().map(String::as_str), Some("SN00042"));
        fru.product.as_mut().unwrap().serial = None;
        assert_eq!(fru.system_serial().map(String::as_str), Some("CHS1"));
        fru.chassis = None;
        assert_eq!(fru.system_serial(), None);
        fru.product = None;
        assert_eq!(fru.model().map(String::as_str), Some("LabBoard"));
    }

    #[test]
    fn a_fru_cut_anywhere_or_with_any_byte_changed_does_not_panic() {
        let good = write(&full());
        for length in 0..good.len() {
            drop((read(&good[..length]), wanted(&good[..length])));
        }
        for at in 0..good.len() {
            for flip in 1..=255u8 {
                let mut bad = good.clone();
                bad[at] ^= flip;
                drop((read(&bad), wanted(&bad)));
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            drop((read(&bytes), wanted(&bytes)));
            drop(read(&[&[1, 0, 1, 2, 3, 0, 0, 0], bytes.as_slice()].concat()));
        }
    }
}
