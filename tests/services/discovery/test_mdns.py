from __future__ import annotations

import asyncio
import hashlib
import os
import random
import socket
from unittest import SkipTest

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from chorus.identity import Identity, PeerId
from chorus.multiformats.multiaddr import Multiaddr
from chorus.services.discovery.mdns import (
    MAX_ADDRESSES,
    MAX_KNOWN,
    MAX_LOOKUPS,
    MAX_STRING,
    MAX_TXT,
    MdnsService,
    MdnsUnavailable,
    decode_txt,
    encode_txt,
    instance_name,
    service_type,
)
from tests.support import PureTestCase

ALICE = Identity.from_seed(b"\1" * 32).peer_id
BOB = Identity.from_seed(b"\2" * 32).peer_id
CLUSTER = b"\7" * 32
LAN = Multiaddr.parse("/ip4/192.168.1.7/tcp/9000")
LOOPBACK = Multiaddr.parse("/ip4/127.0.0.1/tcp/9000")


def txt(*texts: str) -> bytes:
    return b"".join(bytes((len(text),)) + text.encode() for text in texts)


class NameTests(PureTestCase):
    def test_service_of_a_cluster(self) -> None:
        digest = hashlib.sha256(b"chorus" + CLUSTER).hexdigest()
        self.assertEqual(service_type(CLUSTER), f"_p2p-{digest[:32]}._udp.local.")

    def test_instance(self) -> None:
        first, second = (instance_name(random.Random(seed)) for seed in range(2))
        self.assertNotEqual(first, second)
        self.assertTrue(32 <= len(first) <= 63)
        self.assertTrue(first.isalnum() and first == first.lower())


class TxtTests(PureTestCase):
    def test_round_trip(self) -> None:
        data = encode_txt(ALICE, [LAN, LOOPBACK])
        self.assertIn(f"dnsaddr=/ip4/192.168.1.7/tcp/9000/p2p/{ALICE}".encode(), data)
        self.assertEqual(decode_txt(data, loopback=False), {ALICE: (LAN.with_peer(ALICE),)})
        self.assertEqual(decode_txt(data, loopback=True), {ALICE: (LOOPBACK.with_peer(ALICE),)})

    def test_limits_of_what_is_announced(self) -> None:
        long = Multiaddr.parse(f"/dns/{'a' * MAX_STRING}/tcp/1")
        other = Multiaddr.parse("/ip4/192.168.1.7/tcp/9000/ws")
        self.assertEqual(encode_txt(ALICE, [long, other]), b"")
        many = encode_txt(ALICE, [Multiaddr.tcp("10.0.0.1", port) for port in range(1, 100)])
        self.assertLessEqual(len(many), MAX_TXT)
        self.assertGreater(len(many), MAX_TXT - 100)

    def test_limit_max_addresses(self) -> None:
        data = b"".join(txt(f"dnsaddr=/ip4/10.0.0.1/tcp/{port}/p2p/{ALICE}") for port in range(1, 50))
        self.assertEqual(len(decode_txt(data, loopback=False)[ALICE]), MAX_ADDRESSES)

    def test_what_is_not_dialled(self) -> None:
        for text in (
            "",
            "dnsaddr=",
            "dnsaddr=nothing",
            "other=/ip4/10.0.0.1/tcp/1",
            "dnsaddr=/ip4/10.0.0.1/tcp/1",
            f"dnsaddr=/ip4/10.0.0.1/udp/1/quic-v1/p2p/{ALICE}",
            f"dnsaddr=/ip4/10.0.0.1/tcp/1/p2p/{ALICE}/p2p-circuit/p2p/{BOB}",
            f"dnsaddr=/ip4/127.0.0.1/tcp/22/p2p/{ALICE}",
            f"dnsaddr=/ip6/::1/tcp/22/p2p/{ALICE}",
            f"dnsaddr=/dns/localhost/tcp/22/p2p/{ALICE}",
            f"dnsaddr=/ip6/::ffff:127.0.0.1/tcp/22/p2p/{ALICE}",
        ):
            self.assertEqual(decode_txt(txt(text), loopback=False), {}, text)
        self.assertEqual(decode_txt(txt("dnsaddr=")[:1] + b"\xff\xfe", loopback=False), {})

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.one_of(st.binary(max_size=60), st.just(encode_txt(ALICE, [LAN]))), max_size=4), st.booleans())
    def test_any_bytes(self, parts: list[bytes], loopback: bool) -> None:
        for peer, addresses in decode_txt(b"".join(parts), loopback=loopback).items():
            self.assertTrue(addresses and all(address.peer_id() == peer for address in addresses))


def usable() -> bool:
    """Whether multicast on loopback works here."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            membership = socket.inet_aton("224.0.0.251") + socket.inet_aton("127.0.0.1")
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
            probe.sendto(b"", ("224.0.0.251", 9))
    except OSError:
        return False
    return True


class OnLoopbackTests(TestCase):
    """Real sockets: two nodes on loopback."""

    timeout = 240

    def setUp(self) -> Deferred[None]:
        from twisted.internet import reactor

        if not hasattr(reactor, "_asyncioEventloop"):
            raise SkipTest("mDNS needs the asyncio reactor: run trial with --reactor=asyncio")
        if not usable():
            raise SkipTest("no multicast on the loopback interface of this machine")
        self.cluster = os.urandom(32)
        self.heard: dict[PeerId, Deferred[tuple[PeerId, tuple[Multiaddr, ...]]]] = {}
        # A test's first turn comes before the reactor runs.
        return deferLater(reactor, 0)

    async def node(self, peer: PeerId, port: int, cluster: bytes | None = None) -> MdnsService:
        heard: Deferred[tuple[PeerId, tuple[Multiaddr, ...]]] = Deferred()
        self.heard[peer] = heard

        def found(other: PeerId, addresses: tuple[Multiaddr, ...]) -> None:
            if not heard.called:
                heard.callback((other, addresses))

        service = MdnsService(
            peer=peer,
            cluster_id=cluster or self.cluster,
            addresses=[Multiaddr.tcp("127.0.0.1", port)],
            found=found,
            rng=random.Random(port),
        )
        self.addCleanup(service.stopService)
        await service.startService()
        return service

    async def test_two_nodes_hear_each_other(self) -> None:
        await self.node(ALICE, 9001)
        await self.node(BOB, 9002)
        self.assertEqual(await self.heard[ALICE], (BOB, (Multiaddr.tcp("127.0.0.1", 9002).with_peer(BOB),)))
        self.assertEqual(await self.heard[BOB], (ALICE, (Multiaddr.tcp("127.0.0.1", 9001).with_peer(ALICE),)))

    async def test_other_clusters_are_not_heard(self) -> None:
        await self.node(ALICE, 9001)
        await self.node(BOB, 9002, cluster=os.urandom(32))
        third = Identity.from_seed(b"\3" * 32).peer_id
        await self.node(third, 9003)
        self.assertEqual((await self.heard[ALICE])[0], third)
        self.assertFalse(self.heard[BOB].called)

    async def test_cve_2026_103936_random_datagrams(self) -> None:
        """Whatever arrives at the port, the node stays up and hears the next one."""
        service = await self.node(ALICE, 9001)
        rng = random.Random(103936)
        caught: list[dict[str, object]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: caught.append(context))
        self.addCleanup(loop.set_exception_handler, None)
        type_name = b"".join(bytes((len(label),)) + label.encode() for label in service._type.rstrip(".").split("."))
        headers = (bytes.fromhex("000084000000000100000000"), bytes.fromhex("000000000001000000000000"))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
            attacker.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            for number in range(int(os.environ.get("CHORUS_TEST_DATAGRAMS", "100000"))):
                junk = rng.randbytes(rng.randrange(0, 200))
                packet = (junk, headers[0] + junk, headers[1] + junk, headers[0] + type_name + b"\0" + junk)[number % 4]
                attacker.sendto(packet, ("224.0.0.251", 5353))
                # The loop takes one datagram a turn; faster, the kernel would drop what is meant to arrive.
                await Deferred.fromFuture(asyncio.ensure_future(asyncio.sleep(0)))
        await self.node(BOB, 9002)
        self.assertEqual((await self.heard[ALICE])[0], BOB)
        self.assertEqual(caught, [])
        self.flushLoggedErrors()

    async def test_flood_of_announcements_is_bounded(self) -> None:
        from zeroconf import ServiceStateChange

        service = await self.node(ALICE, 9001)
        for number in range(5 * MAX_KNOWN):
            service._changed(None, service._type, f"n{number}.{service._type}", ServiceStateChange.Added)
        self.assertEqual(len(service._known), MAX_KNOWN)
        self.assertEqual(len(service._lookups), MAX_LOOKUPS)
        service._changed(None, service._type, f"n0.{service._type}", ServiceStateChange.Removed)
        self.assertEqual(len(service._known), MAX_KNOWN - 1)

    async def test_stopping_twice_and_without_a_start(self) -> None:
        from zeroconf import ServiceStateChange

        service = await self.node(ALICE, 9001)
        self.assertIsNotNone(service._zeroconf)
        for _ in range(2):
            await service.stopService()
            self.assertEqual((service._zeroconf, service._browser), (None, None))
            self.assertFalse(service.running)
        # No lookup, no timer of it is left that could speak for a service that has stopped.
        service._changed(None, service._type, f"late.{service._type}", ServiceStateChange.Added)
        self.assertEqual(len(service._lookups), 0)
        assert service._repeat is not None
        self.assertTrue(service._repeat.cancelled())
        never = MdnsService(peer=BOB, cluster_id=self.cluster, addresses=[LOOPBACK], found=print, rng=random.Random(1))
        await never.stopService()
        self.assertIsNone(never._zeroconf)

    async def test_announced_address_of_another_machine(self) -> None:
        """Behind NAT or in a container: the default interface is used, or mDNS says that there is none."""
        service = MdnsService(
            peer=ALICE,
            cluster_id=self.cluster,
            addresses=[Multiaddr.tcp("203.0.113.7", 9000), Multiaddr.tcp("a.example", 9000)],
            found=print,
            rng=random.Random(1),
        )
        self.addCleanup(service.stopService)
        try:
            await service.startService()
        except MdnsUnavailable as error:
            self.assertIn("5353", str(error))

    async def test_no_address_to_announce(self) -> None:
        for addresses in ([], [Multiaddr.tcp("::1", 1)], [Multiaddr.parse("/ip4/127.0.0.1/udp/1/quic-v1")]):
            service = MdnsService(
                peer=ALICE, cluster_id=CLUSTER, addresses=addresses, found=print, rng=random.Random(1)
            )
            with self.assertRaises(MdnsUnavailable):
                await service.startService()
