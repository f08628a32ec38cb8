//! `ottla serve` as a child program on free ports with a temporary data directory.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard};
use std::time::Duration;

use tempfile::TempDir;

use super::program::tail;
use super::{PATIENCE, Program, free_ports, until};

/// How a broker is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    settings: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    data_dir: Option<PathBuf>,
}

impl Options {
    /// Everything at its default but the addresses and the data directory.
    pub fn new() -> Options {
        Options::default()
    }

    /// `--set key=value`.
    pub fn set(mut self, key: &str, value: impl ToString) -> Options {
        self.settings.push((key.to_owned(), value.to_string()));
        self
    }

    /// An environment variable.
    pub fn env(mut self, key: &str, value: &str) -> Options {
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }

    /// A data directory of the test's own, instead of one that dies with the broker.
    pub fn data_dir(mut self, path: &Path) -> Options {
        self.data_dir = Some(path.to_owned());
        self
    }
}

/// A running (or, between [`Broker::kill`] and [`Broker::restart`], stopped) Ottla of this test.
/// Dropping it kills its process; if the test has failed, the end of its log is shown.
pub struct Broker {
    options: Options,
    kafka: SocketAddr,
    http: SocketAddr,
    folder: TempDir,
    program: Option<Program>,
    /// The logs of the starts before this one.
    earlier_logs: String,
}

impl Broker {
    /// Starts a broker with its defaults and waits until it is ready.
    #[track_caller]
    pub fn start() -> Broker {
        Broker::start_with(Options::new())
    }

    /// Starts a broker and waits until it is ready.
    #[track_caller]
    pub fn start_with(options: Options) -> Broker {
        let mut attempts_left = 3;
        loop {
            let [kafka, http] = free_ports();
            let mut broker = Broker {
                options: options.clone(),
                kafka: SocketAddr::from(([127, 0, 0, 1], kafka)),
                http: SocketAddr::from(([127, 0, 0, 1], http)),
                folder: tempfile::tempdir().expect("a temporary folder"),
                program: None,
                earlier_logs: String::new(),
            };
            attempts_left -= 1;
            match broker.launch() {
                Ok(()) => return broker,
                // Another test took the port in the moment since it was found free.
                Err(reason) if attempts_left > 0 && reason.contains("in use") => {}
                Err(reason) => panic!("the broker did not start: {reason}"),
            }
        }
    }

    /// `ottla` with `arguments`, not started yet.
    pub fn ottla<I: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = I>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
        command.args(arguments).env_remove("OTTLA_DATA_DIR");
        command
    }

    fn launch(&mut self) -> Result<(), String> {
        self.begin();
        self.ready()
    }

    /// Starts its process and waits for nothing: [`Broker::ready`] does, or [`Broker::kill`] ends
    /// it in the middle of its start.
    #[track_caller]
    pub fn begin(&mut self) {
        assert!(self.program.is_none(), "begin follows kill or terminate");
        let mut command = Broker::ottla(["serve"]);
        command
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--http-listen", &self.http.to_string()])
            // Tests' records are of any age: retention would take them after half a minute.
            .env("OTTLA_LOG_INITIAL_TASK_DELAY_MS", "86400000")
            .envs(self.options.environment.iter().map(|(key, value)| (key, value)))
            // A configuration file of the machine must not change what is tested.
            .current_dir(self.folder.path());
        // A test that sets its listeners says where they are.
        if !self.options.settings.iter().any(|(key, _)| key == "listeners") {
            command.args(["--kafka-listen", &self.kafka.to_string()]);
        }
        for (key, value) in &self.options.settings {
            command.args(["--set", &format!("{key}={value}")]);
        }
        self.program = Some(Program::start("ottla serve", command));
    }

    /// Waits until it serves. `Err` says why it ended instead.
    #[track_caller]
    pub fn ready(&mut self) -> Result<(), String> {
        let program = self.program.as_mut().expect("the broker was begun");
        let ready = until("the broker's ready line", PATIENCE, || {
            let ended = program.ended();
            if let Some(line) =
                program.stdout().lines().find(|line| line.starts_with("ottla ready "))
            {
                return Ok(Ok(line.to_owned()));
            }
            match ended {
                Some(status) => Ok(Err(format!(
                    "it ended with {status}; its log:\n{}",
                    tail(&program.stderr())
                ))),
                None => Err(format!("its log:\n{}", tail(&program.stderr()))),
            }
        });
        let ready = ready.inspect_err(|_| self.retire())?;
        self.kafka = address(&ready, "kafka");
        self.http = address(&ready, "http");
        Ok(())
    }

    /// Where it speaks Kafka.
    pub fn kafka(&self) -> SocketAddr {
        self.kafka
    }

    /// Where the listener of that name speaks Kafka, if the broker has several.
    #[track_caller]
    pub fn listener(&self, name: &str) -> SocketAddr {
        let ready = self.program.as_ref().expect("the broker runs").stdout();
        let listeners = ready.split_whitespace().find_map(|word| word.strip_prefix("listeners="));
        let listeners = listeners.unwrap_or_else(|| panic!("one listener only: {ready}"));
        let address = listeners
            .split(',')
            .find_map(|listener| listener.strip_prefix(name)?.strip_prefix("://")?.parse().ok());
        address.unwrap_or_else(|| panic!("no listener {name}: {ready}"))
    }

    /// Where it speaks HTTP.
    pub fn http(&self) -> SocketAddr {
        self.http
    }

    /// Where it keeps its data.
    pub fn data_dir(&self) -> PathBuf {
        self.options.data_dir.clone().unwrap_or_else(|| self.folder.path().join("data"))
    }

    /// A folder of this test that dies with the broker.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Keeps its folder when it is dropped, and says where it lies.
    pub fn keep_folder(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> u32 {
        self.program.as_ref().expect("the broker runs").id()
    }

    /// All it has logged, over every start.
    pub fn log(&self) -> String {
        let now = self.program.as_ref().map_or(String::new(), Program::stderr);
        format!("{}{now}", self.earlier_logs)
    }

    /// kill -9: returns when the process is gone; false if it had ended by itself before.
    pub fn kill(&mut self) -> bool {
        let program = self.program.as_mut().expect("the broker runs");
        let ran = program.ended().is_none();
        program.kill();
        self.retire();
        ran
    }

    /// SIGTERM, then waits until it has ended.
    #[track_caller]
    pub fn terminate(&mut self) -> ExitStatus {
        self.terminate_within(PATIENCE)
    }

    /// SIGTERM, then waits until it has ended, with a bound of the test's own.
    #[track_caller]
    pub fn terminate_within(&mut self, limit: Duration) -> ExitStatus {
        let program = self.program.as_mut().expect("the broker runs");
        program.terminate();
        let status = program.wait(limit);
        self.retire();
        status
    }

    /// Sends SIGTERM without waiting.
    pub fn ask_to_stop(&mut self) {
        self.program.as_mut().expect("the broker runs").terminate();
    }

    /// Waits until it ends by itself.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let status = self.program.as_mut().expect("the broker runs").wait(limit);
        self.retire();
        status
    }

    fn retire(&mut self) {
        if let Some(program) = self.program.take() {
            self.earlier_logs.push_str(&program.stderr());
        }
    }

    /// Starts it again on its data directory and its addresses.
    #[track_caller]
    pub fn restart(&mut self) {
        assert!(self.program.is_none(), "restart follows kill or terminate");
        if let Err(reason) = self.launch() {
            panic!("the broker did not start again: {reason}");
        }
    }

    /// The body of `GET path`. Panics unless it answers 200.
    #[track_caller]
    pub fn get(&self, path: &str) -> String {
        let url = format!("http://{}{path}", self.http);
        let mut response = match ureq::get(&url).call() {
            Ok(response) => response,
            Err(error) => panic!("GET {url}: {error}"),
        };
        response.body_mut().read_to_string().expect("a body in UTF-8")
    }

    /// The value of one metric, `0` while it is absent. `series` is written as Prometheus prints
    /// it, labels by alphabet: `ottla_log_end_offset{partition="0",topic="test"}`.
    #[track_caller]
    pub fn metric(&self, series: &str) -> f64 {
        self.get("/metrics")
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
            .unwrap_or(0.0)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the end of the broker's log ---\n{}\n---", tail(&self.log()));
        }
    }
}

/// The address after `name=` in the ready line.
fn address(ready: &str, name: &str) -> SocketAddr {
    ready
        .split_whitespace()
        .find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
        .unwrap_or_else(|| panic!("the ready line names no {name} address: {ready}"))
}

/// The broker under test: Ottla, or Apache Kafka to prove the expectation itself.
pub enum Target {
    /// An Ottla of this test.
    Ottla(Box<Broker>),
    /// The Apache Kafka of `OTTLA_REFERENCE`, shared by all tests: use [`super::unique`] names.
    Kafka(SocketAddr, Turn),
}

/// The tests that use the reference Kafka now.
#[derive(Default)]
struct Users {
    shared: usize,
    alone: bool,
    waiting_to_be_alone: usize,
}

static USERS: LazyLock<(Mutex<Users>, Condvar)> = LazyLock::new(Default::default);

/// A test's leave to use the reference Kafka: together with other tests, or alone, since the configs of a
/// broker hold for all of them.
pub struct Turn {
    is_alone: bool,
}

impl Turn {
    fn shared() -> Turn {
        let (users, changed) = &*USERS;
        let is_kept_out = |users: &mut Users| users.alone || users.waiting_to_be_alone > 0;
        let mut users = changed.wait_while(lock(users), is_kept_out).expect("never poisoned");
        users.shared += 1;
        Turn { is_alone: false }
    }

    fn alone() -> Turn {
        let (users, changed) = &*USERS;
        let mut waiting = lock(users);
        waiting.waiting_to_be_alone += 1;
        let is_used = |users: &mut Users| users.alone || users.shared > 0;
        let mut users = changed.wait_while(waiting, is_used).expect("never poisoned");
        users.waiting_to_be_alone -= 1;
        users.alone = true;
        Turn { is_alone: true }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (users, changed) = &*USERS;
        let mut users = lock(users);
        match self.is_alone {
            true => users.alone = false,
            false => users.shared -= 1,
        }
        changed.notify_all();
    }
}

fn lock(users: &Mutex<Users>) -> MutexGuard<'_, Users> {
    users.lock().expect("nothing panics while it counts")
}

impl Target {
    /// Ottla with its defaults, or the reference Kafka.
    #[track_caller]
    pub fn start() -> Target {
        Target::start_with(Options::new())
    }

    /// Ottla with `options`, or the reference Kafka, which keeps its own.
    #[track_caller]
    pub fn start_with(options: Options) -> Target {
        match reference() {
            Some(address) => Target::Kafka(address, Turn::shared()),
            None => Target::Ottla(Box::new(Broker::start_with(options))),
        }
    }

    /// `start`, for a test that changes what holds for the whole broker.
    #[track_caller]
    pub fn start_alone() -> Target {
        match reference() {
            Some(address) => Target::Kafka(address, Turn::alone()),
            None => Target::start(),
        }
    }

    /// Where it speaks Kafka.
    pub fn kafka(&self) -> SocketAddr {
        match self {
            Target::Ottla(broker) => broker.kafka(),
            Target::Kafka(address, _) => *address,
        }
    }

    /// Whether it is Apache Kafka: for the few expectations in which the two differ on purpose.
    pub fn is_reference(&self) -> bool {
        matches!(self, Target::Kafka(..))
    }

    /// Ottla itself, unless this is Apache Kafka.
    pub fn ottla(&mut self) -> Option<&mut Broker> {
        match self {
            Target::Ottla(broker) => Some(broker),
            Target::Kafka(..) => None,
        }
    }
}

/// The address in `OTTLA_REFERENCE`.
fn reference() -> Option<SocketAddr> {
    let address = std::env::var("OTTLA_REFERENCE").ok().filter(|address| !address.is_empty())?;
    Some(address.parse().unwrap_or_else(|error| {
        panic!("OTTLA_REFERENCE={address}: {error}; write 127.0.0.1:19092")
    }))
}
