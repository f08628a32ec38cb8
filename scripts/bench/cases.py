"""What is compared. A case makes its topics, works, checks what the broker holds, and gives figures."""
import random, subprocess, tempfile, time
from dataclasses import dataclass, field
from pathlib import Path

import rdkafka, tools

MIB = 1 << 20


class Payloads:
    """A thousand random lines of one size: a file for Kafka's tools, a set for the check."""

    def __init__(self, size):
        chosen = random.Random(size)
        letters = "abcdefghijklmnopqrstuvwxyz0123456789"
        # Half of each line repeats, so that compression has something to do.
        self.lines = {("".join(chosen.choices(letters, k=size - size // 2)) + "ottla " * size)[:size].encode()
                      for _ in range(1000)}
        file = tempfile.NamedTemporaryFile(prefix="ottla-bench-", delete=False)
        file.write(b"\n".join(sorted(self.lines)))
        file.close()
        self.path = Path(file.name)


class Bench:
    """What a case needs: payloads of a size, a topic of its own, the broker's CPU."""

    def __init__(self):
        self.payloads = {}
        self.number = 0

    def payload(self, size):
        return self.payloads.setdefault(size, Payloads(size))

    def topic(self, broker, partitions=1, configs=None):
        self.number += 1
        name = f"bench-{self.number}"
        rdkafka.create_topic(broker, name, partitions, configs or {})
        return name

    def close(self):
        for payload in self.payloads.values():
            payload.path.unlink()


def costed(broker, work, megabytes=None, requests=None):
    """The figures of `work` and what it cost the broker's CPU."""
    before = broker.cpu_seconds()
    figures = work()
    spent = broker.cpu_seconds() - before
    if megabytes:
        figures["CPU ms/MB"] = spent * 1e3 / megabytes
    if requests:
        figures["CPU µs/request"] = spent * 1e6 / requests
    return figures


def flush_configs(broker, flush):
    """`acks=all` means the disk to Ottla; Kafka is asked for it per message."""
    return {"flush.messages": "1"} if flush and broker.name == "Apache Kafka" else {}


@dataclass
class Produce:
    """ProducerPerformance; the default is the producer's own."""
    name: str
    size: int = 1024
    batch: int = 16384
    acks: str = "all"
    partitions: int = 1
    megabytes: int = 400
    records: int = 0
    flush: bool = False
    compression: str = "none"
    idle: int = 0
    extra: dict = field(default_factory=dict)

    def run(self, bench, broker, scale):
        payload = bench.payload(self.size)
        records = int((self.records or self.megabytes * MIB // self.size) * scale)
        topic = bench.topic(broker, self.partitions, flush_configs(broker, self.flush))
        properties = {"acks": self.acks, "batch.size": self.batch, "compression.type": self.compression,
                      "linger.ms": 0 if self.batch < 1024 else 5, **self.extra}
        sockets = rdkafka.idle_connections(broker, self.idle)
        work = lambda: tools.produce(broker, topic, records, payload.path, properties)
        figures = costed(broker, work, records * self.size / 1e6,
                         records if self.batch < 1024 else None)
        for connection in sockets:
            connection.close()
        rdkafka.check(broker, topic, records, payload.lines)
        rdkafka.delete_topic(broker, topic)
        return figures


@dataclass
class Connections:
    """librdkafka with one record per request on many connections, on the disk before the answer."""
    name: str
    connections: int
    flush: bool
    records: int = 60_000
    size: int = 1024

    def run(self, bench, broker, scale):
        payload = bench.payload(self.size)
        records = int(self.records * scale) // self.connections * self.connections
        topic = bench.topic(broker, 1, flush_configs(broker, self.flush))
        properties = {"acks": "all", "batch.num.messages": 1, "linger.ms": 0}
        work = lambda: rdkafka.produce(broker, topic, records, payload.lines, self.connections, properties)
        figures = costed(broker, work, requests=records)
        rdkafka.check(broker, topic, records, payload.lines)
        rdkafka.delete_topic(broker, topic)
        return figures


@dataclass
class Consume:
    """ConsumerPerformance over a topic that was written before, from memory or from the disk."""
    name: str
    size: int = 1024
    batch: int = 16384
    megabytes: int = 800
    cold: bool = False

    def run(self, bench, broker, scale):
        payload = bench.payload(self.size)
        records = int(self.megabytes * MIB // self.size * scale)
        topic = bench.topic(broker)
        properties = {"acks": "1", "batch.size": self.batch, "linger.ms": 5}
        tools.produce(broker, topic, records, payload.path, properties)
        rdkafka.check(broker, topic, records, payload.lines)
        if self.cold:
            drop_page_cache()
        figures = costed(broker, lambda: tools.consume(broker, topic, records),
                         records * self.size / 1e6)
        rdkafka.delete_topic(broker, topic)
        return figures


@dataclass
class FanOut:
    """Consumers that each read one whole topic at the same time."""
    name: str
    consumers: int = 50
    size: int = 1024
    megabytes: int = 20

    def run(self, bench, broker, scale):
        payload = bench.payload(self.size)
        records = int(self.megabytes * MIB // self.size * scale)
        topic = bench.topic(broker)
        tools.produce(broker, topic, records, payload.path, {"acks": "1", "linger.ms": 5})
        before = broker.cpu_seconds()
        figures, total = rdkafka.fan_out(broker, topic, self.consumers)
        figures["CPU ms/MB"] = (broker.cpu_seconds() - before) * 1e9 / total
        if total != records * self.size * self.consumers:
            raise rdkafka.WrongAnswer(f"{self.consumers} consumers read {total} bytes of {records} records")
        rdkafka.delete_topic(broker, topic)
        return figures


@dataclass
class EndToEnd:
    """EndToEndLatency: one record at a time, from send to receive."""
    name: str
    acks: str = "all"
    flush: bool = False
    records: int = 10_000
    size: int = 1024

    def run(self, bench, broker, scale):
        records = int(self.records * scale)
        topic = bench.topic(broker, 1, flush_configs(broker, self.flush))
        figures = costed(
            broker, lambda: tools.end_to_end(broker, topic, records, self.acks, self.size),
            requests=records)
        rdkafka.delete_topic(broker, topic)
        return figures


def drop_page_cache():
    """Makes the next reads come from the disk; needs root."""
    subprocess.run(["sync"], check=True)
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1")
    except OSError as error:
        raise SystemExit(f"bench: the page cache could not be dropped ({error}): run as root, or "
                         "leave the cold cases out with --case")
    time.sleep(1)


CASES = [
    Produce("produce, 1 KiB records, 16 KiB batches, acks=1", acks="1"),
    Produce("produce, 1 KiB records, 16 KiB batches, acks=all"),
    Produce("produce, 1 KiB records, 16 KiB batches, acks=all, 16 partitions", partitions=16),
    Produce("produce, 1 KiB records, 16 KiB batches, acks=all, 100 partitions", partitions=100),
    Produce("produce, 1 KiB records, 256 KiB batches, acks=1", batch=262144, acks="1", megabytes=800),
    Produce("produce, 1 KiB records, 256 KiB batches, acks=all", batch=262144, megabytes=800),
    Produce("produce, 100 B records, 16 KiB batches, acks=all", size=100, megabytes=100),
    Produce("produce, 100 B records, 256 KiB batches, acks=all", size=100, batch=262144, megabytes=100),
    Produce("produce, lz4, 1 KiB records, 16 KiB batches, acks=all", compression="lz4"),
    Produce("produce, zstd, 1 KiB records, 16 KiB batches, acks=all", compression="zstd"),
    Produce("produce, one 1 KiB record per request, acks=1", batch=0, acks="1", records=60_000),
    Produce("produce, one 1 KiB record per request, acks=all", batch=0, records=60_000),
    Produce("produce beside 1,000 idle connections, 16 KiB batches, acks=all", idle=1000),
    Produce("durable produce, 16 KiB batches (Kafka: flush per message)", flush=True, megabytes=100),
    Produce("durable produce, 256 KiB batches (Kafka: flush per message)", flush=True, batch=262144),
    Produce("durable produce, one record per request (Kafka: flush per message)", flush=True, batch=0,
            records=15_000),
    Connections("durable produce, librdkafka, 16 connections, one record per request (Kafka: flush per message)",
                16, flush=True, records=16_000),
    Connections("produce, librdkafka, 16 connections, one record per request, acks=all", 16, flush=False),
    Consume("consume, 1 KiB records, 16 KiB batches, hot"),
    Consume("consume, 1 KiB records, 256 KiB batches, hot", batch=262144),
    Consume("consume, 1 KiB records, 256 KiB batches, cold", batch=262144, cold=True),
    Consume("consume, 100 B records, 16 KiB batches, hot", size=100, megabytes=150),
    FanOut("50 consumers of one topic, librdkafka"),
    EndToEnd("end to end, 1 KiB, acks=1", acks="1"),
    EndToEnd("end to end, 1 KiB, acks=all"),
    EndToEnd("end to end, 1 KiB, acks=all (Kafka: flush per message)", flush=True),
]
