"""`scripts/run_tests.py`: how it counts, and which failed test has a second run."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections import Counter
from pathlib import Path
from typing import Any

from twisted.trial.unittest import TestCase

from tests.support import ProcessTestCase, PureTestCase

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "run_tests.py"
RULE = "=" * 79
END = "-" * 79


def load() -> Any:
    spec = importlib.util.spec_from_file_location("chorus_run_tests", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def section(flavour: str, reason: str, *names: str) -> str:
    return "\n".join([RULE, flavour, reason, "", *names, ""])


def lines(*sections: str) -> list[str]:
    return f"Running 3 tests.\n\n{''.join(sections)}{END}\nRan 3 tests in 0.1s\n".splitlines(keepends=True)


class ReportTests(PureTestCase):
    def setUp(self) -> None:
        self.run_tests = load()

    def test_the_figures_of_the_last_line(self) -> None:
        counts = self.run_tests.counts
        self.assertEqual(counts("PASSED (successes=3)\n"), {"successes": 3})
        self.assertEqual(
            counts("FAILED (skips=1, errors=2, successes=40)\n"), {"skips": 1, "errors": 2, "successes": 40}
        )
        self.assertEqual(counts("PASSED\n"), {})
        self.assertEqual(counts("it PASSED (successes=3)\n"), {})

    def test_a_job_more_than_cores_and_not_too_many(self) -> None:
        self.assertEqual([self.run_tests.jobs(cores) for cores in (1, 2, 4, 64)], [3, 4, 6, 8])

    def test_the_failed_tests_are_named(self) -> None:
        report = lines(
            section("[SKIPPED]", "why", "tests.a.A.test_skipped"),
            section("[FAIL]", "Traceback\ntwisted.trial.unittest.FailTest: 1 != 2", "tests.a.A.test_1"),
            section("[ERROR]", "Traceback\nbuiltins.OSError: x", "tests.a.B.test_1", "tests.a.B.test_2"),
            section("[ERROR]", "Traceback\nDirtyReactorAggregateError: y", "tests.a.B.test_2"),
        )
        self.assertEqual(
            self.run_tests.failed_tests(report),
            Counter({"tests.a.A.test_1": 1, "tests.a.B.test_1": 1, "tests.a.B.test_2": 2}),
        )

    def test_a_worker_that_dies_is_no_failed_test(self) -> None:
        died = (
            'File "/x/twisted/trial/_dist/disttrial.py", line 362, in task\ntwisted.internet.error.ProcessTerminated: '
        )
        report = lines(
            section("[FAIL]", "FailTest: 1 != 2", "tests.a.A.test_1"), section("[ERROR]", died, "tests.a.B.test_1")
        )
        self.assertEqual(self.run_tests.failed_tests(report), Counter())

    def test_a_message_that_looks_like_a_report_names_nothing_that_trial_did_not_count(self) -> None:
        forged = section("[FAIL]", "FailTest: x", "tests.a.A.test_other").rstrip("\n")
        report = lines(section("[FAIL]", f"FailTest: it said\n{forged}", "tests.a.A.test_1"))
        found = self.run_tests.failed_tests(report)
        again = self.run_tests.flaky_tests(Counter(["a", "b"]), 1, lambda name: True, eligible=lambda name: True)
        self.assertEqual((found["tests.a.A.test_1"], again), (1, []))


class NoLogic(TestCase):
    """Looked up by name below."""

    def test_of_processes(self) -> None:
        self.assertNotIsInstance(self, PureTestCase)


class SecondRunTests(PureTestCase):
    def setUp(self) -> None:
        self.run_tests = load()

    def test_only_tests_that_are_no_logic_are_eligible(self) -> None:
        eligible = self.run_tests.may_run_again
        self.assertTrue(eligible(f"{NoLogic.__module__}.NoLogic.test_of_processes"))
        self.assertFalse(eligible(self.id()))
        for name in (
            f"{NoLogic.__module__}.NoSuchCase.test_x",
            NoLogic.__module__,
            "tests.no_such_module.A.test_x",
            "<runTests>",
            "",
        ):
            self.assertFalse(eligible(name), name)

    def test_what_passes_alone_is_flaky_and_what_may_not_is_not_tried(self) -> None:
        tried: list[str] = []

        def again(name: str) -> bool:
            tried.append(name)
            return name == "socket"

        flaky = self.run_tests.flaky_tests(
            Counter({"logic": 1, "socket": 2, "broken": 1}), 4, again, eligible=lambda name: name != "logic"
        )
        self.assertEqual((flaky, tried), (["socket"], ["socket", "broken"]))


class WholeTests(ProcessTestCase):
    """A suite of its own, run by the script."""

    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="chorus-run-tests-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def ran(self, **modules: str) -> tuple[int, list[str]]:
        """Exit status and output of a run of these modules."""
        for name, text in modules.items():
            (self.folder / f"{name}.py").write_text(textwrap.dedent(text))
        done = subprocess.run(
            [sys.executable, str(SCRIPT), *modules],
            env={**os.environ, "PYTHONPATH": str(self.folder), "CHORUS_TEST_REQUIRE_ALL": ""},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        return done.returncode, done.stdout.splitlines()

    ONCE = """
        from pathlib import Path
        from twisted.trial.unittest import TestCase
        from tests.support import PureTestCase

        def second_time(name):
            mark = Path(__file__).with_name(name)
            if mark.exists():
                return True
            mark.touch()
            return False

        class Sockets(TestCase):
            def test_well(self): pass
            def test_once(self): self.assertTrue(second_time("sockets"))
    """

    def test_a_test_that_passes_alone_fails_nothing(self) -> None:
        status, output = self.ran(flaky_once=self.ONCE)
        self.assertEqual((status, output[-2:]), (0, ["flaky: flaky_once.Sockets.test_once", "2 passed, 0 failed"]))

    def test_everything_else_stays_failed(self) -> None:
        logic = """
        class Logic(PureTestCase):
            def test_once(self): self.assertTrue(second_time("logic"))

        class Broken(TestCase):
            def test_always(self): self.fail("always")
        """
        status, output = self.ran(mixed=self.ONCE + logic, imports_nothing="import no_such_module_at_all")
        self.assertEqual((status, output[-2:]), (1, ["flaky: mixed.Sockets.test_once", "2 passed, 3 failed"]))
        self.assertEqual(
            sorted(line for line in output if line.startswith("once more, alone: ")),
            ["once more, alone: mixed.Broken.test_always", "once more, alone: mixed.Sockets.test_once"],
        )

    def test_a_worker_that_dies_is_a_failure(self) -> None:
        dies = """
        import os
        class Dies(TestCase):
            def test_dies(self):
                if not second_time("died"):
                    os._exit(3)
        """
        status, output = self.ran(dying=self.ONCE + dies)
        self.assertEqual(status, 1)
        self.assertFalse([line for line in output if line.startswith("flaky: ")], output)
        self.assertNotEqual(output[-1].split()[2], "0")
