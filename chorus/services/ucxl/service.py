"""The memory as the API asks it: decisions resolved, listed, searched, published (`DecisionPort`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from chorus.errors import ChorusError, UserError
from chorus.services.blobs.ports import SealedBlob
from chorus.services.ucxl.announced import MAX_WAITING, AnnouncedDecisions
from chorus.services.ucxl.drafts import DecisionDenied
from chorus.store.errors import StoreBusy
from chorus.timer import Periodic
from chorus.ucxl.address import Address
from chorus.ucxl.provenance import envelope
from chorus.ucxl.query import DecisionUnreadable, MemoryStatus, PlacedDecision
from chorus.ucxl.record import DecisionDraft, DecisionWords

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from chorus.services.ucxl.authoring import DecisionAuthor
    from chorus.services.ucxl.cache import DecisionCache
    from chorus.services.ucxl.index import DecisionIndex
    from chorus.services.ucxl.memory import MemoryPorts
    from chorus.services.ucxl.publishing import Publisher
    from chorus.services.ucxl.reading import DecisionReader
    from chorus.services.ucxl.rotation import Reencryption
    from chorus.ucxl.provenance import ProvenanceEnvelope
    from chorus.ucxl.query import DecisionHistory, DecisionPage, DecisionQuery, FoundDecision

ERASE_AGAIN_S = 0.5
"""Until the text of a lost role is erased again, where a reader kept the log of the store."""
CLEAN_S = 300.0
"""Between two cleanings of the cache."""


class NoRole(UserError):
    """This node does not hold the role that a decision is to be written under."""

    code = "no_role"
    http_status = 403


@attrs.frozen
class MemoryParts:
    index: DecisionIndex
    cache: DecisionCache
    reader: DecisionReader
    author: DecisionAuthor
    publisher: Publisher
    reencryption: Reencryption


class UcxlService(Service):
    """Implements `DecisionPort` and `SealedCopies`."""

    name = "ucxl"
    _log = Logger()

    def __init__(self, ports: MemoryPorts, parts: MemoryParts) -> None:
        self._ports = ports
        self._parts = parts
        self.cache = parts.cache
        self.publisher = parts.publisher
        self._announced = AnnouncedDecisions(ports.clock, lambda address: self._coroutine(parts.reader.learn(address)))
        self._cleaning = Periodic(ports.clock, "cleaning the cache of decisions", self._clean, lambda: CLEAN_S)

    # life

    def startService(self) -> Deferred[None]:
        super().startService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        await self._parts.publisher.startService()
        self._ports.keyring.watch(self._roles_changed)
        self._ports.mesh.listen(self._announced.heard)
        self._cleaning.start()
        # A power cut may have come between new roles and what they take away.
        self._coroutine(self._hide()).addErrback(self._not_followed)
        self._parts.reencryption.start()

    def stopService(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        self._announced.stop()
        self._cleaning.stop()
        self._parts.reencryption.stop()
        self._parts.publisher.stopService()

    def _clean(self) -> None:
        self.cache.clean(self._ports.clock.seconds())

    def _coroutine(self, work: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(work)

    def _roles_changed(self) -> Deferred[None]:
        """A lost role's text is gone from memory and disk when this fires."""
        self.cache.clear()
        return Deferred.fromCoroutine(self._forget_unreadable())

    async def _forget_unreadable(self) -> None:
        await self._hide()
        if self.running:
            self._coroutine(self._read_again()).addErrback(self._not_followed)
            self._parts.reencryption.start()

    async def _hide(self) -> None:
        while True:
            try:
                await self._parts.index.hide(self._ports.may_read)
                return
            except StoreBusy:
                # A reader of the store has the older pages for a moment.
                await deferLater(self._ports.clock, ERASE_AGAIN_S)

    async def _read_again(self) -> None:
        """A role that is new here opens decisions that were announced before."""
        for address in await self._parts.index.hidden(self._ports.may_read, MAX_WAITING):
            self._announced.heard(str(address))

    def _not_followed(self, failure: Failure) -> None:
        if isinstance(failure.value, ChorusError):
            self._log.error("the index does not follow this node's roles yet: {error}", error=failure.value)
        else:
            self._log.failure("internal error in the index of decisions", failure=failure)

    # DecisionPort

    def resolve(self, address: Address) -> Deferred[FoundDecision]:
        return Deferred.fromCoroutine(self._parts.reader.resolve(address))

    def history(self, address: Address, *, limit: int, after: str | None) -> Deferred[DecisionHistory]:
        return Deferred.fromCoroutine(self._parts.reader.history(address, limit, after))

    def search(self, query: DecisionQuery, *, limit: int, after: str | None) -> Deferred[DecisionPage]:
        return Deferred.fromCoroutine(self._parts.index.search(query, limit, after))

    def publish(self, draft: DecisionDraft) -> Deferred[PlacedDecision]:
        return Deferred.fromCoroutine(self._publish(draft))

    async def _publish(self, draft: DecisionDraft) -> PlacedDecision:
        own = self._ports.identity.peer_id
        role = draft.role or self._parts.author.role
        if role is None or role not in self._ports.keyring.roles_of(own):
            needed = f"the role {role}" if role else "a role to write under"
            raise NoRole(f"this node does not hold {needed}: the founder (`chorus keys list`) grants it")
        address = draft.place(str(own), role)
        words = {each.name: getattr(draft, each.name) for each in attrs.fields(DecisionWords)}
        written = await self._parts.author.write(address, self._redacted(words), self._parts.publisher.publish)
        decision = written.decision
        state = str(self._parts.publisher.state_of(decision.content_hash)["state"])
        return PlacedDecision(address=decision.address, seq=decision.seq, content=decision.content_hash, state=state)

    def _redacted(self, words: dict[str, Any]) -> dict[str, Any]:
        """Texts that a person wrote. Raises `DecisionDenied`."""

        def clean(value: Any) -> Any:
            if isinstance(value, str):
                redacted = self._ports.redactor.redact(value, context="decision")
                if redacted.action == "deny":
                    raise DecisionDenied("the decision holds what nobody may publish")
                return redacted.value
            if isinstance(value, tuple):
                return tuple(map(clean, value))
            return value

        return {name: clean(value) for name, value in words.items()}

    def provenance(self, address: Address) -> Deferred[ProvenanceEnvelope]:
        return Deferred.fromCoroutine(self._provenance(address))

    async def _provenance(self, address: Address) -> ProvenanceEnvelope:
        found = await self._parts.reader.resolve(address)
        if found.record is None:
            raise DecisionUnreadable(found)
        return envelope(found.record, self._ports.identity)

    def memory_status(self) -> Deferred[MemoryStatus]:
        return Deferred.fromCoroutine(self._memory_status())

    async def _memory_status(self) -> MemoryStatus:
        decisions, readable = await self._parts.index.counts()
        return MemoryStatus(
            role=self._parts.author.role or "none",
            epoch=self._ports.keyring.epoch,
            decisions=decisions,
            readable=readable,
            pending=self.publisher.waiting,
            servers=self._ports.dht.servers,
            serving=self._ports.dht.serving,
        )

    # SealedCopies

    def sealed_copy_of(self, sha256: str) -> Deferred[SealedBlob | None]:
        return Deferred.fromCoroutine(self._sealed_copy_of(sha256))

    async def _sealed_copy_of(self, sha256: str) -> SealedBlob | None:
        try:
            for named in await self._parts.index.naming(sha256):
                author = Address.parse(named.address).agent
                decision = (await self._parts.reader.read(named.content, author)).decision
                for artifact in decision.artifacts if decision is not None else ():
                    if artifact.sha256 == sha256:
                        return SealedBlob(artifact.stored, artifact.size, artifact.key)
        except ChorusError as error:
            self._log.info("no sealed copy of {blob} is found: {error}", blob=sha256, error=error)
        return None
