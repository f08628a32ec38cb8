//! A consumer group that only commits: an acknowledged offset is never forgotten.

use std::io;
use std::net::SocketAddr;

use kafka_protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{GroupId, OffsetCommitRequest, OffsetFetchRequest};

use super::gate::Gate;
use crate::protocol::client::{Client, text};
use crate::protocol::code;
use crate::protocol::requests::Topic;

const GROUP: &str = "ledger";
const VERSION: i16 = 5;

/// See the module's header.
#[derive(Default)]
pub struct Committer {
    sent: i64,
    acknowledged: i64,
}

impl Committer {
    /// Commits through all lives of the broker until the gate says that all is over.
    pub fn run(&mut self, broker: SocketAddr, topic: &Topic, gate: &Gate) {
        let _guard = gate.guard();
        while let Some(life) = gate.wait() {
            let ended = Client::try_connect(broker)
                .and_then(|client| self.converse(client, topic, gate, life));
            if let Err(error) = ended {
                gate.broke(life, &error);
            }
        }
    }

    /// How many commits were acknowledged.
    pub fn acknowledged(&self) -> i64 {
        self.acknowledged
    }

    fn converse(
        &mut self,
        mut client: Client,
        topic: &Topic,
        gate: &Gate,
        life: u64,
    ) -> io::Result<()> {
        let committed = loop {
            let (error, offset) = fetch(&mut client, topic)?;
            match error {
                code::NONE => break offset.max(0),
                // Kafka's way to say that the group is being loaded.
                code::COORDINATOR_LOAD_IN_PROGRESS => {}
                other => return Err(io::Error::other(format!("error {other} of OffsetFetch"))),
            }
        };
        let possible = self.acknowledged..=self.sent;
        assert!(possible.contains(&committed), "offset {committed} is committed, not {possible:?}");
        self.sent = self.sent.max(committed);
        while gate.lives(life) && !gate.is_over() {
            self.sent += 1;
            match commit(&mut client, topic, self.sent)? {
                code::NONE => self.acknowledged = self.sent,
                other => return Err(io::Error::other(format!("error {other} of OffsetCommit"))),
            }
        }
        Ok(())
    }
}

fn fetch(client: &mut Client, topic: &Topic) -> io::Result<(i16, i64)> {
    let asked = OffsetFetchRequestTopic::default()
        .with_name(topic.topic_name())
        .with_partition_indexes(vec![0]);
    let request = OffsetFetchRequest::default()
        .with_group_id(GroupId(text(GROUP)))
        .with_topics(Some(vec![asked]));
    let answer = client.try_call(VERSION, &request)?;
    let offset = answer.topics.first().map_or(-1, |topic| topic.partitions[0].committed_offset);
    Ok((answer.error_code, offset))
}

fn commit(client: &mut Client, topic: &Topic, offset: i64) -> io::Result<i16> {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(0)
        .with_committed_offset(offset);
    let of_topic = OffsetCommitRequestTopic::default()
        .with_name(topic.topic_name())
        .with_partitions(vec![partition]);
    let request = OffsetCommitRequest::default()
        .with_group_id(GroupId(text(GROUP)))
        .with_generation_id_or_member_epoch(-1)
        .with_topics(vec![of_topic]);
    Ok(client.try_call(VERSION, &request)?.topics[0].partitions[0].error_code)
}
