//! Start-up and shutdown order: the one place where all rooms meet.
//!
//! Up: both ports are bound and HTTP tells how far it is; then data directory, view, logs, journal,
//! catalog, producer ids, groups, jobs; then Kafka is served, and the jobs are restarted.
//! Down: the ports first, then what stands behind them, the logs last.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use tracing::{error, info, warn};

use crate::api::{AnswerBudget, Context, Meter};
use crate::catalog::Catalog;
use crate::catalog::journal::Journal;
use crate::catalog::local_journal::LocalJournal;
use crate::catalog::placement::{Broker, Placement, SingleNode};
use crate::config::Config;
use crate::group::Groups;
use crate::http::{Front, Phase};
use crate::log::Logs;
use crate::log::data_dir::DataDir;
use crate::metrics::Metrics;
use crate::sql::Gateway;
use crate::store::Store;
use crate::stream::job::{Jobs, Rooms};
use crate::txn::ProducerIds;
use crate::types::{Clock, ListenerName, Progress, SystemClock};
use crate::{http, wire};

/// How long a shutdown waits for jobs and for the logs' last sync, each.
const STOP_TIME_MAX: Duration = Duration::from_secs(10);

/// A broker that serves. Dropping it without `shutdown` is a crash: nothing acknowledged is lost.
pub struct Server {
    kafka_addr: SocketAddr,
    http_addr: SocketAddr,
    front: Front,
    kafka: wire::Running,
    http: http::Running,
    jobs: Jobs,
    logs: Logs,
    /// Held for its lock.
    _data_dir: Arc<DataDir>,
}

impl Server {
    /// Starts everything; when it returns, the broker serves. Errors are for people: they name the
    /// thing, the reason and the next step.
    ///
    /// How far it has come is told in `progress`, for whoever watches.
    pub async fn start(config: Config, progress: Progress) -> anyhow::Result<Server> {
        let began = Instant::now();
        let config = Arc::new(config);
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let metrics = Metrics::default();
        metrics.register_process()?;

        // Both ports are taken first: a port in use is found before anything is written, and
        // health can be asked for while the logs recover.
        let kafka = wire::Listener::bind(ListenerName::plaintext(), config.kafka_listen)
            .await
            .map_err(|error| bind_error(&error, "kafka", config.kafka_listen))?;
        let http = http::Listener::bind(config.http_listen)
            .await
            .map_err(|error| bind_error(&error, "http", config.http_listen))?;
        let (kafka_addr, http_addr) = (kafka.local_addr(), http.local_addr());
        progress.begin("opening the data directory", 0);
        let front = Front::new(metrics.clone(), progress.clone());
        let http = http.serve(front.clone());

        let (data_dir, logs) = open_logs(&config, &clock, &metrics).await?;
        logs.report_to(&progress);
        front.watch(logs.refusals());
        progress.begin("reading the catalog", 0);
        let journal: Arc<dyn Journal> = Arc::new(LocalJournal::new(logs.clone(), clock.clone()));
        let catalog =
            Catalog::start(logs.clone(), journal.clone(), config.clone(), clock.clone(), &metrics)
                .await
                .context("the catalog cannot be read")?;
        let producer_ids = ProducerIds::start(journal.clone()).await?;
        let groups = Groups::start(catalog.clone(), config.clone(), clock.clone(), &metrics)
            .await
            .context("committed offsets cannot be read")?;
        let rooms = Rooms {
            catalog: catalog.clone(),
            groups: groups.clone(),
            producer_ids: producer_ids.clone(),
            journal,
            config: config.clone(),
            clock: clock.clone(),
        };
        progress.begin("reading the job journal", 0);
        let jobs = Jobs::start(rooms, &metrics).await.context("the job journal cannot be read")?;
        let gateway = Gateway::new(catalog.clone(), jobs.clone(), config.clone());

        let broker = Broker {
            id: config.node_id,
            host: advertised_host(&config, kafka_addr),
            port: kafka_addr.port(),
        };
        let placement: Arc<dyn Placement> = Arc::new(SingleNode::new(broker, data_dir.epoch()));
        let context = Context {
            config: config.clone(),
            cluster_id: data_dir.cluster_id().to_owned(),
            catalog,
            groups,
            producer_ids,
            placement,
            clock: clock.clone(),
            meter: Meter::register(&metrics)?,
            answers: AnswerBudget::register(config.queued_max_response_bytes, &metrics)?,
        };
        let kafka =
            kafka.serve(Arc::new(context)).context("the network threads cannot be started")?;
        // Jobs can be seen and cancelled while they are being restarted.
        let planner = gateway.planner();
        front.open(http::Rooms { gateway, jobs: jobs.clone(), clock });
        progress.begin("restarting jobs", 0);
        jobs.recover(planner).await;
        let opened = logs.clone();
        let rested = tokio::task::spawn_blocking(move || opened.rest());
        rested.await.context("closing the files of idle logs failed")?;
        front.enter(Phase::Ready { kafka: kafka_addr, http: http_addr });
        info!(
            version = env!("CARGO_PKG_VERSION"),
            kafka = %kafka_addr,
            http = %http_addr,
            data = %config.data_dir.display(),
            started_in_ms = began.elapsed().as_millis(),
            "ready"
        );
        Ok(Server { kafka_addr, http_addr, front, kafka, http, jobs, logs, _data_dir: data_dir })
    }

    /// Where the Kafka protocol is spoken.
    pub fn kafka_addr(&self) -> SocketAddr {
        self.kafka_addr
    }

    /// Where metrics, health, SQL and jobs are.
    pub fn http_addr(&self) -> SocketAddr {
        self.http_addr
    }

    /// Stops accepting, answers what is in flight, stops the jobs where their last checkpoint can
    /// be taken up, syncs the logs. Every step is bounded.
    pub async fn shutdown(self) {
        self.front.enter(Phase::Stopping);
        tokio::join!(self.kafka.shutdown(), self.http.shutdown());
        if tokio::time::timeout(STOP_TIME_MAX, self.jobs.shutdown()).await.is_err() {
            warn!(
                "jobs did not stop in time; they go on from their last checkpoints at next start"
            );
        }
        let logs = self.logs;
        let stopped = tokio::task::spawn_blocking(move || logs.shutdown());
        if tokio::time::timeout(STOP_TIME_MAX, stopped).await.is_err() {
            warn!("the logs did not stop in time; they are recovered at next start");
        }
    }
}

/// Opens the directory, the view and the logs on a thread that may block.
async fn open_logs(
    config: &Arc<Config>,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> anyhow::Result<(Arc<DataDir>, Logs)> {
    let (config, clock, metrics) = (config.clone(), clock.clone(), metrics.clone());
    let opened = tokio::task::spawn_blocking(move || -> anyhow::Result<(Arc<DataDir>, Logs)> {
        // The doctor refuses with the same words, but has another way to name a directory.
        let dir = DataDir::open(&config.data_dir)
            .map_err(|error| anyhow!("{error} (--data-dir or the config data.dir names it)"))?;
        // The view is never the truth: without one the broker serves from the logs alone.
        let store = Store::open(&dir.view()).unwrap_or_else(|error| {
            error!(%error, "no view can be opened, going on without one: starts take longer, and indexes stay in memory");
            Store::absent(&dir.view())
        });
        let view_lost = store.opened_empty();
        let logs = Logs::start(&dir.logs(), store, &config, clock, dir.epoch(), &metrics)?;
        if view_lost && !logs.on_disk()?.is_empty() {
            warn!(path = %dir.view().display(), "the view is empty, it is built from the logs again");
        }
        Ok((Arc::new(dir), logs))
    });
    opened.await.context("opening the data directory failed")?
}

/// What clients are told to connect to.
fn advertised_host(config: &Config, listening: SocketAddr) -> String {
    match &config.advertised_host {
        Some(host) => host.clone(),
        // Nobody can connect to "all addresses": the machine's name is the best guess, as Kafka's.
        None if listening.ip().is_unspecified() => {
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            info!(host, "kafka.listen is every address; clients are told the host name");
            host
        }
        None => listening.ip().to_string(),
    }
}

fn bind_error(error: &std::io::Error, which: &str, address: SocketAddr) -> anyhow::Error {
    let (port, ip) = (address.port(), address.ip());
    match error.kind() {
        ErrorKind::AddrInUse => anyhow!(
            "port {port} is already in use ({which}.listen = {address}); stop the program that \
             uses it or choose another port with --{which}-listen {ip}:PORT"
        ),
        ErrorKind::PermissionDenied => anyhow!(
            "port {port} may not be used by this user ({which}.listen = {address}); choose one \
             above 1023 with --{which}-listen {ip}:PORT"
        ),
        ErrorKind::AddrNotAvailable => anyhow!(
            "this machine has no address {ip} ({which}.listen = {address}); choose one that it \
             has with --{which}-listen, for example 127.0.0.1:{port}"
        ),
        _ => anyhow!("cannot listen on {address} ({which}.listen): {error}; try --{which}-listen"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_config_and_the_next_step() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = std::net::TcpListener::bind(address).unwrap_err();
        let said = bind_error(&error, "kafka", address).to_string();
        let port = address.port();
        assert!(said.starts_with(&format!("port {port} is already in use (kafka.listen = ")));
        assert!(said.ends_with("--kafka-listen 127.0.0.1:PORT"), "{said}");
    }

    #[test]
    fn clients_are_never_told_an_address_nobody_can_connect_to() {
        let mut config = Config::default();
        let any = SocketAddr::from(([0, 0, 0, 0], 9092));
        assert_ne!(advertised_host(&config, any), "0.0.0.0");
        assert_eq!(advertised_host(&config, SocketAddr::from(([127, 0, 0, 1], 1))), "127.0.0.1");
        config.advertised_host = Some("broker.example".to_owned());
        assert_eq!(advertised_host(&config, any), "broker.example");
    }
}
