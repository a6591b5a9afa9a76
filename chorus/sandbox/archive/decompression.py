"""Decompresses an archive on demand, and counts its bytes against the limits.

Takes plain, gzip, bzip2 and xz files, told apart by their first bytes. No step gives more than `CHUNK` bytes, whatever
the file says of itself, so a bomb is refused while it grows. Blocking.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable
from typing import IO, Protocol

import attrs

from chorus.sandbox.archive.limits import BadArchive, Bounds, Interrupted

CHUNK = 256 * 1024

XZ_MEMORY = 192 * 1024 * 1024
"""The limit on memory of an xz dictionary (the largest preset needs 65 MiB)."""

HEAD = 6
"""Bytes that tell a kind of compression: the longest magics, those of xz and 7-Zip."""

MAX_STREAMS = 20_000
"""Compressed streams one after the other: each may be empty and still costs work."""

RATIO_FLOOR = 32 * 1024 * 1024
"""Below this many unpacked bytes the compression ratio does not matter."""


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


@attrs.frozen
class _Format:
    magic: bytes
    begin: Callable[[], _Decompressor]
    padding: int = 1
    """Zeros after a stream come in multiples of this."""


def _xz() -> _Decompressor:
    return lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=XZ_MEMORY)


_FORMATS = (
    _Format(b"\x1f\x8b", _Gzip),
    _Format(b"BZh", bz2.BZ2Decompressor),
    # Padding: the .xz file format, section 2.2.
    _Format(b"\xfd7zXZ\x00", _xz, padding=4),
)


_NOT_TAKEN = {
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"\x04\x22\x4d\x18": "LZ4",
    b"LZIP\x01": "lzip",
    b"\x1f\x9d": "compress",
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!\x1a\x07": "RAR",
}
"""Magics of what people pack with as well."""


def _format(head: bytes) -> _Format | None:
    return next((each for each in _FORMATS if head.startswith(each.magic)), None)


class PackedSource:
    """Unpacked bytes of the archive, counted against the limits as they come."""

    def __init__(self, file: IO[bytes], bounds: Bounds, stop: Callable[[], bool]) -> None:
        self._file = file
        self._bounds = bounds
        self._stop = stop
        head = file.read(HEAD)
        file.seek(0)
        if (other := next((name for magic, name in _NOT_TAKEN.items() if head.startswith(magic)), None)) is not None:
            raise BadArchive(f"the archive is packed with {other}; use tar with gzip, bzip2 or xz, or zip")
        self._format = _format(head)
        self._decompressor = self._format.begin() if self._format else None
        self._buffer = b""
        self._at = 0
        """Where in the buffer the next byte is."""
        self._packed = 0
        self._streams = 1
        self._ended = False
        self._total = 0

    def take(self, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        parts = []
        while size > 0:
            if self._at == len(self._buffer):
                self._buffer, self._at = self._more(), 0
                if not self._buffer:
                    break
            part = self._buffer[self._at : self._at + size]
            self._at += len(part)
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
        data = self._raw(CHUNK) if self._decompressor is None else self._inflate()
        self._total += len(data)
        if self._total > self._bounds.max_stream:
            raise BadArchive(f"the archive holds more than {self._bounds.max_bytes} bytes")
        if self._total > RATIO_FLOOR and self._total > self._packed * self._bounds.max_ratio:
            raise BadArchive(f"the archive grows more than {self._bounds.max_ratio} times when unpacked")
        return data

    def _raw(self, size: int) -> bytes:
        data = self._file.read(size)
        self._packed += len(data)
        return data

    def _inflate(self) -> bytes:
        while not self._ended:
            decompressor = self._decompressor
            assert decompressor is not None and self._format is not None
            feed, starved = b"", False
            if decompressor.eof:
                feed = self._next_stream(self._past_padding(decompressor.unused_data, self._format.padding))
                if not feed:
                    break
                self._decompressor = decompressor = self._format.begin()
            elif decompressor.needs_input:
                feed = self._raw(CHUNK)
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
        return b""

    def _next_stream(self, rest: bytes) -> bytes:
        """The beginning of the next stream, if one follows. `rest` was read already, and may end within its magic.

        Concatenated streams are one archive, as gzip and xz themselves say; what else follows is not read.
        """
        while len(rest) < HEAD and (more := self._raw(HEAD - len(rest))):
            rest += more
        if _format(rest) is None:
            self._ended = True
            return b""
        self._streams += 1
        if self._streams > MAX_STREAMS:
            raise BadArchive(f"more than {MAX_STREAMS} compressed streams in a row")
        return rest

    def _past_padding(self, rest: bytes, unit: int) -> bytes:
        """The bytes after the zeros that follow a stream; nothing at the end of the file.

        xz pads streams to whole `unit`s, tapes pad whatever they hold. Zeros do not count as packed bytes, or a bomb
        could be as large as its padding allows.
        """
        padding = 0
        while True:
            data = rest.lstrip(b"\0")
            padding += len(rest) - len(data)
            if data or not (rest := self._raw(CHUNK)):
                break
            if self._stop():
                raise Interrupted
        self._packed -= padding
        if padding % unit:
            raise BadArchive(f"{padding} zero bytes after a compressed stream, which is no multiple of {unit}")
        return data
