"""What keeps tasks of a bubblewrap sandbox apart from the machine, from its users and from each other."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import subprocess
from pathlib import Path

import attrs
from twisted.internet import reactor
from twisted.internet.task import deferLater

from chorus.sandbox import cgroups, processes
from chorus.sandbox.bubblewrap.arguments import Descriptors, Launch, Mode, launch_arguments
from chorus.sandbox.bubblewrap.backend import Bubblewrap
from chorus.sandbox.bubblewrap.machine import Machine
from chorus.sandbox.commands import READ_ONLY
from chorus.sandbox.uids import LOCKS, TASK_UIDS, Uids
from chorus.tasks.terms import Limits, Reason
from tests.sandbox.contract import ContractTests
from tests.sandbox.support import Recorder, SandboxCase, archive, no_bubblewrap, python, shell

NAME = "agent-isolated"


class RootAgent(SandboxCase):
    skip = no_bubblewrap() or (None if os.geteuid() == 0 else "what a root agent has to do for its tasks")

    def setUp(self) -> None:
        self.backend = Bubblewrap(reactor, NAME)  # type: ignore[arg-type]
        self.addCleanup(self.backend.close)

    async def test_helpers_of_a_root_agent_are_not_the_tasks(self) -> None:
        """The attack of a member on an agent that runs as root in a chroot or a container: programs of its input in the
        place of those that still have all rights, and whatever a shell would load for it."""
        planted = (
            b'#!/bin/sh\necho "planted $0: uid $(id -u) $(grep CapEff /proc/self/status)"\n'
            b"test -w /proc/sys/kernel/core_pattern && echo core_pattern of the host is writable\nexit 0\n"
        )
        names = ("setpriv", "timeout", "sh", "bwrap", "unshare", "mount", "chroot", "df", "stat")
        job = shell(
            "/usr/bin/id -u; /usr/bin/grep CapEff /proc/self/status; [ ! -w /proc/sys/kernel/core_pattern ]",
            input_archive=archive(self.scratch(), dict.fromkeys(names, planted)),
            env={"PATH": "/workspace/data:/workspace/input", "BASH_ENV": "/workspace/data/sh", "IFS": "/"},
        )
        for modes in (("drop",), ("root",)):
            self.only(*modes)
            self.setUp()
            result, out, err = await self.outcome(job)
            self.assertEqual((result.reason, result.exit_code), (Reason.EXIT, 0), (modes, result, out, err))
            self.assertNotIn(b"planted", out + err)
            self.assertIn(b"CapEff:\t0000000000000000", out)
            self.assertNotEqual(out.split()[0], b"0")

    def only(self, *modes: str) -> None:
        """A machine on which no other mode works."""
        real = self.__dict__.setdefault("_real_try", Machine._try)

        def refuse(machine: Machine, bwrap: str, mode: Mode, program: bytes | None) -> str | None:
            found: str | None = real(machine, bwrap, mode, program) if mode in modes else "not here"
            return found

        self.patch(Machine, "_try", refuse)

    async def test_what_is_the_machines_own_where_bwrap_is_root(self) -> None:
        self.only("root")
        # Not by the rights of a task alone: whoever held more there could not write them either.
        mounts = [line.split(" ") for line in (await self.exits(shell("cat /proc/self/mounts"))).decode().splitlines()]
        held = {place: options.split(",")[0] for _, place, _, options, *_ in mounts}
        there = [path for path in READ_ONLY if _exists(path)]
        self.assertEqual({path: held.get(path) for path in there}, dict.fromkeys(there, "ro"))
        await ContractTests.test_what_is_the_machines_own(self)  # type: ignore[arg-type]
        await ContractTests.test_calls_that_are_refused(self)  # type: ignore[arg-type]

    async def test_each_task_is_a_user_of_its_own(self) -> None:
        """So that one cannot use up what the kernel counts by user, over all sandboxes."""
        code = (
            "import ctypes, sys, time\n"
            "libc = ctypes.CDLL(None)\n"
            "got = 0\n"
            "while got < 5000 and libc.inotify_init1(0) >= 0: got += 1\n"
            "print('took', got, flush=True)\n"
            "time.sleep(600)\n"
        )
        run, scratch = self.go(python(code, limits={"pids": 20, "timeout_s": 600}), seen := Recorder())
        await seen.seen("stdout", b"took")
        await self.exits(python("import ctypes; assert ctypes.CDLL(None).inotify_init1(0) >= 0"))
        (uid,) = _users_of(b"inotify_init1(0) >= 0: got") & set(TASK_UIDS)
        with self.assertRaises(BlockingIOError):
            _lock(LOCKS / str(uid))
        run.cancel(Reason.CANCELLED)
        await run.result
        self.assert_clean(scratch)
        _lock(LOCKS / str(uid))

    async def test_no_user_is_left_for_a_task(self) -> None:
        await self.backend.probe()
        self.backend._site = attrs.evolve(self.backend._site, uids=Uids(self.scratch() / "x", []))
        result, _, _ = await self.outcome(shell("echo never"))
        self.assertEqual(result.reason, Reason.SANDBOX_UNAVAILABLE)
        self.assertIn("users for tasks are in use", result.detail)

    async def test_no_other_user_reads_what_a_task_has(self) -> None:
        """Whatever the umask: its input, commands, output and disk, by every path that leads there."""
        self.addCleanup(os.umask, os.umask(0))
        folder = self.scratch()
        folder.chmod(0o755)
        job = shell(
            "umask 0; echo mine > /workspace/output/o; chmod 666 /workspace/output/o; echo begun; sleep 600",
            input_archive=archive(self.scratch(), {"a/secret": b"x"}),
            artifacts=("o",),
            limits={"timeout_s": 600},
        )
        self.only("drop")
        run = self.backend.start(job, folder / "scratch", seen := Recorder())
        await seen.seen("stdout", b"begun")
        place, box = run._place, folder / "scratch" / "box"
        paths = {path for root in (folder / "scratch", place) for path in (root, *root.rglob("*"))}
        self.assertIn(place / "fs" / "input" / "a" / "secret", paths)
        self.assertIn(box / "fs" / "output" / "o", paths)
        nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
        reached = _run(*nobody, "/bin/sh", "-c", REACH, given="\n".join(map(str, sorted(paths))))
        self.assertEqual((reached.returncode, reached.stdout), (0, b""))
        closed = [path for path in (box, box / "fs", box / "disk.img", place) if path.exists()]
        self.assertEqual([path for path in closed if stat.S_IMODE(path.lstat().st_mode) & 0o007], [])
        run.cancel(Reason.CANCELLED)
        result = await run.result
        self.assertEqual([one.path for one in result.artifacts], ["o"])


class Leftovers(SandboxCase):
    """Helpers that outlive who started them."""

    skip = no_bubblewrap()

    def setUp(self) -> None:
        # As for an ordinary user: no group tells what belongs to a sandbox.
        self.patch(cgroups, "find", lambda *_: None)
        self.backend = Bubblewrap(reactor, f"{NAME}-{os.getpid()}")  # type: ignore[arg-type]
        self.addCleanup(self.backend.close)

    async def test_a_helper_whose_agent_is_gone_makes_no_sandbox(self) -> None:
        """Between fork and set-up an agent may be killed; later `--die-with-parent` sees to it."""
        limits = Limits()
        argv = launch_arguments(Launch("user", "/bin/echo"), [], [], limits, Descriptors(0, 1, None))
        # The parent of this launcher is not the agent that built its command line.
        done = _run("/bin/sh", "-c", '"$@"; exit $?', "sh", *argv)
        self.assertEqual((done.returncode, done.stdout), (1, b""))
        done = _run(*argv)
        self.assertEqual((done.returncode, done.stdout[:8]), (0, b"--args 0"))

    async def test_what_a_killed_agent_left_half_made_is_ended(self) -> None:
        """Without control groups: one half of bwrap that waits for the other, for good."""
        backend = Bubblewrap(reactor, f"agent-half-{os.getpid()}")  # type: ignore[arg-type]
        self.addCleanup(backend.close)
        other = processes.marks_of(f"agent-half-{os.getpid()}0")
        left, foreign = (_sleeper({processes.MARK: f"{mark}-1-1"}) for mark in (backend.machine.marks, other))
        try:
            await backend.reconcile(lambda task, fence: True)
            self.assertEqual(left.wait(30), -9)
            self.assertIsNone(foreign.poll())
        finally:
            for process in (left, foreign):
                process.kill()
                process.wait()

    async def test_stopped_at_any_instant_nothing_stays(self) -> None:
        """Also while bwrap is being set up, and where no control group finds what is left."""
        await self.backend.probe()
        for delay in (0.0, 0.001, 0.002, 0.004, 0.008, 0.016):
            run, scratch = self.go(shell("sleep 600", limits={"timeout_s": 600}))
            await self.until(lambda run=run: run._process is not None or run.result.called)
            await deferLater(reactor, delay)  # type: ignore[arg-type]
            run.cancel(Reason.CANCELLED)
            self.assertEqual((await run.result).reason, Reason.CANCELLED)
            self.assert_clean(scratch)
            self.assertEqual(list(processes.marked(run._mark)), [], delay)


REACH = """\
while read -r path; do
    { [ -r "$path" ] || ls "$path" || cat "$path"; } >/dev/null 2>&1 && echo "$path"
done
true
"""


def _users_of(text: bytes) -> set[int]:
    """Of the processes with this in their command lines."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if text in path.read_bytes():
                found.add(path.parent.stat().st_uid)
    return found


def _lock(path: Path) -> None:
    """Raises BlockingIOError while somebody has it."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _run(*argv: str, given: str = "") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(argv, input=given.encode(), capture_output=True, check=False)


def _sleeper(env: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(["/bin/sleep", "600"], env=env)


def _exists(path: str) -> bool:
    return os.path.exists(path)
