from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from unittest import mock

from chorus.http.auth import TokenFileError, check_token, load_or_make_token
from chorus.http.problem import HttpError
from tests.support import PureTestCase


class TokenFile(PureTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir(parents=True)
        self.file = self.directory / "api-token"

    def test_is_made_once_for_the_owner_alone(self) -> None:
        previous = os.umask(0)
        try:
            token = load_or_make_token(self.directory)
        finally:
            os.umask(previous)
        self.assertGreaterEqual(len(token), 43)
        self.assertEqual(stat.S_IMODE(self.file.stat().st_mode), 0o600)
        self.assertEqual(load_or_make_token(self.directory), token)

    def test_two_are_different(self) -> None:
        first = load_or_make_token(self.directory)
        self.file.unlink()
        self.assertNotEqual(load_or_make_token(self.directory), first)

    def test_one_that_others_can_read_is_refused(self) -> None:
        load_or_make_token(self.directory)
        self.file.chmod(0o640)
        with self.assertRaisesRegex(TokenFileError, "chmod 600"):
            load_or_make_token(self.directory)

    def test_an_empty_or_odd_one_is_refused(self) -> None:
        for content in (b"", b"short\n", b"x" * 20 + b" y", b"\xff" * 20):
            self.file.write_bytes(content)
            self.file.chmod(0o600)
            with self.assertRaisesRegex(TokenFileError, "holds no usable API token"):
                load_or_make_token(self.directory)

    def test_a_pipe_is_refused_and_waited_for_by_nobody(self) -> None:
        os.mkfifo(self.file, 0o600)
        with self.assertRaisesRegex(TokenFileError, "api-token: it is a named pipe"):
            load_or_make_token(self.directory)

    def test_a_full_disk_leaves_no_empty_token(self) -> None:
        full = OSError(errno.ENOSPC, "No space left on device")
        with mock.patch("os.fsync", side_effect=full), self.assertRaisesRegex(TokenFileError, "No space left"):
            load_or_make_token(self.directory)
        self.assertEqual(list(self.directory.iterdir()), [])
        load_or_make_token(self.directory)

    def test_no_directory(self) -> None:
        with self.assertRaisesRegex(TokenFileError, "No such file"):
            load_or_make_token(self.directory / "none")


class Check(PureTestCase):
    def test_long_and_odd_headers_are_refused(self) -> None:
        for header in (b"Bearer " + b"a" * 15_000, b"Bearer \xff", b"Bearer\ttoken-token-token-"):
            with self.assertRaises(HttpError):
                check_token(header, b"token-token-token-")
        check_token(b"BEARER  token-token-token- ", b"token-token-token-")
