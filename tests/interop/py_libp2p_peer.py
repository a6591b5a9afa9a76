"""A py-libp2p node that does what lines on its stdin say. Runs in an interpreter that has `libp2p`, not in ours.

connect ADDR          → {"ok": true}
ping PEER             → {"ok": true, "ms": …}
identified PEER       → {"ok": true, "protocols": […], "addresses": […]}   waits until it is
pong PEER COUNT       → {"ok": true, "rounds": …}                          echoes on one stream
"""

import json
import os
import sys

import multiaddr
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.host.ping import ID as PING
from libp2p.host.ping import PingService
from libp2p.io.utils import read_exactly
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr


def say(**answer):
    print(json.dumps(answer), flush=True)


class Peer:
    def __init__(self):
        self.host = new_host(key_pair=create_new_key_pair())

    async def run(self):
        async with self.host.run([multiaddr.Multiaddr("/ip4/127.0.0.1/tcp/0")]):
            say(ready=True, peer_id=str(self.host.get_id()), addr=str(self.host.get_addrs()[0]))
            async for line in trio.wrap_file(sys.stdin):
                name, *arguments = line.split()
                try:
                    with trio.fail_after(20):
                        say(ok=True, **(await getattr(self, name)(*arguments) or {}))
                except Exception as error:
                    say(ok=False, error=f"{type(error).__name__}: {error}")

    async def connect(self, address):
        await self.host.connect(info_from_p2p_addr(multiaddr.Multiaddr(address)))

    async def ping(self, peer):
        return {"ms": list(await PingService(self.host).ping(ID.from_base58(peer), 3))}

    async def pong(self, peer, count):
        stream = await self.host.new_stream(ID.from_base58(peer), [PING])
        for _ in range(int(count)):
            sent = os.urandom(32)
            await stream.write(sent)
            if await read_exactly(stream, 32) != sent:
                raise ValueError("other bytes came back")
        await stream.close()
        return {"rounds": int(count)}

    async def identified(self, peer):
        peer = ID.from_base58(peer)
        while peer not in self.host._identified_peers:  # noqa: ASYNC110 (py-libp2p has no event for it)
            await trio.sleep(0.02)
        store = self.host.get_peerstore()
        return {
            "protocols": list(store.get_protocols(peer)),
            "addresses": [str(address) for address in store.addrs(peer)],
            "key_matches": ID.from_pubkey(store.pubkey(peer)) == peer,
        }


trio.run(Peer().run)
