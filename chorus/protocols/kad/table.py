"""The routing table: peers that answered a query of this node, by their distance. Pure.

Buckets by the length of the prefix that a peer's point shares with ours, of k peers each, the first ones larger. A
peer enters after an own successful query alone; one that lives is never evicted for another, one that fails makes room
(security.md 1.7). `now` is in seconds of the boot clock.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address
from typing import Final

import attrs

from chorus.errors import LimitExceeded
from chorus.identity import PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.kad.keys import BITS, SPACE, common_bits, point_of
from chorus.protocols.kad.messages import Contact
from chorus.protocols.kad.params import (
    MAX_FAILURES,
    MAX_GROUP_IN_BUCKET,
    MAX_GROUP_IN_TABLE,
    MAX_REFRESH_BITS,
    MAX_TABLE,
    KadParams,
)

RANDOM_PEER: Final = b"\x12\x20"
"""Before 32 random bytes: the form of a peer id that nobody has."""


def network_of(address: Multiaddr, *, private_too: bool = False) -> str | None:
    """The IP group of an address: /16 of IPv4, /32 of IPv6. None where none is counted: for names, and unless
    `private_too` for loopback and private networks (see `KadParams.limit_private_groups`)."""
    ip = address.ip()
    if ip is None or not (ip.is_global or private_too):
        return None
    return ip.packed[: 2 if isinstance(ip, IPv4Address) else 4].hex()


@attrs.define(eq=False)
class TableEntry:
    """A peer of the table."""

    contact: Contact
    group: str | None
    bucket: int
    answered_at: float
    failures: int = 0
    """Queries failed since the last answer."""

    @property
    def point(self) -> int:
        return self.contact.point


class RoutingTable:
    """Peers by bucket; bucket i has those whose points share exactly i bits with ours."""

    def __init__(self, own: PeerId, params: KadParams, now: float) -> None:
        self.own = own
        self.point = point_of(own.raw)
        self._params = params
        self._entries: dict[PeerId, TableEntry] = {}
        self._buckets: list[list[TableEntry]] = [[] for _ in range(BITS)]
        self._groups: Counter[str] = Counter()
        self._order: tuple[list[int], list[Contact]] | None = None
        """Live entries by their points; None after a change."""
        self._looked_at: list[float] = [now - params.refresh_s] * BITS
        """When a lookup last went through a bucket."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._entries

    def __iter__(self) -> Iterator[TableEntry]:
        return iter(list(self._entries.values()))

    @property
    def live(self) -> int:
        """Entries whose last query did not fail."""
        return sum(not entry.failures for entry in self._entries.values())

    # Who is in

    def wants(self, contact: Contact, address: Multiaddr | None = None) -> bool:
        """True if a server that was met deserves a probe, a FIND_NODE for our own id: it would be taken when it
        answers. `address` is that of its connection."""
        return self._place(contact, address) is not None

    def answered(self, contact: Contact, now: float, address: Multiaddr | None = None) -> bool:
        """A query of ours to that server succeeded; True if it is in the table afterwards. `address` is that of its
        connection, and counts for its IP group; without one the first of the contact."""
        entry = self._entries.get(contact.peer)
        if entry is not None:
            if contact.addresses and contact != entry.contact:
                entry.contact = contact
                self._order = None
            if entry.failures:
                entry.failures = 0
                self._order = None
            entry.answered_at = now
            return True
        place = self._place(contact, address)
        if place is None:
            return False
        bucket, group, leaves = place
        if leaves is not None:
            self.remove(leaves.contact.peer)
        entry = TableEntry(contact, group, bucket, now)
        self._order = None
        self._entries[contact.peer] = entry
        self._buckets[bucket].append(entry)
        if group is not None:
            self._groups[group] += 1
        return True

    def _place(self, contact: Contact, address: Multiaddr | None) -> tuple[int, str | None, TableEntry | None] | None:
        """Bucket, group, and the failed entry that leaves for it; None if there is no room, or it is in, or ours."""
        if contact.peer == self.own or contact.peer in self._entries or len(self._entries) >= MAX_TABLE:
            return None
        index = min(common_bits(self.point, contact.point), BITS - 1)
        bucket = self._buckets[index]
        group = self._group(contact, address)
        if group is not None and (
            self._groups[group] >= MAX_GROUP_IN_TABLE
            or sum(entry.group == group for entry in bucket) >= MAX_GROUP_IN_BUCKET
        ):
            return None
        if len(bucket) < max(self._params.k, self._params.far >> index):
            return index, group, None
        worst = max(bucket, key=lambda entry: (entry.failures, -entry.answered_at))
        return (index, group, worst) if worst.failures else None

    def _group(self, contact: Contact, address: Multiaddr | None) -> str | None:
        if address is None:
            address = contact.addresses[0] if contact.addresses else None
        return None if address is None else network_of(address, private_too=self._params.limit_private_groups)

    def failed(self, peer: PeerId) -> bool:
        """A query to the peer failed; True if it left the table for that."""
        entry = self._entries.get(peer)
        if entry is None:
            return False
        entry.failures += 1
        self._order = None
        if entry.failures >= MAX_FAILURES:
            self.remove(peer)
            return True
        return False

    def remove(self, peer: PeerId) -> bool:
        """The peer left, or is a server no longer; True if it was in."""
        entry = self._entries.pop(peer, None)
        if entry is None:
            return False
        self._buckets[entry.bucket].remove(entry)
        self._order = None
        if entry.group is not None:
            self._groups[entry.group] -= 1
        return True

    # Who is near

    def nearest(self, point: int, count: int, without: PeerId | None = None) -> list[Contact]:
        """The nearest peers to a point, nearest first. Those that failed last are left out unless all did."""
        contacts = self._around(point, count + (without is not None))
        contacts.sort(key=lambda contact: contact.point ^ point)
        if without is not None:
            contacts = [contact for contact in contacts if contact.peer.raw != without.raw]
        return contacts[:count]

    def _around(self, point: int, count: int) -> list[Contact]:
        """At least so many, if there are: all that share a prefix with the point, the longest that suffices. Peers with
        it are nearer than all others, and stand together in the order of their points."""
        points, contacts = self._order or self._sort()
        size = len(points)
        if size <= count:
            return contacts[:]
        low, high, bits = 0, size, 0
        while True:
            shift = BITS - 1 - bits
            begin = point >> shift << shift
            first = bisect_left(points, begin, low, high)
            last = bisect_left(points, begin + (1 << shift), first, high)
            if last - first < count:
                return contacts[low:high]
            low, high, bits = first, last, bits + 1

    def _sort(self) -> tuple[list[int], list[Contact]]:
        entries = [entry for entry in self._entries.values() if not entry.failures] or list(self._entries.values())
        contacts = sorted((entry.contact for entry in entries), key=lambda contact: contact.point)
        self._order = [contact.point for contact in contacts], contacts
        return self._order

    def contact(self, peer: PeerId) -> Contact | None:
        entry = self._entries.get(peer)
        return None if entry is None else entry.contact

    def size_estimate(self) -> float | None:
        """Servers of the whole network, ourselves included, by how close the nearest are; None while fewer than k are
        known, and the table may be all there is."""
        k = self._params.k
        near = self.nearest(self.point, k)
        if len(near) < k:
            return None
        return max(float(k), (k - 1) * SPACE / (near[-1].point ^ self.point))

    # Refresh

    def looked_up(self, point: int, now: float) -> None:
        """A lookup for the point ended: its bucket is fresh."""
        self._looked_at[min(common_bits(self.point, point), BITS - 1)] = now

    def due(self, now: float) -> list[int]:
        """Buckets without a lookup for `refresh_s`, up to the deepest that holds anybody; `refresh_key` makes the key
        to look up for each. The lookup of the own id comes besides."""
        deepest = max((entry.bucket for entry in self._entries.values()), default=-1)
        last = min(deepest, MAX_REFRESH_BITS)
        return [index for index in range(last + 1) if now - self._looked_at[index] >= self._params.refresh_s]

    def refresh_key(self, bucket: int, rng: random.Random) -> bytes:
        """A key whose point falls into the bucket. Tries 2 ** (bucket + 1) hashes on average."""
        if bucket > MAX_REFRESH_BITS:
            raise LimitExceeded("kad.MAX_REFRESH_BITS", bucket, MAX_REFRESH_BITS)
        while True:
            key = RANDOM_PEER + rng.randbytes(32)
            if common_bits(self.point, point_of.__wrapped__(key)) == bucket:
                return key

    def stale(self, now: float) -> list[Contact]:
        """Entries that nobody has heard an answer of for `refresh_s`, and those that failed: to be probed."""
        limit = now - self._params.refresh_s
        return [e.contact for e in self._entries.values() if e.failures or e.answered_at <= limit]

    # Restarts

    def dump(self) -> list[Contact]:
        """Live entries, to be kept on disk."""
        return [entry.contact for entry in self._entries.values() if not entry.failures]

    def load(self, contacts: Iterable[Contact], now: float) -> None:
        """Entries of a former run. They count as answering until they fail, and are probed soon."""
        for contact in contacts:
            self.answered(contact, now - self._params.refresh_s)
