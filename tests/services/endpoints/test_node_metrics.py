from __future__ import annotations

from collections import Counter
from unittest import mock

from chorus.observe.metrics import Metrics
from chorus.services.endpoints.node_metrics import register
from chorus.services.p2p.admission import AdmissionService
from chorus.services.p2p.gate import OpenAdmission
from tests.services.endpoints.node_kit import node_parts, task_parts
from tests.support import PureTestCase

NETWORK = """chorus_dht_queries_total chorus_dht_query_seconds chorus_dht_records chorus_dht_routing_peers
chorus_peers_connected chorus_pubsub_events_total chorus_pubsub_messages_received_total
chorus_pubsub_messages_refused_total chorus_pubsub_messages_sent_total chorus_pubsub_messages_unknown_total"""
TASKS = """chorus_admissions_total chorus_blobs_bytes chorus_blobs_kept_total chorus_blobs_pushed_total
chorus_blobs_pushes_refused_total chorus_blobs_served_bytes_total chorus_decision_publish_seconds
chorus_decisions_pending chorus_decisions_safe_total
chorus_dht_cache_bytes chorus_dht_cache_hits_total chorus_dht_cache_misses_total chorus_dht_replicas_low
chorus_leases_lost_total
chorus_offers_declined_total chorus_recovery_seconds chorus_sandbox_containers_active chorus_sandbox_ended_total
chorus_sandbox_started_total chorus_task_duration_seconds chorus_tasks_active chorus_tasks_cancelled_total
chorus_tasks_completed_total chorus_tasks_failed_total chorus_tasks_reassigned_total chorus_tasks_submitted_total
chorus_tasks_unfinished"""
"""Names that dashboards and alarms depend on."""


class NodeMetricsTests(PureTestCase):
    def test_a_member(self) -> None:
        metrics = Metrics()
        admission = mock.Mock(AdmissionService, counters=Counter(admitted=2))
        register(metrics, node_parts(task_parts(coordinator=mock.Mock()), admission=admission))
        self.assertEqual([name for name, _, _ in metrics.names()], sorted(f"{NETWORK} {TASKS}".split()))

    def test_open_mode_has_neither_admissions_nor_tasks(self) -> None:
        metrics = Metrics()
        register(metrics, node_parts(admission=OpenAdmission()))
        self.assertEqual([name for name, _, _ in metrics.names()], sorted(NETWORK.split()))
