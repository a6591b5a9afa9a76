from __future__ import annotations

import io
import os
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

from chorus.client import pack as packing
from chorus.client.errors import ClientError
from chorus.client.pack import MTIME, _stays, pack
from tests.client.tree import TreeCase


class Packing(TreeCase):
    def packed(self) -> tuple[dict[str, tarfile.TarInfo], tuple[str, ...], bytes]:
        members = self.members()
        return members, self.done.skipped, self.out.getvalue()

    def test_content_alone_decides_the_bytes(self) -> None:
        self.write("b/run.sh").chmod(0o750)
        self.write("a.txt").chmod(0o640)
        (self.root / "empty").mkdir()
        first = self.packed()[2]
        os.utime(self.root / "a.txt", (5, 5))
        (self.root / "a.txt").chmod(0o600)
        (self.root / "empty").chmod(0o700)
        members, _, second = self.packed()
        self.assertEqual(first, second)
        self.assertEqual(list(members), ["a.txt", "b", "b/run.sh", "empty"])
        self.assertEqual((members["a.txt"].mode, members["b/run.sh"].mode), (0o644, 0o755))
        for each in members.values():
            self.assertEqual((each.mtime, each.uid, each.gid, each.uname), (MTIME, 0, 0, ""))

    def test_git_says_what_belongs_to_it(self) -> None:
        self.git("init", "-q")
        for name in ("kept.py", "new.py", "build/out.o", "deep/.env", "gone.py"):
            self.write(name)
        self.write(".gitignore", "build/\n.env\n")
        self.git("add", "kept.py", ".gitignore", "gone.py")
        (self.root / "gone.py").unlink()
        self.write("ü ñ.txt")
        self.assertEqual(sorted(self.members()), [".gitignore", "kept.py", "new.py", "ü ñ.txt"])

    def test_no_work_tree_and_no_git(self) -> None:
        self.write("a.py")
        self.environ(PATH=str(self.base))
        self.assertEqual(sorted(self.members()), ["a.py"])

    def test_links(self) -> None:
        self.write("a/b.txt")
        for name, target in {
            "ok": "a/b.txt",
            "a/up": "../a/b.txt",
            "dir": "a",
            "dangling": "nothing",
            "abs": "/etc/passwd",
            "out": "../x",
            "a/out": "../../x",
        }.items():
            (self.root / name).symlink_to(target)
        members, skipped, _ = self.packed()
        self.assertEqual(sorted(members), ["a", "a/b.txt", "a/up", "dangling", "dir", "ok"])
        self.assertEqual(members["a/up"].linkname, "../a/b.txt")
        self.assertEqual(
            sorted(skipped), [f"{name}: a link that leaves the directory" for name in ("a/out", "abs", "out")]
        )

    def test_stays(self) -> None:
        self.assertTrue(_stays("a/b/c", "../../d"))
        self.assertFalse(_stays("a/b/c", "../../../d"))
        self.assertFalse(_stays("a", "b/../../c"))

    def test_what_is_no_file(self) -> None:
        os.mkfifo(self.root / "pipe")
        self.write("a")
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(self.root / "s"))
            members, skipped, _ = self.packed()
        self.assertEqual(list(members), ["a"])
        self.assertEqual(len(skipped), 2)

    def test_hard_links_are_two_files(self) -> None:
        os.link(self.write("a"), self.root / "b")
        self.assertTrue(all(each.isreg() for each in self.packed()[0].values()))

    def test_long_names(self) -> None:
        name = "/".join(["d" * 100] * 5) + "/f"
        self.write(name)
        self.assertIn(name, self.packed()[0])

    def test_no_directory(self) -> None:
        with self.assertRaisesRegex(ClientError, "is not a directory"):
            pack(self.root / "none", io.BytesIO())


class WhileReading(TreeCase):
    """Something else writes to the tree."""

    def changing(self, change: Callable[[], object]) -> str:
        """The refusal where `change` happens between looking at `b` and reading it."""
        self.write("a")
        self.write("b", "text")
        real = os.open

        def meanwhile(path: Path, *more: int) -> int:
            if Path(path).name == "b":
                change()
            return real(path, *more)

        self.patch(packing.os, "open", meanwhile)
        with self.assertRaises(ClientError) as caught:
            pack(self.root, io.BytesIO())
        return str(caught.exception)

    def test_a_file_becomes_another(self) -> None:
        path = self.root / "b"
        for change in (
            lambda: path.write_text("tex"),
            lambda: path.write_text("texts"),
            lambda: (path.unlink(), path.write_text("TEXT")),
            lambda: (path.unlink(), os.mkfifo(path)),
            lambda: os.utime(path, ns=(0, 0)),
        ):
            self.assertIn("b changed while it was read", self.changing(change))
            path.unlink()

    def test_a_link_takes_its_place(self) -> None:
        path = self.root / "b"
        line = self.changing(lambda: (path.unlink(), path.symlink_to("/etc/passwd")))
        self.assertIn("cannot read ", line)
        self.assertNotIn("None", line)

    def test_a_file_goes(self) -> None:
        self.write("a")
        gone = self.write("b")
        real = os.open
        self.patch(packing.os, "open", lambda path, *more: (gone.unlink(missing_ok=True), real(path, *more))[1])
        self.assertEqual(self.files(), ["a"])

    def test_files_that_do_not_say_their_size(self) -> None:
        for shorter_or_longer in ("/sys/class/net/lo", "/proc/self/net/dev_snmp6", "/proc/sys/kernel/random"):
            if not Path(shorter_or_longer).is_dir():
                continue
            with self.assertRaises(ClientError) as caught:
                pack(Path(shorter_or_longer), io.BytesIO())
            self.assertNotIn("None", str(caught.exception))

    def test_a_file_shorter_than_it_says(self) -> None:
        path = self.write("a")
        os.truncate(path, 5000)
        whole = packing._Whole(path.open("rb"), path)
        self.addCleanup(whole._file.close)
        self.assertEqual(len(whole.read(4000)), 4000)
        with self.assertRaisesRegex(ClientError, "changed while it was read"):
            whole.read(4000)

    def test_a_file_that_cannot_be_read(self) -> None:
        def closed() -> None:
            raise PermissionError(13, "Permission denied", str(self.root / "b"))

        self.assertEqual(self.changing(closed), f"cannot read {self.root}/b: Permission denied")

    def test_a_folder_that_cannot_be_read(self) -> None:
        self.write("deep/a")
        real = os.scandir

        def closed(path: str) -> object:
            if str(path).endswith("deep"):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path)

        self.patch(os, "scandir", closed)
        self.assertIn(f"cannot read {self.root}/deep: Permission denied", self.refused())

    def test_no_room_for_the_archive(self) -> None:
        self.write("a")

        class Full(io.BytesIO):
            def write(self, data: object) -> int:
                raise OSError(28, "No space left on device")

        with self.assertRaisesRegex(ClientError, "cannot write the archive: No space left on device"):
            pack(self.root, Full())


class Names(TreeCase):
    def test_bytes_that_are_no_text(self) -> None:
        name = os.fsdecode(b"caf\xe9\xc3\xa9")
        self.write(f"{name}/tab\t\n")
        self.assertIn(f"{name}/tab\t\n", self.files())
        self.assertIn(b"caf\xe9\xc3\xa9/tab\t\n", self.out.getvalue())

    def test_a_refusal_is_one_line(self) -> None:
        os.mkfifo(self.root / "two\nlines")
        self.files()
        self.assertEqual(self.done.skipped, ("'two\\nlines': not a file, a directory or a link",))
