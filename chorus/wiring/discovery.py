"""Builds discovery."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chorus.multiformats.multiaddr import Multiaddr
from chorus.services.discovery.memory import MEMORY
from chorus.services.discovery.service import DiscoveryService
from chorus.services.discovery.settings import DiscoverySettings, MdnsFactory

if TYPE_CHECKING:
    from chorus.identity import Identity, PeerId
    from chorus.services.cluster import ClusterService
    from chorus.services.discovery.mdns import MdnsService
    from chorus.services.p2p.host import P2PService
    from chorus.wiring.surroundings import Surroundings


def build_discovery(
    around: Surroundings, identity: Identity, p2p: P2PService, cluster: ClusterService | None, in_thread: Any
) -> DiscoveryService:
    """Open mode (no `cluster`) dials its contacts alone: it remembers nobody, and neither asks peers nor mDNS."""
    settings = around.settings
    contacts = [Multiaddr.parse(each) for each in settings.bootstrap_peers]
    if cluster is not None:
        contacts += cluster.contacts
    return DiscoveryService(
        p2p,
        identity,
        around.reactor,
        rng=around.rng,
        wall_ns=around.wall_ns,
        settings=DiscoverySettings(
            contacts=contacts,
            join_stagger_ms=settings.join_stagger_ms,
            exchange_peers=not settings.open,
            memory=None if settings.open else around.path / MEMORY,
            in_thread=in_thread,
            make_mdns=_mdns(around, p2p) if settings.mdns_enabled and not settings.open else None,
        ),
    )


def _mdns(around: Surroundings, p2p: P2PService) -> MdnsFactory:
    def make(cluster_id: bytes, found: Callable[[PeerId, tuple[Multiaddr, ...]], None]) -> MdnsService:
        from chorus.services.discovery.mdns import MdnsService

        return MdnsService(
            peer=p2p.peer_id, cluster_id=cluster_id, addresses=p2p.listen_addresses(), found=found, rng=around.rng
        )

    return make
