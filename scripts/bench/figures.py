"""Arithmetic over measurements: percentiles, ratios, and how they are written."""
import math, statistics

# Figures of which more is better; of all others less is.
MORE = {"MB/s", "records/s", "job records/s"}


def percentile(ordered, share):
    """The smallest of `ordered` that `share` of them do not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def latencies(seconds):
    """p50, p99 and p99.9 in µs."""
    ordered = sorted(seconds)
    return {f"{name} µs": percentile(ordered, share) * 1e6
            for name, share in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))}


def ratio(figure, ours, theirs):
    """How many times better Ottla is, round by round: the median, the least and the most. A round
    that failed is None, and one without a whole pair does not count."""
    ratios = [a / b if figure in MORE else b / a for a, b in zip(ours, theirs) if a and b]
    return (statistics.median(ratios), min(ratios), max(ratios)) if ratios else None


def median(values):
    """The median of the rounds that did not fail."""
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def shown(value):
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}" if value >= 10 else f"{value:,.2f}"


def spread(times):
    return f"{times[0]:.1f} ({times[1]:.1f}-{times[2]:.1f})" if times else ""


def rows(results, other="Apache Kafka"):
    """(case, figure, Ottla's median, the other broker's median, ratio) for each figure of each case.

    `results[case][broker]` has a dict of figures for each round, or None where it failed. A case
    that failed in all rounds has one row without a figure."""
    for case, brokers in results.items():
        ours, theirs = brokers.get("Ottla", []), brokers.get(other, [])
        named = dict.fromkeys(figure for run in ours + theirs if run for figure in run)
        for figure in named or [None]:
            a, b = ([run.get(figure) if run else None for run in runs] for runs in (ours, theirs))
            yield case, figure, median(a), median(b), ratio(figure, a, b)
