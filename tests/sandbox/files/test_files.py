"""Output spools, artifacts, volumes and control groups, on the real file system."""

from __future__ import annotations

import errno
import fnmatch
import functools
import itertools
import os
import random
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.sandbox import cgroups, processes
from chorus.sandbox import globs as globs_module
from chorus.sandbox.bubblewrap.pipes import Pipe
from chorus.sandbox.docker.box import Contained
from chorus.sandbox.files import artifacts, output_walk, trees, volumes
from chorus.sandbox.files.artifacts import collect
from chorus.sandbox.files.workspace import Box, fill, leave, prepare, write_script
from chorus.sandbox.globs import Globs
from chorus.sandbox.spool import PIECE, TURN, PipeSpool, Tail
from chorus.tasks.terms import Limits
from tests.sandbox.support import Recorder, archive, shell
from tests.support import PureTestCase


class Folder(PureTestCase):
    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        self.root.mkdir(parents=True)


class Spools(Folder):
    @settings(deadline=None, max_examples=50)
    @given(st.lists(st.binary(max_size=40), max_size=12), st.integers(0, 100))
    def test_cap(self, writes: list[bytes], cap: int) -> None:
        seen = Recorder()
        path = self.root / "out"
        spool = PipeSpool("stdout", path, cap, seen)
        for data in writes:
            spool.write(data)
        spool.close()
        everything = b"".join(writes)
        self.assertEqual(seen.got["stdout"], everything[:cap])
        self.assertEqual(path.read_bytes(), everything[:cap])
        self.assertEqual(spool.truncated, len(everything) > cap)
        self.assertEqual(spool.discarded, max(0, len(everything) - cap))

    def test_a_disk_that_takes_no_more(self) -> None:
        """What was written is kept, the reader goes on, and the one who watches is told."""
        seen, told = Recorder(), []
        spool = PipeSpool("stdout", self.root / "out", 100, seen)
        write = os.write

        def full(fd: int, data: bytes) -> int:
            if os.fstat(fd).st_size >= 6:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(fd, data[: 6 - os.fstat(fd).st_size])

        read, end = os.pipe()
        reactor = SimpleNamespace(addReader=lambda pipe: None, removeReader=lambda pipe: None)
        pipe = Pipe(cast("Any", reactor), read, spool, lambda: told.append(spool.failed is not None))
        os.write(end, b"abcd")
        pipe.doRead()
        self.assertEqual(told, [])
        with mock.patch("os.write", full):
            write(end, b"efgh")
            pipe.doRead()
            self.assertEqual(told, [True])
            write(end, b"more")
            pipe.doRead()
        os.close(end)
        pipe.doRead()
        self.assertTrue(pipe.at_end)
        spool.close()
        self.assertEqual((seen.got["stdout"], spool.kept), (b"abcdef", 6))
        self.assertEqual((self.root / "out").read_bytes(), b"abcdef")

    def test_a_pump_that_gave_up_below_its_cap(self) -> None:
        box = Box(self.root / "box")
        (box.control / "out").mkdir(parents=True)
        found = Contained("id", "image", box, cast("Any", None), Limits())
        out = box.control / "out" / "stdout"
        self.assertFalse(found.output_lost("stdout", 1 << 20))
        out.write_bytes(b"x" * (1 << 20))
        self.assertFalse(found.output_lost("stdout", 1 << 20))
        (box.control / "out" / "stdout.cut").touch()
        self.assertFalse(found.output_lost("stdout", 1 << 20), "cut at the cap, as it should be")
        os.truncate(out, 5000)
        self.assertTrue(found.output_lost("stdout", 1 << 20))
        out.unlink()
        self.assertTrue(found.output_lost("stdout", 1 << 20))

    def test_tail_follows_from_an_offset(self) -> None:
        path = self.root / "out"
        tail = Tail("stderr", path, 1 << 20, seen := Recorder(stderr_from=3), 3)
        self.assertEqual(tail.poll(), 0)
        path.write_bytes(b"abcdef")
        self.assertEqual(tail.poll(), 3)
        with path.open("ab") as file:
            file.write(b"ghi")
        self.assertEqual(tail.poll(), 3)
        self.assertEqual(seen.got["stderr"], b"defghi")
        tail.close()

    def test_tail_takes_turns_and_stops_at_the_cap(self) -> None:
        path = self.root / "out"
        path.write_bytes(os.urandom(TURN + 5 * PIECE))
        tail = Tail("stdout", path, TURN + 10, seen := Recorder())
        self.assertEqual(tail.poll(), TURN)
        self.assertEqual(tail.poll(), 10)
        self.assertEqual(seen.got["stdout"], path.read_bytes()[: TURN + 10])
        tail.close()

    def test_tail_opens_nothing_but_a_file(self) -> None:
        (self.root / "secret").write_bytes(b"x")
        (self.root / "link").symlink_to("secret")
        os.mkfifo(self.root / "fifo")
        for name in ("link", "fifo", "nowhere"):
            self.assertEqual(Tail("stdout", self.root / name, 10, Recorder()).poll(), 0)

    def test_what_is_left_is_no_link(self) -> None:
        box, scratch = Box(self.root / "box"), self.root / "scratch"
        box.control.mkdir(parents=True)
        (self.root / "secret").write_bytes(b"x")
        (box.control / "stdout").symlink_to(self.root / "secret")
        (box.control / "stderr").write_bytes(b"kept")
        leave(box, scratch, lambda name: box.control / name)
        self.assertEqual(os.listdir(scratch), ["stderr"])
        self.assertFalse(box.root.exists())


class Modes(Folder):
    """twistd's daemon has the umask 077, and a sandbox's user is not the agent's."""

    def setUp(self) -> None:
        super().setUp()
        self.addCleanup(os.umask, os.umask(0o077))

    def mode(self, path: Path) -> int:
        return stat.S_IMODE(path.lstat().st_mode)

    def fill(self, owner: tuple[int, int] | None = None) -> Box:
        box = Box(self.root / "scratch" / "box")
        prepare(box, 8, owner, loop=False)
        job = shell("true", input_archive=archive(self.root, {"a/b.txt": b"x"}))
        fill(box, job, owner, lambda: False)
        write_script(box, job)
        return box

    def test_everything_of_a_box_is_reached(self) -> None:
        box = self.fill()
        for folder in (box.root, box.fs):
            self.assertEqual(self.mode(folder), 0o700, folder)
        for folder in (box.input, box.control, box.data, box.output, box.home, box.input / "a"):
            self.assertEqual(self.mode(folder), 0o755, folder)
        self.assertEqual(self.mode(box.control / "commands"), 0o444)
        self.assertEqual(self.mode(box.input / "a" / "b.txt"), 0o755)

    def test_everything_of_a_box_is_closed_to_others(self) -> None:
        """With the most open umask too; the task's user passes by its group."""
        os.umask(0)
        box = self.fill((64300, 64300) if os.geteuid() == 0 else None)
        root = os.geteuid() == 0
        self.assertEqual((self.mode(box.root), self.mode(box.root.parent)), (0o710 if root else 0o700, 0o700))
        self.assertEqual(box.root.stat().st_gid, 64300 if root else os.getegid())
        self.assertEqual([path for path in box.root.rglob("*") if self.mode(path) & 0o022], [])
        volumes.create_private(self.root / "x").close()
        volumes.make_folder(self.root / "y", 0o755)
        self.assertEqual((self.mode(self.root / "x"), self.mode(self.root / "y")), (0o600, 0o755))

    def test_room_for_what_a_task_may_write(self) -> None:
        self.patch(os, "statvfs", lambda path: os.statvfs_result((4096, 4096, 100000, 50000, 40000, 0, 0, 0, 0, 255)))
        taken: list[int] = []
        self.patch(os, "posix_fallocate", lambda fd, start, size: taken.append(size))
        volumes.leave_free(self.root, 100)
        volumes.leave_free(self.root, 157)
        self.assertEqual(taken, [40000 * 4096 - (100 << 20)])

    def test_a_folder_has_the_mode_asked_for(self) -> None:
        volumes.make_folder(self.root / "above" / "x", 0o711)
        self.assertEqual((self.mode(self.root / "above"), self.mode(self.root / "above" / "x")), (0o711, 0o711))
        with self.assertRaises(FileExistsError):
            volumes.make_folder(self.root / "above", 0o755)
        # An agent of an earlier version may have left it closed.
        (self.root / "above").chmod(0o700)
        volumes.make_folder(self.root / "above", 0o711, exist_ok=True)
        self.assertEqual(self.mode(self.root / "above"), 0o711)


class Artifacts(Folder):
    def setUp(self) -> None:
        super().setUp()
        self.output = self.root / "output"
        self.output.mkdir()
        self.into = self.root / "into"

    def put(self, path: str, data: bytes = b"x") -> None:
        (self.output / path).parent.mkdir(parents=True, exist_ok=True)
        (self.output / path).write_bytes(data)

    def got(self, *patterns: str, most: int = 1 << 20) -> list[str]:
        self.collected = collect(self.output, patterns, self.into, most)
        return [one.path for one in self.collected.artifacts]

    def test_globs(self) -> None:
        for pattern, path, fits in [
            ("*.txt", "a.txt", True), ("*.txt", "d/a.txt", False), ("**/*.txt", "a.txt", True),
            ("**/*.txt", "d/e/a.txt", True),
            ("dist", "dist/a/b", True), ("dist/", "dist/a", True), ("dist/*", "dist/a", True), ("?.py", "a.py", True),
            ("[ab].c", "a.c", True), ("[!ab].c", "a.c", False), ("[a-c].c", "b.c", True), ("**", "x/y", True),
            ("/workspace/output/r.xml", "r.xml", True), ("./r.xml", "r.xml", True), ("a[", "a[", True),
            ("[z-a]", "[z-a]", True),
            ("a**b", "a/x/b", True), ("a**b", "ab", True), ("a/**/b", "a/b", True), ("a/**/b", "a/x/y/b", True),
            ("a/**/b", "a/xb", False), ("**/**/**/b", "b", True), ("****", "a/b", True), ("***/b", "b", False),
            ("dist/**/", "dist/a/b", True),
            ("a.b", "axb", False), ("[^a]", "a", True), ("d[/]a", "d/a", False), ("*", "d/a", True),
        ]:  # fmt: skip
            self.assertEqual(Globs([pattern]).matches(path), fits, (pattern, path))

    @settings(deadline=None, max_examples=200)
    @given(st.text(alphabet="a*?[]!^-/\\.&|~", max_size=12))
    def test_every_pattern_compiles(self, pattern: str) -> None:
        Globs([pattern]).matches("a/b")

    @settings(deadline=None, max_examples=300)
    @given(st.text(alphabet="ab*?", max_size=10).filter(lambda text: "**" not in text), st.text("abc", max_size=10))
    def test_one_name_as_the_shell_matches_it(self, pattern: str, name: str) -> None:
        self.assertEqual(Globs([pattern]).matches(name), fnmatch.fnmatchcase(name, pattern))

    def test_many_patterns_are_told_apart(self) -> None:
        globs = Globs(["a*", "b/**/c", "d"])
        for path, fits in [("ax", True), ("b/c", True), ("d/x", True), ("c", False), ("xd", False), ("b/d", False)]:
            self.assertEqual(globs.matches(path), fits, path)
        self.assertFalse(Globs([]).start)

    def test_no_pattern_is_slow(self) -> None:
        """Backtracking takes minutes to ages."""
        for pattern, path in [
            ("*a" * 200 + "b", "a" * 255),
            ("**/" * 150 + "x", "a/" * 1000 + "y"),
            ("**a" * 150 + "b", "a" * 2000),
            ("*a/**/" * 80 + "x", "aa/" * 1000),
        ]:
            self.assert_cheap(lambda pattern=pattern, path=path: Globs([pattern]).matches(path), 15)
            self.assertFalse(Globs([pattern]).matches(path))

    MANY = tuple("**/" + "*a?" * 7 + "x" * 150 + str(number) for number in range(64))
    """As many and as long as a task may name."""

    def test_many_long_patterns_and_many_names_are_cheap(self) -> None:
        def match() -> None:
            globs = Globs(self.MANY)
            for number in range(2000):
                globs.feed(globs.start, "a" * 240 + f"{number:06}")

        # Some fifteen times; fifteen hundred where each step is taken anew.
        self.assert_cheap(match, 150)

    def hostile(self) -> tuple[Globs, Iterator[str]]:
        """Patterns and names with which hardly a step is taken twice."""
        rng = random.Random(1)
        names = ("".join(rng.choices("ab", k=250)) for _ in range(100_000))
        return Globs([f"*a{'?' * 200}{number}" for number in range(64)]), names

    def test_the_work_is_counted_and_bounded_where_no_step_is_taken_twice(self) -> None:
        self.patch(globs_module, "MAX_WORK", 1_000_000)

        def match() -> None:
            globs, names = self.hostile()
            for name in names:
                globs.feed(globs.start, name)
                if globs.exhausted:
                    return
            self.fail("it was never enough")

        self.assert_cheap(match, 150)

    def test_what_is_remembered_is_bounded(self) -> None:
        globs, names = self.hostile()
        for name in itertools.islice(names, 200):
            globs.feed(globs.start, name)
        self.assertLessEqual(len(globs._rows), globs._most_steps + 1)
        self.assertLessEqual(globs._most_steps * globs._size // 8, globs_module.MAX_STEPS_BYTES)
        classes = Globs(["[a-z]" * 200, "*[!x]"])
        self.assertEqual(len(classes._classes), 2, "the same is asked once")
        for code in range(0x4E00, 0x4E00 + 3 * globs_module.MAX_CHARACTERS):
            classes.feed(classes.start, chr(code))
        self.assertEqual(len(classes._consumes), globs_module.MAX_CHARACTERS)
        self.assertGreater(classes.work, 3 * globs_module.MAX_CHARACTERS * 2 * globs_module.CLASS_WORK)

    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.text("ab*?/[]", max_size=8), max_size=4), st.lists(st.text("ab/", max_size=10), max_size=6))
    def test_it_makes_no_difference_what_is_remembered(self, patterns: list[str], paths: list[str]) -> None:
        globs = Globs(patterns)
        forgetful = Globs(patterns)
        forgetful._most_steps = 1
        for path in paths:
            states = functools.reduce(globs._after, path, globs.start)
            self.assertEqual((globs.feed(globs.start, path), forgetful.feed(forgetful.start, path)), (states, states))

    def test_patterns_that_take_too_much_work(self) -> None:
        for name in ("a", "b", "c", "d"):
            self.put(name + ".txt", b"x")
        self.put("e/f.txt", b"x")
        (self.output / "l").symlink_to("e/f.txt")
        self.assertEqual(len(self.got("*.txt", "l")), 4)
        self.assertIn("l: a link to e/f.txt", self.collected.skipped[0])
        globs = Globs(["*.txt"])
        globs.feed(globs.start, "a.txt")
        self.patch(globs_module, "MAX_WORK", globs.work - 1)
        self.assertEqual(self.got("*.txt", "none"), ["a.txt"])
        (told,) = self.collected.skipped
        self.assertIn("b.txt: the patterns take too much work to match, the rest was not looked at", told)

    def test_collects_with_sizes(self) -> None:
        self.put("a.txt", b"12345")
        self.put("d/e.txt", b"1")
        self.put("no.bin")
        self.assertEqual(self.got("**/*.txt"), ["a.txt", "d/e.txt"])
        self.assertEqual(self.collected.artifacts[0].size, 5)
        self.assertEqual((self.into / "a.txt").read_bytes(), b"12345")
        self.assertEqual(self.got(), [])

    def test_links_are_never_followed(self) -> None:
        (self.root / "secret").write_text("s")
        (self.output / "link").symlink_to("../secret")
        (self.output / "folder").symlink_to("..")
        os.mkfifo(self.output / "fifo")
        self.assertEqual(self.got("**"), [])
        out = "a link that leads out of the output"
        self.assertEqual(sorted(self.collected.skipped), ["fifo: no regular file", f"folder: {out}", f"link: {out}"])
        self.assertEqual((self.collected.entries, self.collected.skipped_total), ((), 3))

    def test_limits(self) -> None:
        for index in range(4):
            self.put(f"f{index}", b"x" * 100)
        self.assertEqual(self.got("**", most=250), ["f0", "f1"])
        self.assertEqual(len(self.collected.skipped), 2)
        self.assertIn("over the limit", self.collected.skipped[0])
        self.patch(artifacts, "MAX_FILES", 3)
        self.assertEqual(len(self.got("**")), 3)
        self.assertIn("4 files match, over the limit of 3: only the first 3 were kept", self.collected.skipped[0])
        self.patch(output_walk, "MAX_ENTRIES", 2)
        self.assertEqual(len(self.got("**")), 2)
        self.assertIn("the rest was not looked at", self.collected.skipped[0])

    def test_the_true_count_is_said(self) -> None:
        """Whatever is over a limit is counted to the end, and the first line says so."""
        for index in range(25):
            self.put(f"h/{index:02}")
            (self.output / f"l{index:02}").symlink_to("h")
        (self.output / "away").symlink_to("/etc")
        self.patch(artifacts, "MAX_FILES", 10)
        self.patch(artifacts, "MAX_BARE", 20)
        self.assertEqual(self.got("**"), [f"h/{index:02}" for index in range(10)])
        self.assertEqual(len(self.collected.entries), 19)
        self.assertEqual(
            self.collected.skipped,
            (
                "25 files match, over the limit of 10: only the first 10 were kept",
                "26 links and empty folders match, over the limit of 20: only the first 20 were kept",
                "away: a link that leads out of the output",
            ),
        )
        self.assertEqual(self.collected.skipped_total, 15 + 6 + 1)

    def test_limits_met_exactly(self) -> None:
        for index in range(3):
            self.put(f"f{index}", b"x" * 10)
            (self.output / f"d{index}").mkdir()
        self.patch(artifacts, "MAX_FILES", 3)
        self.patch(artifacts, "MAX_BARE", 3)
        self.patch(output_walk, "MAX_ENTRIES", 6)
        self.assertEqual(len(self.got("**", most=30)), 3)
        self.assertEqual((len(self.collected.entries), self.collected.skipped), (3, ()))
        self.assertEqual(len(self.got("**", most=29)), 2)
        self.patch(output_walk, "MAX_ENTRIES", 5)
        self.got("**")
        self.assertIn("more than 5 files and folders", self.collected.skipped[0])

    def test_what_is_left_out_is_counted_once(self) -> None:
        for index in range(4):
            self.put(f"f{index}", b"x" * (100 if index == 1 else 1))
        self.patch(artifacts, "MAX_FILES", 3)
        self.assertEqual(self.got("**", most=50), ["f0", "f2", "f3"])
        self.assertEqual(self.collected.skipped_total, 1)
        self.put("f4")
        self.assertEqual(self.got("**", most=50), ["f0", "f2", "f3"])
        self.assertIn("5 files match, over the limit of 3", self.collected.skipped[0])
        self.assertEqual(self.collected.skipped_total, 2)

    def entries(self, *patterns: str) -> dict[str, str | None]:
        self.got(*patterns)
        return {one.path: one.target for one in self.collected.entries}

    def link(self, path: str, target: str) -> None:
        (self.output / path).parent.mkdir(parents=True, exist_ok=True)
        (self.output / path).symlink_to(target)

    def test_links_that_stay_are_kept_as_links(self) -> None:
        self.put("lib/libx.so.1.2")
        links = {
            "lib/libx.so.1": "libx.so.1.2",
            "lib/libx.so": "libx.so.1",
            "latest": "lib",
            "lib/up": "../lib/libx.so",
        }
        links |= {"loop": "loop", "dangling": "nowhere/x", "self": "."}
        for path, target in links.items():
            self.link(path, target)
        os.utime(self.output / "latest", (7, 7), follow_symlinks=False)
        self.link("lib/absolute", "/workspace/output/lib/libx.so")
        self.assertEqual(self.entries("**"), {**links, "lib/absolute": "../lib/libx.so"})
        self.assertEqual((self.collected.skipped, self.collected.skipped_total), ((), 0))
        self.assertEqual([one.mtime for one in self.collected.entries if one.path == "latest"], [7.0])

    def test_links_that_leave_by_way_of_others(self) -> None:
        """Each looks harmless by its text."""
        (self.output / "d/e").mkdir(parents=True)
        self.put("d/e/f")
        self.link("d/e/root", "../..")
        self.link("out", "d/e/root/..")
        self.link("through", "out/etc")
        self.assertEqual(self.entries("**"), {"d/e/root": "../.."})
        self.assertEqual(self.collected.skipped_total, 2)

    def test_what_a_link_leads_to_is_said_where_it_is_not_kept(self) -> None:
        self.put("libx.so.1")
        self.put("data/a")
        for path, target in {
            "libx.so": "libx.so.1",
            "gone.so": "nowhere",
            "folder.so": "data",
            "via.so": "s/x",
        }.items():
            self.link(path, target)
        self.link("s", "data")
        self.assertEqual(len(self.entries("**/*.so")), 4)
        told = "which matches no pattern and was not kept"
        self.assertEqual(
            sorted(self.collected.skipped),
            [
                f"folder.so: a link to data, {told}",
                f"libx.so: a link to libx.so.1, {told}",
                f"via.so: a link to s/x, {told}",
            ],
        )
        self.entries("*.so", "*.so.1", "data/*", "s")
        self.assertEqual(self.collected.skipped, ())

    def test_links_too_long_to_follow_or_to_say(self) -> None:
        self.link("far", "d/" * 600 + "x")
        (self.output / "bytes").symlink_to(os.fsdecode(b"\xff"))
        self.assertEqual(self.entries("**"), {})
        self.assertEqual(len([each for each in self.collected.skipped if "too long, or not UTF-8" in each]), 2)
        for index in range(5):
            self.link(f"l{index}", "d/../" * 10 + "x")
        self.patch(artifacts, "LINK_STEPS", 42)
        self.assertEqual(len(self.entries("l*")), 2)
        self.assertEqual(self.collected.skipped_total, 3)

    def test_empty_folders(self) -> None:
        self.put("full/a")
        for path in ("empty", "deep/er", "closed"):
            (self.output / path).mkdir(parents=True)
        os.utime(self.output / "empty", (981_173_106, 981_173_106))
        (self.output / "empty").chmod(0o2750)
        (self.output / "closed").chmod(0)
        self.assertEqual(self.entries("**"), {"empty": None, "deep/er": None, "closed": None})
        found = {one.path: one for one in self.collected.entries}
        self.assertEqual((found["empty"].mode, found["empty"].mtime), (0o750, 981_173_106.0))
        self.assertEqual(found["closed"].mode, 0, "as the task left it, not as it was opened")
        self.assertEqual(self.entries("deep"), {"deep/er": None})
        self.assertEqual(self.entries("full", "emp*"), {"empty": None})

    def test_modes_and_times(self) -> None:
        for name, mode in {"run": 0o755, "setuid": 0o6755, "sticky": 0o1644, "secret": 0o600}.items():
            self.put(name)
            (self.output / name).chmod(mode)
            os.utime(self.output / name, ns=(0, 1_000_000_000_123_456_789))
        self.put("old")
        os.utime(self.output / "old", (-5, -5))
        self.got("**")
        self.assertEqual(
            {one.path: (one.mode, one.mtime) for one in self.collected.artifacts},
            {
                "run": (0o755, 1_000_000_000.123457), "setuid": (0o755, 1_000_000_000.123457),
                "sticky": (0o644, 1_000_000_000.123457), "secret": (0o600, 1_000_000_000.123457),
                "old": (stat.S_IMODE((self.output / "old").stat().st_mode), 0.0),
            },
        )  # fmt: skip

    def test_patterns_that_match_nothing_are_named(self) -> None:
        self.put("a.txt")
        self.put("d/e/f")
        (self.output / "away").symlink_to("/etc")
        self.assertEqual(self.got("a.txt", "d", "nope/**", "*.xml", "away", "**"), ["a.txt", "d/e/f"])
        self.assertEqual(
            [each for each in self.collected.skipped if "matches" in each],
            ["nothing in the output matches '*.xml'", "nothing in the output matches 'nope/**'"],
        )
        self.assertEqual(self.collected.skipped_total, 3)
        (self.output / "d/e/f").unlink()
        self.got("d")
        self.assertEqual(self.collected.skipped, (), "an empty folder is something")

    def test_everything_may_be_nothing(self) -> None:
        self.assertEqual(self.got("**"), [])
        self.assertEqual(self.collected, artifacts.Collected())

    def test_sockets_and_devices(self) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            # The path of a socket has 107 bytes at most.
            here = os.open(self.output, os.O_RDONLY)
            listener.bind(f"/proc/self/fd/{here}/sock")
            os.close(here)
            self.got("**")
        self.assertEqual(self.collected.skipped, ("sock: no regular file",))

    def test_no_descriptor_is_left_open(self) -> None:
        self.put("a/b/c")
        self.link("a/l", "b/c")
        self.link("a/m", "../a/x")
        before = len(os.listdir("/proc/self/fd"))
        self.got("**")
        self.got("a/l")
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_a_name_that_is_no_text(self) -> None:
        (self.output / os.fsdecode(b"\xff\xfe")).write_bytes(b"x")
        self.assertEqual(self.got("**"), [])
        self.assertIn("not UTF-8", self.collected.skipped[0])

    def test_deep_folders(self) -> None:
        self.output = nested(Volumes.memory(self) / "output", 2500, data=b"x")  # type: ignore[arg-type]
        self.put("report")
        self.assertEqual(self.got("**"), ["report"])
        self.assertIn(f"its path is longer than {output_walk.MAX_PATH} bytes", self.collected.skipped[0])
        self.assertEqual(self.got("*/file", "report"), ["report"])
        nothing = ("nothing in the output matches '*/file'",)
        self.assertEqual(self.collected.skipped, nothing, "no folder is entered where nothing can match")

    def test_a_path_as_long_as_it_may_be(self) -> None:
        folder = "/".join(["d" * 100] * 9)
        for length in (output_walk.MAX_PATH, output_walk.MAX_PATH + 1):
            self.put(f"{folder}/{'f' * (length - len(folder) - 1)}")
        self.assertEqual([len(path) for path in self.got("**")], [output_walk.MAX_PATH])
        self.assertEqual(len(self.collected.skipped), 1)

    def test_many_reasons_are_cut(self) -> None:
        for index in range(artifacts.MAX_SKIPPED + 20):
            (self.output / f"l{index}").symlink_to("/x")
        self.got("**", "nothing")
        self.assertEqual(len(self.collected.skipped), artifacts.MAX_SKIPPED)
        self.assertEqual(self.collected.skipped_total, artifacts.MAX_SKIPPED + 21)
        self.assertIn("'nothing'", self.collected.skipped[0])


class Volumes(Folder):
    def test_measure(self) -> None:
        (self.root / "d").mkdir()
        (self.root / "d/a").write_bytes(b"x" * 100_000)
        os.link(self.root / "d/a", self.root / "b")
        used = volumes.measure(self.root, 1 << 30)
        self.assertGreaterEqual(used, 100_000)
        self.assertLess(used, 190_000, "a hard link counts once")
        self.assertGreater(volumes.measure(self.root, 10), 10)
        self.patch(trees, "ENTRIES", 1)
        self.assertEqual(volumes.measure(self.root, 1 << 30), (1 << 30) + 1)

    def test_a_file_system_of_its_own(self) -> None:
        if os.geteuid():
            raise self.skipTest("a loop mount needs root")
        path = self.root / "fs"
        volume = volumes.mount_volume(self.root / "disk.img", path, 16, (1234, 1234), loop=True)
        self.addCleanup(volumes.remove_tree, path)
        if volume.enforcement != "loop":
            raise self.skipTest(f"no loop mount on this machine: {volume.note}")
        self.assertEqual(path.stat().st_uid, 1234)
        self.assertEqual(os.listdir(path), [])
        self.assertFalse(volume.full())
        with (path / "big").open("wb") as file, self.assertRaises(OSError):
            while True:
                file.write(b"x" * 65536)
        self.assertTrue(volume.full())
        self.assertGreaterEqual((path / "big").stat().st_size, 16 << 20, "the whole limit can be used")
        self.assertEqual(volumes.mounts_below(self.root), [path])
        volumes.release(self.root)
        self.assertEqual(volumes.mounts_below(self.root), [])

    def test_where_it_may_not_mount(self) -> None:
        self.patch(os, "geteuid", lambda: 1000)
        volume = volumes.mount_volume(self.root / "disk.img", self.root / "fs", 1, None, loop=True)
        self.assertEqual((volume.enforcement, volume.note), ("poll", "mounting needs root"))
        self.assertFalse(volume.full())
        (self.root / "fs/a").write_bytes(b"x" * (2 << 20))
        self.assertTrue(volume.full())

    def test_where_mkfs_fails(self) -> None:
        def fails(*argv: object) -> None:
            raise volumes.VolumeError("no mkfs")

        self.patch(os, "geteuid", lambda: 0)
        self.patch(volumes, "_tool", fails)
        volume = volumes.mount_volume(self.root / "disk.img", self.root / "fs", 1, None, loop=True)
        self.assertEqual((volume.enforcement, volume.note), ("poll", "no mkfs"))
        self.assertFalse((self.root / "disk.img").exists())

    def test_mount_table(self) -> None:
        table = self.root / "mountinfo"
        table.write_text(
            "1 2 8:1 / / rw - ext4 /dev/a rw\n"
            f"3 1 7:0 / {self.root}/x\\040y rw - ext4 /dev/loop0 rw\n"
            f"4 3 7:1 / {self.root}/x\\040y/z rw - ext4 /dev/loop1 rw\n"
            f"5 1 7:2 / {self.root}-other rw - ext4 /dev/loop2 rw\n"
        )
        found = volumes.mounts_below(self.root, table)
        self.assertEqual(found, [self.root / "x y/z", self.root / "x y"])

    def test_remove_tree_with_folders_made_unreadable(self) -> None:
        tree = self.root / "t"
        (tree / "a/b").mkdir(parents=True)
        (tree / "a/b/c").write_text("")
        (tree / "l").symlink_to("/")
        (tree / "a/b").chmod(0o000)
        (tree / "a").chmod(0o000)
        volumes.remove_tree(tree)
        self.assertFalse(tree.exists())

    def test_remove_tree_touches_nothing_above(self) -> None:
        self.root.chmod(0o755)
        before = self.root.stat().st_mode
        volumes.remove_tree(self.root / "never-there")
        (self.root / "t").mkdir()
        self.patch(trees, "empty", _refuse)
        self.assertRaises(PermissionError, volumes.remove_tree, self.root / "t")
        self.assertEqual(self.root.stat().st_mode, before)

    def test_a_tree_deeper_than_calls_and_paths_can_be(self) -> None:
        tree = nested(self.memory() / "t", 2500)
        (tree / "file").write_bytes(b"x" * 100_000)
        self.assertGreaterEqual(volumes.measure(tree, 1 << 30), 100_000)
        volumes.remove_tree(tree)
        self.assertFalse(tree.exists())

    def test_files_below_the_longest_path_are_counted(self) -> None:
        tree = nested(self.memory() / "t", 40, "d" * 200, b"x" * (1 << 20))
        self.assertRaises(OSError, os.stat, tree / "/".join(["d" * 200] * 40))
        self.assertGreaterEqual(volumes.measure(tree, 1 << 30), 1 << 20)
        volumes.remove_tree(tree)
        self.assertFalse(tree.exists())

    def test_no_descriptor_stays_open(self) -> None:
        before = len(os.listdir("/proc/self/fd"))
        tree = nested(self.root / "t", 20)
        (tree / "d/l").symlink_to("..")
        volumes.measure(tree, 1 << 30)
        volumes.measure(tree, 0)
        volumes.remove_tree(tree)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_closed_folders_are_counted_and_stay_closed(self) -> None:
        """As root this is no riddle: `OrdinaryUser` runs it too."""
        (self.root / "t/h/i").mkdir(parents=True)
        (self.root / "t/h/i/big").write_bytes(b"x" * (1 << 20))
        for mode in (0o300, 0o400, 0o000):
            (self.root / "t/h").chmod(mode)
            used = volumes.measure(self.root / "t", 2 << 20)
            self.assertTrue(1 << 20 <= used <= 2 << 20, (oct(mode), used))
            self.assertEqual(stat.S_IMODE((self.root / "t/h").stat().st_mode), mode)
        volumes.remove_tree(self.root / "t")
        self.assertFalse((self.root / "t").exists())

    def test_what_cannot_be_measured_is_over_the_limit(self) -> None:
        self.patch(trees, "measure", lambda *_: trees.Measured(7, False))
        self.patch(volumes, "PRIVILEGED", (("false",),))
        self.assertEqual(volumes.measure(self.root, 100), 101)

    def test_folders_that_move_while_they_are_measured(self) -> None:
        """The way back is checked: a walk that was carried off begins anew, and is at last taken for too much."""
        (self.root / "t/a/b").mkdir(parents=True)
        (self.root / "other").mkdir()
        real, moves = trees.OpenFolder.enter, iter(range(100))

        def enter(place: trees.OpenFolder, name: str) -> None:
            real(place, name)
            if name == "b":
                here = self.root / "t/a/b"
                away = self.root / f"other/{next(moves)}"
                here.rename(away)
                here.mkdir()

        self.patch(trees.OpenFolder, "enter", enter)
        self.assertEqual(trees.measure(self.root / "t", 1 << 30).complete, False)
        self.assertEqual(next(moves), trees.TRIES)

    def memory(self) -> Path:
        """A folder in memory: thousands of folders take a disk long."""
        path = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
        self.addCleanup(volumes.remove_tree, path)
        return path


def _refuse(*_: object) -> None:
    raise PermissionError("not this one")


def nested(root: Path, depth: int, name: str = "d", data: bytes | None = None) -> Path:
    """`depth` folders in each other, and a file with `data` in the innermost."""
    root.mkdir()
    here = os.open(root, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        inner = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    if data is not None:
        with open(os.open("file", os.O_WRONLY | os.O_CREAT, 0o600, dir_fd=here), "wb") as file:
            file.write(data)
    os.close(here)
    return root


class Groups(Folder):
    """Against folders that look like the kernel's; the kernel itself is under test in the backends."""

    def v1(self) -> tuple[Path, Path]:
        for name in cgroups.CONTROLLERS:
            (self.root / name / "a").mkdir(parents=True)
            (self.root / name / "a/cgroup.procs").write_text("")
        own = self.root / "own"
        own.write_text("".join(f"{n}:{name}:/a\n" for n, name in enumerate(cgroups.CONTROLLERS)))
        return self.root, own

    def test_limits_v1(self) -> None:
        root, _ = self.v1()
        hierarchy = cgroups.Hierarchy(1, {name: root / name / "a" for name in cgroups.CONTROLLERS})
        for name, files in {
            "memory": ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.swappiness"],
            "pids": ["pids.max"],
            "cpu": ["cpu.cfs_period_us", "cpu.cfs_quota_us"],
        }.items():
            (root / name / "a/x").mkdir()
            for file in files:
                (root / name / "a/x" / file).write_text("")
        group = cgroups.ControlGroup(hierarchy, "x")
        group._limit_v1(Limits(cpu=1.5, memory_mb=100, pids=10))
        memory = str((100 << 20) + cgroups.OVERHEAD_MEMORY)
        self.assertEqual((root / "memory/a/x/memory.limit_in_bytes").read_text(), memory)
        self.assertEqual((root / "memory/a/x/memory.memsw.limit_in_bytes").read_text(), memory)
        self.assertEqual((root / "pids/a/x/pids.max").read_text(), str(10 + cgroups.OVERHEAD_PIDS))
        self.assertEqual((root / "cpu/a/x/cpu.cfs_quota_us").read_text(), "150000")
        self.assertEqual(len(group.join_files), 3)

    def test_limits_v2(self) -> None:
        (self.root / "x").mkdir()
        for file in ("memory.max", "memory.swap.max", "pids.max", "cpu.max"):
            (self.root / "x" / file).write_text("")
        group = cgroups.ControlGroup(cgroups.Hierarchy(2, dict.fromkeys(cgroups.CONTROLLERS, self.root)), "x")
        group._limit_v2(Limits(cpu=0.5, memory_mb=100, pids=10))
        self.assertEqual((self.root / "x/cpu.max").read_text(), "50000 100000")
        self.assertEqual((self.root / "x/memory.swap.max").read_text(), "0")
        self.assertEqual((self.root / "x/pids.max").read_text(), str(10 + cgroups.OVERHEAD_PIDS))
        self.assertEqual(group.join_files, [self.root / "x/cgroup.procs"])

    def test_counters(self) -> None:
        for version, files in {
            1: {
                "memory.usage_in_bytes": "5", "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
                "pids.current": "3", "pids.events": "max 7\n",
            },
            2: {
                "memory.current": "5", "memory.events": "low 0\noom 2\noom_kill 2\n", "pids.current": "3",
                "pids.events": "max 7\n",
            },
        }.items():  # fmt: skip
            folder = self.root / str(version)
            folder.mkdir()
            for name, text in files.items():
                (folder / name).write_text(text)
            usage = cgroups.read_usage(version, dict.fromkeys(cgroups.CONTROLLERS, folder))
            self.assertEqual(usage, cgroups.ResourceUsage(5, 3, 2, 7))
        self.assertEqual(cgroups.read_usage(1, {}), cgroups.ResourceUsage())

    def test_nothing_writable(self) -> None:
        self.assertIsNone(cgroups.find(self.root / "none", self.root / "none"))
        own = self.root / "own"
        own.write_text("0::/\n")
        self.assertIsNone(cgroups.find(self.root, own))

    def test_the_kernel_s_own(self) -> None:
        hierarchy = cgroups.find()
        if hierarchy is None or hierarchy.missing:
            raise self.skipTest("control groups cannot be written on this machine")
        group = cgroups.ControlGroup(hierarchy, f"chorus-unit-{os.getpid()}")
        group.create(Limits(memory_mb=64, pids=5))
        self.addCleanup(group.remove)
        child = os.fork()
        if child == 0:
            for path in group.join_files:
                path.write_text(str(os.getpid()))
            os.execv("/bin/sleep", ["sleep", "60"])
        while group.usage().pids != 1:
            pass
        self.assertTrue(processes.alive(child))
        self.assertEqual(cgroups.reap(hierarchy, f"chorus-unit-{os.getpid()}"), 1)
        os.waitpid(child, 0)
        self.assertFalse(any(path.exists() for path in group.join_files))

    def test_looking_at_processes(self) -> None:
        seen = processes.tree(os.getpid())
        self.assertGreaterEqual(seen.pids, 1)
        self.assertGreater(seen.memory, 1 << 20)
        self.assertEqual(processes.tree(1 << 22), processes.Tree())
        self.assertFalse(processes.alive(1 << 22))

    def test_a_process_with_a_name_that_is_no_text_counts(self) -> None:
        code = "import ctypes; ctypes.CDLL(None).prctl(15, b'\\xff) \\xfe'); print(flush=True); input()"
        with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            self.assertEqual((processes.alive(child.pid), processes.tree(child.pid).pids), (True, 1))
            child.kill()

    def test_files_without_a_name(self) -> None:
        me = [os.getpid()]
        before = processes.unlinked(me)
        with (self.root / "a").open("wb") as file, open(os.memfd_create("test"), "wb") as memory:
            file.write(b"x" * (1 << 20))
            file.flush()
            memory.write(b"x" * (2 << 20))
            memory.flush()
            self.assertEqual(processes.unlinked(me).disk, before.disk, "it has a name")
            (self.root / "a").unlink()
            again = os.dup(file.fileno())
            seen = processes.unlinked([*me, *me])
            os.close(again)
            self.patch(processes, "MAX_DESCRIPTORS", 2)
            self.assertEqual(processes.unlinked(me).disk, processes.OVER_ANY)
        self.assertTrue(1 << 20 <= seen.disk - before.disk < 2 << 20, "once, however often it is open")
        self.assertTrue(2 << 20 <= seen.memory - before.memory < 3 << 20)

    def test_files_in_memory(self) -> None:
        """Never less than what is in use, and what is mapped is not added to what is mapped."""
        self.assertEqual(processes.Tree(memory=100, shared=30).with_files(50), 120)
        self.assertEqual(processes.Tree(memory=100, shared=60).with_files(50), 100)
        room = os.statvfs("/dev/shm")
        size = room.f_blocks * room.f_frsize
        used = processes.in_tmpfs(os.getpid(), {"/dev/shm": size})
        self.assertLess(abs(used - (room.f_blocks - room.f_bfree) * room.f_frsize), 64 << 20)
        self.assertEqual(processes.in_tmpfs(os.getpid(), {"/dev/shm": size + 4096, "/nonexistent": 1}), 0)
