//! iPXE scripts: the templates of `pxe/`, filled with values that can never become syntax.
//!
//! iPXE expands `${…}` first, then splits a line at white space; there is no quoting. `&&`, `||` and `;` separate
//! commands when they stand alone, `#` begins a comment. So values are reduced to harmless characters, not quoted.

use std::fmt::Write as _;

use crate::domain::id::Mac;

const AUTOEXEC: &str = include_str!("../../pxe/autoexec.ipxe");
const RAMDISK: &str = include_str!("../../pxe/ramdisk.ipxe");
const DISK: &str = include_str!("../../pxe/disk.ipxe");
const DISK_UEFI: &str = include_str!("../../pxe/disk-uefi.ipxe");
const RESTART: &str = include_str!("../../pxe/restart.ipxe");

/// Longer sentences would scroll the message off an 80 x 25 console.
const MAX_TEXT: usize = 300;

/// The address machines reach us at, `http://host:port` without a slash at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl(String);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0:?} is no server address for boot scripts; write http://ADDRESS or http://ADDRESS:PORT (Debian's iPXE has no HTTPS)")]
pub struct BadServerUrl(String);

impl std::str::FromStr for ServerUrl {
    type Err = BadServerUrl;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let bad = || BadServerUrl(s.chars().take(80).collect());
        let host = s.strip_prefix("http://").ok_or_else(bad)?.trim_end_matches('/');
        let fits = !host.is_empty() && host.len() <= 100 && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".:-[]".contains(&b));
        if fits { Ok(Self(format!("http://{host}"))) } else { Err(bad()) }
    }
}

impl From<std::net::SocketAddrV4> for ServerUrl {
    fn from(address: std::net::SocketAddrV4) -> Self {
        Self(format!("http://{address}"))
    }
}

impl std::fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text for `echo`: any number of words, none of which is syntax.
fn text(raw: &str) -> String {
    let mut out = String::new();
    for word in raw.split(|c: char| c.is_whitespace() || c.is_control()) {
        let word = word_of(word);
        if !word.is_empty() {
            if !out.is_empty() {
                out.push(' ');
            }
            out.push_str(&word);
        }
        if out.len() > MAX_TEXT {
            break;
        }
    }
    if out.is_empty() { "-".to_owned() } else { out }
}

/// One word: letters, digits and marks that iPXE takes literally; anything else becomes `_`. Never an option.
fn word_of(raw: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || "._:/@%+=,~-?()'".contains(c);
    let word: String = raw.chars().map(|c| if safe(c) { c } else { '_' }).take(MAX_TEXT).collect();
    match word.strip_prefix('-') {
        Some(rest) => format!("_{rest}"),
        None => word,
    }
}

/// Who the script is for and why, shown on the machine's console.
#[derive(Clone, Copy, Debug)]
pub struct Notice<'a> {
    pub machine: &'a str,
    pub why: &'a str,
}

/// The script that DHCP names: it asks for the machine's own script with all that iPXE can tell about it.
pub fn autoexec(server: &ServerUrl) -> String {
    fill(AUTOEXEC, &[("server", &server.0)])
}

/// The script that starts kernel and ramdisk. `console` is a list of `console=` words for the kernel, as configured.
pub fn ramdisk(server: &ServerUrl, notice: Notice<'_>, mac: Mac, nonce: &str, console: &str) -> String {
    let values = [
        ("server", server.0.as_str()),
        ("machine", &text(notice.machine)),
        ("why", &text(notice.why)),
        ("mac", &mac.to_string()),
        ("bootif", &mac.to_string().replace(':', "-")),
        ("nonce", &word_of(nonce)),
        ("console", &text(console)),
    ];
    fill(RAMDISK, &values)
}

/// The script that starts the first disk (BIOS).
pub fn disk(notice: Notice<'_>) -> String {
    fill(DISK, &[("machine", &text(notice.machine)), ("why", &text(notice.why))])
}

/// The script that starts the first disk (UEFI), by way of the loader with this file name.
pub fn disk_uefi(server: &ServerUrl, loader: &str, notice: Notice<'_>) -> String {
    let values =
        [("server", server.0.as_str()), ("loader", &word_of(loader)), ("machine", &text(notice.machine)), ("why", &text(notice.why))];
    fill(DISK_UEFI, &values)
}

/// The script that says why and restarts the machine.
pub fn restart(notice: Notice<'_>) -> String {
    fill(RESTART, &[("machine", &text(notice.machine)), ("why", &text(notice.why))])
}

/// Puts values in place of `{{name}}`. Values are not looked at again, so a value with braces stays a value.
fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut out = String::with_capacity(template.len() + 512);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        match values.iter().find(|(n, _)| *n == name) {
            Some((_, value)) => out.push_str(value),
            // Held by the tests below: every template is filled whole.
            None => write!(out, "missing-{}", word_of(name)).unwrap_or_default(),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn server() -> ServerUrl {
        "http://10.0.0.1:8081".parse().expect("address")
    }

    /// As iPXE reads a script (`core/exec.c`, `image/script.c`): lines, then words; a word beginning with `#` ends the
    /// line; `&&`, `||` and `;` alone separate commands. Variables are named, not expanded.
    fn commands(script: &str) -> Vec<Vec<String>> {
        let mut out = Vec::new();
        for line in script.split(['\n', '\r']) {
            let mut command = Vec::new();
            for word in line.split_ascii_whitespace() {
                match word {
                    w if w.starts_with('#') => break,
                    "&&" | "||" | ";" => out.push(std::mem::take(&mut command)),
                    w => command.push(w.to_owned()),
                }
            }
            if !command.is_empty() {
                out.push(command);
            }
        }
        out
    }

    fn variables(script: &str) -> usize {
        script.matches("${").count()
    }

    fn verbs(script: &str) -> Vec<String> {
        commands(script).into_iter().filter_map(|c| c.into_iter().next()).collect()
    }

    fn all(machine: &str, why: &str, nonce: &str) -> [String; 4] {
        let notice = Notice { machine, why };
        [
            ramdisk(&server(), notice, Mac([0x52, 0x54, 0, 0x77, 0, 1]), nonce, "console=tty0 console=ttyS0,115200"),
            disk(notice),
            disk_uefi(&server(), "local-x64.efi", notice),
            restart(notice),
        ]
    }

    #[test]
    fn every_template_is_filled_whole() {
        for script in all("r1-u03", "It waits.", "abc").into_iter().chain([autoexec(&server())]) {
            assert!(script.starts_with("#!ipxe\n"));
            assert!(!script.contains("{{") && !script.contains("}}") && !script.contains("missing-"), "{script}");
            assert!(script.is_ascii());
        }
    }

    #[test]
    fn the_ramdisk_script_names_kernel_ramdisk_and_arguments() {
        let [script, ..] = all("r1-u03", "It waits.", "00ff");
        let all = commands(&script);
        let kernel = all.iter().find(|c| c[0] == "kernel").expect("kernel");
        assert_eq!(
            kernel[1..].join(" "),
            "--name kernel http://10.0.0.1:8081/boot/kernel?mac=52:54:00:77:00:01 initrd=ramdisk hostler.server=http://10.0.0.1:8081 \
             hostler.nonce=00ff BOOTIF=01-52-54-00-77-00-01 console=tty0 console=ttyS0,115200"
        );
        let initrd = all.iter().find(|c| c[0] == "initrd").expect("initrd");
        assert_eq!(initrd[1..].join(" "), "--name ramdisk http://10.0.0.1:8081/boot/ramdisk?mac=52:54:00:77:00:01");
    }

    #[test]
    fn the_first_script_hands_over_to_the_machines_own() {
        let script = autoexec(&server());
        let chain = commands(&script).into_iter().find(|c| c[0] == "chain").expect("chain");
        assert_eq!(
            chain.last().map(String::as_str),
            Some(
                "http://10.0.0.1:8081/boot/script.ipxe?mac=${mac}&uuid=${uuid}&serial=${serial:uristring}&platform=${platform}&arch=${buildarch}"
            )
        );
    }

    #[test]
    fn scripts_use_only_commands_that_debians_ipxe_has() {
        let has = [
            "isset", "set", "echo", "chain", "goto", "inc", "iseq", "sleep", "exit", "kernel", "initrd", "boot", "imgfree", "reboot",
            "sanboot",
        ];
        for script in all("m", "w", "n").into_iter().chain([autoexec(&server())]) {
            for verb in verbs(&script) {
                assert!(has.contains(&verb.as_str()) || verb.starts_with(':'), "{verb}");
            }
        }
    }

    #[test]
    fn a_server_address_is_plain_http_and_nothing_else() {
        assert_eq!("http://10.0.0.1:8081/".parse::<ServerUrl>(), Ok(server()));
        for bad in ["https://10.0.0.1", "10.0.0.1", "http://", "http://a b", "http://${ip}", "http://a/b", "http://a;b"] {
            assert!(bad.parse::<ServerUrl>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_value_ever_becomes_syntax(
            machine in any::<String>(), why in any::<String>(), nonce in any::<String>(),
            sting in prop::sample::select(vec!["&& shell", "|| shell", "; shell", "\nshell\n", "${netX/mac}", "# ", "\r\nshell", "--help", "\u{2028}shell", "{{server}}"]),
        ) {
            let calm = all("m", "w", "n");
            for evil in [format!("{machine} {sting} {why}"), sting.to_owned(), format!("{machine}{sting}")] {
                let stung = all(&evil, &format!("{why}{sting}"), &format!("{nonce}{sting}"));
                for (stung, calm) in stung.iter().zip(&calm) {
                    prop_assert_eq!(verbs(stung), verbs(calm));
                    prop_assert_eq!(variables(stung), variables(calm));
                    for (a, b) in commands(stung).iter().zip(commands(calm)) {
                        if a[0] == "kernel" {
                            prop_assert_eq!(a.len(), b.len());
                        }
                        if a[0] == "echo" {
                            prop_assert!(a[1..].iter().all(|w| !w.starts_with('-') || w == "-"));
                        }
                    }
                }
            }
        }
    }
}
