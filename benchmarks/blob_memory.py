"""Memory of a large blob on its way: uploaded, sealed, pushed, fetched by another node, unsealed.

    python benchmarks/blob_memory.py [--mib 1024]

Three nodes, each a process with sockets, store and threads: an author uploads and seals the blob and pushes it to a
holder; then the author ends, and a reader fetches it from the holder and unseals it. Prints one JSON object: of each
node the bytes of resident memory at its highest above what it had before (`extra`), those of its largest child process
(`child`), and the bytes that it had from an earlier try (`resumed`). Linux alone.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from twisted.internet import asyncioreactor

if __name__ == "__main__":
    asyncioreactor.install()  # type: ignore[no-untyped-call]

from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred, fail
from twisted.internet.stdio import StandardIO
from twisted.internet.task import LoopingCall
from twisted.protocols.basic import LineOnlyReceiver

from chorus.identity import Identity
from chorus.multiformats.multiaddr import Multiaddr
from chorus.services.blobs.offload import ThreadOffload
from chorus.services.blobs.plaintexts import Plaintexts
from chorus.services.blobs.replicas import ReplicaContext, ReplicaService
from chorus.services.blobs.sealing import Sealer
from chorus.services.blobs.service import BlobService
from chorus.services.blobs.serving import BlobLimits
from chorus.services.dht.ports import DhtUnavailable
from chorus.services.p2p.admission import AdmissionService
from chorus.services.p2p.host import P2PService
from chorus.services.store import StoreService

MIB = 1 << 20
PIECE = 64 * 1024
"""Bytes of one write of the upload, as they come from a socket."""
LOOK_S = 0.01
reactor: Any = installed
Figures = dict[str, Any]


class NodeProcess:
    """A node as the driver sees it: one JSON object a line, to and fro."""

    def __init__(self, folder: Path) -> None:
        argv = [sys.executable, __file__, "--node", str(folder)]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.address = self("start")["address"]

    def __call__(self, do: str, **arguments: object) -> Figures:
        self.ask(do, **arguments)
        return self.answer()

    def ask(self, do: str, **arguments: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self) -> Figures:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer: Figures = json.loads(line or b'{"error": "the node is gone"}')
        if "error" in answer:
            raise SystemExit(answer["error"])
        return answer

    def end(self) -> None:
        self._process.communicate()

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.communicate()


def drive(mib: int) -> Figures:
    with tempfile.TemporaryDirectory() as root:
        begun = time.monotonic()
        author, holder = NodeProcess(Path(root, "author")), NodeProcess(Path(root, "holder"))
        author("dial", address=holder.address)
        for node in (author, holder):
            node("begin")
        made = author("make", size=mib * MIB)
        assert author("push", stored=made["stored"])["safe"]
        figures = {"author": author("figures")}
        author.end()
        reader = NodeProcess(Path(root, "reader"))
        reader("dial", address=holder.address)
        reader("begin")
        reader("read", **made)
        figures |= {"holder": holder("figures"), "reader": reader("figures")}
        for node in (reader, holder):
            node.end()
        return {"mib": mib, "seconds": round(time.monotonic() - begun, 1), **figures}


class OneCluster:
    """What admission asks of the cluster; the same at every node here."""

    cluster_id = bytes(range(32))
    secret = bytes(range(32, 64))

    def meet(self, theirs: bytes) -> None: ...


class NoDht:
    """Connected members are asked without it."""

    def provide(self, key: bytes) -> Deferred[Any]:
        return fail(DhtUnavailable("none here"))

    providers = withdraw = provide


class NoKeys:
    """Roles never change here."""

    def identities(self) -> tuple[str, ...]:
        return ()

    def watch(self, changed: object) -> None: ...


class MeasuredNode:
    """One node with its store, sockets and threads."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        identity = Identity.generate()
        cluster: Any = OneCluster()
        dht: Any = NoDht()
        self.host = P2PService(reactor, identity, admission=AdmissionService(identity.peer_id, cluster, reactor))
        self.store, self.offload = StoreService(folder / "chorus.db", reactor), ThreadOffload(reactor)
        self.blobs = BlobService(
            directory=folder / "blobs",
            store=self.store.database,
            host=self.host,
            clock=reactor,
            offload=self.offload,
            wall=time.time,
            limits=BlobLimits(max_blob=1 << 40, max_store=1 << 40, max_kept_per_peer=1 << 40),
        )
        keyring: Any = NoKeys()
        sealer = Sealer(self.blobs, self.offload)
        self.replicas = ReplicaService(
            ReplicaContext(
                blobs=self.blobs,
                sealer=sealer,
                plaintexts=Plaintexts(self.blobs, sealer, self.offload, reactor, keyring),
                host=self.host,
                dht=dht,
                clock=reactor,
                rng=random.Random(),
                wanted=2,
            )
        )
        self._looks = LoopingCall(self._look)
        self._base = self._child = 0

    async def start(self) -> Figures:
        await self.store.startService()
        self.offload.start()
        self.host.startService()
        await self.blobs.startService()
        self.replicas.startService()
        return {"address": f"{self.host.listen_addresses()[0]}/p2p/{self.host.peer_id}"}

    async def dial(self, address: str) -> Figures:
        joined: Deferred[None] = Deferred()

        def meet(connection: object) -> None:
            if not joined.called:
                joined.callback(None)

        self.host.watch_peers(meet, lambda _: None)
        await self.host.dial(None, [Multiaddr.parse(address)])
        await joined
        return {}

    async def begin(self) -> Figures:
        """Measure from here on."""
        _write("/proc/self/clear_refs", "5")
        self._base = memory("self", "VmRSS")
        self._looks.start(LOOK_S)
        return {}

    async def make(self, size: int) -> Figures:
        """Upload and seal random bytes."""
        sha256 = await self._upload(size)
        path = self.blobs.path_of(sha256)
        assert path is not None
        sealed = await self.replicas.seal_file(path)
        return {"stored": sealed.stored, "key": sealed.key, "sha256": sha256, "size": size}

    async def push(self, stored: str) -> Figures:
        return {"safe": (await self.replicas.replicate(stored, "benchmark")).safe}

    async def _upload(self, size: int) -> str:
        writer = self.blobs.writer(None)
        waiting: list[Deferred[None]] = []

        def press(on: bool) -> None:
            if on:
                waiting.append(Deferred())
            else:
                waiting.pop().callback(None)

        writer.on_pressure = press
        for _ in range(size // PIECE):
            writer.write(os.urandom(PIECE))
            if waiting:
                await waiting[-1]
        return str((await writer.finish())["sha256"])

    async def read(self, stored: str, key: str, sha256: str, size: int) -> Figures:
        await self.replicas.unseal(stored, key, sha256, size)
        return {}

    async def figures(self) -> Figures:
        extra = memory("self", "VmHWM") - self._base
        return {"extra": extra, "child": self._child, "resumed": self.blobs.counters.resumed_bytes}

    async def stop(self) -> None:
        if self._looks.running:
            self._looks.stop()
        await self.replicas.stopService()
        await self.blobs.stopService()
        await self.host.stopService()
        self.offload.stop()
        await self.store.stopService()

    def _look(self) -> None:
        for task in os.listdir("/proc/self/task"):
            for child in _read(f"/proc/self/task/{task}/children").split():
                # Before its exec it is this process once more.
                if "--node" not in _read(f"/proc/{child}/cmdline"):
                    self._child = max(self._child, memory(child, "VmHWM"))


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8")
    except OSError:
        return ""


def _write(path: str, text: str) -> None:
    Path(path).write_text(text, "utf-8")


def memory(process: str, field: str) -> int:
    """Bytes of a field of /proc/PID/status; 0 for a process that has ended."""
    lines = (line.split() for line in _read(f"/proc/{process}/status").splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == f"{field}:"), 0)


class Commands(LineOnlyReceiver):
    """Obeys one JSON object a line until there are no more."""

    delimiter = b"\n"

    def __init__(self, node: MeasuredNode) -> None:
        self._node = node

    def lineReceived(self, line: bytes) -> None:
        request = json.loads(line)
        Deferred.fromCoroutine(self._obey(**request))

    async def _obey(self, do: str, **arguments: Any) -> None:
        try:
            answer = await getattr(self._node, do)(**arguments)
        except Exception as problem:
            answer = {"error": repr(problem)}
        self.sendLine(json.dumps(answer).encode())  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: object = None) -> None:
        Deferred.fromCoroutine(self._node.stop()).addBoth(lambda _: reactor.stop())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--node", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.node is None:
        print(json.dumps(drive(options.mib)))
        return
    StandardIO(Commands(MeasuredNode(options.node)))  # type: ignore[no-untyped-call]
    reactor.run()


if __name__ == "__main__":
    main()
