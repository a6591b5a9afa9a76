"""Dials a peer over all its addresses: staggered, bounded, one dial a peer however many ask for it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from typing import Protocol as Interface

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.python.failure import Failure

from chorus.errors import ChorusError, LimitExceeded, LocalError
from chorus.identity import PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.connection.shell import ConnectionProtocol
from chorus.protocols.dialing import STAGGER, Backoffs, DialError, dial_timeout, rank
from chorus.protocols.limits import HostLimits, Place
from chorus.protocols.stream import Connection
from chorus.services.p2p.link import Link, TransportCounters
from chorus.services.p2p.names import look_up
from chorus.services.p2p.reasons import describe, reason
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IConnector


class DialAbandoned(LocalError):
    """Another address was faster, or nobody waits any more."""

    code = "dial_abandoned"


class Dials(Interface):
    """The host, as the dialer needs it."""

    @property
    def peer_id(self) -> PeerId: ...

    def enter(self, address: Multiaddr) -> Place:
        """Take a place for an outbound connection. Raises `LimitExceeded`."""

    def leave(self, place: Place) -> None: ...

    def outbound(self, address: Multiaddr, expected: PeerId | None, place: Place) -> Link:
        """The socket is connected: make the connection."""

    def settling(self, peer: PeerId) -> bool:
        """True if a connection of that peer is waiting for its admission."""


class DialAttempt(ClientFactory):
    """One address: TCP, then the handshake, then admission (both of them the host's)."""

    noisy = False

    def __init__(self, dial: PeerDial, address: Multiaddr, expected: PeerId | None, started: float) -> None:
        self.dial = dial
        self.address = address
        self.expected = expected
        self.started = started
        self.place: Place | None = None
        self.link: Link | None = None
        self.connector: IConnector | None = None
        self.holds_slot = True
        self.over = False

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        assert self.place is not None
        self.link = self.dial.dialer.connected(self)
        return self.link.connection if self.link is not None else None

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self.dial.dialer.not_connected(self, reason)


class PeerDial:
    """All that is under way to reach one peer."""

    def __init__(self, dialer: PeerDialer, peer: PeerId | None) -> None:
        self.dialer = dialer
        self.peer = peer
        self.waiters: list[Deferred[Connection]] = []
        self.pending: deque[Multiaddr] = deque()
        self.running: dict[Multiaddr, DialAttempt] = {}
        self.failures: list[tuple[Multiaddr, str]] = []
        self.seen: set[Multiaddr] = set()
        self.resolving = 0
        """Names whose addresses are awaited."""
        self.stagger = Timer(dialer.reactor, lambda: dialer.stagger(self))
        self.found: ConnectionProtocol | None = None
        """A connection of the peer that was admitted while one of our own still waits for it."""
        self.over = False

    def undecided(self) -> bool:
        """True if a connection that we dialled is authenticated and not admitted yet."""
        links = [attempt.link for attempt in self.running.values() if attempt.link is not None]
        return any(link.peer is not None and not link.admitted and not link.connection.closed for link in links)

    def add(self, addresses: Sequence[Multiaddr], *, public_only: bool = False) -> None:
        """More addresses for a dial that may be under way; `public_only` is about what names lead to."""
        usable: list[Multiaddr] = []
        # A resolver may answer at once: the dial must not end before all addresses are looked at.
        self.resolving += 1
        for address in addresses:
            if address in self.seen:
                continue
            self.seen.add(address)
            named = address.peer_id()
            if self.peer is not None and named is not None and named != self.peer:
                self.failures.append((address, f"it names another peer than {self.peer}"))
            elif address.tcp_endpoint() is None:
                self.failures.append((address, "not an address of plain TCP"))
            elif address.ip() is None:
                self.resolving += 1
                self.dialer.resolve(self, address, public_only=public_only)
            else:
                usable.append(address)
        self.resolving -= 1
        self.line_up(usable)

    def line_up(self, addresses: Sequence[Multiaddr]) -> None:
        """IP addresses, in the order to be tried. Without a peer they keep the id they name: it is expected there."""
        ordered = rank(addresses) if self.peer is not None else addresses
        self.pending.extend(a for a in ordered if a not in self.pending and a not in self.running)


class PeerDialer:
    """`reactor` is IReactorTCP and IReactorTime, and resolves names."""

    def __init__(
        self, reactor: Any, host: Dials, limits: HostLimits, backoffs: Backoffs, counters: TransportCounters
    ) -> None:
        self.reactor = reactor
        self._host = host
        self._limits = limits
        self._backoffs = backoffs
        self._counters = counters
        self._dials: dict[PeerId, PeerDial] = {}
        self._anonymous: dict[PeerDial, None] = {}
        self._attempts: dict[Link, DialAttempt] = {}
        self._slots = limits.max_dials
        self._queue: deque[PeerDial] = deque()

    def dial(
        self,
        peer: PeerId | None,
        addresses: Sequence[Multiaddr],
        known: Sequence[Multiaddr] = (),
        *,
        public: bool = False,
    ) -> Deferred[Connection]:
        """Without a `peer`, anybody at one of `addresses`, each of which may name another. `known` come from the peer
        store; names among them that the public network gave us (`public`) are not dialled where they lead to private
        addresses."""
        dial = self._dials.get(peer) if peer is not None else None
        if dial is None:
            dial = PeerDial(self, peer)
            if peer is not None:
                self._dials[peer] = dial
            else:
                self._anonymous[dial] = None

        def cancelled(waiter: Deferred[Connection]) -> None:
            dial.waiters.remove(waiter)
            if not dial.waiters:
                self._finish(dial, DialAbandoned("nobody waits for this dial any more"))

        waiter: Deferred[Connection] = Deferred(cancelled)
        dial.waiters.append(waiter)
        dial.resolving += 1  # the dial must not end between the two
        dial.add(addresses)
        dial.add(known, public_only=public)
        dial.resolving -= 1
        self._advance(dial)
        return waiter

    def stop(self) -> None:
        """Every dial under way fails."""
        for dial in [*self._dials.values(), *self._anonymous]:
            self._finish(dial, DialAbandoned("the node stops"))

    # Events of the host's connections

    def secured(self, link: Link) -> None:
        """The peer of a dialled connection is who it should be; the dial's other attempts are over."""
        attempt = self._attempts.get(link)
        if attempt is None:
            return
        self._counters.connected += 1
        self._counters.seconds += self.reactor.seconds() - attempt.started
        self._backoffs.succeeded(attempt.dial.peer, attempt.address)
        self._free(attempt)
        dial = attempt.dial
        dial.pending.clear()
        for other in list(dial.running.values()):
            if other is not attempt:
                self._abandon(other)

    def admitted(self, link: Link, stays: ConnectionProtocol) -> None:
        """A connection was admitted; `stays` is the one that the pair keeps."""
        assert link.peer is not None
        dial = self._dials.get(link.peer)
        if dial is not None:
            dial.found = stays
            self._advance(dial)
        attempt = self._attempts.get(link)
        if attempt is not None and attempt.dial is not dial:
            self._finish(attempt.dial, stays)

    def closed(self, link: Link, error: ChorusError | None) -> None:
        attempt = self._attempts.pop(link, None)
        if attempt is not None and not attempt.over:
            text, code = ("the peer closed the connection", "closed") if error is None else (str(error), reason(error))
            self._failed(attempt, text, code)
        if link.peer is not None and (dial := self._dials.get(link.peer)) is not None:
            self._advance(dial)

    # Names

    def resolve(self, dial: PeerDial, address: Multiaddr, *, public_only: bool) -> None:
        """Look a name up; its addresses join the dial's."""
        host, port = address.tcp_endpoint() or ("", 0)
        named = address.peer_id()

        def resolved(hosts: Sequence[str]) -> None:
            dial.resolving -= 1
            if not hosts:
                self._refuse(dial, address, "unknown_name", "the name cannot be resolved")
            found = [Multiaddr.tcp(host, port) for host in hosts]
            if public_only and any(a.is_private for a in found):
                self._refuse(dial, address, "private_name", "a public peer's name for a private address")
                found = [a for a in found if not a.is_private]
            dial.line_up([a.with_peer(named) for a in found] if named is not None else found)
            self._advance(dial)

        look_up(self.reactor, host, address.parts[0][0], resolved)

    # Attempts

    def _advance(self, dial: PeerDial) -> None:
        """Start what may start; finish when nothing is left to hope for."""
        if dial.over:
            return
        if dial.found is not None and not dial.found.closed:
            # Of simultaneous dials one connection stays; whoever waits gets that one.
            if not dial.undecided():
                self._finish(dial, dial.found)
            return
        if dial.peer is not None and self._host.settling(dial.peer):
            return
        while dial.pending and not dial.running:
            if not self._start(dial):
                return
        if dial.pending and not dial.stagger.armed and len(dial.running) < self._limits.max_dials_per_peer:
            dial.stagger.arm(STAGGER)
        if not dial.pending and not dial.running and not dial.resolving:
            self._finish(dial, None)

    def stagger(self, dial: PeerDial) -> None:
        """Its next address need not wait for the one before any longer. Called by the dial's timer."""
        if not dial.over and dial.pending:
            self._start(dial)
            self._advance(dial)

    def _start(self, dial: PeerDial) -> bool:
        """Try the next address; false when the dial has to wait for its turn."""
        if self._slots <= 0:
            if dial not in self._queue:
                self._queue.append(dial)
            return False
        address = dial.pending.popleft()
        now = self.reactor.seconds()
        expected = dial.peer if dial.peer is not None else address.peer_id()
        if expected == self._host.peer_id:
            self._refuse(dial, address, "self_dial", "this is the node itself")
            return True
        if wait := self._backoffs.waiting(dial.peer, address, now):
            self._refuse(dial, address, "backoff", f"it failed lately and is left alone for {wait:.1f} s more")
            return True
        attempt = DialAttempt(dial, address, expected, now)
        try:
            attempt.place = self._host.enter(address)
        except LimitExceeded as error:
            self._refuse(dial, address, error.limit, str(error))
            return True
        self._slots -= 1
        self._counters.dialled += 1
        dial.running[address] = attempt
        endpoint = address.tcp_endpoint()
        assert endpoint is not None
        host, port = endpoint
        attempt.connector = self.reactor.connectTCP(host, port, attempt, timeout=dial_timeout(address))
        return True

    def _refuse(self, dial: PeerDial, address: Multiaddr, code: str, why: str) -> None:
        self._counters.failed[code] += 1
        dial.failures.append((address, why))

    def connected(self, attempt: DialAttempt) -> Link | None:
        """TCP is there. Called by the attempt."""
        if attempt.over or attempt.place is None:
            return None
        link = self._host.outbound(attempt.address, attempt.expected, attempt.place)
        self._attempts[link] = attempt
        return link

    def not_connected(self, attempt: DialAttempt, failure: Failure) -> None:
        """TCP did not come about. Called by the attempt."""
        if attempt.place is not None:
            self._host.leave(attempt.place)
            attempt.place = None
        if not attempt.over:
            code, text = describe(failure.value)
            self._failed(attempt, text, code)

    def _failed(self, attempt: DialAttempt, why: str, code: str) -> None:
        attempt.over = True
        self._counters.failed[code] += 1
        dial = attempt.dial
        dial.running.pop(attempt.address, None)
        dial.failures.append((attempt.address, why))
        self._backoffs.failed(dial.peer, attempt.address, self.reactor.seconds())
        self._free(attempt)
        self._advance(dial)

    def _abandon(self, attempt: DialAttempt) -> None:
        """Stop it without counting it as a failure of its address."""
        attempt.over = True
        attempt.dial.running.pop(attempt.address, None)
        if attempt.link is not None:
            attempt.link.connection.close(DialAbandoned("another connection was there first"))
        elif attempt.connector is not None:
            attempt.connector.stopConnecting()
        self._free(attempt)

    def _free(self, attempt: DialAttempt) -> None:
        if not attempt.holds_slot:
            return
        attempt.holds_slot = False
        self._slots += 1
        while self._queue and self._slots > 0:
            dial = self._queue.popleft()
            if not dial.over:
                self.reactor.callLater(0, self._advance, dial)
                break

    def _finish(self, dial: PeerDial, result: Connection | ChorusError | None) -> None:
        """`None`: no address led to the peer."""
        if dial.over:
            return
        dial.over = True
        dial.stagger.cancel()
        if dial.peer is not None:
            del self._dials[dial.peer]
        else:
            del self._anonymous[dial]
        found = result is not None and not isinstance(result, ChorusError)
        for attempt in list(dial.running.values()):
            if found and attempt.link is not None and attempt.link.peer is not None:
                # The other side may be about to admit this one: which of the two stays is decided when both are.
                attempt.over = True
                self._free(attempt)
            else:
                self._abandon(attempt)
        waiters, dial.waiters = dial.waiters, []
        for waiter in waiters:
            if isinstance(result, ChorusError):
                waiter.errback(result)
            elif result is None:
                waiter.errback(DialError(dial.peer, dial.failures))
            else:
                waiter.callback(result)
