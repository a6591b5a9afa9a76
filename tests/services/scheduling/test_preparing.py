"""A task is `preparing` while its agent fetches and unpacks its input, and `running` once its commands begin."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from chorus.protocols.task_messages import FETCHING, PREPARING, Progress
from chorus.services.scheduling.custody import MAX_PROGRESS_EVENTS
from chorus.tasks.terms import Reason
from tests.services.task_kit import LEASE, Container, World
from tests.support import PureTestCase


class PreparingTest(PureTestCase):
    def setUp(self) -> None:
        self.world = World(self)
        self.addCleanup(self.world.stop)
        self.scheduler = self.world.node("scheduler", max_tasks=1)
        self.worker = self.world.node("worker", expertise=("x",))

    def submit(self, *, with_input: bool = True) -> str:
        blob = {"input": {"sha256": self.scheduler.blobs.put(b"source")}} if with_input else {}
        return self.scheduler.submit("true", required={"expertise": ["x"]}, **blob)

    def unpacking(self) -> Deferred[None]:
        """Sandboxes here unpack until the result fires, as real ones do, and then begin the commands."""
        unpacked: Deferred[None] = Deferred()
        honest = self.worker.engine.start

        def start(*args: Any) -> Any:
            run: Any = honest(*args)
            run.began = Deferred()
            unpacked.addCallback(lambda _: run.began.called or run.began.callback(None))
            return run

        self.patch(self.worker.engine, "start", start)
        return unpacked

    def only(self) -> Container:
        return self.worker.engine.only()

    def test_fetched_unpacked_and_run(self) -> None:
        hold: Deferred[None] = Deferred()
        self.worker.blobs.hold = hold
        unpacked = self.unpacking()
        task = self.submit()
        document = self.scheduler.show(task)
        self.assertEqual((document["state"], document["started_at"]), ("preparing", None))
        self.assertEqual(document["message"], "its agent fetches and unpacks the input")
        hold.callback(None)
        self.world.advance(3)
        self.assertEqual(self.scheduler.state(task), "preparing")
        self.assertTrue(self.only().alive, "its sandbox is being filled")
        began = self.world.wall()
        unpacked.callback(None)
        self.world.settle()
        self.assertEqual(self.scheduler.state(task), "running")
        self.assertEqual(self.scheduler.show(task)["started_at"], began)
        self.only().finish(0)
        self.world.settle()
        self.assertEqual(self.scheduler.states(task), ["submitted", "assigned", "preparing", "running", "completed"])
        phases = [event.data["phase"] for event in self.scheduler.history(task) if event.type == "progress"]
        self.assertEqual(phases, [FETCHING, PREPARING, "collecting"])

    def test_without_input_there_is_nothing_to_prepare(self) -> None:
        task = self.submit(with_input=False)
        self.only().finish(0)
        self.world.settle()
        self.assertEqual(self.scheduler.states(task), ["submitted", "assigned", "running", "completed"])

    def test_it_is_listed_by_its_state(self) -> None:
        self.unpacking()
        task = self.submit()
        page = self.scheduler.wait(self.scheduler.coordinator.list(state="preparing", limit=10, after=None))
        self.assertEqual([each["id"] for each in page["tasks"]], [task])

    def test_members_of_an_earlier_version_are_told_no_word_that_they_refuse(self) -> None:
        self.submit()
        self.only().finish(0)
        self.world.settle()
        states = [each["state"] for each in self.scheduler.announced]
        self.assertEqual(states, ["submitted", "assigned", "running", "completed"])

    def test_a_lost_lease_leads_back(self) -> None:
        self.unpacking()
        task = self.submit()
        self.world.freeze(self.scheduler, self.worker)
        self.world.advance(LEASE + 1)
        state = self.scheduler.machine.get(task)
        self.assertEqual((state.state, state.reason, state.moves), ("submitted", "lease_lost", 1))
        self.world.heal(self.scheduler, self.worker)

    def test_it_is_said_again_after_a_break_of_the_connection(self) -> None:
        hold: Deferred[None] = Deferred()
        self.worker.blobs.hold = hold
        self.scheduler.store.slow = True
        self.scheduler.coordinator.submit(
            {
                "commands": ["true"],
                "required": {"expertise": ["x"]},
                "input": {"sha256": self.scheduler.blobs.put(b"source")},
            },
            "api",
        )
        for _ in range(4):
            # Each entry is held back: the break comes before `preparing` is recorded.
            self.scheduler.store.release()
            self.world.settle(4)
        (task,) = [each.id for each in self.scheduler.machine]
        self.world.cut(self.scheduler, self.worker)
        self.world.advance(2)
        self.world.heal(self.scheduler, self.worker)
        self.world.settle()
        self.assertEqual(self.scheduler.state(task), "preparing")
        hold.callback(None)
        self.world.settle()
        self.only().finish(0)
        self.world.settle()
        self.assertEqual(self.scheduler.states(task).count("preparing"), 1)

    def test_the_scheduler_restarts_meanwhile(self) -> None:
        unpacked = self.unpacking()
        task = self.submit()
        self.scheduler.kill()
        self.world.advance(3)
        self.scheduler.restart()
        self.world.settle()
        self.assertEqual(self.scheduler.state(task), "preparing")
        unpacked.callback(None)
        self.world.settle()
        self.assertEqual((self.scheduler.state(task), self.scheduler.show(task)["attempt"]), ("running", 1))

    def test_a_sandbox_that_never_comes_so_far_was_never_running(self) -> None:
        self.unpacking()
        task = self.submit()
        self.only().finish(None, reason=Reason.REFUSED)
        self.world.settle()
        self.assertNotIn("running", self.scheduler.states(task))


class ProgressTest(PureTestCase):
    """What an agent says of its progress is noted, up to a number of times."""

    def test_noted_and_capped(self) -> None:
        world = World(self)
        self.addCleanup(world.stop)
        scheduler = world.node("scheduler", max_tasks=1)
        worker = world.node("worker", expertise=("x",))
        task = scheduler.submit("true", required={"expertise": ["x"]})
        (attempt,) = worker.executor._attempts.values()
        for number in range(MAX_PROGRESS_EVENTS + 5):
            attempt._conversation.say(Progress("testing", {"phase": "forged", "step": number}))
            if number % 50 == 0:
                world.settle(5)
        world.settle()
        noted = [event.data for event in scheduler.history(task) if event.type == "progress"]
        self.assertEqual(noted[0], {"phase": "testing", "step": 0}, "its phase is the message's own")
        self.assertEqual(noted[-1], {"phase": "testing", "step": MAX_PROGRESS_EVENTS - 1})
        self.assertEqual((len(noted), MAX_PROGRESS_EVENTS), (2000, 2000))
        worker.engine.only().finish(0)
        world.settle()
        self.assertEqual(scheduler.state(task), "completed", "it is heard all the same")
