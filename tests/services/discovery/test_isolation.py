from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.logger import capturedLogs

from chorus.services.discovery.isolation import NOBODY_TO_JOIN, Isolation
from tests.support import PureTestCase

SAID = "no member of the cluster is connected"


def isolation(
    *,
    founded: bool = False,
    known: bool = True,
    contacts: tuple[str, ...] = (),
    alone: str | None = SAID,
    **told: bool,
) -> Isolation:
    cluster: Any = SimpleNamespace(founded_here=founded, cluster_id=b"c" * 32 if known else None, contacts=contacts)
    discovery: Any = SimpleNamespace(alone=alone)
    return Isolation(cluster, discovery, **{"bootstrap": False, "join": False, **told})


class IsolationTests(PureTestCase):
    def test_why_a_node_is_alone(self) -> None:
        for found, reason in [
            (isolation(), SAID),
            (isolation(alone=None), None),
            # Who founded a cluster waits for others, unless it was told of some.
            (isolation(founded=True), None),
            (isolation(founded=True, bootstrap=True), SAID),
            (isolation(founded=True, join=True), SAID),
            (isolation(known=False), NOBODY_TO_JOIN),
            (isolation(known=False, alone=None), None),
            (isolation(known=False, bootstrap=True), SAID),
            (isolation(known=False, contacts=("somebody",)), SAID),
        ]:
            self.assertEqual(found.reason(), reason)

    def test_nobody_is_missed_in_open_mode(self) -> None:
        discovery: Any = SimpleNamespace(alone=SAID)
        found = Isolation(None, discovery, bootstrap=True, join=False)
        self.assertIsNone(found.reason())
        self.assertFalse(found.nobody_to_join)

    def test_a_warning_only_where_nothing_else_will_help(self) -> None:
        with capturedLogs() as said:
            isolation().warn()
            isolation(known=False, contacts=("somebody",)).warn()
            isolation(known=False).warn()
        self.assertEqual([event["event"] for event in said], ["cluster.nobody_to_join"])
