"""Reading a user's tar archive without believing it: one strict parser, every limit checked while bytes stream.

Takes plain, gzip, bzip2 and xz archives in ustar, GNU and pax form. Refused with `BadArchive`: absolute paths, `..`,
links that leave the tree, members below a link, hard links to what is not a file of the same archive, devices, fifos,
sparse files, duplicates, and whatever passes a limit. Set-id bits are dropped. All of it blocks: call it in a thread.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import lzma
import os
import shutil
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Literal, Protocol

import attrs

from chorus.errors import UserError

BLOCK = 512
CHUNK = 256 * 1024

MAX_HEADER = 64 * 1024
"""Bytes of one extended header (long names, pax records): it is held in memory."""

MAX_GLOBAL_HEADERS = 16
"""Extended headers in a row before a member: a chain of them is a way to work without ever yielding."""

MAX_LINKS_FOLLOWED = 40
"""As the kernel's own limit for a path."""

LINK_STEPS = 100_000
LINK_STEPS_PER_MEMBER = 10
"""Path components walked to check all links of an archive: so many, and so many more for each of its entries."""

STEPS_PER_STOP = 1024
"""Such steps between two questions to `stop`."""

XZ_MEMORY = 192 * 1024 * 1024
"""What an xz dictionary may take (the largest preset needs 65 MiB)."""

MAX_STREAMS = 20_000
"""Compressed streams one after the other: each may be empty and still costs work."""

RATIO_FLOOR = 32 * 1024 * 1024
"""Below this many unpacked bytes the compression ratio does not matter."""

Kind = Literal["file", "directory", "symlink", "hardlink"]


class BadArchive(UserError):
    """The input archive is broken, dangerous or over a limit; the text names the member and what is wrong with it."""

    code = "bad_archive"
    http_status = 422


class Interrupted(Exception):
    """`stop()` said so: the run was cancelled while its input was unpacked."""


class NoSpace(Exception):
    """The tree does not fit where it is unpacked to."""


@attrs.frozen
class Bounds:
    """Limits of one archive."""

    max_bytes: int = 1 << 30
    """Of all files together, unpacked."""
    max_members: int = 100_000
    """Inodes and memory: one entry costs a few hundred bytes here. Directories that are only implied count as well."""
    max_names: int = 32 << 20
    """Characters of all paths and link targets together, implied directories too: they are held in memory."""
    max_path: int = 1024
    """Bytes of a member's path; deeper trees break tools inside."""
    max_component: int = 255
    """Bytes of one name: the file system's own limit."""
    max_depth: int = 48
    max_ratio: int = 250
    """Unpacked to packed bytes, past `RATIO_FLOOR`; text reaches 20, logs 100."""


@attrs.frozen
class Member:
    """One entry, its path normalised and relative. `target`: a symlink's as written, a hard link's as a path."""

    path: str
    kind: Kind
    size: int = 0
    mode: int = 0o644
    mtime: int = 0
    target: str = ""


@attrs.frozen
class Unpacked:
    """What was written."""

    members: int
    size: int


# -- streams ---------------------------------------------------------------------------------------------------------


class _Decompressor(Protocol):
    """The common part of the three standard decompressors."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


class _Gzip:
    """zlib's decompressor with the same face as bz2's and lzma's: it keeps what it has not taken yet."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)
        self._left = b""

    def decompress(self, data: bytes, max_length: int = CHUNK) -> bytes:
        out = self._inner.decompress(self._left + data, max_length)
        self._left = self._inner.unconsumed_tail
        return out

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._left


def _factory(head: bytes) -> Callable[[], _Decompressor] | None:
    if head.startswith(b"\x1f\x8b"):
        return _Gzip
    if head.startswith(b"BZh"):
        return bz2.BZ2Decompressor
    if head.startswith(b"\xfd7zXZ\x00"):
        return lambda: lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
    return None


class _Source:
    """Unpacked bytes of the archive, counted against the limits as they come."""

    def __init__(self, file: IO[bytes], bounds: Bounds, stop: Callable[[], bool]) -> None:
        self._file = file
        self._bounds = bounds
        self._stop = stop
        head = file.read(6)
        file.seek(0)
        self._new = _factory(head)
        self._decompressor = self._new() if self._new else None
        self._buffer = b""
        self._packed = 0
        self._streams = 1
        self._total = 0
        # Headers and padding come on top of the files' bytes.
        self._ceiling = bounds.max_bytes + bounds.max_members * (4 * BLOCK) + MAX_HEADER

    def take(self, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        parts = []
        while size > 0:
            if not self._buffer:
                self._buffer = self._more()
                if not self._buffer:
                    break
            part, self._buffer = self._buffer[:size], self._buffer[size:]
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def exactly(self, size: int, what: str) -> bytes:
        data = self.take(size)
        if len(data) != size:
            raise BadArchive(f"the archive ends in the middle of {what}")
        return data

    def _more(self) -> bytes:
        if self._stop():
            raise Interrupted
        data = self._raw() if self._decompressor is None else self._inflate()
        self._total += len(data)
        if self._total > self._ceiling:
            raise BadArchive(f"the archive holds more than {self._bounds.max_bytes} bytes")
        if self._total > RATIO_FLOOR and self._total > self._packed * self._bounds.max_ratio:
            raise BadArchive(f"the archive grows more than {self._bounds.max_ratio} times when unpacked")
        return data

    def _raw(self) -> bytes:
        data = self._file.read(CHUNK)
        self._packed += len(data)
        return data

    def _inflate(self) -> bytes:
        while True:
            decompressor = self._decompressor
            assert decompressor is not None and self._new is not None
            feed, starved = b"", False
            if decompressor.eof:
                # Concatenated streams are one archive, as gzip and xz themselves say; what else follows is not read.
                self._streams += 1
                if self._streams > MAX_STREAMS:
                    raise BadArchive(f"more than {MAX_STREAMS} compressed streams in a row")
                rest = decompressor.unused_data or self._raw()
                if not rest or _factory(rest) is None:
                    return b""
                self._decompressor = decompressor = self._new()
                feed = rest
            elif decompressor.needs_input:
                feed = self._raw()
                starved = not feed
            try:
                data = decompressor.decompress(feed, CHUNK)
            except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
                raise BadArchive(f"the archive does not decompress: {error}") from None
            if data:
                return data
            # Asked once more without input before this: zlib may hold back bytes that did not fit the last time.
            if starved and not decompressor.eof:
                raise BadArchive("the compressed archive is cut short")


# -- headers ---------------------------------------------------------------------------------------------------------


def _text(field: bytes) -> str:
    return os.fsdecode(field.split(b"\0", 1)[0])


def _number(field: bytes, what: str) -> int:
    """Octal, or GNU's base-256. Negative numbers are refused: sizes that go backwards have hung readers."""
    if field[0] & 0x80:
        if field[0] != 0x80:
            raise BadArchive(f"a negative or absurd {what} in a header")
        return int.from_bytes(field[1:], "big")
    digits = field.split(b"\0", 1)[0].strip()
    if not digits:
        return 0
    if not all(0x30 <= digit <= 0x37 for digit in digits):
        raise BadArchive(f"a {what} in a header is no number")
    return int(digits, 8)


def _check_sum(block: bytes) -> None:
    digits = block[148:156].strip(b" \0")
    stored = int(digits, 8) if digits and not digits.strip(b"01234567") else -1
    blank = block[:148] + b" " * 8 + block[156:]
    signed = sum(byte - 256 if byte > 127 else byte for byte in blank)
    if stored not in (sum(blank), signed):
        raise BadArchive("this is no tar archive (a header's checksum is wrong)")


def _pax(data: bytes) -> dict[str, str]:
    """`<length> <key>=<value>\\n` records."""
    records: dict[str, str] = {}
    at = 0
    while at < len(data):
        space = data.find(b" ", at, at + 10)
        if space < 0 or not data[at:space].isdigit():
            raise BadArchive("a broken extended header")
        end = at + int(data[at:space])
        if end > len(data) or end <= space + 2 or data[end - 1 : end] != b"\n":
            raise BadArchive("a broken extended header")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals:
            raise BadArchive("a broken extended header")
        records[os.fsdecode(key)] = os.fsdecode(value)
        at = end
    return records


_KINDS: dict[bytes, Kind] = {
    b"0": "file", b"\0": "file", b"7": "file", b"1": "hardlink", b"2": "symlink", b"5": "directory",
}  # fmt: skip
_REFUSED = {b"3": "a character device", b"4": "a block device", b"6": "a fifo", b"S": "a sparse file"}


class _Reader:
    """Iterates the members of a stream; the body of the last one is read through `body`."""

    def __init__(self, source: _Source, bounds: Bounds) -> None:
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
            block = self._source.take(BLOCK)
            # Zeros end an archive; some writers leave them out.
            if not block or not block.strip(b"\0"):
                if name or target or pax:
                    raise BadArchive("an extended header without its member")
                return None
            if len(block) < BLOCK:
                raise BadArchive("the archive ends in the middle of a header")
            _check_sum(block)
            kind = block[156:157]
            if kind not in b"xgLK":
                return self._member(block, kind, name, target, pax)
            data = self._extended(block)
            if kind == b"x":
                pax.update(_pax(data))
            elif kind == b"L":
                name = _text(data)
            elif kind == b"K":
                target = _text(data)
            elif kind == b"g" and not {"path", "linkpath", "size"}.isdisjoint(_pax(data)):
                raise BadArchive("a global header that renames members")
        raise BadArchive("too many extended headers in a row")

    def _extended(self, block: bytes) -> bytes:
        size = _number(block[124:136], "size")
        if size > MAX_HEADER:
            raise BadArchive(f"an extended header of {size} bytes (at most {MAX_HEADER})")
        data = self._source.exactly(size + -size % BLOCK, "an extended header")
        return data[:size]

    def _member(self, block: bytes, kind: bytes, name: str, target: str, pax: dict[str, str]) -> Member:
        if any(key.startswith("GNU.sparse") for key in pax):
            raise BadArchive("a sparse file; pack it without --sparse")
        if not name:
            name = _text(block[0:100])
            # The prefix field is ustar's own; GNU's old format keeps times there.
            if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
                name = f"{prefix}/{name}"
        name = pax.get("path", name)
        shown = name[:80].encode("utf-8", "backslashreplace").decode()
        if kind in _REFUSED:
            raise BadArchive(f"{shown!r} is {_REFUSED[kind]}")
        # Old writers mark a directory by its slash alone.
        found = "directory" if kind in b"0\0" and name.endswith("/") else _KINDS.get(kind)
        if found is None:
            raise BadArchive(f"{shown!r} is of an unknown kind ({kind!r})")
        size = _number(block[124:136], "size")
        if "size" in pax:
            if not (pax["size"].isascii() and pax["size"].isdigit() and len(pax["size"]) < 20):
                raise BadArchive(f"{shown!r} has no valid size")
            size = int(pax["size"])
        if found != "file":
            size = 0
        self._count(size)
        self._left, self._padding = size, -size % BLOCK
        target = pax.get("linkpath", target or _text(block[157:257]))
        path = self._path(name, shown)
        if not path and found != "directory":
            raise BadArchive("a member without a name")
        if found == "hardlink":
            target = self._path(target, shown)
        elif found == "symlink":
            self._link(target, shown)
        mtime = min(max(_number(block[136:148], "time"), 0), 1 << 33)
        return Member(path, found, size, _number(block[100:108], "mode") & 0o777, mtime, target)

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


# -- the tree --------------------------------------------------------------------------------------------------------


class _Tree:
    """What the archive would make, held by names alone: says no before the disk is touched."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._names = 0
        self._steps = 0
        self.kinds: dict[str, Kind] = {"": "directory"}
        self.targets: dict[str, str] = {}
        self.new_directories: list[str] = []

    def add(self, member: Member) -> bool:
        """True when the member is new; a directory may be named again. `new_directories` gets the missing parents."""
        self.new_directories.clear()
        self._parents(member.path)
        there = self.kinds.get(member.path)
        if there is not None:
            if there == member.kind == "directory":
                return False
            raise BadArchive(f"{member.path!r} comes twice")
        if member.kind == "hardlink" and self.kinds.get(member.target) not in ("file", "hardlink"):
            raise BadArchive(
                f"{member.path!r} is a hard link to {member.target!r}, which is no earlier file of the archive"
            )
        self._enter(member.path, member.kind, len(member.target))
        if member.kind == "symlink":
            self.targets[member.path] = member.target
        return True

    def _parents(self, path: str) -> None:
        at = -1
        while (at := path.find("/", at + 1)) >= 0:
            parent = path[:at]
            kind = self.kinds.get(parent)
            if kind is None:
                self._enter(parent, "directory")
                self.new_directories.append(parent)
            elif kind != "directory":
                raise BadArchive(f"{path!r} lies below {parent!r}, which is a {kind}")

    def _enter(self, path: str, kind: Kind, target: int = 0) -> None:
        # The root is in `kinds` and does not count.
        if len(self.kinds) > self._bounds.max_members:
            raise BadArchive(f"more than {self._bounds.max_members} members and directories above them")
        self._names += len(path) + target
        if self._names > self._bounds.max_names:
            raise BadArchive(f"the paths in the archive are longer than {self._bounds.max_names} characters together")
        self.kinds[path] = kind

    def check_links(self, stop: Callable[[], bool]) -> None:
        """Follow every link through all others: text alone cannot say where `a/b/..` leads when `b` is a link."""
        deepest = max((path.count("/") + 1 for path in self.targets), default=0)
        for path in self.targets:
            self._follow(path, deepest, stop)

    def _step(self, stop: Callable[[], bool]) -> None:
        self._steps += 1
        if self._steps % STEPS_PER_STOP == 0 and stop():
            raise Interrupted
        if self._steps > LINK_STEPS + LINK_STEPS_PER_MEMBER * len(self.kinds):
            raise BadArchive("the links of the archive are too long to follow, or too many lead through one another")

    def _follow(self, path: str, deepest: int, stop: Callable[[], bool]) -> None:
        here = path.split("/")[:-1]
        pending = self.targets[path].split("/")[::-1]
        followed = 1
        while pending:
            self._step(stop)
            part = pending.pop()
            if part in ("", "."):
                continue
            if part == "..":
                if not here:
                    raise BadArchive(f"{path!r} is a link to {self.targets[path][:80]!r}, which leaves the archive")
                here.pop()
                continue
            here.append(part)
            # Below the deepest link there is none to find, and joining gets dear.
            target = self.targets.get("/".join(here)) if len(here) <= deepest else None
            if target is not None:
                followed += 1
                if followed > MAX_LINKS_FOLLOWED:
                    return  # A loop (or near it) leads nowhere, which is inside.
                here.pop()
                pending.extend(target.split("/")[::-1])


def _never() -> bool:
    return False


def listing(archive: Path, bounds: Bounds | None = None, stop: Callable[[], bool] = _never) -> tuple[Member, ...]:
    """Every member, checked as for unpacking; nothing is written. Raises `BadArchive`, `Interrupted`."""
    bounds = bounds or Bounds()
    tree = _Tree(bounds)
    with archive.open("rb") as file:
        found = tuple(member for member in _Reader(_Source(file, bounds, stop), bounds) if tree.add(member))
    tree.check_links(stop)
    return found


def names(archive: Path, bounds: Bounds | None = None) -> list[str]:
    """Paths of the members, for `languages.detect`. Raises `BadArchive`."""
    return [member.path for member in listing(archive, bounds)]


def unpack(
    archive: Path,
    into: Path,
    bounds: Bounds | None = None,
    *,
    owner: tuple[int, int] | None = None,
    stop: Callable[[], bool] = _never,
) -> Unpacked:
    """Write the tree into `into`, an existing directory that only the caller writes to. `owner` (uid, gid) needs root.

    All or nothing: on any error what was written is removed again. Raises `BadArchive`, `Interrupted`, `NoSpace`.
    """
    bounds = bounds or Bounds()
    root = os.open(into, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with archive.open("rb") as file:
            return _Writer(root, owner, bounds).write(_Reader(_Source(file, bounds, stop), bounds), stop)
    except BaseException as error:
        _clear(into)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(str(into)) from None
        raise
    finally:
        os.close(root)


def _clear(directory: Path) -> None:
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(entry.path)


class _Writer:
    """Writes members below a directory, each step relative to an open directory and never through a link."""

    def __init__(self, root: int, owner: tuple[int, int] | None, bounds: Bounds) -> None:
        self._root = root
        self._owner = owner
        self._tree = _Tree(bounds)
        self._directories: list[Member] = []
        self._parent: tuple[str, int] | None = None

    def write(self, reader: _Reader, stop: Callable[[], bool]) -> Unpacked:
        members = size = 0
        try:
            for member in reader:
                new = self._tree.add(member)
                for path in self._tree.new_directories:
                    self._make(Member(path, "directory", mode=0o755))
                if new:
                    self._make(member, reader)
                members += 1
                size += member.size
            self._tree.check_links(stop)
            for member in reversed(self._directories):
                self._finish_directory(member)
        finally:
            self._leave()
        return Unpacked(members, size)

    def _make(self, member: Member, reader: _Reader | None = None) -> None:
        directory, _, leaf = member.path.rpartition("/")
        parent = self._enter(directory)
        if member.kind == "directory":
            os.mkdir(leaf, 0o700, dir_fd=parent)
            self._directories.append(member)
        elif member.kind == "symlink":
            os.symlink(member.target, leaf, dir_fd=parent)
            if self._owner:
                os.chown(leaf, *self._owner, dir_fd=parent, follow_symlinks=False)
        elif member.kind == "hardlink":
            os.link(member.target, leaf, src_dir_fd=self._root, dst_dir_fd=parent, follow_symlinks=False)
        elif reader is not None:
            self._make_file(member, leaf, parent, reader)

    def _make_file(self, member: Member, leaf: str, parent: int, reader: _Reader) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(leaf, flags, 0o600, dir_fd=parent)
        try:
            for data in reader.body():
                view = memoryview(data)
                while view:
                    view = view[os.write(fd, view) :]
            if self._owner:
                os.fchown(fd, *self._owner)
            os.fchmod(fd, stat.S_IMODE(member.mode) & 0o777 | 0o600)
            os.utime(fd, (member.mtime, member.mtime))
        finally:
            os.close(fd)

    def _finish_directory(self, member: Member) -> None:
        directory, _, leaf = member.path.rpartition("/")
        fd = os.open(leaf, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=self._enter(directory))
        try:
            if self._owner:
                os.fchown(fd, *self._owner)
            os.fchmod(fd, member.mode & 0o777 | 0o700)
            os.utime(fd, (member.mtime, member.mtime))
        finally:
            os.close(fd)

    def _enter(self, path: str) -> int:
        """An open directory; the last one is kept, since members come folder by folder."""
        if not path:
            return self._root
        if self._parent and self._parent[0] == path:
            return self._parent[1]
        self._leave()
        fd = os.dup(self._root)
        for part in path.split("/"):
            try:
                deeper = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            finally:
                os.close(fd)
            fd = deeper
        self._parent = (path, fd)
        return fd

    def _leave(self) -> None:
        if self._parent:
            os.close(self._parent[1])
            self._parent = None
