"""One entry of an archive, whatever its format, and the rules that each has to keep by itself.

Formats differ in how they write an entry; the rules for one entry are the same, and stand here. The rules for entries
together are in `tree`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Literal, Protocol

import attrs

from chorus.sandbox.archive.limits import BadArchive, Bounds

Kind = Literal["file", "directory", "symlink", "hardlink"]

LATEST = 1 << 33
"""Unix seconds, in the year 2242: times of entries are held between 1970 and this, which every file system can keep."""


@attrs.frozen
class ArchiveMember:
    """One entry, its path normalised and relative. `target`: a symlink's as written, a hard link's as a path."""

    path: str
    kind: Kind
    size: int = 0
    mode: int = 0o644
    mtime: int = 0
    target: str = ""


class ArchiveReader(Protocol):
    """Iterates the members of an archive; the body of the last one is read through `body`."""

    def __iter__(self) -> Iterator[ArchiveMember]: ...

    def body(self) -> Iterator[bytes]: ...


class Rules:
    """Checks entries one by one, and counts them."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._seen = 0
        self._size = 0

    def member(self, name: str, kind: Kind, size: int, mode: int, mtime: int, target: str) -> ArchiveMember:
        """The entry as it may be used: set-id bits dropped, its time held in range. Raises `BadArchive`."""
        shown = display(name)
        self._count(size)
        path = self._path(name, shown)
        if not path and kind != "directory":
            raise BadArchive("a member without a name")
        if kind == "hardlink":
            target = self._path(target, shown)
        elif kind == "symlink":
            self._link(target, shown)
        return ArchiveMember(path, kind, size, mode & 0o777, min(max(mtime, 0), LATEST), target)

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


def display(name: str) -> str:
    """The name in a refusal: no longer than a line, and text whatever its bytes are."""
    return name[:80].encode("utf-8", "backslashreplace").decode()
