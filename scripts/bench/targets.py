"""What Ottla is to reach beside Apache Kafka, and whether a run shows it."""
from dataclasses import dataclass

from cases import CASES, KAFKA_FLUSHES, ConnectionGrowth, PartitionGrowth, Produce, Sockets
from figures import median, ratio


@dataclass
class Target:
    """A figure of some cases, of which the worst counts. Either how many times better than Kafka the
    median of the rounds must be, or what Ottla's own median may be at most."""
    work: str
    figure: str
    cases: list
    times: float = None
    most: float = None
    # The heading in docs/benchmarks/missed.md that says why it is missed, should it be.
    why: str = ""

    def unit(self):
        return "times" if self.figure.endswith(" to 1") else self.figure.split()[-1]

    def goal(self):
        if self.most is not None:
            return f"at most {self.most:g} {self.unit()}"
        return "not below" if self.times == 1 else f"{self.times:g} times better"


@dataclass
class Outcome:
    """One row of the table; `met` is None when the run has no figures for it."""
    target: Target
    ours: float = None
    theirs: float = None
    times: tuple = None
    met: bool = None


def judge(target, results):
    """The target's worst case in a run."""
    outcomes = []
    for case in target.cases:
        runs = results.get(case, {})
        ours, theirs = ([run.get(target.figure) if run else None for run in runs.get(broker, [])]
                        for broker in ("Ottla", "Apache Kafka"))
        outcome = Outcome(target, median(ours), median(theirs), ratio(target.figure, ours, theirs))
        if target.most is not None and outcome.ours is not None:
            outcome.met = outcome.ours <= target.most
        elif target.most is None and outcome.times:
            outcome.met = outcome.times[0] >= target.times
        if outcome.met is not None:
            outcomes.append(outcome)
    worst = (lambda o: -o.ours) if target.most is not None else (lambda o: o.times[0])
    return min(outcomes, key=worst, default=Outcome(target))


def named(kind, having=lambda case: True):
    return [case.name for case in CASES if type(case) is kind and having(case)]


def plain(case):
    """A produce case with nothing but its batch size to set it apart."""
    return (case.size, case.partitions, case.compression, case.idle, case.flush) == (1024, 1, "none", 0, False)


CONSUME = ["consume, 1 KiB records, 16 KiB batches, hot", "consume, 1 KiB records, 256 KiB batches, hot"]
END_TO_END = ["end to end, librdkafka, 1 KiB, acks=all"]
TARGETS = [
    *(Target(f"broker CPU, produce, {name}, acks={acks}", figure,
             named(Produce, lambda case: plain(case) and (case.batch, case.acks) == (batch, acks)), times=times,
             why="cpu-of-producing")
      for name, batch, figure, times in (("16 KiB batches", 16384, "CPU ms/MB", 6),
                                         ("256 KiB batches", 262144, "CPU ms/MB", 8),
                                         ("one record per request", 0, "CPU µs/request", 5))
      for acks in ("1", "all")),
    Target("broker CPU, consume", "CPU ms/MB", CONSUME, times=2, why="cpu-of-consuming"),
    Target("produce throughput, any setting, Kafka in the page cache", "MB/s",
           named(Produce, lambda case: not case.flush), times=1, why="throughput"),
    Target("durable produce, 16 KiB batches", "MB/s", [f"durable produce, 16 KiB batches {KAFKA_FLUSHES}"], times=5,
           why="durable-produce"),
    Target("durable produce, one record per request", "MB/s",
           [f"durable produce, one record per request {KAFKA_FLUSHES}"], times=5, why="durable-produce"),
    Target("durable produce, 16 connections", "records/s", named(Sockets), times=10),
    Target("end to end, acks=all, 99th percentile", "p99 µs", END_TO_END, times=3, why="end-to-end"),
    Target("end to end, acks=all, 99.9th percentile", "p99.9 µs", END_TO_END, times=3, why="end-to-end"),
    Target("start, until ready", "ms", ["start, until ready"], most=50),
    Target("memory, idle", "MiB", ["memory, idle"], most=32),
    Target("memory, after the whole run", "MiB", ["memory, at the end"], most=200),
    Target("CPU per MB, 1 to 10,000 partitions", "most relative to 1", named(PartitionGrowth), most=1.33, why="growth"),
    Target("CPU per MB, 1 to 1,000 connections", "most relative to 1", named(ConnectionGrowth), most=1.33),
]
