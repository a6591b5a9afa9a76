"""Decisions of the dialer, apart from its sockets and timers: which addresses, in which order, when again, and which
of two connections to one peer stays."""

from __future__ import annotations

import random
from collections.abc import Iterable

import attrs

from chorus.backoff import Backoff
from chorus.bounded import Bounded
from chorus.errors import LocalError
from chorus.identity import PeerId
from chorus.multiformats.multiaddr import Multiaddr

DIAL_TIMEOUT = 15.0
"""Seconds for TCP and the secure handshake of one address."""
PRIVATE_DIAL_TIMEOUT = 5.0
"""The same for private addresses, which answer fast or not at all."""
STAGGER = 0.25
"""Seconds after which the next address is tried beside one that has not answered (RFC 8305)."""
MAX_ADDRESSES_PER_DIAL = 32
BACKOFF_BASE = 0.5
BACKOFF_MAX = 30.0
"""Seconds. Whoever dials again has a longer schedule; this one keeps many of them off one dead address."""
BACKOFF_KEPT = 2048
"""Addresses whose failures are remembered."""
SIMULTANEOUS_WINDOW = 30.0
"""Two connections of one pair that became usable within this many seconds can be simultaneous dials: connection
set-up and admission may take 10 s each."""


class DialError(LocalError):
    """No address led to the peer. `failures` holds each address that was tried, with its error."""

    code = "dial_failed"

    def __init__(self, peer: PeerId | None, failures: Iterable[tuple[Multiaddr, str]]) -> None:
        self.peer = peer
        self.failures = tuple(failures)
        tried = "; ".join(f"{address}: {why}" for address, why in self.failures) or "no address to dial"
        super().__init__(f"cannot reach {peer or 'the peer'}: {tried}")


_BACKOFF = Backoff(BACKOFF_BASE, BACKOFF_MAX, low=0.5)


def backoff(failures: int, rng: random.Random) -> float:
    """Seconds before an address that failed `failures` times in a row is worth another dial: doubling from 0.5 s
    to 30 s, then anything between half of that and all of it."""
    return _BACKOFF.delay(failures, rng) if failures > 0 else 0.0


@attrs.define
class _Failing:
    failures: int
    until: float


class Backoffs:
    """Addresses that failed lately, and until when they are not dialled. Bounded; a success forgets."""

    def __init__(self, rng: random.Random, *, kept: int = BACKOFF_KEPT) -> None:
        self._rng = rng
        self._failing: Bounded[tuple[PeerId | None, Multiaddr], _Failing] = Bounded(kept)

    def __len__(self) -> int:
        return len(self._failing)

    def failed(self, peer: PeerId | None, address: Multiaddr, now: float) -> float:
        """Count a failure; returns when the address may be dialled again."""
        key = (peer, address)
        failing = self._failing.get(key) or _Failing(0, 0.0)
        failing.failures += 1
        failing.until = now + backoff(failing.failures, self._rng)
        self._failing.put(key, failing)
        return failing.until

    def succeeded(self, peer: PeerId | None, address: Multiaddr) -> None:
        self._failing.pop((peer, address), None)

    def waiting(self, peer: PeerId | None, address: Multiaddr, now: float) -> float:
        """Seconds that remain, 0 when the address may be dialled."""
        failing = self._failing.get((peer, address))
        return max(0.0, failing.until - now) if failing is not None else 0.0


def peer_named(addresses: Iterable[Multiaddr]) -> PeerId | None:
    """The one peer that every one of the addresses names."""
    named = list(dict.fromkeys(address.peer_id() for address in addresses))
    return named[0] if len(named) == 1 else None


def dial_timeout(address: Multiaddr) -> float:
    return PRIVATE_DIAL_TIMEOUT if address.is_private else DIAL_TIMEOUT


def rank(addresses: Iterable[Multiaddr]) -> list[Multiaddr]:
    """Those that can be dialled (plain TCP), once each, nearest first, otherwise in the order given.

    IPv6 and IPv4 take turns within a rank, so that a broken family costs one stagger only.
    """
    usable = dict.fromkeys(a.without_peer() for a in addresses if a.tcp_endpoint() is not None)
    ranks: tuple[list[Multiaddr], list[Multiaddr], list[Multiaddr]] = ([], [], [])
    for address in usable:
        ranks[0 if address.is_loopback else 1 if address.is_private else 2].append(address)
    return [address for group in ranks for address in _interleave(group)][:MAX_ADDRESSES_PER_DIAL]


def _interleave(addresses: list[Multiaddr]) -> list[Multiaddr]:
    six = [a for a in addresses if (ip := a.ip()) is not None and ip.version == 6]
    rest = [a for a in addresses if a not in six]
    mixed: list[Multiaddr] = []
    while six or rest:
        if six:
            mixed.append(six.pop(0))
        if rest:
            mixed.append(rest.pop(0))
    return mixed


@attrs.frozen
class Contender:
    """One of two connections to the same peer. `since` is when it became usable, in seconds."""

    inbound: bool
    since: float


def newcomer_stays(local: PeerId, remote: PeerId, existing: Contender, new: Contender) -> bool:
    """True if the newer of two connections of a pair stays; both ends come to the same answer.

    Of simultaneous dials, the one made by the smaller peer id. Otherwise the newer one: the peer would not have
    dialled if it still had the older.
    """
    if existing.inbound == new.inbound or new.since - existing.since > SIMULTANEOUS_WINDOW:
        return True
    dialled_by_smaller_is_inbound = remote < local
    return new.inbound == dialled_by_smaller_is_inbound
