"""Heartbeats and memory of a broker under two attacks on sockets; see scripts/bench-attacks."""
import argparse, multiprocessing, os, random, shutil, socket, struct, sys, tempfile, threading, time
from pathlib import Path

import brokers, rdkafka, report
from figures import median, percentile
from sockets import answer, batch, connect, produce_request, request, text

JOIN_GROUP, HEARTBEAT, SYNC_GROUP, PRODUCE, FETCH = 11, 12, 14, 0, 1
# A member heartbeats so often here, to see every delay; clients do it every three seconds.
HEARTBEAT_EVERY = 0.01
ATTACK_SECONDS = 20
# What the broker needs to give memory back, once the attackers are gone.
SETTLE_SECONDS = 5
ANNOUNCED = 2 << 20
PARTITIONS, FETCHED = 8, 55 << 20


def member_of_group(broker, group):
    """A connection, and the body of the heartbeat of the only member of `group`."""
    connection = connect(broker)

    def call(key, body):
        connection.sendall(request(key, 0, 1, body))
        received = answer(connection)[4:]
        error, = struct.unpack_from(">h", received)
        if error:
            raise SystemExit(f"bench-attacks: request {key} was answered with error {error}")
        return received[2:]

    def strings(data, count):
        for _ in range(count):
            length, = struct.unpack_from(">h", data)
            yield data[2:2 + length].decode()
            data = data[2 + length:]

    joined = call(JOIN_GROUP, text(group) + struct.pack(">i", 30_000) + text("") + text("bench")
                  + struct.pack(">i", 1) + text("range") + struct.pack(">i", 0))
    generation, = struct.unpack_from(">i", joined)
    *_, member = strings(joined[4:], 3)
    who = text(group) + struct.pack(">i", generation) + text(member)
    call(SYNC_GROUP, who + struct.pack(">i", 1) + text(member) + struct.pack(">i", 0))
    return connection, who


def heartbeats(broker, stop, told):
    """Heartbeats until `stop` is set; tells how long each took, in seconds, and what ended them early."""
    connection, who = member_of_group(broker, f"attacked-{os.getpid()}")
    took, fault = [], None
    told.send(None)
    try:
        while not stop.is_set():
            began = time.perf_counter()
            connection.sendall(request(HEARTBEAT, 0, 1, who))
            error, = struct.unpack_from(">h", answer(connection), 4)
            took.append(time.perf_counter() - began)
            if error:
                fault = f"error {error}"
                break
            time.sleep(HEARTBEAT_EVERY)
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
    told.send((took, fault))


class Address:
    """What a process needs of a broker to connect to it."""

    def __init__(self, broker):
        self.address = broker.address


def announced(broker, sent):
    """Begins frames of 2 MiB on 300 connections, and sends `sent` bytes of each, as far as they are taken."""
    head = struct.pack(">ihhi", ANNOUNCED, PRODUCE, 9, 1) + b"\0\0\0"
    frame = head + bytes(sent - len(head))

    def begin():
        connection = connect(broker)
        connection.settimeout(0.02)
        try:
            connection.sendall(frame)
        except OSError:
            pass  # The broker reads no further, or has given up on the frame.
        return connection

    return [begin() for _ in range(300)]


def unread(broker, topic):
    """60 connections that ask for 55 MiB of all partitions and read none of it."""
    partitions = b"".join(struct.pack(">iqi", number, 0, 8 << 20) for number in range(PARTITIONS))
    body = struct.pack(">iiiibi", -1, 500, 1, FETCHED, 0, 1) + text(topic) + struct.pack(">i", PARTITIONS) + partitions

    def ask():
        connection = connect(broker)
        connection.sendall(request(FETCH, 4, 1, body))
        return connection

    return [ask() for _ in range(60)]


ATTACKS = {
    "nobody else": lambda broker, topic: [],
    "300 sockets send 16 KiB of 2 MiB": lambda broker, topic: announced(broker, 16 << 10),
    "300 sockets send 20 KiB of 2 MiB": lambda broker, topic: announced(broker, 20 << 10),
    "300 sockets send all but a byte of 2 MiB": lambda broker, topic: announced(broker, ANNOUNCED + 3),
    "60 sockets fetch 55 MiB and read nothing": unread,
}


def fill(broker, topic):
    """More than an answer asks for, in batches of about 1 MB."""
    rdkafka.create_topic(broker, topic, PARTITIONS, {})
    records = batch([random.Random(1).randbytes(10_000) for _ in range(100)])
    connection = connect(broker)
    for number in range(PARTITIONS * 9):
        connection.sendall(produce_request(number, topic, number % PARTITIONS, 1, records))
        answer(connection)
    connection.close()


class Memory:
    """Samples the broker's resident memory; for use with `with`."""

    def __init__(self, broker):
        self.broker, self.most, self.stop = broker, 0, threading.Event()

    def __enter__(self):
        def sample():
            while not self.stop.wait(0.02):
                self.most = max(self.most, self.broker.memory_mib())
        self.thread = threading.Thread(target=sample)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join()


def started(ahead, start):
    """What `start` gives. If `ahead`, what it starts runs before all else on the machine; attackers do not."""
    if not ahead:
        return start()
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    try:
        return start()
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def attack(broker, topic, begin, ahead):
    """Figures of one attack."""
    before = broker.memory_mib()
    stop, (ours, theirs) = multiprocessing.Event(), multiprocessing.Pipe()
    process = multiprocessing.Process(target=heartbeats, args=(Address(broker), stop, theirs))
    started(ahead, process.start)
    ours.recv()
    with Memory(broker) as memory:
        attackers = begin(broker, topic)
        time.sleep(ATTACK_SECONDS)
        stop.set()
        took, fault = ours.recv()
    process.join()
    for connection in attackers:
        connection.close()
    time.sleep(SETTLE_SECONDS)
    ordered = sorted(took) or [float("nan")]
    return {"beats": len(took), "p50": percentile(ordered, 0.5) * 1e3, "p99": percentile(ordered, 0.99) * 1e3,
            "max": ordered[-1] * 1e3, "fault": fault, "before": before, "most": memory.most,
            "after": broker.memory_mib(), "load": os.getloadavg()[0]}


def table(results):
    yield "| attack | | heartbeats | p50 ms | p99 ms | max ms | memory before | most | after |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|"
    for (name, broker), rounds in results.items():
        figures = {key: median([one[key] for one in rounds]) for key in ("p50", "p99", "before", "most", "after")}
        worst = max(one["max"] for one in rounds)
        faults = "; ".join(sorted({one["fault"] for one in rounds if one["fault"]}))
        yield (f"| {name} | {broker}{f' ({faults})' if faults else ''} | {sum(one['beats'] for one in rounds):,} "
               f"| {figures['p50']:.2f} | {figures['p99']:.2f} | {worst:.1f} "
               f"| {figures['before']:.0f} MiB | {figures['most']:.0f} MiB | {figures['after']:.0f} MiB |")


def main():
    parser = argparse.ArgumentParser(prog="bench-attacks")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--binary", type=Path)
    parser.add_argument("--beside", type=Path, metavar="BINARY")
    parser.add_argument("--ahead", action="store_true",
                        help="broker and member run before all else, where the machine does other work; for root")
    parser.add_argument("--attack", default="", help="only attacks whose name contains this")
    asked = parser.parse_args()
    if not asked.binary:
        brokers.build()
    binaries = {"Ottla": asked.binary or brokers.TARGET / "release/ottla"}
    if asked.beside:
        binaries[brokers.BESIDE] = asked.beside
    results, loads = {}, []
    for number in range(asked.rounds or 3):
        for name, begin in ATTACKS.items():
            if asked.attack not in name:
                continue
            for title, binary in binaries.items():
                data = tempfile.mkdtemp(prefix="ottla-attacks-")
                broker = started(asked.ahead, lambda: brokers.ottla(f"{data}/{number}", binary.resolve(), title))
                try:
                    fill(broker, "attacked")
                    time.sleep(2)
                    figures = attack(broker, "attacked", begin, asked.ahead)
                finally:
                    broker.stop()
                    shutil.rmtree(data, ignore_errors=True)
                print(f"[round {number + 1}] {name}, {title}: {figures}", file=sys.stderr, flush=True)
                results.setdefault((name, title), []).append(figures)
                loads.append(figures["load"])
    lines = "\n".join(table(results))
    print(f"{lines}\n\nload average {min(loads):.1f} to {max(loads):.1f}")
    if not asked.rounds and not asked.attack:
        write(lines, max(loads), asked.ahead)


def write(lines, load, ahead):
    (brokers.ROOT / "docs/benchmarks/attacks.md").write_text(f"""# Heartbeats and memory under attack

`scripts/bench-attacks` on {report.date.today()}: {report.machine()}. Three rounds, a fresh broker for each attack, over
loopback. A member of a group heartbeats every 10 ms from a process of its own while the attackers hold their
connections for {ATTACK_SECONDS} s; p50 and p99 are medians of the rounds, the maximum is that of all heartbeats. The
memory (resident) after the attack is that of {SETTLE_SECONDS} s after the last attacker has left. The load average was
up to {load:.1f}{"; broker and member ran before the other work of the machine (SCHED_RR)" if ahead else ""}.

{lines}

Bounds: frames of up to 2 MiB get 224 MiB of memory in all and each connection 192 KiB besides; unread answers get
`queued.max.response.bytes`, 256 MiB here ([running Ottla](../running.md)). Freed memory goes back to the allocator, which
returns it to the system later.
""")


if __name__ == "__main__":
    main()
