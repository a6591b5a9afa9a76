"""Splits a byte stream into varint-delimited messages as it arrives, in linear time (spec/wire.md 1)."""

from __future__ import annotations

from chorus.errors import LimitExceeded
from chorus.multiformats import varint


class DelimitedDecoder:
    """`feed` returns the messages that are complete; a message over `limit` bytes is refused by its prefix alone.

    Empty messages are passed over: they cost one byte and would otherwise be multiplied into objects.
    """

    __slots__ = ("_limit", "_pending", "_wanted")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pending = bytearray()
        self._wanted = 0
        """Bytes `_pending` must reach before it is worth looking at again."""

    @property
    def partial(self) -> bool:
        """Whether a message has begun and not ended."""
        return bool(self._pending)

    def feed(self, data: bytes) -> list[bytes]:
        """Raises `PeerError` for a prefix over the limit or not minimal; the decoder is of no use afterwards."""
        if self._pending:
            self._pending += data
            if len(self._pending) < self._wanted:
                return []
            data = bytes(self._pending)
            self._pending.clear()
        messages = []
        offset = 0
        end = len(data)
        while offset < end:
            length = data[offset]
            start = offset + 1
            if length >= 0x80:
                prefix = varint.peek(data, offset, self._limit)
                if prefix is None:
                    self._wanted = end - offset + 1
                    break
                length, start = prefix
            if length > self._limit:
                raise LimitExceeded("message bytes", length, self._limit)
            stop = start + length
            if stop > end:
                self._wanted = stop - offset
                break
            if length:
                messages.append(data[start:stop])
            offset = stop
        if offset < end:
            self._pending += data[offset:]
        return messages


def delimit(message: bytes) -> bytes:
    """`message` with its length before it."""
    return varint.encode(len(message)) + message
