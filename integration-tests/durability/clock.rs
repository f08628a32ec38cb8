//! A wall clock that jumps a day in either direction under a running broker: nothing that runs by
//! time takes notice, since timers follow the monotonic clock.

use std::time::{SystemTime, UNIX_EPOCH};

use kafka_protocol::messages::create_topics_request::CreatableTopicConfig;
use kafka_protocol::messages::{CreateTopicsRequest, FetchRequest};

use super::shim::Shim;
use crate::harness::{Broker, Options, unique};
use crate::protocol::batch::Batch;
use crate::protocol::client::{Client, text};
use crate::protocol::code::NONE;
use crate::protocol::groups::Member;
use crate::protocol::requests::{
    Topic, append, append_values, creatable, create_topics, fetch, fetched, new_producer, read_from,
};

const DAY_MS: i64 = 86_400_000;

fn wall_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    i64::try_from(since.as_millis()).expect("a clock before the year 292278994")
}

/// A topic whose records carry the time at which they were appended.
fn stamped_topic(client: &mut Client) -> Topic {
    let name = unique("stamped");
    let config = CreatableTopicConfig::default()
        .with_name(text("message.timestamp.type"))
        .with_value(Some(text("LogAppendTime")));
    let topic = creatable(&name, 1).with_configs(vec![config]);
    let version = client.latest::<CreateTopicsRequest>();
    let created = client.call(version, &create_topics(vec![topic])).topics.remove(0);
    assert_eq!(created.error_code, NONE, "{:?}", created.error_message);
    Topic { name, id: created.topic_id }
}

#[test]
fn a_clock_that_jumps_a_day_ends_no_session_and_loses_no_record_or_producer() {
    for jump in [DAY_MS, -DAY_MS] {
        let shim = Shim::new();
        let options = Options::new()
            .set("group.initial.rebalance.delay.ms", 0)
            .set("log.retention.ms", -1)
            .set("log.segment.bytes", 4_096);
        let mut broker = Broker::start_with(shim.under(options));
        let mut client = Client::connect(broker.kafka());
        let topic = Topic::create(&mut client);
        let stamped = stamped_topic(&mut client);
        let (id, epoch) = new_producer(&mut client);
        let batch = |sequence| Batch::of([vec![b'x'; 700]]).by_producer(id, epoch, sequence);
        for sequence in 0..5 {
            assert_eq!(append(&mut client, &topic, &batch(sequence)), (NONE, sequence.into()));
        }
        let mut member = Member::at(broker.kafka(), "steady", 5);
        member.join();
        let id_of_member = member.id.clone();
        assert_eq!(member.sync(&[(&id_of_member, "all")]).0, NONE);

        for off in [jump, 0, jump] {
            shim.set_wall_off_ms(off);
            // The broker sees it, or this test shows nothing: it stamps records by its wall clock.
            append_values(&mut client, &stamped, ["when"]);
            let stamp = read_from(&mut client, &stamped, 0).pop().expect("a record").timestamp;
            assert!((stamp - (wall_ms() + off)).abs() < DAY_MS / 24, "{off} ms off");
            for _ in 0..3 {
                assert_eq!(member.heartbeat(), NONE, "{off} ms off");
            }
            // A fetch that waits for records comes back within its time, and not at once.
            let version = client.latest::<FetchRequest>();
            let end = read_from(&mut client, &topic, 0).len();
            let waiting = fetch(version, &topic, 0, i64::try_from(end).expect("few records"))
                .with_max_wait_ms(100);
            assert_eq!(fetched(client.call(version, &waiting)).error_code, NONE);
            append_values(&mut client, &topic, ["more"]);
            assert_eq!(append(&mut client, &topic, &batch(4)), (NONE, 4), "{off} ms off");
        }
        let kept = read_from(&mut client, &topic, 0);
        assert_eq!(kept.len(), 8);

        // And so over a restart, by either end, with the clock still off and with it right again.
        for (off, by_kill) in [(jump, true), (jump, false), (0, true), (-jump, false)] {
            if by_kill {
                broker.kill();
            } else {
                assert!(broker.terminate().success());
            }
            shim.set_wall_off_ms(off);
            broker.restart();
            client = Client::connect(broker.kafka());
            assert!(read_from(&mut client, &topic, 0) == kept, "{off} ms off");
            assert_eq!(append(&mut client, &topic, &batch(4)), (NONE, 4), "{off} ms off");
            assert!(new_producer(&mut client).0 > id, "{off} ms off");
        }
    }
}
