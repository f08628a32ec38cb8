"""Producers on plain sockets: many connections and partitions at little cost to the client, one
batch per request, and a check of the stored batches by their exact bytes."""
import itertools, select, socket, struct, time
from collections import deque

from figures import latencies
from rdkafka import WrongAnswer

PRODUCE, FETCH, API_VERSIONS = 0, 1, 18
# Of a batch, the broker may set the base offset and the leader epoch; what follows is as it was sent.
VERBATIM_FROM = 16
RECORD_COUNT_AT = 57
FETCH_BYTES_MAX = 8 << 20


def crc_table():
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        yield byte


CRC_TABLE = list(crc_table())


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def varint(value):
    value = value << 1 ^ value >> 63
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def batch(values):
    """A record batch of format 2, uncompressed, of a producer without an id."""
    records = b""
    for number, value in enumerate(values):
        record = b"\0" + varint(0) + varint(number) + varint(-1) + varint(len(value)) + value + varint(0)
        records += varint(len(record)) + record
    now = int(time.time() * 1000)
    body = struct.pack(">hiqqqhii", 0, len(values) - 1, now, now, -1, -1, -1, len(values)) + records
    return struct.pack(">qiibI", 0, len(body) + 9, -1, 2, crc32c(body)) + body


def text(value):
    return struct.pack(">h", len(value)) + value.encode()


def request(key, version, correlation, body):
    frame = struct.pack(">hhi", key, version, correlation) + text("bench") + body
    return struct.pack(">i", len(frame)) + frame


def produce_request(correlation, topic, partition, acks, records):
    return request(PRODUCE, 8, correlation,
                   struct.pack(">hhii", -1, acks, 30_000, 1) + text(topic)
                   + struct.pack(">iii", 1, partition, len(records)) + records)


def connect(broker):
    host, port = broker.address.rsplit(":", 1)
    connection = socket.create_connection((host, int(port)), timeout=60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def idle_connections(broker, count):
    """Sockets that have asked for ApiVersions once, and now say nothing."""
    connections = [connect(broker) for _ in range(count)]
    for connection in connections:
        connection.sendall(request(API_VERSIONS, 0, 1, b""))
        answer(connection)
    return connections


def answer(connection):
    """One whole answer without its length."""
    length, = struct.unpack(">i", exactly(connection, 4))
    return exactly(connection, length)


def exactly(connection, length):
    received = bytearray()
    while len(received) < length:
        more = connection.recv(length - len(received))
        if not more:
            raise WrongAnswer("the broker closed a connection instead of answering")
        received += more
    return bytes(received)


class Answers:
    """Produce answers as they arrive on a connection: each must be whole, in order and good."""

    def __init__(self, correlation, topics):
        self.begins = {topic: struct.pack(">ii", correlation, 1) + text(topic) for topic in topics}
        self.received = b""

    def take(self, received, sent):
        """Takes bytes in; `sent` is what was asked, oldest first. Gives how many were answered."""
        self.received += received
        at = taken = 0
        while len(self.received) >= at + 4:
            length, = struct.unpack_from(">i", self.received, at)
            if len(self.received) < at + 4 + length:
                break
            topic, partition = sent[taken][1]
            begin = self.begins[topic]
            good = begin + struct.pack(">iih", 1, partition, 0)
            if not self.received.startswith(good, at + 4):
                raise WrongAnswer(f"a Produce to {topic}-{partition} was answered with "
                                  f"{self.received[at + 4:at + 4 + length].hex()}")
            at += 4 + length
            taken += 1
        self.received = self.received[at:]
        return taken


class Producers:
    """Connections that produce; for use with `with`."""

    def __init__(self, broker, count=1):
        self.connections = [connect(broker) for _ in range(count)]
        self.poll = select.epoll()
        for connection in self.connections:
            self.poll.register(connection.fileno(), select.EPOLLIN)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.poll.close()
        for connection in self.connections:
            connection.close()

    def produce(self, places, batches, requests, acks, in_flight):
        """Sends `requests` batches in turn to `places`, (topic, partition) pairs; each connection has
        up to `in_flight` of them unanswered. Figures of the answers, each of which is checked."""
        todo, chosen = itertools.cycle(places), itertools.cycle(batches)
        topics = {topic for topic, _ in places}
        # By file: what a connection still has to send, and its unanswered requests with their times.
        left, sent, answers, waits = {}, {}, {}, []
        for number, connection in enumerate(self.connections):
            file = connection.fileno()
            left[file] = requests // len(self.connections) + (number < requests % len(self.connections))
            sent[file], answers[file] = deque(), Answers(number, topics)

        def send(number, connection, count):
            file, frames = connection.fileno(), []
            for _ in range(min(count, left[file])):
                place = next(todo)
                frames.append(produce_request(number, *place, acks, next(chosen)))
                sent[file].append((time.perf_counter(), place))
            left[file] -= len(frames)
            if frames:
                connection.sendall(b"".join(frames))

        by_file = {connection.fileno(): (number, connection) for number, connection in enumerate(self.connections)}
        began = time.perf_counter()
        for number, connection in by_file.values():
            send(number, connection, in_flight)
        unanswered = requests
        while unanswered:
            ready = self.poll.poll(60)
            if not ready:
                raise WrongAnswer(f"{unanswered} of {requests} requests were not answered in 60 s")
            for file, _ in ready:
                number, connection = by_file[file]
                received = connection.recv(65536)
                if not received:
                    raise WrongAnswer("the broker closed a connection")
                now = time.perf_counter()
                answered = answers[file].take(received, sent[file])
                waits += [now - sent[file].popleft()[0] for _ in range(answered)]
                unanswered -= answered
                send(number, connection, answered)
        took = time.perf_counter() - began
        records = struct.unpack_from(">i", batches[0], RECORD_COUNT_AT)[0] * requests
        return {"MB/s": requests * len(batches[0]) / 1e6 / took, "records/s": records / took, **latencies(waits)}


def check(broker, expected, batches):
    """Whether each place holds as many batches as `expected` says, byte for byte as they were sent."""
    bodies = {batch[VERBATIM_FROM:] for batch in batches}
    connection = connect(broker)
    try:
        for (topic, partition), count in expected.items():
            found = stored(connection, topic, partition, bodies)
            if found != count:
                raise WrongAnswer(f"{topic}-{partition} holds {found} batches, {count} were sent")
    finally:
        connection.close()


def stored(connection, topic, partition, bodies):
    """How many batches a partition holds, each of which must be one of `bodies`."""
    count = offset = 0
    while True:
        asked = offset
        body = struct.pack(">iiiibi", -1, 0, 0, FETCH_BYTES_MAX, 0, 1) + text(topic) \
            + struct.pack(">iiqi", 1, partition, offset, FETCH_BYTES_MAX)
        connection.sendall(request(FETCH, 4, 0, body))
        received = answer(connection)
        at = 4 + 4 + 4 + 2 + len(topic) + 4
        _, error, end, _, aborted = struct.unpack_from(">ihqqi", received, at)
        at += 26 + 16 * max(aborted, 0)
        length, = struct.unpack_from(">i", received, at)
        records = memoryview(received)[at + 4:at + 4 + max(length, 0)]
        if error:
            raise WrongAnswer(f"a Fetch of {topic}-{partition} was answered with error {error}")
        while len(records) > 12:
            base, length = struct.unpack_from(">qi", records)
            if len(records) < 12 + length:
                break
            if base != offset or bytes(records[VERBATIM_FROM:12 + length]) not in bodies:
                raise WrongAnswer(f"{topic}-{partition} holds a batch at offset {base} that nobody sent")
            offset += struct.unpack_from(">i", records, RECORD_COUNT_AT)[0]
            records = records[12 + length:]
            count += 1
        if offset >= end:
            return count
        if offset == asked:
            raise WrongAnswer(f"{topic}-{partition} ends at {end}, and gives nothing at offset {offset}")
