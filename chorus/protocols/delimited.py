"""Messages with their length before them, as an unsigned varint: the one encoder and decoder (spec/wire.md 1).

A protocol that reads whole messages as they arrive feeds a `DelimitedDecoder`; one that keeps its own buffer asks
`locate`; one that speaks in turns uses `StreamIO.read_delimited`.
"""

from __future__ import annotations

from collections import deque

from chorus.errors import LimitExceeded
from chorus.multiformats import varint


def delimit(message: bytes) -> bytes:
    """`message` with its length before it."""
    return varint.encode(len(message)) + message


def locate(data: varint.Buffer, offset: int, limit: int) -> tuple[int, int] | None:
    """Start and end of the message whose length is at `offset`, the end maybe past that of `data`; None while the
    length is incomplete. Raises `VarintError` for one over `limit` or not minimal."""
    prefix = varint.peek(data, offset, limit)
    return None if prefix is None else (prefix[1], prefix[1] + prefix[0])


class DelimitedDecoder:
    """Splits a byte stream into messages as it arrives, in linear time.

    `feed` bytes, then take messages with `next_message` until it returns None.

    A message over `limit` bytes is refused by its prefix alone. Empty messages are passed over: they cost one byte
    each and would otherwise be multiplied into objects.
    """

    __slots__ = ("_chunks", "_data", "_limit", "_offset", "_pending", "_wanted")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._chunks: deque[bytes] = deque()
        self._data = b""
        self._offset = 0
        self._pending = bytearray()
        """The beginning of a message whose end has not come."""
        self._wanted = 0
        """Bytes `_pending` must reach before it is worth looking at again."""

    @property
    def partial(self) -> bool:
        """True if an incomplete message is left; ask once `next_message` has returned None."""
        return bool(self._pending)

    def feed(self, data: bytes) -> None:
        self._chunks.append(data)

    def next_message(self) -> bytes | None:
        """Raises `PeerError` for a prefix over the limit or not minimal; the decoder is of no use afterwards."""
        while True:
            data, offset = self._data, self._offset
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
                    self._offset = stop
                    return data[start:stop]
                offset = stop
            if not self._next_chunk(offset):
                return None

    def _next_chunk(self, offset: int) -> bool:
        """Put the incomplete rest of `_data` aside and make the next bytes that can hold a message `_data`."""
        if offset < len(self._data):
            self._pending += memoryview(self._data)[offset:]
        self._data = b""
        self._offset = 0
        while self._chunks:
            chunk = self._chunks.popleft()
            if not self._pending:
                self._data = chunk
                return True
            self._pending += chunk
            if len(self._pending) >= self._wanted:
                self._data = bytes(self._pending)
                self._pending.clear()
                return True
        return False
