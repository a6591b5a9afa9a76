from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.logger import formatEvent, globalLogPublisher

from chorus.errors import ChorusError
from chorus.identity import Identity, KeyType, PeerId, PublicKey
from chorus.multiformats import varint
from chorus.multiformats.multiaddr import Multiaddr
from chorus.protocols import peers
from chorus.protocols.dialing import DialError
from chorus.protocols.envelope import PEER_RECORD_DOMAIN, PEER_RECORD_TYPE, PeerRecord, signed_bytes
from chorus.protocols.proto.envelope_pb2 import Envelope
from chorus.protocols.proto.envelope_pb2 import PeerRecord as Record
from chorus.protocols.proto.peers_pb2 import Answer
from chorus.protocols.stream import ProtocolOptions
from chorus.services.discovery.bootstrap import MAX_HEARD, MAX_MEMBERS, RETRY_MAX, PeerSource
from chorus.services.discovery.exchange import ASK_EVERY
from chorus.services.discovery.memory import MEMORY, SAVE_AFTER
from chorus.services.discovery.service import ALONE, MDNS_RETRY, DiscoveryService
from chorus.services.discovery.settings import DiscoverySettings
from tests.services.memory_host import MemoryConnection, MemoryHost, connect
from tests.support import PureTestCase

IDENTITIES = [Identity.from_seed(bytes((number,)) * 32) for number in range(1, 9)]
CLUSTER = b"\7" * 32


def record_on_p521() -> tuple[PeerId, bytes]:
    """A peer whose key is on that curve, and its record."""
    private = ec.generate_private_key(ec.SECP521R1())
    spki = private.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    public = PublicKey(KeyType.ECDSA, spki)
    peer = PeerId.from_public_key(public)
    payload = Record(peer_id=peer.raw, seq=1).SerializeToString()
    signed = signed_bytes(PEER_RECORD_DOMAIN, PEER_RECORD_TYPE, payload)
    return peer, Envelope(
        public_key=public.to_protobuf(),
        payload_type=PEER_RECORD_TYPE,
        payload=payload,
        signature=private.sign(signed, ec.ECDSA(hashes.SHA256())),
    ).SerializeToString()


def address_of(identity: Identity) -> Multiaddr:
    return Multiaddr.tcp("127.0.0.1", 9000 + IDENTITIES.index(identity))


class Network:
    """Which hosts answer at which address."""

    def __init__(self) -> None:
        self.hosts: dict[Multiaddr, DialableHost] = {}


class DialableHost(MemoryHost):
    def __init__(self, identity: Identity, clock: Clock, network: Network) -> None:
        super().__init__(identity.peer_id, clock)
        self.network = network
        self.addresses = [address_of(identity)]
        self.dials: list[tuple[float, PeerId]] = []
        self.pending: list[Deferred[MemoryConnection]] = []
        self.black_hole = False
        self.down = False
        self.came_up()

    def came_up(self) -> None:
        self.down = False
        for address in self.addresses:
            self.network.hosts[address] = self

    def went_down(self) -> None:
        self.down = True
        for address in self.addresses:
            self.network.hosts.pop(address, None)
        for connection in list(self.connections()):
            connection.close()

    def listen_addresses(self) -> list[Multiaddr]:
        return list(self.addresses)

    def dial(self, peer: PeerId | None, addresses: Sequence[Multiaddr]) -> Deferred[MemoryConnection]:
        assert peer is not None
        self.dials.append((self.clock.seconds(), peer))
        if self.black_hole:
            waiting: Deferred[MemoryConnection] = Deferred()
            self.pending.append(waiting)
            return waiting
        if (known := self.connection(peer)) is not None:
            return succeed(known)
        for address in () if self.down else addresses:
            other = self.network.hosts.get(address)
            if other is not None and other.peer_id == peer:
                out, back = connect(self, other, tell=False)
                out.remote_address = back.remote_address = address
                self.tell(out)
                other.tell(back)
                return succeed(out)
        return fail(DialError(peer, [(address, "refused") for address in addresses]))


class FakeMdns:
    def __init__(self, cluster_id: bytes, found, error: Exception | None = None) -> None:
        self.cluster_id = cluster_id
        self.found = found
        self.error = error
        self.running = False

    def startService(self) -> Deferred[None]:
        if self.error is not None:
            return fail(self.error)
        self.running = True
        return succeed(None)

    def stopService(self) -> Deferred[None]:
        self.running = False
        return succeed(None)


class DiscoveryTestCase(PureTestCase):
    def setUp(self) -> None:
        self.time = self.clock()
        self.network = Network()
        self.services: list[DiscoveryService] = []
        self.addCleanup(self.stop_all)

    def stop_all(self) -> None:
        for service in self.services:
            if service.running:
                self.successResultOf(service.stopService())
        self.time.advance(0)
        self.time.advance(20)

    def node(self, number: int, *, start: bool = True, **options: Any) -> tuple[DialableHost, DiscoveryService]:
        identity = IDENTITIES[number]
        host = DialableHost(identity, self.time, self.network)
        return host, self.service(host, number, start=start, **options)

    def service(self, host: DialableHost, number: int, *, start: bool = True, **options: Any) -> DiscoveryService:
        service = DiscoveryService(
            host,
            IDENTITIES[number],
            self.time,
            rng=random.Random(number),
            wall_ns=lambda: 1000 + number,
            settings=DiscoverySettings(**options),
        )
        self.services.append(service)
        if start:
            service.startService()
        return service

    def contact(self, number: int) -> Multiaddr:
        return address_of(IDENTITIES[number]).with_peer(IDENTITIES[number].peer_id)

    def wait(self, seconds: float) -> None:
        self.time.pump([0.05] * int(seconds * 20))

    def connected(self, host: DialableHost) -> set[int]:
        ids = [identity.peer_id for identity in IDENTITIES]
        return {ids.index(connection.peer_id) for connection in host.connections()}


class BootstrapTests(DiscoveryTestCase):
    def test_contact_is_dialled_at_once(self) -> None:
        self.node(0)
        host, _ = self.node(1, contacts=[self.contact(0)])
        self.wait(0.1)
        self.assertEqual(self.connected(host), {0})

    def test_contact_that_comes_later(self) -> None:
        host, service = self.node(1, contacts=[self.contact(0)])
        self.wait(30)
        self.assertGreater(service.counters["dial_failures"], 3)
        self.assertLess(service.counters["dial_failures"], 10)
        self.node(0)
        self.wait(RETRY_MAX)
        self.assertEqual(self.connected(host), {0})

    def test_being_alone_is_said_again_and_again(self) -> None:
        seen: list[tuple[float, str, str]] = []

        def observe(entry: dict[str, Any]) -> None:
            if entry.get("event") == "peer.none":
                seen.append((self.time.seconds(), entry["log_level"].name, formatEvent(entry)))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)
        host, service = self.node(1, contacts=[self.contact(0)])
        self.wait(2000)
        self.assertRegex(str(service.alone), "this node has not joined its cluster yet: .*refused")
        times = [at for at, _, _ in seen]
        gaps = [after - before for before, after in zip([0.0, *times], times, strict=False)]
        for gap, least in zip(gaps, (ALONE.first, 30, 60, 120, 240, 480, ALONE.most), strict=False):
            self.assertGreaterEqual(gap, least)
            self.assertLess(gap, least + RETRY_MAX + 1)
        self.assertGreaterEqual(len(gaps), 6)
        self.assertEqual({level for _, level, _ in seen}, {"warn"})
        self.assertIn("refused", seen[0][2])
        # Somebody else than the contact is enough.
        seen.clear()
        self.node(2, contacts=[self.contact(1)])
        self.wait(1)
        self.assertEqual((self.connected(host), service.alone), ({2}, None))
        self.wait(3000)
        self.assertEqual(seen, [])
        # Alone once more, it starts afresh.
        host.connections()[0].close()
        self.network.hosts.clear()
        self.successResultOf(self.services[1].stopService())
        begun = self.time.seconds()
        self.wait(RETRY_MAX + ALONE.first + RETRY_MAX)
        self.assertLess(seen[0][0] - begun, RETRY_MAX + ALONE.first + RETRY_MAX)
        self.assertRegex(str(service.alone), "no member of the cluster is connected: .*refused")

    def test_several_addresses_of_one_contact(self) -> None:
        self.node(0)
        wrong = Multiaddr.tcp("127.0.0.1", 1).with_peer(IDENTITIES[0].peer_id)
        host, service = self.node(1, contacts=[wrong, self.contact(0)])
        self.wait(0.1)
        self.assertEqual((self.connected(host), service.counters["dials"]), ({0}, 1))

    def test_join_stagger_spreads_the_first_dials(self) -> None:
        self.node(0)
        hosts = [self.node(number, contacts=[self.contact(0)], join_stagger_ms=5000)[0] for number in range(1, 8)]
        self.wait(6)
        first = sorted(host.dials[0][0] for host in hosts)
        self.assertGreater(first[-1] - first[0], 1.0)
        self.assertLessEqual(first[-1], 5.1)

    def test_own_address_is_no_contact(self) -> None:
        host, _ = self.node(0, contacts=[self.contact(0)])
        self.wait(1)
        self.assertEqual(host.dials, [])

    def test_dials_in_flight_are_given_up_at_the_stop(self) -> None:
        host, service = self.node(1, start=False, contacts=[self.contact(0)])
        host.black_hole = True
        service.startService()
        self.wait(1)
        cancelled: list[object] = []
        host.pending[0].addErrback(cancelled.append)
        self.successResultOf(service.stopService())
        self.assertEqual(service.counters["dial_failures"], 0)
        self.wait(100)
        self.assertEqual(len(host.dials), 1)

    def test_enough_connections(self) -> None:
        for number in range(1, 6):
            self.node(number, wanted_connections=0)
        host, _ = self.node(0, contacts=[self.contact(number) for number in range(1, 6)], wanted_connections=2)
        self.wait(120)
        self.assertEqual(len(self.connected(host)), 2)
        host.connections()[0].close()
        self.wait(RETRY_MAX)
        self.assertEqual(len(self.connected(host)), 2)

    def test_no_busy_waiting_without_room(self) -> None:
        contacts = [self.contact(number) for number in range(1, 8)]
        host, _ = self.node(0, start=False, contacts=contacts, wanted_connections=0)
        self.services[-1].startService()
        self.wait(10)
        self.assertEqual(host.dials, [])
        self.assertLess(len(self.time.getDelayedCalls()), 3)


class ReconnectionTests(DiscoveryTestCase):
    def test_after_a_loss(self) -> None:
        first, _ = self.node(0)
        second, _ = self.node(1, contacts=[self.contact(0)])
        self.wait(1)
        second.connections()[0].close()
        self.assertEqual(self.connected(second), set())
        self.wait(2)
        self.assertEqual((self.connected(first), self.connected(second)), ({1}, {0}))

    def test_after_a_long_absence(self) -> None:
        first, _ = self.node(0)
        second, service = self.node(1, contacts=[self.contact(0)])
        self.wait(1)
        first.went_down()
        self.wait(600)
        dials = len(second.dials)
        self.assertLess(dials, 40)
        self.assertEqual(service.targets.get(IDENTITIES[0].peer_id).connected, False)
        first.came_up()
        self.wait(RETRY_MAX)
        self.assertEqual(self.connected(second), {0})

    def test_a_connection_that_stays_while_another_of_the_pair_ends(self) -> None:
        first, service = self.node(0)
        second, _ = self.node(1, contacts=[self.contact(0)])
        self.wait(1)
        _, duplicate = connect(second, first, tell=False)
        kept = first.connection(second.peer_id)
        service._left(duplicate)
        self.assertIs(first.connection(second.peer_id), kept)
        self.assertTrue(service.targets.get(second.peer_id).connected)

    def test_admitted_without_identify_is_dialled_again(self) -> None:
        """A dial that ends well is not yet a member: the host announces those."""
        first, _ = self.node(0)
        second, _ = self.node(1, start=False, contacts=[self.contact(0)])
        second.tell = lambda connection: None
        self.services[-1].startService()
        self.wait(1)
        first.connections()[0].close()
        self.wait(20)
        self.assertEqual(len(second.dials), 2)


class PeersTests(DiscoveryTestCase):
    def test_a_member_tells_of_the_others(self) -> None:
        for number in range(1, 4):
            self.node(number, contacts=[self.contact(0)] if number > 1 else [])
        self.node(0, contacts=[self.contact(1)])
        self.wait(1)
        host, service = self.node(5, contacts=[self.contact(0)])
        self.wait(3)
        self.assertEqual(self.connected(host), {0, 1, 2, 3})
        self.assertGreater(service.counters["heard_peers"], 0)

    def test_newcomers_are_heard_of_by_asking_again(self) -> None:
        self.node(0)
        old, _ = self.node(1, contacts=[self.contact(0)])
        self.wait(3 * ASK_EVERY)
        self.node(2, contacts=[self.contact(0)], wanted_connections=1)
        self.wait(3)
        self.assertEqual(self.connected(old), {0})
        self.wait(2 * ASK_EVERY)
        self.assertEqual(self.connected(old), {0, 2})

    def test_two_that_join_at_the_same_moment(self) -> None:
        """Each asks before the member they join has heard the other's record; both ask again soon."""
        self.node(0)
        joining = [self.node(number, contacts=[self.contact(0)])[0] for number in (1, 2)]
        for host in joining:
            self.time.callLater(1.5, host.served.__setitem__, peers.PROTOCOL, host.served[peers.PROTOCOL])
            host.served[peers.PROTOCOL] = lambda stream: stream.reset()
        self.wait(16)
        self.assertEqual([self.connected(host) for host in joining], [{0, 2}, {0, 1}])

    def test_without_the_exchange(self) -> None:
        """Open mode: the protocol is neither served nor spoken."""
        first, _ = self.node(0)
        host, service = self.node(1, contacts=[self.contact(0)], exchange_peers=False)
        self.wait(2 * ASK_EVERY)
        self.assertEqual(self.connected(host), {0})
        self.assertEqual((service.counters["peers_asked"], host.protocols()), (0, []))
        self.assertEqual(first.protocols(), [peers.PROTOCOL])

    def test_only_connected_members_with_a_record_are_told(self) -> None:
        _, service = self.node(0)
        self.node(1, contacts=[self.contact(0)])
        gone, _ = self.node(2, contacts=[self.contact(0)])
        self.wait(3)
        gone.went_down()
        service.targets.add(IDENTITIES[6].peer_id, [Multiaddr.tcp("127.0.0.1", 5)], PeerSource.HEARD, 0.0)
        told = {found.peer_id for found, _ in self.answer_of(0)}
        self.assertEqual(told, {IDENTITIES[0].peer_id, IDENTITIES[1].peer_id})

    def answer_of(self, number: int) -> list[tuple[PeerRecord, bytes]]:
        asker = DialableHost(IDENTITIES[7], self.time, self.network)
        connection = self.successResultOf(asker.dial(IDENTITIES[number].peer_id, [address_of(IDENTITIES[number])]))
        stream = self.successResultOf(connection.open_stream([peers.PROTOCOL]))
        stream.set_receiver(Heard())
        request = peers.encode_request()
        stream.write(varint.encode(len(request)) + request)
        self.wait(0.5)
        size, start = varint.decode(stream.receiver.data)
        self.assertEqual(len(stream.receiver.data) - start, size)
        connection.close()
        return peers.decode_answer(stream.receiver.data[start:])

    def test_peer_exchange_believes_signed_records_alone(self) -> None:
        """A PRUNE names other peers; only what their own record says leads anywhere."""
        self.node(0)
        self.node(2)
        host, service = self.node(1, contacts=[self.contact(0)], exchange_peers=False)
        self.wait(3)
        source = IDENTITIES[0].peer_id
        self.assertEqual(self.connected(host), {0})
        self.assertIsNone(service.record_of(IDENTITIES[2].peer_id))
        record = PeerRecord(IDENTITIES[2].peer_id, 1, (address_of(IDENTITIES[2]).without_peer(),))
        good = record.seal(IDENTITIES[2])
        service.exchanged(source, IDENTITIES[2].peer_id, None)
        service.exchanged(IDENTITIES[5].peer_id, IDENTITIES[2].peer_id, good)
        self.assertEqual(service.counters["exchange_passed_over"], 2)
        service.exchanged(source, IDENTITIES[3].peer_id, good)
        service.exchanged(source, IDENTITIES[2].peer_id, good[:-1] + bytes([good[-1] ^ 1]))
        service.exchanged(source, IDENTITIES[2].peer_id, b"garbage")
        self.assertEqual(service.counters["exchange_refused"], 3)
        self.wait(3)
        self.assertEqual(self.connected(host), {0})
        service.exchanged(source, IDENTITIES[2].peer_id, good)
        self.wait(3)
        self.assertEqual(self.connected(host), {0, 2})

    def test_records_with_expensive_keys_are_refused_unverified(self) -> None:
        """Members have Ed25519 keys; 38 PRUNEs with sixteen records on P-521 held the reactor for 325 ms."""
        self.node(0)
        _, service = self.node(1, contacts=[self.contact(0)], exchange_peers=False)
        self.wait(3)
        peer, envelope = record_on_p521()
        self.assertEqual(PeerRecord.open(envelope, any_key=True).peer_id, peer)
        self.patch(PublicKey, "verify", lambda *_: self.fail("verified"))
        service.exchanged(IDENTITIES[0].peer_id, peer, envelope)
        self.assertEqual(service.counters["exchange_refused"], 1)
        self.assertEqual(peers.decode_answer(Answer(records=[envelope] * 32).SerializeToString()), [])

    def test_records_that_are_passed_on_are_those_of_connected_members(self) -> None:
        _, service = self.node(0)
        other, _ = self.node(1, contacts=[self.contact(0)])
        self.wait(3)
        envelope = service.record_of(other.peer_id)
        assert envelope is not None
        self.assertEqual(PeerRecord.open(envelope).peer_id, other.peer_id)
        other.went_down()
        self.assertIsNone(service.record_of(other.peer_id))

    def test_own_record_follows_the_addresses(self) -> None:
        host, _ = self.node(0)
        first = self.answer_of(0)[0][0]
        self.assertEqual((first.peer_id, first.addresses), (host.peer_id, tuple(host.addresses)))
        self.assertEqual(self.answer_of(0)[0][0], first)
        host.addresses = [Multiaddr.tcp("127.0.0.1", 7777), *host.addresses]
        self.assertEqual(self.answer_of(0)[0][0].addresses, tuple(host.addresses))

    def hostile(self, *answer: bytes, framed: bool = True) -> DiscoveryService:
        """Connect to a member that answers with these bytes; returns the service that asked it."""
        liar = DialableHost(IDENTITIES[6], self.time, self.network)

        def answer_with(stream) -> None:
            stream.set_receiver(Heard())
            for one in answer:
                stream.write((varint.encode(len(one)) + one) if framed else one)

        liar.register(peers.PROTOCOL, answer_with, ProtocolOptions())
        host, service = self.node(0, contacts=[self.contact(6)], wanted_connections=1)
        self.wait(1)
        self.assertEqual(self.connected(host), {6})
        return service

    def test_cve_2023_40583_records_of_strangers(self) -> None:
        service = self.hostile()
        connection = service._host.connections()[0]
        for number in range(2000):
            identity = Identity.from_seed(number.to_bytes(32, "big"))
            record = PeerRecord(identity.peer_id, 1, (Multiaddr.tcp("127.0.0.1", 1 + number),))
            service.learn(record, b"envelope", connection)
        self.assertLessEqual(len(service.targets), MAX_HEARD + 1)
        kept = [target for target in service.targets._targets.values() if target.record is not None]
        self.assertEqual(kept, [])

    def test_ghsa_xqvc_92cf_94j4_endless_answer(self) -> None:
        service = self.hostile(varint.encode(2**62), framed=False)
        self.assertEqual(service.counters["heard_peers"], 0)
        self.assertTrue(service._host.connections()[0].streams[0].closed)

    def test_garbage_answers(self) -> None:
        many, bad = (Answer(records=[b"x"] * count).SerializeToString() for count in (33, 1))
        for answer in (b"", b"\xff" * 50, many, bad):
            service = self.hostile(answer)
            self.assertEqual(len(service.targets), 1)
            self.successResultOf(service.stopService())

    def test_silent_member(self) -> None:
        service = self.hostile()
        self.wait(11)
        self.assertTrue(service._host.connections()[0].streams[0].closed)
        self.wait(60)
        self.assertLessEqual(len(service._exchange.questions), 1, "one question at a time")

    def test_record_of_oneself_and_of_the_teller(self) -> None:
        own = PeerRecord(IDENTITIES[0].peer_id, 10**18, (Multiaddr.tcp("127.0.0.1", 6666),)).seal(IDENTITIES[0])
        his = PeerRecord(IDENTITIES[6].peer_id, 5, (Multiaddr.tcp("127.0.0.1", 5555),)).seal(IDENTITIES[6])
        service = self.hostile(Answer(records=[own, his]).SerializeToString())
        self.assertNotIn(IDENTITIES[0].peer_id, service.targets)
        target = service.targets.get(IDENTITIES[6].peer_id)
        self.assertEqual((target.record, target.own), (his, (Multiaddr.tcp("127.0.0.1", 5555),)))

    def test_private_addresses_from_a_public_member(self) -> None:
        service = self.hostile()
        connection = service._host.connections()[0]
        connection.remote_address = Multiaddr.tcp("1.1.1.1", 1)
        private = PeerRecord(IDENTITIES[3].peer_id, 1, (Multiaddr.tcp("10.0.0.1", 22), Multiaddr.tcp("127.0.0.1", 22)))
        service.learn(private, b"", connection)
        self.assertNotIn(IDENTITIES[3].peer_id, service.targets)

    def test_garbage_questions(self) -> None:
        host, service = self.node(0)
        asker = DialableHost(IDENTITIES[7], self.time, self.network)
        for data in (b"\x02\xff\xff", varint.encode(2**62), b"\xff" * 9, varint.encode(peers.MAX_REQUEST + 1)):
            connection = self.successResultOf(asker.dial(host.peer_id, host.addresses))
            stream = self.successResultOf(connection.open_stream([peers.PROTOCOL]))
            stream.set_receiver(Heard())
            stream.write(data)
            self.wait(0.5)
            self.assertTrue(stream.closed, data)
            self.assertEqual(stream.receiver.data, b"")
            connection.close()
        self.assertEqual(service.counters["peers_answered"], 0)


class Heard:
    def __init__(self) -> None:
        self.data = b""

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> None: ...
    def stream_closed(self, error: ChorusError | None) -> None: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class MdnsTests(DiscoveryTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.made: list[FakeMdns] = []
        self.error: Exception | None = None

    def make(self, cluster_id: bytes, found) -> FakeMdns:
        self.made.append(FakeMdns(cluster_id, found, self.error))
        return self.made[-1]

    def test_starts_once_the_cluster_is_known(self) -> None:
        _, service = self.node(0, make_mdns=self.make)
        self.wait(1)
        self.assertEqual(self.made, [])
        service.cluster_known(CLUSTER)
        service.cluster_known(CLUSTER)
        self.assertEqual([(mdns.cluster_id, mdns.running) for mdns in self.made], [(CLUSTER, True)])
        self.successResultOf(service.stopService())
        self.assertFalse(self.made[0].running)

    def test_what_is_heard_is_dialled(self) -> None:
        self.node(1)
        host, service = self.node(0, make_mdns=self.make)
        service.cluster_known(CLUSTER)
        self.made[0].found(IDENTITIES[1].peer_id, (address_of(IDENTITIES[1]).with_peer(IDENTITIES[1].peer_id),))
        self.wait(0.2)
        self.assertEqual(self.connected(host), {1})
        self.assertIs(service.targets.get(IDENTITIES[1].peer_id).source, PeerSource.MEMBER)

    def test_failure_is_no_end(self) -> None:
        self.error = OSError("no network")
        _, service = self.node(0, make_mdns=self.make)
        service.cluster_known(CLUSTER)
        self.error = None
        self.wait(MDNS_RETRY + 0.1)
        self.assertEqual([mdns.running for mdns in self.made], [False, True])

    def test_stopped_while_waiting_for_a_retry(self) -> None:
        self.error = OSError("no network")
        _, service = self.node(0, make_mdns=self.make)
        service.cluster_known(CLUSTER)
        self.successResultOf(service.stopService())
        self.wait(MDNS_RETRY + 1)
        self.assertEqual(len(self.made), 1)


class MemoryTests(DiscoveryTestCase):
    def setUp(self) -> None:
        super().setUp()
        folder = Path(self.mktemp())
        folder.mkdir()
        self.memory = folder / MEMORY

    def test_members_are_remembered_across_restarts(self) -> None:
        self.node(0)
        host, service = self.node(1, contacts=[self.contact(0)], memory=self.memory)
        self.wait(SAVE_AFTER + 2)
        self.assertTrue(self.memory.exists())
        self.successResultOf(service.stopService())
        host.connections()[0].close()
        again = self.service(host, 1, memory=self.memory)
        self.wait(1)
        self.assertEqual(self.connected(host), {0})
        self.assertTrue(again.running)

    def test_who_was_a_member_does_not_say_that_it_never_joined(self) -> None:
        """Also when its only contact is gone at a restart, or has been away for so long that it is forgotten."""
        contact, _ = self.node(0)
        host, service = self.node(1, contacts=[self.contact(0)], memory=self.memory)
        self.wait(SAVE_AFTER + 2)
        contact.went_down()
        self.wait(1)
        self.assertRegex(str(service.alone), "^no member of the cluster is connected")
        self.successResultOf(service.stopService())
        again = self.service(host, 1, contacts=[self.contact(0)], memory=self.memory)
        self.wait(30)
        self.assertRegex(str(again.alone), "^no member of the cluster is connected: .")
        self.memory.write_bytes(b'{"peers":[],"version":1}')
        self.assertRegex(str(self.service(host, 1, memory=self.memory).alone), "^no member of the cluster")

    def test_a_change_just_before_the_stop_is_written(self) -> None:
        self.node(0)
        _, service = self.node(1, contacts=[self.contact(0)], memory=self.memory)
        self.wait(0.5)
        self.assertFalse(self.memory.exists())
        self.successResultOf(service.stopService())
        rows = json.loads(self.memory.read_bytes())["peers"]
        self.assertEqual([row["peer"] for row in rows], [str(IDENTITIES[0].peer_id)])

    def test_damaged_memory_is_ignored(self) -> None:
        for content in (
            b"",
            b"{}",
            b"[]",
            b'{"peers": 5}',
            b'{"peers": [{}]}',
            b'{"peers": [{"peer": "x", "addresses": []}]}',
            b'{"peers": [{"peer": 5, "addresses": []}]}',
            b'{"peers": [5]}',
            b"\xff",
            b"[" * 10_000,
        ):
            self.memory.write_bytes(content)
            self.memory.chmod(0o600)
            _, service = self.node(0, memory=self.memory)
            self.assertEqual(len(service.targets), 0, content)
            self.successResultOf(service.stopService())

    def test_limit_max_members_of_the_file(self) -> None:
        rows = [
            {"peer": str(PeerId(b"\x12\x20" + number.to_bytes(32, "big"))), "addresses": ["/ip4/127.0.0.1/tcp/1"]}
            for number in range(MAX_MEMBERS + 50)
        ]
        self.memory.write_text(json.dumps({"peers": rows}))
        self.memory.chmod(0o600)
        _, service = self.node(0, memory=self.memory)
        self.assertEqual(len(service.targets), MAX_MEMBERS)

    def test_full_disk_is_a_warning(self) -> None:
        self.node(0)
        host, _ = self.node(1, contacts=[self.contact(0)], memory=self.memory)

        def full(*arguments: object) -> None:
            raise OSError(28, "No space left on device")

        self.patch(os, "replace", full)
        self.wait(SAVE_AFTER + 2)
        self.assertEqual(self.connected(host), {0})

    def test_writes_follow_one_another(self) -> None:
        running: list[Deferred[None]] = []

        def slow(call) -> Deferred[None]:
            call()
            done: Deferred[None] = Deferred()
            running.append(done)
            return done

        self.node(0)
        self.node(2)
        host, _ = self.node(1, contacts=[self.contact(0)], memory=self.memory, in_thread=slow)
        self.wait(SAVE_AFTER + 2)
        self.assertEqual(len(running), 1)
        self.successResultOf(host.dial(IDENTITIES[2].peer_id, [address_of(IDENTITIES[2])]))
        self.wait(SAVE_AFTER + 2)
        self.assertEqual(len(running), 1)
        running[0].callback(None)
        self.assertEqual(len(running), 2)
        running[1].callback(None)


class LossAtAnyTimeTests(DiscoveryTestCase):
    def test_random_losses_and_restarts_always_heal(self) -> None:
        seed = int(os.environ.get("CHORUS_TEST_SEED", "20261121"))
        rng = random.Random(seed)
        nodes = {0: self.node(0)}
        for number in range(1, 5):
            nodes[number] = self.node(number, contacts=[self.contact(0)])
        self.wait(5)
        for _ in range(30):
            host, _ = nodes[rng.randrange(5)]
            if rng.random() < 0.5 and host.connections():
                rng.choice(host.connections()).close()
            else:
                host.went_down()
                self.wait(rng.random() * 20)
                host.came_up()
            self.wait(rng.random() * 5)
        self.wait(2 * RETRY_MAX)
        for number, (host, service) in nodes.items():
            self.assertEqual(self.connected(host), set(range(5)) - {number}, f"seed {seed}")
            self.assertEqual(service.targets.connected, 4, f"seed {seed}")
            self.assertEqual(service.targets.dialling, 0, f"seed {seed}")
