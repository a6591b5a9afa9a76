"""Reads decisions: from an address to a verified record.

Address → head (the newest of the index and a quorum of holders) → content hash → version → ciphertext → record. Each
step is checked against the one before, so nobody who holds a piece can make a reader believe anything.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import attrs
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.logger import Logger

from chorus.errors import ChorusError
from chorus.identity import PeerIdError
from chorus.services.dht.ports import DhtUnavailable, RecordNotFound
from chorus.services.ucxl.bundle import Publication
from chorus.services.ucxl.opening import ReadVersion, RecordOpener
from chorus.store.decisions import BadCursor
from chorus.ucxl.address import Exactly, First, InForce
from chorus.ucxl.documents import RecordError
from chorus.ucxl.query import ChainGap, DecisionHistory, FoundDecision, UnknownDecision, number_of
from chorus.ucxl.signed import Head, Version, head_key, version_key

if TYPE_CHECKING:
    from chorus.services.ucxl.cache import DecisionCache
    from chorus.services.ucxl.index import DecisionIndex
    from chorus.services.ucxl.memory import MemoryPorts
    from chorus.ucxl.address import Address
    from chorus.ucxl.record import Decision

HEAD_S = 5.0
"""Seconds that others have to show a head, before the index alone answers."""
MAX_STEPS = 10_000
"""Versions that one question walks along."""
MAX_LEARNED = 256 * 1024
"""Bytes of a ciphertext that is read because it was announced; a larger one is read, and indexed, when somebody asks
for it. A record of so many takes 30 ms of a processor, whoever announces it."""
MICRO = 1_000_000
HASH = 64
"""Hexadecimal digits of a content hash."""


@attrs.frozen
class NewestDecision:
    """The end of a chain."""

    seq: int
    content: str
    head: Head | None = None
    """None where the index alone knows it."""


class DecisionReader:
    """Never asks for what the index and the cache know, but for the newest head."""

    _log = Logger()

    def __init__(self, ports: MemoryPorts, index: DecisionIndex, cache: DecisionCache) -> None:
        self._ports = ports
        self._index = index
        self._cache = cache
        self._opener = RecordOpener(ports, cache)

    # questions

    async def resolve(self, address: Address) -> FoundDecision:
        """Raises `UnknownDecision`, `RecordError` and `DhtUnavailable`."""
        base, temporal = address.base, address.temporal
        if isinstance(temporal, Exactly):
            return await self._found(base, temporal.content, None)
        newest = await self.newest(base)
        number = number_of(temporal, newest.seq)
        content = newest.content
        if number is not None and (known := await self._index.at(base, number)) is not None:
            content = known.content
        first: FoundDecision | None = None
        async for found in self._back(base, content, newest):
            above = number is not None and found.seq > number
            if isinstance(temporal, InForce):
                above = found.time * MICRO > temporal.at_us
            elif isinstance(temporal, First):
                # Numbers may be skipped: then the next one upwards, where nothing is below it.
                if above and not (found.record is not None and found.record.prev is None):
                    first = found
                    continue
                return found if above or found.seq == number or first is None else first
            if not above:
                return found
        raise UnknownDecision(f"this node finds no version {temporal} of {base}")

    async def history(self, address: Address, limit: int, after: str | None) -> DecisionHistory:
        """Raises as `resolve` does, and `BadCursor`."""
        base = address.base
        named_by: Decision | None = None
        if after is None:
            first = await self.resolve(address)
        else:
            content, successor = after[:HASH], after[HASH:]
            if not is_hash(content) or (successor and not is_hash(successor)):
                raise BadCursor
            if successor:
                named_by = (await self.read(successor, base.agent)).decision
                if named_by is None or (named_by.address, named_by.prev) != (str(base), content):
                    raise BadCursor
            first = await self._found(base, content, None, named_by)
        newest = NewestDecision(first.seq, first.content, first.head)
        versions: list[FoundDecision] = []
        following: str | None = None
        missing: str | None = None
        try:
            async for found in self._back(base, first.content, newest, named_by):
                if len(versions) == limit:
                    following = found.content
                    if found.record is None and versions[-1].record is not None:
                        # Its successor shows that it belongs here, and the next page has to know it.
                        following += versions[-1].content
                    break
                versions.append(found)
        except ChainGap as gap:
            missing = gap.content
        heads = await self._heads(base) if after is None else []
        return DecisionHistory(
            address=str(base), versions=tuple(versions), heads=tuple(heads), next=following, missing=missing
        )

    async def newest(self, base: Address) -> NewestDecision:
        """The highest number that the index or a quorum of holders knows; of a fork the one that this node saw first.
        Raises `UnknownDecision`, and `DhtUnavailable` where it knows nothing and nobody can be asked."""
        known = await self._index.newest(base)
        head: Head | None = None
        try:
            head = Head.decode(await self._ports.dht.get(head_key(base)).addTimeout(HEAD_S, self._ports.clock))
            head.verify()
        except RecordNotFound:
            if known is None:
                raise UnknownDecision(f"nothing is known under {base}") from None
        except (ChorusError, DeferredTimeout):
            if known is None:
                raise DhtUnavailable("nobody can be asked for this decision now") from None
        if head is not None and (known is None or head.seq > known.seq or head.content == known.content):
            return NewestDecision(head.seq, head.content, head)
        assert known is not None
        return NewestDecision(known.seq, known.content)

    # the parts of an answer

    async def _found(
        self, base: Address, content: str, newest: NewestDecision | None, named_by: Decision | None = None
    ) -> FoundDecision:
        """One version under an address. Raises `UnknownDecision`."""
        read = await self.read(content, base.agent)
        decision, head = read.decision, None
        if newest is not None and newest.content == content:
            head = newest.head
        if decision is not None:
            if decision.address != str(base):
                raise UnknownDecision(f"{content} is no version of {base}")
            if read.version.size > MAX_LEARNED:
                await self._index.record(decision, self._ports.may_read)
            seq, seen = decision.seq, decision.created
        elif (known := await self._index.version(base, content)) is not None:
            seq, seen = known.seq, known.time
        elif head is not None:
            seq, seen = head.seq, self._now()
        elif named_by is not None:
            # Its own number cannot be read: at most this.
            seq, seen = named_by.seq - 1, self._now()
        else:
            # Who may not read it has only the word of a head that it belongs here.
            raise UnknownDecision(f"nothing that this node may read names {content} as a version of {base}")
        return FoundDecision(
            address=str(base), seq=seq, content=content, time=seen, record=decision, head=head, version=read.version
        )

    async def _back(
        self, base: Address, content: str, newest: NewestDecision, named_by: Decision | None = None
    ) -> AsyncIterator[FoundDecision]:
        """From one version down to the first, as far as this node can follow. Raises as `_found` does, and after the
        first version `ChainGap` alone."""
        following: str | None = content
        for _ in range(MAX_STEPS):
            if following is None:
                return
            try:
                found = await self._found(base, following, newest, named_by)
            except ChorusError as error:
                if following == content:
                    raise
                raise ChainGap(following) from error
            yield found
            named_by = found.record
            if found.record is not None:
                following = found.record.prev
            else:
                known = await self._index.before(base, found.seq)
                following = None if known is None else known.content

    async def _heads(self, base: Address) -> list[Head]:
        """All heads of the highest number that holders have."""
        try:
            held = await self._ports.dht.holders(head_key(base)).addTimeout(HEAD_S, self._ports.clock)
        except (ChorusError, DeferredTimeout):
            return []
        found = {value: Head.decode(value) for value in held.values()}
        newest = max((head.seq for head in found.values()), default=0)
        return sorted((head for head in found.values() if head.seq == newest), key=lambda head: head.content)

    # one version

    async def read(self, content: str, author: str, most: int | None = None) -> ReadVersion:
        """The version with a content hash, which is that author's; its record is None where this node holds no role for
        it, or its ciphertext has more than `most` bytes. Raises `UnknownDecision`, `RecordError` and
        `DhtUnavailable`."""
        now = self._ports.clock.seconds()
        if (cached := self._cache.get(content, now)) is not None and cached.version.author == author:
            return ReadVersion(cached.version, cached.decision)

        try:
            # Whoever has it; it is signed. A quorum knows of a later epoch.
            found = await self._fetched(content, author, most, quorum=1)
            if found.decision is not None:
                return found
        except (RecordNotFound, PeerIdError):
            pass
        try:
            return await self._fetched(content, author, most, quorum=None)
        except (RecordNotFound, PeerIdError):
            raise UnknownDecision(f"no holder of {content} can be found") from None

    async def _fetched(self, content: str, author: str, most: int | None, *, quorum: int | None) -> ReadVersion:
        """Raises `RecordNotFound` beside what `read` raises."""
        version = Version.decode(await self._ports.dht.get(version_key(author, content), quorum=quorum))
        version.verify()
        if (version.author, version.content) != (author, content):
            raise RecordError(f"the version of {content} is another one")
        if most is not None and version.size > most:
            return ReadVersion(version, None)
        return await self._opener.fetched(version)

    # the index

    async def take_in(self, publication: Publication, decision: Decision | None = None) -> None:
        """Enter a publication of this node, or one that it keeps a copy of; `decision` is the one in it, where it is at
        hand."""
        head = publication.head
        read = await self.opened(publication) if decision is None else ReadVersion(publication.version, decision)
        await self._enter(head.place, NewestDecision(head.seq, head.content, head), read)

    async def opened(self, publication: Publication) -> ReadVersion:
        """As far as this node may read it. Raises `RecordError`."""
        return await self._opener.opened(publication.version, publication.ciphertext)

    async def learn(self, address: Address) -> None:
        """Enter the newest version under an address that was announced, and what is missing before it: the text of one
        of up to `MAX_LEARNED` bytes. Raises as `resolve` does."""
        base = address.base
        newest = await self.newest(base)
        following: str | None = newest.content
        for _ in range(MAX_STEPS):
            known = None if following is None else await self._index.version(base, following)
            if following is None or (known is not None and known.summary is not None):
                return
            read = await self.read(following, base.agent, MAX_LEARNED)
            await self._enter(base, newest, read)
            following = None if read.decision is None else read.decision.prev

    async def _enter(self, base: Address, newest: NewestDecision, read: ReadVersion) -> None:
        if read.decision is None:
            if read.version.content == newest.content:
                await self._index.notice(base, newest.seq, newest.content, self._now())
        elif read.decision.address == str(base):
            await self._index.record(read.decision, self._ports.may_read)
        else:
            raise RecordError(f"{read.version.content} is no version of {base}")

    def _now(self) -> int:
        return int(self._ports.wall())


def is_hash(text: str) -> bool:
    return len(text) == HASH and set(text) <= set("0123456789abcdef")
