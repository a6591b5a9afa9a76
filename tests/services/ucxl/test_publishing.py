"""Decisions of tasks, from the end of an attempt until they are safe."""

from __future__ import annotations

from typing import Any
from unittest import mock

from twisted.internet.defer import Deferred

from chorus.protocols.task_messages import Result, from_json, to_json
from chorus.security import age
from chorus.services.dht.ports import DhtUnavailable
from chorus.services.scheduling.context import NamedDecision
from chorus.services.ucxl.bundle import NamedSeal, Publication
from chorus.services.ucxl.publishing import COPY_S
from chorus.services.ucxl.sending import PublicationSender
from chorus.store import publications
from chorus.tasks.spec import SpecError
from chorus.tasks.terms import Reason
from chorus.ucxl.address import Address
from chorus.ucxl.chain import ClaimedVersion, verify_chain
from chorus.ucxl.documents import sha256
from chorus.ucxl.record import Decision
from chorus.ucxl.signed import Head, Version, ciphertext_key, head_key, version_key
from tests.services.memory_kit import ROLE_KEYS, FakeMesh
from tests.services.task_kit import Node, World
from tests.support import PureTestCase


class MemoryCase(PureTestCase):
    """A scheduler that cannot run the task, the worker that does, and a bystander."""

    def setUp(self) -> None:
        self.world = World(self)
        self.addCleanup(self.world.stop)
        self.mesh = FakeMesh()
        self.scheduler = self.world.node("scheduler", memory=self.mesh)
        self.worker = self.world.node("worker", memory=self.mesh, expertise=("x",))
        self.other = self.world.node("other", memory=self.mesh)

    def submit(self, **body: Any) -> str:
        task = self.scheduler.submit("make", required={"expertise": ["x"]}, **body)
        self.world.settle()
        return task

    def container(self) -> Any:
        [container] = self.worker.engine.containers.values()
        return container

    def run_task(self, **body: Any) -> str:
        task = self.submit(**body)
        self.container().say("stdout", b"made\n")
        self.container().finish(artifacts={"a.txt": b"alpha"})
        self.world.settle()
        return task

    def decision(self, task: str) -> Any:
        return self.scheduler.show(task)["decision"]

    def read(self, named: Any) -> Decision:
        """From what the machines hold, as any reader would."""
        head = Head.decode(self.held(head_key(Address.parse(named["address"]))))
        version = Version.decode(self.held(version_key(head.author, head.content)))
        ciphertext = self.held(ciphertext_key(version.ciphertext))
        return Decision.decode(age.decrypt(ciphertext, [ROLE_KEYS[version.epoch]]))

    def held(self, key: bytes) -> bytes:
        return next(iter(self.mesh.holders(key).values()))

    def rows(self, node: Node) -> list[publications.PublicationRow]:
        return node.wait(node.store.read(publications.every))


class WayOfADecisionTest(MemoryCase):
    def test_a_finished_task_has_a_decision_that_becomes_safe(self) -> None:
        task = self.run_task(title="Make it", project="team/tool")
        self.world.advance(COPY_S + 1)
        named = self.decision(task)
        self.assertEqual((named["state"], named["holders"], named["wanted"]), ("safe", 3, 3))
        decision = self.read(named)
        self.assertEqual(decision.content_hash, named["hash"])
        self.assertEqual(named["address"], f"ucxl://{self.worker.peer}:developer@team..tool:{task}")
        self.assertEqual(decision.outcome.exit_code, 0)
        self.assertTrue(decision.outcome.success)
        self.assertEqual(decision.summary, "Make it: ended with exit code 0")
        assert decision.run is not None
        self.assertEqual((decision.run.commands, decision.run.sandbox), (("make",), "docker"))
        self.assertEqual(decision.run.limits.memory_mb, 1024)
        self.assertEqual([(each.name, each.size) for each in decision.artifacts], [("a.txt", 5), ("stdout", 5)])
        for artifact in decision.artifacts:
            self.assertEqual(sum(artifact.stored in blobs for blobs in self.mesh.blobs.values()), 3)

    def test_it_is_announced_by_its_address_alone(self) -> None:
        task = self.run_task()
        self.world.advance(COPY_S + 1)
        self.assertEqual(self.mesh.announced, [(self.worker.peer, self.decision(task)["address"])])

    def test_the_order_lets_nobody_find_what_is_not_there(self) -> None:
        self.run_task()
        namespaces = [key.split(b"/")[1] for key in self.mesh.puts]
        self.assertEqual(namespaces, [b"ucxl-ct", b"ucxl-ver", b"ucxl-head"])

    def test_rows_go_when_it_is_safe(self) -> None:
        task = self.run_task()
        self.world.advance(COPY_S + 1)
        self.assertEqual(self.rows(self.worker), [])
        [row] = self.rows(self.scheduler)
        self.assertEqual((row.state, row.task_id, row.bundle), ("safe", task, b""))

    def test_what_is_safe_is_known_after_a_restart(self) -> None:
        task = self.run_task()
        self.world.advance(COPY_S + 1)
        self.scheduler.kill()
        self.scheduler.restart()
        self.world.settle()
        self.assertEqual(self.decision(task)["state"], "safe")

    def test_a_task_that_failed_has_one_too(self) -> None:
        task = self.submit()
        self.container().finish(exit_code=3)
        self.world.advance(COPY_S + 1)
        decision = self.read(self.decision(task))
        self.assertEqual((decision.outcome.success, decision.outcome.exit_code), (False, 3))

    def test_the_same_agent_again_is_the_next_version(self) -> None:
        task = self.submit(retries=1)
        self.container().finish(exit_code=3)
        self.world.advance(COPY_S + 1)
        address = f"ucxl://{self.worker.peer}:developer@none:{task}"
        first = self.read({"address": address})
        self.assertIsNone(self.decision(task), "the attempt is not the task's result")
        self.world.advance(60)
        self.container().finish()
        self.world.advance(COPY_S + 1)
        second = self.read(self.decision(task))
        self.assertEqual((first.seq, second.seq, second.prev), (1, 2, first.content_hash))

    def test_a_failure_of_the_machine_has_none(self) -> None:
        self.submit()
        self.container().finish(None, Reason.SANDBOX_UNAVAILABLE)
        self.world.settle()
        self.assertEqual(self.mesh.puts, [])


class AloneTest(PureTestCase):
    def test_it_is_stored_and_copies_follow_when_members_come(self) -> None:
        world = World(self)
        self.addCleanup(world.stop)
        mesh = FakeMesh()
        alone = world.node("alone", memory=mesh)
        task = alone.submit("true")
        world.settle()
        [container] = alone.engine.containers.values()
        container.finish()
        world.advance(COPY_S + 1)
        self.assertEqual(alone.show(task)["state"], "completed")
        named = alone.show(task)["decision"]
        self.assertEqual((named["state"], named["holders"], named["wanted"]), ("stored", 1, 1))
        puts = len(mesh.puts)
        world.advance(3600, 30.0)
        self.assertEqual(len(mesh.puts), puts, "nothing to do while nobody is there")
        world.node("second", memory=mesh)
        alone.ucxl.publisher.peer_joined()
        world.settle()
        self.assertEqual(alone.show(task)["decision"]["state"], "safe")

    def test_without_roles_a_task_works_as_before(self) -> None:
        world = World(self)
        self.addCleanup(world.stop)
        mesh = FakeMesh()
        mesh.epoch = 0
        node = world.node("node", memory=mesh)
        task = node.submit("true")
        world.settle()
        [container] = node.engine.containers.values()
        container.finish()
        world.settle()
        self.assertEqual(node.show(task)["state"], "completed")
        self.assertIsNone(node.show(task)["decision"])


class HandedOverTest(PureTestCase):
    def test_the_decision_on_a_task_that_another_member_schedules(self) -> None:
        world = World(self)
        world.hearsay = True
        self.addCleanup(world.stop)
        mesh = FakeMesh()
        world.node("middle", memory=mesh, max_tasks=1)
        five = world.node("five", memory=mesh, capabilities=("five",))
        six = world.node("six", memory=mesh, capabilities=("six",))
        world.cut(five, six)
        task = five.submit("true", required={"capabilities": ["six"]})
        world.advance(5)
        six.engine.only().finish(artifacts={"a.txt": b"alpha"})
        world.advance(60)
        self.assertEqual(five.machine.get(task).scheduler is not None, True)
        self.assertEqual(five.show(task)["decision"]["state"], "safe")


class IntakeTest(MemoryCase):
    def test_projects_without_a_place_in_an_address(self) -> None:
        for project in ("none", "any", "a..b", "a./b", "a/.b", "x" * 60 + "/" + "y" * 67):
            body = {"commands": ["true"], "project": project}
            error = self.scheduler.refused(self.scheduler.coordinator.submit(body, "api"))
            self.assertEqual((type(error), error.field), (SpecError, "project"), project)
            self.assertNotIn("\n", str(error))
        self.assertTrue(self.submit(project="team/tool.x"))


class FaultsTest(MemoryCase):
    def bytes_of(self) -> dict[bytes, bytes]:
        return {key: value for held in self.mesh.records.values() for key, value in held.items()}

    def test_the_executor_dies_after_the_result_and_the_scheduler_publishes(self) -> None:
        self.mesh.broken_after = 0
        task = self.run_task()
        self.assertEqual(self.show(task)["state"], "completed")
        self.assertEqual(self.decision(task)["state"], "pending")
        self.worker.kill()
        self.mesh.broken_after = None
        self.world.advance(2 * COPY_S)
        named = self.decision(task)
        self.assertEqual(self.read(named).content_hash, named["hash"])
        self.assertEqual(named["state"], "pending", "encrypted artifacts were on the dead machine alone")
        self.mesh.join(self.worker.peer)
        self.worker.restart()
        self.world.advance(60)
        self.assertEqual(self.decision(task)["state"], "safe")

    def test_the_executor_dies_before_it_announces(self) -> None:
        self.mesh.broken_after = 4
        task = self.run_task(commands=["make"])
        self.worker.kill()
        self.mesh.broken_after = None
        self.world.advance(2 * COPY_S)
        self.assertIn((self.scheduler.peer, self.decision(task)["address"]), self.mesh.announced)

    def test_cut_after_every_step_nothing_acknowledged_is_lost(self) -> None:
        """The executor loses the network in the middle of publishing, then its power; restarted, it sends the same
        bytes."""
        for steps in range(8):
            with self.subTest(steps):
                self.mesh.broken_after = steps
                task = self.run_task()
                before = self.bytes_of()
                self.worker.kill()
                self.mesh.broken_after = None
                self.mesh.join(self.worker.peer)
                self.worker.restart()
                self.world.advance(30)
                self.assertEqual(self.decision(task)["state"], "safe")
                after = self.bytes_of()
                self.assertEqual({key: after[key] for key in before}, before, "bytes were changed between two puts")
                heads = [each for each in after.values() if b'"seq"' in each and task.encode() in each]
                self.assertEqual(len({*heads}), 1)

    def test_power_cut_at_every_write_of_the_executor(self) -> None:
        """The process dies at its n-th write to the store from the end of the run on."""
        for writes in range(6):
            with self.subTest(writes):
                task = self.submit()
                container, store = self.container(), self.worker.store
                store.left = writes
                container.finish(artifacts={"a.txt": b"alpha"})
                self.world.settle()
                self.worker.kill()
                self.mesh.join(self.worker.peer)
                self.worker.restart()
                self.world.advance(120)
                if self.show(task)["state"] != "completed":
                    [again] = self.worker.engine.containers.values()
                    again.finish(artifacts={"a.txt": b"alpha"})
                    self.world.advance(30)
                named = self.decision(task)
                self.assertEqual(named["state"], "safe", self.show(task))
                self.assertEqual(self.read(named).content_hash, named["hash"])

    def test_a_stale_attempt_publishes_nothing(self) -> None:
        task = self.submit()
        self.world.cut(self.scheduler, self.worker)
        container = self.container()
        self.world.advance(1)
        container.finish()
        self.world.advance(200)
        self.world.heal(self.scheduler, self.worker)
        self.world.advance(30)
        puts = [key for key in self.mesh.puts if key.startswith(b"/ucxl-head/")]
        self.assertLessEqual(len(set(puts)), 1, task)
        self.assertEqual([row for row in self.rows(self.worker) if row.state == "waiting"], [])

    def copied_by_the_scheduler(self, junk: list[bytes], size: int) -> set[str]:
        """What of the junk the scheduler holds after a liar's publication names it, `size` bytes each."""
        seals = tuple(NamedSeal(stored=sha256(each), size=size) for each in junk)
        self.mesh.blobs[self.worker.peer].update((sha256(each), each) for each in junk)
        real: Any = Publication.of
        with mock.patch.object(Publication, "of", lambda head, version, text, sealed: real(head, version, text, seals)):
            self.worker.ucxl.publisher._up = False  # leaves it to the scheduler
            task = self.run_task()
        self.world.advance(600, 5.0)
        self.assertEqual(self.show(task)["state"], "completed")
        return {sha256(each) for each in junk} & set(self.mesh.blobs[self.scheduler.peer])

    def test_a_publication_names_no_more_than_its_result(self) -> None:
        two = [b"x" * 500, b"y" * 500]
        self.assertEqual(len(self.copied_by_the_scheduler(two, 500)), 2, "a file and an output")
        for junk, size in (
            ([b"%d" % number for number in range(3)], 1),
            ([b"a" * 5000, b"b" * 5000], 5000),
        ):
            self.assertEqual(self.copied_by_the_scheduler(junk, size), set())

    def test_a_blob_that_is_larger_than_said_is_not_taken(self) -> None:
        self.assertEqual(self.copied_by_the_scheduler([b"c" * 5000, b"d" * 5000], 10), set())

    def lose_an_attempt(self) -> str:
        """Its number was given out, and the next attempt runs."""
        task = self.submit(retries=2)
        self.world.cut(self.scheduler, self.worker)
        container = self.container()
        self.world.advance(1)
        container.finish()
        self.world.advance(200)
        self.world.heal(self.scheduler, self.worker)
        self.world.advance(60)
        return task

    def test_a_lost_attempts_number_is_not_given_out_again_after_a_restart(self) -> None:
        """Its scheduler has a signed head under it: another decision of that number would be a fork."""
        task = self.lose_an_attempt()
        self.worker.kill()
        self.worker.restart()
        self.world.advance(60)
        self.container().finish()
        self.world.advance(60)
        self.assertEqual(self.read(self.decision(task)).seq, 2)

    def test_a_lost_attempt_leaves_no_hole_in_the_chain(self) -> None:
        task = self.lose_an_attempt()
        self.container().finish()
        self.world.advance(60)
        named = self.decision(task)
        decision = self.read(named)
        self.assertEqual((decision.seq, decision.prev), (2, None), "the first number was given out")
        for node in (self.other, self.scheduler, self.worker):
            address = Address.parse(named["address"])
            found = node.wait(node.ucxl.history(address, limit=10, after=None))
            self.assertEqual(([each.seq for each in found.versions], found.missing), ([2], None))
            for temporal in ("*~", "^^1", "*^"):
                first = node.wait(node.ucxl.resolve(Address.parse(f"{address}/{temporal}")))
                self.assertEqual(first.seq, 2, temporal)
        claimed = ClaimedVersion(2, decision.content_hash, decision.encode())
        self.assertTrue(verify_chain(named["address"], [claimed]).clean)

    def test_a_copy_of_an_older_epoch_counts_as_superseded(self) -> None:
        task = self.run_task()
        [row] = [each for each in self.rows(self.scheduler) if each.task_id == task]
        old = self.scheduler.wait(self.scheduler.store.read(lambda c: publications.get(c, row.content))).bundle
        self.world.advance(1)
        self.mesh.epoch = 2
        for changed in self.worker.ucxl._ports.keyring._watchers:
            changed()
        self.world.settle()
        ports = self.scheduler.ucxl._ports
        sender = PublicationSender(ports, self.scheduler.ucxl._parts.reader.take_in)
        stored = self.scheduler.wait(Deferred.fromCoroutine(sender.send(Publication.decode(old), announced=True)))
        self.assertTrue(stored.safe, stored)

    def test_full_disk_while_sealing_leaves_the_result(self) -> None:
        self.mesh.refuse["seal"] = DhtUnavailable("the disk is full")
        task = self.run_task()
        self.world.advance(COPY_S + 1)
        self.assertEqual(self.show(task)["state"], "completed")
        decision = self.read(self.decision(task))
        self.assertEqual((decision.artifacts, decision.rationale), ((), "exit\n2 files have no encrypted copy"))

    def test_a_decision_in_anothers_name_is_dropped(self) -> None:
        result = {"agent": str(self.worker.peer), "decision": {"address": "", "hash": "0" * 64}, "publication": None}
        for address in ("nonsense", f"ucxl://{self.other.peer}:developer@none:t", f"ucxl://{self.worker.peer}:a@b:c"):
            result["decision"] = {"address": address, "hash": "0" * 64}
            self.assertNotIn("decision", self.scheduler.decisions.checked("t", result))

    def test_a_publication_of_something_else_is_not_kept(self) -> None:
        task = self.run_task()
        [row] = [each for each in self.rows(self.scheduler) if each.task_id == task]
        named = self.decision(task)
        junk = self.scheduler.blobs.put(b"junk")
        lie = NamedDecision(task, named["address"], "1" * 64, str(self.worker.peer), junk)
        self.scheduler.wait(self.scheduler.ucxl.publisher.keep(lie))
        kept = self.scheduler.wait(self.scheduler.store.read(lambda c: publications.get(c, bytes.fromhex("1" * 64))))
        self.assertEqual((kept.state, kept.bundle), ("kept", b""))
        self.assertEqual(row.task_id, task)

    def test_an_older_scheduler_gets_a_result_that_it_reads(self) -> None:
        """It passes over what it does not know; an executor of it names no decision."""
        task = self.run_task()
        [message] = [Result(**_FIELDS)]
        self.assertIsNone(from_json(to_json(message)).decision)
        body = {name: value for name, value in to_json(message).items() if name not in ("decision", "publication")}
        self.assertEqual(from_json(body), message)
        self.assertIn("result", self.show(task) and body["type"])

    def show(self, task: str) -> Any:
        return self.scheduler.show(task)


_FIELDS: dict[str, Any] = {
    "reason": "exit",
    "exit_code": 0,
    "detail": "",
    "sandbox": "docker",
    "image": None,
    "started_at": 0.0,
    "ended_at": 1.0,
}
