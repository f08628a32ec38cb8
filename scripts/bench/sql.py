"""A SQL job in Ottla, through the HTTP gateway, and whether what it wrote is right."""
import json, urllib.error, urllib.request

from rdkafka import WrongAnswer

# Records come in any order within a minute, so no window closes before the last line moves the
# watermark, and none is late.
STATEMENTS = """
CREATE TABLE clicks (page STRING, ts TIMESTAMP(3), WATERMARK FOR ts AS ts - INTERVAL '60' SECOND)
WITH ('connector' = 'kafka', 'topic' = '{source}', 'format' = 'json', 'scan.startup.mode' = 'earliest-offset');
CREATE TABLE page_counts (page STRING, window_start TIMESTAMP(3), hits BIGINT)
WITH ('connector' = 'kafka', 'topic' = '{sink}', 'format' = 'json');
INSERT INTO page_counts SELECT page, window_start, COUNT(*)
FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(ts), INTERVAL '10' SECOND))
GROUP BY page, window_start, window_end
"""
LAST_LINE = json.dumps({"page": "/last", "ts": "2026-01-01 01:00:00.000"}).encode()


def lines(chosen, count, size):
    """Clicks as JSON, each `size` bytes long."""
    made = set()
    while len(made) < count:
        click = {"page": f"/page-{chosen.randrange(100)}", "user": chosen.randrange(10**9),
                 "ts": f"2026-01-01 00:00:{chosen.randrange(60):02}.{chosen.randrange(1000):03}", "agent": ""}
        click["agent"] = "x" * (size - len(json.dumps(click)))
        made.add(json.dumps(click).encode())
    return made


def call(broker, method, path, body=None):
    request = urllib.request.Request(f"http://{broker.http}{path}", method=method,
                                     data=json.dumps(body or {}).encode() if method == "POST" else None,
                                     headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        raise WrongAnswer(f"{method} {path} was answered with {error.code}: {error.read()[:500]}")


def counted_in(line):
    """The page and the window that a click counts in."""
    click = json.loads(line)
    return click["page"], click["ts"][:len("2026-01-01 00:00:0")] + "0"


def counts(rows):
    """What the job wrote, by page and window."""
    written = {}
    for row in map(json.loads, rows):
        place = row["page"], row["window_start"]
        if place in written:
            raise WrongAnswer(f"the job wrote two rows for {place}")
        written[place] = row["hits"]
    return written


class Job:
    """Counts the clicks in `source` per page and window of ten seconds, into `sink`."""

    def __init__(self, broker, source, sink):
        self.broker = broker
        session = call(broker, "POST", "/v1/sessions")["sessionHandle"]
        for statement in STATEMENTS.format(source=source, sink=sink).split(";"):
            path = f"/v1/sessions/{session}"
            operation = call(broker, "POST", f"{path}/statements", {"statement": statement})["operationHandle"]
            result = {"resultType": "NOT_READY"}
            while result["resultType"] == "NOT_READY":
                result = call(broker, "GET", f"{path}/operations/{operation}/result/0")
        self.id = result["jobID"]

    def cancel(self):
        call(self.broker, "PATCH", f"/jobs/{self.id}?mode=cancel")
