"""One run in a container: watched through files and the engine.

The commands and the pump belong to the container, so a run goes on without this process and can be taken over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import attrs
from twisted.internet.defer import Deferred

from chorus.errors import ChorusError
from chorus.sandbox.contract import Job, OutputSink, SandboxUnavailable
from chorus.sandbox.docker.box import Contained, RunBinding
from chorus.sandbox.docker.engine import EngineError
from chorus.sandbox.docker.site import CONTAINER_S, DockerSite
from chorus.sandbox.files import workspace
from chorus.sandbox.files.volumes import Volume
from chorus.sandbox.files.workspace import Box
from chorus.sandbox.run import Look, SandboxRun
from chorus.sandbox.spool import Tail
from chorus.sandbox.workers import Pause, TimedOut
from chorus.tasks.terms import Reason

TAIL_S = 0.03
"""Between two looks at the output: what live means here."""

WATCH_S = 0.2
"""Between two looks at a sandbox's use of memory, processes and disk, and at whether its commands still run."""

DRAIN_S = 0.5
"""How long the pump may still write after the commands have ended."""

ENGINE_PATIENCE_S = 5.0
"""How long an engine may be silent in the middle of a run before the run ends as `sandbox_unavailable`."""

ContainerFor = Callable[[Job, str, bool], Awaitable[Contained]]
"""A container for this job, of this image; a warm one too if that is wanted."""


@attrs.frozen
class TakenOver:
    """A run that another process of this agent began."""

    contained: Contained
    binding: RunBinding
    starts: tuple[int, int] = (0, 0)
    """Offsets from which its stdout and stderr are wanted."""


class DockerRun(SandboxRun):
    """`Run` in a container. With `kept` it takes that run over."""

    disk_watch_s = WATCH_S
    _site: DockerSite

    def __init__(
        self,
        site: DockerSite,
        job: Job,
        scratch: Path,
        sink: OutputSink,
        container_for: ContainerFor,
        kept: TakenOver | None = None,
    ) -> None:
        super().__init__(site, job, scratch, sink)
        self.contained: Contained | None = None
        self._container_for = container_for
        self._kept = kept
        self._binding: RunBinding | None = None
        self._image: str = kept.contained.image if kept else site.containers.images.image_for(job.language, job.image)
        self._tails: list[Tail] = []
        self._tail_pause = Pause(site.reactor)
        self._silent_since: float | None = None
        self._commands_ended = False

    def detach(self) -> None:
        """The container goes on; whoever has its binding can take it over. Before there is one, it is removed."""
        if self.contained is None or not self._tails:
            self._stop(Reason.SANDBOX_UNAVAILABLE, "the agent stopped before the task had begun")
            return
        self.detached = True
        self._pause.stir()
        if self._over:
            self._gathering.abandon()

    def _let_go(self) -> None:
        self._tail_pause.end()
        for tail in self._tails:
            tail.close()
        if self.contained is not None:
            self.contained.release()

    # -- make and start

    async def _make(self) -> None:
        if self._kept is None:
            make = partial(self._scratch.mkdir, mode=0o700, parents=True, exist_ok=True)
            await self._call(make)
            self.contained = await self._container_for(self._job, self._image, True)
        else:
            self.contained, self._binding = self._kept.contained, self._kept.binding
            self._started_at = self._binding.started_at
            self._follow_output(self.contained)

    async def _start(self) -> None:
        if self._binding is None:
            assert self.contained is not None
            self._binding = await self._start_in(self.contained)
            self._started_at = self._binding.started_at
        self._ran_before = self._site.now() - self._started_at

    async def _start_in(self, found: Contained) -> RunBinding:
        try:
            return await self._start_once(found)
        except (EngineError, SandboxUnavailable):
            if not found.warm or self._stopped is not None:
                raise
        # It died while it waited, which only shows now: once more in a new one.
        self.contained = None
        await self._site.discard(found)
        self.contained = found = await self._container_for(self._job, self._image, False)
        self._check()
        return await self._start_once(found)

    async def _start_once(self, found: Contained) -> RunBinding:
        containers = self._site.containers
        await self._call(containers.fill, found, self._job, self._is_stopped)
        self._check()
        if not self.began.called:
            self.began.callback(None)
        # Output may come before the call that started it returns.
        begun: Deferred[RunBinding] = self._call(
            containers.begin, found, self._job, self._site.now(), limit=CONTAINER_S
        )
        self._follow_output(found)
        return await begun

    def _follow_output(self, found: Contained) -> None:
        cap = self._job.limits.output_mb << 20
        out, err = self._kept.starts if self._kept is not None else (0, 0)
        following = bool(self._tails)
        for tail in self._tails:
            tail.close()
        self._streams = self._tails = [
            Tail("stdout", found.out / "stdout", cap, self._sink, out),
            Tail("stderr", found.out / "stderr", cap, self._sink, err),
        ]
        if not following:
            self._spend(self._tail())

    async def _tail(self) -> None:
        """Hand output on while the run lasts."""
        while not (self._over or self.detached):
            busy = sum([tail.poll() for tail in self._tails])
            if self.contained is not None and self.contained.marked("drained"):
                self._pause.stir()
            await self._tail_pause.wait(0 if busy else TAIL_S)

    def _kill(self) -> None:
        if self.contained is not None:
            # At once, before the engine is asked: its answer may take a while, and it may be away.
            self.contained.kill_now()

    def _disk(self) -> tuple[Box, Volume] | None:
        return None if self.contained is None else (self.contained.box, self.contained.volume)

    # -- watch and judge

    def _watched(self) -> bool:
        return not (self._commands_ended or self.detached or self._is_stopped())

    async def _look(self) -> tuple[Look | None, float]:
        """None while the engine is silent; it may come back for a while."""
        assert self.contained is not None and self._binding is not None
        try:
            look, code = await self._call(self._look_at, self.contained, self._binding, limit=CONTAINER_S)
        except (SandboxUnavailable, TimedOut, OSError) as error:
            now = self._site.reactor.seconds()
            self._silent_since = self._silent_since or now
            if self.contained.gone() or now - self._silent_since > ENGINE_PATIENCE_S:
                self._stop(Reason.SANDBOX_UNAVAILABLE, f"the engine went away: {error}")
            return None, WATCH_S
        except EngineError as error:
            # The container or the execution is unknown: somebody removed it, or the engine forgot it in a restart.
            self._stop(Reason.SANDBOX_UNAVAILABLE, f"the container is gone: {error}")
            return None, WATCH_S
        if not look.running and code is None:
            # Taken over from an agent that was killed just before it started the commands.
            self._stop(Reason.SANDBOX_UNAVAILABLE, "the commands never began")
            return None, WATCH_S
        self._silent_since = None
        if not look.running:
            self._commands_ended, self._exit_code = True, code
        return look, WATCH_S

    def _look_at(self, found: Contained, binding: RunBinding) -> tuple[Look, int | None]:
        """With the exit code. Blocking."""
        containers = self._site.containers
        usage, full = found.usage(), found.disk_full()
        running, code = containers.engine.execution(binding.execution)
        if running:
            return Look(usage, full), code
        last = found.usage()
        usage = attrs.evolve(last, pids=max(last.pids, usage.pids))
        if not usage.oom_kills and code and containers.oom_killed(found):
            usage = attrs.evolve(usage, oom_kills=1)
        return Look(usage, found.disk_full() or full, False, workspace.full_memory(found.box)), code

    def _judge_more(self, look: Look) -> None:
        self._judge_floods()
        self._judge_output()

    def _judge_floods(self) -> None:
        for tail in self._tails:
            if self.contained is not None and self.contained.marked(f"{tail.name}.flood"):
                self._stop_for_flood(tail.name)

    def _judge_output(self) -> None:
        cap = self._job.limits.output_mb << 20
        for tail in self._tails:
            if self.contained is not None and self.contained.output_lost(tail.name, cap):
                # The machine's fault, not the task's: it is to run where there is space.
                detail = f"{tail.name} could not be kept on the disk of this agent"
                self._stop(Reason.SANDBOX_UNAVAILABLE, detail)

    # -- its end

    async def _commands_over(self) -> None:
        if self._commands_ended:
            await self._drained()
        self._elapsed = self._site.now() - self._started_at

    async def _drained(self) -> None:
        """The commands are over; what they wrote may still be in the pipes. Processes left behind hold those open, so
        this waits only so long."""
        reactor, found = self._site.reactor, self.contained
        deadline = reactor.seconds() + DRAIN_S
        while found is not None and not found.marked("drained") and reactor.seconds() < deadline:
            await self._pause.wait(0.01)
        # A flood ends here too: its pump writes a mark and nothing else.
        self._judge_floods()
        self._judge_output()

    async def _settle(self) -> None:
        self._tail_pause.end()
        self._caveats = self._site.containers.caveats
        found = self.contained
        if found is None:
            return
        found.kill_now()
        self._poll_all()
        for tail in self._tails:
            tail.truncated = found.marked(f"{tail.name}.cut")
        await self._remove(found)
        # Once more, now that nobody writes any more.
        self._poll_all()
        for tail in self._tails:
            tail.close()

    def _poll_all(self) -> None:
        while any([tail.poll() for tail in self._tails]):
            pass

    async def _remove(self, found: Contained) -> None:
        try:
            await self._call(self._site.containers.remove, found, limit=CONTAINER_S)
        except (ChorusError, TimedOut) as error:
            self._log.warn("container {id} could not be removed yet: {error}", id=found.id[:12], error=error)
            # Its processes are dead (their first one was killed here) where this machine let us; wait for that.
            deadline = self._site.reactor.seconds() + 2.0
            while not found.gone() and found.handle >= 0 and self._site.reactor.seconds() < deadline:
                await self._pause.wait(0.05)
            self._site.leftovers.add(found.id)

    async def _clean_up(self) -> None:
        found = self.contained
        if found is None:
            return
        try:
            await self._call(workspace.leave, found.box, self._scratch, lambda name: found.out / name)
        except Exception:
            self._log.failure("the folder of {task} could not be removed", task=self._job.task_id)
