"""A list gives summaries of bounded size, whatever the tasks hold and members call themselves."""

from __future__ import annotations

import json
from typing import Any

from chorus.http import limits
from chorus.services.scheduling.documents import clipped, summary
from chorus.services.scheduling.views import MAX_LIST
from chorus.tasks import spec
from chorus.tasks.journal import Fence
from chorus.tasks.state import State, TaskState
from tests.services.task_kit import EPOCH, World
from tests.support import PureTestCase

PAGE_BYTES = 256 * 1024


def encoded(document: Any) -> bytes:
    """As `json_reply` writes it."""
    return json.dumps(document, ensure_ascii=False).encode("utf-8", "replace")


class ListingTest(PureTestCase):
    def setUp(self) -> None:
        self.world = World(self)
        self.addCleanup(self.world.stop)

    def test_two_hundred_of_64_kib_are_under_256_kib(self) -> None:
        node = self.world.node("alone", max_tasks=1)
        for number in range(limits.MAX_PAGE):
            body = {"commands": ["true"], "title": f"{number}", "description": "x" * spec.MAX_DESCRIPTION}
            node.coordinator.submit(body, "api")
        self.world.advance(2)
        page = node.wait(node.coordinator.list(state=None, limit=limits.MAX_PAGE, after=None))
        self.assertEqual(len(page["tasks"]), limits.MAX_PAGE)
        self.assertLess(len(encoded(page)), PAGE_BYTES)
        self.assertIn("busy", page["tasks"][0]["detail"])
        whole = node.show(page["tasks"][0]["id"])
        self.assertEqual(len(whole["spec"]["description"]), spec.MAX_DESCRIPTION)

    def test_pages_that_are_asked_for_together_are_made_one_a_turn(self) -> None:
        """What else waits for the reactor is held up by one of them."""
        node = self.world.node("alone")
        node.submit("true")
        asked = [node.coordinator.list(state=None, limit=10, after=None) for _ in range(4)]
        made: list[int] = []

        def other() -> None:
            """Somebody else's turn, again and again."""
            made.append(sum(each.called for each in asked))
            if len(made) < 8:
                self.world.clock.callLater(0, other)

        other()
        self.world.clock.advance(0)
        self.assertEqual(sorted(set(made)), [0, 1, 2, 3, 4])
        for each in asked:
            self.assertEqual(len(self.successResultOf(each)["tasks"]), 1)

    def test_no_page_is_larger_than_the_api_asks_for(self) -> None:
        self.assertEqual(MAX_LIST, limits.MAX_PAGE)

    def test_the_worst_that_users_and_members_can_do(self) -> None:
        row = encoded(summary(WORST, waiting='"' * 5000, agent_id="\x01" * 2048))
        self.assertLess(limits.MAX_PAGE * (len(row) + 2) + 200, PAGE_BYTES)

    def test_a_summary_says_what_a_list_shows(self) -> None:
        node = self.world.node("alone")
        task = node.submit("make test\nmake install")
        node.engine.only().finish(3)
        self.world.settle()
        (row,) = node.wait(node.coordinator.list(state=None, limit=1, after=None))["tasks"]
        whole = node.show(task)
        self.assertEqual((row["title"], row["command"]), ("", "make test"))
        self.assertEqual((row["state"], row["reason"], row["exit_code"]), ("failed", "exit", 3))
        shared = row.keys() & whole.keys() - {"detail"}
        self.assertEqual({name: row[name] for name in shared}, {name: whole[name] for name in shared})
        argv = node.submit(["echo", "two words"])  # type: ignore[arg-type]
        (row,) = node.wait(node.coordinator.list(state=None, limit=1, after=None))["tasks"]
        self.assertEqual((row["id"], row["command"]), (argv, "echo 'two words'"))

    def test_clipped_between_two_characters(self) -> None:
        for text, most, expected in (
            (None, 5, None),
            ("", 5, ""),
            ("12345", 5, "12345"),
            ("123456", 5, "12…"),
            ("äääääää", 8, "ää…"),
            ('""""""', 8, '""…'),
            ("\x01\x01\x01", 12, "\x01…"),
        ):
            found = clipped(text, most)
            self.assertEqual(found, expected)
            self.assertLessEqual(len(encoded(found or "")) - 2, most)


WORST = TaskState(
    id="0" * 26,
    state=State.SUBMITTED,
    spec={"title": '"' * 256, "commands": ['"' * 60000], "project": "p" * spec.MAX_PROJECT},
    submitter="api",
    created_at=EPOCH + 0.123456,
    created_index=2**53,
    updated_at=EPOCH + 0.123456,
    max_attempts=3,
    attempt=32,
    fence=Fence(2**53, 2**53, 2**53),
    agent="12D3Koo" + "W" * 45,
    assigned_at=EPOCH + 0.123456,
    started_at=EPOCH + 0.123456,
    ended_at=EPOCH + 0.123456,
    reason="sandbox_unavailable",
    detail="\x01" * 2048,
    result={"exit_code": 2**53 - 1, "agent_id": "\x01" * 2048, "started_at": 2.0**40},
)
