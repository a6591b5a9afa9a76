"""The members of a tar stream, one strict parser for ustar, GNU and pax form.

Each member is checked on its own: its kind, its path, its size, the look of its link target. What members make together
is `archive_tree`'s to judge.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Literal

import attrs

from chorus.sandbox.archive_limits import BLOCK, MAX_HEADER, BadArchive, Bounds
from chorus.sandbox.decompression import CHUNK, Source
from chorus.sandbox.tar_fields import check_sum, number, pax_records, text

MAX_GLOBAL_HEADERS = 16
"""Extended headers in a row before a member: a chain of them is a way to work without ever yielding."""

Kind = Literal["file", "directory", "symlink", "hardlink"]


@attrs.frozen
class Member:
    """One entry, its path normalised and relative. `target`: a symlink's as written, a hard link's as a path."""

    path: str
    kind: Kind
    size: int = 0
    mode: int = 0o644
    mtime: int = 0
    target: str = ""


_KINDS: dict[bytes, Kind] = {
    b"0": "file", b"\0": "file", b"7": "file", b"1": "hardlink", b"2": "symlink", b"5": "directory",
}  # fmt: skip
_REFUSED = {b"3": "a character device", b"4": "a block device", b"6": "a fifo", b"S": "a sparse file"}


def _name(block: bytes) -> str:
    name = text(block[0:100])
    # The prefix field is ustar's own; GNU's old format keeps times there.
    if block[257:263] == b"ustar\0" and (prefix := text(block[345:500])):
        return f"{prefix}/{name}"
    return name


def _kind(kind: bytes, name: str, shown: str) -> Kind:
    if kind in _REFUSED:
        raise BadArchive(f"{shown!r} is {_REFUSED[kind]}")
    # Old writers mark a directory by its slash alone.
    found = "directory" if kind in b"0\0" and name.endswith("/") else _KINDS.get(kind)
    if found is None:
        raise BadArchive(f"{shown!r} is of an unknown kind ({kind!r})")
    return found


def _size(block: bytes, pax: dict[str, str], shown: str) -> int:
    size = number(block[124:136], "size")
    if "size" in pax:
        if not (pax["size"].isascii() and pax["size"].isdigit() and len(pax["size"]) < 20):
            raise BadArchive(f"{shown!r} has no valid size")
        size = int(pax["size"])
    return size


class TarReader:
    """Iterates the members of a stream; the body of the last one is read through `body`."""

    def __init__(self, source: Source, bounds: Bounds) -> None:
        self._source = source
        self._bounds = bounds
        self._left = 0
        self._padding = 0
        self._seen = 0
        self._size = 0

    def __iter__(self) -> Iterator[Member]:
        while True:
            member = self._next()
            if member is None:
                return
            if member.path:
                yield member

    def body(self) -> Iterator[bytes]:
        """The bytes of the member just yielded."""
        while self._left:
            data = self._source.take(min(self._left, CHUNK))
            if not data:
                raise BadArchive("the archive ends in the middle of a file")
            self._left -= len(data)
            yield data
        self._source.exactly(self._padding, "a file")
        self._padding = 0

    def _next(self) -> Member | None:
        for _ in self.body():
            pass
        name = target = ""
        pax: dict[str, str] = {}
        for _ in range(MAX_GLOBAL_HEADERS):
            block = self._header()
            if block is None:
                if name or target or pax:
                    raise BadArchive("an extended header without its member")
                return None
            kind = block[156:157]
            if kind not in b"xgLK":
                return self._member(block, kind, name, target, pax)
            data = self._extended(block)
            if kind == b"x":
                pax.update(pax_records(data))
            elif kind == b"L":
                name = text(data)
            elif kind == b"K":
                target = text(data)
            elif kind == b"g" and not {"path", "linkpath", "size"}.isdisjoint(pax_records(data)):
                raise BadArchive("a global header that renames members")
        raise BadArchive("too many extended headers in a row")

    def _header(self) -> bytes | None:
        block = self._source.take(BLOCK)
        # Zeros end an archive; some writers leave them out.
        if not block or not block.strip(b"\0"):
            return None
        if len(block) < BLOCK:
            raise BadArchive("the archive ends in the middle of a header")
        check_sum(block)
        return block

    def _extended(self, block: bytes) -> bytes:
        size = number(block[124:136], "size")
        if size > MAX_HEADER:
            raise BadArchive(f"an extended header of {size} bytes (at most {MAX_HEADER})")
        data = self._source.exactly(size + -size % BLOCK, "an extended header")
        return data[:size]

    def _member(self, block: bytes, kind: bytes, name: str, target: str, pax: dict[str, str]) -> Member:
        if any(key.startswith("GNU.sparse") for key in pax):
            raise BadArchive("a sparse file; pack it without --sparse")
        name = pax.get("path", name or _name(block))
        shown = name[:80].encode("utf-8", "backslashreplace").decode()
        found = _kind(kind, name, shown)
        size = _size(block, pax, shown)
        if found != "file":
            size = 0
        self._count(size)
        self._left, self._padding = size, -size % BLOCK
        target = pax.get("linkpath", target or text(block[157:257]))
        path = self._path(name, shown)
        if not path and found != "directory":
            raise BadArchive("a member without a name")
        if found == "hardlink":
            target = self._path(target, shown)
        elif found == "symlink":
            self._link(target, shown)
        mtime = min(max(number(block[136:148], "time"), 0), 1 << 33)
        return Member(path, found, size, number(block[100:108], "mode") & 0o777, mtime, target)

    def _count(self, size: int) -> None:
        self._seen += 1
        self._size += size
        if self._seen > self._bounds.max_members:
            raise BadArchive(f"more than {self._bounds.max_members} members")
        if self._size > self._bounds.max_bytes:
            raise BadArchive(f"the archive holds more than {self._bounds.max_bytes} bytes")

    def _path(self, name: str, shown: str) -> str:
        if name.startswith("/"):
            raise BadArchive(f"{shown!r} is an absolute path")
        if "\0" in name or len(os.fsencode(name)) > self._bounds.max_path:
            raise BadArchive(f"{shown!r}: a path of more than {self._bounds.max_path} bytes, or with a NUL in it")
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise BadArchive(f"{shown!r} climbs with '..'")
        if len(parts) > self._bounds.max_depth:
            raise BadArchive(f"{shown!r} is more than {self._bounds.max_depth} levels deep")
        if any(len(os.fsencode(part)) > self._bounds.max_component for part in parts):
            raise BadArchive(f"{shown!r} has a name of more than {self._bounds.max_component} bytes")
        return "/".join(parts)

    def _link(self, target: str, shown: str) -> None:
        if not target or target.startswith("/") or "\0" in target or len(os.fsencode(target)) > self._bounds.max_path:
            raise BadArchive(f"{shown!r} is a link to {target[:80]!r}: links must be relative and stay in the archive")
