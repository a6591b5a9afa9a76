"""Honest authors behind a neighbour through which others flood: they stay within every rate that is held against them,
and must not silence anybody for it."""

from __future__ import annotations

import json

from chorus.messages import HEALTH
from chorus.messages.rates import NEWCOMERS, Rate
from chorus.protocols.gossipsub.encode import message_frame, subscription_frames
from chorus.protocols.gossipsub.params import MESHSUB_1_1
from chorus.protocols.gossipsub.sign import Signer
from tests.protocols.gossip_network import identity
from tests.services.memory_host import MemoryHost, MemoryStream, connect
from tests.services.test_presence import WALL, Node, PresenceCase

RELAYED = Rate(per_second=100.0, burst=500.0)
"""A tenth, and the attackers say a tenth as well."""


class _Deaf:
    def data_received(self, data: bytes) -> None:
        pass

    def eof_received(self) -> None:
        pass

    def stream_closed(self, error: object) -> None:
        pass

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass


class SharedRelay(PresenceCase):
    """`author` is heard by `far` through `shared`, to which the attackers are connected, and through two others in a
    row, where what it says takes a little longer."""

    def meet(self, *, other_way: bool = True) -> None:
        self.author, self.shared, self.third, self.far, self.fourth = nodes = [
            Node(number, self.time) for number in range(1, 6)
        ]
        for node in nodes:
            node.pubsub.startService()
            self.addCleanup(node.pubsub.stopService)
            node.messaging._hearing._relayed.rate = RELAYED
            node.messaging.take_part([HEALTH])
        connect(self.author.host, self.shared.host)
        connect(self.shared.host, self.far.host)
        if other_way:
            connect(self.author.host, self.fourth.host)
            connect(self.fourth.host, self.third.host)
            connect(self.third.host, self.far.host)
        self.run_for(5)
        self.numbers = 10**9
        self.heard: list[bytes] = []
        self.far.pubsub.subscribe(HEALTH, lambda received: self.heard.append(received.from_peer.raw))

    def word(self, by: int) -> bytes:
        me = identity(by)
        word = {
            "type": "Later",
            "id": "abcdefgh",
            "from": str(me.peer_id),
            "timestamp": int(WALL + self.time.seconds()),
            "data": {},
        }
        return json.dumps(word).encode()

    def attackers(self, count: int) -> list[MemoryStream]:
        streams = []
        for number in range(count):
            host = MemoryHost(identity(100 + number).peer_id, self.time)
            host.register(MESHSUB_1_1, lambda stream: stream.set_receiver(_Deaf()), None)
            out, _ = connect(host, self.shared.host)
            stream = self.successResultOf(out.open_stream([MESHSUB_1_1]))
            stream.set_receiver(_Deaf())
            stream.write(b"".join(subscription_frames([(True, HEALTH)])))
            streams.append(stream)
        self.run_for(0.1)
        return streams

    def write(self, stream: MemoryStream, by: int) -> None:
        self.numbers += 1
        raw = Signer(identity(by)).sign(HEALTH, self.word(by), self.numbers.to_bytes(8, "big"))
        stream.write(message_frame(raw))

    def says(self) -> None:
        self.author.pubsub.publish(HEALTH, self.word(1))

    def of_the_author(self) -> int:
        return self.heard.count(self.author.identity.peer_id.raw)

    def flooded(self, attackers: int = 12) -> None:
        """Each says a hundred words at once and twenty a second, and the author one a second."""
        self.says()
        self.run_for(1)
        self.assertEqual(self.of_the_author(), 1, "it is known")
        streams = self.attackers(attackers)
        for number, stream in enumerate(streams):
            for _ in range(100):
                self.write(stream, 100 + number)
        for step in range(100):
            for number, stream in enumerate(streams):
                self.write(stream, 100 + number)
            self.run_for(0.05)
            if step % 20 == 7:
                self.says()
        self.run_for(3)
        self.assertGreater(self.far.messaging.counters.flooded, 200, "there was too much of it")
        self.assertEqual(self.of_the_author(), 6)
        for node, peer in ((self.far, self.shared), (self.author, self.shared)):
            self.assertGreaterEqual(
                node.pubsub.router.score(peer.identity.peer_id.raw), 0, "who passes on is not blamed"
            )

    def test_a_known_author_is_heard_through_others(self) -> None:
        self.meet()
        self.flooded()

    def test_a_known_author_is_heard_through_the_flooded_one_alone(self) -> None:
        self.meet(other_way=False)
        self.flooded()

    def invented(self) -> int:
        """Ten bring all the new authors that they may, and the author, which nobody knows yet, says two words a second.
        How many of its thirty were heard."""
        streams = self.attackers(10)
        number = 1000
        for stream in streams:
            for _ in range(int(NEWCOMERS.burst) // 5):
                number += 1
                self.write(stream, number)
        self.run_for(1)
        for step in range(400):
            number += 1
            self.write(streams[step % 10], number)
            self.run_for(0.05)
            if step >= 100 and step % 10 == 3:
                self.time.advance(0.013)
                self.says()
                self.time.advance(0.011)
        self.run_for(3)
        self.assertGreater(self.far.messaging.counters.flooded, 200, "there were too many")
        return self.of_the_author()

    def test_a_new_author_is_heard_through_others(self) -> None:
        self.meet()
        self.assertEqual(self.invented(), 30)

    def test_a_new_author_is_heard_through_the_flooded_one_alone(self) -> None:
        self.meet(other_way=False)
        self.assertGreater(self.invented(), 5)
