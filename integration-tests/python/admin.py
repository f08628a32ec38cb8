"""Creates, describes, grows and deletes topics; describes the cluster and a topic's configs.

Arguments: bootstrap servers, prefix of topic names.
"""

import sys
import time

from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import (
    AdminClient,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

BOOTSTRAP, PREFIX = sys.argv[1:]
admin = AdminClient({"bootstrap.servers": BOOTSTRAP})


def done(futures):
    return {name: future.result(30) for name, future in futures.items()}


def error_name(future):
    try:
        future.result(30)
    except KafkaException as exception:
        return exception.args[0].name()
    return None


def until(what, condition):
    """A deletion or a growth is answered before every metadata snapshot shows it."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited 30 s for {what}"
        time.sleep(0.05)


def topics():
    return admin.list_topics(timeout=30).topics


one, three = f"{PREFIX}-one", f"{PREFIX}-three"

# Create.
done(
    admin.create_topics(
        [
            NewTopic(one, 1, 1),
            NewTopic(three, 3, 1, config={"max.message.bytes": "2000000"}),
        ]
    )
)
until("both topics", lambda: {one, three} <= topics().keys())
assert len(topics()[one].partitions) == 1
assert sorted(topics()[three].partitions) == [0, 1, 2]
(again,) = admin.create_topics([NewTopic(one, 1, 1)]).values()
assert error_name(again) == "TOPIC_ALREADY_EXISTS"
(invalid,) = admin.create_topics([NewTopic("no spaces allowed", 1, 1)]).values()
assert error_name(invalid) == "TOPIC_EXCEPTION"  # Kafka's INVALID_TOPIC_EXCEPTION
(replicas,) = admin.create_topics([NewTopic(f"{PREFIX}-replicas", 1, 3)]).values()
assert error_name(replicas) == "INVALID_REPLICATION_FACTOR"

# Describe.
described = done(admin.describe_topics(TopicCollection([one, three])))
assert described[one].name == one
assert [partition.id for partition in described[three].partitions] == [0, 1, 2]
for partition in described[three].partitions:
    assert partition.leader is not None
    assert [node.id for node in partition.replicas] == [partition.leader.id]
    assert [node.id for node in partition.isr] == [partition.leader.id]
missing = admin.describe_topics(TopicCollection([f"{PREFIX}-missing"]))
(future,) = missing.values()
assert error_name(future) == "UNKNOWN_TOPIC_OR_PART"

cluster = admin.describe_cluster().result(30)
assert cluster.cluster_id
assert len(cluster.nodes) == 1
assert cluster.controller is not None

resource = ConfigResource(ResourceType.TOPIC, three)
configs = done(admin.describe_configs([resource]))[resource]
assert configs["max.message.bytes"].value == "2000000"
assert not configs["max.message.bytes"].is_default
assert configs["cleanup.policy"].value == "delete"
assert configs["cleanup.policy"].is_default

# Grow.
done(admin.create_partitions([NewPartitions(one, 4)]))
until("four partitions", lambda: len(topics()[one].partitions) == 4)
(shrink,) = admin.create_partitions([NewPartitions(one, 2)]).values()
assert error_name(shrink) == "INVALID_PARTITIONS"

# Delete.
done(admin.delete_topics([one, three]))
until("both topics to go", lambda: not {one, three} & topics().keys())
(gone,) = admin.delete_topics([one]).values()
assert error_name(gone) == "UNKNOWN_TOPIC_OR_PART"
print("ok")
