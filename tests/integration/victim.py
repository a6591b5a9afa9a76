"""A node in a process of its own, for others to attack: open mode, default limits, `status` on request."""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from chorus.reactor import install

install()

from twisted.internet import reactor  # noqa: E402
from twisted.internet.stdio import StandardIO  # noqa: E402
from twisted.protocols.basic import LineOnlyReceiver  # noqa: E402

from chorus.identity import Identity  # noqa: E402
from chorus.protocols.connection import ConnectionLimits  # noqa: E402
from chorus.protocols.limits import HostLimits  # noqa: E402
from chorus.services.p2p import OpenAdmission, P2PService  # noqa: E402

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


class Victim(LineOnlyReceiver):
    delimiter = b"\n"

    def __init__(self, host: P2PService) -> None:
        self.host = host

    def connectionMade(self) -> None:
        self.host.startService()
        self.say(peer_id=str(self.host.peer_id), addr=str(self.host.bound_addresses()[0]))

    def say(self, **answer: Any) -> None:
        self.sendLine(json.dumps(answer).encode())

    def lineReceived(self, line: bytes) -> None:
        host = self.host
        gc.collect()
        self.say(
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

    def connectionLost(self, reason: object = None) -> None:
        if reactor.running:
            reactor.stop()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--handshake", type=float, default=10.0)
    parser.add_argument("--files", type=int, default=0, help="limit of file descriptors")
    parser.add_argument("--buffered", type=int, default=HostLimits().max_buffered)
    flags = parser.parse_args()
    if flags.files:
        resource.setrlimit(resource.RLIMIT_NOFILE, (flags.files, flags.files))
    host = P2PService(
        reactor,
        Identity.generate(),
        admission=OpenAdmission(),
        open_mode=True,
        limits=HostLimits(max_buffered=flags.buffered),
        connection_limits=ConnectionLimits(handshake_s=flags.handshake),
    )
    StandardIO(Victim(host))
    reactor.run()


if __name__ == "__main__":
    main()
