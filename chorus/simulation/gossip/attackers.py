"""Nodes that do not keep to the protocol: a class for each attack that `scenario.ATTACKS` names.

Most are whole routers that do one thing wrong, which is the harder case: what they do well counts for them.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final, cast

from chorus.protocols.gossipsub.events import Frame, Kind, Send
from chorus.protocols.gossipsub.rpc import Prune
from chorus.simulation.gossip.nodes import TOPIC, Net, Node, RouterNode
from chorus.simulation.gossip.objects import ObjectFrame, RawMessage, make_message
from chorus.simulation.world import MILLISECOND, SECOND, nanoseconds

if TYPE_CHECKING:
    from chorus.simulation.gossip.links import Line

DEFAULT_BACKOFF: Final = 60
"""Seconds, where a PRUNE names none."""


class SilentNode(Node):
    """Joins every mesh that lets it in, again after each backoff, and says nothing else."""

    kind = "silent"
    patient = True

    def connected(self, peer: bytes, line: Line) -> None:
        super().connected(peer, line)
        codec = self.net.codec
        line.carry([(Kind.CONTROL, frame) for frame in codec.subscription_frames([(True, TOPIC)])])
        self._graft(peer)

    def heard(self, peer: bytes, sends: list[Send]) -> None:
        for _, frame in sends:
            for prune in cast("ObjectFrame", frame).rpc.prune:
                self._pruned(peer, prune)

    def _pruned(self, peer: bytes, prune: Prune) -> None:
        wait = (prune.backoff or DEFAULT_BACKOFF) + 2 if self.patient else 1
        self.net.world.after(wait * SECOND, partial(self._graft, peer))

    def _graft(self, peer: bytes) -> None:
        line = self.lines.get(peer)
        if line is not None:
            line.carry([(Kind.CONTROL, frame) for frame in self.net.codec.mesh_frames([TOPIC], [])])


class GraftingNode(SilentNode):
    kind = "grafting"
    patient = False


class WithholdingNode(RouterNode):
    """Takes part in everything, forwards nobody's messages and answers no IWANT."""

    kind = "withholding"

    def drain(self) -> None:
        own = self.peer_id
        for peer, sends in self.router.take_sends().items():
            line = self.lines.get(peer)
            kept = [send for send in sends if send[0] is not Kind.MESSAGE or _origin(send[1]) == own]
            if line is not None and kept:
                line.carry(kept)
        self.router.take_deliveries()


def _origin(frame: Frame) -> bytes:
    return cast("RawMessage", cast("ObjectFrame", frame).rpc.messages[0]).message.origin


class MisbehavingNode(RouterNode):
    """A router that keeps to the protocol and also misbehaves every `interval`, from the end of the warm-up on."""

    interval = SECOND

    def __init__(self, net: Net, number: int) -> None:
        super().__init__(net, number)
        self._made = 0

    def start(self) -> None:
        super().start()
        first = nanoseconds(self.net.scenario.warm_up) + self._rng.randrange(self.interval)
        self.net.world.at(first, self._again)

    def _again(self) -> None:
        self.misbehave()
        self.net.world.after(self.interval, self._again)

    def misbehave(self) -> None:
        raise NotImplementedError

    def say(self, peer: bytes, frame: Frame, kind: Kind = Kind.MESSAGE) -> None:
        self.lines[peer].carry([(kind, frame)])

    def message(self, origin: bytes, data: bytes, seqno: bytes) -> Frame:
        """One that we sign, whosever name it bears."""
        return cast("Frame", make_message(self.peer_id, origin, TOPIC, data, seqno).frame)

    def next_seqno(self) -> bytes:
        """Far above what its own router uses."""
        self._made += 1
        return (1 << 62 | self._made).to_bytes(8, "big")


class FloodingNode(MisbehavingNode):
    """Five times what a publisher may say for long (`chorus.messages.rates`)."""

    kind = "flooding"
    interval = 10 * MILLISECOND
    AT_ONCE: Final = 10

    def misbehave(self) -> None:
        for _ in range(self.AT_ONCE):
            self.router.publish(TOPIC, self.net.data, self.net.world.now)
        self.drain()


class ReplayingNode(MisbehavingNode):
    """Sends a message that is at least 10 s old to everybody, ten times a second."""

    kind = "replaying"
    interval = 100 * MILLISECOND
    OLD: Final = 10 * SECOND
    KEPT: Final = 64

    def __init__(self, net: Net, number: int) -> None:
        super().__init__(net, number)
        self._heard: deque[tuple[int, Frame]] = deque(maxlen=self.KEPT)

    def heard(self, peer: bytes, sends: list[Send]) -> None:
        for kind, frame in sends:
            if kind is Kind.MESSAGE and len(self._heard) < self.KEPT:
                self._heard.append((self.net.world.now_ns, frame))
        super().heard(peer, sends)

    def misbehave(self) -> None:
        if self._heard and self._heard[0][0] + self.OLD <= self.net.world.now_ns:
            _, frame = self._heard[0]
            self._heard.rotate(-1)
            for peer in self.lines:
                self.say(peer, frame)


class EquivocatingNode(MisbehavingNode):
    kind = "equivocating"

    def misbehave(self) -> None:
        seqno = self.next_seqno()
        versions = [self.message(self.peer_id, data, seqno) for data in (b"aye", b"nay")]
        for index, peer in enumerate(self.lines):
            self.say(peer, versions[index % 2])


class ForgingNode(MisbehavingNode):
    kind = "forging"

    def misbehave(self) -> None:
        victim = list(self.lines)[self._made % len(self.lines)]
        frame = self.message(victim, b"forged", self.next_seqno())
        for peer in self.lines:
            self.say(peer, frame)


class AdvertisingNode(MisbehavingNode):
    kind = "advertising"

    def misbehave(self) -> None:
        ids = [self.peer_id + self.next_seqno() for _ in range(20)]
        for frame in self.net.codec.ihave_frames({TOPIC: ids}):
            for peer in self.lines:
                self.say(peer, frame, Kind.GOSSIP)


CLASSES: Final[dict[str, type[Node]]] = {
    attacker.kind: attacker
    for attacker in (
        SilentNode,
        WithholdingNode,
        FloodingNode,
        ReplayingNode,
        EquivocatingNode,
        ForgingNode,
        AdvertisingNode,
        GraftingNode,
    )
}
