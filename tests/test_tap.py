from __future__ import annotations

import contextlib
import io
import os

from chorus.tap import Options
from tests.support import PureTestCase


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
