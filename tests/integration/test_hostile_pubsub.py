"""Published failures of pub/sub (spec/security.md 2.4), each against a live node in a process of its own.

Two honest members are connected to the node; what one says reaches the other within a second, all the time and all of
it. After every attack the node has met no error of its own and holds no more than before, and no turn of its reactor
took more than 50 ms of processor time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from chorus.identity import Identity
from chorus.messages import COORDINATION
from chorus.messages.envelope import MAX_CONTAINERS
from chorus.protocols.delimited import delimit
from chorus.protocols.gossipsub.encode import idontwant_frames, mesh_frames, message_frame, subscription_frames
from chorus.protocols.gossipsub.params import MAX_MESSAGES, MAX_RPC, MAX_TOPICS_PER_PEER
from chorus.protocols.gossipsub.score_params import ScoreThresholds
from chorus.protocols.gossipsub.sign import Signer
from chorus.protocols.proto import rpc_pb2 as pb
from tests.integration.hostile_pubsub import ELSEWHERE, LIMIT, TOPIC, PubSubCase, Speaker
from tests.protocols.test_gossip import control, graft, ihave, iwant, prune, subscription

GRAYLIST = ScoreThresholds().graylist


class Measures(PubSubCase):
    async def test_a_long_turn_is_seen(self) -> None:
        """In an event of a socket and in a timer: what measures the attacks below can fail."""
        await self.attacked()
        self.assert_short_turns(await self.node.status())
        speaker = await self.speaker()
        for number, (words, least) in enumerate(((b"burn", 0.05), (b"burn in a timer", 0.15))):
            self.assertIsNone(await self.say(speaker, speaker.published(number, words)))
            await self.status_when(lambda status, least=least: status["longest_turn"] > least, words.decode())
            with self.assertRaises(self.failureException):
                self.assert_short_turns(await self.node.status())


class Bombs(PubSubCase):
    async def test_cve_2026_46679_a_hundred_thousand_topics(self) -> None:
        """js gossipsub: topics without end in subscriptions, and sets of them that are never freed."""
        await self.attacked()
        speaker = await self.speaker(subscribed=False)
        for subscribe in (True, False):
            for start in range(0, 100_000, 10_000):
                changes = [(subscribe, f"topic/{start + number}") for number in range(10_000)]
                self.assertIsNone(await self.say(speaker, *subscription_frames(changes)))
                await self.pause(0)
            status = await self.worked_off()
            self.assertLessEqual(status["topics"], self.before["topics"] + MAX_TOPICS_PER_PEER)
        await self.lost_its_place(speaker)
        await self.harmless(speaker)

    async def test_cve_2026_86040_a_megabyte_of_empty_subscriptions(self) -> None:
        await self.attacked()
        speaker = await self.speaker(subscribed=False)
        for refused in range(1, 6):
            await self.say(speaker, delimit(b"\x0a\x00" * (MAX_RPC // 2)))
            await self.status_when(
                lambda status, refused=refused: status["counters"]["streams_refused"] == refused, f"refusal {refused}"
            )
            speaker.stream = None
        await self.harmless(speaker)

    async def test_cve_2026_86040_other_megabytes_of_nothing(self) -> None:
        """The same with every other field that can be empty, at every depth. Each is refused, or costs its sender."""
        await self.attacked()
        (speakers, half) = (await self.speakers(9, subscribed=False), MAX_RPC // 2)
        bombs = (
            b"\x12\x00" * half,
            b"\x1a\x00" * half,
            b"\x1a\xfc\xff\x3f" + b"\x0a\x00" * (half - 2),
            b"\x1a\xfc\xff\x3f" + b"\x12\x00" * (half - 2),
            b"\x1a\xfc\xff\x3f" + b"\x1a\x00" * (half - 2),
            b"\x1a\xfc\xff\x3f" + b"\x2a\x00" * (half - 2),
            b"\x1a\xfc\xff\x3f\x22\xf8\xff\x3f" + b"\x12\x00" * (half - 4),
            b"\x1a\xfc\xff\x3f\x0a\xf8\xff\x3f" + b"\x12\x00" * (half - 4),
            b"\x1a\xfc\xff\x3f\x2a\xf8\xff\x3f" + b"\x0a\x00" * (half - 4),
        )
        for speaker, bomb in zip(speakers, bombs, strict=True):
            await self.say(speaker, delimit(bomb))
            await self.worked_off()
        await self.harmless(*speakers)

    async def test_cve_2026_95859_grafts_of_unknown_topics(self) -> None:
        """rust gossipsub: topics named in GRAFT added to the peer's own."""
        await self.attacked()
        speaker = await self.speaker(subscribed=False)
        frames = [delimit(graft(*(f"t/{start + n}" for n in range(200)))) for start in range(0, 100_000, 200)]
        self.assertIsNone(await self.say(speaker, *frames))
        status = await self.lost_its_place(speaker, -50.0)
        self.assertEqual((status["topics"], status["held"]["backoffs"]), (self.before["topics"], 0))
        await self.harmless(speaker)

    async def test_cve_2026_33040_cve_2026_34219_backoffs_at_every_border(self) -> None:
        """rust gossipsub: u64 max, then near-max plus slack, overflow at the next heartbeat."""
        await self.attacked()
        borders = (0, 1, 2**32, 2**63 - 1, 2**63, 2**64 - 61, 2**64 - 1)
        speakers = await self.speakers(len(borders), grafted=True)
        names = {speaker.name for speaker in speakers}
        await self.status_when(lambda status: names <= set(status["mesh"]), "all of them are in the mesh")
        for speaker, backoff in zip(speakers, borders, strict=True):
            self.assertIsNone(await self.say(speaker, delimit(prune(TOPIC, backoff)), delimit(graft(TOPIC))))
        status = await self.worked_off()
        self.assertEqual((names & set(status["mesh"]), status["held"]["backoffs"]), (set(), len(borders)))
        await self.harmless(*speakers)


class Scores(PubSubCase):
    async def test_cve_2022_47547_a_member_that_never_forwards(self) -> None:
        await self.attacked()
        more = await self.redundant(5)
        speaker = await self.speaker(grafted=True)
        await self.status_when(lambda status: speaker.name in status["mesh"], "it has its place")
        await self.lost_its_place(speaker)
        self.assertIsNone(await self.say(speaker, delimit(graft(TOPIC))))
        status = await self.worked_off()
        self.assertNotIn(speaker.name, status["mesh"], "and does not get it back")
        self.assert_all_have_places(status)
        await self.leave(more)
        await self.harmless(speaker)

    async def test_cve_2020_12821_forty_sybils_for_each_honest_member(self) -> None:
        """They take all connections and all free places of the node's mesh, and are silent. What honest members say
        goes on arriving, and the silent lose their places, and get none when they ask again.

        The node's mesh is as small as the number of honest members, for there are no more connections for sybils."""
        await self.attacked("--degree", "4")
        more = await self.redundant(3)
        sybils: list[Speaker] = []
        got_in = 0
        # The first may have lost their places before the last are there.
        for _ in range(8):
            sybils += await self.speakers(15, grafted=True)
            names = {sybil.name for sybil in sybils}
            got_in = max(got_in, len(names & set((await self.node.glance())["mesh"])))
        self.assertGreater(got_in, 5, "they did get in")
        for _ in range(2):
            status = await self.status_when(lambda status: not names & set(status["mesh"]), "no sybil has a place")
            self.assert_all_have_places(status)
            for sybil in sybils:
                self.assertIsNone(await self.say(sybil, delimit(graft(TOPIC))))
            await self.worked_off()
        heard = status["counters"]["delivered"]
        await self.status_when(lambda status: status["counters"]["delivered"] > heard + 20, "the node itself hears")
        await self.leave(more)
        await self.harmless(*sybils)

    def assert_all_have_places(self, status: dict[str, Any]) -> None:
        for pubsub in self.honest:
            name = str(pubsub._host.peer_id)
            self.assertIn(name, status["mesh"])
            self.assertGreaterEqual(status["scores"][name], 0.0)

    async def test_floods_of_control(self) -> None:
        await self.attacked()
        many = [b"%046d" % number for number in range(300)]
        topics = [f"t{number}" for number in range(90)]
        unknown = control(prune=[pb.ControlPrune(topicID=f"t{number}", backoff=60) for number in range(200)])
        floods = {
            "ihave": [delimit(ihave(*many, topic=TOPIC))],
            "iwant": [delimit(iwant(*many))],
            "idontwant": idontwant_frames(many),
            "prune": [delimit(unknown)],
            "subscriptions": [delimit(subscription(*topics)), delimit(subscription(*topics, subscribe=False))],
            "graft": [delimit(graft(TOPIC)), delimit(prune(TOPIC, 3600))],
        }
        speakers = await self.speakers(len(floods))
        for speaker, (kind, rpcs) in zip(speakers, floods.items(), strict=True):
            await self.flood(speaker, kind, rpcs * 50)
            await self.lost_its_place(speaker)
        await self.harmless(*speakers)

    async def flood(self, speaker: Speaker, kind: str, frames: list[bytes]) -> None:
        """Until the node hears no more of it. By the clock: it reckons up what was said at its next heartbeat, and a
        number of rounds could be over before that."""
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            self.assertIsNone(await self.say(speaker, *frames))
            if (await self.node.glance())["scores"][speaker.name] < GRAYLIST:
                return
        self.fail(f"a flood of {kind} costs too little")

    async def test_a_flood_of_valid_messages(self) -> None:
        """Messages without a fault, and of a type that the node cannot know: only their number is wrong.

        Each costs eight tokens, so that a machine on which they take a minute still sees too many of them.
        """
        await self.attacked()
        speaker = await self.speaker(grafted=True)
        await self.status_when(lambda status: speaker.name in status["mesh"], "it has its place")
        name, now = speaker.name.encode(), int(time.time())
        words = b'{"type":"Later","id":"abcdefgh","from":"%s","timestamp":%d,"data":{"x":"%s"}}' % (
            name,
            now,
            b"x" * 7500,
        )
        # All signed before the first is sent: on a slow machine signing takes as long as the node lets so many pass.
        frames = [message_frame(speaker.signed(number, words, COORDINATION)) for number in range(3000)]
        for start in range(0, len(frames), 100):
            self.assertIsNone(await self.say(speaker, *frames[start : start + 100]))
            await self.pause(0)
        await self.lost_its_place(speaker)
        await self.harmless(speaker)

    async def test_replays_forgeries_and_two_messages_under_one_number(self) -> None:
        await self.attacked()
        attacks = (self.replays, self.forgeries, self.equivocations)
        speakers = await self.speakers(len(attacks), grafted=True)
        for speaker, attack in zip(speakers, attacks, strict=True):
            await self.say(speaker, *attack(speaker))
            await self.lost_its_place(speaker)
        status = await self.harmless(*speakers)
        self.assertGreater(status["counters"]["equivocations"], 0)

    def replays(self, speaker: Speaker) -> list[bytes]:
        return [speaker.published(1)] * 5000

    def forgeries(self, speaker: Speaker) -> list[bytes]:
        message = pb.Message.FromString(speaker.signer.sign(TOPIC, b"x", bytes(8)))
        message.signature = bytes(64)
        forged = []
        for number in range(2000):
            message.seqno = number.to_bytes(8, "big")
            forged.append(message_frame(message.SerializeToString()))
        return forged

    def equivocations(self, speaker: Speaker) -> list[bytes]:
        return [speaker.published(number, data) for number in range(100) for data in (b"one", b"other")]


class Turns(PubSubCase):
    """Valid messages, as many and as fast as they are taken: the dearest that can be said."""

    async def flooded(self, count: int, said: int, frames: Callable[[list[bytes]], bytes]) -> None:
        """`count` speakers say `said` messages each, all at the same time; they are passed on to one who listens."""
        await self.attacked()
        ear, *speakers = await self.speakers(1 + count, subscribed=False)
        await self.say(ear, *subscription_frames([(True, ELSEWHERE)]), delimit(graft(ELSEWHERE)))
        floods = []
        for speaker in speakers:
            floods.append(frames([speaker.signed(number, topic=ELSEWHERE) for number in range(said)]))
            await self.pause(0)
        await gatherResults(
            Deferred.fromCoroutine(self.say(speaker, flood)) for speaker, flood in zip(speakers, floods, strict=True)
        )
        before = self.before["counters"]["delivered"]
        await self.status_when(
            lambda status: status["counters"]["delivered"] - before >= count * said, "the node has heard all of it"
        )
        await self.harmless(ear, *speakers)

    async def test_full_rpcs_of_one(self) -> None:
        await self.flooded(1, 8 * MAX_MESSAGES, full_rpcs)

    async def test_full_rpcs_of_what_is_dearest_to_read(self) -> None:
        """As much JSON as one RPC holds, in large messages and in many, within the rates of who says it."""
        await self.attacked()
        speakers = await self.speakers(4, subscribed=False)
        said = 0
        for speaker, (size, count) in zip(speakers, ((31_900, 62), (1_900, 1_000)) * 2, strict=True):
            signed = [speaker.signed(number, dear(speaker.name, size), COORDINATION) for number in range(count)]
            said += count
            rpcs = full_rpcs(signed, at_once=MAX_RPC // (size + 300))
            self.assertIsNone(await self.say(speaker, rpcs))
        before = self.before["counters"]["delivered"]
        await self.status_when(
            lambda status: status["counters"]["delivered"] - before >= said, "the node has heard all of it"
        )
        await self.harmless(*speakers)

    async def test_large_messages_beyond_the_rates(self) -> None:
        """A burst of messages, but not of bytes: what is too much is not read."""
        await self.attacked()
        speaker = await self.speaker(subscribed=False)
        signed = [speaker.signed(number, dear(speaker.name, 31_900), COORDINATION) for number in range(600)]
        self.assertIsNone(await self.say(speaker, *map(message_frame, signed)))
        status = await self.status_when(
            lambda status: status["counters"]["ignored"] + status["counters"]["graylisted"] > 300, "most are not heard"
        )
        self.assertLess(status["counters"]["delivered"] - self.before["counters"]["delivered"] - self.said, 200)
        await self.harmless(speaker)

    async def test_full_rpcs_of_many_at_once(self) -> None:
        await self.flooded(8, 2 * MAX_MESSAGES, full_rpcs)

    async def test_single_messages_of_many_at_once(self) -> None:
        """Each may hold the reactor for 2 ms: that does not add up."""
        await self.flooded(12, 1000, lambda signed: b"".join(map(message_frame, signed)))


def full_rpcs(signed: list[bytes], at_once: int = MAX_MESSAGES) -> bytes:
    """As many messages in one RPC as there may be."""
    messages = [pb.Message.FromString(each) for each in signed]
    step = min(at_once, MAX_MESSAGES)
    return b"".join(
        delimit(pb.RPC(publish=messages[start : start + step]).SerializeToString())
        for start in range(0, len(messages), step)
    )


def dear(name: str, size: int) -> bytes:
    """A message that is accepted, as dear to read as one of `size` bytes can be."""
    head = {"type": "Later", "id": "abcdefgh", "from": name, "timestamp": int(time.time()), "data": {}}
    nested = min((MAX_CONTAINERS - 3) // 2, (size - 200) // 10)
    rest = ",".join(["[{}]"] * nested + ["1"] * ((size - 200 - 5 * nested) // 2))
    return b"%s,%s}" % (json.dumps(head).encode()[:-1], f'"x":["\\ud83d\\ude00",{rest}]'.encode())


class Malformed(PubSubCase):
    """The table of spec/security.md 2.4, "own, from the fixes"."""

    def table(self, speaker: Speaker) -> dict[str, bytes]:
        good = speaker.signer.sign(TOPIC, b"x", (1).to_bytes(8, "big"))

        def changed(**fields: Any) -> bytes:
            message = pb.Message.FromString(good)
            for name, value in fields.items():
                if value is None:
                    message.ClearField(name)
                else:
                    setattr(message, name, value)
            return message_frame(message.SerializeToString())

        other = Identity.generate()
        return {
            "seqno of 0 bytes": changed(seqno=b""),
            "seqno of 7 bytes": changed(seqno=bytes(7)),
            "seqno of 9 bytes": changed(seqno=bytes(9)),
            "no seqno": changed(seqno=None),
            "from that is no peer id": changed(**{"from": b"\x00\x01x"}),
            "no from": changed(**{"from": None}),
            "from of another": changed(**{"from": other.peer_id.raw}),
            "a key that does not match": changed(key=other.public_key.to_protobuf()),
            "a key of a megabit": changed(key=bytes(60_000)),
            "no signature": changed(signature=None),
            "a signature of a byte": changed(signature=b"x"),
            "no topic": changed(topic=None),
            "an empty topic": changed(topic=""),
            "a topic of 300 bytes": changed(topic="t" * 300),
            "a topic that is not UTF-8": message_frame(good.replace(TOPIC.encode(), b"\xff" * len(TOPIC))),
            "nothing": message_frame(b"\x0a\x00"),
        }

    async def test_messages(self) -> None:
        """None is delivered; each is held against who sent it, but for topics that the node does not have."""
        await self.attacked()
        speaker = await self.speaker()
        names = list(self.table(speaker))
        await self.gone(speaker)
        speakers = await self.speakers(len(names))
        for speaker, name in zip(speakers, names, strict=True):
            self.assertIsNone(await self.say(speaker, *[self.table(speaker)[name]] * 8))
        for speaker, name in zip(speakers, names, strict=True):
            if "topic" not in name:
                await self.lost_its_place(speaker)
        status = await self.worked_off()
        self.assertGreater(sum(status["rejected"].values()), len(names) * 2)
        self.assertLessEqual(status["counters"]["delivered"], self.said)
        await self.harmless(*speakers)

    async def test_the_nodes_own_words_from_somebody_else(self) -> None:
        await self.attacked()
        speaker = await self.speaker()
        message = pb.Message.FromString(speaker.signer.sign(TOPIC, b"x", bytes(8)))
        setattr(message, "from", self.peer_id.raw)
        self.assertIsNone(await self.say(speaker, *[message_frame(message.SerializeToString())] * 100))
        status = await self.worked_off()
        self.assertLessEqual(status["counters"]["delivered"], self.said)
        await self.harmless(speaker)

    async def test_ids_again_and_again_and_peers_that_are_none(self) -> None:
        """Duplicates of one id in IHAVE and IWANT, ids that nobody has, and what a PRUNE may name."""
        await self.attacked()
        speaker = await self.speaker()
        others = Signer(Identity.generate())
        words = [others.sign(TOPIC, b"x", number.to_bytes(8, "big")) for number in range(20)]
        infos = [pb.PeerInfo(peerID=b"no peer %d" % number, signedPeerRecord=b"no record") for number in range(16)]
        exchange = control(prune=[pb.ControlPrune(topicID=TOPIC, backoff=1, peers=infos)])
        self.assertIsNone(
            await self.say(
                speaker,
                *mesh_frames([TOPIC], []),
                delimit(ihave(*[b"id"] * 300, topic=TOPIC)),
                delimit(iwant(*[b"id"] * 300)),
                *map(message_frame, words),
                delimit(exchange),
                delimit(exchange),
            )
        )
        status = await self.worked_off()
        self.assertEqual(
            status["counters"]["exchanged"], 16, "from who has been of use, and once: then it is not in the mesh"
        )
        await self.harmless(speaker)
