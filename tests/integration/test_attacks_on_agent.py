"""Every kind of attack, one after the other, on one whole agent that has a task to run (spec/security.md 3.4).

The agent is scheduler and executor in one process: what holds it up holds up its task's output. Meanwhile a task that
prints a line every 100 ms is watched through the API without a gap of two seconds, another member's ping stays under a
second, and the agent's resident memory stays bounded.
"""

from __future__ import annotations

import contextlib
import gzip
import http.client
import io
import itertools
import json
import math
import os
import re
import shutil
import socket
import tarfile
import tempfile
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest

from chorus.errors import ChorusError
from chorus.identity import Identity, PeerId
from chorus.multiformats import varint
from chorus.protocols import blobs, identify, multistream, peers, ping, task_messages
from chorus.protocols.connection.core import Ends
from chorus.protocols.gossipsub.params import MAX_RPC, MESHSUB_1_1
from chorus.protocols.proto import rpc_pb2 as pb
from chorus.protocols.proto.identify_pb2 import Identify
from chorus.protocols.stream import ProtocolOptions
from chorus.protocols.streamio import StreamIO
from chorus.security.membership import Wishes
from chorus.services.cluster import ClusterService, load_token
from chorus.services.p2p.admission import AdmissionService
from chorus.services.p2p.host import P2PService
from tests.integration.agents import Agent, Mesh, until
from tests.integration.test_attacks import BAD_KEYS, CVE_2019_15545, CVE_2022_24759, talks
from tests.integration.test_hostile_peers import (
    DATA,
    PING,
    RST,
    SYN,
    UPDATE,
    Attacker,
    Connecting,
    HostileCase,
    HostilePeer,
    frame,
)

GROWTH_KB = 48 * 1024
"""What all attacks together may add to the agent's resident memory, at any time."""


class Watch(threading.Thread):
    """Follows a task's events, and counts its lines."""

    def __init__(self, agent: Agent, task: str) -> None:
        super().__init__(daemon=True)
        self.agent, self.task = agent, task
        self.arrivals = 0
        self.text = ""
        self.error: Exception | None = None
        self._connection = http.client.HTTPConnection("127.0.0.1", int(agent.settings["CHORUS_API_PORT"]), timeout=60)

    def run(self) -> None:
        try:
            self._connection.request(
                "GET", f"/v1/tasks/{self.task}/events", headers={"Authorization": f"Bearer {self.agent.token}"}
            )
            answer = self._connection.getresponse()
            while line := answer.readline():
                if line.startswith(b"data:"):
                    data = json.loads(line.removeprefix(b"data:"))["data"]
                    if data.get("stream") == "stdout":
                        self.arrivals += 1
                        self.text += data["text"]
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.error = error
        finally:
            self._connection.close()


def resident_kb(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


class Ended:
    """`StreamReceiver` that waits for the end of its stream."""

    def __init__(self) -> None:
        self.ended: Deferred[None] = Deferred()

    def data_received(self, data: bytes) -> None: ...

    def eof_received(self) -> None: ...

    def stream_closed(self, error: object) -> None:
        self.ended.callback(None)

    def pause_writing(self) -> None: ...

    def resume_writing(self) -> None: ...


class Member:
    """A member of the cluster with no services but those that a test gives it."""

    def __init__(self, folder: Path, agent: Agent) -> None:
        folder.mkdir(mode=0o700)
        token = load_token(agent.data)
        self.identity = Identity.generate()
        cluster = ClusterService.open(folder, self.identity, Wishes(join=token))
        self.host = P2PService(
            reactor, self.identity, admission=AdmissionService(self.identity.peer_id, cluster, reactor)
        )
        self.agent: PeerId = token.peer_id
        self.addresses = list(token.addresses)

    async def join(self) -> Any:
        return await self.host.dial(self.agent, self.addresses)


def tar_of(*members: tuple[str, bytes | None]) -> bytes:
    """A tar archive; a member without content is a symbolic link to `/etc`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc"
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def bomb() -> bytes:
    """64 MiB of zeros in 64 KiB, sixteen times over: 1 GiB in a megabyte."""
    part = gzip.compress(bytes(64 * 1024 * 1024), 9)
    head = tarfile.TarInfo("zeros")
    head.size = 16 * 64 * 1024 * 1024
    return gzip.compress(head.tobuf()) + part * 16


class WholeAgent(HostileCase):
    timeout = 480

    def setUp(self) -> None:
        if shutil.which("bwrap") is None:
            raise SkipTest("bubblewrap is not installed (apt-get install bubblewrap)")
        self.folder = Path(tempfile.mkdtemp(prefix="chorus-attacks-"))
        self.mesh = Mesh(self.folder, CHORUS_SANDBOX="bubblewrap", CHORUS_TASK_TIMEOUT_S="600")
        self.numbers = itertools.count()
        self.addCleanup(deferToThread, self.mesh.stop)

    async def start(self) -> None:
        self.agent = await deferToThread(self.mesh.add, "target")
        token = load_token(self.agent.data)
        self.peer_id = token.peer_id
        (self.address,) = token.addresses
        self.port = int(self.agent.settings["CHORUS_P2P_PORT"])
        self.api = int(self.agent.settings["CHORUS_API_PORT"])
        self.bystander = await self.member("bystander")
        await self.bystander.join()
        self.round_trips: list[float] = []
        self.memory: list[int] = []
        self._pinging = LoopingCall(self._look)
        self.task = await deferToThread(
            self.agent.submit,
            commands=["i=0; while :; do echo line $i; i=$((i+1)); sleep 0.1; done"],
            limits={"timeout_s": 600},
        )
        self.watch = Watch(self.agent, self.task)
        self.watch.start()
        await deferToThread(until, "the task's output", lambda: self.watch.arrivals > 5)
        await self._warm_up()
        assert self.agent.process is not None
        self.before_kb = resident_kb(self.agent.process.pid)
        self.addCleanup(self._stop_looking)
        self._pinging.start(0.05)

    async def _warm_up(self) -> None:
        """The first request of each kind loads code, which is no growth."""
        await deferToThread(self.ask, "POST", "/v1/tasks", b"{}")
        await deferToThread(self.agent.upload, b"x")

    def _look(self) -> Deferred[None]:
        assert self.agent.process is not None
        self.memory.append(resident_kb(self.agent.process.pid))
        return self.bystander.host.ping(self.peer_id).addCallbacks(
            self.round_trips.append, lambda failure: self.round_trips.append(math.inf)
        )

    def _stop_looking(self) -> None:
        if self._pinging.running:
            self._pinging.stop()

    async def member(self, name: str, register: Callable[[P2PService], None] = lambda host: None) -> Member:
        member = Member(self.folder / name, self.agent)
        register(member.host)
        member.host.startService()
        self.addCleanup(member.host.stopService)
        return member

    async def hostile(self, *, deaf: bool = True) -> tuple[HostilePeer, Attacker]:
        """A stranger: authenticated, and not admitted."""
        attacker = Attacker()
        peer = HostilePeer(
            Ends(Identity.generate(), initiator=True),
            remote_address=self.address,
            clock=reactor,
            delegate=attacker,
        )
        reactor.connectTCP("127.0.0.1", self.port, Connecting(peer))
        await attacker.secured
        await self.pause(0)
        peer.deaf = deaf
        self.addCleanup(lambda: Deferred.fromCoroutine(self._end(peer, attacker)))
        return peer, attacker

    # What everything is measured by

    async def unharmed(self, attack: str) -> None:
        """The task's output and the bystander's pings go on."""
        lines, answers = self.watch.arrivals, len(self.round_trips)
        await deferToThread(
            until, f"{attack}: more of the output", lambda: self.watch.arrivals > lines or not self.watch.is_alive()
        )
        await deferToThread(until, f"{attack}: another answer", lambda: len(self.round_trips) > answers)
        self.assertIsNone(self.watch.error, attack)
        self.assertTrue(self.watch.is_alive(), f"{attack}: the watch ended")
        self.assertNotIn(math.inf, self.round_trips, f"{attack}: a ping of the bystander was not answered")
        self.assertLess(max(self.memory), self.before_kb + GROWTH_KB, f"{attack}: memory")
        self.assertNotIn("Traceback", self.agent.log.read_text(errors="replace"), attack)

    async def test_attacks_one_after_the_other(self) -> None:
        await self.start()
        attacks: list[Callable[[], Awaitable[None]]] = [
            self.garbage,
            self.silent_and_slow_peers,
            self.crooked_handshakes,
            self.yamux_bombs,
            self.rapid_reset,
            self.opens_and_pings_and_never_reads,
            self.protocols_for_members_only,
            self.identify_bombs,
            self.pubsub_bombs,
            self.endless_replies,
            self.bombs_in_chorus_protocols,
            self.http_refusals,
            self.slow_http_clients,
            self.hostile_archives,
        ]
        for attack in attacks:
            await attack()
            await self.unharmed(attack.__name__)
        self._stop_looking()
        with_all = max(self.memory)
        await deferToThread(self._cancel)
        lines = self.watch.text.splitlines()
        self.assertEqual(lines[:-1], [f"line {n}" for n in range(len(lines) - 1)])
        # At least one under each attack; how many more is a matter of how long they take.
        self.assertGreater(len(lines), len(attacks))
        self.assertLess(with_all, self.before_kb + GROWTH_KB)

    def _cancel(self) -> None:
        with self.agent.request("DELETE", f"/v1/tasks/{self.task}") as answer:
            self.assertEqual(answer.status, 200)
        self.watch.join(60)
        self.assertFalse(self.watch.is_alive())

    # Strangers

    async def garbage(self) -> None:
        for beginning in (b"", multistream.HEADER, multistream.lazy_offer("/noise") + b"\x00\x20" + bytes(32)):
            raw = await gatherResults([Deferred.fromCoroutine(self.raw()) for _ in range(20)])
            for peer in raw:
                peer.say(beginning + os.urandom(70_000))
            await gatherResults([peer.lost for peer in raw])

    async def silent_and_slow_peers(self) -> None:
        raw = await gatherResults([Deferred.fromCoroutine(self.raw()) for _ in range(100)])
        offer = multistream.lazy_offer("/noise")
        for byte in offer[:10]:
            for peer in raw[:50]:
                peer.say(bytes([byte]))
            await self.bystander.host.ping(self.peer_id)
        for peer in raw:
            peer.abort()
        await gatherResults([peer.lost for peer in raw])

    async def crooked_handshakes(self) -> None:
        for payload in (*CVE_2022_24759, *CVE_2019_15545, *BAD_KEYS.values()):
            self.assertFalse(await deferToThread(talks, self.port, payload))

    async def yamux_bombs(self) -> None:
        offer = multistream.lazy_offer(ping.PROTOCOL)
        opened = frame(DATA, SYN, 1, len(offer), offer)
        update = frame(UPDATE, 0, 1, 0xFFFFFFFF)
        for frames in (
            [opened, frame(DATA, 0, 1, 0xFFFFFFFF)],
            [opened, update, update],
            [frame(DATA, SYN, 1, 262_145, bytes(262_145))],
            [frame(DATA, 0, 9, 2**30)],
            [opened, opened],
        ):
            peer, attacker = await self.hostile()
            peer.send(*frames)
            await attacker.closed

    async def rapid_reset(self) -> None:
        peer, attacker = await self.hostile()
        frames = [frame(UPDATE, flag, 1 + 2 * n, 0) for n in range(10_000) for flag in (SYN, RST)]
        for start in range(0, len(frames), 1000):
            peer.send(*frames[start : start + 1000])
        await attacker.closed

    async def opens_and_pings_and_never_reads(self) -> None:
        peer, attacker = await self.hostile()
        peer.transport.pauseProducing()
        stream = 1
        for _ in range(100):
            offer = multistream.lazy_offer(ping.PROTOCOL) + bytes(3200)
            peer.send(
                *(frame(DATA, SYN, stream + 2 * n, len(offer), offer) for n in range(5)),
                *(frame(PING, SYN, 0, n) for n in range(200)),
            )
            stream += 10
            await self.bystander.host.ping(self.peer_id)
        peer.transport.resumeProducing()
        peer.transport.abortConnection()
        await attacker.closed

    async def protocols_for_members_only(self) -> None:
        """A stranger offers what only members may speak, then proofs of admission of its own making."""
        peer, attacker = await self.hostile(deaf=False)
        for protocol in (MESHSUB_1_1, peers.PROTOCOL, blobs.PROTOCOL, task_messages.PROTOCOL):
            with contextlib.suppress(ChorusError):
                io = StreamIO(await peer.open_stream([protocol]), reactor, timeout=60.0)
                await io.write(b"\x02\x08\x01")
                self.assertEqual(await io.read_some(100), b"", protocol)
        for hello in (varint.encode(2**62), b"\x05\x7b\x7b\x7c\x7c\x00", b"\x22\x0a\x20" + os.urandom(32)):
            peer, attacker = await self.hostile(deaf=False)
            stream = await peer.open_stream([AdmissionService.protocol])
            stream.set_receiver(Ended())
            stream.write(hello)
            await attacker.closed

    # A member

    async def bombs(self, protocol: str, *messages: bytes) -> None:
        """Each on a stream of its own, which the agent ends."""
        evil = await self.member(f"evil-{next(self.numbers)}")
        for message in messages:
            connection = await evil.join()
            stream = await connection.open_stream([protocol])
            receiver = Ended()
            stream.set_receiver(receiver)
            with contextlib.suppress(ChorusError):
                stream.write(message)
                stream.write_eof()
            await receiver.ended
        await evil.host.stopService()

    async def identify_bombs(self) -> None:
        parts = [
            Identify(protocols=[f"/planted/{part}/{n}" for n in range(180)]).SerializeToString() for part in range(10)
        ]
        await self.bombs(
            identify.PUSH_PROTOCOL,
            varint.encode(2**62),
            b"\xff" * 20,
            b"".join(varint.encode(len(part)) + part for part in parts),
            varint.encode(8000) + b"\x7b" * 4000 + b"\x7c" * 4000,
        )

    async def pubsub_bombs(self) -> None:
        def sized(message: bytes) -> bytes:
            return varint.encode(len(message)) + message

        many = [f"topic/{n}" for n in range(3000)]
        grafts = pb.RPC(control=pb.ControlMessage(graft=[pb.ControlGraft(topicID=topic) for topic in many[:150]]))
        churn = b"".join(
            sized(
                pb.RPC(
                    subscriptions=[
                        pb.RPC.SubOpts(subscribe=wanted, topicid=topic) for topic in many[start : start + 100]
                    ]
                ).SerializeToString()
            )
            for start in range(0, 3000, 100)
            for wanted in (True, False)
        )
        backoffs = b"".join(
            sized(
                pb.RPC(
                    control=pb.ControlMessage(prune=[pb.ControlPrune(topicID="chorus/tasks", backoff=backoff)])
                ).SerializeToString()
            )
            for backoff in (0, 1, 2**32, 2**63, 2**64 - 1)
        )
        forged = pb.RPC(publish=[pb.Message(data=b"x", topic="chorus/tasks", seqno=bytes(8), signature=bytes(64))] * 10)
        evil = await self.member("evil-pubsub")
        for message, refused in (
            (varint.encode(MAX_RPC) + b"\x0a\x00" * (MAX_RPC // 2), True),
            (varint.encode(MAX_RPC) + b"\x12\x00" * (MAX_RPC // 2), True),
            (varint.encode(2**62), True),
            (b"\xff" * 100, True),
            (sized(grafts.SerializeToString()), False),
            (churn, False),
            (backoffs, False),
            (sized(forged.SerializeToString()) * 200, False),
        ):
            connection = await evil.join()
            stream = await connection.open_stream([MESHSUB_1_1])
            receiver = Ended()
            stream.set_receiver(receiver)
            with contextlib.suppress(ChorusError):
                stream.write(message)
            if refused:
                await receiver.ended
            else:
                await self.bystander.host.ping(self.peer_id)
                stream.reset()
        await evil.host.stopService()

    async def endless_replies(self) -> None:
        """Members whose answers to the agent's own questions have lengths without end (GHSA-xqvc-92cf-94j4)."""
        for number, reply in enumerate((varint.encode(2**62), b"\xff" * 64, varint.encode(2**16) + bytes(2**16))):
            asked: Deferred[None] = Deferred()
            evil = await self.member(f"evil-replies-{number}", partial(self._answer_with, reply, asked))
            await evil.join()
            await asked
            await evil.host.stopService()

    def _answer_with(self, reply: bytes, asked: Deferred[None], host: P2PService) -> None:
        def answer(stream: Any) -> None:
            stream.set_receiver(Ended())
            stream.write(reply)
            if stream.protocol == peers.PROTOCOL and not asked.called:
                asked.callback(None)

        for protocol in (peers.PROTOCOL, blobs.PROTOCOL, task_messages.PROTOCOL, MESHSUB_1_1):
            host.register(protocol, answer, ProtocolOptions())

    async def bombs_in_chorus_protocols(self) -> None:
        deep = b"[" * 400 + b"]" * 400
        digits = b'{"t":' + b"9" * 400 + b"}"
        for protocol in (peers.PROTOCOL, blobs.PROTOCOL, task_messages.PROTOCOL):
            await self.bombs(
                protocol,
                varint.encode(2**62),
                b"\xff" * 64,
                varint.encode(len(deep)) + deep,
                varint.encode(len(digits)) + digits,
                b"\x0a" + b"\x7b" * 5 + b"\x7c" * 5,
            )
        many_digits = b'{"t":' + b"9" * 1_000_000 + b"}"
        many_deep = b"[" * 500_000 + b"]" * 500_000
        await self.bombs(
            task_messages.PROTOCOL,
            *(varint.encode(len(body) + 1) + b"\x00" + body for body in (many_digits, many_deep)),
            *(varint.encode(len(body)) + body for body in (many_digits, many_deep)),
        )

    # HTTP

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.api, timeout=60)
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the answer may come before the body ends
                connection.request(
                    method,
                    path,
                    body,
                    {
                        "Authorization": f"Bearer {self.agent.token}",
                        "Content-Type": "application/json",
                        **{name.replace("_", "-"): value for name, value in headers.items()},
                    },
                )
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    async def http_refusals(self) -> None:
        await deferToThread(self._http_refusals)

    def _http_refusals(self) -> None:
        for token in ("Bearer wrong", "Bearer ", "Basic x", "Bearer " + "x" * 4000):
            self.assertEqual(self.ask("GET", "/v1/tasks", Authorization=token)[0], 401)
        for body, expected in (
            (b"", 400),
            (b"{", 400),
            (b"\xff\xfe", 400),
            (b"[" * 100_000, 400),
            (b'{"commands":["true"],"priority":' + b"9" * 100_000 + b"}", 400),
            (b'{"commands":["true"],"priority":NaN}', 400),
            (b'{"commands":["true"],"commands":["false"]}', 400),
            (b'{"commands":["true"],"title":"\\ud800"}', 400),
            (b'{"commands":["true"],"comands":["true"]}', 422),
            (b'{"commands":["true"],"input":{"sha256":"../../../etc/passwd"}}', 422),
        ):
            status, answer = self.ask("POST", "/v1/tasks", body)
            self.assertEqual(status, expected, (body[:60], answer))
            self.assertIn("code", json.loads(answer))
        self.assertEqual(self.ask("POST", "/v1/tasks", b" " * (8 * 1024 * 1024))[0], 413)
        for path in ("/v1/tasks/..%2f..%2fetc%2fpasswd", "/v1/blobs/../../etc/passwd", "/v1/blobs/%2e%2e%2fapi-token"):
            self.assertIn(self.ask("GET", path)[0], (400, 404), path)

    async def slow_http_clients(self) -> None:
        await deferToThread(self._slow_http_clients)

    def _slow_http_clients(self) -> None:
        sockets = [socket.create_connection(("127.0.0.1", self.api), timeout=60) for _ in range(100)]
        try:
            for one in sockets[::2]:
                one.sendall(b"POST /v1/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            for one in sockets[1::2]:
                one.sendall(
                    b"PUT /v1/blobs HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\n"
                    b"Content-Length: 1000000\r\n\r\n" % self.agent.token.encode()
                )
            for _ in range(10):
                for one in sockets:
                    with contextlib.suppress(OSError):
                        one.sendall(b"x")
                self.assertEqual(self.ask("GET", "/v1/status")[0], 200)
        finally:
            for one in sockets:
                one.close()

    async def hostile_archives(self) -> None:
        await deferToThread(self._hostile_archives)

    def _hostile_archives(self) -> None:
        escaped = self.folder / "escaped"
        for archive, why in (
            (tar_of(("../" * 20 + str(escaped)[1:], b"x")), "climbs"),
            (tar_of((str(escaped), b"x")), "absolute"),
            (tar_of(("out", None), ("out/passwd", b"x")), "stay in the archive"),
            (bomb(), "more than"),
            (os.urandom(10_000), "tar"),
        ):
            task = self.agent.submit(commands=["true"], input={"sha256": self.agent.upload(archive)})
            document = self.agent.ended(task, 60)
            self.assertEqual((document["state"], document["reason"]), ("failed", "refused"), document)
            self.assertIn(why, document["detail"])
        self.assertFalse(escaped.exists())
