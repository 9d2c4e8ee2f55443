//! Both store engines. The tests start their own private PostgreSQL (Debian's binaries, a temporary directory, a Unix
//! socket); it ends with the test process.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use hostler::domain::secret::Secret;
use hostler::store::{Store, StoreConfig};

/// A store on one engine, with what keeps it alive.
pub struct OnEngine {
    pub name: &'static str,
    pub store: Store,
    pub config: StoreConfig,
    _dir: Option<tempfile::TempDir>,
}

/// A fresh, empty, migrated store on each engine.
pub async fn both() -> Vec<OnEngine> {
    let dir = tempfile::tempdir().unwrap();
    let sqlite = StoreConfig::Sqlite { path: dir.path().join("hostler.db") };
    let mut out = vec![OnEngine { name: "sqlite", store: Store::open(&sqlite).await.unwrap(), config: sqlite, _dir: Some(dir) }];
    match postgres() {
        Ok(server) => {
            let config = StoreConfig::Postgres { url: Secret::new(server.new_database()) };
            out.push(OnEngine { name: "postgres", store: Store::open(&config).await.unwrap(), config, _dir: None });
        }
        Err(why) => super::skipped(&format!("the PostgreSQL half of this test: {why}")),
    }
    out
}

pub struct Server {
    dir: PathBuf,
}

static SERVER: OnceLock<Result<Server, String>> = OnceLock::new();
static DATABASES: AtomicU32 = AtomicU32::new(0);

pub fn postgres() -> Result<&'static Server, String> {
    SERVER.get_or_init(start).as_ref().map_err(Clone::clone)
}

impl Server {
    /// Makes an empty database and returns its URL.
    pub fn new_database(&self) -> String {
        let name = format!("t{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        let made =
            Command::new(bin().unwrap().join("createdb")).args(["-h"]).arg(&self.dir).args(["-U", "hostler", &name]).output().unwrap();
        assert!(made.status.success(), "createdb: {}", String::from_utf8_lossy(&made.stderr));
        format!("postgres://hostler@localhost/{name}?host={}", self.dir.display())
    }
}

/// Debian puts each version's binaries into its own folder.
fn bin() -> Result<PathBuf, String> {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map_err(|_| "PostgreSQL is not installed (apt-get install postgresql)".to_owned())?
        .filter_map(|e| e.ok().map(|e| e.path().join("bin")))
        .filter(|p| p.join("postgres").exists())
        .collect();
    versions.sort();
    versions.pop().ok_or_else(|| "no postgres binary under /usr/lib/postgresql".to_owned())
}

/// Removes `dir` once this process is gone and its server with it. A process of its own: nothing here runs after a test's end,
/// and a database left behind by each test fills a disk.
fn clear_away_afterwards(dir: &Path) -> Result<(), String> {
    const SCRIPT: &str = "while kill -0 \"$1\" 2>/dev/null; do sleep 0.5; done
        for n in 1 2 3 4 5 6 7 8 9 10; do [ -e \"$2/data/postmaster.pid\" ] || break; sleep 0.5; done
        rm -rf \"$2\"";
    let mut sweeper = Command::new("sh");
    sweeper.args(["-c", SCRIPT, "sh", &std::process::id().to_string()]).arg(dir).current_dir("/");
    sweeper.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    sweeper.spawn().map(drop).map_err(|e| e.to_string())
}

fn start() -> Result<Server, String> {
    let bin = bin()?;
    // PostgreSQL refuses to run as root; Debian's package brings the user.
    let root = Command::new("id").arg("-u").output().is_ok_and(|o| o.stdout.trim_ascii() == b"0");
    let dir = std::env::temp_dir().join(format!("hostler-pg-{}", std::process::id()));
    std::fs::create_dir_all(&dir).map_err(|e| e.to_string())?;
    clear_away_afterwards(&dir)?;
    if root {
        let chown = Command::new("chown").arg("postgres").arg(&dir).status().map_err(|e| e.to_string())?;
        if !chown.success() {
            return Err("the user postgres does not exist".to_owned());
        }
    }
    let as_user = |program: &Path| {
        let mut c = Command::new("setpriv");
        // The server ends with the thread that started it, which lives as long as this process.
        c.args(["--pdeathsig", "TERM"]);
        if root {
            c.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
        }
        c.arg(program).current_dir("/");
        c
    };
    let data = dir.join("data");
    let made = as_user(&bin.join("initdb"))
        .args(["-U", "hostler", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C", "--wal-segsize=1", "-D"])
        .arg(&data)
        .output()
        .map_err(|e| e.to_string())?;
    if !made.status.success() {
        return Err(format!("initdb: {}", String::from_utf8_lossy(&made.stderr)));
    }
    let mut command = as_user(&bin.join("postgres"));
    command.arg("-D").arg(&data).arg("-k").arg(&dir).args(["-c", "listen_addresses=", "-c", "max_connections=400", "-c", "fsync=off"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let Ok(mut child) = command.spawn() else { return };
        let Some(log) = child.stderr.take() else { return };
        let mut seen = String::new();
        for line in BufReader::new(log).lines().map_while(Result::ok) {
            if line.contains("ready to accept connections") && ready.send(Ok(())).is_err() {
                break;
            }
            seen.push_str(&line);
        }
        // The log ended: so did the server.
        let _gone = ready.send(Err(seen));
        let _status = child.wait();
    });
    match is_ready.recv_timeout(std::time::Duration::from_secs(60)) {
        Ok(Ok(())) => Ok(Server { dir }),
        Ok(Err(log)) => Err(format!("postgres ended: {log}")),
        Err(_) => Err("postgres did not get ready within 60 s".to_owned()),
    }
}
