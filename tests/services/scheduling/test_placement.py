"""Placing: a backlog costs nothing, no step that fails stops it, who never answers is asked rarely."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any
from unittest import mock

from twisted.internet.defer import fail

from chorus.protocols.task_messages import Assign, Offer
from chorus.services.scheduling import custodies, placement
from chorus.services.scheduling.conduct import REST_S
from chorus.services.scheduling.offering import OFFER_S, SLOW_S
from chorus.services.task_streams import TaskChannel
from chorus.tasks import scoring
from chorus.tasks.groups import MAX_PLACING
from tests.services.task_kit import Node, World, missing
from tests.support import PureTestCase

NOBODY = {"required": {"role": "nobody"}}


class PlacingCase(PureTestCase):
    def setUp(self) -> None:
        self.world = World(self)
        self.addCleanup(self.world.stop)

    def submit(self, node: Node, number: int, **body: Any) -> list[str]:
        """Many at once, without waiting for each."""
        submitted = [node.coordinator.submit({"commands": ["true"], **body}, "api") for _ in range(number)]
        self.world.settle(20)
        return [str(self.successResultOf(each)["id"]) for each in submitted]

    def finish_all(self, node: Node) -> None:
        for container in list(node.engine.containers.values()):
            container.finish(0)

    def until_completed(self, node: Node, tasks: list[str], seconds: float = 120.0) -> None:
        end = self.world.clock.seconds() + seconds
        while self.world.clock.seconds() < end:
            self.finish_all(node)
            self.world.advance(0.25, step=0.05)
            if all(str(node.machine.get(task).state) == "completed" for task in tasks):
                return
        self.fail(f"after {seconds} s: {Counter(str(node.machine.get(task).state) for task in tasks)}")

    def assert_nothing_held(self, node: Node) -> None:
        self.assertEqual((node.rounds.placing, node.placement._backlog.placing), ({}, 0))
        self.assertEqual(node.rounds.offering._waiting, set())
        self.assertEqual(node.executor.current_tasks, 0)


class Steps:
    """Counts what placing does, by the role that the task asks for."""

    def __init__(self, case: PureTestCase) -> None:
        self.ranked: Counter[str | None] = Counter()
        self.scored: Counter[str | None] = Counter()
        self.compared = 0
        rank, score, lacks = scoring.rank, scoring.score, scoring.missing

        def counting_rank(spec: Any, *args: Any, **kwargs: Any) -> Any:
            self.ranked[spec.required.role] += 1
            return rank(spec, *args, **kwargs)

        def counting_score(spec: Any, *args: Any, **kwargs: Any) -> Any:
            self.scored[spec.required.role] += 1
            return score(spec, *args, **kwargs)

        def counting_missing(spec: Any, candidate: Any) -> Any:
            self.compared += 1
            return lacks(spec, candidate)

        for name, counting in (("rank", counting_rank), ("score", counting_score), ("missing", counting_missing)):
            patch = mock.patch.object(scoring, name, counting)
            patch.start()
            case.addCleanup(patch.stop)


class BacklogTest(PlacingCase):
    def fifty(self, name: str, waiting: int) -> tuple[Any, Any, int, Steps]:
        for other in self.world.nodes.values():
            other.visible = False
        node = self.world.node(name, max_tasks=4)
        worker = self.world.node(f"{name}-worker", max_tasks=4)
        self.submit(node, waiting, **NOBODY)
        self.world.advance(2)
        before = node.placement.offers
        steps = Steps(self)
        tasks = self.submit(node, 50)
        end = self.world.clock.seconds() + 60
        while self.world.clock.seconds() < end:
            for each in (node, worker):
                self.finish_all(each)
            self.world.advance(0.25, step=0.05)
        self.assertEqual({str(node.machine.get(task).state) for task in tasks}, {"completed"})
        self.assertEqual(len(node.placement._backlog), waiting)
        return steps.ranked[None], steps.scored[None], node.placement.offers - before, steps

    def test_two_thousand_that_nobody_can_take_cost_the_fifty_nothing(self) -> None:
        with_none = self.fifty("without", 0)
        with_many = self.fifty("with", 2000)
        self.assertEqual(with_many[:3], with_none[:3], "ranked, scored, offered")
        self.assertEqual(with_many[2], 50)
        self.assertLessEqual(with_many[3].ranked["nobody"], 1, "the agents are those that they were")
        self.assertEqual(with_many[3].scored["nobody"], 0)

    def test_they_share_one_group_and_leave_nothing_behind(self) -> None:
        node = self.world.node("alone")
        tasks = self.submit(node, 500, **NOBODY)
        self.world.advance(2)
        self.assertEqual((len(node.placement._backlog), node.placement._backlog.groups), (500, 1))
        for task in tasks:
            self.assertIn("the role nobody", node.show(task)["detail"])
            node.coordinator.cancel(task, "api", "")
        self.world.settle()
        self.assertEqual((len(node.placement._backlog), node.placement._backlog.groups), (0, 0))
        self.assertEqual(node.placement._backlog._parked, {})

    def test_they_are_there_again_after_a_restart_and_stop_nothing(self) -> None:
        node = self.world.node("alone", max_tasks=60)
        self.submit(node, 500, **NOBODY)
        node.kill()
        self.world.advance(1)
        node.restart()
        (task,) = self.submit(node, 1)
        self.world.advance(0.5, step=0.05)
        self.assertEqual(node.state(task), "running")
        self.world.advance(2)
        self.assertEqual(len(node.placement._backlog), 500)

    def test_each_is_told_why_once(self) -> None:
        node = self.world.node("alone")
        tasks = self.submit(node, 200, **NOBODY)
        self.world.advance(90)
        for task in tasks:
            self.assertEqual([each.type for each in node.history(task)], ["state", "note"])

    def test_one_who_can_take_them_has_them(self) -> None:
        node = self.world.node("alone")
        tasks = self.submit(node, 100, **NOBODY)
        self.world.advance(2)
        able = self.world.node("able", role="nobody", max_tasks=100)
        node.placement.agents_changed()
        self.world.advance(1, step=0.05)
        self.assertEqual(len(able.engine.containers), len(tasks))

    def test_what_everybody_declines_takes_no_place_from_others(self) -> None:
        """Hundreds that look as if somebody could take them, each with a back-off of its own."""
        node = self.world.node("alone", max_tasks=100)
        choose = node.engine.choose
        node.engine.choose = lambda job: fail(missing(job.image)) if job.image else choose(job)  # type: ignore[method-assign]
        for number in range(300):
            node.coordinator.submit({"commands": ["true"], "image": f"nope:{number}"}, "api")
        self.world.advance(60, step=1.0)
        before = node.placement.offers
        tasks = self.submit(node, 50)
        self.world.advance(0.2, step=0.05)
        self.assertEqual({node.state(task) for task in tasks}, {"running"})
        self.assertLess(node.placement.offers - before, 100)

    def test_a_turn_of_the_reactor_is_bounded_whatever_waits(self) -> None:
        node = self.world.node("alone")
        for number in range(1500):
            node.coordinator.submit({"commands": ["true"], "required": {"capabilities": [f"c{number}"]}}, "api")
        self.world.advance(5, step=0.05)
        self.assertEqual(node.placement._backlog.groups, 1500)
        steps, turns = Steps(self), []
        turn = node.placement._turn

        def counting() -> None:
            before = steps.compared
            turn()
            turns.append(steps.compared - before)

        node.placement._turns._due = counting
        for number in range(5):
            self.world.node(f"new-{number}")
            node.placement.agents_changed()
        self.world.advance(5, step=0.05)
        self.assertGreater(sum(turns), 1500, "each was looked at")
        self.assertLess(max(turns), 2 * placement.STEPS_A_TURN)

    def test_long_specifications_are_read_few_in_a_turn(self) -> None:
        node = self.world.node("alone")
        read, turns = placement.Demand.of, []

        def counting(spec: Any) -> Any:
            turns[-1] += 1
            return read(spec)

        turn = node.placement._turn

        def begun() -> None:
            turns.append(0)
            turn()

        node.placement._turns._due = begun
        with mock.patch.object(placement.Demand, "of", counting):
            for number in range(20):
                body = {"commands": ["true"], "title": str(number), "description": "x" * 65536, **NOBODY}
                node.coordinator.submit(body, "api")
            self.world.settle()
        self.assertEqual(sum(turns), 20)
        self.assertEqual(max(turns), 1)


Step = Callable[[Any], None]
TIMES = MAX_PLACING + 8
"""How often each step fails: more often than there are places."""


class Broken(Exception):
    pass


def failing(function: Callable[..., Any], when: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
    """The function, that fails at first."""
    left = [TIMES]

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if left[0] and when(*args):
            left[0] -= 1
            raise Broken
        return function(*args, **kwargs)

    return wrapped


class EachStepTest(PlacingCase):
    """Whatever raises, places and reservations come back, and placing goes on."""

    def hold(self, break_it: Step) -> None:
        node = self.world.node("alone", max_tasks=TIMES + 10)
        break_it(node)
        body = {"input": {"sha256": node.blobs.put(b"source")}}
        tasks = self.submit(node, TIMES, **body)
        self.until_completed(node, tasks, 400.0)
        self.world.advance(40, step=1.0)
        self.assert_nothing_held(node)
        self.flushLoggedErrors(Broken)

    def patch_object(self, target: Any, name: str, when: Callable[..., bool] = lambda *_: True) -> None:
        patch = mock.patch.object(target, name, failing(getattr(target, name), when))
        patch.start()
        self.addCleanup(patch.stop)

    def test_input(self) -> None:
        self.hold(lambda node: self.patch_object(node.custodies, "input_of"))

    def test_agents(self) -> None:
        # Each failure costs a second, since nothing can be placed without them.
        self.hold(lambda node: self.patch_object(node.placement, "_agents"))

    def test_rank(self) -> None:
        # Without an order nothing of the group can be tried, so it waits as a whole.
        left = [3]
        rank = scoring.rank

        def breaking(*args: Any, **kwargs: Any) -> Any:
            if left[0]:
                left[0] -= 1
                raise Broken
            return rank(*args, **kwargs)

        patch = mock.patch.object(scoring, "rank", breaking)
        patch.start()
        self.addCleanup(patch.stop)
        self.hold(lambda _: None)
        self.assertEqual(left, [0])

    def test_the_agents_place_comes_back_at_once(self) -> None:
        """Not only when its own patience ends."""
        for target, name in (("custodies", "assign"), ("rounds", "_assign"), ("rounds", "_ready")):
            node = self.world.node(f"node-{name}")
            for other in self.world.nodes.values():
                other.visible = other is node
            found = getattr(node, target)
            with mock.patch.object(found, name, mock.Mock(side_effect=Broken)):
                self.submit(node, 1)
                self.assertEqual((name, node.executor.current_tasks), (name, 0))
                self.assertEqual((node.rounds.placing, node.placement._backlog.placing), ({}, 0))
            self.flushLoggedErrors(Broken)

    def test_opening(self) -> None:
        self.hold(lambda node: self.patch_object(node.streams, "offer_to"))

    def test_sending_the_offer(self) -> None:
        self.hold(lambda _: self.patch_object(TaskChannel, "send", lambda _, message: isinstance(message, Offer)))

    def test_the_answer(self) -> None:
        def break_it(node: Any) -> None:
            left, offer_to = [TIMES], node.streams.offer_to

            def closing(peer: Any) -> Any:
                def broke(channel: Any) -> Any:
                    if left[0]:
                        left[0] -= 1
                        node.clock.callLater(0, lambda: channel.closed(Broken()))
                    return channel

                return offer_to(peer).addCallback(broke)

            node.streams.offer_to = closing

        self.hold(break_it)

    def test_assigning(self) -> None:
        self.hold(lambda node: self.patch_object(node.custodies, "assign"))

    def test_committing(self) -> None:
        self.hold(lambda node: self.patch_object(node.journal, "append", lambda entry: entry.kind == "task.assigned"))

    def test_taking_custody_of_what_is_committed(self) -> None:
        times = 20

        def break_it(node: Any) -> None:
            node.settings = None
            left, custody = [times], custodies.Custody

            def breaking(*args: Any) -> Any:
                if left[0]:
                    left[0] -= 1
                    raise Broken
                return custody(*args)

            patch = mock.patch.object(custodies, "Custody", breaking)
            patch.start()
            self.addCleanup(patch.stop)

        self.hold(break_it)

    def test_sending_the_assignment(self) -> None:
        """It is committed; its lease hands it on."""

        def break_it(_: Any) -> None:
            left, send = [20], TaskChannel.send

            def breaking(channel: Any, message: Any) -> Any:
                if isinstance(message, Assign) and left[0]:
                    left[0] -= 1
                    raise Broken
                return send(channel, message)

            patch = mock.patch.object(TaskChannel, "send", breaking)
            patch.start()
            self.addCleanup(patch.stop)

        self.hold(break_it)

    def test_logging(self) -> None:
        class Silent:
            def __getattr__(self, name: str) -> Any:
                raise Broken

        def break_it(node: Any) -> None:
            node.placement._log = Silent()
            self.patch_object(node.custodies, "input_of")

        self.hold(break_it)

    def test_the_events(self) -> None:
        def break_it(node: Any) -> None:
            self.patch_object(node.events, "append")
            self.patch_object(node.custodies, "input_of")

        self.hold(break_it)

    def test_reading_a_specification(self) -> None:
        node = self.world.node("alone", max_tasks=9)
        with mock.patch("chorus.services.scheduling.placement.Demand.of", side_effect=Broken):
            bad = self.submit(node, 3)
        good = self.submit(node, 3)
        self.assertEqual({node.state(task) for task in good}, {"running"})
        for task in bad:
            self.assertIn("cannot be read here", node.show(task)["detail"])
            node.cancel(task)
        self.finish_all(node)
        self.world.settle()
        self.assert_nothing_held(node)
        self.flushLoggedErrors(Broken)

    def test_no_turn_begins_inside_another(self) -> None:
        """As in the backlog that stopped all placing: every step completes at once."""
        node = self.world.node("alone", max_tasks=1)
        depth, deepest = [0], [0]
        turn = node.placement._turn

        def nested() -> None:
            depth[0] += 1
            deepest[0] = max(deepest[0], depth[0])
            self.assertEqual(depth[0], 1)
            turn()
            depth[0] -= 1

        node.placement._turns._due = nested
        node.engine.choose = lambda job: fail(missing("nope"))  # type: ignore[method-assign]
        self.submit(node, 400)
        for _ in range(100):
            node.placement.agents_changed()
            self.world.advance(0.5)
        self.assertEqual((depth, deepest), ([0], [1]))


class SilentTest(PlacingCase):
    def test_who_boasts_and_never_answers_costs_a_task_now_and_then(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        boaster = self.world.node("boaster", expertise=("x", "python"), specialization="python", max_tasks=1000)
        worker = self.world.node("worker", expertise=("x",), max_tasks=100)
        self.world.freeze(scheduler, boaster)
        body = {"required": {"expertise": ["x"]}, "language": "python"}
        waits = []
        for _ in range(20):
            begun = self.world.clock.seconds()
            (task,) = self.submit(scheduler, 1, **body)
            while scheduler.state(task) == "submitted":
                self.world.advance(0.5)
            self.assertEqual(scheduler.show(task)["agent_id"], "worker")
            waits.append(self.world.clock.seconds() - begun)
            self.world.advance(5)
        self.assertEqual(len(worker.engine.containers), 20)
        slow = [wait for wait in waits if wait >= SLOW_S]
        self.assertLessEqual(len(slow), 3, "after rests of 15, 30, 60 s")
        self.assertTrue(all(wait <= 1 for wait in waits if wait < SLOW_S), waits)

    def test_an_answer_ends_its_rest(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        worker = self.world.node("worker", expertise=("x",))
        self.world.freeze(scheduler, worker)
        task = scheduler.submit("true", required={"expertise": ["x"]})
        self.world.advance(OFFER_S + 1)
        self.assertEqual(scheduler.state(task), "submitted")
        self.assertIn("no answer to offers from worker", scheduler.show(task)["detail"])
        self.world.heal(scheduler, worker)
        self.world.advance(REST_S + 6)
        self.assertEqual(scheduler.state(task), "running")
        self.assertEqual(scheduler.placement._conduct._silent, {})
