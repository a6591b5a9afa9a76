"""multistream-select 1.0.0: agree on the protocol of a connection or stream (spec/wire.md 4). Pure.

Every message is `uv(n) ‖ text ‖ \\n`, n counting the newline. Whatever follows the message that settles the protocol
belongs to that protocol and is kept in `leftover`. The time limit of a negotiation is its shell's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

from chorus.errors import LimitExceeded, PeerError
from chorus.multiformats.varint import VarintError
from chorus.protocols.delimited import delimit, locate

PROTOCOL = "/multistream/1.0.0"
NOT_AVAILABLE = "na"
MAX_TOKEN = 1024
"""Bytes of a message with its newline; as go does."""
MAX_PROPOSALS = 16
"""Proposals a stream: a refusal costs as much as the offer, so offers end."""


class MultistreamError(PeerError):
    """Not multistream-select, or a message out of place."""

    code = "multistream_error"


class TooManyProposals(MultistreamError, LimitExceeded):
    """A dialer went on proposing past `MAX_PROPOSALS`."""

    code = "limit_exceeded"


def encode_message(text: str) -> bytes:
    """Raises `ValueError` for a text that no peer would accept."""
    line = text.encode() + b"\n"
    if len(line) > MAX_TOKEN or b"\n" in line[:-1]:
        raise ValueError(f"{text[:80]!r} does not fit into a multistream message")
    return delimit(line)


HEADER = encode_message(PROTOCOL)
_NOT_AVAILABLE = encode_message(NOT_AVAILABLE)


@lru_cache(maxsize=256)
def lazy_offer(protocol: str) -> bytes:
    """Header and one proposal, to send with the first data of a stream."""
    return HEADER + encode_message(protocol)


class _Negotiation:
    """Messages out of bytes; a message is bounded before it is awaited."""

    __slots__ = ("_buffer", "_header_seen", "_offset", "_out", "_over", "selected")

    def __init__(self) -> None:
        self.selected: str | None = None
        self._buffer = bytearray()
        self._offset = 0
        self._out = bytearray()
        self._header_seen = False
        self._over = False

    @property
    def leftover(self) -> bytes:
        """The bytes received after the negotiation's end."""
        return bytes(self._buffer[self._offset :]) if self._over else b""

    def data_to_send(self) -> bytes:
        """Drain what is to be sent."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def receive_data(self, data: bytes) -> None:
        """Raises `MultistreamError`; the stream or connection is then to be reset or closed."""
        self._buffer += data
        while not self._over:
            text = self._next_message()
            if text is None:
                del self._buffer[: self._offset]
                self._offset = 0
                return
            if self._header_seen:
                self._message(text)
            elif text == PROTOCOL:
                self._header_seen = True
                self._header()
            else:
                raise MultistreamError("the first message is not the multistream header")

    def _next_message(self) -> str | None:
        buffer, offset = self._buffer, self._offset
        try:
            found = locate(buffer, offset, MAX_TOKEN)
        except VarintError as error:
            raise MultistreamError(f"bad length of a message: {error}") from None
        if found is None:
            return None
        start, end = found
        if start == end:
            raise MultistreamError("a message without its newline")
        if len(buffer) < end:
            self._check_prefix(buffer, start)
            return None
        if buffer[end - 1] != 0x0A:
            raise MultistreamError("a message does not end in a newline")
        self._offset = end
        try:
            return buffer[start : end - 1].decode()
        except UnicodeDecodeError:
            raise MultistreamError("a message is not UTF-8") from None

    def _check_prefix(self, buffer: bytearray, start: int) -> None:
        """Refuse a wrong header at its first wrong byte, without waiting for the rest."""
        if not self._header_seen and not HEADER[1:].startswith(bytes(buffer[start:])):
            raise MultistreamError("the first message is not the multistream header")

    def _header(self) -> None:
        """The peer's header came."""

    def _message(self, text: str) -> None:
        """A message after the header."""
        raise NotImplementedError


class MultistreamDialer(_Negotiation):
    """Proposes `protocols` in turn; the header and the first proposal leave in one flight."""

    __slots__ = ("_position", "_protocols")

    def __init__(self, protocols: Sequence[str]) -> None:
        if not 0 < len(protocols) <= MAX_PROPOSALS:
            raise ValueError(f"1 to {MAX_PROPOSALS} protocols can be proposed, not {len(protocols)}")
        super().__init__()
        self._protocols = tuple(protocols)
        self._position = 0
        self._out += lazy_offer(self._protocols[0])

    @property
    def failed(self) -> bool:
        """Every proposal was refused; `selected` stays `None`."""
        return self._over and self.selected is None

    def _message(self, text: str) -> None:
        proposal = self._protocols[self._position]
        if text == proposal:
            self.selected = proposal
            self._over = True
        elif text != NOT_AVAILABLE:
            raise MultistreamError(f"{text[:80]!r} is no answer to the proposal {proposal!r}")
        elif self._position + 1 == len(self._protocols):
            self._over = True
        else:
            self._position += 1
            self._out += encode_message(self._protocols[self._position])


class MultistreamListener(_Negotiation):
    """Answers proposals with `supported`, by exact match; `ls` is off and answered like any unknown name."""

    __slots__ = ("_proposals", "_supported")

    def __init__(self, supported: Callable[[str], bool]) -> None:
        super().__init__()
        self._supported = supported
        self._proposals = 0

    def _header(self) -> None:
        self._out += HEADER

    def _message(self, text: str) -> None:
        self._proposals += 1
        if self._proposals > MAX_PROPOSALS:
            raise TooManyProposals("multistream.MAX_PROPOSALS", self._proposals, MAX_PROPOSALS)
        if text.startswith("/") and self._supported(text):
            self.selected = text
            self._over = True
            self._out += encode_message(text)
        else:
            self._out += _NOT_AVAILABLE
