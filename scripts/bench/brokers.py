"""The two brokers under test: started once, watched by their process, stopped at the end."""
import os, re, signal, subprocess, tempfile, threading, time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ottla"
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", CACHE / "target"))
KAFKA_PORT = int(os.environ.get("OTTLA_REFERENCE_PORT", 19292))
TICKS = os.sysconf("SC_CLK_TCK")


class Broker:
    """A running broker. `address` is where clients connect."""

    def __init__(self, name, command, ready, address=None, environment=None):
        self.name = name
        self.errors = tempfile.TemporaryFile("w+")
        began = time.monotonic()
        self.process = subprocess.Popen(
            command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=self.errors,
            env={**os.environ, **(environment or {})})
        for line in self.process.stdout:
            if ready in line:
                self.address = address or re.search(r"kafka=(\S+)", line)[1]
                break
        else:
            self.errors.seek(0)
            raise SystemExit(f"bench: {name} ended before it was ready:\n{self.errors.read()[-2000:]}")
        self.start_ms = (time.monotonic() - began) * 1000
        # A full pipe would stop the broker.
        threading.Thread(target=self.process.stdout.read, daemon=True).start()

    def cpu_seconds(self):
        """User and system time of all threads so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory_mib(self, what="VmRSS"):
        """Resident memory now, or its peak (`VmHWM`)."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{what}:\s+(\d+) kB", status)[1]) / 1024

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()


def ottla(data):
    """The release binary over `data`, with its defaults."""
    return Broker("Ottla", [str(TARGET / "release/ottla"), "serve", "--data-dir", data,
                            "--kafka-listen", "127.0.0.1:0", "--http-listen", "127.0.0.1:0"],
                  "ottla ready")


def kafka():
    """One KRaft node with Kafka's defaults, heap included."""
    return Broker("Apache Kafka", ["scripts/reference-kafka", "run", str(KAFKA_PORT)],
                  "Kafka Server started", f"127.0.0.1:{KAFKA_PORT}",
                  {"KAFKA_HEAP_OPTS": "-Xms1G -Xmx1G"})


def build():
    """Ottla in release."""
    if os.environ.get("OTTLA_NO_BUILD"): return
    subprocess.run(["cargo", "build", "--release", "--locked"], cwd=ROOT, check=True,
                   env={**os.environ, "CARGO_TARGET_DIR": str(TARGET)})
