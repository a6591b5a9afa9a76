"""Who may say what about a task: each message of `/chorus/tasks/1.0.0`, at both ends, from a member whom the task does
not concern (docs/architecture.md, "Permissions in task conversations")."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attrs

from chorus.protocols.task_messages import (
    MESSAGES,
    PROTOCOL,
    Accept,
    Ack,
    Assign,
    Cancel,
    Continue,
    Decline,
    FrameBuffer,
    Message,
    Offer,
    Output,
    Progress,
    Released,
    Renew,
    Renewed,
    Result,
    Resume,
    Stale,
    Started,
    decode,
    encode,
)
from chorus.tasks import ids
from chorus.tasks.journal import Fence
from tests.services.task_kit import EPOCH, LEASE, Node, World, spec
from tests.support import PureTestCase

OTHER = ids.make(EPOCH + 7, bytes)
"""A task of the stranger's own."""
OTHER_FENCE = Fence(0, 9, 9)
RESULT = Result("exit", 0, "", "docker", None, 1.0, 2.0)


def everything(task: str, fence: Fence) -> list[Message]:
    """Every message, as far as it can name a task or a fence with those given."""
    return [
        Offer(task, 2, spec("true").to_json()),
        Accept(),
        Decline("full"),
        Assign(fence, LEASE),
        Started("docker"),
        Output("stdout", 0, b"forged"),
        Progress("testing"),
        Renew(1),
        Renewed(77),
        Cancel("because"),
        RESULT,
        Released("draining"),
        Resume(task, fence),
        Continue(0, 0, LEASE),
        Ack(),
        Stale(),
    ]


class Wire:
    """A stream that is written to without any protocol, and what came back."""

    def __init__(self, stranger: Node, node: Node) -> None:
        self.world = stranger.world
        self.closed = False
        self.heard: list[Message] = []
        self._frames = FrameBuffer()
        self.stream = stranger.wait(stranger.host.open_stream(node.peer, [PROTOCOL]))
        self.stream.set_receiver(self)

    def say(self, *messages: Message) -> None:
        for message in messages:
            if not self.closed:
                self.stream.write(encode(message))
            self.world.settle()

    def end(self) -> None:
        if not self.closed:
            self.stream.reset()
        self.world.settle()

    def data_received(self, data: bytes) -> None:
        self.heard += [decode(frame) for frame in self._frames.receive_data(data)]

    def eof_received(self) -> None:
        self.closed = True

    def stream_closed(self, error: Any) -> None:
        self.closed = True

    def pause_writing(self) -> None:
        pass

    def resume_writing(self) -> None:
        pass

    @property
    def came(self) -> str:
        """What became of it: the last answer, else how the stream stands."""
        return self.heard[-1].TYPE if self.heard else "reset" if self.closed else "silence"


FIRST_AT_EXECUTOR = {Offer: "decline", Resume: "stale"}
FIRST_AT_SCHEDULER = {Offer: "accept", Resume: "stale"}
"""What comes of a first message that is no fault as such; of every other a reset. A task's scheduler may itself execute
what others offer, under whatever id: that is another run, which has no part in its own task."""


class StrangersTest(PureTestCase):
    """A task of `scheduler` runs at `worker`; `stranger` is a third member that knows its id and fence."""

    def setUp(self) -> None:
        self.world = World(self)
        self.addCleanup(self.world.stop)
        self.scheduler = self.world.node("scheduler", max_tasks=1)
        self.worker = self.world.node("worker", expertise=("x",), max_tasks=3)
        self.stranger = self.world.node("stranger")
        self.stranger.visible = False
        self.task = self.scheduler.submit("sleep", required={"expertise": ["x"]})
        self.worker.engine.only().say("stdout", b"honest")
        self.world.settle()
        fence = self.scheduler.machine.get(self.task).fence
        assert fence is not None
        self.fence = fence
        self.run_here = self.worker.engine.only()
        self.before = self.seen()

    def seen(self) -> tuple[Any, ...]:
        document = self.scheduler.show(self.task)
        names = ("state", "attempt", "fence", "agent", "reason", "exit_code", "output", "artifacts")
        history = [(event.type, event.data) for event in self.scheduler.history(self.task)]
        return (*(document[name] for name in names), history, self.run_here.alive, self.run_here.killed_for)

    def untouched(self, message: Message, end: str) -> None:
        self.assertEqual(self.seen(), self.before, f"{message.TYPE} at the {end}")
        attempt = self.worker.executor._attempts[self.task, self.fence]
        self.assertTrue(attempt.executing and attempt.record.scheduler == self.scheduler.peer, message.TYPE)
        custody = self.scheduler.custodies.of(self.task)
        self.assertEqual((custody.agent, custody.collecting), (str(self.worker.peer), False), message.TYPE)

    def finish(self) -> None:
        self.run_here.finish(0)
        self.world.settle()
        self.assertEqual(self.scheduler.state(self.task), "completed")
        self.assertEqual(self.scheduler.output(self.task), "honest")

    def test_every_message_is_here(self) -> None:
        self.assertEqual([type(each) for each in everything(OTHER, OTHER_FENCE)], list(MESSAGES))

    def test_first_on_a_stream_to_the_executor(self) -> None:
        for message in everything(self.task, self.fence):
            wire = Wire(self.stranger, self.worker)
            wire.say(message)
            self.assertEqual(wire.came, FIRST_AT_EXECUTOR.get(type(message), "reset"), message.TYPE)
            wire.end()
            self.untouched(message, "executor")
        self.assertEqual(self.worker.executor.declined, {"other_scheduler": 1})
        self.finish()

    def test_first_on_a_stream_to_the_scheduler(self) -> None:
        for message in everything(self.task, self.fence):
            wire = Wire(self.stranger, self.scheduler)
            wire.say(message)
            self.assertEqual(wire.came, FIRST_AT_SCHEDULER.get(type(message), "reset"), message.TYPE)
            wire.end()
            self.untouched(message, "scheduler")
        self.finish()

    def test_in_a_conversation_of_its_own_with_the_executor(self) -> None:
        """As the scheduler of another task there; what it says is about that one, whatever it names."""
        for number, message in enumerate(everything(self.task, self.fence)):
            wire = Wire(self.stranger, self.worker)
            other = ids.make(EPOCH + 100 + number, bytes)
            wire.say(Offer(other, 1, spec("true").to_json()), Assign(Fence(0, 9, 10 + number), LEASE))
            self.assertEqual(wire.heard[0], Accept(), message.TYPE)
            wire.say(message)
            own = [each for each in self.worker.engine.containers.values() if each.job.task_id == other]
            if isinstance(message, Cancel | Stale):
                self.assertEqual(own, [], f"{message.TYPE} is the end of its own")
            else:
                self.assertTrue(wire.closed, message.TYPE)
            self.untouched(message, "executor")
            wire.end()
            for container in own:
                container.finish(0)
            self.world.settle()
            for key in [key for key in self.worker.executor._attempts if key[0] == other]:
                self.worker.executor._attempts[key].forget()
            self.world.settle()
        self.finish()

    def test_in_a_conversation_of_its_own_with_the_scheduler(self) -> None:
        """As the agent of another task of the same scheduler."""
        heard: list[Message] = []

        def offered(channel: Any, offer: Offer) -> None:
            self.channel = channel
            channel.heard = heard.append
            channel.send(Accept())

        self.stranger.streams.offered = offered
        self.stranger.visible = True
        self.stranger.profile = attrs.evolve(self.stranger.profile, expertise=("y",), max_tasks=99)
        for message in everything(self.task, self.fence):
            other = self.scheduler.submit("true", required={"expertise": ["y"]})
            self.assertEqual(self.scheduler.machine.get(other).agent, str(self.stranger.peer))
            self.channel.stream.write(encode(message))
            self.world.settle()
            self.untouched(message, "scheduler")
            if self.scheduler.state(other) not in ("completed", "failed"):
                self.scheduler.cancel(other)
                self.channel.reset()
                self.world.settle()
                self.scheduler.custodies.of(other) and self.scheduler.custodies.of(other).drop()
        self.finish()

    def test_a_second_assignment_under_the_same_name_is_handed_back(self) -> None:
        """Both schedulers were promised a place before either assigned; who came first keeps the name."""
        wires = []
        name = ids.make(EPOCH + 50, bytes)
        for node in (self.stranger, self.scheduler):
            wire = Wire(node, self.worker)
            wire.say(Offer(name, 1, spec("true").to_json()))
            self.assertEqual(wire.heard, [Accept()])
            wires.append(wire)
        for wire in wires:
            wire.say(Assign(OTHER_FENCE, LEASE))
        self.assertIsInstance(wires[0].heard[-1], Started | Renew)
        released = wires[1].heard[-1]
        assert isinstance(released, Released), released
        self.assertEqual(released.reason, "draining", "which counts against nobody")
        wires[1].say(Ack())
        (own,) = [each for each in self.worker.engine.containers.values() if each.job.task_id == name]
        self.assertTrue(own.alive)
        wires[0].say(Stale())
        self.assertFalse(own.alive)

    def test_its_own_scheduler_may_offer_it_again(self) -> None:
        """Then the attempt is void: the same scheduler would not offer what it has with this agent."""
        wire = Wire(self.scheduler, self.worker)
        wire.say(Offer(self.task, 2, spec("true").to_json()))
        self.assertEqual((wire.came, self.worker.executor.declined), ("decline", {"busy_with_it": 1}))
        self.assertFalse(self.run_here.alive)

    def test_a_stream_to_another_peer_than_asked_for_is_none(self) -> None:
        honest = self.worker.host.open_stream
        self.patch(self.worker.host, "open_stream", lambda peer, protocols: honest(self.stranger.peer, protocols))
        self.world.reset_streams(frozenset({self.scheduler.peer, self.worker.peer}))
        self.world.advance(3)
        self.assertEqual(self.stranger.streams._waiting, set())
        self.assertTrue(self.run_here.alive)
        self.patch(self.worker.host, "open_stream", honest)
        self.world.advance(10)
        self.finish()


class LeaseTest(PureTestCase):
    """A lease that no agent can keep is no assignment."""

    def setUp(self) -> None:
        self.world = World(self)
        self.addCleanup(self.world.stop)
        self.scheduler = self.world.node("scheduler")
        self.worker = self.world.node("worker")
        self.scheduler.visible = self.worker.visible = False

    def test_in_an_assignment(self) -> None:
        for lease in (0.0, 0.001, 2.9):
            wire = Wire(self.scheduler, self.worker)
            wire.say(Offer(OTHER, 1, spec("true").to_json()), Assign(OTHER_FENCE, lease))
            self.assertTrue(wire.closed, lease)
            self.assertEqual((self.worker.executor.current_tasks, self.worker.engine.started), (0, 0), lease)

    def test_in_a_continuation(self) -> None:
        said: list[float] = []

        def resumed(channel: Any, resume: Resume) -> None:
            said.append(self.world.clock.seconds())
            channel.send(Continue(0, 0, 0.0))

        wire = Wire(self.scheduler, self.worker)
        wire.say(Offer(OTHER, 1, spec("true").to_json()), Assign(OTHER_FENCE, LEASE))
        self.scheduler.streams.resumed = resumed
        wire.end()
        self.world.advance(LEASE)
        self.assertGreater(len(said), 1)
        self.assertLess(len(said), 12, "it asks again after the back-off, which grows")
        self.assertEqual(self.worker.engine.containers, {}, "its lease ends as it was given")
        (attempt,) = self.worker.executor._attempts.values()
        attempt.forget()
        self.world.settle()


class TableTest(PureTestCase):
    def test_the_table_in_the_documents_has_every_message_at_both_ends(self) -> None:
        text = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
        (section,) = re.findall(r"## Permissions in task conversations\n(.*?)\n## ", text, re.DOTALL)
        rows = [row.split("|")[1:-1] for row in section.splitlines() if row.startswith("| `")]
        found = [(name.strip().strip("`"), end.strip()) for name, end, *_ in rows]
        self.assertEqual(
            sorted(found), sorted((each.TYPE, end) for each in MESSAGES for end in ("executor", "scheduler"))
        )
