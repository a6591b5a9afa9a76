"""A live node among honest members of a topic and peers that say what they like: what attacks on pub/sub share."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall

from chorus.identity import Identity
from chorus.protocols.delimited import delimit
from chorus.protocols.gossipsub.encode import message_frame, subscription_frames
from chorus.protocols.gossipsub.params import MESHSUB_1_2, GossipParams
from chorus.protocols.gossipsub.sign import Signer
from chorus.protocols.stream import ProtocolOptions
from chorus.protocols.streamio import StreamIO
from chorus.services.p2p.gate import OpenAdmission
from chorus.services.p2p.host import P2PService
from chorus.services.p2p.settings import HostSettings
from chorus.services.pubsub.service import PubSubService
from chorus.services.pubsub.settings import PubSubSettings
from chorus.services.pubsub.topics import Received
from tests.integration.test_hostile_peers import HostileCase
from tests.protocols.test_gossip import graft

TOPIC = "attacked"
ELSEWHERE = "elsewhere"
"""A topic of the node's that the honest members do not have: what is said there costs only the node."""
LONGEST_TURN = 0.05
"""Seconds of processor time, on a machine that verifies a signature in 40 µs."""
INTERVAL = 0.05
LIMIT = 60.0
"""Seconds for anything that a test waits for."""
WRITE_LIMIT = 60.0
AT_ONCE = 20
"""Dials under way at a time: the node takes 64 handshakes."""
BACKLOG = 4096
"""Bytes waiting in the node's connections below which it has read what was said."""
STAMP = struct.Struct(">Q")


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

    def signed(self, seqno: int, data: bytes = b"x", topic: str = TOPIC) -> bytes:
        return self.signer.sign(topic, data, seqno.to_bytes(8, "big"))

    def published(self, seqno: int, data: bytes = b"x") -> bytes:
        return message_frame(self.signed(seqno, data))


class _Deaf:
    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> None: ...

    def stream_closed(self, error: object) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class PubSubCase(HostileCase):
    """A talker and a listener are connected to the node, and to each other only where a test asks for it."""

    timeout = 240

    async def attacked(self, *flags: str) -> None:
        await self.victim("--pubsub", *flags)
        self.heard: list[int] = []
        self.said = 0
        self.talker, self.listener = self.honest = [await self.member(), await self.member()]
        self.listener.subscribe(TOPIC, self._arrived)
        self.talker.subscribe(TOPIC, lambda received: None)
        await self.all_meshed()
        self._talking = LoopingCall(self._talk)
        self._talking.start(INTERVAL)
        self.addCleanup(lambda: self._talking.running and self._talking.stop())
        await self.until(lambda: len(self.heard) >= 5, "the listener hears the talker")
        self.before = await self.node.status()

    def _talk(self) -> None:
        self.talker.publish(TOPIC, STAMP.pack(self.said))
        self.said += 1

    def _arrived(self, received: Received) -> None:
        if received.from_peer == self.talker_id:
            self.heard.extend(STAMP.unpack(received.data))

    @property
    def talker_id(self) -> Any:
        return self.talker._host.peer_id

    # Honest members

    async def member(self) -> PubSubService:
        identity = Identity.generate()
        host = P2PService(reactor, identity, admission=OpenAdmission(), settings=HostSettings(open_mode=True))
        host.startService()
        pubsub = PubSubService(
            host, identity, reactor, rng=random.Random(2), settings=PubSubSettings(GossipParams(heartbeat=0.2))
        )
        pubsub.startService()
        self.addCleanup(host.stopService)
        self.addCleanup(pubsub.stopService)
        await host.dial(self.peer_id, [self.address])
        return pubsub

    async def redundant(self, count: int) -> list[PubSubService]:
        """`count` honest members in all, each connected to every other: messages come to the node by several ways.
        Only there can it expect of a member that it forwards. Returns those beyond the talker and the listener."""
        more = [await self.member() for _ in range(count - 2)]
        for pubsub in more:
            pubsub.subscribe(TOPIC, lambda received: None)
        self.honest = [self.talker, self.listener, *more]
        for number, newest in enumerate(self.honest):
            for other in self.honest[:number]:
                await newest._host.dial(other._host.peer_id, other._host.listen_addresses())
        await self.all_meshed()
        return more

    async def all_meshed(self) -> None:
        names = {str(pubsub._host.peer_id) for pubsub in self.honest}
        await self.status_when(lambda status: names <= set(status["mesh"]), "every honest member is in the node's mesh")
        await self.until(
            lambda: all(self.peer_id.raw in pubsub.router.mesh(TOPIC) for pubsub in self.honest),
            "the node is in the mesh of every honest member",
        )

    async def leave(self, members: Iterable[PubSubService]) -> None:
        for pubsub in members:
            self.honest.remove(pubsub)
            pubsub.stopService()
            await pubsub._host.stopService()

    # Those who attack

    async def speakers(self, count: int, *, subscribed: bool = True, grafted: bool = False) -> list[Speaker]:
        """Connected; when asked for, subscribed, and asking for a place in the mesh."""
        speakers: list[Speaker] = []
        while len(speakers) < count:
            new = [self._speaker(subscribed, grafted) for _ in range(min(AT_ONCE, count - len(speakers)))]
            speakers += await gatherResults([Deferred.fromCoroutine(each) for each in new], consumeErrors=True)
        names = {speaker.name for speaker in speakers}
        await self.status_when(lambda status: names <= set(status["scores"]), "the node knows the attackers")
        return speakers

    async def speaker(self, *, subscribed: bool = True, grafted: bool = False) -> Speaker:
        (speaker,) = await self.speakers(1, subscribed=subscribed, grafted=grafted)
        return speaker

    async def _speaker(self, subscribed: bool, grafted: bool) -> Speaker:
        identity = Identity.generate()
        host = P2PService(reactor, identity, admission=OpenAdmission(), settings=HostSettings(open_mode=True))
        speaker = Speaker(identity, host)
        host.startService()
        self.addCleanup(host.stopService)
        await host.dial(self.peer_id, [self.address])
        beginning = subscription_frames([(True, TOPIC)]) if subscribed else []
        if grafted:
            beginning.append(delimit(graft(TOPIC)))
        self.assertIsNone(await self.say(speaker, *beginning))
        return speaker

    async def say(self, speaker: Speaker, *frames: bytes) -> Exception | None:
        """Write them all, as fast as they are taken; the error of the stream, if it did not outlive that."""
        try:
            if speaker.stream is None:
                connection = speaker.host.connection(self.peer_id)
                stream = await connection.open_stream([MESHSUB_1_2])
                speaker.stream = StreamIO(stream, reactor, timeout=WRITE_LIMIT)
            for frame in frames:
                await speaker.stream.write(frame)
        except Exception as error:
            speaker.stream = None
            return error
        return None

    # What the node does

    async def worked_off(self) -> dict[str, Any]:
        """How the node is when it has read all that was said, a few heartbeats later."""
        quiet = 0

        def seen(status: dict[str, Any]) -> bool:
            nonlocal quiet
            quiet = quiet + 1 if status["buffered"] < BACKLOG else 0
            return quiet > 6

        return await self.status_when(seen, "the node has worked off what was said")

    async def lost_its_place(self, speaker: Speaker, below: float = 0.0) -> dict[str, Any]:
        return await self.status_when(
            lambda status: status["scores"].get(speaker.name, 0.0) < below and speaker.name not in status["mesh"],
            f"{speaker.name} has a score below {below:g} and no place in the mesh",
        )

    async def gone(self, *speakers: Speaker) -> None:
        await gatherResults([speaker.host.stopService() for speaker in speakers])

    async def harmless(self, *speakers: Speaker) -> dict[str, Any]:
        """The attackers leave. All was heard, no turn was long, and nothing of them is left in the node."""
        await self.gone(*speakers)
        await self.status_when(lambda status: status["admitted"] == 3, "only the honest are connected")
        self._talking.stop()
        await self.until(lambda: len(self.heard) >= self.said, "the listener has heard all that was said")
        self.assertEqual(sorted(self.heard), list(range(self.said)), "each once")
        self.assertNotIn(math.inf, self.round_trips, "each ping was answered")
        status = await self.node.status()
        self.assert_short_turns(status)
        self.assertEqual((status["counters"]["errors"], status["bugs"]), (0, 0), self.node.errors.decode())
        self.assertNotIn(b"Traceback", self.node.errors)
        self.assertLess(status["rss_kb"], self.before["rss_kb"] + self.growth_kb)
        self.assertEqual(status["topics"], self.before["topics"])
        self.assertLess(status["timers"], self.before["timers"] + 5)
        for pubsub in (self.talker, self.listener):
            name = str(pubsub._host.peer_id)
            self.assertGreaterEqual(status["scores"][name], 0.0)
            self.assertIn(name, status["mesh"])
        return status

    def assert_short_turns(self, status: dict[str, Any]) -> None:
        self.assertLess(status["longest_turn"], LONGEST_TURN * status["slowness"])

    async def until(self, condition: Callable[[], bool], what: str, seconds: float = LIMIT) -> None:
        end = reactor.seconds() + seconds
        while not condition():
            if reactor.seconds() > end:
                self.fail(f"not within {seconds:g} s: {what}")
            await self.pause(0.05)
