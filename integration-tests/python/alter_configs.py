"""Changes a topic's configs while it is written, sees what that does, and deletes records.

Arguments: bootstrap servers, prefix of topic names.
"""

import sys
import time

from confluent_kafka import (
    TIMESTAMP_CREATE_TIME,
    TIMESTAMP_LOG_APPEND_TIME,
    Consumer,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

BOOTSTRAP, PREFIX = sys.argv[1:]
admin = AdminClient({"bootstrap.servers": BOOTSTRAP})
topic = f"{PREFIX}-configs"
(created,) = admin.create_topics([NewTopic(topic, 1, 1)]).values()
created.result(30)


def alter(name, operation, value=None):
    entry = ConfigEntry(name, value, incremental_operation=operation)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    (future,) = admin.incremental_alter_configs([resource]).values()
    future.result(30)


def described():
    resource = ConfigResource(ResourceType.TOPIC, topic)
    (future,) = admin.describe_configs([resource]).values()
    return future.result(30)


def send(value, timestamp):
    """One record with a producer of its own; its delivery report."""
    reports = []
    producer = Producer({"bootstrap.servers": BOOTSTRAP, "acks": "all"})
    producer.produce(
        topic,
        value,
        timestamp=timestamp,
        on_delivery=lambda error, message: reports.append((error, message)),
    )
    assert producer.flush(30) == 0
    ((error, message),) = reports
    return error.name() if error else None, message


def until(what, condition):
    """Kafka answers a change before its broker has heard of it."""
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, f"waited 30 s for {what}"
        time.sleep(0.05)


LONG_AGO = 1_700_000_000_000

# The largest batch.
assert send(b"x" * 5000, LONG_AGO)[0] is None
alter("max.message.bytes", AlterConfigOpType.SET, "2000")
until("the bound", lambda: send(b"x" * 5000, LONG_AGO)[0] == "MSG_SIZE_TOO_LARGE")
assert send(b"x" * 500, LONG_AGO)[0] is None
assert described()["max.message.bytes"].value == "2000"
alter("max.message.bytes", AlterConfigOpType.DELETE)
until("no bound", lambda: send(b"x" * 5000, LONG_AGO)[0] is None)
assert described()["max.message.bytes"].is_default

# Whose time records carry.
assert send(b"mine", LONG_AGO)[1].timestamp() == (TIMESTAMP_CREATE_TIME, LONG_AGO)
alter("message.timestamp.type", AlterConfigOpType.SET, "LogAppendTime")
until("the broker's time", lambda: send(b"theirs", LONG_AGO)[1].timestamp()[1] != LONG_AGO)
error, stamped = send(b"last", LONG_AGO)
assert error is None
consumer = Consumer({"bootstrap.servers": BOOTSTRAP, "group.id": f"{PREFIX}-reader"})
consumer.assign([TopicPartition(topic, 0, stamped.offset())])
message = consumer.poll(30)
assert message is not None and message.error() is None
assert message.value() == b"last"
kind, timestamp = message.timestamp()
assert kind == TIMESTAMP_LOG_APPEND_TIME
assert abs(timestamp / 1000 - time.time()) < 300

# Lists, and what is refused.
alter("cleanup.policy", AlterConfigOpType.APPEND, "compact")
until("both policies", lambda: described()["cleanup.policy"].value == "delete,compact")
alter("cleanup.policy", AlterConfigOpType.SUBTRACT, "compact")
until("one policy", lambda: described()["cleanup.policy"].value == "delete")
try:
    alter("retention.ms", AlterConfigOpType.SET, "soon")
    raise AssertionError("a retention that is no number was accepted")
except KafkaException as exception:
    assert exception.args[0].name() == "INVALID_CONFIG"

# Records before an offset.
before = TopicPartition(topic, 0, stamped.offset())
(deleted,) = admin.delete_records([before]).values()
assert deleted.result(30).low_watermark == stamped.offset()
low, high = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=30, cached=False)
assert (low, high) == (stamped.offset(), stamped.offset() + 1)
consumer.close()
(gone,) = admin.delete_topics([topic]).values()
gone.result(30)
print("ok")
