from __future__ import annotations

from twisted.internet.error import CannotListenError, MessageLengthError
from twisted.internet.interfaces import IUDPTransport
from twisted.internet.protocol import DatagramProtocol
from zope.interface.verify import verifyObject

from chorus.simulation.net.links import LinkQuality
from chorus.simulation.world import MILLISECOND
from tests.simulation.support import ADDRESSES, Pair
from tests.support import PureTestCase


class Inbox(DatagramProtocol):
    noisy = False

    def __init__(self) -> None:
        self.got: list[tuple[bytes, tuple[str, int]]] = []

    def datagramReceived(self, datagram: bytes, addr: tuple[str, int]) -> None:
        self.got.append((datagram, addr))


class Datagrams(PureTestCase):
    def pair(self, quality: LinkQuality | None = None) -> Pair:
        pair = Pair(quality=quality)
        self.inbox, self.sender = Inbox(), Inbox()
        self.port = pair.reactors[1].listenUDP(53, self.inbox)
        pair.reactors[0].listenUDP(0, self.sender)
        return pair

    def send(self, count: int) -> None:
        for number in range(count):
            self.sender.transport.write(str(number).encode(), (ADDRESSES[1], 53))

    def test_one_arrives_and_names_its_sender(self) -> None:
        pair = self.pair()
        verifyObject(IUDPTransport, self.sender.transport)
        self.send(1)
        pair.run(1)
        host = self.sender.transport.getHost()
        self.assertEqual(self.inbox.got, [(b"0", (ADDRESSES[0], host.port))])
        self.inbox.transport.write(b"back", self.inbox.got[0][1])
        pair.run(1)
        self.assertEqual([data for data, _ in self.sender.got], [b"back"])

    def test_a_bad_link_loses_doubles_and_mixes_them(self) -> None:
        pair = self.pair(LinkQuality(jitter=MILLISECOND, loss=0.2, duplicate=0.2, reorder=0.2))
        self.send(300)
        pair.run(1)
        numbers = [int(data) for data, _ in self.inbox.got]
        self.assertTrue(150 < len(set(numbers)) < 290)
        self.assertGreater(len(numbers), len(set(numbers)))
        self.assertNotEqual(numbers, sorted(numbers))

    def test_a_cut_an_absent_port_and_a_dead_host_swallow_them(self) -> None:
        pair = self.pair()
        pair.cut(0, 1)
        self.send(1)
        pair.run(1)
        pair.cut(0, 1, -1)
        self.sender.transport.write(b"x", (ADDRESSES[1], 54))
        self.sender.transport.write(b"x", ("10.9.9.9", 53))
        pair.hosts[1].down = True
        self.send(1)
        pair.run(1)
        self.assertEqual(self.inbox.got, [])

    def test_limits_and_closing(self) -> None:
        pair = self.pair()
        self.assertRaises(MessageLengthError, self.sender.transport.write, bytes(65508), (ADDRESSES[1], 53))
        self.assertRaises(CannotListenError, pair.reactors[1].listenUDP, 53, Inbox())
        self.port.stopListening()
        self.send(1)
        pair.run(1)
        self.assertEqual(self.inbox.got, [])
        pair.reactors[1].listenUDP(53, Inbox())
