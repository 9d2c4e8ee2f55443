//! Damage to everything that a BMC sends and we parse: every cut, every flipped bit, then random damage for as long as
//! `HOSTLER_FUZZ_SECS` says (2 s each by default, 20 s in `tests/run`). Two hours, from another seed:
//! `HOSTLER_FUZZ_SEED=7 HOSTLER_FUZZ_SECS=7200 cargo test --test it fuzz -- --nocapture`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use hostler::domain::hardware_log::LogCursor;
use hostler::domain::sensor::Reading;
use hostler::wire::ipmi::{self, Request, Response};
use hostler::wire::rmcp::{self, Exchange, Keys, OpenRequest, OpenResponse, Packet, Payload, Rakp1, Rakp2, RakpCode, Suite};
use hostler::wire::sdr::{Content, FruLocator, Record, SensorRecord};
use hostler::wire::sensor_value::Curve;
use hostler::wire::{fru, sel, sol};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::ipmi_hostile::temperature;
use super::kit::{bmcs, machine};
use super::recorded::{Letters, Recorded};

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

fn time() -> Duration {
    Duration::from_secs(setting("HOSTLER_FUZZ_SECS", 2))
}

fn seed() -> u64 {
    setting("HOSTLER_FUZZ_SEED", 0x1b31)
}

/// Runs `parse` on every damaged input; a panic prints the input.
fn fuzz(what: &str, seeds: &[Vec<u8>], parse: impl Fn(&[u8])) {
    let begun = Instant::now();
    let mut inputs = 0u64;
    let mut try_one = |bytes: &[u8]| {
        inputs += 1;
        let run = std::panic::AssertUnwindSafe(|| parse(bytes));
        assert!(std::panic::catch_unwind(run).is_ok(), "{what}, input {inputs}: {bytes:02x?}");
    };
    for whole in seeds {
        for length in 0..=whole.len() {
            try_one(&whole[..length]);
        }
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                try_one(&bytes);
            }
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            try_one(&bytes);
        }
    }
    let mut r = StdRng::seed_from_u64(seed());
    while begun.elapsed() < time() {
        for _ in 0..1000 {
            try_one(&damage(&mut r, seeds));
        }
    }
    println!("{what}: {inputs} damaged inputs in {:.1} s", begun.elapsed().as_secs_f64());
}

/// Cuts, flips, repeats and splices, as a bad network, a bad EEPROM or a bad person would.
fn damage(r: &mut StdRng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[r.random_range(0..seeds.len())].clone();
    for _ in 0..r.random_range(1..6) {
        let length = bytes.len();
        match r.random_range(0..6) {
            0 if length > 0 => bytes[r.random_range(0..length)] ^= 1 << r.random_range(0..8),
            1 if length > 0 => bytes[r.random_range(0..length)] = r.random(),
            2 => bytes.truncate(r.random_range(0..=length)),
            3 => bytes.insert(r.random_range(0..=length), r.random()),
            4 => {
                let other = &seeds[r.random_range(0..seeds.len())];
                bytes.extend_from_slice(&other[r.random_range(0..other.len())..]);
            }
            _ => bytes.extend((0..r.random_range(0..20)).map(|_| r.random::<u8>())),
        }
    }
    bytes
}

fn keys(suite: Suite) -> Keys {
    let exchange = Exchange {
        suite,
        console_session: 1,
        bmc_session: 2,
        console_random: [1; 16],
        bmc_random: [2; 16],
        bmc_guid: [3; 16],
        role: 4,
        user: b"admin".to_vec(),
    };
    exchange.keys(&rmcp::password_key(b"secret"))
}

#[test]
fn fuzz_rmcp() {
    let both = [keys(Suite::Sha1), keys(Suite::Sha256)];
    let message = [0x20, 0x18, 0xc8, 0x81, 0, 1, 0x7e];
    let mut seeds = vec![
        Packet::plain20(Payload::Rakp2, &[0; 60]),
        Packet::plain20(Payload::OpenResponse, &[0; 36]),
        Packet::plain20(Payload::Rakp4, &[0; 24]),
        Packet::plain15(&message),
        Packet::pong(7),
        message.to_vec(),
        b"\x01\x00\x00\x00text".to_vec(),
    ];
    for keys in &both {
        seeds.push(keys.seal(1, 1, Payload::Ipmi, &message, [9; 16]));
        seeds.push(keys.seal(1, 2, Payload::Sol, b"\x01\x00\x00\x00text", [9; 16]));
    }
    fuzz("RMCP+", &seeds, |bytes| {
        drop((
            Request::read(bytes),
            Response::read(bytes),
            ipmi::guid_text(bytes),
            ipmi::cipher_suites(bytes),
            ipmi::firmware_version(bytes),
        ));
        drop((OpenRequest::read(bytes), OpenResponse::read(bytes), Rakp1::read(bytes), Rakp2::read(bytes), RakpCode::read(bytes)));
        for keys in &both {
            drop(keys.open(bytes));
        }
        if let Ok(Packet::Session { packet, .. }) = Packet::read(bytes) {
            both.iter().for_each(|keys| drop(keys.open(packet)));
        }
        if let Ok(packet) = sol::SolPacket::read(bytes) {
            drop(sol::Stream::default().receive(packet));
        }
    });
}

#[test]
fn fuzz_sdr() {
    let locator = FruLocator { name: Some("PSU".into()), owner: 0x20, logical: true, id: 1, entity: 10, instance: 1 };
    let seeds = [
        temperature(1, Curve::Linear).write(1),
        temperature(2, Curve::Exp10).write(2),
        SensorRecord { content: Content::Discrete, event_type: 0x6f, sensor_type: 8, ..temperature(3, Curve::Linear) }.write(3),
        locator.write(4),
    ];
    fuzz("SDR", &seeds, |bytes| {
        let Ok(Record::Sensors(sensors)) = Record::read(bytes) else { return };
        for sensor in sensors {
            let answer = [bytes.first().copied().unwrap_or(0), 0xc0, 0xff, 0xff];
            let reading = sensor.reading(&answer, None);
            assert!(reading.number().is_none_or(f64::is_finite));
            assert!(sensor.health(&answer, &reading).is_none() || !matches!(reading, Reading::Unavailable { .. }));
        }
    });
}

#[test]
fn fuzz_sel() {
    let seeds = [
        vec![5, 0, 2, 0x30, 0xc3, 5, 0x6b, 0x20, 0, 4, 1, 1, 0x01, 0x59, 95, 90],
        vec![6, 0, 2, 0x30, 0xc3, 5, 0x6b, 0x20, 0, 4, 0x0c, 9, 0xef, 0xa1, 0x2a, 0x80],
        vec![7, 0, 0xc0, 0x30, 0xc3, 5, 0x6b, 1, 2, 3, b't', b'e', b'x', b't', 0, 0],
        vec![8, 0, 0xe0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13],
        vec![0x51, 5, 0, 0xff, 0xff, 1, 0, 0, 0, 2, 0, 0, 0, 2],
    ];
    let sensor = temperature(1, Curve::Linear);
    fuzz("SEL", &seeds, |bytes| {
        if let Some(record) = sel::Record::read(bytes) {
            assert!(!record.message(Some(&sensor)).is_empty() && !record.message(None).is_empty());
            _ = (record.severity(), record.direction(), record.event());
        }
        assert!(sel::Info::read(bytes).is_none_or(|i| i.fill().is_none_or(|(used, total)| used <= total)));
    });
}

#[test]
fn fuzz_fru() {
    let product = fru::Product { manufacturer: Some("LabCorp".into()), serial: Some("SN1".into()), ..fru::Product::default() };
    let recorded = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/ipmi/fru.bin")).unwrap();
    let seeds = [fru::write(&fru::Fru { board: Some(fru::Board::default()), product: Some(product), ..fru::Fru::default() }), recorded];
    fuzz("FRU", &seeds, |bytes| drop((fru::read(bytes), fru::wanted(bytes))));
}

/// A value in the place of another.
fn nonsense(r: &mut StdRng, links: &[String]) -> Value {
    match r.random_range(0..12) {
        0 => Value::Null,
        1 => json!(r.random::<f64>() * 1e300),
        2 => json!(r.random::<i64>()),
        3 => json!("N/A"),
        4 => json!("\u{0}\u{202e}<script>\u{7f}".repeat(r.random_range(0..400))),
        5 => json!([]),
        6 => json!({}),
        7 => (0..r.random_range(0..80)).fold(json!("deep"), |inner, _| json!({"Status": [inner]})),
        8 => json!({"@odata.id": links[r.random_range(0..links.len())]}),
        9 => json!({"@odata.id": "http://192.0.2.1/redfish/v1"}),
        10 => json!(vec![json!({"@odata.id": links[r.random_range(0..links.len())], "Id": 7}); r.random_range(0..40)]),
        _ => json!(r.random::<bool>()),
    }
}

fn damage_value(r: &mut StdRng, value: &mut Value, links: &[String]) {
    let here = r.random_range(0..6) == 0;
    match value {
        Value::Object(fields) if !here && !fields.is_empty() => {
            let at = r.random_range(0..fields.len());
            let name = fields.keys().nth(at).cloned().unwrap();
            if r.random_range(0..8) == 0 {
                fields.remove(&name);
            } else {
                damage_value(r, fields.get_mut(&name).unwrap(), links);
            }
        }
        Value::Array(items) if !here && !items.is_empty() => {
            let at = r.random_range(0..items.len());
            damage_value(r, &mut items[at], links);
        }
        other => *other = nonsense(r, links),
    }
}

/// A recorded tree with some damage in many of its resources, read completely by the driver.
#[tokio::test]
async fn fuzz_redfish() {
    let begun = Instant::now();
    let mut r = StdRng::seed_from_u64(seed());
    let mut trees = 0;
    while begun.elapsed() < time() {
        trees += 1;
        let (_, access) = Recorded::serve_changed("supermicro-x10sdv-ast2400", Letters::Exact, |tree: &mut BTreeMap<String, Value>| {
            let links: Vec<String> = tree.keys().cloned().collect();
            for body in tree.values_mut() {
                for _ in 0..r.random_range(0..4) {
                    damage_value(&mut r, body, &links);
                }
            }
        })
        .await;
        println!("tree {trees} of seed {}", seed());
        let (bmcs, m) = (bmcs(), machine());
        let all = async {
            drop((bmcs.identity(m, &access).await, bmcs.power(m, &access).await, bmcs.supports(m, &access).await));
            drop((bmcs.boot_progress(m, &access).await, bmcs.clock_offset(m, &access).await, bmcs.locator_led(m, &access).await));
            if let Ok(sensors) = bmcs.sensors(m, &access).await {
                assert!(sensors.value.items.iter().all(|s| s.reading.number().is_none_or(f64::is_finite)));
            }
            drop((bmcs.parts(m, &access).await, bmcs.firmware(m, &access).await, bmcs.bios(m, &access).await));
            drop((bmcs.accounts(m, &access).await, bmcs.boot_order(m, &access).await, bmcs.media(m, &access).await));
            drop(bmcs.network(m, &access).await);
            for log in bmcs.logs(m, &access).await.map(|l| l.value).unwrap_or_default() {
                drop(bmcs.log_news(m, &access, &log, &LogCursor::default()).await);
            }
            bmcs.close_all().await;
        };
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("a damaged tree is read in bounded time");
    }
    println!("Redfish: {trees} damaged trees in {:.1} s", begun.elapsed().as_secs_f64());
}
