"""`twistd chorus` as users type it: from a checkout and from a wheel, with and without `-n`."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.support import ProcessTestCase

ROOT = Path(__file__).resolve().parents[2]
TWISTD = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"


def environment(**extra: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("CHORUS_")}
    return kept | extra


def twistd(*words: str, cwd: Path, env: dict[str, str], timeout: float = 60) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", TWISTD, *words],
        cwd=cwd,
        env=env,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class CommandTests(ProcessTestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="chorus-command-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def test_help_and_version_need_no_configuration(self) -> None:
        broken = environment(CHORUS_P2P_PORT="broken", HOME=str(self.folder))
        for words in (["--version"], ["-v"], ["agent", "--version"], ["hap", "-v"]):
            done = twistd("chorus", *words, cwd=ROOT, env=broken)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(done.stdout, "CHORUS-agent 0.5.0 (build: unknown, unknown)\n")
        for words in (["--help"], ["-h"], ["help"], ["agent", "--help"]):
            done = twistd("chorus", *words, cwd=ROOT, env=broken)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("agent", done.stdout)
        self.assertEqual(list(self.folder.iterdir()), [], "help and version write nothing")

    def test_build_is_named(self) -> None:
        env = environment(CHORUS_BUILD_COMMIT="abc123", CHORUS_BUILD_DATE="2026-11-21")
        done = twistd("chorus", "--version", cwd=ROOT, env=env)
        self.assertEqual(done.stdout, "CHORUS-agent 0.5.0 (build: abc123, 2026-11-21)\n")

    def test_a_wrong_value_is_one_line_naming_the_variable(self) -> None:
        done = twistd("-n", "chorus", "agent", cwd=self.folder, env=environment(CHORUS_P2P_PORT="many"))
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        self.assertIn("CHORUS_P2P_PORT", done.stderr)

    def test_another_reactor_is_refused_in_one_line(self) -> None:
        done = twistd("-n", "--reactor=select", "chorus", "agent", cwd=self.folder, env=environment())
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("run twistd without --reactor", done.stderr)
        self.assertNotIn("Traceback", done.stderr)

    def test_a_command_is_needed(self) -> None:
        done = twistd("chorus", cwd=self.folder, env=environment())
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("twistd chorus agent", done.stdout + done.stderr)

    def test_a_wrong_command_is_two_lines_with_what_was_meant(self) -> None:
        for words, expected in (
            (["agnt"], "twistd chorus: there is no command 'agnt'; did you mean agent?"),
            (["xyz"], "twistd chorus: there is no command 'xyz'"),
            (["--nope"], "twistd chorus: option --nope not recognized"),
            (["config", "--nope"], "twistd chorus: option --nope not recognized"),
        ):
            done = twistd("chorus", *words, cwd=self.folder, env=environment())
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            usage = "Usage: twistd [options of twistd] chorus agent | hap | config (--help says more)"
            self.assertEqual(done.stderr.splitlines(), [expected, usage])

    def test_the_usage_of_each_command_is_its_own(self) -> None:
        for words in ("agent", "hap", "config [--table]", "help"):
            done = twistd("chorus", words.split()[0], "--help", cwd=self.folder, env=environment())
            self.assertEqual(done.stdout.splitlines()[0], f"Usage: twistd [options of twistd] chorus {words}")

    def test_a_reader_that_has_enough(self) -> None:
        for words in (["config"], ["config", "--table"], ["help"], ["--help"], ["agent", "--help"], ["--version"]):
            reading, writing = os.pipe()
            os.close(reading)
            done = subprocess.run(
                [sys.executable, "-c", TWISTD, "chorus", *words],
                cwd=self.folder,
                env=environment(PYTHONPATH=str(ROOT)),
                stdout=writing,
                stderr=subprocess.PIPE,
                text=True,
                timeout=60,
                check=False,
            )
            os.close(writing)
            self.assertEqual((done.returncode, done.stderr), (0, ""), words)

    def test_an_argument_is_refused_with_a_hint(self) -> None:
        done = twistd("chorus", "agent", "9000", cwd=self.folder, env=environment())
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("CHORUS_", done.stdout + done.stderr)


class WheelTests(ProcessTestCase):
    """The wheel alone, in a directory of its own, run as a daemon."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="chorus-wheel-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def wheel(self) -> Path:
        source = self.folder / "source"
        shutil.copytree(
            ROOT,
            source,
            ignore=shutil.ignore_patterns(".git", ".venv", "build", "*.egg-info", "_trial_temp*", ".mypy_cache", "out"),
        )
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(self.folder), str(source)],
            check=True,
            capture_output=True,
        )
        target = self.folder / "installed"
        (found,) = self.folder.glob("*.whl")
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), str(found)],
            check=True,
            capture_output=True,
        )
        return target

    def test_daemon_from_a_wheel(self) -> None:
        """`twistd chorus agent` without -n goes into the background, answers, and SIGTERM ends it."""
        installed = self.wheel()
        data = self.folder / "data"
        env = environment(
            PYTHONPATH=str(installed),
            CHORUS_DATA_DIR=str(data),
            CHORUS_P2P_PORT="0",
            CHORUS_API_PORT="0",
            CHORUS_HEALTH_PORT="0",
            CHORUS_MDNS_ENABLED="false",
        )
        where = subprocess.run(
            [sys.executable, "-c", "import chorus; print(chorus.__file__)"],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        self.assertIn(str(installed), where)
        done = twistd("--pidfile=agent.pid", "--logfile=agent.log", "chorus", "agent", cwd=self.folder, env=env)
        self.assertEqual(done.returncode, 0, done.stderr)
        pidfile = self.folder / "agent.pid"
        deadline = time.monotonic() + 30
        while not (data / "ports.json").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        log = (self.folder / "agent.log").read_text()
        self.assertTrue((data / "ports.json").exists(), log)
        pid = int(pidfile.read_text())
        self.addCleanup(self.end, pid)
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 40
        while pidfile.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertFalse(pidfile.exists(), (self.folder / "agent.log").read_text())

    @staticmethod
    def end(pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
