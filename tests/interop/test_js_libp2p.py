"""js-libp2p on the other end of the wire, in a process of its own. `CHORUS_TEST_JS_LIBP2P` names its packages."""

from __future__ import annotations

from chorus.services.pubsub.topics import Received
from tests.interop.exchange import TOPIC, Exchange, InteropCase, until
from tests.interop.foreign import js_command


class JsLibp2p(Exchange, InteropCase):
    name = "js-libp2p"

    def command(self) -> list[str]:
        return js_command(self.scratch())

    def as_they_name_it(self, message_id: bytes) -> str:
        """js-libp2p names a message by its publisher's key, not by the peer id, which has two bytes before the key."""
        return message_id[2:].hex()

    async def test_we_ask_for_what_they_announce(self) -> None:
        """Not with py-libp2p: it grafts everybody in reach, and announces nothing to those who refuse."""
        full = await self.node_with_a_full_mesh()
        await self.foreign.ask("narrow")
        await self.they_dial()
        await self.meet([self.node], [self.foreign])
        await self.foreign.ask("connect", addr=str(full.address))
        await until(lambda: self.foreign.peer_id.raw in full.pubsub.router.subscribers(TOPIC), "their subscription")
        message_id = self.node.pubsub.publish(TOPIC, b"announced")
        await until(lambda: full.heard, "what they announced")
        self.assertEqual(full.heard, [Received(TOPIC, self.node.peer_id, b"announced", message_id)])
        self.assertGreater(full.pubsub.router.counters.iwant_sent, 0)
