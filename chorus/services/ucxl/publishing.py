"""Publishes decisions: their exact bytes to the holders, again and again until enough machines have all of it.

An executor's row waits for the acknowledgement of its result and is published then. A scheduler's copy is published
where the executor has not done so (spec/amendments.md 27). A row is durable before anything of it is sent.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from chorus.backoff import Backoff
from chorus.errors import ChorusError
from chorus.identity import PeerId
from chorus.observe.metrics import Histogram
from chorus.services.dht.ports import Stored
from chorus.services.execution.workplace import DraftedDecision
from chorus.services.ucxl.bundle import Publication
from chorus.services.ucxl.copies import signed_bytes
from chorus.services.ucxl.renewal import PublicationRenewal
from chorus.services.ucxl.sending import PublicationSender
from chorus.services.ucxl.task_drafts import TaskDrafts
from chorus.store import publications
from chorus.store.publications import PublicationRow, PublicationState
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from chorus.protocols.task_messages import Result
    from chorus.seams import Document
    from chorus.services.execution.row import RunRecord
    from chorus.services.scheduling.context import NamedDecision
    from chorus.services.ucxl.authoring import DecisionAuthor, WrittenDecision
    from chorus.services.ucxl.memory import MemoryPorts
    from chorus.services.ucxl.reading import DecisionReader

COPY_S = 5.0
"""Seconds that an executor has to publish before the scheduler looks for the holders."""
PATIENCE = 4
"""Looks of a scheduler at a connected executor that publishes, before it helps."""
RETRY = Backoff(2.0, 300.0)
MAX_AT_ONCE = 4
"""Publications under way: each is some walks through the DHT, and pushes of blobs."""
SECONDS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.25, 1.0, 10.0, 60.0)
"""Bounds of the histogram."""


@attrs.define
class _Pending:
    """A publication that is not safe yet."""

    content: bytes
    state: PublicationState
    begun: float
    """When it could first be published; as the next, on the clock of the node."""
    due: float
    holders: int = 0
    wanted: int = 0
    tries: int = 0
    running: bool = False
    row: PublicationRow | None = None
    """As the next, for the first try, where it is at hand."""
    written: WrittenDecision | None = None
    followed: NamedDecision | None = None


class Publisher(Service):
    """Implements `Decisions` for the executor and `DecisionCopies` for the scheduler. The reader takes in each
    publication that begins, for the index."""

    name = "decisions"
    _log = Logger()

    def __init__(self, ports: MemoryPorts, author: DecisionAuthor, reader: DecisionReader) -> None:
        self._ports = ports
        self._drafts = TaskDrafts(ports, author)
        self._sender = PublicationSender(ports, reader.take_in)
        self._renewal = PublicationRenewal(ports, reader, author)
        self._pending: dict[bytes, _Pending] = {}
        self._safe: dict[str, tuple[int, int]] = {}
        """(holders, wanted) of tasks' decisions that are safe."""
        self._turn = Timer(ports.clock, self._next)
        self._up = False
        self.published = 0
        """Since the start, made safe."""
        self.durations = Histogram(SECONDS)
        """Of a person's decision from its signature on, of a task's from the acknowledgement of its result on."""

    # life

    def startService(self) -> Deferred[None]:
        super().startService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        self._up = True
        for row in await self._ports.store.read(publications.every):
            if row.state is PublicationState.SAFE:
                self._safe[row.content.hex()] = (row.holders, row.wanted)
            else:
                self._add(row)
        self._go_on()

    def stopService(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        self._up = False
        self._turn.cancel()

    @property
    def waiting(self) -> int:
        """Decisions that are not safe yet."""
        return len(self._pending)

    def peer_joined(self) -> None:
        """There may be holders now."""
        now = self._ports.clock.seconds()
        for pending in self._pending.values():
            pending.due = min(pending.due, now)
        self._go_on()

    # for the executor

    def draft(self, record: RunRecord, result: Result) -> Deferred[DraftedDecision | None]:
        return Deferred.fromCoroutine(self._drafts.draft(record, result))

    def released(self, content: str) -> None:
        self._watch(self._load(bytes.fromhex(content)))

    async def _load(self, content: bytes) -> None:
        row = await self._ports.store.read(lambda connection: publications.get(connection, content))
        if row is not None and row.state is PublicationState.DUE:
            self._pending.pop(content, None)
            self._add(row).row = row
            self._go_on()

    # for people

    async def publish(self, written: WrittenDecision) -> None:
        """Make a decision durable, then publish it in the background. Raises errors of the store."""
        row = written.row(PublicationState.DUE, self._ports.wall())
        await self._ports.store.write(lambda connection: publications.insert(connection, row))
        pending = self._add(row)
        pending.begun, pending.row, pending.written = written.begun, row, written
        self._go_on()

    # for the scheduler

    def keep(self, decision: NamedDecision) -> Deferred[None]:
        return Deferred.fromCoroutine(self._keep(decision))

    async def _keep(self, decision: NamedDecision) -> None:
        bundle = await signed_bytes(self._ports, decision)
        row = PublicationRow(
            bytes.fromhex(decision.content),
            decision.address,
            bundle,
            PublicationState.KEPT,
            self._ports.wall(),
            decision.task_id,
        )
        await self._ports.store.write(lambda connection: publications.insert(connection, row))

    def follow(self, decision: NamedDecision) -> None:
        if decision.content not in self._safe:
            self._watch(self._follow(decision))

    async def _follow(self, decision: NamedDecision) -> None:
        await self._keep(decision)
        content = bytes.fromhex(decision.content)
        await self._ports.store.write(lambda connection: publications.recorded(connection, content))
        row = await self._ports.store.read(lambda connection: publications.get(connection, content))
        if row is None or row.state is PublicationState.SAFE:
            return
        pending = self._pending.get(content)
        if pending is None or pending.state is not row.state:
            pending = self._add(row)
        if pending.followed is None and pending.state is PublicationState.COPY:
            pending.due = self._ports.clock.seconds() + COPY_S
        pending.followed = decision
        self._go_on()

    def sweep(self, named: Collection[str]) -> None:
        self._watch(self._sweep(frozenset(map(bytes.fromhex, named))))

    async def _sweep(self, named: frozenset[bytes]) -> None:
        for content in await self._ports.store.write(lambda connection: publications.sweep(connection, named)):
            self._pending.pop(content, None)
            self._safe.pop(content.hex(), None)

    def forget(self, task_id: str) -> None:
        self._watch(self._forget(task_id))

    async def _forget(self, task_id: str) -> None:
        gone = await self._ports.store.write(lambda connection: publications.forget_task(connection, task_id))
        for content in gone:
            self._safe.pop(content.hex(), None)
            self._pending.pop(content, None)

    def state_of(self, content: str) -> Document:
        if (safe := self._safe.get(content)) is not None:
            return {"state": "safe", "holders": safe[0], "wanted": safe[1]}
        found = self._pending.get(bytes.fromhex(content))
        holders, wanted = (found.holders, found.wanted) if found is not None else (0, 0)
        return {"state": "stored" if holders else "pending", "holders": holders, "wanted": wanted}

    # turns

    def _add(self, row: PublicationRow) -> _Pending:
        now = self._ports.clock.seconds()
        found = _Pending(row.content, row.state, now, now, row.holders, row.wanted)
        self._pending[row.content] = found
        return found

    def _watch(self, work: object) -> None:
        Deferred.fromCoroutine(work).addErrback(self._broken)  # type: ignore[arg-type]

    def _broken(self, failure: Failure) -> None:
        if isinstance(failure.value, ChorusError | OSError):
            self._log.error("a decision waits: {error}", event="decision.waits", error=failure.value)
        else:
            self._log.failure("internal error in publishing", failure=failure)

    def _go_on(self) -> None:
        """Have the next turn begin what is due."""
        due = [each.due for each in self._ready()]
        if self._up and due and sum(each.running for each in self._pending.values()) < MAX_AT_ONCE:
            self._turn.arm(min(due) - self._ports.clock.seconds())

    def _ready(self) -> list[_Pending]:
        """Those that this node may publish once they are due: no attempt that waits for its acknowledgement, no copy
        whose result is not recorded."""
        may = (PublicationState.DUE, PublicationState.COPY)
        return [each for each in self._pending.values() if not each.running and each.state in may]

    def _next(self) -> None:
        now = self._ports.clock.seconds()
        room = MAX_AT_ONCE - sum(each.running for each in self._pending.values())
        for pending in sorted((each for each in self._ready() if each.due <= now), key=lambda each: each.due)[:room]:
            pending.running = True
            self._watch(self._pass(pending))
        self._go_on()

    async def _pass(self, pending: _Pending) -> None:
        """One try. Whatever goes wrong, there is another."""
        try:
            if await self._try(pending):
                self._pending.pop(pending.content, None)
                return
        except ChorusError as error:
            self._log.info("a decision is not published yet: {error}", error=error)
        finally:
            pending.running = False
            pending.tries += 1
            pending.due = self._ports.clock.seconds() + RETRY.ceiling(pending.tries)
            self._go_on()

    async def _try(self, pending: _Pending) -> bool:
        """True once nothing is left to do."""
        store = self._ports.store
        row, written = pending.row, pending.written
        pending.row = pending.written = None
        if row is None:
            row = await store.read(lambda connection: publications.get(connection, pending.content))
        if row is None or row.state is PublicationState.SAFE:
            return True
        if not row.bundle and pending.followed is not None:
            await self._keep(pending.followed)
            row = await store.read(lambda connection: publications.get(connection, pending.content))
        if row is None or not row.bundle or (row.holders and self._ports.dht.servers < 2):
            # The bytes are still on their way; or nobody is there to take a second copy.
            return False
        if written is not None:
            publication = written.publication
        else:
            publication = await self._ports.in_thread(Publication.decode, row.bundle)
        epoch = self._ports.keyring.epoch
        publication = await self._renewal.current(publication)
        stored = None
        if row.state is PublicationState.COPY:
            stored = await self._sender.look(publication)
        if stored is None or not (stored.safe or self._waits_for_author(pending, publication)):
            decision = None if written is None else written.decision
            stored = await self._sender.send(publication, decision, announced=pending.holders > 1)
            if stored.safe:
                self.durations.observe(self._ports.clock.seconds() - pending.begun)
        # Where the roles have changed meanwhile, the next try sends it for those.
        return epoch == self._ports.keyring.epoch and await self._note(pending, row, stored)

    def _waits_for_author(self, pending: _Pending, publication: Publication) -> bool:
        """True while the executor is there and may be publishing."""
        return pending.tries < PATIENCE and self._ports.mesh.connected(PeerId.parse(publication.head.author))

    async def _note(self, pending: _Pending, row: PublicationRow, stored: Stored) -> bool:
        content, holders, wanted = pending.content, len(stored.holders), stored.wanted
        pending.holders, pending.wanted = holders, wanted
        safe = stored.safe

        def work(connection: object) -> None:
            publications.record(connection, content, holders, wanted)  # type: ignore[arg-type]
            if safe:
                publications.settle(connection, content)  # type: ignore[arg-type]

        await self._ports.store.write(work)
        if safe:
            self.published += 1
            if row.task_id is not None or pending.followed is not None:
                self._safe[content.hex()] = (holders, wanted)
        return safe
