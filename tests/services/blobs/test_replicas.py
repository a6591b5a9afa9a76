from __future__ import annotations

import gc
import math
from pathlib import Path
from typing import IO
from unittest import mock

from twisted.internet.defer import Deferred, FirstError, succeed

from chorus.protocols.blobs import CHUNK, PROTOCOL, Answer, HaveRequest, KeepRequest
from chorus.protocols.streamio import StreamIO
from chorus.security import age
from chorus.services.blobs import keeping, looks, plaintexts, replicas
from chorus.services.blobs.fetch import BlobTooLarge, UnknownBlob
from chorus.services.blobs.files import Ingest
from chorus.services.blobs.looks import closest, provider_key
from chorus.services.blobs.pins import PUSHED
from chorus.services.blobs.ports import SealedBlob
from chorus.services.blobs.pushing import WAIT_S
from chorus.services.blobs.readable import ReadableBlobs
from chorus.services.blobs.sealing import SealBroken
from chorus.services.blobs.serving import BlobLimits
from chorus.store.pins import Pin
from tests.services.blobs.replica_kit import ReplicaCase, ReplicaNode
from tests.services.blobs.test_service import Node, noise, peer_id, sha
from tests.services.memory_host import MemoryHost, connect

KEY = age.new_identity()
HEADER = age.encrypt(b"", [age.recipient_of(KEY)])


def aged(size: int, seed: int = 1) -> bytes:
    """So many bytes that begin as an age file."""
    return HEADER + noise(size - len(HEADER), seed)


class SpreadTests(ReplicaCase):
    def test_pushed_to_the_closest_members(self) -> None:
        nodes = self.mesh(6)
        stored = self.sealed(nodes[0], noise(3 * CHUNK))
        found = self.replicate(nodes[0], stored)
        others = closest(stored, [node.peer for node in nodes[1:]])
        self.assertEqual(set(found.holders), {nodes[0].peer, *others[:2]})
        self.assertTrue(found.safe)
        holders = self.having(nodes, stored)
        self.assertEqual({node.peer for node in holders}, set(found.holders))
        for node in holders:
            self.assertIn(stored, node.blobs.pins)
            self.assertTrue(node.blobs.pins.is_sealed(stored))
            self.assertIn(node.peer, self.table.providers[provider_key(stored)], "each holder announces it")
        self.assertEqual((nodes[0].replicas.pushing.pushed, nodes[0].replicas.looks.low), (2, 0))

    def test_twice_pushes_once(self) -> None:
        nodes = self.mesh(3)
        stored = self.sealed(nodes[0], b"record")
        first = self.replicate(nodes[0], stored)
        served = nodes[0].blobs.counters.served_bytes
        self.assertEqual(set(self.replicate(nodes[0], stored).holders), set(first.holders))
        self.assertEqual(nodes[0].blobs.counters.served_bytes, served)

    def test_alone_it_is_stored_and_not_safe(self) -> None:
        (node,) = self.mesh(1)
        found = self.replicate(node, self.sealed(node, b"record"))
        self.assertEqual((found.holders, found.wanted, found.safe), ((node.peer,), 1, False))

    def test_without_a_dht_members_are_asked(self) -> None:
        self.table.down = True
        nodes = self.mesh(4)
        self.assertTrue(self.replicate(nodes[0], self.sealed(nodes[0], b"record")).safe)

    def test_a_full_holder_is_passed_over(self) -> None:
        nodes = self.mesh(4, lambda number: BlobLimits(max_store=100) if number == 2 else None)
        found = self.replicate(nodes[0], self.sealed(nodes[0], noise(1000)))
        self.assertEqual(set(found.holders), {nodes[0].peer, nodes[2].peer, nodes[3].peer})
        self.assertLessEqual(nodes[0].replicas.pushing.refusals["full"], 1)
        self.assertEqual(nodes[1].blobs.used, 0)

    def test_all_are_full_and_one_has_room_later(self) -> None:
        nodes = self.mesh(2, lambda number: BlobLimits(max_store=100) if number == 2 else None)
        found = self.replicate(nodes[0], stored := self.sealed(nodes[0], noise(1000)))
        self.assertEqual((found.holders, found.wanted), ((nodes[0].peer,), 2))
        self.assertEqual((nodes[0].replicas.pushing.refusals, nodes[0].replicas.looks.low), ({"full": 1}, 1))
        late = ReplicaNode(self, 9)
        connect(late.host, nodes[0].host)
        self.run_for(looks.LOW.first + 5)
        self.assertEqual(self.having(nodes, stored) + self.having([late], stored), [nodes[0], late])

    def test_a_member_that_never_heard_of_it(self) -> None:
        """An older version answers `bad`, or resets the stream."""
        nodes = self.mesh(1)
        old = MemoryHost(peer_id(50), self.fake)
        old.register(PROTOCOL, lambda stream: stream.reset(), None)  # type: ignore[arg-type]
        connect(old, nodes[0].host)
        found = self.replicate(nodes[0], self.sealed(nodes[0], b"record"))
        self.assertEqual(found.holders, (nodes[0].peer,))
        self.assertEqual(nodes[0].replicas.pushing.refusals, {"unreachable": 1})

    def test_plaintext_is_never_pushed(self) -> None:
        nodes = self.mesh(3)
        plain = self.successResultOf(nodes[0].blobs.put_bytes(b"plain text")).sha256
        self.failureResultOf(self.until(nodes[0].replicas.replicate(plain, "decision")), SealBroken)
        self.assertEqual(self.having(nodes[1:], plain), [])

    def test_nothing_to_replicate(self) -> None:
        nodes = self.mesh(3)
        self.failureResultOf(self.until(nodes[0].replicas.replicate("ab" * 32, "decision")), UnknownBlob)
        self.assertEqual(len(nodes[0].replicas.looks), 0)

    def test_a_copy_is_fetched_before_it_is_replicated(self) -> None:
        nodes = self.mesh(3)
        stored = self.sealed(nodes[1], b"record")
        found = self.successResultOf(self.until(nodes[0].replicas.replicate(stored, "decision", [nodes[1].peer])))
        self.assertEqual(set(found.holders), {node.peer for node in nodes})
        self.assertTrue(self.successResultOf(self.until(nodes[2].replicas.holders(stored))).safe)

    def test_for_one_use_of_at_most_so_many_bytes(self) -> None:
        nodes = self.mesh(2)
        stored = self.sealed(nodes[0], noise(3 * CHUNK))
        size = nodes[0].blobs.size_of(stored) or 0

        async def use(path: Path) -> int:
            return nodes[1].blobs.size_of(stored) or 0

        def passing(limit: int) -> Deferred[int]:
            return self.until(Deferred.fromCoroutine(nodes[1].replicas.passing(stored, use, limit)))

        self.failureResultOf(passing(size - 1), BlobTooLarge)
        self.assertEqual((nodes[1].blobs.used, nodes[1].blobs.counters.fetched), (0, 0))
        self.assertEqual(self.successResultOf(passing(size)), size)
        self.assertEqual((nodes[1].blobs.used, nodes[1].blobs.counters.fetched), (0, 1), "it is not kept")


class LiarTests(ReplicaCase):
    def test_false_providers_hide_no_blob(self) -> None:
        """Twenty names of one lying server, all of them members that are there and have nothing."""
        nodes = self.mesh(24)
        reader = nodes[-1]
        stored = self.sealed(nodes[0], b"record")
        self.replicate(nodes[0], stored)
        false = [node.peer for node in nodes[:-1] if node.blobs.size_of(stored) is None][:20]
        self.table.providers[provider_key(stored)] = false
        self.successResultOf(self.until(reader.replicas.fetch(stored)))

    def test_a_holder_far_away_is_found_beside_members_that_have_nothing(self) -> None:
        nodes = self.mesh(12)
        stored = self.sealed(nodes[0], b"record")
        [*_, farthest] = closest(stored, [node.peer for node in nodes[1:]])
        far = next(node for node in nodes if node.peer == farthest)
        self.successResultOf(self.until(far.replicas.fetch(stored, [nodes[0].peer])))
        self.table.providers[provider_key(stored)] = [far.peer]
        self.successResultOf(nodes[0].blobs.remove(stored))
        self.successResultOf(self.until(nodes[0].replicas.fetch(stored)))


class AgainTests(ReplicaCase):
    """What is kept up while holders come and go."""

    def holders(self, nodes: list[ReplicaNode], stored: str) -> list[ReplicaNode]:
        return self.having(nodes, stored)

    def test_a_holder_that_leaves_is_replaced_by_one_push(self) -> None:
        nodes = self.mesh(6)
        stored = self.sealed(nodes[0], noise(CHUNK))
        self.replicate(nodes[0], stored)
        self.run_for(looks.FIRST_S + 5, 0.5)
        before = sum(node.replicas.pushing.pushed for node in nodes)
        gone = next(node for node in self.having(nodes, stored) if node is not nodes[0])
        gone.stop()
        self.run_for(looks.LEFT_S + 60, 0.5)
        self.assertEqual(len(self.having(nodes, stored)), 3)
        self.assertEqual(sum(node.replicas.pushing.pushed for node in nodes), before + 1, "one of the holders acts")

    def test_the_owner_dies_and_others_keep_it_up(self) -> None:
        nodes = self.mesh(5)
        stored = self.sealed(nodes[0], b"record")
        self.replicate(nodes[0], stored)
        self.run_for(looks.FIRST_S + 5, 0.5)
        nodes[0].stop()
        self.run_for(looks.LEFT_S + 60, 0.5)
        self.assertEqual(len(self.having(nodes, stored)), 3)
        reader = next(node for node in nodes[1:] if node.blobs.size_of(stored) is None)
        self.successResultOf(self.until(reader.replicas.fetch(stored)))

    def test_after_a_restart(self) -> None:
        nodes = self.mesh(1)
        stored = self.sealed(nodes[0], b"record")
        self.replicate(nodes[0], stored)
        nodes[0].stop()
        again, late = ReplicaNode(self, 1, None, nodes[0].root), ReplicaNode(self, 2)
        connect(again.host, late.host)
        self.run_for(looks.FIRST_S + 5, 0.5)
        self.assertEqual(self.having([late], stored), [late])
        self.assertIn(stored, late.blobs.pins)

    def test_a_lost_file_comes_back_from_others(self) -> None:
        nodes = self.mesh(3)
        stored = self.sealed(nodes[0], b"record")
        self.replicate(nodes[0], stored)
        self.successResultOf(nodes[0].blobs.remove(stored))
        self.run_for(looks.LOOK_S * 1.3, 10)
        self.assertEqual(self.having(nodes[:1], stored), nodes[:1])

    def test_stopped_in_the_middle_of_a_look(self) -> None:
        nodes = self.mesh(1)
        for number in (50, 51, 52):
            silent = MemoryHost(peer_id(number), self.fake)
            silent.register(PROTOCOL, lambda stream: None, None)  # type: ignore[arg-type]
            connect(silent, nodes[0].host)
        self.sealed(nodes[0], b"record")
        stored = self.sealed(nodes[0], b"another")
        asked = nodes[0].replicas.replicate(stored, "decision")
        self.run_for(keeping_limit() + 20, 1)
        self.assertEqual(len(self.successResultOf(asked).holders), 1)
        while not nodes[0].replicas._looking:
            self.run_for(1, 1)
        nodes[0].stop()
        gc.collect()
        self.assertEqual((nodes[0].replicas._looking, self.flushLoggedErrors()), ({}, []))

    def test_unpinned_it_goes(self) -> None:
        nodes = self.mesh(1)
        stored = self.sealed(nodes[0], b"record")
        self.replicate(nodes[0], stored)
        self.successResultOf(nodes[0].replicas.pin(stored, "other"))
        self.successResultOf(nodes[0].replicas.unpin(stored, "decision"))
        self.assertEqual(self.having(nodes, stored), nodes)
        self.successResultOf(nodes[0].replicas.unpin(stored, "other"))
        self.assertEqual(self.having(nodes, stored), [])
        self.assertEqual((len(nodes[0].replicas.looks), self.table.providers[provider_key(stored)]), (0, []))


class GivenUpTests(ReplicaCase):
    """A ciphertext that a rotation replaced."""

    def setUp(self) -> None:
        super().setUp()
        self.nodes = self.mesh(4)
        self.stored = self.sealed(self.nodes[0], b"record")
        self.replicate(self.nodes[0], self.stored)
        self.run_for(looks.FIRST_S + 5, 1)

    def give_up(self) -> None:
        self.successResultOf(self.until(self.nodes[0].replicas.unpin(self.stored, "decision")))
        self.run_for(1)

    def test_holders_remove_it_a_day_after_its_author(self) -> None:
        self.give_up()
        self.assertEqual(len(self.having(self.nodes, self.stored)), 2, "readers may still have its id")
        self.run_for(keeping.DROPPED_S - replicas.SWEEP_S, 300)
        self.assertEqual(len(self.having(self.nodes, self.stored)), 2, "and nobody pushes it again")
        self.run_for(2 * replicas.SWEEP_S, 300)
        self.assertEqual(self.having(self.nodes, self.stored), [])
        self.assertEqual(self.table.providers[provider_key(self.stored)], [])
        self.assertEqual([node.blobs.pins.pushed_beside("") for node in self.nodes], [0] * 4)

    def test_a_holder_that_restarts_meanwhile(self) -> None:
        self.give_up()
        holder, _ = self.having(self.nodes, self.stored)
        holder.stop()
        self.run_for(keeping.DROPPED_S, 300)
        again = ReplicaNode(self, holder.number, None, holder.root)
        self.run_for(replicas.SWEEP_S + 5, 300)
        self.assertEqual(self.having([again], self.stored), [])

    def test_nobody_gives_up_what_another_pushed(self) -> None:
        holders = [node for node in self.having(self.nodes, self.stored) if node is not self.nodes[0]]
        liar = next(node for node in self.nodes if node not in holders and node is not self.nodes[0])
        for holder in holders:
            self.until(Deferred.fromCoroutine(liar.replicas.pushing.drop(holder.peer, self.stored)))
            self.assertTrue(holder.blobs.pins.lasting(self.stored, PUSHED, str(self.nodes[0].peer)))

    def test_pushed_again_it_stays(self) -> None:
        self.give_up()
        holder, _ = self.having(self.nodes, self.stored)
        text = (holder.root / "blobs" / self.stored[:2] / self.stored).read_bytes()
        self.successResultOf(self.nodes[0].replicas.keep_sealed(text))
        self.replicate(self.nodes[0], self.stored)
        self.run_for(keeping.DROPPED_S + 2 * replicas.SWEEP_S, 300)
        self.assertEqual(len(self.having(self.nodes, self.stored)), 3)


def keeping_limit() -> float:
    """Seconds of a small push, with the wait for its answer, to three that say nothing."""
    return KeepRequest("ab" * 32, 1).limit_s * 2 + 20


class KeepTests(ReplicaCase):
    """A node that is asked to keep blobs."""

    def stall(self, node: ReplicaNode) -> None:
        """Nothing arrives any more on the streams that the node opened."""
        for connection in node.host.connections():
            for stream in connection.streams:  # type: ignore[attr-defined]
                stream.stalled = not stream.inbound

    def ask(self, host: MemoryHost, peer: Node, request: bytes) -> Deferred[Answer]:
        async def talk() -> Answer:
            io = StreamIO(await host.open_stream(peer.host.peer_id, [PROTOCOL]), self.fake, timeout=math.inf)
            await io.write_delimited(request)
            answer = Answer.decode(await io.read_delimited(256))
            io.reset()
            return answer

        return Deferred.fromCoroutine(talk())

    def keep(self, source: ReplicaNode, holder: ReplicaNode, data: bytes, seed: int = 1) -> Deferred[Answer]:
        stored = self.successResultOf(source.blobs.put_bytes(data)).sha256
        return self.ask(source.host, holder, KeepRequest(stored, len(data)).encode())

    def test_limit_keeps(self) -> None:
        """Half of the fetches at most are pushes, and one of one peer."""
        holder, *sources = self.mesh(6)
        self.after_chunks(1, lambda: self.stall(holder))
        pairs = [(source, seed) for source in sources for seed in (1, 2)]
        asked = [self.keep(source, holder, aged(8 * CHUNK, 10 * source.number + seed)) for source, seed in pairs]
        self.run_for(1)
        refused = [self.successResultOf(each).status for each in asked if each.called]
        self.assertEqual(refused, ["busy"] * (len(pairs) - keeping.MAX_KEEPS))
        self.assertEqual([each.called for each in asked[:4]], [False, True, False, True], "one of one peer")
        for each in asked:
            each.addErrback(lambda _: None)

    def test_limit_bytes_of_a_peer(self) -> None:
        holder, source, other = self.mesh(3, lambda _: BlobLimits(max_kept_per_peer=3 * CHUNK))
        first, second = aged(2 * CHUNK, 1), aged(2 * CHUNK, 2)
        answers = [self.successResultOf(self.until(self.keep(source, holder, data))).status for data in (first, second)]
        self.assertEqual(answers, ["ok", "full"])
        self.assertEqual(self.successResultOf(self.until(self.keep(source, holder, first))).status, "ok", "had it")
        self.assertEqual(
            self.successResultOf(self.until(self.keep(other, holder, second))).status, "ok", "another peer"
        )

    def test_limit_share_of_the_store(self) -> None:
        """Many members push no more than half of it full, and what is taken back frees its part once it is gone."""
        limits = BlobLimits(max_store=20_000, max_kept_per_peer=5000)
        holder, *sources = self.mesh(5, lambda n: limits if n == 1 else None)
        blobs = [aged(4400, source.number) for source in sources]
        asked = [*zip(sources, blobs, strict=True), (sources[2], blobs[0])]
        answers = [self.successResultOf(self.until(self.keep(each, holder, data))).status for each, data in asked]
        self.assertEqual(answers, ["ok", "ok", "full", "full", "ok"], "the last one is here already")
        self.successResultOf(self.until(holder.blobs.put_bytes(noise(9000, 99))))
        self.until(Deferred.fromCoroutine(sources[1].replicas.pushing.drop(holder.peer, sha(blobs[1]))))
        self.assertFalse(holder.blobs.pins.lasting(sha(blobs[1]), PUSHED, str(sources[1].peer)), "it stays for a day")
        holder.stop()
        restarted = ReplicaNode(self, 1, limits, holder.root)
        self.assertEqual(restarted.blobs.pins.pushed_beside(""), 8800)
        self.successResultOf(Deferred.fromCoroutine(restarted.blobs.pins.drop(sha(blobs[0]), PUSHED)))
        self.assertEqual(restarted.blobs.pins.pushed_beside(""), 4400)

    def test_limit_of_a_blob_and_of_the_store(self) -> None:
        limits = BlobLimits(max_blob=CHUNK, max_store=2 * CHUNK + 5000)
        holder, source = self.mesh(2, lambda n: limits if n == 1 else None)
        for own in (noise(CHUNK), noise(4000)):
            self.successResultOf(self.until(holder.blobs.put_bytes(own)))
        for data, status in ((aged(CHUNK + 1), "full"), (aged(CHUNK), "ok"), (aged(2000), "full")):
            self.assertEqual(self.successResultOf(self.until(self.keep(source, holder, data))).status, status)
        self.assertEqual(holder.blobs._reserved, 0)

    def test_larger_than_it_said(self) -> None:
        holder, source = self.mesh(2)
        stored = self.successResultOf(source.blobs.put_bytes(aged(1000))).sha256
        asked = self.ask(source.host, holder, KeepRequest(stored, 10).encode())
        self.assertEqual(self.successResultOf(self.until(asked)).status, "bad")
        self.assertNotIn(stored, holder.blobs.pins)

    def test_plaintext_is_refused(self) -> None:
        """Else a member could have others announce and push on what they have in plain."""
        holder, source = self.mesh(2)
        for data in (b"plain", noise(2 * CHUNK)):
            for node in (holder, source):
                self.successResultOf(node.blobs.put_bytes(data))
            asked = self.ask(source.host, holder, KeepRequest(sha(data), len(data)).encode())
            self.assertEqual(self.successResultOf(self.until(asked)).status, "bad")
            self.assertFalse(holder.blobs.pins.is_sealed(sha(data)))
            self.assertNotIn(sha(data), holder.blobs.pins)
            self.assertEqual(self.table.providers[provider_key(sha(data))], [])

    def test_refused_plaintext_leaves_nothing(self) -> None:
        holder, source = self.mesh(2)
        data = noise(4 * CHUNK)
        self.assertEqual(self.successResultOf(self.until(self.keep(source, holder, data))).status, "bad")
        self.assertEqual((holder.files(), holder.blobs.used), ([], 0))
        wanted = []
        self.after_chunks(1, lambda: wanted.append(holder.blobs.fetch(sha(data), len(data), [source.peer])))
        self.assertEqual(self.successResultOf(self.until(self.keep(source, holder, data))).status, "bad")
        self.assertEqual(self.successResultOf(self.until(wanted[0])).read_bytes(), data, "but what a task wants stays")
        self.assertEqual(holder.files(), [sha(data)])

    def test_not_there(self) -> None:
        holder, source = self.mesh(2)
        asked = self.ask(source.host, holder, KeepRequest("ab" * 32, 10).encode())
        self.assertEqual(self.successResultOf(self.until(asked)).status, "unknown")
        self.assertNotIn("ab" * 32, holder.blobs.pins)
        self.assertFalse(holder.blobs.pins.is_sealed("ab" * 32))

    def test_pushes_to_one_peer_take_turns(self) -> None:
        holder, source = self.mesh(2)
        stored = [self.sealed(source, noise(3 * CHUNK, seed)) for seed in range(5)]
        asked = [source.replicas.replicate(each, "decision") for each in stored]
        for each in asked:
            self.assertTrue(self.successResultOf(self.until(each)).safe)
        self.assertEqual((source.replicas.pushing.refusals, source.replicas.pushing._turns), ({}, {}))
        self.assertEqual(holder.blobs.counters.kept, 5)

    def test_a_peer_that_is_slow_keeps_no_other_push_waiting(self) -> None:
        holder, source = self.mesh(2)
        holder.host.served[PROTOCOL] = lambda stream: None
        first, second = (source.replicas.replicate(self.sealed(source, b"record"), "decision") for _ in range(2))
        self.run_for(WAIT_S + 1, 1)
        self.assertFalse(self.successResultOf(second).safe)
        self.assertEqual((first.called, source.replicas.pushing.refusals), (False, {"busy": 1}))
        self.run_for(keeping_limit(), 1)
        self.assertFalse(self.successResultOf(first).safe)

    def test_a_slow_push_gives_its_place_back(self) -> None:
        holder, source = self.mesh(2)
        data = aged(8 * CHUNK)
        asked = self.keep(source, holder, data)
        self.after_chunks(2, lambda: self.stall(holder))
        self.run_for(0.1)
        source.host.served[PROTOCOL] = lambda stream: None
        self.run_for(KeepRequest(sha(data), len(data)).limit_s - 1, 1)
        self.assertIn(sha(data), holder.blobs.pins)
        self.run_for(2, 1)
        self.assertEqual(holder.blobs._server._keep.__self__._running.total(), 0)  # type: ignore[attr-defined]
        self.assertNotIn(sha(data), holder.blobs.pins)
        asked.addErrback(lambda _: None)

    def test_an_unknown_request_is_bad_and_the_stream_goes_on(self) -> None:
        holder, source = self.mesh(2)
        for request in (b'{"get":"proof","sha256":"00"}', HaveRequest("ab" * 32).encode()):
            self.assertIn(
                self.successResultOf(self.until(self.ask(source.host, holder, request))).status, ("bad", "unknown")
            )
        self.assertEqual(holder.blobs.counters.refused_peers, 0)

    def test_pinned_ones_stay(self) -> None:
        holder, source = self.mesh(2)
        data = aged(2000)
        self.successResultOf(self.until(self.keep(source, holder, data)))
        removed = holder.blobs.remove_unused(sha(data), math.inf, lambda: False)
        self.assertFalse(self.successResultOf(removed))

    def test_cut_in_the_middle_it_goes_on_where_it_was(self) -> None:
        holder, source = self.mesh(2)
        data = aged(40 * CHUNK)
        asked = self.keep(source, holder, data)
        self.after_chunks(10, source.leave)
        self.failureResultOf(self.until(asked))
        connect(source.host, holder.host)
        self.assertEqual(self.successResultOf(self.until(self.keep(source, holder, data))).status, "ok")
        self.assertLess(holder.blobs.counters.fetched_bytes, 50 * CHUNK)
        self.assertIn(sha(data), holder.blobs.pins)

    def test_the_holder_loses_power_in_the_middle(self) -> None:
        holder, source = self.mesh(2)
        data = aged(40 * CHUNK)
        asked = self.keep(source, holder, data)
        self.after_chunks(10, holder.stop)
        self.failureResultOf(self.until(asked))
        again = ReplicaNode(self, 1, None, holder.root)
        self.assertIsNone(again.blobs.size_of(sha(data)))
        connect(source.host, again.host)
        self.assertEqual(self.successResultOf(self.until(self.keep(source, again, data))).status, "ok")
        self.assertGreater(again.blobs.counters.resumed_bytes, 8 * CHUNK)

    def test_a_push_that_never_came_back_is_forgotten(self) -> None:
        (holder,) = self.mesh(1)
        pins, request = holder.blobs.pins, KeepRequest("ab" * 32, 10)
        guard = Pin(request.sha256, PUSHED, str(peer_id(9)), 10, 1e9 + self.fake.seconds() + request.limit_s)
        self.assertTrue(self.successResultOf(Deferred.fromCoroutine(pins.put(guard))))
        self.assertIn(request.sha256, pins)
        self.run_for(request.limit_s + 1, 5)
        self.assertNotIn(request.sha256, pins)


class PartTests(ReplicaCase):
    """A peer that is fetching a blob itself gives the chunks that it has."""

    def test_a_partial_holder_helps(self) -> None:
        here, whole, part = self.mesh(3)
        data = aged(60 * CHUNK)
        stored = self.successResultOf(whole.blobs.put_bytes(data)).sha256
        theirs = part.blobs.fetch(stored, len(data), [whole.peer])
        asked: list[Deferred[Path]] = []
        both = [whole.peer, part.peer]
        self.after_chunks(30, lambda: asked.append(here.blobs.fetch(stored, len(data), both)))
        self.run_for(0.1)
        path = self.successResultOf(self.until(asked[0]))
        self.successResultOf(self.until(theirs))
        self.assertEqual(path.read_bytes(), data)
        self.assertGreater(part.blobs.counters.served_bytes, 0)
        self.assertEqual(here.blobs.counters.fetched_bytes, len(data))
        self.assertEqual(part.blobs._server._context.underway, {})


class SealedCase(ReplicaCase):
    """A small file, which needs no process, sealed by the first of four nodes."""

    def setUp(self) -> None:
        super().setUp()
        self.nodes = self.mesh(4)
        self.plain = noise(1000)
        source = Path(self.mktemp())
        source.write_bytes(self.plain)
        self.blob = self.successResultOf(self.nodes[0].replicas.seal_file(source))


class SealTests(SealedCase):
    def test_round_trip_over_other_nodes(self) -> None:
        blob = self.blob
        self.assertEqual(blob.size, 1000)
        self.assertNotIn(blob.key, repr(blob))
        self.replicate(self.nodes[0], blob.stored)
        self.nodes[0].stop()
        reader = next(node for node in self.nodes[1:] if node.blobs.size_of(blob.stored) is None)
        path = self.successResultOf(
            self.until(reader.replicas.unseal(blob.stored, blob.key, sha(self.plain), len(self.plain)))
        )
        self.assertEqual(path.read_bytes(), self.plain)
        self.assertIsNone(reader.blobs.size_of(blob.stored), "the ciphertext was only needed for that")
        for holder in self.having(self.nodes, blob.stored):
            for name in holder.files():
                self.assertNotIn(self.plain, (holder.root / "blobs" / name[:2] / name).read_bytes())

    def test_what_does_not_hold_what_the_record_says(self) -> None:
        node, blob = self.nodes[0], self.blob
        other = self.sealed(node, b"x")
        for stored, key, digest, size in (
            (blob.stored, blob.key, sha(b"another"), 1000),
            (blob.stored, blob.key, sha(self.plain), 999),
            (blob.stored, blob.key, sha(self.plain), 1001),
            (other, blob.key, sha(b"x"), 1),
            (blob.stored, "AGE-SECRET-KEY-1NOKEY", sha(self.plain), 1000),
        ):
            self.failureResultOf(self.until(node.replicas.unseal(stored, key, digest, size)), SealBroken)
        self.assertIsNone(node.blobs.size_of(sha(self.plain)))
        self.assertEqual([name for name in node.files() if "/" in name], [], "no partial plaintext is left")
        self.assertEqual(node.blobs._reserved, 0)


class Copies:
    """The one decision that a node may read."""

    def __init__(self, sha256: str, sealed: SealedBlob) -> None:
        self.sha256 = sha256
        self.sealed = sealed

    def sealed_copy_of(self, sha256: str) -> Deferred[SealedBlob | None]:
        return succeed(self.sealed if sha256 == self.sha256 else None)


class ReadableTests(SealedCase):
    def setUp(self) -> None:
        super().setUp()
        self.replicate(self.nodes[0], self.blob.stored)
        self.reader = next(node for node in self.nodes if node.blobs.size_of(self.blob.stored) is None)

    def readable(self, copies: Copies | None) -> ReadableBlobs:
        return ReadableBlobs(self.reader.blobs, self.reader.replicas, copies)

    def read(self, opened: Deferred[tuple[IO[bytes], int]]) -> bytes:
        file, size = self.successResultOf(self.until(opened))
        with file:
            data = file.read()
        self.assertEqual(len(data), size)
        return data

    def test_plaintext_where_only_sealed_copies_are(self) -> None:
        readable = self.readable(Copies(sha(self.plain), self.blob))
        self.assertEqual(self.read(readable.open(sha(self.plain))), self.plain)
        self.failureResultOf(self.until(readable.open("ab" * 32)), UnknownBlob)

    def test_without_a_decision_that_it_may_read(self) -> None:
        self.failureResultOf(self.until(self.readable(None).open(sha(self.plain))), UnknownBlob)
        self.assertEqual(self.reader.files(), [])

    def test_a_decision_that_lies(self) -> None:
        readable = self.readable(Copies("cd" * 32, self.blob))
        self.failureResultOf(self.until(readable.open("cd" * 32)), SealBroken)
        self.assertIsNone(self.reader.blobs.size_of(sha(self.plain)))

    def test_ciphertext_from_others(self) -> None:
        readable = self.readable(None)
        text = self.read(readable.open_sealed(self.blob.stored))
        self.assertEqual(sha(text), self.blob.stored)
        self.assertEqual(self.reader.files(), [], "it is not kept up here")
        self.assertEqual(
            self.read(ReadableBlobs(self.nodes[0].blobs, self.nodes[0].replicas, None).open_sealed(self.blob.stored)),
            text,
        )

    def test_two_readers_at_once(self) -> None:
        readable = self.readable(Copies(sha(self.plain), self.blob))
        stored = self.blob.stored
        asked = [readable.open_sealed(stored), readable.open(sha(self.plain)), readable.open_sealed(stored)]
        texts = [self.read(each) for each in asked]
        self.assertEqual((sha(texts[0]), texts[1], sha(texts[2])), (stored, self.plain, stored))
        self.assertIsNone(self.reader.blobs.size_of(stored), "the ciphertext goes with the last of them")
        self.assertEqual(len(self.reader.files()), 1)
        self.assertEqual((self.reader.replicas._users, self.reader.replicas._brought), ({}, set()))

    def unsealed(self, node: ReplicaNode) -> Path:
        blob = self.blob
        return self.successResultOf(
            self.until(node.replicas.unseal(blob.stored, blob.key, sha(self.plain), len(self.plain)))
        )

    def test_read_plaintext_is_for_no_member(self) -> None:
        """Not while it is there, nor as the input of a task, nor after a push of what begins as no age file."""
        path = self.unsealed(self.reader)
        self.assertEqual(path.read_bytes(), self.plain)
        [other] = [node for node in self.nodes if node is not self.reader][:1]
        asked = other.blobs.fetch(sha(self.plain), len(self.plain), [self.reader.peer])
        self.failureResultOf(self.until(asked), UnknownBlob)
        self.assertIsNone(self.reader.blobs.path_of(sha(self.plain)))
        readable = self.readable(None)
        self.assertEqual(self.read(readable.open(sha(self.plain))), self.plain, "its own reader has it")

    def test_read_plaintext_goes_after_a_day(self) -> None:
        path = self.unsealed(self.reader)
        self.run_for(plaintexts.PLAIN_S - 2 * plaintexts.SWEEP_S, plaintexts.SWEEP_S)
        self.assertTrue(path.exists())
        self.assertEqual(self.reader.blobs._reserved, len(self.plain))
        self.run_for(3 * plaintexts.SWEEP_S, plaintexts.SWEEP_S)
        self.assertEqual((path.exists(), self.reader.blobs._reserved, self.reader.files()), (False, 0, []))

    def test_read_plaintext_goes_with_a_role(self) -> None:
        path = self.unsealed(self.reader)
        self.reader.keyring.become("new", "one", "two")
        self.assertTrue(path.exists())
        self.reader.keyring.become("new", "one")
        self.assertEqual((path.exists(), self.reader.blobs._reserved), (False, 0))

    def test_one_that_cannot_be_removed_keeps_no_other(self) -> None:
        source = Path(self.mktemp())
        source.write_bytes(b"another")
        blob = self.successResultOf(self.reader.replicas.seal_file(source))
        paths = [self.unsealed(self.reader)]
        asked = self.reader.replicas.unseal(blob.stored, blob.key, sha(b"another"), len(b"another"))
        paths.append(self.successResultOf(self.until(asked)))
        with mock.patch.object(Ingest, "abort", side_effect=OSError(5, "Input/output error")):
            self.run_for(plaintexts.PLAIN_S + plaintexts.SWEEP_S, plaintexts.SWEEP_S)
        self.assertEqual(len(self.flushLoggedErrors(FirstError)), 1)
        texts = self.reader.replicas.plaintexts
        self.assertEqual([texts.path(sha(self.plain)), texts.path(sha(b"another"))], [None, None])
        self.assertEqual((self.reader.blobs._reserved, [path.exists() for path in paths]), (0, [True, True]))

    def test_a_role_that_is_lost_while_it_is_unsealed(self) -> None:
        unsealing = self.reader.replicas.unseal(self.blob.stored, self.blob.key, sha(self.plain), len(self.plain))
        self.reader.keyring.become("one")
        self.failureResultOf(self.until(unsealing), UnknownBlob)
        self.assertEqual((self.reader.files(), self.reader.blobs._reserved), ([], 0))

    def test_read_plaintext_does_not_outlive_the_process(self) -> None:
        path = self.unsealed(self.reader)
        again = ReplicaNode(self, 9, None, self.reader.root)
        self.assertFalse(path.exists(), "killed: the next start removes it")
        for holder in self.having(self.nodes, self.blob.stored):
            connect(again.host, holder.host)
        path = self.unsealed(again)
        again.stop()
        self.assertFalse(path.exists())

    def test_limit_of_read_plaintext(self) -> None:
        """The oldest makes room for the next one."""
        most = int(plaintexts.PLAIN_SHARE * 10_000)
        node = ReplicaNode(self, 9, BlobLimits(max_store=10_000))
        paths = []
        for seed in range(3):
            source = Path(self.mktemp())
            source.write_bytes(noise(most // 2, seed))
            blob = self.successResultOf(node.replicas.seal_file(source))
            paths.append(
                self.successResultOf(
                    self.until(node.replicas.unseal(blob.stored, blob.key, sha(source.read_bytes()), most // 2))
                )
            )
        self.assertEqual([path.exists() for path in paths], [False, True, True])

    def test_what_was_here_before_stays(self) -> None:
        node = self.nodes[0]
        source = Path(self.mktemp())
        source.write_bytes(b"not pushed yet")
        blob = self.successResultOf(node.replicas.seal_file(source))
        readable = ReadableBlobs(node.blobs, node.replicas, None)
        self.read(readable.open_sealed(blob.stored))
        self.assertIsNotNone(node.blobs.size_of(blob.stored))

    def test_plaintext_is_no_ciphertext(self) -> None:
        plain = self.successResultOf(self.reader.blobs.put_bytes(b"plain")).sha256
        for name in (plain, "ab" * 32, "../../etc/passwd"):
            self.failureResultOf(self.until(self.readable(None).open_sealed(name)), UnknownBlob)
