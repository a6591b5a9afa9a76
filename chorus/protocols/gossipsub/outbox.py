"""Frames to send, by peer, until they are taken; GRAFTs and PRUNEs of one turn together."""

from __future__ import annotations

from collections.abc import Sequence

from chorus.protocols.gossipsub.codec import Codec
from chorus.protocols.gossipsub.events import Frame, Kind, Send
from chorus.protocols.gossipsub.rpc import Prune


class Outbox:
    __slots__ = ("_codec", "_grafts", "_prunes", "_sends")

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._sends: dict[bytes, list[Send]] = {}
        self._grafts: dict[bytes, list[str]] = {}
        self._prunes: dict[bytes, list[Prune]] = {}

    def send(self, peer: bytes, kind: Kind, frame: Frame) -> None:
        sends = self._sends.get(peer)
        if sends is None:
            self._sends[peer] = [(kind, frame)]
        else:
            sends.append((kind, frame))

    def send_to(self, peers: Sequence[bytes], kind: Kind, frame: Frame) -> None:
        """One frame to many peers."""
        sends, item = self._sends, (kind, frame)
        for peer in peers:
            waiting = sends.get(peer)
            if waiting is None:
                sends[peer] = [item]
            else:
                waiting.append(item)

    def send_all(self, peer: bytes, kind: Kind, frames: Sequence[Frame]) -> None:
        for frame in frames:
            self.send(peer, kind, frame)

    def graft(self, peer: bytes, topic: str) -> None:
        self._grafts.setdefault(peer, []).append(topic)

    def prune(self, peer: bytes, prune: Prune) -> None:
        self._prunes.setdefault(peer, []).append(prune)

    def forget(self, peer: bytes) -> None:
        """Nothing of what waits is sent to it."""
        self._sends.pop(peer, None)
        self._grafts.pop(peer, None)
        self._prunes.pop(peer, None)

    def flush(self) -> None:
        """Turn the turn's GRAFTs and PRUNEs into frames."""
        if not self._grafts and not self._prunes:
            return
        for peer in dict.fromkeys([*self._grafts, *self._prunes]):
            self.send_all(
                peer, Kind.CONTROL, self._codec.mesh_frames(self._grafts.get(peer, ()), self._prunes.get(peer, ()))
            )
        self._grafts.clear()
        self._prunes.clear()

    def take(self) -> dict[bytes, list[Send]]:
        sends, self._sends = self._sends, {}
        return sends
