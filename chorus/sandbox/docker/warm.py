"""The warm pool: started containers that wait for a task, a configured number for each image. Each is used once."""

from __future__ import annotations

import uuid
from collections import defaultdict, deque
from collections.abc import Mapping
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from chorus.errors import ChorusError
from chorus.sandbox.docker.box import Contained
from chorus.sandbox.docker.site import CONTAINER_S, PROBE_S, DockerSite
from chorus.sandbox.files.workspace import Box
from chorus.sandbox.workers import TimedOut
from chorus.tasks.languages import LANGUAGES
from chorus.tasks.terms import Limits
from chorus.timer import Timer

EVERY = "*"
"""In the configuration: so many of every image of the language map that the engine has."""

RETRY_S = 30.0
"""After a container could not be made."""

REFILL_S = 0.5
"""After a container was taken: its task starts first."""

MAX_PER_IMAGE = 32
"""A waiting container costs a few MB and a mount; more than tasks can use at once is a typing error."""


class WarmPool:
    """Filled in the background, one container after another, so that filling does not crowd out a task's own start."""

    _log = Logger()

    def __init__(self, site: DockerSite, folder: Path, wanted: Mapping[str, int], limits: Limits) -> None:
        self._site = site
        self.folder = folder
        self._wanted = dict(wanted)
        self._limits = limits
        self._waiting: dict[str, deque[Contained]] = defaultdict(deque)
        self._filling: Deferred[None] | None = None
        self._timer = Timer(site.reactor, self._fill)
        self._open = False

    @property
    def waiting(self) -> dict[str, int]:
        """Containers ready per image."""
        return {image: len(ready) for image, ready in self._waiting.items() if ready}

    def begin(self) -> None:
        """Start filling; after what an earlier process left is gone."""
        self._open = True
        self._fill_soon()

    def take(self, image: str, limits: Limits) -> Contained | None:
        """A ready container of this image that can be given these limits."""
        ready = self._waiting.get(image)
        if not ready or limits.disk_mb > self._limits.disk_mb or limits.output_mb > self._limits.disk_mb:
            return None
        found = ready.popleft()
        self._fill_soon(REFILL_S)
        # One whose first process died while it waited is of no use.
        if found.gone():
            Deferred.fromCoroutine(self._site.discard(found))
            return self.take(image, limits)
        return found

    async def drain(self) -> None:
        """Stop filling and remove what waits."""
        self._open = False
        self._timer.cancel()
        if self._filling is not None:
            await self._filling
        for ready in self._waiting.values():
            while ready:
                await self._site.discard(ready.popleft())

    def _fill_soon(self, delay: float = 0.0) -> None:
        if self._open and self._wanted and self._filling is None and not self._timer.armed:
            self._timer.arm(delay)

    def _fill(self) -> None:
        self._filling = Deferred.fromCoroutine(self._fill_all())
        self._filling.addErrback(
            lambda failure: self._log.failure("internal error while filling the warm pool", failure)
        )

    async def _fill_all(self) -> None:
        again: float | None = None
        try:
            for image, count in (await self._targets()).items():
                while self._open and len(self._waiting[image]) < min(count, MAX_PER_IMAGE):
                    self._waiting[image].append(await self._one(image))
        except (ChorusError, TimedOut, OSError) as error:
            self._log.warn("the warm pool is not full: {error}", error=error)
            again = RETRY_S
        finally:
            self._filling = None
        if again is not None:
            self._fill_soon(again)

    async def _targets(self) -> dict[str, int]:
        targets = {image: count for image, count in self._wanted.items() if image != EVERY}
        if EVERY in self._wanted:
            containers = self._site.containers
            for language in LANGUAGES:
                image = containers.images.image_for(language)
                if image in targets:
                    continue
                there: str | None = await self._site.workers.call(PROBE_S, containers.engine.image_id, image)
                if there is not None:
                    targets[image] = self._wanted[EVERY]
        return targets

    async def _one(self, image: str) -> Contained:
        name = uuid.uuid4().hex
        box = Box(self.folder / name)
        found: Contained = await self._site.workers.call(
            CONTAINER_S, self._site.containers.make, f"chorus-warm-{name[:12]}", image, box, self._limits, None
        )
        return found
