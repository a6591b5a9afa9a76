"""The node as one service: prepares a start, runs it, and says how it went. Nothing imports it but `tap.py`."""

from __future__ import annotations

import os
import random
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from chorus import __version__, descriptors
from chorus.assembly import Assembly, NodeAgent, RunningNode
from chorus.errors import ChorusError
from chorus.lifecycle import Sequence, Step
from chorus.preflight import descriptors_wanted
from chorus.services.datadir import DataDirectory
from chorus.services.endpoints.ports_file import PortsFile
from chorus.services.endpoints.systemd import Notifier, Supervision
from chorus.wiring.surroundings import Surroundings

if TYPE_CHECKING:
    from chorus.config.settings import Settings
    from chorus.identity import Identity
    from chorus.lifecycle import ExitStatus
    from chorus.services.starts import Starts

EXIT_TWIN = 78
"""EX_CONFIG: a service manager that knows it need not start this node again."""


class NodeService(Service):
    """One node. `mode` is `agent` or `hap`; `exit_status.fail` is called when the start fails."""

    _log = Logger()
    name = "chorus"

    def __init__(
        self,
        settings: Settings,
        *,
        mode: str,
        reactor: Any,
        exit_status: ExitStatus,
        supervision: Supervision | None = None,
    ) -> None:
        self.settings = settings
        self.mode = mode
        self.state = "starting"
        self._reactor = reactor
        self._exit_status = exit_status
        self._sequence = Sequence(reactor)
        self._directory = DataDirectory(settings.data_dir)
        self._ports_file = PortsFile(self._directory.path, reactor)
        self._notifier = Notifier(supervision or Supervision(), reactor, self._status_line)
        self._starting: Deferred[None] | None = None
        self._context = Surroundings(
            settings=settings,
            reactor=reactor,
            path=self._directory.path,
            wall=time.time,
            wall_ns=time.time_ns,
            random_bytes=os.urandom,
            rng=random.Random(int.from_bytes(os.urandom(16))),
            last_ports=self._ports_file.last(),
        )
        self._running: tuple[NodeAgent, RunningNode] | None = None

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]
        self._notifier.begin()
        self._starting = Deferred.fromCoroutine(self._start())
        self._starting.addErrback(self._start_failed)

    def stopService(self) -> Deferred[None]:
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    def _start_failed(self, failure: Any) -> None:
        if failure.check(CancelledError):
            return
        self.state = "failed"
        self._notifier.failed(str(failure.value))
        if isinstance(failure.value, ChorusError):
            self._log.error("{error}", event="node.failed", error=failure.value, code=failure.value.code)
            # Not sys.stderr, which twistd has turned into the log.
            print(f"chorus: {failure.value}", file=sys.__stderr__, flush=True)
        else:
            self._log.failure("the node failed to start", failure=failure, event="node.failed")
        self._exit_status.fail(getattr(failure.value, "exit_code", 1))
        # twistd starts services before the reactor runs, so a start can fail before there is anything to stop.
        self._reactor.callWhenRunning(self._stop_reactor)

    def _stop_reactor(self) -> None:
        if self._reactor.running:
            self._reactor.stop()

    async def _stop(self) -> None:
        if self._starting is not None and not self._starting.called:
            self._starting.cancel()
        self.state = "stopping"
        self._notifier.stopping()
        self._log.info("stopping", event="node.stopping")
        await self._sequence.stop(self.settings.shutdown_s)
        self._notifier.end()
        self._log.info("stopped", event="node.stopped")

    async def _start(self) -> None:
        self._start_logging()
        run = self._sequence.start
        await run(self._keep_files_private())
        self._directory.acquire()
        await run(Step("data directory", stop=self._directory.release))
        self._directory.note_holder()
        agent = self._agent(self._directory.identity())
        node = await Assembly(self._context, agent, self._sequence, lambda: self.state).start()
        self._running = agent, node
        self._write_ports(node)
        await run(Step("ports file", start=self._ports_file.start, stop=self._ports_file.remove))
        self.state = "running"
        self._notifier.ready()
        self._log.info(
            "{agent} is {peer} on {addresses}; API on port {api}",
            event="node.started",
            agent=agent.name,
            peer=agent.identity.peer_id,
            addresses=", ".join(map(str, node.p2p.listen_addresses())),
            api=node.faces.api.port,
            mode=self.mode,
            version=__version__,
        )

    def _agent(self, identity: Identity) -> NodeAgent:
        settings, person = self.settings, self.mode == "hap"
        return NodeAgent(
            identity,
            name=settings.agent_id or f"agent-{str(identity.peer_id)[-8:].lower()}",
            role=settings.agent_role or ("human" if person else None),
            # A person decides what runs there; until the portal can ask, a HAP executes nothing.
            max_tasks=0 if person or settings.open else settings.agent_max_tasks,
            starts=None if settings.open else self._begin_start(identity),
        )

    def _begin_start(self, identity: Identity) -> Starts:
        from chorus.protocols.starts import INSTANCE_BYTES
        from chorus.services.starts import StartCount, Starts

        context = self._context
        instance = context.random_bytes(INSTANCE_BYTES)
        return Starts(identity, StartCount(context.path), instance, wall=context.wall, twin=self._twin_runs)

    def _twin_runs(self, line: str) -> None:
        self._log.error("{line}", event="node.twin", line=line)
        print(f"chorus: {line}", file=sys.__stderr__, flush=True)
        self._exit_status.fail(EXIT_TWIN)
        self._stop_reactor()

    def _keep_files_private(self) -> Step:
        """Everything that this process makes from now on is its user's alone, whatever umask it was started with; a
        file that others shall read gets its mode by name."""
        return Step("file modes", stop=partial(os.umask, os.umask(0o077)))

    def _start_logging(self) -> None:
        from chorus.config.settings import unknown_variables
        from chorus.observe import logging

        logging.install(self.settings.log_level, self.settings.log_format)
        for line in unknown_variables(os.environ):
            self._log.warn("{line}", event="config.unknown_variable", line=line)
        wanted, limit = descriptors_wanted(self.settings), descriptors.limit()
        if limit < wanted:
            self._log.warn(
                "this process may open {limit} files, and {wanted} would be needed for all that its configuration "
                "allows: connections and tasks will be refused when they run out (ulimit -n)",
                event="node.few_descriptors",
                limit=limit,
                wanted=wanted,
            )

    def _status_line(self) -> str:
        if self._running is None:
            return self.state
        agent, node = self._running
        load, peers = node.load(), len(node.p2p.connections())
        return f"{agent.name}: peers: {peers}; tasks: {load.current_tasks} of {load.max_tasks}"

    def _write_ports(self, node: RunningNode) -> None:
        (p2p,) = (end[1] for each in node.p2p.bound_addresses() if (end := each.tcp_endpoint()) is not None)
        self._ports_file.write(
            {
                "pid": os.getpid(),
                "p2p": p2p,
                "api": node.faces.api.port,
                "health": node.faces.health.port,
                "api_host": self.settings.api_bind,
                "health_host": self.settings.health_bind,
            }
        )
