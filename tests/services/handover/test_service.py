"""A task that no agent within reach can run goes to a member that sees one, and is followed there."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.defer import Deferred

from chorus.errors import PeerError
from chorus.protocols.handover import (
    PROTOCOL,
    CancelTaken,
    Declined,
    Event,
    HandoverError,
    Seek,
    Seen,
    Take,
    Taken,
    View,
    decode,
    encode,
)
from chorus.protocols.streamio import StreamIO
from chorus.services.handover import serving as handover_serving
from chorus.services.handover.following import MAX_INPUT_BYTES, OVERTIME, checked_result
from chorus.services.handover.service import ABANDON_S, ANSWER_S, ROUND_S, SEEK_S, NotCancelled, SchedulerAway
from chorus.services.handover.serving import MAX_TAKEN_PER_PEER
from chorus.services.scheduling.collection import FETCH_S
from chorus.tasks import ids
from chorus.tasks.deadlines import attempt_limit
from chorus.tasks.errors import TaskFinished
from tests.services.task_kit import Node, World
from tests.support import PureTestCase

SIX = {"required": {"capabilities": ["six"]}}


class Case(PureTestCase):
    """`five` and `six` can only dial out, so both are connected to `middle` alone."""

    def setUp(self) -> None:
        super().setUp()
        self.world = World(self)
        self.world.hearsay = True
        self.addCleanup(self.world.stop)
        self.middle = self.world.node("middle", max_tasks=1)
        self.five = self.world.node("five", capabilities=("five",))
        self.six = self.world.node("six", capabilities=("six",))
        self.world.cut(self.five, self.six)

    def over(self, seconds: float = 5.0) -> None:
        self.world.advance(seconds)

    def submit(self, **body: Any) -> str:
        task = self.five.submit("true", **SIX, **body)
        self.over()
        return task


class HandedOver(Case):
    def test_it_runs_where_another_member_sees_an_agent(self) -> None:
        task = self.submit(input={"sha256": self.five.blobs.put(b"setup.py")})
        self.assertEqual(self.five.machine.get(task).state, "moved")
        document = self.five.show(task)
        self.assertEqual(
            (document["state"], document["agent_id"], document["scheduler"]), ("running", "six", str(self.middle.peer))
        )
        self.assertEqual(self.middle.machine.get(task).handed_by, str(self.five.peer))
        container = self.six.engine.only()
        container.say("stdout", b"hello\n")
        self.over(1)
        self.assertEqual(self.five.output(task), "hello\n")
        container.finish(0, artifacts={"report.txt": b"all good"})
        self.over(1)
        document = self.five.show(task)
        self.assertEqual((document["state"], document["exit_code"]), ("completed", 0))
        (row,) = document["artifacts"]
        self.assertEqual(self.five.blobs.get(row["sha256"]), b"all good")
        states = self.five.states(task)
        self.assertEqual((states[0], states[-1], states.count("completed")), ("submitted", "completed", 1))
        self.assertIn("running", states)

    def test_its_end_is_known_here_when_what_it_left_is_here(self) -> None:
        task = self.submit()
        self.five.blobs.hold = Deferred()
        self.six.engine.only().finish(0, artifacts={"report.txt": b"all good"})
        self.over(2)
        self.assertEqual((self.middle.state(task), self.five.machine.get(task).state), ("completed", "moved"))
        self.five.blobs.hold.callback(None)
        self.over(1)
        document = self.five.show(task)
        self.assertEqual((document["state"], document["artifacts_absent"]), ("completed", 0))

    def test_what_never_comes_is_not_waited_for(self) -> None:
        task = self.submit()
        self.five.blobs.hold = Deferred()
        self.six.engine.only().finish(0, artifacts={"report.txt": b"all good"})
        self.over(FETCH_S + 2)
        self.assertEqual(self.five.machine.get(task).state, "completed")
        self.five.blobs.hold.callback(None)

    def test_until_somebody_sees_it_the_line_says_that_it_is_out_of_reach(self) -> None:
        self.world.cut(self.middle, self.six)
        task = self.submit()
        document = self.five.show(task)
        self.assertEqual(document["state"], "submitted")
        self.assertIn("1 agent that may run it cannot be reached from this node", document["detail"])
        self.world.heal(self.middle, self.six)
        self.over()
        self.assertEqual(self.five.show(task)["agent_id"], "six")

    def test_what_nobody_has_is_not_handed_about(self) -> None:
        task = self.five.submit("true", required={"capabilities": ["seven"]})
        self.over()
        self.assertIn("no agent has the capability seven", self.five.show(task)["detail"])
        self.assertNotIn(task, self.middle.machine)

    def test_who_waits_for_it_here_goes_on_when_it_has_ended(self) -> None:
        first = self.submit()
        second = self.five.submit("true", depends_on=[first])
        self.over()
        self.assertEqual(self.five.state(second), "submitted")
        self.six.engine.only().finish(0)
        self.over()
        self.assertEqual(self.five.state(second), "running")

    def test_what_it_waited_for_here_is_not_asked_of_the_other(self) -> None:
        first = self.five.submit("true")
        self.world.settle()
        second = self.five.submit("true", depends_on=[first], **SIX)
        owner = next(node for node in self.world.nodes.values() if node.engine.containers)
        owner.engine.only().finish(0)
        self.over()
        self.assertEqual(self.five.show(second)["agent_id"], "six")

    def test_a_member_that_declines_is_left_alone_for_a_while(self) -> None:
        self.middle.no_room = ("no_disk", "the disk is full")
        task = self.submit()
        self.assertEqual(self.five.state(task), "submitted")
        self.assertNotIn(task, self.middle.machine)
        states = self.five.states(task)
        self.assertEqual(states.count("moved"), 1)
        self.middle.no_room = None
        self.over(40)
        self.assertEqual(self.five.show(task)["agent_id"], "six")

    def test_cancelling_it_here_ends_it_there(self) -> None:
        task = self.submit()
        self.five.cancel(task)
        self.over(1)
        self.assertEqual(self.middle.machine.get(task).state, "cancelled")
        self.assertEqual(self.six.engine.containers, {})
        self.over(1)
        self.assertEqual((self.five.state(task), self.five.machine.get(task).state), ("cancelled", "cancelled"))

    def test_cancelling_while_the_scheduler_is_away_says_so_and_loses_nothing(self) -> None:
        task = self.submit()
        self.middle.kill()
        refused = self.five.refused(self.five.coordinator.cancel(task, "api", "enough"))
        self.assertIsInstance(refused, SchedulerAway)
        self.assertIn("try again", str(refused))
        self.middle.restart()
        self.over()
        self.five.cancel(task)
        self.assertEqual(self.middle.machine.get(task).state, "cancelled")

    def test_cancelling_what_has_ended_there_is_refused(self) -> None:
        task = self.submit()
        self.world.freeze(self.five, self.middle)
        self.six.engine.only().finish(0)
        self.over(1)
        self.world.heal(self.five, self.middle)
        cancelling = self.five.coordinator.cancel(task, "api", "enough")
        self.over(2)
        self.assertIsInstance(self.failureResultOf(cancelling).value, NotCancelled | TaskFinished)
        self.assertEqual(self.five.state(task), "completed")

    def test_kill_9_of_either_member_at_any_time_runs_it_once(self) -> None:
        for number, victim in enumerate((self.five, self.middle, self.five, self.middle)):
            task = self.five.submit("true", **SIX)
            self.over(1.9 + 0.1 * number)
            victim.kill()
            self.over(1)
            victim.restart()
            self.over(40)
            self.assertEqual(self.five.show(task)["agent_id"], "six", victim.name)
            container = self.six.engine.only()
            container.say("stdout", b"once\n")
            self.over(1)
            victim.kill()
            container.finish(0)
            self.over(1)
            victim.restart()
            self.over(60)
            self.assertEqual(self.five.state(task), "completed")
            self.assertEqual(self.five.output(task), "once\n")
            self.assertEqual(self.five.states(task).count("completed"), 1)

    def test_a_scheduler_that_lost_the_task_does_not_run_it_again(self) -> None:
        task = self.submit()
        self.middle.kill()
        (self.middle.directory / "chorus.db").unlink()
        self.middle.restart()
        self.over(60)
        document = self.five.show(task)
        self.assertEqual((document["state"], document["reason"]), ("failed", "lease_lost"))
        self.assertIn("does not know it any more", document["detail"])

    def test_a_result_that_no_agent_could_send_is_none(self) -> None:
        good = {"reason": "exit", "exit_code": 0, "detail": "", "sandbox": "docker", "image": None}
        good |= {
            "started_at": 1.0,
            "ended_at": 2.0,
            "agent": str(self.six.peer),
            "output": {"stdout": {"bytes": 3, "sha256": None}},
        }
        spec = {"limits": {"disk_mb": 1, "output_mb": 1}, "artifacts": ["*"]}
        self.assertEqual(checked_result(good, spec)["output"]["stdout"]["bytes"], 3)
        row = {"path": "x", "sha256": "ab" * 32, "size": 2 << 20}
        for wrong in (
            {"artifacts": "none"},
            {"artifacts": [row]},
            {"artifacts": [{**row, "size": -1}]},
            {"truncated": [[]]},
            {"exit_code": "0"},
            {"started_at": "yesterday"},
            {"agent": "nobody"},
            {"output": {"stdout": {"bytes": 2 << 20, "sha256": None}}},
        ):
            self.assertRaises(PeerError, checked_result, {**good, **wrong}, spec)
        task = self.submit()
        (following,) = self.five.handover._following.values()
        end = View(state="completed", attempt=1, updated_at=1.0, reason="exit", result={"artifacts": "none"})
        self.assertRaises(PeerError, following.saw, end)
        self.assertEqual(self.five.state(task), "running")

    def test_it_is_not_handed_on(self) -> None:
        self.world.cut(self.middle, self.six)
        seven = self.world.node("seven")
        self.world.cut(self.five, seven)
        self.world.hearsay = True
        task = self.five.submit("true", **SIX)
        self.over(20)
        self.assertEqual(self.five.state(task), "submitted")
        self.assertNotIn(task, self.middle.machine)
        self.assertNotIn(task, seven.machine)


class BadScheduler(Case):
    """The member that took the task is hostile, or broken."""

    def take_only(self) -> str:
        """`middle` takes the task, tells what a test sends by `say`, and nothing of its own."""
        self.said: list[StreamIO] = []

        def opened(stream: Any) -> None:
            io = StreamIO(stream, self.world.clock)
            Deferred.fromCoroutine(self.answer(io)).addErrback(lambda _: None)

        self.middle.host.protocols_served[PROTOCOL] = opened
        return self.submit()

    async def answer(self, io: StreamIO) -> None:
        question = decode(await io.read_delimited(1 << 21))
        if isinstance(question, Seek):
            await io.write_delimited(encode(Seen(question.agents)))
        elif isinstance(question, Take):
            await io.write_delimited(encode(Taken()))
            self.said.append(io)
        else:
            await io.write_delimited(encode(Declined("no", "I will not")))

    def say(self, message: Any) -> None:
        self.five.wait(Deferred.fromCoroutine(self.said[-1].write_delimited(encode(message))))
        self.world.settle()

    def view(self, state: str, **fields: Any) -> View:
        return View(state=state, attempt=1, updated_at=1.0, **fields)

    def test_an_attempt_that_never_ends_is_lost(self) -> None:
        task = self.take_only()
        self.say(self.view("running", agent=str(self.six.peer)))
        self.assertEqual(self.five.state(task), "running")
        spec = self.five.machine.get(task).spec
        self.over(OVERTIME * attempt_limit(spec, MAX_INPUT_BYTES) + 2)
        document = self.five.show(task)
        self.assertEqual((document["state"], document["reason"]), ("failed", "lease_lost"))
        self.assertIn("did not end it within its time limit", document["detail"])

    def test_a_task_that_waits_there_is_not_overdue(self) -> None:
        task = self.take_only()
        self.say(self.view("running"))
        self.say(self.view("submitted"))
        self.over(OVERTIME * attempt_limit(self.five.machine.get(task).spec, MAX_INPUT_BYTES) + 2)
        self.assertEqual(self.five.state(task), "submitted")

    def test_an_attempt_has_its_time_whatever_is_told_meanwhile(self) -> None:
        task = self.take_only()
        limit = OVERTIME * attempt_limit(self.five.machine.get(task).spec, MAX_INPUT_BYTES)
        for _ in range(4):
            self.say(self.view("running"))
            self.over(limit / 5)
            self.say(self.view("submitted"))
        self.over(limit / 4)
        self.assertEqual(self.five.state(task), "submitted")
        self.say(self.view("running"))
        self.over(2)
        self.assertEqual(self.five.show(task)["reason"], "lease_lost")

    def test_the_next_attempt_has_a_time_of_its_own(self) -> None:
        task = self.take_only()
        limit = OVERTIME * attempt_limit(self.five.machine.get(task).spec, MAX_INPUT_BYTES)
        self.say(self.view("running"))
        self.over(limit / 2)
        self.say(self.view("submitted"))
        self.say(attrs.evolve(self.view("running"), attempt=2))
        self.over(limit * 0.9)
        self.assertEqual(self.five.state(task), "running")
        self.over(limit / 4)
        self.assertEqual(self.five.show(task)["reason"], "lease_lost")

    def test_a_member_that_will_not_cancel_loses_the_task(self) -> None:
        task = self.take_only()
        cancelling = self.five.coordinator.cancel(task, "api", "enough")
        self.over(ANSWER_S + 1)
        self.successResultOf(cancelling)
        document = self.five.show(task)
        self.assertEqual(document["state"], "cancelled")
        self.assertIn("would not", document["detail"])
        self.assertEqual(self.five.handover._following, {})

    def test_a_member_that_is_long_silent_loses_the_task_when_it_is_cancelled(self) -> None:
        task = self.submit()
        self.world.cut(self.five, self.middle)
        self.over(1)
        self.assertIsInstance(self.five.refused(self.five.coordinator.cancel(task, "api", "enough")), SchedulerAway)
        self.over(ABANDON_S)
        self.five.cancel(task)
        self.assertIn("does not answer", self.five.show(task)["detail"])

    def test_what_it_tells_must_be_what_views_show(self) -> None:
        for message in (
            Event(1, "output", {"offset": 0, "text": "x"}),
            Event(1, "output", {"stream": [], "offset": 0, "text": "x"}),
            Event(1, "output", {"stream": "stdout", "offset": -1, "text": "x"}),
            Event(1, "output", {"stream": "stdout", "offset": 0}),
            Event(1, "output", {"stream": "stdout", "offset": 0, "base64": "*"}),
            Event(1, "output", {"stream": "stdout", "offset": 0, "text": "x", "base64": "eA=="}),
            Event(1, "state", {"state": [1]}),
            Event(1, "state", {"state": "running", "attempt": "1"}),
            Event(1, "state", {"state": "running", "agent": {}}),
            Event(1, "state", {"state": "submitted", "retry": {"number": 1}}),
            Event(1, "progress", {"phase": 1}),
            Event(1, "progress", {"phase": "x", "more": "y" * 10_000}),
            Event(1, "note", {}),
        ):
            self.assertRaises(HandoverError, decode, encode(message))
        for state in ("moved", "queued", "refused"):
            self.assertRaises(HandoverError, decode, encode(self.view(state)))

    def test_copies_wait_for_the_disk(self) -> None:
        self.take_only()
        self.five.store.slow = True
        for number in range(1, 80):
            self.say(Event(number, "progress", {"phase": "x", "more": "y" * 4000}))
        held = self.five.events._pending_bytes
        self.assertGreater(held, 79 * 4000)
        self.five.store.slow = False
        self.five.store.release()
        self.world.settle()
        self.assertEqual(self.five.events._pending_bytes, 0)

    def test_silence_about_whom_it_sees_delays_nobody_else(self) -> None:
        silent = self.world.node("silent")
        silent.host.protocols_served[PROTOCOL] = lambda stream: StreamIO(stream, self.world.clock)
        tasks = [self.five.submit("true", **SIX) for _ in range(5)]
        # Four of a kind in a round.
        self.over(2 * ROUND_S + SEEK_S + 1)
        for task in tasks:
            self.assertIn(task, self.middle.machine)


class Strangers(Case):
    """What a member may ask of another one's tasks."""

    def ask(self, node: Node, question: Any) -> Any:
        async def talk() -> Any:
            io = StreamIO(await node.host.open_stream(self.middle.peer, [PROTOCOL]), self.world.clock)
            await io.write_delimited(encode(question))
            try:
                return decode(await io.read_delimited(1 << 21))
            finally:
                io.reset()

        found = node.wait(Deferred.fromCoroutine(talk()))
        self.world.settle()
        return found

    def test_only_whom_it_sees_is_named(self) -> None:
        names = (str(self.six.peer), str(self.five.peer), "12D3KooWEuMkCc5oXuffpf9HRxZdEnHPJBBYH6pdKgkY6AnwwnXb")
        self.assertEqual(set(self.ask(self.five, Seek(names)).agents), set(names[:2]))

    def test_another_members_task_is_neither_told_nor_cancelled(self) -> None:
        task = self.submit()
        own = self.middle.submit("true")
        spec = self.middle.machine.get(task).spec
        for known in (task, own):
            for question in (Take(known, spec, "me", 0, False), CancelTaken(known, "me", "")):
                answer = self.ask(self.six, question)
                self.assertEqual((type(answer), answer.reason), (Declined, "unknown_task"))
        self.assertFalse(self.middle.machine.get(task).terminal)

    def test_a_specification_that_this_node_would_refuse_is_declined(self) -> None:
        for spec, reason in (
            ({"commands": ["true"], "limits": {"cpu": 10**6}}, "invalid_task"),
            ({"commands": "rm"}, "invalid_task"),
            ({"commands": ["true"], "input": {"sha256": "ab" * 32}}, ""),
        ):
            answer = self.ask(self.five, Take(ids.make(5.0, bytes), spec, "me", 0, False))
            self.assertIsInstance(answer, Declined)
            self.assertIn(reason, answer.reason)

    def test_one_member_hands_over_so_many(self) -> None:
        for number in range(MAX_TAKEN_PER_PEER):
            spec = {"commands": ["true"], "required": {"capabilities": ["nobody"]}}
            self.ask(self.five, Take(ids.make(10.0 + number, bytes), spec, "me", 0, False))
        answer = self.ask(self.five, Take(ids.make(9.0, bytes), {"commands": ["true"]}, "me", 0, False))
        self.assertEqual((type(answer), answer.reason), (Declined, "full"))
        self.assertEqual(len(self.middle.machine.unfinished()), MAX_TAKEN_PER_PEER)

    def take(self, number: int, **spec: Any) -> Any:
        return self.ask(self.five, Take(ids.make(10.0 + number, bytes), {"commands": ["true"], **spec}, "me", 0, False))

    def test_what_is_taken_at_the_same_time_counts(self) -> None:
        self.patch(handover_serving, "MAX_TAKEN_PER_PEER", 2)
        self.middle.blobs.hold = Deferred()
        blob = {"input": {"sha256": self.five.blobs.put(b"x")}}
        asked = [Deferred.fromCoroutine(self.talk(self.five, number, blob)) for number in range(4)]
        self.world.settle()
        refused = [self.successResultOf(each).reason for each in asked if each.called]
        self.assertEqual(refused, ["full", "full"])
        self.middle.blobs.hold.callback(None)
        self.world.settle()
        self.assertEqual([type(self.successResultOf(each)) for each in asked].count(Taken), 2)

    async def talk(self, node: Node, number: int, spec: Any) -> Any:
        io = StreamIO(await node.host.open_stream(self.middle.peer, [PROTOCOL]), self.world.clock)
        question = Take(ids.make(10.0 + number, bytes), {"commands": ["true"], **spec}, "me", 0, False)
        await io.write_delimited(encode(question))
        return decode(await io.read_delimited(1 << 21))

    def test_so_many_and_so_much_are_taken_in_a_day_ended_or_not(self) -> None:
        self.patch(handover_serving, "MAX_TAKEN_PER_DAY", 3)
        for number in range(3):
            self.assertIsInstance(self.take(number, **SIX), Taken)
            self.ask(self.five, CancelTaken(ids.make(10.0 + number, bytes), "me", ""))
        self.assertEqual(self.take(3).reason, "full")
        self.over(handover_serving.DAY_S)
        self.assertIsInstance(self.take(4, **SIX), Taken)

    def test_inputs_count_by_their_bytes(self) -> None:
        self.patch(handover_serving, "MAX_INPUT_PER_DAY", 10)
        for number, data in enumerate((b"123456", b"abcdef")):
            self.assertIsInstance(self.take(number, input={"sha256": self.five.blobs.put(data)}, **SIX), Taken)
        self.assertEqual(self.take(2, **SIX).reason, "full")

    def test_inputs_that_are_fetched_at_the_same_time_count(self) -> None:
        self.patch(handover_serving, "MAX_INPUT_PER_DAY", 10)
        self.middle.blobs.hold = Deferred()
        blobs = [{"input": {"sha256": self.five.blobs.put(data)}} for data in (b"123456", b"abcdef", b"third")]
        asked = [Deferred.fromCoroutine(self.talk(self.five, number, blob)) for number, blob in enumerate(blobs)]
        self.world.settle()
        self.middle.blobs.hold.callback(None)
        self.world.settle()
        kinds = [type(self.successResultOf(each)) for each in asked]
        self.assertEqual(kinds, [Taken, Taken, Declined])

    def test_a_task_is_told_in_one_conversation(self) -> None:
        task = self.submit()
        spec = dict(self.middle.machine.get(task).spec)
        for _ in range(5):
            self.assertIsInstance(self.ask(self.five, Take(task, spec, "me", 0, True)), Taken)
            self.over(2)
        self.assertLessEqual(len(self.middle.handover_serving._streams), 1)
