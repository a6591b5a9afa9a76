"""Finds an agent for each task that is ready: score, offer in order, assign to the first that accepts.

Nobody suitable is no failure: the task waits, says why in its document, and is tried again when an agent's state
changes and after a back-off. `tasks/backlog.py` says which task is next; all that happens here happens in turns of the
reactor of bounded length, none of which begins inside another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from chorus.services.scheduling.arrivals import Arrivals, waits
from chorus.services.scheduling.board import Agent, Board, Shapes, changes
from chorus.services.scheduling.conduct import Conduct
from chorus.services.scheduling.rounds import Rounds
from chorus.services.scheduling.wait_notes import WaitNotes
from chorus.tasks import scoring
from chorus.tasks.backlog import WAIT_S, Backlog
from chorus.tasks.demand import Demand
from chorus.tasks.groups import DemandGroup, Nobody, Standing, WaitingTask
from chorus.tasks.spec import TaskSpec
from chorus.timer import Timer

if TYPE_CHECKING:
    from chorus.services.scheduling.context import SchedulerContext
    from chorus.services.scheduling.custodies import Custodies
    from chorus.services.scheduling.custody import Custody
    from chorus.services.task_streams import TaskStreams
    from chorus.tasks.applied import Change
    from chorus.tasks.state import TaskState

LOOK_AGAIN_S = 0.1
"""Changes of agents' states within this time make one new round."""
POLL_S = 5.0
"""Between two looks at the agents while tasks wait: not every change is announced, such as a presence that has aged."""
STEPS_A_TURN = 1000
"""Agents looked at in one turn of the reactor, for whatever tasks: a few milliseconds."""
REVIEW_PAUSE_S = 0.01
"""Between two turns that look at what agents' changes may concern, so that members which change all the time cost a
fraction of the processor at most. What can be placed goes on in the next turn."""
STRANDED_GROUPS = 16
STRANDED_TASKS = 4
"""Groups, and tasks of each, that are handed to other members in one round, where nobody within reach may run them."""
MAX_DETAIL = 400
"""Characters of the line that says why a task waits."""


class Placement:
    """`agents` gives every agent known to be alive, this one included. Places nothing before `start`."""

    _log = Logger()

    def __init__(
        self,
        context: SchedulerContext,
        custodies: Custodies,
        streams: TaskStreams,
        agents: Callable[[], Sequence[Agent]],
    ) -> None:
        self._context = context
        self._clock = context.clock
        self._custodies = custodies
        self._own = str(streams.peer_id)
        self._agents = agents
        self._conduct = Conduct()
        self._rounds = Rounds(context, custodies, streams, self._conduct)
        self._backlog = Backlog()
        self._notes = WaitNotes(self._say_why)
        self._unreadable: dict[str, str] = {}
        """Waiting tasks whose specification this program cannot read, and why."""
        self._arrivals = Arrivals(context.wall, self._rounds.placing, self._read)
        self._review: dict[DemandGroup, None] = {}
        """Parked groups that agents' changes may concern, still to be looked at."""
        self._shapes: Shapes = {}
        self._look_again_at: float | None = None
        """When changes of agents that have been noted are acted upon."""
        self._changes = 0
        """Times that agents have changed."""
        self._turns = Timer(self._clock, self._turn)
        self._running = False
        custodies.when_over(self._custody_over)

    def start(self) -> None:
        """Begin to place what waits in the journal."""
        self._running = True
        for task in self._context.ledger.machine:
            self._task_changed(task)
        self.schedule()

    def stop(self) -> None:
        self._running = False
        self._turns.cancel()
        self._rounds.stop()

    # what others ask

    @property
    def offers(self) -> int:
        """Offers made since the start."""
        return self._rounds.offering.count

    def waiting(self, task_id: str) -> str | None:
        """The reason why no agent has the task, when that is known."""
        group = self._backlog.group_of(task_id)
        return group.detail if group is not None else self._unreadable.get(task_id)

    def stranded(self) -> list[tuple[str, tuple[str, ...]]]:
        """Some waiting tasks that nobody but agents out of reach may run, each with those agents."""
        if not len(self._backlog):
            return []
        candidates = Board(self._agents(), self._rounds.seen).candidates.values()
        if all(each.reachable for each in candidates):
            return []
        found: list[tuple[str, tuple[str, ...]]] = []
        for group in self._backlog.parked(Standing.FULL)[:STRANDED_GROUPS]:
            able = [each for each in candidates if each.max_tasks and scoring.missing(group.demand, each) is None]
            if able and not any(each.reachable for each in able):
                peers = tuple(each.peer for each in able)
                found += [(task_id, peers) for task_id in group.first(STRANDED_TASKS)]
        return found

    def agent_id(self, agent: str) -> str | None:
        """The name of a peer that has a task of ours, or is about."""
        if (name := self._custodies.agent_id(agent)) is not None:
            return name
        return next((each.agent_id for each in self._agents() if str(each.peer) == agent), None)

    # events; none of them does more than note it and have a turn come

    def changed(self, change: Change) -> None:
        """A task is not as it was: it waits for an agent now, or not any more, or has left one."""
        if change.after is None:
            self._forget(change.task_id)
        else:
            self._task_changed(change.after)
        self._conduct.changed(change)

    def _task_changed(self, task: TaskState) -> None:
        self._forget(task.id)
        if waits(task):
            self._arrivals.add(task.id)
            self.schedule()

    def _forget(self, task_id: str) -> None:
        self._arrivals.discard(task_id)
        self._unreadable.pop(task_id, None)
        self._backlog.discard(task_id)

    def _custody_over(self, custody: Custody) -> None:
        if self._running:
            if not custody.collecting:
                self._conduct.freed(custody.agent, self._clock.seconds())
            self.agents_changed()
            self.schedule()

    def schedule(self) -> None:
        """Begin to place what is ready, soon."""
        self._turn_in(0.0)

    def agents_changed(self) -> None:
        """Some agent came, went, has become free or able: look again, soon, at what waits and may be taken now."""
        self._changes += 1
        self._look_again()

    # turns

    def _look_again(self) -> None:
        if self._look_again_at is None:
            self._look_again_at = self._clock.seconds() + LOOK_AGAIN_S
        self._turn_in(LOOK_AGAIN_S)

    def _turn_in(self, seconds: float) -> None:
        """Have a turn come within `seconds`."""
        at = self._turns.at
        if self._running and (at is None or at > self._clock.seconds() + seconds):
            self._turns.arm(seconds)

    def _turn(self) -> None:
        if not self._running:
            return
        again: float | None = WAIT_S
        try:
            again = self._work()
        except Exception:
            self._report("placing broke; it goes on")
        finally:
            if again is not None:
                self._turn_in(again)

    def _work(self) -> float | None:
        """One turn's worth. Seconds until the next one is needed, None when nothing waits."""
        now = self._clock.seconds()
        self._arrivals.take_in(now, self._context.ledger.machine)
        self._backlog.release(now)
        if len(self._backlog):
            self._match(Board(self._agents(), self._rounds.seen), now)
        self._notes.some(lambda task_id, group: self._backlog.group_of(task_id) is group)
        return self._next_turn(now)

    def _next_turn(self, now: float) -> float | None:
        if self._notes or self._backlog.pick() is not None:
            return 0.0
        times = [now + POLL_S] if len(self._backlog) else []
        if self._review:
            times.append(now + REVIEW_PAUSE_S)
        if (arrival := self._arrivals.next(now)) is not None:
            times.append(arrival)
        if self._look_again_at is not None and len(self._backlog):
            times.append(self._look_again_at)
        if (release := self._backlog.next_release()) is not None:
            times.append(release)
        return max(0.0, min(times) - now) if times else None

    def _read(self, task: TaskState) -> None:
        try:
            demand = Demand.of(TaskSpec.from_json(task.spec))
        except Exception as error:
            self._unreadable[task.id] = f"its specification cannot be read here: {error}"[:MAX_DETAIL]
            self._report("the specification of {task} cannot be read", task=task.id)
            return
        group = self._backlog.add(task.id, (-task.priority, task.created_index), demand, task.tried)
        self._notes.parked(group, self._clock.seconds())

    def _match(self, board: Board, now: float) -> None:
        """Begin to place what can be placed now, and look at some of what agents' changes may concern."""
        self._compare(board, now)
        steps, cost = STEPS_A_TURN, len(board.candidates) + 1
        while steps > 0 and (group := self._backlog.pick()) is not None:
            steps -= cost
            self._try(group, board, now)
        # What waits does not hold up what can be placed, nor the other way round.
        steps = max(steps, STEPS_A_TURN // 2)
        while steps > 0 and self._review:
            steps -= cost
            group = next(iter(self._review))
            del self._review[group]
            self._backlog.review(group, board.candidates, now)
        self._shapes = board.shapes()

    def _compare(self, board: Board, now: float) -> None:
        """Have parked groups looked at again where agents are not as they were."""
        found = changes(self._shapes, board.shapes())
        due = self._look_again_at is not None and self._look_again_at <= now
        if due:
            self._look_again_at = None
        if found.others or found.freed:
            for group in self._backlog.parked(Standing.FULL):
                self._backlog.open(group)
        if due or found.others or found.freed or found.refusing:
            self._review.update(dict.fromkeys(self._backlog.parked(Standing.REFUSED)))
        if found.others:
            self._review.update(dict.fromkeys(self._backlog.parked(Standing.ABSENT)))

    def _try(self, group: DemandGroup, board: Board, now: float) -> None:
        """Begin to place its first task, or park it."""
        entry = group.head()
        assert entry is not None
        try:
            candidates = [self._with_input(group, each) for each in board.candidates.values()]
            ranking = scoring.rank(group.demand, candidates, entry.tried)
        except Exception:
            self._backlog.refuse(group, Nobody("the scheduler failed; it tries again", fixed=True), now)
            self._notes.parked(group, now)
            self._report("scoring for {task} broke", task=entry.task_id)
            return
        if not ranking.order:
            standing = Standing.ABSENT if ranking.absent else Standing.FULL
            self._backlog.park(group, standing, _cut(f"{ranking.nobody}{self._resting(group, board, now)}"))
            self._notes.parked(group, now)
            return
        entry = self._backlog.take(group)
        first = ranking.order[0].candidate.peer
        self._rounds.placing[entry.task_id] = first
        board.look_again(first)
        order = [each.candidate for each in ranking.order]
        placed = Deferred.fromCoroutine(self._rounds.place(entry.task_id, order, board.agents))
        placed.addBoth(self._placed, entry, self._changes)

    def _resting(self, group: DemandGroup, board: Board, now: float) -> str:
        """Those who might take it and are not asked, as the end of a line."""
        names = [
            board.agents[peer].agent_id
            for peer, each in board.candidates.items()
            if self._conduct.rests(peer, now) and scoring.missing(group.demand, each) is None
        ]
        return f"; no answer to offers from {', '.join(names[:3])}" if names else ""

    def _with_input(self, group: DemandGroup, candidate: scoring.Candidate) -> scoring.Candidate:
        here = group.demand.has_input and candidate.peer == self._own
        return attrs.evolve(candidate, has_input=True) if here else candidate

    def _placed(self, found: Nobody | Failure | bool, entry: WaitingTask, before: int) -> None:
        """The round of one task is over. First of all its place is free again, whatever comes after."""
        del self._rounds.placing[entry.task_id]
        if isinstance(found, Failure):
            self._nobody(entry, Nobody("the scheduler failed; it tries again", fixed=True, alone=True))
        elif isinstance(found, Nobody):
            self._nobody(entry, attrs.evolve(found, detail=_cut(found.detail)))
        elif found:
            self._backlog.taken(entry)
        else:
            self._backlog.given_up(entry)
        self.schedule()
        if self._changes != before and isinstance(found, Nobody):
            # Meanwhile somebody may have become free whom the round had passed already.
            self._look_again()
        if isinstance(found, Failure):
            self._report("placing {task} broke", found, task=entry.task_id)

    def _nobody(self, entry: WaitingTask, nobody: Nobody) -> None:
        now = self._clock.seconds()
        self._notes.parked(self._backlog.failed(entry, nobody, now), now)

    # why tasks wait

    def _say_why(self, task_id: str, detail: str) -> None:
        try:
            self._log.info("task {task} waits: {detail}", event="task.waiting", task=task_id, detail=detail)
            self._context.events.append(task_id, "note", {"text": detail})
        except Exception:
            self._report("internal error in a wait note of {task}", task=task_id)

    def _report(self, text: str, failure: Failure | None = None, *, task: str = "") -> None:
        """Log a bug. Nothing that placing hangs on comes after it, and it never raises."""
        with suppress(Exception):
            self._log.failure(text, failure=failure, task=task)


def _cut(detail: str) -> str:
    return detail if len(detail) <= MAX_DETAIL else f"{detail[: MAX_DETAIL - 1]}…"
