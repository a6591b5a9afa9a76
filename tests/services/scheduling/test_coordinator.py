"""The scheduler's side: intake, placement, custody, restart, events."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, fail
from twisted.logger import globalLogPublisher

from chorus.seams import Finding, MembersMayAll, Redacted
from chorus.services.scheduling import coordinator
from chorus.services.scheduling.board import Agent
from chorus.services.scheduling.intake import NOT_CLONED, Forbidden, NoRoom
from chorus.store.errors import StoreUnavailable
from chorus.tasks.errors import IdempotencyConflict, TaskFinished, UnknownTask
from chorus.tasks.events import TaskEvent
from chorus.tasks.scoring import Candidate
from chorus.tasks.spec import SpecError
from tests.services.task_kit import LEASE, World, missing, unavailable
from tests.support import PureTestCase


class WorldCase(PureTestCase):
    def setUp(self) -> None:
        self.world = World(self)
        self.addCleanup(self.world.stop)


class WayOfATaskTest(WorldCase):
    def test_alone_a_node_does_the_whole_job(self) -> None:
        node = self.world.node("alone")
        task = node.submit("make test")
        container = node.engine.only()
        self.assertEqual(container.job.commands, (("/bin/sh", "-c", "make test"),))
        container.say("stdout", b"hello\n")
        container.say("stderr", b"warning\n")
        self.world.settle()
        self.assertEqual(node.state(task), "running")
        container.finish(0, artifacts={"report.txt": b"all good"})
        self.world.settle()
        document = node.show(task)
        self.assertEqual((document["state"], document["exit_code"], document["sandbox"]), ("completed", 0, "docker"))
        self.assertEqual(document["agent"], str(node.peer))
        self.assertEqual(document["agent_id"], "alone")
        self.assertEqual(document["caveats"], ["test caveat"])
        (row,) = document["artifacts"]
        self.assertEqual(node.blobs.get(row["sha256"]), b"all good")
        self.assertEqual(node.blobs.get(document["output"]["stdout"]["sha256"]), b"hello\n")
        self.assertEqual(document["output"]["stderr"]["bytes"], 8)
        self.assertEqual(node.states(task), ["submitted", "assigned", "running", "completed"])
        self.assertEqual(node.output(task), "hello\n")
        self.assertEqual(node.executor.current_tasks, 0)
        self.assertEqual(node.executor.unacknowledged, 0)
        self.assertFalse(any((node.directory / "runs").iterdir()))

    def test_another_node_runs_it_with_the_schedulers_input(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        worker = self.world.node("worker", expertise=("python",))
        blob = scheduler.blobs.put(b"source")
        task = scheduler.submit("python -m unittest", input={"sha256": blob}, required={"expertise": ["Python"]})
        self.assertEqual(worker.blobs.get(blob), b"source")
        container = worker.engine.only()
        container.say("stdout", b"ok")
        container.finish(0, artifacts={"a": b"1"})
        self.world.settle()
        document = scheduler.show(task)
        self.assertEqual((document["state"], document["agent_id"]), ("completed", "worker"))
        self.assertIsNotNone(worker.blobs.get(document["artifacts"][0]["sha256"]))

    def test_inline_input_becomes_a_blob_before_the_answer(self) -> None:
        node = self.world.node("alone")
        task = node.submit("true", input={"inline": "c291cmNl"})
        sha = node.show(task)["spec"]["input"]["sha256"]
        self.assertEqual(node.blobs.get(sha), b"source")

    def test_failure_of_the_task_itself_ends_it(self) -> None:
        node = self.world.node("alone")
        task = node.submit("false")
        node.engine.only().finish(3)
        self.world.settle()
        document = node.show(task)
        self.assertEqual((document["state"], document["reason"], document["exit_code"]), ("failed", "exit", 3))

    def test_retries(self) -> None:
        node = self.world.node("alone")
        task = node.submit("flaky", retries=1)
        node.engine.refuse = unavailable()
        node.engine.only().finish(1)
        self.world.advance(0.5)
        self.assertEqual(node.show(task)["message"], "failed, trying again (2 of 2)")
        node.engine.refuse = None
        self.world.advance(1)
        (again,) = [each.data for each in node.history(task) if "retry" in each.data]
        self.assertEqual((again["state"], again["retry"], again["exit_code"]), ("submitted", {"number": 2, "of": 2}, 1))
        self.assertNotIn("sandbox", again)
        self.assertEqual(node.engine.only().job.attempt, 2)
        node.engine.only().finish(0)
        self.world.settle()
        self.assertEqual(node.state(task), "completed")
        self.assertEqual(node.engine.started, 2)

    def test_reasons_reach_the_document(self) -> None:
        node = self.world.node("alone")
        for reason in ("timeout", "oom", "pids", "disk", "output"):
            task = node.submit("true")
            node.engine.only().finish(137, reason=type(node.engine.only().killed_for or _reason(reason))(reason))
            self.world.settle()
            self.assertEqual(node.show(task)["reason"], reason)

    def test_depends_on_waits_and_fails_with_its_dependency(self) -> None:
        node = self.world.node("alone")
        first = node.submit("first")
        second = node.submit("second", depends_on=[first])
        third = node.submit("third", depends_on=[second])
        self.assertEqual(node.state(second), "submitted")
        self.assertIn("waits for 1 other task", node.show(second)["message"])
        node.engine.only().finish(0)
        self.world.settle()
        self.assertEqual(node.engine.only().job.task_id, second)
        node.engine.only().finish(1)
        self.world.settle()
        document = node.show(third)
        self.assertEqual((document["state"], document["reason"]), ("failed", "dependency_failed"))
        self.assertEqual(node.states(third), ["submitted", "failed"])

    def test_announcements_and_counters(self) -> None:
        node = self.world.node("alone")
        node.submit("true", title="a title")
        node.engine.only().finish(0)
        self.world.settle()
        self.assertEqual([each["state"] for each in node.announced], ["submitted", "assigned", "running", "completed"])
        self.assertEqual(node.announced[0]["title"], "a title")
        counters = node.coordinator.counters
        self.assertEqual((counters.submitted, counters.completed, sum(counters.durations.counts)), (1, 1, 1))
        self.assertEqual(node.coordinator.active, 0)


def _reason(text: str) -> Any:
    from chorus.tasks.terms import Reason

    return Reason(text)


class IntakeTest(WorldCase):
    def test_a_bad_body_is_refused_and_leaves_nothing(self) -> None:
        node = self.world.node("alone")
        error = node.refused(node.coordinator.submit({"comands": ["true"]}, "api"))
        self.assertIsInstance(error, SpecError)
        self.assertEqual(len(node.machine), 0)

    def test_a_repository_is_said_not_to_be_cloned(self) -> None:
        node = self.world.node("alone")
        with_it = node.submit("ls", repository="https://example.org/team/tool.git")
        without = node.submit("ls")
        notes = [
            [each.data["text"] for each in node.history(task) if each.type == "note"] for task in (with_it, without)
        ]
        self.assertEqual(notes, [[NOT_CLONED], []])

    def test_an_input_that_is_not_here(self) -> None:
        node = self.world.node("alone")
        error = node.refused(node.coordinator.submit({"commands": ["true"], "input": {"sha256": "0" * 64}}, "api"))
        self.assertIsInstance(error, SpecError)
        self.assertIn("PUT /v1/blobs", str(error))

    def test_below_its_reserve_a_node_takes_nothing_in(self) -> None:
        node = self.world.node("alone")
        known = node.submit("true", idempotency_key="k")
        node.no_room = "no_disk", "/data has 3 MiB free of 100, less than the reserve of 5 MiB"
        error = node.refused(node.coordinator.submit({"commands": ["true"], "input": {"inline": "c291cmNl"}}, "api"))
        self.assertIsInstance(error, NoRoom)
        self.assertEqual((error.http_status, error.code), (507, "no_room"))
        self.assertIn("less than the reserve", str(error))
        self.assertIsNone(node.blobs.get(hashlib.sha256(b"source").hexdigest()))
        self.assertEqual(node.submit("true", idempotency_key="k"), known, "what was accepted is known")
        self.assertEqual(len(node.machine), 1)
        node.no_room = None
        self.assertNotEqual(node.submit("true"), known)

    def test_a_specification_that_fits_in_no_offer(self) -> None:
        node = self.world.node("alone")
        body = {"commands": ["\x01" * 60_000] * 4}
        error = node.refused(node.coordinator.submit(body, "api"))
        self.assertIsInstance(error, SpecError)
        self.assertIn("offer", str(error))

    def test_idempotency(self) -> None:
        node = self.world.node("alone")
        first = node.submit("true", idempotency_key="k1")
        self.assertEqual(node.submit("true", idempotency_key="k1"), first)
        body = {"commands": ["false"], "idempotency_key": "k1"}
        self.assertIsInstance(node.refused(node.coordinator.submit(body, "api")), IdempotencyConflict)
        self.assertNotEqual(node.submit("true", idempotency_key="k2"), first)
        other = node.wait(node.coordinator.submit({"commands": ["true"], "idempotency_key": "k1"}, "somebody else"))
        self.assertNotEqual(other["id"], first)

    def test_idempotency_survives_a_restart_and_ends_after_its_days(self) -> None:
        node = self.world.node("alone", max_tasks=1)
        first = node.submit("true", idempotency_key="k1")
        node.engine.only().finish(0)
        self.world.settle()
        node.kill()
        node.restart()
        self.assertEqual(node.submit("true", idempotency_key="k1"), first)
        self.world.advance(8 * 86400.0, step=86400.0)
        self.assertNotEqual(node.submit("true", idempotency_key="k1"), first)

    def test_secrets_are_refused_where_they_run_and_redacted_where_they_are_read(self) -> None:
        class Rules:
            def redact(self, text: str, *, context: str) -> Redacted[str]:
                if "hunter2" not in text:
                    return Redacted(text)
                found = Finding("password", "high", context, "5f4dcc3b")
                return Redacted(text.replace("hunter2", "[…]"), (found,), "redact")

        node = self.world.node("alone", redactor=Rules())
        for body in (
            {"commands": ["login hunter2"]},
            {"commands": [["login", "hunter2"]]},
            {"commands": ["true"], "env": {"PASSWORD": "hunter2"}},
            {"commands": ["true"], "artifacts": ["hunter2/*"]},
        ):
            error = node.refused(node.coordinator.submit(body, "api"))
            self.assertIsInstance(error, SpecError)
            self.assertEqual(error.http_status, 422)
            self.assertNotIn("hunter2", str(error))
        task = node.submit("true", title="use hunter2", description="the password is hunter2")
        document = node.show(task)
        self.assertEqual((document["title"], document["description"]), ("use […]", "the password is […]"))
        self.assertNotIn("hunter2", str(node.announced))

    def test_list_newest_first_by_page_and_state(self) -> None:
        node = self.world.node("alone", max_tasks=1)
        tasks = [node.submit(f"echo {n}") for n in range(5)]
        page = node.wait(node.coordinator.list(state=None, limit=2, after=None))
        self.assertEqual([each["id"] for each in page["tasks"]], [tasks[4], tasks[3]])
        page = node.wait(node.coordinator.list(state=None, limit=10, after=page["next"]))
        self.assertEqual([each["id"] for each in page["tasks"]], [tasks[2], tasks[1], tasks[0]])
        self.assertIsNone(page["next"])
        page = node.wait(node.coordinator.list(state="running", limit=10, after=None))
        self.assertEqual([each["id"] for each in page["tasks"]], [tasks[0]])

    def test_unknown_ids(self) -> None:
        node = self.world.node("alone")
        for refused in (
            node.coordinator.get("nothing"),
            node.coordinator.cancel("nothing", "api", ""),
            node.coordinator.watch("nothing", 0, lambda _: None, lambda: None),
        ):
            self.assertIsInstance(node.refused(refused), UnknownTask)


class RolesTest(WorldCase):
    def test_who_has_no_right_reads_and_does_nothing_else(self) -> None:
        asked: set[str] = set()
        allowed = {"task.submit", "task.assign"}

        class Some(MembersMayAll):
            def may(self, peer_id: str, action: str) -> bool:
                asked.add(action)
                return action in allowed

        node = self.world.node("alone", start=False)
        node.roles = Some()
        node.start()
        task = node.submit("true")
        allowed.clear()
        self.assertIsInstance(node.refused(node.coordinator.submit({"commands": ["true"]}, "api")), Forbidden)
        self.assertIsInstance(node.refused(node.coordinator.cancel(task, "api", "")), Forbidden)
        self.assertEqual(node.state(task), "running")
        self.assertEqual(len(node.wait(node.coordinator.list(state=None, limit=10, after=None))["tasks"]), 1)
        node.wait(node.coordinator.watch(task, 0, lambda _: None, lambda: None)).stop()
        self.assertEqual(asked, ACTIONS, "an action that nobody asks about promises a check that is not there")


ACTIONS = {
    action
    for path in Path(coordinator.__file__).parents[1].rglob("*.py")
    for values in re.findall(r"^[A-Z_]+(?:, [A-Z_]+)* = (.*)", path.read_text(), re.MULTILINE)
    for action in re.findall(r'"(task\.[a-z]+)"', values)
}
"""Those that services have a name for."""


class PlacementTest(WorldCase):
    def test_declined_goes_to_the_next(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        broken = self.world.node("broken", expertise=("x",))
        sound = self.world.node("sound", expertise=("x",))
        broken.engine.refuse = unavailable()
        for _ in range(3):
            task = scheduler.submit("true", required={"expertise": ["x"]})
            self.assertEqual(scheduler.show(task)["agent_id"], "sound")
        self.assertEqual(len(sound.engine.containers), 3)
        self.assertGreater(broken.executor.declined["sandbox_unavailable"], 0)

    def test_a_missing_image_is_told_at_once_and_by_name(self) -> None:
        node = self.world.node("alone")
        node.engine.refuse = missing("chorus-rust-dev")
        task = node.submit("cargo test", language="rust")
        self.assertIn("chorus-rust-dev", node.show(task)["detail"])
        (note,) = [event for event in node.history(task) if event.type == "note"]
        self.assertIn("chorus-rust-dev", str(note.data["text"]))
        node.engine.refuse = None
        node.placement.agents_changed()
        self.world.advance(1)
        self.assertEqual(node.state(task), "running")

    def test_nobody_suitable_waits_and_says_why(self) -> None:
        node = self.world.node("alone")
        task = node.submit("true", required={"capabilities": ["gpu"]})
        self.assertEqual(node.state(task), "submitted")
        self.assertIn("gpu", node.show(task)["detail"])
        other = self.world.node("with-gpu", capabilities=("gpu",))
        self.world.advance(40)
        self.assertEqual(node.show(task)["agent_id"], "with-gpu")
        self.assertEqual(len(other.engine.containers), 1)

    def test_no_more_than_the_maximum_at_once_and_the_rest_when_there_is_room(self) -> None:
        node = self.world.node("alone", max_tasks=2)
        tasks = [node.submit(f"echo {n}") for n in range(5)]
        self.assertEqual(len(node.engine.containers), 2)
        self.assertIn("busy", node.show(tasks[4])["detail"])
        for _ in range(5):
            next(iter(node.engine.containers.values())).finish(0)
            self.world.advance(1)
            self.assertLessEqual(len(node.engine.containers), 2)
        self.assertEqual([node.state(task) for task in tasks], ["completed"] * 5)

    def test_an_agent_that_has_not_said_yet_that_it_is_free_is_asked(self) -> None:
        """Presence is a second behind; what we know ourselves is not."""
        scheduler = self.world.node("scheduler", max_tasks=1)
        worker = self.world.node("worker", expertise=("x",), max_tasks=1)
        body = {"required": {"expertise": ["x"]}}
        first, second = scheduler.submit("1", **body), scheduler.submit("2", **body)
        said = Candidate(str(worker.peer), expertise=frozenset({"x"}), current_tasks=1, max_tasks=1, available=False)
        scheduler.hearsay["worker"] = Agent(worker.peer, "worker", said, self.world.clock.seconds())
        self.world.advance(0.5)
        worker.engine.only().finish(0)
        self.world.settle()
        self.world.advance(0.5)
        self.assertEqual((scheduler.state(first), scheduler.state(second)), ("completed", "running"))

    def test_an_agent_that_drains_is_not_asked_though_it_has_room(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        worker = self.world.node("worker", expertise=("x",), max_tasks=2)
        body = {"required": {"expertise": ["x"]}}
        scheduler.submit("1", **body)
        said = Candidate(str(worker.peer), expertise=frozenset({"x"}), current_tasks=1, max_tasks=2, available=False)
        scheduler.hearsay["worker"] = Agent(worker.peer, "worker", said, self.world.clock.seconds())
        self.world.advance(0.5)
        worker.engine.only().finish(0)
        self.world.settle()
        second = scheduler.submit("2", **body)
        self.world.advance(5)
        self.assertEqual(scheduler.state(second), "submitted")

    def test_what_nobody_can_take_is_offered_rarely_and_told_once(self) -> None:
        nodes = [self.world.node(name, max_tasks=slots) for name, slots in (("a", 1), ("b", 3))]
        for node in nodes:
            node.engine.refuse = missing("nope:1")
            # As with real presence, everybody hears of every change of everybody.
            node.executor._changed = lambda: [each.placement.agents_changed() for each in nodes]
        logged: list[Any] = []
        globalLogPublisher.addObserver(logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, logged.append)
        task = nodes[0].submit("ls", image="nope:1")
        self.world.advance(300, step=0.05)
        # Rounds after 1, 2, 4, 8, 16 and then every 30 s: 14 in 300 s, one offer to each agent.
        self.assertEqual(nodes[0].placement.offers, 2 * 14)
        for event in ("task.declined", "task.waiting"):
            self.assertEqual(
                len([each for each in logged if each.get("event") == event]), {"task.declined": 2}.get(event, 1)
            )
        self.assertEqual([each.type for each in nodes[0].history(task)], ["state", "note"])
        # Whoever comes and can take it has it at once, whatever the back-off is.
        able = self.world.node("able")
        nodes[0].placement.agents_changed()
        self.world.advance(0.2, step=0.05)
        self.assertEqual(able.engine.started, 1)

    def test_changes_elsewhere_do_not_hurry_what_was_declined(self) -> None:
        node = self.world.node("alone")
        node.engine.refuse = missing()
        node.submit("true")
        for _ in range(600):
            node.placement.agents_changed()
            self.world.advance(0.1, step=0.1)
        self.assertLess(node.placement.offers, 8)

    def test_an_agent_that_could_take_nothing_for_a_while_is_asked_again_at_once(self) -> None:
        node = self.world.node("alone")
        node.engine.refuse = unavailable()
        task = node.submit("true")
        self.world.advance(20)
        for draining in (True, False):
            node.executor.draining = draining
            node.placement.agents_changed()
            node.engine.refuse = None
            self.world.advance(0.2, step=0.05)
        self.assertEqual(node.state(task), "running")

    def test_a_place_that_a_declined_task_held_goes_to_one_that_waits(self) -> None:
        node = self.world.node("alone", max_tasks=1)
        choose = node.engine.choose
        looking: list[Deferred[Any]] = []

        def slowly(job: Any) -> Deferred[Any]:
            if job.image is None:
                return choose(job)
            looking.append(Deferred())
            return looking[-1]

        node.engine.choose = slowly  # type: ignore[method-assign]
        hopeless = node.submit("true", image="nope:1", priority=9)
        good = node.submit("true")
        self.assertEqual(node.state(good), "submitted")
        looking[0].errback(missing("nope:1"))
        self.world.advance(0.2, step=0.05)
        self.assertEqual((node.state(good), node.state(hopeless), len(looking)), ("running", "submitted", 1))

    def test_a_store_that_refuses_assignments_is_not_hammered(self) -> None:
        node = self.world.node("alone")
        write, refused = node.journal.append, []

        def full(entry: Any) -> Any:
            if entry.kind != "task.assigned":
                return write(entry)
            refused.append(entry)
            return fail(StoreUnavailable("the disk is full"))

        node.journal.append = full  # type: ignore[method-assign]
        task = node.submit("true")
        self.world.advance(60, step=0.05)
        self.assertEqual(len(refused), 6, "after 0, 1, 2, 4, 8 and 16 seconds, and the next one 30 later")
        node.journal.append = write  # type: ignore[method-assign]
        self.world.advance(30)
        self.assertEqual(node.state(task), "running")

    def test_priority(self) -> None:
        node = self.world.node("alone", max_tasks=1)
        node.submit("first")
        low = node.submit("low", priority=1)
        high = node.submit("high", priority=9)
        node.engine.only().finish(0)
        self.world.advance(1)
        self.assertEqual((node.state(low), node.state(high)), ("submitted", "running"))

    def test_an_agent_that_says_nothing_is_passed_over(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        silent = self.world.node("silent", expertise=("x",))
        self.world.freeze(scheduler, silent)
        task = scheduler.submit("true", required={"expertise": ["x"]})
        self.world.advance(20)
        self.assertEqual(scheduler.state(task), "submitted")
        self.assertIn("silent", scheduler.show(task)["detail"])

    def test_an_agent_that_goes_away_between_its_yes_and_our_commit(self) -> None:
        """It was never told, so nobody waits for its lease to end."""
        scheduler = self.world.node("scheduler", max_tasks=1)
        worker = self.world.node("worker", expertise=("x",))
        task = scheduler.submit("true", required={"expertise": ["y"]})
        scheduler.cancel(task)
        submitted = scheduler.coordinator.submit({"commands": ["true"], "required": {"expertise": ["x"]}}, "api")
        task = self.successResultOf(submitted)["id"]
        scheduler.store.slow = True
        self.world.settle()
        self.assertEqual(worker.executor.current_tasks, 1, "it has said yes")
        self.world.cut(scheduler, worker)
        scheduler.store.release()
        self.world.settle()
        found = scheduler.machine.get(task)
        self.assertEqual((str(found.state), found.reason, found.attempt), ("submitted", "lease_lost", 1))
        self.assertIn("went away", str(found.detail))
        self.world.heal(scheduler, worker)
        self.world.advance(5)
        self.assertEqual(scheduler.state(task), "running")

    def test_an_agent_that_went_silent_is_named(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        worker = self.world.node("worker", expertise=("x",))
        task = scheduler.submit("true", required={"expertise": ["x"]})
        self.world.cut(scheduler, worker)
        self.world.advance(3 * LEASE)
        self.assertEqual(scheduler.machine.get(task).detail, "worker went silent")

    def test_a_failing_agent_is_not_asked_first_again(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        nodes = [self.world.node(name, expertise=("x",)) for name in ("one", "two")]
        task = scheduler.submit("true", required={"expertise": ["x"]})
        first = scheduler.show(task)["agent_id"]
        taker = next(node for node in nodes if node.name == first)
        taker.engine.only().finish(None, reason=_reason("sandbox_unavailable"))
        self.world.advance(5)
        self.assertEqual(scheduler.show(task)["attempt"], 2)
        self.assertNotEqual(scheduler.show(task)["agent_id"], first)

    def test_infrastructure_that_always_fails_ends_the_task_after_its_attempts(self) -> None:
        node = self.world.node("alone")
        task = node.submit("true")
        for _ in range(3):
            node.engine.only().finish(None, reason=_reason("sandbox_unavailable"))
            self.world.advance(10)
        document = node.show(task)
        self.assertEqual((document["state"], document["reason"]), ("failed", "sandbox_unavailable"))
        self.assertEqual(node.engine.started, 3)


class CancelTest(WorldCase):
    def test_while_it_waits(self) -> None:
        node = self.world.node("alone")
        task = node.submit("true", required={"role": "nobody"})
        document = node.cancel(task)
        self.assertEqual((document["state"], document["reason"]), ("cancelled", "cancelled"))
        self.world.advance(60)
        self.assertEqual(node.engine.started, 0)

    def test_while_it_runs_keeps_what_there_is(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        worker = self.world.node("worker", expertise=("x",))
        task = scheduler.submit("sleep", required={"expertise": ["x"]})
        worker.engine.only().say("stdout", b"so far")
        self.world.settle()
        scheduler.cancel(task)
        document = scheduler.show(task)
        self.assertEqual((document["state"], document["reason"]), ("cancelled", "cancelled"))
        self.assertEqual([row["path"] for row in document["artifacts"]], ["partial.txt"])
        self.assertEqual(scheduler.output(task), "so far")
        self.assertEqual(worker.executor.current_tasks, 0)
        self.assertEqual(worker.executor.unacknowledged, 0)
        self.assertEqual(scheduler.states(task)[-1], "cancelled")

    def test_while_the_input_is_fetched(self) -> None:
        from twisted.internet.defer import Deferred

        scheduler = self.world.node("scheduler", max_tasks=1)
        worker = self.world.node("worker", expertise=("x",))
        worker.blobs.hold = Deferred()
        blob = scheduler.blobs.put(b"source")
        task = scheduler.submit("x", input={"sha256": blob}, required={"expertise": ["x"]})
        self.assertEqual(scheduler.state(task), "preparing")
        scheduler.cancel(task)
        self.assertEqual(worker.engine.started, 0)
        self.assertEqual((worker.executor.current_tasks, worker.executor.unacknowledged), (0, 0))

    def test_twice_or_too_late_is_a_conflict(self) -> None:
        node = self.world.node("alone")
        task = node.submit("true")
        node.engine.only().finish(0)
        self.world.settle()
        self.assertIsInstance(node.refused(node.coordinator.cancel(task, "api", "")), TaskFinished)
        other = node.submit("true")
        node.cancel(other)
        self.assertIsInstance(node.refused(node.coordinator.cancel(other, "api", "")), TaskFinished)

    def test_race_with_the_result(self) -> None:
        """Whatever comes first is what it is; nothing hangs and nothing changes afterwards."""
        for turns in range(0, 12):
            node = self.world.node(f"alone-{turns}")
            for other in self.world.nodes.values():
                other.visible = other is node
            task = node.submit("true")
            node.engine.only().finish(0)
            self.world.settle(turns)
            cancelled = node.coordinator.cancel(task, "api", "")
            cancelled.addErrback(lambda failure: failure.trap(TaskFinished))
            self.world.settle()
            state = node.state(task)
            self.assertIn(state, ("completed", "cancelled"))
            self.assertEqual([each for each in node.states(task) if each in ("completed", "cancelled")], [state])
            self.assertEqual(node.executor.unacknowledged, 0)

    def test_twice_at_once_only_one_of_them_did_it(self) -> None:
        """Both pass the check, both are committed; the second has changed nothing and says so."""
        node = self.world.node("alone")
        task = node.submit("true", required={"role": "nobody"})
        node.store.slow = True
        first, second = (node.coordinator.cancel(task, "api", name) for name in ("one", "two"))
        self.assertNoResult(first)
        node.store.release()
        self.world.settle()
        self.assertIn("one", self.successResultOf(first)["detail"])
        self.assertIsInstance(self.failureResultOf(second).value, TaskFinished)
        self.assertEqual(node.states(task).count("cancelled"), 1)

    def test_output_that_crosses_it_does_not_follow_the_end(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        worker = self.world.node("worker", expertise=("x",))
        task = scheduler.submit("sleep", required={"expertise": ["x"]})
        cancelled = scheduler.coordinator.cancel(task, "api", "")
        worker.engine.only().say("stdout", b"on its way")
        self.world.settle()
        self.successResultOf(cancelled)
        self.assertEqual(scheduler.history(task)[-1].data["state"], "cancelled")
        output = scheduler.show(task)["output"]["stdout"]
        self.assertEqual(scheduler.blobs.get(output["sha256"]), b"on its way", "the result has it")

    def test_of_a_task_whose_agent_is_away(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        worker = self.world.node("worker", expertise=("x",))
        task = scheduler.submit("sleep", required={"expertise": ["x"]})
        self.world.cut(scheduler, worker)
        scheduler.cancel(task)
        self.assertTrue(worker.engine.only().alive)
        self.world.advance(5)
        self.world.heal(scheduler, worker)
        self.world.advance(2)
        self.assertEqual(worker.engine.containers, {})
        self.assertEqual([row["path"] for row in scheduler.show(task)["artifacts"]], ["partial.txt"])
        self.assertEqual(worker.executor.unacknowledged, 0)


class LeaseTest(WorldCase):
    def test_a_connected_agent_keeps_its_task_for_hours(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        worker = self.world.node("worker", expertise=("x",))
        task = scheduler.submit("sleep", required={"expertise": ["x"]}, limits={"timeout_s": 86400})
        self.world.advance(2 * 3600, step=5.0)
        self.assertEqual((scheduler.state(task), scheduler.show(task)["attempt"]), ("running", 1))
        self.assertTrue(worker.engine.only().alive)

    def test_a_silent_agent_loses_it_and_another_runs_it(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        nodes = [self.world.node(name, expertise=("x",)) for name in ("one", "two")]
        task = scheduler.submit("sleep", required={"expertise": ["x"]})
        first = next(node for node in nodes if node.engine.containers)
        second = next(node for node in nodes if node is not first)
        self.world.freeze(scheduler, first)
        self.world.advance(LEASE + 1)
        self.assertEqual(first.engine.containers, {}, "the agent kills it before its lease ends")
        self.world.advance(10)
        self.assertEqual(scheduler.show(task)["agent_id"], "two" if second.name == "two" else "one")
        self.assertEqual(scheduler.show(task)["attempt"], 2)
        second.engine.only().finish(0)
        self.world.settle()
        self.assertEqual(scheduler.state(task), "completed")
        self.assertGreater(scheduler.coordinator.counters.recovery_last, 0)
        self.world.heal(scheduler, first)
        self.world.advance(5)
        self.assertEqual(first.executor.unacknowledged, 0)
        self.assertEqual(scheduler.states(task).count("completed"), 1)

    def test_a_short_loss_of_connection_changes_nothing(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        worker = self.world.node("worker", expertise=("x",))
        task = scheduler.submit("sleep", required={"expertise": ["x"]})
        worker.engine.only().say("stdout", b"one ")
        self.world.settle()
        self.world.cut(scheduler, worker)
        worker.engine.only().say("stdout", b"two ")
        self.world.advance(5)
        self.world.heal(scheduler, worker)
        self.world.settle()
        worker.engine.only().say("stdout", b"three")
        worker.engine.only().finish(0)
        self.world.settle()
        document = scheduler.show(task)
        self.assertEqual((document["state"], document["attempt"]), ("completed", 1))
        self.assertEqual(scheduler.output(task), "one two three")

    def test_two_results_only_the_current_fence_counts(self) -> None:
        """The first agent finishes behind a partition; its result comes after the second attempt's."""
        scheduler = self.world.node("scheduler", max_tasks=1)
        nodes = [self.world.node(name, expertise=("x",)) for name in ("one", "two")]
        task = scheduler.submit("x", required={"expertise": ["x"]})
        first = next(node for node in nodes if node.engine.containers)
        second = next(node for node in nodes if node is not first)
        self.world.freeze(scheduler, first)
        first.engine.only().finish(7)
        self.world.advance(LEASE + 10)
        second.engine.only().finish(0)
        self.world.settle()
        self.world.heal(scheduler, first)
        self.world.advance(20)
        document = scheduler.show(task)
        self.assertEqual((document["state"], document["exit_code"]), ("completed", 0))
        self.assertEqual(scheduler.states(task).count("completed"), 1)
        self.assertNotIn("failed", scheduler.states(task))
        self.assertEqual(first.executor.unacknowledged, 0)


class SchedulerRestartTest(WorldCase):
    def test_kill_in_the_middle_loses_nothing(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        worker = self.world.node("worker", expertise=("x",))
        running = scheduler.submit("run", required={"expertise": ["x"]})
        waiting = scheduler.submit("wait", required={"role": "nobody"})
        worker.engine.only().say("stdout", b"before ")
        self.world.settle()
        scheduler.kill()
        worker.engine.only().say("stdout", b"meanwhile ")
        self.world.advance(5)
        scheduler.restart()
        self.world.settle()
        worker.engine.only().say("stdout", b"after")
        worker.engine.only().finish(0)
        self.world.settle()
        document = scheduler.show(running)
        self.assertEqual((document["state"], document["attempt"]), ("completed", 1))
        self.assertEqual(scheduler.output(running), "before meanwhile after")
        self.assertEqual(scheduler.state(waiting), "submitted")
        ids = [event.id for event in scheduler.history(running)]
        self.assertEqual(ids, list(range(1, len(ids) + 1)))

    def test_a_result_while_the_scheduler_is_away_is_delivered_later(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        worker = self.world.node("worker", expertise=("x",))
        task = scheduler.submit("run", required={"expertise": ["x"]})
        scheduler.kill()
        worker.engine.only().say("stdout", b"all of it")
        worker.engine.only().finish(0, artifacts={"a": b"1"})
        self.world.advance(300)
        self.assertEqual(worker.executor.unacknowledged, 1)
        worker.visible = False
        scheduler.restart()
        self.world.settle()
        self.assertEqual(scheduler.state(task), "completed")
        self.assertEqual(scheduler.show(task)["agent_id"], "worker", "though its presence is not known yet")
        self.assertEqual(scheduler.output(task), "all of it")
        self.assertEqual(worker.executor.unacknowledged, 0)

    def test_away_for_longer_than_the_lease(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        worker = self.world.node("worker", expertise=("x",))
        task = scheduler.submit("run", required={"expertise": ["x"]})
        scheduler.kill()
        self.world.advance(LEASE + 5)
        self.assertEqual(worker.engine.containers, {})
        scheduler.restart()
        self.world.advance(10)
        self.assertEqual(scheduler.show(task)["attempt"], 2)
        worker.engine.only().finish(0)
        self.world.settle()
        self.assertEqual(scheduler.state(task), "completed")

    def test_its_own_executor_restarts_with_it(self) -> None:
        node = self.world.node("alone")
        task = node.submit("run")
        node.engine.only().say("stdout", b"one ")
        self.world.settle()
        node.kill()
        next(iter(node.engine.containers.values())).say("stdout", b"two ")
        self.world.advance(3)
        node.restart()
        self.world.settle()
        node.engine.only().say("stdout", b"three")
        node.engine.only().finish(0)
        self.world.settle()
        self.assertEqual((node.state(task), node.show(task)["attempt"]), ("completed", 1))
        self.assertEqual(node.output(task), "one two three")

    def test_killed_at_every_moment(self) -> None:
        """Scheduler and executor in one process, killed after n turns and started again: one result, whatever n."""
        for turns in range(0, 40):
            node = self.world.node(f"node-{turns}")
            for other in self.world.nodes.values():
                other.visible = other is node
            submitted = node.coordinator.submit({"commands": ["true"]}, "api")
            task = None
            for turn in range(turns):
                self.world.clock.advance(0)
                if turn == turns // 2 and node.engine.containers:
                    node.engine.only().say("stdout", b"x")
                    node.engine.only().finish(0)
            if submitted.called:
                task = self.successResultOf(submitted)["id"]
            node.kill()
            self.world.advance(1)
            node.restart()
            for _ in range(4):
                self.world.advance(LEASE / 2)
                for container in list(node.engine.containers.values()):
                    container.finish(0)
            self.world.advance(LEASE * 2)
            assert task is not None
            self.assertEqual(node.state(task), "completed", f"killed after {turns} turns")
            self.assertEqual(node.states(task).count("completed"), 1)
            self.assertEqual(node.executor.unacknowledged, 0)

    def test_a_state_whose_event_was_not_written_is_told_after_the_restart(self) -> None:
        node = self.world.node("alone")
        submitted = node.coordinator.submit({"commands": ["true"], "required": {"role": "nobody"}}, "api")
        task = self.successResultOf(submitted)["id"]
        self.assertEqual(node.states(task), [])
        node.kill()
        node.restart()
        self.assertEqual(node.states(task), ["submitted"])


class WatchTest(WorldCase):
    def watch(self, node: Any, task: str, after: int = 0) -> tuple[list[TaskEvent], list[bool], Any]:
        seen: list[TaskEvent] = []
        ended: list[bool] = []
        subscription = node.wait(node.coordinator.watch(task, after, seen.append, lambda: ended.append(True)))
        self.world.settle()
        return seen, ended, subscription

    def test_from_the_beginning_to_the_end(self) -> None:
        node = self.world.node("alone")
        task = node.submit("true")
        seen, ended, _ = self.watch(node, task)
        node.engine.only().say("stdout", "grüße".encode()[:3])
        self.world.settle()
        node.engine.only().say("stdout", "grüße".encode()[3:])
        self.world.settle()
        node.engine.only().finish(0)
        self.world.settle()
        self.assertEqual([event.id for event in seen], list(range(1, len(seen) + 1)))
        self.assertEqual("".join(str(e.data["text"]) for e in seen if e.type == "output"), "grüße")
        self.assertEqual(seen[-1].data["state"], "completed")
        self.assertEqual(ended, [True])
        self.assertEqual(node.events.watchers, 0)

    def test_after_an_id_and_after_the_end(self) -> None:
        node = self.world.node("alone")
        task = node.submit("true")
        node.engine.only().finish(0)
        self.world.settle()
        last = node.history(task)[-1].id
        seen, ended, _ = self.watch(node, task, after=2)
        self.assertEqual([event.id for event in seen], list(range(3, last + 1)))
        self.assertEqual(ended, [True])
        seen, ended, _ = self.watch(node, task, after=last)
        self.assertEqual((seen, ended), ([], [True]))

    def test_a_slow_watcher_misses_nothing_and_holds_nothing(self) -> None:
        node = self.world.node("alone")
        task = node.submit("true")
        seen, ended, subscription = self.watch(node, task)
        subscription.pause()
        count = len(seen)
        for n in range(300):
            node.engine.only().say("stdout", b"%d\n" % n)
            self.world.settle(3)
        self.assertEqual(len(seen), count)
        subscription.resume()
        self.world.settle()
        text = "".join(str(event.data["text"]) for event in seen if event.type == "output")
        self.assertEqual(text, "".join(f"{n}\n" for n in range(300)))
        subscription.pause()
        node.engine.only().finish(0)
        self.world.settle()
        self.assertEqual(ended, [])
        subscription.resume()
        self.world.settle()
        self.assertEqual(ended, [True])
        self.assertEqual([event.id for event in seen], list(range(1, len(seen) + 1)))

    def test_stopped_hears_no_more(self) -> None:
        node = self.world.node("alone")
        task = node.submit("true")
        seen, ended, subscription = self.watch(node, task)
        count = len(seen)
        subscription.stop()
        node.engine.only().finish(0)
        self.world.settle()
        self.assertEqual((len(seen), ended, node.events.watchers), (count, [], 0))

    def test_ids_go_on_after_a_restart(self) -> None:
        node = self.world.node("alone")
        task = node.submit("true")
        seen, _, _ = self.watch(node, task)
        last = seen[-1].id
        node.kill()
        node.restart()
        after, ended, _ = self.watch(node, task, after=last)
        node.engine.only().finish(0)
        self.world.settle()
        self.assertEqual([event.id for event in after], list(range(last + 1, last + 1 + len(after))))
        self.assertEqual(ended, [True])
