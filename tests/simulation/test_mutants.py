"""Each invariant is broken on purpose here, and the run must fail with its name: a checker that cannot fail is none."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

import attrs

from chorus.errors import ChorusError
from chorus.protocols.connection.streams import MuxedStream
from chorus.protocols.gossipsub import messages as gossip_messages
from chorus.protocols.gossipsub import promises as gossip_promises
from chorus.protocols.gossipsub import queue as gossip_queue
from chorus.protocols.gossipsub import score_stats as gossip_score_stats
from chorus.protocols.gossipsub.events import Held
from chorus.protocols.gossipsub.history import SeenCache, SeqnoFloors
from chorus.protocols.gossipsub.mcache import MessageCache
from chorus.protocols.gossipsub.params import GossipParams
from chorus.protocols.gossipsub.promises import Promises
from chorus.protocols.gossipsub.score import PeerScores
from chorus.protocols.gossipsub.sign import Verifier
from chorus.protocols.stream import ProtocolOptions
from chorus.protocols.yamux.frames import YamuxLimits
from chorus.protocols.yamux.stream import YamuxStream
from chorus.services.pubsub.link import RpcWriter
from chorus.simulation import node as nodes
from chorus.simulation import runs, traffic
from chorus.simulation.byzantine import Attacker, ByzantineNode, Flooding, Mutating, Relaying, Replaying
from chorus.simulation.configuration import Configuration
from chorus.simulation.disk import DiskFaults, SimDisk
from chorus.simulation.invariants import memory
from chorus.simulation.invariants.observers import Judge, Violated
from chorus.simulation.ledger import journal
from chorus.simulation.ledger.clients import LedgerClients
from chorus.simulation.ledger.journal import SimJournal
from chorus.simulation.ledger.ledger import LedgerClient, LedgerWatch
from chorus.simulation.net.reactor import SimReactor
from chorus.simulation.node import SimNode
from chorus.simulation.runs import RunFailed, SimRun
from chorus.simulation.world import SECOND, World
from chorus.tasks import entries, ids, transitions
from chorus.tasks.journal import Entry, Fence
from chorus.tasks.machine import TaskMachine
from chorus.tasks.state import State, TaskState
from tests.support import PureTestCase


class Mutants(PureTestCase):
    def assertCaught(
        self, invariant: str, *, run: type[SimRun] = SimRun, options: dict[str, Any] | None = None, **changed: Any
    ) -> str:
        values: dict[str, Any] = {"tier": "A", "seed": 31, "nodes": 3, "seconds": 20.0} | changed
        with self.subTest(invariant):
            failed = self.assertRaises(RunFailed, run(Configuration(**values), **(options or {})).run)
            self.assertEqual(failed.invariant, invariant, str(failed))
            return str(failed)
        raise AssertionError


class Transport(Mutants):
    def hand_over(self, change: Any) -> None:
        original = YamuxStream._hand_over

        def changed(stream: Any, data: bytes) -> None:
            wanted = isinstance(stream.receiver, traffic.Endpoint) and len(data) > 20
            original(stream, change(data) if wanted else data)

        self.patch(YamuxStream, "_hand_over", changed)

    def test_a_byte_is_dropped(self) -> None:
        self.hand_over(lambda data: data[:-1])
        self.assertCaught("transport.bytes")

    def test_bytes_change_their_order(self) -> None:
        self.hand_over(lambda data: data[:-2] + data[:-3:-1])
        self.assertCaught("transport.bytes")

    def test_a_byte_is_changed(self) -> None:
        self.hand_over(lambda data: data[:-1] + bytes((data[-1] ^ 1,)))
        self.assertCaught("transport.bytes")

    def test_the_end_comes_before_the_last_bytes(self) -> None:
        self.hand_over(lambda data: b"")
        self.assertCaught("transport.bytes")

    def finish(self, times: int) -> None:
        original = YamuxStream.finish

        def changed(stream: Any, error: ChorusError | None) -> None:
            if stream._told or not isinstance(stream.receiver, traffic.Endpoint):
                original(stream, error)
                return
            receiver, stream.receiver = stream.receiver, None
            original(stream, error)
            stream._told = True
            for _ in range(times):
                receiver.stream_closed(error)

        self.patch(MuxedStream, "finish", changed)

    def test_a_stream_never_ends(self) -> None:
        self.finish(0)
        self.assertCaught("transport.ends")

    def test_a_stream_ends_twice(self) -> None:
        self.finish(2)
        self.assertCaught("transport.ends")

    def test_a_timer_is_left(self) -> None:
        class Careless(SimNode):
            def stop(self) -> Any:
                self.reactor.callLater(3600, lambda: None)
                return super().stop()

        class Careless_(SimRun):
            node_type = Careless

        self.assertIn("timers", self.assertCaught("transport.timers", run=Careless_, seconds=1))

    def test_a_socket_is_left(self) -> None:
        class Careless(SimNode):
            def stop(self) -> Any:
                self._loop.stop()
                self.running = False
                for call in self.reactor.getDelayedCalls():
                    call.cancel()

        class Careless_(SimRun):
            node_type = Careless

        self.assertIn("sockets", self.assertCaught("transport.timers", run=Careless_, seconds=1))

    def test_buffers_without_a_bound(self) -> None:
        from chorus.protocols.connection.limits import ConnectionLimits

        class Hoarding(SimRun):
            def _wire(self) -> None:
                super()._wire()
                for node in self.nodes:
                    node.when_started.append(self.hoard)

            def hoard(self, node: SimNode) -> None:
                def opened(stream: Any) -> None:
                    stream.set_receiver(SimpleNamespace(pause_writing=lambda: None, stream_closed=lambda error: None))
                    for _ in range(40):
                        stream.write(bytes(1 << 20))

                def serve(stream: Any) -> None:
                    stream.set_receiver(SimpleNamespace(stream_closed=lambda error: None))
                    stream.pause_reading()

                def send() -> None:
                    node.p2p.open_stream(self.nodes[0].peer_id, ["/hoard"]).addCallbacks(opened, lambda failure: None)

                node.p2p.register("/hoard", serve, ProtocolOptions())
                node.reactor.callLater(5, send)

        connections = ConnectionLimits(yamux=YamuxLimits(send_budget=1 << 30))
        self.assertCaught("transport.buffered", run=Hoarding, options={"connections": connections})


class HonestBut(ByzantineNode):
    """What an honest node would be whose router had that fault."""

    honest = True
    topics = ("a", "b")

    def make_pubsub(self, host: Any, rng: Any) -> Any:
        pubsub: Any = super().make_pubsub(host, rng)
        pubsub.router = SimpleNamespace(held=Held, score=lambda peer: 0.0)
        pubsub.queued = list
        return pubsub


class One(SimRun):
    """The last node has the fault, and has asked for `topics` only."""

    fault: ClassVar[type[Attacker]]
    topics: ClassVar[tuple[str, ...]] = ("a",)

    def make_node(self, number: int) -> SimNode:
        if number < self.configuration.nodes - 1:
            return super().make_node(number)
        node = HonestBut(self.world, self.net, number, self.options)
        node.kind = self.fault
        return node

    def _wire(self) -> None:
        super()._wire()
        for node in self.nodes[:-1]:
            self.conversation.topics[node.number] = ("a", "b")
        self.conversation.topics[self.nodes[-1].number] = self.topics

    def _check_meshes(self) -> None:
        """An attacker has no mesh to look at."""

    def _excuse(self) -> None:
        pass

    def _check_scores(self) -> None:
        """It gives no scores, and has earned what it gets."""

    def _reachable(self, node: SimNode, topic: str) -> set[int]:
        """Nor an application."""
        last = self.nodes[-1]
        return super()._reachable(node, topic) - {last.number} if node is not last else set()


def one(fault: type[Attacker], topics: tuple[str, ...] = ("a",)) -> type[SimRun]:
    return type("One", (One,), {"fault": fault, "topics": topics})


class Dense(SimRun):
    """Everybody is connected to everybody."""

    def _wire(self) -> None:
        super()._wire()
        for node in self.nodes:
            node.neighbours = [other for other in self.nodes if other is not node]


class Busy(Dense):
    """… and says much."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.conversation._publish_every = 0.5


class Gossip(Mutants):
    def test_messages_are_delivered_again(self) -> None:
        self.patch(SeenCache, "add", lambda cache, message_id, now: True)
        self.patch(SeenCache, "__contains__", lambda cache, message_id: False)
        self.assertCaught("gossip.once", nodes=4)

    def test_what_was_forgotten_is_delivered_again(self) -> None:
        self.patch(SeqnoFloors, "is_replay", lambda floors, origin, seqno: False)
        short = GossipParams(seen_ttl=6.0)
        self.assertCaught("gossip.replay", byzantine=("replaying",), options={"gossip": short})

    def test_both_versions_are_delivered(self) -> None:
        def by_signature(message: Any) -> bytes:
            return bytes(message.origin + message.signature[:8] + message.seqno)

        self.patch(gossip_messages, "publisher_id", by_signature)
        self.assertCaught("gossip.equivocation", byzantine=("equivocating",))

    def test_who_comes_late_is_blamed_for_what_was_before(self) -> None:
        original = PeerScores.grafted

        def grafted(scores: Any, peer: bytes, topic: str, now: float) -> None:
            original(scores, peer, topic, now)
            if peer in scores._peers:
                scores._peers[peer].topics[topic].before = 0.0

        class Late(Busy):
            def _wire(self) -> None:
                super()._wire()
                # When it has been judged, and nobody speaks any more, so that it cannot make up for it.
                self.world.after(round((self.configuration.seconds + runs.BUSY + 15) * SECOND), self.again)

            def again(self) -> None:
                self.nodes[0].kill()
                self.nodes[0].start()

        Late(Configuration(seed=31, nodes=4, seconds=5.0)).run()
        self.patch(PeerScores, "grafted", grafted)
        self.assertCaught("gossip.score", run=Late, nodes=4, seconds=5.0)

    def test_who_brings_nothing_keeps_its_place(self) -> None:
        report = Busy(Configuration(seed=31, nodes=4, seconds=50.0, byzantine=("selfish",))).run()
        # It had a place in two meshes of each of the four.
        self.assertGreater(report.counts["gossip.places_lost"], 4)
        self.patch(PeerScores, "_deficit", lambda scores, topic, entry: 0.0)
        self.assertCaught("gossip.idle", run=Busy, nodes=4, seconds=50.0, byzantine=("selfish",))

    def test_signatures_are_not_verified(self) -> None:
        self.patch(Verifier, "verify", lambda verifier, message: None)
        self.assertCaught("gossip.signature", byzantine=("wrong-signature",))

    def test_other_topics_are_delivered(self) -> None:
        class Curious(SimRun):
            def _wire(self) -> None:
                super()._wire()
                self.conversation.topics[1] = ("a",)
                self.nodes[1].when_started.append(
                    lambda node: node.pubsub.subscribe("b", lambda received: self.gossip.delivered(node, received))
                )

        self.assertCaught("gossip.unsubscribed", run=Curious)

    def test_other_topics_are_passed_on(self) -> None:
        self.assertIn("passed on", self.assertCaught("gossip.unsubscribed", run=one(Relaying)))

    def test_control_without_a_limit(self) -> None:
        self.assertCaught("gossip.control_rate", run=one(Flooding))

    def test_what_is_no_rpc(self) -> None:
        class Garbling(Mutating):
            def act(self, stream: Any) -> None:
                self.send(stream, b"\x05\xff\xff\xff\xff\xff")

        self.assertCaught("gossip.form", run=one(Garbling))

    def test_ids_are_remembered_for_ever(self) -> None:
        def add(cache: Any, message_id: bytes, now: float) -> bool:
            new = message_id not in cache._ids
            cache._ids.add(message_id)
            return new

        self.patch(SeenCache, "add", add)
        self.assertCaught("gossip.seen", options={"gossip": GossipParams(seen_entries=20)})

    def test_a_mesh_without_an_upper_bound(self) -> None:
        params = GossipParams(d=15, d_lo=15, d_hi=40)
        self.assertCaught("gossip.mesh", run=Dense, nodes=16, seconds=1, tier="C", options={"gossip": params})

    def test_a_mesh_without_a_lower_bound(self) -> None:
        params = GossipParams(d=2, d_lo=1, d_hi=2, d_out=0, d_score=1)
        self.assertCaught("gossip.mesh", run=Dense, nodes=8, seconds=1, tier="C", options={"gossip": params})

    def test_a_mesh_of_those_who_dialled_in(self) -> None:
        params = GossipParams(d=5, d_lo=5, d_hi=6, d_out=0, d_score=1)
        self.assertCaught(
            "gossip.outbound", run=Dense, seed=33, nodes=14, seconds=1, tier="C", options={"gossip": params}
        )

    def test_messages_get_lost(self) -> None:
        self.patch(SeenCache, "__contains__", lambda cache, message_id: True)
        self.patch(SeenCache, "add", lambda cache, message_id, now: False)
        self.assertCaught("gossip.delivery", seconds=1)

    def test_numbers_begin_again_when_a_clock_was_set_back(self) -> None:
        class SetBack(SimRun):
            def _wire(self) -> None:
                super()._wire()
                self.world.after(15 * SECOND, self.set_back)

            def set_back(self) -> None:
                self.nodes[0].kill()
                self.nodes[0].clock.jump_wall(-3600 * SECOND)
                self.nodes[0].start()

        short = GossipParams(seen_ttl=6.0)
        SetBack(Configuration(seed=31, nodes=3, seconds=20.0), gossip=short).run()
        self.patch(nodes, "begin", lambda wall_ns, reserved: (wall_ns, 0))
        self.assertCaught("gossip.delivery", run=SetBack, options={"gossip": short})

    def test_everything_is_said_many_times(self) -> None:
        run = one(Replaying, ("a", "b"))
        self.assertCaught("whole.amplification", run=run)


class Whole(Mutants):
    def failing(self, fault: Any) -> type[SimRun]:
        class Failing(SimRun):
            def _wire(self) -> None:
                super()._wire()
                self.nodes[0].when_started.append(fault)

        return Failing

    def test_an_exception_in_a_node(self) -> None:
        run = self.failing(lambda node: node.reactor.callLater(1, lambda: 1 / 0))
        self.assertIn("ZeroDivisionError", self.assertCaught("whole.errors", run=run))
        self.flushLoggedErrors(ZeroDivisionError)

    def test_a_deferred_that_fails_and_nobody_takes_it(self) -> None:
        run = self.failing(lambda node: node.reactor.callLater(1, node.reactor.in_thread, lambda: 1 / 0) and None)
        self.assertIn("ZeroDivisionError", self.assertCaught("whole.errors", run=run, seconds=1))
        self.flushLoggedErrors(ZeroDivisionError)

    def test_a_node_that_runs_in_circles(self) -> None:
        def circle(node: SimNode) -> None:
            node.reactor.callLater(0, circle, node)

        self.patch(runs, "MAX_EVENTS", 2000)
        self.assertCaught("whole.events", run=self.failing(circle))


class Memory(Mutants):
    def assertOver(self, what: str, **changed: Any) -> None:
        self.assertIn(what, self.assertCaught("whole.memory", **changed))

    def test_promises_without_a_limit(self) -> None:
        original = Promises.made

        def made(promises: Promises, peer: bytes, message_id: bytes, until: float) -> None:
            with patched(gossip_promises, "MAX_PROMISES", 1 << 30):
                original(promises, peer, message_id, until)

        self.patch(gossip_promises, "MAX_PROMISES", 5)
        self.patch(Promises, "made", made)
        self.assertOver("promises", byzantine=("flooding",))

    def test_records_without_a_limit(self) -> None:
        original = PeerScores.arrived

        def arrived(scores: PeerScores, *arguments: Any, **named: Any) -> None:
            with patched(gossip_score_stats, "MAX_RECORDS", 1 << 30):
                original(scores, *arguments, **named)

        self.patch(gossip_score_stats, "MAX_RECORDS", 10)
        SimRun(Configuration(seed=31, nodes=3, seconds=10.0)).run()
        self.patch(PeerScores, "arrived", arrived)
        self.assertOver("records")

    def test_a_queue_without_a_limit(self) -> None:
        self.patch(gossip_queue, "MAX_QUEUE", 1000)
        self.patch(RpcWriter, "send", lambda link, sends: [link.queue.push(item) for item in sends])
        self.assertOver("queued")

    def test_a_cache_that_keeps_everything(self) -> None:
        self.patch(memory, "BUDGET", 250_000)
        Busy(Configuration(seed=31, nodes=4, seconds=10.0)).run()
        self.patch(MessageCache, "shift", lambda cache: None)
        self.assertOver("bytes", run=Busy, nodes=4)


@contextmanager
def patched(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


class Ledger(Mutants):
    def keeping(self, kind: type[SimJournal]) -> type[SimRun]:
        client = type("Client", (LedgerClient,), {"journal": kind})
        return type("Keeping", (SimRun,), {"ledger_type": client})

    def test_nothing_is_synced(self) -> None:
        class Unsynced(SimJournal):
            def _sync(self, name: str) -> None:
                pass

        self.assertIn("before it was durable", self.assertCaught("ledger.durable", run=self.keeping(Unsynced)))

    def test_a_failed_sync_is_repeated_and_believed(self) -> None:
        class Believing(SimJournal):
            def _sync(self, name: str) -> None:
                try:
                    super()._sync(name)
                except OSError:
                    super()._sync(name)

        self.assertCaught("ledger.durable", run=self.keeping(Believing), faults=("disk", "power"), seconds=60)

    def test_what_was_acknowledged_is_not_read_again(self) -> None:
        class Forgetful(SimJournal):
            def _replay(self, content: bytes) -> int:
                whole = super()._replay(content)
                del self.entries[-10:]
                return whole

        run = self.keeping(Forgetful)
        self.assertIn("lost entry", self.assertCaught("ledger.durable", run=run, faults=("kill",), seconds=60))

    def test_what_was_read_once_is_not_read_again(self) -> None:
        world, disk = World(1), SimDisk(World(1).rng("disk"), DiskFaults(drop=1.0))
        judge = Judge(world)
        node: Any = SimpleNamespace(disk=disk)
        watch = LedgerWatch(judge, node)

        class Careless(SimJournal):
            def _sync(self, name: str) -> None:
                pass

        for number in range(3):
            careless = Careless(disk, SimReactor(world), world.rng("sync", number))
            careless.start()
            watch.started(careless)
            if number == 0:
                self.assertNoResult(careless.append(_submitted(1)))
            elif number == 1:
                self.assertEqual(len(careless.entries), 1)
                disk.crash()
        violated = self.assertRaises(Violated, judge.check)
        self.assertEqual(violated.violation.invariant, "ledger.prefix")

    def test_the_replay_makes_something_else_of_it(self) -> None:
        class Skipping(SimJournal):
            def _replay(self, content: bytes) -> int:
                original = self.machine.apply
                kept: Any = lambda index, entry: original(index, entry) if entry.kind != "task.started" else None  # noqa: E731
                self.machine.apply = kept  # type: ignore[method-assign]
                whole = super()._replay(content)
                self.machine.apply = original  # type: ignore[method-assign]
                return whole

        self.assertCaught("ledger.replay", run=self.keeping(Skipping), faults=("kill",), seconds=60)

    def test_clients_hear_of_what_is_not_durable(self) -> None:
        class Hasty(SimJournal):
            def append(self, entry: Entry) -> Any:
                done = super().append(entry)
                if self._asked and self._asked[-1][1] is done:
                    self.entries.append(self._asked.pop()[0])
                    done.callback(self.machine.apply(len(self.entries), entry))
                return done

        # On a slow disk, where a crash comes before the sync now and then; and only what clients see is looked at.
        self.patch(journal, "SYNC_MAX", 2 * SECOND)
        self.patch(LedgerWatch, "appended", lambda *arguments: None)
        self.assertCaught("ledger.linearizable", run=self.keeping(Hasty), faults=("power",), seconds=40)

    def test_clients_read_what_is_not_committed(self) -> None:
        class Ahead(LedgerClients):
            def seen(self, journal: SimJournal) -> TaskMachine:
                machine = TaskMachine(journal.fence_of)
                for index, entry in enumerate([*journal.entries, *(entry for entry, _ in journal._asked)], 1):
                    machine.apply(index, entry)
                return machine

        self.patch(journal, "SYNC_MAX", 2 * SECOND)
        honest = SimRun(Configuration(seed=31, nodes=3, seconds=30.0, faults=("power",))).run()
        self.assertGreater(honest.counts["ledger.operations"], 500)
        client = type("Client", (LedgerClient,), {"clients_type": Ahead})
        run = type("Keeping", (SimRun,), {"ledger_type": client})
        self.assertCaught("ledger.linearizable", run=run, faults=("power",), seconds=30)

    def test_two_owners_under_one_fence(self) -> None:
        class Coarse(SimJournal):
            def fence_of(self, index: int) -> Fence:
                return Fence(0, 1, index // 8)

        self.assertCaught("ledger.one_owner", run=self.keeping(Coarse))

    def replace(self, kinds: str, check: Any = None, transition: Any = None) -> None:
        """Other transitions of these kinds of entries."""
        table = dict(transitions.TRANSITIONS)
        for kind in (f"task.{each}" for each in kinds.split()):
            table[kind] = check or table[kind][0], transition or table[kind][1]
        self.patch(transitions, "TRANSITIONS", table)

    def test_a_stale_fence_is_accepted(self) -> None:
        def owned(task: TaskState, entry: Entry) -> None:
            transitions.unfinished(task, entry)
            if task.state not in (State.ASSIGNED, State.RUNNING):
                entries.fence({"fence": "none"})

        self.replace(OWNED_KINDS, owned)
        self.assertCaught("ledger.fence")

    def test_a_result_is_accepted_twice(self) -> None:
        def owned(task: TaskState, entry: Entry) -> None:
            if task.state in (State.SUBMITTED, State.CANCELLED) or task.fence != entries.fence(entry.body):
                entries.fence({"fence": "none"})

        self.replace(OWNED_KINDS, owned)
        self.assertCaught("ledger.result_once")

    def test_a_running_task_is_given_to_another(self) -> None:
        assign = transitions.TRANSITIONS["task.assigned"][1]

        def assigned(task: TaskState, entry: Entry) -> TaskState:
            return assign(attrs.evolve(task, state=State.SUBMITTED) if task.state is State.RUNNING else task, entry)

        self.replace("assigned", transition=assigned)
        self.assertCaught("ledger.transitions")


OWNED_KINDS = "preparing started lease_expired released completed"


def _submitted(number: int) -> Entry:
    return entries.submitted(1.0, ids.make(number, bytes), {"commands": ["true"]}, "x", max_attempts=3)
