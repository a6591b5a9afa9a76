"""What every kind of sandbox must do, against the real thing. Subclasses make `self.backend`."""

from __future__ import annotations

import os
import tarfile
from typing import Any

from twisted.internet.defer import gatherResults

from chorus.sandbox import volumes
from chorus.sandbox.contract import Reason
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

    async def test_home_and_tmp_can_be_written(self) -> None:
        await self.exits(shell("touch ~/x /tmp/y /dev/shm/z && test $(id -u) -ne 0"))

    async def test_stdin_is_empty(self) -> None:
        self.assertEqual(await self.exits(shell("cat; echo done")), b"done\n")

    async def test_time_limit(self) -> None:
        result, out, _ = await self.outcome(shell("echo begun; sleep 30; echo over", limits={"timeout_s": 0.5}))
        self.assertEqual((result.reason, result.exit_code, out), (Reason.TIMEOUT, 124, b"begun\n"))
        self.assertLess(result.ended_at - result.started_at, 5)

    async def test_partial_artifacts_are_kept_on_time_out(self) -> None:
        job = shell("echo part > /workspace/output/a; sleep 30", limits={"timeout_s": 0.5}, artifacts=("a",))
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
