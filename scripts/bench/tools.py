"""Kafka's own perf tools, run as processes of their own, and what they report."""
import re, subprocess
from brokers import CACHE

PACKAGE = "org.apache.kafka.tools."


class ToolFailed(Exception):
    """A tool ended with an error, or said something else than expected."""


def run(tool, *arguments, timeout=300):
    classpath = (CACHE / "java/reference-kafka/classpath").read_text().strip()
    command = ["java", "-Xms256m", "-Xmx512m", "-XX:+UseG1GC", "-cp", classpath,
               PACKAGE + tool, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    if done.returncode:
        raise ToolFailed(f"{tool} ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-1500:]}")
    return done.stdout


def produce(broker, topic, records, payload, properties):
    """MB/s and latencies in ms of ProducerPerformance; its first fifth is its own warm-up."""
    settings = [f"{key}={value}" for key, value in properties.items()]
    text = run("ProducerPerformance", "--bootstrap-server", broker.address, "--topic", topic,
               "--num-records", records, "--payload-file", payload, "--throughput", -1,
               "--warmup-records", records // 5, "--command-property", *settings)
    last = [line for line in text.splitlines() if "99.9th" in line][-1]
    number = r"([\d.,]+)"
    found = re.search(rf"\({number} MB/sec\).*?{number} ms 50th.*?{number} ms 99th, {number} ms 99.9th", last)
    if not found:
        raise ToolFailed(f"ProducerPerformance said: {last}")
    rate, p50, p99, p999 = (float(text.replace(",", "")) for text in found.groups())
    return {"MB/s": rate * 1.048576, "p50 ms": p50, "p99 ms": p99, "p99.9 ms": p999}


def consume(broker, topic, records, size):
    """MB/s of ConsumerPerformance, without the time of joining the group; it checks each CRC."""
    text = run("ConsumerPerformance", "--bootstrap-server", broker.address, "--topic", topic,
               "--num-records", records, "--timeout", 30000, "--hide-header")
    fields = [field.strip() for field in text.strip().splitlines()[-1].split(",")]
    megabytes = records * size / 2**20
    if int(float(fields[4])) != records or abs(float(fields[2]) - megabytes) > 0.001:
        raise ToolFailed(f"ConsumerPerformance read {fields[4]} records and {fields[2]} MiB "
                         f"where there are {records} and {megabytes:.4f}")
    return {"MB/s": float(fields[8]) * 1.048576}


def end_to_end(broker, topic, records, acks, size):
    """Microseconds on average, and ms at the percentiles that EndToEndLatency knows."""
    text = run("EndToEndLatency", broker.address, topic, records, acks, size)
    average = re.search(r"Avg latency: ([\d.]+) ms", text)
    tail = re.search(r"50th = (\d+), 99th = (\d+), 99.9th = (\d+)", text)
    if not (average and tail):
        raise ToolFailed(f"EndToEndLatency said: {text[-500:]}")
    p50, p99, p999 = map(float, tail.groups())
    return {"avg µs": float(average[1]) * 1000, "p50 ms": p50, "p99 ms": p99, "p99.9 ms": p999}
