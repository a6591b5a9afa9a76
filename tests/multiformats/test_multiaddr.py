from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.identity import Identity
from chorus.multiformats import varint
from chorus.multiformats.multiaddr import MAX_BYTES, MAX_PARTS, MAX_TEXT, Multiaddr, MultiaddrError
from tests.support import PureTestCase, vectors

PEER = Identity.from_seed(bytes(32)).peer_id
ONION = "vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd"
CERTHASH = "uEiAkH5a4DPGKUuOBjYw0CgwjvcJCJMD2K_1aluKR_tpevQ"

ROUND_TRIPS = (
    "/ip4/127.0.0.1/tcp/0",
    "/ip6/::1/tcp/65535",
    "/ip6zone/eth0/ip6/fe80::1/tcp/9000",
    "/dns/example.org/tcp/9000",
    "/dns6/a.example/tcp/1/tls/ws",
    "/dnsaddr/bootstrap.example",
    "/ip4/192.0.2.1/udp/1/quic-v1/webtransport/certhash/" + CERTHASH,
    f"/onion3/{ONION}:80",
    "/unix/a/b/c",
    "/memory/x",
    f"/ip4/10.0.0.1/tcp/1/p2p/{PEER}/p2p-circuit/p2p/{PEER}",
)


CODES = {
    "ip4": 4,
    "tcp": 6,
    "ip6": 41,
    "ip6zone": 42,
    "dns": 53,
    "dns4": 54,
    "dns6": 55,
    "dnsaddr": 56,
    "udp": 273,
    "webrtc-direct": 280,
    "webrtc": 281,
    "p2p-circuit": 290,
    "unix": 400,
    "p2p": 421,
    "onion3": 445,
    "tls": 448,
    "sni": 449,
    "noise": 454,
    "quic": 460,
    "quic-v1": 461,
    "webtransport": 465,
    "certhash": 466,
    "ws": 477,
    "wss": 478,
    "memory": 777,
}
"""The registry of multiaddr protocols (multiformats/multiaddr, protocols.csv), as far as it is known here."""

VALUES = {
    "ip4": "192.0.2.1",
    "tcp": "1",
    "ip6": "2001:db8::1",
    "udp": "65535",
    "p2p": str(PEER),
    "onion3": f"{ONION}:65535",
    "certhash": CERTHASH,
} | dict.fromkeys(("ip6zone", "dns", "dns4", "dns6", "dnsaddr", "unix", "sni", "memory"), "name")


class MultiaddrTests(PureTestCase):
    def test_the_code_of_each_protocol(self) -> None:
        for name, code in CODES.items():
            address = Multiaddr.parse(f"/{name}" + (f"/{VALUES[name]}" if name in VALUES else ""))
            self.assertEqual([part for part, _ in address.parts], [code], name)
            self.assertEqual(Multiaddr.from_bytes(address.raw), address)

    def test_paths(self) -> None:
        """One in bytes begins with a slash and holds nothing that cannot be printed."""
        for value in (b"", b"a", b"a/b", b"/a\nb", b"/\x1b"):
            with self.assertRaises(MultiaddrError, msg=repr(value)):
                Multiaddr.from_bytes(varint.encode(400) + varint.encode(len(value)) + value)
        self.assertRaises(MultiaddrError, Multiaddr.parse, "/unix/a\nb")
        self.assertEqual(Multiaddr.parse("/unix/a/b").parts, ((400, b"/a/b"),))

    def test_the_longest(self) -> None:
        """A name of so many bytes that with its code and its length the whole has `MAX_BYTES`."""
        longest = "/dns/" + "a" * (MAX_BYTES - 3)
        self.assertEqual(len(Multiaddr.from_bytes(Multiaddr.parse(longest).raw).raw), MAX_BYTES)
        self.assertRaises(MultiaddrError, Multiaddr.parse, longest + "a")
        raw = Multiaddr.parse(longest).raw
        self.assertRaises(MultiaddrError, Multiaddr.from_bytes, raw + b"\xdd\x03")
        self.assertEqual(Multiaddr.parse("/ip4/1.2.3.4/").parts, Multiaddr.parse("/ip4/1.2.3.4").parts)

    def test_published(self) -> None:
        for row in vectors("multiformats.json")["multiaddr"]:
            encoded = bytes.fromhex(row["hex"])
            self.assertEqual(Multiaddr.parse(row["text"]).to_bytes(), encoded)
            self.assertEqual(str(Multiaddr.from_bytes(encoded)), row["text"])

    def test_round_trips(self) -> None:
        for text in ROUND_TRIPS:
            address = Multiaddr.parse(text)
            self.assertEqual(str(address), text)
            again = Multiaddr.from_bytes(address.to_bytes())
            self.assertEqual(again, address)
            self.assertEqual(hash(again), hash(address))
            self.assertEqual(again.parts, address.parts)

    def test_ipfs_is_an_alias(self) -> None:
        self.assertEqual(str(Multiaddr.parse(f"/ipfs/{PEER}")), f"/p2p/{PEER}")
        self.assertEqual(Multiaddr.parse(f"/p2p/{PEER.to_cid()}").peer_id(), PEER)

    def test_refused_texts(self) -> None:
        for text in (
            "",
            "/",
            "//",
            "ip4/127.0.0.1",
            "/ip4",
            "/ip4/",
            "/ip4/256.0.0.1",
            "/ip4/1.2.3",
            "/ip6/1.2.3.4",
            "/ip6/fe80::1%eth0",
            "/tcp/65536",
            "/tcp/-1",
            "/tcp/+1",
            "/tcp/²",
            "/tcp/" + "0" * 5000,
            "/nothing/1",
            "/p2p/notapeer",
            "/dns//tcp/1",
            "/ip4/1.2.3.4//tcp/1",
            "/onion3/short:1",
            f"/onion3/{ONION}",
            f"/onion3/{ONION}:0",
            "/dns/a\nb",
            "/dns/" + "a" * MAX_TEXT,
            "/dns/" + "a" * MAX_BYTES,
            "/ws" * (MAX_PARTS + 1),
        ):
            with self.assertRaises(MultiaddrError, msg=text[:60]):
                Multiaddr.parse(text)

    def test_refused_bytes(self) -> None:
        for text in (
            "",
            "04",
            "047f0000",
            "067f",
            "ffffffffffffffffff",
            "a503",
            "a50300",
            "a503022000",
            "36ff7f",
            "3601ff",
            "36012f",
            "3600",
            "b5ffff7f",
            "dd83" + "80" * 20,
            "dd03" * (MAX_PARTS + 1),
            "3687" + "07" + "61" * 905 + "00" * 200,
        ):
            with self.assertRaises(MultiaddrError, msg=text[:40]):
                Multiaddr.from_bytes(bytes.fromhex(text))

    def test_the_longest_in_use_are_taken(self) -> None:
        for text in (
            f"/ip6zone/eth0/ip6/fe80::1/udp/1/quic-v1/webtransport/certhash/{CERTHASH}/certhash/{CERTHASH}"
            f"/p2p/{PEER}/p2p-circuit/p2p/{PEER}",
            f"/dns4/example.org/tcp/443/tls/sni/example.org/ws/p2p/{PEER}/p2p-circuit/webrtc/p2p/{PEER}",
            "/ws" * MAX_PARTS,
        ):
            address = Multiaddr.parse(text)
            self.assertEqual(str(Multiaddr.from_bytes(address.raw)), text)

    def test_parts_are_limited_before_they_are_read(self) -> None:
        long = bytes.fromhex("29" + "00" * 16) * MAX_PARTS
        self.assertEqual(len(Multiaddr.from_bytes(long).parts), MAX_PARTS)
        for more in ("29" + "00" * 16, "dd03", "ffff7f"):
            with self.assertRaisesRegex(MultiaddrError, f"at most {MAX_PARTS} parts"):
                Multiaddr.from_bytes(long + bytes.fromhex(more))

    def test_tcp_endpoint(self) -> None:
        for text, expected in (
            ("/ip4/127.0.0.1/tcp/9000", ("127.0.0.1", 9000)),
            ("/ip6/::1/tcp/1", ("::1", 1)),
            ("/ip6zone/eth0/ip6/fe80::1/tcp/9", ("fe80::1%eth0", 9)),
            ("/dns4/a.example/tcp/2", ("a.example", 2)),
            (f"/ip4/127.0.0.1/tcp/9000/p2p/{PEER}", ("127.0.0.1", 9000)),
            ("/ip4/127.0.0.1/udp/9000", None),
            ("/ip4/127.0.0.1/tcp/9000/ws", None),
            (f"/ip4/127.0.0.1/tcp/9000/p2p/{PEER}/p2p-circuit", None),
            (f"/ip4/127.0.0.1/tcp/9000/p2p/{PEER}/p2p/{PEER}", None),
            ("/dnsaddr/a.example/tcp/2", None),
            ("/tcp/2", None),
            ("/ip6zone/eth0", None),
            ("/ip6zone/eth0/ip4/127.0.0.1/tcp/2", None),
            (f"/p2p/{PEER}", None),
        ):
            self.assertEqual(Multiaddr.parse(text).tcp_endpoint(), expected, text)

    def test_tcp(self) -> None:
        for host, text in (
            ("127.0.0.1", "/ip4/127.0.0.1/tcp/7"),
            ("::1", "/ip6/::1/tcp/7"),
            ("fe80::1%eth0", "/ip6zone/eth0/ip6/fe80::1/tcp/7"),
            ("a.example", "/dns/a.example/tcp/7"),
        ):
            address = Multiaddr.tcp(host, 7)
            self.assertEqual(str(address), text)
            self.assertEqual(address.tcp_endpoint(), (host, 7))
        with self.assertRaises(MultiaddrError):
            Multiaddr.tcp("127.0.0.1", 65536)

    def test_peer(self) -> None:
        bare = Multiaddr.parse("/ip4/127.0.0.1/tcp/1")
        self.assertIsNone(bare.peer_id())
        self.assertIs(bare.without_peer(), bare)
        other = Identity.from_seed(b"\1" * 32).peer_id
        full = bare.with_peer(other).with_peer(PEER)
        self.assertEqual(str(full), f"/ip4/127.0.0.1/tcp/1/p2p/{PEER}")
        self.assertEqual(full.peer_id(), PEER)
        self.assertEqual(full.without_peer(), bare)
        with self.assertRaises(MultiaddrError):
            Multiaddr.parse(f"/p2p/{PEER}").without_peer()

    def test_reach(self) -> None:
        for text, loopback, private in (
            ("/ip4/127.9.9.9/tcp/1", True, True),
            ("/ip6/::1/tcp/1", True, True),
            ("/ip6/::ffff:127.0.0.1/tcp/1", True, True),
            ("/dns4/localhost/tcp/1", True, True),
            ("/dns/a.localhost./tcp/1", True, True),
            ("/ip4/10.1.2.3/tcp/1", False, True),
            ("/ip4/100.64.0.1/tcp/1", False, True),
            ("/ip4/169.254.1.1/tcp/1", False, True),
            ("/ip4/0.0.0.0/tcp/1", False, True),
            ("/ip6/fd00::1/tcp/1", False, True),
            ("/ip6zone/e/ip6/fe80::1/tcp/1", False, True),
            ("/ip4/1.1.1.1/tcp/1", False, False),
            ("/ip6/2606:4700::1/tcp/1", False, False),
            ("/dns/example.org/tcp/1", False, False),
            (f"/p2p/{PEER}", False, False),
        ):
            address = Multiaddr.parse(text)
            self.assertEqual((address.is_loopback, address.is_private), (loopback, private), text)

    @settings(max_examples=300, deadline=None)
    @given(st.binary(max_size=64))
    def test_any_bytes(self, data: bytes) -> None:
        try:
            address = Multiaddr.from_bytes(data)
        except MultiaddrError:
            return
        self.assertEqual(address.to_bytes(), data)
        self.assertEqual(Multiaddr.parse(str(address)).to_bytes(), data)

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.sampled_from(ROUND_TRIPS), max_size=3).map("".join), st.text(max_size=20))
    def test_any_text(self, start: str, text: str) -> None:
        try:
            address = Multiaddr.parse(start + text)
        except MultiaddrError:
            return
        self.assertEqual(Multiaddr.from_bytes(address.to_bytes()), address)
        address.tcp_endpoint(), address.peer_id(), address.is_private, address.is_loopback

    @settings(max_examples=200, deadline=None)
    @given(st.sampled_from(ROUND_TRIPS), st.integers(0, 200), st.integers(0, 255))
    def test_flipped_bytes(self, text: str, position: int, value: int) -> None:
        data = bytearray(Multiaddr.parse(text).to_bytes())
        data[position % len(data)] = value
        try:
            address = Multiaddr.from_bytes(bytes(data))
        except MultiaddrError:
            return
        self.assertEqual(Multiaddr.from_bytes(Multiaddr.parse(str(address)).to_bytes()), address)
