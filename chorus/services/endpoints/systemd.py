"""Reports the node's state to systemd: one datagram a message, to the socket in `NOTIFY_SOCKET` (sd_notify(3)).

Outside of a service of `Type=notify` nothing is sent. The watchdog sits on the reactor: a reactor that no longer turns
sends nothing, and systemd starts the node again.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING

import attrs
from twisted.logger import Logger

from chorus.timer import Timer

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

EXTEND_S = 30.0
"""How much longer than now a start may take, each time that it is said: reading a large store takes as long as it
takes, and every step of a start has its own limit."""
STATUS_S = 10.0
"""Seconds between two status lines, and between two of the messages that a start sends."""
AGAIN_S = 1.0
"""Seconds until the end of a start is said again that could not be: the manager's socket was full, or it is restarted.
Nothing else tells it that the node runs, so it is said until it was."""
MAX_STATUS = 300
"""Characters of a status line: `systemctl status` shows one line."""


@attrs.frozen
class Supervision:
    """The service manager that started this process, as the environment describes it."""

    address: str | None = None
    """Path of a Unix socket, or `@` and the name of an abstract one; None where nobody listens."""
    watchdog_s: float | None = None
    """Seconds without a message after which the manager ends the process."""

    @classmethod
    def take(cls, environ: MutableMapping[str, str], pid: int) -> Supervision:
        """Read and remove the variables, so that no child process of ours believes that it is the service."""
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds = environ.pop("WATCHDOG_USEC", "")
        watched = environ.pop("WATCHDOG_PID", str(pid))
        if not address.startswith(("/", "@")):
            return cls()
        if watched != str(pid) or not (microseconds.isascii() and microseconds.isdigit()) or not int(microseconds):
            return cls(address)
        return cls(address, int(microseconds) / 1e6)


def send(address: str, message: str) -> None:
    """One datagram, without waiting. Raises `OSError`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as notify:
        notify.sendto(message.encode(), "\0" + address[1:] if address.startswith("@") else address)


class Notifier:
    """`begin`, then `ready` or `failed`, `stopping`, `end`. `status` makes the line that `systemctl status` shows."""

    _log = Logger()

    def __init__(
        self,
        supervision: Supervision,
        clock: IReactorTime,
        status: Callable[[], str],
        transmit: Callable[[str, str], None] = send,
    ) -> None:
        self._supervision = supervision
        self._status = status
        self._transmit = transmit
        self._shown = ""
        self._watchdog = Timer(clock, self._alive)
        self._starting = Timer(clock, self._extend)
        self._readying = Timer(clock, self.ready)
        self._telling = Timer(clock, self._tell)

    def begin(self) -> None:
        """The start begins: it may take long, and says so until it is over."""
        if self._supervision.address is not None:
            self._alive()
            self._extend()

    def ready(self) -> None:
        """All phases of the start are done. Until that was sent the start goes on, and asks for more time."""
        if self._supervision.address is None:
            return
        if self._show(self._status(), "READY=1", f"MAINPID={os.getpid()}"):
            self._starting.cancel()
            self._telling.arm(STATUS_S)
        else:
            self._readying.arm(AGAIN_S)

    def failed(self, reason: str) -> None:
        self._started()
        self._show(reason)

    def stopping(self) -> None:
        self._started()
        self._telling.cancel()
        self._show("stopping", "STOPPING=1")

    def end(self) -> None:
        """Nothing is sent any more."""
        for timer in (self._watchdog, self._starting, self._readying, self._telling):
            timer.cancel()

    def _started(self) -> None:
        """One way or the other: nothing about the start is said any more."""
        self._starting.cancel()
        self._readying.cancel()

    def _alive(self) -> None:
        if self._supervision.watchdog_s is not None:
            self._send("WATCHDOG=1")
            self._watchdog.arm(self._supervision.watchdog_s / 3)

    def _extend(self) -> None:
        self._send(f"EXTEND_TIMEOUT_USEC={EXTEND_S * 1e6:.0f}", "STATUS=starting")
        self._starting.arm(STATUS_S)

    def _tell(self) -> None:
        self._show(self._status())
        self._telling.arm(STATUS_S)

    def _show(self, text: str, *news: str) -> bool:
        """Send `news` with a status line, or the line alone if it is another than the last that was sent."""
        # A line feed would begin another assignment.
        line = "STATUS=" + " ".join(text.split())[:MAX_STATUS]
        if not news and line == self._shown:
            return True
        sent = self._send(*news, line)
        if sent:
            self._shown = line
        return sent

    def _send(self, *assignments: str) -> bool:
        """True if the manager took the datagram."""
        if self._supervision.address is None:
            return False
        try:
            self._transmit(self._supervision.address, "\n".join(assignments))
        except OSError as error:
            # A manager that is restarted listens again; what matters is repeated.
            self._log.debug("systemd could not be notified: {error}", error=error)
            return False
        return True
