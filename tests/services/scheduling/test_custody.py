"""What an agent may claim of a task, and how long it may hold one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred

from chorus.protocols.task_messages import (
    MAX_ARTIFACTS,
    Accept,
    Assign,
    Cancel,
    Message,
    Offer,
    Progress,
    Renew,
    Renewed,
    Result,
    ResultArtifact,
    Resume,
    Stale,
    Started,
)
from chorus.services.scheduling import collection
from chorus.services.scheduling.custody import MAX_PROGRESS_EVENTS
from chorus.services.scheduling.results import MIB, excess
from chorus.tasks import deadlines
from chorus.tasks.spec import TaskSpec
from chorus.tasks.terms import Limits
from tests.services.task_kit import LEASE, World
from tests.support import PureTestCase

Says = Callable[[Any, Message], None]


class Member:
    """An agent that follows no rules but those of the wire: `says(channel, message)` answers what it hears."""

    def __init__(self, world: World, name: str, says: Says) -> None:
        self.node = world.node(name, expertise=("x",))
        self.offers = 0
        self.said: list[Message] = []
        self.channels: list[Any] = []

        def offered(channel: Any, offer: Offer) -> None:
            self.offers += 1
            self.channels.append(channel)

            def heard(message: Message) -> None:
                self.said.append(message)
                says(channel, message)

            channel.heard = heard
            channel.send(Accept())

        self.node.streams.offered = offered


def result(*artifacts: ResultArtifact, **fields: Any) -> Result:
    return Result("exit", 0, "", "docker", None, 0.0, 1.0, artifacts=artifacts, **fields)


def blob(number: int, size: int) -> ResultArtifact:
    return ResultArtifact(f"file-{number}", f"{number:064x}", size)


class CustodyCase(PureTestCase):
    def setUp(self) -> None:
        self.world = World(self)
        self.addCleanup(self.world.stop)
        self.scheduler = self.world.node("scheduler", max_tasks=1)

    def submit(self, **body: Any) -> str:
        return self.scheduler.submit("true", required={"expertise": ["x"]}, **body)


class LyingResultTest(CustodyCase):
    def lie(self, told: Result, **body: Any) -> Mapping[str, Any]:
        """The task after an agent ended it so, and how the agent fared."""

        def says(channel: Any, message: Message) -> None:
            if isinstance(message, Assign):
                channel.send(told)

        member = Member(self.world, f"liar-{len(self.world.nodes)}", says)
        asked: list[str] = []
        with mock.patch.object(self.scheduler.blobs, "fetch", lambda sha256, *_: asked.append(sha256) or Deferred()):
            task = self.submit(**body)
            self.world.settle()
        member.node.visible = False
        self.assertEqual(asked, [], "nothing is fetched for it")
        self.assertEqual(len(member.channels), 1)
        self.assertTrue(member.channels[0].is_closed)
        self.assertEqual(list(self.scheduler.placement._conduct._outcomes[str(member.node.peer)]), [False])
        document = {**self.scheduler.show(task), "why": self.scheduler.machine.get(task).detail}
        self.scheduler.cancel(task)
        return document

    def test_it_is_refused_and_the_task_goes_on_elsewhere(self) -> None:
        many = [blob(number, 1) for number in range(MAX_ARTIFACTS)]
        for told, body, why in (
            (result(*(blob(n, 64 * MIB) for n in range(12))), {"limits": {"disk_mb": 1}}, "disk_mb"),
            (result(blob(0, MIB), blob(1, 1)), {"limits": {"disk_mb": 1}}, "disk_mb"),
            (result(blob(0, 0)), {"artifacts": []}, "asks for none"),
            (result(*many), {"artifacts": []}, "asks for none"),
            (result(stdout_bytes=MIB + 1), {"limits": {"output_mb": 1}}, "stdout"),
            (result(stderr_bytes=2**53 - 1), {"limits": {"output_mb": 1}}, "stderr"),
        ):
            document = self.lie(told, **body)
            self.assertEqual((document["state"], document["attempt"]), ("submitted", 1))
            self.assertIn(why, document["why"])

    def test_another_agent_has_it_next(self) -> None:
        def says(channel: Any, message: Message) -> None:
            if isinstance(message, Assign):
                channel.send(result(blob(0, 2 * MIB)))

        liar = Member(self.world, "liar", says)
        task = self.submit(limits={"disk_mb": 1})
        honest = self.world.node("honest", expertise=("x",))
        self.world.advance(10)
        self.assertEqual((self.scheduler.show(task)["agent_id"], liar.offers), ("honest", 1))
        honest.engine.only().finish(0, artifacts={"a": b"1"})
        self.world.advance(1)
        self.assertEqual(self.scheduler.state(task), "completed")

    def test_up_to_the_limit_it_is_taken(self) -> None:
        document = {"artifacts": [{"size": MIB}], "output": {"stdout": {"bytes": MIB}, "stderr": {"bytes": MIB}}}
        spec = TaskSpec.parse({"commands": ["true"], "limits": {"disk_mb": 1, "output_mb": 1}}).to_json()
        self.assertIsNone(excess(spec, document))  # type: ignore[arg-type]

    def test_what_a_killed_run_left_is_held_to_it_too(self) -> None:
        def says(channel: Any, message: Message) -> None:
            if isinstance(message, Cancel):
                channel.send(result(blob(0, 2 * MIB)))

        Member(self.world, "liar", says)
        task = self.submit(limits={"disk_mb": 1})
        self.scheduler.cancel(task)
        self.world.settle()
        self.assertEqual((self.scheduler.state(task), self.scheduler.show(task)["artifacts"]), ("cancelled", []))
        self.assertEqual(self.scheduler.custodies._custodies, {})


class DeadlineTest(CustodyCase):
    def holder(self, **body: Any) -> tuple[Member, str]:
        """An agent that renews and does nothing."""
        answered: list[Message] = []

        def says(channel: Any, message: Message) -> None:
            answered.append(message)

        member = Member(self.world, "holder", says)
        task = self.submit(**body)
        self.assertEqual(self.scheduler.state(task), "assigned")
        channel = member.channels[0]

        def renew(tag: int = 0) -> None:
            if not channel.is_closed and self.world.clock.seconds() < 3000:
                if len([each for each in answered if isinstance(each, Renewed)]) >= tag:
                    channel.send(Renew(tag))
                self.world.clock.callLater(LEASE / 3, renew, tag + 1)

        renew()
        return member, task

    def test_who_renews_and_does_nothing_loses_it(self) -> None:
        member, task = self.holder(limits={"timeout_s": 2, "disk_mb": 1, "output_mb": 1})
        limit = deadlines.attempt_limit(self.scheduler.machine.get(task).spec, 0)
        self.world.advance(limit - 1)
        self.assertEqual(self.scheduler.state(task), "assigned")
        honest = self.world.node("honest", expertise=("x",))
        self.world.advance(LEASE * 1.1 + 10)
        found = self.scheduler.machine.get(task)
        self.assertEqual((found.attempt, found.agent), (2, str(honest.peer)))
        self.assertTrue(member.channels[0].is_closed)
        self.assertIn(False, self.scheduler.placement._conduct._outcomes[str(member.node.peer)])

    def test_nobody_else_has_it_before_its_lease_has_ended(self) -> None:
        member, task = self.holder(limits={"timeout_s": 2, "disk_mb": 1, "output_mb": 1})
        limit = 1.01 * deadlines.attempt_limit(self.scheduler.machine.get(task).spec, 0)
        self.world.advance(limit + 1)
        answered = len([each for each in member.said if isinstance(each, Renewed)])
        last = max(self.world.clock.seconds() - 1 - LEASE / 3, 0)
        self.assertEqual(self.scheduler.state(task), "assigned")
        while self.scheduler.state(task) == "assigned":
            self.world.advance(0.5)
        self.assertGreater(self.world.clock.seconds(), last + LEASE - LEASE / 3)
        self.assertIn("time limit", str(self.scheduler.machine.get(task).detail))
        self.assertEqual(len([each for each in member.said if isinstance(each, Renewed)]), answered)

    def test_who_comes_back_after_it_is_told_that_it_is_over(self) -> None:
        member, task = self.holder(limits={"timeout_s": 2, "disk_mb": 1, "output_mb": 1})
        found = self.scheduler.machine.get(task)
        assert found.fence is not None
        self.world.advance(1.01 * deadlines.attempt_limit(found.spec, 0) + 1)
        custody = self.scheduler.custodies.of(task)
        assert custody is not None and custody._lease._call is not None
        expires = custody._lease._call.getTime()
        channel = member.node.wait(member.node.streams.resume_at(self.scheduler.peer))
        heard: list[Message] = []
        channel.heard = heard.append
        channel.send(Resume(task, found.fence))
        self.world.settle()
        self.assertEqual(heard, [Stale()])
        self.assertEqual(custody._lease._call.getTime(), expires, "and its lease is what it was")

    def test_a_result_after_the_deadline_is_still_taken_while_the_lease_runs(self) -> None:
        member, task = self.holder(limits={"timeout_s": 2, "disk_mb": 1, "output_mb": 1})
        limit = 1.01 * deadlines.attempt_limit(self.scheduler.machine.get(task).spec, 0)
        self.world.advance(limit + 1)
        member.channels[0].send(result())
        self.world.settle()
        self.assertEqual((self.scheduler.state(task), self.scheduler.show(task)["attempt"]), ("completed", 1))

    def test_remains_are_not_waited_for_for_ever(self) -> None:
        member, task = self.holder(limits={"timeout_s": 600, "disk_mb": 1, "output_mb": 1})
        self.scheduler.cancel(task)
        self.world.advance(1.01 * deadlines.collection_limit(self.scheduler.machine.get(task).spec) + 1)
        self.assertEqual(self.scheduler.custodies._custodies, {})
        self.assertTrue(member.channels[0].is_closed)

    def test_a_restart_begins_it_anew(self) -> None:
        _, task = self.holder(limits={"timeout_s": 2, "disk_mb": 1, "output_mb": 1})
        self.world.advance(100)
        self.scheduler.kill()
        self.scheduler.restart()
        custody = self.scheduler.custodies.of(task)
        assert custody is not None and custody._deadline._call is not None
        limit = 1.01 * deadlines.attempt_limit(self.scheduler.machine.get(task).spec, 0)
        self.assertAlmostEqual(custody._deadline._call.getTime() - self.world.clock.seconds(), limit, 3)

    def test_the_margins(self) -> None:
        """By value: an honest agent on a slow line and a slow disk has the time."""
        spec = TaskSpec.parse({"commands": ["true"], "limits": {"timeout_s": 10, "disk_mb": 100, "output_mb": 10}})
        self.assertEqual(deadlines.collection_limit(spec.to_json()), 60 + 120 / 4)
        self.assertEqual(deadlines.attempt_limit(spec.to_json(), 256 * 1024 * 100), 120 + 100 + 10 + 60 + 30)
        default = deadlines.attempt_limit(TaskSpec.parse({"commands": ["true"]}).to_json(), 0)
        self.assertGreater(default, Limits().timeout_s)
        self.assertGreaterEqual(deadlines.attempt_limit({}, 0), 86400)


class ConversationTest(CustodyCase):
    def test_progress_is_recorded_up_to_its_limit(self) -> None:
        member = Member(self.world, "talker", lambda channel, message: None)
        task = self.submit()
        for number in range(MAX_PROGRESS_EVENTS + 50):
            member.channels[0].send(Progress("step", {"number": number}))
            if number % 50 == 0:
                self.world.settle(5)
        self.world.settle()
        noted = [event for event in self.scheduler.history(task) if event.type == "progress"]
        self.assertEqual([event.data["number"] for event in noted], list(range(MAX_PROGRESS_EVENTS)))

    def test_a_bug_in_a_result_costs_the_lease_and_not_the_task(self) -> None:
        class Broken(Exception):
            pass

        member = Member(self.world, "agent", lambda channel, message: None)
        task = self.submit()
        with mock.patch("chorus.services.scheduling.custody.excess", side_effect=Broken):
            member.channels[0].send(Started("docker"))
            member.channels[0].send(result())
            self.world.settle()
        self.world.advance(LEASE + 10)
        self.assertGreater(self.scheduler.show(task)["attempt"], 1)
        self.flushLoggedErrors(Broken)


class CollectionTest(CustodyCase):
    def test_hundreds_of_blobs_that_are_here_are_passed_over_one_by_one(self) -> None:
        """Each completes at once, and none inside another."""
        service = self.scheduler.collection
        depth: list[int] = []
        stat = self.scheduler.blobs.stat

        def counting(sha256: str) -> Any:
            import traceback

            depth.append(len(traceback.extract_stack()))
            return stat(sha256)

        holder = self.world.node("holder").peer
        self.scheduler.blobs.stat = counting  # type: ignore[method-assign]
        names = [self.scheduler.blobs.put(b"%d" % number) for number in range(900)]
        for name in names:
            service._queue.append(collection._WantedBlob(name, 10, holder))
        service._go_on()
        self.world.settle(2000)
        self.assertEqual((len(depth), len(service._queue), service._running_fetches), (900, 0, 0))
        self.assertLess(max(depth) - min(depth), 30)

    def test_results_of_one_agent_do_not_keep_others_waiting(self) -> None:
        started: list[str] = []
        self.scheduler.blobs.fetch = lambda sha256, *_: started.append(sha256) or Deferred()  # type: ignore[method-assign]
        one, other = (self.world.node(name).peer for name in ("one", "other"))

        def told(peer: Any, number: int) -> Any:
            return {"agent": str(peer), "artifacts": [{"sha256": f"{number:064x}", "size": 1}]}

        brought = [self.scheduler.collection.fetch_result_blobs(told(one, number)) for number in range(10)]
        brought += [self.scheduler.collection.fetch_result_blobs(told(other, 99))]
        self.world.settle()
        self.assertEqual(len(started), collection.MAX_FETCHING_PER_HOLDER + 1)
        self.assertIn(f"{99:064x}", started)
        self.world.advance(collection.FETCH_S + 1)
        for each in brought:
            self.successResultOf(each)
        self.assertEqual((self.scheduler.collection._places.taken, self.scheduler.collection._places._waiting), (0, {}))
