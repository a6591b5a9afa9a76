"""What a custody does with its conversation at the odd moments: an end out of turn, a cancel that crosses a result."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from chorus.protocols.task_messages import Accept, Ack, Assign, Message, Offer, Output, Progress, Renew, Result, Stale
from tests.services.task_kit import LEASE, World
from tests.support import PureTestCase

RESULT = Result("exit", 0, "all well", "docker", None, 1.0, 2.0)


class ConversationCase(PureTestCase):
    """A scheduler, and an agent whose side the test speaks by hand."""

    def setUp(self) -> None:
        self.world = World(self)
        self.addCleanup(self.world.stop)
        self.scheduler = self.world.node("scheduler", max_tasks=1)
        self.agent = self.world.node("agent", expertise=("x",))
        self.heard: list[Message] = []
        self.ended: list[Any] = []
        self.agent.streams.offered = self.offered
        self.task = self.scheduler.submit("true", required={"expertise": ["x"]})

    def offered(self, channel: Any, offer: Offer) -> None:
        self.channel = channel
        channel.heard = self.heard.append
        channel.closed = self.ended.append
        channel.send(Accept())

    @property
    def custody(self) -> Any:
        return self.scheduler.custodies.of(self.task)

    def say(self, message: Message) -> None:
        self.channel.send(message)
        self.world.settle()

    def hold_commits(self) -> None:
        self.scheduler.store.slow = True

    def release_commits(self) -> None:
        self.scheduler.store.release()
        self.world.settle()


class LastWordTest(ConversationCase):
    def test_in_turn_it_is_said_and_ends_the_conversation(self) -> None:
        self.custody.drop(Stale())
        self.world.settle()
        self.assertIsInstance(self.heard[-1], Stale)
        self.assertEqual((self.ended, self.custody), ([None], None))
        self.agent.streams.offered = None

    def test_out_of_turn_the_conversation_is_broken_off(self) -> None:
        """`ack` answers a result alone: an agent that waits for one must not wait on."""
        self.custody.drop(Ack())
        self.world.settle()
        self.assertNotIsInstance(self.heard[-1], Ack)
        self.assertEqual(len(self.ended), 1)
        self.assertIsNotNone(self.ended[0])
        self.assertIsNone(self.custody)
        self.agent.streams.offered = None

    def test_without_a_word_it_is_broken_off(self) -> None:
        self.custody.drop()
        self.world.settle()
        self.assertIsInstance(self.heard[-1], Assign)
        self.assertIsNotNone(self.ended[0])
        self.agent.streams.offered = None

    def test_a_silent_agent_hears_that_it_is_not_its_task_any_more(self) -> None:
        self.agent.visible = False
        self.world.advance(LEASE + 2)
        self.assertIsInstance(self.heard[-1], Stale)
        self.assertEqual(self.scheduler.state(self.task), "submitted")


class CrossingTest(ConversationCase):
    """A result on its way into the journal, and a cancel that is committed before it."""

    def cross(self, result: Message = RESULT) -> None:
        self.hold_commits()
        cancelled = self.scheduler.coordinator.cancel(self.task, "api", "enough")
        self.say(result)
        self.release_commits()
        self.assertEqual(self.scheduler.wait(cancelled)["state"], "cancelled")

    def test_its_remains_are_collected_and_acknowledged(self) -> None:
        self.cross()
        document = self.scheduler.show(self.task)
        self.assertEqual((document["state"], document["exit_code"]), ("cancelled", 0))
        self.assertEqual(self.scheduler.machine.get(self.task).result["detail"], "all well")  # type: ignore[index]
        self.assertIsInstance(self.heard[-1], Ack)
        self.assertEqual(self.ended, [None])

    def test_a_result_that_comes_after_the_task_went_elsewhere_is_stale(self) -> None:
        """Nothing is cancelled here, and nothing is collected: the other end of the same branch."""
        self.agent.visible = False
        self.hold_commits()
        self.world.advance(LEASE + 2)
        self.say(RESULT)
        self.release_commits()
        state = self.scheduler.machine.get(self.task)
        self.assertEqual((state.state, state.result), ("submitted", None))
        self.assertIsInstance(self.heard[-1], Stale)

    def test_a_lease_that_ends_while_a_cancel_is_committed_is_not_collected(self) -> None:
        self.hold_commits()
        cancelled = self.scheduler.coordinator.cancel(self.task, "api", "enough")
        self.world.advance(LEASE + 2)
        self.release_commits()
        self.assertEqual(self.scheduler.wait(cancelled)["state"], "cancelled")
        self.assertIsInstance(self.heard[-1], Stale)
        self.assertIsNone(self.custody)

    def test_what_is_said_after_the_cancel_is_passed_over(self) -> None:
        self.scheduler.cancel(self.task)
        count = len(self.scheduler.history(self.task))
        self.say(Output("stdout", 0, b"late"))
        self.say(Progress("late"))
        self.assertEqual(len(self.scheduler.history(self.task)), count)
        self.say(Renew(1))
        self.say(RESULT)
        self.assertIsInstance(self.heard[-1], Ack)


class HeldChannelTest(ConversationCase):
    def test_a_resumed_conversation_takes_the_place_of_the_one_before(self) -> None:
        from chorus.protocols.task_messages import Continue, Resume

        task = self.scheduler.machine.get(self.task)
        assert task.fence is not None
        resumed: Deferred[Any] = self.agent.streams.resume_at(self.scheduler.peer)
        channel = self.agent.wait(resumed)
        said: list[Message] = []
        channel.heard = said.append
        channel.send(Resume(self.task, task.fence))
        self.world.settle()
        self.assertIsInstance(said[-1], Continue)
        self.assertEqual(len(self.ended), 1, "the older one is broken off")
        channel.send(RESULT)
        self.world.settle()
        self.assertEqual((said[-1], self.scheduler.state(self.task)), (Ack(), "completed"))
