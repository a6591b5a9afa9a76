"""Which protocols a host serves, and how many streams of them."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from chorus.identity import Identity
from chorus.protocols import identify, perf, ping
from chorus.protocols.limits import HostLimits
from chorus.protocols.stream import ProtocolNotSupported, ProtocolOptions, Stream, StreamClosed
from chorus.protocols.streamio import StreamIO
from chorus.services.p2p.host import P2PService
from tests.services.p2p_support import HostCase


class Protocols(HostCase):
    def served(self, host: P2PService, protocol: str, **options: Any) -> list[Stream]:
        streams: list[Stream] = []

        def opened(stream: Stream) -> None:
            StreamIO(stream, reactor)
            streams.append(stream)

        host.register(protocol, opened, ProtocolOptions(**options))
        return streams

    async def test_open_mode_serves_only_what_it_may(self) -> None:
        one, two = self.host(), self.host()
        self.served(two, "/chorus/tasks/1.0.0")
        self.served(two, "/floodsub/1.0.0")
        self.served(two, "/meshsub/1.1.0")
        self.served(two, "/chorus/kad/1.0.0")
        self.assertEqual(
            set(two.protocols()),
            {identify.PROTOCOL, identify.PUSH_PROTOCOL, ping.PROTOCOL, perf.PROTOCOL}
            | {"/meshsub/1.1.0", "/chorus/kad/1.0.0"},
        )
        connection = await self.dial(one, two)
        stream = StreamIO(await connection.open_stream(["/chorus/tasks/1.0.0"]), reactor)
        await self.assertFailure(Deferred.fromCoroutine(stream.read_exactly(1)), ProtocolNotSupported)
        self.assertIn(identify.PROTOCOL, two.protocols())

    async def test_changes_are_pushed(self) -> None:
        one, two = self.host(), self.host()
        await self.dial(one, two)
        await self.until(lambda: one.protocols_of(two.peer_id) and two.protocols_of(one.peer_id))
        self.served(two, "/meshsub/1.2.0")
        await self.until(lambda: "/meshsub/1.2.0" in one.protocols_of(two.peer_id))
        two.unregister("/meshsub/1.2.0")
        await self.until(lambda: "/meshsub/1.2.0" not in one.protocols_of(two.peer_id))

    async def test_py_1414_a_third_ping_stream_is_reset(self) -> None:
        one, two = self.host(), self.host()
        connection = await self.dial(one, two)
        streams = [StreamIO(await connection.open_stream([ping.PROTOCOL]), reactor) for _ in range(2)]
        for stream in streams:
            await stream.write(bytes(32))
            await stream.read_exactly(32)
        third = StreamIO(await connection.open_stream([ping.PROTOCOL]), reactor)
        await self.assertFailure(Deferred.fromCoroutine(third.read_exactly(32)), StreamClosed)
        self.assertEqual(two.counters.streams_refused, {"inbound_streams_per_protocol": 1})
        await streams[0].finish()
        again = StreamIO(await connection.open_stream([ping.PROTOCOL]), reactor)
        await again.write(bytes(32))
        await again.read_exactly(32)

    async def test_streams_of_one_peer_and_of_all(self) -> None:
        for limits, name in (
            (HostLimits(max_inbound_streams_per_peer=5), "inbound_streams_per_peer"),
            (HostLimits(max_streams=5), "streams"),
        ):
            one, two = self.host(), self.host(limits=limits)
            streams = self.served(two, "/meshsub/1.1.0", max_inbound_per_peer=100)
            connection = await self.dial(one, two)
            for _ in range(10):
                StreamIO(await connection.open_stream(["/meshsub/1.1.0"]), reactor)
            await self.until(lambda two=two, name=name: two.counters.streams_refused[name] >= 3)
            self.assertTrue(streams)

    async def test_perf_counts_bytes(self) -> None:
        one, two = self.host(), self.host()
        connection = await self.dial(one, two)
        stream = StreamIO(await connection.open_stream([perf.PROTOCOL]), reactor)
        self.assertEqual(len(await perf.upload(stream, 3_000_000, bytes(65536), reply=100_000)), 100_000)

    async def test_a_stream_to_a_peer_that_is_not_there(self) -> None:
        await self.assertFailure(self.host().open_stream(Identity.generate().peer_id, ["/a"]), StreamClosed)
