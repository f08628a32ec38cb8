"""librdkafka through its Python client: topics, many connections, and the check of every case."""
import socket, struct, threading, time
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic


# Errors only: at level 6 librdkafka tells of every admin request that a closing client leaves.
QUIET = {"log_level": 3}


class WrongAnswer(Exception):
    """What was read is not what was written."""


def create_topic(broker, topic, partitions, configs):
    """Creates a topic, and waits until it can be used."""
    admin = AdminClient({"bootstrap.servers": broker.address, **QUIET})
    new = NewTopic(topic, num_partitions=partitions, replication_factor=1, config=configs)
    admin.create_topics([new])[topic].result(30)


def delete_topic(broker, topic):
    """Deletes a topic, so that its bytes do not stay in the page cache."""
    # The name keeps the client alive until the answer is there.
    admin = AdminClient({"bootstrap.servers": broker.address, **QUIET})
    admin.delete_topics([topic])[topic].result(30)


def assigned(broker, topic, **settings):
    """A consumer of every partition from its beginning, and how many records there are."""
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "bench",
                         "enable.auto.commit": False, "auto.offset.reset": "error", **QUIET, **settings})
    partitions = consumer.list_topics(topic, 30).topics[topic].partitions
    ends, begin = 0, []
    for partition in partitions:
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), 30)
        ends += high - low
        begin.append(TopicPartition(topic, partition, low))
    consumer.assign(begin)
    return consumer, ends


def drain(consumer, expected, see=None, seconds=120):
    """Reads `expected` records; their bytes."""
    read = total = 0
    deadline = time.monotonic() + seconds
    while read < expected:
        for message in consumer.consume(10_000, timeout=1):
            if message.error():
                raise KafkaException(message.error())
            value = message.value()
            total += len(value)
            read += 1
            if see:
                see(value)
        if time.monotonic() > deadline:
            raise WrongAnswer(f"read {read} of {expected} records in {seconds} s")
    return total


def check(broker, topic, records, payloads):
    """Whether the topic holds exactly `records` records, each with the bytes of one that was sent."""
    consumer, there = assigned(broker, topic, **{"check.crcs": True})
    try:
        if there != records:
            raise WrongAnswer(f"{topic} holds {there} records, {records} were sent")

        def see(value):
            if value not in payloads:
                raise WrongAnswer(f"{topic} holds a record that nobody sent")
        drain(consumer, records, see)
    finally:
        consumer.close()


def produce(broker, topic, records, payloads, connections, properties):
    """Records per second over `connections` producers, each acknowledged."""
    payloads = list(payloads)
    share = records // connections
    failures, ready = [], threading.Barrier(connections + 1)

    def work():
        def delivered(error, _):
            if error:
                failures.append(error)
        producer = Producer({"bootstrap.servers": broker.address, **QUIET, **properties})
        producer.list_topics(topic, 30)
        ready.wait()
        for number in range(share):
            while True:
                try:
                    producer.produce(topic, payloads[number % len(payloads)], on_delivery=delivered)
                    break
                except BufferError:
                    producer.poll(0.05)
            producer.poll(0)
        if producer.flush(120):
            failures.append("not all records were delivered in 120 s")

    threads = [threading.Thread(target=work) for _ in range(connections)]
    for thread in threads:
        thread.start()
    ready.wait()
    began = time.monotonic()
    for thread in threads:
        thread.join()
    if failures:
        raise WrongAnswer(f"{len(failures)} deliveries failed, the first with {failures[0]}")
    took = time.monotonic() - began
    return {"records/s": share * connections / took}


def fan_out(broker, topic, consumers, seconds=180):
    """MB/s over consumers that each read the whole topic at the same time."""
    total, failures = [], []

    def work():
        consumer, there = assigned(broker, topic, **{"check.crcs": True})
        try:
            total.append(drain(consumer, there, seconds=seconds))
        except Exception as error:  # A thread's failure is the case's.
            failures.append(error)
        finally:
            consumer.close()

    threads = [threading.Thread(target=work) for _ in range(consumers)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return {"MB/s": sum(total) / 1e6 / (time.monotonic() - began)}, sum(total)


def idle_connections(broker, count):
    """Sockets that have asked for ApiVersions once, and now say nothing."""
    host, port = broker.address.rsplit(":", 1)
    request = struct.pack(">hhih", 18, 0, 1, 4) + b"idle"
    sockets = []
    for _ in range(count):
        connection = socket.create_connection((host, int(port)))
        connection.sendall(struct.pack(">i", len(request)) + request)
        length, = struct.unpack(">i", connection.recv(4, socket.MSG_WAITALL))
        connection.recv(length, socket.MSG_WAITALL)
        sockets.append(connection)
    return sockets
