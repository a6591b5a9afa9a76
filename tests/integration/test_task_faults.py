"""`kill -9` of scheduler, executor and sandbox in the middle of a task, with real agents in processes of their own:
no lost task, no second result, no orphan (spec/tasks.md; docs/architecture.md, "Faults")."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SkipTest, TestCase

from tests.integration.agents import Agent, Mesh, processes_with, until

LEASE_S = "90"
"""Nothing that should go on loses its lease, however long a loaded machine takes to start a node."""
SHORT_LEASE_S = "10"
"""Where the end of a lease is waited for. A machine that stands still for seconds may lose more of these."""
LINES = 25


def threaded(scenario: Callable[[Any], None]) -> Callable[[Any], Deferred[None]]:
    """Run a blocking scenario off the reactor's thread, so that the test's time limit holds."""

    def test(self: Any) -> Deferred[None]:
        return deferToThread(scenario, self)

    test.__doc__ = scenario.__doc__
    return test


class FaultCase(TestCase):
    timeout = 600
    sandbox = "bubblewrap"
    settings: dict[str, str] = {}

    def setUp(self) -> None:
        if shutil.which("bwrap") is None:
            raise SkipTest("bubblewrap is not installed (apt-get install bubblewrap)")
        self.folder = Path(tempfile.mkdtemp(prefix="chorus-faults-"))
        self.mesh = Mesh(self.folder, CHORUS_SANDBOX=self.sandbox, CHORUS_LEASE_S=LEASE_S, **self.settings)
        self.marker = f"marker-{uuid.uuid4().hex}"
        self.addCleanup(self.mesh.stop)

    def agents(self, workers: int, **settings: str) -> list[Agent]:
        """A scheduler that cannot run the task itself, and so many workers that can."""
        scheduler = self.mesh.add("scheduler", **settings)
        found = [self.mesh.add(f"worker-{n}", CHORUS_AGENT_EXPERTISE="work", **settings) for n in range(workers)]
        self.mesh.meet()
        return [scheduler, *found]

    def submit(self, scheduler: Agent, lines: int = LINES, pause: float = 0.2) -> str:
        command = (
            f": {self.marker}; for i in $(seq 1 {lines}); do echo line $i; sleep {pause}; done; "
            "echo whole > /workspace/output/result.txt"
        )
        return scheduler.submit(commands=[command], required={"expertise": ["work"]}, artifacts=["*.txt"])

    def running(self, scheduler: Agent, task: str) -> dict[str, Any]:
        """The document once some output has come."""

        def look() -> dict[str, Any] | None:
            document = scheduler.task(task)
            return document if document["state"] == "running" and document["output"]["stdout"]["bytes"] > 10 else None

        found: dict[str, Any] = until("output of the task", look)
        return found

    def check(self, scheduler: Agent, task: str, lines: int = LINES) -> dict[str, Any]:
        """The end: one result, the whole output of its attempt, ids without gaps, no process left."""
        document = scheduler.ended(task)
        self.assertEqual((document["state"], document["exit_code"]), ("completed", 0), document)
        events = scheduler.events(task)
        self.assertEqual([event["id"] for event in events], list(range(1, len(events) + 1)))
        states = [event["data"]["state"] for event in events if event["type"] == "state"]
        self.assertEqual([states.count(state) for state in ("completed", "failed", "cancelled")], [1, 0, 0])
        text = ""
        for event in events:
            if event["type"] == "state" and event["data"]["state"] == "assigned":
                text = ""
            elif event["type"] == "output" and event["data"]["stream"] == "stdout":
                self.assertEqual(event["data"]["offset"], len(text))
                text += event["data"]["text"]
        self.assertEqual(text, "".join(f"line {n}\n" for n in range(1, lines + 1)))
        (artifact,) = document["artifacts"]
        self.assertEqual(scheduler.blob(artifact["sha256"]), b"whole\n")
        self.assertEqual(scheduler.blob(document["output"]["stdout"]["sha256"]).decode(), text)
        until("the end of every process of the task", lambda: not processes_with(self.marker))
        return document


class SchedulerBackInTimeTest(FaultCase):
    @threaded
    def test_back_within_the_lease_the_task_goes_on_where_it_was(self) -> None:
        scheduler, _ = self.agents(1)
        task = self.submit(scheduler)
        self.running(scheduler, task)
        scheduler.kill()
        scheduler.start()
        document = self.check(scheduler, task)
        self.assertEqual(document["attempt"], 1)


class SchedulerKilledTest(FaultCase):
    @threaded
    def test_and_away_for_longer_than_the_lease_it_is_run_again(self) -> None:
        scheduler, _ = self.agents(1, CHORUS_LEASE_S=SHORT_LEASE_S)
        task = self.submit(scheduler, lines=100)
        self.running(scheduler, task)
        scheduler.kill()
        until("its end before that of its lease", lambda: not processes_with(self.marker))
        scheduler.start()
        document = self.check(scheduler, task, lines=100)
        self.assertGreaterEqual(document["attempt"], 2)

    @threaded
    def test_right_after_the_answer_the_task_is_there(self) -> None:
        scheduler, _ = self.agents(1)
        task = self.submit(scheduler, lines=3)
        scheduler.kill()
        scheduler.start()
        self.check(scheduler, task, lines=3)

    @threaded
    def test_a_result_that_came_meanwhile_is_delivered(self) -> None:
        scheduler, worker = self.agents(1)
        task = self.submit(scheduler, lines=5)
        self.running(scheduler, task)
        scheduler.kill()
        until("the end of the run", lambda: not processes_with(self.marker))
        scheduler.start()
        document = self.check(scheduler, task, lines=5)
        self.assertEqual((document["attempt"], document["agent_id"]), (1, worker.name))


class ExecutorKilledTest(FaultCase):
    @threaded
    def test_another_one_takes_over(self) -> None:
        scheduler, one, other = self.agents(2, CHORUS_LEASE_S=SHORT_LEASE_S)
        task = self.submit(scheduler)
        first = self.running(scheduler, task)["agent_id"]
        victim, heir = (one, other) if first == one.name else (other, one)
        victim.kill()
        document = self.check(scheduler, task)
        self.assertEqual(document["agent_id"], heir.name)
        self.assertGreaterEqual(document["attempt"], 2)
        victim.start()
        self.mesh.meet()
        until("the end of what it had kept", lambda: not list((victim.data / "runs").iterdir()))
        self.assertEqual(scheduler.task(task)["updated_at"], document["updated_at"], "no second result")

    @threaded
    def test_and_back_at_once_it_hands_back_what_died_with_it(self) -> None:
        scheduler, worker = self.agents(1)
        task = self.submit(scheduler)
        self.running(scheduler, task)
        worker.kill()
        worker.start()
        document = self.check(scheduler, task)
        self.assertEqual(document["attempt"], 2)
        until("the end of every run's directory", lambda: not list((worker.data / "runs").iterdir()))

    @threaded
    def test_asked_to_stop_it_finishes_what_runs(self) -> None:
        scheduler, worker = self.agents(1)
        task = self.submit(scheduler, lines=10)
        self.running(scheduler, task)
        self.assertEqual(worker.stop(), 0)
        document = self.check(scheduler, task, lines=10)
        self.assertEqual(document["attempt"], 1)


class ShortShutdownTest(FaultCase):
    settings = {"CHORUS_SHUTDOWN_S": "10"}

    @threaded
    def test_asked_to_stop_it_hands_back_what_takes_too_long(self) -> None:
        scheduler, one, other = self.agents(2)
        task = self.submit(scheduler, lines=1000)
        first = self.running(scheduler, task)["agent_id"]
        victim, heir = (one, other) if first == one.name else (other, one)
        self.assertEqual(victim.stop(), 0, "long before the task would have ended")
        until("the other agent's start", lambda: scheduler.task(task)["agent_id"] == heir.name)
        with scheduler.request("DELETE", f"/v1/tasks/{task}") as answer:
            self.assertEqual(answer.status, 200)
        until("the end of every process of the task", lambda: not processes_with(self.marker))


class EverythingKilledTest(FaultCase):
    @threaded
    def test_one_node_alone_killed_and_back(self) -> None:
        node = self.mesh.add("alone", CHORUS_AGENT_EXPERTISE="work")
        task = self.submit(node)
        self.running(node, task)
        node.kill()
        until("the end of the orphans", lambda: not processes_with(self.marker))
        node.start()
        self.check(node, task)

    @threaded
    def test_both_at_once_and_back(self) -> None:
        scheduler, worker = self.agents(1)
        task = self.submit(scheduler)
        self.running(scheduler, task)
        scheduler.kill()
        worker.kill()
        worker.start()
        scheduler.start()
        self.check(scheduler, task)


def _status(pid: int) -> tuple[str, int]:
    """Name and parent of a process; ("", 0) once it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return "", 0
    name, _, rest = text.partition("(")[2].rpartition(")")
    return name, int(rest.split()[1])


def _sandboxes_of(pids: list[int]) -> set[int]:
    """The processes of bubblewrap above these."""
    found: set[int] = set()
    for pid in pids:
        above = pid
        while above > 1:
            name, parent = _status(above)
            if name == "bwrap":
                found.add(above)
            above = parent
    return found


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class SandboxKilledTest(FaultCase):
    """kill -9 in the sandbox: the attempt ends with a reason of its own, at once, and leaves nothing."""

    def killed(self, choose: Callable[[list[int]], Iterable[int]]) -> dict[str, Any]:
        scheduler, _ = self.agents(1)
        task = self.submit(scheduler)
        self.running(scheduler, task)
        victims = list(choose(processes_with(self.marker)))
        self.assertNotEqual(victims, [])
        _kill(victims)
        document: dict[str, Any] = scheduler.ended(task)
        until("the end of every process of the task", lambda: not processes_with(self.marker), 30)
        return document

    @threaded
    def test_the_command_alone_is_its_own_failure(self) -> None:
        document = self.killed(lambda pids: [pid for pid in pids if _status(pid)[0] in ("sh", "dash", "bash")])
        self.assertEqual((document["state"], document["reason"], document["exit_code"]), ("failed", "exit", 137))

    @threaded
    def test_the_sandbox_itself_is_the_machines_and_the_task_runs_again(self) -> None:
        document = self.killed(_sandboxes_of)
        self.assertEqual((document["state"], document["exit_code"], document["attempt"]), ("completed", 0, 2))
