"""What the last lines of a command that failed say of it, by table."""

from __future__ import annotations

import os
from pathlib import Path

from chorus.sandbox.hints import NO_NETWORK, TAIL_BYTES, hint, missing, network, on_host, words
from chorus.tasks.terms import Reason
from tests.sandbox.support import shell
from tests.support import PureTestCase

UNREACHABLE = """\
curl: (6) Could not resolve host: example.org
fatal: unable to access 'https://github.com/a/b/': Could not resolve host: github.com
wget: unable to resolve host address 'example.org'
wget: bad address 'example.org'
ping: example.org: Temporary failure in name resolution
W: Failed to fetch http://deb.debian.org/x  Temporary failure resolving 'deb.debian.org'
socket.gaierror: [Errno -2] Name or service not known
NewConnectionError('<...>: Failed to establish a new connection: [Errno -3] Temporary failure in name resolution')
ERROR: Could not fetch URL https://pypi.org/simple/x/: connection error
npm error code EAI_AGAIN
npm ERR! code ENOTFOUND
Error: getaddrinfo EAI_AGAIN registry.npmjs.org
go: x@v1: Get "https://proxy.golang.org/x": dial tcp: lookup proxy.golang.org: no such host
dial tcp: lookup proxy.golang.org on [::1]:53: server misbehaving
dial tcp 1.1.1.1:443: connect: network is unreachable
warning: spurious network error: [6] Couldn't resolve host name (Could not resolve host: index.crates.io)
java.net.UnknownHostException: repo.maven.apache.org
OSError: [Errno 101] Network is unreachable
connect: No route to host
error sending request: dns error: failed to lookup address information: Temporary failure in name resolution
""".splitlines()

REACHED = """\
AssertionError: 1 != 2
ConnectionRefusedError: [Errno 111] Connection refused
make: *** No rule to make target 'all'.  Stop.
test_network.py::test_resolver FAILED
error: the network of the model has no layer 3
FileNotFoundError: [Errno 2] No such file or directory: 'hosts'
""".splitlines()


class Network(PureTestCase):
    def test_table(self) -> None:
        for line in UNREACHABLE:
            self.assertTrue(network(f"first\n{line}\nmore\n".encode()), line)
            self.assertTrue(network(line.upper().encode()), line)
        for line in REACHED:
            self.assertFalse(network(line.encode()), line)
        self.assertFalse(network(b"\xff\x00"))


class Missing(PureTestCase):
    def test_table(self) -> None:
        for text, name in [
            ("/bin/sh: 1: node: not found", "node"),
            ("sh: 12: pytest-3: not found", "pytest-3"),
            ("/bin/sh: line 1: go: command not found", "go"),
            ("bash: cargo: command not found", "cargo"),
            ("sh: uv: not found", "uv"),
            ("zsh: command not found: deno", "deno"),
            ("/usr/bin/env: ‘node’: No such file or directory", "node"),
            ("/usr/bin/env: 'ruby': No such file or directory", "ruby"),
            ("timeout: failed to run command 'g++': No such file or directory", "g++"),
            ("sh: a: not found\nsh: b: not found\n", "b"),
            ("sh: 1: ../../etc/shadow: not found", None),
            ("nothing of the kind", None),
            ("", None),
        ]:
            self.assertEqual(missing(text.encode()), name, text)
        self.assertEqual(missing(b"", ("node", "x.js")), "node")
        self.assertEqual(missing(b"", ("./configure",)), None)
        self.assertEqual(missing(b"", ("a" * 65,)), None)


class OnHost(PureTestCase):
    def setUp(self) -> None:
        self.home = Path(self.mktemp()).absolute()
        for place in (".local/bin", ".nvm/versions/node/v20/bin", ".pyenv/shims", "own/bin"):
            (self.home / place).mkdir(parents=True)
        self.environ = {"HOME": str(self.home), "PATH": f"{self.home}/own/bin::relative"}

    def put(self, place: str) -> None:
        path = self.home / place
        path.write_text("")
        path.chmod(0o755)

    def test_the_usual_places(self) -> None:
        for place in (".local/bin/aa-1", ".nvm/versions/node/v20/bin/aa-2", ".pyenv/shims/aa-3", "own/bin/aa-4"):
            name = place.rsplit("/", 1)[1]
            self.assertFalse(on_host(name, self.environ), place)
            self.put(place)
            self.assertTrue(on_host(name, self.environ), place)

    def test_what_the_sandbox_sees_too_is_not_missing(self) -> None:
        self.assertTrue(on_host("sh", {}))
        self.assertFalse(on_host("sh", {}, ("/usr", "/bin")))
        self.put("own/bin/aa-5")
        self.assertTrue(on_host("aa-5", self.environ, ("/usr", "/bin")))
        self.assertFalse(on_host("aa-5", self.environ, (f"{self.home}/own",)))

    def test_words(self) -> None:
        self.put("own/bin/aa-6")
        text = words(127, b"sh: 1: aa-6: not found\n", (), self.environ)
        self.assertIn("the sandbox has no aa-6, though this machine has it: docs/dependencies.md", text)
        self.assertNotIn(str(self.home), text)
        for code, tail, expected in [
            (127, b"sh: 1: aa-7: not found\n", ""),
            (1, b"sh: 1: aa-6: not found\n", ""),
            (0, b"Could not resolve host", ""),
            (None, b"Could not resolve host", ""),
            (1, b"Could not resolve host", f"; {NO_NETWORK}"),
        ]:
            self.assertEqual(words(code, tail, (), self.environ), expected, (code, tail))

    def test_the_ends_of_both_streams_of_a_run_that_failed_by_itself(self) -> None:
        job = shell("x")
        self.assertEqual(hint(Reason.EXIT, 1, job, self.home), "", "there is no output")
        for name in ("stdout", "stderr"):
            (self.home / name).write_bytes(b"Could not resolve host" + b"." * (TAIL_BYTES + 1))
            self.assertEqual(hint(Reason.EXIT, 1, job, self.home), "", "too long ago")
            (self.home / name).write_bytes(b"." * (TAIL_BYTES + 1) + b"Could not resolve host")
            self.assertIn(NO_NETWORK, hint(Reason.EXIT, 1, job, self.home), name)
            self.assertEqual(hint(Reason.DISK, 1, job, self.home), "")
            os.unlink(self.home / name)
