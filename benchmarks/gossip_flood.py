#!/usr/bin/env python3
"""A node under a burst of valid messages: what it takes in a second, and how late its reactor is meanwhile.

    python benchmarks/gossip_flood.py [--messages 20000] [--size 1024] [--budget 0.002,0.01] [--rounds 3]

One process sends messages that it signed beforehand, on real sockets, as fast as they are taken; the other is a node
with the topic. A timer of the node's is due every 5 ms while they come: `late_ms` is by how much it is overdue, at the
median and at the 99th percentile. Each budget is seconds that one peer may hold the reactor (`TURN_BUDGET`); the
budgets take turns, and the medians over the rounds are printed as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from chorus.reactor import install

install()

from twisted.internet import reactor  # noqa: E402
from twisted.internet.defer import Deferred  # noqa: E402
from twisted.internet.task import deferLater  # noqa: E402

from chorus.identity import Identity  # noqa: E402
from chorus.multiformats.multiaddr import Multiaddr  # noqa: E402
from chorus.protocols.gossipsub.encode import message_frame, subscription_frames  # noqa: E402
from chorus.protocols.gossipsub.params import MESHSUB_1_2  # noqa: E402
from chorus.protocols.gossipsub.sign import Signer  # noqa: E402
from chorus.protocols.stream import ProtocolOptions  # noqa: E402
from chorus.protocols.streamio import StreamIO  # noqa: E402
from chorus.services.p2p.gate import OpenAdmission  # noqa: E402
from chorus.services.p2p.host import P2PService  # noqa: E402
from chorus.services.p2p.settings import HostSettings  # noqa: E402
from chorus.services.pubsub import link as pubsub_link  # noqa: E402
from chorus.services.pubsub.service import PubSubService  # noqa: E402
from chorus.services.pubsub.topics import Received  # noqa: E402

TOPIC = "bench"
TICK = 0.005
SETTLE = 1.0
"""Seconds between the subscription and the burst: the first heartbeats are over."""
LIMIT = 120.0
JOINED = 50
"""Messages in one write."""


def host(seed: int) -> P2PService:
    identity = Identity.from_seed(seed.to_bytes(32, "big"))
    return P2PService(reactor, identity, admission=OpenAdmission(), settings=HostSettings(open_mode=True))


class Node:
    """Counts what comes, and prints its figures with the last message."""

    def __init__(self, messages: int) -> None:
        self.host = host(2)
        self.host.startService()
        identity = Identity.from_seed((2).to_bytes(32, "big"))
        self.pubsub = PubSubService(self.host, identity, reactor, rng=random.Random(1))
        self.pubsub.startService()
        self.pubsub.subscribe(TOPIC, self._arrived)
        self._left = self._messages = messages
        self._late: list[float] = []
        self._due = 0.0
        self._began = self._used = 0.0

    def _arrived(self, received: Received) -> None:
        if self._left == self._messages:
            self._began, self._used = time.monotonic(), time.process_time()
            self._arm()
        self._left -= 1
        if not self._left:
            self._print(time.monotonic() - self._began, time.process_time() - self._used)
            reactor.stop()

    def _arm(self) -> None:
        self._due = time.monotonic() + TICK
        reactor.callLater(TICK, self._tick)

    def _tick(self) -> None:
        self._late.append(time.monotonic() - self._due)
        self._arm()

    def _print(self, seconds: float, used: float) -> None:
        cuts = statistics.quantiles(self._late, n=100)
        figures = {
            "per_s": self._messages / seconds,
            "cpu_us": used / self._messages * 1e6,
            "late_p50_ms": cuts[49] * 1e3,
            "late_p99_ms": cuts[98] * 1e3,
        }
        print(json.dumps(figures), flush=True)


def node(messages: int, budget: float) -> None:
    pubsub_link.TURN_BUDGET = budget  # type: ignore[misc]
    made = Node(messages)
    print(made.host.bound_addresses()[0].with_peer(made.host.peer_id), flush=True)
    reactor.callLater(LIMIT, reactor.stop)
    reactor.run()


class Deaf:
    """Drops what the node says to the sender."""

    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> None: ...

    def stream_closed(self, error: object) -> None: ...

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


async def burst(sender: P2PService, address: Multiaddr, frames: list[bytes]) -> None:
    sender.register(MESHSUB_1_2, lambda stream: stream.set_receiver(Deaf()), ProtocolOptions())
    connection = await sender.dial(None, [address])
    stream = await connection.open_stream([MESHSUB_1_2])
    writer = StreamIO(stream, reactor, timeout=LIMIT)
    await writer.write(subscription_frames([(True, TOPIC)])[0])
    await deferLater(reactor, SETTLE)
    for frame in frames:
        await writer.write(frame)


def measure(frames: list[bytes], messages: int, budget: float) -> dict[str, Any]:
    arguments = ["--node", "--messages", str(messages), "--budget", str(budget)]
    process = subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, encoding="utf-8")
    assert process.stdout is not None
    address = Multiaddr.parse(process.stdout.readline().strip())
    pid = os.fork()
    if pid == 0:
        sender = host(3)
        sender.startService()
        sent = Deferred.fromCoroutine(burst(sender, address, frames))
        sent.addErrback(lambda failure: print(failure, file=sys.stderr))
        reactor.run()
    try:
        figures: dict[str, Any] = json.loads(process.stdout.readline())
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
        process.wait()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--budget", default=str(pubsub_link.TURN_BUDGET), help="one or several, with commas between")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--node", action="store_true", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    budgets = [float(part) for part in flags.budget.split(",")]
    if flags.node:
        node(flags.messages, budgets[0])
        return
    signer = Signer(Identity.from_seed((3).to_bytes(32, "big")))
    signed = (signer.sign(TOPIC, bytes(flags.size), number.to_bytes(8, "big")) for number in range(flags.messages))
    single = list(map(message_frame, signed))
    frames = [b"".join(single[start : start + JOINED]) for start in range(0, len(single), JOINED)]
    rounds: dict[float, list[dict[str, Any]]] = {budget: [] for budget in budgets}
    for _ in range(flags.rounds):
        for budget in budgets:
            rounds[budget].append(measure(frames, flags.messages, budget))
    for budget, figures in rounds.items():
        medians = {name: round(statistics.median(each[name] for each in figures), 1) for name in figures[0]}
        print(json.dumps({"budget_s": budget, **medians}))


if __name__ == "__main__":
    main()
