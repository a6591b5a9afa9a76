"""One run of the simulator in a process of its own, under a given hash seed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
HASH_SEEDS: Final = ("1", "2")


def trace_of(module: str, arguments: str, hash_seed: str) -> str:
    """The trace that `python -m MODULE ARGUMENTS` prints. Raises `CalledProcessError`."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments.split()],
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed},
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
        check=True,
    )
    return done.stdout.rpartition("trace ")[2].split()[0]
