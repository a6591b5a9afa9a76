"""The members of a tar stream, one strict parser for ustar, GNU and pax form.

Fields that delimit members are read strictly (kinds, sizes, checksums); those that describe a file are not (times,
modes, owners). Labels of volumes are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator

from chorus.sandbox.archive.decompression import CHUNK, PackedSource
from chorus.sandbox.archive.limits import BLOCK, MAX_HEADER, BadArchive, Bounds
from chorus.sandbox.archive.member import ArchiveMember, Kind, Rules, display
from chorus.sandbox.archive.tar_fields import check_sum, loose, number, pax_records, text

MAX_GLOBAL_HEADERS = 16
"""Extended headers in a row before a member: a chain of them is a way to work without ever yielding."""

MODES: dict[Kind, int] = {"file": 0o644, "directory": 0o755, "symlink": 0o777, "hardlink": 0o644}
"""Of a member whose header has none that can be read."""

_KINDS: dict[bytes, Kind] = {
    b"0": "file", b"\0": "file", b"7": "file", b"1": "hardlink", b"2": "symlink", b"5": "directory", b"D": "directory",
}  # fmt: skip
_REFUSED = {
    b"3": "is a character device",
    b"4": "is a block device",
    b"6": "is a fifo",
    b"S": "is a sparse file; pack it without --sparse (bsdtar: with --no-read-sparse)",
    b"M": "began in another volume; pack it into one volume",
}
_WITH_BODY = b"0\x007DV"
"""Kinds that bytes follow: a folder of GNU's incremental archives (D) has the names that were in it."""

_VOLUMES = frozenset({"GNU.volume.filename", "GNU.volume.offset", "GNU.volume.size"})
"""Records of a file that began in another volume, in pax form."""


def _name(block: bytes) -> str:
    name = text(block[0:100])
    # The prefix field is ustar's own; GNU's old format keeps times there, and star's behind a shorter one.
    end = 476 if block[508:512] == b"tar\0" else 500
    if block[257:263] == b"ustar\0" and (prefix := text(block[345:end])):
        return f"{prefix}/{name}"
    return name


def _kind(kind: bytes, name: str) -> Kind:
    if kind in _REFUSED:
        raise BadArchive(f"{display(name)!r} {_REFUSED[kind]}")
    # Old writers mark a directory by its slash alone.
    found = "directory" if kind in b"0\0" and name.endswith("/") else _KINDS.get(kind)
    if found is None:
        raise BadArchive(f"{display(name)!r} is of an unknown kind ({kind!r})")
    return found


def _size(block: bytes, pax: dict[str, str], name: str) -> int:
    size = number(block[124:136], "size")
    if "size" in pax:
        if not (pax["size"].isascii() and pax["size"].isdigit() and len(pax["size"]) < 20):
            raise BadArchive(f"{display(name)!r} has no valid size")
        size = int(pax["size"])
    return size


class TarReader:
    """Iterates the members of a stream; the body of the last one is read through `body`."""

    def __init__(self, source: PackedSource, bounds: Bounds) -> None:
        self._source = source
        self._rules = Rules(bounds)
        self._left = 0
        self._padding = 0

    def __iter__(self) -> Iterator[ArchiveMember]:
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
                raise BadArchive("the archive ends in the middle of a file: it is cut short, or one volume of several")
            self._left -= len(data)
            yield data
        self._source.exactly(self._padding, "a file")
        self._padding = 0

    def _skip(self) -> None:
        for _ in self.body():
            pass

    def _next(self) -> ArchiveMember | None:
        self._skip()
        name = target = ""
        pax: dict[str, str] = {}
        for _ in range(MAX_GLOBAL_HEADERS):
            block = self._header()
            if block is None:
                if name or target or pax:
                    raise BadArchive("an extended header without its member")
                return None
            kind = block[156:157]
            if kind == b"V":
                self._expect(number(block[124:136], "size"))
                self._skip()
                name, target, pax = "", "", {}
                continue
            if kind not in b"xXgLK":
                return self._member(block, kind, name, target, pax)
            data = self._extended(block)
            if kind in b"xX":
                pax.update(pax_records(data))
            elif kind == b"L":
                name = text(data)
            elif kind == b"K":
                target = text(data)
            else:
                _check_global(pax_records(data))
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

    def _member(self, block: bytes, kind: bytes, name: str, target: str, pax: dict[str, str]) -> ArchiveMember:
        name = pax.get("path", name or _name(block))
        if any(key.startswith("GNU.sparse") for key in pax):
            raise BadArchive(f"{display(name)!r} {_REFUSED[b'S']}")
        found = _kind(kind, name)
        following = _size(block, pax, name)
        size = following if found == "file" else 0
        mode = loose(block[100:108])
        member = self._rules.member(
            name,
            found,
            size,
            MODES[found] if mode is None else mode,
            loose(block[136:148]) or 0,
            pax.get("linkpath", target or text(block[157:257])),
        )
        self._expect(following if kind in _WITH_BODY else 0)
        return member

    def _expect(self, size: int) -> None:
        """So many bytes follow the header just read. `PackedSource` bounds them, whosever they are."""
        self._left, self._padding = size, -size % BLOCK


def _check_global(records: dict[str, str]) -> None:
    if not {"path", "linkpath", "size"}.isdisjoint(records):
        raise BadArchive("a global header that renames members")
    if not _VOLUMES.isdisjoint(records):
        raise BadArchive(f"the archive begins with a file that {_REFUSED[b'M']}")
