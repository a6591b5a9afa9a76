"""A node in a process of its own, for others to attack: open mode, default limits, `status` on request."""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from chorus.reactor import install

install()

from twisted.internet import reactor  # noqa: E402
from twisted.internet.stdio import StandardIO  # noqa: E402
from twisted.protocols.basic import LineOnlyReceiver  # noqa: E402

from chorus.identity import Identity, PeerId  # noqa: E402
from chorus.messages import COORDINATION  # noqa: E402
from chorus.protocols.connection.limits import ConnectionLimits  # noqa: E402
from chorus.protocols.gossipsub.params import GossipParams  # noqa: E402
from chorus.protocols.gossipsub.score_params import ScoreParams, TopicScoreParams  # noqa: E402
from chorus.protocols.limits import HostLimits  # noqa: E402
from chorus.seams import PassThrough  # noqa: E402
from chorus.services.messaging import Messaging  # noqa: E402
from chorus.services.p2p.gate import OpenAdmission  # noqa: E402
from chorus.services.p2p.host import P2PService  # noqa: E402
from chorus.services.p2p.settings import HostSettings  # noqa: E402
from chorus.services.pubsub.service import PubSubService  # noqa: E402
from chorus.services.pubsub.settings import PubSubSettings  # noqa: E402
from chorus.services.pubsub.topics import Received  # noqa: E402

STATUS = os.open("/proc/self/status", os.O_RDONLY)
"""Opened early: there may be no file descriptor left when it is asked for."""


def resident_kb() -> int:
    status = os.pread(STATUS, 65536, 0).decode()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))


def descriptors() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Turns:
    """The longest call that the reactor makes for one event or one batch of timers, in seconds of processor time."""

    def __init__(self, reactor: Any) -> None:
        self.longest = 0.0
        self.counted = True
        for name in ("_readOrWrite", "_onTimer"):
            setattr(reactor, name, self._timed(getattr(reactor, name)))

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any) -> Any:
            self.counted = True
            began = time.thread_time()
            result = call(*arguments)
            if self.counted:
                self.longest = max(self.longest, time.thread_time() - began)
            return result

        return timed


SIGNATURES = 100
VERIFY = 40e-6
"""Seconds that a signature takes to verify on the processor that limits were made for."""


def slowness() -> float:
    """How many times slower this processor is at present than the one that limits were made for; at least 1."""
    identity = Identity.from_seed(bytes(32))
    key, signature = identity.public_key, identity.sign(b"x")
    began = time.thread_time()
    for _ in range(SIGNATURES):
        key.verify(b"x", signature)
    return max(1.0, (time.thread_time() - began) / SIGNATURES / VERIFY)


def fast_pubsub(host: P2PService, identity: Identity, degree: int) -> PubSubService:
    """Heartbeats and scores five times as fast as by default, so that what takes a minute takes a dozen seconds."""
    return PubSubService(
        host,
        identity,
        reactor,
        rng=random.Random(1),
        settings=PubSubSettings(
            GossipParams(
                heartbeat=0.2,
                growing_seqno=True,
                d=degree,
                d_lo=degree - 1,
                d_score=min(4, degree),
                d_out=min(2, degree // 2),
            ),
            ScoreParams(
                topic=TopicScoreParams(mesh_deliveries_activation=3.0, mesh_time_quantum=0.2), decay_interval=0.2
            ),
        ),
    )


def burn(seconds: float) -> None:
    """Hold the reactor for that long on the processor that limits were made for, longer on a slower one."""
    identity = Identity.from_seed(bytes(32))
    key, signature = identity.public_key, identity.sign(b"x")
    for _ in range(round(seconds / VERIFY)):
        key.verify(b"x", signature)


def burning(received: Received) -> None:
    """A callback that does what none may do: the measure of turns must see it, in an event and in a timer."""
    if received.data == b"burn":
        burn(0.1)
    elif received.data == b"burn in a timer":
        reactor.callLater(0, burn, 0.2)


class Victim(LineOnlyReceiver):
    """Answers each line with one: `status` says all, after the garbage is collected; `glance` what costs little."""

    delimiter = b"\n"

    def __init__(self, host: P2PService, pubsub: PubSubService | None, turns: Turns) -> None:
        self.host = host
        self.pubsub = pubsub
        self.turns = turns

    def connectionMade(self) -> None:
        self.host.startService()
        if self.pubsub is not None:
            self.pubsub.startService()
            messaging = Messaging(
                self.pubsub, self.host.peer_id, redactor=PassThrough(), wall=time.time, random=os.urandom
            )
            messaging.take_part([COORDINATION])
            self.pubsub.subscribe("attacked", burning)
            self.pubsub.subscribe("elsewhere", burning)
        self.say(peer_id=str(self.host.peer_id), addr=str(self.host.bound_addresses()[0]))

    def say(self, **answer: Any) -> None:
        self.sendLine(json.dumps(answer).encode())

    def lineReceived(self, line: bytes) -> None:
        host = self.host
        self.turns.counted = False
        measured = {}
        if line == b"status":
            gc.collect()
            measured["slowness"] = slowness()
        self.say(
            **measured,
            **self.of_pubsub(),
            longest_turn=self.turns.longest,
            rss_kb=resident_kb(),
            connections=len(host._links),
            admitted=len(host.connections()),
            handshakes=host._counts.handshakes,
            streams=sum(link.connection.streams for link in host._links.values() if link.peer is not None),
            buffered=sum(link.connection.buffered for link in host._links.values() if link.peer is not None),
            peers=len(host.peers),
            timers=len(reactor.getDelayedCalls()),
            descriptors=descriptors(),
            refused=host.counters.refused,
            closed=host.counters.closed,
            streams_refused=host.counters.streams_refused,
            peer_errors=host.counters.peer_errors,
            identify_failed=host.counters.identify_failed,
            bugs=host.counters.peer_errors["receiver_failed"] + host.counters.closed["local_error"],
        )

    def of_pubsub(self) -> dict[str, Any]:
        if self.pubsub is None:
            return {}
        router = self.pubsub.router
        return {
            "counters": self.pubsub.counters(),
            "rejected": router.counters.rejected,
            "mesh": [str(PeerId(raw)) for raw in router.mesh("attacked")],
            "scores": {str(PeerId(raw)): router.score(raw) for raw in router.peers()},
            "topics": router._peers.topics(),
            "held": {
                "backoffs": len(router._meshes.backoffs),
                "promises": len(router._lazy.promises),
                "unwanted": sum(len(state.unwanted) for state in router._peers.all()),
                "pending": router.pending,
                "fanouts": len(router._meshes.fanouts),
            },
        }

    def connectionLost(self, reason: object = None) -> None:
        if reactor.running:
            reactor.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--handshake", type=float, default=10.0)
    parser.add_argument("--files", type=int, default=0, help="limit of file descriptors")
    parser.add_argument("--pubsub", action="store_true")
    parser.add_argument("--degree", type=int, default=6, help="D of the mesh; D_lo is one less")
    parser.add_argument("--buffered", type=int, default=HostLimits().max_buffered)
    flags = parser.parse_args()
    if flags.files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (flags.files, flags.files))
    turns = Turns(reactor)
    identity = Identity.generate()
    host = P2PService(
        reactor,
        identity,
        admission=OpenAdmission(),
        settings=HostSettings(
            open_mode=True,
            limits=HostLimits(max_buffered=flags.buffered),
            connections=ConnectionLimits(handshake_s=flags.handshake),
        ),
    )
    StandardIO(Victim(host, fast_pubsub(host, identity, flags.degree) if flags.pubsub else None, turns))
    reactor.run()


if __name__ == "__main__":
    main()
