"""Two nodes that know no address of each other meet by mDNS alone, over the loopback interface."""

from __future__ import annotations

import attrs

from chorus.services.cluster import load_token
from tests.integration.nodes import NodeCase, threaded
from tests.services.discovery.test_mdns import usable

MDNS = {"CHORUS_MDNS_ENABLED": "true"}


class MdnsTest(NodeCase):
    if not usable():
        skip = "no multicast on the loopback interface of this machine"

    @threaded
    def test_two_members_meet_without_an_address(self) -> None:
        founder = self.node("founder", **MDNS).start()
        token = load_token(founder.data)
        # What a token of a machine that has moved is worth: the cluster and its secret.
        lost = attrs.evolve(token, addresses=()).text()
        member = self.node("member", CHORUS_JOIN=lost, **MDNS).start()
        deaf = self.node("deaf", CHORUS_JOIN=lost).start()
        stranger = self.node("stranger", **MDNS).start()
        self.together(founder, member)
        # Without mDNS that token leads nowhere, and another cluster is not even tried.
        self.assertEqual(deaf.members() | stranger.members(), set())
        outcomes = {labels for name, labels in founder.metrics() if name == "chorus_admissions_total"}
        self.assertEqual(outcomes, {("admitted",)})
