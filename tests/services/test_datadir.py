from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from unittest import mock

from chorus.files import DataDirectoryError, read_private, write_private
from chorus.identity import IdentityError
from chorus.services.datadir import FILES, FOLDERS, LOCK, DataDirectory, DataDirectoryInUse
from tests.support import PureTestCase


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


class DataDirectoryTests(PureTestCase):
    def setUp(self) -> None:
        self.path = Path(self.mktemp()).absolute()

    def held(self, path: Path | None = None) -> DataDirectory:
        directory = DataDirectory(path or self.path)
        directory.acquire()
        self.addCleanup(directory.release)
        return directory

    def refused(self) -> str:
        with self.assertRaises(DataDirectoryError) as caught:
            DataDirectory(self.path).acquire()
        text = str(caught.exception)
        self.assertIn(str(self.path), text)
        self.assertNotIn("\n", text)
        return text

    def test_made_private(self) -> None:
        nested = self.path / "a" / "b"
        self.held(nested)
        self.assertEqual(mode(nested), 0o700)
        self.assertEqual(mode(nested / LOCK), 0o600)

    def test_held_once(self) -> None:
        self.held()
        text = self.refused()
        self.assertIn(f"process {os.getpid()}", text)
        self.assertIn("CHORUS_DATA_DIR", text)

    def test_another_process_is_told_the_holder(self) -> None:
        self.held()
        program = (
            "import sys\nfrom pathlib import Path\nfrom chorus.services.datadir import *\n"
            "try: DataDirectory(Path(sys.argv[1])).acquire()\n"
            "except DataDirectoryInUse as error: print(error.pid)"
        )
        command = [sys.executable, "-c", program, str(self.path)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        self.assertEqual(output, f"{os.getpid()}\n")

    def test_killed_holder_leaves_nothing_to_clean(self) -> None:
        program = (
            "import os, sys, signal\nfrom pathlib import Path\nfrom chorus.services.datadir import DataDirectory\n"
            "DataDirectory(Path(sys.argv[1])).acquire(); os.kill(os.getpid(), signal.SIGKILL)"
        )
        result = subprocess.run([sys.executable, "-c", program, str(self.path)], check=False)
        self.assertEqual(result.returncode, -9)
        self.held()

    def test_released_and_acquired_again(self) -> None:
        first = self.held()
        first.acquire()
        first.release()
        first.release()
        self.held()

    def test_identity_is_made_once(self) -> None:
        directory = self.held()
        identity = directory.identity()
        self.assertEqual(mode(self.path / "identity"), 0o600)
        directory.release()
        with self.assertRaises(RuntimeError):
            directory.identity()
        self.assertEqual(self.held().identity(), identity)

    def test_holder_unreadable(self) -> None:
        self.held()
        (self.path / LOCK).write_text("not a number")
        with self.assertRaises(DataDirectoryInUse) as caught:
            DataDirectory(self.path).acquire()
        self.assertIsNone(caught.exception.pid)

    def test_own_directory_is_made_private_again(self) -> None:
        self.held().release()
        self.path.chmod(0o755)
        self.held()
        self.assertEqual(mode(self.path), 0o700)

    def test_empty_directory_is_taken_over(self) -> None:
        self.path.mkdir(mode=0o755)
        self.held()
        self.assertEqual(mode(self.path), 0o700)

    def test_directory_of_somebody_else_keeps_its_rights(self) -> None:
        self.path.mkdir()
        (self.path / "other").touch()
        self.path.chmod(0o1777)
        self.assertIn("open to others", self.refused())
        self.assertEqual(mode(self.path), 0o1777)

    def test_private_directory_with_other_files(self) -> None:
        self.path.mkdir(mode=0o700)
        (self.path / "other").touch()
        self.held()

    def test_a_file(self) -> None:
        self.path.write_text("")
        self.assertIn("is a file", self.refused())

    def test_lock_is_no_link(self) -> None:
        self.path.mkdir(mode=0o700)
        target = self.path / "target"
        (self.path / LOCK).symlink_to(target)
        self.refused()
        self.assertFalse(target.exists())

    def test_the_lock_is_no_pipe(self) -> None:
        self.path.mkdir(mode=0o700)
        os.mkfifo(self.path / LOCK)
        self.assertIn("a named pipe", self.refused())

    def test_odd_things_under_known_names(self) -> None:
        self.held().release()
        for name in FILES:
            path = self.path / name
            os.mkfifo(path)
            self.assertIn(f"{path} is a named pipe", self.refused())
            path.unlink()
            path.mkdir()
            self.assertIn(f"{path} is a directory", self.refused())
            path.rmdir()
        for name in FOLDERS:
            path = self.path / name
            path.touch()
            self.assertIn(f"{path} is a file", self.refused())
            path.unlink()
            path.symlink_to("/nonexistent/folder")
            self.assertIn(f"{path} cannot be used", self.refused())
            path.unlink()
        elsewhere = Path(self.mktemp()).absolute()
        elsewhere.mkdir()
        (self.path / "blobs").symlink_to(elsewhere)
        self.held()

    def test_a_full_disk_costs_the_holders_number_alone(self) -> None:
        with mock.patch("os.pwrite", side_effect=OSError(errno.ENOSPC, "No space left on device")):
            self.held()
        with self.assertRaises(DataDirectoryInUse) as caught:
            DataDirectory(self.path).acquire()
        self.assertIsNone(caught.exception.pid)

    def test_a_new_identity_on_a_full_disk(self) -> None:
        directory = self.held()
        full = OSError(errno.ENOSPC, "No space left on device")
        with mock.patch("os.fsync", side_effect=full), self.assertRaises(IdentityError) as caught:
            directory.identity()
        self.assertIn("No space left", str(caught.exception))
        self.assertEqual(sorted(path.name for path in self.path.iterdir()), [LOCK])

    def test_parent_is_a_file(self) -> None:
        self.path.write_text("")
        with self.assertRaises(DataDirectoryError):
            DataDirectory(self.path / "below").acquire()


class PrivateFileTests(PureTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.path = self.folder / "x.json"

    def test_round_trip(self) -> None:
        self.assertIsNone(read_private(self.path, 10))
        for content in (b"first", b"second"):
            write_private(self.path, content)
            self.assertEqual(mode(self.path), 0o600)
            self.assertEqual(read_private(self.path, 10), content)
        self.assertEqual([entry.name for entry in self.folder.iterdir()], ["x.json"])

    def test_a_crash_while_writing_leaves_the_old_content(self) -> None:
        write_private(self.path, b"old")

        def crash(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        self.patch(os, "fsync", crash)
        with self.assertRaises(OSError):
            write_private(self.path, b"new")
        self.assertEqual(read_private(self.path, 10), b"old")

    def test_refusals(self) -> None:
        write_private(self.path, b"0123456789")
        with self.assertRaises(DataDirectoryError):
            read_private(self.path, 9)
        for wrong in (0o640, 0o604, 0o602):
            self.path.chmod(wrong)
            with self.assertRaises(DataDirectoryError) as caught:
                read_private(self.path, 10)
            self.assertIn("chmod 600", str(caught.exception))
        with self.assertRaises(DataDirectoryError):
            read_private(self.folder, 10)

    def test_a_pipe_is_refused_and_waited_for_by_nobody(self) -> None:
        os.mkfifo(self.path, 0o600)
        with self.assertRaises(DataDirectoryError) as caught:
            read_private(self.path, 10)
        self.assertIn("a named pipe", str(caught.exception))
