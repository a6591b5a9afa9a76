"""Who is not admitted cannot say anything in the mesh: over real sockets, whichever side begins."""

from __future__ import annotations

import os
import random
import time

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from chorus.identity import Identity
from chorus.messages import COORDINATION, TASKS, TaskUpdate, encode
from chorus.protocols.dialing import DialError
from chorus.protocols.gossipsub.params import PROTOCOLS
from chorus.protocols.stream import Connection, ProtocolNotSupported
from chorus.protocols.streamio import StreamIO
from chorus.seams import PassThrough
from chorus.services.messaging import Messaging
from chorus.services.pubsub.service import PubSubService
from tests.messages.values import envelope
from tests.services.p2p.test_host import Secret
from tests.services.p2p_support import HostCase

UPDATE = TaskUpdate(task_id="t-1", state="running", attempt=1, timestamp=1_700_000_000)


class Waiting(Secret):
    """Never proves anything, and never gives up: its connection stays secured and not admitted."""

    def __init__(self, word: bytes) -> None:
        super().__init__(word)
        self.secured: list[Connection] = []

    def dialer(self, connection: Connection) -> Deferred[None]:
        self.secured.append(connection)
        return Deferred(lambda _: None)


class Member:
    def __init__(self, case: ClosedMesh, admission: Secret) -> None:
        identity = Identity.generate()
        self.peer_id = identity.peer_id
        self.host = case.host(admission=admission, identity=identity)
        self.opened = 0
        register = self.host.register

        def counting(protocol: str, opened: object, options: object) -> None:
            def count(stream: object) -> None:
                self.opened += 1
                opened(stream)  # type: ignore[operator]

            register(protocol, count, options)  # type: ignore[arg-type]

        self.host.register = counting  # type: ignore[method-assign]
        self.pubsub = PubSubService(self.host, identity, reactor, rng=random.Random(1))
        self.messaging = Messaging(
            self.pubsub, identity.peer_id, redactor=PassThrough(), wall=time.time, random=os.urandom
        )
        self.heard: list[str] = []
        self.messaging.listen(TaskUpdate, lambda envelope, _: self.heard.append(envelope.sender))
        self.messaging.join(COORDINATION)
        self.pubsub.startService()
        case.addCleanup(self.pubsub.stopService)

    def say(self) -> None:
        self.messaging.say(UPDATE)


class ClosedMesh(HostCase):
    async def members(self) -> tuple[Member, Member]:
        one, two = Member(self, Secret(b"w")), Member(self, Secret(b"w"))
        await self.dial(one.host, two.host)
        await self.until(lambda: one.pubsub.mesh_of(TASKS) and two.pubsub.mesh_of(TASKS))
        return one, two

    async def heard_only_of_members(self, one: Member, two: Member) -> None:
        """What a member says still arrives, and is all that has arrived."""
        one.say()
        await self.until(lambda: two.heard)
        self.assertEqual((one.heard, two.heard), ([], [str(one.peer_id)]))
        self.assertEqual((one.pubsub.peers(), two.pubsub.peers()), ([two.peer_id], [one.peer_id]))

    async def test_a_stream_of_pub_sub_is_refused_before_admission(self) -> None:
        one, two = await self.members()
        admission = Waiting(b"w")
        stranger = Member(self, admission)
        stranger.host.dial(two.peer_id, two.host.bound_addresses()).addErrback(lambda _: None)
        await self.until(lambda: admission.secured)
        before = two.opened
        signed = encode(envelope(UPDATE, sender=str(stranger.peer_id)))
        stranger.pubsub.publish(TASKS, signed)
        for protocol in PROTOCOLS:
            stream = StreamIO(await admission.secured[0].open_stream([protocol]), reactor)
            await self.assertFailure(Deferred.fromCoroutine(stream.read_exactly(1)), ProtocolNotSupported)
        self.assertEqual(two.opened, before)
        self.assertEqual((stranger.pubsub.peers(), stranger.opened), ([], 0))
        await self.heard_only_of_members(one, two)

    async def test_no_member_opens_a_stream_with_who_does_not_know_the_secret(self) -> None:
        one, two = await self.members()
        stranger = Member(self, Secret(b"x"))
        for here, there in ((stranger, two), (two, stranger)):
            await self.assertFailure(here.host.dial(there.peer_id, there.host.bound_addresses()), DialError)
            stranger.say()
        self.assertEqual((stranger.pubsub.peers(), stranger.opened, stranger.heard), ([], 0, []))
        await self.heard_only_of_members(one, two)
