"""From measurements to a table and plots: medians, and ratios with their spread."""
import os, platform, statistics
from datetime import date
from pathlib import Path

from brokers import ROOT

FOLDER = ROOT / "docs/benchmarks"
# Figures of which more is better; of all others less is.
MORE = {"MB/s", "records/s"}


def ratio(figure, ours, theirs):
    """How many times better Ottla is, round by round: the median and its spread."""
    ratios = [a / b if figure in MORE else b / a for a, b in zip(ours, theirs) if a and b]
    if not ratios:
        return None
    return statistics.median(ratios), min(ratios), max(ratios)


def shown(value):
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}" if value >= 10 else f"{value:,.2f}"


def rows(results):
    """(case, figure, Ottla's median, Kafka's median, ratio) for each figure of each case."""
    for case, brokers in results.items():
        ours, theirs = brokers.get("Ottla", []), brokers.get("Apache Kafka", [])
        for figure in (ours or theirs)[0]:
            a, b = [run[figure] for run in ours], [run[figure] for run in theirs]
            yield (case, figure, statistics.median(a) if a else None,
                   statistics.median(b) if b else None, ratio(figure, a, b) if a and b else None)


def table(results):
    lines = ["| case | figure | Ottla | Apache Kafka | times better (spread) |", "|---|---|---:|---:|---:|"]
    before = None
    for case, figure, a, b, times in rows(results):
        cell = f"{times[0]:.1f} ({times[1]:.1f}-{times[2]:.1f})" if times else ""
        lines.append(f"| {case if case != before else ''} | {figure} | {shown(a) if a is not None else ''} "
                     f"| {shown(b) if b is not None else ''} | {cell} |")
        before = case
    return "\n".join(lines)


def plot(results, figure, title):
    """One pair of bars per case that has the figure, as SVG that needs no font of its own."""
    chosen = [(case, a, b) for case, what, a, b, _ in rows(results)
              if what == figure and a is not None and b is not None]
    if not chosen:
        return ""
    most = max(max(a, b) for _, a, b in chosen) or 1
    parts, y = [f'<text x="0" y="18" class="title">{title}</text>'], 34
    for case, a, b in chosen:
        parts.append(f'<text x="0" y="{y + 12}">{case}</text>')
        for offset, kind, value in ((18, "O", a), (36, "A", b)):
            width = max(1, 560 * value / most)
            parts.append(f'<rect x="0" y="{y + offset}" width="{width:.0f}" height="14" class="{kind}"/>'
                         f'<text x="{width + 6:.0f}" y="{y + offset + 12}">{shown(value)}</text>')
        y += 64
    style = ("text{font:13px sans-serif;fill:#444}.title{font-weight:bold}"
             ".O{fill:#0a7d62}.A{fill:#9aa4ad}")
    legend = ('<rect x="470" y="6" width="12" height="12" class="O"/><text x="488" y="17">Ottla</text>'
              '<rect x="540" y="6" width="12" height="12" class="A"/><text x="558" y="17">Apache Kafka</text>')
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 0 720 {y}" width="720">'
            f'<style>{style}</style>{legend}{"".join(parts)}</svg>\n')


def machine():
    names = [line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
             if line.startswith("model name")]
    memory = int(Path("/proc/meminfo").read_text().split()[1]) >> 20
    return f"{os.cpu_count()} cores ({names[0] if names else platform.machine()}), {memory} GiB, Linux {platform.release()}"


def write(results, whole, rounds):
    """docs/benchmarks/vs-kafka.md and its plots; `whole` are figures of the run as a whole."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    plots = [("CPU ms/MB", "cpu", "Broker CPU per MB (ms; less is better)"),
             ("MB/s", "throughput", "Throughput (MB/s; more is better)"),
             ("p99 ms", "latency", "Latency, 99th percentile (ms; less is better)")]
    pictures = []
    for figure, name, title in plots:
        if picture := plot(results, figure, title):
            (FOLDER / f"vs-kafka-{name}.svg").write_text(picture)
            pictures.append(f"![{title}](vs-kafka-{name}.svg)")
    (FOLDER / "vs-kafka.md").write_text(f"""# Ottla beside Apache Kafka

`scripts/bench-vs-kafka` on {date.today()}: {machine()}. {rounds} counted rounds after one that warms up, the two
brokers in turn in each case; medians, and the ratio of each round's pair with its spread. Both brokers
run with their defaults: with `acks=all` Ottla has synced to the disk before it answers, Kafka has
written to the page cache, unless the case says that Kafka flushes per message too. CPU is the broker
process's user and system time. Each produce case is read back whole: the count and every
record's bytes must be right.

{table(results)}

{table(whole)}

{chr(10).join(pictures)}
""")
