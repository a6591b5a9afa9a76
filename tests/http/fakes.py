"""In-memory implementations of the API's ports, true to their contracts, for tests over a real socket."""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Callable
from io import BytesIO
from typing import IO, Any, cast

from twisted.internet.defer import Deferred, fail, succeed

from chorus.errors import UserError
from chorus.http.ports import BlobWriter
from chorus.seams import Document
from chorus.services.scheduling.documents import first_command
from chorus.tasks import ids
from chorus.tasks.events import TaskEvent
from chorus.tasks.spec import TaskSpec, body_digest
from chorus.ucxl.address import Address, Exactly
from chorus.ucxl.provenance import ProvenanceEnvelope, envelope
from chorus.ucxl.query import (
    DecisionHistory,
    DecisionPage,
    DecisionQuery,
    DecisionUnreadable,
    FoundDecision,
    IndexedDecision,
    MemoryStatus,
    PlacedDecision,
    UnknownDecision,
    number_of,
)
from chorus.ucxl.record import Decision, DecisionDraft
from chorus.ucxl.signed import Head, Version
from tests.ucxl import samples

TERMINAL = {"completed", "failed", "cancelled", "refused"}


class UnknownTask(UserError):
    code = "unknown_task"
    http_status = 404


class UnknownDependency(UserError):
    code = "unknown_dependency"
    http_status = 422


class UnknownBlob(UserError):
    code = "unknown_blob"
    http_status = 404


class IdempotencyConflict(UserError):
    code = "idempotency_conflict"
    http_status = 409


class DigestMismatch(UserError):
    code = "digest_mismatch"
    http_status = 422


class TooLarge(UserError):
    code = "blob_too_large"
    http_status = 413


def document(task_id: str, spec: TaskSpec, now: float) -> Document:
    return {
        "id": task_id,
        "state": "submitted",
        "reason": None,
        "detail": "waiting for an agent",
        "title": spec.title,
        "description": spec.description,
        "project": spec.project,
        "created_at": now,
        "updated_at": now,
        "attempt": 0,
        "agent": None,
        "agent_id": None,
        "fence": None,
        "sandbox": None,
        "image": spec.image,
        "exit_code": None,
        "started_at": None,
        "ended_at": None,
        "truncated": [],
        "caveats": [],
        "disk_enforcement": None,
        "artifacts": [],
        "output": None,
        "depends_on": list(spec.depends_on),
        "spec": spec.to_json(),
        "durable": "node",
        "message": None,
    }


SUMMARY = (
    *("id", "state", "reason", "detail", "title", "project", "created_at", "updated_at", "started_at", "ended_at"),
    *("attempt", "agent", "agent_id", "exit_code"),
)


def summary(task: Document) -> Document:
    command = None if task["title"] else first_command(cast("Any", task["spec"]))
    return {**{name: task[name] for name in SUMMARY}, "command": command}


class Watch:
    """One subscription: delivers at once what is there, holds back while paused."""

    def __init__(
        self,
        tasks: FakeTasks,
        task_id: str,
        after: int,
        deliver: Callable[[TaskEvent], None],
        ended: Callable[[], None],
    ) -> None:
        self.tasks, self.task_id, self.after = tasks, task_id, after
        self._deliver, self._ended = deliver, ended
        self.paused = self.stopped = False
        self.pauses = 0

    def stop(self) -> None:
        self.stopped = True
        self.tasks.watches.discard(self)

    def pause(self) -> None:
        self.paused = True
        self.pauses += 1

    def resume(self) -> None:
        self.paused = False
        self.pump()

    def pump(self) -> None:
        for event in self.tasks.events[self.task_id]:
            if self.stopped or self.paused:
                return
            if event.id > self.after:
                self.after = event.id
                self._deliver(event)
        if not (self.stopped or self.paused) and self.tasks.tasks[self.task_id]["state"] in TERMINAL:
            self.stop()
            self._ended()


class FakeTasks:
    def __init__(self) -> None:
        self.tasks: dict[str, Document] = {}
        self.events: dict[str, list[TaskEvent]] = {}
        self.watches: set[Watch] = set()
        self.keys: dict[str, tuple[str, str]] = {}
        self.cancels: list[tuple[str, str, str]] = []
        self.before_submit: Deferred[None] | None = None
        """When set, submissions wait for it."""
        self.broken: Exception | None = None

    def submit(self, body: object, submitter: str) -> Deferred[Document]:
        return Deferred.fromCoroutine(self._submit(body))

    async def _submit(self, body: Any) -> Document:
        if self.broken is not None:
            raise self.broken
        spec = TaskSpec.parse(body)
        digest = body_digest(body)
        if self.before_submit is not None:
            await self.before_submit
        if spec.idempotency_key in self.keys:
            task_id, before = self.keys[spec.idempotency_key]
            if before != digest:
                raise IdempotencyConflict("this idempotency_key came with another body before")
            return self.tasks[task_id]
        for other in spec.depends_on:
            if other not in self.tasks:
                raise UnknownDependency(f"depends_on: no task has the id {other}")
        now = time.time()
        task_id = ids.make(now, os.urandom)
        if spec.idempotency_key is not None:
            self.keys[spec.idempotency_key] = (task_id, digest)
        self.tasks[task_id] = document(task_id, spec, now)
        self.events[task_id] = []
        self.add(task_id, "state", {"state": "submitted"})
        return self.tasks[task_id]

    def get(self, task_id: str) -> Deferred[Document]:
        if task_id not in self.tasks:
            return fail(UnknownTask("no task has this id"))
        return succeed(self.tasks[task_id])

    def list(self, *, state: str | None, limit: int, after: str | None) -> Deferred[Document]:
        found = [
            task
            for task_id, task in sorted(self.tasks.items(), reverse=True)
            if (state is None or task["state"] == state) and (after is None or task_id < after)
        ]
        following = found[limit - 1]["id"] if len(found) > limit else None
        return succeed({"tasks": [summary(task) for task in found[:limit]], "next": following})

    def cancel(self, task_id: str, by: str, reason: str) -> Deferred[Document]:
        if task_id not in self.tasks:
            return fail(UnknownTask("no task has this id"))
        self.cancels.append((task_id, by, reason))
        if self.tasks[task_id]["state"] not in TERMINAL:
            self.end(task_id, "cancelled", "cancelled")
        return succeed(self.tasks[task_id])

    def watch(
        self, task_id: str, after: int, deliver: Callable[[TaskEvent], None], ended: Callable[[], None]
    ) -> Deferred[Watch]:
        if task_id not in self.tasks:
            return fail(UnknownTask("no task has this id"))
        watch = Watch(self, task_id, after, deliver, ended)
        self.watches.add(watch)
        watch.pump()
        return succeed(watch)

    # What a test does

    def make(self, **fields: object) -> str:
        """A task that was submitted."""
        found: list[Document] = []
        self.submit({"commands": ["true"], **fields}, "test").addCallback(found.append)
        return str(found[0]["id"])

    def add(self, task_id: str, kind: str, data: Document) -> None:
        events = self.events[task_id]
        events.append(TaskEvent(len(events) + 1, kind, time.time(), data))
        for watch in list(self.watches):
            if watch.task_id == task_id and not watch.paused:
                watch.pump()

    def end(self, task_id: str, state: str, reason: str, **fields: Any) -> None:
        self.tasks[task_id].update(state=state, reason=reason, ended_at=time.time(), **fields)
        self.add(task_id, "state", {"state": state, "reason": reason})


class Writer:
    def __init__(self, blobs: FakeBlobs, expected: str | None) -> None:
        self.blobs, self.expected = blobs, expected
        self.data = bytearray()
        self._on_pressure: Callable[[bool], None] | None = None
        self.aborted = self.finished = False

    @property
    def on_pressure(self) -> Callable[[bool], None] | None:
        return self._on_pressure

    @on_pressure.setter
    def on_pressure(self, told: Callable[[bool], None] | None) -> None:
        self._on_pressure = told
        if told is not None and self.blobs.behind:
            told(True)

    def write(self, data: bytes) -> None:
        self.data += data
        if len(self.data) > self.blobs.maximum:
            raise TooLarge(f"the blob is over {self.blobs.maximum} bytes")

    def finish(self) -> Deferred[Document]:
        self.finished = True
        digest = hashlib.sha256(self.data).hexdigest()
        if self.expected not in {None, digest}:
            return fail(DigestMismatch(f"the content hashes to {digest}"))
        self.blobs.blobs[digest] = bytes(self.data)
        return succeed({"sha256": digest, "size": len(self.data)})

    def abort(self) -> None:
        self.aborted = True


class FakeBlobs:
    def __init__(self, maximum: int = 8 * 1024 * 1024) -> None:
        self.maximum = maximum
        self.behind = False
        """Whether writers begin with more than the disk has taken."""
        self.blobs: dict[str, bytes] = {}
        self.sealed: set[str] = set()
        self.writers: list[Writer] = []
        self.opened: list[IO[bytes]] = []

    def put(self, data: bytes) -> str:
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    def writer(self, expected_sha256: str | None) -> BlobWriter:
        self.writers.append(Writer(self, expected_sha256))
        return self.writers[-1]

    def open(self, sha256: str) -> Deferred[tuple[IO[bytes], int]]:
        if sha256 not in self.blobs:
            return fail(UnknownBlob("no node has this blob"))
        file = BytesIO(self.blobs[sha256])
        self.opened.append(file)
        return succeed((file, len(self.blobs[sha256])))

    def open_sealed(self, stored: str) -> Deferred[tuple[IO[bytes], int]]:
        return self.open(stored) if stored in self.sealed else fail(UnknownBlob("no node has this blob"))

    def stat(self, sha256: str) -> Deferred[Document | None]:
        data = self.blobs.get(sha256)
        return succeed(None if data is None else {"sha256": sha256, "size": len(data)})


class NotFounderHere(UserError):
    code = "not_founder"
    http_status = 403


class FakeKeys:
    """`changes` lists what was asked for; with `founder` false every change is refused."""

    def __init__(self) -> None:
        self.founder = True
        self.epoch = 1
        self.changes: list[tuple[str, ...]] = []

    def listing(self) -> Document:
        peer = "12D3KooWEuMkCc5oXuffpf9HRxZdEnHPJBBYH6pdKgkY6AnwwnXb"
        role: Document = {"name": "developer", "reads": [], "recipient": "age1x", "readable": True}
        return {
            "founder": peer,
            "serial": 1 + len(self.changes),
            "epoch": self.epoch,
            "peer_id": peer,
            "role": "developer",
            "roles": [role],
            "members": [{"peer_id": peer, "roles": ["developer"], "recipient": "age1y"}],
        }

    def _change(self, *words: str) -> Deferred[Document]:
        if not self.founder:
            return fail(NotFounderHere("only the founder of the cluster changes roles"))
        self.changes.append(words)
        return succeed(self.listing())

    def grant(self, peer: str, role: str) -> Deferred[Document]:
        return self._change("grant", peer, role)

    def revoke(self, peer: str, role: str) -> Deferred[Document]:
        return self._change("revoke", peer, role)

    def rotate(self) -> Deferred[Document]:
        self.epoch += 1
        return self._change("rotate")


class FakeNode:
    def __init__(self) -> None:
        self.ok = True
        self.extra_ok = True

    def peers(self) -> list[Document]:
        return [
            {
                "peer_id": "12D3KooWEuMkCc5oXuffpf9HRxZdEnHPJBBYH6pdKgkY6AnwwnXb",
                "agent_id": "node-2",
                "role": "developer",
                "address": "/ip4/127.0.0.1/tcp/9001",
                "direction": "outbound",
                "connected_since": 1.0,
                "latency_ms": 0.4,
                "score": 1.5,
                "direct": False,
                "availability": {"status": "ready"},
                "capabilities": None,
            }
        ]

    def pubsub(self) -> Document:
        topic = {
            "in_mesh": True,
            "time_in_mesh": 3.0,
            "first_deliveries": 1.0,
            "mesh_deliveries": 1.0,
            "mesh_deliveries_wanted": 0.5,
            "mesh_failure": 0.0,
            "invalid": 0.0,
            "score": 1.03,
        }
        peer = "12D3KooWEuMkCc5oXuffpf9HRxZdEnHPJBBYH6pdKgkY6AnwwnXb"
        return {
            "topics": [{"topic": "chorus/tasks", "mesh": [peer], "subscribers": 1}],
            "peers": [
                {
                    "peer_id": peer,
                    "direct": False,
                    "score": 1.03,
                    "application": 0.0,
                    "group_size": 0,
                    "behaviour": 0.0,
                    "topics": {"chorus/tasks": topic},
                }
            ],
            "thresholds": {"gossip": -50.0},
            "counters": {"published": 3},
        }

    def status(self) -> Document:
        return {
            "agent_id": "node-1",
            "peer_id": "12D3KooWEuMkCc5oXuffpf9HRxZdEnHPJBBYH6pdKgkY6AnwwnXa",
            "cluster_id": "c" * 64,
            "version": "0.5.0",
            "role": None,
            "state": "ready",
            "uptime_s": 12.5,
            "addresses": ["/ip4/127.0.0.1/tcp/9000"],
            "peers": 1,
            "alone": None,
            "tasks": {"active": 0},
            "sandbox": {"usable": True},
        }

    def checks(self) -> list[Document]:
        return [
            {"name": "p2p", "ok": self.ok, "critical": True, "detail": "listening"},
            {"name": "mdns", "ok": self.extra_ok, "critical": False, "detail": ""},
        ]


def basic_tar() -> str:
    """Base64 of an empty tar archive."""
    return base64.b64encode(bytes(1024)).decode()


class FakeDecisions:
    """`DecisionPort` on chains in memory, the oldest version first."""

    def __init__(self, *chains: list[Decision]) -> None:
        self.chains = {chain[0].address: chain for chain in chains}
        self.heads: dict[str, list[Head]] = {}
        self.secret: set[str] = set()
        """Content hashes that this node may not read."""
        self.drafts: list[DecisionDraft] = []
        self.queries: list[tuple[DecisionQuery, int, str | None]] = []

    def _found(self, record: Decision) -> FoundDecision:
        author = next(each for each in (samples.ALICE, samples.BOB) if str(each.peer_id) == record.peer_id)
        return FoundDecision(
            address=record.address,
            seq=record.seq,
            content=record.content_hash,
            time=record.created,
            record=None if record.content_hash in self.secret else record,
            head=Head.of(record, author),
            version=Version.of(record, author, ciphertext=samples.HASH, size=1, epoch=1),
        )

    def _chain(self, address: Address) -> list[Decision]:
        """Down from the version that is meant."""
        chain = self.chains.get(str(address.base), [])
        if not chain:
            raise UnknownDecision(f"nothing is known under {address.base}")
        if isinstance(address.temporal, Exactly):
            at = [each.content_hash for each in chain].index(address.temporal.content) + 1
        else:
            at = number_of(address.temporal, len(chain)) or len(chain)
        return chain[:at][::-1]

    async def _resolve(self, address: Address) -> FoundDecision:
        return self._found(self._chain(address)[0])

    def resolve(self, address: Address) -> Deferred[FoundDecision]:
        return Deferred.fromCoroutine(self._resolve(address))

    async def _history(self, address: Address, limit: int, after: str | None) -> DecisionHistory:
        chain = [each for each in self._chain(address) if after is None or each.seq < int(after)]
        return DecisionHistory(
            address=str(address.base),
            versions=tuple(map(self._found, chain[:limit])),
            heads=tuple(self.heads.get(str(address.base), ())),
            next=str(chain[limit - 1].seq) if len(chain) > limit else None,
            missing=chain[-1].prev if len(chain) <= limit else None,
        )

    def history(self, address: Address, *, limit: int, after: str | None) -> Deferred[DecisionHistory]:
        return Deferred.fromCoroutine(self._history(address, limit, after))

    def search(self, query: DecisionQuery, *, limit: int, after: str | None) -> Deferred[DecisionPage]:
        self.queries.append((query, limit, after))
        found = [self._found(each) for chain in self.chains.values() for each in chain][int(after or 0) :]
        rows = [
            IndexedDecision(
                address=each.address,
                seq=each.seq,
                content=each.content,
                time=each.time,
                kind=each.record and each.record.kind,
                summary=each.record and each.record.summary,
            )
            for each in found
        ]
        more = str(int(after or 0) + limit) if len(rows) > limit else None
        return succeed(DecisionPage(decisions=tuple(rows[:limit]), next=more))

    def publish(self, draft: DecisionDraft) -> Deferred[PlacedDecision]:
        self.drafts.append(draft)
        address = f"ucxl://{samples.ALICE.peer_id}:{draft.role or 'developer'}@{draft.project}:{draft.task}"
        return succeed(PlacedDecision(address=address, seq=1, content=samples.HASH, state="pending"))

    async def _provenance(self, address: Address) -> ProvenanceEnvelope:
        found = await self._resolve(address)
        if found.record is None:
            raise DecisionUnreadable(found)
        return envelope(found.record, samples.ALICE)

    def provenance(self, address: Address) -> Deferred[ProvenanceEnvelope]:
        return Deferred.fromCoroutine(self._provenance(address))

    def memory_status(self) -> Deferred[MemoryStatus]:
        return succeed(MemoryStatus(role="developer", epoch=1, decisions=2, readable=1, pending=0, servers=3))
