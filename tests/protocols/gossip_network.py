"""Routers joined by an in-memory network on a fake clock: frames arrive in the order sent, after a fixed delay."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Iterable
from functools import lru_cache

from chorus.identity import Identity
from chorus.protocols.delimited import DelimitedDecoder
from chorus.protocols.gossip import GossipRouter
from chorus.protocols.gossipsub.events import Delivery, Kind
from chorus.protocols.gossipsub.params import MAX_RPC, MESHSUB_1_1, GossipParams
from chorus.protocols.gossipsub.sign import Signer, Verifier
from chorus.protocols.gossipsub.state import Sealing


@lru_cache(maxsize=128)
def identity(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


def router(number: int, *, params: GossipParams | None = None, seqno: int = 1) -> GossipRouter:
    me = identity(number)
    return GossipRouter(
        me.peer_id.raw,
        Sealing(Signer(me).sign, Verifier().verify),
        rng=random.Random(number),
        first_seqno=seqno,
        params=params,
    )


def unframe(frames: Iterable[bytes]) -> list[bytes]:
    """The RPCs inside frames."""
    decoder = DelimitedDecoder(MAX_RPC)
    rpcs = []
    for frame in frames:
        decoder.feed(frame)
        while (rpc := decoder.next_message()) is not None:
            rpcs.append(rpc)
    return rpcs


class Network:
    """`lost(sender, receiver, kind)` says which frames never arrive."""

    def __init__(
        self, count: int, *, params: GossipParams | None = None, delay: float = 0.02, protocol: str = MESHSUB_1_1
    ) -> None:
        self.now = 100.0
        self.routers = [router(number, params=params) for number in range(count)]
        self.index = {node.peer_id: number for number, node in enumerate(self.routers)}
        self.received: list[list[Delivery]] = [[] for _ in range(count)]
        self.lost: Callable[[int, int, Kind], bool] = lambda sender, receiver, kind: False
        self.frames = 0
        self._delay = delay
        self._protocol = protocol
        self._events: list[tuple[float, int, int, int, bytes]] = []
        self._sequence = 0
        self._next_heartbeat = [self.now + 0.1 + number / (count * 2) for number in range(count)]

    def connect(self, dialer: int, listener: int) -> None:
        a, b = self.routers[dialer], self.routers[listener]
        a.peer_joined(b.peer_id, self._protocol, outbound=True)
        b.peer_joined(a.peer_id, self._protocol, outbound=False)
        self._carry(dialer)
        self._carry(listener)

    def disconnect(self, one: int, other: int) -> None:
        self.routers[one].peer_left(self.routers[other].peer_id, self.now)
        self.routers[other].peer_left(self.routers[one].peer_id, self.now)

    def subscribe(self, number: int, topic: str) -> None:
        self.routers[number].subscribe(topic, self.now)
        self._carry(number)

    def unsubscribe(self, number: int, topic: str) -> None:
        self.routers[number].unsubscribe(topic, self.now)
        self._carry(number)

    def publish(self, number: int, topic: str, data: bytes) -> bytes:
        message_id = self.routers[number].publish(topic, data, self.now)
        self._carry(number)
        return message_id

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while True:
            beat = min(range(len(self.routers)), key=self._next_heartbeat.__getitem__)
            when = self._next_heartbeat[beat]
            if self._events and self._events[0][0] <= when:
                when, _, sender, receiver, rpc = self._events[0]
                if when > end:
                    break
                heapq.heappop(self._events)
                self.now = when
                self.routers[receiver].receive(self.routers[sender].peer_id, rpc, when)
                self._carry(receiver)
            elif when > end:
                break
            else:
                self.now = when
                self.routers[beat].heartbeat(when)
                self._next_heartbeat[beat] = when + self.routers[beat].params.heartbeat
                self._carry(beat)
        self.now = end

    def _carry(self, sender: int) -> None:
        node = self.routers[sender]
        self.received[sender] += node.take_deliveries()
        for peer, sends in node.take_sends().items():
            receiver = self.index[peer]
            for kind, frame in sends:
                if self.lost(sender, receiver, kind):
                    continue
                for rpc in unframe([frame]):
                    self.frames += 1
                    self._sequence += 1
                    heapq.heappush(self._events, (self.now + self._delay, self._sequence, sender, receiver, rpc))
