"""Tasks in containers of a real engine (CHORUS_TEST_DOCKER_HOST): `kill -9` of the agent, and of the engine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest

from tests.integration.agents import Agent, processes_with, until
from tests.integration.forks import ROOT
from tests.integration.test_task_faults import SHORT_LEASE_S, FaultCase, threaded
from tests.sandbox.support import IMAGE, no_docker

HOST = os.environ.get("CHORUS_TEST_DOCKER_HOST", "")


def docker(host: str, *words: str) -> str:
    return subprocess.run(["docker", "-H", host, *words], capture_output=True, text=True, check=True, timeout=60).stdout


def containers(host: str, task: str) -> list[str]:
    """Containers of a task, in every state."""
    return docker(host, "ps", "-aq", "--filter", f"label=chorus.task={task}").split()


class ContainerCase(FaultCase):
    timeout = 600

    def setUp(self) -> None:
        missing = no_docker()
        if missing is not None:
            raise SkipTest(missing)
        super().setUp()

    def pair(self, host: str, **settings: str) -> tuple[Agent, Agent]:
        scheduler = self.mesh.add("scheduler", **settings)
        worker = self.mesh.add(
            "worker-0", CHORUS_AGENT_EXPERTISE="work", CHORUS_SANDBOX="docker", CHORUS_DOCKER_HOST=host, **settings
        )
        self.mesh.meet()
        return scheduler, worker

    def submit_python(self, scheduler: Agent, pause: str = "0.3") -> str:
        command = (
            f": {self.marker}; for i in $(seq 1 25); do echo line $i; sleep {pause}; done; "
            "echo whole > /workspace/output/result.txt"
        )
        return scheduler.submit(
            commands=[command], language="python", required={"expertise": ["work"]}, artifacts=["*.txt"]
        )


class AgentKilledTest(ContainerCase):
    @threaded
    def test_it_takes_its_container_back_and_nothing_is_run_again(self) -> None:
        scheduler, worker = self.pair(HOST)
        task = self.submit_python(scheduler)
        self.assertEqual(self.running(scheduler, task)["sandbox"], "docker")
        worker.kill()
        self.assertEqual(len(containers(HOST, task)), 1, "it goes on without its agent")
        worker.start()
        document = self.check(scheduler, task)
        self.assertEqual((document["attempt"], document["sandbox"]), (1, "docker"))
        until("the end of the container", lambda: not containers(HOST, task))

    @threaded
    def test_away_for_longer_than_the_lease_its_container_is_removed(self) -> None:
        scheduler, worker = self.pair(HOST, CHORUS_LEASE_S=SHORT_LEASE_S)
        other = self.mesh.add("worker-1", CHORUS_AGENT_EXPERTISE="work")
        self.mesh.meet()
        del other
        task = self.submit_python(scheduler)
        taker = self.running(scheduler, task)["agent_id"]
        if taker != worker.name:
            # The other one has it: let it lose the task, so that the one with the engine takes over.
            self.mesh.agents[2].kill()
            until("the other agent's start", lambda: scheduler.task(task)["agent_id"] == worker.name, 60)
            self.running(scheduler, task)
            self.mesh.agents[2].start()
        worker.kill()
        document = self.check(scheduler, task)
        self.assertEqual(document["agent_id"], "worker-1")
        worker.start()
        until("the end of the container", lambda: not containers(HOST, task))


class EngineKilledTest(ContainerCase):
    def setUp(self) -> None:
        if shutil.which("dockerd") is None or os.geteuid() != 0:
            raise SkipTest("starting an engine of its own needs root and dockerd (apt-get install docker.io)")
        super().setUp()

    def own_engine(self) -> tuple[str, int]:
        folder = tempfile.mkdtemp(prefix="chorus-engine-")
        env = {**os.environ, "CHORUS_TEST_DOCKER_DIR": folder}
        script = str(ROOT / "scripts/dockerd-test")

        def stop() -> None:
            subprocess.run([script, "stop"], env=env, capture_output=True, check=False, timeout=60)
            for pid in processes_with(folder):
                # What a killed engine leaves behind: its containerd and the shims of its containers.
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            from chorus.sandbox.files import volumes

            volumes.remove_tree(Path(folder))

        self.addCleanup(stop)
        done = subprocess.run([script, "start"], env=env, capture_output=True, text=True, check=True, timeout=90)
        values: dict[str, Any] = dict(item.split("=", 1) for item in done.stdout.split() if "=" in item)
        host = values["DOCKER_HOST"]
        copy = f"docker -H {HOST} save {IMAGE} | docker -H {host} load"
        subprocess.run(["/bin/sh", "-c", copy], capture_output=True, check=True, timeout=120)
        return host, int(values["CHORUS_TEST_DOCKER_PID"])

    @threaded
    def test_the_task_goes_elsewhere_and_no_process_of_it_stays(self) -> None:
        host, pid = self.own_engine()
        scheduler, worker = self.pair(host)
        # In a container it takes as long as another agent may need to start, and elsewhere a moment.
        task = self.submit_python(scheduler, "$([ -e /.dockerenv ] && echo 6 || echo 0.05)")
        self.assertEqual(self.running(scheduler, task)["agent_id"], worker.name)
        other = self.mesh.add("worker-1", CHORUS_AGENT_EXPERTISE="work")
        self.mesh.meet()
        os.kill(pid, signal.SIGKILL)
        document = self.check(scheduler, task)
        self.assertEqual((document["agent_id"], document["sandbox"]), (other.name, "bubblewrap"))
        reasons = [
            event["data"].get("reason")
            for event in scheduler.events(task)
            if event["type"] == "state" and event["data"]["state"] == "submitted"
        ]
        self.assertEqual(reasons, [None, "sandbox_unavailable"])
        status = json.dumps(worker.get("/v1/status"))
        self.assertIn("sandbox", status)
