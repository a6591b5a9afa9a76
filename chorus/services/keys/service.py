"""The node's keys and the newest `roles.json`: kept, exchanged with members, and changed at the founder."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredLock, gatherResults, maybeDeferred
from twisted.logger import Logger

from chorus.bounded import Bounded
from chorus.errors import ChorusError, PeerError, UserError
from chorus.identity import PeerId
from chorus.protocols.keys import KeyShow
from chorus.security.age import AgeError, recipient_of
from chorus.security.role_changes import NO_SECRETS, RolesFounder, RolesRefused, Secrets, open_secrets
from chorus.security.roles import MAX_MEMBERS, BadRoles, MemberEntry, Rank, RolesFile, read_roles
from chorus.services.keys.exchange import KeyExchange
from chorus.services.keys.files import ROLES, KeyFiles, KeyringError, Keys
from chorus.services.keys.held import HeldRoles
from chorus.shield import shield

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.protocols.stream import Host
    from chorus.seams import Document
    from chorus.services.cluster import ClusterService

RESEAL_S: Final = 60.0
"""Seconds between two recipients of one member: each makes a new `roles.json`, which goes to all."""

Change = Callable[[RolesFounder, RolesFile, Secrets], RolesFile]


class NotFounder(UserError):
    """Only the founder changes roles."""

    code = "not_founder"
    http_status = 403


class KeysService(Service):
    """Implements `Keyring`. `roles` are the roles with what each reads, of which the founder makes the file."""

    _log = Logger()

    def __init__(
        self,
        host: Host,
        cluster: ClusterService,
        founder: RolesFounder,
        files: KeyFiles,
        clock: IReactorTime,
        *,
        roles: Mapping[str, tuple[str, ...]],
        in_thread: Any,
    ) -> None:
        """`founder` signs with this node's identity; only the founder's is any good."""
        self._cluster = cluster
        self._founder = founder
        self._files = files
        self._clock = clock
        self._wanted = roles
        self._in_thread = in_thread
        self._exchange = KeyExchange(host, clock, self)
        self._lock = DeferredLock()
        self._keys: Keys | None = None
        self._recipient = ""
        self._held = HeldRoles(founder.identity.peer_id)
        self._acknowledged: Rank = (0, 0)
        self._shown: dict[str, str] = {}
        self._resealed: Bounded[str, float] = Bounded(MAX_MEMBERS)
        self._watchers: list[Callable[[], Deferred[None] | None]] = []

    # The service

    def startService(self) -> Deferred[None]:
        super().startService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._start())

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        self._exchange.stop()
        # A change that is under way ends first.
        return self._lock.run(lambda: None)

    async def _start(self) -> None:
        self._keys = await self._in_thread(self._files.open)
        self._recipient = recipient_of(self._keys.own)
        if self._cluster.cluster_id is not None:
            await self._load(self._cluster.cluster_id)
        self._cluster.when_adopted(self._adopted)

    def _adopted(self, _: bytes) -> None:
        if self.running:
            self._exchange.start()

    async def _load(self, cluster_id: bytes) -> None:
        encoded = await self._in_thread(self._files.roles)
        if encoded is not None:
            try:
                file = await self._in_thread(read_roles, encoded, cluster_id)
            except BadRoles as error:
                raise KeyringError(
                    f"{self._files.directory / ROLES} is damaged ({error}): put back a copy; a node that did not found "
                    "the cluster gets it again from a member once it is removed"
                ) from None
            await self._take(file, encoded)
        if not self._cluster.founded_here:
            return
        if self._held.file is None:
            await self._make_first()
        elif self._differs(self._held.file):
            await self._make(self._configured)

    def _differs(self, file: RolesFile) -> bool:
        return any(role not in file.roles or file.roles[role].reads != reads for role, reads in self._wanted.items())

    def _configured(self, founder: RolesFounder, file: RolesFile, secrets: Secrets) -> RolesFile:
        return founder.configured(file, secrets, self._wanted)

    async def _make_first(self) -> None:
        genesis = self._cluster.genesis
        assert genesis is not None
        first = self._founder.found(self.cluster_id, genesis, self._recipient, self._wanted)
        await self._keep(first, first.encode())
        await self._take(first, first.encode())

    # Keyring

    @property
    def epoch(self) -> int:
        return self._held.epoch

    @property
    def founder(self) -> PeerId | None:
        return self._held.founder

    @property
    def role(self) -> str:
        return self._held.role

    def roles_of(self, peer: PeerId | str) -> frozenset[str]:
        return self._held.roles_of(peer)

    def wrote_under(self, peer: PeerId | str) -> Mapping[str, int]:
        return self._held.wrote_under(peer)

    def recipients(self, role: str) -> tuple[str, ...]:
        return self._held.recipients(role)

    def identities(self) -> tuple[str, ...]:
        return self._held.identities

    def watch(self, changed: Callable[[], Deferred[None] | None]) -> None:
        self._watchers.append(changed)

    # What members see

    @property
    def cluster_id(self) -> bytes:
        cluster_id = self._cluster.cluster_id
        assert cluster_id is not None
        return cluster_id

    def show(self) -> KeyShow:
        return KeyShow.make(self._founder.identity, self.cluster_id, self._recipient, self._acknowledged)

    def roles_after(self, rank: Rank) -> bytes | None:
        return self._held.encoded if self._acknowledged > rank else None

    def shown(self, peer: PeerId, show: KeyShow) -> None:
        if not self._cluster.founded_here or show.rank > self._held.rank:
            # It has what this founder made before it was restored: that is taken over first.
            return
        known = self._member(str(peer))
        if known is not None and known.recipient == show.recipient:
            return
        now = self._clock.seconds()
        if known is not None and now - self._resealed.get(str(peer), -RESEAL_S) < RESEAL_S:
            return
        self._resealed.put(str(peer), now)
        self._shown[str(peer)] = show.recipient
        self._locked(self._admit()).addErrback(self._not_admitted)

    async def _admit(self) -> None:
        shown, self._shown = self._shown, {}
        new = {
            peer: each
            for peer, each in shown.items()
            if (known := self._member(peer)) is None or known.recipient != each
        }
        if new:
            await self._make(lambda founder, file, secrets: founder.admitted(file, secrets, new))

    def _member(self, peer: str) -> MemberEntry | None:
        return None if self._held.file is None else self._held.file.by_peer.get(peer)

    def _not_admitted(self, failure: Any) -> None:
        if not isinstance(failure.value, ChorusError):
            self._log.failure("internal error in a change of roles", failure)
            return
        self._log.warn("a member gets no role: {error}", event="keys.not_admitted", error=failure.value)

    def received(self, data: bytes) -> Deferred[None]:
        return self._locked(self._receive(data))

    async def _receive(self, data: bytes) -> None:
        file = await self._in_thread(read_roles, data, self.cluster_id)
        if file.rank > self._held.rank:
            await self._keep(file, data)
            await self._take(file, data)

    async def _keep(self, file: RolesFile, encoded: bytes) -> None:
        """On disk, beside the replaced one where its keys are no longer those of the roles."""
        held, replaced = self._held.file, None
        if held is not None and _recipients(held) - _recipients(file):
            replaced = held.serial, self._held.encoded
        await self._in_thread(self._files.keep_roles, encoded, replaced)

    async def _take(self, file: RolesFile, encoded: bytes) -> None:
        """Use a verified file that is on disk."""
        assert self._keys is not None
        try:
            secrets: Secrets = await self._in_thread(open_secrets, file, self._held.me, self._keys.own)
        except (AgeError, PeerError, UserError) as error:
            # It was sealed to another keyring; the founder seals it anew once it is shown this one.
            self._log.warn("the keys of this node's roles cannot be opened: {error}", event="keys.sealed", error=error)
            secrets = NO_SECRETS
        self._held = HeldRoles(self._held.me, file, encoded, secrets)
        self._log.info(
            "roles: serial {serial}, epoch {epoch}, own: {roles}",
            event="keys.roles",
            serial=file.serial,
            epoch=file.epoch,
            roles=", ".join(sorted(file.roles_of(self._held.me))) or "none",
        )
        await gatherResults([self._told(changed) for changed in self._watchers])
        self._acknowledged = file.rank
        self._exchange.announce()

    def _told(self, changed: Callable[[], Any]) -> Deferred[None]:
        done: Deferred[None] = maybeDeferred(changed)
        return done.addErrback(lambda failure: self._log.failure("a watcher of roles failed", failure))

    # What the founder changes

    def _locked(self, work: Coroutine[Any, Any, None]) -> Deferred[None]:
        """One change at a time. It ends, and a stop waits for it, where whoever asked for it waits no more."""
        return shield(self._lock.run(lambda: Deferred.fromCoroutine(work)))

    async def _make(self, change: Change) -> None:
        file, secrets = self._held.file, self._held.secrets
        if file is None or not self._cluster.founded_here:
            where = "" if file is None else f", {file.founder}"
            raise NotFounder(f"only the founder of the cluster{where} changes roles: give the command there")
        if lost := file.roles.keys() - secrets.keys():
            raise RolesRefused(f"the keys of {', '.join(sorted(lost))} are lost here: `chorus keys recover` says how")
        new = await self._in_thread(change, self._founder, file, secrets)
        if new is file:
            return
        encoded = new.encode()
        await self._keep(new, encoded)
        await self._take(new, encoded)

    # KeysPort

    def listing(self) -> Document:
        return self._held.document()

    def grant(self, peer: str, role: str) -> Deferred[Document]:
        return self._changed(lambda founder, file, secrets: founder.granted(file, secrets, peer, role))

    def revoke(self, peer: str, role: str) -> Deferred[Document]:
        return self._changed(lambda founder, file, secrets: founder.revoked(file, secrets, peer, role))

    def rotate(self) -> Deferred[Document]:
        return self._changed(lambda founder, file, secrets: founder.rotated(file, secrets))

    def _changed(self, change: Change) -> Deferred[Document]:
        return self._locked(self._make(change)).addCallback(lambda _: self.listing())


def _recipients(file: RolesFile) -> set[str]:
    return {entry.recipient for entry in file.roles.values()}
