"""Lists, describes and deletes consumer groups, with a member inside and without.

Arguments: bootstrap servers, topic and group.
"""

import sys

from confluent_kafka import Consumer, ConsumerGroupState, ConsumerGroupTopicPartitions, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

BOOTSTRAP, NAME = sys.argv[1:]
admin = AdminClient({"bootstrap.servers": BOOTSTRAP})
for future in admin.create_topics([NewTopic(NAME, 2, 1)]).values():
    future.result(30)

producer = Producer({"bootstrap.servers": BOOTSTRAP})
for number in range(10):
    producer.produce(NAME, value=str(number), partition=number % 2)
assert producer.flush(30) == 0

consumer = Consumer(
    {
        "bootstrap.servers": BOOTSTRAP,
        "group.id": NAME,
        "client.id": "reader",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    }
)
consumer.subscribe([NAME])
for _ in range(10):
    message = consumer.poll(30)
    assert message is not None and message.error() is None, message
consumer.commit(asynchronous=False)


def listed():
    result = admin.list_consumer_groups().result(30)
    assert result.errors == [], result.errors
    return {group.group_id: group for group in result.valid}


def described():
    (future,) = admin.describe_consumer_groups([NAME]).values()
    return future.result(30)


# With a member.
assert listed()[NAME].state == ConsumerGroupState.STABLE
group = described()
assert group.state == ConsumerGroupState.STABLE
assert group.partition_assignor == "range"
assert group.coordinator is not None
(member,) = group.members
assert member.client_id == "reader"
assert member.host
assigned = {(part.topic, part.partition) for part in member.assignment.topic_partitions}
assert assigned == {(NAME, 0), (NAME, 1)}
(deletion,) = admin.delete_consumer_groups([NAME]).values()
try:
    deletion.result(30)
    raise AssertionError("a group with a member was deleted")
except KafkaException as exception:
    assert exception.args[0].name() == "NON_EMPTY_GROUP"

# Committed offsets, and what is left to read.
(future,) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(NAME)]).values()
committed = {part.partition: part.offset for part in future.result(30).topic_partitions}
assert committed == {0: 5, 1: 5}
latest = admin.list_offsets({TopicPartition(NAME, part): OffsetSpec.latest() for part in (0, 1)})
assert sorted(future.result(30).offset for future in latest.values()) == [5, 5]

# Without.
consumer.close()
assert described().state == ConsumerGroupState.EMPTY
assert described().members == []
assert listed()[NAME].state == ConsumerGroupState.EMPTY
for future in admin.delete_consumer_groups([NAME]).values():
    future.result(30)
assert NAME not in listed()
print("ok")
