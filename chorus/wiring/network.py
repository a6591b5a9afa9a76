"""Builds the cluster's membership, admission, and the P2P node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from chorus.multiformats.multiaddr import Multiaddr
from chorus.preflight import wishes_of
from chorus.protocols.limits import HostLimits
from chorus.security.membership import check_open_mode
from chorus.services.cluster import ClusterService, load_membership
from chorus.services.p2p.admission import AdmissionService
from chorus.services.p2p.gate import Admission, OpenAdmission
from chorus.services.p2p.host import P2PService
from chorus.services.p2p.settings import HostSettings

if TYPE_CHECKING:
    from chorus.identity import Identity
    from chorus.services.starts import Starts
    from chorus.wiring.surroundings import Surroundings


@attrs.frozen
class Network:
    cluster: ClusterService | None
    """None in open mode."""
    admission: Admission
    p2p: P2PService


def build_network(around: Surroundings, identity: Identity, starts: Starts | None) -> Network:
    """`starts` is None in open mode. Nothing of a new membership is on disk yet. Raises `ClusterError`, or
    `DataDirectoryError` for a damaged file."""
    cluster = None if around.settings.open else _cluster(around, identity)
    admission: Admission
    if cluster is None:
        _check_open_mode(around)
        admission = OpenAdmission()
    else:
        admission = AdmissionService(identity.peer_id, cluster, around.reactor)
    return Network(cluster, admission, _p2p(around, identity, admission, starts))


def _cluster(around: Surroundings, identity: Identity) -> ClusterService:
    return ClusterService.open(around.path, identity, wishes_of(around.settings), around.random_bytes)


def _check_open_mode(around: Surroundings) -> None:
    wishes = wishes_of(around.settings)
    stored = load_membership(around.path) is not None
    check_open_mode(listen_host=around.settings.p2p_bind, wishes=wishes, stored=stored)


def _p2p(around: Surroundings, identity: Identity, admission: Admission, starts: Starts | None) -> P2PService:
    settings = around.settings
    half = max(2, settings.max_connections // 2)
    return P2PService(
        around.reactor,
        identity,
        admission=admission,
        settings=HostSettings(
            listen=[Multiaddr.tcp(settings.p2p_bind, settings.p2p_port)],
            last_port=around.last_port("p2p"),
            announce=[Multiaddr.parse(each) for each in settings.announce],
            open_mode=settings.open,
            limits=HostLimits(max_inbound_connections=half, max_outbound_connections=settings.max_connections - half),
        ),
        rng=around.rng,
        random_bytes=around.random_bytes,
        starts=starts,
    )
