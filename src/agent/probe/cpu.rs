//! Processors and memory as the kernel sees them.

use std::collections::BTreeMap;
use std::path::Path;

use crate::domain::inventory::Cpu;

/// SMBIOS knows sockets and core counts, the kernel knows what the processor calls itself. Virtual machines and some
/// boards have no usable SMBIOS entry: then the kernel's count stands.
pub fn read_cpus(proc: &Path, from_smbios: Vec<Cpu>) -> Vec<Cpu> {
    let text = std::fs::read_to_string(proc.join("cpuinfo")).unwrap_or_default();
    let seen = parse_cpuinfo(&text);
    if from_smbios.iter().all(|cpu| cpu.cores == 0) {
        return seen;
    }
    let model = seen.first().map(|cpu| cpu.model.clone()).filter(|model| !model.is_empty());
    from_smbios.into_iter().map(|cpu| Cpu { model: model.clone().unwrap_or(cpu.model), ..cpu }).collect()
}

/// One entry per `physical id`.
fn parse_cpuinfo(text: &str) -> Vec<Cpu> {
    let mut sockets: BTreeMap<String, Cpu> = BTreeMap::new();
    for block in text.split("\n\n") {
        let fields: BTreeMap<&str, &str> =
            block.lines().filter_map(|line| line.split_once(':')).map(|(k, v)| (k.trim(), v.trim())).collect();
        if !fields.contains_key("processor") {
            continue;
        }
        let socket = fields.get("physical id").copied().unwrap_or("0");
        let cpu = sockets.entry(socket.to_owned()).or_insert_with(|| Cpu { socket: format!("CPU {socket}"), ..Cpu::default() });
        cpu.threads += 1;
        cpu.cores = fields.get("cpu cores").and_then(|n| n.parse().ok()).unwrap_or(cpu.threads);
        cpu.model = fields.get("model name").copied().unwrap_or_default().to_owned();
    }
    sockets.into_values().collect()
}

/// Memory the kernel may use; a little less than is installed.
pub fn memory_bytes(proc: &Path) -> u64 {
    let text = std::fs::read_to_string(proc.join("meminfo")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    line.and_then(|rest| rest.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_one_socket_are_one_processor() {
        let one = |n: u32, socket: u32| format!("processor\t: {n}\nmodel name\t: Xeon\nphysical id\t: {socket}\ncpu cores\t: 2\n");
        let text = [one(0, 0), one(1, 0), one(2, 1), one(3, 1)].join("\n");
        let cpus = parse_cpuinfo(&text);
        assert_eq!(cpus.len(), 2);
        assert_eq!((cpus[0].cores, cpus[0].threads, cpus[0].model.as_str()), (2, 2, "Xeon"));
        assert_eq!(parse_cpuinfo(""), []);
    }
}
