"""Writes decisions: their place in the chain, signature, encryption, and the bytes to publish."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import DeferredLock
from twisted.internet.defer import TimeoutError as DeferredTimeout

from chorus.bounded import Bounded
from chorus.errors import ChorusError
from chorus.security import age
from chorus.services.blobs.sealing import sealed_size
from chorus.services.ucxl.bundle import NamedSeal, Publication
from chorus.store import publications
from chorus.store.publications import PublicationRow, PublicationState
from chorus.ucxl.documents import sha256
from chorus.ucxl.record import Decision
from chorus.ucxl.signed import Head, Version, head_key

if TYPE_CHECKING:
    from chorus.services.ucxl.index import DecisionIndex
    from chorus.services.ucxl.memory import MemoryPorts
    from chorus.ucxl.address import Address

HEAD_S = 2.0
"""Seconds that others have to show a newer head: only a node that lost its database has one elsewhere."""
MAX_ISSUED = 10_000
"""Addresses whose last number is remembered beyond the store: one that was given out is not given out again."""


@attrs.frozen
class WrittenDecision:
    decision: Decision
    publication: Publication
    begun: float
    """When this was asked for, on the clock of the node."""

    def row(self, state: PublicationState, now: float) -> PublicationRow:
        content = bytes.fromhex(self.decision.content_hash)
        bundle = self.publication.encode()
        return PublicationRow(content, self.decision.address, bundle, state, now, seq=self.decision.seq)


class DecisionAuthor:
    """Of this node. Numbers of one address are given out one after the other."""

    def __init__(self, ports: MemoryPorts, index: DecisionIndex) -> None:
        self._ports = ports
        self._index = index
        self._issued: Bounded[str, int] = Bounded(MAX_ISSUED)
        self._locks: dict[str, DeferredLock] = {}

    @property
    def role(self) -> str | None:
        """The role that this node writes under; None before it has one."""
        keyring = self._ports.keyring
        return keyring.role if keyring.epoch and keyring.roles_of(self._ports.identity.peer_id) else None

    async def write(
        self,
        address: Address,
        members: dict[str, Any],
        release: Callable[[WrittenDecision], Awaitable[None]] | None = None,
    ) -> WrittenDecision:
        """Sign and encrypt the next version under an address of this node. `members` of `Decision` are those that say
        something. `release` has it published; without it that is left to the caller, and until then no later version
        builds on it. Raises `RecordError`, `LimitExceeded`, `UnknownRole` and errors of the store."""
        begun = self._ports.clock.seconds()
        lock = self._locks.setdefault(str(address), DeferredLock())
        async with lock:
            seq, prev = await self._next(address)
            draft = Decision(
                address=str(address),
                agent=address.agent,
                peer_id=str(self._ports.identity.peer_id),
                role=address.role,
                project=address.project,
                task=address.task,
                path=address.path_text,
                seq=seq,
                prev=prev,
                created=int(self._ports.wall()),
                **members,
            )
            decision = await self._ports.in_thread(draft.signed, self._ports.identity)
            self._issued.put(decision.address, decision.seq)
            version, ciphertext = await self.encrypted(decision)
            files = {artifact.stored: sealed_size(artifact.size) for artifact in decision.artifacts}
            sealed = tuple(NamedSeal(stored=stored, size=size) for stored, size in files.items())
            head = Head.of(decision, self._ports.identity)
            written = WrittenDecision(decision, Publication.of(head, version, ciphertext, sealed), begun)
            if release is not None:
                await release(written)
        if not lock.waiting:
            self._locks.pop(decision.address, None)
        return written

    async def encrypted(self, decision: Decision) -> tuple[Version, bytes]:
        """Any author's decision for all who may read it now, with its ciphertext. Raises `UnknownRole`."""
        ports = self._ports
        epoch, recipients = ports.keyring.epoch, ports.keyring.recipients(decision.role)
        ciphertext = await ports.in_thread(_encrypted, decision, recipients)
        version = Version.of(decision, ports.identity, ciphertext=sha256(ciphertext), size=len(ciphertext), epoch=epoch)
        return version, ciphertext

    async def _next(self, address: Address) -> tuple[int, str | None]:
        """The number above all that were ever given out, here or anywhere (spec/amendments.md 31), and the content hash
        of the newest version that was released: what a stale attempt wrote is never seen by others."""
        name = str(address)
        # Under way while the store is read. Nobody has one, or nobody can be asked: that is no error.
        asked = self._ports.dht.get(head_key(address)).addTimeout(HEAD_S, self._ports.clock)
        elsewhere = asked.addCallbacks(Head.decode, lambda failure: failure.trap(ChorusError, DeferredTimeout) and None)
        released: list[tuple[int, str]] = []
        kept, dropped = await self._ports.store.read(
            lambda connection: (publications.of_address(connection, name), publications.dropped(connection, name))
        )
        numbers = [self._issued.get(name, 0), dropped]
        if (known := await self._index.newest(address)) is not None:
            released.append((known.seq, known.content))
        for row in kept:
            head = (await self._ports.in_thread(Publication.decode, row.bundle)).head
            numbers.append(head.seq)
            if row.state in (PublicationState.DUE, PublicationState.COPY):
                released.append((head.seq, head.content))
        if (newest := await elsewhere) is not None:
            released.append((newest.seq, newest.content))
        last = max(released, default=None)
        return max(*numbers, last[0] if last else 0) + 1, last[1] if last else None


def _encrypted(decision: Decision, recipients: Sequence[str]) -> bytes:
    """Blocking."""
    return age.encrypt(decision.encode(), recipients)
