"""docs/wire.md in Python: what a service needs besides its NATS client and protobuf."""

import base64
import hashlib
import urllib.parse
import zlib
from datetime import datetime, timezone

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory


def contracts(paths):
    """The message classes of some descriptor sets, by full name."""
    pool = descriptor_pool.DescriptorPool()
    known = set()
    for path in paths:
        files = descriptor_pb2.FileDescriptorSet()
        files.ParseFromString(path.read_bytes())
        for proto in files.file:
            if proto.name not in known:
                known.add(proto.name)
                pool.Add(proto)
    return lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


def partition(key):
    """Section 2."""
    return zlib.crc32(key.encode()) % 16 if key else 0


def note(**pairs):
    """Section 5: the header `mesh`."""
    return ";".join(f"{key}={urllib.parse.quote(str(value), safe='/:')}" for key, value in pairs.items())


def read_note(headers):
    """The same, read."""
    pairs = (pair.split("=", 1) for pair in (headers or {}).get("mesh", "").split(";") if pair)
    return {key: urllib.parse.unquote(value) for key, value in pairs}


def moment(unix_ms):
    """RFC 3339 in UTC."""
    at = datetime.fromtimestamp(unix_ms / 1000, timezone.utc)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def letter_id(durable, stream, sequence, stored_at_ms, message_id):
    """Section 12."""
    return hashlib.sha256(f"{durable}\n{stream}\n{sequence}\n{stored_at_ms}\n{message_id}".encode()).hexdigest()[:32]


def encode_attempts(attempts):
    """Section 3: base64 without padding."""
    return base64.b64encode(attempts.SerializeToString()).decode().rstrip("=")


def decode_attempts(attempts, headers):
    text = headers.get("mesh-attempts", "")
    attempts.ParseFromString(base64.b64decode(text + "=" * (-len(text) % 4)))
    return attempts


class Original:
    """Sections 5 and 8: what a delivery is, whether it comes from its own stream or from a lane."""

    def __init__(self, delivery):
        tokens = delivery.reply.split(".")[2:]
        if len(tokens) != 7:
            tokens = tokens[2:]
        # Where the delivery lies; on a lane, that is where the copy lies.
        self.place = (tokens[0], int(tokens[3]))
        self.headers = {k: v for k, v in (delivery.headers or {}).items() if not k.lower().startswith(("nats-", "mesh"))}
        said = read_note(delivery.headers)
        on_lane = delivery.subject.startswith("mesh1.lane.")
        self.scheduled = "Nats-Scheduler" in (delivery.headers or {})
        self.attempt = int(said.get("a", 1)) if on_lane else 1
        self.letter = (said["l"], int(said["g"]), int(said["q"])) if on_lane and "l" in said else None
        if on_lane:
            self.subject, self.id, self.stored_at_ms = said["s"], said["i"], int(said["t"])
            stream, sequence = said["o"].rsplit(":", 1)
            self.source = (stream, int(sequence))
        else:
            self.subject, self.source = delivery.subject, self.place
            self.id = (delivery.headers or {}).get("Nats-Msg-Id", f"{self.source[0]}:{self.source[1]}")
            self.stored_at_ms = int(tokens[5]) // 1_000_000
        # The delivery's own: what its copy is called after.
        self.unique = f"{tokens[0]}-{tokens[3]}-{int(tokens[5]) // 1_000_000}"
        # An event's producer has its place from the front.
        self.caller = self.subject.split(".")[3]
        self.partition = self.subject.split(".")[-1]
