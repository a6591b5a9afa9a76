"""The event log of every task: durable, numbered from 1 per task, watched live.

Events are queued in order, written in groups (one write at a time, so that what comes meanwhile shares the next
commit), and delivered only once they are durable: an id that a watcher has seen is never given to another event. A
watcher that falls behind or pauses reads on from the store; nothing is buffered for it.
"""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from chorus.errors import ChorusError, LocalError
from chorus.services.scheduling.output_text import as_text, unfinished
from chorus.services.scheduling.watches import Watch, WatchedHistory
from chorus.tasks.events import TaskEvent
from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.seams import Document
    from chorus.tasks.terms import StreamName

MAX_EVENT_OUTPUT = 64 * 1024
"""Bytes of output that one event carries; smaller pieces that came while a write was under way are joined up to it."""
MAX_BATCH = 512
"""Events of one write: the writer thread is others' too."""
MAX_BATCH_BYTES = 2 * 1024 * 1024
HIGH_WATER = 4 * 1024 * 1024
"""Bytes of output queued for the disk above which `congested` asks the sources to wait."""
MAX_WATCHERS = 1024
"""Live deliveries at once; each is an open HTTP response."""
RETRY_S = 1.0
"""Between attempts to write while the store refuses (disk full)."""


class TooManyWatchers(LocalError):
    code = "too_many_watchers"
    http_status = 503


@attrs.frozen
class NewEvent:
    """An event without its number."""

    task_id: str
    type: str
    time: float
    data: Document
    size: int = 0
    """Bytes of `data`, where they are many."""


class EventStore(Protocol):
    """The store of events. Order is the order of the list; ids are given per task, without gaps."""

    def append(self, events: Sequence[NewEvent]) -> Deferred[list[TaskEvent]]:
        """Fires once all are durable, with each event's numbered form in the same order."""

    def read(self, task_id: str, after: int, limit: int) -> Deferred[list[TaskEvent]]: ...


@attrs.define
class _Output:
    task_id: str
    stream: StreamName
    offset: int
    data: bytes
    time: float

    @property
    def size(self) -> int:
        return len(self.data)

    def event(self) -> NewEvent:
        data: Document = {"stream": self.stream, "offset": self.offset}
        text = as_text(self.data)
        if text is not None:
            data["text"] = text
        else:
            data["base64"] = base64.b64encode(self.data).decode()
        return NewEvent(self.task_id, "output", self.time, data)


class TaskEvents:
    """`is_over(task_id)` says whether the task's state is final; its event is queued in the step that makes it so."""

    _log = Logger()

    def __init__(
        self, store: EventStore, clock: IReactorTime, wall: Callable[[], float], is_over: Callable[[str], bool]
    ) -> None:
        self._store = store
        self._clock = clock
        self._wall = wall
        self._is_over = is_over
        self._pending: deque[NewEvent | _Output] = deque()
        self._pending_of: dict[str, int] = {}
        self._pending_bytes = 0
        self._tails: dict[tuple[str, StreamName], tuple[int, bytes]] = {}
        self._writing = False
        self._retry = Timer(clock, self._write)
        self._flushed: list[Deferred[None]] = []
        self._watches: dict[str, list[Watch]] = {}
        self._watched = WatchedHistory(store.read, self._is_complete, self._unwatch)
        self._relief: list[Callable[[], None]] = []
        self.watchers = 0
        self.write_failures = 0

    # writing

    def append(self, task_id: str, kind: str, data: Document, size: int = 0) -> None:
        """Queue an event; output of the task that waits for the rest of a character goes first. `size` is given where
        others decide how large `data` is: it counts for `congested`."""
        self._release_tails(task_id)
        self._queue(task_id, NewEvent(task_id, kind, self._wall(), data, size))

    def append_output(self, task_id: str, stream: StreamName, offset: int, data: bytes) -> None:
        """Queue output. A character of UTF-8 that is cut at the end waits for its rest."""
        tail = self._tails.pop((task_id, stream), None)
        if tail is not None:
            if tail[0] + len(tail[1]) == offset:
                offset, data = tail[0], tail[1] + data
            else:
                self._queue_output(task_id, stream, *tail)
        cut = unfinished(data)
        if cut:
            self._tails[task_id, stream] = (offset + len(data) - cut, data[-cut:])
            data = data[:-cut]
        if data:
            self._queue_output(task_id, stream, offset, data)

    @property
    def congested(self) -> bool:
        return self._pending_bytes > HIGH_WATER

    def when_relieved(self, call: Callable[[], None]) -> None:
        """Call once `congested` is over."""
        self._relief.append(call)

    def flushed(self) -> Deferred[None]:
        """Fires once everything queued so far is durable and delivered."""
        if not self._pending and not self._writing:
            return succeed(None)
        waiting: Deferred[None] = Deferred()
        self._flushed.append(waiting)
        return waiting

    def forget(self, task_id: str) -> None:
        """Drop what is held in memory about a task whose events were pruned."""
        for key in [key for key in self._tails if key[0] == task_id]:
            del self._tails[key]

    def stop(self) -> Deferred[None]:
        """End the watches, write what is queued (once; a store that refuses is not waited for)."""
        for task_id in list(self._watches):
            for watch in list(self._watches[task_id]):
                watch.stop()
        for task_id, _ in list(self._tails):
            self._release_tails(task_id)
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        if self._retry.armed:
            self._retry.cancel()
            return
        await self.flushed()

    def _release_tails(self, task_id: str) -> None:
        for stream in ("stdout", "stderr"):
            tail = self._tails.pop((task_id, stream), None)
            if tail is not None:
                self._queue_output(task_id, stream, *tail)

    def _queue_output(self, task_id: str, stream: StreamName, offset: int, data: bytes) -> None:
        last = self._pending[-1] if self._pending else None
        if (
            isinstance(last, _Output)
            and last.task_id == task_id
            and last.stream == stream
            and last.offset + len(last.data) == offset
            and len(last.data) + len(data) <= MAX_EVENT_OUTPUT
        ):
            last.data += data
            self._pending_bytes += len(data)
        else:
            self._queue(task_id, _Output(task_id, stream, offset, data, self._wall()))

    def _queue(self, task_id: str, event: NewEvent | _Output) -> None:
        self._pending.append(event)
        self._pending_of[task_id] = self._pending_of.get(task_id, 0) + 1
        self._pending_bytes += event.size
        if not self._writing:
            self._writing = True
            self._clock.callLater(0, self._write)

    def _write(self) -> None:
        Deferred.fromCoroutine(self._write_all()).addErrback(self._broken)

    def _broken(self, failure: object) -> None:
        self._log.failure("writing events failed unexpectedly", failure=failure)  # type: ignore[arg-type]
        self._retry_later()

    def _retry_later(self) -> None:
        self.write_failures += 1
        self._retry.arm(RETRY_S)

    async def _write_all(self) -> None:
        while self._pending:
            batch = self._batch()
            try:
                events = await self._store.append(
                    [item.event() if isinstance(item, _Output) else item for item in batch]
                )
            except ChorusError as error:
                self._log.error("task events cannot be written yet: {error}", event="task.events.refused", error=error)
                self._retry_later()
                return
            self._written(batch, events)
        self._writing = False
        waiting, self._flushed = self._flushed, []
        for waiter in waiting:
            waiter.callback(None)

    def _batch(self) -> list[NewEvent | _Output]:
        """The front of the queue, left in it until it is durable (and not joined to any more)."""
        batch: list[NewEvent | _Output] = []
        size = 0
        for item in self._pending:
            batch.append(item)
            size += len(item.data) if isinstance(item, _Output) else item.size + 256
            if len(batch) >= MAX_BATCH or size >= MAX_BATCH_BYTES:
                break
        if len(batch) == len(self._pending) and isinstance(last := batch[-1], _Output):
            # A copy stays in the batch, so that joining more bytes to the queued one cannot touch what is written.
            batch[-1] = attrs.evolve(last)
        return batch

    def _written(self, batch: list[NewEvent | _Output], events: list[TaskEvent]) -> None:
        fresh: dict[str, list[TaskEvent]] = {}
        congested = self.congested
        for item, event in zip(batch, events, strict=True):
            self._dequeue(item)
            fresh.setdefault(item.task_id, []).append(event)
        if congested and not self.congested:
            relief, self._relief = self._relief, []
            for call in relief:
                call()
        for task_id, found in fresh.items():
            for watch in list(self._watches.get(task_id, ())):
                watch.fresh(found)

    def _dequeue(self, written: NewEvent | _Output) -> None:
        queued = self._pending[0]
        self._pending_bytes -= written.size
        if isinstance(queued, _Output) and queued.size > written.size:
            # More was joined to it since.
            queued.offset += written.size
            queued.data = queued.data[written.size :]
            return
        self._pending.popleft()
        left = self._pending_of[written.task_id] - 1
        if left:
            self._pending_of[written.task_id] = left
        else:
            del self._pending_of[written.task_id]

    # watching

    def watch(self, task_id: str, after: int, deliver: Callable[[TaskEvent], None], ended: Callable[[], None]) -> Watch:
        """Deliver every event with an id over `after`; `ended` once the task's state is final and all is delivered.

        Raises `TooManyWatchers`.
        """
        if self.watchers >= MAX_WATCHERS:
            raise TooManyWatchers(f"{MAX_WATCHERS} watches are open already; close one")
        watch = Watch(self._watched, task_id, after, deliver, ended)
        self._watches.setdefault(task_id, []).append(watch)
        self.watchers += 1
        watch.resume()
        return watch

    def _unwatch(self, watch: Watch) -> None:
        watches = self._watches.get(watch.task_id)
        if watches and watch in watches:
            watches.remove(watch)
            self.watchers -= 1
            if not watches:
                del self._watches[watch.task_id]

    def _is_complete(self, task_id: str) -> bool:
        return self._is_over(task_id) and task_id not in self._pending_of
