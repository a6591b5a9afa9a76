"""Admission right after the handshake, and the protocols that open mode offers (spec/cluster.md)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING
from typing import Protocol as Interface

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from chorus.errors import ChorusError, LocalError, PeerError
from chorus.protocols import identify, perf, ping
from chorus.protocols.stream import Connection, Stream
from chorus.services.p2p.link import Link
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

ADMISSION_TIMEOUT = 10.0
"""Seconds from the secured connection to the admitted one."""
OPEN_MODE_PROTOCOLS = frozenset({identify.PROTOCOL, identify.PUSH_PROTOCOL, ping.PROTOCOL, perf.PROTOCOL})
OPEN_MODE_PREFIX = "/meshsub/"
OPEN_MODE_SUFFIX = "/kad/1.0.0"


def allowed_in_open_mode(protocol: str) -> bool:
    return (
        protocol in OPEN_MODE_PROTOCOLS or protocol.startswith(OPEN_MODE_PREFIX) or protocol.endswith(OPEN_MODE_SUFFIX)
    )


class AdmissionTooSlow(PeerError):
    """The peer did not prove membership in time."""

    code = "admission_timeout"


class Admission(Interface):
    """Decides which peers may take part. `services/p2p/admission.py` proves the cluster's secret."""

    protocol: str
    """Its protocol id; empty when there is nothing to prove."""

    def dialer(self, connection: Connection) -> Deferred[None]:
        """Prove membership over a connection that we dialled; fires once both sides are satisfied."""

    def serve(self, stream: Stream) -> Deferred[None]:
        """The other end, for the stream that the dialer opened; a failure closes the connection."""


class OpenAdmission:
    """Everybody is admitted at once: open mode."""

    protocol = ""

    def dialer(self, connection: Connection) -> Deferred[None]:
        return succeed(None)

    def serve(self, stream: Stream) -> Deferred[None]:
        return succeed(None)


class AdmissionGate:
    """Runs admission on each connection: `admit` is called for those that pass, the others are closed."""

    _log = Logger()

    def __init__(
        self, clock: IReactorTime, admission: Admission, admit: Callable[[Link], None], failed: Counter[str]
    ) -> None:
        self._clock = clock
        self._admission = admission
        self._admit = admit
        self._failed = failed
        self._limits: dict[Link, Timer] = {}

    @property
    def protocol(self) -> str:
        return self._admission.protocol

    def secured(self, link: Link) -> None:
        """The peer is authenticated: whoever dialled begins."""
        if not self.protocol:
            self._admit(link)
            return
        limit = self._limits[link] = Timer(self._clock, lambda: self._too_slow(link))
        limit.arm(ADMISSION_TIMEOUT)
        if not link.connection.inbound:
            self._watch(link, self._admission.dialer(link.connection))

    def opened(self, link: Link, stream: Stream) -> None:
        """The dialer has opened the admission stream."""
        if link.admitted or not stream.connection.inbound:
            stream.reset(PeerError("admission is over, or not yours to begin"))
            return
        self._watch(link, self._admission.serve(stream))

    def _watch(self, link: Link, outcome: Deferred[None]) -> None:
        def failed(failure: Failure) -> None:
            error = failure.value
            if not isinstance(error, ChorusError):
                self._log.failure("internal error in admission", failure)
                error = LocalError("an internal error")
            self._refuse(link, error)

        outcome.addCallbacks(lambda _: self._admit(link), failed)
        outcome.addErrback(lambda failure: self._log.failure("internal error in admitting a connection", failure))

    def over(self, link: Link) -> None:
        """The connection is admitted, or has ended."""
        limit = self._limits.pop(link, None)
        if limit is not None:
            limit.cancel()

    def _too_slow(self, link: Link) -> None:
        self._refuse(link, AdmissionTooSlow(f"no admission within {ADMISSION_TIMEOUT:g} s"))

    def _refuse(self, link: Link, error: ChorusError) -> None:
        if not link.connection.closed:
            self._failed[error.code] += 1
            link.connection.close(error)
