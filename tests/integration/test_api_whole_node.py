"""What a whole node says of itself over HTTP: peers, status, metrics, readiness."""

from __future__ import annotations

import os
import signal
from typing import Any

from twisted.internet.threads import deferToThread

from tests.integration.agents import until
from tests.integration.nodes import NodeCase, need_bubblewrap, threaded
from tests.integration.test_api_schemathesis import AT_A_NODE, MISSING, check_description

SPECIFIED = {
    "chorus_tasks_active",
    "chorus_tasks_completed_total",
    "chorus_tasks_failed_total",
    "chorus_task_duration_seconds_bucket",
    "chorus_task_duration_seconds_count",
    "chorus_task_duration_seconds_sum",
    "chorus_peers_connected",
    "chorus_pubsub_messages_sent_total",
    "chorus_pubsub_messages_received_total",
    "chorus_sandbox_containers_active",
    "chorus_recovery_seconds",
}
"""Names of spec/system.md 19 whose parts exist."""


class PresenceTest(NodeCase):
    @threaded
    def test_peers_show_what_they_announced(self) -> None:
        need_bubblewrap()
        founder = self.node("founder", CHORUS_SANDBOX="bubblewrap").start()
        other = self.joining(
            founder,
            "other",
            CHORUS_SANDBOX="bubblewrap",
            CHORUS_AGENT_ROLE="reviewer",
            CHORUS_AGENT_EXPERTISE="python,networking",
            CHORUS_AGENT_CAPABILITIES="gpu",
            CHORUS_AGENT_SPECIALIZATION="backend",
            CHORUS_AGENT_MAX_TASKS="1",
        ).start()
        until("everything announced", lambda: all(self.complete(peer) for peer in founder.peers()[:1] or [{}]))
        (peer,) = founder.peers()
        self.assertEqual(peer["peer_id"], other.peer_id)
        self.assertEqual((peer["agent_id"], peer["role"]), ("other", "reviewer"))
        self.assertEqual(
            peer["availability"], {"status": "ready", "available": True, "current_tasks": 0, "max_tasks": 1}
        )
        capabilities = peer["capabilities"]
        self.assertLessEqual({"python", "networking"}, set(capabilities["expertise"]))
        self.assertIn("gpu", capabilities["capabilities"])
        self.assertEqual(capabilities["specialization"], "backend")
        self.assertIn(peer["direction"], ("inbound", "outbound"))
        until("a measured latency", lambda: founder.peers()[0]["latency_ms"])
        (back,) = other.peers()
        self.assertNotEqual(back["direction"], founder.peers()[0]["direction"])

        # At capacity it says so to the others, and takes no new work.
        task = founder.submit(commands=["sleep 600"], required={"expertise": ["networking"]})
        until("the start of the task", lambda: founder.task(task)["state"] == "running")
        self.assertEqual(other.probe("/ready"), (503, {"status": "not ready", "failing": ["capacity"]}))
        code, health = other.probe("/health")
        self.assertEqual((code, health["status"]), (200, "degraded"), "full is not ill")
        until("the word that it is busy", lambda: founder.peers()[0]["availability"]["status"] == "busy")
        self.assertEqual(other.metrics()["chorus_tasks_active", ()], 1)
        self.assertEqual(other.metrics()["chorus_sandbox_containers_active", ()], 1)
        waiting = founder.submit(commands=["true"], required={"expertise": ["networking"]})
        until("the reason for waiting", lambda: "busy" in (founder.task(waiting)["detail"] or ""))

        with founder.request("DELETE", f"/v1/tasks/{task}") as answer:
            self.assertEqual(answer.status, 200, answer.read())
        self.assertEqual(founder.ended(waiting, 30)["state"], "completed")
        until("room again", lambda: other.probe("/ready")[0] == 200)
        until("the word that it is free", lambda: founder.peers()[0]["availability"]["status"] == "ready")

        # A member that has gone is gone from the list.
        other.signal(signal.SIGTERM)
        self.ends(other)
        until("its leaving", lambda: founder.peers() == [])

    @staticmethod
    def complete(peer: dict[str, Any]) -> bool:
        return bool(peer) and None not in (peer["role"], peer["availability"], peer["capabilities"])


class HealthTest(NodeCase):
    @threaded
    def test_metrics_and_probes_of_a_node_at_work(self) -> None:
        need_bubblewrap()
        node = self.node("node", CHORUS_SANDBOX="bubblewrap").start()
        for command, state in (("true", "completed"), ("exit 3", "failed")):
            self.assertEqual(node.ended(node.submit(commands=[command]))["state"], state)
        # prometheus_client's own parser reads it.
        metrics = node.metrics()
        self.assertEqual(SPECIFIED - {name for name, _ in metrics}, set())
        self.assertEqual(metrics["chorus_tasks_completed_total", ()], 1)
        self.assertEqual(metrics["chorus_tasks_failed_total", ("exit",)], 1)
        self.assertEqual(metrics["chorus_task_duration_seconds_count", ()], 2)
        self.assertEqual(metrics["chorus_tasks_active", ()], 0)
        for path, document in (
            ("/healthz", {"status": "alive"}),
            ("/ready", {"status": "ready", "failing": []}),
        ):
            self.assertEqual(node.probe(path), (200, document))
        code, health = node.probe("/health")
        self.assertEqual((code, health["status"]), (200, "healthy"))
        self.assertEqual(node.probe("/health/checks"), (200, {"checks": health["checks"]}))
        names = {check["name"] for check in health["checks"]}
        self.assertLessEqual({"p2p", "store", "pubsub", "peers", "coordinator", "api", "sandbox", "capacity"}, names)
        self.assertEqual(node.probe("/nothing")[0], 404)

    @threaded
    def test_a_machine_that_can_run_nothing(self) -> None:
        """No engine, no bubblewrap: a healthy member that is not ready, and says why."""
        nowhere = self.folder / "nowhere"
        nowhere.mkdir()
        node = self.node("node", PATH=str(nowhere), CHORUS_DOCKER_HOST=f"unix://{nowhere / 'docker.sock'}").start()
        self.assertEqual(node.probe("/ready"), (503, {"status": "not ready", "failing": ["sandbox"]}))
        code, health = node.probe("/health")
        self.assertEqual((code, health["status"]), (200, "degraded"))
        (detail,) = [check["detail"] for check in health["checks"] if check["name"] == "sandbox"]
        self.assertIn("bubblewrap", detail)
        self.assertFalse(node.status()["sandbox"]["usable"])
        task = node.submit(commands=["true"])
        until("the reason for waiting", lambda: node.task(task)["detail"])
        self.assertEqual(node.task(task)["state"], "submitted")
        self.assertTrue(os.path.exists(node.data / "ports.json"))
        self.assertTrue(os.path.exists(node.data / "seqno"))


class DescriptionTest(NodeCase):
    """The OpenAPI document is true of a whole node, which runs what schemathesis makes up."""

    timeout = 900
    skip = MISSING

    async def test_the_api_is_as_described(self) -> None:
        node = self.node("node", CHORUS_TASK_TIMEOUT_S="3", CHORUS_TASK_TIMEOUT_S_MAX="3")
        await deferToThread(node.start)
        await check_description(self, f"http://127.0.0.1:{node.ports['api']}", node.token, AT_A_NODE)
        status = await deferToThread(node.status)
        self.assertEqual(status["state"], "running")
        self.assertNotIn("Traceback", node.log.read_text())
