from __future__ import annotations

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from twisted.logger import capturedLogs

from chorus import descriptors
from chorus.services.execution.headroom import DISK_RESERVE, INODE_RESERVE, LOOK_S, Headroom, disk_trouble
from tests.support import PureTestCase

GIB = 1 << 30


def disk(*, size: int = 100 * GIB, free: int = 50 * GIB, files: int = 0, free_files: int = 0) -> os.statvfs_result:
    found = SimpleNamespace(f_frsize=4096, f_blocks=size // 4096, f_bavail=free // 4096)
    found.f_files, found.f_favail = files, free_files
    return cast("Any", found)


class DiskTests(PureTestCase):
    def test_the_reserve(self) -> None:
        for size, free, well in (
            (100 * GIB, DISK_RESERVE, True),
            (100 * GIB, DISK_RESERVE - 4096, False),
            (100 * GIB, 0, False),
            # A twentieth of a small one.
            (40 << 20, 2 << 20, True),
            (40 << 20, (2 << 20) - 4096, False),
        ):
            found = disk_trouble(disk(size=size, free=free), "/data")
            self.assertEqual(found is None, well, (size, free))
            if found is not None:
                self.assertIn("/data has ", found)

    def test_files(self) -> None:
        for files, free, well in ((0, 0, True), (10**6, INODE_RESERVE, True), (10**6, INODE_RESERVE - 1, False)):
            self.assertEqual(disk_trouble(disk(files=files, free_files=free), "x") is None, well, (files, free))
        self.assertIsNone(disk_trouble(disk(files=200, free_files=10), "x"))


class HeadroomTests(PureTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()
        self.time = self.clock()
        self.damage: str | None = None
        self.changes: list[str | None] = []
        self.headroom = Headroom(self.directory, cast("Any", self.time), lambda: self.damage, self.changed)

    def changed(self) -> None:
        found = self.headroom.blocked_by()
        self.changes.append(None if found is None else found[0])

    def look(self) -> None:
        self.time.advance(LOOK_S)

    def test_others_hear_of_changes_once(self) -> None:
        full = disk(free=0)
        with mock.patch("os.statvfs", return_value=disk()) as stat, capturedLogs() as said:
            self.headroom.startService()
            self.addCleanup(self.headroom.stopService)
            self.look()
            self.assertEqual(self.changes, [])
            stat.return_value = full
            self.look()
            self.look()
            self.assertEqual(self.changes, ["no_disk"])
            self.damage = "page 7"
            self.look()
            self.assertEqual(self.headroom.blocked_by(), ("store_damaged", "page 7"))
            self.damage, stat.return_value = None, disk()
            self.look()
            with mock.patch("os.listdir", side_effect=OSError(errno.EMFILE, "Too many open files")):
                self.look()
            self.look()
        self.assertEqual(self.changes, ["no_disk", "store_damaged", None, "no_descriptors", None])
        self.assertEqual(
            [event["event"] for event in said],
            ["headroom.lost", "headroom.lost", "headroom.regained", "headroom.lost", "headroom.regained"],
        )

    def test_a_disk_that_is_gone(self) -> None:
        self.directory.rmdir()
        self.assertIn("No such file", self.headroom.disk() or "")


class DescriptorTests(PureTestCase):
    def limits(self, soft: int, hard: int) -> list[Any]:
        state: list[Any] = [(soft, hard)]
        self.patch(descriptors.resource, "getrlimit", lambda which: state[-1])
        self.patch(descriptors.resource, "setrlimit", lambda which, limits: state.append(limits))
        return state

    def test_raised_as_far_as_it_may_be_and_never_lowered(self) -> None:
        for soft, hard, number, then in (
            (64, 4096, 900, 900),
            (64, 512, 900, 512),
            (1024, 4096, 900, 1024),
            (64, -1, 900, 900),
            (-1, -1, 900, 1 << 30),
        ):
            state = self.limits(soft, hard)
            self.assertEqual(descriptors.raise_to(number), then, (soft, hard))
            self.assertEqual(state[-1][1], hard)
            self.assertEqual(descriptors.limit(), then)

    def test_required(self) -> None:
        self.limits(16, descriptors.LEAST)
        descriptors.require()
        self.limits(16, descriptors.LEAST - 1)
        with self.assertRaises(descriptors.TooFewDescriptors) as caught:
            descriptors.require()
        text = str(caught.exception)
        self.assertIn(f"may open {descriptors.LEAST - 1} files", text)
        self.assertIn("ulimit -n", text)
        self.assertNotIn("\n", text)

    def test_wanted_covers_the_defaults_within_the_usual_limit(self) -> None:
        self.assertLessEqual(descriptors.LEAST, descriptors.wanted(tasks=1, peers=4, http=12))
        self.assertLessEqual(descriptors.wanted(tasks=3, peers=192, http=512), 1024)

    def test_in_use(self) -> None:
        used = len(os.listdir("/proc/self/fd"))
        self.limits(used + descriptors.RESERVE + 20, 10**6)
        self.assertIsNone(descriptors.trouble())
        self.limits(used + descriptors.RESERVE - 5, 10**6)
        self.assertIn("descriptors are in use", descriptors.trouble() or "")
        with mock.patch("os.listdir", side_effect=OSError(errno.EMFILE, "Too many open files")):
            self.assertIn("Too many open files", descriptors.trouble() or "")
        with mock.patch("os.listdir", side_effect=FileNotFoundError):
            self.assertIsNone(descriptors.trouble())
