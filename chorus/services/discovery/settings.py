"""Settings of discovery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, maybeDeferred

from chorus.identity import PeerId
from chorus.multiformats.multiaddr import Multiaddr

WANTED_CONNECTIONS = 64
"""Connections above which nobody is dialled any more; peers still may dial this node."""

MdnsFactory = Callable[[bytes, Callable[[PeerId, tuple[Multiaddr, ...]], None]], Any]
"""(cluster id, found) → a service; `services/discovery/mdns.py` behind it."""
InThread = Callable[[Callable[[], None]], Deferred[None]]


@attrs.frozen
class DiscoverySettings:
    contacts: Sequence[Multiaddr] = ()
    """Addresses that end in `/p2p/…`."""
    join_stagger_ms: int = 0
    wanted_connections: int = WANTED_CONNECTIONS
    exchange_peers: bool = True
    """Ask members for others, and answer them."""
    memory: Path | None = None
    """The file of remembered members, None for none."""
    in_thread: InThread = maybeDeferred
    """Runs a blocking call off the reactor."""
    make_mdns: MdnsFactory | None = None
    """Called with the cluster id once it is known; None to do without mDNS."""
