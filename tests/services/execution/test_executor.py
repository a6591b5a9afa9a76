"""The executor's side: admission, execution, drain, restart, delivery."""

from __future__ import annotations

import errno
import hashlib
from typing import Any
from unittest import mock

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogLevel, capturedLogs

from chorus.protocols.task_messages import (
    MAX_OUTPUT,
    PROTOCOL,
    Accept,
    Assign,
    Decline,
    InputBlob,
    Message,
    Offer,
    Output,
    Released,
    Renew,
    Resume,
    Stale,
    encode,
)
from chorus.sandbox.contract import OutputEntry
from chorus.sandbox.files import volumes
from chorus.services.blobs.files import BlobStoreFull, BlobStoreShort, DiskFull
from chorus.services.execution import offers as offers_module
from chorus.services.execution.attempt import ERASE_RETRY_S, ERASE_TRIES, KEEP_OUTCOME_S
from chorus.services.execution.executor import ASSIGN_S
from chorus.services.scheduling.collection import FETCH_S
from chorus.services.task_streams import FIRST_MESSAGE_S
from chorus.store import blobs as blob_table
from chorus.store.errors import StoreFull
from chorus.tasks import ids
from chorus.tasks.journal import Fence
from chorus.tasks.terms import Limits, Reason
from tests.services.task_kit import EPOCH, LEASE, Node, Ref, World, missing, spec, unavailable
from tests.support import PureTestCase

TASK = ids.make(EPOCH, bytes)
FENCE = Fence(0, 1, 5)


def _recursion(*_: Any) -> Any:
    raise RecursionError("maximum recursion depth exceeded")


def _refusing(calls: list[int], error: Exception) -> Any:
    def refuse(*_: Any) -> None:
        calls.append(1)
        raise error

    return refuse


class ExecutorCase(PureTestCase):
    def setUp(self) -> None:
        self.world = World(self)
        self.addCleanup(self.world.stop)

    def talk(self, scheduler: Node, worker: Node) -> Any:
        """A conversation that the test leads by hand as the scheduler."""
        channel = scheduler.wait(scheduler.streams.offer_to(worker.peer))
        channel.said = []
        channel.ended = []
        channel.heard = channel.said.append
        channel.closed = channel.ended.append
        return channel

    def offer(
        self, channel: Any, task: str = TASK, attempt: int = 1, blob: InputBlob | None = None, **body: Any
    ) -> Message:
        channel.send(Offer(task, attempt, {**spec().to_json(), **body}, blob))
        self.world.settle()
        return channel.said[-1]

    def assign(self, channel: Any, fence: Fence = FENCE) -> None:
        channel.send(Assign(fence, LEASE))
        self.world.settle()


class OneWorkerCase(ExecutorCase):
    """A scheduler, and the one worker that can run its tasks."""

    def setUp(self) -> None:
        super().setUp()
        self.scheduler = self.world.node("scheduler", max_tasks=1)
        self.worker = self.world.node("worker", expertise=("x",))

    def submit(self, **body: Any) -> str:
        return self.scheduler.submit("true", required={"expertise": ["x"]}, **body)


class AdmissionTest(ExecutorCase):
    def setUp(self) -> None:
        super().setUp()
        self.scheduler = self.world.node("scheduler")
        self.worker = self.world.node(
            "worker", max_tasks=2, role="builder", expertise=("Python",), capabilities=("gpu",), maximum=Limits()
        )

    def declined(self, **body: Any) -> str:
        answer = self.offer(self.talk(self.scheduler, self.worker), **body)
        assert isinstance(answer, Decline), answer
        self.assertIn(
            "worker",
            answer.detail + "worker" * (answer.reason in {"image_missing", "sandbox_unavailable", "unusable_spec"}),
        )
        return answer.reason

    def test_what_is_required_is_there(self) -> None:
        required = {"role": "builder", "expertise": ["python"], "capabilities": ["GPU"]}
        self.assertIsInstance(self.offer(self.talk(self.scheduler, self.worker), required=required), Accept)

    def test_reasons(self) -> None:
        self.assertEqual(self.declined(required={"role": "boss"}), "wrong_role")
        self.assertEqual(self.declined(required={"expertise": ["python", "rust"]}), "missing_expertise")
        self.assertEqual(self.declined(required={"capabilities": ["tpu"]}), "missing_capabilities")
        self.assertEqual(self.declined(limits={"memory_mb": 999_999}), "over_limits")
        self.assertEqual(self.declined(comands=["true"]), "unusable_spec")
        self.assertEqual(self.declined(commands=[], ai={"model": "m"}), "no_model")
        self.worker.engine.refuse = unavailable()
        self.assertEqual(self.declined(), "sandbox_unavailable")
        self.worker.engine.refuse = missing()
        self.assertEqual(self.declined(), "image_missing")
        self.worker.executor.draining = True
        self.assertEqual(self.declined(), "draining")
        self.assertEqual(sum(self.worker.executor.declined.values()), 9)
        self.assertEqual(self.worker.executor.current_tasks, 0)

    def test_a_machine_that_is_short_of_something_takes_nothing_new(self) -> None:
        self.worker.blocked_by = ("no_disk", "/data has 3 MiB free")
        task = self.scheduler.submit("true", required={"expertise": ["python"]})
        self.world.advance(60, 5)
        document = self.scheduler.show(task)
        self.assertEqual((document["state"], document["attempt"]), ("submitted", 0))
        self.assertIn("worker: /data has 3 MiB free", document["detail"])
        self.worker.blocked_by = None
        self.world.advance(60, 5)
        self.assertEqual(self.scheduler.state(task), "running")

    def test_places_promised_count(self) -> None:
        channels = [self.talk(self.scheduler, self.worker) for _ in range(3)]
        answers = [self.offer(channel, ids.make(EPOCH + n, bytes)) for n, channel in enumerate(channels)]
        self.assertIsInstance(answers[1], Accept)
        self.assertEqual(getattr(answers[2], "reason", None), "full")
        channels[0].reset()
        self.world.settle()
        self.assertEqual(self.worker.executor.current_tasks, 1)

    def test_limit_remembered_declines(self) -> None:
        remembered = self.worker.executor._offers._last_declined
        self.assertEqual(remembered.most, offers_module.MAX_REMEMBERED)
        remembered.most = 3
        for number in range(5):
            self.offer(self.talk(self.scheduler, self.worker), ids.make(EPOCH + number, bytes), required={"role": "x"})
        self.assertEqual(len(remembered), 3)

    def test_a_place_is_not_kept_for_ever(self) -> None:
        channel = self.talk(self.scheduler, self.worker)
        self.assertIsInstance(self.offer(channel), Accept)
        self.world.advance(ASSIGN_S + 1)
        self.assertEqual(self.worker.executor.current_tasks, 0)
        self.assertEqual(len(channel.ended), 1)

    def test_an_image_that_only_the_input_can_tell_is_decided_later(self) -> None:
        self.worker.engine.refuse = missing()
        self.assertIsInstance(self.offer(self.talk(self.scheduler, self.worker), blob=InputBlob("ab" * 32, 5)), Accept)

    def test_peers_without_the_right_are_refused(self) -> None:
        class Nobody:
            def role_of(self, peer_id: str) -> str:
                return "agent"

            def may(self, peer_id: str, action: str) -> bool:
                return action != "task.assign"

        self.worker.roles = Nobody()
        self.worker.kill()
        self.worker.restart()
        channel = self.talk(self.scheduler, self.worker)
        channel.send(Offer(TASK, 1, spec().to_json()))
        self.world.settle()
        self.assertEqual((channel.said, len(channel.ended)), ([], 1))

    def test_the_same_assignment_twice_runs_once(self) -> None:
        first = self.talk(self.scheduler, self.worker)
        self.offer(first)
        self.assign(first)
        self.assertEqual(self.worker.engine.started, 1)
        second = self.talk(self.scheduler, self.worker)
        answer = self.offer(second)
        self.assertEqual(getattr(answer, "reason", None), "busy_with_it")
        self.world.settle()
        self.assertEqual(self.worker.engine.containers, {}, "the scheduler offers it again: the old attempt is void")


class ExecutionTest(OneWorkerCase):
    def test_the_run_is_durable_before_the_sandbox_starts(self) -> None:
        self.worker.blobs.hold = Deferred()
        self.submit(input={"sha256": self.scheduler.blobs.put(b"source")})
        self.assertEqual(self.worker.engine.started, 0)
        rows = self.worker.wait(self.worker.executor._place.runs.all())
        self.assertEqual([row.scheduler for row in rows], [self.scheduler.peer])
        self.worker.blobs.hold.callback(None)
        self.world.settle()
        self.assertEqual(self.worker.engine.started, 1)

    def test_an_input_that_cannot_be_had_moves_the_task(self) -> None:
        blob = self.scheduler.blobs.put(b"source")
        self.worker.blobs.hold = Deferred()
        task = self.submit(input={"sha256": blob})
        self.scheduler.blobs.remove(blob)
        self.worker.blobs.hold.callback(None)
        self.world.settle()
        document = self.scheduler.show(task)
        self.assertEqual(document["state"], "submitted")
        self.assertEqual(self.scheduler.machine.get(task).reason, "sandbox_unavailable")
        self.assertEqual(self.worker.executor.unacknowledged, 0)

    def test_an_input_over_the_limit_is_not_fetched(self) -> None:
        self.submit(input={"sha256": self.scheduler.blobs.put(b"x" * (10**6 + 1))})
        self.assertEqual((self.worker.blobs.fetched, self.worker.engine.started), ([], 0))

    def test_a_bad_archive_fails_the_task_once_and_for_all(self) -> None:
        task = self.submit(input={"sha256": self.scheduler.blobs.put(b"bad")})
        document = self.scheduler.show(task)
        self.assertEqual((document["state"], document["reason"], document["attempt"]), ("failed", "refused", 1))
        self.assertIn("no archive", document["detail"])
        self.assertEqual(self.worker.engine.started, 0)

    def test_the_files_of_the_input_say_the_language(self) -> None:
        self.submit(input={"sha256": self.scheduler.blobs.put(b"go")})
        self.assertEqual(self.worker.engine.only().job.language, "go")

    def test_an_image_missing_after_the_assignment_names_it(self) -> None:
        self.worker.blobs.hold = Deferred()
        task = self.submit(input={"sha256": self.scheduler.blobs.put(b"source")})
        self.worker.engine.refuse = missing("chorus-go-dev")
        self.worker.blobs.hold.callback(None)
        self.world.settle()
        self.assertEqual(self.scheduler.machine.get(task).reason, "image_missing")
        self.assertIn("chorus-go-dev", str(self.scheduler.show(task)["detail"]))

    def test_names_of_artifacts_that_are_no_unicode_or_too_long(self) -> None:
        task = self.submit()
        self.worker.engine.only().finish(0, artifacts={"ok": b"1", "bad\udcff": b"2", "long" * 1000: b"3"})
        self.world.settle()
        document = self.scheduler.show(task)
        self.assertEqual(document["state"], "completed")
        self.assertEqual([row["path"] for row in document["artifacts"]], ["ok", "bad?"])
        self.assertEqual(len(document["artifacts_skipped"]), 1)

    def test_more_artifacts_than_one_result_holds(self) -> None:
        task = self.submit()
        names = {f"{'d' * 200}/{n}": b"x" for n in range(1200)}
        self.worker.engine.only().finish(0, artifacts=names)
        self.world.settle()
        document = self.scheduler.show(task)
        self.assertEqual(document["state"], "completed")
        self.assertLess(len(document["artifacts"]), 1001)
        self.assertGreater(len(document["artifacts"]), 500)
        self.assertTrue(document["artifacts_skipped"])

    def test_everything_that_is_left_out_is_counted(self) -> None:
        """In the sandbox, where a result is full, and where the store refuses: one number, and the first reasons."""
        task = self.submit()
        self.worker.engine.only().say("stdout", b"x" * 9)
        self.worker.engine.only().say("stderr", b"y" * 3)
        self.worker.blobs.largest = 5
        made = {"big": b"1" * 6, "fits": b"1" * 5, "long" * 1000: b"2"}
        reasons = tuple(f"{n}: a link that leads out" for n in range(100))
        self.worker.engine.only().finish(0, artifacts=made, skipped=reasons, skipped_total=450)
        self.world.settle()
        document = self.scheduler.show(task)
        self.assertEqual(document["state"], "completed")
        self.assertEqual([row["path"] for row in document["artifacts"]], ["fits"])
        self.assertEqual(document["output"]["stderr"]["sha256"], hashlib.sha256(b"yyy").hexdigest(), "each by itself")
        self.assertEqual(document["output"]["stdout"], {"bytes": 9, "sha256": None})
        self.assertEqual((document["artifacts_skipped"], document["artifacts_skipped_total"]), (list(reasons), 453))

    def test_what_is_too_large_for_a_blob_is_named(self) -> None:
        task = self.submit()
        self.worker.engine.only().say("stdout", b"x" * 9)
        self.worker.blobs.largest = 5
        self.worker.engine.only().finish(0, artifacts={"big": b"1" * 6})
        self.world.settle()
        limit = "the most is 5 bytes (CHORUS_MAX_BLOB_MB of the agent)"
        self.assertEqual(
            self.scheduler.show(task)["artifacts_skipped"],
            [f"big: the blob has 6 bytes; {limit}", f"stdout: the blob has 9 bytes; {limit}"],
        )

    def test_modes_times_links_and_folders_arrive(self) -> None:
        task = self.submit()
        entries = (OutputEntry("l", "ok", 0o777, 5.5), OutputEntry("empty", None, 0o750, 6.0))
        self.worker.engine.only().finish(0, artifacts={"ok": b"1"}, mode=0o755, mtime=1e9 + 0.25, entries=entries)
        self.world.settle()
        document = self.scheduler.show(task)
        digest = hashlib.sha256(b"1").hexdigest()
        row = {"path": "ok", "sha256": digest, "size": 1, "mode": 0o755, "mtime": 1e9 + 0.25}
        self.assertEqual(document["artifacts"], [row])
        folder = {"path": "empty", "mode": 0o750, "mtime": 6.0}
        self.assertEqual(document["entries"], [{"path": "l", "target": "ok", "mode": 0o777, "mtime": 5.5}, folder])
        self.assertEqual((document["artifacts_skipped_total"], document["artifacts_absent"]), (0, 0))

    def test_no_names_make_a_result_too_large_to_send(self) -> None:
        """Control characters are six bytes each on the wire."""
        task = self.submit()
        names = {f"{chr(1) * 1000}{n:03}": b"x" for n in range(300)}
        entries = tuple(OutputEntry(f"{n:03}{chr(2) * 900}", chr(3) * 900, 0o777, 0.0) for n in range(300))
        reasons = tuple(f"{n}{chr(4) * 2000}" for n in range(100))
        self.worker.engine.only().finish(0, artifacts=names, entries=entries, skipped=reasons)
        self.world.settle()
        document = self.scheduler.show(task)
        self.assertEqual(document["state"], "completed")
        kept = len(document["artifacts"]) + len(document["entries"])
        self.assertGreater(kept, 50)
        self.assertEqual(document["artifacts_skipped_total"], 100 + 600 - kept)
        self.assertGreater(len(document["artifacts_skipped"]), 5)

    def test_results_wait_for_a_store_that_refuses(self) -> None:
        task = self.submit()
        self.worker.store.full = True
        self.worker.engine.only().finish(0)
        self.world.advance(5)
        self.assertEqual(self.scheduler.state(task), "running", "nothing is sent that is not durable")
        self.world.advance(4 * LEASE, 5)
        self.assertEqual(self.scheduler.state(task), "running", "and it is still this agent's")
        self.worker.store.full = False
        self.world.advance(5)
        document = self.scheduler.show(task)
        self.assertEqual((document["state"], document["attempt"], self.worker.engine.started), ("completed", 1, 1))

    def wait_for_the_store(self) -> str:
        """A task that has ended, and whose outcome the store refuses."""
        task = self.submit()
        self.worker.store.full = True
        self.worker.engine.only().finish(0, artifacts={"it": b"made"})
        self.world.advance(2)
        return task

    def test_an_outcome_that_waits_for_the_store_is_the_agents_over_reconnections(self) -> None:
        task = self.wait_for_the_store()
        for _ in range(3):
            self.world.cut(self.scheduler, self.worker)
            self.world.advance(LEASE / 2)
            self.world.heal(self.scheduler, self.worker)
            self.world.advance(2 * LEASE, 5)
        self.worker.store.full = False
        self.world.advance(5)
        document = self.scheduler.show(task)
        self.assertEqual((document["state"], document["attempt"], self.worker.engine.started), ("completed", 1, 1))

    def test_cancelled_while_its_outcome_waits_for_the_store(self) -> None:
        """Its remains are collected all the same, however long the store and the network take."""
        task = self.wait_for_the_store()
        self.scheduler.cancel(task)
        self.world.advance(2 * LEASE, 5)
        self.world.cut(self.scheduler, self.worker)
        self.world.advance(5)
        self.world.heal(self.scheduler, self.worker)
        self.world.advance(2 * LEASE, 5)
        self.assertEqual(self.worker.executor.leases_lost, 0)
        self.worker.store.full = False
        self.world.advance(5)
        document = self.scheduler.show(task)
        self.assertEqual((document["state"], [row["path"] for row in document["artifacts"]]), ("cancelled", ["it"]))
        self.assertEqual(len(self.worker.executor._attempts), 0)

    def test_killed_by_a_cancel_and_waiting_for_the_store(self) -> None:
        task = self.submit()
        self.worker.store.full = True
        self.scheduler.cancel(task)
        self.world.advance(4 * LEASE, 5)
        self.assertEqual((self.worker.executor.current_tasks, self.worker.executor.leases_lost), (1, 0))
        self.worker.store.full = False
        self.world.advance(5)
        document = self.scheduler.show(task)
        self.assertEqual(
            (document["state"], [row["path"] for row in document["artifacts"]]), ("cancelled", ["partial.txt"])
        )

    def test_an_outcome_that_waits_for_the_store_ends_with_its_lease(self) -> None:
        """The task goes elsewhere, and the place is free, whether or not there is ever space again."""
        for cancelled in (False, True):
            task = self.wait_for_the_store()
            if cancelled:
                self.scheduler.cancel(task)
            self.world.cut(self.scheduler, self.worker)
            self.world.advance(LEASE + 10)
            self.assertEqual(self.worker.executor.current_tasks, 0)
            self.assertEqual(self.scheduler.state(task), "cancelled" if cancelled else "submitted")
            self.world.heal(self.scheduler, self.worker)
            self.world.advance(2)
            self.assertEqual(len(self.worker.executor._attempts), 0)
            self.worker.store.full = False
            self.world.advance(10)
            if not cancelled:
                self.worker.engine.only().finish(0)
                self.world.advance(1)
                self.assertEqual(self.scheduler.state(task), "completed")
                self.assertGreater(self.scheduler.show(task)["attempt"], 1)

    def test_an_outcome_that_waits_for_the_store_is_handed_back_by_an_agent_that_stops(self) -> None:
        task = self.wait_for_the_store()
        drained = self.worker.executor.drain(10)
        self.world.advance(11)
        self.successResultOf(drained)
        self.assertEqual(self.scheduler.state(task), "submitted")
        self.assertEqual(self.scheduler.machine.get(task).reason, "draining")

    def test_an_outcome_that_nobody_wants_waits_no_longer(self) -> None:
        task = self.wait_for_the_store()
        self.scheduler.cancel(task)
        self.scheduler.custodies.of(task).drop(Stale())
        self.world.advance(1)
        self.assertEqual((len(self.worker.executor._attempts), self.worker.executor.current_tasks), (0, 0))

    def test_a_lease_lost_while_a_result_is_collected_ends_the_wait_that_follows(self) -> None:
        task = self.submit()
        storing: Deferred[Any] = Deferred()
        self.patch(self.worker.blobs, "put_file", lambda path: storing)
        self.worker.engine.only().finish(0, artifacts={"it": b"made"})
        self.world.settle()
        self.world.cut(self.scheduler, self.worker)
        self.world.advance(LEASE + 10)
        self.assertEqual(self.worker.executor.current_tasks, 1, "what is being collected is worth its end")
        self.worker.store.full = True
        storing.callback(Ref("ab" * 32, 4))
        self.world.advance(1)
        self.assertEqual(self.worker.executor.current_tasks, 0)
        self.assertEqual(self.scheduler.state(task), "submitted")

    def test_a_result_waits_for_a_full_disk_and_loses_nothing(self) -> None:
        for refusal in (DiskFull("full"), BlobStoreShort("no descriptors"), StoreFull("full")):
            task = self.submit()
            self.worker.engine.only().say("stdout", b"said")
            self.worker.blobs.refuse = refusal
            with capturedLogs() as said:
                self.worker.engine.only().finish(0, artifacts={"it": b"made"})
                self.world.advance(90, 5)
            self.assertEqual(self.scheduler.state(task), "running", refusal)
            self.assertEqual([e["event"] for e in said if e["log_level"] is LogLevel.error], ["task.result_waits"])
            self.worker.blobs.refuse = None
            self.world.advance(5)
            document = self.scheduler.show(task)
            self.assertEqual((document["state"], document["attempt"]), ("completed", 1))
            self.assertEqual([row["path"] for row in document["artifacts"]], ["it"])
            self.assertEqual(document["output"]["stdout"]["sha256"], hashlib.sha256(b"said").hexdigest())

    def test_what_no_waiting_mends_is_named_and_left_out(self) -> None:
        task = self.submit()
        self.worker.blobs.refuse = BlobStoreFull("over the quota")
        self.worker.engine.only().finish(0, artifacts={"it": b"made"})
        self.world.advance(2)
        document = self.scheduler.show(task)
        self.assertEqual((document["state"], document["artifacts_skipped"]), ("completed", ["it: over the quota"]))

    def test_a_result_that_waits_is_handed_back_by_an_agent_that_stops(self) -> None:
        task = self.submit()
        self.worker.blobs.refuse = DiskFull("full")
        self.worker.engine.only().finish(0, artifacts={"it": b"made"})
        self.world.advance(2)
        drained = self.worker.executor.drain(10)
        self.world.advance(11)
        self.successResultOf(drained)
        self.assertEqual(self.scheduler.state(task), "submitted")
        self.assertEqual(self.scheduler.machine.get(task).reason, "draining")

    def test_a_result_that_waits_ends_with_its_lease(self) -> None:
        task = self.submit()
        self.worker.blobs.refuse = DiskFull("full")
        self.worker.engine.only().finish(0, artifacts={"it": b"made"})
        self.world.advance(2)
        self.world.cut(self.scheduler, self.worker)
        self.world.advance(LEASE + 10)
        self.assertEqual(self.worker.executor.current_tasks, 0)
        self.assertEqual(self.scheduler.state(task), "submitted")

    def test_output_that_the_disk_refuses_costs_the_task_nothing(self) -> None:
        task = self.submit(retries=1)
        container = self.worker.engine.only()
        container.say("stdout", b"kept")
        self.world.settle()
        with mock.patch("os.pwrite", side_effect=OSError(errno.ENOSPC, "No space left on device")):
            container.say("stdout", b"not kept")
            self.world.settle()
        self.assertFalse(container.alive)
        self.world.advance(1)
        state = self.scheduler.machine.get(task)
        self.assertEqual((state.state, state.reason), ("submitted", "sandbox_unavailable"))
        self.assertIn("disk of this agent: No space left", state.detail or "")
        self.assertEqual((state.moves, state.retried), (1, 0))
        self.world.advance(5)
        self.worker.engine.only().finish(0)
        self.world.advance(1)
        self.assertEqual(self.scheduler.state(task), "completed")

    def test_an_agent_whose_disk_is_full_lets_go_at_once(self) -> None:
        """Neither the result of what failed here nor its record is waited for: the task can run elsewhere."""
        for released in (False, True):
            task = self.submit()
            self.worker.store.full = True
            self.worker.blobs.refuse = DiskFull("full")
            container = self.worker.engine.only()
            container.say("stdout", b"some")
            if released:
                self.worker.executor._attempts[task, self.scheduler.machine.get(task).fence].lease_lost()
            else:
                container.finish(None, Reason.SANDBOX_UNAVAILABLE, {"it": b"made"})
            self.world.advance(1)
            self.assertEqual(self.scheduler.state(task), "submitted")
            self.assertEqual(self.worker.executor.current_tasks, 0)
            self.worker.store.full = False
            self.worker.blobs.refuse = None
            self.world.advance(10)
            self.worker.engine.only().finish(0)
            self.world.advance(1)
            self.assertEqual(self.scheduler.state(task), "completed")

    def test_a_folder_that_cannot_be_made_moves_the_task(self) -> None:
        with mock.patch("os.mkdir", side_effect=OSError(errno.ENOSPC, "No space left on device")):
            task = self.submit()
            self.world.settle()
        state = self.scheduler.machine.get(task)
        self.assertEqual((state.state, state.reason), ("submitted", "sandbox_unavailable"))
        self.assertIn("No space left", state.detail or "")

    def test_a_damaged_store_keeps_no_result_from_its_scheduler(self) -> None:
        task = self.submit()
        self.worker.store.damaged = True
        self.worker.engine.only().finish(0)
        self.world.advance(1)
        self.assertEqual(self.scheduler.state(task), "completed")
        self.assertEqual(self.worker.executor.current_tasks, 0, "nothing to wait for at a stop")

    def test_a_scheduler_whose_store_refuses_acknowledges_nothing(self) -> None:
        task = self.submit()
        self.scheduler.store.full = True
        self.worker.engine.only().finish(0)
        self.world.advance(5)
        self.assertEqual(self.worker.executor.unacknowledged, 1)
        self.scheduler.store.full = False
        self.world.advance(5)
        self.assertEqual(self.scheduler.state(task), "completed")
        self.assertEqual(self.worker.executor.unacknowledged, 0)
        self.assertEqual(self.scheduler.states(task), ["submitted", "assigned", "running", "completed"])

    def test_output_larger_than_every_buffer_arrives_whole(self) -> None:
        task = self.submit()
        block = bytes(range(97, 123)) * 4000
        for _ in range(30):
            self.worker.engine.only().say("stdout", block)
        self.world.settle(200)
        self.worker.engine.only().finish(0)
        self.world.settle(200)
        self.assertEqual(self.scheduler.output(task), block.decode() * 30)
        sizes = [len(str(e.data["text"])) for e in self.scheduler.history(task) if e.type == "output"]
        self.assertLessEqual(max(sizes), MAX_OUTPUT)

    def test_a_slow_scheduler_pauses_the_output_and_loses_none(self) -> None:
        task = self.submit()
        self.scheduler.store.full = True
        block = b"0123456789abcdef" * 4096
        for _ in range(150):
            self.worker.engine.only().say("stdout", block)
            self.world.settle(2)
        held = self.scheduler.events._pending_bytes
        self.assertLess(held, 5 * 1024 * 1024, "what is not durable yet is bounded")
        self.assertLess(self.scheduler.custodies.of(task).received["stdout"], 6 * 1024 * 1024)
        self.scheduler.store.full = False
        self.world.advance(5)
        self.worker.engine.only().finish(0)
        self.world.advance(2)
        self.assertEqual(self.scheduler.output(task), block.decode() * 150)

    def test_output_that_is_no_text(self) -> None:
        import base64

        task = self.submit()
        self.worker.engine.only().say("stderr", b"\xff\xfe\x00")
        self.world.settle()
        (event,) = [event for event in self.scheduler.history(task) if event.type == "output"]
        self.assertEqual(base64.b64decode(str(event.data["base64"])), b"\xff\xfe\x00")


class DrainTest(OneWorkerCase):
    def test_it_waits_for_what_runs_and_takes_no_more(self) -> None:
        task = self.scheduler.submit("true", required={"expertise": ["x"]})
        drained = self.worker.executor.drain(30)
        other = self.scheduler.submit("true", required={"expertise": ["x"]})
        self.world.advance(5)
        self.assertNoResult(drained)
        self.worker.engine.only().finish(0)
        self.world.settle()
        self.successResultOf(drained)
        self.assertEqual((self.scheduler.state(task), self.scheduler.state(other)), ("completed", "submitted"))

    def test_what_does_not_finish_is_handed_back_and_goes_elsewhere_uncounted(self) -> None:
        task = self.scheduler.submit("true", required={"expertise": ["x"]})
        second = self.world.node("second", expertise=("x",))
        drained = self.worker.executor.drain(30)
        self.world.advance(31)
        self.successResultOf(drained)
        self.assertEqual(self.worker.executor.unacknowledged, 0)
        self.assertEqual(second.engine.only().job.attempt, 2)
        self.assertEqual(self.scheduler.machine.get(task).moves, 0)

    def test_an_idle_node_drains_at_once(self) -> None:
        self.successResultOf(self.worker.executor.drain(30))

    def test_activity_is_a_task_that_begins_or_ends(self) -> None:
        executor = self.worker.executor
        self.offer(self.talk(self.scheduler, self.worker))
        self.world.advance(ASSIGN_S + 1)
        self.assertEqual(executor.last_activity, 0.0, "a place was promised, and nothing assigned")
        began = self.world.wall()
        self.scheduler.submit("true", required={"expertise": ["x"]})
        self.assertEqual(executor.last_activity, began)
        self.world.advance(7)
        drained = executor.drain(30)
        self.assertEqual(executor.last_activity, began)
        self.worker.engine.only().finish(0)
        self.world.settle()
        self.successResultOf(drained)
        self.assertEqual(executor.last_activity, began + 7)

    def test_with_the_scheduler_away_the_budget_is_kept(self) -> None:
        self.scheduler.submit("true", required={"expertise": ["x"]})
        self.world.cut(self.scheduler, self.worker)
        drained = self.worker.executor.drain(20)
        self.world.advance(21)
        self.successResultOf(drained)
        self.assertEqual(self.worker.executor.unacknowledged, 1)


class StopTest(OneWorkerCase):
    """The process ends without a drain: what is unfinished is the next one's, and nothing is said of it."""

    def test_what_is_prepared_is_not_handed_back(self) -> None:
        self.worker.blobs.hold = Deferred()
        task = self.submit(input={"sha256": self.scheduler.blobs.put(b"source")})
        (attempt,) = self.worker.executor._attempts.values()
        channel = attempt._conversation.channel
        said: list[Message] = []
        self.patch(channel, "send", said.append)
        self.worker.stop()
        self.world.settle()
        self.assertEqual(said, [])
        state = self.scheduler.machine.get(task)
        self.assertEqual((state.state, state.moves), ("preparing", 0))

    def test_an_outcome_that_waits_for_the_store_is_left_quietly(self) -> None:
        task = self.submit()
        self.worker.store.full = True
        self.worker.engine.only().finish(0)
        self.world.advance(3)
        with capturedLogs() as said:
            self.worker.stop()
            self.world.advance(3)
        self.assertEqual([each for each in said if each["log_level"] >= LogLevel.warn], [])
        self.assertEqual(self.scheduler.machine.get(task).moves, 0)

    def test_an_outcome_on_its_way_to_the_store_arrives_there(self) -> None:
        task = self.submit()
        self.worker.store.slow = True
        self.worker.engine.only().finish(0)
        self.world.settle()
        self.worker.executor.stopService()
        self.worker.store.release()
        self.world.settle()
        self.worker.kill()
        self.worker.restart()
        self.world.settle()
        self.assertEqual((self.scheduler.state(task), self.scheduler.show(task)["attempt"]), ("completed", 1))


class RestartTest(ExecutorCase):
    def setUp(self) -> None:
        super().setUp()
        self.scheduler = self.world.node("scheduler", max_tasks=1)

    def test_a_live_sandbox_is_taken_back(self) -> None:
        worker = self.world.node("worker", expertise=("x",))
        task = self.scheduler.submit("true", required={"expertise": ["x"]})
        container = worker.engine.only()
        container.say("stdout", b"one ")
        self.world.settle()
        worker.kill()
        container.say("stdout", b"two ")
        self.world.advance(5)
        worker.restart()
        self.assertEqual(worker.executor.taken_back, 1)
        container.say("stdout", b"three")
        container.finish(0)
        self.world.settle()
        document = self.scheduler.show(task)
        self.assertEqual((document["state"], document["attempt"]), ("completed", 1))
        self.assertEqual(self.scheduler.output(task), "one two three")
        self.assertEqual(worker.blobs.get(document["output"]["stdout"]["sha256"]), b"one two three")

    def test_one_that_finished_meanwhile_gives_its_result(self) -> None:
        worker = self.world.node("worker", expertise=("x",))
        task = self.scheduler.submit("true", required={"expertise": ["x"]})
        container = worker.engine.only()
        worker.kill()
        container.say("stdout", b"done")
        container.finish(4)
        worker.restart()
        self.world.settle()
        document = self.scheduler.show(task)
        self.assertEqual((document["state"], document["exit_code"]), ("failed", 4))

    def test_one_that_died_with_the_agent_is_handed_back(self) -> None:
        worker = self.world.node("worker", expertise=("x",), survives=False)
        task = self.scheduler.submit("true", required={"expertise": ["x"]})
        worker.engine.only().say("stdout", b"partial")
        self.world.settle()
        worker.kill()
        self.world.advance(2)
        worker.restart()
        self.world.settle()
        self.assertEqual(self.scheduler.machine.get(task).moves, 1)
        self.world.advance(5)
        self.assertEqual(self.scheduler.show(task)["attempt"], 2)
        worker.engine.only().finish(0)
        self.world.settle()
        self.assertEqual(self.scheduler.state(task), "completed")
        self.assertEqual(worker.executor.unacknowledged, 0)

    def test_one_whose_lease_ended_is_removed(self) -> None:
        worker = self.world.node("worker", expertise=("x",))
        self.scheduler.submit("true", required={"expertise": ["x"]})
        container = worker.engine.only()
        self.world.settle()
        worker.kill()
        self.scheduler.kill()
        self.world.advance(LEASE + 1)
        worker.restart()
        self.assertFalse(container.alive)
        self.assertEqual(worker.executor.taken_back, 0)
        self.scheduler.restart()
        self.world.advance(10)
        self.assertEqual(worker.engine.only().job.attempt, 2)

    def test_a_sandbox_without_a_row_is_removed(self) -> None:
        worker = self.world.node("worker", expertise=("x",))
        self.scheduler.submit("true", required={"expertise": ["x"]})
        container = worker.engine.only()
        worker.kill()
        (worker.directory / "chorus.db").unlink()
        for name in ("chorus.db-wal", "chorus.db-shm"):
            (worker.directory / name).unlink(missing_ok=True)
        worker.restart()
        self.assertFalse(container.alive)

    def test_what_an_earlier_run_left_never_keeps_the_agent_from_starting(self) -> None:
        worker = self.world.node("worker", expertise=("x",))
        (worker.directory / "runs" / "nobody-0.1.2").mkdir(parents=True)
        for place, name in [(volumes, "remove_tree"), (worker.engine, "reconcile")]:
            worker.kill()
            broken = self.patch(place, name, _recursion)
            worker.restart()
            broken.restore()
            self.assertEqual(len(self.flushLoggedErrors(RecursionError)), 1, name)
            task = self.scheduler.submit("true", required={"expertise": ["x"]})
            worker.engine.only().finish(0)
            self.world.settle()
            self.assertEqual(self.scheduler.state(task), "completed")
            worker.engine.containers.clear()

    def test_a_start_that_is_given_up_is_no_failure(self) -> None:
        """The node was asked to stop while its engine was still looking for what an earlier run left."""
        worker = self.world.node("worker", expertise=("x",))
        looking: Deferred[list[tuple[str, str]]] = Deferred()
        self.patch(worker.engine, "reconcile", lambda keep: looking)
        executor = worker.executor
        starting = Deferred.fromCoroutine(executor.start())
        self.world.settle()
        starting.cancel()
        self.failureResultOf(starting, CancelledError)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_a_run_that_cannot_be_removed_is_forgotten(self) -> None:
        """Its directory is all that stays, until the next start."""
        worker = self.world.node("worker", expertise=("x",))
        for error in (OSError(24, "Too many open files"), RecursionError("too deep")):
            task = self.scheduler.submit("true", required={"expertise": ["x"]})
            refusals: list[int] = []
            broken = self.patch(volumes, "remove_tree", _refusing(refusals, error))
            worker.engine.only().finish(0)
            self.world.advance(30)
            broken.restore()
            self.assertEqual(self.scheduler.state(task), "completed")
            self.assertEqual(len(refusals), ERASE_TRIES if isinstance(error, OSError) else 1)
            self.assertEqual(worker.executor.unacknowledged, 0)
            self.assertEqual(len(self.flushLoggedErrors(RecursionError)), isinstance(error, RecursionError))
            worker.engine.containers.clear()
        self.assertEqual(len(list((worker.directory / "runs").iterdir())), 2)
        worker.kill()
        worker.restart()
        self.world.advance(30)
        self.assertEqual(list((worker.directory / "runs").iterdir()), [])

    def test_a_run_that_could_not_be_removed_at_first(self) -> None:
        worker = self.world.node("worker", expertise=("x",))
        self.scheduler.submit("true", required={"expertise": ["x"]})
        broken = self.patch(volumes, "remove_tree", _refusing([], OSError(24, "Too many open files")))
        worker.engine.only().finish(0)
        self.world.settle()
        broken.restore()
        self.world.advance(ERASE_RETRY_S + 1)
        self.assertEqual(list((worker.directory / "runs").iterdir()), [])
        self.assertEqual(worker.executor.unacknowledged, 0)

    def test_a_directory_without_a_row_is_removed(self) -> None:
        worker = self.world.node("worker", expertise=("x",))
        self.scheduler.submit("true", required={"expertise": ["x"]})
        stray = worker.directory / "runs" / "nobody-0.1.2" / "scratch"
        stray.mkdir(parents=True)
        worker.kill()
        worker.restart()
        self.assertFalse(stray.parent.exists())
        self.assertEqual(len(list((worker.directory / "runs").iterdir())), 1)

    def test_an_unacknowledged_result_survives_any_number_of_restarts(self) -> None:
        worker = self.world.node("worker", expertise=("x",))
        task = self.scheduler.submit("true", required={"expertise": ["x"]})
        self.scheduler.kill()
        worker.engine.only().finish(0, artifacts={"a": b"1"})
        self.world.advance(60)
        for _ in range(3):
            worker.kill()
            worker.restart()
            self.world.advance(30)
        self.scheduler.restart()
        self.world.settle()
        self.assertEqual(self.scheduler.state(task), "completed")
        self.world.advance(30)
        self.assertEqual(worker.executor.unacknowledged, 0)

    def test_killed_at_every_moment(self) -> None:
        """The executor dies after n turns of a task's life and comes back: one result, one run at a time, no row."""
        for survives in (True, False):
            for turns in range(0, 40, 2):
                world = World(self)
                scheduler = world.node("scheduler", max_tasks=1)
                worker = world.node("worker", expertise=("x",), survives=survives)
                blob = scheduler.blobs.put(b"source")
                body = {"commands": ["x"], "required": {"expertise": ["x"]}, "input": {"sha256": blob}}
                task = self.successResultOf(scheduler.coordinator.submit(body, "api"))["id"]
                for turn in range(turns):
                    world.clock.advance(0)
                    if turn == 16:
                        for container in list(worker.engine.containers.values()):
                            container.say("stdout", b"x")
                            container.finish(0)
                worker.kill()
                world.advance(1)
                worker.restart()
                for _ in range(6):
                    world.advance(LEASE / 2)
                    for container in list(worker.engine.containers.values()):
                        container.finish(0)
                world.advance(LEASE * 2)
                self.assertEqual(scheduler.state(task), "completed", f"{survives}, killed after {turns} turns")
                self.assertEqual(scheduler.states(task).count("completed"), 1)
                self.assertEqual((worker.executor.unacknowledged, worker.engine.containers), (0, {}))
                world.stop()


class HostileTest(ExecutorCase):
    """Security 1.1, 2.6 and 3: what a member may send on a stream of ours."""

    def setUp(self) -> None:
        super().setUp()
        self.scheduler = self.world.node("scheduler")
        self.worker = self.world.node("worker")

    def raw(self) -> Any:
        class Receiver:
            def __init__(self) -> None:
                self.data = b""
                self.error: Any = None
                self.closed = False

            def data_received(self, data: bytes) -> None:
                self.data += data

            def eof_received(self) -> None:
                pass

            def stream_closed(self, error: Any) -> None:
                self.closed, self.error = True, error

            def pause_writing(self) -> None:
                pass

            def resume_writing(self) -> None:
                pass

        stream = self.scheduler.wait(self.scheduler.host.open_stream(self.worker.peer, [PROTOCOL]))
        stream.receiver = Receiver()
        stream.set_receiver(stream.receiver)
        return stream

    def test_silence_has_a_limit(self) -> None:
        stream = self.raw()
        stream.write(b"\x80")
        self.world.advance(FIRST_MESSAGE_S + 1)
        self.assertTrue(stream.receiver.closed)
        self.assertEqual(self.worker.streams.errors["task_protocol"], 1)
        self.assertEqual(self.worker.streams._waiting, set())

    def test_garbage_and_wrong_beginnings_reset_the_stream(self) -> None:
        beginnings = [
            b"\xff" * 20,
            b"\x00",
            b"\x05hello",
            encode(Accept()),
            encode(Renew(1)),
            encode(Stale()),
            b"\x02{}",
        ]
        for data in beginnings:
            stream = self.raw()
            stream.write(data)
            self.world.settle()
            self.assertTrue(stream.receiver.closed, data)
        self.assertEqual(sum(self.worker.streams.errors.values()), len(beginnings))

    def test_a_recorded_session_cut_at_every_byte_leaves_nothing_behind(self) -> None:
        session = encode(Offer(TASK, 1, spec().to_json()))
        for end in range(len(session)):
            for reset in (False, True):
                stream = self.raw()
                stream.write(session[:end])
                self.world.settle(3)
                if reset:
                    stream.reset()
                else:
                    stream.close()
                self.world.settle(3)
                self.assertTrue(stream.receiver.closed)
        self.world.settle()
        self.assertEqual((self.worker.executor.current_tasks, self.worker.streams._waiting), (0, set()))

    def test_delivered_byte_by_byte(self) -> None:
        stream = self.raw()
        for byte in encode(Offer(TASK, 1, spec().to_json())):
            stream.write(bytes([byte]))
        self.world.settle(300)
        self.assertEqual(stream.receiver.data, encode(Accept()))

    def test_flipped_bits_never_break_more_than_the_stream(self) -> None:
        session = encode(Offer(TASK, 1, spec().to_json()))
        for bit in range(min(256, len(session)) * 8):
            data = bytearray(session)
            data[bit // 8] ^= 1 << bit % 8
            stream = self.raw()
            stream.write(bytes(data))
            self.world.settle(4)
            stream.reset()
            self.world.settle(2)
        self.assertEqual(self.worker.executor.current_tasks, 0)

    def test_resume_of_what_one_does_not_own(self) -> None:
        self.scheduler.visible = False
        task = self.worker.submit("true")
        for fence, name in ((FENCE, task), (FENCE, TASK), (self.worker.machine.get(task).fence or FENCE, task)):
            stream = self.raw()
            stream.write(encode(Resume(name, fence)))
            self.world.settle()
            if not stream.receiver.closed:
                stream.reset()
            self.assertIn(stream.receiver.data, (encode(Stale()),))
        self.assertEqual(self.worker.state(task), "running", "its owner is the worker itself")

    def test_resume_under_an_old_fence_of_what_one_does_own(self) -> None:
        self.worker.executor.draining = True
        task = self.worker.submit("true")
        fence = self.worker.machine.get(task).fence
        assert fence is not None
        self.assertEqual(self.worker.machine.get(task).agent, str(self.scheduler.peer))
        stream = self.raw()
        stream.write(encode(Resume(task, Fence(fence.epoch, fence.term, fence.index - 1))))
        self.world.settle()
        self.assertEqual(stream.receiver.data, encode(Stale()))
        stream.reset()
        self.assertEqual(self.worker.state(task), "running")

    def test_output_over_the_tasks_limit_ends_the_conversation_not_the_node(self) -> None:
        scheduler, agent = self.worker, self.scheduler
        scheduler.executor.draining = True
        agent.executor.draining = True
        self.world.settle()
        said: list[Any] = []

        def offered(channel: Any, offer: Offer) -> None:
            channel.heard = said.append
            channel.send(Accept())
            self.channel = channel

        agent.streams.offered = offered
        agent.executor.draining = False
        task = scheduler.submit("true", limits={"output_mb": 1})
        self.assertEqual(scheduler.state(task), "assigned")
        offset = 0
        while not self.channel.is_closed and offset < 3 * 1024 * 1024:
            self.channel.send(Output("stdout", offset, b"x" * MAX_OUTPUT))
            offset += MAX_OUTPUT
            self.world.settle(3)
        self.assertTrue(self.channel.is_closed)
        self.assertLessEqual(offset, 1024 * 1024 + 2 * MAX_OUTPUT)
        self.assertEqual(scheduler.streams.errors["limit_exceeded"], 1)

    def test_a_released_task_with_an_unknown_reason(self) -> None:
        scheduler, agent = self.worker, self.scheduler
        scheduler.executor.draining = True

        def offered(channel: Any, offer: Offer) -> None:
            channel.heard = lambda message: channel.send(Released("because")) if isinstance(message, Assign) else None
            channel.send(Accept())

        agent.streams.offered = offered
        task = scheduler.submit("true")
        self.world.settle()
        self.assertEqual(scheduler.state(task), "assigned")
        self.assertEqual(scheduler.custodies.of(task)._channel, None)


class RetentionTest(ExecutorCase):
    def test_results_are_brought_to_the_scheduler(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        worker = self.world.node("worker", expertise=("x",))
        task = scheduler.submit("true", required={"expertise": ["x"]})
        worker.engine.only().say("stdout", b"output")
        worker.engine.only().finish(0, artifacts={"a": b"artifact"})
        self.world.settle()
        document = scheduler.show(task)
        (row,) = document["artifacts"]
        self.assertEqual(scheduler.blobs.get(row["sha256"]), b"artifact")
        self.assertEqual(scheduler.blobs.get(document["output"]["stdout"]["sha256"]), b"output")
        self.assertNotIn(row["sha256"], scheduler.collection._holders)

    def test_an_agent_is_let_go_only_when_its_result_is_here(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        worker = self.world.node("worker", expertise=("x",))
        task = scheduler.submit("true", required={"expertise": ["x"]})
        scheduler.blobs.hold = Deferred()
        worker.engine.only().finish(0, artifacts={"a": b"artifact"})
        self.world.advance(5)
        self.assertEqual((scheduler.state(task), worker.executor.unacknowledged), ("running", 1))
        scheduler.blobs.hold.callback(None)
        self.world.settle()
        self.assertEqual((scheduler.state(task), worker.executor.unacknowledged), ("completed", 0))
        self.assertIsNotNone(scheduler.blobs.get(scheduler.show(task)["artifacts"][0]["sha256"]))

    def test_what_takes_too_long_follows_after_the_record(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        worker = self.world.node("worker", expertise=("x",))
        task = scheduler.submit("true", required={"expertise": ["x"]})
        hold = scheduler.blobs.hold = Deferred()
        worker.engine.only().finish(0, artifacts={"a": b"artifact"})
        self.world.advance(FETCH_S + 1)
        self.assertEqual(scheduler.state(task), "completed")
        (row,) = scheduler.show(task)["artifacts"]
        self.assertEqual(scheduler.collection._holders[row["sha256"]], worker.peer)
        self.assertEqual(scheduler.blobs.holders[row["sha256"]], worker.peer)
        self.assertEqual(scheduler.show(task)["artifacts_absent"], 1, "and it is said")
        scheduler.blobs.hold = None
        if not hold.called:
            hold.callback(None)
        self.world.advance(10)
        self.assertEqual(scheduler.blobs.get(row["sha256"]), b"artifact")
        self.assertNotIn(row["sha256"], scheduler.collection._holders)
        self.assertEqual(scheduler.show(task)["artifacts_absent"], 0)

    def test_cancelled_while_the_result_is_brought(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        worker = self.world.node("worker", expertise=("x",))
        task = scheduler.submit("true", required={"expertise": ["x"]})
        scheduler.blobs.hold = Deferred()
        worker.engine.only().finish(0, artifacts={"a": b"artifact"})
        self.world.settle()
        scheduler.cancel(task)
        scheduler.blobs.hold.callback(None)
        self.world.settle()
        document = scheduler.show(task)
        self.assertEqual((document["state"], len(document["artifacts"])), ("cancelled", 1))
        self.assertEqual(worker.executor.unacknowledged, 0)

    def test_an_agent_that_is_away_is_asked_again(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        worker = self.world.node("worker", expertise=("x",))
        task = scheduler.submit("true", required={"expertise": ["x"]})
        worker.engine.only().finish(0, artifacts={"a": b"artifact"})
        scheduler.blobs.hold = Deferred()
        self.world.settle()
        worker.blobs.remove(hashlib.sha256(b"artifact").hexdigest())
        scheduler.blobs.hold.callback(None)
        self.world.settle()
        self.assertEqual(scheduler.state(task), "completed", "its end is known, whatever became of the blob")
        sha = scheduler.show(task)["artifacts"][0]["sha256"]
        self.assertIsNone(scheduler.blobs.get(sha))
        worker.blobs.put(b"artifact")
        scheduler.collection.peer_joined(worker.peer)
        self.world.settle()
        self.assertEqual(scheduler.blobs.get(sha), b"artifact")

    def test_finished_tasks_go_after_their_time_and_take_their_blobs_along(self) -> None:
        node = self.world.node("alone")
        shared = node.blobs.put(b"shared input")
        old = node.submit("true", input={"sha256": shared})
        node.engine.only().finish(0, artifacts={"a": b"old artifact"})
        self.world.settle()
        artifact = node.show(old)["artifacts"][0]["sha256"]
        self.world.advance(29 * 86400.0, step=3600.0)
        young = node.submit("true", input={"sha256": shared})
        node.engine.only().finish(0)
        self.world.settle()
        self.assertEqual(node.state(old), "completed")
        self.world.advance(2 * 86400.0, step=3600.0)
        self.assertNotIn(old, node.machine)
        self.assertEqual(node.history(old), [])
        self.assertIsNone(node.blobs.get(artifact))
        self.assertIsNotNone(node.blobs.get(shared), "a younger task names it")
        self.assertEqual(node.state(young), "completed")
        node.kill()
        node.restart()
        self.assertNotIn(old, node.machine)

    def test_blobs_that_no_task_names_go_after_the_same_time(self) -> None:
        node = self.world.node("alone")
        wanted, made_for_others = node.blobs.put(b"wanted"), node.blobs.put(b"made for others")
        for sha256 in (wanted, made_for_others):
            node.wait(node.store.write(lambda c, s=sha256: blob_table.insert(c, s, 1, b"[]", self.world.wall())))
        self.world.advance(20 * 86400.0, step=3600.0)
        node.submit("true", input={"sha256": wanted})
        node.engine.only().finish(0)
        self.world.settle()
        self.assertIsNotNone(node.blobs.get(made_for_others))
        self.world.advance(11 * 86400.0, step=3600.0)
        self.assertIsNone(node.blobs.get(made_for_others))
        self.assertIsNotNone(node.blobs.get(wanted))

    def test_an_outcome_that_nobody_asks_for_is_not_kept_for_ever(self) -> None:
        scheduler = self.world.node("scheduler", max_tasks=1)
        worker = self.world.node("worker", expertise=("x",))
        scheduler.submit("true", required={"expertise": ["x"]})
        scheduler.kill()
        worker.engine.only().finish(0)
        self.world.advance(KEEP_OUTCOME_S - 3600, step=600.0)
        self.assertEqual(worker.executor.unacknowledged, 1)
        self.world.advance(2 * 3600, step=600.0)
        self.assertEqual(worker.executor.unacknowledged, 0)
        self.assertEqual(worker.wait(worker.executor._place.runs.all()), [])

    def test_a_round_that_fails_is_not_the_last(self) -> None:
        node = self.world.node("alone")
        old = node.submit("true")
        node.engine.only().finish(0)
        self.world.settle()
        self.world.advance(30 * 86400.0 - 7200, step=3600.0)
        node.store.full = True
        self.world.advance(3 * 3600.0, step=600.0)
        self.assertGreater(node.retention.errors, 0)
        node.store.full = False
        self.world.advance(3 * 3600.0, step=600.0)
        self.assertNotIn(old, node.machine)


__all__ = ["Reason"]
