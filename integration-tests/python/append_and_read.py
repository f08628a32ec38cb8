"""Appends records under a codec, then reads the whole topic with its checksums.

Arguments: bootstrap servers, topic, codec. A line of input is `key:value`; prints `partition offset
key value` of each record.
"""

import sys

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

bootstrap, topic, codec = sys.argv[1:]
failed = []
# Time to make large batches.
producer = Producer({"bootstrap.servers": bootstrap, "compression.type": codec, "linger.ms": 500})
for line in sys.stdin:
    key, value = line.rstrip("\n").split(":", 1)
    producer.produce(
        topic, key=key, value=value, on_delivery=lambda error, _: error and failed.append(error)
    )
assert producer.flush(60) == 0, "records are still undelivered"
assert failed == [], failed

consumer = Consumer(
    {
        "bootstrap.servers": bootstrap,
        "group.id": topic,
        "check.crcs": True,
        # Another client may read as this group, from the beginning.
        "enable.auto.commit": False,
    }
)
partition = TopicPartition(topic, 0, OFFSET_BEGINNING)
_, end = consumer.get_watermark_offsets(partition, timeout=30)
consumer.assign([partition])
for _ in range(end):
    message = consumer.poll(30)
    assert message is not None and message.error() is None, message and message.error()
    key, value = message.key().decode(), message.value().decode()
    print(message.partition(), message.offset(), key, value)
consumer.close()
