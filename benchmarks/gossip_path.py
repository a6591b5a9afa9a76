#!/usr/bin/env python3
"""What one pub/sub message costs a node in processor time, without sockets: the router and its codec alone.

    python benchmarks/gossip_path.py [--size 1024] [--rounds 15]

Microseconds of one core for each step, the least of all rounds (noise only adds): publish (sign, encode, to a mesh of
six), a first copy (decode, verify, deliver, forward to five), a copy of what has been here, and both signatures bare.
`two_threads` is the time by the clock of verifying in two threads at once, for each message: half of `verify` would be
ideal on two free cores.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from chorus.identity import Identity
from chorus.protocols.delimited import DelimitedDecoder
from chorus.protocols.gossip import GossipRouter
from chorus.protocols.gossipsub.decode import decode_message, decode_rpc
from chorus.protocols.gossipsub.encode import subscription_frames
from chorus.protocols.gossipsub.params import MAX_RPC, MESHSUB_1_2
from chorus.protocols.gossipsub.sign import SIGNING_PREFIX, Signer, Verifier
from chorus.protocols.gossipsub.state import Sealing

TOPIC = "bench"
BATCH = 500


def identity(number: int) -> Identity:
    return Identity.from_seed(number.to_bytes(32, "big"))


def router(number: int, peers: int) -> GossipRouter:
    me = identity(number)
    made = GossipRouter(
        me.peer_id.raw,
        Sealing(Signer(me).sign, Verifier().verify),
        rng=random.Random(1),
        first_seqno=1,
    )
    made.subscribe(TOPIC, 0.0)
    (hello,) = rpcs(b"".join(subscription_frames([(True, TOPIC)])))
    for other in range(100, 100 + peers):
        peer = identity(other).peer_id.raw
        made.peer_joined(peer, MESHSUB_1_2, outbound=True)
        made.receive(peer, hello, 0.0)
    made.heartbeat(1.0)
    made.take_sends()
    return made


def rpcs(frames: bytes) -> list[bytes]:
    decoder = DelimitedDecoder(MAX_RPC)
    decoder.feed(frames)
    found = []
    while (rpc := decoder.next_message()) is not None:
        found.append(rpc)
    return found


def least(rounds: int, prepare: Callable[[], Callable[[], None]]) -> float:
    best = float("inf")
    for _ in range(rounds):
        run = prepare()
        began = time.process_time()
        run()
        best = min(best, time.process_time() - began)
    return best / BATCH * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=15)
    flags = parser.parse_args()
    data = bytes(flags.size)
    origin = identity(1)
    signer = Signer(origin)
    raws = [signer.sign(TOPIC, data, number.to_bytes(8, "big")) for number in range(BATCH)]
    frames = [b"\x12" + length(len(raw)) + raw for raw in raws]
    one, two = identity(100).peer_id.raw, identity(101).peer_id.raw

    def publish() -> Callable[[], None]:
        node = router(0, 6)

        def run() -> None:
            for _ in range(BATCH):
                node.publish(TOPIC, data, 2.0)
                node.take_sends()

        return run

    def first() -> Callable[[], None]:
        node = router(0, 6)

        def run() -> None:
            for frame in frames:
                node.receive(one, frame, 2.0)
                node.take_deliveries()
                node.take_sends()

        return run

    def again() -> Callable[[], None]:
        node = router(0, 6)
        for frame in frames:
            node.receive(one, frame, 2.0)

        def run() -> None:
            for frame in frames:
                node.receive(two, frame, 2.0)

        return run

    def decode() -> Callable[[], None]:
        def run() -> None:
            for frame in frames:
                decode_message(decode_rpc(frame).messages[0])

        return run

    def sign() -> Callable[[], None]:
        def run() -> None:
            for raw in raws:
                origin.sign(SIGNING_PREFIX + raw)

        return run

    def verify() -> Callable[[], None]:
        verifier, messages = Verifier(), [decode_message(raw) for raw in raws]

        def run() -> None:
            for message in messages:
                verifier.verify(message)

        return run

    def two_threads() -> float:
        verifier, messages = Verifier(), [decode_message(raw) for raw in raws]
        verifier.verify(messages[0])

        def run(part: int) -> None:
            for message in messages[part::2]:
                verifier.verify(message)

        threads = [threading.Thread(target=run, args=(part,)) for part in range(2)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return (time.perf_counter() - began) / BATCH * 1e6

    steps = {"publish": publish, "first": first, "again": again, "decode": decode, "sign": sign, "verify": verify}
    figures = {name: round(least(flags.rounds, prepare), 2) for name, prepare in steps.items()}
    figures["two_threads"] = round(min(two_threads() for _ in range(flags.rounds)), 2)
    print(json.dumps(figures))


def length(size: int) -> bytes:
    from chorus.multiformats import varint

    return varint.encode(size)


if __name__ == "__main__":
    main()
