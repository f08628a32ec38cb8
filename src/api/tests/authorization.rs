//! Every API under an authoriser that denies: the answer has Kafka's code, nothing is changed and no
//! name is told; and the authoriser is asked for what Kafka's is asked for.

mod cases;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use kafka_protocol::messages::ApiKey;
use uuid::Uuid;

use self::cases::{Asked, Case, Denying, Subject};
use super::fixture::{Bench, chunks};
use crate::api::table::ROUTES;
use crate::security::{Authorizer, Client, Operation, Policy, Resource, ResourceKind};
use crate::types::{PartitionId, TopicId};

/// Denies what it is told to, and keeps what it was asked for.
struct Recorder {
    denying: Mutex<Denying>,
    asked: Mutex<BTreeSet<String>>,
}

impl Recorder {
    fn decide(&self, operation: Operation, kind: ResourceKind, asked: String) -> bool {
        self.asked.lock().unwrap().insert(asked);
        match *self.denying.lock().unwrap() {
            Denying::Nothing => true,
            Denying::Everything => false,
            Denying::Only(denied) => !denied.contains(&format!("{operation} {kind:?}").as_str()),
        }
    }
}

impl Policy for Recorder {
    fn allows(&self, client: Client<'_>, operation: Operation, resource: Resource<'_>) -> bool {
        assert_eq!(client.principal.to_string(), "User:ANONYMOUS");
        assert!(client.host.is_loopback() && client.listener.to_string() == "PLAINTEXT");
        let kind = resource.kind();
        let asked = match resource {
            Resource::Topic(name) | Resource::Group(name) | Resource::TransactionalId(name) => {
                format!("{operation} {kind:?} {name}")
            }
            Resource::Cluster => format!("{operation} {kind:?}"),
        };
        self.decide(operation, kind, asked)
    }

    fn allows_on_any(&self, _: Client<'_>, operation: Operation, kind: ResourceKind) -> bool {
        self.decide(operation, kind, format!("{operation} {kind:?} any"))
    }
}

const NO_CODES: [i16; 0] = [];

struct Matrix {
    bench: Bench,
    recorder: Arc<Recorder>,
}

impl Matrix {
    async fn start() -> Matrix {
        let (denying, asked) = (Mutex::new(Denying::Nothing), Mutex::default());
        let recorder = Arc::new(Recorder { denying, asked });
        let quick = |config: &mut crate::config::Config| {
            config.group_initial_rebalance_delay = std::time::Duration::ZERO;
        };
        let bench = Bench::guarded(quick, Authorizer::Policy(recorder.clone())).await;
        Matrix { bench, recorder }
    }

    /// The answer of a client that is denied so much, and what the authoriser was asked for.
    async fn ask(&self, denying: Denying, asked: &Asked) -> (String, BTreeSet<String>) {
        *self.recorder.denying.lock().unwrap() = denying;
        self.recorder.asked.lock().unwrap().clear();
        let reply = self.bench.send_frame(asked.frame.clone()).await.unwrap();
        let asked_for = std::mem::take(&mut *self.recorder.asked.lock().unwrap());
        ((asked.read)(chunks(reply)), asked_for)
    }

    /// A topic with a record and a group with a commit of its own, of names that no other case has.
    async fn subject(&self, number: usize) -> Subject {
        let mut subject = Subject {
            topic: format!("hidden-topic-{number}"),
            id: Uuid::nil(),
            group: format!("hidden-group-{number}"),
            transactional_id: format!("hidden-id-{number}"),
        };
        let create = cases::create_topics(&subject.topic);
        for asked in [create, cases::fill(&subject), cases::commit(&subject)] {
            let (answer, _) = self.ask(Denying::Nothing, &asked).await;
            assert_eq!(codes(&answer), NO_CODES, "{answer}");
        }
        subject.id = self.bench.metadata.image().topic(&subject.topic).unwrap().id.0;
        subject
    }

    /// What a request could have changed.
    fn state(&self, subject: &Subject) -> String {
        let image = self.bench.metadata.image();
        let topics: Vec<_> =
            image.topics().map(|it| (&it.name, it.id, it.partitions, &it.configs)).collect();
        let log = self.bench.metadata.log(TopicId(subject.id), PartitionId(0)).unwrap();
        let groups = self.bench.groups.list();
        let committed = self.bench.groups.committed(&subject.group);
        format!("{topics:?} {:?} {groups:?} {committed:?}", log.span())
    }
}

/// All error codes of an answer but 0.
fn codes(answer: &str) -> Vec<i16> {
    let codes = answer.split("error_code: ").skip(1).map(|rest| {
        let end = rest.find(|c: char| c != '-' && !c.is_ascii_digit()).unwrap();
        rest[..end].parse().unwrap()
    });
    codes.filter(|code| *code != 0).collect()
}

/// What a case expects the authoriser to be asked for, with the names of its subject.
fn expected(asked: &[&str], subject: &Subject) -> BTreeSet<String> {
    let named = asked.iter().map(|asked| {
        let words = asked.split(' ').map(|word| match word {
            "T" => subject.topic.clone(),
            "new-T" => format!("new-{}", subject.topic),
            "G" => subject.group.clone(),
            "X" => subject.transactional_id.clone(),
            other => other.to_owned(),
        });
        words.collect::<Vec<_>>().join(" ")
    });
    named.collect()
}

#[test]
fn every_api_of_the_table_is_in_the_matrix() {
    let served: BTreeSet<i16> = ROUTES.iter().map(|route| route.api.key as i16).collect();
    let tested: BTreeSet<i16> = cases::all().iter().map(|case| case.api as i16).collect();
    assert_eq!(served, tested, "each API needs a row in authorization/cases.rs");
}

#[tokio::test]
async fn who_is_denied_is_told_so_and_neither_changes_nor_learns_anything() {
    let matrix = Matrix::start().await;
    for (number, case) in cases::all().into_iter().enumerate() {
        let Case { api, what, denying, .. } = case;
        let subject = matrix.subject(number).await;
        let before = matrix.state(&subject);
        let (answer, _) = matrix.ask(denying, &(case.ask)(&subject)).await;
        assert_eq!(codes(&answer), case.codes, "{api:?} {what}: {answer}");
        assert_eq!(matrix.state(&subject), before, "{api:?} {what}");
        if !case.is_by_name {
            assert!(!answer.contains("hidden"), "{api:?} {what}: {answer}");
            continue;
        }
        // By name, what is there is refused like what is not.
        if denying == Denying::Everything {
            let absent = Subject {
                topic: subject.topic.replace("hidden", "absent"),
                group: subject.group.replace("hidden", "absent"),
                transactional_id: subject.transactional_id.replace("hidden", "absent"),
                ..subject
            };
            let (other, _) = matrix.ask(denying, &(case.ask)(&absent)).await;
            assert_eq!(other.replace("absent", "hidden"), answer, "{api:?} {what}");
        }
    }
}

#[tokio::test]
async fn lists_leave_out_what_a_client_may_not_see() {
    let matrix = Matrix::start().await;
    matrix.subject(0).await;
    for (what, asked) in cases::lists() {
        let (answer, _) = matrix.ask(Denying::Nothing, &asked).await;
        assert!(answer.contains("hidden"), "{what}: {answer}");
        let (answer, _) = matrix.ask(Denying::Everything, &asked).await;
        assert_eq!(codes(&answer), NO_CODES, "{what}: {answer}");
        for name in ["hidden", "__consumer_offsets"] {
            assert!(!answer.contains(name), "{what}: {answer}");
        }
    }
}

#[tokio::test]
async fn the_authoriser_is_asked_for_what_kafkas_is_asked_for() {
    let matrix = Matrix::start().await;
    for (number, case) in cases::all().into_iter().enumerate() {
        let Case { api, what, .. } = case;
        let subject = matrix.subject(number).await;
        let request = (case.ask)(&subject);
        let (_, asked) = matrix.ask(Denying::Nothing, &request).await;
        assert_eq!(asked, expected(case.asked, &subject), "{api:?} {what}");
    }
}

#[tokio::test]
async fn what_is_denied_for_the_cluster_is_asked_for_each_resource() {
    let matrix = Matrix::start().await;
    let subject = matrix.subject(0).await;
    let rows: [(ApiKey, &str, &[&str]); 6] = [
        (
            ApiKey::Metadata,
            "a topic to create",
            &["Describe Topic new-T", "Create Cluster", "Create Topic new-T"],
        ),
        (ApiKey::ListGroups, "all", &["Describe Cluster", "Describe Group G"]),
        (
            ApiKey::CreateTopics,
            "by the topic's own permission",
            &["Create Cluster", "Create Topic T", "DescribeConfigs Topic T"],
        ),
        (
            ApiKey::DeleteTopics,
            "that it may describe",
            &["Delete Cluster", "Describe Topic T", "Delete Topic T"],
        ),
        (ApiKey::InitProducerId, "idempotent", &["IdempotentWrite Cluster", "Write Topic any"]),
        (
            ApiKey::OffsetForLeaderEpoch,
            "of a topic",
            &["ClusterAction Cluster", "Describe Topic T"],
        ),
    ];
    for (api, what, asked_for) in rows {
        let mut cases = cases::all().into_iter();
        let case = cases.find(|case| case.api == api && case.what == what).unwrap();
        let (_, asked) = matrix.ask(case.denying, &(case.ask)(&subject)).await;
        assert_eq!(asked, expected(asked_for, &subject), "{api:?} {what}");
    }
}

#[tokio::test]
async fn a_new_topics_configs_are_told_to_those_who_may_describe_them() {
    let matrix = Matrix::start().await;
    let create = |name| cases::create_topics(name);
    let (answer, _) = matrix.ask(Denying::Nothing, &create("hidden-1")).await;
    assert!(codes(&answer).is_empty() && answer.contains("num_partitions: 1,"), "{answer}");
    assert!(answer.contains("cleanup.policy"), "{answer}");
    let denying = Denying::Only(&["DescribeConfigs Topic"]);
    let (answer, _) = matrix.ask(denying, &create("hidden-2")).await;
    assert!(answer.contains("topic_config_error_code: 29"), "{answer}");
    assert!(answer.contains(" error_code: 0") && answer.contains("num_partitions: -1"), "{answer}");
    assert!(!answer.contains("cleanup.policy"), "{answer}");
}

#[tokio::test]
async fn operations_are_told_as_they_are_allowed() {
    let matrix = Matrix::start().await;
    let subject = matrix.subject(0).await;
    let denying = Denying::Only(&["Write Topic", "Alter Cluster", "Delete Group"]);
    for (api, told) in [
        (ApiKey::Metadata, "authorized_operations: 3560"),
        (ApiKey::DescribeTopicPartitions, "authorized_operations: 3560"),
        (ApiKey::DescribeCluster, "authorized_operations: 7968"),
        (ApiKey::DescribeGroups, "authorized_operations: 3336"),
    ] {
        let mut cases = cases::all().into_iter();
        let case = cases.find(|case| case.api == api && case.asked.len() > 4);
        let case = case.or_else(|| cases::all().into_iter().find(|case| case.api == api)).unwrap();
        let (answer, _) = matrix.ask(denying, &(case.ask)(&subject)).await;
        assert!(answer.contains(told), "{api:?}: {answer}");
    }
    // Who may not describe the cluster is told of no operation on it.
    let cluster = cases::all()
        .into_iter()
        .find(|case| case.what == "with the operations" && case.api == ApiKey::DescribeCluster)
        .unwrap();
    let denying = Denying::Only(&["Describe Cluster"]);
    let (answer, _) = matrix.ask(denying, &(cluster.ask)(&subject)).await;
    assert!(answer.contains("cluster_authorized_operations: 0"), "{answer}");
}
