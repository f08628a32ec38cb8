"""What is compared. A case makes its topics, works, checks what the broker holds, and gives figures."""
import random, statistics, subprocess, tempfile, time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import rdkafka, sockets, sql, tools
from rdkafka import WrongAnswer

MIB = 1 << 20
# As large as most brokers and clients let a topic's partitions become.
TOPIC_PARTITIONS_MAX = 1000
# Requests that a connection has unanswered at a time, as Kafka's producer by default.
IN_FLIGHT = 5
# What is sent before costs are compared, and how often they are measured then.
WARM_UP_REQUESTS = 500
PASSES = 3
ACKS_ALL = -1


class Payloads:
    """A thousand lines of one size: a file for Kafka's tools, a set for the check."""

    def __init__(self, lines):
        self.lines = set(lines)
        with tempfile.NamedTemporaryFile(prefix="ottla-bench-", delete=False) as file:
            file.write(b"\n".join(sorted(self.lines)))
        self.path = Path(file.name)


def random_lines(size):
    chosen = random.Random(size)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    # Half of each line repeats, so that compression has something to do.
    return [("".join(chosen.choices(letters, k=size - size // 2)) + "ottla " * size)[:size].encode()
            for _ in range(1000)]


class Bench:
    """What a case needs: payloads of a size, and topics of its own."""

    def __init__(self):
        self.payloads = {}
        self.number = 0

    def payload(self, size):
        if size not in self.payloads:
            self.payloads[size] = Payloads(random_lines(size))
        return self.payloads[size]

    def clicks(self, size):
        if ("clicks", size) not in self.payloads:
            self.payloads["clicks", size] = Payloads(sql.lines(random.Random(size), 1000, size))
        return self.payloads["clicks", size]

    @contextmanager
    def topic(self, broker, partitions=1, configs=None):
        """A topic that is deleted in the end, so that its bytes do not stay in the page cache."""
        self.number += 1
        name = f"bench-{self.number}"
        rdkafka.create_topic(broker, name, partitions, configs or {})
        try:
            yield name
        finally:
            rdkafka.delete_topic(broker, name)

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
class Case:
    """What all cases have: a name, and whether it is one of the few that `--quick` runs."""
    name: str
    quick: bool = False


@dataclass
class Produce(Case):
    """ProducerPerformance; the default is the producer's own."""
    size: int = 1024
    batch: int = 16384
    acks: str = "all"
    partitions: int = 1
    megabytes: int = 240
    records: int = 0
    flush: bool = False
    compression: str = "none"
    idle: int = 0

    def run(self, bench, broker, scale):
        payload = bench.payload(self.size)
        records = int((self.records or self.megabytes * MIB // self.size) * scale)
        properties = {"acks": self.acks, "batch.size": self.batch, "compression.type": self.compression,
                      "linger.ms": 5 if self.batch else 0}
        with bench.topic(broker, self.partitions, flush_configs(broker, self.flush)) as topic:
            connections = sockets.idle_connections(broker, self.idle)
            try:
                figures = costed(
                    broker, lambda: tools.produce(broker, topic, records, payload.path, properties),
                    **({"megabytes": records * self.size / 1e6} if self.batch else {"requests": records}))
            finally:
                for connection in connections:
                    connection.close()
            rdkafka.check(broker, topic, records, payload.lines)
        return figures


@dataclass
class Connections(Case):
    """librdkafka with one record per request on many connections."""
    connections: int = 16
    flush: bool = False
    records: int = 32_000
    size: int = 1024

    def run(self, bench, broker, scale):
        payload = bench.payload(self.size)
        records = int(self.records * scale) // self.connections * self.connections
        properties = {"acks": "all", "batch.num.messages": 1, "linger.ms": 0}
        with bench.topic(broker, 1, flush_configs(broker, self.flush)) as topic:
            figures = costed(
                broker, lambda: rdkafka.produce(broker, topic, records, payload.lines, self.connections, properties),
                requests=records)
            rdkafka.check(broker, topic, records, payload.lines)
        return figures


@dataclass
class Sockets(Case):
    """One batch per request on many plain sockets: a client that costs little, where others would be
    the bound."""
    connections: int = 16
    per_batch: int = 1
    requests: int = 40_000
    flush: bool = False
    size: int = 1024

    def run(self, bench, broker, scale):
        batches = made_batches(bench.payload(self.size), self.per_batch)
        requests = int(self.requests * scale)
        with bench.topic(broker, 1, flush_configs(broker, self.flush)) as topic:
            with sockets.Producers(broker, self.connections) as producers:
                figures = costed(
                    broker, lambda: producers.produce([(topic, 0)], batches, requests, ACKS_ALL, IN_FLIGHT),
                    **({"requests": requests} if self.per_batch == 1
                       else {"megabytes": requests * len(batches[0]) / 1e6}))
            sockets.check(broker, {(topic, 0): requests}, batches)
        return figures


@dataclass
class Consume(Case):
    """ConsumerPerformance over a topic that was written before, from memory or from the disk."""
    size: int = 1024
    batch: int = 16384
    megabytes: int = 480
    cold: bool = False

    def run(self, bench, broker, scale):
        payload = bench.payload(self.size)
        records = int(self.megabytes * MIB // self.size * scale)
        properties = {"acks": "1", "batch.size": self.batch, "linger.ms": 5}
        with bench.topic(broker) as topic:
            tools.produce(broker, topic, records, payload.path, properties)
            rdkafka.check(broker, topic, records, payload.lines)
            if self.cold:
                drop_page_cache()
            return costed(broker, lambda: tools.consume(broker, topic, records, self.size),
                          records * self.size / 1e6)


@dataclass
class FanOut(Case):
    """Consumers that each read one whole topic at the same time."""
    consumers: int = 50
    size: int = 1024
    megabytes: int = 16

    def run(self, bench, broker, scale):
        payload = bench.payload(self.size)
        records = int(self.megabytes * MIB // self.size * scale)
        with bench.topic(broker) as topic:
            tools.produce(broker, topic, records, payload.path, {"acks": "1", "linger.ms": 5})
            before = broker.cpu_seconds()
            figures, total = rdkafka.fan_out(broker, topic, self.consumers, payload.lines)
            figures["CPU ms/MB"] = (broker.cpu_seconds() - before) * 1e9 / total
        if total != records * self.size * self.consumers:
            raise WrongAnswer(f"{self.consumers} consumers read {total} bytes of {records} records")
        return figures


@dataclass
class EndToEnd(Case):
    """EndToEndLatency: one record at a time, from send to receive. It compares the bytes itself."""
    acks: str = "all"
    records: int = 5000
    size: int = 1024

    def run(self, bench, broker, scale):
        records = int(self.records * scale)
        with bench.topic(broker) as topic:
            figures = costed(
                broker, lambda: tools.end_to_end(broker, topic, records, self.acks, self.size),
                requests=records)
            rdkafka.check_count(broker, topic, records)
        return figures


@dataclass
class EndToEndMicros(Case):
    """The same with librdkafka in one process, which tells percentiles in µs; acks=all."""
    flush: bool = False
    records: int = 5000
    size: int = 1024

    def run(self, bench, broker, scale):
        payload = bench.payload(self.size)
        # At a scale below 1 too, since the 99.9th percentile of few records is one of them.
        records = max(int(self.records * scale), min(self.records, 2000))
        with bench.topic(broker, 1, flush_configs(broker, self.flush)) as topic:
            return rdkafka.end_to_end(broker, topic, records, payload.lines)


@dataclass
class Clicks(Case):
    """ProducerPerformance with JSON; in Ottla, if asked for, while a SQL job counts the records. The
    job's work is part of what the broker costs, until its result is there."""
    job: bool = False
    size: int = 224
    megabytes: int = 64

    def run(self, bench, broker, scale):
        payload = bench.clicks(self.size)
        records = int(self.megabytes * MIB // self.size * scale)
        megabytes = records * self.size / 1e6
        properties = {"acks": "all", "batch.size": 16384, "linger.ms": 5}
        with bench.topic(broker) as source, bench.topic(broker) as sink:
            def produce():
                return tools.produce(broker, source, records, payload.path, properties)

            if self.job and broker.http:
                return self.beside_job(broker, source, sink, records, payload.lines, produce, megabytes)
            figures = costed(broker, produce, megabytes)
            rdkafka.check(broker, source, records, payload.lines)
            return figures

    def beside_job(self, broker, source, sink, records, lines, produce, megabytes):
        def produce_and_count():
            began = time.monotonic()
            figures = produce()
            rdkafka.produce(broker, source, 1, [sql.LAST_LINE], 1, {"acks": "all"})
            # Each of the thousand lines is sent many times, so each window of each page has a row.
            rdkafka.await_records(broker, sink, len({sql.counted_in(line) for line in lines}))
            figures["job records/s"] = records / (time.monotonic() - began)
            return figures

        job = sql.Job(broker, source, sink)
        try:
            figures = costed(broker, produce_and_count, megabytes)
            sent, wanted = Counter(), Counter()
            rdkafka.check(broker, source, records + 1, lines | {sql.LAST_LINE}, sent)
            for line, count in sent.items():
                wanted[sql.counted_in(line)] += count
            # No later record closes the window of the last one.
            del wanted[sql.counted_in(sql.LAST_LINE)]
            if sql.counts(rdkafka.committed(broker, sink)) != wanted:
                raise WrongAnswer(f"the job's counts are not those of the {records} records in {source}")
        finally:
            job.cancel()
        return figures


@dataclass
class PartitionGrowth(Case):
    """Batches of 16 KiB, one per request, to ever more partitions in turn; in the end to one
    partition beside all others. What they cost relative to one partition alone."""
    acks: int = 1
    requests: int = 10_000

    def run(self, bench, broker, scale):
        batches = made_batches(bench.payload(1024), 16)
        figures = {}
        for level in (1, 16, 100, 1000, 10_000):
            topics = -(-level // TOPIC_PARTITIONS_MAX)
            with many(bench, broker, topics, level // topics) as names:
                places = [(name, partition) for name in names for partition in range(level // topics)]
                sent = Counter()
                figures[f"CPU ms/MB, {level:,} written"] = self.cost(broker, places, batches, scale, sent)
                if level == 10_000:
                    figures[f"CPU ms/MB, 1 of {level:,} written"] = self.cost(
                        broker, places[:1], batches, scale, sent)
                sockets.check(broker, sent, batches)
        return grown(figures)

    def cost(self, broker, places, batches, scale, sent):
        """CPU per MB over `places`; counts what was sent."""
        # The first batch of a partition makes its files, and the second one Kafka's indexes, which is
        # not what a batch costs.
        first = 2 * max(len(places), WARM_UP_REQUESTS // len(places) * len(places))
        then = max(int(self.requests * scale) // len(places), 1) * len(places)
        with sockets.Producers(broker) as producers:
            producers.produce(places, batches, first, self.acks, IN_FLIGHT)
            cost = passes(broker, lambda: producers.produce(places, batches, then, self.acks, IN_FLIGHT),
                          then * len(batches[0]) / 1e6)
        sent.update({place: (first + PASSES * then) // len(places) for place in places})
        return cost


@contextmanager
def many(bench, broker, topics, partitions):
    """Several topics, which are deleted in the end."""
    names = []
    try:
        for _ in range(topics):
            bench.number += 1
            rdkafka.create_topic(broker, f"bench-{bench.number}", partitions, {})
            names.append(f"bench-{bench.number}")
        yield names
    finally:
        for name in names:
            rdkafka.delete_topic(broker, name)


@dataclass
class ConnectionGrowth(Case):
    """Batches of 16 KiB, one per request, from ever more connections to one partition. What they cost
    relative to one connection."""
    acks: int = 1
    requests: int = 20_000

    def run(self, bench, broker, scale):
        batches = made_batches(bench.payload(1024), 16)
        figures = {}
        for level in (1, 100, 1000):
            # The first batch of a connection makes its buffers, which is not what a batch costs.
            first, then = max(level, WARM_UP_REQUESTS), max(int(self.requests * scale), 10 * level)
            with bench.topic(broker) as topic:
                place = topic, 0
                with sockets.Producers(broker, level) as producers:
                    producers.produce([place], batches, first, self.acks, IN_FLIGHT)
                    cost = passes(broker, lambda: producers.produce([place], batches, then, self.acks, IN_FLIGHT),
                                  then * len(batches[0]) / 1e6)
                sockets.check(broker, {place: first + PASSES * then}, batches)
            figures[f"CPU ms/MB, {level:,} producing"] = cost
        return grown(figures)


def passes(broker, work, megabytes):
    """CPU ms/MB of some work, the median of a few passes: a ratio of two single ones would be mostly
    noise."""
    return statistics.median(costed(broker, work, megabytes)["CPU ms/MB"] for _ in range(PASSES))


def grown(figures):
    """Adds the largest cost relative to the first."""
    costs = list(figures.values())
    return {**figures, "most relative to 1": max(costs) / costs[0]}


def made_batches(payload, per_batch):
    """Some batches of different records; few, since Python's checksums take time."""
    lines = sorted(payload.lines)
    return [sockets.batch(lines[at:at + per_batch]) for at in range(0, 8 * per_batch, per_batch)]


def drop_page_cache():
    """Makes the next reads come from the disk; needs root."""
    subprocess.run(["sync"], check=True)
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1")
    except OSError as error:
        raise RuntimeError(f"the page cache could not be dropped ({error}): run as root, or leave "
                           "the cold cases out with --case") from error
    time.sleep(1)


KAFKA_FLUSHES = "(Kafka: flush per message)"
CASES = [
    Produce("produce, 1 KiB records, 16 KiB batches, acks=1", acks="1"),
    Produce("produce, 1 KiB records, 16 KiB batches, acks=all", quick=True),
    Produce("produce, 1 KiB records, 16 KiB batches, acks=all, 16 partitions", partitions=16),
    Produce("produce, 1 KiB records, 16 KiB batches, acks=all, 100 partitions", partitions=100),
    Produce("produce, 1 KiB records, 256 KiB batches, acks=1", batch=262144, acks="1", megabytes=480),
    Produce("produce, 1 KiB records, 256 KiB batches, acks=all", quick=True, batch=262144, megabytes=480),
    Produce("produce, 100 B records, 16 KiB batches, acks=all", size=100, megabytes=60),
    Produce("produce, 100 B records, 256 KiB batches, acks=all", size=100, batch=262144, megabytes=60),
    Produce("produce, lz4, 1 KiB records, 16 KiB batches, acks=all", compression="lz4"),
    Produce("produce, zstd, 1 KiB records, 16 KiB batches, acks=all", compression="zstd"),
    Produce("produce, one 1 KiB record per request, acks=1", batch=0, acks="1", records=40_000),
    Produce("produce, one 1 KiB record per request, acks=all", quick=True, batch=0, records=40_000),
    Produce("produce beside 1,000 idle connections, 16 KiB batches, acks=all", idle=1000),
    Clicks("produce JSON, 224 B records, 16 KiB batches, acks=all"),
    Clicks("produce JSON while a SQL job counts it (Kafka: no job)", quick=True, job=True),
    Produce(f"durable produce, 16 KiB batches {KAFKA_FLUSHES}", quick=True, flush=True, megabytes=80),
    Produce(f"durable produce, 256 KiB batches {KAFKA_FLUSHES}", flush=True, batch=262144),
    Produce(f"durable produce, one record per request {KAFKA_FLUSHES}", quick=True, flush=True, batch=0,
            records=10_000),
    Sockets(f"durable produce, 16 connections, 16 KiB batches {KAFKA_FLUSHES}", flush=True, per_batch=16,
            requests=10_000),
    Sockets(f"durable produce, 16 connections, one record per request {KAFKA_FLUSHES}", quick=True, flush=True),
    Connections(f"durable produce, librdkafka, 16 connections, one record per request {KAFKA_FLUSHES}",
                flush=True, records=16_000),
    Connections("produce, librdkafka, 16 connections, one record per request, acks=all"),
    Consume("consume, 1 KiB records, 16 KiB batches, hot", quick=True),
    Consume("consume, 1 KiB records, 256 KiB batches, hot", quick=True, batch=262144),
    Consume("consume, 1 KiB records, 256 KiB batches, cold", batch=262144, cold=True),
    Consume("consume, 100 B records, 16 KiB batches, hot", size=100, megabytes=100),
    FanOut("50 consumers of one topic, librdkafka"),
    EndToEnd("end to end, 1 KiB, acks=1", acks="1"),
    EndToEnd("end to end, 1 KiB, acks=all"),
    EndToEndMicros("end to end, librdkafka, 1 KiB, acks=all", quick=True),
    EndToEndMicros(f"end to end, librdkafka, 1 KiB, acks=all {KAFKA_FLUSHES}", flush=True),
    ConnectionGrowth("1 to 1,000 producing connections, acks=1", quick=True),
    PartitionGrowth("1 to 10,000 partitions, acks=1", quick=True),
    PartitionGrowth("1 to 10,000 partitions, acks=all", acks=ACKS_ALL),
]
