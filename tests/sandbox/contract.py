"""What every kind of sandbox must do, against the real thing. Subclasses make `self.backend`."""

from __future__ import annotations

import os
import tarfile
from typing import Any

import attrs
from twisted.internet.defer import gatherResults
from twisted.trial.unittest import SkipTest

from chorus.sandbox.bubblewrap import seccomp
from chorus.sandbox.commands import FULL_MARK, HIDDEN, READ_ONLY
from chorus.sandbox.files import volumes
from chorus.tasks.terms import Reason
from tests.sandbox.support import Recorder, archive, loop_mounts, python, shell


class ContractTests:
    """Mixed into a `SandboxCase` by `test_bubblewrap` and `test_docker`."""

    backend: Any

    async def test_streams_exit_code_and_offsets(self) -> None:
        seen = Recorder()
        result, out, err = await self.outcome(shell("echo one; echo two >&2; echo three; exit 3"), seen)
        self.assertEqual((out, err), (b"one\nthree\n", b"two\n"))
        self.assertEqual((seen.got["stdout"], seen.got["stderr"]), (out, err))
        self.assertEqual((result.reason, result.exit_code), (Reason.EXIT, 3))
        self.assertEqual((result.sandbox, result.truncated), (self.backend.name, ()))
        self.assertLess(result.started_at, result.ended_at)

    async def test_commands_in_order_until_one_fails(self) -> None:
        result, out, _ = await self.outcome(shell("echo a", "exit 5", "echo never"))
        self.assertEqual((result.exit_code, out), (5, b"a\n"))

    async def test_output_is_live(self) -> None:
        seen = Recorder()
        run, scratch = self.go(shell("echo first; sleep 30"), seen)
        await seen.seen("stdout", b"first")
        run.cancel(Reason.CANCELLED)
        result = await run.result
        self.assertEqual((result.reason, result.stdout_bytes), (Reason.CANCELLED, 6))
        self.assert_clean(scratch)

    async def test_under_the_umask_of_a_daemon(self) -> None:
        """What the agent makes is reached by the task's user, and what the task makes has the usual modes."""
        self.addCleanup(os.umask, os.umask(0o077))
        job = shell(
            "cat /workspace/input/a/b.txt a/b.txt",
            "umask; touch new; stat -c %a new /workspace/input /workspace/data /workspace/output /workspace/home",
            "cat /etc/passwd >/dev/null",
            "echo kept > /workspace/output/d",
            input_archive=archive(self.scratch(), {"a/b.txt": b"hello\n"}),
            artifacts=("d",),
        )
        result, out, err = await self.outcome(job)
        self.assertEqual((result.reason, result.exit_code), (Reason.EXIT, 0), (result.detail, err))
        self.assertEqual(out, b"hello\nhello\n0022\n644\n755\n755\n755\n755\n")
        self.assertEqual([one.path for one in result.artifacts], ["d"])

    async def test_the_workspace(self) -> None:
        job = shell(
            "pwd",
            "cat a/b.txt",
            "echo changed > a/b.txt",
            "cat /workspace/input/a/b.txt",
            "echo result > $CHORUS_OUTPUT/result.txt; mkdir /workspace/output/d; echo 2 > /workspace/output/d/x.log",
            "cd /workspace/output; ln -s /etc/passwd passwd.txt; ln -s $PWD/result.txt d/up; mkdir -m 750 d/empty",
            "touch -d @981173106 $CHORUS_OUTPUT/result.txt; chmod 4755 $CHORUS_OUTPUT/result.txt",
            "! echo x > /workspace/input/a/b.txt",
            input_archive=archive(self.scratch(), {"a/b.txt": b"hello\n", "run.sh": b"#!/bin/sh\necho ran\n"}),
            artifacts=("*.txt", "d"),
        )
        result, out, err = await self.outcome(job)
        self.assertEqual((result.reason, result.exit_code), (Reason.EXIT, 0), err)
        self.assertEqual(out, b"/workspace/data\nhello\nhello\n")
        self.assertEqual([(one.path, one.size) for one in result.artifacts], [("d/x.log", 2), ("result.txt", 7)])
        self.assertEqual(result.artifacts[1].local.read_text(), "result\n")
        self.assertEqual((result.artifacts[1].mode, result.artifacts[1].mtime), (0o755, 981_173_106.0))
        entries = [(one.path, one.target, one.mode) for one in result.entries if one.target is None]
        self.assertEqual(entries, [("d/empty", None, 0o750)])
        self.assertEqual([(one.path, one.target) for one in result.entries if one.target], [("d/up", "../result.txt")])
        self.assertEqual(result.artifacts_skipped, ("passwd.txt: a link that leads out of the output",))
        self.assertEqual(result.artifacts_skipped_total, 1)

    async def test_a_project_runs_its_own_tests(self) -> None:
        files = {
            "pkg/__init__.py": b"def double(x):\n    return 2 * x\n",
            "test_pkg.py": b"import unittest, pkg\n"
            b"class T(unittest.TestCase):\n    def test(self):\n        self.assertEqual(pkg.double(2), 4)\n",
        }
        job = shell("python3 -m unittest -v", input_archive=archive(self.scratch(), files), language="python")
        result, _, err = await self.outcome(job)
        self.assertEqual((result.reason, result.exit_code), (Reason.EXIT, 0), err)
        self.assertIn(b"Ran 1 test", err)

    async def test_environment(self) -> None:
        os.environ["CHORUS_TEST_SECRET"] = "do-not-leak"
        self.addCleanup(os.environ.pop, "CHORUS_TEST_SECRET")
        out = await self.exits(shell("env", env={"GREETING": "hi there\n'$(id)'", "LANG": "C"}))
        self.assertIn(b"GREETING=hi there\n'$(id)'", out)
        self.assertIn(b"LANG=C\n", out)
        self.assertNotIn(b"do-not-leak", out)
        self.assertIn(b"HOME=/workspace/home", out)

    async def test_no_variable_of_a_task_is_in_effect_for_a_helper(self) -> None:
        """At worst its own commands are not found: that is no fault of the machine. The loader says so of each program
        that runs under a preload which cannot be: that is the task's own one, alone."""
        result, out, _ = await self.outcome(shell("echo hi", env={"PATH": "/opt/tool/bin"}))
        self.assertEqual((result.reason, result.exit_code, out), (Reason.EXIT, 0, b"hi\n"), result)
        result, _, err = await self.outcome(shell("python3 -V", env={"PATH": "/opt/tool/bin"}))
        self.assertEqual((result.reason, result.exit_code), (Reason.EXIT, 127), (result, err))
        job = attrs.evolve(shell(env={"LD_PRELOAD": "/workspace/data/planted.so"}), commands=(("/bin/true",),))
        result, _, err = await self.outcome(job)
        self.assertEqual((result.exit_code, err.count(b"cannot be preloaded")), (0, 1), err)

    async def test_no_file_of_a_task_is_run_as_a_helper(self) -> None:
        """The time limit is not in the task's hands, whatever lies where it sends whoever looks for a program."""
        planted = b'#!/bin/sh\necho "planted $0: $(id -u) $(grep CapEff /proc/self/status)" >&2\n'
        planted += b'while [ $# -gt 0 ] && [ "$1" != /bin/sh ]; do shift; done; [ $# -eq 0 ] || exec "$@"\n'
        names = ("setpriv", "timeout", "df", "mount", "chroot", "unshare", "bwrap", "env", "dd", "head", "[")
        job = shell(
            "/bin/sleep 30; echo still here",
            input_archive=archive(self.scratch(), dict.fromkeys(names, planted)),
            env={
                "PATH": "/workspace/data:/workspace/input:.:/usr/bin:/bin",
                "CDPATH": "/",
                "ENV": "/workspace/data/df",
            },
            limits={"timeout_s": 0.5},
        )
        result, out, err = await self.outcome(job)
        self.assertEqual((result.reason, out, err), (Reason.TIMEOUT, b"", b""))

    async def test_variables_that_shells_loaders_and_runtimes_heed(self) -> None:
        hostile = {
            "IFS": "/", "ENV": "/x", "BASH_ENV": "/x", "LD_LIBRARY_PATH": "/workspace/data", "LD_AUDIT": "", "TZ": "/x",
            "GCONV_PATH": "/workspace/data", "LOCPATH": "/workspace/data", "LC_ALL": "xx", "PYTHONHOME": "/workspace",
            "PYTHONPATH": "/workspace/data", "PS4": "$(id)", "SHELLOPTS": "xtrace", "POSIXLY_CORRECT": "1",
            "OPTIND": "no number", "UID": "0", "PWD": "/", "TMPDIR": "/nowhere", "GLIBC_TUNABLES": "x=y", "HOME": "/x",
            "MALLOC_PERTURB_": "7", "_chorus_environment": "x", "A_1": " two\n'lines' $HOME ",
        }  # fmt: skip
        job = attrs.evolve(shell(env=hostile), commands=(("/usr/bin/env", "-0"),))
        result, out, err = await self.outcome(job)
        self.assertEqual((result.reason, result.exit_code), (Reason.EXIT, 0), (result, err))
        seen = dict(line.split("=", 1) for line in out.decode().split("\0") if line)
        # What a shell keeps for itself, it may keep.
        kept = {name: seen.get(name) for name in hostile if name not in ("OPTIND", "UID", "SHELLOPTS", "PWD", "IFS")}
        self.assertEqual(kept, {name: value for name, value in hostile.items() if name in kept})

    async def test_calls_that_are_refused(self) -> None:
        """The table of `seccomp.py`, at the kernel: the same in every kind of sandbox."""
        arch = seccomp.architecture()
        if arch is None:
            raise SkipTest("no filter for this processor")
        checked = seccomp.CHECKED[arch]
        cases: list[tuple[str, int, tuple[int, ...], str]] = [
            (name, number, (), "EPERM") for name, number in seccomp.DENIED[arch].items()
        ]
        cases += [("clone3", checked["clone3"], (), "ENOSYS"), ("unknown", 700, (), "ENOSYS")]
        cases += [(f"family {family}", checked["socket"], (family, 1, 0), "EPERM") for family in (38, 40)]
        cases += [(f"family {f} and high bits", checked["socket"], (1 << 32 | f, 1, 0), "EPERM") for f in (38, 40)]
        cases += [(f"ioctl {code:x}", checked["ioctl"], (0, code, 0), "EPERM") for code in (0x5412, 0x541C)]
        cases += [("ioctl and high bits", checked["ioctl"], (0, 1 << 32 | 0x5412, 0), "EPERM")]
        cases += [
            (f"clone {1 << n:x}", checked["clone"], (1 << n | 17,), "EPERM") for n in (17, 25, 26, 27, 28, 29, 30)
        ]
        cases += [("thread", checked["clone"], (0x003D0F00 & ~0x400,), "EPERM")]
        cases += [(f"personality {one:x}", checked["personality"], (one,), "EPERM") for one in (0x40000, 0x400000, 1)]
        # What stays open: the answer is the kernel's own.
        cases += [("ioctl of a file", checked["ioctl"], (0, 0x5401, 0), "ENOTTY")]
        cases += [("query", checked["personality"], (0xFFFFFFFF,), "0"), ("linux", checked["personality"], (0,), "0")]
        cases += [(f"family {family}", checked["socket"], (family, 1, 0), "0") for family in (1, 2, 10)]
        code = (
            "import ctypes, errno\n"
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            f"for name, number, arguments in {[case[:3] for case in cases]!r}:\n"
            "    ctypes.set_errno(0)\n"
            "    got = libc.syscall(*(ctypes.c_ulong(one) for one in (number, *arguments, 0, 0, 0)))\n"
            "    if got == 0 and name == 'thread': import os; os._exit(99)\n"
            "    print(name, errno.errorcode[ctypes.get_errno()] if got == -1 else '0', sep=': ')\n"
        )
        out = await self.exits(python(code))
        expected = [f"{name}: {answer}" for name, _, _, answer in cases]
        self.assertEqual([line for line in expected if line not in out.decode().splitlines()], [], out.decode())

    async def test_what_is_the_machines_own(self) -> None:
        """Its controls cannot be written, its secrets and affairs not be read."""
        script = (
            f'for p in {" ".join(HIDDEN)}; do [ ! -e $p ] || [ -z "$(cat $p 2>/dev/null; ls $p/ 2>/dev/null)" ]'
            " || echo READ $p; done;"
            f"for p in {' '.join(READ_ONLY)} /proc/sys/kernel/core_pattern /proc/sys/kernel/hostname; do"
            " [ ! -w $p ] || echo WRITE $p; done; true"
        )
        self.assertEqual(await self.exits(shell(script)), b"")

    async def test_the_input_belongs_to_who_has_its_files(self) -> None:
        """As git wants of a folder."""
        job = shell(
            "stat -c %u /workspace/input /workspace/input/a /workspace/data /workspace/data/a; id -u",
            input_archive=archive(self.scratch(), {"a": b"x"}),
        )
        self.assertEqual(len(set((await self.exits(job)).split())), 1)

    async def test_a_task_does_not_see_where_it_lies(self: Any) -> None:
        """Nothing of the agent's paths, its id and the attempt: in the tables of mounts and groups, and in what is
        to be seen of the helpers."""
        script = "cat /proc/self/mountinfo /proc/self/mounts /proc/self/cgroup /proc/*/cmdline /proc/*/environ; true"
        run, scratch = self.go(shell(script, agent_id="agent-whose-name-is-seen", fence="0.77.7"))
        result = await run.result
        self.assertEqual((result.reason, result.exit_code), (Reason.EXIT, 0))
        out = (scratch / "stdout").read_text(errors="replace")
        self.assertIn("/workspace/data", out)
        seen = [one for one in (str(scratch.parent), "agent-whose-name", "0.77.7", "agent-test") if one in out]
        self.assertEqual(seen, self.sees, out)

    sees: Any = []
    """What of it this kind of sandbox cannot hide."""

    async def test_a_full_tmp_is_a_full_disk(self) -> None:
        for place in ("/tmp", "/dev/shm"):
            job = shell(f"head -c 400M /dev/zero > {place}/x", limits={"memory_mb": 128})
            result, _, err = await self.outcome(job)
            # Where only polling holds memory, that may come first.
            self.assertIn(result.reason, (Reason.DISK, Reason.OOM), (result, err))
            if result.reason is Reason.DISK:
                self.assertIn(f"{place} was full", result.detail)
        result, _, _ = await self.outcome(shell("head -c 400M /dev/zero > /tmp/x; rm /tmp/x; exit 3"))
        self.assertEqual((result.reason, result.exit_code), (Reason.EXIT, 3), "not full any more")

    async def test_a_mark_that_is_no_file_is_none(self) -> None:
        for make in ("ln -s /dev/zero", "mkfifo", "mkdir"):
            target = f"~/{FULL_MARK}"
            result, _, _ = await self.outcome(shell(f"{make} {target}; exit 3"))
            self.assertEqual((result.reason, result.exit_code), (Reason.EXIT, 3), make)

    async def test_hints(self: Any) -> None:
        folder = self.scratch()
        (folder / ".local/bin").mkdir(parents=True)
        tool = folder / ".local/bin/chorus-test-tool"
        tool.write_text("#!/bin/sh\n")
        tool.chmod(0o755)
        self.patch(os, "environ", {**os.environ, "HOME": str(folder)})
        result, _, _ = await self.outcome(shell("chorus-test-tool --version"))
        self.assertIn("the sandbox has no chorus-test-tool, though this machine has it", result.detail)
        self.assertNotIn(str(folder), result.detail)
        result, _, _ = await self.outcome(shell("chorus-test-tool-of-nobody"))
        self.assertEqual(result.detail, "exit code 127 (command not found)")
        code = "import socket; socket.getaddrinfo('pypi.org', 443)"
        result, _, _ = await self.outcome(python(code))
        self.assertIn("sandboxes have no network", result.detail)

    async def test_home_and_tmp_can_be_written(self) -> None:
        await self.exits(shell("touch ~/x /tmp/y /dev/shm/z && test $(id -u) -ne 0"))

    async def test_stdin_is_empty(self) -> None:
        self.assertEqual(await self.exits(shell("cat; echo done")), b"done\n")

    async def test_time_limit(self) -> None:
        result, out, _ = await self.outcome(shell("echo begun; sleep 300; echo over", limits={"timeout_s": 2}))
        self.assertEqual((result.reason, result.exit_code, out), (Reason.TIMEOUT, 124, b"begun\n"))

    async def test_partial_artifacts_are_kept_on_time_out(self) -> None:
        job = shell("echo part > /workspace/output/a; sleep 300", limits={"timeout_s": 2}, artifacts=("a",))
        result, _, _ = await self.outcome(job)
        self.assertEqual([one.path for one in result.artifacts], ["a"])

    async def test_own_exit_codes_are_told_apart(self) -> None:
        for code in (124, 137, 143):
            result, _, _ = await self.outcome(shell(f"exit {code}"))
            self.assertEqual((result.reason, result.exit_code), (Reason.EXIT, code))

    async def test_a_signal_shows(self) -> None:
        result, _, _ = await self.outcome(shell("sh -c 'kill -9 $$'"))
        self.assertEqual((result.reason, result.exit_code), (Reason.EXIT, 137))

    async def test_command_not_found(self) -> None:
        result, _, err = await self.outcome(shell("no-such-program"))
        self.assertEqual((result.exit_code, b"not found" in err), (127, True))

    async def test_output_is_cut_and_the_task_goes_on(self) -> None:
        job = python(
            "import sys\nfor i in range(3 * 1024): sys.stdout.write('x' * 1023 + '\\n')\n"
            "open('/workspace/output/done', 'w').write('1')",
            limits={"output_mb": 1},
            artifacts=("done",),
        )
        seen = Recorder()
        result, out, _ = await self.outcome(job, seen)
        self.assertEqual((result.reason, result.exit_code), (Reason.EXIT, 0))
        self.assertEqual((result.truncated, len(out), len(seen.got["stdout"])), (("stdout",), 1 << 20, 1 << 20))
        self.assertEqual([one.path for one in result.artifacts], ["done"])

    async def test_output_of_exactly_the_cap_is_not_cut(self) -> None:
        job = python("import sys; sys.stderr.write('x' * (1 << 20))", limits={"output_mb": 1})
        result, _, err = await self.outcome(job)
        self.assertEqual((result.truncated, len(err)), ((), 1 << 20))

    async def test_cancel_while_the_input_is_unpacked_or_before(self) -> None:
        run, scratch = self.go(shell("echo never"))
        run.cancel(Reason.CANCELLED)
        run.cancel(Reason.TIMEOUT)
        result = await run.result
        self.assertEqual((result.reason, result.exit_code, result.stdout_bytes), (Reason.CANCELLED, None, 0))
        if scratch.exists():
            self.assert_clean(scratch)

    async def test_bad_archive(self) -> None:
        path = self.scratch() / "bad.tar"
        with tarfile.open(path, "w") as tar:
            info = tarfile.TarInfo("l")
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
        result, _, _ = await self.outcome(shell("echo never", input_archive=path))
        self.assertEqual((result.reason, result.exit_code), (Reason.REFUSED, None))
        self.assertIn("bad_archive", result.detail)

    async def test_input_that_does_not_fit(self) -> None:
        path = archive(self.scratch(), {"big": os.urandom(9 << 20)})
        result, _, _ = await self.outcome(shell("echo never", input_archive=path, limits={"disk_mb": 8}))
        self.assertIn(result.reason, (Reason.DISK, Reason.REFUSED))

    async def test_several_at_once(self) -> None:
        jobs = [shell(f"sleep 0.2; echo {n}", task_id=f"task-{n}") for n in range(4)]
        runs = [self.go(job) for job in jobs]
        results = await gatherResults([run.result for run, _ in runs])
        self.assertEqual({result.exit_code for result in results}, {0})
        self.assertEqual([(scratch / "stdout").read_bytes() for _, scratch in runs], [b"%d\n" % n for n in range(4)])

    async def test_disk_limit(self) -> None:
        result, _, _ = await self.outcome(shell("dd if=/dev/zero of=big bs=1M count=100", limits={"disk_mb": 16}))
        self.assertEqual(result.reason, Reason.DISK)
        if loop_mounts():
            self.assertEqual(result.disk_enforcement, "loop")

    async def test_memory_limit(self) -> None:
        # It keeps what it has: where memory is only looked at, what comes and goes between two looks is not seen.
        code = "import time; x = [bytearray(1 << 20) for _ in range(1000)]; time.sleep(20)"
        job = python(code, limits={"memory_mb": 64})
        result, _, _ = await self.outcome(job)
        self.assertEqual(result.reason, Reason.OOM)

    async def test_close_ends_what_runs(self) -> None:
        run, scratch = self.go(shell("sleep 60"))
        seen: list[Any] = []
        run.result.addCallback(seen.append)
        await self.backend.close()
        self.assertEqual([result.reason for result in seen], [Reason.SANDBOX_UNAVAILABLE])
        self.assert_clean(scratch)

    def measure_disk(self: Any) -> None:
        """No file system of the task's own, as under an agent that is not root."""
        real = volumes.mount_volume
        self.patch(volumes, "mount_volume", lambda *args, loop: real(*args, loop=False))

    async def test_a_measured_disk_is_not_cheated_by_folders(self) -> None:
        self.measure_disk()
        hide = "import os\n{}\nfor i in range(40): open(f'f{{i}}', 'wb').write(bytes(1 << 20))\nos.system('sleep 15')"
        for name, code in [
            ("deeper than a path", "for i in range(30): os.mkdir('d' * 200); os.chdir('d' * 200)"),
            ("closed", "os.mkdir('h'); os.chdir('h'); os.chmod('.', 0o300)"),
            ("listed only", "os.mkdir('h'); os.chdir('h'); os.mkdir('i'); os.chdir('i'); os.chmod('..', 0o400)"),
        ]:
            result, _, err = await self.outcome(python(hide.format(code), limits={"disk_mb": 16}))
            self.assertEqual(result.reason, Reason.DISK, (name, result, err))

    async def test_a_measured_disk_is_not_cheated_by_files_without_a_name(self) -> None:
        self.measure_disk()
        code = (
            "import os, time\n"
            "kept = []\n"
            "for i in range(8):\n"
            "    kept.append(open('f', 'wb', 0)); kept[-1].write(bytes(5 << 20)); os.unlink('f')\n"
            "time.sleep(15)"
        )
        result, _, err = await self.outcome(python(code, limits={"disk_mb": 16}))
        self.assertEqual(result.reason, Reason.DISK, (result, err))
