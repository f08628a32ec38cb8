//! A disk that is full, fails, acts short or is interrupted: what is acknowledged is there, what is
//! there is readable, and only the partition that was hit stops taking records.

use std::fs;

use bytes::Bytes;
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::{
    CreateTopicsRequest, DeleteTopicsRequest, FetchRequest, ProduceRequest,
};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

use super::shim::{Calls, EINTR, EIO, EMFILE, ENOSPC, Order, Shim};
use crate::harness::{Broker, Options, PATIENCE, unique, until};
use crate::protocol::batch::{self, Batch, Record};
use crate::protocol::client::Client;
use crate::protocol::code::{KAFKA_STORAGE_ERROR, NONE};
use crate::protocol::requests::{
    Topic, append, creatable, create_topics, fetch, fetched, produce, produced, read_partition,
};

/// A broker over a shim, a topic to be hit in its partition 0, and one to be spared.
struct Scene {
    shim: Shim,
    broker: Broker,
    client: Client,
    hit: Topic,
    spared: Topic,
    /// What was acknowledged of the topic to be hit.
    kept: Vec<String>,
    spared_records: usize,
}

impl Scene {
    fn start() -> Scene {
        Scene::start_with(Options::new())
    }

    fn start_with(options: Options) -> Scene {
        let shim = Shim::new();
        // One writer thread: who is spared is so although it shares the thread.
        let broker = Broker::start_with(
            shim.under(options.set("log.writer.threads", 1).set("log.retention.ms", -1)),
        );
        let mut client = Client::connect(broker.kafka());
        let hit = Topic::create_with(&mut client, 2);
        let spared = Topic::create(&mut client);
        let mut scene =
            Scene { shim, broker, client, hit, spared, kept: Vec::new(), spared_records: 0 };
        for _ in 0..3 {
            scene.takes();
        }
        scene.others_are_spared();
        scene
    }

    /// Part of the paths of the partition that is to be hit.
    fn log(&self) -> String {
        format!("/logs/{}-0", self.hit.id)
    }

    /// An append with `acks`: its error code. What is acknowledged lies right behind the rest.
    #[track_caller]
    fn append(&mut self, acks: i16, bytes: usize) -> i16 {
        let mut value = unique("record");
        value.extend(std::iter::repeat_n('.', bytes.saturating_sub(value.len())));
        let version = self.client.latest::<ProduceRequest>();
        let records = Batch::of([&value]).encode();
        let request = produce(version, &self.hit, 0, acks, Some(records));
        let answer = produced(self.client.call(version, &request));
        if answer.error_code == NONE {
            assert_eq!(answer.base_offset, self.kept.len() as i64);
            self.kept.push(value);
        } else {
            assert_eq!(answer.base_offset, -1);
        }
        answer.error_code
    }

    #[track_caller]
    fn takes(&mut self) {
        assert_eq!(self.append(-1, 0), NONE);
    }

    #[track_caller]
    fn refuses(&mut self) {
        assert_eq!(self.append(-1, 0), KAFKA_STORAGE_ERROR);
    }

    /// Everything acknowledged can be read, and nothing else, by old and new connections.
    #[track_caller]
    fn reads_on(&mut self) {
        let values = |records: Vec<Record>| -> Vec<Bytes> {
            records.into_iter().map(|record| record.value).collect()
        };
        let read = values(read_partition(&mut self.client, &self.hit, 0, 0));
        assert!(read == self.kept, "{} records read, {} kept", read.len(), self.kept.len());
        let mut newcomer = Client::connect(self.broker.kafka());
        assert!(values(read_partition(&mut newcomer, &self.hit, 0, 0)) == self.kept);
    }

    /// The topic's other partition and the other topic take records.
    #[track_caller]
    fn others_are_spared(&mut self) {
        let version = self.client.latest::<ProduceRequest>();
        for (topic, partition) in [(&self.hit, 1), (&self.spared, 0)] {
            let records = Some(Batch::of(["spared"]).encode());
            let request = produce(version, topic, partition, -1, records);
            assert_eq!(produced(self.client.call(version, &request)).error_code, NONE);
        }
        self.spared_records += 1;
        let read = read_partition(&mut self.client, &self.spared, 0, 0);
        assert_eq!(read.len(), self.spared_records);
    }

    /// Ends the broker, by force or not, and starts it: all is as it was acknowledged.
    #[track_caller]
    fn survives(&mut self, by_kill: bool) {
        if by_kill {
            self.broker.kill();
        } else {
            self.broker.terminate();
        }
        self.broker.restart();
        self.client = Client::connect(self.broker.kafka());
        self.reads_on();
        self.takes();
        self.others_are_spared();
        self.reads_on();
    }

    #[track_caller]
    fn says(&self, words: &[&str]) {
        let log = self.broker.log();
        let is_said = log.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(is_said, "no line has {words:?}:\n{log}");
    }
}

#[test]
fn a_full_disk_answers_56_reads_go_on_and_writes_resume_when_there_is_room() {
    for by_kill in [true, false] {
        let mut scene = Scene::start();
        let full = scene.shim.order(Order::fail(Calls::WRITE, &scene.log(), ENOSPC));
        for _ in 0..3 {
            scene.refuses();
            scene.reads_on();
            scene.others_are_spared();
        }
        scene.says(&[&scene.hit.name, "No space left"]);
        scene.shim.lift(full);
        scene.takes();
        scene.reads_on();
        scene.survives(by_kill);
    }
}

#[test]
fn a_write_that_ends_in_the_middle_on_a_full_disk_is_taken_back() {
    let mut scene = Scene::start();
    for by_kill in [true, false] {
        let path = scene.log();
        for _ in 0..3 {
            let half = scene.shim.order(Order::half(Calls::WRITE, &path).times(1));
            let full = scene.shim.order(Order::fail(Calls::WRITE, &path, ENOSPC));
            scene.refuses();
            scene.shim.lift(half);
            scene.shim.lift(full);
            scene.reads_on();
        }
        scene.takes();
        scene.survives(by_kill);
    }
    assert!(!scene.broker.log().contains("torn"), "something was left of the half batches");
}

#[test]
fn a_disk_full_for_everything_stops_no_reads_and_is_outlived() {
    let mut scene = Scene::start();
    let version = scene.client.latest::<CreateTopicsRequest>();
    // Journal, committed offsets and view included.
    let full = scene.shim.order(Order::fail(Calls::WRITE, "/data/", ENOSPC));
    let name = unique("later");
    for _ in 0..3 {
        scene.refuses();
        scene.reads_on();
        let request = create_topics(vec![creatable(&name, 1)]);
        let created = scene.client.call(version, &request).topics.remove(0);
        assert_ne!(created.error_code, NONE, "a topic was created on a full disk");
    }
    scene.shim.lift(full);
    scene.takes();
    scene.others_are_spared();
    // What was refused can be done now, and it is there for good.
    let later = Topic::create_named(&mut scene.client, &name, 1);
    assert_eq!(append(&mut scene.client, &later, &Batch::of(["now"])), (NONE, 0));
    scene.survives(true);
    assert_eq!(read_partition(&mut scene.client, &later, 0, 0).len(), 1);
    scene.survives(false);
}

#[test]
fn a_failed_sync_is_never_acknowledged_fences_its_log_and_says_so() {
    // Failing once is as bad as failing for ever: the kernel may have dropped the pages.
    for times in [1, -1] {
        for by_kill in [true, false] {
            let mut scene = Scene::start();
            // Of the segment alone, or of the manifest that would note it, too.
            let is_noted = times == 1;
            let path = if is_noted { format!("{}/0", scene.log()) } else { scene.log() };
            let syncs = |scene: &Scene| scene.broker.metric("ottla_log_sync_seconds_count");
            let before = syncs(&scene);
            assert_eq!(scene.append(1, 0), NONE);
            assert_eq!(syncs(&scene), before, "nobody asked for a sync");
            assert_eq!(scene.append(-1, 0), NONE);
            assert_eq!(syncs(&scene), before + 1.0);
            assert_eq!(scene.broker.metric("ottla_log_wal_off"), 0.0);
            let failing = scene.shim.order(Order::fail(Calls::SYNC, &path, EIO).times(times));
            scene.refuses();
            assert_eq!(scene.broker.metric("ottla_log_wal_off"), 1.0);
            for _ in 0..3 {
                scene.refuses();
                assert_eq!(scene.append(1, 0), KAFKA_STORAGE_ERROR);
                scene.reads_on();
                scene.others_are_spared();
            }
            scene.says(&["ERROR", &scene.hit.name, "takes no more appends", "sync failed"]);
            scene.says(&["WARN", "the write-ahead log is off"]);
            assert!(scene.broker.metric("ottla_log_fenced_total") >= 1.0);
            let tried = scene.shim.lift(failing);
            assert_eq!(tried, if is_noted { 1 } else { 2 }, "a failed sync was tried again");
            let unnoted = scene.broker.log().contains("restart the machine, not only the broker");
            assert_eq!(unnoted, !is_noted);
            scene.refuses();
            // What was written and not acknowledged may be there after a restart or not: it was
            // sent once, so it is there once at most, behind all that was acknowledged.
            if by_kill {
                scene.broker.kill();
            } else {
                assert!(scene.broker.terminate().success());
            }
            scene.broker.restart();
            scene.client = Client::connect(scene.broker.kafka());
            let read = read_partition(&mut scene.client, &scene.hit, 0, 0);
            let (before, behind) = read.split_at(scene.kept.len());
            assert!(
                before
                    .iter()
                    .map(|record| &record.value[..])
                    .eq(scene.kept.iter().map(String::as_bytes))
            );
            assert!(behind.len() <= 1, "{} records were never acknowledged", behind.len());
            let unacknowledged =
                behind.iter().map(|record| String::from_utf8_lossy(&record.value).into_owned());
            scene.kept.extend(unacknowledged);
            scene.takes();
            scene.others_are_spared();
            scene.survives(by_kill);
        }
    }
}

#[test]
fn a_failed_sync_of_a_new_segments_directory_is_no_acknowledgement_either() {
    let mut scene = Scene::start_with(Options::new().set("log.segment.bytes", 4_096));
    // The entry of the next segment's file is synced through its directory.
    let order = Order::fail(Calls::SYNC, &scene.log(), EIO);
    let mut left = 40;
    let failing = loop {
        assert!(left > 0, "no new segment after {} records", scene.kept.len());
        left -= 1;
        let files = fs::read_dir(scene.broker.data_dir().join(&scene.log()[1..])).expect("a log");
        let bytes = if files.count() < 2 { 1_000 } else { 3_500 };
        if bytes == 3_500 {
            break scene.shim.order(order);
        }
        assert_eq!(scene.append(-1, bytes), NONE);
    };
    assert_eq!(scene.append(-1, 3_500), KAFKA_STORAGE_ERROR);
    scene.reads_on();
    scene.others_are_spared();
    scene.shim.lift(failing);
    scene.refuses();
}

#[test]
fn short_and_interrupted_calls_are_finished() {
    let mut scene = Scene::start_with(Options::new().set("log.segment.bytes", 32_768));
    // Whatever is written anywhere takes many steps, with an interruption now and then; and so
    // does whatever is read.
    let orders = [
        Order::half(Calls::WRITE | Calls::READ, "/logs/").times(40),
        Order::fail(Calls::WRITE | Calls::READ, "/logs/", EINTR).times(3),
        Order::half(Calls::WRITE | Calls::READ, "/logs/").times(200),
        Order::fail(Calls::SYNC | Calls::OPEN, "/logs/", EINTR).times(3),
        Order::fail(Calls::WRITE | Calls::READ, "/logs/", EINTR).times(5),
        Order::half(Calls::WRITE | Calls::READ, "/logs/"),
    ];
    let standing: Vec<_> = orders.into_iter().map(|order| scene.shim.order(order)).collect();
    for round in 0..30 {
        assert_eq!(scene.append(if round % 2 == 0 { -1 } else { 1 }, round * 150), NONE);
        scene.others_are_spared();
    }
    scene.reads_on();
    scene.survives(true);
    scene.survives(false);
    for order in standing {
        scene.shim.lift(order);
    }
    scene.reads_on();
    let log = scene.broker.log();
    assert!(!log.contains("damaged") && !log.contains("torn"), "{log}");
}

#[test]
fn a_write_that_fails_is_taken_back_and_fences_its_log() {
    for taking_back_fails in [false, true] {
        let mut scene = Scene::start();
        let path = scene.log();
        let half = scene.shim.order(Order::half(Calls::WRITE, &path).times(1));
        let broken = scene.shim.order(Order::fail(Calls::WRITE, &path, EIO).times(1));
        let stuck = taking_back_fails
            .then(|| scene.shim.order(Order::fail(Calls::TRUNCATE, &path, EIO).times(1)));
        for _ in 0..3 {
            scene.refuses();
            scene.reads_on();
            scene.others_are_spared();
        }
        scene.says(&["ERROR", &scene.hit.name, "takes no more appends", "write failed"]);
        for order in [Some(half), Some(broken), stuck].into_iter().flatten() {
            scene.shim.lift(order);
        }
        scene.refuses();
        // The next start cuts what the failed write has left.
        scene.survives(true);
        assert_eq!(scene.broker.log().contains("torn"), taking_back_fails);
        scene.survives(false);
    }
}

#[test]
fn reads_that_fail_are_errors_of_their_partition_and_heal() {
    let mut scene = Scene::start();
    // From the disk, not from memory.
    scene.broker.terminate();
    scene.broker.restart();
    scene.client = Client::connect(scene.broker.kafka());
    let failing = scene.shim.order(Order::fail(Calls::READ, &scene.log(), EIO));
    let version = scene.client.latest::<FetchRequest>();
    for _ in 0..3 {
        let request = fetch(version, &scene.hit, 0, 0);
        let answer = fetched(scene.client.call(version, &request));
        assert_eq!(answer.error_code, KAFKA_STORAGE_ERROR);
        assert!(batch::read(answer.records.unwrap_or_default()).is_empty());
        scene.others_are_spared();
    }
    scene.shim.lift(failing);
    scene.reads_on();
    scene.takes();
}

#[test]
fn a_log_that_cannot_be_read_at_start_stops_no_other() {
    for by_kill in [true, false] {
        let mut scene = Scene::start();
        if by_kill {
            scene.broker.kill();
        } else {
            scene.broker.terminate();
        }
        let failing = scene.shim.order(Order::fail(Calls::READ, &scene.log(), EIO));
        scene.broker.restart();
        scene.client = Client::connect(scene.broker.kafka());
        scene.others_are_spared();
        scene.refuses();
        let version = scene.client.latest::<FetchRequest>();
        let answer = fetched(scene.client.call(version, &fetch(version, &scene.hit, 0, 0)));
        assert_eq!(answer.error_code, KAFKA_STORAGE_ERROR);
        scene.says(&["ERROR", &scene.hit.name, "Input/output error", "offline"]);
        assert!(scene.broker.get("/readyz").contains(&scene.hit.name));
        scene.shim.lift(failing);
        scene.survives(by_kill);
    }
}

#[test]
fn a_start_that_cannot_renew_its_own_file_says_which_and_works_when_it_can() {
    let mut scene = Scene::start();
    scene.broker.kill();
    let failing = scene.shim.order(Order::fail(Calls::RENAME, "/data/", EIO));
    scene.broker.begin();
    let reason = scene.broker.ready().expect_err("a broker that could not count its start");
    assert!(reason.contains("ottla.toml") && reason.contains("Input/output error"), "{reason}");
    scene.shim.lift(failing);
    scene.broker.restart();
    scene.client = Client::connect(scene.broker.kafka());
    scene.reads_on();
    scene.takes();
}

#[test]
fn a_deleted_topic_whose_files_stay_is_gone_all_the_same_and_removed_by_the_next_start() {
    let mut scene = Scene::start();
    let folder = scene.broker.data_dir().join(&scene.log()[1..]);
    assert!(folder.exists());
    let failing = scene.shim.order(Order::fail(Calls::UNLINK, &scene.log(), EIO));
    let topic = DeleteTopicState::default()
        .with_name(Some(scene.hit.topic_name()))
        .with_topic_id(uuid::Uuid::nil());
    let request = DeleteTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
    assert_eq!(scene.client.call(6, &request).responses[0].error_code, NONE);
    // The same name again is another topic, which has nothing of the first.
    let recreated = Topic::create_named(&mut scene.client, &scene.hit.name, 1);
    assert_eq!(append(&mut scene.client, &recreated, &Batch::of(["new"])), (NONE, 0));
    assert!(folder.exists());
    scene.says(&["ERROR", "could not be removed", "Input/output error"]);
    scene.shim.lift(failing);
    scene.broker.kill();
    scene.broker.restart();
    assert!(!folder.exists(), "the next start left it");
    let mut client = Client::connect(scene.broker.kafka());
    assert_eq!(read_partition(&mut client, &recreated, 0, 0).len(), 1);
}

#[test]
fn without_file_handles_a_log_waits_and_goes_on() {
    let mut scene = Scene::start_with(Options::new().set("log.segment.bytes", 4_096));
    let none_left = scene.shim.order(Order::fail(Calls::OPEN, &scene.log(), EMFILE));
    let mut refused = 0;
    // The open segment takes records until it is full; the next one cannot be made.
    until("the end of the segment", PATIENCE, || {
        refused += usize::from(scene.append(-1, 1_000) == KAFKA_STORAGE_ERROR);
        if refused >= 3 { Ok(()) } else { Err(format!("{refused} refused")) }
    });
    scene.others_are_spared();
    scene.says(&[&scene.hit.name, "no file handle was free"]);
    scene.shim.lift(none_left);
    scene.takes();
    scene.reads_on();
    scene.survives(true);
}

#[test]
fn without_file_handles_in_the_process_accepting_pauses_and_the_logs_go_on() {
    let mut scene = Scene::start_with(Options::new().set("log.segment.bytes", 4_096));
    // Ten segments and more, which are kept open for speed.
    for _ in 0..50 {
        assert_eq!(scene.append(-1, 900), NONE);
    }
    let process = i32::try_from(scene.broker.id()).ok().and_then(Pid::from_raw);
    let limit =
        |limit| prlimit(process, Resource::Nofile, limit).expect("the right to limit a child");
    let open =
        fs::read_dir(format!("/proc/{}/fd", scene.broker.id())).expect("its handles").count();
    let maximum = getrlimit(Resource::Nofile).maximum;
    let before = limit(Rlimit { current: Some(open as u64), maximum });
    // The kernel takes their connections; the broker cannot.
    let mut waiting: Vec<Client> = (0..5)
        .map(|_| Client::try_connect(scene.broker.kafka()).expect("a place in the backlog"))
        .collect();
    let pauses = |scene: &Scene| scene.broker.log().matches("accepting pauses").count();
    until("accepting to pause", PATIENCE, || {
        if pauses(&scene) >= 2 { Ok(()) } else { Err(scene.broker.log()) }
    });
    // Whoever is connected is served. For each new segment an idle one is closed: what that frees
    // besides may go to the connections that wait, but they are few.
    let version = scene.client.latest::<FetchRequest>();
    for n in 0..50 {
        assert_eq!(scene.append(-1, 900), NONE, "append {n}: {}", scene.broker.log());
    }
    let answer = fetched(scene.client.call(version, &fetch(version, &scene.hit, 0, 0)));
    assert_eq!(answer.error_code, NONE);
    limit(before);
    scene.takes();
    for client in &mut waiting {
        assert!(!client.api_versions().is_empty());
    }
    scene.reads_on();
    // It waited between its attempts, or the log would be full of them.
    assert!(pauses(&scene) < 200, "{} pauses", pauses(&scene));
    scene.survives(true);
}

#[test]
fn a_view_that_cannot_be_written_costs_no_record() {
    for (calls, error) in [(Calls::WRITE, ENOSPC), (Calls::WRITE | Calls::SYNC, EIO)] {
        let mut scene = Scene::start_with(Options::new().set("log.segment.bytes", 4_096));
        let failing = scene.shim.order(Order::fail(calls, "/view/", error));
        for _ in 0..10 {
            assert_eq!(scene.append(-1, 1_500), NONE);
        }
        scene.others_are_spared();
        // A stop writes the view; it may not say so, but it ends.
        let status = scene.broker.terminate();
        assert!(status.success(), "{status}");
        scene.broker.restart();
        scene.client = Client::connect(scene.broker.kafka());
        scene.reads_on();
        scene.takes();
        scene.broker.kill();
        scene.shim.lift(failing);
        scene.broker.restart();
        scene.client = Client::connect(scene.broker.kafka());
        scene.reads_on();
        scene.survives(false);
    }
}
