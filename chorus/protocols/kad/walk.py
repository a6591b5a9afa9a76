"""One walk towards a point: candidates by distance, whom to ask next, and when it has seen enough. Pure.

Disjoint paths (S/Kademlia) share the candidates' states, so that each peer is asked on one path; a path goes on from
what its own peers named. Overdue requests hold neither a place among those in flight nor the end.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from typing import Final

import attrs

from chorus.identity import PeerId
from chorus.protocols.kad.keys import SPACE
from chorus.protocols.kad.messages import Contact, KadMessage
from chorus.protocols.kad.params import MAX_SEEN, MAX_WALK, KadParams


class CandidateState(IntEnum):
    NEW = 0
    ASKED = 1
    SLOW = 2
    """Asked and overdue; may answer yet."""
    ANSWERED = 3
    FAILED = 4


NEW, ASKED, SLOW, ANSWERED, FAILED = CandidateState
_PASSED: Final = frozenset((SLOW, FAILED))


@attrs.define(eq=False)
class WalkCandidate:
    """A peer that a walk knows of."""

    contact: Contact
    distance: int
    hops: int
    """Requests in a row that led to an answer of it: 1 for those that the walk began with."""
    path: int
    """Which one knows it, and since it was asked which one asked it."""
    state: CandidateState = NEW
    asked_at: float = 0.0


def _distance(candidate: WalkCandidate) -> int:
    return candidate.distance


class KadWalk:
    """Candidates of one target and the request that each of them gets."""

    def __init__(self, target: int, request: KadMessage, params: KadParams, paths: int = 1) -> None:
        self.target = target
        self.request = request
        self.asked = 0
        self.in_flight: dict[bytes, WalkCandidate] = {}
        """Overdue ones too."""
        self.seen: dict[bytes, WalkCandidate] = {}
        self._params = params
        self._width = params.k
        self._radius = SPACE
        self._paths: list[list[WalkCandidate]] = [[] for _ in range(paths)]
        self._alpha = -(-params.alpha // paths)

    # Candidates

    def begin(self, contacts: Iterable[Contact]) -> None:
        """Seeds, which the paths share out among them."""
        count = len(self._paths)
        for index, contact in enumerate(contacts):
            self.add(contact, index % count, 1)

    def add(self, contact: Contact, path: int, hops: int) -> None:
        raw = contact.peer.raw
        order = self._paths[path]
        known = self.seen.get(raw)
        if known is not None:
            if known.path != path and known not in order:
                insort(order, known, key=_distance)
            return
        candidate = WalkCandidate(contact, contact.point ^ self.target, hops, path)
        if len(self.seen) >= MAX_SEEN and not self._forget_farther(order, candidate.distance):
            return
        self.seen[raw] = candidate
        insort(order, candidate, key=_distance)

    def _forget_farther(self, order: list[WalkCandidate], distance: int) -> bool:
        """Make room for a nearer candidate by the farthest of its path that was never asked."""
        if not order or order[-1].distance <= distance or order[-1].state is not NEW:
            return False
        self.seen.pop(order.pop().contact.peer.raw, None)
        return True

    def widen(self, width: int, radius: int) -> None:
        """Go on until all within `radius` have answered, at most `width` of them."""
        self._width, self._radius = width, radius

    # The way

    def next(self, now: float, most: int, connected: Callable[[PeerId], bool] | None = None) -> list[WalkCandidate]:
        """Candidates to ask now, which count as asked: at most so many, and what alpha leaves room for. Of the k
        nearest that are `connected` first: they answer before others are dialled."""
        chosen: list[WalkCandidate] = []
        for index, order in enumerate(self._paths):
            room = min(self._alpha - self._busy(index), most - len(chosen), MAX_WALK - self.asked)
            if room <= 0:
                continue
            new = [candidate for candidate in self._window(order) if candidate.state is NEW]
            if connected is not None and len(new) > room:
                new.sort(key=lambda candidate: not connected(candidate.contact.peer))
            for candidate in new[:room]:
                candidate.state, candidate.asked_at, candidate.path = ASKED, now, index
                self.in_flight[candidate.contact.peer.raw] = candidate
                self.asked += 1
                chosen.append(candidate)
        return chosen

    def _busy(self, path: int) -> int:
        return sum(one.state is ASKED and one.path == path for one in self.in_flight.values())

    @property
    def busy(self) -> int:
        """Requests in flight that are not overdue."""
        return sum(one.state is ASKED for one in self.in_flight.values())

    def _window(self, order: list[WalkCandidate]) -> Iterator[WalkCandidate]:
        """The nearest of a path that are neither overdue nor gone."""
        left = self._width
        for candidate in order:
            if candidate.state in _PASSED:
                continue
            if not left or candidate.distance >= self._radius:
                return
            left -= 1
            yield candidate

    def settle(self, candidate: WalkCandidate, state: CandidateState) -> bool:
        """A request ended; False if it had ended before."""
        if self.in_flight.pop(candidate.contact.peer.raw, None) is None:
            return False
        candidate.state = state
        return True

    def pass_time(self, now: float) -> None:
        """Mark what is overdue, and give up what is beyond all limits."""
        late = now - self._params.slow_s
        gone = now - self._params.dial_s - self._params.rpc_s
        for candidate in list(self.in_flight.values()):
            if candidate.asked_at <= gone:
                self.settle(candidate, FAILED)
            elif candidate.asked_at <= late:
                candidate.state = SLOW

    def wake_at(self) -> float | None:
        """When `pass_time` has something to do next."""
        slow, gone = self._params.slow_s, self._params.dial_s + self._params.rpc_s
        times = [one.asked_at + (gone if one.state is SLOW else slow) for one in self.in_flight.values()]
        return min(times, default=None)

    @property
    def ended(self) -> bool:
        """Every path has the answers of the k nearest that are not overdue, and of at least beta if any is overdue."""
        if self.asked >= MAX_WALK:
            return True
        overdue = bool(self.in_flight)
        for order in self._paths:
            answers = 0
            for candidate in self._window(order):
                if candidate.state is not ANSWERED:
                    return False
                answers += 1
            if overdue and answers < self._params.beta:
                return False
        return True

    def horizon(self) -> int:
        """Distance of the k-th nearest that is not gone, whether it answered or not."""
        distances = sorted(one.distance for one in self.seen.values() if one.state is not FAILED)
        return distances[: self._params.k][-1] if distances else 0

    def answers(self) -> list[WalkCandidate]:
        """Peers that answered, nearest first."""
        return sorted((one for one in self.seen.values() if one.state is ANSWERED), key=_distance)
