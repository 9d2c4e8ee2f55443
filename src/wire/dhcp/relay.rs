//! What a relay agent does to packets between client and server: it puts itself and option 82 in, and takes option 82 out
//! again (RFC 2131 section 4.1, RFC 3046 section 2.1). Everything else passes as it came.

use std::net::Ipv4Addr;

use crate::wire::dhcp::{DhcpError, MIN_SIZE, Options, Relay, code};

/// Fields of the fixed part (RFC 2131 section 2).
const OP: usize = 0;
const HOPS: usize = 3;
const GIADDR: usize = 24;
const COOKIE: usize = 236;
const OPTIONS: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// RFC 951 section 7.3.
const MAX_HOPS: u8 = 16;

/// A client's packet on its way to the server. `agent` is where the answer comes back to.
///
/// # Errors
/// What is no client's packet, or says that it was relayed before: a client could otherwise choose its network.
pub fn to_server(packet: &[u8], agent: Ipv4Addr, relay: &Relay) -> Result<Vec<u8>, DhcpError> {
    let (mut head, mut options) = open(packet, 1)?;
    let before = giaddr(&head);
    if !before.is_unspecified() || options.get(code::RELAY).is_some() || head[HOPS] >= MAX_HOPS {
        return Err(DhcpError::Relayed(before));
    }
    head[HOPS] += 1;
    head[GIADDR..GIADDR + 4].copy_from_slice(&agent.octets());
    options.set(code::RELAY, relay.raw.clone());
    Ok(close(head, &options))
}

/// The server's answer on its way to the client.
///
/// # Errors
/// What is no server's packet, or was sent to another relay agent.
pub fn to_client(packet: &[u8], agent: Ipv4Addr) -> Result<Vec<u8>, DhcpError> {
    let (head, mut options) = open(packet, 2)?;
    let by = giaddr(&head);
    if by != agent {
        return Err(DhcpError::Relayed(by));
    }
    options.0.remove(&code::RELAY);
    Ok(close(head, &options))
}

fn open(packet: &[u8], op: u8) -> Result<([u8; OPTIONS], Options), DhcpError> {
    let (head, rest) = packet.split_first_chunk::<OPTIONS>().ok_or(DhcpError::Short(packet.len()))?;
    if head[COOKIE..] != MAGIC {
        return Err(DhcpError::NoCookie);
    }
    if head[OP] != op {
        return Err(DhcpError::WrongDirection(head[OP]));
    }
    let mut options = Options::default();
    options.read(rest);
    Ok((*head, options))
}

fn close(head: [u8; OPTIONS], options: &Options) -> Vec<u8> {
    let mut out = head.to_vec();
    options.write(&mut out);
    out.resize(out.len().max(MIN_SIZE), 0);
    out
}

fn giaddr(head: &[u8; OPTIONS]) -> Ipv4Addr {
    Ipv4Addr::new(head[GIADDR], head[GIADDR + 1], head[GIADDR + 2], head[GIADDR + 3])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::Mac;
    use crate::wire::dhcp::{DhcpReply, DhcpRequest, ReplyKind};
    use proptest::prelude::*;

    const AGENT: Ipv4Addr = Ipv4Addr::new(127, 13, 0, 1);
    const LINK: Ipv4Addr = Ipv4Addr::new(10, 12, 0, 1);

    fn discover() -> DhcpRequest {
        DhcpRequest { hostname: Some("vm-1".to_owned()), ..DhcpRequest::discover(Mac([0x52, 0x54, 0, 0, 0, 1]), 7) }
    }

    #[test]
    fn the_server_learns_the_relay_and_the_clients_network_and_nothing_else_changes() {
        let relayed = to_server(&discover().encode(), AGENT, &Relay::for_link(LINK)).unwrap();
        let seen = DhcpRequest::parse(&relayed).unwrap();
        let relay = Relay::for_link(LINK);
        assert_eq!(seen.relay.as_ref().map(|r| (r.link, r.source_port)), Some((Some(LINK), true)));
        assert_eq!(seen, DhcpRequest { giaddr: Some(AGENT), hops: 1, relay: Some(relay), ..discover() });
    }

    #[test]
    fn the_client_gets_the_answer_without_option_82() {
        let request = DhcpRequest::parse(&to_server(&discover().encode(), AGENT, &Relay::for_link(LINK)).unwrap()).unwrap();
        let reply = DhcpReply::to(&request, ReplyKind::Offer, Ipv4Addr::new(10, 12, 0, 1)).encode();
        let passed = to_client(&reply, AGENT).unwrap();
        let (_, options) = open(&passed, 2).unwrap();
        assert!(options.get(code::RELAY).is_none() && options.get(code::SERVER_ID).is_some());
        assert_eq!(to_client(&reply, Ipv4Addr::LOCALHOST), Err(DhcpError::Relayed(AGENT)));
    }

    #[test]
    fn a_client_cannot_say_that_it_was_relayed() {
        let forged = DhcpRequest { giaddr: Some(Ipv4Addr::new(10, 9, 9, 9)), ..discover() };
        assert!(matches!(to_server(&forged.encode(), AGENT, &Relay::for_link(LINK)), Err(DhcpError::Relayed(_))));
        let forged = DhcpRequest { relay: Some(Relay::for_link(Ipv4Addr::new(10, 9, 9, 9))), ..discover() };
        assert!(matches!(to_server(&forged.encode(), AGENT, &Relay::for_link(LINK)), Err(DhcpError::Relayed(_))));
    }

    proptest! {
        #[test]
        fn any_bytes_are_passed_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..600), valid in any::<bool>()) {
            let mut bytes = bytes;
            if valid && bytes.len() >= OPTIONS {
                bytes[OP] = 1;
                bytes[HOPS] = 0;
                bytes[GIADDR..GIADDR + 4].fill(0);
                bytes[COOKIE..OPTIONS].copy_from_slice(&MAGIC);
            }
            if let Ok(out) = to_server(&bytes, AGENT, &Relay::for_link(LINK)) {
                prop_assert!(out.len() >= MIN_SIZE && out.len() <= bytes.len().max(MIN_SIZE) + 600);
            }
            prop_assert!(to_client(&bytes, AGENT).map(|out| out.len() >= MIN_SIZE).unwrap_or(true));
        }
    }
}
