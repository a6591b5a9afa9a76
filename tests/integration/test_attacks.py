"""Published failures of other implementations, played against a live node over real sockets (spec/security.md 2).

`test_hostile_peers` has the floods; here are the rows that were tested without sockets so far, and at the end all
of it, one after the other, against a whole agent that has a task to run.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from chorus.identity import Identity
from chorus.protocols import identify, multistream, ping
from chorus.protocols.noise.handshake import SIGNATURE_PREFIX
from chorus.protocols.noise.xx import NoiseXX, generate_keypair
from chorus.protocols.proto.identify_pb2 import Identify
from chorus.protocols.proto.noise_pb2 import NoiseExtensions, NoiseHandshakePayload
from tests.integration.test_hostile_peers import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    PING,
    RST,
    SYN,
    UPDATE,
    Attacker,
    HostileCase,
    HostilePeer,
    frame,
)
from tests.protocols.noise.test_handshake import payload_of
from tests.support import vectors
from tests.test_identity import public_of_protobuf, rsa_spki

TEMPLATE_KB = 128 * 1024
"""Memory of the whole system in go-libp2p's template, without what it adds for each GiB."""
PATIENCE = 8.0
"""Seconds that a blocking peer waits: less than the node's own time limits, so that a refusal is told from silence."""

Payload = Callable[[tuple[bytes, bytes]], bytes]
"""Makes the handshake payload of a peer with the given static key pair."""


class Refused(Exception):
    """The node closed the connection."""


class Handshaker:
    """A dialer of its own making, on a blocking socket, up to the third message of the handshake."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.static = generate_keypair()
        self.ephemeral = generate_keypair()

    def __enter__(self) -> Handshaker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                more = self.socket.recv(size - len(data))
            except ConnectionResetError:
                more = b""
            if not more:
                raise Refused(len(data))
            data += more
        return data

    def handshake(self, payload: Payload, first: bytes = b"") -> None:
        noise = NoiseXX(initiator=True, static=self.static, ephemeral=self.ephemeral)
        self.send(multistream.lazy_offer("/noise"), noise.write_message(first))
        self.exactly(len(multistream.lazy_offer("/noise")))
        noise.read_message(self.exactly(int.from_bytes(self.exactly(2), "big")))
        self.send(b"", noise.write_message(payload(self.static)))

    def send(self, before: bytes, message: bytes) -> None:
        self.socket.sendall(before + len(message).to_bytes(2, "big") + message)

    def taken(self) -> bool:
        """Whether the node goes on talking, as it does with a peer that it has authenticated."""
        try:
            self.exactly(1)
        except Refused:
            return False
        return True


def talks(port: int, payload: Payload, **options: bytes) -> bool:
    """With the muxer agreed in the handshake, so that a node that takes the peer opens a stream at once."""
    muxers = NoiseHandshakePayload(extensions=NoiseExtensions(stream_muxers=["/yamux/1.0.0"])).SerializeToString()
    with Handshaker(port) as peer:
        peer.handshake(lambda static: payload(static) + muxers, **options)
        return peer.taken()


def payload_with(**fields: object) -> bytes:
    return NoiseHandshakePayload(**fields).SerializeToString()


GOOD = Identity.generate()
OTHER = Identity.generate()


def flipped(signature: bytes, bit: int) -> bytes:
    changed = bytearray(signature)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


CVE_2022_24759: tuple[Payload, ...] = (
    lambda static: payload_of(GOOD, static[1], identity_key=OTHER.public_key.to_protobuf()),
    lambda static: payload_of(GOOD, static[1], identity_sig=OTHER.sign(SIGNATURE_PREFIX + static[1])),
    lambda static: payload_of(GOOD, generate_keypair()[1]),
    lambda static: payload_of(GOOD, static[1], identity_sig=GOOD.sign(static[1])),
    lambda static: payload_of(GOOD, static[1], identity_sig=b""),
    lambda static: payload_of(GOOD, static[1], identity_sig=GOOD.sign(SIGNATURE_PREFIX + static[1])[:63]),
    lambda static: payload_of(GOOD, static[1], identity_key=b""),
    lambda static: b"",
    lambda static: payload_of(GOOD, static[1], identity_key=GOOD.public_key.to_protobuf()[:-1]),
)
CVE_2019_15545: tuple[Payload, ...] = tuple(
    lambda static, bit=bit: payload_of(
        GOOD, static[1], identity_sig=flipped(GOOD.sign(SIGNATURE_PREFIX + static[1]), bit)
    )
    for bit in (0, 7, 255, 256, 300, 511)
)
BAD_KEYS: dict[str, Payload] = {
    "CVE-2023-39533": lambda static: payload_with(
        identity_key=public_of_protobuf(0, rsa_spki(16384)), identity_sig=bytes(1024)
    ),
    "CVE-2026-110789": lambda static: payload_with(
        identity_key=public_of_protobuf(0, bytes.fromhex("30847fffffff") + bytes(14)), identity_sig=bytes(64)
    ),
    "CVE-2025-4565": lambda static: b"\x7b" * 3500 + b"\x7c" * 3500,
    "a key over its limit": lambda static: payload_of(GOOD, static[1], identity_key=public_of_protobuf(0, bytes(4096))),
    "a payload of nothing but muxers": lambda static: payload_of(GOOD, static[1]) + b"\x22\x42" + b"\x12\x00" * 33,
}


class Handshakes(HostileCase):
    async def refused(self, *payloads: Payload) -> None:
        for payload in payloads:
            self.assertFalse(await deferToThread(talks, self.port, payload))
        status = await self.unharmed()
        self.assertEqual(sum(status["closed"].values()), len(payloads), status["closed"])
        self.assertEqual(set(status["closed"]), {"noise_error"})

    async def test_a_good_one_is_taken(self) -> None:
        """What the other tests rely on: this dialer's handshake is fine but for what they change in it."""
        await self.victim()
        self.assertTrue(await deferToThread(talks, self.port, lambda static: payload_of(GOOD, static[1])))
        self.assertTrue(
            await deferToThread(talks, self.port, lambda static: payload_of(GOOD, static[1]), first=b"\xff" * 100)
        )
        await self.unharmed()

    async def test_cve_2022_24759_payloads(self) -> None:
        await self.victim()
        await self.refused(*CVE_2022_24759)

    async def test_cve_2019_15545_flipped_signature(self) -> None:
        await self.victim()
        await self.refused(*CVE_2019_15545)

    async def test_cve_2023_39533_cve_2026_110789_cve_2025_4565_keys(self) -> None:
        await self.victim()
        await self.refused(*BAD_KEYS.values())

    async def test_all_zero_diffie_hellman(self) -> None:
        await self.victim()

        def attack(point: bytes) -> bool:
            with Handshaker(self.port) as peer:
                peer.send(multistream.lazy_offer("/noise"), point)
                peer.exactly(len(multistream.lazy_offer("/noise")))
                return peer.taken()

        for point in (bytes(32), b"\1" + bytes(31), bytes.fromhex("ec" + "ff" * 30 + "7f")):
            self.assertFalse(await deferToThread(attack, point))
        status = await self.unharmed()
        self.assertEqual(status["closed"], {"noise_error": 3})

    async def test_rustsec_2024_0011_cve_2021_4239_a_bad_frame_then_the_right_one(self) -> None:
        """One frame that does not authenticate ends the connection: no try is left to get a nonce wrong."""
        await self.victim()
        peer, attacker = await self.hostile()
        offer = multistream.lazy_offer(ping.PROTOCOL)
        sealed = peer._core._noise.seal([frame(DATA, SYN, 1, len(offer), offer)])
        peer.transport.write(sealed[:-1] + bytes([sealed[-1] ^ 1]) + sealed)
        await attacker.closed
        status = await self.unharmed()
        self.assertEqual(status["closed"], {"noise_error": 1})


class Frames(HostileCase):
    async def ended_by(self, expected: dict[str, int], *frames: bytes) -> None:
        peer, attacker = await self.hostile()
        before = (await self.node.status())["closed"]
        peer.send(*frames)
        await attacker.closed
        status = await self.status_when(lambda status: status["connections"] == 1)
        changed = {name: count - before.get(name, 0) for name, count in status["closed"].items()}
        self.assertEqual({name: count for name, count in changed.items() if count}, expected)

    def opened(self, stream: int = 1) -> bytes:
        offer = multistream.lazy_offer(ping.PROTOCOL)
        return frame(DATA, SYN, stream, len(offer), offer)

    async def test_cve_2026_31814_window_overflow(self) -> None:
        await self.victim()
        update = frame(UPDATE, 0, 1, 0xFFFFFFFF)
        await self.ended_by({"yamux_protocol_error": 1}, self.opened(), update, update)
        await self.unharmed()

    async def test_cve_2026_32314_syn_with_a_large_body(self) -> None:
        await self.victim()
        body = bytes(262_145)
        await self.ended_by({"yamux_protocol_error": 1}, frame(DATA, SYN, 1, len(body), body))
        await self.unharmed()

    async def test_py_1312_window_update_has_no_body(self) -> None:
        """What follows a window update with SYN is the next frame, here a ping, which is answered."""
        await self.victim()
        peer, _ = await self.hostile(deaf=False)
        answered: Deferred[int] = Deferred()
        self.patch(peer._core, "pong_received", answered.callback)
        peer.send(frame(UPDATE, SYN, 1, 10) + frame(PING, SYN, 0, 7))
        self.assertEqual(await answered, 7)
        peer.transport.abortConnection()
        await self.unharmed()

    async def test_published_invalid_frames(self) -> None:
        """Every row of the published list that must end the session, on a connection of its own."""
        await self.victim()
        rows = [(row["name"], bytes.fromhex(row["hex"])) for row in vectors("yamux-frames.json")["invalid"]]
        ended = 0
        for name, published in rows:
            if name.startswith(("SYN+ACK", "undefined flag", "WindowUpdate|SYN", "truncated")):
                continue  # these need not end it
            # The row of the wrong parity is for the other role.
            row = frame(UPDATE, SYN, 2, 0) if "wrong parity" in name else published
            on_open_stream = name.startswith(("data ", "window delta"))
            await self.ended_by({"yamux_protocol_error": 1}, *[self.opened()] * on_open_stream, row)
            ended += 1
        self.assertEqual(ended, len(rows) - 4)
        await self.unharmed()

    async def test_every_flag_of_every_type(self) -> None:
        """Flags that make no sense together, on streams that live, have ended or never were."""
        await self.victim()
        for kind in (DATA, UPDATE):
            for flags in range(16):
                peer, attacker = await self.hostile()
                peer.send(self.opened(), *(frame(kind, flags, stream, 0) for stream in (1, 3, 1)))
                peer.send(frame(GO_AWAY, 0, 0, 1))
                peer.transport.loseConnection()
                await attacker.closed
        for flags in (ACK, FIN, RST, 0xFFF0):
            peer, attacker = await self.hostile()
            peer.send(frame(PING, flags, 0, 7), frame(GO_AWAY, flags, 0, 0))
            peer.transport.loseConnection()
            await attacker.closed
        await self.unharmed()

    async def test_cve_2026_21438_ten_thousand_streams_opened_and_closed(self) -> None:
        """Each is negotiated, used and closed as it should be: nothing of any of them is left."""
        await self.victim()
        host = self.host()
        await host.dial(self.peer_id, [self.address])
        for _ in range(2_000):
            for waiting in [host.ping(self.peer_id) for _ in range(2)]:
                await waiting
        status = await self.node.status()
        self.assertLessEqual(status["streams"], self.before["streams"] + 4)
        self.assertLess(status["rss_kb"], self.before["rss_kb"] + 8 * 1024)
        await host.stopService()
        await self.unharmed()

    async def test_cve_2026_57497_frames_of_a_gibibyte(self) -> None:
        """Announced for streams that never were, and for types that do not exist: nothing is awaited or kept."""
        await self.victim()
        for header in (frame(DATA, 0, 9, 2**30), frame(DATA, FIN, 9, 2**30), frame(7, 0, 9, 2**30)):
            await self.ended_by({"yamux_protocol_error": 1}, header)
        await self.unharmed()

    async def test_cve_2026_21435_the_node_closes_a_peer_that_never_reads(self) -> None:
        """Its socket is full of echoes when a bad frame ends the connection: the last word waits, for a while."""
        await self.victim()
        peer, attacker = await self.hostile()
        peer.transport.pauseProducing()
        peer.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.send(self.opened(), frame(UPDATE, 0, 1, 0x7FFFFFFF))
        status = await self.node.glance()
        while status["buffered"] < 300 * 1024:
            for _ in range(4):
                peer.send(frame(DATA, 0, 1, 16 * 1024, bytes(16 * 1024)))
            status = await self.node.glance()
            self.assertEqual(status["closed"], {})
        self.assertEqual((status["connections"], status["closed"]), (2, {}))
        peer.send(frame(9, 0, 0, 0))
        await self.status_when(lambda status: status["connections"] == 1)
        peer.transport.resumeProducing()
        peer.transport.abortConnection()
        await attacker.closed
        status = await self.unharmed()
        self.assertEqual(status["closed"], {"yamux_protocol_error": 1})


class Identities(HostileCase):
    async def push(self, connection: Any, encoded: bytes) -> None:
        from chorus.multiformats import varint
        from chorus.protocols.streamio import StreamIO

        stream = StreamIO(await connection.open_stream([identify.PUSH_PROTOCOL]), reactor)
        await stream.write(varint.encode(len(encoded)) + encoded)
        stream.write_eof()

    async def test_rustsec_2022_0009_records_in_anothers_name(self) -> None:
        """The envelope of one peer around the record of another, and a record that is signed by nobody."""
        from chorus.protocols.envelope import PeerRecord
        from chorus.protocols.proto.envelope_pb2 import Envelope

        await self.victim()
        host = self.host()
        connection = await host.dial(self.peer_id, [self.address])
        victim_like = Envelope.FromString(PeerRecord(OTHER.peer_id, 9, (self.address,)).seal(OTHER))
        mine = Envelope.FromString(PeerRecord(host.peer_id, 2**62, (self.address,)).seal(host._identity))
        crossed = Envelope()
        crossed.CopyFrom(mine)
        crossed.payload = victim_like.payload
        unsigned = Envelope()
        unsigned.CopyFrom(mine)
        unsigned.signature = bytes(64)
        for record in (crossed, unsigned, victim_like):
            await self.push(connection, Identify(signedPeerRecord=record.SerializeToString()).SerializeToString())
        status = await self.status_when(lambda status: sum(status["identify_failed"].values()) == 3)
        self.assertEqual(status["peers"], self.before["peers"] + 1)
        self.assertEqual(status["identify_failed"]["record_of_another"], 1)
        await host.stopService()
        await self.unharmed()

    async def test_cve_2025_4565_nested_groups(self) -> None:
        await self.victim()
        for depth in (100, 4000):
            host = self.host()
            connection = await host.dial(self.peer_id, [self.address])
            await self.push(connection, b"\x7b" * depth + b"\x7c" * depth)
            if depth == 4000:
                while host._links:
                    await self.pause(0.01)
            await host.stopService()
        status = await self.unharmed()
        self.assertEqual(status["identify_failed"]["bad_identify"], 1)

    async def test_py_1182_every_process_has_a_static_key_of_its_own(self) -> None:
        """Two nodes with other identities, seen from outside: neither's static key comes from its identity."""
        statics = set()

        def static_of(port: int) -> bytes:
            with Handshaker(port) as peer:
                noise = NoiseXX(initiator=True, static=peer.static, ephemeral=peer.ephemeral)
                peer.send(multistream.lazy_offer("/noise"), noise.write_message(b""))
                peer.exactly(len(multistream.lazy_offer("/noise")))
                noise.read_message(peer.exactly(int.from_bytes(peer.exactly(2), "big")))
                return noise.remote_static

        await self.victim()
        first = self.port
        statics.add(await deferToThread(static_of, first))
        statics.add(await deferToThread(static_of, first))
        self.assertEqual(len(statics), 1)
        host = self.host()
        statics.add(await deferToThread(static_of, host.listen_addresses()[0].tcp_endpoint()[1]))
        self.assertEqual(len(statics), 2)
        await self.unharmed()


class Template(HostileCase):
    """spec/security.md 1.8: what all connections together may hold."""

    growth_kb = TEMPLATE_KB

    async def test_memory_of_sixty_peers_that_take_nothing(self) -> None:
        """Each fills every queue that it may: pings whose echoes it gives no window for, pushes that never end. The
        second time finds the memory of the first: nothing of it was lost."""
        await self.victim()
        first = await self.fill()
        self.assertLess(first, self.before["rss_kb"] + TEMPLATE_KB)
        self.assertLess(await self.fill(), first + 16 * 1024)
        await self.unharmed()

    async def many(self, count: int) -> list[tuple[HostilePeer, Attacker]]:
        """They take nothing from when all are there: until then they answer, so that none is given up meanwhile."""
        peers = [await self.hostile(deaf=False, others=number) for number in range(count)]
        for peer, _ in peers:
            peer.deaf = True
        return peers

    async def fill(self) -> int:
        peers = await self.many(60)
        for peer, _ in peers:
            offer = multistream.lazy_offer(ping.PROTOCOL)
            peer.send(*(frame(DATA, SYN, stream, len(offer), offer) for stream in (1, 3)))
        for _ in range(40):
            for peer, _ in peers:
                peer.send(*(frame(DATA, 0, stream, 15_000, bytes(15_000)) for stream in (1, 3)))
            await self.node.glance()
        part = b"\xc0\x3e" + bytes(7_000)  # of 8,000 bytes
        offer = multistream.lazy_offer(identify.PUSH_PROTOCOL)
        for peer, _ in peers:
            # Last, since a push that never ends is given up after a while.
            peer.send(*(frame(DATA, SYN, stream, len(offer), offer) for stream in (5, 7, 9, 11)))
            peer.send(*(frame(DATA, 0, stream, len(part), part) for stream in (5, 7, 9, 11)))
        await self.status_when(lambda status: status["buffered"] > 60 * 512 * 1024)
        status = await self.node.status()
        self.assertEqual(status["connections"], 61)
        for peer, attacker in peers:
            peer.transport.abortConnection()
            await attacker.closed
        await self.status_when(lambda status: status["connections"] == 1)
        return int(status["rss_kb"])

    async def test_the_fullest_connections_go_first(self) -> None:
        """With a node that may hold 8 MiB in all: connections go until the rest fits, the bystander stays."""
        most = 8 * 1024 * 1024
        await self.victim("--buffered", str(most))
        peers = await self.many(40)
        for peer, _ in peers:
            offer = multistream.lazy_offer(ping.PROTOCOL)
            peer.send(frame(DATA, SYN, 1, len(offer), offer))
            for _ in range(40):
                peer.send(frame(DATA, 0, 1, 15_000, bytes(15_000)))
        # It is looked at once a second; what comes in between is for the next look. Settled is what no look changes.
        held: list[int] = []

        def settled(status: dict[str, Any]) -> bool:
            held.append(status["buffered"])
            stays = len(held) > 30 and len({*held[-30:]}) == 1
            return "limit_exceeded.buffered" in status["closed"] and stays and status["buffered"] <= most

        await self.status_when(settled, f"at most {most} bytes are held")
        for peer, attacker in peers:
            peer.transport.abortConnection()
            await attacker.closed
        await self.unharmed()
