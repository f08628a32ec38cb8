"""The two brokers under test: started, watched by their process, stopped at the end."""
import os, re, signal, subprocess, threading, time
from collections import deque
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ottla"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", CACHE / "target"))
# Another binary of Ottla, in Kafka's place.
BESIDE = "Ottla beside it"
KAFKA_PORT = int(os.environ.get("OTTLA_REFERENCE_PORT", 19292))


class Broker:
    """A running broker. `address` is where clients connect, `http` the SQL gateway if it has one."""

    def __init__(self, name, command, ready, address=None, begins=None, environment=None):
        self.name = name
        self.last_lines = deque(maxlen=40)
        began = time.monotonic()
        self.process = subprocess.Popen(
            command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})})
        for line in self.process.stdout:
            self.last_lines.append(line)
            if begins and begins in line:
                began = time.monotonic()
            if ready in line:
                break
        else:
            raise SystemExit(f"bench: {name} ended before it was ready:\n{''.join(self.last_lines)}")
        self.start_ms = (time.monotonic() - began) * 1000
        self.address = address or re.search(r"kafka=(\S+)", line)[1]
        found = re.search(r"http=(\S+)", line)
        self.http = found and found[1]
        # A full pipe would stop the broker.
        threading.Thread(target=self.last_lines.extend, args=(self.process.stdout,), daemon=True).start()

    def cpu_seconds(self):
        """User and system time of all threads so far, also of those that ended."""
        # The clock that clock_getcpuclockid(3) gives: /proc/PID/stat counts in steps of 10 ms.
        return time.clock_gettime(~self.process.pid << 3 | 2)

    def memory_mib(self, what="VmRSS"):
        """Resident memory now, or its peak (`VmHWM`)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{what}:\s+(\d+) kB", status)[1]) / 1024

    def has_ended(self):
        return self.process.poll() is not None

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def ottla(data, binary=TARGET / "release/ottla", name="Ottla"):
    """A release binary over `data`, with its defaults."""
    return Broker(name, [str(binary), "serve", "--data-dir", data,
                         "--kafka-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"],
                  "ottla ready")


def kafka():
    """One KRaft node with Kafka's defaults, heap included; its start counts without formatting."""
    return Broker("Apache Kafka", ["scripts/reference-kafka", "run", str(KAFKA_PORT)],
                  "Kafka Server started", f"127.0.0.1:{KAFKA_PORT}", "reference-kafka starting",
                  {"KAFKA_HEAP_OPTS": "-Xms1G -Xmx1G"})


def build():
    """Ottla in release."""
    subprocess.run(["cargo", "build", "--release", "--locked"], cwd=ROOT, check=True,
                   env={**os.environ, "CARGO_TARGET_DIR": str(TARGET)})
