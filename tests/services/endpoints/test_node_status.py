from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from chorus.services.endpoints.node_status import members
from chorus.services.presence import Load
from tests.support import PureTestCase


class NodeStatusTests(PureTestCase):
    def status(self, parts: dict[str, Any]) -> dict[str, Any]:
        found = members(parts, alone=lambda: "nobody is there", load=lambda: Load(1, 3))
        return {name: read() for name, read in found}

    def test_open_mode(self) -> None:
        self.assertEqual(
            self.status({"coordinator": SimpleNamespace()}),
            {
                "alone": "nobody is there",
                "tasks": {"running_here": 1, "maximum_here": 3},
                "sandbox": {"usable": False, "detail": "open mode runs no tasks"},
            },
        )

    def test_a_member(self) -> None:
        sandbox = SimpleNamespace(status=lambda: SimpleNamespace(to_json=lambda: {"usable": True}))
        parts = {"coordinator": SimpleNamespace(active=7), "executor": SimpleNamespace(), "sandbox": sandbox}
        found = self.status(parts)
        self.assertEqual(found["tasks"], {"running_here": 1, "maximum_here": 3, "unfinished": 7})
        self.assertEqual(found["sandbox"], {"usable": True})
        self.assertNotIn("clocks", found)
        parts["messaging"] = SimpleNamespace(wrong_clocks=lambda: "A 2 h ahead")
        self.assertEqual(self.status(parts)["clocks"], "A 2 h ahead")
