"""The part of the Docker backend that its runs and its warm pool use."""

from __future__ import annotations

import attrs
from twisted.logger import Logger

from chorus.errors import ChorusError
from chorus.sandbox.docker.box import Contained
from chorus.sandbox.docker.containers import Containers
from chorus.sandbox.files import volumes
from chorus.sandbox.leftovers import Leftovers
from chorus.sandbox.run import FILES_S, Site
from chorus.sandbox.workers import TimedOut

CONTAINER_S = 90.0
"""Time limit of making or removing a container."""

PROBE_S = 12.0
"""Time limit of a question to the engine."""

_log = Logger()


@attrs.frozen
class DockerSite(Site):
    containers: Containers
    leftovers: Leftovers[str]
    """Ids of containers that the engine could not be asked to remove."""

    async def discard(self, found: Contained) -> None:
        """Remove a container that nobody uses, and its box."""
        try:
            await self.workers.call(CONTAINER_S, self.containers.remove, found)
        except (ChorusError, TimedOut):
            self.leftovers.add(found.id)
        try:
            await self.workers.call(FILES_S, volumes.remove_tree, found.box.root)
        except (OSError, TimedOut) as error:
            _log.error("{path} could not be removed: {error}", path=str(found.box.root), error=error)
