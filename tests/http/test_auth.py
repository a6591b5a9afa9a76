from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from unittest import mock

from chorus.http import auth
from chorus.http.auth import MAX_TOKEN_FILE, TokenFileError, check_host, check_token, load_or_make_token
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


class TokenText(PureTestCase):
    """What may stand in the file."""

    def token(self, content: bytes) -> str:
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / "api-token").write_bytes(content)
        (directory / "api-token").chmod(0o600)
        return load_or_make_token(directory)

    def test_taken(self) -> None:
        for content, token in (
            (b"0123456789abcdef", "0123456789abcdef"),
            (b"\n  0123456789abcdef \r\n", "0123456789abcdef"),
            (b"!" * 15 + b"~", "!" * 15 + "~"),
            (b"x" * MAX_TOKEN_FILE, "x" * MAX_TOKEN_FILE),
        ):
            self.assertEqual(self.token(content), token)

    def test_refused(self) -> None:
        for content in (b"0123456789abcde", b"0123456789abcdef\0", b"0123456789 abcdef", b"0123456789\nabcdef0",
                        "0123456789abcdé".encode(), b"0123456789abcdef\x7f", b" \n"):  # fmt: skip
            self.assertRaises(TokenFileError, self.token, content)

    def test_what_others_may_do_is_said_with_what_to_do(self) -> None:
        for mode in (0o601, 0o602, 0o604, 0o610, 0o620, 0o640, 0o777):
            directory = Path(self.mktemp())
            directory.mkdir()
            (directory / "api-token").write_bytes(b"0123456789abcdef")
            (directory / "api-token").chmod(mode)
            error = self.assertRaises(TokenFileError, load_or_make_token, directory)
            self.assertIn(f"mode {mode:04o}", str(error))
            self.assertIn(f"chmod 600 {directory}/api-token", str(error))


class Check(PureTestCase):
    TOKEN = b"token-token-token-"

    def refused(self, header: bytes | None) -> HttpError:
        error = self.assertRaises(HttpError, check_token, header, self.TOKEN)
        self.assertEqual((error.status, error.problem_code), (401, "unauthorized"))
        return error

    def test_taken(self) -> None:
        for header in (b"Bearer token-token-token-", b"bearer token-token-token-", b"BEARER  token-token-token- "):
            check_token(header, self.TOKEN)

    def test_long_and_odd_headers_are_refused(self) -> None:
        for header in (
            *(b"", b"Bearer", b"Bearer ", b"token-token-token-", b"Basic token-token-token-"),
            *(b"Bearertoken-token-token-", b"Bearer\ttoken-token-token-", b" Bearer token-token-token-"),
            *(b"Bearer token-token-token", b"Bearer token-token-token-x", b"Bearer xtoken-token-token-"),
            *(b"Bearer TOKEN-TOKEN-TOKEN-", b"Bearer token-token-token- x", b"Bearer token-token-token-\n"),
            *(b"Bearer token-token-token-, Bearer x", b"Bearer \xff", b"Bearer " + b"a" * 15_000),
            *(b"Bearer \xd1\x82oken-token-token-", b'Bearer "token-token-token-"', b"Bearer token-token-token-\0"),
        ):
            self.refused(header)

    def test_the_challenge_says_whether_one_was_given(self) -> None:
        without, wrong = self.refused(None), self.refused(b"Bearer x")
        self.assertEqual(without.headers, {"WWW-Authenticate": 'Bearer realm="chorus"'})
        self.assertEqual(wrong.headers, {"WWW-Authenticate": 'Bearer realm="chorus", error="invalid_token"'})
        self.assertIn("api-token", str(without))
        self.assertIn("not this node's", str(wrong))
        for error in (without, wrong):
            self.assertNotIn(self.TOKEN.decode(), str(error))

    def test_tokens_are_compared_in_constant_time(self) -> None:
        compared: list[tuple[bytes, bytes]] = []

        def compare(one: bytes, other: bytes) -> bool:
            compared.append((one, other))
            return one == other

        self.patch(auth.hmac, "compare_digest", compare)
        self.refused(b"Bearer x")
        check_token(b"Bearer " + self.TOKEN, self.TOKEN)
        self.assertEqual(compared, [(b"x", self.TOKEN), (self.TOKEN, self.TOKEN)])


class Hosts(PureTestCase):
    NAMES = frozenset({"node1.example.org"})

    def status(self, *values: bytes) -> int:
        try:
            check_host(values, self.NAMES)
        except HttpError as error:
            self.assertEqual(error.problem_code, {400: "bad_host", 421: "unknown_host"}[error.status])
            return error.status
        return 200

    def test_table(self) -> None:
        for host, status in (
            *((b"localhost", 200), (b"LOCALHOST:80", 200), (b"localhost.", 200), (b" localhost ", 200)),
            *((b"127.0.0.1", 200), (b"127.0.0.1:65535", 200), (b"10.1.2.3", 200), (b"203.0.113.7:8080", 200)),
            *((b"[::1]", 200), (b"[::1]:8080", 200), (b"[2001:DB8::7]", 200), (b"[::ffff:127.0.0.1]", 200)),
            *((b"node1.example.org", 200), (b"Node1.Example.ORG:8080", 200), (b"node1.example.org.", 200)),
            *((b"node2.example.org", 421), (b"example.org", 421), (b"localhost.example.org", 421), (b"node1", 421)),
            *((b"127.0.0.1.example.org", 421), (b"127.0.0.1.nip.io", 421), (b"0x7f000001", 421), (b"127.1", 421)),
            *((b"2130706433", 421), (b"localhost-", 421), (b"xnode1.example.org", 421), (b"::1", 400)),
            *((b"", 400), (b" ", 400), (b":80", 400), (b"localhost:", 400), (b"localhost:x", 400), (b"a b", 400)),
            *((b"localhost:123456", 400), (b"user@localhost", 400), (b"localhost/", 400), (b"[::1", 400)),
            *((b"localhost,127.0.0.1", 400), (b"localhost\0", 400), (b"localhost#", 400), (b"\xff", 400)),
            *((b"l\xc3\xb6calhost", 400), (b"a" * 253, 421), (b"a" * 254, 400), (b"[fe80::1%eth0]", 400)),
        ):
            self.assertEqual(self.status(host), status, host)

    def test_exactly_one(self) -> None:
        self.assertEqual((self.status(), self.status(b"localhost", b"localhost")), (400, 400))

    def test_the_line_names_the_setting(self) -> None:
        error = self.assertRaises(HttpError, check_host, (b"evil.example",), self.NAMES)
        self.assertIn("CHORUS_API_HOSTS", str(error))
        self.assertIn("evil.example", str(error))
