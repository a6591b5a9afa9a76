"""Where a running node says which ports it uses, for the `chorus` command and for scripts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from twisted.logger import Logger

from chorus.services.datadir import write_private

if TYPE_CHECKING:
    from chorus.seams import JSON

PORTS = "ports.json"


class PortsFile:
    """The file in the data directory `directory`; it is there while the node runs. Trouble with it is a warning."""

    _log = Logger()

    def __init__(self, directory: Path) -> None:
        self._path = directory / PORTS

    def write(self, ports: Mapping[str, JSON]) -> None:
        """Replace what is there; removes it where that fails."""
        try:
            write_private(self._path, json.dumps(ports).encode())
        except OSError as error:
            # Others are served all the same; an older file would send the command to a wrong port.
            self._log.warn(
                "{file} cannot be written: {reason}; the chorus command needs to be told the port",
                event="node.ports_not_written",
                file=PORTS,
                reason=error.strerror,
            )
            self.remove()

    def remove(self) -> None:
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            self._log.warn("{file} cannot be removed: {reason}", file=PORTS, reason=error.strerror)
