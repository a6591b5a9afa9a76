"""The parts that write and read decisions share these ports."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import attrs

from chorus.errors import ChorusError
from chorus.security import age
from chorus.ucxl.namespaces import ucxl_namespaces

if TYPE_CHECKING:
    from collections.abc import Mapping

    from twisted.internet.defer import Deferred
    from twisted.internet.interfaces import IReactorTime

    from chorus.identity import Identity, PeerId
    from chorus.seams import Redactor
    from chorus.services.blobs.ports import Replicas
    from chorus.services.blobs.service import BlobRef
    from chorus.services.dht.ports import Dht
    from chorus.services.execution.output import InThread
    from chorus.services.keys.ports import Keyring
    from chorus.store.database import Store
    from chorus.ucxl.namespaces import DecisionNamespace


REASON = "decision"
"""Of the pins of a decision's blobs, before its content hash."""


class PlainBlobs(Protocol):
    """The blob service, as far as decisions need it."""

    def path_of(self, sha256: str) -> Path | None: ...

    def put_bytes(self, data: bytes) -> Deferred[BlobRef]: ...


class Mesh(Protocol):
    """Members that are connected, and what they are told."""

    def connected(self, peer: PeerId) -> bool: ...

    def announce(self, address: str) -> None:
        """On `chorus/decisions`. Never fails."""

    def listen(self, heard: Callable[[str], None]) -> None:
        """Call `heard` with each address that a member announces."""


@attrs.frozen
class MemoryPorts:
    identity: Identity
    dht: Dht
    keyring: Keyring
    replicas: Replicas
    blobs: PlainBlobs
    mesh: Mesh
    store: Store
    redactor: Redactor
    clock: IReactorTime
    wall: Callable[[], float]
    in_thread: InThread
    replication: int
    """Holders that make a record safe."""

    @property
    def namespaces(self) -> Mapping[str, DecisionNamespace]:
        return ucxl_namespaces(self.keyring)

    def may_read(self, role: str) -> bool:
        """True if one of this node's roles may read what is written under `role` now. On any thread."""
        try:
            recipients = set(self.keyring.recipients(role))
        except ChorusError:
            return False
        return any(age.recipient_of(identity) in recipients for identity in self.keyring.identities())
