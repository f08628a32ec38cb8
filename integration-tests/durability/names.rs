//! Topic names as strangers choose them: none reaches the file system, and two that Kafka's metrics
//! could not tell apart do not live side by side.

use std::collections::BTreeMap;

use kafka_protocol::messages::CreateTopicsRequest;

use super::{Random, seed};
use crate::crash::files;
use crate::harness::Broker;
use crate::protocol::client::Client;
use crate::protocol::code::{INVALID_TOPIC, NONE, TOPIC_ALREADY_EXISTS};
use crate::protocol::requests::{creatable, create_topics, describe};

const NAMES: usize = 400;

/// Kafka's `Topic.validate`.
fn is_legal(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !["", ".", ".."].contains(&name) && name.len() <= 249 && name.chars().all(legal)
}

fn random_name(random: &mut Random) -> String {
    const PARTS: &[&str] = &[
        "a", "b", ".", "..", "_", "-", "a.b", "a_b", "/", "../", "\\", "\0", "ö", " ", "\n", "%2f",
        "x", "~", "$", "*", ":", "con",
    ];
    if random.chance(10) {
        let length = 245 + random.index(10);
        return "n".repeat(length);
    }
    // Legal for the most part, or nothing would ever collide.
    let parts = if random.chance(50) { &PARTS[..8] } else { PARTS };
    (0..random.index(5)).map(|_| parts[random.index(parts.len())]).collect()
}

#[test]
fn no_topic_name_reaches_the_file_system_or_lives_beside_its_twin() {
    let seed = seed();
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let mut broker = Broker::start();
    let mut client = Client::connect(broker.kafka());
    let version = client.latest::<CreateTopicsRequest>();
    // By the name that its metrics would have.
    let mut there: BTreeMap<String, String> = BTreeMap::new();
    let fixed = ["../x", "../../etc/x", "/x", "a.b", "a_b", "a.b", "lock", "view", "ottla.toml"];
    let mut names: Vec<String> = fixed.map(str::to_owned).into();
    names.extend(["n".repeat(249), "n".repeat(250)]);
    names.extend((0..NAMES).map(|_| random_name(&mut random)));
    for name in &names {
        let request = create_topics(vec![creatable(name, 1)]);
        let created = client.call(version, &request).topics.remove(0);
        let plain = name.replace('.', "_");
        let expected = match there.get(&plain) {
            _ if !is_legal(name) => INVALID_TOPIC,
            Some(other) if other == name => TOPIC_ALREADY_EXISTS,
            Some(_) => INVALID_TOPIC,
            None => NONE,
        };
        let said = created.error_message;
        assert_eq!(created.error_code, expected, "{name:?} beside {there:?}: {said:?}");
        if expected == NONE {
            there.insert(plain, name.clone());
        }
    }
    assert!(there.len() > 20, "{there:?}");
    let data_dir = broker.data_dir();
    for file in files(broker.folder()) {
        let below = file.strip_prefix(&data_dir);
        let below = below.unwrap_or_else(|_| panic!("{} is outside", file.display()));
        let place = below.to_str().expect("names that the broker made");
        let is_of_log = place.strip_prefix("logs/").is_some_and(|log| {
            uuid::Uuid::parse_str(&log[..36]).is_ok() && log.matches('/').count() == 1
        });
        let is_own = place.starts_with("view/") || ["lock", "ottla.toml"].contains(&place);
        assert!(is_of_log || is_own, "{place} is no file of the broker's");
    }
    broker.kill();
    broker.restart();
    let mut client = Client::connect(broker.kafka());
    for name in there.values() {
        assert_eq!(describe(&mut client, name).error_code, NONE, "{name:?}");
    }
}
