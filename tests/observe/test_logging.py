from __future__ import annotations

import ast
import io
import json
import re
from functools import cache
from pathlib import Path

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import Logger, LogPublisher, textFileLogObserver
from twisted.python.failure import Failure

from chorus.http.ports import STATES
from chorus.observe import logging
from chorus.services.scheduling.documents import logged, state_event
from chorus.tasks.journal import Fence
from chorus.tasks.state import State, TaskState
from tests.support import PureTestCase

ROOT = Path(__file__).resolve().parents[2]


class Written(PureTestCase):
    def logger(self, level: str, format: str, namespace: str = "chorus.test") -> tuple[Logger, io.StringIO]:
        file = io.StringIO()
        return Logger(namespace, observer=logging.observer(file, level, format)), file

    def test_text(self) -> None:
        log, file = self.logger("info", "text")
        log.info("task {task} accepted", event="task.submitted", task="01h")
        self.assertRegex(
            file.getvalue(),
            r"\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z info  task\.submitted task 01h accepted\n\Z",
        )

    def test_json(self) -> None:
        log, file = self.logger("info", "json")
        log.warn("x {n}", event="a.b", n=3, ratio=0.5, on=True, nothing=None, odd=float("nan"), thing=Path("/x"))
        document = json.loads(file.getvalue())
        self.assertRegex(document.pop("time"), r"Z\Z")
        self.assertEqual(
            document,
            {
                "level": "warn",
                "event": "a.b",
                "logger": "chorus.test",
                "message": "x 3",
                "n": 3,
                "ratio": 0.5,
                "on": True,
                "odd": "nan",
                "thing": "/x",
            },
        )

    def test_a_traceback(self) -> None:
        for format in ("text", "json"):
            log, file = self.logger("info", format)
            try:
                1 / 0
            except ZeroDivisionError:
                log.failure("while dividing", Failure())
            text = file.getvalue()
            self.assertIn("while dividing: ZeroDivisionError: division by zero", text)
            self.assertIn("Traceback", text)
            if format == "json":
                self.assertEqual(text.count("\n"), 1)
                self.assertIn("1 / 0", json.loads(text)["traceback"])

    def test_levels(self) -> None:
        order = ["debug", "info", "warn", "error", "critical"]
        for least in order:
            log, file = self.logger(least, "json")
            for level in order:
                getattr(log, level)("x")
            seen = [json.loads(line)["level"] for line in file.getvalue().splitlines()]
            self.assertEqual(seen, order[order.index(least) :])

    def test_libraries_are_quiet(self) -> None:
        for least, seen in (("debug", ["debug", "info", "warn"]), ("info", ["warn"]), ("error", [])):
            log, file = self.logger(least, "json", "twisted.web.http")
            log.debug("x")
            log.info("x")
            log.warn("x")
            self.assertEqual([json.loads(line)["level"] for line in file.getvalue().splitlines()], seen)

    def test_a_line_cannot_be_forged(self) -> None:
        log, file = self.logger("info", "text")
        log.info("peer said {text}", text="x\n2026-01-01T00:00:00.000Z info  node.stopped \x1b[2J\u2028\r")
        self.assertEqual(file.getvalue().count("\n"), 1)
        self.assertNotIn("\x1b", file.getvalue())
        self.assertEqual(len(file.getvalue().splitlines()), 1)

    @given(st.text(), st.sampled_from(["text", "json"]))
    @settings(deadline=None, max_examples=200)
    def test_any_text_is_one_line(self, text: str, format: str) -> None:
        log, file = self.logger("info", format)
        log.info("{text}", text=text, event=text or None)
        self.assertEqual(file.getvalue().count("\n"), 1)
        file.getvalue().encode()

    def test_long_fields_are_cut(self) -> None:
        log, file = self.logger("info", "json")
        log.info("x", text="y" * 100_000)
        self.assertLess(len(file.getvalue()), 10_000)

    def test_an_object_that_cannot_be_shown(self) -> None:
        class Odd:
            def __str__(self) -> str:
                raise ValueError

        log, file = self.logger("info", "json")
        log.info("x", odd=Odd())
        self.assertEqual(json.loads(file.getvalue())["odd"], "<Odd>")

    def test_a_closed_file_harms_nobody(self) -> None:
        class Broken(io.StringIO):
            tries = 0
            error: Exception = ValueError("I/O operation on closed file")

            def write(self, text: str) -> int:
                self.tries += 1
                raise self.error

        for format in ("text", "json"):
            for error in (ValueError("I/O operation on closed file"), BrokenPipeError(), OSError(28, "No space left")):
                file, others = Broken(), []
                file.error = error
                # A publisher tells its other observers of one that fails.
                publisher = LogPublisher(logging.observer(file, "info", format), others.append)
                log = Logger("chorus.test", observer=publisher)
                log.info("one")
                log.info("two")
                self.assertEqual([event["log_format"] for event in others], ["one", "two"])
                self.assertEqual(file.tries, 2, "it is tried again each time")


class Install(PureTestCase):
    def test_takes_the_file_of_twistd(self) -> None:
        file, other = io.StringIO(), []
        publisher = LogPublisher(textFileLogObserver(file), other.append)
        logging.install("warn", "json", publisher)
        log = Logger("chorus.test", observer=publisher)
        log.info("low")
        log.warn("high", event="a")
        self.assertEqual([json.loads(line)["event"] for line in file.getvalue().splitlines()], ["a"])
        self.assertEqual(len(other), 2)

    def test_from_the_first_line_of_twistd(self) -> None:
        early, late, other = io.StringIO(), io.StringIO(), []
        publisher = LogPublisher(other.append)
        logging.take_over("info", "json", publisher)
        log = Logger("chorus.test", observer=publisher)
        log.info("before there is a file")
        for file in (early, late):
            publisher.addObserver(textFileLogObserver(file))
        Logger("twisted.scripts._twistd_unix.UnixAppLogger", observer=publisher).info("starting up")
        log.warn("one")
        logging.install("info", "json", publisher)
        log.warn("two")
        for file in (early, late):
            self.assertEqual(
                [json.loads(line)["message"] for line in file.getvalue().splitlines()],
                ["starting up", "one", "two"],
            )
        self.assertEqual(len(other), 4)


class Documentation(PureTestCase):
    def test_every_event_is_documented(self) -> None:
        used = set()
        for path in (ROOT / "chorus").rglob("*.py"):
            used |= set(re.findall(r'\bevent="([a-z_.]+)"', path.read_text()))
            if 'event=f"task.{task.state}"' in path.read_text():
                used |= {f"task.{state}" for state in STATES}
        documented = set(re.findall(r"^\| `([a-z_.]+)` \|", (ROOT / "docs/events.md").read_text(), re.MULTILINE))
        self.assertEqual(used - documented, set(), "add them to docs/events.md")
        self.assertEqual(documented - used, set(), "docs/events.md names events that nothing logs")

    def test_every_documented_field_is_logged(self) -> None:
        logged = _logged_fields()
        for name, fields in _documented_fields().items():
            self.assertEqual(fields - logged[name], set(), f"{name} has no such fields")

    def test_no_event_of_a_task_has_its_detail(self) -> None:
        """It may be a text of the agent, or of what ran there, that no redactor of this node has seen."""
        for state in STATES:
            self.assertNotIn("detail", _logged_fields()[f"task.{state}"])


def _documented_fields() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    fields: set[str] = set()
    for names, cell in re.findall(
        r"^\| (`[a-z_.`, ]+`) \|.*\|([^|]*)\|$", (ROOT / "docs/events.md").read_text(), re.MULTILINE
    ):
        if cell.strip() != "the same":
            fields = set(re.findall(r"`(\w+)`", cell))
        found |= dict.fromkeys(re.findall(r"`([a-z_.]+)`", names), fields)
    return found


@cache
def _logged_fields() -> dict[str, set[str]]:
    """Of each event with a name of its own: what one of its places in the code or another gives it."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "chorus").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                given = {each.arg: each.value for each in node.keywords if each.arg is not None}
                for name in _names(given.pop("event", None)):
                    found.setdefault(name, set()).update(given)
    task = TaskState(
        "t", State.COMPLETED, {}, "api", 0.0, 1, 0.0, 3, attempt=1, fence=Fence(0, 1, 1), agent="p", sandbox="docker",
        image="i", reason="exit", detail="told by the agent", result={"exit_code": 0}, lease_s=30.0,
    )  # fmt: skip
    for state in State:
        found[f"task.{state}"] |= logged(state_event(attrs.evolve(task, state=state), "agent")).keys()
    return found


def _names(event: ast.expr | None) -> list[str]:
    """The names that an `event=` can have."""
    if isinstance(event, ast.IfExp):
        return [*_names(event.body), *_names(event.orelse)]
    if isinstance(event, ast.Constant):
        return [str(event.value)]
    shape = "" if event is None else ast.unparse(event)
    if shape == "f'task.{task.state}'":
        return [f"task.{state}" for state in State]
    if shape == "f'peer.{what}'":
        return ["peer.connected", "peer.disconnected"]
    return []
