//! An interpreter for the subset of iPXE's script language that boot scripts of Hostler use.
//!
//! It follows iPXE's `core/exec.c` and `image/script.c`: a line is expanded first, then split at white space; `&&`, `||`
//! and `;` alone separate commands and are taken from left to right; a line whose last command failed ends the script.
//! What it does not know is an error that names the line, never ignored: a simulated machine that is more forgiving than
//! a real one would hide a broken script. Left out: nested expansions and what Debian 12's iPXE lacks (HTTPS, `params`,
//! `imgverify`, `ntp`, `vcreate`, `console`; measured, 1.0.0+git-20190125).

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use crate::domain::id::{Mac, SystemUuid};

/// Lines one boot may execute: the longest script of ours retries 12 times over 8 lines.
const MAX_LINES: u32 = 5000;
/// Depth of `chain`.
const MAX_DEPTH: u32 = 8;

/// What iPXE runs on.
pub trait Platform: Send {
    /// A setting that is there without `set`: `net0/mac`, `uuid`, `platform` …
    fn setting(&self, name: &str) -> Option<Value>;
    /// Downloads a file. The error is the sentence that iPXE prints.
    fn fetch(&mut self, uri: &str) -> impl Future<Output = Result<Download, String>> + Send;
    fn sleep(&mut self, secs: u64) -> impl Future<Output = ()> + Send;
    /// A line on the machine's console.
    fn say(&mut self, line: &str);
}

/// A file that was fetched whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    pub uri: String,
    pub size_bytes: u64,
    /// Its first bytes: all of a script, the head of anything larger.
    pub head: Vec<u8>,
}

impl Download {
    /// The text, if it is a script (`image/script.c`: it begins with `#!ipxe`) and here whole.
    fn script(&self) -> Option<String> {
        let whole = self.head.len() as u64 == self.size_bytes && self.head.starts_with(b"#!ipxe");
        whole.then(|| String::from_utf8(self.head.clone()).ok()).flatten()
    }

    /// The file's name, without path and query.
    pub fn file_name(&self) -> &str {
        let path = self.uri.split(['?', '#']).next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default()
    }
}

/// A setting with its type, which decides how `${…}` prints it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(String),
    Mac(Mac),
    Uuid(SystemUuid),
    Address(Ipv4Addr),
    Int(i32),
}

impl Value {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Text(text) => text.as_bytes().to_vec(),
            Self::Mac(mac) => mac.0.to_vec(),
            Self::Uuid(uuid) => uuid.0.as_bytes().to_vec(),
            Self::Address(address) => address.octets().to_vec(),
            Self::Int(n) => n.to_be_bytes().to_vec(),
        }
    }

    fn plain(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Mac(mac) => mac.to_string(),
            Self::Uuid(uuid) => uuid.to_string(),
            Self::Address(address) => address.to_string(),
            Self::Int(n) => n.to_string(),
        }
    }

    /// As `${name:kind}` prints it; `None` for a kind we do not know.
    fn as_kind(&self, kind: &str) -> Option<String> {
        let hex = |between: &str| self.bytes().iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(between);
        match kind {
            "" | "string" | "ipv4" | "uuid" | "int32" => Some(self.plain()),
            "hex" => Some(hex(":")),
            "hexhyp" => Some(hex("-")),
            "hexraw" => Some(hex("")),
            "uristring" => Some(uri_encoded(&self.plain())),
            _ => None,
        }
    }
}

/// As iPXE's `uri_encode` for a query: everything but unreserved characters (RFC 3986) is escaped.
fn uri_encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Why a script cannot be run at all: it is broken, or uses what we do not know.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line} of the iPXE script ({text:?}): {what}")]
pub struct ScriptError {
    pub line: usize,
    pub text: String,
    pub what: String,
}

/// What the script led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `boot`: a kernel with its command line and ramdisks by name.
    Kernel {
        kernel: Download,
        arguments: String,
        ramdisks: Vec<(String, Download)>,
    },
    /// `chain` to a program that is no script.
    Program(Download),
    /// `sanboot` of a local drive (0x80 is the first).
    Drive(u8),
    /// iPXE gave control back to the firmware: 0 is success.
    Exit(i32),
    Reboot,
    PowerOff,
}

/// Runs a script to its end.
///
/// # Errors
/// [`ScriptError`] if the script cannot be understood; failed downloads are the script's own business.
pub async fn run<P: Platform>(platform: &mut P, script: &str) -> Result<Outcome, ScriptError> {
    let mut ipxe = Ipxe { platform, settings: BTreeMap::new(), images: Vec::new(), kernel: None, lines: 0 };
    match ipxe.script(script.to_owned(), 0).await? {
        Flow::Leave(outcome) => Ok(*outcome),
        Flow::Done(code) => Ok(Outcome::Exit(code)),
        Flow::Goto(_) => Ok(Outcome::Exit(1)), // script() resolves every goto
    }
}

struct Ipxe<'a, P> {
    platform: &'a mut P,
    settings: BTreeMap<String, Value>,
    images: Vec<(String, Download)>,
    /// Name of the selected image and its arguments.
    kernel: Option<(String, String)>,
    lines: u32,
}

/// How one command, line or script ended.
enum Flow {
    /// 0 is success.
    Done(i32),
    Goto(String),
    Leave(Box<Outcome>),
}

const OK: Flow = Flow::Done(0);
const FAILED: Flow = Flow::Done(1);

impl<P: Platform> Ipxe<'_, P> {
    async fn script(&mut self, text: String, depth: u32) -> Result<Flow, ScriptError> {
        let lines: Vec<&str> = text.split('\n').map(str::trim).collect();
        let fail =
            |at: usize, what: String| ScriptError { line: at + 1, text: lines.get(at).unwrap_or(&"").chars().take(120).collect(), what };
        if !text.starts_with("#!ipxe") {
            return Err(fail(0, "a script begins with #!ipxe".into()));
        }
        let mut at = 0;
        while let Some(line) = lines.get(at) {
            self.lines += 1;
            if self.lines > MAX_LINES {
                return Err(fail(at, format!("{MAX_LINES} lines were executed and there is no end")));
            }
            let here = at;
            at += 1;
            if line.is_empty() || line.starts_with('#') || line.starts_with(':') {
                continue;
            }
            match self.line(line, depth).await.map_err(|what| fail(here, what))? {
                Flow::Done(0) => {}
                Flow::Goto(label) => {
                    let found = lines.iter().position(|l| l.strip_prefix(':').is_some_and(|l| l.trim() == label));
                    at = found.ok_or_else(|| fail(here, format!("there is no label :{label}")))?;
                }
                end @ (Flow::Done(_) | Flow::Leave(_)) => return Ok(end),
            }
        }
        Ok(OK)
    }

    /// One line: commands joined by `&&`, `||`, `;`, each looking at the code of the last one that ran.
    async fn line(&mut self, line: &str, depth: u32) -> Result<Flow, String> {
        let expanded = self.expand(line)?;
        let words: Vec<&str> = expanded.split_ascii_whitespace().collect();
        let mut code = 0;
        let mut joint = ";";
        let mut rest = words.as_slice();
        loop {
            let end = rest.iter().position(|w| matches!(*w, "&&" | "||" | ";")).unwrap_or(rest.len());
            let wanted = match joint {
                "&&" => code == 0,
                "||" => code != 0,
                _ => true,
            };
            if wanted {
                match self.command(&rest[..end], depth).await? {
                    Flow::Done(c) => code = c,
                    leave @ (Flow::Goto(_) | Flow::Leave(_)) => return Ok(leave),
                }
            }
            match rest.get(end) {
                Some(next) => {
                    joint = next;
                    rest = &rest[end + 1..];
                }
                None => return Ok(Flow::Done(code)),
            }
        }
    }

    fn expand(&self, line: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("${") {
            out.push_str(before);
            let (inside, after) = after.split_once('}').ok_or("${ without }")?;
            if inside.contains("${") {
                return Err("nested ${…} is not simulated".into());
            }
            let (name, kind) = inside.split_once(':').unwrap_or((inside, ""));
            let value = self.settings.get(name).cloned().or_else(|| self.platform.setting(name));
            if let Some(value) = value {
                out.push_str(&value.as_kind(kind).ok_or_else(|| format!("setting type {kind:?} is not simulated"))?);
            }
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }

    async fn command(&mut self, words: &[&str], depth: u32) -> Result<Flow, String> {
        // An empty command succeeds: `iseq a b && goto x ||` relies on it.
        let Some((verb, args)) = words.split_first() else { return Ok(OK) };
        match *verb {
            "echo" => {
                let text = args.strip_prefix(&["-n"]).unwrap_or(args);
                self.platform.say(&text.join(" "));
                Ok(OK)
            }
            "set" => self.set(args),
            "clear" => Ok(succeed(args.first().is_some_and(|name| self.settings.remove(*name).is_some()))),
            "isset" => Ok(succeed(!args.is_empty())),
            "iseq" => Ok(succeed(matches!(args, [a, b] if a == b))),
            "inc" => self.inc(args),
            "goto" => match args {
                [label] => Ok(Flow::Goto((*label).to_owned())),
                _ => Err("goto takes one label".into()),
            },
            "exit" => match args {
                [] => Ok(Flow::Leave(Box::new(Outcome::Exit(0)))),
                [code] => Ok(Flow::Leave(Box::new(Outcome::Exit(number(code)?)))),
                _ => Err("exit takes at most one number".into()),
            },
            "sleep" => match args {
                [secs] => {
                    self.platform.sleep(u64::try_from(number(secs)?).unwrap_or(0)).await;
                    Ok(OK)
                }
                _ => Err("sleep takes one number".into()),
            },
            "dhcp" | "ifopen" | "ifconf" => Ok(OK), // the network is up: the script came over it
            "chain" => self.chain(args, depth).await,
            "kernel" | "imgselect" => self.image(args, true).await,
            "initrd" | "imgfetch" | "module" => self.image(args, false).await,
            "imgfree" => {
                self.images.clear();
                self.kernel = None;
                Ok(OK)
            }
            "boot" => self.boot(args),
            "sanboot" => self.sanboot(args),
            "reboot" => Ok(Flow::Leave(Box::new(Outcome::Reboot))),
            "poweroff" => Ok(Flow::Leave(Box::new(Outcome::PowerOff))),
            "params" | "param" | "imgverify" | "imgtrust" | "ntp" | "vcreate" | "console" => {
                Err(format!("{verb} is not in Debian 12's iPXE"))
            }
            other => Err(format!("{other}: command not found")),
        }
    }

    fn set(&mut self, args: &[&str]) -> Result<Flow, String> {
        let Some((name, value)) = args.split_first() else { return Err("set takes a name".into()) };
        let (name, kind) = name.split_once(':').unwrap_or((name, "string"));
        let text = value.join(" ");
        if text.is_empty() {
            self.settings.remove(name);
            return Ok(OK);
        }
        let value = match kind {
            "string" => Value::Text(text),
            "int32" => Value::Int(number(&text)?),
            "ipv4" => Value::Address(text.parse().map_err(|_| format!("{text:?} is no IPv4 address"))?),
            other => return Err(format!("setting type {other:?} is not simulated")),
        };
        self.settings.insert(name.to_owned(), value);
        Ok(OK)
    }

    fn inc(&mut self, args: &[&str]) -> Result<Flow, String> {
        let (name, by) = match args {
            [name] => (*name, 1),
            [name, by] => (*name, number(by)?),
            _ => return Err("inc takes a name and at most one number".into()),
        };
        let before = match self.settings.get(name) {
            None => 0,
            Some(Value::Int(n)) => *n,
            Some(other) => return Err(format!("{name} is {other:?}, not a number")),
        };
        self.settings.insert(name.to_owned(), Value::Int(before.wrapping_add(by)));
        Ok(OK)
    }

    async fn chain(&mut self, args: &[&str], depth: u32) -> Result<Flow, String> {
        let options = Options::read(args, &["--replace", "--autofree"], &["--timeout", "--name"])?;
        let Some(uri) = options.rest.first() else { return Err("chain takes a URI".into()) };
        let file = match self.platform.fetch(uri).await {
            Ok(file) => file,
            Err(why) => {
                self.platform.say(&format!("{uri}... {why}"));
                return Ok(FAILED);
            }
        };
        self.platform.say(&format!("{uri}... ok"));
        let Some(script) = file.script() else { return Ok(Flow::Leave(Box::new(Outcome::Program(file)))) };
        if depth >= MAX_DEPTH {
            return Err(format!("{MAX_DEPTH} scripts chain each other"));
        }
        let end = Box::pin(self.script(script, depth + 1)).await.map_err(|e| e.to_string())?;
        match end {
            // The calling script is gone: nothing of it runs after the new one, whatever that came to.
            Flow::Done(code) if options.has("--replace") => Ok(Flow::Leave(Box::new(Outcome::Exit(code)))),
            // `exit N` in a chained script is what `chain` then returns.
            Flow::Leave(outcome) if !options.has("--replace") => match *outcome {
                Outcome::Exit(code) => Ok(Flow::Done(code)),
                other => Ok(Flow::Leave(Box::new(other))),
            },
            Flow::Goto(label) => Err(format!("there is no label :{label}")),
            end @ (Flow::Done(_) | Flow::Leave(_)) => Ok(end),
        }
    }

    async fn image(&mut self, args: &[&str], select: bool) -> Result<Flow, String> {
        let options = Options::read(args, &["--autofree"], &["--name", "--timeout"])?;
        let Some((uri, arguments)) = options.rest.split_first() else { return Err("a URI is missing".into()) };
        let file = match self.platform.fetch(uri).await {
            Ok(file) => file,
            Err(why) => {
                self.platform.say(&format!("{uri}... {why}"));
                return Ok(FAILED);
            }
        };
        self.platform.say(&format!("{uri}... ok"));
        let name = options.value("--name").map_or_else(|| file.file_name().to_owned(), str::to_owned);
        self.images.retain(|(n, _)| *n != name);
        self.images.push((name.clone(), file));
        if select {
            self.kernel = Some((name, arguments.join(" ")));
        }
        Ok(OK)
    }

    fn boot(&mut self, args: &[&str]) -> Result<Flow, String> {
        if !args.is_empty() {
            return Err("boot with a URI is not simulated".into());
        }
        let Some((name, arguments)) = self.kernel.clone() else { return Err("boot without a kernel".into()) };
        let mut images = std::mem::take(&mut self.images);
        let Some(at) = images.iter().position(|(n, _)| *n == name) else { return Err(format!("image {name} is gone")) };
        let (_, kernel) = images.remove(at);
        Ok(Flow::Leave(Box::new(Outcome::Kernel { kernel, arguments, ramdisks: images })))
    }

    fn sanboot(&mut self, args: &[&str]) -> Result<Flow, String> {
        let options = Options::read(args, &["--no-describe", "--keep"], &["--drive"])?;
        if let Some(uri) = options.rest.first() {
            return Err(format!("sanboot of {uri} is not simulated"));
        }
        let drive = options.value("--drive").unwrap_or("0x80");
        let drive = match drive.strip_prefix("0x") {
            Some(hex) => u8::from_str_radix(hex, 16).ok(),
            None => drive.parse().ok(),
        };
        let drive = drive.ok_or("the drive is not a number")?;
        // EFI: "No such device" for 0x80 and 0 alike (OVMF 2022.11), so the command fails there and the script goes on.
        if self.platform.setting("platform") == Some(Value::Text("efi".into())) {
            self.platform.say(&format!("Could not boot from SAN device {drive:#04x}: No such device"));
            return Ok(FAILED);
        }
        Ok(Flow::Leave(Box::new(Outcome::Drive(drive))))
    }
}

/// Options before the first plain word. iPXE also takes the single-letter forms, which our scripts do not use.
struct Options<'a> {
    given: Vec<(&'a str, Option<&'a str>)>,
    rest: Vec<&'a str>,
}

impl<'a> Options<'a> {
    fn read(args: &[&'a str], flags: &[&str], valued: &[&str]) -> Result<Self, String> {
        let mut given = Vec::new();
        let mut args = args.iter().copied();
        let mut rest = Vec::new();
        while let Some(word) = args.next() {
            if flags.contains(&word) {
                given.push((word, None));
            } else if valued.contains(&word) {
                given.push((word, Some(args.next().ok_or_else(|| format!("{word} needs a value"))?)));
            } else if word.starts_with('-') {
                return Err(format!("option {word} is not simulated"));
            } else {
                rest.push(word);
                break;
            }
        }
        rest.extend(args);
        Ok(Self { given, rest })
    }

    fn has(&self, flag: &str) -> bool {
        self.given.iter().any(|(name, _)| *name == flag)
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        self.given.iter().find(|(n, _)| *n == name).and_then(|(_, value)| *value)
    }
}

fn succeed(yes: bool) -> Flow {
    if yes { OK } else { FAILED }
}

fn number(text: &str) -> Result<i32, String> {
    text.parse().map_err(|_| format!("{text:?} is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Bench {
        efi: bool,
        files: BTreeMap<&'static str, &'static str>,
        said: Vec<String>,
        slept: u64,
        asked: Vec<String>,
    }

    impl Platform for Bench {
        fn setting(&self, name: &str) -> Option<Value> {
            match name {
                "net0/mac" | "netX/mac" => Some(Value::Mac(Mac([0x52, 0x54, 0, 0x77, 0, 1]))),
                "serial" => Some(Value::Text("S 1/2".into())),
                "uuid" => "11223344-5566-4788-9900-525400770001".parse().ok().map(Value::Uuid),
                "platform" => Some(Value::Text(if self.efi { "efi" } else { "pcbios" }.into())),
                _ => None,
            }
        }

        async fn fetch(&mut self, uri: &str) -> Result<Download, String> {
            self.asked.push(uri.to_owned());
            let text = self.files.get(uri).ok_or("No such file or directory (http://ipxe.org/2d0c613b)")?;
            Ok(Download { uri: uri.to_owned(), size_bytes: text.len() as u64, head: text.as_bytes().to_vec() })
        }

        async fn sleep(&mut self, secs: u64) {
            self.slept += secs;
        }

        fn say(&mut self, line: &str) {
            self.said.push(line.to_owned());
        }
    }

    async fn run_on(bench: &mut Bench, body: &str) -> Result<Outcome, ScriptError> {
        run(bench, &format!("#!ipxe\n{body}\n")).await
    }

    async fn said(body: &str) -> Vec<String> {
        let mut bench = Bench::default();
        run_on(&mut bench, body).await.unwrap();
        bench.said
    }

    #[tokio::test]
    async fn settings_are_printed_in_the_asked_type() {
        assert_eq!(
            said("echo ${net0/mac} ${net0/mac:hexhyp} ${serial:uristring} ${uuid} ${none}.").await,
            ["52:54:00:77:00:01 52-54-00-77-00-01 S%201%2F2 11223344-5566-4788-9900-525400770001 ."]
        );
    }

    #[tokio::test]
    async fn a_line_goes_on_by_the_code_of_the_last_command_that_ran() {
        assert_eq!(said("isset ${none} && echo a || echo b").await, ["b"]);
        assert_eq!(said("isset ${uuid} && echo a || echo b").await, ["a"]);
        // A failing line ends the script; a trailing || makes it succeed.
        assert_eq!(said("iseq 1 2\necho never").await, [""; 0]);
        assert_eq!(said("iseq 1 2 && echo never ||\necho on").await, ["on"]);
    }

    #[tokio::test]
    async fn a_retry_loop_counts_and_ends() {
        let mut bench = Bench::default();
        let body = "set tries:int32 0\n:again\nchain http://x/s || goto failed\n:failed\ninc tries\niseq ${tries} 3 && goto out ||\nsleep 5\ngoto again\n:out\nexit 1";
        assert_eq!(run_on(&mut bench, body).await, Ok(Outcome::Exit(1)));
        assert_eq!((bench.asked.len(), bench.slept), (3, 10));
    }

    #[tokio::test]
    async fn kernel_and_ramdisk_are_handed_over_with_the_command_line() {
        let mut bench = Bench { files: [("http://x/k?a=1", "K"), ("http://x/r", "RR")].into(), ..Bench::default() };
        let outcome =
            run_on(&mut bench, "kernel --name kernel http://x/k?a=1 initrd=ramdisk a=b c\ninitrd --name ramdisk http://x/r\nboot")
                .await
                .unwrap();
        let Outcome::Kernel { kernel, arguments, ramdisks } = outcome else { panic!("{outcome:?}") };
        assert_eq!((kernel.file_name(), arguments.as_str()), ("k", "initrd=ramdisk a=b c"));
        assert_eq!(ramdisks.iter().map(|(n, d)| (n.as_str(), d.size_bytes)).collect::<Vec<_>>(), [("ramdisk", 2)]);
    }

    #[tokio::test]
    async fn a_replaced_script_never_goes_on() {
        let files = [("http://x/s", "#!ipxe\niseq 1 2\n")];
        let mut bench = Bench { files: files.into(), ..Bench::default() };
        assert_eq!(run_on(&mut bench, "chain --replace http://x/s || echo fallback").await, Ok(Outcome::Exit(1)));
        assert!(!bench.said.contains(&"fallback".to_owned()));
        // The trap of plain chain: a failure inside runs the fallback.
        let mut bench = Bench { files: files.into(), ..Bench::default() };
        run_on(&mut bench, "chain http://x/s || echo fallback").await.unwrap();
        assert!(bench.said.contains(&"fallback".to_owned()));
    }

    #[tokio::test]
    async fn the_first_disk_starts_on_bios_and_not_on_efi() {
        let body = "sanboot --no-describe --drive 0x80 || echo no\nexit";
        assert_eq!(run_on(&mut Bench::default(), body).await, Ok(Outcome::Drive(0x80)));
        assert_eq!(run_on(&mut Bench { efi: true, ..Bench::default() }, body).await, Ok(Outcome::Exit(0)));
    }

    #[tokio::test]
    async fn what_is_not_known_is_an_error_that_names_the_line() {
        for (body, what) in [
            ("imgverify a b", "not in Debian"),
            ("frobnicate", "command not found"),
            ("chain --post x y", "--post"),
            ("echo ${a${b}}", "nested"),
            ("goto nowhere", "no label"),
            ("echo ${uuid:base64}", "base64"),
            ("boot", "without a kernel"),
        ] {
            let error = run_on(&mut Bench::default(), body).await.unwrap_err();
            assert!(error.line == 2 && error.what.contains(what), "{body}: {error}");
        }
        assert!(run(&mut Bench::default(), "echo no magic").await.is_err());
    }

    #[tokio::test]
    async fn a_script_that_goes_in_circles_is_stopped() {
        assert!(run_on(&mut Bench::default(), ":a\ngoto a").await.unwrap_err().what.contains("no end"));
    }
}
