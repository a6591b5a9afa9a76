"""Publishes decisions: their exact bytes to the holders, again and again until enough machines have all of it.

An executor's row waits for the acknowledgement of its result and is published then. A scheduler's copy is published
where the executor has not done so (spec/amendments.md 27). A row is durable before anything of it is sent.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine
from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from chorus.backoff import Backoff
from chorus.errors import ChorusError
from chorus.identity import PeerId
from chorus.observe.metrics import Histogram
from chorus.protocols.task_messages import MAX_PUBLICATION, DecisionRef, PublicationBlob
from chorus.services.blobs.looks import provider_key
from chorus.services.dht.ports import Stored
from chorus.services.execution.workplace import DraftedDecision
from chorus.services.ucxl.bundle import Publication
from chorus.services.ucxl.drafts import sealable, task_members
from chorus.services.ucxl.memory import REASON
from chorus.store import publications
from chorus.store.dht import RecordOutdated
from chorus.store.publications import PublicationRow, PublicationState
from chorus.timer import Timer
from chorus.ucxl.address import task_address
from chorus.ucxl.documents import RecordError
from chorus.ucxl.signed import CIPHERTEXTS, HEADS, VERSIONS, ciphertext_key, head_key, version_key

if TYPE_CHECKING:
    from pathlib import Path

    from twisted.python.failure import Failure

    from chorus.protocols.task_messages import Result
    from chorus.seams import Document
    from chorus.services.blobs.ports import SealedBlob
    from chorus.services.execution.row import RunRecord
    from chorus.services.scheduling.context import NamedDecision
    from chorus.services.ucxl.authoring import DecisionAuthor, WrittenDecision
    from chorus.services.ucxl.memory import MemoryPorts

COPY_S = 5.0
"""Seconds that an executor has to publish before the scheduler looks for the holders."""
PATIENCE = 4
"""Looks of a scheduler at a connected executor that publishes, before it helps."""
RETRY = Backoff(2.0, 300.0)
MAX_AT_ONCE = 4
"""Publications under way: each is some walks through the DHT, and pushes of blobs."""
SEAL_S = 120.0
"""Seconds to encrypt the files of a result: its scheduler waits. Those that are not ready have no copy."""
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
    """For the first try, where it is at hand."""
    followed: NamedDecision | None = None


class Publisher(Service):
    """Implements `Decisions` for the executor and `DecisionCopies` for the scheduler. `take_in` gets each publication
    that begins, for the index."""

    name = "decisions"
    _log = Logger()

    def __init__(
        self, ports: MemoryPorts, author: DecisionAuthor, take_in: Callable[[Publication], Coroutine[Any, Any, None]]
    ) -> None:
        self._ports = ports
        self._author = author
        self._take_in = take_in
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
        return Deferred.fromCoroutine(self._draft(record, result))

    async def _draft(self, record: RunRecord, result: Result) -> DraftedDecision | None:
        ports, role = self._ports, self._author.role
        if role is None:
            return None
        address = task_address(str(ports.identity.peer_id), role, record.spec.project, record.task_id)
        sealed = await self._sealed(sealable(result))
        written = await self._author.write(address, task_members(record, result, sealed, ports.redactor))
        row = written.row(PublicationState.WAITING, ports.wall())
        blob = await ports.blobs.put_bytes(row.bundle)
        named = DecisionRef(written.decision.address, written.decision.content_hash)
        return DraftedDecision(named, PublicationBlob(blob.sha256, blob.size), row)

    async def _sealed(self, files: list[str]) -> dict[str, SealedBlob]:
        """Encrypted copies of blobs of this node, of all that are ready in time."""
        paths = {sha256: path for sha256 in files if (path := self._ports.blobs.path_of(sha256)) is not None}
        sealing = [
            self._ports.replicas.seal_file(path).addTimeout(SEAL_S, self._ports.clock) for path in paths.values()
        ]
        found: dict[str, SealedBlob] = {}
        value: Any
        for sha256, (sealed, value) in zip(paths, await DeferredList(sealing, consumeErrors=True), strict=True):
            if sealed:
                found[sha256] = value
            else:
                self._log.error("blob {blob} gets no encrypted copy: {error}", blob=sha256, error=value.value)
        return found

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
        pending.begun, pending.row = written.begun, row
        self._go_on()

    # for the scheduler

    def keep(self, decision: NamedDecision) -> Deferred[None]:
        return Deferred.fromCoroutine(self._keep(decision))

    async def _keep(self, decision: NamedDecision) -> None:
        bundle = await self._bundle_of(decision)
        row = PublicationRow(
            bytes.fromhex(decision.content),
            decision.address,
            bundle,
            PublicationState.KEPT,
            self._ports.wall(),
            decision.task_id,
        )
        await self._ports.store.write(lambda connection: publications.insert(connection, row))

    async def _bundle_of(self, decision: NamedDecision) -> bytes:
        """The signed bytes that a result names; none while they are not here, or where they are not what it says."""
        path = self._ports.blobs.path_of(decision.publication) if decision.publication is not None else None
        if path is None:
            return b""
        try:
            data = await self._ports.in_thread(_read, path)
            head = Publication.decode(data).head
            if (head.content, head.address, head.author) != (decision.content, decision.address, decision.agent):
                raise RecordError("it is of another decision")
        except (ChorusError, OSError) as error:
            self._log.warn(
                "publication of {task} refused: {error}", event="decision.refused", task=decision.task_id, error=error
            )
            return b""
        return data

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
        row, pending.row = pending.row, None
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
        publication = Publication.decode(row.bundle)
        stored = None
        if row.state is PublicationState.COPY:
            stored = await self._look(publication)
        if stored is None or not (stored.safe or self._waits_for_author(pending, publication)):
            stored = await self._publish(publication, announced=pending.holders > 1)
            if stored.safe:
                self.durations.observe(self._ports.clock.seconds() - pending.begun)
        return await self._note(pending, row, stored)

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

    # one publication

    async def _publish(self, publication: Publication, *, announced: bool) -> Stored:
        """Ciphertext and version, head, blobs, announcement: in this order, so that who finds one finds what it
        names."""
        ports, version = self._ports, publication.version
        indexed = Deferred.fromCoroutine(self._take_in(publication)).addErrback(self._broken)
        pieces: list[Stored] = []
        # Nobody asks for a version before a head has named it, so these two go together.
        together = [
            self._put_ciphertext(publication),
            Deferred.fromCoroutine(self._put(VERSIONS, version_key(version.content), publication.signed_version)),
        ]
        value: Any
        for stored, value in await DeferredList(together, consumeErrors=True):
            if not stored:
                value.raiseException()
            pieces.append(value)
        pieces.append(await self._put(HEADS, head_key(publication.head.place), publication.signed_head))
        for blob in publication.sealed:
            pieces.append(await self._replicated(blob, publication))
        if not announced:
            ports.mesh.announce(publication.head.address)
        await indexed
        return _all_of(pieces)

    def _put_ciphertext(self, publication: Publication) -> Deferred[Stored]:
        return Deferred.fromCoroutine(self._ciphertext(publication))

    async def _ciphertext(self, publication: Publication) -> Stored:
        version = publication.version
        if not version.blob:
            return await self._put(CIPHERTEXTS, ciphertext_key(version.ciphertext), publication.ciphertext)
        await self._ports.replicas.keep_sealed(publication.ciphertext)
        return await self._replicated(version.ciphertext, publication)

    async def _put(self, namespace: str, key: bytes, value: bytes) -> Stored:
        try:
            stored = await self._ports.dht.put(key, value)
        except (RecordError, RecordOutdated):
            # Superseded meanwhile, or its author lost the role: the holders say what they have.
            return await self._holders(namespace, key, value)
        return stored if stored.safe else await self._holders(namespace, key, value, stored)

    async def _holders(self, namespace: str, key: bytes, value: bytes, stored: Stored | None = None) -> Stored:
        """Those that have it, or what took its place."""
        rules = self._ports.namespaces[namespace]
        found = await self._ports.dht.holders(key)
        have = [peer for peer, held in found.items() if held == value or not rules.replaces(key, held, value)]
        if stored is not None:
            have = list(dict.fromkeys([*stored.holders, *have]))
        wanted = min(self._ports.replication, self._ports.dht.servers)
        return Stored(tuple(have), wanted if stored is None else stored.wanted)

    async def _replicated(self, blob: str, publication: Publication) -> Stored:
        author = PeerId.parse(publication.head.author)
        holders = () if author == self._ports.identity.peer_id else (author,)
        try:
            return await self._ports.replicas.replicate(blob, f"{REASON} {publication.content}", holders)
        except ChorusError as error:
            self._log.warn("blob {blob} of a decision has no copies yet: {error}", blob=blob, error=error)
            return Stored((), self._ports.replication)

    async def _look(self, publication: Publication) -> Stored:
        """Who has all of it, without changing anything."""
        version = publication.version
        pieces = [
            await self._holders(VERSIONS, version_key(version.content), publication.signed_version),
            await self._holders(HEADS, head_key(publication.head.place), publication.signed_head),
        ]
        blobs = publication.sealed
        if version.blob:
            blobs = (version.ciphertext, *blobs)
        else:
            pieces.append(await self._holders(CIPHERTEXTS, ciphertext_key(version.ciphertext), publication.ciphertext))
        for blob in blobs:
            stored = await self._ports.replicas.holders(blob)
            if not stored.holders:
                # It is not here: those that announced it count.
                announced = await self._ports.dht.providers(provider_key(blob))
                stored = Stored(tuple(each.peer for each in announced), stored.wanted)
            pieces.append(stored)
        return _all_of(pieces)


def _all_of(pieces: list[Stored]) -> Stored:
    """The piece with the fewest holders speaks for all."""
    fewest = min(pieces, key=lambda each: len(each.holders))
    return Stored(fewest.holders, max(each.wanted for each in pieces))


def _read(path: Path) -> bytes:
    """Blocking; at most what a publication may have, and one byte."""
    with path.open("rb") as file:
        return file.read(MAX_PUBLICATION + 1)
