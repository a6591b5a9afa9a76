"""A blob that somebody names, or is about to, is not removed: asking and removing are one step."""

from __future__ import annotations

import hashlib
from typing import Any

from twisted.internet.defer import Deferred, fail

from chorus.services.blobs.named import NamedBlobs
from chorus.services.blobs.service import ROOM_AGE_S
from chorus.services.blobs.serving import BlobLimits
from chorus.store import blobs as table
from chorus.store.errors import StoreUnavailable
from chorus.store.pins import Pin
from chorus.tasks.spec import SpecError
from tests.services.blobs.test_service import BlobCase
from tests.services.blobs.test_service import Node as BlobNode
from tests.services.task_kit import EPOCH, Node, World
from tests.support import PureTestCase

DAYS = 86400.0


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class NamedTest(PureTestCase):
    def test_counted_by_who_names_it(self) -> None:
        named = NamedBlobs()
        with named.claim(["a", "b", "a"]):
            with named.claim(["a"]):
                self.assertIn("a", named)
            self.assertIn("a", named)
        self.assertNotIn("a", named)
        self.assertEqual(named._count, {})


class RemovalTest(BlobCase):
    def test_named_or_brought_meanwhile_it_stays(self) -> None:
        node = BlobNode(self, 1)
        for data, before, named, stays in (
            (b"unused", 1e9 - 1, False, False),
            (b"named", 1e9 - 1, True, True),
            (b"brought again", 1e9 - 1, False, True),
        ):
            self.successResultOf(node.blobs.put_bytes(data))
            if stays and not named:
                self.successResultOf(node.blobs.put_bytes(data))
            removed = node.blobs.remove_unused(sha(data), before, lambda named=named: named)
            self.assertEqual(self.successResultOf(removed), not stays)
            self.assertEqual(node.blobs.path_of(sha(data)) is not None, stays)

    def test_nearly_full_it_loses_the_longest_unused_that_nobody_needs(self) -> None:
        node = BlobNode(self, 1, BlobLimits(max_store=1000))
        refs = []
        for number in range(6):
            refs.append(self.successResultOf(node.blobs.put_bytes(bytes([number]) * 160)).sha256)
            self.run_for(1, 1)
        pinned, named, young = refs[0], refs[1], refs[5]
        pin = Pin(pinned, "decision", "", 160)
        self.assertTrue(self.successResultOf(Deferred.fromCoroutine(node.blobs.pins.put(pin))))
        self.assertEqual(self.successResultOf(node.blobs.make_room(lambda _: False)), 0, "none is old enough")
        self.run_for(ROOM_AGE_S, 3600)
        node.blobs.here(young, 1000)
        gone = self.successResultOf(node.blobs.make_room(lambda sha256: sha256 == named))
        self.assertEqual((gone, node.blobs.used), (1, 800))
        left = [sha256 for sha256 in refs if node.blobs.size_of(sha256) is not None]
        self.assertEqual(left, [pinned, named, *refs[3:5], young])
        again = node.restarted()
        self.assertIn(pinned, again.blobs.pins)
        again.stop()

    def test_from_the_moment_of_asking_nobody_finds_it(self) -> None:
        """Whatever the removal then waits for: who comes meanwhile is told the truth."""
        node = BlobNode(self, 1)
        self.successResultOf(node.blobs.put_bytes(b"old"))
        write, waiting = node.blobs._store.write, Deferred()
        node.blobs._store.write = lambda work: waiting.addCallback(lambda _: write(work))
        removed = node.blobs.remove_unused(sha(b"old"), 1e12, lambda: False)
        self.assertNoResult(removed)
        self.assertIsNone(self.successResultOf(node.blobs.stat(sha(b"old"))))
        node.blobs._store.write = write
        waiting.callback(None)
        self.assertTrue(self.successResultOf(removed))
        self.assertEqual(node.blobs.used, 0)

    def test_a_removal_that_fails_leaves_it(self) -> None:
        node = BlobNode(self, 1)
        self.successResultOf(node.blobs.put_bytes(b"old"))
        write = node.blobs._store.write
        node.blobs._store.write = lambda work: fail(StoreUnavailable("the disk is full"))
        self.failureResultOf(node.blobs.remove_unused(sha(b"old"), 1e12, lambda: False), StoreUnavailable)
        node.blobs._store.write = write
        self.assertIsNotNone(self.successResultOf(node.blobs.stat(sha(b"old"))))


class RetentionTest(PureTestCase):
    def setUp(self) -> None:
        self.world = World(self)
        self.addCleanup(self.world.stop)

    def old_blobs(self, node: Node, number: int) -> list[str]:
        names = [node.blobs.put(b"old %d" % each) for each in range(number)]
        for name in names:
            node.wait(node.store.write(lambda c, s=name: table.insert(c, s, 1, b"[]", EPOCH - 40 * DAYS)))
        return names

    def slowly(self, node: Node) -> list[str]:
        """Removals take a turn of the reactor each; returns what was removed."""
        removed: list[str] = []
        remove = node.blobs.remove_unused

        def slow(sha256: str, before: float, named: Any) -> Deferred[bool]:
            later: Deferred[bool] = Deferred()
            node.clock.callLater(0, lambda: remove(sha256, before, named).chainDeferred(later))
            removed.append(sha256)
            return later

        node.blobs.remove_unused = slow  # type: ignore[method-assign]
        return removed

    def test_submissions_meanwhile_have_their_input_or_are_refused(self) -> None:
        node = self.world.node("alone", max_tasks=500)
        names = self.old_blobs(node, 120)
        self.slowly(node)
        round_ = Deferred.fromCoroutine(node.retention.round())
        accepted, refused = [], 0
        for name in reversed(sorted(names)):
            body = {"commands": ["true"], "input": {"sha256": name}}
            submitted = node.coordinator.submit(body, "api")
            self.world.clock.advance(0)
            if isinstance(submitted.result, dict):
                accepted.append(name)
            else:
                self.failureResultOf(submitted, SpecError)
                refused += 1
        self.world.settle(400)
        self.successResultOf(round_)
        self.assertGreater(len(accepted), 0)
        self.assertGreater(refused, 0)
        self.assertEqual([name for name in accepted if node.blobs.get(name) is None], [])

    def test_one_under_way_to_the_journal_has_its_input(self) -> None:
        node = self.world.node("alone")
        (name,) = self.old_blobs(node, 1)
        node.store.slow = True
        submitted = node.coordinator.submit({"commands": ["true"], "input": {"sha256": name}}, "api")
        self.assertNoResult(submitted)
        node.wait(Deferred.fromCoroutine(node.retention._remove_blobs([], self.world.wall() - 30 * DAYS)))
        node.store.release()
        self.world.settle()
        self.assertIsNotNone(node.blobs.get(name))
        self.assertEqual(self.successResultOf(submitted)["state"], "submitted")

    def test_what_a_result_names_again_stays(self) -> None:
        """The content of an artifact may have been here for long."""
        scheduler = self.world.node("scheduler", max_tasks=1)
        worker = self.world.node("worker", expertise=("x",))
        (name,) = self.old_blobs(scheduler, 1)
        task = scheduler.submit("true", required={"expertise": ["x"]})
        scheduler.blobs.hold = Deferred()
        worker.engine.only().finish(0, artifacts={"old": b"old 0", "new": b"new"})
        self.world.settle()
        self.assertEqual(scheduler.state(task), "running", "one of its blobs is still on its way")
        scheduler.wait(Deferred.fromCoroutine(scheduler.retention._remove_blobs([], self.world.wall() - 30 * DAYS)))
        worker.blobs.remove(name)
        scheduler.blobs.hold.callback(None)
        self.world.settle()
        self.assertEqual(scheduler.state(task), "completed")
        self.assertIsNotNone(scheduler.blobs.get(name))
        self.assertIn(name, scheduler.context.named)

    def test_names_are_known_after_a_restart_and_forgotten_with_the_task(self) -> None:
        node = self.world.node("alone")
        source = node.blobs.put(b"source")
        task = node.submit("true", input={"sha256": source})
        node.engine.only().finish(0, artifacts={"a": b"artifact"})
        self.world.settle()
        expected = {source: 1, sha(b"artifact"): 1}
        self.assertEqual(dict(node.context.named._count), expected)
        node.kill()
        node.restart()
        self.assertEqual(dict(node.context.named._count), expected)
        self.world.advance(31 * DAYS, step=3600.0)
        self.assertNotIn(task, node.machine)
        self.assertEqual(node.context.named._count, {})

    def test_a_round_that_takes_long_is_not_begun_twice(self) -> None:
        node = self.world.node("alone")
        begun: list[Deferred[list[str]]] = []

        def known() -> Deferred[list[str]]:
            begun.append(Deferred())
            return begun[-1]

        node.retention._context.stored.known_tasks = known  # type: ignore[method-assign]
        self.world.advance(4 * 3600.0, step=600.0)
        self.assertEqual(len(begun), 1)
        begun[0].callback([])
        self.world.advance(3600.0, step=600.0)
        self.assertEqual(node.retention.errors, 0)
