"""How the router turns what it says into frames, and frames into what was said.

`chorus.protocols.gossip_rpc` is the wire's codec. The simulation of many thousand nodes has one without bytes; the
router does not know the difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from chorus.protocols.gossip_events import Frame
from chorus.protocols.gossip_rpc import RPC, Message, Prune


class Codec(Protocol):
    """See the functions of `gossip_rpc` for limits and errors."""

    def lone_message(self, raw: bytes) -> bytes | None: ...

    def decode_rpc(self, raw: bytes) -> RPC: ...

    def decode_message(self, raw: bytes) -> Message: ...

    def message_frame(self, raw: bytes) -> Frame: ...

    def forward_frame(self, raw: bytes, message: Message) -> Frame | None: ...

    def check_sendable(self, frame: Frame) -> Frame: ...

    def subscription_frames(self, changes: Sequence[tuple[bool, str]]) -> list[Frame]: ...

    def mesh_frames(self, grafts: Iterable[str], prunes: Iterable[Prune]) -> list[Frame]: ...

    def ihave_frames(self, ids: Mapping[str, Sequence[bytes]]) -> list[Frame]: ...

    def iwant_frames(self, ids: Sequence[bytes]) -> list[Frame]: ...

    def idontwant_frames(self, ids: Sequence[bytes]) -> list[Frame]: ...
