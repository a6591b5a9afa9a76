"""The distributed hash table as other parts use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import attrs

from chorus.errors import LocalError, UserError

if TYPE_CHECKING:
    from twisted.internet.defer import Deferred

    from chorus.identity import PeerId
    from chorus.multiformats.multiaddr import Multiaddr


class RecordNotFound(UserError):
    """No server that was asked holds a valid record."""

    code = "record_not_found"
    http_status = 404


class DhtUnavailable(LocalError):
    """Nobody could be asked, or the table is switched off."""

    code = "dht_unavailable"
    http_status = 503


@attrs.frozen
class Stored:
    """Holders that confirmed a record, this node included where it holds one."""

    holders: tuple[PeerId, ...]
    wanted: int
    """Copies that make it safe: the replication count, or all live servers where there are fewer."""

    @property
    def safe(self) -> bool:
        """True if it is on more than one machine, and on as many as wanted."""
        return len(self.holders) >= max(2, self.wanted)


@attrs.frozen
class Provider:
    """A peer that announced itself as a holder of a blob."""

    peer: PeerId
    addresses: tuple[Multiaddr, ...] = ()


class Dht(Protocol):
    """Keys are bytes of at most 80: `/namespace/rest` for values, a multihash for providers."""

    @property
    def servers(self) -> int:
        """Live servers of the table, this node included where it is one."""

    @property
    def serving(self) -> bool:
        """True if this node is one of them."""

    def put(self, key: bytes, value: bytes) -> Deferred[Stored]:
        """Store a valid record here and at the closest servers, and keep it republished. Durable here before the first
        send. Fails with the namespace's error for an invalid one, and with `DhtUnavailable`."""

    def get(self, key: bytes, *, quorum: int | None = None) -> Deferred[bytes]:
        """The best valid record of `quorum` answers (3, or all holders if fewer). Fails with `RecordNotFound` or
        `DhtUnavailable`; always fires."""

    def holders(self, key: bytes) -> Deferred[dict[PeerId, bytes]]:
        """Valid records of all holders among the closest servers; holders of a fork differ."""

    def provide(self, key: bytes) -> Deferred[Stored]:
        """Announce this node as a holder at the closest servers, again and again until `withdraw`."""

    def withdraw(self, key: bytes) -> Deferred[None]:
        """Announce it no longer; records elsewhere expire."""

    def providers(self, key: bytes, most: int = 20) -> Deferred[tuple[Provider, ...]]:
        """Announced holders, at most `most`; none is no error. Fails with `DhtUnavailable`."""
