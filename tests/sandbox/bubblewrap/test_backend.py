"""The bubblewrap backend: real sandboxes."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import time
from pathlib import Path

from twisted.internet import reactor
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SkipTest

from chorus.sandbox import cgroups, leftovers
from chorus.sandbox.bubblewrap import launch as bwrap_launch
from chorus.sandbox.bubblewrap import machine
from chorus.sandbox.bubblewrap import run as bubblewrap_run
from chorus.sandbox.bubblewrap.arguments import (
    AS_ROOT,
    INSIDE_ID,
    Descriptors,
    Folders,
    Launch,
    Mode,
    command_arguments,
    launch_arguments,
    made_files,
    sandbox_arguments,
)
from chorus.sandbox.bubblewrap.backend import Bubblewrap
from chorus.sandbox.bubblewrap.watching import Watching
from chorus.sandbox.commands import HELPER_ENVIRONMENT, READ_ONLY, SCRIPT, tmpfs_mb, users_files
from chorus.sandbox.files import gathering, trees, volumes
from chorus.sandbox.run import Look
from chorus.sandbox.uids import TASK_UIDS
from chorus.tasks.terms import Limits, Reason
from tests.sandbox.contract import ContractTests
from tests.sandbox.support import Recorder, SandboxCase, child, import_path, no_bubblewrap, python, shell
from tests.support import PureTestCase


class Real(ContractTests, SandboxCase):
    skip = no_bubblewrap()

    def setUp(self) -> None:
        self.backend = Bubblewrap(reactor, "agent-test")  # type: ignore[arg-type]
        self.addCleanup(self.backend.close)

    async def test_probe(self) -> None:
        self.assertIsNone(await self.backend.probe())

    async def test_not_installed(self) -> None:
        absent = Bubblewrap(reactor, "agent-test", path="/nonexistent")  # type: ignore[arg-type]
        self.assertIn("apt-get install bubblewrap", await absent.probe())
        run = absent.start(shell("true"), self.scratch() / "s", lambda *_: None)
        result = await run.result
        self.assertEqual(result.reason, Reason.SANDBOX_UNAVAILABLE)
        self.assertIn("apt-get install bubblewrap", result.detail)

    async def test_a_named_image_is_not_here(self) -> None:
        self.assertTrue(await self.backend.has_image(shell("true")))
        self.assertFalse(await self.backend.has_image(shell("true", image="python:3")))

    async def test_what_a_task_sees(self) -> None:
        out = await self.exits(
            shell(
                "id -u; hostname; ls -A /home /root 2>/dev/null; cat /etc/passwd",
                "ls /etc/shadow 2>&1; grep Cap /proc/self/status",
            )
        )
        text = out.decode()
        self.assertIn("sandbox\n", text)
        self.assertNotIn("ssh", text)
        self.assertIn("No such file", text)
        self.assertEqual(text.count("0000000000000000"), 5, text)
        self.assertIn(users_files(INSIDE_ID)["passwd"], text)

    async def test_no_network(self) -> None:
        out = await self.exits(shell("cat /proc/net/dev | tail -n +3 | cut -d: -f1"))
        self.assertEqual(out.split(), [b"lo"])

    async def test_namespaces_are_its_own(self) -> None:
        names = "pid net ipc uts mnt user"
        out = await self.exits(shell(f"for n in {names}; do readlink /proc/self/ns/$n; done; echo $$"))
        *inside, pid = out.decode().split()
        await self.backend.probe()
        for name, seen in zip(names.split(), inside, strict=True):
            if name == "user" and self.backend.machine.abilities().mode in AS_ROOT:
                continue
            self.assertNotEqual(os.readlink(f"/proc/self/ns/{name}"), seen, name)
        self.assertLess(int(pid), 50, "a pid namespace of its own")

    async def test_the_filter_is_on(self) -> None:
        out = await self.exits(shell("grep -E '^(Seccomp|NoNewPrivs):' /proc/self/status"))
        self.assertEqual(out.split(), [b"NoNewPrivs:", b"1", b"Seccomp:", b"2"])

    async def test_what_it_cannot_hold_is_named(self) -> None:
        result, _, _ = await self.outcome(shell("true"))
        names = [caveat.split(":")[0] for caveat in result.caveats]
        self.assertEqual(names[:2], ["host_tools", "no_takeover"])
        if cgroups.find() is None:
            self.assertIn("memory_polled", names)

    async def test_without_user_namespaces(self) -> None:
        """A root agent where none may be made (a chroot, many containers): bwrap stays root, the task does not."""
        if os.geteuid():
            raise self.skipTest("this way needs root")
        real = machine.Machine._try

        def refuse(here: machine.Machine, bwrap: str, mode: Mode, program: bytes | None) -> str | None:
            return "no user namespaces" if mode == "drop" else real(here, bwrap, mode, program)

        self.patch(machine.Machine, "_try", refuse)
        result, out, err = await self.outcome(
            shell(
                "id -u; grep -E 'Cap(Prm|Eff|Bnd)|NoNew|Seccomp:' /proc/self/status | cut -f2 | sort -u",
                "touch a; touch /x",
            )
        )
        uid, *status = out.decode().split()
        self.assertIn(int(uid), TASK_UIDS)
        self.assertEqual(status, ["0000000000000000", "1", "2"])
        self.assertIn(b"Read-only", err)
        self.assertIn("no_user_namespace", " ".join(result.caveats))

    async def test_nothing_works(self) -> None:
        self.patch(machine.Machine, "_try", lambda *_: "Operation not permitted")
        self.patch(machine, "in_chroot", lambda: False)
        problem = await self.backend.probe()
        self.assertIn("cannot make a sandbox here: Operation not permitted", problem)

    async def test_a_chroot_is_seen(self) -> None:
        table = self.scratch() / "mountinfo"
        table.write_text("3 1 0:1 / /proc rw - proc proc rw\n")
        self.assertTrue(bwrap_launch.in_chroot(table))
        table.write_text("3 1 0:1 / / rw - ext4 a rw\n")
        self.assertFalse(bwrap_launch.in_chroot(table))
        self.patch(machine, "in_chroot", lambda: True)
        self.patch(machine, "can_reroot", lambda folder: False)
        self.patch(machine.Machine, "_try", lambda *_: "Invalid argument")
        self.assertIn("this is a chroot", await self.backend.probe())

    async def test_in_a_chroot(self) -> None:
        """A root agent below a plain folder of this machine: its root is made a mount in a namespace of its own."""
        if os.geteuid():
            raise self.skipTest("a chroot needs root")
        if not bwrap_launch.can_reroot(self.scratch() / "x"):
            raise self.skipTest("the file system here shares its mounts: a sandbox in a chroot would show outside")
        script = (
            "import os, sys, tempfile\n"
            "from twisted.internet import asyncioreactor; asyncioreactor.install()\n"
            "from twisted.internet import reactor\n"
            "from pathlib import Path\n"
            "from chorus.sandbox.bubblewrap.backend import Bubblewrap\n"
            "from tests.sandbox.support import shell\n"
            "import json, gzip, unittest.mock\n"
            "os.chroot(sys.argv[1]); os.chdir('/')\n"
            "b = Bubblewrap(reactor, 'agent-chroot')\n"
            "def go():\n"
            "    run = b.start(shell('id -u; ls / | grep -c usr; touch /x'), Path('/tmp/scratch'), lambda *a: None)\n"
            "    run.result.addCallback(done)\n"
            "def done(result):\n"
            "    print(result, Path('/tmp/scratch/stdout').read_text() if result.stdout_bytes else '')\n"
            "    b.close().addCallback(lambda _: reactor.stop())\n"
            "reactor.callWhenRunning(go)\n"
            "reactor.run()\n"
        )
        root = self.scratch() / "root"
        for name in ("usr", "proc", "tmp", "run", "etc", "dev"):
            (root / name).mkdir(parents=True)
        for link in ("bin", "sbin", "lib", "lib64"):
            (root / link).symlink_to(f"usr/{link}")
        for source in ("usr", "proc", "dev"):
            volumes.bind(Path("/") / source, root / source)
        self.addCleanup(volumes.release, root)
        env = {**os.environ, "PYTHONPATH": import_path()}
        text, code = await child(sys.executable, "-B", "-c", script, str(root), env=env)
        self.assertEqual(code, 0, text)
        self.assertRegex(text, r"\b64\d\d\d\n1\n")
        self.assertIn("no_user_namespace", text)
        self.assertEqual(volumes.mounts_below(root / "run"), [])

    async def test_without_control_groups(self) -> None:
        """As for an ordinary user: polling holds memory and processes, and the result says so."""
        self.patch(cgroups, "find", lambda *_: None)
        for command, limits, reason in [
            ("python3 -c 'x = [bytearray(1 << 20) for _ in range(4000)]'", {"memory_mb": 64}, Reason.OOM),
            ("for i in $(seq 200); do sleep 20 & done; wait", {"pids": 32}, Reason.PIDS),
        ]:
            result, _, _ = await self.outcome(shell(command, limits=limits))
            self.assertEqual(result.reason, reason, result)
            self.assertIn("memory_polled", " ".join(result.caveats))

    def poll(self) -> None:
        """As for an ordinary user: no control groups, and no file system for the task's disk."""
        self.patch(cgroups, "find", lambda *_: None)
        self.measure_disk()

    async def test_a_closed_folder_is_no_offence(self) -> None:
        """Measuring neither takes it for too much nor opens it."""
        self.poll()
        script = "mkdir a; echo > a/b; chmod 000 a; sleep 1.2; stat -c %a a; chmod 700 a"
        self.assertEqual(await self.exits(shell(script)), b"0\n")

    async def test_memory_that_no_process_has_mapped(self) -> None:
        self.poll()
        code = (
            "import ctypes, errno, os\n"
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            "libc.shmget.argtypes = ctypes.c_int, ctypes.c_size_t, ctypes.c_int\n"
            "print(libc.shmget(0, 4096, 0o1600) >= 0, libc.shmget(0, 1 << 20, 0o1600))\n"
            "print(ctypes.get_errno() == errno.EPERM)\n"
            "try: os.memfd_create('x')\n"
            "except OSError as error: print(error.errno == errno.ENOSYS)\n"
        )
        self.assertEqual(await self.exits(python(code)), b"True -1\nTrue\nTrue\n")
        code = (
            "import time\n"
            "for name in ('/tmp/x', '/dev/shm/x'): open(name, 'wb').write(bytes(15 << 20))\n"
            "x = bytearray(40 << 20); time.sleep(15)\n"
        )
        result, _, err = await self.outcome(python(code, limits={"memory_mb": 64}))
        self.assertEqual(result.reason, Reason.OOM, (result, err))

    async def test_it_is_looked_at_as_often_on_a_busy_machine(self) -> None:
        """A look that had to wait for the processor was not dear: the next one is not put off for it."""
        self.poll()
        waited, pauses = 0.5, self.pauses()
        real = Watching.look

        def waits(watching: Watching, inherited: bwrap_launch.Inherited) -> Look:
            time.sleep(waited)
            return real(watching, inherited)

        self.patch(Watching, "look", waits)
        run, _ = self.go(shell("sleep 600"))
        await self.until(lambda: len(pauses) >= 3)
        run.cancel(Reason.CANCELLED)
        await run.result
        self.assertLess(max(pauses), 10 * waited, "ten times its processor time, and not what it waited")

    async def test_the_task_goes_before_the_agent_when_the_machine_has_no_memory(self) -> None:
        self.assertEqual(await self.exits(shell("cat /proc/self/oom_score_adj")), b"1000\n")

    async def test_deep_folders_are_removed_and_cost_no_deliverable(self) -> None:
        """Deeper than a function may call itself, and with a report beside them."""
        code = (
            "import os\n"
            "open('/workspace/output/report', 'w').write('precious')\n"
            "for top in '/workspace/data', '/workspace/output':\n"
            "    os.chdir(top)\n"
            "    for _ in range(1100): os.mkdir('d'); os.chdir('d')\n"
        )
        result, _, err = await self.outcome(python(code, artifacts=("**",)))
        self.assertEqual((result.reason, result.exit_code), (Reason.EXIT, 0), err)
        self.assertEqual([one.path for one in result.artifacts], ["report"])
        self.assertIn("its path is longer", result.artifacts_skipped[0])

    async def test_a_start_that_fails_leaves_nothing(self) -> None:
        """Out of descriptors in the middle of it: while the sandbox is prepared, and while it is launched."""
        await self.backend.probe()
        opened = len(os.listdir("/proc/self/fd"))
        for module, name in (
            (bubblewrap_run.cgroups.ControlGroup, "create"),
            (bubblewrap_run, "Pipe"),
            (bubblewrap_run.subprocess, "Popen"),
            (bubblewrap_run, "Exit"),
        ):
            if name == "create" and cgroups.find() is None:
                continue
            broken = self.patch(module, name, _no_descriptors)
            run, scratch = self.go(shell("sleep 30"))
            result = await run.result
            broken.restore()
            self.assertEqual(result.reason, Reason.SANDBOX_UNAVAILABLE, (name, result))
            self.assert_clean(scratch)
            # Others run such tests at the same time, under the same name and another process id.
            self.assertEqual(_left_by(f"agent-test-{os.getpid()}-"), [], name)
        self.assertEqual(len(os.listdir("/proc/self/fd")), opened)

    async def test_what_cannot_be_removed_is_removed_later(self) -> None:
        """No descriptors for that either: tried again until it is done, and once more when the agent stops."""
        self.patch(leftovers, "LEFTOVERS_S", 0.01)
        await self.backend.probe()
        for closes in (False, True):
            broken = self.patch(trees, "empty", _no_descriptors)
            run, scratch = self.go(shell("true"))
            self.assertEqual((await run.result).exit_code, 0)
            self.assertIn("box", os.listdir(scratch))
            if closes:
                # From the second attempt on the next one is far away.
                self.patch(leftovers, "LEFTOVERS_S", 1e6)
                await self.until(self.leftovers_put_off)
            broken.restore()
            if closes:
                await self.backend.close()
            else:
                await self.until(lambda scratch=scratch: "box" not in os.listdir(scratch))
            self.assert_clean(scratch)

    def leftovers_put_off(self) -> bool:
        sweep = self.backend.leftovers._timer._call
        return sweep is not None and sweep.getTime() > reactor.seconds() + 1e5

    async def test_reconcile_removes_what_a_killed_agent_left(self) -> None:
        if os.geteuid():
            raise self.skipTest("an ordinary user's agent leaves no mounts and groups")
        marked = f"54{os.getpid()}"
        script = (
            "import os, sys\n"
            "from twisted.internet import asyncioreactor; asyncioreactor.install()\n"
            "from twisted.internet import reactor\n"
            "from pathlib import Path\n"
            "from chorus.sandbox.bubblewrap.backend import Bubblewrap\n"
            "from tests.sandbox.support import shell\n"
            "def sink(stream, offset, data):\n"
            "    print('begun', flush=True)\n"
            "    os.kill(os.getpid(), 9)\n"
            "b = Bubblewrap(reactor, sys.argv[2])\n"
            f"reactor.callWhenRunning(lambda: b.start(shell('echo x; sleep {marked}'), Path(sys.argv[1]), sink))\n"
            "reactor.run()\n"
        )
        scratch = self.scratch() / "a" / "scratch"
        agent = f"agent-killed-{os.getpid()}"
        env = {**os.environ, "PYTHONPATH": import_path()}
        text, code = await child(sys.executable, "-c", script, str(scratch), agent, env=env)
        self.assertEqual(code, -9, text)
        await self.until(lambda: f"sleep\x00{marked}" not in _command_lines())
        self.assertIn("box", os.listdir(scratch))
        backend = Bubblewrap(reactor, agent)  # type: ignore[arg-type]
        from chorus.services.execution.sandbox import clean_scratch

        self.assertEqual(await backend.reconcile(lambda task, fence: True), [])
        self.assertEqual(clean_scratch(scratch.parents[1], set()), 1)
        self.assertNotIn("box", os.listdir(scratch))
        self.assertEqual(_left_by(agent[-12:]), [])
        await backend.close()


class OrdinaryUser(SandboxCase):
    """The same tests once more as a user without privileges, in a process of its own."""

    skip = no_bubblewrap() or (None if os.geteuid() == 0 else "already an ordinary user: the whole suite runs as one")
    timeout = 240

    async def test_contract_as_nobody(self) -> None:
        folder = self.scratch()
        folder.chmod(0o777)
        names = [f"tests.sandbox.bubblewrap.test_backend.Real.{name}" for name in AS_NOBODY]
        names += [f"tests.sandbox.files.test_files.Volumes.{name}" for name in FILES_AS_NOBODY]
        names += [f"tests.sandbox.bubblewrap.test_isolation.Leftovers.{name}" for name in LEFTOVERS_AS_NOBODY]
        env = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "PYTHONPATH": import_path(), "TMPDIR": str(folder)}
        env["HOME"] = str(folder)
        arguments = ("-B", "-c", BECOME_NOBODY, str(folder), *names)
        text, code = await child(sys.executable, *arguments, env=env, cwd=str(folder))
        if "user namespaces may be forbidden" in text or "cannot make a sandbox here" in text:
            raise self.skipTest("this machine forbids user namespaces to ordinary users")
        self.assertEqual(code, 0, text[-3000:])
        self.assertIn(f"PASSED (successes={len(names)})", text)


AS_NOBODY = (
    "test_a_measured_disk_is_not_cheated_by_folders", "test_a_measured_disk_is_not_cheated_by_files_without_a_name",
    "test_a_closed_folder_is_no_offence", "test_memory_that_no_process_has_mapped",
    "test_a_start_that_fails_leaves_nothing",
    "test_streams_exit_code_and_offsets", "test_the_workspace", "test_time_limit", "test_disk_limit",
    "test_memory_limit", "test_what_a_task_sees", "test_no_network", "test_namespaces_are_its_own",
    "test_no_variable_of_a_task_is_in_effect_for_a_helper", "test_no_file_of_a_task_is_run_as_a_helper",
    "test_calls_that_are_refused", "test_what_is_the_machines_own", "test_the_input_belongs_to_who_has_its_files",
    "test_a_full_tmp_is_a_full_disk",
    "test_the_filter_is_on", "test_output_is_cut_and_the_task_goes_on", "test_what_it_cannot_hold_is_named",
)  # fmt: skip


LEFTOVERS_AS_NOBODY = (
    "test_what_a_killed_agent_left_half_made_is_ended", "test_stopped_at_any_instant_nothing_stays",
)  # fmt: skip


FILES_AS_NOBODY = (
    "test_closed_folders_are_counted_and_stay_closed", "test_remove_tree_with_folders_made_unreadable",
)  # fmt: skip


# Everything is imported before privileges go: the checkout and its environment may lie where only root may read.
# What is started as a process of its own is put where that user may read it.
BECOME_NOBODY = """
import ctypes, gzip, os, shutil, sys
from twisted.internet import asyncioreactor
asyncioreactor.install()
from twisted.trial.reporter import TextReporter
from twisted.trial.runner import TestLoader, TrialRunner
folder, *names = sys.argv[1:]
suite = TestLoader().loadByNames(names)
from chorus.sandbox.files import trees
trees.__file__ = shutil.copy(trees.__file__, folder)
os.chmod(trees.__file__, 0o644)
sys.executable = shutil.which("python3", path="/usr/bin:/usr/local/bin") or sys.executable
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
sys.exit(not TrialRunner(TextReporter, workingDirectory=folder + "/trial").run(suite).wasSuccessful())
"""


def _no_descriptors(*_: object, **__: object) -> None:
    raise OSError(errno.EMFILE, "Too many open files")


def _left_by(agent: str) -> list[str]:
    """Mounts, mount points and control groups with the agent's name."""
    hierarchy = cgroups.find()
    folders = hierarchy.folders.values() if hierarchy else ()
    groups = [path for folder in folders for path in folder.glob(f"*{agent}*")]
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if agent in line]
    return [*map(str, groups), *mounts, *map(str, Path("/run/chorus-sandbox").glob(f"*{agent}*"))]


def _command_lines() -> str:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text(errors="replace"))
        except OSError:
            continue
    return "\n".join(found)


class Arguments(PureTestCase):
    """The command line, without running it."""

    folders = Folders(Path("/b/fs/input"), Path("/b/fs"))
    modes: tuple[Mode, ...] = ("user", "drop", "root", "chroot")

    def test_what_is_always_there(self) -> None:
        for mode in self.modes:
            arguments = sandbox_arguments(mode, shell("true"), self.folders, {"/etc/hosts": 9})
            for option in (
                "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--die-with-parent",
                "--new-session", "--clearenv", "--cap-drop",
            ):  # fmt: skip
                self.assertIn(option, arguments, mode)
            text = " ".join(arguments)
            self.assertIn("--ro-bind /b/fs/input /workspace/input", text)
            self.assertIn("--perms 0444 --file 9 /etc/hosts", text)
            self.assertTrue(text.index("--bind /b/fs/data") < text.index("--remount-ro / "), mode)
            self.assertEqual("--unshare-user" in arguments, mode not in AS_ROOT)
            self.assertNotIn("--share-net", arguments)
            for path in READ_ONLY:
                self.assertIn(f"--ro-bind-try {path} {path}", text, mode)

    def test_no_variable_of_a_task_reaches_a_helper(self) -> None:
        """Nothing of the command lines depends on the environment or the commands of a task; every helper is named by
        its path, and none starts in a folder of the task."""
        plain, hostile = (
            shell("true"),
            shell("x", env={"PATH": "/workspace/data", "LD_PRELOAD": "/workspace/data/x.so"}),
        )
        fds = Descriptors(7, 8, 9)
        for mode in self.modes:
            arguments = sandbox_arguments(mode, hostile, self.folders, {})
            self.assertEqual(arguments, sandbox_arguments(mode, plain, self.folders, {}), mode)
            variables = [arguments[at + 1 : at + 3] for at, word in enumerate(arguments) if word == "--setenv"]
            self.assertEqual(variables, [[key, value] for key, value in HELPER_ENVIRONMENT.items()], mode)
            self.assertEqual(arguments[arguments.index("--chdir") + 1], "/")
            launch = Launch(mode, "/usr/bin/bwrap", 64200, Path("/empty"))
            argv = launch_arguments(launch, [], [], hostile.limits, fds, count_pids=True)
            programs = [word for word in argv if Path(word).name in ("setpriv", "timeout", "unshare", "bwrap")]
            self.assertTrue(all(os.path.isabs(word) for word in programs), argv)
            self.assertEqual(len(programs), {"user": 3, "drop": 3, "root": 4, "chroot": 5}[mode], argv)
            self.assertNotIn("/workspace/data", " ".join(argv))
        for folder in HELPER_ENVIRONMENT["PATH"].split(":"):
            self.assertTrue(folder.startswith(("/usr/", "/bin", "/sbin")), folder)

    def test_no_secrets_of_the_host(self) -> None:
        bound = " ".join(sandbox_arguments("user", shell("true"), self.folders, {}))
        for path in (
            "/root",
            "/home",
            "/etc/shadow",
            "/etc/ssh",
            "/etc/passwd /etc",
            "/var",
            "docker.sock",
            "/etc/npmrc",
        ):
            self.assertNotIn(f"bind {path}", bound)

    def test_files_made_for_a_sandbox(self) -> None:
        job = shell("echo 'it''s'", env={"A": "b"})
        for mode, inside in (("user", INSIDE_ID), ("drop", INSIDE_ID), ("root", 64203), ("chroot", 64203)):
            made = made_files(mode, job, None if mode == "user" else 64203)  # type: ignore[arg-type]
            self.assertIn(f"chorus:x:{inside}:{inside}:", made["/etc/passwd"], mode)
            self.assertIn("export A=b", made[SCRIPT])
            self.assertEqual({path.rsplit("/", 1)[0] for path in made}, {"/etc", "/run/chorus"})

    def test_sizes_of_what_is_memory(self) -> None:
        for memory, asked, tmp in [
            (1024, None, 256), (256, None, 64), (16, None, 8), (1024, 900, 900), (1024, 5000, 1024), (1024, 16, 16),
        ]:  # fmt: skip
            sizes = tmpfs_mb(Limits(memory_mb=memory), asked)
            self.assertEqual((sizes["/tmp"], sizes["/dev/shm"]), (tmp, max(8, min(64, memory // 4))), (memory, asked))
        text = " ".join(sandbox_arguments("user", shell("true"), self.folders, {}, 100))
        self.assertIn(f"--size {100 << 20} --tmpfs /tmp", text)

    def test_launch(self) -> None:
        limits = Limits(timeout_s=5, pids=10, disk_mb=1)
        fds = Descriptors(7, 8, 9)
        argv = launch_arguments(Launch("drop", "/usr/bin/bwrap", 64205), [Path("/g/a")], [("-c", 0)], limits, fds)
        self.assertEqual(argv[4:9], ["1", "/g/a", "1", "-c", "0"])
        self.assertIn("--reuid 64205 --regid 64205 --clear-groups --pdeathsig KILL --", " ".join(argv))
        self.assertEqual(argv[-4:], ["2", "5.000", "/bin/sh", "/run/chorus/commands"])
        self.assertIn("--seccomp", argv)
        counted = launch_arguments(Launch("user", "bwrap"), [], [], limits, Descriptors(7, 8, None), count_pids=True)
        self.assertNotIn("--seccomp", counted)
        self.assertIn(str(10 * 2 + 256), counted)
        inside = command_arguments("root", limits, 64205, count_pids=False)
        self.assertEqual(inside[1:5], ["--reuid", "64205", "--regid", "64205"])

    def test_agents_do_not_share_names(self) -> None:
        one, two = (Bubblewrap(reactor, f"agent-{n}") for n in "ab")  # type: ignore[arg-type]
        self.assertNotEqual(one.machine.prefix, two.machine.prefix)
        self.assertEqual(Bubblewrap.name, "bubblewrap")


class FullDisk(SandboxCase):
    """A machine whose disk is full while a task runs there."""

    skip = no_bubblewrap() or (None if os.geteuid() == 0 else "needs root to mount a small tmpfs")

    def setUp(self) -> None:
        self.backend = Bubblewrap(reactor, "agent-full")  # type: ignore[arg-type]
        self.addCleanup(self.backend.close)

    def scratch(self) -> Path:
        path = super().scratch()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m,mode=755", "none", str(path)], check=False)
        if mounted.returncode:
            raise SkipTest("a tmpfs cannot be mounted here")
        self.addCleanup(volumes.remove_tree, path)
        self.disk = path
        return path

    def fill(self) -> None:
        with (self.disk / "filler").open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * size)

    async def test_output_that_cannot_be_kept_is_this_machines_failure(self) -> None:
        seen = Recorder()
        loud = "i=0; while [ $i -lt 200 ]; do head -c 20000 /dev/zero | tr '\\0' x; sleep 0.05; i=$((i+1)); done"
        run, scratch = self.go(shell(loud, limits={"disk_mb": 4}), seen)
        await seen.seen("stdout", b"x" * 20000)
        self.fill()
        with capturedLogs() as said:
            result = await run.result
        self.assertEqual(result.reason, Reason.SANDBOX_UNAVAILABLE, result)
        self.assertIn("stdout could not be kept on the disk of this agent: No space left", result.detail)
        self.assertGreaterEqual(result.stdout_bytes, 20000)
        self.assertEqual((scratch / "stdout").read_bytes(), seen.got["stdout"])
        self.assertEqual([event["log_text"] for event in said if event["log_level"] is LogLevel.critical], [])
        self.assert_clean(scratch)

    async def test_deliverables_wait_for_space(self) -> None:
        self.patch(gathering, "RETRY_S", 0.0625)
        pauses, seen = self.pauses(), Recorder()
        work = "head -c 300000 /dev/urandom >/workspace/output/it; cat /workspace/output/it; sleep 1"
        run, scratch = self.go(shell(work, limits={"disk_mb": 4}, artifacts=("it",)), seen)
        await self.until(lambda: len(seen.got["stdout"]) == 300000)
        self.fill()
        with capturedLogs() as said:
            await self.until(lambda: pauses.count(gathering.RETRY_S) > 3)
        self.assertFalse(run.result.called)
        self.assertEqual(len([event for event in said if event.get("event") == "sandbox.output_waits"]), 1)
        (self.disk / "filler").unlink()
        result = await run.result
        self.assertEqual((result.reason, result.exit_code), (Reason.EXIT, 0), result)
        (kept,) = result.artifacts
        self.assertEqual(kept.local.read_bytes(), seen.got["stdout"])
        self.assert_clean(scratch)

    async def test_nobody_waits_for_whom_the_task_was_taken_from(self) -> None:
        seen = Recorder()
        work = "head -c 300000 /dev/urandom >/workspace/output/it; echo made; sleep 1"
        run, scratch = self.go(shell(work, limits={"disk_mb": 4}, artifacts=("it",)), seen)
        await seen.seen("stdout", b"made")
        self.fill()
        with capturedLogs() as said:
            await self.until(lambda: any(event.get("event") == "sandbox.output_waits" for event in said))
        run.cancel(Reason.LEASE_LOST)
        result = await run.result
        self.assertEqual(result.artifacts, ())
        self.assertIn("No space left", result.artifacts_skipped[0])
        self.assert_clean(scratch)
