"""Messaging and presence over the pub/sub of hosts in memory."""

from __future__ import annotations

import itertools
import random

import attrs
from twisted.internet.task import Clock

from chorus.messages import COORDINATION, AvailabilityBcast, CapabilityBcast, RoleAnnouncement, TaskUpdate
from chorus.seams import PassThrough, Redacted
from chorus.services.messaging import MAX_COUNTED_TYPES, Messaging
from chorus.services.presence import (
    AVAILABILITY_S,
    CAPABILITY_S,
    FORGET_S,
    FRESH_S,
    MAX_NODES,
    STATUS_S,
    Load,
    PresenceService,
    PresenceView,
    Profile,
    gather_time,
)
from chorus.services.pubsub.service import PubSubService
from chorus.services.pubsub.topics import Received
from chorus.tasks.scoring import Candidate
from tests.protocols.gossip_network import identity
from tests.services.memory_host import MemoryHost, connect
from tests.support import PureTestCase

WALL = 1_700_000_000.0


class Node:
    """An agent's presence, and everything that the others say."""

    def __init__(
        self, number: int, clock: Clock, redactor: object = None, roles: object = None, **profile: object
    ) -> None:
        self.identity = identity(number)
        self.host = MemoryHost(self.identity.peer_id, clock)
        self.pubsub = PubSubService(
            self.host, self.identity, clock, rng=random.Random(number), first_seqno=lambda: 1_000_000_000
        )
        self.messaging = Messaging(
            self.pubsub,
            self.identity.peer_id,
            redactor=redactor or PassThrough(),
            wall=lambda: WALL + clock.seconds(),
            random=random.Random(number).randbytes,
            role=lambda: self.presence.profile.role,
            roles=roles,
        )
        self.load = Load(0, 3)
        self.presence = PresenceService(
            self.messaging,
            self.pubsub,
            clock,
            Profile(agent_id=f"node{number}", version="0.5.0", **profile),
            lambda: self.load,
        )
        self.heard: list[tuple[float, object]] = []
        for payload in (AvailabilityBcast, CapabilityBcast, RoleAnnouncement, TaskUpdate):
            self.messaging.listen(payload, lambda envelope, _: self.heard.append((clock.seconds(), envelope.data)))

    def start(self) -> None:
        self.pubsub.startService()
        self.presence.startService()

    def stop(self) -> None:
        self.presence.stopService()
        self.pubsub.stopService()

    def times(self, payload: type) -> list[float]:
        return [when for when, data in self.heard if isinstance(data, payload)]


class PresenceCase(PureTestCase):
    def setUp(self) -> None:
        self.time = self.clock()
        self.addCleanup(self.run_for, 0.1)

    def nodes(self, count: int, **profile: object) -> list[Node]:
        nodes = [Node(number, self.time, **profile) for number in range(1, count + 1)]
        for node in nodes:
            node.start()
        for node in nodes:
            self.addCleanup(node.stop)
        for a in nodes:
            for b in nodes[: nodes.index(a)]:
                connect(a.host, b.host)
        return nodes

    def run_for(self, seconds: float) -> None:
        for _ in range(max(1, int(seconds / 0.05))):
            self.time.advance(0.05)


class Broadcasts(PresenceCase):
    def test_nodes_learn_of_each_other_soon_after_they_meet(self) -> None:
        one, two = self.nodes(2, expertise=("python",), capabilities=("gpu",), role="developer")
        self.run_for(2)
        expected = Candidate(
            peer=str(two.identity.peer_id),
            role="developer",
            expertise=frozenset({"python"}),
            capabilities=frozenset({"gpu"}),
            specialisation="general",
            current_tasks=0,
            max_tasks=3,
            available=True,
        )
        self.assertEqual(one.presence.view.candidates(), [expected])
        self.assertEqual([node.peer for node in two.presence.view.nodes()], [one.identity.peer_id])

    def test_periods(self) -> None:
        one, _two = self.nodes(2, role="developer")
        self.run_for(3)
        start = self.time.seconds()
        one.heard.clear()
        self.run_for(2 * CAPABILITY_S)
        for payload, interval in (
            (AvailabilityBcast, AVAILABILITY_S),
            (CapabilityBcast, CAPABILITY_S),
            (RoleAnnouncement, CAPABILITY_S),
        ):
            times = one.times(payload)
            self.assertEqual(len(times), int(2 * CAPABILITY_S / interval), payload)
            for before, after in zip([start - 5, *times], times, strict=False):
                self.assertLess(after - before, interval + 6)

    def test_change_of_load_is_said_within_a_second_and_at_most_once_a_second(self) -> None:
        one, two = self.nodes(2)
        self.run_for(3)
        one.heard.clear()
        start = self.time.seconds()
        for count in range(40):
            two.load = Load(count % 4, 3)
            two.presence.load_changed()
            self.run_for(0.1)
        two.load = Load(3, 3)
        two.presence.load_changed()
        self.run_for(1.2)
        times = one.times(AvailabilityBcast)
        self.assertLess(times[0] - start, 0.2)
        self.assertLessEqual(len(times), 6)
        for before, after in itertools.pairwise(times):
            self.assertGreaterEqual(after - before, 0.99)
        last = one.heard[-1][1]
        self.assertEqual((last.current_tasks, last.status, last.available_for_work), (3, "busy", False))
        self.assertFalse(one.presence.view.candidates()[0].available)

    def test_status_words(self) -> None:
        self.assertEqual([Load(n, 3).status for n in range(5)], ["ready", "working", "working", "busy", "busy"])
        self.assertEqual([Load(n, 3).available for n in (0, 2, 3)], [True, True, False])
        self.assertFalse(Load(0, 3, accepting=False).available)
        self.assertEqual((Load(0, 0).status, Load(0, 0).available), ("busy", False))

    def test_payload_values(self) -> None:
        one, two = self.nodes(2, models=("m1",), reports_to="lead", role="tester")
        two.load = Load(1, 3, last_activity=WALL - 5.7)
        self.run_for(35)
        latest = {type(data).__name__: data for _, data in one.heard}
        availability = latest["AvailabilityBcast"]
        self.assertEqual(availability.last_activity, int(WALL - 5.7))
        self.assertEqual(availability.status, "working")
        self.assertIn(availability.timestamp - int(WALL), (30, 31, 32))
        capability = latest["CapabilityBcast"]
        self.assertEqual((capability.agent_id, capability.version, capability.models), ("node2", "0.5.0", ("m1",)))
        self.assertEqual(latest["RoleAnnouncement"].reports_to, "lead")

    def test_change_of_profile_is_said_at_once(self) -> None:
        one, two = self.nodes(2)
        self.run_for(5)
        self.assertEqual(one.times(RoleAnnouncement), [], "no role, no announcement")
        one.heard.clear()
        two.presence.update(attrs.evolve(two.presence.profile, role="reviewer"))
        self.run_for(0.2)
        self.assertEqual([type(data) for _, data in one.heard], [RoleAnnouncement])
        two.presence.update(attrs.evolve(two.presence.profile, capabilities=("gpu",)))
        self.run_for(1.2)
        self.assertEqual(one.presence.view.candidates()[0].capabilities, frozenset({"gpu"}))
        self.assertEqual(one.presence.view.candidates()[0].role, "reviewer")

    def test_late_joiner_is_told(self) -> None:
        one, two = self.nodes(2, role="developer")
        self.run_for(100)
        (late,) = (Node(9, self.time),)
        late.start()
        self.addCleanup(late.stop)
        connect(late.host, one.host)
        connect(two.host, late.host)
        self.run_for(2)
        self.assertEqual(len(late.presence.view.candidates()), 2)
        self.assertEqual({node.role.role for node in late.presence.view.nodes()}, {"developer"})

    def test_a_newcomer_that_is_connected_to_others_alone_learns_of_everybody(self) -> None:
        """Two that can only dial out: each is connected to the one in the middle."""
        middle, early = self.nodes(2, capabilities=("six",))
        self.run_for(CAPABILITY_S / 2)
        late = Node(3, self.time, capabilities=("five",))
        late.start()
        self.addCleanup(late.stop)
        connect(late.host, middle.host)
        self.run_for(6)
        for one, other in ((late, early), (early, late)):
            node = one.presence.view.node(other.identity.peer_id)
            assert node is not None
            self.assertIsNotNone(node.capability)
            self.assertIsNotNone(node.availability)

    def test_newcomers_are_told_together(self) -> None:
        (one,) = self.nodes(1)
        late = [Node(number, self.time) for number in range(2, 12)]
        for node in late:
            node.start()
            self.addCleanup(node.stop)
        self.run_for(40)
        before = one.messaging.counters.sent
        for node in late:
            connect(node.host, one.host)
        self.run_for(2)
        self.assertLessEqual(one.messaging.counters.sent - before, 4)
        for nodes in (3, 100, 1000, 10_000):
            self.assertLessEqual(nodes / gather_time(nodes), 50)
        self.assertLess(gather_time(3), 1.1)

    def test_bodies_that_fail_go_on(self) -> None:
        one, two = self.nodes(2)
        self.run_for(3)
        load = two.load
        two.presence._load = lambda: 1 // 0
        self.run_for(AVAILABILITY_S + STATUS_S)
        self.assertGreaterEqual(two.presence.errors, 3)
        two.presence._load = lambda: load
        one.heard.clear()
        self.run_for(AVAILABILITY_S + 1)
        self.assertEqual(len(one.times(AvailabilityBcast)), 1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), two.presence.errors)

    def test_watchers_hear_what_matters_only(self) -> None:
        one, two = self.nodes(2)
        changes: list[float] = []
        one.presence.watch(lambda: changes.append(self.time.seconds()))
        self.run_for(5)
        known = len(changes)
        self.assertGreater(known, 0)
        self.run_for(70)
        self.assertEqual(len(changes), known, "the same words again change nothing")
        two.load = Load(3, 3)
        two.presence.load_changed()
        self.run_for(1.1)
        self.assertEqual(len(changes), known + 1)

    def test_stopped_presence_says_nothing(self) -> None:
        one, two = self.nodes(2)
        self.run_for(3)
        two.presence.stopService()
        one.heard.clear()
        two.presence.load_changed()
        two.presence.update(attrs.evolve(two.presence.profile, role="x"))
        self.run_for(40)
        self.assertEqual(one.heard, [])


class View(PresenceCase):
    def test_candidates_fade_and_nodes_are_forgotten(self) -> None:
        one, two = self.nodes(2)
        self.run_for(3)
        two.stop()
        self.run_for(FRESH_S)
        self.assertEqual(one.presence.view.candidates(), [])
        self.assertEqual(len(one.presence.view.nodes()), 1)
        self.run_for(FORGET_S)
        self.assertEqual(one.presence.view.nodes(), [])

    def test_older_words_do_not_replace_newer_ones(self) -> None:
        view = PresenceView(lambda: 100.0)
        sender = identity(5).peer_id

        def hear(order: int, tasks: int) -> bool:
            payload = AvailabilityBcast(
                node_id=str(sender),
                available_for_work=True,
                current_tasks=tasks,
                max_tasks=3,
                last_activity=0,
                status="ready",
                timestamp=1,
            )
            received = Received(COORDINATION, sender, b"", sender.raw + order.to_bytes(8, "big"))
            envelope = type("E", (), {"data": payload})()
            return view.heard(envelope, received)

        self.assertTrue(hear(2**63, 1))
        self.assertFalse(hear(5, 2))
        self.assertEqual(view.node(sender).availability.current_tasks, 1)
        self.assertTrue(hear(2**63 + 1, 2))

    def test_bounded(self) -> None:
        view = PresenceView(lambda: 100.0)
        for number in range(MAX_NODES + 10):
            raw = number.to_bytes(34, "big")
            peer = type("P", (), {"raw": raw, "__str__": lambda self: "x"})()
            payload = AvailabilityBcast(
                node_id="x",
                available_for_work=True,
                current_tasks=0,
                max_tasks=1,
                last_activity=0,
                status="ready",
                timestamp=1,
            )
            view.heard(type("E", (), {"data": payload})(), Received(COORDINATION, peer, b"", bytes(7) + b"\x01"))
        self.assertEqual(len(view), MAX_NODES)


class Typed(PresenceCase):
    def test_task_updates(self) -> None:
        one, two = self.nodes(2)
        self.run_for(1)
        document = {
            "task_id": "t-1",
            "title": "x" * 400,
            "state": "failed",
            "attempt": 2,
            "reason": "exit",
            "detail": "y" * 5000,
            "exit_code": 1,
            "fence": "0.1.7",
            "unknown": [1, 2],
        }
        two.messaging.announce_task(document)
        self.run_for(0.1)
        ((_, update),) = [item for item in one.heard if isinstance(item[1], TaskUpdate)]
        self.assertEqual((update.task_id, update.state, update.exit_code, update.fence), ("t-1", "failed", 1, "0.1.7"))
        self.assertLessEqual(len(update.title.encode()), 256)
        two.messaging.announce_task({"task_id": "t-2", "state": "no such state", "attempt": 0})
        self.assertEqual(len(self.flushLoggedErrors()), 1)

    def test_refused_and_unknown_messages(self) -> None:
        one, two = self.nodes(2)
        self.run_for(3)
        one.heard.clear()
        foreign = b'{"type":"AvailabilityBcast","id":"abcdefgh","from":"other","timestamp":1,"data":{}}'
        me = str(two.identity.peer_id).encode()
        for data in (b"garbage", foreign, b'{"a":1,"a":2}'):
            two.pubsub.publish(COORDINATION, data)
        for number in range(MAX_COUNTED_TYPES + 5):
            two.pubsub.publish(
                COORDINATION,
                b'{"type":"Later%d","id":"abcdefgh","from":"%s","timestamp":%d,"data":{}}'
                % (number, me, two.messaging.now()),
            )
        self.run_for(0.1)
        counters = one.messaging.counters
        self.assertEqual((counters.refused, counters.foreign), (2, 1))
        self.assertEqual(len(counters.unknown), MAX_COUNTED_TYPES + 1)
        self.assertEqual(counters.unknown["other"], 5)
        self.assertEqual(one.heard, [])
        self.assertEqual(one.pubsub.counters()["rejected"], 3)

    def test_unknown_types_are_passed_on(self) -> None:
        one, two, three = (Node(number, self.time) for number in (1, 2, 3))
        for node in (one, two, three):
            node.start()
            self.addCleanup(node.stop)
        connect(one.host, two.host)
        connect(two.host, three.host)
        self.run_for(2)
        me = str(one.identity.peer_id).encode()
        word = b'{"type":"Later","id":"abcdefgh","from":"%s","timestamp":%d,"data":{}}' % (me, one.messaging.now())
        one.pubsub.publish(COORDINATION, word)
        self.run_for(0.2)
        self.assertEqual(three.messaging.counters.unknown, {"Later": 1})

    def test_everything_sent_passes_the_redactor(self) -> None:
        contexts: list[str] = []

        class Redactor:
            def redact(self, text: str, *, context: str) -> Redacted[str]:
                contexts.append(context)
                return Redacted(text.replace("hunter2", "[REDACTED]"))

        one = Node(1, self.time)
        two = Node(2, self.time, redactor=Redactor(), role="dev hunter2", expertise=("hunter2",))
        for node in (one, two):
            node.start()
            self.addCleanup(node.stop)
        written: list[bytes] = []
        publish = two.pubsub.publish
        two.pubsub.publish = lambda topic, data: written.append(data) or publish(topic, data)  # type: ignore[func-returns-value]
        connect(one.host, two.host)
        self.run_for(3)
        two.messaging.announce_task({"task_id": "t", "state": "running", "attempt": 1, "title": "use hunter2"})
        self.run_for(0.1)
        self.assertGreater(len(written), 3)
        self.assertEqual([data for data in written if b"hunter2" in data], [])
        self.assertIn("pubsub.TaskUpdate", contexts)
        self.assertIn("pubsub.CapabilityBcast", contexts)
