"""Reads the members of a zip archive by the same rules as those of a tar.

The directory at its end says what there is; each entry's own header must say the same, entries may not share bytes, and
every body must have the size and checksum that it claims. Bytes are counted while they stream. Blocking.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from typing import IO

from chorus.sandbox.archive.decompression import CHUNK, RATIO_FLOOR
from chorus.sandbox.archive.limits import BadArchive, Bounds, Interrupted
from chorus.sandbox.archive.member import ArchiveMember, Rules, display
from chorus.sandbox.archive.zip_directory import STORED, ZipEntry, begin_body, find_directory, read_entries

DAMAGED = "the zip archive is damaged"


class ZipReader:
    """Iterates the members in the order of their bytes; the body of the last one is read through `body`."""

    def __init__(self, file: IO[bytes], bounds: Bounds, stop: Callable[[], bool]) -> None:
        self._file = file
        self._bounds = bounds
        self._stop = stop
        self._rules = Rules(bounds)
        self._entry: ZipEntry | None = None
        self._packed = 0
        self._unpacked = 0

    def __iter__(self) -> Iterator[ArchiveMember]:
        directory = find_directory(self._file, self._bounds)
        entries = sorted(read_entries(self._file, directory, self._bounds, self._stop), key=lambda entry: entry.offset)
        free = 0
        for entry in entries:
            if self._stop():
                raise Interrupted
            start = begin_body(self._file, entry)
            if entry.offset < free or start + entry.packed > directory.start:
                raise BadArchive(f"{DAMAGED}: {display(entry.name)!r} overlaps with another entry")
            free = start + entry.packed
            member = self._member(entry)
            if member.path:
                yield member

    def body(self) -> Iterator[bytes]:
        """The bytes of the member just yielded; once."""
        entry, self._entry = self._entry, None
        if entry is None:
            return
        size = crc = 0
        for data in self._stored(entry) if entry.method == STORED else self._inflated(entry):
            size += len(data)
            crc = zlib.crc32(data, crc)
            if size > entry.size:
                break
            self._count(len(data))
            yield data
        if (size, crc) != (entry.size, entry.crc):
            raise BadArchive(f"{DAMAGED}: {display(entry.name)!r} is not what its size and checksum say")

    def _member(self, entry: ZipEntry) -> ArchiveMember:
        """The entry as a member. What a link leads to is its body."""
        self._entry = entry if entry.kind != "directory" else None
        target = ""
        if entry.kind == "symlink":
            if entry.size > self._bounds.max_path:
                raise BadArchive(f"{display(entry.name)!r} is a link with a target of {entry.size} bytes")
            target = b"".join(self.body()).decode("utf-8", "surrogateescape")
        size = entry.size if entry.kind == "file" else 0
        return self._rules.member(entry.name, entry.kind, size, entry.mode, entry.mtime, target)

    def _count(self, size: int) -> None:
        self._unpacked += size
        if self._unpacked > RATIO_FLOOR and self._unpacked > self._packed * self._bounds.max_ratio:
            raise BadArchive(f"the archive grows more than {self._bounds.max_ratio} times when unpacked")

    def _raw(self, entry: ZipEntry) -> Iterator[bytes]:
        """The entry's bytes as they are in the file, which stands where they begin."""
        left = entry.packed
        while left:
            if self._stop():
                raise Interrupted
            data = self._file.read(min(left, CHUNK))
            if not data:
                raise BadArchive(f"{DAMAGED}: it ends in the middle of {display(entry.name)!r}")
            left -= len(data)
            self._packed += len(data)
            yield data

    _stored = _raw

    def _inflated(self, entry: ZipEntry) -> Iterator[bytes]:
        inflate = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
        try:
            for piece in self._raw(entry):
                left = piece
                while left and not inflate.eof:
                    if data := inflate.decompress(left, CHUNK):
                        yield data
                    left = inflate.unconsumed_tail
                # Also a whole piece that comes after the end.
                if left or inflate.unused_data:
                    raise BadArchive(f"{DAMAGED}: something follows the end of {display(entry.name)!r}")
            while not inflate.eof and (data := inflate.decompress(b"", CHUNK)):
                yield data
        except zlib.error as error:
            raise BadArchive(f"{DAMAGED}: {display(entry.name)!r} does not decompress: {error}") from None
        if not inflate.eof:
            raise BadArchive(f"{DAMAGED}: {display(entry.name)!r} is cut short")
