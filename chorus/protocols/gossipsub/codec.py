"""Codecs of the router: RPCs into frames and back.

`WIRE` is the one of the network. The simulation of many thousand nodes has one without bytes; the router does not know
the difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol

from chorus.protocols.gossipsub import encode
from chorus.protocols.gossipsub.events import Entry, Frame
from chorus.protocols.gossipsub.rpc import RPC, Message, Prune


class Codec(Protocol):
    """See the functions of `decode` and `encode` for limits and errors."""

    def lone_message(self, raw: bytes) -> bytes | None: ...

    def decode_rpc(self, raw: bytes) -> RPC: ...

    def decode_message(self, raw: bytes) -> Message: ...

    def message_frame(self, raw: bytes) -> Frame: ...

    def forward_frame(self, raw: bytes, message: Message) -> Frame | None: ...

    def check_sendable(self, frame: Frame) -> Frame: ...

    def subscription_frames(self, changes: Sequence[tuple[bool, str]]) -> list[Frame]: ...

    def mesh_frames(self, grafts: Iterable[str], prunes: Iterable[Prune]) -> list[Frame]: ...

    def ihave_entries(self, topic: str, ids: Sequence[bytes]) -> list[Entry]: ...

    def entry_frames(self, entries: Iterable[Entry]) -> list[Frame]: ...

    def ihave_frames(self, ids: Mapping[str, Sequence[bytes]]) -> list[Frame]: ...

    def iwant_frames(self, ids: Sequence[bytes]) -> list[Frame]: ...

    def idontwant_frames(self, ids: Sequence[bytes]) -> list[Frame]: ...


WIRE: Final[Codec] = encode
