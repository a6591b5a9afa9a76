"""Large blobs between real processes: 128 MiB is uploaded, sealed, pushed, fetched and unsealed in 64 MiB (1 GiB: the
command alone)."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path

from tests.integration.agents import until
from tests.integration.forks import ROOT
from tests.support import ProcessTestCase

MIB = 1 << 20
COMMAND = ROOT / "benchmarks/blob_memory.py"
LIMIT = 64 * MIB
"""Above what a node has before, its child process included."""


class BlobMemoryTest(ProcessTestCase):
    timeout = 600

    def test_constant_memory_both_ways(self) -> None:
        argv = [sys.executable, str(COMMAND), "--mib", "128"]
        done = subprocess.run(argv, capture_output=True, timeout=self.timeout, check=False, cwd=ROOT)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        figures = json.loads(done.stdout)
        for node in ("author", "holder", "reader"):
            extra = figures[node]["extra"] + figures[node]["child"]
            print(f"{node}: {extra / MIB:.1f} MiB")
            self.assertLess(extra, LIMIT, node)
        for node in ("author", "reader"):
            self.assertGreater(figures[node]["child"], 0, "the child was looked at")


class PowerCutTest(ProcessTestCase):
    """A holder is killed in the middle of a push, and goes on where it was."""

    timeout = 600

    def test_a_holder_is_killed_in_the_middle(self) -> None:
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        node = SourceFileLoader("blob_memory", str(COMMAND)).load_module().NodeProcess
        author, holder = node(folder / "author"), node(folder / "holder")
        self.addCleanup(author.end)
        author("dial", address=holder.address)
        made = author("make", size=64 * MIB)
        author.ask("push", stored=made["stored"])
        until("half of the push", lambda: self.arrived(folder / "holder") > 8 * MIB, every=0.001)
        holder.kill()
        self.assertFalse(author.answer()["safe"])
        again = node(folder / "holder")
        self.addCleanup(again.end)
        author("dial", address=again.address)
        self.assertTrue(author("push", stored=made["stored"])["safe"])
        self.assertGreater(again("figures")["resumed"], 4 * MIB)

    @staticmethod
    def arrived(holder: Path) -> int:
        """Bytes on the disk of what the holder fetches now."""
        found = (holder / "blobs/partial").glob("*")
        return sum(path.stat().st_blocks * 512 for path in found if path.suffix != ".json")
