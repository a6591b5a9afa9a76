"""Honest nodes of the simulation without bytes: the real router on simulated links and heartbeats.

Above it stands the rate limit of `chorus.services.messaging`, since scores depend on it.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Final, Protocol

from chorus.messages.rates import OWN, THROUGH_OTHERS, Buckets, cost
from chorus.protocols.gossip import GossipRouter
from chorus.protocols.gossipsub.codec import Codec
from chorus.protocols.gossipsub.events import Delivery, Kind, Send, Validation
from chorus.protocols.gossipsub.params import MESHSUB_1_2
from chorus.simulation.gossip.links import Line, Uplink
from chorus.simulation.gossip.scenario import Scenario
from chorus.simulation.world import SECOND, World, nanoseconds

TOPIC: Final = "chorus/coordination/v1"
HONEST: Final = "honest"

STARTUP: Final = 10 * SECOND
"""In which connections are made, each at a moment of its own, as when nodes are found one after the other. Dialled all
at once, those would be grafted first whose links are short, and meshes would be faster than chance makes them."""

REDIAL: Final = SECOND
"""Until a node that lost a connection it had dialled dials somebody else."""


class Recorder(Protocol):
    """Counts what honest nodes publish, deliver and send."""

    def published(self, message_id: bytes, node: int, now_ns: int) -> None: ...

    def delivered(self, node: RouterNode, delivery: Delivery, now_ns: int) -> None: ...

    def sent(self, node: RouterNode, messages: int) -> None: ...


class Net(Protocol):
    """The network, as its nodes need it."""

    world: World
    scenario: Scenario
    codec: Codec
    data: bytes
    """Of each message."""

    @property
    def measures(self) -> Recorder: ...

    def uplink(self, number: int) -> Uplink | None: ...

    def router(self, number: int, rng: random.Random) -> GossipRouter: ...

    def dial_somebody(self, node: Node, count: int) -> None: ...


class Node:
    """Somebody with a peer id and connections."""

    kind = HONEST

    def __init__(self, net: Net, number: int) -> None:
        self.net = net
        self.number = number
        self.peer_id = peer_id(number)
        self.lines: dict[bytes, Line] = {}
        """Our direction of each connection, by whom it leads to."""
        self.uplink: Uplink | None = net.uplink(number)
        self.online = False

    def start(self) -> None:
        self.online = True

    def connected(self, peer: bytes, line: Line) -> None:
        self.lines[peer] = line

    def heard(self, peer: bytes, sends: list[Send]) -> None:
        """See `Hearer`."""

    def hung_up(self, line: Line) -> None:
        """See `Hearer`."""
        self._forget(line)

    def _forget(self, line: Line) -> bytes | None:
        """Close our direction; whom it led to, None when that was done before."""
        line.close()
        peer = line.back.sender
        if self.lines.get(peer) is not line:
            return None
        del self.lines[peer]
        return peer


def peer_id(number: int) -> bytes:
    """As long as a real one, so that everything on the wire has its true size."""
    return b"\0\x24\x08\x01\x12\x20" + number.to_bytes(32, "big")


class RouterNode(Node):
    """A `GossipRouter`, subscribed to `TOPIC`, with its heartbeat."""

    router: GossipRouter

    def __init__(self, net: Net, number: int) -> None:
        super().__init__(net, number)
        self.starts = 0
        self.joined_ns = 0
        self.duplicates_before = 0
        """`duplicates` when measuring began."""
        self._duplicates = 0
        self._rng = net.world.rng("node", number)

    @property
    def duplicates(self) -> int:
        """Copies of messages that it had already, since the beginning of the run."""
        return self._duplicates + self.router.counters.duplicates

    def start(self) -> None:
        """Begin, or begin again with nothing but the old identity."""
        super().start()
        if self.starts:
            self._duplicates += self.router.counters.duplicates
        self.starts += 1
        self.joined_ns = self.net.world.now_ns
        self._rates = Buckets(OWN)
        self._through_others = Buckets(THROUGH_OTHERS)
        self.router = self.net.router(self.number, self._rng)
        self.router.scores.application = self._overdraft
        # Before it is connected, as a real one.
        self.router.subscribe(TOPIC, self.net.world.now, self._validate)
        self.drain()
        beat = nanoseconds(self.router.params.heartbeat)
        self.net.world.after(self._rng.randrange(beat), partial(self._heartbeat, self.starts, beat))

    def _validate(self, delivery: Delivery) -> Validation:
        # As `services/messaging.py` does.
        buckets = self._rates if delivery.source == delivery.origin else self._through_others
        flooded = buckets.spend(delivery.origin, self.net.world.now, cost(len(delivery.data))) < 0
        return Validation.IGNORE if flooded else Validation.ACCEPT

    def _overdraft(self, peer: bytes) -> float:
        """P5."""
        return min(0.0, self._rates.level(peer, self.net.world.now))

    def stop(self) -> None:
        self.online = False
        for line in self.lines.values():
            line.close()
        self.lines.clear()

    def connected(self, peer: bytes, line: Line) -> None:
        super().connected(peer, line)
        self.router.peer_joined(peer, MESHSUB_1_2, outbound=line.outbound)
        self.drain()

    def hung_up(self, line: Line) -> None:
        peer = self._forget(line)
        if peer is None:
            return
        self.router.peer_left(peer, self.net.world.now)
        self.drain()
        if line.outbound and self.online:
            self.net.world.after(REDIAL, partial(self._dial_another, self.starts))

    def _dial_another(self, start: int) -> None:
        if self.online and self.starts == start:
            self.net.dial_somebody(self, 1)

    def heard(self, peer: bytes, sends: list[Send]) -> None:
        now = self.net.world.now
        receive = self.router.receive
        for _, frame in sends:
            receive(peer, frame, now)
        self.drain()

    def publish(self, data: bytes) -> bytes:
        message_id = self.router.publish(TOPIC, data, self.net.world.now)
        self.net.measures.published(message_id, self.number, self.net.world.now_ns)
        self.drain()
        return message_id

    def _heartbeat(self, start: int, beat: int) -> None:
        if not self.online or self.starts != start:
            return
        self.router.heartbeat(self.net.world.now)
        self.drain()
        self.net.world.after(beat, partial(self._heartbeat, start, beat))

    def drain(self) -> None:
        """Let out what the router has to say."""
        router, net = self.router, self.net
        for delivery in router.take_deliveries():
            net.measures.delivered(self, delivery, net.world.now_ns)
        messages = 0
        for peer, sends in router.take_sends().items():
            line = self.lines.get(peer)
            if line is not None:
                for kind, _ in sends:
                    messages += kind is Kind.MESSAGE
                line.carry(sends)
        if messages:
            net.measures.sent(self, messages)
