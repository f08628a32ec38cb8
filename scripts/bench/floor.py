"""Ottla and Kafka beside the least that a broker can do; see scripts/bench-floor."""
import json, os, shutil, subprocess, sys, tempfile
from datetime import date

import brokers, rdkafka, report, tools
from cases import Bench, costed
from figures import median, ratio, shown, spread

ROUNDS = 3
# Records of 1 KiB: what a batch is called, its size, and records sent.
BATCHES = [("one record per request", 0, 20_000), ("16 KiB batches", 16384, 120_000),
           ("256 KiB batches", 262144, 240_000)]
# What the floor does before it answers, where a broker is asked for `acks`.
WORK = {"1": "written", "all": "synced"}
SERVERS = ["the floor", "Ottla", "Apache Kafka"]


def build():
    """The floor's release binary; Ottla's is built with it."""
    brokers.build()
    built = subprocess.run(["cargo", "bench", "--no-run", "--locked", "--bench", "floor", "--message-format=json"],
                           cwd=brokers.ROOT, check=True, text=True, stdout=subprocess.PIPE,
                           env={**os.environ, "CARGO_TARGET_DIR": str(brokers.TARGET)})
    made = (json.loads(line) for line in built.stdout.splitlines() if line.startswith("{"))
    return next(made["executable"] for made in made
                if made["reason"] == "compiler-artifact" and made["target"]["name"] == "floor" and made["executable"])


def started(binary, data):
    floors = {acks: brokers.Broker("the floor", [binary, work, f"{data}/{work}"], "floor ready")
              for acks, work in WORK.items()}
    ottla, kafka = brokers.ottla(f"{data}/ottla"), brokers.kafka()
    return {(server, acks): {"the floor": floors[acks], "Ottla": ottla, "Apache Kafka": kafka}[server]
            for server in SERVERS for acks in WORK}


def cost(bench, broker, batch, acks, records):
    """The broker's CPU, µs per request or ms per MB, and MB/s, while Kafka's producer sends records of 1 KiB."""
    payload = bench.payload(1024)
    properties = {"acks": acks, "batch.size": batch, "linger.ms": 5 if batch else 0}
    bench.number += 1
    topic = f"floor-{bench.number}"
    is_broker = broker.name != "the floor"
    if is_broker:
        rdkafka.create_topic(broker, topic, 1, {})
    figures = costed(broker, lambda: tools.produce(broker, topic, records, payload.path, properties),
                     records * 1024 / 1e6)
    if is_broker:
        rdkafka.check(broker, topic, records, payload.lines)
        rdkafka.delete_topic(broker, topic)
    return figures["CPU ms/MB"] * (1 if batch else 1.024), figures["MB/s"]


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    data, bench, running = tempfile.mkdtemp(prefix="ottla-floor-"), Bench(), {}
    costs, rates = {}, {}
    try:
        running = started(build(), data)
        for number in range(rounds + 1):
            for name, batch, records in BATCHES:
                for acks in WORK:
                    for server in SERVERS if number % 2 else SERVERS[::-1]:
                        # The first round warms up.
                        spent, rate = cost(bench, running[server, acks], batch, acks, records)
                        print(f"round {number} of {rounds}, {name}, acks={acks}, {server}: {spent:.2f} "
                              f"{'ms/MB' if batch else 'ms per 1,000 requests'}, {rate:.1f} MB/s", flush=True)
                        if number:
                            costs.setdefault((name, acks), {}).setdefault(server, []).append(spent)
                            rates.setdefault((name, acks), {}).setdefault(server, []).append(rate)
    finally:
        for broker in set(running.values()):
            broker.stop()
        bench.close()
        shutil.rmtree(data, ignore_errors=True)
    # A request of one record: ms per MB of 1,000 records is µs per request.
    tables = (tabled(costs, "CPU ms/MB", "CPU, producing 1 KiB records", "Kafka ÷ floor", "Kafka ÷ Ottla",
                     lambda batch: "ms/MB" if batch else "µs"),
              tabled(rates, "MB/s", "throughput, the same work", "floor ÷ Kafka", "Ottla ÷ Kafka", lambda _: "MB/s"))
    print("\n" + "\n\n".join(tables))
    if len(sys.argv) == 1:
        (report.FOLDER / "floor.md").write_text(text(tables, rounds))


def tabled(measured, figure, work, of_floor, of_ottla, unit):
    """A row for each kind of batch and acks: medians, and how many times better than Kafka."""
    lines = [f"| {work} | the floor | Ottla | Apache Kafka | {of_floor} | {of_ottla} |", "|---|---:|---:|---:|---:|---:|"]
    for name, batch, _ in BATCHES:
        for acks in WORK:
            floor, ottla, kafka = (measured[name, acks][server] for server in SERVERS)
            cells = " | ".join(f"{shown(median(values))} {unit(batch)}" for values in (floor, ottla, kafka))
            better = " | ".join(spread(ratio(figure, ours, kafka)) for ours in (floor, ottla))
            lines.append(f"| {name}, acks={acks} | {cells} | {better} |")
    return "\n".join(lines)


def text(tables, rounds):
    costs, rates = tables
    return f"""# The floor under a broker's cost

`scripts/bench-floor` on {date.today()}: {report.machine()}. Medians of {rounds} rounds after one that warms up,
all servers in turn under Kafka's own producer. **The floor** is [benches/floor.rs](../../benches/floor.rs): one
blocking thread per connection that receives, writes to the page cache, and answers; with `acks=all` it writes
past the page cache instead, over blocks that its file has, and syncs what it has read together: nobody could
read that back. It checks nothing and keeps no log, so what it costs is the kernel's part. Kafka answers from the
page cache in every row.

{costs}

`Kafka ÷ floor` is about the most that a broker could reach beside Kafka here: this is the cheapest server that we
could write.

{rates}

The producer has five requests in flight and works on the same two cores. Where the floor is no faster than Kafka,
the time is the producer's, or that of a sync that it waits for.
"""


main()
