from __future__ import annotations

from typing import Any

from chorus.services.endpoints.node_checks import HealthCheck, HealthChecks, node_checks
from chorus.services.presence import Load
from tests.services.endpoints.node_kit import node_parts, stand_in, task_parts
from tests.support import PureTestCase


class NodeChecksTests(PureTestCase):
    def checks(self, *args: Any, **parts: Any) -> dict[str, HealthCheck]:
        return {each.name: each for each in node_checks(node_parts(*args, **parts), stand_in(running=True))}

    def test_open_mode_looks_at_no_tasks(self) -> None:
        found = self.checks()
        self.assertEqual(list(found), ["node", "p2p", "pubsub", "api", "store", "peers", "clocks", "dht"])
        self.assertEqual([name for name in found if not found[name].critical], ["clocks", "dht"])
        self.assertEqual([each.look() for each in found.values()], [None] * 8)

    def test_what_is_wrong_is_said(self) -> None:
        p2p, store = stand_in(running=True), stand_in(running=True, database=stand_in(damage=None))
        found = self.checks(p2p=p2p, store=store, state=lambda: "stopping", alone=lambda: "nobody is there")
        self.assertEqual(found["node"].look(), "stopping")
        self.assertEqual(found["peers"].look(), "nobody is there")
        self.assertEqual((found["p2p"].look(), found["store"].look()), (None, None))
        p2p.running, store.database.damage = False, "it is damaged"
        self.assertEqual(found["p2p"].look(), "p2p is not running")
        self.assertEqual(found["store"].look(), "it is damaged")
        store.running = False
        self.assertEqual(found["store"].look(), "store is not running")

    def test_a_wrong_clock_is_said_and_nothing_more(self) -> None:
        clocks = self.checks(messaging=stand_in(wrong_clocks=lambda: "A 2 h ahead"))["clocks"]
        self.assertEqual((clocks.look(), clocks.critical, clocks.for_ready), ("A 2 h ahead", False, False))

    def test_tasks_make_a_node_take_no_more_but_not_unhealthy(self) -> None:
        found = self.checks(task_parts(), load=Load(1, 1))
        self.assertEqual(list(found)[8:], ["coordinator", "sandbox", "capacity", "descriptors", "disk"])
        self.assertEqual([name for name in list(found)[8:] if found[name].critical], ["coordinator"])
        self.assertEqual(found["sandbox"].look(), "no engine")
        self.assertEqual(found["capacity"].look(), "1 of 1 tasks")

    def test_a_node_that_executes_nothing_needs_no_sandbox(self) -> None:
        self.assertEqual(list(self.checks(task_parts(), load=Load(0, 0)))[8:], ["coordinator", "disk"])

    def test_the_table_says_how_it_is(self) -> None:
        self.assertEqual(self.checks()["dht"].document()["detail"], "alone")
        dht = stand_in(trouble=lambda: "no server answers: 4 known", condition=lambda: "")
        document = self.checks(dht=dht)["dht"].document()
        self.assertEqual((document["ok"], document["detail"]), (False, "no server answers: 4 known"))

    def test_a_check_that_fails_is_trouble(self) -> None:
        def look() -> str | None:
            raise KeyError("x")

        (document,) = HealthChecks([HealthCheck("disk", look, for_ready=True)]).checks()
        detail = "the check failed: KeyError"
        self.assertEqual(document, {"name": "disk", "ok": False, "critical": False, "ready": True, "detail": detail})
