"""Two foreign implementations that know each other only through a node: it forwards what they signed as it is."""

from __future__ import annotations

from tests.interop.exchange import PAYLOADS, TOPIC, InteropCase
from tests.interop.foreign import ForeignPeer, js_command, py_command


class Relay(InteropCase):
    async def setUp(self) -> None:
        commands = {"py-libp2p": py_command(), "js-libp2p": js_command(self.scratch())}
        self.node = self.start_node()
        self.py, self.js = [await self.start_foreign(name, command) for name, command in commands.items()]
        for foreign in (self.py, self.js):
            await foreign.ask("connect", addr=str(self.node.address))
        await self.meet([self.node], [self.py, self.js])

    async def check(self, publisher: ForeignPeer, reader: ForeignPeer) -> None:
        """Every message crosses the node, which delivers it too; the reader verifies the publisher's signature."""
        await self.publish_from(publisher, PAYLOADS)
        messages = (await reader.ask("received", count=len(PAYLOADS)))["messages"]
        self.assertCountEqual([m["data"] for m in messages], [data.hex() for data in PAYLOADS])
        self.assertEqual({m["from"] for m in messages}, {str(publisher.peer_id)})
        self.assertCountEqual([m.data for m in self.node.heard], PAYLOADS)
        self.assertEqual(self.node.pubsub.counters()["forwarded"], len(PAYLOADS))
        self.assertEqual((await publisher.ask("received", count=0))["messages"], [])
        self.assert_no_fault(self.node)

    async def test_from_py_to_js(self) -> None:
        await self.check(self.py, self.js)

    async def test_from_js_to_py(self) -> None:
        await self.check(self.js, self.py)

    async def test_they_refuse_what_the_node_forged(self) -> None:
        """The control: a reader that did not verify would pass the tests above."""
        self.node.signature.lying = True
        self.node.pubsub.publish(TOPIC, b"forged")
        for reader in (self.py, self.js):
            await reader.ask("refused", count=1)
            self.assertEqual((await reader.ask("received", count=0))["messages"], [])
