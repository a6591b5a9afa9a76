"""A whole node in the simulated world: its own identity, host and pub/sub, started, killed and started again.

The host, its admission and the router are the real ones. A restart keeps what a machine keeps: address,
identity, clock and disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure

from chorus.errors import ChorusError
from chorus.identity import Identity, PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.connection.core import MakeHandshake
from chorus.protocols.connection.limits import ConnectionLimits
from chorus.protocols.gossipsub.params import GossipParams
from chorus.protocols.limits import HostLimits
from chorus.services.p2p.admission import AdmissionService
from chorus.services.p2p.gate import OpenAdmission
from chorus.services.p2p.host import P2PService
from chorus.services.p2p.settings import HostSettings
from chorus.services.pubsub.seqno import begin
from chorus.services.pubsub.service import PubSubService
from chorus.services.pubsub.settings import PubSubSettings
from chorus.simulation.clock import NodeClock
from chorus.simulation.disk import DiskFaults, SimDisk
from chorus.simulation.net.network import SimNet
from chorus.simulation.net.reactor import SimReactor
from chorus.simulation.security import SeededNoise, plain
from chorus.simulation.tap import Sink, TappedHost
from chorus.simulation.world import SECOND, World

if TYPE_CHECKING:
    from chorus.protocols.stream import Host

PORT: Final = 4001

DIAL_INTERVAL: Final = 2.0
"""Seconds between looks at which neighbours are missing."""

MAX_OFFSET: Final = 1000 * SECOND
"""Nanoseconds by which boot clocks differ: machines were not switched on together."""


@attrs.frozen(kw_only=True)
class NodeOptions:
    """Options that all nodes of a run share."""

    plain_security: bool = False
    """Tier C: no cryptography on the connections."""
    secret: bytes = b"the secret of a simulated cluster"
    """Empty for open mode."""
    drift: int = 100_000
    """Parts in a billion by which a clock is wrong at most (100 ppm: the worst quartz)."""
    gossip: GossipParams = attrs.field(factory=GossipParams)
    limits: HostLimits = attrs.field(factory=HostLimits)
    connections: ConnectionLimits | None = None
    disk: DiskFaults = attrs.field(factory=DiskFaults)
    tapped: bool = True
    """Observers see what pub/sub peers send each other; costs a copy a byte."""


@attrs.frozen
class _Cluster:
    """A cluster, as admission needs it."""

    secret: bytes
    cluster_id: bytes | None = None

    def meet(self, theirs: bytes) -> None:
        """Everybody here is of the same cluster."""


def ip_of(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


class SimNode:
    """`neighbours` are the nodes that it keeps connections to."""

    honest = True

    def __init__(self, world: World, net: SimNet, number: int, options: NodeOptions) -> None:
        self.world = world
        self.net = net
        self.number = number
        self.options = options
        keys = world.rng("keys", number)
        self.identity = Identity.generate(keys.randbytes)
        self.security: MakeHandshake = plain(keys) if options.plain_security else SeededNoise(self.identity, keys)
        self.host = net.add_host(ip_of(number + 1), number)
        error = world.rng("clock", number)
        self.clock = NodeClock(
            world,
            offset_ns=error.randrange(MAX_OFFSET),
            drift=error.randint(-options.drift, options.drift),
            wall_offset_ns=error.randint(-SECOND, SECOND),
        )
        self.disk = SimDisk(world.rng("disk", number), options.disk, self._disk_used)
        self._seqno = 0
        """The floor in the data directory (`chorus.services.pubsub.seqno`), always synced before it is used."""
        self.neighbours: list[SimNode] = []
        self.starts = 0
        self.running = False
        self.started_ns = 0
        """True time of the last start."""
        self.listen: Callable[[SimNode, PeerId], Sink] = _deaf
        """Gives what hears a new pub/sub stream, from whom; observers set it."""
        self.when_started: list[Callable[[SimNode], None]] = []
        """Parts besides host and pub/sub; called at each start."""
        self.reactor: SimReactor
        self.p2p: P2PService
        self.pubsub: PubSubService

    def __repr__(self) -> str:
        return f"<node {self.number}>"

    @property
    def peer_id(self) -> PeerId:
        return self.identity.peer_id

    @property
    def address(self) -> Multiaddr:
        return Multiaddr.tcp(self.host.ip, PORT).with_peer(self.peer_id)

    def _disk_used(self, operation: str, name: str, data: bytes) -> None:
        self.net.record(self.number, f"disk {operation}", name.encode() + b"\0" + data)

    # Life

    def start(self) -> None:
        self.starts += 1
        self.running = True
        self.started_ns = self.world.now_ns
        self.host.down = False
        self.reactor = SimReactor(self.world, self.clock, self.host, self.number)
        self.reactor.guard(self._start)

    def _start(self) -> None:
        reactor, options = self.reactor, self.options
        rng = self.world.rng("protocol", self.number, self.starts)
        admission = AdmissionService(self.peer_id, _Cluster(options.secret), reactor) if options.secret else None
        self.p2p = P2PService(
            reactor,
            self.identity,
            admission=admission or OpenAdmission(),
            settings=HostSettings(
                listen=[Multiaddr.tcp(self.host.ip, PORT)],
                open_mode=admission is None,
                limits=options.limits,
                connections=options.connections,
                security=self.security,
                wall_ns=self.clock.wall_ns,
            ),
            rng=rng,
            random_bytes=rng.randbytes,
        )
        host: Host = self.p2p
        if options.tapped:
            host = TappedHost(self.p2p, lambda peer: self.listen(self, peer))
        self.pubsub = self.make_pubsub(host, rng)
        self.p2p.startService()
        self.pubsub.startService()
        self._loop = LoopingCall(self._dial)
        self._loop.clock = reactor
        self._loop.start(DIAL_INTERVAL * (0.75 + rng.random() / 2)).addErrback(self._failed)
        for call in self.when_started:
            call(self)

    def make_pubsub(self, host: Host, rng: Any) -> PubSubService:
        # As the runtime does: in a cluster every member counts its messages up.
        settings = PubSubSettings(attrs.evolve(self.options.gossip, growing_seqno=bool(self.options.secret)))
        return PubSubService(
            host, self.identity, self.reactor, rng=rng, settings=settings, first_seqno=self._first_seqno
        )

    def _first_seqno(self) -> int:
        first, self._seqno = begin(self.clock.wall_ns(), self._seqno)
        return first

    def _failed(self, failure: Failure) -> None:
        self.reactor.guard(failure.raiseException)

    def _dial(self) -> None:
        for other in self.neighbours:
            # Of two neighbours one dials, unless it has not for a while: the other may be unable to.
            if self.p2p.connection(other.peer_id) is None:
                self.p2p.dial(other.peer_id, [other.address]).addErrback(expected)

    def stop(self) -> Deferred[None]:
        """An orderly stop, as SIGTERM asks for it; fires when nothing is left."""
        if not self.running:
            return succeed(None)
        self.running = False
        self._loop.stop()
        self.pubsub.stopService()
        return self.p2p.stopService()

    def kill(self, *, power: bool = False) -> None:
        """kill -9; with `power` the machine goes dark, the network hears nothing, and its disk forgets."""
        if not self.running:
            return
        self.running = False
        self.net.record(self.number, "power" if power else "kill")
        self.reactor.kill()
        self.host.crash(power=power)
        if power:
            self.disk.crash()

    def pause(self, seconds: float) -> None:
        if self.running:
            self.net.record(self.number, "pause")
            self.reactor.pause(round(seconds * SECOND))


def _deaf(node: SimNode, peer: PeerId) -> Sink:
    return lambda data: None


def expected(failure: Failure) -> None:
    """Dials and streams may fail; anything but the errors that they are documented to give is a bug."""
    failure.trap(ChorusError)  # type: ignore[no-untyped-call]
