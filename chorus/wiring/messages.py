"""Builds pub/sub, messaging on it, and presence."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from typing import TYPE_CHECKING

import attrs

from chorus import __version__
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.gossipsub.params import GossipParams
from chorus.seams import MembersMayAll, PassThrough
from chorus.services.messaging import Messaging
from chorus.services.presence import Load, PresenceService, Profile
from chorus.services.pubsub.seqno import first_seqno
from chorus.services.pubsub.service import PubSubService
from chorus.services.pubsub.settings import PeerRecords, PubSubSettings

if TYPE_CHECKING:
    from chorus.identity import Identity, PeerId
    from chorus.services.p2p.host import P2PService
    from chorus.services.starts import Starts
    from chorus.wiring.surroundings import Surroundings


@attrs.frozen
class Messages:
    pubsub: PubSubService
    messaging: Messaging
    presence: PresenceService


def build_messages(
    around: Surroundings,
    identity: Identity,
    p2p: P2PService,
    *,
    agent_id: str,
    role: str | None,
    load: Callable[[], Load],
    record_of: Callable[[PeerId], bytes | None],
    take_up: Callable[[PeerId, PeerId, bytes | None], None],
    starts: Starts | None,
) -> Messages:
    """`record_of` and `take_up` come from discovery, which is built later and stopped earlier."""
    settings = around.settings
    pubsub = PubSubService(
        p2p,
        identity,
        around.reactor,
        rng=around.rng,
        settings=PubSubSettings(
            # Members count their sequence numbers up; foreign peers of open mode may draw them (js does).
            params=GossipParams(growing_seqno=not settings.open),
            direct=[Multiaddr.parse(each) for each in settings.gossip_direct_peers],
            shared_networks=[ip_network(each) for each in settings.gossip_shared_networks],
        ),
        exchange=PeerRecords(record_of, take_up),
        first_seqno=lambda: first_seqno(around.path, around.wall_ns()),
    )
    messaging = Messaging(
        pubsub,
        identity.peer_id,
        redactor=PassThrough(),
        wall=around.wall,
        random=around.random_bytes,
        role=lambda: role,
        roles=MembersMayAll(),
    )
    profile = Profile(
        agent_id=agent_id,
        version=__version__,
        role=role,
        reports_to=settings.agent_reports_to,
        specialization=settings.agent_specialization,
        expertise=settings.agent_expertise,
        capabilities=settings.agent_capabilities,
    )
    presence = PresenceService(messaging, pubsub, around.reactor, profile, load, starts)
    return Messages(pubsub, messaging, presence)
