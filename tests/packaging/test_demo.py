"""`scripts/demo`: what it says to wrong words and of a whole run, and that an interrupt leaves nothing behind."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.packaging.test_foreign_folder import plant
from tests.sandbox.support import no_bubblewrap
from tests.support import ProcessTestCase, PureTestCase

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "demo.py"
BEGUN = "the command has begun"


def load() -> Any:
    spec = importlib.util.spec_from_file_location("chorus_demo", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class WordsTest(PureTestCase):
    def setUp(self) -> None:
        self.demo = load()

    def refused(self, *words: str) -> str:
        error = self.assertRaises(self.demo.WrongUse, self.demo.arguments, list(words))
        self.assertEqual(error.status, 2)
        return str(error)

    def test_a_directory_and_a_command(self) -> None:
        self.assertEqual(self.demo.arguments(["/", "--", "a", "b"]), (Path("/"), ["a", "b"]))
        self.assertEqual(self.demo.arguments(["/", "--", "a b"]), (Path("/"), ["/bin/sh", "-c", "a b"]))
        self.assertEqual(self.demo.arguments([])[0], self.demo.EXAMPLE)

    def test_a_forgotten_separator_is_shown_in_its_place(self) -> None:
        self.assertIn("scripts/demo / -- python3 't est.py'", self.refused("/", "python3", "t est.py"))
        self.assertIn("directory is missing", self.refused("--", "true"))
        self.assertIn("usage", self.refused("/"))
        self.assertIn("usage", self.refused("/", "--"))
        self.assertIn("usage", self.refused("/", "x", "--", "true"))

    def test_an_empty_word_is_no_directory(self) -> None:
        self.assertIn("the directory is empty", self.refused("", "--", "ls"))
        done = subprocess.run(
            [sys.executable, str(SCRIPT), "", "--", "ls"], capture_output=True, text=True, timeout=60, check=False
        )
        self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (2, "", 1), done.stderr)

    def test_no_such_directory_is_named_in_full(self) -> None:
        self.assertIn(f"{Path.cwd()}/nope is not a directory", self.refused("./nope", "--", "true"))

    def test_a_missing_engine_is_said_before_anything_starts(self) -> None:
        self.patch(os, "environ", {"CHORUS_SANDBOX": "docker", "DOCKER_HOST": "unix:///nonexistent.sock"})
        error = self.assertRaises(self.demo.Failed, self.demo.check_engine)
        self.assertIn("no container engine at unix:///nonexistent.sock", str(error))
        self.patch(os, "environ", {"DOCKER_HOST": "unix:///nonexistent.sock"})
        self.demo.check_engine()


class SignalsTest(PureTestCase):
    def setUp(self) -> None:
        self.demo = load()
        self.signals = self.demo.Signals()

    def test_a_signal_waits_until_the_process_is_known(self) -> None:
        known = []

        def start() -> None:
            with self.signals.held():
                self.signals.arrived(signal.SIGINT)
                known.append("process")

        error = self.assertRaises(self.demo.Interrupted, start)
        self.assertEqual((error.number, known), (signal.SIGINT, ["process"]))

    def test_while_stopping_a_signal_only_kills(self) -> None:
        self.signals.end()
        killed = []

        class Node:
            def kill(self) -> None:
                killed.append(self)

        self.signals.nodes.append(Node())
        self.signals.arrived(signal.SIGTERM)
        self.assertEqual(killed, self.signals.nodes)


class WholeTest(ProcessTestCase):
    skip = no_bubblewrap()

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="chorus-demo-test-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        (self.folder / "work").mkdir()
        (self.folder / "work" / "file").write_text("input")
        (self.folder / "tmp").mkdir()
        self.mark = plant(self.folder / "foreign")

    def started(self, command: str) -> subprocess.Popen[str]:
        env = {k: v for k, v in os.environ.items() if not k.startswith("CHORUS_")}
        process = subprocess.Popen(
            [sys.executable, "-I", str(SCRIPT), str(self.folder / "work"), "--", command],
            cwd=self.folder / "foreign",
            env=env
            | {
                "CHORUS_SANDBOX": "bubblewrap",
                "TMPDIR": str(self.folder / "tmp"),
                "PYTHONPATH": f".:{self.folder}/foreign",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.addCleanup(process.kill)
        assert process.stdout is not None
        self.addCleanup(process.stdout.close)
        return process

    def running(self) -> subprocess.Popen[str]:
        """A demonstration whose command runs for minutes."""
        process = self.started(f"echo {BEGUN}; sleep 300")
        assert process.stdout is not None
        self.head = ""
        for line in process.stdout:
            self.head += line
            if line.strip() == BEGUN:
                return process
        self.fail(f"the command never began: {self.head}")

    def left(self) -> list[str]:
        """Processes and mounts of the demonstration, and its folders."""
        found = [str(path) for path in (self.folder / "tmp").iterdir()]
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if str(self.folder).encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text())
            except OSError:
                continue
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        return found + [line for line in mounts if str(self.folder) in line]

    def test_what_it_says_of_itself_is_true_when_it_is_over(self) -> None:
        process = self.started("echo x > /workspace/output/x")
        said, _ = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 0, said)
        self.assertNotIn("chorus: the node listens", said, "node-2 and node-3 join with that token")
        self.assertNotIn("chorus task fetch", said, "the node is gone")
        (fetched,) = [line for line in said.splitlines() if line.startswith("demo: fetched")]
        self.assertEqual((Path(fetched.split()[-1]) / "x").read_text(), "x\n")
        self.assertFalse(self.mark.exists(), "code of the folder in which it was started has run")

    def test_an_interrupt_cancels_and_stops_quickly(self) -> None:
        process = self.running()
        # To the whole group, as a terminal does.
        os.killpg(process.pid, signal.SIGINT)
        tail, _ = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 130, self.head + tail)
        self.assertIn("demo: stopping", tail)
        self.assertIn("stopped 3 agents", tail)
        self.assertNotIn("was killed", tail)
        self.assertNotIn("Traceback", tail)
        self.assertEqual(self.left(), [])

    def test_a_second_interrupt_kills_and_still_cleans_up(self) -> None:
        process = self.running()
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        while "stopping" not in (line := process.stdout.readline()):
            self.assertTrue(line, "it ended without a word")
        process.send_signal(signal.SIGINT)
        tail, _ = process.communicate(timeout=120)
        self.assertEqual(process.returncode, 143, tail)
        self.assertIn("stopped 3 agents", tail)
        self.assertNotIn("Traceback", tail)
        self.assertEqual(self.left(), [])
