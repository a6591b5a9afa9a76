"""Where deliverables go, and what of a task's document is believed."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from chorus.client import deliverables, missing
from chorus.client.deliverables import Deliverables, Item, LinkOrFolder
from chorus.client.errors import EXIT_UNAUTHORIZED, ClientError, NoNode, Refused
from chorus.client.fetch import checked, into_directory, to_tar
from tests.support import PureTestCase

MOMENT = 1_000_000_000.25


class Answer:
    def __init__(self, data: bytes, broken: Exception | None = None) -> None:
        self.data, self.broken = data, broken

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def chunks(self) -> Iterator[bytes]:
        for at in range(0, len(self.data), 3):
            yield self.data[at : at + 3]
        if self.broken is not None:
            raise self.broken


class Node:
    """Has blobs; `answers` says what comes instead of one."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.answers: dict[str, Exception | Answer] = {}

    def item(self, path: str, data: bytes, **more: Any) -> Item:
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return Item(path, digest, len(data), **more)

    def request(self, method: str, path: str) -> Answer:
        digest = path.removeprefix("/v1/blobs/")
        instead = self.answers.get(digest, Answer(self.blobs[digest]))
        if isinstance(instead, Exception):
            raise instead
        return instead


class Folder(PureTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)
        self.node = Node()

    def fetch(self, *found: Item | LinkOrFolder, force: bool = False) -> list[str]:
        """Into the directory; what failed."""
        wanted = self.wanted(*found)
        targets = checked(wanted, self.directory, force=force)
        return into_directory(self.node, targets, lambda _: None).failed  # type: ignore[arg-type]

    def wanted(self, *found: Item | LinkOrFolder) -> Deliverables:
        wanted = Deliverables(
            tuple(each for each in found if isinstance(each, Item)),
            tuple(each for each in found if isinstance(each, LinkOrFolder)),
        )
        deliverables.check(wanted)
        return wanted

    def tar(self, *found: Item | LinkOrFolder) -> tuple[tarfile.TarFile, list[str]]:
        out = io.BytesIO()
        done = to_tar(self.node, self.wanted(*found), out, lambda _: None)  # type: ignore[arg-type]
        out.seek(0)
        return tarfile.open(fileobj=out), done.failed


class Targets(Folder):
    def check(self, *paths: str, force: bool = False) -> list[Path]:
        found = Deliverables(tuple(Item(path, "0" * 64, 1) for path in paths), ())
        return [target for _, target in checked(found, self.directory, force=force).files]

    def test_names_stay_inside(self) -> None:
        self.assertEqual(self.check("a", "b/c.txt"), [self.directory / "a", self.directory / "b/c.txt"])
        for bad in ("/etc/passwd", "../x", "a/../../x", "", ".", "a\0b", "..", "b/.."):
            with self.assertRaisesRegex(ClientError, "leaves the directory"):
                self.check(bad)
            for found in (Item(bad, "0" * 64, 1), LinkOrFolder(bad, None), LinkOrFolder(bad, "x")):
                with self.assertRaisesRegex(ClientError, "leaves the directory"):
                    self.wanted(found)

    def test_nothing_is_overwritten_unasked(self) -> None:
        (self.directory / "a").write_text("mine")
        (self.directory / "c").symlink_to("nowhere")
        with self.assertRaisesRegex(ClientError, "a and 1 more would be overwritten; say --force"):
            self.check("a", "b", "c")
        self.assertEqual(len(self.check("a", "b", "c", force=True)), 3)
        for entry in (LinkOrFolder("a", "b"), LinkOrFolder("c", None)):
            with self.assertRaisesRegex(ClientError, "would be overwritten"):
                self.fetch(entry)

    def test_no_folder_on_the_way_is_a_link(self) -> None:
        (self.directory / "link").symlink_to("/tmp")
        with self.assertRaisesRegex(ClientError, "is a link"):
            self.check("link/x", force=True)
        with self.assertRaisesRegex(ClientError, "is a link"):
            self.fetch(LinkOrFolder("link/x", None), force=True)

    def test_a_directory_is_in_the_way(self) -> None:
        (self.directory / "a").mkdir()
        with self.assertRaisesRegex(ClientError, "is a directory"):
            self.check("a", force=True)
        with self.assertRaisesRegex(ClientError, "is a directory"):
            self.fetch(LinkOrFolder("a", "b"), force=True)

    def test_names_that_contradict_each_other(self) -> None:
        """Nothing is written through a link that the same task left."""
        file = Item("d/x", "0" * 64, 1)
        for other in (
            LinkOrFolder("d", "."), LinkOrFolder("d", "/etc"), LinkOrFolder("d/x", None),
            Item("d", "0" * 64, 1), Item("d/x", "1" * 64, 2),
            LinkOrFolder("l", "/etc"), LinkOrFolder("l", ".."), LinkOrFolder("e/l", "../../x"),
            LinkOrFolder("d/x", "y"),
            Item("./d/./x", "0" * 64, 1),
        ):  # fmt: skip
            with self.assertRaisesRegex(ClientError, "contradict each other, nothing is fetched"):
                self.wanted(file, other)
        with self.assertRaisesRegex(ClientError, "contradict each other"):
            self.wanted(LinkOrFolder("a/s", ".."), LinkOrFolder("t", "a/s/.."))


class Fetching(Folder):
    def test_modes_times_links_and_empty_folders(self) -> None:
        self.addCleanup(os.umask, os.umask(0o077))
        found = (
            self.node.item("bin/run", b"#!/bin/sh\n", mode=0o755, mtime=MOMENT),
            self.node.item("setuid", b"1", mode=0o6755, mtime=-5.0),
            self.node.item("locked", b"2", mode=0),
            self.node.item("all", b"3", mode=0o777, mtime=1e300),
            self.node.item("old", b"4"),
            LinkOrFolder("bin/latest", "run", 0o777, 7.0),
            LinkOrFolder("empty/er", None, 0o750, MOMENT),
            LinkOrFolder("closed", None, 0),
        )
        self.assertEqual(self.fetch(*found), [])
        modes = {
            name: stat.S_IMODE((self.directory / name).stat().st_mode)
            for name in ("bin/run", "setuid", "locked", "all", "old", "empty/er", "closed")
        }
        self.assertEqual(
            modes,
            {
                "bin/run": 0o755, "setuid": 0o755, "locked": 0o400, "all": 0o775, "old": 0o644, "empty/er": 0o750,
                "closed": 0o700,
            },
        )  # fmt: skip
        self.assertEqual((self.directory / "bin/run").stat().st_mtime, MOMENT)
        self.assertEqual((self.directory / "empty/er").stat().st_mtime, MOMENT)
        self.assertEqual((self.directory / "setuid").stat().st_mtime, 0)
        self.assertEqual(os.readlink(self.directory / "bin/latest"), "run")
        self.assertEqual((self.directory / "bin/latest").read_bytes(), b"#!/bin/sh\n")
        self.assertEqual((self.directory / "bin/latest").lstat().st_mtime, 7.0)
        # Once more over itself, and what was there of another kind.
        with self.assertRaisesRegex(ClientError, "would be overwritten"):
            self.fetch(*found)
        (self.directory / "bin/latest").unlink()
        (self.directory / "bin/latest").write_text("mine")
        self.assertEqual(self.fetch(*found, force=True), [])
        self.assertEqual(os.readlink(self.directory / "bin/latest"), "run")
        left = [name for _, folders, files in os.walk(self.directory) for name in (*folders, *files)]
        self.assertEqual([name for name in left if name.startswith(".chorus-")], [])

    def test_an_empty_folder_that_is_there_stays(self) -> None:
        (self.directory / "d").mkdir(mode=0o700)
        (self.directory / "d/mine").write_text("x")
        self.assertEqual(self.fetch(LinkOrFolder("d", None, 0o755)), [])
        self.assertEqual((self.directory / "d/mine").read_text(), "x")
        self.assertEqual(stat.S_IMODE((self.directory / "d").stat().st_mode), 0o700)

    def test_what_is_missing_leaves_the_others(self) -> None:
        """Not there, not whole, cut off: each is named, and the rest is fetched; nothing is left half."""
        found = [self.node.item(name, name.encode() * 10) for name in ("gone", "changed", "cut", "short", "good")]
        digests = {item.path: item.sha256 for item in found}
        self.node.answers = {
            digests["gone"]: Refused(404, "unknown_blob", "no such blob", 2),
            digests["changed"]: Answer(b"x" * 70),
            digests["cut"]: Answer(b"cut" * 5, ConnectionResetError("reset")),
            digests["short"]: Answer(b"short", http.client.IncompleteRead(b"")),
        }
        expected = [
            "gone: no such blob",
            *(f"{n} did not arrive whole; try again" for n in ("changed", "cut", "short")),
        ]
        self.assertEqual(self.fetch(*found), expected)
        self.assertEqual(os.listdir(self.directory), ["good"])
        tar, failed = self.tar(*found)
        self.assertEqual((tar.getnames(), failed), (["good"], expected))

    def test_what_concerns_every_file_ends_it(self) -> None:
        item = self.node.item("a", b"1")
        for error in (NoNode("no node answers"), Refused(401, "unauthorized", "the token", EXIT_UNAUTHORIZED)):
            self.node.answers = {item.sha256: error}
            self.assertRaises(type(error), self.fetch, item)
            self.assertRaises(type(error), self.tar, item)
        self.assertEqual(os.listdir(self.directory), [])

    def test_a_disk_that_takes_nothing(self) -> None:
        (self.directory / "file").write_text("x")
        with self.assertRaisesRegex(ClientError, "cannot write .*file/a: "):
            self.fetch(self.node.item("file/a", b"1"))

    def test_a_tar_archive(self) -> None:
        tar, failed = self.tar(
            self.node.item("bin/run", b"#!/bin/sh\n", mode=0o6755, mtime=MOMENT),
            self.node.item("ünï/日本", b"x" * 100, mtime=2.0),
            LinkOrFolder("latest", "bin/run"),
            LinkOrFolder("empty", None, 0o750, MOMENT),
        )
        self.assertEqual(failed, [])
        self.assertEqual(
            [(each.name, each.type, each.mode, each.mtime, each.linkname) for each in tar],
            [
                ("bin/run", tarfile.REGTYPE, 0o755, MOMENT, ""),
                ("ünï/日本", tarfile.REGTYPE, 0o644, 2.0, ""),
                ("latest", tarfile.SYMTYPE, 0o777, 0, "bin/run"),
                ("empty", tarfile.DIRTYPE, 0o750, MOMENT, ""),
            ],
        )
        self.assertEqual(tar.extractfile("ünï/日本").read(), b"x" * 100)  # type: ignore[union-attr]


def task(**more: Any) -> dict[str, Any]:
    return {"id": "t", "state": "completed", "ended_at": 50.0, "artifacts": [], "output": None, **more}


class Documents(PureTestCase):
    def test_rows_of_older_agents(self) -> None:
        (item,) = deliverables.of(task(artifacts=[{"path": "a", "sha256": "0" * 64, "size": 1}]), logs=False).items
        self.assertEqual((item.rights, item.mtime), (0o644, 50.0))

    def test_logs_do_not_take_the_place_of_artifacts(self) -> None:
        rows = [{"path": name, "sha256": "0" * 64, "size": 1} for name in ("stdout.log", "stdout-1.log")]
        output = {"stdout": {"bytes": 3, "sha256": "1" * 64}, "stderr": {"bytes": 0, "sha256": None}}
        found = deliverables.of(task(artifacts=rows, output=output), logs=True)
        self.assertEqual([item.path for item in found.items], ["stdout.log", "stdout-1.log", "stdout-2.log"])
        self.assertEqual(len(deliverables.of(task(artifacts=rows, output=output), logs=False).items), 2)

    def test_what_is_missing(self) -> None:
        self.assertFalse(missing.of(task()))
        self.assertEqual(missing.of(task()).lines(), [])
        one = missing.of(task(artifacts_skipped=["a: a link"]))
        self.assertEqual((one.total, one.lines()), (1, ["missing: a: a link"]))
        many = missing.of(task(artifacts_skipped=[f"reason {n}" for n in range(100)], artifacts_skipped_total=700))
        self.assertEqual(many.lines()[:2], ["missing: reason 0", "missing: reason 1"])
        self.assertEqual((len(many.lines()), many.lines()[-1]), (missing.MAX_REASONS + 1, "missing: 700 in all"))
        absent = missing.of(task(artifacts_absent=2, artifacts_skipped=["x"]))
        self.assertEqual((absent.total, len(absent.reasons)), (3, 2))
        self.assertIn("2 files are still with the agent", absent.reasons[1])
        self.assertEqual(missing.left_out(task(artifacts_absent=2)).total, 0)
