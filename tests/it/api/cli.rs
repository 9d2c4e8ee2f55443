//! The real command as a process: first start, exit codes, what goes where, and how it stops.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const HOSTLER: &str = env!("CARGO_BIN_EXE_hostler");

/// A running `hostler serve`; killed by its own id when a test fails.
struct Service {
    child: Child,
    out: std::path::PathBuf,
}

impl Service {
    fn start(state: &Path) -> Self {
        let out = state.with_extension("out");
        let file = std::fs::File::create(&out).unwrap();
        let child = command(state).args(["serve", "--listen", "127.0.0.1:0"]).stdout(file).stderr(Stdio::null()).spawn().unwrap();
        let service = Self { child, out };
        let end = Instant::now() + Duration::from_secs(30);
        while !run(state, &["machine", "list"]).status.success() {
            assert!(Instant::now() < end, "the service does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        service
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.out).unwrap()
    }

    /// SIGTERM, and its exit code.
    fn stop(&mut self) -> Option<i32> {
        let killed = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(killed.success());
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < end, "the service does not stop");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn command(state: &Path) -> Command {
    let mut command = Command::new(HOSTLER);
    for name in ["HOSTLER_URL", "HOSTLER_TOKEN", "HOSTLER_TOKEN_FILE", "HOSTLER__LISTEN"] {
        command.env_remove(name);
    }
    command.arg("--state").arg(state).stdin(Stdio::null());
    command
}

fn run(state: &Path, args: &[&str]) -> Output {
    command(state).args(args).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_first_start_prints_one_password_and_the_local_command_line_needs_nothing() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let mut service = Service::start(&state);
    let said = service.said();
    assert!(said.contains("admin with the password"), "{said}");
    for file in ["key", "admin.token"] {
        assert_eq!(std::fs::metadata(state.join(file)).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }

    // Everything in one service: starting one costs a second.
    let list = run(&state, &["machine", "list"]);
    assert!(text(&list.stdout).starts_with("NAME"), "{}", text(&list.stdout));
    let json: serde_json::Value = serde_json::from_slice(&run(&state, &["machine", "list", "--json"]).stdout).unwrap();
    assert_eq!((json["total"].as_u64(), json["items"].as_array().map(Vec::len)), (Some(0), Some(0)));

    let csv = dir.path().join("list.csv");
    std::fs::write(&csv, "serial,mac,rack,u\nS1,52:54:00:00:00:01,R1,1\nS2,52:54:00:00:00:02,R1,2\n").unwrap();
    let csv_path = csv.to_str().unwrap();
    assert_eq!(code(&run(&state, &["racks", "import", csv_path])), 0);
    std::fs::write(&csv, "serial,mac\nS1,nonsense\n").unwrap();
    let flawed = run(&state, &["racks", "import", csv_path]);
    assert!(code(&flawed) == 1 && text(&flawed.stderr).contains("line 2: mac:"), "{}", text(&flawed.stderr));

    // Exit codes; stdout carries data, stderr everything else.
    let missing = run(&state, &["machine", "show", "nope"]);
    assert!(code(&missing) == 3 && missing.stdout.is_empty() && text(&missing.stderr).contains("hint:"), "{}", text(&missing.stderr));
    assert_eq!(code(&run(&state, &["machine", "deploy", "s1", "--image", "x"])), 5);
    assert_eq!(code(&run(&state, &["machine", "list", "--bogus"])), 2);
    let unasked = run(&state, &["machine", "release", "s1"]);
    assert!(code(&unasked) == 2 && text(&unasked.stderr).contains("--yes"), "{}", text(&unasked.stderr));
    assert_eq!(code(&run(&state, &["machine", "accept"])), 2, "no machine named is no machine meant");
    assert_eq!(code(&run(&state, &["machine", "forget", "s1", "nope", "--yes"])), 6);
    assert_eq!(code(&command(&state).args(["machine", "list"]).env("HOSTLER_TOKEN", "hostler_wrong_wrong").output().unwrap()), 4);
    assert_eq!(code(&run(&state, &["--url", "http://127.0.0.1:9", "machine", "list"])), 8);
    // The engine runs, but nobody powers this machine on: the wait ends, the work goes on.
    let waited = run(&state, &["machine", "accept", "s2", "--wait=2s"]);
    assert!(code(&waited) == 7 && text(&waited.stderr).contains("enroll"), "{}", text(&waited.stderr));
    let why: serde_json::Value = serde_json::from_slice(&run(&state, &["machine", "why", "52-54-00-00-00-02", "--json"]).stdout).unwrap();
    assert_eq!(why["lifecycle"], "enrolling", "{why}");

    // A token for others works over the URL alone, with its role.
    let made = run(&state, &["token", "create", "ci", "--role", "viewer"]);
    let secret = text(&made.stdout).trim().to_owned();
    assert!(secret.starts_with("hostler_"));
    let as_viewer = command(&state).args(["machine", "accept", "s2"]).env("HOSTLER_TOKEN", &secret).output().unwrap();
    assert_eq!(code(&as_viewer), 4);

    // One service per state directory.
    let second = run(&state, &["serve", "--listen", "127.0.0.1:0"]);
    assert!(code(&second) == 1 && text(&second.stderr).contains("another hostler"), "{}", text(&second.stderr));

    assert_eq!(service.stop(), Some(0));
    let mut again = Service::start(&state);
    assert_eq!(again.said(), "", "the password is printed at the first start only");
    let json: serde_json::Value = serde_json::from_slice(&run(&state, &["machine", "list", "--json"]).stdout).unwrap();
    assert_eq!(json["items"][0]["name"], "s2");
    assert_eq!(again.stop(), Some(0));
    assert_eq!(code(&run(&state, &["machine", "list"])), 8);
}

/// A helper program; killed by its own id at the end, whatever the end.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A disk of 1 MiB with boot code and one partition, as `fdisk` would leave it.
fn small_disk() -> Vec<u8> {
    let mut disk = vec![0; 1 << 20];
    disk[0] = 0xeb;
    disk[446..462].copy_from_slice(&[0x80, 0, 2, 0, 0x83, 0, 2, 0, 1, 0, 0, 0, 0xff, 7, 0, 0]);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

#[test]
fn an_image_is_taken_from_a_url_a_catalogue_and_a_recipe_and_only_with_its_digest() {
    use sha2::Digest;
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let (state, files) = (dir.path().join("state"), dir.path().join("files"));
    std::fs::create_dir_all(&files).unwrap();
    std::fs::write(files.join("d.raw"), small_disk()).unwrap();
    let digest = hex::encode(sha2::Sha256::digest(small_disk()));
    // A server that is not ours.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = Command::new("python3");
    server.args(["-m", "http.server", "--bind", "127.0.0.1", &port.to_string(), "--directory"]).arg(&files);
    let _server = Ended(server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let end = Instant::now() + Duration::from_secs(30);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < end, "python3's web server does not answer");
        std::thread::sleep(Duration::from_millis(50));
    }
    let url = format!("http://127.0.0.1:{port}/d.raw");
    let mut service = Service::start(&state);

    let undigested = run(&state, &["image", "import", &url, "--name", "one"]);
    assert!(code(&undigested) == 2 && text(&undigested.stderr).contains("--sha256"), "{}", text(&undigested.stderr));
    let wrong = run(&state, &["image", "import", &url, "--name", "one", "--sha256", &"0".repeat(64)]);
    assert!(code(&wrong) == 1 && text(&wrong.stderr).contains(&digest), "{}", text(&wrong.stderr));
    let taken = run(&state, &["image", "import", &url, "--name", "one", "--sha256", &digest, "--json"]);
    assert_eq!(code(&taken), 0, "{}", text(&taken.stderr));

    let catalogue = dir.path().join("c.toml");
    let entry = |name: &str, source: &str, size: usize| {
        format!(
            "[[image]]\nname = \"{name}\"\narch = \"x86_64\"\n{source}\nformat = \"raw\"\nsize_bytes = {size}\nsha256 = \"{digest}\"\n\
             boots_on = [\"bios\"]\ndefault_user = \"kim\"\n"
        )
    };
    let entries = [
        entry("two", &format!("url = \"{url}\""), 1 << 20),
        entry("three", &format!("url = \"{url}\""), 5),
        entry("four", "build = \"make\"", 1 << 20),
    ];
    std::fs::write(&catalogue, entries.concat()).unwrap();
    let catalogue_path = catalogue.to_str().unwrap();
    let by_entry = |name: &str| run(&state, &["image", "import", "--catalogue", catalogue_path, name]);
    assert_eq!(code(&by_entry("two")), 0);
    let short = by_entry("three");
    assert!(code(&short) == 1 && text(&short.stderr).contains("1048576 bytes"), "{}", text(&short.stderr));
    let recipe = by_entry("four");
    assert!(code(&recipe) == 2 && text(&recipe.stderr).contains("image build four"), "{}", text(&recipe.stderr));
    assert_eq!(code(&by_entry("five")), 2);

    let made = entry("four", "file = \"d.raw\"", 1 << 20);
    let script =
        format!("#!/bin/sh\nset -e\nmkdir -p \"$1\"\ncp {}/d.raw \"$1\"/\ncat > \"$1\"/four.toml <<'END'\n{made}END\n", files.display());
    std::fs::write(dir.path().join("make"), script).unwrap();
    std::fs::set_permissions(dir.path().join("make"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let out = dir.path().join("made");
    let built = run(&state, &["image", "build", "four", "--catalogue", catalogue_path, "--out", out.to_str().unwrap()]);
    assert_eq!(code(&built), 0, "{}", text(&built.stderr));

    let images: serde_json::Value = serde_json::from_slice(&run(&state, &["image", "list", "--json"]).stdout).unwrap();
    let names: Vec<_> =
        images.as_array().unwrap().iter().map(|i| (i["name"].as_str().unwrap(), i["default_user"].as_str().unwrap())).collect();
    assert_eq!(names, [("four", "kim"), ("one", "debian"), ("two", "kim")]);
    assert_eq!(service.stop(), Some(0));
}

#[test]
fn a_bad_configuration_says_what_was_meant_and_starts_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let file = dir.path().join("h.toml");
    std::fs::write(&file, "[netboot]\ninterfase = \"eth1\"\n").unwrap();
    for verb in ["serve", "check-config", "migrate"] {
        let output = run(&state, &[verb, "--config", file.to_str().unwrap()]);
        assert!(code(&output) == 2 && text(&output.stderr).contains("netboot.interface"), "{verb}: {}", text(&output.stderr));
    }
    assert!(!state.exists());
    std::fs::write(&file, "[netboot]\ninterface = \"eth1\"\n").unwrap();
    assert_eq!(code(&run(&state, &["check-config", "--config", file.to_str().unwrap()])), 0);
    assert_eq!(code(&run(&state, &["migrate"])), 0);
    assert!(state.join("hostler.db").is_file());
}

#[test]
fn version_and_help_go_to_stdout_and_need_no_service() {
    let dir = tempfile::tempdir().unwrap();
    let version = run(dir.path(), &["version"]);
    assert_eq!((code(&version), text(&version.stdout).starts_with("hostler ")), (0, true));
    let help = run(dir.path(), &["machine", "deploy", "--help"]);
    assert!(code(&help) == 0 && text(&help.stdout).contains("Example"));
}
