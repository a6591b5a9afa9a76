"""Tasks that wait for an agent, grouped by what they demand of one (pure).

Tasks of one demand stand or fall together: one look, one back-off and one line of explanation serve all of them, so
that thousands that nobody can take cost no more than one. A group is open (its first task is tried next), or parked:
`absent` until an agent comes or changes that may take it, `full` until one has room, `refused` for a back-off since
everybody who was asked declined. A task that fails for a reason of its own becomes a group of its own.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping
from itertools import count

from chorus.backoff import Backoff
from chorus.tasks import scoring
from chorus.tasks.demand import Demand
from chorus.tasks.groups import MAX_PLACING, DemandGroup, Nobody, Order, PlaceKind, Standing, WaitingTask

WAIT_S = 1.0
WAIT_LIMIT_S = 30.0
"""Back-off of a group that nobody takes; it doubles up to the limit."""
WAIT = Backoff(WAIT_S, WAIT_LIMIT_S)


class Backlog:
    """All waiting tasks. Times are of the caller's clock."""

    def __init__(self) -> None:
        self._entries: dict[str, WaitingTask] = {}
        self._groups: dict[object, DemandGroup] = {}
        self._open: dict[PlaceKind, list[tuple[Order, int, DemandGroup]]] = {kind: [] for kind in PlaceKind}
        self._parked: dict[DemandGroup, None] = {}
        self._until: list[tuple[float, int, DemandGroup]] = []
        self._placing = dict.fromkeys(PlaceKind, 0)
        self._count = count()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._entries

    @property
    def groups(self) -> int:
        return len(self._groups)

    @property
    def placing(self) -> int:
        return sum(self._placing.values())

    def group_of(self, task_id: str) -> DemandGroup | None:
        entry = self._entries.get(task_id)
        return None if entry is None else entry.group

    # tasks

    def add(self, task_id: str, order: Order, demand: Demand, tried: tuple[str, ...] = ()) -> DemandGroup:
        self.discard(task_id)
        group = self._groups.get(demand)
        if group is None:
            group = self._groups[demand] = DemandGroup(demand, demand)
        self._join(WaitingTask(task_id, order, tried, group))
        return group

    def discard(self, task_id: str) -> None:
        entry = self._entries.pop(task_id, None)
        if entry is not None:
            was_first = entry.group.head() is entry
            entry.gone = True
            self._leave(entry.group)
            if was_first:
                self._offer(entry.group)

    def _join(self, entry: WaitingTask) -> None:
        group = entry.group
        self._entries[entry.task_id] = entry
        group.size += 1
        group.unnoted.append(entry.task_id)
        group.push(entry)
        self._offer(group)

    def _leave(self, group: DemandGroup) -> None:
        group.size -= 1
        if not group.size and self._groups.get(group.key) is group:
            del self._groups[group.key]
            self._parked.pop(group, None)
        elif len(group.unnoted) > 2 * group.size + 16:
            group.unnoted = [task_id for task_id in group.unnoted if self.group_of(task_id) is group]

    # which is next

    def pick(self) -> DemandGroup | None:
        """The open group whose first task goes before all others that may take a place now. The caller takes that task
        or parks the group before it asks again."""
        best: DemandGroup | None = None
        best_order: Order | None = None
        if self.placing >= MAX_PLACING:
            return None
        for kind, heap in self._open.items():
            if self._placing[kind] < kind.value and (found := self._top(kind, heap)) is not None:
                order, group = found
                if best_order is None or order < best_order:
                    best, best_order = group, order
        return best

    def _top(self, kind: PlaceKind, heap: list[tuple[Order, int, DemandGroup]]) -> tuple[Order, DemandGroup] | None:
        while heap:
            order, _, group = heap[0]
            if group.kind is kind and group.may_try and (head := group.head()) is not None and head.order == order:
                return order, group
            heapq.heappop(heap)
        return None

    def _offer(self, group: DemandGroup) -> None:
        """Have `pick` see the group again, where it may be tried."""
        if group.may_try and (head := group.head()) is not None:
            heapq.heappush(self._open[group.kind], (head.order, next(self._count), group))

    def take(self, group: DemandGroup) -> WaitingTask:
        """Its first task, which holds a place from now on, until `taken`, `given_up` or `failed`."""
        entry = group.head()
        assert entry is not None, "a group without tasks was picked"
        entry.placing, entry.kind, entry.round = True, group.kind, group.round
        self._placing[entry.kind] += 1
        group.placing += 1
        self._offer(group)
        return entry

    def _returned(self, entry: WaitingTask) -> None:
        if entry.placing:
            entry.placing = False
            self._placing[entry.kind] -= 1
            entry.group.placing -= 1

    # how it went

    def taken(self, entry: WaitingTask) -> None:
        """An agent has it: its whole group may be tried."""
        self._returned(entry)
        group = entry.group
        group.proven, group.rounds = True, 0
        group.declined.clear()
        if group.size:
            self.open(group)

    def given_up(self, entry: WaitingTask) -> None:
        """It needs no agent any more."""
        self._returned(entry)
        if not entry.gone:
            self.discard(entry.task_id)
        self._offer(entry.group)

    def failed(self, entry: WaitingTask, nobody: Nobody, now: float) -> DemandGroup:
        """Nobody took it: its group (its own one where the fault is its own) is parked. Returns that group."""
        self._returned(entry)
        group = entry.group
        if entry.gone:
            self._offer(group)
            return group
        if nobody.alone and group.key is not entry.task_id:
            self._offer(group)
            group = self._alone(entry)
        else:
            group.push(entry)
        self.refuse(group, nobody, now, entry.round)
        return group

    def _alone(self, entry: WaitingTask) -> DemandGroup:
        before = entry.group
        group = self._groups[entry.task_id] = DemandGroup(before.demand, entry.task_id)
        entry.group, entry.round = group, 0
        if entry.task_id in before.unnoted:
            before.unnoted.remove(entry.task_id)
            group.unnoted.append(entry.task_id)
        else:
            group.noted, group.noted_at = before.noted, before.noted_at
        self._leave(before)
        group.size = 1
        group.push(entry)
        return group

    def refuse(self, group: DemandGroup, nobody: Nobody, now: float, begun_in: int | None = None) -> None:
        """Park it for its back-off. A round that began before another one of the same group failed (`begun_in`) adds
        what it learnt and no more."""
        # Who was full in this round has not changed its mind about what it said in an earlier one.
        group.declined.update(nobody.declined)
        if begun_in is not None and begun_in != group.round:
            self._offer(group)
            return
        group.proven = False
        group.rounds += 1
        group.since, group.until = now, now + WAIT.ceiling(group.rounds)
        group.round += 1
        group.fixed, group.offered = nobody.fixed, nobody.offered
        self.park(group, Standing.REFUSED, nobody.detail)
        heapq.heappush(self._until, (group.until, next(self._count), group))

    def park(self, group: DemandGroup, standing: Standing, detail: str) -> None:
        group.standing, group.detail = standing, detail
        if group.size:
            self._parked[group] = None

    def open(self, group: DemandGroup) -> None:
        group.standing = Standing.OPEN
        self._parked.pop(group, None)
        self._offer(group)

    # what changes it

    def parked(self, *standings: Standing) -> list[DemandGroup]:
        return [group for group in self._parked if group.standing in standings]

    def release(self, now: float) -> None:
        """Open the groups whose back-off has ended."""
        while (until := self.next_release()) is not None and until <= now:
            self.open(heapq.heappop(self._until)[2])

    def next_release(self) -> float | None:
        """When the next back-off ends."""
        heap = self._until
        while heap and not (heap[0][2].standing is Standing.REFUSED and heap[0][2].until == heap[0][0]):
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def review(self, group: DemandGroup, candidates: Mapping[str, scoring.Candidate], now: float) -> None:
        """Agents have changed: open a parked group that somebody may take now who would not have before."""
        if group not in self._parked:
            return
        if group.standing is Standing.ABSENT:
            why = scoring.why_absent(group.demand, list(candidates.values()))
            if why is None:
                self.open(group)
            else:
                group.detail = why
        elif group.standing is Standing.FULL:
            self.open(group)
        elif not group.fixed:
            self._hurry(group, candidates, now)

    def _hurry(self, group: DemandGroup, candidates: Mapping[str, scoring.Candidate], now: float) -> None:
        """Cut the back-off short, unless all who could take it now have declined for good.

        An offer that is declined changes an agent too, for a moment: without this, what nobody can take would be
        offered around without end."""
        declined = group.declined
        for peer in [peer for peer in declined if not _still_declines(candidates.get(peer), declined[peer])]:
            del declined[peer]
        if declined and not _anybody(group.demand, candidates.values(), declined):
            return
        earliest = max(now, group.since + WAIT_S) if group.offered else now
        if earliest <= now:
            self.open(group)
        elif earliest < group.until:
            group.until = earliest
            heapq.heappush(self._until, (earliest, next(self._count), group))


def _still_declines(candidate: scoring.Candidate | None, standing: object) -> bool:
    """False for an agent that left, whose standing changed, or that takes nothing now: its next answer may differ."""
    return candidate is not None and not candidate.refuses and candidate.standing == standing


def _anybody(demand: Demand, candidates: Iterable[scoring.Candidate], but: Collection[str]) -> bool:
    return any(each.free and each.peer not in but and scoring.missing(demand, each) is None for each in candidates)
