"""Finding an agent for each task that is ready: score, offer in order, assign to the first that accepts.

Nobody suitable is no failure: the task waits, says why in its document, and is tried again when an agent's state
changes and after a back-off.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from chorus.errors import ChorusError, LocalError
from chorus.protocols.stream import StreamClosed
from chorus.protocols.task_messages import Accept, Assign, Decline, Message, Offer
from chorus.sandbox.contract import Reason
from chorus.tasks import entries, scoring
from chorus.tasks.errors import IllegalEntry
from chorus.tasks.spec import TaskSpec
from chorus.tasks.state import State, TaskState

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime
    from twisted.python.failure import Failure

    from chorus.identity import PeerId
    from chorus.protocols.task_messages import InputBlob
    from chorus.services.custody import Custody
    from chorus.services.task_events import TaskEvents
    from chorus.services.task_streams import SchedulerChannel, TaskStreams
    from chorus.tasks.journal import Entry
    from chorus.tasks.machine import TaskMachine

OFFER_S = 15.0
"""Seconds an agent has to answer an offer: it may have to ask a slow container engine."""
MAX_PLACING = 32
"""Tasks that are being offered at once."""
WAIT_S = 1.0
WAIT_LIMIT_S = 30.0
"""Back-off between rounds for a task that nobody takes; it doubles up to the limit."""
RECENT = 20
"""Attempts of an agent that its success rate is made of."""
MAX_FREED = 64
"""Ends of tasks remembered of one agent; those before its last word do not count."""
MAX_REMEMBERED = 1000
"""Agents whose outcomes are remembered."""
STIR_S = 0.1
"""Changes of agents' states within this time make one new round."""
NOTE_S = 30.0
"""Between two events that say why one task waits; its document is always up to date."""
MAX_DETAIL = 400
"""Characters of the line that says why a task waits."""
PASSING = frozenset({"full", "busy_with_it", "other_scheduler", "unacknowledged", "no_disk", "no_descriptors"})
"""Reasons to decline that go by themselves. Whoever declined for another one would only say it again until it has
become a different agent: it changed what it can, was away, or could not take work for a while."""


class Scheduler(Protocol):
    """What placement asks of the coordinator."""

    @property
    def machine(self) -> TaskMachine: ...

    @property
    def is_up(self) -> bool: ...

    def custodies_of(self, agent: str) -> int: ...

    async def input_of(self, task: TaskState) -> InputBlob | None: ...

    async def assign(self, task: TaskState, channel: SchedulerChannel, agent_id: str | None) -> Custody: ...

    async def append(self, entry: Entry) -> int: ...


@attrs.frozen
class Agent:
    """An agent that is known to be alive. What the scheduler itself has seen of it is filled in here."""

    peer: PeerId
    agent_id: str
    candidate: scoring.Candidate
    said_at: float = float("inf")
    """When it said how much it has to do, on this node's clock; infinite for what is known without being said."""


@attrs.frozen
class Declined:
    reason: str
    detail: str


@attrs.frozen
class _Nobody:
    """How a round ended without an agent."""

    detail: str
    spec: TaskSpec | None = None
    """None when the back-off is to be waited out, whatever agents do: the fault is not theirs."""
    declined: Mapping[str, object] = attrs.field(factory=dict)
    """Peers that would decline again, and what they were when they did."""
    offered: bool = False
    """Whether anybody was asked at all."""


@attrs.frozen
class _Waiting:
    last: _Nobody
    rounds: int
    since: float
    """End of the last round on this node's clock, as are the next two."""
    until: float
    noted_at: float
    noted: str


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
        self._streams = streams
        self._events = events
        self._agents = agents
        self._clock = clock
        self._wall = wall
        self._outcomes: dict[str, deque[bool]] = {}
        self._freed: dict[str, deque[float]] = {}
        self._placing: dict[str, str | None] = {}
        """Tasks being placed, and the agent each is offered to at this moment."""
        self._waiting: dict[str, _Waiting] = {}
        self._timer: IDelayedCall | None = None
        self._stir: IDelayedCall | None = None
        self._offers: set[_Answer] = set()
        self._stopped = False
        self._changes = 0
        """Times that agents have changed."""
        self.offers = 0

    # what others ask

    def waiting(self, task_id: str) -> str | None:
        """Why nobody has it, when that is known."""
        found = self._waiting.get(task_id)
        return found.last.detail if found is not None else None

    def agent_id(self, agent: str) -> str | None:
        """The name of a peer that is about."""
        return next((each.agent_id for each in self._agents() if str(each.peer) == agent), None)

    def settled(self, task: TaskState) -> None:
        """The task's state has changed; what it waited for is history."""
        if task.state is not State.SUBMITTED:
            self._waiting.pop(task.id, None)

    def agents_changed(self) -> None:
        """Some agent came, went, has become free or able: look again, soon, at what waits and may be taken now.

        An offer that is declined changes an agent too, for a moment: what that agent declined for good stays in its
        back-off, or tasks that nobody can take would be offered around without end."""
        self._changes += 1
        if self._stir is None and not self._stopped and self._waiting:
            self._stir = self._clock.callLater(STIR_S, self._stirred)

    def stop(self) -> None:
        self._stopped = True
        for timer in (self._timer, self._stir):
            if timer is not None and timer.active():
                timer.cancel()
        self._timer = self._stir = None
        for offer in list(self._offers):
            offer.give_up(StreamClosed("this node stops"))

    # rounds

    def _stirred(self) -> None:
        self._stir = None
        now = self._clock.seconds()
        candidates = {str(each.peer): self._known(each, False) for each in self._agents()}
        self._waiting = {task_id: self._reconsidered(each, candidates, now) for task_id, each in self._waiting.items()}
        self.schedule()

    def _reconsidered(self, waiting: _Waiting, candidates: Mapping[str, scoring.Candidate], now: float) -> _Waiting:
        """Its back-off is cut short if somebody may take it now who would not have before."""
        last = waiting.last
        if last.spec is None:
            return waiting
        declined = {
            peer: standing
            for peer, standing in last.declined.items()
            if peer in candidates and not _refuses(candidates[peer]) and _standing(candidates[peer]) == standing
        }
        if len(declined) != len(last.declined):
            waiting = attrs.evolve(waiting, last=attrs.evolve(last, declined=declined))
        if declined:
            ranking = scoring.rank(last.spec, list(candidates.values()))
            if all(ranked.candidate.peer in declined for ranked in ranking.order):
                return waiting
        earliest = waiting.since + WAIT_S if last.offered else now
        return attrs.evolve(waiting, until=min(waiting.until, max(now, earliest)))

    def schedule(self) -> None:
        """Begin to place what is ready, as far as the limit allows, and come back for the rest."""
        if self._stopped or not self._scheduler.is_up:
            return
        now = self._clock.seconds()
        machine = self._scheduler.machine
        for task in machine.ready(self._wall()):
            if len(self._placing) >= MAX_PLACING:
                break
            waiting = self._waiting.get(task.id)
            if task.id not in self._placing and (waiting is None or waiting.until <= now):
                self._placing[task.id] = None
                Deferred.fromCoroutine(self._place(task)).addErrback(self._broken, task.id)
        self._arm()

    def _arm(self) -> None:
        """One timer for the next thing that ends: a back-off of the machine, or of a task that waits."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        now = self._clock.seconds()
        times = [each.until for task_id, each in self._waiting.items() if task_id not in self._placing]
        after = self._scheduler.machine.next_ready(self._wall())
        if after is not None:
            times.append(now + max(0.0, after - self._wall()))
        if times and not self._stopped:
            self._timer = self._clock.callLater(max(0.01, min(times) - now), self._due)

    def _due(self) -> None:
        self._timer = None
        self.schedule()

    def _broken(self, failure: Failure, task_id: str) -> None:
        self._log.failure("placing {task} broke", task=task_id, failure=failure)
        self._placing.pop(task_id, None)
        self._wait(task_id, _Nobody("the scheduler failed; it tries again"))

    async def _place(self, task: TaskState) -> None:
        changes = self._changes
        try:
            nobody = await self._offer_around(task)
        except IllegalEntry:
            # Cancelled while it was offered, or the like.
            nobody = None
        except ChorusError as error:
            nobody = _Nobody(f"it cannot be assigned now: {error}")
        self._placing.pop(task.id, None)
        if self._stopped:
            return
        if nobody is not None and self._ready(task):
            self._wait(task.id, nobody)
            if self._changes != changes:
                # Meanwhile somebody may have become free whom the round had passed already.
                self.agents_changed()
        self.schedule()

    def _ready(self, task: TaskState) -> bool:
        machine = self._scheduler.machine
        return task.id in machine and machine.get(task.id).state is State.SUBMITTED

    def _wait(self, task_id: str, nobody: _Nobody) -> None:
        detail = nobody.detail
        detail = detail if len(detail) <= MAX_DETAIL else f"{detail[: MAX_DETAIL - 1]}…"
        before = self._waiting.get(task_id)
        rounds = 0 if before is None else before.rounds + 1
        delay = min(WAIT_LIMIT_S, WAIT_S * 2.0 ** min(rounds, 16))
        now = self._clock.seconds()
        noted, noted_at = (detail, now) if before is None else (before.noted, before.noted_at)
        if before is None or (noted != detail and now - noted_at >= NOTE_S):
            noted, noted_at = detail, now
            self._log.info("task {task} waits: {detail}", event="task.waiting", task=task_id, detail=detail)
            self._events.append(task_id, "note", {"text": detail})
        # Who was full in this round has not changed its mind about what it said in an earlier one.
        earlier = {} if before is None else before.last.declined
        last = attrs.evolve(nobody, detail=detail, declined={**earlier, **nobody.declined})
        self._waiting[task_id] = _Waiting(last, rounds, now, now + delay, noted_at, noted)
        self._arm()

    # one task

    async def _offer_around(self, task: TaskState) -> _Nobody | None:
        """Offer it to the candidates in order. None once it is assigned (or needs no agent any more)."""
        blob = await self._scheduler.input_of(task)
        agents = {str(each.peer): each for each in self._agents()}
        candidates = [self._known(each, blob is not None) for each in agents.values()]
        spec = TaskSpec.from_json(task.spec)
        ranking = scoring.rank(spec, candidates, task.tried)
        said: list[str] = []
        declined: dict[str, object] = {}
        for ranked in ranking.order:
            agent = agents[ranked.candidate.peer]
            self._placing[task.id] = ranked.candidate.peer
            answer = await self._offer(task, agent, blob)
            if self._stopped or not self._ready(task):
                if isinstance(answer, _Accepted):
                    answer.channel.reset()
                return None
            if isinstance(answer, _Accepted):
                await self._assign(task, answer.channel, agent.agent_id)
                return None
            said.append(answer.detail or answer.reason)
            if answer.reason not in PASSING:
                declined[ranked.candidate.peer] = _standing(ranked.candidate)
        self._placing[task.id] = None
        if ranking.nobody:
            said.append(ranking.nobody)
        # Sorted, since the order of the offers changes from round to round and what is said does not.
        detail = "; ".join(sorted(set(said))) or "no agent is known"
        return _Nobody(detail, spec, declined, bool(ranking.order))

    def outcome(self, agent: str, *, well: bool) -> None:
        """An attempt there has ended: `well` unless the agent or its machine failed."""
        self._outcomes.setdefault(agent, deque(maxlen=RECENT)).append(well)
        while len(self._outcomes) > MAX_REMEMBERED:
            del self._outcomes[next(iter(self._outcomes))]

    def freed(self, agent: str) -> None:
        """It has one of our tasks less than it had; its own word of that comes up to a second later."""
        self._freed.setdefault(agent, deque(maxlen=MAX_FREED)).append(self._clock.seconds())
        while len(self._freed) > MAX_REMEMBERED:
            del self._freed[next(iter(self._freed))]

    def _known(self, agent: Agent, with_input: bool) -> scoring.Candidate:
        """The candidate with what we know of it ourselves: how it did lately, whether the input is there (it is here),
        at least the tasks that we gave it or are offering it, and without those that have ended since its word."""
        peer = str(agent.peer)
        ours = self._scheduler.custodies_of(peer) + sum(other == peer for other in self._placing.values())
        outcomes = self._outcomes.get(peer, ())
        candidate = agent.candidate
        freed = sum(time > agent.said_at for time in self._freed.get(peer, ()))
        full = candidate.current_tasks >= candidate.max_tasks
        return attrs.evolve(
            candidate,
            peer=peer,
            current_tasks=max(candidate.current_tasks - freed, ours),
            # It said no because it was full; one that drains says no whatever it has.
            available=candidate.available or (full and freed > 0),
            succeeded=sum(outcomes),
            failed=len(outcomes) - sum(outcomes),
            has_input=with_input and agent.peer == self._streams.peer_id,
        )

    async def _offer(self, task: TaskState, agent: Agent, blob: InputBlob | None) -> _Accepted | Declined:
        self.offers += 1
        name = agent.agent_id
        try:
            channel = await self._streams.offer_to(agent.peer)
            answer = _Answer(channel, self._clock)
            self._offers.add(answer)
            try:
                channel.send(Offer(task.id, task.attempt + 1, task.spec, blob))
                message = await answer.deferred
            finally:
                self._offers.discard(answer)
        except ChorusError as error:
            return Declined("unreachable", f"{name} does not answer: {error}")
        if isinstance(message, Decline):
            return Declined(message.reason, message.detail or f"{name} declines: {message.reason}")
        return _Accepted(channel)

    async def _assign(self, task: TaskState, channel: SchedulerChannel, agent_id: str | None) -> None:
        try:
            custody = await self._scheduler.assign(task, channel, agent_id)
        except ChorusError:
            channel.reset()
            raise
        if not channel.may_send(Assign) or not channel.send(Assign(custody.fence, custody.lease_s)):
            # It went away between its yes and our commit, and so cannot have begun: no lease to wait for.
            detail = f"{agent_id or channel.peer} went away before it was told"
            await self._scheduler.append(
                entries.released(self._wall(), task.id, custody.fence, str(Reason.LEASE_LOST), detail)
            )
            custody.drop()


def _standing(candidate: scoring.Candidate) -> object:
    """What of an agent its answer to an offer may hang on, other than how much it has to do."""
    return (
        candidate.role,
        candidate.expertise,
        candidate.capabilities,
        candidate.specialisation,
        candidate.max_tasks,
        candidate.models,
    )


def _refuses(candidate: scoring.Candidate) -> bool:
    """It takes nothing, though it has room: it drains, or has no sandbox."""
    return not candidate.available and candidate.current_tasks < candidate.max_tasks


@attrs.frozen
class _Accepted:
    channel: SchedulerChannel


class NoAnswer(LocalError):
    code = "no_answer"


class _Answer:
    """Waits for the answer to one offer."""

    def __init__(self, channel: SchedulerChannel, clock: IReactorTime) -> None:
        self._channel = channel
        self.deferred: Deferred[Message] = Deferred()
        self._limit = clock.callLater(OFFER_S, self._late)
        channel.heard = self._heard
        channel.closed = self._closed
        if channel.is_closed:
            self._closed(None)

    def _heard(self, message: Message) -> None:
        if isinstance(message, Accept | Decline):
            self._done()
            if not self.deferred.called:
                self.deferred.callback(message)

    def _closed(self, error: ChorusError | None) -> None:
        self._done()
        if not self.deferred.called:
            self.deferred.errback(error or StreamClosed("it ended the conversation"))

    def _late(self) -> None:
        self.give_up(NoAnswer(f"no answer in {OFFER_S:.0f} s"))

    def give_up(self, error: ChorusError) -> None:
        self._done()
        if not self.deferred.called:
            self.deferred.errback(error)
        self._channel.reset()

    def _done(self) -> None:
        if self._limit.active():
            self._limit.cancel()
