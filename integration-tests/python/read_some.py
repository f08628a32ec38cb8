"""Reads some records of a topic as a group, commits exactly those and leaves.

Arguments: bootstrap servers, topic, group, number of records.
"""

import sys

from confluent_kafka import Consumer

bootstrap, topic, group, count = sys.argv[1:]
consumer = Consumer(
    {
        "bootstrap.servers": bootstrap,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    }
)
consumer.subscribe([topic])
for _ in range(int(count)):
    message = consumer.poll(30)
    assert message is not None and message.error() is None, message
consumer.commit(message, asynchronous=False)
consumer.close()
