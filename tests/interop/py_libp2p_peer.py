"""A py-libp2p node that does what JSON lines on its stdin say; `foreign.py` lists the commands.

Runs in an interpreter that has `libp2p`, not in ours. Signatures are strict and limits are the library's own; only the
heartbeat comes every second instead of every two minutes.
"""

import json
import os
import sys

import multiaddr
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.ping import ID as PING
from libp2p.host.ping import PingService
from libp2p.io.utils import read_exactly
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub import gossipsub, pubsub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.records.validator import BlankValidator
from libp2p.tools.anyio_service import background_trio_service

LIMIT = 60
PROTOCOLS = [gossipsub.PROTOCOL_ID_V12, gossipsub.PROTOCOL_ID_V11, gossipsub.PROTOCOL_ID]


def say(**answer):
    print(json.dumps(answer), flush=True)


async def until(condition):
    while not condition():  # noqa: ASYNC110 (py-libp2p has no event for it)
        await trio.sleep(0.01)


class Peer:
    def __init__(self):
        self.host = new_host(key_pair=create_new_key_pair())
        self.id = self.host.get_id()
        self.router = gossipsub.GossipSub(PROTOCOLS, 6, 5, 12, heartbeat_interval=1)
        self.pubsub = pubsub.Pubsub(self.host, self.router, strict_signing=True)
        self.heard = []
        self.own_id = None
        self.refusals = 0
        self._count_refusals()

    def _count_refusals(self):
        """py-libp2p drops a message with a bad signature without counting it."""
        library = pubsub.signature_validator

        def counting(message):
            valid = library(message)
            self.refusals += not valid
            return valid

        pubsub.signature_validator = counting

    async def run(self):
        async with (
            self.host.run([multiaddr.Multiaddr("/ip4/127.0.0.1/tcp/0")]),
            background_trio_service(self.pubsub),
            background_trio_service(self.router),
            trio.open_nursery() as self.nursery,
        ):
            await self.pubsub.wait_until_ready()
            if "--kad" in sys.argv:
                # It speaks /ipfs/kad/1.0.0 whatever prefix it is given.
                self.dht = KadDHT(self.host, DHTMode.SERVER, protocol_prefix=TProtocol("/ipfs"))
                self.dht.register_validator("interop", BlankValidator())
                self.nursery.start_soon(self._serve, self.dht)
            say(ready=True, peer_id=str(self.id), addr=str(self.host.get_addrs()[0]))
            async for line in trio.wrap_file(sys.stdin):
                given = json.loads(line)
                try:
                    with trio.fail_after(LIMIT):
                        say(ok=True, **(await getattr(self, given.pop("do"))(**given) or {}))
                except Exception as error:
                    say(ok=False, error=f"{type(error).__name__}: {error}")
            self.nursery.cancel_scope.cancel()

    async def connect(self, addr):
        await self.host.connect(info_from_p2p_addr(multiaddr.Multiaddr(addr)))

    async def identified(self, peer):
        peer = ID.from_base58(peer)
        await until(lambda: peer in self.host._identified_peers)
        store = self.host.get_peerstore()
        return {
            "protocols": list(store.get_protocols(peer)),
            "addresses": [str(address) for address in store.addrs(peer)],
            "agent": None,  # py-libp2p does not keep it
            "key_matches": ID.from_pubkey(store.pubkey(peer)) == peer,
        }

    async def ping(self, peer, count):
        return {"ms": list(await PingService(self.host).ping(ID.from_base58(peer), count))}

    async def pong(self, peer, count):
        stream = await self.host.new_stream(ID.from_base58(peer), [PING])
        for _ in range(count):
            sent = os.urandom(32)
            await stream.write(sent)
            if await read_exactly(stream, 32) != sent:
                raise ValueError("other bytes came back")
        await stream.close()
        return {"rounds": count}

    async def subscribe(self, topic):
        # A peer whose stream is just being opened would never hear of a subscription made now.
        await until(lambda: set(self.host.get_connected_peers()) <= set(self.pubsub.peers))
        self.nursery.start_soon(self._hear, await self.pubsub.subscribe(topic))

    async def _hear(self, subscription):
        async for message in subscription:
            origin = ID(message.from_id)
            name = self.pubsub.get_message_id(message).hex()
            if origin == self.id:
                self.own_id = name
            else:
                [topic] = message.topicIDs
                self.heard.append({"topic": topic, "from": str(origin), "data": message.data.hex(), "id": name})

    async def mesh(self, topic, peers):
        await until(lambda: {str(peer) for peer in self.router.mesh.get(topic, ())}.issuperset(peers))

    async def streams(self, peer):
        found = {"opened": [], "accepted": []}
        for connection in self.host.get_network().get_connections(ID.from_base58(peer)):
            for stream in connection.get_streams():
                found["opened" if stream.muxed_stream.is_initiator else "accepted"].append(stream.get_protocol())
        return found

    async def publish(self, topic, data):
        self.own_id = None
        await self.pubsub.publish(topic, bytes.fromhex(data))
        await until(lambda: self.own_id)
        return {"id": self.own_id}

    async def forge(self, topic, data):
        message = rpc_pb2.Message(
            from_id=self.id.to_bytes(), data=bytes.fromhex(data), seqno=bytes(8), topicIDs=[topic]
        )
        stranger = create_new_key_pair().private_key
        message.signature = stranger.sign(b"libp2p-pubsub:" + message.SerializeToString())
        await self.router.publish(self.id, message)

    async def _serve(self, service):
        async with background_trio_service(service):
            await trio.sleep_forever()

    async def table(self, peer):
        peer = ID.from_base58(peer)
        await until(lambda: peer in self.host._identified_peers)
        while not await self.dht.add_peer(peer):  # noqa: ASYNC110
            await trio.sleep(0.05)

    async def put(self, key, value):
        await self.dht.put_value(key, bytes.fromhex(value))

    async def get(self, key):
        value = await self.dht.get_value(key)
        return {"value": value.hex() if value else None}

    async def provide(self, key):
        await self.dht.provide(key)

    async def providers(self, key):
        return {"peers": [str(info.peer_id) for info in await self.dht.find_providers(key)]}

    async def received(self, count):
        await until(lambda: len(self.heard) >= count)
        return {"messages": self.heard}

    async def refused(self, count):
        await until(lambda: self.refusals >= count)


trio.run(Peer().run)
