"""Peers to dial, and when: configured contacts, remembered members, and peers that others named. Pure.

`PeerTargets` holds the peers worth a connection; the formulas say how long to wait. Sockets and timers are
`services/discovery/service.py`'s. `now` is in seconds on a steady clock.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from enum import IntEnum

import attrs

from chorus.backoff import Backoff
from chorus.identity import PeerId
from chorus.multiformats.multiaddr import Multiaddr

RETRY_FIRST = 1.0
RETRY_MAX = 60.0
"""Seconds between two dials of a contact or member that does not answer."""
LONG_GONE = 60
"""Failures (about an hour) after which a member is dialled every ten minutes only: when it comes back it dials too."""
RETRY_MAX_LONG_GONE = 600.0
FORGOTTEN = 500
"""Failures (about three days) after which a member that is no contact is forgotten."""
RETRY_MAX_HEARD = 300.0
RECONNECT_SPREAD = 0.5
"""Seconds over which reconnections after a loss are spread; the larger peer id waits that much longer, so that most
pairs dial once."""
MAX_MEMBERS = 256
"""Members remembered; the one connected longest ago goes first."""
MAX_HEARD = 256
"""Peers that others named and that were never members here."""
HEARD_TTL = 900.0
"""Seconds after the last sighting when such a peer is dropped."""
MAX_ADDRESSES = 16
"""Addresses dialled of one peer."""
SETTLE = 15.0
"""Seconds that a dialled connection has to become a member's."""
MAX_DIALS = 8
"""Dials at the same time."""


class PeerSource(IntEnum):
    """How a peer became known; a higher one outranks a lower."""

    HEARD = 0
    """From mDNS or another member: unproven."""
    MEMBER = 1
    """Admitted here once."""
    CONTACT = 2
    """Configured, or from the join token."""


def retry_delay(failures: int, source: PeerSource, rng: random.Random) -> float:
    """Seconds until a peer that failed `failures` times in a row is dialled again: doubling, then jittered by half."""
    if failures <= 0:
        return 0.0
    if source is PeerSource.HEARD:
        ceiling = RETRY_MAX_HEARD
    else:
        ceiling = RETRY_MAX_LONG_GONE if source is PeerSource.MEMBER and failures > LONG_GONE else RETRY_MAX
    return Backoff(RETRY_FIRST, ceiling, low=0.5).delay(failures, rng)


def reconnect_delay(own: PeerId, other: PeerId, rng: random.Random) -> float:
    """Seconds until a peer whose connection was lost is dialled."""
    return rng.random() * RECONNECT_SPREAD + (RECONNECT_SPREAD if other < own else 0.0)


def join_stagger(join_stagger_ms: int, rng: random.Random) -> float:
    """Seconds to wait before the first dial, so that nodes started together do not arrive together."""
    return rng.random() * join_stagger_ms / 1000


@attrs.define
class Target:
    """`reached` led to the peer, `configured` comes from the user, `own` from the peer, `hearsay` from others."""

    peer: PeerId
    source: PeerSource
    due: float
    expires: float = 0.0
    reached: Multiaddr | None = None
    configured: tuple[Multiaddr, ...] = ()
    own: tuple[Multiaddr, ...] = ()
    hearsay: tuple[Multiaddr, ...] = ()
    record: bytes | None = None
    """The newest signed record, to be passed on once the peer is a member."""
    record_seq: int = -1
    failures: int = 0
    error: str = ""
    """Of the last dial; empty once it succeeded."""
    dialling: bool = False
    connected: bool = False
    admitted: bool = False
    """Here, now or earlier."""

    @property
    def addresses(self) -> tuple[Multiaddr, ...]:
        reached = (self.reached,) if self.reached is not None else ()
        return tuple(dict.fromkeys((*reached, *self.configured, *self.own, *self.hearsay)))[:MAX_ADDRESSES]


class PeerTargets:
    """Peers worth a connection, bounded. The order of `_targets` is that of the last connection or sighting."""

    def __init__(self, own: PeerId, rng: random.Random) -> None:
        self._own = own
        self._rng = rng
        self._targets: dict[PeerId, Target] = {}

    def __len__(self) -> int:
        return len(self._targets)

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._targets

    def get(self, peer: PeerId) -> Target | None:
        return self._targets.get(peer)

    def members(self) -> list[Target]:
        """Admitted here once, also before a restart, the latest last."""
        return [target for target in self._targets.values() if target.admitted or target.source is PeerSource.MEMBER]

    def last_error(self) -> str | None:
        """Of a dial to the peer that is wanted most, where one failed."""
        failed = [target for target in self._targets.values() if target.error]
        return max(failed, key=lambda target: target.source).error if failed else None

    @property
    def connected(self) -> int:
        return sum(target.connected for target in self._targets.values())

    @property
    def dialling(self) -> int:
        return sum(target.dialling for target in self._targets.values())

    def add(
        self, peer: PeerId, addresses: Iterable[Multiaddr], source: PeerSource, now: float, *, delay: float = 0.0
    ) -> bool:
        """Make the peer a target, or renew what is known of it. False when it is this node or there is nothing to dial.

        Hearsay never displaces what the user or the peer said; an address that is new is worth a dial at once.
        """
        found = tuple(dict.fromkeys(address.without_peer() for address in addresses if len(address.parts) > 1))
        found = found[:MAX_ADDRESSES]
        if peer == self._own or not found:
            return False
        target = self._targets.get(peer)
        if target is None:
            target = self._targets[peer] = Target(peer, source, now + delay)
        elif not set(found) <= set(target.addresses):
            target.due, target.failures = min(target.due, now + delay), 0
        target.source = max(target.source, source)
        target.expires = now + HEARD_TTL
        if source is PeerSource.CONTACT:
            target.configured = found
        elif source is PeerSource.MEMBER:
            target.own = found
        else:
            target.hearsay = found
        self._make_room()
        return peer in self._targets

    def admitted(self, peer: PeerId, address: Multiaddr | None) -> Target:
        """A connection to the peer exists and is admitted; `address` is where it was dialled."""
        target = self._targets.pop(peer, None) or Target(peer, PeerSource.MEMBER, 0.0)
        self._targets[peer] = target
        target.source = max(target.source, PeerSource.MEMBER)
        target.connected, target.admitted, target.dialling = True, True, False
        target.failures, target.error = 0, ""
        if address is not None:
            target.reached = address.without_peer()
        self._make_room()
        return target

    def record(self, peer: PeerId, seq: int, addresses: tuple[Multiaddr, ...], envelope: bytes) -> bool:
        """A verified record of a target; its addresses replace those that it gave before. False unless it is newer."""
        target = self._targets.get(peer)
        if target is None or seq <= target.record_seq:
            return False
        target.record, target.record_seq, target.own = envelope, seq, addresses[:MAX_ADDRESSES]
        return True

    def lost(self, peer: PeerId, now: float) -> None:
        """The connection to the peer has ended."""
        target = self._targets.get(peer)
        if target is not None and target.connected:
            target.connected = False
            target.due = now + reconnect_delay(self._own, peer, self._rng)

    def failed(self, peer: PeerId, now: float, why: str) -> None:
        """A dial failed."""
        target = self._targets.get(peer)
        if target is not None:
            target.dialling = False
            target.failures += 1
            target.error = why
            target.due = now + retry_delay(target.failures, target.source, self._rng)
            if target.source is PeerSource.MEMBER and target.failures >= FORGOTTEN:
                del self._targets[peer]

    def settle(self, peer: PeerId, now: float) -> None:
        """A dial ended well, or was given up; dialled again unless the peer is admitted in the meantime."""
        target = self._targets.get(peer)
        if target is not None:
            target.dialling = False
            target.due = now + SETTLE

    def take_due(self, now: float, room: int) -> list[Target]:
        """Targets to dial now, marked as being dialled: contacts first, at most `room`."""
        for peer in [
            target.peer
            for target in self._targets.values()
            if target.source is PeerSource.HEARD and target.expires <= now and not target.dialling
        ]:
            del self._targets[peer]
        waiting = [target for target in self._waiting() if target.due <= now]
        waiting.sort(key=lambda target: (-target.source, target.failures, target.due))
        taken = waiting[: max(0, min(room, MAX_DIALS - self.dialling))]
        for target in taken:
            target.dialling = True
        return taken

    def next_due(self) -> float | None:
        """When `take_due` is worth calling again; `None` while every target is connected or being dialled."""
        return min((target.due for target in self._waiting()), default=None)

    def _waiting(self) -> Iterable[Target]:
        return (
            target
            for target in self._targets.values()
            if target.addresses and not target.connected and not target.dialling
        )

    def _make_room(self) -> None:
        """Drop what is over the limits: those that failed most, then the ones seen longest ago."""
        for source, maximum in ((PeerSource.HEARD, MAX_HEARD), (PeerSource.MEMBER, MAX_MEMBERS)):
            of_source = [target for target in self._targets.values() if target.source is source]
            if len(of_source) <= maximum:
                continue
            idle = [target for target in of_source if not target.connected and not target.dialling]
            idle.sort(key=lambda target: -target.failures)
            for target in idle[: len(of_source) - maximum]:
                del self._targets[target.peer]
