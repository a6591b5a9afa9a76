"""Published failures of pub/sub (spec/security.md 2.4), each against a live node in a process of its own.

Two honest members are connected to the node and not to each other: what one says reaches the other through the node
alone, all the time, within a second. After every attack the node has met no error of its own and holds no more than
before, and no turn of its reactor took more than 50 ms of processor time.
"""

from __future__ import annotations

import random
import struct
import time
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from chorus.identity import Identity
from chorus.protocols.delimited import delimit
from chorus.protocols.gossip_params import MAX_RPC, MESHSUB_1_2, GossipParams
from chorus.protocols.gossip_rpc import idontwant_frames, mesh_frames, message_frame, subscription_frames
from chorus.protocols.gossip_sign import Signer
from chorus.protocols.proto import rpc_pb2 as pb
from chorus.protocols.stream import ProtocolOptions
from chorus.protocols.streamio import StreamIO
from chorus.services.p2p import OpenAdmission, P2PService
from chorus.services.pubsub import PubSubService, Received
from tests.integration.test_hostile_peers import HostileCase
from tests.protocols.test_gossip import control, graft, ihave, iwant, prune, subscription

TOPIC = "attacked"
LONGEST_TURN = 0.05
"""Seconds of processor time, on a machine that verifies a signature in 40 µs."""
INTERVAL = 0.05
LATEST = 1.0
"""Seconds in which the bystanders' messages must arrive."""
STAMP = struct.Struct(">Qd")


class Speaker:
    """A peer that says whatever it likes on its pub/sub stream, and drops what it is told."""

    def __init__(self, identity: Identity, host: P2PService) -> None:
        self.identity = identity
        self.host = host
        self.stream: Any = None
        self.signer = Signer(identity)
        host.register(MESHSUB_1_2, lambda stream: stream.set_receiver(_Deaf()), ProtocolOptions(max_inbound_per_peer=4))

    @property
    def name(self) -> str:
        return str(self.identity.peer_id)

    def published(self, seqno: int, data: bytes = b"x", topic: str = TOPIC) -> bytes:
        return message_frame(self.signer.sign(topic, data, seqno.to_bytes(8, "big")))


class _Deaf:
    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> None: ...

    def stream_closed(self, error: object) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class PubSubCase(HostileCase):
    timeout = 60

    async def attacked(self) -> None:
        await self.victim("--pubsub")
        self.talker, self.listener = await self.member(), await self.member()
        self.latencies: list[float] = []
        self.said = 0
        self.listener.subscribe(TOPIC, self._arrived)
        self.talker.subscribe(TOPIC, lambda received: None)
        await self.status_when(lambda status: len(status["mesh"]) == 2)
        self._talking = LoopingCall(self._talk)
        self._talking.start(INTERVAL)
        self.addCleanup(lambda: self._talking.running and self._talking.stop())
        await self.pause(0.5)
        self.before = await self.node.status()

    async def member(self) -> PubSubService:
        identity = Identity.generate()
        host = P2PService(reactor, identity, admission=OpenAdmission(), open_mode=True)
        host.startService()
        pubsub = PubSubService(host, identity, reactor, rng=random.Random(2), params=GossipParams(heartbeat=0.2))
        pubsub.startService()
        self.addCleanup(host.stopService)
        self.addCleanup(pubsub.stopService)
        await host.dial(self.peer_id, [self.address])
        return pubsub

    def _talk(self) -> None:
        self.talker.publish(TOPIC, STAMP.pack(self.said, time.monotonic()))
        self.said += 1

    def _arrived(self, received: Received) -> None:
        if len(received.data) == STAMP.size:
            self.latencies.append(time.monotonic() - STAMP.unpack(received.data)[1])

    async def speaker(self) -> Speaker:
        identity = Identity.generate()
        host = P2PService(reactor, identity, admission=OpenAdmission(), open_mode=True)
        speaker = Speaker(identity, host)
        host.startService()
        self.addCleanup(host.stopService)
        await host.dial(self.peer_id, [self.address])
        await self.status_when(lambda status: speaker.name in status["scores"])
        return speaker

    async def say(self, speaker: Speaker, *frames: bytes) -> Exception | None:
        """Write them all, as fast as they are taken; the error of the stream, if it did not outlive that."""
        try:
            if speaker.stream is None:
                connection = speaker.host.connection(self.peer_id)
                speaker.stream = StreamIO(await connection.open_stream([MESHSUB_1_2]), reactor, timeout=30)
            for frame in frames:
                await speaker.stream.write(frame)
        except Exception as error:
            speaker.stream = None
            return error
        return None

    async def heard(self, speaker: Speaker) -> dict[str, Any]:
        """Wait until the node has worked off what was said, then what it thinks."""
        quiet = 0
        while quiet < 4:
            await self.pause(0.1)
            quiet = quiet + 1 if (status := await self.node.status())["buffered"] < 4096 else 0
        return status

    async def lost_its_place(self, speaker: Speaker, below: float = 0.0) -> dict[str, Any]:
        status = await self.status_when(
            lambda status: status["scores"].get(speaker.name, 0.0) < below and speaker.name not in status["mesh"]
        )
        return status

    async def harmless(self, *speakers: Speaker) -> dict[str, Any]:
        for speaker in speakers:
            speaker.stream = None
            await speaker.host.stopService()
        status = await self.status_when(lambda status: status["admitted"] == 3)
        self._talking.stop()
        await self.until(lambda: len(self.latencies) >= self.said - 1)
        self.assertLess(max(self.latencies), LATEST)
        self.assertLess(max(self.round_trips), LATEST)
        self.assertLess(status["longest_turn"], LONGEST_TURN * status["slowness"])
        self.assertEqual((status["counters"]["errors"], status["bugs"]), (0, 0), self.node.errors.decode())
        self.assertNotIn(b"Traceback", self.node.errors)
        self.assertLess(status["rss_kb"], self.before["rss_kb"] + self.growth_kb)
        self.assertEqual(status["topics"], self.before["topics"])
        self.assertLess(status["timers"], self.before["timers"] + 5)
        for peer in (self.talker, self.listener):
            name = str(peer.router.peer_id and peer._host.peer_id)
            self.assertGreaterEqual(status["scores"][name], 0.0)
            self.assertIn(name, status["mesh"])
        return status

    async def until(self, condition: Any) -> None:
        while not condition():
            await self.pause(0.05)


def test(body: Any) -> Any:
    """A coroutine as a test."""

    def run(self: Any) -> Deferred[None]:
        return Deferred.fromCoroutine(body(self))

    run.__name__, run.__doc__ = body.__name__, body.__doc__
    return run


class Bombs(PubSubCase):
    @test
    async def test_cve_2026_46679_a_hundred_thousand_topics(self) -> None:
        """js gossipsub: topics without end in subscriptions, and sets of them that are never freed."""
        await self.attacked()
        speaker = await self.speaker()
        for subscribe in (True, False):
            changes = [(subscribe, f"topic/{number}") for number in range(100_000)]
            self.assertIsNone(await self.say(speaker, *subscription_frames(changes)))
        status = await self.heard(speaker)
        self.assertLessEqual(status["topics"], self.before["topics"] + 100)
        await self.lost_its_place(speaker)
        await self.harmless(speaker)

    @test
    async def test_cve_2026_86040_a_megabyte_of_empty_subscriptions(self) -> None:
        await self.attacked()
        speaker = await self.speaker()
        for _ in range(5):
            await self.say(speaker, delimit(b"\x0a\x00" * (MAX_RPC // 2)))
            await self.refused(speaker)
        status = await self.harmless(speaker)
        self.assertGreaterEqual(status["counters"]["streams_refused"], 5)

    @test
    async def test_cve_2026_86040_other_megabytes_of_nothing(self) -> None:
        """The same with every other field that can be empty, at every depth."""
        await self.attacked()
        speaker = await self.speaker()
        half = MAX_RPC // 2
        for bomb in (
            b"\x12\x00" * half,
            b"\x1a\x00" * half,
            b"\x1a\xfc\xff\x3f" + b"\x0a\x00" * (half - 2),
            b"\x1a\xfc\xff\x3f" + b"\x12\x00" * (half - 2),
            b"\x1a\xfc\xff\x3f" + b"\x1a\x00" * (half - 2),
            b"\x1a\xfc\xff\x3f" + b"\x2a\x00" * (half - 2),
            b"\x1a\xfc\xff\x3f\x22\xf8\xff\x3f" + b"\x12\x00" * (half - 4),
            b"\x1a\xfc\xff\x3f\x0a\xf8\xff\x3f" + b"\x12\x00" * (half - 4),
            b"\x1a\xfc\xff\x3f\x2a\xf8\xff\x3f" + b"\x0a\x00" * (half - 4),
        ):
            await self.say(speaker, delimit(bomb))
            await self.refused(speaker)
        await self.harmless(speaker)

    async def refused(self, speaker: Speaker) -> None:
        """Wait for the end of the stream that the node resets (or for it to have read what it passes over)."""
        stream, speaker.stream = speaker.stream, None
        if stream is not None:
            await self.heard(speaker)
            stream.reset()

    @test
    async def test_cve_2026_95859_grafts_of_unknown_topics(self) -> None:
        """rust gossipsub: topics named in GRAFT added to the peer's own."""
        await self.attacked()
        speaker = await self.speaker()
        frames = [delimit(graft(*(f"t/{start + n}" for n in range(200)))) for start in range(0, 100_000, 200)]
        self.assertIsNone(await self.say(speaker, *frames))
        status = await self.lost_its_place(speaker, -50.0)
        self.assertEqual((status["topics"], status["held"]["backoffs"]), (self.before["topics"], 0))
        await self.harmless(speaker)

    @test
    async def test_cve_2026_33040_cve_2026_34219_backoffs_at_every_border(self) -> None:
        """rust gossipsub: u64 max, then near-max plus slack, overflow at the next heartbeat."""
        await self.attacked()
        speaker = await self.speaker()
        self.assertIsNone(await self.say(speaker, *subscription_frames([(True, TOPIC)]), delimit(graft(TOPIC))))
        for backoff in (0, 1, 2**32, 2**63 - 1, 2**63, 2**64 - 61, 2**64 - 1):
            self.assertIsNone(await self.say(speaker, delimit(prune(TOPIC, backoff)), delimit(graft(TOPIC))))
            await self.pause(0.5)
        status = await self.heard(speaker)
        self.assertNotIn(speaker.name, status["mesh"])
        await self.harmless(speaker)


class Scores(PubSubCase):
    @test
    async def test_cve_2022_47547_a_member_that_never_forwards(self) -> None:
        await self.attacked()
        # Only where messages come by several ways can the node expect them of a member.
        more = [await self.member() for _ in range(3)]
        for pubsub in more:
            pubsub.subscribe(TOPIC, lambda received: None)
            await pubsub._host.dial(self.talker._host.peer_id, self.talker._host.listen_addresses())
        speaker = await self.speaker()
        await self.say(speaker, *subscription_frames([(True, TOPIC)]), delimit(graft(TOPIC)))
        await self.status_when(lambda status: speaker.name in status["mesh"])
        await self.lost_its_place(speaker)
        for pubsub in more:
            pubsub.stopService()
            await pubsub._host.stopService()
        await self.harmless(speaker)

    @test
    async def test_cve_2020_12821_forty_sybils_for_each_honest_member(self) -> None:
        """They fill the node's connections and ask for its mesh; what honest members say goes on arriving, and the
        silent do not stay in the mesh."""
        await self.attacked()
        sybils = [await self.speaker() for _ in range(80)]
        for sybil in sybils:
            await self.say(sybil, *subscription_frames([(True, TOPIC)]), delimit(graft(TOPIC)))
        status = await self.heard(sybils[0])
        names = {sybil.name for sybil in sybils}
        self.assertGreater(len(names & set(status["mesh"])), 0, "they did get in")
        status = await self.status_when(lambda status: sum(status["scores"].get(name, 0.0) < 0 for name in names) >= 4)
        await self.harmless(*sybils)

    @test
    async def test_floods_of_control(self) -> None:
        await self.attacked()
        many = [b"%046d" % number for number in range(300)]
        topics = [f"t{number}" for number in range(90)]
        for rpcs in (
            [delimit(ihave(*many, topic=TOPIC))],
            [delimit(iwant(*many))],
            idontwant_frames(many),
            [delimit(prune("unknown", 60))] * 10,
            [delimit(subscription(*topics)), delimit(subscription(*topics, subscribe=False))],
            [delimit(graft(TOPIC)), delimit(prune(TOPIC, 3600))],
        ):
            speaker = await self.speaker()
            await self.say(speaker, *subscription_frames([(True, TOPIC)]))
            for _ in range(40):
                if speaker.name not in (await self.node.status())["scores"]:
                    break
                await self.say(speaker, *(rpcs * 40))
                if (await self.node.status())["scores"].get(speaker.name, 0.0) < -100.0:
                    break
            await self.lost_its_place(speaker)
            await speaker.host.stopService()
        await self.harmless()

    @test
    async def test_replays_forgeries_and_two_messages_under_one_number(self) -> None:
        await self.attacked()
        for attack in (self.replays, self.forgeries, self.equivocations):
            speaker = await self.speaker()
            await self.say(speaker, *subscription_frames([(True, TOPIC)]), delimit(graft(TOPIC)))
            await self.say(speaker, *attack(speaker))
            await self.lost_its_place(speaker)
            await speaker.host.stopService()
        status = await self.harmless()
        self.assertGreater(status["counters"]["equivocations"], 0)

    def replays(self, speaker: Speaker) -> list[bytes]:
        return [speaker.published(1)] * 5000

    def forgeries(self, speaker: Speaker) -> list[bytes]:
        forged = []
        for number in range(2000):
            message = pb.Message.FromString(speaker.signer.sign(TOPIC, b"x", number.to_bytes(8, "big")))
            message.signature = bytes(64)
            forged.append(message_frame(message.SerializeToString()))
        return forged

    def equivocations(self, speaker: Speaker) -> list[bytes]:
        return [speaker.published(number, data) for number in range(100) for data in (b"one", b"other")]


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

    @test
    async def test_messages(self) -> None:
        await self.attacked()
        delivered = (await self.node.status())["counters"]["delivered"]
        names = list(self.table(await self.speaker()))
        for name in names:
            speaker = await self.speaker()
            for _ in range(20):
                await self.say(speaker, self.table(speaker)[name])
            if "topic" in name and "key" not in name:
                await self.heard(speaker)
            await speaker.host.stopService()
        status = await self.node.status()
        self.assertGreater(sum(status["rejected"].values()), len(names) * 2)
        self.assertLess(status["counters"]["delivered"] - delivered, self.said + 1)
        await self.harmless()

    @test
    async def test_ids_again_and_again_and_peers_that_are_none(self) -> None:
        """Duplicates of one id in IHAVE and IWANT, ids that nobody has, and what a PRUNE may name."""
        await self.attacked()
        speaker = await self.speaker()
        infos = [pb.PeerInfo(peerID=b"no peer", signedPeerRecord=b"no record")] * 16
        exchange = control(prune=[pb.ControlPrune(topicID=TOPIC, backoff=1, peers=infos)])
        await self.say(
            speaker,
            *subscription_frames([(True, TOPIC)]),
            *mesh_frames([TOPIC], []),
            delimit(ihave(*[b"id"] * 300, topic=TOPIC)),
            delimit(iwant(*[b"id"] * 300)),
            delimit(exchange),
            *[speaker.published(number) for number in range(20)],
            delimit(exchange),
        )
        status = await self.heard(speaker)
        self.assertEqual(status["counters"]["exchanged"], 16)
        await self.harmless(speaker)
