"""What one member can make an executor hold: places that it was promised, ended runs that it does not acknowledge."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from chorus.protocols.task_messages import (
    Accept,
    Ack,
    Assign,
    Cancel,
    Decline,
    InputBlob,
    Message,
    Offer,
    Released,
    Stale,
)
from chorus.services.execution import offers, owed
from chorus.services.execution.attempt import KEEP_OUTCOME_S
from chorus.services.execution.owed import Owed
from chorus.services.execution.reservations import (
    BINDING_S,
    BOUND_RATE,
    BOUND_S,
    LAPSED_S,
    MAX_SCHEDULERS,
    Reservations,
)
from chorus.services.execution.run import RAN_S
from chorus.services.scheduling.placement import POLL_S
from chorus.tasks import ids
from chorus.tasks.journal import Fence
from tests.services.task_kit import EPOCH, LEASE, Node, World, spec
from tests.support import PureTestCase

A_DAY = 86_400.0


class ReservationsTest(PureTestCase):
    def accepted(self, places: Reservations, key: object, peer: object, now: float) -> None:
        places.promise(key, peer)
        places.accept(key, now)

    def binds(self, places: Reservations, peer: object, now: float) -> bool:
        """Whether `peer` gets a promise that binds, which it uses at once."""
        before = places.taken(now)
        self.accepted(places, "probe", peer, now)
        bound = places.taken(now) > before
        places.use("probe", now)
        return bound

    def test_a_promise_takes_a_place_from_everybody_for_a_second(self) -> None:
        places = Reservations(3)
        places.promise("one", "a")
        self.assertEqual((places.taken(99.0), places.taken_from("b", 99.0)), (0, 0), "it is looked at")
        self.assertEqual((places.taken_from("a", 99.0), places.taken_from("a", 99.0, but="one")), (1, 0))
        places.accept("one", 100.0)
        for now, taken in ((100.0, 1), (100.0 + BINDING_S - 0.01, 1), (100.0 + BINDING_S, 0)):
            self.assertEqual((places.taken(now), places.taken_from("b", now)), (taken, taken), now)
            self.assertEqual(places.taken_from("a", now), 1, "from itself it is taken until it ends")
        self.assertEqual(places.use("one", 101.0), 100.0)
        self.assertEqual((len(places), places.taken_from("a", 200.0)), (0, 0))

    def test_of_one_peer_half_of_the_places_bind_and_one_at_least(self) -> None:
        for places, share in ((1, 1), (2, 1), (3, 1), (4, 2), (8, 4)):
            found = Reservations(places)
            for key in range(places):
                self.accepted(found, key, "a", 0.0)
            self.assertEqual((found.taken_from("b", 0.0), found.taken_from("a", 0.0)), (share, places))

    def test_who_let_one_lapse_gets_none_that_binds_for_a_while(self) -> None:
        for end in ("given up", "used for nothing"):
            places = Reservations(4)
            self.accepted(places, "before", "a", 0.0)
            self.accepted(places, "lapses", "a", 0.0)
            if end == "given up":
                self.assertTrue(places.give_up("lapses", 0.5))
            else:
                places.use("lapses", 0.1)
                places.lapse("a", 0.5)
            self.assertEqual(places.taken_from("b", 0.5), 1, "what was promised before stays as it is")
            places.use("before", 0.5)
            for now, binds in ((0.5, False), (0.5 + LAPSED_S - 0.1, False), (0.5 + LAPSED_S, True)):
                self.assertEqual(self.binds(places, "a", now), binds, (end, now))
                self.assertTrue(self.binds(places, "b", now))

    def test_an_offer_that_was_declined_after_all_is_no_lapse(self) -> None:
        places = Reservations(2)
        places.promise("looked at", "a")
        self.assertTrue(places.give_up("looked at", 5.0))
        self.assertTrue(self.binds(places, "a", 6.0))
        self.assertFalse(places.give_up("unknown", 6.0))

    def test_whatever_they_lead_to_the_time_for_which_they_bind_is_bounded(self) -> None:
        for number, share in ((1, 1), (8, 4)):
            places = Reservations(number)
            held, now, turns = 0.0, 0.0, 10_000
            for turn in range(turns):
                self.accepted(places, "it", "a", now)
                now += 0.9
                held += 0.9 * places.taken(now)
                places.use("it", now)
                if turn == 5:
                    self.assertAlmostEqual(held, 6 * 0.9, msg="at a stretch it may be long")
            self.assertLessEqual(held, (BOUND_S + BOUND_RATE * now) * share)
            self.assertGreater(held, min(0.9, BOUND_RATE * share) * now * 0.9)

    def test_quick_assignments_are_never_bounded(self) -> None:
        places = Reservations(1)
        now = 0.0
        for turn in range(10_000):
            self.accepted(places, "it", "a", now)
            self.assertEqual(places.taken(now), 1, turn)
            places.use("it", now + 0.009)
            now += 0.1

    def test_memory_of_schedulers_is_bounded(self) -> None:
        places = Reservations(1)
        for number in range(MAX_SCHEDULERS + 10):
            self.accepted(places, "key", number, 0.0)
            places.give_up("key", 0.0)
        self.assertEqual(len(places._schedulers), MAX_SCHEDULERS)
        self.assertTrue(self.binds(places, 0, 0.0), "the oldest is forgotten")
        self.assertFalse(self.binds(places, MAX_SCHEDULERS, 0.0))

    def test_its_numbers(self) -> None:
        self.assertEqual((BINDING_S, LAPSED_S, offers.ASSIGN_S), (1.0, 60.0, 10.0))
        self.assertEqual((BOUND_S, BOUND_RATE, MAX_SCHEDULERS), (10.0, 0.1, 1000))


class OwedTest(PureTestCase):
    def refused(self, own: Owed, others: Owed = Owed()) -> bool:  # noqa: B008 - a frozen value
        found: Any = {"own": own, "other": others}
        return owed.excess(found, "own") is not None  # type: ignore[arg-type]

    def test_each_limit_at_its_boundary(self) -> None:
        mib = 1024 * 1024
        for own, others, refused in (
            (Owed(), Owed(), False),
            (Owed(63, 0), Owed(), False),
            (Owed(64, 0), Owed(), True),
            (Owed(1, 256 * mib - 1), Owed(), False),
            (Owed(1, 256 * mib), Owed(), True),
            (Owed(1, 0), Owed(510, 0), False),
            (Owed(1, 0), Owed(511, 0), True),
            (Owed(1, mib), Owed(400, 1023 * mib - 1), False),
            (Owed(1, mib), Owed(400, 1023 * mib), True),
            (Owed(), Owed(9999, 9999 * mib), False),
        ):
            self.assertEqual(self.refused(own, others), refused, (own, others))

    def test_summed_up_by_scheduler(self) -> None:
        ended: Any = [("a", 5), ("b", 1), ("a", 7)]
        self.assertEqual(owed.by_scheduler(ended), {"a": Owed(2, 12), "b": Owed(1, 1)})


class Talker:
    """A member that leads conversations by hand, as a scheduler that keeps to the protocol as far as it likes."""

    def __init__(self, node: Node, worker: Node) -> None:
        self.node = node
        self.worker = worker
        self.number = 0

    def offer(self, **body: Any) -> tuple[Any, Message]:
        self.number += 1
        channel = self.node.wait(self.node.streams.offer_to(self.worker.peer))
        channel.said = []
        channel.heard = channel.said.append
        channel.task = ids.make(EPOCH + 1000 + self.number, bytes)
        channel.send(Offer(channel.task, 1, {**spec().to_json(), **body}))
        self.node.world.settle()
        return channel, channel.said[-1]

    def assign(self, channel: Any) -> None:
        channel.send(Assign(Fence(0, 5, self.number), LEASE))
        self.node.world.settle()


class SharesCase(PureTestCase):
    places = 3

    def setUp(self) -> None:
        self.world = World(self)
        self.addCleanup(self.world.stop)
        self.scheduler = self.world.node("scheduler", max_tasks=1)
        self.worker = self.world.node("worker", expertise=("x",), max_tasks=self.places)
        self.member = self.world.node("member")
        self.member.visible = False
        self.hostile = Talker(self.member, self.worker)

    def submit(self) -> str:
        return self.scheduler.submit("true", required={"expertise": ["x"]})


class PromisesTest(SharesCase):
    def test_who_offers_and_never_assigns_keeps_nobody_out(self) -> None:
        for _ in range(self.places):
            self.assertEqual(self.hostile.offer()[1], Accept())
        self.assertEqual(self.hostile.offer()[1].TYPE, "decline", "itself it has all that it can have")
        task = self.submit()
        self.assertEqual(self.scheduler.state(task), "running", "at once")

    def test_nor_by_doing_it_again_and_again(self) -> None:
        for turn in range(40):
            for _ in range(self.places):
                self.hostile.offer()
            task = self.submit()
            self.assertEqual(self.scheduler.state(task), "running", turn)
            self.worker.engine.only().finish(0)
            self.world.advance(0.4)
        self.assertLess(self.worker.executor.current_tasks, self.places)

    def test_nor_by_hanging_up(self) -> None:
        for turn in range(20):
            channels = [self.hostile.offer()[0] for _ in range(self.places)]
            task = self.submit()
            self.assertEqual(self.scheduler.state(task), "running", turn)
            for channel in channels:
                channel.reset()
            self.worker.engine.only().finish(0)
            self.world.settle()

    def test_a_place_that_went_to_another_is_handed_back_at_no_cost(self) -> None:
        channels = [self.hostile.offer()[0] for _ in range(self.places)]
        self.world.advance(BINDING_S)
        tasks = [self.submit() for _ in range(self.places)]
        self.assertEqual([self.scheduler.state(task) for task in tasks], ["running"] * self.places)
        self.hostile.assign(channels[0])
        released = channels[0].said[-1]
        assert isinstance(released, Released), released
        self.assertEqual(released.reason, "draining")
        self.assertEqual(len(self.worker.engine.containers), self.places)
        channels[0].send(Ack())

    def test_a_late_assignment_finds_its_place_if_nobody_took_it(self) -> None:
        channel, _ = self.hostile.offer()
        self.world.advance(offers.ASSIGN_S - 1)
        self.hostile.assign(channel)
        self.assertEqual(self.worker.engine.only().job.task_id, channel.task)
        channel.send(Stale())
        self.world.settle()

    def test_others_hear_that_a_place_is_free_again(self) -> None:
        heard: list[int] = []
        self.patch(self.worker.executor, "_changed", lambda: heard.append(self.worker.executor.current_tasks))
        self.hostile.offer()
        self.assertEqual(heard, [1])
        self.world.advance(BINDING_S)
        self.assertEqual(heard, [1, 0])
        self.world.advance(offers.ASSIGN_S)
        self.assertEqual(len(self.worker.executor._offers._promises), 0)

    def test_two_promises_for_one_task_lead_to_one_run(self) -> None:
        first, _ = self.hostile.offer()
        second = self.member.wait(self.member.streams.offer_to(self.worker.peer))
        second.said = []
        second.heard = second.said.append
        second.send(Offer(first.task, 1, spec().to_json()))
        self.world.settle()
        self.assertEqual(second.said, [Accept()])
        self.hostile.assign(first)
        self.hostile.number += 1
        self.hostile.assign(second)
        self.assertEqual(second.said[-1].TYPE, "released")
        second.send(Ack())
        third, _ = self.hostile.offer()
        self.assertEqual(self.worker.executor.current_tasks, 1, "the run; no promise of it binds any more")
        third.reset()
        first.send(Stale())
        self.world.settle()


class OnePlaceTest(SharesCase):
    places = 1

    def test_it_is_kept_from_others_for_a_second_and_once(self) -> None:
        self.hostile.offer()
        task = self.submit()
        self.assertEqual(self.scheduler.state(task), "submitted")
        # Nobody tells the scheduler here that the place is free: it looks again by itself.
        self.world.advance(BINDING_S + POLL_S)
        self.assertEqual(self.scheduler.state(task), "running")
        self.worker.engine.only().finish(0)
        self.world.advance(offers.ASSIGN_S)
        for _ in range(5):
            self.hostile.offer()
            task = self.submit()
            self.assertEqual(self.scheduler.state(task), "running", "it lets its promises lapse")
            self.worker.engine.only().finish(0)
            self.world.settle()


class AssignedForNothingTest(SharesCase):
    """One place, which is assigned each time shortly before the promise ends, and nothing ever runs in it."""

    places = 1

    def setUp(self) -> None:
        super().setUp()
        sha = self.member.blobs.put(b"never seen")
        self.input = InputBlob(sha, 10)
        self.assigned = 0

    def promised(self, **more: Any) -> Any:
        """A channel with a promise, or with what was said instead."""
        self.hostile.number += 1
        channel = self.member.wait(self.member.streams.offer_to(self.worker.peer))
        channel.said = []
        channel.heard = channel.said.append
        channel.task = more.get("task", ids.make(EPOCH + 1000 + self.hostile.number, bytes))
        channel.send(Offer(channel.task, 1, spec().to_json(), self.input))
        self.world.settle()
        return channel

    def bad_lease(self, channel: Any) -> None:
        channel.send(Assign(Fence(0, 5, self.hostile.number), 1e-6))

    def late_and_bad(self, channel: Any) -> None:
        self.world.advance(BINDING_S)
        self.bad_lease(channel)

    def cancelled(self, channel: Any) -> None:
        self.hostile.assign(channel)
        channel.send(Cancel("no"))
        self.world.settle()
        if channel.may_send(Ack):
            channel.send(Ack())

    def stale(self, channel: Any) -> None:
        self.hostile.assign(channel)
        channel.send(Stale())

    def hung_up(self, channel: Any) -> None:
        channel.reset()

    def offered_again(self, channel: Any) -> None:
        """The offer of a task that executes voids its attempt."""
        self.hostile.assign(channel)
        again = self.promised(task=channel.task)
        self.assertEqual(again.said[-1].TYPE, "decline")

    def assert_honest_is_heard(self, way: str) -> None:
        task = self.submit()
        self.assertEqual(self.scheduler.state(task), "running", way)
        self.worker.engine.only().finish(0)
        self.world.settle()

    def test_each_way_counts_as_a_lapse(self) -> None:
        for way in (self.bad_lease, self.late_and_bad, self.cancelled, self.stale, self.hung_up, self.offered_again):
            self.worker.blobs.hold = Deferred()
            channel = self.promised()
            self.assertEqual(channel.said, [Accept()], way.__name__)
            self.world.advance(0.5)
            way(channel)
            self.world.settle()
            self.assertEqual(self.worker.executor._offers.executing, 0, way.__name__)
            self.worker.blobs.hold = None
            again = self.promised()
            self.assertEqual(again.said, [Accept()], way.__name__)
            self.assertEqual(self.worker.executor.current_tasks, 0, way.__name__)
            self.assert_honest_is_heard(way.__name__)
            again.reset()
            self.world.advance(LAPSED_S)

    def test_a_repetition_of_what_is_here_already(self) -> None:
        first = self.promised()
        fence = Fence(0, 5, 1)
        self.input = None  # type: ignore[assignment]
        first.send(Assign(fence, LEASE))
        self.world.settle()
        self.worker.engine.only().finish(0)
        self.world.settle()
        again = self.promised(task=first.task)
        self.assertEqual(again.said, [Accept()])
        self.assertEqual(self.worker.executor.current_tasks, 1)
        again.send(Assign(fence, LEASE))
        self.world.settle()
        third = self.promised()
        self.assertEqual(self.worker.executor.current_tasks, 0)
        self.assert_honest_is_heard("repeated")
        third.reset()
        for attempt in list(self.worker.executor._attempts.values()):
            attempt.forget()
        self.world.settle()

    def test_one_that_comes_late_and_finds_its_place_taken(self) -> None:
        channel = self.promised()
        self.world.advance(BINDING_S)
        task = self.submit()
        self.assertEqual(self.scheduler.state(task), "running")
        self.hostile.assign(channel)
        self.assertEqual(channel.said[-1].TYPE, "released")
        channel.send(Ack())
        self.worker.engine.only().finish(0)
        self.world.settle()
        again = self.promised()
        self.assertEqual(self.worker.executor.current_tasks, 0)
        self.assert_honest_is_heard("late")
        again.reset()

    def test_an_offer_that_is_looked_at_takes_no_place(self) -> None:
        looking: list[Deferred[Any]] = []
        choose = self.worker.engine.choose

        def slowly(job: Any) -> Any:
            if job.task_id not in mine:
                return choose(job)
            looking.append(Deferred())
            return looking[-1].addCallback(lambda _: choose(job))

        mine = [ids.make(EPOCH + 500, bytes)]
        self.patch(self.worker.engine, "choose", slowly)
        channel = self.promised(task=mine[0])
        self.assertEqual((channel.said, len(looking)), ([], 1))
        task = self.submit()
        self.assertEqual(self.scheduler.state(task), "running")
        looking[0].callback(None)
        self.world.settle()
        (declined,) = channel.said
        self.assertEqual((declined.TYPE, declined.reason), ("decline", "full"))
        self.worker.engine.only().finish(0)
        self.world.settle()

    def test_a_run_counts_that_ends_by_itself_or_is_stopped_after_a_while(self) -> None:
        self.input = None  # type: ignore[assignment]
        for how, seconds, counts in (
            ("exit", 0.0, True),
            ("cancel", RAN_S + 0.1, True),
            ("stale", RAN_S + 0.1, True),
            ("cancel", RAN_S - 0.2, False),
            ("stale", 0.0, False),
            ("cancel", 0.0, False),
        ):
            channel = self.promised()
            self.assertEqual(self.worker.executor.current_tasks, 1, (how, seconds))
            self.hostile.assign(channel)
            self.world.advance(seconds, step=0.1)
            if how == "exit":
                self.worker.engine.only().finish(0)
            else:
                channel.send(Cancel("a person changed their mind") if how == "cancel" else Stale())
            self.world.settle()
            if how != "stale":
                channel.send(Ack())
                self.world.settle()
            again = self.promised()
            self.assertEqual(self.worker.executor.current_tasks, int(counts), (how, seconds))
            self.hostile.assign(again)
            self.worker.engine.only().finish(0)
            self.world.settle()
            again.send(Ack())
            self.world.advance(0.0 if counts else LAPSED_S)

    def test_a_restart_of_the_agent_is_nobodys_lapse(self) -> None:
        self.worker.blobs.hold = Deferred()
        channel = self.promised()
        self.hostile.assign(channel)
        self.member.streams.resumed = None
        self.worker.kill()
        self.worker.restart()
        self.world.settle()
        self.worker.blobs.hold = None
        self.input = None  # type: ignore[assignment]
        again = self.promised()
        self.assertEqual((again.said, self.worker.executor.current_tasks), ([Accept()], 1))
        again.reset()
        for attempt in list(self.worker.executor._attempts.values()):
            attempt.forget()
        self.world.settle()


class UnacknowledgedTest(SharesCase):
    """A scheduler that assigns and never acknowledges."""

    def ends(self, output: bytes = b"", artifacts: dict[str, bytes] | None = None) -> Message:
        """One more run of its ends; the answer to its offer."""
        channel, answer = self.hostile.offer()
        if isinstance(answer, Accept):
            self.hostile.assign(channel)
            container = self.worker.engine.only()
            if output:
                container.say("stdout", output)
            container.finish(0, artifacts=artifacts)
            self.world.settle()
        return answer

    def forget_all(self) -> None:
        for attempt in list(self.worker.executor._attempts.values()):
            attempt.forget()
        self.world.settle()

    def test_their_number_is_bounded(self) -> None:
        self.patch(owed, "MAX_RUNS", 4)
        answers = [self.ends() for _ in range(6)]
        self.assertEqual([each.TYPE for each in answers], ["accept"] * 4 + ["decline"] * 2)
        assert isinstance(answers[-1], Decline)
        self.assertEqual(answers[-1].reason, "unacknowledged")
        self.assertIn("keeps 4 ended runs", answers[-1].detail)
        self.assertEqual(self.worker.executor.unacknowledged, 4, "and none is dropped")
        self.assertEqual(self.scheduler.state(self.submit()), "running", "others have no part in it")
        self.worker.engine.only().finish(0)
        self.world.settle()
        self.forget_all()
        self.assertEqual(self.ends(), Accept(), "acknowledged, it is heard again")
        self.forget_all()

    def test_output_and_artifacts_count(self) -> None:
        self.patch(owed, "MAX_BYTES", 1000)
        self.assertEqual(self.ends(output=b"o" * 400), Accept())
        self.assertEqual(self.ends(artifacts={"it": b"a" * 599}), Accept())
        self.assertEqual(self.worker.executor._offers.owed, {self.member.peer: Owed(2, 999)})
        self.assertEqual(self.ends(output=b"!"), Accept())
        self.assertEqual(self.ends().TYPE, "decline")
        self.forget_all()

    def test_and_still_do_after_a_restart(self) -> None:
        self.patch(owed, "MAX_BYTES", 1000)
        self.ends(output=b"o" * 500, artifacts={"it": b"a" * 500})
        self.member.streams.resumed = None
        self.worker.kill()
        self.worker.restart()
        self.assertEqual(self.worker.executor._offers.owed, {self.member.peer: Owed(1, 1000)})
        self.assertEqual(self.ends().TYPE, "decline")
        self.forget_all()

    def test_above_the_limit_of_all_who_owes_nothing_is_still_heard(self) -> None:
        self.patch(owed, "MAX_RUNS_IN_ALL", 2)
        self.ends()
        self.ends()
        self.assertEqual(self.ends().TYPE, "decline")
        self.assertEqual(self.scheduler.state(self.submit()), "running")
        self.worker.engine.only().finish(0)
        self.world.settle()
        self.forget_all()

    def test_nothing_but_the_output_is_kept_on_the_disk(self) -> None:
        self.ends(output=b"said", artifacts={"it": b"made"})
        left = [path.name for path in (self.worker.directory / "runs").rglob("*") if path.is_file()]
        self.assertEqual(left, ["stdout"])
        self.forget_all()

    def test_an_honest_scheduler_that_was_down_for_days_gets_its_result(self) -> None:
        self.patch(owed, "MAX_RUNS", 1)
        task = self.submit()
        self.scheduler.kill()
        self.worker.engine.only().say("stdout", b"all of it")
        self.worker.engine.only().finish(0, artifacts={"it": b"made"})
        self.world.advance(6 * A_DAY, step=600.0)
        self.scheduler.restart()
        self.world.settle()
        document = self.scheduler.show(task)
        self.assertEqual((document["state"], document["attempt"]), ("completed", 1))
        self.assertEqual([row["path"] for row in document["artifacts"]], ["it"])
        self.assertEqual(self.worker.executor.unacknowledged, 0)

    def test_its_numbers(self) -> None:
        mib = 1024 * 1024
        self.assertEqual((owed.MAX_RUNS, owed.MAX_BYTES), (64, 256 * mib))
        self.assertEqual((owed.MAX_RUNS_IN_ALL, owed.MAX_BYTES_IN_ALL), (512, 1024 * mib))
        self.assertEqual(KEEP_OUTCOME_S, 7 * A_DAY)
