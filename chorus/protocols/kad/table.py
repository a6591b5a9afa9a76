"""The routing table: peers that answered a query of this node, by their distance. Pure.

Buckets of k by the length of the prefix that a peer's point shares with ours. A peer enters after an own successful
query alone; one that lives is never evicted for another, one that fails makes room (security.md 1.7). `now` is in
seconds of the boot clock.
"""

from __future__ import annotations

import random
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
            if contact.addresses:
                entry.contact = contact
            entry.answered_at = now
            entry.failures = 0
            return True
        place = self._place(contact, address)
        if place is None:
            return False
        bucket, group, leaves = place
        if leaves is not None:
            self.remove(leaves.contact.peer)
        entry = TableEntry(contact, group, bucket, now)
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
        if len(bucket) < self._params.k:
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
        if entry.group is not None:
            self._groups[entry.group] -= 1
        return True

    # Who is near

    def nearest(self, point: int, count: int, without: PeerId | None = None) -> list[Contact]:
        """The nearest peers to a point, nearest first. Those that failed last are left out unless all did."""
        found = self._nearest(point, count, without, failed=False)
        return found or self._nearest(point, count, without, failed=True)

    def _nearest(self, point: int, count: int, without: PeerId | None, *, failed: bool) -> list[Contact]:
        found: list[Contact] = []
        raw = None if without is None else without.raw
        for shell in self._shells(point, count):
            near = [e.contact for e in shell if (failed or not e.failures) and e.contact.peer.raw != raw]
            near.sort(key=lambda contact: contact.point ^ point)
            found += near
            if len(found) >= count:
                break
        return found[:count]

    def _shells(self, point: int, count: int) -> Iterator[Iterable[TableEntry]]:
        """Entries in groups, of which each is nearer to the point than the next: its bucket, all that share as many
        bits with it as we do, then bucket by bucket. A small table is one group."""
        if len(self._entries) <= 2 * count:
            yield self._entries.values()
            return
        own = min(common_bits(self.point, point), BITS - 1)
        yield self._buckets[own]
        yield [entry for bucket in self._buckets[own + 1 :] if bucket for entry in bucket]
        for index in range(own - 1, -1, -1):
            if self._buckets[index]:
                yield self._buckets[index]

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
