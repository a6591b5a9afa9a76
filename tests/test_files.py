from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from unittest import mock

from chorus.files import create_once, open_plain, read_plain
from tests.support import PureTestCase


class Odd(PureTestCase):
    """Every kind of thing that can lie where a file belongs; a test that blocks has failed."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.path = self.folder / "x"

    def refused(self, word: str) -> None:
        for flags in (os.O_RDONLY, os.O_RDWR | os.O_CREAT, os.O_WRONLY | os.O_CREAT | os.O_TRUNC):
            with self.assertRaises(OSError) as caught:
                os.close(open_plain(self.path, flags))
            self.assertIn(word, caught.exception.strerror)
            self.assertEqual(caught.exception.filename, str(self.path))

    def test_a_pipe(self) -> None:
        os.mkfifo(self.path)
        self.refused("a named pipe")

    def test_a_directory(self) -> None:
        self.path.mkdir()
        self.refused("a directory")

    def test_a_link(self) -> None:
        target = self.folder / "target"
        target.write_bytes(b"other")
        self.path.symlink_to(target)
        self.refused("a symbolic link")
        self.assertEqual(target.read_bytes(), b"other")

    def test_a_socket(self) -> None:
        here = os.open(self.folder, os.O_RDONLY)
        self.addCleanup(os.close, here)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"/proc/self/fd/{here}/x")
            self.refused("a socket")

    def test_nothing_stays_open(self) -> None:
        self.path.mkdir()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            self.assertRaises(OSError, read_plain, self.path, 1)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_read(self) -> None:
        self.assertRaises(FileNotFoundError, read_plain, self.path, 1)
        create_once(self.path, b"abc")
        self.assertEqual(read_plain(self.path, 2), (b"ab", 0o600))
        self.assertRaises(FileExistsError, create_once, self.path, b"other")
        self.assertEqual(read_plain(self.path, 9)[0], b"abc")

    def test_a_full_disk_leaves_nothing_half_made(self) -> None:
        with mock.patch("os.fsync", side_effect=OSError(errno.ENOSPC, "No space left on device")):
            self.assertRaises(OSError, create_once, self.path, b"abc")
        self.assertEqual(list(self.folder.iterdir()), [])
