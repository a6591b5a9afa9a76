"""Waiting tasks of one demand, and the places that they may take (pure)."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from enum import Enum

import attrs

from chorus.tasks.demand import Demand

MAX_PLACING = 32
"""Tasks that are being offered at once."""
FRESH_PLACES = 16
"""Of these, for groups that nobody was asked about, or has declined yet: the rest stays for those that are taken."""
RETRY_PLACES = 8
"""Of these, for groups that were declined before: a backlog of them cannot keep out what is new."""
UNPROVEN_PLACES = 4
"""Tasks of one group offered at once until somebody takes one: enough to fill an agent, few if all are declined."""

Order = tuple[int, int]
"""(-priority, index of submission): the smallest goes first."""


class Standing(Enum):
    OPEN = "open"
    ABSENT = "absent"
    FULL = "full"
    REFUSED = "refused"


class PlaceKind(Enum):
    """The places that a group may take."""

    PROVEN = MAX_PLACING
    FRESH = FRESH_PLACES
    RETRY = RETRY_PLACES


@attrs.frozen
class Nobody:
    """How a round ended without an agent."""

    detail: str
    declined: Mapping[str, object] = attrs.field(factory=dict)
    """Peers that would decline again, and what they were when they did."""
    offered: bool = False
    """True if anybody was asked at all."""
    fixed: bool = False
    """True if the back-off is waited out whatever agents do: the fault is not theirs."""
    alone: bool = False
    """True if it says something of this task alone, and nothing of others with its demand."""


@attrs.define(eq=False)
class WaitingTask:
    """One waiting task."""

    task_id: str
    order: Order
    tried: tuple[str, ...]
    group: DemandGroup
    kind: PlaceKind = PlaceKind.FRESH
    """The places it was taken under, while it is being placed."""
    round: int = 0
    placing: bool = False
    gone: bool = False


class DemandGroup:
    """The waiting tasks of one demand."""

    def __init__(self, demand: Demand, key: object) -> None:
        self.demand = demand
        self.key = key
        self.standing = Standing.OPEN
        self.detail: str | None = None
        """Why it is parked, or was last."""
        self.declined: dict[str, object] = {}
        self.fixed = False
        self.offered = False
        self.since = self.until = 0.0
        """When the last round ended, and the end of the back-off."""
        self.rounds = self.round = 0
        """Rounds in a row that nobody ended, and in all."""
        self.proven = False
        self.placing = self.size = 0
        self.unnoted: list[str] = []
        """Tasks whose histories do not say yet why they wait."""
        self.noted: str | None = None
        self.noted_at = 0.0
        self._heap: list[tuple[Order, str, WaitingTask]] = []

    @property
    def kind(self) -> PlaceKind:
        return PlaceKind.PROVEN if self.proven else PlaceKind.RETRY if self.rounds else PlaceKind.FRESH

    @property
    def may_try(self) -> bool:
        """True if another of its tasks may be offered now, as far as the group itself goes."""
        limit = {PlaceKind.PROVEN: MAX_PLACING, PlaceKind.FRESH: UNPROVEN_PLACES, PlaceKind.RETRY: 1}[self.kind]
        return self.standing is Standing.OPEN and self.placing < limit

    def head(self) -> WaitingTask | None:
        """The task that is next."""
        heap = self._heap
        while heap and (heap[0][2].gone or heap[0][2].placing):
            heapq.heappop(heap)
        return heap[0][2] if heap else None

    def push(self, entry: WaitingTask) -> None:
        if len(self._heap) > 2 * self.size + 16:
            # Tasks that were taken out of the middle are passed over at the top; here they are let go of.
            self._heap = [each for each in self._heap if not (each[2].gone or each[2].placing)]
            heapq.heapify(self._heap)
        heapq.heappush(self._heap, (entry.order, entry.task_id, entry))

    def first(self, number: int) -> list[str]:
        """About `number` of its first tasks."""
        return [task_id for _, task_id, entry in self._heap[:number] if not (entry.gone or entry.placing)]
