"""Knowledge of other peers: addresses, protocols, agent, signed record (spec/security.md 1.5).

Only peers that are connected, or that someone here looks for, have an entry (CVE-2023-40583): anything about a
stranger is dropped on arrival. Lists replace earlier ones, they never grow by repetition.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from chorus.identity import PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.identify import MAX_ADDRESSES, Identification, own_addresses

MAX_PEERS = 4096
"""Entries; over it, the one whose interest ends first goes, connected peers last."""
ADDRESS_TTL = 15 * 60.0
"""Seconds that an address learnt from the network is kept without a connection."""
PROVEN_TTL = 24 * 3600.0
"""Seconds that an address which once led to the peer is kept."""


@attrs.define
class PeerEntry:
    peer: PeerId
    connected: bool = False
    sought_until: float = 0.0
    identification: Identification | None = None
    record: bytes | None = None
    """The newest signed record, as an envelope that anyone can verify."""
    record_seq: int = -1
    _told: tuple[Multiaddr, ...] = ()
    _told_until: float = 0.0
    told_by_public: bool = False
    """Names among the addresses came over the public network: they must not lead into ours."""
    _proven: Multiaddr | None = None
    _proven_until: float = 0.0

    def addresses(self, now: float) -> list[Multiaddr]:
        """The one that worked last first; without `/p2p/…`."""
        found: dict[Multiaddr, None] = {}
        if self._proven is not None and now < self._proven_until:
            found[self._proven] = None
        if self.connected or now < self._told_until:
            found.update(dict.fromkeys(self._told))
        return list(found)

    def tell(self, addresses: Iterable[Multiaddr], source: Multiaddr | None, until: float) -> None:
        """Addresses heard from someone at `source` (`None`: from here) replace those told before."""
        self._told = _credible(addresses, source)
        self._told_until = until
        self.told_by_public = source is not None and not source.is_private

    def keep_told(self, until: float) -> None:
        self._told_until = until

    def prove(self, address: Multiaddr, until: float) -> None:
        self._proven = address
        self._proven_until = until

    def wanted(self, now: float) -> bool:
        return self.connected or now < self.sought_until

    def expires(self) -> float:
        """When nothing keeps the entry any more, unless it is connected."""
        return max(self.sought_until, self._told_until if self._told else 0.0, self._proven_until)


class PeerStore:
    """Bounded in peers, in addresses a peer and in time. `now` is in seconds on any steady clock."""

    def __init__(self, *, max_peers: int = MAX_PEERS) -> None:
        self._max_peers = max_peers
        self._entries: dict[PeerId, PeerEntry] = {}
        self.refused = 0
        """Records and addresses dropped because nobody asked for that peer, or because they were not newer."""

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._entries

    def get(self, peer: PeerId) -> PeerEntry | None:
        return self._entries.get(peer)

    def peers(self) -> list[PeerId]:
        return list(self._entries)

    def addresses(self, peer: PeerId, now: float) -> list[Multiaddr]:
        entry = self._entries.get(peer)
        return entry.addresses(now) if entry is not None else []

    def told_by_public(self, peer: PeerId) -> bool:
        """True if names among `addresses` may only lead to public addresses."""
        entry = self._entries.get(peer)
        return entry is not None and entry.told_by_public

    def protocols(self, peer: PeerId) -> frozenset[str]:
        entry = self._entries.get(peer)
        return entry.identification.protocols if entry is not None and entry.identification is not None else frozenset()

    # Interest

    def seek(self, peer: PeerId, until: float, now: float) -> None:
        """Keep what is learnt of `peer` until then, although it is not connected."""
        entry = self._entry(peer, now)
        entry.sought_until = max(entry.sought_until, until)

    def connected(self, peer: PeerId, now: float) -> None:
        self._entry(peer, now).connected = True

    def disconnected(self, peer: PeerId, now: float) -> None:
        """Addresses now count down; identify starts afresh with the next connection."""
        entry = self._entries.get(peer)
        if entry is None:
            return
        entry.connected = False
        entry.identification = None
        entry.keep_told(now + ADDRESS_TTL)

    # Learning

    def identified(self, peer: PeerId, said: Identification, *, source: Multiaddr, now: float) -> None:
        """`peer` identified itself over a connection whose far end is `source`."""
        entry = self._entries.get(peer)
        if entry is None or not entry.connected:
            self.refused += 1
            return
        entry.identification = said
        if entry.record is None:
            entry.tell(said.addresses, source, now + ADDRESS_TTL)

    def learn(self, peer: PeerId, addresses: Iterable[Multiaddr], *, source: Multiaddr | None, now: float) -> bool:
        """Addresses of `peer` heard from someone at `source` (`None`: configured here, so believed).

        They replace earlier unsigned ones. False when nobody looks for that peer.
        """
        entry = self._entries.get(peer)
        if entry is None or not entry.wanted(now) or entry.record is not None:
            self.refused += 1
            return False
        entry.tell(own_addresses(addresses, peer)[:MAX_ADDRESSES], source, now + ADDRESS_TTL)
        return True

    def learn_record(
        self,
        peer: PeerId,
        seq: int,
        addresses: Iterable[Multiaddr],
        envelope: bytes,
        *,
        source: Multiaddr | None,
        now: float,
    ) -> bool:
        """A verified signed record of `peer`; kept when the peer is wanted and `seq` is newer than the last one's.

        Its addresses replace all that were told before.
        """
        entry = self._entries.get(peer)
        if entry is None or not entry.wanted(now) or seq <= entry.record_seq:
            self.refused += 1
            return False
        entry.record = envelope
        entry.record_seq = seq
        entry.tell(own_addresses(addresses, peer)[:MAX_ADDRESSES], source, now + ADDRESS_TTL)
        return True

    def reached(self, peer: PeerId, address: Multiaddr, now: float) -> None:
        """A dial to `address` ended in a connection that proved to be `peer`'s."""
        entry = self._entries.get(peer)
        if entry is not None:
            entry.prove(address.without_peer(), now + PROVEN_TTL)

    def expire(self, now: float) -> None:
        """Forget peers that nothing keeps. Call it now and then."""
        for peer in [p for p, entry in self._entries.items() if not entry.connected and entry.expires() <= now]:
            del self._entries[peer]

    def _entry(self, peer: PeerId, now: float) -> PeerEntry:
        entry = self._entries.get(peer)
        if entry is None:
            if len(self._entries) >= self._max_peers:
                self._make_room(now)
            entry = self._entries[peer] = PeerEntry(peer)
        return entry

    def _make_room(self, now: float) -> None:
        self.expire(now)
        if len(self._entries) < self._max_peers:
            return
        idle = [entry for entry in self._entries.values() if not entry.connected]
        if idle:
            del self._entries[min(idle, key=PeerEntry.expires).peer]


def _credible(addresses: Iterable[Multiaddr], source: Multiaddr | None) -> tuple[Multiaddr, ...]:
    """Without loopback and private addresses when they come from the public network: they would lead into ours."""
    if source is None or source.is_loopback:
        return tuple(addresses)
    if source.is_private:
        return tuple(address for address in addresses if not address.is_loopback)
    return tuple(address for address in addresses if not address.is_private)
