"""A blob of 128 MiB is uploaded, sealed, pushed, fetched and unsealed in 64 MiB (1 GiB: only the command)."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.integration.forks import ROOT
from tests.support import ProcessTestCase

MIB = 1 << 20
LIMIT = 64 * MIB
"""Above what a node has before, its child process included."""


class BlobMemoryTest(ProcessTestCase):
    timeout = 600

    def test_constant_memory_both_ways(self) -> None:
        argv = [sys.executable, str(ROOT / "benchmarks/blob_memory.py"), "--mib", "128"]
        done = subprocess.run(argv, capture_output=True, timeout=self.timeout, check=False, cwd=ROOT)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        figures = json.loads(done.stdout)
        for node in ("author", "holder", "reader"):
            extra = figures[node]["extra"] + figures[node]["child"]
            print(f"{node}: {extra / MIB:.1f} MiB")
            self.assertLess(extra, LIMIT, node)
        for node in ("author", "reader"):
            self.assertGreater(figures[node]["child"], 0, "the child was looked at")
