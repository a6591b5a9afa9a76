"""The second copy of a task's input."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from unittest import mock

from chorus.sandbox.archive.limits import Interrupted, NoSpace
from chorus.sandbox.files import duplicate as module
from chorus.sandbox.files.duplicate import duplicate
from tests.support import PureTestCase


def _never() -> bool:
    return False


class DuplicateTest(PureTestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.source, self.into = Path(folder.name) / "source", Path(folder.name) / "into"
        self.source.mkdir(mode=0o700)
        self.into.mkdir()
        self.into.chmod(0o755)

    def fake_cp(self, script: str) -> None:
        """A `cp` that does what the script says."""
        tools = tempfile.TemporaryDirectory()
        self.addCleanup(tools.cleanup)
        path = Path(tools.name) / "cp"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        self.patch(module, "_PATH", tools.name)

    def test_everything_as_it_is(self) -> None:
        (self.source / "empty").mkdir(mode=0o700)
        (self.source / "-rf").write_text("a name like an option")
        (self.source / ".hidden").write_bytes(b"\0" * 10)
        tool = self.source / "deep" / "tool"
        tool.parent.mkdir()
        tool.write_text("#!/bin/sh")
        tool.chmod(0o751)
        os.utime(tool, (1, 1_000_000_007))
        os.link(tool, self.source / "hard")
        (self.source / "link").symlink_to("deep/tool")
        (self.source / "dangling").symlink_to("nowhere")
        duplicate(self.source, self.into, _never)
        names = sorted(str(path.relative_to(self.into)) for path in self.into.rglob("*"))
        self.assertEqual(names, sorted(str(path.relative_to(self.source)) for path in self.source.rglob("*")))
        copy = self.into / "deep" / "tool"
        self.assertEqual((stat.S_IMODE(copy.stat().st_mode), copy.stat().st_mtime), (0o751, 1_000_000_007))
        self.assertEqual(copy.stat().st_ino, (self.into / "hard").stat().st_ino)
        self.assertNotEqual(copy.stat().st_ino, tool.stat().st_ino, "what the task writes is not seen in the input")
        self.assertEqual(os.readlink(self.into / "link"), "deep/tool")
        self.assertEqual(stat.S_IMODE((self.into / "empty").stat().st_mode), 0o700)
        self.assertEqual(stat.S_IMODE(self.into.stat().st_mode), 0o755, "the folder itself stays as it is")

    def test_the_owner_of_the_folder_stays(self) -> None:
        with mock.patch("os.chown") as chown:
            duplicate(self.source, self.into, _never)
        chown.assert_called_once_with(self.into, os.geteuid(), os.getegid())

    def test_a_full_disk_is_said_as_such(self) -> None:
        for text in ("No space left on device", "Disk quota exceeded"):
            self.fake_cp(f"echo 'cp: error writing: {text}' >&2; exit 1")
            with self.assertRaises(NoSpace):
                duplicate(self.source, self.into, _never)

    def test_another_failure_says_why(self) -> None:
        self.fake_cp("echo 'cp: input/output error' >&2; exit 1")
        with self.assertRaisesRegex(OSError, "input/output error"):
            duplicate(self.source, self.into, _never)
        self.fake_cp("kill -9 $$")
        with self.assertRaisesRegex(OSError, "it ended with -9"):
            duplicate(self.source, self.into, _never)

    def test_without_the_tool(self) -> None:
        self.patch(module, "_PATH", "/nowhere")
        with self.assertRaisesRegex(OSError, "cp is not installed"):
            duplicate(self.source, self.into, _never)

    def test_stopped_it_ends_its_copying(self) -> None:
        self.fake_cp(f"echo $$ > {self.into}/pid; exec sleep 1000")
        pid = self.into / "pid"
        with self.assertRaises(Interrupted):
            duplicate(self.source, self.into, lambda: pid.exists() and bool(pid.read_text().strip()))
        with self.assertRaises(ProcessLookupError):
            os.kill(int(pid.read_text()), 0)
