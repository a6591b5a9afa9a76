"""Which topics a node takes part in, what is said where, and whose words are heard."""

from __future__ import annotations

import json

import attrs
from twisted.logger import capturedLogs

from chorus.identity import Identity
from chorus.messages import (
    COORDINATION,
    HEALTH,
    META_DISCUSSION,
    AvailabilityBcast,
    HealthReport,
    HelpRequest,
    TaskProgress,
    TaskUpdate,
    WhoIsAdmin,
    encode,
)
from chorus.messages.rates import MAX_AGE, NEWCOMERS, OWN, RELAYED, THROUGH_OTHERS
from chorus.messages.topics import (
    MAX_JOINED_TOPICS,
    STATIC,
    BadTopic,
    TooManyTopics,
    issue_topic,
    project_topic,
    role_topic,
)
from chorus.protocols.gossipsub.events import Validation
from chorus.services.pubsub.topics import Received
from tests.messages.values import envelope, full
from tests.protocols.gossip_network import identity
from tests.services.memory_host import connect
from tests.services.test_presence import Node, PresenceCase

ROLE = role_topic("developer")
HELP = HelpRequest(request_id="r1", question="how?", hops=2)


class Known:
    """Everybody is a member but one."""

    def __init__(self, stranger: object) -> None:
        self.stranger = str(stranger)
        self.asked: list[str] = []

    def is_member(self, peer_id: str) -> bool:
        self.asked.append(peer_id)
        return peer_id != self.stranger


class MessagingCase(PresenceCase):
    def chain(self, **more: object) -> list[Node]:
        """Three nodes in a row; `more` goes to the one in the middle."""
        nodes = [Node(1, self.time), Node(2, self.time, **more), Node(3, self.time)]
        for node in nodes:
            node.start()
            self.addCleanup(node.stop)
        connect(nodes[0].host, nodes[1].host)
        connect(nodes[1].host, nodes[2].host)
        self.run_for(3)
        for node in nodes:
            node.heard.clear()
        return nodes


class Topics(MessagingCase):
    def test_static_ones_from_the_start(self) -> None:
        (one,) = self.nodes(1, expertise=("python",), reports_to="lead")
        self.assertEqual(set(one.pubsub.router.topics()), set(STATIC))
        self.assertEqual(one.messaging.topics(), sorted(STATIC))

    def test_those_of_the_profile_follow_it(self) -> None:
        (one,) = self.nodes(1, role="Developer", expertise=("python",), reports_to="lead")
        by_profile = {ROLE, "chorus/reports/lead", "chorus/reports/node1", "chorus/expertise/python"}
        self.assertEqual(set(one.pubsub.router.topics()) - set(STATIC), by_profile)
        one.presence.update(attrs.evolve(one.presence.profile, role="tester", expertise=("python", "rust")))
        by_profile = by_profile - {ROLE} | {"chorus/role/tester", "chorus/expertise/rust"}
        self.assertEqual(set(one.pubsub.router.topics()) - set(STATIC), by_profile)
        one.presence.update(attrs.evolve(one.presence.profile, role=None))
        self.assertEqual(set(one.pubsub.router.topics()), set(STATIC))

    def test_names_that_make_no_topic_are_told(self) -> None:
        with capturedLogs() as said:
            (one,) = self.nodes(1, role="developer", expertise=("é" * 60, "python"))
        left_out = [event["names"] for event in said if event.get("event") == "topics.left_out"]
        self.assertEqual(left_out, ["é" * 60])
        self.assertIn("chorus/expertise/python", one.pubsub.router.topics())

    def test_joined_as_often_as_left(self) -> None:
        (one,) = self.nodes(1)
        topic = issue_topic("team/tool", "12")
        for _ in range(2):
            one.messaging.join(topic)
        one.messaging.leave(topic)
        self.assertIn(topic, one.pubsub.router.topics())
        for _ in range(3):
            one.messaging.leave(topic)
        self.assertNotIn(topic, one.pubsub.router.topics())
        one.messaging.join(topic)
        self.assertIn(topic, one.pubsub.router.topics(), "leaving too often owes nothing")

    def test_a_topic_of_the_profile_stays_when_it_is_left(self) -> None:
        (one,) = self.nodes(1, role="developer")
        one.messaging.join(ROLE)
        one.messaging.leave(ROLE)
        self.assertIn(ROLE, one.pubsub.router.topics())
        one.messaging.join(ROLE)
        one.presence.update(attrs.evolve(one.presence.profile, role="tester"))
        self.assertIn(ROLE, one.pubsub.router.topics(), "somebody still wants it")
        one.messaging.leave(ROLE)
        self.assertNotIn(ROLE, one.pubsub.router.topics())

    def test_bounded(self) -> None:
        (one,) = self.nodes(1)
        topics = [project_topic(f"p{number}") for number in range(MAX_JOINED_TOPICS)]
        for topic in topics:
            one.messaging.join(topic)
        with self.assertRaises(TooManyTopics):
            one.messaging.join(project_topic("one more"))
        one.messaging.join(topics[0])
        one.messaging.join(HEALTH)
        one.messaging.leave(topics[1])
        one.messaging.join(project_topic("one more"))

    def test_only_topics_of_the_plan(self) -> None:
        (one,) = self.nodes(1)
        for topic in ("", "my/topic", "chorus/role/Developer", "chorus/role/{role}"):
            with self.assertRaises(BadTopic):
                one.messaging.join(topic)
            with self.assertRaises(BadTopic):
                one.messaging.take_part([HEALTH, topic])
        self.assertEqual(set(one.pubsub.router.topics()), set(STATIC), "nothing changed")


class Saying(MessagingCase):
    def test_on_any_topic_of_its_type_and_heard_wherever_one_takes_part(self) -> None:
        one, two = self.nodes(2, role="developer")
        issue = issue_topic("tool", "1")
        two.messaging.join(issue)
        heard: list[tuple[str, object]] = []
        two.messaging.listen(HelpRequest, lambda envelope, received: heard.append((received.topic, envelope.data)))
        self.run_for(2)
        for topic in (None, ROLE, issue, project_topic("tool")):
            one.messaging.say(HELP, topic=topic, thread="t1")
        self.run_for(1)
        # Nobody has joined the project.
        self.assertEqual(heard, [(META_DISCUSSION, HELP), (ROLE, HELP), (issue, HELP)])

    def test_not_elsewhere(self) -> None:
        (one,) = self.nodes(1)
        sent = one.messaging.counters.sent
        for payload, topic in (
            (HELP, COORDINATION),
            (HELP, "chorus/role/Developer"),
            (HELP, "my/topic"),
            (full(HealthReport), ROLE),
            (full(WhoIsAdmin), META_DISCUSSION),
        ):
            with self.assertRaises(BadTopic):
                one.messaging.say(payload, topic=topic)
        self.assertEqual(one.messaging.counters.sent, sent)

    def test_listening_joins_the_static_topics_of_the_type(self) -> None:
        (one,) = self.nodes(1)
        one.messaging.take_part([])
        self.assertEqual(one.messaging.topics(), [COORDINATION, "chorus/tasks"], "of what Node listens to")
        one.messaging.listen(TaskProgress, lambda *_: None)
        one.messaging.listen(WhoIsAdmin, lambda *_: None)
        self.assertEqual(one.messaging.topics(), [COORDINATION, "chorus/election/v1", "chorus/tasks"])


class Misplaced(MessagingCase):
    def test_neither_heard_nor_passed_on_and_nobody_is_blamed(self) -> None:
        one, two, three = self.chain()
        me = str(one.identity.peer_id)
        stray = attrs.evolve(full(AvailabilityBcast), node_id=me)
        ignored = two.pubsub.counters()["ignored"]
        one.pubsub.publish(HEALTH, encode(envelope(stray, sender=me)))
        self.run_for(1)
        self.assertEqual([node.messaging.counters.misplaced for node in (one, two, three)], [0, 1, 0])
        self.assertEqual([data for node in (two, three) for _, data in node.heard if data == stray], [])
        self.assertEqual(two.pubsub.counters()["ignored"], ignored + 1)
        self.assertEqual(two.pubsub.counters()["rejected"], 0)
        one.pubsub.publish(COORDINATION, encode(envelope(stray, sender=me)))
        self.run_for(1)
        self.assertEqual([data for _, data in three.heard if data == stray], [stray])


class Strangers(MessagingCase):
    """Whose words are heard: `Roles.is_member` is asked about the author, who may be connected to nobody here."""

    def say(self, author: Node) -> None:
        author.messaging.announce_task({"task_id": "t-1", "state": "running", "attempt": 1})
        me = str(author.identity.peer_id).encode()
        later = b'{"type":"Later","id":"abcdefgh","from":"%s","timestamp":%d,"data":{}}' % (me, author.messaging.now())
        author.pubsub.publish(COORDINATION, later)
        author.pubsub.publish(COORDINATION, b"garbage")
        self.run_for(1)

    def updates(self, node: Node) -> list[str]:
        return [data.task_id for _, data in node.heard if isinstance(data, TaskUpdate)]

    def test_members_are_heard_and_passed_on(self) -> None:
        roles = Known("nobody")
        one, two, three = self.chain(roles=roles)
        self.say(one)
        self.assertEqual((self.updates(two), self.updates(three)), (["t-1"], ["t-1"]))
        self.assertEqual(three.messaging.counters.unknown, {"Later": 1})
        self.assertEqual((two.messaging.counters.strangers, two.messaging.counters.refused), (0, 1))
        self.assertIn(str(one.identity.peer_id), roles.asked)

    def test_others_are_ignored_counted_and_not_passed_on(self) -> None:
        stranger = Node(1, self.time).identity.peer_id
        one, two, three = self.chain(roles=Known(stranger))
        self.assertEqual(one.identity.peer_id, stranger)
        before, rejected = two.messaging.counters.strangers, two.pubsub.counters()["rejected"]
        self.say(one)
        self.assertEqual((self.updates(two), self.updates(three)), ([], []))
        self.assertEqual(two.messaging.counters.strangers, before + 3)
        self.assertEqual(two.pubsub.counters()["rejected"], rejected, "nobody is blamed, not even for garbage")
        self.assertEqual((two.messaging.counters.unknown, three.messaging.counters.unknown), ({}, {}))
        self.assertEqual(three.messaging.counters.strangers, 0)
        self.assertEqual([node.peer for node in two.presence.view.nodes()], [three.identity.peer_id])
        self.say(three)
        self.assertEqual((self.updates(two), self.updates(one)), (["t-1"], ["t-1"]), "others are heard as before")

    def test_the_author_counts_not_who_passes_it_on(self) -> None:
        author = Node(3, self.time).identity.peer_id
        one, two, three = self.chain()
        one.messaging._roles = Known(author)
        self.say(three)
        self.say(two)
        self.assertEqual(self.updates(two), ["t-1"])
        self.assertEqual(self.updates(one), ["t-1"], "of two alone")
        self.assertEqual(one.messaging.counters.strangers, 2, "the garbage was not passed on")


class Floods(MessagingCase):
    """A publisher that says more than `chorus.messages.rates` allows."""

    def flood(self, author: Node, count: int) -> None:
        me = str(author.identity.peer_id).encode()
        later = b'{"type":"Later","id":"abcdefgh","from":"%s","timestamp":%d,"data":{}}' % (me, author.messaging.now())
        for number in range(count):
            author.pubsub.publish(COORDINATION, later)
            if number % 50 == 0:
                self.run_for(0.05)

    def test_it_is_passed_on_no_further_loses_its_score_and_gets_it_back(self) -> None:
        one, two, three = self.chain()
        self.flood(one, 5000)
        self.run_for(1)
        heard, passed = two.messaging.counters, three.messaging.counters
        self.assertGreater(heard.flooded, 200)
        self.assertEqual(passed.unknown["Later"], heard.unknown["Later"])
        self.assertLess(heard.unknown["Later"], OWN.burst + 6 * OWN.per_second)
        router = two.pubsub.router
        self.assertLess(router.score(one.identity.peer_id.raw), 0)
        self.assertNotIn(one.identity.peer_id, two.pubsub.mesh_of(COORDINATION))
        self.assertGreaterEqual(router.score(three.identity.peer_id.raw), 0)
        self.assertGreaterEqual(
            three.pubsub.router.score(two.identity.peer_id.raw), 0, "who passed it on is not blamed"
        )
        # The overdraft is forgotten after five seconds; promises that it broke meanwhile fade more slowly.
        self.run_for(OWN.depth / OWN.per_second + 120)
        self.assertGreaterEqual(router.score(one.identity.peer_id.raw), 0)
        three.heard.clear()
        one.messaging.announce_task({"task_id": "t-2", "state": "running", "attempt": 1})
        self.run_for(3)
        self.assertIn("t-2", [data.task_id for _, data in three.heard if isinstance(data, TaskUpdate)])

    def test_a_busy_scheduler_keeps_news_to_itself_before_it_is_taken_for_a_flood(self) -> None:
        one, two, _ = self.chain()
        for number in range(3000):
            one.messaging.announce_task({"task_id": f"t-{number}", "state": "running", "attempt": 1})
            if number % 50 == 0:
                self.run_for(0.01)
        self.run_for(1)
        self.assertGreater(one.messaging.counters.held_back, 1000)
        self.assertEqual(two.messaging.counters.flooded, 0)
        self.assertGreaterEqual(two.pubsub.router.score(one.identity.peer_id.raw), 0)

    def relayed(self, author: Identity, number: int, *, age: int = 0, source: Identity | None = None) -> Received:
        timestamp = self.one.messaging.now() - age
        word = {"type": "Later", "id": "abcdefgh", "from": str(author.peer_id), "timestamp": timestamp, "data": {}}
        source = source or identity(30)
        return Received(COORDINATION, author.peer_id, json.dumps(word).encode(), bytes([number % 256]), source.peer_id)

    def heard(self, *words: Received) -> int:
        return sum(self.one.messaging._validate(word) is Validation.ACCEPT for word in words)

    def test_one_peer_brings_few_authors_that_nobody_knows(self) -> None:
        """Invented ones; who passes them on is not blamed, and who is connected is always known."""
        self.one, two, _ = self.chain()
        authors = [identity(1000 + number) for number in range(400)]
        self.assertEqual(self.heard(*(self.relayed(author, 1) for author in authors)), NEWCOMERS.burst)
        self.assertEqual(self.heard(*(self.relayed(author, 2) for author in authors[:200])), 200, "known from now on")
        self.assertEqual(self.heard(self.relayed(authors[399], 3)), 0)
        self.assertEqual(self.heard(self.relayed(authors[399], 3, source=identity(31))), 1, "another brings others")
        self.assertEqual(self.heard(self.relayed(two.identity, 4)), 1)
        self.assertEqual(self.one.messaging._overdraft(identity(30).peer_id.raw), 0.0)

    def test_others_cannot_make_an_author_unheard(self) -> None:
        """All that a member says in an hour, played at once to a node that has just started."""
        self.one, two, _ = self.chain()
        old = [self.relayed(two.identity, number, age=MAX_AGE + 1 + number) for number in range(5000)]
        self.assertEqual(self.heard(*old), 0)
        self.assertEqual(self.one.messaging.counters.stale, 5000)
        recent = [self.relayed(two.identity, number, age=MAX_AGE - 1) for number in range(8000)]
        self.assertEqual(self.heard(*recent), THROUGH_OTHERS.burst)
        self.assertEqual(self.one.messaging._overdraft(two.identity.peer_id.raw), 0.0)
        own = self.relayed(two.identity, 1, source=two.identity)
        self.assertEqual(self.heard(own), 1, "what it says itself is heard")

    def test_what_one_peer_passes_on_is_bounded_whoever_said_it(self) -> None:
        self.one, _, _ = self.chain()
        authors = [identity(2000 + number) for number in range(100)]
        words = [self.relayed(authors[number % 100], number) for number in range(int(RELAYED.burst) + 500)]
        heard = self.heard(*words)
        self.assertLess(heard, RELAYED.burst)
        self.assertGreater(heard, 0.98 * RELAYED.burst)
        self.assertIs(self.one.messaging._validate(words[-1]), Validation.THROTTLE, "may come through another")
        newcomer = self.relayed(identity(3000), 1)
        self.assertIs(self.one.messaging._validate(newcomer), Validation.ACCEPT, "something is left for others")

    def test_clocks_may_differ_by_a_quarter_of_an_hour(self) -> None:
        self.one, two, _ = self.chain()
        for age, heard in ((MAX_AGE, 1), (-MAX_AGE, 1), (MAX_AGE + 1, 0), (-MAX_AGE - 1, 0)):
            self.assertEqual(self.heard(self.relayed(two.identity, 1, age=age)), heard)

    def test_a_member_with_another_clock_is_named(self) -> None:
        self.one, two, _ = self.chain()

        def say(age: int, source: Identity) -> str | None:
            self.heard(self.relayed(two.identity, 1, age=age, source=source))
            return self.one.messaging.wrong_clocks()

        self.assertIsNone(say(7200, identity(30)), "what another one brings says nothing of the author's clock")
        self.assertIn(
            f"1 message was ignored, since clocks differ from this node's: {two.identity.peer_id} 2 h behind",
            str(say(7200, two.identity)),
        )
        self.assertIsNotNone(say(0, identity(30)))
        self.assertIsNone(say(0, two.identity))
