"""A whole node on a disk that fills up: no raw traceback, no lost task, no lost output."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess

from twisted.trial.unittest import SkipTest

from chorus.sandbox.files import volumes
from tests.integration.agents import until
from tests.integration.nodes import Node, NodeCase, threaded

LINE = 10_001
LINES = 30


class FullDiskTests(NodeCase):
    def setUp(self) -> None:
        super().setUp()
        if shutil.which("bwrap") is None or os.geteuid() != 0:
            raise SkipTest("needs bubblewrap, and root to mount a small tmpfs")
        self.disk = self.folder / "disk"
        self.disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", "size=40m,mode=755", "none", str(self.disk)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            raise SkipTest("a tmpfs cannot be mounted here")
        self.addCleanup(volumes.remove_tree, self.disk)
        self.addCleanup(self._end)

    def small(self) -> Node:
        limits = {"CHORUS_TASK_DISK_MB": "4", "CHORUS_TASK_MEMORY_MB": "64"}
        node = self.node("small", CHORUS_MDNS_ENABLED="false", CHORUS_SANDBOX="bubblewrap", **limits)
        node.data = self.disk / "data"
        node.settings["CHORUS_DATA_DIR"] = str(node.data)
        return node

    def fill(self) -> None:
        with (self.disk / "filler").open("ab", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * size)

    @threaded
    def test_a_start(self) -> None:
        self.fill()
        self.assertIn("No space left on device", self.refusal(self.disk / "data"))
        (self.disk / "filler").unlink()
        node = self.small().start()
        self.assertEqual(node.ended(node.submit(commands=["true"]))["state"], "completed")
        node.stop()
        self.fill()
        self.assertIn("the store is full", self.refusal(self.disk / "data"))

    @threaded
    def test_under_a_task(self) -> None:
        node = self.small().start()
        loud = f"for i in $(seq {LINES}); do head -c {LINE - 1} /dev/zero | tr '\\0' x; echo; sleep 0.1; done"
        task = node.submit(commands=[f"{loud}; echo made > /workspace/output/it"], artifacts=["it"], retries=1)
        until("some output", lambda: node.task(task)["output"]["stdout"]["bytes"] > 2 * LINE)
        self.fill()

        def failing() -> list[str]:
            return [check["name"] for check in node.probe("/health")[1]["checks"] if not check["ok"]]

        until("a failing check", lambda: failing() == ["disk"])
        self.assertEqual(node.probe("/ready")[0], 503)
        # The task is stopped here, and kept until it can run again.
        until(
            "the stop", lambda: "could not be kept" in node.log.read_text() or "cannot be kept" in node.log.read_text()
        )
        (self.disk / "filler").unlink()
        document = node.ended(task)
        self.assertEqual((document["state"], document["exit_code"]), ("completed", 0), document)
        self.assertEqual(document["output"]["stdout"]["bytes"], LINE * LINES)
        self.assertEqual([row["path"] for row in document["artifacts"]], ["it"])
        self.assertEqual(failing(), [])
        self.assertNotIn("Traceback", node.log.read_text())
        node.stop()
