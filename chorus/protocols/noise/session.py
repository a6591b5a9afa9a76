"""Noise transport messages: `2-byte big-endian length ‖ sealed`, after the handshake (spec/wire.md 6). Pure.

The hot path of every byte: no object a frame, no copy but the cipher's and one to join what belongs into one frame.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from chorus.protocols.noise.aead import Aead, AuthenticationError, Buffer
from chorus.protocols.noise.xx import NONCE_END, TAG, NoiseError, NonceExhausted, pack_nonce

MAX_FRAME = 65535
MAX_PLAINTEXT = MAX_FRAME - TAG
"""65,519 bytes a frame."""

_SMALL = 1024
"""Pieces below this are copied together while a frame is incomplete: byte-wise arrival costs bytes, not objects."""
_COPY = 2048
"""Up to here a slice of bytes is cheaper than a view on them."""

_pack_length = struct.Struct(">H").pack


class NoiseSession:
    """Seals what is sent and opens what comes. After one failure every call raises it again."""

    __slots__ = ("_decrypt", "_encrypt", "_failure", "_held", "_missing", "_pending", "receive_nonce", "send_nonce")

    def __init__(self, sending: Aead, receiving: Aead) -> None:
        self.send_nonce = 0
        self.receive_nonce = 0
        self._encrypt = sending.encrypt
        self._decrypt = receiving.decrypt
        self._failure: NoiseError | None = None
        self._pending: list[Buffer] = []
        self._held = 0
        self._missing = 0

    @property
    def partial(self) -> bool:
        """A frame is incomplete: the end of the connection would be a truncation now."""
        return bool(self._pending)

    def seal(self, parts: Sequence[Buffer]) -> bytes:
        """Join `parts` and return them as length-prefixed frames of at most `MAX_PLAINTEXT` each; empty for nothing.

        Raises `NonceExhausted`.
        """
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        size = len(data)
        nonce = self.send_nonce
        if size <= MAX_PLAINTEXT:
            if not size:
                return b""
            if nonce >= NONCE_END:
                raise NonceExhausted("no nonce is left to send with")
            self.send_nonce = nonce + 1
            return _pack_length(size + TAG) + self._encrypt(pack_nonce(nonce), data, None)
        if nonce + -(-size // MAX_PLAINTEXT) > NONCE_END:
            raise NonceExhausted("no nonce is left to send with")
        frames: list[bytes] = []
        view = memoryview(data)
        for start in range(0, size, MAX_PLAINTEXT):
            sealed = self._encrypt(pack_nonce(nonce), view[start : start + MAX_PLAINTEXT], None)
            frames.append(_pack_length(len(sealed)))
            frames.append(sealed)
            nonce += 1
        self.send_nonce = nonce
        return b"".join(frames)

    def open(self, data: bytes) -> list[bytes]:
        """Feed received bytes; return the plaintexts that are complete, without the empty ones.

        Raises `NoiseError` for a frame below 16 bytes or one that does not authenticate; the receive counter has then
        not moved, and the session is over.
        """
        if self._failure is not None:
            raise self._failure
        if self._pending:
            self._keep(data)
            if self._held < self._missing:
                return []
            data = b"".join(self._pending)
            self._pending.clear()
        plaintexts: list[bytes] = []
        decrypt, nonce = self._decrypt, self.receive_nonce
        offset, end = 0, len(data)
        while end - offset >= 2:
            length = data[offset] << 8 | data[offset + 1]
            start = offset + 2
            stop = start + length
            if length < TAG:
                raise self._fail(NoiseError(f"a frame of {length} bytes; {TAG} is the least"))
            if stop > end:
                break
            if nonce >= NONCE_END:
                raise self._fail(NonceExhausted("the peer has used every nonce"))
            sealed = data[start:stop] if length <= _COPY else memoryview(data)[start:stop]
            try:
                plaintext = decrypt(pack_nonce(nonce), sealed, None)
            except AuthenticationError:
                raise self._fail(NoiseError("a frame does not authenticate")) from None
            self.receive_nonce = nonce = nonce + 1
            if plaintext:
                plaintexts.append(plaintext)
            offset = stop
        if offset < end:
            rest = data[offset:] if offset else data
            self._pending.append(rest)
            self._held = end - offset
            self._missing = 2 if self._held < 2 else 2 + (rest[0] << 8 | rest[1])
        return plaintexts

    def _keep(self, data: bytes) -> None:
        self._held += len(data)
        if len(data) >= _SMALL:
            self._pending.append(data)
        elif isinstance(tail := self._pending[-1], bytearray):
            tail += data
        else:
            self._pending.append(bytearray(data))

    def _fail(self, failure: NoiseError) -> NoiseError:
        self._failure = failure
        return failure
