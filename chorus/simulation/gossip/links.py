"""Links between nodes of the simulation without bytes: frames arrive late, never lost and never out of order.

TCP does not lose or reorder; loss shows as delay (spec/simulation.md section 4). Frames before a lost one are
delivered, frames behind it wait.
"""

from __future__ import annotations

import random
from collections import deque
from typing import Final, Protocol

import attrs

from chorus.protocols.gossipsub.events import Send
from chorus.simulation.world import MILLISECOND, SECOND, Call, World

SEGMENT: Final = 1448
"""Bytes of one TCP segment on Ethernet: each is lost by itself."""

RETRANSMISSION: Final = 200 * MILLISECOND
"""Until a lost segment is sent again, doubled at each further loss (Linux's smallest timeout)."""

MAX_RETRANSMISSIONS: Final = 8
"""After that the segment arrives: 51 s late. A real connection would break at about 15."""


class Hearer(Protocol):
    """An end of a link."""

    def heard(self, peer: bytes, sends: list[Send]) -> None:
        """Frames of one turn of a peer, in order; nothing of them may be changed."""

    def hung_up(self, line: Line) -> None:
        """The peer has closed the connection whose way to it is `line`."""


@attrs.frozen(kw_only=True)
class LinkParams:
    """Of all links of a network."""

    delay_ms: tuple[float, float] = (10.0, 150.0)
    """One way, drawn for each link once; the same in both directions."""
    loss: float = 0.0
    """Share of the segments."""
    rate_mbit: float | None = None
    """Rate of a node over all its links together, in 10^6 bits a second; None for no bound."""


class Uplink:
    """The outgoing side of one node: its rate, and its stream of chance for losses."""

    __slots__ = ("_busy_until", "_loss", "_ns_per_byte", "_rng")

    def __init__(self, params: LinkParams, rng: random.Random) -> None:
        self._loss = params.loss
        self._rng = rng
        self._ns_per_byte = 8000 / params.rate_mbit if params.rate_mbit is not None else 0.0
        self._busy_until = 0

    def leaves(self, size: int, now_ns: int) -> int:
        """When the last of `size` bytes has left, retransmissions included, in true time."""
        left = now_ns
        if self._ns_per_byte:
            self._busy_until = left = max(now_ns, self._busy_until) + round(size * self._ns_per_byte)
        if self._loss:
            left += max(self._retransmission() for _ in range(1 + size // SEGMENT))
        return left

    def _retransmission(self) -> int:
        waited, wait = 0, RETRANSMISSION
        for _ in range(MAX_RETRANSMISSIONS):
            if self._rng.random() >= self._loss:
                break
            waited += wait
            wait *= 2
        return waited


class Line:
    """One direction of a link, from `sender` (a peer id) to `receiver`; `back` is the other direction."""

    __slots__ = (
        "_closed",
        "_delay_ns",
        "_last_ns",
        "_queue",
        "_uplink",
        "_world",
        "back",
        "outbound",
        "receiver",
        "sender",
    )

    back: Line

    def __init__(
        self, world: World, sender: bytes, receiver: Hearer, delay_ns: int, uplink: Uplink | None, *, outbound: bool
    ) -> None:
        self.sender = sender
        self.receiver = receiver
        self.outbound = outbound
        """True if its sender dialled."""
        self._world = world
        self._delay_ns = delay_ns
        self._uplink = uplink
        """None where nothing is lost and no rate bounds."""
        self._last_ns = 0
        self._queue: deque[list[Send]] = deque()
        self._closed = False

    def carry(self, sends: list[Send]) -> None:
        self._queue.append(sends)
        self._at(self._arrival(sends), self._arrive)

    def close(self) -> None:
        """Nothing more goes out; what is under way arrives, and then the other end hears of it."""
        if not self._closed:
            self._closed = True
            self._at(self._world.now_ns + self._delay_ns, self._hang_up)

    def _arrival(self, sends: list[Send]) -> int:
        left = self._world.now_ns
        if self._uplink is not None:
            left = self._uplink.leaves(sum(len(frame) for _, frame in sends), left)
        return left + self._delay_ns

    def _at(self, arrival: int, call: Call) -> None:
        self._last_ns = arrival = max(arrival, self._last_ns)
        self._world.at(arrival, call)

    def _arrive(self) -> None:
        sends = self._queue.popleft()
        # Whoever has closed its own direction does not read any more.
        if not self.back._closed:
            self.receiver.heard(self.sender, sends)

    def _hang_up(self) -> None:
        if not self.back._closed:
            self.receiver.hung_up(self.back)


def link(
    world: World,
    dialler: tuple[bytes, Hearer, Uplink | None],
    listener: tuple[bytes, Hearer, Uplink | None],
    delay_ns: int,
) -> tuple[Line, Line]:
    """Both directions, the dialler's first."""
    there = Line(world, dialler[0], listener[1], delay_ns, dialler[2], outbound=True)
    back = Line(world, listener[0], dialler[1], delay_ns, listener[2], outbound=False)
    there.back, back.back = back, there
    return there, back


def quiet_after(params: LinkParams) -> int:
    """Nanoseconds in which anything sent has arrived, seven times relayed, unless losses follow each other."""
    return round(7 * params.delay_ms[1] * MILLISECOND) + (5 * SECOND if params.loss else 0)
