"""Settings of pub/sub, and its callbacks for peer exchange."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import IPv4Network, IPv6Network

import attrs

from chorus.identity import PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.gossipsub.params import GossipParams
from chorus.protocols.gossipsub.score_params import ScoreParams
from chorus.protocols.limits import HostLimits, groups


@attrs.frozen
class PubSubSettings:
    params: GossipParams = attrs.field(factory=GossipParams)
    scores: ScoreParams | None = None
    direct: Sequence[Multiaddr] = ()
    """Addresses that end in `/p2p/…`: these peers are kept connected and get every message, whatever their score."""
    shared_networks: Sequence[IPv4Network | IPv6Network] = ()
    """Peers from one of them are not counted with others of their address (P6)."""

    def group(self, address: Multiaddr) -> str | None:
        """The public network that an address is counted in, None where it is in none."""
        ip = address.ip()
        # A network of the other version holds no address of this one.
        if ip is None or any(ip in network for network in self.shared_networks):
            return None
        counted = groups(address, HostLimits())
        return counted[0][0] if counted else None


@attrs.frozen
class PeerRecords:
    record_of: Callable[[PeerId], bytes | None] = lambda peer: None
    """The signed record of a peer, to be passed on."""
    take_up: Callable[[PeerId, PeerId, bytes | None], None] = lambda source, peer, record: None
    """`source` names a peer and its signed record."""
