"""Files that name a running node's ports, for the `chorus` command and for scripts, and the ports of its last start,
for a start that may take any."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from twisted.logger import Logger

from chorus.files import DataDirectoryError, read_private, write_private
from chorus.timer import Periodic

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

    from chorus.seams import JSON

PORTS = "ports.json"
LAST_PORTS = "last-ports.json"
NAMES = ("p2p", "api", "health")
MAX_BYTES = 4096
RETRY_S = 5.0
"""Before a file that could not be written is tried again."""


class PortsFile:
    """`ports.json` in the data directory `directory` is there while the node runs, `last-ports.json` always. Trouble
    with them is a warning, and they are tried again from `start` to `remove`."""

    _log = Logger()

    def __init__(self, directory: Path, clock: IReactorTime) -> None:
        self._path = directory / PORTS
        self._last = directory / LAST_PORTS
        self._unwritten: Mapping[str, JSON] | None = None
        self._loop = Periodic(clock, "writing ports", self._again, lambda: RETRY_S)

    def last(self) -> dict[str, int]:
        """Ports of the last start, by name; those that are not known, or are none, are left out."""
        try:
            found = json.loads(read_private(self._last, MAX_BYTES) or b"{}")
        except (DataDirectoryError, ValueError, RecursionError):
            return {}
        if not isinstance(found, dict):
            return {}
        known = {name: found.get(name) for name in NAMES}
        return {name: port for name, port in known.items() if type(port) is int and 0 < port < 65536}

    def start(self) -> None:
        """Write later what could not be written yet."""
        self._loop.start()

    def write(self, ports: Mapping[str, JSON]) -> None:
        """Replace what is there; removes `ports.json` where that fails."""
        self._unwritten = ports
        try:
            self._write(ports)
        except OSError as error:
            # Others are served all the same; an older file would send the command to a wrong port.
            self._log.warn(
                "{file} cannot be written: {reason}; the chorus command needs to be told the port until it can",
                event="node.ports_not_written",
                file=PORTS,
                reason=error.strerror,
            )
            self._remove()

    def remove(self) -> None:
        self._loop.stop()
        self._remove()

    def _write(self, ports: Mapping[str, JSON]) -> None:
        write_private(self._path, json.dumps(ports).encode())
        last = {name: port for name, port in ports.items() if name in NAMES}
        with contextlib.suppress(OSError):
            if last != self.last():
                write_private(self._last, json.dumps(last).encode())
            self._unwritten = None

    def _again(self) -> None:
        if self._unwritten is None:
            return
        new = not self._path.exists()
        with contextlib.suppress(OSError):
            self._write(self._unwritten)
            if new:
                self._log.info("{file} is written", event="node.ports_written", file=PORTS)

    def _remove(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            self._log.warn("{file} cannot be removed: {reason}", file=PORTS, reason=error.strerror)
