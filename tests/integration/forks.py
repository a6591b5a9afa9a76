"""Starts nodes as forks of a process that has already imported CHORUS: importing takes most of a node's start.

`Twistd` is a `subprocess.Popen`. The server that it forks is a child of the test's process and ends with it; the node
is the test's own child too, and begins without a reactor, a thread, or a descriptor but its three standard ones. What
an interpreter reads as it starts (its variables, the locale, /proc/PID/environ) is the server's: a test of those uses
`Popen`.
"""

from __future__ import annotations

import array
import atexit
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
TWISTD = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
PR_SET_CHILD_SUBREAPER = 36
MAX_REQUEST = 1 << 20
LEFT_OUT = ("chorus.client", "chorus.simulation")
"""No node imports these."""


class Server:
    """The process that is forked, as the tests see it."""

    def __init__(self) -> None:
        self._socket, its_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with its_end:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(its_end.fileno())],
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                pass_fds=[its_end.fileno()],
                stdin=subprocess.DEVNULL,
            )
        atexit.register(self.stop)

    def fork(self, words: list[str], cwd: str, env: Mapping[str, str], session: bool, descriptors: list[int]) -> int:
        """The process id of a new child of this process."""
        request = json.dumps({"words": words, "cwd": cwd, "env": dict(env), "session": session}).encode()
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
        # An orphan goes to its nearest ancestor that asks for orphans. All others that tests make shall go to init.
        _adopt_orphans(True)
        try:
            self._socket.sendmsg([request], [rights])
            return int(self._socket.recv(64))
        finally:
            _adopt_orphans(False)

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        self._socket.close()
        self._process.wait(60)


def servers() -> set[int]:
    """Process ids of children of this process that are no node."""
    return set() if Twistd._server is None else {Twistd._server.pid}


class Twistd(subprocess.Popen[Any]):
    """`twistd WORDS`, with the arguments of a `Popen`."""

    _lock = threading.Lock()
    _server: Server | None = None

    def _execute_child(
        self,
        args: list[str],
        executable: object,
        preexec_fn: object,
        close_fds: object,
        pass_fds: object,
        cwd: Path,
        env: Mapping[str, str],
        startupinfo: object,
        creationflags: object,
        shell: object,
        p2cread: int,
        p2cwrite: int,
        c2pread: int,
        c2pwrite: int,
        errread: int,
        errwrite: int,
        restore_signals: object,
        gid: object,
        gids: object,
        uid: object,
        umask: object,
        start_new_session: bool,
        process_group: object,
    ) -> None:
        standard = [given if given != -1 else own for own, given in enumerate((p2cread, c2pwrite, errwrite))]
        try:
            with self._lock:
                if Twistd._server is None:
                    Twistd._server = Server()
                self.pid = Twistd._server.fork(args, str(cwd), env, bool(start_new_session), standard)
            self._child_created = True
        finally:
            self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]


def _adopt_orphans(yes: bool) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(yes), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


class _NoReactor(types.ModuleType):
    """Stands in for the reactor while modules are imported that take one along and do not use it."""


def _import_all() -> None:
    sys.modules["twisted.internet.reactor"] = _NoReactor("twisted.internet.reactor")
    import twisted.application.app
    import twisted.internet
    import twisted.scripts.twistd

    import chorus

    assert twisted.application.app and twisted.scripts.twistd
    for module in pkgutil.walk_packages(chorus.__path__, "chorus."):
        if not module.name.startswith(LEFT_OUT):
            importlib.import_module(module.name)
    del sys.modules["twisted.internet.reactor"]
    if hasattr(twisted.internet, "reactor"):
        del twisted.internet.reactor
    gc.collect()
    gc.freeze()


def _serve(requests: socket.socket) -> dict[str, Any] | None:
    """Forks for each request. What a child is to do, in the child; None in the server, when nobody asks any more."""
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST, 3)
        if not request:
            return None
        told, tell = os.pipe()
        if (between := os.fork()) == 0:
            if (pid := os.fork()) != 0:
                os.write(tell, str(pid).encode())
                os._exit(0)
            for number in (told, tell, requests.detach()):
                os.close(number)
            for standard, given in enumerate(descriptors):
                os.dup2(given, standard)
                os.close(given)
            found: dict[str, Any] = json.loads(request)
            return found
        os.close(tell)
        for number in descriptors:
            os.close(number)
        # Once the process between has ended, its child is the test's.
        os.waitpid(between, 0)
        requests.send(os.read(told, 64))
        os.close(told)


def _become(child: Mapping[str, Any]) -> None:
    if child["session"]:
        os.setsid()
    os.chdir(child["cwd"])
    os.environ.clear()
    os.environ.update(child["env"])
    sys.argv[:] = ["twistd", *child["words"]]


if __name__ == "__main__":
    # As `python -c` has it.
    sys.path[0] = ""
    _import_all()
    if (_child := _serve(socket.socket(fileno=int(sys.argv[1])))) is not None:
        _become(_child)
        from twisted.scripts.twistd import run

        run()
