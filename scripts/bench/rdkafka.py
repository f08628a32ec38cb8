"""librdkafka through its Python client: topics, many connections, and the check of every case."""
import threading, time
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec

from figures import latencies

# Errors only: at level 6 librdkafka tells of every admin request that a closing client leaves.
QUIET = {"log_level": 3}


class WrongAnswer(Exception):
    """What was read is not what was written."""


def create_topic(broker, topic, partitions, configs, seconds=300):
    """Creates a topic, and waits until each of its partitions answers."""
    admin = AdminClient({"bootstrap.servers": broker.address, **QUIET})
    new = NewTopic(topic, num_partitions=partitions, replication_factor=1, config=configs)
    admin.create_topics([new])[topic].result(30)
    asked = {TopicPartition(topic, number): OffsetSpec.latest() for number in range(partitions)}
    deadline = time.monotonic() + seconds
    while True:
        try:
            for answer in admin.list_offsets(asked).values():
                answer.result(30)
            return
        except KafkaException:
            # Kafka says that a topic is there before all of its partitions have a leader: minutes before, when
            # thousands were deleted just now.
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


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


def check(broker, topic, records, payloads, counts=None):
    """Whether the topic holds exactly `records` records, each with the bytes of one that was sent;
    counts them if asked to."""
    consumer, there = assigned(broker, topic, **{"check.crcs": True})
    try:
        if there != records:
            raise WrongAnswer(f"{topic} holds {there} records, {records} were sent")
        drain(consumer, records, seeing(topic, payloads, counts))
    finally:
        consumer.close()


def seeing(topic, payloads, counts=None):
    """What `drain` calls so that each record must be one of `payloads`."""
    def see(value):
        if value not in payloads:
            raise WrongAnswer(f"{topic} holds a record that nobody sent")
        if counts is not None:
            counts[value] += 1
    return see


def check_count(broker, topic, records):
    """Whether the topic holds exactly `records` records; for tools that compare their bytes."""
    consumer, there = assigned(broker, topic)
    consumer.close()
    if there != records:
        raise WrongAnswer(f"{topic} holds {there} records, {records} were sent")


def produce(broker, topic, records, payloads, connections, properties):
    """Records per second over `connections` producers, each acknowledged."""
    payloads = list(payloads)
    share = records // connections
    # A thread that fails before the others are ready must not leave them waiting.
    failures, ready = [], threading.Barrier(connections + 1, timeout=60)

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


def fan_out(broker, topic, consumers, payloads, seconds=180):
    """MB/s over consumers that each read the whole topic at the same time, and all their bytes."""
    total, failures = [], []

    def work():
        consumer, there = assigned(broker, topic, **{"check.crcs": True})
        try:
            total.append(drain(consumer, there, seeing(topic, payloads), seconds))
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


def end_to_end(broker, topic, records, payloads):
    """Latencies in µs from sending a record to having both its acknowledgement and the record, one
    at a time; the first tenth is a warm-up."""
    payloads = list(payloads)
    failures, waits = [], []
    producer = Producer({"bootstrap.servers": broker.address, "acks": "all", "linger.ms": 0,
                         "socket.nagle.disable": True, **QUIET})
    consumer, _ = assigned(broker, topic, **{"check.crcs": True, "socket.nagle.disable": True})
    try:
        for number in range(records // 10 + records):
            sent = payloads[number % len(payloads)]
            began = time.perf_counter()
            producer.produce(topic, sent, on_delivery=lambda error, _: error and failures.append(error))
            undelivered = producer.flush(30)
            message = consumer.poll(30)
            took = time.perf_counter() - began
            if undelivered or failures:
                raise WrongAnswer(f"record {number} was not acknowledged: {failures or 'in 30 s'}")
            if message is None or message.error():
                raise WrongAnswer(f"record {number} was not read: {message and message.error() or 'in 30 s'}")
            if message.offset() != number or message.value() != sent:
                raise WrongAnswer(f"offset {message.offset()} was read for {number}, or other bytes than were sent")
            if number >= records // 10:
                waits.append(took)
    finally:
        consumer.close()
    return latencies(waits)


def await_records(broker, topic, records):
    """Waits until the topic has this many committed records."""
    consumer, _ = assigned(broker, topic, **{"isolation.level": "read_committed"})
    try:
        drain(consumer, records)
    finally:
        consumer.close()


def committed(broker, topic):
    """Every committed record that a topic has now."""
    consumer, _ = assigned(broker, topic, **{"isolation.level": "read_committed", "enable.partition.eof": True})
    values, open_partitions = [], len(consumer.assignment())
    try:
        while open_partitions:
            message = consumer.poll(30)
            if message is None:
                raise WrongAnswer(f"the end of {topic} was not read in 30 s")
            if not message.error():
                values.append(message.value())
            elif message.error().code() == KafkaError._PARTITION_EOF:
                open_partitions -= 1
            else:
                raise KafkaException(message.error())
    finally:
        consumer.close()
    return values
