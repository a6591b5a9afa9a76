"""Why a run ended, by table; and the script of its commands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from chorus.sandbox.commands import ENDED, environment, script
from chorus.sandbox.uids import TASK_UIDS
from chorus.sandbox.verdict import Facts, ForkBomb, describe_exit, verdict
from chorus.tasks.terms import Limits, Reason
from tests.support import PureTestCase

LIMITS = Limits(timeout_s=10)


class Verdict(PureTestCase):
    def test_table(self) -> None:
        for facts, reason, words in [
            (Facts(0, 1), Reason.EXIT, "succeeded"),
            (Facts(3, 1), Reason.EXIT, "exit code 3"),
            (Facts(124, 10.01), Reason.TIMEOUT, "10 s"),
            (Facts(137, 12.0), Reason.TIMEOUT, "10 s"),
            # A command's own 124 and 137, before the time was up.
            (Facts(124, 2), Reason.EXIT, "exit code 124"),
            (Facts(137, 2), Reason.EXIT, "SIGKILL"),
            (Facts(143, 2), Reason.EXIT, "SIGTERM"),
            (Facts(137, 2, oom_kills=1), Reason.OOM, "1024 MB"),
            (Facts(1, 2, oom_kills=1), Reason.OOM, "1024 MB"),
            (Facts(1, 2, memory_peak=0.9), Reason.OOM, "1024 MB"),
            (Facts(0, 2, oom_kills=1), Reason.EXIT, "succeeded"),
            (Facts(1, 2, disk_full=True), Reason.DISK, "disk"),
            (Facts(153, 2), Reason.DISK, "disk"),
            (Facts(0, 2, disk_full=True), Reason.EXIT, "succeeded"),
            (Facts(1, 2, memory_full="/tmp"), Reason.DISK, "CHORUS_TASK_TMP_MB"),
            (Facts(1, 2, memory_full="/dev/shm"), Reason.DISK, "/dev/shm was full"),
            (Facts(1, 2, memory_full="/tmp", oom_kills=1), Reason.OOM, "1024 MB"),
            (Facts(0, 2, memory_full="/tmp"), Reason.EXIT, "succeeded"),
            (Facts(124, 11, memory_full="/tmp"), Reason.TIMEOUT, "10 s"),
            (Facts(1, 2, pids_refused=4), Reason.PIDS, "256"),
            (Facts(0, 2, pids_refused=4), Reason.EXIT, "succeeded"),
            (Facts(0, 2, pids_refused=4, pids_full=True), Reason.PIDS, "256"),
            (Facts(None, 2, Reason.CANCELLED), Reason.CANCELLED, "cancelled"),
            (Facts(137, 2, Reason.LEASE_LOST, oom_kills=1), Reason.LEASE_LOST, "lease"),
            (Facts(None, 2, Reason.SANDBOX_UNAVAILABLE, "engine away"), Reason.SANDBOX_UNAVAILABLE, "engine away"),
            (Facts(None, 2), Reason.EXIT, "no command"),
        ]:
            got, detail = verdict(facts, LIMITS)
            self.assertEqual(got, reason, facts)
            self.assertIn(words, detail)

    def test_exit_codes_in_words(self) -> None:
        self.assertIn("not found", describe_exit(127))
        self.assertIn("cannot be run", describe_exit(126))
        self.assertIn("SIGSEGV", describe_exit(139))
        self.assertEqual(describe_exit(200), "exit code 200")


class Bombs(PureTestCase):
    def test_one_that_keeps_asking(self) -> None:
        bomb = ForkBomb()
        seen = [bomb.seen(count, 0.2 * count) for count in range(1, 15)]
        self.assertEqual(seen, [False] * 11 + [True] * 3)

    def test_one_that_met_the_limit_and_went_on(self) -> None:
        bomb = ForkBomb()
        self.assertFalse(bomb.seen(5, 0.0))
        for now in range(1, 100):
            self.assertFalse(bomb.seen(5, float(now)))
        # Now and then, as `make -j` may.
        for now in range(100, 200, 2):
            self.assertFalse(bomb.seen(now, float(now)))


class Script(PureTestCase):
    def sh(self, *commands: tuple[str, ...]) -> tuple[int, str]:
        folder = Path(self.mktemp())
        folder.mkdir()
        text = script(commands).replace("/workspace/data", str(folder))
        done = subprocess.run(["/bin/sh", "-c", text], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout

    def test_in_order_until_one_fails(self) -> None:
        self.assertEqual(self.sh(("echo", "a"), ("sh", "-c", "exit 7"), ("echo", "b")), (7, "a\n"))

    def test_nothing_is_interpreted(self) -> None:
        hostile = "$(id) `id` ; exit 3 ' \" \n && * \\"
        self.assertEqual(self.sh(("printf", "%s", hostile)), (0, hostile))

    def test_a_command_cannot_end_the_script(self) -> None:
        self.assertEqual(self.sh(("exit", "0"), ("echo", "still")), (0, "still\n"))
        self.assertEqual(self.sh(("exec", "true"), ("echo", "still")), (0, "still\n"))

    def test_the_exit_code_where_no_process_can_be_made(self) -> None:
        """A task that has used them up: the shell cannot look whether /tmp is full, and says the command's code."""
        if os.geteuid():
            raise self.skipTest("a user without other processes, for whom one is the limit")
        user = str(TASK_UIDS.stop)
        text = f"{ENDED}\n_chorus_ended 7"
        limited = 'ulimit -p 1 2>/dev/null || ulimit -u 1; eval "$1"'
        argv = ["setpriv", "--reuid", user, "--regid", user, "--clear-groups", "/bin/sh", "-c", limited, "sh", text]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd="/")
        self.assertEqual((done.returncode, done.stdout), (7, ""), done.stderr)

    def test_the_environment_is_the_commands_own(self) -> None:
        """It is not that of the shell which runs them, and not of what that shell looks up."""
        env = {"PATH": "/nowhere", "A": "it's\n'b' $x `y`", "OPTIND": "no number", "LD_PRELOAD": "/nowhere.so"}
        text = script([("/bin/sh", "-c", 'echo "$PATH" "$A"; exit 3')], env)
        self.assertEqual(text.count("LD_PRELOAD"), 1)
        for shell in ("/bin/sh", "/bin/bash"):
            if not Path(shell).exists():
                continue
            folder = Path(self.mktemp())
            folder.mkdir()
            text = text.replace("/workspace/data", str(folder))
            fixed = {"PATH": "/usr/bin:/bin"}
            done = subprocess.run([shell, "-c", text], capture_output=True, text=True, check=False, env=fixed)
            self.assertEqual((done.returncode, done.stdout), (3, f"/nowhere {env['A']}\n"), done.stderr)

    def test_environment(self) -> None:
        self.assertEqual(environment({"A": "1", "LANG": "C"})["LANG"], "C")
        self.assertNotIn("CHORUS_API_TOKEN", environment({}))
