//! Image writing, growing, seeding and wiping: on plain files, and on loop devices where the machine has them.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode, header};
use axum::routing::get;
use hostler::agent::link::{Progress, http_client};
use hostler::agent::task::disk::Devices;
use hostler::agent::task::grow::{Growth, TYPE_LINUX, fit};
use hostler::agent::task::pipeline::{self, Spec};
use hostler::agent::task::seed::{check_seed, write_seed};
use hostler::agent::task::target::Target;
use hostler::agent::task::wipe::wipe_disks;
use hostler::agent::task::write_image::{Site, write_image};
use hostler::domain::id::Sha256;
use hostler::domain::image::ImageFormat;
use hostler::domain::inventory::DiskRef;
use hostler::domain::power::FirmwareKind;
use hostler::wire::agent::{Seed, WipeDisks, WriteImage};
use sha2::Digest;
use tempfile::TempDir;

const MIB: usize = 1 << 20;

/// Data, short zero runs, long holes, and an odd end: 5 MiB and 512 bytes.
fn image() -> Vec<u8> {
    let mut bytes = vec![0; 5 * MIB + 512];
    let noise = |n: usize| (n.wrapping_mul(2_654_435_761) >> 7) as u8;
    for range in [0..4096, MIB..MIB + 70_000, 2 * MIB + 65_536..2 * MIB + 65_537, 4 * MIB + 300_000..5 * MIB + 512] {
        range.for_each(|n| bytes[n] = noise(n) | 1);
    }
    bytes
}

fn sha(bytes: &[u8]) -> Sha256 {
    Sha256(sha2::Sha256::digest(bytes).into())
}

fn packed(format: ImageFormat, raw: &[u8]) -> Vec<u8> {
    match format {
        ImageFormat::Raw => raw.to_vec(),
        ImageFormat::RawZst => zstd::encode_all(raw, 1).unwrap(),
        ImageFormat::RawGz => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(raw).unwrap();
            encoder.finish().unwrap()
        }
    }
}

fn spec(format: ImageFormat, raw: &[u8], file: &[u8]) -> Spec {
    Spec { format, size_bytes: file.len() as u64, sha256: sha(file), raw_size_bytes: raw.len() as u64, raw_sha256: sha(raw) }
}

const FORMATS: [ImageFormat; 3] = [ImageFormat::Raw, ImageFormat::RawZst, ImageFormat::RawGz];

/// Writes `file` as `spec` says into a file of 8 MiB; the code of the failure, and what the file then holds.
fn try_write(file: &[u8], spec: &Spec) -> (Option<&'static str>, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("out");
    let target = Target::file(&path, 8 * MIB as u64).unwrap();
    let outcome = pipeline::write_image(file, &target, spec, &Progress::default());
    (outcome.err().map(|e| e.code), fs::read(path).unwrap())
}

fn has_no_partition_table(bytes: &[u8]) -> bool {
    bytes[..MIB].iter().all(|b| *b == 0) && bytes[bytes.len() - MIB..].iter().all(|b| *b == 0)
}

#[test]
fn every_format_is_written_byte_for_byte() {
    let raw = image();
    for format in FORMATS {
        let file = packed(format, &raw);
        let (code, out) = try_write(&file, &spec(format, &raw, &file));
        assert_eq!(code, None, "{format}");
        assert!(out[..raw.len()] == raw[..] && out[raw.len()..].iter().all(|b| *b == 0), "{format}");
    }
}

#[test]
fn a_wrong_hash_leaves_no_partition_table() {
    let raw = image();
    for format in FORMATS {
        let file = packed(format, &raw);
        let good = spec(format, &raw, &file);
        for bad in [Spec { sha256: Sha256([1; 32]), ..good.clone() }, Spec { raw_sha256: Sha256([1; 32]), ..good.clone() }] {
            let (code, out) = try_write(&file, &bad);
            assert_eq!(code, Some("hash_mismatch"), "{format}");
            assert!(has_no_partition_table(&out), "{format}");
        }
    }
}

#[test]
fn a_file_that_ends_early_is_refused_in_every_format() {
    let raw = image();
    for format in FORMATS {
        let file = packed(format, &raw);
        let (code, out) = try_write(&file[..file.len() - 1000], &spec(format, &raw, &file));
        assert!(matches!(code, Some("truncated" | "decompress")), "{format}: {code:?}");
        assert!(has_no_partition_table(&out), "{format}");
    }
}

#[test]
fn an_image_that_unpacks_to_more_than_it_should_is_stopped() {
    let bomb = vec![0; 64 * MIB];
    for format in FORMATS {
        let file = packed(format, &bomb);
        let claimed = Spec { raw_size_bytes: 4 * MIB as u64, ..spec(format, &bomb, &file) };
        let (code, out) = try_write(&file, &claimed);
        assert_eq!(code, Some("decompress"), "{format}");
        assert_eq!(out.len(), 8 * MIB, "{format}");
    }
}

#[test]
fn an_image_that_unpacks_to_less_or_is_followed_by_more_is_refused() {
    let raw = image();
    for format in FORMATS {
        let file = packed(format, &raw);
        let longer = Spec { raw_size_bytes: raw.len() as u64 + 512, ..spec(format, &raw, &file) };
        assert_eq!(try_write(&file, &longer).0, Some("truncated"), "{format}");
        let followed = [&file[..], b"more"].concat();
        let (code, _) = try_write(&followed, &spec(format, &raw, &file));
        assert!(matches!(code, Some("hash_mismatch" | "decompress")), "{format}: {code:?}");
    }
}

#[test]
fn bytes_that_are_no_such_format_are_refused() {
    let raw = image();
    for format in [ImageFormat::RawZst, ImageFormat::RawGz] {
        let (code, out) = try_write(&raw, &spec(format, &raw, &raw));
        assert_eq!(code, Some("decompress"), "{format}");
        assert!(has_no_partition_table(&out), "{format}");
    }
}

#[test]
fn an_image_larger_than_the_disk_is_refused_before_a_byte_is_written() {
    let raw = vec![7; 9 * MIB];
    let (code, out) = try_write(&raw, &spec(ImageFormat::Raw, &raw, &raw));
    assert_eq!(code, Some("disk_too_small"));
    assert!(out.iter().all(|b| *b == 0));
}

#[test]
fn a_withdrawn_task_stops_and_leaves_no_partition_table() {
    let raw = image();
    let dir = tempfile::tempdir().unwrap();
    let target = Target::file(&dir.path().join("out"), 8 * MIB as u64).unwrap();
    let progress = Progress::default();
    progress.cancel();
    let failed = pipeline::write_image(&raw[..], &target, &spec(ImageFormat::Raw, &raw, &raw), &progress).unwrap_err();
    assert_eq!(failed.code, "cancelled");
    assert!(has_no_partition_table(&fs::read(dir.path().join("out")).unwrap()));
}

/// A file with a GPT and one Linux partition from 1 MiB to `end_mib`, on a disk of `disk_mib`.
fn partitioned(path: &Path, image_mib: u64, end_mib: u64, disk_mib: u64) {
    let mut file = fs::File::options().read(true).write(true).create(true).truncate(true).open(path).unwrap();
    file.set_len(image_mib << 20).unwrap();
    let mut gpt = gptman::GPT::new_from(&mut file, 512, [9; 16]).unwrap();
    gpt[1] = gptman::GPTPartitionEntry {
        partition_type_guid: TYPE_LINUX,
        unique_partition_guid: [3; 16],
        starting_lba: 2048,
        ending_lba: end_mib * 2048 - 1,
        attribute_bits: 0,
        partition_name: "root".into(),
    };
    gpt.write_into(&mut file).unwrap();
    gptman::GPT::write_protective_mbr_into(&mut file, 512).unwrap();
    file.set_len(disk_mib << 20).unwrap();
}

#[test]
fn the_last_partition_grows_and_the_backup_table_moves_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    partitioned(&path, 8, 7, 64);
    let fitted = fit(&path, 512, Growth::LastPartition).unwrap().unwrap();
    assert_eq!(fitted.grown, Some((1, 6 << 20, 62 << 20)));
    let mut file = fs::File::open(&path).unwrap();
    let gpt = gptman::GPT::read_from(&mut file, 512).unwrap();
    assert_eq!((gpt.header.backup_lba, gpt[1].ending_lba), (64 * 2048 - 1, 63 * 2048 - 1));
    let mut mbr = [0; 512];
    fs::File::open(&path).unwrap().read_exact(&mut mbr).unwrap();
    assert_eq!(mbr[458..462], (64 * 2048_u32 - 1).to_le_bytes());
}

#[test]
fn a_partition_that_shall_not_grow_keeps_its_size() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    partitioned(&path, 8, 7, 64);
    let fitted = fit(&path, 512, Growth::None).unwrap().unwrap();
    assert_eq!((fitted.grown, fitted.partitions[0].last_lba), (None, 7 * 2048 - 1));
}

#[test]
fn a_table_for_another_block_size_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk");
    partitioned(&path, 8, 7, 64);
    let refused = fit(&path, 4096, Growth::LastPartition).unwrap_err();
    assert!(refused.code == "grow" && refused.message.contains("512"), "{refused}");
}

fn a_seed() -> Seed {
    Seed {
        meta_data: "instance-id: i1\nlocal-hostname: m1\n".into(),
        user_data: "#cloud-config\n".into(),
        vendor_data: "#cloud-config\nphone_home: {}\n".into(),
        network_config: Some("version: 2\n".into()),
    }
}

#[test]
fn a_seed_replaces_an_older_one_and_follows_no_link() {
    let dir = tempfile::tempdir().unwrap();
    let outside = dir.path().join("outside");
    fs::write(&outside, "untouched").unwrap();
    let root = dir.path().join("root");
    let place = root.join("var/lib/cloud/seed/nocloud");
    fs::create_dir_all(&place).unwrap();
    symlink(&outside, place.join("user-data")).unwrap();
    write_seed(&root, &a_seed()).unwrap();
    check_seed(&root, &a_seed()).unwrap();
    assert_eq!(fs::read_to_string(outside).unwrap(), "untouched");

    fs::remove_dir_all(root.join("var")).unwrap();
    symlink(dir.path(), root.join("var")).unwrap();
    assert_eq!(write_seed(&root, &a_seed()).unwrap_err().code, "seed");
}

/// Says that a test cannot run here; with `HOSTLER_TEST_REQUIRE` (as `tests/run` sets it) that is a failure.
fn skipped(what: &str) {
    assert!(std::env::var_os("HOSTLER_TEST_REQUIRE").is_none(), "{what}");
    eprintln!("skipped: {what}");
}

/// A loop device over a file of ones, listed as disk `vda` with serial `DISK1` in a tree of its own.
struct Loop {
    dir: TempDir,
    device: String,
    partition: Option<String>,
    size: u64,
}

impl Loop {
    /// `None` where loop devices cannot be made; says why, so that a skipped test is seen.
    fn new(mib: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let backing = dir.path().join("backing");
        fs::write(&backing, vec![0xff; (mib as usize) << 20]).unwrap();
        let made = Command::new("losetup").args(["--find", "--show", "--partscan"]).arg(&backing).output();
        let device = match made {
            Ok(out) if out.status.success() => String::from_utf8(out.stdout).unwrap().trim().to_owned(),
            Ok(out) => {
                skipped(&format!("no loop devices here: {}", String::from_utf8_lossy(&out.stderr)));
                return None;
            }
            Err(e) => {
                skipped(&format!("losetup does not run: {e}"));
                return None;
            }
        };
        let made = Self { dir, device, partition: None, size: mib << 20 };
        let at = made.dir.path().join("sys/block/vda");
        fs::create_dir_all(at.join("queue")).unwrap();
        fs::create_dir_all(made.dir.path().join("dev")).unwrap();
        let name = made.device.trim_start_matches("/dev/");
        let number = fs::read_to_string(format!("/sys/block/{name}/dev")).unwrap();
        for (file, text) in [("size", &*(mib * 2048).to_string()), ("serial", "DISK1"), ("removable", "0"), ("ro", "0"), ("dev", &*number)]
        {
            fs::write(at.join(file), text).unwrap();
        }
        fs::write(at.join("queue/logical_block_size"), "512").unwrap();
        symlink(&made.device, made.dir.path().join("dev/vda")).unwrap();
        Some(made)
    }

    /// Makes `vda1` a second loop device over the same file: not every kernel reads partition tables (containers).
    fn with_partition(mut self, first_mib: u64, mib: u64) -> Self {
        let (offset, size) = ((first_mib << 20).to_string(), (mib << 20).to_string());
        let made = Command::new("losetup")
            .args(["--find", "--show", "--offset", &offset, "--sizelimit", &size])
            .arg(self.dir.path().join("backing"))
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let device = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        symlink(&device, self.dir.path().join("dev/vda1")).unwrap();
        self.partition = Some(device);
        self
    }

    fn devices(&self) -> Devices {
        Devices { sys: self.dir.path().join("sys"), dev: self.dir.path().join("dev") }
    }

    fn disk(&self) -> DiskRef {
        DiskRef { serial: Some("DISK1".parse().unwrap()), wwn: None, size_bytes: self.size, name_hint: "vda".into() }
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(self.dir.path().join("backing")).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        for device in self.partition.iter().chain([&self.device]) {
            if let Err(e) = Command::new("losetup").args(["--detach", device]).status() {
                eprintln!("{device} stays: {e}");
            }
        }
    }
}

#[test]
fn old_data_does_not_show_through_the_holes_of_an_image() {
    let Some(disk) = Loop::new(16) else { return };
    let raw = image();
    let (target, _) = disk.devices().open(&disk.disk()).unwrap();
    let written = pipeline::write_image(&raw[..], &target, &spec(ImageFormat::Raw, &raw, &raw), &Progress::default()).unwrap();
    drop(target);
    assert!(written.hole_bytes > 0 && written.hole_samples > 0);
    let found = disk.bytes();
    assert!(found[..raw.len()] == raw[..]);
    // What lies behind the image is not ours to clear, but for the place of an old backup table.
    assert!(found[found.len() - MIB..].iter().all(|b| *b == 0));
}

#[test]
fn a_disk_that_is_not_the_one_meant_is_never_opened() {
    let Some(disk) = Loop::new(16) else { return };
    let meant = disk.disk();
    let code = |meant: &DiskRef| disk.devices().open(meant).err().map(|e| e.code);
    assert_eq!(code(&DiskRef { serial: Some("OTHER".parse().unwrap()), ..meant.clone() }), Some("disk_not_found"));
    assert_eq!(code(&DiskRef { size_bytes: 5, ..meant.clone() }), Some("disk_mismatch"));
    assert_eq!(code(&DiskRef { wwn: Some("naa.5".into()), ..meant.clone() }), Some("disk_mismatch"));
    assert_eq!(code(&DiskRef { serial: None, wwn: None, ..meant.clone() }), Some("disk_not_found"));
    // The tree says 16 MiB, the device is the same, but the number of another: the path changed under us.
    fs::write(disk.dir.path().join("sys/block/vda/dev"), "1:1").unwrap();
    assert_eq!(code(&meant), Some("disk_mismatch"));
    assert!(disk.bytes().iter().all(|b| *b == 0xff));
}

#[test]
fn a_disk_in_use_is_refused() {
    let Some(disk) = Loop::new(16) else { return };
    let held = disk.devices().open(&disk.disk()).unwrap();
    let refused = disk.devices().open(&disk.disk()).err().unwrap();
    assert!(refused.code == "write" && refused.message.contains("in use"), "{refused}");
    drop(held);
}

#[test]
fn a_wipe_reads_every_block_back() {
    let Some(disk) = Loop::new(70) else { return };
    let progress = Progress::default();
    let evidence = wipe_disks(&disk.devices(), &WipeDisks { disks: vec![disk.disk()] }, &progress).unwrap();
    assert_eq!(evidence["disks"][0]["bytes_read_back"], 70 << 20);
    assert_eq!(evidence["disks"][0]["serial"], "DISK1");
    assert!(disk.bytes().iter().all(|b| *b == 0));
    assert_eq!((progress.latest().done, progress.latest().total), (140 << 20, 140 << 20));
}

#[test]
fn one_disk_that_does_not_match_keeps_all_of_them_untouched() {
    let Some(disk) = Loop::new(16) else { return };
    let other = DiskRef { serial: Some("OTHER".parse().unwrap()), ..disk.disk() };
    let wipe = |disks| wipe_disks(&disk.devices(), &WipeDisks { disks }, &Progress::default()).unwrap_err().code;
    assert_eq!(wipe(vec![disk.disk(), other]), "disk_not_found");
    assert_eq!(wipe(vec![]), "refused");
    // The same disk twice fails at the second exclusive open.
    assert_eq!(wipe(vec![disk.disk(), disk.disk()]), "write");
    assert!(disk.bytes().iter().all(|b| *b == 0xff));
}

/// Serves one file with Range; the first `cuts` answers end half-way.
struct Served {
    file: Bytes,
    cuts: AtomicUsize,
    requests: AtomicUsize,
}

async fn serve_file(State(served): State<Arc<Served>>, headers: HeaderMap) -> Response<Body> {
    served.requests.fetch_add(1, Ordering::Relaxed);
    let size = served.file.len();
    let range =
        headers.get(header::RANGE).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let from: usize = range.unwrap_or(0);
    let cut = served.cuts.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok();
    let rest = served.file.slice(from..);
    let body = if cut {
        let half = rest.slice(..rest.len() / 2);
        // The declared length is never reached: the connection breaks.
        Body::from_stream(futures_util::stream::iter([Ok(half), Err(std::io::Error::other("cut"))]))
    } else {
        Body::from(rest)
    };
    let status = if from > 0 { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
    Response::builder()
        .status(status)
        .header(header::CONTENT_LENGTH, size - from)
        .header(header::CONTENT_RANGE, format!("bytes {from}-{}/{size}", size - 1))
        .body(body)
        .unwrap()
}

async fn serve(file: Vec<u8>, cuts: usize) -> (String, Arc<Served>) {
    let served = Arc::new(Served { file: file.into(), cuts: cuts.into(), requests: 0.into() });
    let app = Router::new().route("/boot/image/x", get(serve_file)).with_state(Arc::clone(&served));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    (origin, served)
}

/// An ext4 root file system in the one partition of an 8 MiB image; `None` without mke2fs.
fn root_image(dir: &Path) -> Option<Vec<u8>> {
    let (disk, tree, part): (PathBuf, PathBuf, PathBuf) = (dir.join("image"), dir.join("tree"), dir.join("part"));
    partitioned(&disk, 8, 7, 8);
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::create_dir_all(tree.join("var/lib")).unwrap();
    fs::File::create(&part).unwrap().set_len(6 << 20).unwrap();
    let made = Command::new("mke2fs").args(["-q", "-F", "-t", "ext4", "-d"]).args([&tree, &part]).status();
    if !made.is_ok_and(|status| status.success()) {
        eprintln!("skipped: mke2fs does not run");
        return None;
    }
    let mut bytes = fs::read(&disk).unwrap();
    bytes[MIB..7 * MIB].copy_from_slice(&fs::read(&part).unwrap());
    Some(bytes)
}

/// CAP_SYS_RESOURCE (24), without which the kernel resizes no mounted ext4. Containers often lack it.
fn may_resize() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() >> 24 & 1 == 1
}

fn order(disk: &Loop, raw: &[u8], file: &[u8]) -> WriteImage {
    WriteImage {
        path: "/boot/image/x".into(),
        format: ImageFormat::RawZst,
        size_bytes: file.len() as u64,
        sha256: sha(file),
        raw_size_bytes: raw.len() as u64,
        raw_sha256: sha(raw),
        disk: disk.disk(),
        grow: true,
        seed: Some(a_seed()),
        firmware: None,
    }
}

fn site(disk: &Loop, origin: String) -> Site {
    Site {
        devices: disk.devices(),
        http: http_client().unwrap(),
        origin,
        firmware: FirmwareKind::Bios,
        mount_at: disk.dir.path().join("mnt"),
    }
}

#[tokio::test]
async fn an_image_over_a_breaking_line_is_written_grown_and_seeded() {
    let Some(disk) = Loop::new(64).map(|disk| disk.with_partition(1, 62)) else { return };
    let Some(raw) = root_image(disk.dir.path()) else { return };
    let file = packed(ImageFormat::RawZst, &raw);
    let (origin, served) = serve(file.clone(), 1).await;
    let evidence = write_image(site(&disk, origin), order(&disk, &raw, &file), Progress::default()).await.unwrap();
    assert_eq!(served.requests.load(Ordering::Relaxed), 2);
    assert_eq!(evidence["root"]["seeded"], true, "{evidence}");
    assert_eq!(evidence["grown"]["to_bytes"], 62 << 20);
    if !may_resize() {
        eprintln!("skipped: growing a file system needs CAP_SYS_RESOURCE, which this container has not");
        return;
    }
    assert_eq!(evidence["root"]["grown"], true, "{evidence}");
    // The file system itself is as large as its partition now: 62 MiB in blocks of s_log_block_size.
    let found = disk.bytes();
    let at = |offset: usize| u32::from_le_bytes(found[MIB + 1024 + offset..MIB + 1028 + offset].try_into().unwrap());
    assert_eq!(u64::from(at(4)) * (1024 << at(0x18)), 62 << 20);
}

#[tokio::test]
async fn orders_that_cannot_be_right_touch_no_disk() {
    let Some(disk) = Loop::new(16) else { return };
    let raw = image();
    let file = packed(ImageFormat::RawZst, &raw);
    let (origin, _) = serve(file.clone(), 0).await;
    let good = order(&disk, &raw, &file);
    let other_disk = DiskRef { serial: Some("OTHER".parse().unwrap()), ..disk.disk() };
    for (bad, code) in [
        (WriteImage { size_bytes: good.size_bytes + 1, ..good.clone() }, "truncated"),
        (WriteImage { path: "//elsewhere.example/x".into(), ..good.clone() }, "download"),
        (WriteImage { path: "boot/image/x".into(), ..good.clone() }, "refused"),
        (WriteImage { firmware: Some(FirmwareKind::Uefi), ..good.clone() }, "refused"),
        (WriteImage { raw_size_bytes: 1 << 40, ..good.clone() }, "disk_too_small"),
        (WriteImage { disk: other_disk, ..good.clone() }, "disk_not_found"),
    ] {
        let failed = write_image(site(&disk, origin.clone()), bad, Progress::default()).await.unwrap_err();
        assert_eq!(failed.code, code, "{failed}");
    }
    assert!(disk.bytes().iter().all(|b| *b == 0xff));
}
