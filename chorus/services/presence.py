"""Presence: publishes this node's load, capabilities and role, and keeps those of the others (spec/system.md 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs
from twisted.application.service import Service
from twisted.logger import Logger

from chorus.messages import COORDINATION, AvailabilityBcast, CapabilityBcast, Envelope, RoleAnnouncement
from chorus.messages.topics import STATIC, profile_topics
from chorus.tasks.scoring import Candidate
from chorus.timer import Periodic

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

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
"""Seconds, at least, that newcomers are gathered before everything is published again for them."""

ARRIVAL_RATE: Final = 50.0
"""Broadcasts a second that newcomers may cause of one kind in the whole mesh: all nodes may see somebody come."""

FRESH_S: Final = 3 * AVAILABILITY_S + 5
"""Seconds after which an availability counts no more: three broadcasts missed."""

FORGET_S: Final = 3 * CAPABILITY_S
"""Seconds after which a silent node leaves the view."""

MAX_NODES: Final = 4096
"""Nodes in the view; the one silent for longest leaves first."""


def gather_time(nodes: int) -> float:
    """Seconds that newcomers are gathered in a mesh of `nodes`, so that a start of all of them is no storm."""
    return ARRIVAL_S + nodes / ARRIVAL_RATE


@attrs.frozen
class Profile:
    """A node's identity, role and abilities."""

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
    """A node's tasks right now."""

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
    """The last messages of one other node on itself."""

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
    """Presence of the other nodes: bounded, and forgotten when they fall silent."""

    def __init__(self, clock: Callable[[], float], connected: Callable[[PeerId], bool] = lambda peer: False) -> None:
        self._clock = clock
        self._connected = connected
        self._nodes: dict[bytes, NodePresence] = {}
        """Ordered by the time of the last message of each."""

    def heard(self, envelope: Envelope, received: Received) -> bool:
        """Keep a payload; True if it changed what a scheduler may decide."""
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
            # Connected peers stay, however many others there are.
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
        """All of them, by peer id."""
        return [self._nodes[key] for key in sorted(self._nodes)]

    def candidates(self) -> list[Candidate]:
        """Nodes fit to be scored: their capabilities are known and their availability is fresh. By peer id; not
        ourselves. `available` is false for those that are full or draining."""
        return [each for each in map(self.candidate, self.nodes()) if each is not None]

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
        """The part of a node's messages that can change where a task goes."""
        load: tuple[object, ...] = ()
        skills: tuple[object, ...] = ()
        if (said := node.availability) is not None:
            load = (self._fresh(node, now) and said.available_for_work, said.current_tasks, said.max_tasks)
        if (able := node.capability) is not None:
            skills = (able.expertise, able.capabilities, able.specialization, able.models)
        return load, skills, node.role.role if node.role is not None else None


class Broadcast:
    """One kind of message: published every `interval` seconds, sooner after a change, but not twice in `CHANGE_S`."""

    def __init__(self, clock: IReactorTime, kind: str, publish: Callable[[], None], interval: float) -> None:
        self.loop = Periodic(clock, f"presence: {kind}", self._run, lambda: interval)
        self._clock = clock
        self._publish = publish
        self._last = -CHANGE_S

    def soon(self, gather: float = 0.0) -> None:
        """Publish within `gather` seconds, or as soon as the rate allows, and periodically from there."""
        now = self._clock.seconds()
        due, planned = max(now + gather, self._last + CHANGE_S), self.loop.timer.at
        if planned is not None and planned <= due:
            return
        if due <= now:
            self.loop.run()
        else:
            self.loop.start(due - now)

    def _run(self) -> None:
        self._last = self._clock.seconds()
        self._publish()


class PresenceService(Service):
    """Publishes this node's presence; `view` holds that of the others.

    `load` is asked for each message. Call `load_changed` when it changes; a broadcast follows within `CHANGE_S`.
    `starts`: which start of the node this is, and those of others.
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
        self._messaging = messaging
        self._pubsub = pubsub
        self._clock = clock
        self._profile = profile
        self._load = load
        self._watchers: list[Callable[[], None]] = []
        self._watchers_failed = 0
        self._capability = Broadcast(clock, "capability", self._publish_capability, CAPABILITY_S)
        self._role = Broadcast(clock, "role", self._publish_role, CAPABILITY_S)
        self._availability = Broadcast(clock, "availability", self._publish_availability, AVAILABILITY_S)
        self._broadcasts = (self._capability, self._role, self._availability)
        self._status = Periodic(clock, "presence: status", self._log_status, lambda: STATUS_S)
        self._take_part()
        for payload in (AvailabilityBcast, CapabilityBcast, RoleAnnouncement):
            messaging.listen(payload, self._heard)
        pubsub.watch_arrivals(self._arrived)

    @property
    def profile(self) -> Profile:
        return self._profile

    @property
    def errors(self) -> int:
        """Periodic bodies and watchers that failed (each is logged)."""
        loops = [each.loop for each in self._broadcasts]
        return self._watchers_failed + sum(loop.errors for loop in (*loops, self._status))

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        for broadcast in self._broadcasts:
            broadcast.loop.run()
        self._status.start()

    def stopService(self) -> None:
        super().stopService()  # type: ignore[no-untyped-call]
        for broadcast in self._broadcasts:
            broadcast.loop.stop()
        self._status.stop()

    def watch(self, changed: Callable[[], None]) -> None:
        """Call `changed` when news of the others may change where a task goes."""
        self._watchers.append(changed)

    def load_changed(self) -> None:
        """The number of tasks, or whether more are taken, changed."""
        self._soon(self._availability)

    def update(self, profile: Profile) -> None:
        """Publish the changes at once (within `CHANGE_S`)."""
        before, self._profile = self._profile, profile
        self._take_part()
        if attrs.evolve(before, role=profile.role, reports_to=profile.reports_to) != profile:
            self._soon(self._capability)
        if before != profile:
            self._soon(self._role)

    def _take_part(self) -> None:
        """Subscribe to the static topics and to those of the profile."""
        me = self._profile
        wanted = profile_topics(role=me.role, expertise=me.expertise, reports_to=me.reports_to, agent_id=me.agent_id)
        if wanted.left_out:
            self._log.warn(
                "no topic is joined for {names}: they are too long, or too many",
                event="topics.left_out",
                names=", ".join(wanted.left_out),
            )
        self._messaging.take_part([*STATIC, *wanted.topics])

    # Ours

    def _publish_availability(self) -> None:
        load = self._load()
        self._messaging.say(
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

    def _publish_capability(self) -> None:
        profile, load = self._profile, self._load()
        self._messaging.say(
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

    def _publish_role(self) -> None:
        profile = self._profile
        if profile.role is None:
            return
        self._messaging.say(
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

    def _log_status(self) -> None:
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

    # Theirs

    def _heard(self, envelope: Envelope, received: Received) -> None:
        payload = envelope.data
        if self._starts is not None and isinstance(payload, AvailabilityBcast) and payload.start is not None:
            self._starts.received(received.from_peer, payload.start)
        if self.view.node(received.from_peer) is None:
            # A newcomer that is connected to others alone: it does not know us either, as its own neighbours' would.
            self._arrived(received.from_peer, COORDINATION)
        if self.view.heard(envelope, received):
            for changed in self._watchers:
                try:
                    changed()
                except Exception:
                    self._watchers_failed += 1
                    self._log.failure("presence: a watcher failed")

    def _arrived(self, peer: PeerId, topic: str) -> None:
        """A newcomer has missed what we published before. Those who come close together are told together."""
        if topic != COORDINATION:
            return
        gather = gather_time(len(self.view))
        for broadcast in self._broadcasts:
            self._soon(broadcast, gather)

    def _soon(self, broadcast: Broadcast, gather: float = 0.0) -> None:
        if self.running:
            broadcast.soon(gather)
