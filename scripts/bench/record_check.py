"""The check of produced records, as a share of the broker's CPU; see scripts/bench-record-check."""
import os, random, re, shutil, subprocess, sys, tempfile, threading, time, urllib.request
from pathlib import Path

from confluent_kafka import Producer

import brokers, rdkafka

SECONDS = 12
# Functions that only the check calls while records are produced: the walk, and the decompressors. Copies that a
# decompressor makes with memcpy are not among them.
CHECK = re.compile(r"format::(walk|admit|raw_records|inflating|compression|varint)|miniz_oxide|flate2::|snap::|lz4_flex"
                   r"|ZSTD_|HUF_|FSE_")
# Record size, batch size.
WORK = [(1024, 1024), (1024, 16384), (100, 16384)]
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]


def values(size):
    """Texts of words in no order, which compress to about a half."""
    source = random.Random(1)
    words = [f"{source.randrange(4096):x}" for _ in range(20_000)]
    for _ in range(500):
        first = source.randrange(len(words) - size)
        yield " ".join(words[first:first + size])[:size].encode()


class Load:
    """A producer that sends as fast as it can; for use with `with`."""

    def __init__(self, broker, codec, size, batch):
        self.stop, self.values = threading.Event(), list(values(size))
        self.producer = Producer({
            "bootstrap.servers": broker.address, "acks": 1, "compression.codec": codec, "batch.size": batch,
            "batch.num.messages": max(1, batch // size), "linger.ms": 0 if batch == size else 5,
            "queue.buffering.max.messages": 20_000, **rdkafka.QUIET})

    def __enter__(self):
        self.thread = threading.Thread(target=self.send)
        self.thread.start()

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()
        self.producer.flush(30)

    def send(self):
        while not self.stop.is_set():
            for value in self.values:
                while True:
                    try:
                        self.producer.produce("checked", value)
                        break
                    except BufferError:
                        self.producer.poll(0.01)
            self.producer.poll(0)


def counted(broker):
    """Produce requests answered and records appended so far."""
    metrics = urllib.request.urlopen(f"http://{broker.http}/metrics").read().decode().splitlines()

    def total(name, label=""):
        return sum(float(line.rsplit(" ", 1)[1]) for line in metrics if line.startswith(name) and label in line)
    return total("ottla_requests_total", "Produce"), total("ottla_topic_records_in_total")


def measure(binary, codec, size, batch):
    data = tempfile.mkdtemp(prefix="ottla-record-check-")
    broker = brokers.ottla(f"{data}/data", binary)
    try:
        rdkafka.create_topic(broker, "checked", 1, {})
        with Load(broker, codec, size, batch):
            time.sleep(2)
            (requests, records), cpu = counted(broker), broker.cpu_seconds()
            subprocess.run(["perf", "record", "-q", "-F", "997", "-e", "cpu-clock", "-p", str(broker.process.pid),
                            "-o", f"{data}/perf", "--", "sleep", str(SECONDS)], check=True, stderr=subprocess.DEVNULL)
            cpu = broker.cpu_seconds() - cpu
            requests, records = (after - before for after, before in zip(counted(broker), (requests, records)))
        reported = subprocess.run(["perf", "report", "-q", "--no-children", "--sort", "symbol", "--stdio",
                                   "-i", f"{data}/perf"], check=True, text=True, capture_output=True).stdout
    finally:
        broker.stop()
        shutil.rmtree(data, ignore_errors=True)
    rows = re.findall(r"^\s*([\d.]+)%\s+\[.\]\s+(.*?)\s*$", reported, re.MULTILINE)
    share = sum(float(percent) for percent, symbol in rows if CHECK.search(symbol))
    print(f"| {codec} | {size:,} B | {records / requests:.0f} | {cpu / requests * 1e6:.1f} µs "
          f"| {cpu / records * share / 100 * 1e9:,.0f} ns | {share:.1f} % |", flush=True)


def main():
    binary = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else brokers.TARGET / "release/ottla"
    print("| codec | records | in a request | CPU per request | check per record | share of the CPU |")
    print("|---|---:|---:|---:|---:|---:|")
    for codec in CODECS:
        for size, batch in WORK:
            if codec == "none" or batch > size:
                measure(binary, codec, size, batch)
    print(f"\nload average {os.getloadavg()[0]:.1f}")


main()
