"""Produces with delivery reports, then consumes as a group and goes on after a restart.

Arguments: bootstrap servers, topic.
"""

import sys

from confluent_kafka import Consumer, Producer

BOOTSTRAP, TOPIC = sys.argv[1:]
COUNT = 100


def produce():
    reports = []
    producer = Producer({"bootstrap.servers": BOOTSTRAP, "enable.idempotence": True})
    for number in range(COUNT):
        producer.produce(
            TOPIC,
            key=f"key{number}",
            value=f"value{number}",
            headers=[("number", str(number)), ("number", "again")],
            on_delivery=lambda error, message: reports.append((error, message)),
        )
    assert producer.flush(30) == 0, "records are still undelivered"
    assert [error for error, _ in reports if error] == []
    offsets = {}
    for _, message in reports:
        assert message.topic() == TOPIC
        offsets.setdefault(message.partition(), []).append(message.offset())
    for partition, reported in offsets.items():
        assert sorted(reported) == list(range(len(reported))), (partition, reported)
    assert sum(map(len, offsets.values())) == COUNT


def consume(count):
    """Reads `count` records as a group, commits and closes."""
    consumer = Consumer(
        {
            "bootstrap.servers": BOOTSTRAP,
            "group.id": TOPIC,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([TOPIC])
    messages = []
    try:
        while len(messages) < count:
            message = consumer.poll(30)
            assert message is not None, f"no record within 30 s after {len(messages)}"
            assert message.error() is None, message.error()
            messages.append(message)
            consumer.commit(message, asynchronous=False)
    finally:
        consumer.close()
    return messages


def number_of(message):
    number = int(message.key().decode().removeprefix("key"))
    assert message.value().decode() == f"value{number}"
    assert message.headers() == [("number", str(number).encode()), ("number", b"again")]
    return number


produce()
first = [number_of(message) for message in consume(40)]
second = [number_of(message) for message in consume(60)]
assert first + second == list(range(COUNT)), (first, second)
print("ok")
