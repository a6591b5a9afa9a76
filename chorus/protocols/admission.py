"""/chorus/admission/1.0.0: both ends prove the cluster's secret (spec/cluster.md). Pure.

First stream of a connection, opened by its dialer. One `Hello` each way (`proto/admission.proto`), preceded by its
length as an unsigned varint, then both close:

    dialer   → Hello{proof, cluster_id}
    listener → Hello{proof, cluster_id}      only to a valid proof; otherwise it closes without a word

    proof = HMAC-SHA256(secret, lp("chorus-admission/1") ‖ lp(role) ‖ lp(h) ‖ lp(own peer id) ‖ lp(other peer id))

`lp(x)` is `uv(len x) ‖ x`, role is `dialer` or `listener`, h the Noise handshake hash, peer ids are binary. Role and
ids stop reflection, h stops relaying. `cluster_id` needs no proof of its own: it arrives over the authenticated
connection that the proof is bound to. `certificate` has its place and is ignored until certificates come.
"""

from __future__ import annotations

import hmac

import attrs
from google.protobuf.message import DecodeError

from chorus.backoff import Backoff
from chorus.bounded import Bounded
from chorus.errors import PeerError
from chorus.identity import PeerId
from chorus.protocols.delimited import delimit
from chorus.protocols.proto.admission_pb2 import Hello

PROTOCOL = "/chorus/admission/1.0.0"
DOMAIN = b"chorus-admission/1"
DIALER = b"dialer"
LISTENER = b"listener"
TIME_LIMIT = 10.0
"""Seconds for the whole exchange."""
MAX_HELLO = 8192
"""Bytes; a proof, a cluster id and room for a certificate."""
PROOF = 32
CLUSTER_ID = 32
MIN_SECRET = 16
"""Bytes: 128 bits."""

SLOW_AFTER = 3
"""Failures of one address that cost it nothing: a restart with a wrong setting is no attack."""
SLOW_FIRST = 0.25
SLOW_MAX = 4.0
"""Seconds; well under the time limit, so that a member which shares the address with an attacker still gets in."""
FAILURES_FORGOTTEN = 600.0
"""Seconds without a failure after which an address starts afresh."""
FAILURES_KEPT = 4096
"""Addresses."""


class AdmissionError(PeerError):
    """The peer did not prove membership."""

    code = "admission_failed"


class BadHello(AdmissionError):
    """The message is no Hello."""

    code = "admission_bad_hello"


class WrongProof(AdmissionError):
    """Another secret, or a proof made for another connection (relayed)."""

    code = "admission_wrong_proof"


class Reflected(AdmissionError):
    """Our own proof came back."""

    code = "admission_reflected"


class Unanswered(AdmissionError):
    """The listener closed without an answer: it does not accept our proof."""

    code = "admission_unanswered"

    def __init__(self) -> None:
        super().__init__(
            "the peer closed without an answer to our proof: probably it has another CHORUS_CLUSTER_SECRET, "
            "or CHORUS_JOIN here is of another cluster or an old one"
        )


class AdmissionTimeout(AdmissionError):
    """The exchange took longer than its time limit."""

    code = "admission_timeout"


def proof(secret: bytes, role: bytes, handshake_hash: bytes, own: PeerId, other: PeerId) -> bytes:
    """32 bytes. Raises `ValueError` for a secret under 128 bits."""
    if len(secret) < MIN_SECRET:
        raise ValueError(f"a secret has at least {MIN_SECRET} bytes")
    parts = (DOMAIN, role, handshake_hash, own.raw, other.raw)
    return hmac.digest(secret, b"".join(map(delimit, parts)), "sha256")


@attrs.frozen
class Exchange:
    """One side of one connection's admission."""

    secret: bytes = attrs.field(repr=False)
    dialer: bool
    handshake_hash: bytes
    own: PeerId
    other: PeerId

    def hello(self, cluster_id: bytes) -> bytes:
        """This side's message, without the length before it."""
        return Hello(proof=self._own_proof(), cluster_id=cluster_id).SerializeToString()

    def check(self, encoded: bytes) -> bytes:
        """Return the cluster id of a peer whose proof is valid, maybe empty. Raises `AdmissionError`."""
        try:
            hello = Hello.FromString(encoded)
        except DecodeError:
            raise BadHello("not a Hello") from None
        if len(hello.proof) != PROOF or len(hello.cluster_id) not in (0, CLUSTER_ID):
            raise BadHello("a field of the Hello has the wrong length")
        theirs = proof(self.secret, LISTENER if self.dialer else DIALER, self.handshake_hash, self.other, self.own)
        if not hmac.compare_digest(theirs, hello.proof):
            if hmac.compare_digest(self._own_proof(), hello.proof):
                raise Reflected("the peer sent our own proof back")
            raise WrongProof("the peer's proof is not valid here: another secret, or made for another connection")
        return hello.cluster_id

    def _own_proof(self) -> bytes:
        return proof(self.secret, DIALER if self.dialer else LISTENER, self.handshake_hash, self.own, self.other)


_SLOW = Backoff(SLOW_FIRST, SLOW_MAX)


def slowness(failures: int) -> float:
    """Seconds that an address with that many recent failures waits before its next proof is looked at."""
    return _SLOW.ceiling(failures - SLOW_AFTER + 1)


class Failures:
    """Recent failures per address, bounded in addresses and in time. `now` in seconds."""

    def __init__(self, *, kept: int = FAILURES_KEPT) -> None:
        self._counts: Bounded[str, tuple[int, float]] = Bounded(kept)

    def __len__(self) -> int:
        return len(self._counts)

    def record(self, address: str, now: float) -> int:
        """Count one more; returns how many there are."""
        count = self.count(address, now) + 1
        self._counts.put(address, (count, now))
        return count

    def count(self, address: str, now: float) -> int:
        count, last = self._counts.get(address, (0, now))
        if count and now - last >= FAILURES_FORGOTTEN:
            del self._counts[address]
            return 0
        return count
