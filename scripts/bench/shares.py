"""Where the broker's time goes: samples of a case by what they were doing; see scripts/bench-profile."""
import re, shutil, signal, subprocess, sys, tempfile
from collections import Counter
from datetime import date

import brokers, report
from cases import CASES, Bench

# By any frame of the stack, the first that fits: what the kernel does, and for whom.
KERNEL = [("read files", r"sys_pread|do_preadv|filemap_read"),
          ("sync to the disk", r"fdatasync|fsync|iomap_dio"), ("write to the page cache", r"sys_pwrite"),
          ("send answers", r"sys_writev|do_writev|tcp_sendmsg|sys_sendto"), ("receive requests", r"sys_recv|tcp_recvmsg"),
          ("wait for sockets", r"sys_epoll"),
          ("change threads", r"sys_futex|sys_write$|sched_yield"), ("touch new memory", r"exc_page_fault")]
# By the function that runs.
USER = [("check CRCs", r"^crc32c"), ("allocate and copy memory", r"^_?mi_|mem(move|cpy|set)|^bytes::|bytes_mut"),
        ("tokio", r"tokio|^mio|<mio|futures"), ("the log", r"ottla::log"),
        ("the protocol", r"kafka_protocol|ottla::(api|wire)")]
DEFAULT = ["produce, 1 KiB records, 16 KiB batches, acks=1", "produce, 1 KiB records, 16 KiB batches, acks=all",
           "produce, 1 KiB records, 256 KiB batches, acks=all", "produce, one 1 KiB record per request, acks=1",
           "produce, one 1 KiB record per request, acks=all", "consume, 1 KiB records, 256 KiB batches, hot"]
SAMPLES_PER_SECOND = 997


class Sampled:
    """A broker whose work between two looks at its CPU time is sampled: that is what a case measures."""

    def __init__(self, broker, file):
        self.broker, self.file, self.perf = broker, file, None

    def __getattr__(self, name):
        return getattr(self.broker, name)

    def cpu_seconds(self):
        if self.perf:
            self.perf.send_signal(signal.SIGINT)
            self.perf.wait()
            self.perf = None
        else:
            self.perf = subprocess.Popen(
                ["perf", "record", "-q", "-e", "cpu-clock", "-g", "-F", str(SAMPLES_PER_SECOND),
                 "-p", str(self.broker.process.pid), "-o", self.file], stderr=subprocess.DEVNULL)
        return self.broker.cpu_seconds()


def kind(frames):
    """What a sample was doing; `frames` are (function, object) from the innermost out."""
    function, where = frames[0]
    if "kernel" in where:
        for name, pattern in KERNEL:
            if any(re.search(pattern, frame) for frame, _ in frames):
                return name
        return "the rest of the kernel"
    return next((name for name, pattern in USER if re.search(pattern, function)), "the rest")


def shares(text):
    """{what: share of the samples} of the output of `perf script`, the largest first."""
    counts = Counter()
    for sample in text.split("\n\n"):
        frames = re.findall(r"^\s+[0-9a-f]+ (.+?)(?:\+0x[0-9a-f]+)? \((.*?)\)$", sample, re.M)
        if frames:
            counts[kind(frames)] += 1
    return {name: count / counts.total() for name, count in counts.most_common()}


def table(profiles):
    """One row for each kind of work, one column for each case."""
    kinds = Counter()
    for profile in profiles.values():
        kinds.update(profile)
    lines = ["| share of the broker's CPU | " + " | ".join(profiles) + " |", "|---" + "|---:" * len(profiles) + "|"]
    for name, _ in kinds.most_common():
        lines.append(f"| {name} | " + " | ".join(f"{100 * p.get(name, 0):.0f} %" for p in profiles.values()) + " |")
    return "\n".join(lines)


def main():
    if not shutil.which("perf"):
        sys.exit("bench-profile: perf is missing: apt install linux-perf")
    asked = sys.argv[1:]
    cases = [case for case in CASES if (any(text in case.name for text in asked) if asked else case.name in DEFAULT)]
    if not cases:
        sys.exit(f"bench-profile: no case contains {' or '.join(asked)}")
    data, bench = tempfile.mkdtemp(prefix="ottla-bench-"), Bench()
    broker, profiles = brokers.ottla(data), {}
    try:
        for case in cases:
            case.run(bench, broker, 0.25)
            with tempfile.NamedTemporaryFile() as file:
                case.run(bench, Sampled(broker, file.name), 1)
                script = subprocess.run(["perf", "script", "-i", file.name, "-F", "comm,ip,sym,dso"],
                                        capture_output=True, text=True)
            profiles[case.name] = shares(script.stdout)
            print(f"{case.name}: " + ", ".join(f"{name} {share:.0%}" for name, share in profiles[case.name].items()),
                  flush=True)
    finally:
        broker.stop()
        bench.close()
        shutil.rmtree(data, ignore_errors=True)
    if not asked:
        (report.FOLDER / "profile.md").write_text(f"""# Where Ottla's time goes

`scripts/bench-profile` on {date.today()}: {report.machine()}. Samples of the broker's CPU clock ({SAMPLES_PER_SECOND}
a second) in the cases of [vs-kafka.md](vs-kafka.md) that carry its targets, sorted by what the sample was doing.
Sampling itself costs the most where threads come and go, which shows as waiting for sockets.

{table(profiles)}
""")


if __name__ == "__main__":
    main()
