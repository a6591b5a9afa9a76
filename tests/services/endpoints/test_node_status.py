from __future__ import annotations

from chorus.services.endpoints.node_status import status_document
from chorus.services.presence import Load
from tests.services.endpoints.node_kit import node_parts, stand_in, task_parts
from tests.support import PureTestCase


class NodeStatusTests(PureTestCase):
    def test_open_mode(self) -> None:
        found = status_document(node_parts(load=Load(1, 3), alone=lambda: "nobody is there"), 12.3456)
        self.assertEqual((found["alone"], found["uptime_s"], found["cluster_id"]), ("nobody is there", 12.346, None))
        self.assertEqual(found["tasks"], {"running_here": 1, "maximum_here": 3})
        self.assertEqual(found["sandbox"], {"usable": False, "detail": "open mode runs no tasks"})

    def test_a_member(self) -> None:
        sandbox = stand_in(status=lambda: stand_in(to_json=lambda: {"usable": True}))
        tasks = task_parts(coordinator=stand_in(active=7), sandbox=sandbox)
        cluster, messaging = stand_in(cluster_id=b"\1" * 32), stand_in(wrong_clocks=lambda: "A 2 h ahead")
        found = status_document(node_parts(tasks, load=Load(1, 3), cluster=cluster, messaging=messaging), 0.0)
        self.assertEqual(found["tasks"], {"running_here": 1, "maximum_here": 3, "unfinished": 7})
        self.assertEqual((found["sandbox"], found["cluster_id"]), ({"usable": True}, "01" * 32))
        self.assertEqual(found["clocks"], "A 2 h ahead")
