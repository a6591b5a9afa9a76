"""A disk that keeps what was synced and may lose, tear or damage the rest.

Every file has a durable image and a list of operations that were done since; so has the one directory. A reader sees
all of them; a crash keeps the image and any subset of the operations, each whole, torn or dropped (an append that
follows a dropped one leaves a hole of zeros, as on a file system that writes sizes before contents). `fsync` moves the
operations of one file into its image, `sync_directory` those of the names. After a failed `fsync` the operations are
gone from the page cache without having reached the disk, as on Linux: the caller cannot make them durable any more.
"""

from __future__ import annotations

import errno
import random
from collections import Counter
from collections.abc import Callable
from typing import Final

import attrs

SECTOR: Final = 512
"""Bytes that a torn write is usually cut at."""


@attrs.frozen
class DiskFaults:
    """Chances, 0 to 1, and how much fits."""

    drop: float = 0.4
    """At a crash, that an operation that was not synced is lost."""
    tear: float = 0.3
    """At a crash, that a write that is not lost is torn."""
    sync_error: float = 0.0
    read_error: float = 0.0
    flip: float = 0.0
    """At a crash, that one bit of a file's durable bytes turns over."""
    capacity: int = 1 << 40
    """Bytes of all files, above which writing fails with ENOSPC."""


@attrs.frozen
class _Write:
    offset: int
    data: bytes


@attrs.frozen
class _Truncate:
    size: int


@attrs.define
class _File:
    durable: bytearray = attrs.field(factory=bytearray)
    cached: bytearray = attrs.field(factory=bytearray)
    pending: list[_Write | _Truncate] = attrs.field(factory=list)


_Names = tuple[tuple[str, _File | None], ...]
"""One change of the directory: each name stands for a file from now on, or for none."""


class SimDisk:
    """The files of one node, flat. Errors are `OSError` with the errno that Linux gives.

    `watch` is called with each operation (name, file, bytes), for the trace.
    """

    def __init__(
        self,
        rng: random.Random,
        faults: DiskFaults | None = None,
        watch: Callable[[str, str, bytes], None] = lambda operation, name, data: None,
    ) -> None:
        self.faults = faults or DiskFaults()
        self.counters: Counter[str] = Counter()
        """`dropped`, `torn`, `flipped`, `renames_lost`, `sync_errors`, `read_errors`, `full`, `crashes`, `syncs`."""
        self._rng = rng
        self._watch = watch
        self._names: dict[str, _File] = {}
        self._durable_names: dict[str, _File] = {}
        self._pending_names: list[_Names] = []

    # Reading

    def exists(self, name: str) -> bool:
        return name in self._names

    def names(self) -> list[str]:
        return sorted(self._names)

    def read(self, name: str) -> bytes:
        file = self._file(name)
        if self._happens(self.faults.read_error, "read_errors"):
            raise OSError(errno.EIO, "Input/output error", name)
        return bytes(file.cached)

    def size(self, name: str) -> int:
        return len(self._file(name).cached)

    # Writing

    def create(self, name: str) -> None:
        """Open for writing: the file is there afterwards, empty if it was not."""
        if name not in self._names:
            self._rename_to(((name, _File()),))

    def write(self, name: str, offset: int, data: bytes) -> None:
        file = self._file(name)
        grows = max(0, offset + len(data) - len(file.cached))
        if grows and self.used() + grows > self.faults.capacity:
            self.counters["full"] += 1
            raise OSError(errno.ENOSPC, "No space left on device", name)
        self._watch("write", name, data)
        operation = _Write(offset, bytes(data))
        file.pending.append(operation)
        _apply(file.cached, operation)

    def append(self, name: str, data: bytes) -> None:
        self.write(name, len(self._file(name).cached), data)

    def truncate(self, name: str, size: int) -> None:
        file = self._file(name)
        self._watch("truncate", name, b"%d" % size)
        operation = _Truncate(size)
        file.pending.append(operation)
        _apply(file.cached, operation)

    def rename(self, old: str, new: str) -> None:
        """Atomic: after a crash either both names have changed or neither."""
        file = self._file(old)
        self._watch("rename", new, old.encode())
        self._rename_to(((old, None), (new, file)))

    def unlink(self, name: str) -> None:
        self._file(name)
        self._watch("unlink", name, b"")
        self._rename_to(((name, None),))

    def used(self) -> int:
        return sum(len(file.cached) for file in self._names.values())

    # Making durable

    def fsync(self, name: str) -> None:
        """Everything written to this file is durable. A file that was just made also needs its directory synced."""
        file = self._file(name)
        self.counters["syncs"] += 1
        if self._happens(self.faults.sync_error, "sync_errors"):
            # The dirty pages are marked clean: what was read before may still be read, and is not on the disk.
            file.pending.clear()
            raise OSError(errno.EIO, "Input/output error", name)
        self._watch("fsync", name, b"")
        for operation in file.pending:
            _apply(file.durable, operation)
        file.pending.clear()

    def sync_directory(self) -> None:
        if self._happens(self.faults.sync_error, "sync_errors"):
            raise OSError(errno.EIO, "Input/output error", ".")
        self._watch("sync", ".", b"")
        for change in self._pending_names:
            _rename(self._durable_names, change)
        self._pending_names.clear()

    def durable(self, name: str) -> bytes | None:
        """The content that a crash now would surely leave, for checkers; `None` for no file."""
        file = self._durable_names.get(name)
        return bytes(file.durable) if file is not None else None

    # The crash

    def crash(self) -> None:
        """The power fails: what was not synced is lost, or not, or in part."""
        self.counters["crashes"] += 1
        rng = self._rng
        names = dict(self._durable_names)
        for change in self._pending_names:
            if rng.random() < self.faults.drop:
                self.counters["renames_lost"] += 1
                break  # the directory is a log: what follows a lost change is lost too
            _rename(names, change)
        # A file may be reached by two names here and there; each is settled once.
        for file in {id(file): file for file in [*self._names.values(), *names.values()]}.values():
            self._settle(file)
        self._names = names
        self._durable_names = dict(names)
        self._pending_names.clear()
        self._watch("crash", ".", b"")

    def _settle(self, file: _File) -> None:
        for operation in file.pending:
            if self._rng.random() < self.faults.drop:
                self.counters["dropped"] += 1
                if isinstance(operation, _Write):
                    self._leave_hole(file, operation)
            else:
                _apply(file.durable, self._torn(operation))
        if file.durable and self.faults.flip and self._rng.random() < self.faults.flip:
            self.counters["flipped"] += 1
            file.durable[self._rng.randrange(len(file.durable))] ^= 1 << self._rng.randrange(8)
        file.pending.clear()
        file.cached = bytearray(file.durable)

    def _leave_hole(self, file: _File, operation: _Write) -> None:
        """The size may have been written without the contents."""
        end = operation.offset + len(operation.data)
        if end > len(file.durable) and self._rng.random() < 0.25:
            file.durable.extend(bytes(end - len(file.durable)))

    def _torn(self, operation: _Write | _Truncate) -> _Write | _Truncate:
        if isinstance(operation, _Truncate) or self._rng.random() >= self.faults.tear:
            return operation
        self.counters["torn"] += 1
        at = self._rng.randrange(len(operation.data) + 1)
        if self._rng.random() < 0.5:
            at -= (operation.offset + at) % SECTOR
        return _Write(operation.offset, operation.data[: max(0, at)])

    def _happens(self, chance: float, name: str) -> bool:
        if chance and self._rng.random() < chance:
            self.counters[name] += 1
            return True
        return False

    def _file(self, name: str) -> _File:
        try:
            return self._names[name]
        except KeyError:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", name) from None

    def _rename_to(self, change: _Names) -> None:
        self._pending_names.append(change)
        _rename(self._names, change)


def _apply(content: bytearray, operation: _Write | _Truncate) -> None:
    if isinstance(operation, _Truncate):
        if operation.size < len(content):
            del content[operation.size :]
        else:
            content.extend(bytes(operation.size - len(content)))
        return
    if operation.offset > len(content):
        content.extend(bytes(operation.offset - len(content)))
    content[operation.offset : operation.offset + len(operation.data)] = operation.data


def _rename(names: dict[str, _File], change: _Names) -> None:
    for name, file in change:
        if file is None:
            names.pop(name, None)
        else:
            names[name] = file
