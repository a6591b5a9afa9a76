"""This start of the node, and the other starts of it that members report (docs/architecture.md, "Two of one node")."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from twisted.logger import Logger

from chorus.files import DataDirectoryError, read_private, write_private
from chorus.protocols.envelope import EnvelopeError
from chorus.protocols.starts import LIVE_S, MAX_COUNT, KnownStarts, Start, StartRecord, Verdict, decide

if TYPE_CHECKING:
    from chorus.identity import Identity, PeerId

FILE = "starts.json"
MAX_FILE_BYTES = 256
FRESH_S = 5.0
"""How long a signed record is sent again before it is signed anew."""


class StartCount:
    """How often the node of the data directory `directory` has started. A full disk costs the node nothing but that its
    next start counts from where this one did."""

    _log = Logger()

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE

    def next(self) -> int:
        """Count this start."""
        count = min(self._read() + 1, MAX_COUNT)
        self.keep(count)
        return count

    def keep(self, count: int) -> None:
        try:
            write_private(self._path, json.dumps({"count": count}).encode())
        except OSError as error:
            self._log.warn("{file} cannot be written: {reason}", file=FILE, reason=error.strerror)

    def _read(self) -> int:
        """0 for what is missing or damaged: members tell a count that is too low."""
        try:
            found = json.loads(read_private(self._path, MAX_FILE_BYTES) or b"{}")
        except (DataDirectoryError, ValueError, RecursionError):
            return 0
        count = found.get("count") if isinstance(found, dict) else None
        return count if type(count) is int and 0 <= count <= MAX_COUNT else 0


class Starts:
    """Publishes this start, and receives those of others. `wall` gives Unix seconds; `twin` is called, with a line for
    a person, when this node has to stop."""

    _log = Logger()

    def __init__(
        self,
        identity: Identity,
        count: StartCount,
        instance: bytes,
        *,
        wall: Callable[[], float],
        twin: Callable[[str], None],
    ) -> None:
        self.own = Start(count.next(), instance)
        self._identity = identity
        self._count = count
        self._wall = wall
        self._began = wall()
        self._twin = twin
        self._stopped = False
        self._known = KnownStarts()
        self._watchers: list[Callable[[PeerId], None]] = []
        self._said: tuple[float, Start, bytes] | None = None

    def watch(self, show: Callable[[PeerId], None]) -> None:
        """Call `show` for a peer that should be shown the record of another start of it."""
        self._watchers.append(show)

    # Ours

    def record(self) -> bytes:
        """Ours, signed a moment ago."""
        now = self._wall()
        if self._said is None or self._said[1] != self.own or not 0 <= now - self._said[0] < FRESH_S:
            sealed = StartRecord(self._identity.peer_id, self.own, now).seal(self._identity)
            self._said = now, self.own, sealed
        return self._said[2]

    def text(self) -> str:
        """The same, as it stands in messages."""
        return base64.urlsafe_b64encode(self.record()).decode().rstrip("=")

    def other_of(self, peer: PeerId, theirs: bytes | None) -> bytes | None:
        """A record to show to `peer`, whose connection gave us the record `theirs`."""
        return self._known.other_than(peer, _instance_of(theirs))

    # Theirs

    def received(self, peer: PeerId, encoded: bytes | str) -> None:
        """`peer` sent the record of its start. Anything else is dropped: it proves nothing."""
        sealed = _decoded(encoded) if isinstance(encoded, str) else encoded
        try:
            record = StartRecord.open(sealed)
        except EnvelopeError:
            return
        if record.peer != peer or peer == self._identity.peer_id:
            return
        other = self._known.note(record, sealed)
        if other is not None and abs(self._wall() - other.at) <= LIVE_S:
            for show in self._watchers:
                show(peer)

    def shown(self, encoded: bytes) -> bool:
        """A member shows us the record of another start of ours. Returns whether that member should get our own record,
        newly signed, to show it there."""
        try:
            record = StartRecord.open(encoded)
        except EnvelopeError:
            return False
        if record.peer != self._identity.peer_id:
            return False
        match decide(self.own, self._began, record, self._wall()):
            case Verdict.STOP:
                self._stop()
            case Verdict.RAISE:
                self._raise_above(record.start.count)
            case Verdict.ANSWER:
                return True
        return False

    def _stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        self._twin(
            f"another node runs as {self._identity.peer_id}, with a copy of this data directory: this one stops. Go on "
            "with one of them; a second node needs an empty CHORUS_DATA_DIR of its own, and joins with a token"
        )

    def _raise_above(self, count: int) -> None:
        self._log.info(
            "members know start {known} of this node, whose data directory is older: it goes on as start {count}",
            event="node.start_raised",
            known=count,
            count=count + 1,
        )
        self.own = Start(count + 1, self.own.instance)
        self._count.keep(self.own.count)


def _decoded(text: str) -> bytes:
    """Empty, which is no record, for what is no base64."""
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        return b""


def _instance_of(record: bytes | None) -> bytes | None:
    try:
        return None if record is None else StartRecord.open(record).start.instance
    except EnvelopeError:
        return None
