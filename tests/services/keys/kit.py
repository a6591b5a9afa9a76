"""Nodes with keys on hosts in memory."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import Clock

from chorus.identity import Identity
from chorus.security.membership import Membership, found
from chorus.security.role_changes import RolesFounder
from chorus.security.roles import BUILT_IN
from chorus.services.cluster import ClusterService
from chorus.services.keys.files import KeyFiles
from chorus.services.keys.service import KeysService
from tests.services.memory_host import MemoryHost, connect

SECRET = bytes(range(32))
ROUNDS = 40


COUNT = itertools.count(1)


def numbered(size: int) -> bytes:
    """Bytes that never repeat."""
    return next(COUNT).to_bytes(size, "big")


FOUNDER = Identity.from_seed(b"\1" * 32)
FOUNDED = found(FOUNDER.peer_id, SECRET, numbered)


def at_once(work: Any, *arguments: Any) -> Deferred[Any]:
    """`in_thread` without a thread."""
    return maybeDeferred(work, *arguments)


class KeyNode:
    """One node; the one with the seed 1 founded the cluster."""

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        seed: int,
        *,
        roles: Mapping[str, tuple[str, ...]] = BUILT_IN,
        adopted: bool = True,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.identity = Identity.from_seed(bytes((seed,)) * 32)
        self.peer = self.identity.peer_id
        membership = FOUNDED if seed == 1 else Membership(bytes(16), SECRET, FOUNDED.cluster_id if adopted else None)
        self.cluster = ClusterService(folder, self.identity, membership)
        self.host = MemoryHost(self.peer, clock)
        self.files = KeyFiles(folder, None, numbered)
        self.keys = KeysService(
            self.host,  # type: ignore[arg-type]
            self.cluster,
            RolesFounder(self.identity, numbered),
            self.files,
            clock,  # type: ignore[arg-type]
            roles=roles,
            in_thread=at_once,
        )


def settle(clock: Clock) -> None:
    """Let everything that is due now happen."""
    for _ in range(ROUNDS):
        clock.advance(0)


__all__ = ["FOUNDED", "FOUNDER", "KeyNode", "connect", "settle"]
