"""One data directory, twice: the node and a copy of it, and a node whose data directory was restored."""

from __future__ import annotations

import json
import shutil

from tests.integration.agents import until
from tests.integration.nodes import NodeCase, threaded


class TwinTest(NodeCase):
    timeout = 480

    @threaded
    def test_a_copy_beside_its_original(self) -> None:
        founder = self.node("founder").start()
        member = self.joining(founder, "member").start()
        self.together(founder, member)
        identity, ports = member.peer_id, member.ports
        self.assertEqual(member.stop(), 0)
        backup = self.folder / "backup"
        shutil.copytree(member.data, backup)

        # The same ports again, so that what others know of it stays true.
        del member.settings["CHORUS_JOIN"]
        member.start()
        for name in ("p2p", "api", "health"):
            self.assertEqual(member.ports[name], ports[name], name)
        self.together(founder, member)

        twin = self.node("twin")
        shutil.copytree(backup, twin.data)
        twin.launch()
        twins = {member, twin}
        (ended,) = until(
            "the end of one of the two",
            lambda: [each for each in twins if each.process is not None and each.process.poll() is not None],
            120,
        )
        (stays,) = twins - {ended}
        self.assertEqual(ended.process.returncode, 78, ended.tail())
        self.assertIn(f"chorus: another node runs as {identity}, with a copy of this data directory", ended.tail())
        self.together(founder, stays)
        self.assertIsNone(stays.process.poll(), stays.tail())

        # A memory stops nobody: the restored node counts on above what the founder has heard.
        stays.stop()
        starts = json.loads((stays.data / "starts.json").read_text())["count"]
        restored = self.node("restored")
        shutil.copytree(backup, restored.data)
        restored.start()
        self.together(founder, restored)
        until(
            "counting on above the start before",
            lambda: json.loads((restored.data / "starts.json").read_text())["count"] > starts,
            60,
        )
        self.assertIsNone(restored.process.poll(), restored.tail())
