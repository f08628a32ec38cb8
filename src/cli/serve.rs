//! `ottla serve`: configuration, logs, runtime, and the broker until a signal ends it.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, info, warn};
use tracing_subscriber::EnvFilter;

use super::{ServeArgs, progress};
use crate::config::{Config, ConfigError, Sources};
use crate::server::{Server, listed};
use crate::types::{ListenerName, Progress};

/// File handles that connections and logs leave alone: 512 of HTTP, the view and the rest.
const RESERVED_HANDLES: usize = 768;
/// File handles that connections leave to logs, however few there are.
const LOG_HANDLES_MIN: usize = 512;
/// More files are not kept open, however many may be.
const LOG_HANDLES_MAX: usize = 16_384;
/// File handles for reads of what is not kept open.
const READ_HANDLES: usize = 512;

pub(super) fn run(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    start_logging()?;
    log_panics();
    let mut config = Config::load(&sources(args, environment())?)?;
    keep_handles_for_logs(&mut config);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(worker_threads())
        .thread_name("ottla-worker")
        .enable_all()
        .build()
        .context("cannot start the worker threads")?;
    let code = runtime.block_on(serve(config));
    // Blocking tasks that still run (a slow disk) must not keep a stopped broker alive.
    runtime.shutdown_background();
    code
}

async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    // Signals are caught before anything is opened, so that one during start-up is not lost.
    let mut signals = Signals::install()?;
    let data_dir = config.data_dir.clone();
    let progress = Progress::default();
    let shown = progress::show(&progress);
    let server = tokio::select! {
        server = Server::start(config, progress) => server?,
        name = signals.next() => {
            info!(signal = name, "stopped while starting");
            return Ok(ExitCode::SUCCESS);
        }
    };
    drop(shown);
    let ready = ready_line(server.kafka_addrs(), server.http_addr(), &data_dir);
    // A closed stdout is no reason to stop serving.
    if let Err(error) = writeln!(std::io::stdout(), "{ready}") {
        warn!(%error, "the ready line could not be written to stdout");
    }

    let name = signals.next().await;
    info!(signal = name, "stopping; a second signal ends it at once");
    tokio::select! {
        () = server.shutdown() => {
            info!("stopped");
            Ok(ExitCode::SUCCESS)
        }
        name = signals.next() => {
            warn!(signal = name, "ended at once, without waiting for requests in flight");
            Ok(ExitCode::FAILURE)
        }
    }
}

/// What scripts wait for: `kafka=` is the first listener. Only where there are several are all of
/// them listed.
fn ready_line(kafka: &[(ListenerName, SocketAddr)], http: SocketAddr, data_dir: &Path) -> String {
    let first = kafka.first().map(|(_, address)| address.to_string()).unwrap_or_default();
    let all = match kafka {
        [_] => String::new(),
        several => format!(" listeners={}", listed(several)),
    };
    format!("ottla ready kafka={first} http={http}{all} data={}", data_dir.display())
}

/// Raises the soft limit of open files as far as this process may. Accepts only as many connections as
/// leave handles for logs: a broker that cannot open a log serves nobody. What connections may not take
/// keeps logs open.
fn keep_handles_for_logs(config: &mut Config) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(error) => {
            warn!(%error, "the limit of open files could not be raised");
            limit.current
        }
    };
    let handles = current.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    let wanted = config.dynamic.load().max_connections;
    let (connections_max, log_files_max) = shares(handles, wanted);
    config.log_open_files_max = log_files_max;
    let left = handles.saturating_sub(RESERVED_HANDLES + log_files_max + READ_HANDLES);
    // max.connections may be raised while running, as far as handles go.
    config.connection_handles_max = left.max(connections_max);
    if connections_max < wanted {
        config.connection_handles_max = connections_max;
        warn!(
            handles,
            connections_max,
            wanted,
            "fewer connections than max.connections are accepted, since each needs a file handle; \
             raise the limit of open files (ulimit -n, or LimitNOFILE= in a systemd unit)"
        );
    }
}

/// How many connections are accepted of those that are `wanted`, and how many files of logs are kept
/// open, where a process may have `handles`.
fn shares(handles: usize, wanted: usize) -> (usize, usize) {
    let left = handles.saturating_sub(RESERVED_HANDLES);
    let connections = wanted.min(left.saturating_sub(LOG_HANDLES_MIN).max(1));
    let log_files = left.saturating_sub(connections).saturating_sub(READ_HANDLES);
    (connections, log_files.clamp(LOG_HANDLES_MIN, LOG_HANDLES_MAX))
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn install() -> anyhow::Result<Signals> {
        let install =
            |kind| signal(kind).context("cannot listen for the signals that stop the broker");
        Ok(Signals {
            interrupt: install(SignalKind::interrupt())?,
            terminate: install(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

pub(super) fn sources(
    args: &ServeArgs,
    environment: Vec<(String, String)>,
) -> Result<Sources, ConfigError> {
    let mut sources = Sources { file: args.config.clone(), environment, flags: Vec::new() };
    for assignment in &args.set {
        sources.set(assignment)?;
    }
    if let Some(dir) = &args.data_dir {
        sources.flag("--data-dir", "data.dir", dir.display().to_string());
    }
    if let Some(address) = &args.kafka_listen {
        sources.flag("--kafka-listen", "kafka.listen", address.clone());
    }
    if let Some(address) = &args.http_listen {
        sources.flag("--http-listen", "http.listen", address.clone());
    }
    Ok(sources)
}

fn environment() -> Vec<(String, String)> {
    // Variables that are not UTF-8 cannot be ours.
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

pub(super) fn start_logging() -> anyhow::Result<()> {
    let filter = ["OTTLA_LOG", "RUST_LOG"]
        .iter()
        .find_map(|name| Some((name, std::env::var(name).ok().filter(|text| !text.is_empty())?)));
    let filter = match filter {
        Some((name, text)) => EnvFilter::try_new(&text)
            .with_context(|| format!("{name}='{text}' is no log filter; try {name}=info"))?,
        None => EnvFilter::new("info"),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(progress::AboveBars)
        .try_init()
        .map_err(|error| anyhow::anyhow!("logging cannot be started: {error}"))
}

/// A panic ends its task or job, not the broker; it is told like every other error.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let reason = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("no reason given");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or("unnamed").to_owned();
        // Captured only when RUST_BACKTRACE asks for it.
        let backtrace = std::backtrace::Backtrace::capture();
        error!(reason, place, thread, %backtrace, "a task panicked; please report this");
    }));
}

/// One worker per core; at least two, so that one busy task cannot stall all sockets.
fn worker_threads() -> usize {
    std::thread::available_parallelism().map_or(2, NonZeroUsize::get).max(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_lists_the_listeners_only_where_there_are_several() {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let one = (ListenerName::plaintext(), address(9092));
        let two = [one.clone(), (ListenerName::parse("LAN").unwrap(), address(9093))];
        let line = |kafka: &[_]| ready_line(kafka, address(9644), Path::new("d"));
        assert_eq!(line(&[one]), "ottla ready kafka=127.0.0.1:9092 http=127.0.0.1:9644 data=d");
        assert_eq!(
            line(&two),
            "ottla ready kafka=127.0.0.1:9092 http=127.0.0.1:9644 \
             listeners=PLAINTEXT://127.0.0.1:9092,LAN://127.0.0.1:9093 data=d"
        );
    }

    #[test]
    fn connections_leave_handles_to_logs_and_logs_take_what_they_leave() {
        let of = |handles| shares(handles, 10_000);
        assert_eq!([of(256), of(1_280)], [(1, 512); 2]);
        assert_eq!(of(2_000), (720, 512));
        assert_eq!(of(20_000), (10_000, 8_720));
        assert_eq!([of(1 << 20), of(usize::MAX)], [(10_000, 16_384); 2]);
    }
}
