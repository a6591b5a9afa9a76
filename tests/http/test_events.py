from __future__ import annotations

import json
from typing import Any

from twisted.internet.defer import fail

from chorus.http import limits
from chorus.tasks.events import TaskEvent
from chorus.tasks.journal import NoQuorum
from tests.http.wire import ApiCase, Response, Wire


def events_of(body: bytes) -> list[dict[str, Any]]:
    """The events in a stream's body, with their `id` and `event` lines checked against their data."""
    found = []
    for block in body.decode().split("\n\n"):
        lines = [line for line in block.split("\n") if line and not line.startswith(":")]
        fields = dict(line.split(": ", 1) for line in lines)
        if "data" in fields:
            event = json.loads(fields["data"])
            assert str(event["id"]) == fields["id"] and event["type"] == fields["event"], fields
            found.append(event)
    return found


class Events(ApiCase):
    def setUp(self) -> None:
        super().setUp()
        self.task = self.tasks.make()

    async def watch(self, *lines: str, query: str = "") -> Wire:
        wire = await self.connect()
        wire.transport.write(self.head("GET", f"/v1/tasks/{self.task}/events{query}", *lines))
        return wire

    async def whole(self, wire: Wire) -> Response:
        return Response(await wire.until(lambda data: b"\r\n\r\n" in data and Response(bytes(data)).complete))

    async def test_old_and_new_events_in_order_until_the_end(self) -> None:
        self.tasks.add(self.task, "note", {"text": "before"})
        wire = await self.watch()
        await wire.until(b"before")
        self.tasks.add(self.task, "output", {"stream": "stdout", "offset": 0, "text": "a\nb\r\n\u2028 ü"})
        self.tasks.end(self.task, "completed", "exit")
        response = await self.whole(wire)
        self.assertEqual((response.status, response.headers["content-type"]), (200, "text/event-stream"))
        self.assertEqual(response.headers["cache-control"], "no-store")
        found = events_of(response.body)
        self.assertEqual([event["id"] for event in found], [1, 2, 3, 4])
        self.assertEqual(found[2]["data"]["text"], "a\nb\r\n\u2028 ü")
        self.assertEqual(found[-1]["data"], {"state": "completed", "reason": "exit"})
        self.assertEqual((self.tasks.watches, self.service.api.streams), (set(), set()))

    async def test_resumes_after_last_event_id(self) -> None:
        for number in range(5):
            self.tasks.add(self.task, "note", {"text": str(number)})
        self.tasks.end(self.task, "completed", "exit")
        for wire in (
            await self.watch("Last-Event-ID: 4"),
            await self.watch(query="?after=4"),
            await self.watch("Last-Event-ID: 4", query="?after=1"),
        ):
            found = events_of((await self.whole(wire)).body)
            self.assertEqual([event["id"] for event in found], [5, 6, 7])

    async def test_a_client_that_has_seen_the_end_is_told_to_stop(self) -> None:
        self.tasks.end(self.task, "completed", "exit")
        response = await self.whole(await self.watch("Last-Event-ID: 2"))
        self.assertEqual((response.status, response.body), (204, b""))

    async def test_bad_positions(self) -> None:
        for lines, query in (
            (["Last-Event-ID: x"], ""),
            (["Last-Event-ID: -1"], ""),
            ([], "?after=1.5"),
            ([], "?after="),
        ):
            response = await self.whole(await self.watch(*lines, query=query))
            self.assert_problem(response, 400, "bad_query")

    async def test_a_silent_task_has_a_live_stream(self) -> None:
        self.patch(limits, "HEARTBEAT_S", 0.02)
        wire = await self.watch(query="?after=1")
        data = await wire.until(lambda data: data.count(b": alive\n\n") >= 2)
        self.assertIn(b"retry: 2000\n\n", data)

    async def test_wait_ends_the_stream_of_a_task_that_goes_on(self) -> None:
        self.tasks.add(self.task, "note", {"text": "before"})
        response = await self.whole(await self.watch(query="?wait=0"))
        self.assertEqual([event["id"] for event in events_of(response.body)], [1, 2])
        self.assertEqual((self.tasks.watches, self.service.api.streams), (set(), set()))
        for query in ("?wait=-1", "?wait=x", "?wait=86401"):
            self.assert_problem(await self.whole(await self.watch(query=query)), 400, "bad_query")

    async def test_a_client_that_leaves_ends_its_subscription(self) -> None:
        wire = await self.watch()
        await wire.until(b"submitted")
        (watch,) = self.tasks.watches
        wire.transport.abortConnection()
        await wire.closed
        while self.service.api.streams:
            await self.ask("GET", "/v1/status")
        self.assertTrue(watch.stopped)

    async def test_a_slow_reader_holds_the_subscription_and_gets_everything(self) -> None:
        wire = await self.watch()
        await wire.until(b"submitted")
        (watch,) = self.tasks.watches
        wire.transport.pauseProducing()
        count = 0
        while not watch.paused:
            for _ in range(16):
                self.tasks.add(self.task, "output", {"stream": "stdout", "offset": count, "text": "x" * 4096})
                count += 1
            await self.ask("GET", "/v1/status")
        for _ in range(100):
            self.tasks.add(self.task, "output", {"stream": "stdout", "offset": count, "text": "y" * 4096})
            count += 1
        self.assertTrue(watch.paused)
        self.tasks.end(self.task, "completed", "exit")
        wire.transport.resumeProducing()
        found = events_of((await self.whole(wire)).body)
        self.assertEqual([event["id"] for event in found], list(range(1, count + 3)))

    async def test_a_reader_that_takes_nothing_is_dropped(self) -> None:
        self.patch(limits, "STALL_S", 0.05)
        wire = await self.watch()
        await wire.until(b"submitted")
        wire.transport.pauseProducing()
        (watch,) = self.tasks.watches
        while self.service.api.streams:
            # The kernel's buffers may grow and take some more.
            if not watch.paused:
                self.tasks.add(self.task, "output", {"stream": "stdout", "offset": 0, "text": "x" * 65536})
            await self.ask("GET", "/v1/status")
        self.assertTrue(watch.stopped)
        wire.transport.resumeProducing()
        await wire.closed

    async def test_a_source_that_ignores_the_pause_is_cut_off(self) -> None:
        self.patch(limits, "MAX_STREAM_BACKLOG", 100_000)
        wire = await self.watch()
        await wire.until(b"submitted")
        wire.transport.pauseProducing()
        (watch,) = self.tasks.watches
        while not watch.paused:
            self.tasks.add(self.task, "output", {"stream": "stdout", "offset": 0, "text": "x" * 65536})
            await self.ask("GET", "/v1/status")
        for number in range(3):
            watch._deliver(TaskEvent(1000 + number, "note", 0.0, {"text": "x" * 50_000}))
        self.assertTrue(watch.stopped)
        wire.transport.resumeProducing()
        await wire.closed

    async def test_too_many_streams(self) -> None:
        self.patch(limits, "MAX_STREAMS", 2)
        for _ in range(2):
            await (await self.watch()).until(b"submitted")
        response = await self.whole(await self.watch())
        self.assert_problem(response, 503, "busy")
        self.assertEqual(response.headers["retry-after"], "5")

    async def test_a_stop_ends_streams_so_that_clients_come_back(self) -> None:
        wire = await self.watch()
        await wire.until(b"submitted")
        await self.service.stopService()
        response = Response(await wire.closed)
        self.assertTrue(response.complete)
        self.assertEqual(len(events_of(response.body)), 1)
        self.assertEqual(self.tasks.watches, set())

    async def test_a_watch_that_fails_is_a_problem_document(self) -> None:
        self.tasks.watch = lambda *_: fail(NoQuorum("not now"))  # type: ignore[method-assign]
        self.assert_problem(await self.whole(await self.watch()), 503, "no_quorum")
        self.assertEqual(self.service.api.streams, set())
