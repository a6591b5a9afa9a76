"""Presence: a node says how much it has to do and what it can, and keeps what the others said (spec/system.md 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs
from twisted.application.service import Service
from twisted.logger import Logger

from chorus.messages import (
    COORDINATION,
    AvailabilityBcast,
    CapabilityBcast,
    Envelope,
    Payload,
    RoleAnnouncement,
)
from chorus.messages.topics import STATIC, profile_topics
from chorus.tasks.scoring import Candidate

if TYPE_CHECKING:
    from twisted.internet.interfaces import IDelayedCall, IReactorTime

    from chorus.identity import PeerId
    from chorus.services.messaging import Messaging
    from chorus.services.pubsub.service import PubSubService
    from chorus.services.pubsub.topics import Received
    from chorus.services.starts import Starts

AVAILABILITY_S: Final = 30.0
CAPABILITY_S: Final = 300.0
STATUS_S: Final = 60.0

CHANGE_S: Final = 1.0
"""Seconds between two broadcasts of one kind, however often the load changes."""

ARRIVAL_S: Final = 1.0
"""Seconds, at least, that newcomers are gathered before everything is said again for them."""

ARRIVAL_RATE: Final = 50.0
"""Broadcasts a second that newcomers may cause of one kind in the whole mesh: all nodes may see somebody come."""

FRESH_S: Final = 3 * AVAILABILITY_S + 5
"""Seconds after which an availability counts no more: three broadcasts missed."""

FORGET_S: Final = 3 * CAPABILITY_S
"""Seconds after which a silent node leaves the view."""

MAX_NODES: Final = 4096
"""Nodes in the view; the one heard of longest ago leaves first."""


def gather_time(nodes: int) -> float:
    """Seconds that newcomers are gathered in a mesh of `nodes`, so that a start of all of them is no storm."""
    return ARRIVAL_S + nodes / ARRIVAL_RATE


@attrs.frozen
class Profile:
    """What a node is."""

    agent_id: str
    version: str
    role: str | None = None
    reports_to: str | None = None
    specialization: str = "general"
    expertise: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    models: tuple[str, ...] = ()


@attrs.frozen
class Load:
    """What a node has to do right now."""

    current_tasks: int
    max_tasks: int
    accepting: bool = True
    """False while it drains, or has nothing to run tasks in."""
    last_activity: float = 0.0
    """Unix seconds when a task last began or ended; 0 before the first since the start."""

    @property
    def status(self) -> str:
        # At the maximum comes first: whoever executes nothing (0 of 0) is always there, and never ready.
        if self.current_tasks >= self.max_tasks:
            return "busy"
        return "working" if self.current_tasks else "ready"

    @property
    def available(self) -> bool:
        return self.accepting and self.current_tasks < self.max_tasks


@attrs.frozen
class NodePresence:
    """What one other node last said of itself."""

    peer: PeerId
    heard_at: float
    """Steady seconds of the last message of any kind."""
    availability: AvailabilityBcast | None = None
    availability_at: float = 0.0
    capability: CapabilityBcast | None = None
    role: RoleAnnouncement | None = None
    orders: tuple[int, int, int] = (0, 0, 0)
    """Sequence numbers of the three: gossip can bring an older message after a newer one."""


class PresenceView:
    """The other nodes' last words: bounded, and forgotten when they fall silent."""

    def __init__(self, clock: Callable[[], float], connected: Callable[[PeerId], bool] = lambda peer: False) -> None:
        self._clock = clock
        self._connected = connected
        self._nodes: dict[bytes, NodePresence] = {}
        """Ordered by when each was last heard of."""

    def heard(self, envelope: Envelope, received: Received) -> bool:
        """Keep a payload; whether it changed what a scheduler may decide."""
        now = self._clock()
        key = received.from_peer.raw
        order = int.from_bytes(received.id[-8:], "big")
        node = self._nodes.get(key) or NodePresence(received.from_peer, now)
        availability, capability, role = node.orders
        payload = envelope.data
        before = self._decides(node, now)
        if isinstance(payload, AvailabilityBcast) and order > availability:
            node = attrs.evolve(
                node, availability=payload, availability_at=now, orders=(order, capability, role), heard_at=now
            )
        elif isinstance(payload, CapabilityBcast) and order > capability:
            node = attrs.evolve(node, capability=payload, orders=(availability, order, role), heard_at=now)
        elif isinstance(payload, RoleAnnouncement) and order > role:
            node = attrs.evolve(node, role=payload, orders=(availability, capability, order), heard_at=now)
        else:
            return False
        self._nodes.pop(key, None)
        self._nodes[key] = node
        if len(self._nodes) > MAX_NODES:
            # Who is connected stays, however many others are heard of.
            oldest = (key for key, node in self._nodes.items() if not self._connected(node.peer))
            del self._nodes[next(oldest, next(iter(self._nodes)))]
        return self._decides(node, now) != before

    def expire(self) -> None:
        """Forget nodes silent for `FORGET_S`."""
        limit = self._clock() - FORGET_S
        for key in [key for key, node in self._nodes.items() if node.heard_at < limit]:
            del self._nodes[key]

    def node(self, peer: PeerId) -> NodePresence | None:
        return self._nodes.get(peer.raw)

    def __len__(self) -> int:
        return len(self._nodes)

    def nodes(self) -> list[NodePresence]:
        """Everybody heard of, by peer id."""
        return [self._nodes[key] for key in sorted(self._nodes)]

    def candidates(self) -> list[Candidate]:
        """Nodes fit to be scored: their capabilities are known and their availability is fresh. By peer id; not
        ourselves. `available` is false for those that are full or draining."""
        found = map(self.candidate, self.nodes())
        return [candidate for candidate in found if candidate is not None]

    def candidate(self, node: NodePresence) -> Candidate | None:
        """A node as the scorer sees it; None while its capabilities are not known or its availability is not fresh."""
        capability, availability = node.capability, node.availability
        if capability is None or availability is None or not self._fresh(node, self._clock()):
            return None
        return Candidate(
            peer=str(node.peer),
            role=node.role.role if node.role is not None else None,
            expertise=frozenset(capability.expertise),
            capabilities=frozenset(capability.capabilities),
            specialisation=capability.specialization or None,
            current_tasks=availability.current_tasks,
            max_tasks=availability.max_tasks,
            available=availability.available_for_work,
            models=bool(capability.models),
        )

    @staticmethod
    def _fresh(node: NodePresence, now: float) -> bool:
        return node.availability is not None and now - node.availability_at <= FRESH_S

    def _decides(self, node: NodePresence, now: float) -> tuple[object, ...]:
        """The part of a node's words that can change where a task goes."""
        availability, capability = node.availability, node.capability
        return (
            (
                self._fresh(node, now) and availability.available_for_work,
                availability.current_tasks,
                availability.max_tasks,
            )
            if availability is not None
            else None,
            (capability.expertise, capability.capabilities, capability.specialization, capability.models)
            if capability is not None
            else None,
            node.role.role if node.role is not None else None,
        )


class PresenceService(Service):
    """Says who we are and what we do; `view` holds what the others said.

    `load` is asked whenever something is said. Call `load_changed` when it changes; a broadcast follows within
    `CHANGE_S`. `starts`: which start of the node this is, and those of others.
    """

    _log = Logger()

    def __init__(
        self,
        messaging: Messaging,
        pubsub: PubSubService,
        clock: IReactorTime,
        profile: Profile,
        load: Callable[[], Load],
        starts: Starts | None = None,
    ) -> None:
        self._starts = starts
        self.view = PresenceView(clock.seconds, pubsub.is_connected)
        self.errors = 0
        """Periodic bodies and watchers that failed (each is logged)."""
        self._messaging = messaging
        self._pubsub = pubsub
        self._clock = clock
        self._profile = profile
        self._load = load
        self._timers: dict[str, IDelayedCall] = {}
        self._said: dict[str, float] = {}
        """When each kind was last said."""
        self._watchers: list[Callable[[], None]] = []
        self._take_part()
        for payload in (AvailabilityBcast, CapabilityBcast, RoleAnnouncement):
            messaging.listen(payload, self._heard)
        pubsub.watch_arrivals(self._arrived)

    @property
    def profile(self) -> Profile:
        return self._profile

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._repeat("capability", CAPABILITY_S, self._say_capability)
        self._repeat("role", CAPABILITY_S, self._say_role)
        self._repeat("availability", AVAILABILITY_S, self._say_availability)
        self._after("status", STATUS_S, lambda: self._repeat("status", STATUS_S, self._status))

    def stopService(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        for timer in self._timers.values():
            if timer.active():
                timer.cancel()
        self._timers.clear()

    def watch(self, changed: Callable[[], None]) -> None:
        """Hear when what is known of the others changes where a task could go."""
        self._watchers.append(changed)

    def load_changed(self) -> None:
        """The number of tasks, or whether more are taken, changed."""
        self._soon("availability", AVAILABILITY_S, self._say_availability)

    def update(self, profile: Profile) -> None:
        """Be something else: what changed is said at once (within `CHANGE_S`)."""
        before, self._profile = self._profile, profile
        self._take_part()
        if attrs.evolve(before, role=profile.role, reports_to=profile.reports_to) != profile:
            self._soon("capability", CAPABILITY_S, self._say_capability)
        if before != profile:
            self._soon("role", CAPABILITY_S, self._say_role)

    def _take_part(self) -> None:
        """Be on the static topics and on those of the profile."""
        profile = self._profile
        wanted = profile_topics(
            role=profile.role,
            expertise=profile.expertise,
            reports_to=profile.reports_to,
            agent_id=profile.agent_id,
        )
        if wanted.left_out:
            self._log.warn(
                "no topic is joined for {names}: they are too long, or too many",
                event="topics.left_out",
                names=", ".join(wanted.left_out),
            )
        self._messaging.take_part([*STATIC, *wanted.topics])

    # What we say

    def _say_availability(self) -> None:
        load = self._load()
        self._say(
            AvailabilityBcast(
                node_id=str(self._messaging.peer_id),
                available_for_work=load.available,
                current_tasks=load.current_tasks,
                max_tasks=load.max_tasks,
                last_activity=int(load.last_activity),
                status=load.status,
                timestamp=self._messaging.now(),
                start=None if self._starts is None else self._starts.text(),
            )
        )

    def _say_capability(self) -> None:
        profile, load = self._profile, self._load()
        self._say(
            CapabilityBcast(
                agent_id=profile.agent_id,
                node_id=str(self._messaging.peer_id),
                version=profile.version,
                capabilities=profile.capabilities,
                expertise=profile.expertise,
                models=profile.models,
                specialization=profile.specialization,
                max_tasks=load.max_tasks,
                current_tasks=load.current_tasks,
                timestamp=self._messaging.now(),
                availability=load.status,
            )
        )

    def _say_role(self) -> None:
        profile = self._profile
        if profile.role is None:
            return
        self._say(
            RoleAnnouncement(
                agent_id=profile.agent_id,
                node_id=str(self._messaging.peer_id),
                role=profile.role,
                expertise=profile.expertise,
                capabilities=profile.capabilities,
                reports_to=profile.reports_to,
                specialization=profile.specialization,
                timestamp=self._messaging.now(),
            )
        )

    def _say(self, payload: Payload) -> None:
        self._messaging.say(payload)

    def _status(self) -> None:
        """The line of every minute; the view ages with it."""
        self.view.expire()
        load = self._load()
        counters = self._pubsub.counters()
        self._log.info(
            "{agent} {status}; tasks: {current} of {max}; peers: {peers}; nodes known: {nodes}; messages sent: {sent}, "
            "received: {received}",
            event="status",
            agent=self._profile.agent_id,
            role=self._profile.role,
            status=load.status,
            current=load.current_tasks,
            max=load.max_tasks,
            peers=len(self._pubsub.peers()),
            nodes=len(self.view),
            sent=counters["sent"],
            received=counters["received"],
        )

    # What we hear

    def _heard(self, envelope: Envelope, received: Received) -> None:
        payload = envelope.data
        if self._starts is not None and isinstance(payload, AvailabilityBcast) and payload.start is not None:
            self._starts.heard(received.from_peer, payload.start)
        if self.view.node(received.from_peer) is None:
            # A newcomer that is connected to others alone: it does not know us either, as its own neighbours' would.
            self._arrived(received.from_peer, COORDINATION)
        if self.view.heard(envelope, received):
            for changed in self._watchers:
                self._guarded("watcher of presence", changed)

    def _arrived(self, peer: PeerId, topic: str) -> None:
        """A newcomer does not know what we said before it came. Those who come close together are told together."""
        if topic != COORDINATION:
            return
        gather = gather_time(len(self.view))
        for kind, interval, say in (
            ("capability", CAPABILITY_S, self._say_capability),
            ("role", CAPABILITY_S, self._say_role),
            ("availability", AVAILABILITY_S, self._say_availability),
        ):
            self._soon(kind, interval, say, gather)

    # Time

    def _repeat(self, kind: str, interval: float, body: Callable[[], None]) -> None:
        """Run `body` now and again every `interval` seconds, whatever it raises."""
        self._after(kind, interval, lambda: self._repeat(kind, interval, body))
        self._said[kind] = self._clock.seconds()
        self._guarded(kind, body)

    def _soon(self, kind: str, interval: float, body: Callable[[], None], gather: float = 0.0) -> None:
        """Run `body` as soon as its rate allows, and its period from there."""
        if not self.running:
            return
        now = self._clock.seconds()
        due = max(now + gather, self._said.get(kind, now - CHANGE_S) + CHANGE_S)
        timer = self._timers.get(kind)
        if timer is not None and timer.active() and timer.getTime() <= due:
            return
        if due <= now:
            self._repeat(kind, interval, body)
        else:
            self._after(kind, due - now, lambda: self._repeat(kind, interval, body))

    def _after(self, kind: str, seconds: float, call: Callable[[], None]) -> None:
        timer = self._timers.get(kind)
        if timer is not None and timer.active():
            timer.cancel()
        self._timers[kind] = self._clock.callLater(seconds, call)

    def _guarded(self, kind: str, body: Callable[[], None]) -> None:
        try:
            body()
        except Exception:
            self.errors += 1
            self._log.failure("presence: {kind} failed", kind=kind)
