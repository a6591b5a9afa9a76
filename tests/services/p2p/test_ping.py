"""Peers are pinged now and then."""

from __future__ import annotations

from twisted.internet import reactor

from chorus.services.p2p.ping import PING_INTERVAL
from tests.services.p2p_support import HostCase


class Pinging(HostCase):
    async def test_peers_are_pinged_now_and_then(self) -> None:
        one, two = self.host(), self.host()
        await self.dial(one, two)
        await self.until(lambda: one.protocols_of(two.peer_id))
        self.assertIsNone(one.latency(two.peer_id))
        one._tick()
        await self.until(lambda: one.latency(two.peer_id) is not None)
        link = one._pairs.kept(two.peer_id)
        self.assertTrue(
            0.7 * PING_INTERVAL < link.next_ping - reactor.seconds() <= 1.25 * PING_INTERVAL, link.next_ping
        )
