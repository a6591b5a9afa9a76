"""Settings of a host: where it listens, what it offers, and its limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import attrs

from chorus import __version__
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.connection.core import MakeHandshake
from chorus.protocols.connection.limits import ConnectionLimits
from chorus.protocols.limits import HostLimits
from chorus.protocols.noise.handshake import NoiseHandshake


@attrs.frozen
class HostSettings:
    listen: Sequence[Multiaddr] = (Multiaddr.tcp("127.0.0.1", 0),)
    """Addresses of plain TCP; port 0 is any that is free."""
    last_port: int = 0
    """The port to try first where any will do."""
    announce: Sequence[Multiaddr] = ()
    """Given to others in place of `listen`."""
    open_mode: bool = False
    limits: HostLimits = attrs.field(factory=HostLimits)
    connections: ConnectionLimits | None = None
    agent_version: str = f"chorus/{__version__}"
    security: MakeHandshake = NoiseHandshake
    """Makes the handshake of each connection: Noise, except in simulations."""
    wall_ns: Callable[[], int] = time.time_ns
    """Unix time, for the sequence number of our signed record."""
