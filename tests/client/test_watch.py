from __future__ import annotations

import http.client
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.client import node_commands, show
from chorus.client.errors import NoNode, Refused
from chorus.client.watch import follow, parse_events
from tests.support import PureTestCase


def event(number: int, kind: str = "note", **data: object) -> dict[str, Any]:
    return {"id": number, "type": kind, "time": 0.0, "data": data}


def lines(*events: dict[str, Any]) -> list[bytes]:
    found: list[bytes] = [b"retry: 2000", b"", b": alive", b""]
    for each in events:
        found += [f"id: {each['id']}".encode(), b"event: x", b"data: " + json.dumps(each).encode(), b""]
    return found


class Answer:
    def __init__(self, script: object) -> None:
        self.script = script
        self.status = 204 if script == 204 else 200

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def lines(self) -> Iterator[bytes]:
        for each in self.script:  # type: ignore[attr-defined]
            if isinstance(each, Exception):
                raise each
            yield each


class Node:
    """Answers requests by a script, and keeps where each one began."""

    def __init__(self, *script: object) -> None:
        self.script = list(script)
        self.asked: list[str] = []

    def request(self, method: str, path: str, *, headers: dict[str, str]) -> Answer:
        self.asked.append(headers["Last-Event-ID"])
        step = self.script.pop(0)
        if isinstance(step, Exception):
            raise step
        return Answer(step)


class Following(PureTestCase):
    def setUp(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        self.reasons: list[str] = []

    def follow(self, node: Node, **more: Any) -> list[int]:
        def sleep(seconds: float) -> None:
            self.now += seconds
            self.waits.append(seconds)

        found = follow(
            node,  # type: ignore[arg-type]
            "x",
            sleep=sleep,
            clock=lambda: self.now,
            lost=self.reasons.append,
            **more,
        )
        return [each["id"] for each in found]

    def test_ends_with_the_task(self) -> None:
        end = event(3, "state", state="completed")
        node = Node(lines(event(1), event(2), end, event(4)))
        self.assertEqual(self.follow(node), [1, 2, 3])

    def test_goes_on_after_a_broken_connection(self) -> None:
        node = Node(
            [*lines(event(1), event(2)), ConnectionResetError("reset")],
            NoNode("refused"),
            [*lines(event(2), event(3)), http.client.IncompleteRead(b"")],
            lines(event(4)),
            Refused(503, "busy", "busy", 1),
            lines(event(5, "state", state="failed")),
        )
        self.assertEqual(self.follow(node), [1, 2, 3, 4, 5])
        self.assertEqual(node.asked, ["0", "2", "2", "3", "4", "4"])
        self.assertEqual(self.reasons[0], "reset")
        self.assertIn("the stream ended", self.reasons)

    def test_half_an_event_is_asked_for_again(self) -> None:
        whole = lines(event(1))
        node = Node(whole[:-1], lines(event(1), event(2, "state", state="cancelled")))
        self.assertEqual(self.follow(node), [1, 2])

    def test_nothing_left(self) -> None:
        self.assertEqual(self.follow(Node(204), after=7), [])

    def test_a_node_that_was_never_there(self) -> None:
        with self.assertRaises(NoNode):
            self.follow(Node(NoNode("refused")))
        self.assertEqual(self.waits, [])

    def test_a_node_that_stays_away(self) -> None:
        node = Node(lines(event(1)), *[NoNode("refused")] * 100)
        with self.assertRaisesRegex(NoNode, "has not come back for 60 s; `chorus task watch x`"):
            self.follow(node, patience=60)
        self.assertEqual(self.waits[:6], [0.25, 0.5, 1.0, 2.0, 4.0, 5.0])
        self.assertLess(self.now, 70)

    def test_a_refusal_is_final(self) -> None:
        with self.assertRaises(Refused):
            self.follow(Node(Refused(404, "unknown_task", "no", 2)))

    @given(st.lists(st.text(max_size=30), max_size=5), st.binary(max_size=40))
    @settings(deadline=None, max_examples=200)
    def test_events_survive_their_format(self, texts: list[str], noise: bytes) -> None:
        events = [event(number + 1, text=text) for number, text in enumerate(texts)]
        self.assertEqual(list(parse_events([b":" + noise, *lines(*events)])), events)


class Showing(PureTestCase):
    def setUp(self) -> None:
        self.out, self.err, self.notes = io.BytesIO(), io.BytesIO(), io.StringIO()
        self.patch(sys, "stderr", self.notes)

    def test_output_goes_where_the_task_wrote_it(self) -> None:
        with show.Follower(self.out, self.err) as follower:
            follower.event(event(1, "state", state="running", agent="12D3", agent_id="node-2", sandbox="bubblewrap"))
            follower.event(event(2, "output", stream="stdout", offset=0, text="a\nb"))
            follower.event(event(3, "output", stream="stderr", offset=0, base64="/w=="))
            again = {"state": "submitted", "reason": "exit", "detail": "exit 3", "retry": {"number": 2, "of": 3}}
            follower.event(event(4, "state", **again))
            follower.event(event(5, "state", **{**again, "reason": "lease_lost", "detail": "x went silent"}))
            follower.event(event(6, "state", state="failed", reason="exit", detail="exit 3"))
        self.assertEqual((self.out.getvalue(), self.err.getvalue()), (b"a\nb", b"\xff"))
        self.assertEqual(follower.final, {"state": "failed", "reason": "exit", "detail": "exit 3"})
        self.assertEqual(
            self.notes.getvalue(),
            "chorus: running on node-2 in bubblewrap\nchorus: failed, trying again (2 of 3): exit 3\n"
            "chorus: lost its agent, trying again (2 of 3): x went silent\nchorus: failed: exit, exit 3\n",
        )

    def test_who_takes_no_tasks_does_not_look_ready(self) -> None:
        for said, shown in (
            ({"status": "busy", "max_tasks": 0, "available": False}, "runs no tasks"),
            ({"status": "ready", "max_tasks": 3, "available": False}, "not available"),
            ({"status": "ready", "max_tasks": 3, "available": True}, "ready"),
            ({"status": "busy", "max_tasks": 3, "available": False}, "busy"),
            ({}, ""),
        ):
            self.assertEqual(node_commands._availability(said), shown)

    def test_a_terminal_that_cannot_take_back_what_it_shows_gets_lines(self) -> None:
        self.notes.isatty = lambda: True  # type: ignore[method-assign]
        self.patch(os, "environ", {**os.environ, "TERM": "xterm"})
        self.assertTrue(show.lively(self.notes))
        self.patch(os, "environ", {**os.environ, "TERM": "dumb"})
        self.assertFalse(show.lively(self.notes))
        with show.Follower(self.out, self.err) as follower:
            follower.event(event(1, "state", state="running"))
            follower.event(event(2, "output", stream="stdout", offset=0, text="a\nb"))
            follower.lost("it closed")
        self.assertEqual(self.out.getvalue(), b"a\nb")
        self.assertEqual(self.notes.getvalue(), "chorus: running\nchorus: waiting for the node: it closed\n")

    def test_a_node_that_is_away_is_told_once_in_lines(self) -> None:
        with show.Follower(self.out, self.err) as follower:
            for reason in ("a", "b"):
                follower.lost(reason)
            follower.event(event(1, "output", stream="stdout", offset=0, text="x"))
            follower.lost("c")
        self.assertEqual(self.notes.getvalue(), "chorus: waiting for the node: a\nchorus: waiting for the node: c\n")

    def on_terminal(self, width: int, columns: tuple[str, ...], rows: list[tuple[str, ...]], **more: bool) -> str:
        terminal = io.StringIO()
        terminal.isatty = lambda: True  # type: ignore[method-assign]
        self.patch(sys, "stdout", terminal)
        with mock.patch.dict(os.environ, TERM="xterm", COLUMNS=str(width)):
            show.table(columns, rows, "none", **more)
        return re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())

    def test_tables_on_a_terminal_break_nothing_that_is_copied(self) -> None:
        rows = [("node-1", "", "12D3" * 13), ("node-2", "/ip4/127.0.0.1/tcp/9001", "12D4" * 13)]
        for width, lines in ((120, 3), (60, 6)):
            text = self.on_terminal(width, ("agent", "address", "peer id"), rows)
            self.assertEqual(len(text.splitlines()), lines, text)
            for cell in (cell for row in rows for cell in row):
                self.assertIn(cell, text)

    def test_the_last_column_may_break(self) -> None:
        text = self.on_terminal(60, ("id", "title"), [("0" * 26, "word " * 20)], folds=True)
        first, *rest = text.splitlines()
        self.assertEqual(first.split(), ["id", "title"])
        self.assertTrue(rest[0].startswith("0" * 26 + "  word"))
        self.assertEqual(sum(line.count("word") for line in rest), 20)

    def test_a_narrow_terminal_does_without_the_spare_columns(self) -> None:
        columns = ("id", "state", "created", "title")
        rows = [("0" * 26, "completed", "2026-11-21 03:00:01+01:00", "the title")]
        for width, kept in ((80, columns), (60, ("id", "state", "title")), (45, ("id", "title"))):
            head, *rest = self.on_terminal(width, columns, rows, folds=True, spare=("created", "state")).splitlines()
            self.assertEqual((tuple(head.split()), len(rest)), (kept, 1))
        self.assertEqual(len(self.on_terminal(30, columns, rows, folds=True, spare=("created",)).splitlines()), 4)

    def test_sizes(self) -> None:
        self.assertEqual(
            [show.size(n) for n in (0, 999, 1000, 12_345_678, 5 * 10**12)],
            ["0 B", "999 B", "1.0 kB", "12.3 MB", "5000.0 GB"],
        )
