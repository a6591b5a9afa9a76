"""One direction of a TCP connection in the simulated network: its segments on their way.

Segments arrive in order. One that meets a cut link is repeated, 200 ms doubling; after `GIVE_UP` the sender's end is
lost and the other end learns of it when it next sends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from chorus.simulation.net.links import GIVE_UP, RTO
from chorus.simulation.net.network import SimHost

Segment = bytes | None
"""None is a FIN: nothing follows."""

FIN: Final = None


class WriteBuffer:
    """Written bytes that have not left yet; its length is their number."""

    def __init__(self) -> None:
        self._parts: deque[bytes] = deque()
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)

    def clear(self) -> None:
        self._parts.clear()
        self._size = 0

    def take(self, size: int) -> bytes:
        """The first `size` bytes; there are as many."""
        parts = self._parts
        self._size -= size
        if len(parts[0]) == size:
            return parts.popleft()
        if len(parts[0]) > size:
            first, parts[0] = parts[0][:size], parts[0][size:]
            return first
        taken, left = [], size
        while left:
            part = parts.popleft()
            if len(part) > left:
                parts.appendleft(part[left:])
                part = part[:left]
            taken.append(part)
            left -= len(part)
        return b"".join(taken)


class End(Protocol):
    """One end of a connection, as its wires need it."""

    host: SimHost
    closed: bool

    def receive(self, segment: Segment) -> None: ...

    def reset(self) -> None:
        """The peer's reset is there."""

    def give_up(self) -> None:
        """Nothing got through for too long."""

    def waits_for_room(self) -> bool: ...

    def acknowledged(self) -> None:
        """The window may have room again."""

    def soon(self, call: Callable[[], object]) -> None: ...


class Wire:
    """Carries segments from `sender` to `receiver`."""

    def __init__(self, sender: End, receiver: End) -> None:
        self.unread = 0
        """Bytes under way or unread at the receiver."""
        self._sender = sender
        self._receiver = receiver
        self._net = net = sender.host.net
        self._link = net.link(sender.host.lane, receiver.host.lane)
        self._back = net.link(receiver.host.lane, sender.host.lane)
        self._under_way: deque[Segment] = deque()
        self._last_arrival = 0
        self._overdue = 0
        """Segments that met a cut link."""
        self._late_acks = 0
        self._stalled_since = -1
        self._wait = 0

    def send(self, segment: Segment) -> bool:
        """False when it will never arrive; then nothing after it may."""
        world = self._net.world
        size = len(segment) if segment else 0
        at = self._link.arrival(world.now_ns, size)
        if at is None:
            return False
        self.unread += size
        self._last_arrival = at = max(at, self._last_arrival)
        self._under_way.append(segment)
        world.at(at, self._arrive, self._receiver.host.lane)
        return True

    def drop(self) -> None:
        """Nothing that is under way arrives."""
        self._under_way.clear()

    def reset(self) -> None:
        """A reset is sent once; when it is lost, what the peer sends next is answered by another."""
        world = self._net.world
        self._net.counters.resets += 1
        at = max(world.now_ns + self._link.delay(), self._last_arrival)
        world.at(at, self._reset_arrives, self._receiver.host.lane)

    def acknowledge(self, size: int) -> None:
        """The receiver has read so many bytes."""
        if self._back.cuts:
            self._late_acks += size
            self._stall()
            return
        self.unread -= size
        if self._sender.waits_for_room():
            self._net.world.after(self._back.delay(), self._sender.acknowledged, self._sender.host.lane)

    def _reset_arrives(self) -> None:
        if not self._link.cuts:
            self._receiver.reset()

    def _arrive(self) -> None:
        """A segment has come to the end of the link."""
        if self._link.cuts or self._overdue or self._receiver.host.down:
            self._overdue += 1
            self._stall()
        elif self._under_way:
            self._deliver()

    def _deliver(self) -> None:
        segment = self._under_way.popleft()
        if segment and self._link.tamper is not None:
            segment = self._link.tamper(segment)
        self._net.counters.segments += 1
        self._net.counters.bytes += len(segment) if segment else 0
        self._receiver.receive(segment)

    def _stall(self) -> None:
        """Something does not get through: try again, less and less often."""
        if self._stalled_since < 0:
            self._stalled_since = self._net.world.now_ns
            self._wait = RTO
            self._net.world.after(RTO, self._retry, self._sender.host.lane)

    def _retry(self) -> None:
        if self._stalled_since < 0 or (self._sender.closed and not self._under_way):
            return
        world, there = self._net.world, not (self._link.cuts or self._receiver.host.down)
        if not there or self._back.cuts:
            if world.now_ns - self._stalled_since > GIVE_UP:
                self._sender.give_up()
                return
            self._wait *= 2
            world.after(self._wait, self._retry, self._sender.host.lane)
            if there:
                self._deliver_overdue()
            return
        self._stalled_since = -1
        self._deliver_overdue()
        self.unread -= self._late_acks
        self._late_acks = 0
        self._sender.soon(self._sender.acknowledged)

    def _deliver_overdue(self) -> None:
        overdue, self._overdue = self._overdue, 0
        for _ in range(overdue):
            if self._under_way:
                self._deliver()
