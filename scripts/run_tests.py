"""Runs trial, shows its report, and closes with a line `N passed, N failed` (a skip counts as failed where
CHORUS_TEST_REQUIRE_ALL=1 forbids it)."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile

SUMMARY = re.compile(r"^(PASSED|FAILED)(?: \((.*)\))?\s*$")


def counts(line: str) -> dict[str, int]:
    """The figures of trial's last line: successes, failures, errors, skips, …"""
    match = SUMMARY.match(line)
    if match is None:
        return {}
    return {key: int(value) for key, value in (part.split("=") for part in (match[2] or "").split(", ") if part)}


def main(names: list[str]) -> int:
    scratch = tempfile.mkdtemp(prefix="chorus-trial-")
    command = [sys.executable, "-m", "twisted.trial", "-j2", "--reactor=asyncio"]
    found: dict[str, int] = {}
    try:
        with subprocess.Popen(
            [*command, f"--temp-directory={scratch}/t", *names], stdout=subprocess.PIPE, text=True
        ) as trial:
            assert trial.stdout is not None
            for line in trial.stdout:
                print(line, end="", flush=True)
                found = counts(line) or found
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    passed = found.get("successes", 0)
    failed = found.get("failures", 0) + found.get("errors", 0) + found.get("unexpectedSuccesses", 0)
    skipped = found.get("skips", 0)
    if skipped and os.environ.get("CHORUS_TEST_REQUIRE_ALL") == "1":
        print(f"{skipped} tests were skipped (listed above), which CHORUS_TEST_REQUIRE_ALL=1 forbids")
        failed += skipped
    elif skipped:
        print(
            f"{skipped} tests cannot run on this machine; they are listed above under [SKIPPED], each with its reason"
        )
    if trial.returncode != 0 and failed == 0:
        print(f"trial ended with status {trial.returncode} without a summary")
        failed = 1
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
