"""A journal on a simulated disk: `chorus.tasks.applied.Journal`, committed locally as `services/journal.py` does.

Records are `4-byte length ‖ 4-byte CRC-32 ‖ JSON`, appended and synced before they are acknowledged. Reading stops at
the first record that is cut off or does not have its checksum: nothing after it was acknowledged, unless the disk
damaged what it had promised to keep. Each start writes what it has read to a new file: after a failed sync the page
cache may show what is not on the disk, and a second sync of it would say nothing. Several entries that were asked for
within one sync share it.
"""

from __future__ import annotations

import json
import struct
import zlib
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred, fail

from chorus.errors import LocalError
from chorus.simulation.disk import SimDisk
from chorus.simulation.net.reactor import SimReactor
from chorus.simulation.world import MILLISECOND, SECOND
from chorus.tasks.applied import Applied
from chorus.tasks.journal import Entry, Fence, NoQuorum
from chorus.tasks.machine import TaskMachine

if TYPE_CHECKING:
    import random

FILE: Final = "journal"
NEW_FILE: Final = "journal.new"

SYNC_MAX: Final = 60 * MILLISECOND
"""The longest time of a sync, as on a busy disk; drawn for each. Long enough that crashes often come before its end."""

_HEAD = struct.Struct(">II")


class DiskFailed(LocalError):
    """The disk refused; the entry is not acknowledged and may still turn up after a restart."""

    code = "simulated_disk_failed"


class SimJournal:
    """`start` opens, replays and counts this start; then `append`. One is made for each start of a node."""

    def __init__(self, disk: SimDisk, reactor: SimReactor, rng: random.Random) -> None:
        self.machine = TaskMachine(self.fence_of)
        self.entries: list[Entry] = []
        """Everything that is in the journal, from index 1."""
        self.start_count = 0
        self._disk = disk
        self._reactor = reactor
        self._rng = rng
        self._starts: list[tuple[int, int]] = []
        """(first index, start)."""
        self._open = False
        self._asked: list[tuple[Entry, Deferred[Applied]]] = []
        self._syncing = False

    def start(self) -> None:
        """Raises `DiskFailed`."""
        try:
            content = self._disk.read(FILE) if self._disk.exists(FILE) else b""
            self._begin_anew(content[: self._replay(content)])
            self.start_count = self._starts[-1][1] + 1 if self._starts else 1
            # Durable before the first entry of this start, so that no fence is ever given twice.
            self._write(NEW_FILE, {"start": self.start_count})
            self._sync(NEW_FILE)
            self._disk.rename(NEW_FILE, FILE)
            self._disk.sync_directory()
        except OSError as error:
            raise DiskFailed(str(error)) from error
        self._starts.append((len(self.entries) + 1, self.start_count))
        self._open = True

    @property
    def open(self) -> bool:
        return self._open

    def append(self, entry: Entry) -> Deferred[Applied]:
        """Fails with `NoQuorum` when the journal is closed, with `DiskFailed` when the disk refused."""
        if not self._open:
            return fail(NoQuorum("the journal is not open"))
        try:
            self._write(
                FILE, {"kind": entry.kind, "subject": entry.subject, "body": dict(entry.body), "time": entry.time}
            )
        except OSError as error:
            self._break(error)
            return fail(DiskFailed(str(error)))
        done: Deferred[Applied] = Deferred()
        self._asked.append((entry, done))
        if not self._syncing:
            self._syncing = True
            self._reactor.callLater(self._rng.randrange(SYNC_MAX) / SECOND, self._commit)
        return done

    def fence_of(self, index: int) -> Fence:
        start = 0
        for first, number in self._starts:
            if first > index:
                break
            start = number
        return Fence(0, start, index)

    def _commit(self) -> None:
        self._syncing = False
        if not self._open:
            return
        try:
            self._sync(FILE)
        except OSError as error:
            self._break(error)
            return
        asked, self._asked = self._asked, []
        for entry, done in asked:
            self.entries.append(entry)
            done.callback(self.machine.apply(len(self.entries), entry))

    def _break(self, error: OSError) -> None:
        """The content of the disk is not known any more: only a new start may go on."""
        self._open = False
        asked, self._asked = self._asked, []
        for _, done in asked:
            done.errback(DiskFailed(str(error)))

    def _begin_anew(self, content: bytes) -> None:
        if self._disk.exists(NEW_FILE):
            self._disk.unlink(NEW_FILE)
        self._disk.create(NEW_FILE)
        if content:
            self._disk.append(NEW_FILE, content)

    def _sync(self, name: str) -> None:
        self._disk.fsync(name)

    def _write(self, name: str, document: dict[str, Any]) -> None:
        data = json.dumps(document, separators=(",", ":")).encode()
        self._disk.append(name, _HEAD.pack(len(data), zlib.crc32(data)) + data)

    def _replay(self, content: bytes) -> int:
        """How many bytes of it are whole records."""
        whole = 0
        for document, end in records(content):
            whole = end
            if "start" in document:
                self._starts.append((len(self.entries) + 1, document["start"]))
                continue
            entry = Entry(document["kind"], document["subject"], document["body"], document["time"])
            self.entries.append(entry)
            self.machine.apply(len(self.entries), entry)
        return whole


def records(content: bytes) -> list[tuple[dict[str, Any], int]]:
    """(document, where its record ends), up to the first that is not whole."""
    found = []
    offset = 0
    while offset + _HEAD.size <= len(content):
        size, checksum = _HEAD.unpack_from(content, offset)
        data = content[offset + _HEAD.size : offset + _HEAD.size + size]
        if not size or len(data) < size or zlib.crc32(data) != checksum:
            break
        offset += _HEAD.size + size
        found.append((json.loads(data), offset))
    return found
