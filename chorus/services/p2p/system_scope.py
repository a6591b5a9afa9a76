"""Limits over all connections of a host together: the system scope of go-libp2p's resource manager.

Connections have a budget each (`YamuxLimits`), and peers have theirs (`Link.count_stream`); what many of them together
would take is refused here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from chorus.errors import LimitExceeded
from chorus.protocols.limits import HostLimits
from chorus.protocols.stream import Connection
from chorus.services.p2p.link import Link

if TYPE_CHECKING:
    from chorus.protocols.connection.streams import MuxedStream


class SystemScope:
    """`links` are those of the host, by their connection."""

    def __init__(self, limits: HostLimits, links: Mapping[Connection, Link]) -> None:
        self._limits = limits
        self._links = links
        self._streams = 0
        """At least as many as are open; see `count_stream`."""

    def count_stream(self, link: Link, stream: MuxedStream, per_protocol: int) -> None:
        """An inbound stream of the connection opens. Raises `LimitExceeded`.

        Counting up is cheap, so streams that ended are only looked for when the count seems too high.
        """
        maximum = self._limits.max_streams
        self._streams += 1
        if self._streams > maximum:
            self._streams = sum(other.connection.streams for other in self._links.values() if other.peer is not None)
            if self._streams > maximum:
                raise LimitExceeded("streams", self._streams, maximum)
        link.count_stream(stream, per_protocol, self._limits.max_inbound_streams_per_peer)

    def check_buffered(self) -> None:
        """Close the connections that hold most, until the rest is within the limit."""
        secured = [link for link in self._links.values() if link.peer is not None and not link.connection.closed]
        held = {link: link.connection.buffered for link in secured}
        total, limit = sum(held.values()), self._limits.max_buffered
        if total <= limit:
            return
        for link in sorted(held, key=lambda link: held[link], reverse=True):
            link.connection.close(LimitExceeded("buffered", total, limit))
            total -= held[link]
            if total <= limit:
                return
