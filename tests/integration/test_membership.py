"""Founding, joining, meeting, coming back: real nodes in processes of their own (spec/cluster.md)."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from tests.integration.agents import until
from tests.integration.nodes import NodeCase, environment, threaded


class MembershipTest(NodeCase):
    @threaded
    def test_three_nodes_meet_come_back_and_remember(self) -> None:
        founder = self.node("founder").start()
        self.assertEqual(founder.peers(), [], "a founder is complete alone")
        self.assertEqual(founder.probe("/ready")[0], 200)
        printed = subprocess.run(
            [sys.executable, "-m", "chorus.client.main", "token", "--json"],
            env=environment(CHORUS_DATA_DIR=str(founder.data)),
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        token = json.loads(printed.stdout)["token"]

        # The third knows the founder alone: it hears of the second by /chorus/peers/1.0.0.
        second = self.node("second", CHORUS_JOIN=token).launch()
        third = self.node("third", CHORUS_JOIN=token).launch()
        nodes = (founder, second.wait(), third.wait())
        self.together(*nodes)
        clusters = {node.status()["cluster_id"] for node in nodes}
        self.assertEqual(len(clusters), 1)
        self.assertNotIn(None, clusters)
        for node in nodes:
            self.assertEqual(node.probe("/ready"), (200, {"status": "ready", "failing": []}))

        # Killed and started again with nothing but its data directory: the same member.
        identity = second.peer_id
        for node in nodes:
            node.keep_port()
        del second.settings["CHORUS_JOIN"], third.settings["CHORUS_JOIN"]
        second.kill()
        until("the loss of the second", lambda: identity not in founder.members() | third.members())
        second.start()
        self.assertEqual(second.peer_id, identity)
        self.together(*nodes)

        # All of them at once: each remembers the others.
        for node in nodes:
            node.kill()
        for node in nodes:
            node.launch()
        for node in nodes:
            node.wait()
        self.together(*nodes)
        self.assertEqual({node.status()["cluster_id"] for node in nodes}, clusters)

    @threaded
    def test_secret_and_bootstrap_peers(self) -> None:
        """Without a token: the same configured secret, one founder, and its address."""
        secret = os.urandom(32).hex()
        founder = self.node("founder", CHORUS_CLUSTER_SECRET=secret, CHORUS_FOUND="1").start()
        address = founder.status()["addresses"][0]
        other = self.node("other", CHORUS_CLUSTER_SECRET=secret, CHORUS_BOOTSTRAP_PEERS=address).start()
        self.together(founder, other)
        self.assertEqual(other.status()["cluster_id"], founder.status()["cluster_id"])

    @threaded
    def test_wrong_secret_is_refused_and_members_go_on(self) -> None:
        founder = self.node("founder").start()
        member = self.joining(founder, "member").start()
        self.together(founder, member)
        stranger = self.node(
            "stranger",
            CHORUS_CLUSTER_SECRET=os.urandom(32).hex(),
            CHORUS_BOOTSTRAP_PEERS=founder.status()["addresses"][0],
        ).start()
        until("a refused admission", lambda: founder.refused("admission_wrong_proof"))
        self.assertEqual(stranger.peers(), [])
        self.assertIsNone(stranger.status()["cluster_id"])
        code, said = stranger.probe("/ready")
        self.assertEqual((code, said["failing"]), (503, ["peers"]))
        alone = until("the reason", lambda: stranger.status()["alone"].partition("not joined its cluster yet: ")[2])
        self.assertIn(founder.peer_id, alone)
        self.assertIsNone(founder.status()["alone"])
        self.assertEqual(stranger.probe("/health")[0], 503)
        self.assertEqual(stranger.probe("/healthz")[0], 200)
        self.together(founder, member)
        until("a healthy founder", lambda: founder.probe("/health")[1]["status"] == "healthy")

    @threaded
    def test_same_secret_but_another_cluster(self) -> None:
        """Clusters never merge, whoever knows both secrets."""
        secret = os.urandom(32).hex()
        one = self.node("one", CHORUS_CLUSTER_SECRET=secret, CHORUS_FOUND="1").start()
        other = self.node(
            "other",
            CHORUS_CLUSTER_SECRET=secret,
            CHORUS_FOUND="1",
            CHORUS_BOOTSTRAP_PEERS=one.status()["addresses"][0],
        ).start()
        until("a refused admission", lambda: one.refused("wrong_cluster") or other.refused("wrong_cluster"))
        self.assertEqual((one.peers(), other.peers()), ([], []))
        self.assertNotEqual(one.status()["cluster_id"], other.status()["cluster_id"])

    @threaded
    def test_a_secret_alone_waits_and_says_what_is_missing(self) -> None:
        node = self.node("node", CHORUS_CLUSTER_SECRET=os.urandom(32).hex()).start()
        self.assertIsNone(node.status()["cluster_id"], "it never founds")
        self.assertIn("nobody to join: set CHORUS_JOIN", node.status()["alone"])
        self.assertEqual(node.probe("/ready"), (503, {"status": "not ready", "failing": ["peers"]}))
        (line,) = [line for line in node.log.read_text().splitlines() if "cluster.nobody_to_join" in line]
        for variable in ("CHORUS_JOIN", "CHORUS_BOOTSTRAP_PEERS", "CHORUS_FOUND"):
            self.assertIn(variable, line)
