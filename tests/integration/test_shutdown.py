"""SIGTERM and SIGINT: what runs is finished or handed back within the budget, and the process ends with status 0."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.integration.agents import until
from tests.integration.nodes import Node, NodeCase, need_bubblewrap, threaded

LEASE_S = "60"
"""Nothing here waits for its end: a machine that stands still for a while must not lose it."""
WORK = {"CHORUS_SANDBOX": "bubblewrap", "CHORUS_AGENT_EXPERTISE": "work", "CHORUS_LEASE_S": LEASE_S}
BUDGET_S = 9


class ShutdownTest(NodeCase):
    def left_clean(self, node: Node) -> None:
        self.assertFalse((node.data / "ports.json").exists(), "ports.json tells of a running node")
        log = node.log.read_text()
        self.assertIn("node.stopped stopped", log)
        self.assertNotIn("Traceback", log)
        self.assertNotIn("did not stop within", log)

    @threaded
    def test_idle_members_asked_by_either_signal(self) -> None:
        founder = self.node("founder").start()
        member = self.joining(founder, "member").start()
        self.together(founder, member)
        for node, number in ((member, signal.SIGINT), (founder, signal.SIGTERM)):
            node.signal(number)
            self.assertEqual(self.ends(node), 0, node.tail())
            self.left_clean(node)
            if node is member:
                until("its leaving", lambda: not founder.peers())

    @threaded
    def test_every_line_of_a_json_log_is_one(self) -> None:
        """From twistd's greeting to its last word, also where only warnings are wanted."""
        for level in ("info", "warn"):
            node = self.node(level, CHORUS_LOG_FORMAT="json", CHORUS_LOG_LEVEL=level, CHORUS_NONSENSE="1").start()
            node.signal(signal.SIGTERM)
            self.assertEqual(self.ends(node), 0, node.tail())
            lines = [json.loads(line) for line in node.log.read_text().splitlines()]
            self.assertIn("config.unknown_variable", {line.get("event") for line in lines})
            self.assertEqual(level == "info", any(line["level"] == "info" for line in lines))

    @threaded
    def test_asked_twice_it_stops_once(self) -> None:
        node = self.node("node").start()
        for _ in range(5):
            node.signal(signal.SIGINT)
            node.signal(signal.SIGTERM)
        self.assertEqual(self.ends(node), 0, node.tail())
        self.left_clean(node)

    @threaded
    def test_short_work_is_finished_and_delivered(self) -> None:
        scheduler, worker = self.pair()
        task = scheduler.submit(commands=["echo begun; sleep 3; echo done"], required={"expertise": ["work"]})
        self.running(scheduler, task)
        health = worker.ports["health"]
        worker.signal(signal.SIGTERM)
        until("the word that it is draining", lambda: worker.probe("/ready", health)[0] == 503)
        self.assertEqual(worker.probe("/healthz", health)[0], 200, "it lives until its work is done")
        self.assertEqual(self.ends(worker), 0, worker.tail())
        self.left_clean(worker)
        document = scheduler.ended(task)
        self.assertEqual((document["state"], document["exit_code"], document["attempt"]), ("completed", 0, 1))

    @threaded
    def test_long_work_is_handed_back_and_taken_by_another(self) -> None:
        scheduler, first = self.pair(CHORUS_SHUTDOWN_S=str(BUDGET_S))
        task = scheduler.submit(commands=["sleep 600"], required={"expertise": ["work"]})
        self.running(scheduler, task)
        second = self.joining(scheduler, "second", **WORK).start()
        self.together(scheduler, first, second)
        first.signal(signal.SIGTERM)
        self.assertEqual(self.ends(first), 0, first.tail())
        self.left_clean(first)

        def taken() -> bool:
            document = scheduler.task(task)
            return document["state"] == "running" and document["agent_id"] == "second"

        until("another agent's start", taken)
        self.assertEqual(scheduler.task(task)["attempt"], 2)
        with scheduler.request("DELETE", f"/v1/tasks/{task}") as answer:
            self.assertEqual(answer.status, 200, answer.read())
        until("the end of the run", lambda: second.status()["load"]["current"] == 0)

    @threaded
    def test_during_the_start(self) -> None:
        """At any moment of it: the process ends at once, and the same directory starts well afterwards."""
        moments: list[tuple[str, Callable[[Node], Any]]] = [
            ("as soon as the reactor runs", lambda node: "starting up" in self.log(node)),
            ("with the data directory held", lambda node: (node.data / "lock").exists()),
            ("with the port open", lambda node: "listening on" in self.log(node)),
            ("with the journal read", lambda node: "journal.replayed" in self.log(node)),
        ]
        for number, (moment, come) in enumerate(moments):
            with self.subTest(moment):
                node = self.node(f"node{number}").launch()
                until(moment, lambda node=node, come=come: come(node), every=0.005)
                node.signal(signal.SIGTERM)
                # Before the reactor runs nothing has been opened, and the signal ends the process by itself.
                self.assertIn(self.ends(node), (0, -signal.SIGTERM), node.tail())
                self.assertNotIn("Traceback", self.log(node))
                self.assertFalse((node.data / "ports.json").exists())
                node.start()
                node.signal(signal.SIGTERM)
                self.assertEqual(self.ends(node), 0, node.tail())

    def pair(self, **settings: str) -> tuple[Node, Node]:
        """A scheduler that may not run the task, and a worker."""
        need_bubblewrap()
        scheduler = self.node("scheduler", CHORUS_SANDBOX="bubblewrap", CHORUS_LEASE_S=LEASE_S).start()
        worker = self.joining(scheduler, "worker", **WORK, **settings).start()
        self.together(scheduler, worker)
        return scheduler, worker

    def running(self, scheduler: Node, task: str) -> None:
        until("the start of the task", lambda: scheduler.task(task)["state"] == "running")

    @staticmethod
    def log(node: Node) -> str:
        path: Path = node.log
        return path.read_text() if path.exists() else ""
