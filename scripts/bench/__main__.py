"""Runs the cases on both brokers in turn; see scripts/bench-vs-kafka."""
import argparse, shutil, sys, tempfile, time

import brokers, report
from cases import CASES, Bench


def arguments():
    parser = argparse.ArgumentParser(prog="bench-vs-kafka")
    parser.add_argument("--rounds", type=int, default=3, help="counted rounds (3)")
    parser.add_argument("--case", default="", help="only cases whose name contains this")
    parser.add_argument("--only", choices=["ottla", "kafka"], help="one broker, no report")
    parser.add_argument("--scale", type=float, default=1.0, help="records of each case, relative (1)")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    return parser.parse_args()


def measure(bench, running, cases, rounds, scale):
    """results[case][broker] = figures of each counted round."""
    results = {case.name: {broker.name: [] for broker in running} for case in cases}
    for number in range(rounds + 1):
        for at, case in enumerate(cases):
            # The one that begins changes, so that none always finds the machine the other left.
            turn = running if (number + at) % 2 == 0 else running[::-1]
            for broker in turn:
                began = time.monotonic()
                figures = case.run(bench, broker, scale * (1 if number else 0.25))
                told = "  ".join(f"{name} {report.shown(value)}" for name, value in figures.items())
                print(f"round {number} {broker.name:12} {time.monotonic() - began:5.1f} s  {case.name}: {told}"
                      + ("" if number else "  (warm-up)"), flush=True)
                if number:
                    results[case.name][broker.name].append(figures)
    return results


def main():
    asked = arguments()
    cases = [case for case in CASES if asked.case in case.name]
    if asked.list or not cases:
        print("\n".join(case.name for case in CASES))
        sys.exit(0 if asked.list else f"bench-vs-kafka: no case contains '{asked.case}'")
    if asked.only != "kafka":
        brokers.build()
    data, bench, running = tempfile.mkdtemp(prefix="ottla-bench-"), Bench(), []
    try:
        if asked.only != "kafka":
            running.append(brokers.ottla(data))
        if asked.only != "ottla":
            running.append(brokers.kafka())
        time.sleep(3)
        idle = {broker.name: broker.memory_mib() for broker in running}
        results = measure(bench, running, cases, asked.rounds, asked.scale)
        whole = {
            "memory, idle": {b.name: [{"MiB": idle[b.name]}] for b in running},
            "memory, most during the run": {b.name: [{"MiB": b.memory_mib("VmHWM")}] for b in running},
            "memory, at the end": {b.name: [{"MiB": b.memory_mib()}] for b in running},
            "start, until ready": {b.name: [{"ms": b.start_ms}] for b in running},
        }
    finally:
        for broker in running:
            broker.stop()
        bench.close()
        shutil.rmtree(data, ignore_errors=True)
    print(report.table(results) + "\n" + report.table(whole))
    if not asked.only and not asked.case and asked.scale >= 1:
        report.write(report.FOLDER, results, whole, asked.rounds, asked.scale, [])


main()
