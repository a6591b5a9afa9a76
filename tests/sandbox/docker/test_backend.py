"""The Docker backend, against a real engine (CHORUS_TEST_DOCKER_HOST)."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import tarfile
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor

from chorus.sandbox.commands import HIDDEN, READ_ONLY
from chorus.sandbox.contract import RunResult
from chorus.sandbox.docker import box as docker_box
from chorus.sandbox.docker import run as docker_run
from chorus.sandbox.docker import warm
from chorus.sandbox.docker.backend import Docker
from chorus.sandbox.docker.engine import Engine
from chorus.sandbox.docker.seccomp import profile
from chorus.sandbox.docker.spec import FIRST_UID, Users, cap_file, container, execution, labels, resources
from chorus.sandbox.files.workspace import Box
from chorus.sandbox.images import ImageMap
from chorus.sandbox.settings import SandboxSettings
from chorus.sandbox.uids import TASK_UIDS
from chorus.tasks.terms import Limits, Reason
from tests.sandbox.contract import ContractTests
from tests.sandbox.support import IMAGE, Recorder, SandboxCase, child, import_path, no_docker, python, shell
from tests.support import PureTestCase

ROOT = Path(__file__).parents[3]
HOST = os.environ.get("CHORUS_TEST_DOCKER_HOST", "")
DEFAULTS = Limits(disk_mb=64, memory_mb=256, pids=64)
IMAGES = ImageMap({"base": IMAGE})
"""The tests' shell jobs run in the one image that every engine under test has."""


class DockerCase(SandboxCase):
    skip = no_docker()
    agent = f"agent-docker-{os.getpid()}"
    """Tests may run in several processes, and each counts its own containers."""

    def setUp(self) -> None:
        self.state = self.scratch()
        self.backend = self.docker()

    def docker(self, host: str = HOST, **fields: Any) -> Docker:
        values: dict[str, Any] = {"docker_host": host, "images": IMAGES, "defaults": DEFAULTS, **fields}
        backend = Docker(reactor, self.agent, state=self.state, settings=SandboxSettings(**values))  # type: ignore[arg-type]
        self.addCleanup(backend.close)
        return backend

    def mine(self) -> list[dict[str, Any]]:
        return Engine(HOST).labelled("chorus.agent", self.agent)


class Real(ContractTests, DockerCase):
    async def outcome(self, job: Any, sink: Any = None) -> tuple[RunResult, bytes, bytes]:
        found = await super().outcome(job, sink)
        self.assertEqual(self.mine(), [], "the container is gone")
        return found

    async def test_probe(self) -> None:
        self.assertIsNone(await self.backend.probe())
        self.assertIn("no container engine at", await self.docker("unix:///nonexistent.sock").probe())
        self.assertIn("no container engine answers", await self.docker("tcp://127.0.0.1:1").probe())

    async def test_image_missing(self) -> None:
        job = shell("true", image="no-such-image:1")
        self.assertFalse(await self.backend.has_image(job))
        self.assertTrue(await self.backend.has_image(shell("true")))
        result, _, _ = await self.outcome(job)
        self.assertEqual(result.reason, Reason.IMAGE_MISSING)
        self.assertIn("no-such-image:1", result.detail)

    async def test_not_an_image_name(self) -> None:
        self.assertFalse(await self.backend.has_image(shell("true", image="UPPER//::")))

    async def test_everything_a_container_is_created_with(self) -> None:
        """Every default of spec/tasks.md, as the engine holds it."""
        run, _ = self.go(shell("echo begun; sleep 30"), seen := Recorder())
        await seen.seen("stdout", b"begun")
        (entry,) = self.mine()
        found = Engine(HOST).inspect(entry["Id"])
        host, config = found["HostConfig"], found["Config"]
        box = config["Labels"]["chorus.box"]
        self.assertEqual(
            {
                key: value
                for key, value in config["Labels"].items()
                if key in ("chorus.task", "chorus.fence", "chorus.agent", "chorus.image")
            },
            {"chorus.task": "task-1", "chorus.fence": "0.1.7", "chorus.agent": self.agent, "chorus.image": IMAGE},
        )
        expected = {
            "CapDrop": ["ALL"], "CapAdd": None, "Privileged": False, "ReadonlyRootfs": True, "NetworkMode": "none",
            "IpcMode": "private", "PidMode": "", "UTSMode": "", "Init": True, "PidsLimit": 64, "Memory": 256 << 20,
            "MemorySwap": 256 << 20, "NanoCpus": 10**9, "ShmSize": 64 << 20, "Devices": [], "Binds": None,
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
            "LogConfig": {"Type": "json-file", "Config": {"max-file": "1", "max-size": "1m"}},
        }  # fmt: skip
        for key, value in expected.items():
            self.assertEqual(host[key] or value if value in (None, []) else host[key], value, key)
        self.assertEqual(host["SecurityOpt"], ["no-new-privileges:true", f"seccomp={profile()}"])
        self.assertLessEqual(set(HIDDEN), set(host["MaskedPaths"]))
        self.assertEqual(host["ReadonlyPaths"], list(READ_ONLY))
        self.assertIn("nosuid,nodev", host["Tmpfs"]["/tmp"])
        self.assertIn("size=64m", host["Tmpfs"]["/tmp"])
        self.assertEqual(
            {one["Name"]: (one["Soft"], one["Hard"]) for one in host["Ulimits"]},
            {"nofile": (4096, 4096), "fsize": (64 << 20, 64 << 20), "core": (0, 0)},
        )
        self.assertNotIn(config["User"].split(":")[0], ("", "0", "root"))
        users = {f"/etc/{name}": (f"/control/etc/{name}", False) for name in ("passwd", "group")}
        mounts = {
            one["Destination"]: (one["Source"].removeprefix(box), one["RW"])
            for one in found["Mounts"]
            if one["Type"] == "bind"
        }
        self.assertEqual(
            mounts,
            {
                **(users if os.geteuid() == 0 else {}),
                "/workspace/input": ("/fs/input", False), "/workspace/data": ("/fs/data", True),
                "/workspace/output": ("/fs/output", True), "/workspace/home": ("/fs/home", True),
                "/run/chorus": ("/control", True),
            },
        )  # fmt: skip
        run.cancel(Reason.CANCELLED)
        await run.result

    async def test_the_same_from_inside(self) -> None:
        out = await self.exits(
            shell(
                "grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status | cut -f2 | sort -u | xargs echo status",
                "id -u | grep -vx 0 >/dev/null",
                "touch /x 2>&1 | grep -c Read-only | xargs echo rootfs",
                "ls /sys/class/net | xargs echo net",
                "grep ' /tmp ' /proc/mounts | grep -c nosuid,nodev | xargs echo tmp",
                "df -m /dev/shm | awk 'NR > 1 {print \"shm\", $2}'",
                "df -m /tmp | awk 'NR > 1 {print \"tmpsize\", $2}'",
                "ulimit -n | xargs echo nofile; ulimit -c | xargs echo core",
                "ps -o comm= 1 | xargs echo init",
                "ls /var/run/docker.sock /run/docker.sock 2>/dev/null | wc -l | xargs echo socket",
                "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null | xargs echo pids",
                "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"
                " | xargs echo memory",
                "kill -9 1 2>&1 | grep -c . | xargs echo kill; echo x > /run/chorus/out/stdout 2>&1 || echo denied",
            )
        )
        seen = dict(line.split(" ", 1) for line in out.decode().splitlines() if " " in line)
        self.assertEqual(seen["status"], "0000000000000000 1 2")
        self.assertEqual((seen["rootfs"], seen["net"], seen["tmp"], seen["socket"]), ("1", "lo", "1", "0"))
        self.assertEqual((seen["shm"], seen["tmpsize"], seen["nofile"], seen["core"]), ("64", "64", "4096", "0"))
        self.assertEqual((seen["pids"], seen["memory"]), ("64", str(256 << 20)))
        self.assertIn("init", seen["init"])
        if os.geteuid() == 0:
            self.assertEqual(seen["kill"], "1")
            self.assertIn(b"denied", out)

    async def test_every_line_comes_without_another_after_it(self) -> None:
        code = "import time\nfor n in range(20): print(n, flush=True); time.sleep(0.03)\ntime.sleep(600)"
        run, _ = self.go(python(code, limits={"timeout_s": 600}), seen := Recorder())
        await seen.seen("stdout", b"\n19\n")
        run.cancel(Reason.CANCELLED)
        self.assertEqual((await run.result).reason, Reason.CANCELLED)
        self.assertEqual(seen.got["stdout"].split(), [b"%d" % n for n in range(20)])

    async def test_each_task_is_a_user_of_its_own(self) -> None:
        """On the host too: what the kernel counts by user is counted apart. It has its name inside."""
        if os.geteuid():
            raise self.skipTest("another agent's tasks are itself")
        first, _ = self.go(shell("id -u; sleep 600", limits={"timeout_s": 600}), seen := Recorder())
        await self.until(lambda: seen.got["stdout"].endswith(b"\n"))
        _, out, _ = await super().outcome(shell("id -u; id -un; echo ~"))
        one, other = int(seen.got["stdout"]), int(out.split()[0])
        self.assertLessEqual({one, other}, set(TASK_UIDS))
        self.assertNotEqual(one, other)
        self.assertEqual(out.split()[1:], [b"chorus", b"/workspace/home"])
        first.cancel(Reason.CANCELLED)
        await first.result

    async def test_endless_output_is_stopped(self) -> None:
        result, out, _ = await self.outcome(shell("yes", limits={"output_mb": 1}))
        self.assertEqual((result.reason, result.truncated, len(out)), (Reason.OUTPUT, ("stdout",), 1 << 20))

    async def test_an_image_without_a_shell(self) -> None:
        tar = self.scratch() / "empty.tar"
        tarfile.open(tar, "w").close()
        name = f"chorus-test-empty-{os.getpid()}"
        import docker

        client = docker.APIClient(base_url=HOST)
        client.import_image(str(tar), repository=name)
        self.addCleanup(client.close)
        self.addCleanup(client.remove_image, name)
        result, _, _ = await self.outcome(shell("true", image=name))
        self.assertEqual(result.reason, Reason.SANDBOX_UNAVAILABLE)

    async def test_a_container_that_somebody_removes(self) -> None:
        run, _ = self.go(shell("echo begun; sleep 60"), seen := Recorder())
        await seen.seen("stdout", b"begun")
        Engine(HOST).remove(self.mine()[0]["Id"])
        result = await run.result
        self.assertIn(result.reason, (Reason.SANDBOX_UNAVAILABLE, Reason.EXIT))
        self.assertEqual(result.stdout_bytes, 6)


class Warm(DockerCase):
    async def fill(self, count: int = 1) -> Docker:
        self.backend = backend = self.docker(warm={IMAGE: count})
        await backend.reconcile(lambda task, fence: False)
        await self.until(lambda: backend.pool.waiting.get(IMAGE) == count)
        return backend

    async def test_used_once_and_refilled(self) -> None:
        backend = await self.fill()
        (waiting,) = self.mine()
        self.assertEqual(waiting["Labels"]["chorus.warm"], "1")
        run, scratch = self.go(shell("echo warm; sleep 1"), seen := Recorder())
        await seen.seen("stdout", b"warm")
        await self.until(lambda: any("task-1" in name for entry in self.mine() for name in entry["Names"]))
        self.assertEqual((await run.result).reason, Reason.EXIT)
        self.assert_clean(scratch)
        await self.until(lambda: backend.pool.waiting.get(IMAGE) == 1)
        self.assertNotEqual(self.mine()[0]["Id"], waiting["Id"])

    async def test_takes_the_limits_of_its_task(self) -> None:
        await self.fill()
        job = shell(
            "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; true",
            "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true",
            "dd if=/dev/zero of=big bs=1M count=100",
            limits={"pids": 20, "memory_mb": 100, "disk_mb": 24, "cpu": 0.5},
        )
        result, out, _ = await self.outcome(job)
        self.assertEqual(out.split(), [b"20", str(100 << 20).encode()])
        self.assertEqual(result.reason, Reason.DISK)
        if result.disk_enforcement == "loop":
            self.assertIn("24 MB", result.detail)

    async def test_one_that_does_not_fit_is_left(self) -> None:
        backend = await self.fill()
        result, _, _ = await self.outcome(shell("true", limits={"disk_mb": 65}))
        self.assertEqual(result.reason, Reason.EXIT)
        self.assertEqual(backend.pool.waiting, {IMAGE: 1})

    async def test_one_that_died_is_passed_over(self) -> None:
        backend = await self.fill()
        (entry,) = self.mine()
        os.kill(Engine(HOST).inspect(entry["Id"])["State"]["Pid"], signal.SIGKILL)
        self.assertEqual((await self.outcome(shell("echo x")))[1], b"x\n")
        await self.until(lambda: backend.pool.waiting.get(IMAGE) == 1)

    async def test_drained_on_close(self) -> None:
        backend = await self.fill(2)
        await backend.close()
        self.assertEqual(self.mine(), [])
        self.assertEqual(os.listdir(self.state / "warm"), [])

    async def test_every_image_that_the_engine_has(self) -> None:
        self.backend = backend = self.docker(warm={"*": 1}, images=ImageMap({"python": IMAGE}, "nowhere.example"))
        await backend.reconcile(lambda task, fence: False)
        await self.until(lambda: backend.pool.waiting == {IMAGE: 1})

    async def test_an_image_that_is_missing_does_not_spin(self) -> None:
        self.backend = backend = self.docker(warm={"no-such-image": 1})
        began = reactor.seconds()  # type: ignore[attr-defined]
        await backend.reconcile(lambda task, fence: False)
        await self.until(lambda: self.next_filling() >= began + warm.RETRY_S)
        self.assertEqual(backend.pool.waiting, {})

    def next_filling(self) -> float:
        """When the pool is looked at again, of the reactor's time; 0 while it is being filled."""
        call = self.backend.pool._timer._call
        return call.getTime() if call is not None else 0.0


class Restart(DockerCase):
    """Another process of the same agent takes over, or cleans up, what a killed one left."""

    async def killed_agent(self, script: str, timeout_s: float = 30.0) -> Path:
        """A real agent process that starts a task and is killed when its first output comes; its scratch folder."""
        code = (
            "import os, sys\n"
            "from twisted.internet import asyncioreactor; asyncioreactor.install()\n"
            "from twisted.internet import reactor\n"
            "from pathlib import Path\n"
            "from chorus.sandbox.docker.backend import Docker\n"
            "from chorus.sandbox.images import ImageMap\n"
            "from chorus.sandbox.settings import SandboxSettings\n"
            "from tests.sandbox.support import shell, IMAGE\n"
            "def sink(stream, offset, data):\n"
            "    os.kill(os.getpid(), 9)\n"
            "agent, state, scratch, text, limit = sys.argv[1:]\n"
            "host = os.environ['CHORUS_TEST_DOCKER_HOST']\n"
            "settings = SandboxSettings(docker_host=host, images=ImageMap({'base': IMAGE}))\n"
            "b = Docker(reactor, agent, state=Path(state), settings=settings)\n"
            "job = shell(text, limits={'timeout_s': float(limit)}, artifacts=('a',))\n"
            "reactor.callWhenRunning(lambda: b.start(job, Path(scratch), sink))\n"
            "reactor.run()\n"
        )
        scratch = self.scratch() / "scratch"
        env = {**os.environ, "PYTHONPATH": import_path()}
        arguments = (self.agent, str(self.state), str(scratch), script, str(timeout_s))
        text, ended = await child(sys.executable, "-c", code, *arguments, env=env)
        self.assertEqual(ended, -9, text)
        return scratch

    def commands_over(self) -> bool:
        """Nothing runs in the container any more but what waits there for the agent."""
        import docker

        (entry,) = self.mine()
        with contextlib.closing(docker.APIClient(base_url=HOST)) as client:
            processes = client.top(entry["Id"])["Processes"]
        return not any("timeout -k" in " ".join(process) for process in processes)

    async def test_taken_back_from_an_offset(self) -> None:
        scratch = await self.killed_agent("echo one; sleep 1; echo two; echo done > /workspace/output/a; exit 4")
        kept = await self.backend.reconcile(lambda task, fence: (task, fence) == ("task-1", "0.1.7"))
        self.assertEqual(kept, [("task-1", "0.1.7")])
        seen = Recorder(stdout_from=4)
        job = shell("", artifacts=("a",))
        run = self.backend.adopt(job, scratch, seen, 4, 0)
        result = await run.result
        self.assertEqual((result.reason, result.exit_code), (Reason.EXIT, 4))
        self.assertEqual(seen.got["stdout"], b"two\n")
        self.assertEqual((scratch / "stdout").read_bytes(), b"one\ntwo\n")
        self.assertEqual([one.path for one in result.artifacts], ["a"])
        self.assertEqual(self.mine(), [])
        self.assert_clean(scratch)
        self.assertIsNone(self.backend.adopt(job, scratch, seen, 0, 0), "only once")

    async def test_taken_back_after_it_ended(self) -> None:
        # It ends after its agent, not before: that one might have cleared it away by then.
        scratch = await self.killed_agent("echo one; sleep 0.5; echo two")
        await self.until(self.commands_over)
        await self.backend.reconcile(lambda task, fence: True)
        run = self.backend.adopt(shell(""), scratch, seen := Recorder(), 0, 0)
        result = await run.result
        self.assertEqual((result.reason, result.exit_code, seen.got["stdout"]), (Reason.EXIT, 0, b"one\ntwo\n"))

    async def test_the_time_limit_holds_meanwhile(self) -> None:
        scratch = await self.killed_agent("echo one; sleep 60", timeout_s=1.0)
        await self.until(self.commands_over)
        await self.backend.reconcile(lambda task, fence: True)
        result = await self.backend.adopt(shell("", limits={"timeout_s": 1.0}), scratch, Recorder(), 0, 0).result
        self.assertEqual(result.reason, Reason.TIMEOUT)

    async def test_what_nobody_wants_is_removed(self) -> None:
        scratch = await self.killed_agent("echo one; sleep 60")
        self.assertEqual(await self.backend.reconcile(lambda task, fence: False), [])
        self.assertEqual(self.mine(), [])
        self.assertIsNone(self.backend.adopt(shell(""), scratch, Recorder(), 0, 0))
        self.assert_clean(scratch)

    async def test_a_stale_fence_is_removed(self) -> None:
        await self.killed_agent("echo one; sleep 60")
        self.assertEqual(await self.backend.reconcile(lambda task, fence: fence == "0.1.8"), [])
        self.assertEqual(self.mine(), [])

    async def test_a_frozen_one_is_taken_back(self) -> None:
        scratch = await self.killed_agent("echo one; sleep 0.5; echo two")
        import docker

        client = docker.APIClient(base_url=HOST)
        self.addCleanup(client.close)
        client.pause(self.mine()[0]["Id"])
        self.assertEqual(len(await self.backend.reconcile(lambda task, fence: True)), 1)
        result = await self.backend.adopt(shell(""), scratch, Recorder(), 0, 0).result
        self.assertEqual((result.reason, result.exit_code), (Reason.EXIT, 0))

    async def test_orphans_in_every_state(self) -> None:
        """created, running, paused, exited, and one whose first process was killed under it."""
        import docker

        client = docker.APIClient(base_url=HOST)
        self.addCleanup(client.close)
        made = {}
        for state in ("created", "running", "paused", "exited", "killed"):
            box = self.scratch() / state
            (box / "fs").mkdir(parents=True)
            body = {
                "Image": IMAGE,
                "Cmd": ["sleep", "600"],
                "Labels": {"chorus.agent": self.agent, "chorus.box": str(box)},
            }
            engine = Engine(HOST)
            made[state] = (engine.create(f"chorus-orphan-{state}-{os.getpid()}", body), box)
            if state != "created":
                engine.start(made[state][0])
        client.pause(made["paused"][0])
        client.kill(made["exited"][0])
        os.kill(Engine(HOST).inspect(made["killed"][0])["State"]["Pid"], signal.SIGKILL)
        await self.until(
            lambda: {entry["State"] for entry in self.mine()} == {"created", "running", "paused", "exited"}
        )
        self.assertEqual(await self.backend.reconcile(lambda task, fence: True), [])
        self.assertEqual(self.mine(), [])
        self.assertEqual([box for _, box in made.values() if box.exists()], [])

    async def test_other_agents_are_left_alone(self) -> None:
        settings = SandboxSettings(docker_host=HOST, images=IMAGES)
        other = Docker(reactor, f"agent-other-{os.getpid()}", state=self.scratch(), settings=settings)  # type: ignore[arg-type]
        self.addCleanup(other.close)
        run = other.start(shell("echo on; sleep 1; echo off"), self.scratch() / "s", seen := Recorder())
        await seen.seen("stdout", b"on")
        await self.backend.reconcile(lambda task, fence: False)
        self.assertEqual(((await run.result).exit_code, seen.got["stdout"]), (0, b"on\noff\n"))

    async def test_runs_of_this_process_are_left_alone(self) -> None:
        run, _ = self.go(shell("echo on; sleep 1; echo off"), seen := Recorder())
        await seen.seen("stdout", b"on")
        await self.backend.reconcile(lambda task, fence: False)
        self.assertEqual((await run.result).exit_code, 0)

    async def test_detached_goes_on(self) -> None:
        run, scratch = self.go(shell("echo on; sleep 1; echo off"), seen := Recorder())
        await seen.seen("stdout", b"on")
        run.detach()
        await self.backend.close()
        second = self.docker()
        self.assertEqual(await second.reconcile(lambda task, fence: True), [("task-1", "0.1.7")])
        result = await second.adopt(shell(""), scratch, seen, 3, 0).result
        self.assertEqual((result.exit_code, seen.got["stdout"]), (0, b"on\noff\n"))


class EngineGone(DockerCase):
    """An engine of its own, killed in the middle."""

    timeout = 240
    skip = no_docker() or (
        None if shutil.which("dockerd") and os.geteuid() == 0 else "starting an engine needs root and dockerd"
    )

    async def own_engine(self) -> tuple[str, int]:
        folder = self.scratch()
        script = str(ROOT / "scripts/dockerd-test")
        env = {**os.environ, "CHORUS_TEST_DOCKER_DIR": str(folder)}

        async def stop() -> None:
            await child(script, "stop", env=env)

        self.addCleanup(stop)
        text, code = await child(script, "start", env=env)
        self.assertEqual(code, 0, text)
        values = dict(item.split("=", 1) for item in text.split() if "=" in item)
        host = values["DOCKER_HOST"]
        copy = f"docker -H {HOST} save {IMAGE} | docker -H {host} load"
        text, code = await child("/bin/sh", "-c", copy)
        self.assertEqual(code, 0, text)
        return host, int(values["CHORUS_TEST_DOCKER_PID"])

    async def test_kill_9_in_the_middle(self) -> None:
        self.patch(docker_run, "ENGINE_PATIENCE_S", 1.0)
        host, pid = await self.own_engine()
        marked = f"98{os.getpid()}"
        self.backend = self.docker(host)
        run, scratch = self.go(
            shell(f"echo begun; echo part > /workspace/output/a; sleep {marked}", artifacts=("a",)), seen := Recorder()
        )
        await seen.seen("stdout", b"begun")
        os.kill(pid, signal.SIGKILL)
        result = await run.result
        self.assertEqual((result.reason, result.stdout_bytes), (Reason.SANDBOX_UNAVAILABLE, 6))
        self.assertEqual([one.path for one in result.artifacts], ["a"], "partial artifacts are kept")
        text, _ = await child("/bin/sh", "-c", f"ps axo args | grep -c '[s]leep {marked}'")
        self.assertEqual(text.strip(), "0", "the task's processes are gone")
        self.assert_clean(scratch)
        self.assertIn("no container engine answers", await self.backend.probe())
        late = self.backend.start(shell("true"), self.scratch() / "late", lambda *_: None)
        self.assertEqual((await late.result).reason, Reason.SANDBOX_UNAVAILABLE)


class NoEngine(PureTestCase):
    def test_what_to_do_depends_on_what_is_installed(self) -> None:
        engine = Engine("unix:///nonexistent.sock")
        self.patch(shutil, "which", lambda *_, **__: "/usr/sbin/dockerd")
        self.assertIn("start the installed dockerd", engine.missing() or "")
        self.patch(shutil, "which", lambda *_, **__: None)
        self.assertIn("apt-get install docker.io", engine.missing() or "")


class Specification(PureTestCase):
    """The bodies of the engine's API, without an engine."""

    box = Box(Path("/box"))

    def test_users(self) -> None:
        root = Users.of_agent(0, 0)
        self.assertEqual((root.task, root.owner), ((1000, 1000), (1000, 1000)))
        self.assertNotEqual(root.task, root.pump)
        own = Users.of_agent(0, 0, 64300)
        self.assertEqual((own.task, own.owner, own.pump), ((64300, 64300), (64300, 64300), root.pump))
        self.assertIn("chorus:x:64300:64300:", own.files["passwd"])
        other = Users.of_agent(1234, 1235)
        self.assertEqual((other.task, other.pump, other.owner), ((1234, 1235), (1234, 1235), None))
        self.assertEqual(container(IMAGE, self.box, Limits(), other, {}, None)["User"], "1234:1235")

    def test_runsc_when_offered(self) -> None:
        users = Users.of_agent(0, 0)
        self.assertEqual(container(IMAGE, self.box, Limits(), users, {}, "runsc")["HostConfig"]["Runtime"], "runsc")
        self.assertNotIn("Runtime", container(IMAGE, self.box, Limits(), users, {}, None)["HostConfig"])

    def test_defaults_of_the_specification(self) -> None:
        host = container(IMAGE, self.box, Limits(), Users.of_agent(0, 0), {}, None)["HostConfig"]
        self.assertEqual((host["PidsLimit"], host["Memory"], host["MemorySwap"]), (256, 1 << 30, 1 << 30))
        self.assertNotIn("docker.sock", str(host))

    def test_small_memory_means_small_tmpfs(self) -> None:
        host = container(IMAGE, self.box, Limits(memory_mb=40), Users.of_agent(0, 0), {}, None)["HostConfig"]
        self.assertIn("size=10m", host["Tmpfs"]["/tmp"])
        self.assertEqual(host["ShmSize"], 10 << 20)

    def test_execution(self) -> None:
        body = execution(shell("true", env={"A": "b"}, limits={"timeout_s": 7}), Users.of_agent(0, 0))
        self.assertEqual((body["User"], body["Privileged"], body["Cmd"][-1]), ("1000:1000", False, "7.000"))
        self.assertIn("timeout -k", body["Cmd"][2])
        self.assertEqual((body["Env"], body["WorkingDir"]), ([], "/"), "of the task's there is nothing yet")
        self.assertEqual(body, execution(shell("x", env={"PATH": "/x"}, limits={"timeout_s": 7}), Users.of_agent(0, 0)))

    def test_an_engine_without_filters(self) -> None:
        users = Users.of_agent(0, 0)
        for given, expected in ((None, []), ("{}", ["seccomp={}"])):
            host = container(IMAGE, self.box, Limits(), users, {}, None, seccomp=given)["HostConfig"]
            self.assertEqual(host["SecurityOpt"], ["no-new-privileges:true", *expected])

    def test_size_of_tmp(self) -> None:
        host = container(IMAGE, self.box, Limits(), Users.of_agent(0, 0), {}, None, tmp_mb=700)["HostConfig"]
        self.assertIn("size=700m", host["Tmpfs"]["/tmp"])

    def test_labels(self) -> None:
        self.assertEqual(labels("a", "i", self.box, None)["chorus.warm"], "1")
        self.assertEqual(labels("a", "i", self.box, shell("true"))["chorus.task"], "task-1")

    def test_resources_and_cap(self) -> None:
        self.assertEqual(resources(Limits(cpu=0.25))["NanoCpus"], 250_000_000)
        self.assertEqual(cap_file(Limits(output_mb=1)), f"2048 {64 << 20}\n")

    def test_a_binding_that_is_broken(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        box = Box(folder)
        self.assertIsNone(docker_box.RunBinding.read(box))
        for text in ("", "[]", "{}", '{"task_id": 1}', "null"):
            (folder / docker_box.BINDING).write_text(text)
            self.assertIsNone(docker_box.RunBinding.read(box), text)
        written = docker_box.RunBinding("t", "f", "e", 1.0, "loop", 5)
        written.write(box)
        self.assertEqual(docker_box.RunBinding.read(box), written)
        # Of an agent of an earlier version, whose tasks were all one user.
        old = {key: value for key, value in attrs.asdict(written).items() if key != "uid"}
        (folder / docker_box.BINDING).write_text(json.dumps(old))
        self.assertEqual(docker_box.RunBinding.read(box), attrs.evolve(written, uid=FIRST_UID))
