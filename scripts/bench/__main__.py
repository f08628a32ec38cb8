"""Runs the cases on both brokers in turn; see scripts/bench-vs-kafka."""
import argparse, shutil, sys, tempfile, time
from pathlib import Path

import brokers, report
from cases import CASES, Bench, PartitionGrowth
from figures import shown

QUICK_SCALE = 0.5
# Fresh memory is dear and Kafka's code is compiled as it runs: both are behind them after so much.
WARM_UP_SCALE = 0.25


def arguments():
    parser = argparse.ArgumentParser(prog="bench-vs-kafka")
    parser.add_argument("--quick", action="store_true",
                        help="the cases that carry the targets, half of the records, one counted round")
    parser.add_argument("--rounds", type=int, help="counted rounds (3; with --quick 1)")
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--only", choices=["ottla", "kafka"], help="one broker, no report")
    parser.add_argument("--beside", type=Path, metavar="BINARY",
                        help="another release binary of Ottla in Kafka's place, no report")
    parser.add_argument("--scale", type=float, help="records of each case, relative (1; with --quick 0.5)")
    parser.add_argument("--no-build", action="store_true", help="measure the release binary as it is")
    parser.add_argument("--report", type=Path, metavar="FOLDER",
                        help="write the report there, also of a run of some cases (docs/benchmarks after a full run)")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    asked = parser.parse_args()
    if asked.beside and asked.only:
        parser.error("--beside takes two brokers, --only one: leave one of them out")
    if asked.beside and not asked.beside.is_file():
        parser.error(f"--beside: there is no binary {asked.beside}, build one with cargo build --release")
    asked.rounds = asked.rounds or (1 if asked.quick else 3)
    asked.scale = asked.scale or (QUICK_SCALE if asked.quick else 1)
    return asked


class Progress:
    """How long the rest of a run takes if it goes on as it did."""

    def __init__(self, plan, warm_up_share):
        self.plan, self.warm_up_share = plan, warm_up_share
        self.took = {}

    def factor(self, number):
        # Starting clients takes as long in a warm-up, so it is no full share of a counted round.
        return 1 if number else (1 + self.warm_up_share) / 2

    def note(self, number, case, seconds):
        """A case took so long on all brokers together."""
        self.took[case.name] = seconds / self.factor(number)

    def left(self, done):
        """Words for the rest of the plan; none as long as nothing is known."""
        if not self.took:
            return ""
        usual = sum(self.took.values()) / len(self.took)
        seconds = sum(self.took.get(case.name, usual) * self.factor(number) for number, case in self.plan[done:])
        return f", about {seconds / 60:.0f} min left"


def planned(cases, rounds):
    """(round, case) in order; round 0 warms up. Thousands of partitions take Kafka minutes, and keep
    it busy after they are deleted: such cases come once, when all others are through."""
    once = [case for case in cases if isinstance(case, PartitionGrowth)]
    rest = [case for case in cases if case not in once]
    return [(number, case) for number in range(rounds + 1) for case in rest] + [(1, case) for case in once]


def attempt(bench, broker, case, scale):
    """The figures of a case, or None and what went wrong."""
    try:
        if broker.has_ended():
            raise RuntimeError(f"the broker has ended: {''.join(broker.last_lines)[-1500:]}")
        return case.run(bench, broker, scale), None
    # Whatever it is, it is this case's failure; the others go on.
    except Exception as error:
        return None, f"{type(error).__name__}: {error}"


def measure(bench, running, cases, rounds, scale):
    """results[case][broker] = figures of each counted round, None where it failed; and what failed."""
    results = {case.name: {broker.name: [] for broker in running} for case in cases}
    failures, plan = [], planned(cases, rounds)
    warm_up = min(WARM_UP_SCALE, scale)
    progress = Progress(plan, warm_up / scale)
    for done, (number, case) in enumerate(plan):
        told = f"round {number} of {rounds}" if number else "warm-up"
        print(f"[{told}, case {cases.index(case) + 1} of {len(cases)}{progress.left(done)}] {case.name}", flush=True)
        case_began = time.monotonic()
        # The one that begins changes, so that none always finds the machine the other left.
        for broker in running if done % 2 == 0 else running[::-1]:
            began = time.monotonic()
            figures, failure = attempt(bench, broker, case, scale if number else warm_up)
            if failure:
                failures.append(f"{case.name}, {broker.name}, {told}: {failure}")
            said = f"FAILED: {failure}" if failure else "  ".join(
                f"{name} {shown(value)}" for name, value in figures.items())
            print(f"  {broker.name:12} {time.monotonic() - began:5.1f} s  {said}", flush=True)
            if number:
                results[case.name][broker.name].append(figures)
        progress.note(number, case, time.monotonic() - case_began)
    return results, failures


def start(name, rounds, data, beside):
    """Starts a broker some times, the first to warm up; the last one, running, and the times in ms."""
    starts = {
        "ottla": brokers.ottla,
        "beside": lambda data: brokers.ottla(data, beside.resolve(), brokers.BESIDE),
        "kafka": lambda _: brokers.kafka(),
    }
    took = []
    for number in range(rounds + 1):
        broker = starts[name](f"{data}/{name}-{number}")
        took.append(broker.start_ms)
        if number < rounds:
            broker.stop()
    return broker, took[1:]


def main():
    asked = arguments()
    cases = [case for case in CASES if asked.case in case.name and (case.quick or not asked.quick)]
    if asked.list or not cases:
        print("\n".join(case.name for case in (cases or CASES)))
        sys.exit(0 if asked.list else f"bench-vs-kafka: no case contains '{asked.case}'")
    if asked.only != "kafka" and not asked.no_build:
        brokers.build()
    began = time.monotonic()
    data, bench, running, starts = tempfile.mkdtemp(prefix="ottla-bench-"), Bench(), [], {}
    try:
        for name in [asked.only] if asked.only else ["ottla", "beside" if asked.beside else "kafka"]:
            print(f"starting {name}", flush=True)
            broker, took = start(name, asked.rounds, data, asked.beside)
            running.append(broker)
            starts[broker.name] = [{"ms": ms} for ms in took]
        time.sleep(3)
        idle = {broker.name: broker.memory_mib() for broker in running}
        results, failures = measure(bench, running, cases, asked.rounds, asked.scale)
        there = [broker for broker in running if not broker.has_ended()]
        whole = {
            "start, until ready": starts,
            "memory, idle": {broker.name: [{"MiB": idle[broker.name]}] for broker in running},
            "memory, most during the run": {b.name: [{"MiB": b.memory_mib("VmHWM")}] for b in there},
            "memory, at the end": {b.name: [{"MiB": b.memory_mib()}] for b in there},
        }
    finally:
        for broker in running:
            broker.stop()
        bench.close()
        shutil.rmtree(data, ignore_errors=True)
    everything = {**results, **whole}
    print("\n" + (report.table(everything, brokers.BESIDE) if asked.beside else report.table(everything)))
    if not asked.only and not asked.beside:
        print("\n" + report.targets(everything))
        is_full = not asked.case and not asked.quick and asked.scale >= 1
        if folder := asked.report or (report.FOLDER if is_full else None):
            report.write(folder, results, whole, asked.rounds, asked.scale, failures)
    print(f"\n{(time.monotonic() - began) / 60:.1f} min")
    if failures:
        sys.exit("bench-vs-kafka: failed:\n" + "\n".join(f"  {failure}" for failure in failures))


main()
