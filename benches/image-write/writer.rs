//! Writes an image file to a plain file with the agent's own code, and says how it went. Driven by `benches/image-write/run`.
//!
//! `image_write SOURCE.zst SHA256 RAW_BYTES RAW_SHA256 TARGET` prints one line of JSON.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use hostler::agent::link::Progress;
use hostler::agent::task::pipeline::{Spec, write_image};
use hostler::agent::task::target::Target;
use hostler::domain::image::ImageFormat;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [source, sha256, raw_bytes, raw_sha256, target] = args.as_slice() else {
        return Err("usage: image_write SOURCE.zst SHA256 RAW_BYTES RAW_SHA256 TARGET".into());
    };
    let source = File::open(source)?;
    let spec = Spec {
        format: ImageFormat::RawZst,
        size_bytes: source.metadata()?.len(),
        sha256: sha256.parse()?,
        raw_size_bytes: raw_bytes.parse()?,
        raw_sha256: raw_sha256.parse()?,
    };
    let began = Instant::now();
    let target = Target::file(Path::new(target), spec.raw_size_bytes)?;
    let written = write_image(source, &target, &spec, &Progress::default())?;
    let seconds = began.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).and_then(|rest| rest.split_whitespace().next());
    let peak_kib: u64 = peak.ok_or("the kernel does not tell VmHWM")?.parse()?;
    println!("{}", serde_json::json!({ "seconds": seconds, "peak_kib": peak_kib, "written": written }));
    Ok(())
}
