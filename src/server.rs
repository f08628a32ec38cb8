//! Start-up and shutdown order: the one place where all rooms meet.
//!
//! Up: both ports are bound and HTTP tells how far it is; then data directory, view, logs, journal,
//! metadata, producer ids, groups, jobs; then Kafka is served, and the jobs are restarted.
//! Down: the ports first, then what stands behind them, the logs last.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use tracing::{error, info, warn};

use crate::api::{AnswerBudget, Context, Meter, Resources};
use crate::config::{Advertised, Config};
use crate::group::Groups;
use crate::http::{Front, Phase};
use crate::log::Logs;
use crate::log::data_dir::DataDir;
use crate::metadata::Metadata;
use crate::metadata::journal::Journal;
use crate::metadata::local_journal::LocalJournal;
use crate::metadata::placement::{Broker, Placement, SingleNode};
use crate::metrics::Metrics;
use crate::security::Authorizer;
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
    kafka_addrs: Vec<(ListenerName, SocketAddr)>,
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
        let kafka = bind_kafka(&config).await?;
        let http_listen = config.http_listen;
        let http = http::Listener::bind(http_listen).await.map_err(|error| {
            let (address, port) = (http_listen.to_string(), http_listen.port());
            bind_error(&error, "http.listen", &address, port, "--http-listen")
        })?;
        let http_addr = http.local_addr();
        let kafka_addrs: Vec<_> =
            kafka.iter().map(|port| (port.name().clone(), port.local_addr())).collect();
        progress.begin("opening the data directory", 0);
        let front = Front::new(metrics.clone(), progress.clone());
        let http = http.serve(front.clone());

        let (data_dir, logs) = open_logs(&config, &clock, &metrics).await?;
        logs.report_to(&progress);
        front.watch(logs.refusals());
        progress.begin("reading the metadata", 0);
        let journal: Arc<dyn Journal> = Arc::new(LocalJournal::new(logs.clone(), clock.clone()));
        let metadata =
            Metadata::start(logs.clone(), journal.clone(), config.clone(), clock.clone(), &metrics)
                .await
                .context("the metadata cannot be read")?;
        let producer_ids = ProducerIds::start(journal.clone()).await?;
        let groups = Groups::start(metadata.clone(), config.clone(), clock.clone(), &metrics)
            .await
            .context("committed offsets cannot be read")?;
        let rooms = Rooms {
            metadata: metadata.clone(),
            groups: groups.clone(),
            producer_ids: producer_ids.clone(),
            journal,
            config: config.clone(),
            clock: clock.clone(),
        };
        progress.begin("reading the job journal", 0);
        let jobs = Jobs::start(rooms, &metrics).await.context("the job journal cannot be read")?;
        let gateway = Gateway::new(metadata.clone(), jobs.clone(), config.clone());

        let brokers = advertised_brokers(&config, &kafka_addrs)?;
        let placement: Arc<dyn Placement> =
            Arc::new(SingleNode::new(config.node_id, brokers, data_dir.epoch()));
        let context = Context {
            config: config.clone(),
            cluster_id: data_dir.cluster_id().to_owned(),
            resources: Resources::new(metadata, groups, producer_ids, Authorizer::AllowAll),
            placement,
            clock: clock.clone(),
            meter: Meter::register(&metrics)?,
            answers: AnswerBudget::register(config.queued_max_response_bytes, &metrics)?,
        };
        let kafka = wire::serve(kafka, Arc::new(context), wire::Budgets::register(&metrics)?)
            .context("the network threads cannot be started")?;
        // Jobs can be seen and cancelled while they are being restarted.
        let planner = gateway.planner();
        front.open(http::Rooms { gateway, jobs: jobs.clone(), clock });
        progress.begin("restarting jobs", 0);
        jobs.recover(planner).await;
        let (opened, of_dir) = (logs.clone(), data_dir.clone());
        let rested = tokio::task::spawn_blocking(move || {
            opened.rest();
            if opened.are_all_whole()
                && let Err(error) = of_dir.remember_boot()
            {
                warn!(%error, "the machine's boot was not noted in ottla.toml: the next start takes the machine for restarted");
            }
        });
        rested.await.context("closing the files of idle logs failed")?;
        front.enter(Phase::Ready { kafka: kafka_addrs.clone(), http: http_addr });
        info!(
            version = env!("CARGO_PKG_VERSION"),
            kafka = %listed(&kafka_addrs),
            http = %http_addr,
            data = %config.data_dir.display(),
            started_in_ms = began.elapsed().as_millis(),
            "ready"
        );
        Ok(Server { kafka_addrs, http_addr, front, kafka, http, jobs, logs, _data_dir: data_dir })
    }

    /// Where the Kafka protocol is spoken: each listener with the address that it was bound to, in
    /// the config's order.
    pub fn kafka_addrs(&self) -> &[(ListenerName, SocketAddr)] {
        &self.kafka_addrs
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
        let logs =
            Logs::start(&dir.logs(), dir.boot(), store, &config, clock, dir.epoch(), &metrics)?;
        if view_lost && !logs.on_disk()?.is_empty() {
            warn!(path = %dir.view().display(), "the view is empty, it is built from the logs again");
        }
        Ok((Arc::new(dir), logs))
    });
    opened.await.context("opening the data directory failed")?
}

/// Binds every listener, or none.
async fn bind_kafka(config: &Config) -> anyhow::Result<Vec<wire::Listener>> {
    let listeners = config.kafka_listeners()?;
    let key = if config.kafka_listen.is_some() { "kafka.listen" } else { "listeners" };
    let flag = if listeners.len() == 1 { "--kafka-listen" } else { "--set listeners=" };
    let mut bound = Vec::with_capacity(listeners.len());
    for listener in &listeners {
        let port = wire::Listener::bind(listener).await.map_err(|error| {
            let endpoint = &listener.endpoint;
            bind_error(&error, key, &endpoint.address(), endpoint.port, flag)
        })?;
        bound.push(port);
    }
    Ok(bound)
}

/// `PLAINTEXT://127.0.0.1:9092,LAN://[::]:9093`.
pub fn listed(addresses: &[(ListenerName, SocketAddr)]) -> String {
    let texts: Vec<_> = addresses.iter().map(|(name, at)| format!("{name}://{at}")).collect();
    texts.join(",")
}

/// This broker as the clients of each listener are told of it.
fn advertised_brokers(
    config: &Config,
    bound: &[(ListenerName, SocketAddr)],
) -> anyhow::Result<Vec<(ListenerName, Broker)>> {
    let mut brokers = Vec::new();
    for (listener, (name, bound)) in config.kafka_listeners()?.into_iter().zip(bound) {
        let Some(Advertised { host, port }) = listener.advertised else {
            warn!(%name, "advertised.listeners leaves this listener out: its clients find no broker");
            continue;
        };
        // Nobody can connect to "all addresses": the machine's name is the best guess, as Kafka's.
        let host = host.unwrap_or_else(|| {
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            info!(
                %name, host,
                "the listener is at every address; clients are told the machine's name, unless \
                 advertised.listeners says otherwise"
            );
            host
        });
        let port = port.unwrap_or(bound.port());
        brokers.push((name.clone(), Broker { id: config.node_id, host, port }));
    }
    Ok(brokers)
}

/// `key` is the config whose `address` with its `port` cannot be bound, `flag` another way to set it.
fn bind_error(
    error: &std::io::Error,
    key: &str,
    address: &str,
    port: u16,
    flag: &str,
) -> anyhow::Error {
    match error.kind() {
        ErrorKind::AddrInUse => anyhow!(
            "port {port} is already in use ({key} = {address}); stop the program that uses it or \
             choose another port with {flag}"
        ),
        ErrorKind::PermissionDenied => anyhow!(
            "port {port} may not be used by this user ({key} = {address}); choose one above 1023 \
             with {flag}"
        ),
        ErrorKind::AddrNotAvailable => anyhow!(
            "this machine has no such address ({key} = {address}); choose one that it has \
             with {flag}, for example 127.0.0.1:{port}"
        ),
        _ => {
            anyhow!("cannot listen on {address} ({key}): {error}; try another address with {flag}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Sources;

    #[test]
    fn a_taken_port_is_named_with_its_config_and_the_next_step() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = std::net::TcpListener::bind(address).unwrap_err();
        let port = address.port();
        let said = bind_error(&error, "http.listen", &address.to_string(), port, "--http-listen");
        let said = said.to_string();
        let start = format!("port {port} is already in use (http.listen = {address}); stop");
        assert!(said.starts_with(&start), "{said}");
        assert!(said.ends_with("choose another port with --http-listen"), "{said}");
    }

    fn told(settings: &[&str], bound: &[(&str, &str)]) -> Vec<(String, String, u16)> {
        let mut sources = Sources::default();
        settings.iter().for_each(|setting| sources.set(setting).unwrap());
        let config = Config::load(&sources).unwrap();
        let name = |name| ListenerName::parse(name).unwrap();
        let bound: Vec<_> =
            bound.iter().map(|(listener, at)| (name(listener), at.parse().unwrap())).collect();
        let brokers = advertised_brokers(&config, &bound).unwrap().into_iter();
        brokers.map(|(name, broker)| (name.to_string(), broker.host, broker.port)).collect()
    }

    fn row(listener: &str, host: &str, port: u16) -> (String, String, u16) {
        (listener.to_owned(), host.to_owned(), port)
    }

    #[test]
    fn clients_are_never_told_an_address_nobody_can_connect_to() {
        for every in ["listeners=PLAINTEXT://:0", "listeners=PLAINTEXT://0.0.0.0:0"] {
            let rows = told(&[every], &[("PLAINTEXT", "0.0.0.0:4000")]);
            assert!(!["", "0.0.0.0", "::"].contains(&&*rows[0].1), "{rows:?}");
            assert_eq!(rows[0].2, 4000);
        }
        let short = ["kafka.listen=0.0.0.0:0", "advertised.host=broker.example"];
        let rows = told(&short, &[("PLAINTEXT", "0.0.0.0:4000")]);
        assert_eq!(rows, [row("PLAINTEXT", "broker.example", 4000)]);
    }

    #[test]
    fn the_clients_of_each_listener_are_told_its_own_address() {
        let mapped =
            ["listeners=PLAINTEXT://0.0.0.0:9092", "advertised.listeners=PLAINTEXT://h:19092"];
        let rows = told(&mapped, &[("PLAINTEXT", "0.0.0.0:9092")]);
        assert_eq!(rows, [row("PLAINTEXT", "h", 19092)]);

        let two = [
            "listeners=INTERNAL://127.0.0.1:0,EXTERNAL://[::1]:0",
            "listener.security.protocol.map=INTERNAL:PLAINTEXT,EXTERNAL:PLAINTEXT",
        ];
        let bound = [("INTERNAL", "127.0.0.1:1"), ("EXTERNAL", "[::1]:2")];
        let own = [row("INTERNAL", "127.0.0.1", 1), row("EXTERNAL", "::1", 2)];
        assert_eq!(told(&two, &bound), own);
        let part = [two[0], two[1], "advertised.listeners=external://[fe80::1]:0"];
        assert_eq!(told(&part, &bound), [row("EXTERNAL", "fe80::1", 2)]);
    }
}
