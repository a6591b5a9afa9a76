"""Finding an agent for each task that is ready: score, offer in order, assign to the first that accepts.

Nobody suitable is no failure: the task waits, says why in its document, and is tried again when an agent's state
changes and after a back-off. `tasks/backlog.py` says which task is next; all that happens here happens in turns of the
reactor of bounded length, none of which begins inside another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from chorus.errors import ChorusError, UserError
from chorus.services.scheduling import offering
from chorus.services.scheduling.arrivals import Arrivals, waits
from chorus.services.scheduling.board import Agent, Board, Shapes, changes
from chorus.services.scheduling.conduct import Conduct
from chorus.services.scheduling.offering import Accepted, Declined, Offering
from chorus.services.scheduling.wait_notes import WaitNotes
from chorus.tasks import scoring
from chorus.tasks.backlog import MAX_PLACING, WAIT_LIMIT_S, WAIT_S, Backlog, Entry, Group, Nobody, Standing
from chorus.tasks.demand import Demand
from chorus.tasks.errors import IllegalEntry
from chorus.tasks.spec import TaskSpec
from chorus.tasks.state import State, TaskState

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from chorus.protocols.task_messages import InputBlob
    from chorus.services.scheduling.custody import Custody
    from chorus.services.scheduling.events import TaskEvents
    from chorus.services.task_streams import SchedulerChannel, TaskStreams
    from chorus.tasks.journal import Entry as JournalEntry
    from chorus.tasks.machine import TaskMachine

__all__ = ["MAX_PLACING", "WAIT_LIMIT_S", "WAIT_S", "Agent", "Placement", "Scheduler"]

STIR_S = 0.1
"""Changes of agents' states within this time make one new round."""
POLL_S = 5.0
"""Between two looks at the agents while tasks wait: not every change is told, such as a presence that has aged."""
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
PASSING = frozenset({"full", "busy_with_it", "other_scheduler", "unacknowledged", "no_disk", "no_descriptors"})
"""Reasons to decline that go by themselves. Whoever declined for another one would only say it again until it has
become a different agent: it changed what it can, was away, or could not take work for a while."""
COMMON = frozenset(
    {
        *("full", "unacknowledged", "no_disk", "no_descriptors", "store_damaged", "draining", "wrong_role"),
        *("missing_expertise", "missing_capabilities", "no_model", "over_limits", "image_missing"),
        "sandbox_unavailable",
        offering.UNREACHABLE,
    }
)
"""Reasons that would be the same for every task of the same demand. Any other one may be the task's own."""


class Scheduler(Protocol):
    """What placement asks of the coordinator."""

    @property
    def machine(self) -> TaskMachine: ...

    @property
    def is_up(self) -> bool: ...

    def custodies_of(self, agent: str) -> int: ...

    async def input_of(self, task: TaskState) -> InputBlob | None: ...

    async def assign(self, task: TaskState, channel: SchedulerChannel, agent_id: str | None) -> Custody: ...

    async def append(self, entry: JournalEntry) -> int: ...


class Placement:
    """`agents` gives every agent known to be alive, this one included."""

    _log = Logger()

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        streams: TaskStreams,
        events: TaskEvents,
        agents: Callable[[], Sequence[Agent]],
        clock: IReactorTime,
        wall: Callable[[], float],
    ) -> None:
        self._scheduler = scheduler
        self._own = str(streams.peer_id)
        self._events = events
        self._agents = agents
        self._clock = clock
        self._wall = wall
        self._offering = Offering(streams, clock)
        self._conduct = Conduct()
        self._backlog = Backlog()
        self._notes = WaitNotes(self._say_why)
        self._unreadable: dict[str, str] = {}
        """Waiting tasks whose specification this program cannot read, and why."""
        self._placing: dict[str, str | None] = {}
        """Tasks being placed, and the agent each is offered to at this moment."""
        self._arrivals = Arrivals(wall, self._placing, self._read)
        self._review: dict[Group, None] = {}
        """Parked groups that agents' changes may concern, still to be looked at."""
        self._shapes: Shapes = {}
        self._stirred_at: float | None = None
        """When changes of agents that have been told are acted upon."""
        self._changes = 0
        """Times that agents have changed."""
        self._turn_call: IDelayedCall | None = None
        self._stopped = False

    # what others ask

    @property
    def offers(self) -> int:
        """Offers made since the start."""
        return self._offering.count

    def waiting(self, task_id: str) -> str | None:
        """Why nobody has it, when that is known."""
        group = self._backlog.group_of(task_id)
        return group.detail if group is not None else self._unreadable.get(task_id)

    def stranded(self) -> list[tuple[str, tuple[str, ...]]]:
        """Some waiting tasks that nobody but agents out of reach may run, each with those agents."""
        if not len(self._backlog):
            return []
        candidates = Board(self._agents(), self._seen).candidates.values()
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
        """The name of a peer that is about."""
        return next((each.agent_id for each in self._agents() if str(each.peer) == agent), None)

    # what others tell; none of it does more than note it and have a turn come

    def task_changed(self, task: TaskState) -> None:
        """The task is not as it was: it waits for an agent now, or not any more."""
        self.task_forgotten(task.id)
        if waits(task):
            self._arrivals.add(task.id)
            self.schedule()

    def task_forgotten(self, task_id: str) -> None:
        self._arrivals.discard(task_id)
        self._unreadable.pop(task_id, None)
        self._backlog.discard(task_id)

    def schedule(self) -> None:
        """Begin to place what is ready, soon."""
        self._turn_in(0.0)

    def agents_changed(self) -> None:
        """Some agent came, went, has become free or able: look again, soon, at what waits and may be taken now."""
        self._changes += 1
        self._stir()

    def outcome(self, agent: str, *, well: bool) -> None:
        """An attempt there has ended: `well` unless the agent or its machine failed."""
        self._conduct.outcome(agent, well=well)

    def freed(self, agent: str) -> None:
        """It has one of our tasks less than it had."""
        self._conduct.freed(agent, self._clock.seconds())

    def stop(self) -> None:
        self._stopped = True
        if self._turn_call is not None and self._turn_call.active():
            self._turn_call.cancel()
        self._turn_call = None
        self._offering.stop()

    # turns

    def _stir(self) -> None:
        if self._stirred_at is None:
            self._stirred_at = self._clock.seconds() + STIR_S
        self._turn_in(STIR_S)

    def _turn_in(self, seconds: float) -> None:
        """Have a turn come within `seconds`."""
        if self._stopped:
            return
        call = self._turn_call
        if call is not None and call.active():
            if call.getTime() <= self._clock.seconds() + seconds:
                return
            call.cancel()
        self._turn_call = self._clock.callLater(seconds, self._turn)

    def _turn(self) -> None:
        self._turn_call = None
        if self._stopped or not self._scheduler.is_up:
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
        self._arrivals.take_in(now, self._scheduler.machine)
        self._backlog.release(now)
        if len(self._backlog):
            self._match(Board(self._agents(), self._seen), now)
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
        if self._stirred_at is not None and len(self._backlog):
            times.append(self._stirred_at)
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

    def _seen(self, agent: Agent) -> scoring.Candidate:
        peer = str(agent.peer)
        ours = self._scheduler.custodies_of(peer) + self._offered_to(peer)
        said = attrs.evolve(agent.candidate, peer=peer)
        return self._conduct.seen(said, agent.said_at, ours, self._clock.seconds())

    def _offered_to(self, peer: str) -> int:
        return sum(other == peer for other in self._placing.values())

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
        stirred = self._stirred_at is not None and self._stirred_at <= now
        if stirred:
            self._stirred_at = None
        if found.others or found.freed:
            for group in self._backlog.parked(Standing.FULL):
                self._backlog.open(group)
        if stirred or found.others or found.freed or found.refusing:
            self._review.update(dict.fromkeys(self._backlog.parked(Standing.REFUSED)))
        if found.others:
            self._review.update(dict.fromkeys(self._backlog.parked(Standing.ABSENT)))

    def _try(self, group: Group, board: Board, now: float) -> None:
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
        self._placing[entry.task_id] = first
        board.look_again(first)
        placed = Deferred.fromCoroutine(self._place(entry, [each.candidate for each in ranking.order], board.agents))
        placed.addBoth(self._placed, entry, self._changes)

    def _resting(self, group: Group, board: Board, now: float) -> str:
        """Those who might take it and are not asked, as the end of a line."""
        names = [
            board.agents[peer].agent_id
            for peer, each in board.candidates.items()
            if self._conduct.rests(peer, now) and scoring.missing(group.demand, each) is None
        ]
        return f"; no answer to offers from {', '.join(names[:3])}" if names else ""

    def _with_input(self, group: Group, candidate: scoring.Candidate) -> scoring.Candidate:
        here = group.demand.has_input and candidate.peer == self._own
        return attrs.evolve(candidate, has_input=True) if here else candidate

    # one task

    async def _place(
        self, entry: Entry, order: Sequence[scoring.Candidate], agents: Mapping[str, Agent]
    ) -> Nobody | bool:
        """Offer it to the candidates in order. Whether it is assigned (or needs no agent any more), or why not."""
        try:
            task = self._scheduler.machine.get(entry.task_id)
            blob = await self._scheduler.input_of(task)
            return await self._offer_around(task, order, agents, blob)
        except IllegalEntry as error:
            # Cancelled while it was offered, or the like.
            return Nobody(f"it cannot be assigned now: {error}", fixed=True, alone=True)
        except ChorusError as error:
            return Nobody(f"it cannot be assigned now: {error}", fixed=True, alone=isinstance(error, UserError))

    async def _offer_around(
        self, task: TaskState, order: Sequence[scoring.Candidate], agents: Mapping[str, Agent], blob: InputBlob | None
    ) -> Nobody | bool:
        said: list[str] = []
        declined: dict[str, object] = {}
        alone = False
        for place, candidate in enumerate(order):
            agent = agents[candidate.peer]
            self._placing[task.id] = None
            if place and not self._seen(agent).free:
                # It was when the round began.
                said.append(f"{agent.agent_id} has no room any more")
                continue
            self._placing[task.id] = candidate.peer
            answer = await self._offer(task, agent, blob)
            if isinstance(answer, Accepted):
                return await self._accepted(task, answer.channel, agent.agent_id)
            if not self._ready(task.id):
                return False
            said.append(answer.detail or answer.reason)
            alone = alone or answer.reason not in COMMON
            if answer.reason not in PASSING:
                declined[candidate.peer] = candidate.standing
        # Sorted, since the order of the offers changes from round to round and what is said does not.
        return Nobody("; ".join(sorted(set(said))), declined, offered=True, alone=alone)

    async def _offer(self, task: TaskState, agent: Agent, blob: InputBlob | None) -> Accepted | Declined:
        answer = await self._offering.offer(task, agent.peer, agent.agent_id, blob)
        if isinstance(answer, Declined) and answer.slow:
            self._conduct.kept_waiting(str(agent.peer), self._clock.seconds())
        elif isinstance(answer, Accepted) or answer.reason != offering.UNREACHABLE:
            self._conduct.answered(str(agent.peer))
        return answer

    async def _accepted(self, task: TaskState, channel: SchedulerChannel, agent_id: str | None) -> bool:
        """Whether it is assigned. The agent keeps a place for it; where it is not to be, it hears so at once."""
        try:
            if self._ready(task.id):
                await self._assign(task, channel, agent_id)
                return True
        except BaseException:
            channel.reset()
            raise
        channel.reset()
        return False

    async def _assign(self, task: TaskState, channel: SchedulerChannel, agent_id: str | None) -> None:
        await offering.assign(
            lambda: self._scheduler.assign(task, channel, agent_id),
            self._scheduler.append,
            channel,
            agent_id,
            self._wall,
        )

    def _ready(self, task_id: str) -> bool:
        """Whether it still waits for an agent, and this node still places."""
        machine = self._scheduler.machine
        return not self._stopped and task_id in machine and machine.get(task_id).state is State.SUBMITTED

    def _placed(self, found: Nobody | Failure | bool, entry: Entry, before: int) -> None:
        """The round of one task is over. First of all its place is free again, whatever comes after."""
        del self._placing[entry.task_id]
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
            self._stir()
        if isinstance(found, Failure):
            self._report("placing {task} broke", found, task=entry.task_id)

    def _nobody(self, entry: Entry, nobody: Nobody) -> None:
        now = self._clock.seconds()
        self._notes.parked(self._backlog.failed(entry, nobody, now), now)

    # telling why

    def _say_why(self, task_id: str, detail: str) -> None:
        try:
            self._log.info("task {task} waits: {detail}", event="task.waiting", task=task_id, detail=detail)
            self._events.append(task_id, "note", {"text": detail})
        except Exception:
            self._report("telling why {task} waits broke", task=task_id)

    def _report(self, text: str, failure: Failure | None = None, *, task: str = "") -> None:
        """Log a bug. Nothing that placing hangs on comes after it, and it never raises."""
        with suppress(Exception):
            self._log.failure(text, failure=failure, task=task)


def _cut(detail: str) -> str:
    return detail if len(detail) <= MAX_DETAIL else f"{detail[: MAX_DETAIL - 1]}…"
