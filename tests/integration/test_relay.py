"""A man in the middle of two members' admission, over real sockets: the proofs it carries between its own two Noise
connections are worth nothing there, nor are those it sends back (spec/cluster.md, "Admission").
"""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from chorus.errors import PeerError
from chorus.identity import Identity, PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols.admission import MAX_HELLO, PROTOCOL
from chorus.protocols.dialing import DialError
from chorus.protocols.stream import Connection, ProtocolNotSupported, Stream, StreamClosed
from chorus.protocols.streamio import StreamIO
from chorus.services.p2p.host import P2PService
from tests.integration.nodes import Node, NodeCase

MEMBERS_ONLY = ["/chorus/peers/1.0.0", "/chorus/tasks/1.0.0", "/chorus/blobs/1.0.0", "/meshsub/1.1.0"]


class NotAdmitted(PeerError):
    code = "man_in_the_middle"


class Middle:
    """Mallory's admission: keeps the hello of everybody who dials, and sends to those that are dialled what `send`
    says; `reflect` answers dialers with their own hello."""

    protocol = PROTOCOL

    def __init__(self, reactor) -> None:
        self.reactor = reactor
        self.heard: dict[PeerId, bytes] = {}
        self.send: dict[PeerId, bytes] = {}
        self.reflect = False
        self.reflected: set[PeerId] = set()
        self.answers: list[bytes] = []
        self.refused_protocols: list[str] = []

    def serve(self, stream: Stream) -> Deferred[None]:
        return Deferred.fromCoroutine(self._serve(StreamIO(stream, self.reactor)))

    async def _serve(self, io: StreamIO) -> None:
        peer = io.stream.connection.peer_id
        hello = await io.read_delimited(MAX_HELLO)
        self.heard[peer] = hello
        if self.reflect:
            await io.write_delimited(hello)
            # The refusal closes the connection.
            try:
                await io.read_delimited(MAX_HELLO)
            except StreamClosed:
                self.reflected.add(peer)
        raise NotAdmitted("heard enough")

    def dialer(self, connection: Connection) -> Deferred[None]:
        return Deferred.fromCoroutine(self._dial(connection))

    async def _dial(self, connection: Connection) -> None:
        for protocol in MEMBERS_ONLY:
            io = StreamIO(await connection.open_stream([protocol]), self.reactor)
            try:
                await io.read_all(MAX_HELLO)
            except ProtocolNotSupported:
                self.refused_protocols.append(protocol)
        io = StreamIO(await connection.open_stream([PROTOCOL]), self.reactor)
        await io.write_delimited(self.send[connection.peer_id])
        self.answers.append(await io.read_delimited(MAX_HELLO))


class RelayTest(NodeCase):
    def setUp(self) -> None:
        from twisted.internet import reactor

        super().setUp()
        self.reactor = reactor
        self.middle = Middle(reactor)
        self.identity = Identity.generate()
        self.mallory = self.host()

    def host(self) -> P2PService:
        """Mallory, once more: a host backs off from a peer that refused it."""
        host = P2PService(self.reactor, self.identity, admission=self.middle)
        host.startService()
        self.addCleanup(host.stopService)
        return host

    async def until(self, condition) -> None:
        """The test's own time limit ends it."""
        while not condition():
            await deferLater(self.reactor, 0.05)

    def members(self) -> tuple[Node, Node]:
        """Two, both of which dial mallory as well."""
        (address,) = self.mallory.listen_addresses()
        baited = {"CHORUS_BOOTSTRAP_PEERS": str(address.with_peer(self.mallory.peer_id))}
        founder = self.node("founder", CHORUS_FOUND="1", **baited).start()
        member = self.joining(founder, "member", **baited).start()
        self.together(founder, member)
        return founder, member

    async def attack(self, victim: Node, hello: bytes) -> None:
        """Dial `victim` and give it `hello` as our own proof; it must close without a word."""
        peer = PeerId.parse(await deferToThread(lambda: victim.peer_id))
        self.middle.send[peer] = hello
        self.middle.refused_protocols.clear()
        port = victim.ports["p2p"]
        with self.assertRaises(DialError):
            await self.host().dial(peer, [Multiaddr.tcp("127.0.0.1", port)])
        self.assertEqual(self.middle.refused_protocols, MEMBERS_ONLY)
        self.assertEqual(self.middle.answers, [])

    async def test_relayed_and_reflected_proofs_are_refused(self) -> None:
        founder, member = await deferToThread(self.members)
        ids = {node: PeerId.parse(await deferToThread(lambda node=node: node.peer_id)) for node in (founder, member)}
        await self.until(lambda: set(self.middle.heard) == set(ids.values()))

        # Relayed: each member's true proof, carried to the other one; and back to its maker on another connection.
        for victim, other in ((founder, member), (member, founder)):
            await self.attack(victim, self.middle.heard[ids[other]])
            await self.attack(victim, self.middle.heard[ids[victim]])
            wrong = await deferToThread(victim.refused, "admission_wrong_proof")
            self.assertEqual(wrong, 2)
            # As dialers they got no answer from a listener that had none to give.
            self.assertGreater(await deferToThread(victim.refused, "admission_unanswered"), 0)

        # Reflected: each dialer's own proof as the listener's.
        self.middle.reflect = True
        await self.until(lambda: self.middle.reflected == set(ids.values()))
        for victim in ids:
            self.assertGreater(await deferToThread(victim.refused, "admission_reflected"), 0)

        self.assertEqual(self.mallory.connections(), [])
        await deferToThread(self.together, founder, member)
