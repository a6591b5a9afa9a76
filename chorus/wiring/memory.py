"""Builds the memory: keys, DHT, replicas of blobs, decisions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from chorus.config.values import roles_by_name
from chorus.preflight import plain
from chorus.seams import PassThrough
from chorus.security.role_changes import RolesFounder
from chorus.services.blobs.plaintexts import Plaintexts
from chorus.services.blobs.replicas import ReplicaContext, ReplicaService
from chorus.services.blobs.sealing import Sealer
from chorus.services.dht.namespaces import Unvalidated
from chorus.services.dht.service import DhtService
from chorus.services.dht.settings import DhtSettings
from chorus.services.keys.files import KeyFiles
from chorus.services.keys.service import KeysService
from chorus.services.ucxl.authoring import DecisionAuthor
from chorus.services.ucxl.cache import DecisionCache
from chorus.services.ucxl.index import DecisionIndex
from chorus.services.ucxl.memory import MemoryPorts
from chorus.services.ucxl.mesh import PubSubMesh
from chorus.services.ucxl.publishing import Publisher
from chorus.services.ucxl.reading import DecisionReader
from chorus.services.ucxl.rotation import Reencryption
from chorus.services.ucxl.service import MemoryParts, UcxlService
from chorus.store.dht import Quotas
from chorus.ucxl.namespaces import ucxl_namespaces
from chorus.wiring.surroundings import MIB

if TYPE_CHECKING:
    from chorus.identity import Identity
    from chorus.protocols.kad.namespaces import Namespace
    from chorus.services.blobs.offload import Offload
    from chorus.services.blobs.service import BlobService
    from chorus.services.cluster import ClusterService
    from chorus.services.dht.ports import Dht
    from chorus.services.messaging import Messaging
    from chorus.services.p2p.host import P2PService
    from chorus.store.database import Store
    from chorus.wiring.storage import Storage
    from chorus.wiring.surroundings import Surroundings


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


def build_dht(context: Surroundings, store: Store, p2p: P2PService, keys: KeysService | None) -> DhtService:
    """A member takes decisions, by the rules of its `keys`. Open mode takes test namespaces alone."""
    settings = context.settings
    namespaces: Mapping[str, Namespace] = {name: Unvalidated() for name in settings.dht_test_namespaces}
    if keys is not None:
        namespaces = ucxl_namespaces(keys)
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


def build_decisions(
    context: Surroundings,
    identity: Identity,
    storage: Storage,
    p2p: P2PService,
    messaging: Messaging,
    *,
    keys: KeysService,
    dht: DhtService,
    blobs: BlobService,
    replicas: ReplicaService,
) -> UcxlService:
    settings = context.settings
    store = storage.store.database
    ports = MemoryPorts(
        identity=identity,
        dht=dht,
        keyring=keys,
        replicas=replicas,
        blobs=blobs,
        mesh=PubSubMesh(p2p, messaging),
        store=store,
        redactor=PassThrough(),
        clock=context.reactor,
        wall=context.wall,
        in_thread=storage.in_thread,
        replication=settings.dht_replication,
    )
    index = DecisionIndex(store, context.random_bytes)
    cache = DecisionCache(settings.dht_cache_size * MIB)
    reader = DecisionReader(ports, index, cache)
    author = DecisionAuthor(ports, index)
    publisher = Publisher(ports, author, reader)
    p2p.watch_peers(lambda _: publisher.peer_joined(), lambda _: None)
    return UcxlService(
        ports, MemoryParts(index, cache, reader, author, publisher, Reencryption(ports, index, reader, author))
    )


def build_replicas(
    context: Surroundings, p2p: P2PService, blobs: BlobService, offload: Offload, *, dht: Dht, keys: KeysService
) -> ReplicaService:
    """`offload`: threads of the blobs."""
    sealer = Sealer(blobs, offload)
    return ReplicaService(
        ReplicaContext(
            blobs=blobs,
            sealer=sealer,
            plaintexts=Plaintexts(blobs, sealer, offload, context.reactor, keys),
            host=p2p,
            dht=dht,
            clock=context.reactor,
            rng=context.rng,
            wanted=context.settings.dht_replication,
        )
    )
