"""From measurements to tables and plots: medians, and ratios with their spread."""
import os, platform
from datetime import date
from pathlib import Path

from brokers import ROOT
from figures import rows, shown, spread
from targets import TARGETS, judge

FOLDER = ROOT / "docs/benchmarks"
INK, OURS, THEIRS = "#3b4248", "#0a7d62", "#9aa4ad"
# What stands for the whole in the summary: (label, case, figure, its unit).
SUMMARY = [
    ("Broker CPU, produce, 16 KiB batches", "produce, 1 KiB records, 16 KiB batches, acks=all", "CPU ms/MB", "ms/MB"),
    ("Broker CPU, produce, 256 KiB batches", "produce, 1 KiB records, 256 KiB batches, acks=all", "CPU ms/MB", "ms/MB"),
    ("Broker CPU, consume", "consume, 1 KiB records, 16 KiB batches, hot", "CPU ms/MB", "ms/MB"),
    ("Broker CPU, one record per request", "produce, one 1 KiB record per request, acks=all", "CPU µs/request", "µs"),
    ("Durable produce, 16 connections",
     "durable produce, 16 connections, one record per request (Kafka: flush per message)", "records/s", "records/s"),
    ("Start, until ready", "start, until ready", "ms", "ms"),
    ("Memory after the whole run", "memory, at the end", "MiB", "MiB"),
]


def table(results, other="Apache Kafka"):
    lines = [f"| case | figure | Ottla | {other} | times better (spread) |", "|---|---|---:|---:|---:|"]
    before = None
    for case, figure, a, b, times in rows(results, other):
        lines.append(f"| {case if case != before else ''} | {figure or 'failed'} | {shown(a)} | {shown(b)} "
                     f"| {spread(times)} |")
        before = case
    return "\n".join(lines)


def targets(results):
    lines = ["| work | Apache Kafka | Ottla | times better (spread) | target | |", "|---|---:|---:|---:|---|---|"]
    for target in TARGETS:
        outcome = judge(target, results)
        theirs, ours = (f"{shown(value)} {target.unit()}" if value is not None else ""
                        for value in (outcome.theirs, outcome.ours))
        why = f", [why](missed.md#{target.why})" if target.why else ""
        verdict = {None: "not measured", True: "met", False: f"**missed**{why}"}[outcome.met]
        lines.append(f"| {target.work} | {theirs} | {ours} | {spread(outcome.times)} "
                     f"| {target.goal()} | {verdict} |")
    return "\n".join(lines)


def svg(width, height, parts):
    style = f"text{{font:13px sans-serif;fill:{INK}}}.t{{font-weight:bold}}.O{{fill:{OURS}}}.A{{fill:{THEIRS}}}"
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 -4 {width} {height}" width="{width}">'
            f'<style>{style}</style><rect x="-12" y="-4" width="{width}" height="{height}" fill="#fff"/>'
            f'{"".join(parts)}</svg>\n')


def legend(x):
    return (f'<rect x="{x}" y="7" width="12" height="12" class="O"/><text x="{x + 18}" y="18">Ottla</text>'
            f'<rect x="{x + 70}" y="7" width="12" height="12" class="A"/><text x="{x + 88}" y="18">Apache Kafka</text>')


def bar(x, y, length, height, kind, label):
    return (f'<rect x="{x}" y="{y}" width="{max(2, length):.0f}" height="{height}" class="{kind}"/>'
            f'<text x="{x + max(2, length) + 6:.0f}" y="{y + height - 2}">{label}</text>')


def plot(results, figure, title):
    """One pair of bars per case that has the figure, as SVG that needs no font of its own."""
    chosen = [(case, a, b) for case, what, a, b, _ in rows(results)
              if what == figure and a is not None and b is not None]
    if not chosen:
        return ""
    most = max(max(a, b) for _, a, b in chosen) or 1
    parts, y = [f'<text x="0" y="18" class="t">{title}</text>', legend(560)], 40
    for case, a, b in chosen:
        parts += [f'<text x="0" y="{y + 10}">{case}</text>',
                  bar(0, y + 16, 640 * a / most, 13, "O", shown(a)),
                  bar(0, y + 31, 640 * b / most, 13, "A", shown(b))]
        y += 60
    return svg(780, y, parts)


def summary(results):
    """Seven figures, each as long as it is relative to Kafka's, which is one."""
    chosen = []
    for label, case, figure, unit in SUMMARY:
        for name, what, a, b, times in rows({case: results.get(case, {})}):
            if what == figure and times and a and b:
                chosen.append((label, a, b, times[0], unit))
    if not chosen:
        return ""
    parts, y = ['<text x="0" y="18" class="t">Ottla beside Apache Kafka on one machine, and how many times better</text>',
                legend(560)], 36
    for label, a, b, times, unit in chosen:
        longest = max(a, b)
        parts += [f'<text x="0" y="{y + 20}">{label}</text>',
                  bar(270, y, 240 * a / longest, 13, "O", f"{shown(a)} {unit}"),
                  bar(270, y + 15, 240 * b / longest, 13, "A", f"{shown(b)} {unit}"),
                  f'<text x="766" y="{y + 20}" text-anchor="end" class="t">{times:.{1 if times < 10 else 0}f}×</text>']
        y += 42
    return svg(790, y + 8, parts)


def machine():
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]
    memory = int(Path("/proc/meminfo").read_text().split()[1]) >> 20
    return (f"{os.cpu_count()} cores ({names[0] if names else platform.machine()}), {memory} GiB, "
            f"Linux {platform.release()}")


def write(folder, results, whole, rounds, scale, failures):
    """vs-kafka.md and its plots; `whole` are figures of the run as a whole."""
    folder.mkdir(parents=True, exist_ok=True)
    everything = {**results, **whole}
    if picture := summary(everything):
        (folder / "summary.svg").write_text(picture)
    plots = [("CPU ms/MB", "cpu", "Broker CPU per MB (ms; less is better)"),
             ("CPU µs/request", "requests", "Broker CPU per request of one record (µs; less is better)"),
             ("MB/s", "throughput", "Throughput (MB/s; more is better)"),
             ("p99 µs", "latency", "Latency, 99th percentile (µs; less is better)")]
    pictures = []
    for figure, name, title in plots:
        if picture := plot(results, figure, title):
            (folder / f"vs-kafka-{name}.svg").write_text(picture)
            pictures.append(f"![{title}](vs-kafka-{name}.svg)")
    amount = "" if scale == 1 else f" with {scale:g} of the records"
    failed = "".join(f"- Failed: {failure}\n" for failure in failures)
    (folder / "vs-kafka.md").write_text(f"""# Ottla beside Apache Kafka

`scripts/bench-vs-kafka` on {date.today()}{amount}: {machine()}. Counted rounds: {rounds}, after one that warms up;
the two brokers in turn in each case. Figures are medians, and the ratio of each round's pair with its
spread. Both brokers run with their defaults: with `acks=all` Ottla has synced to the disk before it
answers, Kafka has written to the page cache, unless the case says that Kafka flushes per message too. CPU
is the broker process's user and system time. Each case is read back: the count and every record's bytes
must be right, or the case fails. The growth of partitions is measured in one round, at the end.
{failed and chr(10) + failed}
## Targets

Where several cases belong to a target, the one with the least ratio, or the largest figure, is shown.

{targets(everything)}

[Why some are missed](missed.md), [where Ottla's time goes](profile.md), [the floor under any broker's cost
here](floor.md), [what was tried](../adr/0010-where-the-cost-is.md).

## Cases

{table(results)}

{table(whole)}

{chr(10).join(pictures)}
""")
