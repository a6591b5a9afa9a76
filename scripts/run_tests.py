"""Runs trial, shows its report, and closes with a line `N passed, N failed` (a skip counts as failed where
CHORUS_TEST_REQUIRE_ALL=1 forbids it).

A failed test that starts real processes or sockets is run once more, alone, when all others are over: what passes then
is printed as `flaky: NAME` and fails nothing. A test of logic (`tests.support.PureTestCase`) has no second run, nor has
what is no outcome of a test: an import that fails, a worker that dies.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_JOBS = 8
"""Each has nodes of its own besides itself."""
SUMMARY = re.compile(r"^(PASSED|FAILED)(?: \((.*)\))?\s*$")
RULE = re.compile(r"^(={79}|-{79})$")
BAD = ("failures", "errors", "unexpectedSuccesses")
FLAVOURS = ("[FAIL]", "[ERROR]", "[SUCCESS!?!]")
RUNNER = "twisted/trial/_dist/disttrial.py"
"""In the traceback of an error that is the runner's: a worker that died takes the tests with it that it was to run."""


def jobs(cores: int) -> int:
    """Two more than there are cores: some tests always wait for a process or a lease."""
    return min(cores + 2, MAX_JOBS)


def counts(line: str) -> dict[str, int]:
    """The figures of trial's last line: successes, failures, errors, skips, …"""
    match = SUMMARY.match(line)
    if match is None:
        return {}
    return {key: int(value) for key, value in (part.split("=") for part in (match[2] or "").split(", ") if part)}


def failed_tests(report: Iterable[str]) -> Counter[str]:
    """How often each test stands in the report as failed; empty where a worker died."""
    found: Counter[str] = Counter()
    for flavour, *lines in _sections(report):
        if flavour not in FLAVOURS:
            continue
        if any(RUNNER in line for line in lines):
            return Counter()
        found.update(_names(lines))
    return found


def _sections(report: Iterable[str]) -> Iterator[list[str]]:
    """The text between the rules of trial's report."""
    section: list[str] = []
    for line in report:
        if RULE.match(line.rstrip("\n")):
            yield section or [""]
            section = []
        else:
            section.append(line.rstrip("\n"))
    yield section or [""]


def _names(lines: list[str]) -> Iterator[str]:
    """The tests that trial names at the end of a section, one a line, after an empty one."""
    for line in reversed(lines):
        if not line:
            return
        yield line


def may_run_again(name: str) -> bool:
    """Whether the test is one that starts processes or sockets: its class exists and is no `PureTestCase`."""
    from tests.support import PureTestCase

    module, _, path = name.rpartition(".")[0].rpartition(".")
    try:
        case = getattr(importlib.import_module(module), path)
    except Exception:
        return False
    return isinstance(case, type) and not issubclass(case, PureTestCase)


def flaky_tests(
    failed: Counter[str], bad: int, again: Callable[[str], bool], *, eligible: Callable[[str], bool] = may_run_again
) -> list[str]:
    """The failed tests that pass when they are run again. `bad` is the number of failures of trial's last line: where
    the report names another one it was not understood, and all stay failed."""
    if failed.total() != bad:
        return []
    return [name for name in failed if eligible(name) and again(name)]


class Trial:
    """Runs trial in a folder of its own, and shows what it says."""

    def __init__(self, scratch: str) -> None:
        self._scratch = scratch
        self._runs = 0

    def run(self, *words: str) -> tuple[list[str], int]:
        """Its output, and its exit status."""
        self._runs += 1
        report: list[str] = []
        command = [sys.executable, "-m", "twisted.trial", "--reactor=asyncio"]
        with subprocess.Popen(
            [*command, f"--temp-directory={self._scratch}/{self._runs}", *words],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            errors="replace",
        ) as trial:
            assert trial.stdout is not None
            for line in trial.stdout:
                print(line, end="", flush=True)
                report.append(line)
        return report, trial.returncode

    def passes_alone(self, name: str) -> bool:
        print(f"\nonce more, alone: {name}", flush=True)
        report, status = self.run(name)
        return status == 0 and summary(report) == {"successes": 1}


def summary(report: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for line in report:
        found = counts(line) or found
    return found


def main(names: list[str]) -> int:
    scratch = tempfile.mkdtemp(prefix="chorus-trial-")
    try:
        trial = Trial(scratch)
        report, status = trial.run(f"-j{jobs(os.cpu_count() or 1)}", *names)
        found = summary(report)
        bad = sum(found.get(kind, 0) for kind in BAD)
        tests = failed_tests(report)
        flaky = flaky_tests(tests, bad, trial.passes_alone)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    passed = found.get("successes", 0) + len(flaky)
    failed = bad - sum(tests[name] for name in flaky)
    skipped = found.get("skips", 0)
    if skipped and os.environ.get("CHORUS_TEST_REQUIRE_ALL") == "1":
        print(f"{skipped} tests were skipped (listed above), which CHORUS_TEST_REQUIRE_ALL=1 forbids")
        failed += skipped
    elif skipped:
        print(
            f"{skipped} tests cannot run on this machine; they are listed above under [SKIPPED], each with its reason"
        )
    if status != 0 and bad == 0:
        print(f"trial ended with status {status} without a summary")
        failed += 1
    for name in flaky:
        print(f"flaky: {name}")
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main(sys.argv[1:]))
