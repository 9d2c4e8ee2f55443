//! `peers redfish URL USER PASSWORD` and `peers ipmi HOST:PORT USER PASSWORD`: drives a BMC with the crate of that name and
//! prints one line per thing it did, `word ok ...` or `word failed ...`.

use std::process::ExitCode;
use std::time::Duration;

use ipmi_rs::Ipmi;
use ipmi_rs::app::GetDeviceId;
use ipmi_rs::connection::{IpmiConnection, LogicalUnit, Message, NetFn, Request, RequestTargetAddress};
use ipmi_rs::rmcp::Rmcp;
use redfish::types::ResetType;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["redfish", url, user, password] => over_redfish(url, user, password).await,
        ["ipmi", address, user, password] => over_ipmi(address, user, password),
        _ => {
            eprintln!("usage: peers redfish URL USER PASSWORD | peers ipmi HOST:PORT USER PASSWORD");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

fn say<T: std::fmt::Debug, E: std::fmt::Debug>(word: &str, outcome: &Result<T, E>) {
    match outcome {
        Ok(value) => println!("{word} ok {value:?}"),
        Err(error) => println!("{word} failed {error:?}"),
    }
}

async fn over_redfish(url: &str, user: &str, password: &str) {
    let client = redfish::Client::builder(url)
        .map(|b| b.auth(redfish::Auth::basic(user, password)).timeout(Duration::from_secs(5)))
        .and_then(|b| b.build());
    let client = match client {
        Ok(client) => client,
        Err(error) => return println!("client failed {error:?}"),
    };
    say("root", &client.service_root().get().await.map(|r| r.redfish_version));
    say("systems", &client.systems().list().await.map(|c| c.members.len()));
    say("system", &client.systems().get("1").await.map(|s| (s.serial_number, s.power_state)));
    say("reset", &client.systems().reset("1", ResetType::On).await.map(|_| ()));
    say("power", &client.systems().get("1").await.map(|s| s.power_state));
}

fn over_ipmi(address: &str, user: &str, password: &str) {
    let mut rmcp = match Rmcp::new(address, Duration::from_secs(2)) {
        Ok(rmcp) => rmcp,
        Err(error) => return println!("socket failed {error:?}"),
    };
    let session = rmcp.activate(true, Some(user), Some(password.as_bytes()));
    say("session", &session);
    if session.is_err() {
        return;
    }
    let mut ipmi = Ipmi::new(rmcp);
    say("device", &ipmi.send_recv(GetDeviceId).map(|d| (d.major_fw_revision, d.minor_fw_revision)));
    // Chassis is network function 0; the answer's completion code is what counts.
    let mut raw = |word: &str, command: u8, data: Vec<u8>| {
        let mut request = Request::new(Message::new_request(NetFn::Chassis, command, data), RequestTargetAddress::Bmc(LogicalUnit::Zero));
        say(word, &ipmi.inner_mut().send_recv(&mut request).map(|r| r.cc()));
    };
    raw("status", 0x01, vec![]);
    raw("boot-options", 0x08, vec![5, 0x80, 0x04, 0, 0, 0]);
}
