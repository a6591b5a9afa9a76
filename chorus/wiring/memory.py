"""Builds the keys, the DHT and the replicas of blobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from chorus.config.values import roles_by_name
from chorus.preflight import plain
from chorus.security.role_changes import RolesFounder
from chorus.services.blobs.replicas import ReplicaContext, ReplicaService
from chorus.services.blobs.sealing import Sealer
from chorus.services.dht.namespaces import Unvalidated
from chorus.services.dht.service import DhtService
from chorus.services.dht.settings import DhtSettings
from chorus.services.keys.files import KeyFiles
from chorus.services.keys.service import KeysService
from chorus.store.dht import Quotas

if TYPE_CHECKING:
    from chorus.identity import Identity
    from chorus.protocols.kad.namespaces import Namespace
    from chorus.services.blobs.offload import Offload
    from chorus.services.blobs.service import BlobService
    from chorus.services.cluster import ClusterService
    from chorus.services.dht.ports import Dht
    from chorus.services.p2p.host import P2PService
    from chorus.store.database import Store
    from chorus.wiring.surroundings import Surroundings

MIB = 1 << 20


def build_keys(
    context: Surroundings, identity: Identity, p2p: P2PService, cluster: ClusterService, in_thread: Any
) -> KeysService:
    """Of a member; open mode has no keys."""
    settings = context.settings
    return KeysService(
        p2p,
        cluster,
        RolesFounder(identity, context.random_bytes),
        KeyFiles(context.path, plain(settings.keyring_passphrase), context.random_bytes),
        context.reactor,
        roles=roles_by_name(settings.roles),
        in_thread=in_thread,
    )


def build_dht(context: Surroundings, store: Store, p2p: P2PService, namespaces: Mapping[str, Namespace]) -> DhtService:
    """`namespaces`: those of a member. Open mode takes test namespaces alone."""
    settings = context.settings
    if settings.open:
        namespaces = {name: Unvalidated() for name in settings.dht_test_namespaces}
    return DhtService(
        p2p,
        store,
        context.reactor,
        namespaces=namespaces,
        wall=context.wall,
        rng=context.rng,
        settings=DhtSettings(
            # In open mode it only answers where somebody asks for it.
            enabled=settings.dht_enabled and (not settings.open or bool(namespaces)),
            mode=settings.dht_mode,
            prefix=settings.dht_prefix,
            replication=settings.dht_replication,
            quotas=Quotas(total_bytes=settings.dht_store_mb * MIB, one_bytes=settings.dht_author_mb * MIB),
        ),
    )


def build_replicas(
    context: Surroundings, p2p: P2PService, blobs: BlobService, offload: Offload, dht: Dht
) -> ReplicaService:
    """`offload`: threads of the blobs."""
    return ReplicaService(
        ReplicaContext(
            blobs=blobs,
            sealer=Sealer(blobs, offload),
            host=p2p,
            dht=dht,
            clock=context.reactor,
            rng=context.rng,
            wanted=context.settings.dht_replication,
        )
    )
