//! BMCs that answer in a session whatever a test tells them to: circles, lost reservations, small buffers, nonsense. Damage to what
//! is parsed is done in `fuzz`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use hostler::bmc::BmcAccess;
use hostler::domain::hardware_log::LogCursor;
use hostler::domain::sensor::{Reading, Unit};
use hostler::wire::ipmi::{self, Request, Response, completion};
use hostler::wire::rmcp::{self, Exchange, Keys, OpenRequest, OpenResponse, Packet, Payload, Rakp1, Rakp2, RakpCode, Suite, status};
use hostler::wire::sdr::{self, Content, SensorKey, SensorRecord};
use hostler::wire::sensor_value::{Access, Analog, Curve, Factors, Format, Limits, Units};
use tokio::net::UdpSocket;

use super::kit::{access, bmcs, machine};

type Answer = (u8, Vec<u8>);

/// A BMC whose answers inside a session are `say`. `None` leaves a request without an answer.
async fn scripted(say: impl Fn(&Request) -> Option<Answer> + Send + 'static) -> BmcAccess {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let port = socket.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut buffer, mut session) = ([0; 1500], Session::default());
        loop {
            let (length, peer): (usize, SocketAddr) = socket.recv_from(&mut buffer).await.unwrap();
            if let Some(answer) = session.answer(&buffer[..length], &say) {
                socket.send_to(&answer, peer).await.unwrap();
            }
        }
    });
    access(format!("ipmi://127.0.0.1:{port}").parse().unwrap(), "admin", "secret")
}

/// One session of cipher suite 3.
#[derive(Default)]
struct Session {
    console: u32,
    exchange: Option<Exchange>,
    keys: Option<Keys>,
    sent: u32,
}

const BMC_SESSION: u32 = 0x0102_0304;

impl Session {
    fn answer(&mut self, packet: &[u8], say: &impl Fn(&Request) -> Option<Answer>) -> Option<Vec<u8>> {
        let key = rmcp::password_key(b"secret");
        match Packet::read(packet).ok()? {
            Packet::Plain15(payload) => {
                let request = Request::read(payload).ok()?;
                Some(Packet::plain15(&reply(&request, (completion::OK, vec![1, 0xc0, 3, 0x01, 0x41, 0x81]))))
            }
            Packet::Plain20(Payload::OpenRequest, body) => {
                let open = OpenRequest::read(body).ok()?;
                self.console = open.console_session;
                let answer = OpenResponse {
                    tag: open.tag,
                    status: status::OK,
                    privilege: 4,
                    console_session: open.console_session,
                    bmc_session: BMC_SESSION,
                    algorithms: open.algorithms,
                };
                Some(Packet::plain20(Payload::OpenResponse, &answer.write()))
            }
            Packet::Plain20(Payload::Rakp1, body) => {
                let one = Rakp1::read(body).ok()?;
                let exchange = Exchange {
                    suite: Suite::Sha1,
                    console_session: self.console,
                    bmc_session: BMC_SESSION,
                    console_random: one.console_random,
                    bmc_random: [7; 16],
                    bmc_guid: [9; 16],
                    role: one.role,
                    user: one.user,
                };
                let code = exchange.rakp2_code(&key);
                self.exchange = Some(exchange);
                let two = Rakp2 { tag: one.tag, status: 0, console_session: self.console, bmc_random: [7; 16], bmc_guid: [9; 16], code };
                Some(Packet::plain20(Payload::Rakp2, &two.write()))
            }
            Packet::Plain20(Payload::Rakp3, body) => {
                let (three, exchange) = (RakpCode::read(body).ok()?, self.exchange.as_ref()?);
                (self.keys, self.sent) = (Some(exchange.keys(&key)), 0);
                let four = RakpCode { tag: three.tag, status: 0, session: self.console, code: exchange.rakp4_code(&key) };
                Some(Packet::plain20(Payload::Rakp4, &four.write()))
            }
            Packet::Session { packet, .. } => {
                let keys = self.keys.as_ref()?;
                let request = Request::read(&keys.open(packet).ok()?).ok()?;
                let said = match (request.netfn, request.command) {
                    (ipmi::NETFN_APP, 0x3b | 0x3c) => (completion::OK, request.data.clone()),
                    _ => say(&request)?,
                };
                self.sent += 1;
                Some(keys.seal(self.console, self.sent, Payload::Ipmi, &reply(&request, said), [3; 16]))
            }
            Packet::Plain20(..) | Packet::Ping { .. } => None,
        }
    }
}

fn reply(request: &Request, (completion, data): Answer) -> Vec<u8> {
    Response { netfn: request.netfn, command: request.command, sequence: request.sequence, completion, data }.write()
}

pub(super) fn temperature(number: u8, curve: Curve) -> SensorRecord {
    let [flags, base, modifier] = Units::write(Unit::Celsius);
    SensorRecord {
        key: SensorKey { owner: sdr::BMC, channel: 0, lun: 0, number },
        name: format!("Temp {number}"),
        entity: 7,
        instance: 1,
        sensor_type: 1,
        event_type: 1,
        content: Content::Analog(Analog {
            units: Units::read(flags, base, modifier),
            curve,
            factors: Factors { format: Format::Unsigned, m: 1, b: 0, b_exponent: 0, r_exponent: 0 },
            limits: Limits { access: Access::None, raw: [None; 6] },
            hysteresis_raw: None,
            range_raw: (0, 255),
        }),
    }
}

/// Records by id with the id of the next, handed out in pieces of at most `piece` bytes.
struct Shelf {
    records: HashMap<u16, (u16, Vec<u8>)>,
    piece: usize,
    /// Reservations to drop, each at some partial read.
    drops: AtomicU32,
    reservation: Mutex<u16>,
}

impl Shelf {
    fn say(&self, request: &Request) -> Option<Answer> {
        let data = request.data.as_slice();
        Some(match (request.netfn, request.command, data) {
            (ipmi::NETFN_STORAGE, 0x20, _) => (completion::OK, vec![0x51, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]),
            (ipmi::NETFN_STORAGE, 0x22, _) => {
                let mut reservation = self.reservation.lock().unwrap();
                *reservation += 1;
                (completion::OK, reservation.to_le_bytes().to_vec())
            }
            (ipmi::NETFN_STORAGE, 0x23, [r0, r1, i0, i1, offset, count]) => {
                if *offset > 0 && self.drops.load(Ordering::Relaxed) > 0 {
                    self.drops.fetch_sub(1, Ordering::Relaxed);
                    *self.reservation.lock().unwrap() += 1;
                }
                if *offset > 0 && u16::from_le_bytes([*r0, *r1]) != *self.reservation.lock().unwrap() {
                    return Some((completion::RESERVATION, vec![]));
                }
                let id = u16::from_le_bytes([*i0, *i1]);
                let Some((next, record)) = self.records.get(&id) else { return Some((completion::NOT_PRESENT, vec![])) };
                let rest = &record[usize::from(*offset).min(record.len())..];
                let wanted = if *count == 0xff { rest.len() } else { usize::from(*count).min(rest.len()) };
                if wanted > self.piece {
                    return Some((completion::CANNOT_RETURN, vec![]));
                }
                (completion::OK, [next.to_le_bytes().as_slice(), &rest[..wanted]].concat())
            }
            // 21 degrees; scanning.
            (ipmi::NETFN_SENSOR, 0x2d, _) => (completion::OK, vec![21, 0xc0, 0xc0]),
            // Factors that hold at this reading: M = 2, B = 1.
            (ipmi::NETFN_SENSOR, 0x23, [_, 21]) => (completion::OK, vec![22, 2, 0, 1, 0, 0, 0]),
            _ => (completion::INVALID_COMMAND, vec![]),
        })
    }
}

fn shelf(records: Vec<(u16, u16, Vec<u8>)>, piece: usize, drops: u32) -> Arc<Shelf> {
    let records = records.into_iter().map(|(id, next, bytes)| (id, (next, bytes))).collect();
    Arc::new(Shelf { records, piece, drops: AtomicU32::new(drops), reservation: Mutex::new(0) })
}

async fn serve(shelf: &Arc<Shelf>) -> BmcAccess {
    let shelf = Arc::clone(shelf);
    scripted(move |request| shelf.say(request)).await
}

#[tokio::test]
async fn records_come_whole_or_in_pieces_of_any_size_over_lost_reservations() {
    for (piece, drops) in [(255, 0), (40, 0), (20, 3), (16, 0), (9, 2), (5, 0)] {
        let (one, two) = (temperature(1, Curve::Linear).write(1), temperature(2, Curve::Square).write(9));
        let access = serve(&shelf(vec![(0, 9, one), (9, 0xffff, two)], piece, drops)).await;
        let bmcs = bmcs();
        let found = bmcs.sensors(machine(), &access).await.unwrap_or_else(|e| panic!("{piece}: {e}")).value;
        let read: Vec<_> = found.items.iter().map(|s| (s.name.as_str(), s.reading.number())).collect();
        assert_eq!(read, [("Temp 1", Some(21.0)), ("Temp 2", Some(441.0))], "pieces of {piece}");
        bmcs.close_all().await;
    }
}

#[tokio::test]
async fn a_repository_that_never_stays_still_is_busy_and_one_that_gives_nothing_is_nonsense() {
    let one = temperature(1, Curve::Linear).write(1);
    let access = serve(&shelf(vec![(0, 0xffff, one.clone())], 20, 1000)).await;
    let error = bmcs().sensors(machine(), &access).await.unwrap_err();
    assert!(matches!(&error, hostler::bmc::BmcError::Busy { reason, .. } if reason.contains("faster than they can be read")), "{error}");
    let access = serve(&shelf(vec![(0, 0xffff, one)], 3, 0)).await;
    let error = bmcs().sensors(machine(), &access).await.unwrap_err();
    assert!(matches!(error, hostler::bmc::BmcError::Nonsense { .. }), "{error}");
}

#[tokio::test]
async fn record_ids_that_run_in_a_circle_end_where_they_do() {
    let (one, two) = (temperature(1, Curve::Linear).write(1), temperature(2, Curve::Linear).write(2));
    for (chain, sensors) in [
        (vec![(0, 5, one.clone()), (5, 6, two.clone()), (6, 5, one.clone())], 2),
        (vec![(0, 0, one.clone())], 1),
        (vec![(0, 7, one.clone()), (7, 7, two.clone())], 2),
    ] {
        let access = serve(&shelf(chain, 255, 0)).await;
        let found = bmcs().sensors(machine(), &access).await.unwrap().value;
        assert_eq!(found.items.len(), sensors);
        assert!(found.not_understood.iter().any(|o| o.what.contains("was there before")), "{:?}", found.not_understood);
    }
}

#[tokio::test]
async fn impossible_records_are_named_and_the_others_are_read() {
    let mut flat = temperature(1, Curve::Linear).write(1);
    flat[24] = 0;
    let cut = temperature(2, Curve::Linear).write(2)[..20].to_vec();
    let cut = [&cut[..4], &[15], &cut[5..]].concat();
    let bent = temperature(3, Curve::NonLinear).write(3);
    let access = serve(&shelf(vec![(0, 2, flat), (2, 3, cut), (3, 0xffff, bent)], 255, 0)).await;
    let found = bmcs().sensors(machine(), &access).await.unwrap().value;
    let read: Vec<_> = found.items.iter().map(|s| (s.name.as_str(), s.reading.number())).collect();
    assert_eq!(read, [("Temp 1", None), ("Temp 3", Some(43.0))], "a non-linear sensor by the factors of its reading");
    assert!(matches!(&found.items[0].reading, Reading::Unavailable { why } if why.contains("M is 0")));
    let odd: Vec<_> = found.not_understood.iter().map(|o| o.what.as_str()).collect();
    assert!(odd.len() == 2 && odd[0].contains("M is 0") && odd[1].contains("ends early"), "{odd:?}");
}

#[tokio::test]
async fn a_log_whose_chain_is_a_circle_is_read_once() {
    let entry = |n: u8| vec![n, 0, 2, 0x30, 0xc3, 5, 0x6b, 0x20, 0, 4, 1, n, 1, 9, 0, 0];
    let access = scripted(move |request| {
        Some(match (request.netfn, request.command, request.data.as_slice()) {
            (ipmi::NETFN_STORAGE, 0x40, _) => (completion::OK, vec![0x51, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2]),
            (ipmi::NETFN_STORAGE, 0x43, [_, _, id @ (0..=3), 0, 0, 0xff]) => {
                let id = (*id).max(1);
                (completion::OK, [&[id % 3 + 1, 0], entry(id).as_slice()].concat())
            }
            (ipmi::NETFN_STORAGE, 0x43, _) => (completion::NOT_PRESENT, vec![]),
            _ => (completion::INVALID_COMMAND, vec![]),
        })
    })
    .await;
    let news = bmcs().log_news(machine(), &access, "sel", &LogCursor::default()).await.unwrap().value;
    assert!((3..=4).contains(&news.entries.len()), "{}", news.entries.len());
    assert_eq!(news.fill, Some((3, 3)));
}

#[tokio::test]
async fn empty_and_odd_answers_to_everything_are_errors_and_never_panics() {
    for data in [vec![], vec![0], vec![0xff; 3], vec![0xdc; 40]] {
        let access = scripted(move |_| Some((completion::OK, data.clone()))).await;
        let bmcs = bmcs();
        drop(bmcs.sensors(machine(), &access).await);
        drop(bmcs.parts(machine(), &access).await);
        drop(bmcs.log_news(machine(), &access, "sel", &LogCursor::default()).await);
        drop(bmcs.accounts(machine(), &access).await);
        drop(bmcs.network(machine(), &access).await);
        drop(bmcs.boot_progress(machine(), &access).await);
        drop(bmcs.clock_offset(machine(), &access).await);
        drop(bmcs.locator_led(machine(), &access).await);
        drop(bmcs.firmware(machine(), &access).await);
        let sheet = bmcs.supports(machine(), &access).await;
        assert!(sheet.is_err() || sheet.is_ok_and(|s| s.value.len() == hostler::domain::bmc_features::Capability::ALL.len()));
        bmcs.close_all().await;
    }
}
