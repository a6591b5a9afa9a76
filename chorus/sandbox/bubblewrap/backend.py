"""The sandbox of a machine without an engine: bubblewrap, control groups where they can be written, and a BPF filter.

Holds the contract of `contract.py` as far as this machine lets it; what it cannot hold is named in the result's
`caveats`. A sandbox dies with its agent (`--die-with-parent`), so there is nothing to adopt after a restart, and
nothing left over but folders, mounts and empty groups, which `reconcile` removes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from chorus.sandbox import cgroups, processes
from chorus.sandbox.bubblewrap.launch import conceal, dismantle
from chorus.sandbox.bubblewrap.machine import PROBE_S, Machine
from chorus.sandbox.bubblewrap.run import BubblewrapRun
from chorus.sandbox.bubblewrap.site import BubblewrapSite
from chorus.sandbox.contract import Job, OutputSink, Run
from chorus.sandbox.leftovers import Leftovers
from chorus.sandbox.run import FILES_S, Runs
from chorus.sandbox.uids import Uids
from chorus.sandbox.workers import Workers

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime


class Bubblewrap:
    """`Backend` over the `bwrap` command. `run_root` is where a root agent mounts boxes so that the task's user can
    reach them."""

    name = "bubblewrap"
    _log = Logger()

    def __init__(
        self,
        reactor: IReactorTime,
        agent_id: str,
        *,
        path: str | None = None,
        run_root: Path = Path("/run/chorus-sandbox"),
        tmp_mb: int | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.runs: Runs[BubblewrapRun] = Runs()
        self.machine = Machine(agent_id, path, run_root)
        workers = Workers(reactor, self.name)
        self.leftovers = Leftovers[tuple[Path, Path]](reactor, lambda left: workers.call(FILES_S, dismantle, *left))
        self._site = BubblewrapSite(self.name, reactor, workers, now, self.machine, self.leftovers, Uids(), tmp_mb)
        self._count = 0

    def probe(self) -> Deferred[str | None]:
        look = self._site.workers.call(PROBE_S, self.machine.look)
        return look.addErrback(lambda failure: failure.getErrorMessage())

    def has_image(self, job: Job) -> Deferred[bool]:
        """There are no images here: a task that names one needs an engine."""
        return succeed(job.image is None)

    def start(self, job: Job, scratch: Path, sink: OutputSink) -> Run:
        self._count += 1
        name = f"{self.machine.prefix}{os.getpid()}-{self._count}"
        return self.runs.begin(BubblewrapRun(self._site, name, job, scratch, sink))

    def reconcile(self, keep: Callable[[str, str], bool]) -> Deferred[list[tuple[str, str]]]:
        return self._site.workers.call(FILES_S, self._reconcile)

    def adopt(self, job: Job, scratch: Path, sink: OutputSink, stdout_from: int, stderr_from: int) -> Run | None:
        return None

    def close(self) -> Deferred[None]:
        async def close() -> None:
            self.leftovers.close()
            await self.runs.end(BubblewrapRun.detach)
            await self.leftovers.sweep()
            self._site.workers.stop()

        return Deferred.fromCoroutine(close())

    def _reconcile(self) -> list[tuple[str, str]]:
        """Blocking."""
        mine = {run.name for run in self.runs}
        for path in self.machine.run_root.glob(f"{self.machine.prefix}*"):
            if path.name not in mine:
                try:
                    conceal(path)
                except OSError as error:
                    self._log.error("{path} cannot be removed: {error}", path=str(path), error=error)
        if not mine:
            hierarchy = cgroups.find()
            if hierarchy is not None:
                cgroups.reap(hierarchy, self.machine.prefix)
            # Where no group tells, and what had not joined its group yet.
            processes.kill_marked(self.machine.marks)
        return []
