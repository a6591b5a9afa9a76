from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from chorus.services.endpoints.node_checks import register
from chorus.services.endpoints.node_view import Check
from chorus.services.presence import Load
from tests.support import PureTestCase


class NodeChecksTests(PureTestCase):
    def setUp(self) -> None:
        on: Any = SimpleNamespace(running=True)
        store: Any = SimpleNamespace(running=True, database=SimpleNamespace(damage=None))
        self.state = "running"
        self.parts: dict[str, Any] = {"p2p": on, "pubsub": on, "api": on, "store": store, "coordinator": on}

    def tasks(self) -> None:
        self.parts.update(
            executor=SimpleNamespace(),
            sandbox=SimpleNamespace(usable=False, status=lambda: SimpleNamespace(detail="no engine")),
            headroom=SimpleNamespace(disk=lambda: None),
        )

    def checks(self, *, current: int = 0, maximum: int = 1) -> dict[str, Check]:
        found: list[Check] = []
        view: Any = SimpleNamespace(add_check=found.append)
        register(
            view,
            self.parts,
            state=lambda: self.state,
            alone=lambda: None,
            load=lambda: Load(current, maximum),
            max_tasks=maximum,
        )
        return {each.name: each for each in found}

    def test_open_mode_looks_at_no_tasks(self) -> None:
        found = self.checks()
        self.assertEqual(list(found), ["node", "p2p", "pubsub", "api", "store", "peers"])
        self.assertTrue(all(each.critical for each in found.values()))
        self.assertEqual([each.look() for each in found.values()], [None] * 6)

    def test_what_is_wrong_is_said(self) -> None:
        found = self.checks()
        self.state = "stopping"
        self.parts["p2p"] = SimpleNamespace(running=False)
        self.parts["store"].database.damage = "it is damaged"
        self.assertEqual(found["node"].look(), "stopping")
        self.assertEqual(found["p2p"].look(), "p2p is not running")
        self.assertEqual(found["store"].look(), "it is damaged")
        self.parts["store"].running = False
        self.assertEqual(found["store"].look(), "store is not running")

    def test_a_wrong_clock_is_said_and_nothing_more(self) -> None:
        self.parts["messaging"] = SimpleNamespace(wrong_clocks=lambda: "A 2 h ahead")
        clocks = self.checks()["clocks"]
        self.assertEqual((clocks.look(), clocks.critical, clocks.for_ready), ("A 2 h ahead", False, False))

    def test_tasks_make_a_node_take_no_more_but_not_unhealthy(self) -> None:
        self.tasks()
        found = self.checks(current=1)
        self.assertEqual(list(found)[6:], ["coordinator", "sandbox", "capacity", "descriptors", "disk"])
        self.assertEqual([name for name in list(found)[6:] if found[name].critical], ["coordinator"])
        self.assertEqual(found["sandbox"].look(), "no engine")
        self.assertEqual(found["capacity"].look(), "1 of 1 tasks")

    def test_a_node_that_executes_nothing_needs_no_sandbox(self) -> None:
        self.tasks()
        self.assertEqual(list(self.checks(maximum=0))[6:], ["coordinator", "disk"])
