//! Kernel modules: which ones the hardware asks for, and loading them with what they need.
//!
//! Reads `modules.dep` and `modules.alias` as depmod(8) writes them. The ramdisk holds only the modules `pxe/build`
//! packed, so both files are short.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

/// The modules of the running kernel.
#[derive(Default)]
pub struct Modules {
    root: PathBuf,
    /// Name to file and the names it needs, nearest last as modules.dep lists them.
    files: HashMap<String, (PathBuf, Vec<String>)>,
    /// Pattern and module.
    aliases: Vec<(String, String)>,
    done: BTreeSet<String>,
}

/// What did not load, and why.
pub type Trouble = (String, Errno);

impl Modules {
    /// Reads the tables below `root` (`/lib/modules/VERSION`).
    pub fn read(root: &Path) -> Self {
        let text = |name: &str| fs::read_to_string(root.join(name)).unwrap_or_default();
        let files = text("modules.dep").lines().filter_map(parse_dep).collect();
        let aliases = text("modules.alias").lines().filter_map(parse_alias).collect();
        Self { root: root.to_owned(), files, aliases, done: BTreeSet::new() }
    }

    /// Loads a module by name or alias, with all it needs. True if one was there and is loaded now.
    ///
    /// # Errors
    /// A module that the kernel refused, if it took none: of several with one alias (`crc32c`: plain and for SSE 4.2) the
    /// processor may not have what one needs.
    pub fn load(&mut self, wanted: &str) -> Result<bool, Trouble> {
        let mut found = false;
        let mut trouble = None;
        for name in self.named(wanted) {
            match self.load_file(&name) {
                Ok(loaded) => found |= loaded,
                Err(e) => trouble = Some(e),
            }
        }
        match trouble {
            Some(e) if !found => Err(e),
            _ => Ok(found),
        }
    }

    fn named(&self, wanted: &str) -> Vec<String> {
        let plain = module_name(wanted);
        if self.files.contains_key(&plain) {
            return vec![plain];
        }
        let matching = self.aliases.iter().filter(|(pattern, _)| glob(pattern.as_bytes(), wanted.as_bytes()));
        matching.map(|(_, module)| module.clone()).collect()
    }

    fn load_file(&mut self, name: &str) -> Result<bool, Trouble> {
        if self.done.contains(name) {
            return Ok(false);
        }
        let Some((path, needs)) = self.files.get(name).cloned() else {
            return Ok(false);
        };
        // Noted first: a module that the kernel refuses is not tried again for every device.
        self.done.insert(name.to_owned());
        for needed in needs.iter().rev() {
            self.load_file(needed)?;
        }
        let file = File::open(self.root.join(&path)).map_err(|e| (name.to_owned(), Errno::from_raw(e.raw_os_error().unwrap_or(0))))?;
        match finit_module(file, c"", ModuleInitFlags::empty()) {
            Ok(()) | Err(Errno::EEXIST) => Ok(true),
            Err(e) => Err((name.to_owned(), e)),
        }
    }

    /// Loads what the devices below `devices` (`/sys/devices`) ask for, until no new module turns up: a bus driver makes
    /// devices of its own appear (virtio after virtio_pci, disks after their HBA). Returns names loaded and refused.
    pub fn coldplug(&mut self, devices: &Path) -> (usize, Vec<Trouble>) {
        let before = self.done.len();
        let mut troubles = Vec::new();
        // Real machines settle in three rounds; more than eight means two modules that make devices for ever.
        for _ in 0..8 {
            let mut wanted = BTreeSet::new();
            collect_modaliases(devices, 0, &mut wanted);
            let mut news = false;
            for alias in wanted {
                match self.load(&alias) {
                    Ok(loaded) => news |= loaded,
                    // ENODEV: the driver looked and its device is not there.
                    Err((_, Errno::ENODEV)) => {}
                    Err(trouble) => troubles.push(trouble),
                }
            }
            if !news {
                break;
            }
        }
        (self.done.len() - before, troubles)
    }
}

/// The module loader the kernel calls for itself: `modprobe -q -- fs-ext4`. Exit code 0 if something was loaded.
pub fn modprobe<'a>(root: &Path, args: impl Iterator<Item = &'a str>) -> u8 {
    let mut modules = Modules::read(root);
    let mut code = 1;
    for wanted in args.filter(|arg| !arg.starts_with('-')) {
        if matches!(modules.load(wanted), Ok(true)) {
            code = 0;
        }
    }
    code
}

/// `/lib/modules/VERSION` of the running kernel.
pub fn root() -> PathBuf {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Path::new("/lib/modules").join(release.trim())
}

fn collect_modaliases(at: &Path, depth: u32, out: &mut BTreeSet<String>) {
    // Deepest seen on real servers: 17 (a disk behind two expanders).
    if depth > 32 {
        return;
    }
    let Ok(list) = fs::read_dir(at) else {
        return;
    };
    for entry in list.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect_modaliases(&entry.path(), depth + 1, out),
            Ok(kind) if kind.is_file() && entry.file_name() == "modalias" => {
                out.extend(fs::read_to_string(entry.path()).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()));
            }
            _ => {}
        }
    }
}

/// `kernel/net/foo-bar.ko` is module `foo_bar`.
fn module_name(text: &str) -> String {
    let file = text.rsplit('/').next().unwrap_or(text);
    file.split(".ko").next().unwrap_or(file).replace('-', "_")
}

/// `kernel/a.ko: kernel/b.ko kernel/c.ko`
fn parse_dep(line: &str) -> Option<(String, (PathBuf, Vec<String>))> {
    let (file, needs) = line.split_once(':')?;
    Some((module_name(file), (file.into(), needs.split_whitespace().map(module_name).collect())))
}

/// `alias pci:v00008086d* e1000`
fn parse_alias(line: &str) -> Option<(String, String)> {
    let mut words = line.strip_prefix("alias ")?.split_whitespace();
    Some((words.next()?.to_owned(), module_name(words.next()?)))
}

/// fnmatch(3) with `*`, `?` and `[a-z]`, which is all that modules.alias uses.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match one(&pattern[p..], text[t]) {
            Some(width) => {
                p += width;
                t += 1;
            }
            None if pattern.get(p) == Some(&b'*') => {
                star = Some((p, t));
                p += 1;
            }
            None => match star {
                // Let the last star take one more.
                Some((at, from)) => {
                    p = at + 1;
                    t = from + 1;
                    star = Some((at, from + 1));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// How much of the pattern matches the one byte, if it does.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'*', ..] | [] => None,
        [b'?', ..] => Some(1),
        [b'[', rest @ ..] => {
            let end = rest.iter().position(|c| *c == b']')?;
            let set = &rest[..end];
            let mut at = 0;
            while at < set.len() {
                if let [low, b'-', high, ..] = set[at..] {
                    if (low..=high).contains(&byte) {
                        return Some(end + 2);
                    }
                    at += 3;
                } else {
                    if set[at] == byte {
                        return Some(end + 2);
                    }
                    at += 1;
                }
            }
            None
        }
        [c, ..] => (*c == byte).then_some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_modalias_finds_its_module() {
        let matches = |pattern: &str, text: &str| glob(pattern.as_bytes(), text.as_bytes());
        assert!(matches("pci:v00008086d0000100Esv*sd*bc*sc*i*", "pci:v00008086d0000100Esv00001AF4sd00001100bc02sc00i00"));
        assert!(matches("pci:v*d*sv*sd*bc01sc06i01*", "pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"));
        assert!(!matches("pci:v*d*sv*sd*bc01sc06i01*", "pci:v00008086d00002922sv00001AF4sd00001100bc01sc08i02"));
        assert!(matches("usb:v*p*d01[0-4]?*ic08", "usb:v1p2d0133ic08"));
        assert!(matches("virtio:d00000001v*", "virtio:d00000001v00001AF4"));
        assert!(!matches("abc", "abcd") && !matches("abc", "ab") && matches("*", ""));
    }

    #[test]
    fn dependencies_and_aliases_are_read_as_depmod_writes_them() {
        let (name, (path, needs)) = parse_dep("kernel/fs/ext4/ext4.ko: kernel/lib/crc16.ko kernel/fs/mbcache.ko").unwrap();
        assert_eq!((name.as_str(), path.to_str()), ("ext4", Some("kernel/fs/ext4/ext4.ko")));
        assert_eq!(needs, ["crc16", "mbcache"]);
        assert_eq!(parse_alias("alias fs-ext4 ext4"), Some(("fs-ext4".into(), "ext4".into())));
        assert_eq!(parse_alias("# comment"), None);
        assert_eq!(module_name("kernel/drivers/net/virtio-net.ko"), "virtio_net");
    }
}
