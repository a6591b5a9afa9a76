from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import tarfile
from pathlib import Path

from chorus.client.errors import ClientError
from chorus.client.pack import MTIME, _stays, pack
from tests.support import PureTestCase


class Packing(PureTestCase):
    def setUp(self) -> None:
        # Outside of any work tree, whatever the tests run in.
        import tempfile

        self.root = Path(tempfile.mkdtemp(prefix="chorus-pack-"))
        self.addCleanup(shutil.rmtree, self.root)

    def write(self, name: str, text: str = "x") -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def packed(self) -> tuple[dict[str, tarfile.TarInfo], tuple[str, ...], bytes]:
        out = io.BytesIO()
        done = pack(self.root, out)
        with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as tar:
            members = {each.name: each for each in tar.getmembers()}
        self.assertEqual(done.files, sum(each.isfile() or each.issym() for each in members.values()))
        return members, done.skipped, out.getvalue()

    def git(self, *words: str) -> None:
        subprocess.run(["git", "-C", str(self.root), *words], check=True, capture_output=True)

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
        members = self.packed()[0]
        self.assertEqual(sorted(members), [".gitignore", "kept.py", "new.py", "ü ñ.txt"])

    def test_a_folder_of_a_work_tree(self) -> None:
        self.git("init", "-q")
        self.write("sub/a.py")
        self.write("other.py")
        self.write(".gitignore", "*.o\n")
        self.write("sub/b.o")
        whole, self.root = self.root, self.root / "sub"
        self.assertEqual(sorted(self.packed()[0]), ["a.py"])
        self.root = whole

    def test_a_folder_that_git_ignores_is_packed_whole(self) -> None:
        self.git("init", "-q")
        self.write(".gitignore", "out/\n")
        self.write("out/a.py")
        whole, self.root = self.root, self.root / "out"
        self.assertEqual(sorted(self.packed()[0]), ["a.py"])
        self.root = whole

    def test_without_git(self) -> None:
        self.write("a.py")
        self.write(".git/config")
        self.patch(os, "environ", {"PATH": ""})
        self.assertEqual(sorted(self.packed()[0]), ["a.py"])

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
