"""A whole node whose database is taken away while it runs."""

from __future__ import annotations

import json

from tests.integration.agents import until
from tests.integration.nodes import NodeCase, threaded


class LostStoreTest(NodeCase):
    @threaded
    def test_nothing_is_accepted_any_more_and_the_next_start_says_why(self) -> None:
        node = self.node("lonely").start()
        body = json.dumps({"commands": ["true"]}).encode()
        (node.data / "chorus.db").rename(node.data / "elsewhere")
        until("being not ready", lambda: node.probe("/ready")[0] == 503, 30)
        self.assertIn("store", node.probe("/ready")[1]["failing"])
        status, _, problem = node.answer("POST", "/v1/tasks", body, **{"Content-Type": "application/json"})
        self.assertIn(status, (503, 507), problem)
        self.assertIn("was removed while the node ran", node.tail())
        node.kill()
        node.launch()
        self.assertEqual(self.ends(node), 1)
        self.assertIn("chorus.db is missing or empty", node.tail())
        # What was put back is what was acknowledged.
        (node.data / "elsewhere").rename(node.data / "chorus.db")
        node.start()
        self.assertEqual(node.probe("/ready")[0], 200)
