"""Times of one connection, and the errors of those that passed (spec/security.md 1.2 to 1.4)."""

from __future__ import annotations

import attrs

from chorus.errors import LocalError, PeerError
from chorus.protocols.yamux.frames import YamuxLimits


class HandshakeTimeout(PeerError):
    """The peer took too long until streams could be opened."""

    code = "handshake_timeout"


class NegotiationTimeout(PeerError):
    """The protocol of a stream was not agreed in time; the stream is reset."""

    code = "negotiation_timeout"


class LingerTimeout(PeerError):
    """A closed stream's queued bytes were not taken in time; the stream is reset."""

    code = "linger_timeout"


class KeepaliveTimeout(PeerError):
    """The peer did not answer a ping."""

    code = "keepalive_timeout"


class PingTimeout(PeerError):
    """The peer did not answer a ping that measured how far away it is; the connection goes on."""

    code = "ping_timeout"


class PingLimitReached(LocalError):
    """One more ping here would pass a limit of this connection."""

    code = "ping_limit"


class ReadStalled(LocalError):
    """Receivers here left so much unread, for so long, that the connection cannot go on."""

    code = "read_stalled"


@attrs.frozen
class ConnectionLimits:
    """Times of one connection, in seconds, and the multiplexer's limits."""

    handshake_s: float = 10.0
    """From the TCP connection until streams can be opened (spec/security.md 1.3)."""
    negotiation_s: float = 10.0
    """Until the protocol of a stream is agreed (spec/security.md 1.2)."""
    keepalive_idle_s: float = 30.0
    """Silence of the peer before it is asked, as go-yamux does."""
    keepalive_reply_s: float = 10.0
    """Until it must have answered."""
    linger_s: float = 30.0
    """For the bytes still queued on a stream that was closed here: nobody else looks after it any more."""
    read_stall_s: float = 30.0
    """How long the socket may stay unread because receivers are paused on half of `receive_budget`."""
    close_s: float = 5.0
    """From `close` until the connection is aborted: a peer that never reads (CVE-2026-21435) cannot hold it."""
    max_pings: int = 16
    """Own pings without an answer; one more fails here."""
    ping_s: float = 10.0
    """Until one of them must be answered: as long as the keepalive waits."""
    yamux: YamuxLimits = attrs.field(factory=YamuxLimits)
