use super::*;

fn m(n: u128) -> MachineId {
    MachineId(uuid::Uuid::from_u128(n))
}

fn at(secs: i64) -> Timestamp {
    Timestamp((1_790_000_000 + secs) * 1_000_000)
}

fn d(kind: DomainKind, name: impl ToString) -> Domain {
    Domain { kind, name: name.to_string() }
}

/// 40 machines per rack, 12 racks per feed; the ToR has the rack's members.
fn member(n: u128) -> Membership {
    let rack = n / 40;
    Membership {
        domains: vec![
            d(DomainKind::Rack, rack),
            d(DomainKind::Switch, rack),
            d(DomainKind::ManagementSwitch, rack),
            d(DomainKind::Feed, rack / 12),
            d(DomainKind::Model, n % 3),
        ],
        rack: rack.to_string(),
    }
}

fn members(domain: &Domain) -> u32 {
    match domain.kind {
        DomainKind::Rack | DomainKind::Switch | DomainKind::ManagementSwitch => 40,
        DomainKind::Feed => 480,
        DomainKind::Model => 320,
        _ => 960,
    }
}

struct Bench {
    field: Field,
    ids: u128,
    events: Vec<Event>,
}

impl Bench {
    fn new() -> Self {
        Self { field: Field::default(), ids: 0, events: vec![] }
    }

    fn note(&mut self, n: u128, symptom: Symptom, secs: i64) {
        self.field.note(m(n), symptom, at(secs), &member(n));
    }

    fn review(&mut self, secs: i64) {
        let ids = &mut self.ids;
        let found = self.field.review(at(secs), members, || {
            *ids += 1;
            IncidentId(uuid::Uuid::from_u128(*ids))
        });
        self.events.extend(found);
    }

    fn tickets(&self) -> Vec<&Domain> {
        self.events.iter().filter_map(|e| if let Event::Ticket { cause, .. } = e { Some(cause) } else { None }).collect()
    }

    fn is_held(&self, n: u128) -> bool {
        self.field.holds_of(&member(n)).next().is_some()
    }
}

#[test]
fn two_ill_machines_in_a_rack_are_two_and_three_within_two_minutes_are_the_rack() {
    let mut b = Bench::new();
    b.note(1, Symptom::SystemSilent, 0);
    b.note(2, Symptom::SystemSilent, 30);
    b.review(31);
    assert!(!b.is_held(1));
    b.note(3, Symptom::SystemSilent, 100);
    b.review(100);
    assert!(b.is_held(1) && b.is_held(39), "members that are well are held too");
    assert!(!b.is_held(41));
}

#[test]
fn three_over_an_hour_are_three() {
    let mut b = Bench::new();
    for n in 0..7 {
        b.note(n, Symptom::SystemSilent, i64::try_from(n).unwrap() * 1200);
        b.review(i64::try_from(n).unwrap() * 1200);
    }
    assert_eq!(b.events, vec![]);
}

#[test]
fn c10_a_lost_switch_is_one_ticket_and_named_as_the_switch() {
    let mut b = Bench::new();
    for n in 0..40 {
        b.note(n, Symptom::SystemSilent, 0);
    }
    for t in 0..10 {
        b.review(t * 60);
    }
    assert_eq!(b.tickets(), [&d(DomainKind::Switch, 0)]);
    let mut b = Bench::new();
    for n in 0..40 {
        b.note(n, Symptom::BmcSilent, 0);
        b.note(n, Symptom::SystemSilent, 0);
    }
    for t in 0..10 {
        b.review(t * 60);
    }
    assert_eq!(b.tickets(), [&d(DomainKind::Rack, 0)]);
}

#[test]
fn a_lost_feed_that_takes_its_racks_one_after_another_is_one_ticket() {
    let mut b = Bench::new();
    for rack in 0..12u128 {
        let t = i64::try_from(rack).unwrap() * 5;
        for n in 0..40 {
            b.note(rack * 40 + n, Symptom::InputLost, t);
        }
        b.review(t);
    }
    for t in 1..20 {
        b.review(60 + t * 60);
    }
    assert_eq!(b.tickets(), [&d(DomainKind::Feed, 0)]);
    assert_eq!(b.field.incidents.len(), 1);
}

#[test]
fn a_hold_ends_when_it_is_good_for_a_while_and_lets_its_sick_go_one_by_one() {
    let mut b = Bench::new();
    for n in 0..40 {
        b.note(n, Symptom::SystemSilent, 0);
    }
    b.review(0);
    b.review(3600);
    assert!(b.is_held(5), "silence of the signal does not end it");
    for n in 0..36 {
        b.field.well(m(n), Symptom::SystemSilent);
    }
    b.review(3600);
    b.review(3600 + 15 * 60);
    assert!(b.is_held(5), "the cool-down");
    b.review(3600 + 20 * 60);
    assert!(!b.is_held(5));
    let waits: Vec<bool> = (36..40).map(|n| b.field.waits_until(m(n), at(3600 + 20 * 60 + 400)).is_some()).collect();
    assert_eq!(waits, [false, false, true, true]);
    b.review(3600 + 20 * 60 + 1);
    assert!(!b.is_held(5), "those that stayed ill do not trip it again");
}

#[test]
fn a_hold_of_the_whole_fleet_is_ended_by_a_person_only() {
    let mut b = Bench::new();
    for n in 0..960 {
        b.note(n, Symptom::BmcSilent, 0);
    }
    b.review(0);
    for n in 0..960 {
        b.field.well(m(n), Symptom::BmcSilent);
    }
    for t in 0..200 {
        b.review(t * 60);
    }
    assert!(b.is_held(500));
    let fleet = Domain { kind: DomainKind::Fleet, name: String::new() };
    b.field.release_by_person(&fleet, at(20_000));
    assert!(!b.is_held(500));
    assert_eq!(b.tickets().len(), 1);
}

#[test]
fn the_field_survives_being_stored() {
    let mut b = Bench::new();
    for n in 0..5 {
        b.note(n, Symptom::SystemSilent, 0);
    }
    b.review(0);
    let stored: Field = serde_json::from_str(&serde_json::to_string(&b.field).unwrap()).unwrap();
    assert_eq!(stored, b.field);
}
