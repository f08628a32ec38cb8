"""Reads a compacted topic of one partition to its end and prints `offset key value` of each record but
those with the key `pad`; then looks up the record with the largest timestamp and every offset by time.

Arguments: bootstrap servers, topic, the offset after its last record, `exact` or `reference`: Apache
Kafka says that there is nothing so late when it looks at an emptied batch that once was.
"""

import sys

from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

bootstrap, topic, end, lookups = sys.argv[1:]
consumer = Consumer(
    {
        "bootstrap.servers": bootstrap,
        "group.id": topic + "-by-hand",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "isolation.level": "read_committed",
    }
)


def read(offset, stop_at_first=False):
    consumer.assign([TopicPartition(topic, 0, offset)])
    records = []
    while True:
        message = consumer.poll(30)
        assert message is not None, f"nothing came after {records[-1:]}"
        if message.error():
            assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
            assert message.offset() == int(end), message.offset()
            return records
        records.append(message)
        if stop_at_first:
            return records


records = read(0)
offsets = [record.offset() for record in records]
assert offsets == sorted(set(offsets)), offsets
for record in records:
    if record.key() != b"pad":
        print(record.offset(), record.key().decode(), record.value().decode())

# From an offset that is gone a reader goes on at the next one that is there.
gone = next(offset for offset in range(offsets[0], int(end)) if offset not in offsets)
following = next(offset for offset in offsets if offset > gone)
assert read(gone, stop_at_first=True)[0].offset() == following

times = {record.offset(): record.timestamp()[1] for record in records}
partition = TopicPartition(topic, 0)
admin = AdminClient({"bootstrap.servers": bootstrap})
latest = admin.list_offsets({partition: OffsetSpec.max_timestamp()})
found = latest[partition].result(30)
assert times[found.offset] == max(times.values()), (found.offset, max(times.values()))

for time in sorted(set(times.values())):
    first = next(offset for offset in offsets if times[offset] >= time)
    asked = TopicPartition(topic, 0, time)
    found = consumer.offsets_for_times([asked], 30)[0].offset
    assert found == first or (lookups == "reference" and found == -1), (time, first, found)
consumer.close()
