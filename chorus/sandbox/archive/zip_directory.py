"""The central directory of a zip archive, read strictly: one list of entries, each with where its bytes are.

After PKWARE's APPNOTE 6.3.10; names and times also by Info-ZIP's extra fields. Whatever would let two readers of the
same bytes see two archives is refused: bytes before or behind the archive, counts and sizes that contradict each other.
Blocking.
"""

from __future__ import annotations

import calendar
import stat
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import IO

import attrs

from chorus.sandbox.archive.limits import BadArchive, Bounds, Interrupted
from chorus.sandbox.archive.member import Kind, display

MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
"""How a zip begins: with an entry, with its end where it is empty, or with the mark of one that has several volumes."""

MAX_COMMENT = 0xFFFF
"""Bytes behind the end record, which is looked for from the end of the file."""

ENTRIES_PER_STOP = 1024
"""Entries read between two questions to `stop`."""

MAX_FIELDS = 64
"""Extra fields read of one entry: people's have five, and each costs work though it may be empty."""

ENCRYPTED = 1 << 0 | 1 << 6 | 1 << 13
"""Flags: traditional, strong, and the directory itself."""
DESCRIBED_LATER = 1 << 3
"""Flag: sizes and checksum follow the data; the directory has them."""
_UTF8 = 1 << 11

STORED, DEFLATED, _AES = 0, 8, 99
_METHODS = {9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "xz"}

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")

_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
"""Such a value stands in the zip64 extra field instead."""
_ZIP64, _UNIX_TIME, _UNICODE_PATH = 0x0001, 0x5455, 0x7075

_FAT, _UNIX, _OS_X = 0, 3, 19
"""Systems that an archive was made on."""
_DOS_FOLDER = 0x10

_SPECIAL = {
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFIFO: "a fifo",
    stat.S_IFSOCK: "a socket",
}


@attrs.frozen
class ZipEntry:
    """One entry as the directory has it. `size` and `packed` in bytes, `offset` that of its local header."""

    raw_name: bytes
    name: str
    kind: Kind
    mode: int
    mtime: int
    method: int
    flags: int
    crc: int
    packed: int
    size: int
    offset: int


@attrs.frozen
class Directory:
    """The place where the entries are listed: `count` of them between `start` and `end`."""

    count: int
    start: int
    end: int


def is_zip(head: bytes) -> bool:
    return head.startswith(MAGIC)


def find_directory(file: IO[bytes], bounds: Bounds) -> Directory:
    """By the record at the very end of the file. Raises `BadArchive`."""
    length = file.seek(0, 2)
    tail_at = max(0, length - _END.size - MAX_COMMENT)
    file.seek(tail_at)
    tail = file.read()
    at = len(tail)
    while (at := tail.rfind(b"PK\x05\x06", 0, at + 3)) >= 0:
        if at + _END.size <= len(tail):
            found = _END.unpack_from(tail, at)
            # A comment may hold the same four bytes: the right record is the one whose comment ends with the file.
            if at + _END.size + found[7] == len(tail):
                return _directory(file, found[1:7], tail_at + at, bounds)
    raise BadArchive("the zip archive has no end: it is cut short, or something follows it")


def _directory(file: IO[bytes], found: tuple[int, ...], at: int, bounds: Bounds) -> Directory:
    end = at
    if (long := _zip64_end(file, at)) is not None:
        end, values = long
        if any(short not in (value, _FULL16, _FULL32) for short, value in zip(found, values, strict=True)):
            raise BadArchive("the zip archive is damaged: its two ends contradict each other")
        found = values
    disk, first_disk, here, count, size, start = found
    if disk or first_disk or here != count:
        raise BadArchive("the zip archive is one volume of several; pack it into one")
    if count > bounds.max_members:
        raise BadArchive(f"more than {bounds.max_members} members")
    if start + size != end:
        raise BadArchive("the zip archive is damaged: its directory is not where its end says")
    return Directory(count, start, end)


def _zip64_end(file: IO[bytes], at: int) -> tuple[int, tuple[int, ...]] | None:
    """The place of the long form of the end record, and its values; None where there is none before the short one."""
    locator_at = at - _END64_LOCATOR.size
    if locator_at < 0:
        return None
    file.seek(locator_at)
    mark, _, record_at, _ = _END64_LOCATOR.unpack(file.read(_END64_LOCATOR.size))
    if mark != b"PK\x06\x07":
        return None
    # Right before its locator: nobody writes a longer one, with fields of their own.
    if record_at + _END64.size == locator_at:
        file.seek(record_at)
        record = _END64.unpack(file.read(_END64.size))
        if record[0] == b"PK\x06\x06" and record[1] == _END64.size - 12:
            return record_at, record[4:]
    raise BadArchive("the zip archive is damaged: its zip64 end is not where it says")


def read_entries(file: IO[bytes], directory: Directory, bounds: Bounds, stop: Callable[[], bool]) -> Iterator[ZipEntry]:
    """The entries in the directory's own order. Raises `BadArchive`, `Interrupted`."""
    file.seek(directory.start)
    names = 0
    at = directory.start
    for number in range(directory.count):
        if number % ENTRIES_PER_STOP == 0 and stop():
            raise Interrupted
        header = file.read(_CENTRAL.size)
        if len(header) < _CENTRAL.size or not header.startswith(b"PK\x01\x02"):
            raise BadArchive("the zip archive is damaged: its directory ends before its last entry")
        fields = _CENTRAL.unpack(header)
        name_size, extra_size, comment_size = fields[10:13]
        rest = file.read(name_size + extra_size + comment_size)
        at += len(header) + len(rest)
        if len(rest) < name_size + extra_size + comment_size or at > directory.end:
            raise BadArchive("the zip archive is damaged: its directory ends before its last entry")
        names += name_size
        if names > bounds.max_names:
            raise BadArchive(f"the paths in the archive are longer than {bounds.max_names} characters together")
        yield _entry(fields, rest[:name_size], extra_fields(rest[name_size : name_size + extra_size]))
    if at != directory.end:
        raise BadArchive("the zip archive is damaged: its directory goes on behind its last entry")


def _entry(fields: tuple[int, ...], raw: bytes, extra: dict[int, bytes]) -> ZipEntry:
    _, made_by, _, flags, method, time, date, crc, packed, size, _, _, _, disk, _, attributes, offset = fields
    system = made_by >> 8
    name = _name(raw, flags, system, extra)
    shown = display(name)
    if flags & ENCRYPTED or method == _AES:
        raise BadArchive(f"{shown!r} is encrypted; pack it without a password")
    if method not in (STORED, DEFLATED):
        known = _METHODS.get(method, f"method {method}")
        raise BadArchive(f"{shown!r} is compressed with {known}; pack it with deflate, as zip does by default")
    size, packed, offset = _long(extra.get(_ZIP64, b""), size, packed, offset)
    if disk not in (0, _FULL16):
        raise BadArchive("the zip archive is one volume of several; pack it into one")
    unix = attributes >> 16 if system in (_UNIX, _OS_X) else 0
    kind = _kind(name, unix, bool(attributes & _DOS_FOLDER), shown)
    if kind == "directory" and size:
        raise BadArchive(f"{shown!r} is a folder with content")
    mode = unix & 0o777 or (0o755 if kind == "directory" else 0o644)
    mtime = _mtime(extra.get(_UNIX_TIME, b""), date, time)
    return ZipEntry(raw, name, kind, mode, mtime, method, flags, crc, packed, size, offset)


def extra_fields(data: bytes) -> dict[int, bytes]:
    """By their tag; the first of each counts. Aligned archives leave padding at the end, which is ignored."""
    found: dict[int, bytes] = {}
    at = 0
    for _ in range(MAX_FIELDS):
        if at + 4 > len(data):
            break
        tag, size = struct.unpack_from("<2H", data, at)
        if at + 4 + size > len(data):
            break
        found.setdefault(tag, data[at + 4 : at + 4 + size])
        at += 4 + size
    return found


def _long(extra: bytes, *values: int) -> list[int]:
    """Values with those that did not fit replaced by what the zip64 field has, in the same order."""
    found: list[int] = []
    at = 0
    for value in values:
        if value != _FULL32 or not extra:
            found.append(value)
            continue
        if at + 8 > len(extra):
            raise BadArchive("the zip archive is damaged: a zip64 field is too short")
        found.append(int.from_bytes(extra[at : at + 8], "little"))
        at += 8
    return found


def _name(raw: bytes, flags: int, system: int, extra: dict[int, bytes]) -> str:
    """UTF-8 where it says so or is so; else code page 437, as the format has it."""
    name = _unicode_path(raw, extra.get(_UNICODE_PATH, b""))
    if name is None:
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            if flags & _UTF8:
                raise BadArchive(f"a name in the zip archive is not the UTF-8 that it says: {raw[:80]!r}") from None
            name = raw.decode("cp437")
    # Old writers on Windows have their own separators, against the format.
    return name.replace("\\", "/") if system == _FAT and "/" not in name else name


def _unicode_path(raw: bytes, field: bytes) -> str | None:
    """Info-ZIP's name beside the name, which counts only where it was made for this one."""
    if len(field) < 5 or field[0] != 1 or int.from_bytes(field[1:5], "little") != zlib.crc32(raw):
        return None
    try:
        return field[5:].decode()
    except UnicodeDecodeError:
        return None


def _kind(name: str, unix: int, dos_folder: bool, shown: str) -> Kind:
    if (special := _SPECIAL.get(stat.S_IFMT(unix))) is not None:
        raise BadArchive(f"{shown!r} is {special}")
    if stat.S_ISLNK(unix):
        return "symlink"
    return "directory" if name.endswith("/") or stat.S_ISDIR(unix) or dos_folder else "file"


def _mtime(field: bytes, date: int, time: int) -> int:
    """Unix seconds. DOS times have no zone and stand for UTC; 0 where they are none."""
    if len(field) >= 5 and field[0] & 1:
        return int.from_bytes(field[1:5], "little", signed=True)
    year, month, day = 1980 + (date >> 9), date >> 5 & 15, date & 31
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return 0
    return calendar.timegm((year, month, day, time >> 11, time >> 5 & 63, (time & 31) * 2))


def begin_body(file: IO[bytes], entry: ZipEntry) -> int:
    """Leave `file` where the entry's bytes begin, and return that place. Raises `BadArchive` where its own header is
    another than the directory's: two readers would see two archives."""
    file.seek(entry.offset)
    header = file.read(_LOCAL.size)
    shown = display(entry.name)
    if len(header) < _LOCAL.size or not header.startswith(b"PK\x03\x04"):
        raise BadArchive(f"the zip archive is damaged: {shown!r} is not where its directory says")
    _, _, flags, method, _, _, crc, packed, size, name_size, extra_size = _LOCAL.unpack(header)
    raw = file.read(name_size)
    extra = extra_fields(file.read(extra_size))
    size, packed = _long(extra.get(_ZIP64, b""), size, packed)
    same = (
        raw == entry.raw_name and method == entry.method and not (flags ^ entry.flags) & (ENCRYPTED | DESCRIBED_LATER)
    )
    # Zeros where they were not known yet when it was written.
    unknown = (0,) if flags & DESCRIBED_LATER else ()
    sizes = ((crc, entry.crc), (packed, entry.packed), (size, entry.size))
    if not same or any(value not in (expected, *unknown) for value, expected in sizes):
        raise BadArchive(f"the zip archive is damaged: {shown!r} is another in its directory than beside its bytes")
    return file.tell()
