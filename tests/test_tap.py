from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path

from chorus.tap import Options
from tests.support import ProcessTestCase, PureTestCase

ROOT = Path(__file__).parents[1]
TWISTD = "from twisted.scripts.twistd import run; run()"


class Configuration(PureTestCase):
    def test_a_variable_that_means_nothing_is_named(self) -> None:
        self.patch(os, "environ", {"CHORUS_API_PRT": "1", "CHORUS_API_PORT": "2"})
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), self.assertRaises(SystemExit) as left:
            Options().parseOptions(["config"])
        self.assertEqual(left.exception.code, 0)
        self.assertEqual(
            err.getvalue(), "chorus: CHORUS_API_PRT is no variable of CHORUS; did you mean CHORUS_API_PORT?\n"
        )
        self.assertIn("CHORUS_API_PORT=2", out.getvalue())
        self.assertNotIn("CHORUS_API_PRT", out.getvalue())


class Descriptors(ProcessTestCase):
    def test_too_few_are_said_in_one_line_and_end_the_start(self) -> None:
        limit = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16)); "
        folder = Path(self.mktemp()).absolute()
        done = subprocess.run(
            [sys.executable, "-c", limit + TWISTD, "--nodaemon", "--pidfile=", "chorus", "agent"],
            env={**os.environ, "PYTHONPATH": str(ROOT), "CHORUS_DATA_DIR": str(folder)},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        self.assertNotEqual(done.returncode, 0)
        self.assertEqual(len(done.stderr.splitlines()), 1, done.stderr)
        self.assertIn("chorus: this process may open 16 files and a node needs 80", done.stderr)
        self.assertFalse(folder.exists())
