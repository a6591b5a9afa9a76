from __future__ import annotations

import errno
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.simulation.disk import DiskFaults, SimDisk
from chorus.simulation.ledger.journal import FILE, DiskFailed, SimJournal
from chorus.simulation.net.reactor import SimReactor
from chorus.simulation.world import World
from chorus.tasks import entries, ids
from chorus.tasks.journal import Entry, NoQuorum
from tests.support import PureTestCase

NAMES = ("a", "b", "c")
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.sampled_from(NAMES), st.binary(min_size=1, max_size=1500)),
        st.tuples(st.just("write"), st.sampled_from(NAMES), st.integers(0, 800), st.binary(min_size=1, max_size=300)),
        st.tuples(st.just("truncate"), st.sampled_from(NAMES), st.integers(0, 500)),
        st.tuples(st.just("fsync"), st.sampled_from(NAMES)),
        st.tuples(st.just("rename"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
        st.tuples(st.just("unlink"), st.sampled_from(NAMES)),
        st.tuples(st.just("sync_directory")),
    ),
    max_size=25,
)


def play(disk: SimDisk, steps: list[tuple[object, ...]]) -> None:
    for name, *arguments in steps:
        if arguments and not disk.exists(str(arguments[0])):
            disk.create(str(arguments[0]))
        getattr(disk, str(name))(*arguments)


def contents(disk: SimDisk) -> dict[str, bytes]:
    return {name: disk.read(name) for name in disk.names()}


class Crashes(PureTestCase):
    @given(STEPS, st.integers(0, 2**32))
    def test_what_was_synced_survives_and_everything_may(self, steps: list[tuple[object, ...]], seed: int) -> None:
        disk = SimDisk(random.Random(seed), DiskFaults(drop=0, tear=0))
        play(disk, steps)
        before = contents(disk)
        disk.crash()
        self.assertEqual(contents(disk), before)

    @given(STEPS, st.integers(0, 2**32))
    def test_nothing_but_what_was_synced_need_survive(self, steps: list[tuple[object, ...]], seed: int) -> None:
        disk = SimDisk(random.Random(seed), DiskFaults(drop=1))
        play(disk, steps)
        kept = {name: disk.durable(name) for name in NAMES if disk.durable(name) is not None}
        disk.crash()
        self.assertEqual(set(contents(disk)), set(kept))
        for name, content in contents(disk).items():
            self.assertEqual(content[: len(kept[name] or b"")], kept[name])
            self.assertEqual(content[len(kept[name] or b"") :].strip(b"\0"), b"")

    @given(STEPS, st.integers(0, 2**32))
    def test_a_second_crash_changes_nothing(self, steps: list[tuple[object, ...]], seed: int) -> None:
        disk = SimDisk(random.Random(seed), DiskFaults(drop=0.5, tear=0.5))
        play(disk, steps)
        disk.crash()
        before = contents(disk)
        disk.crash()
        self.assertEqual(contents(disk), before)

    @given(st.lists(st.binary(min_size=1, max_size=700), min_size=1, max_size=12), st.data())
    def test_a_synced_prefix_of_appends_is_whole(self, parts: list[bytes], data: st.DataObject) -> None:
        synced = data.draw(st.integers(0, len(parts)))
        disk = SimDisk(random.Random(data.draw(st.integers(0, 2**32))), DiskFaults(drop=0.5, tear=0.5))
        disk.create("log")
        disk.sync_directory()
        for number, part in enumerate(parts):
            if number == synced:
                disk.fsync("log")
            disk.append("log", part)
        if synced == len(parts):
            disk.fsync("log")
        disk.crash()
        self.assertTrue(disk.read("log").startswith(b"".join(parts[:synced])))

    def outcomes(self, prepare: object) -> set[tuple[tuple[str, bytes], ...]]:
        found = set()
        for seed in range(200):
            disk = SimDisk(random.Random(seed))
            prepare(disk)  # type: ignore[operator]
            disk.crash()
            found.add(tuple(contents(disk).items()))
        return found

    def test_writes_are_dropped_torn_and_applied_in_any_combination(self) -> None:
        def prepare(disk: SimDisk) -> None:
            disk.create("f")
            disk.sync_directory()
            disk.append("f", b"AAAA")
            disk.append("f", b"BBBB")

        found = {content for ((_, content),) in self.outcomes(prepare)}
        for expected in (b"", b"AAAA", b"AAAABBBB", b"\0\0\0\0BBBB", b"A", b"AAAABB", b"\0\0\0\0\0\0\0\0"):
            self.assertIn(expected, found)

    def test_a_rename_without_a_sync_of_the_directory_may_vanish_but_never_by_half(self) -> None:
        def prepare(disk: SimDisk) -> None:
            disk.create("new")
            disk.append("new", b"2")
            disk.fsync("new")
            disk.create("old")
            disk.append("old", b"1")
            disk.fsync("old")
            disk.sync_directory()
            disk.rename("new", "old")

        self.assertEqual(self.outcomes(prepare), {(("new", b"2"), ("old", b"1")), (("old", b"2"),)})


class Errors(PureTestCase):
    def disk(self, **faults: float) -> SimDisk:
        disk = SimDisk(random.Random(1), DiskFaults(**faults))  # type: ignore[arg-type]
        disk.create("f")
        return disk

    def errno_of(self, call: object, *arguments: object) -> int | None:
        return self.assertRaises(OSError, call, *arguments).errno

    def test_a_failed_sync_cannot_be_repeated(self) -> None:
        disk = self.disk(drop=1.0)
        disk.sync_directory()
        disk.append("f", b"lost")
        disk.faults = DiskFaults(sync_error=1.0)
        self.assertEqual(self.errno_of(disk.fsync, "f"), errno.EIO)
        disk.faults = DiskFaults()
        disk.fsync("f")
        self.assertEqual((disk.read("f"), disk.durable("f")), (b"lost", b""))

    def test_a_full_disk_a_damaged_sector_and_a_missing_file(self) -> None:
        disk = self.disk(capacity=10)
        disk.append("f", b"0123456789")
        self.assertEqual(self.errno_of(disk.append, "f", b"x"), errno.ENOSPC)
        disk.write("f", 0, b"over")
        self.assertEqual(disk.read("f"), b"over456789")
        self.assertEqual(self.errno_of(disk.read, "g"), errno.ENOENT)
        disk.faults = DiskFaults(read_error=1.0)
        self.assertEqual(self.errno_of(disk.read, "f"), errno.EIO)

    def test_a_bit_turns_over(self) -> None:
        disk = self.disk(flip=1.0)
        disk.append("f", bytes(100))
        disk.fsync("f")
        disk.sync_directory()
        disk.crash()
        self.assertEqual(sum(byte.bit_count() for byte in disk.read("f")), 1)


class Journals(PureTestCase):
    """The journal keeps its promise on the worst disk."""

    def entry(self, number: int) -> Entry:
        return entries.submitted(1.0, ids.make(number, bytes), {"commands": ["true"], "n": number}, "x", max_attempts=3)

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 2**32), st.lists(st.integers(0, 6), min_size=1, max_size=6))
    def test_what_was_acknowledged_is_there_after_every_crash(self, seed: int, rounds: list[int]) -> None:
        world = World(seed)
        disk = SimDisk(world.rng("disk"), DiskFaults(drop=0.5, tear=0.5))
        acknowledged: dict[int, Entry] = {}
        fences, number = set(), 0
        for count in rounds:
            reactor = SimReactor(world)
            journal = SimJournal(disk, reactor, world.rng("sync"))
            journal.start()
            for index, entry in acknowledged.items():
                self.assertEqual(journal.entries[index - 1], entry)
            for _ in range(count):
                number += 1
                entry = self.entry(number)
                journal.append(entry).addCallback(lambda applied: acknowledged.setdefault(applied.index, applied.entry))
                world.run_for(world.rng("wait", number).random() * 0.04)
            for index in acknowledged:
                if journal.fence_of(index).term == journal.start_count:
                    self.assertNotIn(journal.fence_of(index), fences)
                    fences.add(journal.fence_of(index))
            reactor.kill()
            disk.crash()

    def test_a_disk_that_refuses_closes_the_journal(self) -> None:
        world = World(1)
        disk = SimDisk(world.rng("disk"))
        journal = SimJournal(disk, SimReactor(world), world.rng("sync"))
        self.failureResultOf(journal.append(self.entry(1)), NoQuorum)
        journal.start()
        disk.faults = DiskFaults(sync_error=1.0)
        refused = [journal.append(self.entry(1)), journal.append(self.entry(2))]
        world.run_for(1)
        for done in refused:
            self.failureResultOf(done, DiskFailed)
        self.failureResultOf(journal.append(self.entry(3)), NoQuorum)
        again = SimJournal(disk, SimReactor(world), world.rng("sync"))
        self.assertRaises(DiskFailed, again.start)

    def test_a_flipped_bit_ends_what_is_read(self) -> None:
        world = World(1)
        disk = SimDisk(world.rng("disk"))
        journal = SimJournal(disk, SimReactor(world), world.rng("sync"))
        journal.start()
        for number in (1, 2, 3):
            journal.append(self.entry(number))
            world.run_for(1)
        content = disk.read(FILE)
        disk.write(FILE, len(content) // 2, bytes((content[len(content) // 2] ^ 1,)))
        again = SimJournal(disk, SimReactor(world), world.rng("sync"))
        again.start()
        self.assertLess(len(again.entries), 3)
        self.assertEqual(again.entries, journal.entries[: len(again.entries)])
