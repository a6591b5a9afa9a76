"""A memory that tests hold in their hands: holders of records and blobs in one place, keys of every role for all."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred, fail, maybeDeferred, succeed
from twisted.internet.task import Clock

from chorus.errors import ChorusError
from chorus.identity import Identity, PeerId
from chorus.protocols.blobs import is_blob_id
from chorus.seams import PassThrough
from chorus.security import age
from chorus.services.blobs.fetch import BlobTooLarge, UnknownBlob
from chorus.services.blobs.ports import SealedBlob
from chorus.services.dht.ports import DhtUnavailable, Provider, RecordNotFound, Stored
from chorus.services.ucxl.authoring import DecisionAuthor
from chorus.services.ucxl.cache import DecisionCache
from chorus.services.ucxl.index import DecisionIndex
from chorus.services.ucxl.memory import MemoryPorts
from chorus.services.ucxl.publishing import Publisher
from chorus.services.ucxl.reading import DecisionReader
from chorus.services.ucxl.rotation import Reencryption
from chorus.services.ucxl.service import MemoryParts, UcxlService
from chorus.store.dht import RecordOutdated
from chorus.ucxl.namespaces import ucxl_namespaces

T = TypeVar("T")

ROLE = "developer"
REPLICATION = 3
ROLE_KEYS = {1: age.new_identity(), 2: age.new_identity()}
"""age identities of the role, by epoch."""


class FakeRoles:
    """`Keyring` of one node, over the roles that all share."""

    def __init__(self, mesh: FakeMesh, own: PeerId, *, reads: bool = True) -> None:
        self._mesh = mesh
        self._own = own
        self.reads = reads
        self._watchers: list[Callable[[], None]] = []

    @property
    def epoch(self) -> int:
        return self._mesh.epoch

    @property
    def founder(self) -> PeerId | None:
        return self._mesh.founder

    @property
    def role(self) -> str:
        return ROLE

    def roles_of(self, peer: PeerId | str) -> frozenset[str]:
        return frozenset({ROLE}) if str(peer) in map(str, self._mesh.members) else frozenset()

    def wrote_under(self, peer: PeerId | str) -> Mapping[str, int]:
        return dict.fromkeys(self.roles_of(peer), self.epoch)

    def recipients(self, role: str) -> tuple[str, ...]:
        return (age.recipient_of(ROLE_KEYS[self.epoch]),)

    def identities(self) -> tuple[str, ...]:
        return tuple(ROLE_KEYS[epoch] for epoch in range(self.epoch, 0, -1)) if self.reads else ()

    def watch(self, changed: Callable[[], None]) -> None:
        self._watchers.append(changed)

    def changed(self) -> None:
        for changed in self._watchers:
            changed()


class FakeMesh:
    """What the machines of a cluster hold; `up` are those that answer."""

    def __init__(self) -> None:
        self.epoch = 1
        self.founder: PeerId | None = None
        self.members: set[PeerId] = set()
        self.up: list[PeerId] = []
        self.records: dict[PeerId, dict[bytes, bytes]] = {}
        self.blobs: dict[PeerId, dict[str, bytes]] = {}
        self.announced: list[tuple[PeerId, str]] = []
        self.listeners: list[Callable[[str], None]] = []
        self.puts: list[bytes] = []
        self.passed: list[str] = []
        """Blobs that were fetched for one use."""
        self.refuse: dict[str, ChorusError] = {}
        """What fails, by the name of a method: `put`, `replicate`, …"""
        self.broken_after: int | None = None
        """So many puts and pushes succeed from now on, and no more."""

    def join(self, peer: PeerId) -> None:
        self.members.add(peer)
        self.up.append(peer)
        self.records.setdefault(peer, {})
        self.blobs.setdefault(peer, {})

    def leave(self, peer: PeerId) -> None:
        self.up.remove(peer)

    def check(self, method: str) -> None:
        if method in self.refuse:
            raise self.refuse[method]
        if self.broken_after is not None and method != "seal":
            if not self.broken_after:
                raise DhtUnavailable("the network is cut")
            self.broken_after -= 1

    def holders(self, key: bytes) -> dict[PeerId, bytes]:
        return {peer: self.records[peer][key] for peer in self.up if key in self.records[peer]}


class FakeDht:
    def __init__(self, mesh: FakeMesh, own: PeerId, roles: FakeRoles) -> None:
        self._mesh = mesh
        self._own = own
        self._namespaces = ucxl_namespaces(roles)

    def _rules(self, key: bytes) -> Any:
        return self._namespaces[key.split(b"/")[1].decode()]

    serving = True

    @property
    def servers(self) -> int:
        return len(self._mesh.up)

    def _stored(self, holders: Sequence[PeerId]) -> Stored:
        return Stored(tuple(holders), min(REPLICATION, len(self._mesh.up)))

    def put(self, key: bytes, value: bytes) -> Deferred[Stored]:
        def work() -> Stored:
            self._mesh.check("put")
            self._rules(key).validate(key, value, 0.0)
            self._mesh.puts.append(key)
            own = self._mesh.records[self._own].get(key)
            if own is not None and self._rules(key).replaces(key, value, own):
                raise RecordOutdated("a better one is here")
            for peer in self._mesh.up:
                held = self._mesh.records[peer].get(key)
                if held is None or self._rules(key).replaces(key, held, value):
                    self._mesh.records[peer][key] = value
            return self._stored([peer for peer, held in self._mesh.holders(key).items() if held == value])

        return maybeDeferred(work)

    def get(self, key: bytes, *, quorum: int | None = None) -> Deferred[bytes]:
        found = list(self._mesh.holders(key).values())
        if not found:
            return fail(RecordNotFound("nobody has it"))
        return succeed(found[self._rules(key).select(key, found)])

    def holders(self, key: bytes) -> Deferred[dict[PeerId, bytes]]:
        return succeed(self._mesh.holders(key))

    def provide(self, key: bytes) -> Deferred[Stored]:
        return succeed(self._stored([self._own]))

    def withdraw(self, key: bytes) -> Deferred[None]:
        return succeed(None)

    def providers(self, key: bytes, most: int = 20) -> Deferred[tuple[Provider, ...]]:
        return succeed(())


class FakeReplicas:
    def __init__(self, mesh: FakeMesh, own: PeerId, keep_plain: Callable[[bytes], Any]) -> None:
        self._mesh = mesh
        self._own = own
        self._keep_plain = keep_plain

    def seal_file(self, path: Path) -> Deferred[SealedBlob]:
        def work() -> SealedBlob:
            self._mesh.check("seal")
            data, key = path.read_bytes(), age.new_identity()
            sealed = age.encrypt(data, [age.recipient_of(key)])
            return SealedBlob(self._keep(sealed), len(data), key)

        return maybeDeferred(work)

    def _keep(self, data: bytes) -> str:
        stored = hashlib.sha256(data).hexdigest()
        self._mesh.blobs[self._own][stored] = data
        return stored

    def keep_sealed(self, data: bytes) -> Deferred[str]:
        return succeed(self._keep(data))

    def replicate(
        self, stored: str, reason: str, holders: Sequence[PeerId] = (), most: int | None = None
    ) -> Deferred[Stored]:
        def work() -> Stored:
            self._mesh.check("replicate")
            found = [self._mesh.blobs[peer][stored] for peer in self._mesh.up if stored in self._mesh.blobs[peer]]
            if not found:
                raise UnknownBlob(stored)
            if most is not None and len(found[0]) > most:
                raise BlobTooLarge(len(found[0]), most)
            for peer in self._mesh.up:
                self._mesh.blobs[peer][stored] = found[0]
            return self._holders(stored)

        return maybeDeferred(work)

    def _holders(self, stored: str) -> Stored:
        have = [peer for peer in self._mesh.up if stored in self._mesh.blobs[peer]]
        return Stored(tuple(have), min(REPLICATION, len(self._mesh.up)))

    def holders(self, stored: str) -> Deferred[Stored]:
        return succeed(self._holders(stored))

    async def passing(self, stored: str, use: Callable[[Path], Awaitable[T]], size: int | None = None) -> T:
        for peer in self._mesh.up:
            if (sealed := self._mesh.blobs[peer].get(stored)) is not None:
                self._mesh.passed.append(stored)
                if size is not None and len(sealed) > size:
                    raise BlobTooLarge(len(sealed), size)
                return await use(self._keep_plain(sealed))
        raise UnknownBlob(stored)

    def unseal(self, stored: str, key: str, sha256: str, size: int) -> Deferred[Path]:
        def work() -> Path:
            assert is_blob_id(stored)
            for peer in self._mesh.up:
                if (sealed := self._mesh.blobs[peer].get(stored)) is not None:
                    path: Path = self._keep_plain(age.decrypt(sealed, [key]))
                    return path
            raise UnknownBlob(stored)

        return maybeDeferred(work)

    def pin(self, sha256: str, reason: str, until: float | None = None) -> Deferred[None]:
        return succeed(None)

    def unpin(self, sha256: str, reason: str) -> Deferred[None]:
        return succeed(None)


@attrs.frozen
class Told:
    """The `Mesh` of one node."""

    mesh: FakeMesh
    own: PeerId

    def connected(self, peer: PeerId) -> bool:
        return peer in self.mesh.up

    def announce(self, address: str) -> None:
        self.mesh.announced.append((self.own, address))
        for heard in self.mesh.listeners:
            heard(address)

    def listen(self, heard: Callable[[str], None]) -> None:
        self.mesh.listeners.append(heard)


def memory_ports(
    mesh: FakeMesh, identity: Identity, *, store: Any, blobs: Any, clock: Clock, wall: Callable[[], float]
) -> MemoryPorts:
    """Of one node, which joins the mesh."""
    peer = identity.peer_id
    if peer not in mesh.up:
        mesh.join(peer)
    roles = FakeRoles(mesh, peer)

    def keep_plain(data: bytes) -> Path:
        path = blobs.path_of(blobs.put(data))
        assert path is not None
        return path

    return MemoryPorts(
        identity=identity,
        dht=FakeDht(mesh, peer, roles),
        keyring=roles,
        replicas=FakeReplicas(mesh, peer, keep_plain),
        blobs=blobs,
        mesh=Told(mesh, peer),
        store=store,
        redactor=PassThrough(),
        clock=clock,
        wall=wall,
        in_thread=maybeDeferred,  # type: ignore[arg-type]
        replication=REPLICATION,
    )


def memory_service(ports: MemoryPorts, cache_bytes: int = 1 << 20) -> UcxlService:
    """The decisions of one node."""
    index = DecisionIndex(ports.store, random.Random(str(ports.identity.peer_id)).randbytes)
    cache = DecisionCache(cache_bytes)
    reader = DecisionReader(ports, index, cache)
    author = DecisionAuthor(ports, index)
    publisher = Publisher(ports, author, reader)
    reencryption = Reencryption(ports, index, reader, author)
    return UcxlService(ports, MemoryParts(index, cache, reader, author, publisher, reencryption))
