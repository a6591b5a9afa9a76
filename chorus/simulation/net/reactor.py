"""The reactor of one node: its clock, its timers and its part of the network.

A node that is paused does nothing: what is due waits, and happens late and together when it goes on. A node that was
killed does nothing ever again; whoever restarts it gives it a new reactor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import (
    IDelayedCall,
    IHostnameResolver,
    IHostResolution,
    IListeningPort,
    IReactorTCP,
    IReactorTime,
    IReactorUDP,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from chorus.simulation.clock import NodeClock
from chorus.simulation.net.connecting import Port, SimConnector
from chorus.simulation.net.datagrams import SimUDPPort
from chorus.simulation.net.network import SimHost, SimNet
from chorus.simulation.world import MILLISECOND, SECOND, World

if TYPE_CHECKING:
    from twisted.internet.interfaces import IResolutionReceiver
    from twisted.internet.protocol import ClientFactory, DatagramProtocol, Factory

TURN: Final = 1_000
"""Nanoseconds of true time until a call without delay happens: one turn of a reactor costs something, so a loop of
such calls cannot stop the world's clock."""

THREAD_MAX: Final = 20 * MILLISECOND
"""Nanoseconds that a call in a thread takes at most."""


@implementer(IDelayedCall)
class SimDelayedCall:
    """Cancelled and reset lazily: its place in the heap stays, and finds out when its time comes."""

    __slots__ = ("_args", "_due", "_function", "_kwargs", "_place", "_reactor", "called", "cancelled")

    def __init__(
        self, reactor: SimReactor, due: int, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.called = False
        self.cancelled = False
        self._reactor = reactor
        self._due = due
        self._function = function
        self._args = args
        self._kwargs = kwargs
        self._place = -1
        """True time of the place in the heap that counts; older ones are passed over."""

    def __repr__(self) -> str:
        name = getattr(self._function, "__qualname__", repr(self._function))
        return f"<{name} at {self.getTime():.3f} s of the node's clock>"

    def __call__(self) -> None:
        """The world has come to a place of this call in its heap."""
        reactor = self._reactor
        now = reactor.world.now_ns
        if now != self._place or self.called or self.cancelled:
            return
        if reactor.paused_until > now:
            self._wait(reactor.paused_until)
            return
        if reactor.clock.node_ns < self._due:
            self._wait(reactor.clock.true_ns(self._due))
            return
        self.called = True
        reactor.forget(self)
        if reactor.alive:
            reactor.guard(self._function, *self._args, **self._kwargs)

    def _wait(self, true_ns: int) -> None:
        self._place = true_ns = max(true_ns, self._reactor.world.now_ns + TURN)
        self._reactor.world.at(true_ns, self, self._reactor.lane)

    def start(self) -> None:
        self._wait(self._reactor.clock.true_ns(self._due))

    # IDelayedCall

    def getTime(self) -> float:
        return self._due / SECOND

    def active(self) -> bool:
        return not (self.called or self.cancelled)

    def cancel(self) -> None:
        self._must_be_active()
        self.cancelled = True
        self._reactor.forget(self)

    def reset(self, secondsFromNow: float) -> None:
        self._must_be_active()
        self._move(self._reactor.clock.node_ns + round(secondsFromNow * SECOND))

    def delay(self, secondsLater: float) -> None:
        self._must_be_active()
        self._move(self._due + round(secondsLater * SECOND))

    def _move(self, due: int) -> None:
        earlier = due < self._due
        self._due = due
        if earlier:
            self._wait(self._reactor.clock.true_ns(due))

    def _must_be_active(self) -> None:
        if self.called:
            raise AlreadyCalled
        if self.cancelled:
            raise AlreadyCancelled


@implementer(IReactorTime, IReactorTCP, IReactorUDP)
class SimReactor:
    """`lane` names the node to the world. `host` is its place in the network; without one there are only timers."""

    _log = Logger()

    def __init__(
        self, world: World, clock: NodeClock | None = None, host: SimHost | None = None, lane: int = 0
    ) -> None:
        self.world = world
        self.clock = clock or NodeClock(world)
        self.host = host
        self.lane = lane
        self.alive = True
        self.paused_until = 0
        """True time."""
        self.errors = 0
        """Exceptions that reached the reactor: each is a bug, and logged."""
        self._calls: dict[SimDelayedCall, None] = {}
        self._late: deque[Callable[[], object]] = deque()
        self._threads = world.rng("threads", lane)

    # IReactorTime

    def seconds(self) -> float:
        return self.clock.node_ns / SECOND

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **kw: Any) -> SimDelayedCall:
        if delay < 0:
            raise ValueError(f"a delay of {delay} s")
        call = SimDelayedCall(self, self.clock.node_ns + round(delay * SECOND), callable, args, kw)
        self._calls[call] = None
        call.start()
        return call

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """Those that wait: none should when a node has stopped."""
        return list(self._calls)

    def forget(self, call: SimDelayedCall) -> None:
        self._calls.pop(call, None)

    # The rest of a reactor that services use

    def callWhenRunning(self, callable: Callable[..., Any], *args: Any, **kw: Any) -> None:
        self.callLater(0, callable, *args, **kw)

    def callFromThread(self, callable: Callable[..., Any], *args: Any, **kw: Any) -> None:
        self.callLater(0, callable, *args, **kw)

    def in_thread(self, function: Callable[..., Any], *args: Any, **kw: Any) -> Deferred[Any]:
        """Stands in for `deferToThread`: the call happens here, in one piece, after a drawn delay."""
        done: Deferred[Any] = Deferred()

        def run() -> None:
            try:
                outcome = function(*args, **kw)
            except Exception:
                done.errback(Failure())  # type: ignore[no-untyped-call]
            else:
                done.callback(outcome)

        self.callLater(self._threads.randrange(1, THREAD_MAX) / SECOND, run)
        return done

    @property
    def nameResolver(self) -> IHostnameResolver:
        return _Resolver(self._host().net, self)

    # IReactorTCP, IReactorUDP

    def listenTCP(self, port: int, factory: Factory, backlog: int = 50, interface: str = "") -> Port:
        """Raises `CannotListenError` for a port that is taken."""
        host = self._host()
        number = host.claim(port, host.listeners, interface)
        listener = host.listeners[number] = Port(host, self, number, factory)
        listener.startListening()
        return listener

    def connectTCP(
        self, host: str, port: int, factory: ClientFactory[Any], timeout: float = 30, bindAddress: Any = None
    ) -> SimConnector:
        connector = SimConnector(self._host(), host, port, factory, timeout, self)
        connector.connect()
        return connector

    def listenUDP(
        self, port: int, protocol: DatagramProtocol, interface: str = "", maxPacketSize: int = 8192
    ) -> IListeningPort:
        """Raises `CannotListenError` for a port that is taken."""
        host = self._host()
        number = host.claim(port, host.datagram_ports, interface)
        opened = host.datagram_ports[number] = SimUDPPort(host, self, number, protocol, maxPacketSize)
        opened.startListening()
        return cast("IListeningPort", opened)

    def _host(self) -> SimHost:
        if self.host is None:
            raise RuntimeError("this reactor has no network")
        return self.host

    # Calls of the simulation

    def guard(self, function: Callable[..., Any], *args: Any, **kw: Any) -> None:
        """Call into the node; an exception is logged, as any reactor does, and counted."""
        try:
            function(*args, **kw)
        except Exception:
            self.errors += 1
            self._log.failure("unhandled in the simulated reactor")

    def enter(self, call: Callable[[], object]) -> None:
        """Something from outside reaches the node: now, after its pause, or never when it is dead."""
        if not self.alive:
            return
        if self.paused_until > self.world.now_ns or self._late:
            self._late.append(call)
        else:
            self.guard(call)

    def pause(self, ns: int) -> None:
        """The whole machine stands still for `ns` of true time."""
        self.paused_until = max(self.paused_until, self.world.now_ns + ns)
        self.world.at(self.paused_until, self._resume, self.lane)

    def _resume(self) -> None:
        if self.world.now_ns < self.paused_until:
            return
        while self._late and self.alive:
            self.guard(self._late.popleft())

    def kill(self) -> None:
        """Nothing happens in this reactor any more."""
        self.alive = False
        self._calls.clear()
        self._late.clear()


@implementer(IHostResolution)
class _Resolution:
    def __init__(self, name: str) -> None:
        self.name = name

    def cancel(self) -> None:
        """Answers come in the next turn: there is nothing to stop."""


@implementer(IHostnameResolver)
class _Resolver:
    def __init__(self, net: SimNet, reactor: SimReactor) -> None:
        self._net = net
        self._reactor = reactor

    def resolveHostName(  # type: ignore[no-untyped-def]
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName,
        portNumber=0,
        addressTypes=None,
        transportSemantics="TCP",
    ) -> IHostResolution:
        resolution = _Resolution(hostName)
        self._reactor.callLater(0, self._answer, resolutionReceiver, resolution, portNumber)
        return resolution

    def _answer(self, receiver: IResolutionReceiver, resolution: _Resolution, port: int) -> None:
        receiver.resolutionBegan(resolution)
        for ip in self._net.names.get(resolution.name, ()):
            receiver.addressResolved(IPv4Address("TCP", ip, port))
        receiver.resolutionComplete()
