"""Nodes of other implementations as processes, driven by JSON lines: each command on stdin has one answer on stdout.

Both peers (`py_libp2p_peer.py`, `js_libp2p/peer.mjs`) take the same commands, `{"do": NAME, …}`. An answer is
`{"ok": true, …}` or `{"ok": false, "error": …}`. Bytes are hexadecimal. Waiting commands give up after 60 s.

connect addr              dial
identified peer           waits for identify → protocols, addresses, agent, key_matches
ping peer count           with the library's own ping → ms of each
pong peer count           32-byte echoes on one stream → rounds
subscribe topic
mesh topic peers          waits until all of them are in the mesh
narrow                    js alone: from now on, a mesh is one peer
streams peer              → opened, accepted: the protocols agreed on for streams that are open
publish topic data        → id of the message, as that implementation computes it
forge topic data          publishes with a signature of another key
received count            waits for so many messages of others → messages: all so far, of {topic, from, data, id}
refused count             waits until so many messages were refused for their signature

With `--kad` they are also servers of the DHT `/ipfs/kad/1.0.0`, with a namespace `interop` that takes everything:

table peer                waits until the peer is in the routing table
put key value             the key as text
get key                   → value, or null
provide key               the key is a multihash
providers key             → peers
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.internet import error, reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.trial.unittest import SkipTest

PY_VARIABLE = "CHORUS_TEST_PY_LIBP2P"
JS_VARIABLE = "CHORUS_TEST_JS_LIBP2P"
OLDEST_NODE = 20
"""js-libp2p needs it; Debian 12 has 18."""
HERE = Path(__file__).parent


def py_command() -> list[str]:
    """How to start the py-libp2p peer; raises `SkipTest`."""
    python = os.environ.get(PY_VARIABLE, "")
    if not python:
        raise SkipTest(f"{PY_VARIABLE} is not set: it names a python that has libp2p==0.8.1")
    if not os.access(python, os.X_OK):
        raise SkipTest(f"{PY_VARIABLE}={python} is not an executable python")
    return [python, str(HERE / "py_libp2p_peer.py")]


def js_command(scratch: Path) -> list[str]:
    """How to start the js-libp2p peer; raises `SkipTest`.

    Node looks for packages beside the program, so the program is copied to `scratch` and the packages linked to it.
    """
    folder = os.environ.get(JS_VARIABLE, "")
    if not folder:
        raise SkipTest(f"{JS_VARIABLE} is not set: it names a folder with the packages of tests/interop/js_libp2p")
    if not (Path(folder) / "node_modules" / "libp2p").is_dir():
        raise SkipTest(f"{JS_VARIABLE}={folder} has no node_modules/libp2p")
    node = shutil.which("node", path=os.pathsep.join([f"{folder}/bin", os.environ.get("PATH", os.defpath)]))
    if node is None or _major_version(node) < OLDEST_NODE:
        raise SkipTest(f"there is no node of version {OLDEST_NODE} or newer in {folder}/bin or on PATH")
    scratch.mkdir(parents=True)
    for name in ("peer.mjs", "polyfill.mjs"):
        shutil.copy(HERE / "js_libp2p" / name, scratch)
    (scratch / "node_modules").symlink_to(Path(folder).resolve() / "node_modules")
    return [node, str(scratch / "peer.mjs")]


@functools.cache
def _major_version(node: str) -> int:
    told = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    return int(told.removeprefix("v").partition(".")[0])


class ForeignPeer(ProcessProtocol):
    """The process. `ready` fires with its `peer_id` and `addr`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._buffer = b""
        self._errors = b""
        self._answers: list[Deferred[dict[str, Any]]] = []
        self.ended: Deferred[None] = Deferred()
        self.ready = self._answer()

    def start(self, command: Sequence[str], topic: str) -> None:
        """`topic` is the one whose refused messages are counted."""
        reactor.spawnProcess(self, command[0], [*command, topic], env=os.environ)

    def ask(self, do: str, **given: object) -> Deferred[dict[str, Any]]:
        """Fails with `AssertionError` where the peer could not do it."""
        self.transport.write(json.dumps({"do": do, **given}).encode() + b"\n")
        return self._answer().addCallback(self._checked, do)

    def _answer(self) -> Deferred[dict[str, Any]]:
        answer: Deferred[dict[str, Any]] = Deferred()
        self._answers.append(answer)
        return answer

    def _checked(self, answer: dict[str, Any], do: str) -> dict[str, Any]:
        if not answer["ok"]:
            raise AssertionError(f"{self.name}, {do}: {answer['error']}\n{self._errors.decode()[-2000:]}")
        return answer

    def outReceived(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        for line in lines:
            self._answers.pop(0).callback(json.loads(line))

    def errReceived(self, data: bytes) -> None:
        self._errors = (self._errors + data)[-10000:]

    def processEnded(self, reason: Any) -> None:
        for answer in self._answers:
            answer.errback(AssertionError(f"{self.name} ended: {self._errors.decode()[-2000:]}"))
        self._answers.clear()
        self.ended.callback(None)

    async def stop(self) -> None:
        self.transport.closeStdin()
        kill = reactor.callLater(3, self._kill)
        await self.ended
        if kill.active():
            kill.cancel()

    def _kill(self) -> None:
        with contextlib.suppress(error.ProcessExitedAlready):
            self.transport.signalProcess("KILL")
